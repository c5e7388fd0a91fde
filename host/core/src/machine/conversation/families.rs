//! Children, runs that continue as new, forks, and answers that are used again.

use super::retries::retry;
use super::*;
use crate::{ChildOptions, OnParentClose};

fn child(module: &str) -> Op {
    Op::Child { module: module.to_owned(), input: Json::null(), options: None }
}

fn named(id: &str) -> Op {
    let options = ChildOptions { id: Some(id.to_owned()), on_close: OnParentClose::Cancel, labels: vec![] };
    Op::Child { module: "m".to_owned(), input: Json::null(), options: Some(options) }
}

fn tokens(tokens: u64) -> Spent {
    Spent { tokens, micros: 0, time_ms: 9 }
}

impl Talk {
    fn started_children(&mut self) -> Vec<u64> {
        self.m.take_children().into_iter().map(|child| child.step.0).collect()
    }

    fn dropped_children(&mut self) -> Vec<u64> {
        self.m.take_dropped_children().into_iter().map(|step| step.0).collect()
    }

    fn end_child(&mut self, step: Step, text: &str) -> bool {
        let run = self.m.run().child(step);
        self.m.end_child(step, run, said(text), tokens(5), self.clock)
    }

    /// The machine of a run that begins with these entries.
    fn of(entries: &[Entry]) -> Machine {
        Machine::open(Journal::read(crate::journal::rows(entries)).unwrap(), Given::default()).unwrap()
    }
}

#[test]
fn a_child_is_started_with_its_entry_and_waited_for() {
    let mut t = Talk::start();
    let step = t.ask(child("m"));
    assert_eq!(t.work(), [""; 0], "it is nothing that the host carries out");
    assert!(t.m.only_waits(), "the program need not be kept in memory");
    assert_eq!((t.started_children(), t.started_children()), (vec![1], vec![]));
    t.waits(step);
    assert!(t.end_child(step, "ok") && !t.end_child(step, "twice"));
    assert_eq!(t.got(step), said("ok"));
    assert_eq!(t.m.observed().spent().tokens, 5);
    assert_eq!((t.m.spent(t.clock).tokens, t.m.spent_itself().tokens), (5, 0));
    assert_eq!(t.told(), ["scheduled 1", "child-ended"]);
    t.reopen();
    let step = t.ask(child("m"));
    assert_eq!(t.got(step), said("ok"));
    assert_eq!((t.started_children(), t.dropped_children()), (vec![], vec![]));
    t.silent();
}

#[test]
fn a_child_that_was_started_is_not_started_again() {
    let mut t = Talk::start();
    t.ask(child("m"));
    t.reopen();
    let step = t.ask(child("m"));
    t.waits(step);
    assert_eq!(t.started_children(), [0; 0]);
    assert_eq!(t.m.open_children(), [step]);
    assert!(t.end_child(step, "ok"));
}

#[test]
fn a_child_is_dropped_when_nobody_waits_for_it_and_not_when_it_ended() {
    let mut t = Talk::start();
    let (a, b, c) = (t.ask(child("a")), t.ask(child("b")), t.ask(child("c")));
    t.started_children();
    t.end_child(a, "A");
    t.drop(a);
    t.drop(b);
    assert_eq!(t.dropped_children(), [2]);
    t.cancel();
    assert_eq!(t.dropped_children(), [3]);
    assert_eq!(t.got(c).unwrap_err().kind, FailureKind::Cancelled);
    // One that was never started need not be.
    let d = t.ask(child("d"));
    t.drop(d);
    assert_eq!(t.started_children(), [0; 0]);
}

#[test]
fn a_child_that_cannot_be_meant_is_rejected() {
    let mut t = Talk::start();
    let step = t.ask(named("no/id"));
    assert_eq!(t.got(step).unwrap_err().kind, FailureKind::Rejected);
    assert_eq!(t.started_children(), [0; 0]);
    let mut deep = started();
    let root = deep.run.clone();
    let depth = limits::CHILD_DEPTH;
    deep.child = Some(ChildOf { step: Step(1), root, depth, on_close: OnParentClose::Cancel });
    let mut t = Talk { m: Machine::start(deep, DAWN), rows: vec![], clock: DAWN, given: Given::default() };
    let step = t.ask(child("m"));
    assert!(t.got(step).unwrap_err().message.contains("of generation 16"));
}

