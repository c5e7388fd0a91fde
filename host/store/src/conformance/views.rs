//! Looking at runs.

use super::*;

pub async fn runs_are_listed_newest_first_by_filters_and_pages(stores: Vec<Shop>) {
    for store in stores {
        for run in ["a1", "a2", "b1"] {
            create(&store, run, None).await.1.unwrap();
        }
        let list = async |filter| {
            let runs = store.runs(filter).await.unwrap();
            runs.into_iter().map(|info| info.id.to_string()).collect::<Vec<_>>()
        };
        let all = RunFilter::default;
        assert_eq!(list(all()).await, ["b1", "a2", "a1"]);
        let a2 = Some(store.info("a2").await.number);
        assert_eq!(list(RunFilter { before: a2, ..all() }).await, ["a1"]);
        let of_a = vec![("run".to_owned(), "a1".to_owned())];
        assert_eq!(list(RunFilter { before: a2, labels: of_a, ..all() }).await, ["a1"]);
        assert_eq!(list(RunFilter { prefix: Some("a".to_owned()), limit: 1, ..all() }).await, ["a2"]);
        assert_eq!(
            list(RunFilter { labels: vec![("run".to_owned(), "a1".to_owned())], ..all() }).await,
            ["a1"]
        );
        let some = |ids: &[&str]| RunFilter { ids: Some(ids.iter().map(|run| id(run)).collect()), ..all() };
        assert_eq!(list(some(&["a1", "none", "b1"])).await, ["b1", "a1"]);
        assert!(list(some(&[])).await.is_empty());
        assert!(list(RunFilter { states: vec![RunState::Waiting], ..all() }).await.is_empty());
        assert!(list(RunFilter { workflow: Some("x".to_owned()), ..all() }).await.is_empty());
    }
}

pub fn question(step: u64) -> QuestionChange {
    let question = wfhost_core::Question {
        prompt: "Go on?".to_owned(),
        schema: None,
        choices: vec!["yes".to_owned(), "no".to_owned()],
        details: None,
    };
    QuestionChange::Asked { step: Step(step), at: Timestamp(step), deadline: None, question }
}

pub async fn questions_are_listed_oldest_first_and_answered_once(stores: Vec<Shop>) {
    for store in stores {
        for (run, step) in [("b", 7), ("a", 3)] {
            create(&store, run, None).await.1.unwrap();
            let questions = vec![question(step)];
            store.append(Append { questions, ..store.with(run, None) }).await.unwrap();
        }
        let open = async |run: Option<&str>| {
            let run = run.map(id);
            let open = store.questions(run.as_ref(), None, 10).await.unwrap();
            open.into_iter().map(|open| (open.run.to_string(), open.step.0)).collect::<Vec<_>>()
        };
        assert_eq!(open(None).await, [("a".to_owned(), 3), ("b".to_owned(), 7)]);
        assert_load(&store).await;
        // One whose time is over stands before no other.
        let until = |step, deadline| match question(step) {
            QuestionChange::Asked { step, at, question, .. } => {
                QuestionChange::Asked { step, at, deadline: Some(Timestamp(deadline)), question }
            }
            closed => closed,
        };
        create(&store, "c", None).await.1.unwrap();
        let questions = vec![until(1, 50), until(2, 60)];
        store.append(Append { questions, ..store.with("c", None) }).await.unwrap();
        for run in [None, Some(id("c"))] {
            let first = async |at: Option<u64>| {
                let found = store.questions(run.as_ref(), at.map(Timestamp), 1).await.unwrap();
                found.first().map(|open| open.step.0)
            };
            let later = run.is_none().then_some(3);
            assert_eq!([first(None).await, first(Some(49)).await], [Some(1), Some(1)]);
            assert_eq!([first(Some(50)).await, first(Some(60)).await], [Some(2), later]);
        }
        let closed = [1, 2].map(|step| QuestionChange::Closed { step: Step(step) }).to_vec();
        store.append(Append { questions: closed, ..store.with("c", None) }).await.unwrap();
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
        assert_eq!(store.bodies("a").await[0], answer(3));
        let closed = vec![QuestionChange::Closed { step: Step(7) }];
        store.append(Append { questions: closed, ..store.with("b", None) }).await.unwrap();
        assert!(open(None).await.is_empty());
    }
}

