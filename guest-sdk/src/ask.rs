//! Questions to people.

use std::{future::IntoFuture, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    bindings::wfhost::workflow::signal as host,
    error::{Error, Result},
    signal::write,
    step::{Step, decode},
    time::millis,
};

/// Asks a person and waits for the answer: an approval, a choice, any input.
///
/// `wfhost inbox` lists open questions; `wfhost answer`, `approve` and `deny` close them.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use std::time::Duration;
/// # use wfhost::{FailureKind, Result, ask};
/// # async fn example() -> Result<()> {
/// let colour: String = ask("Which colour shall the bike shed have?")
///     .choices(["red", "green"])
///     .timeout(Duration::from_secs(3600))
///     .json()
///     .await?;
///
/// let approved = match ask("Ship it?").details(wfhost::json!({"version": "1.2"})).await {
///     Ok(_) => true,
///     Err(error) if error.kind() == FailureKind::Rejected => false,
///     Err(error) => return Err(error),
/// };
/// # Ok(())
/// # }
/// ```
pub fn ask(prompt: impl Into<String>) -> Ask {
    Ask {
        question: host::Question { prompt: prompt.into(), schema: None, choices: Vec::new(), details: None },
        timeout: None,
        problem: None,
    }
}

/// A builder of a question: see [`ask()`].
#[derive(Clone, Debug)]
#[must_use = "a question is not asked until it is awaited"]
pub struct Ask {
    question: host::Question,
    timeout: Option<Duration>,
    problem: Option<String>,
}

impl Ask {
    /// A JSON Schema that the answer has to match. The host refuses other answers.
    pub fn schema(mut self, schema: Value) -> Self {
        self.question.schema = Some(schema.to_string());
        self
    }

    /// The answer has to match the JSON Schema of this type.
    #[cfg(feature = "schemars")]
    pub fn schema_of<T: schemars::JsonSchema>(self) -> Self {
        self.schema(schemars::schema_for!(T).into())
    }

    /// The answer has to be one of these.
    pub fn choices(mut self, choices: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.question.choices = choices.into_iter().map(Into::into).collect();
        self
    }

    /// Information for the person who answers.
    pub fn details(mut self, details: impl Serialize) -> Self {
        match write(details, "details") {
            Ok(details) => self.question.details = Some(details),
            Err(error) => self.problem = Some(format!("{error:#}")),
        }
        self
    }

    /// Fails after this time with [`TimedOut`](crate::FailureKind::TimedOut), and withdraws the
    /// question.
    pub fn timeout(mut self, length: Duration) -> Self {
        self.timeout = Some(length);
        self
    }

    /// Asks the question, and parses the answer as this type.
    ///
    /// # Errors
    ///
    /// [`Rejected`](crate::FailureKind::Rejected) if the person denies the question,
    /// [`TimedOut`](crate::FailureKind::TimedOut), and
    /// [`InvalidOutput`](crate::FailureKind::InvalidOutput) if the answer does not match the type.
    pub fn json<T: DeserializeOwned>(self) -> Step<T> {
        Step::new(
            move || match self.problem {
                None => Ok(host::start_ask(&self.question, self.timeout.map(millis))),
                Some(problem) => Err(Error::rejected(problem)),
            },
            decode,
        )
    }
}

impl IntoFuture for Ask {
    type Output = Result<Value>;
    type IntoFuture = Step<Value>;

    fn into_future(self) -> Step<Value> {
        self.json()
    }
}
