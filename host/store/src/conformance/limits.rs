//! Limits of agent calls that hold for all hosts.

use super::*;

fn slot_ask(limits: &[(&str, u32)], used: u32, wants: u32, waited_ms: u64) -> SlotAsk {
    SlotAsk {
        limits: limits.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect(),
        used,
        wants,
        waited_ms,
        calls: (0..used).map(|n| format!("r#{n}")).collect(),
        waiting: (used..wants).map(|n| format!("r#{n}")).collect(),
    }
}

pub async fn slots_are_shared_and_those_of_a_session_that_was_ended_are_free(stores: Vec<Shop>) {
    const P: [(&str, u32); 1] = [("provider:p", 3)];
    for store in stores {
        store.at(1_000);
        let (mine, other) = (store.mine, store.other);
        assert_eq!(store.slots().await.unwrap(), []);
        assert_eq!(store.share_slots(mine, vec![slot_ask(&P, 0, 2, 0)]).await.unwrap(), [2]);
        assert_eq!(store.share_slots(other, vec![slot_ask(&P, 0, 2, 5)]).await.unwrap(), [1]);
        // Asking again for the same gives the same.
        assert_eq!(store.share_slots(mine, vec![slot_ask(&P, 2, 2, 0)]).await.unwrap(), [2]);
        assert_eq!(store.share_slots(other, vec![slot_ask(&P, 1, 2, 5)]).await.unwrap(), [1]);
        let known = store.slots().await.unwrap();
        let of = |session| known.iter().find(|share| share.session == session).unwrap();
        assert_eq!((of(mine).need.has, of(mine).used, of(mine).owner.clone()), (2, 2, owner(1)));
        assert_eq!((of(other).need.has, of(other).need.wants, of(other).need.since), (1, 2, Timestamp(995)));
        assert_eq!(
            (&of(other).calls[..], &of(other).waiting[..]),
            (&["r#0".to_owned()][..], &["r#1".to_owned()][..])
        );
        // What one gives back is the other's, without its asking. Limits of other names are other limits.
        let elsewhere = slot_ask(&[("provider:q", 1)], 0, 1, 0);
        assert_eq!(store.share_slots(mine, vec![slot_ask(&P, 1, 1, 0), elsewhere]).await.unwrap(), [1, 1]);
        let known = store.slots().await.unwrap();
        assert_eq!(known.iter().map(|share| share.need.has).sum::<u32>(), 4, "{known:?}");
        assert_eq!(store.share_slots(other, vec![slot_ask(&P, 2, 2, 0)]).await.unwrap(), [2]);
        // A limit that is smaller now lets nobody in; calls under way are not stopped.
        assert_eq!(
            store.share_slots(other, vec![slot_ask(&[("provider:p", 1)], 2, 3, 0)]).await.unwrap(),
            [2]
        );
        // Whoever dies leaves his slots to others.
        store.fence(other, Fence::Dead).await.unwrap();
        assert_eq!(store.slots().await.unwrap().len(), 2);
        assert_eq!(store.share_slots(mine, vec![slot_ask(&P, 1, 9, 0)]).await.unwrap(), [3]);
        let late = store.share_slots(other, vec![slot_ask(&P, 2, 2, 0)]).await;
        assert_eq!(late, Err(StoreError::SessionOver));
        assert_eq!(store.share_slots(mine, Vec::new()).await.unwrap(), [0; 0]);
        assert_eq!(store.slots().await.unwrap(), []);
        store.share_slots(mine, vec![slot_ask(&P, 0, 9, 0)]).await.unwrap();
        store.end_session(mine).await.unwrap();
        assert_eq!(store.slots().await.unwrap(), []);
    }
}

/// Numbers that look random, the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % sides
    }
}

