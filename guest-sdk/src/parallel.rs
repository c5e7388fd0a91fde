//! Many things at the same time, but not too many.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    convert::Infallible,
    future::{Future, IntoFuture},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use futures_util::stream::{FuturesUnordered, StreamExt};

/// Calls a function for each item, for at most `limit` items (at least one) at the same time, and
/// returns the results in the order of the items.
///
/// The next item starts as soon as any other one is done; `buffered` of the `futures` crate waits
/// for the first one. Items are taken from the iterator when they start.
///
/// Items move through several stages independently; a [`Semaphore`] limits how many items are in
/// one stage.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use wfhost::{Result, agent, parallel_map};
/// # async fn example(tickets: Vec<String>) {
/// // The failure of one says nothing about the others.
/// let answers: Vec<Result<String>> =
///     parallel_map(tickets, 4, async |ticket| agent("Sort it").input(ticket).text().await).await;
/// # }
/// ```
pub async fn parallel_map<T, R>(
    items: impl IntoIterator<Item = T>,
    limit: usize,
    function: impl AsyncFn(T) -> R,
) -> Vec<R> {
    let function = async |item| Ok::<_, Infallible>(function(item).await);
    match try_parallel_map(items, limit, function).await {
        Ok(results) => results,
    }
}

/// Like [`parallel_map`], for a function that can fail. The first failure ends it: items in progress
/// are dropped, which cancels their steps, and no further item is started.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use wfhost::{Result, agent, try_parallel_map};
/// # async fn example(chapters: Vec<String>) -> Result<()> {
/// let texts: Vec<String> = try_parallel_map(chapters, 3, async |title| {
///     let draft = agent(format!("Write the chapter {title}")).text().await?;
///     agent("Improve this text").input(draft).text().await
/// })
/// .await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The first failure.
pub async fn try_parallel_map<T, R, E>(
    items: impl IntoIterator<Item = T>,
    limit: usize,
    function: impl AsyncFn(T) -> Result<R, E>,
) -> Result<Vec<R>, E> {
    let mut items = items.into_iter();
    let mut results = Vec::new();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < limit.max(1)
            && let Some(item) = items.next()
        {
            let index = results.len();
            results.push(None);
            let function = &function;
            running.push(async move { (index, function(item).await) });
        }
        match running.next().await {
            Some((index, result)) => results[index] = Some(result?),
            // All of them are there.
            None => return Ok(results.into_iter().flatten().collect()),
        }
    }
}

/// Limits how many futures run at the same time, in first-in, first-out order.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use wfhost::{Result, Semaphore, agent, try_parallel_map};
/// # async fn example(topics: Vec<String>) -> Result<()> {
/// // Each topic goes on to its review when its draft is there, whatever the others do.
/// let (writers, reviewers) = (Semaphore::new(4), Semaphore::new(1));
/// let texts = try_parallel_map(topics, 8, async |topic| {
///     let draft = writers.run(agent(format!("Write about {topic}")).text()).await?;
///     reviewers.run(agent("Improve this text").input(draft).text()).await
/// })
/// .await?;
/// # Ok(())
/// # }
/// ```
///
/// For agent calls across all runs of a host, see [`Agent::group`](crate::Agent::group).
#[derive(Debug)]
pub struct Semaphore {
    free: Cell<usize>,
    queue: RefCell<VecDeque<Rc<Waiter>>>,
}

type Waiter = RefCell<Turn>;

#[derive(Debug)]
enum Turn {
    Waiting(Waker),
    Come,
    /// The waiting future was dropped.
    Gone,
}

impl Semaphore {
    /// A semaphore for this many futures, at least one.
    pub fn new(limit: usize) -> Self {
        Self { free: Cell::new(limit.max(1)), queue: RefCell::default() }
    }

    /// Waits for a slot, then for the future.
    pub async fn run<F: IntoFuture>(&self, future: F) -> F::Output {
        let _permit = Acquire { semaphore: self, waiter: None }.await;
        future.await
    }

    fn release(&self) {
        let mut queue = self.queue.borrow_mut();
        while let Some(waiter) = queue.pop_front() {
            if let Turn::Waiting(waker) = waiter.replace(Turn::Come) {
                // Waking runs foreign code, which may come back here.
                drop(queue);
                waker.wake();
                return;
            }
        }
        self.free.set(self.free.get() + 1);
    }
}

struct Permit<'a>(&'a Semaphore);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

struct Acquire<'a> {
    semaphore: &'a Semaphore,
    waiter: Option<Rc<Waiter>>,
}

