//! A registry of our own: with tokens and the referrers interface, which Debian's does not have, and
//! with whatever a registry should not do.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wfhost_registry::Sha256;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The length that is claimed, if it is not that of the body; none without one.
    pub length: Option<Option<usize>>,
    /// Nothing comes behind the body for a while, and the connection stays.
    pub stalls: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), length: None, stalls: false }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Claims another length than the body has.
    pub fn claiming(mut self, length: usize) -> Self {
        self.length = Some(Some(length));
        self
    }

    /// Claims none: the end of the connection is the end of the body.
    pub fn endless(mut self) -> Self {
        self.length = Some(None);
        self
    }
}

/// What stands before the registry and may answer in its place.
type Rule = Box<dyn FnMut(&Request) -> Option<Reply> + Send>;

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    /// By repository and tag or digest.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    rule: Option<Rule>,
    log: Vec<String>,
    /// Name and password of who may come in, by token.
    login: Option<(String, String)>,
    /// Requests that each token is good for.
    uses: usize,
    tokens: HashMap<String, usize>,
    given: usize,
    /// What refers to a manifest is at a tag.
    no_referrers: bool,
    /// A manifest is replaced only if it is the one that the request names.
    conditional: bool,
    /// Requests to write a tag that wait for each other.
    together: Option<(Arc<Barrier>, usize)>,
}

/// A registry that runs.
pub struct Fake {
    pub host: String,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("localhost:{}", listener.local_addr().unwrap().port());
        let state = Arc::new(Mutex::new(State { uses: usize::MAX, ..State::default() }));
        let fake = Self { host: host.clone(), state: state.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, host) = (state.clone(), host.clone());
                std::thread::spawn(move || {
                    // Who leaves early is not answered.
                    let _ = serve(&state, &host, stream);
                });
            }
        });
        fake
    }

    /// Lets in by tokens only, each good for so many requests.
    pub fn with_login(self, user: &str, password: &str, uses: usize) -> Self {
        {
            let mut state = self.state.lock().unwrap();
            state.login = Some((user.to_owned(), password.to_owned()));
            state.uses = uses;
        }
        self
    }

    /// Has no list of what refers to a manifest. With `conditional` it heeds `If-Match` and `If-None-Match`.
    pub fn without_referrers(self, conditional: bool) -> Self {
        {
            let mut state = self.state.lock().unwrap();
            (state.no_referrers, state.conditional) = (true, conditional);
        }
        self
    }

    /// Has so many requests to write a tag of signatures wait for each other.
    pub fn writes_together(&self, requests: usize) {
        self.state.lock().unwrap().together = Some((Arc::new(Barrier::new(requests)), requests));
    }

    /// Has something answer before the registry does.
    pub fn rule(&self, rule: impl FnMut(&Request) -> Option<Reply> + Send + 'static) {
        self.state.lock().unwrap().rule = Some(Box::new(rule));
    }

    /// The requests so far, and forgets them.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    pub fn put_blob(&self, bytes: &[u8]) -> Sha256 {
        let digest = Sha256::of(bytes);
        self.state.lock().unwrap().blobs.insert(digest.to_string(), bytes.to_vec());
        digest
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        for version in [tag.to_owned(), Sha256::of(bytes).to_string()] {
            let content = (media_type.to_owned(), bytes.to_vec());
            state.manifests.insert((repository.to_owned(), version), content);
        }
    }

    pub fn remove(&self, repository: &str, version: &str) {
        self.state.lock().unwrap().manifests.remove(&(repository.to_owned(), version.to_owned()));
    }

    pub fn manifest(&self, repository: &str, version: &str) -> Option<Value> {
        let state = self.state.lock().unwrap();
        let (_, bytes) = state.manifests.get(&(repository.to_owned(), version.to_owned()))?;
        serde_json::from_slice(bytes).ok()
    }

    /// All tags and digests of a repository.
    pub fn versions(&self, repository: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state
            .manifests
            .keys()
            .filter(|(there, _)| there == repository)
            .map(|(_, version)| version.clone())
            .collect()
    }

    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().blobs.get(digest).cloned()
    }

    /// Puts other bytes in the place of a blob.
    pub fn replace_blob(&self, digest: &str, bytes: &[u8]) {
        self.state.lock().unwrap().blobs.insert(digest.to_owned(), bytes.to_vec());
    }
}

fn serve(state: &Mutex<State>, host: &str, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = read(&mut reader)? {
        let barrier = {
            let together = &mut state.lock().unwrap().together;
            let is_one = request.method == "PUT" && request.path.contains("/manifests/sha256-");
            together.as_mut().filter(|(_, left)| is_one && *left > 0).map(|(barrier, left)| {
                *left -= 1;
                barrier.clone()
            })
        };
        barrier.map(|barrier| barrier.wait());
        let reply = {
            let mut state = state.lock().unwrap();
            state.log.push(format!("{} {}", request.method, request.path));
            let ruled = state.rule.as_mut().and_then(|rule| rule(&request));
            ruled.unwrap_or_else(|| answer(&mut state, host, &request))
        };
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let length = reply.length.unwrap_or(Some(reply.body.len()));
        if let Some(length) = length {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        let ends = reply.length.is_some();
        if ends {
            head.push_str("connection: close\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if request.method != "HEAD" {
            stream.write_all(&reply.body)?;
        }
        stream.flush()?;
        if reply.stalls {
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        if ends {
            return stream.shutdown(std::net::Shutdown::Both);
        }
    }
    Ok(())
}

fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut parts = line.split_whitespace();
    let (method, target) = (parts.next().unwrap_or("").to_owned(), parts.next().unwrap_or("").to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0usize);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body }))
}

