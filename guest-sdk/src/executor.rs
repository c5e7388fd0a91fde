//! Runs the workflow's future on the host's `wait-set`.
//!
//! There is one thread and one future. A step that is polled for the first time gets a tag; when
//! the future can do nothing more, the steps that are new are put into the set under their tags, it
//! is asked for the next tag, and exactly the waker that belongs to it is woken. So the order in
//! which a program sees its steps finish is the order of the journal, and an event costs O(log n)
//! however many steps are open. A step that is waited for alone, as most are, is waited for
//! directly: that spares it the set.

use std::{
    cell::RefCell,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// The set of open steps: the host's, or one that a test made up.
pub(crate) trait Steps {
    /// What is put into it.
    type Step;
    /// How a step ends.
    type Outcome;
    fn add(&self, step: &Self::Step, tag: u64);
    fn remove(&self, tag: u64);
    /// Waits for a member, removes it and gives its tag.
    fn next(&self) -> u64;
    /// Waits for a step, whether it is in the set or not.
    fn get(&self, step: &Self::Step) -> Self::Outcome;
}

/// The open steps and who waits for them.
pub(crate) struct Executor<S: Steps> {
    steps: S,
    slots: RefCell<Slots<S>>,
    /// What is to be done before the end whether or not anybody waits for it.
    spawned: RefCell<Vec<Task>>,
}

/// A future that nobody waits for.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The steps and their wakers, by tag. Tags of steps that are over are used again.
struct Slots<S: Steps> {
    slots: Vec<Slot<S>>,
    free: Vec<usize>,
    /// The tags of those that are waited for and not in the set yet, in the order in which they came.
    new: Vec<u64>,
    /// How many are waited for, these included.
    waiting: usize,
}

enum Slot<S: Steps> {
    Free,
    Waiting {
        step: Rc<S::Step>,
        waker: Waker,
        new: bool,
    },
    /// With its outcome, if it was waited for alone.
    Done(Rc<S::Step>, Option<S::Outcome>),
}

impl<S: Steps> Executor<S> {
    pub(crate) fn new(steps: S) -> Self {
        let slots = Slots { slots: Vec::new(), free: Vec::new(), new: Vec::new(), waiting: 0 };
        Self { steps, slots: RefCell::new(slots), spawned: RefCell::default() }
    }

    /// Has a future run beside the workflow's own. It is first polled after that was.
    pub(crate) fn spawn(&self, task: Task) {
        self.spawned.borrow_mut().push(task);
    }

    /// Runs a future to its end, and all that was spawned meanwhile.
    pub(crate) fn run<F: Future>(&self, future: F) -> F::Output {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        let mut output = None;
        let mut tasks: Vec<Task> = Vec::new();
        loop {
            while woken.take() {
                if output.is_none()
                    && let Poll::Ready(value) = future.as_mut().poll(&mut context)
                {
                    output = Some(value);
                }
                // There are few of them, so all are polled.
                tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
                while let spawned = self.spawned.take()
                    && !spawned.is_empty()
                {
                    let begun = spawned
                        .into_iter()
                        .filter_map(|mut task| task.as_mut().poll(&mut context).is_pending().then_some(task));
                    tasks.extend(begun);
                }
            }
            if tasks.is_empty()
                && let Some(output) = output.take()
            {
                return output;
            }
            // Waking runs foreign code, which may come back here: nothing is borrowed.
            let waker = self.wait();
            waker.wake();
        }
    }

    /// Waits until a step is done, and gives who waits for it.
    fn wait(&self) -> Waker {
        let mut slots = self.slots.borrow_mut();
        if let Some(tag) = slots.alone() {
            let step = slots.step(tag);
            let outcome = self.steps.get(&step);
            return slots.done(tag, Some(outcome));
        }
        for tag in std::mem::take(&mut slots.new) {
            if let Slot::Waiting { step, new, .. } = &mut slots.slots[position(tag)]
                && std::mem::take(new)
            {
                self.steps.add(step, tag);
            }
        }
        // Without a member in the set the host ends the run as deadlocked.
        let tag = self.steps.next();
        slots.done(tag, None)
    }

    /// Has a step waited for, and gives its tag.
    pub(crate) fn add(&self, step: Rc<S::Step>, waker: &Waker) -> u64 {
        self.slots.borrow_mut().insert(step, waker.clone())
    }

    /// How the step ended. If it has, its tag is free from now on; if not, this waker will be
    /// woken.
    pub(crate) fn poll(&self, tag: u64, waker: &Waker) -> Option<S::Outcome> {
        let (step, outcome) = self.slots.borrow_mut().poll(tag, waker)?;
        Some(outcome.unwrap_or_else(|| self.steps.get(&step)))
    }

    /// Nobody waits for the step any more.
    pub(crate) fn remove(&self, tag: u64) {
        // Dropping a waker runs foreign code, too.
        let slot = self.slots.borrow_mut().free(tag);
        if let Slot::Waiting { new: false, .. } = slot {
            self.steps.remove(tag);
        }
    }
}

/// A step that is done, with its outcome if that is known.
type Done<S> = (Rc<<S as Steps>::Step>, Option<<S as Steps>::Outcome>);

impl<S: Steps> Slots<S> {
    fn insert(&mut self, step: Rc<S::Step>, waker: Waker) -> u64 {
        let slot = Slot::Waiting { step, waker, new: true };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.new.push(index as u64);
        self.waiting += 1;
        index as u64
    }

    /// The tag of the only step that is waited for, if it is not in the set.
    fn alone(&self) -> Option<u64> {
        let mut new = self.new.iter().filter(|tag| self.is_new(**tag));
        new.next().copied().filter(|_| self.waiting == 1)
    }

    fn is_new(&self, tag: u64) -> bool {
        matches!(self.slots[position(tag)], Slot::Waiting { new: true, .. })
    }

    fn step(&self, tag: u64) -> Rc<S::Step> {
        match &self.slots[position(tag)] {
            Slot::Waiting { step, .. } | Slot::Done(step, _) => Rc::clone(step),
            Slot::Free => unreachable!("step {tag} is wanted after its end"),
        }
    }

    /// The step, if it is done.
    fn poll(&mut self, tag: u64, waker: &Waker) -> Option<Done<S>> {
        if let Slot::Waiting { waker: kept, .. } = &mut self.slots[position(tag)] {
            kept.clone_from(waker);
            return None;
        }
        match self.free(tag) {
            Slot::Done(step, outcome) => Some((step, outcome)),
            Slot::Waiting { .. } | Slot::Free => unreachable!("step {tag} is polled after its end"),
        }
    }

    fn done(&mut self, tag: u64, outcome: Option<S::Outcome>) -> Waker {
        match std::mem::replace(&mut self.slots[position(tag)], Slot::Free) {
            Slot::Waiting { step, waker, .. } => {
                self.slots[position(tag)] = Slot::Done(step, outcome);
                self.new.clear();
                self.waiting -= 1;
                waker
            }
            Slot::Free | Slot::Done(..) => panic!("the host says that step {tag} is done twice"),
        }
    }

    fn free(&mut self, tag: u64) -> Slot<S> {
        let slot = std::mem::replace(&mut self.slots[position(tag)], Slot::Free);
        self.free.push(position(tag));
        self.waiting -= usize::from(matches!(slot, Slot::Waiting { .. }));
        slot
    }
}

fn position(tag: u64) -> usize {
    usize::try_from(tag).expect("a tag is a position")
}

/// Whether the workflow's future is to be polled.
struct Woken(AtomicBool);

impl Woken {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a future that waits for no step.
#[cfg(test)]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct NoSteps;

    impl Steps for NoSteps {
        type Step = ();
        type Outcome = ();
        fn add(&self, (): &(), _: u64) {}
        fn remove(&self, _: u64) {}
        fn next(&self) -> u64 {
            panic!("deadlock")
        }
        fn get(&self, (): &()) {}
    }

    Executor::new(NoSteps).run(future)
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        collections::{BTreeMap, VecDeque},
        pin::Pin,
        rc::Rc,
    };

    use futures::{
        FutureExt, StreamExt,
        future::{join_all, select},
        stream::FuturesUnordered,
    };

    use super::*;

    /// A made-up host: steps are numbers, and finish in an order that the test says.
    #[derive(Default)]
    struct Script {
        open: RefCell<BTreeMap<u64, u32>>,
        order: RefCell<VecDeque<u32>>,
        started: RefCell<Vec<u32>>,
        removed: RefCell<Vec<u32>>,
        waits: Cell<u32>,
        /// How many steps were waited for alone.
        alone: Cell<u32>,
    }

    impl Steps for Rc<Script> {
        type Step = u32;
        /// The step.
        type Outcome = u32;

        fn add(&self, step: &u32, tag: u64) {
            self.started.borrow_mut().push(*step);
            assert!(self.open.borrow_mut().insert(tag, *step).is_none());
        }

        fn remove(&self, tag: u64) {
            let step = self.open.borrow_mut().remove(&tag).unwrap();
            self.removed.borrow_mut().push(step);
        }

        fn next(&self) -> u64 {
            self.waits.set(self.waits.get() + 1);
            let mut open = self.open.borrow_mut();
            assert!(!open.is_empty(), "deadlock");
            let step = self.order.borrow_mut().pop_front().expect("a next step");
            let tag = *open.iter().find(|(_, open)| **open == step).unwrap().0;
            open.remove(&tag);
            tag
        }

        fn get(&self, step: &u32) -> u32 {
            let mut order = self.order.borrow_mut();
            if order.front() == Some(step) {
                order.pop_front();
                self.alone.set(self.alone.get() + 1);
            }
            *step
        }
    }

    struct World {
        script: Rc<Script>,
        executor: Executor<Rc<Script>>,
    }

    fn world(order: &[u32]) -> World {
        let script = Rc::new(Script::default());
        script.order.borrow_mut().extend(order);
        World { script: Rc::clone(&script), executor: Executor::new(script) }
    }

    struct Leaf<'a> {
        executor: &'a Executor<Rc<Script>>,
        step: u32,
        tag: Option<u64>,
        polls: u32,
    }

    impl World {
        fn step(&self, step: u32) -> Leaf<'_> {
            Leaf { executor: &self.executor, step, tag: None, polls: 0 }
        }
    }

    impl Future for Leaf<'_> {
        /// The step, and how often it was polled.
        type Output = (u32, u32);

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            self.polls += 1;
            match self.tag {
                None => self.tag = Some(self.executor.add(Rc::new(self.step), context.waker())),
                Some(tag) => {
                    if let Some(step) = self.executor.poll(tag, context.waker()) {
                        assert_eq!(step, self.step);
                        self.tag = None;
                        return Poll::Ready((step, self.polls));
                    }
                }
            }
            Poll::Pending
        }
    }

    impl Drop for Leaf<'_> {
        fn drop(&mut self) {
            if let Some(tag) = self.tag {
                self.executor.remove(tag);
            }
        }
    }

    #[test]
    fn join_starts_in_the_order_of_the_arguments_and_gives_results_in_it() {
        let world = world(&[3, 1, 2]);
        let (a, b, c) =
            world.executor.run(async { futures::join!(world.step(1), world.step(2), world.step(3)) });
        assert_eq!((a.0, b.0, c.0), (1, 2, 3));
        assert_eq!(*world.script.started.borrow(), [1, 2, 3]);
    }

    #[test]
    fn many_steps_are_each_polled_twice_only() {
        let order: Vec<u32> = (0..1000).rev().collect();
        let world = world(&order);
        let results = world.executor.run(join_all((0..1000).map(|step| world.step(step))));
        assert!(results.iter().all(|(_, polls)| *polls == 2));
        assert_eq!(world.script.waits.get(), 1000);
    }

    #[test]
    fn results_come_in_the_order_that_the_host_says() {
        let world = world(&[2, 0, 1]);
        let seen = world.executor.run(async {
            let steps: FuturesUnordered<_> = (0..3).map(|step| world.step(step)).collect();
            steps.map(|(step, _)| step).collect::<Vec<_>>().await
        });
        assert_eq!(seen, [2, 0, 1]);
    }

    #[test]
    fn the_loser_of_a_race_is_removed() {
        let world = world(&[2, 3]);
        let last = world.executor.run(async {
            let (winner, loser) = select(world.step(1), world.step(2)).await.factor_first();
            assert_eq!(winner.0, 2);
            drop(loser);
            world.step(3).await.0
        });
        assert_eq!(last, 3);
        assert_eq!(*world.script.removed.borrow(), [1]);
        assert!(world.script.open.borrow().is_empty());
    }

    #[test]
    fn a_step_that_is_done_but_was_not_looked_at_can_be_dropped() {
        let world = world(&[1, 2]);
        world.executor.run(async {
            let mut first = Box::pin(world.step(1));
            assert!(first.as_mut().now_or_never().is_none());
            world.step(2).await;
            drop(first);
        });
        assert!(world.script.removed.borrow().is_empty());
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_without_waiting() {
        let world = world(&[]);
        world.executor.run(async {
            let mut turns = 0;
            std::future::poll_fn(|context| {
                turns += 1;
                if turns == 5 {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        });
        assert_eq!(world.script.waits.get(), 0);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn waiting_for_nothing_asks_the_host_which_ends_the_run() {
        let world = world(&[]);
        world.executor.run(std::future::pending::<()>());
    }

    #[test]
    fn what_was_spawned_is_finished_although_nobody_waits_for_it() {
        let World { script, executor } = world(&[1, 2, 3]);
        let executor = Rc::new(executor);
        let own = Rc::clone(&executor);
        let late = Rc::clone(&executor);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (first, second) = (Rc::clone(&seen), Rc::clone(&seen));
        let output = executor.run(async {
            let inner = Rc::clone(&own);
            own.spawn(Box::pin(async move {
                let leaf = Leaf { executor: &inner, step: 2, tag: None, polls: 0 };
                let (step, _) = leaf.await;
                first.borrow_mut().push(step);
                inner.spawn(Box::pin(async move {
                    let leaf = Leaf { executor: &late, step: 3, tag: None, polls: 0 };
                    let (step, _) = leaf.await;
                    second.borrow_mut().push(step);
                }));
            }));
            Leaf { executor: &own, step: 1, tag: None, polls: 0 }.await.0
        });
        assert_eq!(output, 1);
        assert_eq!(*seen.borrow(), [2, 3]);
        assert_eq!((&*script.started.borrow(), script.alone.get()), (&vec![1, 2], 1));
    }

    #[test]
    fn tags_are_used_again() {
        let order: Vec<u32> = (0..100).collect();
        let world = world(&order);
        world.executor.run(async {
            for step in 0..100 {
                world.step(step).await;
            }
        });
        assert_eq!(world.executor.slots.borrow().slots.len(), 1);
    }

    #[test]
    fn a_step_that_is_waited_for_alone_does_not_need_the_set() {
        let world = world(&[1, 3, 2, 4]);
        world.executor.run(async {
            world.step(1).await;
            let (_, other) = select(world.step(2), world.step(3)).await.factor_first();
            // It is in the set from before.
            other.await;
            let mut dropped = Box::pin(world.step(5));
            assert!(dropped.as_mut().now_or_never().is_none());
            drop(dropped);
            world.step(4).await;
        });
        assert_eq!((world.script.alone.get(), world.script.waits.get()), (2, 2));
        assert_eq!((&*world.script.started.borrow(), world.script.removed.borrow().len()), (&vec![2, 3], 0));
    }
}
