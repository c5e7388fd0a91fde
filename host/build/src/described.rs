//! What a module says of itself: sections of its component, which are read without running it.
//!
//! Facts of the project (name, version, authors, licences, where its source is) go into the sections that
//! `wasm-tools metadata show`, `wkg` and registries read. What the workflow takes and gives is declared in a
//! file `describe.toml` or `describe.json` beside the source, in Rust derived from the types as well, and goes
//! into `wfhost:describe`. It is checked here, so that what is embedded holds. What a plugin asks for is
//! declared in `plugin.toml`, in Rust in its Cargo.toml, and goes into `wfhost:wants`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use wfhost_core::{DESCRIBE_SECTION, Description, Example, Json, WANTS_SECTION, Wants, custom_sections};
use wfhost_registry::metadata::{self, Metadata};
use wfhost_schema::Schema;

use super::componentize::{add_section, exports_agent};
use super::{BuildError, file};

/// The files that a declaration is looked for in.
const FILES: [&str; 2] = ["describe.toml", "describe.json"];

/// What a plugin asks for, in other languages than Rust.
const WANTS_FILE: &str = "plugin.toml";

/// Reading a schema goes as deep as the schema.
const STACK_BYTES: usize = 64 << 20;

/// What is written into a module.
#[derive(Debug, Default)]
pub(super) struct About {
    /// Of the project.
    pub metadata: Metadata,
    pub description: Option<Description>,
    /// Of a plugin.
    pub wants: Wants,
}

impl About {
    /// What the files of a project say.
    pub fn project(dir: &Path) -> Result<Self, BuildError> {
        let (metadata, wants) = (metadata::of_project(dir), wants(dir)?);
        Ok(Self { metadata, description: declared(dir, None)?, wants })
    }

    /// Adds the sections to a component. Those that it has already stay as they are.
    pub fn write_into(&self, component: &mut Vec<u8>, name: &str) -> Result<(), BuildError> {
        let has = |component: &[u8], name: &str| {
            custom_sections(component).any(|(known, _)| known == name.as_bytes())
        };
        if !has(component, "component-name") {
            // One part, which is the name of the component itself.
            let mut part = Vec::new();
            super::componentize::leb128(&mut part, name.len());
            part.extend(name.as_bytes());
            let mut data = vec![0];
            super::componentize::leb128(&mut data, part.len());
            data.extend(part);
            add_section(component, "component-name", &data);
        }
        for (what, value) in &self.metadata {
            let section = if *what == "url" { "homepage" } else { *what };
            if !has(component, section) {
                add_section(component, section, value.as_bytes());
            }
        }
        if let Some(description) = &self.description
            && !has(component, DESCRIBE_SECTION)
        {
            let bytes = description.to_bytes();
            Description::read(&bytes).map_err(|error| BuildError::Description {
                place: name.to_owned(),
                reason: error.to_string(),
            })?;
            add_section(component, DESCRIBE_SECTION, &bytes);
        }
        if !self.wants.is_empty() && exports_agent(component) && !has(component, WANTS_SECTION) {
            let wants = serde_json::to_vec(&self.wants).unwrap_or_default();
            add_section(component, WANTS_SECTION, &wants);
        }
        Ok(())
    }
}

/// What a plugin asks for, by the file of its project.
fn wants(dir: &Path) -> Result<Wants, BuildError> {
    let path = dir.join(WANTS_FILE);
    if !path.is_file() {
        return Ok(Wants::default());
    }
    let text = std::fs::read_to_string(&path).map_err(file(&path))?;
    toml::from_str(&text)
        .map_err(|error| BuildError::Wants { manifest: path, reason: error.message().to_owned() })
}

/// The declaration of a project, and what was derived of its types: what is declared goes before that.
pub(super) fn declared(dir: &Path, derived: Option<Description>) -> Result<Option<Description>, BuildError> {
    let found: Vec<PathBuf> = FILES.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect();
    let (path, declared) = match found.as_slice() {
        [] => (None, None),
        [path] => (Some(path), Some(read(path)?)),
        [path, ..] => {
            let reason = "there is a describe.json beside it: one is enough".to_owned();
            return Err(BuildError::Description { place: path.display().to_string(), reason });
        }
    };
    let description = match (declared, derived) {
        (Some(declared), Some(derived)) => merged(declared, derived),
        (declared, derived) => match declared.or(derived) {
            Some(description) => description,
            None => return Ok(None),
        },
    };
    let place = path.map_or_else(|| dir.display().to_string(), |path| path.display().to_string());
    let refused = |reason: String| BuildError::Description { place: place.clone(), reason };
    let checked = description.clone();
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let thread = thread.spawn(move || check(&checked)).map_err(|error| refused(error.to_string()))?;
    thread.join().unwrap_or_else(|_| Err("its schemas cannot be read".to_owned())).map_err(refused)?;
    Ok(Some(description))
}

