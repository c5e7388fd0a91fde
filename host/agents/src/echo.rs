//! The provider `echo`: answers with the prompt.

use futures_util::future::BoxFuture;
use wfhost_core::policy::budget::Tells;
use wfhost_core::{Json, Reply};

use super::{Call, CallFailure, CallOutput, Provider};

/// Answers with the prompt, or with the input if the prompt is empty. For
/// trying a workflow out: it costs nothing and needs nobody.
#[derive(Debug)]
pub struct Echo;

impl Provider for Echo {
    fn name(&self) -> &str {
        "echo"
    }

    fn tells(&self) -> Tells {
        Tells::NOTHING
    }

    fn call(&self, call: Call, _: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        let request = call.request;
        let output = match &request.input {
            Some(input) if request.prompt.is_empty() => input.clone(),
            _ => Json::string(&request.prompt),
        };
        let reply = Reply { model: request.model.clone(), ..Reply::new("echo", output) };
        Box::pin(std::future::ready(Ok(reply)))
    }
}
