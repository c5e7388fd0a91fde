//! The configuration that holds.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wfhost_view::{PluginsView, SettingsView};

use super::{Refusals, View};
use crate::app::App;
use crate::auth::{Caller, Scope};
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(settings)).routes(routes!(plugins))
}

/// Show the configuration
///
/// Every value that holds for this server, and who says so. What looks like a secret is masked.
#[utoipa::path(get, path = "/settings", tag = "server", operation_id = "getSettings", security(("bearer" = ["admin"])),
    responses((status = 200, description = "By key", body = SettingsView), Refusals))]
async fn settings(State(app): State<App>, Caller(caller): Caller) -> Result<View<SettingsView>, Problem> {
    caller.need_to_read(Scope::Admin)?;
    Ok(View(SettingsView::of(&app.options().settings)))
}

/// List plugins
///
/// The agents that are components: what is granted to each, and what it wants besides.
#[utoipa::path(get, path = "/plugins", tag = "server", operation_id = "listPlugins", security(("bearer" = ["admin"])),
    responses((status = 200, description = "By name", body = PluginsView), Refusals))]
async fn plugins(State(app): State<App>, Caller(caller): Caller) -> Result<View<PluginsView>, Problem> {
    caller.need_to_read(Scope::Admin)?;
    configured_plugins(&app).await.map(View)
}

/// The plugins as their files are now.
pub(crate) async fn configured_plugins(app: &App) -> Result<PluginsView, Problem> {
    let config = app.options().defaults.config.clone();
    let read = tokio::task::spawn_blocking(move || Ok(PluginsView::of(&config.plugins()?)));
    let read = read.await.map_err(|_| Problem::internal("the plugins cannot be read"))?;
    read.map_err(|error: wfhost_config::ConfigError| Problem::from_error(error))
}
