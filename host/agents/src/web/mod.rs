//! What the providers that speak HTTP share: the client, errors by status,
//! bodies with a limit, event streams.

mod body;
mod sse;

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use wfhost_core::policy::retry::plausible_wish_ms;
use wfhost_core::{FailureKind, Timestamp};
use wfhost_world::clock;
use wfhost_world::text::causes_of_request;

pub(crate) use self::body::{Progress, events, read};
use super::{CallFailure, CallOutput};

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// Bytes of a refusal's body that are looked at.
const ERROR_BYTES: usize = 64 << 10;
/// Characters of an unknown refusal that are shown.
const ERROR_SHOWN: usize = 300;

/// An HTTP client that is made when it is first needed: finding the machine's
/// certificates takes a while, and a host whose runs ask nobody needs none.
#[derive(Debug, Default)]
pub(crate) struct LazyClient(OnceLock<Client>);

impl LazyClient {
    /// The client. `url` is what it is wanted for: without TLS it needs no certificates.
    pub fn get(&self, url: &str) -> Result<&Client, CallFailure> {
        if let Some(client) = self.0.get() {
            return Ok(client);
        }
        let client = client(url).map_err(|error| {
            unavailable(format!("connections cannot be made: {}", causes_of_request(&error)))
        })?;
        Ok(self.0.get_or_init(|| client))
    }
}

/// A client that follows no redirections: a key must not go elsewhere.
pub(crate) fn client(url: &str) -> Result<Client, reqwest::Error> {
    client_builder(url).build()
}

/// How clients begin that follow no redirections, for addresses like `url`: without TLS they need no certificates.
pub fn client_builder(url: &str) -> reqwest::ClientBuilder {
    // One provider of cryptography for the whole process; the first user has installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("wfhost/", env!("CARGO_PKG_VERSION")));
    match url.starts_with("http://") {
        true => builder.tls_certs_only([]),
        false => builder,
    }
}

pub(crate) fn unavailable(message: impl Into<String>) -> CallFailure {
    CallFailure::new(FailureKind::Unavailable, message)
}

/// Sends a request and waits for the head of the answer. Whatever is no
/// success is a failure.
pub(crate) async fn send(request: RequestBuilder, out: &CallOutput) -> Result<Response, CallFailure> {
    successful(send_any(request, out).await?, out).await
}

/// The same, whatever the status is.
pub(crate) async fn send_any(request: RequestBuilder, out: &CallOutput) -> Result<Response, CallFailure> {
    let response = request.send().await.map_err(|error| no_connection(&error))?;
    out.alive();
    Ok(response)
}

/// An answer whose status is a success.
pub(crate) async fn successful(response: Response, out: &CallOutput) -> Result<Response, CallFailure> {
    match response.status() {
        status if status.is_success() => Ok(response),
        _ => Err(refusal(response, out).await),
    }
}

fn no_connection(error: &reqwest::Error) -> CallFailure {
    if error.is_builder() {
        return CallFailure::new(
            FailureKind::Rejected,
            format!("the request cannot be made: {}", causes_of_request(error)),
        );
    }
    let what = if error.is_connect() { "cannot be reached" } else { "closed the connection" };
    unavailable(format!("the service {what}: {}", causes_of_request(error)))
}

/// What an answer that is no success means.
async fn refusal(response: Response, out: &CallOutput) -> CallFailure {
    let status = response.status();
    let after = retry_after_ms(response.headers());
    let text = body::read_lossy(response, ERROR_BYTES).await;
    if !text.is_empty() {
        out.transcript(&text);
    }
    by_status(status, after, &text)
}

fn by_status(status: StatusCode, retry_after_ms: Option<u64>, text: &str) -> CallFailure {
    let said = message_in(text);
    let message = match said.as_str() {
        "" => format!("the service answered {status}"),
        said => format!("the service answered {status}: {said}"),
    };
    let kind = match status.as_u16() {
        // An account without money is of no use until somebody pays.
        401..=403 => return CallFailure::auth(message),
        429 if text.contains("insufficient_quota") => return CallFailure::auth(message),
        408 => FailureKind::TimedOut,
        409 | 423 | 425 | 429 => FailureKind::Unavailable,
        300..=499 => FailureKind::Rejected,
        _ => FailureKind::Unavailable,
    };
    CallFailure { retry_after_ms, ..CallFailure::new(kind, message) }
}

/// The message within the body of a refusal: `error.message`, `error`,
/// `message`, `detail`, else the beginning of the text.
fn message_in(text: &str) -> String {
    if let Ok(body) = serde_json::from_str::<Value>(text) {
        let body = body.get(0).unwrap_or(&body);
        let places = ["/error/message", "/error", "/message", "/detail"];
        let found = places.iter().find_map(|place| body.pointer(place)?.as_str());
        if let Some(found) = found {
            return shorten(found);
        }
    }
    // A page for people says nothing.
    if text.trim_start().starts_with('<') { String::new() } else { shorten(text) }
}

/// One line of at most so many characters. It is cut between words: half a
/// secret would not be known as one.
pub(crate) fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(ERROR_SHOWN) {
        Some((end, _)) if line[end..].starts_with(' ') => format!("{}…", &line[..end]),
        Some((end, _)) => format!("{}…", line[..end].rfind(' ').map_or("", |space| &line[..space])),
        None => line,
    }
}

