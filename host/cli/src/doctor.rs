//! `wfhost doctor`

use serde_json::json;
use wfhost::agents::{Check, suggested};
use wfhost::engine::Cache;
use wfhost::store::RunFilter;
use wfhost::world::environment;

use super::diagnostic::{Exit, Trouble};
use super::{Common, Format, printer};

/// Look whether everything that is needed is there
///
/// Nobody is asked anything: keys are looked for and programs are found, no
/// provider is called.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost doctor
  wfhost doctor -o json")]
pub(crate) struct Doctor {}

/// One line of the report.
struct Finding {
    what: String,
    problem: Option<String>,
    /// What one should know though nothing is wrong.
    note: Option<String>,
    /// Whether the user has said that he wants it.
    wanted: bool,
}

impl Doctor {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
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
            Some(name) if providers.get(name).is_none() => Err(format!("there is no provider `{name}`")),
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
        let missing = findings.iter().any(|finding| finding.wanted && finding.problem.is_some());
        report(common.output, &findings);
        Ok(if missing { Exit::Host } else { Exit::Done })
    }
}

async fn store(common: &Common) -> Finding {
    let place = common.place().map(|path| path.display().to_string());
    let tried = async {
        let store = common.reader()?;
        store.runs(RunFilter { limit: 1, ..RunFilter::default() }).await?;
        Ok::<_, Trouble>(())
    };
    let problem = tried.await.err().map(|trouble| trouble.message);
    let what = format!("database {}", place.unwrap_or_default());
    Finding { what: what.trim_end().to_owned(), problem, note: None, wanted: true }
}

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
        format!("{count} compiled modules, {mebibytes} MiB of at most {most} MiB")
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
