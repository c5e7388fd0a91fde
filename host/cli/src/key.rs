//! `wfhost key`

use std::path::PathBuf;

use serde_json::json;
use wfhost_registry::keys;

use super::diagnostic::{Exit, Trouble};
use super::{Common, Format, printer, registry};

/// Make a key that signs modules
#[derive(clap::Args)]
pub(crate) struct KeyVerb {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make a pair of keys: NAME.key, which is secret, and NAME.pub for those who verify
    New(New),
}

/// Make a pair of keys: NAME.key, which is secret, and NAME.pub for those who verify
///
/// They are P-256 in PEM, as cosign and OpenSSL read them. The secret one is not
/// encrypted; it can be read by its owner only.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost key new acme
  wfhost push ghcr.io/acme/reviewer:1.4.2 --sign acme")]
struct New {
    /// What the key is called
    name: String,
    /// Where it is put [default: wfhost/keys in the user's configuration directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl KeyVerb {
    pub fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let Action::New(New { name, dir }) = &self.action;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_name) {
            return Err(Trouble::usage("WF0943", format!("a key cannot be called `{name}`"))
                .hint("its name has letters, digits, and - _ ."));
        }
        let dir = dir.clone().or_else(registry::keys_dir).ok_or_else(|| {
            Trouble::host("WF0943", "there is no place for keys: HOME is not set").hint("name one with --dir")
        })?;
        let (private, public, key) = keys::write_pair(&dir, name)?;
        printer::say(common, "Secret", &private.display().to_string());
        printer::say(common, "Public", &format!("{}, for those who verify:", public.display()));
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
