//! Journals: what is appended, and how it is read.

use super::*;

pub async fn a_journal_comes_back_as_it_was_appended(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        assert!(machine.receive("s".to_owned(), Json::null(), None, Timestamp(20)));
        store.append(store.with("r", Some(row(&mut machine)))).await.unwrap();
        let journal =
            wfhost_core::Journal::read(store.journal(&id("r"), Position(0)).await.unwrap()).unwrap();
        assert_eq!(journal.head, machine.head());
        assert!(matches!(journal.entries[1].event, Event::Received { .. }));
        let info = store.run(&id("r")).await.unwrap().unwrap();
        assert_eq!((info.entries, info.updated_at), (Position(2), Timestamp(20)));
    }
}

pub async fn changes_of_all_runs_come_in_one_order_without_gaps(stores: Vec<Shop>) {
    for store in stores {
        let (mut a, _) = create(&store, "a", None).await;
        let (mut b, _) = create(&store, "b", None).await;
        for n in 0..4 {
            let (run, machine) = if n % 2 == 0 { ("a", &mut a) } else { ("b", &mut b) };
            machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
            let row = row(machine);
            store.append(store.with(run, Some(row))).await.unwrap();
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

pub async fn what_is_kept_besides_the_journal_can_be_replaced(stores: Vec<Shop>) {
    for store in stores {
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
        store.append(Append { emissions, ..store.with("r", None) }).await.unwrap();
        let info = store.run(&id("r")).await.unwrap().unwrap();
        let info = RunInfo {
            workflow: "other".to_owned(),
            state: RunState::Waiting,
            waiting: Some(Waiting { people: true, until: Some(Timestamp(77)), ..Waiting::default() }),
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
        assert_eq!(store.questions(None, None, 9).await.unwrap()[0].step, Step(4));
    }
}

pub async fn a_key_gives_the_same_run_of_its_workflow_and_an_id_is_taken_once(stores: Vec<Shop>) {
    for store in stores {
        assert_eq!(create(&store, "a", Some("k")).await.1.unwrap(), Created::New);
        assert_eq!(create(&store, "b", Some("k")).await.1.unwrap(), Created::Known(id("a")));
        assert_eq!(create(&store, "a", None).await.1, Err(StoreError::IdTaken { id: id("a") }));
        assert_eq!(store.runs(RunFilter::default()).await.unwrap().len(), 1);
        // With something else it is another question.
        let with = async |name: &str, workflow: &str, module: Digest, input: Json| {
            let other =
                Started { workflow: workflow.to_owned(), input, ..machine(name, module).started().clone() };
            let mut machine = Machine::start(other, Timestamp(10));
            let rows = vec![row(&mut machine)];
            store.create(NewRun { key: Some("k".to_owned()), ..NewRun::new(&machine, rows) }).await
        };
        let module = Digest::of(b"module");
        let other = store.put_module("w", b"other").await.unwrap();
        let used = |differs| Err(StoreError::KeyUsed { key: "k".to_owned(), run: id("a"), differs });
        assert_eq!(with("c", "w", module, Json::string("x")).await, used("input"));
        assert_eq!(with("c", "w", other, Json::null()).await, used("module"));
        assert_eq!(with("c", "v", other, Json::string("x")).await, Ok(Created::New));
    }
}

pub async fn a_stale_session_epoch_position_or_head_appends_nothing(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        let first = received(&mut machine);
        let fenced = Err(StoreError::Fenced { run: id("r") });
        let good = store.with("r", Some(first.clone()));
        for stale in [
            Append { epoch: Epoch(2), ..good.clone() },
            Append { session: store.other, ..good.clone() },
            Append { before: Digest([9; 32]), ..good.clone() },
            Append { row: Some(Row { first: Position(5), ..first.clone() }), ..good.clone() },
        ] {
            assert_eq!(store.append(stale).await, fenced);
        }
        let place = store.append(good.clone()).await.unwrap().place;
        // The same once more: the position has passed.
        for after in [None, place] {
            let again = Append { after, ..good.clone() };
            assert_eq!(store.append(again.clone()).await, fenced);
            assert_eq!(store.append(Append { epoch: Epoch(2), row: None, ..again }).await, fenced);
        }
        // A place that is another run's, or nobody's, is looked up.
        create(&store, "other", None).await.1.unwrap();
        let other = store.append(store.with("other", None)).await.unwrap().place;
        for after in [other, Some(1_000)] {
            let row = received(&mut machine);
            let next = Append { after, ..store.with("r", Some(row)) };
            assert!(store.append(next).await.unwrap().place > place);
        }
        assert_eq!(store.journal(&id("r"), Position(0)).await.unwrap().len(), 4);
        let release = Next::Release { waiting: None, trouble: None };
        store.append(Append { next: release, ..store.with("r", None) }).await.unwrap();
        assert_eq!(store.append(store.with("r", None)).await, fenced);
    }
}

pub async fn what_a_program_gives_out_is_numbered_by_the_store(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let log = |message: &str| {
            let (at, level) = (Timestamp(1), LogLevel::Info);
            let fields = vec![("k".to_owned(), "v".to_owned())];
            Emission::Log(LogLine { number: 99, at, level, message: message.to_owned(), fields })
        };
        let state = |value: &str| Emission::State {
            key: "k".to_owned(),
            value: Json::string(value),
            at: Timestamp(1),
        };
        let phase = Emission::Phase { title: "p".to_owned(), at: Timestamp(1) };
        for emissions in [vec![log("a"), state("one"), phase], vec![log("b"), state("two")]] {
            store.append(Append { emissions, ..store.with("r", None) }).await.unwrap();
        }
        let lines = store.logs(&id("r"), 0, 10).await.unwrap();
        let lines: Vec<_> = lines.into_iter().map(|line| (line.number, line.message)).collect();
        assert_eq!(lines, [(0, "a".to_owned()), (2, "phase: p".to_owned()), (3, "b".to_owned())]);
        assert_eq!(store.state(&id("r")).await.unwrap(), [("k".to_owned(), Json::string("two"))]);
        let published = async |key, after, limit| {
            let found = store.published(&id("r"), key, after, limit).await.unwrap();
            found.into_iter().map(|value| (value.number, value.value)).collect::<Vec<_>>()
        };
        let (one, two) = ((1, Json::string("one")), (4, Json::string("two")));
        assert_eq!(published(Some("k"), None, 9).await, [one.clone(), two.clone()]);
        assert_eq!(published(None, None, 1).await, [one]);
        assert_eq!(published(None, Some(1), 9).await, [two]);
        assert_eq!(published(Some("other"), None, 9).await, []);
        let other = Emission::State { key: "b".to_owned(), value: Json::string("of b"), at: Timestamp(2) };
        store.append(Append { emissions: vec![other], ..store.with("r", None) }).await.unwrap();
        let latest = async |key, after, limit| {
            let found = store.latest(&id("r"), key, after, limit).await.unwrap();
            found
                .into_iter()
                .map(|value| (value.key, value.number, value.at, value.value))
                .collect::<Vec<_>>()
        };
        let of_b = ("b".to_owned(), 5, Timestamp(2), Json::string("of b"));
        let of_k = ("k".to_owned(), 4, Timestamp(1), Json::string("two"));
        assert_eq!(latest(None, None, 9).await, [of_b.clone(), of_k.clone()], "by key");
        assert_eq!(latest(None, None, 1).await, std::slice::from_ref(&of_b));
        assert_eq!(latest(Some("k"), None, 9).await, std::slice::from_ref(&of_k));
        assert_eq!(latest(None, Some(3), 9).await, [of_b.clone(), of_k]);
        assert_eq!(latest(None, Some(4), 9).await, [of_b]);
        assert_eq!(latest(Some("k"), Some(4), 9).await, []);
        assert_eq!(latest(Some("other"), None, 9).await, []);
        let info = store.info("r").await;
        assert_eq!((info.phase.as_deref(), info.emissions), (Some("p"), 6));
    }
}

pub async fn a_journal_is_read_by_parts_from_any_entry(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        // Rows of one, two and three entries.
        for n in 0..9_u64 {
            for _ in 0..=n % 3 {
                machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
            }
            let row = row(&mut machine);
            store.append(store.with("r", Some(row))).await.unwrap();
        }
        let whole = store.journal(&id("r"), Position(0)).await.unwrap();
        for from in 0..=machine.entries() + 1 {
            for limit in [1, 2, 100] {
                let part = store.journal_part(&id("r"), Position(from), limit).await.unwrap();
                let wanted = whole.iter().filter(|row| row.end().0 > from).take(limit).cloned();
                assert_eq!(part, wanted.collect::<Vec<_>>(), "from {from}, {limit} rows");
            }
        }
        assert_eq!(
            store.last_place().await.unwrap(),
            store.changes(0, 99).await.unwrap().last().unwrap().place
        );
        assert!(store.journal_part(&id("none"), Position(0), 9).await.unwrap().is_empty());
    }
}

/// A run as another store had it.
pub fn imported(machine: &mut Machine) -> ImportedRun {
    let rows = vec![row(machine)];
    ImportedRun {
        info: RunInfo { imported: true, ..RunInfo::of(machine) },
        rows,
        emissions: 0,
        given: Given::Counted(0),
        logs: Vec::new(),
        messages: Vec::new(),
        state: Vec::new(),
        inbox: Vec::new(),
        questions: Vec::new(),
    }
}

pub async fn usage_beyond_all_measure_is_the_greatest_that_can_be_stored(stores: Vec<Shop>) {
    for store in stores {
        let spent = |tokens, micros| Spent { tokens, micros, time_ms: 0 };
        for root in ["p", "q"] {
            let (mut parent, _) = create(&store, root, None).await;
            let children =
                (1..=2).map(|step| child(&mut parent, step, None, OnParentClose::Cancel)).collect();
            store.append(Append { children, ..store.with(root, None) }).await.unwrap();
            for step in 1..=2 {
                store.opened(store.mine, &format!("{root}.{step}")).await;
            }
        }
        let spend = async |run: &str, total: Spent| {
            let go = Append::new(id(run), store.mine, Epoch(2), Timestamp(30), Next::Go);
            let ledger = Some((total, Budget::default()));
            store.append(Append { ledger, ..go }).await.unwrap();
            store.info(run).await.spent
        };
        let family = async |root: &str| store.family(&id(root)).await.unwrap().spent;
        assert_eq!(spend("p.1", spent(100, 1 << 63)).await, spent(100, GREATEST));
        assert_eq!(family("p").await, spent(100, GREATEST));
        for _ in 0..2 {
            assert_eq!(spend("p.1", spent(u64::MAX, u64::MAX)).await, spent(GREATEST, GREATEST));
            assert_eq!(family("p").await, spent(GREATEST, GREATEST));
        }
        assert_eq!(spend("p.2", spent(7, 7)).await, spent(7, 7));
        assert_eq!(family("p").await, spent(GREATEST, GREATEST));
        // Each of these can be stored, their sum cannot.
        assert_eq!(spend("q.1", spent(1 << 62, 3)).await, spent(1 << 62, 3));
        assert_eq!(spend("q.2", spent(1 << 62, 4)).await, spent(1 << 62, 4));
        assert_eq!(family("q").await, spent(GREATEST, 7));
        assert_eq!(spend("q.2", spent((1 << 62) + 1, 5)).await, spent((1 << 62) + 1, 5));
        assert_eq!(family("q").await, spent(GREATEST, 8));
        // Also what comes from elsewhere, and what is put right.
        let mut run = imported(&mut machine("i", Digest::of(b"module")));
        run.info.spent = spent(u64::MAX, 5);
        store.import(run).await.unwrap();
        assert_eq!(
            (store.info("i").await.spent, family("i").await),
            (spent(GREATEST, 5), spent(GREATEST, 5))
        );
        let info = RunInfo { spent: spent(3, 1 << 63), ..store.info("i").await };
        let rebuilt = Rebuilt { info, emissions: None, questions: Vec::new() };
        assert!(store.rebuild(rebuilt).await.unwrap());
        assert_eq!(store.info("i").await.spent, spent(3, GREATEST));
        assert_eq!(family("i").await.micros, GREATEST);
    }
}

pub async fn an_import_knows_which_signals_came_and_which_questions_are_answered(stores: Vec<Shop>) {
    for store in stores {
        let module = store.put_module("w", b"module").await.unwrap();
        let answer =
            |step| MessageBody::Answer { step: Step(step), outcome: Ok(Json::null()), by: None, note: None };
        // One is a round of a chain, the other is alone.
        for (name, chain) in [("r", None), ("r-2", Some(id("first")))] {
            let mut machine = machine(name, module);
            machine.receive("s".to_owned(), Json::null(), Some("taken".to_owned()), Timestamp(20));
            let mut run = imported(&mut machine);
            run.info.links.chain = chain;
            run.inbox = [signal("s", Some("untaken")), answer(3)].map(|body| (Timestamp(5), body)).to_vec();
            run.questions = vec![question(3), question(4)];
            store.import(run).await.unwrap();
            for known in ["taken", "untaken"] {
                assert_eq!(post(&store, name, signal("s", Some(known))).await, Posted::Duplicate, "{known}");
            }
            assert_eq!(post(&store, name, signal("s", Some("new"))).await, Posted::Added);
            let open = async || {
                let open = store.questions(Some(&id(name)), None, 9).await.unwrap();
                open.into_iter().map(|open| open.step.0).collect::<Vec<_>>()
            };
            assert_eq!(open().await, [4]);
            assert_eq!(post(&store, name, answer(3)).await, Posted::NoQuestion);
            assert_eq!(post(&store, name, answer(4)).await, Posted::Added);
            // Nor are they asked again when what is kept of the run is made anew.
            let questions = vec![question(3), question(4), question(5)];
            let rebuilt = Rebuilt { info: store.info(name).await, emissions: None, questions };
            assert!(store.rebuild(rebuilt).await.unwrap());
            assert_eq!(open().await, [5]);
            assert_eq!(post(&store, name, answer(4)).await, Posted::NoQuestion);
        }
    }
}

pub async fn behind_all_positions_there_is_nothing(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let run = id("r");
        let at = Timestamp(1);
        let log =
            LogLine { number: 0, at, level: LogLevel::Info, message: "m".to_owned(), fields: Vec::new() };
        let emissions = vec![
            Emission::Log(log),
            Emission::State { key: "k".to_owned(), value: Json::null(), at },
            Emission::Message { name: "n".to_owned(), payload: Json::null(), at },
        ];
        let questions = vec![question(3)];
        store.append(Append { emissions, questions, ..store.with("r", None) }).await.unwrap();
        let line = |kind| NewTranscript { step: Step(1), attempt: 1, at, kind, text: "t".to_owned() };
        let lines = vec![line(TranscriptKind::Answer), line(TranscriptKind::Heartbeat)];
        store.transcribe(&run, lines).await.unwrap();
        let act = Act {
            number: 0,
            at,
            who: "ada".to_owned(),
            act: "runs.cancel".to_owned(),
            target: "r".to_owned(),
            result: "asked".to_owned(),
        };
        store.record_act(act).await.unwrap();
        let delivery = NewDelivery {
            sink: "s".to_owned(),
            message: "m".to_owned(),
            event: "e".to_owned(),
            run: run.clone(),
            body: "{}".to_owned(),
        };
        assert_eq!(store.put_deliveries(vec![delivery]).await, Ok(1));
        store.hold_cursor("c", "me", 50).await.unwrap();
        for beyond in [GREATEST, GREATEST + 1, u64::MAX] {
            let position = Position(beyond);
            assert_eq!(store.journal(&run, position).await, Ok(Vec::new()));
            assert_eq!(store.journal_part(&run, position, 9).await, Ok(Vec::new()));
            assert_eq!(store.changes(beyond, 9).await, Ok(Vec::new()));
            assert_eq!(store.logs(&run, beyond, 9).await, Ok(Vec::new()));
            assert_eq!(store.messages(&run, Some(beyond), 9).await, Ok(Vec::new()));
            assert_eq!(store.published(&run, None, Some(beyond), 9).await, Ok(Vec::new()));
            assert_eq!(store.latest(&run, None, Some(beyond), 9).await, Ok(Vec::new()));
            let filter = TranscriptFilter { after: beyond, ..TranscriptFilter::default() };
            assert_eq!(store.transcript(&run, filter, 9).await, Ok(Vec::new()));
            let step = Step(beyond);
            let filter = TranscriptFilter { step: Some(step), ..TranscriptFilter::default() };
            assert_eq!(store.transcript(&run, filter, 9).await, Ok(Vec::new()));
            assert_eq!(store.last_heartbeat(&run, step).await, Ok(None));
            assert_eq!(store.question(&run, step).await, Ok(None));
            assert_eq!(store.ended_children(&run, &[step]).await, Ok(Vec::new()));
            let answer = MessageBody::Answer { step, outcome: Ok(Json::null()), by: None, note: None };
            assert_eq!(post(&store, "r", answer).await, Posted::NoQuestion);
            // Before them is everything.
            assert_eq!(store.acts(Some(beyond), 9).await.unwrap().len(), 1);
            let filter = DeliveryFilter { before: Some(beyond), ..DeliveryFilter::default() };
            assert_eq!(store.deliveries(filter, 9).await.unwrap().len(), 1);
            assert_eq!(store.redeliver(vec![beyond]).await, Ok(0));
            assert_eq!(store.settle_delivery(beyond, 0, Settled::Delivered).await, Ok(false));
            store.set_starts(store.mine, &run, Epoch(beyond), 9).await.unwrap();
            let advance = Advance {
                name: "c".to_owned(),
                holder: "me".to_owned(),
                place: beyond,
                hold_ms: beyond,
                deliveries: Vec::new(),
            };
            assert_eq!(store.advance_cursor(advance).await, Ok(true));
            assert_eq!(store.hold_cursor("c", "me", beyond).await, Ok(Some(GREATEST)));
            assert_eq!(store.hold_cursor("c", "you", 50).await, Ok(None), "it is held for so long");
            let claimed = store.claim_deliveries("s", beyond, 9).await.unwrap();
            assert_eq!(store.claim_deliveries("s", beyond, 9).await, Ok(Vec::new()));
            for one in claimed {
                let again = Settled::Again { in_ms: 0, said: "503".to_owned() };
                assert_eq!(store.settle_delivery(one.number, one.tries, again).await, Ok(true));
            }
        }
        assert_eq!(store.opened(store.mine, "r").await.starts, 0);
    }
}

