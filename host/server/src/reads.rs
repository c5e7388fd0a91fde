//! Reads of the store, beside the workers that advance runs: a few at a time, and none is waited for too long.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotRead {
    /// It was given up: there are too many, or it takes too long.
    Late,
    /// It panicked.
    Failed,
}

/// The places for reads.
#[derive(Debug)]
pub(crate) struct Reads {
    places: Arc<Semaphore>,
    /// How long one may take, waiting included.
    patience: Duration,
}

impl Reads {
    pub fn new(places: usize, patience: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), patience }
    }

    /// Reads when there is a place. One that is given up goes on until it is done, and has its place until then.
    pub async fn run<T, R>(&self, work: impl FnOnce() -> R + Send + 'static) -> Result<T, NotRead>
    where
        T: Send + 'static,
        R: Future<Output = T> + Send,
    {
        let read = self.run_to_its_end(work);
        tokio::time::timeout(self.patience, read).await.unwrap_or(Err(NotRead::Late))
    }

    /// The same for who waits however long it takes: he reads nothing else meanwhile.
    pub async fn run_to_its_end<T, R>(&self, work: impl FnOnce() -> R + Send + 'static) -> Result<T, NotRead>
    where
        T: Send + 'static,
        R: Future<Output = T> + Send,
    {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| NotRead::Failed)?;
        let runtime = tokio::runtime::Handle::current();
        let read = tokio::task::spawn_blocking(move || {
            let _place = place;
            runtime.block_on(work())
        });
        read.await.map_err(|_| NotRead::Failed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_read_that_is_given_up_keeps_its_place_until_it_is_done() {
        let reads = Reads::new(1, Duration::from_millis(20));
        let (go, goes) = mpsc::channel::<()>();
        let (done, is_done) = tokio::sync::oneshot::channel();
        let slow = reads.run(move || {
            goes.recv().expect("it is let go");
            let _ = done.send(());
            async {}
        });
        assert_eq!(slow.await, Err(NotRead::Late));
        // While it goes on, nobody else reads.
        assert_eq!(reads.run(async || 1).await, Err(NotRead::Late));
        go.send(()).expect("it waits");
        is_done.await.expect("it ends");
        let patient = Reads { patience: Duration::from_secs(60), ..reads };
        assert_eq!(patient.run(async || 1).await, Ok(1));
        assert_eq!(patient.run(async || panic!("it breaks")).await, Err::<(), _>(NotRead::Failed));
    }
}
