//! What modules say of themselves, and whether what a run is given fits that.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use wfhost_core::{DescribeError, Description, Digest, Json, RunId};
use wfhost_runtime::Module;
use wfhost_schema::{self as schema, Fault, Schema};
use wfhost_store::{RunInfo, SharedStore};
use wfhost_world::lock;

use crate::family::latest_round;
use crate::host::{Host, HostError};

/// What a module says; none if it says nothing. An error if that cannot be read.
pub type Said = Result<Option<Arc<Described>>, DescribeError>;

/// Modules whose descriptions are kept in memory, each of a megabyte at most.
const KEPT: usize = 128;
/// Faults that are told.
const FAULTS: usize = 5;

/// A description, with its schemas as far as they were needed.
pub struct Described {
    pub description: Description,
    schemas: Mutex<HashMap<Part, Result<Arc<Schema>, String>>>,
}

/// What of a workflow a schema is of.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Part {
    Input,
    /// The payload of the signal of this name.
    Signal(String),
}

/// Something that does not fit what the module says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfit {
    pub workflow: String,
    pub part: Part,
    /// What was given. For an input that was left out it is an empty object, as for the program.
    pub given: Json,
    pub faults: Vec<Fault>,
    /// An input that fits, as the module has it.
    pub example: Option<Json>,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::Input => write!(f, "the input does not match the schema of `{}`", self.workflow),
            Part::Signal(name) => {
                write!(
                    f,
                    "the payload does not match the schema of the signal `{name}` of `{}`",
                    self.workflow
                )
            }
        }
    }
}

impl fmt::Debug for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Described").field("description", &self.description).finish_non_exhaustive()
    }
}

impl Described {
    pub fn new(description: Description) -> Self {
        Self { description, schemas: Mutex::default() }
    }

    /// What a component says of itself.
    pub fn of(component: &[u8]) -> Said {
        Ok(Description::of(component)?.map(|description| Arc::new(Self::new(description))))
    }

    /// The schema of a part, if it has one.
    ///
    /// # Errors
    ///
    /// It has one that cannot be used.
    pub async fn schema(&self, part: &Part) -> Result<Option<Arc<Schema>>, String> {
        let text = match part {
            Part::Input => self.description.input.as_ref(),
            Part::Signal(name) => {
                self.description.signals.get(name).and_then(|signal| signal.schema.as_ref())
            }
        };
        let Some(text) = text else { return Ok(None) };
        let known = lock(&self.schemas).get(part).cloned();
        let schema = match known {
            Some(schema) => schema,
            None => {
                let read = Schema::read(text).await;
                lock(&self.schemas).insert(part.clone(), read.clone());
                read
            }
        };
        schema.map(Some)
    }

    /// Whether a document fits a part. A schema that cannot be used refuses nothing.
    ///
    /// # Errors
    ///
    /// It does not.
    pub async fn check(&self, workflow: &str, part: Part, given: &Json) -> Result<(), Box<Unfit>> {
        let Ok(Some(schema)) = self.schema(&part).await else { return Ok(()) };
        let mut unfit = faults(&schema, given).await;
        let mut shown = given.clone();
        // A run without input has `null`; a struct whose fields all have defaults takes that as `{}`.
        if !unfit.is_empty() && part == Part::Input && given.value().is_null() {
            shown = Json::from(serde_json::json!({}));
            unfit = faults(&schema, &shown).await;
        }
        if unfit.is_empty() {
            return Ok(());
        }
        let example = self.description.examples.first().filter(|_| part == Part::Input);
        let example = example.map(|example| example.input.clone());
        Err(Box::new(Unfit { workflow: workflow.to_owned(), part, given: shown, faults: unfit, example }))
    }
}

/// What is wrong with a document.
async fn faults(schema: &Arc<Schema>, document: &Json) -> Vec<Fault> {
    let document = document.clone();
    schema::with(schema, move |schema| schema.faults(&document, FAULTS)).await
}

/// What is known of modules.
#[derive(Debug, Default)]
pub(crate) struct Descriptions(Mutex<HashMap<Digest, Said>>);

impl Descriptions {
    fn get(&self, module: Digest) -> Option<Said> {
        lock(&self.0).get(&module).cloned()
    }

    /// Keeps what a module says.
    pub fn learn(&self, module: Digest, component: &[u8]) -> Said {
        if let Some(said) = self.get(module) {
            return said;
        }
        let said = Described::of(component);
        let mut kept = lock(&self.0);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(module, said.clone());
        said
    }
}

/// What a module of a store says of itself; nothing if it is not there.
pub async fn described(store: &SharedStore, module: Digest) -> Result<Said, HostError> {
    Ok(store.module(module).await?.map_or(Ok(None), |bytes| Described::of(&bytes)))
}

