//! The calls of runs that are under way in this process.
//!
//! They belong to the host and not to one execution of a driver. A driver that
//! has to be left (a store that is out of reach for a moment, an append that
//! came too late) leaves them to the next drive of the run in this process,
//! who gets their answers. Nothing that is under way and paid for is dropped
//! because of something else: an answer that a driver has taken is kept, too, until
//! it is committed, and so is what calls consumed that were stopped.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::task::noop_waker_ref;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use wfhost_agents::{Admission, Writers};
use wfhost_core::{RunId, Step};
use wfhost_world::{LatestLease, lock};

/// How long calls that nobody asks for go on.
const LINGER: Duration = Duration::from_secs(120);

/// A call: the step, and which attempt at it.
pub(crate) type Attempt = (Step, u32);

/// What is left of a call if it is stopped now, if that is worth knowing. Asked again when the call is gone.
type Left<T> = Box<dyn Fn() -> Option<T> + Send>;

/// The calls of one run; `T` is what they end with.
pub(crate) struct Calls<T> {
    state: Mutex<State<T>>,
    /// One has ended.
    ended: Notify,
    /// Of the drive that has come to take these calls over last: without it nothing is called, and turns of rates that
    /// all hosts share are left to whoever drives the run next.
    pub lease: LatestLease,
    /// What writes the transcripts of these calls.
    pub writers: Writers,
}

/// A call that is under way.
struct UnderWay<T> {
    attempt: u32,
    /// Whether it is made, or waits for that.
    admission: Admission,
    task: JoinHandle<()>,
    left: Left<T>,
}

struct State<T> {
    under_way: BTreeMap<Step, UnderWay<T>>,
    ended: VecDeque<(Attempt, T)>,
    /// Those that the driver has taken, and that are yet to be committed.
    taken: Vec<(Attempt, T)>,
    /// Those that were aborted and may not be gone yet.
    aborted: Vec<(Step, UnderWay<T>)>,
    /// What those had ended with that were aborted before it was taken, and what is left of those that are gone.
    untaken: Vec<(Attempt, T)>,
    /// What was told of those that were aborted, and is yet to be committed.
    told: Vec<(Attempt, T)>,
}

impl<T> State<T> {
    fn abort(&mut self, step: Step) {
        if let Some(call) = self.under_way.remove(&step) {
            self.stop(step, call);
        }
    }

    fn stop(&mut self, step: Step, call: UnderWay<T>) {
        call.task.abort();
        self.aborted.push((step, call));
    }

    fn has_waiting(&self) -> bool {
        self.under_way.values().any(|call| call.admission.is_open())
    }

    fn halt(&mut self) {
        for (step, call) in std::mem::take(&mut self.under_way) {
            self.stop(step, call);
        }
    }

    fn clear(&mut self) {
        self.halt();
        self.ended.clear();
        self.taken.clear();
        self.untaken.clear();
        self.told.clear();
    }
}

impl<T> Default for Calls<T> {
    fn default() -> Self {
        let state = Mutex::new(State {
            under_way: BTreeMap::new(),
            ended: VecDeque::new(),
            taken: Vec::new(),
            aborted: Vec::new(),
            untaken: Vec::new(),
            told: Vec::new(),
        });
        Self { state, ended: Notify::new(), lease: LatestLease::default(), writers: Writers::default() }
    }
}

impl<T> fmt::Debug for Calls<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        let [under_way, ended, taken] = [state.under_way.len(), state.ended.len(), state.taken.len()];
        write!(f, "Calls({under_way} under way, {ended} ended, {taken} taken)")
    }
}

impl<T> Calls<T> {
    fn clear(&self) {
        self.lease.leave();
        lock(&self.state).clear();
    }
}

