//! `wfhost why`

use serde_json::json;
use wfhost::store::Part;
use wfhost::why::why;

use super::diagnostic::{Exit, Trouble};
use super::place::{find_run, read_journal};
use super::{Common, Format, print_line};

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
        let store = common.store()?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let journal = read_journal(store.as_ref(), &info.id).await?;
        let inbox = store.inbox(&info.id, Part::Next).await?.messages;
        let blockers = why(&info, &wfhost::steps(&journal), &inbox, wfhost::clock::now());
        if common.output != Format::Text {
            let blockers: Vec<_> =
                blockers.iter().map(|b| json!({ "what": b.what, "do": b.remedy })).collect();
            let view = json!({
                "schema": "wfhost/why/1", "run": info.id, "state": info.state.as_str(), "blockers": blockers,
            });
            print_line(&view.to_string());
            return Ok(Exit::Done);
        }
        for blocker in blockers {
            let remedy = blocker.remedy.map(|remedy| format!("  do  {remedy}")).unwrap_or_default();
            print_line(&format!("{}{remedy}", blocker.what));
        }
        Ok(Exit::Done)
    }
}
