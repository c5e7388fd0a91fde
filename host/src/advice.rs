//! What helps a run whose program came to a bad end: the code that `wfhost explain` knows, and what
//! one can do. The journal has the failure only; what it means is told by what the engine writes.

use wfhost_core::{Failure, FailureKind, RunId};
use wfhost_world::text::command;

/// What helps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advice {
    pub code: &'static str,
    pub hints: Vec<String>,
}

/// How messages of the engine begin.
const ENDS: [(&str, &str); 7] = [
    ("the program used up its ", "WF0801"),
    ("the program used up the ", "WF0802"),
    ("the program needs more than the ", "WF0803"),
    ("the program ran out of stack", "WF0804"),
    ("the program panicked", "WF0805"),
    ("the program trapped", "WF0806"),
    ("the program was stopped", "WF0806"),
];

/// What helps a run that ended with this failure, if it is the program's own.
pub fn advice(run: &RunId, failure: &Failure) -> Option<Advice> {
    if failure.kind != FailureKind::Failed {
        return None;
    }
    let (_, code) = ENDS.into_iter().find(|(begin, _)| failure.message.starts_with(begin))?;
    let more = |flag: &str, what: &str| format!("if it needs more, start a new run with {what}: `{flag}`");
    let fixed = command("resume", run).option("--module", "FIXED.wasm");
    let fixed = format!("fix the program, then continue where it failed: `{fixed}`");
    let place = format!("show where it was at its last step: `{} --backtrace`", command("replay", run));
    let logs = format!("show its last output: `{}`", command("logs", run));
    let hints = match code {
        "WF0801" => vec![more("wfhost run --fuel N", "more fuel"), place],
        "WF0802" => vec![more("wfhost run --total-fuel N", "more fuel"), place],
        "WF0803" => vec![more("wfhost run --memory MIB", "more memory"), place],
        "WF0804" => vec![more("wfhost run --stack MIB", "a larger stack"), fixed],
        "WF0805" => vec![fixed],
        _ => vec![logs, fixed],
    };
    Some(Advice { code, hints })
}
