//! Appends, many in one call.
//!
//! A lane is a connection with a task. It takes what is queued, sends it as one statement, and answers all. So a
//! lone run waits for nobody, and many share a commit; those that were just answered are [waited for](Company) a
//! moment. All appends of a run go through the same lane.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use wfhost_core::policy::budget::Spent;
use wfhost_core::{Digest, Outcome, Question, QuestionChange, Row, RunId, Step};
use wfhost_store::{
    Append, Appended, Emission, MessageBody, NewRun, Next, PARENT_GONE, Result, RunState, SessionId,
    StoreError, Wake,
};

use crate::args::{Arg, Columns, args_of, millis};
use crate::company::Company;
use crate::connect::{Conn, Connector, in_schema, jitter, within};
use crate::errors::Fault;
use crate::jobs::{self, Jobs, child_body, outcome_bytes};
use crate::notify::{Notices, Told};
use crate::turns::{Turn, Turns};

/// Lanes of a host.
pub(crate) const LANES: usize = 2;
/// Appends of one call, at most.
const BATCH: usize = 1_000;
/// What they take, about, in bytes.
const BATCH_BYTES: usize = 4 << 20;
/// Numbers of runs that are remembered.
const KNOWN: usize = 100_000;

/// The lane of a run.
pub(crate) fn lane_of(run: &RunId) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    run.as_str().hash(&mut hasher);
    hasher.finish() as usize % LANES
}

/// Numbers by which the tables know runs. They are never given out twice.
#[derive(Default)]
pub(crate) struct Numbers(Mutex<HashMap<RunId, i64>>);

impl Numbers {
    pub fn get(&self, run: &RunId) -> Option<i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(run).copied()
    }

    pub fn put(&self, run: RunId, number: i64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(run, number);
    }

    pub fn forget(&self, run: &RunId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
    }
}

/// What lanes share.
pub(crate) struct Shared {
    pub connector: Arc<Connector>,
    pub numbers: Numbers,
    pub notices: Arc<Notices>,
    /// How long the sessions last that were begun here, in milliseconds.
    leases: Mutex<HashMap<SessionId, u64>>,
    /// Those of appends, for each lane.
    turns: [Turns; LANES],
}

impl Shared {
    pub fn new(connector: Arc<Connector>, notices: Arc<Notices>) -> Self {
        let (numbers, leases) = (Numbers::default(), Mutex::default());
        Self { connector, numbers, notices, leases, turns: Default::default() }
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, u64>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins, and lasts for so many milliseconds.
    pub fn began(&self, session: SessionId, lease_ms: u64) {
        self.leases().insert(session, lease_ms);
    }

    #[cfg(test)]
    pub fn lose(&self, session: SessionId) {
        self.turns.iter().for_each(|turns| turns.change(session, 0, Turn::next));
    }

    /// Sessions of which anything is known.
    #[cfg(test)]
    pub fn known_sessions(&self) -> Vec<SessionId> {
        let of_turns = self.turns.iter().flat_map(Turns::sessions);
        let known: std::collections::BTreeSet<_> = self.leases().keys().copied().chain(of_turns).collect();
        known.into_iter().collect()
    }

    /// A session is over: whatever is still appended under it is refused.
    pub fn ended(&self, session: SessionId) {
        self.leases().remove(&session);
        self.turns.iter().for_each(|turns| turns.forget(session));
    }
}

struct Job {
    append: Append,
    at: Instant,
    reply: oneshot::Sender<Result<Appended>>,
}

pub(crate) struct Lanes {
    queues: Vec<mpsc::UnboundedSender<Job>>,
    place: String,
}

impl Lanes {
    pub fn new(shared: &Arc<Shared>) -> Self {
        let place = shared.connector.url.place.clone();
        let queues = (0..LANES).map(|number| {
            let (queue, jobs) = mpsc::unbounded_channel();
            let lane = Lane {
                shared: Arc::clone(shared),
                number,
                conn: None,
                company: Company::new(Instant::now()),
            };
            tokio::spawn(lane.work(jobs));
            queue
        });
        Self { queues: queues.collect(), place }
    }

