//! Answers that have to fit a schema: finding the JSON within what an agent
//! said, and saying what was wrong with it.

use serde_json::Value;

use crate::Json;

/// Turns in which an agent may correct its answer, within one attempt.
pub const CORRECTIONS: u32 = 3;
/// Errors of one answer that the agent is told.
const ERRORS_TOLD: usize = 10;

/// What an agent is told beside the prompt, so that its answer fits.
pub fn instruction(schema: &Json) -> String {
    format!(
        "Answer with JSON only, without any text around it. It has to match this JSON Schema:\n```json\n{schema}\n```"
    )
}

/// One place where an answer does not fit.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct SchemaError {
    /// A JSON pointer into the answer; empty for the answer as a whole.
    pub path: String,
    pub message: String,
}

/// The JSON values in what an agent said, the most likely one first: the text
/// as it is; the code fences, the last one first; the last balanced object or
/// array within prose.
pub fn candidates(text: &str) -> Vec<Json> {
    let mut found: Vec<Json> = Vec::new();
    let mut add = |text: &str| {
        if let Ok(json) = Json::parse(text.trim().to_owned())
            && !found.contains(&json)
        {
            found.push(json);
        }
    };
    add(text);
    for fence in fences(text).into_iter().rev() {
        add(fence);
    }
    if let Some(value) = last_balanced(text) {
        add(value);
    }
    found
}

/// The contents of the code fences of a Markdown text, in order. A fence that
/// is not closed goes on to the end.
fn fences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut open: Option<(&str, usize)> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let trimmed = line.trim();
        match open {
            None => {
                let marker = ["```", "~~~"].into_iter().find(|marker| trimmed.starts_with(marker));
                // A fence on a single line is code within a sentence.
                if let Some(marker) = marker
                    && !trimmed[marker.len()..].contains(marker)
                {
                    open = Some((marker, at));
                }
            }
            Some((marker, from)) if trimmed.starts_with(marker) => {
                found.push(&text[from..start]);
                open = None;
            }
            Some(_) => {}
        }
    }
    if let Some((_, from)) = open {
        found.push(&text[from..]);
    }
    found
}

/// The last object or array of a text that is valid JSON and stands in no
/// other one. Linear: each opening bracket that begins a value is parsed once,
/// and what was parsed is skipped.
fn last_balanced(text: &str) -> Option<&str> {
    let mut last = None;
    let mut at = 0;
    // Text full of brackets that open nothing would be read again for each of them.
    let mut reread = 4 * text.len() + (1 << 16);
    while let Some(offset) = text[at..].find(['{', '[']) {
        let start = at + offset;
        match value_at(&text[start..]) {
            Ok(length) => {
                last = Some(&text[start..start + length]);
                at = start + length;
            }
            Err(read) => {
                at = start + 1;
                match reread.checked_sub(read) {
                    Some(left) => reread = left,
                    None => return last,
                }
            }
        }
    }
    last
}

/// The length of the JSON value that `text` begins with, or how far it was read
/// in vain.
fn value_at(text: &str) -> Result<usize, usize> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    match stream.next() {
        Some(Ok(_)) => Ok(stream.byte_offset()),
        Some(Err(error)) => Err(bytes_before(text, error.line(), error.column())),
        None => Err(text.len()),
    }
}

/// How many bytes stand before a place that `serde_json` named.
fn bytes_before(text: &str, line: usize, column: usize) -> usize {
    let lines = text.split_inclusive('\n').take(line.saturating_sub(1));
    lines.map(str::len).sum::<usize>() + column
}

/// What is said to an agent whose answer did not fit. `errors` is empty if no
/// JSON was found at all.
pub fn correction(schema: &Json, errors: &[SchemaError]) -> String {
    let mut text = match errors {
        [] => "Your answer contains no JSON.".to_owned(),
        _ => "Your answer does not match the JSON Schema:".to_owned(),
    };
    for error in errors.iter().take(ERRORS_TOLD) {
        let path = if error.path.is_empty() { "the whole answer" } else { error.path.as_str() };
        text.push_str(&format!("\n- at {path}: {}", error.message));
    }
    if let Some(more) = errors.len().checked_sub(ERRORS_TOLD).filter(|more| *more > 0) {
        text.push_str(&format!("\n- and {more} more"));
    }
    text.push_str("\n\n");
    text.push_str(&instruction(schema));
    text
}

