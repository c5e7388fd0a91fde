//! What is wrong with an execution.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wfhost::store::{RunInfo, RunState};
use wfhost_core::{Event, Op};

use crate::execution::Execution;
use crate::outside::{Reached, cut};
use crate::scenario::{Expect, OwedRule, Pattern, Scenario};

/// What kind of promise was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The program trapped, panicked, reached a limit, or waits for nothing.
    Stopped,
    /// The run did not end in time.
    Stuck,
    /// It ended in a state that was not expected.
    State,
    /// It differs from its journal.
    NonDeterminism,
    Result,
    Published,
    Calls,
    /// A call that may be made once was made twice.
    Twice,
    /// A call was made before another one that has to come first, or beside one that has to be alone.
    Order,
    /// Something was not undone.
    Owed,
}

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fault {
    pub kind: FaultKind,
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

fn fault(kind: FaultKind, what: impl Into<String>) -> Fault {
    Fault { kind, what: what.into() }
}

/// The first promise that an execution broke, the gravest first.
pub fn judge(scenario: &Scenario, execution: &Execution) -> Result<(), Fault> {
    deterministic(execution)?;
    returned(execution)?;
    ended(scenario, execution)?;
    gave(scenario, execution)?;
    called(scenario, execution)?;
    ordered(scenario, execution)?;
    undone(scenario, execution)
}

fn deterministic(execution: &Execution) -> Result<(), Fault> {
    for run in &execution.runs {
        let refused = match (&run.info.state, &run.info.outcome) {
            (RunState::Refused, Some(Err(failure))) => Some(&failure.message),
            _ => None,
        };
        if let Some(why) = refused.or(run.differs.as_ref()) {
            return Err(fault(
                FaultKind::NonDeterminism,
                format!("{} diverges from its journal: {why}", run.info.id),
            ));
        }
    }
    Ok(())
}

fn returned(execution: &Execution) -> Result<(), Fault> {
    for run in &execution.runs {
        if let Some(Event::Finished { stopped: true, outcome }) =
            run.journal.entries.last().map(|entry| &entry.event)
            && let wfhost_core::Recorded::Err(failure) = outcome
            && failure.kind == wfhost_core::FailureKind::Failed
        {
            return Err(fault(
                FaultKind::Stopped,
                format!("{} did not return a result: {}", run.info.id, failure.message),
            ));
        }
    }
    Ok(())
}

/// What a run waits for, in words.
fn waits_for(info: &RunInfo) -> String {
    let Some(waiting) = &info.waiting else { return String::new() };
    let mut what: Vec<_> = waiting.signals.iter().map(|name| format!("the signal `{name}`")).collect();
    if waiting.people {
        what.push("the answer to a question".to_owned());
    }
    match what.is_empty() {
        true => String::new(),
        false => format!(" for {}", what.join(" or ")),
    }
}

fn ended(scenario: &Scenario, execution: &Execution) -> Result<(), Fault> {
    let main = &execution.main;
    let expected = &scenario.expect.states;
    if expected.contains(&main.state) {
        return Ok(());
    }
    if !main.state.is_final() {
        return Err(fault(
            FaultKind::Stuck,
            format!("the run never ends: it is {}{}", main.state.as_str(), waits_for(main)),
        ));
    }
    let excused = execution.excused && matches!(main.state, RunState::Failed | RunState::Cancelled);
    if expected.is_empty() && (main.state == RunState::Completed || excused) {
        return Ok(());
    }
    let why = match &main.outcome {
        Some(Err(failure)) => format!(": {failure}"),
        _ => String::new(),
    };
    Err(fault(FaultKind::State, format!("{}{why}", came_to(main))))
}

/// How a run ended, or where it stands, in words.
pub fn came_to(info: &RunInfo) -> String {
    match info.state {
        RunState::Completed => "the run completed".to_owned(),
        RunState::Failed => "the run failed".to_owned(),
        RunState::Cancelled => "the run was cancelled".to_owned(),
        state => format!("the run is {}{}", state.as_str(), waits_for(info)),
    }
}

/// Whether a value has all that is expected of it.
fn has(value: &Value, expected: &Value) -> bool {
    match (value, expected) {
        (Value::Object(value), Value::Object(expected)) => {
            expected.iter().all(|(name, expected)| value.get(name).is_some_and(|value| has(value, expected)))
        }
        _ => value == expected,
    }
}

fn gave(scenario: &Scenario, execution: &Execution) -> Result<(), Fault> {
    if let (Some(expected), Some(Ok(result))) = (&scenario.expect.result, &execution.main.outcome)
        && !has(&result.value(), expected)
    {
        let what = format!("the result is {}, but has to contain {expected}", cut(result.as_str()));
        return Err(fault(FaultKind::Result, what));
    }
    if execution.main.state != RunState::Completed {
        return Ok(());
    }
    for (key, expected) in &scenario.expect.state {
        let value =
            execution.published.iter().find(|(known, _)| known == key).map(|(_, value)| value.value());
        if value.as_ref().is_none_or(|value| !has(value, expected)) {
            let value = value.map_or_else(|| "not published".to_owned(), |value| value.to_string());
            return Err(fault(
                FaultKind::Published,
                format!("`{key}` is {value} at the end, but has to contain {expected}"),
            ));
        }
    }
    Ok(())
}

fn called(scenario: &Scenario, execution: &Execution) -> Result<(), Fault> {
    let mut times = BTreeMap::new();
    for call in &execution.reached {
        *times.entry(&call.key).or_insert(0_u32) += 1;
    }
    if let Some(call) = execution.reached.iter().find(|call| call.once && times[&call.key] > 1) {
        let what = format!(
            "the call {} may be made at most once, but was made {} times",
            cut(&call.prompt),
            times[&call.key]
        );
        return Err(fault(FaultKind::Twice, what));
    }
    for rule in &scenario.expect.calls {
        if !rule.applies(execution.main.state) {
            continue;
        }
        let calls = steps_that_match(execution, &rule.pattern);
        if calls < rule.at_least || rule.at_most.is_some_and(|most| calls > most) {
            let matching = match calls {
                0 => "no call matches".to_owned(),
                1 => "1 call matches".to_owned(),
                calls => format!("{calls} calls match"),
            };
            let what =
                format!("{matching} `{}`; expected: {}", rule.pattern.0, bounds(rule.at_least, rule.at_most));
            return Err(fault(FaultKind::Calls, what));
        }
    }
    Ok(())
}

fn ordered(scenario: &Scenario, execution: &Execution) -> Result<(), Fault> {
    let calls = &execution.reached;
    for rule in &scenario.expect.order {
        let first = || calls.iter().filter(|call| rule.first.0.is_match(&call.prompt));
        for call in calls.iter().filter(|call| rule.then.0.is_match(&call.prompt)) {
            if !first().any(|before| before.ended < call.began) {
                let what =
                    format!("{} was made before any call that matches `{}`", cut(&call.prompt), rule.first.0);
                return Err(fault(FaultKind::Order, what));
            }
        }
    }
    for rule in &scenario.expect.alone {
        let matching: Vec<_> = calls.iter().filter(|call| rule.pattern.0.is_match(&call.prompt)).collect();
        for (n, call) in matching.iter().enumerate() {
            let beside = matching[n + 1..].iter().find(|other| {
                // Attempts at one step are the host's affair.
                other.key != call.key && other.began < call.ended && call.began < other.ended
            });
            if let Some(other) = beside {
                let what = format!(
                    "{} and {} were under way at the same time",
                    cut(&call.prompt),
                    cut(&other.prompt)
                );
                return Err(fault(FaultKind::Order, what));
            }
        }
    }
    Ok(())
}

fn bounds(least: u64, most: Option<u64>) -> String {
    match most {
        Some(most) if most == least => format!("{most}"),
        Some(most) if least == 0 => format!("at most {most}"),
        Some(most) => format!("{least} to {most}"),
        None => format!("at least {least}"),
    }
}

fn undone(scenario: &Scenario, execution: &Execution) -> Result<(), Fault> {
    if scenario.expect.owed.is_empty() {
        return Ok(());
    }
    let calls = by_step(&execution.reached);
    let state = execution.main.state;
    let mut owed = scenario.expect.owed.iter().filter(|rule| !rule.unless.contains(&state));
    match owed.find_map(|rule| not_undone(rule, &calls)) {
        Some((call, why)) => {
            let what = format!("{} was never undone: {}, {why}", cut(&call.prompt), came_to(&execution.main));
            Err(fault(FaultKind::Owed, what))
        }
        None => Ok(()),
    }
}

/// A call that a rule wants undone and that is not, and why it is not.
fn not_undone<'a>(rule: &OwedRule, calls: &'a [Reached]) -> Option<(&'a Reached, String)> {
    calls.iter().find_map(|call| {
        let captures = rule.done.0.captures(&call.prompt)?;
        let mut wanted = String::new();
        // What was in the prompt is no pattern.
        expand(&rule.undone, &captures, &mut wanted);
        let pattern = regex::Regex::new(&wanted).ok();
        let undoing =
            |other: &&Reached| pattern.as_ref().is_some_and(|wanted| wanted.is_match(&other.prompt));
        let later = calls.iter().filter(undoing).filter(|other| other.ended > call.began).count();
        // Each of several equal calls needs one of its own: as many as there are from this one on.
        let equal =
            calls.iter().filter(|other| other.prompt == call.prompt && other.began >= call.began).count();
        let why = match later {
            later if later >= equal => return None,
            0 if calls.iter().any(|other| undoing(&other)) => format!("and no later call matches `{wanted}`"),
            0 => format!("and no call matches `{wanted}`"),
            later => format!(
                "and of {equal} such calls, only {later} can be undone by calls that match `{wanted}`"
            ),
        };
        Some((call, why))
    })
}

