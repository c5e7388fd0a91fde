//! Where calls wait for their turn: limits of concurrency and of rate.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;
use wfhost_core::policy::rate::{self, Rate};
use wfhost_core::policy::share::SlotAsk;
use wfhost_core::policy::{retry, share};
use wfhost_core::{Epoch, RunId, Step, Timestamp};
use wfhost_world::LatestLease;

use super::fleet::{FleetLimits, FleetTurns, Shares};
use super::ledger::Ledger;
use super::observer::CallObserver;
use super::session::Known;

/// What calls share.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Slot {
    Host,
    Run(RunId),
    Group(String),
    Provider(String),
    /// Limits that hold for all hosts of a store: there are as many slots here as the store gave this host.
    Fleet(FleetLimits),
}

/// The slots that a call has to have, with their limits. At most one is of the fleet.
type Slots = Arc<[(Slot, u32)]>;

/// The slots that only calls of this host share.
fn of_host(slots: &Slots) -> impl Iterator<Item = &(Slot, u32)> {
    slots.iter().filter(|(slot, _)| !matches!(slot, Slot::Fleet(_)))
}

/// The slot that calls of all hosts share.
fn of_fleet(slots: &Slots) -> Option<&Slot> {
    slots.iter().map(|(slot, _)| slot).find(|slot| matches!(slot, Slot::Fleet(_)))
}

/// Lets calls through. One for each host.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    /// The turns at each provider.
    queues: Mutex<HashMap<String, Queue>>,
    /// What is shared with other hosts.
    pub(crate) turns: FleetTurns,
    /// What is set aside of the budgets of families.
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) conversations: Known,
    /// Is told of all calls.
    pub(crate) observer: Option<Arc<dyn CallObserver>>,
}

type Queue = rate::Queue<(RunId, Step)>;

/// A call that waits for slots.
#[derive(Debug)]
struct Waiter {
    go: oneshot::Sender<Permit>,
    who: Arc<str>,
    since: Instant,
}

#[derive(Debug, Default)]
struct State {
    used: HashMap<Slot, u32>,
    shares: Shares,
    /// Those that wait, by the set of slots that they wait for, in their order.
    waiting: HashMap<Slots, BTreeMap<Ticket, Waiter>>,
    /// Each set that somebody waits for is under one of its slots that is full, by
    /// its limit and its first ticket. So a slot that becomes free finds its next call at once.
    blocked: HashMap<Slot, BTreeMap<u32, BTreeMap<Ticket, Slots>>>,
    /// The last call in the order of asking that began with a slot which is in use, of each kind: those that need
    /// the same of the fleet, or nothing.
    latest: HashMap<Slot, Vec<(Option<Slot>, Ticket)>>,
    last: Ticket,
    /// How often a set was looked at when a slot became free.
    #[cfg(test)]
    looks: u64,
}

/// The place of a call in the order of asking.
type Ticket = u64;

/// The right to make a call, as long as it lives.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    slots: Option<Slots>,
    ticket: Ticket,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            let mut state = self.gate.lock();
            state.give_back(&slots, self.ticket);
            self.gate.admit(&mut state, slots.iter().map(|(slot, _)| slot));
            self.gate.stir(&state);
        }
    }
}

/// A call that waits for slots.
struct Waiting<'a> {
    gate: &'a Gate,
    slots: Slots,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.leave(&self.slots, self.ticket);
        self.gate.stir(&state);
    }
}

impl State {
    fn used(&self, slot: &Slot) -> u32 {
        self.used.get(slot).copied().unwrap_or(0)
    }

    fn is_full(&self, slot: &Slot, limit: u32) -> bool {
        self.room(slot, limit) == 0
    }

    /// How many calls more a slot lets through.
    fn room(&self, slot: &Slot, limit: u32) -> u32 {
        let limit = match slot {
            Slot::Fleet(limits) => self.shares.has(limits),
            _ => limit.max(1),
        };
        limit.saturating_sub(self.used(slot))
    }

