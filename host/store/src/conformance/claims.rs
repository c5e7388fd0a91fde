//! Who advances a run: sessions and claims.

use super::*;

pub async fn a_session_is_renewed_for_all_its_runs_and_fenced_as_a_whole(stores: Vec<Shop>) {
    for store in stores {
        let mut machines = Vec::new();
        for run in ["a", "b"] {
            machines.push(create(&store, run, None).await.0);
        }
        let sessions = store.sessions().await.unwrap();
        let mine = sessions.iter().find(|session| session.id == store.mine).unwrap();
        assert_eq!((&mine.owner, mine.left_ms), (&owner(1), LEASE));
        let held = Claimed::Held { session: store.mine, owner: owner(1), left_ms: LEASE };
        assert_eq!(store.claim_as(store.other, "a", ClaimHow::Asked).await, held);
        // The time of day may jump as it likes.
        store.at(1_000_000);
        assert_eq!(store.claim_as(store.other, "a", ClaimHow::Asked).await, held);
        assert_eq!(store.fence(store.mine, Fence::IfOver).await.unwrap(), 0);
        store.ticks(LEASE - 1);
        assert!(matches!(store.keep(store.mine).await.unwrap(), Kept::Until { .. }));
        store.ticks(2 * LEASE - 2);
        let held = store.claim_as(store.other, "a", ClaimHow::Asked).await;
        assert!(matches!(held, Claimed::Held { left_ms: 1, .. }), "{held:?}");
        // It is over, and yet its owner's, until somebody wants it.
        store.ticks(3 * LEASE);
        store.append(store.with("a", None)).await.unwrap();
        assert!(matches!(store.keep(store.mine).await.unwrap(), Kept::Until { .. }));
        store.ticks(5 * LEASE);
        assert_eq!(store.fence(store.mine, Fence::IfOver).await.unwrap(), 2);
        assert_eq!(store.keep(store.mine).await.unwrap(), Kept::Fenced);
        let row = received(&mut machines[0]);
        let late = store.append(store.with("a", Some(row))).await;
        assert_eq!(late, Err(StoreError::Fenced { run: id("a") }));
        assert_eq!(store.claim(store.mine, &id("a"), ClaimHow::Asked).await, Err(StoreError::SessionOver));
        store.keep(store.other).await.unwrap();
        let (mut due, _, _) = store.due(9, Wanted::default()).await;
        due.sort();
        assert_eq!(due, ["a", "b"]);
        // Of a claim that nobody knows of it can be rid.
        assert_eq!(store.shed(store.other, vec![id("a")]).await.unwrap(), 1);
        assert_eq!(store.due(9, Wanted::default()).await.0, ["b"]);
        // A session that ends in order leaves its runs at once, and without a stain.
        assert_eq!(store.end_session(store.other).await.unwrap(), 2);
        let third = store.begin_session(&owner(3), LEASE).await.unwrap();
        assert_eq!(store.opened(third, "a").await.starts, 1);
    }
}

pub async fn whoever_comes_for_a_run_of_a_session_that_is_over_gets_it(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        store.ticks(LEASE);
        let opened = store.opened(store.other, "r").await;
        assert_eq!((opened.epoch, opened.starts, opened.was), (Epoch(2), 1, RunState::Running));
        assert_eq!(store.append(store.with("r", None)).await, Err(StoreError::Fenced { run: id("r") }));
        // Whoever has it gets it once more.
        assert_eq!(store.opened(store.other, "r").await.epoch, Epoch(3));
        let none = store.claim(store.other, &id("x"), ClaimHow::Asked).await.unwrap();
        assert_eq!(none, Claimed::NoSuchRun);
    }
}

pub async fn a_run_is_seized_from_a_session_that_lives(stores: Vec<Shop>) {
    for store in stores {
        for run in ["r", "s"] {
            create(&store, run, None).await.1.unwrap();
        }
        let mut held = store.held(store.mine).await.unwrap();
        held.sort();
        assert_eq!(held, [(id("r"), Epoch(1)), (id("s"), Epoch(1))]);
        let Claimed::Yes(opened) = store.claim_as(store.other, "r", ClaimHow::Seize).await else {
            panic!("it is had")
        };
        assert_eq!((opened.epoch, opened.was), (Epoch(2), RunState::Running));
        // Only that run is lost, and nothing is appended to it any more by whoever had it.
        assert_eq!(store.append(store.with("r", None)).await, Err(StoreError::Fenced { run: id("r") }));
        store.append(store.with("s", None)).await.unwrap();
        assert_eq!(store.held(store.mine).await.unwrap(), [(id("s"), Epoch(1))]);
        assert_eq!(store.held(store.other).await.unwrap(), [(id("r"), Epoch(2))]);
        let none = store.claim_as(store.other, "x", ClaimHow::Seize).await;
        assert_eq!(none, Claimed::NoSuchRun);
    }
}

