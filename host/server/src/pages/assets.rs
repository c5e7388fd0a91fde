//! Files of pages. They are part of the binary; a debug build reads them anew, so that a change of one is
//! seen by loading the page.

use std::borrow::Cow;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use wfhost_core::Digest;

use super::kept;
use crate::app::App;
use crate::problem::Problem;

macro_rules! files {
    ($($name:literal: $kind:literal),* $(,)?) => {
        const FILES: &[(&str, &str, &[u8])] =
            &[$(($name, $kind, include_bytes!(concat!("../../static/", $name)))),*];
    };
}

files! {
    "wfhost.css": "text/css; charset=utf-8",
    "wfhost.js": "text/javascript; charset=utf-8",
    "gantt.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

pub(super) fn router() -> Router<App> {
    Router::new().route("/ui/static/{name}", get(file))
}

fn content(name: &str, embedded: &'static [u8]) -> Cow<'static, [u8]> {
    let fresh = cfg!(debug_assertions)
        .then(|| std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/static/").to_owned() + name).ok())
        .flatten();
    fresh.map_or(Cow::Borrowed(embedded), Cow::Owned)
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some((name, kind, embedded)) = FILES.iter().find(|(known, ..)| *known == name) else {
        return Problem::missing("the file does not exist").into_response();
    };
    let bytes = content(name, embedded);
    let tag = format!("\"{}\"", &Digest::of(&bytes).hex()[..16]);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    let head = [(header::CONTENT_TYPE, (*kind).to_owned()), (header::ETAG, tag)];
    ([kept()], head, bytes.into_owned()).into_response()
}

#[cfg(test)]
mod tests {
    use super::FILES;

    #[test]
    fn pages_are_light() {
        let bytes: usize = FILES.iter().map(|(.., bytes)| bytes.len()).sum();
        assert!(bytes < 100_000, "{bytes}");
    }
}
