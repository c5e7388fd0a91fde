//! `wfhost terminate`

use wfhost::agents::Providers;
use wfhost::{Adopt, Evict};

use super::diagnostic::{Exit, UserError};
use super::place::find_run;
use super::{Common, printer};

/// End a run immediately, without cleanup
///
/// The program does not notice and cannot clean up, and messages that it has not
/// consumed are lost: try `wfhost cancel` first. If another process advances the
/// run, its lease is revoked, and it stops its calls before that lease ends.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost terminate run_01k9 --reason 'it never finishes'")]
pub(crate) struct Terminate {
    /// An id, the beginning of one, @last, @last:2
    run: String,
    /// The reason, for the journal
    #[arg(long)]
    reason: Option<String>,
}

impl Terminate {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let run = find_run(store.as_ref(), &self.run).await?.id;
        let host = common.host(store, Providers::builtin(), Evict::default(), Adopt::Own)?;
        let ended = host.terminate(&run, self.reason.as_deref()).await;
        host.close(None).await;
        printer::say(common, "Ended", ended?.as_str());
        Ok(Exit::Done)
    }
}
