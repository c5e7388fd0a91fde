//! `[webhooks.NAME]`: what services of others deliver, how that is signed, and what is done with it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Table;
use wfhost_agents::SecretSource;
use wfhost_core::RunId;

use crate::ConfigError;
use crate::file::beside;
use crate::units;

/// How old a signed time may be, if nothing else is said: five minutes, as Stripe and Standard Webhooks do.
const TOLERANCE_MS: u64 = 300_000;

/// How deliveries are signed. All by HMAC-SHA256.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// `X-Hub-Signature-256` over the body. No time is signed.
    Github,
    /// `Stripe-Signature` over the time and the body.
    Stripe,
    /// `webhook-signature` over the id, the time and the body (standardwebhooks.com, Svix).
    Standard,
}

impl Scheme {
    /// The word for it in a file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Stripe => "stripe",
            Self::Standard => "standard",
        }
    }
}

/// What a delivery does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Delivers {
    /// Starts a run of the workflow.
    Start { workflow: String },
    /// Sends a signal to a run.
    Signal { run: Target, name: String },
}

/// Which run a signal goes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    Run(RunId),
    /// Its id stands there in the body: a JSON pointer (RFC 6901).
    At(String),
}

/// What is done with the deliveries of somebody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Webhook {
    /// It is the end of the address.
    pub name: String,
    /// Of which of the server's databases; the usual one if none.
    pub namespace: Option<String>,
    pub scheme: Scheme,
    /// What deliveries are signed with.
    pub secret: SecretSource,
    /// Kinds of events that count; all if empty.
    pub events: Vec<String>,
    /// How far a signed time may be from that of the server, in milliseconds.
    pub tolerance_ms: u64,
    pub delivers: Delivers,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookFile {
    verify: Option<Scheme>,
    secret: Option<toml::Value>,
    secret_env: Option<String>,
    secret_file: Option<PathBuf>,
    #[serde(default)]
    events: Vec<String>,
    tolerance: Option<String>,
    workflow: Option<String>,
    signal: Option<String>,
    run: Option<String>,
    run_at: Option<String>,
    namespace: Option<String>,
}

