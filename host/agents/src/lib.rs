//! Agents: the providers that answer calls, and the policy around a call.
//!
//! A [`Provider`] makes one attempt. It knows nothing of retries, limits of
//! time, budgets and schemas: these are the same for all of them, decided by
//! [`wfhost_core::policy`].

mod allowance;
mod anthropic;
mod attempt;
mod call;
mod command;
mod echo;
mod farewell;
mod fleet;
mod gate;
mod guarded;
mod http;
mod human;
mod ledger;
mod mcp;
mod observer;
mod openai;
mod options;
mod output;
mod policy;
mod recorder;
mod records;
mod scripted;
mod secret;
mod session;
mod suggested;
mod text;
mod web;
mod workspace;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use wfhost_core::policy::budget::Tells;
use wfhost_core::{Digest, Reply, RunConfig};

pub use self::allowance::Allowance;
pub use self::anthropic::{Anthropic, AnthropicConfig};
pub use self::attempt::{Admission, Attempt, AttemptEnd, Consumed, Made, Used};
pub use self::call::{Call, CallFailure, Turn};
pub use self::command::{Command, CommandConfig, Format, PRESETS, Preset, PromptBy, supervise_if_asked};
pub use self::echo::Echo;
pub use self::farewell::{farewell, settle};
pub use self::fleet::FleetLimits;
pub use self::gate::{Gate, ProviderRate, Slot};
pub use self::guarded::Guarded;
pub use self::http::{Http, HttpConfig};
pub use self::human::Human;
pub use self::ledger::{Purse, ReadPurse, Reservation};
pub use self::mcp::{Mcp, McpConfig, McpServer};
pub use self::observer::{CallObserver, CallPhase, SeenCall, SeenEnd};
pub use self::openai::{OpenAi, OpenAiApi, OpenAiConfig};
pub use self::options::CallOptions;
pub use self::output::{CallEvent, CallOutput, Lines, Stream};
pub use self::policy::{Concurrency, Policy, ProviderPolicy};
pub use self::recorder::{Recorder, Writers};
pub use self::records::{AnswerCache, Conversations, Origin, Origins, Records, Transcripts};
pub use self::scripted::{ScriptError, Scripted, fill};
pub use self::secret::{
    MASK, Redactor, Secret, SecretError, SecretSource, hide_credentials, is_secret_name, looks_secret,
};
pub use self::suggested::{Suggested, suggested};
pub(crate) use self::text::{check_argument, check_word, without_escapes};
pub use self::web::{Posted, Poster, client_builder};
pub use self::workspace::{CleanedWorkspaces, Site, WorkspaceConfig, clean_workspaces};

/// An adapter for one kind of agent. Dropping the future of a call stops it.
pub trait Provider: Send + Sync + fmt::Debug {
    /// What requests and users call it.
    fn name(&self) -> &str;

    /// The model of calls that name none, as far as that is configured here.
    fn model(&self) -> Option<&str> {
        None
    }

    /// Whether it can continue a conversation by an id of its own. For the
    /// others the host keeps what was said: [`Call::history`].
    fn keeps_conversations(&self) -> bool {
        true
    }

    /// What its answers depend on besides the request: answers that are kept are
    /// not taken for those of another configuration.
    fn configuration(&self) -> String {
        String::new()
    }

    /// What it tells of what a call consumed.
    fn tells(&self) -> Tells {
        Tells::default()
    }

    /// The greatest number of tokens of an answer, as far as that is configured here.
    fn most_tokens(&self) -> Option<u64> {
        None
    }

    /// Whether it makes use of what the attempt before reported about its progress.
    fn takes_heartbeats(&self) -> bool {
        false
    }

    /// Whether a call is a question to a person: then it is put among the
    /// questions of the run, and [`Provider::call`] is never called.
    fn asks_people(&self) -> bool {
        false
    }

    /// Takes the secrets that it was given out of what others record about its
    /// calls, like what it changed in a workspace.
    fn redactor(&self) -> Redactor {
        Redactor::default()
    }

    /// Looks whether it could be asked, without asking it.
    fn check(&self) -> Vec<Check> {
        Vec::new()
    }

    /// Carries out one attempt. What happens on the way goes to `out`.
    fn call(&self, call: Call, out: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>>;
}

/// One thing that a provider needs, and whether it is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    pub what: String,
    /// What is wrong, if it is not as it should be.
    pub problem: Option<String>,
    /// What one should know of it though it is there.
    pub note: Option<String>,
}

impl Check {
    /// A program on PATH, or a file.
    pub fn program(name: &str) -> Self {
        let problem = command::find_program(name).is_none().then(|| format!("`{name}` not found on PATH"));
        Self { what: format!("program {name}"), problem, note: None }
    }