    pub async fn append(&self, append: Append) -> Result<Appended> {
        let (reply, answer) = oneshot::channel();
        let closed =
            || StoreError::Failed { place: self.place.clone(), reason: "the store was closed".to_owned() };
        let queue = &self.queues[lane_of(&append.run)];
        queue.send(Job { append, at: Instant::now(), reply }).map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

struct Lane {
    shared: Arc<Shared>,
    number: usize,
    conn: Option<Conn>,
    company: Company,
}

/// What lanes send again and again.
const COMMIT: &str =
    "SELECT idx, place, result FROM wf.commit_5($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
    $13, $14, $15, $16, $17, $18::jsonb, $19)";
const APPEND: &str = "SELECT wf.append_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

/// What became of each of a batch.
type Outcomes = Vec<Result<Appended>>;

/// Of appends that were not refused before they were sent.
struct Batch<'a> {
    session: SessionId,
    /// With the numbers of the runs, and where they are among all.
    plain: Vec<(usize, i64, &'a Append)>,
    others: Vec<(usize, i64, &'a Append)>,
}

impl Lane {
    async fn work(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let mut held: VecDeque<Job> = VecDeque::new();
        loop {
            let first = match held.pop_front() {
                Some(job) => job,
                None => match jobs.recv().await {
                    Some(job) => job,
                    None => return,
                },
            };
            self.company.came(&first.append.run, first.at);
            let mut batch = vec![first];
            let mut runs: HashSet<RunId> = batch.iter().map(|job| job.append.run.clone()).collect();
            let mut bytes = size(&batch[0].append);
            let mut left = VecDeque::new();
            while batch.len() < BATCH && bytes < BATCH_BYTES {
                let Some(job) = held.pop_front().or_else(|| jobs.try_recv().ok()) else {
                    let Some(until) = self.company.wait_until(Instant::now()) else { break };
                    match tokio::time::timeout_at(until, jobs.recv()).await {
                        Ok(Some(job)) => held.push_back(job),
                        _ => break,
                    }
                    continue;
                };
                self.company.came(&job.append.run, job.at);
                // One after the other, as each says where it goes on.
                if runs.insert(job.append.run.clone()) {
                    bytes += size(&job.append);
                    batch.push(job);
                } else {
                    left.push_back(job);
                }
            }
            left.append(&mut held);
            held = left;
            self.commit(batch).await;
        }
    }

    async fn commit(&mut self, batch: Vec<Job>) {
        let mut sessions: BTreeMap<SessionId, Vec<Job>> = BTreeMap::new();
        for job in batch {
            sessions.entry(job.append.session).or_default().push(job);
        }
        for (session, jobs) in sessions {
            let (appends, replies): (Vec<_>, Vec<_>) =
                jobs.into_iter().map(|job| (job.append, job.reply)).unzip();
            let begin = Instant::now();
            let outcomes = self.commit_of(session, &appends).await;
            let (now, mut going_on) = (Instant::now(), Vec::new());
            for (append, outcome) in appends.into_iter().zip(&outcomes) {
                match (&append.next, outcome) {
                    (Next::Go, Ok(_)) => going_on.push(append.run),
                    _ => self.company.left(&append.run),
                }
            }
            self.company.answered(now, now - begin, going_on);
            for (reply, outcome) in replies.into_iter().zip(outcomes) {
                // Nobody waits if the caller was dropped; the append stands all the same.
                let _ = reply.send(outcome);
            }
        }
    }

    /// Commits what one session appends.
    async fn commit_of(&mut self, session: SessionId, appends: &[Append]) -> Outcomes {
        let lease = self.shared.leases().get(&session).copied();
        let until = Instant::now() + Duration::from_millis(lease.unwrap_or(30_000).clamp(1_000, 60_000));
        let numbers = match self.numbers(appends, until).await {
            Ok(numbers) => numbers,
            Err(error) => return appends.iter().map(|_| Err(error.clone())).collect(),
        };
        let all: Vec<_> = numbers.into_iter().zip(appends).enumerate().collect();
        let mut outcomes: Vec<_> = appends.iter().map(|append| Err(fenced(append))).collect();
        let known: Vec<_> = all
            .iter()
            .filter_map(|(at, (number, append))| number.map(|number| (*at, number, *append)))
            .collect();
        match self.send(session, &known, until).await {
            Ok(done) => done.into_iter().for_each(|(at, outcome)| outcomes[at] = outcome),
            Err(error) if known.len() == 1 || is_of_all(&error) => {
                known.iter().for_each(|(at, ..)| outcomes[*at] = Err(error.clone()));
            }
            Err(_) => {
                // One that fails takes only itself back.
                for one in known {
                    match self.send(session, &[one], until).await {
                        Ok(done) => done.into_iter().for_each(|(at, outcome)| outcomes[at] = outcome),
                        Err(error) => outcomes[one.0] = Err(error),
                    }
                }
            }
        }
        outcomes
    }

    /// The numbers of runs; none for those that there are not.
    async fn numbers(&mut self, appends: &[Append], until: Instant) -> Result<Vec<Option<i64>>> {
        let shared = Arc::clone(&self.shared);
        let known = |append: &Append| shared.numbers.get(&append.run);
        let missing: Vec<_> = appends
            .iter()
            .filter(|append| known(append).is_none())
            .map(|append| append.run.to_string())
            .collect();
        if !missing.is_empty() {
            let sql = "SELECT name, run FROM wf.runs WHERE name = ANY ($1) AND NOT gone";
            let rows = self.persist(sql, &|| args_of![missing.clone()], until).await?;
            for row in rows {
                if let (Ok(run), Ok(number)) = (crate::read::id(&row, 0), row.int(1)) {
                    shared.numbers.put(run, number);
                }
            }
        }
        Ok(appends.iter().map(known).collect())
    }

    /// The connection of this lane.
    async fn conn(&mut self, until: Instant) -> Result<&Conn> {
        if self.conn.as_ref().is_some_and(|conn| conn.client.is_closed()) {
            self.conn = None;
        }
        let mut wait = 20;
        while self.conn.is_none() {
            match self.shared.connector.connect(None).await {
                Ok(conn) => self.conn = Some(conn),
                Err(error) if error.is_passing() && Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(wait + jitter(wait))).await;
                    wait = (wait * 2).min(500);
                }
                Err(error) => return Err(error),
            }
        }
        self.conn.as_ref().ok_or_else(|| unreachable!("there is one by now"))
    }

