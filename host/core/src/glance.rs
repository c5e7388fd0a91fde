//! What entries say of steps, read without what they work on: for those who count.

use minicbor::Decoder;
use minicbor::decode::Error;

use crate::{Row, Step, Timestamp};

/// What an entry says of steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Glance {
    /// The program asked for a step of that kind: see [`Op::kind`](crate::Op::kind).
    Scheduled { step: Step, kind: &'static str, at: Timestamp },
    /// A step is done: well, or with a failure.
    Ended { step: Step, ok: bool, at: Timestamp },
    /// The program dropped a step that was not done.
    Cancelled { step: Step, at: Timestamp },
    /// All open steps are cancelled.
    AllCancelled { at: Timestamp },
    /// A signal came in, which may end a step.
    Received { at: Timestamp },
    /// Nothing of the kind.
    Other,
}

/// The words of [`Op::kind`](crate::Op::kind), by number.
const KINDS: [&str; 8] = ["agent", "sleep", "sleep", "signal", "send", "ask", "child", "continue-as-new"];

/// The kind of an operation, by its bytes.
pub(crate) fn op_kind(op: &[u8]) -> Option<&'static str> {
    let mut decoder = Decoder::new(op);
    decoder.array().ok()?;
    KINDS.get(decoder.u32().ok()? as usize).copied()
}

impl Row {
    /// What its entries say of steps, in their order. Ends before what cannot be read.
    pub fn glances(&self) -> impl Iterator<Item = Glance> {
        let mut decoder = Decoder::new(&self.bytes);
        std::iter::from_fn(move || {
            let here = decoder.position();
            if here >= self.bytes.len() {
                return None;
            }
            let glance = glance(&mut Decoder::new(&self.bytes[here..])).ok()?;
            decoder.skip().ok()?;
            Some(glance)
        })
    }
}

fn glance(entry: &mut Decoder<'_>) -> Result<Glance, Error> {
    entry.array()?;
    let at = Timestamp(entry.u64()?);
    entry.array()?;
    let kind = entry.u32()?;
    entry.array()?;
    let step = |entry: &mut Decoder<'_>| entry.u64().map(Step);
    // `[0, ..]` is good, `[1, ..]` a failure.
    let is_ok = |entry: &mut Decoder<'_>| {
        entry.array()?;
        entry.u32().map(|which| which == 0)
    };
    Ok(match kind {
        1 => {
            let step = step(entry)?;
            Glance::Scheduled { step, kind: op_kind(entry.bytes()?).unwrap_or("other"), at }
        }
        3 | 9 => Glance::Ended { step: step(entry)?, ok: is_ok(entry)?, at },
        4 => Glance::Cancelled { step: step(entry)?, at },
        5 => Glance::Received { at },
        6 => Glance::AllCancelled { at },
        16 => {
            entry.array()?;
            let step = step(entry)?;
            entry.skip()?;
            Glance::Ended { step, ok: is_ok(entry)?, at }
        }
        _ => Glance::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::budget::Spent;
    use crate::{
        AgentRequest, EndedChild, Entry, Event, Failure, FailureKind, Json, Op, Question, Recorded,
        encode_op, journal,
    };

    #[test]
    fn a_glance_says_what_the_entry_says() {
        let ops = [
            Op::Agent(Box::new(AgentRequest { prompt: "hi".to_owned(), ..AgentRequest::default() })),
            Op::Sleep { length_ms: 1 },
            Op::SleepUntil { at: 1 },
            Op::Signal { name: "go".to_owned(), timeout_ms: None },
            Op::Send { run: "r".to_owned(), name: "go".to_owned(), payload: Json::null() },
            Op::Ask {
                question: Question {
                    prompt: "?".to_owned(),
                    schema: None,
                    choices: Vec::new(),
                    details: None,
                },
                timeout_ms: Some(1),
            },
            Op::Child { module: "m".to_owned(), input: Json::null(), options: None },
            Op::ContinueAsNew { input: Json::null() },
        ];
        assert_eq!(ops.len(), KINDS.len());
        let failed = Recorded::Err(Failure::new(FailureKind::Failed, "no"));
        let child = EndedChild {
            step: Step(7),
            run: "r.7".parse().unwrap(),
            outcome: failed.clone(),
            spent: Spent::default(),
        };
        let mut events: Vec<_> = (1..)
            .zip(&ops)
            .map(|(step, op)| Event::Scheduled { step: Step(step), op: encode_op(op).into() })
            .collect();
        events.extend([
            Event::Completed {
                step: Step(1),
                outcome: Recorded::Ok(Json::string(&"x".repeat(1_000))),
                timing: None,
            },
            Event::Completed { step: Step(2), outcome: failed, timing: None },
            Event::Answered { step: Step(6), outcome: Recorded::Ok(Json::null()), by: None, note: None },
            Event::ChildEnded(Box::new(child)),
            Event::Cancelled { step: Step(3) },
            Event::Received { name: "go".to_owned(), payload: Json::null(), id: None },
            Event::CancelRequested { reason: None },
            Event::Patched { id: "p".to_owned() },
            Event::ClockSet,
        ]);
        let at = |n: usize| Timestamp(n as u64 * 1_000);
        let entries: Vec<_> = events
            .into_iter()
            .enumerate()
            .map(|(n, event)| Entry { at: at(n), event, behind_ms: (n == 9).then_some(5) })
            .collect();
        let rows = journal::rows(&entries);
        let found: Vec<_> = rows.iter().flat_map(Row::glances).collect();
        assert_eq!(found.len(), entries.len());
        for (n, (entry, glance)) in entries.iter().zip(found).enumerate() {
            let at = at(n);
            let expected = match &entry.event {
                Event::Scheduled { step, .. } => {
                    Glance::Scheduled { step: *step, kind: ops[step.0 as usize - 1].kind(), at }
                }
                Event::Cancelled { step } => Glance::Cancelled { step: *step, at },
                Event::Received { .. } => Glance::Received { at },
                Event::CancelRequested { .. } => Glance::AllCancelled { at },
                event => match event.ended_step() {
                    Some((step, outcome)) => {
                        Glance::Ended { step, ok: matches!(outcome, Recorded::Ok(_)), at }
                    }
                    None => Glance::Other,
                },
            };
            assert_eq!(glance, expected, "{entry:?}");
        }
    }

    #[test]
    fn damaged_bytes_end_it() {
        let entries = [Entry { at: Timestamp(1), event: Event::ClockSet, behind_ms: None }];
        let mut row = journal::rows(&entries).remove(0);
        row.bytes.extend([0xff, 0x01, 0x02]);
        assert_eq!(row.glances().collect::<Vec<_>>(), [Glance::Other]);
    }
}
