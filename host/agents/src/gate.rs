//! Where calls wait for their turn: limits of concurrency and of rate.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use wfhost_core::policy::rate::{Rate, Turn, Turns};
use wfhost_core::policy::retry;
use wfhost_core::{RunId, Step, Timestamp};

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
}

/// The slots that a call has to have, with their limits.
type Slots = Arc<[(Slot, u32)]>;

/// Lets calls through. One for each host.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    /// The turns at each provider.
    queues: Mutex<HashMap<String, Queue>>,
    /// What is set aside of the budgets of families.
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) conversations: Known,
    /// Is told of all calls.
    pub(crate) observer: Option<Arc<dyn CallObserver>>,
}

#[derive(Debug, Default)]
struct State {
    used: HashMap<Slot, u32>,
    /// Those that wait, by the set of slots that they wait for, in their order.
    waiting: HashMap<Slots, BTreeMap<Ticket, oneshot::Sender<Permit>>>,
    /// Each set that somebody waits for is under one of its slots that is full, by
    /// its limit and its first ticket. So a slot that becomes free finds its next call at once.
    blocked: HashMap<Slot, BTreeMap<u32, BTreeMap<Ticket, Slots>>>,
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
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            let mut state = self.gate.lock();
            state.give_back(&slots);
            self.gate.admit(&mut state, &slots);
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
        self.gate.lock().leave(&self.slots, self.ticket);
    }
}

