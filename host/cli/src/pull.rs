//! `wfhost pull`

use std::path::PathBuf;

use serde_json::json;
use wfhost::engine::summarize;
use wfhost_core::Digest;
use wfhost_registry::whole;

use super::diagnostic::{Exit, UserError};
use super::registry::Fetch;
use super::{Common, Format, printer, registry};

/// Fetch a module from a registry into the local store
///
/// The store is an OCI image layout in the user's data directory, which skopeo and
/// oras can read.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost pull ghcr.io/acme/reviewer:1.4.2
  wfhost pull ghcr.io/acme/reviewer:1.4.2 --to reviewer.wasm")]
pub(crate) struct Pull {
    /// The module: REGISTRY/NAME:TAG, REGISTRY/NAME@sha256:DIGEST, or the newest version that
    /// matches: REGISTRY/NAME@^1.2
    reference: String,
    /// Also write the component to a file
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Accept a signer that differs from the previous one
    #[arg(long)]
    accept: bool,
    #[command(flatten)]
    fetch: Fetch,
}

impl Pull {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let reference = registry::meant(common, &self.reference)?;
        let session = registry::open(common)?;
        let fetched = registry::fetch_with(common, &session, &reference, self.fetch, self.accept).await?;
        let summary = summarize(&fetched.bytes)?;
        if let Some(file) = &self.to {
            whole::write_named(file, &fetched.bytes, None).map_err(|error| {
                UserError::host("WF0931", format!("{} cannot be written: {error}", file.display()))
                    .hint("name another file with --to")
            })?;
        }
        let (exact, digest) = (fetched.origin.exact(), Digest::of(&fetched.bytes));
        printer::say(common, "Pulled", &format!("{}  {digest}", fetched.name));
        match common.output {
            Format::Text => printer::line(&exact),
            Format::Json | Format::Jsonl => printer::json(&json!({
                "schema": "wfhost/pulled/1", "reference": exact, "manifest": fetched.origin.digest,
                "name": fetched.name, "signers": fetched.origin.signers, "digest": digest, "bytes": fetched.bytes.len(), "exports": summary.exports,
            })),
        }
        Ok(Exit::Done)
    }
}
