//! Limits that hold for all hosts of a store: what this host has of them, and what it is to ask for.
//!
//! The gate decides with what it knows; a task of the host tells the store ([`Gate::ask_slots`],
//! [`Gate::turn_words`]) and the gate what came of it. So however many calls wait, a host asks for all of them at once.
//!
//! [`Gate::ask_slots`]: super::Gate::ask_slots
//! [`Gate::turn_words`]: super::Gate::turn_words

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use wfhost_core::policy::rate::Rate;
use wfhost_core::policy::share::{SlotAsk, TurnWord};
use wfhost_core::{Epoch, RunId, Step, Timestamp};

use super::gate::Gate;

/// Limits that a call needs a slot of each, by name, with the number of calls that each lets through.
pub type FleetLimits = Arc<[(String, u32)]>;

/// Words that the store is told together.
const TOGETHER: usize = 500;

/// What this host has of limits that all share.
#[derive(Debug, Default)]
pub(super) struct Shares {
    of: BTreeMap<FleetLimits, Share>,
    /// What the store was told last: slots that are wanted, by their limits.
    told: Told,
    /// It may not know that.
    unsure: bool,
}

type Told = Vec<(Vec<(String, u32)>, u32)>;

#[derive(Debug, Default)]
struct Share {
    /// Slots that this host has, for calls under way and for others.
    has: u32,
    /// Those that were given back since the store was told.
    back: u32,
    /// What is under way, by the ticket of the call.
    calls: BTreeMap<u64, Arc<str>>,
}

impl Share {
    fn under_way(&self) -> u32 {
        u32::try_from(self.calls.len()).unwrap_or(u32::MAX)
    }
}

impl Shares {
    /// Calls that the store is told by name, of those under way and of those that wait.
    pub const NAMED: usize = 32;

    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Calls need slots of these limits.
    pub fn need(&mut self, limits: &FleetLimits) {
        if !self.of.contains_key(limits) {
            self.of.insert(Arc::clone(limits), Share::default());
        }
    }

    pub fn has(&self, limits: &FleetLimits) -> u32 {
        self.of.get(limits).map_or(0, |share| share.has)
    }

    pub fn begin(&mut self, limits: &FleetLimits, ticket: u64, who: &Arc<str>) {
        if let Some(share) = self.of.get_mut(limits) {
            share.calls.insert(ticket, Arc::clone(who));
        }
    }

