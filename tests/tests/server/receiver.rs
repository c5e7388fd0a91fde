//! A real HTTP server that takes what it is sent: for webhooks, and as a collector of traces.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Got {
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// What was answered.
    pub status: u16,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", self.headers))
    }
}

/// What it answers: a status, and further lines of the head.
type Answer = (u16, &'static str);

#[derive(Default)]
struct State {
    got: Vec<Got>,
    /// The next answers; 200 when there are no more.
    answers: VecDeque<Answer>,
    /// What it answers whatever else is said.
    always: Option<Answer>,
    /// Texts of requests that it never takes, and what it answers to them.
    refused: Vec<(String, Answer)>,
}

pub struct Receiver {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    pub fn start() -> Self {
        Self::at("127.0.0.1:0")
    }

    /// At an address that may have been another one's before.
    pub fn at(address: &str) -> Self {
        let listener = wfhost_tests::eventually("the address is free", || TcpListener::bind(address).ok());
        let url = format!("http://{}", listener.local_addr().expect("it has an address"));
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || take(stream, &shared));
            }
        });
        Self { url, state }
    }

    /// What it answers to the next requests.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state.lock().unwrap().answers.extend(answers);
    }

    /// What it answers to all, until that is none.
    pub fn always(&self, answer: Option<Answer>) {
        self.state.lock().unwrap().always = answer;
    }

    /// What it answers to all with that text.
    pub fn refuse(&self, text: &str, answer: Answer) {
        self.state.lock().unwrap().refused.push((text.to_owned(), answer));
    }

    /// Forgets all that came up to now.
    pub fn forget(&self) {
        self.state.lock().unwrap().got.clear();
    }

    /// All that came, in order.
    pub fn got(&self) -> Vec<Got> {
        self.state.lock().unwrap().got.clone()
    }
}

/// Takes the requests of a connection.
fn take(mut stream: TcpStream, state: &Mutex<State>) {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            match stream.read(&mut buffer) {
                Ok(read @ 1..) => bytes.extend_from_slice(&buffer[..read]),
                _ => return,
            }
        };
        let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
        let mut lines = text.lines();
        let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length: usize = headers.get("content-length").map_or(0, |text| text.parse().expect("a number"));
        while bytes.len() < head + 4 + length {
            match stream.read(&mut buffer) {
                Ok(read @ 1..) => bytes.extend_from_slice(&buffer[..read]),
                _ => return,
            }
        }
        let body = String::from_utf8_lossy(&bytes[head + 4..head + 4 + length]).into_owned();
        bytes.drain(..head + 4 + length);
        let (status, more) = {
            let mut state = state.lock().unwrap();
            let refused =
                state.refused.iter().find(|(text, _)| body.contains(text)).map(|(_, answer)| *answer);
            let next = state.answers.pop_front();
            let answer = refused.or(state.always).or(next).unwrap_or((200, ""));
            state.got.push(Got { path, headers, body, status: answer.0 });
            answer
        };
        let said = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n{more}\r\nno");
        if stream.write_all(said.as_bytes()).is_err() {
            return;
        }
    }
}
