//! `wfhost:workflow/child`

use wasmtime::component::Resource;
use wfhost_core::{ChildOptions, OnParentClose, Op};

use super::wit::child::{Failure, Host, OnParentClose as WitOnParentClose, Options};
use super::{StepHandle, json, outcome_to_wit};
use crate::RunCtx;

impl Host for RunCtx {
    async fn run(
        &mut self,
        module: String,
        input: String,
        options: Option<Options>,
    ) -> wasmtime::Result<Result<String, Failure>> {
        let op = op(module, input, options)?;
        Ok(outcome_to_wit(self.perform(&op).await?))
    }

    async fn start(
        &mut self,
        module: String,
        input: String,
        options: Option<Options>,
    ) -> wasmtime::Result<Resource<StepHandle>> {
        let op = op(module, input, options)?;
        RunCtx::start(self, &op).await
    }
}

fn op(module: String, input: String, options: Option<Options>) -> wasmtime::Result<Op> {
    let options = options.map(|options| ChildOptions {
        id: options.id,
        on_close: match options.on_close {
            WitOnParentClose::Cancel => OnParentClose::Cancel,
            WitOnParentClose::Abandon => OnParentClose::Abandon,
        },
        labels: options.labels,
    });
    Ok(Op::Child { module, input: json("a child's input", input)?, options })
}