/// What a registry answers that does nothing wrong.
fn answer(state: &mut State, host: &str, request: &Request) -> Reply {
    if request.path == "/token" {
        return token(state, request);
    }
    if state.login.is_some() {
        let bearer = request.headers.get("authorization").and_then(|text| text.strip_prefix("Bearer "));
        let left = bearer.and_then(|token| state.tokens.get_mut(token)).filter(|left| **left > 0);
        match left {
            Some(left) => *left -= 1,
            None => {
                let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"fake\",scope=\"x\"");
                return refusal(401, "UNAUTHORIZED").with("www-authenticate", challenge);
            }
        }
    }
    let Some(path) = request.path.strip_prefix("/v2/") else { return Reply::new(404, "") };
    if path.is_empty() {
        return Reply::new(200, "{}");
    }
    let parts: Vec<&str> = path.rsplitn(3, '/').collect();
    let method = request.method.as_str();
    match (method, parts.as_slice()) {
        ("POST", ["", "uploads", repository]) => Reply::new(202, "")
            .with("location", format!("/v2/{}/uploads/1?state=x", repository.trim_end_matches("/blobs"))),
        ("PUT", [_, "uploads", _]) => {
            let digest = request.query.split('&').find_map(|pair| pair.strip_prefix("digest="));
            let digest = digest.unwrap_or("").replace("%3A", ":");
            if Sha256::of(&request.body).to_string() != digest {
                return refusal(400, "DIGEST_INVALID");
            }
            state.blobs.insert(digest, request.body.clone());
            Reply::new(201, "")
        }
        ("GET" | "HEAD", [digest, "blobs", _]) => match state.blobs.get(*digest) {
            Some(bytes) => Reply::new(200, bytes.clone()).with("content-type", "application/octet-stream"),
            None => refusal(404, "BLOB_UNKNOWN"),
        },
        ("GET" | "HEAD", [version, "manifests", repository]) => {
            match state.manifests.get(&((*repository).to_owned(), (*version).to_owned())) {
                Some((media_type, bytes)) => Reply::new(200, bytes.clone())
                    .with("content-type", media_type)
                    .with("docker-content-digest", Sha256::of(bytes).to_string())
                    .with("etag", etag(bytes)),
                None => refusal(404, "MANIFEST_UNKNOWN"),
            }
        }
        ("PUT", [version, "manifests", repository]) => {
            let media_type = request.headers.get("content-type").cloned().unwrap_or_default();
            let digest = Sha256::of(&request.body).to_string();
            let there = state.manifests.get(&((*repository).to_owned(), (*version).to_owned()));
            let there = there.map(|(_, bytes)| etag(bytes));
            let wants = |name: &str| request.headers.get(name);
            let is_other = wants("if-match").is_some_and(|wanted| Some(wanted) != there.as_ref());
            if state.conditional && (is_other || wants("if-none-match").is_some() && there.is_some()) {
                return refusal(412, "PRECONDITION_FAILED");
            }
            for version in [(*version).to_owned(), digest.clone()] {
                let content = (media_type.clone(), request.body.clone());
                state.manifests.insert(((*repository).to_owned(), version), content);
            }
            let manifest: Value = serde_json::from_slice(&request.body).unwrap();
            let reply = Reply::new(201, "").with("docker-content-digest", digest);
            match manifest["subject"]["digest"].as_str() {
                Some(subject) if !state.no_referrers => reply.with("oci-subject", subject),
                _ => reply,
            }
        }
        ("GET", [_, "referrers", _]) if state.no_referrers => refusal(404, "UNSUPPORTED"),
        ("GET", [digest, "referrers", repository]) => {
            let mut found = BTreeMap::new();
            for ((there, _), (media_type, bytes)) in &state.manifests {
                let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
                if there == repository && manifest["subject"]["digest"] == *digest {
                    let of = Sha256::of(bytes).to_string();
                    let descriptor = json!({
                        "mediaType": media_type, "digest": of, "size": bytes.len(),
                        "artifactType": manifest["artifactType"], "annotations": manifest["annotations"],
                    });
                    found.insert(of, descriptor);
                }
            }
            let manifests: Vec<_> = found.into_values().collect();
            let index = json!({
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
            });
            Reply::new(200, index.to_string()).with("content-type", "application/vnd.oci.image.index.v1+json")
        }
        ("GET", ["list", "tags", repository]) => {
            let tags =
                state.manifests.keys().filter(|(there, tag)| there == repository && !tag.contains(':'));
            let tags: Vec<_> = tags.map(|(_, tag)| tag).collect();
            Reply::new(200, json!({ "name": repository, "tags": tags }).to_string())
        }
        _ => refusal(404, "UNSUPPORTED"),
    }
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", Sha256::of(bytes))
}

fn token(state: &mut State, request: &Request) -> Reply {
    let (user, password) = state.login.clone().unwrap_or_default();
    let expected = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    if request.headers.get("authorization") != Some(&expected) {
        return refusal(401, "wrong name or password");
    }
    state.given += 1;
    let token = format!("token-{}", state.given);
    let uses = state.uses;
    state.tokens.insert(token.clone(), uses);
    Reply::new(200, json!({ "token": token, "expires_in": 300 }).to_string())
}

pub fn refusal(status: u16, code: &str) -> Reply {
    Reply::new(
        status,
        json!({ "errors": [{ "code": code, "message": format!("it is {code}") }] }).to_string(),
    )
}
