//! What programs give out.

use crate::{Json, Timestamp};

/// What a program gives out without an entry of its own.
#[derive(Clone, PartialEq, Debug)]
pub enum Emission {
    Log(LogLine),
    State {
        key: String,
        value: Json,
        at: Timestamp,
    },
    /// Also a line of the log, with the field `phase`.
    Phase {
        title: String,
        at: Timestamp,
    },
    Message {
        name: String,
        payload: Json,
        at: Timestamp,
    },
}

/// A line of a run's log.
#[derive(Clone, PartialEq, Debug)]
pub struct LogLine {
    /// Its number among the run's emissions.
    pub number: u64,
    /// Virtual time.
    pub at: Timestamp,
    pub level: LogLevel,
    pub message: String,
    pub fields: Vec<(String, String)>,
}

impl LogLine {
    /// The line that a phase leaves in the log.
    pub fn phase(number: u64, at: Timestamp, title: &str) -> Self {
        let fields = vec![("phase".to_owned(), title.to_owned())];
        Self { number, at, level: LogLevel::Info, message: format!("phase: {title}"), fields }
    }
}

/// How much a line of the log matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    pub const ALL: [Self; 5] = [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}