/// Calls of which those at one step are one, from the beginning of the first one to the end of the last one.
fn by_step(reached: &[Reached]) -> Vec<Reached> {
    let mut steps: BTreeMap<&str, Reached> = BTreeMap::new();
    for call in reached {
        let step = steps.entry(&call.key).or_insert_with(|| call.clone());
        step.began = step.began.min(call.began);
        step.ended = step.ended.max(call.ended);
    }
    let mut steps: Vec<_> = steps.into_values().collect();
    steps.sort_by_key(|step| step.began);
    steps
}

/// Notes which signals of a scenario were waited for in an execution, and which expectations had something to check.
pub fn note_used(scenario: &Scenario, execution: &Execution, used: &mut BTreeSet<String>) {
    let state = execution.main.state;
    let matches = |pattern: &Pattern| steps_that_match(execution, pattern);
    let mut note = |name: String, applies: &dyn Fn() -> bool| {
        // Mostly it is known already.
        if !used.contains(&name) && applies() {
            used.insert(name);
        }
    };
    for (index, rule) in scenario.signals.iter().enumerate() {
        note(rule.name(index), &|| is_waited_for(execution, &rule.name));
    }
    let Expect { states, calls, owed, order, alone, .. } = &scenario.expect;
    for expected in states {
        note(Expect::name_of(*expected), &|| *expected == state);
    }
    for name in [Expect::RESULT, Expect::STATE] {
        note(name.to_owned(), &|| state == RunState::Completed);
    }
    for (index, rule) in calls.iter().enumerate() {
        note(rule.name(index), &|| {
            // That there is no such call is checked as well where none may be or some have to be.
            let is_checked = rule.at_least > 0 || rule.at_most == Some(0);
            rule.applies(state) && (is_checked || matches(&rule.pattern) > 0)
        });
    }
    for (index, rule) in owed.iter().enumerate() {
        note(rule.name(index), &|| !rule.unless.contains(&state) && matches(&rule.done) > 0);
    }
    for (index, rule) in order.iter().enumerate() {
        note(rule.name(index), &|| matches(&rule.then) > 0);
    }
    for (index, rule) in alone.iter().enumerate() {
        note(rule.name(index), &|| matches(&rule.pattern) > 1);
    }
}

