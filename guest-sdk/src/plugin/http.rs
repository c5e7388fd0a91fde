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

use super::bindings::wasi::http::outgoing_handler::handle;
use super::bindings::wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, HeaderError, IncomingBody, Method, OutgoingBody,
    OutgoingRequest, RequestOptions, Scheme, http_error_code,
};
use super::bindings::wasi::io::streams::{InputStream, StreamError};
use super::{Failure, FailureKind};

/// Bytes that are read at once.
const PIECE: u64 = 64 << 10;
/// Bytes that are written at once.
const WRITTEN: usize = 4096;
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
        if let Some(error) = self.error {
            return Err(error);
        }
        let headers = Fields::new();
        for (name, value) in &self.headers {
            headers.append(name, value).map_err(|error| bad_header(name, error))?;
        }
        if let Some(body) = &self.body {
            headers
                .append("content-length", body.len().to_string().as_bytes())
                .map_err(|error| bad_header("content-length", error))?;
        }
        let request = OutgoingRequest::new(headers);
        let (scheme, authority, path) = split(&self.url)?;
        let invalid = |what: &str| Error::Invalid(format!("{what} of {} {}", self.method, self.url));
        request.set_method(&method(&self.method)).map_err(|()| invalid("the method"))?;
        request.set_scheme(Some(&scheme)).map_err(|()| invalid("the scheme"))?;
        request.set_authority(Some(authority)).map_err(|()| invalid("the host"))?;
        request.set_path_with_query(Some(path)).map_err(|()| invalid("the path"))?;
        let options = RequestOptions::new();
        if let Some(timeout) = self.timeout {
            let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            let set = options
                .set_connect_timeout(Some(nanos))
                .and_then(|()| options.set_first_byte_timeout(Some(nanos)))
                .and_then(|()| options.set_between_bytes_timeout(Some(nanos)));
            set.map_err(|()| invalid("the time limit"))?;
        }
        let outgoing = match &self.body {
            Some(_) => Some(request.body().map_err(|()| invalid("the body"))?),
            None => None,
        };
        let coming = handle(request, Some(options)).map_err(code)?;
        if let (Some(outgoing), Some(body)) = (outgoing, &self.body) {
            // If the other side does not take it all, its answer says why.
            if write(&outgoing, body).is_ok() {
                OutgoingBody::finish(outgoing, None).map_err(code)?;
            }
        }
        Response::of(coming)
    }
}

fn write(outgoing: &OutgoingBody, body: &[u8]) -> Result<(), StreamError> {
    let Ok(stream) = outgoing.write() else { return Err(StreamError::Closed) };
    for piece in body.chunks(WRITTEN) {
        stream.blocking_write_and_flush(piece)?;
    }
    Ok(())
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

/// The parts of a URL: nothing in them is changed.
fn split(url: &str) -> Result<(Scheme, &str, &str), Error> {
    let none = || Error::Invalid(format!("`{url}` is no URL: it is like https://example.com/path"));
    let (scheme, rest) = url.split_once("://").ok_or_else(none)?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        other => Scheme::Other(other.to_owned()),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.is_empty() {
        true => Err(none()),
        false => Ok((scheme, authority, if path.is_empty() { "/" } else { path })),
    }
}

fn bad_header(name: &str, error: HeaderError) -> Error {
    match error {
        HeaderError::Forbidden => Error::Denied(format!("the header `{name}` is set by the host")),
        _ => Error::Invalid(format!("the header `{name}`")),
    }
}

fn code(code: ErrorCode) -> Error {
    let text = format!("{code:?}").trim_start_matches("ErrorCode::").to_owned();
    match code {
        ErrorCode::HttpRequestDenied
        | ErrorCode::HttpRequestUriInvalid
        | ErrorCode::DestinationIpProhibited
        | ErrorCode::ConnectionLimitReached
        | ErrorCode::HttpResponseBodySize(_) => Error::Denied(text),
        ErrorCode::ConfigurationError
        | ErrorCode::HttpProtocolError
        | ErrorCode::HttpRequestMethodInvalid
        | ErrorCode::HttpRequestBodySize(_) => Error::Invalid(text),
        _ => Error::Broken(text),
    }
}

/// An answer. Its body is read when it is asked for.
#[derive(Debug)]
pub struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    // Dropped before what it is a part of.
    stream: Option<InputStream>,
    _body: Option<IncomingBody>,
}

impl Response {
    fn of(coming: FutureIncomingResponse) -> Result<Self, Error> {
        let response = loop {
            match coming.get() {
                Some(response) => break response,
                None => coming.subscribe().block(),
            }
        };
        let gone = |()| Error::Broken("it was taken twice".to_owned());
        let response = response.map_err(gone)?.map_err(code)?;
        let (status, headers) = (response.status(), response.headers().entries());
        let body = response.consume().map_err(gone)?;
        let stream = body.stream().map_err(gone)?;
        Ok(Self { status, headers, stream: Some(stream), _body: Some(body) })
    }

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
        let Some(stream) = &self.stream else { return Ok(None) };
        loop {
            match stream.blocking_read(PIECE) {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Ok(Some(piece)),
                Err(StreamError::Closed) => {
                    self.stream = None;
                    return Ok(None);
                }
                Err(StreamError::LastOperationFailed(error)) => {
                    let known = http_error_code(&error).map(code);
                    // Some hosts tell it in words only.
                    let said = error.to_debug_string();
                    self.stream = None;
                    return Err(known.unwrap_or_else(|| match said.contains("size exceeds limit") {
                        true => Error::Denied(said),
                        false => Error::Broken(said),
                    }));
                }
            }
        }
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
    fn a_url_is_divided_as_it_is() {
        let parts = |url: &'static str| split(url).map(|(_, authority, path)| (authority, path));
        assert_eq!(parts("https://a.org"), Ok(("a.org", "/")));
        assert_eq!(parts("http://a.org:80/b/../c?d=e#f"), Ok(("a.org:80", "/b/../c?d=e")));
        assert_eq!(parts("https://a.org?b"), Ok(("a.org", "?b")));
        assert_eq!(parts("https://u@a.org/"), Ok(("u@a.org", "/")));
        assert!(parts("a.org/b").is_err() && parts("https:///b").is_err());
    }
}
