//! Where calls wait for their turn: limits of concurrency and of rate.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use wfhost_core::policy::rate::{Bucket, Decision, Rate};
use wfhost_core::{RunId, Timestamp};

/// What calls share.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Slot {
    Host,
    Run(RunId),
    Group(String),
    Provider(String),
}

/// Lets calls through. One for each host.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: HashMap<Slot, u32>,
    waiting: VecDeque<Waiter>,
    buckets: HashMap<String, Bucket>,
    /// Providers that asked to be left alone, and until when.
    blocked: HashMap<String, Timestamp>,
}

#[derive(Debug)]
struct Waiter {
    slots: Vec<(Slot, u32)>,
    go: oneshot::Sender<Permit>,
}

/// The right to make a call, as long as it lives.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    slots: Vec<Slot>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let slots = std::mem::take(&mut self.slots);
        if slots.is_empty() {
            return;
        }
        let mut state = self.gate.lock();
        state.give_back(&slots);
        self.gate.admit(&mut state);
    }
}

impl State {
    fn is_free(&self, slots: &[(Slot, u32)]) -> bool {
        slots.iter().all(|(slot, limit)| self.used.get(slot).copied().unwrap_or(0) < (*limit).max(1))
    }

    fn take(&mut self, slots: &[(Slot, u32)]) -> Vec<Slot> {
        for (slot, _) in slots {
            *self.used.entry(slot.clone()).or_default() += 1;
        }
        slots.iter().map(|(slot, _)| slot.clone()).collect()
    }

    fn give_back(&mut self, slots: &[Slot]) {
        for slot in slots {
            if let Some(used) = self.used.get_mut(slot) {
                *used -= 1;
                if *used == 0 {
                    self.used.remove(slot);
                }
            }
        }
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for free slots. Who came first goes first, but nobody is held up
    /// by one who waits for something else.
    pub async fn enter(self: &Arc<Self>, slots: Vec<(Slot, u32)>) -> Permit {
        let waits = {
            let mut state = self.lock();
            if state.is_free(&slots) {
                // Whoever waits for one of these waits for another one as well.
                let slots = state.take(&slots);
                return Permit { gate: Arc::clone(self), slots };
            }
            let (go, waits) = oneshot::channel();
            state.waiting.push_back(Waiter { slots, go });
            waits
        };
        match waits.await {
            Ok(permit) => permit,
            // The gate lives as long as somebody waits at it, and lets everybody through.
            Err(_) => Permit { gate: Arc::clone(self), slots: Vec::new() },
        }
    }

    /// Lets through whoever has free slots now.
    fn admit(self: &Arc<Self>, state: &mut State) {
        let mut still = VecDeque::with_capacity(state.waiting.len());
        for Waiter { slots, go } in std::mem::take(&mut state.waiting) {
            if go.is_closed() {
                continue;
            }
            if !state.is_free(&slots) {
                still.push_back(Waiter { slots, go });
                continue;
            }
            let permit = Permit { gate: Arc::clone(self), slots: state.take(&slots) };
            if let Err(mut refused) = go.send(permit) {
                // It was dropped just now. Dropping the permit would lock again.
                state.give_back(&std::mem::take(&mut refused.slots));
            }
        }
        state.waiting = still;
    }

    /// Whether a call of the provider may begin at `now`; else when to ask again.
    pub fn pass(&self, provider: &str, rate: Option<Rate>, now: Timestamp) -> Result<(), Timestamp> {
        let mut state = self.lock();
        if let Some(until) = state.blocked.get(provider).copied() {
            if until > now {
                return Err(until);
            }
            state.blocked.remove(provider);
        }
        let Some(rate) = rate else { return Ok(()) };
        let bucket = state.buckets.entry(provider.to_owned()).or_default();
        match bucket.take(rate, now) {
            Decision::Go(next) => {
                *bucket = next;
                Ok(())
            }
            Decision::Wait(until) => Err(until),
        }
    }

    /// The provider asked to be left alone until then.
    pub fn block(&self, provider: &str, until: Timestamp) {
        let mut state = self.lock();
        let blocked = state.blocked.entry(provider.to_owned()).or_insert(until);
        *blocked = until.max(*blocked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(names: &[(&str, u32)]) -> Vec<(Slot, u32)> {
        names.iter().map(|(name, limit)| (Slot::Group((*name).to_owned()), *limit)).collect()
    }

    #[tokio::test]
    async fn no_more_than_the_limit_and_no_idle_slot() {
        let gate = Arc::new(Gate::default());
        let running = Arc::new(Mutex::new((0_u32, 0_u32, 0_u32)));
        let tasks = (0..200).map(|_| {
            let (gate, running) = (Arc::clone(&gate), Arc::clone(&running));
            tokio::spawn(async move {
                let _permit = gate.enter(slots(&[("a", 8)])).await;
                {
                    let mut running = running.lock().unwrap();
                    running.0 += 1;
                    running.1 = running.1.max(running.0);
                }
                tokio::task::yield_now().await;
                let mut running = running.lock().unwrap();
                running.0 -= 1;
                running.2 += 1;
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(*running.lock().unwrap(), (0, 8, 200));
        assert!(gate.lock().used.is_empty() && gate.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn one_who_waits_for_something_else_holds_nobody_up() {
        let gate = Arc::new(Gate::default());
        let first = gate.enter(slots(&[("a", 1)])).await;
        let mut both = Box::pin(gate.enter(slots(&[("a", 1), ("b", 1)])));
        assert!(futures_util::poll!(&mut both).is_pending());
        let other = gate.enter(slots(&[("b", 1)])).await;
        drop(first);
        assert!(futures_util::poll!(&mut both).is_pending(), "b is taken");
        drop(other);
        drop(both.await);
        assert!(gate.lock().used.is_empty());
    }

    #[tokio::test]
    async fn one_who_gives_up_takes_no_slot() {
        let gate = Arc::new(Gate::default());
        let first = gate.enter(slots(&[("a", 1)])).await;
        let mut gone = Box::pin(gate.enter(slots(&[("a", 1)])));
        assert!(futures_util::poll!(&mut gone).is_pending());
        let mut patient = Box::pin(gate.enter(slots(&[("a", 1)])));
        assert!(futures_util::poll!(&mut patient).is_pending());
        drop(gone);
        drop(first);
        assert!(futures_util::poll!(&mut patient).is_ready());
    }

    #[test]
    fn a_provider_is_left_alone_as_it_asked() {
        let gate = Gate::default();
        gate.block("p", Timestamp(500));
        gate.block("p", Timestamp(300));
        assert_eq!(gate.pass("p", None, Timestamp(100)), Err(Timestamp(500)));
        assert_eq!(gate.pass("q", None, Timestamp(100)), Ok(()));
        assert_eq!(gate.pass("p", None, Timestamp(500)), Ok(()));
        let rate = Some(Rate { per_minute: 60, burst: 1 });
        assert_eq!(gate.pass("p", rate, Timestamp(500)), Ok(()));
        assert_eq!(gate.pass("p", rate, Timestamp(500)), Err(Timestamp(1_500)));
    }
}
