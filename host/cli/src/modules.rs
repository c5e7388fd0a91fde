//! `wfhost add`, `wfhost modules`

use serde_json::json;
use wfhost::agents::Providers;
use wfhost::clock::rfc3339;
use wfhost::engine::Denied;
use wfhost::{Adopt, Evict};
use wfhost_view::ModuleView;

use super::diagnostic::{Exit, UserError};
use super::printer::{Column, left, right};
use super::registry::Fetch;
use super::{Common, Format, module_arg, plugin_add, printer, registry};

/// Add a module to the database
///
/// Runs can start children of it by its name, and `wfhost run NAME` finds it.
/// Of several modules with the same name, the newest is used.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost add crawler.wasm
  wfhost add ./crawler")]
pub(crate) struct Add {
    /// A component file, a directory with a workflow, or a module in a registry, which is
    /// locked in wfhost.lock: REGISTRY/NAME:TAG
    module: String,
    /// Accept a module that imports sockets or HTTP; a call to them fails the run
    #[arg(long)]
    trap_denied: bool,
    #[command(flatten)]
    fetch: Fetch,
}

impl Add {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.store().await?;
        let host = common.host(store, Providers::builtin(), Evict::default(), Adopt::Own)?;
        let found = module_arg::find(common, None, &self.module, self.fetch).await?;
        let (name, bytes) = (found.name, found.bytes);
        plugin_add::is_workflow(&name, &bytes, &self.module)?;
        let denied = if self.trap_denied { Denied::Trap } else { Denied::Refuse };
        let module = host.add_module_with(&name, &bytes, denied).await?;
        printer::say(common, "Added", &format!("{name}  {}", module.digest));
        if let Some(origin) = found.origin.filter(|origin| origin.reference.digest().is_none()) {
            let mut lock = registry::open(common)?.lock;
            if lock.set(origin.locked(&name, &bytes))? {
                printer::say(common, "Locked", &format!("{} in {}", origin.exact(), lock.path.display()));
            }
        }
        match common.output {
            Format::Text => printer::line(module.digest.to_string()),
            Format::Json | Format::Jsonl => {
                let view = json!({ "schema": "wfhost/module/1", "name": name, "digest": module.digest });
                printer::json(&view);
            }
        }
        Ok(Exit::Done)
    }
}

/// List the modules in the database, the newest of each name first, and those
/// that were fetched from registries into the local store
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost modules
  wfhost modules -o json")]
pub(crate) struct Modules {
    /// Compare the modules in wfhost.lock with their registries
    #[arg(long)]
    outdated: bool,
}

impl Modules {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        if self.outdated {
            return super::update::outdated(common).await;
        }
        let modules = common.reader().await?.modules().await?;
        let kept = registry::store()?.modules()?;
        if common.output != Format::Text {
            modules.iter().for_each(|module| printer::json(&ModuleView::of(module)));
            for kept in &kept {
                printer::json(&json!({
                    "schema": "wfhost/kept/1", "reference": kept.reference.to_string(),
                    "name": kept.reference.name(), "manifest": kept.descriptor.digest,
                }));
            }
            return Ok(Exit::Done);
        }
        if modules.is_empty() && kept.is_empty() {
            printer::note("no modules; `wfhost add FILE` and `wfhost run FILE` add them");
        }
        const COLUMNS: [Column; 4] = [left(""), left(""), right(""), left("")];
        let rows = modules.into_iter().map(|module| {
            let size = format!("{} kB", module.bytes.div_ceil(1_000));
            vec![module.name, module.digest.to_string(), size, rfc3339(module.added_at)]
        });
        printer::table(&COLUMNS.each_ref(), rows);
        const KEPT: [Column; 2] = [left(""), left("")];
        let rows =
            kept.into_iter().map(|kept| vec![kept.reference.to_string(), kept.descriptor.digest.to_string()]);
        printer::table(&KEPT.each_ref(), rows);
        Ok(Exit::Done)
    }
}
