//! Secrets: named by an environment variable or a file, read when they are
//! needed, and taken out of everything that is shown or kept.

use std::fmt;
use std::path::PathBuf;

/// Values shorter than this are not searched for: they would be found
/// everywhere, and no key is that short.
const SHORTEST: usize = 4;
/// What stands in the place of a secret.
const MASK: &str = "[redacted]";

/// Where a secret is to be found. Configuration has only these; never a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretSource {
    /// The name of an environment variable.
    Env(String),
    /// A file; white space around its content does not count.
    File(PathBuf),
}

impl SecretSource {
    /// Reads it anew each time, so that a changed key needs no restart.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let value = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::NotSet { name: name.clone() })?,
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|source| SecretError::Unreadable { path: path.clone(), source })?,
        };
        match value.trim() {
            "" => Err(SecretError::Empty { source_name: self.to_string() }),
            value => Ok(Secret(value.to_owned())),
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "${name}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A secret that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the environment variable {name} is not set")]
    NotSet { name: String },
    #[error("the file {path} cannot be read: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{source_name} is empty")]
    Empty { source_name: String },
}

/// The value of a secret. It is not shown by `{:?}`, and has no `{}`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The value, for the one place where it has to go.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Whether the name of an environment variable is that of a secret.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL"].iter().any(|word| name.contains(word))
}

/// Takes the values of secrets out of text.
#[derive(Clone, Default)]
pub struct Redactor {
    /// The longest first: one secret may be the beginning of another.
    needles: Vec<String>,
}

impl Redactor {
    /// A redactor for what these sources hold now. Sources without a value have nothing to hide.
    pub fn of<'a>(sources: impl IntoIterator<Item = &'a SecretSource>) -> Self {
        Self::new(sources.into_iter().filter_map(|source| source.read().ok()))
    }

    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let mut needles = Vec::new();
        for Secret(value) in secrets {
            if value.len() < SHORTEST {
                continue;
            }
            // As it stands within JSON text and within a URL.
            let json = serde_json::Value::from(value.as_str()).to_string();
            needles.push(json[1..json.len() - 1].to_owned());
            needles.push(percent_encoded(&value));
            needles.push(value);
        }
        needles.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        needles.dedup();
        Self { needles }
    }

    /// Whether `text` holds a secret.
    pub fn finds(&self, text: &str) -> bool {
        self.needles.iter().any(|needle| text.contains(needle))
    }

    /// `text` without the secrets.
    pub fn clean(&self, text: String) -> String {
        if !self.finds(&text) {
            return text;
        }
        self.needles.iter().fold(text, |text, needle| text.replace(needle, MASK))
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} needles)", self.needles.len())
    }
}

/// As within a URL: everything but letters, digits and `-._~`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_every_form() {
        let redactor = Redactor::new([Secret("s3cr\"et/+".to_owned())]);
        let cleaned = |text: &str| redactor.clean(text.to_owned());
        assert_eq!(cleaned("key s3cr\"et/+!"), "key [redacted]!");
        assert_eq!(cleaned(r#"{"key":"s3cr\"et/+"}"#), r#"{"key":"[redacted]"}"#);
        assert_eq!(cleaned("?key=s3cr%22et%2F%2B"), "?key=[redacted]");
        assert_eq!(cleaned("nothing here"), "nothing here");
    }

    #[test]
    fn of_two_secrets_the_longer_goes_first() {
        let redactor = Redactor::new([Secret("sk-abc".to_owned()), Secret("sk-abc-def".to_owned())]);
        assert_eq!(redactor.clean("sk-abc-def sk-abc".to_owned()), "[redacted] [redacted]");
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret("sk-abc".to_owned())), "[redacted]");
        assert!(!format!("{:?}", Redactor::new([Secret("sk-abc".to_owned())])).contains("sk-abc"));
    }

    #[test]
    fn a_file_with_a_key_may_end_with_a_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "sk-abc\n").unwrap();
        assert_eq!(SecretSource::File(path.clone()).read().unwrap().expose(), "sk-abc");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(SecretSource::File(path).read(), Err(SecretError::Empty { .. })));
        assert!(SecretSource::Env("WFHOST_NO_SUCH_KEY".to_owned()).read().is_err());
    }

    #[test]
    fn names_of_secrets_are_known() {
        assert!(is_secret_name("OPENAI_API_KEY") && is_secret_name("gh_token"));
        assert!(!is_secret_name("PATH") && !is_secret_name("HOME"));
    }
}
