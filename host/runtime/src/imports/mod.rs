//! The imports of the world `wfhost:workflow/workflow`, one file for each
//! interface: each turns a call of the program into an operation of the core,
//! and what the core answers into a value of the program.

mod agent;
mod child;
mod context;
mod log;
mod signal;
mod sleep;
mod types;

use wasmtime::component::{HasSelf, Linker, Resource};
use wfhost_core::{Emission, Failure, FailureKind, Gift, Json, Op, Outcome, Step, Timestamp, limits};

use crate::RunCtx;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "wfhost:workflow/workflow",
        imports: {
            // What neither waits nor costs anything is called without a future.
            "wfhost:workflow/types.[drop]step": trappable,
            "wfhost:workflow/types.[method]step.id": trappable,
            "wfhost:workflow/types.[method]wait-set.remove": trappable,
            "wfhost:workflow/types.[drop]wait-set": trappable,
            "wfhost:workflow/context.now": trappable,
            "wfhost:workflow/context.budget": trappable,
            "wfhost:workflow/context.cancelled": trappable,
            default: async | trappable,
        },
        exports: { default: async },
        with: {
            "wfhost:workflow/types.step": super::StepHandle,
            "wfhost:workflow/types.wait-set": super::SetHandle,
        },
    });
}

pub(crate) use self::bindings::WorkflowPre;
use self::bindings::wfhost::workflow as wit;

/// Marks handles of steps: their number is the step's.
pub enum StepHandle {}
/// Marks handles of wait sets.
pub enum SetHandle {}

/// Adds the world to a linker.
pub(crate) fn link(linker: &mut Linker<RunCtx>) -> wasmtime::Result<()> {
    bindings::Workflow::add_to_linker::<_, HasSelf<_>>(linker, |ctx| ctx)
}

/// The program used the host in a way that it cannot go on from. Ends the run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misuse(pub Failure);

impl RunCtx {
    /// Asks the core for an operation.
    async fn schedule(&mut self, op: &Op) -> wasmtime::Result<Step> {
        self.charge_step(op).await?;
        let clock = self.clock();
        let step = self.shared.lock().machine.schedule(op, clock)?;
        self.trace(step);
        Ok(step)
    }

    /// Gives something out that nobody could do without: a run that has given
    /// out as much as it may is stopped.
    fn give_out(
        &mut self,
        bytes: usize,
        gift: Gift,
        emission: impl FnOnce(Timestamp) -> Emission,
    ) -> wasmtime::Result<()> {
        if self.shared.lock().emit(bytes, gift, emission) {
            return Ok(());
        }
        let message = format!(
            "the run has published and written {} bytes, as many as are allowed; \
             a long-lived workflow goes on as a fresh run with `continue-as-new`",
            self.sandbox.output_bytes
        );
        Err(Misuse(Failure::new(FailureKind::Failed, message)).into())
    }

    /// Asks the core for an operation and gives its handle to the program.
    async fn start(&mut self, op: &Op) -> wasmtime::Result<Resource<StepHandle>> {
        let step = self.schedule(op).await?;
        let number = u32::try_from(step.0)
            .map_err(|_| wasmtime::format_err!("a run has at most {} steps", u32::MAX))?;
        Ok(Resource::new_own(number))
    }

    /// Asks the core for an operation and waits until it is done.
    pub(crate) async fn perform(&mut self, op: &Op) -> wasmtime::Result<Outcome> {
        let step = self.schedule(op).await?;
        let shared = self.shared.clone();
        let outcome = shared.wait(|machine| machine.poll_step(step)).await?;
        let clock = self.clock();
        shared.lock().machine.drop_step(step, clock)?;
        self.charge_outcome(&outcome).await;
        Ok(outcome)
    }

    /// Pays for an outcome that is handed to the program: it is copied and looked through.
    async fn charge_outcome(&mut self, outcome: &Outcome) {
        let bytes = match outcome {
            Ok(json) => json.as_str().len(),
            Err(failure) => {
                failure.message.len() + failure.details.as_ref().map_or(0, |json| json.as_str().len())
            }
        };
        self.charge(bytes as u64).await;
    }
}

/// JSON text of the program. Text that is no JSON is the program's mistake.
fn json(what: &str, text: String) -> wasmtime::Result<Json> {
    Json::parse(text).map_err(|error| {
        let message = format!("the program gave {what} that is not JSON: {error}");
        wasmtime::Error::from(Misuse(Failure::new(wfhost_core::FailureKind::Rejected, message)))
    })
}

fn optional_json(what: &str, text: Option<String>) -> wasmtime::Result<Option<Json>> {
    text.map(|text| json(what, text)).transpose()
}

/// The result of a run as its program returned it.
pub(crate) fn returned(result: Result<String, wit::types::Failure>) -> wasmtime::Result<Outcome> {
    Ok(match result {
        Ok(text) => {
            within("a result", text.len(), limits::INPUT_BYTES)?;
            Ok(json("a result", text)?)
        }
        Err(failure) => {
            let details = failure.details.as_ref().map_or(0, String::len);
            within("the details of a failure", details, limits::DETAILS_BYTES)?;
            Err(Failure {
                kind: failure.kind.into(),
                message: limits::cut(failure.message, limits::MESSAGE_BYTES),
                details: optional_json("details of a failure", failure.details)?,
                attempts: failure.attempts,
            })
        }
    })
}

/// Something that the program gives is not larger than it may be.
fn within(what: &'static str, bytes: usize, limit: usize) -> wasmtime::Result<()> {
    limits::check(what, bytes, limit)
        .map_err(|error| Misuse(Failure::new(FailureKind::Failed, error.to_string())).into())
}

fn outcome_to_wit(outcome: Outcome) -> Result<String, wit::types::Failure> {
    outcome.map(Json::into_string).map_err(failure_to_wit)
}

fn failure_to_wit(failure: Failure) -> wit::types::Failure {
    wit::types::Failure {
        kind: failure.kind.into(),
        message: failure.message,
        details: failure.details.map(Json::into_string),
        attempts: failure.attempts,
    }
}

macro_rules! same_kinds {
    ($($kind:ident),*) => {
        impl From<wfhost_core::FailureKind> for wit::types::FailureKind {
            fn from(kind: wfhost_core::FailureKind) -> Self {
                match kind { $(wfhost_core::FailureKind::$kind => Self::$kind,)* }
            }
        }

        impl From<wit::types::FailureKind> for wfhost_core::FailureKind {
            fn from(kind: wit::types::FailureKind) -> Self {
                match kind { $(wit::types::FailureKind::$kind => Self::$kind,)* }
            }
        }
    };
}

same_kinds!(Failed, TimedOut, Cancelled, InvalidOutput, BudgetExceeded, Unavailable, Rejected);
