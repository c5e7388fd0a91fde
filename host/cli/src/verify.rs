//! `wfhost verify`

use serde_json::json;
use wfhost::verify::verify;

use wfhost_core::counted;
use wfhost_registry::Reference;

use super::diagnostic::{Exit, UserError};
use super::place::find_run;
use super::registry::Fetch;
use super::sign::Rebuild;
use super::{Common, Format, printer};

/// Verify the journal of a run, or the signatures of a module
///
/// Recomputes the chain of digests over every journal entry, whose head is stored
/// with the run, and compares everything else that is stored with the journal.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost verify @last
  wfhost verify run_01k9 -o json
  wfhost verify ghcr.io/acme/reviewer:1.4.2 --rebuild")]
pub(crate) struct Verify {
    /// An id, the beginning of one, @last, @last:2; or a module: REGISTRY/NAME:TAG
    #[arg(default_value = "@last", value_name = "RUN|REFERENCE")]
    run: String,
    /// The required signing key of a module, instead of the rules in wfhost.toml
    #[arg(long, value_name = "FILE")]
    key: Option<std::path::PathBuf>,
    /// Rebuild a module from the source that its provenance names, and compare
    #[arg(long)]
    rebuild: bool,
    /// A clone of that source, instead of fetching it
    #[arg(long, value_name = "DIR|URL", requires = "rebuild")]
    source: Option<String>,
    /// Do not ask before building
    #[arg(short, long, requires = "rebuild")]
    yes: bool,
    #[command(flatten)]
    fetch: Fetch,
}

impl Verify {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        if Reference::is_meant(&self.run) {
            let rebuild = self.rebuild.then_some(Rebuild { source: self.source.as_deref(), yes: self.yes });
            let reference = self.run.parse()?;
            return super::sign::verify(common, &reference, self.key.as_deref(), self.fetch, rebuild).await;
        }
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let report = verify(store.as_ref(), &info).await?;
        if common.output == Format::Text && report.faults.is_empty() {
            printer::line(format!("{}  {}  head {}", info.id, counted(report.entries, "entry"), report.head));
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
        let trouble = UserError::host("WF0511", format!("the stored data of {} is damaged", info.id));
        Err(UserError { details: report.faults, ..trouble }
            .hint("restore the database from a backup; `wfhost db check` checks all of it"))
    }
}
