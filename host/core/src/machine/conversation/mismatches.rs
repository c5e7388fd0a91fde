//! Programs that diverge from their journal.

use super::*;

/// Has the machine replay the journal of `first` while the program acts as in
/// `then`, whose last act must be refused with this text. Nothing is executed
/// and the journal stays as it is.
#[track_caller]
fn refused<R>(first: impl Fn(&mut Talk) -> R, then: impl Fn(&mut Talk) -> Stop, text: &str) -> Mismatch {
    let mut t = Talk::start();
    first(&mut t);
    let mut again = Talk {
        m: Machine::open(t.journal(), Given::default()).unwrap(),
        rows: vec![],
        clock: t.clock,
        given: Given::default(),
    };
    let stop = then(&mut again);
    assert_eq!(stop.to_string(), text);
    again.silent();
    assert_eq!(again.work(), [""; 0]);
    assert_eq!(again.m.schedule(&agent("anything"), t.clock), Err(stop.clone()), "it is final");
    match stop {
        Stop::Mismatch(mismatch) => *mismatch,
        other => panic!("no mismatch: {other:?}"),
    }
}

fn ask(t: &mut Talk, op: Op) -> Stop {
    t.m.schedule(&op, t.clock).unwrap_err()
}

fn with_options(options: Value) -> Op {
    let options = Some(Json::from(options));
    Op::Agent(Box::new(AgentRequest { prompt: "greet".to_owned(), options, ..Default::default() }))
}

#[test]
fn another_prompt() {
    let found = refused(
        |t| t.agent("greet Ada"),
        |t| ask(t, agent("greet Bob")),
        r#"entry 1 has agent with prompt "greet Ada", the program asks for agent with prompt "greet Bob""#,
    );
    assert_eq!(
        found,
        Mismatch {
            position: Position(1),
            recorded: "agent".to_owned(),
            asked: "agent".to_owned(),
            field: Some("prompt".to_owned()),
            recorded_value: json!("greet Ada"),
            asked_value: json!("greet Bob"),
        }
    );
}

#[test]
fn another_field_deep_in_the_options() {
    refused(
        |t| t.ask(with_options(json!({"tools": [{"name": "read"}, {"name": "write"}]}))),
        |t| ask(t, with_options(json!({"tools": [{"name": "read"}, {"name": "exec"}]}))),
        r#"entry 1 has agent with options.tools[1].name "write", the program asks for agent with options.tools[1].name "exec""#,
    );
    refused(
        |t| t.ask(with_options(json!({}))),
        |t| ask(t, with_options(json!({"seed": 1}))),
        "entry 1 has agent with options.seed null, the program asks for agent with options.seed 1",
    );
}

