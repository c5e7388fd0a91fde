//! What is told to others.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_postgres::Row as SqlRow;
use wfhost_core::Timestamp;
use wfhost_store::*;

use super::most;
use crate::PostgresStore;
use crate::args::{Arg, Columns, Read, args_of, lasting, strange};
use crate::jobs::number;

/// The columns of [`delivery`].
const COLUMNS: &str = "id, sink, message, event, run, body, created_at, state::int8, tries::int8, next_at, \
    ended_at, said";

fn delivery(row: &SqlRow) -> Read<Delivery> {
    Ok(Delivery {
        number: row.int(0)? as u64,
        what: NewDelivery {
            sink: row.text(1)?,
            message: row.text(2)?,
            event: row.text(3)?,
            run: row.text(4)?.parse().map_err(|_| strange("the id of a run"))?,
            body: row.text(5)?,
        },
        created_at: row.time(6)?,
        state: DeliveryState::of_number(row.int(7)?).ok_or_else(|| strange("a state"))?,
        tries: u32::try_from(row.int(8)?).map_err(|_| strange("a number of tries"))?,
        next_at: row.maybe_time(9)?,
        ended_at: row.maybe_time(10)?,
        said: row.maybe_text(11)?,
    })
}

/// An array for each column of what is to be delivered: sinks, messages, events, runs, bodies.
fn columns(deliveries: &[NewDelivery]) -> Vec<Arg> {
    let texts = |text: &dyn Fn(&NewDelivery) -> &str| {
        deliveries.iter().map(|one| text(one).to_owned()).collect::<Vec<_>>()
    };
    args_of![
        texts(&|one| &one.sink),
        texts(&|one| &one.message),
        texts(&|one| &one.event),
        texts(&|one| one.run.as_str()),
        texts(&|one| &one.body),
    ]
}

