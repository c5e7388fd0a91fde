//! Tokens, acts, addresses that work once.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use wfhost_core::{Digest, Timestamp};

use super::SqliteStore;
use super::read::strange;
use super::write::{Result as WriteResult, millis, to_json};
use crate::{Access, Act, KEPT_ACTS, Result as StoreResult, Token, TokenKind, Used, stored};

type Result<T> = rusqlite::Result<T>;

impl Access for SqliteStore {
    fn secret(&self) -> BoxFuture<'_, StoreResult<[u8; 32]>> {
        async move { self.read_briefly(secret) }.boxed()
    }

    fn put_token(&self, token: Token) -> BoxFuture<'_, StoreResult<()>> {
        self.write(move |c| put_token(c, &token)).boxed()
    }

    fn token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, StoreResult<Option<Token>>> {
        async move { self.read(|c| token(c, id)) }.boxed()
    }

    fn tokens(&self) -> BoxFuture<'_, StoreResult<Vec<Token>>> {
        async move { self.read(tokens) }.boxed()
    }

    fn delete_token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, StoreResult<bool>> {
        let id = id.to_owned();
        self.write(move |c| delete_token(c, &id)).boxed()
    }

    fn set_token_used<'a>(&'a self, id: &'a str, at: Timestamp) -> BoxFuture<'a, StoreResult<()>> {
        let id = id.to_owned();
        self.write(move |c| set_token_used(c, &id, at)).boxed()
    }

    fn record_act(&self, act: Act) -> BoxFuture<'_, StoreResult<()>> {
        self.write(move |c| record_act(c, &act)).boxed()
    }

    fn acts(&self, before: Option<u64>, limit: usize) -> BoxFuture<'_, StoreResult<Vec<Act>>> {
        async move { self.read(|c| acts(c, before, limit)) }.boxed()
    }

    fn use_once(&self, token: Digest, body: Digest) -> BoxFuture<'_, StoreResult<Used>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| use_once(c, token, body, clock.now())).boxed()
    }

    fn release_use(&self, token: Digest, body: Digest) -> BoxFuture<'_, StoreResult<()>> {
        self.write(move |c| release_use(c, token, body)).boxed()
    }
}

fn secret(c: &Connection) -> Result<[u8; 32]> {
    c.query_row("SELECT secret FROM identity", [], |row| row.get(0))
}

/// The columns of [`token_row`].
const TOKEN: &str = "SELECT id, name, kind, hash, scopes, created_at, expires_at, used_at FROM tokens";

fn token_row(row: &SqlRow<'_>) -> Result<Token> {
    let time = |at: i64| Timestamp(at as u64);
    Ok(Token {
        id: row.get(0)?,
        name: row.get(1)?,
        kind: TokenKind::parse(row.get_ref(2)?.as_str()?).ok_or_else(|| strange(2, "a kind"))?,
        hash: Digest(row.get(3)?),
        scopes: serde_json::from_str(row.get_ref(4)?.as_str()?).map_err(|_| strange(4, "a list"))?,
        created_at: time(row.get(5)?),
        expires_at: row.get::<_, Option<i64>>(6)?.map(time),
        used_at: row.get::<_, Option<i64>>(7)?.map(time),
    })
}

fn token(c: &Connection, id: &str) -> Result<Option<Token>> {
    c.prepare_cached(&format!("{TOKEN} WHERE id = ?1"))?.query_row([id], token_row).optional()
}

fn tokens(c: &Connection) -> Result<Vec<Token>> {
    c.prepare_cached(&format!("{TOKEN} ORDER BY created_at, id"))?.query_map([], token_row)?.collect()
}

fn put_token(c: &Connection, token: &Token) -> WriteResult<()> {
    c.prepare_cached(
        "INSERT OR REPLACE INTO tokens (id, name, kind, hash, scopes, created_at, expires_at, used_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        token.id,
        token.name,
        token.kind.as_str(),
        token.hash.0,
        to_json(&token.scopes),
        millis(token.created_at),
        token.expires_at.map(millis),
        token.used_at.map(millis)
    ])?;
    Ok(())
}

fn delete_token(c: &Connection, id: &str) -> WriteResult<bool> {
    Ok(c.prepare_cached("DELETE FROM tokens WHERE id = ?1")?.execute([id])? > 0)
}

fn set_token_used(c: &Connection, id: &str, at: Timestamp) -> WriteResult<()> {
    c.prepare_cached("UPDATE tokens SET used_at = ?2 WHERE id = ?1")?.execute(params![id, millis(at)])?;
    Ok(())
}

fn record_act(c: &Connection, act: &Act) -> WriteResult<()> {
    c.prepare_cached("INSERT INTO audit (at, who, act, target, result) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![millis(act.at), act.who, act.act, act.target, act.result])?;
    c.prepare_cached("DELETE FROM audit WHERE id <= ?1")?
        .execute([c.last_insert_rowid() - KEPT_ACTS as i64])?;
    Ok(())
}

fn acts(c: &Connection, before: Option<u64>, limit: usize) -> Result<Vec<Act>> {
    c.prepare_cached(
        "SELECT id, at, who, act, target, result FROM audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
    )?
    .query_map(params![before.map_or(i64::MAX, stored), limit as i64], |row| {
        Ok(Act {
            number: row.get::<_, i64>(0)? as u64,
            at: Timestamp(row.get::<_, i64>(1)? as u64),
            who: row.get(2)?,
            act: row.get(3)?,
            target: row.get(4)?,
            result: row.get(5)?,
        })
    })?
    .collect()
}

fn release_use(c: &Connection, token: Digest, body: Digest) -> WriteResult<()> {
    c.prepare_cached("DELETE FROM callbacks WHERE token = ?1 AND body = ?2")?
        .execute(params![token.0, body.0])?;
    Ok(())
}

fn use_once(c: &Connection, token: Digest, body: Digest, now: Timestamp) -> WriteResult<Used> {
    let known: Option<[u8; 32]> = c
        .prepare_cached("SELECT body FROM callbacks WHERE token = ?1")?
        .query_row([token.0], |row| row.get(0))
        .optional()?;
    match known {
        Some(known) if known == body.0 => Ok(Used::Again),
        Some(_) => Ok(Used::Otherwise),
        None => {
            c.prepare_cached("INSERT INTO callbacks (token, body, at) VALUES (?1, ?2, ?3)")?
                .execute(params![token.0, body.0, millis(now)])?;
            Ok(Used::First)
        }
    }
}
