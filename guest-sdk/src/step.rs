//! A step as a future.

use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use futures_core::FusedFuture;
use serde::de::DeserializeOwned;

use crate::{
    bindings::wfhost::workflow::types as host,
    error::{Error, Result},
    executor::{Executor, Steps, Task},
    failure::{Failure, FailureKind},
};

/// One operation of the workflow, as a future: an agent call, a sleep, a wait.
///
/// A step starts when it is polled for the first time (or by [`start`](Step::start)) and is
/// cancelled when it is dropped before it is done. When it is done, its result is in the journal, so
/// a replay returns the result without executing the step again.
///
/// A step can be used in `select!` directly, without `fuse` and `pin!`:
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use std::time::Duration;
/// # use wfhost::{Result, agent, sleep};
/// # async fn example() -> Result<String> {
/// let mut answer = agent("Take your time").text();
/// let mut patience = sleep(Duration::from_secs(60));
/// futures::select! {
///     answer = answer => answer,
///     _ = patience => Ok("no answer within a minute".to_owned()),
/// }
/// # }
/// ```
#[must_use = "a step does nothing until it is awaited"]
pub struct Step<T> {
    state: State,
    decode: fn(String) -> Result<T>,
}

type Begin = Box<dyn FnOnce() -> Result<host::Step>>;

enum State {
    New(Begin),
    /// Started, not yet polled.
    Started(host::Step),
    Waiting(Waiting),
    /// The step could not be started.
    Failed(Error),
    Over,
}

thread_local! {
    static BEGUN: Cell<u64> = const { Cell::new(0) };
}

/// The number of steps that the workflow has started in this execution.
pub(crate) fn begun() -> u64 {
    BEGUN.get()
}

fn begin(begin: Begin) -> Result<host::Step> {
    BEGUN.set(BEGUN.get() + 1);
    begin()
}

impl<T> Step<T> {
    /// A step that is started by the one function, and whose JSON is read by the other.
    pub(crate) fn new(
        begin: impl FnOnce() -> Result<host::Step> + 'static,
        decode: fn(String) -> Result<T>,
    ) -> Self {
        Self { state: State::New(Box::new(begin)), decode }
    }

    /// Starts the step now, not when it is first polled.
    ///
    /// ```no_run
    /// # extern crate wfhost_sdk as wfhost;
    /// # use std::time::Duration;
    /// # use wfhost::{Result, agent, sleep};
    /// # async fn example() -> Result<()> {
    /// let hour = sleep(Duration::from_secs(3600)).start();
    /// let answer = agent("Write the minutes").text().await?;
    /// hour.await?; // an hour after the beginning, not after the answer
    /// # Ok(())
    /// # }
    /// ```
    pub fn start(mut self) -> Self {
        self.state = match self.state {
            State::New(new) => match begin(new) {
                Ok(step) => State::Started(step),
                Err(error) => State::Failed(error),
            },
            other => other,
        };
        self
    }

    fn finish(&self, outcome: Result<String, host::Failure>) -> Result<T> {
        (self.decode)(outcome.map_err(Failure::from)?)
    }
}

impl<T> Future for Step<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let step = match std::mem::replace(&mut self.state, State::Over) {
            State::New(new) => begin(new)?,
            State::Started(step) => step,
            State::Waiting(waiting) => match waiting.poll(context) {
                Ok(outcome) => return Poll::Ready(self.finish(outcome)),
                Err(waiting) => {
                    self.state = State::Waiting(waiting);
                    return Poll::Pending;
                }
            },
            State::Failed(error) => return Poll::Ready(Err(error)),
            State::Over => panic!("a step was polled after its end"),
        };
        self.state = State::Waiting(Waiting::new(step, context));
        Poll::Pending
    }
}

impl<T> FusedFuture for Step<T> {
    fn is_terminated(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

impl<T> fmt::Debug for Step<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.state {
            State::New(_) => "Step(new)",
            State::Started(_) | State::Waiting(_) => "Step(started)",
            State::Failed(_) => "Step(failed)",
            State::Over => "Step(over)",
        })
    }
}

/// Reads the JSON of a step as it is.
pub(crate) fn decode<T: DeserializeOwned>(json: String) -> Result<T> {
    serde_json::from_str(&json)
        .map_err(|error| Error::new(FailureKind::InvalidOutput, format!("what came does not fit: {error}")))
}

/// For steps whose JSON says nothing.
pub(crate) fn decode_nothing(_: String) -> Result<()> {
    Ok(())
}

/// A started step that is waited for.
struct Waiting {
    executor: Rc<Executor<Host>>,
    /// None once it is done.
    tag: Option<u64>,
    /// Held until the tag is given back.
    _step: Rc<host::Step>,
}

impl Waiting {
    fn new(step: host::Step, context: &Context<'_>) -> Self {
        let executor = current();
        let step = Rc::new(step);
        let tag = executor.add(Rc::clone(&step), context.waker());
        Self { executor, tag: Some(tag), _step: step }
    }

    /// Its outcome, or itself if it is not done.
    fn poll(mut self, context: &Context<'_>) -> Result<Result<String, host::Failure>, Self> {
        match self.tag.and_then(|tag| self.executor.poll(tag, context.waker())) {
            Some(outcome) => {
                self.tag = None;
                Ok(outcome)
            }
            None => Err(self),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(tag) = self.tag {
            self.executor.remove(tag);
        }
        // The step itself is dropped after this, which cancels it if it is not done.
    }
}

/// The host's steps, and its set of them once there are several at a time.
#[derive(Default)]
struct Host {
    set: OnceCell<host::WaitSet>,
}

impl Host {
    fn set(&self) -> &host::WaitSet {
        self.set.get_or_init(host::WaitSet::new)
    }
}

impl Steps for Host {
    type Step = host::Step;
    type Outcome = Result<String, host::Failure>;

    fn add(&self, step: &host::Step, tag: u64) {
        self.set().add(step, tag);
    }

    fn remove(&self, tag: u64) {
        self.set().remove(tag);
    }

    fn next(&self) -> u64 {
        self.set().next()
    }

    fn get(&self, step: &host::Step) -> Self::Outcome {
        step.get()
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Executor<Host>>>> = const { RefCell::new(None) };
}

fn current() -> Rc<Executor<Host>> {
    CURRENT.with_borrow(|executor| {
        executor.clone().expect("steps are awaited within a workflow (`#[wfhost::workflow]`)")
    })
}

/// Has a future run beside the workflow's own, which does not end before it.
pub(crate) fn spawn(task: Task) {
    current().spawn(task);
}

/// Runs the workflow's future to its end, and all that was spawned meanwhile.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let executor = Rc::new(Executor::new(Host::default()));
    CURRENT.set(Some(Rc::clone(&executor)));
    let output = executor.run(future);
    CURRENT.set(None);
    output
}
