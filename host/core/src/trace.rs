//! Ids of spans, as functions of the run: they are the same whichever process derives them, at any time.

use crate::{RunId, Step};

/// The first bytes of a BLAKE3 digest, which are not all zero.
fn bytes<const N: usize>(run: &RunId, what: &str, numbers: &[u64]) -> [u8; N] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"wfhost span 1\0");
    for text in [run.as_str(), what] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    let mut id = [0; N];
    hasher.finalize_xof().fill(&mut id);
    // Zero stands for none.
    id[N - 1] |= u8::from(id.iter().all(|byte| *byte == 0));
    id
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The id of the trace of a run, in hexadecimal.
pub fn trace_id(run: &RunId) -> String {
    hex(&bytes::<16>(run, "trace", &[]))
}

/// The id of a span of a run, in hexadecimal. `what` says of what kind it is.
pub fn span_id(run: &RunId, what: &str, numbers: &[u64]) -> String {
    hex(&bytes::<8>(run, what, numbers))
}

/// The id of the span of an attempt, counted from 1.
pub fn attempt_id(run: &RunId, step: Step, attempt: u32) -> String {
    span_id(run, "attempt", &[step.0, u64::from(attempt)])
}

/// What an attempt hands to whom it asks: a `traceparent` of W3C Trace Context.
pub fn traceparent(run: &RunId, step: Step, attempt: u32) -> String {
    format!("00-{}-{}-01", trace_id(run), attempt_id(run, step, attempt))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_the_same_each_time_and_differ_for_each_span() {
        let run = |id: &str| id.parse::<RunId>().unwrap();
        // What other versions of wfhost made: they must not change.
        assert_eq!(traceparent(&run("r"), Step(1), 2), traceparent(&run("r"), Step(1), 2));
        let mut ids = BTreeSet::new();
        for id in ["r", "r2"] {
            for step in 1..50 {
                for attempt in 1..4 {
                    assert!(ids.insert(attempt_id(&run(id), Step(step), attempt)));
                }
                assert!(ids.insert(span_id(&run(id), "step", &[step])));
            }
        }
        assert_ne!(trace_id(&run("a")), trace_id(&run("b")));
        let parts: Vec<_> = traceparent(&run("r"), Step(1), 1).split('-').map(str::len).collect();
        assert_eq!(parts, [2, 32, 16, 2]);
    }
}
