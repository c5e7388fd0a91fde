//! Pages for people.
//!
//! They are made here from what the API tells, work without JavaScript, and have nothing of their own to
//! say: what a script adds to them is that they follow what happens. Nothing acts but forms.

mod assets;
mod batch;
pub(crate) mod callback;
mod compare;
mod form;
mod gantt;
mod inbox;
mod login;
mod more;
mod run;
mod runs;
mod settings;
mod sinks;
mod start;
mod step;
mod subject;
pub(crate) mod text;

use askama::Template;
use axum::Router;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::de::DeserializeOwned;
use wfhost::world::clock;
use wfhost_core::limits;
use wfhost_view::UserError;

use self::text::address;
use crate::api::{people, read_form};
use crate::app::App;
use crate::auth::{Identity, Scope, identify};
use crate::problem::Problem;

/// The pages, below `/ui`.
pub(crate) fn router() -> Router<App> {
    Router::new()
        .merge(runs::router())
        .merge(run::router())
        .merge(step::router())
        .merge(inbox::router())
        .merge(start::router())
        .merge(compare::router())
        .merge(more::router())
        .merge(batch::router())
        .merge(settings::router())
        .merge(sinks::router())
        .merge(login::router())
        .merge(assets::router())
}

/// What all pages have around them.
#[derive(Clone, Debug)]
struct Shell {
    title: String,
    /// The page of the navigation that it belongs to.
    here: &'static str,
    who: String,
    /// Questions that wait for an answer.
    questions: usize,
    admin: bool,
    /// What of the commits changes the page: `all`, or the id of a run; nothing if empty.
    live: String,
    /// It is the answer to a form, so there is no address to load it from again.
    answers: bool,
    /// What was done just now.
    said: Option<&'static str>,
    /// The server's time, which ages are told by.
    now: String,
}

/// What pages say about an act that led to them.
const SAID: [(&str, &str); 13] = [
    ("paused", "The run is paused."),
    ("asked", "The request was sent. It takes effect as soon as possible."),
    ("stopping", "The run is already stopping."),
    ("resumed", "The run continues."),
    ("retried", "The run is being retried."),
    ("terminated", "The run has ended."),
    ("sent", "The signal was sent."),
    ("answered", "Your answer was accepted."),
    ("denied", "The question was rejected."),
    ("started", "The run has started."),
    ("known", "A run with this key already exists. This is that run."),
    ("removed", "The token was removed."),
    ("due", "The messages are due again and will be sent within a second."),
];

impl Shell {
    async fn new(
        app: &App,
        who: &Identity,
        title: impl Into<String>,
        here: &'static str,
    ) -> Result<Self, Fault> {
        let may = who.may(Scope::RunsRead) && who.may(Scope::PayloadsRead);
        let questions = if may { people::open(app, None, 100).await?.len() } else { 0 };
        Ok(Self {
            title: title.into(),
            here,
            who: who.name.clone(),
            questions,
            admin: who.may(Scope::Admin),
            live: String::new(),
            answers: false,
            said: None,
            now: clock::rfc3339(app.store().now()),
        })
    }

    fn live(mut self, live: impl Into<String>) -> Self {
        self.live = live.into();
        self
    }

    /// The same for a page that answers a form.
    fn answering(self) -> Self {
        Self { live: String::new(), answers: true, ..self }
    }

    fn said(mut self, word: Option<&str>) -> Self {
        self.said =
            word.and_then(|word| SAID.iter().find(|(known, _)| *known == word)).map(|(_, said)| *said);
        self
    }
}

/// A template as an answer.
fn page(template: &impl Template) -> Result<Response, Fault> {
    shown(StatusCode::OK, template)
}

fn shown(status: StatusCode, template: &impl Template) -> Result<Response, Fault> {
    let html = template.render().map_err(|_| Problem::internal("the page cannot be rendered"))?;
    Ok((status, Html(html)).into_response())
}

/// The page that follows an act: the same for another load of it.
fn then(path: &str, said: &str) -> Response {
    Redirect::to(&address(path, &[("said", said)])).into_response()
}

/// A problem as a page.
#[derive(Debug)]
struct Fault(Problem);

impl<E: Into<Problem>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

