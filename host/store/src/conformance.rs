//! The store's contract as tests, run over every implementation.

use std::sync::Arc;

use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{
    ChildOf, Digest, Epoch, Event, Failure, FailureKind, Json, Machine, OnParentClose, Origin, Outcome,
    Position, Row, RunConfig, RunId, Started, Step, Timestamp,
};

use super::*;

const LEASE: u64 = 1_000;

fn stores() -> Vec<(SharedStore, Option<tempfile::TempDir>)> {
    let dir = tempfile::TempDir::new().unwrap();
    let sqlite = SqliteStore::open(&dir.path().join("w.db"), &SqliteOptions::default()).unwrap();
    vec![(Arc::new(MemStore::default()), None), (Arc::new(sqlite), Some(dir))]
}

fn id(text: &str) -> RunId {
    text.parse().unwrap()
}

fn owner(pid: u32) -> Owner {
    Owner { host: "here/1".to_owned(), pid, started: 1 }
}

fn machine(run: &str, module: Digest) -> Machine {
    let started = Started {
        run: id(run),
        workflow: "w".to_owned(),
        module,
        input: Json::null(),
        seed: [7; 32],
        config: RunConfig::default(),
        labels: Vec::new(),
        parent: None,
        child: None,
        origin: None,
    };
    Machine::start(started, Timestamp(10))
}

fn row(machine: &mut Machine) -> Row {
    let wfhost_core::Unsaved { first, count, bytes, head } = machine.take_unsaved().unwrap();
    Row { first, count, bytes, head }
}

async fn create(store: &SharedStore, run: &str, key: Option<&str>) -> (Machine, Result<Created>) {
    let module = store.put_module("w", b"module").await.unwrap();
    let mut machine = machine(run, module);
    let rows = vec![row(&mut machine)];
    let new = NewRun {
        key: key.map(str::to_owned),
        labels: vec![("run".to_owned(), run.to_owned())],
        lease: Some((owner(1), Timestamp(10 + LEASE))),
        ..NewRun::new(&machine, rows)
    };
    (machine, store.create(new).await)
}

fn append(run: &str, row: Option<Row>) -> Append {
    Append { row, ..Append::new(id(run), Epoch(1), Timestamp(20), Next::Go) }
}

fn claim<'a>(run: &'a RunId, owner: &'a Owner, now: u64, dead: Option<&'a Owner>) -> Claim<'a> {
    Claim { run, owner, now: Timestamp(now), until: Timestamp(now + LEASE), dead, how: ClaimHow::Asked }
}

fn signal(name: &str, id: Option<&str>) -> MessageBody {
    MessageBody::Signal { name: name.to_owned(), payload: Json::null(), id: id.map(str::to_owned) }
}

async fn post(store: &SharedStore, run: &str, body: MessageBody) -> Posted {
    store.post(NewMessage { run: id(run), at: Timestamp(30), body }).await.unwrap()
}

