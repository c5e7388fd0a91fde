//! Agent calls.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    bindings::wfhost::workflow::agent as host,
    error::{Error, Result},
    failure::{FailureKind, UNKNOWN_OUTCOME},
    policy::{Limits, Retry},
    reply::Reply,
    step::Step,
    time::millis,
};

/// Calls an agent: a model, a coding agent, a service, a person, or any other provider of the host.
///
/// Unset options are taken from the host's configuration. The call ends with
/// [`text`](Agent::text), [`json`](Agent::json) or [`reply`](Agent::reply).
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// use std::time::Duration;
///
/// use wfhost::{Limits, Result, Retry, agent};
///
/// # async fn example() -> Result<()> {
/// let titles: Vec<String> = agent("Five titles for this text, as a JSON array of strings")
///     .input(wfhost::json!({"text": "..."}))
///     .label("titles")
///     .retry(Retry::attempts(5))
///     .limits(Limits::new().total(Duration::from_secs(300)))
///     .json()
///     .await?;
/// # Ok(())
/// # }
/// ```
pub fn agent(prompt: impl Into<String>) -> Agent {
    Agent { request: Box::new(Request { prompt: prompt.into(), ..Request::default() }) }
}

/// A builder of an agent call: see [`agent()`].
#[derive(Clone, Debug)]
#[must_use = "an agent is asked by `.text()`, `.json()` or `.reply()`"]
pub struct Agent {
    /// It is large, and handed on often.
    request: Box<Request>,
}

#[derive(Clone, Debug, Default)]
struct Request {
    prompt: String,
    input: Option<String>,
    providers: Vec<String>,
    model: Option<String>,
    schema: Option<String>,
    session: Option<String>,
    workspace: Option<String>,
    label: Option<String>,
    group: Option<String>,
    retry: Option<Retry>,
    limits: Option<Limits>,
    cache: Option<(String, Option<Duration>)>,
    options: Option<String>,
    fork: bool,
    once: bool,
    /// What could not be written as JSON, and why. The call fails with it.
    problem: Option<String>,
}

impl Agent {
    /// Structured data in addition to the prompt.
    pub fn input(mut self, input: impl Serialize) -> Self {
        self.request.input = self.write("input", input);
        self
    }

