//! Whatever a journal holds, and wherever it is cut.

use std::collections::BTreeSet;

use proptest::prelude::*;
use wfhost::steps;
use wfhost::store::RunInfo;
use wfhost_core::policy::budget::Budget;
use wfhost_core::{
    AgentRequest, Digest, Entry, Event, FailedCall, Failure, FailureKind, Journal, Json, Machine, Op,
    Outcome, Position, Question, Recorded, RunConfig, Started, Step, StepInfo, Timestamp, Usage, encode_op,
    plan_retry,
};

use super::*;

fn started(run: &str) -> Started {
    Started {
        run: run.parse().unwrap(),
        workflow: "w".to_owned(),
        module: Digest::of(b"w"),
        input: Json::null(),
        seed: [0; 32],
        config: RunConfig::default(),
        labels: Vec::new(),
        parent: None,
        child: None,
        origin: None,
    }
}

fn info(run: &str) -> RunInfo {
    RunInfo::of(&Machine::start(started(run), Timestamp(0)))
}

/// A journal that grows.
struct Growing(Journal);

impl Growing {
    fn new(run: &str) -> Self {
        let mut growing = Self(Journal { entries: Vec::new(), head: Digest([0; 32]) });
        growing.push(Event::Started(Box::new(started(run))));
        growing
    }

    fn push(&mut self, event: Event) {
        let at = Timestamp(10 * self.0.entries.len() as u64);
        self.0.entries.push(Entry { at, event, behind_ms: None });
    }

    fn schedule(&mut self, op: &Op) -> Step {
        let begun = |entry: &&Entry| matches!(entry.event, Event::Scheduled { .. });
        let step = Step(self.0.entries.iter().filter(begun).count() as u64 + 1);
        self.push(Event::Scheduled { step, op: encode_op(op).into() });
        step
    }

    fn complete(&mut self, step: Step, outcome: Outcome) {
        self.push(Event::Completed { step, outcome: outcome.into(), timing: None });
    }

    fn finish(&mut self, outcome: Outcome) {
        self.push(Event::Finished { outcome: outcome.into(), stopped: false });
    }

    fn retry(&mut self, step: Option<Step>) {
        let retry = plan_retry(&self.0, step, false).unwrap();
        self.push(Event::Retried { from: retry.from, step: retry.step, emissions: 0 });
    }

    fn has_ended(&self) -> bool {
        matches!(self.0.entries.last().map(|entry| &entry.event), Some(Event::Finished { .. }))
    }
}

fn agent() -> Op {
    Op::Agent(Box::new(AgentRequest { prompt: "p".to_owned(), ..AgentRequest::default() }))
}

fn wait(name: &str) -> Op {
    Op::Signal { name: name.to_owned(), timeout_ms: None }
}

fn failure(kind: FailureKind) -> Failure {
    Failure::new(kind, "no")
}

fn failed(step: Step, attempt: u32, kind: FailureKind, again: bool) -> Event {
    Event::AttemptFailed(Box::new(FailedCall {
        step,
        attempt,
        provider: "p".to_owned(),
        failure: failure(kind),
        auth: false,
        again_at: again.then_some(Timestamp(1)),
        usage: Some(Usage { input_tokens: 7, cost_micros: 5, ..Usage::default() }),
        heartbeat: None,
        timing: None,
    }))
}

/// What is told of entries by one who was told of those before `cut`, and has kept nothing or what is open.
fn told(entries: &[Entry], cut: usize) -> (Vec<Span>, Tracer) {
    let mut tracer = Tracer::new(&info("r"), false);
    let (mut spans, mut told) = (Vec::new(), cut as u64);
    while let Some(entry) = entries.get(tracer.next().0 as usize) {
        let own = (tracer.next().0 >= told).then_some(&mut spans);
        if tracer.take(entry, None, own).is_err() {
            told = told.max(tracer.next().0);
            tracer = Tracer::with_past(&info("r"), false);
        }
    }
    (spans, tracer)
}

