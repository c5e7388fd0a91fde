//! Runs that are deleted.

use super::*;

/// Whoever reads page after page meets every run that is there all the time, whatever is deleted meanwhile.
pub async fn pages_go_on_where_they_were_when_the_run_before_them_is_deleted(stores: Vec<Shop>) {
    for store in stores {
        for run in ["a", "b", "c", "d"] {
            create(&store, run, None).await.1.unwrap();
        }
        let page = async |before| {
            let runs = store.runs(RunFilter { before, limit: 2, ..RunFilter::default() }).await.unwrap();
            let ids: Vec<_> = runs.iter().map(|info| info.id.to_string()).collect();
            (runs.last().map(|info| info.number), ids)
        };
        let (last, ids) = page(None).await;
        assert_eq!(ids, ["d", "c"]);
        for run in ["c", "d"] {
            park(&store, run, None, &[]).await;
            assert_eq!(store.delete(&id(run)).await.unwrap(), Deleted::Yes);
        }
        create(&store, "e", None).await.1.unwrap();
        assert_eq!(page(last).await.1, ["b", "a"]);
        assert_eq!(page(Some(u64::MAX)).await.1, ["e", "b"]);
        let before = RunFilter { before: last, ..RunFilter::default() };
        assert_eq!(store.count_runs(before).await.unwrap(), 2);
    }
}

pub async fn a_deleted_run_leaves_nothing_but_its_id(stores: Vec<Shop>) {
    for store in stores {
        let (_, created) = create(&store, "r", Some("k")).await;
        created.unwrap();
        let run = id("r");
        let held = Deleted::Held { session: store.mine, owner: owner(1), left_ms: LEASE };
        assert_eq!(store.delete(&run).await.unwrap(), held);
        store.append(Append { questions: vec![question(1)], ..store.with("r", None) }).await.unwrap();
        park(&store, "r", None, &[]).await;
        post(&store, "r", signal("s", Some("1"))).await;
        let rate = Rate { per_minute: 60, burst: 1 };
        let waits = |run, step| pass("provider:p", rate, run, step);
        let turns = store.take_turns(vec![waits("r", 1), waits("r", 2), waits("s", 1)]).await.unwrap();
        let place = store.changes(0, 10).await.unwrap().last().unwrap().place;
        assert_eq!(store.delete(&run).await.unwrap(), Deleted::Yes);
        // Turns of its steps are others'.
        assert!(turns[1].is_some() && turns[1] < turns[2], "{turns:?}");
        assert_eq!(store.take_turns(vec![waits("s", 2)]).await.unwrap(), [turns[1]]);
        assert_eq!(store.delete(&run).await.unwrap(), Deleted::NoSuchRun);
        assert_eq!(store.run(&run).await.unwrap(), None);
        assert!(store.questions(None, None, 10).await.unwrap().is_empty());
        assert_eq!(create(&store, "r", None).await.1, Err(StoreError::IdUsed { id: run }));
        // Its key is free, and places of commits are not given out twice.
        assert_eq!(create(&store, "s", Some("k")).await.1.unwrap(), Created::New);
        let changes = store.changes(0, 10).await.unwrap();
        assert!(changes.iter().all(|change| change.place > place && change.run == id("s")), "{changes:?}");
        let module = Digest::of(b"module");
        assert_eq!(store.delete_unused_modules(Timestamp(u64::MAX)).await.unwrap(), 0);
        park(&store, "s", None, &[]).await;
        store.delete(&id("s")).await.unwrap();
        assert_eq!(store.delete_unused_modules(Timestamp(u64::MAX)).await.unwrap(), 1);
        assert_eq!(store.module(module).await.unwrap(), None);
    }
}

pub async fn only_what_is_still_as_it_was_chosen_is_deleted(stores: Vec<Shop>) {
    for store in stores {
        for run in ["fails", "stays"] {
            create(&store, run, None).await.1.unwrap();
            let failure = Failure::new(FailureKind::Rejected, "no");
            let next = Next::End { outcome: Err(failure), spent: Spent::default() };
            store.append(Append { next, ..store.with(run, None) }).await.unwrap();
        }
        let ended = DeleteIf {
            states: vec![RunState::Completed, RunState::Failed, RunState::Cancelled, RunState::Continued],
            idle_since: Some(Timestamp(30)),
        };
        // Somebody retries it, and it waits: nobody has it then.
        let opened = match store.claim_as(store.mine, "fails", ClaimHow::Reopen).await {
            Claimed::Yes(opened) => opened,
            other => panic!("{other:?}"),
        };
        assert_eq!(store.delete_if(&id("fails"), ended.clone()).await, Ok(Deleted::Changed), "it is held");
        let next = Next::Park(Waiting::default());
        let park = Append { epoch: opened.epoch, next, ..store.with("fails", None) };
        store.append(park).await.unwrap();
        assert_eq!(store.delete_if(&id("fails"), ended.clone()).await, Ok(Deleted::Changed));
        assert_eq!(state_of(&store, "fails").await, RunState::Waiting);
        // What has ended has done so lately, or long ago.
        let lately = DeleteIf { idle_since: Some(Timestamp(10)), ..ended.clone() };
        assert_eq!(store.delete_if(&id("stays"), lately).await, Ok(Deleted::Changed));
        let other = DeleteIf { states: vec![RunState::Completed], ..DeleteIf::default() };
        assert_eq!(store.delete_if(&id("stays"), other).await, Ok(Deleted::Changed));
        assert_eq!(store.delete_if(&id("stays"), ended.clone()).await, Ok(Deleted::Yes));
        assert_eq!(store.delete_if(&id("stays"), ended).await, Ok(Deleted::NoSuchRun));
        let waits = DeleteIf { states: vec![RunState::Waiting], ..DeleteIf::default() };
        assert_eq!(store.delete_if(&id("fails"), waits).await, Ok(Deleted::Yes));
    }
}