    /// The model [default: the provider's].
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.request.model = Some(model.into());
        self
    }

    /// The provider that answers; by default, the run's default provider.
    pub fn provider(self, provider: impl Into<String>) -> Self {
        self.providers([provider])
    }

    /// The providers that answer: attempt n goes to the n-th, the last one gets the rest.
    pub fn providers(mut self, providers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.request.providers = providers.into_iter().map(Into::into).collect();
        self
    }

    /// A JSON Schema that the answer has to match. The host enforces it.
    ///
    /// ```no_run
    /// # extern crate wfhost_sdk as wfhost;
    /// # use wfhost::{Result, agent, json};
    /// # async fn example() -> Result<()> {
    /// let sure: f64 = agent("How sure are you, from 0 to 1?")
    ///     .schema(json!({"type": "number", "minimum": 0, "maximum": 1}))
    ///     .json()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn schema(mut self, schema: Value) -> Self {
        self.request.schema = Some(schema.to_string());
        self
    }

    /// The answer has to match the JSON Schema of this type.
    ///
    /// ```no_run
    /// # extern crate wfhost_sdk as wfhost;
    /// # use wfhost::{Result, agent};
    /// #[derive(serde::Deserialize, schemars::JsonSchema)]
    /// struct Review {
    ///     accepted: bool,
    ///     /// What has to be changed.
    ///     notes: Vec<String>,
    /// }
    ///
    /// # async fn example() -> Result<()> {
    /// let review: Review = agent("Review it").schema_of::<Review>().json().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "schemars")]
    pub fn schema_of<T: schemars::JsonSchema>(self) -> Self {
        self.schema(schemars::schema_for!(T).into())
    }

    /// Continues an earlier conversation: [`Reply::session`] of its last answer.
    pub fn session(mut self, session: impl Into<String>) -> Self {
        self.request.session = Some(session.into());
        self
    }

    /// Forks an earlier conversation: the call starts a new conversation from that point, and the
    /// original is unchanged. Agents that cannot fork continue the conversation itself.
    pub fn fork(mut self, session: impl Into<String>) -> Self {
        self.request.fork = true;
        self.session(session)
    }

    /// The workspace of the agent, by its name in the host's configuration.
    pub fn workspace(mut self, workspace: impl Into<String>) -> Self {
        self.request.workspace = Some(workspace.into());
        self
    }

    /// A label for people; by default, the beginning of the prompt.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.request.label = Some(label.into());
        self
    }

    /// Calls of the same group share a concurrency limit.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.request.group = Some(group.into());
        self
    }

    /// When and how often a failed attempt is retried; by default, the host's policy.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.request.retry = Some(retry);
        self
    }

    /// Makes the call at most once, for effects that must not happen twice: there is a single
    /// attempt, and if the host dies during it, the call fails with
    /// [`Failure::is_outcome_unknown`](crate::Failure::is_outcome_unknown) instead of being made again.
    /// By default, a call in flight is made again, with the same idempotency key. Takes precedence
    /// over [`retry`](Agent::retry).
    ///
    /// ```no_run
    /// # extern crate wfhost_sdk as wfhost;
    /// # use wfhost::{Result, agent};
    /// # async fn example() -> Result<()> {
    /// match agent("charge order 17").once().text().await {
    ///     Err(error) if error.failure().is_some_and(|failure| failure.is_outcome_unknown()) => {
    ///         wfhost::ask("Was order 17 charged?").json::<bool>().await?;
    ///     }
    ///     result => drop(result?),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn once(mut self) -> Self {
        self.request.once = true;
        self
    }

    /// Time limits; by default, those of the host.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.request.limits = Some(limits);
        self
    }

    /// Reuses the answer to an equal request of an earlier run with the same version, if it is not
    /// older than this.
    ///
    /// ```no_run
    /// # extern crate wfhost_sdk as wfhost;
    /// # use std::time::Duration;
    /// # use wfhost::{Result, agent};
    /// # async fn example() -> Result<()> {
    /// let summary = agent("Summarise RFC 8259")
    ///     .cache("v1", Duration::from_secs(30 * 24 * 3600))
    ///     .text()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn cache(mut self, version: impl Into<String>, age: impl Into<Option<Duration>>) -> Self {
        self.request.cache = Some((version.into(), age.into()));
        self
    }

    /// An object that is passed to the provider unchanged.
    pub fn options(mut self, options: impl Serialize) -> Self {
        self.request.options = self.write("options", options);
        self
    }

    /// Makes the call. The answer is text: the content of a JSON string, or other JSON as text.
    ///
    /// # Errors
    ///
    /// The host's failure if there is no answer: [`Error::kind`].
    pub fn text(self) -> Step<String> {
        self.ask(|json| text(&json))
    }

    /// Makes the call. The answer is data: if the agent answers with text, the text is parsed as JSON, unless a
    /// [`schema`](Agent::schema) wants text.
    ///
    /// # Errors
    ///
    /// The host's failure if there is no answer, and [`FailureKind::InvalidOutput`] if the answer
    /// does not match the type.
    pub fn json<T: DeserializeOwned>(self) -> Step<T> {
        match self.request.schema {
            Some(_) => self.ask(|json| parse(&json)?.of_schema().json()),
            None => self.ask(|json| parse(&json)?.json()),
        }
    }

    /// Makes the call. Returns the answer with its session, usage and provider.
    ///
    /// # Errors
    ///
    /// The host's failure if there is no answer: [`Error::kind`].
    pub fn reply(self) -> Step<Reply> {
        match self.request.schema {
            Some(_) => self.ask(|json| Ok(parse(&json)?.of_schema())),
            None => self.ask(|json| parse(&json)),
        }
    }

    fn ask<T>(self, read: fn(String) -> Result<T>) -> Step<T> {
        Step::new(move || Ok(host::start(&self.request.into_host()?)), read)
    }

    fn write(&mut self, what: &str, value: impl Serialize) -> Option<String> {
        match serde_json::to_string(&value) {
            Ok(json) => Some(json),
            Err(error) => {
                self.request.problem = Some(format!("the {what} cannot be written: {error}"));
                None
            }
        }
    }
}

/// The output of a reply as text.
fn text(json: &str) -> Result<String> {
    match leading_text(json) {
        Some(text) => Ok(text),
        None => Ok(match parse(json)?.output {
            Value::String(text) => text,
            data => data.to_string(),
        }),
    }
}

