//! What an agent answered.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    failure::FailureKind,
};

/// An agent's answer with its session, usage and provider.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use wfhost::{Result, agent};
/// # async fn example() -> Result<()> {
/// let first = agent("Read the code").reply().await?;
/// let mut next = agent("Now explain it");
/// if let Some(session) = &first.session {
///     next = next.session(session);
/// }
/// let second = next.text().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reply {
    /// A JSON string if the agent answered with plain text.
    pub output: Value,
    /// The id of the conversation, to continue it: [`Agent::session`](crate::Agent::session).
    #[serde(default)]
    pub session: Option<String>,
    /// The model that answered.
    #[serde(default)]
    pub model: Option<String>,
    /// The usage of the answer, if the provider reports it.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// The provider that answered.
    #[serde(default)]
    pub provider: String,
    /// Whether the call had a schema: the host has read the answer as that wants it, and text in it is text.
    #[serde(skip)]
    fits: bool,
}

impl Reply {
    /// The answer as text: a string as it is, anything else as JSON.
    pub fn text(&self) -> String {
        match &self.output {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// The same as the answer to a call with a schema.
    pub(crate) fn of_schema(self) -> Self {
        Self { fits: true, ..self }
    }

    /// The answer as data. If the agent answered with text, the text is parsed as JSON, unless a schema of the call
    /// wants text.
    ///
    /// # Errors
    ///
    /// [`FailureKind::InvalidOutput`] if the answer does not match the type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        if self.fits
            && let Ok(value) = T::deserialize(&self.output)
        {
            return Ok(value);
        }
        let mismatch = match &self.output {
            Value::String(text) => match serde_json::from_str(text) {
                Ok(value) => return Ok(value),
                // A type that is made of a string takes the text itself.
                Err(error) => match T::deserialize(&self.output) {
                    Ok(value) => return Ok(value),
                    Err(_) => error,
                },
            },
            output => match T::deserialize(output) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            },
        };
        Err(Error::new(
            FailureKind::InvalidOutput,
            format!("the answer does not fit: {mismatch}; it was: {}", excerpt(&self.text())),
        ))
    }
}

/// The beginning of a text, for error messages.
fn excerpt(text: &str) -> String {
    const LONGEST: usize = 200;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The usage of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Usage {
    /// Input tokens.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Input tokens that were served from a cache.
    pub cached_tokens: u64,
    /// Millionths of a US dollar.
    pub cost_micros: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reply(output: Value) -> Reply {
        serde_json::from_value(json!({"output": output, "provider": "test"})).unwrap()
    }

    #[test]
    fn text_is_the_string_itself_and_other_json_as_it_is_written() {
        assert_eq!(reply(json!("a \"b\"")).text(), "a \"b\"");
        assert_eq!(reply(json!({"a": [1, null]})).text(), r#"{"a":[1,null]}"#);
    }

    #[test]
    fn json_is_read_from_data_and_from_text() {
        assert_eq!(reply(json!([1, 2])).json::<Vec<u8>>().unwrap(), [1, 2]);
        assert_eq!(reply(json!(" [1, 2] ")).json::<Vec<u8>>().unwrap(), [1, 2]);
        assert_eq!(reply(json!("plain")).json::<String>().unwrap(), "plain");
        assert_eq!(reply(json!("plain")).json::<Value>().unwrap(), json!("plain"));
    }

    #[test]
    fn text_that_a_schema_wants_stays_text() {
        assert_eq!(reply(json!("5")).json::<Value>().unwrap(), json!(5));
        assert_eq!(reply(json!("5")).of_schema().json::<Value>().unwrap(), json!("5"));
        assert_eq!(reply(json!("\"a\"")).of_schema().json::<String>().unwrap(), "\"a\"");
        assert_eq!(reply(json!("[1]")).of_schema().json::<Vec<u8>>().unwrap(), [1]);
        assert!(reply(json!("sorry")).of_schema().json::<u8>().is_err());
    }

    #[test]
    fn an_answer_that_does_not_fit_is_shown() {
        let error = reply(json!("sorry")).json::<Vec<u8>>().unwrap_err();
        assert_eq!(error.kind(), FailureKind::InvalidOutput);
        assert_eq!(
            error.to_string(),
            "the answer does not fit: expected value at line 1 column 1; it was: sorry"
        );
        let long = "ä".repeat(1000);
        let error = reply(json!(long)).json::<u8>().unwrap_err();
        assert!(error.to_string().ends_with("ä..."));
    }

    #[test]
    fn fields_that_a_later_host_adds_do_no_harm() {
        let reply: Reply = serde_json::from_value(json!({
            "output": "x", "session": null, "model": "m", "provider": "p", "new": 1,
            "usage": {"input_tokens": 3, "new": 2}
        }))
        .unwrap();
        assert_eq!(reply.usage.unwrap().input_tokens, 3);
    }
}
