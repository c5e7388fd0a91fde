//! `wfhost token`

use serde_json::json;
use wfhost::clock::rfc3339;
use wfhost::store::{Act, SharedStore, Token, TokenKind};
use wfhost::world::environment;
use wfhost_core::Timestamp;
use wfhost_server::{Scope, Scopes, mint};

use super::diagnostic::{Exit, UserError};
use super::place::{count_arg, length_arg, nearest};
use super::printer::{Column, left};
use super::{Common, Format, printer};

/// Manage the tokens of the server
///
/// A token is shown once, when it is created; the database stores only its digest.
/// Removing a token takes effect immediately.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct TokenVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Create a token, and print it
    New(New),
    /// List the tokens, without their secrets
    Ls,
    /// Remove a token
    Rm(Rm),
    /// Show the audit log of the server, the latest first
    Audit(Audit),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost token new ci --scope runs:start,runs:read --expires 90d
  wfhost token new me --scope admin
  wfhost token new phone --scope runs:read,payloads:read,people:answer --browser")]
struct New {
    /// The name of the token
    name: String,
    /// Its permissions: runs:read, payloads:read, runs:start, runs:signal,
    /// people:answer, runs:control, modules:write, schedules:write,
    /// metrics:read, admin; separated by commas
    #[arg(long = "scope", value_name = "SCOPES", value_delimiter = ',', required = true)]
    scopes: Vec<Scope>,
    /// How long it is valid: 90d, 12h [default: no expiry]
    #[arg(long, value_name = "LENGTH", value_parser = length_arg)]
    expires: Option<u64>,
    /// Print a URL instead, which logs in one browser, once, within an hour
    #[arg(long, conflicts_with = "expires")]
    browser: bool,
}

#[derive(clap::Args)]
struct Rm {
    /// The id or the name of a token, as `ls` lists them
    token: String,
}

#[derive(clap::Args)]
struct Audit {
    /// The maximum number of entries
    #[arg(short = 'n', long, default_value_t = 100, value_parser = count_arg)]
    limit: usize,
}

/// How long an address to log in with is good.
const HOUR_MS: u64 = 3_600_000;

impl TokenVerb {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = match &self.verb {
            Verb::New(_) => common.store().await?,
            _ => common.reader().await?,
        };
        match &self.verb {
            Verb::New(new) => new.execute(common, &store).await,
            Verb::Ls => list(common, &store).await,
            Verb::Rm(rm) => rm.execute(common, &store).await,
            Verb::Audit(audit) => audit.execute(common, &store).await,
        }
    }
}

/// What was done on the command line is recorded, too.
async fn record(store: &SharedStore, act: &str, target: String, result: String) -> Result<(), UserError> {
    let user = environment::text(environment::USER).unwrap_or_else(|| "somebody".to_owned());
    let who = format!("{user} (command line)");
    let act = Act { number: 0, at: store.now(), who, act: act.to_owned(), target, result };
    Ok(store.record_act(act).await?)
}

impl New {
    async fn execute(&self, common: &Common, store: &SharedStore) -> Result<Exit, UserError> {
        let name = self.name.trim();
        if name.is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
            return Err(UserError::usage(
                "WF0911",
                "the name of a token needs 1 to 100 bytes, without control characters",
            )
            .hint("for example `wfhost token new ci --scope runs:start`"));
        }
        let scopes: Scopes = self.scopes.iter().copied().collect();
        let (kind, length) = match self.browser {
            true => (TokenKind::Login, Some(HOUR_MS)),
            false => (TokenKind::Bearer, self.expires),
        };
        let expires_at: Option<Timestamp> = length.map(|millis| store.now().after(millis));
        let minted = mint(name, kind, scopes, store.now(), expires_at)?;
        store.put_token(minted.token.clone()).await?;
        let scopes = scopes.words().join(" ");
        record(store, "tokens.create", format!("{name} ({})", minted.token.id), scopes.clone()).await?;
        let until = expires_at.map_or("no expiry".to_owned(), |at| format!("until {}", rfc3339(at)));
        printer::say(common, "Token", &format!("{} of {name}: {scopes}; {until}", minted.token.id));
        let text = match self.browser {
            // The server has the same path wherever it is.
            true => format!("/ui/login?code={}", minted.text),
            false => minted.text,
        };
        match common.output {
            Format::Text => printer::line(text),
            Format::Json | Format::Jsonl => printer::json(&json!({
                "schema": "wfhost/token/1", "secret": text, "token": view(&minted.token),
            })),
        }
        Ok(Exit::Done)
    }
}

