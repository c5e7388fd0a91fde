//! Claims, which come in time or never.
//!
//! A claim whose answer is not heard may lie in a socket, and be read by the server some time: it would take runs that
//! nobody advances then, or one from under the execution that has it by now, whose calls would be made again. So each
//! names the turn of its session, and another turn begins before anything else is done.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::Row;
use wfhost_store::{Result, SessionId, StoreError};

use crate::PostgresStore;
use crate::args::{Arg, Columns, args_of};
use crate::connect::{TRIES, jitter};
use crate::errors::Fault;
use crate::pool::Plan;

/// Another one begins with each statement of which it is not known what became of it: a copy of that which comes
/// later is refused then.
#[derive(Clone, Copy, Default)]
pub(crate) struct Turn {
    pub number: i64,
    /// The server may not know of it.
    pub is_new: bool,
}

impl Turn {
    pub fn next(self) -> Self {
        Self { number: self.number + 1, is_new: true }
    }
}

/// Those of claims, or of the appends of a lane, by session.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<SessionId, Turn>>);

impl Turns {
    pub fn of(&self, session: SessionId) -> Turn {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&session).copied().unwrap_or_default()
    }

    /// Changes the turn, if it is still that one.
    pub fn change(&self, session: SessionId, number: i64, change: impl FnOnce(Turn) -> Turn) {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.entry(session).or_default();
        if turn.number == number {
            *turn = change(*turn);
        }
    }

    #[cfg(test)]
    pub fn sessions(&self) -> Vec<SessionId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    pub fn forget(&self, session: SessionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
    }
}

/// What is said of a statement that came late: its turn is over.
const LATE: i32 = 6;

impl PostgresStore {
    /// The turn of a session, which the server knows.
    async fn turn(&self, session: SessionId) -> Result<i64> {
        let turn = self.claims.of(session);
        if turn.is_new {
            // Behind the lock that claims take: what came before is over, what comes later is late.
            let (rows, _) = self
                .pool
                .write_soon("SELECT batch FROM wf.became_1($1, -1::int2, '{}', '{}', '{}', $2)", &|| {
                    args_of![session.0 as i64, turn.number]
                })
                .await?;
            if rows.is_empty() {
                return Err(StoreError::SessionOver);
            }
            self.claims.change(session, turn.number, |turn| Turn { is_new: false, ..turn });
        }
        Ok(turn.number)
    }

    /// Does something under a session whose first column says what became of it: `args` are told the turn. If it
    /// fails, it is not under way any more, or will not be when the next one begins. `again`: to be repeated if nobody
    /// knows whether it was done.
    pub(crate) async fn in_turn(
        &self,
        session: SessionId,
        again: bool,
        sql: &str,
        args: &(dyn Fn(i64) -> Vec<Arg> + Sync),
    ) -> Result<Vec<Row>> {
        let sql = self.pool.sql(sql);
        let until = self.pool.until();
        let (mut raced, mut missed, mut doubt) = (0, 0_u32, false);
        loop {
            let number = self.turn(session).await?;
            let connector = &self.pool.connector;
            connector.commits.about_to_be_made();
            match self.pool.once(connector.soon(), Plan::Kept, &sql, args(number)).await {
                Ok(rows) => {
                    connector.commits.made();
                    match self.one(&rows, |row| row.value::<i32>(0))? {
                        // Another one was not heard of, and has begun a turn.
                        Some(LATE) => self.claims.change(session, number, Turn::next),
                        _ => return Ok(rows),
                    }
                }
                Err(Fault::Again(error)) => {
                    raced += 1;
                    if raced >= TRIES {
                        return Err(self.failed(error, doubt));
                    }
                    tokio::time::sleep(Duration::from_millis(jitter(20))).await;
                }
                Err(Fault::Lost(error)) => {
                    self.claims.change(session, number, Turn::next);
                    let settled = self.turn(session).await;
                    if !again || settled.is_err() || Instant::now() > until {
                        return Err(self.pool.unknown(&error));
                    }
                    doubt = true;
                }
                Err(Fault::NoConnection(error)) => {
                    if !error.is_passing() || Instant::now() > until {
                        return Err(self.failed(error, doubt));
                    }
                    missed += 1;
                    let wait = (50 << missed.min(4)) + jitter(100);
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                Err(Fault::Refused(error)) => return Err(self.failed(error, doubt)),
            }
        }
    }

    /// What is said of a statement whose last try failed. `doubt`: one before it may have succeeded.
    fn failed(&self, error: StoreError, doubt: bool) -> StoreError {
        if doubt { self.pool.unknown(&error) } else { error }
    }
}
