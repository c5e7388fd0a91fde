//! From the export `run` to the user's function and back. `#[agent]` writes the call.

use serde::Serialize;

use super::bindings::wfhost::plugin::{progress, types as host};
use super::{Call, Failure, FailureKind, Reply};

/// What an agent may answer: a [`Reply`], or what is to be its output.
pub trait Answer {
    /// The answer with what belongs to it.
    ///
    /// # Errors
    ///
    /// It cannot be written as JSON.
    fn into_reply(self) -> Result<Reply, Failure>;
}

impl Answer for Reply {
    fn into_reply(self) -> Result<Reply, Failure> {
        Ok(self)
    }
}

impl<T: Serialize> Answer for T {
    fn into_reply(self) -> Result<Reply, Failure> {
        let output = serde_json::to_value(self).map_err(|error| {
            let message = format!("the answer cannot be written as JSON: {error}");
            Failure::new(FailureKind::InvalidOutput, message)
        })?;
        Ok(Reply::new(output))
    }
}

/// Runs an agent.
pub fn run<A: Answer, E: Into<Failure>>(
    call: host::Call,
    agent: impl FnOnce(Call) -> Result<A, E>,
) -> Result<host::Reply, host::Failure> {
    // On `wasm32-unknown-unknown` a panic would say nothing.
    std::panic::set_hook(Box::new(|info| progress::line(&format!("the plugin {info}"))));
    let answer = agent(Call::from(call)).map_err(Into::into)?;
    let Reply { output, session, model, usage } = answer.into_reply()?;
    Ok(host::Reply { output: output.to_string(), session, model, usage: usage.map(Into::into) })
}
