//! What a simulated world is like, as a file says it.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use wfhost::store::RunState;
use wfhost_config::units;
use wfhost_core::{Failure, FailureKind, Usage};

/// Bytes that a scenario may have.
const MAX_BYTES: u64 = 4 << 20;

/// A scenario that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("the scenario {path} cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("invalid scenario {path}: {source}")]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
}

/// A world for a workflow: who answers it, how slowly, what goes wrong, and what has to come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    #[serde(skip)]
    pub name: String,
    /// What it was read from, for other processes.
    #[serde(skip)]
    pub(crate) text: String,
    /// Of the run.
    #[serde(default)]
    pub input: Value,
    /// A run that has not ended after so much virtual time is stuck.
    #[serde(default = "a_year", deserialize_with = "length")]
    pub within: u64,
    #[serde(default)]
    pub agents: Vec<AgentRule>,
    #[serde(default)]
    pub people: Vec<PersonRule>,
    #[serde(default)]
    pub signals: Vec<SignalRule>,
    #[serde(default)]
    pub world: Faults,
    #[serde(default)]
    pub expect: Expect,
}

fn a_year() -> u64 {
    366 * 24 * 3_600_000
}

/// How agents answer calls. The first rule that matches counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRule {
    /// Found in the prompt; all prompts if none.
    #[serde(default, rename = "match")]
    pub pattern: Option<Pattern>,
    /// Only calls to this provider.
    pub provider: Option<String>,
    /// In texts `$1` stands for a group of `match`, `${prompt}` for the prompt.
    #[serde(default)]
    pub reply: Value,
    /// One of these instead.
    #[serde(default)]
    pub replies: Vec<Value>,
    #[serde(default = "seconds", deserialize_with = "range")]
    pub delay: RangeInclusive<u64>,
    /// How many of the attempts fail, from 0 to 1.
    #[serde(default)]
    pub fails: Share,
    /// In which ways, one of these.
    #[serde(default = "unavailable")]
    pub kinds: Vec<FailureKind>,
    pub usage: Option<Usage>,
}

fn seconds() -> RangeInclusive<u64> {
    500..=60_000
}

fn unavailable() -> Vec<FailureKind> {
    vec![FailureKind::Unavailable]
}

/// How people answer questions. The first rule that matches counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersonRule {
    /// Found in what is asked; all questions if none.
    #[serde(default, rename = "match")]
    pub pattern: Option<Pattern>,
    /// One of these.
    #[serde(default)]
    pub answers: Vec<Value>,
    /// How often nobody answers, from 0 to 1.
    #[serde(default)]
    pub never: Share,
    #[serde(default = "days", deserialize_with = "range")]
    pub delay: RangeInclusive<u64>,
}

fn days() -> RangeInclusive<u64> {
    60_000..=3 * 24 * 3_600_000
}

/// A signal that is sent to the run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalRule {
    pub name: String,
    #[serde(default)]
    pub payload: Value,
    /// One of these instead.
    #[serde(default)]
    pub payloads: Vec<Value>,
    /// After the beginning of the run.
    #[serde(default = "days", deserialize_with = "range")]
    pub after: RangeInclusive<u64>,
    /// How often it is not sent, from 0 to 1.
    #[serde(default)]
    pub never: Share,
    /// How often it is sent twice, with two ids.
    #[serde(default)]
    pub twice: Share,
}

/// What goes wrong, from 0 to 1.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// How often the host dies, at each call that begins and at each answer.
    pub kills: Share,
    /// How often the run is asked to stop, in each execution.
    pub cancel: Share,
    /// How many of the hosts drop programs from memory at each wait.
    pub evict: Share,
    /// How many of the calls in flight that nothing waits for any more, because the run gave them up or the
    /// host died, are carried out all the same.
    pub dropped: Share,
}

impl Default for Faults {
    fn default() -> Self {
        Self { kills: Share(0.04), cancel: Share(0.0), evict: Share(0.5), dropped: Share(0.2) }
    }
}

/// What has to come of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// How the run may end. Without it: completed; or failed or cancelled, where an agent failed, nobody
    /// answered or the run was asked to stop.
    #[serde(default, deserialize_with = "states")]
    pub states: Vec<RunState>,
    /// What a run that completed gave, as far as it is written here.
    pub result: Option<Value>,
    /// Published state at the end, as far as it is written here.
    #[serde(default)]
    pub state: serde_json::Map<String, Value>,
    #[serde(default)]
    pub calls: Vec<CallRule>,
    #[serde(default)]
    pub owed: Vec<OwedRule>,
    #[serde(default)]
    pub order: Vec<OrderRule>,
    #[serde(default)]
    pub alone: Vec<AloneRule>,
}