/// Whether the run, in any of its rounds, waited for a signal.
fn is_waited_for(execution: &Execution, signal: &str) -> bool {
    let rounds = execution.runs.iter().filter(|run| run.info.parent.is_none());
    let waits = |op: &Op| matches!(op, Op::Signal { name, .. } if name == signal);
    rounds.flat_map(|run| wfhost::steps(&run.journal)).any(|step| waits(&step.op))
}

/// How many steps made calls that match.
fn steps_that_match(execution: &Execution, pattern: &Pattern) -> u64 {
    let calls = execution.reached.iter().filter(|call| pattern.0.is_match(&call.prompt));
    calls.map(|call| &call.key).collect::<BTreeSet<_>>().len() as u64
}

/// Puts the groups of a match into a pattern, as the texts that they are.
fn expand(pattern: &str, captures: &regex::Captures<'_>, into: &mut String) {
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('$') {
        into.push_str(before);
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        match after[..digits].parse::<usize>() {
            Ok(group) => {
                into.push_str(&regex::escape(captures.get(group).map_or("", |group| group.as_str())))
            }
            Err(_) => into.push('$'),
        }
        rest = &after[digits..];
    }
    into.push_str(rest);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_has_what_is_expected_if_nothing_is_missing_or_different() {
        let value = json!({ "a": 1, "b": { "c": [1, 2], "d": 0 } });
        assert!(has(&value, &json!({ "b": { "c": [1, 2] } })));
        assert!(!has(&value, &json!({ "b": { "c": [1] } })));
        assert!(!has(&value, &json!({ "e": null })));
    }

    /// Calls one after the other, each at a step of its own.
    fn calls(prompts: &[&str]) -> Vec<Reached> {
        let call = |(n, prompt): (usize, &&str)| Reached {
            key: n.to_string(),
            prompt: (*prompt).to_owned(),
            once: false,
            began: 2 * n as u64,
            ended: 2 * n as u64 + 1,
        };
        prompts.iter().enumerate().map(call).collect()
    }

    #[test]
    fn what_undoes_a_call_comes_after_it_and_undoes_one() {
        let rule = "done = '^book (.+)'\nundone = '^cancel $1'";
        let rule: OwedRule = toml::from_str(rule).unwrap();
        let why = |prompts: &[&str]| not_undone(&rule, &by_step(&calls(prompts))).map(|(_, why)| why);
        assert_eq!(why(&["book a", "book b", "cancel b", "cancel a"]), None);
        assert_eq!(why(&["book a", "cancel a", "book a", "cancel a"]), None);
        assert_eq!(why(&["book a", "book a", "cancel a", "cancel a"]), None);
        assert_eq!(why(&["book a", "cancel b"]).unwrap(), "and no call matches `^cancel a`");
        for prompts in [&["cancel a", "book a"][..], &["book a", "cancel a", "cancel a", "book a"]] {
            assert_eq!(why(prompts).unwrap(), "and no later call matches `^cancel a`", "{prompts:?}");
        }
        let once = why(&["book a", "book a", "cancel a"]).unwrap();
        assert!(once.starts_with("and of 2 such calls, only 1 can be undone"), "{once}");
        // One call may undo several that differ.
        let rule = OwedRule { undone: "^cancel all".to_owned(), ..rule };
        assert_eq!(not_undone(&rule, &calls(&["book a", "book b", "cancel all"])), None);
    }

    #[test]
    fn attempts_at_one_step_are_one_call() {
        let mut reached = calls(&["book a", "cancel a", "book a"]);
        reached[2].key = reached[0].key.clone();
        let steps = by_step(&reached);
        let places: Vec<_> =
            steps.iter().map(|step| (step.prompt.as_str(), step.began, step.ended)).collect();
        assert_eq!(places, [("book a", 0, 5), ("cancel a", 2, 3)]);
    }

    #[test]
    fn groups_are_put_into_patterns_as_text() {
        let done = regex::Regex::new(r"^book (.+)$").unwrap();
        let mut wanted = String::new();
        expand(r"^cancel $1$", &done.captures("book a.b(c").unwrap(), &mut wanted);
        assert_eq!(wanted, r"^cancel a\.b\(c$");
    }
}
