//! Signals.

use super::*;

#[test]
fn a_signal_that_comes_early_is_kept() {
    let mut t = Talk::start();
    t.signal("go", 1);
    let step = t.ask(signal("go"));
    assert_eq!(t.got(step), said(1));
    t.reopen();
    let step = t.ask(signal("go"));
    assert_eq!(t.got(step), said(1));
    t.silent();
}

#[test]
fn a_signal_that_comes_late_ends_the_wait() {
    let mut t = Talk::start();
    let step = t.ask(signal("go"));
    t.waits(step);
    assert_eq!(t.m.wanted_signals(), ["go"]);
    t.signal("stop", 0);
    t.waits(step);
    t.signal("go", 1);
    assert_eq!(t.got(step), said(1));
    assert_eq!(t.m.wanted_signals(), [""; 0]);
    assert_eq!(t.told(), ["scheduled 1", "received", "received"], "the signal is the completion");
    t.reopen();
    let step = t.ask(signal("go"));
    assert_eq!(t.got(step), said(1));
}

#[test]
fn signals_of_one_name_come_first_in_first_out_each_once() {
    let mut t = Talk::start();
    for payload in [1, 2, 3] {
        t.signal("go", payload);
    }
    t.signal("other", 9);
    for payload in [1, 2, 3] {
        let step = t.ask(signal("go"));
        assert_eq!(t.got(step), said(payload));
    }
    let step = t.ask(signal("go"));
    t.waits(step);
    let other = t.ask(signal("other"));
    assert_eq!(t.got(other), said(9));
}

#[test]
fn two_waits_for_one_name_take_signals_in_the_order_of_the_waits() {
    let mut t = Talk::start();
    let (first, second) = (t.ask(signal("go")), t.ask(signal("go")));
    t.signal("go", 1);
    t.waits(second);
    t.signal("go", 2);
    assert_eq!([t.got(first), t.got(second)], [said(1), said(2)]);
    t.reopen();
    let (first, second) = (t.ask(signal("go")), t.ask(signal("go")));
    assert_eq!([t.got(second), t.got(first)], [said(2), said(1)]);
}

#[test]
fn a_wait_that_was_dropped_takes_no_signal() {
    let mut t = Talk::start();
    let (first, second) = (t.ask(signal("go")), t.ask(signal("go")));
    t.drop(first);
    t.signal("go", 1);
    assert_eq!(t.got(second), said(1));
    t.reopen();
    let (first, second) = (t.ask(signal("go")), t.ask(signal("go")));
    t.drop(first);
    assert_eq!(t.got(second), said(1));
    t.silent();
}

#[test]
fn a_wait_times_out_and_the_signal_stays_for_the_next_one() {
    let mut t = Talk::start();
    let step = t.ask(signal_within("go", 1_500));
    t.pass(1_499);
    t.waits(step);
    t.pass(1);
    assert_eq!(t.got(step), failed(FailureKind::TimedOut, "no signal `go` came within 1.5s"));
    t.signal("go", 1);
    let next = t.ask(signal_within("go", 5));
    assert_eq!(t.got(next), said(1));
    t.pass(100);
    assert_eq!(t.told(), ["scheduled 1", "completed 1", "received", "scheduled 2"]);
    t.reopen();
    let step = t.ask(signal_within("go", 1_500));
    assert!(t.got(step).is_err());
    let next = t.ask(signal_within("go", 5));
    assert_eq!(t.got(next), said(1));
}

#[test]
fn a_signal_that_is_processed_before_the_timeout_wins_whatever_the_clock_says() {
    let mut t = Talk::start();
    let step = t.ask(signal_within("go", 10));
    t.clock = t.clock.after(50);
    t.signal("go", 1);
    t.m.fire_timers(t.clock);
    assert_eq!(t.got(step), said(1));
    assert_eq!(t.m.next_deadline(), None);
}

#[test]
fn a_wait_without_patience_looks_only_at_what_is_there() {
    let mut t = Talk::start();
    let step = t.ask(signal_within("go", 0));
    assert!(t.got(step).is_err());
    t.signal("go", 1);
    let step = t.ask(signal_within("go", 0));
    assert_eq!(t.got(step), said(1));
}

#[test]
fn waits_and_calls_are_compared_by_their_places_in_the_journal() {
    let mut t = Talk::start();
    t.signal("go", 1);
    let call = t.agent("x");
    t.answer(call, "x");
    // The signal came before the answer, but was not waited for until after it.
    let wait = t.ask(signal("go"));
    assert_eq!(t.any(&[wait, call]), Some(1));
    assert_eq!(t.any(&[wait]), Some(0));
}

#[test]
fn a_signal_without_a_name_is_rejected() {
    let mut t = Talk::start();
    let step = t.ask(signal(""));
    assert_eq!(t.got(step), failed(FailureKind::Rejected, "the name of a signal is empty"));
}

#[test]
fn a_signal_that_was_not_read_is_not_lost_with_its_wait() {
    let mut t = Talk::start();
    let (first, pause) = (t.ask(signal("go")), t.ask(sleep(5)));
    t.pass(5);
    t.signal("go", 1);
    t.signal("go", 2);
    // The program sees that time has passed, and lets go of the wait.
    assert_eq!(t.any(&[first, pause]), Some(1));
    t.see(pause);
    t.drop(pause);
    t.drop(first);
    let waits = [t.ask(signal("go")), t.ask(signal("go"))];
    assert_eq!((t.got(waits[0]), t.got(waits[1])), (said(1), said(2)));
    assert_eq!(t.told().iter().filter(|told| *told == "returned").count(), 1);
    t.reopen();
    let (first, pause) = (t.ask(signal("go")), t.ask(sleep(5)));
    assert_eq!(t.any(&[first, pause]), Some(1));
    t.see(pause);
    t.drop(pause);
    t.drop(first);
    let waits = [t.ask(signal("go")), t.ask(signal("go"))];
    assert_eq!((t.got(waits[0]), t.got(waits[1])), (said(1), said(2)));
    t.silent();
}

#[test]
fn a_signal_that_is_returned_goes_to_whoever_waits_for_it() {
    let mut t = Talk::start();
    let (first, second) = (t.ask(signal("go")), t.ask(signal("go")));
    t.signal("go", 1);
    t.drop(first);
    assert_eq!(t.got(second), said(1));
    // One that was read is not.
    t.drop(second);
    let third = t.ask(signal("go"));
    t.waits(third);
}

#[test]
fn names_of_signals_that_nothing_waits_for_any_more_are_forgotten() {
    let mut t = Talk::start();
    let read = |t: &mut Talk| {
        for name in ["early", "late"] {
            if name == "early" {
                t.signal(name, 1);
            }
            let wait = t.ask(signal(name));
            if name == "late" {
                t.signal(name, 2);
            }
            t.see(wait);
            t.drop(wait);
        }
        let dropped = t.ask(signal("dropped"));
        t.drop(dropped);
        let timed = t.ask(signal_within("timed", 5));
        t.pass(5);
        t.see(timed);
    };
    read(&mut t);
    assert_eq!(t.m.steps.names_of_signals(), [""; 0]);
    t.signal("kept", 3);
    let wait = t.ask(signal("waits"));
    t.waits(wait);
    assert_eq!(t.m.steps.names_of_signals(), ["kept", "waits"]);
}
