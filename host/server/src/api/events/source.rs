//! What is told of, and reading it from the store: so much at once as fits into a bound.

use axum::body::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use wfhost::HostError;
use wfhost::store::{Change, RunFilter, RunInfo, SharedStore, StoreError, TranscriptFilter, TranscriptKind};
use wfhost_core::{EntryError, Position, RunId};
use wfhost_view::{
    EntryView, LogView, MessageView, PublishedView, RunView, TranscriptView, UserError, document, raw,
};

use super::super::runs::Anything;
use super::cursor::{AllCursor, Cursor, RunCursor};
use crate::problem::Problem;

/// Rows that are read for one batch of events.
const ROWS: usize = 1_000;
/// Rows that are asked for first. How large they are is known only then.
const FIRST_ROWS: usize = 4;
/// Rows that are asked for at once.
const MOST_ROWS: usize = 256;

/// An event.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct EventView {
    /// What it tells, by the kind.
    #[schema(value_type = Anything)]
    pub data: Box<RawValue>,
    /// `entry` of a journal, `log`, `message`, `state`, `live` of an agent, `commit` behind its entries;
    /// of streams also `run` as it is now, `ping`, `end`, `bye`.
    pub event: &'static str,
    /// The cursor behind it.
    pub id: String,
}

impl EventView {
    pub fn new(event: &'static str, id: &impl ToString, data: &impl Serialize) -> Self {
        Self { data: raw(data), event, id: id.to_string() }
    }

    /// As a server-sent event.
    pub fn text(&self) -> String {
        event_text(self.event, &self.id, self.data.get())
    }
}

/// A server-sent event. `data` is JSON without line ends.
pub(super) fn event_text(event: &str, id: &str, data: &str) -> String {
    format!("id: {id}\nevent: {event}\ndata: {data}\n\n")
}

/// The kinds of events that are wanted: sorted, each once.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Kinds(Option<Vec<String>>);

impl Kinds {
    pub fn read(text: Option<&str>, known: &[(&str, bool)]) -> Result<Self, Problem> {
        let Some(text) = text else { return Ok(Self(None)) };
        let mut kinds: Vec<_> =
            text.split(',').map(str::trim).filter(|kind| !kind.is_empty()).map(str::to_owned).collect();
        let strange = kinds.iter().find(|kind| !known.iter().any(|(known, _)| known == kind));
        if let Some(kind) = strange {
            let known: Vec<_> = known.iter().map(|(kind, _)| *kind).collect();
            let known = known.join(", ");
            return Err(Problem::unfit(format!("unknown kind of event `{kind}`; known kinds: {known}")));
        }
        kinds.sort_unstable();
        kinds.dedup();
        Ok(Self(Some(kinds)))
    }

    /// Whether it is asked for, and not only told with all others.
    pub fn names(&self, kind: &str) -> bool {
        self.0.is_some() && self.has(kind)
    }

    pub fn has(&self, kind: &str) -> bool {
        self.0.as_ref().is_none_or(|kinds| kinds.iter().any(|known| known == kind))
    }
}

/// What is told of, and to whom.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Source {
    /// All runs if none.
    pub run: Option<RunId>,
    pub kinds: Kinds,
    /// What runs work on is told, too.
    pub payloads: bool,
}

/// Why something cannot be read.
#[derive(Clone, Debug)]
pub(super) enum Unread {
    /// The store says so: of all that it has, if the same may succeed soon.
    Store(StoreError),
    /// It is there, but is not what it should be.
    Source(UserError),
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Unread> for UserError {
    fn from(error: Unread) -> Self {
        match error {
            Unread::Store(error) => error.into(),
            Unread::Source(error) => error,
        }
    }
}

/// How far is read at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// Nothing behind this cursor.
    pub until: Option<Cursor>,
    /// No further event when there are so many bytes: one more than fits at most.
    pub bytes: usize,
}

