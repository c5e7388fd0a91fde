//! Who asks, and what they may do.
//!
//! A token is `wf_ID_SECRET`. The database has its BLAKE3 digest, never the token. Programs send it in
//! the header `Authorization`, browsers have one of their own in a cookie; none is taken from an address.

use std::fmt;
use std::str::FromStr;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;
use wfhost::HostError;
use wfhost::store::{Token, TokenKind};
use wfhost::world::{fresh_id, fresh_seed};
use wfhost_core::{Digest, Timestamp};

use crate::app::App;
use crate::problem::Problem;

macro_rules! scopes {
    ($($(#[doc = $doc:literal])+ $id:ident = $word:literal;)*) => {
        /// Something that a token may allow.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Scope { $($(#[doc = $doc])+ $id),* }

        impl Scope {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$id),*];

            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$id => $word),* }
            }

            /// What it allows, for people.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$id => concat!($($doc),+).trim_ascii()),* }
            }
        }
    };
}

scopes! {
    /// See runs, their states and journals, without what they work on.
    RunsRead = "runs:read";
    /// See what runs work on: inputs, outputs, prompts, answers, logs, transcripts, published values.
    PayloadsRead = "payloads:read";
    /// Start runs.
    RunsStart = "runs:start";
    /// Send signals and calls to runs.
    RunsSignal = "runs:signal";
    /// Answer the questions of runs.
    PeopleAnswer = "people:answer";
    /// Pause, resume, cancel, retry, fork, move and delete runs.
    RunsControl = "runs:control";
    /// Add modules.
    ModulesWrite = "modules:write";
    /// Add, change and remove schedules.
    SchedulesWrite = "schedules:write";
    /// Read figures about the server.
    MetricsRead = "metrics:read";
    /// Everything, tokens included.
    Admin = "admin";
}

impl Scope {
    /// Whether it changes nothing.
    pub fn is_reading(self) -> bool {
        matches!(self, Self::RunsRead | Self::PayloadsRead | Self::MetricsRead)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no scope.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown scope `{0}`; known scopes: {known}", known = Scope::ALL.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", "))]
pub struct NoScope(String);

impl FromStr for Scope {
    type Err = NoScope;

    fn from_str(text: &str) -> Result<Self, NoScope> {
        Self::ALL.iter().copied().find(|scope| scope.as_str() == text).ok_or_else(|| NoScope(text.to_owned()))
    }
}

/// Some scopes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scopes(u16);

impl Scopes {
    pub fn all() -> Self {
        Scope::ALL.iter().copied().collect()
    }

    /// Whether that is allowed.
    pub fn allow(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u16) != 0 || self.0 & (1 << Scope::Admin as u16) != 0
    }

    /// Whether that is among them, and not only allowed by another one.
    pub fn names(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u16) != 0
    }

    /// Whether all of `other` is allowed.
    pub fn cover(self, other: Self) -> bool {
        Scope::ALL.iter().all(|scope| other.0 & (1 << *scope as u16) == 0 || self.allow(*scope))
    }

    /// The words for them. Those that a later version wrote are not among them.
    pub fn words(self) -> Vec<String> {
        let has = |scope: &&Scope| self.0 & (1 << **scope as u16) != 0;
        Scope::ALL.iter().filter(has).map(ToString::to_string).collect()
    }

    fn of(token: &Token) -> Self {
        token.scopes.iter().filter_map(|word| word.parse::<Scope>().ok()).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | 1 << scope as u16))
    }
}

/// A new token, which is shown once.
#[derive(Clone)]
pub struct Minted {
    /// The token itself.
    pub text: String,
    /// What is kept of it.
    pub token: Token,
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Minted({})", self.token.id)
    }
}

/// Characters of the random part of an id.
const ID: usize = 10;
/// Characters of a secret: 32 bytes as Base64.
const SECRET: usize = 43;
/// What stands in the id of a session between its own part and the id of the token that it was made with.
const MADE_WITH: char = '-';

