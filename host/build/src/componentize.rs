//! From a core module to a component.

use std::borrow::Cow;

use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

/// Wraps a core module into a component. One that is a component already is
/// given back as it is. Modules for WASI preview 1 get its adapter; modules
/// that say nothing of their interface are taken for the world of plugins if they
/// export an agent, else for that of workflows.
pub fn componentize(bytes: &[u8]) -> Result<Vec<u8>, String> {
    if Parser::is_component(bytes) {
        return Ok(bytes.to_vec());
    }
    let described = match describes_itself(bytes) {
        true => Cow::Borrowed(bytes),
        false => Cow::Owned(embed_world(bytes)?),
    };
    ComponentEncoder::default()
        .module(&described)
        .and_then(|encoder| {
            encoder.adapter(
                wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
                wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
            )
        })
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(chain)
}

fn chain(error: anyhow::Error) -> String {
    format!("{error:#}")
}

/// Whether a core module carries its interface, as binding generators leave it.
fn describes_itself(bytes: &[u8]) -> bool {
    Parser::new(0).parse_all(bytes).any(|payload| match payload {
        Ok(Payload::CustomSection(section)) => section.name().starts_with("component-type"),
        _ => false,
    })
}

/// Adds its world to a core module.
fn embed_world(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (file, text, world) = match exports_agent(bytes) {
        true => ("plugin.wit", include_str!("../../../wit/plugin/plugin.wit"), "agent-plugin"),
        false => ("workflow.wit", include_str!("../../../wit/workflow.wit"), "workflow"),
    };
    let mut resolve = Resolve::default();
    let package = resolve.push_str(file, text).map_err(|error| error.to_string())?;
    let world = resolve.select_world(&[package], Some(world)).map_err(|error| error.to_string())?;
    let mut bytes = bytes.to_vec();
    wit_component::embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8)
        .map_err(chain)?;
    Ok(bytes)
}

/// Adds a custom section at the end of a component.
pub(super) fn add_section(component: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut section = Vec::new();
    leb128(&mut section, name.len());
    section.extend(name.as_bytes());
    section.extend(data);
    component.push(0);
    leb128(component, section.len());
    component.extend(section);
}

/// An unsigned number as WebAssembly writes it.
pub(super) fn leb128(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// How plugins name what they export: as a component, and as a core module.
const AGENT: &str = "wfhost:plugin/agent@0.1.0";
const AGENT_RUN: &str = "wfhost:plugin/agent@0.1.0#run";

/// Whether a core module or a component exports what workflows or plugins do. What cannot be read has
/// other faults, which are found by others.
pub(super) fn exports_run(bytes: &[u8]) -> bool {
    exports_any(bytes, &["run", AGENT, AGENT_RUN]).unwrap_or(true)
}

/// Whether a core module or a component exports an agent.
pub(super) fn exports_agent(bytes: &[u8]) -> bool {
    exports_any(bytes, &[AGENT, AGENT_RUN]).unwrap_or(false)
}

/// Whether one of its exports has one of these names. None if it cannot be read.
fn exports_any(bytes: &[u8], names: &[&str]) -> Option<bool> {
    // Parts of a component have exports of their own, which do not count.
    let mut depth = 0u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.ok()? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ExportSection(exports) if depth == 0 => {
                return Some(exports.into_iter().flatten().any(|export| names.contains(&export.name)));
            }
            Payload::ComponentExportSection(exports)
                if depth == 0
                    && exports
                        .clone()
                        .into_iter()
                        .flatten()
                        .any(|export| names.contains(&export.name.name)) =>
            {
                return Some(true);
            }
            _ => {}
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_refused() {
        assert!(componentize(b"not wasm").is_err());
        assert!(componentize(b"").is_err());
    }

    #[test]
    fn a_section_is_found_again() {
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        let data = vec![b'x'; 300];
        add_section(&mut component, "wfhost:wants", &data);
        let sections: Vec<_> = Parser::new(0)
            .parse_all(&component)
            .filter_map(|payload| match payload.unwrap() {
                Payload::CustomSection(section) => Some((section.name().to_owned(), section.data().to_vec())),
                _ => None,
            })
            .collect();
        assert_eq!(sections, [("wfhost:wants".to_owned(), data)]);
    }

    #[test]
    fn a_component_stays_as_it_is() {
        let empty = b"\0asm\x0d\0\x01\0";
        assert_eq!(componentize(empty).unwrap(), empty);
    }

    #[test]
    fn a_module_is_a_workflow_if_it_exports_run() {
        // One function type, one function, one export, one empty body.
        let module = |name: &str| {
            let mut bytes = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07".to_vec();
            bytes.extend([name.len() as u8 + 4, 1, name.len() as u8]);
            bytes.extend(name.as_bytes());
            bytes.extend(b"\0\0\x0a\x04\x01\x02\0\x0b");
            bytes
        };
        assert!(exports_run(&module("run")) && !exports_agent(&module("run")));
        assert!(exports_run(&module(AGENT_RUN)) && exports_agent(&module(AGENT_RUN)));
        assert!(!exports_run(&module("ran")) && !exports_agent(&module("ran")));
        for neither in [b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"] {
            assert!(!exports_run(neither) && !exports_agent(neither));
        }
        assert!(exports_run(b"garbage") && !exports_agent(b"garbage"));
    }
}
