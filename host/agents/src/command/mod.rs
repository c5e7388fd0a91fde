//! The provider `command`: a program answers.
//!
//! ```toml
//! [providers.reviewer]
//! kind = "command"
//! argv = ["./review.sh", "--model=${model}"]
//! prompt = "stdin"              # the default; or "argument": as the last argument
//! format = "text"               # the default; or "jsonl"; see below
//! env = ["SSH_AUTH_SOCK"]       # variables of the host that the program gets besides the usual ones
//! set = { LANG = "C.UTF-8" }    # variables with a value
//! secrets = { API_KEY = { env = "REVIEW_KEY" } }   # or { file = "..." }
//! directory = "/srv/reviews"    # where it works if the call names no workspace
//!
//! [providers.claude]
//! kind = "command"
//! preset = "claude"             # also codex, gemini, opencode, cursor-agent, amp
//! model = "sonnet"              # for calls that name none
//! args = ["--permission-mode", "acceptEdits"]
//! ```
//!
//! In `argv`, `${prompt}`, `${message}` (the prompt with all that an agent has
//! to know), `${model}`, `${session}`, `${run}`, `${step}`, `${attempt}` and
//! `${key}` are filled in; an argument that needs what the call does not have
//! is left out, with the option before it. What a guest says is never an option.
//!
//! `text`: what the program writes to stdout is the answer. `jsonl`: each line
//! is a JSON object with any of `output` (the answer; the last one counts),
//! `line` and `progress` (text for people who watch), `heartbeat` (how far it
//! is), `session`, `model`, `usage`, `error` (with `kind` and `auth`).
//!
//! The program and all that it started are ended when the call ends, is
//! cancelled or takes too long (see `supervisor`). It finds `WFHOST_RUN`, `WFHOST_STEP`,
//! `WFHOST_ATTEMPT`, `WFHOST_KEY` (the idempotency key) and, if an attempt
//! before it reported a heartbeat, `WFHOST_HEARTBEAT_FILE` in its environment.

mod codex;
mod ending;
mod events;
mod presets;
mod process;
mod processes;
mod supervisor;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use wfhost_core::policy::budget::Tells;
use wfhost_core::{AgentRequest, FailureKind, Json, Reply, Usage, limits};

pub(super) use self::ending::wait as settled;
use self::events::Said;
use self::presets::Arguments;
pub use self::presets::{PRESETS, Preset};
pub(crate) use self::process::find_program;
use self::process::{Ended, Line};
pub(super) use self::process::{Running, Spawn};
pub use self::supervisor::supervise_if_asked;
use super::http::{fill, values};
use super::{
    Call, CallFailure, CallOutput, Check, Provider, SecretSource, Stream, check_argument, check_word,
    without_escapes,
};

/// How the prompt reaches a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptBy {
    #[default]
    Stdin,
    /// As the last argument.
    Argument,
}

/// What a program writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The answer as text.
    #[default]
    Text,
    /// A JSON object on each line.
    Jsonl,
}

/// How a program is asked. See the module for the form in a file.
#[derive(Clone, Debug, Default)]
pub struct CommandConfig {
    /// The program and its arguments; those of the preset if empty.
    pub argv: Vec<String>,
    /// Arguments behind those of the preset.
    pub args: Vec<String>,
    pub preset: Option<&'static Preset>,
    pub prompt: PromptBy,
    pub format: Format,
    pub model: Option<String>,
    /// Names of variables of the host that the program gets.
    pub env: Vec<String>,
    pub set: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, SecretSource>,
    pub directory: Option<PathBuf>,
}

/// Variables that every program gets.
const USUAL: [&str; 14] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TERM",
    "TMPDIR",
    "TZ",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
];

/// Asks a program.
#[derive(Debug)]
pub struct Command {
    name: String,
    config: CommandConfig,
    totals: codex::Totals,
}

impl Command {
    pub fn new(name: impl Into<String>, config: CommandConfig) -> Self {
        Self { name: name.into(), config, totals: codex::Totals::default() }
    }

    /// The names of the variables of the host that its program gets.
    pub fn passed(config: &CommandConfig) -> impl Iterator<Item = &str> {
        let own = config.preset.map(|preset| preset.env).unwrap_or_default();
        let network: &[&str] = config.preset.map_or(&[], |_| &presets::NETWORK);
        USUAL
            .iter()
            .copied()
            .chain(network.iter().copied())
            .chain(own.iter().copied())
            .chain(config.env.iter().map(String::as_str))
    }

