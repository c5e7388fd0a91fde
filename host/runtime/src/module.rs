//! What a module is, found out by reading it, before anything is compiled.

use wasmparser::{ComponentExternalKind, ComponentTypeRef, Encoding, Parser, Payload};

/// Bytes that cannot be run as a workflow.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ModuleError {
    #[error("the file is empty")]
    Empty,
    #[error("this is {0}, not WebAssembly")]
    NotWasm(&'static str),
    #[error("this is a core WebAssembly module, not a component")]
    CoreModule,
    #[error("the component imports `{import}`, which workflows must not use: {reason}")]
    Denied { import: String, reason: &'static str, instead: &'static str },
    #[error("the component does not export `run`, so it is not a workflow; it exports {}", spell(.exports))]
    NoRun { exports: Vec<String> },
    #[error("the component imports the unknown interface `{import}`")]
    UnknownImport { import: String },
    #[error("the component does not match the world `wfhost:workflow/workflow@0.1.0`: {0}")]
    Unfit(String),
    #[error("the component is invalid: {0}")]
    Invalid(String),
    #[error("the component is too expensive to compile: it has {found} {what}, the limit is {limit}")]
    TooComplex { what: &'static str, found: u64, limit: u64 },
    #[error("the component is too expensive to compile: it takes more than {0}")]
    TooExpensive(String),
    #[error("the component cannot be compiled on this machine: {0}")]
    Stopped(String),
    #[error("the WebAssembly engine cannot be initialised: {0}")]
    Engine(String),
}

fn spell(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}

impl ModuleError {
    /// The stable code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "WF0101",
            Self::NotWasm(_) => "WF0102",
            Self::CoreModule => "WF0103",
            Self::Denied { .. } => "WF0104",
            Self::NoRun { .. } => "WF0105",
            Self::UnknownImport { .. } => "WF0106",
            Self::Unfit(_) => "WF0107",
            Self::Invalid(_) => "WF0108",
            Self::Engine(_) => "WF0109",
            Self::TooComplex { .. } | Self::TooExpensive(_) => "WF0111",
            Self::Stopped(_) => "WF0113",
        }
    }

    /// How to fix it.
    pub fn hint(&self) -> String {
        match self {
            Self::Empty | Self::NotWasm(_) => {
                "build the workflow into a component with `wfhost build`, or create one with `wfhost new NAME`"
                    .to_owned()
            }
            Self::CoreModule => {
                "`wfhost build` wraps it into a component; for a finished file: `wfhost build FILE.wasm -O OUT.wasm`"
                    .to_owned()
            }
            Self::Denied { import, instead, .. } if classify(import) == ImportClass::Trapped => format!(
                "{instead}; if the language imports it and the program never calls it, `--trap-denied` accepts it"
            ),
            Self::Denied { instead, .. } => (*instead).to_owned(),
            Self::NoRun { .. } | Self::Unfit(_) => {
                "build it against the WIT package of this wfhost (`wfhost inspect --wit` prints the world)"
                    .to_owned()
            }
            Self::UnknownImport { .. } => {
                "a workflow can import only interfaces of `wfhost:workflow@0.1.0` and `wasi:*@0.2`".to_owned()
            }
            Self::Invalid(_) => "build the module again; the file may be truncated".to_owned(),
            Self::TooComplex { .. } | Self::TooExpensive(_) => {
                "ordinary compilers stay below this limit; split generated code into smaller functions or types"
                    .to_owned()
            }
            Self::Stopped(_) => {
                "give the machine or the container more memory: a component of Python takes 2 GiB to compile".to_owned()
            }
            Self::Engine(_) => "this is a bug in wfhost or a problem of this machine; please report it".to_owned(),
        }
    }
}

/// What becomes of the calls of an imported interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImportClass {
    /// Journaled: it happens once, and is replayed ever after.
    Durable,
    /// A pure function of the journal.
    Pure,
    /// Not available in a workflow. Runtimes of some languages import it
    /// without need: then it is linked, and fails the run when it is called.
    Trapped,
    /// Not available in a workflow.
    Denied,
    Unknown,
}

impl ImportClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Durable => "durable step",
            Self::Pure => "pure function of the journal",
            Self::Trapped => "denied (fails when called)",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
        }
    }
}

/// An interface that a module imports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Import {
    pub name: String,
    pub class: ImportClass,
}

/// What can be said of a component without compiling it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleSummary {
    pub imports: Vec<Import>,
    pub exports: Vec<String>,
    /// It carries an interpreter with a program in its memory: no linker could
    /// tell which imports that program uses, so it has all of its runtime's.
    pub interpreted: bool,
}

/// What becomes of a module that imports what workflows may not use, where a
/// runtime may be all that does so ([`ImportClass::Trapped`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Denied {
    /// It is refused, unless it carries an interpreter.
    #[default]
    Refuse,
    /// It is accepted; a call fails the run.
    Trap,
}

