//! `wfhost:workflow/signal`

use wasmtime::component::Resource;
use wfhost_core::{Emission, Failure as CoreFailure, FailureKind, Gift, Op, limits};
use wfhost_schema::Schema;

use super::wit::signal::{Failure as WitFailure, Host, Question};
use super::{Misuse, StepHandle, failure_to_wit, json, optional_json, outcome_to_wit};
use crate::RunCtx;
use crate::sandbox::cost;

impl Host for RunCtx {
    async fn wait(
        &mut self,
        name: String,
        timeout: Option<u64>,
    ) -> wasmtime::Result<Result<String, WitFailure>> {
        Ok(outcome_to_wit(self.perform(&Op::Signal { name, timeout_ms: timeout }).await?))
    }

    async fn start(&mut self, name: String, timeout: Option<u64>) -> wasmtime::Result<Resource<StepHandle>> {
        RunCtx::start(self, &Op::Signal { name, timeout_ms: timeout }).await
    }

    async fn send(
        &mut self,
        run: String,
        name: String,
        payload: String,
    ) -> wasmtime::Result<Result<(), WitFailure>> {
        let payload = json("a signal's payload", payload)?;
        let outcome = self.perform(&Op::Send { run, name, payload }).await?;
        Ok(outcome.map(drop).map_err(failure_to_wit))
    }

    async fn ask(
        &mut self,
        question: Question,
        timeout: Option<u64>,
    ) -> wasmtime::Result<Result<String, WitFailure>> {
        let op = Op::Ask { question: question_to_core(question).await?, timeout_ms: timeout };
        Ok(outcome_to_wit(self.perform(&op).await?))
    }

    async fn start_ask(
        &mut self,
        question: Question,
        timeout: Option<u64>,
    ) -> wasmtime::Result<Resource<StepHandle>> {
        let op = Op::Ask { question: question_to_core(question).await?, timeout_ms: timeout };
        RunCtx::start(self, &op).await
    }

    async fn post(&mut self, name: String, payload: String) -> wasmtime::Result<()> {
        limits::check("the name of a message", name.len(), limits::NAME_BYTES)?;
        limits::check("a message", payload.len(), limits::SIGNAL_BYTES)?;
        let bytes = name.len() + payload.len();
        self.charge(cost::CALL + bytes as u64).await;
        let payload = json("a message", payload)?;
        self.give_out(bytes, Gift::Message, |at| Emission::Message { name, payload, at })
    }
}

async fn question_to_core(question: Question) -> wasmtime::Result<wfhost_core::Question> {
    let schema = optional_json("a schema", question.schema)?;
    if let Some(schema) = &schema
        && let Err(error) = Schema::read(schema).await
    {
        let message = format!("the program asks with a JSON Schema that cannot be used: {error}");
        return Err(Misuse(CoreFailure::new(FailureKind::Rejected, message)).into());
    }
    Ok(wfhost_core::Question {
        prompt: question.prompt,
        schema,
        choices: question.choices,
        details: optional_json("details of a question", question.details)?,
    })
}