    /// The first of the slots that is full.
    fn full<'a>(&self, slots: &'a Slots) -> Option<&'a (Slot, u32)> {
        slots.iter().find(|(slot, limit)| self.is_full(slot, *limit))
    }

    /// Of the sets under the slot that it may have room for, the one that waits longest.
    fn next_under(&self, slot: &Slot) -> Option<(u32, Ticket, Slots)> {
        let limits = self.blocked.get(slot)?.iter().rev();
        let open = limits.take_while(|(limit, _)| !self.is_full(slot, **limit));
        let firsts =
            open.filter_map(|(limit, sets)| sets.iter().next().map(|(first, set)| (limit, first, set)));
        firsts
            .min_by_key(|(_, first, _)| **first)
            .map(|(limit, first, set)| (*limit, *first, Arc::clone(set)))
    }

    fn take(&mut self, slots: &Slots, ticket: Ticket, who: &Arc<str>) {
        for (slot, _) in slots.iter() {
            *self.used.entry(slot.clone()).or_default() += 1;
            if let Slot::Fleet(limits) = slot {
                self.shares.begin(limits, ticket, who);
            }
        }
        if !self.shares.is_empty() {
            self.note_begun(slots, ticket);
        }
    }

    fn give_back(&mut self, slots: &Slots, ticket: Ticket) {
        for (slot, _) in slots.iter() {
            if let Slot::Fleet(limits) = slot {
                self.shares.end(limits, ticket);
            }
            if let Some(used) = self.used.get_mut(slot) {
                *used -= 1;
                if *used == 0 {
                    self.used.remove(slot);
                    self.latest.remove(slot);
                }
            }
        }
    }

    /// Puts a set that is waited for under the slot.
    fn put_under(&mut self, (slot, limit): &(Slot, u32), first: Ticket, slots: Slots) {
        self.blocked.entry(slot.clone()).or_default().entry(*limit).or_default().insert(first, slots);
    }

    /// False if it was not there.
    fn take_from_under(&mut self, (slot, limit): &(Slot, u32), first: Ticket) -> bool {
        let Some(limits) = self.blocked.get_mut(slot) else { return false };
        let Some(sets) = limits.get_mut(limit) else { return false };
        let found = sets.remove(&first).is_some();
        if sets.is_empty() {
            limits.remove(limit);
        }
        if limits.is_empty() {
            self.blocked.remove(slot);
        }
        found
    }

    /// What this host needs of the limits that all share.
    fn asks(&self) -> Vec<SlotAsk> {
        let now = Instant::now();
        let overtaken = self.overtaken();
        let asks = self.shares.all().map(|limits| {
            let slot = Slot::Fleet(Arc::clone(limits));
            let used = self.used(&slot);
            let (mut wants, mut waiting, mut since) = (used, Vec::new(), now);
            let mut count = |queue: &BTreeMap<Ticket, Waiter>, calls: u32, named: usize| {
                wants = wants.saturating_add(calls);
                since = queue.values().next().map_or(since, |first| first.since.min(since));
                let more = Shares::NAMED.saturating_sub(waiting.len()).min(named);
                waiting.extend(queue.values().take(more).map(|waiter| waiter.who.to_string()));
            };
            for slots in self.sets_under(&slot) {
                let Some(queue) = self.waiting.get(slots) else { continue };
                // Those that nothing else here holds up.
                let room = of_host(slots).map(|(other, limit)| self.room(other, *limit)).min();
                let queued = u32::try_from(queue.len()).unwrap_or(u32::MAX);
                let calls = queued.min(room.unwrap_or(u32::MAX));
                if calls > 0 {
                    count(queue, calls, queue.len());
                }
            }
            if let Some(queue) = overtaken.get(&slot).and_then(|(_, slots)| self.waiting.get(*slots)) {
                count(queue, 1, 1);
            }
            let waited_ms = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX);
            let calls = self.shares.calls(limits);
            SlotAsk { limits: limits.to_vec(), used, wants, waited_ms, calls, waiting }
        });
        asks.filter(|ask| ask.wants > 0).collect()
    }

    /// The sets that are waited for under a slot.
    fn sets_under(&self, slot: &Slot) -> impl Iterator<Item = &Slots> {
        self.blocked.get(slot).into_iter().flat_map(BTreeMap::values).flat_map(BTreeMap::values)
    }

    /// For slots of the fleet the first call that has to have one before its turn here, and the set that it waits
    /// for. When it has none at the moment at which a slot of this host becomes free, another call begins, and so
    /// again and again. One slot is enough for all such calls, as whoever can begin makes use of it; it is idle until
    /// the next slot of this host becomes free.
    fn overtaken(&self) -> HashMap<&Slot, (Ticket, &Slots)> {
        let mut overtaken: HashMap<&Slot, (Ticket, &Slots)> = HashMap::new();
        if self.latest.is_empty() {
            return overtaken;
        }
        for (slot, limits) in &self.blocked {
            // At a slot of this host only the first one can be the next.
            let most = if matches!(slot, Slot::Fleet(_)) { usize::MAX } else { 1 };
            for (first, slots) in limits.values().flat_map(|sets| sets.iter().take(most)) {
                let Some(fleet) = of_fleet(slots) else { continue };
                let is_earlier = overtaken.get(fleet).is_none_or(|(ticket, _)| first < ticket);
                if is_earlier && self.is_overtaken(slots, *first) {
                    overtaken.insert(fleet, (*first, slots));
                }
            }
        }
        overtaken
    }

    /// Whether the first call of a set is the next one at all slots of this host that are full, and one that asked
    /// later and needs something else of the fleet, or nothing, has begun with one of them.
    fn is_overtaken(&self, slots: &Slots, first: Ticket) -> bool {
        let kind = of_fleet(slots);
        let mut overtaken = false;
        for (slot, limit) in of_host(slots).filter(|(slot, limit)| self.is_full(slot, *limit)) {
            // Whoever has a smaller limit there lets it go before.
            let mut behind = self.blocked.get(slot).into_iter().flat_map(|limits| limits.range(*limit..));
            if behind.any(|(_, sets)| sets.range(..first).next().is_some()) {
                return false;
            }
            let mut latest = self.latest.get(slot).into_iter().flatten();
            overtaken |= latest.any(|(of, ticket)| of.as_ref() != kind && *ticket > first);
        }
        overtaken
    }

    /// A call began: those that asked before it and still wait are overtaken.
    fn note_begun(&mut self, slots: &Slots, ticket: Ticket) {
        let kind = of_fleet(slots);
        for (slot, _) in of_host(slots) {
            let latest = self.latest.entry(slot.clone()).or_default();
            match latest.iter_mut().find(|(of, _)| of.as_ref() == kind) {
                Some((_, known)) => *known = ticket.max(*known),
                None => latest.push((kind.cloned(), ticket)),
            }
        }
    }

    /// A call does not wait any more.
    fn leave(&mut self, slots: &Slots, ticket: Ticket) {
        let Some(queue) = self.waiting.get_mut(slots) else { return };
        let was_first = queue.keys().next() == Some(&ticket);
        if queue.remove(&ticket).is_none() || !was_first {
            return;
        }
        let next = queue.keys().next().copied();
        if next.is_none() {
            self.waiting.remove(slots);
        }
        if let Some(slot) = slots.iter().find(|slot| self.take_from_under(slot, ticket))
            && let Some(next) = next
        {
            self.put_under(slot, next, Arc::clone(slots));
        }
    }
}

