//! How a browser gets in: a code that works once, or a token, is exchanged for a cookie.
//!
//! Nothing happens by following a link, since programs follow links, too: the page has a button.

use askama::Template;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use wfhost::store::{Token, TokenKind};

use super::{Fault, Form, page, shown};
use crate::app::App;
use crate::auth::{Caller, Identity, check, cookie_name, made_with, mint_session};
use crate::problem::Problem;

/// How long a browser stays in.
const STAYS_MS: u64 = 7 * 24 * 3_600_000;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/", get(async || Redirect::to("/ui")))
        .route("/ui/login", get(show).post(login))
        .route("/ui/logout", post(logout))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    code: String,
    /// The page to go to.
    next: String,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    asked: Asked,
    error: Option<&'static str>,
}

/// The form. What it shows depends on nothing but the address.
async fn show(Query(asked): Query<Asked>) -> Result<Response, Fault> {
    page(&LoginPage { asked, error: None })
}

/// A page of this server, wherever the address says.
fn inside(next: &str) -> &str {
    let is_page = next == "/ui" || next.starts_with("/ui/") || next.starts_with("/ui?");
    if is_page && !next.contains(['\\', '\r', '\n']) { next } else { "/ui" }
}

/// Bytes of the form. Anybody can send one.
const LOGIN_BYTES: usize = 64 << 10;

async fn login(State(app): State<App>, Form(asked): Form<Asked, LOGIN_BYTES>) -> Result<Response, Fault> {
    let code = asked.code.trim();
    let refused = || {
        let error = Some("This token is invalid, was already used, or has expired.");
        let asked = Asked { code: String::new(), next: asked.next.clone() };
        shown(StatusCode::UNAUTHORIZED, &LoginPage { asked, error })
    };
    let token = match check(&app, code, TokenKind::Login).await? {
        // Of several who try, one gets in.
        Some(login) if app.store().delete_token(&login.id).await? => login,
        Some(_) => return refused(),
        None => match check(&app, code, TokenKind::Bearer).await? {
            Some(bearer) => bearer,
            None => return refused(),
        },
    };
    let until = app.store().now().after(STAYS_MS);
    let until =
        token.expires_at.filter(|_| token.kind == TokenKind::Bearer).map_or(until, |at| at.min(until));
    let minted = mint_session(&app, &token, until)?;
    app.store().put_token(minted.token.clone()).await?;
    let (who, target) = (Identity::of(&token, true), spelled(&minted.token));
    app.record(&who, "sessions.create", &target, &minted.token.scopes.join(" ")).await?;
    sweep(&app).await;
    let mut response = Redirect::to(inside(&asked.next)).into_response();
    let age = until.since(app.store().now()) / 1_000;
    set_cookie(&app, &mut response, &minted.text, age)?;
    Ok(response)
}

/// A session in the record of what was done.
fn spelled(session: &Token) -> String {
    format!("{} ({})", session.name, session.id)
}

/// Removes the sessions and codes whose time is over, and the sessions of tokens that were removed.
async fn sweep(app: &App) {
    let now = app.store().now();
    // What is left is removed the next time.
    let Ok(tokens) = app.store().tokens().await else { return };
    let is_there = |id: &str| tokens.iter().any(|token| token.id == id);
    let over = |token: &&Token| {
        let is_old = token.expires_at.is_some_and(|at| at <= now);
        token.kind != TokenKind::Bearer && (is_old || made_with(token).is_some_and(|id| !is_there(id)))
    };
    for token in tokens.iter().filter(over) {
        let _ = app.store().delete_token(&token.id).await;
    }
}

async fn logout(State(app): State<App>, Caller(caller): Caller) -> Result<Response, Problem> {
    if caller.by_cookie && app.store().delete_token(&caller.id).await? {
        app.record(&caller, "sessions.delete", &caller.spelled(), "removed").await?;
    }
    let mut response = Redirect::to("/ui/login").into_response();
    set_cookie(&app, &mut response, "", 0)?;
    Ok(response)
}

fn set_cookie(app: &App, response: &mut Response, value: &str, age: u64) -> Result<(), Problem> {
    let secure = if app.is_tls() { "; Secure" } else { "" };
    let name = cookie_name(app);
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}");
    let cookie = HeaderValue::from_str(&cookie).map_err(|_| Problem::internal("a cookie cannot be made"))?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::inside;

    #[test]
    fn nobody_is_led_elsewhere() {
        for page in ["/ui", "/ui?state=waiting", "/ui/runs/r"] {
            assert_eq!(inside(page), page);
        }
        for other in
            ["", "https://evil.example", "//evil.example", "/uix", "/\\evil", "/ui/\r\nX: y", "/api/v1/runs"]
        {
            assert_eq!(inside(other), "/ui");
        }
    }
}
