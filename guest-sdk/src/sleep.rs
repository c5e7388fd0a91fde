//! Durable timers, and time limits for any future.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    bindings::wfhost::workflow::sleep as host,
    error::{Error, Result},
    failure::FailureKind,
    step::{Step, decode_nothing},
    time::{Timestamp, millis},
};

/// Sleeps for a duration of at most 100 years.
///
/// The deadline is fixed when the sleep starts (when it is first polled) and survives
/// crashes: if it has passed meanwhile, the run continues immediately. A sleeping run uses no memory.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use std::time::Duration;
/// # async fn example() -> wfhost::Result<()> {
/// wfhost::sleep(Duration::from_secs(7 * 24 * 3600)).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`FailureKind::Rejected`] if the duration is too long, [`FailureKind::Cancelled`] when the run is
/// cancelled.
pub fn sleep(length: Duration) -> Step<()> {
    Step::new(move || Ok(host::start_for(millis(length))), decode_nothing)
}

/// Sleeps until a point in time, at most 100 years ahead. A time that has passed ends the sleep immediately.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use std::time::Duration;
/// # async fn example() -> wfhost::Result<()> {
/// let deadline = wfhost::now() + Duration::from_secs(60);
/// wfhost::agent("Take your time").text().await?;
/// wfhost::sleep_until(deadline).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As those of [`sleep`].
pub fn sleep_until(at: Timestamp) -> Step<()> {
    Step::new(move || Ok(host::start(at.as_millis())), decode_nothing)
}

/// Gives a future a time limit. When it expires, the future is dropped, which cancels its steps.
///
/// For a single agent call see also [`Agent::limits`](crate::Agent::limits), which the host enforces.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use std::time::Duration;
/// # use wfhost::{Result, agent, timeout};
/// # async fn example() -> Result<()> {
/// let both = async {
///     let plan = agent("Plan it").text().await?;
///     agent("Do it").input(plan).text().await
/// };
/// let answer = timeout(Duration::from_secs(600), both).await??;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`FailureKind::TimedOut`] if the limit expires first.
pub fn timeout<F: Future>(length: Duration, future: F) -> Timeout<F> {
    Timeout { future: Some(Box::pin(future)), limit: sleep(length) }
}

/// The future of [`timeout`].
#[derive(Debug)]
#[must_use = "a future does nothing until it is awaited"]
pub struct Timeout<F> {
    future: Option<Pin<Box<F>>>,
    limit: Step<()>,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.future.as_mut().expect("it is not polled after its end");
        // The future first: what is there already needs no timer.
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            self.future = None;
            return Poll::Ready(Ok(output));
        }
        match Pin::new(&mut self.limit).poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(ended) => {
                self.future = None;
                Poll::Ready(Err(ended
                    .err()
                    .unwrap_or_else(|| Error::new(FailureKind::TimedOut, "the time limit passed"))))
            }
        }
    }
}
