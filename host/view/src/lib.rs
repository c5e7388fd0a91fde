//! What wfhost shows: one form for the command line, the HTTP API and the pages of the server.
//!
//! Each view is a struct that serializes to the JSON which `-o json` prints and the API answers with.
//! Times are RFC 3339. Members are in the order of their names, so that two outputs can be compared.

mod compare;
mod described;
mod document;
mod exact;
mod find;
mod hide;
mod journal;
mod lines;
mod modules;
mod people;
mod replay;
mod run;
mod schedule;
mod settings;
mod sinks;
mod trace;
mod turns;
mod unfit;
mod user_error;
mod why;

pub use self::compare::{Difference, Told, compare};
pub use self::described::described;
pub use self::document::{Document, raw};
pub use self::find::{find_run, latest, nearest, read_journal, started};
pub use self::hide::hide;
pub use self::journal::{EntryView, JournalView, describe, entries};
pub use self::lines::{LogView, MessageView, MessagesView, PublishedView, TranscriptView};
pub use self::modules::{ModuleView, UpgradeView};
pub use self::people::{InboxView, QuestionView, answer_commands};
pub use self::replay::{AskedView, FrameView, ReplayView, log_lines};
pub use self::run::{
    AnsweringPluginView, FailedAttemptView, RunView, RunsView, SpentView, StepOutline, StepView, WaitView,
    ago, ended, outcome, parts, relatives, waits,
};
pub use self::schedule::{ScheduleView, SchedulesView, times};
pub use self::settings::{HttpGrantView, PluginView, PluginsView, SettingView, SettingsView};
pub use self::sinks::{
    DeliveriesView, DeliveryView, SinkReadView, SinkView, SinksView, find_sink, no_such_sink, redeliver,
    sink_place,
};
pub use self::trace::{Link, NeedsPast, Span, Trace, Tracer, otlp};
pub use self::turns::{Turn, open_calls, turns};
pub use self::user_error::{Exit, UserError, section};
pub use self::why::{BlockerView, WhyView, parallel};

/// Any JSON, in the OpenAPI description.
type Anything = serde_json::Value;
