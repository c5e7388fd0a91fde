//! Streams that tell the same share what was read.
//!
//! Streams of one source stand at a *topic*. One task looks for news of all topics, with one reading at a
//! time: it reads on from the *tip* of each, and the streams that were told as far as that take the batch
//! that it read. A stream that is behind the tip reads up to it, and shares that with those that are at the
//! same place. So what is read does not grow with the number of streams, and where a stream stands is
//! nothing but its cursor: what is kept here saves readings, and whatever is lost of it is read again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use wfhost::store::{RunInfo, StoreError};
use wfhost::world::lock;
use wfhost_core::{Digest, RunId};
use wfhost_view::{UserError, raw};

use super::cursor::{AllCursor, Cursor, RunCursor};
use super::source::{Bound, News, Source, Unread, event_text, look_at, no_such_run};
use crate::app::{App, READ_PATIENCE};
use crate::auth::Identity;
use crate::problem::Problem;
use crate::reads::NotRead;

/// Bytes of one batch of events. A single event that is larger is a batch of its own.
const BATCH: usize = 256 << 10;
/// Bytes of all that is read with one look.
const LOOK_BYTES: usize = 8 << 20;
/// Bytes of the batches that are kept for those who have not taken them.
const KEPT_BYTES: usize = 16 << 20;
/// How long a batch is kept.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Readings of those that are behind, at the same time.
const BEHIND: usize = 3;
/// How long is waited behind a look at most because of its length.
const MOST_PAUSE: Duration = Duration::from_secs(1);
/// What is told without a commit of an entry is looked for so often.
const LOOK: Duration = Duration::from_secs(1);
/// How long all streams of a token rely on a look at it.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Where the streams of a database meet.
pub(crate) struct Hub {
    state: Mutex<State>,
    /// There is something for the task that looks besides commits.
    wake: Notify,
    behind: Arc<Semaphore>,
    /// When tokens were good last.
    good: tokio::sync::Mutex<HashMap<String, Instant>>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    topics: HashMap<Key, Arc<Topic>>,
    /// Whether the task is there that looks.
    is_looking: bool,
    /// Numbers of topics that were given out.
    numbers: u64,
    kept: Kept,
    readings: HashMap<(u64, Cursor, Cursor), WeakShared<Reading>>,
}

type Reading = BoxFuture<'static, Result<Arc<Batch>, Arc<Problem>>>;

/// Events as they are sent, and the cursor behind them.
pub(super) struct Batch {
    pub text: Bytes,
    pub to: Cursor,
}

impl Batch {
    fn of(news: &News) -> Arc<Self> {
        Arc::new(Self { text: news.text(), to: news.cursor })
    }
}

/// Batches by their topic and the cursor before them, the oldest first.
#[derive(Default)]
struct Kept {
    batches: HashMap<(u64, Cursor), Arc<Batch>>,
    order: VecDeque<((u64, Cursor), Instant)>,
    bytes: usize,
}

/// What a batch takes besides its text.
const BATCH_ITSELF: usize = 256;

impl Kept {
    fn insert(&mut self, topic: u64, from: Cursor, batch: &Arc<Batch>) {
        let (key, now) = ((topic, from), Instant::now());
        if batch.to == from || self.batches.contains_key(&key) {
            return;
        }
        self.bytes += batch.text.len() + BATCH_ITSELF;
        self.batches.insert(key, Arc::clone(batch));
        self.order.push_back((key, now));
        // The newest stays, however large it is.
        while let Some((key, at)) = self.order.front().copied().filter(|_| self.order.len() > 1) {
            if self.bytes <= KEPT_BYTES && now.duration_since(at) < KEPT_FOR {
                break;
            }
            self.order.pop_front();
            if let Some(batch) = self.batches.remove(&key) {
                self.bytes -= batch.text.len() + BATCH_ITSELF;
            }
        }
    }

    fn get(&self, topic: u64, from: Cursor) -> Option<Arc<Batch>> {
        self.batches.get(&(topic, from)).cloned()
    }
}

