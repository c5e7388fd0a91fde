//! `wfhost plugin`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};
use wfhost::agents::{Call, CallEvent, CallFailure, CallOutput, Guarded, Provider, Stream};
use wfhost::world::private;
use wfhost_core::{AgentRequest, FailureKind, Json, Reply, RunId, Step, Wants, counted};
use wfhost_plugins::{Exchange, Plugin, PluginConfig, PluginError, Recording, wants};

use super::diagnostic::{Exit, UserError};
use super::module_arg::read_component;
use super::place::{json_arg, length_arg};
use super::{Common, Format, plugin_add, printer};

/// Add, list, call and test plugins (agents that are components)
#[derive(clap::Args)]
pub(crate) struct PluginVerb {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Add a plugin to the project as a provider, with the grants that it requests
    Add(plugin_add::AddArgs),
    /// Remove a plugin from the project
    Rm(plugin_add::RmArgs),
    /// List the configured plugins
    Ls(Ls),
    /// Call a plugin once
    Call(CallArgs),
    /// Test a plugin against recorded HTTP, without a network
    Test(TestArgs),
}

/// List the configured plugins, their grants and the permissions that they request
#[derive(clap::Args)]
struct Ls {}

/// Call a plugin once, with its configured grants
///
/// A component file has no grants.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost plugin call reviewer -p 'Review this' -i @diff.json
  wfhost plugin call fetcher.wasm -p https://example.com/ --audit")]
struct CallArgs {
    /// A configured provider, or the file of a component
    plugin: String,
    /// The prompt
    #[arg(short, long, default_value = "", value_name = "TEXT")]
    prompt: String,
    /// The input besides the prompt: JSON, @FILE, or - for stdin
    #[arg(short, long, value_name = "JSON", allow_negative_numbers = true)]
    input: Option<String>,
    /// The options of the call
    #[arg(long, value_name = "JSON")]
    options: Option<String>,
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Send requests that are not granted, and list them
    #[arg(long)]
    audit: bool,
    /// The time limit
    #[arg(long, value_name = "LENGTH", default_value = "5m", value_parser = length_arg)]
    timeout: u64,
}

/// Test a plugin against recorded HTTP
///
/// Each case is a call with the expected requests, their responses, and the expected result. There is no
/// network, the clock is fixed, and random numbers are the same each time. Exactly the permissions that
/// the plugin requests (wfhost:wants) are granted.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost plugin test reviewer.wasm                      reviewer.test.json beside it
  wfhost plugin test reviewer.wasm --cases more.json")]
struct TestArgs {
    /// The component's file
    plugin: PathBuf,
    /// The file of test cases [default: NAME.test.json beside NAME.wasm]
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
}

/// The file of cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    call: CaseCall,
    #[serde(default)]
    exchanges: Vec<Exchange>,
    /// Variables that the plugin is given.
    #[serde(default)]
    set: std::collections::BTreeMap<String, String>,
    expect: Expect,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct CaseCall {
    prompt: String,
    input: Option<Value>,
    options: Option<Value>,
    schema: Option<Value>,
    model: Option<String>,
}

/// What comes of a case; what is left out is not looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    output: Option<Value>,
    model: Option<String>,
    usage: Option<Value>,
    /// The kind of the failure.
    failure: Option<String>,
    /// A part of its message.
    message: Option<String>,
}

impl PluginVerb {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        match &self.what {
            What::Add(args) => args.execute(common).await,
            What::Rm(args) => args.execute(common),
            What::Ls(_) => ls(common),
            What::Call(args) => args.execute(common).await,
            What::Test(args) => args.execute(common).await,
        }
    }
}

pub(super) fn unusable(error: &PluginError) -> UserError {
    UserError::usage(error.code(), error.to_string()).hint(error.hint())
}

