//! `wfhost logs`

use std::time::Duration;

use serde_json::{Value, json};
use wfhost::clock::rfc3339;
use wfhost::store::{LogLevel, LogLine, Store, TranscriptFilter, TranscriptKind, TranscriptLine};
use wfhost_core::RunId;

use super::diagnostic::{Exit, Trouble};
use super::place::find_run;
use super::{Common, Format, print_line, transcript};

/// Show what a run logged
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost logs @last
  wfhost logs @last -f --level warn")]
pub(crate) struct Logs {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
    /// Go on until the run ends
    #[arg(short, long)]
    follow: bool,
    /// Only lines that matter at least so much: trace, debug, info, warn, error
    #[arg(long, value_name = "LEVEL", default_value = "trace", value_parser = level_arg)]
    level: LogLevel,
}

pub(super) fn level_arg(text: &str) -> Result<LogLevel, String> {
    LogLevel::ALL
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or_else(|| "the levels are trace, debug, info, warn, error".to_owned())
}

/// Lines that are read at once.
const PAGE: usize = 1_000;

impl Logs {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let store = common.store()?;
        let run = find_run(store.as_ref(), &self.run).await?.id;
        let mut next = 0;
        // What was said before is in the transcripts; what is said now shows here.
        let mut live = self.last_live(store.as_ref(), &run).await?;
        loop {
            // Looked at before the lines are read, so that none is missed at the end.
            let ended = store.run(&run).await?.is_none_or(|info| info.state.is_final());
            let lines = store.logs(&run, next, PAGE).await?;
            for line in lines.iter().filter(|line| line.level >= self.level) {
                print(common.output, line);
            }
            let said = self.live(store.as_ref(), &run, live).await?;
            for line in &said {
                live = line.number;
                print_live(common.output, line);
            }
            match lines.last() {
                None if !said.is_empty() => {}
                Some(last) => next = last.number + 1,
                None if ended || !self.follow => return Ok(Exit::Done),
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Logs {
    /// The number of the last line that an agent of the run wrote until now.
    async fn last_live(&self, store: &dyn Store, run: &RunId) -> Result<u64, Trouble> {
        let mut last = 0;
        while let Some(line) = self.live(store, run, last).await?.last() {
            last = line.number;
        }
        Ok(last)
    }

    /// The next lines that agents of the run wrote, when somebody follows.
    async fn live(&self, store: &dyn Store, run: &RunId, after: u64) -> Result<Vec<TranscriptLine>, Trouble> {
        if !self.follow {
            return Ok(Vec::new());
        }
        let kinds = vec![TranscriptKind::Answer, TranscriptKind::Progress];
        Ok(store.transcript(run, TranscriptFilter { after, step: None, kinds }, PAGE).await?)
    }
}

fn print_live(format: Format, line: &TranscriptLine) {
    if format == Format::Text {
        let (at, step) = (rfc3339(line.line.at), line.line.step);
        print_line(&format!("{at}  agent  {}  step={step}", line.line.text));
    } else {
        print_line(&json!({ "live": transcript::view(line) }).to_string());
    }
}

pub(super) fn print(format: Format, line: &LogLine) {
    if format != Format::Text {
        return print_line(&view(line).to_string());
    }
    let LogLine { at, level, message, fields, .. } = line;
    let fields: Vec<_> = fields.iter().map(|(key, value)| format!(" {key}={value}")).collect();
    print_line(&format!("{}  {:<5}  {message}{}", rfc3339(*at), level.as_str(), fields.concat()));
}

/// A line as JSON.
pub(super) fn view(line: &LogLine) -> Value {
    let LogLine { number, at, level, message, fields } = line;
    let fields: serde_json::Map<_, _> =
        fields.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    json!({ "number": number, "at": rfc3339(*at), "level": level.as_str(), "message": message, "fields": fields })
}
