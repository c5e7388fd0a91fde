//! Secrets: named by an environment variable or a file, read when they are
//! needed, and taken out of everything that is shown or kept.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// Values shorter than this are not searched for: `test`, `none`, `ollama` and
/// the like stand in for a key where a service wants none, and would be found in
/// ordinary text. No key of a service is that short.
const SHORTEST: usize = 16;
/// A value of fewer different characters is no key either.
const DIFFERENT: usize = 5;
/// What stands where something secret stood.
pub const MASK: &str = "[redacted]";

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

impl Secret {
    /// Whether it is taken out of text. What is short or ordinary is not: an
    /// answer that has the same word by chance must stay as it is.
    pub fn is_hidden(&self) -> bool {
        let different: std::collections::BTreeSet<_> = self.0.chars().collect();
        self.0.len() >= SHORTEST && different.len() >= DIFFERENT
    }
}

/// Whether the name of an environment variable or of a header is that of a
/// secret: `OPENAI_API_KEY`, `x-auth-token`; not `KEYBOARD`, `MAX_TOKENS`, `KEY_FILE`.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let words: Vec<_> =
        name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let is_about = |word: &&str| {
        matches!(
            *word,
            "FILE" | "PATH" | "DIR" | "ID" | "NAME" | "URL" | "URI" | "LENGTH" | "LIMIT" | "TYPE" | "HEADER"
        )
    };
    let secret = [
        "KEY",
        "APIKEY",
        "ACCESSKEY",
        "SECRETKEY",
        "PRIVATEKEY",
        "TOKEN",
        "AUTHTOKEN",
        "ACCESSTOKEN",
        "SECRET",
        "SECRETS",
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "PWD",
        "CREDENTIAL",
        "CREDENTIALS",
        "AUTHORIZATION",
    ];
    // The shell's own.
    let is_directory = matches!(name.as_str(), "PWD" | "OLDPWD");
    !is_directory && words.iter().any(|word| secret.contains(word)) && !words.last().is_some_and(is_about)
}

/// Beginnings of tokens that services give out.
const TOKENS: [&str; 17] = [
    "sk-",
    "sk_live_",
    "rk_live_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xapp-",
    "AKIA",
    "AIza",
    "hf_",
    "npm_",
];

/// Whether a value holds something that looks like a credential: see [`hide_credentials`].
pub fn looks_secret(value: &str) -> bool {
    hide_credentials(value) != value
}

/// `text` with what looks like a credential in it hidden: the password within a
/// URL, parameters like `api_key=`, tokens of known services, what follows
/// `Bearer`, signed tokens (JWT). For settings, arguments and addresses that are
/// shown; what a provider was given is known exactly and taken out by a [`Redactor`].
pub fn hide_credentials(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    // Words, with what separates them.
    while !rest.is_empty() {
        let end = rest.find(is_separator).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let is_bearer = word.len() >= 8 && follows_bearer(&shown);
        match is_bearer || is_token(word) {
            true => shown.push_str(MASK),
            false => shown.push_str(word),
        }
        let next = after.chars().next();
        shown.extend(next);
        rest = &after[next.map_or(0, char::len_utf8)..];
    }
    hide_parameters(&hide_password(&shown))
}

/// Whether what comes next is the token of a header. Only the end of the text is looked at.
fn follows_bearer(text: &str) -> bool {
    const BEARER: &[u8] = b"bearer";
    let text = text.trim_end_matches([' ', '=', ':', '"', '\'']).as_bytes();
    text.len().checked_sub(BEARER.len()).is_some_and(|start| text[start..].eq_ignore_ascii_case(BEARER))
}

fn is_separator(c: char) -> bool {
    c.is_whitespace()
        || matches!(
            c,
            '"' | '\''
                | '='
                | '&'
                | '?'
                | ','
                | ';'
                | '('
                | ')'
                | '['
                | ']'
                | '{'
                | '}'
                | '@'
                | '/'
                | ':'
                | '#'
                | '<'
                | '>'
        )
}

fn is_token(word: &str) -> bool {
    let known = TOKENS.iter().any(|start| word.starts_with(start) && word.len() >= start.len() + 12);
    let signed = word.starts_with("eyJ") && word.split('.').count() == 3 && word.len() >= 30;
    (known || signed) && word.chars().any(|c| c.is_ascii_digit())
}

/// `scheme://user:password@host`
fn hide_password(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        shown.push_str(before);
        let authority = after.find(['/', '?', '#', ' ', '"', '\'']).unwrap_or(after.len());
        match after[..authority].rfind('@') {
            Some(at) => {
                let user = after[..at].split(':').next().unwrap_or_default();
                let hidden =
                    if after[..at].contains(':') { format!("{user}:{MASK}") } else { MASK.to_owned() };
                shown.push_str(&hidden);
                rest = &after[at..];
            }
            None => rest = after,
        }
    }
    shown.push_str(rest);
    shown
}

