//! What a workflow says of itself, made of its types. `#[workflow(describe)]` writes the calls, which are compiled
//! only when `wfhost build` asks for them: nothing of this is in the module that is shipped.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// What is said. It is written as JSON of the form `wfhost/describe/1`, without the name of the form.
#[derive(Default)]
pub struct Says {
    said: Map<String, Value>,
    problem: Option<String>,
}

/// The schema of something that is read.
pub fn schema_of_input<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<T>().into()
}

/// The schema of something that is written.
pub fn schema_of_output<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>().into()
}

/// What a workflow returns, as far as there is a schema for it.
#[diagnostic::on_unimplemented(
    message = "`#[wfhost::workflow(describe)]` makes a schema of the result",
    note = "derive `schemars::JsonSchema` for the type within `wfhost::Result`"
)]
pub trait DescribedOutcome {
    fn schema() -> Value;
}

impl<R: JsonSchema, E> DescribedOutcome for Result<R, E> {
    fn schema() -> Value {
        schema_of_output::<R>()
    }
}

/// The schema of what a workflow returns.
pub fn schema_of_outcome<O: DescribedOutcome>() -> Value {
    O::schema()
}

impl Says {
    /// Something that is there once.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.said.insert(name.to_owned(), value);
        self
    }

    /// The documentation of the function.
    #[must_use]
    pub fn about(self, lines: &[&str]) -> Self {
        let lines: Vec<_> = lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
        let text = lines.join("\n").trim().to_owned();
        if text.is_empty() { self } else { self.with("description", text.into()) }
    }

    /// A signal or a published value.
    #[must_use]
    pub fn value(mut self, list: &str, name: &str, schema: Value, about: &str) -> Self {
        let mut value = json!({ "schema": schema });
        if !about.is_empty() {
            value["description"] = about.into();
        }
        let all = self.said.entry(list).or_insert_with(|| json!({}));
        if let Some(all) = all.as_object_mut()
            && all.insert(name.to_owned(), value).is_some()
        {
            self.problem = Some(format!("`{name}` is there twice"));
        }
        self
    }

    /// A provider or a workspace.
    #[must_use]
    pub fn name(self, list: &str, name: &str) -> Self {
        self.push(list, name.into())
    }

    /// An input, as JSON.
    #[must_use]
    pub fn example(mut self, text: &str) -> Self {
        match serde_json::from_str::<Value>(text) {
            Ok(input) => self.push("examples", json!({ "input": input })),
            Err(error) => {
                self.problem = Some(format!("the example {text:?} is no JSON: {error}"));
                self
            }
        }
    }

    fn push(mut self, list: &str, value: Value) -> Self {
        let all = self.said.entry(list).or_insert_with(|| json!([]));
        if let Some(all) = all.as_array_mut() {
            all.push(value);
        }
        self
    }

    /// Where the JSON stands in memory: the address in the upper half, the length in bytes in the lower one.
    pub fn place(self) -> u64 {
        let text = match self.problem {
            Some(problem) => json!({ "problem": problem }).to_string(),
            None => Value::Object(self.said).to_string(),
        };
        let text: &'static str = Box::leak(text.into_boxed_str());
        (text.as_ptr() as usize as u64) << 32 | text.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Deserialize, Serialize, JsonSchema)]
    struct Both {
        /// Whose
        name: String,
        #[serde(default)]
        times: u8,
    }

    #[test]
    fn what_has_a_default_need_not_be_given_and_is_always_there_in_the_result() {
        assert_eq!(schema_of_input::<Both>()["required"], json!(["name"]));
        assert_eq!(schema_of_outcome::<crate::Result<Both>>()["required"], json!(["name", "times"]));
        assert_eq!(schema_of_input::<Both>()["properties"]["name"]["description"], "Whose");
    }

    #[test]
    fn what_is_wrong_is_said_instead() {
        let said = Says::default()
            .about(&[" Greets", " people"])
            .value("signals", "go", json!(true), "")
            .name("providers", "a")
            .example("{}");
        assert_eq!(
            Value::Object(said.said),
            json!({ "description": "Greets\npeople", "signals": { "go": { "schema": true } }, "providers": ["a"],
                "examples": [{ "input": {} }] })
        );
        assert!(Says::default().example("{").problem.unwrap().contains("no JSON"));
        let twice = Says::default().value("state", "a", json!(1), "").value("state", "a", json!(1), "");
        assert!(twice.problem.unwrap().contains("twice"));
    }
}