/// Reads a component's imports and exports, and refuses what cannot be a workflow.
pub fn inspect(bytes: &[u8], denied: Denied) -> Result<ModuleSummary, ModuleError> {
    let summary = summarize(bytes)?;
    for Import { name, class } in &summary.imports {
        match class {
            ImportClass::Durable | ImportClass::Pure => {}
            ImportClass::Trapped if denied == Denied::Trap || summary.interpreted => {}
            ImportClass::Trapped | ImportClass::Denied => {
                let (reason, instead) = denial(name);
                return Err(ModuleError::Denied { import: name.clone(), reason, instead });
            }
            ImportClass::Unknown => return Err(ModuleError::UnknownImport { import: name.clone() }),
        }
    }
    if !summary.exports.iter().any(|name| name == "run") {
        return Err(ModuleError::NoRun { exports: summary.exports });
    }
    Ok(summary)
}

/// Reads a component's imports and exports.
pub fn summarize(bytes: &[u8]) -> Result<ModuleSummary, ModuleError> {
    if bytes.is_empty() {
        return Err(ModuleError::Empty);
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(ModuleError::NotWasm(kind_of_file(bytes)));
    }
    let invalid = |error: wasmparser::BinaryReaderError| ModuleError::Invalid(error.to_string());
    let mut summary = ModuleSummary { imports: Vec::new(), exports: Vec::new(), interpreted: false };
    let mut depth = 0usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err(ModuleError::CoreModule);
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import.map_err(invalid)?;
                    // Types that the world uses are imported too; they are no capability.
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        let name = import.name.name.to_owned();
                        summary.imports.push(Import { class: classify(&name), name });
                    }
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    if export.kind != ComponentExternalKind::Type {
                        summary.exports.push(export.name.name.to_owned());
                    }
                }
            }
            Payload::CustomSection(section) if depth == 0 && section.name() == "producers" => {
                summary.interpreted |= INTERPRETING.iter().any(|tool| contains(section.data(), tool));
            }
            _ => {}
        }
    }
    Ok(summary)
}

/// Tools that put an interpreter and its program into a component, as they name
/// themselves in its section `producers`.
const INTERPRETING: [&str; 5] =
    ["component-init-transform", "componentize-py", "componentize-qjs", "ComponentizeJS", "wizer"];

fn contains(data: &[u8], name: &str) -> bool {
    data.windows(name.len()).any(|window| window == name.as_bytes())
}

/// What a file is that is not WebAssembly, by its first bytes.
fn kind_of_file(bytes: &[u8]) -> &'static str {
    let head = &bytes[..bytes.len().min(512)];
    match head {
        [0x7f, b'E', b'L', b'F', ..] => "an ELF program for this machine",
        [b'M', b'Z', ..] => "a Windows program",
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] => "a macOS program",
        [b'P', b'K', 3, 4, ..] => "a zip archive",
        [0x1f, 0x8b, ..] => "gzip data",
        [b'(', ..] if head.starts_with(b"(module") || head.starts_with(b"(component") => {
            "WebAssembly text (WAT)"
        }
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => "a static library",
        _ if head.starts_with(b"SQLite format 3") => "an SQLite database",
        _ if std::str::from_utf8(bytes).is_ok() => "a text file",
        _ => "a binary file of unknown kind",
    }
}

/// What becomes of the calls of an import.
pub(crate) fn classify(import: &str) -> ImportClass {
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    if let Some(name) = interface.strip_prefix("wfhost:workflow/") {
        return match name {
            _ if version != "0.1.0" => ImportClass::Unknown,
            "agent" | "sleep" | "signal" | "child" => ImportClass::Durable,
            "types" | "context" | "log" => ImportClass::Pure,
            _ => ImportClass::Unknown,
        };
    }
    let Some(name) = interface.strip_prefix("wasi:") else {
        return ImportClass::Unknown;
    };
    match name {
        _ if !is_wasi_02(version) => ImportClass::Denied,
        "io/poll" => ImportClass::Durable,
        "clocks/monotonic-clock"
        | "clocks/wall-clock"
        | "io/error"
        | "io/streams"
        | "random/random"
        | "random/insecure"
        | "random/insecure-seed"
        | "cli/environment"
        | "cli/exit"
        | "cli/stdin"
        | "cli/stdout"
        | "cli/stderr"
        | "cli/terminal-input"
        | "cli/terminal-output"
        | "cli/terminal-stdin"
        | "cli/terminal-stdout"
        | "cli/terminal-stderr"
        | "filesystem/types"
        | "filesystem/preopens" => ImportClass::Pure,
        _ if name.starts_with("sockets/") || name.starts_with("http/") => ImportClass::Trapped,
        _ => ImportClass::Denied,
    }
}

