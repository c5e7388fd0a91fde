//! Beginnings of runs, many in one call.
//!
//! Whoever creates a run beside others waits for the call that is under way, and goes into the next one with all who
//! came meanwhile. So a lone run waits for nobody, and many share a transaction.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_postgres::Row as SqlRow;
use wfhost_store::{NewRun, Result, StoreError};

use crate::args::{Columns, Read};
use crate::jobs::{beginning, beginnings};
use crate::pool::Pool;

/// Calls that are under way at the same time, at most.
const CALLS: usize = 2;
/// Runs of one call, at most.
const BATCH: usize = 500;
/// What they take, about, in bytes.
const BATCH_BYTES: usize = 4 << 20;

/// Creates a run that is no more than its first row.
const BEGIN: &str =
    "SELECT 1, code, run, known FROM wf.begin_5($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
    $14, $15, $16, $17, $18, $19, $20, $21, $22)";

/// Creates many of them.
const BEGIN_ALL: &str =
    "SELECT idx, code, run, known FROM wf.begin_all_5($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
    $14, $15, $16, $17, $18, $19, $20, $21, $22)";

/// What the server says of a run that was to begin.
#[derive(Clone, Debug)]
pub(crate) struct Begun {
    /// As that of `begin_5`.
    pub code: i32,
    pub number: Option<i64>,
    /// The run that has its key.
    pub known: Option<String>,
    /// It is unknown what became of an earlier try.
    pub doubt: bool,
}

struct Asked {
    run: Arc<NewRun>,
    reply: oneshot::Sender<Result<Begun>>,
}

pub(crate) struct Beginnings {
    queue: mpsc::UnboundedSender<Asked>,
    place: String,
}

impl Beginnings {
    pub fn new(pool: &Arc<Pool>) -> Self {
        let (queue, asked) = mpsc::unbounded_channel();
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..CALLS {
            tokio::spawn(work(Arc::clone(pool), Arc::clone(&asked)));
        }
        Self { queue, place: pool.connector.url.place.clone() }
    }

    /// Begins a run that is [bare](crate::jobs::is_bare).
    pub async fn begin(&self, run: Arc<NewRun>) -> Result<Begun> {
        let (reply, answer) = oneshot::channel();
        let closed =
            || StoreError::Failed { place: self.place.clone(), reason: "the store was closed".to_owned() };
        self.queue.send(Asked { run, reply }).map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

async fn work(pool: Arc<Pool>, asked: Arc<Mutex<mpsc::UnboundedReceiver<Asked>>>) {
    let mut held: VecDeque<Asked> = VecDeque::new();
    loop {
        let mut batch = Vec::new();
        if held.is_empty() {
            // Of those who wait for work one gathers all that there is.
            let mut asked = asked.lock().await;
            match asked.recv().await {
                Some(first) => held.push_back(first),
                None => return,
            }
            while held.len() < BATCH
                && let Ok(next) = asked.try_recv()
            {
                held.push_back(next);
            }
        }
        let (mut names, mut keys, mut bytes) = (HashSet::new(), HashSet::new(), 0);
        let mut left = VecDeque::new();
        for one in std::mem::take(&mut held) {
            let run = &one.run;
            let key = run.key.clone().map(|key| (key, run.workflow.clone()));
            let fits = batch.is_empty() || batch.len() < BATCH && bytes < BATCH_BYTES;
            // Of two that are to be the same run the second one is told of the first.
            let is_other = !names.contains(&run.id) && key.as_ref().is_none_or(|key| !keys.contains(key));
            if !fits || !is_other {
                left.push_back(one);
            } else if !one.reply.is_closed() {
                bytes += size(run);
                names.insert(run.id.clone());
                keys.extend(key);
                batch.push(one);
            }
        }
        held = left;
        send(&pool, batch).await;
    }
}

async fn send(pool: &Pool, batch: Vec<Asked>) {
    let (runs, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|asked| (asked.run, asked.reply)).unzip();
    for (reply, begun) in replies.into_iter().zip(begin(pool, &runs).await) {
        // Nobody waits if the caller was dropped; the run has begun all the same.
        let _ = reply.send(begun);
    }
}

async fn begin(pool: &Pool, runs: &[Arc<NewRun>]) -> Vec<Result<Begun>> {
    let error = match runs {
        [] => return Vec::new(),
        [run] => return vec![begin_one(pool, run).await],
        runs => match pool.write(BEGIN_ALL, &|| beginnings(runs)).await {
            Ok((rows, doubt)) => {
                let mut begun: Vec<_> = runs.iter().map(|_| Err(strange(pool))).collect();
                for (index, one) in rows.iter().filter_map(|row| read(row, doubt).ok()) {
                    if let Some(known) = usize::try_from(index - 1).ok().and_then(|at| begun.get_mut(at)) {
                        *known = Ok(one);
                    }
                }
                return begun;
            }
            Err(error) => error,
        },
    };
    match error {
        // They may have begun.
        StoreError::Unknown { .. } => runs.iter().map(|_| Err(error.clone())).collect(),
        error if error.is_passing() => runs.iter().map(|_| Err(error.clone())).collect(),
        // One that fails takes only itself back.
        _ => {
            let mut begun = Vec::new();
            for run in runs {
                begun.push(begin_one(pool, run).await);
            }
            begun
        }
    }
}

async fn begin_one(pool: &Pool, run: &NewRun) -> Result<Begun> {
    let (rows, doubt) = pool.write(BEGIN, &|| beginning(run)).await?;
    rows.first()
        .and_then(|row| read(row, doubt).ok())
        .map_or_else(|| Err(strange(pool)), |(_, begun)| Ok(begun))
}

fn read(row: &SqlRow, doubt: bool) -> Read<(i32, Begun)> {
    let (code, number, known) = (row.value::<i32>(1)?, row.maybe_int(2)?, row.maybe_text(3)?);
    Ok((row.value::<i32>(0)?, Begun { code, number, known, doubt }))
}

/// What was said cannot be read, so it is not known what was done.
fn strange(pool: &Pool) -> StoreError {
    let place = pool.connector.url.place.clone();
    StoreError::Unknown { place, reason: "what was created cannot be read".to_owned() }
}

/// What a beginning takes, about, in bytes.
fn size(run: &NewRun) -> usize {
    256 + run.rows.iter().map(|row| row.bytes.len()).sum::<usize>()
}
