//! What is set aside of budgets for calls in flight.
//!
//! What a call will consume is known only when it is over. So a part of the
//! budget of its family is set aside before it begins, by what calls of its
//! provider consumed lately, and given back when what it did consume is
//! recorded. Calls that do not fit into what is left wait for that, in the order of
//! asking. All of it is in the memory of one host: hosts that share a family
//! know each other's calls only when they are recorded.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use wfhost_core::RunId;
use wfhost_core::policy::budget::{Budget, Expected, Keeping, Short, Spent, Usual};

/// What a family may spend and has spent, as it is recorded.
#[derive(Clone, Debug)]
pub struct Purse {
    /// The run at the top of the family.
    pub root: RunId,
    pub budget: Budget,
    pub spent: Spent,
}

/// Reads what is recorded now.
pub type ReadPurse = Box<dyn Fn() -> BoxFuture<'static, Purse> + Send + Sync>;

/// What is set aside, of all families that this host makes calls for.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    families: HashMap<RunId, Family>,
    /// What calls of each provider consumed lately.
    usual: HashMap<String, Usual>,
    /// Who was told that a provider's calls are not counted.
    warned: HashSet<(RunId, String)>,
    /// Providers whose calls no budget in dollars of a family can count, and what is missing.
    uncounted: HashMap<(RunId, String), Keeping>,
}

/// Warnings that are remembered; then they may come again.
const WARNED: usize = 10_000;

#[derive(Debug, Default)]
struct Family {
    reserved: Spent,
    under_way: usize,
    /// Those that do not fit, in the order of asking.
    waiting: VecDeque<Arc<Waiter>>,
    /// How many calls were settled: what was read before the last of them is old.
    settled: u64,
}

/// A call that waits for the budget.
#[derive(Debug, Default)]
pub(crate) struct Waiter {
    woken: Notify,
    /// It waits for something else at the moment, and holds up nobody behind it. Changed under the lock.
    aside: AtomicBool,
}

impl Waiter {
    /// Waits until it is worth asking again.
    pub async fn notified(&self) {
        self.woken.notified().await;
    }
}

impl Family {
    fn is_first(&self, waiter: &Arc<Waiter>) -> bool {
        self.first().is_some_and(|first| Arc::ptr_eq(first, waiter))
    }

    /// The first one that waits for nothing else.
    fn first(&self) -> Option<&Arc<Waiter>> {
        self.waiting.iter().find(|waiter| !waiter.aside.load(Ordering::Relaxed))
    }

    fn wake_first(&self) {
        if let Some(first) = self.first() {
            first.woken.notify_one();
        }
    }
}

/// Whether a call may begin.
pub(crate) enum SetAside {
    /// Nothing limits it.
    Free,
    For(Reservation),
    /// It is worth asking again when this is woken.
    Wait(Arc<Waiter>),
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place among the calls of a family.
    pub fn queue(self: &Arc<Self>) -> InQueue {
        InQueue { ledger: Arc::clone(self), place: None }
    }

    /// What a call of the provider is expected to consume, if any was settled here.
    pub fn usual(&self, provider: &str) -> Option<Expected> {
        self.lock().usual.get(provider).map(|usual| usual.expected())
    }

    /// A call of the provider consumed that.
    pub fn learn(&self, provider: &str, spent: Spent) {
        let mut state = self.lock();
        match state.usual.get_mut(provider) {
            Some(usual) => *usual = usual.and(spent),
            None => drop(state.usual.insert(provider.to_owned(), Usual::new(spent))),
        }
    }

    /// A call of the provider was not counted by a budget in dollars of a family.
    pub fn cannot_count(&self, root: &RunId, provider: &str, why: Keeping) {
        let mut state = self.lock();
        if state.uncounted.len() >= WARNED {
            state.uncounted.clear();
        }
        state.uncounted.insert((root.clone(), provider.to_owned()), why);
    }

    /// What the answers of the provider lacked for a budget in dollars of a family.
    pub fn uncounted(&self, root: &RunId, provider: &str) -> Option<Keeping> {
        self.lock().uncounted.get(&(root.clone(), provider.to_owned())).copied()
    }

    /// Whether this is the first warning to a family about a provider.
    pub fn warns(&self, root: &RunId, provider: &str) -> bool {
        let mut state = self.lock();
        if state.warned.len() >= WARNED {
            state.warned.clear();
        }
        state.warned.insert((root.clone(), provider.to_owned()))
    }
}

/// A call on its way to a reservation. It leaves the queue when it is dropped.
#[derive(Debug)]
pub(crate) struct InQueue {
    ledger: Arc<Ledger>,
    place: Option<(RunId, Arc<Waiter>)>,
}

impl InQueue {
    /// Sets aside what the call is expected to consume. `read` gives what is recorded.
    ///
    /// # Errors
    ///
    /// If nothing is left.
    pub async fn set_aside(
        &mut self,
        read: &ReadPurse,
        expected: impl Fn() -> Expected,
    ) -> Result<SetAside, Short> {
        loop {
            // Only those who spend from the same purse know its root before it was read.
            let settled = self.settled();
            let purse = read().await;
            if !purse.budget.counts() {
                return purse.budget.can_afford(purse.spent).map(|()| SetAside::Free);
            }
            if let Some(done) = self.decide(purse, expected(), settled)? {
                return Ok(done);
            }
        }
    }

