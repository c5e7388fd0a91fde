//! `wfhost check`

use wfhost_core::Digest;

use super::diagnostic::{Exit, Trouble};
use super::{Common, follow, module_arg};
use crate::engine::Engine;

/// Check that a module can be run as a workflow: its imports, its exports, its code
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost check hello.wasm")]
pub(crate) struct Check {
    /// A component's file
    module: String,
}

impl Check {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let (name, bytes) = module_arg::load(None, &self.module).await?;
        let digest = Digest::of(&bytes);
        Engine::new(None)?.module(&name, digest, &bytes, crate::engine::Denied::Refuse)?;
        follow::say(common, "Fits", &format!("{name}  {digest}"));
        Ok(Exit::Done)
    }
}
