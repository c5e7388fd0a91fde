//! `wfhost events`

use std::time::Duration;

use serde_json::{Value, json};
use wfhost::clock::rfc3339;
use wfhost::store::{Store, TranscriptFilter, TranscriptKind, TranscriptLine};
use wfhost_core::{Entry, Position, RunId};

use super::diagnostic::{Exit, Trouble};
use super::follow::unreadable;
use super::place::find_run;
use super::{Common, Format, follow, journal, print_line, transcript};

/// Show what happens, as it is committed: of one run or of all
///
/// Each event is an entry of a journal. Nothing is left out and nothing comes
/// twice; `--after` goes on behind any event. For one run `event` is the
/// position in its journal; for all it is the place of the commit, which
/// several entries may share.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost events --follow -o jsonl
  wfhost events run_01k9 --after 12")]
pub(crate) struct Events {
    /// An id, the beginning of one, @last, @last:2 [default: all runs]
    run: Option<String>,
    /// Go on: of one run until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only what comes behind this event
    #[arg(long, value_name = "N")]
    after: Option<u64>,
}

/// Commits that are read at once.
const PAGE: usize = 1_000;
/// How often is looked for more.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Events {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let store = common.store()?;
        let mut signals = follow::Signals::new()?;
        let run = match &self.run {
            Some(run) => Some(find_run(store.as_ref(), run).await?.id),
            None => None,
        };
        let mut next = self.after.map_or(0, |after| after + 1);
        // Where the next row begins; the first one may hold entries that are not wanted.
        let mut from = Position(0);
        // Lines that agents wrote are no entries: only those that come from now on are shown.
        let mut live = match &run {
            Some(run) if self.follow => last_live(store.as_ref(), run).await?,
            _ => 0,
        };
        loop {
            let mut news = false;
            let mut ended = !self.follow;
            match &run {
                Some(run) => {
                    // Looked at before the entries are read, so that none is missed at the end.
                    let info = store.run(run).await?;
                    ended |= info.is_none_or(|info| info.state.is_final());
                    let rows = store.journal(run, from).await?;
                    for row in &rows {
                        for entry in row.entries() {
                            let (position, entry) = entry.map_err(|error| unreadable(run, error))?;
                            if position.0 >= next {
                                show(common.output, position.0, run.as_str(), position, &entry);
                                next = position.0 + 1;
                                news = true;
                            }
                        }
                        from = row.end();
                    }
                }
                None => {
                    for change in store.changes(next.saturating_sub(1), PAGE).await? {
                        for entry in change.row.entries() {
                            let (position, entry) = entry.map_err(|error| unreadable(&change.run, error))?;
                            show(common.output, change.place, change.run.as_str(), position, &entry);
                        }
                        next = change.place + 1;
                        news = true;
                    }
                }
            }
            if let Some(run) = run.as_ref().filter(|_| self.follow) {
                for line in live_lines(store.as_ref(), run, live).await? {
                    live = line.number;
                    news = true;
                    show_live(common.output, run.as_str(), &line);
                }
            }
            if news {
                continue;
            }
            if ended {
                return Ok(Exit::Done);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                number = signals.next() => return Ok(Exit::Signalled(number)),
            }
        }
    }
}

async fn last_live(store: &dyn Store, run: &RunId) -> Result<u64, Trouble> {
    let mut last = 0;
    while let Some(line) = live_lines(store, run, last).await?.last() {
        last = line.number;
    }
    Ok(last)
}

async fn live_lines(store: &dyn Store, run: &RunId, after: u64) -> Result<Vec<TranscriptLine>, Trouble> {
    let kinds = vec![TranscriptKind::Answer, TranscriptKind::Progress];
    Ok(store.transcript(run, TranscriptFilter { after, step: None, kinds }, PAGE).await?)
}

/// A line of an agent: an event without a number.
fn show_live(format: Format, run: &str, line: &TranscriptLine) {
    if format == Format::Text {
        let (time, step) = (rfc3339(line.line.at), line.line.step);
        print_line(&format!("{:>6}  {time}  {run}  {:<16}  step={step} {}", "", "live", line.line.text));
    } else {
        print_line(&json!({ "run": run, "kind": "live", "live": transcript::view(line) }).to_string());
    }
}

fn show(format: Format, event: u64, run: &str, position: Position, entry: &Entry) {
    let Value::Object(fields) = journal::describe(position, &entry.event) else { return };
    if format == Format::Text {
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (time, kind) = (rfc3339(entry.at), entry.event.kind());
        print_line(format!("{event:>6}  {time}  {run}  {kind:<16}  {}", fields.join(" ")).trim_end());
        return;
    }
    let mut view = json!({
        "event": event, "run": run, "position": position, "at": rfc3339(entry.at), "kind": entry.event.kind(),
    });
    if let Some(view) = view.as_object_mut() {
        view.extend(fields);
    }
    print_line(&view.to_string());
}
