//! JSON whose numbers are compared as they were written: what a `Value` rounds away counts, too.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::value::RawValue;
use wfhost_core::Json;

/// A JSON value with all its digits.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Exact {
    Null,
    /// A string or a word, in the one way of writing it.
    Plain(String),
    Number(Number),
    Array(Vec<Self>),
    Object(BTreeMap<String, Self>),
}

/// What stands where a value has nothing.
static NULL: Exact = Exact::Null;

impl Exact {
    /// What a text says. One that does not keep the limits of [`Json`] is a string of it.
    pub fn read(json: &str) -> Self {
        match Json::parse(json.to_owned()) {
            Ok(_) => Self::within(json),
            Err(_) => Self::Plain(Json::string(json).into_string()),
        }
    }

    /// What a view says.
    pub fn of(view: &impl Serialize) -> Self {
        serde_json::to_string(view).map_or(Self::Null, |json| Self::read(&json))
    }

    /// The string of a text.
    pub fn string(text: &str) -> Self {
        Self::Plain(Json::string(text).into_string())
    }

    /// The same of a text that is known to keep the limits, so that this is not too deep.
    fn within(json: &str) -> Self {
        let json = json.trim();
        let read = match json.as_bytes().first() {
            Some(b'{') => serde_json::from_str::<BTreeMap<String, &RawValue>>(json).map(|members| {
                Self::Object(members.into_iter().map(|(key, part)| (key, Self::within(part.get()))).collect())
            }),
            Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(json)
                .map(|parts| Self::Array(parts.into_iter().map(|part| Self::within(part.get())).collect())),
            Some(b'"') => serde_json::from_str::<String>(json).map(|text| Self::string(&text)),
            Some(b'n') => Ok(Self::Null),
            Some(b'-' | b'0'..=b'9') => Ok(Self::Number(Number::read(json))),
            _ => Ok(Self::Plain(json.to_owned())),
        };
        read.unwrap_or_else(|_| Self::string(json))
    }

    /// The same text for all values that are the same.
    pub fn key(&self) -> String {
        let mut key = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut key, &|number, out| number.write_key(out));
        key
    }

    pub fn json(&self) -> Json {
        let text = self.to_string();
        Json::parse(text).unwrap_or_else(|error| Json::string(&error.to_string()))
    }

    fn write<W: fmt::Write>(
        &self,
        out: &mut W,
        number: &dyn Fn(&Number, &mut W) -> fmt::Result,
    ) -> fmt::Result {
        match self {
            Self::Null => out.write_str("null"),
            Self::Plain(text) => out.write_str(text),
            Self::Number(one) => number(one, out),
            Self::Array(parts) => {
                out.write_char('[')?;
                for (index, part) in parts.iter().enumerate() {
                    if index > 0 {
                        out.write_char(',')?;
                    }
                    part.write(out, number)?;
                }
                out.write_char(']')
            }
            Self::Object(members) => {
                out.write_char('{')?;
                for (index, (key, part)) in members.iter().enumerate() {
                    if index > 0 {
                        out.write_char(',')?;
                    }
                    write!(out, "{}:", Json::string(key))?;
                    part.write(out, number)?;
                }
                out.write_char('}')
            }
        }
    }

    /// Where two values differ first, in the order of their keys, and what is there; a null member is the same as none.
    pub fn difference<'a>(&'a self, other: &'a Self) -> Option<(String, &'a Self, &'a Self)> {
        differ(&mut String::new(), self, other)
    }
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &|number, out| out.write_str(&number.text))
    }
}

fn differ<'a>(
    path: &mut String,
    left: &'a Exact,
    right: &'a Exact,
) -> Option<(String, &'a Exact, &'a Exact)> {
    let inside = |path: &mut String, part: &str, left: &'a Exact, right: &'a Exact| {
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
        (Exact::Object(a), Exact::Object(b)) => {
            let mut keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.find_map(|key| inside(path, key, a.get(key).unwrap_or(&NULL), b.get(key).unwrap_or(&NULL)))
        }
        (Exact::Array(a), Exact::Array(b)) if a.len() == b.len() => {
            let mut parts = a.iter().zip(b).enumerate();
            parts.find_map(|(index, (left, right))| inside(path, &format!("[{index}]"), left, right))
        }
        _ if left == right => None,
        _ => Some((path.clone(), left, right)),
    }
}