fn view(token: &Token) -> serde_json::Value {
    json!({
        "id": token.id, "name": token.name, "kind": token.kind.as_str(), "scopes": token.scopes,
        "created_at": rfc3339(token.created_at), "expires_at": token.expires_at.map(rfc3339),
        "used_at": token.used_at.map(rfc3339),
    })
}

async fn list(common: &Common, store: &SharedStore) -> Result<Exit, UserError> {
    let tokens = store.tokens().await?;
    match common.output {
        Format::Json => {
            let tokens: Vec<_> = tokens.iter().map(view).collect();
            printer::json(&json!({ "schema": "wfhost/tokens/1", "tokens": tokens }));
        }
        Format::Jsonl => tokens.iter().for_each(|token| printer::json(&view(token))),
        Format::Text if tokens.is_empty() => printer::note("no tokens; `wfhost token new` creates one"),
        Format::Text => {
            const COLUMNS: [Column; 6] =
                [left("TOKEN"), left("NAME"), left("KIND"), left("SCOPES"), left("EXPIRES"), left("USED")];
            let now = store.now();
            let rows = tokens.iter().map(|token| {
                let until = token.expires_at.map_or("never".to_owned(), rfc3339);
                vec![
                    token.id.clone(),
                    token.name.clone(),
                    token.kind.as_str().to_owned(),
                    token.scopes.join(" "),
                    if token.expires_at.is_some_and(|at| at <= now) { "expired".to_owned() } else { until },
                    token.used_at.map_or("never".to_owned(), rfc3339),
                ]
            });
            printer::table(&COLUMNS.each_ref(), rows);
        }
    }
    Ok(Exit::Done)
}

impl Rm {
    async fn execute(&self, common: &Common, store: &SharedStore) -> Result<Exit, UserError> {
        let tokens = store.tokens().await?;
        let by_id = tokens.iter().filter(|token| token.id == self.token);
        let mut found: Vec<_> = by_id.collect();
        if found.is_empty() {
            found = tokens.iter().filter(|token| token.name == self.token).collect();
        }
        match found.as_slice() {
            [] => {
                let known = tokens.iter().flat_map(|token| [token.id.as_str(), token.name.as_str()]);
                let trouble = UserError::usage("WF0907", format!("unknown token `{}`", self.token));
                Err(match nearest(&self.token, known) {
                    Some(nearest) => trouble.hint(format!("did you mean `{nearest}`?")),
                    None => trouble.hint("`wfhost token ls` lists all tokens"),
                })
            }
            [token] => {
                store.delete_token(&token.id).await?;
                record(
                    store,
                    "tokens.delete",
                    format!("{} ({})", token.name, token.id),
                    "removed".to_owned(),
                )
                .await?;
                printer::say(common, "Removed", &format!("{} of {}", token.id, token.name));
                Ok(Exit::Done)
            }
            several => {
                let ids: Vec<_> = several.iter().map(|token| token.id.as_str()).collect();
                Err(UserError::usage("WF0907", format!("several tokens are named `{}`", self.token))
                    .hint(format!("use its id: {}", ids.join(", "))))
            }
        }
    }
}

impl Audit {
    async fn execute(&self, common: &Common, store: &SharedStore) -> Result<Exit, UserError> {
        let acts = store.acts(None, self.limit).await?;
        let view = |act: &Act| {
            json!({
                "number": act.number, "at": rfc3339(act.at), "who": act.who, "act": act.act,
                "target": act.target, "result": act.result,
            })
        };
        match common.output {
            Format::Json => {
                let acts: Vec<_> = acts.iter().map(view).collect();
                printer::json(&json!({ "schema": "wfhost/audit/1", "acts": acts }));
            }
            Format::Jsonl => acts.iter().for_each(|act| printer::json(&view(act))),
            Format::Text => acts.iter().for_each(|act| {
                let Act { who, act: what, target, result, .. } = act;
                printer::line(format!("{}  {who}  {what}  {target}  {result}", rfc3339(act.at)));
            }),
        }
        Ok(Exit::Done)
    }
}
