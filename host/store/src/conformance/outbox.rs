//! Telling others of what was committed.

use super::*;

pub(super) fn delivery(sink: &str, message: &str) -> NewDelivery {
    NewDelivery {
        sink: sink.to_owned(),
        message: message.to_owned(),
        event: "run.failed".to_owned(),
        run: id("r"),
        body: format!("{{\"id\":\"{message}\"}}\0"),
    }
}

fn advance(holder: &str, place: u64, deliveries: &[NewDelivery]) -> Advance {
    Advance {
        name: "s".to_owned(),
        holder: holder.to_owned(),
        place,
        hold_ms: 100,
        deliveries: deliveries.to_vec(),
    }
}

pub async fn a_cursor_is_one_readers_and_moves_with_what_follows_from_the_commits(stores: Vec<Shop>) {
    for store in stores {
        store.at(1_000);
        create(&store, "r", None).await.1.unwrap();
        let last = store.last_place().await.unwrap();
        assert!(last > 0);
        assert_eq!(store.cursors().await.unwrap(), []);
        // What was there before is nobody's business.
        assert_eq!(store.hold_cursor("s", "a", 100).await.unwrap(), Some(last));
        assert_eq!(store.hold_cursor("s", "b", 100).await.unwrap(), None);
        assert_eq!(store.hold_cursor("s", "a", 100).await.unwrap(), Some(last));
        assert!(!store.advance_cursor(advance("b", last + 9, &[delivery("s", "m0")])).await.unwrap());
        let both = [delivery("s", "m1"), delivery("t", "m1"), delivery("s", "m1")];
        assert!(store.advance_cursor(advance("a", last + 5, &both)).await.unwrap());
        // It does not go back, and what is known is not kept again.
        assert!(store.advance_cursor(advance("a", last + 2, &[delivery("s", "m1")])).await.unwrap());
        let kept = store.deliveries(DeliveryFilter::default(), 9).await.unwrap();
        let kept: Vec<_> =
            kept.iter().map(|one| (one.what.sink.as_str(), one.what.message.as_str())).collect();
        assert_eq!(kept, [("t", "m1"), ("s", "m1")]);
        let cursor = |at, is_held| Cursor {
            name: "s".to_owned(),
            place: last + 5,
            at: Timestamp(at),
            is_held,
            holder: Some("a".to_owned()),
        };
        assert_eq!(store.cursors().await.unwrap(), [cursor(1_000, true)]);
        // Whoever had it is gone, and another one goes on.
        store.at(1_100);
        assert_eq!(store.cursors().await.unwrap(), [cursor(1_000, false)]);
        assert_eq!(store.hold_cursor("s", "b", 100).await.unwrap(), Some(last + 5));
        assert!(!store.advance_cursor(advance("a", last + 6, &[])).await.unwrap());
        // One that is let go is the next one's at once.
        let go = Advance { hold_ms: 0, ..advance("b", last + 5, &[]) };
        assert!(store.advance_cursor(go).await.unwrap());
        assert_eq!(store.cursors().await.unwrap()[0].holder, None);
        assert_eq!(store.hold_cursor("s", "a", 100).await.unwrap(), Some(last + 5));
        assert!(store.drop_cursor("s").await.unwrap());
        assert!(!store.drop_cursor("s").await.unwrap());
        assert_eq!(store.cursors().await.unwrap(), []);
        assert_eq!(store.deliveries(DeliveryFilter::default(), 9).await.unwrap().len(), 1);
    }
}

