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

/// The ids of the trace and the span that a `traceparent` names, in hexadecimal. None if it is none of
/// [W3C Trace Context](https://www.w3.org/TR/trace-context/): then it is to be ignored.
pub fn parse_traceparent(text: &str) -> Option<(&str, &str)> {
    let mut parts = text.trim().split('-');
    let is_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |part: &str, length: usize| is_hex(part, length) && part.bytes().any(|byte| byte != b'0');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let known = is_hex(version, 2) && version != "ff" && is_hex(flags, 2);
    // Later versions may have more behind it.
    let ends = version != "00" || parts.next().is_none();
    (known && ends && is_id(trace, 32) && is_id(span, 16)).then_some((trace, span))
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
        let made = traceparent(&run("r"), Step(1), 1);
        let ids = (trace_id(&run("r")), attempt_id(&run("r"), Step(1), 1));
        assert_eq!(parse_traceparent(&made), Some((ids.0.as_str(), ids.1.as_str())));
        let parts: Vec<_> = made.split('-').map(str::len).collect();
        assert_eq!(parts, [2, 32, 16, 2]);
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let good = [
            format!("00-{trace}-{span}-01"),
            format!(" 00-{trace}-{span}-00 "),
            format!("01-{trace}-{span}-01-x"),
        ];
        for text in &good {
            assert_eq!(parse_traceparent(text), Some((trace, span)), "{text}");
        }
        for text in [
            String::new(),
            format!("ff-{trace}-{span}-01"),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-01-x"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}é-{span}-01"),
        ] {
            assert_eq!(parse_traceparent(&text), None, "{text}");
        }
    }
}
