//! What comes from outside.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_postgres::Row as SqlRow;
use wfhost_core::RunId;
use wfhost_store::*;

use super::token;
use crate::PostgresStore;
use crate::args::{Columns, args_of, strange};
use crate::jobs::Jobs;
use crate::read;

impl Mail for PostgresStore {
    fn post(&self, message: NewMessage) -> BoxFuture<'_, Result<Posted>> {
        async move {
            let mut jobs = Jobs::default();
            let body = jobs.message(&message.body);
            let blobs = jobs.blobs;
            let token = token()?;
            let (rows, _) = self
                .pool
                .write("SELECT code, latest, wake FROM wf.post_1($1, $2::jsonb, $3, $4, $5, $5)", &|| {
                    args_of![message.run.as_str(), body.clone(), blobs.clone(), token.clone(), self.set_now()]
                })
                .await?;
            self.forget_tokens(&token).await;
            let read = |row: &SqlRow| Ok((row.value::<i32>(0)?, row.maybe_text(1)?, row.maybe_text(2)?));
            let Some((code, latest, wake)) = self.one(&rows, read)? else {
                return Err(self.damaged(strange("what was posted")));
            };
            self.tell(wake).await;
            Ok(match code {
                0 => Posted::Added,
                2 => {
                    let latest = latest.and_then(|latest| latest.parse().ok());
                    Posted::Continued(latest.ok_or_else(|| self.damaged(strange("an id")))?)
                }
                3 => Posted::Duplicate,
                4 => Posted::Ended,
                5 => Posted::Stopping,
                6 => Posted::NoQuestion,
                _ => Posted::NoSuchRun,
            })
        }
        .boxed()
    }

    fn inbox<'a>(&'a self, run: &'a RunId, part: Part) -> BoxFuture<'a, Result<Inbox>> {
        async move {
            let (condition, order, after) = match part {
                Part::Next => ("$2::int8 = -1", "calm, id", -1),
                Part::Behind(after) => ("o.id > $2", "id", after.map_or(-1, |after| after.0)),
            };
            let of_run = "o.run = (SELECT r.run FROM wf.runs r WHERE r.name = $1 AND NOT r.gone)";
            let sql = read::part_of_inbox(&format!("{of_run} AND {condition}"), order);
            let rows = self.pool.read(&sql, &|| args_of![run.as_str(), after]).await?;
            read::inbox(rows.iter(), 0).map_err(|strange| self.damaged(strange))
        }
        .boxed()
    }
}
