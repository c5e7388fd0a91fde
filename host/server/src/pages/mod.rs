//! Pages for people.

mod login;

use axum::Router;

use crate::app::App;

/// The pages, below `/ui`.
pub(crate) fn router() -> Router<App> {
    login::router()
}
