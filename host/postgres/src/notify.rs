//! Who has to look at what: told to other hosts after the commit, never in it, and heard from them.
//!
//! Notices may get lost; all of them are made up for by looks. A `NOTIFY` inside of a transaction would have all
//! commits of the server wait for each other.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use wfhost_core::RunId;
use wfhost_store::{Seen, SessionId, Wake};

use crate::args::{Columns, args_of};
use crate::connect::{Connector, jitter};
use crate::errors::classify;
use crate::pool::Pool;

/// So long after a statement, what is told is gathered for the next one.
const GATHER: Duration = Duration::from_millis(2);
/// Wake-ups that are remembered for those who ask late.
const REMEMBERED: usize = 4_096;
/// Who follows runs that others advance looks this often.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);
/// Lost notices are made up for after this time.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Without notices, this often.
const POLL_EVERY: Duration = Duration::from_millis(100);
/// How long the listener waits for its own notice.
const SELF_TEST: Duration = Duration::from_secs(2);
/// A session was given slots. No run has such an id.
const LIMITS: &str = "+limits";
/// A notice has less than 8,000 bytes.
const PAYLOAD: usize = 7_000;

/// Somebody who is to be told.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Told {
    pub run: Option<RunId>,
    /// The session that has the run; none if it is due for all; 0 if it is nobody's business. Without a run it
    /// was given slots.
    pub to: Option<u64>,
}

impl Told {
    pub fn read(told: &Value) -> Option<Self> {
        let run = match &told["run"] {
            Value::String(run) => Some(run.parse().ok()?),
            _ => None,
        };
        Some(Self { run, to: told["to"].as_u64() })
    }

    /// A session was given slots.
    pub fn limits(session: u64) -> Self {
        Self { run: None, to: Some(session) }
    }
}

/// What the task that tells is to do.
pub(crate) enum Item {
    Tell(Told),
    /// To answer when all before it was told.
    Flush(oneshot::Sender<()>),
}

/// Wake-ups of this handle, and where they come from.
pub(crate) struct Notices {
    ring: Mutex<Ring>,
    changed: watch::Sender<u64>,
    queue: mpsc::UnboundedSender<Item>,
    /// Sessions of this handle.
    own: Mutex<HashSet<u64>>,
    own_changed: Notify,
    /// Whether others can be heard.
    listens: AtomicBool,
}

#[derive(Default)]
struct Ring {
    /// The number of the first one that is remembered.
    first: u64,
    wakes: VecDeque<Wake>,
}

impl Notices {
    /// `queue`: what is to be told to others, for [`tell_others`].
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Item>) {
        let (queue, told) = mpsc::unbounded_channel();
        let changed = watch::channel(0).0;
        let notices = Self {
            ring: Mutex::default(),
            changed,
            queue,
            own: Mutex::default(),
            own_changed: Notify::new(),
            listens: AtomicBool::new(false),
        };
        (Arc::new(notices), told)
    }

    pub fn listens(&self) -> bool {
        self.listens.load(Ordering::Relaxed)
    }

    /// Others are heard by a connection, or not: one that hears is none of a pooler's.
    fn set_listens(&self, connector: &Connector, listens: bool) {
        self.listens.store(listens, Ordering::Relaxed);
        connector.set_direct(listens);
    }

    fn own(&self) -> HashSet<u64> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn began(&self, session: SessionId) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(session.0);
        self.own_changed.notify_one();
    }

    pub fn ended(&self, session: SessionId) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).remove(&session.0);
        self.own_changed.notify_one();
    }

    fn push(&self, wakes: impl IntoIterator<Item = Wake>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for wake in wakes {
            if ring.wakes.len() == REMEMBERED {
                ring.wakes.pop_front();
                ring.first += 1;
            }
            ring.wakes.push_back(wake);
        }
        let end = ring.first + ring.wakes.len() as u64;
        drop(ring);
        self.changed.send_replace(end);
    }

    /// It is not known what happened.
    pub fn gap(&self) {
        self.push([Wake::Gap]);
    }

    /// Tells whom it concerns; `here` as well, if it is of this handle.
    pub fn tell(&self, told: Told, here: bool) {
        match (told.to, &told.run) {
            (Some(0), _) => return,
            (Some(session), Some(run)) if self.own().contains(&session) => {
                if here {
                    self.push([Wake::Run(run.clone())]);
                }
                return;
            }
            (Some(session), None) if self.own().contains(&session) => {
                if here {
                    self.push([Wake::Limits]);
                }
                return;
            }
            (Some(_), _) => {}
            (None, _) if here => self.push([Wake::Due]),
            (None, _) => {}
        }
        // The task that tells lives as long as this.
        let _ = self.queue.send(Item::Tell(told));
    }

    /// Waits until all was told, if this handle does not belong to a host: its process may exit immediately.
    pub async fn flush(&self) {
        if self.own().is_empty() {
            let (done, told) = oneshot::channel();
            let _ = self.queue.send(Item::Flush(done));
            let _ = told.await;
        }
    }

    /// Waits for what comes behind `seen`.
    pub async fn wait(&self, seen: &mut Seen) -> Vec<Wake> {
        let mut changed = self.changed.subscribe();
        let Some(from) = seen.version else {
            seen.version = Some(*changed.borrow_and_update());
            return vec![Wake::Gap];
        };
        let until = Instant::now() + FOLLOW_EVERY;
        loop {
            let end = *changed.borrow_and_update();
            if end > from {
                let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
                seen.version = Some(ring.first + ring.wakes.len() as u64);
                if from < ring.first {
                    return vec![Wake::Gap];
                }
                let news = ring.wakes.iter().skip(usize::try_from(from - ring.first).unwrap_or(0));
                let mut wakes: Vec<Wake> = Vec::new();
                let mut known = HashSet::new();
                wakes.extend(news.filter(|wake| known.insert((*wake).clone())).cloned());
                return wakes;
            }
            if tokio::time::timeout_at(until, changed.changed()).await.is_err() {
                // Nothing is known of; who follows something may look.
                return Vec::new();
            }
        }
    }
}

