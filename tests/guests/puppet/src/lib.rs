//! A plugin that does what the options of a call say, also what no plugin should.
//!
//! `{"do": [act, ...]}`; the answer is the list of what each gave, or what `answer` says. What fails is a value
//! as well, `{"error": text}`, and the plugin goes on.

mod wasi;

use std::time::{Duration, Instant};

use serde::Deserialize;
use wfhost::plugin::{
    Call, Failure, FailureKind, Reply, Result, Usage, cancelled, chunk, heartbeat, http, line, transcript,
};
use wfhost::{Value, json};

#[derive(Deserialize, Clone, Default)]
struct Program {
    #[serde(default)]
    r#do: Vec<Act>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "snake_case")]
enum Act {
    /// The answer.
    Answer(Value),
    /// The answer is the call.
    Call,
    /// The acts of this attempt, of this turn; the last ones for all further ones.
    ByAttempt(Vec<Vec<Act>>),
    ByTurn(Vec<Vec<Act>>),
    Chunk(String),
    Line(String),
    Print(String),
    Transcript(Value),
    Heartbeat(Value),
    Usage {
        input: u64,
        output: u64,
        #[serde(default)]
        micros: u64,
    },
    Model(String),
    Session(String),
    Fetch(Fetch),
    /// So many requests beside each other.
    Many(u32, Fetch),
    Env,
    Read(String),
    Write(String, String),
    List(String),
    Sleep(u64),
    Spin,
    /// So many bytes.
    Allocate(usize),
    /// Holds so many resources.
    Hold(usize),
    /// A port of this machine.
    Connect(u16),
    Flood(usize),
    Panic(String),
    Exit(i32),
    /// Waits for its cancellation and tells it.
    Farewell(String),
    Fail {
        kind: String,
        message: String,
        #[serde(default)]
        auth: bool,
        retry_after: Option<u64>,
    },
}

#[derive(Deserialize, Clone)]
struct Fetch {
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    body: Option<String>,
    /// Only so many bytes of the body, in the pieces in which they come.
    pieces: Option<bool>,
    timeout: Option<u64>,
}

fn get() -> String {
    "GET".to_owned()
}

#[wfhost::agent]
fn puppet(call: Call) -> Result<Reply> {
    let program: Program = call.options_as()?;
    let mut reply = Reply::default();
    let mut results = Vec::new();
    let mut answer = None;
    let mut acts: Vec<Act> = program.r#do.into_iter().rev().collect();
    while let Some(act) = acts.pop() {
        match act {
            Act::Answer(value) => answer = Some(value),
            Act::Call => answer = Some(describe(&call)),
            Act::ByAttempt(ways) => acts.extend(way(ways, call.attempt as usize - 1)),
            Act::ByTurn(ways) => {
                let turn = call.key.rsplit('-').next().and_then(|turn| turn.parse().ok());
                acts.extend(way(ways, turn.unwrap_or(0)));
            }
            Act::Usage { input, output, micros } => {
                let usage = Usage {
                    input_tokens: input,
                    output_tokens: output,
                    cost_micros: micros,
                    ..Usage::default()
                };
                reply.usage = Some(usage);
            }
            Act::Model(model) => reply.model = Some(model),
            Act::Session(session) => reply.session = Some(session),
            Act::Fail { kind, message, auth, retry_after } => {
                let kind = match kind.as_str() {
                    "timed-out" => FailureKind::TimedOut,
                    "cancelled" => FailureKind::Cancelled,
                    "invalid-output" => FailureKind::InvalidOutput,
                    "unavailable" => FailureKind::Unavailable,
                    "rejected" => FailureKind::Rejected,
                    _ => FailureKind::Failed,
                };
                let mut failure = Failure::new(kind, message);
                (failure.auth, failure.retry_after_ms, failure.usage) = (auth, retry_after, reply.usage);
                return Err(failure);
            }
            act => results.push(perform(act).unwrap_or_else(|failure| json!({ "error": failure.message }))),
        }
    }
    reply.output = answer.unwrap_or(Value::Array(results));
    Ok(reply)
}

fn way(mut ways: Vec<Vec<Act>>, at: usize) -> Vec<Act> {
    let mut acts = ways.swap_remove(at.min(ways.len() - 1));
    acts.reverse();
    acts
}

fn describe(call: &Call) -> Value {
    let history: Vec<_> =
        call.history.iter().map(|exchange| json!([exchange.said, exchange.answered])).collect();
    json!({
        "message": call.message, "prompt": call.prompt, "input": call.input, "schema": call.schema,
        "model": call.model, "session": call.session, "history": history, "key": call.key, "run": call.run,
        "step": call.step, "attempt": call.attempt, "heartbeat": call.heartbeat,
    })
}

fn perform(act: Act) -> Result<Value> {
    Ok(match act {
        Act::Chunk(text) => {
            chunk(&text);
            Value::Null
        }
        Act::Line(text) => {
            line(text);
            Value::Null
        }
        Act::Print(text) => {
            println!("{text}");
            Value::Null
        }
        Act::Transcript(event) => {
            transcript(&event);
            Value::Null
        }
        Act::Heartbeat(at) => {
            heartbeat(&at);
            Value::Null
        }
        Act::Fetch(fetch) => fetched(&fetch)?,
        Act::Many(count, fetch) => {
            let all = (0..count)
                .map(|_| fetched(&fetch).unwrap_or_else(|failure| json!({ "error": failure.message })));
            all.collect()
        }
        Act::Env => std::env::vars().map(|(name, value)| (name, Value::from(value))).collect(),
        Act::Read(path) => std::fs::read_to_string(path)?.into(),
        Act::Write(path, text) => {
            std::fs::write(path, text)?;
            Value::Null
        }
        Act::List(path) => {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(path)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            json!(names)
        }
        Act::Sleep(millis) => {
            std::thread::sleep(Duration::from_millis(millis));
            Value::Null
        }
        Act::Spin => {
            let mut number = 1u64;
            while std::hint::black_box(number) != 0 {
                number = number.wrapping_mul(3) | 1;
            }
            json!(number)
        }
        Act::Allocate(bytes) => json!(std::hint::black_box(vec![1u8; bytes]).len()),
        Act::Hold(count) => {
            let held: Vec<_> = (0..count).map(|_| wasip2::http::types::Fields::new()).collect();
            json!(held.len())
        }
        Act::Connect(port) => connect(port)?,
        Act::Flood(count) => {
            (0..count).for_each(|_| line("x".repeat(10_000)));
            Value::Null
        }
        Act::Panic(message) => panic!("{message}"),
        Act::Exit(code) => std::process::exit(code),
        Act::Farewell(url) => {
            let begin = Instant::now();
            line("waits to be cancelled");
            while !cancelled() && begin.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(10));
            }
            http::get(url).send()?;
            Value::Null
        }
        _ => Value::Null,
    })
}