/// `retry-after` in seconds or as a date (RFC 9110, 10.2.3), or
/// `retry-after-ms`, which some services send beside it. None for what cannot be
/// meant, like a point in time where a number of seconds belongs.
fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let exact = text("retry-after-ms").and_then(|value| value.parse::<f64>().ok());
    let seconds = || text("retry-after")?.parse::<f64>().ok().map(|seconds| seconds * 1_000.0);
    let date = || {
        let at = jiff::fmt::rfc2822::parse(text("retry-after")?).ok()?.timestamp();
        let at = Timestamp(u64::try_from(at.as_millisecond()).unwrap_or(0));
        Some(at.since(clock::now()) as f64)
    };
    let millis = exact.or_else(seconds).or_else(date)?;
    if millis >= 0.0 { plausible_wish_ms(millis.ceil() as u64) } else { None }
}

/// Whether the body is a stream of server-sent events.
pub(crate) fn is_event_stream(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().starts_with("text/event-stream"))
}

/// JSON that a service sent.
pub(crate) fn json(text: &str) -> Result<Value, CallFailure> {
    serde_json::from_str(text).map_err(|error| {
        CallFailure::new(
            FailureKind::InvalidOutput,
            format!("the service answered with something that is not JSON ({error}): {}", shorten(text)),
        )
    })
}

/// Posts to an address of others than agents: a collector of traces, somebody who is told of events. Each
/// address has one of its own.
#[derive(Debug, Default)]
pub struct Poster(LazyClient);

/// What was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Posted {
    pub status: u16,
    /// It wants to be left alone for so long.
    pub retry_after_ms: Option<u64>,
    /// The beginning of what it says about a refusal, on one line.
    pub said: String,
    /// What it answered, only for [`Poster::post_and_hear`], and of what kind that is, as a media type without parameters.
    pub body: Vec<u8>,
    pub kind: Option<String>,
}

impl Poster {
    /// Posts JSON, and waits so long for the answer. No redirection is followed. An error is a connection
    /// that could not be had, or an answer that did not come.
    pub async fn post(
        &self,
        url: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Posted, String> {
        let json = "application/json";
        let (status, response) = self.send(url, json, headers, body, within).await?;
        let retry_after_ms = retry_after_ms(response.headers());
        let said = match status {
            200..=299 => String::new(),
            _ => message_in(&body::read_lossy(response, ERROR_BYTES).await),
        };
        Ok(Posted { status, retry_after_ms, said, body: Vec::new(), kind: None })
    }

    /// The same of a kind of content, and with the beginning of the answer, whatever it is.
    pub async fn post_and_hear(
        &self,
        url: &str,
        kind: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Posted, String> {
        let (status, response) = self.send(url, kind, headers, body, within).await?;
        let retry_after_ms = retry_after_ms(response.headers());
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).map(|kind| kind.trim().to_ascii_lowercase());
        let body = body::read_start(response, ERROR_BYTES).await;
        let said = match status {
            200..=299 => String::new(),
            _ => message_in(&String::from_utf8_lossy(&body)),
        };
        Ok(Posted { status, retry_after_ms, said, body, kind })
    }

    async fn send(
        &self,
        url: &str,
        kind: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
        within: Duration,
    ) -> Result<(u16, Response), String> {
        let client = self.0.get(url).map_err(|failure| failure.failure.message)?;
        let mut request = client.post(url).timeout(within).header(CONTENT_TYPE, kind).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.send().await.map_err(|error| causes_of_request(&error))?;
        Ok((response.status().as_u16(), response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(name: &'static str, value: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        retry_after_ms(&headers)
    }

    #[test]
    fn retry_after_is_understood_in_all_its_forms() {
        assert_eq!(after("retry-after", "7"), Some(7_000));
        assert_eq!(after("retry-after", "0.5"), Some(500));
        assert_eq!(after("retry-after-ms", "250"), Some(250));
        assert_eq!(after("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"), Some(0));
        // A day at most.
        assert_eq!(after("retry-after", "172800"), Some(86_400_000));
        assert_eq!(after("retry-after", "soon"), None);
        assert_eq!(after("retry-after", "-3"), None);
    }

    #[test]
    fn a_wish_of_more_than_a_week_is_a_mistake() {
        // Seconds or milliseconds since 1970, another unit, and no number at all.
        assert_eq!(after("retry-after", "1800000000"), None);
        assert_eq!(after("retry-after-ms", "1800000000000"), None);
        assert_eq!(after("retry-after", "864000"), None);
        assert_eq!(after("retry-after", "inf"), None);
        assert_eq!(after("retry-after", "NaN"), None);
        assert_eq!(after("retry-after", "Fri, 21 Oct 2095 07:28:00 GMT"), None);
    }

    #[test]
    fn a_status_says_what_to_do() {
        let of = |status: u16, text: &str| {
            let failure = by_status(StatusCode::from_u16(status).unwrap(), Some(5), text);
            (failure.failure.kind, failure.auth)
        };
        assert_eq!(of(401, ""), (FailureKind::Rejected, true));
        assert_eq!(of(403, ""), (FailureKind::Rejected, true));
        assert_eq!(of(429, ""), (FailureKind::Unavailable, false));
        assert_eq!(of(429, r#"{"error":{"code":"insufficient_quota"}}"#), (FailureKind::Rejected, true));
        assert_eq!(of(400, ""), (FailureKind::Rejected, false));
        assert_eq!(of(302, ""), (FailureKind::Rejected, false));
        assert_eq!(of(408, ""), (FailureKind::TimedOut, false));
        assert_eq!(of(500, ""), (FailureKind::Unavailable, false));
        assert_eq!(of(529, ""), (FailureKind::Unavailable, false));
    }

    #[test]
    fn the_message_of_a_refusal_is_found() {
        assert_eq!(message_in(r#"{"error":{"message":"too long"}}"#), "too long");
        assert_eq!(message_in(r#"{"error":"no model"}"#), "no model");
        assert_eq!(message_in(r#"[{"error":{"message":"in a list"}}]"#), "in a list");
        assert_eq!(message_in("plain\ntext"), "plain text");
        assert_eq!(message_in("<html>"), "");
    }
}
