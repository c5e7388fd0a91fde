//! The tools: requests of the API, described for models.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use wfhost::Described;
use wfhost_core::{Digest, Json};
use wfhost_view::{Document, document};

use super::rpc::{Client, RpcError};
use super::{Answered, Arguments, Asked, Mcp, Params, members, part};
use crate::auth::Scope;

/// What a tool does to the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    Reads,
    /// Something new comes about.
    Adds,
    /// Something cannot be undone.
    Destroys,
}

/// A tool.
struct Tool {
    name: &'static str,
    title: &'static str,
    about: &'static str,
    effect: Effect,
    /// The same again changes nothing.
    idempotent: bool,
    scopes: &'static [Scope],
    /// Names, types as in JSON Schema, and what they are; with a `*` they are needed.
    arguments: &'static [(&'static str, &'static str, &'static str)],
}

use Effect::{Adds, Destroys, Reads};
use Scope::{PayloadsRead, PeopleAnswer, RunsControl, RunsRead, RunsSignal, RunsStart};

const RUN: (&str, &str, &str) = ("run*", "string", "The id of the run");

/// All of them. `run_answer` is there only if that was granted.
const TOOLS: &[Tool] = &[
    Tool {
        name: "workflow_list",
        title: "List workflows",
        about: "The modules that can be started: name, digest, when each was added.",
        effect: Reads,
        idempotent: true,
        scopes: &[RunsRead],
        arguments: &[],
    },
    Tool {
        name: "run_start",
        title: "Start a run",
        about: "Starts a workflow. It runs until it ends, even if this client disconnects. With a `key` this is \
                safe to repeat: the same key returns the same run.",
        effect: Adds,
        idempotent: false,
        scopes: &[RunsStart],
        arguments: &[
            ("workflow*", "string", "The name of the workflow"),
            ("input", "any", "The input of the program"),
            ("key", "string", "The same key returns the same run"),
            ("id", "string", "An id for the run"),
            ("agent", "string", "The provider of agent calls that name none"),
            ("labels", "object", "Labels to find it by"),
            ("wait_seconds", "integer", "How long to wait for its end, at most 60"),
        ],
    },
    Tool {
        name: "run_list",
        title: "List runs",
        about: "Runs, newest first, each with what it waits for or why it failed.",
        effect: Reads,
        idempotent: true,
        scopes: &[RunsRead],
        arguments: &[
            ("state", "string", "Like waiting, failed, running,completed"),
            ("workflow", "string", "Only runs of this workflow"),
            ("label", "string", "Only runs with this label, like team=red"),
            ("text", "string", "Only runs whose id, workflow, key, labels or phase contain this"),
            ("waits", "string", "Only runs that wait for this: people, time, signal, signal:NAME"),
            ("limit", "integer", "The maximum number of results"),
            ("cursor", "string", "The `next` of the previous page"),
        ],
    },
    Tool {
        name: "run_show",
        title: "Show a run",
        about: "One run: state, result or failure with hints, and with `steps` the request and result of each step.",
        effect: Reads,
        idempotent: true,
        scopes: &[RunsRead],
        arguments: &[RUN, ("steps", "boolean", "Also its input, steps and published values")],
    },
    Tool {
        name: "run_why",
        title: "Explain what blocks a run",
        about: "What blocks a run, and how to unblock it. Start here if a run is stuck.",
        effect: Reads,
        idempotent: true,
        scopes: &[RunsRead, PayloadsRead],
        arguments: &[RUN],
    },
    Tool {
        name: "run_wait",
        title: "Wait for a run",
        about: "Waits until a run ends, and shows it; after the time limit it shows the run as it is. If it asks a person \
                a question, the client puts that to its user; a client that cannot gets the question, and where \
                people answer it.",
        effect: Reads,
        idempotent: true,
        scopes: &[RunsRead],
        arguments: &[RUN, ("seconds", "integer", "From 0 to 60; the default is 30")],
    },
    Tool {
        name: "run_events",
        title: "Read events of a run",
        about: "The events of a run, in order: journal entries, log lines, messages, output of agents. `next` is the \
                cursor to continue after.",
        effect: Reads,
        idempotent: true,
        scopes: &[RunsRead],
        arguments: &[
            RUN,
            ("after", "string", "The cursor of the last page"),
            ("kinds", "string", "Like entry,log,message,state,live"),
            ("limit", "integer", "The maximum number of results"),
            ("wait_seconds", "integer", "How long to wait for new events, at most 60"),
        ],
    },
    Tool {
        name: "run_step",
        title: "Show a step",
        about: "One step of a run: its request, the answer or failure, attempts and their cost.",
        effect: Reads,
        idempotent: true,
        scopes: &[RunsRead],
        arguments: &[RUN, ("step*", "integer", "The number of the step")],
    },
    Tool {
        name: "run_transcript",
        title: "Read what agents said",
        about: "The output of a run's agents while they worked, and their changes in workspaces.",
        effect: Reads,
        idempotent: true,
        scopes: &[RunsRead, PayloadsRead],
        arguments: &[
            RUN,
            ("step", "integer", "Only of this step"),
            ("after", "integer", "Only lines after this number"),
            ("limit", "integer", "The maximum number of lines"),
        ],
    },
    Tool {
        name: "run_signal",
        title: "Send a signal to a run",
        about: "Sends a signal. It is kept until the run waits for one of this name. With an `id` it is delivered once.",
        effect: Adds,
        idempotent: false,
        scopes: &[RunsSignal],
        arguments: &[
            RUN,
            ("name*", "string", "The name of the signal"),
            ("payload", "any", "The payload"),
            ("id", "string", "Signals with the same id are delivered once"),
        ],
    },
    Tool {
        name: "question_list",
        title: "List questions for people",
        about: "Open questions of runs to people, oldest first. People should answer them.",
        effect: Reads,
        idempotent: true,
        scopes: &[RunsRead, PayloadsRead],
        arguments: &[("run", "string", "Only those of this run")],
    },
    Tool {
        name: "run_answer",
        title: "Answer a question",
        about: "Answers a question of a run in the name of this client, or denies it.",
        effect: Destroys,
        idempotent: false,
        scopes: &[PeopleAnswer],
        arguments: &[
            RUN,
            ("step*", "integer", "The step that asks"),
            ("answer", "any", "One of its choices, or a value that matches its schema"),
            ("deny", "boolean", "Reject instead: the program gets a failure"),
            ("note", "string", "A note for the journal"),
        ],
    },
    Tool {
        name: "run_cancel",
        title: "Cancel a run",
        about: "Cancels a run. Its open steps end as cancelled, and the program may clean up.",
        effect: Destroys,
        idempotent: true,
        scopes: &[RunsControl],
        arguments: &[RUN, ("reason", "string", "A note for the journal")],
    },
    Tool {
        name: "run_retry",
        title: "Retry a failed run",
        about: "Continues a failed run, from the step that made it fail or another one. Completed steps stay completed.",
        effect: Adds,
        idempotent: false,
        scopes: &[RunsControl],
        arguments: &[RUN, ("step", "integer", "The step; by default the one that made it fail")],
    },
    Tool {
        name: "run_fork",
        title: "Fork a run",
        about: "Creates a new run from the first entries of another one, optionally with different answers. Only a \
                preview, unless `dry_run` is false.",
        effect: Adds,
        idempotent: false,
        scopes: &[RunsControl, RunsStart],
        arguments: &[
            RUN,
            ("at", "integer", "The first entry that is not copied"),
            ("edits", "array", "Different answers: [{\"entry\": N, \"answer\": JSON}]"),
            ("input", "any", "Another input"),
            ("module", "string", "The digest of other code"),
            ("reuse", "boolean", "Reuse answers instead of copying entries"),
            ("dry_run", "boolean", "Defaults to true: nothing is created"),
        ],
    },
    Tool {
        name: "run_replay_check",
        title: "Check that a run replays",
        about: "Replays a run without effects, with its own or other code, and reports where that diverges from \
                what was recorded.",
        effect: Reads,
        idempotent: true,
        scopes: &[RunsRead, PayloadsRead],
        arguments: &[
            RUN,
            ("module", "string", "The digest of other code"),
            ("trace", "boolean", "Also report where in the source each step is requested"),
        ],
    },
];

