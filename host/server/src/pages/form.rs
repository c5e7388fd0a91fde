//! Fields for JSON, made from its choices or its schema, and the JSON that was filled in: an answer to a question,
//! the input of a run, what a signal carries.

use serde_json::{Map, Number, Value};
use wfhost_core::Json;
use wfhost_core::Question;

use super::text::pretty;

/// How one value is put in.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Kind {
    /// One of these; the words are JSON.
    Choice(Vec<(String, String)>),
    Text,
    Long,
    Number {
        whole: bool,
    },
    Boolean,
    /// Strings, each on a line of its own.
    Lines,
    /// Anything, as JSON.
    Raw,
}

/// A field of a form.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Field {
    /// Of the property; empty if the field is the whole answer.
    pub name: String,
    pub title: String,
    pub help: String,
    pub required: bool,
    pub kind: Kind,
    /// What stands in it.
    pub value: String,
    pub min: String,
    pub max: String,
}

impl Field {
    fn whole(kind: Kind) -> Self {
        let text = String::new;
        let title = "Answer".to_owned();
        Self {
            name: text(),
            title,
            help: text(),
            required: true,
            kind,
            value: text(),
            min: text(),
            max: text(),
        }
    }

    /// What the field is called in the form.
    pub fn key(&self) -> String {
        format!("f.{}", self.name)
    }

    pub fn is_choice(&self) -> bool {
        matches!(self.kind, Kind::Choice(_))
    }

    pub fn choices(&self) -> &[(String, String)] {
        if let Kind::Choice(choices) = &self.kind { choices } else { &[] }
    }

    pub fn is_boolean(&self) -> bool {
        self.kind == Kind::Boolean
    }

    pub fn is_number(&self) -> bool {
        matches!(self.kind, Kind::Number { .. })
    }

    pub fn step(&self) -> &'static str {
        if self.kind == (Kind::Number { whole: true }) { "1" } else { "any" }
    }

    pub fn is_long(&self) -> bool {
        matches!(self.kind, Kind::Long | Kind::Lines | Kind::Raw)
    }

    pub fn is_raw(&self) -> bool {
        self.kind == Kind::Raw
    }
}

fn word<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn choices(values: &[Value]) -> Kind {
    Kind::Choice(values.iter().map(|value| (value.to_string(), shown(value))).collect())
}

/// The schema that one stands for: what it refers to within its document, and of a choice between something and null
/// the something.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    for _ in 0..4 {
        let reference = word(schema, "$ref").strip_prefix('#').and_then(|to| root.pointer(to));
        let several = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
        let mut something = several.into_iter().flatten().filter(|schema| word(schema, "type") != "null");
        let only = something.next().filter(|_| something.next().is_none());
        match reference.or(only) {
            Some(inner) => schema = inner,
            None => break,
        }
    }
    schema
}

/// The type of a schema, if it is one, or one and null.
fn type_of(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::Array(types)) => {
            let mut types = types.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            types.next().filter(|_| types.next().is_none()).unwrap_or_default()
        }
        _ => word(schema, "type"),
    }
}

/// Whether a value of that schema is a text that may be anything.
fn is_line(schema: &Value) -> bool {
    let is_long = schema.get("maxLength").and_then(Value::as_u64).is_some_and(|most| most > 200);
    type_of(schema) == "string" && schema.get("enum").is_none() && !is_long
}

/// How a value of that schema is put in.
fn kind(root: &Value, schema: &Value) -> Kind {
    let schema = resolved(root, schema);
    if let Some(values) = schema.get("enum").and_then(Value::as_array).filter(|values| !values.is_empty()) {
        return choices(values);
    }
    match type_of(schema) {
        "string" if schema.get("maxLength").and_then(Value::as_u64).is_some_and(|most| most > 200) => {
            Kind::Long
        }
        "string" => Kind::Text,
        "integer" => Kind::Number { whole: true },
        "number" => Kind::Number { whole: false },
        "boolean" => Kind::Boolean,
        // Not by this function itself: items may be what they are items of.
        "array" if schema.get("items").is_some_and(|items| is_line(resolved(root, items))) => Kind::Lines,
        _ => Kind::Raw,
    }
}