fn ls(common: &Common) -> Result<Exit, UserError> {
    let plugins = common.config()?.plugins()?;
    let described = plugins.iter().map(|plugin| {
        let checks = plugin.check();
        let problems: Vec<_> = checks.into_iter().filter_map(|check| check.problem).collect();
        let lacks = plugin.lacks().unwrap_or_default();
        (plugin, plugin.digest().ok().flatten(), problems, lacks)
    });
    if common.output != Format::Text {
        let plugins: Vec<_> = described
            .map(|(plugin, digest, problems, lacks)| {
                let config = plugin.config();
                let http: Vec<_> = config
                    .http
                    .iter()
                    .map(|grant| {
                        let methods: Vec<_> = grant.methods.iter().map(ToString::to_string).collect();
                        json!({ "url": grant.url.to_string(), "methods": methods, "private": grant.private,
                                "inject": grant.inject.keys().collect::<Vec<_>>() })
                    })
                    .collect();
                json!({ "name": plugin.name(), "file": config.source.to_string(), "digest": digest, "http": http,
                        "directories": config.directories.keys().collect::<Vec<_>>(), "audit": config.audit,
                        "problems": problems, "lacks": lacks })
            })
            .collect();
        printer::json(&json!({ "schema": "wfhost/plugins/1", "plugins": plugins }));
        return Ok(Exit::Done);
    }
    for (plugin, digest, problems, lacks) in described {
        let config = plugin.config();
        let digest = digest.map(|digest| digest.to_string()).unwrap_or_default();
        printer::line(format!("{}  {}  {digest}", plugin.name(), config.source));
        for grant in &config.http {
            let methods: Vec<_> = grant.methods.iter().map(ToString::to_string).collect();
            let with: Vec<_> = grant.inject.keys().map(String::as_str).collect();
            let with = if with.is_empty() { String::new() } else { format!("  with {}", with.join(", ")) };
            printer::line(format!("  may  {} {}{with}", methods.join(","), grant.url));
        }
        for (guest, grant) in &config.directories {
            let how = if grant.write { "write" } else { "read" };
            printer::line(format!("  may  {how} {guest}  ({})", grant.path.display()));
        }
        for text in problems
            .iter()
            .map(|text| format!("  ✗  {text}"))
            .chain(lacks.iter().map(|text| format!("  –  {text}")))
        {
            printer::line(text);
        }
    }
    Ok(Exit::Done)
}

impl CallArgs {
    async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let json =
            |what: &str, text: &Option<String>| text.as_deref().map(|text| json_arg(what, text)).transpose();
        let request = AgentRequest {
            prompt: self.prompt.clone(),
            input: json("the input", &self.input)?,
            options: json("the options", &self.options)?,
            model: self.model.clone(),
            ..AgentRequest::default()
        };
        let plugin = self.plugin(common)?;
        let out = watched(common);
        let reply =
            tokio::time::timeout(Duration::from_millis(self.timeout), call(plugin, request, out)).await;
        let reply =
            reply.unwrap_or_else(|_| Err(CallFailure::new(FailureKind::TimedOut, "it took too long")));
        match reply {
            Ok(reply) if common.output == Format::Text => {
                printer::line(reply.output.as_str());
                if let Some(usage) = reply.usage {
                    let text =
                        format!("{} in, {} out", counted(usage.input_tokens, "token"), usage.output_tokens);
                    printer::say(common, "Used", &text);
                }
                Ok(Exit::Done)
            }
            Ok(reply) => {
                let reply = serde_json::to_value(&reply).unwrap_or_default();
                printer::json(&json!({ "schema": "wfhost/reply/1", "reply": reply }));
                Ok(Exit::Done)
            }
            Err(failure) => {
                let message = format!("the plugin failed: {}", failure.failure);
                Err(UserError { exit: Exit::RunFailed, ..UserError::usage("WF1210", message) })
            }
        }
    }

    /// The configured one, else the one in a file, which is granted nothing.
    fn plugin(&self, common: &Common) -> Result<Plugin, UserError> {
        let path = Path::new(&self.plugin);
        // As for modules: what looks like a path is one, and needs no configuration.
        let is_path = self.plugin.contains('/') || self.plugin.ends_with(".wasm");
        let configured = if is_path { Vec::new() } else { common.config()?.plugins()? };
        let named = configured.into_iter().find(|plugin| plugin.name() == self.plugin);
        let (name, mut config) = match named {
            Some(plugin) => (self.plugin.clone(), plugin.config().clone()),
            None if path.is_file() => {
                let mut config = PluginConfig::new(path);
                config.cache = wfhost::world::environment::cache_dir();
                (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), config)
            }
            None => {
                let message = format!("`{}` is neither a configured plugin nor a file", self.plugin);
                return Err(UserError::usage("WF1211", message)
                    .hint("`wfhost plugin ls` lists the configured plugins"));
            }
        };
        config.audit |= self.audit;
        Ok(Plugin::new(name, config))
    }
}

/// Lines for people who watch go to stderr.
fn watched(common: &Common) -> CallOutput {
    if common.quiet {
        return CallOutput::none();
    }
    let common = common.clone();
    CallOutput::new(move |event| {
        if let CallEvent::Line { stream, text } = event {
            let label = match stream {
                Stream::Answer => "answer",
                Stream::Progress => "·",
            };
            printer::say(&common, label, &text);
        }
    })
}

