//! The errors of module distribution.

use std::io;
use std::path::PathBuf;

/// Why a module cannot be fetched, stored or pushed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("invalid module reference `{text}`: {reason}")]
    Reference { text: String, reason: &'static str },
    #[error("the registry {host} cannot be reached: {reason}")]
    Unreachable { host: String, reason: String },
    /// 401. `known`: a login was sent, or it was not accepted where tokens are given out.
    #[error("the registry {host} {} {what}{}", if *.known { "rejected the login for" } else { "requires a login for" }, quoted(.said))]
    Login { host: String, what: String, known: bool, said: String },
    #[error("the registry {host} denied access to {what}{}", quoted(.said))]
    Forbidden { host: String, what: String, said: String },
    #[error("the registry {host} does not have {what}{}", quoted(.said))]
    Missing { host: String, what: String, said: String },
    #[error("the registry {host} is overloaded{}", .wait_s.map(|wait| format!("; it asks to wait for {wait} s")).unwrap_or_default())]
    Busy { host: String, wait_s: Option<u64> },
    /// It was written often, and each time somebody else wrote it meanwhile.
    #[error("{what} could not be written: others change it at the same time")]
    Contended { what: String },
    /// Something that no registry should answer.
    #[error("the registry {host} sent an invalid answer: {what}")]
    Answer { host: String, what: String },
    #[error("{what} does not match its digest: expected {expected}, received {found}")]
    Digest { what: String, expected: String, found: String },
    #[error("{what} does not match its size: expected {expected} bytes, received {found}")]
    Length { what: String, expected: u64, found: String },
    #[error("{what} is too large: {bytes} bytes, the limit is {most}")]
    TooLarge { what: String, bytes: u64, most: u64 },
    #[error("{what} is not a module: {reason}")]
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
    #[error("{reference} already exists with other content: {there}")]
    Taken { reference: String, there: String },
    #[error("{reference} is not signed{}", by(.wanted))]
    Unsigned { reference: String, wanted: Vec<String> },
    #[error("{reference} has {count} {} that cannot be accepted{}: {reason}", if *.count == 1 { "signature" } else { "signatures" }, by(.wanted))]
    BadSignature { reference: String, wanted: Vec<String>, count: usize, reason: &'static str },
    #[error("{reference} has no provenance by an accepted signer")]
    NoProvenance { reference: String },
    #[error("{reference} is not signed by its previous signer {before}{}", but_by(.now))]
    SignerChanged { reference: String, before: String, now: Vec<String> },
    /// The lock file names somebody who has not signed what it locks.
    #[error("{reference} is not signed by {signer}, whom {path} names{}", but_by(.now), path = path.display())]
    LockedSigner { reference: String, path: PathBuf, signer: String, now: Vec<String> },
    #[error("the key {path} cannot be used: {reason}", path = path.display())]
    Key { path: PathBuf, reason: String },
    #[error("the lock file {path} cannot be used: {reason}", path = path.display())]
    Lock { path: PathBuf, reason: String },
    #[error("{reference} differs from the locked module: {reason}")]
    Departs { reference: String, reason: String },
    #[error("{reference} is not in {path}", path = path.display())]
    NotLocked { reference: String, path: PathBuf },
    #[error("the archive {path} cannot be used: {reason}", path = path.display())]
    Archive { path: PathBuf, reason: String },
    /// It would be more than an archive may have.
    #[error("the modules are too much for the archive {path}: {bytes} bytes in {files} files, the limits are {most_bytes} bytes and {most_files} files", path = path.display())]
    Unsaved { path: PathBuf, bytes: u64, files: usize, most_bytes: u64, most_files: usize },
    #[error("no version matches {reference}{}", newest(.there))]
    NoVersion {
        reference: String,
        /// The newest ones.
        there: Vec<String>,
    },
    #[error("the certificates for the registry {host} cannot be used: {path}: {reason}", path = path.display())]
    Certificates { host: String, path: PathBuf, reason: String },
    #[error("the registry {host} redirects {what} to {to}, which is not followed")]
    Redirect { host: String, what: String, to: String },
}

fn quoted(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": it says \"{said}\"") }
}

fn by(names: &[String]) -> String {
    if names.is_empty() { " by a known key".to_owned() } else { format!(" by {}", names.join(" or ")) }
}

