//! What people see who follow an address for callbacks. They have no token, and see nothing else.

use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

use super::Error;
use crate::problem::Problem;

#[derive(Template)]
#[template(path = "callback.html")]
struct CallbackPage<'a> {
    title: &'a str,
    text: &'a str,
    /// What stands in the form; there is none if it is of no use any more.
    body: Option<&'a str>,
    error: Option<Error>,
}

fn shown(status: StatusCode, page: &CallbackPage<'_>) -> Result<Response, Problem> {
    let html = page.render().map_err(|_| Problem::internal("the page cannot be rendered"))?;
    Ok((status, Html(html)).into_response())
}

/// The form, with what is wrong with that which was sent.
pub(crate) fn form(title: &str, body: &str, problem: Option<&Problem>) -> Result<Response, Problem> {
    let status = problem.map_or(StatusCode::OK, Problem::status);
    let text = "Nothing has happened yet.";
    shown(status, &CallbackPage { title, text, body: Some(body), error: problem.map(Error::of) })
}

/// The address is of no use.
pub(crate) fn refused(problem: &Problem) -> Result<Response, Problem> {
    let title = "This link is not valid";
    shown(problem.status(), &CallbackPage { title, text: "", body: None, error: Some(Error::of(problem)) })
}

pub(crate) fn thanks() -> Result<Response, Problem> {
    let text = "Your response was accepted.";
    shown(StatusCode::OK, &CallbackPage { title: "Thank you", text, body: None, error: None })
}
