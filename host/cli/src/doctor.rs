//! `wfhost doctor`

use serde_json::json;
use wfhost::agents::{Check, suggested};
use wfhost::store::RunFilter;

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
    /// Whether the user has said that he wants it.
    wanted: bool,
}

impl Doctor {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let mut findings = vec![store(common).await];
        let config = common.config()?;
        let providers = config.providers()?;
        let configured: Vec<_> = config.configured_providers().collect();
        for provider in providers.all() {
            let wanted = configured.contains(&provider.name());
            let problems: Vec<_> =
                provider.check().into_iter().filter_map(|Check { problem, .. }| problem).collect();
            findings.push(Finding {
                what: format!("provider {}", provider.name()),
                problem: (!problems.is_empty()).then(|| problems.join("; ")),
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
            Ok(text) => Finding { what: format!("default provider {text}"), problem: None, wanted: false },
            Err(problem) => {
                Finding { what: "default provider".to_owned(), problem: Some(problem), wanted: true }
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
    Finding { what: what.trim_end().to_owned(), problem, wanted: true }
}

fn report(format: Format, findings: &[Finding]) {
    if format != Format::Text {
        let findings = findings.iter().map(
            |Finding { what, problem, wanted }| json!({ "what": what, "problem": problem, "wanted": wanted }),
        );
        let findings: Vec<_> = findings.collect();
        printer::json(&json!({ "schema": "wfhost/doctor/1", "findings": findings }));
        return;
    }
    for Finding { what, problem, wanted } in findings {
        printer::line(&match (problem, wanted) {
            (None, _) => format!("✓ {what}"),
            (Some(problem), true) => format!("✗ {what}: {problem}"),
            (Some(problem), false) => format!("– {what}: {problem}"),
        });
    }
}
