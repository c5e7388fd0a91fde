//! What the next host resumes, and what is refused as a journal.

use super::*;

#[test]
fn an_interrupted_call_is_repeated_as_the_next_attempt() {
    let mut t = Talk::start();
    let done = t.agent("done");
    t.agent("hangs");
    assert_eq!(t.work(), ["call 1 #1 done", "call 2 #1 hangs"]);
    t.answer(done, "x");
    for attempt in [2, 3] {
        t.reopen();
        assert_eq!(t.work(), [""; 0], "nothing while the program replays");
        t.agent("done");
        assert_eq!(t.work(), [""; 0]);
        t.agent("hangs");
        assert_eq!(t.work(), [format!("call 2 #{attempt} hangs")]);
        assert_eq!(t.save(), 1, "the attempt is to be committed before it is made");
        assert_eq!(t.work(), [""; 0]);
    }
    assert_eq!(t.told(), ["scheduled 1", "scheduled 2", "completed 1", "attempted 2 2", "attempted 2 3"]);
    assert_eq!(t.m.open_steps().map(|open| (open.step, open.attempts)).collect::<Vec<_>>(), [(Step(2), 3)]);
    t.answer(Step(2), "y");
    t.reopen();
    t.agent("done");
    t.agent("hangs");
    assert_eq!(t.work(), [""; 0], "a call that is done is not repeated");
    t.silent();
}

#[test]
fn work_that_is_no_call_is_taken_up_without_counting() {
    let mut t = Talk::start();
    let send = Op::Send { run: "r".to_owned(), name: "go".to_owned(), payload: Json::null() };
    t.ask(send.clone());
    assert_eq!(t.work(), ["do 1 #1 send"]);
    t.reopen();
    t.ask(send);
    assert_eq!(t.work(), ["do 1 #1 send"]);
    assert_eq!(t.told(), ["scheduled 1"]);
}

#[test]
fn the_idempotency_key_of_a_step_stays_and_is_its_own() {
    let mut t = Talk::start();
    t.agent("x");
    let (one, two) = (t.m.idempotency_key(Step(1)), t.m.idempotency_key(Step(2)));
    assert_ne!(one, two);
    assert_eq!(one.len(), 35);
    t.reopen();
    assert_eq!(t.m.idempotency_key(Step(1)), one);
    let other = Machine::start(Started { seed: [8; 32], ..started() }, DAWN);
    assert_ne!(other.idempotency_key(Step(1)), one, "another run");
}

#[test]
fn a_machine_tells_what_it_waits_for() {
    let mut t = Talk::start();
    assert!(t.m.only_waits(), "nothing is open");
    let nap = t.ask(sleep(100));
    t.ask(signal_within("go", 30));
    t.ask(signal("stop"));
    assert!(t.m.only_waits());
    assert_eq!(t.m.next_deadline(), Some(DAWN.after(30)));
    assert_eq!(t.m.wanted_signals(), ["go", "stop"]);
    let open: Vec<_> = t.m.open_steps().collect();
    let open_step = |step, deadline: Option<u64>, signal| OpenStep {
        step: Step(step),
        deadline: deadline.map(|millis| DAWN.after(millis)),
        signal,
        attempts: 0,
    };
    assert_eq!(
        open,
        [open_step(1, Some(100), None), open_step(2, Some(30), Some("go")), open_step(3, None, Some("stop"))]
    );
    let call = t.agent("x");
    assert!(!t.m.only_waits());
    t.answer(call, "x");
    t.drop(nap);
    assert!(t.m.only_waits());
    t.reopen();
    assert!(!t.m.only_waits(), "it has yet to replay");
}

#[test]
fn what_is_appended_continues_the_chain_of_the_journal() {
    let mut t = Talk::start();
    t.agent("x");
    t.save();
    let head = t.m.head();
    t.reopen();
    assert_eq!(t.m.head(), head);
    assert_eq!(t.m.entries(), 2);
    t.answer(Step(1), "x");
    let unsaved = t.m.take_unsaved().unwrap();
    assert_eq!((unsaved.first, unsaved.count, unsaved.head), (Position(2), 1, t.m.head()));
    assert_eq!(unsaved.head, extend_chain(&head, &unsaved.bytes));
    assert_eq!(t.m.take_unsaved(), None);
}

#[test]
fn a_run_remembers_what_shaped_it() {
    let mut t = Talk::start();
    t.clock = DAWN.after(99);
    t.agent("x");
    t.reopen();
    assert_eq!((t.m.started(), t.m.started_at()), (&started(), DAWN));
}

/// The journal that begins with `started` and goes on with `events`, refused for the reason.
#[track_caller]
fn illegal(events: Vec<Event>, reason: &str) {
    let first = Entry { at: DAWN, event: Event::Started(Box::new(started())), behind_ms: None };
    let rest = events.into_iter().map(|event| Entry { at: DAWN, event, behind_ms: None });
    let entries: Vec<_> = std::iter::once(first).chain(rest).collect();
    let position = Position(entries.len() as u64 - 1);
    let error = Machine::open(Journal { entries, head: GENESIS }, Given::default()).unwrap_err();
    assert_eq!(error, JournalError::Illegal { position, reason: reason.to_owned() });
}

