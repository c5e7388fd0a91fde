//! A client that sends exactly what a test wants, and a server to send it to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, eventually, finish, module};

/// A running `wfhost serve`.
pub struct Server {
    pub address: String,
    /// May do everything.
    pub token: String,
    child: Option<Child>,
    /// What it has written to stderr.
    said: Arc<Mutex<String>>,
    /// Reads that.
    listening: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one at a free port, and waits until it answers.
    pub fn start(place: &Place, more: &[&str]) -> Self {
        Self::start_in(place, more, &[])
    }

    /// The same, with environment variables.
    pub fn start_in(place: &Place, more: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = place.wfhost(["serve", "--listen", "127.0.0.1:0", "--agent", "echo"]);
        command.args(more).envs(variables.iter().copied());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let said = Arc::new(Mutex::new(String::new()));
        let (stderr, heard) = (child.stderr.take().expect("it is piped"), Arc::clone(&said));
        let listening = std::thread::spawn(move || {
            let mut lines = BufReader::new(stderr);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        let told = place.path(&format!("state/wfhost/servers/{}.json", child.id()));
        let told: Value = eventually("the server tells where it is", || {
            serde_json::from_str(&std::fs::read_to_string(&told).ok()?).ok()
        });
        let url = told["url"].as_str().expect("a URL");
        let address = url.split_once("://").expect("a URL").1.to_owned();
        let token = told["token"].as_str().expect("a token").to_owned();
        let server = Self { address, token, child: Some(child), said, listening: Some(listening) };
        eventually("the server answers", || {
            let asked = server.try_ask("GET", "/readyz", &[], b"");
            asked.ok().filter(|answer| answer.status == 200)
        });
        server
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// What it has written to stderr so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// A request that is sent as it stands.
    pub fn raw(&self, request: &[u8]) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(request)?;
        Answer::read(stream)
    }

    pub fn try_ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        self.raw(&[request(method, path, &self.address, headers, body).as_bytes(), body].concat())
    }

    /// A request of somebody with that token.
    #[track_caller]
    pub fn ask_as(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("Authorization", bearer.as_str())];
        if body.is_some() {
            headers.push(("Content-Type", "application/json"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        self.try_ask(method, path, &headers, body.as_bytes()).expect("an answer")
    }

    /// The same, of who may do everything.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.ask_as(&self.token, method, path, body)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.ask("GET", path, None).ok()
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", path, Some(body)).ok()
    }

    /// Opens a stream of events.
    pub fn stream(&self, token: &str, path: &str, last: Option<&str>) -> Events {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        // HTTP/1.0 has no chunks.
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: {}\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n{last}\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).expect("a head") > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        Events { lines }
    }

    /// What a browser sends from then on that logged in with this code.
    pub fn log_in(&self, code: &str) -> String {
        self.log_in_below("", code)
    }

    /// The same for a namespace, by what its addresses begin with.
    pub fn log_in_below(&self, base: &str, code: &str) -> String {
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let answer = self
            .try_ask("POST", &format!("{base}/ui/login"), &form, format!("code={code}").as_bytes())
            .expect("an answer");
        assert_eq!(answer.header("location"), Some(&*format!("{base}/ui")), "{}", answer.text());
        let cookie = answer.as_written.lines().find_map(|line| {
            line.to_ascii_lowercase()
                .starts_with("set-cookie: ")
                .then(|| line["set-cookie: ".len()..].to_owned())
        });
        let cookie = cookie.expect("a cookie");
        cookie.split(';').next().expect("a cookie").to_owned()
    }

    /// Kills it with SIGKILL.
    pub fn kill(mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let child = self.child.as_ref().expect("it runs");
        // One that has ended already is not there to be told.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(child), signal);
    }

    /// Whether it has come to its end.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().expect("it runs").try_wait().expect("a child").is_some()
    }

    /// Asks it to end.
    pub fn stop(self) -> Ran {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// Waits until it ends.
    pub fn wait(mut self) -> Ran {
        let Ran(output) = finish(self.child.take().expect("it runs"));
        self.listening.take().expect("it is heard").join().expect("it ends with the server");
        Ran(Output { stderr: self.said().into_bytes(), ..output })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn request(method: &str, path: &str, host: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str(&format!("Host: {host}\r\n"));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method != "GET" {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text + "\r\n"
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    /// The same as it was written.
    as_written: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn read(mut stream: impl Read) -> std::io::Result<Self> {
        let mut bytes = Vec::new();
        // A server that has said what it wants may reset the connection.
        if let Err(error) = stream.read_to_end(&mut bytes)
            && bytes.is_empty()
        {
            return Err(error);
        }
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.ok_or_else(|| std::io::Error::other("no answer"))?;
        let as_written = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let head = as_written.to_ascii_lowercase();
        let mut body = bytes[end + 4..].to_vec();
        if head.contains("transfer-encoding: chunked") {
            body = dechunked(&body);
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Self { status: status.ok_or_else(|| std::io::Error::other("no status"))?, head, as_written, body })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&prefix))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| json!({ "not json": self.text() }))
    }

    /// The answer, which has to be none of an error.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text());
        self.json()
    }

    /// The code of the error, which has to have this status, and a form that clients can rely on.
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text());
        let body = self.json();
        assert_eq!(body["status"], status, "{body}");
        assert!(body["title"].is_string() && body["hints"].is_array(), "{body}");
        body["code"].as_str().expect("a code").to_owned()
    }
}

fn dechunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(String::from_utf8_lossy(&body[..end]).trim(), 16).unwrap_or(0);
        let from = end + 2;
        let to = (from + length).min(body.len());
        whole.extend_from_slice(&body[from..to]);
        if length == 0 || to + 2 > body.len() {
            break;
        }
        body = &body[to + 2..];
    }
    whole
}

/// A stream of events.
pub struct Events {
    lines: BufReader<TcpStream>,
}

/// An event.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    pub id: String,
    pub event: String,
    pub data: Value,
}

impl Iterator for Events {
    type Item = Event;

    /// The next one; none if the server is gone.
    fn next(&mut self) -> Option<Event> {
        let (mut id, mut event, mut data) = (String::new(), String::new(), String::new());
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            let line = line.trim_end();
            match line.split_once(": ") {
                Some(("id", text)) => text.clone_into(&mut id),
                Some(("event", text)) => text.clone_into(&mut event),
                Some(("data", text)) => text.clone_into(&mut data),
                Some(_) => {}
                None if line.is_empty() && !event.is_empty() => {
                    return Some(Event { id, event, data: serde_json::from_str(&data).expect("JSON") });
                }
                None => {}
            }
        }
    }
}

/// Puts the probe into the database, as the workflow `probe`.
pub fn add_probe(place: &Place) -> String {
    let ran = place.run(["add", &module("probe")]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    ran.stdout().trim().to_owned()
}

/// What starts a run of the probe.
pub fn program(operations: &Value) -> Value {
    json!({ "workflow": "probe", "input": { "do": operations } })
}

/// A token with these scopes.
pub fn token(place: &Place, name: &str, scopes: &str) -> String {
    let ran = place.run(["token", "new", name, "--scope", scopes]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    ran.stdout().trim().to_owned()
}