    /// A call is over. Its slot is the store's: another host may have waited longer than any call here.
    pub fn end(&mut self, limits: &FleetLimits, ticket: u64) {
        if let Some(share) = self.of.get_mut(limits) {
            share.calls.remove(&ticket);
            share.has = share.has.saturating_sub(1);
            share.back += 1;
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &FleetLimits> {
        self.of.keys()
    }

    pub fn calls(&self, limits: &FleetLimits) -> Vec<String> {
        let calls = self.of.get(limits).into_iter().flat_map(|share| share.calls.values());
        calls.take(Self::NAMED).map(|who| who.to_string()).collect()
    }

    /// Whether the store does not know of these asks. It does then, or will: see [`Gate::ask_slots`]. That a call
    /// began with a slot that was given for it need not be told.
    pub fn tell(&mut self, asks: &[SlotAsk]) -> bool {
        let now: Told = asks.iter().map(|ask| (ask.limits.clone(), ask.wants)).collect();
        if !self.unsure && self.told == now && self.of.values().all(|share| share.back == 0) {
            return false;
        }
        for share in self.of.values_mut() {
            // What the store gives elsewhere when it hears of this must not be used here.
            share.has = share.under_way();
            share.back = 0;
        }
        (self.told, self.unsure) = (now, false);
        true
    }

    /// The store gave this host so many of them, of what it was told.
    pub fn set(&mut self, limits: &[(String, u32)], has: u32) -> Option<FleetLimits> {
        let key: FleetLimits = limits.into();
        let share = self.of.get_mut(&key)?;
        share.has = has.saturating_sub(share.back);
        Some(key)
    }

    /// It is not known what the store knows: slots that nothing is under way with may be another host's.
    pub fn forget(&mut self) {
        self.unsure = true;
        for share in self.of.values_mut() {
            share.has = share.under_way();
        }
    }

    /// What this host has of each, if it could use more.
    pub fn lacks(&self) -> Option<Vec<(FleetLimits, u32)>> {
        let lacks = self
            .told
            .iter()
            .any(|(limits, wants)| self.of.get(limits.as_slice()).is_some_and(|share| share.has < *wants));
        lacks.then(|| self.of.iter().map(|(limits, share)| (Arc::clone(limits), share.has)).collect())
    }
}

/// What concerns turns of rates that all hosts share, and waits to be told to the store.
#[derive(Debug, Default)]
pub(crate) struct FleetTurns {
    words: Mutex<VecDeque<Word>>,
    /// The turns that steps come back for, by step and name.
    kept: Mutex<BTreeSet<((RunId, Step), String)>>,
    /// There may be something to tell.
    pub stirred: Notify,
    /// Slots may have become free elsewhere.
    heard_of_slots: AtomicBool,
}

#[derive(Debug)]
struct Word {
    word: TurnWord,
    /// Who waits for what comes of it.
    answer: Option<oneshot::Sender<Option<Timestamp>>>,
}

impl FleetTurns {
    fn words(&self) -> MutexGuard<'_, VecDeque<Word>> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, BTreeSet<((RunId, Step), String)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, word: TurnWord, answer: Option<oneshot::Sender<Option<Timestamp>>>) {
        self.words().push_back(Word { word, answer });
        self.stirred.notify_one();
    }

    /// When the turn of a call is; none if it may begin now.
    pub async fn pass(&self, name: String, rate: Rate, step: &(RunId, Step)) -> Option<Timestamp> {
        self.kept().remove(&(step.clone(), name.clone()));
        let (answer, answered) = oneshot::channel();
        self.say(TurnWord::Pass { name, rate, run: step.0.clone(), step: step.1 }, Some(answer));
        match answered.await {
            Ok(at) => at,
            // The host is about to end: nothing is called any more.
            Err(_) => std::future::pending().await,
        }
    }

    /// A call comes back when its turn is.
    pub fn keep(&self, step: &(RunId, Step), name: String) {
        self.kept().insert((step.clone(), name));
    }

    /// A call does not wait for its turn any more.
    pub fn give_back(&self, (run, step): &(RunId, Step), name: String, epoch: Epoch) {
        self.say(TurnWord::Release { name, run: run.clone(), step: *step, epoch }, None);
    }

    pub fn block(&self, name: String, rate: Rate, millis: u64) {
        self.say(TurnWord::Block { name, rate, millis }, None);
    }

    /// The step waits for nobody any more.
    pub fn release(&self, step: &(RunId, Step), epoch: Epoch) {
        let names: Vec<String> = {
            let mut kept = self.kept();
            let of_step = kept.range((step.clone(), String::new())..).take_while(|(of, _)| of == step);
            let names: Vec<_> = of_step.map(|(_, name)| name.clone()).collect();
            for name in &names {
                kept.remove(&(step.clone(), name.clone()));
            }
            names
        };
        for name in names {
            self.give_back(step, name, epoch);
        }
    }

    /// Forgets the turns that steps of the run come back for, without a word. Whether there were any.
    pub fn forget(&self, run: &RunId) -> bool {
        let mut kept = self.kept();
        let first = ((run.clone(), Step(0)), String::new());
        let of_run: Vec<_> = kept.range(first..).take_while(|((of, _), _)| of == run).cloned().collect();
        for turn in &of_run {
            kept.remove(turn);
        }
        !of_run.is_empty()
    }

    /// Whether the store is yet to be told something of the run.
    pub fn has_words(&self, run: &RunId) -> bool {
        self.words().iter().any(|word| match &word.word {
            TurnWord::Pass { run: of, .. }
            | TurnWord::Release { run: of, .. }
            | TurnWord::ReleaseRun { run: of } => of == run,
            TurnWord::Block { .. } => false,
        })
    }

    /// No call of the run waits for its turn any more.
    pub fn give_back_all(&self, run: &RunId) {
        self.say(TurnWord::ReleaseRun { run: run.clone() }, None);
    }

    /// Has the host look whether slots became free.
    pub fn hear_of_slots(&self) {
        self.heard_of_slots.store(true, Ordering::Relaxed);
        self.stirred.notify_one();
    }
}

impl Gate {
    /// Waits until the store may have to be told something.
    pub async fn stirred(&self) {
        self.turns.stirred.notified().await;
    }