/// Each call that matches `then` begins after one that matches `first` has ended.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRule {
    pub first: Pattern,
    pub then: Pattern,
}

/// No two calls that match are under way at the same time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AloneRule {
    #[serde(rename = "match")]
    pub pattern: Pattern,
}

/// How many calls reach agents. Attempts at one step count once.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallRule {
    #[serde(rename = "match")]
    pub pattern: Pattern,
    #[serde(default)]
    pub at_least: u64,
    pub at_most: Option<u64>,
    /// Only for runs that end so; for all if empty.
    #[serde(default, deserialize_with = "states")]
    pub when: Vec<RunState>,
}

/// A call that has to be undone by another one that ends later, unless the run ends well. Equal calls need one each.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwedRule {
    /// The call, like `^book (\w+)`.
    pub done: Pattern,
    /// The call that undoes it, with the groups of `done`: `^cancel $1`.
    pub undone: String,
    /// Unless the run ends so.
    #[serde(default = "completed", deserialize_with = "states")]
    pub unless: Vec<RunState>,
}

fn completed() -> Vec<RunState> {
    vec![RunState::Completed]
}

/// A part, from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share(pub f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = match toml::Value::deserialize(deserializer)? {
            toml::Value::Integer(number) => number as f64,
            toml::Value::Float(number) => number,
            toml::Value::Boolean(always) => f64::from(u8::from(always)),
            _ => f64::NAN,
        };
        match (0.0..=1.0).contains(&value) {
            true => Ok(Self(value)),
            false => Err(serde::de::Error::custom("a share has to be a number from 0 to 1")),
        }
    }
}

/// A regular expression.
#[derive(Clone, Debug)]
pub struct Pattern(pub Regex);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Regex::new(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A length of time like `90s`, in milliseconds.
fn length<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    units::millis(&text).map_err(serde::de::Error::custom)
}

/// `5s` or `1s..10m`.
fn range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RangeInclusive<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let millis = |text: &str| units::millis(text.trim()).map_err(serde::de::Error::custom);
    let (least, most) = match text.split_once("..") {
        Some((least, most)) => (millis(least)?, millis(most)?),
        None => (millis(&text)?, millis(&text)?),
    };
    match least <= most {
        true => Ok(least..=most),
        false => Err(serde::de::Error::custom(format!("`{text}` ends before it starts"))),
    }
}

fn states<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RunState>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let known = || RunState::ALL.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(", ");
    names
        .iter()
        .map(|name| {
            RunState::parse(name).ok_or_else(|| {
                serde::de::Error::custom(format!("unknown state `{name}`; the states are {}", known()))
            })
        })
        .collect()
}

impl Scenario {
    /// One in which agents repeat what they are asked, sometimes fail, and the host dies now and then.
    pub fn usual(input: Value) -> Self {
        let scenario = r#"
            [[agents]]
            reply = "${prompt}"
            fails = 0.1
        "#;
        let scenario = Self::parse(Path::new(""), scenario);
        Self { name: "usual".to_owned(), input, ..scenario.unwrap_or_else(|error| unreachable!("{error}")) }
    }

    /// Reads a scenario.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is no scenario.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::File::open(path)
            .and_then(|file| wfhost::world::private::read_at_most(MAX_BYTES, file))
            .map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Self::parse(path, &text).map(|scenario| Self { name, ..scenario })
    }

    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)
            .map_err(|source| ScenarioError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Self { text: text.to_owned(), ..scenario })
    }
}

impl Scenario {
    /// What is to apply in some execution, by what names it in a report: rules of agents and people, signals and
    /// expectations.
    pub fn rules(&self) -> Vec<String> {
        fn names<'a, T>(
            rules: &'a [T],
            name: impl Fn(&T, usize) -> String + 'a,
        ) -> impl Iterator<Item = String> + 'a {
            rules.iter().enumerate().map(move |(index, rule)| name(rule, index))
        }
        let Expect { states, result, state, calls, owed, order, alone } = &self.expect;
        names(&self.agents, AgentRule::name)
            .chain(names(&self.people, PersonRule::name))
            .chain(names(&self.signals, SignalRule::name))
            .chain(states.iter().map(|state| Expect::name_of(*state)))
            .chain(result.as_ref().map(|_| Expect::RESULT.to_owned()))
            .chain((!state.is_empty()).then(|| Expect::STATE.to_owned()))
            .chain(names(calls, CallRule::name))
            .chain(names(owed, OwedRule::name))
            .chain(names(order, OrderRule::name))
            .chain(names(alone, AloneRule::name))
            .collect()
    }
}