/// Whether a signal's payload fits what the module of the run says of it.
///
/// # Errors
///
/// It does not, or the store failed.
pub async fn check_signal(
    store: &SharedStore,
    run: &RunId,
    name: &str,
    payload: &Json,
) -> Result<Said, HostError> {
    let info = latest(store, run).await?;
    let said = described(store, info.module).await?;
    check_said(&said, &info.workflow, name, payload).await?;
    Ok(said)
}

/// The run that gets what is sent to this one: of several rounds the latest, which may have another module.
///
/// # Errors
///
/// There is no such run, or the store failed.
pub async fn latest(store: &SharedStore, run: &RunId) -> Result<RunInfo, HostError> {
    let info = store.run(run).await?.ok_or_else(|| HostError::NoSuchRun(run.clone()))?;
    Ok(latest_round(store.as_ref(), info).await?)
}

async fn check_said(said: &Said, workflow: &str, name: &str, payload: &Json) -> Result<(), HostError> {
    match said {
        Ok(Some(said)) => Ok(said.check(workflow, Part::Signal(name.to_owned()), payload).await?),
        _ => Ok(()),
    }
}

impl Host {
    /// What a module of the store says of itself. It is read once.
    pub async fn described(&self, module: Digest) -> Result<Said, HostError> {
        if let Some(said) = self.descriptions().get(module) {
            return Ok(said);
        }
        let bytes = self.store().module(module).await?;
        Ok(bytes.map_or(Ok(None), |bytes| self.descriptions().learn(module, &bytes)))
    }

    /// Whether something that a run of a module is to be given fits what the module says of it.
    ///
    /// # Errors
    ///
    /// It does not, or the store failed.
    pub async fn check(&self, module: &Module, part: Part, given: &Json) -> Result<(), HostError> {
        match self.described(module.digest).await? {
            Ok(Some(said)) => Ok(said.check(&module.name, part, given).await?),
            _ => Ok(()),
        }
    }

    /// Whether a signal's payload fits what the module of the run says of it.
    ///
    /// # Errors
    ///
    /// It does not, or there is no such run.
    pub async fn check_signal(&self, run: &RunId, name: &str, payload: &Json) -> Result<(), HostError> {
        let info = latest(self.store(), run).await?;
        let said = self.described(info.module).await?;
        check_said(&said, &info.workflow, name, payload).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn described(input: &Value) -> Described {
        let signal = wfhost_core::DescribedValue {
            schema: Some(Json::from(
                json!({ "type": "object", "additionalProperties": false, "properties": { "ok": {} } }),
            )),
            ..Default::default()
        };
        Described::new(Description {
            input: Some(Json::from(input.clone())),
            signals: [("go".to_owned(), signal)].into(),
            ..Description::default()
        })
    }

    async fn refused(described: &Described, part: Part, given: Value) -> Option<Unfit> {
        described.check("w", part, &Json::from(given)).await.err().map(|unfit| *unfit)
    }

    #[tokio::test]
    async fn an_input_that_was_left_out_is_an_empty_object() {
        let optional = described(&json!({ "type": "object", "properties": { "n": { "type": "integer" } } }));
        assert_eq!(refused(&optional, Part::Input, Value::Null).await, None);
        let needed = described(&json!({ "type": "object", "required": ["n"] }));
        let unfit = refused(&needed, Part::Input, Value::Null).await.unwrap();
        assert_eq!((unfit.given.as_str(), unfit.faults[0].path.as_str()), ("{}", ""));
        assert!(unfit.faults[0].message.contains("\"n\" is a required"));
        assert_eq!(refused(&described(&json!({ "type": "null" })), Part::Input, Value::Null).await, None);
    }

    #[tokio::test]
    async fn a_signal_that_is_not_declared_carries_anything() {
        let described = described(&json!(true));
        let go = || Part::Signal("go".to_owned());
        assert_eq!(refused(&described, go(), json!({ "ok": 1 })).await, None);
        let unfit = refused(&described, go(), json!({ "ok": 1, "no": 2 })).await.unwrap();
        assert_eq!(unfit.faults[0].member.as_deref(), Some("no"));
        assert!(refused(&described, go(), Value::Null).await.is_some(), "null is no object");
        assert_eq!(refused(&described, Part::Signal("other".to_owned()), json!([])).await, None);
    }

    #[tokio::test]
    async fn a_schema_that_cannot_be_used_refuses_nothing() {
        let defs: serde_json::Map<_, _> = (0..40)
            .map(|n| {
                let next = json!({ "$ref": format!("#/$defs/a{}", n + 1) });
                (format!("a{n}"), json!({ "allOf": [next, next] }))
            })
            .chain([("a40".to_owned(), json!({ "type": "string" }))])
            .collect();
        let explodes = described(&json!({ "$ref": "#/$defs/a0", "$defs": defs }));
        assert!(explodes.schema(&Part::Input).await.err().unwrap().contains("schemas"));
        assert_eq!(refused(&explodes, Part::Input, json!(1)).await, None);
    }
}
