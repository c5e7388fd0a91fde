//! What a module says of itself, for people.

use serde_json::{Map, Value};
use wfhost_core::{Description, Json};

/// Fields of one schema that are shown.
const FIELDS: usize = 40;
/// Entries of one sort that are shown.
const ENTRIES: usize = 40;
/// Schemas within each other, references followed, that a kind is made of.
const DEEP: usize = 3;
/// Characters of a description, or of an example, in one line.
const CHARS: usize = 160;

/// The lines of a description: a word for what it is about, and the text.
pub fn described(description: &Description) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(text) = &description.description {
        lines.push(("about", short(text)));
    }
    fields(&mut lines, "takes", description.input.as_ref());
    fields(&mut lines, "gives", description.output.as_ref());
    let values = [("signal", &description.signals), ("state", &description.state)];
    for (word, values) in values {
        let shown = values.iter().take(ENTRIES);
        lines.extend(shown.map(|(name, value)| {
            let kind = value.schema.as_ref().map_or_else(|| "any".to_owned(), kind_of);
            (word, columns(name, &kind, value.description.as_deref()))
        }));
        more(&mut lines, word, values.len(), ENTRIES);
    }
    for question in description.questions.iter().take(ENTRIES) {
        let kind = match (question.choices.as_slice(), &question.schema) {
            ([], None) => "any".to_owned(),
            ([], Some(schema)) => kind_of(schema),
            (choices, _) => one_of(choices.iter().map(|choice| format!("{choice:?}"))),
        };
        lines.push(("asks", format!("{}  {kind}", short(&question.prompt))));
    }
    more(&mut lines, "asks", description.questions.len(), ENTRIES);
    for example in description.examples.iter().take(ENTRIES) {
        let about = example.description.as_deref().map(|about| format!("  {}", short(about)));
        lines.push(("example", format!("{}{}", short(example.input.as_str()), about.unwrap_or_default())));
    }
    more(&mut lines, "example", description.examples.len(), ENTRIES);
    for (what, names) in [("provider", &description.providers), ("workspace", &description.workspaces)] {
        lines.extend(names.iter().take(ENTRIES).map(|name| ("needs", format!("{what} {name}"))));
        more(&mut lines, "needs", names.len(), ENTRIES);
    }
    lines
}

fn more(lines: &mut Vec<(&'static str, String)>, word: &'static str, count: usize, shown: usize) {
    if count > shown {
        lines.push((word, format!("… {} more; `-o json` has all", count - shown)));
    }
}

fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CHARS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

fn columns(name: &str, kind: &str, about: Option<&str>) -> String {
    let about = about.map(short).unwrap_or_default();
    format!("{name:<16}  {kind:<20}  {about}").trim_end().to_owned()
}

/// A line for each property of an object, else one for the schema as a whole.
fn fields(lines: &mut Vec<(&'static str, String)>, word: &'static str, schema: Option<&Json>) {
    let Some(schema) = schema else { return };
    let root = schema.value();
    let Some((properties, required)) = object(&root, &root) else {
        let about = root.get("description").and_then(Value::as_str);
        let kind = kind(&root, &root, DEEP);
        lines.push((word, format!("{kind}  {}", about.map(short).unwrap_or_default()).trim_end().to_owned()));
        return;
    };
    for (name, of) in properties.iter().take(FIELDS) {
        let needed = if required.contains(&name.as_str()) { "" } else { ", optional" };
        let about = resolved(&root, of).get("description").or_else(|| of.get("description"));
        let about = of.get("description").or(about).and_then(Value::as_str);
        lines.push((word, columns(name, &format!("{}{needed}", kind(&root, of, DEEP)), about)));
    }
    more(lines, word, properties.len(), FIELDS);
}

/// The properties of a schema of objects, and which are needed.
fn object<'a>(root: &'a Value, schema: &'a Value) -> Option<(&'a Map<String, Value>, Vec<&'a str>)> {
    let schema = resolved(root, schema);
    let properties = schema.get("properties").and_then(Value::as_object).filter(|map| !map.is_empty())?;
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    Some((properties, required.filter_map(Value::as_str).collect()))
}

/// What a schema refers to within its document, some references far.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    for _ in 0..DEEP {
        let reference = schema.get("$ref").and_then(Value::as_str);
        match reference.and_then(|reference| reference.strip_prefix('#')).and_then(|to| root.pointer(to)) {
            Some(to) => schema = to,
            None => break,
        }
    }
    schema
}

