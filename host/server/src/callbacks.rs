//! Callback URLs: a client that has one can send one signal, answer one question, or start runs of one
//! workflow, and nothing else.
//!
//! An address is `/c/TOKEN`; its token says what it is for, and ends with a MAC under a secret of the
//! database, so that nobody can make one up, also not who reads journals. Nothing is kept of an address
//! before it is used. Looking at one does nothing; only a POST acts.

use std::collections::BTreeSet;

use axum::Router;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use wfhost::store::{Inbox, MessageBody, Part, Posted, Used};
use wfhost::{HostError, StartOptions};
use wfhost_core::{Digest, Event, Json, Position, Reply, RunConfig, RunId, Step, Timestamp, limits};
use wfhost_view::UserError;

use crate::api::{Payload, View, read_form};
use crate::app::App;
use crate::auth::{Identity, Scope, Scopes};
use crate::pages::callback;
use crate::problem::Problem;

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
    let trouble = UserError::usage("WF0908", "unknown callback URL")
        .hint("use the complete URL as it was issued; URLs of another database are not known here");
    Problem::new(StatusCode::NOT_FOUND, trouble)
}

fn over(message: &str) -> Problem {
    Problem::new(StatusCode::GONE, UserError::usage("WF0910", message))
}

fn find(app: &App, token: &str) -> Result<Said, Problem> {
    let said = read(app.secret(), token).ok_or_else(unknown)?;
    match said.expires_at {
        Some(at) if Timestamp(at) <= app.store().now() => Err(over("this callback URL has expired")),
        _ => Ok(said),
    }
}

impl Purpose {
    /// What it is for, for people.
    fn spelled(&self) -> String {
        match self {
            Self::Signal { name, .. } => format!("Send the signal “{name}” to a workflow"),
            Self::Answer { .. } => "Answer a question of a workflow".to_owned(),
            Self::Start { workflow, .. } => format!("Start the workflow “{workflow}”"),
        }
    }
}

/// What is shown to people who follow the address, and to programs that follow everything.
async fn show(
    State(app): State<App>,
    crate::api::At(token): crate::api::At<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let accepts = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let is_browser = accepts.into_iter().any(|value| value.contains("text/html"));
    match find(&app, &token) {
        Ok(said) => callback::form(&said.purpose.spelled(), "true", None),
        Err(problem) if is_browser => callback::refused(&problem),
        Err(problem) => Err(problem),
    }
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

/// Who delivers, as far as the request says it.
struct Sender {
    /// The id of the delivery.
    delivery: Option<String>,
    /// The span of who delivers.
    span: Option<String>,
}

impl Sender {
    fn of(headers: &HeaderMap) -> Self {
        let delivery = headers.get("webhook-id").or_else(|| headers.get("x-github-delivery"));
        let delivery = delivery.and_then(|id| id.to_str().ok()).map(str::to_owned);
        Self { delivery, span: crate::api::runs::traceparent(headers) }
    }
}

/// Takes what comes: JSON, or the form that [`show`] gives.
async fn act(
    State(app): State<App>,
    crate::api::At(token): crate::api::At<String>,
    request: Request,
) -> Result<Response, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded")) {
        return act_by_form(&app, &token, request).await;
    }
    let said = find(&app, &token)?;
    app.check_writable(Scope::RunsSignal)?;
    let sender = Sender::of(request.headers());
    let Payload(payload) = Payload::from_request(request, &app).await?;
    let taken = take(&app, &token, said.purpose, payload, sender).await?;
    Ok((StatusCode::OK, View(taken)).into_response())
}

/// Takes the form, which comes of a browser: what is wrong is said above it, and what was filled in stays.
async fn act_by_form(app: &App, token: &str, request: Request) -> Result<Response, Problem> {
    let said = match find(app, token) {
        Ok(said) => said,
        Err(problem) => return callback::refused(&problem),
    };
    let sender = Sender::of(request.headers());
    // Three bytes for each of the payload, and the name of the field.
    let filled = read_form(request, 3 * limits::SIGNAL_BYTES + 64).await;
    let Filled { body } = match filled {
        Ok(filled) => filled,
        Err(problem) => return callback::refused(&problem),
    };
    let title = said.purpose.spelled();
    let bad = |error: serde_json::Error| {
        let trouble = UserError::bad_json("the text", &body, &error);
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, trouble)
    };
    let taken =
        match app.check_writable(Scope::RunsSignal).and_then(|()| Json::parse(body.clone()).map_err(bad)) {
            Ok(payload) => take(app, token, said.purpose, payload, sender).await,
            Err(problem) => Err(problem),
        };
    match taken {
        Ok(_) => callback::thanks(),
        // Nothing more can be done by it.
        Err(problem) if problem.status() == StatusCode::GONE => callback::refused(&problem),
        Err(problem) => callback::form(&title, &body, Some(&problem)),
    }
}