/// A release of WASI 0.2; drafts before 0.2.0 were others.
fn is_wasi_02(version: &str) -> bool {
    let patch = version.strip_prefix("0.2.").unwrap_or_default();
    !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit())
}

const AGENT: &str =
    "ask an agent instead: its answer is journaled, so that a replay repeats it (`wfhost:workflow/agent`)";

/// Packages of WASI that no workflow may use: why, and what to do instead.
const DENIED_PACKAGES: [(&str, &str, &str); 11] = [
    ("sockets", "data from the network differs each time", AGENT),
    ("http", "the answer of a server differs each time", AGENT),
    ("tls", "data from the network differs each time", AGENT),
    ("nn", "the answer of a model differs each time", AGENT),
    ("keyvalue", "the content of a store differs each time", AGENT),
    ("blobstore", "the content of a store differs each time", AGENT),
    ("sql", "the content of a database differs each time", AGENT),
    ("messaging", "incoming data differs each time", "use signals: `wfhost:workflow/signal`"),
    (
        "config",
        "it differs from machine to machine",
        "pass it in the input, or as `--env NAME=VALUE` (`wasi:cli/environment`)",
    ),
    ("logging", "runs have a log of their own", "print it, or use `wfhost:workflow/log`"),
    (
        "threads",
        "threads run in a different order each time",
        "start steps and wait for them: `start` and `wait-any`",
    ),
];

/// Why an import is denied, and what to do instead.
pub(crate) fn denial(import: &str) -> (&'static str, &'static str) {
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    let wasi = interface.strip_prefix("wasi:");
    let package = wasi.and_then(|name| name.split('/').next()).unwrap_or_default();
    if let Some((_, reason, instead)) = DENIED_PACKAGES.iter().find(|(name, ..)| *name == package) {
        return (reason, instead);
    }
    match wasi {
        Some("clocks/timezone") => {
            ("the time zone differs from machine to machine", "pass it in the input; time is in UTC")
        }
        Some(_) if !is_wasi_02(version) => (
            "wfhost provides WASI 0.2",
            "build the module for WASI 0.2, or for wasm32-unknown-unknown, which needs no WASI",
        ),
        _ => (
            "it reaches outside the sandbox, where nothing is journaled",
            "workflows reach the world through `wfhost:workflow@0.1.0` only",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_wasm_is_named() {
        let kind = |bytes: &[u8]| summarize(bytes).unwrap_err().to_string();
        assert_eq!(kind(b""), "the file is empty");
        assert_eq!(kind(b"\x7fELF\x02\x01"), "this is an ELF program for this machine, not WebAssembly");
        assert_eq!(kind(b"fn main() {}"), "this is a text file, not WebAssembly");
        assert_eq!(kind(b"(module)"), "this is WebAssembly text (WAT), not WebAssembly");
        assert_eq!(kind(b"\0asm\x01\0\0\0"), "this is a core WebAssembly module, not a component");
        assert!(kind(b"\0asm\x0d\0\x01\0\xff").starts_with("the component is invalid"));
    }

    #[test]
    fn imports_have_classes() {
        assert_eq!(classify("wfhost:workflow/agent@0.1.0"), ImportClass::Durable);
        assert_eq!(classify("wfhost:workflow/agent@0.9.0"), ImportClass::Unknown);
        assert_eq!(classify("wasi:clocks/wall-clock@0.2.6"), ImportClass::Pure);
        assert_eq!(classify("wasi:sockets/tcp@0.2.0"), ImportClass::Trapped);
        assert_eq!(classify("wasi:http/types@0.2.0"), ImportClass::Trapped);
        assert_eq!(classify("wasi:http/types@0.3.0"), ImportClass::Denied);
        assert_eq!(classify("wasi:io/poll@0.2.0-rc-2023-11-10"), ImportClass::Denied);
        assert_eq!(classify("wasi:keyvalue/store@0.2.0-draft"), ImportClass::Denied);
        assert_eq!(classify("wasi:cli/environment@0.3.0"), ImportClass::Denied);
        assert_eq!(classify("acme:db/sql"), ImportClass::Unknown);
    }

    #[test]
    fn every_denied_package_has_a_reason_of_its_own() {
        let reason = |import| denial(import).0;
        assert_eq!(reason("wasi:keyvalue/store@0.2.0-draft"), "the content of a store differs each time");
        assert_eq!(reason("wasi:config/store@0.2.0-rc.1"), "it differs from machine to machine");
        assert_eq!(reason("wasi:clocks/timezone@0.2.3"), "the time zone differs from machine to machine");
        assert_eq!(reason("wasi:random/random@0.3.0"), "wfhost provides WASI 0.2");
        assert!(reason("wasi:usb/device@0.2.0").starts_with("it reaches outside"));
    }
}
