//! `wfhost:workflow/log`

use wfhost_core::LogLevel;

use super::wit::log::{Host, Level};
use crate::RunCtx;
use crate::sandbox::cost;

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
        self.charge(cost::CALL + message.len() as u64).await;
        self.shared.lock().log(level, message, fields);
        Ok(())
    }

    fn panicked(&mut self, message: String, place: Option<String>) -> wasmtime::Result<()> {
        self.shared.lock().panic = Some((message, place));
        Ok(())
    }
}
