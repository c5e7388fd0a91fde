//! JSON documents for other programs, whose parts keep their text: a [`serde_json::Value`] would
//! round the numbers that no double holds.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// The members of an object.
pub type Document = BTreeMap<String, Box<RawValue>>;

/// Makes a [`Document`]: `document! { "name": value, ... }`.
#[macro_export]
macro_rules! document {
    ($($name:literal: $value:expr),* $(,)?) => {
        $crate::Document::from([$(($name.to_owned(), $crate::raw(&$value))),*])
    };
}

/// A value as JSON on one line.
pub fn raw(value: &impl Serialize) -> Box<RawValue> {
    let raw = to_raw_value(value).unwrap_or_default();
    // Line ends can only stand between values.
    match raw.get().contains(['\n', '\r']) {
        true => RawValue::from_string(on_one_line(raw.get())).unwrap_or(raw),
        false => raw,
    }
}

/// JSON without the white space between values.
fn on_one_line(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|c| {
            let is_quote = *c == '"' && !escaped;
            escaped = in_string && *c == '\\' && !escaped;
            in_string ^= is_quote;
            in_string || !c.is_ascii_whitespace()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use wfhost_core::Json;

    use super::*;

    #[test]
    fn numbers_keep_their_digits_and_documents_are_one_line() {
        let given =
            "{\n  \"n\": [123456789012345678901234567890,\r\n 0.1000],\n\t\"a \\\" \\\\\": \"b \\n c\" }";
        let json = Json::parse(given.to_owned()).unwrap();
        let view = document! { "schema": "s", "output": json, "none": Option::<Json>::None };
        assert_eq!(
            raw(&view).get(),
            r#"{"none":null,"output":{"n":[123456789012345678901234567890,0.1000],"a \" \\":"b \n c"},"schema":"s"}"#
        );
    }
}
