//! `wfhost completions`

use clap::CommandFactory;

use super::diagnostic::{Exit, Trouble};

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost completions bash > ~/.local/share/bash-completion/completions/wfhost")]
pub(crate) struct Completions {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Completions {
    pub fn execute(&self) -> Result<Exit, Trouble> {
        clap_complete::generate(self.shell, &mut super::Cli::command(), "wfhost", &mut std::io::stdout());
        Ok(Exit::Done)
    }
}
