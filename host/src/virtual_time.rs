//! Virtual time: when nothing can go on before a deadline, the clock is put forward to it.
//!
//! Each driver says when its run rests: it waits, no call is under way, nothing is in its inbox. When all
//! runs that the host drives rest and the store has none that is due, the host skips to the earliest deadline.
//! What takes real time, like a call of an agent, takes it in virtual time, too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use wfhost_core::{RunId, Timestamp};
use wfhost_store::{MessageBody, Owner};
use wfhost_world::{World, lock};

/// Something that is sent to a run when a time has come.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub at: Timestamp,
    pub run: RunId,
    pub body: MessageBody,
}

/// How far the clock was put forward, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct VirtualTime {
    ahead_ms: AtomicU64,
    /// Counts what happened: who looks whether all rest sees whether they did so all the time.
    changes: AtomicU64,
    /// Runs that rest, and until when.
    resting: Mutex<BTreeMap<RunId, Option<Timestamp>>>,
    planned: Mutex<Vec<Planned>>,
    /// The host may look whether all rest.
    work: Arc<Notify>,
}

impl VirtualTime {
    /// `work` is told when a run begins to rest.
    pub fn new(work: Arc<Notify>) -> Self {
        Self { work, ..Self::default() }
    }

    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// The run waits for nothing but messages and that time.
    pub fn rests(&self, run: &RunId, until: Option<Timestamp>) {
        lock(&self.resting).insert(run.clone(), until);
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.work.notify_one();
    }

    /// Something happens in the run, or is about to.
    pub fn stirs(&self, run: &RunId) {
        if lock(&self.resting).remove(run).is_some() {
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub fn plan(&self, planned: Planned) {
        self.put_back(planned);
        self.work.notify_one();
    }

    /// It could not be sent though its time has come. The next look tries it again.
    pub fn put_back(&self, planned: Planned) {
        lock(&self.planned).push(planned);
    }

    /// Skips to the earliest deadline if all of `live` rest, and did so since `changes` was read. Gives whom
    /// that wakes, and what is to be sent then.
    pub fn skip<'a>(
        &self,
        changes: u64,
        now: Timestamp,
        mut live: impl Iterator<Item = &'a RunId>,
    ) -> (Vec<RunId>, Vec<Planned>) {
        let resting = lock(&self.resting);
        let mut planned = lock(&self.planned);
        let still = self.changes() == changes && live.all(|run| resting.contains_key(run));
        let next = resting.values().flatten().copied().chain(planned.iter().map(|planned| planned.at)).min();
        let Some(next) = next.filter(|_| still) else { return (Vec::new(), Vec::new()) };
        self.ahead_ms.fetch_add(next.since(now), Ordering::SeqCst);
        let due = |until: &&Option<Timestamp>| until.is_some_and(|until| until <= next);
        let woken = resting.iter().filter(|(_, until)| due(until)).map(|(run, _)| run.clone()).collect();
        let (sent, later) = planned.drain(..).partition(|planned| planned.at <= next);
        *planned = later;
        (woken, sent)
    }
}

/// A world whose clock is put forward.
#[derive(Debug)]
pub(crate) struct Ahead {
    pub world: Arc<dyn World>,
    pub time: Arc<VirtualTime>,
}

impl World for Ahead {
    fn now(&self) -> Timestamp {
        self.world.now().after(self.time.ahead_ms.load(Ordering::SeqCst))
    }

    fn owner(&self) -> Owner {
        self.world.owner()
    }

    fn is_dead(&self, owner: &Owner) -> bool {
        self.world.is_dead(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str) -> RunId {
        id.parse().unwrap()
    }

    #[test]
    fn time_is_skipped_only_when_all_rest_and_nothing_happened_meanwhile() {
        let time = VirtualTime::default();
        let (a, b) = (run("a"), run("b"));
        let skip = |changes| time.skip(changes, Timestamp(100), [&a, &b].into_iter()).0;
        time.rests(&a, Some(Timestamp(1_000)));
        assert!(skip(time.changes()).is_empty(), "b is busy");
        let before = time.changes();
        time.rests(&b, Some(Timestamp(700)));
        assert!(skip(before).is_empty(), "b was busy when it was looked");
        assert_eq!(skip(time.changes()), [run("b")]);
        assert_eq!(time.ahead_ms.load(Ordering::SeqCst), 600);
        time.stirs(&b);
        assert!(skip(time.changes()).is_empty());
    }

    #[test]
    fn a_run_that_waits_for_a_message_only_skips_nothing_unless_one_is_planned() {
        let time = VirtualTime::default();
        let a = run("a");
        time.rests(&a, None);
        assert!(time.skip(time.changes(), Timestamp(0), [&a].into_iter()).0.is_empty());
        assert_eq!(time.ahead_ms.load(Ordering::SeqCst), 0);
        let body = MessageBody::Pause;
        time.plan(Planned { at: Timestamp(50), run: a.clone(), body });
        let (woken, sent) = time.skip(time.changes(), Timestamp(0), [&a].into_iter());
        assert!(woken.is_empty());
        assert_eq!(sent.len(), 1);
        assert!(lock(&time.planned).is_empty());
    }
}