pub async fn a_claim_opens_the_run_in_one_go(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        let row = received(&mut machine);
        let head = row.head;
        let given = Some(Given::Counted(3));
        store.append(Append { given, ..store.with("r", Some(row)) }).await.unwrap();
        park(&store, "r", Some(500), &["go"]).await;
        post(&store, "r", signal("go", None)).await;
        let opened = store.opened(store.other, "r").await;
        assert_eq!((opened.rows.len(), opened.rows[1].head), (2, head));
        assert_eq!((opened.given, opened.module), (Given::Counted(3), Digest::of(b"module")));
        assert_eq!(opened.was, RunState::Waiting);
        assert_eq!(opened.waited.as_ref().unwrap().signals, ["go"]);
        assert_eq!(opened.inbox.messages.len(), 1);
        // The place is that of the last commit.
        let row = received(&mut machine);
        let (session, epoch) = (store.other, Epoch(2));
        let next = Append { session, epoch, after: opened.place, ..store.with("r", Some(row)) };
        store.append(next).await.unwrap();
    }
}

pub async fn what_is_due_is_claimed_together_in_the_order_of_its_time(stores: Vec<Shop>) {
    for store in stores {
        for (run, until) in [("late", Some(300)), ("soon", Some(200)), ("never", None), ("held", None)] {
            create(&store, run, None).await.1.unwrap();
            if run != "held" {
                park(&store, run, until, &["go"]).await;
            }
        }
        store.at(100);
        assert_eq!(store.due(9, Wanted::default()).await, (vec![], false, Some(100)));
        store.at(250);
        assert_eq!(store.due(0, Wanted::default()).await, (vec![], true, Some(50)));
        let before = store.commits();
        assert_eq!(store.due(9, Wanted::default()).await.0, ["soon"]);
        assert_eq!(store.commits(), before + 1);
        post(&store, "never", signal("other", None)).await;
        store.at(300);
        post(&store, "never", signal("go", None)).await;
        assert_eq!(store.due(1, Wanted::default()).await, (vec!["never".to_owned()], true, None));
        assert_eq!(store.due(9, Wanted::default()).await.0, ["late"]);
        assert!(store.due(9, Wanted::default()).await.0.is_empty());
        // What nobody advances any more is due like everything else.
        store.fence(store.mine, Fence::Dead).await.unwrap();
        assert_eq!(store.due(9, Wanted::default()).await.0, ["held"]);
    }
}

pub async fn new_runs_come_behind_those_that_have_begun_and_have_a_share(stores: Vec<Shop>) {
    for store in stores {
        for n in 0..8 {
            enqueue(&store, &format!("new{n}"), None).await;
            create(&store, &format!("begun{n}"), None).await.1.unwrap();
            park(&store, &format!("begun{n}"), Some(10), &[]).await;
        }
        store.at(50);
        let new = |runs: &[String]| runs.iter().filter(|run| run.starts_with("new")).count();
        let (four, _, _) = store.due(4, Wanted::default()).await;
        assert_eq!((four.len(), new(&four)), (4, 1), "{four:?}");
        // One after the other they do not starve either.
        let mut singles = Vec::new();
        for _ in 0..4 {
            singles.extend(store.due(1, Wanted::default()).await.0);
        }
        assert_eq!((singles.len(), new(&singles)), (4, 1), "{singles:?}");
        assert_eq!(store.due(20, Wanted::default()).await.0.len(), 8);
    }
}