pub async fn slots_are_given_out_by_one_rule(stores: Vec<Shop>) {
    use wfhost_core::policy::share::{Need, share};
    const SETS: [&[(&str, u32)]; 4] = [
        &[("all", 6)],
        &[("all", 6), ("provider:p", 3)],
        &[("group:g", 2), ("provider:p", 3)],
        &[("provider:q", 1)],
    ];
    for store in stores {
        let mut dice = Dice(7);
        let third = store.begin_session(&owner(3), LEASE).await.unwrap();
        let sessions = [store.mine, store.other, third];
        let mut model: BTreeMap<(SessionId, String), Need> = BTreeMap::new();
        for round in 0..120 {
            let now = Timestamp(1_000 + round * 10);
            store.at(now.0);
            let session = sessions[dice.roll(3) as usize];
            let mut asks = Vec::new();
            for limits in SETS {
                let key = serde_json::to_string(limits).unwrap();
                let had = model.remove(&(session, key.clone())).map_or(0, |need| need.has);
                let used = had.saturating_sub(dice.roll(3) as u32);
                let ask = slot_ask(limits, used, used + dice.roll(4) as u32, dice.roll(200));
                if ask.wants > 0 {
                    let since = Timestamp(now.0 - ask.waited_ms);
                    let need = Need { limits: ask.limits.clone(), has: used, wants: ask.wants, since };
                    model.insert((session, key), need);
                    asks.push(ask);
                }
            }
            let mut needs: Vec<Need> = model.values().cloned().collect();
            share(&mut needs, now);
            model.values_mut().zip(&needs).for_each(|(known, need)| known.clone_from(need));
            let has = store.share_slots(session, asks.clone()).await.unwrap();
            let known: Vec<Need> = store.slots().await.unwrap().into_iter().map(|share| share.need).collect();
            assert_eq!(known, needs, "{store:?}, round {round}", store = store.store);
            let expected = asks.iter().map(|ask| {
                let own = model.iter().find(|((of, _), need)| *of == session && need.limits == ask.limits);
                own.unwrap().1.has
            });
            assert_eq!(has, expected.collect::<Vec<_>>());
        }
    }
}

/// A call would like to begin.
pub fn pass(name: &str, rate: Rate, run: &str, step: u64) -> TurnWord {
    TurnWord::Pass { name: name.to_owned(), rate, run: id(run), step: Step(step) }
}

/// A call does not wait any more.
pub fn release(name: &str, run: &str, step: u64, epoch: Epoch) -> TurnWord {
    TurnWord::Release { name: name.to_owned(), run: id(run), step: Step(step), epoch }
}

pub async fn a_turn_is_given_back_by_who_has_the_run_only(stores: Vec<Shop>) {
    let rate = Rate { per_minute: 60, burst: 1 };
    for store in stores {
        store.at(100_000);
        create(&store, "r", None).await.1.unwrap();
        let words = (1..=3).map(|step| pass("provider:p", rate, "r", step)).collect();
        let turns = store.take_turns(words).await.unwrap();
        // Another host has the run when the word of the first one is heard.
        store.fence(store.mine, Fence::Dead).await.unwrap();
        let opened = store.opened(store.other, "r").await;
        let late = vec![release("provider:p", "r", 2, Epoch(1)), pass("provider:p", rate, "s", 1)];
        assert_eq!(store.take_turns(late).await.unwrap(), [None, Some(Timestamp(103_000))]);
        // Its own word counts.
        let own = vec![release("provider:p", "r", 2, opened.epoch), pass("provider:p", rate, "s", 2)];
        assert_eq!(store.take_turns(own).await.unwrap(), [None, turns[1]]);
    }
}

