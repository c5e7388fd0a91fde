//! `kind = "plugin"`: what a component is granted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use wfhost_agents::{SecretSource, is_secret_name};
use wfhost_core::Digest;
use wfhost_plugins::{
    DirectoryGrant, HttpGrant, Injected, Method, Plugin, PluginConfig, PluginSource, UrlPattern,
};
use wfhost_registry::Reference;
use wfhost_world::environment;

use super::ConfigError;
use super::file::beside;
use super::providers::{Made, One, is_secret_variable};
use super::supply::FromRegistry;
use crate::units;

/// The greatest memory of a plugin: what 32 bits address.
const MEMORY_BYTES: u64 = 4 << 30;
/// The longest time for which a plugin may go on when its call was cancelled.
const GRACE_MS: u64 = 60_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PluginFile {
    plugin: Option<String>,
    digest: Option<String>,
    model: Option<String>,
    #[serde(default)]
    keeps_conversations: bool,
    memory: Option<String>,
    fuel: Option<u64>,
    grace: Option<String>,
    #[serde(default)]
    set: BTreeMap<String, String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    directories: BTreeMap<String, DirectoryFile>,
    #[serde(default)]
    http: Vec<HttpGrantFile>,
    #[serde(default)]
    audit: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DirectoryFile {
    path: PathBuf,
    #[serde(default)]
    write: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpGrantFile {
    url: String,
    #[serde(default)]
    methods: Vec<String>,
    #[serde(default)]
    inject: BTreeMap<String, InjectedFile>,
    #[serde(default)]
    inject_query: BTreeMap<String, InjectedFile>,
    max_requests: Option<u32>,
    max_response: Option<String>,
    #[serde(default)]
    private: bool,
    ca: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectedFile {
    env: Option<String>,
    file: Option<PathBuf>,
    #[serde(default)]
    prefix: String,
}

impl One<'_> {
    pub(super) fn plugin(&self, file: PluginFile) -> Result<Made, ConfigError> {
        let config = self.plugin_config(file)?;
        let secrets = config.secrets().cloned().collect();
        Ok(Made { provider: Arc::new(Plugin::new(self.name, config)), secrets })
    }

    pub(super) fn plugin_config(&self, file: PluginFile) -> Result<PluginConfig, ConfigError> {
        let PluginFile { plugin, digest, model, keeps_conversations, .. } = &file;
        let plugin = plugin.as_deref().filter(|plugin| !plugin.is_empty());
        let plugin = plugin.ok_or_else(|| {
            self.wrong(
                "plugin",
                "it is missing: it names the path of a component, or a reference in a registry",
            )
        })?;
        let digest =
            match digest {
                None => None,
                Some(text) => Some(Digest::parse(text).ok_or_else(|| {
                    self.wrong("digest", "it has to be `blake3:` and 64 hexadecimal digits")
                })?),
            };
        let mut config = PluginConfig::of(match Reference::is_meant(plugin) {
            true => {
                let reference: Reference =
                    plugin.parse().map_err(|error| self.wrong("plugin", &format!("{error}")))?;
                if digest.is_some() {
                    let reason =
                        "a plugin from a registry is pinned by wfhost.lock, or by @sha256: in `plugin`";
                    return Err(self.wrong("digest", reason));
                }
                PluginSource::Supply(Arc::new(FromRegistry::new(self, reference)?))
            }
            false => {
                let path = std::path::absolute(beside(self.path, Path::new(plugin)));
                let path = path.map_err(|error| self.wrong("plugin", &error.to_string()))?;
                PluginSource::File { path, digest }
            }
        });
        (config.model, config.keeps_conversations) = (model.clone(), *keeps_conversations);
        if let Some(memory) = &file.memory {
            let bytes = units::bytes(memory).map_err(|reason| self.wrong("memory", &reason))?;
            config.memory_bytes = Some(bytes)
                .filter(|bytes| (64 << 10..=MEMORY_BYTES).contains(bytes))
                .ok_or_else(|| self.wrong("memory", "it has to be from 64KiB to 4GiB"))?;
        }
        if let Some(fuel) = file.fuel {
            config.fuel = Some(fuel)
                .filter(|fuel| *fuel > 0)
                .ok_or_else(|| self.wrong("fuel", "it has to be greater than 0"))?;
        }
        if let Some(grace) = &file.grace {
            let millis = units::millis(grace).map_err(|reason| self.wrong("grace", &reason))?;
            let millis = Some(millis).filter(|millis| *millis <= GRACE_MS);
            let millis = millis.ok_or_else(|| self.wrong("grace", "it can be at most a minute"))?;
            config.grace = Duration::from_millis(millis);
        }
        const INSTEAD: &str = "plugins receive no secrets: the host adds them to requests, \
                               http = [{ url = \"..\", inject = { authorization = { env = \"NAME\", prefix = \"Bearer \" } } }]";
        if let Some((name, _)) = file.set.iter().find(is_secret_variable) {
            return Err(self.secret(&format!("set.{name}"), INSTEAD));
        }
        if let Some(name) = file.env.iter().find(|name| is_secret_name(name)) {
            return Err(self.wrong("env", &format!("`{name}` is the name of a secret; {INSTEAD}")));
        }
        (config.set, config.env) = (file.set, file.env);
        for (guest, DirectoryFile { path, write }) in file.directories {
            if guest.is_empty() || guest.contains(['\0', '\n']) {
                return Err(self.wrong("directories", "a directory needs a path for the plugin, like /data"));
            }
            config.directories.insert(guest, DirectoryGrant { path: beside(self.path, &path), write });
        }
        for (at, grant) in file.http.into_iter().enumerate() {
            config.http.push(self.http_grant(&format!("http[{at}]"), grant)?);
        }
        config.audit = file.audit;
        config.cache = environment::cache_dir();
        Ok(config)
    }

    fn http_grant(&self, place: &str, file: HttpGrantFile) -> Result<HttpGrant, ConfigError> {
        let key = |key: &str| format!("{place}.{key}");
        let url: UrlPattern =
            file.url.parse().map_err(|error| self.wrong(&key("url"), &format!("{error}")))?;
        let mut methods = Vec::new();
        for method in &file.methods {
            let known = Method::from_bytes(method.as_bytes()).ok();
            // `CONNECT` is a way through, `TRACE` an echo.
            let known = known.filter(|known| {
                method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
                    && !matches!(*known, Method::CONNECT | Method::TRACE)
            });
            let reason = || {
                format!(
                    "`{method}` is not an allowed method: use GET, POST and the like, not CONNECT or TRACE"
                )
            };
            methods.push(known.ok_or_else(|| self.wrong(&key("methods"), &reason()))?);
        }
        if methods.is_empty() {
            return Err(self.wrong(&key("methods"), "it has to list the allowed methods: [\"GET\"]"));
        }
        let has_secrets = !file.inject.is_empty() || !file.inject_query.is_empty();
        if has_secrets && !url.is_one_host() {
            return Err(
                self.wrong(&key("inject"), "a secret can be sent to one host only: remove the `*` in `url`")
            );
        }
        let mut grant = HttpGrant::new(url, methods);
        for (name, injected) in file.inject {
            let place = key(&format!("inject.{name}"));
            let bad = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
            let lower = name.to_ascii_lowercase();
            if name.is_empty() || name.contains(bad) || matches!(lower.as_str(), "host" | "content-length") {
                return Err(self.wrong(&place, "it is not the name of a header that can be set"));
            }
            grant.inject.insert(lower, self.injected(&place, injected)?);
        }
        for (name, injected) in file.inject_query {
            let place = key(&format!("inject_query.{name}"));
            grant.inject_query.insert(name, self.injected(&place, injected)?);
        }
        if let Some(most) = file.max_requests {
            grant.max_requests = most;
        }
        if let Some(most) = &file.max_response {
            let bytes = units::bytes(most).map_err(|reason| self.wrong(&key("max_response"), &reason))?;
            grant.max_response = bytes;
        }
        grant.private = file.private;
        if file.ca.is_some() && file.url.starts_with("http:") {
            return Err(self.wrong(&key("ca"), "it needs an https:// URL"));
        }
        grant.ca = file.ca.map(|ca| beside(self.path, &ca));
        Ok(grant)
    }

    fn injected(&self, place: &str, file: InjectedFile) -> Result<Injected, ConfigError> {
        let InjectedFile { env, file, prefix } = file;
        let source = match (env, file) {
            (Some(env), None) if is_variable(&env) => SecretSource::Env(env),
            (Some(_), None) => {
                // A key in the place of the name of one.
                return Err(self
                    .secret(&format!("{place}.env"), "name the variable that contains it: env = \"NAME\""));
            }
            (None, Some(file)) => SecretSource::File(beside(self.path, &file)),
            _ => return Err(self.wrong(place, "it needs exactly one of `env` and `file`")),
        };
        Ok(Injected { source, prefix })
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
