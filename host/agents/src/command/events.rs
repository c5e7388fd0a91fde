//! What programs say in lines of JSON.
//!
//! Whether a failure means that the user is not logged in is told by the fields that
//! a program has for that, never by words within a text: a text may be about
//! anything.

use std::collections::BTreeMap;

use serde_json::Value;
use wfhost_core::{Failure, FailureKind, Json, Usage};

use super::codex;
use crate::web::shorten;
use crate::{CallEvent, CallFailure, CallOutput, Lines, Stream, without_escapes};

/// What was gathered from the lines of a program.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The answer as text.
    pub text: Option<String>,
    /// The answer as JSON.
    pub output: Option<Json>,
    pub session: Option<String>,
    pub model: Option<String>,
    pub usage: Option<Usage>,
    /// The usage is that of the whole conversation, the turns before included.
    pub counts_all: bool,
    pub failure: Option<CallFailure>,
    /// The program would go on for long without any hope.
    pub is_hopeless: bool,
    /// The first line that was no event, where such lines may be.
    pub stray: Option<String>,
    /// What is wrong with the first line that was no event, where there may be none.
    pub garbage: Option<String>,
    /// What each message of the agent consumed, by its id, until the program tells what all of it did.
    messages: BTreeMap<String, Usage>,
    /// The service refused the login of the program.
    pub(super) refused: u32,
    /// The answer that comes in pieces, for those who watch.
    pub(super) pieces: Option<Lines>,
}

impl Said {
    /// Shows a piece of an answer: whole lines only, so that a secret that is
    /// split over pieces is found.
    fn piece(&mut self, piece: &str, out: &CallOutput) {
        self.pieces.get_or_insert_with(|| Lines::new(out.clone(), Stream::Answer)).push(piece);
    }

    /// What this call has used, if the conversation had used `before` before it.
    pub(super) fn used_since(&self, before: Option<Usage>) -> Option<Usage> {
        let before = before.filter(|_| self.counts_all);
        self.usage.map(|total| before.map_or(total, |before| codex::difference(total, before)))
    }

    /// Shows what was said up to now.
    pub(super) fn finish(&mut self) {
        if let Some(mut pieces) = self.pieces.take() {
            pieces.finish();
        }
    }
}

/// Refused logins after which a program is not left to try on.
const REFUSALS: u32 = 3;

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// A failure that a program reported. `auth`: the user is not logged in, or has to pay.
fn failed(message: &str, auth: bool) -> CallFailure {
    let message = format!("the agent reported an error: {}", shorten(&without_escapes(message)));
    match auth {
        true => CallFailure::auth(message),
        false => CallFailure::new(FailureKind::Failed, message),
    }
}

/// A status of an authentication or billing failure.
fn is_auth_status(status: &Value) -> bool {
    matches!(status.as_u64(), Some(401 | 402))
}

fn show(text: &str, out: &CallOutput) {
    for line in text.lines() {
        out.line(Stream::Answer, line);
    }
}

fn progress(out: &CallOutput, text: impl AsRef<str>) {
    out.line(Stream::Progress, without_escapes(text.as_ref()));
}

/// A few words of what a tool was asked for.
fn brief(input: &Value) -> String {
    let known = ["command", "file_path", "path", "filePath", "url", "query", "pattern"];
    let found = known.iter().find_map(|name| input[*name].as_str());
    found.map(|text| format!(": {}", shorten(text))).unwrap_or_default()
}

/// The lines of the format `jsonl`.
pub(super) fn own(said: &mut Said, event: &Value, out: &CallOutput) -> Result<(), CallFailure> {
    if let Some(line) = event["line"].as_str() {
        out.line(Stream::Answer, line);
    }
    if let Some(line) = event["progress"].as_str() {
        out.line(Stream::Progress, line);
    }
    if let Some(heartbeat) = event.get("heartbeat") {
        out.send(CallEvent::Heartbeat(Json::from(heartbeat.clone())));
    }
    if let Some(output) = event.get("output") {
        said.output = Some(Json::from(output.clone()));
    }
    said.session = text(&event["session"]).or(said.session.take());
    said.model = text(&event["model"]).or(said.model.take());
    if let Some(usage) = event.get("usage") {
        let usage = serde_json::from_value::<Usage>(usage.clone()).map_err(|error| {
            CallFailure::new(
                FailureKind::InvalidOutput,
                format!("the program's usage cannot be read: {error}"),
            )
        })?;
        said.usage = Some(usage);
    }
    if let Some(error) = event.get("error") {
        let message = text(error).unwrap_or_else(|| error.to_string());
        let kind = serde_json::from_value(event["kind"].clone()).unwrap_or(FailureKind::Failed);
        let details = event.get("details").cloned().map(Json::from);
        let failure = Failure { details, ..Failure::new(kind, message) };
        let auth = event["auth"].as_bool().unwrap_or(false);
        said.failure =
            Some(CallFailure { auth, retry_after_ms: event["retry_after_ms"].as_u64(), ..failure.into() });
    }
    Ok(())
}