    /// How many calls of the family were settled up to now, if it is known which one it is.
    fn settled(&self) -> Option<u64> {
        let (root, _) = self.place.as_ref()?;
        self.ledger.lock().families.get(root).map(|family| family.settled)
    }

    /// None if the purse has to be read again.
    fn decide(
        &mut self,
        purse: Purse,
        expected: Expected,
        settled: Option<u64>,
    ) -> Result<Option<SetAside>, Short> {
        let Purse { root, budget, spent } = purse;
        let mut state = self.ledger.lock();
        let family = state.families.entry(root.clone()).or_default();
        let place = match &self.place {
            Some((_, place)) if settled == Some(family.settled) => Arc::clone(place),
            place => {
                // What is recorded has to be read after the look at what is settled.
                if place.is_none() {
                    let place = Arc::new(Waiter::default());
                    family.waiting.push_back(Arc::clone(&place));
                    self.place = Some((root, place));
                }
                return Ok(None);
            }
        };
        place.aside.store(false, Ordering::Relaxed);
        let is_first = family.is_first(&place);
        let aside = match budget.set_aside(spent, family.reserved, family.under_way, expected) {
            Ok(Some(aside)) if is_first => aside,
            Ok(_) => return Ok(Some(SetAside::Wait(place))),
            Err(short) => {
                drop(state);
                self.leave();
                return Err(short);
            }
        };
        family.reserved = family.reserved.plus(aside);
        family.under_way += 1;
        drop(state);
        self.leave();
        Ok(Some(SetAside::For(Reservation { ledger: Arc::clone(&self.ledger), root, budget, aside })))
    }

    /// The call waits for something else. It keeps its place until it asks again, and those behind it go on.
    pub fn step_aside(&mut self) {
        let Some((root, place)) = &self.place else { return };
        let mut state = self.ledger.lock();
        let Some(family) = state.families.get_mut(root) else { return };
        let was_first = family.is_first(place);
        place.aside.store(true, Ordering::Relaxed);
        if was_first {
            family.wake_first();
        }
    }

    /// The next one is first now.
    fn leave(&mut self) {
        let Some((root, place)) = self.place.take() else { return };
        let mut state = self.ledger.lock();
        let Some(family) = state.families.get_mut(&root) else { return };
        let was_first = family.is_first(&place);
        match family.waiting.front() {
            Some(front) if Arc::ptr_eq(front, &place) => drop(family.waiting.pop_front()),
            _ => family.waiting.retain(|waiter| !Arc::ptr_eq(waiter, &place)),
        }
        if was_first {
            family.wake_first();
        }
        if family.waiting.is_empty() && family.under_way == 0 {
            state.families.remove(&root);
        }
    }
}

impl Drop for InQueue {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What is set aside for a call, until what it consumed is recorded or it is given up.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    root: RunId,
    budget: Budget,
    aside: Spent,
}

impl Reservation {
    /// The run at the top of the family.
    pub fn root(&self) -> &RunId {
        &self.root
    }