pub async fn a_turn_belongs_to_its_step_whichever_host_asks_for_it(stores: Vec<Shop>) {
    let rate = Rate { per_minute: 60, burst: 2 };
    for store in stores {
        store.at(100_000);
        let words = (1..=5).map(|step| pass("provider:p", rate, "r", step)).collect();
        let at = |millis| Some(Timestamp(millis));
        let turns = store.take_turns(words).await.unwrap();
        assert_eq!(turns, [None, None, at(101_000), at(102_000), at(103_000)]);
        let info = |waiting, next| TurnsInfo { name: "provider:p".to_owned(), waiting, next };
        assert_eq!(store.turns().await.unwrap(), [info(3, at(101_000))]);
        // Asked again, it is the same turn; another call goes behind them.
        let words = vec![pass("provider:p", rate, "r", 4), pass("provider:p", rate, "s", 1)];
        assert_eq!(store.take_turns(words).await.unwrap(), [at(102_000), at(104_000)]);
        // What is given back is the next one's.
        let release = release("provider:p", "r", 4, Epoch(1));
        let turns = store.take_turns(vec![release, pass("provider:p", rate, "s", 2)]).await.unwrap();
        assert_eq!(turns, [None, at(102_000)]);
        store.at(101_000);
        assert_eq!(store.take_turns(vec![pass("provider:p", rate, "r", 3)]).await.unwrap(), [None]);
        // The provider asks to be left alone: all turns are later by that.
        let block = TurnWord::Block { name: "provider:p".to_owned(), rate, millis: 10_000 };
        let turns = store.take_turns(vec![block, pass("provider:p", rate, "r", 5)]).await.unwrap();
        assert_eq!(turns, [None, at(113_000)]);
        // A run that ends gives back all that it has.
        store.take_turns(vec![TurnWord::ReleaseRun { run: id("s") }]).await.unwrap();
        assert_eq!(store.turns().await.unwrap(), [info(1, at(113_000))]);
    }
}

pub async fn turns_are_those_of_one_queue(stores: Vec<Shop>) {
    use wfhost_core::policy::rate::Queue;
    let rates = [Rate { per_minute: 120, burst: 1 }, Rate { per_minute: 6, burst: 3 }];
    for store in stores {
        let mut dice = Dice(11);
        let mut model: [Queue<(RunId, Step)>; 2] = Default::default();
        let mut now = 1_000_000;
        for round in 0..150 {
            // Calls that come in time, late, or much too late, and a clock that is set back.
            now = match dice.roll(20) {
                0 => now + 70_000,
                1 => now - 30_000,
                _ => now + dice.roll(1_500),
            };
            store.at(now);
            let at = Timestamp(now);
            let (mut words, mut expected) = (Vec::new(), Vec::new());
            for _ in 0..=dice.roll(4) {
                let (which, run, step) =
                    (dice.roll(2) as usize, ["a", "b", "c"][dice.roll(3) as usize], dice.roll(6));
                let (name, rate) = (["provider:p", "provider:q"][which].to_owned(), rates[which]);
                let queue = &mut model[which];
                let call = (id(run), Step(step));
                let (word, answer) = match dice.roll(12) {
                    0 | 1 => {
                        queue.release(&call);
                        (TurnWord::Release { name, run: call.0, step: call.1, epoch: Epoch(1) }, None)
                    }
                    2 => {
                        let millis = dice.roll(3_000);
                        queue.block(Some(rate), at, at.after(millis));
                        (TurnWord::Block { name, rate, millis }, None)
                    }
                    3 => {
                        let first = (id(run), Step(0));
                        model
                            .iter_mut()
                            .for_each(|queue| queue.release_from(&first, |(of, _)| *of == first.0));
                        (TurnWord::ReleaseRun { run: first.0 }, None)
                    }
                    _ => (pass(&name, rate, run, step), queue.pass(&call, Some(rate), at).err()),
                };
                words.push(word);
                expected.push(answer);
            }
            let turns = store.take_turns(words.clone()).await.unwrap();
            assert_eq!(turns, expected, "{:?}, round {round}: {words:?}", store.store);
        }
        let waiting = |queue: &Queue<(RunId, Step)>| (queue.waiting().0 as u64, queue.waiting().1);
        let known = store.turns().await.unwrap();
        let known: Vec<_> = known.into_iter().map(|info| (info.waiting, info.next)).collect();
        assert_eq!(known, model.iter().map(waiting).collect::<Vec<_>>());
    }
}