/// The `stream-json` lines of Claude Code, which Cursor's and Amp's programs write as well.
pub(super) fn claude(said: &mut Said, event: &Value, out: &CallOutput) {
    said.session = text(&event["session_id"]).or(said.session.take());
    match event["type"].as_str().unwrap_or_default() {
        "system" if event["subtype"] == "api_retry" => {
            let error = event["error"].as_str().unwrap_or("unknown");
            let status = event["error_status"].as_u64();
            progress(
                out,
                format!(
                    "the service refused ({}{error}); retry {} of {}",
                    status.map(|status| format!("{status} ")).unwrap_or_default(),
                    event["attempt"],
                    event["max_retries"]
                ),
            );
            if is_auth_status(&event["error_status"]) {
                said.refused += 1;
                said.is_hopeless = said.refused >= REFUSALS;
                if said.is_hopeless {
                    said.failure = Some(failed(&format!("the service refused the login: {error}"), true));
                }
            }
        }
        "system" => said.model = text(&event["model"]).or(said.model.take()),
        "assistant" => {
            if matches!(event["error"].as_str(), Some("authentication_failed" | "billing_error")) {
                said.refused = REFUSALS;
            }
            if let (Some(id), Some(usage)) =
                (text(&event["message"]["id"]), claude_usage(&event["message"]["usage"]))
            {
                // One message comes in several events, each with what all of it consumed up to then.
                let known = said.messages.insert(id, usage).unwrap_or_default();
                let other = codex::difference(said.usage.unwrap_or_default(), known);
                said.usage = Some(other.plus(usage));
            }
            for block in event["message"]["content"].as_array().into_iter().flatten() {
                if let Some(text) = block["text"].as_str() {
                    show(text, out);
                }
                if let Some(tool) = block["name"].as_str() {
                    progress(out, format!("uses {tool}{}", brief(&block["input"])));
                }
            }
        }
        "result" => {
            let cost = event["total_cost_usd"].as_f64().map(|usd| (usd * 1e6).round().max(0.0) as u64);
            let usage = claude_usage(&event["usage"]);
            if usage.is_some() || cost.is_some() {
                let tokens = usage.or(said.usage).unwrap_or_default();
                said.usage = Some(Usage { cost_micros: cost.unwrap_or(0), ..tokens });
            }
            // The call may succeed all the same.
            for denied in event["permission_denials"].as_array().into_iter().flatten() {
                let tool = denied["tool_name"].as_str().unwrap_or("a tool");
                progress(out, format!("was not allowed to use {tool}{}", brief(&denied["tool_input"])));
            }
            let result = event["result"].as_str();
            let subtype = event["subtype"].as_str().unwrap_or("success");
            if event["is_error"] == true || subtype != "success" {
                let mut messages: Vec<_> = result.or(event["error"].as_str()).into_iter().collect();
                let errors = event["errors"].as_array().into_iter().flatten();
                messages.extend(errors.filter_map(|error| error.as_str().or(error["message"].as_str())));
                messages.dedup();
                let message = match messages.is_empty() {
                    true => subtype.to_owned(),
                    false => messages.join("; "),
                };
                let auth = said.refused >= REFUSALS || is_auth_status(&event["api_error_status"]);
                said.failure = Some(failed(&message, auth));
            } else {
                said.text = result.map(str::to_owned);
                // An error before it was overcome.
                said.failure = None;
            }
        }
        _ => {}
    }
}

/// What a `usage` object of the messages API says, which counts cached input apart.
fn claude_usage(value: &Value) -> Option<Usage> {
    let count = |name: &str| value[name].as_u64().unwrap_or(0);
    let cached = count("cache_read_input_tokens");
    value.is_object().then(|| Usage {
        input_tokens: count("input_tokens")
            .saturating_add(cached)
            .saturating_add(count("cache_creation_input_tokens")),
        output_tokens: count("output_tokens"),
        cached_tokens: cached,
        cost_micros: 0,
    })
}