#[test]
fn a_failed_child_is_tried_again_by_its_step() {
    let mut t = Talk::start();
    let step = t.ask(child("m"));
    let run = t.m.run().child(step);
    let outcome = failed(FailureKind::Failed, "no");
    t.m.end_child(step, run, outcome.clone(), tokens(5), t.clock);
    assert_eq!(t.got(step), outcome);
    t.m.finish(outcome, t.clock).unwrap();
    let mut journal = t.journal();
    let plan = plan_retry(&journal, None, false).unwrap();
    assert_eq!(plan.step, Some(step));
    plan.append(&mut journal, 0, t.clock);
    t.m = Machine::open(journal, Given::default()).unwrap();
    let step = t.ask(child("m"));
    t.waits(step);
    assert_eq!(t.started_children(), [0; 0], "it is there already");
    assert!(t.end_child(step, "ok"));
    assert_eq!(t.m.spent(t.clock).tokens, 10);
}

#[test]
fn a_child_that_was_never_there_is_started_by_a_retry() {
    let mut t = Talk::start();
    let step = t.ask(child("unknown"));
    t.started_children();
    let outcome = failed(FailureKind::Rejected, "the module is not in the store");
    t.m.complete(step, outcome.clone(), t.clock);
    assert_eq!(t.got(step), outcome);
    t.m.finish(outcome, t.clock).unwrap();
    retry(&mut t, None, false).unwrap();
    assert_eq!(t.started_children(), [1]);
    t.ask(child("unknown"));
    t.waits(step);
    assert!(t.end_child(step, "ok"));
    assert_eq!(t.got(step), said("ok"));
}

#[test]
fn a_child_that_cannot_be_meant_is_rejected_however_often_it_is_tried() {
    let mut deep = started();
    let (root, depth) = (deep.run.clone(), limits::CHILD_DEPTH);
    deep.child = Some(ChildOf { step: Step(1), root, depth, on_close: OnParentClose::Cancel });
    for (begun, op) in [(started(), named("no/id")), (deep, child("m"))] {
        let mut t =
            Talk { m: Machine::start(begun, DAWN), rows: vec![], clock: DAWN, given: Given::default() };
        let step = t.ask(op.clone());
        let outcome = t.got(step);
        t.m.finish(outcome.clone(), t.clock).unwrap();
        retry(&mut t, None, false).unwrap();
        assert_eq!(t.started_children(), [0; 0]);
        t.ask(op);
        assert_eq!(t.got(step), outcome);
    }
}

#[test]
fn a_run_ends_by_going_on_as_another() {
    let mut t = Talk::start();
    t.signal("b", 1);
    t.signal("a", 2);
    t.signal("a", 3);
    let wait = t.ask(signal("a"));
    t.see(wait);
    let call = t.agent("under way");
    t.work();
    let step = t.ask(Op::ContinueAsNew { input: Json::null() });
    assert_eq!(t.work(), [format!("do {step} #1 continue-as-new")]);
    assert_eq!(t.m.unread_signals(), [("a".to_owned(), json!(3).into()), ("b".to_owned(), json!(1).into())]);
    let [id, other] = t.m.ids_of_next_round();
    assert_eq!(id.as_str(), "run-1-2");
    assert!(other.as_str().starts_with("run_"));
    assert!(t.m.continue_as(id.clone(), t.clock));
    assert_eq!((t.m.continued_as(), t.m.outcome(), t.m.has_ended()), (Some(&id), None, true));
    assert_eq!(t.work(), [format!("stop {call}"), format!("stop {step}")]);
    assert_eq!(t.m.poll_step(step), Err(Stop::Ended));
    assert!(!t.m.continue_as(id, t.clock) && !t.m.receive("a".to_owned(), Json::null(), None, t.clock));
    assert!(matches!(plan_retry(&t.journal(), None, false), Err(CannotRetry::Continued(_))));
    // The program comes to the same place again and no further.
    t.reopen();
    let wait = t.ask(signal("a"));
    t.see(wait);
    t.agent("under way");
    let step = t.ask(Op::ContinueAsNew { input: Json::null() });
    assert_eq!(t.m.poll_step(step), Err(Stop::Ended));
    t.silent();
}

