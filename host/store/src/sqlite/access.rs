//! Tokens, acts, addresses that work once.

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use wfhost_core::{Digest, Timestamp};

use super::read::strange;
use super::write::{Result as WriteResult, millis, to_json};
use crate::{Act, KEPT_ACTS, Token, TokenKind, Used, stored};

type Result<T> = rusqlite::Result<T>;

pub(super) fn secret(c: &Connection) -> Result<[u8; 32]> {
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

pub(super) fn token(c: &Connection, id: &str) -> Result<Option<Token>> {
    c.prepare_cached(&format!("{TOKEN} WHERE id = ?1"))?.query_row([id], token_row).optional()
}

pub(super) fn tokens(c: &Connection) -> Result<Vec<Token>> {
    c.prepare_cached(&format!("{TOKEN} ORDER BY created_at, id"))?.query_map([], token_row)?.collect()
}

pub(super) fn put_token(c: &Connection, token: &Token) -> WriteResult<()> {
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

pub(super) fn delete_token(c: &Connection, id: &str) -> WriteResult<bool> {
    Ok(c.prepare_cached("DELETE FROM tokens WHERE id = ?1")?.execute([id])? > 0)
}

pub(super) fn set_token_used(c: &Connection, id: &str, at: Timestamp) -> WriteResult<()> {
    c.prepare_cached("UPDATE tokens SET used_at = ?2 WHERE id = ?1")?.execute(params![id, millis(at)])?;
    Ok(())
}

pub(super) fn record_act(c: &Connection, act: &Act) -> WriteResult<()> {
    c.prepare_cached("INSERT INTO audit (at, who, act, target, result) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![millis(act.at), act.who, act.act, act.target, act.result])?;
    c.prepare_cached("DELETE FROM audit WHERE id <= ?1")?
        .execute([c.last_insert_rowid() - KEPT_ACTS as i64])?;
    Ok(())
}

pub(super) fn acts(c: &Connection, before: Option<u64>, limit: usize) -> Result<Vec<Act>> {
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

pub(super) fn release_use(c: &Connection, token: Digest, body: Digest) -> WriteResult<()> {
    c.prepare_cached("DELETE FROM callbacks WHERE token = ?1 AND body = ?2")?
        .execute(params![token.0, body.0])?;
    Ok(())
}

pub(super) fn use_once(c: &Connection, token: Digest, body: Digest, now: Timestamp) -> WriteResult<Used> {
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
