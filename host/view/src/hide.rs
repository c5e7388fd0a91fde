//! What is left out for those who may see runs, but not what they work on.

use wfhost_core::Json;

/// In the place of a payload: how long it is.
pub fn hide(json: &mut Option<Json>) {
    if let Some(json) = json {
        *json = size(json.as_str());
    }
}

/// What stands for a hidden text.
pub(crate) fn size(text: &str) -> Json {
    Json::from(serde_json::json!({ "hidden_bytes": text.len() }))
}

/// What stands for the message of a failure, which may quote anything.
pub(crate) const HIDDEN: &str = "(hidden: it needs the scope payloads:read)";