/// `?api_key=VALUE`, `--token=VALUE`, `password=VALUE`
fn hide_parameters(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(equals) = rest.find('=') {
        let (before, after) = (&rest[..equals], &rest[equals + 1..]);
        let name =
            before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))).next();
        let name = name.unwrap_or_default();
        shown.push_str(before);
        shown.push('=');
        let is_secret =
            is_secret_name(name) || matches!(name.to_ascii_lowercase().as_str(), "sig" | "signature");
        // Its end is looked for only where it is passed over: nothing is looked at twice.
        let value = |after: &str| {
            after
                .find(|c: char| c.is_whitespace() || matches!(c, '&' | '"' | '\'' | ',' | ';' | '#'))
                .unwrap_or(after.len())
        };
        let end = if is_secret { value(after) } else { 0 };
        if end > 0 {
            shown.push_str(MASK);
        }
        rest = &after[end..];
    }
    shown.push_str(rest);
    shown
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
        for secret in secrets.into_iter().filter(Secret::is_hidden) {
            let Secret(value) = secret;
            // As it stands within JSON text, within a URL, and after a terminal.
            let json = serde_json::Value::from(value.as_str()).to_string();
            needles.push(json[1..json.len() - 1].to_owned());
            needles.push(percent_encoded(&value));
            needles.push(value);
        }
        needles.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        needles.dedup();
        Self { needles }
    }

    /// Whether there is nothing to hide.
    pub fn is_empty(&self) -> bool {
        self.needles.is_empty()
    }

    /// Whether `text` holds a secret.
    pub fn finds(&self, text: &str) -> bool {
        self.needles.iter().any(|needle| text.contains(needle))
    }

    /// From where the first secret in `text` begins to where the last one ends.
    pub fn places(&self, text: &str) -> Option<Range<usize>> {
        let ranges = self.needles.iter().filter_map(|needle| {
            let last = text.rfind(needle)?;
            Some(text.find(needle)?..last + needle.len())
        });
        ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
    }

    /// How many bytes at the end of `text` may be the beginning of a secret that goes on in what comes next.
    pub fn begun(&self, text: &str) -> usize {
        let begun = self.needles.iter().filter_map(|needle| {
            let longest = text.len().min(needle.len() - 1);
            (1..=longest).rev().find(|&length| {
                needle.is_char_boundary(length) && text.as_bytes().ends_with(&needle.as_bytes()[..length])
            })
        });
        begun.max().unwrap_or(0)
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
        let redactor = Redactor::new([Secret("s3cr\"et/+0123456789".to_owned())]);
        let cleaned = |text: &str| redactor.clean(text.to_owned());
        assert_eq!(cleaned("key s3cr\"et/+0123456789!"), "key [redacted]!");
        assert_eq!(cleaned(r#"{"key":"s3cr\"et/+0123456789"}"#), r#"{"key":"[redacted]"}"#);
        assert_eq!(cleaned("?key=s3cr%22et%2F%2B0123456789"), "?key=[redacted]");
        assert_eq!(cleaned("nothing here"), "nothing here");
    }

    #[test]
    fn of_two_secrets_the_longer_goes_first() {
        let redactor = Redactor::new([
            Secret("sk-0123456789abcdef".to_owned()),
            Secret("sk-0123456789abcdef-ghi".to_owned()),
        ]);
        let text = "sk-0123456789abcdef-ghi sk-0123456789abcdef";
        assert_eq!(redactor.clean(text.to_owned()), "[redacted] [redacted]");
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
    fn what_stands_in_for_a_key_is_no_secret() {
        for value in
            ["none", "test", "ollama", "EMPTY", "sk-dummy", "xxxxxxxxxxxxxxxxxxxx", "0000000000000000"]
        {
            let secret = Secret(value.to_owned());
            assert!(!secret.is_hidden(), "{value}");
            let answer = format!("{{\"status\":\"{value}\"}}");
            assert_eq!(Redactor::new([secret]).clean(answer.clone()), answer);
        }
    }

    #[test]
    fn names_of_secrets_are_known() {
        for name in [
            "OPENAI_API_KEY",
            "gh_token",
            "x-api-key",
            "DB_PASSWORD",
            "CLIENT_SECRET",
            "AWS_SECRET_ACCESS_KEY",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "KEYBOARD",
            "MONKEY",
            "MAX_TOKENS",
            "KEY_FILE",
            "TOKEN_LIMIT",
            "PWD",
            "AWS_ACCESS_KEY_ID",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn what_looks_like_a_credential_is_hidden() {
        let cases = [
            ("postgres://ada:hunter2@db/x", "postgres://ada:[redacted]@db/x"),
            ("https://token@github.com/a", "https://[redacted]@github.com/a"),
            ("https://x.org/v1?api_key=abc&n=1", "https://x.org/v1?api_key=[redacted]&n=1"),
            ("--token=abc", "--token=[redacted]"),
            ("Authorization: Bearer abcdefgh1", "Authorization: Bearer [redacted]"),
            ("[\"./a\", \"ghp_0123456789abcdefghij\"]", "[\"./a\", \"[redacted]\"]"),
            ("sk-proj-0123456789abcdef", "[redacted]"),
        ];
        for (text, hidden) in cases {
            assert_eq!(hide_credentials(text), hidden);
        }
        for text in [
            "https://x.org/v1?page=2",
            "C.UTF-8",
            "--model=sonnet",
            "a@b.org",
            "sk-learn",
            "\"30m\"",
            "max_tokens=4",
        ] {
            assert_eq!(hide_credentials(text), text);
        }
    }

    /// If the work grew with the square of the text, this would take minutes.
    #[test]
    fn a_long_text_is_looked_through_once() {
        for piece in ["word ", "a=", "token=", "bearer ", "x:// ", "    ", "longer-word "] {
            let text = piece.repeat((4 << 20) / piece.len());
            assert!(!hide_credentials(&text).is_empty());
        }
        assert_eq!(hide_credentials("BEARER  \"abcdefgh1\""), "BEARER  \"[redacted]\"");
    }

    #[test]
    fn a_secret_may_go_on_in_the_next_piece() {
        let redactor = Redactor::new([Secret("sk-0123456789abcdef".to_owned())]);
        assert_eq!((redactor.begun("the key is sk-01"), redactor.begun("s")), (5, 1));
        assert_eq!((redactor.begun("the key is sk-02"), redactor.begun("")), (0, 0));
    }
}
