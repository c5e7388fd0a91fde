//! Who may ask, and what they did.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_postgres::Row as SqlRow;
use wfhost_core::{Digest, Timestamp};
use wfhost_store::{Access, Act, KEPT_ACTS, Result, Token, TokenKind, Used, stored};

use crate::PostgresStore;
use crate::args::{Columns, Read, args_of, millis, strange};
use crate::store::{most, token};

/// The columns of [`token_row`].
const TOKEN: &str = "SELECT id, name, kind, hash, scopes, created_at, expires_at, used_at FROM wf.tokens";

fn token_row(row: &SqlRow) -> Read<Token> {
    Ok(Token {
        id: row.text(0)?,
        name: row.text(1)?,
        kind: TokenKind::parse(&row.text(2)?).ok_or_else(|| strange("a kind"))?,
        hash: row.digest(3)?,
        scopes: serde_json::from_str(&row.text(4)?).map_err(|_| strange("a list"))?,
        created_at: row.time(5)?,
        expires_at: row.maybe_time(6)?,
        used_at: row.maybe_time(7)?,
    })
}

fn act(row: &SqlRow) -> Read<Act> {
    Ok(Act {
        number: row.int(0)? as u64,
        at: row.time(1)?,
        who: row.text(2)?,
        act: row.text(3)?,
        target: row.text(4)?,
        result: row.text(5)?,
    })
}

impl Access for PostgresStore {
    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32]>> {
        async move {
            let rows = self.pool.read("SELECT secret FROM wf.meta", &|| Vec::new()).await?;
            let secret = self.one(&rows, |row| row.digest(0))?;
            secret.map(|secret| secret.0).ok_or_else(|| self.damaged(strange("the secret")))
        }
        .boxed()
    }

    fn put_token(&self, token: Token) -> BoxFuture<'_, Result<()>> {
        async move {
            let sql = "INSERT INTO wf.tokens (id, name, kind, hash, scopes, created_at, expires_at, used_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO UPDATE SET name = excluded.name,
                    kind = excluded.kind, hash = excluded.hash, scopes = excluded.scopes,
                    created_at = excluded.created_at, expires_at = excluded.expires_at, used_at = excluded.used_at";
            self.pool
                .write(sql, &|| {
                    args_of![
                        token.id.as_str(),
                        token.name.as_str(),
                        token.kind.as_str(),
                        token.hash,
                        serde_json::json!(token.scopes),
                        token.created_at,
                        token.expires_at.map(millis),
                        token.used_at.map(millis),
                    ]
                })
                .await?;
            Ok(())
        }
        .boxed()
    }

    fn token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Token>>> {
        async move {
            let rows = self.pool.read(&format!("{TOKEN} WHERE id = $1"), &|| args_of![id]).await?;
            self.one(&rows, token_row)
        }
        .boxed()
    }

    fn tokens(&self) -> BoxFuture<'_, Result<Vec<Token>>> {
        async move {
            let rows = self.pool.read(&format!("{TOKEN} ORDER BY created_at, id"), &|| Vec::new()).await?;
            self.all(&rows, token_row)
        }
        .boxed()
    }

    fn delete_token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move {
            let asked = token()?;
            let (rows, _) = self
                .pool
                .write("SELECT wf.delete_token_1($1, $2, $3)", &|| {
                    args_of![id, asked.clone(), self.set_now()]
                })
                .await?;
            self.forget_tokens(&asked).await;
            Ok(self.flag(&rows)? == Some(true))
        }
        .boxed()
    }

    fn set_token_used<'a>(&'a self, id: &'a str, at: Timestamp) -> BoxFuture<'a, Result<()>> {
        async move {
            self.pool.write("UPDATE wf.tokens SET used_at = $2 WHERE id = $1", &|| args_of![id, at]).await?;
            Ok(())
        }
        .boxed()
    }

    fn record_act(&self, act: Act) -> BoxFuture<'_, Result<()>> {
        async move {
            let asked = token()?;
            self.pool
                .write("SELECT wf.record_act_1($1, $2, $3, $4, $5, $6, $7, $8)", &|| {
                    args_of![
                        act.at,
                        act.who.as_str(),
                        act.act.as_str(),
                        act.target.as_str(),
                        act.result.as_str(),
                        KEPT_ACTS as i64,
                        asked.clone(),
                        self.set_now(),
                    ]
                })
                .await?;
            self.forget_tokens(&asked).await;
            Ok(())
        }
        .boxed()
    }

    fn acts(&self, before: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<Act>>> {
        async move {
            let sql = "SELECT id, at, who, act, target, result FROM wf.audit WHERE id < $1 ORDER BY id DESC LIMIT $2";
            let before = before.map_or(i64::MAX, stored);
            let rows = self.pool.read(sql, &|| args_of![before, most(limit)]).await?;
            self.all(&rows, act)
        }
        .boxed()
    }

    fn release_use(&self, token: Digest, body: Digest) -> BoxFuture<'_, Result<()>> {
        async move {
            let sql = "DELETE FROM wf.callbacks WHERE token = $1 AND body = $2";
            self.pool.write(sql, &|| args_of![token, body]).await?;
            Ok(())
        }
        .boxed()
    }

    fn use_once(&self, token_used: Digest, body: Digest) -> BoxFuture<'_, Result<Used>> {
        async move {
            let asked = token()?;
            let (rows, _) = self
                .pool
                .write("SELECT wf.use_once_1($1, $2, $3, $4)::int8", &|| {
                    args_of![token_used, body, asked.clone(), self.set_now()]
                })
                .await?;
            self.forget_tokens(&asked).await;
            Ok(match self.number(&rows)? {
                0 => Used::First,
                1 => Used::Again,
                _ => Used::Otherwise,
            })
        }
        .boxed()
    }
}
