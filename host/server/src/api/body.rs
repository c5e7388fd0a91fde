//! What clients send: bounded in size and in time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Form, FromRequest, Request};
use axum::http::header;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use wfhost::world::text::excerpt;
use wfhost_core::{Json, limits};
use wfhost_view::UserError;

use crate::app::App;
use crate::problem::Problem;

/// How long the next part of a body may take to come.
const PART: Duration = Duration::from_secs(15);
/// How long a body may take to come in all.
const WHOLE: Duration = Duration::from_secs(300);
/// Bytes of a request in JSON: an input, and what stands around it.
const JSON_BYTES: usize = limits::INPUT_BYTES + (64 << 10);
/// Bytes of a module.
pub(super) const MODULE_BYTES: usize = 64 << 20;

/// Reads a body that is not larger than `limit`.
pub(crate) async fn read(request: Request, what: &str, limit: usize) -> Result<Vec<u8>, Problem> {
    let told = request.headers().get(header::CONTENT_LENGTH);
    let told = told.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|told| told > limit as u64) {
        return Err(Problem::too_large(what, limit));
    }
    let mut body: Body = request.into_body();
    let mut bytes = Vec::with_capacity(told.unwrap_or(0).min(1 << 20) as usize);
    let reading = async {
        loop {
            let part = tokio::time::timeout(PART, body.frame()).await.map_err(|_| Problem::too_slow())?;
            let Some(part) = part else { return Ok(()) };
            let part = part.map_err(|_| Problem::bad("the body is incomplete"))?;
            if let Ok(data) = part.into_data() {
                if bytes.len() + data.len() > limit {
                    return Err(Problem::too_large(what, limit));
                }
                bytes.extend_from_slice(&data);
            }
        }
    };
    tokio::time::timeout(WHOLE, reading).await.map_err(|_| Problem::too_slow())??;
    Ok(bytes)
}

/// Reads the form of a page, as large as `limit` at most.
pub(crate) async fn read_form<T: DeserializeOwned>(request: Request, limit: usize) -> Result<T, Problem> {
    let (parts, body) = request.into_parts();
    let mut request = Request::from_parts(parts, Body::empty());
    // Extractors have a limit of their own, and no patience: here both are those of all bodies.
    DefaultBodyLimit::disable().apply(&mut request);
    let (parts, _) = request.into_parts();
    let sized = Request::from_parts(parts.clone(), body);
    let bytes = read(sized, "the form", limit).await?;
    let read = Form::from_request(Request::from_parts(parts, Body::from(bytes)), &()).await;
    let unfit = |error: axum::extract::rejection::FormRejection| {
        Problem::new(error.status(), UserError::usage("WF0812", excerpt(&error.body_text()).to_string()))
    };
    read.map(|Form(filled)| filled).map_err(unfit)
}

fn text(bytes: Vec<u8>) -> Result<String, Problem> {
    String::from_utf8(bytes).map_err(|_| Problem::bad("the body is not UTF-8"))
}

/// Refuses a body that says that it is something else. One that says nothing is taken for JSON.
fn check_json(request: &Request) -> Result<(), Problem> {
    let Some(kind) = request.headers().get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match kind.is_empty() || kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json") {
        true => Ok(()),
        false => {
            Err(Problem::bad(format!("the body is `{}`, but has to be `application/json`", excerpt(kind))))
        }
    }
}

/// A body in JSON, as `T`; an empty one is that of `{}`.
#[derive(Debug)]
pub(crate) struct Sent<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Sent<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &App) -> Result<Self, Problem> {
        check_json(&request)?;
        let mut text = text(read(request, "the request", JSON_BYTES).await?)?;
        if text.trim().is_empty() {
            "{}".clone_into(&mut text);
        }
        serde_json::from_str(&text).map(Self).map_err(|error| {
            let kind = match error.classify() {
                serde_json::error::Category::Data => Problem::unfit,
                _ => |text: String| Problem::from(UserError::usage("WF0002", text)),
            };
            kind(format!("invalid request: {}", excerpt(&error.to_string())))
        })
    }
}

/// A body that is JSON of its own, like the payload of a signal; an empty one is `null`.
#[derive(Debug)]
pub(crate) struct Payload(pub Json);

impl FromRequest<App> for Payload {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &App) -> Result<Self, Problem> {
        check_json(&request)?;
        let text = text(read(request, "the payload", limits::SIGNAL_BYTES).await?)?;
        if text.trim().is_empty() {
            return Ok(Self(Json::null()));
        }
        let bad = |error: serde_json::Error| UserError::bad_json("the payload", &text, &error);
        Json::parse(text.clone()).map(Self).map_err(|error| Problem::from(bad(error)))
    }
}

/// The bytes of a module.
#[derive(Debug)]
pub(crate) struct Bytes(pub Vec<u8>);

impl FromRequest<App> for Bytes {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &App) -> Result<Self, Problem> {
        read(request, "the module", MODULE_BYTES).await.map(Self)
    }
}
