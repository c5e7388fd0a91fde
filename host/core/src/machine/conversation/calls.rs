//! Steps one after the other and concurrently; dropped ones.

use super::*;

#[test]
fn serial_steps_are_executed_once_and_answered_from_the_journal() {
    let mut t = Talk::start();
    let one = t.agent("one");
    t.waits(one);
    assert_eq!(t.save(), 2, "the start and the call are one commit");
    assert_eq!(t.work(), ["call 1 #1 one"]);
    assert_eq!(t.work(), [""; 0], "work is given out once");
    t.answer(one, "eins");
    assert_eq!(t.got(one), said("eins"));
    assert_eq!(t.got(one), said("eins"), "asking again gives the same");
    let two = t.agent("two");
    assert_eq!((one, two), (Step(1), Step(2)));
    assert_eq!(t.save(), 2, "the answer and the next call are one commit");
    assert_eq!(t.work(), ["call 2 #1 two"]);
    t.answer(two, "zwei");
    assert_eq!(t.got(two), said("zwei"));
    t.finish("done");
    assert_eq!(t.m.outcome(), Some(&said("done")));
    assert_eq!(t.told(), ["scheduled 1", "completed 1", "scheduled 2", "completed 2", "finished"]);

    t.reopen();
    let one = t.agent("one");
    assert_eq!(t.got(one), said("eins"));
    let two = t.agent("two");
    assert_eq!(t.got(two), said("zwei"));
    t.finish("done");
    t.nothing_left();
}

#[test]
fn the_same_call_in_a_loop_gets_a_fresh_answer_each_time() {
    let mut t = Talk::start();
    for answer in ["a", "b", "c"] {
        let step = t.agent("again");
        t.answer(step, answer);
        assert_eq!(t.got(step), said(answer));
        t.drop(step);
    }
    t.reopen();
    for answer in ["a", "b", "c"] {
        let step = t.agent("again");
        assert_eq!(t.got(step), said(answer));
        t.drop(step);
    }
    t.silent();
    let fresh = t.agent("again");
    t.waits(fresh);
    assert_eq!(t.work(), ["call 4 #1 again"]);
}

#[test]
fn parallel_steps_are_seen_in_the_order_of_their_completion() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut t = Talk::start();
        let start = |t: &mut Talk| ["x", "y", "z"].map(|prompt| t.agent(prompt));
        let take = |t: &mut Talk, steps: &[Step; 3]| {
            let mut open = steps.to_vec();
            let mut seen = vec![];
            while !open.is_empty() {
                let step = open.remove(t.any(&open).expect("one is done"));
                seen.push((step, t.got(step)));
            }
            seen
        };
        let steps = start(&mut t);
        assert_eq!(t.any(&steps), None);
        // All complete before the program looks again.
        for i in order {
            t.answer(steps[i], &format!("answer {i}"));
        }
        let seen = take(&mut t, &steps);
        assert_eq!(seen, order.map(|i| (steps[i], said(format!("answer {i}")))));

        t.reopen();
        let steps = start(&mut t);
        assert_eq!(take(&mut t, &steps), seen, "the same on replay");
        t.silent();
    }
}

#[test]
fn waiting_for_one_after_the_other_is_the_same_in_any_order_of_completion() {
    let mut t = Talk::start();
    let steps = ["x", "y"].map(|prompt| t.agent(prompt));
    t.answer(steps[1], "second");
    t.waits(steps[0]);
    t.answer(steps[0], "first");
    assert_eq!(steps.map(|step| t.got(step)), [said("first"), said("second")]);
    assert_eq!(t.any(&steps), Some(1), "the one that was done first");
    t.reopen();
    let steps = ["x", "y"].map(|prompt| t.agent(prompt));
    assert_eq!(steps.map(|step| t.got(step)), [said("first"), said("second")]);
    assert_eq!(t.any(&[steps[1], steps[0], steps[1]]), Some(0));
}

#[test]
fn identical_concurrent_calls_keep_their_answers() {
    let mut t = Talk::start();
    let (a, b) = (t.agent("same"), t.agent("same"));
    t.answer(b, "for b");
    t.answer(a, "for a");
    assert_eq!(t.any(&[a, b]), Some(1));
    t.reopen();
    let (a, b) = (t.agent("same"), t.agent("same"));
    assert_eq!(t.any(&[a, b]), Some(1));
    assert_eq!([t.got(a), t.got(b)], [said("for a"), said("for b")]);
}

#[test]
fn a_late_duplicate_of_an_answer_changes_nothing() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.answer(step, "first");
    t.save();
    assert!(!t.m.complete(step, said("second"), t.clock));
    assert!(!t.m.complete(Step(9), said("of nobody"), t.clock));
    t.silent();
    assert_eq!(t.got(step), said("first"));
}

