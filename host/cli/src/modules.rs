//! `wfhost add`, `wfhost modules`

use serde_json::json;
use wfhost::agents::Providers;
use wfhost::clock::rfc3339;
use wfhost::engine::Denied;
use wfhost::{Adopt, Evict};

use super::diagnostic::{Exit, Trouble};
use super::{Common, Format, follow, module_arg, print_line};

/// Put a module into the database
///
/// Runs can begin children of it by its name, and `wfhost run NAME` finds it.
/// The newest of several with one name counts.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost add crawler.wasm
  wfhost add ./crawler")]
pub(crate) struct Add {
    /// A component's file, or a directory with a workflow
    module: String,
    /// Accept a module that imports sockets or HTTP; a call to them fails the run
    #[arg(long)]
    trap_denied: bool,
}

impl Add {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let store = common.store()?;
        let host = common.host(store, Providers::builtin(), Evict::default(), Adopt::Own)?;
        let (name, bytes) = module_arg::load(None, &self.module).await?;
        let denied = if self.trap_denied { Denied::Trap } else { Denied::Refuse };
        let module = host.add_module_with(&name, &bytes, denied).await?;
        follow::say(common, "Added", &format!("{name}  {}", module.digest));
        match common.output {
            Format::Text => print_line(&module.digest.to_string()),
            Format::Json | Format::Jsonl => {
                let view = json!({ "schema": "wfhost/module/1", "name": name, "digest": module.digest });
                print_line(&view.to_string());
            }
        }
        Ok(Exit::Done)
    }
}

/// List the modules in the database, the newest of each name first
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost modules
  wfhost modules -o json")]
pub(crate) struct Modules {}

impl Modules {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let modules = common.store()?.modules().await?;
        if modules.is_empty() && common.output == Format::Text {
            anstream::eprintln!(
                "there are no modules; `wfhost add FILE` and `wfhost run FILE` put them there"
            );
        }
        let width = modules.iter().map(|module| module.name.len()).max().unwrap_or(0);
        for module in modules {
            let added = rfc3339(module.added_at);
            print_line(&match common.output {
                Format::Text => {
                    let kilobytes = module.bytes.div_ceil(1_000);
                    format!("{:width$}  {}  {kilobytes:>7} kB  {added}", module.name, module.digest)
                }
                Format::Json | Format::Jsonl => {
                    let (name, digest) = (&module.name, module.digest);
                    json!({
                        "schema": "wfhost/module/1", "name": name, "digest": digest, "bytes": module.bytes,
                        "added_at": added,
                    })
                    .to_string()
                }
            });
        }
        Ok(Exit::Done)
    }
}