fn field(root: &Value, name: &str, schema: &Value, required: bool) -> Field {
    let inner = resolved(root, schema);
    let own =
        |key| Some(word(schema, key)).filter(|text| !text.is_empty()).unwrap_or_else(|| word(inner, key));
    let title = Some(word(schema, "title")).filter(|title| !title.is_empty()).unwrap_or(name);
    let bound = |key: &str| inner.get(key).filter(|bound| bound.is_number()).map(Value::to_string);
    let kind = kind(root, schema);
    let value = match (schema.get("default"), &kind) {
        (Some(default), Kind::Choice(_) | Kind::Raw) if !default.is_null() => default.to_string(),
        (Some(Value::Array(lines)), Kind::Lines) => lines.iter().map(shown).collect::<Vec<_>>().join("\n"),
        // Of an optional field it is the same as leaving it empty.
        (Some(Value::Null), _) => String::new(),
        (Some(default), _) => shown(default),
        (None, _) => String::new(),
    };
    Field {
        name: name.to_owned(),
        title: title.to_owned(),
        help: own("description").to_owned(),
        required,
        kind,
        value,
        min: bound("minimum").unwrap_or_default(),
        max: bound("maximum").unwrap_or_default(),
    }
}

/// The fields for an answer to a question.
pub(super) fn fields(question: &Question) -> Vec<Field> {
    if !question.choices.is_empty() {
        let values: Vec<_> = question.choices.iter().map(|choice| Value::from(choice.as_str())).collect();
        return vec![Field::whole(choices(&values))];
    }
    match &question.schema {
        Some(schema) => fields_of(schema, "Answer"),
        None => vec![Field::whole(Kind::Raw)],
    }
}

/// The fields for a document of that schema, which is called so if it is one field.
pub(super) fn fields_of(schema: &Json, called: &str) -> Vec<Field> {
    let root = schema.value();
    let schema = resolved(&root, &root);
    let properties = schema.get("properties").and_then(Value::as_object);
    match properties.filter(|properties| word(schema, "type") == "object" && !properties.is_empty()) {
        Some(properties) => {
            let required: Vec<_> = schema
                .get("required")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let named = |(name, of): (&String, _)| field(&root, name, of, required.contains(&name.as_str()));
            properties.iter().map(named).collect()
        }
        None => {
            let whole = field(&root, "", schema, true);
            let title = if whole.title.is_empty() { called.to_owned() } else { whole.title.clone() };
            vec![Field { title, ..whole }]
        }
    }
}

/// What is filled into a field; none if it is left empty.
fn value(field: &Field, text: Option<&str>) -> Result<Option<Value>, String> {
    let title = &field.title;
    let given = text.map(str::trim).filter(|text| !text.is_empty());
    let read = |text: &str| serde_json::from_str::<Value>(text);
    Ok(match (&field.kind, given) {
        (Kind::Boolean, given) => Some(Value::from(given == Some("true"))),
        (Kind::Text | Kind::Long, _) if field.required => {
            Some(Value::from(text.unwrap_or_default().replace("\r\n", "\n")))
        }
        (_, None) if field.required => return Err(format!("`{title}` is missing")),
        (_, None) => None,
        (Kind::Text | Kind::Long, Some(_)) => text.map(|text| Value::from(text.replace("\r\n", "\n"))),
        (Kind::Choice(choices), Some(given)) => {
            let known = choices
                .iter()
                .find(|(json, _)| json == given)
                .ok_or(format!("`{title}` is not one of the choices"))?;
            Some(read(&known.0).map_err(|error| error.to_string())?)
        }
        (Kind::Number { .. }, Some(given)) => {
            let number = given.parse::<Number>().map_err(|_| format!("`{title}` has to be a number"))?;
            Some(Value::Number(number))
        }
        (Kind::Lines, Some(given)) => {
            Some(given.lines().map(str::trim).filter(|line| !line.is_empty()).collect())
        }
        (Kind::Raw, Some(given)) => {
            Some(read(given).map_err(|error| format!("`{title}` is not valid JSON: {error}"))?)
        }
    })
}

/// The answer that a form says, and the fields with what was filled in.
pub(super) fn answer(question: &Question, filled: &[(String, String)]) -> (Result<Json, String>, Vec<Field>) {
    fill(fields(question), filled)
}

/// The document that a form says, and the fields with what was filled in.
pub(super) fn fill(
    mut fields: Vec<Field>,
    filled: &[(String, String)],
) -> (Result<Json, String>, Vec<Field>) {
    let given = |key: &str| filled.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    for field in &mut fields {
        field.value = given(&field.key()).unwrap_or_default().to_owned();
    }
    (read(&fields, given), fields)
}