/// Makes a token. It counts once it is put into the store.
pub fn mint(
    name: &str,
    kind: TokenKind,
    scopes: Scopes,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> Result<Minted, HostError> {
    minted(fresh_token_id()?, name, kind, scopes, now, expires_at)
}

/// Makes the token of a browser that logged in with `with`. If that is a token of the database, the session counts
/// only as long as it does: its id is a part of that of the session.
pub(crate) fn mint_session(app: &App, with: &Token, until: Timestamp) -> Result<Minted, HostError> {
    let own = fresh_token_id()?;
    // A code is gone by now, and no other server knows the token of this one.
    let is_kept = with.kind == TokenKind::Bearer && app.own().is_none_or(|own| own.id != with.id);
    let id = if is_kept { format!("{own}{MADE_WITH}{}", with.id) } else { own };
    let (name, now) = (format!("browser of {}", with.name), app.store().now());
    minted(id, &name, TokenKind::Session, Scopes::of(with), now, Some(until))
}

/// The id of the token that a session was made with, if that has to be there still.
pub(crate) fn made_with(session: &Token) -> Option<&str> {
    let id = session.id.split_once(MADE_WITH).map(|(_, id)| id);
    id.filter(|_| session.kind == TokenKind::Session)
}

/// Whether a text begins with a token, whoever made it.
pub(crate) fn begins_with_token(text: &str) -> bool {
    let Some((id, secret)) = text.strip_prefix("wf_").and_then(|rest| rest.split_once('_')) else {
        return false;
    };
    let is_id = |id: &str| id.len() == ID && id.bytes().all(|c| c.is_ascii_alphanumeric());
    let is_base64 = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    id.split(MADE_WITH).all(is_id) && secret.bytes().take_while(|c| is_base64(*c)).count() >= SECRET
}

/// The random part of an id for a run, from its end.
fn fresh_token_id() -> Result<String, HostError> {
    Ok(fresh_id()?.as_str().trim_start_matches("run_").chars().rev().take(ID).collect())
}

fn minted(
    id: String,
    name: &str,
    kind: TokenKind,
    scopes: Scopes,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> Result<Minted, HostError> {
    let secret = URL_SAFE_NO_PAD.encode(fresh_seed()?);
    let text = format!("wf_{id}_{secret}");
    let token = Token {
        hash: Digest::of(text.as_bytes()),
        id,
        name: name.to_owned(),
        kind,
        scopes: scopes.words(),
        created_at: now,
        expires_at,
        used_at: None,
    };
    Ok(Minted { text, token })
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Of the token.
    pub id: String,
    pub name: String,
    pub scopes: Scopes,
    /// A browser says so by itself.
    pub by_cookie: bool,
}

impl Identity {
    /// For the record.
    pub fn spelled(&self) -> String {
        format!("{} ({})", self.name, self.id)
    }

    /// Who has that token.
    pub(crate) fn of(token: &Token, by_cookie: bool) -> Self {
        let scopes = Scopes::of(token);
        Self { id: token.id.clone(), name: token.name.clone(), scopes, by_cookie }
    }

    /// Whether that is allowed.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.allow(scope)
    }

    /// Refuses what is not allowed, by the scope or by a server that only shows.
    pub(crate) fn need(&self, app: &App, scope: Scope) -> Result<(), Problem> {
        self.need_to_read(scope)?;
        app.check_writable(scope)
    }

    /// Refuses what the scope does not allow. For what changes nothing: a server that only shows allows it, too.
    pub(crate) fn need_to_read(&self, scope: Scope) -> Result<(), Problem> {
        if self.may(scope) {
            return Ok(());
        }
        let message = format!("the token `{}` does not have the scope {scope}", self.name);
        let hint = format!("create a token with it: `wfhost token new NAME --scope {scope}`");
        Err(Problem::forbidden("WF0903", message, &hint))
    }

    /// Whether the token still lets its holder in: it may have been removed, or have expired.
    pub(crate) async fn is_let_in(&self, app: &App) -> Result<bool, Problem> {
        if self.is_user(app) || app.own().is_some_and(|own| own.id == self.id) {
            return Ok(true);
        }
        let Some(token) = app.store().token(&self.id).await? else { return Ok(false) };
        is_valid(app, &token, app.store().now()).await
    }

    /// Whether it is whoever may open the socket, who has no token.
    fn is_user(&self, app: &App) -> bool {
        app.is_unix() && self.id == USER
    }
}

/// In the place of a token's id for who has none, as he comes by the socket of the user.
pub(crate) const USER: &str = "socket";

/// Whether the time of a token is not over, and that of the token that it was made with.
async fn is_valid(app: &App, token: &Token, now: Timestamp) -> Result<bool, Problem> {
    let is_over = |token: &Token| token.expires_at.is_some_and(|at| at <= now);
    let first = match made_with(token) {
        Some(id) => app.store().token(id).await?.is_some_and(|first| !is_over(&first)),
        None => true,
    };
    Ok(first && !is_over(token))
}

/// The token of a text like `wf_ID_SECRET`, if it is good.
pub(crate) async fn check(app: &App, text: &str, kind: TokenKind) -> Result<Option<Token>, Problem> {
    let Some(id) = text.strip_prefix("wf_").and_then(|rest| rest.split_once('_')).map(|(id, _)| id) else {
        return Ok(None);
    };
    let hash = Digest::of(text.as_bytes());
    let is_it = |token: &Token| bool::from(token.hash.0.ct_eq(&hash.0)) && token.kind == kind;
    if let Some(own) = app.own().filter(|own| own.id == id) {
        return Ok(is_it(own).then(|| own.clone()));
    }
    let Some(token) = app.store().token(id).await.map_err(Problem::from_error)? else { return Ok(None) };
    let now = app.store().now();
    if !is_it(&token) || !is_valid(app, &token, now).await? {
        return Ok(None);
    }
    if kind != TokenKind::Login && app.is_used_anew(id, now) {
        // Whether that can be written down decides nothing.
        let _ = app.store().set_token_used(id, now).await;
    }
    Ok(Some(token))
}

/// The name of the cookie with the token of a browser.
pub(crate) fn cookie_name(app: &App) -> String {
    // Each database has its own.
    let space = app.space().map(|space| format!("-{space}")).unwrap_or_default();
    match app.is_tls() {
        // Only this very origin can set it.
        true => format!("__Host-wfhost{space}"),
        // Cookies do not tell ports apart.
        false => format!("wfhost-{}{space}", app.port()),
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// Who asks, if anybody is known.
pub(crate) async fn identify(app: &App, parts: &Parts) -> Result<Option<Identity>, Problem> {
    // Set within the process, for requests that are made there: no client can.
    if let Some(known) = parts.extensions.get::<Identity>() {
        return Ok(Some(known.clone()));
    }
    if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
        let bearer = value.to_str().ok().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        let unknown = || Problem::unauthorized("WF0902", "the token is unknown or has expired");
        let Some(bearer) = bearer else {
            return Err(Problem::unauthorized(
                "WF0902",
                "the header `Authorization` does not contain a bearer token",
            ));
        };
        let token = check(app, bearer, TokenKind::Bearer).await?.ok_or_else(unknown)?;
        return Ok(Some(Identity::of(&token, false)));
    }
    if app.is_unix() {
        return Ok(Some(app.user()));
    }
    if let Some(value) = cookie(&parts.headers, &cookie_name(app)).filter(|_| is_same_origin(&parts.headers))
        && let Some(token) = check(app, value, TokenKind::Session).await?
    {
        return Ok(Some(Identity::of(&token, true)));
    }
    Ok(None)
}

/// Whether a browser asks for one of our own pages, or because its user wants to.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    let navigates = headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
    // Links on other sites may lead here; scripts of other sites may not read.
    matches!(site, None | Some("same-origin" | "none")) || navigates
}

/// Who asks; a request without is refused.
#[derive(Clone, Debug)]
pub struct Caller(pub Identity);

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let missing = || Problem::unauthorized("WF0901", "a token is required");
        identify(app, parts).await?.map(Self).ok_or_else(missing)
    }
}

