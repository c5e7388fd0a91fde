//! `wfhost completions`

use super::diagnostic::{Exit, UserError};
use super::printer;

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost completions bash > ~/.local/share/bash-completion/completions/wfhost")]
pub(crate) struct Completions {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Completions {
    pub fn execute(&self) -> Result<Exit, UserError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "wfhost", &mut script);
        printer::data(&String::from_utf8_lossy(&script));
        Ok(Exit::Done)
    }
}