impl Gate {
    /// One at which all calls are seen.
    pub fn observed(observer: Arc<dyn CallObserver>) -> Self {
        Self { observer: Some(observer), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<String, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for free slots. Who came first goes first, but nobody is held up
    /// by one who waits for something else.
    pub async fn enter(self: &Arc<Self>, slots: &Slots, who: &Arc<str>) -> Permit {
        if slots.is_empty() {
            return Permit { gate: Arc::clone(self), slots: None, ticket: 0 };
        }
        let (waiting, admitted) = {
            let mut state = self.lock();
            for (slot, _) in slots.iter() {
                if let Slot::Fleet(limits) = slot {
                    state.shares.need(limits);
                }
            }
            state.last += 1;
            let ticket = state.last;
            let Some(full) = state.full(slots).cloned() else {
                // Whoever waits for one of these waits for another one as well.
                state.take(slots, ticket, who);
                self.stir(&state);
                return Permit { gate: Arc::clone(self), slots: Some(Arc::clone(slots)), ticket };
            };
            let (go, admitted) = oneshot::channel();
            let queue = state.waiting.entry(Arc::clone(slots)).or_default();
            queue.insert(ticket, Waiter { go, who: Arc::clone(who), since: Instant::now() });
            if queue.len() == 1 {
                state.put_under(&full, ticket, Arc::clone(slots));
            }
            self.stir(&state);
            (Waiting { gate: self, slots: Arc::clone(slots), ticket }, admitted)
        };
        let admitted = admitted.await;
        drop(waiting);
        // The gate lives as long as somebody waits at it, and lets everybody through.
        admitted.unwrap_or_else(|_| Permit { gate: Arc::clone(self), slots: None, ticket: 0 })
    }

    /// What this host needs of limits that all hosts of a store share has changed, perhaps.
    fn stir(&self, state: &State) {
        if !state.shares.is_empty() {
            self.turns.stirred.notify_one();
        }
    }

    /// What the store is to be told of the slots that this host needs; none if it knows. Until
    /// [`Gate::set_slots`] or [`Gate::forget_slots`] no call begins that needs one.
    pub fn ask_slots(&self) -> Option<Vec<SlotAsk>> {
        let mut state = self.lock();
        let asks = state.asks();
        state.shares.tell(&asks).then_some(asks)
    }

    /// This host has so many slots of each that it asked for.
    pub fn set_slots(self: &Arc<Self>, asked: &[SlotAsk], has: &[u32]) {
        let mut state = self.lock();
        let mut given = Vec::with_capacity(asked.len());
        for (ask, has) in asked.iter().zip(has) {
            given.extend(state.shares.set(&ask.limits, *has).map(Slot::Fleet));
        }
        // Behind all of them: whoever came first goes first, whichever limits he needs.
        self.admit(&mut state, given.iter());
        // Slots that nobody here can use are given back.
        self.stir(&state);
    }

    /// It is not known which slots this host has: it is to ask again.
    pub fn forget_slots(&self) {
        let mut state = self.lock();
        state.shares.forget();
        self.stir(&state);
    }

    /// Whether no call here ever needed a slot of limits that hosts share.
    pub fn needs_no_slots(&self) -> bool {
        self.lock().shares.is_empty()
    }

    /// Whether calls wait for slots that others have; the slots that this host has of each, then.
    pub fn lacks_slots(&self) -> Option<Vec<(FleetLimits, u32)>> {
        self.lock().shares.lacks()
    }

    /// Slots may have become free elsewhere.
    pub fn slots_may_be_free(&self) {
        if self.lacks_slots().is_some() {
            self.turns.hear_of_slots();
        }
    }

    /// Lets through those who waited for one of these slots, as long as one is free; whoever came first goes first.
    fn admit<'a>(self: &Arc<Self>, state: &mut State, freed: impl Iterator<Item = &'a Slot> + Clone) {
        let next = |state: &State| {
            let next = freed.clone().filter_map(|slot| Some((slot, state.next_under(slot)?)));
            next.min_by_key(|(_, (_, first, _))| *first)
        };
        while let Some((slot, (limit, first, slots))) = next(state) {
            #[cfg(test)]
            {
                state.looks += 1;
            }
            let here = (slot.clone(), limit);
            state.take_from_under(&here, first);
            match state.full(&slots) {
                Some(full) => state.put_under(full, first, Arc::clone(&slots)),
                None => {
                    let waiter = state.waiting.get_mut(&slots).and_then(|queue| queue.remove(&first));
                    let next = state.waiting.get(&slots).and_then(|queue| queue.keys().next().copied());
                    match next {
                        Some(next) => state.put_under(&here, next, Arc::clone(&slots)),
                        None => drop(state.waiting.remove(&slots)),
                    }
                    // Nobody else takes one out of the queue.
                    let Some(Waiter { go, who, .. }) = waiter else { continue };
                    state.take(&slots, first, &who);
                    let permit =
                        Permit { gate: Arc::clone(self), slots: Some(Arc::clone(&slots)), ticket: first };
                    if let Err(mut refused) = go.send(permit) {
                        // It was dropped just now. Dropping the permit would lock again.
                        refused.slots = None;
                        state.give_back(&slots, first);
                    }
                }
            }
        }
    }

    /// Whether calls of a provider may have to wait for their turn.
    pub fn has_turns(&self, provider: &str, rate: ProviderRate) -> bool {
        rate.rate.is_some() || self.queues().contains_key(provider)
    }

    /// A place among the calls of a provider, for one step of a run that is driven under this epoch and this lease.
    pub(crate) fn place(
        self: &Arc<Self>,
        provider: &str,
        rate: ProviderRate,
        (run, step, epoch): (&RunId, Step, Epoch),
        lease: &LatestLease,
    ) -> Place {
        let (provider, step, lease) = (provider.to_owned(), (run.clone(), step), lease.clone());
        Place { gate: Arc::clone(self), provider, rate, step, epoch, lease, keeps: false }
    }

    /// The provider asked to be left alone for so long. What cannot be meant is not heeded.
    pub fn block(&self, provider: &str, rate: ProviderRate, millis: u64, now: Timestamp) {
        let Some(millis) = retry::plausible_wish_ms(millis) else { return };
        if let Some(rate) = rate.of_fleet() {
            self.turns.block(share::of_provider(provider), rate, millis);
            return;
        }
        let mut queues = self.queues();
        let queue = queues.entry(provider.to_owned()).or_default();
        queue.block(rate.rate, now, now.after(millis));
    }

    /// The step waits for nobody any more, says who drives the run under that epoch.
    pub fn release(&self, run: &RunId, step: Step, epoch: Epoch) {
        let mut queues = self.queues();
        let step = (run.clone(), step);
        queues.values_mut().for_each(|queue| queue.release(&step));
        self.turns.release(&step, epoch);
    }

    /// No step of the run waits for anybody any more. Whether the store is to be told: steps of it have turns of
    /// rates that all hosts share, or what it was to be told of them may still be on its way.
    #[must_use]
    pub fn release_run(&self, run: &RunId) -> bool {
        for queue in self.queues().values_mut() {
            queue.release_from(&(run.clone(), Step(0)), |(of, _)| of == run);
        }
        self.turns.forget(run) | self.turns.has_words(run)
    }

    /// A step that was put off comes back for a turn, which any host may have taken for it.
    pub fn keep_turn(&self, provider: &str, rate: ProviderRate, run: &RunId, step: Step) {
        if rate.of_fleet().is_some() {
            self.turns.keep(&(run.clone(), step), share::of_provider(provider));
        }
    }

    /// The run is not driven here any more: whoever drives it next finds the turns of its steps.
    pub fn leave_turns(&self, run: &RunId) {
        self.turns.forget(run);
    }

    /// Has the store told that no step of a run waits for a turn.
    pub fn give_back_turns(&self, run: &RunId) {
        self.turns.give_back_all(run);
    }
}

/// How often calls of a provider may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProviderRate {
    pub rate: Option<Rate>,
    /// Whether it holds for all hosts of a store together.
    pub of_fleet: bool,
}

