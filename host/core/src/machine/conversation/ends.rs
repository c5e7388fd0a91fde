//! The end of a run: by the program, by a request, by the host, by a limit.

use super::*;

#[test]
fn after_the_end_everything_answers_the_same() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.finish(json!({"ok": true}));
    assert_eq!(t.m.outcome(), Some(&said(json!({"ok": true}))));
    let at = t.clock;
    let entries = t.m.entries();
    for _ in 0..2 {
        assert_eq!(t.m.schedule(&agent("y"), at), Err(Stop::Ended));
        assert_eq!(t.m.poll_step(step), Err(Stop::Ended));
        assert_eq!(t.m.poll_any(&[step]), Err(Stop::Ended));
        assert_eq!(t.m.drop_step(step, at), Err(Stop::Ended));
        assert_eq!(t.m.patched("p", at), Err(Stop::Ended));
        assert_eq!(t.m.finish(said(1), at), Err(Stop::Ended));
    }
    assert!(!t.m.complete(step, said("x"), at));
    assert!(!t.m.receive("go".to_owned(), Json::null(), None, at));
    assert!(!t.m.request_cancel(None, at));
    assert!(!t.m.terminate(Failure::new(FailureKind::Failed, "x"), at));
    t.m.fire_timers(at);
    assert_eq!(t.m.entries(), entries);
}

#[test]
fn after_the_first_error_everything_answers_the_same() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.answer(step, "x");
    assert_eq!(t.m.poll_any(&[]), Err(Stop::Deadlock));
    assert_eq!(t.m.poll_step(step), Err(Stop::Deadlock));
    assert_eq!(t.m.finish(said(1), t.clock), Err(Stop::Deadlock));
    assert_eq!(t.m.schedule(&agent("y"), t.clock), Err(Stop::Deadlock));
    assert_eq!(t.m.outcome(), None, "it is for the host to end the run");
}

#[test]
fn a_run_may_fail_and_end_with_open_steps() {
    let mut t = Talk::start();
    t.agent("x");
    t.ask(signal("go"));
    t.ask(sleep(10));
    t.work();
    t.m.finish(failed(FailureKind::Failed, "no idea"), t.clock).unwrap();
    assert_eq!(t.work(), ["stop 1"], "nobody waits for the call");
    assert_eq!((t.m.next_deadline(), t.m.wanted_signals().len()), (None, 0));
    assert_eq!(t.m.open_steps().count(), 0);
    t.reopen();
    assert_eq!(t.m.outcome(), Some(&failed(FailureKind::Failed, "no idea")));
    t.agent("x");
    t.ask(signal("go"));
    t.ask(sleep(10));
    t.m.finish(failed(FailureKind::Failed, "no idea"), t.clock).unwrap();
    t.nothing_left();
}

#[test]
fn a_cancel_request_ends_what_is_open_and_the_program_may_clean_up() {
    let mut t = Talk::start();
    let (call, nap, wait) = (t.agent("x"), t.ask(sleep(1_000)), t.ask(signal("go")));
    t.work();
    t.waits(call);
    t.cancel();
    assert!(t.m.cancel_requested());
    assert!(!t.m.observed().cancelled(), "the program has not seen it");
    assert_eq!(t.work(), ["stop 1"]);
    for step in [call, nap, wait] {
        assert_eq!(t.got(step), failed(FailureKind::Cancelled, "the run was asked to stop: enough"));
        assert!(t.m.observed().cancelled());
    }
    assert!(!t.m.request_cancel(None, t.clock), "asked for once");
    let tidy = t.agent("clean up");
    assert_eq!(t.work(), ["call 4 #1 clean up"]);
    t.answer(tidy, "clean");
    t.see(tidy);
    t.finish("stopped");

    t.reopen();
    let steps = [t.agent("x"), t.ask(sleep(1_000)), t.ask(signal("go"))];
    assert!(!t.m.observed().cancelled(), "not yet, on replay neither");
    assert!(t.got(steps[2]).is_err());
    assert!(t.m.observed().cancelled());
    let tidy = t.agent("clean up");
    t.see(tidy);
    t.finish("stopped");
    t.nothing_left();
}

#[test]
fn a_cancel_request_is_seen_with_the_next_thing_the_program_does() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.answer(step, "x");
    t.cancel();
    t.see(step);
    assert!(!t.m.observed().cancelled(), "the answer stands before the request");
    t.agent("y");
    assert!(t.m.observed().cancelled());
    t.reopen();
    let step = t.agent("x");
    t.see(step);
    assert!(!t.m.observed().cancelled());
    t.agent("y");
    assert!(t.m.observed().cancelled());
}

#[test]
fn a_cancel_request_without_a_reason_says_no_reason() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.m.request_cancel(None, t.clock);
    assert_eq!(t.got(step), failed(FailureKind::Cancelled, "the run was asked to stop"));
}

#[test]
fn the_host_may_end_a_run_where_it_stands() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.waits(step);
    t.work();
    let killed = Failure::new(FailureKind::Failed, "stopped by ops");
    assert!(t.m.terminate(killed.clone(), t.clock));
    assert_eq!(t.work(), ["stop 1"]);
    assert_eq!(t.m.poll_step(step), Err(Stop::Ended));

    t.reopen();
    assert_eq!(t.m.outcome(), Some(&Err(killed)));
    let step = t.agent("x");
    assert_eq!(t.m.poll_step(step), Err(Stop::Ended), "no mismatch: there it was stopped");
    assert_eq!(t.m.schedule(&agent("y"), t.clock), Err(Stop::Ended));
    assert_eq!(t.work(), [""; 0]);
    t.silent();
}

