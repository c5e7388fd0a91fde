//! Attempts at agent calls: those that fail, wait, are put to people, or may be
//! made once; and what they cost.

use super::retries::retry;
use super::*;
use crate::policy::budget::Budget;
use crate::{FailedCall, Question, Retry, Usage};

fn unavailable(step: Step, attempt: u32, again_at: Option<Timestamp>) -> FailedCall {
    FailedCall {
        step,
        attempt,
        provider: "p".to_owned(),
        failure: Failure::new(FailureKind::Unavailable, "busy"),
        auth: false,
        again_at,
        usage: None,
        heartbeat: None,
        timing: None,
    }
}

fn used(tokens: u64) -> Option<Usage> {
    Some(Usage { input_tokens: tokens, ..Usage::default() })
}

fn reply(tokens: u64) -> Outcome {
    said(json!({"output": "x", "provider": "p", "usage": {"input_tokens": tokens}}))
}

#[test]
fn the_next_attempt_begins_when_its_delay_is_over() {
    let mut t = Talk::start();
    let step = t.ask(agent("p"));
    assert_eq!(t.work(), ["call 1 #1 p"]);
    let at = t.clock.after(100);
    assert!(t.m.fail_attempt(unavailable(step, 1, Some(at)), t.clock));
    assert!(t.m.only_waits(), "a delay needs no program in memory");
    assert_eq!(t.m.next_deadline(), Some(at));
    t.m.fire_timers(at.after(0));
    assert_eq!(t.work(), ["call 1 #2 p"]);
    assert!(!t.m.only_waits());
    t.m.complete(step, said("well"), at);
    assert_eq!(t.got(step), said("well"));
}

#[test]
fn a_crash_within_a_delay_gives_no_attempt_away() {
    let mut t = Talk::start();
    let step = t.ask(agent("p"));
    t.work();
    let at = t.clock.after(100);
    let failed = FailedCall { heartbeat: Some(Json::from(json!(7))), ..unavailable(step, 1, Some(at)) };
    t.m.fail_attempt(failed, t.clock);
    t.reopen();
    t.ask(agent("p"));
    assert_eq!(t.work(), [""; 0], "its time has not come");
    assert_eq!(t.m.next_deadline(), Some(at), "the delay is the same");
    let state = t.m.call_state(step).unwrap().clone();
    assert_eq!((state.failures, state.heartbeat), (1, Some(Json::from(json!(7)))));
    t.m.fire_timers(at);
    assert_eq!(t.work(), ["call 1 #2 p"]);
    // Now the host dies during the attempt: that is no failure.
    t.reopen();
    t.ask(agent("p"));
    assert_eq!(t.work(), ["call 1 #3 p"]);
    assert_eq!(t.m.call_state(step).unwrap().failures, 1);
}

#[test]
fn a_delay_that_is_over_before_the_program_has_come_through_begins_one_attempt() {
    let mut t = Talk::start();
    let step = t.ask(agent("p"));
    t.work();
    let at = t.clock.after(100);
    t.m.fail_attempt(unavailable(step, 1, Some(at)), t.clock);
    t.reopen();
    t.ask(agent("p"));
    t.m.fire_timers(at);
    assert_eq!(t.work(), ["call 1 #2 p"]);
    assert_eq!(t.work(), [""; 0]);
}

#[test]
fn an_attempt_that_is_put_off_is_none() {
    let mut t = Talk::start();
    let step = t.ask(agent("p"));
    t.work();
    let until = t.clock.after(100);
    assert!(t.m.postpone(step, until, "waiting for quota of p".to_owned(), t.clock));
    assert!(t.m.only_waits());
    t.reopen();
    t.ask(agent("p"));
    assert_eq!(t.work(), [""; 0]);
    t.m.fire_timers(until);
    assert_eq!(t.work(), ["call 1 #1 p"]);
}

