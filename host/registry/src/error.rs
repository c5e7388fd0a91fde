//! What can go wrong with modules of elsewhere.

use std::io;
use std::path::PathBuf;

/// Why a module cannot be had, kept or pushed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("`{text}` is no reference of a module in a registry: {reason}")]
    Reference { text: String, reason: &'static str },
    #[error("the registry {host} cannot be reached: {reason}")]
    Unreachable { host: String, reason: String },
    /// 401. `known`: a login was sent, or it was not accepted where tokens are given out.
    #[error("the registry {host} {} {what}{}", if *.known { "does not accept the login for" } else { "wants a login for" }, quoted(.said))]
    Login { host: String, what: String, known: bool, said: String },
    #[error("the registry {host} does not allow {what}{}", quoted(.said))]
    Forbidden { host: String, what: String, said: String },
    #[error("the registry {host} does not have {what}{}", quoted(.said))]
    Missing { host: String, what: String, said: String },
    #[error("the registry {host} has too much to do{}", .wait_s.map(|wait| format!("; it wants to be left alone for {wait} s")).unwrap_or_default())]
    Busy { host: String, wait_s: Option<u64> },
    /// Something that no registry should answer.
    #[error("the registry {host} answered what cannot be used: {what}")]
    Answer { host: String, what: String },
    #[error("{what} is not what it was said to be: {expected} was expected, and {found} came")]
    Digest { what: String, expected: String, found: String },
    #[error("{what} has not the size that its manifest says: {expected} bytes, and {found} came")]
    Length { what: String, expected: u64, found: String },
    #[error("{what} is too large: {bytes} bytes, and at most {most} may be")]
    TooLarge { what: String, bytes: u64, most: u64 },
    #[error("{what} is no module: {reason}")]
    NotAModule { what: String, reason: String },
    #[error("{path} cannot be used for logins: {reason}", path = path.display())]
    Logins { path: PathBuf, reason: String },
    #[error("the login for {host} cannot be read: {reason}")]
    Credential { host: String, reason: String },
    #[error("the local store {path} cannot be used: {source}", path = path.display())]
    Store { path: PathBuf, source: io::Error },
    #[error("the local store {path} is damaged: {reason}", path = path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{reference} is not in the local store")]
    Offline { reference: String },
    #[error("{reference} is there already with other content: {there}")]
    Taken { reference: String, there: String },
    #[error("{reference} is not signed{}", by(.wanted))]
    Unsigned { reference: String, wanted: Vec<String> },
    #[error("{reference} has {count} {} that cannot be accepted{}: {reason}", if *.count == 1 { "signature" } else { "signatures" }, by(.wanted))]
    BadSignature { reference: String, wanted: Vec<String>, count: usize, reason: &'static str },
    #[error("{reference} is not signed by {before}, who signed what came from there before{}", but_by(.now))]
    SignerChanged { reference: String, before: String, now: Vec<String> },
    #[error("the key {path} cannot be used: {reason}", path = path.display())]
    Key { path: PathBuf, reason: String },
    #[error("the lock file {path} cannot be used: {reason}", path = path.display())]
    Lock { path: PathBuf, reason: String },
    #[error("{reference} is not what is locked: {reason}")]
    Departs { reference: String, reason: String },
    #[error("{reference} is not in {path}", path = path.display())]
    NotLocked { reference: String, path: PathBuf },
    #[error("the archive {path} cannot be used: {reason}", path = path.display())]
    Archive { path: PathBuf, reason: String },
    #[error("the registry {host} leads {what} to {to}, where it is not followed")]
    Redirect { host: String, what: String, to: String },
}

fn quoted(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": it says \"{said}\"") }
}

fn by(names: &[String]) -> String {
    if names.is_empty() {
        " by anybody who is known".to_owned()
    } else {
        format!(" by {}", names.join(" or "))
    }
}

fn but_by(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(", but by {}", names.join(" and ")) }
}

