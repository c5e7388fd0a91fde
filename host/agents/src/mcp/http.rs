//! A server at a URL: each message is posted, and answered with JSON or with a
//! stream of events.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;
use wfhost_core::FailureKind;

use super::{BEGIN, CALL, Heard, cancelled, hear, initialize, initialized, request, revision};
use crate::web::{self, Progress};
use crate::{CallFailure, CallOutput, SecretSource, farewell};

const SESSION: &str = "mcp-session-id";
/// How long a server may take to hear that a session is over.
const END_WITHIN: Duration = Duration::from_secs(2);
/// Sessions that are begun for one call at most: a server may forget one at any time.
const SESSIONS: u32 = 3;

/// A server, and how it is asked.
pub(super) struct Server {
    client: Client,
    url: String,
    headers: HeaderMap,
}

/// A session with a server. Dropping it cancels the call in flight, and ends
/// the session.
struct Session<'a> {
    server: &'a Server,
    headers: HeaderMap,
    is_asked: bool,
}

/// Why a request was not answered.
enum Unanswered {
    /// The server knows nothing of the session, and has not begun to carry out the request.
    Forgotten,
    Failed(CallFailure),
}

impl From<CallFailure> for Unanswered {
    fn from(failure: CallFailure) -> Self {
        Self::Failed(failure)
    }
}

impl Server {
    pub fn new(
        client: &Client,
        url: &str,
        key: Option<&SecretSource>,
        configured: &BTreeMap<String, String>,
    ) -> Result<Self, CallFailure> {
        let mut headers = HeaderMap::new();
        let rejected = |what: &str| {
            CallFailure::new(FailureKind::Rejected, format!("the header `{what}` cannot be sent"))
        };
        for (name, value) in configured {
            let header = HeaderName::try_from(name).map_err(|_| rejected(name))?;
            headers.insert(header, HeaderValue::from_str(value).map_err(|_| rejected(name))?);
        }
        if let Some(source) = key {
            let secret = source.read().map_err(|error| CallFailure::auth(error.to_string()))?;
            let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.expose())).map_err(|_| {
                CallFailure::auth(format!("{source} does not contain a key: it has line breaks"))
            })?;
            value.set_sensitive(true);
            headers.insert("authorization", value);
        }
        Ok(Self { client: client.clone(), url: url.to_owned(), headers })
    }

    /// Begins a session, calls the tool, and ends the session.
    pub async fn call(&self, tool: Value, out: &CallOutput) -> Result<Value, CallFailure> {
        for _ in 0..SESSIONS {
            let mut session = Session { server: self, headers: self.headers.clone(), is_asked: false };
            match session.call(&tool, out).await {
                Ok(result) => {
                    session.is_asked = false;
                    session.end().await;
                    return Ok(result);
                }
                // A new one is to be begun (2025-06-18, transports, session management).
                Err(Unanswered::Forgotten) => session.forget(),
                Err(Unanswered::Failed(failure)) => {
                    session.is_asked = false;
                    return Err(failure);
                }
            }
        }
        Err(web::unavailable("the server forgets each session immediately"))
    }

    async fn post(
        &self,
        headers: &HeaderMap,
        message: &Value,
        out: &CallOutput,
    ) -> Result<Response, Unanswered> {
        let post = self
            .client
            .post(&self.url)
            .headers(headers.clone())
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        let response = web::send_any(post.body(message.to_string()), out).await?;
        if response.status() == StatusCode::NOT_FOUND && headers.contains_key(SESSION) {
            return Err(Unanswered::Forgotten);
        }
        Ok(web::successful(response, out).await?)
    }
}

