//! The provider `scripted`: answers from a file of rules.
//!
//! The file is JSON:
//!
//! ```json
//! {
//!   "rules": [
//!     {
//!       "match": "^greet (\\w+)",
//!       "reply": "Hello $1!",
//!       "delay_ms": 20,
//!       "fail": { "times": 1, "kind": "unavailable", "message": "busy" },
//!       "usage": { "input_tokens": 10, "output_tokens": 5 }
//!     }
//!   ],
//!   "default": { "reply": "I have no answer to: ${prompt}" },
//!   "calls": "calls.jsonl"
//! }
//! ```
//!
//! Rules are tried in order; the first whose regular expression `match` is found
//! in the prompt answers, else `default`, else the call fails. `reply` is any
//! JSON; in its texts `$1`, `${name}` stand for groups and `${prompt}` for the
//! prompt. `replies` is a list that is gone through, its last element repeated.
//! `fail` fails the first `times` calls of the rule. `calls` names a file,
//! relative to the script, to which each call is appended before it is
//! answered: `{"run","step","attempt","key","prompt","at"}`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use regex::{Captures, Regex};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::{Handle, RuntimeFlavor};
use wfhost_core::{Digest, Failure, FailureKind, Json, Reply, Usage};
use wfhost_world::{clock, private};

use super::{Call, CallFailure, CallOutput, Provider};

/// Bytes that a script may have.
const SCRIPT_BYTES: u64 = 16 << 20;

/// A script that cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ScriptError {
    #[error("the script {path} cannot be read: {source}")]
    Read { path: PathBuf, source: Arc<std::io::Error> },
    #[error("invalid script {path}: {source}")]
    Syntax { path: PathBuf, text: String, source: Arc<serde_json::Error> },
    #[error("rule {rule} of {path}: {source}")]
    Pattern { path: PathBuf, rule: usize, source: regex::Error },
    #[error("rule {rule} of {path} has neither `reply` nor `replies`")]
    NoReply { path: PathBuf, rule: usize },
    #[error("the record of calls {path} cannot be written: {source}")]
    Calls { path: PathBuf, source: Arc<std::io::Error> },
    #[error(
        "the database does not have the script {digest} any more, and the file {path} has another text now"
    )]
    Changed { path: PathBuf, digest: Digest },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptFile {
    #[serde(default)]
    rules: Vec<RuleFile>,
    default: Option<RuleFile>,
    calls: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(rename = "match")]
    pattern: Option<String>,
    #[serde(default, deserialize_with = "some_value")]
    reply: Option<Value>,
    replies: Option<Vec<Value>>,
    #[serde(default)]
    delay_ms: u64,
    fail: Option<FailFile>,
    usage: Option<Usage>,
}

/// A `reply` of `null` is a reply.
fn some_value<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailFile {
    #[serde(default = "once")]
    times: u64,
    #[serde(default = "failed")]
    kind: FailureKind,
    #[serde(default)]
    message: String,
}

fn once() -> u64 {
    1
}

fn failed() -> FailureKind {
    FailureKind::Failed
}

#[derive(Debug)]
struct Rule {
    /// None matches everything.
    pattern: Option<Regex>,
    replies: Vec<Value>,
    delay: Duration,
    fail: Option<(u64, FailureKind, String)>,
    usage: Option<Usage>,
    uses: Mutex<Uses>,
}

#[derive(Debug, Default)]
struct Uses {
    calls: u64,
    answers: usize,
}

/// Answers from a file of rules.
#[derive(Debug)]
pub struct Scripted {
    /// Of its text.
    digest: Digest,
    rules: Vec<Rule>,
    calls: Option<Mutex<File>>,
}

impl Scripted {
    /// Reads a script.
    pub fn read(path: &Path) -> Result<Self, ScriptError> {
        Self::parse(path, &Self::text(path)?)
    }

    /// The text of the script at a path.
    pub fn text(path: &Path) -> Result<String, ScriptError> {
        let text = File::open(path).and_then(|file| private::read_at_most(SCRIPT_BYTES, file));
        text.map_err(|source| ScriptError::Read { path: path.to_owned(), source: Arc::new(source) })
    }

    /// Takes the text of a script; `path` is where it stands.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ScriptError> {
        let file: ScriptFile = serde_json::from_str(text).map_err(|source| ScriptError::Syntax {
            path: path.to_owned(),
            text: text.to_owned(),
            source: Arc::new(source),
        })?;
        let default = file.default.map(|rule| RuleFile { pattern: None, ..rule });
        let rules = file.rules.into_iter().chain(default).enumerate();
        let rules = rules.map(|(i, rule)| Rule::new(path, i + 1, rule)).collect::<Result<_, _>>()?;
        let calls = file
            .calls
            .map(|name| {
                let path = path.parent().unwrap_or(Path::new(".")).join(name);
                let file = OpenOptions::new().create(true).append(true).open(&path);
                file.map(Mutex::new).map_err(|source| ScriptError::Calls { path, source: Arc::new(source) })
            })
            .transpose()?;
        Ok(Self { digest: Digest::of(text.as_bytes()), rules, calls })
    }

    fn record(&self, call: &Call) -> std::io::Result<()> {
        let Some(file) = &self.calls else { return Ok(()) };
        let mut line = json!({
            "run": call.run, "step": call.step, "attempt": call.attempt, "key": call.key,
            "prompt": call.request.prompt, "at": clock::rfc3339(clock::now()),
        })
        .to_string();
        line.push('\n');
        // A disk takes its time. What is not ready at once would come behind deadlines that the record is to come before,
        // so it is waited for here, and what else this worker has to do is done by another one.
        beside_the_runtime(|| {
            // One write of a line to a file opened for appending: lines of several processes do not mix.
            let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            file.write_all(line.as_bytes())?;
            file.sync_data()
        })
    }

    async fn answer(&self, call: Call) -> Result<Reply, Failure> {
        self.record(&call).map_err(|error| {
            Failure::new(FailureKind::Unavailable, format!("the call could not be recorded: {error}"))
        })?;
        let prompt = &call.request.prompt;
        let found = self.rules.iter().find_map(|rule| match &rule.pattern {
            Some(pattern) => Some((rule, Some(pattern.captures(prompt)?))),
            None => Some((rule, None)),
        });
        let Some((rule, captures)) = found else {
            let message = format!("no rule of the script matches the prompt {prompt:?}");
            return Err(Failure {
                attempts: call.attempt,
                ..Failure::new(FailureKind::Unavailable, message)
            });
        };
        let answer = rule.next(call.attempt).map(|reply| fill(reply, prompt, captures.as_ref()));
        if !rule.delay.is_zero() {
            tokio::time::sleep(rule.delay).await;
        }
        Ok(Reply {
            session: call.session.clone(),
            model: call.request.model.clone(),
            usage: rule.usage,
            ..Reply::new("scripted", Json::from(answer?))
        })
    }
}

