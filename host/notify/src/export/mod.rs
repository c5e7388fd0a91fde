//! Sends spans to a collector, as they come to their ends.
//!
//! Spans are made of the commits behind the cursor ([`wfhost_view::Tracer`]), by whoever has it. It is moved when the
//! collector has taken them. So a collector that is away misses nothing, a host that dies leaves the rest to the next one,
//! and what comes twice is the same.
//!
//! Of each run that goes on is kept what is open in it, so that only what is new is read. The journal itself is read by
//! the host that meets the run for the first time, or after a retry, which takes up again what ended long ago.

mod kept;
mod otlp;
mod protobuf;
mod ready;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use wfhost::agents::Poster;
use wfhost::store::{Change, Cursor, RunFilter, RunInfo, RunState, SharedStore, StoreError};
use wfhost_core::{Position, Row, RunId};
use wfhost_view::{NeedsPast, Span, Tracer};

use self::kept::Kept;
pub use self::otlp::Otlp;
use self::otlp::Sent;
use self::ready::{Piece, Ready, by_trace};
use crate::plan::aside;
use crate::reader::{Reader, holder};
use crate::{Report, Told};

/// The name of the cursor. There is one for each database: all hosts tell one collector.
pub const OTLP_CURSOR: &str = "otlp";
/// A cursor that is there from before the first one was made until all runs that were under way then were told from
/// their beginnings, and what came until then. So whoever goes on in between knows that this is still to be done.
const BEGINNING: &str = "otlp-beginning";

/// How spans are sent.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    pub to: Otlp,
    /// What runs work on is told, too.
    pub content: bool,
    /// How often what ended is sent.
    pub every: Duration,
}

/// Commits that are read at once.
const PAGE: usize = 2_000;
/// Bytes of rows of which spans are made at once, about.
const PART_BYTES: usize = 1 << 20;
/// Rows of a journal that are read at first, when nobody knows how long they are, and at most.
const FIRST_ROWS: usize = 16;
const MOST_ROWS: usize = 2_000;
/// Requests with the spans of one batch that are refused before what is refused is divided no more.
const REFUSALS: usize = 64;
/// Looks at which the collector failed, one after the other, before it is found out whether some of the spans are why.
const FAILURES: u32 = 3;
/// Runs under way that are read at once.
const UNDER_WAY: usize = 500;
/// How long is waited after the first request that failed, and at most.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Whether what says that all is yet to be told was made when that was done: by a host that had looked for the cursor
/// before another one made it. One that was made before the cursor is at a place before that of the cursor, or at the
/// same; if nothing was committed since, all is told once more.
fn is_late(cursors: &[Cursor]) -> bool {
    let place = |name: &str| cursors.iter().find(|cursor| cursor.name == name).map(|cursor| cursor.place);
    matches!((place(BEGINNING), place(OTLP_CURSOR)), (Some(beginning), Some(told)) if beginning > told)
}

/// Why it cannot go on now.
enum Halt {
    Store(StoreError),
    /// The collector did not take it.
    Away {
        why: String,
        after: Option<Duration>,
    },
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

pub(crate) struct Exporter {
    store: SharedStore,
    options: ExportOptions,
    report: Arc<dyn Report>,
    reader: Reader,
    poster: Poster,
    kept: Kept,
    /// Runs that were read beyond the cursor, and what was kept of them where it is.
    ahead: HashMap<RunId, Option<Tracer>>,
    /// Spans that are to be sent before the cursor is moved.
    ready: Ready,
    /// How many rows of journals were read that stand before the cursor.
    read_again: u64,
    /// At how many looks the collector failed, one after the other, and whether it took something since the first.
    failures: u32,
    works: bool,
    /// What was under way when the cursor was made is not told yet.
    begins: bool,
    /// What is read for the first time is told from its beginning.
    whole: bool,
}

/// What is to be taken in of a run.
struct Wanted {
    /// Rows that were read already, the last ones; without any all that there are.
    rows: Arc<[Row]>,
    /// Entries before this one were told.
    told: Position,
}

/// Why the spans of some rows could not be made.
enum Trouble {
    NeedsPast,
    Unreadable(String),
}

/// The spans of rows, as far as they can be made. Entries that the tracer knows are passed over; what stands before `told`
/// was told.
fn spans_of(tracer: &mut Tracer, rows: &[Row], told: Position) -> (Vec<Span>, Result<(), Trouble>) {
    let mut spans = Vec::new();
    for row in rows {
        for entry in row.entries() {
            let next = tracer.next();
            let (position, entry) = match entry {
                Ok(entry) => entry,
                Err(error) => return (spans, Err(Trouble::Unreadable(error.to_string()))),
            };
            if position < next {
                continue;
            }
            if position > next {
                let why = format!("entries {next} to {} are missing", position.0 - 1);
                return (spans, Err(Trouble::Unreadable(why)));
            }
            let head = (position.0 + 1 == row.end().0).then_some(row.head);
            let own = (position >= told).then_some(&mut spans);
            if let Err(NeedsPast) = tracer.take(&entry, head, own) {
                return (spans, Err(Trouble::NeedsPast));
            }
        }
    }
    (spans, Ok(()))
}

/// The rows of the next part: those behind what the tracer knows, up to so many bytes.
fn part(rows: &[Row], next: Position) -> std::ops::Range<usize> {
    let first = rows.partition_point(|row| row.end() <= next);
    let mut bytes = 0;
    let fits = rows[first..].iter().take_while(|row| {
        let before = bytes;
        bytes += row.bytes.len();
        before < PART_BYTES
    });
    first..first + fits.count()
}

impl Exporter {
    pub fn new(store: &SharedStore, options: ExportOptions, report: &Arc<dyn Report>) -> Self {
        let reader = Reader::new(OTLP_CURSOR.to_owned(), &holder()).busy_for(options.to.timeout());
        Self {
            store: Arc::clone(store),
            options,
            report: Arc::clone(report),
            reader,
            poster: Poster::default(),
            kept: Kept::default(),
            ahead: HashMap::new(),
            ready: Ready::default(),
            read_again: 0,
            failures: 0,
            works: false,
            begins: false,
            whole: false,
        }
    }