/// What names of tools for workflows begin with.
const WORKFLOW: &str = "workflow_run_";

impl Tool {
    fn view(&self) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for (name, kind, about) in self.arguments {
            let bare = name.trim_end_matches('*');
            let mut schema = json!({ "description": about });
            if *kind != "any" {
                schema["type"] = (*kind).into();
            }
            if *kind == "array" {
                schema["items"] = json!({ "type": "object" });
            }
            properties.insert(bare.to_owned(), schema);
            if bare.len() < name.len() {
                required.push(bare);
            }
        }
        json!({
            "name": self.name,
            "title": self.title,
            "description": self.about,
            "inputSchema": {
                "type": "object", "properties": properties, "required": required, "additionalProperties": false,
            },
            "outputSchema": { "type": "object" },
            "annotations": annotations(self.title, self.effect, self.idempotent),
        })
    }

    /// Refuses arguments that are not there, or not of their types.
    fn check(&self, arguments: &Arguments) -> Result<(), RpcError> {
        let named =
            |name: &str| self.arguments.iter().find(|(known, ..)| known.trim_end_matches('*') == name);
        if let Some(name) = arguments.keys().find(|name| named(name).is_none()) {
            return Err(RpcError::params(format!("`{}` has no argument `{name}`", self.name)));
        }
        for (name, kind, _) in self.arguments {
            let bare = name.trim_end_matches('*');
            let fits = match arguments.get(bare) {
                None if bare.len() < name.len() => {
                    return Err(RpcError::params(format!("`{}` needs `{bare}`", self.name)));
                }
                None => true,
                Some(_) if *kind == "any" => true,
                Some(given) => match (*kind, given.value()) {
                    ("string", value) => value.is_string(),
                    ("integer", value) => value.is_u64(),
                    ("boolean", value) => value.is_boolean(),
                    ("object", value) => value.is_object(),
                    ("array", value) => value.is_array(),
                    _ => true,
                },
            };
            if !fits {
                return Err(RpcError::params(format!(
                    "`{bare}` of `{}` has to be of type {kind}",
                    self.name
                )));
            }
        }
        Ok(())
    }
}

