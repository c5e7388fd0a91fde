//! Runs as those who claim them get them.

use tokio_postgres::Row as SqlRow;
use wfhost_core::{Digest, Epoch, Given, Outcome, Row, RunId};
use wfhost_store::claims::{check_epoch, check_rows};
use wfhost_store::*;

use crate::PostgresStore;
use crate::args::{Columns, Read, args_of, strange};
use crate::read;

/// A run that was claimed and is to be read.
pub(super) struct Taken {
    number: i64,
    run: RunId,
    epoch: Epoch,
    /// What else is known of it, or why that cannot be read.
    known: Read<Known>,
}

/// What a row says besides who has the run.
struct Known {
    starts: u32,
    module: Digest,
    emissions: u64,
    given: Given,
    was: RunState,
    waited: Option<Waiting>,
    trouble: Option<String>,
    /// Of the chain, when the run was given up the last time.
    head: Option<Digest>,
    project: Option<String>,
    imported: bool,
    outcome: Option<Outcome>,
}

impl Taken {
    /// The columns of `take_1`, from `first` on. One that cannot be read holds up no others: what is wrong with it is
    /// told.
    pub fn read(row: &SqlRow, first: usize) -> Read<Self> {
        Ok(Self {
            number: row.int(first)?,
            run: read::id(row, first + 1)?,
            epoch: Epoch(row.int(first + 2)? as u64),
            known: Known::read(row, first),
        })
    }
}

impl Known {
    fn read(row: &SqlRow, first: usize) -> Read<Self> {
        let emissions = row.int(first + 5)? as u64;
        Ok(Self {
            starts: row.value::<i32>(first + 3)? as u32,
            module: row.digest(first + 4)?,
            emissions,
            given: match row.maybe_bytes(first + 6)? {
                Some(given) => minicbor::decode(&given).map_err(|_| strange("what was given out"))?,
                None => Given::Counted(emissions),
            },
            was: read::state(row, first + 7)?,
            waited: read::waiting(row, first + 8, first + 9, first + 10)?,
            head: row.maybe_digest(first + 11)?,
            project: row.maybe_text(first + 12)?,
            outcome: read::outcome(row, first + 13)?,
            trouble: row.maybe_text(first + 14)?,
            imported: row.value(first + 15)?,
        })
    }
}

/// What a run that was claimed has.
#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    place: Option<u64>,
    messages: Vec<SqlRow>,
}

impl PostgresStore {
    /// Reads runs that were claimed.
    pub(super) async fn open_runs(
        &self,
        session: SessionId,
        taken: Vec<Taken>,
    ) -> Result<Vec<Result<Opened, Unreadable>>> {
        if taken.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<_> = taken.iter().map(|taken| taken.number).collect();
        let journals = "SELECT run, seq, count, body, head, place FROM wf.journal WHERE run = ANY ($1) ORDER BY run, seq";
        let inboxes = format!(
            "SELECT w.run, m.* FROM unnest($1) w(run), LATERAL ({}) m",
            read::part_of_inbox("o.run = w.run", "calm, id")
        );
        // At the same time: what comes into an inbox is told, and journals are this host's.
        let of_journals = || args_of![numbers.clone()];
        let of_inboxes = || args_of![numbers.clone()];
        let (rows, messages) = futures_util::future::try_join(
            self.pool.read(journals, &of_journals),
            self.pool.read(&inboxes, &of_inboxes),
        )
        .await?;
        let mut found: std::collections::HashMap<i64, Found> = std::collections::HashMap::new();
        for row in rows {
            let of = |row: &SqlRow| Read::Ok((row.int(0)?, read::journal_row(row, 1)?, row.int(5)? as u64));
            // A row that cannot be read is one that is missing: it is noticed as that.
            if let Ok((number, entries, place)) = of(&row) {
                let found = found.entry(number).or_default();
                found.rows.push(entries);
                found.place = Some(place);
            }
        }
        for row in messages {
            if let Ok(number) = row.int(0) {
                found.entry(number).or_default().messages.push(row);
            }
        }
        let opened = taken.into_iter().map(|taken| {
            let found = found.remove(&taken.number).unwrap_or_default();
            self.shared.numbers.put(taken.run.clone(), taken.number);
            let (run, epoch) = (taken.run.clone(), taken.epoch);
            self.open_run(session, taken, found).map_err(|error| Unreadable { run, epoch, error })
        });
        Ok(opened.collect())
    }

    /// Looks whether a run is what it was left as.
    fn open_run(&self, session: SessionId, taken: Taken, found: Found) -> Result<Opened> {
        let damaged = |reason: String| StoreError::Damaged {
            place: self.place().to_owned(),
            reason: format!("the journal of {}: {reason}", taken.run),
        };
        let odd = |reason: &str| StoreError::Damaged {
            place: self.place().to_owned(),
            reason: format!("what is kept of {}: {reason}", taken.run),
        };
        let known = taken.known.as_ref().map_err(|strange| odd(&strange.0))?;
        check_epoch(taken.epoch).map_err(|reason| odd(&reason))?;
        let Found { rows, place, messages } = found;
        check_rows(&rows, known.was, known.head).map_err(damaged)?;
        let inbox = read::inbox(messages.iter(), 1).map_err(|strange| damaged(strange.0))?;
        Ok(Opened {
            run: taken.run.clone(),
            session,
            epoch: taken.epoch,
            starts: known.starts,
            module: known.module,
            emissions: known.emissions,
            given: known.given,
            rows,
            place,
            inbox,
            project: known.project.clone(),
            imported: known.imported,
            was: known.was,
            waited: known.waited.clone(),
            trouble: known.trouble.clone(),
            outcome: known.outcome.clone(),
        })
    }

    /// The runs of a claim, from their columns from the third on. One without a name that can be read can be given to
    /// nobody: it rests, so that it is not in the way of others.
    pub(super) async fn taken(&self, session: SessionId, rows: Vec<&SqlRow>) -> Result<Vec<Taken>> {
        let (mut taken, mut nameless) = (Vec::new(), Vec::new());
        for row in rows {
            match Taken::read(row, 2) {
                Ok(run) => taken.push(run),
                Err(_) => nameless.push(row.int(2).map_err(|strange| self.damaged(strange))?),
            }
        }
        if !nameless.is_empty() {
            let sql = "UPDATE wf.hot SET session = NULL, due_at = wf.now_1($3) + $4, trouble = 'its name cannot be read'
                WHERE run = ANY ($1) AND session = $2";
            let rest = rest_ms(u32::MAX) as i64;
            self.pool
                .write(sql, &|| args_of![nameless.clone(), session.0 as i64, self.set_now(), rest])
                .await?;
        }
        Ok(taken)
    }

    /// Reads a run that a claim gave.
    pub(super) async fn committed_claim(&self, session: SessionId, rows: &[SqlRow]) -> Result<Claimed> {
        let taken = self.taken(session, rows.iter().collect()).await?;
        match self.open_runs(session, taken).await?.pop() {
            Some(Ok(opened)) => Ok(Claimed::Yes(Box::new(opened))),
            Some(Err(unreadable)) => Ok(Claimed::Unreadable(Box::new(unreadable))),
            None => Ok(Claimed::NoSuchRun),
        }
    }
}
