//! `wfhost events`

use wfhost::clock::rfc3339;
use wfhost::store::TranscriptLine;
use wfhost_core::{Entry, Position, RunId};
use wfhost_view::{EntryView, TranscriptView, describe, document};

use super::diagnostic::{Exit, UserError};
use super::follow::unreadable;
use super::place::find_run;
use super::tail::{LiveLines, News, tail};
use super::{Common, Format, printer};

/// Show events as they are committed, of one run or of all runs
///
/// Each event is a journal entry, and is delivered exactly once; `--after` continues
/// after any event. For one run, `event` is the position in its journal; for all runs
/// it is the position of the commit, which several entries may share.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost events --follow -o jsonl
  wfhost events run_01k9 --after 12")]
pub(crate) struct Events {
    /// An id, the beginning of one, @last, @last:2 [default: all runs]
    run: Option<String>,
    /// Keep following; for one run until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only events after this one
    #[arg(long, value_name = "N")]
    after: Option<u64>,
}

/// Databases count commits no further.
const LAST: u64 = i64::MAX as u64;
/// Commits that are read at once.
const PAGE: usize = 1_000;
impl Events {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        // Who waits for what is to come waits in a database.
        let store = if self.follow { common.store().await? } else { common.reader().await? };
        let run = match &self.run {
            Some(run) => Some(find_run(store.as_ref(), run).await?.id),
            None => None,
        };
        let mut next = self.after.map_or(0, |after| after.saturating_add(1));
        let Some(run) = run else {
            return tail(async || {
                let changes = store.changes(next.saturating_sub(1).min(LAST), PAGE).await?;
                for change in &changes {
                    for entry in change.row.entries() {
                        let (position, entry) = entry.map_err(|error| unreadable(&change.run, error))?;
                        show(common.output, change.place, &change.run, position, &entry);
                    }
                    next = change.place + 1;
                }
                Ok(match (changes.is_empty(), self.follow) {
                    (false, _) => News::Some,
                    (true, true) => News::None,
                    (true, false) => News::Ended,
                })
            })
            .await;
        };
        // Where the next row begins; the first one may hold entries that are not wanted.
        let mut from = Position(0);
        // Lines that agents wrote are no entries: only those that come from now on are shown.
        let mut agents = match self.follow {
            true => LiveLines::from_now(store.as_ref(), &run).await?,
            false => LiveLines::new(&run),
        };
        tail(async || {
            // Looked at before the entries are read, so that none is missed at the end.
            let ended = !self.follow || store.run(&run).await?.is_none_or(|info| info.state.is_final());
            let mut news = false;
            for row in &store.journal(&run, from).await? {
                for entry in row.entries() {
                    let (position, entry) = entry.map_err(|error| unreadable(&run, error))?;
                    if position.0 >= next {
                        show(common.output, position.0, &run, position, &entry);
                        next = position.0 + 1;
                        news = true;
                    }
                }
                from = row.end();
            }
            if self.follow {
                for line in agents.next(store.as_ref()).await? {
                    news = true;
                    show_live(common.output, run.as_str(), &line);
                }
            }
            Ok(match (news, ended) {
                (true, _) => News::Some,
                (false, true) => News::Ended,
                (false, false) => News::None,
            })
        })
        .await
    }
}

/// A line of an agent: an event without a number.
fn show_live(format: Format, run: &str, line: &TranscriptLine) {
    if format == Format::Text {
        let (time, step) = (rfc3339(line.line.at), line.line.step);
        printer::line(format!("{:>6}  {time}  {run}  {:<16}  step={step} {}", "", "live", line.line.text));
    } else {
        printer::json(&document! { "run": run, "kind": "live", "live": TranscriptView::of(line) });
    }
}

fn show(format: Format, event: u64, run: &RunId, position: Position, entry: &Entry) {
    if format == Format::Text {
        let fields = describe(position, &entry.event);
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (time, kind) = (rfc3339(entry.at), entry.event.kind());
        printer::line(format!("{event:>6}  {time}  {run}  {kind:<16}  {}", fields.join(" ")).trim_end());
        return;
    }
    printer::json(&EntryView::of(position, entry).event(run, &event));
}