    async fn ask(
        &mut self,
        sql: &str,
        args: Vec<Arg>,
        until: Instant,
    ) -> Result<Vec<tokio_postgres::Row>, Fault> {
        let connector = Arc::clone(&self.shared.connector);
        let sql = in_schema(sql, &connector.url.schema);
        let conn = self.conn(until).await.map_err(Fault::NoConnection)?;
        let sent = connector.send(conn, &sql, &args);
        let answer = within(&connector.url.place, conn, connector.soon(), &args, sent).await;
        if matches!(answer, Err(Fault::Lost(_) | Fault::NoConnection(_))) {
            self.conn = None;
        }
        answer
    }

    /// Asks until there is an answer.
    async fn persist(
        &mut self,
        sql: &str,
        args: &(dyn Fn() -> Vec<Arg> + Sync),
        until: Instant,
    ) -> Result<Vec<tokio_postgres::Row>> {
        loop {
            match self.ask(sql, args(), until).await {
                Ok(rows) => return Ok(rows),
                Err(Fault::Lost(_) | Fault::Again(_)) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(10 + jitter(20))).await;
                }
                // The server may not be the primary any more, or have no room: another one is found, or there is.
                Err(Fault::NoConnection(error)) if error.is_passing() && Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(50 + jitter(100))).await;
                }
                Err(fault) => return Err(fault.into_error()),
            }
        }
    }

    /// Sends a batch until it is known what became of it.
    async fn send(
        &mut self,
        session: SessionId,
        appends: &[(usize, i64, &Append)],
        until: Instant,
    ) -> Result<Vec<(usize, Result<Appended>)>> {
        if appends.is_empty() {
            return Ok(Vec::new());
        }
        let (plain, others) = appends.iter().copied().partition(|(_, _, append)| is_plain(append));
        let batch = Batch { session, plain, others };
        // Where no entry tells whether it was committed, the lane does.
        let mark = batch.others.iter().any(|(_, _, append)| append.row.is_none());
        let mark = mark.then(|| jitter(i64::MAX as u64) as i64 | 1);
        if self.turn(session).is_new {
            // Nobody could be asked when it began.
            let none = Batch { session, plain: Vec::new(), others: Vec::new() };
            self.became(&none, None, until).await?;
        }
        let mut again = 0;
        loop {
            let turn = self.turn(session).number;
            let lone = lone(&batch);
            let (sql, args) = match lone {
                Some((run, append, row)) => (APPEND, self.arguments_of_one(turn, run, append, row)),
                None => (COMMIT, self.arguments(&batch, turn, mark)?),
            };
            self.shared.connector.commits.about_to_be_made();
            let error = match self.ask(sql, args, until).await {
                Ok(rows) => {
                    self.shared.connector.commits.made();
                    return match lone {
                        Some((_, append, _)) => Ok(vec![(batch.plain[0].0, self.place_of(append, &rows)?)]),
                        None => self.outcomes(&batch, &rows),
                    };
                }
                Err(Fault::Again(error)) => {
                    again += 1;
                    if again > 5 {
                        return Err(error);
                    }
                    tokio::time::sleep(Duration::from_millis(jitter(10 << again))).await;
                    continue;
                }
                Err(Fault::Lost(error)) => error,
                Err(fault) => {
                    let error = fault.into_error();
                    // Nothing was done. What passes is waited for here: a run that had to be read again would have
                    // to make calls again whose answers it has in memory only.
                    if !error.is_passing() || Instant::now() >= until {
                        return Err(error);
                    }
                    tokio::time::sleep(Duration::from_millis(50 + jitter(100))).await;
                    continue;
                }
            };
            // It may be under way still: what became of it is looked up behind the lock that it takes.
            self.turns().change(session, turn, Turn::next);
            match self.became(&batch, mark, until).await {
                Ok(Some(outcomes)) => return Ok(outcomes),
                Ok(None) if Instant::now() < until => {}
                Ok(None) => return Err(error),
                Err(lost) => {
                    let reason = format!("{error}; {lost}");
                    return Err(StoreError::Unknown {
                        place: self.shared.connector.url.place.clone(),
                        reason,
                    });
                }
            }
        }
    }

    fn turns(&self) -> &Turns {
        &self.shared.turns[self.number]
    }

    fn turn(&self, session: SessionId) -> Turn {
        self.turns().of(session)
    }

    fn arguments_of_one(&self, turn: i64, run: i64, append: &Append, row: &Row) -> Vec<Arg> {
        args_of![
            append.session.0 as i64,
            self.number as i16,
            turn,
            run,
            append.epoch.0 as i64,
            row.first.0 as i64,
            append.before.0.to_vec(),
            row.count as i32,
            millis(append.at),
            row.head.0.to_vec(),
            row.bytes.clone(),
        ]
    }

    /// What a lone append came to.
    fn place_of(&self, append: &Append, rows: &[tokio_postgres::Row]) -> Result<Result<Appended>> {
        let place = rows.first().map(|row| row.int(0)).transpose().map_err(|strange| {
            StoreError::Unknown { place: self.shared.connector.url.place.clone(), reason: strange.0 }
        })?;
        Ok(match place {
            Some(place) if place > 0 => Ok(Appended { place: Some(place as u64), ..Appended::default() }),
            _ => Err(fenced(append)),
        })
    }

    fn arguments(&self, batch: &Batch<'_>, turn: i64, mark: Option<i64>) -> Result<Vec<Arg>> {
        let rows: Vec<_> = batch
            .plain
            .iter()
            .filter_map(|(_, run, append)| append.row.as_ref().map(|row| (*run, *append, row)))
            .collect();
        let mut jobs = Jobs { rows: rows.len() as i64, ..Jobs::default() };
        let others = batch.others.iter().map(|(_, run, append)| jobs.append(*run, append));
        let others = others.collect::<Result<Vec<_>>>()?;
        let others = (!others.is_empty()).then_some(Value::Array(others));
        let bytes = |bytes: &dyn Fn(&Append, &Row) -> Vec<u8>| {
            rows.iter().map(|(_, append, row)| bytes(append, row)).collect::<Vec<_>>()
        };
        let numbers = |number: &dyn Fn(&Append, &Row) -> i64| {
            rows.iter().map(|(_, append, row)| number(append, row)).collect::<Vec<_>>()
        };
        let ends: Vec<_> = rows
            .iter()
            .map(|(_, append, _)| match &append.next {
                Next::End { outcome, spent } => Some((&append.run, outcome, *spent)),
                _ => None,
            })
            .collect();
        let ends = ends.iter().any(Option::is_some).then_some(ends);
        let of_ends = |bytes: &dyn Fn(&RunId, &Outcome, Spent) -> Vec<u8>| {
            let of_end = |end: &Option<_>| end.map(|(run, outcome, spent)| bytes(run, outcome, spent));
            ends.as_ref().map(|ends| ends.iter().map(of_end).collect::<Vec<_>>())
        };
        let state = |end: &Option<(_, &Outcome, _)>| {
            end.map(|(_, outcome, _)| jobs::number(RunState::of(Some(outcome))) as i16)
        };
        Ok(args_of![
            batch.session.0 as i64,
            self.number as i16,
            turn,
            mark,
            self.shared.connector.time.set_now(),
            rows.iter().map(|(run, ..)| *run).collect::<Vec<_>>(),
            numbers(&|append, _| append.epoch.0 as i64),
            numbers(&|_, row| row.first.0 as i64),
            bytes(&|append, _| append.before.0.to_vec()),
            rows.iter().map(|(_, _, row)| row.count as i32).collect::<Vec<_>>(),
            numbers(&|append, _| millis(append.at)),
            bytes(&|_, row| row.head.0.to_vec()),
            bytes(&|_, row| row.bytes.clone()),
            ends.as_ref().map(|ends| ends.iter().map(state).collect::<Vec<_>>()),
            of_ends(&|_, outcome, _| outcome_bytes(outcome)),
            // The step is in the message besides, and only the server knows it.
            of_ends(&|run, outcome, spent| child_body(Step(0), run, outcome, spent)),
            PARENT_GONE,
            others,
            jobs.blobs,
        ])
    }

    fn outcomes(
        &self,
        batch: &Batch<'_>,
        rows: &[tokio_postgres::Row],
    ) -> Result<Vec<(usize, Result<Appended>)>> {
        let strange = |strange: crate::args::Strange| StoreError::Unknown {
            place: self.shared.connector.url.place.clone(),
            reason: strange.0,
        };
        let all: Vec<_> = batch.plain.iter().chain(&batch.others).collect();
        let mut outcomes: Vec<_> = all.iter().map(|(at, _, append)| (*at, Err(fenced(append)))).collect();
        for row in rows {
            let index: i32 = row.value(0).map_err(strange)?;
            let Ok(index) = usize::try_from(index) else { break };
            let Some(outcome) = outcomes.get_mut(index) else { continue };
            match row.maybe_text(2).map_err(strange)? {
                None => {
                    let place = row.maybe_int(1).map_err(strange)?.map(|place| place as u64);
                    outcome.1 = Ok(Appended { place, ..Appended::default() });
                }
                Some(said) => {
                    let (_, _, append) = all[index];
                    outcome.1 = self.outcome(append, &said);
                }
            }
        }
        Ok(outcomes)
    }

    /// What an append of another kind came to.
    fn outcome(&self, append: &Append, said: &str) -> Result<Appended> {
        let said: Value = serde_json::from_str(said).unwrap_or_default();
        match said["code"].as_i64() {
            Some(0) => {}
            Some(2) => return Err(StoreError::Raced { run: append.run.clone() }),
            Some(code @ 3..=5) => {
                let Next::Continue { run } = &append.next else { return Err(fenced(append)) };
                return Err(new_refused(code, &run.id, run.module));
            }
            _ => return Err(fenced(append)),
        }
        let mut wake = Vec::new();
        for told in said["wakes"].as_array().into_iter().flatten() {
            let Some(told) = Told::read(told) else { continue };
            wake.push(told.run.clone().map_or(Wake::Due, Wake::Run));
            self.shared.notices.tell(told, false);
        }
        Ok(Appended { due: said["due"].as_bool().unwrap_or_default(), place: said["place"].as_u64(), wake })
    }

    /// What became of a batch that nobody heard of; none if nothing was done.
    async fn became(
        &mut self,
        batch: &Batch<'_>,
        mark: Option<i64>,
        until: Instant,
    ) -> Result<Option<Vec<(usize, Result<Appended>)>>> {
        let all: Vec<_> = batch.plain.iter().chain(&batch.others).copied().collect();
        let rows: Vec<_> = all
            .iter()
            .filter_map(|(at, run, append)| append.row.as_ref().map(|row| (*at, *run, row)))
            .collect();
        let (session, number) = (batch.session.0 as i64, self.number as i16);
        let turn = self.turn(batch.session).number;
        let found = self
            .persist(
                "SELECT batch, there FROM wf.became_1($1, $2, $3, $4, $5, $6)",
                &|| {
                    args_of![
                        session,
                        number,
                        rows.iter().map(|(_, run, _)| *run).collect::<Vec<_>>(),
                        rows.iter().map(|(.., row)| row.first.0 as i64).collect::<Vec<_>>(),
                        rows.iter().map(|(.., row)| row.head.0.to_vec()).collect::<Vec<_>>(),
                        turn,
                    ]
                },
                until,
            )
            .await?;
        let strange = |strange: crate::args::Strange| StoreError::Unknown {
            place: self.shared.connector.url.place.clone(),
            reason: strange.0,
        };
        let Some(found) = found.first() else {
            self.turns().forget(batch.session);
            return Ok(Some(all.iter().map(|(at, _, append)| (*at, Err(fenced(append)))).collect()));
        };
        self.turns().change(batch.session, turn, |turn| Turn { is_new: false, ..turn });
        let there: Vec<bool> = found.value(1).map_err(strange)?;
        let committed =
            there.contains(&true) || mark.is_some() && found.maybe_int(0).map_err(strange)? == mark;
        if !committed {
            return Ok(None);
        }
        self.shared.connector.commits.made();
        // Nobody was told of it.
        self.shared.notices.gap();
        let mine = self
            .persist(
                "SELECT run FROM wf.hot WHERE run = ANY ($1) AND session = $2",
                &|| args_of![all.iter().map(|(_, run, _)| *run).collect::<Vec<_>>(), session],
                until,
            )
            .await?;
        let mine: HashSet<i64> = mine.iter().filter_map(|row| row.int(0).ok()).collect();
        let there: HashMap<usize, bool> = rows.iter().map(|(at, ..)| *at).zip(there).collect();
        let outcomes = all.iter().map(|(at, run, append)| {
            let raced = || Err(StoreError::Raced { run: append.run.clone() });
            let still_mine = mine.contains(run);
            // Who looks once more finds all that is to be found.
            let looks = Ok(Appended { due: !is_plain(append) && still_mine, ..Appended::default() });
            let outcome = match (&append.next, there.get(at)) {
                (_, Some(false)) => raced(),
                (Next::Go | Next::Park(_), _) => looks,
                _ if still_mine => raced(),
                _ => looks,
            };
            (*at, outcome)
        });
        Ok(Some(outcomes.collect()))
    }
}

