//! How a browser gets in: a code that works once, or a token, is exchanged for a cookie.
//!
//! Nothing happens by following a link, since programs follow links, too: the page has a button.

use axum::Router;
use axum::extract::{Form, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use wfhost::clock;
use wfhost::store::{Token, TokenKind};

use crate::app::App;
use crate::auth::{Caller, Scope, Scopes, check, cookie_name, mint};
use crate::problem::Problem;

/// How long a browser stays in.
const STAYS_MS: u64 = 7 * 24 * 3_600_000;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/", get(async || Redirect::to("/ui")))
        .route("/ui/login", get(show).post(login))
        .route("/ui/logout", post(logout))
}

#[derive(Debug, Deserialize)]
struct Code {
    #[serde(default)]
    code: String,
}

/// The form. What it shows depends on nothing but the address.
async fn show(Query(Code { code }): Query<Code>) -> Html<String> {
    page(&code, None)
}

fn page(code: &str, error: Option<&str>) -> Html<String> {
    let field = match code.is_empty() {
        true => "<p><label>Token or code<br><input name=\"code\" type=\"password\" autocomplete=\"off\" autofocus \
                 required size=\"50\"></label></p>"
            .to_owned(),
        false => format!("<input name=\"code\" type=\"hidden\" value=\"{}\">", escaped(code)),
    };
    let error = error.map(|error| format!("<p role=\"alert\">{}</p>", escaped(error))).unwrap_or_default();
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\"><title>wfhost: log in</title>\
         <main><h1>wfhost</h1>{error}<form method=\"post\" action=\"/ui/login\">{field}<p><button>Log in</button></p>\
         </form><p>A new address to log in with: <code>wfhost token new NAME --browser</code></p></main></html>"
    ))
}

/// Text within HTML, attributes included.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

async fn login(State(app): State<App>, Form(Code { code }): Form<Code>) -> Result<Response, Problem> {
    let code = code.trim();
    let refused = || {
        let said = "This is no token, or it was used already, or its time is over.";
        (StatusCode::UNAUTHORIZED, page("", Some(said))).into_response()
    };
    let token = match check(&app, code, TokenKind::Login).await? {
        // Of several who try, one gets in.
        Some(login) if app.store().delete_token(&login.id).await? => login,
        Some(_) => return Ok(refused()),
        None => match check(&app, code, TokenKind::Bearer).await? {
            Some(bearer) => bearer,
            None => return Ok(refused()),
        },
    };
    let scopes: Scopes = token.scopes.iter().filter_map(|word| word.parse::<Scope>().ok()).collect();
    let until = clock::now().after(STAYS_MS);
    let until =
        token.expires_at.filter(|_| token.kind == TokenKind::Bearer).map_or(until, |at| at.min(until));
    let minted = mint(&format!("browser of {}", token.name), TokenKind::Session, scopes, Some(until))?;
    app.store().put_token(minted.token).await?;
    sweep(&app).await;
    let mut response = Redirect::to("/ui").into_response();
    let age = until.since(clock::now()) / 1_000;
    set_cookie(&app, &mut response, &minted.text, age)?;
    Ok(response)
}

/// Removes the sessions and codes whose time is over.
async fn sweep(app: &App) {
    let now = clock::now();
    // What is left is removed the next time.
    let Ok(tokens) = app.store().tokens().await else { return };
    let over =
        |token: &&Token| token.kind != TokenKind::Bearer && token.expires_at.is_some_and(|at| at <= now);
    for token in tokens.iter().filter(over) {
        let _ = app.store().delete_token(&token.id).await;
    }
}

async fn logout(State(app): State<App>, Caller(caller): Caller) -> Result<Response, Problem> {
    if caller.by_cookie {
        app.store().delete_token(&caller.id).await?;
    }
    let mut response = Redirect::to("/ui/login").into_response();
    set_cookie(&app, &mut response, "", 0)?;
    Ok(response)
}

fn set_cookie(app: &App, response: &mut Response, value: &str, age: u64) -> Result<(), Problem> {
    let secure = if app.is_tls() { "; Secure" } else { "" };
    let name = cookie_name(app);
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={age}{secure}");
    let cookie = HeaderValue::from_str(&cookie).map_err(|_| Problem::internal("a cookie cannot be made"))?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(())
}