async fn take(
    app: &App,
    token: &str,
    purpose: Purpose,
    payload: Json,
    sender: Sender,
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
            // One that does not fit uses nothing up: another one may come.
            app.host().check_signal(&run, &name, &payload).await.map_err(gone)?;
            let used = once(app, address, body).await?;
            let id = Some(format!("callback:{}", address.hex()));
            let signal = MessageBody::Signal { name: name.clone(), payload, id };
            let (posted, run) = match app.host().post(&run, signal).await {
                Ok(posted) => posted,
                Err(error) => return Err(not_taken(app, used, address, body, error).await?),
            };
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
            // First of all, so that the same answer is known again, whatever dies meanwhile.
            let used = once(app, address, body).await?;
            match app.host().post(&run, answer.clone()).await {
                Ok((_, run)) => {
                    app.record(&caller, "callback.answer", &format!("{run} step {step}"), "taken").await?;
                    Ok(view(true, None))
                }
                // By this very address, when the same came before. But whoever took it then may have died before it
                // was an answer, and another one may have come instead.
                Err(HostError::NoQuestion { .. } | HostError::Ended { .. })
                    if used == Used::Again && is_taken(app, &run, &answer).await? =>
                {
                    Ok(view(false, None))
                }
                Err(error) => Err(not_taken(app, used, address, body, error).await?),
            }
        }
        Purpose::Start { workflow, .. } => {
            let module = crate::api::module_named(app, &workflow).await?;
            // Who delivers something again says so; else what is the same is the same.
            let key = sender.delivery.unwrap_or_else(|| body.hex());
            let key = Digest::of(format!("{}:{key}", address.hex()).as_bytes());
            let defaults = &app.options().defaults;
            let options = StartOptions {
                input: payload,
                key: Some(format!("callback:{}", key.hex())),
                config: RunConfig {
                    agent: defaults.agent.clone(),
                    budget: defaults.budget,
                    project: defaults.project.clone(),
                    caller: sender.span,
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
            let trouble = UserError::usage("WF0909", "this callback URL was already used with another body")
                .hint("a callback URL works once; sending the same body again gets the same answer");
            Err(Problem::new(StatusCode::CONFLICT, trouble))
        }
        used => Ok(used),
    }
}

/// What is said of something that was not taken. If that is certain, it uses nothing up: another one may come.
async fn not_taken(
    app: &App,
    used: Used,
    address: Digest,
    body: Digest,
    error: HostError,
) -> Result<Problem, Problem> {
    if used == Used::First && is_refusal(&error) {
        app.store().release_use(address, body).await?;
    }
    Ok(gone(error))
}

/// Whether a run has this answer: in its journal, or on the way there.
async fn is_taken(app: &App, run: &RunId, answer: &MessageBody) -> Result<bool, Problem> {
    let (run, answer) = (run.clone(), answer.clone());
    let found = app.read_whole(async move |store| {
        let mut behind = None;
        loop {
            let Inbox { messages, more } = store.inbox(&run, Part::Behind(behind)).await?;
            if messages.iter().any(|message| message.body == answer) {
                return Ok(true);
            }
            behind = messages.last().map(|message| message.id);
            if !more {
                break;
            }
        }
        let mut delegated = BTreeSet::new();
        for row in store.journal(&run, Position(0)).await? {
            for (_, entry) in row.entries().map_while(Result::ok) {
                match entry.event {
                    Event::Delegated { step, .. } => drop(delegated.insert(step)),
                    Event::Answered { step, outcome, by, note } => {
                        let recorded = MessageBody::Answer { step, outcome: outcome.into(), by, note };
                        if is_recorded(&answer, &recorded, delegated.contains(&step)) {
                            return Ok(true);
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok::<_, HostError>(false)
    });
    found.await
}

/// Whether what a journal has is this answer. Of a call that was put to a person it has a reply, with the answer in it.
fn is_recorded(answer: &MessageBody, recorded: &MessageBody, is_call: bool) -> bool {
    use MessageBody::Answer;
    match (answer, recorded) {
        (
            Answer { step, outcome: Ok(said), by, note },
            Answer { step: of, outcome: Ok(reply), by: whose, note: noted },
        ) if is_call => {
            let reply = serde_json::from_str::<Reply>(reply.as_str());
            // White space around an answer is not in the reply.
            (step, by, note) == (of, whose, noted) && reply.is_ok_and(|reply| reply.output.means(said))
        }
        _ => answer == recorded,
    }
}

/// Whether an answer was certainly not taken. Of one that a database did not answer nobody knows.
fn is_refusal(error: &HostError) -> bool {
    use HostError::{BadAnswer, Ended, NoQuestion, NoSuchRun, TooLarge};
    matches!(error, BadAnswer(_) | Ended { .. } | NoQuestion { .. } | NoSuchRun(_) | TooLarge(_))
}

fn gone(error: HostError) -> Problem {
    match error {
        HostError::Ended { .. } | HostError::NoSuchRun(_) => over("the run has ended"),
        HostError::NoQuestion { .. } => over("the question is answered, or has expired"),
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
