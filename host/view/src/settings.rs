//! What configuration holds, and what is granted to plugins by it.

use serde::Serialize;
use utoipa::ToSchema;
use wfhost::agents::Provider;
use wfhost_config::{Plugin, Setting};

/// A value that holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SettingView {
    #[schema(example = "agents.retry.max_attempts")]
    pub key: String,
    /// `default`, or who says so: a file, a flag, a variable.
    pub origin: String,
    /// As TOML. What looks like a secret is masked.
    pub value: String,
}

/// All values that hold.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SettingsView {
    #[schema(example = "wfhost/config/1")]
    pub schema: &'static str,
    /// By their keys.
    pub settings: Vec<SettingView>,
}

impl SettingsView {
    pub fn of(settings: &[Setting]) -> Self {
        let view = |Setting { key, value, origin }: &Setting| SettingView {
            key: key.clone(),
            origin: origin.to_string(),
            value: value.clone(),
        };
        Self { schema: "wfhost/config/1", settings: settings.iter().map(view).collect() }
    }
}

/// Requests that a plugin may send.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HttpGrantView {
    /// Headers that the host sets, by their names.
    pub inject: Vec<String>,
    pub methods: Vec<String>,
    /// Also at addresses that are not of the public network.
    pub private: bool,
    pub url: String,
}

/// An agent that is a component, as it is configured.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PluginView {
    /// Requests that nothing grants are sent, and listed.
    pub audit: bool,
    /// Of its file as it is now; none if that cannot be read.
    pub digest: Option<String>,
    /// Granted directories, by their paths for the plugin.
    pub directories: Vec<String>,
    pub file: String,
    pub http: Vec<HttpGrantView>,
    /// What it wants and is not granted, each with the line that would grant it.
    pub lacks: Vec<String>,
    pub name: String,
    /// What keeps it from being asked.
    pub problems: Vec<String>,
    /// Variables that it is given, by their names.
    pub variables: Vec<String>,
}

impl PluginView {
    /// Reads its file.
    pub fn of(plugin: &Plugin) -> Self {
        let config = plugin.config();
        let http = config.http.iter().map(|grant| HttpGrantView {
            inject: grant.inject.keys().chain(grant.inject_query.keys()).cloned().collect(),
            methods: grant.methods.iter().map(ToString::to_string).collect(),
            private: grant.private,
            url: grant.url.to_string(),
        });
        let directory = |(guest, grant): (&String, &wfhost_config::DirectoryGrant)| {
            format!("{guest} ({}, {})", grant.path.display(), if grant.write { "write" } else { "read" })
        };
        Self {
            audit: config.audit,
            digest: plugin.digest().ok().flatten().map(|digest| digest.to_string()),
            directories: config.directories.iter().map(directory).collect(),
            file: config.source.to_string(),
            http: http.collect(),
            lacks: plugin.lacks().unwrap_or_default(),
            name: plugin.name().to_owned(),
            problems: plugin.check().into_iter().filter_map(|check| check.problem).collect(),
            variables: config.set.keys().chain(&config.env).cloned().collect(),
        }
    }
}

/// The plugins that are configured.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PluginsView {
    /// By name.
    pub plugins: Vec<PluginView>,
    #[schema(example = "wfhost/plugins/1")]
    pub schema: &'static str,
}

impl PluginsView {
    /// Reads their files.
    pub fn of(plugins: &[Plugin]) -> Self {
        Self { plugins: plugins.iter().map(PluginView::of).collect(), schema: "wfhost/plugins/1" }
    }
}