/// Does what blocks without keeping a worker of the runtime from others, where it has several.
fn beside_the_runtime<T>(work: impl FnOnce() -> T) -> T {
    let runtime = Handle::try_current();
    match runtime.is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread) {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}

impl Provider for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn configuration(&self) -> String {
        self.digest.to_string()
    }

    fn call(&self, call: Call, _: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        Box::pin(async move { self.answer(call).await.map_err(CallFailure::from) })
    }
}

impl Rule {
    fn new(path: &Path, number: usize, file: RuleFile) -> Result<Self, ScriptError> {
        let pattern = file.pattern.as_deref().map(Regex::new).transpose();
        let pattern =
            pattern.map_err(|source| ScriptError::Pattern { path: path.to_owned(), rule: number, source })?;
        let replies = match (file.reply, file.replies) {
            (Some(reply), _) => vec![reply],
            (None, Some(replies)) if !replies.is_empty() => replies,
            // A rule that only fails needs no answer.
            (None, _) if file.fail.as_ref().is_some_and(|fail| fail.times == u64::MAX) => Vec::new(),
            (None, _) => return Err(ScriptError::NoReply { path: path.to_owned(), rule: number }),
        };
        Ok(Self {
            pattern,
            replies,
            delay: Duration::from_millis(file.delay_ms),
            fail: file.fail.map(|fail| (fail.times, fail.kind, fail.message)),
            usage: file.usage,
            uses: Mutex::default(),
        })
    }

    /// The answer of the next call.
    fn next(&self, attempt: u32) -> Result<&Value, Failure> {
        let mut uses = self.uses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        uses.calls += 1;
        if let Some((times, kind, message)) = &self.fail
            && uses.calls <= *times
        {
            return Err(Failure { attempts: attempt, ..Failure::new(*kind, message.as_str()) });
        }
        let turn = uses.answers.min(self.replies.len().saturating_sub(1));
        uses.answers += 1;
        self.replies
            .get(turn)
            .ok_or_else(|| Failure::new(FailureKind::Unavailable, "the rule has no reply".to_owned()))
    }
}

/// Puts the prompt (`${prompt}`) and the groups of the pattern (`$1`) into the texts of a reply.
pub fn fill(reply: &Value, prompt: &str, captures: Option<&Captures<'_>>) -> Value {
    let inside = |value: &Value| fill(value, prompt, captures);
    match reply {
        Value::String(text) => {
            // The prompt goes in last, so that a `$1` within it stays as it is.
            let marker = "\u{0}prompt\u{0}";
            let text = text.replace("${prompt}", marker);
            let mut filled = String::new();
            match captures {
                Some(captures) => captures.expand(&text, &mut filled),
                None => filled = text,
            }
            Value::String(filled.replace(marker, prompt))
        }
        Value::Array(items) => items.iter().map(inside).collect(),
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), inside(value))).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use wfhost_core::{AgentRequest, Step};

    use super::*;

    #[test]
    fn another_script_is_another_configuration() {
        let script = |reply: &str| {
            let text = json!({ "default": { "reply": reply } }).to_string();
            Scripted::parse(Path::new("script.json"), &text).unwrap().configuration()
        };
        assert_eq!(script("one"), script("one"));
        assert_ne!(script("one"), script("two"));
    }

    /// A pipe that nobody reads stands for a disk that takes long.
    #[test]
    fn a_record_that_takes_long_keeps_no_worker_from_others() {
        let place = tempfile::tempdir().unwrap();
        let calls = place.path().join("calls.jsonl");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &calls, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let pipe = OpenOptions::new().read(true).write(true).open(&calls).unwrap();
        let text = json!({ "default": { "reply": "x" }, "calls": "calls.jsonl" }).to_string();
        let script = Arc::new(Scripted::parse(&place.path().join("script.json"), &text).unwrap());
        // More than it holds.
        let request = AgentRequest { prompt: "p".repeat(4 << 20), ..AgentRequest::default() };
        let call = Call::new("r".parse().unwrap(), Step(1), 1, "key".to_owned(), request);
        let (told, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.unwrap().block_on(async {
                let call = tokio::spawn(async move { script.answer(call).await });
                let other = tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    BufReader::new(pipe).read_line(&mut String::new()).unwrap();
                });
                other.await.unwrap();
                // It is written; a pipe cannot be flushed.
                let failed = call.await.unwrap().unwrap_err();
                assert!(failed.message.contains("could not be recorded"), "{}", failed.message);
            });
            told.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(60)).expect("the other one has its turn");
    }
}