    fn program(&self) -> &str {
        let preset = self.config.preset.map(|preset| preset.program);
        self.config.argv.first().map(String::as_str).or(preset).unwrap_or_default()
    }

    /// The program and its arguments. What the guest says is never an option.
    fn argv(&self, call: &Call) -> Result<Vec<String>, CallFailure> {
        let mut values = values(call);
        if values["model"].is_null() {
            values.insert("model".to_owned(), Value::from(self.config.model.as_deref()));
        }
        for (what, name) in [("the model", "model"), ("the session", "session")] {
            if let Some(word) = values[name].as_str() {
                check_word(what, word)?;
            }
        }
        let mut argv = match self.config.preset {
            Some(preset) => {
                let mut argv = vec![self.program().to_owned()];
                argv.extend(filled(self.config.argv.get(1..).unwrap_or_default(), &values)?);
                argv.extend((preset.args)(&Arguments {
                    session: values["session"].as_str(),
                    model: values["model"].as_str(),
                    more: &self.config.args,
                    // A session of an earlier turn is the call's own: nobody else goes on with it.
                    fork: wants_fork(&call.request) && call.turns.is_empty(),
                }));
                argv
            }
            None => {
                let mut argv = filled(&self.config.argv, &values)?;
                argv.extend(filled(&self.config.args, &values)?);
                argv
            }
        };
        if self.prompt_by() == PromptBy::Argument {
            let message = call.message();
            check_argument("the prompt", &message, argv.iter().any(|arg| arg == "--"))?;
            argv.push(message);
        }
        Ok(argv)
    }

    fn prompt_by(&self) -> PromptBy {
        self.config.preset.map_or(self.config.prompt, |preset| preset.prompt)
    }

    /// What the program of a call gets as its environment.
    pub(super) fn environment_of(
        config: &CommandConfig,
        call: &Call,
    ) -> Result<Vec<(String, String)>, CallFailure> {
        let mut environment: Vec<(String, String)> = Self::passed(config)
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
            .collect();
        environment.extend(config.set.clone());
        for (name, source) in &config.secrets {
            let secret = source.read().map_err(|error| CallFailure::auth(error.to_string()))?;
            environment.push((name.clone(), secret.expose().to_owned()));
        }
        let own = [
            ("WFHOST_RUN", call.run.to_string()),
            ("WFHOST_STEP", call.step.to_string()),
            ("WFHOST_ATTEMPT", call.attempt.to_string()),
            ("WFHOST_KEY", call.key.clone()),
            ("TRACEPARENT", wfhost_core::trace::traceparent(&call.run, call.step, call.attempt)),
        ];
        environment.extend(own.map(|(name, value)| (name.to_owned(), value)));
        Ok(environment)
    }

    async fn answer(&self, call: Call, out: CallOutput) -> Result<Reply, CallFailure> {
        let argv = self.argv(&call)?;
        let heartbeat = call.heartbeat.as_ref().map(process::KeptFile::new).transpose()?;
        let mut environment = Self::environment_of(&self.config, &call)?;
        if let Some(file) = &heartbeat {
            let path = file.path().to_string_lossy().into_owned();
            environment.push(("WFHOST_HEARTBEAT_FILE".to_owned(), path));
        }
        let directory = call.directory.as_deref().or(self.config.directory.as_deref());
        let input = match self.prompt_by() {
            PromptBy::Stdin => call.message(),
            PromptBy::Argument => String::new(),
        };
        let before = self.used_before(&call, &environment, directory).await;
        let spawn = Spawn { argv, environment, directory, input: Some(input) };
        let mut running = spawn.start(out.clone()).await?;
        let mut said = Said::default();
        let read = match (self.config.preset, self.config.format) {
            (None, Format::Text) => text(&mut running, &mut said, &out).await,
            (preset, _) => self.lines(&mut running, preset, before, &mut said, &out).await,
        };
        said.finish();
        if let (true, Some(total), Some(session)) = (said.counts_all, said.usage, &said.session) {
            self.totals.note(session, total);
        }
        // However it goes on: that is paid for.
        let used = said.used_since(before);
        read.map_err(|failure| failure.with_usage(used))?;
        if said.is_hopeless
            && let Some(failure) = said.failure
        {
            return Err(failure.with_usage(used));
        }
        let ended = running.wait().await.map_err(|failure| failure.with_usage(used))?;
        said.usage = used;
        self.reply(&call, said, &ended)
    }

