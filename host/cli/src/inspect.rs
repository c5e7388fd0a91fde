//! `wfhost inspect`

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wfhost::engine::{Import, ModuleSummary, summarize};
use wfhost_core::{DescribeError, Description, Digest, Limit, RunConfig};
use wfhost_registry::policy::Level;
use wfhost_registry::{Reference, metadata, provenance};

use super::diagnostic::{Exit, UserError};
use super::registry::{Fetch, Others};
use super::{Common, Format, module_arg, plugin_add, printer, registry, sign};

/// Show a module's description, imports, exports and limits
///
/// Nothing of the module is executed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost inspect hello.wasm
  wfhost inspect --wit      the world that a workflow is built against")]
pub(crate) struct Inspect {
    /// A component file, the name or digest of a module in the database, or a module in
    /// a registry, which is not fetched: REGISTRY/NAME:TAG
    #[arg(required_unless_present = "wit")]
    module: Option<String>,
    /// Print the WIT package of workflows, or of plugins: --wit=plugin
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "workflow", value_name = "WHICH")]
    wit: Option<Wit>,
    #[command(flatten)]
    fetch: Fetch,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Wit {
    Workflow,
    Plugin,
}

impl Inspect {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        match self.wit {
            Some(Wit::Workflow) => printer::data(include_str!("../../../wit/workflow.wit")),
            Some(Wit::Plugin) => printer::data(include_str!("../../../wit/plugin/plugin.wit")),
            None => {}
        }
        let Some(module) = &self.module else { return Ok(Exit::Done) };
        if !std::path::Path::new(module).exists() && Reference::is_meant(module) {
            return self.reference(common, &module.parse()?).await;
        }
        // A file needs no database.
        let store = if std::path::Path::new(module).exists() { None } else { Some(common.reader().await?) };
        let (name, bytes) = module_arg::load(common, store.as_deref(), module, self.fetch).await?;
        let summary = summarize(&bytes)?;
        if summary.exports.iter().any(|export| export.starts_with("wfhost:plugin/agent@")) {
            return plugin(common, &name, &bytes, &summary);
        }
        let limits = RunConfig::default().limits();
        let says = metadata::of_component(&bytes);
        let description = Description::of(&bytes);
        if common.output != Format::Text {
            let imports: Vec<_> = summary.imports.iter().map(import).collect();
            let view = json!({
                "schema": "wfhost/module/1", "name": name, "digest": Digest::of(&bytes), "bytes": bytes.len(),
                "imports": imports, "exports": summary.exports,
                "limits": limits.iter().map(|limit| (limit.name, limit.value)).collect::<BTreeMap<_, _>>(),
                "says": says,
                "describes": description.as_ref().ok(),
                "describes_error": description.as_ref().err().map(ToString::to_string),
            });
            printer::json(&view);
            return Ok(Exit::Done);
        }
        printer::line(format!("module   {name}"));
        printer::line(format!("digest   {}", Digest::of(&bytes)));
        printer::line(format!("bytes    {}", bytes.len()));
        facts(&says);
        about(&description);
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

impl Inspect {
    /// What a module in a registry says of itself: its manifest and its configuration are fetched, not it.
    async fn reference(&self, common: &Common, reference: &Reference) -> Result<Exit, UserError> {
        let mut session = registry::open(common)?;
        // Looking is no running: what is not signed is told, too.
        session.rules.default = session.rules.default.min(Level::Warn);
        session.rules.rules.iter_mut().for_each(|rule| rule.level = rule.level.min(Level::Warn));
        let exact = session.pinned(reference).map_or_else(|| reference.clone(), |(_, exact)| exact);
        let pull = self.fetch.pull();
        let (resolved, verdict) = session.resolve(&exact, pull, Others::Ignore).await?;
        let (config, _) =
            wfhost_registry::configuration(&session.client, &session.store, &resolved, pull).await?;
        let component = config.component.unwrap_or_default();
        let description = config.describe.map(|said| Description::read(said.as_str().as_bytes())).transpose();
        let described = metadata::of_annotations(&resolved.manifest.annotations);
        let annotations = &resolved.manifest.annotations;
        let is_plugin = annotations.get(metadata::KIND).is_some_and(|kind| kind == "plugin");
        let kind = if is_plugin { "plugin" } else { "workflow" };
        let wants =
            annotations.get(metadata::WANTS).filter(|text| is_plugin && text.len() <= metadata::WANTS_BYTES);
        let wants: Option<wfhost_core::Wants> = wants.and_then(|text| serde_json::from_str(text).ok());
        let signers: Vec<_> = verdict.signers.iter().map(|signer| signer.name.clone()).collect();
        let said =
            provenance::find(&session.client, &session.store, &resolved, &verdict.signers, pull).await?;
        if common.output != Format::Text {
            let views: Vec<_> = said.iter().map(|(by, said)| sign::provenance_view(by, said)).collect();
            printer::json(&json!({
                "schema": "wfhost/artifact/1", "provenance": views, "kind": kind, "wants": wants, "name": reference.name(), "reference": resolved.exact().to_string(),
                "manifest": resolved.digest, "layer": resolved.layer.digest, "bytes": resolved.layer.size,
                "signers": signers, "described": described, "imports": component.imports, "exports": component.exports,
                "describes": description.as_ref().ok(),
                "describes_error": description.as_ref().err().map(ToString::to_string),
            }));
            return Ok(Exit::Done);
        }
        let head = if is_plugin { "plugin" } else { "module" };
        printer::line(format!("{head:<8} {}", reference.name()));
        printer::line(format!("manifest {}", resolved.digest));
        printer::line(format!("layer    {}", resolved.layer.digest));
        printer::line(format!("bytes    {}", resolved.layer.size));
        let signed = if signers.is_empty() { "no known key".to_owned() } else { signers.join(", ") };
        printer::line(format!("signed   by {signed}"));
        for (by, said) in &said {
            printer::line(format!("source   {}, according to {by}", sign::built_from(said)));
        }
        facts(&described);
        about(&description);
        for line in wants.iter().flat_map(plugin_add::wants_lines) {
            printer::line(format!("wants    {line}"));
        }
        for name in &component.imports {
            printer::line(format!("import   {name}"));
        }
        for export in &component.exports {
            printer::line(format!("export   {export}"));
        }
        Ok(Exit::Done)
    }
}

/// What a module or an artifact says of itself, by the names of annotations.
fn facts(says: &metadata::Metadata) {
    for (what, value) in says {
        printer::line(format!("says     {what:<12}  {value}"));
    }
}

/// The code that explains a description that cannot be read.
const INVALID_DESCRIPTION: &str = "WF0112";

/// What a workflow takes and gives.
fn about(description: &Result<Option<Description>, DescribeError>) {
    match description {
        Ok(None) => {}
        Ok(Some(description)) => {
            for (word, text) in wfhost_view::described(description) {
                printer::line(format!("{word:<7}  {text}"));
            }
        }
        Err(error) => {
            printer::line(format!("unread   its description is invalid ({INVALID_DESCRIPTION}): {error}"))
        }
    }
}

/// What a plugin is, and what it asks for.
fn plugin(common: &Common, name: &str, bytes: &[u8], summary: &ModuleSummary) -> Result<Exit, UserError> {
    wfhost_plugins::imports(bytes).map_err(|error| super::plugin::unusable(&error))?;
    let wants = wfhost_plugins::wants(bytes).map_err(|error| super::plugin::unusable(&error))?;
    let imports: Vec<_> = summary.imports.iter().map(|import| import.name.as_str()).collect();
    let digest = Digest::of(bytes);
    if common.output != Format::Text {
        printer::json(&json!({
            "schema": "wfhost/module/1", "kind": "plugin", "name": name, "digest": digest, "bytes": bytes.len(),
            "imports": imports, "exports": summary.exports, "wants": wants, "says": metadata::of_component(bytes),
        }));
        return Ok(Exit::Done);
    }
    printer::line(format!("plugin   {name}"));
    printer::line(format!("digest   {digest}"));
    printer::line(format!("bytes    {}", bytes.len()));
    facts(&metadata::of_component(bytes));
    imports.iter().for_each(|import| printer::line(format!("import   {import}")));
    plugin_add::wants_lines(&wants).iter().for_each(|line| printer::line(format!("wants    {line}")));
    if wants.is_empty() {
        printer::line("wants    nothing");
    }
    Ok(Exit::Done)
}

/// An import as JSON.
pub(super) fn import(import: &Import) -> Value {
    json!({ "name": import.name, "class": import.class.as_str() })
}
