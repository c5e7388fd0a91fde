//! JSON text that is kept as it was written.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// Valid JSON text. It is kept byte for byte, so that no number loses digits
/// on its way; what it means is looked at only where that matters.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct Json(#[n(0)] String);

impl Json {
    /// Takes `text` if it is valid JSON, with at most 127 arrays and objects
    /// within each other.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<IgnoredAny>(&text)?;
        if depth(&text) > DEPTH {
            // Gives the error with its place.
            serde_json::from_str::<Value>(&text)?;
        }
        Ok(Self(text))
    }

    /// What a value is as JSON. The same limit holds: what lies deeper is an error.
    pub fn of(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        let text = serde_json::to_string(value)?;
        // What was written just now is valid.
        match depth(&text) > DEPTH {
            true => Self::parse(text),
            false => Ok(Self(text)),
        }
    }

    /// The text `null`.
    pub fn null() -> Self {
        Self("null".to_owned())
    }

    /// The JSON string whose content is `text`.
    pub fn string(text: &str) -> Self {
        Self(Value::from(text).to_string())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_string(self) -> String {
        self.0
    }

    /// What it says. Numbers outside the range of `u64`, `i64` and `f64` are rounded.
    pub fn value(&self) -> Value {
        // The text was checked when it came in; a damaged journal shows as null here.
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }

    /// Whether both say the same: order of keys and white space do not matter,
    /// nor does a member that is null against one that is not there.
    pub fn means(&self, other: &Self) -> bool {
        let value = |json: &Self| serde_json::from_str::<Value>(&json.0).ok();
        self.0 == other.0
            // Texts that cannot be read say nothing, so they do not say the same.
            || value(self).zip(value(other)).is_some_and(|(a, b)| first_difference(&a, &b).is_none())
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self(value.to_string())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(String::from(Box::<str>::from(raw))))
    }
}

/// Arrays and objects within each other: what serde_json reads.
const DEPTH: usize = 127;

/// How many arrays and objects of a valid JSON text lie within each other at most.
fn depth(text: &str) -> usize {
    let (mut depth, mut greatest, mut in_string) = (0usize, 0, false);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            // Whatever is escaped does not end the string.
            b'\\' if in_string => drop(bytes.next()),
            b'[' | b'{' if !in_string => {
                depth += 1;
                greatest = greatest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    greatest
}

/// Where two JSON values differ first.
#[derive(Clone, PartialEq, Debug)]
pub struct Difference {
    /// Like `options.tools[2].name`; empty if the values differ as a whole.
    pub path: String,
    /// Null where the value has nothing at that place.
    pub left: Value,
    pub right: Value,
}

/// The first difference of two values in the order of their keys, a null
/// member being the same as none.
pub fn first_difference(left: &Value, right: &Value) -> Option<Difference> {
    let mut path = String::new();
    differ(&mut path, left, right)
}

fn differ(path: &mut String, left: &Value, right: &Value) -> Option<Difference> {
    let inside = |path: &mut String, part: &str, left: &Value, right: &Value| {
        let length = path.len();
        if !path.is_empty() && !part.starts_with('[') {
            path.push('.');
        }
        path.push_str(part);
        let found = differ(path, left, right);
        path.truncate(length);
        found
    };
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            for key in keys {
                let (left, right) = (a.get(key), b.get(key));
                let null = &Value::Null;
                let (left, right) = (left.unwrap_or(null), right.unwrap_or(null));
                if let Some(found) = inside(path, key, left, right) {
                    return Some(found);
                }
            }
            None
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(i, (left, right))| inside(path, &format!("[{i}]"), left, right)),
        _ if left == right => None,
        _ => Some(Difference { path: path.clone(), left: left.clone(), right: right.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn json(text: &str) -> Json {
        Json::parse(text.to_owned()).unwrap()
    }

    #[test]
    fn depth_is_limited_to_what_can_be_read_again() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::parse(nested(DEPTH)).is_ok_and(|json| json.value() != Value::Null));
        let error = Json::parse(nested(DEPTH + 1)).unwrap_err();
        assert!(error.to_string().contains("recursion limit"), "{error}");
        assert!(Json::parse(nested(1_000_000)).is_err());
        // Brackets in strings are none.
        assert!(Json::parse(format!("\"\\\"{}\"", "[".repeat(1_000))).is_ok());
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        assert_eq!(Json::of(&json!({"a": [1, "\"["]})).unwrap().as_str(), r#"{"a":[1,"\"["]}"#);
        let deep = json(&format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH)));
        assert!(Json::of(&deep).is_ok());
        assert!(Json::of(&[deep]).is_err());
    }

    #[test]
    fn what_cannot_be_read_means_nothing() {
        let deep = |n: u32| Json(format!("{}{n}{}", "[".repeat(200), "]".repeat(200)));
        assert!(deep(1).means(&deep(1)));
        assert!(!deep(1).means(&deep(2)));
    }

    #[test]
    fn meaning_ignores_order_space_and_null_members() {
        assert!(json(r#"{"a":1,"b":[2]}"#).means(&json(r#"{ "b": [2], "a": 1, "c": null }"#)));
        assert!(!json(r#"{"a":1}"#).means(&json(r#"{"a":2}"#)));
        assert!(!json("[1,2]").means(&json("[2,1]")));
    }

    #[test]
    fn text_is_kept_byte_for_byte() {
        let text = r#"{ "n": 12345678901234567890123.50, "s": "\u00e4" }"#;
        assert_eq!(json(text).as_str(), text);
        assert!(Json::parse("{".to_owned()).is_err());
        assert!(Json::parse("1 2".to_owned()).is_err());
    }

    #[test]
    fn the_first_difference_is_named() {
        let found = first_difference(
            &json!({"options": {"tools": [1, {"name": "a"}]}}),
            &json!({"options": {"tools": [1, {"name": "b"}]}}),
        )
        .unwrap();
        assert_eq!(found.path, "options.tools[1].name");
        assert_eq!((found.left, found.right), (json!("a"), json!("b")));
    }
}
