//! `wfhost test`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use wfhost::engine::Engine;
use wfhost::world::environment;
use wfhost_core::{counted, spell_millis};
use wfhost_registry::whole;
use wfhost_simulate::{Event, Finding, Report, Scenario, ScenarioError, Simulator, SimulatorError, Wanted};

use super::diagnostic::{Exit, UserError};
use super::place::{json_arg, length_arg};
use super::printer::{DIM, ERROR, GOOD, Line};
use super::registry::Fetch;
use super::{Common, Format, module_arg, printer};

/// The scenario of a project, and the directory of further ones, if none is named.
const SCENARIO: &str = "wfhost-test.toml";
const SCENARIOS: &str = "scenarios";
/// Seeds that are tried for each scenario if nothing is said.
const EXECUTIONS: u64 = 1_000;
/// Lines of a story that are shown from its beginning and from its end.
const STORY_LINES: usize = 20;

/// Test a workflow by simulation: thousands of executions in virtual time
///
/// Agents answer late or fail, people answer late or never, signals arrive early and twice, and the host is
/// killed at any moment. A scenario, a TOML file, states what must hold in every execution. Without one:
/// no panic, no deadlock, no divergence on replay, and every run ends. A failure is shrunk to a short
/// story, and its seed reproduces it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost test                                the workflow of this directory, with its scenarios:
                                             wfhost-test.toml and scenarios/*.toml
  wfhost test hello.wasm -i '{\"name\":\"Ada\"}'
  wfhost test . --scenario strikes.toml --executions 20000
  wfhost test . --seed 17                    what happens with this seed
  wfhost test . --junit report.xml           for CI

A scenario: https://github.com/wfhost/wfhost/blob/main/docs/testing.md")]
pub(crate) struct Test {
    /// A component file, or a directory with a workflow
    #[arg(default_value = ".")]
    module: String,
    /// A scenario: the simulated world and the expectations (may be repeated)
    #[arg(long = "scenario", value_name = "FILE")]
    scenarios: Vec<PathBuf>,
    /// The input of the run instead of the scenario's: JSON, @FILE, or - for stdin
    #[arg(short, long, value_name = "JSON", allow_negative_numbers = true)]
    input: Option<String>,
    /// The number of executions for each scenario, one per seed [env: WFHOST_EXECUTIONS] [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    executions: Option<u64>,
    /// Start no more executions after this time, like 30s; at least one is made
    #[arg(long, value_name = "LENGTH", value_parser = length_arg)]
    time: Option<u64>,
    /// Execute only this seed, and print what happens
    #[arg(long, value_name = "N", conflicts_with_all = ["executions", "time", "coverage", "junit"])]
    seed: Option<u64>,
    /// The number of parallel executions [default: the number of CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// The directory for failed runs, in the format of `wfhost db import`
    #[arg(long, value_name = "DIR", default_value = "wfhost-failures")]
    keep: PathBuf,
    /// Print how each step ended
    #[arg(long)]
    coverage: bool,
    /// Also write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    #[command(flatten)]
    fetch: Fetch,
}

/// What is wrong with a scenario.
fn bad_scenario(error: ScenarioError) -> UserError {
    let details = match &error {
        ScenarioError::Syntax { source, .. } => source.to_string().lines().map(str::to_owned).collect(),
        ScenarioError::Read { .. } => Vec::new(),
    };
    let message = match &error {
        ScenarioError::Syntax { path, .. } => {
            format!("invalid scenario {}", path.display())
        }
        ScenarioError::Read { .. } => error.to_string(),
    };
    UserError { details, ..UserError::usage("WF0820", message) }
        .hint("`wfhost explain WF0820` shows the format of a scenario")
        .because(&error)
}

/// What keeps a simulation from being made.
fn not_simulated(error: SimulatorError) -> UserError {
    match error {
        SimulatorError::Host(error) => error.into(),
    }
}

impl Test {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let scenarios = self.read_scenarios()?;
        let found = module_arg::find(common, None, &self.module, self.fetch).await?;
        let modules = found.directory.as_ref().map(PathBuf::from);
        let engine = Arc::new(Engine::new(environment::cache_dir())?.pooled());
        let simulator =
            Simulator::new(engine, &found.name, found.bytes, modules, None).await.map_err(not_simulated)?;
        if let Some(seed) = self.seed {
            return self.one(common, &simulator, &scenarios, seed).await;
        }
        let configured = environment::number(environment::EXECUTIONS, 1..=u64::MAX, "a number from 1")?;
        let executions = self.executions.or(configured).unwrap_or(EXECUTIONS);
        let stop = Arc::new(AtomicBool::new(false));
        let mut reports = Vec::new();
        for scenario in scenarios {
            let jobs = self
                .jobs
                .map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
            let time = self.time.map(Duration::from_millis);
            let wanted = Wanted { first: 0, count: executions, time, threads: jobs };
            let (simulator, stopped) = (simulator.clone(), Arc::clone(&stop));
            let progress = printer::Progress::new(common, &scenario.name, executions);
            let exploring = blocking(move || {
                let report =
                    simulator.explore(&scenario, wanted, &stopped, |done, failed| progress.at(done, failed));
                progress.end();
                report
            });
            let mut exploring = std::pin::pin!(exploring);
            let report = tokio::select! {
                report = &mut exploring => report,
                // What was found up to now is told.
                _ = tokio::signal::ctrl_c() => {
                    stop.store(true, Ordering::Relaxed);
                    tokio::select! {
                        report = &mut exploring => report,
                        // Executions that take long are waited for unless somebody insists.
                        _ = tokio::signal::ctrl_c() => return Ok(Exit::Signalled(2)),
                    }
                }
            };
            reports.push(report?.map_err(not_simulated)?);
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        let mut kept = BTreeSet::new();
        // What was found is told, also if it cannot be kept.
        let keeping = self.keep_findings(&reports, &mut kept);
        for report in &reports {
            self.show(common, report, &kept);
        }
        if common.output != Format::Text {
            printer::json(&json!({ "schema": "wfhost/test/1", "reports": reports, "kept": kept }));
        }
        keeping?;
        if let Some(file) = &self.junit {
            let text = junit(&found.name, &reports);
            whole::write_named(file, text.as_bytes(), None).map_err(|error| cannot_write(file, &error))?;
        }
        let failed = reports.iter().any(|report| report.failed > 0);
        Ok(match (stop.load(Ordering::Relaxed), failed) {
            (_, true) => Exit::RunFailed,
            (true, false) => Exit::Signalled(2),
            (false, false) => Exit::Done,
        })
    }

    /// The scenarios that are named, else those of the project, else the usual one.
    fn read_scenarios(&self) -> Result<Vec<Arc<Scenario>>, UserError> {
        let mut paths = self.scenarios.clone();
        let module = Path::new(&self.module);
        let home = if module.is_dir() { module } else { module.parent().unwrap_or(Path::new("")) };
        if paths.is_empty() {
            paths.extend(Some(home.join(SCENARIO)).filter(|path| path.is_file()));
            let mut further: Vec<_> = std::fs::read_dir(home.join(SCENARIOS))
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
                .collect();
            further.sort();
            paths.append(&mut further);
        }
        let input = self.input.as_deref().map(|input| json_arg("the input", input)).transpose()?;
        let input = input.map(|input| input.value());
        if paths.is_empty() {
            return Ok(vec![Arc::new(Scenario::usual(input.unwrap_or_default()))]);
        }
        let mut names = BTreeSet::new();
        let scenarios = paths.iter().map(|path| {
            let mut scenario = Scenario::read(path).map_err(bad_scenario)?;
            if let Some(input) = &input {
                scenario.input = input.clone();
            }
            scenario.name = name_apart(&scenario.name, &mut names);
            Ok(Arc::new(scenario))
        });
        scenarios.collect()
    }

    /// Tells what happens with one seed.
    async fn one(
        &self,
        common: &Common,
        simulator: &Simulator,
        scenarios: &[Arc<Scenario>],
        seed: u64,
    ) -> Result<Exit, UserError> {
        let mut failed = false;
        let mut documents = Vec::new();
        for scenario in scenarios {
            let (simulator, of) = (simulator.clone(), Arc::clone(scenario));
            let (execution, fault) =
                blocking(move || simulator.once(&of, seed)).await?.map_err(not_simulated)?;
            failed |= fault.is_some();
            let state = execution.main.state.as_str();
            if common.output == Format::Text {
                tell(&execution.story, usize::MAX);
                let verdict = fault.as_ref().map_or_else(String::new, |fault| format!(": {fault}"));
                let style = if fault.is_some() { ERROR } else { GOOD };
                let word = if fault.is_some() { "Failed" } else { "Passed" };
                Line::word(style, word)
                    .plain(format!("{} with seed {seed}, {state}{verdict}", scenario.name))
                    .show();
            }
            documents.push(json!({
                "scenario": scenario.name, "seed": seed, "state": state, "fault": fault, "story": execution.story,
            }));
            // Beside the one that was shrunk, which has less to read.
            if let Some(export) = execution.export.filter(|_| fault.is_some()) {
                let file = self.keep.join(format!("{}-{seed}.whole.jsonl", scenario.name));
                self.write(&file, &export)?;
                if common.output == Format::Text {
                    printer::line(format!("{:>10}  the run is in {}", "", file.display()));
                }
            }
        }
        if common.output != Format::Text {
            printer::json(&json!({ "schema": "wfhost/test-seed/1", "executions": documents }));
        }
        Ok(if failed { Exit::RunFailed } else { Exit::Done })
    }

    fn file_of(&self, scenario: &str, seed: u64) -> PathBuf {
        self.keep.join(format!("{scenario}-{seed}.jsonl"))
    }

    fn write(&self, file: &Path, export: &str) -> Result<(), UserError> {
        // Not through a link, which may come with the project.
        std::fs::create_dir_all(&self.keep)
            .and_then(|()| whole::write(file, export.as_bytes()))
            .map_err(|error| cannot_write(file, &error))
    }

    /// Writes the runs that failed, and notes their files.
    fn keep_findings(&self, reports: &[Report], kept: &mut BTreeSet<PathBuf>) -> Result<(), UserError> {
        for report in reports {
            for finding in &report.findings {
                let file = self.file_of(&report.scenario, finding.seed);
                if let Some(export) = &finding.export {
                    self.write(&file, export)?;
                    kept.insert(file);
                }
            }
        }
        Ok(())
    }

    fn show(&self, common: &Common, report: &Report, kept: &BTreeSet<PathBuf>) {
        if common.output != Format::Text {
            return;
        }
        for finding in &report.findings {
            self.show_finding(report, finding, kept);
        }
        let rate = report.executions as f64 / report.seconds.max(1e-9);
        let ends: Vec<_> = report.coverage.ends.iter().map(|(end, count)| format!("{count} {end}")).collect();
        let (style, word) = match report {
            Report { failed: 1.., .. } => (ERROR, "Failed"),
            // It was stopped before.
            Report { executions: 0, .. } => (ERROR, "Stopped"),
            _ => (GOOD, "Passed"),
        };
        Line::word(style, word)
            .plain(format!("{}  {}", report.scenario, counted(report.executions, "execution")))
            .styled(
                DIM,
                format!(
                    "  {} failed, {rate:.0}/s, {}, {}, {}",
                    report.failed,
                    counted(report.coverage.orders, "order"),
                    counted(report.coverage.deaths, "host death"),
                    ends.join(", ")
                ),
            )
            .show();
        if self.coverage {
            for (step, ends) in &report.coverage.paths {
                let ends: Vec<_> = ends.iter().map(|(end, count)| format!("{count} {end}")).collect();
                printer::line(format!("{:>10}  {}  {}", "", printer::cell(step, 40), ends.join(", ")));
            }
        }
        // A world that never was is a test that was not made.
        for rule in &report.coverage.unused {
            printer::note(&format!("{}: never applied: {rule}", report.scenario));
        }
    }

    fn show_finding(&self, report: &Report, finding: &Finding, kept: &BTreeSet<PathBuf>) {
        printer::line(format!("{}, seed {}: {}", report.scenario, finding.seed, finding.fault));
        tell(&finding.story, STORY_LINES);
        let mut more =
            format!("shrunk from {} to {}", counted(finding.unusual, "unusual event"), finding.left);
        let file = self.file_of(&report.scenario, finding.seed);
        if kept.contains(&file) {
            more.push_str(&format!("; the run is in {}", file.display()));
        }
        printer::line(format!("{:>10}  {more}", ""));
    }
}

/// The name of a scenario, or another one if several files have the same: reports and files of failures are named
/// by it.
fn name_apart(name: &str, taken: &mut BTreeSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let free = std::iter::once(name.to_owned()).chain(numbered).find(|name| !taken.contains(name));
    let name = free.unwrap_or_else(|| unreachable!("there are numbers enough"));
    taken.insert(name.clone());
    name
}

/// Prints a story; of a long one its beginning and its end.
fn tell(story: &[Event], most: usize) {
    for (n, event) in story.iter().enumerate() {
        let from_end = story.len() - n;
        if n == most && from_end > most {
            printer::line(format!("{:>10}  … {} more", "", story.len() - 2 * most));
        }
        if n < most || from_end <= most {
            printer::line(format!("{:>10}  {}", spell_millis(event.at), event.what));
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, UserError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| UserError::host("WF0821", format!("internal error of the simulation: {error}")))
}

fn cannot_write(file: &Path, error: &std::io::Error) -> UserError {
    UserError::host("WF0822", format!("{} cannot be written: {error}", file.display()))
        .hint("choose another path with --keep DIR or --junit FILE")
}

/// A character as XML 1.0 can have it: it forbids some, which cannot be escaped either.
fn in_xml(c: char) -> char {
    match c {
        '\n' => c,
        c if c.is_control() => ' ',
        '\u{fffe}' | '\u{ffff}' => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// A test case for each scenario, as CI systems read it.
fn junit(module: &str, reports: &[Report]) -> String {
    let quoted = |text: &str| {
        let text: String = text.chars().map(in_xml).collect();
        text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
    };
    let failures = reports.iter().filter(|report| report.failed > 0).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\">\n",
        quoted(module),
        reports.len()
    );
    for report in reports {
        xml.push_str(&format!(
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\">\n",
            quoted(module),
            quoted(&report.scenario),
            report.seconds
        ));
        for finding in &report.findings {
            let story: Vec<_> = finding
                .story
                .iter()
                .map(|event| format!("{}  {}", spell_millis(event.at), event.what))
                .collect();
            xml.push_str(&format!(
                "    <failure message=\"{}\">{}</failure>\n",
                quoted(&format!("seed {}: {}", finding.seed, finding.fault)),
                quoted(&story.join("\n"))
            ));
        }
        if report.executions == 0 {
            xml.push_str("    <skipped/>\n");
        }
        xml.push_str("  </testcase>\n");
    }
    xml.push_str("</testsuite>\n");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_of_the_same_name_are_told_apart() {
        let mut taken = BTreeSet::new();
        let names = ["a", "a", "a-2", "b", "a"].map(|name| name_apart(name, &mut taken));
        assert_eq!(names, ["a", "a-2", "a-2-2", "b", "a-3"]);
    }

    #[test]
    fn what_programs_say_is_no_markup() {
        let xml = junit("a<b", &[]);
        assert!(xml.contains("a&lt;b") && !xml.contains("a<b"));
    }

    /// <https://www.w3.org/TR/xml/#charsets>
    #[test]
    fn a_report_has_only_characters_that_xml_allows() {
        let all: String = (char::MIN..=char::MAX).collect();
        let xml = junit(&all, &[]);
        let is_allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}');
        assert_eq!(xml.chars().find(|c| !is_allowed(*c)), None);
        assert!(xml.contains("\u{fffd}\u{fffd}\u{fffd}\u{10000}"));
    }
}
