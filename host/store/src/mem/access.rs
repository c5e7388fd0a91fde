//! Who may ask, and what they did.

use super::*;

impl Access for MemStore {
    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32]>> {
        self.change(|data| {
            if let Some(secret) = data.secret {
                return Ok(secret);
            }
            let failed = |reason: String| StoreError::Failed { place: "memory".to_owned(), reason };
            let secret = wfhost_world::fresh_seed().map_err(|error| failed(error.to_string()))?;
            data.secret = Some(secret);
            Ok(secret)
        })
    }

    fn put_token(&self, token: Token) -> BoxFuture<'_, Result<()>> {
        self.change(|data| {
            data.tokens.insert(token.id.clone(), token);
            Ok(())
        })
    }

    fn token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Token>>> {
        self.look(|data| data.tokens.get(id).cloned())
    }

    fn tokens(&self) -> BoxFuture<'_, Result<Vec<Token>>> {
        self.look(|data| {
            let mut tokens: Vec<_> = data.tokens.values().cloned().collect();
            tokens.sort_by_key(|token| token.created_at);
            tokens
        })
    }

    fn delete_token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool>> {
        self.change(|data| Ok(data.tokens.remove(id).is_some()))
    }

    fn set_token_used<'a>(&'a self, id: &'a str, at: Timestamp) -> BoxFuture<'a, Result<()>> {
        self.change(|data| {
            if let Some(token) = data.tokens.get_mut(id) {
                token.used_at = Some(at);
            }
            Ok(())
        })
    }

    fn record_act(&self, act: Act) -> BoxFuture<'_, Result<()>> {
        self.change(|data| {
            let number = data.acts.last().map_or(1, |act| act.number + 1);
            data.acts.push(Act { number, ..act });
            // Not each time: the others move up.
            if number % 128 == 0 {
                let beyond = data.acts.len().saturating_sub(KEPT_ACTS as usize);
                data.acts.drain(..beyond);
            }
            Ok(())
        })
    }

    fn acts(&self, before: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<Act>>> {
        self.look(|data| {
            let latest = data.acts.iter().rev();
            latest
                .filter(|act| before.is_none_or(|before| act.number < before))
                .take(limit)
                .cloned()
                .collect()
        })
    }

    fn use_once(&self, token: Digest, body: Digest) -> BoxFuture<'_, Result<Used>> {
        self.change(|data| {
            Ok(match data.used.get(&token) {
                Some(known) if *known == body => Used::Again,
                Some(_) => Used::Otherwise,
                None => {
                    data.used.insert(token, body);
                    Used::First
                }
            })
        })
    }

    fn release_use(&self, token: Digest, body: Digest) -> BoxFuture<'_, Result<()>> {
        self.change(|data| {
            if data.used.get(&token) == Some(&body) {
                data.used.remove(&token);
            }
            Ok(())
        })
    }
}
