//! From the export `run` to the user's function and back. `#[workflow]` writes the calls.

use std::future::Future;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    bindings::wfhost::workflow::types as host,
    error::{Error, Result},
    failure::{Failure, FailureKind},
    logging, panics,
    step::block_on,
};

/// What a workflow may return.
#[diagnostic::on_unimplemented(
    message = "a workflow returns `wfhost::Result<R>` with an `R` that implements `serde::Serialize`",
    label = "this workflow returns `{Self}`",
    note = "`Result<R, E>` with any standard error as `E` is fine as well"
)]
pub trait Outcome {
    fn into_host(self) -> Result<String, host::Failure>;
}

impl<R: Serialize, E: Into<Error>> Outcome for Result<R, E> {
    fn into_host(self) -> Result<String, host::Failure> {
        let output = self.map_err(|error| error.into().into_failure())?;
        serde_json::to_string(&output).map_err(|error| {
            let message = format!("the result cannot be written as JSON: {error}");
            Failure::new(FailureKind::InvalidOutput, message).into()
        })
    }
}

/// Runs a workflow that takes an input.
pub fn run<T, F, O>(input: &str, workflow: impl FnOnce(T) -> F) -> Result<String, host::Failure>
where
    T: DeserializeOwned,
    F: Future<Output = O>,
    O: Outcome,
{
    prepare();
    let input = parse(input)?;
    block_on(workflow(input)).into_host()
}

/// Runs a workflow without an input. The input of the run is ignored.
pub fn run_without_input<F, O>(workflow: impl FnOnce() -> F) -> Result<String, host::Failure>
where
    F: Future<Output = O>,
    O: Outcome,
{
    prepare();
    block_on(workflow()).into_host()
}

fn prepare() {
    panics::install();
    logging::install();
}

fn parse<T: DeserializeOwned>(input: &str) -> Result<T, Failure> {
    let error = match serde_json::from_str(input) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    // A run without input has `null`, which no struct takes, even if it needs no field. One that
    // does need a field is better told which than that null is none.
    let error = match input.trim() {
        "null" => match serde_json::from_str("{}") {
            Ok(value) => return Ok(value),
            Err(missing) if missing.to_string().starts_with("missing field") => missing,
            Err(_) => error,
        },
        _ => error,
    };
    Err(Failure::new(FailureKind::Rejected, format!("the input does not fit: {error}")))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        topic: String,
        #[serde(default)]
        sections: u8,
    }

    #[derive(Deserialize, PartialEq, Debug)]
    struct Lenient {
        #[serde(default)]
        name: Option<String>,
    }

    #[track_caller]
    fn refusal<T: DeserializeOwned + std::fmt::Debug>(input: &str) -> String {
        let failure = parse::<T>(input).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Rejected);
        failure.message
    }

    #[test]
    fn input_that_does_not_fit_is_rejected_with_the_reason() {
        assert_eq!(
            refusal::<Strict>(r#"{"sections": 3}"#),
            "the input does not fit: missing field `topic` at line 1 column 15"
        );
        assert!(refusal::<Strict>(r#"{"topic":"a","sectoins":3}"#).contains("`sectoins`"));
        assert!(refusal::<Strict>(r#"{"topic":"a","sections":300}"#).contains("300"));
    }

    #[test]
    fn no_input_is_an_empty_object_for_a_struct_that_needs_nothing() {
        assert_eq!(parse::<Lenient>("null").unwrap(), Lenient { name: None });
        assert_eq!(parse::<Option<u8>>("null").unwrap(), None);
        assert!(refusal::<Strict>("null").contains("missing field `topic`"));
        assert!(refusal::<u8>("null").contains("invalid type: null"));
    }

    #[test]
    fn a_result_or_an_error_goes_back_as_what_it_is() {
        assert_eq!(Ok::<_, Error>([1, 2]).into_host().unwrap(), "[1,2]");
        let failure = Err::<(), _>(Error::rejected("no")).into_host().unwrap_err();
        assert_eq!(failure.kind, host::FailureKind::Rejected);
        let failure = Err::<(), _>(std::fmt::Error).into_host().unwrap_err();
        assert_eq!(failure.kind, host::FailureKind::Failed);
    }
}