impl Outbox for PostgresStore {
    fn hold_cursor<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        hold_ms: u64,
    ) -> BoxFuture<'a, Result<Option<u64>>> {
        async move {
            let last = self.last_place().await?;
            let sql = "INSERT INTO wf.cursors AS c (name, place, at, holder, until)
                VALUES ($1, $2, wf.now_1($5), $3, wf.now_1($5) + $4)
                ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
                WHERE c.holder IS NULL OR c.holder = excluded.holder OR c.until <= wf.now_1($5)
                RETURNING place";
            let (rows, _) = self
                .pool
                .write(sql, &|| {
                    args_of![name, last as i64, holder, lasting(hold_ms.min(LONGEST_HOLD_MS)), self.set_now()]
                })
                .await?;
            Ok(self.one(&rows, |row| row.int(0))?.map(|place| place as u64))
        }
        .boxed()
    }

    fn advance_cursor(&self, advance: Advance) -> BoxFuture<'_, Result<bool>> {
        async move {
            let sql = "WITH held AS (UPDATE wf.cursors SET place = greatest(place, $3), at = wf.now_1($5),
                    until = wf.now_1($5) + $4, holder = CASE WHEN $4 > 0 THEN holder END
                    WHERE name = $1 AND (holder = $2 OR ($4 = 0 AND holder IS NULL)) RETURNING 1),
                kept AS (INSERT INTO wf.deliveries (sink, message, event, run, body, state, tries, created_at, next_at)
                    SELECT sink, message, event, run, body, 0, 0, wf.now_1($5), wf.now_1($5)
                    FROM unnest($6::text[], $7::text[], $8::text[], $9::text[], $10::text[])
                        AS d(sink, message, event, run, body)
                    WHERE EXISTS (SELECT 1 FROM held) ON CONFLICT (sink, message) DO NOTHING)
                SELECT count(*) FROM held";
            let (rows, _) = self
                .pool
                .write(sql, &|| {
                    let mut args = args_of![
                        advance.name.as_str(),
                        advance.holder.as_str(),
                        stored(advance.place),
                        lasting(advance.hold_ms.min(LONGEST_HOLD_MS)),
                        self.set_now(),
                    ];
                    args.extend(columns(&advance.deliveries));
                    args
                })
                .await?;
            Ok(self.number(&rows)? > 0)
        }
        .boxed()
    }

    fn cursors(&self) -> BoxFuture<'_, Result<Vec<Cursor>>> {
        async move {
            let sql = "SELECT name, place, at, coalesce(holder IS NOT NULL AND until > wf.now_1($1), false),
                       holder
                FROM wf.cursors ORDER BY name";
            let rows = self.pool.read(sql, &|| args_of![self.set_now()]).await?;
            self.all(&rows, |row| {
                Ok(Cursor {
                    name: row.text(0)?,
                    place: row.int(1)? as u64,
                    at: row.time(2)?,
                    is_held: row.value(3)?,
                    holder: row.maybe_text(4)?,
                })
            })
        }
        .boxed()
    }

    fn drop_cursor<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move {
            let sql = "WITH c AS (DELETE FROM wf.cursors WHERE name = $1 RETURNING 1),
                d AS (DELETE FROM wf.deliveries WHERE sink = $1 RETURNING 1)
                SELECT (SELECT count(*) FROM c) + (SELECT count(*) FROM d)";
            let (rows, _) = self.pool.write(sql, &|| args_of![name]).await?;
            Ok(self.number(&rows)? > 0)
        }
        .boxed()
    }

    fn put_deliveries(&self, deliveries: Vec<NewDelivery>) -> BoxFuture<'_, Result<u64>> {
        async move {
            let sql = "WITH kept AS (
                INSERT INTO wf.deliveries (sink, message, event, run, body, state, tries, created_at, next_at)
                SELECT sink, message, event, run, body, 0, 0, wf.now_1($6), wf.now_1($6)
                FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
                    AS d(sink, message, event, run, body)
                ON CONFLICT (sink, message) DO NOTHING RETURNING 1)
                SELECT count(*) FROM kept";
            let (rows, _) = self
                .pool
                .write(sql, &|| {
                    let mut args = columns(&deliveries);
                    args.extend(args_of![self.set_now()]);
                    args
                })
                .await?;
            Ok(self.number(&rows)? as u64)
        }
        .boxed()
    }

    fn claim_deliveries<'a>(
        &'a self,
        sink: &'a str,
        hold_ms: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Delivery>>> {
        async move {
            let due = "SELECT 1 FROM wf.deliveries WHERE state = 0 AND sink = $1 AND next_at <= wf.now_1($2) LIMIT 1";
            if self.pool.read(due, &|| args_of![sink, self.set_now()]).await?.is_empty() {
                return Ok(Vec::new());
            }
            let sql = format!(
                "UPDATE wf.deliveries SET tries = tries + 1, next_at = wf.now_1($4) + $2 WHERE id IN (
                    SELECT id FROM wf.deliveries WHERE state = 0 AND sink = $1 AND next_at <= wf.now_1($4)
                    ORDER BY next_at, id LIMIT $3 FOR UPDATE SKIP LOCKED)
                 RETURNING {COLUMNS}"
            );
            let (rows, _) = self
                .pool
                .write(&sql, &|| args_of![sink, lasting(hold_ms.min(LONGEST_REST_MS)), most(limit), self.set_now()])
                .await?;
            let mut claimed = Self::readable(&rows, delivery);
            claimed.sort_by_key(|delivery| delivery.number);
            Ok(claimed)
        }
        .boxed()
    }

    fn settle_delivery(&self, number: u64, tries: u32, settled: Settled) -> BoxFuture<'_, Result<bool>> {
        async move {
            let number = stored(number);
            // Types are those of the parameters, also of those that a statement needs not.
            let (sql, in_ms, said) = match &settled {
                // Whoever else tries it by now need not have: it is there.
                Settled::Delivered => (
                    "UPDATE wf.deliveries SET state = 1, next_at = NULL, ended_at = wf.now_1($5), said = NULL
                     WHERE id = $1 AND state <> 1 AND $2 >= 0 AND $3 >= 0 AND $4 IS NULL RETURNING 1",
                    0,
                    None,
                ),
                Settled::Again { in_ms, said } => (
                    "UPDATE wf.deliveries SET next_at = wf.now_1($5) + $3, said = $4
                     WHERE id = $1 AND tries = $2 AND state = 0 RETURNING 1",
                    (*in_ms).min(LONGEST_REST_MS),
                    Some(said.as_str()),
                ),
                Settled::GivenUp { said } => (
                    "UPDATE wf.deliveries SET state = 2, next_at = NULL, ended_at = wf.now_1($5), said = $4
                     WHERE id = $1 AND tries = $2 AND state = 0 AND $3 >= 0 RETURNING 1",
                    0,
                    Some(said.as_str()),
                ),
            };
            let (rows, _) = self
                .pool
                .write(sql, &|| args_of![number, i64::from(tries), lasting(in_ms), said, self.set_now()])
                .await?;
            Ok(!rows.is_empty())
        }
        .boxed()
    }

    fn deliveries(&self, filter: DeliveryFilter, limit: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        async move {
            let sql = format!(
                "SELECT {COLUMNS} FROM wf.deliveries WHERE ($1 IS NULL OR sink = $1)
                 AND ($2 IS NULL OR state = $2) AND ($3 IS NULL OR run = $3) AND id < $4
                 AND ($5 IS NULL OR message = $5) ORDER BY id DESC LIMIT $6"
            );
            let before = filter.before.map_or(i64::MAX, stored);
            let rows = self
                .pool
                .read(&sql, &|| {
                    args_of![
                        filter.sink.as_deref(),
                        filter.state.map(DeliveryState::number),
                        filter.run.as_ref().map(|run| run.as_str()),
                        before,
                        filter.message.as_deref(),
                        most(limit),
                    ]
                })
                .await?;
            Ok(Self::readable(&rows, delivery))
        }
        .boxed()
    }

    fn redeliver(&self, numbers: Vec<u64>) -> BoxFuture<'_, Result<u64>> {
        async move {
            let numbers: Vec<i64> = numbers.iter().map(|number| stored(*number)).collect();
            let sql = "WITH again AS (UPDATE wf.deliveries SET state = 0, tries = 0, next_at = wf.now_1($2),
                    ended_at = NULL, said = NULL, created_at = wf.now_1($2) WHERE id = ANY ($1) RETURNING 1)
                SELECT count(*) FROM again";
            let (rows, _) = self.pool.write(sql, &|| args_of![numbers.clone(), self.set_now()]).await?;
            Ok(self.number(&rows)? as u64)
        }
        .boxed()
    }

    fn sink_loads(&self) -> BoxFuture<'_, Result<Vec<SinkLoad>>> {
        async move {
            let sql = "SELECT sink, count(*) FILTER (WHERE state = 0), count(*) FILTER (WHERE state = 1),
                    count(*) FILTER (WHERE state = 2), wf.now_1($1) - min(created_at) FILTER (WHERE state = 0)
                FROM wf.deliveries GROUP BY sink ORDER BY sink";
            let rows = self.pool.read(sql, &|| args_of![self.set_now()]).await?;
            self.all(&rows, |row| {
                Ok(SinkLoad {
                    sink: row.text(0)?,
                    pending: row.int(1)? as u64,
                    delivered: row.int(2)? as u64,
                    given_up: row.int(3)? as u64,
                    oldest_ms: row.maybe_int(4)?.map(|ms| ms.max(0) as u64),
                })
            })
        }
        .boxed()
    }

    fn delete_old_deliveries(&self, before: Timestamp) -> BoxFuture<'_, Result<u64>> {
        async move {
            let sql =
                "WITH gone AS (DELETE FROM wf.deliveries d WHERE ended_at < $1 AND NOT (event = $2 AND EXISTS
                    (SELECT 1 FROM wf.runs r JOIN wf.hot h USING (run) WHERE r.name = d.run AND h.state = $3))
                    RETURNING 1)
                SELECT count(*) FROM gone";
            let refused = || args_of![before, REFUSED_EVENT, number(RunState::Refused)];
            let (rows, _) = self.pool.write(sql, &refused).await?;
            Ok(self.number(&rows)? as u64)
        }
        .boxed()
    }
}