/// A number as it was written. `1.50` is the same as `15e-1`, and `1` is not the same as `1.0`, since programs tell
/// these apart.
#[derive(Clone, Debug)]
pub(crate) struct Number {
    text: String,
    is_integer: bool,
    is_negative: bool,
    /// Without zeros at their ends.
    digits: String,
    /// The power of ten of the last digit.
    exponent: i64,
}

impl Number {
    fn read(text: &str) -> Self {
        let (is_negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{part}");
        let significant = all.trim_end_matches('0');
        let zeros = (all.len() - significant.len()) as i64;
        let digits = significant.trim_start_matches('0').to_owned();
        // One that is out of range is that of a number which is none here, or of zero.
        let exponent = exponent.parse::<i64>().unwrap_or(i64::MAX);
        let exponent = if digits.is_empty() {
            0
        } else {
            exponent.saturating_sub(part.len() as i64).saturating_add(zeros)
        };
        Self {
            text: text.to_owned(),
            is_integer: !rest.contains(['.', 'e', 'E']),
            is_negative: is_negative && !digits.is_empty(),
            digits,
            exponent,
        }
    }

    fn write_key<W: fmt::Write>(&self, out: &mut W) -> fmt::Result {
        let sign = if self.is_negative { "-" } else { "" };
        let kind = if self.is_integer { "i" } else { "f" };
        write!(out, "{sign}{}e{}{kind}", self.digits, self.exponent)
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        let value = |one: &Self| (one.is_integer, one.is_negative, one.exponent);
        value(self) == value(other) && self.digits == other.digits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_by_their_value_and_kind() {
        let same = |a: &str, b: &str| {
            let (a, b) = (Exact::read(a), Exact::read(b));
            assert_eq!(a == b, a.key() == b.key(), "{a} {b}");
            assert_eq!(a == b, a.difference(&b).is_none(), "{a} {b}");
            a == b
        };
        for (a, b) in [
            ("1.50", "15e-1"),
            ("100.0", "1E+2"),
            ("0.0", "0e7"),
            ("-0.5", "-5.0e-1"),
            (" [ 1 , 2 ]", "[1,2]"),
            (r#"{"b":"\u0061","a":null}"#, r#"{"a":null,"b":"a"}"#),
        ] {
            assert!(same(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("12345678901234567890123", "12345678901234567890124"),
            ("18446744073709551616", "18446744073709551617"),
            ("0.1000000000000000000001", "0.1"),
            ("1", "1.0"),
            ("1", "-1"),
            ("10", "1"),
            ("1", "\"1\""),
            ("[1]", "[1,1]"),
            ("true", "false"),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
        // A member that is null is the same as none where differences are looked for.
        assert!(Exact::read("{}").difference(&Exact::read(r#"{"a":null}"#)).is_none());
    }

    #[test]
    fn a_difference_has_its_place_and_its_digits() {
        let a = Exact::read(r#"{"a":[1,{"n":12345678901234567890123}],"z":1}"#);
        let b = Exact::read(r#"{"a":[1,{"n":12345678901234567890124}],"z":2}"#);
        let (path, left, right) = a.difference(&b).unwrap();
        assert_eq!((path.as_str(), left.json().as_str()), ("a[1].n", "12345678901234567890123"));
        assert_eq!(right.to_string(), "12345678901234567890124");
        // What is too deep is compared as a text.
        let deep = |n: u32| Exact::read(&format!("{}{n}{}", "[".repeat(100_000), "]".repeat(100_000)));
        assert!(deep(1) == deep(1) && deep(1) != deep(2));
    }
}
