//! Compensation: steps that are undone when a later one fails.

use std::{
    cell::{Cell, RefCell},
    future::{Future, IntoFuture, poll_fn},
    marker::PhantomData,
    pin::Pin,
    rc::Rc,
    task::{Poll, Waker},
};

use serde_json::{Map, Value, json};

use crate::{
    context::cancelled,
    error::{Error, Result},
    failure::FailureKind,
    step::spawn,
};

/// Runs a block whose completed steps are compensated if it fails.
///
/// Each step declares its compensation. If the block returns an error, the completed steps are
/// compensated, the latest first, and the error is returned. The same happens when the run is
/// cancelled (the steps then fail with [`FailureKind::Cancelled`], and there is a grace period of
/// some seconds) and when the future is dropped, for example by a [`timeout`](crate::timeout()):
/// compensation then runs concurrently with whatever the workflow does next, and the run does not
/// end before it is complete.
///
/// Compensations are ordinary steps: after a crash of the host they continue where they were.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// use wfhost::{Result, agent, saga};
///
/// async fn book(what: &str) -> Result<String> {
///     agent(format!("book a {what}")).text().await
/// }
///
/// async fn cancel(booking: &String) -> Result<()> {
///     agent(format!("cancel booking {booking}")).text().await?;
///     Ok(())
/// }
///
/// # async fn example() -> Result<()> {
/// let (flight, hotel) = saga(async |saga| {
///     let flight = saga.step("flight", book("flight"), cancel).await?;
///     let hotel = saga.step("hotel", book("hotel"), cancel).await?;
///     agent("charge the customer").once().text().await?;
///     Ok((flight, hotel))
/// })
/// .await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The error of the block. If any step was compensated, the details have a member `saga` with the
/// names of the steps that were `undone`, in that order, and of those that were `not_undone` as
/// objects `{"step", "kind", "message"}`. A compensation that fails is also logged as an error, and
/// the other compensations still run. `wfhost retry` refuses a run that ended with such an error,
/// because the results of its steps are no longer valid.
pub async fn saga<T>(block: impl AsyncFnOnce(&Saga) -> Result<T>) -> Result<T> {
    let saga = Saga::default();
    match block(&saga).await {
        Ok(value) => {
            saga.done.borrow_mut().clear();
            Ok(value)
        }
        Err(error) => Err(saga.undo_all().await.explain(error)),
    }
}

/// The completed steps of a block of [`saga()`], with their compensations.
#[derive(Default)]
pub struct Saga {
    done: RefCell<Vec<Undo>>,
}

impl Saga {
    /// Executes a step; `undo` is called with its result if the block fails later.
    ///
    /// Steps can run concurrently, as in `try_join!(saga.step(..), saga.step(..))`: they are
    /// compensated in the reverse of the order in which they completed. A step, whether an agent
    /// call or a block of several steps, is not compensated if it fails itself. If a call may have
    /// had an effect although it failed (a time limit, a cancellation), register its compensation
    /// before the call with [`undo`](Saga::undo).
    ///
    /// The name is for people and for the details of errors. `undo` is called more than once only if
    /// the run is cancelled during the compensation, which is then started again.
    ///
    /// # Errors
    ///
    /// The error of the step, and [`FailureKind::Cancelled`] if the run was cancelled before: no new
    /// step is started then.
    pub async fn step<T, U>(
        &self,
        name: impl Into<String>,
        step: impl IntoFuture<Output = Result<T>>,
        undo: impl AsyncFnMut(&T) -> Result<U> + 'static,
    ) -> Result<T>
    where
        T: Clone + 'static,
        U: 'static,
    {
        if cancelled() {
            return Err(Error::new(FailureKind::Cancelled, "the run was asked to stop"));
        }
        let value = step.await?;
        let action = WithValue { value: value.clone(), undo, output: PhantomData };
        self.done.borrow_mut().push(Undo { name: name.into(), action: Box::new(action) });
        Ok(value)
    }

    /// Registers a compensation before the step that it compensates. It has to succeed also when
    /// there is nothing to compensate.
    ///
    /// ```no_run
    /// # extern crate wfhost_sdk as wfhost;
    /// # use wfhost::{Result, agent, saga};
    /// # async fn example() -> Result<()> {
    /// let key = format!("order-{}", wfhost::info().run);
    /// saga(async |saga| {
    ///     // Even if the answer never comes the order may have been placed.
    ///     let reference = key.clone();
    ///     saga.undo("order", async move || {
    ///         agent(format!("withdraw {reference} if it exists")).text().await
    ///     });
    ///     agent(format!("place {key}")).text().await
    /// })
    /// .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn undo<U: 'static>(
        &self,
        name: impl Into<String>,
        mut undo: impl AsyncFnMut() -> Result<U> + 'static,
    ) {
        let undo = async move |(): &()| undo().await;
        let action = WithValue { value: (), undo, output: PhantomData };
        self.done.borrow_mut().push(Undo { name: name.into(), action: Box::new(action) });
    }

    /// Undoes everything, and goes on with it if the future that it gives is dropped.
    fn undo_all(&self) -> impl Future<Output = Report> + use<> {
        let report = Rc::new(Promise::default());
        let promise = Rc::clone(&report);
        let done = self.done.take();
        if done.is_empty() {
            promise.keep(Report::default());
        } else {
            spawn(Box::pin(async move { promise.keep(undo_all(done).await) }));
        }
        async move { report.wait().await }
    }
}