    /// What the conversation of a call has used before it, for agents that count all of it.
    async fn used_before(
        &self,
        call: &Call,
        environment: &[(String, String)],
        directory: Option<&Path>,
    ) -> Option<Usage> {
        let counts_all = self.config.preset.is_some_and(|preset| preset.name == "codex");
        let session = call.session().filter(|_| counts_all)?;
        let seen = self.totals.get(session);
        // Another process may have gone on with it since.
        let recorded = codex::total_by_record(session, environment, directory).await;
        match (seen, recorded) {
            (Some(seen), Some(recorded)) => Some(codex::larger(seen, recorded)),
            (one, other) => one.or(other),
        }
    }

    /// Reads lines of JSON. `before`: what the conversation has used before.
    async fn lines(
        &self,
        running: &mut Running,
        preset: Option<&Preset>,
        before: Option<Usage>,
        said: &mut Said,
        out: &CallOutput,
    ) -> Result<(), CallFailure> {
        let mut number = 0;
        let mut told = None;
        while let Some(line) = running.line().await? {
            number += 1;
            let Line { text, whole } = line;
            if text.trim().is_empty() {
                continue;
            }
            let event = serde_json::from_str::<Value>(&text);
            let heartbeat = |event: &Value| {
                let members = event.as_object();
                members.is_some_and(|members| members.len() == 1 && members.contains_key("heartbeat"))
            };
            // Of heartbeats only the last one is kept, as what it is.
            if preset.is_some() || !event.as_ref().is_ok_and(heartbeat) {
                out.transcript(&text);
            }
            match event {
                Ok(event @ Value::Object(_)) => match preset {
                    Some(preset) => (preset.take)(said, &event, out),
                    None => events::own(said, &event, out)?,
                },
                // Some programs write warnings between their events.
                _ if preset.is_some() => {
                    let text = without_escapes(&text);
                    said.stray.get_or_insert_with(|| text.clone());
                    out.line(Stream::Progress, text);
                }
                _ => {
                    let what = if whole { "is not a JSON object" } else { "ends in the middle" };
                    let shown = super::web::shorten(&text);
                    // What the program says when it ends may say more.
                    said.garbage.get_or_insert(format!("line {number} of its output {what}: {shown}"));
                }
            }
            if said.usage != told {
                told = said.usage;
                out.usage(said.used_since(before));
            }
            if said.is_hopeless {
                break;
            }
        }
        Ok(())
    }

    fn reply(&self, call: &Call, said: Said, ended: &Ended) -> Result<Reply, CallFailure> {
        let program = self.program();
        let usage = said.usage;
        if let Some(failure) = said.failure {
            return Err(failure.with_usage(usage));
        }
        if let Some(problem) = ended.problem() {
            let message = format!("`{program}` {problem}");
            let no_login = self.config.preset.is_some_and(|preset| {
                ended.code().is_some_and(|code| preset.no_login.contains(&code))
                    || ended.last_words().iter().any(|line| (preset.wants_login)(line))
            });
            let failure = match no_login {
                true => CallFailure::auth(message),
                false => CallFailure::new(FailureKind::Failed, message),
            };
            return Err(failure.with_usage(usage));
        }
        if let Some(garbage) = said.garbage {
            let message = format!("`{program}`: {garbage}");
            return Err(CallFailure::new(FailureKind::InvalidOutput, message).with_usage(usage));
        }
        let Some(output) = said.output.or_else(|| said.text.map(|text| Json::string(&text))) else {
            let stray = said.stray.map(|line| format!("; it wrote: {}", super::web::shorten(&line)));
            let message = format!("`{program}` ended without an answer{}", stray.unwrap_or_default());
            return Err(CallFailure::new(FailureKind::InvalidOutput, message).with_usage(usage));
        };
        let model = said.model.or_else(|| call.request.model.clone()).or_else(|| self.config.model.clone());
        Ok(Reply { session: said.session, model, usage, ..Reply::new(&self.name, output) })
    }
}

