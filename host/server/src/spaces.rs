//! Several databases behind one address: a namespace is a database of its own, below `/ns/NAME`.
//!
//! Each has its own host, tokens, audit and streams, so no condition that somebody forgets in a query can
//! let one see another. What is below `/ns/NAME` does not know that it is: addresses in its answers are
//! put in their place on the way out.

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::problem::Problem;

/// What an address of a namespace begins with.
pub(crate) fn base(name: &str) -> String {
    format!("/ns/{name}")
}

/// Whether a namespace can be called so: it is a part of addresses and of names of cookies.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=40).contains(&name.len()) && name.bytes().all(fits)
}

/// Attributes that hold addresses of this server. No text of others can contain one: in it a quotation
/// mark is written as `&#34;` or `&quot;`.
const ATTRIBUTES: [&str; 6] =
    [" href=\"/", " src=\"/", " action=\"/", " formaction=\"/", " data-chart=\"/", " content=\"0; url=/"];

/// The same page with its addresses below the base.
fn rebased(html: &str, base: &str) -> String {
    let mut out = html.to_owned();
    for attribute in ATTRIBUTES {
        if let Some(start) = attribute.strip_suffix('/') {
            out = out.replace(attribute, &format!("{start}{base}/"));
        }
    }
    out
}

/// The largest page.
const PAGE_BYTES: usize = 64 << 20;

/// Puts the addresses of an answer below the base of its namespace.
pub(crate) async fn rebase(State(app): State<App>, request: Request, next: Next) -> Response {
    let base = app.base();
    let mut response = next.run(request).await;
    let place = response.headers().get(header::LOCATION).and_then(|place| place.to_str().ok());
    if let Some(place) = place.filter(|place| place.starts_with('/') && !place.starts_with("//"))
        && let Ok(place) = HeaderValue::from_str(&format!("{base}{place}"))
    {
        response.headers_mut().insert(header::LOCATION, place);
    }
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| kind.starts_with("text/html")) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, PAGE_BYTES).await else {
        return Problem::internal("the page is too large").into_response();
    };
    let html = rebased(&String::from_utf8_lossy(&bytes), base);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(html))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_pages_are_put_below_and_text_stays() {
        let html = r#"<a href="/ui">x</a><form method="post" action="/ui/act"><button formaction="/ui/deny"><script src="/ui/s.js">
<div data-chart="/ui/runs/r"><meta content="0; url=/ui/x"><a href="https://x/">y</a><input value="/ui/runs">
<p>he wrote href=&quot;/ui&quot; and /ui</p>"#;
        let expected = r#"<a href="/ns/t/ui">x</a><form method="post" action="/ns/t/ui/act"><button formaction="/ns/t/ui/deny"><script src="/ns/t/ui/s.js">
<div data-chart="/ns/t/ui/runs/r"><meta content="0; url=/ns/t/ui/x"><a href="https://x/">y</a><input value="/ui/runs">
<p>he wrote href=&quot;/ui&quot; and /ui</p>"#;
        assert_eq!(rebased(html, "/ns/t"), expected);
    }

    #[test]
    fn names_are_parts_of_addresses() {
        assert!(is_name("team-7") && is_name("a"));
        for bad in ["", "A", "a/b", "a b", "a.b", "ä", &"a".repeat(41)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