impl Drop for Saga {
    fn drop(&mut self) {
        // There is something left only if the block was dropped before its end. What could not be
        // undone is in the log then.
        drop(self.undo_all());
    }
}

/// One thing that was done.
struct Undo {
    name: String,
    action: Box<dyn Action>,
}

trait Action {
    fn undo(&mut self) -> Pin<Box<dyn Future<Output = Result<()>> + '_>>;
}

struct WithValue<T, F, U> {
    value: T,
    undo: F,
    output: PhantomData<fn() -> U>,
}

impl<T, U, F: AsyncFnMut(&T) -> Result<U>> Action for WithValue<T, F, U> {
    fn undo(&mut self) -> Pin<Box<dyn Future<Output = Result<()>> + '_>> {
        Box::pin(async {
            (self.undo)(&self.value).await?;
            Ok(())
        })
    }
}

async fn undo_all(mut done: Vec<Undo>) -> Report {
    let mut report = Report::default();
    while let Some(Undo { name, mut action }) = done.pop() {
        let stopping = cancelled();
        let mut result = action.undo().await;
        if !stopping && cancelled() && is_cancelled(&result) {
            // It was the request to stop that ended it, and there is but one.
            result = action.undo().await;
        }
        match result {
            Ok(()) => report.undone.push(name),
            Err(error) => {
                crate::error!("`{name}` could not be undone: {error:#}");
                let failure = error.into_failure();
                let entry = json!({ "step": name, "kind": failure.kind, "message": failure.message });
                report.not_undone.push(entry);
            }
        }
    }
    report
}

fn is_cancelled(result: &Result<()>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == FailureKind::Cancelled)
}

/// What became of the undoing.
#[derive(Default, Debug)]
struct Report {
    undone: Vec<String>,
    not_undone: Vec<Value>,
}

impl Report {
    /// Adds to the error what was undone.
    fn explain(self, error: Error) -> Error {
        if self.undone.is_empty() && self.not_undone.is_empty() {
            return error;
        }
        let mut details = match error.failure().and_then(|failure| failure.details.clone()) {
            Some(Value::Object(members)) => members,
            Some(other) => Map::from_iter([("details".to_owned(), other)]),
            None => Map::new(),
        };
        // A saga within this one has undone its part before.
        let mut saga = match details.remove("saga") {
            Some(Value::Object(inner)) => inner,
            _ => Map::new(),
        };
        let mut add = |member: &str, values: Vec<Value>| match saga.get_mut(member) {
            Some(Value::Array(before)) => before.extend(values),
            _ => drop(saga.insert(member.to_owned(), values.into())),
        };
        add("undone", self.undone.into_iter().map(Value::from).collect());
        add("not_undone", self.not_undone);
        details.insert("saga".to_owned(), saga.into());
        error.with_details(details)
    }
}

/// A value that one future makes and another one waits for.
struct Promise<T> {
    value: Cell<Option<T>>,
    waiting: Cell<Option<Waker>>,
}

impl<T> Default for Promise<T> {
    fn default() -> Self {
        Self { value: Cell::new(None), waiting: Cell::new(None) }
    }
}

impl<T> Promise<T> {
    fn keep(&self, value: T) {
        self.value.set(Some(value));
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    async fn wait(&self) -> T {
        poll_fn(|context| match self.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                self.waiting.set(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(undone: &[&str], not_undone: &[&str]) -> Report {
        Report {
            undone: undone.iter().map(|&name| name.to_owned()).collect(),
            not_undone: not_undone.iter().map(|name| json!({ "step": name })).collect(),
        }
    }

    #[test]
    fn an_error_keeps_its_details_beside_what_was_undone() {
        let error = report(&["b", "a"], &[]).explain(Error::failed("x").with_details(json!({ "own": 1 })));
        let details = error.into_failure().details.unwrap();
        assert_eq!(details, json!({ "own": 1, "saga": { "undone": ["b", "a"], "not_undone": [] } }));

        let error = report(&[], &["a"]).explain(Error::failed("x").with_details([7]));
        let details = error.into_failure().details.unwrap();
        assert_eq!(details["details"], json!([7]));
        assert_eq!(details["saga"]["not_undone"], json!([{ "step": "a" }]));
    }

    #[test]
    fn what_an_inner_saga_undid_comes_first() {
        let error =
            report(&["outer"], &["o"]).explain(report(&["inner"], &["i"]).explain(Error::failed("x")));
        let details = error.into_failure().details.unwrap();
        assert_eq!(details["saga"]["undone"], json!(["inner", "outer"]));
        assert_eq!(details["saga"]["not_undone"], json!([{ "step": "i" }, { "step": "o" }]));
    }

    #[test]
    fn an_error_of_a_block_that_did_nothing_stays_as_it_is() {
        assert_eq!(report(&[], &[]).explain(Error::failed("x")).into_failure().details, None);
    }
}