    /// What the family may spend.
    pub fn budget(&self) -> Budget {
        self.budget
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.ledger.lock();
        let Some(family) = state.families.get_mut(&self.root) else { return };
        family.reserved.tokens = family.reserved.tokens.saturating_sub(self.aside.tokens);
        family.reserved.micros = family.reserved.micros.saturating_sub(self.aside.micros);
        family.under_way = family.under_way.saturating_sub(1);
        family.settled += 1;
        family.wake_first();
        if family.waiting.is_empty() && family.under_way == 0 {
            state.families.remove(&self.root);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn root() -> RunId {
        "root".parse().unwrap()
    }

    /// A purse of so many tokens, and what is recorded of them.
    fn purse(tokens: u64, spent: &Arc<AtomicU64>) -> ReadPurse {
        let spent = Arc::clone(spent);
        Box::new(move || {
            let tokens_spent = spent.load(Ordering::SeqCst);
            let budget = Budget { tokens: Some(tokens), ..Budget::default() };
            let spent = Spent { tokens: tokens_spent, ..Spent::default() };
            Box::pin(std::future::ready(Purse { root: root(), budget, spent }))
        })
    }

    /// Makes calls of 60 tokens each at once. Gives how many were made, in their order, and
    /// how often one looked whether it fits.
    async fn calls(ledger: &Arc<Ledger>, budget: u64, count: u64) -> (Vec<u64>, u64) {
        let spent = Arc::new(AtomicU64::new(0));
        let looks = Arc::new(AtomicU64::new(0));
        let made = Arc::new(Mutex::new(Vec::new()));
        let tasks = (0..count).map(|number| {
            let (ledger, spent, looks, made) =
                (Arc::clone(ledger), Arc::clone(&spent), Arc::clone(&looks), Arc::clone(&made));
            tokio::spawn(async move {
                let read = purse(budget, &spent);
                let mut queue = ledger.queue();
                let reservation = loop {
                    looks.fetch_add(1, Ordering::SeqCst);
                    let expected = || ledger.usual("p").unwrap_or_default();
                    match queue.set_aside(&read, expected).await {
                        Ok(SetAside::For(reservation)) => break reservation,
                        Ok(SetAside::Wait(woken)) => woken.notified().await,
                        Ok(SetAside::Free) => panic!("there is a budget"),
                        Err(_) => return,
                    }
                };
                made.lock().unwrap().push(number);
                tokio::task::yield_now().await;
                ledger.learn("p", Spent { tokens: 60, ..Spent::default() });
                spent.fetch_add(60, Ordering::SeqCst);
                drop(reservation);
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert!(ledger.lock().families.is_empty(), "nothing is left behind");
        let made = made.lock().unwrap().clone();
        (made, looks.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn a_thousand_calls_at_once_overspend_by_one_at_most() {
        let (made, looks) = calls(&Arc::default(), 1_000, 1_000).await;
        // 17 are 1,020 tokens.
        assert_eq!(made, (0..17).collect::<Vec<_>>(), "in the order of asking");
        assert!(looks < 3_000, "{looks} looks");
    }

    #[tokio::test]
    async fn calls_that_fit_are_made_side_by_side() {
        let ledger = Arc::new(Ledger::default());
        let spent = Arc::new(AtomicU64::new(0));
        let read = purse(1_000, &spent);
        ledger.learn("p", Spent { tokens: 100, ..Spent::default() });
        let expected = || ledger.usual("p").unwrap_or_default();
        let mut held = Vec::new();
        for _ in 0..10 {
            match ledger.queue().set_aside(&read, expected).await {
                Ok(SetAside::For(reservation)) => held.push(reservation),
                _ => panic!("it fits"),
            }
        }
        let mut eleventh = ledger.queue();
        assert!(matches!(eleventh.set_aside(&read, expected).await, Ok(SetAside::Wait(_))));
        // Another one of which less is expected does not overtake it.
        let small = || Expected { tokens: Some(1), micros: None };
        let mut twelfth = ledger.queue();
        assert!(matches!(twelfth.set_aside(&read, small).await, Ok(SetAside::Wait(_))));
        held.pop();
        let Ok(SetAside::For(_reservation)) = eleventh.set_aside(&read, expected).await else {
            panic!("one was given back")
        };
        drop(twelfth);
        // What is spent counts when it is recorded.
        spent.store(1_000, Ordering::SeqCst);
        assert!(ledger.queue().set_aside(&read, expected).await.is_err());
    }

    #[tokio::test]
    async fn one_that_gives_up_lets_the_next_go() {
        let ledger = Arc::new(Ledger::default());
        let read = purse(100, &Arc::default());
        let unknown = Expected::default;
        let Ok(SetAside::For(first)) = ledger.queue().set_aside(&read, unknown).await else {
            panic!("alone")
        };
        let mut second = ledger.queue();
        assert!(matches!(second.set_aside(&read, unknown).await, Ok(SetAside::Wait(_))));
        let mut third = ledger.queue();
        let Ok(SetAside::Wait(woken)) = third.set_aside(&read, unknown).await else { panic!("behind") };
        drop(second);
        drop(first);
        woken.notified().await;
        assert!(matches!(third.set_aside(&read, unknown).await, Ok(SetAside::For(_))));
    }

    /// The first one in the order of asking waits for a slot by now.
    #[tokio::test]
    async fn one_that_waits_for_something_else_lets_the_next_go_and_keeps_its_place() {
        let ledger = Arc::new(Ledger::default());
        ledger.learn("p", Spent { tokens: 60, ..Spent::default() });
        let read = purse(100, &Arc::default());
        let expected = || ledger.usual("p").unwrap_or_default();
        let Ok(SetAside::For(first)) = ledger.queue().set_aside(&read, expected).await else {
            panic!("it fits")
        };
        let [mut second, mut third, mut fourth] = [(); 3].map(|()| ledger.queue());
        let mut woken = Vec::new();
        for queue in [&mut second, &mut third, &mut fourth] {
            let Ok(SetAside::Wait(wakes)) = queue.set_aside(&read, expected).await else { panic!("full") };
            woken.push(wakes);
        }
        drop(first);
        woken[0].notified().await;
        second.step_aside();
        woken[1].notified().await;
        let Ok(SetAside::For(of_third)) = third.set_aside(&read, expected).await else {
            panic!("it is the first of those that are there")
        };
        // It has its slot, and goes before those that asked later.
        assert!(matches!(second.set_aside(&read, expected).await, Ok(SetAside::Wait(_))));
        drop(of_third);
        assert!(matches!(fourth.set_aside(&read, expected).await, Ok(SetAside::Wait(_))));
        assert!(matches!(second.set_aside(&read, expected).await, Ok(SetAside::For(_))));
        drop((third, fourth));
        assert!(ledger.lock().families.is_empty(), "nothing is left behind");
    }
}
