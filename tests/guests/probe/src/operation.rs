//! The language of the probe.

use serde::Deserialize;
use wfhost::{FailureKind, Value};

use crate::pattern::Pattern;
use crate::system::FileOperation;

/// The input.
#[derive(Deserialize)]
pub struct Program {
    pub r#do: Vec<Operation>,
}

/// An operation: an object with one member, or a string if it has no operand.
///
/// ```json
/// {"do": [{"agent": "hello"}, "now", {"race": [{"sleep": 5}, {"wait": {"name": "go"}}]}]}
/// ```
#[derive(Deserialize, Clone)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    // Steps.
    /// Asks the default agent. Gives its text.
    Agent(String),
    /// Asks a named provider. Gives its text.
    AgentOf {
        provider: String,
        prompt: String,
    },
    /// Asks with any field of a request. Gives the whole reply.
    AgentWith(Box<Request>),
    /// The same, but a failure is that of the run. Only at the top.
    AgentOrFail(Box<Request>),
    /// Asks the default agent so many times, one call after the other, with prompts of so many
    /// bytes. Gives the number.
    AgentSeries {
        count: u64,
        bytes: usize,
    },
    /// The same with all calls side by side.
    AgentMany {
        count: u64,
        bytes: usize,
    },
    /// Sleeps for so many milliseconds. Gives null.
    Sleep(u64),
    /// Sleeps until a time, in milliseconds since 1970. Gives null.
    SleepUntil(u64),
    /// Waits for a signal, at most so long. Gives its payload.
    Wait {
        name: String,
        timeout_ms: Option<u64>,
    },
    /// Takes a call of this name and answers with its input; refuses one whose input is `"no"`.
    Call(String),
    /// Waits for so many signals of one name side by side. Gives all payloads.
    WaitMany {
        name: String,
        count: usize,
    },
    /// Runs a child. Gives its result.
    Child(Child),
    /// The same, but its failure is that of the run. Only at the top.
    MustChild(Child),
    /// Asks a person. Gives the answer.
    Ask {
        prompt: String,
        #[serde(default)]
        choices: Vec<String>,
        schema: Option<Value>,
        details: Option<Value>,
        timeout_ms: Option<u64>,
    },
    /// Sends a signal to another run. Gives null.
    Send {
        run: String,
        name: String,
        payload: Value,
    },

    // Steps in relation to each other.
    /// Runs operations side by side. Gives all results.
    Parallel(Vec<Operation>),
    /// The same. Gives `[index, result]` of each, in the order in which they ended.
    Unordered(Vec<Operation>),
    /// Runs operations side by side. Gives `[index, result]` of the first; the
    /// others are dropped.
    Race(Vec<Operation>),
    /// Gives an operation so many milliseconds. Gives its result, or the
    /// failure `timed-out`.
    Timeout {
        millis: u64,
        operation: Box<Operation>,
    },
    /// Starts an operation (whatever it does up to its first wait) and drops it.
    StartThenDrop(Box<Operation>),
    /// Starts a sleep, does the operation, then waits for the sleep. Gives the
    /// operation's result.
    Meanwhile {
        sleep: u64,
        operation: Box<Operation>,
    },
    /// Does it so many times. Gives the last result.
    Repeat {
        times: u64,
        operation: Box<Operation>,
    },
    /// Does operations one after the other. Gives all results.
    Each(Vec<Operation>),
    /// Asks the default agent about the text of what the operation gave.
    AgentAbout(Box<Operation>),
    /// What the SDK has for programs of several steps.
    Pattern(Box<Pattern>),
    /// The same, but a failure is that of the run. Only at the top.
    PatternOrFail(Box<Pattern>),

    // The run.
    /// Virtual time in milliseconds since 1970.
    Now,
    /// The next random number, as a string of hexadecimal digits.
    Random,
    /// Draws so many random numbers. Gives the last one.
    RandomMany(u64),
    /// The id of the run.
    Info,
    /// All that is known about the run.
    InfoAll,
    /// `{"total", "spent"}`.
    Budget,
    /// True or false.
    Patched(String),
    /// True or false.
    Cancelled,
    Phase(String),
    Publish {
        key: String,
        value: Value,
    },
    Post {
        name: String,
        payload: Value,
    },
    /// Ends the run and begins the next one with this input.
    ContinueAsNew(Value),

    // What the program writes.
    Log(String),
    /// With a level (`info` if it is none) and a field `note`.
    LogWith {
        level: String,
        message: String,
        note: String,
    },
    /// To the standard output of the language; on wasm32-unknown-unknown it
    /// goes nowhere.
    Print(String),
    /// The same to the standard error.
    PrintError(String),

    // What could differ between two executions.
    /// Asks the agent about everything of the kind: a replay that saw anything
    /// else would be a mismatch.
    Observe,
    /// Keys of a `HashMap` in its order.
    HashOrder,
    /// Bits of not-a-numbers that were computed, as hexadecimal digits.
    NanBits,
    /// Where something lies on the stack and on the heap.
    Addresses,
    /// The standard library's clock, in milliseconds since 1970. It traps on
    /// wasm32-unknown-unknown, which has none.
    StdTime,
    /// The standard library's sleep, which traps there as well.
    StdSleep(u64),

    // The system, for programs built with WASI.
    File(FileOperation),
    /// `{"arguments", "variables"}`
    Environment,
    /// The text of standard input.
    Input,
    /// Milliseconds that the standard library's sleep takes by its own clock.
    MeasuredSleep(u64),
    /// Timers in milliseconds. Gives lists of their numbers as one `poll` after the other gives them.
    PollTimers(Vec<u64>),
    /// Gives so many random bytes at once.
    RandomBytes(u64),
    /// Leaves with this code.
    Exit(i32),
    /// Writes a log line of so many bytes.
    LogBytes(usize),
    /// Starts so many sleeps of a day, and keeps all of them. Gives their number.
    StartMany(usize),
    /// Fills a hash map with so many entries. Gives a digest of its order.
    HashMap(u64),
    /// Computes with floats so many times. Gives the bits of the result.
    Floats(u64),

    // Bad ends.
    /// Asks the default agent; its failure fails the run. Only at the top.
    MustAgent(String),
    /// Fails the run. Only at the top.
    Fail(String),
    /// The same with everything that a failure has.
    FailWith {
        kind: FailureKind,
        message: String,
        details: Value,
    },
    Panic(String),
    /// Executes `unreachable`.
    Trap,
    /// Computes for ever.
    Spin,
    /// Allocates so many bytes and touches them. Gives their number.
    Allocate(usize),
    /// Calls itself for ever.
    Recurse,
    /// Calls itself so many times. Gives a number.
    Depth(u64),
    /// Waits for nothing.
    Deadlock,

    // Several versions of one program: see `wfhost_tests::version`.
    /// The operations of the version that this module is, or those of the last one. Only at the top.
    ByVersion(Vec<Vec<Operation>>),
    /// Ends the run here. Only at the top.
    Return,
    /// Starts an operation, and holds it to the end without looking at it again. Gives null.
    Hold(Box<Operation>),
}

/// All fields of an agent call. Times are milliseconds.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub prompt: String,
    pub input: Option<Value>,
    #[serde(default)]
    pub providers: Vec<String>,
    pub model: Option<String>,
    pub schema: Option<Value>,
    pub session: Option<String>,
    pub workspace: Option<String>,
    pub label: Option<String>,
    pub group: Option<String>,
    pub retry: Option<Retry>,
    pub limits: Option<Limits>,
    pub cache: Option<Cache>,
    pub options: Option<Value>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    pub max_attempts: u32,
    pub initial: Option<u64>,
    pub factor: Option<f32>,
    pub max: Option<u64>,
    pub jitter: Option<f32>,
    #[serde(default)]
    pub fatal: Vec<String>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub attempt: Option<u64>,
    pub total: Option<u64>,
    pub heartbeat: Option<u64>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    pub version: String,
    pub ttl: Option<u64>,
}

/// A child of the probe.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Child {
    pub module: String,
    #[serde(default)]
    pub input: Value,
    pub id: Option<String>,
    #[serde(default)]
    pub abandon: bool,
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
}
