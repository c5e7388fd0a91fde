//! What a run did when, for the chart: the steps with their attempts and delays, by one walk over its
//! journal.

use serde::Serialize;
use wfhost::{StepInfo, steps};
use wfhost_core::policy::budget::Spent;
use wfhost_core::{Event, Journal, Op, Reply, Step, Timestamp, Usage};
use wfhost_view::StepView;

/// One attempt of a call.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Attempt {
    /// Milliseconds since the beginning of time.
    pub from: u64,
    /// None if it goes on.
    pub to: Option<u64>,
    /// `done`, `failed`, `lost` with its host, `open`.
    pub state: &'static str,
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

/// What the calls of a step have cost.
fn cost(info: &StepInfo) -> u64 {
    let of = |usage: &Option<Usage>| usage.as_ref().map_or(0, |usage| Spent::of(usage).micros);
    let failed: u64 = info.failed.iter().map(|failed| of(&failed.usage)).sum();
    let answered = match (&info.op, &info.ended) {
        (Op::Agent(_), Some((_, Some(Ok(answer))))) => serde_json::from_str::<Reply>(answer.as_str()).ok(),
        _ => None,
    };
    failed + answered.filter(|reply| !reply.cached).map_or(0, |reply| of(&reply.usage))
}

/// Steps with what a chart shows of them.
pub(super) struct Charted {
    pub infos: Vec<StepInfo>,
    pub bars: Vec<Bar>,
}

/// Charts a journal. `may` tells whether labels are shown.
pub(super) fn chart(journal: &Journal, may: bool) -> Charted {
    let infos = steps(journal);
    let mut bars: Vec<Bar> = infos
        .iter()
        .map(|info| {
            let view = StepView::of(info);
            let view = if may { view } else { view.hidden() };
            let is_call = info.op.kind() == "agent";
            let first = Attempt { from: info.started_at.0, to: None, state: "open" };
            Bar {
                step: info.step.0,
                asked: 0,
                answered: None,
                kind: view.kind,
                label: view.label,
                state: view.state,
                from: info.started_at.0,
                to: info.ended.as_ref().map(|(at, _)| at.0),
                attempts: if is_call { vec![first] } else { Vec::new() },
                until: info.waits.as_ref().map(|(at, _)| at.0),
                provider: view.provider,
                cost: cost(info),
            }
        })
        .collect();
    let end = |bars: &mut Vec<Bar>, step: &Step, at: Timestamp, state| {
        let bar = bars.get_mut((step.0 as usize).wrapping_sub(1));
        if let Some(last) = bar.and_then(|bar| bar.attempts.last_mut()).filter(|last| last.to.is_none()) {
            (last.to, last.state) = (Some(at.0), state);
        }
    };
    for (position, entry) in journal.entries.iter().enumerate() {
        let at = entry.at;
        match &entry.event {
            Event::Scheduled { step, .. } => {
                if let Some(bar) = bars.get_mut((step.0 as usize).wrapping_sub(1)) {
                    bar.asked = position as u64;
                }
            }
            Event::Attempted { step, .. } => {
                end(&mut bars, step, at, "lost");
                if let Some(bar) = bars.get_mut((step.0 as usize).wrapping_sub(1)) {
                    bar.attempts.push(Attempt { from: at.0, to: None, state: "open" });
                }
            }
            Event::AttemptFailed(failed) => end(&mut bars, &failed.step, at, "failed"),
            Event::Postponed { step, .. } => {
                // It was not made: it waits for its time.
                if let Some(bar) = bars.get_mut((step.0 as usize).wrapping_sub(1)) {
                    bar.attempts.pop();
                }
            }
            Event::Cancelled { step } => end(&mut bars, step, at, "lost"),
            event => {
                if let Some((step, outcome)) = event.ended_step() {
                    let is_ok = wfhost_core::Outcome::from(outcome.clone()).is_ok();
                    end(&mut bars, &step, at, if is_ok { "done" } else { "failed" });
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
    Charted { infos, bars }
}

/// A length of time for people.
pub(super) fn length(bar: &Bar) -> String {
    bar.to.map(|to| wfhost_core::spell_millis(to.saturating_sub(bar.from))).unwrap_or_default()
}