/// What was read.
pub(super) struct News {
    pub events: Vec<EventView>,
    /// Behind all of them, and behind what is not wanted.
    pub cursor: Cursor,
    /// Nothing more will come.
    pub ended: bool,
    /// There is more already.
    pub more: bool,
    /// How the run shows now.
    pub run: Option<RunView>,
}

impl News {
    /// The events as they are sent.
    pub fn text(&self) -> Bytes {
        self.events.iter().map(EventView::text).collect::<String>().into()
    }
}

/// The events that were gathered, and what still has room.
struct Gathered {
    events: Vec<EventView>,
    bytes: usize,
    rows: usize,
    /// What is next did not fit.
    full: bool,
}

impl Gathered {
    fn new(bound: Bound) -> Self {
        Self { events: Vec::new(), bytes: bound.bytes, rows: ROWS, full: false }
    }

    /// Whether something else fits; it is known from then on if not.
    fn has_room(&mut self) -> bool {
        self.full = self.bytes == 0 || self.rows == 0;
        !self.full
    }

    fn push(&mut self, event: EventView) {
        self.bytes = self.bytes.saturating_sub(event.data.get().len() + event.id.len() + 32);
        self.events.push(event);
    }

    fn saw_row(&mut self) {
        self.rows = self.rows.saturating_sub(1);
    }

    /// How many rows to ask for, after so many with so many bytes.
    fn next_page(&self, page: usize, bytes: usize) -> usize {
        let each = bytes / page + 1;
        (page * 4).min(MOST_ROWS).min(self.bytes / each).max(1)
    }
}

impl Source {
    /// Whether agents are told of while they work, which is not committed with anything else.
    pub fn has_live(&self) -> bool {
        self.run.is_some() && self.payloads && self.kinds.has("live")
    }

    /// Reads what is behind a cursor.
    pub async fn read(&self, store: &SharedStore, from: Cursor, bound: Bound) -> Result<News, Unread> {
        match (from, &self.run) {
            (Cursor::Run(from), Some(run)) => {
                // Looked at before the rest is read, so that none is missed at the end.
                let info = store.run(run).await?.ok_or_else(|| no_such_run(run))?;
                self.read_run(store, &info, from, bound).await
            }
            (Cursor::All(from), _) => self.read_all(store, from, bound).await,
            (Cursor::Run(_), None) => unreachable!("the cursor belongs to a single run"),
        }
    }

    /// The same of a run that was just looked at.
    pub async fn read_run(
        &self,
        store: &SharedStore,
        info: &RunInfo,
        from: RunCursor,
        bound: Bound,
    ) -> Result<News, Unread> {
        let until = bound.until.and_then(Cursor::of_run);
        let mut cursor = from;
        let mut gathered = Gathered::new(bound);
        self.read_entries(store, info, until, &mut cursor, &mut gathered).await?;
        if self.payloads && !gathered.full {
            self.read_emissions(store, info, until, &mut cursor, &mut gathered).await?;
        }
        if self.has_live() && !gathered.full {
            read_live(store, &info.id, until, &mut cursor, &mut gathered).await?;
        }
        let view = RunView::of(info);
        Ok(News {
            events: gathered.events,
            cursor: Cursor::Run(cursor),
            ended: info.state.is_final() && cursor.entries >= info.entries.0 && !gathered.full,
            more: gathered.full,
            run: Some(if self.payloads { view } else { view.hidden() }),
        })
    }

