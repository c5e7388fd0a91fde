//! The configuration that holds, and the plugins with what is granted to them.

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use wfhost_config::{Delivers, Target, Webhook};
use wfhost_view::{PluginView, SettingView, SettingsView};

use super::{Fault, Shell, Visitor, need_to_read, page};
use crate::api::settings::configured_plugins;
use crate::app::App;
use crate::auth::Scope;
use crate::hooks;

pub(super) fn router() -> Router<App> {
    Router::new().route("/ui/settings", get(settings)).route("/ui/plugins", get(plugins))
}

/// Settings that belong together, by the first part of their keys.
struct Group {
    name: String,
    rows: Vec<SettingView>,
}

/// A webhook and what it does.
struct HookRow {
    name: String,
    address: String,
    verify: &'static str,
    does: String,
    events: String,
    /// Where its secret is, and what is wrong with that.
    secret: String,
    problem: Option<String>,
}

#[derive(Template)]
#[template(path = "settings.html")]
struct SettingsPage {
    shell: Shell,
    groups: Vec<Group>,
    hooks: Vec<HookRow>,
    /// The project's file, if it is not obeyed.
    untrusted: Option<String>,
}

fn hook_row(app: &App, hook: &Webhook) -> HookRow {
    let does = match &hook.delivers {
        Delivers::Start { workflow } => format!("starts {workflow}"),
        Delivers::Signal { run: Target::Run(run), name } => format!("signals {name} to {run}"),
        Delivers::Signal { run: Target::At(pointer), name } => {
            format!("signals {name} to the run at {pointer}")
        }
    };
    HookRow {
        name: hook.name.clone(),
        address: hooks::address(app, hook),
        verify: hook.scheme.as_str(),
        does,
        events: if hook.events.is_empty() { "all".to_owned() } else { hook.events.join(", ") },
        secret: hook.secret.to_string(),
        problem: hook.secret.read().err().map(|error| error.to_string()),
    }
}

async fn settings(State(app): State<App>, Visitor(who): Visitor) -> Result<Response, Fault> {
    need_to_read(&who, Scope::Admin)?;
    let options = app.options();
    let mut groups: Vec<Group> = Vec::new();
    for row in SettingsView::of(&options.settings).settings {
        let name = row.key.split('.').next().unwrap_or_default().to_owned();
        match groups.last_mut().filter(|group| group.name == name) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group { name, rows: vec![row] }),
        }
    }
    let project = options.defaults.config.project();
    let untrusted = project.filter(|project| !project.keys.is_empty());
    let untrusted = untrusted.filter(|project| project.agreed != wfhost_config::Agreed::Yes);
    page(&SettingsPage {
        shell: Shell::new(&app, &who, "Settings", "settings").await?,
        groups,
        hooks: options.webhooks.iter().map(|hook| hook_row(&app, hook)).collect(),
        untrusted: untrusted.map(|project| project.path.display().to_string()),
    })
}

#[derive(Template)]
#[template(path = "plugins.html")]
struct PluginsPage {
    shell: Shell,
    rows: Vec<PluginView>,
}

async fn plugins(State(app): State<App>, Visitor(who): Visitor) -> Result<Response, Fault> {
    need_to_read(&who, Scope::Admin)?;
    let rows = configured_plugins(&app).await?.plugins;
    page(&PluginsPage { shell: Shell::new(&app, &who, "Plugins", "plugins").await?, rows })
}
