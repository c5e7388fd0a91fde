//! Runs that had ended and go on.

use super::*;

/// The run is retried as `wfhost retry` does it.
pub(super) fn retry(t: &mut Talk, step: Option<Step>, end_only: bool) -> Result<(), CannotRetry> {
    let mut journal = t.journal();
    let plan = plan_retry(&journal, step, end_only)?;
    let row = plan.append(&mut journal, 0, t.clock);
    t.rows.push(row);
    t.m = Machine::open(Journal::read(t.rows.clone()).unwrap(), t.given).unwrap();
    t.m.take_up(t.clock);
    Ok(())
}

fn fails(t: &mut Talk, step: Step) {
    let outcome = failed(FailureKind::Unavailable, "busy");
    assert!(t.m.complete(step, outcome.clone(), t.clock));
    assert_eq!(t.got(step), outcome);
}

#[test]
fn the_step_that_the_run_failed_of_is_tried_again_and_nothing_else() {
    let mut t = Talk::start();
    let (first, second, bad) = (t.agent("a"), t.agent("b"), t.agent("c"));
    t.work();
    t.answer(first, "A");
    fails(&mut t, bad);
    t.answer(second, "B");
    t.m.finish(failed(FailureKind::Unavailable, "busy"), t.clock).unwrap();
    retry(&mut t, None, false).unwrap();
    assert_eq!(t.m.outcome(), None);
    let (first, second, bad) = (t.agent("a"), t.agent("b"), t.agent("c"));
    t.waits(bad);
    assert_eq!(t.work(), ["call 3 #2 c"], "with the same key, as the next attempt");
    assert_eq!((t.got(first), t.got(second)), (said("A"), said("B")));
    t.answer(bad, "C");
    assert_eq!(t.got(bad), said("C"));
    t.finish("done");
    // And it is replayed so for ever.
    t.reopen();
    let (first, second, bad) = (t.agent("a"), t.agent("b"), t.agent("c"));
    assert_eq!((t.got(first), t.got(second), t.got(bad)), (said("A"), said("B"), said("C")));
    t.finish("done");
    t.nothing_left();
}

#[test]
fn what_the_program_did_after_the_failure_is_void_and_its_numbers_stay_taken() {
    let mut t = Talk::start();
    let bad = t.agent("a");
    t.work();
    fails(&mut t, bad);
    let fallback = t.agent("fallback");
    let key = t.m.idempotency_key(fallback);
    t.work();
    t.answer(fallback, "worse");
    t.signal("go", 7);
    t.m.finish(failed(FailureKind::Failed, "of its own"), t.clock).unwrap();
    assert_eq!(retry(&mut t, None, false), Err(CannotRetry::OwnFault));
    assert_eq!(retry(&mut t, Some(fallback), false), Err(CannotRetry::NotFailed(fallback)));
    assert_eq!(retry(&mut t, Some(Step(9)), false), Err(CannotRetry::NoSuchStep(Step(9))));
    retry(&mut t, Some(bad), false).unwrap();
    let bad = t.agent("a");
    t.waits(bad);
    assert_eq!(t.work(), ["call 1 #2 a"]);
    t.answer(bad, "A");
    t.see(bad);
    let next = t.agent("b");
    assert_eq!(next, Step(3));
    assert_ne!(t.m.idempotency_key(next), key);
    let wait = t.ask(signal("go"));
    assert_eq!(t.got(wait), said(7), "what came from outside is kept");
}

