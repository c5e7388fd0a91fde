//! Runs that are paused.

use super::*;

pub async fn a_pause_holds_up_no_request_to_stop(stores: Vec<Shop>) {
    for store in stores {
        let cancel = || MessageBody::Cancel { reason: None };
        for (run, next) in
            [("p", Next::Pause { if_asked: true }), ("f", Next::Refuse { reason: "other".to_owned() })]
        {
            create(&store, run, None).await.1.unwrap();
            assert_eq!(post(&store, run, MessageBody::Pause).await, Posted::Added);
            assert_eq!(post(&store, run, cancel()).await, Posted::Added);
            // It came in after the driver had looked.
            store.append(Append { next, ..store.with(run, None) }).await.unwrap();
            assert_eq!(store.due(9, Wanted::default()).await.0, [run]);
        }
        // What is to stop is not paused any more, whoever advances it.
        for run in ["held", "free"] {
            create(&store, run, None).await.1.unwrap();
            if run == "free" {
                park(&store, run, None, &[]).await;
            }
            assert_eq!(post(&store, run, cancel()).await, Posted::Added);
            assert_eq!(post(&store, run, MessageBody::Pause).await, Posted::Stopping);
        }
        assert_eq!(store.due(9, Wanted::default()).await.0, ["free"]);
        // Also when the request was recorded.
        let inbox = store.inbox(&id("held"), Part::Next).await.unwrap();
        let consumed = inbox.messages.iter().map(|message| message.id).collect();
        store.append(Append { consumed, ..store.with("held", None) }).await.unwrap();
        assert_eq!(post(&store, "held", MessageBody::Pause).await, Posted::Stopping);
    }
}

pub async fn a_paused_run_is_nobodys_until_somebody_asks(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "held", None).await.1.unwrap();
        create(&store, "free", None).await.1.unwrap();
        park(&store, "free", Some(50), &["go"]).await;
        // The one that is advanced is told; the other is paused on the spot.
        for run in ["held", "free"] {
            assert_eq!(post(&store, run, MessageBody::Pause).await, Posted::Added);
        }
        assert_eq!(store.bodies("held").await, [MessageBody::Pause]);
        assert!(store.bodies("free").await.is_empty());
        store
            .append(Append { next: Next::Pause { if_asked: true }, ..store.with("held", None) })
            .await
            .unwrap();
        for run in ["held", "free"] {
            post(&store, run, signal("go", None)).await;
            assert_eq!(store.info(run).await.state, RunState::Paused);
        }
        store.at(9_000);
        assert!(store.due(9, Wanted::default()).await.0.is_empty());
        assert!(store.unpause(&id("free")).await.unwrap());
        assert!(!store.unpause(&id("free")).await.unwrap());
        assert_eq!(store.due(9, Wanted::default()).await.0, ["free"]);
    }
}

pub async fn a_run_is_not_paused_once_somebody_wants_it_to_go_on(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let pause = |if_asked| Append { next: Next::Pause { if_asked }, ..store.with("r", None) };
        assert_eq!(post(&store, "r", MessageBody::Pause).await, Posted::Added);
        // Its host has read that, and has a call to wait for.
        assert!(store.unpause(&id("r")).await.unwrap());
        assert!(store.bodies("r").await.is_empty());
        assert!(!store.unpause(&id("r")).await.unwrap());
        assert!(store.append(pause(true)).await.unwrap().due);
        assert_eq!(store.info("r").await.state, RunState::Running);
        // It is still the host's, and can be asked again.
        assert_eq!(post(&store, "r", MessageBody::Pause).await, Posted::Added);
        assert!(!store.append(pause(true)).await.unwrap().due);
        assert_eq!(store.info("r").await.state, RunState::Paused);
    }
}

pub async fn a_pause_outlives_those_who_only_look_at_the_run(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        // However often it is asked for.
        for _ in 0..3 {
            assert_eq!(post(&store, "r", MessageBody::Pause).await, Posted::Added);
        }
        assert_eq!(store.bodies("r").await, [MessageBody::Pause]);
        store.append(Append { next: Next::Pause { if_asked: true }, ..store.with("r", None) }).await.unwrap();
        assert!(store.bodies("r").await.is_empty());
        // Whoever has it next, if the one that looks dies, or wants to terminate it, is to pause it.
        for how in [ClaimHow::AsItIs, ClaimHow::Seize] {
            let session = store.begin_session(&owner(4), LEASE).await.unwrap();
            let claimed = store.claim_as(session, "r", how).await;
            let Claimed::Yes(opened) = claimed else { panic!("{claimed:?}") };
            assert_eq!(opened.inbox.messages.len(), 1);
            store.fence(session, Fence::Dead).await.unwrap();
            assert_eq!(store.bodies("r").await, [MessageBody::Pause]);
            let opened = store.opened(store.other, "r").await;
            let consumed = opened.inbox.messages.iter().map(|message| message.id).collect();
            let next = Next::Pause { if_asked: false };
            let again = Append::new(id("r"), store.other, opened.epoch, Timestamp(0), next);
            store.append(Append { consumed, ..again }).await.unwrap();
            assert!(store.bodies("r").await.is_empty());
        }
        // Whoever wants it to go on has it without that.
        let third = store.begin_session(&owner(3), LEASE).await.unwrap();
        let claimed = store.claim_as(third, "r", ClaimHow::Asked).await;
        let Claimed::Yes(opened) = claimed else { panic!("{claimed:?}") };
        assert!(opened.inbox.messages.is_empty());
    }
}