pub async fn a_host_takes_only_the_runs_that_it_wants(stores: Vec<Shop>) {
    for store in stores {
        for (run, project) in [("a", Some("/a")), ("b", Some("/b")), ("none", None), ("left", Some("/a"))] {
            enqueue(&store, run, project).await;
        }
        store.at(50);
        let only = |projects: &[Option<&str>]| Wanted {
            projects: Projects::Only(projects.iter().map(|project| project.map(str::to_owned)).collect()),
            except: vec![id("left")],
            ..Wanted::default()
        };
        assert!(store.due(9, only(&[Some("/c")])).await.0.is_empty());
        assert_eq!(store.due(9, only(&[Some("/a")])).await.0, ["a"]);
        assert_eq!(store.due(9, only(&[Some("/a"), None])).await.0, ["none"]);
        let family = |root: &str| Wanted { families: Some(vec![id(root)]), ..Wanted::default() };
        assert!(store.busy_relatives(&id("b")).await.unwrap());
        assert!(store.due(9, family("a")).await.0.is_empty());
        assert_eq!(store.due(9, family("b")).await.0, ["b"]);
        assert!(store.busy_relatives(&id("b")).await.unwrap(), "it is advanced");
        assert_eq!(store.info("b").await.project.as_deref(), Some("/b"));
        let of = RunFilter { project: Some("/a".to_owned()), ..RunFilter::default() };
        assert_eq!(store.runs(of).await.unwrap().len(), 2);
    }
}

pub async fn a_run_belongs_to_the_project_of_its_journal_unless_it_is_said_otherwise(stores: Vec<Shop>) {
    for store in stores {
        let module = store.put_module("w", b"module").await.unwrap();
        let begun = |run: &str| {
            let config = RunConfig { project: Some("/a".to_owned()), ..RunConfig::default() };
            let mut machine = configured(run, module, config);
            let rows = vec![row(&mut machine)];
            (machine, rows)
        };
        let (machine, rows) = begun("here");
        store.create(NewRun::new(&machine, rows)).await.unwrap();
        assert_eq!(store.info("here").await.project.as_deref(), Some("/a"));
        let info = RunInfo { project: None, ..store.info("here").await };
        let rebuilt = Rebuilt { info, emissions: None, questions: Vec::new() };
        assert!(store.rebuild(rebuilt).await.unwrap());
        assert_eq!(store.opened(store.mine, "here").await.project.as_deref(), Some("/a"));
        // A run that comes from another machine, and what it begins here.
        let (machine, rows) = begun("elsewhere");
        let imported = ImportedRun {
            info: RunInfo { project: None, ..RunInfo::of(&machine) },
            rows,
            emissions: 0,
            given: Given::Nothing,
            logs: Vec::new(),
            messages: Vec::new(),
            state: Vec::new(),
            inbox: Vec::new(),
            questions: Vec::new(),
        };
        store.import(imported).await.unwrap();
        assert_eq!(store.info("elsewhere").await.project, None);
        let (machine, rows) = begun("elsewhere.1");
        store.create(NewRun { project: None, ..NewRun::new(&machine, rows) }).await.unwrap();
        assert_eq!(store.opened(store.mine, "elsewhere.1").await.project, None);
    }
}

pub async fn a_run_with_trouble_rests_longer_each_time_until_it_comes_forward(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        let waiting = Waiting { signals: vec!["go".to_owned()], ..Waiting::default() };
        let release = |epoch, waiting: Option<Waiting>| {
            let next = Next::Release { waiting, trouble: Some("no provider".to_owned()) };
            Append { epoch: Epoch(epoch), next, ..store.with("r", None) }
        };
        let mut epoch = 1;
        for rest in [30_000, 60_000, 120_000, 240_000, 480_000, 960_000, 960_000] {
            store.append(release(epoch, Some(waiting.clone()))).await.unwrap();
            let info = store.info("r").await;
            assert_eq!((info.due_at, info.trouble.as_deref()), (Some(Timestamp(rest)), Some("no provider")));
            // Somebody who asks does not wait.
            store.opened(store.mine, "r").await;
            epoch += 1;
        }
        let row = received(&mut machine);
        let go = Append { epoch: Epoch(epoch), ..store.with("r", Some(row)) };
        store.append(go).await.unwrap();
        let until = Waiting { until: Some(Timestamp(7_000)), ..waiting.clone() };
        store.append(release(epoch, Some(until))).await.unwrap();
        assert_eq!(store.info("r").await.due_at, Some(Timestamp(7_000)), "a deadline is sooner");
        assert!(store.due(9, Wanted::default()).await.0.is_empty());
        post(&store, "r", signal("other", None)).await;
        assert!(store.due(9, Wanted::default()).await.0.is_empty());
        post(&store, "r", signal("go", None)).await;
        assert_eq!(store.due(9, Wanted::default()).await.0, ["r"]);
        // Without trouble it is due at once.
        let next = Next::Release { waiting: None, trouble: None };
        let append = Append::new(id("r"), store.other, Epoch(epoch + 1), Timestamp(0), next);
        store.append(append).await.unwrap();
        assert_eq!(store.due(9, Wanted::default()).await.0, ["r"]);
    }
}