/// Something that may happen next. Nothing if it may not.
fn happen(growing: &mut Growing, kind: u8, choice: u8) {
    let names = ["a", "b"];
    if growing.has_ended() {
        let failed: Vec<_> = steps(&growing.0).iter().map(|info| Some(info.step)).collect();
        let all = [vec![None], failed].concat();
        let step = all[usize::from(choice) % all.len()];
        if let Ok(retry) = plan_retry(&growing.0, step, kind.is_multiple_of(5)) {
            growing.push(Event::Retried { from: retry.from, step: retry.step, emissions: 0 });
        }
        return;
    }
    let all = steps(&growing.0);
    let chosen = |of: &dyn Fn(&&StepInfo) -> bool| {
        let fit: Vec<_> = all.iter().filter(of).cloned().collect();
        (!fit.is_empty()).then(|| fit[usize::from(choice) % fit.len()].clone())
    };
    let open = chosen(&|info| info.ended.is_none());
    let call = chosen(&|info| info.ended.is_none() && matches!(info.op, Op::Agent(_)));
    let is_under_way =
        |info: &StepInfo| info.waits.is_none() && info.attempts > 0 && info.delegated.is_none();
    match kind % 18 {
        0..=2 => _ = growing.schedule(&agent()),
        3 | 4 => _ = growing.schedule(&wait(names[usize::from(choice) % 2])),
        5 => _ = growing.schedule(&Op::Sleep { length_ms: 5 }),
        6 | 7 => {
            if let Some(info) = open.filter(|info| !matches!(info.op, Op::Signal { .. })) {
                growing.complete(info.step, Ok(Json::null()));
            }
        }
        8 | 9 => {
            let kinds = [FailureKind::Failed, FailureKind::BudgetExceeded, FailureKind::TimedOut];
            if let Some(info) = open {
                growing.complete(info.step, Err(failure(kinds[usize::from(choice) % 3])));
            }
        }
        10 => open.into_iter().for_each(|info| growing.push(Event::Cancelled { step: info.step })),
        11 | 12 => {
            let name = names[usize::from(choice) % 2].to_owned();
            growing.push(Event::Received { name, payload: Json::null(), id: None });
        }
        13 => {
            let got = |info: &&StepInfo| {
                matches!(info.op, Op::Signal { .. }) && matches!(info.ended, Some((_, Some(Ok(_)))))
            };
            chosen(&got).into_iter().for_each(|info| growing.push(Event::Returned { step: info.step }));
        }
        14 => {
            if let Some(info) = call.filter(|info| is_under_way(info)) {
                let again = choice.is_multiple_of(2);
                let kind = if again { FailureKind::Unavailable } else { FailureKind::Cancelled };
                growing.push(failed(info.step, info.attempts, kind, again));
            }
        }
        15 => {
            if let Some(info) = call {
                let (step, attempt) = (info.step, info.attempts + 1);
                growing.push(Event::Attempted { step, attempt, after: None });
            }
        }
        16 => {
            // What was dropped says later what it consumed.
            let dropped =
                |info: &&StepInfo| matches!(info.op, Op::Agent(_)) && matches!(info.ended, Some((_, None)));
            if let Some(info) = chosen(&dropped) {
                growing.push(failed(info.step, info.attempts, FailureKind::Cancelled, false));
            }
        }
        _ if choice < 64 => growing.push(Event::CancelRequested { reason: None }),
        _ => {
            let kinds = [FailureKind::Failed, FailureKind::BudgetExceeded, FailureKind::Cancelled];
            growing.finish(Err(failure(kinds[usize::from(choice) % 3])));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// So a host may stop anywhere, and another one go on there.
    #[test]
    fn a_trace_is_the_same_wherever_it_is_cut(
        choices in prop::collection::vec(any::<(u8, u8)>(), 0..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut growing = Growing::new("r");
        for (kind, choice) in choices {
            happen(&mut growing, kind, choice);
        }
        let entries = &growing.0.entries;
        let (whole, tracer) = told(entries, 0);
        let cut = cut.index(entries.len());
        let before = told(&entries[..cut], 0).0;
        let behind = told(entries, cut).0;
        prop_assert_eq!(&[before, behind].concat(), &whole);
        // What is told at once is the same again, with what is open.
        let trace = Trace::of(&info("r"), &growing.0, false);
        let ids: BTreeSet<_> = trace.spans.iter().map(|span| &span.id).collect();
        prop_assert_eq!(ids.len(), trace.spans.len(), "each has an id of its own");
        prop_assert_eq!(trace.spans.len(), whole.len() + tracer.open().len());
        let mut above = BTreeSet::new();
        for span in &trace.spans {
            prop_assert!(span.parent.as_ref().is_none_or(|parent| above.contains(parent)), "{:?}", span);
            above.insert(span.id.clone());
        }
        // It has open what the machine has, also after retries.
        if !growing.has_ended() {
            let open = steps(&growing.0).into_iter().filter(|info| info.ended.is_none());
            let open: Vec<_> = open.map(|info| info.step).collect();
            prop_assert_eq!(tracer.open_steps(), open);
        }
    }
}

fn named<'a>(trace: &'a Trace, name: &str) -> Vec<&'a Span> {
    trace.spans.iter().filter(|span| span.name == name).collect()
}

#[test]
fn a_step_that_is_tried_again_has_a_span_for_each_time() {
    let mut growing = Growing::new("r");
    let step = growing.schedule(&agent());
    growing.complete(step, Err(failure(FailureKind::Failed)));
    growing.finish(Err(failure(FailureKind::Failed)));
    let before = Trace::of(&info("r"), &growing.0, false);
    growing.retry(None);
    growing.push(Event::Attempted { step, attempt: 2, after: None });
    growing.complete(step, Ok(Json::null()));
    growing.finish(Ok(Json::null()));
    let after = Trace::of(&info("r"), &growing.0, false);
    // What was told stands.
    let told = |trace: &Trace, name: &str| named(trace, name).into_iter().cloned().collect::<Vec<_>>();
    let agents = told(&after, "agent");
    assert_eq!(agents.len(), 2);
    assert_eq!(agents[0], told(&before, "agent")[0]);
    let (first, second) = (&agents[0], &agents[1]);
    assert!(first.failed.is_some() && second.failed.is_none());
    assert_eq!((&first.parent, first.id == second.id), (&second.parent, false));
    let links: Vec<_> = second.links.iter().map(|link| (link.what, &link.span)).collect();
    assert_eq!(links, [("retry-of", &first.id)]);
    assert_eq!(second.from, Timestamp(40), "from when it was taken up again");
    // Each attempt is below its own. Programs know it by its number.
    let attempts = told(&after, "invoke_agent unknown");
    let below: Vec<_> = attempts.iter().map(|span| span.parent.clone().unwrap()).collect();
    assert_eq!(below, [first.id.clone(), second.id.clone()]);
    let ids: Vec<_> = attempts.iter().map(|span| span.id.clone()).collect();
    let run = "r".parse().unwrap();
    assert_eq!(ids, [1, 2].map(|number| wfhost_core::trace::attempt_id(&run, step, number)));
    assert_eq!(named(&after, "invoke_workflow w").len(), 2);
}

#[test]
fn what_is_under_way_when_a_run_ends_is_told() {
    let mut growing = Growing::new("r");
    let step = growing.schedule(&agent());
    growing.finish(Err(failure(FailureKind::Cancelled)));
    let trace = Trace::of(&info("r"), &growing.0, false);
    let attempt = named(&trace, "invoke_agent unknown")[0];
    let above = named(&trace, "agent")[0];
    assert_eq!((attempt.parent.as_ref(), above.to), (Some(&above.id), Timestamp(20)));
    assert_eq!(above.id, step_id(&"r".parse().unwrap(), step));
}

#[test]
fn what_a_dropped_attempt_consumed_is_told_with_it() {
    let mut growing = Growing::new("r");
    let first = growing.schedule(&agent());
    growing.push(Event::Cancelled { step: first });
    growing.push(failed(first, 1, FailureKind::Cancelled, false));
    // Of this one nothing comes.
    let second = growing.schedule(&agent());
    growing.push(Event::Cancelled { step: second });
    growing.finish(Ok(Json::null()));
    let trace = Trace::of(&info("r"), &growing.0, false);
    let used = |span: &Span| span.attributes.iter().any(|(name, _)| *name == "gen_ai.usage.input_tokens");
    let attempts: Vec<_> = trace.spans.iter().filter(|span| span.is_call).map(used).collect();
    assert_eq!(attempts, [true, false]);
    let whole = named(&trace, "invoke_workflow w")[0];
    assert!(whole.attributes.contains(&("wfhost.cost_usd", 5e-6.into())), "{whole:?}");
}

#[test]
fn a_fork_tells_what_it_does_itself() {
    let mut growing = Growing::new("r");
    let done = growing.schedule(&agent());
    growing.complete(done, Ok(Json::null()));
    let open = growing.schedule(&wait("go"));
    let (run, from) = ("fork".parse().unwrap(), "r".parse().unwrap());
    growing.push(Event::Forked { run, from, seed: [1; 32] });
    growing.push(Event::Received { name: "go".to_owned(), payload: Json::null(), id: None });
    growing.finish(Ok(Json::null()));
    let trace = Trace::of(&info("fork"), &growing.0, false);
    let names: Vec<_> = trace.spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(named(&trace, "wait_for_signal go")[0].id, step_id(&"fork".parse().unwrap(), open));
    let root = &trace.spans[0];
    assert_eq!(
        (root.name.as_str(), root.links[0].what, root.from),
        ("start w", "forked-from", Timestamp(40))
    );
}

/// However long the run is: what is kept is what is open.
#[test]
fn of_a_long_run_little_is_kept() {
    let mut tracer = Tracer::new(&info("r"), true);
    let mut growing = Growing::new("r");
    for number in 0..2_000 {
        let step = growing.schedule(&agent());
        growing.complete(step, Ok(Json::null()));
        growing.schedule(&wait("go"));
        growing.push(Event::Received { name: "go".to_owned(), payload: Json::null(), id: None });
        if number == 1_000 {
            growing.push(Event::BudgetChanged { budget: Budget::default() });
        }
    }
    let mut spans = Vec::new();
    let mut most = 0;
    for entry in &growing.0.entries {
        spans.clear();
        tracer.take(entry, None, Some(&mut spans)).unwrap();
        most = most.max(tracer.bytes());
    }
    assert_eq!(tracer.next(), Position(growing.0.entries.len() as u64));
    assert!(most < 40_000, "{most}");
}

#[test]
fn a_recorded_failure_of_a_run_is_its_span_s() {
    let mut growing = Growing::new("r");
    growing.push(Event::Finished { outcome: Recorded::Err(failure(FailureKind::Failed)), stopped: false });
    let trace = Trace::of(&info("r"), &growing.0, true);
    assert_eq!(named(&trace, "invoke_workflow w")[0].failed, Some(("failed".to_owned(), "no".to_owned())));
    let question = Question { prompt: "?".to_owned(), schema: None, choices: Vec::new(), details: None };
    let mut growing = Growing::new("r");
    growing.schedule(&Op::Ask { question, timeout_ms: None });
    assert_eq!(
        Trace::of(&info("r"), &growing.0, true).spans.len(),
        1,
        "it is open, and nothing is known of it"
    );
}
