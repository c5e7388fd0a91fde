//! Journals that were written once and must be readable for ever.
//!
//! The files in `golden/` never change. New ones may come; to write these, run
//! the tests with `WFHOST_WRITE_GOLDEN=1`, which leaves files that exist alone.

use std::fs;

use crate::rows;
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{
    AgentRequest, Caching, CallLimits, ChildOf, ChildOptions, Digest, Entry, Event, FailedCall, Failure,
    FailureKind, Grant, Journal, Json, Machine, OnParentClose, Op, Origin, Outcome, Position, Question,
    Recorded, Retry, Row, RunConfig, RunId, Sandbox, Started, Step, Timestamp, Unsaved, Usage, decode_op,
    encode_op,
};

const EVERY_KIND: &str = "every-kind.journal";
const CONVERSATION: &str = "conversation.journal";
const SECOND_LIFE: &str = "second-life.journal";
const SANDBOX: &str = "sandbox.journal";
const ATTEMPTS: &str = "attempts.journal";
const FAMILY: &str = "family.journal";
const START: Timestamp = Timestamp(1_750_000_000_000);

fn json(text: &str) -> Json {
    Json::parse(text.to_owned()).unwrap()
}

fn started() -> Started {
    Started {
        run: "run-golden.1".parse().unwrap(),
        workflow: "research".to_owned(),
        module: Digest::of(b"a module"),
        input: json(r#"{"topic":"cats","sections":2}"#),
        seed: std::array::from_fn(|i| i as u8),
        config: RunConfig {
            agent: Some("echo".to_owned()),
            memory_bytes: 1 << 29,
            fuel: 20_000_000_000,
            stack_bytes: 1 << 20,
            sandbox: None,
            ..RunConfig::default()
        },
        labels: vec![("team".to_owned(), "docs".to_owned())],
        child: None,
        origin: None,
        parent: Some("run-parent".parse().unwrap()),
    }
}

/// The same with everything that a program can be given and limited to.
fn started_in_sandbox() -> Started {
    let grant =
        Grant { host: "/srv/data".to_owned(), guest: "/data".to_owned(), digest: Digest::of(b"data") };
    let sandbox = Sandbox {
        total_fuel: 1_000_000_000_000,
        entries: 1_000_000,
        call_bytes: 256 << 20,
        output_bytes: 64 << 20,
        handles: 131_072,
        file_bytes: 64 << 20,
        files: 10_000,
        env: vec![("LANG".to_owned(), "C".to_owned())],
        grants: vec![grant],
    };
    let started = started();
    Started { config: RunConfig { sandbox: Some(sandbox), ..started.config.clone() }, ..started }
}

/// A run that only begins.
fn sandbox() -> Vec<Row> {
    let Unsaved { first, count, bytes, head } =
        Machine::start(started_in_sandbox(), START).take_unsaved().unwrap();
    vec![Row { first, count, bytes, head }]
}

fn full_request() -> Op {
    Op::Agent(Box::new(AgentRequest {
        prompt: "Write about \u{1F408}".to_owned(),
        input: Some(json(r#"{"n":1}"#)),
        providers: vec!["openai".to_owned(), "echo".to_owned()],
        model: Some("large".to_owned()),
        schema: Some(json(r#"{"type":"string"}"#)),
        session: Some("session-1".to_owned()),
        workspace: Some("scratch".to_owned()),
        label: Some("outline".to_owned()),
        group: Some("writers".to_owned()),
        retry: Some(Retry {
            max_attempts: 3,
            initial_ms: 250,
            factor: 2.0,
            max_ms: 60_000,
            jitter: 0.25,
            fatal: vec!["rejected".to_owned()],
        }),
        limits: Some(CallLimits {
            attempt_ms: Some(30_000),
            total_ms: Some(90_000),
            heartbeat_ms: Some(5_000),
        }),
        cache: Some(Caching { version: "v1".to_owned(), ttl_ms: Some(3_600_000) }),
        options: Some(json(r#"{"temperature":0.5}"#)),
    }))
}

fn small_request() -> Op {
    Op::Agent(Box::new(AgentRequest { prompt: "hi".to_owned(), ..Default::default() }))
}

/// Every kind of operation, with all fields and with as few as can be.
fn ops() -> Vec<Op> {
    vec![
        full_request(),
        small_request(),
        Op::Sleep { length_ms: 1_500 },
        Op::SleepUntil { at: START.0 + 60_000 },
        Op::Signal { name: "approve".to_owned(), timeout_ms: Some(86_400_000) },
        Op::Signal { name: "approve".to_owned(), timeout_ms: None },
        Op::Send { run: "run-other".to_owned(), name: "go".to_owned(), payload: json("[1,2]") },
        Op::Ask {
            question: Question {
                prompt: "Publish?".to_owned(),
                schema: Some(json(r#"{"type":"boolean"}"#)),
                choices: vec!["yes".to_owned(), "no".to_owned()],
                details: Some(json("\"draft 3\"")),
            },
            timeout_ms: Some(1_000),
        },
        Op::Ask {
            question: Question { prompt: "Why?".to_owned(), schema: None, choices: vec![], details: None },
            timeout_ms: None,
        },
        Op::Child {
            module: "section".to_owned(),
            input: json("null"),
            options: Some(ChildOptions {
                id: Some("run-child".to_owned()),
                on_close: OnParentClose::Abandon,
                labels: vec![("part".to_owned(), "1".to_owned())],
            }),
        },
        Op::Child { module: "section".to_owned(), input: json("{}"), options: None },
        Op::ContinueAsNew { input: json(r#"{"round":2}"#) },
    ]
}

/// One journal with every kind of entry, of operation and of failure.
fn every_kind() -> Vec<Entry> {
    let mut events =
        vec![Event::Started(Box::new(started())), Event::Patched { id: "two-drafts".to_owned() }];
    for (op, step) in ops().iter().zip(1..) {
        events.push(Event::Scheduled { step: Step(step), op: encode_op(op).into() });
    }
    let completed =
        |step, outcome: Outcome| Event::Completed { step: Step(step), outcome: outcome.into(), timing: None };
    let kinds = [
        FailureKind::Failed,
        FailureKind::TimedOut,
        FailureKind::Cancelled,
        FailureKind::InvalidOutput,
        FailureKind::BudgetExceeded,
        FailureKind::Unavailable,
        FailureKind::Rejected,
    ];
    let failure = |kind| Failure { kind, message: format!("{kind}"), details: Some(json("[]")), attempts: 2 };
    events.extend([
        Event::Attempted { step: Step(1), attempt: 2, after: Some(failure(FailureKind::Unavailable)) },
        Event::Attempted { step: Step(1), attempt: 3, after: None },
        completed(1, Ok(json(r#"{"output":"cats","provider":"echo"}"#))),
        Event::Cancelled { step: Step(2) },
        completed(3, Ok(Json::null())),
        Event::Received { name: "approve".to_owned(), payload: json("true"), id: Some("m-1".to_owned()) },
        Event::Received { name: "later".to_owned(), payload: json("{}"), id: None },
    ]);
    // One small call for each kind of failure.
    let calls = ops().len() as u64 + 1;
    for (kind, step) in kinds.into_iter().zip(calls..) {
        events.push(Event::Scheduled { step: Step(step), op: encode_op(&small_request()).into() });
        events.push(completed(step, Err(failure(kind))));
    }
    events.extend([
        Event::CancelRequested { reason: Some("too dear".to_owned()) },
        Event::Finished { outcome: Recorded::Ok(json(r#"{"report":"done"}"#)), stopped: false },
    ]);
    events
        .into_iter()
        .zip(0..)
        .map(|(event, i)| Entry { at: START.after(10 * i), event, behind_ms: None })
        .collect()
}

/// What the program of that journal does.
fn act(m: &mut Machine) {
    let at = Timestamp(u64::MAX);
    assert!(m.patched("two-drafts", at).unwrap());
    let steps: Vec<_> = ops().iter().map(|op| m.schedule(op, at).unwrap()).collect();
    assert_eq!(m.poll_any(&steps).unwrap(), Some(0));
    let answer = json(r#"{"output":"cats","provider":"echo"}"#);
    assert_eq!(m.poll_step(steps[0]).unwrap(), Some(Ok(answer)));
    m.drop_step(steps[1], at).unwrap();
    assert_eq!(m.poll_step(steps[2]).unwrap(), Some(Ok(Json::null())));
    assert_eq!(m.poll_step(steps[4]).unwrap(), Some(Ok(json("true"))));
    for _ in 0..7 {
        let step = m.schedule(&small_request(), at).unwrap();
        let Some(Err(failure)) = m.poll_step(step).unwrap() else { panic!("no failure") };
        assert_eq!((failure.message.as_str(), failure.attempts), (&*failure.kind.to_string(), 2));
    }
    assert!(!m.observed().cancelled());
    let Some(Err(failure)) = m.poll_step(steps[11]).unwrap() else { panic!("no failure") };
    assert_eq!(failure.to_string(), "cancelled: the run was asked to stop: too dear");
    assert!(m.observed().cancelled());
    m.finish(Ok(json(r#"{"report":"done"}"#)), at).unwrap();
}

/// A conversation: the bytes that a machine itself writes.
fn conversation() -> Vec<Row> {
    let at = |millis| START.after(millis);
    let mut rows = Vec::new();
    let mut save = |m: &mut Machine| {
        let Unsaved { first, count, bytes, head } = m.take_unsaved().unwrap();
        rows.push(Row { first, count, bytes, head });
        rows.clone()
    };
    let mut m = Machine::start(started(), START);
    let call = m.schedule(&full_request(), at(1)).unwrap();
    let nap = m.schedule(&Op::Sleep { length_ms: 20 }, at(2)).unwrap();
    // Another host goes on.
    let mut m = Machine::open(Journal::read(save(&mut m)).unwrap(), wfhost_core::Given::default()).unwrap();
    assert_eq!(m.schedule(&full_request(), at(5)), Ok(call));
    assert_eq!(m.schedule(&Op::Sleep { length_ms: 20 }, at(5)), Ok(nap));
    m.take_work(at(6));
    m.fire_timers(at(30));
    assert_eq!(m.poll_any(&[call, nap]), Ok(Some(1)));
    m.drop_step(call, at(31)).unwrap();
    save(&mut m);
    m.receive("approve".to_owned(), json("true"), Some("m-1".to_owned()), at(40));
    // The clock goes back.
    let wait = Op::Signal { name: "approve".to_owned(), timeout_ms: Some(5) };
    let wait = m.schedule(&wait, at(3)).unwrap();
    assert_eq!(m.poll_step(wait), Ok(Some(Ok(json("true")))));
    let absurd = m.schedule(&Op::Sleep { length_ms: u64::MAX }, at(41)).unwrap();
    assert!(m.poll_step(absurd).unwrap().unwrap().is_err());
    assert!(m.patched("p", at(42)).unwrap());
    m.request_cancel(None, at(43));
    m.finish(Err(Failure::new(FailureKind::Cancelled, "stopped")), at(44)).unwrap();
    save(&mut m)
}

/// A run that asked a person, failed, was taken up again and moved.
fn second_life() -> Vec<Row> {
    let at = |millis| START.after(millis);
    let row = |m: &mut Machine| {
        let Unsaved { first, count, bytes, head } = m.take_unsaved().unwrap();
        Row { first, count, bytes, head }
    };
    let ask = Op::Ask {
        question: Question { prompt: "Ship it?".to_owned(), schema: None, choices: vec![], details: None },
        timeout_ms: None,
    };
    let mut m = Machine::start(started(), START);
    let question = m.schedule(&ask, at(1)).unwrap();
    let by = Some("ada".to_owned());
    assert!(m.answer(question, Ok(json("true")), by, Some("looks good".to_owned()), at(2)));
    let call = m.schedule(&small_request(), at(3)).unwrap();
    let busy = Failure::new(FailureKind::Unavailable, "busy");
    m.complete(call, Err(busy.clone()), at(4));
    m.poll_step(call).unwrap();
    m.finish(Err(busy), at(5)).unwrap();
    let mut rows = vec![row(&mut m)];
    let mut journal = Journal::read(rows.clone()).unwrap();
    let retry = wfhost_core::plan_retry(&journal, None, false).unwrap();
    rows.push(retry.append(&mut journal, 7, at(6)));
    let mut m = Machine::open(journal, wfhost_core::Given::default()).unwrap();
    m.move_to(Digest::of(b"another module"));
    m.schedule(&ask, at(7)).unwrap();
    let call = m.schedule(&small_request(), at(7)).unwrap();
    m.take_work(at(8));
    m.complete(call, Ok(json("1")), at(9));
    m.poll_step(call).unwrap();
    m.finish(Ok(json("1")), at(10)).unwrap();
    rows.push(row(&mut m));
    rows
}

/// Calls that failed, waited, were put to a person and cost something.
fn attempts() -> Vec<Row> {
    let at = |millis| START.after(millis);
    let config = RunConfig {
        budget: Some(Budget { tokens: Some(100), micros: None, time_ms: Some(60_000) }),
        max_parallel: Some(4),
        ..started().config
    };
    let mut m = Machine::start(Started { config, ..started() }, START);
    let paid = m.schedule(&small_request(), at(1)).unwrap();
    let asked = m.schedule(&full_request(), at(1)).unwrap();
    m.take_work(at(2));
    assert!(m.postpone(paid, at(20), "waiting for quota of openai".to_owned(), at(3)));
    m.fire_timers(at(20));
    m.take_work(at(20));
    let usage = Usage { input_tokens: 30, output_tokens: 5, cached_tokens: 10, cost_micros: 70 };
    let failed = FailedCall {
        step: paid,
        attempt: 1,
        provider: "openai".to_owned(),
        failure: Failure::new(FailureKind::Unavailable, "busy"),
        auth: false,
        again_at: Some(at(40)),
        usage: Some(usage),
        heartbeat: Some(json(r#"{"page":3}"#)),
        timing: None,
    };
    assert!(m.fail_attempt(failed, at(30)));
    let question = Question {
        prompt: "Cats?".to_owned(),
        schema: Some(json(r#"{"type":"string"}"#)),
        choices: vec!["yes".to_owned()],
        details: Some(json("1")),
    };
    assert!(m.delegate(asked, "human".to_owned(), question, Some(at(90_001)), at(31)));
    assert!(m.answer(asked, Ok(json("\"yes\"")), Some("ada".to_owned()), None, at(32)));
    m.fire_timers(at(40));
    m.take_work(at(40));
    assert!(m.change_budget(Budget { tokens: Some(500), micros: Some(9), time_ms: None }, at(41)));
    let refused = FailedCall {
        step: paid,
        attempt: 2,
        provider: "openai".to_owned(),
        failure: Failure::new(FailureKind::Rejected, "no key"),
        auth: true,
        again_at: None,
        usage: None,
        heartbeat: None,
        timing: None,
    };
    assert!(m.fail_attempt(refused, at(42)));
    m.complete(paid, Err(Failure::new(FailureKind::Rejected, "no key")), at(42));
    assert!(m.poll_step(paid).unwrap().is_some() && m.poll_step(asked).unwrap().is_some());
    m.finish(Ok(json("1")), at(43)).unwrap();
    let Unsaved { first, count, bytes, head } = m.take_unsaved().unwrap();
    vec![Row { first, count, bytes, head }]
}

/// A child that is a later round of its kind, has a child, was forked, and continues as new.
fn family() -> Vec<Row> {
    let at = |millis| START.after(millis);
    let id = |text: &str| text.parse().unwrap();
    let spent = Spent { tokens: 35, micros: 70, time_ms: 9 };
    let first = id("run-golden.1");
    let started = Started {
        child: Some(ChildOf {
            step: Step(1),
            root: id("run-golden"),
            depth: 1,
            on_close: OnParentClose::Abandon,
        }),
        origin: Some(Origin::Continued { from: id("run-golden.1-2"), first, round: 3, spent }),
        config: RunConfig { modules: Some("/modules".to_owned()), ..started().config },
        ..started()
    };
    let mut m = Machine::start(started, START);
    let child = Op::Child { module: "m".to_owned(), input: json("1"), options: None };
    let step = m.schedule(&child, at(1)).unwrap();
    assert_eq!(m.take_children().len(), 1);
    let grandchild = m.run().child(step);
    assert!(m.end_child(step, grandchild, Ok(json("2")), spent, at(2)));
    assert!(m.poll_step(step).unwrap().is_some());
    let wait = m.schedule(&Op::Signal { name: "go".to_owned(), timeout_ms: None }, at(2)).unwrap();
    assert!(m.receive("go".to_owned(), json("4"), None, at(2)));
    m.drop_step(wait, at(2)).unwrap();
    assert!(m.fork(id("fork"), [9; 32], at(3)));
    m.schedule(&Op::ContinueAsNew { input: json("3") }, at(4)).unwrap();
    assert!(m.continue_as(id("fork-2"), at(5)));
    let Unsaved { first, count, bytes, head } = m.take_unsaved().unwrap();
    vec![Row { first, count, bytes, head }]
}

#[test]
fn a_golden_family_replays() {
    let mut m =
        Machine::open(Journal::read(rows::read(FAMILY)).unwrap(), wfhost_core::Given::default()).unwrap();
    let child = Op::Child { module: "m".to_owned(), input: json("1"), options: None };
    let step = m.schedule(&child, START).unwrap();
    assert_eq!(m.poll_step(step), Ok(Some(Ok(json("2")))));
    assert_eq!(m.observed().spent().tokens, 70);
    let wait = m.schedule(&Op::Signal { name: "go".to_owned(), timeout_ms: None }, START).unwrap();
    m.drop_step(wait, START).unwrap();
    let step = m.schedule(&Op::ContinueAsNew { input: json("3") }, START).unwrap();
    assert!(m.poll_step(step).is_err());
    assert_eq!((m.run().as_str(), m.continued_as().map(RunId::as_str)), ("fork", Some("fork-2")));
    assert_eq!((m.child(), m.parent()), (None, None));
    assert_eq!(m.idempotency_key(Step(1)), "wf-abb605062169979c39f77fd5e53f62a3");
    assert!(!m.has_unsaved());
}

#[test]
fn golden_files_are_written_only_on_request() {
    let every_kind = rows::rows(&every_kind(), &[1, 13, 7, 14, 2]);
    let all = [
        (EVERY_KIND, every_kind),
        (CONVERSATION, conversation()),
        (SECOND_LIFE, second_life()),
        (ATTEMPTS, attempts()),
        (FAMILY, family()),
        (SANDBOX, sandbox()),
    ];
    for (name, rows) in all {
        let path = rows::path(name);
        if std::env::var_os("WFHOST_WRITE_GOLDEN").is_some() && !path.exists() {
            fs::write(path, rows::write(&rows)).unwrap();
        } else {
            assert_eq!(fs::read_to_string(path).unwrap(), rows::write(&rows), "{name}");
        }
    }
}

#[test]
fn a_golden_journal_reads_as_what_it_meant() {
    let journal = Journal::read(rows::read(EVERY_KIND)).unwrap();
    assert_eq!(journal.entries, every_kind());
    let recorded = journal.entries.iter().zip(0..).filter_map(|(entry, position)| match &entry.event {
        Event::Scheduled { op, .. } => Some(decode_op(op, Position(position)).unwrap()),
        _ => None,
    });
    assert_eq!(recorded.take(ops().len()).collect::<Vec<_>>(), ops());
}

#[test]
fn a_golden_journal_is_written_again_byte_for_byte() {
    for name in [EVERY_KIND, CONVERSATION, SECOND_LIFE, ATTEMPTS, FAMILY, SANDBOX] {
        let rows = rows::read(name);
        let journal = Journal::read(rows.clone()).unwrap();
        let counts: Vec<_> = rows.iter().map(|row| row.count as usize).collect();
        assert_eq!(rows::rows(&journal.entries, &counts), rows, "{name}");
    }
}

#[test]
fn a_golden_sandbox_reads_as_what_it_meant() {
    let journal = Journal::read(rows::read(SANDBOX)).unwrap();
    assert_eq!(journal.entries[0].event, Event::Started(Box::new(started_in_sandbox())));
}

#[test]
fn a_golden_journal_replays() {
    let journal = Journal::read(rows::read(EVERY_KIND)).unwrap();
    let head = journal.head;
    let mut m = Machine::open(journal, wfhost_core::Given::default()).unwrap();
    act(&mut m);
    assert!(m.is_live() && !m.has_unsaved());
    assert_eq!(m.take_work(START), []);
    assert_eq!((m.head(), m.observed().now()), (head, START.after(10 * (m.entries() - 1))));
}

#[test]
fn a_machine_writes_the_bytes_of_the_golden_conversation() {
    assert_eq!(conversation(), rows::read(CONVERSATION));
}

#[test]
fn a_golden_second_life_replays() {
    let mut m = Machine::open(Journal::read(rows::read(SECOND_LIFE)).unwrap(), wfhost_core::Given::default())
        .unwrap();
    let op = |position: usize| {
        let rows = Journal::read(rows::read(SECOND_LIFE)).unwrap();
        let Event::Scheduled { op, .. } = &rows.entries[position].event else { panic!("an operation") };
        decode_op(op, Position(position as u64)).unwrap()
    };
    let question = m.schedule(&op(1), START).unwrap();
    assert_eq!(m.poll_step(question), Ok(Some(Ok(json("true")))));
    let call = m.schedule(&op(3), START).unwrap();
    assert_eq!(m.poll_step(call), Ok(Some(Ok(json("1")))));
    m.finish(Ok(json("1")), START).unwrap();
    assert!(m.is_live() && !m.has_unsaved());
    assert_eq!(m.module(), Digest::of(b"another module"));
}

#[test]
fn golden_attempts_replay_with_what_they_cost() {
    let journal = Journal::read(rows::read(ATTEMPTS)).unwrap();
    let kinds: Vec<_> = journal.entries.iter().map(|entry| entry.event.kind()).collect();
    for kind in ["attempt-failed", "postponed", "delegated", "budget-changed"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    let mut m = Machine::open(journal, wfhost_core::Given::default()).unwrap();
    let paid = m.schedule(&small_request(), START).unwrap();
    let asked = m.schedule(&full_request(), START).unwrap();
    assert!(m.poll_step(paid).unwrap().unwrap().is_err());
    let reply = json(r#"{"output":"yes","provider":"human"}"#);
    assert_eq!(m.poll_step(asked), Ok(Some(Ok(reply))));
    let (budget, spent) = (m.observed().budget(), m.observed().spent());
    assert_eq!((budget.tokens, spent.tokens, spent.micros), (Some(500), 35, 70));
    m.finish(Ok(json("1")), START).unwrap();
    assert!(m.is_live() && !m.has_unsaved());
}

/// Seeds and keys are derived so for ever, too: a run goes on under a later version.
#[test]
fn what_is_derived_from_the_seed_stays() {
    let mut m = Machine::start(started(), START);
    let mut bytes = [0; 16];
    m.random(&mut bytes);
    assert_eq!(rows::hex(&bytes), "c4ae05efbb0ae8a1ac8b3a2fe2b70981");
    assert_eq!(m.idempotency_key(Step(1)), "wf-b3a4974f4cc0341b6ffae81e5235899b");
}
