//! Timers and virtual time.

use super::*;

#[test]
fn timers_end_in_the_order_of_their_deadlines() {
    let mut t = Talk::start();
    let (long, short) = (t.ask(sleep(50)), t.ask(sleep(20)));
    assert_eq!(t.m.next_deadline(), Some(DAWN.after(20)));
    assert!(t.m.only_waits());
    t.pass(19);
    assert_eq!(t.any(&[long, short]), None);
    // Both are due when the host looks again.
    t.pass(100);
    assert_eq!(t.any(&[long, short]), Some(1));
    assert_eq!(t.any(&[long]), Some(0));
    assert_eq!(t.got(long), Ok(Json::null()));
    assert_eq!(t.told(), ["scheduled 1", "scheduled 2", "completed 2", "completed 1"]);
    assert_eq!(t.m.next_deadline(), None);
}

#[test]
fn a_deadline_is_fixed_when_the_sleep_begins() {
    let mut t = Talk::start();
    t.clock = DAWN.after(7);
    let step = t.ask(sleep(1_000));
    t.waits(step);
    t.clock = t.clock.after(400);
    t.reopen();
    assert_eq!(t.m.next_deadline(), Some(DAWN.after(1_007)), "known before the program runs");
    let step = t.ask(sleep(1_000));
    t.waits(step);
    t.pass(599);
    t.waits(step);
    t.pass(1);
    assert_eq!(t.got(step), Ok(Json::null()));
}

#[test]
fn a_timer_that_falls_due_while_nobody_looks_ends_at_once() {
    let mut t = Talk::start();
    t.ask(sleep(1_000));
    t.clock = DAWN.after(86_400_000);
    t.reopen();
    t.m.fire_timers(t.clock);
    let step = t.ask(sleep(1_000));
    assert_eq!(t.got(step), Ok(Json::null()));
    assert_eq!(t.m.observed().now(), t.clock);
}

#[test]
fn zero_and_past_deadlines_are_met_at_once() {
    let mut t = Talk::start();
    for op in [sleep(0), Op::SleepUntil { at: 0 }, Op::SleepUntil { at: DAWN.0 }] {
        let step = t.ask(op);
        assert_eq!(t.got(step), Ok(Json::null()));
    }
    let future = t.ask(Op::SleepUntil { at: DAWN.0 + 1 });
    t.waits(future);
}

#[test]
fn a_dropped_timer_wakes_nobody() {
    let mut t = Talk::start();
    let (soon, later) = (t.ask(sleep(10)), t.ask(sleep(20)));
    t.drop(soon);
    assert_eq!(t.m.next_deadline(), Some(DAWN.after(20)));
    t.pass(15);
    t.waits(later);
    assert_eq!(t.told(), ["scheduled 1", "scheduled 2", "cancelled 1"]);
}

#[test]
fn absurd_lengths_are_rejected_with_the_limit() {
    let mut t = Talk::start();
    let absurd = u64::MAX - 5;
    let message = |what: &str, millis: u64| {
        format!(
            "{what} of {millis} ms is longer than the 100 years that are allowed \
             (a negative length turns into such a number)"
        )
    };
    let step = t.ask(sleep(absurd));
    assert_eq!(t.got(step), failed(FailureKind::Rejected, &message("a sleep", absurd)));
    let step = t.ask(Op::SleepUntil { at: absurd });
    assert_eq!(t.got(step), failed(FailureKind::Rejected, &message("a sleep", absurd - DAWN.0)));
    let step = t.ask(signal_within("go", absurd));
    assert_eq!(t.got(step), failed(FailureKind::Rejected, &message("a timeout", absurd)));
    assert_eq!(t.m.next_deadline(), None);
    assert_eq!(t.m.wanted_signals(), [""; 0]);
    let longest = t.ask(sleep(limits::SLEEP_MS));
    t.waits(longest);
    t.reopen();
    let step = t.ask(sleep(absurd));
    assert!(t.got(step).is_err(), "the same on replay");
}

#[test]
fn now_is_the_time_of_what_the_program_has_seen() {
    let mut t = Talk::start();
    assert_eq!(t.m.observed().now(), DAWN);
    t.clock = DAWN.after(5);
    let step = t.agent("x");
    assert_eq!(t.m.observed().now(), DAWN.after(5));
    t.clock = DAWN.after(9);
    t.answer(step, "x");
    t.clock = DAWN.after(20);
    t.signal("later", 1);
    assert_eq!(t.m.observed().now(), DAWN.after(5), "the answer is not seen yet");
    t.see(step);
    assert_eq!(t.m.observed().now(), DAWN.after(9));
    t.clock = DAWN.after(1_000);
    t.reopen();
    assert_eq!(t.m.observed().now(), DAWN);
    let step = t.agent("x");
    assert_eq!(t.m.observed().now(), DAWN.after(5));
    t.see(step);
    assert_eq!(t.m.observed().now(), DAWN.after(9));
}

#[test]
fn a_drop_that_is_journaled_moves_time_also_on_replay() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.clock = DAWN.after(30);
    t.drop(step);
    assert_eq!(t.m.observed().now(), DAWN.after(30));
    t.reopen();
    t.agent("x");
    t.drop(step);
    assert_eq!(t.m.observed().now(), DAWN.after(30));
}

#[test]
fn a_drop_that_finds_the_step_done_has_seen_that() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.clock = DAWN.after(30);
    t.answer(step, "x");
    t.drop(step);
    assert_eq!(t.m.observed().now(), DAWN.after(30));
    t.reopen();
    t.agent("x");
    t.drop(step);
    assert_eq!(t.m.observed().now(), DAWN.after(30));
}

