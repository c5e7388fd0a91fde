//! What a workflow in Rust says of itself by its types.
//!
//! Schemas are made of types by code (schemars), which is nothing to ship: it would be half as much code again in a small module. So
//! the attribute `#[wfhost::workflow(describe)]` only leaves a mark in the module. Where that is, the crate is compiled
//! once more, quickly and in a directory of its own, with `--cfg wfhost_describe`, under which there is a function that
//! says it; that one is called in a sandbox, and what it says goes into the module that was built before.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Map, Value};
use wfhost_core::{DESCRIBE_BYTES, DESCRIBE_FORM, Description, Digest, custom_sections};

use super::cargo;
use super::project::Package;
use super::toolchain::Toolchain;
use super::{BuildError, BuildOptions, file, read};

/// The section that asks for it.
const ASKS: &[u8] = b"wfhost:derive";
/// The function that says it.
const EXPORT: &str = "wfhost_describe";

/// Whether a module that was built, or the core module in it, asks for a description of its types.
pub(super) fn asks(module: &[u8]) -> bool {
    if custom_sections(module).any(|(name, _)| name == ASKS) {
        return true;
    }
    core_modules(module).iter().any(|core| custom_sections(core).any(|(name, _)| name == ASKS))
}

/// The core modules of a component.
fn core_modules(component: &[u8]) -> Vec<&[u8]> {
    use wasmparser::{Parser, Payload};
    let payloads = Parser::new(0).parse_all(component).map_while(Result::ok);
    let ranges = payloads.filter_map(|payload| match payload {
        Payload::ModuleSection { unchecked_range, .. } => Some(unchecked_range),
        _ => None,
    });
    ranges.filter_map(|range| component.get(range)).collect()
}

/// Asks the types of a package.
pub(super) fn derive(
    dir: &Path,
    package: &Package,
    toolchain: &Toolchain,
    options: &BuildOptions,
    target: &Path,
) -> Result<Description, BuildError> {
    let refused = |reason: String| BuildError::Derive { package: package.name.clone(), reason };
    let target = target.join("wfhost/describe");
    let mut command = cargo::cargo();
    command.current_dir(dir).args(["rustc", "--lib", "-p", &package.name]);
    command.args(["--target", toolchain.target.triple(), "--message-format", "json-render-diagnostics"]);
    command.arg("--target-dir").arg(&target);
    // It lives for one call.
    command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
    if options.offline {
        command.arg("--offline");
    }
    if let Some(rustc) = &toolchain.rustc {
        command.env("RUSTC", rustc);
    }
    // What there is to warn of was said when the module was built.
    command.args(["--quiet", "--", "--cfg", EXPORT, "-A", "warnings"]);
    let output = command
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| BuildError::NoTool { command: "cargo rustc".to_owned(), source })?;
    if !output.status.success() {
        return Err(refused("cargo did not compile it with `--cfg wfhost_describe`".to_owned()));
    }
    let built = cargo::artifacts(&output.stdout);
    let core = built.into_iter().find(|(manifest, _)| *manifest == package.manifest_path);
    let (_, core) = core.ok_or_else(|| refused("cargo built nothing".to_owned()))?;
    let core = read(&core)?;
    // The same code says the same: a build of what has not changed does not ask again.
    let known = target.join(format!("{}.json", Digest::of(&core).hex()));
    if let Ok(said) = std::fs::read(&known)
        && let Ok(description) = Description::read(&said)
    {
        return Ok(description);
    }
    let modules = core_modules(&core);
    let module = modules.into_iter().find(|module| exports(module)).unwrap_or(&core);
    let said = wfhost_runtime::answer(module, EXPORT, DESCRIBE_BYTES).map_err(refused)?;
    let mut said: Map<String, Value> =
        serde_json::from_slice(&said).map_err(|error| refused(error.to_string()))?;
    if let Some(problem) = said.get("problem").and_then(Value::as_str) {
        return Err(refused(problem.to_owned()));
    }
    said.insert("schema".to_owned(), DESCRIBE_FORM.into());
    let said = Value::Object(said).to_string();
    let description = Description::read(said.as_bytes()).map_err(|error| refused(error.to_string()))?;
    std::fs::write(&known, said).map_err(file(&known))?;
    Ok(description)
}

/// Whether a core module has the function.
fn exports(module: &[u8]) -> bool {
    use wasmparser::{Parser, Payload};
    Parser::new(0).parse_all(module).map_while(Result::ok).any(|payload| match payload {
        Payload::ExportSection(exports) => exports.into_iter().flatten().any(|export| export.name == EXPORT),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_asks_by_a_section_also_within_a_component() {
        let mut core = b"\0asm\x01\0\0\0".to_vec();
        assert!(!asks(&core));
        super::super::componentize::add_section(&mut core, "wfhost:derive", b"\x01");
        assert!(asks(&core));
        let component = [b"\0asm\x0d\0\x01\0\x01".as_slice(), &[core.len() as u8], &core].concat();
        assert!(asks(&component));
        assert!(!asks(b"\0asm\x0d\0\x01\0") && !asks(b"no module"));
    }
}
