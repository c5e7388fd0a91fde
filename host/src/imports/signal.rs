//! `wfhost:workflow/signal`

use wasmtime::component::Resource;
use wfhost_core::{Failure, FailureKind, Op};

use super::wit::signal::{Failure as WitFailure, Host, Question};
use super::{Misuse, StepHandle, failure_to_wit, json, optional_json, outcome_to_wit};
use crate::engine::RunCtx;

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
        let op = Op::Ask { question: question_to_core(question)?, timeout_ms: timeout };
        Ok(outcome_to_wit(self.perform(&op).await?))
    }

    async fn start_ask(&mut self, question: Question) -> wasmtime::Result<Resource<StepHandle>> {
        let op = Op::Ask { question: question_to_core(question)?, timeout_ms: None };
        RunCtx::start(self, &op).await
    }

    async fn post(&mut self, name: String, _payload: String) -> wasmtime::Result<()> {
        let message = format!("`signal.post` ({name}) is unavailable in this version of wfhost");
        Err(Misuse(Failure::new(FailureKind::Unavailable, message)).into())
    }
}

fn question_to_core(question: Question) -> wasmtime::Result<wfhost_core::Question> {
    Ok(wfhost_core::Question {
        prompt: question.prompt,
        schema: optional_json("a schema", question.schema)?,
        choices: question.choices,
        details: optional_json("details of a question", question.details)?,
    })
}