impl State {
    fn is_full(&self, slot: &Slot, limit: u32) -> bool {
        self.used.get(slot).copied().unwrap_or(0) >= limit.max(1)
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

    fn take(&mut self, slots: &Slots) {
        for (slot, _) in slots.iter() {
            *self.used.entry(slot.clone()).or_default() += 1;
        }
    }

    fn give_back(&mut self, slots: &Slots) {
        for (slot, _) in slots.iter() {
            if let Some(used) = self.used.get_mut(slot) {
                *used -= 1;
                if *used == 0 {
                    self.used.remove(slot);
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
    pub async fn enter(self: &Arc<Self>, slots: &Slots) -> Permit {
        if slots.is_empty() {
            return Permit { gate: Arc::clone(self), slots: None };
        }
        let (waiting, admitted) = {
            let mut state = self.lock();
            let Some(full) = state.full(slots).cloned() else {
                // Whoever waits for one of these waits for another one as well.
                state.take(slots);
                return Permit { gate: Arc::clone(self), slots: Some(Arc::clone(slots)) };
            };
            state.last += 1;
            let ticket = state.last;
            let (go, admitted) = oneshot::channel();
            let queue = state.waiting.entry(Arc::clone(slots)).or_default();
            queue.insert(ticket, go);
            if queue.len() == 1 {
                state.put_under(&full, ticket, Arc::clone(slots));
            }
            (Waiting { gate: self, slots: Arc::clone(slots), ticket }, admitted)
        };
        let admitted = admitted.await;
        drop(waiting);
        // The gate lives as long as somebody waits at it, and lets everybody through.
        admitted.unwrap_or_else(|_| Permit { gate: Arc::clone(self), slots: None })
    }

    /// Lets through those who waited for one of these slots, as long as one is free.
    fn admit(self: &Arc<Self>, state: &mut State, freed: &Slots) {
        for (slot, _) in freed.iter() {
            while let Some((limit, first, slots)) = state.next_under(slot) {
                #[cfg(test)]
                {
                    state.looks += 1;
                }
                let here = (slot.clone(), limit);
                state.take_from_under(&here, first);
                match state.full(&slots) {
                    Some(full) => state.put_under(full, first, Arc::clone(&slots)),
                    None => {
                        let go = state.waiting.get_mut(&slots).and_then(|queue| queue.remove(&first));
                        let next = state.waiting.get(&slots).and_then(|queue| queue.keys().next().copied());
                        match next {
                            Some(next) => state.put_under(&here, next, Arc::clone(&slots)),
                            None => drop(state.waiting.remove(&slots)),
                        }
                        state.take(&slots);
                        let permit = Permit { gate: Arc::clone(self), slots: Some(Arc::clone(&slots)) };
                        if let Some(Err(mut refused)) = go.map(|go| go.send(permit)) {
                            // It was dropped just now. Dropping the permit would lock again.
                            refused.slots = None;
                            state.give_back(&slots);
                        }
                    }
                }
            }
        }
    }

    /// Whether calls of a provider may have to wait for their turn.
    pub fn has_turns(&self, provider: &str, rate: Option<Rate>) -> bool {
        rate.is_some() || self.queues().contains_key(provider)
    }

    /// A place among the calls of a provider, for one step.
    pub(crate) fn place(
        self: &Arc<Self>,
        provider: &str,
        rate: Option<Rate>,
        run: &RunId,
        step: Step,
    ) -> Place {
        let (provider, step) = (provider.to_owned(), (run.clone(), step));
        Place { gate: Arc::clone(self), provider, rate, step, keeps: false }
    }

    /// The provider asked to be left alone for so long. What cannot be meant is not heeded.
    pub fn block(&self, provider: &str, rate: Option<Rate>, millis: u64, now: Timestamp) {
        if let Some(millis) = retry::plausible_wish_ms(millis) {
            let mut queues = self.queues();
            let queue = queues.entry(provider.to_owned()).or_default();
            queue.turns.block(rate, now, now.after(millis));
        }
    }

    /// The step waits for nobody any more.
    pub fn release(&self, run: &RunId, step: Step) {
        let mut queues = self.queues();
        if !queues.is_empty() {
            let step = (run.clone(), step);
            queues.values_mut().for_each(|queue| queue.release(&step));
        }
    }

    /// No step of the run waits for anybody any more.
    pub fn release_run(&self, run: &RunId) {
        for queue in self.queues().values_mut() {
            let steps = queue.held.range((run.clone(), Step(0))..).map(|(step, _)| step);
            let steps: Vec<_> = steps.take_while(|(of, _)| of == run).cloned().collect();
            // The last ones first: so nothing has to be kept of them.
            for step in steps.iter().rev() {
                queue.release(step);
            }
        }
    }
}

/// The turns at one provider that were given to calls which are to come again.
#[derive(Debug, Default)]
struct Queue {
    turns: Turns,
    held: BTreeMap<(RunId, Step), Turn>,
    in_order: BTreeSet<(Turn, (RunId, Step))>,
}

impl Queue {
    fn pass(&mut self, step: &(RunId, Step), rate: Option<Rate>, now: Timestamp) -> Result<(), Timestamp> {
        self.turns.see(now);
        // Those who did not come.
        while let Some((turn, _)) = self.in_order.first()
            && self.turns.has_lapsed(*turn, rate, now)
            && let Some((_, step)) = self.in_order.pop_first()
        {
            self.held.remove(&step);
        }
        let turn = match self.held.get(step) {
            Some(turn) => *turn,
            None if self.turns.is_open(rate, now) => return Ok(()),
            None => self.turns.take(rate, now),
        };
        let at = self.turns.at(turn);
        if at > now {
            self.held.insert(step.clone(), turn);
            self.in_order.insert((turn, step.clone()));
            return Err(at);
        }
        self.forget(step);
        Ok(())
    }

    fn forget(&mut self, step: &(RunId, Step)) -> Option<Turn> {
        let turn = self.held.remove(step)?;
        self.in_order.remove(&(turn, step.clone()));
        Some(turn)
    }

    fn release(&mut self, step: &(RunId, Step)) {
        if let Some(turn) = self.forget(step) {
            self.turns.give_back(turn);
        }
    }
}

/// The place of a step among the calls of a provider. Its turn is given back
/// when it is dropped, unless it was left for the step to come again.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
    provider: String,
    rate: Option<Rate>,
    step: (RunId, Step),
    keeps: bool,
}

impl Place {
    /// Whether the call may begin at `now`; else when its turn is. It keeps
    /// its turn until it comes back, whatever others ask for meanwhile.
    pub fn pass(&self, now: Timestamp) -> Result<(), Timestamp> {
        let mut queues = self.gate.queues();
        queues.entry(self.provider.clone()).or_default().pass(&self.step, self.rate, now)
    }

    /// The step comes again when its turn is, and finds it then.
    pub fn keep(mut self) {
        self.keeps = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keeps
            && let Some(queue) = self.gate.queues().get_mut(&self.provider)
        {
            queue.release(&self.step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(names: &[(&str, u32)]) -> Slots {
        names.iter().map(|(name, limit)| (Slot::Group((*name).to_owned()), *limit)).collect()
    }

    async fn enter(gate: &Arc<Gate>, names: &[(&str, u32)]) -> Permit {
        gate.enter(&slots(names)).await
    }

    #[tokio::test]
    async fn no_more_than_the_limit_and_no_idle_slot() {
        let gate = Arc::new(Gate::default());
        let running = Arc::new(Mutex::new((0_u32, 0_u32, 0_u32)));
        let tasks = (0..200).map(|_| {
            let (gate, running) = (Arc::clone(&gate), Arc::clone(&running));
            tokio::spawn(async move {
                let _permit = gate.enter(&slots(&[("a", 8)])).await;
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
        let first = gate.enter(&slots(&[("a", 1)])).await;
        let mut both = Box::pin(enter(&gate, &[("a", 1), ("b", 1)]));
        assert!(futures_util::poll!(&mut both).is_pending());
        let other = gate.enter(&slots(&[("b", 1)])).await;
        drop(first);
        assert!(futures_util::poll!(&mut both).is_pending(), "b is taken");
        drop(other);
        drop(both.await);
        assert!(gate.lock().used.is_empty());
    }

    #[tokio::test]
    async fn one_who_gives_up_takes_no_slot() {
        let gate = Arc::new(Gate::default());
        let first = gate.enter(&slots(&[("a", 1)])).await;
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
        let pass = |provider, step, at| gate.place(provider, None, &run("r"), Step(step)).pass(Timestamp(at));
        gate.block("p", None, 400, Timestamp(100));
        gate.block("p", None, 200, Timestamp(100));
        assert_eq!(pass("p", 1, 100), Err(Timestamp(500)));
        assert_eq!(pass("q", 1, 100), Ok(()));
        assert_eq!(pass("p", 1, 500), Ok(()));
    }

    #[test]
    fn a_wish_that_cannot_be_meant_blocks_nobody() {
        let gate = Arc::new(Gate::default());
        let now = Timestamp(1_800_000_000_000);
        for garbage in [u64::MAX, now.0, now.0 / 1_000, 31 * 86_400_000] {
            gate.block("p", None, garbage, now);
            assert!(!gate.has_turns("p", None), "{garbage}");
        }
        gate.block("p", None, 3 * 86_400_000, now);
        let place = gate.place("p", None, &run("r"), Step(1));
        assert_eq!(place.pass(now), Err(now.after(86_400_000)));
    }

    #[test]
    fn each_call_keeps_its_turn_until_it_comes() {
        let gate = Arc::new(Gate::default());
        let rate = Some(Rate { per_minute: 6, burst: 1 });
        let place = |step| gate.place("p", rate, &run("r"), Step(step));
        assert_eq!(place(1).pass(Timestamp(0)), Ok(()));
        for step in 2..=1_000 {
            let at = Timestamp((step - 1) * 10_000);
            let waits = place(step);
            assert_eq!(waits.pass(Timestamp(0)), Err(at));
            waits.keep();
        }
        // One that asks later goes behind them, whatever it does.
        assert_eq!(place(1_001).pass(Timestamp(0)), Err(Timestamp(10_000_000)));
        for step in 2..=1_000 {
            assert_eq!(place(step).pass(Timestamp((step - 1) * 10_000)), Ok(()));
        }
    }

    #[test]
    fn turns_of_calls_that_are_not_wanted_any_more_are_free() {
        let gate = Arc::new(Gate::default());
        let rate = Some(Rate { per_minute: 6, burst: 1 });
        let place = |name: &str, step| gate.place("p", rate, &run(name), Step(step));
        assert_eq!(place("a", 1).pass(Timestamp(0)), Ok(()));
        for step in 2..=100 {
            let waits = place("a", step);
            waits.pass(Timestamp(0)).unwrap_err();
            waits.keep();
        }
        let waits = place("b", 1);
        assert_eq!(waits.pass(Timestamp(0)), Err(Timestamp(1_000_000)));
        waits.keep();
        gate.release(&run("a"), Step(7));
        assert_eq!(place("b", 2).pass(Timestamp(0)), Err(Timestamp(60_000)), "of step 7");
        gate.release_run(&run("a"));
        assert_eq!(place("b", 2).pass(Timestamp(0)), Err(Timestamp(10_000)));
        let waits = place("b", 1);
        assert_eq!(waits.pass(Timestamp(0)), Err(Timestamp(1_000_000)), "that is journaled");
        waits.keep();
        assert_eq!(gate.queues()["p"].held.len(), 1);
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
                Box::pin(tokio::task::unconstrained(async move { gate.enter(&slots).await }))
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
