//! `wfhost why`

use serde_json::json;
use wfhost::store::Part;
use wfhost::why::{Parallel, why};
use wfhost_core::Started;

use super::diagnostic::{Exit, Trouble};
use super::place::{find_run, read_journal, started};
use super::{Common, Format, printer};

/// Say what keeps a run, and what would move it: one line for each thing
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost why @last
  wfhost why run_01k9 -o json")]
pub(crate) struct Why {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
}

impl Why {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let store = common.reader()?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let journal = read_journal(store.as_ref(), &info.id).await?;
        let inbox = store.inbox(&info.id, Part::Next).await?.messages;
        let parallel = parallel(common, started(&journal));
        let now = wfhost::clock::now();
        let blockers = why(&info, &wfhost::steps(&journal), &inbox, &parallel, now);
        if common.output != Format::Text {
            let blockers: Vec<_> =
                blockers.iter().map(|b| json!({ "what": b.what, "do": b.remedy })).collect();
            let view = json!({
                "schema": "wfhost/why/1", "run": info.id, "state": info.state.as_str(), "project": info.project,
                "blockers": blockers,
            });
            printer::json(&view);
            return Ok(Exit::Done);
        }
        if let Some(project) = info.project.as_ref().filter(|_| !info.state.is_final()) {
            printer::say(common, "Project", project);
        }
        for blocker in blockers {
            let remedy = blocker.remedy.map(|remedy| format!("  do  {remedy}")).unwrap_or_default();
            printer::line(format!("{}{remedy}", blocker.what));
        }
        Ok(Exit::Done)
    }
}

/// How many calls may be under way, by the run and by the configuration that holds here, as far as
/// that can be used.
fn parallel(common: &Common, started: Option<&Started>) -> Parallel {
    let config = started.map(|started| started.config.clone()).unwrap_or_default();
    let here = common.config().unwrap_or_default();
    let default = config.agent.or_else(|| here.default_agent().map(str::to_owned));
    let run = [config.max_parallel, here.parallel_calls()].into_iter().flatten().min();
    Parallel { run, providers: here.parallel_by_provider(), default }
}