#[test]
fn a_program_that_does_not_continue_departs() {
    let mut t = Talk::start();
    t.ask(Op::ContinueAsNew { input: Json::null() });
    t.m.continue_as("run-1-2".parse().unwrap(), t.clock);
    t.reopen();
    assert!(matches!(t.m.finish(said(1), t.clock), Err(Stop::Mismatch(_))));
}

#[test]
fn a_round_knows_what_was_before_it() {
    let mut next = started();
    next.run = "run-1-2".parse().unwrap();
    next.config.budget = Some(Budget { tokens: Some(100), micros: None, time_ms: None });
    let first: RunId = "run-1".parse().unwrap();
    next.origin = Some(Origin::Continued {
        first: first.clone(),
        from: first.clone(),
        round: 2,
        spent: Spent { tokens: 60, micros: 0, time_ms: 500 },
    });
    let m = Machine::start(next, DAWN);
    assert_eq!((m.round(), m.root()), ((&first, 2), &first));
    assert_eq!(m.ids_of_next_round()[0].as_str(), "run-1-3");
    let (budget, spent) = (m.observed().budget(), m.observed().spent());
    assert_eq!((budget.less(spent).tokens, m.spent(DAWN.after(7)).time_ms), (Some(40), 507));
    assert_eq!(m.spent_itself(), Spent::default());
}

#[test]
fn a_fork_shares_the_beginning_and_nothing_behind_it() {
    let mut t = Talk::start();
    let a = t.agent("a");
    t.work();
    t.answer(a, "A");
    t.see(a);
    let b = t.agent("b");
    t.work();
    t.answer(b, "B");
    t.see(b);
    t.finish(1);
    let journal = t.journal();
    let key = t.m.idempotency_key(b);
    let plan = ForkPlan { at: Some(Position(3)), ..ForkPlan::default() };
    let mut m = Talk::of(&plan.entries(&journal).unwrap());
    assert!(m.fork("fork".parse().unwrap(), [1; 32], t.clock));
    let mut f = Talk { m, rows: vec![], clock: t.clock, given: Given::default() };
    assert_eq!((f.m.run().as_str(), f.m.observed().run().as_str()), ("fork", "run-1"));
    let a = f.agent("a");
    assert_eq!(f.got(a), said("A"));
    let b = f.agent("b");
    assert_eq!(f.m.observed().run().as_str(), "fork");
    assert_eq!(f.work(), ["call 2 #1 b"]);
    assert_ne!(f.m.idempotency_key(b), key);
    assert_eq!(f.m.started_at(), f.clock);
    // Without a place it goes on where the run ended.
    let whole = ForkPlan::default().entries(&journal).unwrap();
    assert_eq!(whole.len(), journal.entries.len() - 1);
    let refused = ForkPlan { at: Some(Position(6)), ..ForkPlan::default() }.entries(&journal);
    assert_eq!(refused, Err(CannotFork::OutOfRange { at: Position(6), most: Position(5) }));
}

#[test]
fn an_answer_that_is_edited_keeps_what_stands_beside_it() {
    let mut t = Talk::start();
    let call = t.agent("a");
    t.work();
    t.m.complete(call, Ok(Json::from(json!({ "output": 1, "provider": "p", "model": "m" }))), t.clock);
    t.signal("s", 1);
    let journal = t.journal();
    let plan = ForkPlan {
        edits: vec![(Position(2), Json::from(json!(2))), (Position(3), Json::from(json!("x")))],
        ..ForkPlan::default()
    };
    let mut m = Talk::of(&plan.entries(&journal).unwrap());
    m.fork("fork".parse().unwrap(), [1; 32], t.clock);
    let mut f = Talk { m, rows: vec![], clock: t.clock, given: Given::default() };
    let call = f.agent("a");
    assert_eq!(f.got(call), Ok(Json::from(json!({ "output": 2, "model": "m", "provider": "p" }))));
    let wait = f.ask(signal("s"));
    assert_eq!(f.got(wait), said("x"));
    let edit = |position| ForkPlan { edits: vec![(Position(position), Json::null())], ..ForkPlan::default() };
    assert!(matches!(edit(1).entries(&journal), Err(CannotFork::NoAnswer { kind: "scheduled", .. })));
    assert!(matches!(edit(9).entries(&journal), Err(CannotFork::OutOfRange { .. })));
}

