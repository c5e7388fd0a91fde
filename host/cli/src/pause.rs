//! `wfhost pause`

use wfhost::store::{MessageBody, Posted};
use wfhost::world::text::command;

use super::diagnostic::{Exit, UserError};
use super::place::find_run;
use super::{Common, printer};

/// Pause a run until it is resumed
///
/// The run starts nothing new; calls in flight are finished and recorded. Signals
/// that arrive meanwhile are kept.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost pause run_01k9
  wfhost resume run_01k9")]
pub(crate) struct Pause {
    /// An id, the beginning of one, @last, @last:2
    run: String,
}

impl Pause {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let (posted, run) = wfhost::post(&store, &info.id, MessageBody::Pause).await?;
        if posted == Posted::Stopping {
            printer::say(
                common,
                "Stopping",
                &format!("{run}: its cancellation was requested, so it is not paused"),
            );
            return Ok(Exit::Done);
        }
        // Of several rounds it is the latest that is paused, whichever was named.
        let info = store.run(&run).await?;
        match info.is_some_and(|info| wfhost::is_held(&info)) {
            true => printer::say(
                common,
                "Requested",
                &format!("pause of {}; it takes effect when its calls are done", run),
            ),
            false => printer::say(common, "Paused", run.as_str()),
        }
        printer::say(common, "next", &command("resume", &run).to_string());
        Ok(Exit::Done)
    }
}
