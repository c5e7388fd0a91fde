//! A server that speaks just enough HTTP, and whatever a test makes of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// Counted from 0.
    pub number: usize,
    pub line: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Value,
    pub at: Instant,
}

/// Where a request is answered.
pub struct Answer(TcpStream);

impl Answer {
    /// A whole answer with more header lines, each with its line end.
    pub fn with(mut self, status: &str, more: &str, body: &str) {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n");
        self.raw(&format!("{head}content-length: {length}\r\n{more}\r\n{body}"));
    }

    pub fn json(self, body: Value) {
        self.with("200 OK", "", &body.to_string());
    }

    /// Begins a stream of events, which ends when the answer is dropped.
    pub fn stream(&mut self) {
        self.raw("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n");
    }

    pub fn event(&mut self, data: &Value) {
        self.raw(&format!("data: {data}\n\n"));
    }

    /// Bytes as they are. Whoever is gone does not matter.
    pub fn raw(&mut self, text: &str) {
        let _ = self.0.write_all(text.as_bytes());
        let _ = self.0.flush();
    }
}

/// A server on this machine; it lives as long as the test's process.
pub struct Server {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Has `answer` answer each request in a thread of its own.
    pub fn start(answer: impl Fn(&Request, Answer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (known, answer) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (known, answer) = (Arc::clone(&known), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let Some(mut request) = read(&stream) else { return };
                    {
                        let mut known = known.lock().unwrap();
                        request.number = known.len();
                        known.push(request.clone());
                    }
                    answer(&request, Answer(stream));
                });
            }
        });
        Self { url, requests }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Some(Request { number: 0, line: line.trim_end().to_owned(), headers, body, at: Instant::now() })
}
