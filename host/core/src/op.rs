//! What a program can ask for.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::limits::{self, TooLarge};
use crate::{Json, RunId, Timestamp};

/// One operation that a program asks for. Its canonical form is its CBOR
/// encoding, which the journal keeps and a replay compares with.
#[derive(Clone, PartialEq, Debug, Encode, Decode, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Op {
    /// `agent.run`, `agent.start`
    #[n(0)]
    Agent(#[n(0)] Box<AgentRequest>),
    /// `sleep.sleep`, `sleep.start-for`: the deadline counts from the entry's time.
    #[n(1)]
    Sleep {
        #[n(0)]
        length_ms: u64,
    },
    /// `sleep.sleep-until`, `sleep.start`
    #[n(2)]
    SleepUntil {
        #[n(0)]
        at: u64,
    },
    /// `signal.wait`, `signal.start`
    #[n(3)]
    Signal {
        #[n(0)]
        name: String,
        #[n(1)]
        timeout_ms: Option<u64>,
    },
    /// `signal.send`
    #[n(4)]
    Send {
        #[n(0)]
        run: String,
        #[n(1)]
        name: String,
        #[n(2)]
        payload: Json,
    },
    /// `signal.ask`, `signal.start-ask`
    #[n(5)]
    Ask {
        #[n(0)]
        question: Question,
        #[n(1)]
        timeout_ms: Option<u64>,
    },
    /// `child.run`, `child.start`
    #[n(6)]
    Child {
        #[n(0)]
        module: String,
        #[n(1)]
        input: Json,
        #[n(2)]
        options: Option<ChildOptions>,
    },
    /// `context.continue-as-new`
    #[n(7)]
    ContinueAsNew {
        #[n(0)]
        input: Json,
    },
}

impl Op {
    /// The word that people see for this kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Agent(_) => "agent",
            Self::Sleep { .. } | Self::SleepUntil { .. } => "sleep",
            Self::Signal { .. } => "signal",
            Self::Send { .. } => "send",
            Self::Ask { .. } => "ask",
            Self::Child { .. } => "child",
            Self::ContinueAsNew { .. } => "continue-as-new",
        }
    }

    /// What people see beside the kind: a label, a name, a length of time.
    pub fn label(&self) -> String {
        match self {
            Self::Agent(request) => match &request.label {
                Some(label) => one_line(label),
                None => one_line(&request.prompt),
            },
            Self::Sleep { length_ms } => spell_millis(*length_ms),
            Self::SleepUntil { at } => format!("until {at}"),
            Self::Signal { name, .. } => name.clone(),
            Self::Send { run, name, .. } => format!("{name} to {run}"),
            Self::Ask { question, .. } => one_line(&question.prompt),
            Self::Child { module, .. } => module.clone(),
            Self::ContinueAsNew { .. } => String::new(),
        }
    }

    /// Refuses what is too large to be journaled.
    pub fn check_size(&self) -> Result<(), TooLarge> {
        match self {
            Self::Agent(request) => limits::check("an agent call", request.bytes(), limits::CALL_BYTES),
            Self::Sleep { .. } | Self::SleepUntil { .. } => Ok(()),
            Self::Signal { name, .. } => {
                limits::check("the name of a signal", name.len(), limits::NAME_BYTES)
            }
            Self::Send { name, payload, run } => {
                limits::check("the id of a run", run.len(), RunId::MAX_BYTES)?;
                limits::check("the name of a signal", name.len(), limits::NAME_BYTES)?;
                limits::check("a signal's payload", payload.as_str().len(), limits::SIGNAL_BYTES)
            }
            Self::Ask { question, .. } => limits::check("a question", question.bytes(), limits::CALL_BYTES),
            Self::Child { module, input, options } => {
                limits::check("the name of a module", module.len(), limits::CALL_BYTES)?;
                let options = options.as_ref().map_or(0, ChildOptions::bytes);
                limits::check("the options of a child", options, limits::CALL_BYTES)?;
                limits::check("an input", input.as_str().len(), limits::INPUT_BYTES)
            }
            Self::ContinueAsNew { input } => {
                limits::check("an input", input.as_str().len(), limits::INPUT_BYTES)
            }
        }
    }

    /// Bytes of what it hands over, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Agent(request) => request.bytes(),
            Self::Sleep { .. } | Self::SleepUntil { .. } => 0,
            Self::Signal { name, .. } => name.len(),
            Self::Send { name, payload, run } => run.len() + name.len() + payload.as_str().len(),
            Self::Ask { question, .. } => question.bytes(),
            Self::Child { module, input, options } => {
                module.len() + input.as_str().len() + options.as_ref().map_or(0, ChildOptions::bytes)
            }
            Self::ContinueAsNew { input } => input.as_str().len(),
        }
    }

    /// Says what is wrong with an operation that cannot be meant so. `at` is
    /// the time of its entry.
    pub fn check_sense(&self, at: Timestamp) -> Result<(), String> {
        let length = |what, millis: u64| {
            if millis > limits::SLEEP_MS {
                return Err(format!(
                    "{what} of {millis} ms is longer than the 100 years that are allowed \
                     (a negative length turns into such a number)"
                ));
            }
            Ok(())
        };
        match self {
            Self::Sleep { length_ms } => length("a sleep", *length_ms),
            Self::SleepUntil { at: until } => length("a sleep", Timestamp(*until).since(at)),
            Self::Signal { name, .. } | Self::Send { name, .. } if name.is_empty() => {
                Err("the name of a signal is empty".to_owned())
            }
            Self::Child { options: Some(options), .. } => options.check_sense(),
            Self::Signal { timeout_ms, .. } | Self::Ask { timeout_ms, .. } => {
                length("a timeout", timeout_ms.unwrap_or(0))
            }
            _ => Ok(()),
        }
    }
}

