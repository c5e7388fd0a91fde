//! What a run did when, for the chart: the steps with their attempts and delays, by one walk over its
//! journal.

use std::collections::BTreeSet;

use serde::Serialize;
use wfhost::{StepInfo, steps};
use wfhost_core::policy::budget::Spent;
use wfhost_core::{Event, FailureKind, Journal, Op, Reply, Step, Timestamp, Timing, Usage};
use wfhost_view::{StepOutline, Turn};

/// One attempt of a call.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Attempt {
    /// Counted from 1, as the journal counts them.
    #[serde(skip)]
    pub number: u32,
    /// Milliseconds since the beginning of time.
    pub from: u64,
    /// None if it goes on.
    pub to: Option<u64>,
    /// `done`, `failed`, `lost` with its host, `open`, `queued` while it waits for its turn.
    pub state: &'static str,
    /// When the provider was asked, if it waited before: for a slot, for the budget, for its turn.
    pub sent: Option<u64>,
    /// When the provider was heard of first.
    pub first: Option<u64>,
}

impl Attempt {
    fn begun(number: u32, from: Timestamp) -> Self {
        Self { number, from: from.0, to: None, state: "open", sent: None, first: None }
    }

    fn end(&mut self, at: Timestamp, state: &'static str, timing: Option<&Timing>) {
        (self.to, self.state) = (Some(at.0), state);
        if let Some(timing) = timing {
            // The clock of the host and the times of the journal may differ.
            let sent = self.from.saturating_add(timing.waited_ms).min(at.0);
            self.sent = (timing.waited_ms > 0).then_some(sent);
            self.first = timing.first_ms.map(|first| sent.saturating_add(first).min(at.0));
        }
    }
}

/// Something that happened to the run as a whole, as a line across its chart.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Mark {
    pub at: u64,
    pub entry: u64,
    /// `taken over`, `retried`, `moved`, `forked`, `cancel requested`, `clock set`.
    pub what: &'static str,
    /// Whether the program repeated what it had done before it went on.
    pub replays: bool,
}

/// A step on the time axis.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Bar {
    pub step: u64,
    /// The entry that asked for it.
    pub asked: u64,
    /// The entry that holds its answer.
    pub answered: Option<u64>,
    pub kind: &'static str,
    pub label: String,
    pub state: &'static str,
    pub from: u64,
    pub to: Option<u64>,
    pub attempts: Vec<Attempt>,
    /// When the next attempt begins, or the sleep ends.
    pub until: Option<u64>,
    pub provider: Option<String>,
    /// Millionths of a dollar, failed attempts included.
    pub cost: u64,
}

/// Who answered a step, and what its calls have cost. An answer is read once.
fn answered(info: &StepInfo) -> (Option<String>, u64) {
    let of = |usage: &Option<Usage>| usage.as_ref().map(Spent::of).unwrap_or_default();
    let failed = info.failed.iter().map(|failed| of(&failed.usage)).fold(Spent::default(), Spent::plus);
    let reply = match (&info.op, &info.ended) {
        (Op::Agent(_), Some((_, Some(Ok(answer))))) => serde_json::from_str::<Reply>(answer.as_str()).ok(),
        _ => None,
    };
    let last = reply.as_ref().filter(|reply| !reply.cached).map(|reply| of(&reply.usage));
    (reply.map(|reply| reply.provider), failed.plus(last.unwrap_or_default()).micros)
}

/// Steps with what a chart shows of them.
pub(super) struct Charted {
    pub infos: Vec<StepInfo>,
    pub bars: Vec<Bar>,
    pub marks: Vec<Mark>,
}

