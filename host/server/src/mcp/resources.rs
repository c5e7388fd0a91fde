//! Runs and modules as resources.

use serde_json::{Map, Value, json};
use wfhost_view::{Document, document};

use super::rpc::RpcError;
use super::{Mcp, part};
use crate::auth::Scope;

/// What all addresses begin with.
const SCHEME: &str = "wfhost://";
/// Runs that are listed.
const RUNS: usize = 50;

/// The kinds of resources for who may, or may not, see what runs work on.
pub(super) fn templates(payloads: bool) -> Value {
    let one = |address: &str, name: &str, about: &str| {
        json!({
            "uriTemplate": format!("{SCHEME}{address}"), "name": name, "description": about,
            "mimeType": "application/json",
        })
    };
    let why = one("runs/{run}/why", "why", "What blocks a run, and how to unblock it");
    let all = [
        Some(one("runs/{run}", "run", "A run with its steps")),
        Some(one("runs/{run}/journal", "journal", "The journal of a run, from its start")),
        Some(why).filter(|_| payloads),
        Some(one("modules/{digest}", "module", "What a module imports and exports")),
    ];
    all.into_iter().flatten().collect()
}

impl Mcp {
    /// The newest runs, and the modules.
    pub(super) async fn resources(&self) -> Result<Vec<Value>, RpcError> {
        if !self.may(&[Scope::RunsRead]) {
            return Ok(Vec::new());
        }
        let runs = self.fetch(format!("/runs?limit={RUNS}")).await?.body;
        let modules = self.fetch("/modules".to_owned()).await?.body;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let runs = runs["runs"].as_array().into_iter().flatten().map(|run| {
            json!({
                "uri": format!("{SCHEME}runs/{}", text(&run["id"])),
                "name": run["id"],
                "title": format!("{} {} ({})", text(&run["workflow"]), text(&run["id"]), text(&run["state"])),
                "mimeType": "application/json",
            })
        });
        let modules = modules["modules"].as_array().into_iter().flatten().map(|module| {
            json!({
                "uri": format!("{SCHEME}modules/{}", text(&module["digest"])),
                "name": module["name"],
                "title": format!("Module {}", text(&module["name"])),
                "mimeType": "application/json",
            })
        });
        Ok(runs.chain(modules).collect())
    }

    pub(super) async fn read_resource(&self, params: &Map<String, Value>) -> Result<Document, RpcError> {
        let Some(Value::String(uri)) = params.get("uri") else {
            return Err(RpcError::params("`uri` has to name a resource"));
        };
        let parts: Vec<_> = uri.strip_prefix(SCHEME).unwrap_or_default().split('/').collect();
        let path = match parts[..] {
            ["runs", run] => format!("/runs/{}?steps=true", part(run)),
            ["runs", run, what @ ("journal" | "why")] => format!("/runs/{}/{what}", part(run)),
            ["modules", digest] => format!("/modules/{}", part(digest)),
            _ => return Err(RpcError::params(format!("unknown resource {uri}"))),
        };
        let text = self.fetch(path).await?.text;
        let content = json!({ "uri": uri, "mimeType": "application/json", "text": text.get() });
        Ok(document! { "contents": [content] })
    }
}
