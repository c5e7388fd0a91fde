//! JSON Schemas: of the answers that agents and people give.
//!
//! Schemas come from programs and answers from wherever programs like, so both may be made to keep
//! the host busy: a schema of 2 kB can refer to itself in two ways on each of forty levels. A schema
//! is bounded before it is read, by what it would be if each reference was replaced by what it refers
//! to; expressions are of the kind that takes time in proportion to the text; and checking an answer
//! ends after so many steps. Both may take a second: [`Schema::read`] and [`check_answer`] do it beside
//! the runtime's workers.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Keyword, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, oneshot};
use wfhost_core::{Json, Question};

/// Bytes of a schema.
const BYTES: usize = 256 << 10;
/// Schemas in a schema, it included.
const NODES: usize = 5_000;
/// The same, if each reference is replaced by what it refers to.
const EXPANDED: u64 = 100_000;
/// Schemas within each other, references followed. Reading and checking go as deep, checking once
/// more for each level of the answer: so deep is the stack of the threads that do it.
const DEEP: u64 = 100;
const STACK_BYTES: usize = 64 << 20;
/// Schemas that are read or used at the same time.
const AT_ONCE: usize = 4;
/// Regular expressions in a schema, and bytes of memory for each.
const PATTERNS: usize = 200;
const PATTERN_BYTES: usize = 1 << 20;
/// Schemas that an answer's parts are compared with, and for how long at most.
const STEPS: u64 = 20_000_000;
const LENGTH: Duration = Duration::from_secs(3);
/// The same where it is found out what is wrong: that may keep some hundred bytes for each.
const STEPS_OF_FAULTS: u64 = 200_000;
/// Steps between two looks at the clock.
const LOOK: u64 = 1_000;

/// The keyword that counts. It is put into each schema, where no other can stand.
const COUNTING: &str = "\u{0}wfhost";

/// An answer that does not fit the question.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadAnswer {
    #[error("it is one of {}, as a JSON string", .choices.iter().map(|choice| format!("{choice:?}")).collect::<Vec<_>>().join(", "))]
    Choice { choices: Vec<String> },
    /// What the schema finds wrong: a place in the answer and what is wrong there.
    #[error("{}", .faults.join("; "))]
    Schema { faults: Vec<String> },
}

/// Something in a JSON document that a schema does not allow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// A JSON pointer; empty for the document as a whole.
    pub path: String,
    /// The member of the object there that is too much, or has a name that may not be.
    pub member: Option<String>,
    pub message: String,
}

/// Faults of one answer that are told; the first ones are enough.
const MAX_FAULTS: usize = 5;

/// A schema that was read.
pub struct Schema {
    validator: Validator,
    work: Arc<Work>,
    /// Documents are checked one after the other, as what it costs is counted in one place.
    turn: std::sync::Mutex<()>,
}

/// What checking an answer has cost until now.
#[derive(Default)]
struct Work {
    /// That are left.
    steps: AtomicU64,
    /// When it has to be over: milliseconds since `begin`.
    begin: std::sync::Mutex<Option<Instant>>,
}

/// Unwinds out of a check that takes too much.
struct TooMuch;

impl Work {
    fn step(&self) {
        let left = self.steps.fetch_sub(1, Ordering::Relaxed);
        let begin = || *self.begin.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_late = || begin().is_some_and(|begin| begin.elapsed() > LENGTH);
        if left == 0 || left.is_multiple_of(LOOK) && is_late() {
            resume_unwind(Box::new(TooMuch));
        }
    }