#[test]
fn answers_are_used_again_by_what_was_asked_and_how_often() {
    let mut t = Talk::start();
    for answer in ["A1", "A2"] {
        let step = t.agent("a");
        t.work();
        t.answer(step, answer);
        t.see(step);
    }
    let lost = t.agent("lost");
    t.work();
    t.m.complete(lost, failed(FailureKind::Failed, "no"), t.clock);
    t.see(lost);
    t.signal("s", 7);
    let wait = t.ask(signal("s"));
    t.see(wait);
    let source = t.journal();
    let from = t.m.run().clone();
    let origin = Some(Origin::Reused { from });
    let mut r = Talk {
        m: Machine::start(Started { origin, ..started() }, DAWN),
        rows: vec![],
        clock: DAWN,
        given: Given::default(),
    };
    r.m.take_answers_from(&source);
    let (b, first) = (r.agent("b"), r.agent("a"));
    assert_eq!(r.got(first), said("A1"));
    assert_eq!(r.work(), ["call 1 #1 b"]);
    // Another execution goes on counting.
    r.reopen();
    r.m.take_answers_from(&source);
    assert_eq!((r.agent("b"), r.agent("a")), (b, first));
    let (second, third, lost) = (r.agent("a"), r.agent("a"), r.agent("lost"));
    assert_eq!(r.got(second), said("A2"));
    let wait = r.ask(signal("s"));
    assert_eq!(r.got(wait), said(7));
    r.waits(third);
    let mut work = r.work();
    work.sort();
    assert_eq!(
        work,
        ["call 1 #2 b".to_owned(), format!("call {third} #1 a"), format!("call {lost} #1 lost")]
    );
}

#[test]
fn a_round_hands_on_every_signal_that_its_program_has_not_read() {
    let mut t = Talk::start();
    t.signal("go", 1);
    let (read, given) = (t.ask(signal("go")), t.ask(signal("go")));
    t.see(read);
    t.signal("go", 2);
    t.signal("go", 3);
    t.signal("other", 9);
    let dropped = t.ask(signal("other"));
    t.drop(dropped);
    let number = |payload: u64| Json::from(json!(payload));
    let expected =
        [("go".to_owned(), number(2)), ("go".to_owned(), number(3)), ("other".to_owned(), number(9))];
    assert_eq!(t.m.unread_signals(), expected);
    t.reopen();
    let read = t.ask(signal("go"));
    t.ask(signal("go"));
    t.see(read);
    let dropped = t.ask(signal("other"));
    t.drop(dropped);
    assert_eq!(t.m.unread_signals(), expected);
    let _ = given;
}

#[test]
fn a_fork_shows_its_program_the_same_time_up_to_its_beginning() {
    let mut t = Talk::start();
    t.pass(100);
    let step = t.agent("x");
    t.pass(5_000);
    t.answer(step, "X");
    t.see(step);
    let look = |t: &Talk| {
        let seen = t.m.observed();
        (seen.run().clone(), seen.now(), seen.started_at(), seen.began_at(), seen.spent().time_ms)
    };
    let last = look(&t);
    t.pass(60_000);
    t.reopen();
    t.m.fork("fork".parse().unwrap(), [1; 32], t.clock);
    let step = t.agent("x");
    t.see(step);
    assert_eq!(look(&t), last);
    let next = t.agent("y");
    t.answer(next, "Y");
    t.see(next);
    let seen = t.m.observed();
    assert_eq!((seen.run().as_str(), seen.started_at(), seen.began_at()), ("fork", t.clock, DAWN));
}