fn annotations(title: &str, effect: Effect, idempotent: bool) -> Value {
    json!({
        "title": title,
        "readOnlyHint": effect == Reads,
        "destructiveHint": effect == Destroys,
        "idempotentHint": idempotent,
        "openWorldHint": false,
    })
}

/// What a tool says: the JSON of the API, also as text.
pub(super) fn said(body: &RawValue) -> Document {
    said_with(body, Vec::new())
}

/// The same, with more texts.
pub(super) fn said_with(body: &RawValue, more: Vec<String>) -> Document {
    let texts = std::iter::once(body.get().to_owned()).chain(more);
    let content: Vec<_> = texts.map(|text| json!({ "type": "text", "text": text })).collect();
    document! { "content": content, "structuredContent": body, "isError": false }
}

/// The text of a refused tool call: what is wrong, how to fix it, and the code.
pub(super) fn refused(problem: &Value) -> Document {
    let mut lines = vec![format!(
        "error[{}]: {}",
        problem["code"].as_str().unwrap_or("WF0818"),
        problem["title"].as_str().unwrap_or("it cannot be answered"),
    )];
    let texts = |name: &str| problem[name].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.extend(texts("details").map(str::to_owned));
    lines.extend(texts("hints").map(|hint| format!("hint: {hint}")));
    let content = json!([{ "type": "text", "text": lines.join("\n") }]);
    document! { "content": content, "structuredContent": problem, "isError": true }
}

pub(super) fn arguments(params: &Params) -> Result<Arguments, RpcError> {
    let Some(given) = &params.arguments else { return Ok(Arguments::new()) };
    let read = serde_json::from_str::<Option<Document>>(given.get());
    let read = read.map_err(|_| RpcError::params("`arguments` has to be an object"))?;
    let exact =
        |(name, given): (String, Box<RawValue>)| match Json::parse(String::from(Box::<str>::from(given))) {
            Ok(given) => Ok((name, given)),
            Err(error) => Err(RpcError::params(format!("`{name}` cannot be read: {error}"))),
        };
    read.unwrap_or_default().into_iter().map(exact).collect()
}

pub(super) fn text(arguments: &Arguments, name: &str) -> Option<String> {
    match arguments.get(name)?.value() {
        Value::String(text) => Some(text),
        Value::Null => None,
        other => Some(other.to_string()),
    }
}

fn seconds(arguments: &Arguments, name: &str) -> Option<String> {
    text(arguments, name).map(|seconds| format!("{seconds}s"))
}