    /// Does something that may take so many steps; nothing if it would take more.
    fn within<T>(&self, steps: u64, check: impl FnOnce() -> T) -> Option<T> {
        self.steps.store(steps, Ordering::Relaxed);
        *self.begin.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
        match catch_unwind(AssertUnwindSafe(check)) {
            Ok(done) => Some(done),
            Err(panic) if panic.is::<TooMuch>() => None,
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// Stands in each schema.
struct Counter(Arc<Work>);

impl<'i> Keyword<'i> for Counter {
    fn validate(&self, _: &'i Value) -> Result<(), ValidationError<'i>> {
        self.0.step();
        Ok(())
    }

    fn is_valid(&self, _: &'i Value) -> bool {
        self.0.step();
        true
    }
}

impl Schema {
    /// Reads a schema. References to other documents are not followed.
    ///
    /// # Errors
    ///
    /// It is no schema, or one that could keep the host busy.
    pub fn compile(schema: &Json) -> Result<Self, String> {
        if schema.as_str().len() > BYTES {
            return Err(format!("it has {} bytes, more than {BYTES}", schema.as_str().len()));
        }
        let mut value = schema.value();
        Nodes::check(&value)?;
        instrument(&mut value);
        let work = Arc::new(Work::default());
        let counting = Arc::clone(&work);
        let options = jsonschema::options()
            .with_pattern_options(
                PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES),
            )
            .with_keyword(COUNTING, move |_: &Map<String, Value>, _: &Value, _| {
                Ok(Box::new(Counter(Arc::clone(&counting))) as Box<dyn for<'i> Keyword<'i>>)
            });
        let validator = options.build(&value).map_err(|error| error.to_string())?;
        Ok(Self { validator, work, turn: std::sync::Mutex::default() })
    }

    /// The same beside the runtime's workers.
    ///
    /// # Errors
    ///
    /// Those of [`Schema::compile`].
    pub async fn read(schema: &Json) -> Result<Arc<Self>, String> {
        let schema = schema.clone();
        aside(move || Self::compile(&schema).map(Arc::new)).await
    }

    /// What is wrong with a document, `most` faults at most. It is wrong, too, if it takes too long
    /// to find out.
    pub fn faults(&self, document: &Json, most: usize) -> Vec<Fault> {
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let value = document.value();
        let whole = |message: String| vec![Fault { path: String::new(), member: None, message }];
        match self.work.within(STEPS, || self.validator.is_valid(&value)) {
            Some(true) => return Vec::new(),
            Some(false) => {}
            None => {
                let length = LENGTH.as_secs();
                return whole(format!(
                    "to compare it with its schema takes more than {STEPS} steps or {length} s"
                ));
            }
        }
        let fault = |error: ValidationError<'_>| Fault {
            path: error.instance_path().to_string(),
            member: member(&error),
            message: error.to_string(),
        };
        let faults = || self.validator.iter_errors(&value).take(most).map(fault).collect::<Vec<_>>();
        let found = self.work.within(STEPS_OF_FAULTS, faults).filter(|found| !found.is_empty());
        found.unwrap_or_else(|| whole("it does not fit; to find out where takes too long".to_owned()))
    }
}

/// The member that a fault of an object is about.
fn member(error: &ValidationError<'_>) -> Option<String> {
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => unexpected.first().cloned(),
        _ => None,
    }
}

/// Keywords whose value is a schema, or a list of schemas.
const SCHEMAS: [&str; 18] = [
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "items",
    "additionalItems",
    "prefixItems",
    "contains",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
    "extends",
    "disallow",
];

/// Keywords whose value has schemas by names.
const NAMED: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];

/// The schemas right within one, each with the rest of its place.
fn within(schema: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    let Value::Object(members) = schema else { return found };
    for (key, value) in members {
        match value {
            Value::Array(list) if SCHEMAS.contains(&key.as_str()) => {
                let numbered = list.iter().enumerate();
                found.extend(numbered.map(|(index, value)| (format!("/{key}/{index}"), value)));
            }
            _ if SCHEMAS.contains(&key.as_str()) => found.push((format!("/{key}"), value)),
            Value::Object(named) if NAMED.contains(&key.as_str()) => {
                found.extend(named.iter().map(|(name, value)| (format!("/{key}/{}", escaped(name)), value)));
            }
            _ => {}
        }
    }
    found.retain(|(_, value)| value.is_object());
    found
}

/// A name in a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Has each schema count when it is used.
fn instrument(schema: &mut Value) {
    let Value::Object(members) = schema else { return };
    for (key, value) in members.iter_mut() {
        match value {
            Value::Array(list) if SCHEMAS.contains(&key.as_str()) => list.iter_mut().for_each(instrument),
            _ if SCHEMAS.contains(&key.as_str()) => instrument(value),
            Value::Object(named) if NAMED.contains(&key.as_str()) => named.values_mut().for_each(instrument),
            _ => {}
        }
    }
    members.insert(COUNTING.to_owned(), Value::Bool(true));
}

