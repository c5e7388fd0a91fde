//! Imports that a language's runtime brings along whether its programs use
//! them or not. They are linked, and explain themselves when they are called.

use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, ResourceType};
use wfhost_core::{Failure, FailureKind};

use super::poll::Pollable;
use super::streams::{InputStream, OutputStream, StreamFault};
use crate::imports::Misuse;
use crate::{ImportClass, RunCtx, classify, denial};

/// Stands for all resources of denied interfaces: none is ever made.
enum Denied {}

/// Links what `component` imports of the denied interfaces.
pub(crate) fn link_denied(
    linker: &mut Linker<RunCtx>,
    engine: &Engine,
    component: &Component,
) -> wasmtime::Result<()> {
    for (name, import) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(interface) = import.ty else { continue };
        if classify(name) != ImportClass::Trapped {
            continue;
        }
        let mut instance = linker.instance(name)?;
        for (item, export) in interface.exports(engine) {
            match export.ty {
                ComponentItem::ComponentFunc(_) => {
                    let (reason, instead) = denial(name);
                    let message = format!(
                        "the program called `{item}` of `{name}`, which a workflow may not use: {reason}; {instead}"
                    );
                    instance.func_new(item, move |_, _, _, _| {
                        Err(Misuse(Failure::new(FailureKind::Rejected, message.clone())).into())
                    })?;
                }
                ComponentItem::Resource(_) => {
                    instance.resource(item, resource(item), |_, _| Ok(()))?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Denied interfaces use resources of `wasi:io` under their own names.
fn resource(name: &str) -> ResourceType {
    match name {
        "pollable" => ResourceType::host::<Pollable>(),
        "input-stream" => ResourceType::host::<InputStream>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "io-error" | "error" => ResourceType::host::<StreamFault>(),
        _ => ResourceType::host::<Denied>(),
    }
}
