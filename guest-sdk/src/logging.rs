//! The `log` crate writes to the log of the run.

use log::{
    Level, LevelFilter, Log, Metadata, Record,
    kv::{self, Key, Value, VisitSource},
};

use crate::bindings::wfhost::workflow::log as host;

struct RunLog;

impl Log for RunLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        // The host chooses what is shown, and can do so afterwards.
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut fields = Fields::default();
        // A target that is only the place in the source says nothing new.
        if record.module_path() != Some(record.target()) {
            fields.0.push(("target".to_owned(), record.target().to_owned()));
        }
        // A field that cannot be read is left out; the message is what counts.
        let _ = record.key_values().visit(&mut fields);
        host::write(level(record.level()), &record.args().to_string(), &fields.0);
    }

    fn flush(&self) {}
}

fn level(level: Level) -> host::Level {
    match level {
        Level::Trace => host::Level::Trace,
        Level::Debug => host::Level::Debug,
        Level::Info => host::Level::Info,
        Level::Warn => host::Level::Warn,
        Level::Error => host::Level::Error,
    }
}

#[derive(Default)]
struct Fields(Vec<(String, String)>);

impl<'a> VisitSource<'a> for Fields {
    fn visit_pair(&mut self, key: Key<'a>, value: Value<'a>) -> Result<(), kv::Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

/// Sends the records of the `log` crate to the host, unless the program has a logger already.
pub(crate) fn install() {
    if log::set_logger(&RunLog).is_ok() {
        log::set_max_level(LevelFilter::Trace);
    }
}
