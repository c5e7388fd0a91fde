//! What a program gives out without entries: each once, whatever happens and whichever code runs.

use super::*;

/// The run is moved to other code, which comes through.
fn upgrade(t: &mut Talk) {
    t.reopen();
    t.m.move_to(Digest::of(b"other code"));
}

#[test]
fn what_was_stored_is_not_given_out_again() {
    let mut t = Talk::start();
    assert_eq!(t.lines(2), 2);
    let step = t.agent("x");
    assert_eq!(t.lines(1), 1);
    t.reopen();
    assert_eq!((t.lines(2), t.agent("x"), t.lines(1)), (0, step, 0));
    assert!(t.posts(), "what comes after it is new");
    assert_eq!(t.lines(1), 1);
}

#[test]
fn what_was_not_committed_is_given_out_again() {
    let mut t = Talk::start();
    assert_eq!(t.lines(1), 1);
    t.agent("x");
    t.save();
    assert_eq!(t.lines(2), 2);
    // Killed before the next commit.
    t.m = Machine::open(Journal::read(t.rows.clone()).unwrap(), t.given).unwrap();
    assert_eq!(t.lines(1), 0);
    t.agent("x");
    assert_eq!(t.lines(2), 2);
}

/// v1: `before` lines, a call, a message, a wait for a signal, another message.
/// v2 writes one line more or fewer, in the part that v1 had executed.
#[test]
fn code_that_writes_more_or_fewer_lines_posts_each_message_once() {
    for (v1, v2) in [(1, 2), (2, 1), (0, 3), (3, 0)] {
        for evicted in 0..3 {
            let mut t = Talk::start();
            let part_1 = |t: &mut Talk, lines| {
                let first = t.lines(lines);
                let call = t.agent("x");
                if t.m.poll_step(call).unwrap().is_none() {
                    t.answer(call, "X");
                }
                t.see(call);
                (first, t.lines(lines), t.posts())
            };
            assert_eq!(part_1(&mut t, v1), (v1, v1, true));
            let go = t.ask(signal("go"));
            t.waits(go);
            t.save();
            upgrade(&mut t);
            for _ in 0..evicted {
                assert_eq!(part_1(&mut t, v2), (0, 0, false), "{v1} {v2}");
                let go = t.ask(signal("go"));
                t.waits(go);
                t.m.settle_move(t.clock);
                t.reopen();
            }
            assert_eq!(part_1(&mut t, v2), (0, 0, false), "{v1} {v2}");
            let go = t.ask(signal("go"));
            t.waits(go);
            t.signal("go", 1);
            t.see(go);
            assert_eq!((t.lines(v2), t.posts()), (v2, true), "{v1} {v2}");
            t.reopen();
            assert_eq!(part_1(&mut t, v2), (0, 0, false));
            let go = t.ask(signal("go"));
            t.see(go);
            assert_eq!((t.lines(v2), t.posts(), t.posts()), (0, false, true));
        }
    }
}

/// The difference stands between the last entry and the wait: which line is new cannot be told, that
/// the message was posted can.
#[test]
fn other_code_gives_out_nothing_where_the_other_waited() {
    for (v1, v2) in [(1, 2), (2, 1)] {
        let mut t = Talk::start();
        let go = t.ask(signal("go"));
        assert_eq!((t.lines(v1), t.posts()), (v1, true));
        t.waits(go);
        t.save();
        upgrade(&mut t);
        let go = t.ask(signal("go"));
        assert_eq!((t.lines(v2), t.posts()), (0, false));
        t.waits(go);
        t.signal("go", 1);
        t.see(go);
        assert_eq!((t.lines(v2), t.posts()), (v2, true));
    }
}

/// The run failed there; the fixed program says the same and goes on.
#[test]
fn a_fixed_program_repeats_nothing_and_loses_nothing() {
    let mut t = Talk::start();
    let call = t.agent("x");
    t.answer(call, "X");
    t.see(call);
    assert_eq!((t.lines(1), t.posts()), (1, true));
    t.m.terminate(Failure::new(FailureKind::Failed, "it trapped"), t.clock);
    let mut journal = t.journal();
    let row = plan_retry(&journal, None, true).unwrap().append(&mut journal, 2, t.clock);
    t.rows.push(row);
    upgrade(&mut t);
    let call = t.agent("x");
    t.see(call);
    assert_eq!((t.lines(3), t.posts(), t.posts()), (2, false, true));
}

/// Two retries, the second from further ahead: nothing between the two is lost.
#[test]
fn retries_from_ever_further_back_lose_nothing() {
    let mut t = Talk::start();
    let part = |t: &mut Talk, prompt: &str, good: bool| {
        let step = t.agent(prompt);
        if t.m.poll_step(step).unwrap().is_none() {
            t.work();
            let outcome = if good { said("ok") } else { failed(FailureKind::Unavailable, prompt) };
            t.m.complete(step, outcome, t.clock);
        }
        t.see(step);
        (step, t.lines(1))
    };
    let (a, one) = part(&mut t, "a", false);
    let (b, two) = part(&mut t, "b", false);
    assert_eq!((one, two), (1, 1));
    t.m.finish(failed(FailureKind::Unavailable, "b"), t.clock).unwrap();
    for (from, lines) in [(b, [0, 1]), (a, [1, 1])] {
        let mut journal = t.journal();
        let row = plan_retry(&journal, Some(from), false).unwrap().append(&mut journal, 2, t.clock);
        t.rows.push(row);
        t.reopen();
        let good = from == a;
        let seen = [part(&mut t, "a", good).1, part(&mut t, "b", good).1];
        assert_eq!(seen, lines);
        t.m.finish(failed(FailureKind::Unavailable, "b"), t.clock).unwrap();
    }
}

#[test]
fn a_fork_gives_out_all_of_it_again_and_once() {
    let mut t = Talk::start();
    assert_eq!(t.lines(2), 2);
    let call = t.agent("x");
    t.answer(call, "X");
    t.see(call);
    assert!(t.posts());
    t.save();
    t.given = Given::Nothing;
    t.reopen();
    t.m.fork("fork".parse().unwrap(), [1; 32], t.clock);
    for expected in [(2, true), (0, false)] {
        let lines = t.lines(2);
        let call = t.agent("x");
        t.see(call);
        assert_eq!((lines, t.posts()), expected);
        t.reopen();
    }
}

#[test]
fn a_database_of_before_that_only_counted_loses_nothing_behind_a_wait() {
    for (v1, v2) in [(2, 2), (2, 1), (1, 2)] {
        let mut t = Talk::start();
        assert_eq!(t.lines(v1), v1);
        let go = t.ask(signal("go"));
        t.waits(go);
        t.save();
        t.given = Given::Counted(v1 as u64);
        upgrade(&mut t);
        assert_eq!(t.lines(v2), 0);
        let go = t.ask(signal("go"));
        t.waits(go);
        t.signal("go", 1);
        t.see(go);
        assert_eq!((t.lines(1), t.posts()), (1, true));
        t.reopen();
        t.lines(v2);
        let go = t.ask(signal("go"));
        t.see(go);
        assert_eq!((t.lines(1), t.posts()), (0, false));
    }
}