pub async fn messages_for_outsiders_are_read_behind_a_place(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let message = |name: &str| Emission::Message {
            name: name.to_owned(),
            payload: Json::string(name),
            at: Timestamp(5),
        };
        let emissions = vec![message("a"), message("b"), message("c")];
        store.append(Append { emissions, ..store.with("r", None) }).await.unwrap();
        let read = async |after, limit| {
            let found = store.messages(&id("r"), after, limit).await.unwrap();
            found.into_iter().map(|message| (message.number, message.name)).collect::<Vec<_>>()
        };
        let numbered = |number: u64, name: &str| (number, name.to_owned());
        assert_eq!(read(None, 2).await, [numbered(0, "a"), numbered(1, "b")]);
        assert_eq!(read(Some(1), 9).await, [numbered(2, "c")]);
    }
}

/// What no entry says is decided by the store: whoever makes something anew has read that some time ago.
pub async fn what_came_in_the_meantime_outlives_what_is_made_anew(stores: Vec<Shop>) {
    for store in stores {
        let waiting = || Some(Waiting { signals: vec!["go".to_owned()], ..Waiting::default() });
        let read = async |run: &str| RunInfo { waiting: waiting(), ..store.info(run).await };
        // Gives the state of the run then, and when it is due.
        let rebuild = async |info: RunInfo| {
            let run = info.id.clone();
            let rebuilt = Rebuilt { info, emissions: None, questions: Vec::new() };
            assert!(store.rebuild(rebuilt).await.unwrap());
            let found = store.run(&run).await.unwrap().unwrap();
            let waits = (found.state == RunState::Waiting).then(waiting).flatten();
            assert_eq!(found.waiting, waits, "{run}");
            (found.state, found.due_at)
        };
        let cancel = || MessageBody::Cancel { reason: None };
        let due = Some(Timestamp(0));
        for run in ["signal", "other", "pause", "cancel", "resume", "refused", "resting"] {
            create(&store, run, None).await.1.unwrap();
            if !["refused", "resting"].contains(&run) {
                park(&store, run, None, &["go"]).await;
            }
        }

        let info = read("signal").await;
        assert_eq!(post(&store, "signal", signal("go", None)).await, Posted::Added);
        assert_eq!(rebuild(info).await, (RunState::Waiting, due));
        let info = read("other").await;
        assert_eq!(post(&store, "other", signal("other", None)).await, Posted::Added);
        assert_eq!(rebuild(info).await, (RunState::Waiting, None));

        let info = read("pause").await;
        assert_eq!(post(&store, "pause", MessageBody::Pause).await, Posted::Added);
        assert_eq!(rebuild(info).await, (RunState::Paused, None));

        assert_eq!(post(&store, "cancel", MessageBody::Pause).await, Posted::Added);
        assert_eq!(post(&store, "cancel", cancel()).await, Posted::Added);
        assert_eq!(rebuild(read("cancel").await).await, (RunState::Paused, due));

        assert_eq!(post(&store, "resume", MessageBody::Pause).await, Posted::Added);
        let info = read("resume").await;
        assert_eq!(info.state, RunState::Paused);
        let opened = store.opened(store.mine, "resume").await;
        let next = Next::Park(waiting().unwrap());
        store.append(Append { epoch: opened.epoch, next, ..store.with("resume", None) }).await.unwrap();
        assert_eq!(rebuild(info).await, (RunState::Waiting, None));

        // Why it was refused stays, and that it was asked to stop.
        let refuse = Next::Refuse { reason: "it departs".to_owned() };
        store.append(Append { next: refuse, ..store.with("refused", None) }).await.unwrap();
        let refused = store.info("refused").await;
        let info = RunInfo { state: RunState::Running, outcome: None, ..read("refused").await };
        assert_eq!(rebuild(info).await, (RunState::Refused, None));
        assert_eq!(store.info("refused").await.outcome, refused.outcome);
        assert_eq!(post(&store, "refused", cancel()).await, Posted::Added);
        let info = read("refused").await;
        assert_eq!(rebuild(info.clone()).await, (RunState::Refused, due));
        assert_eq!(store.unpause(&id("refused")).await, Ok(true));
        assert_eq!(rebuild(info).await, (RunState::Running, due));
        assert_eq!(store.info("refused").await.outcome, None);

        // One that rests after a trouble goes on resting.
        store.at(50_000);
        let trouble = Some("no provider".to_owned());
        let next = Next::Release { waiting: waiting(), trouble };
        store.append(Append { next, ..store.with("resting", None) }).await.unwrap();
        let rests = store.info("resting").await.due_at;
        assert!(rests > Some(Timestamp(50_000)), "{rests:?}");
        assert_eq!(rebuild(read("resting").await).await, (RunState::Waiting, rests));

        // What the journal says is so.
        let info =
            RunInfo { state: RunState::Completed, outcome: Some(Ok(Json::null())), ..read("other").await };
        assert_eq!(rebuild(info.clone()).await, (RunState::Completed, None));
        let info = RunInfo { state: RunState::Running, outcome: None, ..info };
        assert_eq!(rebuild(info).await, (RunState::Running, due));
    }
}

