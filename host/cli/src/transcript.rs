//! `wfhost transcript`

use wfhost::steps;
use wfhost::store::{Store, TranscriptFilter, TranscriptKind, TranscriptLine};
use wfhost::world::text::command;
use wfhost_core::{Journal, Position, RunId, Step};
use wfhost_view::TranscriptView;

use super::diagnostic::{Exit, UserError};
use super::place::find_run;
use super::{Common, Format, printer};

/// Show what an agent said while it worked
///
/// By default prints readable lines; --raw prints the events as the provider sent
/// them, --diff the changes in the agent's workspace.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost transcript @last 1
  wfhost transcript @last 1 --raw
  wfhost transcript @last 3 --diff | git apply --stat")]
pub(crate) struct Transcript {
    /// An id, the beginning of one, @last, @last:2
    run: String,
    /// The number of the step, as `show` lists it [default: all]
    step: Option<u64>,
    /// Print the events as the provider sent them
    #[arg(long, conflicts_with = "diff")]
    raw: bool,
    /// Print the changes in the workspace
    #[arg(long)]
    diff: bool,
    /// Only this attempt
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

/// Lines that are read at once.
const PAGE: usize = 1_000;

impl Transcript {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let run = find_run(store.as_ref(), &self.run).await?.id;
        let kinds = match (self.raw, self.diff, common.output) {
            (true, ..) => vec![TranscriptKind::Event],
            (_, true, _) => vec![TranscriptKind::Diff],
            (.., Format::Text) => vec![TranscriptKind::Answer, TranscriptKind::Progress],
            _ => Vec::new(),
        };
        let mut filter = TranscriptFilter { after: 0, step: self.step.map(Step), kinds };
        let mut any = false;
        loop {
            let lines = store.transcript(&run, filter.clone(), PAGE).await?;
            let Some(last) = lines.last() else { break };
            filter.after = last.number;
            any = true;
            let wanted = |line: &&TranscriptLine| self.attempt.is_none_or(|n| line.line.attempt == n);
            for line in lines.iter().filter(wanted) {
                print(common.output, line);
            }
        }
        match (any, self.step) {
            // An agent need not say anything, nor change anything; a step of another kind has no agent.
            (false, Some(step)) if self.is_step(store.as_ref(), &run, step).await? => {
                printer::say(common, "Empty", &format!("step {step} of {run} has no such lines"));
                Ok(Exit::Done)
            }
            (false, Some(step)) => {
                Err(UserError::usage("WF0705", format!("step {step} of {run} has no such transcript")).hint(
                    format!(
                        "its steps: `{}`; all transcripts: `{}`",
                        command("show", &run),
                        command("transcript", &run).option("-o", "jsonl")
                    ),
                ))
            }
            _ => Ok(Exit::Done),
        }
    }
}

impl Transcript {
    /// Whether the run has such a step.
    async fn is_step(&self, store: &dyn Store, run: &RunId, step: u64) -> Result<bool, UserError> {
        let rows = store.journal(run, Position(0)).await?;
        // A damaged journal is for `verify` to report.
        let Ok(journal) = Journal::read(rows) else { return Ok(false) };
        Ok(steps(&journal).iter().any(|info| info.step == Step(step)))
    }
}

fn print(format: Format, line: &TranscriptLine) {
    match (format, line.line.kind) {
        (Format::Text, TranscriptKind::Event | TranscriptKind::Diff) => printer::data(&line.line.text),
        (Format::Text, _) => line.line.text.lines().for_each(printer::line),
        _ => printer::json(&TranscriptView::of(line)),
    }
}