#[test]
fn json_that_means_the_same_is_no_mismatch() {
    let text = |text: &str| {
        Op::Agent(Box::new(AgentRequest {
            prompt: "greet".to_owned(),
            options: Some(Json::parse(text.to_owned()).unwrap()),
            ..Default::default()
        }))
    };
    let mut t = Talk::start();
    let step = t.ask(text(r#"{"a":1,"b":[true]}"#));
    t.answer(step, "hello");
    t.m.finish(Ok(Json::parse(r#"{"x":1,"y":2}"#.to_owned()).unwrap()), t.clock).unwrap();
    t.reopen();
    let step = t.ask(text(r#"{ "b": [true], "c": null, "a": 1 }"#));
    assert_eq!(t.got(step), said("hello"));
    t.m.finish(Ok(Json::parse(r#"{"y":2, "x":1, "z":null}"#.to_owned()).unwrap()), t.clock).unwrap();
    t.nothing_left();
}

#[test]
fn another_kind() {
    refused(
        |t| t.agent("greet Ada"),
        |t| ask(t, sleep(1_500)),
        "entry 1 has agent greet Ada, the program asks for sleep 1.5s",
    );
    refused(
        |t| t.ask(signal("go")),
        |t| ask(t, agent("greet Ada")),
        "entry 1 has signal go, the program asks for agent greet Ada",
    );
    refused(
        |t| t.ask(sleep(5)),
        |t| ask(t, Op::SleepUntil { at: 5 }),
        "entry 1 has sleep 5ms, the program asks for sleep until 5",
    );
}

#[test]
fn another_order() {
    let text = r#"entry 1 has agent with prompt "a", the program asks for agent with prompt "b""#;
    let first = |t: &mut Talk| {
        t.agent("a");
        t.agent("b");
    };
    refused(first, |t| ask(t, agent("b")), text);
}

#[test]
fn a_missing_call() {
    refused(
        |t| {
            let step = t.agent("one");
            t.answer(step, "x");
            t.see(step);
            t.agent("two");
        },
        |t| {
            let step = t.agent("one");
            t.see(step);
            t.m.finish(said("done"), t.clock).unwrap_err()
        },
        "entry 3 has agent two, the program asks for return of a result",
    );
}

#[test]
fn one_more_call_than_there_was() {
    refused(
        |t| {
            t.agent("one");
            t.finish("done");
        },
        |t| {
            t.agent("one");
            ask(t, agent("two"))
        },
        "entry 2 has return of a result, the program asks for agent two",
    );
}

#[test]
fn another_result() {
    refused(
        |t| t.finish(json!({"sum": [1, 2]})),
        |t| t.m.finish(said(json!({"sum": [1, 3]})), t.clock).unwrap_err(),
        "entry 1 has return with result.sum[1] 2, the program asks for return with result.sum[1] 3",
    );
    refused(
        |t| t.m.finish(failed(FailureKind::Failed, "a"), t.clock).unwrap(),
        |t| t.m.finish(failed(FailureKind::Failed, "b"), t.clock).unwrap_err(),
        r#"entry 1 has return with failure.message "a", the program asks for return with failure.message "b""#,
    );
}

#[test]
fn a_failure_instead_of_a_result() {
    refused(
        |t| t.finish(Value::Null),
        |t| t.m.finish(failed(FailureKind::Failed, "a"), t.clock).unwrap_err(),
        "entry 1 has return of a result, the program asks for return of a failure (failed: a)",
    );
    refused(
        |t| t.m.finish(failed(FailureKind::Failed, "a"), t.clock).unwrap(),
        |t| t.m.finish(said(1), t.clock).unwrap_err(),
        "entry 1 has return of a failure (failed: a), the program asks for return of a result",
    );
}

#[test]
fn waiting_where_it_went_on_before() {
    let text = "entry 2 has agent two, the program asks for wait for a step that was not done then";
    let first = |t: &mut Talk| {
        t.agent("one");
        t.agent("two");
    };
    let wait = |t: &mut Talk| {
        let step = t.agent("one");
        t.m.poll_step(step).unwrap_err()
    };
    refused(first, wait, text);
    // Though the step was done later in the journal: which it is must not
    // depend on how soon the answer comes.
    let answered = |t: &mut Talk| {
        first(t);
        t.answer(Step(1), "x");
        t.see(Step(1));
    };
    refused(answered, wait, text);
    refused(
        answered,
        |t| {
            let step = t.agent("one");
            t.m.poll_any(&[step]).unwrap_err()
        },
        text,
    );
    refused(
        answered,
        |t| {
            let step = t.agent("one");
            let set = t.m.set_new();
            t.m.set_add(set, step, 1).unwrap();
            t.m.poll_set(set).unwrap_err()
        },
        text,
    );
}

#[test]
fn dropping_another_step() {
    let first = |t: &mut Talk| {
        let one = t.agent("one");
        t.agent("two");
        t.drop(one);
    };
    refused(
        first,
        |t| {
            t.agent("one");
            let two = t.agent("two");
            t.m.drop_step(two, t.clock).unwrap_err()
        },
        "entry 3 has cancel of step 1, the program asks for cancel of step 2",
    );
    refused(
        first,
        |t| {
            t.agent("one");
            t.agent("two");
            ask(t, agent("three"))
        },
        "entry 3 has cancel of step 1, the program asks for agent three",
    );
}

#[test]
fn dropping_a_step_earlier_than_before() {
    let text = "entry 2 has agent two, the program asks for cancel of step 1";
    let early = |t: &mut Talk| {
        let one = t.agent("one");
        t.m.drop_step(one, t.clock).unwrap_err()
    };
    let first = |t: &mut Talk| {
        let one = t.agent("one");
        t.agent("two");
        t.drop(one);
    };
    refused(first, early, text);
    let answered = |t: &mut Talk| {
        t.agent("one");
        t.agent("two");
        t.answer(Step(1), "x");
    };
    refused(answered, early, text);
}

#[test]
fn a_patched_place_that_is_gone() {
    refused(
        |t| {
            t.patched("faster");
            t.agent("new");
        },
        |t| ask(t, agent("new")),
        "entry 1 has patch faster, the program asks for agent new",
    );
}

#[test]
fn every_end_before_the_last_recorded_entry_is_non_determinism() {
    let waits_for_nothing: fn(&mut Talk) -> Stop = |t| t.m.poll_any(&[]).unwrap_err();
    let asks_too_much: fn(&mut Talk) -> Stop = |t| t.m.patched(&"x".repeat(1_000), DAWN).unwrap_err();
    for (end, how) in [
        (waits_for_nothing, "the program waits for nothing that could ever happen"),
        (asks_too_much, "the id of a patch has 1000 bytes"),
    ] {
        let mut t = Talk::start();
        t.agent("x");
        t.reopen();
        let stop = end(&mut t);
        let text = stop.to_string();
        assert!(matches!(stop, Stop::Mismatch(_)), "{text}");
        assert!(
            text.starts_with(&format!("entry 1 has agent x, the program asks for stop because {how}")),
            "{text}"
        );
        assert_eq!(t.m.poll_step(Step(1)), Err(stop), "it is final");
        t.silent();
    }
    // A trap is nothing that the machine sees; the driver asks.
    let mut t = Talk::start();
    let step = t.agent("x");
    t.reopen();
    let departure = t.m.departure("it trapped").expect("there is an entry left");
    assert_eq!(departure.position, Position(1));
    t.agent("x");
    assert_eq!(t.m.departure("it trapped"), None, "behind the last entry it may end as it likes");
    t.waits(step);
}

#[test]
fn a_program_that_was_stopped_may_end_so_again() {
    let mut t = Talk::start();
    let step = t.agent("x");
    t.answer(step, "X");
    t.see(step);
    t.m.terminate(Failure::new(FailureKind::Failed, "it trapped"), t.clock);
    t.reopen();
    assert_eq!(t.m.departure("it trapped").map(|found| found.position), Some(Position(1)));
    t.agent("x");
    t.see(step);
    assert_eq!(t.m.departure("it trapped"), None);
}

#[test]
fn an_operation_that_cannot_be_read_is_not_carried_out() {
    let scheduled = |op: Vec<u8>| Entry {
        at: DAWN,
        event: Event::Scheduled { step: Step(1), op: op.into() },
        behind_ms: None,
    };
    let first = Entry { at: DAWN, event: Event::Started(Box::new(started())), behind_ms: None };
    // The kind of a call, whose fields are nonsense; a forger got the chain right.
    let forged = vec![0x82, 0x00, 0x01];
    assert!(decode_op(&forged, Position(1)).is_err());
    let journal = Journal { entries: vec![first, scheduled(forged)], head: GENESIS };
    let mut m = Machine::open(journal, Given::default()).unwrap();
    let Err(Stop::Mismatch(found)) = m.schedule(&agent("x"), DAWN) else { panic!("it is accepted") };
    assert_eq!(found.recorded, "an operation");
    assert_eq!(m.take_work(DAWN), []);
}