fn newest(there: &[String]) -> String {
    if there.is_empty() {
        "; no version is available".to_owned()
    } else {
        format!("; available: {}", there.join(", "))
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
            Self::SignerChanged { .. } | Self::LockedSigner { .. } => "WF0942",
            Self::Key { .. } => "WF0943",
            Self::NoProvenance { .. } => "WF0952",
            Self::Contended { .. } => "WF0953",
            Self::Lock { .. } => "WF0945",
            Self::Departs { .. } | Self::NotLocked { .. } => "WF0946",
            Self::Archive { .. } | Self::Unsaved { .. } => "WF0947",
            Self::Certificates { .. } => "WF0948",
            Self::NoVersion { .. } => "WF0949",
        }
    }

    /// How to fix it.
    pub fn hint(&self) -> String {
        match self {
            Self::Reference { .. } => {
                "a reference consists of registry, repository and version: ghcr.io/acme/reviewer:1.4.2, or @sha256:..".into()
            }
            Self::Unreachable { host, reason } if reason.contains("certificate") => format!(
                "nothing was sent; for a private certificate authority set `[registries.\"{host}\"] ca = \"FILE\"` in wfhost.toml"
            ),
            Self::Unreachable { host, .. } => format!(
                "check the name and the network; a registry without TLS on another machine needs \
                 `[registries.\"{host}\"] plain_http = true` in wfhost.toml; `--offline` uses the local store"
            ),
            Self::Login { host, .. } => format!("log in: `wfhost login {host}`"),
            Self::Forbidden { host, .. } => {
                format!("log in as a user with permission: `wfhost login {host}`; in CI, check the scopes of the token")
            }
            Self::Missing { .. } => {
                "check the name and the tag; some registries also report this for content that a login is not allowed to see".into()
            }
            Self::Busy { host, .. } => {
                format!("try again later; a login may raise the limit: `wfhost login {host}`")
            }
            Self::Contended { .. } => "sign again, when nobody else does".into(),
            Self::Answer { .. } => "check whether the address is a registry; nothing was stored".into(),
            Self::Digest { .. } | Self::Length { .. } => {
                "nothing of it was stored or run; try again, and report it to the registry's owner if it persists".into()
            }
            Self::TooLarge { .. } => "nothing of it was stored".into(),
            Self::NotAModule { .. } => {
                "a module is a single component, as `wfhost push` and `wkg oci push` upload it".into()
            }
            Self::Logins { .. } => "`wfhost explain WF0930` says where logins are stored".into(),
            Self::Credential { host, .. } => {
                format!("store a login for wfhost: `wfhost login {host}`")
            }
            Self::Store { .. } => "make it writable, or set XDG_DATA_HOME to another directory".into(),
            Self::Damaged { path, .. } => format!(
                "move {} away and fetch the modules again; modules of runs are in the database",
                path.display()
            ),
            Self::Offline { reference } => format!("fetch it while there is a network: `wfhost pull {reference}`"),
            Self::Taken { .. } => {
                "a version should not change: push another one, or use `--force`".into()
            }
            Self::Unsigned { .. } | Self::BadSignature { .. } => {
                "nothing of it was fetched or run; accepted signers are in [signatures] of wfhost.toml".into()
            }
            Self::NoProvenance { .. } => {
                "nothing was fetched or run; publishers attach it with `wfhost push REFERENCE DIR --sign KEY --provenance`".into()
            }
            Self::SignerChanged { reference, .. } => format!(
                "verify this with the publisher; to accept the new signer: `wfhost pull {reference} --accept`"
            ),
            Self::LockedSigner { reference, path, .. } => format!(
                "ask the publisher, or find out who changed {}; `wfhost update {reference} --accept` locks the current \
                 version and its signer",
                path.display()
            ),
            Self::Key { reason, .. } if reason.contains("passphrase") => {
                "set the passphrase of an encrypted key in WFHOST_KEY_PASSPHRASE".into()
            }
            Self::Key { .. } => "`wfhost key new NAME` creates a key pair; keys are PEM, as OpenSSL and cosign write them".into(),
            Self::Lock { .. } => {
                "restore it from version control, or remove it and add the modules again: `wfhost add REFERENCE`".into()
            }
            Self::Departs { reference, .. } => {
                format!("find out why it changed; `wfhost update {reference}` locks the current version")
            }
            Self::NotLocked { reference, .. } => format!("lock it: `wfhost add {reference}`, and commit the file"),
            Self::NoVersion { .. } => {
                "only tags that are full versions match, like 1.4.2; `^1.2` means versions compatible with it, as in Cargo".into()
            }
            Self::Certificates { host, .. } => format!(
                "name a file with certificates in PEM: `[registries.\"{host}\"] ca = \"FILE\"` in wfhost.toml"
            ),
            Self::Archive { .. } => "nothing of it was stored; `wfhost save FILE REFERENCE` writes an archive".into(),
            Self::Unsaved { .. } => {
                "save some of the modules to a file of their own: `wfhost save FILE REFERENCE..`; `wfhost modules` lists them".into()
            }
            Self::Redirect { .. } => "logins and modules are only transferred where they cannot be read or changed".into(),
        }
    }
}