/// Reads one.
pub(super) fn read(path: &Path, name: &str, table: Table) -> Result<Webhook, ConfigError> {
    let place = format!("webhooks.{name}");
    let wrong = |key: &str, reason: &str| {
        let key = if key.is_empty() { place.clone() } else { format!("{place}.{key}") };
        ConfigError::Value { path: path.to_owned(), key, reason: reason.to_owned() }
    };
    let is_name = |name: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !name.is_empty() && name.len() <= 64 && name.chars().all(fits)
    };
    if !is_name(name) {
        return Err(wrong("", "its name is part of an address: letters, digits, `-`, `_`, `.`, 64 at most"));
    }
    let file: WebhookFile = toml::Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| ConfigError::of(path, &place, error.message()))?;
    let secret = |key: &str| ConfigError::Secret {
        path: path.to_owned(),
        key: format!("{place}.{key}"),
        instead: "name the variable or the file that has it: secret_env = \"NAME\" or secret_file = \"PATH\""
            .to_owned(),
    };
    let source = match (file.secret, file.secret_env, file.secret_file) {
        (Some(_), ..) => return Err(secret("secret")),
        (None, Some(name), None) => {
            let is_variable = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            // A secret in the place of the name of one.
            if !is_variable || name.starts_with("whsec_") {
                return Err(secret("secret_env"));
            }
            SecretSource::Env(name)
        }
        (None, None, Some(file)) => SecretSource::File(beside(path, &file)),
        (None, None, None) => return Err(wrong("secret_env", "it is missing: where the secret is")),
        (None, Some(_), Some(_)) => return Err(wrong("secret_env", "it stands beside `secret_file`")),
    };
    let scheme = file.verify.ok_or_else(|| wrong("verify", "it is missing: github, stripe or standard"))?;
    let tolerance_ms = match &file.tolerance {
        None => TOLERANCE_MS,
        Some(text) => units::millis(text)
            .ok()
            .filter(|millis| (1_000..=86_400_000).contains(millis))
            .ok_or_else(|| wrong("tolerance", "it is a length of time like 5m, from 1s to 24h"))?,
    };
    let run = match (file.run, file.run_at) {
        (Some(run), None) => {
            let id = run.parse().map_err(|error: wfhost_core::BadRunId| wrong("run", &error.to_string()))?;
            Some(Target::Run(id))
        }
        (None, Some(pointer)) if pointer.starts_with('/') => Some(Target::At(pointer)),
        (None, Some(_)) => return Err(wrong("run_at", "it is a JSON pointer, like /data/run")),
        (Some(_), Some(_)) => return Err(wrong("run_at", "it stands beside `run`")),
        (None, None) => None,
    };
    let delivers = match (file.workflow, file.signal, run) {
        (Some(workflow), None, None) if !workflow.is_empty() => Delivers::Start { workflow },
        (None, Some(name), Some(run)) if !name.is_empty() => Delivers::Signal { run, name },
        (None, Some(_), None) => return Err(wrong("signal", "say which run, by `run` or `run_at`")),
        _ => {
            let either = "it starts a run (`workflow`) or sends a signal (`signal`, and `run` or `run_at`)";
            return Err(wrong("", either));
        }
    };
    Ok(Webhook {
        name: name.to_owned(),
        namespace: file.namespace,
        scheme,
        secret: source,
        events: file.events,
        tolerance_ms,
        delivers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Webhook, ConfigError> {
        read(Path::new("/p/wfhost.toml"), "hook", text.parse().unwrap())
    }

    #[test]
    fn what_starts_and_what_signals() {
        let hook = of("verify = 'github'\nsecret_env = 'S'\nworkflow = 'w'\nevents = ['push']").unwrap();
        assert_eq!((hook.scheme, hook.tolerance_ms), (Scheme::Github, 300_000));
        assert_eq!(hook.delivers, Delivers::Start { workflow: "w".to_owned() });
        let hook =
            of("verify = 'stripe'\nsecret_file = 'key'\nsignal = 'paid'\nrun_at = '/a'\ntolerance = '1m'");
        let hook = hook.unwrap();
        assert_eq!(hook.secret, SecretSource::File("/p/key".into()));
        let run = Target::At("/a".to_owned());
        assert_eq!(hook.delivers, Delivers::Signal { run, name: "paid".to_owned() });
        assert_eq!(hook.tolerance_ms, 60_000);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_key() {
        for (text, key, code) in [
            ("secret_env = 'S'\nworkflow = 'w'", "webhooks.hook.verify", "WF0704"),
            ("verify = 'none'\nsecret_env = 'S'\nworkflow = 'w'", "webhooks.hook", "WF0704"),
            ("verify = 'github'\nworkflow = 'w'", "webhooks.hook.secret_env", "WF0704"),
            ("verify = 'github'\nsecret = 'abc'\nworkflow = 'w'", "webhooks.hook.secret", "WF0703"),
            (
                "verify = 'standard'\nsecret_env = 'whsec_QUJD'\nworkflow = 'w'",
                "webhooks.hook.secret_env",
                "WF0703",
            ),
            ("verify = 'github'\nsecret_env = 'S'", "webhooks.hook", "WF0704"),
            ("verify = 'github'\nsecret_env = 'S'\nsignal = 's'", "webhooks.hook.signal", "WF0704"),
            (
                "verify = 'github'\nsecret_env = 'S'\nworkflow = 'w'\nsignal = 's'\nrun = 'r'",
                "webhooks.hook",
                "WF0704",
            ),
            (
                "verify = 'github'\nsecret_env = 'S'\nsignal = 's'\nrun_at = 'a'",
                "webhooks.hook.run_at",
                "WF0704",
            ),
            (
                "verify = 'github'\nsecret_env = 'S'\nworkflow = 'w'\ntolerance = '0s'",
                "webhooks.hook.tolerance",
                "WF0704",
            ),
        ] {
            let error = of(text).unwrap_err();
            let found = match &error {
                ConfigError::Value { key, .. } | ConfigError::Secret { key, .. } => key.clone(),
                other => panic!("{text}: {other}"),
            };
            assert_eq!((found.as_str(), error.code()), (key, code), "{text}");
        }
        let error = of("verify = 'github'\nsecret_env = 'S'\nworkflow = 'w'\nevent = ['x']").unwrap_err();
        assert!(
            matches!(&error, ConfigError::UnknownKey { nearest: Some(near), .. } if near == "events"),
            "{error}"
        );
        assert!(read(Path::new("f"), "a/b", Table::new()).is_err());
    }
}