#[test]
fn a_call_that_is_given_up_while_it_waits_for_its_turn_gives_the_turn_back() {
    for cancelled in [false, true] {
        let mut t = Talk::start();
        let step = t.ask(agent("p"));
        t.work();
        t.m.postpone(step, t.clock.after(100), "waiting for quota of p".to_owned(), t.clock);
        if cancelled {
            t.cancel();
        } else {
            t.drop(step);
        }
        assert!(!t.m.only_waits(), "that is to be done yet");
        assert_eq!(t.work(), ["stop 1"]);
        assert!(t.m.only_waits());
        // That is for the execution which gave it up.
        t.reopen();
        t.ask(agent("p"));
        if cancelled {
            t.see(step);
        } else {
            t.drop(step);
        }
        t.nothing_left();
    }
    // One that ends by itself has come to its turn before.
    let mut t = Talk::start();
    let step = t.ask(agent("p"));
    t.work();
    t.m.postpone(step, t.clock.after(100), "waiting for quota of p".to_owned(), t.clock);
    t.pass(100);
    t.work();
    t.answer(step, "P");
    assert_eq!(t.work(), [""; 0]);
}

#[test]
fn a_call_that_is_dropped_in_its_delay_does_not_begin_again() {
    let mut t = Talk::start();
    let step = t.ask(agent("p"));
    t.work();
    let at = t.clock.after(100);
    t.m.fail_attempt(unavailable(step, 1, Some(at)), t.clock);
    t.m.drop_step(step, t.clock).unwrap();
    assert_eq!(t.m.next_deadline(), None);
    t.m.fire_timers(at);
    assert_eq!(t.work(), [""; 0]);
    assert!(!t.m.fail_attempt(unavailable(step, 1, None), at), "nobody waits for it");
}

/// A call that may be made at most once.
fn once(prompt: &str) -> Op {
    let request = AgentRequest {
        prompt: prompt.to_owned(),
        retry: Some(Retry {
            max_attempts: 1,
            initial_ms: 0,
            factor: 1.0,
            max_ms: 0,
            jitter: 0.0,
            fatal: vec!["unknown-outcome".to_owned()],
        }),
        ..AgentRequest::default()
    };
    Op::Agent(Box::new(request))
}

/// There is nothing to do but to end the step as one of which nobody knows whether it was carried out.
fn is_unknown(t: &mut Talk, step: Step) {
    let work = t.m.take_work(t.clock);
    let [Work::Fail { step: failing, failure }] = &work[..] else { panic!("{work:?}") };
    assert!(*failing == step && failure.message.starts_with("unknown-outcome"), "{failure}");
    t.m.complete(step, Err(failure.clone()), t.clock);
}

#[test]
fn a_call_that_may_be_made_once_is_not_made_again() {
    let mut t = Talk::start();
    let step = t.ask(once("pay"));
    assert_eq!(t.work(), ["call 1 #1 pay"]);
    t.reopen();
    t.ask(once("pay"));
    is_unknown(&mut t, step);
}

#[test]
fn a_call_that_may_be_made_once_is_made_once_more_by_each_retry() {
    let mut t = Talk::start();
    let step = t.ask(once("pay"));
    assert_eq!(t.work(), ["call 1 #1 pay"]);
    let outcome = failed(FailureKind::Unavailable, "busy");
    t.m.complete(step, outcome.clone(), t.clock);
    assert_eq!(t.got(step), outcome);
    t.m.finish(outcome, t.clock).unwrap();
    retry(&mut t, None, false).unwrap();
    // Not begun yet, so the host may die.
    t.reopen();
    t.ask(once("pay"));
    assert_eq!(t.work(), ["call 1 #2 pay"]);
    t.reopen();
    t.ask(once("pay"));
    is_unknown(&mut t, step);
    // Somebody knows better.
    let outcome = t.got(step);
    t.m.finish(outcome, t.clock).unwrap();
    retry(&mut t, None, false).unwrap();
    t.ask(once("pay"));
    assert_eq!(t.work(), ["call 1 #3 pay"]);
    t.answer(step, "paid");
    assert_eq!(t.got(step), said("paid"));
}

#[test]
fn calls_that_could_not_be_afforded_were_never_made_and_may_be() {
    let mut t = Talk::start();
    let steps = [t.ask(once("a")), t.ask(once("b"))];
    t.work();
    let short = || failed(FailureKind::BudgetExceeded, "the budget is used up");
    for step in steps {
        t.m.complete(step, short(), t.clock);
        t.see(step);
    }
    t.m.finish(short(), t.clock).unwrap();
    retry(&mut t, None, false).unwrap();
    let _ = [t.ask(once("a")), t.ask(once("b"))];
    assert_eq!(t.work(), ["call 1 #2 a", "call 2 #2 b"]);
}

