//! Where in a JSON text something stands, so that people are shown what they wrote.

use std::ops::Range;

/// The bytes of a JSON text that a JSON pointer (RFC 6901) leads to: of the value, or of the name of its member
/// `member` if that is there. None where it leads nowhere. The text has to be valid JSON.
pub fn locate(text: &str, pointer: &str, member: Option<&str>) -> Option<Range<usize>> {
    let mut at = space(text, 0);
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        at = match text.as_bytes().get(at)? {
            b'{' => find(text, at, &part)?.1,
            b'[' => element(text, at, part.parse().ok()?)?,
            _ => return None,
        };
    }
    match member {
        Some(member) if text[at..].starts_with('{') => find(text, at, member).map(|(name, _)| name),
        Some(_) => None,
        None => Some(at..skip(text, at)),
    }
}

/// Behind white space.
fn space(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes()[at..].iter();
    at + bytes.take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count()
}

/// Behind the value that begins there.
fn skip(text: &str, from: usize) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (from, 0usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string(text, at);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                // Behind a number or a word, it is that of what is around.
                let Some(out) = depth.checked_sub(1) else { return at };
                depth = out;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

/// Behind the string that begins there.
fn string(text: &str, from: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = from + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The name of a member of the object that begins there, and where its value begins. Of several the last one
/// counts, as for whoever reads it.
fn find(text: &str, object: usize, wanted: &str) -> Option<(Range<usize>, usize)> {
    let mut found = None;
    let mut at = space(text, object + 1);
    while text[at..].starts_with('"') {
        let name = at..string(text, at);
        let colon = space(text, name.end);
        let value = space(text, colon + 1);
        if serde_json::from_str::<String>(&text[name.clone()]).is_ok_and(|name| name == wanted) {
            found = Some((name, value));
        }
        at = space(text, skip(text, value));
        if !text[at..].starts_with(',') {
            break;
        }
        at = space(text, at + 1);
    }
    found
}

/// Where an element of the array that begins there begins.
fn element(text: &str, array: usize, number: usize) -> Option<usize> {
    let mut at = space(text, array + 1);
    for _ in 0..number {
        at = space(text, skip(text, at));
        text[at..].starts_with(',').then_some(())?;
        at = space(text, at + 1);
    }
    (!text[at..].starts_with(']')).then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn values_and_names_are_found() {
        let text = r#" { "a~/b" : [ 1, {"x":"],}\"" , "y": true } ,-2.5e3 ], "ä":null, "d":1, "d" : 22 } "#;
        let at = |pointer: &str, member| locate(text, pointer, member).map(|range| &text[range]);
        assert_eq!(at("/a~0~1b/0", None), Some("1"));
        assert_eq!(at("/a~0~1b/1/x", None), Some(r#""],}\"""#));
        assert_eq!(at("/a~0~1b/1/y", None), Some("true"));
        assert_eq!(at("/a~0~1b/2", None), Some("-2.5e3"));
        assert_eq!(at("/ä", None), Some("null"));
        assert_eq!(at("/d", None), Some("22"), "the last one counts");
        assert_eq!(at("/a~0~1b/1", Some("y")), Some("\"y\""));
        assert_eq!(at("", Some("ä")), Some("\"ä\""));
        assert_eq!(at("", None).map(str::trim), Some(text.trim()));
        for nowhere in ["/b", "/a~0~1b/3", "/a~0~1b/x", "/d/0", "/ä/b"] {
            assert_eq!(at(nowhere, None), None, "{nowhere}");
        }
        assert_eq!(locate("[]", "/0", None), None);
        assert_eq!(locate("7", "", None), Some(0..1));
        assert_eq!(locate("7", "", Some("a")), None);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a\"\\\\/~{}\\[\\], ]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a~/\"\\\\]{0,3}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    fn check(text: &str, pointer: &str, value: &Value) {
        let found = locate(text, pointer, None).unwrap_or_else(|| panic!("{pointer} in {text}"));
        assert_eq!(serde_json::from_str::<Value>(&text[found]).unwrap(), *value, "{pointer}");
        match value {
            Value::Array(list) => {
                list.iter().enumerate().for_each(|(n, value)| check(text, &format!("{pointer}/{n}"), value));
            }
            Value::Object(map) => map.iter().for_each(|(name, value)| {
                let escaped = name.replace('~', "~0").replace('/', "~1");
                check(text, &format!("{pointer}/{escaped}"), value);
            }),
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn every_part_of_any_document_is_found(value in any_json()) {
            check(&value.to_string(), "", &value);
            check(&serde_json::to_string_pretty(&value).unwrap(), "", &value);
        }
    }
}