pub async fn starts_are_counted_until_the_run_comes_forward(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        let mut session = store.mine;
        for starts in 1..4 {
            store.fence(session, Fence::Dead).await.unwrap();
            session = store.begin_session(&owner(9), LEASE).await.unwrap();
            assert_eq!(store.opened(session, "r").await.starts, starts);
        }
        // Whoever compiles does not count.
        store.set_starts(session, &id("r"), Epoch(4), 2).await.unwrap();
        store.fence(session, Fence::Dead).await.unwrap();
        let opened = store.opened(store.other, "r").await;
        assert_eq!(opened.starts, 3);
        // Whoever has it and begins again, because the store failed, has not been brought down by it.
        let opened = store.opened(store.other, "r").await;
        assert_eq!(opened.starts, 3);
        let row = received(&mut machine);
        let append = Append { session: store.other, epoch: opened.epoch, ..store.with("r", Some(row)) };
        store.append(append).await.unwrap();
        store.fence(store.other, Fence::Dead).await.unwrap();
        let third = store.begin_session(&owner(3), LEASE).await.unwrap();
        assert_eq!(store.opened(third, "r").await.starts, 1);
    }
}

pub async fn only_a_claim_that_reopens_takes_a_run_that_failed(stores: Vec<Shop>) {
    for store in stores {
        for (run, outcome, opens) in [
            ("failed", Err(Failure::new(FailureKind::Failed, "m")), true),
            ("stopped", Err(Failure::new(FailureKind::Cancelled, "m")), true),
            ("done", Ok(Json::null()), false),
        ] {
            create(&store, run, None).await.1.unwrap();
            let end = Next::End { outcome: outcome.clone(), spent: Spent::default() };
            store.append(Append { next: end, ..store.with(run, None) }).await.unwrap();
            let info = store.info(run).await;
            assert_eq!((info.state, info.outcome), (RunState::of(Some(&outcome)), Some(outcome.clone())));
            assert_eq!(store.claim_as(store.other, run, ClaimHow::Asked).await, Claimed::Ended);
            match store.claim_as(store.other, run, ClaimHow::Reopen).await {
                Claimed::Yes(opened) => {
                    assert!(opens);
                    // It can be given back as it was.
                    let Opened { epoch, session, .. } = *opened;
                    let back = Append::new(id(run), session, epoch, Timestamp(0), opened.as_it_was());
                    store.append(back).await.unwrap();
                    assert_eq!(store.info(run).await.outcome, Some(outcome));
                }
                other => assert!(!opens && other == Claimed::Ended, "{run}: {other:?}"),
            }
        }
    }
}

pub async fn a_run_that_was_handed_over_can_be_given_back_as_it_was(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let (waiting, trouble) = (Some(Waiting::default()), Some("no such provider".to_owned()));
        let next = Next::Release { waiting, trouble };
        store.append(Append { next: next.clone(), ..store.with("r", None) }).await.unwrap();
        let opened = store.opened(store.other, "r").await;
        assert_eq!(opened.as_it_was(), next);
        let Opened { epoch, session, .. } = opened;
        store.append(Append::new(id("r"), session, epoch, Timestamp(0), next)).await.unwrap();
        let info = store.info("r").await;
        assert!(info.due_at.is_some(), "nothing that it waits for would ever wake it");
        assert_eq!(info.trouble.as_deref(), Some("no such provider"));
    }
}

pub async fn a_run_whose_epoch_cannot_grow_holds_up_no_others(stores: Vec<Shop>) {
    for store in stores {
        let module = store.put_module("w", b"module").await.unwrap();
        let odd = [("before", GREATEST - 1), ("last", GREATEST), ("beyond", u64::MAX)];
        for (run, epoch) in odd {
            let mut run = imported(&mut machine(run, module));
            run.info.epoch = Epoch(epoch);
            let name = run.info.id.clone();
            store.import(run).await.unwrap();
            assert!(store.unpause(&name).await.unwrap());
        }
        enqueue(&store, "r", None).await;
        let due = store.claim_due(store.other, 9, Wanted::default()).await.unwrap();
        let mut found = Vec::new();
        for claimed in due.runs {
            match claimed {
                Ok(opened) => assert_eq!(opened.run, id("r")),
                Err(Unreadable { run, epoch, error }) => {
                    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
                    let trouble = Next::Release { waiting: None, trouble: Some(error.to_string()) };
                    let release = Append::new(run.clone(), store.other, epoch, Timestamp(0), trouble);
                    store.append(release).await.unwrap();
                    found.push(run.to_string());
                }
            }
        }
        found.sort();
        assert_eq!(found, ["before", "beyond", "last"]);
        let held = store.held(store.other).await.unwrap();
        assert!(matches!(&held[..], [(run, _)] if *run == id("r")), "{held:?}");
        for (run, _) in odd {
            let info = store.info(run).await;
            assert!(info.trouble.is_some_and(|trouble| trouble.contains("epoch")), "it is told");
            let claimed = store.claim_as(store.mine, run, ClaimHow::Asked).await;
            assert!(matches!(claimed, Claimed::Unreadable(_)), "{claimed:?}");
        }
    }
}

