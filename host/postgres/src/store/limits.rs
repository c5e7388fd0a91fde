//! Limits that all hosts share.

use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use wfhost_core::Timestamp;
use wfhost_core::policy::share::Need;
use wfhost_store::*;

use crate::PostgresStore;
use crate::args::{Columns, Read, args_of, lasting, strange};
use crate::notify::Told;
use crate::read;

fn limits(text: &str) -> Read<Vec<(String, u32)>> {
    serde_json::from_str(text).map_err(|_| strange("limits"))
}

fn names(text: &str) -> Read<Vec<String>> {
    serde_json::from_str(text).map_err(|_| strange("a list of calls"))
}

fn count(number: i64) -> Read<u32> {
    u32::try_from(number).map_err(|_| strange("a number of slots"))
}

/// What is stored of an ask: its limits tell it apart.
fn limits_of(ask: &SlotAsk) -> String {
    json!(ask.limits).to_string()
}

/// What is told of turns, as `wf.take_turns_4` reads it.
pub(super) fn told(words: &[TurnWord]) -> Value {
    Value::from_iter(words.iter().map(word))
}

fn word(word: &TurnWord) -> Value {
    match word {
        TurnWord::Pass { name, rate, run, step } => json!({
            "kind": "pass", "name": name, "length": rate.interval_us(), "burst": rate.burst.max(1),
            "run": run.as_str(), "step": stored(step.0),
        }),
        TurnWord::Release { name, run, step, epoch } => json!({
            "kind": "release", "name": name, "run": run.as_str(), "step": stored(step.0),
            "epoch": stored(epoch.0),
        }),
        TurnWord::ReleaseRun { run } => json!({ "kind": "release-run", "run": run.as_str() }),
        TurnWord::Block { name, rate, millis } => json!({
            "kind": "block", "name": name, "length": rate.interval_us(), "burst": rate.burst.max(1),
            "millis": millis,
        }),
    }
}

impl Limits for PostgresStore {
    fn share_slots(&self, session: SessionId, asks: Vec<SlotAsk>) -> BoxFuture<'_, Result<Vec<u32>>> {
        async move {
            let told = Value::from_iter(asks.iter().map(|ask| {
                json!({
                    "limits": limits_of(ask), "used": ask.used, "wants": ask.wants.max(ask.used),
                    "waited": lasting(ask.waited_ms), "calls": json!(ask.calls).to_string(),
                    "waiting": json!(ask.waiting).to_string(),
                })
            }));
            let sql = "SELECT o_session, o_limits, o_has FROM wf.share_slots_4($1, $2, $3::jsonb, $4)";
            // Each try has a number of its own: one that is read late is refused.
            let turn = || self.slot_turns.fetch_add(1, Ordering::Relaxed) as i64;
            let args = || args_of![session.0 as i64, turn(), told.clone(), self.set_now()];
            let (rows, _) = self.pool.write_soon(sql, &args).await?;
            let shares = self.all(&rows, |row| Ok((row.int(0)?, row.maybe_text(1)?, row.maybe_int(2)?)))?;
            if shares.is_empty() {
                return Err(StoreError::SessionOver);
            }
            let mut has = vec![0; asks.len()];
            for (of, limits, slots) in shares {
                match (limits, slots) {
                    (Some(limits), Some(slots)) => {
                        let place = asks.iter().position(|ask| limits_of(ask) == limits);
                        if let Some(has) = place.and_then(|place| has.get_mut(place)) {
                            *has = u32::try_from(slots).unwrap_or(u32::MAX);
                        }
                    }
                    _ => self.shared.notices.tell(Told::limits(of as u64), true),
                }
            }
            Ok(has)
        }
        .boxed()
    }

    fn slots(&self) -> BoxFuture<'_, Result<Vec<SlotShare>>> {
        async move {
            let sql = format!(
                "SELECT {}, l.limits, l.used, l.wants, l.has, l.since, l.calls, l.waiting
                 FROM wf.slots l JOIN wf.sessions s ON s.id = l.session WHERE l.limits <> ''
                 ORDER BY l.session, l.limits",
                read::SESSION
            );
            let rows = self.pool.read(&sql, &|| args_of![self.ticks()]).await?;
            self.all(&rows, |row| {
                let session = read::session(row, 0)?.ok_or_else(|| strange("a session"))?;
                let first = read::SESSION_COLUMNS;
                let need = Need {
                    limits: limits(&row.text(first)?)?,
                    wants: count(row.int(first + 2)?)?,
                    has: count(row.int(first + 3)?)?,
                    since: row.time(first + 4)?,
                };
                Ok(SlotShare {
                    session: session.id,
                    owner: session.owner,
                    need,
                    used: count(row.int(first + 1)?)?,
                    calls: names(&row.text(first + 5)?)?,
                    waiting: names(&row.text(first + 6)?)?,
                })
            })
        }
        .boxed()
    }

    fn take_turns(&self, words: Vec<TurnWord>) -> BoxFuture<'_, Result<Vec<Option<Timestamp>>>> {
        async move {
            let words = told(&words);
            let sql = "SELECT o_at FROM wf.take_turns_4($1::jsonb, $2)";
            let (rows, _) = self.pool.write_soon(sql, &|| args_of![words.clone(), self.set_now()]).await?;
            self.all(&rows, |row| row.maybe_time(0))
        }
        .boxed()
    }

    fn turns(&self) -> BoxFuture<'_, Result<Vec<TurnsInfo>>> {
        async move {
            let sql =
                "SELECT r.name, count(t.at), (greatest(min(t.at) + r.behind, 0) + 999) / 1000 FROM wf.rates r
                LEFT JOIN wf.turns t ON t.name = r.name AND t.run <> '' GROUP BY r.name ORDER BY r.name";
            let rows = self.pool.read(sql, &Vec::new).await?;
            self.all(&rows, |row| {
                Ok(TurnsInfo { name: row.text(0)?, waiting: row.int(1)? as u64, next: row.maybe_time(2)? })
            })
        }
        .boxed()
    }
}
