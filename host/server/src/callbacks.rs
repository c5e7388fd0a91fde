//! Callback URLs: a client that has one can send one signal, answer one question, or start runs of one
//! workflow, and nothing else.
//!
//! An address is `/c/TOKEN`; its token says what it is for, and ends with a MAC under a secret of the
//! database, so that nobody can make one up, also not who reads journals. Nothing is kept of an address
//! before it is used. Looking at one does nothing; only a POST acts.

use axum::Router;
use axum::extract::{FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use wfhost::StartOptions;
use wfhost::clock;
use wfhost::store::{MessageBody, Posted, Used};
use wfhost_core::{Digest, Json, RunConfig, RunId, Step, Timestamp};
use wfhost_view::Trouble;

use crate::api::{Payload, View};
use crate::app::App;
use crate::auth::{Identity, Scopes};
use crate::problem::Problem;

/// What is kept of an address that came too late: no JSON.
const NEVER: &[u8] = b"never";
/// Bytes of the MAC.
const MAC: usize = 20;

pub(crate) fn router() -> Router<App> {
    Router::new().route("/c/{token}", get(show).post(act))
}

/// What an address is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Purpose {
    /// Sends the run this signal, once.
    Signal { run: String, name: String, nonce: String },
    /// Answers the question at that step, once.
    Answer { run: String, step: u64 },
    /// Starts a run of the workflow with each thing that comes; the same thing twice starts one.
    Start { workflow: String, nonce: String },
}

/// What a token says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Said {
    #[serde(rename = "p")]
    purpose: Purpose,
    /// When it ends, in milliseconds.
    #[serde(rename = "e", skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
}

fn mac(secret: &[u8; 32], text: &str) -> [u8; MAC] {
    let key = blake3::derive_key("wfhost callback addresses 1", secret);
    let mac = blake3::keyed_hash(&key, text.as_bytes());
    let mut short = [0; MAC];
    short.copy_from_slice(&mac.as_bytes()[..MAC]);
    short
}

/// The token for a purpose.
pub(crate) fn token(secret: &[u8; 32], purpose: Purpose, expires_at: Option<Timestamp>) -> String {
    let said = Said { purpose, expires_at: expires_at.map(|at| at.0) };
    let text = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&said).unwrap_or_default());
    let mac = URL_SAFE_NO_PAD.encode(mac(secret, &text));
    format!("{text}.{mac}")
}

