//! `wfhost key`

use std::path::PathBuf;

use serde_json::json;
use wfhost_registry::keys;

use super::diagnostic::{Exit, UserError};
use super::{Common, Format, printer, registry};

/// Create keys for signing modules
#[derive(clap::Args)]
pub(crate) struct KeyVerb {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Create a key pair: NAME.key, which is private, and NAME.pub for verification
    New(New),
}

/// Create a key pair: NAME.key, which is private, and NAME.pub for verification
///
/// The keys are P-256 in PEM, which cosign and OpenSSL read. Only its owner can read the
/// private key; with --encrypt it is encrypted with a passphrase.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost key new acme
  wfhost push ghcr.io/acme/reviewer:1.4.2 --sign acme")]
struct New {
    /// The name of the key
    name: String,
    /// The directory of the key [default: wfhost/keys in the user's configuration directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Encrypt the private key with the passphrase in WFHOST_KEY_PASSPHRASE
    #[arg(long)]
    encrypt: bool,
}

impl KeyVerb {
    pub fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let Action::New(New { name, dir, encrypt }) = &self.action;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_name) {
            return Err(UserError::usage("WF0943", format!("invalid key name `{name}`"))
                .hint("a name consists of letters, digits, and - _ ."));
        }
        let dir = dir.clone().or_else(registry::keys_dir).ok_or_else(|| {
            UserError::host("WF0943", "there is no directory for keys: HOME is not set")
                .hint("name one with --dir")
        })?;
        let passphrase = registry::passphrase();
        if *encrypt && passphrase.is_none() {
            return Err(UserError::usage("WF0943", "no passphrase is set to encrypt the key with")
                .hint("set WFHOST_KEY_PASSPHRASE; signing needs it as well"));
        }
        let passphrase = passphrase.filter(|_| *encrypt);
        let (private, public, key) = keys::write_pair(&dir, name, passphrase.as_deref())?;
        printer::say(common, "Secret", &private.display().to_string());
        printer::say(common, "Public", &format!("{}, for verification:", public.display()));
        match common.output {
            Format::Text => {
                printer::line("[signatures.keys]");
                printer::line(format!("{name} = \"{}\"", key.to_base64()));
            }
            Format::Json | Format::Jsonl => printer::json(&json!({
                "schema": "wfhost/key/1", "name": name, "secret": private, "public": public, "key": key.to_base64(),
            })),
        }
        Ok(Exit::Done)
    }
}
