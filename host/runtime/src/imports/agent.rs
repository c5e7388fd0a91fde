//! `wfhost:workflow/agent`

use serde::Deserialize;
use serde_json::value::RawValue;
use wasmtime::component::Resource;
use wfhost_core::{AgentRequest, Caching, CallLimits, Failure, FailureKind, Json, Op, Retry};

use super::wit::agent::{Failure as WitFailure, Host, Reply, Request, Usage};
use super::{StepHandle, failure_to_wit, optional_json};
use crate::RunCtx;

impl Host for RunCtx {
    async fn run(&mut self, request: Request) -> wasmtime::Result<Result<Reply, WitFailure>> {
        let op = op(request)?;
        let outcome = self.perform(&op).await?;
        Ok(outcome.and_then(|json| reply(&json)).map_err(failure_to_wit))
    }

    async fn start(&mut self, request: Request) -> wasmtime::Result<Resource<StepHandle>> {
        let op = op(request)?;
        RunCtx::start(self, &op).await
    }
}

fn op(request: Request) -> wasmtime::Result<Op> {
    let Request {
        prompt,
        input,
        providers,
        model,
        schema,
        session,
        workspace,
        label,
        group,
        retry,
        limits,
        cache,
        options,
    } = request;
    Ok(Op::Agent(Box::new(AgentRequest {
        prompt,
        input: optional_json("an agent's input", input)?,
        providers,
        model,
        schema: optional_json("a schema", schema)?,
        session,
        workspace,
        label,
        group,
        retry: retry.map(|retry| Retry {
            max_attempts: retry.max_attempts,
            initial_ms: retry.initial,
            factor: retry.factor,
            max_ms: retry.max,
            jitter: retry.jitter,
            fatal: retry.fatal,
        }),
        limits: limits.map(|limits| CallLimits {
            attempt_ms: limits.attempt,
            total_ms: limits.total,
            heartbeat_ms: limits.heartbeat,
        }),
        cache: cache.map(|cache| Caching { version: cache.version, ttl_ms: cache.ttl }),
        options: optional_json("options", options)?,
    })))
}

/// A [`wfhost_core::Reply`], as far as programs see it. What an earlier version let into a journal is
/// given to the program as it was.
#[derive(Deserialize)]
struct Kept<'a> {
    #[serde(borrow)]
    output: &'a RawValue,
    #[serde(default)]
    session: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<wfhost_core::Usage>,
    provider: String,
}

/// The reply that the journal has.
fn reply(json: &Json) -> Result<Reply, Failure> {
    let reply: Kept<'_> = serde_json::from_str(json.as_str()).map_err(|e| {
        Failure::new(FailureKind::InvalidOutput, format!("the journal has no reply here: {e}"))
    })?;
    Ok(Reply {
        output: reply.output.get().to_owned(),
        session: reply.session,
        model: reply.model,
        usage: reply.usage.map(|usage| Usage {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cached_tokens: usage.cached_tokens,
            cost_micros: usage.cost_micros,
        }),
        provider: reply.provider,
    })
}
