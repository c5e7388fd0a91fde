//! A server at a URL: each message is posted, and answered with JSON or with a
//! stream of events.

use std::collections::BTreeMap;

use reqwest::Client;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use wfhost_core::FailureKind;

use super::{Heard, PROTOCOL, hear, initialize, notification, request};
use crate::web::{self, Progress};
use crate::{CallFailure, CallOutput, SecretSource};

const SESSION: &str = "mcp-session-id";

/// A session with a server.
pub(super) struct Session<'a> {
    client: &'a Client,
    url: &'a str,
    headers: HeaderMap,
}

impl<'a> Session<'a> {
    pub fn new(
        client: &'a Client,
        url: &'a str,
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
            let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.expose()))
                .map_err(|_| CallFailure::auth(format!("{source} holds no key: it has line breaks")))?;
            value.set_sensitive(true);
            headers.insert("authorization", value);
        }
        Ok(Self { client, url, headers })
    }

    /// Begins the session, calls the tool, and ends the session.
    pub async fn call(mut self, tool: Value, out: &CallOutput) -> Result<Value, CallFailure> {
        let begun = self.ask(1, request(1, "initialize", initialize()), out).await?;
        let protocol = begun["protocolVersion"].as_str().unwrap_or(PROTOCOL);
        if let Ok(protocol) = HeaderValue::from_str(protocol) {
            self.headers.insert("mcp-protocol-version", protocol);
        }
        self.post(&notification("notifications/initialized"), out).await?;
        let result = self.ask(2, request(2, "tools/call", tool), out).await;
        if self.headers.contains_key(SESSION) {
            // A server may refuse that, and forgets the session some time.
            let _ = self.client.delete(self.url).headers(self.headers.clone()).send().await;
        }
        result
    }

    async fn post(&self, message: &Value, out: &CallOutput) -> Result<reqwest::Response, CallFailure> {
        let post = self
            .client
            .post(self.url)
            .headers(self.headers.clone())
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        web::send(post.body(message.to_string()), out).await
    }

    async fn ask(&mut self, id: u32, message: Value, out: &CallOutput) -> Result<Value, CallFailure> {
        let response = self.post(&message, out).await?;
        if let Some(session) = response.headers().get(SESSION) {
            self.headers.insert(SESSION, session.clone());
        }
        let mut result = None;
        let mut answers = Vec::new();
        if web::is_event_stream(&response) {
            web::events(response, out, |event| {
                match hear(&web::json(&event.data)?, id, out)? {
                    Heard::Result(value) => {
                        result = Some(value);
                        return Ok(Progress::Done);
                    }
                    Heard::Asked(answer) => answers.push(answer),
                    Heard::Nothing => {}
                }
                Ok(Progress::More)
            })
            .await?;
        } else {
            let text = web::read(response, out).await?;
            out.transcript(&text);
            if let Heard::Result(value) = hear(&web::json(&text)?, id, out)? {
                result = Some(value);
            }
        }
        for answer in answers {
            self.post(&answer, out).await?;
        }
        result.ok_or_else(|| {
            CallFailure::new(FailureKind::InvalidOutput, "the server did not answer the request")
        })
    }
}
