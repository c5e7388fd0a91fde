//! Every value with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::mask::masked;
use super::{Source, part, walk};

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    Default,
    User(PathBuf),
    Project(PathBuf),
    /// The name of a variable.
    Environment(String),
    /// The name of a flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::User(path) => write!(f, "user, {}", path.display()),
            Self::Project(path) => write!(f, "project, {}", path.display()),
            Self::Environment(name) => write!(f, "environment, {name}"),
            Self::Flag(name) => write!(f, "flag, {name}"),
        }
    }
}

/// A value that holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Like `agents.retry.max_attempts`.
    pub key: String,
    /// As TOML.
    pub value: String,
    pub origin: Origin,
}

/// What holds where the files say nothing.
const DEFAULTS: [(&str, &str); 7] = [
    ("agents.retry.max_attempts", "3"),
    ("agents.retry.initial", "\"1s\""),
    ("agents.retry.factor", "2.0"),
    ("agents.retry.max", "\"60s\""),
    ("agents.retry.jitter", "0.1"),
    ("agents.retry.fatal", "[]"),
    ("agents.limits.attempt", "\"30m\""),
];

/// The values of all files, those that go before in the place of the others.
pub(super) fn settings(sources: &[Source]) -> Vec<Setting> {
    let mut settings: BTreeMap<String, (String, Origin)> = DEFAULTS
        .iter()
        .map(|(key, value)| ((*key).to_owned(), ((*value).to_owned(), Origin::Default)))
        .collect();
    for Source { origin, table } in sources {
        // A provider, a price, a workspace, a webhook or a registry is taken as a whole.
        for section in ["providers", "prices", "workspaces", "webhooks", "registries"] {
            for name in
                table.get(section).and_then(|value| value.as_table()).into_iter().flat_map(|t| t.keys())
            {
                let prefix = format!("{section}.{}.", part(name));
                settings.retain(|key, _| !key.starts_with(&prefix));
            }
        }
        walk("", table, &mut |key, value| {
            let shown = masked(&key, value).to_string();
            settings.insert(key, (shown, origin.clone()));
        });
    }
    settings.into_iter().map(|(key, (value, origin))| Setting { key, value, origin }).collect()
}
