//! Limits that all share who use the store.

use wfhost_core::policy::rate::Queue;
use wfhost_core::policy::share::{Need, share};

use super::*;

/// The turns of a rate, by the steps that wait for them.
pub(super) type Queues = BTreeMap<String, Queue<(RunId, Step)>>;

impl Data {
    /// Gives back all turns of a run.
    pub(super) fn release_turns(&mut self, run: &RunId) {
        let first = (run.clone(), Step(0));
        for queue in self.turns.values_mut() {
            queue.release_from(&first, |(of, _)| of == run);
        }
    }
}

impl Limits for MemStore {
    fn share_slots(&self, session: SessionId, asks: Vec<SlotAsk>) -> BoxFuture<'_, Result<Vec<u32>>> {
        self.change(|data| {
            data.check_session(session)?;
            let (now, owner) =
                (self.clock.now(), data.sessions.get(&session).map(|begun| begun.owner.clone()));
            let own = owner.into_iter().flat_map(|owner| asks.iter().map(move |ask| (owner.clone(), ask)));
            let own = own.map(|(owner, ask)| {
                let since = Timestamp(now.0.saturating_sub(ask.waited_ms));
                let (has, wants) = (ask.used, ask.wants.max(ask.used));
                let need = Need { limits: ask.limits.clone(), has, wants, since };
                let (calls, waiting) = (ask.calls.clone(), ask.waiting.clone());
                SlotShare { session, owner, need, used: ask.used, calls, waiting }
            });
            let own: Vec<_> = own.collect();
            data.slots.retain(|share| share.session != session);
            data.slots.extend(own);
            data.slots.sort_by_cached_key(|share| {
                (share.session, Json::of(&share.need.limits).ok().map(|json| json.to_string()))
            });
            let mut needs: Vec<Need> = data.slots.iter().map(|share| share.need.clone()).collect();
            share(&mut needs, now);
            for (share, need) in data.slots.iter_mut().zip(needs) {
                share.need = need;
            }
            let own: Vec<_> = data.slots.iter().filter(|share| share.session == session).collect();
            let has = |ask: &SlotAsk| {
                own.iter().find(|share| share.need.limits == ask.limits).map_or(0, |share| share.need.has)
            };
            Ok(asks.iter().map(has).collect())
        })
    }

    fn slots(&self) -> BoxFuture<'_, Result<Vec<SlotShare>>> {
        self.look(|data| data.slots.clone())
    }

    fn take_turns(&self, words: Vec<TurnWord>) -> BoxFuture<'_, Result<Vec<Option<Timestamp>>>> {
        self.change(|data| {
            let now = self.clock.now();
            let answers = words.into_iter().map(|word| match word {
                TurnWord::Pass { name, rate, run, step } => {
                    data.turns.entry(name).or_default().pass(&(run, step), Some(rate), now).err()
                }
                TurnWord::Release { name, run, step, epoch } => {
                    let is_anothers = data.run(&run).is_some_and(|run| run.info.epoch > epoch);
                    if let Some(queue) = data.turns.get_mut(&name).filter(|_| !is_anothers) {
                        queue.release(&(run, step));
                    }
                    None
                }
                TurnWord::ReleaseRun { run } => {
                    data.release_turns(&run);
                    None
                }
                TurnWord::Block { name, rate, millis } => {
                    data.turns.entry(name).or_default().block(Some(rate), now, now.after(millis));
                    None
                }
            });
            Ok(answers.collect())
        })
    }

    fn turns(&self) -> BoxFuture<'_, Result<Vec<TurnsInfo>>> {
        self.look(|data| {
            let infos = data.turns.iter().map(|(name, queue)| {
                let (waiting, next) = queue.waiting();
                TurnsInfo { name: name.clone(), waiting: waiting as u64, next }
            });
            infos.collect()
        })
    }
}