#[test]
fn a_failure_is_an_answer() {
    let mut t = Talk::start();
    let step = t.agent("x");
    assert!(t.m.complete(step, failed(FailureKind::Unavailable, "nobody there"), t.clock));
    assert_eq!(t.got(step), failed(FailureKind::Unavailable, "nobody there"));
    t.reopen();
    let step = t.agent("x");
    assert_eq!(t.got(step), failed(FailureKind::Unavailable, "nobody there"));
}

#[test]
fn dropping_an_open_step_cancels_it_and_its_late_answer_is_nothing() {
    let mut t = Talk::start();
    let (slow, quick) = (t.agent("slow"), t.agent("quick"));
    t.work();
    t.answer(quick, "won");
    assert_eq!(t.any(&[slow, quick]), Some(1));
    t.drop(slow);
    assert_eq!(t.work(), ["stop 1"]);
    assert!(!t.m.complete(slow, said("too late"), t.clock));
    assert_eq!(t.told(), ["scheduled 1", "scheduled 2", "completed 2", "cancelled 1"]);

    t.reopen();
    let (slow, quick) = (t.agent("slow"), t.agent("quick"));
    assert_eq!(t.any(&[slow, quick]), Some(1));
    t.drop(slow);
    t.nothing_left();
}

#[test]
fn a_step_that_was_done_before_the_drop_leaves_no_entry() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.work();
    t.answer(step, "at the same moment");
    t.drop(step);
    assert_eq!(t.work(), [""; 0]);
    assert_eq!(t.told(), ["scheduled 1", "completed 1"]);
    t.reopen();
    let step = t.agent("x");
    t.drop(step);
    t.silent();
}

#[test]
fn a_dropped_call_that_had_not_begun_is_neither_begun_nor_stopped() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.drop(step);
    assert_eq!(t.work(), [""; 0]);
    assert!(t.m.only_waits());
}

#[test]
fn a_dropped_call_is_not_taken_up_by_the_next_host() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.work();
    t.save();
    // This host dies before the drop is committed, so the next one finds the call open.
    let rows = t.rows.clone();
    t.drop(step);
    t.rows = rows;
    t.m = Machine::open(Journal::read(t.rows.clone()).unwrap(), Given::default()).unwrap();
    let step = t.agent("x");
    t.drop(step);
    assert_eq!(t.work(), [""; 0]);
    assert_eq!(t.told(), ["scheduled 1", "cancelled 1"]);
}

#[test]
fn an_answer_that_arrives_during_the_replay_queues_behind_the_journal() {
    let mut t = Talk::start();
    let (a, b) = (t.agent("a"), t.agent("b"));
    t.answer(b, "b");
    assert_eq!(t.any(&[a, b]), Some(1));
    let c = t.agent("c");
    t.waits(c);
    t.reopen();
    let a = t.agent("a");
    t.answer(a, "a, early in the replay");
    let b = t.agent("b");
    assert_eq!(t.any(&[a, b]), Some(1), "b stands first in the journal");
    t.agent("c");
    assert_eq!(t.any(&[a, c]), Some(0));
}

#[test]
fn random_is_one_stream_whatever_is_asked_for_in_between() {
    let mut t = Talk::start();
    let draw = |t: &mut Talk, length: usize| {
        let mut bytes = vec![0; length];
        t.m.random(&mut bytes);
        bytes
    };
    let (first, second) = (draw(&mut t, 8), draw(&mut t, 200));
    assert_ne!(first, second[..8]);
    t.agent("x");
    t.reopen();
    t.silent();
    assert_eq!(draw(&mut t, 8), first);
    t.agent("x");
    assert_eq!(draw(&mut t, 100), second[..100]);
    assert_eq!(draw(&mut t, 100), second[100..]);
    let other = Machine::start(Started { seed: [8; 32], ..started() }, DAWN);
    t.m = other;
    assert_ne!(draw(&mut t, 8), first, "another seed, another stream");
}

#[test]
fn a_run_that_passed_a_place_before_it_was_patched_stays_on_the_old_way() {
    let mut t = Talk::start();
    let step = t.agent("old");
    t.answer(step, "x");
    t.see(step);
    t.agent("next");
    // New code, which asks before `old`.
    t.reopen();
    assert!(!t.patched("faster"));
    let step = t.agent("old");
    t.see(step);
    assert!(!t.patched("faster"), "the answer does not change within a run");
    t.agent("next");
    assert!(!t.patched("faster"));
    assert!(t.patched("later"), "a place it has not come to");
    t.agent("end");
    t.reopen();
    assert!(!t.patched("faster"));
    t.agent("old");
    t.agent("next");
    assert!(t.patched("later"));
    t.agent("end");
    t.silent();
}

#[test]
fn a_new_run_takes_the_new_way_also_after_restarts() {
    let mut t = Talk::start();
    assert!(t.patched("faster"));
    assert!(t.patched("faster"));
    t.agent("new");
    assert_eq!(t.told(), ["patched", "scheduled 1"], "one entry for one place");
    for _ in 0..2 {
        t.reopen();
        assert!(t.patched("faster"));
        assert!(t.patched("faster"));
        t.agent("new");
        t.silent();
    }
}
