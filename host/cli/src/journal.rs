//! `wfhost journal`

use wfhost::clock::rfc3339;
use wfhost_core::Position;
use wfhost_view::{EntryView, JournalView, describe};

use super::diagnostic::{Exit, UserError};
use super::place::find_run;
use super::{Common, Format, printer};

/// Show the journal of a run, entry by entry
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost journal @last
  wfhost journal run_01k9 -o jsonl")]
pub(crate) struct Journal {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
}

impl Journal {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let rows = store.journal(&info.id, wfhost_core::Position(0)).await?;
        let journal = wfhost_core::Journal::read(rows)
            .map_err(|source| wfhost::HostError::Journal { run: info.id.clone(), source })?;
        let numbered = journal.entries.iter().enumerate();
        let entries = numbered.map(|(position, entry)| EntryView::of(Position(position as u64), entry));
        match common.output {
            Format::Json => {
                printer::json(&JournalView {
                    entries: entries.collect(),
                    head: Some(journal.head.to_string()),
                    next: None,
                    run: info.id.to_string(),
                    schema: "wfhost/journal/1",
                });
            }
            Format::Jsonl => entries.for_each(|entry| printer::json(&entry)),
            Format::Text => {
                for (position, entry) in journal.entries.iter().enumerate() {
                    let fields = describe(Position(position as u64), &entry.event);
                    let fields: Vec<_> =
                        fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
                    let time = rfc3339(entry.at);
                    let line =
                        format!("{position:>5}  {time}  {:<16}  {}", entry.event.kind(), fields.join(" "));
                    printer::line(line.trim_end());
                }
            }
        }
        Ok(Exit::Done)
    }
}