/// Who shares a topic.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    source: Source,
    /// The parts of a cursor that the source tells nothing of. They stay as a client sent them: it may ask for
    /// more the next time.
    aside: (u64, u64),
}

impl Key {
    fn of(source: &Source, cursor: Cursor) -> Self {
        let aside = match cursor {
            Cursor::Run(cursor) if !source.payloads => (cursor.emissions, cursor.transcript),
            Cursor::Run(cursor) if !source.has_live() => (0, cursor.transcript),
            _ => (0, 0),
        };
        Self { source: source.clone(), aside }
    }
}

/// What streams share that tell the same.
pub(super) struct Topic {
    number: u64,
    key: Key,
    now: Mutex<Now>,
    /// Counts the looks that found something, and those that others may have waited for.
    looks: watch::Sender<u64>,
}

/// How a topic is.
struct Now {
    /// What is behind it was not read yet. Whatever it is, nobody misses anything: a stream takes what is read
    /// from there only if it was told just as far.
    tip: Cursor,
    /// Streams that are there.
    streams: usize,
    /// The run as it was when it was read last.
    info: Option<RunInfo>,
    /// How it shows.
    shown: Option<Arc<Shown>>,
    /// The text of that, with the cursor in it.
    shown_text: Option<(Cursor, Bytes)>,
    ended: bool,
    failed: Option<Arc<Problem>>,
}

/// A run as it shows.
struct Shown {
    data: Box<str>,
    digest: Digest,
}

/// The place of a stream at a topic.
pub(super) struct Seat {
    app: App,
    topic: Arc<Topic>,
    pub looks: watch::Receiver<u64>,
}

/// What is next for a stream.
pub(super) enum Next {
    Batch(Arc<Batch>),
    /// The run shows otherwise.
    Show(Bytes, Digest),
    End,
    Failed(Arc<Problem>),
    /// There is more up to the cursor, which others have.
    Behind(Cursor),
    /// Nothing before the next look.
    Wait,
}

impl Hub {
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            behind: Arc::new(Semaphore::new(BEHIND)),
            good: tokio::sync::Mutex::default(),
        }
    }

    /// Whether a token still lets its holder in. All streams of a token share a look at it.
    pub(super) async fn lets_in(&self, app: &App, who: &Identity) -> Result<bool, Problem> {
        let look = async {
            let mut good = self.good.lock().await;
            if good.get(&who.id).is_some_and(|at| at.elapsed() < GOOD_FOR) {
                return Ok(true);
            }
            let is_good = who.is_let_in(app).await?;
            good.retain(|_, at| at.elapsed() < GOOD_FOR);
            if is_good {
                good.insert(who.id.clone(), Instant::now());
            }
            Ok(is_good)
        };
        let late = |_| Err(Problem::busy("the database is overloaded"));
        tokio::time::timeout(READ_PATIENCE, look).await.unwrap_or_else(late)
    }

    /// Takes a place to read at the side of the task that looks.
    pub(super) async fn read_behind(
        &self,
        app: &App,
        source: Source,
        from: Cursor,
        until: Option<Cursor>,
    ) -> Result<News, Problem> {
        let busy = || Problem::busy("the database is overloaded");
        let places = Arc::clone(&self.behind);
        let read = async {
            let place = places.acquire_owned().await.map_err(|_| busy())?;
            app.options().metrics.stream_read();
            app.read(async move |store| {
                // Also one that is given up has it until it is done.
                let _place = place;
                source.read(&store, from, Bound { until, bytes: BATCH }).await
            })
            .await
        };
        tokio::time::timeout(READ_PATIENCE, read).await.unwrap_or_else(|_| Err(busy()))
    }

    /// Takes a place among the streams of a source. `info`: of its run.
    pub(super) async fn join(
        &self,
        app: &App,
        source: &Source,
        from: Cursor,
        info: Option<&RunInfo>,
    ) -> Result<Seat, Problem> {
        let key = Key::of(source, from);
        if let Some(seat) = self.seat(app, &key) {
            return Ok(seat);
        }
        // Whatever is there already is read for those who lack it. Where a client says that it is may be anything.
        let tip = match (from, info) {
            (Cursor::Run(from), Some(info)) => Cursor::Run(RunCursor {
                entries: info.entries.0,
                emissions: if source.payloads { info.emissions } else { from.emissions },
                transcript: match source.has_live() {
                    true => {
                        let run = info.id.clone();
                        app.read(async move |store| store.transcript_end(&run).await).await?
                    }
                    false => from.transcript,
                },
            }),
            _ => {
                let place = app.read(async |store| store.last_place().await).await?;
                Cursor::All(AllCursor { place, part: 0 })
            }
        };
        let mut state = lock(&self.state);
        if let Some(seat) = state.seat(app, &key) {
            return Ok(seat);
        }
        state.numbers += 1;
        let now =
            Now { tip, streams: 0, info: None, shown: None, shown_text: None, ended: false, failed: None };
        let topic = Arc::new(Topic {
            number: state.numbers,
            key: key.clone(),
            now: Mutex::new(now),
            looks: watch::Sender::new(0),
        });
        state.topics.insert(key.clone(), topic);
        let seat = state.seat(app, &key).ok_or_else(|| Problem::internal("there is no topic"));
        if !std::mem::replace(&mut state.is_looking, true) {
            tokio::spawn(keep_looking(app.clone()));
        }
        self.wake.notify_one();
        seat
    }

    fn seat(&self, app: &App, key: &Key) -> Option<Seat> {
        lock(&self.state).seat(app, key)
    }
}