    async fn read_entries(
        &self,
        store: &SharedStore,
        info: &RunInfo,
        until: Option<RunCursor>,
        cursor: &mut RunCursor,
        gathered: &mut Gathered,
    ) -> Result<(), Unread> {
        let end = until.map_or(info.entries.0, |until| until.entries.min(info.entries.0));
        let mut page = FIRST_ROWS;
        while cursor.entries < end {
            let rows = store.journal_part(&info.id, Position(cursor.entries), page).await?;
            for row in &rows {
                for entry in row.entries() {
                    let (position, entry) = entry.map_err(|error| unreadable(&info.id, error))?;
                    if position.0 < cursor.entries {
                        continue;
                    }
                    if position.0 >= end || !gathered.has_room() {
                        return Ok(());
                    }
                    cursor.entries = position.0 + 1;
                    if self.kinds.has("entry") {
                        let view = EntryView::of(position, &entry).event(&info.id, &position);
                        let view = if self.payloads { view } else { view.hidden() };
                        gathered.push(EventView::new("entry", cursor, &view));
                    }
                }
                gathered.saw_row();
            }
            if rows.is_empty() {
                return Ok(());
            }
            page = gathered.next_page(page, rows.iter().map(|row| row.bytes.len()).sum());
        }
        Ok(())
    }

    /// What the program gave out: log lines, messages, published values, in their order.
    async fn read_emissions(
        &self,
        store: &SharedStore,
        info: &RunInfo,
        until: Option<RunCursor>,
        cursor: &mut RunCursor,
        gathered: &mut Gathered,
    ) -> Result<(), Unread> {
        let run = &info.id;
        // What was given out before `info` was read is there as a whole.
        let end = until.map_or(info.emissions, |until| until.emissions.min(info.emissions));
        let mut page = FIRST_ROWS;
        while cursor.emissions < end {
            if !gathered.has_room() {
                return Ok(());
            }
            let after = cursor.emissions.checked_sub(1);
            let (mut given, mut ends) = (Vec::new(), end);
            // Behind the end of a full page something may be missing.
            let mut page_ends = |count: usize, last: Option<u64>| {
                if let Some(last) = last.filter(|_| count == page) {
                    ends = ends.min(last + 1);
                }
            };
            if self.kinds.has("log") {
                let lines = store.logs(run, cursor.emissions, page).await?;
                page_ends(lines.len(), lines.last().map(|line| line.number));
                given.extend(lines.iter().map(|line| (line.number, "log", raw(&LogView::of(line)))));
            }
            if self.kinds.has("message") {
                let messages = store.messages(run, after, page).await?;
                page_ends(messages.len(), messages.last().map(|message| message.number));
                given.extend(messages.iter().map(|m| (m.number, "message", raw(&MessageView::of(m)))));
            }
            if self.kinds.has("state") {
                let published = store.published(run, None, after, page).await?;
                page_ends(published.len(), published.last().map(|published| published.number));
                given.extend(published.iter().map(|p| (p.number, "state", raw(&PublishedView::of(run, p)))));
            }
            given.retain(|(number, ..)| *number < ends);
            given.sort_by_key(|(number, ..)| *number);
            let bytes = given.iter().map(|(.., data)| data.get().len()).sum();
            for (number, event, data) in given {
                if !gathered.has_room() {
                    return Ok(());
                }
                cursor.emissions = number + 1;
                gathered.push(EventView { data, event, id: cursor.to_string() });
                gathered.saw_row();
            }
            cursor.emissions = ends;
            page = gathered.next_page(page, bytes);
        }
        Ok(())
    }

    /// Reads the commits of all runs.
    pub async fn read_all(&self, store: &SharedStore, from: AllCursor, bound: Bound) -> Result<News, Unread> {
        let until = bound.until.and_then(Cursor::of_all);
        let mut cursor = from;
        let mut gathered = Gathered::new(bound);
        self.read_commits(store, until, &mut cursor, &mut gathered).await?;
        if let Some(until) = until.filter(|_| !gathered.full) {
            // What was committed up to there is told, also if the last of it was deleted since.
            cursor = cursor.max(until);
        }
        let more = gathered.full;
        Ok(News { events: gathered.events, cursor: Cursor::All(cursor), ended: false, more, run: None })
    }