#[test]
fn a_run_that_was_ended_while_it_computed_may_do_anything_on_replay() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.answer(step, "x");
    t.m.terminate(Failure::new(FailureKind::Failed, "too long"), t.clock);
    let act: [fn(&mut Talk) -> Stop; 3] = [
        |t| t.m.schedule(&agent("y"), t.clock).unwrap_err(),
        |t| t.m.finish(said("done"), t.clock).unwrap_err(),
        |t| t.m.finish(failed(FailureKind::Failed, "too long"), t.clock).unwrap_err(),
    ];
    for act in act {
        t.reopen();
        let step = t.agent("x");
        t.see(step);
        assert_eq!(act(&mut t), Stop::Ended);
        t.silent();
    }
}

#[test]
fn a_run_can_be_ended_during_its_replay() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.answer(step, "x");
    t.see(step);
    t.agent("y");
    t.reopen();
    assert!(t.m.terminate(Failure::new(FailureKind::Failed, "enough"), t.clock));
    let step = t.agent("x");
    t.see(step);
    t.agent("y");
    assert_eq!(t.m.poll_step(step), Err(Stop::Ended));
    assert_eq!(t.told().last().unwrap(), "finished");
}

#[test]
fn calls_of_a_program_that_went_wrong_are_stopped() {
    let mut t = Talk::start();
    t.agent("x");
    t.work();
    assert_eq!(t.m.poll_any(&[]), Err(Stop::Deadlock));
    t.m.terminate(Failure::new(FailureKind::Failed, Stop::Deadlock.to_string()), t.clock);
    assert_eq!(t.work(), ["stop 1"]);
}

#[test]
fn what_is_too_large_is_not_journaled() {
    let check = |op: Op, message: &str| {
        let mut t = Talk::start();
        t.save();
        assert_eq!(t.m.schedule(&op, t.clock).unwrap_err().to_string(), message);
        t.silent();
    };
    let over = |limit: usize| "x".repeat(limit + 1);
    check(
        agent(&over(limits::CALL_BYTES)),
        "an agent call has 10485761 bytes, more than the 10485760 that are allowed",
    );
    check(
        signal(&over(limits::NAME_BYTES)),
        "the name of a signal has 257 bytes, more than the 256 that are allowed",
    );
    check(
        Op::Send {
            run: "r".to_owned(),
            name: "n".to_owned(),
            payload: Json::string(&"x".repeat(limits::SIGNAL_BYTES)),
        },
        "a signal's payload has 1048578 bytes, more than the 1048576 that are allowed",
    );
    check(
        Op::ContinueAsNew { input: Json::string(&"x".repeat(limits::INPUT_BYTES)) },
        "an input has 10485762 bytes, more than the 10485760 that are allowed",
    );
    check(
        Op::Agent(Box::new(AgentRequest {
            providers: vec![String::new(); limits::CALL_BYTES + 1],
            ..Default::default()
        })),
        "an agent call has 10485761 bytes, more than the 10485760 that are allowed",
    );
    let mut t = Talk::start();
    assert!(matches!(t.m.patched(&over(limits::NAME_BYTES), t.clock), Err(Stop::TooLarge(_))));
}

#[test]
fn the_number_of_steps_held_at_once_is_limited() {
    let mut t = Talk::start();
    let mut first = None;
    for _ in 0..limits::OPEN_STEPS {
        first = first.or(Some(t.ask(signal("go"))));
    }
    // Room for one more after one was let go.
    t.drop(first.unwrap());
    t.ask(signal("go"));
    let stop = t.m.schedule(&signal("go"), t.clock).unwrap_err();
    assert_eq!(
        stop.to_string(),
        "the program has 100000 steps open at the same time, as many as are allowed"
    );
}

#[test]
fn a_step_that_the_program_does_not_hold_is_an_error_of_the_host() {
    let ask: [fn(&mut Talk) -> Stop; 4] = [
        |t| t.m.poll_step(Step(1)).unwrap_err(),
        |t| t.m.poll_any(&[Step(1)]).unwrap_err(),
        |t| t.m.drop_step(Step(1), DAWN).unwrap_err(),
        |t| {
            let set = t.m.set_new();
            t.m.set_add(set, Step(1), 0).unwrap_err()
        },
    ];
    for ask in ask {
        let mut t = Talk::start();
        assert_eq!(ask(&mut t), Stop::NoSuchStep(Step(1)));
        // Neither one that is recorded, but that it has not asked for again, nor one that it dropped.
        let mut t = Talk::start();
        t.agent("x");
        t.reopen();
        let stop = ask(&mut t);
        assert!(matches!(stop, Stop::Mismatch(_)), "{stop}");
        let mut t = Talk::start();
        t.agent("x");
        t.drop(Step(1));
        assert_eq!(ask(&mut t), Stop::NoSuchStep(Step(1)));
    }
}

#[test]
fn the_reason_of_a_cancellation_is_kept_once_however_many_steps_it_ends() {
    let mut t = Talk::start();
    let steps: Vec<_> = (0..1_000).map(|_| t.ask(signal("go"))).collect();
    let reason = "x".repeat(limits::MESSAGE_BYTES);
    assert!(t.m.request_cancel(Some(reason.clone()), t.clock));
    assert!(t.m.held_bytes() < 2 * limits::MESSAGE_BYTES as u64, "{}", t.m.held_bytes());
    for step in steps {
        assert_eq!(t.got(step).unwrap_err().message, format!("the run was asked to stop: {reason}"));
        t.drop(step);
    }
}
