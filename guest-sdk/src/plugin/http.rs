//! HTTP, as far as the host's configuration grants it. Calls wait until they are done.
//!
//! ```no_run
//! # extern crate wfhost_sdk as wfhost;
//! # use wfhost::plugin::{Result, http};
//! # fn example() -> Result<()> {
//! let page = http::get("https://example.com/").send()?.successful()?.text()?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bindings::wfhost::plugin::http as host;
use super::{Failure, FailureKind};

/// Characters of an answer that a failure shows.
const SHOWN: usize = 300;

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// The host does not allow the request. Its progress tells people which line of configuration would.
    Denied(String),
    /// The request cannot be sent as it is.
    Invalid(String),
    /// Nobody answers, or the answer broke off.
    Broken(String),
}

impl Error {
    /// The kind of the failure that `?` makes of it.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Denied(_) | Self::Invalid(_) => FailureKind::Rejected,
            Self::Broken(_) => FailureKind::Unavailable,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) => write!(f, "the host denies the request: {text}"),
            Self::Invalid(text) => write!(f, "the request cannot be sent: {text}"),
            Self::Broken(text) => write!(f, "the service gives no answer: {text}"),
        }
    }
}

impl std::error::Error for Error {}

/// A request that is made.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
    timeout: Option<Duration>,
    error: Option<Error>,
}

/// A `GET` request.
pub fn get(url: impl Into<String>) -> Request {
    request("GET", url)
}

/// A `POST` request.
pub fn post(url: impl Into<String>) -> Request {
    request("POST", url)
}

/// A request by any method.
pub fn request(method: impl Into<String>, url: impl Into<String>) -> Request {
    Request {
        method: method.into(),
        url: url.into(),
        headers: Vec::new(),
        body: None,
        timeout: None,
        error: None,
    }
}

impl Request {
    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sets a JSON body, and the header for it.
    #[must_use]
    pub fn json(mut self, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => self.header("content-type", "application/json").body(body),
            Err(error) => {
                self.error = Some(Error::Invalid(error.to_string()));
                self
            }
        }
    }

    /// How long the head of the answer, and then each of its pieces, may take. The call has limits of its own.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it and waits for the head of the answer. Redirections are not followed.
    ///
    /// # Errors
    ///
    /// It is denied, or there is no answer. An answer of any status is none.
    pub fn send(self) -> Result<Response, Error> {
        let Self { method, url, headers, body, timeout, error } = self;
        if let Some(error) = error {
            return Err(error);
        }
        let timeout = timeout.map(|timeout| u64::try_from(timeout.as_millis().max(1)).unwrap_or(u64::MAX));
        let response = host::send(&host::Request { method, url, headers, body, timeout })?;
        Ok(Response { status: response.status(), headers: response.headers(), body: Some(response) })
    }
}

impl From<host::Error> for Error {
    fn from(error: host::Error) -> Self {
        match error {
            host::Error::Denied(text) => Self::Denied(text),
            host::Error::Invalid(text) => Self::Invalid(text),
            host::Error::Broken(text) => Self::Broken(text),
        }
    }
}

/// An answer. Its body is read when it is asked for.
#[derive(Debug)]
pub struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    /// Until the end of its body.
    body: Option<host::Response>,
}

impl Response {
    /// The status, like 200.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status is from 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header by its name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// All headers.
    pub fn headers(&self) -> &[(String, Vec<u8>)] {
        &self.headers
    }

    /// The next piece of the body as it comes; none at its end.
    ///
    /// # Errors
    ///
    /// It broke off, or is longer than the host allows.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        while let Some(body) = &self.body {
            match body.read() {
                Ok(Some(piece)) if piece.is_empty() => {}
                Ok(Some(piece)) => return Ok(Some(piece)),
                Ok(None) => self.body = None,
                Err(error) => {
                    self.body = None;
                    return Err(error.into());
                }
            }
        }
        Ok(None)
    }

    /// The whole body.
    ///
    /// # Errors
    ///
    /// It broke off, or is longer than the host allows.
    pub fn bytes(mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.chunk()? {
            bytes.extend(piece);
        }
        Ok(bytes)
    }

    /// The whole body as text.
    ///
    /// # Errors
    ///
    /// It broke off, is longer than the host allows, or is not UTF-8.
    pub fn text(self) -> Result<String, Error> {
        String::from_utf8(self.bytes()?).map_err(|error| Error::Broken(error.to_string()))
    }

    /// The whole body as JSON.
    ///
    /// # Errors
    ///
    /// It broke off, is longer than the host allows, or is no such JSON.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, Failure> {
        let bytes = self.bytes()?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let text = shorten(&String::from_utf8_lossy(&bytes));
            let message = format!("the service answered with something else than expected ({error}): {text}");
            Failure::new(FailureKind::InvalidOutput, message)
        })
    }

    /// This, if its status is a success.
    ///
    /// # Errors
    ///
    /// What another status means: 401 to 403 put the provider out, 429 and the like are tried again when the service
    /// says, other 4xx are `rejected`, the rest is tried again.
    pub fn successful(self) -> Result<Self, Failure> {
        if self.is_success() {
            return Ok(self);
        }
        let status = self.status;
        let after = self.header("retry-after").and_then(|after| after.trim().parse::<f64>().ok());
        let retry_after_ms =
            after.filter(|after| (0.0..1e9).contains(after)).map(|after| (after * 1e3) as u64);
        let text = self.text().map(|text| shorten(&text)).unwrap_or_default();
        let message = match text.as_str() {
            "" => format!("the service answered {status}"),
            text => format!("the service answered {status}: {text}"),
        };
        let kind = match status {
            401..=403 => return Err(Failure::auth(message)),
            408 => FailureKind::TimedOut,
            409 | 423 | 425 | 429 => FailureKind::Unavailable,
            300..=499 => FailureKind::Rejected,
            _ => FailureKind::Unavailable,
        };
        Err(Failure { retry_after_ms, ..Failure::new(kind, message) })
    }
}

/// One line of at most so many characters.
fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_shows_is_one_short_line() {
        assert_eq!(shorten("  why\n not "), "why not");
        assert_eq!(shorten(&"é".repeat(400)).chars().count(), SHOWN + 1);
    }

    #[test]
    fn a_request_that_cannot_be_written_is_not_sent() {
        let unwritable = std::collections::BTreeMap::from([((1, 2), "keys are text")]);
        let error = post("https://a.org/").json(&unwritable).send().unwrap_err();
        assert!(matches!(&error, Error::Invalid(_)) && error.kind() == FailureKind::Rejected, "{error}");
    }
}
