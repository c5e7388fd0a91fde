//! The `options` of a call: what a program may set beyond its request.

use serde_json::{Map, Value};
use wfhost_core::{FailureKind, Json};

use super::web::shorten;
use super::{Call, CallFailure};

/// The option that asks for a copy of a conversation. Where the host keeps
/// conversations each of them is one.
const FORK: &str = "fork";

/// Which options a call may set. `*` stands for all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CallOptions(Vec<String>);

impl CallOptions {
    pub fn of(names: &[&str]) -> Self {
        Self(names.iter().map(|&name| name.to_owned()).collect())
    }

    /// Whether a call may set this one.
    pub fn allows(&self, name: &str) -> bool {
        self.0.iter().any(|allowed| allowed == name || allowed == "*")
    }

    /// The options of a call, all of which it may set.
    pub(super) fn take(&self, call: &Call) -> Result<Map<String, Value>, CallFailure> {
        let rejected = |message: String| CallFailure::new(FailureKind::Rejected, message);
        let mut options = match call.request.options.as_ref().map(Json::value) {
            None | Some(Value::Null) => return Ok(Map::new()),
            Some(Value::Object(members)) => members,
            Some(other) => {
                let shown = shorten(&other.to_string());
                return Err(rejected(format!("the options of a call have to be an object, not {shown}")));
            }
        };
        options.remove(FORK);
        match options.keys().find(|name| !self.allows(name)) {
            None => Ok(options),
            Some(name) => Err(rejected(format!(
                "a call must not set the option `{}`; allowed options: {} (`call_options` of the provider)",
                shorten(name),
                if self.0.is_empty() { "none".to_owned() } else { self.0.join(", ") },
            ))),
        }
    }
}

impl From<Vec<String>> for CallOptions {
    fn from(names: Vec<String>) -> Self {
        Self(names)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wfhost_core::{AgentRequest, Step};

    use super::*;

    #[test]
    fn only_what_is_allowed_can_be_set() {
        let call = |options: Value| {
            let request = AgentRequest { options: Some(Json::from(options)), ..AgentRequest::default() };
            Call::new("r".parse().unwrap(), Step(1), 1, "k".to_owned(), request)
        };
        let allowed = CallOptions::of(&["temperature"]);
        assert_eq!(allowed.take(&call(json!({"temperature": 1, "fork": true}))).unwrap().len(), 1);
        let refused = allowed.take(&call(json!({"tools": []}))).unwrap_err();
        assert!(refused.failure.message.contains("must not set the option `tools`"), "{refused}");
        assert!(CallOptions::of(&["*"]).take(&call(json!({"tools": []}))).is_ok());
        assert!(allowed.take(&call(json!([1]))).is_err());
    }
}