#[test]
fn a_call_that_was_under_way_when_the_run_was_cancelled_may_have_been_made() {
    let mut t = Talk::start();
    let step = t.ask(once("pay"));
    t.work();
    t.cancel();
    t.see(step);
    t.m.finish(failed(FailureKind::Cancelled, "so be it"), t.clock).unwrap();
    retry(&mut t, None, false).unwrap();
    t.ask(once("pay"));
    is_unknown(&mut t, step);
}

#[test]
fn a_fork_makes_the_calls_that_are_open_in_it() {
    let mut t = Talk::start();
    t.ask(once("pay"));
    t.work();
    t.save();
    t.m.fork("fork".parse().unwrap(), [1; 32], t.clock);
    t.reopen();
    let step = t.ask(once("pay"));
    assert_eq!(t.work(), ["call 1 #2 pay"]);
    t.reopen();
    t.ask(once("pay"));
    is_unknown(&mut t, step);
}

#[test]
fn a_person_answers_a_call_with_a_reply() {
    let mut t = Talk::start();
    let step = t.ask(agent("ship it?"));
    t.work();
    let question = Question { prompt: "ship it?".to_owned(), schema: None, choices: vec![], details: None };
    let deadline = Some(t.clock.after(500));
    assert!(t.m.delegate(step, "human".to_owned(), question.clone(), deadline, t.clock));
    assert!(t.m.asks_people() && t.m.only_waits());
    t.reopen();
    t.ask(agent("ship it?"));
    assert_eq!(t.work(), [""; 0]);
    let open = t.m.open_questions();
    assert!(matches!(&open[..], [QuestionChange::Asked { question: asked, .. }] if *asked == question));
    assert!(t.m.answer(step, said("yes"), Some("ada".to_owned()), None, t.clock));
    assert_eq!(t.got(step), said(json!({"output": "yes", "provider": "human"})));
    assert!(!t.m.answer(step, said("no"), None, None, t.clock));
}

#[test]
fn a_program_reads_what_it_has_seen_being_spent() {
    let mut t = Talk::start();
    let (a, b) = (t.ask(agent("a")), t.ask(agent("b")));
    t.work();
    let failed = FailedCall { usage: used(5), ..unavailable(a, 1, Some(t.clock)) };
    t.m.fail_attempt(failed, t.clock);
    t.m.complete(b, reply(10), t.clock);
    t.m.fire_timers(t.clock);
    t.m.complete(a, reply(100), t.clock);
    let seen = |t: &Talk| t.m.observed().spent().tokens;
    assert_eq!(t.m.spent(t.clock).tokens, 115);
    assert_eq!(seen(&t), 0);
    assert!(t.got(b).is_ok());
    assert_eq!(seen(&t), 15);
    assert!(t.got(a).is_ok());
    assert_eq!(seen(&t), 115);
    t.reopen();
    assert_eq!(t.m.spent(t.clock).tokens, 115);
    let (a, b) = (t.ask(agent("a")), t.ask(agent("b")));
    assert_eq!(seen(&t), 0);
    assert!(t.got(b).is_ok());
    assert_eq!(seen(&t), 15);
    assert!(t.got(a).is_ok());
    assert_eq!(seen(&t), 115);
}

fn dropped(step: Step, attempt: u32, tokens: u64) -> DroppedAttempt {
    let usage = Usage { input_tokens: tokens, ..Usage::default() };
    DroppedAttempt { step, attempt, provider: "p".to_owned(), usage }
}