    pub async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let (mut rest, mut known) = (REST, None);
        loop {
            let since = Instant::now();
            let wait = match self.look().await {
                Ok(true) => Duration::ZERO,
                Ok(false) => {
                    (rest, known) = (REST, None);
                    self.options.every.saturating_sub(since.elapsed())
                }
                Err(halt) => {
                    let (what, why, after) = match halt {
                        Halt::Store(error) => ("traces", error.to_string(), None),
                        Halt::Away { why, after } => ("collector", why, after),
                    };
                    if known.as_ref() != Some(&why) {
                        match what {
                            "collector" => self.report.told(Told::Spans { count: 0, refused: Some(&why) }),
                            what => self.report.told(Told::Failed { what, why: &why }),
                        }
                    }
                    known = Some(why);
                    let wait = rest.max(after.unwrap_or_default());
                    rest = (rest * 2).min(LONGEST_REST);
                    wait
                }
            };
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        // What ended while the host did.
        let _ = self.look().await;
        self.reader.leave(&self.store).await;
    }

    /// Sends what follows from a page of commits. True if there is more.
    async fn look(&mut self) -> Result<bool, Halt> {
        if self.reader.place.is_none() {
            self.fall_back();
            self.hold().await?;
        }
        let Some(place) = self.reader.place else { return Ok(false) };
        // What could not be sent at the last look.
        if !self.send(true).await? {
            return Ok(false);
        }
        if self.begins {
            if !self.tell_under_way().await? || !self.send(true).await? {
                return Ok(false);
            }
            self.settle();
            (self.begins, self.whole) = (false, true);
        }
        let store = Arc::clone(&self.store);
        let changes = aside(async move { store.changes(place, PAGE).await }).await?;
        let more = Change::may_go_on(&changes, PAGE);
        let Some(end) = changes.last().map(|change| change.place) else {
            if std::mem::take(&mut self.whole) {
                self.store.drop_cursor(BEGINNING).await?;
            }
            self.settle();
            self.reader.read_to(&self.store, place, Vec::new()).await?;
            return Ok(false);
        };
        let mut runs: BTreeMap<RunId, Vec<Row>> = BTreeMap::new();
        for Change { run, row, .. } in changes {
            runs.entry(run).or_default().push(row);
        }
        for (run, rows) in runs {
            // What stands before them is before the cursor.
            let told = rows.first().map_or(Position(0), |row| row.first);
            let told = if self.whole { Position(0) } else { told };
            if !self.tell(&run, Wanted { rows: rows.into(), told }).await? {
                return Ok(false);
            }
        }
        if !self.send(true).await? || !self.reader.keep(&self.store, end).await? {
            // Somebody else goes on.
            return Ok(false);
        }
        self.settle();
        Ok(more)
    }