/// The output of a reply that begins with it, if it is text: nearly always, and then the rest need
/// not be read.
fn leading_text(json: &str) -> Option<String> {
    let output = json.strip_prefix(r#"{"output":"#)?;
    serde_json::Deserializer::from_str(output).into_iter().next()?.ok()
}

fn parse(json: &str) -> Result<Reply> {
    serde_json::from_str(json).map_err(|error| {
        Error::new(FailureKind::InvalidOutput, format!("the host's reply cannot be read: {error}"))
    })
}

/// The options with `fork`.
fn forking(options: Option<&str>) -> Result<String> {
    let options = options.map_or_else(|| Ok(Value::Object(serde_json::Map::new())), serde_json::from_str);
    match options {
        Ok(Value::Object(mut members)) => {
            members.insert("fork".to_owned(), true.into());
            Ok(Value::Object(members).to_string())
        }
        _ => Err(Error::rejected("the options of a call are an object")),
    }
}

impl Request {
    fn into_host(self: Box<Self>) -> Result<host::Request> {
        if let Some(problem) = self.problem {
            return Err(Error::rejected(problem));
        }
        let retry = match self.once {
            true => Some(Retry::never().fatal([UNKNOWN_OUTCOME])),
            false => self.retry,
        };
        let options = match self.fork {
            true => Some(forking(self.options.as_deref())?),
            false => self.options,
        };
        Ok(host::Request {
            prompt: self.prompt,
            input: self.input,
            providers: self.providers,
            model: self.model,
            schema: self.schema,
            session: self.session,
            workspace: self.workspace,
            label: self.label,
            group: self.group,
            retry: retry.map(Into::into),
            limits: self.limits.map(Into::into),
            cache: self.cache.map(|(version, age)| host::Caching { version, ttl: age.map(millis) }),
            options,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_reply_is_its_output_wherever_it_stands() {
        for (json, expected) in [
            (r#"{"output":"a","provider":"p"}"#, "a"),
            (r#"{"output":"","session":"s","provider":"p"}"#, ""),
            (r#"{"output":"\"a\"\n\u00e9 é","provider":"p"}"#, "\"a\"\né é"),
            (r#"{ "output" : "a", "provider": "p" }"#, "a"),
            (r#"{"provider":"p","output":"a"}"#, "a"),
            (r#"{"output":{"a":1},"provider":"p"}"#, r#"{"a":1}"#),
            (r#"{"output":null,"provider":"p"}"#, "null"),
        ] {
            assert_eq!(text(json).unwrap(), expected, "{json}");
        }
        for broken in ["", "{", r#"{"output":"a"#, r#"{"output":"\q","provider":"p"}"#, r#"{"provider":"p"}"#]
        {
            assert_eq!(text(broken).unwrap_err().kind(), FailureKind::InvalidOutput, "{broken}");
        }
    }

    #[test]
    fn all_that_was_said_reaches_the_host() {
        let request = agent("p")
            .input(serde_json::json!({"a": 1}))
            .providers(["x", "y"])
            .model("m")
            .schema(serde_json::json!({"type": "string"}))
            .session("s")
            .workspace("w")
            .label("l")
            .group("g")
            .retry(Retry::attempts(3))
            .limits(Limits::new().total(Duration::from_secs(2)))
            .cache("v", Duration::from_secs(1))
            .options(serde_json::json!({"t": 0}))
            .request
            .into_host()
            .unwrap();
        assert_eq!(request.prompt, "p");
        assert_eq!(request.input.as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(request.providers, ["x", "y"]);
        assert_eq!(request.model.as_deref(), Some("m"));
        assert_eq!(request.schema.as_deref(), Some(r#"{"type":"string"}"#));
        assert_eq!(request.session.as_deref(), Some("s"));
        assert_eq!(request.workspace.as_deref(), Some("w"));
        assert_eq!(request.label.as_deref(), Some("l"));
        assert_eq!(request.group.as_deref(), Some("g"));
        assert_eq!(request.retry.unwrap().max_attempts, 3);
        assert_eq!(request.limits.unwrap().total, Some(2000));
        let cache = request.cache.unwrap();
        assert_eq!((cache.version.as_str(), cache.ttl), ("v", Some(1000)));
        assert_eq!(request.options.as_deref(), Some(r#"{"t":0}"#));
    }

    #[test]
    fn once_and_fork_are_said_in_the_request() {
        let request = agent("p").retry(Retry::attempts(9)).once().request.into_host().unwrap();
        let retry = request.retry.unwrap();
        assert_eq!((retry.max_attempts, retry.fatal.as_slice()), (1, &["unknown-outcome".to_owned()][..]));
        let call = || agent("p").fork("s");
        let request = call().request.into_host().unwrap();
        assert_eq!(
            (request.session.as_deref(), request.options.as_deref()),
            (Some("s"), Some(r#"{"fork":true}"#))
        );
        let request = call().options(serde_json::json!({"a": 1})).request.into_host().unwrap();
        assert_eq!(request.options.as_deref(), Some(r#"{"a":1,"fork":true}"#));
        assert!(call().options([1]).request.into_host().is_err());
    }

    #[test]
    fn what_cannot_be_json_fails_the_call_and_names_the_part() {
        let keys = std::collections::BTreeMap::from([((1, 2), 3)]);
        let error = agent("p").input(keys).request.into_host().unwrap_err();
        assert_eq!(error.kind(), FailureKind::Rejected);
        assert_eq!(error.to_string(), "the input cannot be written: key must be a string");
    }
}