#[test]
fn what_was_undone_is_not_taken_up_unless_the_step_is_named() {
    for cancelled in [false, true] {
        let mut t = Talk::start();
        let bad = t.agent("a");
        t.work();
        if cancelled {
            t.cancel();
        } else {
            fails(&mut t, bad);
        }
        let kind = if cancelled { FailureKind::Cancelled } else { FailureKind::Failed };
        let mut failure = Failure::new(kind, "no".to_owned());
        failure.details = Json::parse(r#"{"saga":{"undone":["b"],"not_undone":[]}}"#.to_owned()).ok();
        t.m.finish(Err(failure), t.clock).unwrap();
        assert_eq!(retry(&mut t, None, false), Err(CannotRetry::Undone));
        if !cancelled {
            retry(&mut t, Some(bad), false).unwrap();
        }
    }
}

#[test]
fn a_mended_program_goes_on_at_the_end() {
    let mut t = Talk::start();
    let step = t.agent("a");
    t.work();
    t.answer(step, "A");
    t.see(step);
    assert_eq!(t.lines(1), 1);
    assert!(t.m.terminate(Failure::new(FailureKind::Failed, "it trapped"), t.clock));
    assert_eq!(retry(&mut t, None, false), Err(CannotRetry::OwnFault));
    retry(&mut t, None, true).unwrap();
    let step = t.agent("a");
    assert_eq!(t.got(step), said("A"));
    assert_eq!([t.lines(1), t.lines(1)], [0, 1], "what was given out is not given out again");
    let fixed = t.agent("b");
    t.waits(fixed);
    assert_eq!(t.work(), ["call 2 #1 b"]);
}

#[test]
fn lines_of_the_new_way_are_not_lost() {
    let mut t = Talk::start();
    let bad = t.agent("a");
    assert_eq!(t.lines(1), 1);
    t.work();
    fails(&mut t, bad);
    t.see(bad);
    assert_eq!(t.lines(2), 2);
    t.m.finish(failed(FailureKind::Unavailable, "busy"), t.clock).unwrap();
    retry(&mut t, None, false).unwrap();
    let bad = t.agent("a");
    assert_eq!(t.lines(1), 0);
    t.waits(bad);
    t.work();
    t.answer(bad, "A");
    t.see(bad);
    assert_eq!(t.lines(2), 2);
    for _ in 0..2 {
        t.reopen();
        let bad = t.agent("a");
        assert_eq!(t.lines(1), 0);
        t.see(bad);
        assert_eq!(t.lines(2), 0);
    }
    assert_eq!(t.lines(1), 1);
}

#[test]
fn a_cancelled_run_is_taken_up_where_it_was_cancelled() {
    let mut t = Talk::start();
    let step = t.agent("a");
    t.work();
    t.cancel();
    t.see(step);
    t.m.finish(failed(FailureKind::Cancelled, "so be it"), t.clock).unwrap();
    retry(&mut t, None, false).unwrap();
    assert!(!t.m.cancel_requested());
    let step = t.agent("a");
    t.waits(step);
    assert_eq!(t.work(), ["call 1 #2 a"]);
}

#[test]
fn what_was_cancelled_without_a_request_is_tried_again_at_the_step_that_was() {
    // A child of it was cancelled, say.
    let mut t = Talk::start();
    let (bad, _) = (t.agent("a"), t.agent("b"));
    t.work();
    let outcome = failed(FailureKind::Cancelled, "the run was asked to stop: by somebody");
    t.m.complete(bad, outcome.clone(), t.clock);
    t.see(bad);
    t.m.finish(outcome, t.clock).unwrap();
    retry(&mut t, None, false).unwrap();
    assert!(t.m.is_open(bad));
    // It says so of its own: nothing would be different.
    let mut t = Talk::start();
    t.m.finish(failed(FailureKind::Cancelled, "I do not like it"), t.clock).unwrap();
    assert_eq!(retry(&mut t, None, false), Err(CannotRetry::OwnFault));
    // The host ended it where it stood, and there it goes on.
    let mut t = Talk::start();
    let open = t.agent("a");
    assert!(t.m.terminate(Failure::new(FailureKind::Cancelled, "terminated"), t.clock));
    retry(&mut t, None, false).unwrap();
    assert!(t.m.is_open(open));
}

#[test]
fn what_was_terminated_goes_on_where_it_stood_though_a_step_of_it_had_been_terminated_too() {
    for why in ["terminated", "terminated: for good"] {
        let mut t = Talk::start();
        let child = t.agent("a");
        t.work();
        t.m.complete(child, failed(FailureKind::Cancelled, "terminated"), t.clock);
        t.see(child);
        let paid = t.agent("b");
        t.work();
        t.answer(paid, "B");
        t.see(paid);
        let open = t.agent("c");
        t.work();
        assert!(t.m.terminate(Failure::new(FailureKind::Cancelled, why), t.clock));
        retry(&mut t, None, false).unwrap();
        let again = [t.agent("a"), t.agent("b"), t.agent("c")];
        assert_eq!(again, [child, paid, open]);
        assert_eq!(t.got(child), failed(FailureKind::Cancelled, "terminated"));
        assert_eq!(t.got(paid), said("B"));
        t.waits(open);
        assert_eq!(t.work(), ["call 3 #2 c"], "{why}");
    }
}

#[test]
fn a_failure_without_a_message_is_the_cause_of_none_that_says_something() {
    let mut t = Talk::start();
    let handled = t.agent("a");
    t.work();
    t.m.complete(handled, failed(FailureKind::Failed, ""), t.clock);
    t.see(handled);
    let paid = t.agent("b");
    t.work();
    t.answer(paid, "B");
    t.see(paid);
    t.m.finish(failed(FailureKind::Failed, "of its own"), t.clock).unwrap();
    assert_eq!(retry(&mut t, None, false), Err(CannotRetry::OwnFault));
    // One that says as little may be, and one that names the kind.
    for said in ["", "failed"] {
        let mut t = Talk::start();
        let bad = t.agent("a");
        t.work();
        t.m.complete(bad, failed(FailureKind::Failed, ""), t.clock);
        t.see(bad);
        t.m.finish(failed(FailureKind::Failed, said), t.clock).unwrap();
        retry(&mut t, None, false).unwrap();
        assert!(t.m.is_open(bad));
    }
}

#[test]
fn what_makes_no_sense_fails_again_and_does_not_last_for_ever() {
    let signal = |name: &str, timeout_ms| Op::Signal { name: name.to_owned(), timeout_ms };
    let send = Op::Send { run: "other".to_owned(), name: String::new(), payload: Json::null() };
    for op in [sleep(u64::MAX), signal("", None), signal("go", Some(u64::MAX)), send] {
        let mut t = Talk::start();
        let step = t.ask(op.clone());
        let outcome = t.got(step);
        t.m.finish(outcome.clone(), t.clock).unwrap();
        retry(&mut t, None, false).unwrap();
        t.ask(op.clone());
        assert_eq!(t.got(step), outcome);
        t.m.finish(outcome.clone(), t.clock).unwrap();
        t.reopen();
        t.ask(op);
        assert_eq!(t.got(step), outcome);
        t.m.finish(outcome, t.clock).unwrap();
        t.nothing_left();
    }
}

#[test]
fn a_wait_that_timed_out_gets_its_time_again() {
    let mut t = Talk::start();
    let wait = t.ask(signal_within("go", 50));
    t.pass(50);
    let outcome = t.got(wait);
    t.m.finish(outcome, t.clock).unwrap();
    t.pass(1_000);
    retry(&mut t, None, false).unwrap();
    assert_eq!(t.m.next_deadline(), Some(t.clock.after(50)));
    let wait = t.ask(signal_within("go", 50));
    t.waits(wait);
    t.signal("go", 1);
    assert_eq!(t.got(wait), said(1));
}

#[test]
fn only_what_failed_is_taken_up() {
    let mut t = Talk::start();
    assert_eq!(retry(&mut t, None, false), Err(CannotRetry::NotEnded));
    t.finish(1);
    assert_eq!(retry(&mut t, None, true), Err(CannotRetry::Completed));
}

#[test]
fn a_run_is_moved_before_its_next_entry() {
    let mut t = Talk::start();
    let step = t.agent("a");
    t.work();
    t.answer(step, "A");
    t.reopen();
    let new = Digest::of(b"another module");
    t.m.move_to(new);
    t.agent("a");
    t.silent();
    t.agent("b");
    assert_eq!(t.told()[2..], ["moved", "scheduled 2"]);
    assert_eq!(t.m.module(), new);
    t.reopen();
    assert_eq!(t.m.module(), new);
    t.m.move_to(new);
    t.m.settle_move(t.clock);
    t.silent();
}