/// The size of a list; also empty texts take up room.
fn list_bytes(list: &[String]) -> usize {
    list.iter().map(|text| 1 + text.len()).sum()
}

/// The first line, cut to 60 characters.
fn one_line(text: &str) -> String {
    const WIDTH: usize = 60;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let line = line.unwrap_or_default();
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    let cut: String = line.chars().take(WIDTH - 1).collect();
    format!("{}…", cut.trim_end())
}

/// How many of something, for people: `1 run`, `2 entries`. `noun` is one of them.
pub fn counted(count: impl std::fmt::Display, noun: &str) -> String {
    let count = count.to_string();
    let before = |end: &str| noun.strip_suffix(end);
    match before("y") {
        _ if count == "1" => format!("{count} {noun}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{count} {stem}ies"),
        _ if ["s", "x", "ch", "sh"].iter().any(|end| before(end).is_some()) => format!("{count} {noun}es"),
        _ => format!("{count} {noun}s"),
    }
}

/// A length of time for people: `20ms`, `1.5s`, `2m`, `3h 20m`, `4d`.
pub fn spell_millis(millis: u64) -> String {
    const SECOND: u64 = 1_000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let two = |first: u64, unit: char, rest: u64, small: char| match rest {
        0 => format!("{first}{unit}"),
        _ => format!("{first}{unit} {rest}{small}"),
    };
    match millis {
        0..SECOND => format!("{millis}ms"),
        SECOND..MINUTE => {
            let text = format!("{}.{:02}", millis / SECOND, millis % SECOND / 10);
            format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
        }
        MINUTE..HOUR => two(millis / MINUTE, 'm', millis % MINUTE / SECOND, 's'),
        HOUR..DAY => two(millis / HOUR, 'h', millis % HOUR / MINUTE, 'm'),
        _ => two(millis / DAY, 'd', millis % DAY / HOUR, 'h'),
    }
}

/// A length of time that goes on, in whole seconds.
pub fn spell_seconds(millis: u64) -> String {
    match millis / 1_000 {
        0 => "0s".to_owned(),
        seconds => spell_millis(seconds * 1_000),
    }
}

/// The record `request` of `wfhost:workflow/agent`; see there for the fields.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct AgentRequest {
    #[n(0)]
    pub prompt: String,
    #[n(1)]
    pub input: Option<Json>,
    #[n(2)]
    pub providers: Vec<String>,
    #[n(3)]
    pub model: Option<String>,
    #[n(4)]
    pub schema: Option<Json>,
    #[n(5)]
    pub session: Option<String>,
    #[n(6)]
    pub workspace: Option<String>,
    #[n(7)]
    pub label: Option<String>,
    #[n(8)]
    pub group: Option<String>,
    #[n(9)]
    pub retry: Option<Retry>,
    #[n(10)]
    pub limits: Option<CallLimits>,
    #[n(11)]
    pub cache: Option<Caching>,
    #[n(12)]
    pub options: Option<Json>,
}

impl AgentRequest {
    fn bytes(&self) -> usize {
        let json = |text: &Option<Json>| text.as_ref().map_or(0, |json| json.as_str().len());
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.prompt.len()
            + [&self.input, &self.schema, &self.options].map(json).iter().sum::<usize>()
            + [&self.model, &self.session, &self.workspace, &self.label, &self.group]
                .map(text)
                .iter()
                .sum::<usize>()
            + self.retry.as_ref().map_or(0, |retry| list_bytes(&retry.fatal))
            + self.cache.as_ref().map_or(0, |cache| cache.version.len())
            + list_bytes(&self.providers)
    }
}

/// When and how often a failed attempt is repeated.
#[derive(Clone, PartialEq, Debug, Encode, Decode, Serialize)]
pub struct Retry {
    #[n(0)]
    pub max_attempts: u32,
    #[n(1)]
    pub initial_ms: u64,
    #[n(2)]
    pub factor: f32,
    #[n(3)]
    pub max_ms: u64,
    #[n(4)]
    pub jitter: f32,
    #[n(5)]
    pub fatal: Vec<String>,
}