#[tokio::test]
async fn modules_are_kept_by_digest() {
    for (store, _dir) in stores() {
        let digest = store.put_module("a", b"one").await.unwrap();
        assert_eq!(digest, Digest::of(b"one"));
        assert_eq!(store.put_module("b", b"one").await.unwrap(), digest);
        store.put_module("a", b"two").await.unwrap();
        assert_eq!(store.module(digest).await.unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(store.module(Digest::of(b"none")).await.unwrap(), None);
        let names: Vec<_> = store.modules().await.unwrap().into_iter().map(|m| (m.name, m.bytes)).collect();
        assert_eq!(names, [("a".to_owned(), 3), ("a".to_owned(), 3)]);
    }
}

#[tokio::test]
async fn a_key_gives_the_same_run_and_an_id_is_taken_once() {
    for (store, _dir) in stores() {
        assert_eq!(create(&store, "a", Some("k")).await.1.unwrap(), Created::New);
        assert_eq!(create(&store, "b", Some("k")).await.1.unwrap(), Created::Known(id("a")));
        assert_eq!(create(&store, "a", None).await.1, Err(StoreError::IdTaken { id: id("a") }));
        assert_eq!(store.runs(RunFilter::default()).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_journal_comes_back_as_it_was_appended() {
    for (store, _dir) in stores() {
        let (mut machine, _) = create(&store, "r", None).await;
        assert!(machine.receive("s".to_owned(), Json::null(), None, Timestamp(20)));
        store.append(append("r", Some(row(&mut machine)))).await.unwrap();
        let journal =
            wfhost_core::Journal::read(store.journal(&id("r"), Position(0)).await.unwrap()).unwrap();
        assert_eq!(journal.head, machine.head());
        assert!(matches!(journal.entries[1].event, Event::Received { .. }));
        let info = store.run(&id("r")).await.unwrap().unwrap();
        assert_eq!((info.entries, info.updated_at), (Position(2), Timestamp(20)));
    }
}

#[tokio::test]
async fn a_stale_epoch_or_position_appends_nothing() {
    for (store, _dir) in stores() {
        let (mut machine, _) = create(&store, "r", None).await;
        machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
        let first = row(&mut machine);
        let fenced = Err(StoreError::Fenced { run: id("r") });
        let stale = Append { epoch: Epoch(2), ..append("r", Some(first.clone())) };
        assert_eq!(store.append(stale).await, fenced);
        let gap = Row { first: Position(5), ..first.clone() };
        assert_eq!(store.append(append("r", Some(gap))).await, fenced);
        let place = store.append(append("r", Some(first.clone()))).await.unwrap().place;
        // The same once more: the position has passed.
        for after in [None, place] {
            let again = Append { after, ..append("r", Some(first.clone())) };
            assert_eq!(store.append(again.clone()).await, fenced);
            assert_eq!(store.append(Append { epoch: Epoch(2), row: None, ..again }).await, fenced);
        }
        // A place that is another run's, or nobody's, is looked up.
        create(&store, "other", None).await.1.unwrap();
        let other = store.append(append("other", None)).await.unwrap().place;
        for after in [other, Some(1_000)] {
            machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
            let next = Append { after, ..append("r", Some(row(&mut machine))) };
            assert!(store.append(next).await.unwrap().place > place);
        }
        assert_eq!(store.journal(&id("r"), Position(0)).await.unwrap().len(), 4);
        store.release(&id("r"), Epoch(1), None).await.unwrap();
        assert_eq!(store.append(append("r", None)).await, fenced);
    }
}

#[tokio::test]
async fn a_run_has_one_owner_at_a_time() {
    for (store, _dir) in stores() {
        create(&store, "r", None).await.1.unwrap();
        let run = id("r");
        let (first, second) = (owner(1), owner(2));
        let held = Claimed::Held { owner: first.clone(), until: Timestamp(10 + LEASE) };
        assert_eq!(store.claim(claim(&run, &second, 500, None)).await.unwrap(), held);
        // Another dead process is no reason.
        assert_eq!(store.claim(claim(&run, &second, 500, Some(&owner(3)))).await.unwrap(), held);
        let module = Digest::of(b"module");
        let taken = |epoch, starts| Claimed::Yes { epoch: Epoch(epoch), emissions: 0, starts, module };
        assert_eq!(store.claim(claim(&run, &second, 500, Some(&first))).await.unwrap(), taken(2, 1));
        assert_eq!(
            store.renew(&[(run.clone(), Epoch(1))], Timestamp(9_000)).await.unwrap(),
            vec![run.clone()]
        );
        assert!(store.renew(&[(run.clone(), Epoch(2))], Timestamp(9_000)).await.unwrap().is_empty());
        // The lease runs out.
        assert!(matches!(store.claim(claim(&run, &first, 8_999, None)).await.unwrap(), Claimed::Held { .. }));
        assert_eq!(store.claim(claim(&run, &first, 9_000, None)).await.unwrap(), taken(3, 2));
        assert_eq!(store.claim(claim(&id("x"), &first, 0, None)).await.unwrap(), Claimed::NoSuchRun);
    }
}

#[tokio::test]
async fn parking_looks_for_what_came_in() {
    for (store, _dir) in stores() {
        create(&store, "r", None).await.1.unwrap();
        let waiting = Waiting { until: Some(Timestamp(99)), signals: vec!["go".to_owned()], people: false };
        let park = || Append { next: Next::Park(waiting.clone()), ..append("r", None) };
        assert_eq!(post(&store, "r", signal("go", None)).await, Posted::Added);
        assert!(store.append(park()).await.unwrap().due);
        assert_eq!(store.run(&id("r")).await.unwrap().unwrap().state, RunState::Running);
        let message = store.inbox(&id("r")).await.unwrap()[0].id;
        store.append(Append { consumed: vec![message], ..append("r", None) }).await.unwrap();
        // A signal that it does not wait for.
        assert_eq!(post(&store, "r", signal("other", None)).await, Posted::Added);
        assert!(!store.append(park()).await.unwrap().due);
        let info = store.run(&id("r")).await.unwrap().unwrap();
        assert_eq!((info.state, info.waiting, info.lease), (RunState::Waiting, Some(waiting.clone()), None));
        assert_eq!(store.inbox(&id("r")).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_request_to_stop_always_wakes() {
    for (store, _dir) in stores() {
        create(&store, "r", None).await.1.unwrap();
        assert_eq!(post(&store, "r", MessageBody::Cancel { reason: None }).await, Posted::Added);
        let park = Append { next: Next::Park(Waiting::default()), ..append("r", None) };
        assert!(store.append(park).await.unwrap().due);
    }
}

#[tokio::test]
async fn a_signal_with_an_id_is_delivered_once_for_the_life_of_the_run() {
    for (store, _dir) in stores() {
        create(&store, "r", None).await.1.unwrap();
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Added);
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Duplicate);
        let message = store.inbox(&id("r")).await.unwrap()[0].id;
        store.append(Append { consumed: vec![message], ..append("r", None) }).await.unwrap();
        assert!(store.inbox(&id("r")).await.unwrap().is_empty());
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Duplicate);
        let end = Next::End { outcome: Ok(Json::null()), spent: Spent::default() };
        store.append(Append { next: end, ..append("r", None) }).await.unwrap();
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Duplicate);
        assert_eq!(post(&store, "r", signal("s", Some("2"))).await, Posted::Ended);
        assert_eq!(post(&store, "x", signal("s", None)).await, Posted::NoSuchRun);
    }
}

#[tokio::test]
async fn what_a_program_gives_out_is_stored_once() {
    for (store, _dir) in stores() {
        create(&store, "r", None).await.1.unwrap();
        let log = |number, message: &str| {
            Emission::Log(LogLine {
                number,
                at: Timestamp(1),
                level: LogLevel::Info,
                message: message.to_owned(),
                fields: vec![("k".to_owned(), "v".to_owned())],
            })
        };
        let state = |value: &str| Emission::State {
            key: "k".to_owned(),
            value: Json::string(value),
            at: Timestamp(1),
        };
        let phase = Emission::Phase { title: "p".to_owned(), at: Timestamp(1) };
        let first = vec![log(0, "a"), state("one"), phase];
        store.append(Append { emissions: first.clone(), ..append("r", None) }).await.unwrap();
        // Numbers 1 to 3, of which 1 and 2 are there.
        let again = vec![state("old"), log(2, "twice"), log(3, "b")];
        store.append(Append { first_emission: 1, emissions: again, ..append("r", None) }).await.unwrap();
        let lines = store.logs(&id("r"), 0, 10).await.unwrap();
        let lines: Vec<_> = lines.into_iter().map(|line| (line.number, line.message)).collect();
        assert_eq!(lines, [(0, "a".to_owned()), (2, "phase: p".to_owned()), (3, "b".to_owned())]);
        assert_eq!(store.state(&id("r")).await.unwrap(), [("k".to_owned(), Json::string("one"))]);
        let two = vec![state("two")];
        store.append(Append { first_emission: 4, emissions: two, ..append("r", None) }).await.unwrap();
        assert_eq!(store.state(&id("r")).await.unwrap(), [("k".to_owned(), Json::string("two"))]);
        let history = store.published(&id("r"), Some("k")).await.unwrap();
        let history: Vec<_> = history.into_iter().map(|value| (value.number, value.value)).collect();
        assert_eq!(history, [(1, Json::string("one")), (4, Json::string("two"))]);
        assert_eq!(store.published(&id("r"), Some("other")).await.unwrap(), []);
        assert_eq!(store.run(&id("r")).await.unwrap().unwrap().phase.as_deref(), Some("p"));
    }
}

#[tokio::test]
async fn an_ended_run_stays_ended() {
    let failure = |kind| Err::<Json, _>(Failure::new(kind, "m"));
    let cases: [(Outcome, RunState); 3] = [
        (Ok(Json::null()), RunState::Completed),
        (failure(FailureKind::Failed), RunState::Failed),
        (failure(FailureKind::Cancelled), RunState::Cancelled),
    ];
    for (outcome, state) in cases {
        for (store, _dir) in stores() {
            create(&store, "r", None).await.1.unwrap();
            let end = Next::End { outcome: outcome.clone(), spent: Spent::default() };
            store.append(Append { next: end, ..append("r", None) }).await.unwrap();
            let info = store.run(&id("r")).await.unwrap().unwrap();
            assert_eq!((info.state, info.outcome, info.lease), (state, Some(outcome.clone()), None));
            let claimed = store.claim(claim(&id("r"), &owner(2), 99_999, None)).await.unwrap();
            assert_eq!(claimed, Claimed::Ended);
        }
    }
}

#[tokio::test]
async fn runs_are_listed_newest_first_by_filters_and_pages() {
    for (store, _dir) in stores() {
        for run in ["a1", "a2", "b1"] {
            create(&store, run, None).await.1.unwrap();
        }
        let list = async |filter| {
            let runs = store.runs(filter).await.unwrap();
            runs.into_iter().map(|info| info.id.to_string()).collect::<Vec<_>>()
        };
        let all = RunFilter::default;
        assert_eq!(list(all()).await, ["b1", "a2", "a1"]);
        assert_eq!(list(RunFilter { before: Some(id("a2")), ..all() }).await, ["a1"]);
        assert_eq!(list(RunFilter { prefix: Some("a".to_owned()), limit: 1, ..all() }).await, ["a2"]);
        assert_eq!(
            list(RunFilter { labels: vec![("run".to_owned(), "a1".to_owned())], ..all() }).await,
            ["a1"]
        );
        assert!(list(RunFilter { states: vec![RunState::Waiting], ..all() }).await.is_empty());
        assert!(list(RunFilter { workflow: Some("x".to_owned()), ..all() }).await.is_empty());
    }
}

/// Parks the run that process 1 advances.
async fn park(store: &SharedStore, run: &str, until: Option<u64>, signals: &[&str]) {
    let signals = signals.iter().map(|&name| name.to_owned()).collect();
    let waiting = Waiting { until: until.map(Timestamp), signals, people: false };
    let park = Append { next: Next::Park(waiting), ..append(run, None) };
    assert!(!store.append(park).await.unwrap().due);
}

async fn due(store: &SharedStore, now: u64) -> Vec<String> {
    store.due(Timestamp(now), 10).await.unwrap().into_iter().map(|run| run.to_string()).collect()
}

#[tokio::test]
async fn what_is_due_is_found_in_the_order_of_its_time() {
    for (store, _dir) in stores() {
        for (run, until) in [("late", Some(300)), ("soon", Some(200)), ("never", None), ("held", None)] {
            create(&store, run, None).await.1.unwrap();
            if run != "held" {
                park(&store, run, until, &["go"]).await;
            }
        }
        assert!(due(&store, 100).await.is_empty());
        assert_eq!(store.next_due(Timestamp(100)).await.unwrap(), Some(Timestamp(200)));
        assert_eq!(due(&store, 200).await, ["soon"]);
        assert_eq!(due(&store, 300).await, ["soon", "late"]);
        post(&store, "never", signal("other", None)).await;
        assert_eq!(due(&store, 300).await, ["soon", "late"]);
        post(&store, "never", signal("go", None)).await;
        assert_eq!(due(&store, 300).await, ["never", "soon", "late"]);
        // A lease that is over is due like everything else.
        assert_eq!(due(&store, 10 + LEASE).await, ["never", "soon", "late", "held"]);
        assert_eq!(store.owners().await.unwrap(), [owner(1)]);
        assert_eq!(store.owned(&owner(1)).await.unwrap(), [id("held")]);
    }
}

#[tokio::test]
async fn what_has_begun_is_due_before_what_is_new() {
    for (store, _dir) in stores() {
        for run in ["new", "newer"] {
            let module = store.put_module("w", b"module").await.unwrap();
            let mut machine = machine(run, module);
            let rows = vec![row(&mut machine)];
            store.create(NewRun::new(&machine, rows)).await.unwrap();
        }
        create(&store, "begun", None).await.1.unwrap();
        park(&store, "begun", Some(200), &[]).await;
        assert_eq!(due(&store, 199).await, ["new", "newer"]);
        assert_eq!(store.next_due(Timestamp(199)).await.unwrap(), Some(Timestamp(200)));
        assert_eq!(due(&store, 200).await, ["begun", "new", "newer"]);
        assert_eq!(store.due(Timestamp(200), 1).await.unwrap(), [id("begun")]);
    }
}

#[tokio::test]
async fn a_claim_of_what_is_due_takes_nothing_else() {
    for (store, _dir) in stores() {
        create(&store, "r", None).await.1.unwrap();
        park(&store, "r", Some(500), &[]).await;
        let run = id("r");
        let second = owner(2);
        let at = |now| Claim { how: ClaimHow::Due, ..claim(&run, &second, now, None) };
        assert_eq!(store.claim(at(499)).await.unwrap(), Claimed::NotDue);
        assert!(matches!(store.claim(at(500)).await.unwrap(), Claimed::Yes { epoch: Epoch(2), .. }));
        store.release(&run, Epoch(2), Some("no room")).await.unwrap();
        let info = store.run(&run).await.unwrap().unwrap();
        assert_eq!((info.lease, info.trouble.as_deref()), (None, Some("no room")));
        assert_eq!(due(&store, 500).await, ["r"]);
        assert!(matches!(store.claim(at(500)).await.unwrap(), Claimed::Yes { epoch: Epoch(3), .. }));
        let info = store.run(&run).await.unwrap().unwrap();
        assert_eq!((info.lease, info.trouble), (Some((second.clone(), Timestamp(1_500))), None));
    }
}

#[tokio::test]
async fn only_a_claim_that_reopens_takes_a_run_that_failed() {
    for (store, _dir) in stores() {
        for (run, outcome, opens) in [
            ("failed", Err(Failure::new(FailureKind::Failed, "m")), true),
            ("stopped", Err(Failure::new(FailureKind::Cancelled, "m")), true),
            ("done", Ok(Json::null()), false),
        ] {
            create(&store, run, None).await.1.unwrap();
            let end = Next::End { outcome, spent: Spent::default() };
            store.append(Append { next: end, ..append(run, None) }).await.unwrap();
            let (run, second) = (id(run), owner(2));
            assert_eq!(store.claim(claim(&run, &second, 50, None)).await.unwrap(), Claimed::Ended);
            let again = Claim { how: ClaimHow::Reopen, ..claim(&run, &second, 50, None) };
            let claimed = store.claim(again).await.unwrap();
            assert_eq!(matches!(claimed, Claimed::Yes { .. }), opens, "{run}: {claimed:?}");
        }
    }
}

#[tokio::test]
async fn claims_without_progress_are_counted() {
    for (store, _dir) in stores() {
        let (mut machine, _) = create(&store, "r", None).await;
        let (run, owners) = (id("r"), [owner(1), owner(2)]);
        for epoch in 2..5 {
            let dead = &owners[epoch as usize % 2];
            let next = &owners[(epoch as usize + 1) % 2];
            store.renew(&[(run.clone(), Epoch(epoch - 1))], Timestamp(5_000)).await.unwrap();
            let claimed =
                store.claim(claim(&run, next, 20, Some(if epoch == 2 { &owners[0] } else { dead })));
            let Claimed::Yes { starts, .. } = claimed.await.unwrap() else { panic!("{epoch}") };
            assert_eq!(u64::from(starts), epoch - 1);
        }
        machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
        let row = row(&mut machine);
        store.append(Append { epoch: Epoch(4), ..append("r", Some(row)) }).await.unwrap();
        let claimed = store.claim(claim(&run, &owners[0], 9_000, None)).await.unwrap();
        assert!(matches!(claimed, Claimed::Yes { starts: 1, .. }), "{claimed:?}");
    }
}

#[tokio::test]
async fn a_paused_run_is_nobodys_until_somebody_asks() {
    for (store, _dir) in stores() {
        create(&store, "held", None).await.1.unwrap();
        create(&store, "free", None).await.1.unwrap();
        park(&store, "free", Some(50), &["go"]).await;
        // The one that is advanced is told; the other is paused on the spot.
        for run in ["held", "free"] {
            assert_eq!(post(&store, run, MessageBody::Pause).await, Posted::Added);
        }
        assert_eq!(store.inbox(&id("held")).await.unwrap()[0].body, MessageBody::Pause);
        assert!(store.inbox(&id("free")).await.unwrap().is_empty());
        store.append(Append { next: Next::Pause, ..append("held", None) }).await.unwrap();
        for run in ["held", "free"] {
            post(&store, run, signal("go", None)).await;
            assert_eq!(store.run(&id(run)).await.unwrap().unwrap().state, RunState::Paused);
        }
        assert!(due(&store, 9_000).await.is_empty());
        assert!(store.unpause(&id("free")).await.unwrap());
        assert!(!store.unpause(&id("free")).await.unwrap());
        assert_eq!(due(&store, 9_000).await, ["free"]);
    }
}

#[tokio::test]
async fn a_request_to_stop_reaches_a_run_that_is_paused() {
    for (store, _dir) in stores() {
        create(&store, "r", None).await.1.unwrap();
        store.append(Append { next: Next::Pause, ..append("r", None) }).await.unwrap();
        assert_eq!(post(&store, "r", MessageBody::Cancel { reason: None }).await, Posted::Added);
        assert_eq!(due(&store, 20).await, ["r"]);
    }
}

fn question(step: u64) -> QuestionChange {
    let question = wfhost_core::Question {
        prompt: "Go on?".to_owned(),
        schema: None,
        choices: vec!["yes".to_owned(), "no".to_owned()],
        details: None,
    };
    QuestionChange::Asked { step: Step(step), at: Timestamp(step), deadline: None, question }
}

#[tokio::test]
async fn questions_are_listed_oldest_first_and_answered_once() {
    for (store, _dir) in stores() {
        for (run, step) in [("b", 7), ("a", 3)] {
            create(&store, run, None).await.1.unwrap();
            let questions = vec![question(step)];
            store.append(Append { questions, ..append(run, None) }).await.unwrap();
        }
        let open = async |run: Option<&str>| {
            let run = run.map(id);
            let open = store.questions(run.as_ref(), 10).await.unwrap();
            open.into_iter().map(|open| (open.run.to_string(), open.step.0)).collect::<Vec<_>>()
        };
        assert_eq!(open(None).await, [("a".to_owned(), 3), ("b".to_owned(), 7)]);
        let answer = |step| MessageBody::Answer {
            step: Step(step),
            outcome: Ok(Json::null()),
            by: Some("ann".to_owned()),
            note: None,
        };
        assert_eq!(post(&store, "a", answer(4)).await, Posted::NoQuestion);
        assert_eq!(post(&store, "a", answer(3)).await, Posted::Added);
        assert_eq!(post(&store, "a", answer(3)).await, Posted::NoQuestion);
        assert_eq!(open(None).await, [("b".to_owned(), 7)]);
        assert!(open(Some("a")).await.is_empty());
        assert_eq!(store.inbox(&id("a")).await.unwrap()[0].body, answer(3));
        let closed = vec![QuestionChange::Closed { step: Step(7) }];
        store.append(Append { questions: closed, ..append("b", None) }).await.unwrap();
        assert!(open(None).await.is_empty());
    }
}

#[tokio::test]
async fn messages_for_outsiders_are_read_behind_a_place() {
    for (store, _dir) in stores() {
        create(&store, "r", None).await.1.unwrap();
        let message = |name: &str| Emission::Message {
            name: name.to_owned(),
            payload: Json::string(name),
            at: Timestamp(5),
        };
        let emissions = vec![message("a"), message("b"), message("c")];
        store.append(Append { emissions, ..append("r", None) }).await.unwrap();
        let read = async |after, limit| {
            let found = store.messages(&id("r"), after, limit).await.unwrap();
            found.into_iter().map(|message| (message.number, message.name)).collect::<Vec<_>>()
        };
        let numbered = |number: u64, name: &str| (number, name.to_owned());
        assert_eq!(read(None, 2).await, [numbered(0, "a"), numbered(1, "b")]);
        assert_eq!(read(Some(1), 9).await, [numbered(2, "c")]);
    }
}

#[tokio::test]
async fn changes_of_all_runs_come_in_one_order_without_gaps() {
    for (store, _dir) in stores() {
        let (mut a, _) = create(&store, "a", None).await;
        let (mut b, _) = create(&store, "b", None).await;
        for n in 0..4 {
            let (run, machine) = if n % 2 == 0 { ("a", &mut a) } else { ("b", &mut b) };
            machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
            let row = row(machine);
            store.append(append(run, Some(row))).await.unwrap();
        }
        let all = store.changes(0, 100).await.unwrap();
        let seen: Vec<_> = all.iter().map(|change| (change.run.to_string(), change.row.first.0)).collect();
        let expected = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)];
        assert_eq!(seen, expected.map(|(run, at)| (run.to_owned(), at)));
        assert!(all.is_sorted_by(|one, next| one.place < next.place));
        assert_eq!(store.changes(all[3].place, 1).await.unwrap(), all[4..5]);
        assert!(store.changes(all[5].place, 1).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_is_kept_besides_the_journal_can_be_replaced() {
    for (store, _dir) in stores() {
        create(&store, "r", None).await.1.unwrap();
        let log = |message: &str| {
            let (number, at, level) = (9, Timestamp(1), LogLevel::Info);
            Emission::Log(LogLine { number, at, level, message: message.to_owned(), fields: Vec::new() })
        };
        let emissions = vec![
            log("old"),
            log("older"),
            Emission::State { key: "k".to_owned(), value: Json::null(), at: Timestamp(1) },
        ];
        store.append(Append { emissions, ..append("r", None) }).await.unwrap();
        let info = store.run(&id("r")).await.unwrap().unwrap();
        let info = RunInfo {
            workflow: "other".to_owned(),
            state: RunState::Waiting,
            waiting: Some(Waiting { people: true, ..Waiting::default() }),
            labels: Vec::new(),
            lease: None,
            due_at: Some(Timestamp(77)),
            ..info
        };
        let rebuilt = Rebuilt { info, emissions: Some(vec![log("new")]), questions: vec![question(4)] };
        assert!(!store.rebuild(rebuilt.clone()).await.unwrap(), "somebody advances it");
        park(&store, "r", None, &[]).await;
        let longer = RunInfo { entries: Position(9), ..rebuilt.info.clone() };
        assert!(!store.rebuild(Rebuilt { info: longer, ..rebuilt.clone() }).await.unwrap());
        assert!(store.rebuild(rebuilt.clone()).await.unwrap());
        let found = store.run(&id("r")).await.unwrap().unwrap();
        let expected = RunInfo { emissions: 1, head: found.head, ..rebuilt.info };
        assert_eq!(found, expected);
        let lines: Vec<_> = store.logs(&id("r"), 0, 10).await.unwrap();
        assert_eq!((lines.len(), lines[0].number, lines[0].message.as_str()), (1, 0, "new"));
        assert!(store.state(&id("r")).await.unwrap().is_empty());
        assert_eq!(store.questions(None, 9).await.unwrap()[0].step, Step(4));
    }
}

#[tokio::test]
async fn a_deleted_run_leaves_nothing_but_its_id() {
    for (store, _dir) in stores() {
        let (_, created) = create(&store, "r", Some("k")).await;
        created.unwrap();
        let run = id("r");
        let held = Deleted::Held { owner: owner(1), until: Timestamp(10 + LEASE) };
        assert_eq!(store.delete(&run, Timestamp(20)).await.unwrap(), held);
        store.append(Append { questions: vec![question(1)], ..append("r", None) }).await.unwrap();
        park(&store, "r", None, &[]).await;
        post(&store, "r", signal("s", Some("1"))).await;
        let place = store.changes(0, 10).await.unwrap().last().unwrap().place;
        assert_eq!(store.delete(&run, Timestamp(20)).await.unwrap(), Deleted::Yes);
        assert_eq!(store.delete(&run, Timestamp(20)).await.unwrap(), Deleted::NoSuchRun);
        assert_eq!(store.run(&run).await.unwrap(), None);
        assert!(store.questions(None, 10).await.unwrap().is_empty());
        assert_eq!(create(&store, "r", None).await.1, Err(StoreError::IdUsed { id: run }));
        // Its key is free, and places of commits are not given out twice.
        assert_eq!(create(&store, "s", Some("k")).await.1.unwrap(), Created::New);
        let changes = store.changes(0, 10).await.unwrap();
        assert!(changes.iter().all(|change| change.place > place && change.run == id("s")), "{changes:?}");
        let module = Digest::of(b"module");
        assert_eq!(store.delete_unused_modules(Timestamp(u64::MAX >> 1)).await.unwrap(), 0);
        park(&store, "s", None, &[]).await;
        store.delete(&id("s"), Timestamp(20)).await.unwrap();
        assert_eq!(store.delete_unused_modules(Timestamp(u64::MAX >> 1)).await.unwrap(), 1);
        assert_eq!(store.module(module).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_runs_share_commits_and_a_lone_one_makes_one_each() {
    let dir = tempfile::TempDir::new().unwrap();
    let store = SqliteStore::open(&dir.path().join("w.db"), &SqliteOptions::default()).unwrap();
    let store: SharedStore = Arc::new(store);
    let mut machines = Vec::new();
    for n in 0..100 {
        machines.push((format!("r{n}"), create(&store, &format!("r{n}"), None).await.0));
    }
    let before = store.commits();
    let receive = |machine: &mut Machine| {
        machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
        row(machine)
    };
    for _ in 0..10 {
        let row = receive(&mut machines[0].1);
        store.append(append("r0", Some(row))).await.unwrap();
    }
    assert_eq!(store.commits() - before, 10);
    let before = store.commits();
    let tasks: Vec<_> = machines
        .into_iter()
        .map(|(run, mut machine)| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..20 {
                    let row = {
                        machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
                        row(&mut machine)
                    };
                    store.append(append(&run, Some(row))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let commits = store.commits() - before;
    assert!(commits < 1_000, "2,000 appends took {commits} commits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_handles_write_side_by_side_and_notice_each_other() {
    let dir = tempfile::TempDir::new().unwrap();
    let open = || -> SharedStore {
        Arc::new(SqliteStore::open(&dir.path().join("w.db"), &SqliteOptions::default()).unwrap())
    };
    let handles = [open(), open()];
    let seen = handles[0].version().unwrap();
    assert_eq!(create(&handles[0], "own", None).await.1.unwrap(), Created::New);
    assert_eq!(handles[0].version().unwrap(), seen, "one's own commits do not count");
    let tasks = [0, 1].map(|n| {
        let store = Arc::clone(&handles[n]);
        tokio::spawn(async move {
            for number in 0..200 {
                create(&store, &format!("r{n}-{number}"), None).await.1.unwrap();
            }
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
    assert_ne!(handles[0].version().unwrap(), seen);
    let all = RunFilter { limit: 1_000, ..RunFilter::default() };
    assert_eq!(handles[1].runs(all).await.unwrap().len(), 401);
}

#[test]
fn many_can_open_a_database_that_is_not_there_yet() {
    for _ in 0..20 {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("w.db");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| SqliteStore::open(&path, &SqliteOptions::default()).map(drop).unwrap());
            }
        });
    }
}

#[tokio::test]
async fn a_full_database_takes_nothing_and_goes_on_when_there_is_room() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("w.db");
    let limited = SqliteOptions { max_pages: Some(48), ..SqliteOptions::default() };
    let store: SharedStore = Arc::new(SqliteStore::open(&path, &limited).unwrap());
    let (mut machine, _) = create(&store, "r", None).await;
    let big = Json::string(&"x".repeat(300_000));
    machine.receive("s".to_owned(), big, None, Timestamp(20));
    let row = row(&mut machine);
    let refused = store.append(append("r", Some(row.clone()))).await;
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    assert_eq!(post(&store, "r", signal("s", None)).await, Posted::Added);
    drop(store);
    let store: SharedStore = Arc::new(SqliteStore::open(&path, &SqliteOptions::default()).unwrap());
    store.append(append("r", Some(row))).await.unwrap();
    assert_eq!(store.run(&id("r")).await.unwrap().unwrap().entries, Position(2));
}

#[tokio::test]
async fn transcripts_are_kept_in_order_and_go_with_their_run() {
    for (store, _dir) in stores() {
        let (_, created) = create(&store, "r", None).await;
        created.unwrap();
        create(&store, "other", None).await.1.unwrap();
        let line = |step, kind, text: &str| NewTranscript {
            step: Step(step),
            attempt: 1,
            at: Timestamp(20),
            kind,
            text: text.to_owned(),
        };
        let run = id("r");
        let lines = vec![
            line(1, TranscriptKind::Answer, "a"),
            line(2, TranscriptKind::Event, "{}"),
            line(1, TranscriptKind::Progress, "b"),
        ];
        store.transcribe(&run, lines.clone()).await.unwrap();
        store.transcribe(&id("nobody"), lines.clone()).await.unwrap();
        store.transcribe(&id("other"), vec![lines[0].clone()]).await.unwrap();
        let read = async |filter| {
            let lines = store.transcript(&run, filter, 100).await.unwrap();
            lines.into_iter().map(|line| line.line.text).collect::<Vec<_>>()
        };
        assert_eq!(read(TranscriptFilter::default()).await, ["a", "{}", "b"]);
        let step = TranscriptFilter { step: Some(Step(1)), ..TranscriptFilter::default() };
        assert_eq!(read(step).await, ["a", "b"]);
        let kinds = vec![TranscriptKind::Progress, TranscriptKind::Event];
        assert_eq!(read(TranscriptFilter { kinds, ..TranscriptFilter::default() }).await, ["{}", "b"]);
        let first = store.transcript(&run, TranscriptFilter::default(), 1).await.unwrap();
        assert_eq!(first.len(), 1);
        let rest = TranscriptFilter { after: first[0].number, ..TranscriptFilter::default() };
        assert_eq!(read(rest).await, ["{}", "b"]);
        assert_eq!(store.delete(&run, Timestamp(u64::MAX >> 1)).await.unwrap(), Deleted::Yes);
        assert_eq!(read(TranscriptFilter::default()).await, [""; 0]);
    }
}

#[tokio::test]
async fn the_latest_answer_to_a_question_is_kept() {
    for (store, _dir) in stores() {
        let key = Digest::of(b"question");
        assert_eq!(store.kept_answer(key).await.unwrap(), None);
        for at in [30, 40] {
            let reply = Json::from(serde_json::json!({ "at": at }));
            store.keep_answer(key, Timestamp(at), reply.clone()).await.unwrap();
            assert_eq!(store.kept_answer(key).await.unwrap(), Some((Timestamp(at), reply)));
        }
        assert_eq!(store.kept_answer(Digest::of(b"other")).await.unwrap(), None);
    }
}

#[test]
fn the_files_are_readable_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("sub/w.db");
    let _store = SqliteStore::open(&path, &SqliteOptions::default()).unwrap();
    for name in ["sub/w.db", "sub/w.db-wal", "sub/w.db-shm"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// A child of `parent` at a step, as a driver makes it.
fn child(parent: &mut Machine, step: u64, name: Option<&str>, on_close: OnParentClose) -> NewRun {
    let step = Step(step);
    let run = name.map_or_else(|| parent.run().child(step), id);
    let depth = parent.child().map_or(0, |child| child.depth) + 1;
    let child = ChildOf { step, root: parent.root().clone(), depth, on_close };
    started(Started {
        run,
        parent: Some(parent.run().clone()),
        child: Some(child),
        ..parent.started().clone()
    })
}

/// The next round of a run, as a driver makes it.
fn next_round(old: &Machine, name: &str) -> NewRun {
    let (first, round) = old.round();
    let (first, from) = (first.clone(), old.run().clone());
    let origin = Origin::Continued { first, from, round: round + 1, spent: Spent::default() };
    started(Started { run: id(name), origin: Some(origin), ..old.started().clone() })
}

fn started(started: Started) -> NewRun {
    let mut machine = Machine::start(started, Timestamp(15));
    let rows = machine.take_unsaved().map(Row::from).into_iter().collect();
    NewRun::new(&machine, rows)
}

async fn state_of(store: &SharedStore, run: &str) -> RunState {
    store.run(&id(run)).await.unwrap().unwrap().state
}

async fn bodies(store: &SharedStore, run: &str) -> Vec<MessageBody> {
    store.inbox(&id(run)).await.unwrap().into_iter().map(|message| message.body).collect()
}

fn end(run: &str, epoch: u64) -> Append {
    let spent = Spent { tokens: 5, micros: 7, time_ms: 1 };
    let next = Next::End { outcome: Ok(Json::null()), spent };
    Append::new(id(run), Epoch(epoch), Timestamp(40), next)
}

#[tokio::test]
async fn a_child_begins_and_ends_with_an_entry_of_its_parent() {
    for (store, _dir) in stores() {
        let (mut parent, _) = create(&store, "p", None).await;
        create(&store, "other", None).await.1.unwrap();
        let cancel = OnParentClose::Cancel;
        let children =
            vec![child(&mut parent, 1, None, cancel), child(&mut parent, 2, Some("other"), cancel)];
        // The child is not there before the entry is, and the id of the second is taken.
        let begun = Append { children: children.clone(), ..append("p", None) };
        let stale = Append { epoch: Epoch(9), ..begun.clone() };
        assert!(matches!(store.append(stale).await, Err(StoreError::Fenced { .. })));
        assert_eq!(store.run(&id("p.1")).await.unwrap(), None);
        assert!(store.append(begun.clone()).await.unwrap().due);
        assert_eq!(state_of(&store, "p.1").await, RunState::Queued);
        assert!(matches!(
            &bodies(&store, "p").await[..],
            [MessageBody::Child { step: Step(2), outcome: Err(failure), .. }]
                if failure.message.contains("there is a run other already")
        ));
        // Once more is the same.
        let again = Append { children: children[..1].to_vec(), ..append("p", None) };
        assert!(!store.append(again).await.unwrap().due);
        let info = store.run(&id("p.1")).await.unwrap().unwrap();
        assert_eq!((info.parent, info.links.step, info.links.root), (Some(id("p")), Some(Step(1)), id("p")));
        let known = RunFilter { parent: Some(id("p")), ..RunFilter::default() };
        assert_eq!(store.runs(known).await.unwrap().len(), 1);
        let top = RunFilter { top: true, ..RunFilter::default() };
        assert_eq!(store.runs(top).await.unwrap().len(), 2);

        let inbox = store.inbox(&id("p")).await.unwrap();
        let consumed = inbox.iter().map(|message| message.id).collect();
        let park = Append { consumed, next: Next::Park(Waiting::default()), ..append("p", None) };
        assert!(!store.append(park).await.unwrap().due);
        assert!(store.due(Timestamp(14), 9).await.unwrap().is_empty());
        // The child is taken up and ends: the parent is due with its result.
        let claimed = store.claim(claim(&id("p.1"), &owner(2), 30, None)).await.unwrap();
        assert!(matches!(claimed, Claimed::Yes { epoch: Epoch(2), .. }), "{claimed:?}");
        let spent = Spent { tokens: 3, micros: 4, time_ms: 0 };
        let ledger = Append {
            ledger: Some((spent, Budget::default())),
            ..Append::new(id("p.1"), Epoch(2), Timestamp(35), Next::Go)
        };
        store.append(ledger).await.unwrap();
        store.append(end("p.1", 2)).await.unwrap();
        assert_eq!(store.due(Timestamp(14), 9).await.unwrap(), [id("p")]);
        let spent = Spent { tokens: 5, micros: 7, time_ms: 1 };
        let told = MessageBody::Child { step: Step(1), run: id("p.1"), outcome: Ok(Json::null()), spent };
        assert_eq!(bodies(&store, "p").await, [told]);
        let ended = store.ended_children(&id("p"), Step(1)).await.unwrap();
        assert_eq!(ended.iter().map(|info| info.id.clone()).collect::<Vec<_>>(), [id("p.1")]);
        assert!(store.ended_children(&id("p"), Step(2)).await.unwrap().is_empty());
        assert_eq!(store.family(&id("p")).await.unwrap().spent.tokens, 3);
    }
}

#[tokio::test]
async fn children_are_cancelled_with_their_parent_unless_they_are_abandoned() {
    for (store, _dir) in stores() {
        let (mut parent, _) = create(&store, "p", None).await;
        let children = vec![
            child(&mut parent, 1, None, OnParentClose::Cancel),
            child(&mut parent, 2, Some("left"), OnParentClose::Abandon),
            child(&mut parent, 3, None, OnParentClose::Cancel),
        ];
        store.append(Append { children, ..append("p", None) }).await.unwrap();
        let is_cancelled = async |run: &str| {
            matches!(&bodies(&store, run).await[..], [MessageBody::Cancel { reason: Some(reason) }]
                if reason.contains("parent"))
        };
        store.append(Append { dropped: vec![Step(1), Step(2)], ..append("p", None) }).await.unwrap();
        assert!(is_cancelled("p.1").await && !is_cancelled("p.3").await);
        store.append(end("p", 1)).await.unwrap();
        assert!(is_cancelled("p.3").await);
        assert!(bodies(&store, "left").await.is_empty());
    }
}

#[tokio::test]
async fn a_child_that_is_deleted_is_a_failure_of_its_parent() {
    for (store, _dir) in stores() {
        let (mut parent, _) = create(&store, "p", None).await;
        let children = vec![child(&mut parent, 1, None, OnParentClose::Cancel)];
        store.append(Append { children, ..append("p", None) }).await.unwrap();
        assert_eq!(store.delete(&id("p.1"), Timestamp(50)).await.unwrap(), Deleted::Yes);
        assert!(matches!(
            &bodies(&store, "p").await[..],
            [MessageBody::Child { outcome: Err(failure), .. }] if failure.message == "p.1 was deleted"
        ));
    }
}

#[tokio::test]
async fn a_run_continues_as_another_with_what_is_in_its_inbox() {
    for (store, _dir) in stores() {
        let (mut first, _) = create(&store, "r", None).await;
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Added);
        let next =
            |machine: &Machine, name: &str| Next::Continue { run: Box::new(next_round(machine, name)) };
        // An id that is somebody else's changes nothing.
        create(&store, "taken", None).await.1.unwrap();
        let taken = Append { next: next(&first, "taken"), ..append("r", None) };
        assert_eq!(store.append(taken).await, Err(StoreError::IdTaken { id: id("taken") }));
        let goes_on = next(&first, "r-2");
        first.continue_as(id("r-2"), Timestamp(50));
        let row = Some(row(&mut first));
        store.append(Append { next: goes_on, ..append("r", row) }).await.unwrap();
        let old = store.run(&id("r")).await.unwrap().unwrap();
        assert_eq!((old.state, old.links.next.clone()), (RunState::Continued, Some(id("r-2"))));
        assert_eq!(old.links, Links::of(&first));
        let new = store.run(&id("r-2")).await.unwrap().unwrap();
        assert_eq!((new.state, new.links.root, new.links.chain), (RunState::Queued, id("r"), Some(id("r"))));
        assert_eq!(bodies(&store, "r-2").await, [signal("s", Some("1"))]);
        assert!(bodies(&store, "r").await.is_empty());
        // What is sent to the first goes to the latest, and is still delivered once.
        assert_eq!(post(&store, "r", signal("s", Some("2"))).await, Posted::Continued(id("r-2")));
        assert_eq!(post(&store, "r-2", signal("s", Some("1"))).await, Posted::Duplicate);
        assert_eq!(post(&store, "r-2", signal("s", Some("2"))).await, Posted::Added);
        let rounds = RunFilter { chain: Some(id("r")), ..RunFilter::default() };
        assert_eq!(store.runs(rounds).await.unwrap().len(), 2);
    }
}