/// By `wasi:http`, or by the SDK, which has the interface of plugins.
fn fetched(fetch: &Fetch) -> Result<Value> {
    if std::env::var("VIA").is_ok_and(|via| via == "own") {
        return fetched_by_sdk(fetch);
    }
    let body = fetch.body.as_deref().map(str::as_bytes);
    let timeout = fetch.timeout.map(Duration::from_millis);
    let response = wasi::send(&fetch.method, &fetch.url, &fetch.headers, body, timeout)?;
    result(fetch, response.status, &response.headers, || response.chunk())
}

fn fetched_by_sdk(fetch: &Fetch) -> Result<Value> {
    let mut request = http::request(&fetch.method, &fetch.url);
    for (name, value) in &fetch.headers {
        request = request.header(name, value.as_bytes());
    }
    if let Some(body) = &fetch.body {
        request = request.body(body.as_bytes());
    }
    if let Some(millis) = fetch.timeout {
        request = request.timeout(Duration::from_millis(millis));
    }
    let mut response = request.send()?;
    let (status, headers) = (response.status(), response.headers().to_vec());
    result(fetch, status, &headers, || Ok(response.chunk()?))
}

/// What an answer is told as.
fn result(
    fetch: &Fetch,
    status: u16,
    headers: &[(String, Vec<u8>)],
    mut next: impl FnMut() -> Result<Option<Vec<u8>>>,
) -> Result<Value> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut pieces = Vec::new();
    while let Some(piece) = next()? {
        if fetch.pieces.is_some() {
            chunk(&text(&piece));
        }
        pieces.push(piece);
    }
    let body = match fetch.pieces {
        Some(_) => pieces.iter().map(|piece| json!(text(piece))).collect(),
        None => json!(text(&pieces.concat())),
    };
    let headers: Vec<_> = headers.iter().map(|(name, value)| json!([name, text(value)])).collect();
    Ok(json!({ "status": status, "headers": headers, "body": body }))
}

/// As a socket, past HTTP.
fn connect(port: u16) -> Result<Value> {
    use wasip2::sockets::instance_network::instance_network;
    use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
    use wasip2::sockets::tcp_create_socket::create_tcp_socket;

    let failed = |code: ErrorCode| Failure::failed(format!("{code:?}"));
    let socket = create_tcp_socket(IpAddressFamily::Ipv4).map_err(failed)?;
    let address = IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (127, 0, 0, 1) });
    socket.start_connect(&instance_network(), address).map_err(failed)?;
    loop {
        match socket.finish_connect() {
            Ok(_) => return Ok(json!("connected")),
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            Err(code) => return Err(failed(code)),
        }
    }
}