    /// Something could not be told: it is to be tried again.
    pub fn stir_again(&self) {
        self.turns.stirred.notify_one();
    }

    /// Whether slots may have become free elsewhere since this was asked.
    pub fn heard_of_slots(&self) -> bool {
        self.turns.heard_of_slots.swap(false, Ordering::Relaxed)
    }

    /// What the store is to be told of turns next, in order; see [`Gate::told_turns`]. To be asked by one at a time.
    pub fn turn_words(&self) -> Vec<TurnWord> {
        let mut words = self.turns.words();
        // Nobody is there any more who would take the turn.
        words.retain(|word| word.answer.as_ref().is_none_or(|answer| !answer.is_closed()));
        words.iter().take(TOGETHER).map(|word| word.word.clone()).collect()
    }

    /// The store was told the first words, and gave these answers.
    pub fn told_turns(&self, answers: Vec<Option<Timestamp>>) {
        let mut words = self.turns.words();
        for at in answers {
            if let Some(answer) = words.pop_front().and_then(|word| word.answer) {
                // Who asked may be gone; he says so.
                let _ = answer.send(at);
            }
        }
        if !words.is_empty() {
            self.turns.stirred.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use wfhost_core::policy::share::{Need, share};
    use wfhost_world::{LatestLease, Lease};

    use super::*;
    use crate::gate::{Permit, ProviderRate, Slot};

    fn who(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    fn fleet(limit: u32) -> (Slot, u32) {
        (Slot::Fleet([("provider:p".to_owned(), limit)].into()), u32::MAX)
    }

    /// What a store does for several hosts: one round for each of them.
    fn round(hosts: &[Arc<Gate>], known: &mut [Vec<Need>]) {
        for (host, gate) in hosts.iter().enumerate() {
            let Some(asks) = gate.ask_slots() else { continue };
            let needs = asks.iter().map(|ask| Need {
                limits: ask.limits.clone(),
                has: ask.used,
                wants: ask.wants,
                since: Timestamp(1_000 - ask.waited_ms.min(1_000)),
            });
            known[host] = needs.collect();
            let mut all: Vec<Need> = known.iter().flatten().cloned().collect();
            share(&mut all, Timestamp(1_000));
            let mut all = all.into_iter();
            known.iter_mut().for_each(|needs| needs.iter_mut().for_each(|need| *need = all.next().unwrap()));
            gate.set_slots(&asks, &known[host].iter().map(|need| need.has).collect::<Vec<_>>());
        }
        for (gate, needs) in hosts.iter().zip(known.iter()) {
            for (limits, has) in gate.lacks_slots().into_iter().flatten() {
                if needs.iter().any(|need| need.limits == *limits && need.has > has) {
                    gate.forget_slots();
                }
            }
        }
    }

    #[tokio::test]
    async fn hosts_share_a_limit_and_nothing_lies_idle() {
        let hosts: Vec<_> = (0..3).map(|_| Arc::new(Gate::default())).collect();
        let mut known = vec![Vec::new(); 3];
        let mut waiting = Vec::new();
        let mut under_way: Vec<Permit> = Vec::new();
        for n in 0..90 {
            let gate = Arc::clone(&hosts[n % 3]);
            // Half of them need something else as well, of which each host has only one.
            let slots: Arc<[(Slot, u32)]> = match n % 2 {
                0 => [fleet(4)].into(),
                _ => [(Slot::Group("g".to_owned()), 1), fleet(4)].into(),
            };
            waiting.push(Box::pin(async move { gate.enter(&slots, &who(&format!("r#{n}"))).await }));
        }
        let mut made = 0;
        for _ in 0..400 {
            round(&hosts, &mut known);
            let mut left = Vec::new();
            for mut call in waiting {
                match futures_util::poll!(&mut call) {
                    std::task::Poll::Ready(permit) => under_way.push(permit),
                    std::task::Poll::Pending => left.push(call),
                }
            }
            waiting = left;
            assert!(under_way.len() <= 4, "{}", under_way.len());
            if !under_way.is_empty() {
                drop(under_way.remove(0));
                made += 1;
            }
        }
        assert_eq!((made, waiting.len()), (90, 0));
        round(&hosts, &mut known);
        assert!(hosts.iter().all(|gate| gate.ask_slots().is_none()), "nothing is left to be told");
        assert!(known.iter().flatten().all(|need| need.has == 0), "{known:?}");
    }

    #[tokio::test]
    async fn a_host_asks_for_no_more_than_it_can_use_and_names_who_waits() {
        let gate = Arc::new(Gate::default());
        let slots: Arc<[(Slot, u32)]> = [(Slot::Host, 2), fleet(9)].into();
        let mut waiting: Vec<_> = (0..100)
            .map(|n| {
                let (gate, slots) = (Arc::clone(&gate), Arc::clone(&slots));
                Box::pin(async move { gate.enter(&slots, &who(&format!("r#{n}"))).await })
            })
            .collect();
        for call in &mut waiting {
            assert!(futures_util::poll!(call).is_pending());
        }
        let asks = gate.ask_slots().unwrap();
        assert_eq!(
            (asks.len(), asks[0].used, asks[0].wants, asks[0].waiting.len()),
            (1, 0, 2, Shares::NAMED)
        );
        assert!(gate.ask_slots().is_none(), "that is told");
        gate.set_slots(&asks, &[2]);
        let permit = match futures_util::poll!(&mut waiting[0]) {
            std::task::Poll::Ready(permit) => permit,
            std::task::Poll::Pending => panic!("it has a slot"),
        };
        assert!(gate.ask_slots().is_none(), "both slots are used");
        // Its slot goes back to the store, whoever waits here.
        drop(permit);
        assert!(futures_util::poll!(&mut waiting[2]).is_pending());
        let told = gate.ask_slots().unwrap();
        assert_eq!((told[0].used, told[0].wants, &told[0].calls[..]), (1, 2, &["r#1".to_owned()][..]));
        // The store fails: it is asked again.
        gate.forget_slots();
        assert_eq!(gate.ask_slots().unwrap()[0].wants, 2);
    }

    #[tokio::test]
    async fn a_slot_of_a_session_that_was_ended_is_not_used_under_the_next_one() {
        let gate = Arc::new(Gate::default());
        let slots: Arc<[(Slot, u32)]> = [fleet(2)].into();
        let enter = || {
            let (gate, slots) = (Arc::clone(&gate), Arc::clone(&slots));
            Box::pin(async move { gate.enter(&slots, &who("r#1")).await })
        };
        let (mut first, mut gone) = (enter(), enter());
        assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut gone).is_pending());
        let asks = gate.ask_slots().unwrap();
        // One of them is not there any more when the slots are.
        drop(gone);
        gate.set_slots(&asks, &[2]);
        let permit = first.await;
        gate.forget_slots();
        let mut next = enter();
        assert!(futures_util::poll!(&mut next).is_pending(), "its slot is another session's by now");
        let asks = gate.ask_slots().unwrap();
        assert_eq!((asks[0].used, asks[0].wants), (1, 2));
        gate.set_slots(&asks, &[2]);
        assert!(futures_util::poll!(&mut next).is_ready());
        drop(permit);
    }

    #[tokio::test]
    async fn turns_are_told_in_order_and_those_that_are_kept_are_given_back_with_their_step() {
        let gate = Arc::new(Gate::default());
        let rate = Rate { per_minute: 6, burst: 1 };
        let run: RunId = "r".parse().unwrap();
        let step = (run.clone(), Step(1));
        let mut pass = Box::pin(gate.turns.pass("provider:p".to_owned(), rate, &step));
        assert!(futures_util::poll!(&mut pass).is_pending());
        assert_eq!(gate.turn_words().len(), 1);
        gate.told_turns(vec![Some(Timestamp(70))]);
        assert_eq!(pass.await, Some(Timestamp(70)));
        gate.turns.keep(&step, "provider:p".to_owned());
        gate.release(&run, Step(2), Epoch(3));
        assert_eq!(gate.turn_words(), []);
        gate.release(&run, Step(1), Epoch(3));
        let (name, epoch) = ("provider:p".to_owned(), Epoch(3));
        let released = TurnWord::Release { name, run: run.clone(), step: Step(1), epoch };
        assert_eq!(gate.turn_words(), [released]);
        gate.told_turns(vec![None]);
        gate.turns.keep(&step, "provider:p".to_owned());
        assert!(gate.release_run(&run) && !gate.release_run(&run), "there was one");
        assert_eq!(gate.turn_words(), [], "it is for the caller to say so");
        gate.give_back_turns(&run);
        assert_eq!(gate.turn_words(), [TurnWord::ReleaseRun { run: run.clone() }]);
        assert!(gate.release_run(&run), "it was not told yet");
    }

    const OF_FLEET: ProviderRate =
        ProviderRate { rate: Some(Rate { per_minute: 6, burst: 1 }), of_fleet: true };

    #[tokio::test]
    async fn a_turn_that_was_used_is_not_given_back() {
        let gate = Arc::new(Gate::default());
        let run: RunId = "r".parse().unwrap();
        let mut place = gate.place("p", OF_FLEET, (&run, Step(1), Epoch(3)), &held());
        for (at, is_over) in [(Some(Timestamp(70)), false), (None, true)] {
            let mut pass = Box::pin(place.pass(Timestamp(60)));
            assert!(futures_util::poll!(&mut pass).is_pending());
            gate.told_turns(vec![at]);
            assert_eq!(pass.await.is_ok(), is_over);
        }
        drop(place);
        assert_eq!(gate.turn_words(), []);
    }

    /// A lease that is held.
    fn held() -> LatestLease {
        let lease = Lease::default();
        lease.extend(tokio::time::Instant::now() + std::time::Duration::from_secs(1_000));
        let latest = LatestLease::default();
        latest.set(lease);
        latest
    }

    #[tokio::test]
    async fn a_turn_is_given_back_by_the_host_that_has_the_run_only() {
        let gate = Arc::new(Gate::default());
        let run: RunId = "r".parse().unwrap();
        let (name, epoch) = ("provider:p".to_owned(), Epoch(3));
        let release = TurnWord::Release { name, run: run.clone(), step: Step(1), epoch };
        let waits = async |lease: &LatestLease| {
            let mut place = gate.place("p", OF_FLEET, (&run, Step(1), Epoch(3)), lease);
            let mut pass = Box::pin(place.pass(Timestamp(60)));
            assert!(futures_util::poll!(&mut pass).is_pending());
            gate.told_turns(vec![Some(Timestamp(70))]);
            assert_eq!(pass.await, Err(Timestamp(70)));
            place
        };
        drop(waits(&held()).await);
        assert_eq!(gate.turn_words(), [release]);
        gate.told_turns(vec![None]);
        let lease = held();
        let place = waits(&lease).await;
        lease.leave();
        drop(place);
        assert_eq!(gate.turn_words(), [], "whoever has the run next finds it");
        assert!(gate.release_run(&run), "if the run ends here it is given back");
        // Somebody else has the run: nothing that was about to be asked for it is.
        let lease = held();
        let mut place = gate.place("p", OF_FLEET, (&run, Step(1), Epoch(3)), &lease);
        let mut pass = Box::pin(place.pass(Timestamp(60)));
        assert!(futures_util::poll!(&mut pass).is_pending());
        lease.leave();
        drop(pass);
        drop(place);
        assert_eq!(gate.turn_words(), []);
    }

    #[test]
    fn what_is_kept_for_a_run_is_forgotten_when_it_is_left() {
        let gate = Gate::default();
        let [a, b]: [RunId; 2] = ["a", "b"].map(|run| run.parse().unwrap());
        for step in 1..=3 {
            gate.keep_turn("p", OF_FLEET, &a, Step(step));
            gate.keep_turn("p", OF_FLEET, &b, Step(step));
            gate.keep_turn("p", ProviderRate { of_fleet: false, ..OF_FLEET }, &b, Step(10 + step));
        }
        gate.leave_turns(&a);
        assert_eq!(gate.turns.kept().len(), 3);
        assert!(!gate.release_run(&a) && gate.release_run(&b));
        assert_eq!((gate.turns.kept().len(), gate.turn_words().len()), (0, 0));
    }

    /// Enters the gate for each of these, one after the other.
    fn enter_all<'a>(
        gate: &'a Arc<Gate>,
        all: &'a [Vec<(Slot, u32)>],
    ) -> Vec<std::pin::Pin<Box<dyn Future<Output = Permit> + 'a>>> {
        all.iter().map(|slots| Box::pin(enter(gate, slots)) as _).collect()
    }

