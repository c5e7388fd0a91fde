//! Sends spans to a collector, as they come to their ends.
//!
//! Spans are made of journals ([`wfhost_view::Trace`]), by whoever has the cursor: those that ended since it
//! was moved last. It is moved when the collector has taken them. So a collector that is away misses nothing,
//! a host that dies leaves the rest to the next one, and what comes twice has the same ids.

mod otlp;
mod protobuf;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use wfhost::agents::Poster;
use wfhost::store::{Change, Cursor, RunFilter, RunState, SharedStore, StoreError};
use wfhost_core::{Journal, Position, RunId};
use wfhost_view::{Span, Trace};

pub use self::otlp::Otlp;
use self::otlp::Sent;
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
/// Spans of one request.
const SPANS: usize = 500;
/// Bytes of text in them: collectors take so much, and hardly more.
const BYTES: usize = 4 << 20;
/// Requests with the spans of one batch that are refused before what is refused is divided no more.
const REFUSALS: usize = 64;
/// Runs of which is remembered how far they were told.
const REMEMBERED: usize = 20_000;
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

/// A span, and the trace that it belongs to.
#[derive(Clone, Debug)]
struct Piece {
    trace: String,
    span: Span,
}

/// Spans of one request after the other, in their order. One that is larger than a request should be is alone.
fn batches(pieces: impl IntoIterator<Item = Piece>) -> Vec<Vec<Piece>> {
    let mut batches: Vec<Vec<Piece>> = Vec::new();
    let mut bytes = 0;
    for piece in pieces {
        let own = piece.span.text_bytes();
        match batches.last_mut().filter(|last| last.len() < SPANS && bytes + own <= BYTES) {
            Some(last) => {
                last.push(piece);
                bytes += own;
            }
            None => {
                batches.push(vec![piece]);
                bytes = own;
            }
        }
    }
    batches
}