/// By the number that it has in the file: several rules may have the same pattern.
fn named(what: &str, index: usize, pattern: Option<&str>) -> String {
    let pattern = pattern.map(|pattern| format!(", `{pattern}`")).unwrap_or_default();
    format!("{what}, rule {}{pattern}", index + 1)
}

impl Expect {
    pub const RESULT: &str = "expect.result";
    pub const STATE: &str = "expect.state";

    /// What names a state of `expect.states` in a report.
    pub fn name_of(state: RunState) -> String {
        format!("expect.states, `{}`", state.as_str())
    }
}

impl CallRule {
    /// Whether it is for runs that end so.
    pub fn applies(&self, state: RunState) -> bool {
        self.when.is_empty() || self.when.contains(&state)
    }

    pub fn name(&self, index: usize) -> String {
        named("expect.calls", index, Some(self.pattern.0.as_str()))
    }
}

impl OwedRule {
    pub fn name(&self, index: usize) -> String {
        named("expect.owed", index, Some(self.done.0.as_str()))
    }
}

impl OrderRule {
    pub fn name(&self, index: usize) -> String {
        named("expect.order", index, Some(self.then.0.as_str()))
    }
}

impl AloneRule {
    pub fn name(&self, index: usize) -> String {
        named("expect.alone", index, Some(self.pattern.0.as_str()))
    }
}

impl SignalRule {
    pub fn name(&self, index: usize) -> String {
        named("signals", index, Some(&self.name))
    }
}

impl PersonRule {
    pub fn name(&self, index: usize) -> String {
        named("people", index, self.pattern.as_ref().map(|pattern| pattern.0.as_str()))
    }
}

impl AgentRule {
    pub fn name(&self, index: usize) -> String {
        named("agents", index, self.pattern.as_ref().map(|pattern| pattern.0.as_str()))
    }

    /// Whether it answers this, and what the groups of its pattern are.
    pub fn answers<'a>(&self, provider: &str, prompt: &'a str) -> Option<Option<regex::Captures<'a>>> {
        if self.provider.as_ref().is_some_and(|wanted| wanted != provider) {
            return None;
        }
        match &self.pattern {
            None => Some(None),
            Some(pattern) => pattern.0.captures(prompt).map(Some),
        }
    }
}

/// How an agent fails on purpose.
pub fn failure(kind: FailureKind) -> Failure {
    Failure::new(kind, "the simulated agent fails")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Scenario, String> {
        Scenario::parse(Path::new("t.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_scenario_is_read() {
        let scenario = parse(
            r#"
            input = { topic = "bees" }
            within = "30d"
            [[agents]]
            match = "^book (\\w+)"
            reply = { booked = "$1" }
            delay = "1s..10m"
            fails = 0.2
            kinds = ["unavailable", "timed-out"]
            [[people]]
            answers = [true, false]
            never = 1
            [[signals]]
            name = "approve"
            payload = { ok = true }
            after = "0s..8d"
            [world]
            kills = 0.1
            [expect]
            states = ["completed", "failed"]
            [[expect.owed]]
            done = "^book (\\w+)"
            undone = "^cancel $1"
            "#,
        )
        .unwrap();
        assert_eq!(scenario.agents[0].delay, 1_000..=600_000);
        assert_eq!(scenario.signals[0].after, 0..=8 * 24 * 3_600_000);
        assert_eq!(scenario.expect.owed[0].unless, [RunState::Completed]);
        assert!(scenario.world.evict.0 > 0.0, "what is not said is as usual");
        assert!(Scenario::usual(Value::Null).agents[0].fails.0 > 0.0);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        for (text, expected) in [
            ("[[agents]]\nfails = 2", "a number from 0 to 1"),
            ("[[agents]]\ndelay = \"5m..1s\"", "ends before it starts"),
            ("[[agents]]\nmatch = \"(\"", "regex parse error"),
            ("[expect]\nstates = [\"done\"]", "unknown state `done`"),
            ("[[signal]]\nname = \"x\"", "unknown field `signal`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