/// The schemas of a schema by their places.
struct Nodes<'a> {
    by_place: HashMap<String, &'a Value>,
    by_anchor: HashMap<&'a str, &'a Value>,
    patterns: usize,
    /// What each is with all that it refers to, and how deep that goes; none while that is counted.
    expanded: HashMap<*const Value, Option<(u64, u64)>>,
}

impl<'a> Nodes<'a> {
    fn check(schema: &'a Value) -> Result<(), String> {
        let mut nodes = Self {
            by_place: HashMap::new(),
            by_anchor: HashMap::new(),
            patterns: 0,
            expanded: HashMap::new(),
        };
        nodes.collect(String::new(), schema)?;
        if nodes.patterns > PATTERNS {
            return Err(format!("it has {} regular expressions, more than {PATTERNS}", nodes.patterns));
        }
        match nodes.expand(schema)? {
            (_, deep) if deep > DEEP => Err(format!("it goes more than {DEEP} schemas deep")),
            (expanded, _) if expanded > EXPANDED => Err(format!(
                "it is more than {EXPANDED} schemas if each reference is replaced by what it refers to"
            )),
            _ => Ok(()),
        }
    }

    fn collect(&mut self, place: String, schema: &'a Value) -> Result<(), String> {
        if self.by_place.len() >= NODES {
            return Err(format!("it holds more than {NODES} schemas"));
        }
        for anchor in ["$anchor", "$id", "id"] {
            // An old form: "$id": "#name".
            if let Some(name) = schema.get(anchor).and_then(Value::as_str) {
                self.by_anchor.insert(name.strip_prefix('#').unwrap_or(name), schema);
            }
        }
        self.patterns += usize::from(schema.get("pattern").is_some());
        self.patterns +=
            schema.get("patternProperties").and_then(Value::as_object).map_or(0, serde_json::Map::len);
        for (rest, inner) in within(schema) {
            self.collect(format!("{place}{rest}"), inner)?;
        }
        self.by_place.insert(place, schema);
        Ok(())
    }

    fn expand(&mut self, schema: &'a Value) -> Result<(u64, u64), String> {
        let key = std::ptr::from_ref(schema);
        match self.expanded.get(&key) {
            Some(Some(known)) => return Ok(*known),
            // It refers to itself: how often that is followed is up to the answer.
            Some(None) => return Ok((0, 0)),
            None => {}
        }
        self.expanded.insert(key, None);
        let mut inner: Vec<_> = within(schema).into_iter().map(|(_, inner)| inner).collect();
        for keyword in ["$dynamicRef", "$recursiveRef"] {
            if schema.get(keyword).is_some() {
                return Err(format!("it uses `{keyword}`; use `$ref`"));
            }
        }
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            inner.push(self.target(reference)?);
        }
        let (mut total, mut deep) = (1u64, 0);
        for inner in inner {
            let (of_inner, deep_inner) = self.expand(inner)?;
            total = total.saturating_add(of_inner);
            deep = deep_inner.max(deep);
        }
        self.expanded.insert(key, Some((total, deep + 1)));
        Ok((total, deep + 1))
    }

    fn target(&self, reference: &str) -> Result<&'a Value, String> {
        let unknown = || format!("it refers to `{reference}`, where it holds no schema");
        let Some(fragment) = reference.strip_prefix('#') else {
            let known = self.by_anchor.get(reference).copied();
            return known.ok_or_else(|| format!("it refers to another document: `{reference}`"));
        };
        let plain = fragment.replace("%25", "%").replace("%24", "$").replace("%7B", "{").replace("%7D", "}");
        let found = self.by_place.get(fragment).or_else(|| self.by_place.get(&plain));
        found.or_else(|| self.by_anchor.get(fragment)).copied().ok_or_else(unknown)
    }
}

thread_local! {
    /// Whether work with schemas is done on this thread: see [`on_one_thread`].
    static HERE: Cell<bool> = const { Cell::new(false) };
}

/// The stack of a thread of [`on_one_thread`] beyond what schemas need.
const MORE_STACK_BYTES: usize = 8 << 20;

