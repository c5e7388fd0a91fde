//! `wfhost replay`

use wfhost::agents::Providers;
use wfhost::engine::{Asked, Denied};
use wfhost::store::LogLevel;
use wfhost::{Adopt, Evict, StepInfo, steps};
use wfhost_core::{Outcome, counted};
use wfhost_view::{ReplayView, log_lines};

use super::diagnostic::{Exit, UserError};
use super::place::find_run;
use super::registry::Fetch;
use super::{Common, Format, logs, module_arg, printer};

/// Replay a run without effects, to inspect it
///
/// The program is executed against its journal: no calls are made, and nothing is
/// sent or stored. The replay checks that the program does the same as before.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost replay @last
  wfhost replay @last --log debug          its log, at any level
  wfhost replay @last --to 12 --backtrace  where it was at entry 12, and how it got there
  wfhost replay run_01k9 --module new.wasm whether other code would do the same")]
pub(crate) struct Replay {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
    /// Execute this module instead: a file, a directory, a name or a digest
    #[arg(long, value_name = "MODULE")]
    module: Option<String>,
    /// Stop after this journal entry
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// Show where in the source each step is requested
    #[arg(long)]
    backtrace: bool,
    /// Print the log from this level
    #[arg(long, value_name = "LEVEL", value_parser = logs::level_arg)]
    log: Option<LogLevel>,
    #[command(flatten)]
    fetch: Fetch,
}

impl Replay {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let host = common.host(store, Providers::builtin(), Evict::default(), Adopt::Own)?;
        let module = match &self.module {
            Some(module) => {
                let (name, bytes) =
                    module_arg::load(common, Some(host.store().as_ref()), module, self.fetch).await?;
                host.add_module_with(&name, &bytes, Denied::Trap).await?
            }
            None => host.module_of(&info).await?,
        };
        let mut journal = host.journal(&info.id).await?;
        let whole = journal.entries.len() as u64;
        let entries = self.to.map_or(whole, |to| whole.min(to.saturating_add(1)));
        if entries < whole {
            let end = journal.entries.split_off(entries as usize);
            drop(end);
        }
        let known = steps(&journal);
        let replayed = match self.backtrace {
            true => host.trace(&info.id, journal, &module).await?,
            false => host.replay(&info.id, journal, &module, wfhost_core::Given::Nothing).await?,
        };
        if let Some(mismatch) = &replayed.departs {
            let moved = (module.digest != info.module).then_some((info.module, module.digest));
            return Err(UserError::mismatch(&info.id, mismatch, moved));
        }
        let recorded = info.outcome.as_ref().filter(|_| entries == whole && info.state.is_final());
        if let (Some(recorded), Some(found)) = (recorded, &replayed.outcome)
            && recorded != found
        {
            return Err(UserError {
                details: vec![
                    format!("recorded  {}", spell(recorded)),
                    format!("now       {}", spell(found)),
                ],
                exit: Exit::Mismatch,
                ..UserError::host("WF0203", format!("{} ended differently than before", info.id))
            });
        }
        let lines = log_lines(&replayed, self.log.unwrap_or(LogLevel::ALL[0]));
        match common.output {
            Format::Text => {
                for asked in &replayed.trace {
                    print_step(asked, &known);
                }
                for line in lines.iter().filter(|_| self.log.is_some()) {
                    logs::print(Format::Text, line);
                }
            }
            Format::Json | Format::Jsonl => {
                printer::json(&ReplayView::new(&info.id, entries, &replayed, &lines, &known));
            }
        }
        printer::say(
            common,
            "Replayed",
            &format!("{}  {} without a difference", info.id, counted(entries, "entry")),
        );
        Ok(Exit::Done)
    }
}

fn spell(outcome: &Outcome) -> String {
    match outcome {
        Ok(json) => json.as_str().to_owned(),
        Err(failure) => format!("{failure}"),
    }
}

fn print_step(asked: &Asked, known: &[StepInfo]) {
    let what = known.iter().find(|info| info.step == asked.step);
    let (kind, label) =
        what.map_or(("".to_owned(), String::new()), |info| (info.op.kind().to_owned(), info.op.label()));
    printer::line(format!("{:>5}  {kind:<7} {label}", asked.step));
    for frame in &asked.frames {
        let function = frame.function.as_deref().unwrap_or("?");
        printer::line(format!("         {function}  {frame}"));
    }
}
