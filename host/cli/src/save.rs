//! `wfhost save`, `wfhost load`

use std::path::PathBuf;

use serde_json::json;
use wfhost_registry::{Reference, archive};

use super::diagnostic::{Exit, UserError};
use super::{Common, Format, printer, registry};

/// Save modules of the local store, with their signatures, to a file
///
/// For machines without a network. The file is an OCI archive, which skopeo can read.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost save modules.tar ghcr.io/acme/reviewer:1.4.2
  wfhost save modules.tar        everything in the local store")]
pub(crate) struct Save {
    /// The file
    file: PathBuf,
    /// The modules [default: all]
    references: Vec<String>,
}

/// Load modules, with their signatures, from a file into the local store
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost load modules.tar")]
pub(crate) struct Load {
    /// The file
    file: PathBuf,
}

impl Save {
    pub fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = registry::store()?;
        let mut references = Vec::new();
        for reference in &self.references {
            references.push(reference.parse::<Reference>()?);
        }
        if references.is_empty() {
            references.extend(store.modules()?.into_iter().map(|kept| kept.reference));
        }
        if references.is_empty() {
            return Err(UserError::usage("WF0932", "the local store is empty")
                .hint("fetch a module first: `wfhost pull REFERENCE`"));
        }
        archive::save(&store, &references, &self.file)?;
        show(common, "Saved", &references);
        Ok(Exit::Done)
    }
}

impl Load {
    pub fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let references = archive::load(&registry::store()?, &self.file)?;
        show(common, "Loaded", &references);
        Ok(Exit::Done)
    }
}

fn show(common: &Common, word: &str, references: &[Reference]) {
    for reference in references {
        match common.output {
            Format::Text => printer::say(common, word, &reference.to_string()),
            Format::Json | Format::Jsonl => {
                printer::json(
                    &json!({ "schema": "wfhost/kept/1", "reference": reference.to_string(), "name": reference.name() }),
                );
            }
        }
    }
}
