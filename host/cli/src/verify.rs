//! `wfhost verify`

use serde_json::json;
use wfhost::verify::verify;

use wfhost_registry::Reference;

use super::diagnostic::{Exit, Trouble};
use super::place::find_run;
use super::registry::Fetch;
use super::{Common, Format, printer};

/// Prove that the journal of a run is complete and unaltered
///
/// Every entry is part of a chain of digests, whose head is kept with the run.
/// What else is known of the run is compared with what the journal says.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost verify @last
  wfhost verify run_01k9 -o json")]
pub(crate) struct Verify {
    /// An id, the beginning of one, @last, @last:2; or a module: REGISTRY/NAME:TAG
    #[arg(default_value = "@last", value_name = "RUN|REFERENCE")]
    run: String,
    /// The key that has to have signed a module, instead of what wfhost.toml says
    #[arg(long, value_name = "FILE")]
    key: Option<std::path::PathBuf>,
    #[command(flatten)]
    fetch: Fetch,
}

impl Verify {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        if Reference::is_meant(&self.run) {
            return super::sign::verify(common, &self.run.parse()?, self.key.as_deref(), self.fetch).await;
        }
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let report = verify(store.as_ref(), &info).await?;
        if common.output == Format::Text && report.faults.is_empty() {
            printer::line(format!("{}  {} entries  head {}", info.id, report.entries, report.head));
        } else if common.output != Format::Text {
            let view = json!({
                "schema": "wfhost/verify/1", "run": info.id, "entries": report.entries, "head": report.head,
                "faults": report.faults,
            });
            printer::json(&view);
        }
        if report.faults.is_empty() {
            return Ok(Exit::Done);
        }
        let trouble = Trouble::host("WF0511", format!("{} is not as it was written", info.id));
        Err(Trouble { details: report.faults, ..trouble }
            .hint("restore the database from a backup, `wfhost db check` looks at all of it"))
    }
}