impl Session<'_> {
    async fn call(&mut self, tool: &Value, out: &CallOutput) -> Result<Value, Unanswered> {
        let begun = self.ask(BEGIN, initialize(), out).await.map_err(hinted)?;
        if let Ok(revision) = HeaderValue::from_str(&revision(&begun)?) {
            self.headers.insert("mcp-protocol-version", revision);
        }
        self.server.post(&self.headers, &initialized(), out).await?;
        self.is_asked = true;
        self.ask(CALL, request(CALL, "tools/call", tool.clone()), out).await
    }

    /// Sends a request and waits for its result. What the server asks
    /// meanwhile is answered at once: it may wait for that.
    async fn ask(&mut self, id: u32, message: Value, out: &CallOutput) -> Result<Value, Unanswered> {
        let response = self.server.post(&self.headers, &message, out).await?;
        if let Some(session) = response.headers().get(SESSION) {
            self.headers.insert(SESSION, session.clone());
        }
        if !web::is_event_stream(&response) {
            let text = web::read(response, out).await?;
            out.transcript(&text);
            return match hear(&web::json(&text)?, id, out)? {
                Heard::Result(value) => Ok(value),
                _ => Err(no_answer().into()),
            };
        }
        let mut result = None;
        let (answers, mut asked) = mpsc::unbounded_channel();
        let reading = web::events(response, out, |event| {
            // An event may be empty, to keep the connection open.
            if event.data.is_empty() {
                return Ok(Progress::More);
            }
            match hear(&web::json(&event.data)?, id, out)? {
                Heard::Result(value) => {
                    result = Some(value);
                    return Ok(Progress::Done);
                }
                // The receiver lives as long as this.
                Heard::Asked(answer) => drop(answers.send(answer)),
                Heard::Nothing => {}
            }
            Ok(Progress::More)
        });
        let answering = async {
            while let Some(answer) = asked.recv().await {
                self.server.post(&self.headers, &answer, out).await?;
            }
            std::future::pending::<Result<(), Unanswered>>().await
        };
        let ended = tokio::select! {
            // A result that has come is one, whatever else happens.
            biased;
            read = reading => read.map_err(Unanswered::from),
            failed = answering => failed,
        };
        match ended {
            Ok(()) => result.ok_or_else(|| no_answer().into()),
            // The tool has begun, and may have had its effect: who calls decides whether it is called again.
            Err(Unanswered::Forgotten) if id == CALL => {
                self.headers.remove(SESSION);
                Err(web::unavailable("the server forgot the session while the tool worked").into())
            }
            Err(unanswered) => Err(unanswered),
        }
    }

    /// The server knows nothing of it: there is nothing to end.
    fn forget(mut self) {
        self.is_asked = false;
        self.headers.remove(SESSION);
    }

    /// Tells the server that the session is over. It may refuse that, and
    /// forgets the session some time.
    async fn end(mut self) {
        if let Some(farewell) = self.farewell() {
            farewell.await;
        }
    }

    /// What is left to be told to the server.
    fn farewell(&mut self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let is_asked = std::mem::take(&mut self.is_asked);
        let headers = self.headers.clone();
        let has_session = self.headers.remove(SESSION).is_some();
        if !is_asked && !has_session {
            return None;
        }
        let (client, url) = (self.server.client.clone(), self.server.url.clone());
        Some(async move {
            if is_asked {
                let post =
                    client.post(&url).headers(headers.clone()).header("content-type", "application/json");
                let post = post.header("accept", "application/json, text/event-stream");
                let told = post.body(cancelled().to_string()).timeout(END_WITHIN).send();
                let _ = told.await;
            }
            if has_session {
                let _ = client.delete(&url).headers(headers).timeout(END_WITHIN).send().await;
            }
        })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Some(told) = self.farewell() {
            farewell(told);
        }
    }
}

fn no_answer() -> CallFailure {
    CallFailure::new(FailureKind::InvalidOutput, "the server did not answer the request")
}

/// A server that does not know the way a session begins.
fn hinted(unanswered: Unanswered) -> Unanswered {
    match unanswered {
        Unanswered::Failed(mut failure) => {
            let message = &mut failure.failure.message;
            if message.contains("answered 404") || message.contains("answered 405") {
                message.push_str(
                    "; it may support only the transport of 2024 (HTTP with SSE), which wfhost does not",
                );
            }
            Unanswered::Failed(failure)
        }
        other => other,
    }
}
