//! What is wrong with an execution.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;
use wfhost::store::{RunInfo, RunState};
use wfhost_core::Event;

use crate::execution::Execution;
use crate::outside::cut;
use crate::scenario::Scenario;

/// What kind of promise was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
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
                format!("{} differs from its journal: {why}", run.info.id),
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
                format!("{} did not return: {}", run.info.id, failure.message),
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
    Err(fault(FaultKind::State, format!("the run is {}{why}", main.state.as_str())))
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
            "the call {} may be made once, but was made {} times",
            cut(&call.prompt),
            times[&call.key]
        );
        return Err(fault(FaultKind::Twice, what));
    }
    for rule in &scenario.expect.calls {
        if !rule.when.is_empty() && !rule.when.contains(&execution.main.state) {
            continue;
        }
        let calls = execution.reached.iter().filter(|call| rule.pattern.0.is_match(&call.prompt));
        let calls = calls.map(|call| &call.key).collect::<BTreeSet<_>>().len() as u64;
        if calls < rule.at_least || rule.at_most.is_some_and(|most| calls > most) {
            let what = format!(
                "{calls} calls match `{}`, but {} are expected",
                rule.pattern.0,
                bounds(rule.at_least, rule.at_most)
            );
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
    for rule in &scenario.expect.owed {
        if rule.unless.contains(&execution.main.state) {
            continue;
        }
        for call in &execution.reached {
            let Some(captures) = rule.done.0.captures(&call.prompt) else { continue };
            let mut wanted = String::new();
            // What was in the prompt is no pattern.
            expand(&rule.undone, &captures, &mut wanted);
            let is_undone = regex::Regex::new(&wanted)
                .is_ok_and(|wanted| execution.reached.iter().any(|call| wanted.is_match(&call.prompt)));
            if !is_undone {
                let what = format!(
                    "{} was done but not undone: the run is {}, and no call matches `{wanted}`",
                    cut(&call.prompt),
                    execution.main.state.as_str()
                );
                return Err(fault(FaultKind::Owed, what));
            }
        }
    }
    Ok(())
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

    #[test]
    fn groups_are_put_into_patterns_as_text() {
        let done = regex::Regex::new(r"^book (.+)$").unwrap();
        let mut wanted = String::new();
        expand(r"^cancel $1$", &done.captures("book a.b(c").unwrap(), &mut wanted);
        assert_eq!(wanted, r"^cancel a\.b\(c$");
    }
}