fn channel_of(store: &str, session: Option<u64>) -> String {
    match session {
        Some(session) => format!("wfhost_{store}_{session:016x}"),
        None => format!("wfhost_{store}"),
    }
}

/// Tells other hosts, as long as there are any who tell.
pub(crate) async fn tell_others(pool: Arc<Pool>, store: String, mut items: mpsc::UnboundedReceiver<Item>) {
    let mut gather_until = Instant::now();
    while let Some(first) = items.recv().await {
        // What comes alone is told at once.
        if matches!(first, Item::Tell(_)) && gather_until > Instant::now() {
            tokio::time::sleep_until(gather_until).await;
        }
        let (mut all, mut flushed) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(item) = next {
            match item {
                Item::Tell(told) => all.push(told),
                Item::Flush(done) => flushed.push(done),
            }
            next = items.try_recv().ok();
        }
        let mut due = false;
        let mut runs: std::collections::BTreeMap<u64, BTreeSet<RunId>> = std::collections::BTreeMap::new();
        let mut limits = BTreeSet::new();
        for Told { run, to } in all {
            match (to, run) {
                (Some(session), Some(run)) => drop(runs.entry(session).or_default().insert(run)),
                (Some(session), None) => drop(limits.insert(session)),
                _ => due = true,
            }
        }
        let (mut channels, mut payloads) = (Vec::new(), Vec::new());
        if due {
            channels.push(channel_of(&store, None));
            payloads.push("due".to_owned());
        }
        for session in limits {
            channels.push(channel_of(&store, Some(session)));
            payloads.push(LIMITS.to_owned());
        }
        for (session, runs) in runs {
            let names: Vec<_> = runs.iter().map(RunId::as_str).collect();
            let names = names.join(" ");
            channels.push(channel_of(&store, Some(session)));
            payloads.push(if names.len() > PAYLOAD { "look".to_owned() } else { names });
        }
        if !channels.is_empty() {
            // If it gets lost, the looks of the others make up for it.
            let _ = pool
                .read_soon("SELECT pg_notify(c, p) FROM unnest($1, $2) AS t(c, p)", &|| {
                    args_of![channels.clone(), payloads.clone()]
                })
                .await;
            gather_until = Instant::now() + GATHER;
        }
        for done in flushed {
            // Who waited may be gone.
            let _ = done.send(());
        }
    }
}

/// Hears other hosts, or asks the database if that cannot be.
pub(crate) async fn hear_others(pool: Weak<Pool>, notices: Arc<Notices>, store: String) {
    let mut wait = 100;
    let mut can_listen = pool.upgrade().is_some_and(|pool| pool.connector.url.listen);
    loop {
        if can_listen {
            match listen(&pool, &notices, &store).await {
                Ok(()) => return,
                Err(Deaf::Silent) => can_listen = false,
                Err(Deaf::Lost) => wait = (wait * 2).min(2_000),
            }
            match pool.upgrade() {
                Some(pool) => notices.set_listens(&pool.connector, false),
                None => return,
            }
            notices.gap();
            if look(&pool, &notices).await.is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(wait + jitter(wait))).await;
        } else {
            tokio::time::sleep(POLL_EVERY).await;
            if look(&pool, &notices).await.is_none() {
                return;
            }
        }
    }
}

async fn say(pool: &Pool, channel: &str, text: &str) -> wfhost_store::Result<()> {
    pool.read_soon("SELECT pg_notify($1, $2)", &|| args_of![channel, text]).await.map(drop)
}

