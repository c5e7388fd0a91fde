//! What is asked of a plugin, and what it answers.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::bindings::wfhost::plugin::types as host;
use super::{Failure, FailureKind, Result};

/// One attempt at a call.
#[derive(Clone, PartialEq, Debug)]
pub struct Call {
    /// Everything that an agent which reads text has to know: the prompt, the input, what form the answer has to
    /// have, corrections.
    pub message: String,
    /// What the workflow wrote.
    pub prompt: String,
    /// Data beside the prompt.
    pub input: Option<Value>,
    /// The JSON Schema that the answer has to fit.
    pub schema: Option<Value>,
    /// What the call sets besides.
    pub options: Option<Value>,
    /// Of the call, else of the configuration.
    pub model: Option<String>,
    /// The conversation to go on with, by an id that the plugin gave out ([`Reply::session`]).
    pub session: Option<String>,
    /// What was asked and answered before, oldest first, if the host keeps conversations.
    pub history: Vec<Exchange>,
    /// The same for every attempt at this step, and for no other step.
    pub key: String,
    /// The id of the run.
    pub run: String,
    /// The number of the step.
    pub step: u64,
    /// Counted from 1.
    pub attempt: u32,
    /// What the attempt before reported last by [`heartbeat`](super::heartbeat).
    pub heartbeat: Option<Value>,
}

/// One question of a conversation and its answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchange {
    /// The question.
    pub said: String,
    /// Its answer.
    pub answered: String,
}

impl Call {
    /// The input as a type of the plugin's.
    ///
    /// # Errors
    ///
    /// `Rejected` if it does not fit.
    pub fn input_as<T: DeserializeOwned>(&self) -> Result<T> {
        from_value("input", self.input.as_ref())
    }

    /// The options as a type of the plugin's. None are `{}`.
    ///
    /// # Errors
    ///
    /// `Rejected` if they do not fit.
    pub fn options_as<T: DeserializeOwned>(&self) -> Result<T> {
        let none = Value::Object(serde_json::Map::new());
        from_value("options", Some(self.options.as_ref().unwrap_or(&none)))
    }
}

fn from_value<T: DeserializeOwned>(what: &str, value: Option<&Value>) -> Result<T> {
    T::deserialize(value.unwrap_or(&Value::Null))
        .map_err(|error| Failure::new(FailureKind::Rejected, format!("the {what} does not fit: {error}")))
}

impl From<host::Call> for Call {
    fn from(call: host::Call) -> Self {
        // The host hands over JSON only.
        let value = |json: Option<String>| json.and_then(|json| serde_json::from_str(&json).ok());
        let exchange = |host::Exchange { said, answered }| Exchange { said, answered };
        Self {
            message: call.message,
            prompt: call.prompt,
            input: value(call.input),
            schema: value(call.schema),
            options: value(call.options),
            model: call.model,
            session: call.session,
            history: call.history.into_iter().map(exchange).collect(),
            key: call.key,
            run: call.run,
            step: call.step,
            attempt: call.attempt,
            heartbeat: value(call.heartbeat),
        }
    }
}

/// An answer with what belongs to it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reply {
    /// The answer.
    pub output: Value,
    /// The conversation that it ends, by an id of the plugin's own.
    pub session: Option<String>,
    /// The model that answered.
    pub model: Option<String>,
    /// What it consumed.
    pub usage: Option<Usage>,
}

impl Reply {
    /// An answer without anything beside it.
    pub fn new(output: impl Into<Value>) -> Self {
        Self { output: output.into(), ..Self::default() }
    }

    /// Says what the answer consumed.
    #[must_use]
    pub fn usage(self, usage: Usage) -> Self {
        Self { usage: Some(usage), ..self }
    }
}

/// What an answer consumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Tokens that went in.
    pub input_tokens: u64,
    /// Tokens that came out.
    pub output_tokens: u64,
    /// Input tokens that the other side had in its cache.
    pub cached_tokens: u64,
    /// US dollars, in millionths. 0 if it is not known.
    pub cost_micros: u64,
}

impl From<Usage> for host::Usage {
    fn from(usage: Usage) -> Self {
        let Usage { input_tokens, output_tokens, cached_tokens, cost_micros } = usage;
        Self { input_tokens, output_tokens, cached_tokens, cost_micros }
    }
}