/// The lines of `codex exec --json`.
pub(super) fn codex(said: &mut Said, event: &Value, out: &CallOutput) {
    let item = &event["item"];
    let kind = item["type"].as_str().or(item["item_type"].as_str()).unwrap_or_default();
    match (event["type"].as_str().unwrap_or_default(), kind) {
        ("thread.started", _) => said.session = text(&event["thread_id"]),
        ("item.started", "command_execution") => {
            progress(out, format!("runs {}", shorten(item["command"].as_str().unwrap_or_default())));
        }
        ("item.started", "mcp_tool_call") => {
            let tool = |name: &str| item[name].as_str().unwrap_or("?");
            progress(out, format!("uses {} of {}", tool("tool"), tool("server")));
        }
        ("item.started", "web_search") => {
            progress(out, format!("searches {}", shorten(item["query"].as_str().unwrap_or_default())));
        }
        // The last message is the answer.
        ("item.completed", "agent_message" | "assistant_message") => {
            said.text = text(&item["text"]);
            show(item["text"].as_str().unwrap_or_default(), out);
        }
        ("item.completed", "command_execution") => {
            if let Some(code @ 1..) = item["exit_code"].as_i64() {
                progress(out, format!("the command ended with exit code {code}"));
            }
            if item["status"] == "declined" {
                progress(out, "the command was not allowed");
            }
        }
        ("item.completed", "file_change") => {
            for change in item["changes"].as_array().into_iter().flatten() {
                let word = |name: &str| change[name].as_str().unwrap_or("?");
                progress(out, format!("changes {} ({})", word("path"), word("kind")));
            }
        }
        ("item.completed", "error") => progress(out, item["message"].as_str().unwrap_or("an error")),
        ("turn.completed", _) => {
            let count = |name: &str| event["usage"][name].as_u64().unwrap_or(0);
            said.usage = Some(Usage {
                input_tokens: count("input_tokens"),
                output_tokens: count("output_tokens"),
                cached_tokens: count("cached_input_tokens"),
                cost_micros: 0,
            });
            said.counts_all = true;
            // An error before it was overcome.
            said.failure = None;
        }
        ("turn.failed", _) => {
            said.failure =
                Some(codex_failed(event["error"]["message"].as_str().unwrap_or("the turn failed")));
        }
        ("error", _) => {
            let message = event["message"].as_str().unwrap_or("an error");
            progress(out, message);
            said.failure = Some(codex_failed(message));
        }
        _ => {}
    }
}

/// codex has no field for the status: it writes it at the beginning of its own
/// message, before what the service said.
fn codex_failed(message: &str) -> CallFailure {
    let status = message.strip_prefix("unexpected status ").and_then(|rest| rest.split(' ').next());
    let auth =
        matches!(status, Some("401" | "402")) || message.starts_with("Missing environment variable: `");
    failed(message, auth)
}

/// codex without any login ends with this on stderr.
pub(super) fn codex_wants_login(line: &str) -> bool {
    line.starts_with("Not logged in") || line.starts_with("Error: Not logged in")
}

/// The `stream-json` lines of Gemini's program.
pub(super) fn gemini(said: &mut Said, event: &Value, out: &CallOutput) {
    match event["type"].as_str().unwrap_or_default() {
        "init" => {
            said.session = text(&event["session_id"]);
            said.model = text(&event["model"]);
        }
        "message" if event["role"] == "assistant" => {
            let piece = event["content"].as_str().unwrap_or_default();
            match &mut said.text {
                Some(text) if event["delta"] == true => text.push_str(piece),
                text => *text = Some(piece.to_owned()),
            }
            said.piece(piece, out);
            if event["delta"] != true {
                said.finish();
            }
        }
        // What follows is said after it saw what the tool did.
        "tool_use" => {
            said.finish();
            let tool = event["tool_name"].as_str().unwrap_or_default();
            progress(out, format!("uses {tool}{}", brief(&event["parameters"])));
            said.text = None;
        }
        "tool_result" if event["status"] == "error" => {
            let message = event["error"]["message"].as_str().or(event["output"].as_str());
            progress(out, format!("the tool failed: {}", shorten(message.unwrap_or("without a message"))));
        }
        "error" => progress(out, event["message"].as_str().unwrap_or_default()),
        "result" => {
            said.finish();
            let count = |name: &str| event["stats"][name].as_u64().unwrap_or(0);
            if event["stats"].is_object() {
                said.usage = Some(Usage {
                    input_tokens: count("input_tokens"),
                    output_tokens: count("output_tokens"),
                    cached_tokens: count("cached"),
                    cost_micros: 0,
                });
            }
            if event["status"].as_str().is_some_and(|status| status != "success") {
                let error = &event["error"];
                let auth = error["type"] == "FatalAuthenticationError"
                    || is_auth_status(&error["code"])
                    || error["code"].as_u64() == Some(41)
                    || gemini_refused(error["message"].as_str().unwrap_or_default());
                said.failure = Some(failed(error["message"].as_str().unwrap_or("it did not succeed"), auth));
            }
        }
        _ => {}
    }
}