/// Whether a connection hears what another one says.
pub(crate) async fn hears(pool: &Pool) -> wfhost_store::Result<bool> {
    let heard = Arc::new(Notify::new());
    let hear = {
        let heard = Arc::clone(&heard);
        Box::new(move |_: tokio_postgres::Notification| heard.notify_one())
    };
    let conn = pool.connector.connect(Some(hear)).await?;
    let channel = format!("wfhost_test_{:016x}", jitter(u64::MAX));
    let listens = conn.client.batch_execute(&format!("LISTEN \"{channel}\"")).await;
    listens.map_err(|error| classify(&pool.connector.url.place, &error).into_error())?;
    say(pool, &channel, "test").await?;
    Ok(tokio::time::timeout(SELF_TEST, heard.notified()).await.is_ok())
}

/// Why nothing is heard.
enum Deaf {
    /// The connection is gone.
    Lost,
    /// Nothing comes through it: there is a pooler in between.
    Silent,
}

/// Listens until the store is gone.
async fn listen(pool: &Weak<Pool>, notices: &Arc<Notices>, store: &str) -> Result<(), Deaf> {
    let Some(connector) = pool.upgrade().map(|pool| Arc::clone(&pool.connector)) else { return Ok(()) };
    let heard = Arc::new(Notify::new());
    let token = format!("test {:016x}", jitter(u64::MAX));
    let hear = {
        let (heard, token, all) = (Arc::clone(&heard), token.clone(), channel_of(store, None));
        let notices = Arc::clone(notices);
        Box::new(move |notice: tokio_postgres::Notification| match notice.payload() {
            text if text == token => heard.notify_one(),
            "due" => notices.push([Wake::Due]),
            "look" => notices.gap(),
            LIMITS if notice.channel() != all => notices.push([Wake::Limits]),
            text if notice.channel() != all => {
                let runs = text.split(' ').filter_map(|run| run.parse().ok()).map(Wake::Run);
                notices.push(runs);
            }
            _ => {}
        })
    };
    let conn = connector.connect(Some(hear)).await.map_err(|_| Deaf::Lost)?;
    let all = channel_of(store, None);
    let run = async |sql: String| {
        let done = tokio::time::timeout(connector.soon(), conn.client.batch_execute(&sql)).await;
        done.map_err(|_| Deaf::Lost)?.map_err(|_| Deaf::Lost)
    };
    let own_channel = format!("{all}_test_{:016x}", jitter(u64::MAX));
    run(format!("LISTEN \"{all}\"; LISTEN \"{own_channel}\"")).await?;
    // By another connection: a pooler gives the answer to one's own back, and nothing of others.
    let Some(pool_here) = pool.upgrade() else { return Ok(()) };
    say(&pool_here, &own_channel, &token).await.map_err(|_| Deaf::Lost)?;
    drop(pool_here);
    if tokio::time::timeout(SELF_TEST, heard.notified()).await.is_err() {
        return Err(Deaf::Silent);
    }
    run(format!("UNLISTEN \"{own_channel}\"")).await?;
    notices.set_listens(&connector, true);
    let mut listened = HashSet::new();
    let mut look_at = Instant::now();
    loop {
        let own = notices.own();
        for session in own.difference(&listened) {
            run(format!("LISTEN \"{}\"", channel_of(store, Some(*session)))).await?;
        }
        for session in listened.difference(&own) {
            run(format!("UNLISTEN \"{}\"", channel_of(store, Some(*session)))).await?;
        }
        if own != listened || listened.is_empty() && look_at <= Instant::now() {
            // What was told before that nobody heard.
            notices.gap();
        }
        listened = own;
        if conn.client.is_closed() {
            return Err(Deaf::Lost);
        }
        if look_at <= Instant::now() {
            look_at = Instant::now() + LOOK_EVERY;
            // It also shows whether the connection still leads anywhere.
            run("SELECT 1".to_owned()).await?;
            if look(pool, notices).await.is_none() {
                return Ok(());
            }
        }
        tokio::select! {
            () = notices.own_changed.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

/// Looks for what was told and not heard. None if the store is gone.
async fn look(pool: &Weak<Pool>, notices: &Notices) -> Option<()> {
    let pool = pool.upgrade()?;
    let own: Vec<i64> = notices.own().into_iter().map(|session| session as i64).collect();
    if own.is_empty() {
        return Some(());
    }
    let found = pool
        .read(
            "SELECT r.name FROM wf.hot h JOIN wf.runs r ON r.run = h.run WHERE h.session = ANY ($1)
             AND EXISTS (SELECT 1 FROM wf.inbox i WHERE i.run = h.run)",
            &|| args_of![own.clone()],
        )
        .await;
    if let Ok(rows) = found {
        let runs = rows.iter().filter_map(|row| row.text(0).ok()?.parse().ok()).map(Wake::Run);
        notices.push(runs.chain([Wake::Due]));
    }
    Some(())
}