    async fn enter(gate: &Arc<Gate>, slots: &[(Slot, u32)]) -> Permit {
        gate.enter(&slots.into(), &who("r#1")).await
    }

    /// Which of those that wait have begun now.
    fn begun<T>(waiting: &mut BTreeMap<usize, T>, under_way: &mut VecDeque<(usize, Permit)>) -> Vec<usize>
    where
        T: Future<Output = Permit> + Unpin,
    {
        let mut begun = Vec::new();
        for (place, call) in &mut *waiting {
            if let Some(permit) = call.now_or_never() {
                under_way.push_back((*place, permit));
                begun.push(*place);
            }
        }
        waiting.retain(|place, _| !begun.contains(place));
        begun
    }

    /// A host is full of calls that need nothing of the fleet, and more of them queue.
    #[tokio::test]
    async fn a_call_that_needs_a_slot_of_the_fleet_begins_though_slots_of_its_host_are_never_free() {
        let gate = Arc::new(Gate::default());
        let mut all = vec![vec![(Slot::Host, 2)]; 40];
        all[2] = vec![(Slot::Host, 2), fleet(2)];
        let mut waiting: BTreeMap<_, _> = enter_all(&gate, &all).into_iter().enumerate().collect();
        let (mut under_way, mut known) = (VecDeque::new(), vec![Vec::new()]);
        let mut before = 0;
        begun(&mut waiting, &mut under_way);
        while !under_way.iter().any(|(place, _)| *place == 2) {
            round(std::slice::from_ref(&gate), &mut known);
            drop(under_way.pop_front());
            before += begun(&mut waiting, &mut under_way).len();
            assert!(before <= 3, "{before} calls that asked later have begun");
        }
        // What was kept for it is not kept any longer.
        while !under_way.is_empty() {
            round(std::slice::from_ref(&gate), &mut known);
            drop(under_way.pop_front());
            begun(&mut waiting, &mut under_way);
        }
        round(std::slice::from_ref(&gate), &mut known);
        assert_eq!((waiting.len(), &known[0][..]), (0, &[][..]));
    }

    /// Calls that need different limits of the fleet share one slot of their host.
    #[tokio::test]
    async fn of_calls_that_need_different_limits_the_one_that_asked_first_begins_first() {
        let gate = Arc::new(Gate::default());
        let limits = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 64)).collect();
        let kinds = [limits(&["all", "provider:p"]), limits(&["all"])];
        let all: Vec<_> = (0..10)
            .map(|n| vec![(Slot::Host, 1), (Slot::Fleet(Arc::clone(&kinds[n % 2])), u32::MAX)])
            .collect();
        let mut waiting: BTreeMap<_, _> = enter_all(&gate, &all).into_iter().enumerate().collect();
        let (mut under_way, mut known) = (VecDeque::new(), vec![Vec::new()]);
        let mut order = begun(&mut waiting, &mut under_way);
        for _ in 0..10 {
            round(std::slice::from_ref(&gate), &mut known);
            order.extend(begun(&mut waiting, &mut under_way));
            let idle: u32 = known[0].iter().map(|need| need.has).sum();
            assert!(idle <= 2, "{known:?}");
            drop(under_way.pop_front());
        }
        assert_eq!(order, (0..10).collect::<Vec<_>>());
    }
}