#[test]
fn what_a_dropped_call_consumed_counts_from_where_that_stands() {
    let mut t = Talk::start();
    let (a, b) = (t.ask(agent("a")), t.ask(agent("b")));
    t.work();
    t.m.drop_step(a, t.clock).unwrap();
    let seen = |t: &Talk| t.m.observed().spent().tokens;
    assert!(t.m.drop_attempt(dropped(a, 1, 5), t.clock));
    assert!(!t.m.drop_attempt(dropped(a, 1, 0), t.clock), "nothing was consumed");
    assert!(!t.m.drop_attempt(dropped(a, 1, 5), t.clock), "that was told");
    assert_eq!((t.m.spent(t.clock).tokens, t.m.spent_itself().tokens, seen(&t)), (5, 5, 0));
    t.m.complete(b, reply(10), t.clock);
    assert!(t.got(b).is_ok());
    assert_eq!(seen(&t), 15);
    t.reopen();
    let (a, b) = (t.ask(agent("a")), t.ask(agent("b")));
    t.m.drop_step(a, t.clock).unwrap();
    assert_eq!((t.m.spent(t.clock).tokens, seen(&t)), (15, 0));
    assert!(t.got(b).is_ok());
    assert_eq!(seen(&t), 15);
    // Whoever could not know whether it was committed tells it once more.
    assert!(!t.m.drop_attempt(dropped(a, 1, 5), t.clock));
    t.silent();
}

#[test]
fn a_call_whose_attempt_a_host_dropped_is_made_again_as_if_it_had_not_failed() {
    let mut t = Talk::start();
    let step = t.ask(agent("p"));
    t.work();
    // The host is stopped, another one goes on.
    assert!(t.m.drop_attempt(dropped(step, 1, 5), t.clock));
    t.reopen();
    let step = t.ask(agent("p"));
    assert_eq!(t.work(), ["call 1 #2 p"]);
    let state = t.m.call_state(step).unwrap();
    assert_eq!((state.failures, state.auth_failures), (0, 0));
    // What an attempt before it consumed may be known only now.
    assert!(t.m.drop_attempt(dropped(step, 1, 7), t.clock));
    assert!(t.m.fail_attempt(unavailable(step, 2, Some(t.clock.after(10))), t.clock));
    assert!(t.m.drop_attempt(dropped(step, 1, 1), t.clock), "also while it waits for the next one");
    assert_eq!(t.m.spent(t.clock).tokens, 13);
    t.reopen();
    let step = t.ask(agent("p"));
    assert_eq!((t.m.spent(t.clock).tokens, t.m.call_state(step).unwrap().failures), (13, 1));
}

#[test]
fn a_call_that_was_dropped_is_open_again_when_that_is_void() {
    let mut t = Talk::start();
    let (a, b) = (t.ask(agent("a")), t.ask(agent("b")));
    t.work();
    t.m.complete(b, failed(FailureKind::Failed, "no"), t.clock);
    assert!(t.got(b).is_err());
    t.m.drop_step(a, t.clock).unwrap();
    assert!(t.m.drop_attempt(dropped(a, 1, 5), t.clock));
    t.m.finish(failed(FailureKind::Failed, "no"), t.clock).unwrap();
    let mut journal = t.journal();
    plan_retry(&journal, None, false).unwrap().append(&mut journal, 0, t.clock);
    t.m = Machine::open(journal, Given::default()).unwrap();
    let _ = (t.ask(agent("a")), t.ask(agent("b")));
    assert_eq!(t.work(), ["call 1 #2 a", "call 2 #2 b"]);
    assert_eq!(t.m.spent(t.clock).tokens, 5);
}

#[test]
fn what_is_void_stays_paid_and_a_raised_budget_takes_up_all_that_was_too_dear() {
    let mut t = Talk::start();
    let steps = [t.ask(agent("a")), t.ask(agent("b")), t.ask(agent("c"))];
    t.work();
    t.m.complete(steps[0], reply(50), t.clock);
    let short = || failed(FailureKind::BudgetExceeded, "the budget is used up");
    t.m.complete(steps[1], short(), t.clock);
    t.m.complete(steps[2], short(), t.clock);
    let ends = steps.map(|step| t.got(step).is_ok());
    assert_eq!(ends, [true, false, false]);
    t.m.finish(short(), t.clock).unwrap();
    let mut journal = t.journal();
    let plan = plan_retry(&journal, None, false).unwrap();
    assert_eq!(plan.step, Some(steps[1]), "the first that could not be afforded");
    plan.append(&mut journal, 0, t.clock);
    t.m = Machine::open(journal, Given::default()).unwrap();
    let budget = Budget { tokens: Some(500), ..Budget::default() };
    assert!(t.m.change_budget(budget, t.clock) && !t.m.change_budget(budget, t.clock));
    assert_eq!(t.m.budget(), budget);
    let again = [t.ask(agent("a")), t.ask(agent("b")), t.ask(agent("c"))];
    assert_eq!(t.got(again[0]), reply(50));
    assert_eq!(t.work(), ["call 2 #2 b", "call 3 #2 c"]);
    assert_eq!(t.m.spent(t.clock).tokens, 50);
}