    /// The cursor is where the tracers are.
    fn settle(&mut self) {
        self.failures = 0;
        for run in std::mem::take(&mut self.ahead).into_keys() {
            if self.kept.get(&run).is_some_and(Tracer::has_ended) {
                self.kept.take(&run);
            }
        }
        self.kept.shrink();
    }

    /// What was read beyond the cursor is told by whoever has it now.
    fn fall_back(&mut self) {
        self.ready.clear();
        for (run, before) in std::mem::take(&mut self.ahead) {
            self.kept.take(&run);
            if let Some(before) = before {
                self.kept.put(run, before);
            }
        }
    }

    /// Asks for the cursor. If there is none yet, what says that this is the beginning is made before it.
    async fn hold(&mut self) -> Result<(), Halt> {
        let is_there = |cursors: &[Cursor], name: &str| cursors.iter().any(|cursor| cursor.name == name);
        if !is_there(&self.store.cursors().await?, OTLP_CURSOR) {
            self.store.hold_cursor(BEGINNING, self.reader.holder(), 1).await?;
            if is_late(&self.store.cursors().await?) {
                self.store.drop_cursor(BEGINNING).await?;
            }
        }
        self.reader.hold(&self.store).await?;
        if self.reader.place.is_some() {
            let cursors = self.store.cursors().await?;
            (self.begins, self.whole) = (is_there(&cursors, BEGINNING), false);
        }
        Ok(())
    }

    /// Tells what was under way when the cursor was made from its beginning: else it would have no root. The
    /// cursor is there already, so what ends meanwhile is behind it.
    /// False if somebody else goes on.
    async fn tell_under_way(&mut self) -> Result<bool, Halt> {
        let states: Vec<_> = RunState::ALL.into_iter().filter(|state| !state.is_final()).collect();
        let mut before = None;
        loop {
            let filter =
                RunFilter { states: states.clone(), limit: UNDER_WAY, before, ..RunFilter::default() };
            let store = Arc::clone(&self.store);
            let found = aside(async move { store.runs(filter).await }).await?;
            let is_last = found.len() < UNDER_WAY;
            before = found.last().map(|info| info.number);
            for info in found {
                let all = Wanted { rows: Arc::new([]), told: Position(0) };
                if !self.tell(&info.id, all).await? {
                    return Ok(false);
                }
                self.kept.shrink();
            }
            if is_last {
                return Ok(true);
            }
        }
    }

    /// Makes spans of what is wanted of a run, and sends as many as fill requests. What is known of it is kept.
    /// False if somebody else has the cursor.
    async fn tell(&mut self, run: &RunId, wanted: Wanted) -> Result<bool, Halt> {
        let known = self.kept.take(run);
        if !self.ahead.contains_key(run) {
            self.ahead.insert(run.clone(), known.clone());
        }
        let mut tracer = match known {
            Some(tracer) => Some(tracer),
            None => self.fresh(run, Tracer::new).await?,
        };
        let told = self.take_in(run, &mut tracer, wanted).await;
        if let Some(mut tracer) = tracer {
            tracer.forget();
            self.kept.put(run.clone(), tracer);
        }
        told
    }

    /// A tracer that knows nothing of the run's entries. None if there is no such run any more.
    async fn fresh(
        &self,
        run: &RunId,
        new: fn(&RunInfo, bool) -> Tracer,
    ) -> Result<Option<Tracer>, StoreError> {
        let (store, run) = (Arc::clone(&self.store), run.clone());
        let info = aside(async move { store.run(&run).await }).await?;
        Ok(info.map(|info| new(&info, self.options.content)))
    }