impl State {
    /// A place at a topic that goes on.
    fn seat(&mut self, app: &App, key: &Key) -> Option<Seat> {
        let topic = self.topics.get(key)?;
        let mut now = lock(&topic.now);
        // A run that had ended may go on: that is looked at anew.
        if now.ended || now.failed.is_some() {
            return None;
        }
        now.streams += 1;
        drop(now);
        Some(Seat { app: app.clone(), topic: Arc::clone(topic), looks: topic.looks.subscribe() })
    }
}

impl Seat {
    /// What is next for a stream that was told as far as `cursor`. `shown`: how the run showed last, if that
    /// is wanted.
    pub fn next(&self, cursor: Cursor, shown: Option<Option<Digest>>) -> Next {
        let state = lock(&self.app.hub().state);
        let mut now = lock(&self.topic.now);
        if let Some(problem) = &now.failed {
            return Next::Failed(Arc::clone(problem));
        }
        if cursor != now.tip {
            if let Some(batch) = state.kept.get(self.topic.number, cursor) {
                return Next::Batch(batch);
            }
            if cursor.is_behind(now.tip) {
                return Next::Behind(now.tip);
            }
            // A cursor that is beyond all that there is: there is nothing to tell but how the run is.
        }
        drop(state);
        let (Some(new), Some(shown)) = (now.shown.clone(), shown) else {
            return if now.ended { Next::End } else { Next::Wait };
        };
        if shown == Some(new.digest) {
            return if now.ended { Next::End } else { Next::Wait };
        }
        let known = now.shown_text.clone().filter(|(at, _)| *at == cursor);
        let (_, text) = known.unwrap_or_else(|| {
            let text = event_text("run", &cursor.to_string(), &new.data);
            now.shown_text.insert((cursor, text.into())).clone()
        });
        Next::Show(text, new.digest)
    }

    /// Reads from `cursor` to `tip`, or a part of that. Who is at the same place shares it.
    pub async fn catch_up(&self, cursor: Cursor, tip: Cursor) -> Result<Arc<Batch>, Arc<Problem>> {
        let key = (self.topic.number, cursor, tip);
        let reading = {
            let mut state = lock(&self.app.hub().state);
            let known = state.readings.get(&key).and_then(WeakShared::upgrade);
            known.unwrap_or_else(|| {
                state.readings.retain(|_, reading| reading.upgrade().is_some());
                let reading = caught_up(self.app.clone(), Arc::clone(&self.topic), cursor, tip);
                let reading: Shared<Reading> = reading.boxed().shared();
                if let Some(weak) = reading.downgrade() {
                    state.readings.insert(key, weak);
                }
                reading
            })
        };
        reading.await
    }
}