/// A run whose commits are read in parts of five, one and two.
async fn large(store: &Shop, run: &str) -> Machine {
    let (mut machine, created) = create(store, run, None).await;
    created.unwrap();
    for bytes in [0, CHANGES_BYTES / 3, CHANGES_BYTES / 3, CHANGES_BYTES / 3, 2 * CHANGES_BYTES, 0, 0] {
        machine.receive("s".to_owned(), Json::string(&"x".repeat(bytes)), None, Timestamp(20));
        store.append(store.with(run, Some(row(&mut machine)))).await.unwrap();
    }
    machine
}

pub async fn changes_come_in_parts_of_some_bytes(stores: Vec<Shop>) {
    for store in stores {
        large(&store, "large").await;
        let (mut place, mut parts) = (0, Vec::new());
        loop {
            let part = store.changes(place, 100).await.unwrap();
            let Some(last) = part.last() else { break };
            assert_eq!(Change::may_go_on(&part, 100), parts.len() < 2);
            place = last.place;
            parts.push(part.len());
        }
        assert_eq!(parts, [5, 1, 2]);
        assert_eq!(store.changes(0, 3).await.unwrap().len(), 3);
    }
}

pub async fn a_journal_is_read_by_parts_of_some_bytes(stores: Vec<Shop>) {
    for store in stores {
        let machine = large(&store, "large").await;
        let (mut next, mut parts) = (Position(0), Vec::new());
        loop {
            let part = store.journal_part(&id("large"), next, 100).await.unwrap();
            let Some(last) = part.last() else { break };
            assert_eq!(part[0].first, next);
            next = last.end();
            parts.push(part.len());
        }
        assert_eq!((parts, next.0), (vec![5, 1, 2], machine.entries()));
        assert_eq!(store.journal_part(&id("large"), Position(0), 3).await.unwrap().len(), 3);
    }
}