    async fn take_in(
        &mut self,
        run: &RunId,
        tracer: &mut Option<Tracer>,
        Wanted { rows, mut told }: Wanted,
    ) -> Result<bool, Halt> {
        let end = rows.last().map(Row::end);
        let mut limit = FIRST_ROWS;
        loop {
            // Reading a long journal takes its time.
            if !self.reader.renew_if_due(&self.store).await? {
                return Ok(false);
            }
            let Some(next) = tracer.as_ref().map(Tracer::next) else { return Ok(true) };
            if end.is_some_and(|end| next >= end) {
                return Ok(true);
            }
            let is_there = rows.first().is_some_and(|first| first.first <= next);
            let mut here = Arc::clone(&rows);
            if !is_there {
                let (store, run) = (Arc::clone(&self.store), run.clone());
                here = aside(async move { store.journal_part(&run, next, limit).await }).await?.into();
                self.read_again += here.len() as u64;
                // As many as have about the bytes of a part.
                let bytes = here.iter().map(|row| row.bytes.len()).sum::<usize>();
                limit = (here.len() * PART_BYTES / bytes.max(1)).clamp(1, MOST_ROWS).min(limit * 4);
                if here.is_empty() {
                    return Ok(true);
                }
            }
            let Some(mut taken) = tracer.take() else { return Ok(true) };
            let done = aside(async move {
                let part = if is_there { part(&here, next) } else { 0..here.len() };
                let (spans, trouble) = spans_of(&mut taken, &here[part], told);
                Ok((taken, spans, trouble))
            });
            let (taken, spans, trouble) = done.await?;
            let trace = taken.trace();
            spans.into_iter().for_each(|span| self.ready.push(&trace, span));
            let reached = taken.next();
            *tracer = Some(taken);
            match trouble {
                Ok(()) if reached > next => {}
                Ok(()) => return Ok(true),
                Err(Trouble::NeedsPast) => {
                    told = told.max(reached);
                    *tracer = self.fresh(run, Tracer::with_past).await?;
                }
                Err(Trouble::Unreadable(why)) => {
                    // `wfhost verify` says more. The others are told all the same.
                    self.report.told(Told::Failed { what: "traces", why: &format!("{run}: {why}") });
                    return Ok(true);
                }
            }
            if !self.send(false).await? {
                return Ok(false);
            }
        }
    }

    /// Sends what is ready: `all`, or as much as fills requests. The cursor is held on meanwhile: else another host would
    /// send the same before a collector that is slow already has taken them. False if another one does all the same.
    async fn send(&mut self, all: bool) -> Result<bool, Halt> {
        while let Some(next) = self.ready.next(all) {
            if !self.post(next).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends spans, and of those that are refused each half by itself: so what a collector does not want takes nothing
    /// with it. Where almost everything is refused, that comes to an end. The same is done with those at which it fails
    /// again and again; a span is left out if the collector fails at it twice, and takes others.
    /// False if somebody else has the cursor.
    async fn post(&mut self, spans: Vec<Piece>) -> Result<bool, Halt> {
        let mut parts = vec![spans];
        let mut refused = 0;
        // Spans at which it failed, each alone, and whether these are sent once more.
        let (mut doubtful, mut once_more) = (Vec::new(), false);
        while let Some(mut part) = parts.pop() {
            let count = part.len() as u64;
            match self.options.to.send(&self.poster, &by_trace(&part)).await {
                Sent::Taken => {
                    self.works = true;
                    self.report.told(Told::Spans { count, refused: None });
                }
                Sent::Rejected { count: rejected, said } => {
                    self.works = true;
                    self.report.told(Told::Spans { count: count.saturating_sub(rejected), refused: None });
                    self.report.told(Told::Rejected { count: rejected.min(count), said: &said });
                }
                Sent::Refused { said } => {
                    refused += 1;
                    if part.len() == 1 || refused >= REFUSALS {
                        self.report.told(Told::Rejected { count, said: &said });
                    } else {
                        let second = part.split_off(part.len() / 2);
                        parts.extend([second, part]);
                    }
                }
                Sent::Failed { said, .. } if self.failures >= FAILURES && refused < REFUSALS => {
                    refused += 1;
                    if part.len() > 1 {
                        let second = part.split_off(part.len() / 2);
                        parts.extend([second, part]);
                    } else if once_more {
                        self.report.told(Told::Rejected { count, said: &said });
                    } else {
                        doubtful.push(part);
                    }
                    if parts.is_empty() && !doubtful.is_empty() && !self.works {
                        // It fails at everything.
                        return Err(self.put_back(doubtful, said, None));
                    }
                }
                Sent::Failed { said, after_ms } => {
                    self.works &= self.failures > 0;
                    self.failures += 1;
                    doubtful.extend([part].into_iter().chain(parts.into_iter().rev()));
                    return Err(self.put_back(doubtful, said, after_ms));
                }
                Sent::Away { why, after_ms } => {
                    doubtful.extend([part].into_iter().chain(parts.into_iter().rev()));
                    return Err(self.put_back(doubtful, why, after_ms));
                }
            }
            if parts.is_empty() && !doubtful.is_empty() {
                once_more = true;
                parts.extend(std::mem::take(&mut doubtful).into_iter().rev());
            }
            if !self.reader.renew(&self.store).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the collector did not take is sent later. What it took is not sent again.
    fn put_back(&mut self, parts: Vec<Vec<Piece>>, why: String, after_ms: Option<u64>) -> Halt {
        self.ready.put_back(parts.into_iter().flatten());
        Halt::Away { why, after: after_ms.map(Duration::from_millis) }
    }
}

#[cfg(test)]
mod tests;