/// What is declared, and of what was derived what is not.
fn merged(declared: Description, derived: Description) -> Description {
    let or = |one: Vec<_>, other| if one.is_empty() { other } else { one };
    let both = |mut one: std::collections::BTreeMap<_, _>, other: std::collections::BTreeMap<_, _>| {
        for (name, value) in other {
            one.entry(name).or_insert(value);
        }
        one
    };
    Description {
        description: declared.description.or(derived.description),
        input: declared.input.or(derived.input),
        output: declared.output.or(derived.output),
        signals: both(declared.signals, derived.signals),
        questions: if declared.questions.is_empty() { derived.questions } else { declared.questions },
        state: both(declared.state, derived.state),
        examples: if declared.examples.is_empty() { derived.examples } else { declared.examples },
        providers: or(declared.providers, derived.providers),
        workspaces: or(declared.workspaces, derived.workspaces),
    }
}

fn read(path: &Path) -> Result<Description, BuildError> {
    let text = std::fs::read_to_string(path).map_err(file(path))?;
    let refused = |reason: String| BuildError::Description { place: path.display().to_string(), reason };
    let json = match path.extension().is_some_and(|extension| extension == "toml") {
        true => {
            let table = text.parse::<toml::Table>().map_err(|error| refused(error.to_string()))?;
            serde_json::to_string(&table).map_err(|error| refused(error.to_string()))?
        }
        // As it is written, so that no number loses digits.
        false => text,
    };
    let description: Description = serde_json::from_str(&json).map_err(|error| refused(error.to_string()))?;
    description.check().map_err(|error| refused(error.to_string()))?;
    let mut given: Value = serde_json::from_str(&json).map_err(|error| refused(error.to_string()))?;
    if let Some(members) = given.as_object_mut() {
        // Editors are told by it which form the file has.
        members.remove("$schema");
    }
    let kept = serde_json::to_value(&description).map_err(|error| refused(error.to_string()))?;
    match lost(&given, &kept, "") {
        Some(key) => Err(refused(format!(
            "it has no `{key}`; it has description, input, output, signals, questions, state, examples, providers, \
             workspaces"
        ))),
        None => Ok(description),
    }
}

/// The first key that is not in what was read.
fn lost(given: &Value, kept: &Value, place: &str) -> Option<String> {
    let is_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given.iter().find_map(|(key, value)| {
            let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            match kept.get(key) {
                Some(kept) => lost(value, kept, &place),
                None if is_nothing(value) && KNOWN.contains(&key.as_str()) => None,
                None => Some(place),
            }
        }),
        (Value::Array(given), Value::Array(kept)) => {
            let pairs = given.iter().zip(kept).enumerate();
            pairs.into_iter().find_map(|(at, (given, kept))| lost(given, kept, &format!("{place}[{at}]")))
        }
        _ => None,
    }
}

/// What may be empty.
const KNOWN: [&str; 12] = [
    "description",
    "input",
    "output",
    "signals",
    "questions",
    "state",
    "examples",
    "providers",
    "workspaces",
    "schema",
    "choices",
    "prompt",
];