/// For rows that a test has changed by hand: the run `whole` is claimed, those that cannot be read are told one by one,
/// and what has no name stays behind.
pub async fn what_can_be_read_is_claimed(store: &Shop, odd: &[&str]) {
    let due = store.claim_due(store.other, 9, Wanted::default()).await.unwrap();
    let (whole, unreadable): (Vec<_>, Vec<_>) = due.runs.into_iter().partition(Result::is_ok);
    assert_eq!(whole.into_iter().map(|run| run.unwrap().run).collect::<Vec<_>>(), [id("whole")]);
    let mut told = Vec::new();
    for Unreadable { run, epoch, error } in unreadable.into_iter().filter_map(Result::err) {
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        let trouble = Next::Release { waiting: None, trouble: Some(error.to_string()) };
        store.append(Append::new(run.clone(), store.other, epoch, Timestamp(0), trouble)).await.unwrap();
        told.push(run.to_string());
    }
    told.sort();
    assert_eq!(told, odd);
    let held = store.held(store.other).await.unwrap();
    assert!(matches!(&held[..], [(run, _)] if *run == id("whole")), "{held:?}");
    // None of them is in the way of what comes then, however little is claimed.
    enqueue(store, "next", None).await;
    assert_eq!(store.due(1, Wanted::default()).await.0, ["next"]);
    let claimed = store.claim_as(store.mine, odd[0], ClaimHow::Asked).await;
    assert!(matches!(claimed, Claimed::Unreadable(_)), "{claimed:?}");
}

pub async fn no_more_is_claimed_at_once_than_can_be_read_at_once(stores: Vec<Shop>) {
    for store in stores {
        store.at(100);
        for (n, size) in [1, CLAIM_BYTES / 2, CLAIM_BYTES / 2, 1, CLAIM_BYTES, 1].into_iter().enumerate() {
            let run = format!("begun{n}");
            let (mut machine, created) = create(&store, &run, None).await;
            created.unwrap();
            grow(&store, &mut machine, &run, size).await;
            park(&store, &run, Some(101 + n as u64), &[]).await;
        }
        for run in ["new0", "new1"] {
            enqueue(&store, run, None).await;
        }
        store.at(200);
        // One look of four has a share of new runs, if one run is claimed, and all have if many are.
        assert_eq!(store.due(9, Wanted::default()).await.0, ["begun0", "begun1", "begun2", "new0"]);
        let (runs, more, _) = store.due(9, Wanted::default()).await;
        assert_eq!((runs, more), (["begun3", "begun4", "new1"].map(str::to_owned).to_vec(), true));
        assert_eq!(store.due(9, Wanted::default()).await, (vec!["begun5".to_owned()], false, None));
    }
}

pub async fn what_was_sent_to_a_run_counts_when_it_is_claimed(stores: Vec<Shop>) {
    for store in stores {
        let payload = Json::string(&"x".repeat(INBOX_BYTES / 2));
        for run in ["a", "b", "c", "d", "e"] {
            create(&store, run, None).await.1.unwrap();
            for _ in 0..2 {
                let body = MessageBody::Signal { name: "s".to_owned(), payload: payload.clone(), id: None };
                post(&store, run, body).await;
            }
        }
        store.fence(store.mine, Fence::Dead).await.unwrap();
        let (runs, more, _) = store.due(9, Wanted::default()).await;
        assert_eq!((runs.len(), more), (CLAIM_BYTES / INBOX_BYTES, true));
        let (runs, more, _) = store.due(9, Wanted::default()).await;
        assert_eq!((runs.len(), more), (5 - CLAIM_BYTES / INBOX_BYTES, false));
    }
}
