//! What a module says of itself: a section of its component, which is read without running anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Json;

/// The name of the section. It holds JSON.
pub const DESCRIBE_SECTION: &str = "wfhost:describe";
/// Bytes of a description.
pub const DESCRIBE_BYTES: usize = 1 << 20;
/// The form of descriptions, with the version of it that this is.
pub const DESCRIBE_FORM: &str = "wfhost/describe/1";
/// What the form is called without its version.
const FORM: &str = "wfhost/describe/";
/// Signals, questions, examples and the like, of each.
const ENTRIES: usize = 1_000;

/// What a workflow takes, gives and waits for. Nothing of it binds the program; what is checked by it is
/// checked before the program is asked.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Description {
    /// For people: what the workflow does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON Schema of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Json>,
    /// The JSON Schema of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,
    /// What it waits for, by name; the schema is that of the payload.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub signals: BTreeMap<String, DescribedValue>,
    /// What it asks people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub questions: Vec<DescribedQuestion>,
    /// What it publishes, by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub state: BTreeMap<String, DescribedValue>,
    /// Inputs to try it with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Example>,
    /// The providers that it names: the host's configuration has to have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<String>,
    /// The workspaces that its agents work in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workspaces: Vec<String>,
}

/// A value of some kind.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DescribedValue {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Json>,
}

/// A question to a person.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DescribedQuestion {
    /// What is asked, as far as it is the same each time.
    pub prompt: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Json>,
}

/// An input that can be given.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Example {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub input: Json,
}

/// Why a description cannot be read. The module itself may be as good as any.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DescribeError {
    #[error("it has two of them")]
    Twice,
    #[error("it has {0} bytes, more than {DESCRIBE_BYTES}")]
    TooLarge(usize),
    #[error("it is of the form `{0}`, which this wfhost does not know")]
    Form(String),
    #[error("{0}")]
    Json(String),
    #[error("it has {found} {what}, more than {ENTRIES}")]
    Many { what: &'static str, found: usize },
}

/// The document around a description.
#[derive(Serialize)]
struct Document<T> {
    schema: &'static str,
    #[serde(flatten)]
    description: T,
}

/// Only which form it is.
#[derive(Deserialize)]
struct Form {
    schema: String,
}

impl Description {
    /// What a component says of itself; none if it says nothing.
    ///
    /// # Errors
    ///
    /// It has a description, but none that can be read.
    pub fn of(component: &[u8]) -> Result<Option<Self>, DescribeError> {
        let mut sections =
            custom_sections(component).filter(|(name, _)| *name == DESCRIBE_SECTION.as_bytes());
        let Some((_, data)) = sections.next() else { return Ok(None) };
        match sections.next() {
            Some(_) => Err(DescribeError::Twice),
            None => Self::read(data).map(Some),
        }
    }

    /// Reads the content of the section. Members that are not known are of a later version of the same form.
    ///
    /// # Errors
    ///
    /// It is no description of this form.
    pub fn read(data: &[u8]) -> Result<Self, DescribeError> {
        if data.len() > DESCRIBE_BYTES {
            return Err(DescribeError::TooLarge(data.len()));
        }
        let unreadable = |error: serde_json::Error| DescribeError::Json(error.to_string());
        let text = std::str::from_utf8(data).map_err(|error| DescribeError::Json(error.to_string()))?;
        // As closely as other JSON of strangers.
        let document = Json::parse(text.to_owned()).map_err(unreadable)?;
        let Form { schema } = serde_json::from_str(document.as_str()).map_err(unreadable)?;
        if schema != DESCRIBE_FORM {
            let shown: String = schema.chars().take(100).collect();
            return Err(match schema.starts_with(FORM) {
                true => DescribeError::Form(shown),
                false => DescribeError::Json(format!("it is of the form `{shown}`, not `{DESCRIBE_FORM}`")),
            });
        }
        let description: Self = serde_json::from_str(document.as_str()).map_err(unreadable)?;
        description.check()?;
        Ok(description)
    }

