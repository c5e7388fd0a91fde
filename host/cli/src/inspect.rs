//! `wfhost inspect`

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wfhost::engine::{Import, summarize};
use wfhost_core::{Digest, Limit, RunConfig};

use super::diagnostic::{Exit, Trouble};
use super::registry::Fetch;
use super::{Common, Format, module_arg, printer};

/// Show what a module imports and exports, and the limits it runs under
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost inspect hello.wasm
  wfhost inspect --wit      the world that a workflow is built against")]
pub(crate) struct Inspect {
    /// A component's file, or the name or digest of a module that was run before
    #[arg(required_unless_present = "wit")]
    module: Option<String>,
    /// Print the WIT package of workflows
    #[arg(long)]
    wit: bool,
    #[command(flatten)]
    fetch: Fetch,
}

impl Inspect {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        if self.wit {
            printer::data(include_str!("../../../wit/workflow.wit"));
        }
        let Some(module) = &self.module else { return Ok(Exit::Done) };
        // A file needs no database.
        let store = if std::path::Path::new(module).exists() { None } else { Some(common.reader()?) };
        let (name, bytes) = module_arg::load(common, store.as_deref(), module, self.fetch).await?;
        let summary = summarize(&bytes)?;
        let limits = RunConfig::default().limits();
        if common.output != Format::Text {
            let imports: Vec<_> = summary.imports.iter().map(import).collect();
            let view = json!({
                "schema": "wfhost/module/1", "name": name, "digest": Digest::of(&bytes), "bytes": bytes.len(),
                "imports": imports, "exports": summary.exports,
                "limits": limits.iter().map(|limit| (limit.name, limit.value)).collect::<BTreeMap<_, _>>(),
            });
            printer::json(&view);
            return Ok(Exit::Done);
        }
        printer::line(format!("module   {name}"));
        printer::line(format!("digest   {}", Digest::of(&bytes)));
        printer::line(format!("bytes    {}", bytes.len()));
        for import in &summary.imports {
            printer::line(format!("import   {:<40}  {}", import.name, import.class.as_str()));
        }
        for export in &summary.exports {
            printer::line(format!("export   {export}"));
        }
        for Limit { name, value, meaning } in limits {
            printer::line(format!("limit    {name:<15} {value:>15}  {meaning}"));
        }
        Ok(Exit::Done)
    }
}

/// An import as JSON.
pub(super) fn import(import: &Import) -> Value {
    json!({ "name": import.name, "class": import.class.as_str() })
}