/// The arguments of these names, as a body.
fn body(arguments: &Arguments, names: &[&str]) -> Arguments {
    let named = names.iter().filter_map(|name| Some(((*name).to_owned(), arguments.get(*name)?.clone())));
    named.collect()
}

/// The request that a tool stands for.
fn request(name: &str, a: &Arguments) -> Option<Asked> {
    let of_run = |rest: &str| {
        let run = text(a, "run").unwrap_or_default();
        format!("/runs/{}{rest}", part(&run))
    };
    let at_step = |rest: &str| of_run(&format!("/steps/{}{rest}", text(a, "step").unwrap_or_default()));
    Some(match name {
        "workflow_list" => Asked::get("/modules".to_owned()),
        "run_start" => {
            let names = ["workflow", "input", "key", "id", "agent", "labels"];
            Asked::post("/runs".to_owned(), &body(a, &names)).with("wait", seconds(a, "wait_seconds"))
        }
        "run_list" => {
            let names = ["state", "workflow", "label", "text", "waits", "limit", "cursor"];
            names
                .into_iter()
                .fold(Asked::get("/runs".to_owned()), |asked, name| asked.with(name, text(a, name)))
        }
        "run_show" => Asked::get(of_run("")).with("steps", text(a, "steps")),
        "run_why" => Asked::get(of_run("/why")),
        "run_wait" => {
            let wait = seconds(a, "seconds").unwrap_or_else(|| "30s".to_owned());
            Asked::get(of_run("")).with("wait", Some(wait))
        }
        "run_events" => {
            let names = ["after", "kinds", "limit"];
            let asked = Asked::get(of_run("/events")).with("wait", seconds(a, "wait_seconds"));
            names.into_iter().fold(asked, |asked, name| asked.with(name, text(a, name)))
        }
        "run_step" => Asked::get(at_step("")),
        "run_transcript" => {
            let names = ["step", "after", "limit"];
            names
                .into_iter()
                .fold(Asked::get(of_run("/transcript")), |asked, name| asked.with(name, text(a, name)))
        }
        "run_signal" => {
            let signal = text(a, "name").unwrap_or_default();
            let payload = a.get("payload").cloned().unwrap_or_else(Json::null);
            let asked = Asked::post(of_run(&format!("/signals/{}", part(&signal))), &payload);
            Asked { key: text(a, "id"), ..asked }
        }
        "question_list" => Asked::get("/questions".to_owned()).with("run", text(a, "run")),
        "run_answer" if a.get("deny").is_some_and(|deny| deny.value() == Value::Bool(true)) => {
            Asked::post(at_step("/deny"), &body(a, &["note"]))
        }
        "run_answer" => Asked::post(at_step("/answer"), &body(a, &["answer", "note"])),
        "run_cancel" => Asked::post(of_run("/cancel"), &body(a, &["reason"])),
        "run_retry" => Asked::post(of_run("/retry"), &body(a, &["step"])),
        "run_fork" => {
            let mut body = body(a, &["at", "edits", "input", "module", "reuse", "dry_run"]);
            // Nothing is made without being told to.
            body.entry("dry_run".to_owned()).or_insert_with(|| Json::from(Value::Bool(true)));
            Asked::post(of_run("/fork"), &body)
        }
        "run_replay_check" => Asked::post(of_run("/replay"), &body(a, &["module", "trace"])),
        _ => return None,
    })
}

impl Mcp {
    fn offers(&self, tool: &Tool) -> bool {
        self.may(tool.scopes) && (tool.name != "run_answer" || self.options.answers)
    }

    /// The tools of this client.
    pub(super) async fn tools(&self) -> Vec<Value> {
        let mut tools: Vec<_> = TOOLS.iter().filter(|tool| self.offers(tool)).map(Tool::view).collect();
        if self.options.workflows && self.may(&[RunsStart, RunsRead]) {
            for (name, digest) in self.workflows().await {
                let said = match digest {
                    Some(digest) => self.app.host().described(digest).await,
                    None => Ok(Ok(None)),
                };
                tools.push(workflow_tool(&name, said.ok().and_then(Result::ok).flatten().as_deref()));
            }
        }
        tools
    }