fn read<'a>(fields: &[Field], given: impl Fn(&str) -> Option<&'a str>) -> Result<Json, String> {
    if let [whole] = fields
        && whole.name.is_empty()
    {
        let text = given(&whole.key());
        // Taken as it was written: no digit is lost.
        if let (Kind::Raw, Some(text)) = (&whole.kind, text) {
            return Json::parse(text.trim().to_owned())
                .map_err(|error| format!("the answer is not valid JSON: {error}"));
        }
        let value = value(whole, text)?.ok_or("an answer is missing")?;
        return Json::of(&value).map_err(|error| error.to_string());
    }
    let mut object = Map::new();
    for field in fields {
        if let Some(value) = value(field, given(&field.key()))? {
            object.insert(field.name.clone(), value);
        }
    }
    Json::of(&Value::Object(object)).map_err(|error| error.to_string())
}

/// What a person is to know of the schema if there are no fields for it.
pub(super) fn schema(question: &Question) -> Option<String> {
    question.schema.as_ref().map(|schema| pretty(schema.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn question(schema: Option<&Value>, choices: &[&str]) -> Question {
        Question {
            prompt: "?".to_owned(),
            schema: schema.map(|schema| Json::of(schema).unwrap()),
            choices: choices.iter().map(ToString::to_string).collect(),
            details: None,
        }
    }

    fn answered(question: &Question, filled: &[(&str, &str)]) -> Result<Value, String> {
        let filled: Vec<_> = filled.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        answer(question, &filled).0.map(|json| json.value())
    }

    #[test]
    fn choices_are_one_field_and_nothing_else_is_taken() {
        let question = question(None, &["yes", "no <b>"]);
        assert_eq!(answered(&question, &[("f.", "\"no <b>\"")]), Ok(json!("no <b>")));
        assert!(answered(&question, &[("f.", "\"maybe\"")]).is_err());
        assert!(answered(&question, &[]).is_err());
    }

    #[test]
    fn an_object_is_a_field_for_each_property() {
        let schema = json!({ "type": "object", "required": ["ok", "n"], "properties": {
            "ok": { "type": "boolean" }, "n": { "type": "integer", "minimum": 1 }, "why": { "type": "string" },
            "tags": { "type": "array", "items": { "type": "string" } }, "size": { "enum": ["s", 2, null] },
            "any": { "type": "object" } } });
        let question = question(Some(&schema), &[]);
        assert_eq!(fields(&question).len(), 6);
        let filled = [("f.n", "7"), ("f.tags", "a\r\n\r\n b "), ("f.size", "null"), ("f.any", "{\"x\":1}")];
        assert_eq!(
            answered(&question, &filled),
            Ok(json!({ "ok": false, "n": 7, "tags": ["a", "b"], "size": null, "any": { "x": 1 } }))
        );
        assert_eq!(answered(&question, &[("f.n", "x")]), Err("`n` has to be a number".to_owned()));
        assert_eq!(answered(&question, &[("f.ok", "true")]), Err("`n` is missing".to_owned()));
    }

    #[test]
    fn fields_of_what_schemars_writes_are_no_raw_json() {
        let schema = json!({ "type": "object", "required": ["style"], "$defs": {
                "Style": { "type": "string", "enum": ["Short", "Long"], "description": "How" },
                "Nest": { "type": "array", "items": { "$ref": "#/$defs/Nest" } } },
            "properties": { "style": { "$ref": "#/$defs/Style" }, "times": { "type": ["integer", "null"], "minimum": 1 },
                "other": { "anyOf": [{ "$ref": "#/$defs/Style" }, { "type": "null" }], "default": null },
                "name": { "type": "string", "default": "world" }, "loop": { "$ref": "#" },
                "nest": { "$ref": "#/$defs/Nest" } } });
        let fields = fields_of(&Json::of(&schema).unwrap(), "Input");
        let seen: Vec<_> = fields
            .iter()
            .map(|field| (field.name.as_str(), field.is_choice(), field.value.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                ("loop", false, ""),
                ("name", false, "world"),
                ("nest", false, ""),
                ("other", true, ""),
                ("style", true, ""),
                ("times", false, "")
            ]
        );
        assert_eq!(fields[4].help, "How");
        assert!(fields[5].is_number() && fields[5].min == "1" && fields[0].is_raw() && fields[2].is_raw());
        let filled = [("f.style", "\"Long\""), ("f.times", ""), ("f.name", "Ada")];
        let filled: Vec<_> = filled.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(fill(fields, &filled).0.unwrap().value(), json!({ "style": "Long", "name": "Ada" }));
    }

    #[test]
    fn without_a_schema_any_json_is_taken_as_written() {
        let question = question(None, &[]);
        let filled = [("f.".to_owned(), " 12345678901234567890.10 ".to_owned())];
        assert_eq!(answer(&question, &filled).0.unwrap().as_str(), "12345678901234567890.10");
        assert!(answered(&question, &[("f.", "{")]).is_err());
    }
}
