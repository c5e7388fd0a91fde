//! Children and rounds.

use super::*;

/// A child of `parent` at a step, as a driver makes it.
pub fn child(parent: &mut Machine, step: u64, name: Option<&str>, on_close: OnParentClose) -> NewRun {
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
pub fn next_round(old: &Machine, name: &str) -> NewRun {
    started(round_after(old, name))
}

pub fn round_after(old: &Machine, name: &str) -> Started {
    let (first, round) = old.round();
    let (first, from) = (first.clone(), old.run().clone());
    let origin = Origin::Continued { first, from, round: round + 1, spent: Spent::default() };
    Started { run: id(name), origin: Some(origin), ..old.started().clone() }
}

fn started(started: Started) -> NewRun {
    let mut machine = Machine::start(started, Timestamp(15));
    let rows = machine.take_unsaved().map(Row::from).into_iter().collect();
    NewRun::new(&machine, rows)
}

pub async fn children_are_cancelled_with_their_parent_unless_they_are_abandoned(stores: Vec<Shop>) {
    for store in stores {
        let (mut parent, _) = create(&store, "p", None).await;
        let children = vec![
            child(&mut parent, 1, None, OnParentClose::Cancel),
            child(&mut parent, 2, Some("left"), OnParentClose::Abandon),
            child(&mut parent, 3, None, OnParentClose::Cancel),
        ];
        store.append(Append { children, ..store.with("p", None) }).await.unwrap();
        let is_cancelled = async |run: &str| {
            matches!(&store.bodies(run).await[..], [MessageBody::Cancel { reason: Some(reason) }]
                if reason.contains("parent"))
        };
        store.append(Append { dropped: vec![Step(1), Step(2)], ..store.with("p", None) }).await.unwrap();
        assert!(is_cancelled("p.1").await && !is_cancelled("p.3").await);
        store.append(end(store.mine, "p", 1)).await.unwrap();
        assert!(is_cancelled("p.3").await);
        assert!(store.bodies("left").await.is_empty());
    }
}

pub async fn a_child_that_is_deleted_is_a_failure_of_its_parent(stores: Vec<Shop>) {
    for store in stores {
        let (mut parent, _) = create(&store, "p", None).await;
        let children = vec![child(&mut parent, 1, None, OnParentClose::Cancel)];
        store.append(Append { children, ..store.with("p", None) }).await.unwrap();
        assert_eq!(store.delete(&id("p.1")).await.unwrap(), Deleted::Yes);
        assert!(matches!(
            &store.bodies("p").await[..],
            [MessageBody::Child { outcome: Err(failure), .. }] if failure.message == "p.1 was deleted"
        ));
    }
}

pub async fn a_run_continues_as_another_with_what_is_in_its_inbox(stores: Vec<Shop>) {
    for store in stores {
        let (mut first, _) = create(&store, "r", None).await;
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Added);
        let next =
            |machine: &Machine, name: &str| Next::Continue { run: Box::new(next_round(machine, name)) };
        // An id that is somebody else's changes nothing.
        create(&store, "taken", None).await.1.unwrap();
        let taken = Append { next: next(&first, "taken"), ..store.with("r", None) };
        assert_eq!(store.append(taken).await, Err(StoreError::IdTaken { id: id("taken") }));
        let goes_on = next(&first, "r-2");
        first.continue_as(id("r-2"), Timestamp(50));
        let row = Some(row(&mut first));
        store.append(Append { next: goes_on, ..store.with("r", row) }).await.unwrap();
        let old = store.run(&id("r")).await.unwrap().unwrap();
        assert_eq!((old.state, old.links.next.clone()), (RunState::Continued, Some(id("r-2"))));
        assert_eq!(old.links, Links::of(&first));
        let new = store.run(&id("r-2")).await.unwrap().unwrap();
        assert_eq!((new.state, new.links.root, new.links.chain), (RunState::Queued, id("r"), Some(id("r"))));
        assert_eq!(store.bodies("r-2").await, [signal("s", Some("1"))]);
        assert!(store.bodies("r").await.is_empty());
        // What is sent to the first goes to the latest, and is still delivered once.
        assert_eq!(post(&store, "r", signal("s", Some("2"))).await, Posted::Continued(id("r-2")));
        assert_eq!(post(&store, "r-2", signal("s", Some("1"))).await, Posted::Duplicate);
        assert_eq!(post(&store, "r-2", signal("s", Some("2"))).await, Posted::Added);
        let rounds = RunFilter { chain: Some(id("r")), ..RunFilter::default() };
        assert_eq!(store.runs(rounds).await.unwrap().len(), 2);
    }
}