/// Whether the service refused the login: gemini puts the whole answer of the
/// service, as JSON, into its message.
fn gemini_refused(message: &str) -> bool {
    let answer = message.strip_prefix("[API Error: ").and_then(|rest| rest.strip_suffix(']'));
    let answer = answer.and_then(|answer| serde_json::from_str::<Value>(answer).ok()).unwrap_or_default();
    let details = answer["error"]["details"].as_array().into_iter().flatten();
    is_auth_status(&answer["error"]["code"])
        || details.map(|detail| &detail["reason"]).any(|reason| reason == "API_KEY_INVALID")
}

/// The lines of `opencode run --format json`.
pub(super) fn opencode(said: &mut Said, event: &Value, out: &CallOutput) {
    said.session = text(&event["sessionID"]).or(said.session.take());
    let part = &event["part"];
    match event["type"].as_str().unwrap_or_default() {
        "step_start" => {
            said.finish();
            said.text = None;
        }
        "text" => {
            let piece = part["text"].as_str().unwrap_or_default();
            said.text.get_or_insert_default().push_str(piece);
            said.piece(piece, out);
        }
        "tool_use" => {
            said.finish();
            let tool = part["tool"].as_str().unwrap_or_default();
            progress(out, format!("uses {tool}{}", brief(&part["state"]["input"])));
            if part["state"]["status"] == "error" {
                let message = part["state"]["error"].as_str().unwrap_or("without a message");
                progress(out, format!("the tool failed: {}", shorten(message)));
            }
        }
        "retry" => {
            let message = part["error"]["data"]["message"].as_str().or(event["message"].as_str());
            progress(out, format!("the service refused: {}", shorten(message.unwrap_or("it tries again"))));
        }
        "step_finish" => {
            said.finish();
            let count = |place: &str| part["tokens"].pointer(place).and_then(Value::as_u64).unwrap_or(0);
            let cached = count("/cache/read");
            let usage = Usage {
                input_tokens: count("/input").saturating_add(cached).saturating_add(count("/cache/write")),
                output_tokens: count("/output").saturating_add(count("/reasoning")),
                cached_tokens: cached,
                cost_micros: (part["cost"].as_f64().unwrap_or(0.0) * 1e6).round().max(0.0) as u64,
            };
            said.usage = Some(said.usage.unwrap_or_default().plus(usage));
        }
        "error" => {
            let error = &event["error"];
            let message = error["data"]["message"].as_str().or(error["message"].as_str());
            let message = message.or(error["name"].as_str()).unwrap_or("an error");
            let auth = error["name"] == "ProviderAuthError" || is_auth_status(&error["data"]["statusCode"]);
            said.failure = Some(failed(message, auth));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn failure(take: fn(&mut Said, &Value, &CallOutput), events: &[Value]) -> (bool, String) {
        let mut said = Said::default();
        for event in events {
            take(&mut said, event, &CallOutput::none());
        }
        let failure = said.failure.expect("a failure");
        (failure.auth, failure.failure.message)
    }

    /// JSON of the words that programs use, and of others, in any places.
    fn any_event() -> impl Strategy<Value = Value> {
        let word = proptest::sample::select(&[
            "type",
            "result",
            "error",
            "message",
            "usage",
            "delta",
            "content",
            "item",
            "part",
            "data",
            "text",
            "session_id",
            "input_tokens",
            "turn.failed",
            "item.completed",
            "step_finish",
            "statusCode",
            "status",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            word.clone().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(word.clone().prop_map(str::to_owned), inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_programs_say_is_taken(events in proptest::collection::vec(any_event(), 1..8)) {
            for take in [claude, codex, gemini, opencode] {
                let mut said = Said::default();
                events.iter().for_each(|event| take(&mut said, event, &CallOutput::none()));
                said.finish();
            }
            let mut said = Said::default();
            for event in &events {
                // Some of it is refused.
                let _ = own(&mut said, event, &CallOutput::none());
            }
        }
    }

    #[test]
    fn words_in_an_error_are_no_refused_login() {
        let words = "could not fix the authentication tests: src/app.ts:401 says unauthorized, run /login";
        let result = json!({"type": "result", "subtype": "success", "is_error": true, "result": words});
        assert!(!failure(claude, &[result]).0);
        assert!(!failure(codex, &[json!({"type": "turn.failed", "error": {"message": words}})]).0);
        assert!(
            !failure(gemini, &[json!({"type": "result", "status": "error", "error": {"message": words}})]).0
        );
        assert!(
            !failure(
                opencode,
                &[json!({"type": "error", "error": {"name": "UnknownError", "data": {"message": words}}})]
            )
            .0
        );
    }

    #[test]
    fn a_refused_login_is_known_by_its_fields() {
        let error = |status: Value| {
            json!({"type": "result", "subtype": "success", "is_error": true,
                                           "api_error_status": status, "result": "no"})
        };
        assert!(failure(claude, &[error(json!(401))]).0 && !failure(claude, &[error(json!(500))]).0);
        // Claude Code without a key.
        let synthetic =
            json!({"type": "assistant", "error": "authentication_failed", "message": {"content": []}});
        assert!(failure(claude, &[synthetic, error(Value::Null)]).0);
        for message in
            ["unexpected status 401 Unauthorized: wrong, url: x", "Missing environment variable: `K`."]
        {
            assert!(
                failure(codex, &[json!({"type": "turn.failed", "error": {"message": message}})]).0,
                "{message}"
            );
        }
        let inner = json!({"error": {"code": 400, "message": "API key not valid.", "details": [{"reason": "API_KEY_INVALID"}]}});
        let message = format!("[API Error: {inner}]");
        assert!(
            failure(gemini, &[json!({"type": "result", "status": "error", "error": {"message": message}})]).0
        );
        let api = json!({"type": "error", "error": {"name": "APIError", "data": {"message": "invalid x-api-key", "statusCode": 401}}});
        assert!(failure(opencode, &[api]).0);
    }

    #[test]
    fn claude_is_not_left_to_try_a_wrong_key_for_minutes() {
        let retry = |attempt: u32| {
            json!({"type": "system", "subtype": "api_retry", "attempt": attempt,
            "max_retries": 10, "error_status": 401, "error": "authentication_failed"})
        };
        let mut said = Said::default();
        let (out, events) = crate::output::recorded();
        for attempt in 1..=REFUSALS {
            assert!(!said.is_hopeless);
            claude(&mut said, &retry(attempt), &out);
        }
        assert!(said.is_hopeless && said.failure.unwrap().auth);
        assert!(
            format!("{:?}", events.lock().unwrap()).contains("(401 authentication_failed); retry 1 of 10")
        );
    }

    #[test]
    fn all_errors_of_a_result_are_kept() {
        let result = json!({"type": "result", "subtype": "error_during_execution", "is_error": true,
                            "errors": ["first \u{1b}[31mproblem\u{1b}[0m", {"message": "second"}]});
        assert_eq!(failure(claude, &[result]).1, "the agent reported an error: first problem; second");
    }

    #[test]
    fn a_denied_tool_shows() {
        let (out, events) = crate::output::recorded();
        let result = json!({"type": "result", "subtype": "success", "is_error": false, "result": "done",
            "permission_denials": [{"tool_name": "Bash", "tool_input": {"command": "touch x"}}]});
        claude(&mut Said::default(), &result, &out);
        assert!(format!("{:?}", events.lock().unwrap()).contains("was not allowed to use Bash: touch x"));
    }

    #[test]
    fn pieces_are_shown_as_lines() {
        let (out, events) = crate::output::recorded();
        let mut said = Said::default();
        for piece in ["sk-", "abc", "\nnext"] {
            gemini(
                &mut said,
                &json!({"type": "message", "role": "assistant", "content": piece, "delta": true}),
                &out,
            );
        }
        said.finish();
        let events = events.lock().unwrap();
        let line = |text: &str| CallEvent::Line { stream: Stream::Answer, text: text.to_owned() };
        assert_eq!(*events, [line("sk-abc"), line("next")]);
    }
}
