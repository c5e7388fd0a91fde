//! Who may ask over the network, and what they did.

use super::*;

/// What a token is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenKind {
    /// A program or a person has it.
    Bearer,
    /// A browser has it in a cookie.
    Session,
    /// It is exchanged for a session, once.
    Login,
}

impl TokenKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Session => "session",
            Self::Login => "login",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Bearer, Self::Session, Self::Login].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What is kept of a token. The token itself is not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// Names it; no secret.
    pub id: String,
    /// For people.
    pub name: String,
    pub kind: TokenKind,
    /// Of the token.
    pub hash: Digest,
    /// What its holder may do.
    pub scopes: Vec<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// When it was used last, to the minute.
    pub used_at: Option<Timestamp>,
}

/// Something that somebody did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Act {
    /// Greater for later ones; given by the store.
    pub number: u64,
    pub at: Timestamp,
    /// The name and the id of a token, or a user of the machine.
    pub who: String,
    /// What was done, like `runs.cancel`.
    pub act: String,
    /// To what.
    pub target: String,
    /// What became of it.
    pub result: String,
}

/// What a use of something that can be used once was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Used {
    First,
    /// The same came before.
    Again,
    /// Something else came before.
    Otherwise,
}

/// Acts that are kept; older ones go.
pub const KEPT_ACTS: u64 = 100_000;

/// Who may ask, and what they did.
pub trait Access: Send + Sync {
    /// A secret of this database: 32 random bytes, the same for all who use it. It is not part of
    /// anything that is exported.
    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32]>>;

    /// Keeps a token. One with the same id is replaced.
    fn put_token(&self, token: Token) -> BoxFuture<'_, Result<()>>;

    /// The token of that id.
    fn token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Token>>>;

    /// All tokens, oldest first.
    fn tokens(&self) -> BoxFuture<'_, Result<Vec<Token>>>;

    /// Removes a token. False if it does not exist: of several concurrent removals, one succeeds.
    fn delete_token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool>>;

    /// Records when a token was used last.
    fn set_token_used<'a>(&'a self, id: &'a str, at: Timestamp) -> BoxFuture<'a, Result<()>>;

    /// Records what somebody did; the number is given by the store. The last [`KEPT_ACTS`] are kept.
    fn record_act(&self, act: Act) -> BoxFuture<'_, Result<()>>;

    /// What was done, the latest first; before that number.
    fn acts(&self, before: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<Act>>>;

    /// Records that something that works once is used, and with what: of several who try at the
    /// same time, one is the first.
    fn use_once(&self, token: Digest, body: Digest) -> BoxFuture<'_, Result<Used>>;

    /// Takes back that it was used with this; if it was used with something else, nothing changes.
    fn release_use(&self, token: Digest, body: Digest) -> BoxFuture<'_, Result<()>>;
}