pub async fn transcripts_are_kept_in_order_and_go_with_their_run(stores: Vec<Shop>) {
    for store in stores {
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
        let whole = store.transcript(&run, TranscriptFilter::default(), 9).await.unwrap();
        assert_eq!(store.transcript_end(&run).await, Ok(whole[2].number));
        assert_eq!(store.transcript_end(&id("nobody")).await, Ok(0));
        assert_eq!(store.last_heartbeat(&run, Step(1)).await.unwrap(), None);
        let beats = ["5", "6"].map(|beat| line(1, TranscriptKind::Heartbeat, beat)).to_vec();
        store.transcribe(&run, beats).await.unwrap();
        assert_eq!(store.last_heartbeat(&run, Step(1)).await.unwrap().as_deref(), Some("6"));
        park(&store, "r", None, &[]).await;
        assert_eq!(store.delete(&run).await.unwrap(), Deleted::Yes);
        assert_eq!(read(TranscriptFilter::default()).await, [""; 0]);
        assert_eq!(store.transcript_end(&run).await, Ok(0));
    }
}

pub async fn runs_are_found_by_what_they_are_labelled_with_and_wait_for(stores: Vec<Shop>) {
    for store in stores {
        for n in 0..6 {
            create(&store, &format!("r{n}"), Some(&format!("k{n}"))).await.1.unwrap();
        }
        for (n, signals) in [(0, &["go"][..]), (1, &["go", "stop"]), (2, &[])] {
            park(&store, &format!("r{n}"), (n == 2).then_some(900), signals).await;
        }
        let found = async |filter: RunFilter| -> Vec<String> {
            let filter = RunFilter { patience_ms: Some(60_000), ..filter };
            let runs = store.runs(filter.clone()).await.unwrap();
            assert_eq!(store.count_runs(filter).await.unwrap(), runs.len() as u64);
            runs.iter().map(|info| info.id.to_string()).collect()
        };
        let usual = RunFilter::default;
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(found(RunFilter { labels: vec![label("run", "r3")], ..usual() }).await, ["r3"]);
        let both = vec![label("run", "r3"), label("run", "r4")];
        assert_eq!(found(RunFilter { labels: both, ..usual() }).await, [""; 0]);
        assert_eq!(found(RunFilter { labels: vec![label("run", "none")], ..usual() }).await, [""; 0]);
        let waits = |waits| RunFilter { waits: Some(waits), ..usual() };
        assert_eq!(found(waits(WaitsFor::Signal(Some("stop".to_owned())))).await, ["r1"]);
        assert_eq!(found(waits(WaitsFor::Signal(None))).await, ["r1", "r0"]);
        assert_eq!(found(waits(WaitsFor::Time)).await, ["r2"]);
        assert_eq!(found(waits(WaitsFor::People)).await, [""; 0]);
        let key = Some("k5".to_owned());
        assert_eq!(found(RunFilter { key, ..usual() }).await, ["r5"]);
        let text = |text: &str| RunFilter { text: Some(text.to_owned()), ..usual() };
        assert_eq!(found(text("R4")).await, ["r4"]);
        assert_eq!(found(text("K1")).await, ["r1"]);
        assert_eq!(found(text("nothing of that")).await, [""; 0]);
        let states = vec![RunState::Waiting];
        let before = Some(store.info("r2").await.number);
        assert_eq!(found(RunFilter { states, before, limit: 1, ..usual() }).await, ["r1"]);
        let counts: BTreeMap<_, _> =
            store.counts().await.unwrap().into_iter().map(|(state, count)| (state.as_str(), count)).collect();
        assert_eq!((counts.get("waiting"), counts.get("running")), (Some(&3), Some(&3)));
        assert_load(&store).await;
        // A deleted run is not found by its label, and its label can be another run's.
        store.fence(store.mine, Fence::Dead).await.unwrap();
        assert_eq!(store.delete(&id("r3")).await.unwrap(), Deleted::Yes);
        assert_eq!(found(RunFilter { labels: vec![label("run", "r3")], ..usual() }).await, [""; 0]);
    }
}

