//! Questions to people.

use super::*;

fn ask(prompt: &str, timeout_ms: Option<u64>) -> Op {
    let question =
        crate::Question { prompt: prompt.to_owned(), schema: None, choices: vec![], details: None };
    Op::Ask { question, timeout_ms }
}

/// What changed in the list of questions, as `asked 1` and `closed 1`.
fn changes(t: &mut Talk) -> Vec<String> {
    let tell = |change| match change {
        QuestionChange::Asked { step, deadline: None, .. } => format!("asked {step}"),
        QuestionChange::Asked { step, deadline: Some(at), .. } => {
            format!("asked {step} until +{}", at.since(DAWN))
        }
        QuestionChange::Closed { step } => format!("closed {step}"),
    };
    t.m.take_questions().into_iter().map(tell).collect()
}

fn reply(t: &mut Talk, step: Step, outcome: Outcome) -> bool {
    t.m.answer(step, outcome, Some("ada".to_owned()), None, t.clock)
}

#[test]
fn an_answer_ends_a_question_once() {
    let mut t = Talk::start();
    let step = t.ask(ask("ship it?", None));
    assert_eq!(changes(&mut t), ["asked 1"]);
    assert_eq!(t.work(), [""; 0], "nothing is to be carried out");
    assert!(t.m.only_waits());
    t.waits(step);
    assert!(reply(&mut t, step, said("yes")));
    assert_eq!(changes(&mut t), ["closed 1"]);
    assert!(!reply(&mut t, step, said("no")), "a second answer is refused");
    assert_eq!(t.got(step), said("yes"));
    assert_eq!(t.told(), ["scheduled 1", "answered"]);
    t.reopen();
    assert_eq!(changes(&mut t), [""; 0], "nothing changes by reading");
    let step = t.ask(ask("ship it?", None));
    assert_eq!(t.got(step), said("yes"));
}

#[test]
fn an_open_question_is_known_after_a_crash() {
    let mut t = Talk::start();
    t.ask(ask("ship it?", Some(50)));
    assert_eq!(changes(&mut t), ["asked 1 until +50"]);
    t.reopen();
    let [QuestionChange::Asked { step, deadline, question, .. }] = &t.m.open_questions()[..] else {
        panic!("one question is open")
    };
    assert_eq!((*step, *deadline), (Step(1), Some(DAWN.after(50))));
    assert_eq!(question.prompt, "ship it?");
}

#[test]
fn an_answer_that_was_accepted_counts_whatever_this_clock_shows() {
    let mut t = Talk::start();
    let early = t.ask(sleep(20));
    let asked = t.ask(ask("in time?", Some(50)));
    let late = t.ask(sleep(90));
    t.m.fire_timers_before_answer(asked, DAWN.after(60));
    assert!(reply(&mut t, asked, said("yes")));
    assert_eq!((t.got(early), t.got(asked)), (Ok(Json::null()), said("yes")));
    t.waits(late);
}

#[test]
fn a_question_times_out_is_dropped_or_cancelled() {
    let mut t = Talk::start();
    let timed = t.ask(ask("in time?", Some(50)));
    let dropped = t.ask(ask("still?", None));
    let open = t.ask(ask("or this?", None));
    t.pass(50);
    assert_eq!(t.got(timed), failed(FailureKind::TimedOut, "nobody answered within 50ms"));
    t.drop(dropped);
    t.cancel();
    assert!(matches!(t.got(open), Err(Failure { kind: FailureKind::Cancelled, .. })));
    assert_eq!(changes(&mut t)[3..], ["closed 1", "closed 2", "closed 3"]);
    assert!(!reply(&mut t, open, said("late")));
    let agent = t.agent("no question");
    assert!(!reply(&mut t, agent, said("x")), "only questions are answered");
    t.ask(ask("the last?", None));
    t.finish(1);
    assert_eq!(changes(&mut t), ["asked 5", "closed 5"], "the end closes what is open");
}