/// The same as traces: those of one trace that follow each other together.
fn by_trace(pieces: &[Piece]) -> Vec<Trace> {
    let parts = pieces.chunk_by(|one, next| one.trace == next.trace);
    let spans = |part: &[Piece]| part.iter().map(|piece| piece.span.clone()).collect();
    parts.map(|part| Trace { id: part[0].trace.clone(), spans: spans(part) }).collect()
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
    /// How many entries of a run were told by this process.
    told: HashMap<RunId, usize>,
    /// What was under way when the cursor was made is not told yet.
    begins: bool,
    /// What is read for the first time is told from its beginning.
    whole: bool,
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
            told: HashMap::new(),
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
            self.hold().await?;
        }
        let Some(place) = self.reader.place else { return Ok(false) };
        if self.begins {
            if !self.tell_under_way().await? {
                return Ok(false);
            }
            (self.begins, self.whole) = (false, true);
        }
        let store = Arc::clone(&self.store);
        let changes = aside(async move { store.changes(place, PAGE).await }).await?;
        let Some(end) = changes.last().map(|change| change.place) else {
            if std::mem::take(&mut self.whole) {
                self.store.drop_cursor(BEGINNING).await?;
            }
            self.reader.read_to(&self.store, place, Vec::new()).await?;
            return Ok(false);
        };
        let mut runs: BTreeMap<RunId, (usize, usize)> = BTreeMap::new();
        for change in &changes {
            let (first, last) = (change.row.first.0 as usize, change.row.end().0 as usize);
            let seen = runs.entry(change.run.clone()).or_insert((first, last));
            *seen = (seen.0.min(first), seen.1.max(last));
        }
        let mut ready = Vec::new();
        let mut told = Vec::new();
        for (run, (first, last)) in runs {
            // Reading many journals takes its time.
            if !self.reader.renew_if_due(&self.store).await? {
                return Ok(false);
            }
            let from = self.told.get(&run).copied();
            if from.is_some_and(|told| told >= last) {
                continue;
            }
            let Some((trace, entries, ended)) =
                self.news(&run, from.unwrap_or(if self.whole { 0 } else { first })).await?
            else {
                continue;
            };
            told.push((run, entries, ended));
            ready.push(trace);
        }
        if !self.send(ready).await? {
            return Ok(false);
        }
        for (run, entries, ended) in told {
            self.remember(run, entries, ended);
        }
        if !self.reader.keep(&self.store, end).await? {
            // Somebody else goes on.
            return Ok(false);
        }
        Ok(Change::may_go_on(&changes, PAGE))
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
                if self.told.contains_key(&info.id) {
                    continue;
                }
                if !self.reader.renew_if_due(&self.store).await? {
                    return Ok(false);
                }
                if let Some((trace, entries, ended)) = self.news(&info.id, 0).await? {
                    if !self.send(vec![trace]).await? {
                        return Ok(false);
                    }
                    self.remember(info.id, entries, ended);
                }
            }
            if is_last {
                return Ok(true);
            }
        }
    }

    fn remember(&mut self, run: RunId, entries: usize, ended: bool) {
        if ended {
            self.told.remove(&run);
        } else {
            if self.told.len() >= REMEMBERED {
                // They are told from the commits that come, which is more than has to be at worst.
                self.told.clear();
            }
            self.told.insert(run, entries);
        }
    }

    /// The spans of a run that ended since it had `from` entries, how many it has, and whether it has ended.
    async fn news(&self, run: &RunId, from: usize) -> Result<Option<(Trace, usize, bool)>, StoreError> {
        let (store, run, content) = (Arc::clone(&self.store), run.clone(), self.options.content);
        let report = Arc::clone(&self.report);
        aside(async move {
            // First the journal: what is known of the run is never behind it.
            let rows = store.journal(&run, Position(0)).await?;
            let Some(info) = store.run(&run).await? else { return Ok(None) };
            let journal = match Journal::read(rows) {
                Ok(journal) => journal,
                Err(error) => {
                    // `wfhost verify` says more. The others are told all the same.
                    report.told(Told::Failed { what: "traces", why: &format!("{run}: {error}") });
                    return Ok(None);
                }
            };
            let entries = journal.entries.len();
            let mut trace = Trace::of(&info, &journal, content);
            if from > 0 {
                let mut before = journal;
                before.entries.truncate(from);
                let mut open = info.clone();
                // Whatever it was then: what says so ended behind it.
                (open.state, open.outcome) = (RunState::Running, None);
                let before = Trace::of(&open, &before, content);
                let known: HashMap<&str, &Span> =
                    before.spans.iter().map(|span| (span.id.as_str(), span)).collect();
                trace.spans.retain(|span| known.get(span.id.as_str()).is_none_or(|known| *known != span));
            }
            trace.spans.retain(|span| !span.is_open);
            Ok(Some((trace, entries, info.state.is_final())))
        })
        .await
    }

    /// Sends spans, some at a time. The cursor is held on meanwhile: else another host would send the same before a
    /// collector that is slow already has taken them. False if another one does all the same.
    async fn send(&mut self, traces: Vec<Trace>) -> Result<bool, Halt> {
        let all = traces.into_iter().flat_map(|trace| {
            let id = trace.id;
            trace.spans.into_iter().map(move |span| Piece { trace: id.clone(), span })
        });
        for batch in batches(all) {
            if !self.post(&batch).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends spans, and of those that are refused each half by itself: so what a collector does not want takes nothing
    /// with it. Where almost everything is refused, that comes to an end.
    /// False if somebody else has the cursor.
    async fn post(&mut self, spans: &[Piece]) -> Result<bool, Halt> {
        let mut parts = vec![spans];
        let mut refused = 0;
        while let Some(part) = parts.pop() {
            let count = part.len() as u64;
            match self.options.to.send(&self.poster, &by_trace(part)).await {
                Sent::Taken => self.report.told(Told::Spans { count, refused: None }),
                Sent::Rejected { count: rejected, said } => {
                    self.report.told(Told::Spans { count: count.saturating_sub(rejected), refused: None });
                    self.report.told(Told::Rejected { count: rejected.min(count), said: &said });
                }
                Sent::Refused { said } => {
                    refused += 1;
                    if part.len() == 1 || refused >= REFUSALS {
                        self.report.told(Told::Rejected { count, said: &said });
                    } else {
                        let (first, second) = part.split_at(part.len() / 2);
                        parts.extend([second, first]);
                    }
                }
                Sent::Away { why, after_ms } => {
                    let after = after_ms.map(Duration::from_millis);
                    return Err(Halt::Away { why, after });
                }
            }
            if !self.reader.renew(&self.store).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use wfhost::store::{MemStore, NewRun};
    use wfhost_core::Timestamp;

    use super::*;
    use crate::event::tests::machine;

    fn piece(trace: &str, id: usize, text: usize) -> Piece {
        let span = Span {
            id: id.to_string(),
            parent: None,
            name: "a".to_owned(),
            is_call: false,
            is_open: false,
            from: Timestamp(0),
            to: Timestamp(0),
            attributes: vec![("text", "x".repeat(text).into())],
            links: Vec::new(),
            failed: None,
        };
        Piece { trace: trace.to_owned(), span }
    }

    #[test]
    fn a_request_has_so_many_spans_and_so_much_text_and_all_are_in_one() {
        let sizes = |pieces: Vec<Piece>| batches(pieces).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(Vec::new()), [0; 0]);
        assert_eq!(sizes((0..1_001).map(|n| piece("t", n, 1)).collect()), [500, 500, 1]);
        let large = |n| piece("t", n, BYTES / 3);
        assert_eq!(sizes((0..5).map(large).collect()), [2, 2, 1]);
        let huge = piece("t", 1, 2 * BYTES);
        assert_eq!(sizes(vec![piece("t", 0, 1), huge, piece("t", 2, 1)]), [1, 1, 1]);
    }

    #[test]
    fn only_a_beginning_that_was_made_behind_the_cursor_is_none() {
        let cursor = |name: &str, place| Cursor {
            name: name.to_owned(),
            place,
            at: Timestamp(0),
            is_held: false,
            holder: None,
        };
        assert!(!is_late(&[]) && !is_late(&[cursor(BEGINNING, 7)]) && !is_late(&[cursor(OTLP_CURSOR, 7)]));
        for (beginning, told, late) in [(7, 7, false), (7, 9, false), (9, 7, true)] {
            let cursors = [cursor(BEGINNING, beginning), cursor(OTLP_CURSOR, told)];
            assert_eq!(is_late(&cursors), late, "{beginning} {told}");
        }
    }

    #[test]
    fn spans_of_one_trace_stay_together() {
        let pieces: Vec<_> =
            ["a", "a", "b"].iter().enumerate().map(|(n, trace)| piece(trace, n, 1)).collect();
        let traces = by_trace(&pieces);
        let told: Vec<_> = traces.iter().map(|trace| (trace.id.as_str(), trace.spans.len())).collect();
        assert_eq!(told, [("a", 2), ("b", 1)]);
    }

    #[derive(Debug)]
    struct Nobody;

    impl Report for Nobody {
        fn told(&self, _: Told<'_>) {}
    }

    /// A clock that stands still but for what is told it.
    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    impl wfhost::store::Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp(self.0.load(Ordering::SeqCst))
        }

        fn ticks_ms(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }

        fn source(&self) -> &'static str {
            "a hand"
        }
    }

    /// However many requests a page takes, and however long each of them.
    #[tokio::test]
    async fn nobody_else_goes_on_while_a_slow_collector_is_sent_a_page() {
        let clock = Arc::new(Hand::default());
        let store: SharedStore = Arc::new(MemStore::with_clock(Arc::clone(&clock) as _));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // Nine seconds for each request, and then another host asks for the cursor.
        let (requests, others) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (at_collector, came, found) = (Arc::clone(&store), Arc::clone(&requests), Arc::clone(&others));
        let collector = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = Vec::new();
                let mut buffer = vec![0; 65_536];
                let is_whole = |bytes: &[u8]| {
                    let text = String::from_utf8_lossy(bytes);
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
                    let head = head.to_ascii_lowercase();
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    length.is_some_and(|length| body.len() >= length.parse().unwrap())
                };
                while !is_whole(&bytes) {
                    let read = stream.read(&mut buffer).await.unwrap();
                    bytes.extend_from_slice(&buffer[..read]);
                }
                clock.0.fetch_add(9_000, Ordering::SeqCst);
                if at_collector.hold_cursor(OTLP_CURSOR, "another", 10_000).await.unwrap().is_some() {
                    found.fetch_add(1, Ordering::SeqCst);
                }
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
                stream.write_all(answer.as_bytes()).await.unwrap();
                came.fetch_add(1, Ordering::SeqCst);
            }
        });
        let options = ExportOptions {
            to: Otlp::from_environment(Some(&url)).unwrap(),
            content: false,
            every: Duration::from_secs(5),
        };
        let report: Arc<dyn Report> = Arc::new(Nobody);
        let mut exporter = Exporter::new(&store, options, &report);
        let look = async |exporter: &mut Exporter| match exporter.look().await {
            Ok(more) => more,
            Err(Halt::Store(error)) => panic!("{error}"),
            Err(Halt::Away { why, .. }) => panic!("{why}"),
        };
        // The cursor is made; what comes is told from there on.
        while look(&mut exporter).await {}
        for number in 0..2 * SPANS + 1 {
            let mut machine = machine(&format!("r{number}"));
            if number == 0 {
                store.put_module("w", b"w").await.unwrap();
            }
            let rows = vec![machine.take_unsaved().unwrap().into()];
            store.create(NewRun::new(&machine, rows)).await.unwrap();
        }
        while look(&mut exporter).await {}
        collector.abort();
        assert!(requests.load(Ordering::SeqCst) >= 3);
        assert_eq!(others.load(Ordering::SeqCst), 0, "another host had the cursor in between");
        let last = store.last_place().await.unwrap();
        assert_eq!(exporter.reader.place, Some(last));
    }
}
