//! `wfhost why`

use wfhost_view::{WhyView, parallel};

use super::diagnostic::{Exit, UserError};
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
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let journal = read_journal(store.as_ref(), &info.id).await?;
        let parallel = parallel(&common.config().unwrap_or_default(), started(&journal));
        let view = WhyView::of(store.as_ref(), &info, &wfhost::steps(&journal), parallel).await?;
        if common.output != Format::Text {
            printer::json(&view);
            return Ok(Exit::Done);
        }
        if let Some(project) = info.project.as_ref().filter(|_| !info.state.is_final()) {
            printer::say(common, "Project", project);
        }
        for blocker in view.blockers {
            let remedy = blocker.remedy.map(|remedy| format!("  do  {remedy}")).unwrap_or_default();
            printer::line(format!("{}{remedy}", blocker.what));
        }
        Ok(Exit::Done)
    }
}
