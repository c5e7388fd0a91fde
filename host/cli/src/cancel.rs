//! `wfhost cancel`

use wfhost::agents::Providers;
use wfhost::store::MessageBody;
use wfhost::{Adopt, Ending, HostError, ResumeOptions, is_held};

use super::diagnostic::{Exit, UserError};
use super::place::{AgentArgs, find_run};
use super::{Common, follow, printer};

/// Cancel a run
///
/// Its open steps end as cancelled; the program observes this and has ten seconds to
/// clean up. If no other process advances the run, this command does meanwhile.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost cancel @last
  wfhost cancel run_01k9 --reason 'no longer needed'")]
pub(crate) struct Cancel {
    /// An id, the beginning of one, @last, @last:2
    run: String,
    /// The reason, for the journal
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    agents: AgentArgs,
}

impl Cancel {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let body = MessageBody::Cancel { reason: self.reason.clone() };
        let (_, run) = wfhost::post(&store, &info.id, body).await?;
        let info = store.run(&run).await?.ok_or_else(|| HostError::NoSuchRun(run.clone()))?;
        if is_held(&info) {
            printer::say(
                common,
                "Requested",
                &format!("cancellation of {run}; the process that advances it carries it out"),
            );
            return Ok(Exit::Done);
        }
        // A run can be stopped also if its project is gone or not trusted.
        let config = common.config_for(&info);
        let configured = config
            .and_then(|config| Ok((self.agents.providers(&config)?, self.agents.other_providers(&config)?)));
        let (usual, providers) = configured.unwrap_or_else(|_| (Providers::builtin(), None));
        let host = common.host(store, usual, self.agents.evict.into(), Adopt::Own)?;
        let mut handle =
            match host.resume(&run, ResumeOptions { providers, ..ResumeOptions::default() }).await {
                Ok(handle) => handle,
                // Another process picked it up just now, or has cancelled it already.
                Err(HostError::Held { .. } | HostError::Ended { .. }) => host.watch(&run),
                Err(error) => return Err(error.into()),
            };
        match handle.ending().await? {
            Ending::Finished(Ok(_)) => {
                printer::say(common, "Done", &format!("{run} completed before it was cancelled"))
            }
            Ending::Finished(Err(failure)) => printer::say(common, "Stopped", &format!("{run}  {failure}")),
            Ending::Refused { mismatch: Some(mismatch), .. } => {
                return Err(UserError::mismatch(&run, &mismatch, None));
            }
            Ending::Continued(next) => {
                printer::say(common, "Continued", &format!("as {next}, which is cancelled too"));
            }
            Ending::Refused { .. } | Ending::Paused | Ending::Stopped => {}
        }
        // Its children end with it.
        while follow::has_busy_relatives(&host, &info).await? {
            handle.changed().await;
        }
        Ok(Exit::Done)
    }
}