/// Does `work` on a thread on which work with schemas is done synchronously. For simulations: their virtual
/// time would jump ahead while another thread works, and the order of results would be that of the system.
pub fn on_one_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let stack_bytes = STACK_BYTES + MORE_STACK_BYTES;
        let thread = std::thread::Builder::new().name("simulation".to_owned()).stack_size(stack_bytes);
        let begun = thread.spawn_scoped(scope, || {
            HERE.set(true);
            work()
        });
        match begun.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(error) => panic!("the system gives no thread: {error}"),
        }
    })
}

/// Does what takes its time with schemas on a thread that has the stack for it, and holds up nobody.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if HERE.get() {
        return work();
    }
    static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(AT_ONCE)));
    let turn = Arc::clone(&TURNS).acquire_owned().await;
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name("schema".to_owned()).stack_size(STACK_BYTES);
    let begun = thread.spawn(move || {
        let done = catch_unwind(AssertUnwindSafe(work));
        // Also if nothing waits for it any more.
        drop(turn);
        let _ = tell.send(done);
    });
    if let Err(error) = begun {
        panic!("the system gives no thread: {error}");
    }
    match told.await {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => unreachable!("it tells in any case"),
    }
}

/// Checks an answer against the choices and the schema of a question, beside the runtime's workers.
///
/// # Errors
///
/// It does not fit.
pub async fn check_answer(question: &Question, answer: &Json) -> Result<(), BadAnswer> {
    if question.schema.is_none() {
        // That takes no time.
        return check(question, answer);
    }
    let (question, answer) = (question.clone(), answer.clone());
    aside(move || check(&question, &answer)).await
}

/// Whether a document fits, beside the runtime's workers: what `work` makes of the schema.
pub async fn with<T: Send + 'static>(
    schema: &Arc<Schema>,
    work: impl FnOnce(&Schema) -> T + Send + 'static,
) -> T {
    let schema = Arc::clone(schema);
    aside(move || work(&schema)).await
}