/// Makes one call as the step of a run that there is not.
async fn call(plugin: Plugin, request: AgentRequest, out: CallOutput) -> Result<Reply, CallFailure> {
    let secrets = plugin.config().secrets().cloned().collect();
    let guarded = Guarded::new(Arc::new(plugin), secrets);
    let run = RunId::of_seed(&[0; 32]);
    let made = Call::new(run, Step(1), 1, "by-hand".to_owned(), request);
    guarded.call(made, out).await
}

/// Bytes of a file with cases.
const CASES_BYTES: u64 = 64 << 20;

impl TestArgs {
    async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let bytes = read_component(&self.plugin)
            .map_err(|source| unusable(&PluginError::Read { path: self.plugin.clone(), source }))?;
        wfhost_plugins::imports(&bytes).map_err(|error| unusable(&error))?;
        let wants = wants(&bytes).map_err(|error| unusable(&error))?;
        let file = self.cases.clone().unwrap_or_else(|| self.plugin.with_extension("test.json"));
        let bad = |reason: String| {
            UserError::usage("WF1212", format!("{} cannot be used: {reason}", file.display()))
                .hint("`wfhost explain WF1212` shows the format")
        };
        let text = std::fs::File::open(&file).and_then(|file| private::read_at_most(CASES_BYTES, file));
        let text = text.map_err(|error| bad(error.to_string()))?;
        let Cases { cases } = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if cases.is_empty() {
            return Err(bad("it contains no cases".to_owned()));
        }
        let mut results = Vec::new();
        for case in cases {
            let faults = self.test(&case, &wants).await.map_err(bad)?;
            if common.output == Format::Text {
                let mark = if faults.is_empty() { "✓" } else { "✗" };
                printer::line(format!("{mark} {}", case.name));
                faults.iter().for_each(|fault| printer::line(format!("    {fault}")));
            }
            results.push(json!({ "name": case.name, "faults": faults }));
        }
        let failed = results.iter().filter(|result| result["faults"] != json!([])).count();
        if common.output != Format::Text {
            printer::json(&json!({ "schema": "wfhost/plugin-test/1", "cases": results, "failed": failed }));
        }
        Ok(if failed == 0 { Exit::Done } else { Exit::RunFailed })
    }

    /// What went otherwise than it was expected.
    async fn test(&self, case: &Case, wants: &Wants) -> Result<Vec<String>, String> {
        let mut config = PluginConfig::wanted(&self.plugin, wants).map_err(|error| error.to_string())?;
        config.cache = wfhost::world::environment::cache_dir();
        config.set = case.set.clone();
        let recording = Recording::new(case.exchanges.clone());
        let plugin = Plugin::recorded("plugin", config, recording.clone());
        let json = |value: &Option<Value>| value.clone().map(Json::from);
        let request = AgentRequest {
            prompt: case.call.prompt.clone(),
            input: json(&case.call.input),
            options: json(&case.call.options),
            schema: json(&case.call.schema),
            model: case.call.model.clone(),
            ..AgentRequest::default()
        };
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        let out = CallOutput::new(move |event| {
            if let CallEvent::Line { stream: Stream::Progress, text } = event
                && text.starts_with("denied: ")
                && let Ok(mut told) = sink.lock()
            {
                told.push(text);
            }
        });
        let made = call(plugin, request, out).await;
        let mut faults = case.expect.faults(&made);
        faults.extend(recording.faults());
        if let Ok(mut told) = told.lock() {
            faults.append(&mut told);
        }
        Ok(faults)
    }
}

impl Expect {
    fn faults(&self, made: &Result<Reply, CallFailure>) -> Vec<String> {
        let mut faults = Vec::new();
        match made {
            Err(CallFailure { failure, .. }) => {
                if self.failure.as_deref() != Some(failure.kind.to_string().as_str()) {
                    faults.push(format!("it failed: {failure}"));
                }
                if let Some(part) = &self.message
                    && !failure.message.contains(part.as_str())
                {
                    faults.push(format!("the message is {:?}, without {part:?}", failure.message));
                }
            }
            Ok(reply) => {
                if let Some(kind) = &self.failure {
                    faults
                        .push(format!("it did not fail with {kind}, but answered {}", reply.output.as_str()));
                }
                let differs = |what: &str, found: Value, expected: &Option<Value>| match expected {
                    Some(expected) if *expected != found => {
                        Some(format!("the {what} is {found}, not {expected}"))
                    }
                    _ => None,
                };
                faults.extend(differs("output", reply.output.value(), &self.output));
                faults.extend(differs(
                    "model",
                    json!(reply.model),
                    &self.model.as_ref().map(|model| json!(model)),
                ));
                faults.extend(differs("usage", json!(reply.usage), &self.usage));
            }
        }
        faults
    }
}