pub async fn earlier_rounds_stay_as_long_as_the_chain_goes_on(stores: Vec<Shop>) {
    for store in stores {
        let (first, _) = create(&store, "r", None).await;
        let next = Next::Continue { run: Box::new(next_round(&first, "r-2")) };
        store.append(Append { next, ..store.with("r", None) }).await.unwrap();
        assert_eq!(store.delete(&id("r")).await.unwrap(), Deleted::Needed);
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Continued(id("r-2")));
        let opened = store.opened(store.mine, "r-2").await;
        store.append(end(store.mine, "r-2", opened.epoch.0)).await.unwrap();
        assert_eq!(store.delete(&id("r")).await.unwrap(), Deleted::Yes);
    }
}

pub async fn a_child_begins_and_ends_with_an_entry_of_its_parent(stores: Vec<Shop>) {
    for store in stores {
        let (mut parent, _) = create(&store, "p", None).await;
        create(&store, "other", None).await.1.unwrap();
        let cancel = OnParentClose::Cancel;
        let children =
            vec![child(&mut parent, 1, None, cancel), child(&mut parent, 2, Some("other"), cancel)];
        // The child is not there before the entry is, and the id of the second is taken.
        let begun = Append { children: children.clone(), ..store.with("p", None) };
        let stale = Append { epoch: Epoch(9), ..begun.clone() };
        assert!(matches!(store.append(stale).await, Err(StoreError::Fenced { .. })));
        assert_eq!(store.run(&id("p.1")).await.unwrap(), None);
        let appended = store.append(begun.clone()).await.unwrap();
        assert!(appended.due && appended.wake == [Wake::Due], "{appended:?}");
        assert_eq!(state_of(&store, "p.1").await, RunState::Queued);
        assert!(matches!(
            &store.bodies("p").await[..],
            [MessageBody::Child { step: Step(2), outcome: Err(failure), .. }]
                if failure.message.contains("the run other already exists")
        ));
        // Once more is the same.
        let again = Append { children: children[..1].to_vec(), ..store.with("p", None) };
        assert!(!store.append(again).await.unwrap().due);
        let info = store.info("p.1").await;
        assert_eq!((info.parent, info.links.step, info.links.root), (Some(id("p")), Some(Step(1)), id("p")));
        let known = RunFilter { parent: Some(id("p")), ..RunFilter::default() };
        assert_eq!(store.runs(known).await.unwrap().len(), 1);

        let inbox = store.inbox(&id("p"), Part::Next).await.unwrap();
        let consumed = inbox.messages.iter().map(|message| message.id).collect();
        let next = Next::Park(Waiting::default());
        assert!(!store.append(Append { consumed, next, ..store.with("p", None) }).await.unwrap().due);
        // The child is taken up and ends: the parent is due with its result.
        store.at(50);
        assert_eq!(store.due(9, Wanted::default()).await.0, ["p.1"]);
        let spent = Spent { tokens: 3, micros: 4, time_ms: 0 };
        let go = Append::new(id("p.1"), store.other, Epoch(2), Timestamp(35), Next::Go);
        store.append(Append { ledger: Some((spent, Budget::default())), ..go }).await.unwrap();
        let ended = store.append(end(store.other, "p.1", 2)).await.unwrap();
        assert_eq!(ended.wake, [Wake::Run(id("p"))]);
        assert_eq!(store.due(9, Wanted::default()).await.0, ["p"]);
        let spent = Spent { tokens: 5, micros: 7, time_ms: 1 };
        let told = MessageBody::Child { step: Step(1), run: id("p.1"), outcome: Ok(Json::null()), spent };
        assert_eq!(store.bodies("p").await, [told]);
        let ended = store.ended_children(&id("p"), &[Step(1), Step(2)]).await.unwrap();
        assert_eq!(ended.iter().map(|info| info.id.clone()).collect::<Vec<_>>(), [id("p.1")]);
        assert!(store.ended_children(&id("p"), &[Step(2)]).await.unwrap().is_empty());
        // What it spent stays with the family when it is gone.
        store.delete(&id("p.1")).await.unwrap();
        assert_eq!(store.family(&id("p")).await.unwrap().spent.tokens, 3);
    }
}

pub async fn the_last_round_that_is_left_of_a_chain_is_not_passed_on_to_itself(stores: Vec<Shop>) {
    for store in stores {
        let (first, _) = create(&store, "r", None).await;
        let next = Next::Continue { run: Box::new(next_round(&first, "r-2")) };
        store.append(Append { next, ..store.with("r", None) }).await.unwrap();
        let opened = store.opened(store.mine, "r-2").await;
        store.append(end(store.mine, "r-2", opened.epoch.0)).await.unwrap();
        assert_eq!(store.delete(&id("r-2")).await.unwrap(), Deleted::Yes);
        for body in [signal("s", None), MessageBody::Cancel { reason: None }, MessageBody::Pause] {
            assert_eq!(post(&store, "r", body).await, Posted::Ended);
        }
    }
}
