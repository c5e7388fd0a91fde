//! `wfhost doctor`

use serde_json::json;
use wfhost::agents::{Check, suggested};
use wfhost::clock::rfc3339;
use wfhost::engine::Cache;
use wfhost::fleet::{Usage, usage};
use wfhost::store::RunFilter;
use wfhost::world::environment;
use wfhost_core::counted;
use wfhost_core::policy::rate::Rate;
use wfhost_core::policy::share::spell;
use wfhost_postgres::{Formats, Migrate, PostgresStore};

use super::database::Database;
use super::diagnostic::{Exit, UserError};
use super::{Common, Format, printer};

/// Check the installation: database, providers, keys, programs
///
/// Looks for keys and programs, but calls no provider.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost doctor
  wfhost doctor -o json")]
pub(crate) struct Doctor {}

/// One line of the report.
struct Finding {
    what: String,
    problem: Option<String>,
    /// Information that is not a problem.
    note: Option<String>,
    /// Whether the user has configured it explicitly.
    wanted: bool,
}

impl Doctor {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let mut findings = vec![store(common).await, cache()];
        let config = common.config()?;
        let providers = config.providers()?;
        let configured: Vec<_> = config.configured_providers().collect();
        for provider in providers.all() {
            let wanted = configured.contains(&provider.name());
            let (mut problems, mut notes) = (Vec::new(), Vec::new());
            for Check { problem, note, .. } in provider.check() {
                problems.extend(problem);
                notes.extend(note);
            }
            let all = |texts: Vec<String>| (!texts.is_empty()).then(|| texts.join("; "));
            findings.push(Finding {
                what: format!("provider {}", provider.name()),
                problem: all(problems),
                note: all(notes),
                wanted,
            });
        }
        let default = match config.default_agent() {
            Some(name) if providers.get(name).is_none() => Err(format!("unknown provider `{name}`")),
            Some(name) => Ok(format!("{name}, by configuration")),
            None => match suggested() {
                Some(suggested) => Ok(format!("{}, because {}", suggested.provider, suggested.why)),
                None => Ok("none: set ANTHROPIC_API_KEY or OPENAI_API_KEY, put a coding agent on PATH, \
                            or use --agent echo"
                    .to_owned()),
            },
        };
        findings.push(match default {
            Ok(text) => {
                Finding { what: format!("default provider {text}"), problem: None, note: None, wanted: false }
            }
            Err(problem) => {
                let what = "default provider".to_owned();
                Finding { what, problem: Some(problem), note: None, wanted: true }
            }
        });
        findings.extend(fleet_limits(common, &config).await);
        let missing = findings.iter().any(|finding| finding.wanted && finding.problem.is_some());
        report(common.output, &findings);
        Ok(if missing { Exit::Host } else { Exit::Done })
    }
}

/// The limits that hold for all hosts of the database, with what is used of them.
async fn fleet_limits(common: &Common, config: &wfhost_config::Config) -> Vec<Finding> {
    let limits = config.fleet_limits();
    if limits.is_empty() {
        return Vec::new();
    }
    // A database that cannot be read is a finding of its own.
    let (shares, turns) = match common.reader().await {
        Ok(store) => (store.slots().await.unwrap_or_default(), store.turns().await.unwrap_or_default()),
        Err(_) => (Vec::new(), Vec::new()),
    };
    let used = usage(&shares);
    let waiting = |name: &str| {
        let turns = turns.iter().find(|turns| turns.name == name && turns.waiting > 0)?;
        let calls = if turns.waiting == 1 { "call waits for its turn" } else { "calls wait for their turns" };
        let next = turns.next.map(|at| format!(", the next one until {}", rfc3339(at))).unwrap_or_default();
        Some(format!("{} {calls}{next}", turns.waiting))
    };
    let limit = |(name, (calls, rate)): (String, (Option<u32>, Option<Rate>))| {
        let calls = calls.map(|calls| format!("{calls} at a time"));
        let rate = rate.map(|rate| format!("{} per minute, {} at once", rate.per_minute, rate.burst));
        let all: Vec<_> = calls.into_iter().chain(rate).collect();
        let what = format!("limit of {} (fleet): {}", spell(&name), all.join(", "));
        let holders = used.get(name.as_str()).filter(|usage| usage.used > 0).map(Usage::spell_holders);
        let notes: Vec<_> = holders.into_iter().chain(waiting(&name)).collect();
        let note = Some(notes.join("; ")).filter(|note| !note.is_empty());
        Finding { what, problem: None, note, wanted: false }
    };
    limits.into_iter().map(limit).collect()
}