/// The errors for programs: `details` of the failure `invalid-output`.
pub fn details(answer: &str, errors: &[SchemaError]) -> Json {
    const SHOWN: usize = 4_096;
    let cut = answer.floor_char_boundary(SHOWN);
    Json::from(serde_json::json!({
        "answer": &answer[..cut],
        "errors": errors.iter().take(100)
            .map(|error| serde_json::json!({"path": error.path, "message": error.message}))
            .collect::<Vec<Value>>(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(text: &str) -> Vec<String> {
        candidates(text).into_iter().map(Json::into_string).collect()
    }

    #[test]
    fn json_as_it_is() {
        assert_eq!(found(" {\"a\": 1}\n"), ["{\"a\": 1}"]);
        assert_eq!(found("3.5"), ["3.5"]);
        assert_eq!(found("\"text\""), ["\"text\""]);
    }

    #[test]
    fn json_in_a_fence() {
        let text = "Here it is:\n```json\n{\"a\": 1}\n```\nHope it helps {not json}.";
        assert_eq!(found(text), ["{\"a\": 1}"]);
        let open = "Sure\n```\n[1, 2]";
        assert_eq!(found(open), ["[1, 2]"]);
    }

    #[test]
    fn of_several_fences_the_last_goes_first() {
        let text = "A draft:\n```json\n{\"a\": 1}\n```\nand better:\n~~~\n{\"a\": 2}\n~~~\n";
        assert_eq!(found(text), ["{\"a\": 2}", "{\"a\": 1}"]);
    }

    #[test]
    fn the_last_object_in_prose() {
        let text = "First {\"draft\": true}, then {the thing}: {\"a\": {\"b\": [1]}, \"s\": \"}\"} - done.";
        assert_eq!(found(text), ["{\"a\": {\"b\": [1]}, \"s\": \"}\"}"]);
        assert_eq!(found("see [1] and { broken"), ["[1]"]);
    }

    #[test]
    fn prose_alone_holds_nothing() {
        assert!(found("I cannot do that.").is_empty());
        assert!(found("").is_empty());
    }

    #[test]
    fn brackets_without_end_take_no_quadratic_time() {
        let text = "[".repeat(200_000);
        let begun = std::time::Instant::now();
        assert!(found(&text).is_empty());
        let text = "{\"a\":".repeat(100_000);
        assert!(found(&text).is_empty());
        let text = "[1,\n".repeat(100_000);
        assert!(found(&text).is_empty());
        assert!(begun.elapsed() < std::time::Duration::from_secs(60));
    }

    #[test]
    fn a_correction_names_the_places() {
        let schema = Json::parse("{\"type\":\"object\"}".to_owned()).unwrap();
        let error = |path: &str| SchemaError { path: path.to_owned(), message: "is missing".to_owned() };
        let text = correction(&schema, &[error("/a"), error("")]);
        assert!(text.contains("- at /a: is missing\n- at the whole answer: is missing"), "{text}");
        assert!(text.contains("{\"type\":\"object\"}"));
        let many: Vec<_> = (0..15).map(|i| error(&format!("/{i}"))).collect();
        assert!(correction(&schema, &many).contains("- and 5 more"));
        assert!(correction(&schema, &[]).starts_with("Your answer contains no JSON."));
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "\\PC*") {
            let _ = candidates(&text);
        }

        #[test]
        fn an_object_is_found_whatever_stands_around_it(
            before in "[a-z {}\\[\\]`\"\n]{0,40}", key in "[a-z]{1,8}", after in "[a-z .,]{0,40}",
        ) {
            let object = format!("{{\"{key}\":1}}");
            // A quote or a bracket before may make the object part of something else; then it is
            // found as part of a larger value or not at all, but nothing breaks.
            let text = format!("{before}{object}{after}");
            let all = candidates(&text);
            if !before.contains(['"', '{', '[', '`']) {
                prop_assert!(all.iter().any(|json| json.as_str() == object));
            }
        }
    }
}