impl OptionalFromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Option<Self>, Problem> {
        Ok(identify(app, parts).await?.map(Self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_and_written_and_admin_has_all() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse::<Scope>().unwrap(), *scope);
            assert!(!scope.meaning().is_empty());
            let one: Scopes = [*scope].into_iter().collect();
            assert_eq!(one.words(), [scope.as_str()]);
            let allowed = Scope::ALL.iter().filter(|other| one.allow(**other)).count();
            assert_eq!(allowed, if *scope == Scope::Admin { Scope::ALL.len() } else { 1 }, "{scope}");
            assert_eq!(one.cover(Scopes::all()), *scope == Scope::Admin);
        }
        assert!("runs:write".parse::<Scope>().is_err());
    }

    #[test]
    fn a_token_tells_nothing_but_its_id() {
        let scopes = [Scope::RunsRead].into_iter().collect();
        let a = mint("ci", TokenKind::Bearer, scopes, Timestamp(1), None).unwrap();
        let b = mint("ci", TokenKind::Bearer, scopes, Timestamp(1), None).unwrap();
        assert!(a.text != b.text && a.token.id != b.token.id);
        // An underscore may stand in the secret, too.
        let secret = a.text.strip_prefix(&format!("wf_{}_", a.token.id)).unwrap();
        assert!(!format!("{a:?} {:?}", a.token).contains(secret), "it is in no log");
    }

    #[test]
    fn what_begins_with_a_token_is_told_from_other_names() {
        let token = mint("ci", TokenKind::Bearer, Scopes::all(), Timestamp(1), None).unwrap();
        let session = format!("wf_0123456789-{}", token.text.strip_prefix("wf_").unwrap());
        for text in [&token.text, &session, &format!("{}.", token.text)] {
            assert!(begins_with_token(text), "{text}");
        }
        let cut = &token.text[..token.text.len() - 1];
        for text in ["", "wf_", "wf_worker", "wf_order_17", "wf_abc_def", cut, &token.text[1..]] {
            assert!(!begins_with_token(text), "{text}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, "a=1; wfhost-77=x; wfhost-7=wf_i_s".parse().unwrap());
        assert_eq!(cookie(&headers, "wfhost-7"), Some("wf_i_s"));
        assert_eq!(cookie(&headers, "wfhost-8"), None);
    }
}