async fn caught_up(
    app: App,
    topic: Arc<Topic>,
    cursor: Cursor,
    tip: Cursor,
) -> Result<Arc<Batch>, Arc<Problem>> {
    let source = topic.key.source.clone();
    let news = app.hub().read_behind(&app, source, cursor, Some(tip)).await.map_err(Arc::new)?;
    let batch = Batch::of(&news);
    let mut state = lock(&app.hub().state);
    state.readings.remove(&(topic.number, cursor, tip));
    state.kept.insert(topic.number, cursor, &batch);
    Ok(batch)
}

impl Drop for Seat {
    fn drop(&mut self) {
        let hub = self.app.hub();
        let mut state = lock(&hub.state);
        let mut now = lock(&self.topic.now);
        now.streams -= 1;
        if now.streams == 0 {
            drop(now);
            state.forget(&self.topic);
            if state.topics.is_empty() {
                // Who looks ends.
                hub.wake.notify_one();
            }
        }
    }
}

impl State {
    fn forget(&mut self, topic: &Arc<Topic>) {
        if self.topics.get(&topic.key).is_some_and(|known| Arc::ptr_eq(known, topic)) {
            self.topics.remove(&topic.key);
        }
    }
}

/// Whoever waits is told when the task that looks ends before its time.
struct Looking {
    app: App,
    is_done: bool,
}

impl Drop for Looking {
    fn drop(&mut self) {
        if !self.is_done {
            lock(&self.app.hub().state).is_looking = false;
            fail_all(&self.app, || Problem::internal("the events could not be read"));
        }
    }
}

/// Looks for news as long as there are streams.
async fn keep_looking(app: App) {
    let mut looking = Looking { app: app.clone(), is_done: false };
    let hub = app.hub();
    let mut changes = app.changes();
    let (mut next_at, mut live_at) = (Instant::now(), Instant::now());
    let mut left: Vec<Arc<Topic>> = Vec::new();
    loop {
        let news = next_news(&mut changes, &hub.wake, next_at, live_at);
        // Topics that there is more of wait for no others, and no others for them.
        let news = if left.is_empty() { Some(news.await) } else { news.now_or_never() };
        let mut pause = None;
        if let Some(all) = news {
            let mut state = lock(&hub.state);
            if state.topics.is_empty() {
                state.is_looking = false;
                state.kept = Kept::default();
                looking.is_done = true;
                return;
            }
            let known: HashSet<_> = left.iter().map(|topic| topic.number).collect();
            let is_wanted = |topic: &&Arc<Topic>| {
                (all || topic.key.source.has_live())
                    && !known.contains(&topic.number)
                    && !lock(&topic.now).ended
            };
            left.extend(state.topics.values().filter(is_wanted).cloned());
            let streams = state.topics.values().map(|topic| lock(&topic.now).streams).sum::<usize>();
            pause = Some(pause_of(streams));
            live_at = Instant::now() + LOOK;
        }
        let began = Instant::now();
        left = look(&app, left).await;
        if let Some(pause) = pause {
            // Half of the time is for others, where the database is slow.
            let took = began.elapsed();
            next_at = began + pause.max(took + took.min(MOST_PAUSE));
        }
    }
}

/// Waits until there is something to look for, and until `next_at`: the first that comes is told at once; then
/// streams get together what came meanwhile. Gives whether that may be anything, and not only what is told without
/// a commit. Who gives up waiting misses nothing.
async fn next_news(
    changes: &mut watch::Receiver<u64>,
    wake: &Notify,
    next_at: Instant,
    live_at: Instant,
) -> bool {
    tokio::time::sleep_until(next_at).await;
    tokio::select! {
        // A commit is taken for seen only if all topics are looked at: nothing else may tell of it.
        biased;
        _ = changes.changed() => true,
        () = wake.notified() => true,
        () = tokio::time::sleep_until(live_at) => false,
    }
}