#[test]
fn a_journal_that_makes_no_sense_is_refused() {
    let scheduled = |step, op: &Op| Event::Scheduled { step: Step(step), op: crate::encode_op(op).into() };
    let completed = |step| Event::Completed { step: Step(step), outcome: said(1).into(), timing: None };
    let cancelled = |step| Event::Cancelled { step: Step(step) };
    let attempted = |step, attempt| Event::Attempted { step: Step(step), attempt, after: None };
    let finished = || Event::Finished { outcome: said(1).into(), stopped: false };
    let call = || scheduled(1, &agent("x"));

    illegal(vec![Event::Started(Box::new(started()))], "only the first entry is `started`");
    illegal(vec![scheduled(2, &agent("x"))], "step 2 follows step 0");
    illegal(vec![call(), scheduled(1, &agent("x"))], "step 1 follows step 1");
    illegal(vec![completed(1)], "it completes step 1, which is not open");
    illegal(vec![call(), completed(1), completed(1)], "it completes step 1, which is not open");
    illegal(vec![call(), cancelled(1), completed(1)], "it completes step 1, which is not open");
    illegal(vec![call(), completed(1), cancelled(1)], "it cancels step 1, which is not open");
    illegal(vec![call(), attempted(1, 3)], "attempt 3 of step 1 follows attempt 1");
    illegal(vec![call(), completed(1), attempted(1, 2)], "it is an attempt at step 1, which is not open");
    illegal(
        vec![scheduled(1, &sleep(5)), attempted(1, 1)],
        "it is an attempt at step 1, which is waited for and not tried",
    );
    illegal(vec![finished(), finished()], "the run had ended before this `finished`");
    illegal(vec![finished(), call()], "the run had ended before this `scheduled`");
    let cancel = || Event::CancelRequested { reason: None };
    illegal(vec![cancel(), cancel()], "the run was asked to stop before");
}

#[test]
fn a_journal_begins_with_started_and_its_times_do_not_go_back() {
    let begins =
        JournalError::Illegal { position: Position(0), reason: "a journal begins with `started`".to_owned() };
    let open = |entries| Machine::open(Journal { entries, head: GENESIS }, Given::default()).unwrap_err();
    assert_eq!(open(vec![]), begins);
    let patched = |at| Entry { at, event: Event::Patched { id: "p".to_owned() }, behind_ms: None };
    assert_eq!(open(vec![patched(DAWN)]), begins);
    let first = Entry { at: DAWN, event: Event::Started(Box::new(started())), behind_ms: None };
    let error = open(vec![first, patched(Timestamp(DAWN.0 - 1))]);
    assert_eq!(error.to_string(), "entry 1 is invalid at its position: it is older than the entry before");
}

#[test]
fn a_call_that_is_still_under_way_is_not_made_again() {
    let mut t = Talk::start();
    let (a, b) = (t.agent("a"), t.agent("b"));
    assert_eq!(t.work(), ["call 1 #1 a", "call 2 #1 b"]);
    t.reopen();
    assert!(!t.m.adopt(a, 1), "not before the program has come through");
    t.agent("a");
    t.agent("b");
    assert!(!t.m.adopt(a, 2), "another attempt");
    assert!(t.m.adopt(a, 1));
    assert_eq!(t.work(), ["call 2 #2 b"]);
    assert_eq!(t.told(), ["scheduled 1", "scheduled 2", "attempted 2 2"]);
    t.answer(a, "A");
    t.see(a);
    t.waits(b);
}

#[test]
fn a_call_that_cannot_be_made_here_waits_for_a_host_that_can() {
    let mut t = Talk::start();
    let (a, b) = (t.agent("a"), t.agent("b"));
    assert_eq!(t.work(), ["call 1 #1 a", "call 2 #1 b"]);
    t.m.withhold(a, "there is no provider", t.clock);
    t.answer(b, "B");
    t.see(b);
    assert!(t.m.only_waits() && t.m.withholds());
    t.pass(1_000);
    assert_eq!((t.work(), t.m.next_deadline()), (vec![], None));
    // Hosts that cannot make it either write nothing.
    for _ in 0..3 {
        t.reopen();
        t.agent("a");
        t.agent("b");
        t.see(b);
        let due: Vec<_> = t.m.due_calls(t.clock).into_iter().map(|(step, _)| step).collect();
        assert_eq!(due, [a]);
        t.m.withhold(a, "there is no provider", t.clock);
        t.pass(1_000);
        assert_eq!(t.work(), [""; 0]);
        t.silent();
    }
    // It was never made: also one that is made at most once is made now, as the first attempt.
    t.reopen();
    t.agent("a");
    t.agent("b");
    t.pass(1);
    assert_eq!(t.work(), ["call 1 #1 a"]);
}
