//! Polling a program without holding up its neighbours.
//!
//! A program is pre-empted by what it computes, but there are steps that nothing divides: a fill of all
//! of its memory, an answer of 16 MiB that is copied into it. A program that was found to take long for
//! one of these leaves its worker to the others the next time, and computes on a thread of its own,
//! where the system divides the time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor};

/// Who computes for so long without a pre-emption is given a thread of his own. It is some tens of
/// times what most programs take.
const LONG: Duration = Duration::from_millis(2);

/// A program's execution.
pub struct Considerate<F> {
    program: F,
    /// How long it took the last time.
    took: Duration,
}

impl<F> Considerate<F> {
    pub fn new(program: F) -> Self {
        Self { program, took: Duration::ZERO }
    }
}

impl<F: Future + Unpin> Future for Considerate<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let begin = Instant::now();
        let apart = self.took > LONG && has_other_threads();
        let program = Pin::new(&mut self.program);
        let polled = match apart {
            true => tokio::task::block_in_place(|| program.poll(context)),
            false => program.poll(context),
        };
        self.took = begin.elapsed();
        polled
    }
}

fn has_other_threads() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// With two workers and two programs that take long at a time, others would have their turn only
    /// between those times.
    #[test]
    fn who_takes_long_leaves_the_workers_to_others() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let turns = Arc::new(AtomicU64::new(0));
        runtime.unwrap().block_on(async {
            let long = || {
                tokio::spawn(Considerate::new(Box::pin(async {
                    for _ in 0..10 {
                        std::thread::sleep(Duration::from_millis(100));
                        tokio::task::yield_now().await;
                    }
                })))
            };
            let long = [long(), long()];
            let others = Arc::clone(&turns);
            let other = tokio::spawn(async move {
                loop {
                    others.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            for long in long {
                long.await.unwrap();
            }
            other.abort();
        });
        // Ten or twenty, if they had to wait; hundreds on a machine that has nothing else to do.
        let turns = turns.load(Ordering::Relaxed);
        assert!(turns > 25, "{turns}");
    }
}