/// Whether its schemas can be used, and its examples fit.
fn check(description: &Description) -> Result<(), String> {
    let compiled = |what: &str, schema: Option<&Json>| {
        let schema = schema.map(Schema::compile).transpose();
        schema.map_err(|error| format!("the schema of {what} cannot be used: {error}"))
    };
    let input = compiled("the input", description.input.as_ref())?;
    compiled("the output", description.output.as_ref())?;
    for (name, signal) in &description.signals {
        if name.is_empty() {
            return Err("a signal has no name".to_owned());
        }
        compiled(&format!("the signal `{name}`"), signal.schema.as_ref())?;
    }
    for (name, value) in &description.state {
        compiled(&format!("the published value `{name}`"), value.schema.as_ref())?;
    }
    for question in &description.questions {
        compiled(&format!("the question `{}`", question.prompt), question.schema.as_ref())?;
    }
    for (number, Example { input: example, .. }) in (1..).zip(&description.examples) {
        let faults = input.iter().flat_map(|schema| schema.faults(example, 1));
        if let Some(fault) = faults.into_iter().next() {
            let place = if fault.path.is_empty() { String::new() } else { format!(" at {}", fault.path) };
            return Err(format!(
                "example {number} does not fit the schema of the input{place}: {}",
                fault.message
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: &str) -> Result<Option<Description>, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
        declared(dir.path(), None).map_err(|error| {
            assert_eq!(error.code(), "WF0621");
            error.to_string()
        })
    }

    #[test]
    fn a_declaration_is_the_same_in_both_forms() {
        let toml = r#"
description = "Reviews"
providers = ["reviewer"]
[input]
type = "object"
required = ["n"]
properties.n = { type = "integer", minimum = 1 }
[signals.approve]
description = "Lets it go on"
schema = { type = "boolean" }
[[examples]]
input = { n = 3 }
"#;
        let json = r#"{ "$schema": "x", "description": "Reviews", "providers": ["reviewer"], "state": {},
            "input": { "type": "object", "required": ["n"], "properties": { "n": { "type": "integer", "minimum": 1 } } },
            "signals": { "approve": { "description": "Lets it go on", "schema": { "type": "boolean" } } },
            "examples": [{ "input": { "n": 3 } }] }"#;
        let (toml, json) =
            (of("describe.toml", toml).unwrap().unwrap(), of("describe.json", json).unwrap().unwrap());
        assert!(toml.input.as_ref().unwrap().means(json.input.as_ref().unwrap()));
        assert_eq!(toml.signals.keys().collect::<Vec<_>>(), json.signals.keys().collect::<Vec<_>>());
        assert_eq!((toml.description, toml.providers), (json.description, json.providers));
        assert_eq!(of("other.toml", "x").unwrap(), None);
    }

    #[test]
    fn what_does_not_hold_is_refused() {
        for (text, why) in [
            ("{", "EOF"),
            (r#"{"inputs": {}}"#, "it has no `inputs`"),
            (r#"{"signals": {"a": {"shema": {}}}}"#, "it has no `signals.a.shema`"),
            (r#"{"signals": {"": {}}}"#, "has no name"),
            (r#"{"input": {"type": 7}}"#, "the schema of the input cannot be used"),
            (r##"{"output": {"$ref": "#/x"}}"##, "the schema of the output cannot be used"),
            (r#"{"state": {"a": {"schema": {"$ref": "http://a.org/x"}}}}"#, "another document"),
            (
                r#"{"input": {"type": "string"}, "examples": [{"input": "a"}, {"input": 1}]}"#,
                "example 2 does not fit",
            ),
        ] {
            let error = of("describe.json", text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(of("describe.toml", "= 1").unwrap_err().contains("TOML"));
        let dir = tempfile::tempdir().unwrap();
        for name in FILES {
            std::fs::write(dir.path().join(name), "{}").unwrap();
        }
        assert_eq!(declared(dir.path(), None).unwrap_err().code(), "WF0621");
    }

    #[test]
    fn what_is_declared_goes_before_what_is_derived() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("describe.toml"), "input = { type = \"string\" }\n").unwrap();
        let derived = Description {
            description: Some("of the code".to_owned()),
            input: Some(Json::from(Value::from(true))),
            ..Description::default()
        };
        let both = declared(dir.path(), Some(derived)).unwrap().unwrap();
        assert_eq!(both.description.as_deref(), Some("of the code"));
        assert_eq!(both.input.unwrap().as_str(), r#"{"type":"string"}"#);
    }

    #[test]
    fn what_a_plugin_asks_for_is_declared_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(wants(dir.path()).unwrap(), Wants::default());
        let path = dir.path().join("plugin.toml");
        std::fs::write(&path, "env = [{ name = \"LANG\", reason = \"speaks it\" }]\n").unwrap();
        let found = wants(dir.path()).unwrap();
        assert_eq!(found.env[0].name, "LANG");
        for text in ["envs = []", "env = [{ name = \"A\" }]", "= 1"] {
            std::fs::write(&path, text).unwrap();
            let error = wants(dir.path()).unwrap_err();
            assert!(error.code() == "WF0620" && error.to_string().contains("plugin.toml"), "{error}");
        }
        // Of a workflow it says nothing.
        let about = About { wants: found, ..About::default() };
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        about.write_into(&mut component, "x").unwrap();
        assert!(custom_sections(&component).all(|(name, _)| name != WANTS_SECTION.as_bytes()));
    }

    #[test]
    fn sections_are_written_once() {
        let about = About {
            metadata: [("version", "1.2.3".to_owned()), ("url", "https://a.org".to_owned())].into(),
            description: Some(Description { description: Some("x".to_owned()), ..Description::default() }),
            wants: Wants::default(),
        };
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        about.write_into(&mut component, "hello").unwrap();
        let once = component.clone();
        about.write_into(&mut component, "hello").unwrap();
        assert_eq!(component, once);
        assert_eq!(Description::of(&component).unwrap(), about.description);
        assert_eq!(metadata::of_component(&component), about.metadata);
        let name = custom_sections(&component).find(|(name, _)| *name == b"component-name").unwrap();
        assert_eq!(name.1, b"\0\x06\x05hello");
    }
}
