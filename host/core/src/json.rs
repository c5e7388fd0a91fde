//! JSON text that is kept as it was written.

use std::fmt;

use memchr::memchr2;
use minicbor::{Decode, Encode};
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// Valid JSON text. It is kept byte for byte, so that no number loses digits
/// on its way; what it means is looked at only where that matters.
///
/// What comes in is what every language can read again: numbers that a double can
/// come near to (`1e400` is none), strings of Unicode (half a surrogate pair is
/// none), at most 127 arrays and objects within each other, and at most
/// [`VALUES`] values in all. Text that an earlier version let in is shown as a string.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct Json(#[n(0)] String);

impl Json {
    /// Takes `text` if it is valid JSON that can be read everywhere.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<IgnoredAny>(&text)?;
        check(&text)?;
        Ok(Self(text))
    }

    /// What a value is as JSON. The same limits hold: what lies deeper is an error.
    pub fn of(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        let text = serde_json::to_string(value)?;
        // What was written just now is valid.
        check(&text)?;
        Ok(Self(text))
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

    /// What it says. Numbers that `u64`, `i64` and `f64` do not hold are rounded. Text that cannot be
    /// read, which an earlier version let in or a forged journal holds, is a string of it.
    pub fn value(&self) -> Value {
        read(&self.0).unwrap_or_else(|| Value::from(self.0.as_str()))
    }

    /// Whether both say the same: order of keys and white space do not matter,
    /// nor does a member that is null against one that is not there.
    pub fn means(&self, other: &Self) -> bool {
        self.0 == other.0
            // Texts that cannot be read say nothing, so they do not say the same.
            || read(&self.0).zip(read(&other.0)).is_some_and(|(a, b)| first_difference(&a, &b).is_none())
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
        // Whoever shows what is stored need not be ready for an error.
        match serde_json::from_str::<&RawValue>(&self.0) {
            Ok(raw) if is_sound(&self.0) => raw.serialize(serializer),
            _ => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        check(raw.get()).map_err(D::Error::custom)?;
        Ok(Self(String::from(Box::<str>::from(raw))))
    }
}

/// Arrays and objects within each other: what serde_json reads.
const DEPTH: usize = 127;

/// Values in one text, arrays and objects and their members. Each takes some 50 bytes of memory
/// where its meaning is looked at, whatever it takes in the text.
pub const VALUES: usize = 1 << 20;

/// Digits of a number that can be in the range of a double, whatever they are.
const SAFE_DIGITS: usize = 300;

/// What of a valid JSON text may be too much.
struct Measure {
    /// How many arrays and objects lie within each other at most.
    depth: usize,
    /// Values, about: commas and opening brackets.
    values: usize,
    /// It has numbers or escapes that have to be looked at closely.
    unusual: bool,
}

/// What a byte outside of strings may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Part of a number or a word, or white space.
    Other,
    Quote,
    Open,
    Close,
    Comma,
    /// Of an exponent, or of `true` and `false`.
    Exponent,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    classes[b'"' as usize] = Class::Quote;
    classes[b'[' as usize] = Class::Open;
    classes[b'{' as usize] = Class::Open;
    classes[b']' as usize] = Class::Close;
    classes[b'}' as usize] = Class::Close;
    classes[b',' as usize] = Class::Comma;
    classes[b'e' as usize] = Class::Exponent;
    classes[b'E' as usize] = Class::Exponent;
    classes
};

/// Measures a text that is valid JSON, or not: then the figures are some.
fn measure(text: &str) -> Measure {
    let bytes = text.as_bytes();
    let mut measure = Measure { depth: 0, values: 1, unusual: false };
    // Where the last byte was that is not part of a number.
    let (mut depth, mut at, mut last) = (0usize, 0, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        let class = CLASSES[usize::from(*byte)];
        if class == Class::Other {
            continue;
        }
        measure.unusual |= at - last > SAFE_DIGITS;
        match class {
            Class::Quote => at = string_end(bytes, at, &mut measure.unusual),
            Class::Open => {
                depth += 1;
                measure.values += 1;
                measure.depth = measure.depth.max(depth);
            }
            Class::Close => depth = depth.saturating_sub(1),
            Class::Comma => measure.values += 1,
            Class::Exponent => {
                let before = at.checked_sub(2).map(|before| bytes[before]);
                measure.unusual |= before.is_some_and(|byte| byte.is_ascii_digit());
            }
            Class::Other => {}
        }
        last = at;
    }
    measure.unusual |= at - last > SAFE_DIGITS;
    measure
}