impl<T: Clone + Send + 'static> Calls<T> {
    /// Begins a call. One that ends at once needs no task.
    pub fn begin(self: &Arc<Self>, attempt: Attempt, call: BoxFuture<'static, T>) {
        self.begin_paid(attempt, Admission::granted(), call, || None);
    }

    /// The same of one that costs something and may have to wait until it is made: if it is stopped, `left` tells what
    /// is known of it.
    pub fn begin_paid(
        self: &Arc<Self>,
        (step, attempt): Attempt,
        admission: Admission,
        mut call: BoxFuture<'static, T>,
        left: impl Fn() -> Option<T> + Send + 'static,
    ) {
        let mut context = Context::from_waker(noop_waker_ref());
        if let Poll::Ready(end) = call.as_mut().poll(&mut context) {
            lock(&self.state).ended.push_back(((step, attempt), end));
            self.ended.notify_one();
            return;
        }
        let calls = Arc::clone(self);
        // The task finds itself there, however quick it is.
        let mut state = lock(&self.state);
        let task = tokio::spawn(async move {
            let end = call.await;
            let mut state = lock(&calls.state);
            // It may have been aborted, and another one begun.
            if state.under_way.get(&step).is_some_and(|known| known.attempt == attempt) {
                state.under_way.remove(&step);
                state.ended.push_back(((step, attempt), end));
                drop(state);
                calls.ended.notify_one();
            }
        });
        state.under_way.insert(step, UnderWay { attempt, admission, task, left: Box::new(left) });
    }

    /// Stops a call that nobody waits for. What is left of it, be it that it has ended and was not taken, is told
    /// [when it is gone](Self::aborted).
    pub fn abort(&self, step: Step) {
        let mut state = lock(&self.state);
        state.abort(step);
        for (attempt, end) in std::mem::take(&mut state.ended) {
            match attempt.0 == step {
                true => state.untaken.push((attempt, end)),
                false => state.ended.push_back((attempt, end)),
            }
        }
        state.taken.retain(|((taken, _), _)| *taken != step);
    }

    /// The same of one of an earlier drive. What it ended with is forgotten: it may be recorded.
    pub fn abandon(&self, step: Step) {
        let mut state = lock(&self.state);
        state.abort(step);
        state.ended.retain(|((ended, _), _)| *ended != step);
    }

    /// Those that are under way, or have ended and were not taken.
    pub fn all(&self) -> Vec<Attempt> {
        let state = lock(&self.state);
        let under_way = state.under_way.iter().map(|(step, call)| (*step, call.attempt));
        under_way.chain(state.ended.iter().map(|(attempt, _)| *attempt)).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let state = lock(&self.state);
        state.under_way.len() + state.ended.len()
    }

    /// Whether one waits to be made.
    pub fn has_waiting(&self) -> bool {
        lock(&self.state).has_waiting()
    }

    /// Whether there is something to record if those that are made are stopped.
    pub fn has_news(&self) -> bool {
        let state = lock(&self.state);
        let is_costly = |call: &UnderWay<T>| (call.left)().is_some();
        !state.ended.is_empty()
            || !state.untaken.is_empty()
            || state.has_waiting()
            || state.under_way.values().any(is_costly)
    }

    /// Takes back those that wait to be made; each ends with `end`. They may not be gone yet.
    pub fn withdraw(&self, end: impl Fn() -> T) {
        let mut state = lock(&self.state);
        let withdrawn: Vec<_> = state.under_way.extract_if(.., |_, call| call.admission.withdraw()).collect();
        for (step, call) in withdrawn {
            state.ended.push_back(((step, call.attempt), end()));
            state.stop(step, call);
        }
    }

    /// Takes one that has ended, if there is one.
    pub fn take(&self) -> Option<(Attempt, T)> {
        lock(&self.state).ended.pop_front()
    }

    /// Keeps what one ended with that was taken, until it is [committed](Self::settled).
    pub fn hold(&self, attempt: Attempt, end: T) {
        lock(&self.state).taken.push((attempt, end));
    }

    /// What was taken, and [told](Self::aborted), is committed.
    pub fn settled(&self) {
        let mut state = lock(&self.state);
        state.taken.clear();
        state.told.clear();
    }

    /// What was taken or told and is not committed is there again, for the next drive.
    fn restore(&self) {
        let mut state = lock(&self.state);
        while let Some(taken) = state.taken.pop() {
            state.ended.push_front(taken);
        }
        let told = std::mem::take(&mut state.told);
        // Nobody waits for it: it is not among those that the next drive takes over.
        state.untaken.splice(0..0, told);
    }

    /// Whether the next drive has something of these.
    fn has_nothing(&self) -> bool {
        let state = lock(&self.state);
        state.under_way.is_empty()
            && state.ended.is_empty()
            && state.untaken.is_empty()
            && state.aborted.is_empty()
    }

    /// Stops those that are under way. Those that have ended can be taken.
    pub fn halt(&self) {
        self.lease.leave();
        lock(&self.state).halt();
    }

    /// Changes what is kept of those that have ended or were stopped.
    pub fn each_ended(&self, change: impl FnMut(&mut T)) {
        let mut state = lock(&self.state);
        let State { ended, taken, untaken, told, .. } = &mut *state;
        ended.iter_mut().chain(taken).chain(untaken).chain(told).map(|(_, end)| end).for_each(change);
    }

    /// Waits until one has ended.
    pub async fn next(&self) -> (Attempt, T) {
        loop {
            let ended = self.ended.notified();
            if let Some(taken) = self.take() {
                return taken;
            }
            ended.await;
        }
    }

    /// Waits until those that were aborted are gone. Gives what is left of them, which is kept until it is
    /// [committed](Self::settled).
    pub async fn aborted(&self) -> Vec<(Attempt, T)> {
        self.until_gone().await;
        let mut state = lock(&self.state);
        let left = std::mem::take(&mut state.untaken);
        state.told.extend_from_slice(&left);
        left
    }

    /// Waits until those that were aborted are gone.
    async fn until_gone(&self) {
        let aborted = std::mem::take(&mut lock(&self.state).aborted);
        for (step, call) in aborted {
            let _ = call.task.await;
            if let Some(end) = (call.left)() {
                lock(&self.state).untaken.push(((step, call.attempt), end));
            }
        }
    }

    /// Stops all, and waits until they are gone and what they said is stored. Their turns are kept: who ends the run
    /// gives them back when that is recorded, else the next host finds them.
    pub async fn stop(&self) {
        self.clear();
        self.gone().await;
    }

    /// Waits until those that were stopped are gone and what they said is stored.
    pub async fn gone(&self) {
        self.until_gone().await;
        let writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        for writer in writers {
            let _ = writer.await;
        }
    }
}