#[test]
fn a_provider_that_refused_is_out_until_somebody_tries_again() {
    let mut t = Talk::start();
    let step = t.ask(agent("p"));
    t.work();
    t.m.fail_attempt(FailedCall { auth: true, ..unavailable(step, 1, None) }, t.clock);
    t.m.complete(step, failed(FailureKind::Rejected, "no"), t.clock);
    t.reopen();
    assert!(t.m.providers_out().contains("p"));
    let step = t.ask(agent("p"));
    assert!(t.got(step).is_err());
    t.m.finish(failed(FailureKind::Rejected, "no"), t.clock).unwrap();
    let mut journal = t.journal();
    plan_retry(&journal, None, false).unwrap().append(&mut journal, 0, t.clock);
    t.m = Machine::open(journal, Given::default()).unwrap();
    assert!(t.m.providers_out().is_empty());
    assert_eq!(t.m.call_state(step).unwrap().failures, 0, "earlier failures do not count");
}

#[test]
fn a_call_that_had_not_begun_when_its_run_was_left_is_begun_by_the_next_host_whatever_it_is() {
    let mut t = Talk::start();
    t.ask(once("pay"));
    t.agent("p");
    t.ask(Op::Send { run: "r".to_owned(), name: "s".to_owned(), payload: Json::null() });
    t.m.put_off_starts("the run was paused", t.clock);
    assert_eq!(t.told()[3..], ["postponed", "postponed"]);
    assert!(t.m.withholds());
    t.pass(0);
    t.silent();
    t.reopen();
    t.ask(once("pay"));
    t.agent("p");
    t.ask(Op::Send { run: "r".to_owned(), name: "s".to_owned(), payload: Json::null() });
    t.pass(0);
    assert_eq!(t.work(), ["call 1 #1 pay", "call 2 #1 p", "do 3 #1 send"]);
}

#[test]
fn a_call_that_had_not_begun_when_its_run_was_to_be_left_begins_when_it_is_not_left_after_all() {
    let mut t = Talk::start();
    t.ask(once("pay"));
    t.agent("p");
    t.ask(Op::Send { run: "r".to_owned(), name: "s".to_owned(), payload: Json::null() });
    for _ in 0..2 {
        t.m.put_off_starts("the run was paused", t.clock);
        t.pass(1_000);
        assert!(t.m.withholds() && t.m.next_deadline().is_none());
        t.m.let_go();
        assert!(!t.m.withholds());
        // One that was to begin is put off once more.
        t.pass(0);
    }
    assert_eq!(t.told()[3..], [["postponed", "postponed", "attempted 1 1", "attempted 2 1"]; 2].concat());
    assert_eq!(t.work(), ["do 3 #1 send", "call 1 #1 pay", "call 2 #1 p"]);
    // Those that were made are not affected, and what is replayed is the same.
    t.m.let_go();
    t.pass(1_000);
    assert_eq!(t.work(), [""; 0]);
    t.reopen();
    t.ask(once("pay"));
    t.agent("p");
    t.ask(Op::Send { run: "r".to_owned(), name: "s".to_owned(), payload: Json::null() });
    let again = t.work();
    assert!(again[0].starts_with("fail 1 unknown-outcome"), "{again:?}");
    assert_eq!(again[1..], ["call 2 #2 p", "do 3 #1 send"]);
}

#[test]
fn what_a_run_that_is_left_has_dropped_is_stopped_and_nothing_begins() {
    let mut t = Talk::start();
    let first = t.agent("one");
    assert_eq!(t.work(), ["call 1 #1 one"]);
    t.drop(first);
    let second = t.agent("two");
    t.drop(second);
    t.m.put_off_starts("the run was paused", t.clock);
    assert_eq!((t.m.take_aborts(), t.told().len()), (vec![first], 4));
    assert_eq!(t.work(), [""; 0]);
}