/// Charts a journal. `may` tells whether labels are shown.
pub(super) fn chart(journal: &Journal, may: bool) -> Charted {
    let infos = steps(journal);
    let mut bars: Vec<Bar> = infos
        .iter()
        .map(|info| {
            let outline = StepOutline::of(info, may);
            let (provider, cost) = answered(info);
            let is_call = info.op.kind() == "agent";
            let first = Attempt::begun(1, info.started_at);
            Bar {
                step: info.step.0,
                asked: 0,
                answered: None,
                kind: outline.kind,
                label: outline.label,
                state: outline.state,
                from: info.started_at.0,
                to: info.ended.as_ref().map(|(at, _)| at.0),
                attempts: if is_call { vec![first] } else { Vec::new() },
                until: info.waits.as_ref().map(|(at, _)| at.0),
                provider,
                cost,
            }
        })
        .collect();
    // Whether there was an attempt that this ended.
    let end = |bars: &mut Vec<Bar>, step: &Step, at: Timestamp, state, timing: Option<&Timing>| {
        let bar = bars.get_mut((step.0 as usize).wrapping_sub(1));
        let last = bar.and_then(|bar| bar.attempts.last_mut()).filter(|last| last.to.is_none());
        let Some(last) = last else { return false };
        last.end(at, state, timing);
        true
    };
    let mut marks: Vec<Mark> = Vec::new();
    // Steps whose last attempt was left by its host.
    let mut dropped = BTreeSet::new();
    for (position, entry) in journal.entries.iter().enumerate() {
        let at = entry.at;
        if let Some((what, replays)) = marked(&entry.event) {
            marks.push(Mark { at: at.0, entry: position as u64, what, replays });
        }
        match &entry.event {
            Event::Scheduled { step, .. } => {
                if let Some(bar) = bars.get_mut((step.0 as usize).wrapping_sub(1)) {
                    bar.asked = position as u64;
                }
            }
            Event::Attempted { step, attempt, .. } => {
                // Nobody ended the attempt before: its host is gone, and another one goes on.
                let is_over = end(&mut bars, step, at, "lost", None) | dropped.remove(step);
                if is_over && marks.last().is_none_or(|last| last.at != at.0 || last.what != TAKEN_OVER) {
                    let entry = position as u64;
                    marks.push(Mark { at: at.0, entry, what: TAKEN_OVER, replays: true });
                }
                if let Some(bar) = bars.get_mut((step.0 as usize).wrapping_sub(1)) {
                    bar.attempts.push(Attempt::begun(*attempt, at));
                }
            }
            // It says what the attempt consumed, which may be known only after another one was begun.
            Event::AttemptFailed(failed) if failed.is_dropped() => {
                let bar = bars.get((failed.step.0 as usize).wrapping_sub(1));
                let last = bar.and_then(|bar| bar.attempts.last());
                if last.is_some_and(|last| last.number == failed.attempt)
                    && end(&mut bars, &failed.step, at, "lost", failed.timing.as_ref())
                {
                    dropped.insert(failed.step);
                }
            }
            Event::AttemptFailed(failed) => {
                end(&mut bars, &failed.step, at, "failed", failed.timing.as_ref());
            }
            Event::Postponed { step, .. } => {
                // It was not made: it waits for its time.
                if let Some(bar) = bars.get_mut((step.0 as usize).wrapping_sub(1)) {
                    bar.attempts.pop();
                }
            }
            Event::Cancelled { step } => {
                end(&mut bars, step, at, "lost", None);
                dropped.remove(step);
            }
            // It ends all that is open.
            Event::CancelRequested { .. } => {
                for last in bars.iter_mut().filter_map(|bar| bar.attempts.last_mut()) {
                    if last.to.is_none() {
                        last.end(at, "lost", None);
                    }
                }
                dropped.clear();
            }
            event => {
                if let Some((step, outcome)) = event.ended_step() {
                    let outcome = wfhost_core::Outcome::from(outcome.clone());
                    let is_ok = outcome.is_ok();
                    // Providers may say of an attempt that it was cancelled: then it has failed of that.
                    if dropped.remove(&step)
                        && outcome.is_err_and(|failure| failure.kind == FailureKind::Cancelled)
                        && let Some(bar) = bars.get_mut((step.0 as usize).wrapping_sub(1))
                        && let Some(last) = bar.attempts.last_mut()
                    {
                        last.state = "failed";
                    }
                    let timing = match event {
                        Event::Completed { timing, .. } => timing.as_ref(),
                        _ => None,
                    };
                    end(&mut bars, &step, at, if is_ok { "done" } else { "failed" }, timing);
                    if let Some(bar) = bars.get_mut((step.0 as usize).wrapping_sub(1)) {
                        bar.answered = Some(position as u64);
                    }
                }
            }
        }
    }
    // A run that ended, or was stopped, left nothing under way.
    for bar in &mut bars {
        let to = bar.to;
        if let (Some(to), Some(last)) = (to, bar.attempts.last_mut().filter(|last| last.to.is_none())) {
            (last.to, last.state) = (Some(to), "lost");
        }
    }
    Charted { infos, bars, marks }
}