/// How long is waited from look to look: a hundredth of a second for few streams, more for many.
fn pause_of(streams: usize) -> Duration {
    Duration::from_millis(10 * streams.div_ceil(50).max(1) as u64)
}

/// What a look is to find out of a topic.
struct Asked {
    source: Source,
    tip: Cursor,
    info: Option<RunInfo>,
}

/// What it found.
enum Found {
    /// As before.
    Nothing,
    News(Box<News>, Arc<Batch>, Option<Box<RunInfo>>),
    Failed(UserError),
}

/// Looks for news of topics. Gives those that there is more of.
async fn look(app: &App, topics: Vec<Arc<Topic>>) -> Vec<Arc<Topic>> {
    if topics.is_empty() {
        return topics;
    }
    let asked = topics.iter().map(|topic| {
        let now = lock(&topic.now);
        Asked { source: topic.key.source.clone(), tip: now.tip, info: now.info.clone() }
    });
    let asked: Vec<_> = asked.collect();
    app.options().metrics.stream_read();
    let reading = app.read_to_its_end(async move |store| read(&store, &asked).await);
    tokio::pin!(reading);
    let mut is_late = false;
    let read = loop {
        tokio::select! {
            read = &mut reading => break read,
            // No other is begun before it is done: they would only add to what the database has to do.
            () = tokio::time::sleep(READ_PATIENCE) => {
                is_late = true;
                fail_all(app, || Problem::busy("the database is overloaded"));
            }
        }
    };
    match read {
        _ if is_late => Vec::new(),
        Ok(Ok(found)) => tell(app, topics, found),
        Ok(Err(error)) => {
            fail_all(app, || Problem::from_error(error.clone()));
            Vec::new()
        }
        Err(NotRead::Late | NotRead::Failed) => {
            fail_all(app, || Problem::internal("a read failed"));
            Vec::new()
        }
    }
}

/// Reads on from the tips. Ends early when it is much; what is not reached is asked for again.
async fn read(store: &wfhost::store::SharedStore, asked: &[Asked]) -> Result<Vec<Found>, StoreError> {
    let mut runs: Vec<RunId> = asked.iter().filter_map(|asked| asked.source.run.clone()).collect();
    runs.sort_unstable();
    runs.dedup();
    let infos = look_at(store, &runs).await?;
    let infos: HashMap<_, _> = infos.into_iter().map(|info| (info.id.clone(), info)).collect();
    let (mut found, mut bytes) = (Vec::with_capacity(asked.len()), 0);
    for Asked { source, tip, info: known } in asked {
        if bytes > LOOK_BYTES {
            break;
        }
        let bound = Bound { until: None, bytes: BATCH };
        let (read, info) = match (source.run.as_ref(), *tip) {
            (Some(run), Cursor::Run(from)) => match infos.get(run) {
                None => (Err(no_such_run(run)), None),
                Some(info) if known.as_ref() == Some(info) && !source.has_live() => {
                    found.push(Found::Nothing);
                    continue;
                }
                Some(info) => (source.read_run(store, info, from, bound).await, Some(info.clone())),
            },
            (_, Cursor::All(from)) => (source.read_all(store, from, bound).await, None),
            (None, Cursor::Run(_)) => unreachable!("the cursor belongs to a single run"),
        };
        found.push(match read {
            Ok(news) => {
                let batch = Batch::of(&news);
                bytes += batch.text.len();
                Found::News(Box::new(news), batch, info.map(Box::new))
            }
            // Nothing else could be read.
            Err(Unread::Store(error)) if error.is_passing() => return Err(error),
            Err(error) => Found::Failed(error.into()),
        });
    }
    Ok(found)
}