/// Time limits of a call.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct CallLimits {
    #[n(0)]
    pub attempt_ms: Option<u64>,
    #[n(1)]
    pub total_ms: Option<u64>,
    #[n(2)]
    pub heartbeat_ms: Option<u64>,
}

/// Answers may be taken from earlier runs that asked the same.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct Caching {
    #[n(0)]
    pub version: String,
    #[n(1)]
    pub ttl_ms: Option<u64>,
}

/// Something that a person has to decide or to supply.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct Question {
    #[n(0)]
    pub prompt: String,
    #[n(1)]
    pub schema: Option<Json>,
    #[n(2)]
    pub choices: Vec<String>,
    #[n(3)]
    pub details: Option<Json>,
}

impl Question {
    fn bytes(&self) -> usize {
        let json = |text: &Option<Json>| text.as_ref().map_or(0, |json| json.as_str().len());
        self.prompt.len() + json(&self.schema) + json(&self.details) + list_bytes(&self.choices)
    }
}

/// What becomes of a child when its parent ends first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum OnParentClose {
    #[n(0)]
    Cancel,
    #[n(1)]
    Abandon,
}

/// How a child is started.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct ChildOptions {
    #[n(0)]
    pub id: Option<String>,
    #[n(1)]
    pub on_close: OnParentClose,
    #[n(2)]
    pub labels: Vec<(String, String)>,
}

impl ChildOptions {
    fn check_sense(&self) -> Result<(), String> {
        if let Some(id) = &self.id {
            id.parse::<RunId>().map_err(|error| error.to_string())?;
        }
        limits::check_labels(&self.labels).map_err(|error| error.to_string())
    }

    fn bytes(&self) -> usize {
        let labels = self.labels.iter().map(|(key, value)| 1 + key.len() + value.len());
        self.id.as_ref().map_or(0, String::len) + labels.sum::<usize>()
    }
}

/// What an agent answered: the record `reply` of `wfhost:workflow/agent`, and
/// the JSON of an agent's step.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reply {
    pub output: Json,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    pub provider: String,
    /// The answer was taken from an earlier call that asked the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// What the agent changed in its workspace: `{files, added, removed}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Json>,
    /// The digest of the component that answered, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// Who signed that component, if it came from a registry and somebody who is known did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
}

impl Reply {
    /// An answer without anything beside it.
    pub fn new(provider: impl Into<String>, output: Json) -> Self {
        Self {
            output,
            session: None,
            model: None,
            usage: None,
            provider: provider.into(),
            cached: false,
            changes: None,
            plugin: None,
            signer: None,
        }
    }
}

/// What an answer consumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    #[n(0)]
    pub input_tokens: u64,
    #[n(1)]
    pub output_tokens: u64,
    /// Input tokens that the provider had in its cache.
    #[n(2)]
    pub cached_tokens: u64,
    /// Millionths of a US dollar.
    #[n(3)]
    pub cost_micros: u64,
}

impl Usage {
    /// Both together, for an attempt of several turns.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cached_tokens: self.cached_tokens.saturating_add(other.cached_tokens),
            cost_micros: self.cost_micros.saturating_add(other.cost_micros),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_read_well() {
        assert_eq!([0, 999, 1_999, 61_500].map(spell_seconds), ["0s", "0s", "1s", "1m 1s"]);
        let spelled = [0, 20, 999, 1_000, 1_500, 1_234, 60_000, 61_000, 7_260_000, 86_400_000];
        assert_eq!(
            spelled.map(spell_millis),
            ["0ms", "20ms", "999ms", "1s", "1.5s", "1.23s", "1m", "1m 1s", "2h 1m", "1d"]
        );
    }

    #[test]
    fn a_label_is_one_short_line() {
        let label = |prompt: &str| {
            Op::Agent(Box::new(AgentRequest { prompt: prompt.to_owned(), ..Default::default() })).label()
        };
        assert_eq!(label("\n  greet Ada \nplease"), "greet Ada");
        assert_eq!(label(&"ä".repeat(80)).chars().count(), 60);
    }

    #[test]
    fn absurd_lengths_are_refused_with_the_limit() {
        let at = Timestamp(1_000);
        let refusal = Op::Sleep { length_ms: u64::MAX }.check_sense(at).unwrap_err();
        assert!(refusal.contains("100 years"), "{refusal}");
        assert!(Op::Sleep { length_ms: limits::SLEEP_MS }.check_sense(at).is_ok());
        assert!(Op::SleepUntil { at: u64::MAX }.check_sense(at).is_err());
        assert!(Op::SleepUntil { at: 0 }.check_sense(at).is_ok());
    }
}