impl<'a> Future for Acquire<'a> {
    type Output = Permit<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit<'a>> {
        let semaphore = self.semaphore;
        match &self.waiter {
            Some(waiter) => {
                if let Turn::Waiting(waker) = &mut *waiter.borrow_mut() {
                    waker.clone_from(context.waker());
                    return Poll::Pending;
                }
                self.waiter = None;
            }
            None if semaphore.free.get() > 0 => semaphore.free.set(semaphore.free.get() - 1),
            None => {
                let waiter = Rc::new(RefCell::new(Turn::Waiting(context.waker().clone())));
                semaphore.queue.borrow_mut().push_back(Rc::clone(&waiter));
                self.waiter = Some(waiter);
                return Poll::Pending;
            }
        }
        Poll::Ready(Permit(semaphore))
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        // A turn that had come goes to the next one.
        if let Some(waiter) = &self.waiter
            && let Turn::Come = waiter.replace(Turn::Gone)
        {
            self.semaphore.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::{FutureExt, future::join_all};

    use super::*;
    use crate::executor::block_on;

    /// Is polled so often before it is done.
    async fn turns(mut count: u32) {
        poll_fn(|context| {
            if count == 0 {
                return Poll::Ready(());
            }
            count -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[derive(Default)]
    struct Gauge {
        now: Cell<usize>,
        most: Cell<usize>,
        begun: RefCell<Vec<u32>>,
    }

    impl Gauge {
        async fn work(&self, item: u32, count: u32) -> u32 {
            self.begun.borrow_mut().push(item);
            self.now.set(self.now.get() + 1);
            self.most.set(self.most.get().max(self.now.get()));
            turns(count).await;
            self.now.set(self.now.get() - 1);
            item
        }
    }

    #[test]
    fn results_are_in_the_order_of_the_items_and_no_more_run_than_allowed() {
        for limit in [0, 1, 3, 100] {
            let gauge = Gauge::default();
            let results =
                block_on(parallel_map(0..20, limit, async |item| gauge.work(item, 20 - item).await));
            assert_eq!(results, (0..20).collect::<Vec<_>>());
            assert_eq!(*gauge.begun.borrow(), results);
            assert_eq!(gauge.most.get(), limit.clamp(1, 20));
        }
    }

    #[test]
    fn a_slow_first_item_holds_up_nobody() {
        let gauge = Gauge::default();
        let done = RefCell::new(Vec::new());
        block_on(parallel_map(0..10, 2, async |item| {
            gauge.work(item, if item == 0 { 1000 } else { 1 }).await;
            done.borrow_mut().push(item);
        }));
        assert_eq!(*done.borrow(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]);
    }

    #[test]
    fn the_first_failure_drops_the_others_and_begins_no_more() {
        let gauge = Gauge::default();
        let result = block_on(try_parallel_map(0..10, 3, async |item| match item {
            1 => {
                turns(2).await;
                Err(item)
            }
            _ => Ok(gauge.work(item, 1000).await),
        }));
        assert_eq!(result, Err(1));
        assert_eq!(*gauge.begun.borrow(), [0, 2]);
    }

    #[test]
    fn turns_come_in_the_order_of_asking() {
        let semaphore = Semaphore::new(2);
        let gauge = Gauge::default();
        let all = (0..10).map(|item| semaphore.run(gauge.work(item, 10 - item)));
        block_on(join_all(all));
        assert_eq!(gauge.most.get(), 2);
        assert_eq!(*gauge.begun.borrow(), (0..10).collect::<Vec<_>>());
        assert_eq!(semaphore.free.get(), 2);
    }

    #[test]
    fn who_is_dropped_while_waiting_takes_no_turn_away() {
        let semaphore = Semaphore::new(1);
        let mut holder = Box::pin(semaphore.run(std::future::pending::<()>()));
        let mut waiting = Box::pin(semaphore.run(std::future::pending::<()>()));
        let mut next = Box::pin(semaphore.run(async {}));
        assert!(holder.as_mut().now_or_never().is_none());
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(next.as_mut().now_or_never().is_none());
        drop(holder);
        // Its turn has come, but it was not polled since.
        drop(waiting);
        assert!(next.now_or_never().is_some());
        assert_eq!(semaphore.free.get(), 1);

        let mut holder = Box::pin(semaphore.run(std::future::pending::<()>()));
        let mut waiting = Box::pin(semaphore.run(async {}));
        assert!(holder.as_mut().now_or_never().is_none());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(waiting);
        drop(holder);
        assert_eq!(semaphore.free.get(), 1);
    }
}
