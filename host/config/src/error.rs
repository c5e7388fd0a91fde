//! Configuration that cannot be used.

use std::path::PathBuf;

use wfhost_world::private::NotPrivate;
use wfhost_world::text::{Command, quoted};

/// Why configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration cannot be read: {source}")]
    Read { source: NotPrivate },
    #[error("the configuration {path} is not used: {source}", path = path.display())]
    Stranger { path: PathBuf, source: NotPrivate },
    #[error("the configuration {path} {}", if *.before { "changed since it was trusted" } else { "is not trusted yet" }, path = path.display())]
    Untrusted {
        path: PathBuf,
        /// What the user has to agree to.
        keys: Vec<String>,
        /// The user agreed to what was in it before.
        before: bool,
    },
    #[error("the configuration {path} is not valid TOML: {reason}", path = path.display())]
    Syntax { path: PathBuf, line: usize, text: String, reason: String },
    #[error("{path} has an unknown key `{key}`{}", .section.as_ref().map(|section| format!(" in [{section}]")).unwrap_or_default(), path = path.display())]
    UnknownKey { path: PathBuf, section: Option<String>, key: String, nearest: Option<String> },
    #[error("{path} contains a secret in `{key}`", path = path.display())]
    Secret { path: PathBuf, key: String, instead: String },
    #[error("{path}: invalid value of `{key}`: {reason}", path = path.display())]
    Value { path: PathBuf, key: String, reason: String },
}

impl ConfigError {
    /// The stable code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Syntax { .. } => "WF0701",
            Self::UnknownKey { .. } => "WF0702",
            Self::Secret { .. } => "WF0703",
            Self::Value { .. } => "WF0704",
            Self::Stranger { .. } => "WF0706",
            Self::Untrusted { .. } => "WF0707",
        }
    }

    /// What fixes it.
    pub fn hint(&self) -> String {
        match self {
            Self::Read { .. } => "make it readable, or name another file with --config FILE".to_owned(),
            Self::Stranger { path, source } => {
                let named = quoted(&path.to_string_lossy()).into_owned();
                let own = match source {
                    NotPrivate::Writable { path, .. } => {
                        format!("if it is yours, `chmod go-w {}`; ", quoted(&path.to_string_lossy()))
                    }
                    _ => String::new(),
                };
                format!(
                    "{own}review it, then name it: `--config {named}`, or its directory in WFHOST_TRUST; \
                     `--config /dev/null` uses no file"
                )
            }
            Self::Untrusted { path, .. } if path.file_name() != Some(super::PROJECT_FILE.as_ref()) => {
                format!("review it, then name it: `--config {}`", quoted(&path.to_string_lossy()))
            }
            Self::Untrusted { path, .. } => {
                let dir = path.parent().unwrap_or(path).to_string_lossy();
                let trust = Command::new("trust").arg(dir);
                format!("review it, then run `{trust}`; in CI use --trust, or set WFHOST_TRUST")
            }
            Self::Syntax { .. } => "`wfhost explain WF0701` shows the format".to_owned(),
            Self::UnknownKey { nearest: Some(nearest), .. } => format!("did you mean `{nearest}`?"),
            Self::UnknownKey { nearest: None, .. } => "remove it".to_owned(),
            Self::Secret { instead, .. } => instead.clone(),
            Self::Value { .. } => "`wfhost explain WF0704` shows the format of values".to_owned(),
        }
    }

    /// What serde says about a value. It names the fields that it knows.
    pub(super) fn of(path: &std::path::Path, section: &str, message: &str) -> Self {
        let path = path.to_owned();
        let section = Some(section.to_owned()).filter(|section| !section.is_empty());
        let quoted: Vec<_> = message.split('`').skip(1).step_by(2).collect();
        if message.starts_with("unknown field")
            && let Some((key, known)) = quoted.split_first()
        {
            let nearest = known
                .iter()
                .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)))
                .filter(|nearest| strsim::jaro_winkler(nearest, key) > 0.6)
                .map(|nearest| (*nearest).to_owned());
            return Self::UnknownKey { path, section, key: (*key).to_owned(), nearest };
        }
        let key = section.unwrap_or_else(|| "the file".to_owned());
        Self::Value { path, key, reason: message.trim().to_owned() }
    }
}
