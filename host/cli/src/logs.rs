//! `wfhost logs`

use serde_json::json;
use wfhost::clock::rfc3339;
use wfhost::store::{LogLevel, LogLine, TranscriptLine};
use wfhost_view::{LogView, TranscriptView};

use super::diagnostic::{Exit, UserError};
use super::place::find_run;
use super::tail::{LiveLines, News, tail};
use super::{Common, Format, printer};

/// Show what a run logged
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost logs @last
  wfhost logs @last -f --level warn")]
pub(crate) struct Logs {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
    /// Follow the log until the run ends
    #[arg(short, long)]
    follow: bool,
    /// Only lines of at least this level: trace, debug, info, warn, error
    #[arg(long, value_name = "LEVEL", default_value = "trace", value_parser = level_arg)]
    level: LogLevel,
}

pub(super) fn level_arg(text: &str) -> Result<LogLevel, String> {
    LogLevel::ALL
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or_else(|| "the levels are trace, debug, info, warn, error".to_owned())
}

/// The number of lines that are read at once.
const PAGE: usize = 1_000;

impl Logs {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let run = find_run(store.as_ref(), &self.run).await?.id;
        let mut next = 0;
        // What was said before is in the transcripts; what is said now shows here.
        let mut agents = match self.follow {
            true => LiveLines::from_now(store.as_ref(), &run).await?,
            false => LiveLines::new(&run),
        };
        tail(async || {
            // Looked at before the lines are read, so that none is missed at the end.
            let ended = !self.follow || store.run(&run).await?.is_none_or(|info| info.state.is_final());
            let lines = store.logs(&run, next, PAGE).await?;
            for line in lines.iter().filter(|line| line.level >= self.level) {
                print(common.output, line);
            }
            let said = if self.follow { agents.next(store.as_ref()).await? } else { Vec::new() };
            said.iter().for_each(|line| print_live(common.output, line));
            next = lines.last().map_or(next, |last| last.number + 1);
            Ok(match (lines.is_empty() && said.is_empty(), ended) {
                (false, _) => News::Some,
                (true, true) => News::Ended,
                (true, false) => News::None,
            })
        })
        .await
    }
}

fn print_live(format: Format, line: &TranscriptLine) {
    if format == Format::Text {
        let (at, step) = (rfc3339(line.line.at), line.line.step);
        printer::line(format!("{at}  agent  {}  step={step}", line.line.text));
    } else {
        printer::json(&json!({ "live": TranscriptView::of(line) }));
    }
}

pub(super) fn print(format: Format, line: &LogLine) {
    if format != Format::Text {
        return printer::json(&LogView::of(line));
    }
    let LogLine { at, level, message, fields, .. } = line;
    let fields: Vec<_> = fields.iter().map(|(key, value)| format!(" {key}={value}")).collect();
    printer::line(format!("{}  {:<5}  {message}{}", rfc3339(*at), level.as_str(), fields.concat()));
}
