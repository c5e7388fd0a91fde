//! Clocks that were ahead, and times that never come.

use super::*;

pub async fn a_run_that_was_parked_by_a_clock_that_was_ahead_is_due_when_it_is_right(stores: Vec<Shop>) {
    for store in stores {
        for (run, until) in [("ahead", 3_700_000), ("right", 200_000)] {
            create(&store, run, None).await.1.unwrap();
            store.at(if run == "ahead" { 3_600_000 } else { 100_000 });
            park(&store, run, Some(until), &[]).await;
        }
        assert_eq!(store.due(9, Wanted::default()).await.0, Vec::<String>::new());
        assert_eq!(store.put_right().await.unwrap(), 1);
        assert_eq!(store.due(9, Wanted::default()).await.0, ["ahead"]);
        assert_eq!(store.put_right().await.unwrap(), 0);
    }
}

pub async fn a_run_that_was_begun_by_a_clock_that_was_ahead_is_due_at_once(stores: Vec<Shop>) {
    for store in stores {
        let module = store.put_module("w", b"module").await.unwrap();
        let mut machine = machine("r", module);
        let rows = vec![row(&mut machine)];
        let new = NewRun { created_at: Timestamp(u64::MAX >> 2), ..NewRun::new(&machine, rows) };
        store.create(new).await.unwrap();
        assert_eq!(store.due(9, Wanted::default()).await.0, ["r"]);
    }
}

pub async fn times_beyond_all_measure_are_never(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        park(&store, "r", Some(u64::MAX), &[]).await;
        store.at(1 << 50);
        assert!(store.due(9, Wanted::default()).await.0.is_empty());
    }
}

pub async fn whatever_was_put_off_by_a_clock_that_was_ahead_is_put_right(stores: Vec<Shop>) {
    const DAYS: u64 = 10 * 86_400_000;
    for store in stores {
        for run in ["parked", "opened"] {
            create(&store, run, None).await.1.unwrap();
        }
        store.at(DAYS);
        // One cannot be advanced before it waits for anything, the other while it waits.
        for (run, waiting) in [("parked", Some(Waiting::default())), ("opened", None)] {
            let next = Next::Release { waiting, trouble: Some("no provider".to_owned()) };
            store.append(Append { next, ..store.with(run, None) }).await.unwrap();
        }
        assert_eq!(
            store.hold_cursor("s", "dead", 10_000).await.unwrap(),
            Some(store.last_place().await.unwrap())
        );
        store.put_deliveries(vec![delivery("s", "m1"), delivery("s", "m2")]).await.unwrap();
        let claimed = store.claim_deliveries("s", 30_000, 2).await.unwrap();
        let again = Settled::Again { in_ms: 5_000, said: "503".to_owned() };
        assert!(store.settle_delivery(claimed[0].number, 1, again.clone()).await.unwrap());
        store.at(1_000);
        assert_eq!(store.due(9, Wanted::default()).await.0, Vec::<String>::new());
        assert_eq!(store.hold_cursor("s", "me", 10_000).await.unwrap(), None);
        assert_eq!(store.put_right().await.unwrap(), 2);
        let mut due = store.due(9, Wanted::default()).await.0;
        due.sort();
        assert_eq!(due, ["opened", "parked"]);
        assert!(store.hold_cursor("s", "me", 10_000).await.unwrap().is_some());
        let claimed = store.claim_deliveries("s", 30_000, 9).await.unwrap();
        assert_eq!(claimed.iter().map(|one| one.what.message.as_str()).collect::<Vec<_>>(), ["m1", "m2"]);
        // What was put off by a clock that is right stays so.
        assert!(store.settle_delivery(claimed[0].number, claimed[0].tries, again).await.unwrap());
        assert_eq!(store.put_right().await.unwrap(), 0);
        assert_eq!(store.hold_cursor("s", "you", 10_000).await.unwrap(), None);
        assert!(store.claim_deliveries("s", 30_000, 9).await.unwrap().is_empty());
    }
}
