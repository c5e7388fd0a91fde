//! How errors look on a terminal, and as JSON.

use serde_json::json;
pub(crate) use wfhost_view::{Exit, UserError, section};

use super::printer::{self, DIM, ERROR, Line};

/// Shows an error on stderr, as JSON if JSON was asked for.
pub(super) fn print(trouble: &UserError, json: bool, verbose: bool) {
    let trouble = &trouble.clone().bounded();
    if json {
        let code = trouble.exit.number();
        let error = json!({
            "schema": "wfhost/error/1", "code": trouble.code, "message": trouble.message, "exit": code,
            "details": trouble.details, "hints": trouble.hints, "causes": trouble.causes,
        });
        return printer::error_json(&error);
    }
    Line::new().styled(ERROR, format!("error[{}]", trouble.code)).plain(": ").plain(&trouble.message).show();
    for detail in &trouble.details {
        Line::new().plain("  ").plain(detail).show();
    }
    for cause in trouble.causes.iter().filter(|_| verbose) {
        Line::new().plain("  ").styled(DIM, "cause:").plain(" ").plain(cause).show();
    }
    for hint in &trouble.hints {
        Line::new().plain("   ").styled(DIM, "hint:").plain(" ").plain(hint).show();
    }
    if verbose {
        let command = format!(" wfhost explain {}", trouble.code);
        Line::new().plain("   ").styled(DIM, "more:").plain(command).show();
    }
}
