//! What is kept besides runs.

use super::*;

pub async fn modules_are_kept_by_digest(stores: Vec<Shop>) {
    for store in stores {
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

pub async fn the_latest_answer_to_a_question_is_kept(stores: Vec<Shop>) {
    for store in stores {
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

pub async fn tokens_acts_and_addresses_are_kept_and_work_once(stores: Vec<Shop>) {
    for store in stores {
        let secret = store.secret().await.unwrap();
        assert!(secret != [0; 32] && store.secret().await.unwrap() == secret);
        let token = |id: &str, at| Token {
            id: id.to_owned(),
            name: "ci".to_owned(),
            kind: TokenKind::Bearer,
            hash: Digest::of(id.as_bytes()),
            scopes: vec!["runs:read".to_owned()],
            created_at: Timestamp(at),
            expires_at: Some(Timestamp(99)),
            used_at: None,
        };
        store.put_token(token("b", 2)).await.unwrap();
        store.put_token(token("a", 3)).await.unwrap();
        store.set_token_used("b", Timestamp(7)).await.unwrap();
        let used = Token { used_at: Some(Timestamp(7)), ..token("b", 2) };
        assert_eq!(store.tokens().await.unwrap(), [used.clone(), token("a", 3)]);
        assert_eq!((store.token("b").await.unwrap(), store.token("c").await.unwrap()), (Some(used), None));
        // Of several who take it, one has it.
        assert!(store.delete_token("a").await.unwrap());
        assert!(!store.delete_token("a").await.unwrap());
        for n in 0..3 {
            let act = Act {
                number: 0,
                at: Timestamp(n),
                who: "ada".to_owned(),
                act: "runs.cancel".to_owned(),
                target: format!("r{n}"),
                result: "asked".to_owned(),
            };
            store.record_act(act).await.unwrap();
        }
        let acts = store.acts(None, 2).await.unwrap();
        assert_eq!(acts.iter().map(|act| act.target.as_str()).collect::<Vec<_>>(), ["r2", "r1"]);
        assert_eq!(store.acts(Some(acts[1].number), 9).await.unwrap()[0].target, "r0");
        let (address, body, other) = (Digest([1; 32]), Digest([2; 32]), Digest([3; 32]));
        let uses = [body, body, other, body].map(|body| store.use_once(address, body));
        let mut found = Vec::new();
        for used in uses {
            found.push(used.await.unwrap());
        }
        assert_eq!(found, [Used::First, Used::Again, Used::Otherwise, Used::Again]);
        store.release_use(address, other).await.unwrap();
        assert_eq!(store.use_once(address, other).await.unwrap(), Used::Otherwise);
        store.release_use(address, body).await.unwrap();
        assert_eq!(store.use_once(address, other).await.unwrap(), Used::First);
    }
}

pub async fn what_runs_need_besides_their_modules_is_kept_by_digest(stores: Vec<Shop>) {
    const HOUR: u64 = BLOB_RENEWED_MS;
    for store in stores {
        store.at(10 * HOUR);
        let one = store.put_blob(b"one").await.unwrap();
        assert_eq!(one, Digest::of(b"one"));
        let two = store.put_blob(b"two").await.unwrap();
        assert_eq!(store.blob(one).await.unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(store.blob(Digest::of(b"three")).await.unwrap(), None);
        // What is put again is there as if it had been put then.
        store.at(13 * HOUR);
        store.put_blob(b"two").await.unwrap();
        assert!(store.has_blobs(Timestamp(12 * HOUR)).await.unwrap());
        assert!(!store.has_blobs(Timestamp(10 * HOUR)).await.unwrap());
        assert_eq!(store.delete_blobs(Timestamp(12 * HOUR), vec![one]).await.unwrap(), 0);
        assert_eq!(store.delete_blobs(Timestamp(12 * HOUR), Vec::new()).await.unwrap(), 1);
        assert_eq!((store.blob(one).await.unwrap(), store.blob(two).await.unwrap().is_some()), (None, true));
    }
}

/// A schedule that is due at 5,000 for the first time.
pub fn every_second(name: &str, module: Digest) -> crate::schedule::Schedule {
    use crate::schedule::{CatchUp, Overlap, Schedule, When};
    Schedule {
        name: name.to_owned(),
        when: When::Every { millis: 1_000, from: Timestamp(5_000) },
        overlap: Overlap::Skip,
        catch_up: CatchUp::Last,
        workflow: "w".to_owned(),
        module,
        input: Json::null(),
        labels: Vec::new(),
        config: RunConfig::default(),
        created_at: Timestamp(1),
        next_at: Some(Timestamp(5_000)),
        fired: 0,
        last: None,
    }
}

pub async fn a_schedule_cancels_the_latest_round_of_its_last_run(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        let next = Next::Continue { run: Box::new(next_round(&machine, "r-2")) };
        store.append(Append { next, ..store.with("r", None) }).await.unwrap();
        machine.continue_as(id("r-2"), Timestamp(50));
        assert_eq!(store.put_schedule(every_second("s", machine.module()), true).await, Ok(true));
        let fire = |due: u64, cancel: &str| Fire {
            schedule: "s".to_owned(),
            due: Timestamp(due),
            next: Some(Timestamp(due + 1_000)),
            run: None,
            cancel: Some(id(cancel)),
        };
        let asked = [MessageBody::Cancel { reason: Some(OVERTAKEN.to_owned()) }];
        // The round that was the latest one when the schedule was looked at has continued since.
        assert_eq!(store.fire(fire(5_000, "r")).await, Ok(true));
        assert_eq!(store.bodies("r-2").await, asked);
        // One that has ended is not asked, nor is one that was never there.
        let opened = store.opened(store.mine, "r-2").await;
        let consumed = opened.inbox.messages.iter().map(|message| message.id).collect();
        store.append(Append { consumed, ..end(store.mine, "r-2", opened.epoch.0) }).await.unwrap();
        assert_eq!(store.fire(fire(6_000, "r")).await, Ok(true));
        assert_eq!(store.fire(fire(7_000, "nobody")).await, Ok(true));
        assert!(store.bodies("r-2").await.is_empty());
        create(&store, "alone", None).await.1.unwrap();
        assert_eq!(store.fire(fire(8_000, "alone")).await, Ok(true));
        assert_eq!(store.bodies("alone").await, asked);
    }
}

pub async fn a_schedule_that_is_replaced_goes_on_from_its_last_run(stores: Vec<Shop>) {
    use crate::schedule::{Overlap, Schedule};
    for store in stores {
        let module = store.put_module("w", b"module").await.unwrap();
        let schedule = every_second("s", module);
        assert_eq!(store.put_schedule(schedule.clone(), true).await, Ok(true));
        let mut machine = machine("s-1", module);
        let rows = vec![row(&mut machine)];
        let run = NewRun::new(&machine, rows);
        let fire = Fire {
            schedule: "s".to_owned(),
            due: Timestamp(5_000),
            next: Some(Timestamp(6_000)),
            run: Some(run),
            cancel: None,
        };
        assert_eq!(store.fire(fire).await, Ok(true));
        let new = Schedule {
            overlap: Overlap::Queue,
            created_at: Timestamp(9),
            next_at: Some(Timestamp(7_000)),
            ..schedule
        };
        assert_eq!(store.put_schedule(new.clone(), false).await, Ok(false));
        assert_eq!(store.put_schedule(new.clone(), true).await, Ok(true));
        let known = store.schedules().await.unwrap().known;
        assert_eq!(known, [Schedule { fired: 1, last: Some(id("s-1")), ..new.clone() }]);
        // One that was removed is another one.
        assert_eq!(store.delete_schedule("s").await, Ok(true));
        assert_eq!(store.put_schedule(new.clone(), true).await, Ok(true));
        assert_eq!(store.schedules().await.unwrap().known, [new]);
    }
}

pub async fn schedules_that_are_due_come_in_parts(stores: Vec<Shop>) {
    for store in stores {
        let module = store.put_module("w", b"bytes").await.unwrap();
        // Some at the same time, and one that is due later.
        let names = ["c", "a", "b", "e", "d"];
        for (name, at) in names.iter().zip([10, 10, 10, 11, 12]).chain([(&"later", 1_000)]) {
            let next_at = Some(Timestamp(at));
            let schedule = crate::schedule::Schedule { next_at, ..every_second(name, module) };
            assert!(store.put_schedule(schedule, false).await.unwrap());
        }
        store.at(100);
        let (mut behind, mut parts) = (None, Vec::new());
        loop {
            let part = store.due_schedules(behind, 2).await.unwrap();
            assert_eq!(part.next_in_ms, Some(900));
            parts.push(part.due.into_iter().map(|schedule| schedule.name).collect::<Vec<_>>().join(" "));
            behind = part.more;
            if behind.is_none() {
                break;
            }
        }
        assert_eq!(parts, ["a b", "c e", "d"]);
        let all = store.due_schedules(None, 5).await.unwrap();
        // Whether there are more is known behind the last one only.
        assert_eq!((all.due.len(), all.more), (5, Some((Timestamp(12), "d".to_owned()))));
        assert!(store.due_schedules(Some((Timestamp(12), "d".to_owned())), 5).await.unwrap().due.is_empty());
    }
}

pub async fn a_module_that_is_put_again_is_about_to_be_needed(stores: Vec<Shop>) {
    const HOUR: u64 = BLOB_RENEWED_MS;
    for store in stores {
        store.at(10 * HOUR);
        let digest = store.put_module("m", b"one").await.unwrap();
        store.at(11 * HOUR);
        let newer = store.put_module("m", b"two").await.unwrap();
        store.at(13 * HOUR);
        assert_eq!(store.put_module("n", b"one").await.unwrap(), digest);
        // The newest of its name is another one all the same.
        assert_eq!(store.module_named("m").await.unwrap().map(|info| info.digest), Some(newer));
        let info = store.module_info(digest).await.unwrap().unwrap();
        assert_eq!((info.name.as_str(), info.added_at), ("m", Timestamp(10 * HOUR)));
        assert_eq!(store.delete_unused_modules(Timestamp(12 * HOUR)).await.unwrap(), 1);
        let mut machine = machine("r", digest);
        let rows = vec![row(&mut machine)];
        assert_eq!(store.create(NewRun::new(&machine, rows)).await, Ok(Created::New));
    }
}
