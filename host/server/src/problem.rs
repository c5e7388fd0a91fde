//! Errors of the API: `application/problem+json` (RFC 9457) with a code and hints.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use wfhost_view::{Exit, UserError};

use crate::auth::{Identity, Scope};

/// An answer that is an error.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    trouble: Box<UserError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// How it looks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProblemView {
    /// Explained by `wfhost explain CODE`.
    #[schema(example = "WF0501")]
    code: &'static str,
    /// Lines that say more.
    details: Vec<String>,
    /// How to fix it.
    hints: Vec<String>,
    #[schema(example = 404)]
    status: u16,
    /// What is wrong.
    title: String,
    r#type: String,
}

impl Problem {
    pub fn new(status: StatusCode, trouble: UserError) -> Self {
        Self { status, trouble: Box::new(trouble.bounded()), headers: Vec::new() }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    pub fn from_error(error: impl Into<UserError>) -> Self {
        error.into().into()
    }

    /// The same as who asks may see it.
    pub(crate) fn shown_to(self, who: &Identity) -> Self {
        match who.may(Scope::PayloadsRead) {
            true => self,
            false => Self { trouble: Box::new(self.trouble.without_payloads()), ..self },
        }
    }

    /// What the request says cannot be understood.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, UserError::usage("WF0812", message))
    }

    /// It is understood, and cannot be.
    pub fn unfit(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, UserError::usage("WF0812", message))
    }

    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, UserError::usage("WF0813", message))
    }

    pub(crate) fn too_large(what: &str, limit: usize) -> Self {
        let message = format!("{what} exceeds the limit of {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, UserError::usage("WF0003", message))
            .with(header::CONNECTION, "close")
    }

    pub(crate) fn too_slow() -> Self {
        let trouble = UserError::usage("WF0814", "the request was sent too slowly");
        Self::new(StatusCode::REQUEST_TIMEOUT, trouble).with(header::CONNECTION, "close")
    }

    pub(crate) fn busy(message: &str) -> Self {
        let trouble = UserError::host("WF0815", message).hint("try again in a few seconds");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, trouble).with(header::RETRY_AFTER, "2")
    }

    pub(crate) fn draining() -> Self {
        let trouble = UserError::host("WF0816", "the server is shutting down")
            .hint("use another server, or try again later");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, trouble)
            .with(header::RETRY_AFTER, "1")
            .with(header::CONNECTION, "close")
    }

    pub(crate) fn too_many_streams(limit: usize) -> Self {
        let message = format!("too many streams and waiting requests; the limit for a token is {limit}");
        let trouble =
            UserError::usage("WF0815", message).hint("close some of them, or use one stream of all runs");
        Self::new(StatusCode::TOO_MANY_REQUESTS, trouble).with(header::RETRY_AFTER, "5")
    }

    pub(crate) fn read_only() -> Self {
        let trouble = UserError::usage("WF0817", "this server is read-only")
            .hint("it was started with --read-only: use the command line, or another server");
        Self::new(StatusCode::FORBIDDEN, trouble)
    }

    pub(crate) fn internal(message: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, UserError::host("WF0818", message))
    }

    pub(crate) fn unauthorized(code: &'static str, message: &str) -> Self {
        let trouble = UserError::usage(code, message)
            .hint("`wfhost token new NAME` creates one; send it in the header `Authorization: Bearer TOKEN`");
        Self::new(StatusCode::UNAUTHORIZED, trouble).with(header::WWW_AUTHENTICATE, "Bearer realm=\"wfhost\"")
    }

    pub(crate) fn forbidden(code: &'static str, message: impl Into<String>, hint: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, UserError::usage(code, message).hint(hint))
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn error(&self) -> &UserError {
        &self.trouble
    }
}

/// The status of an error of the host.
fn status(trouble: &UserError) -> StatusCode {
    match trouble.code {
        "WF0110" | "WF0303" | "WF0501" | "WF0504" | "WF0507" | "WF0512" | "WF0513" | "WF0705" | "WF0850"
        | "WF0852" => StatusCode::NOT_FOUND,
        "WF0201" | "WF0301" | "WF0302" | "WF0305" | "WF0502" | "WF0503" | "WF0506" | "WF0514" | "WF0516"
        | "WF0519" => StatusCode::CONFLICT,
        "WF0002" => StatusCode::BAD_REQUEST,
        // What may pass.
        "WF0312" | "WF0313" | "WF0318" | "WF0319" | "WF0323" | "WF0333" | "WF0334" | "WF0410" => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ if trouble.exit == Exit::Usage => StatusCode::UNPROCESSABLE_ENTITY,
        // What the request names, and what is not available here.
        "WF0401" | "WF0403" | "WF0405" | "WF0406" | "WF0407" => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<UserError> for Problem {
    fn from(trouble: UserError) -> Self {
        Self::new(status(&trouble), trouble)
    }
}

impl From<wfhost::HostError> for Problem {
    fn from(error: wfhost::HostError) -> Self {
        Self::from_error(error)
    }
}

impl From<wfhost::store::StoreError> for Problem {
    fn from(error: wfhost::store::StoreError) -> Self {
        Self::from_error(error)
    }
}

impl From<wfhost::ForkError> for Problem {
    fn from(error: wfhost::ForkError) -> Self {
        Self::from_error(error)
    }
}

impl From<QueryRejection> for Problem {
    fn from(error: QueryRejection) -> Self {
        Self::bad(error.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(error: PathRejection) -> Self {
        Self::bad(error.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let UserError { code, message, details, hints, .. } = *self.trouble;
        let view = ProblemView {
            code,
            details,
            hints,
            status: self.status.as_u16(),
            title: message,
            r#type: format!("urn:wfhost:{code}"),
        };
        let body = serde_json::to_vec(&view).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

pub(crate) async fn no_route() -> Problem {
    let trouble = UserError::usage("WF0813", "unknown path")
        .hint("see /openapi.json for the API, and /ui for the web pages");
    Problem::new(StatusCode::NOT_FOUND, trouble)
}

pub(crate) async fn no_method() -> Problem {
    let trouble = UserError::usage("WF0813", "this path does not support the method")
        .hint("the header `Allow` lists the supported methods");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, trouble)
}
