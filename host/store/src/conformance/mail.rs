//! What comes from outside: signals, requests, answers.

use super::*;

pub async fn parking_looks_for_what_came_in(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let waiting = Waiting { until: Some(Timestamp(99)), signals: vec!["go".to_owned()], people: false };
        let park = || Append { next: Next::Park(waiting.clone()), ..store.with("r", None) };
        assert_eq!(post(&store, "r", signal("go", None)).await, Posted::Added);
        assert!(store.append(park()).await.unwrap().due);
        assert_eq!(store.run(&id("r")).await.unwrap().unwrap().state, RunState::Running);
        let message = store.inbox(&id("r"), Part::Next).await.unwrap().messages[0].id;
        store.append(Append { consumed: vec![message], ..store.with("r", None) }).await.unwrap();
        // A signal that it does not wait for.
        assert_eq!(post(&store, "r", signal("other", None)).await, Posted::Added);
        assert!(!store.append(park()).await.unwrap().due);
        let info = store.run(&id("r")).await.unwrap().unwrap();
        assert_eq!((info.state, info.waiting, info.lease), (RunState::Waiting, Some(waiting.clone()), None));
        assert_eq!(store.bodies("r").await.len(), 1);
    }
}

pub async fn a_request_to_stop_always_wakes(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        assert_eq!(post(&store, "r", MessageBody::Cancel { reason: None }).await, Posted::Added);
        let park = Append { next: Next::Park(Waiting::default()), ..store.with("r", None) };
        assert!(store.append(park).await.unwrap().due);
    }
}

pub async fn a_signal_with_an_id_is_delivered_once_for_the_life_of_the_run(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Added);
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Duplicate);
        let message = store.inbox(&id("r"), Part::Next).await.unwrap().messages[0].id;
        store.append(Append { consumed: vec![message], ..store.with("r", None) }).await.unwrap();
        assert!(store.bodies("r").await.is_empty());
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Duplicate);
        let end = Next::End { outcome: Ok(Json::null()), spent: Spent::default() };
        store.append(Append { next: end, ..store.with("r", None) }).await.unwrap();
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Duplicate);
        assert_eq!(post(&store, "r", signal("s", Some("2"))).await, Posted::Ended);
        assert_eq!(post(&store, "x", signal("s", None)).await, Posted::NoSuchRun);
    }
}

pub async fn nothing_that_was_sent_vanishes_with_an_end(stores: Vec<Shop>) {
    for store in stores {
        let answer = MessageBody::Answer { step: Step(3), outcome: Ok(Json::null()), by: None, note: None };
        for (run, body) in
            [("s", signal("go", None)), ("a", answer.clone()), ("c", MessageBody::Cancel { reason: None })]
        {
            let (mut machine, _) = create(&store, run, None).await;
            store.append(Append { questions: vec![question(3)], ..store.with(run, None) }).await.unwrap();
            assert_eq!(post(&store, run, body).await, Posted::Added);
            let row = received(&mut machine);
            let next = Next::End { outcome: Ok(Json::null()), spent: Spent::default() };
            let end = Append { next, ..store.with(run, Some(row)) };
            let raced = Err(StoreError::Raced { run: id(run) });
            assert_eq!(store.append(end.clone()).await, raced, "{run}");
            assert_eq!(store.info(run).await.entries, Position(1), "nothing was changed");
            // Also a question may not be closed over an answer.
            if run == "a" {
                let closed = vec![QuestionChange::Closed { step: Step(3) }];
                let close = Append { questions: closed, ..store.with(run, None) };
                assert_eq!(store.append(close).await, raced);
            }
            let inbox = store.inbox(&id(run), Part::Next).await.unwrap();
            let consumed = inbox.messages.iter().map(|message| message.id).collect();
            store.append(Append { consumed, ..end }).await.unwrap();
            assert_eq!(post(&store, run, signal("go", None)).await, Posted::Ended);
        }
    }
}

pub async fn an_answer_after_the_deadline_is_refused(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let QuestionChange::Asked { step, at, question, .. } = question(3) else { unreachable!() };
        let asked = QuestionChange::Asked { step, at, deadline: Some(Timestamp(500)), question };
        store.append(Append { questions: vec![asked], ..store.with("r", None) }).await.unwrap();
        assert_eq!(store.question(&id("r"), Step(3)).await.unwrap().unwrap().deadline, Some(Timestamp(500)));
        let answer = MessageBody::Answer { step, outcome: Ok(Json::null()), by: None, note: None };
        store.at(500);
        assert_eq!(post(&store, "r", answer.clone()).await, Posted::NoQuestion);
        store.at(499);
        assert_eq!(post(&store, "r", answer).await, Posted::Added);
        assert_eq!(store.question(&id("r"), Step(3)).await.unwrap(), None);
    }
}

pub async fn an_inbox_is_read_in_parts_with_requests_first(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        for n in 0..70 {
            post(&store, "r", signal(&n.to_string(), None)).await;
        }
        post(&store, "r", MessageBody::Pause).await;
        post(&store, "r", MessageBody::Cancel { reason: None }).await;
        let run = id("r");
        let first = store.inbox(&run, Part::Next).await.unwrap();
        assert_eq!((first.messages.len(), first.more), (INBOX_MESSAGES, true));
        assert_eq!(first.messages[0].body, MessageBody::Pause);
        assert!(matches!(first.messages[1].body, MessageBody::Cancel { .. }));
        assert_eq!(first.messages[2].body, signal("0", None));
        // All of it by age.
        let (mut all, mut behind) = (Vec::new(), None);
        loop {
            let part = store.inbox(&run, Part::Behind(behind)).await.unwrap();
            behind = part.messages.last().map(|message| message.id);
            all.extend(part.messages.into_iter().map(|message| message.body));
            if !part.more {
                break;
            }
        }
        assert_eq!((all.len(), &all[70]), (72, &MessageBody::Pause));
        let consumed = first.messages.iter().map(|message| message.id).collect();
        store.append(Append { consumed, ..store.with("r", None) }).await.unwrap();
        let rest = store.inbox(&run, Part::Next).await.unwrap();
        assert_eq!((rest.messages.len(), rest.more), (8, false));
        // Large ones come in smaller parts.
        create(&store, "big", None).await.1.unwrap();
        for _ in 0..3 {
            let payload = Json::string(&"x".repeat(INBOX_BYTES / 2));
            post(&store, "big", MessageBody::Signal { name: "s".to_owned(), payload, id: None }).await;
        }
        let part = store.inbox(&id("big"), Part::Next).await.unwrap();
        assert_eq!((part.messages.len(), part.more), (1, true));
        // One that is too large for any part is one, and hides none behind it.
        create(&store, "huge", None).await.1.unwrap();
        for bytes in [INBOX_BYTES + 1, 1] {
            let payload = Json::string(&"x".repeat(bytes));
            post(&store, "huge", MessageBody::Signal { name: "s".to_owned(), payload, id: None }).await;
        }
        for part in [Part::Next, Part::Behind(None)] {
            let part = store.inbox(&id("huge"), part).await.unwrap();
            assert_eq!((part.messages.len(), part.more), (1, true));
        }
        store.fence(store.mine, Fence::Dead).await.unwrap();
        let opened = store.opened(store.other, "huge").await;
        assert_eq!((opened.inbox.messages.len(), opened.inbox.more), (1, true));
    }
}
