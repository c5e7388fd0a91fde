//! The kinds of steps, and which of them an operation asks for.

use minicbor::Decoder;

use super::Refusal;
use crate::entry::decode_op;
use crate::{Op, Position, Question, Timestamp};

#[derive(Debug)]
pub(super) enum Kind {
    /// Something that the host carries out: a call, a message to another run, ...
    /// `repeat`: whether it counts attempts.
    Work {
        repeat: bool,
    },
    Timer {
        deadline: Timestamp,
        /// None if it is a point in time.
        length: Option<u64>,
    },
    Signal {
        name: String,
        deadline: Option<(Timestamp, u64)>,
    },
    /// Another run ends it.
    Child,
    /// A person answers it.
    Question {
        deadline: Option<(Timestamp, u64)>,
        /// The question of an agent call, and whose name its reply bears.
        delegated: Option<Box<(String, Question)>>,
    },
}

pub(super) enum Peeked {
    Work {
        repeat: bool,
    },
    /// Something that time, a signal or a person ends.
    Waits(Op),
}

/// What kind of operation `bytes` are. Calls, by far the largest, are not decoded.
pub(super) fn kind_of(bytes: &[u8], position: Position) -> Result<Peeked, Refusal> {
    const AGENT: u32 = 0;
    let mut decoder = Decoder::new(bytes);
    let number = decoder.array().and_then(|_| decoder.u32());
    if number.is_ok_and(|number| number == AGENT) {
        return Ok(Peeked::Work { repeat: true });
    }
    Ok(match decode_op(bytes, position).map_err(Refusal::Unreadable)? {
        op @ (Op::Sleep { .. }
        | Op::SleepUntil { .. }
        | Op::Signal { .. }
        | Op::Ask { .. }
        | Op::Child { .. }) => Peeked::Waits(op),
        Op::Agent(_) => Peeked::Work { repeat: true },
        Op::Send { .. } | Op::ContinueAsNew { .. } => Peeked::Work { repeat: false },
    })
}