impl Charted {
    /// Tells attempts that wait for their turn from those that are made.
    pub fn take(&mut self, turns: &[Turn]) {
        for turn in turns {
            let bar = self.bars.get_mut((turn.step.0 as usize).wrapping_sub(1));
            let last = bar.and_then(|bar| bar.attempts.last_mut()).filter(|last| last.to.is_none());
            // What is older is about an attempt before.
            match last.filter(|last| turn.at.0 >= last.from) {
                Some(last) if turn.is_queued => last.state = "queued",
                Some(last) => last.sent = Some(turn.at.0),
                None => {}
            }
        }
    }
}

const TAKEN_OVER: &str = "taken over";

/// What an entry says of the run as a whole, and whether the program was executed anew from its beginning.
fn marked(event: &Event) -> Option<(&'static str, bool)> {
    match event {
        Event::Retried { .. } => Some(("retried", true)),
        Event::Moved { .. } => Some(("moved", true)),
        Event::Forked { .. } => Some(("forked", true)),
        Event::CancelRequested { .. } => Some(("cancel requested", false)),
        Event::ClockSet => Some(("clock set", false)),
        _ => None,
    }
}

/// A length of time for people.
pub(super) fn length(bar: &Bar) -> String {
    bar.to.map(|to| wfhost_core::spell_millis(to.saturating_sub(bar.from))).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use wfhost_core::{Digest, Entry, FailedCall, Failure, Json, Position};

    use super::*;

    /// What a step has cost, of attempts that failed and an answer with these costs.
    fn cost(failed: &[Option<u64>], answer: Option<(u64, bool)>) -> (Option<String>, u64) {
        let usage = |micros| Usage { cost_micros: micros, ..Usage::default() };
        let failure = |(attempt, micros): (u32, &Option<u64>)| FailedCall {
            step: Step(1),
            attempt,
            provider: "other".to_owned(),
            failure: Failure::new(FailureKind::Unavailable, "busy"),
            auth: false,
            again_at: None,
            usage: micros.map(usage),
            heartbeat: None,
            timing: None,
        };
        let reply = answer.map(|(micros, cached)| {
            let mut reply = Reply::new("agent", Json::string("yes"));
            (reply.usage, reply.cached) = (Some(usage(micros)), cached);
            Ok(Json::from(serde_json::to_value(reply).unwrap()))
        });
        answered(&StepInfo {
            step: Step(1),
            op: Op::Agent(Box::default()),
            attempts: failed.len() as u32 + 1,
            started_at: Timestamp(0),
            attempt_at: Timestamp(0),
            ended: reply.map(|reply| (Timestamp(9), Some(reply))),
            failed: (1..).zip(failed).map(failure).collect(),
            waits: None,
            delegated: None,
        })
    }

    #[test]
    fn a_step_has_cost_what_all_its_attempts_have() {
        let agent = || Some("agent".to_owned());
        assert_eq!(cost(&[Some(20), None, Some(3)], Some((100, false))), (agent(), 123));
        // What was answered from the cache was paid by whoever asked first.
        assert_eq!(cost(&[Some(20)], Some((100, true))), (agent(), 20));
        assert_eq!(cost(&[Some(20), Some(7)], None), (None, 27));
        assert_eq!(cost(&[], None), (None, 0));
        // Providers may claim anything.
        assert_eq!(cost(&[Some(u64::MAX), Some(1)], Some((u64::MAX, false))), (agent(), u64::MAX));
    }

    /// Journals of one call, an entry each ten milliseconds.
    pub(in crate::pages) fn charted(events: Vec<Event>) -> Charted {
        let op = wfhost_core::encode_op(&Op::Agent(Box::default())).into();
        let begun = Event::Scheduled { step: Step(1), op };
        let events = std::iter::once(begun).chain(events);
        let entry = |(n, event): (u64, _)| Entry { at: Timestamp(10 * n), event, behind_ms: None };
        chart(&Journal { entries: (0..).zip(events).map(entry).collect(), head: Digest::of(b"") }, true)
    }

    pub(in crate::pages) fn attempted(attempt: u32) -> Event {
        Event::Attempted { step: Step(1), attempt, after: None }
    }

    pub(in crate::pages) fn failed(attempt: u32, kind: FailureKind, again_at: Option<u64>) -> Event {
        let usage = Some(Usage { cost_micros: 1, ..Usage::default() });
        Event::AttemptFailed(Box::new(FailedCall {
            step: Step(1),
            attempt,
            provider: "agent".to_owned(),
            failure: Failure::new(kind, format!("number {attempt}")),
            auth: false,
            again_at: again_at.map(Timestamp),
            usage,
            heartbeat: None,
            timing: None,
        }))
    }

    pub(in crate::pages) fn dropped(attempt: u32) -> Event {
        failed(attempt, FailureKind::Cancelled, None)
    }

    /// The states of the attempts with when each ended, and the marks.
    type Seen = (Vec<(&'static str, Option<u64>)>, Vec<(u64, &'static str)>);

    fn seen(charted: &Charted) -> Seen {
        let attempts = charted.bars[0].attempts.iter().map(|one| (one.state, one.to));
        (attempts.collect(), charted.marks.iter().map(|mark| (mark.at, mark.what)).collect())
    }

    #[test]
    fn an_attempt_that_was_dropped_is_lost_and_ends_no_other() {
        // A host went and knew what its call had consumed; another one goes on.
        let left = charted(vec![dropped(1), attempted(2)]);
        assert_eq!(seen(&left), (vec![("lost", Some(10)), ("open", None)], vec![(20, TAKEN_OVER)]));
        // It told it when another one was at it.
        let late = charted(vec![attempted(2), dropped(1)]);
        assert_eq!(seen(&late), (vec![("lost", Some(10)), ("open", None)], vec![(10, TAKEN_OVER)]));
        // The program dropped the call.
        for events in [
            vec![Event::Cancelled { step: Step(1) }, dropped(1)],
            vec![dropped(1), Event::Cancelled { step: Step(1) }],
        ] {
            assert_eq!(seen(&charted(events)), (vec![("lost", Some(10))], vec![]));
        }
        // A provider says that it was cancelled, and the call ends with that.
        let outcome: wfhost_core::Outcome = Err(Failure::new(FailureKind::Cancelled, "by whom?"));
        let ended = Event::Completed { step: Step(1), outcome: outcome.into(), timing: None };
        assert_eq!(seen(&charted(vec![dropped(1), ended])), (vec![("failed", Some(10))], vec![]));
        // Those that failed are what they were.
        let again = charted(vec![failed(1, FailureKind::Unavailable, Some(15)), attempted(2)]);
        assert_eq!(seen(&again), (vec![("failed", Some(10)), ("open", None)], vec![]));
    }

    /// A call was cancelled with the run, which was tried again.
    #[test]
    fn what_was_dropped_with_the_run_is_not_taken_over_when_that_is_tried_again() {
        let cancel = || Event::CancelRequested { reason: None };
        let retried = || Event::Retried { from: Position(1), step: Some(Step(1)), emissions: 0 };
        for events in
            [vec![dropped(1), cancel()], vec![cancel(), dropped(1)], vec![cancel(), Event::ClockSet]]
        {
            let again = charted(events.into_iter().chain([retried(), attempted(2)]).collect());
            let (attempts, marks) = seen(&again);
            assert_eq!((attempts[0].0, attempts[1]), ("lost", ("open", None)));
            assert!(marks.iter().all(|(_, what)| *what != TAKEN_OVER), "{marks:?}");
        }
    }
}