/// The calls of all runs of a host.
#[derive(Debug)]
pub(crate) struct Registry<T> {
    runs: Mutex<HashMap<RunId, Entry<T>>>,
}

#[derive(Debug)]
struct Entry<T> {
    calls: Arc<Calls<T>>,
    /// How often the run was driven here: tells whether it was since some time.
    driven: u64,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self { runs: Mutex::default() }
    }
}

impl<T: Clone + Send + 'static> Registry<T> {
    /// The calls of a run, for its current drive.
    pub fn of(&self, run: &RunId) -> Arc<Calls<T>> {
        let mut runs = lock(&self.runs);
        match runs.get_mut(run) {
            Some(entry) => {
                entry.driven += 1;
                Arc::clone(&entry.calls)
            }
            None => Arc::default(),
        }
    }

    /// Keeps the calls of a run that had to be left, for some time.
    pub fn keep(self: &Arc<Self>, run: &RunId, calls: Arc<Calls<T>>) {
        calls.restore();
        if calls.has_nothing() {
            lock(&self.runs).remove(run);
            return;
        }
        let mut runs = lock(&self.runs);
        let entry = runs.entry(run.clone()).or_insert(Entry { calls, driven: 0 });
        entry.driven += 1;
        let (driven, run, registry) = (entry.driven, run.clone(), Arc::downgrade(self));
        drop(runs);
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            let Some(registry) = Weak::upgrade(&registry) else { return };
            let mut runs = lock(&registry.runs);
            if runs.get(&run).is_some_and(|entry| entry.driven == driven)
                && let Some(entry) = runs.remove(&run)
            {
                entry.calls.clear();
            }
        });
    }

    /// The run is not this host's any more: those of its calls that are not made yet wait until it is again.
    pub fn leave(&self, run: &RunId) {
        if let Some(entry) = lock(&self.runs).get(run) {
            entry.calls.lease.leave();
        }
    }

    /// The run needs none of its calls any more.
    pub fn forget(&self, run: &RunId) {
        if let Some(entry) = lock(&self.runs).remove(run) {
            entry.calls.clear();
        }
    }
}