    /// The names of the modules that can be a part of a tool's name, and the newest module of each.
    async fn workflows(&self) -> Vec<(String, Option<Digest>)> {
        let Answered { body, .. } = self.ask(Asked::get("/modules".to_owned())).await;
        let modules = body["modules"].as_array().into_iter().flatten();
        // The newest of each comes first.
        let mut found: Vec<_> = modules
            .filter_map(|module| {
                let digest = module["digest"].as_str().and_then(Digest::parse);
                Some((module["name"].as_str()?.to_owned(), digest))
            })
            .filter(|(name, _)| is_tool_name(name))
            .collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found.dedup_by(|(a, _), (b, _)| a == b);
        found
    }

    pub(super) async fn call(&self, client: &Client, params: &Params) -> Result<Document, RpcError> {
        let Some(Value::String(name)) = params.plain.get("name") else {
            return Err(RpcError::params("`name` says which tool"));
        };
        let mut arguments = arguments(params)?;
        let mut name = name.as_str();
        if let Some(workflow) = name.strip_prefix(WORKFLOW).filter(|_| self.options.workflows) {
            arguments.insert("workflow".to_owned(), Json::string(workflow));
            if !client.knows_tasks() {
                arguments.entry("wait_seconds".to_owned()).or_insert_with(|| Json::from(json!(30)));
            }
            name = "run_start";
        }
        let tool = TOOLS.iter().find(|tool| tool.name == name && self.offers(tool));
        let tool = tool.ok_or_else(|| {
            let known = TOOLS.iter().any(|tool| tool.name == name);
            let why = if known { "is not granted to this client" } else { "is no tool" };
            RpcError::params(format!("`{name}` {why}"))
        })?;
        tool.check(&arguments)?;
        if tool.name == "run_wait" {
            return self.wait_and_ask(client, params, &arguments).await;
        }
        if tool.name == "run_start" && client.knows_tasks() {
            // The task is waited for.
            arguments.remove("wait_seconds");
        }
        let Some(mut asked) = request(tool.name, &arguments) else { return Err(RpcError::method(name)) };
        asked.traceparent = client.traceparent().map(str::to_owned);
        let answered = self.ask(asked).await;
        if !answered.status.is_success() {
            return Ok(refused(&answered.body));
        }
        if tool.name == "run_start" && client.knows_tasks() {
            return Ok(members(super::tasks::created(&answered.body)));
        }
        if tool.name == "run_start" && arguments.contains_key("wait_seconds") {
            return Ok(self.said_with_questions(&answered).await);
        }
        Ok(said(&answered.text))
    }
}

/// Bytes of a schema that is told with each list of tools, and of what a workflow says of itself.
const SCHEMA: usize = 16 << 10;
const ABOUT: usize = 1_000;

/// A tool that starts one workflow. It takes what the module says that it takes.
fn workflow_tool(name: &str, said: Option<&Described>) -> Value {
    let title = format!("Run {name}");
    let mut about =
        format!("Starts a run of the workflow `{name}` with this input, and waits for its end for a while.");
    let mut input = json!({ "description": "What the program is given" });
    let mut required = Vec::new();
    if let Some(said) = said.map(|said| &said.description) {
        if let Some(text) = said.description.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
            about.push_str(" The workflow says of itself: ");
            about.push_str(&text[..text.floor_char_boundary(ABOUT)]);
        }
        let schema = said.input.as_ref().filter(|schema| schema.as_str().len() <= SCHEMA);
        if let Some(mut schema) = schema.map(Json::value).filter(Value::is_object) {
            required.extend(schema["required"].as_array().filter(|names| !names.is_empty()).map(|_| "input"));
            move_references(&mut schema);
            input = schema;
        }
    }
    json!({
        "name": format!("{WORKFLOW}{name}"),
        "title": title,
        "description": about,
        "inputSchema": {
            "type": "object",
            "properties": {
                "input": input,
                "key": { "type": "string", "description": "The same key gives the same run" },
            },
            "required": required,
            "additionalProperties": false,
        },
        "outputSchema": { "type": "object" },
        "annotations": annotations(&title, Adds, false),
    })
}

/// Has the references of a schema lead to the same places when it stands as the property `input` of another one.
fn move_references(schema: &mut Value) {
    fn within(value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(within),
            Value::Object(members) => {
                for (key, value) in members {
                    match value {
                        Value::String(to) if key == "$ref" && (to == "#" || to.starts_with("#/")) => {
                            *to = format!("#/properties/input{}", &to[1..]);
                        }
                        value => within(value),
                    }
                }
            }
            _ => {}
        }
    }
    if let Value::Object(members) = schema {
        // It is a document of its own no more.
        members.retain(|key, _| !matches!(key.as_str(), "$schema" | "$id"));
    }
    within(schema);
}