async fn store(common: &Common) -> Finding {
    let place = common.place();
    if let Ok(Database::Server(url)) = &place {
        return server(common, url).await;
    }
    let tried = async {
        let store = common.reader().await?;
        store.runs(RunFilter { limit: 1, ..RunFilter::default() }).await?;
        Ok::<_, UserError>(())
    };
    let problem = tried.await.err().map(|trouble| trouble.message);
    let what = format!("database {}", place.map(|place| place.to_string()).unwrap_or_default());
    Finding { what: what.trim_end().to_owned(), problem, note: None, wanted: true }
}

/// What a server is like, and whether hosts can use it.
async fn server(common: &Common, url: &str) -> Finding {
    let what = format!("database {}", Database::Server(url.to_owned()));
    let found = match PostgresStore::look(url, &common.postgres_options(Migrate::No)).await {
        Ok(found) => found,
        Err(error) => {
            let trouble = UserError::from(error);
            let said: Vec<_> = std::iter::once(trouble.message).chain(trouble.hints).collect();
            return Finding { what, problem: Some(said.join("; ")), note: None, wanted: true };
        }
    };
    let mut problems = Vec::new();
    let format = found.formats.and_then(|formats| formats.found);
    match found.formats {
        Some(Formats { found: None, .. }) => {
            problems.push("it does not contain wfhost's tables: `wfhost db init` creates them".to_owned());
        }
        Some(Formats { found: Some(format), newest }) if format < newest => problems.push(format!(
            "its tables have format {format}: `wfhost db migrate` migrates them to {newest}, which this wfhost needs"
        )),
        _ => {}
    }
    if !found.missing_rights.is_empty() {
        problems.push(format!("the user lacks the privilege to {}", found.missing_rights.join(", ")));
    }
    // All runs are judged by the server's clock; this one only shows times.
    if found.ahead_ms.unsigned_abs() > CLOCKS_DIFFER_MS {
        let way = if found.ahead_ms > 0 { "ahead of" } else { "behind" };
        let by = found.ahead_ms.unsigned_abs();
        problems
            .push(format!("its clock is {by} ms {way} this machine's clock: displayed times are misleading"));
    }
    let (most, there) = found.connections;
    if most.saturating_sub(there) < CONNECTIONS_OF_A_HOST {
        problems.push(format!(
            "it allows {} and has {there}: too few are left for a host",
            counted(most, "connection")
        ));
    }
    let mut notes = vec![
        format!("PostgreSQL {}", found.version),
        format.map_or_else(String::new, |format| format!("format {format}")),
        format!("{:.1} ms round trip", found.round_trip.as_secs_f64() * 1e3),
        format!("{there} of {}", counted(most, "connection")),
        if found.encrypted { "encrypted".to_owned() } else { String::new() },
    ];
    if !found.hears {
        notes.push("no notifications (a pooler, or listen=off): hosts poll every 100 ms".to_owned());
    }
    notes.extend(found.notes);
    notes.retain(|note| !note.is_empty());
    let problem = (!problems.is_empty()).then(|| problems.join("; "));
    Finding { what, problem, note: Some(notes.join("; ")), wanted: true }
}

/// By more than this clocks of machines that are kept in time do not differ.
const CLOCKS_DIFFER_MS: u64 = 2_000;
/// What one host takes at most.
const CONNECTIONS_OF_A_HOST: u32 = 10;

/// The compiled modules, as far as there are any.
fn cache() -> Finding {
    let place = environment::cache_dir();
    let what = match &place {
        Some(place) => format!("cache {}", place.display()),
        None => "cache: HOME is not set, so every module is compiled each time".to_owned(),
    };
    let usage = Cache::usage_of(place.as_deref());
    let note = usage.as_ref().ok().map(|(count, bytes)| {
        let (mebibytes, most) = (bytes.div_ceil(1 << 20), Cache::MOST_BYTES >> 20);
        format!("{}, {mebibytes} MiB of at most {most} MiB", counted(count, "compiled module"))
    });
    Finding { what, problem: usage.err().map(|error| error.to_string()), note, wanted: false }
}

fn report(format: Format, findings: &[Finding]) {
    if format != Format::Text {
        let findings = findings.iter().map(
            |Finding { what, problem, note, wanted }| json!({ "what": what, "problem": problem, "note": note, "wanted": wanted }),
        );
        let findings: Vec<_> = findings.collect();
        printer::json(&json!({ "schema": "wfhost/doctor/1", "findings": findings }));
        return;
    }
    for Finding { what, problem, note, wanted } in findings {
        let mark = match (problem, wanted) {
            (None, _) => "✓",
            (Some(_), true) => "✗",
            (Some(_), false) => "–",
        };
        let said: Vec<_> = [problem, note].into_iter().flatten().map(String::as_str).collect();
        let colon = if said.is_empty() { "" } else { ": " };
        printer::line(format!("{mark} {what}{colon}{}", said.join("; ")));
    }
}
