//! `wfhost why`

use wfhost::store::Part;
use wfhost::why::why;
use wfhost_view::{WhyView, parallel};

use super::diagnostic::{Exit, Trouble};
use super::place::{find_run, read_journal, started};
use super::{Common, Format, printer};

/// Explain what blocks a run and how to unblock it
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
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let journal = read_journal(store.as_ref(), &info.id).await?;
        let inbox = store.inbox(&info.id, Part::Next).await?.messages;
        let parallel = parallel(&common.config().unwrap_or_default(), started(&journal));
        let now = wfhost::clock::now();
        let blockers = why(&info, &wfhost::steps(&journal), &inbox, &parallel, now);
        if common.output != Format::Text {
            printer::json(&WhyView::new(&info, blockers));
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
