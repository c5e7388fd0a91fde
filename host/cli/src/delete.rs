//! `wfhost delete`

use std::io::IsTerminal;

use wfhost::store::{Deleted, Fence};
use wfhost_core::counted;

use super::diagnostic::{Exit, UserError};
use super::place::find_run;
use super::{Common, printer};

/// Delete a run with everything that belongs to it
///
/// Its id is not reused. A run whose lease is held by a live process is refused.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost delete run_01k9 --yes")]
pub(crate) struct Delete {
    /// An id, the beginning of one, @last, @last:2
    run: String,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

impl Delete {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let run = info.id;
        confirm(
            self.yes,
            &format!("delete {run}, {} with {}?", info.state.as_str(), counted(info.entries, "entry")),
        )?;
        // A dead process does not hold it.
        if let Some(session) = info.lease.filter(|session| wfhost::owner::is_dead(&session.owner)) {
            store.fence(session.id, Fence::Dead).await?;
        }
        match store.delete(&run).await? {
            Deleted::Yes => printer::say(common, "Deleted", run.as_str()),
            Deleted::Held { owner, .. } => return Err(wfhost::HostError::Held { run, owner }.into()),
            Deleted::Needed => {
                return Err(UserError::usage(
                    "WF0516",
                    format!("{run} is an earlier round of a run that has not ended"),
                )
                .hint("its messages are passed on to the latest round; delete it when that has ended"));
            }
            // Nothing is asked of it but that it is there.
            Deleted::NoSuchRun | Deleted::Changed => return Err(wfhost::HostError::NoSuchRun(run).into()),
        }
        Ok(Exit::Done)
    }
}

/// Asks on a terminal; elsewhere `--yes` is needed.
pub(super) fn confirm(yes: bool, question: &str) -> Result<(), UserError> {
    ask(yes, question, "this cannot be undone: confirm it with --yes")
}

/// The same, with what is to be said where nobody can be asked.
pub(super) fn ask(yes: bool, question: &str, instead: &str) -> Result<(), UserError> {
    if yes {
        return Ok(());
    }
    let refused = || UserError::usage("WF0509", "nothing was done");
    if !std::io::stdin().is_terminal() {
        return Err(refused().hint(instead));
    }
    printer::prompt(&format!("{question} [y/N]"));
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    if read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(refused()) }
}
