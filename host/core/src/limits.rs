//! The limits of everything that a program or its users hand in.
//!
//! What a program consumes (memory, fuel) is part of [`crate::RunConfig`]; the
//! sizes here are the same for all runs, so that a journal can always be read
//! within bounds.

/// Bytes of a run's input, and of its result.
pub const INPUT_BYTES: usize = 10 << 20;
/// Bytes of all data in one call, such as the prompt, its input and a schema.
pub const CALL_BYTES: usize = 10 << 20;
/// Bytes of an agent's answer.
pub const ANSWER_BYTES: usize = 16 << 20;
/// Bytes of a signal's payload.
pub const SIGNAL_BYTES: usize = 1 << 20;
/// Bytes of a published value.
pub const STATE_BYTES: usize = 1 << 20;
/// Bytes of one log line with its fields; longer ones are truncated.
pub const LOG_LINE_BYTES: usize = 64 << 10;
/// Bytes of the message of a failure or panic; longer ones are truncated.
pub const MESSAGE_BYTES: usize = 64 << 10;
/// Bytes of a failure's details.
pub const DETAILS_BYTES: usize = 1 << 20;
/// Bytes of answers, signals and results that a program holds at once.
pub const HELD_BYTES: u64 = 1 << 30;
/// Bytes of all labels of a run, in total.
pub const LABELS_BYTES: usize = 64 << 10;
/// Bytes of the name of a signal, published key, phase, patch or label.
pub const NAME_BYTES: usize = 256;
/// Bytes of an idempotency key of a signal or a start.
pub const KEY_BYTES: usize = 256;
/// The longest sleep or timeout: 100 years of 365.25 days, in milliseconds.
pub const SLEEP_MS: u64 = 100 * 31_557_600_000;
/// Open steps of one run at the same time.
pub const OPEN_STEPS: usize = 100_000;
/// Members of all wait sets of one run, in total.
pub const SET_MEMBERS: usize = 100_000;
/// Children that one run starts over its lifetime.
pub const CHILDREN: usize = 100_000;
/// Depth of nested children; a run without a parent has depth 0.
pub const CHILD_DEPTH: u32 = 16;
/// Bytes of a program's stack, unless its run requests another size.
pub const STACK_BYTES: u64 = 2 << 20;
/// Elements of all tables of a program, in total; ordinary compilers generate
/// a few thousand.
pub const TABLE_ELEMENTS: u64 = 1 << 20;
/// Core instances of a program; languages with shared libraries need a few
/// dozen.
pub const INSTANCES: usize = 1_000;
/// Tables of a program.
pub const TABLES: usize = 200;
/// Memories of a program.
pub const MEMORIES: usize = 50;
/// Bytes that a program passes to the host in one call, in any form.
pub const TRANSFER_BYTES: usize = 64 << 20;
/// Random bytes that a program may request at once.
pub const RANDOM_BYTES: u64 = 1 << 20;
/// Bytes of a run's environment variables, names and values in total.
pub const ENV_BYTES: usize = 64 << 10;
/// Bytes of all files in a directory that is granted to a run; it is held in memory.
pub const GRANT_BYTES: u64 = 256 << 20;
/// Files, directories and links in a directory that is granted to a run.
pub const GRANT_FILES: u64 = 100_000;

/// Something is larger than it may be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} has {size} bytes, more than the {limit} that are allowed")]
pub struct TooLarge {
    pub what: &'static str,
    pub size: usize,
    pub limit: usize,
}

/// Refuses labels that are too large.
pub fn check_labels(labels: &[(String, String)]) -> Result<(), TooLarge> {
    let mut bytes = 0;
    for (name, value) in labels {
        check("the name of a label", name.len(), NAME_BYTES)?;
        check("a label", value.len(), NAME_BYTES)?;
        bytes += name.len() + value.len();
    }
    check("what the labels say", bytes, LABELS_BYTES)
}

/// Cuts a text that is longer than `limit` bytes; then it ends with `…`.
pub fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
        text.push('…');
    }
    text
}

/// Refuses what is larger than `limit` bytes.
pub fn check(what: &'static str, size: usize, limit: usize) -> Result<(), TooLarge> {
    if size > limit {
        return Err(TooLarge { what, size, limit });
    }
    Ok(())
}
