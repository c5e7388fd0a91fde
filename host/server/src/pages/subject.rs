//! The run that a page is of, and whoever looks at it: what all pages of a run begin with.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::response::IntoResponse;
use serde::Deserialize;
use wfhost::store::RunInfo;
use wfhost_core::{Journal, Step};
use wfhost_view::{Turn, read_journal, turns};

use super::run::path;
use super::{Fault, Turned, Visitor, need};
use crate::api::find;
use crate::app::App;
use crate::auth::{Identity, Scope};
use crate::problem::Problem;

/// A run that may be looked at, by whom.
pub(super) struct Subject {
    pub app: App,
    pub who: Identity,
    pub info: RunInfo,
    /// Its id as it stands in the address.
    pub run: String,
    /// The path of its page.
    pub path: String,
    /// Whether what it works on may be seen.
    pub may: bool,
}

/// The parts of an address that a run is named by.
#[derive(Deserialize)]
struct Named {
    run: String,
}

impl FromRequestParts<App> for Subject {
    type Rejection = Turned;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Turned> {
        let Visitor(who) = Visitor::from_request_parts(parts, app).await?;
        let Path(Named { run }) = Path::from_request_parts(parts, app)
            .await
            .map_err(|error| Turned::Elsewhere(Box::new(Problem::from(error).into_response())))?;
        Self::find(app, who, run).await.map_err(Turned::Fault)
    }
}

impl Subject {
    /// The run of that id, for who may see runs.
    pub async fn find(app: &App, who: Identity, run: String) -> Result<Self, Fault> {
        need(app, &who, &[Scope::RunsRead])?;
        let info = find(app, &run).await?;
        let may = who.may(Scope::PayloadsRead);
        Ok(Self { app: app.clone(), who, info, path: path(&run), run, may })
    }

    /// Refuses who may not see what runs work on.
    pub fn need_payloads(&self) -> Result<(), Fault> {
        need(&self.app, &self.who, &[Scope::PayloadsRead])
    }

    /// Whether that may be done with it through this server.
    pub fn can(&self, scope: Scope) -> bool {
        self.who.may(scope) && !self.app.options().read_only
    }

    /// Whether forks of it may be made.
    pub fn can_fork(&self) -> bool {
        self.may && self.can(Scope::RunsControl) && self.can(Scope::RunsStart)
    }

    /// What is known of the turns of its calls.
    pub async fn turns(&self, steps: Vec<Step>) -> Result<Vec<Turn>, Problem> {
        let id = self.info.id.clone();
        self.app.read(async move |store| turns(store.as_ref(), &id, &steps).await).await
    }

    /// Reads its journal, beside the workers.
    pub async fn journal<T: Send + 'static>(
        &self,
        see: impl FnOnce(Journal) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let id = self.info.id.clone();
        self.app.read(async move |store| read_journal(store.as_ref(), &id).await.map(see)).await
    }
}