/// Checks an answer against the choices and the schema of a question.
///
/// # Errors
///
/// It does not fit.
pub fn check(question: &Question, answer: &Json) -> Result<(), BadAnswer> {
    let is_choice = || {
        let value = answer.value();
        value.as_str().is_some_and(|text| question.choices.iter().any(|choice| choice == text))
    };
    if !question.choices.is_empty() && !is_choice() {
        return Err(BadAnswer::Choice { choices: question.choices.clone() });
    }
    let Some(schema) = &question.schema else { return Ok(()) };
    let schema = Schema::compile(schema).map_err(|error| BadAnswer::Schema {
        faults: vec![format!("the question has a schema that cannot be used: {error}")],
    })?;
    let faults: Vec<_> = schema
        .faults(answer, MAX_FAULTS)
        .into_iter()
        .map(|fault| match fault.path.as_str() {
            "" => fault.message,
            place => format!("{place}: {}", fault.message),
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(BadAnswer::Schema { faults }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn question(choices: &[&str], schema: Option<serde_json::Value>) -> Question {
        Question {
            prompt: "?".to_owned(),
            schema: schema.map(Json::from),
            choices: choices.iter().map(|&choice| choice.to_owned()).collect(),
            details: None,
        }
    }

    /// Schemas of the keywords that have schemas in them, and of others with any values.
    fn any_schema() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(true)),
            Just(json!({})),
            proptest::sample::select(&["object", "array", "string", "integer", "number", "null", "none"][..])
                .prop_map(|kind| json!({ "type": kind })),
            proptest::sample::select(
                &["#", "#/$defs/a", "#/$defs/b", "#a", "http://h/x", "#/properties/a"][..]
            )
            .prop_map(|to| json!({ "$ref": to })),
            ".{0,12}".prop_map(|pattern| json!({ "pattern": pattern })),
            any::<i64>().prop_map(|n| json!({ "minimum": n, "multipleOf": n, "maxLength": n })),
        ];
        let keyword = proptest::sample::select(&SCHEMAS[..]).prop_map(str::to_owned);
        leaf.prop_recursive(5, 40, 4, move |inner| {
            let named = proptest::collection::btree_map("[ab]", inner.clone(), 0..3);
            let several = proptest::collection::vec(inner.clone(), 0..4);
            prop_oneof![
                (keyword.clone(), inner.clone()).prop_map(|(key, inner)| json!({ key: inner })),
                (keyword.clone(), several).prop_map(|(key, several)| json!({ key: several })),
                (proptest::sample::select(&NAMED[..]), named).prop_map(|(key, named)| json!({ key: named })),
                (inner.clone(), inner)
                    .prop_map(|(a, b)| json!({ "$defs": { "a": a }, "anyOf": [b, { "$ref": "#/$defs/a" }] })),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Each is refused, or says of any document in bounded time whether it fits.
        #[test]
        fn any_schema_is_refused_or_used(schema in any_schema(), depth in 0..12_usize) {
            if let Ok(schema) = Schema::compile(&Json::from(schema)) {
                let document = (0..depth).fold(json!("x"), |inner, _| json!({ "a": inner, "b": [1, inner] }));
                prop_assert!(schema.faults(&Json::from(document), MAX_FAULTS).len() <= MAX_FAULTS);
            }
        }
    }

    #[test]
    fn choices_are_checked() {
        let question = question(&["red", "green"], None);
        assert_eq!(check(&question, &Json::from(json!("red"))), Ok(()));
        let error = check(&question, &Json::from(json!("blue"))).unwrap_err();
        assert_eq!(error.to_string(), r#"it is one of "red", "green", as a JSON string"#);
    }

    #[test]
    fn a_schema_says_where_an_answer_is_wrong() {
        let schema = json!({"type": "object", "required": ["ok"], "properties": {"n": {"maximum": 3}}});
        let question = question(&[], Some(schema));
        assert_eq!(check(&question, &Json::from(json!({"ok": true}))), Ok(()));
        let error = check(&question, &Json::from(json!({"n": 4}))).unwrap_err().to_string();
        assert!(error.contains("\"ok\" is a required property"), "{error}");
        assert!(error.contains("/n: 4 is greater than the maximum of 3"), "{error}");
    }

    #[test]
    fn a_schema_that_is_none_is_an_error() {
        let refused = |schema| Schema::compile(&Json::from(schema)).err().expect("it is refused");
        refused(json!({"type": 7}));
        assert!(refused(json!({"$ref": "https://example.com/x"})).contains("another document"));
        assert!(refused(json!({"$ref": "#/x", "x": {}})).contains("holds no schema"));
        assert!(refused(json!({"$dynamicRef": "#x"})).contains("use `$ref`"));
    }

    /// `levels` schemas, each of which refers twice to the next one, in a place of the answer or in the same.
    fn doubling(levels: usize, deeper: bool) -> serde_json::Value {
        let next = |level: usize| json!({ "$ref": format!("#/$defs/a{}", (level + 1) % levels) });
        let next =
            |level: usize| if deeper { json!({ "properties": { "a": next(level) } }) } else { next(level) };
        let defs = (0..levels).map(|level| {
            let last = level + 1 == levels && !deeper;
            let body = if last { json!({}) } else { json!({ "allOf": [next(level), next(level)] }) };
            (format!("a{level}"), body)
        });
        json!({ "$defs": defs.collect::<serde_json::Map<_, _>>(), "$ref": "#/$defs/a0" })
    }

    #[test]
    fn a_schema_that_doubles_at_each_level_is_refused_before_it_is_read() {
        let schema = Json::from(doubling(34, false));
        assert!(schema.as_str().len() < 3_000);
        assert!(Schema::compile(&schema).err().expect("refused").contains("more than 100000 schemas"));
        assert!(Schema::compile(&Json::from(doubling(10, false))).is_ok());
        let many = json!({ "allOf": vec![json!({}); 6_000] });
        assert!(Schema::compile(&Json::from(many)).err().expect("refused").contains("more than 5000"));
        let long = json!({ "enum": vec![json!("x".repeat(100)); 3_000] });
        assert!(Schema::compile(&Json::from(long)).err().expect("refused").contains("bytes"));
    }

    /// Each level is followed by the next: the deepest that there can be has to fit the stack.
    #[tokio::test]
    async fn the_deepest_schema_and_answer_are_checked() {
        let chain = |levels: usize| {
            let defs = (0..levels).map(|level| {
                let next = json!({ "$ref": format!("#/$defs/a{}", (level + 1) % levels) });
                let last = level + 1 == levels;
                let body =
                    if last { json!({ "properties": { "a": next } }) } else { json!({ "allOf": [next] }) };
                (format!("a{level}"), body)
            });
            json!({ "$defs": defs.collect::<serde_json::Map<_, _>>(), "$ref": "#/$defs/a0" })
        };
        let answer = Json::from((0..120).fold(json!(1), |inner, _| json!({ "a": inner })));
        let schema = Schema::read(&Json::from(chain(45))).await.unwrap();
        assert_eq!(with(&schema, move |schema| schema.faults(&answer, 5)).await, []);
        let refused = Schema::read(&Json::from(chain(2_000))).await.err().expect("refused");
        assert!(refused.contains("schemas deep"), "{refused}");
    }

    #[test]
    fn an_answer_that_a_schema_looks_at_for_ever_does_not_fit() {
        let schema = Schema::compile(&Json::from(doubling(3, true))).unwrap();
        let nested = |depth, inner| (0..depth).fold(inner, |inner, _| json!({ "a": inner }));
        assert_eq!(schema.faults(&Json::from(nested(100, json!(1))), 5), []);
        // Each level of the answer fits neither of two schemas, which are the same.
        let either = json!({ "anyOf": [{ "$ref": "#/$defs/t" }, { "$ref": "#/$defs/t" }] });
        let t = json!({ "type": "object", "properties": { "a": either } });
        let schema =
            Schema::compile(&Json::from(json!({ "$defs": { "t": t }, "$ref": "#/$defs/t" }))).unwrap();
        assert_eq!(schema.faults(&Json::from(nested(2, json!("x"))), 5)[0].path, "/a");
        for depth in [20, 100] {
            let faults = schema.faults(&Json::from(nested(depth, json!("x"))), 5);
            assert!(faults.len() == 1 && faults[0].message.contains("takes"), "{faults:?}");
        }
        // It can be used again.
        assert_eq!(schema.faults(&Json::from(nested(20, json!({}))), 5), []);
    }

    #[test]
    fn checks_of_one_schema_at_the_same_time_are_each_bounded() {
        let either = json!({ "anyOf": [{ "$ref": "#/$defs/t" }, { "$ref": "#/$defs/t" }] });
        let t = json!({ "type": "object", "properties": { "a": either } });
        let schema = Json::from(json!({ "$defs": { "t": t }, "$ref": "#/$defs/t" }));
        let schema = Schema::compile(&schema).unwrap();
        let nested = |inner| Json::from((0..100).fold(inner, |inner, _| json!({ "a": inner })));
        std::thread::scope(|scope| {
            let dear = scope.spawn(|| schema.faults(&nested(json!("x")), 5));
            for _ in 0..50 {
                assert_eq!(schema.faults(&nested(json!({})), 5), []);
            }
            assert!(dear.join().unwrap()[0].message.contains("takes"));
        });
    }

    #[test]
    fn expressions_take_time_in_proportion_to_the_text() {
        let schema = Schema::compile(&Json::from(json!({ "pattern": "^(a|a|aa)+$" }))).unwrap();
        let text = format!("{}b", "a".repeat(100_000));
        assert_eq!(schema.faults(&Json::from(json!(text)), 5).len(), 1);
        assert!(Schema::compile(&Json::from(json!({ "pattern": "((a{1000}){1000}){1000}" }))).is_err());
    }

    /// What programs of all languages make of their types.
    #[test]
    fn ordinary_schemas_mean_what_they_did() {
        let schema = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": { "Node": {
                "type": "object", "required": ["name"], "additionalProperties": false,
                "properties": {
                    "name": { "type": "string" },
                    "children": { "type": "array", "items": { "$ref": "#/definitions/Node" } },
                },
            } },
            "allOf": [{ "$ref": "#/definitions/Node" }],
        });
        let schema = Schema::compile(&Json::from(schema)).unwrap();
        let good = json!({ "name": "a", "children": [{ "name": "b", "children": [] }] });
        assert_eq!(schema.faults(&Json::from(good), 5), []);
        let bad = schema.faults(&Json::from(json!({ "name": "a", "children": [{ "title": "b" }] })), 5);
        assert!(bad.iter().all(|fault| fault.path.starts_with("/children/0")) && !bad.is_empty(), "{bad:?}");
    }
}
