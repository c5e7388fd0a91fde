//! The provider `human`: a person answers.
//!
//! The call becomes a question of the run: `wfhost inbox` lists it, `wfhost
//! answer RUN STEP` answers it, `wfhost deny RUN STEP` makes it fail as
//! `rejected`. The prompt is the question, the input its details, the schema
//! that of the answer; the option `choices` lists the answers that are
//! allowed. The time limit of the whole step holds. While nobody answers the
//! run is suspended and uses no memory.

use futures_util::future::BoxFuture;
use wfhost_core::{FailureKind, Reply};

use super::{Call, CallFailure, CallOutput, Provider};

/// Asks a person.
#[derive(Debug)]
pub struct Human {
    name: String,
}

impl Human {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

impl Provider for Human {
    fn name(&self) -> &str {
        &self.name
    }

    fn asks_people(&self) -> bool {
        true
    }

    fn call(&self, _: Call, _: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        let message = "a person is asked with a question, not with a call";
        Box::pin(std::future::ready(Err(CallFailure::new(FailureKind::Rejected, message))))
    }
}
