//! `wfhost diff`

use wfhost::steps;
use wfhost::store::Store;
use wfhost_core::{Json, counted};
use wfhost_view::{Difference, Told, compare, document};

use super::diagnostic::{Exit, UserError};
use super::place::{find_run, read_journal};
use super::{Common, Format, printer};

/// Show where two runs differ
///
/// Steps with equal requests are compared. Shows steps that only one of the runs has,
/// and answers that differ. Times are ignored.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost diff @last:2 @last
  wfhost diff run_01k9 run_01ka -o json")]
pub(crate) struct Diff {
    /// An id, the beginning of one, @last, @last:2
    a: String,
    /// The other run
    b: String,
}

async fn told(store: &dyn Store, run: &str) -> Result<Told, UserError> {
    let info = find_run(store, run).await?;
    let journal = read_journal(store, &info.id).await?;
    let input = match journal.entries.first().map(|entry| &entry.event) {
        Some(wfhost_core::Event::Started(started)) => started.input.clone(),
        _ => Json::null(),
    };
    Ok(Told { info, input, steps: steps(&journal) })
}

impl Diff {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let (a, b) = (told(store.as_ref(), &self.a).await?, told(store.as_ref(), &self.b).await?);
        let (same, differences) = compare(&a, &b);
        if common.output != Format::Text {
            let view = document! {
                "schema": "wfhost/diff/1", "a": a.info.id, "b": b.info.id, "same_steps": same,
                "differences": differences,
            };
            printer::json(&view);
            return Ok(Exit::Done);
        }
        printer::line(format!("a  {}", a.info.id));
        printer::line(format!("b  {}", b.info.id));
        let are = if same == 1 { "is" } else { "are" };
        printer::line(format!("{} {are} the same", counted(same, "step")));
        for Difference { what, a, b } in differences {
            printer::line(&what);
            for (side, value) in [("a", a), ("b", b)] {
                if let Some(value) = value {
                    let text = serde_json::from_str::<String>(value.as_str())
                        .unwrap_or_else(|_| value.into_string());
                    printer::line(format!("  {side}  {}", shortened(&text)));
                }
            }
        }
        Ok(Exit::Done)
    }
}

/// The first line of a text, as far as it is no longer than a line of a terminal.
fn shortened(text: &str) -> String {
    const WIDTH: usize = 100;
    let line = text.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(WIDTH).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
}