/// Whether an error is the same for each of a batch: they may be there, or no server takes any.
fn is_of_all(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unknown { .. }
            | StoreError::Unreachable { .. }
            | StoreError::Standby { .. }
            | StoreError::Crowded { .. }
            | StoreError::ReadOnly { .. }
    )
}

/// The append of a batch that has no other, if it is no more than a row of a run that goes on.
fn lone<'a>(batch: &Batch<'a>) -> Option<(i64, &'a Append, &'a Row)> {
    match (&batch.plain[..], &batch.others[..]) {
        (&[(_, run, append)], []) if append.next == Next::Go => Some((run, append, append.row.as_ref()?)),
        _ => None,
    }
}

/// Whether an append is no more than a row, which may be the last one.
fn is_plain(append: &Append) -> bool {
    append.row.is_some()
        && append.before != Digest([0; 32])
        && matches!(append.next, Next::Go | Next::End { .. })
        && append.consumed.is_empty()
        && append.emissions.is_empty()
        && append.given.is_none()
        && append.questions.is_empty()
        && append.module.is_none()
        && append.children.is_empty()
        && append.dropped.is_empty()
        && append.ledger.is_none()
}

/// What an append takes, about, in bytes.
fn size(append: &Append) -> usize {
    let of_new = |run: &NewRun| {
        let inbox = run.inbox.iter().map(MessageBody::bytes).sum::<usize>();
        256 + run.rows.iter().map(|row| row.bytes.len()).sum::<usize>() + inbox
    };
    let row = append.row.as_ref().map_or(0, |row| row.bytes.len());
    let children: usize = append.children.iter().map(of_new).sum();
    let emissions: usize = append.emissions.iter().map(size_of_emission).sum();
    let questions = append.questions.iter().map(|change| match change {
        QuestionChange::Asked { question: Question { prompt, schema, choices, details }, .. } => {
            let texts = [schema, details].into_iter().flatten().map(|json| json.as_str().len());
            prompt.len() + texts.chain(choices.iter().map(String::len)).sum::<usize>()
        }
        QuestionChange::Closed { .. } => 0,
    });
    let next = match &append.next {
        // It is told to the parent besides.
        Next::End { outcome: Ok(output), .. } => 2 * output.as_str().len(),
        Next::End { outcome: Err(failure), .. } => 2 * failure.message.len(),
        Next::Continue { run } => of_new(run),
        Next::Refuse { reason } | Next::Release { trouble: Some(reason), .. } => reason.len(),
        _ => 0,
    };
    256 + row + children + emissions + questions.sum::<usize>() + next
}