    /// The content of the section.
    pub fn to_bytes(&self) -> Vec<u8> {
        let document = Document { schema: DESCRIBE_FORM, description: self };
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    /// Whether there is no more of it than may be.
    ///
    /// # Errors
    ///
    /// There is.
    pub fn check(&self) -> Result<(), DescribeError> {
        let counts = [
            ("signals", self.signals.len()),
            ("questions", self.questions.len()),
            ("published values", self.state.len()),
            ("examples", self.examples.len()),
            ("providers", self.providers.len()),
            ("workspaces", self.workspaces.len()),
        ];
        match counts.into_iter().find(|(_, found)| *found > ENTRIES) {
            Some((what, found)) => Err(DescribeError::Many { what, found }),
            None => Ok(()),
        }
    }
}

/// The custom sections of a component or a core module, not of what is within it, up to where it is damaged:
/// their names, which may be no text, and what they hold.
pub fn custom_sections(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    /// Magic number and version.
    const HEAD: usize = 8;
    let mut rest = bytes.get(HEAD..).filter(|_| bytes.starts_with(b"\0asm")).unwrap_or_default();
    std::iter::from_fn(move || {
        loop {
            let (id, behind) = rest.split_first()?;
            let (length, behind) = leb128(behind)?;
            let (mut section, behind) = behind.split_at_checked(length)?;
            rest = behind;
            if *id == 0 {
                let (length, text) = leb128(section)?;
                let name;
                (name, section) = text.split_at_checked(length)?;
                return Some((name, section));
            }
        }
    })
}

/// An unsigned number of at most 32 bits, and what comes behind it.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(u32::try_from(value).ok()?).ok()?, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn section(name: &str, data: &[u8]) -> Vec<u8> {
        let leb = |n: usize| {
            let (low, high) = ((n & 0x7f) as u8, n >> 7);
            assert!(high < 1 << 21);
            [low | 0x80, (high & 0x7f) as u8 | 0x80, (high >> 7 & 0x7f) as u8 | 0x80, (high >> 14) as u8]
        };
        let body = [&leb(name.len())[..], name.as_bytes(), data].concat();
        [&[0], &leb(body.len())[..], &body].concat()
    }

    fn component(parts: &[Vec<u8>]) -> Vec<u8> {
        [b"\0asm\x0d\0\x01\0".to_vec(), parts.concat()].concat()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let description = Description {
            description: Some("Greets".to_owned()),
            input: Some(Json::from(
                json!({ "type": "object", "properties": { "n": { "type": "integer" } } }),
            )),
            signals: [("approve".to_owned(), DescribedValue::default())].into(),
            examples: vec![Example { description: None, input: Json::from(json!({ "n": 1 })) }],
            providers: vec!["reviewer".to_owned()],
            ..Description::default()
        };
        let bytes = description.to_bytes();
        assert!(bytes.starts_with(br#"{"schema":"wfhost/describe/1""#));
        let all =
            component(&[section("other", b"x"), section(DESCRIBE_SECTION, &bytes), vec![1, 3, 0, 0, 0]]);
        assert_eq!(Description::of(&all), Ok(Some(description)));
        assert_eq!(Description::of(&component(&[])), Ok(None));
    }

    #[test]
    fn hostile_sections_are_refused() {
        let one = |data: &[u8]| Description::of(&component(&[section(DESCRIBE_SECTION, data)]));
        let good = Description::default().to_bytes();
        assert!(one(&good).unwrap().unwrap().is_empty());
        let twice = component(&[section(DESCRIBE_SECTION, &good), section(DESCRIBE_SECTION, &good)]);
        assert_eq!(Description::of(&twice), Err(DescribeError::Twice));
        assert_eq!(one(&vec![b' '; DESCRIBE_BYTES + 1]), Err(DescribeError::TooLarge(DESCRIBE_BYTES + 1)));
        let newer = br#"{"schema":"wfhost/describe/2","input":7}"#;
        assert_eq!(one(newer), Err(DescribeError::Form("wfhost/describe/2".to_owned())));
        let deep = format!(
            r#"{{"schema":"wfhost/describe/1","input":{}1{}}}"#,
            "[".repeat(500_000),
            "]".repeat(500_000)
        );
        let many =
            format!(r#"{{"schema":"wfhost/describe/1","providers":[{}"a"]}}"#, "\"a\",".repeat(ENTRIES));
        for bad in [
            b"".as_slice(),
            b"not json",
            b"\xff\xfe",
            b"[]",
            br#"{"schema":7}"#,
            br#"{"schema":"other/1"}"#,
            br#"{"schema":"wfhost/describe/1","signals":[]}"#,
            br#"{"schema":"wfhost/describe/1","signals":{"a":1}}"#,
            br#"{"schema":"wfhost/describe/1","input":1e999}"#,
            deep.as_bytes(),
            many.as_bytes(),
        ] {
            assert!(one(bad).is_err(), "{:?}", String::from_utf8_lossy(&bad[..bad.len().min(60)]));
        }
        // What a later version adds is no fault.
        assert!(one(br#"{"schema":"wfhost/describe/1","later":[1]}"#).unwrap().unwrap().is_empty());
    }

    #[test]
    fn damaged_components_have_the_sections_before_the_damage() {
        let whole = component(&[section("a", b"1"), section("b", b"2")]);
        for length in 0..whole.len() {
            let found: Vec<_> = custom_sections(&whole[..length]).map(|(name, _)| name).collect();
            assert!(found.is_empty() || found == [b"a"], "{length}: {found:?}");
        }
        assert_eq!(custom_sections(&whole).count(), 2);
        // Names that go beyond their section, and lengths beyond everything.
        for bad in [&[0u8, 2, 9, b'a'][..], &[0, 0xff, 0xff, 0xff, 0xff, 0x7f], &[0, 0x80], &[0, 0], &[7]] {
            assert_eq!(custom_sections(&component(&[bad.to_vec()])).count(), 0);
        }
    }

    #[test]
    fn sections_of_parts_are_not_those_of_the_whole() {
        let inner = component(&[section(DESCRIBE_SECTION, b"inner")]);
        let part = [vec![1, inner.len() as u8], inner].concat();
        assert_eq!(Description::of(&component(&[part])), Ok(None));
    }
}