impl<T> Drop for Registry<T> {
    fn drop(&mut self) {
        for (_, entry) in lock(&self.runs).drain() {
            entry.calls.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunId {
        "run-1".parse().unwrap()
    }

    fn later(millis: u64, value: u32) -> BoxFuture<'static, u32> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            value
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_to_be_made_can_be_taken_back_and_what_is_made_cannot() {
        let calls = Arc::new(Calls::default());
        let waiting = Admission::default();
        calls.begin((Step(1), 1), later(50, 1));
        calls.begin_paid((Step(2), 3), waiting.clone(), later(50, 2), || None);
        assert!(calls.has_waiting());
        calls.withdraw(|| 7);
        assert!(!calls.has_waiting() && !waiting.admit());
        assert_eq!(calls.take(), Some(((Step(2), 3), 7)));
        assert_eq!(calls.next().await, ((Step(1), 1), 1));
        assert_eq!((calls.len(), calls.has_news()), (0, false));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_survive_who_began_them() {
        let registry = Arc::new(Registry::<u32>::default());
        let calls = registry.of(&run());
        calls.begin((Step(1), 1), later(50, 10));
        calls.begin((Step(2), 3), Box::pin(std::future::ready(20)));
        registry.keep(&run(), calls);
        let calls = registry.of(&run());
        let mut all = calls.all();
        all.sort_unstable();
        assert_eq!(all, [(Step(1), 1), (Step(2), 3)]);
        assert_eq!([calls.next().await, calls.next().await], [((Step(2), 3), 20), ((Step(1), 1), 10)]);
        assert_eq!((calls.len(), calls.take()), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_taken_is_there_again_until_it_is_committed() {
        let registry = Arc::new(Registry::<u32>::default());
        let calls = registry.of(&run());
        for n in 1..=3 {
            calls.begin((Step(n), 1), Box::pin(std::future::ready(n as u32)));
        }
        for n in 0..2 {
            let (attempt, answer) = calls.next().await;
            calls.hold(attempt, answer);
            if n == 0 {
                calls.settled();
            }
        }
        // The append that was to contain the second one failed.
        registry.keep(&run(), calls);
        let calls = registry.of(&run());
        assert_eq!(calls.all(), [(Step(2), 1), (Step(3), 1)]);
        assert_eq!(calls.next().await, ((Step(2), 1), 2));
        calls.hold((Step(2), 1), 2);
        calls.abort(Step(2));
        registry.keep(&run(), Arc::clone(&calls));
        assert_eq!(calls.all(), [(Step(3), 1)], "nobody wants it any more");
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_when_calls_are_halted_can_be_taken() {
        let calls = Arc::new(Calls::default());
        calls.begin((Step(1), 1), later(50, 1));
        calls.begin((Step(2), 1), Box::pin(std::future::ready(2)));
        calls.halt();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!((calls.take(), calls.take()), (Some(((Step(2), 1), 2)), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_aborted_ends_nothing() {
        let calls = Arc::new(Calls::default());
        calls.begin((Step(1), 1), later(50, 1));
        calls.abort(Step(1));
        calls.begin((Step(1), 2), later(100, 2));
        assert_eq!(calls.next().await, ((Step(1), 2), 2));
        calls.begin((Step(2), 1), Box::pin(std::future::ready(3)));
        calls.abort(Step(2));
        assert_eq!(calls.len(), 0, "what it ended with is forgotten, too");
        let held = Arc::new(());
        let holds = Arc::clone(&held);
        calls.begin(
            (Step(3), 1),
            Box::pin(async move {
                std::future::pending::<()>().await;
                drop(holds);
                4
            }),
        );
        calls.stop().await;
        assert_eq!(Arc::strong_count(&held), 1, "nothing of it is left");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_calls_that_were_stopped_is_told_once() {
        let calls = Arc::new(Calls::default());
        let slow = |step| later(1_000, step);
        calls.begin_paid((Step(1), 1), Admission::granted(), slow(1), || Some(10));
        calls.begin_paid((Step(2), 3), Admission::granted(), slow(2), || Some(20));
        calls.begin_paid((Step(3), 1), Admission::granted(), slow(3), || None);
        calls.begin_paid((Step(4), 1), Admission::granted(), slow(4), || Some(40));
        for step in [5, 6] {
            calls.begin((Step(step), 1), Box::pin(std::future::ready(50)));
        }
        for step in [1, 2, 3, 5] {
            calls.abort(Step(step));
        }
        calls.abandon(Step(6));
        let mut left = calls.aborted().await;
        left.sort_unstable();
        assert_eq!(left, [((Step(1), 1), 10), ((Step(2), 3), 20), ((Step(5), 1), 50)]);
        assert_eq!(calls.aborted().await, []);
        calls.halt();
        assert_eq!(calls.aborted().await, [((Step(4), 1), 40)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_calls_that_were_stopped_is_told_again_until_it_is_committed() {
        let registry = Arc::new(Registry::<u32>::default());
        let mut calls = registry.of(&run());
        let slow = |step| later(1_000, step);
        calls.begin_paid((Step(1), 2), Admission::granted(), slow(1), || Some(10));
        calls.begin_paid((Step(2), 1), Admission::granted(), slow(2), || None);
        assert!(calls.has_news(), "the first has consumed something");
        calls.abort(Step(1));
        calls.abort(Step(2));
        // The append that was to contain it fails each time; once the calls are lost before they are asked.
        for _ in 0..2 {
            assert_eq!(calls.aborted().await, [((Step(1), 2), 10)]);
            registry.keep(&run(), calls);
            calls = registry.of(&run());
            assert_eq!((calls.all(), calls.has_news()), (vec![], true));
            calls.gone().await;
        }
        assert_eq!(calls.aborted().await, [((Step(1), 2), 10)]);
        calls.settled();
        registry.keep(&run(), Arc::clone(&calls));
        assert_eq!((calls.aborted().await, calls.has_news()), (vec![], false));
        assert!(!Arc::ptr_eq(&calls, &registry.of(&run())), "nothing of them is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_nobody_asks_for_are_stopped_some_time() {
        let registry = Arc::new(Registry::<u32>::default());
        let calls = registry.of(&run());
        calls.begin((Step(1), 1), later(1_000_000, 1));
        registry.keep(&run(), Arc::clone(&calls));
        tokio::time::sleep(LINGER / 2).await;
        registry.keep(&run(), registry.of(&run()));
        tokio::time::sleep(LINGER / 2 + Duration::from_secs(1)).await;
        assert_eq!(calls.len(), 1, "it was driven meanwhile");
        tokio::time::sleep(LINGER).await;
        assert_eq!((calls.len(), registry.of(&run()).len()), (0, 0));
    }
}