    async fn read_commits(
        &self,
        store: &SharedStore,
        until: Option<AllCursor>,
        cursor: &mut AllCursor,
        gathered: &mut Gathered,
    ) -> Result<(), Unread> {
        let is_beyond = |cursor: AllCursor| until.is_some_and(|until| cursor > until);
        let tells_commit = self.kinds.names("commit");
        let mut page = FIRST_ROWS;
        loop {
            let changes = store.changes(cursor.place, page).await?;
            for change in &changes {
                let place = AllCursor { place: change.place, part: 0 };
                // The commit that was told in part may have been deleted since.
                let known = if change.place == cursor.place + 1 { cursor.part } else { 0 };
                let count = u64::from(change.row.count);
                if self.kinds.has("entry") {
                    for (number, entry) in (1..).zip(change.row.entries()) {
                        let (position, entry) = entry.map_err(|error| unreadable(&change.run, error))?;
                        if number <= known {
                            continue;
                        }
                        let next = match number < count || tells_commit {
                            // The place of the commit before it, whichever that is.
                            true => AllCursor { place: change.place - 1, part: number },
                            false => place,
                        };
                        if is_beyond(next) || !gathered.has_room() {
                            return Ok(());
                        }
                        *cursor = next;
                        let view = EntryView::of(position, &entry).event(&change.run, &change.place);
                        let view = if self.payloads { view } else { view.hidden() };
                        gathered.push(EventView::new("entry", cursor, &view));
                    }
                }
                if is_beyond(place) || !gathered.has_room() {
                    return Ok(());
                }
                *cursor = place;
                // Behind its entries: whoever goes on behind it has them all.
                if tells_commit {
                    let view = document! { "run": change.run, "entries": change.row.end() };
                    gathered.push(EventView::new("commit", cursor, &view));
                }
                gathered.saw_row();
            }
            if !Change::may_go_on(&changes, page) {
                return Ok(());
            }
            page = gathered.next_page(page, changes.iter().map(|change| change.row.bytes.len()).sum());
        }
    }
}

/// What agents said while they worked.
async fn read_live(
    store: &SharedStore,
    run: &RunId,
    until: Option<RunCursor>,
    cursor: &mut RunCursor,
    gathered: &mut Gathered,
) -> Result<(), Unread> {
    let mut page = FIRST_ROWS;
    loop {
        let kinds = vec![TranscriptKind::Answer, TranscriptKind::Progress];
        let filter = TranscriptFilter { after: cursor.transcript, step: None, kinds };
        let lines = store.transcript(run, filter, page).await?;
        for line in &lines {
            if until.is_some_and(|until| line.number > until.transcript) || !gathered.has_room() {
                return Ok(());
            }
            cursor.transcript = line.number;
            gathered.push(EventView::new("live", cursor, &TranscriptView::of(line)));
            gathered.saw_row();
        }
        if lines.len() < page {
            // What is there up to it is told, also if the line itself is of another kind, or is gone since.
            cursor.transcript = cursor.transcript.max(until.map_or(0, |until| until.transcript));
            return Ok(());
        }
        page = gathered.next_page(page, lines.iter().map(|line| line.line.text.len()).sum());
    }
}

/// What is known of several runs; of those that are there.
pub(super) async fn look_at(store: &SharedStore, runs: &[RunId]) -> Result<Vec<RunInfo>, StoreError> {
    /// Ids in one statement.
    const AT_ONCE: usize = 500;
    let mut found = Vec::with_capacity(runs.len());
    for ids in runs.chunks(AT_ONCE) {
        let filter = RunFilter { ids: Some(ids.to_vec()), limit: ids.len(), ..RunFilter::default() };
        found.extend(store.runs(filter).await?);
    }
    Ok(found)
}

pub(super) fn no_such_run(run: &RunId) -> Unread {
    Unread::Source(HostError::NoSuchRun(run.clone()).into())
}

fn unreadable(run: &RunId, error: EntryError) -> Unread {
    Unread::Source(HostError::Journal { run: run.clone(), source: error.into() }.into())
}