#[test]
fn time_does_not_go_back_when_the_clock_does() {
    let mut t = Talk::start();
    t.clock = DAWN.after(1_000);
    let one = t.agent("one");
    t.clock = Timestamp(5);
    t.answer(one, "x");
    t.see(one);
    assert_eq!(t.m.observed().now(), DAWN.after(1_000));
    let nap = t.ask(sleep(10));
    assert_eq!(t.m.next_deadline(), Some(Timestamp(15)), "counted from what the clock shows");
    t.m.fire_timers(t.clock);
    t.waits(nap);
    t.clock = Timestamp(15);
    t.m.fire_timers(t.clock);
    t.see(nap);
    let times: Vec<_> = t.journal().entries.iter().map(|entry| entry.at).collect();
    assert!(times.is_sorted(), "{times:?}");
}

const TEN_MINUTES: u64 = 600_000;

/// The clock is ahead by ten minutes for some seconds, and an entry is written meanwhile.
fn ahead() -> Talk {
    let mut t = Talk::start();
    t.clock = DAWN.after(TEN_MINUTES);
    let step = t.ask(sleep(0));
    assert_eq!(t.got(step), Ok(Json::null()));
    t.clock = DAWN.after(7_000);
    t
}

#[test]
fn a_clock_that_was_ahead_and_is_put_right_holds_up_no_timer() {
    let mut t = ahead();
    let step = t.ask(sleep(1_000));
    t.waits(step);
    assert_eq!(t.m.next_deadline(), Some(DAWN.after(8_000)));
    // The journal says the same.
    t.reopen();
    assert_eq!(t.m.next_deadline(), Some(DAWN.after(8_000)));
    let first = t.ask(sleep(0));
    assert_eq!(t.got(first), Ok(Json::null()));
    let step = t.ask(sleep(1_000));
    t.waits(step);
    t.pass(999);
    t.waits(step);
    t.pass(1);
    assert_eq!(t.got(step), Ok(Json::null()));
    assert_eq!(t.m.observed().now(), DAWN.after(TEN_MINUTES), "time does not go back");
}

#[test]
fn a_point_in_time_is_met_when_the_clock_is_there() {
    let mut t = ahead();
    let step = t.ask(Op::SleepUntil { at: DAWN.0 + 9_000 });
    t.waits(step);
    t.pass(2_000);
    assert_eq!(t.got(step), Ok(Json::null()));
}

#[test]
fn a_sleep_that_began_while_the_clock_was_ahead_does_not_wait_for_it() {
    let mut t = Talk::start();
    t.clock = DAWN.after(TEN_MINUTES);
    let long = t.ask(sleep(5_000));
    t.ask(Op::Signal { name: "s".to_owned(), timeout_ms: Some(6_000) });
    t.waits(long);
    t.clock = DAWN.after(7_000);
    // Whatever is written next shows that the clock was put right.
    t.signal("other", 1);
    assert_eq!(t.m.next_deadline(), Some(DAWN.after(12_000)));
    t.reopen();
    assert_eq!(t.m.next_deadline(), Some(DAWN.after(12_000)));
    let long = t.ask(sleep(5_000));
    let limit = t.ask(Op::Signal { name: "s".to_owned(), timeout_ms: Some(6_000) });
    t.pass(5_000);
    assert_eq!(t.got(long), Ok(Json::null()));
    t.waits(limit);
    t.pass(1_000);
    assert!(t.got(limit).is_err());
}

#[test]
fn a_run_that_was_left_while_the_clock_was_ahead_is_put_right_by_whoever_loads_it() {
    let mut t = Talk::start();
    t.clock = DAWN.after(TEN_MINUTES);
    let step = t.ask(sleep(5_000));
    t.waits(step);
    // Nothing comes in, but it is loaded where the clock is right.
    t.clock = DAWN.after(7_000);
    t.reopen();
    let step = t.ask(sleep(5_000));
    t.m.notice_clock(t.clock);
    assert_eq!(t.m.next_deadline(), Some(DAWN.after(12_000)));
    // That is recorded, once.
    let entries = t.m.entries();
    t.m.notice_clock(t.clock);
    assert_eq!(t.m.entries(), entries);
    t.reopen();
    assert_eq!(t.m.next_deadline(), Some(DAWN.after(12_000)));
    let again = t.ask(sleep(5_000));
    assert_eq!(again, step);
    t.pass(5_000);
    assert_eq!(t.got(again), Ok(Json::null()));
}

#[test]
fn the_time_that_passed_goes_on_while_the_clock_catches_up() {
    let mut t = ahead();
    let before = t.m.observed().elapsed_ms();
    for turn in 1..=3 {
        let step = t.ask(sleep(1_000));
        t.pass(1_000);
        assert_eq!(t.got(step), Ok(Json::null()));
        assert_eq!(t.m.observed().elapsed_ms(), before + turn * 1_000);
    }
    // It has caught up: both go on together.
    t.clock = DAWN.after(TEN_MINUTES + 1_000);
    let step = t.ask(sleep(0));
    assert_eq!(t.got(step), Ok(Json::null()));
    assert_eq!(t.m.observed().now(), DAWN.after(TEN_MINUTES + 1_000));
    let elapsed = t.m.observed().elapsed_ms();
    assert!(elapsed >= before + 3_000);
}

#[test]
fn a_clock_that_is_behind_by_a_little_changes_nothing() {
    let mut t = Talk::start();
    t.clock = Timestamp(DAWN.0 - 500);
    t.ask(sleep(1_000));
    assert_eq!(t.m.next_deadline(), Some(DAWN.after(1_000)));
}