fn kind_of(schema: &Json) -> String {
    let root = schema.value();
    kind(&root, &root, DEEP)
}

fn one_of(kinds: impl Iterator<Item = String>) -> String {
    let kinds: Vec<_> = kinds.map(|kind| short(&kind)).collect();
    let more = if kinds.len() > 6 { ", …" } else { "" };
    format!("one of {}{more}", kinds[..kinds.len().min(6)].join(", "))
}

/// A few words for a schema.
fn kind(root: &Value, schema: &Value, deep: usize) -> String {
    let schema = resolved(root, schema);
    let any = || "any".to_owned();
    let Some(deep) = deep.checked_sub(1) else { return any() };
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return one_of(values.iter().map(Value::to_string));
    }
    if let Some(value) = schema.get("const") {
        return short(&value.to_string());
    }
    let alternatives = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
    if let Some(alternatives) = alternatives {
        let kinds: Vec<_> = alternatives.iter().take(6).map(|schema| kind(root, schema, deep)).collect();
        return kinds.join(" or ");
    }
    let word = |name: &str| match name {
        "array" => match schema.get("items") {
            Some(items) if items.is_object() => format!("list of {}", kind(root, items, deep)),
            _ => "list".to_owned(),
        },
        "object" => match object(root, schema) {
            Some((properties, _)) => {
                let names: Vec<_> = properties.keys().take(6).map(|name| short(name)).collect();
                let more = if properties.len() > 6 { ", …" } else { "" };
                format!("{{{}{more}}}", names.join(", "))
            }
            None => "object".to_owned(),
        },
        other => short(other),
    };
    match schema.get("type") {
        Some(Value::String(name)) => word(name),
        Some(Value::Array(names)) => {
            let words: Vec<_> = names.iter().filter_map(Value::as_str).take(7).map(word).collect();
            words.join(" or ")
        }
        _ => any(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_description_is_lines_for_people() {
        let description: Description = serde_json::from_str(
            r##"{ "description": "Writes\n a report",
            "input": { "type": "object", "required": ["topic"], "properties": {
                "topic": { "type": "string", "description": "What about" },
                "size": { "enum": ["s", 2] }, "tags": { "type": "array", "items": { "$ref": "#/$defs/T" } },
                "style": { "anyOf": [{ "$ref": "#/$defs/T" }, { "type": "null" }] } },
                "$defs": { "T": { "type": "object", "properties": { "name": {}, "at": {} } } } },
            "output": { "type": ["string", "null"] },
            "signals": { "approve": { "schema": { "type": "boolean" }, "description": "Lets it go on" } },
            "questions": [{ "prompt": "Publish?", "choices": ["yes", "no"] }],
            "examples": [{ "input": { "topic": "cats" } }],
            "providers": ["reviewer"] }"##,
        )
        .unwrap();
        let lines: Vec<_> =
            described(&description).into_iter().map(|(word, text)| format!("{word} {text}")).collect();
        let expected = [
            "about Writes a report",
            "takes size              one of \"s\", 2, optional",
            "takes style             {at, name} or null, optional",
            "takes tags              list of {at, name}, optional",
            "takes topic             string                What about",
            "gives string or null",
            "signal approve           boolean               Lets it go on",
            "asks Publish?  one of \"yes\", \"no\"",
            "example { \"topic\": \"cats\" }",
            "needs provider reviewer",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn whatever_a_schema_is_the_lines_are_few_and_short() {
        let loops = json!({ "$ref": "#/$defs/a", "$defs": { "a": { "anyOf": [{ "$ref": "#/$defs/a" }, { "$ref": "#" }] } } });
        let wide: Map<String, Value> = (0..5_000)
            .map(|n| (format!("{}{n}", "x".repeat(10)), json!({ "enum": vec!["y".repeat(500); 9] })))
            .collect();
        for input in
            [loops, json!({ "properties": wide }), json!(true), json!([1]), json!({ "type": [1, "a"] })]
        {
            let description = Description { input: Some(Json::from(input)), ..Description::default() };
            let lines = described(&description);
            assert!((1..=FIELDS + 1).contains(&lines.len()));
            assert!(lines.iter().all(|(_, line)| line.chars().count() < 1_500), "{lines:?}");
        }
    }
}
