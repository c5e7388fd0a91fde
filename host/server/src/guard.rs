//! What stands before everything that is answered: whom a request is addressed to, whether a page of
//! another site sent it, and what browsers may do with the answer.

use std::net::IpAddr;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::csrf::CsrfLayer;
use wfhost_view::UserError;

use crate::app::App;
use crate::auth::begins_with_token;
use crate::metrics;
use crate::problem::Problem;

/// Puts the guards around everything: what `app` answers, and what its namespaces do.
pub(crate) fn around(router: Router, app: &App, spaces: &[App]) -> Router {
    let refused = |_| {
        let hint =
            "a page of another site sent the request; programs must not send `Origin` or `Sec-Fetch-Site`";
        Problem::forbidden("WF0905", "the request comes from another site", hint).into_response()
    };
    let failed = |_| Problem::internal("the request could not be answered").into_response();
    let worth = SizeAbove::new(1_024).and(NotForContentType::new("text/event-stream"));
    router
        .layer(CompressionLayer::new().compress_when(worth))
        .layer(CatchPanicLayer::custom(failed))
        .layer(CsrfLayer::new().with_rejection_response(refused))
        .layer(from_fn_with_state(app.clone(), guard))
        .layer(from_fn_with_state(metrics::Counting::new(app, spaces), metrics::count))
}

/// What browsers may do with answers.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
         connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()"),
];

async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = match check(&app, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn check(app: &App, request: &Request) -> Result<(), Problem> {
    if *app.draining().borrow() && !tells_of_health(request.uri().path()) {
        return Err(Problem::draining());
    }
    if !app.is_unix() {
        check_host(app, request)?;
    }
    if has_token(request.uri()) {
        let trouble = UserError::usage("WF0906", "the URL contains a token").hint(
            "URLs are written to logs: remove it with `wfhost token rm`, and send another one in a header",
        );
        return Err(Problem::new(StatusCode::BAD_REQUEST, trouble));
    }
    Ok(())
}

/// Whether it is a path that balancers ask for, also of a namespace: it is answered until the end.
fn tells_of_health(path: &str) -> bool {
    let parts: Vec<_> = path.split('/').collect();
    matches!(parts[..], ["", "healthz" | "readyz"] | ["", "ns", _, "healthz" | "readyz"])
}

/// Names that lead to the machine itself wherever they are asked for.
const LOCAL: [&str; 1] = ["localhost"];

/// Refuses requests that are addressed to somebody else: a name of a foreign site that was made to
/// lead here ("DNS rebinding").
fn check_host(app: &App, request: &Request) -> Result<(), Problem> {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let named = named.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    let host = named.map(host_of).unwrap_or_default();
    let options = app.options();
    let is_ours = LOCAL.iter().any(|local| host.eq_ignore_ascii_case(local))
        || is_own_address(host)
        || options.hosts.iter().any(|known| host.eq_ignore_ascii_case(known))
        || options
            .public_url
            .as_deref()
            .and_then(host_of_url)
            .is_some_and(|own| host.eq_ignore_ascii_case(&own));
    if is_ours && request.headers().get_all(header::HOST).iter().count() <= 1 {
        return Ok(());
    }
    let trouble = UserError::usage("WF0904", format!("this server does not answer for the host `{host}`"))
        .hint("if the name is intended: `wfhost serve --allow-host NAME`, or --public-url");
    Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, trouble))
}

/// A numeric address cannot resolve to another host, so a request to one was meant for this machine.
fn is_own_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// The name in `name:port`, `[::1]:port`.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.find(']')) {
        Some(end) => &authority[..end + 2],
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn host_of_url(url: &str) -> Option<String> {
    url.parse::<Uri>().ok()?.host().map(str::to_owned)
}

/// Whether something in the query is a token. A code to log in with is one that works once.
fn has_token(uri: &Uri) -> bool {
    let pairs = uri.query().into_iter().flat_map(|query| query.split('&'));
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().any(|(name, value)| {
        matches!(name, "token" | "access_token" | "authorization")
            || begins_with_token(value) && name != "code"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_address_is_found() {
        for (text, host) in [
            ("localhost:7777", "localhost"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("evil.example", "evil.example"),
        ] {
            assert_eq!(host_of(text), host);
        }
        assert!(is_own_address("127.0.0.1") && is_own_address("[::1]") && is_own_address("10.0.0.7"));
        assert!(!is_own_address("127.0.0.1.nip.io") && !is_own_address("evil.example"));
        assert_eq!(host_of_url("https://wf.example.org/x").as_deref(), Some("wf.example.org"));
    }

    #[test]
    fn tokens_in_addresses_are_found() {
        let has = |query: &str| has_token(&format!("/api/v1/runs?{query}").parse().unwrap());
        let token = format!("wf_0123456789_{}", "a".repeat(43));
        assert!(has("token=x") && has("a=1&access_token=y") && has(&format!("x={token}")));
        assert!(!has("text=token") && !has(&format!("code={token}")) && !has(""));
        // Names of others may begin so.
        assert!(!has("workflow=wf_report") && !has("key=wf_order_17"));
    }
}