impl RegistryError {
    /// The stable code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Reference { .. } => "WF0920",
            Self::Unreachable { .. } => "WF0921",
            Self::Login { .. } => "WF0922",
            Self::Forbidden { .. } => "WF0923",
            Self::Missing { .. } => "WF0924",
            Self::Busy { .. } => "WF0925",
            Self::Answer { .. } => "WF0926",
            Self::Digest { .. } | Self::Length { .. } => "WF0927",
            Self::TooLarge { .. } => "WF0928",
            Self::NotAModule { .. } => "WF0929",
            Self::Logins { .. } | Self::Credential { .. } => "WF0930",
            Self::Store { .. } | Self::Damaged { .. } => "WF0931",
            Self::Offline { .. } => "WF0932",
            Self::Taken { .. } => "WF0933",
            Self::Redirect { .. } => "WF0935",
            Self::Unsigned { .. } => "WF0940",
            Self::BadSignature { .. } => "WF0941",
            Self::SignerChanged { .. } => "WF0942",
            Self::Key { .. } => "WF0943",
            Self::Lock { .. } => "WF0945",
            Self::Departs { .. } | Self::NotLocked { .. } => "WF0946",
            Self::Archive { .. } => "WF0947",
        }
    }

    /// What mends it.
    pub fn hint(&self) -> String {
        match self {
            Self::Reference { .. } => {
                "a reference names registry, repository and version: ghcr.io/acme/reviewer:1.4.2, or @sha256:..".into()
            }
            Self::Unreachable { host, .. } => format!(
                "look at the name and the network; a registry without TLS that is not on this machine needs \
                 `[registries.\"{host}\"] plain_http = true` in wfhost.toml; `--offline` takes what is here"
            ),
            Self::Login { host, .. } => format!("log in: `wfhost login {host}`"),
            Self::Forbidden { host, .. } => {
                format!("log in as somebody who may: `wfhost login {host}`; in CI, look at the scopes of the token")
            }
            Self::Missing { .. } => {
                "look at the name and the tag; some registries say so of what a login may not see, too".into()
            }
            Self::Busy { host, .. } => {
                format!("try again later; who is logged in may ask for more: `wfhost login {host}`")
            }
            Self::Answer { .. } => "look at the address: is it a registry? Nothing was kept".into(),
            Self::Digest { .. } | Self::Length { .. } => {
                "nothing of it was kept or run; try again, and tell the registry's owner if it stays".into()
            }
            Self::TooLarge { .. } => "nothing of it was kept".into(),
            Self::NotAModule { .. } => {
                "a module is one component, as `wfhost push` and `wkg oci push` put it there".into()
            }
            Self::Logins { .. } => "`wfhost explain WF0930` says where logins are kept".into(),
            Self::Credential { host, .. } => {
                format!("keep a login for wfhost itself: `wfhost login {host}`")
            }
            Self::Store { .. } => "make it writable, or set XDG_DATA_HOME to another place".into(),
            Self::Damaged { path, .. } => format!(
                "move {} away and fetch again what is needed; runs have their modules in the database",
                path.display()
            ),
            Self::Offline { reference } => format!("fetch it while there is a network: `wfhost pull {reference}`"),
            Self::Taken { .. } => {
                "a version stays what it is: push another one; `--force` moves it all the same".into()
            }
            Self::Unsigned { .. } | Self::BadSignature { .. } => {
                "nothing of it was fetched or run; whose signatures count says [signatures] of wfhost.toml".into()
            }
            Self::SignerChanged { reference, .. } => format!(
                "ask those who publish it; if it is meant to be so: `wfhost pull {reference} --accept`"
            ),
            Self::Key { .. } => "`wfhost key new NAME` makes a pair; keys are PEM, as OpenSSL and cosign write them".into(),
            Self::Lock { .. } => {
                "restore it from version control, or remove it and add the modules again: `wfhost add REFERENCE`".into()
            }
            Self::Departs { reference, .. } => {
                format!("look at what changed it; `wfhost update {reference}` locks what is there now")
            }
            Self::NotLocked { reference, .. } => format!("lock it: `wfhost add {reference}`, and commit the file"),
            Self::Archive { .. } => "nothing of it was kept; `wfhost save FILE REFERENCE` writes one".into(),
            Self::Redirect { .. } => "logins and modules are not sent or taken where they could be read or changed".into(),
        }
    }
}
