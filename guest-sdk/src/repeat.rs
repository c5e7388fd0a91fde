//! Retries and loops.

use std::ops::ControlFlow;

use serde::Serialize;

use crate::{
    context::{continue_as_new, random},
    error::Result,
    policy::Retry,
    sleep::sleep,
    step::begun,
};

/// Retries a block until it succeeds, according to a policy. The delays are durable sleeps.
///
/// An agent call has its own attempts ([`Agent::retry`](crate::Agent::retry)), which the host makes;
/// this is for blocks of several steps. The block receives the number of the attempt, from 1.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use wfhost::{Result, Retry, agent, ensure, retry};
/// # async fn example() -> Result<()> {
/// let patch = retry(Retry::attempts(3), async |attempt| {
///     let patch = agent("Write the patch").label(format!("patch {attempt}")).text().await?;
///     let passed: bool = agent("Do the tests pass?").input(&patch).json().await?;
///     ensure!(passed, "the tests fail");
///     Ok(patch)
/// })
/// .await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// That of the last attempt. Fatal kinds of the policy end it immediately, as do
/// [`Cancelled`](crate::FailureKind::Cancelled), [`Rejected`](crate::FailureKind::Rejected) and
/// [`BudgetExceeded`](crate::FailureKind::BudgetExceeded), which would recur.
pub async fn retry<T>(policy: Retry, mut block: impl AsyncFnMut(u32) -> Result<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        let error = match block(attempt).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if !policy.allows_another(attempt, &error) {
            return Err(error);
        }
        crate::info!("attempt {attempt} failed: {error:#}");
        sleep(policy.delay(attempt, random())).await?;
        attempt += 1;
    }
}

/// Repeats a block at most `max` times. Each round receives the value of the previous one, and its
/// number, from 1.
///
/// The block ends the loop with [`ControlFlow::Break`], which is returned. If it never does, the
/// [`ControlFlow::Continue`] of the last round is returned.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use std::ops::ControlFlow::{Break, Continue};
/// # use wfhost::{Result, agent, loop_until};
/// # async fn example(draft: String) -> Result<()> {
/// let text = loop_until(3, draft, async |draft, _round| {
///     let review = agent("Review it; `ok` if it is good").input(&draft).text().await?;
///     if review == "ok" {
///         return Ok(Break(draft));
///     }
///     Ok(Continue(agent("Improve it").input((draft, review)).text().await?))
/// })
/// .await?;
/// let text = match text {
///     Break(accepted) => accepted,
///     Continue(best) => best,
/// };
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// An error of the block, which ends the loop.
pub async fn loop_until<S, B>(
    max: u32,
    first: S,
    mut block: impl AsyncFnMut(S, u32) -> Result<ControlFlow<B, S>>,
) -> Result<ControlFlow<B, S>> {
    let mut state = first;
    for round in 1..=max {
        match block(state, round).await? {
            ControlFlow::Continue(next) => state = next,
            done => return Ok(done),
        }
    }
    Ok(ControlFlow::Continue(state))
}

/// Repeats a block until it returns [`ControlFlow::Break`]. Each round receives the state of the
/// previous one.
///
/// After about `steps` steps the run continues as new: it ends, and a new run of the same module
/// starts with the state as its input, so the workflow's input is the type of the state. Pending
/// signals are kept. The journal of each run stays short, however many rounds there are.
///
/// Steps that the workflow has started outside of the block, a wait or a sleep, are dropped when
/// it continues as new.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use std::{ops::ControlFlow::{Break, Continue}, time::Duration};
/// # use wfhost::{Result, agent, rounds, sleep};
/// #[derive(serde::Deserialize, serde::Serialize)]
/// struct State {
///     seen: u64,
/// }
///
/// # async fn example(state: State) -> Result<u64> {
/// // #[wfhost::workflow] async fn watch(state: State) -> Result<u64> {
/// rounds(1_000, state, async |mut state| {
///     let news = agent("What is new?").text().await?;
///     if news == "the end" {
///         return Ok(Break(state.seen));
///     }
///     state.seen += 1;
///     sleep(Duration::from_secs(600)).await?;
///     Ok(Continue(state))
/// })
/// .await
/// # }
/// ```
///
/// # Errors
///
/// An error of the block, which ends the loop.
///
/// # Panics
///
/// If the state cannot be written as JSON.
pub async fn rounds<S: Serialize, T>(
    steps: u64,
    first: S,
    mut block: impl AsyncFnMut(S) -> Result<ControlFlow<T, S>>,
) -> Result<T> {
    let mut state = first;
    loop {
        match block(state).await? {
            ControlFlow::Break(done) => return Ok(done),
            ControlFlow::Continue(next) if begun() >= steps => continue_as_new(next),
            ControlFlow::Continue(next) => state = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, executor::block_on};

    #[test]
    fn the_loop_ends_when_the_block_says_so_or_after_the_last_round() {
        let rounds = |max| {
            block_on(loop_until(max, 0, async |sum, round| {
                Ok(if sum >= 6 { ControlFlow::Break(sum) } else { ControlFlow::Continue(sum + round) })
            }))
            .unwrap()
        };
        assert_eq!(rounds(0), ControlFlow::Continue(0));
        assert_eq!(rounds(2), ControlFlow::Continue(3));
        assert_eq!(rounds(9), ControlFlow::Break(6));
    }

    #[test]
    fn an_error_ends_the_loop() {
        let mut rounds = 0;
        let result = block_on(loop_until(9, (), async |(), _| {
            rounds += 1;
            Err::<ControlFlow<()>, _>(Error::failed("x"))
        }));
        assert!(result.is_err());
        assert_eq!(rounds, 1);
    }
}