    /// A secret that can be read.
    pub fn secret(source: &SecretSource) -> Self {
        let secret = source.read();
        // One that could be an ordinary word is not searched for in answers.
        let plain = secret.as_ref().is_ok_and(|secret| !secret.is_hidden());
        let note = format!("{source} only stands in for a key: it is too short or too simple to be redacted");
        Self {
            what: format!("key {source}"),
            problem: secret.err().map(|error| error.to_string()),
            note: plain.then_some(note),
        }
    }
}

/// Scripts by the path that runs name, and the digest under which they are kept.
type Scripts = BTreeMap<(String, Option<Digest>), Arc<Scripted>>;

/// The providers that a host was given, by name.
#[derive(Clone, Debug, Default)]
pub struct Providers {
    policy: Arc<Policy>,
    named: BTreeMap<String, Arc<dyn Provider>>,
    default: Option<Arc<dyn Provider>>,
    fallback: Option<Arc<dyn Provider>>,
    /// Answers to every name that is not there.
    any: Option<Arc<dyn Provider>>,
    /// The scripts that runs were started with, read once: their replies go on in turn.
    scripts: Arc<Mutex<Scripts>>,
    /// Why that of a run cannot be used.
    without_script: Option<String>,
}

impl Providers {
    /// `echo`, which needs no configuration.
    pub fn builtin() -> Self {
        let mut providers = Self::default();
        providers.add(Arc::new(Echo));
        providers.add(Arc::new(Human::new("human")));
        providers
    }

    /// What holds for all calls.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = Arc::new(policy);
    }

    /// Adds a provider; one of the same name is replaced.
    pub fn add(&mut self, provider: Arc<dyn Provider>) {
        self.named.insert(provider.name().to_owned(), provider);
    }

    pub fn get(&self, name: &str) -> Option<Arc<dyn Provider>> {
        self.named.get(name).or(self.any.as_ref()).cloned()
    }

    /// Has `provider` answer all calls that nobody else here answers, whatever name they ask for.
    pub fn set_any(&mut self, provider: Arc<dyn Provider>) {
        self.fallback = Some(Arc::clone(&provider));
        self.any = Some(provider);
    }

    /// Has `provider` answer the calls that name none, whatever the run was
    /// begun with.
    pub fn set_default(&mut self, provider: Arc<dyn Provider>) {
        self.default = Some(provider);
    }

    /// Has `provider` answer the calls that name none, in runs that were begun
    /// without a provider.
    pub fn set_fallback(&mut self, provider: Arc<dyn Provider>) {
        self.fallback = Some(provider);
    }

    /// The provider for a call that names none, in a run that was started with
    /// `recorded`; as an error the name of one that is not there, if one is named.
    pub fn choose(&self, recorded: Option<&str>) -> Result<Arc<dyn Provider>, Option<String>> {
        match (&self.default, recorded) {
            (Some(provider), _) => Ok(Arc::clone(provider)),
            (None, Some(name)) => self.get(name).ok_or_else(|| Some(name.to_owned())),
            (None, None) => self.fallback.clone().ok_or(None),
        }
    }

    /// Whether the calls of a run to `scripted` are answered by the script that it was started with, and that has
    /// not been taken yet.
    pub fn lacks_script(&self, config: &RunConfig) -> bool {
        let key = |path: &String| (path.clone(), config.script_digest);
        let scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        !self.named.contains_key("scripted")
            && config.script.as_ref().is_some_and(|path| !scripts.contains_key(&key(path)))
    }

    /// The same with the script that a run was started with, unless there is another one. `kept`: its text, if the
    /// store has it; else that of the file is taken, as long as it is the same. One that cannot be used is told of
    /// when it is called.
    pub fn for_run(&self, config: &RunConfig, kept: Option<&str>) -> Self {
        let mut providers = self.clone();
        if let Some(path) = config.script.as_ref().filter(|_| !self.named.contains_key("scripted")) {
            match self.script(path, config.script_digest, kept) {
                Ok(script) => providers.add(script),
                Err(error) => providers.without_script = Some(error.to_string()),
            }
        }
        providers
    }

    fn script(
        &self,
        path: &str,
        digest: Option<Digest>,
        kept: Option<&str>,
    ) -> Result<Arc<Scripted>, ScriptError> {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(script) = scripts.get(&(path.to_owned(), digest)) {
            return Ok(Arc::clone(script));
        }
        let file = Path::new(path);
        let script = match (kept, digest) {
            (Some(text), _) => Scripted::parse(file, text)?,
            (None, None) => Scripted::read(file)?,
            (None, Some(digest)) => {
                let text = Scripted::text(file)?;
                if Digest::of(text.as_bytes()) != digest {
                    return Err(ScriptError::Changed { path: file.to_owned(), digest });
                }
                Scripted::parse(file, &text)?
            }
        };
        let script = Arc::new(script);
        scripts.insert((path.to_owned(), digest), Arc::clone(&script));
        Ok(script)
    }

    /// Why the script that a run was started with cannot be used here, if that is so.
    pub fn without_script(&self) -> Option<&str> {
        self.without_script.as_deref()
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Provider>> {
        self.named.values()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }
}