/// All of stdout is the answer.
async fn text(running: &mut Running, said: &mut Said, out: &CallOutput) -> Result<(), CallFailure> {
    let mut answer = String::new();
    while let Some(line) = running.line().await? {
        answer.push_str(&line.text);
        answer.push('\n');
        if answer.len() > limits::ANSWER_BYTES {
            let message = format!("the answer exceeds the limit of {} MiB", limits::ANSWER_BYTES >> 20);
            return Err(CallFailure::new(FailureKind::InvalidOutput, message));
        }
        out.line(Stream::Answer, line.text);
    }
    said.text = Some(answer.trim_end_matches(['\n', '\r']).to_owned());
    Ok(())
}

/// Values of which guests say what they like.
const FREE: [&str; 4] = ["prompt", "message", "input", "options"];

/// Fills arguments in. One that needs a value which the call does not have is
/// left out, and with it the option that it belongs to: the argument before it,
/// if that begins with a dash.
fn filled(args: &[String], values: &Map<String, Value>) -> Result<Vec<String>, CallFailure> {
    let mut filled: Vec<String> = Vec::new();
    for (index, arg) in args.iter().enumerate() {
        let is_absent = |name: &str| values.get(name).is_some_and(Value::is_null);
        // `${model}`, `--model=${model}`
        let needed = arg.find("${").and_then(|start| arg[start + 2..].strip_suffix('}'));
        if needed.is_some_and(is_absent) {
            let is_whole = arg.starts_with("${");
            let option = index.checked_sub(1).map(|before| &args[before]);
            if is_whole
                && option.is_some_and(|option| {
                    option.starts_with('-') && option.len() > 1 && option != "--" && !option.contains("${")
                })
            {
                filled.pop();
            }
            continue;
        }
        let text = match fill(&Value::from(arg.as_str()), values) {
            Value::Null => continue,
            Value::String(text) => text,
            other => other.to_string(),
        };
        match FREE.iter().find(|name| arg.starts_with(&format!("${{{name}}}"))) {
            Some(name) => {
                let what = format!("the argument ${{{name}}}");
                check_argument(&what, &text, args[..index].iter().any(|arg| arg == "--"))?;
            }
            None => check_argument(&format!("the argument {arg}"), &text, true)?,
        }
        filled.push(text);
    }
    Ok(filled)
}

/// The option `fork` of a call: the session stays as it is, and a new one
/// goes on from there.
fn wants_fork(request: &AgentRequest) -> bool {
    request.options.as_ref().is_some_and(|options| options.value()["fork"] == true)
}

impl Provider for Command {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> Option<&str> {
        self.config.model.as_deref()
    }

    fn configuration(&self) -> String {
        format!("{:?}", self.config)
    }

    fn tells(&self) -> Tells {
        match (self.config.preset, self.config.format) {
            // Text says nothing.
            (None, Format::Text) => Tells::NOTHING,
            _ => Tells::default(),
        }
    }

    fn takes_heartbeats(&self) -> bool {
        true
    }

    fn check(&self) -> Vec<Check> {
        let secrets = self.config.secrets.values().map(Check::secret);
        std::iter::once(Check::program(self.program())).chain(secrets).collect()
    }

    fn call(&self, call: Call, out: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        Box::pin(self.answer(call, out))
    }
}

#[cfg(test)]
mod tests {
    use wfhost_core::Step;

    use super::*;

    /// The usage of an attempt whose program writes that, and why it failed.
    async fn used(script: &str) -> (Option<u64>, String) {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let config = CommandConfig { argv, format: Format::Jsonl, ..CommandConfig::default() };
        let request = AgentRequest { prompt: "p".to_owned(), ..AgentRequest::default() };
        let call = Call::new("r".parse().unwrap(), Step(1), 1, "k".to_owned(), request);
        let failure = Command::new("c", config).answer(call, CallOutput::none()).await.unwrap_err();
        (failure.usage.map(|usage| usage.input_tokens), failure.failure.message)
    }

    #[tokio::test]
    async fn what_a_program_consumed_counts_whatever_it_writes_then() {
        let usage = r#"{"usage":{"input_tokens":7,"output_tokens":2}}"#;
        for (rest, why) in [
            (r"printf '\377\n'", "not UTF-8"),
            (r#"echo '{"usage":"none"}'"#, "usage cannot be read"),
            ("head -c 17000000 /dev/zero | tr '\\0' x", "longer than 16 MiB"),
        ] {
            let (used, message) = used(&format!("echo '{usage}'; {rest}")).await;
            assert!(message.contains(why), "{message}");
            assert_eq!(used, Some(7), "{message}");
        }
    }
}