/// Tells what was found. Gives the topics that there is more of.
fn tell(app: &App, topics: Vec<Arc<Topic>>, found: Vec<Found>) -> Vec<Arc<Topic>> {
    let mut left: Vec<_> = topics[found.len()..].to_vec();
    for (topic, found) in topics.iter().zip(found) {
        match found {
            Found::Nothing => continue,
            Found::Failed(error) => fail(app, topic, Arc::new(error.into())),
            Found::News(news, batch, info) => {
                let shown = news.run.as_ref().filter(|_| !news.more && topic.key.source.kinds.has("run"));
                let shown = shown.map(|view| {
                    let data: Box<str> = raw(view).get().into();
                    Arc::new(Shown { digest: Digest::of(data.as_bytes()), data })
                });
                let mut state = lock(&app.hub().state);
                let mut now = lock(&topic.now);
                state.kept.insert(topic.number, now.tip, &batch);
                now.tip = batch.to;
                now.ended = news.ended;
                now.info = info.filter(|_| !news.more).map(|info| *info);
                if let Some(shown) = shown {
                    now.shown = Some(shown);
                    now.shown_text = None;
                }
                if news.more && now.streams > 0 {
                    left.push(Arc::clone(topic));
                }
            }
        }
        topic.looks.send_modify(|looks| *looks += 1);
    }
    left
}

/// The streams of a topic end; their clients come again.
fn fail(app: &App, topic: &Arc<Topic>, problem: Arc<Problem>) {
    lock(&app.hub().state).forget(topic);
    lock(&topic.now).failed = Some(problem);
    topic.looks.send_modify(|looks| *looks += 1);
}

fn fail_all(app: &App, problem: impl Fn() -> Problem) {
    let topics: Vec<_> = lock(&app.hub().state).topics.values().cloned().collect();
    let problem = Arc::new(problem());
    for topic in topics {
        fail(app, &topic, Arc::clone(&problem));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: u64) -> Cursor {
        Cursor::All(AllCursor { place, part: 0 })
    }

    fn batch(bytes: usize, to: u64) -> Arc<Batch> {
        Arc::new(Batch { text: vec![b'x'; bytes].into(), to: at(to) })
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest_is_there() {
        let mut kept = Kept::default();
        for place in 0..200 {
            kept.insert(1, at(place), &batch(1 << 20, place + 1));
            assert!(kept.bytes <= KEPT_BYTES + (1 << 20) + BATCH_ITSELF, "{}", kept.bytes);
            assert!(kept.get(1, at(place)).is_some());
        }
        assert!(kept.get(1, at(0)).is_none() && kept.get(1, at(195)).is_some());
        assert!(kept.get(2, at(199)).is_none(), "another topic has its own");
        // One that is larger than all may be stays alone.
        kept.insert(1, at(200), &batch(2 * KEPT_BYTES, 201));
        assert_eq!((kept.order.len(), kept.batches.len()), (1, 1));
        // What leads nowhere would be taken for ever.
        kept.insert(1, at(7), &batch(0, 7));
        assert!(kept.get(1, at(7)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn no_commit_is_passed_over_when_it_is_time_to_look_for_what_is_told_without_one() {
        let (commits, mut changes) = watch::channel(0);
        let wake = Notify::new();
        for _ in 0..50 {
            let live_at = Instant::now() + Duration::from_millis(1);
            let news = next_news(&mut changes, &wake, Instant::now(), live_at);
            tokio::pin!(news);
            assert_eq!((&mut news).now_or_never(), None);
            tokio::time::sleep_until(live_at + Duration::from_millis(1)).await;
            commits.send_modify(|commits| *commits += 1);
            // Both are there when it goes on.
            assert!(news.await);
        }
        // Who does not wait leaves it where it is.
        commits.send_modify(|commits| *commits += 1);
        let later = Instant::now() + Duration::from_secs(600);
        assert_eq!(next_news(&mut changes, &wake, later, later).now_or_never(), None);
        assert!(next_news(&mut changes, &wake, Instant::now(), later).await);
    }

    #[test]
    fn many_streams_are_told_less_often() {
        assert_eq!(pause_of(0), Duration::from_millis(10));
        assert_eq!(pause_of(1_000), Duration::from_millis(200));
    }
}