impl ProviderRate {
    fn of_fleet(self) -> Option<Rate> {
        self.rate.filter(|_| self.of_fleet)
    }
}

/// The place of a step among the calls of a provider. Its turn is given back when it is dropped, unless it was used or
/// left for the step to come again, to this host or, if the run was left, to the next one.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
    provider: String,
    rate: ProviderRate,
    step: (RunId, Step),
    epoch: Epoch,
    lease: LatestLease,
    /// There is nothing to be given back.
    keeps: bool,
}

impl Place {
    /// Whether the call may begin at `now`; else when its turn is. It keeps
    /// its turn until it comes back, whatever others ask for meanwhile.
    pub async fn pass(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        if let Some(rate) = self.rate.of_fleet() {
            let at = self.gate.turns.pass(share::of_provider(&self.provider), rate, &self.step).await;
            // A turn that is used is nothing that could be given back.
            self.keeps = at.is_none();
            return at.map_or(Ok(()), Err);
        }
        let mut queues = self.gate.queues();
        queues.entry(self.provider.clone()).or_default().pass(&self.step, self.rate.rate, now)
    }

    /// Whether another host may have the run by now, and the turn of the step with it.
    pub fn may_be_of_another(&self) -> bool {
        self.rate.of_fleet().is_some() && !self.lease.is_held()
    }