/// What the load says is what the runs and questions say.
async fn assert_load(store: &Shop) {
    let load = store.load().await.unwrap();
    let now = store.now();
    let runs = store.runs(RunFilter { limit: 1_000, ..RunFilter::default() }).await.unwrap();
    let due: Vec<_> = runs.iter().filter_map(|run| run.due_at).filter(|due| *due <= now).collect();
    let oldest = due.iter().filter(|due| due.0 > 0).min();
    let asked: Vec<_> = store.questions(None, None, 1_000).await.unwrap();
    let first = asked.iter().map(|question| question.asked_at).min();
    assert_eq!(load.due, due.len() as u64);
    assert_eq!(load.questions, asked.len() as u64);
    // The clock may go on between the looks.
    for (ms, at) in [(load.lag_ms, oldest.copied()), (load.question_ms, first)] {
        assert_eq!(ms.is_some(), at.is_some());
        assert!(at.is_none_or(|at| now.since(at).abs_diff(ms.unwrap()) < 5_000), "{ms:?} {at:?} {now:?}");
    }
}

pub async fn a_text_is_found_as_it_is_written_and_within_one_word(stores: Vec<Shop>) {
    for store in stores {
        let module = store.put_module("w", b"module").await.unwrap();
        for (run, label) in
            [("one", "say \"hi\""), ("two", "back\\slash"), ("tab", "a\tb,c"), ("fin", "\u{1}é")]
        {
            let mut machine = machine(run, module);
            let rows = vec![row(&mut machine)];
            let labels = vec![("k".to_owned(), label.to_owned()), ("other".to_owned(), String::new())];
            let new = NewRun { labels, key: Some(format!("key-{run}")), ..NewRun::new(&machine, rows) };
            store.create(new).await.unwrap();
        }
        let found = async |text: &str| {
            let filter = RunFilter { text: Some(text.to_owned()), ..RunFilter::default() };
            let runs = store.runs(filter).await.unwrap();
            runs.into_iter().map(|info| info.id.to_string()).collect::<Vec<_>>().join(" ")
        };
        for (text, runs) in [
            ("\"HI\"", "one"),
            ("\"", "one"),
            ("\\", "two"),
            ("k\\s", "two"),
            ("\t", "tab"),
            (",", "tab"),
            ("b,c", "tab"),
            ("\u{1}", "fin"),
            ("é", "fin"),
            ("É", ""),
            ("KEY-t", "tab two"),
            ("OTHER", "fin tab two one"),
            // In none of them, only where they meet or where they are stored.
            ("one w", ""),
            ("w key", ""),
            ("[", ""),
            ("\",\"", ""),
            ("\\t", ""),
            ("\\u0001", ""),
        ] {
            assert_eq!(found(text).await, runs, "{text:?}");
        }
    }
}

/// Runs for [`what_can_be_read_is_listed`]: a test changes the names of `held` and `nameless` by hand, and the state of
/// `odd`, to what cannot be read.
pub async fn runs_to_be_listed(store: &Shop) {
    for run in ["held", "mine"] {
        enqueue(store, run, None).await;
    }
    assert_eq!(store.due(9, Wanted::default()).await.0.len(), 2);
    for run in ["nameless", "whole"] {
        create(store, run, None).await.1.unwrap();
        let questions = vec![question(1)];
        let next = Next::Release { waiting: None, trouble: None };
        store.append(Append { questions, next, ..store.with(run, None) }).await.unwrap();
    }
    for run in ["odd", "last"] {
        enqueue(store, run, None).await;
    }
}

/// What cannot be read hides nothing else.
pub async fn what_can_be_read_is_listed(store: &Shop) {
    let filter = |limit, before| RunFilter { limit, before, ..RunFilter::default() };
    let listed = store.list_runs(filter(50, None)).await.unwrap();
    let names: Vec<_> = listed.known.iter().map(|info| info.id.to_string()).collect();
    assert_eq!(names, ["last", "odd", "whole", "mine"]);
    assert_eq!(listed.unreadable.len(), 2, "{:?}", listed.unreadable);
    assert!(listed.known[1].trouble.as_ref().is_some_and(|trouble| trouble.contains("cannot be read")));
    // Pages go on behind those that cannot be read.
    let (mut before, mut pages) = (None, Vec::new());
    loop {
        let page = store.runs(filter(1, before)).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.number);
        pages.push(last.id.to_string());
    }
    assert_eq!(pages, names);
    let held = store.held(store.other).await.unwrap();
    assert_eq!(held.into_iter().map(|(run, _)| run).collect::<Vec<_>>(), [id("mine")]);
    let mut place = 0;
    let mut told = Vec::new();
    while let Some(change) = store.changes(place, 1).await.unwrap().pop() {
        place = change.place;
        told.push(change.run.to_string());
    }
    assert_eq!(told, ["mine", "whole", "odd", "last"]);
    let asked: Vec<_> =
        store.questions(None, None, 9).await.unwrap().into_iter().map(|open| open.run).collect();
    assert_eq!(asked, [id("whole")]);
    let counts = store.counts().await.unwrap();
    assert!(counts.contains(&(RunState::Queued, 1)), "{counts:?}");
}
