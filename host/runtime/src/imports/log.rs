//! `wfhost:workflow/log`

use wfhost_core::{LogLevel, limits};

use super::wit::log::{Host, Level};
use crate::RunCtx;
use crate::sandbox::cost;

/// What a field of a line costs besides its bytes.
const FIELD_COST: usize = 20;

impl Host for RunCtx {
    async fn write(
        &mut self,
        level: Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        let level = match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        let of_fields =
            fields.iter().map(|(name, value)| name.len() + value.len() + FIELD_COST).sum::<usize>();
        self.charge(cost::CALL + (message.len() + of_fields) as u64).await;
        self.shared.lock().log(level, message, fields);
        Ok(())
    }

    async fn panicked(&mut self, message: String, place: Option<String>) -> wasmtime::Result<()> {
        let bytes = message.len() + place.as_ref().map_or(0, String::len);
        self.charge(cost::CALL + bytes as u64).await;
        let message = limits::cut(message, limits::MESSAGE_BYTES);
        let place = place.map(|place| limits::cut(place, limits::NAME_BYTES));
        self.shared.lock().panic = Some((message, place));
        Ok(())
    }
}