/// What a token is for; none if it is not one of ours.
fn read(secret: &[u8; 32], token: &str) -> Option<Said> {
    let (text, given) = token.split_once('.')?;
    let given = URL_SAFE_NO_PAD.decode(given).ok()?;
    if !bool::from(given.ct_eq(&mac(secret, text))) {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// Whatever is wrong with an address, it is told alike.
fn unknown() -> Problem {
    let trouble = Trouble::usage("WF0908", "unknown callback URL")
        .hint("use the complete URL as it was issued; URLs of another database are not known here");
    Problem::new(StatusCode::NOT_FOUND, trouble)
}

fn over(message: &str) -> Problem {
    Problem::new(StatusCode::GONE, Trouble::usage("WF0910", message))
}

fn find(app: &App, token: &str) -> Result<Said, Problem> {
    let said = read(app.secret(), token).ok_or_else(unknown)?;
    match said.expires_at {
        Some(at) if Timestamp(at) <= clock::now() => Err(over("this callback URL has expired")),
        _ => Ok(said),
    }
}

/// What is shown to people who follow the address, and to programs that follow everything.
async fn show(
    State(app): State<App>,
    crate::api::At(token): crate::api::At<String>,
) -> Result<Response, Problem> {
    let said = find(&app, &token)?;
    let what = match &said.purpose {
        Purpose::Signal { name, .. } => format!("send the signal “{name}” to a workflow"),
        Purpose::Answer { .. } => "answer a question of a workflow".to_owned(),
        Purpose::Start { workflow, .. } => format!("start the workflow “{workflow}”"),
    };
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta name=\"robots\" content=\"noindex\"><title>wfhost</title>\
         <main><h1>{what}</h1><p>Nothing has happened yet.</p><form method=\"post\"><p><label>JSON<br>\
         <textarea name=\"body\" rows=\"4\" cols=\"40\">true</textarea></label></p><p><button>Send</button></p></form>\
         </main></html>"
    );
    Ok(Html(page).into_response())
}

/// What became of it.
#[derive(Debug, Serialize)]
struct TakenView {
    /// `taken`, or `taken before`.
    result: &'static str,
    /// Of an address that starts runs: the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    schema: &'static str,
}

#[derive(Debug, Deserialize)]
struct Filled {
    body: String,
}

/// Takes what comes: JSON, or the form that [`show`] gives.
async fn act(
    State(app): State<App>,
    crate::api::At(token): crate::api::At<String>,
    request: Request,
) -> Result<Response, Problem> {
    let said = find(&app, &token)?;
    app.check_writable(crate::auth::Scope::RunsSignal)?;
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_form = kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let delivery = request.headers().get("webhook-id").or_else(|| request.headers().get("x-github-delivery"));
    let delivery = delivery.and_then(|id| id.to_str().ok()).map(str::to_owned);
    let asker = crate::api::runs::traceparent(request.headers());
    let payload = if is_form {
        let axum::extract::Form(Filled { body }) = axum::extract::Form::from_request(request, &app)
            .await
            .map_err(|error| Problem::bad(error.body_text()))?;
        Json::parse(body.clone())
            .map_err(|error| Problem::from(Trouble::bad_json("the text", &body, &error)))?
    } else {
        Payload::from_request(request, &app).await?.0
    };
    let taken = take(&app, &token, said.purpose, payload, (delivery, asker)).await?;
    Ok(match is_form {
        true => Html("<!doctype html><html lang=\"en\"><title>wfhost</title><main><h1>Thank you</h1><p>Your response was accepted.</p></main></html>")
            .into_response(),
        false => (StatusCode::OK, View(taken)).into_response(),
    })
}

async fn take(
    app: &App,
    token: &str,
    purpose: Purpose,
    payload: Json,
    // The id of the delivery, and the span of who delivers.
    (delivery, asker): (Option<String>, Option<String>),
) -> Result<TakenView, Problem> {
    let address = Digest::of(token.as_bytes());
    let body = Digest::of(payload.as_str().as_bytes());
    let caller = Identity {
        id: address.hex()[..10].to_owned(),
        name: "a callback".to_owned(),
        scopes: Scopes::default(),
        by_cookie: false,
    };
    let view = |is_new: bool, run| TakenView {
        result: if is_new { "taken" } else { "taken before" },
        run,
        schema: "wfhost/taken/1",
    };
    match purpose {
        Purpose::Signal { run, name, .. } => {
            let run: RunId = run.parse().map_err(|_| unknown())?;
            once(app, address, body).await?;
            let id = Some(format!("callback:{}", address.hex()));
            let signal = MessageBody::Signal { name: name.clone(), payload, id };
            let (posted, run) = app.host().post(&run, signal).await.map_err(gone)?;
            let is_new = posted != Posted::Duplicate;
            let word = if is_new { "taken" } else { "again" };
            app.record(&caller, "callback.signal", &format!("{run} {name}"), word).await?;
            Ok(view(is_new, None))
        }
        Purpose::Answer { run, step } => {
            let run: RunId = run.parse().map_err(|_| unknown())?;
            let answer = MessageBody::Answer {
                step: Step(step),
                outcome: Ok(payload),
                by: Some(caller.name.clone()),
                note: None,
            };
            match app.host().post(&run, answer).await {
                Ok((_, run)) => {
                    once(app, address, body).await?;
                    app.record(&caller, "callback.answer", &format!("{run} step {step}"), "taken").await?;
                    Ok(view(true, None))
                }
                // It was answered, maybe by this very address: then something is kept of it.
                Err(error @ (wfhost::HostError::NoQuestion { .. } | wfhost::HostError::Ended { .. })) => {
                    if app.store().use_once(address, Digest::of(NEVER)).await? != Used::Otherwise {
                        return Err(gone(error));
                    }
                    once(app, address, body).await?;
                    Ok(view(false, None))
                }
                // One that does not fit changes nothing: another answer may come.
                Err(error) => Err(error.into()),
            }
        }
        Purpose::Start { workflow, .. } => {
            let module = crate::api::module_named(app, &workflow).await?;
            // Who delivers something again says so; else what is the same is the same.
            let key = delivery.unwrap_or_else(|| body.hex());
            let key = Digest::of(format!("{}:{key}", address.hex()).as_bytes());
            let defaults = &app.options().defaults;
            let options = StartOptions {
                input: payload,
                key: Some(format!("callback:{}", key.hex())),
                config: RunConfig {
                    agent: defaults.agent.clone(),
                    budget: defaults.budget,
                    project: defaults.project.clone(),
                    caller: asker,
                    ..RunConfig::default()
                },
                ..StartOptions::default()
            };
            let submitted = app.host().submit(&module, options).await?;
            app.record(&caller, "callback.start", submitted.run.as_str(), &workflow).await?;
            Ok(view(submitted.is_new, Some(submitted.run.to_string())))
        }
    }
}

/// An address that works once takes one thing; the same thing again is the same.
async fn once(app: &App, address: Digest, body: Digest) -> Result<Used, Problem> {
    match app.store().use_once(address, body).await? {
        Used::Otherwise => {
            let trouble = Trouble::usage("WF0909", "this callback URL was already used with another body")
                .hint("a callback URL works once; sending the same body again gets the same answer");
            Err(Problem::new(StatusCode::CONFLICT, trouble))
        }
        used => Ok(used),
    }
}

fn gone(error: wfhost::HostError) -> Problem {
    match error {
        wfhost::HostError::Ended { .. } | wfhost::HostError::NoSuchRun(_) => over("the run has ended"),
        wfhost::HostError::NoQuestion { .. } => over("the question is answered, or has expired"),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_cannot_be_made_up_or_changed() {
        let purpose = Purpose::Answer { run: "r".to_owned(), step: 3 };
        let token = token(&[7; 32], purpose.clone(), Some(Timestamp(9)));
        let said = read(&[7; 32], &token).unwrap();
        assert_eq!((said.purpose, said.expires_at), (purpose, Some(9)));
        assert_eq!(read(&[8; 32], &token), None, "another database");
        let (text, mac) = token.split_once('.').unwrap();
        let other = URL_SAFE_NO_PAD.encode(r#"{"p":{"answer":{"run":"r","step":4}},"e":9}"#);
        for bad in [
            format!("{other}.{mac}"),
            text.to_owned(),
            format!("{text}."),
            format!("{text}.{}", &mac[1..]),
            String::new(),
        ] {
            assert_eq!(read(&[7; 32], &bad), None, "{bad}");
        }
    }
}