/// Where the string ends that begins before `at`. Notices escapes that may be half a character.
fn string_end(bytes: &[u8], mut at: usize, unusual: &mut bool) -> usize {
    /// Most strings are so short that a search costs more than it saves.
    const SHORT: usize = 16;
    let short = at.saturating_add(SHORT);
    loop {
        let found = loop {
            match bytes.get(at) {
                None => return bytes.len(),
                Some(byte @ (b'"' | b'\\')) => break *byte,
                Some(_) if at < short => at += 1,
                Some(_) => match memchr2(b'"', b'\\', &bytes[at..]) {
                    Some(found) => at += found,
                    None => return bytes.len(),
                },
            }
        };
        at += 1;
        if found == b'"' {
            return at;
        }
        // Whatever is escaped does not end the string.
        *unusual |= matches!(bytes.get(at..at + 2), Some([b'u', b'd' | b'D']));
        at += 1;
    }
}

/// Whether a valid JSON text keeps the limits; see [`Json`].
fn check(text: &str) -> Result<(), serde_json::Error> {
    let Measure { depth, values, unusual } = measure(text);
    if values > VALUES {
        return Err(serde_json::Error::custom(format_args!("it has more than {VALUES} values")));
    }
    if depth > DEPTH || unusual {
        // Gives the error with its place.
        serde_json::from_str::<Readable>(text)?;
    }
    Ok(())
}

/// What a text says, which may be no JSON at all, if it keeps the limits.
fn read(text: &str) -> Option<Value> {
    // Whatever else is too much is an error of reading it.
    let few = text.len() <= VALUES || measure(text).values <= VALUES;
    few.then(|| serde_json::from_str(text).ok())?
}

/// Whether a text, which may be no JSON at all, keeps the limits.
fn is_sound(text: &str) -> bool {
    check(text).is_ok()
}

/// Reads everything as closely as a [`Value`] and keeps nothing.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self, A::Error> {
        while elements.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
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
        // Brackets in strings do not count.
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

    /// What one language takes and another does not is taken by none.
    #[test]
    fn what_cannot_be_read_everywhere_is_refused() {
        for text in [
            "1e400",
            "[-1E+400]",
            r#"{"a":"\ud83d"}"#,
            r#""\uDC00""#,
            r#"{"\ud800":1}"#,
            &"9".repeat(400),
            &format!("[{}]", "1,".repeat(VALUES) + "1"),
        ] {
            let error = Json::parse(text.to_owned()).unwrap_err().to_string();
            assert!(
                ["range", "surrogate", "hex escape", "values"].iter().any(|part| error.contains(part)),
                "{error}"
            );
        }
        for text in ["1e300", "1e-400", r#""\ud83d\ude00 \\ud83d""#, r#""\u00e4\"1e400""#, &"9".repeat(308)] {
            let json = json(text);
            assert_ne!(json.value(), Value::from(text), "{text}");
        }
    }

    /// An earlier version let them in: they are in journals.
    #[test]
    fn what_is_stored_can_be_shown_whatever_it_is() {
        let deep = "[".repeat(1_000_000);
        let many = format!("[{}1]", "1,".repeat(VALUES));
        for text in
            ["1e400", r#""\ud83d""#, "{", "", &deep, &many, &format!("{deep}{}", "]".repeat(1_000_000))]
        {
            let json = Json(text.to_owned());
            assert_eq!(json.value(), Value::from(text));
            assert_eq!(json!({ "shown": json }), json!({ "shown": text }));
        }
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