/// Whether clients take it for a part of a tool's name.
fn is_tool_name(name: &str) -> bool {
    (1..=100).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tool_is_a_request_and_says_what_it_does() {
        for tool in TOOLS {
            let needed: Arguments = tool
                .arguments
                .iter()
                .filter(|(name, ..)| name.ends_with('*'))
                .map(|(name, kind, _)| {
                    let value = if *kind == "integer" { json!(1) } else { json!("x") };
                    (name.trim_end_matches('*').to_owned(), Json::from(value))
                })
                .collect();
            tool.check(&needed).unwrap();
            let asked = request(tool.name, &needed).expect("a request");
            let view = tool.view();
            assert_eq!(view["annotations"]["readOnlyHint"], tool.effect == Reads, "{}", tool.name);
            // What only reads needs no scope for more, and the other way round.
            let reads = tool.scopes.iter().all(|scope| scope.is_reading());
            assert_eq!(reads, tool.effect == Reads, "{}", tool.name);
            assert!(asked.path.starts_with('/') && !asked.path.contains("//"), "{}", asked.path);
        }
    }

    #[test]
    fn arguments_are_checked() {
        let tool = TOOLS.iter().find(|tool| tool.name == "run_step").unwrap();
        let given = |json: Value| -> Arguments { serde_json::from_value(json).unwrap() };
        assert!(tool.check(&given(json!({ "run": "r", "step": 1 }))).is_ok());
        for bad in [
            json!({ "run": "r" }),
            json!({ "run": 1, "step": 1 }),
            json!({ "run": "r", "step": "1" }),
            json!({ "run": "r", "step": -1 }),
            json!({ "run": "r", "step": 1, "more": 1 }),
        ] {
            assert!(tool.check(&given(bad.clone())).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_tool_of_a_workflow_takes_what_that_takes() {
        let plain = workflow_tool("a", None);
        assert_eq!(plain["inputSchema"]["required"], json!([]));
        let input = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", "type": "object",
            "required": ["a"], "properties": { "a": { "$ref": "#/$defs/A" }, "$ref": { "type": "string" } },
            "$defs": { "A": { "anyOf": [{ "$ref": "#" }, { "type": "null" }] } } });
        let description = wfhost_core::Description {
            description: Some("Writes \u{e4}".repeat(400)),
            input: Some(Json::from(input)),
            ..Default::default()
        };
        let tool = workflow_tool("a", Some(&Described::new(description.clone())));
        let moved = &tool["inputSchema"]["properties"]["input"];
        assert_eq!(
            *moved,
            json!({ "type": "object", "required": ["a"],
                "properties": { "a": { "$ref": "#/properties/input/$defs/A" }, "$ref": { "type": "string" } },
                "$defs": { "A": { "anyOf": [{ "$ref": "#/properties/input" }, { "type": "null" }] } } })
        );
        assert_eq!(tool["inputSchema"]["required"], json!(["input"]));
        assert!(tool["description"].as_str().unwrap().len() < 1_200);
        let schema = wfhost::schema::Schema::compile(&Json::from(tool["inputSchema"].clone())).unwrap();
        assert_eq!(schema.faults(&Json::from(json!({ "input": { "a": { "a": null } } })), 5), []);
        assert_eq!(schema.faults(&Json::from(json!({ "input": { "a": {} } })), 5).len(), 1);
        let large = wfhost_core::Description {
            input: Some(Json::from(json!({ "enum": vec!["x".repeat(1_000); 20] }))),
            ..Default::default()
        };
        let tool = workflow_tool("a", Some(&Described::new(large)));
        assert!(tool.to_string().len() < 2_000);
    }

    #[test]
    fn a_fork_is_a_dry_run_unless_it_is_said_otherwise() {
        let of = |json: Value| -> Value {
            let asked = request("run_fork", &serde_json::from_value(json).unwrap()).unwrap();
            serde_json::from_str(&asked.body.unwrap()).unwrap()
        };
        assert_eq!(of(json!({ "run": "r" }))["dry_run"], true);
        assert_eq!(of(json!({ "run": "r", "dry_run": false }))["dry_run"], false);
    }
}