fn size_of_emission(emission: &Emission) -> usize {
    64 + match emission {
        Emission::Log(line) => {
            let fields = line.fields.iter().map(|(name, value)| name.len() + value.len());
            line.message.len() + fields.sum::<usize>()
        }
        Emission::State { key: name, value, .. } | Emission::Message { name, payload: value, .. } => {
            name.len() + value.as_str().len()
        }
        Emission::Phase { title, .. } => 2 * title.len(),
    }
}

fn fenced(append: &Append) -> StoreError {
    StoreError::Fenced { run: append.run.clone() }
}

/// Why a run is not created.
pub(crate) fn new_refused(code: i64, run: &RunId, module: Digest) -> StoreError {
    match code {
        3 => StoreError::IdTaken { id: run.clone() },
        4 => StoreError::IdUsed { id: run.clone() },
        _ => StoreError::NoSuchModule(module),
    }
}

#[cfg(test)]
mod tests {
    use wfhost_core::{Epoch, Failure, FailureKind, Json, Timestamp};
    use wfhost_store::conformance::{id, machine, question};
    use wfhost_store::{LogLevel, LogLine};

    use super::*;

    #[test]
    fn all_that_an_append_brings_along_counts() {
        const MANY: usize = 1_000_000;
        let text = || "x".repeat(MANY);
        let json = || Json::string(&text());
        let at = Timestamp(1);
        let new = |next| Append::new(id("r"), SessionId(1), Epoch(1), at, next);
        assert!(size(&new(Next::Go)) < 1_000);
        let emitted = |emission| Append { emissions: vec![emission], ..new(Next::Go) };
        let line = LogLine { number: 0, at, level: LogLevel::Info, message: text(), fields: Vec::new() };
        let round = || {
            let mut machine = machine("r", Digest([0; 32]));
            machine.receive("s".to_owned(), json(), None, at);
            let rows = machine.take_unsaved().map(Row::from).into_iter().collect();
            NewRun::new(&machine, rows)
        };
        let QuestionChange::Asked { step, at, deadline, mut question } = question(1) else {
            panic!("it asks")
        };
        question.prompt = text();
        for append in [
            emitted(Emission::Log(line)),
            emitted(Emission::Phase { title: text(), at }),
            emitted(Emission::State { key: String::new(), value: json(), at }),
            emitted(Emission::Message { name: String::new(), payload: json(), at }),
            new(Next::End { outcome: Ok(json()), spent: Spent::default() }),
            new(Next::End {
                outcome: Err(Failure::new(FailureKind::Rejected, text())),
                spent: Spent::default(),
            }),
            new(Next::Refuse { reason: text() }),
            new(Next::Continue { run: Box::new(round()) }),
            Append { children: vec![round()], ..new(Next::Go) },
            Append {
                questions: vec![QuestionChange::Asked { step, at, deadline, question }],
                ..new(Next::Go)
            },
        ] {
            assert!(size(&append) >= MANY, "{:?}: {}", append.next, size(&append));
        }
    }
}