    /// The step comes again when its turn is, and finds it then.
    pub fn keep(mut self) {
        self.keeps = true;
        if self.rate.of_fleet().is_some() {
            self.gate.turns.keep(&self.step, share::of_provider(&self.provider));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.keeps {
            return;
        }
        let name = || share::of_provider(&self.provider);
        if self.may_be_of_another() {
            // What is said of it now could be heard when the next host has it. If the run ends here it is given back.
            self.gate.turns.keep(&self.step, name());
        } else if self.rate.of_fleet().is_some() {
            self.gate.turns.give_back(&self.step, name(), self.epoch);
        } else if let Some(queue) = self.gate.queues().get_mut(&self.provider) {
            queue.release(&self.step);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const NONE: ProviderRate = ProviderRate { rate: None, of_fleet: false };

    /// What no store has to be asked for.
    fn at_once<T>(work: impl Future<Output = T>) -> T {
        work.now_or_never().unwrap()
    }

    fn slots(names: &[(&str, u32)]) -> Slots {
        names.iter().map(|(name, limit)| (Slot::Group((*name).to_owned()), *limit)).collect()
    }

    async fn enter(gate: &Arc<Gate>, names: &[(&str, u32)]) -> Permit {
        gate.enter(&slots(names), &Arc::from("r#1")).await
    }

    #[tokio::test]
    async fn no_more_than_the_limit_and_no_idle_slot() {
        let gate = Arc::new(Gate::default());
        let running = Arc::new(Mutex::new((0_u32, 0_u32, 0_u32)));
        let tasks = (0..200).map(|_| {
            let (gate, running) = (Arc::clone(&gate), Arc::clone(&running));
            tokio::spawn(async move {
                let _permit = enter(&gate, &[("a", 8)]).await;
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
        let first = enter(&gate, &[("a", 1)]).await;
        let mut both = Box::pin(enter(&gate, &[("a", 1), ("b", 1)]));
        assert!(futures_util::poll!(&mut both).is_pending());
        let other = enter(&gate, &[("b", 1)]).await;
        drop(first);
        assert!(futures_util::poll!(&mut both).is_pending(), "b is taken");
        drop(other);
        drop(both.await);
        assert!(gate.lock().used.is_empty());
    }

    #[tokio::test]
    async fn one_who_gives_up_takes_no_slot() {
        let gate = Arc::new(Gate::default());
        let first = enter(&gate, &[("a", 1)]).await;
        let mut gone = Box::pin(enter(&gate, &[("a", 1)]));
        assert!(futures_util::poll!(&mut gone).is_pending());
        let mut patient = Box::pin(enter(&gate, &[("a", 1)]));
        assert!(futures_util::poll!(&mut patient).is_pending());
        drop(gone);
        drop(first);
        assert!(futures_util::poll!(&mut patient).is_ready());
    }

    fn run(name: &str) -> RunId {
        name.parse().unwrap()
    }

    #[test]
    fn a_provider_is_left_alone_as_it_asked() {
        let gate = Arc::new(Gate::default());
        let pass = |provider, step, at| {
            at_once(
                gate.place(provider, NONE, (&run("r"), Step(step), Epoch(1)), &LatestLease::default())
                    .pass(Timestamp(at)),
            )
        };
        gate.block("p", NONE, 400, Timestamp(100));
        gate.block("p", NONE, 200, Timestamp(100));
        assert_eq!(pass("p", 1, 100), Err(Timestamp(500)));
        assert_eq!(pass("q", 1, 100), Ok(()));
        assert_eq!(pass("p", 1, 500), Ok(()));
    }

    #[test]
    fn a_wish_that_cannot_be_meant_blocks_nobody() {
        let gate = Arc::new(Gate::default());
        let now = Timestamp(1_800_000_000_000);
        for garbage in [u64::MAX, now.0, now.0 / 1_000, 31 * 86_400_000] {
            gate.block("p", NONE, garbage, now);
            assert!(!gate.has_turns("p", NONE), "{garbage}");
        }
        gate.block("p", NONE, 3 * 86_400_000, now);
        let mut place = gate.place("p", NONE, (&run("r"), Step(1), Epoch(1)), &LatestLease::default());
        assert_eq!(at_once(place.pass(now)), Err(now.after(86_400_000)));
    }

    #[test]
    fn each_call_keeps_its_turn_until_it_comes() {
        let gate = Arc::new(Gate::default());
        let rate = ProviderRate { rate: Some(Rate { per_minute: 6, burst: 1 }), of_fleet: false };
        let place = |step| gate.place("p", rate, (&run("r"), Step(step), Epoch(1)), &LatestLease::default());
        assert_eq!(at_once(place(1).pass(Timestamp(0))), Ok(()));
        for step in 2..=1_000 {
            let at = Timestamp((step - 1) * 10_000);
            let mut waits = place(step);
            assert_eq!(at_once(waits.pass(Timestamp(0))), Err(at));
            waits.keep();
        }
        // One that asks later goes behind them, whatever it does.
        assert_eq!(at_once(place(1_001).pass(Timestamp(0))), Err(Timestamp(10_000_000)));
        for step in 2..=1_000 {
            assert_eq!(at_once(place(step).pass(Timestamp((step - 1) * 10_000))), Ok(()));
        }
    }

    #[test]
    fn turns_of_calls_that_are_not_wanted_any_more_are_free() {
        let gate = Arc::new(Gate::default());
        let rate = ProviderRate { rate: Some(Rate { per_minute: 6, burst: 1 }), of_fleet: false };
        let place = |name: &str, step| {
            gate.place("p", rate, (&run(name), Step(step), Epoch(1)), &LatestLease::default())
        };
        assert_eq!(at_once(place("a", 1).pass(Timestamp(0))), Ok(()));
        for step in 2..=100 {
            let mut waits = place("a", step);
            at_once(waits.pass(Timestamp(0))).unwrap_err();
            waits.keep();
        }
        let mut waits = place("b", 1);
        assert_eq!(at_once(waits.pass(Timestamp(0))), Err(Timestamp(1_000_000)));
        waits.keep();
        gate.release(&run("a"), Step(7), Epoch(1));
        assert_eq!(at_once(place("b", 2).pass(Timestamp(0))), Err(Timestamp(60_000)), "of step 7");
        assert!(!gate.release_run(&run("a")), "the store knows of none");
        assert_eq!(at_once(place("b", 2).pass(Timestamp(0))), Err(Timestamp(10_000)));
        let mut waits = place("b", 1);
        assert_eq!(at_once(waits.pass(Timestamp(0))), Err(Timestamp(1_000_000)), "that is journaled");
        waits.keep();
        assert_eq!(gate.queues()["p"].waiting().0, 1);
    }

    /// A queue that is looked through at each end of a call takes 50 million looks here.
    #[tokio::test]
    async fn ten_thousand_that_wait_cost_each_end_of_a_call_nothing() {
        let gate = Arc::new(Gate::default());
        let mut waiting: Vec<_> = (0..10_000)
            .map(|i| {
                let gate = Arc::clone(&gate);
                let run = format!("r{}", i % 1_000);
                let slots = slots(&[("all", 8), (&run, 1)]);
                // All of them are one task, which may do more than tasks usually do.
                Box::pin(tokio::task::unconstrained(
                    async move { gate.enter(&slots, &Arc::from("r#1")).await },
                ))
            })
            .collect();
        let mut permits = std::collections::VecDeque::new();
        for enters in &mut waiting {
            if let std::task::Poll::Ready(permit) = futures_util::poll!(enters) {
                permits.push_back(permit);
            }
        }
        assert_eq!(permits.len(), 8);
        let mut ended = 0;
        let mut next = 8;
        while let Some(permit) = permits.pop_front() {
            drop(permit);
            ended += 1;
            while next < waiting.len()
                && let std::task::Poll::Ready(permit) = futures_util::poll!(&mut waiting[next])
            {
                permits.push_back(permit);
                next += 1;
            }
        }
        assert_eq!(ended, 10_000, "in the order of asking");
        let looks = gate.lock().looks;
        assert!(looks < 100_000, "{looks} looks");
        assert!(gate.lock().blocked.is_empty() && gate.lock().waiting.is_empty());
    }
}