pub async fn a_delivery_is_tried_by_one_at_a_time_until_it_is_settled(stores: Vec<Shop>) {
    for store in stores {
        store.at(1_000);
        create(&store, "r", None).await.1.unwrap();
        let all = ["m1", "m2", "m3"].map(|message| delivery("s", message));
        assert_eq!(store.put_deliveries(all.to_vec()).await.unwrap(), 3);
        assert_eq!(store.put_deliveries(vec![delivery("s", "m2"), delivery("t", "m2")]).await.unwrap(), 1);
        let names =
            |claimed: &[Delivery]| claimed.iter().map(|one| one.what.message.clone()).collect::<Vec<_>>();
        let claimed = store.claim_deliveries("s", 50, 2).await.unwrap();
        assert_eq!(names(&claimed), ["m1", "m2"]);
        assert_eq!(claimed[0].what, all[0]);
        assert_eq!((claimed[0].tries, claimed[0].next_at), (1, Some(Timestamp(1_050))));
        assert_eq!(names(&store.claim_deliveries("s", 50, 9).await.unwrap()), ["m3"]);
        assert_eq!(store.claim_deliveries("s", 50, 9).await.unwrap(), []);
        let [one, two] = [&claimed[0], &claimed[1]];
        let later = Settled::Again { in_ms: 500, said: "503".to_owned() };
        assert!(store.settle_delivery(one.number, 1, later.clone()).await.unwrap());
        // Whoever has the second one is late, and another one tries it.
        store.at(1_060);
        let again = store.claim_deliveries("s", 50, 9).await.unwrap();
        assert_eq!((names(&again), again[0].tries), (vec!["m2".to_owned(), "m3".to_owned()], 2));
        assert!(!store.settle_delivery(two.number, 1, later).await.unwrap());
        assert!(
            !store.settle_delivery(two.number, 1, Settled::GivenUp { said: "x".to_owned() }).await.unwrap()
        );
        // That it is there counts, whoever brought it.
        assert!(store.settle_delivery(two.number, 1, Settled::Delivered).await.unwrap());
        assert!(!store.settle_delivery(two.number, 2, Settled::Delivered).await.unwrap());
        let given_up = Settled::GivenUp { said: "404".to_owned() };
        assert!(store.settle_delivery(again[1].number, 2, given_up).await.unwrap());
        let load =
            SinkLoad { sink: "s".to_owned(), pending: 1, delivered: 1, given_up: 1, oldest_ms: Some(60) };
        let other =
            SinkLoad { sink: "t".to_owned(), pending: 1, delivered: 0, given_up: 0, oldest_ms: Some(60) };
        assert_eq!(store.sink_loads().await.unwrap(), [load, other]);
        let of = |state| DeliveryFilter {
            sink: Some("s".to_owned()),
            state: Some(state),
            ..DeliveryFilter::default()
        };
        let pending = store.deliveries(of(DeliveryState::Pending), 9).await.unwrap();
        assert_eq!((pending[0].said.as_deref(), pending[0].next_at), (Some("503"), Some(Timestamp(1_500))));
        let lost = store.deliveries(of(DeliveryState::GivenUp), 9).await.unwrap();
        assert_eq!((lost[0].said.as_deref(), lost[0].ended_at), (Some("404"), Some(Timestamp(1_060))));
        assert_eq!(store.redeliver(vec![lost[0].number, 999]).await.unwrap(), 1);
        let again = store.claim_deliveries("s", 50, 9).await.unwrap();
        assert_eq!((names(&again), again[0].tries, &again[0].said), (vec!["m3".to_owned()], 1, &None));
        assert_eq!(store.delete_old_deliveries(Timestamp(1_060)).await.unwrap(), 0);
        assert_eq!(store.delete_old_deliveries(Timestamp(1_061)).await.unwrap(), 1);
        let of_run = DeliveryFilter { run: Some(id("r")), before: Some(9_999), ..DeliveryFilter::default() };
        assert_eq!(store.deliveries(of_run.clone(), 9).await.unwrap().len(), 3);
        // That a run is refused is remembered as long as it is.
        store.at(2_000);
        create(&store, "refused", None).await.1.unwrap();
        let refuse = Next::Refuse { reason: "other".to_owned() };
        store.append(Append { next: refuse, ..store.with("refused", None) }).await.unwrap();
        let told = |message: &str, event: &str| NewDelivery {
            event: event.to_owned(),
            run: id("refused"),
            ..delivery("u", message)
        };
        store.put_deliveries(vec![told("m1", REFUSED_EVENT), told("m2", "run.started")]).await.unwrap();
        for one in store.claim_deliveries("u", 50, 9).await.unwrap() {
            assert!(store.settle_delivery(one.number, 1, Settled::Delivered).await.unwrap());
        }
        assert_eq!(store.delete_old_deliveries(Timestamp(2_001)).await.unwrap(), 1);
        let of_refused = DeliveryFilter { run: Some(id("refused")), ..DeliveryFilter::default() };
        let kept = store.deliveries(of_refused, 9).await.unwrap();
        assert_eq!(names(&kept), ["m1"]);
        store.unpause(&id("refused")).await.unwrap();
        assert_eq!(store.delete_old_deliveries(Timestamp(2_001)).await.unwrap(), 1);
        // A run that is deleted leaves none.
        let end = Next::End { outcome: Ok(Json::null()), spent: Spent::default() };
        store.append(Append { next: end, ..store.with("r", None) }).await.unwrap();
        assert_eq!(store.delete(&id("r")).await.unwrap(), Deleted::Yes);
        assert_eq!(store.deliveries(of_run, 9).await.unwrap(), []);
    }
}