#[derive(Template)]
#[template(path = "fault.html")]
struct FaultPage {
    status: u16,
    code: &'static str,
    message: String,
    /// The lines below the message, together.
    details: String,
    hints: Vec<String>,
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let (status, trouble) = (self.0.status(), self.0.error());
        let page = FaultPage {
            status: status.as_u16(),
            code: trouble.code,
            message: trouble.message.clone(),
            details: trouble.details.join("\n"),
            hints: trouble.hints.clone(),
        };
        match page.render() {
            Ok(html) => (status, Html(html)).into_response(),
            Err(_) => self.0.into_response(),
        }
    }
}

/// What is wrong with what was filled into a form, to be shown above it.
#[derive(Clone, Debug)]
struct Error {
    message: String,
    /// The lines below the message, together.
    details: String,
    hints: Vec<String>,
}

impl Error {
    fn of(problem: &Problem) -> Self {
        let UserError { message, details, hints, .. } = problem.error().clone();
        Self { message, details: details.join("\n"), hints }
    }
}

/// Whether a problem is one of what was filled in, so that the form is shown again with that: not of who it is, nor of
/// what is not there.
fn is_of_form(problem: &Problem) -> bool {
    let others = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];
    problem.status().is_client_error() && !others.contains(&problem.status())
}

/// Bytes of a form: those of the JSON in it, three for each at most.
const FORM_BYTES: usize = 3 * limits::INPUT_BYTES;

/// What was filled into a form, as `T`. It is read like all bodies: who sends it slowly holds nobody up.
#[derive(Debug)]
struct Form<T, const LIMIT: usize = FORM_BYTES>(T);

impl<T: DeserializeOwned, const LIMIT: usize> FromRequest<App> for Form<T, LIMIT> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &App) -> Result<Self, Fault> {
        Ok(Self(read_form(request, LIMIT).await?))
    }
}

/// Who looks at a page. Others are led to the log-in, and from there back.
#[derive(Clone, Debug)]
struct Visitor(Identity);

/// Why a page is not shown.
enum Turned {
    Fault(Fault),
    Elsewhere(Box<Response>),
}

impl IntoResponse for Turned {
    fn into_response(self) -> Response {
        match self {
            Self::Fault(fault) => fault.into_response(),
            Self::Elsewhere(response) => *response,
        }
    }
}

#[derive(Template)]
#[template(path = "bounce.html")]
struct Bounce {
    to: String,
}

impl FromRequestParts<App> for Visitor {
    type Rejection = Turned;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Turned> {
        if let Some(who) = identify(app, parts).await.map_err(|error| Turned::Fault(error.into()))? {
            return Ok(Self(who));
        }
        if parts.method != Method::GET {
            let problem = Problem::unauthorized("WF0901", "you are no longer logged in");
            return Err(Turned::Fault(problem.into()));
        }
        let to = parts.uri.path_and_query().map_or("/ui", |path| path.as_str()).to_owned();
        // The cookie does not come along from other sites. The page leads here once more, from itself.
        let crosses =
            parts.headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
        if crosses && let Ok(html) = (Bounce { to: to.clone() }).render() {
            return Err(Turned::Elsewhere(Box::new(Html(html).into_response())));
        }
        let to = if to == "/ui" { String::new() } else { to };
        Err(Turned::Elsewhere(Box::new(
            Redirect::to(&address("/ui/login", &[("next", &to)])).into_response(),
        )))
    }
}

/// Refuses a page to those who may not see it.
fn need(app: &App, who: &Identity, scopes: &[Scope]) -> Result<(), Fault> {
    for scope in scopes {
        who.need(app, *scope)?;
    }
    Ok(())
}

/// Refuses a page that only shows to those who may not see it.
fn need_to_read(who: &Identity, scope: Scope) -> Result<(), Fault> {
    Ok(who.need_to_read(scope)?)
}

/// JSON that somebody wrote into a field.
fn json_of(what: &str, text: &str) -> Result<wfhost_core::Json, Problem> {
    let text = text.trim();
    let parsed = wfhost_core::Json::parse(text.to_owned());
    parsed.map_err(|error| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, UserError::bad_json(what, text, &error))
    })
}

/// A header that lets browsers keep what does not change.
fn kept() -> (header::HeaderName, HeaderValue) {
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))
}
