//! Several ways to one end.

use std::future::{IntoFuture, pending};

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Returns the output of the future that ends first, with its index. The others are dropped, which
/// cancels their steps. The winner is the same in every replay.
///
/// For futures of different types, use `select!` or `future::select` of the `futures` crate. Without
/// any futures, this never ends.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use wfhost::{Result, agent, race};
/// # async fn example() -> Result<()> {
/// let (fastest, answer) = race(["a", "b"].map(|who| agent("Hurry").provider(who).text())).await;
/// # Ok(())
/// # }
/// ```
pub async fn race<T>(futures: impl IntoIterator<Item: IntoFuture<Output = T>>) -> (usize, T) {
    match all(futures).next().await {
        Some(first) => first,
        None => pending().await,
    }
}

/// Returns the output of the first future that succeeds. The others are dropped, which cancels their
/// steps. Fails only if all futures fail.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use wfhost::{Result, agent, first_ok};
/// # async fn example() -> Result<()> {
/// let answer = first_ok(["a", "b", "c"].map(|who| agent("Try it").provider(who).text())).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Like [`quorum`].
pub async fn first_ok<T>(futures: impl IntoIterator<Item: IntoFuture<Output = Result<T>>>) -> Result<T> {
    let successes = quorum(1, futures).await?;
    let (_, first) = successes.into_iter().next().expect("a quorum of one has one member");
    Ok(first)
}

/// Returns the outputs of the first `count` futures that succeed, with their indices, in the order in
/// which they succeeded. The others are dropped, which cancels their steps.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use wfhost::{Result, agent, quorum};
/// # async fn example() -> Result<()> {
/// let reviews = ["a", "b", "c"].map(|who| agent("Is it right?").provider(who).json::<bool>());
/// let votes = quorum(2, reviews).await?;
/// let accepted = votes.iter().all(|(_, vote)| *vote);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As soon as `count` successes are no longer possible: of the kind of the latest failure, with all
/// failures in the details as `{"failures": [{"index", "kind", "message"}]}`.
/// [`Rejected`](crate::FailureKind::Rejected) if there are fewer futures than that.
pub async fn quorum<T>(
    count: usize,
    futures: impl IntoIterator<Item: IntoFuture<Output = Result<T>>>,
) -> Result<Vec<(usize, T)>> {
    let mut running = all(futures);
    let total = running.len();
    if total < count {
        return Err(Error::rejected(format!("{count} successes are asked for, of {total} tries")));
    }
    let mut successes = Vec::new();
    let mut failures: Vec<Value> = Vec::new();
    while successes.len() < count {
        match running.next().await {
            Some((index, Ok(output))) => successes.push((index, output)),
            Some((index, Err(error))) => {
                let failure = error.into_failure();
                let (kind, message) = (failure.kind, failure.message);
                failures.push(json!({ "index": index, "kind": kind, "message": message }));
                if total - failures.len() < count {
                    let message = format!(
                        "{} of {total} tries failed, {count} have to succeed: {message}",
                        failures.len()
                    );
                    return Err(Error::new(kind, message).with_details(json!({ "failures": failures })));
                }
            }
            None => unreachable!("each future succeeded or failed, and neither is enough"),
        }
    }
    Ok(successes)
}

/// The futures side by side, started in their order.
fn all<T>(
    futures: impl IntoIterator<Item: IntoFuture<Output = T>>,
) -> FuturesUnordered<impl Future<Output = (usize, T)>> {
    let numbered = futures.into_iter().enumerate();
    numbered.map(|(index, future)| async move { (index, future.await) }).collect()
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::task::Poll;

    use super::*;
    use crate::{FailureKind, executor::block_on};

    /// Gives its output when it is polled for the `turns`-th time.
    async fn after<T>(turns: u32, output: T) -> T {
        let mut left = turns;
        poll_fn(move |context| {
            left = left.saturating_sub(1);
            if left == 0 {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        output
    }

    fn tries(
        outcomes: &[(u32, Result<u32, &'static str>)],
    ) -> Vec<impl Future<Output = Result<u32>> + use<>> {
        let outcomes = outcomes.iter().map(|(turns, outcome)| (*turns, *outcome));
        outcomes.map(|(turns, outcome)| after(turns, outcome.map_err(Error::failed))).collect()
    }

    #[test]
    fn the_first_to_end_wins_the_race() {
        assert_eq!(block_on(race([after(3, "a"), after(2, "b"), after(9, "c")])), (1, "b"));
        assert_eq!(block_on(race([after(1, "a"), after(1, "b")])), (0, "a"));
    }

    #[test]
    fn failures_do_not_count_while_there_is_hope() {
        let outcomes = [(1, Err("x")), (3, Ok(3)), (2, Ok(2)), (9, Err("y"))];
        assert_eq!(block_on(first_ok(tries(&outcomes))).unwrap(), 2);
        assert_eq!(block_on(quorum(2, tries(&outcomes))).unwrap(), [(2, 2), (1, 3)]);
        assert_eq!(block_on(quorum(0, tries(&outcomes))).unwrap(), []);
    }

    #[test]
    fn it_fails_when_there_is_no_hope_left_and_says_why() {
        let outcomes = [(1, Err("x")), (u32::MAX, Ok(3)), (2, Err("y"))];
        let failure = block_on(quorum(2, tries(&outcomes))).unwrap_err().into_failure();
        assert_eq!(failure.message, "2 of 3 tries failed, 2 have to succeed: y");
        let failures = &failure.details.unwrap()["failures"];
        assert_eq!(failures[0], json!({ "index": 0, "kind": "failed", "message": "x" }));
        assert_eq!(failures[1]["index"], 2);
        let error = block_on(first_ok(tries(&[]))).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Rejected);
    }
}
