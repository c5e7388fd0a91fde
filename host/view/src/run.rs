//! Runs as JSON, `wfhost/run/1`, and as lines.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use wfhost::advice::advice;
use wfhost::clock::rfc3339;
use wfhost::store::{RunInfo, RunState};
use wfhost::world::text::{command, shortened};
use wfhost::{StepInfo, is_held};
use wfhost_core::{Failure, Json, Op, Outcome, Timestamp, Usage};

use crate::Anything;
use crate::hide::{HIDDEN, hide, size};
use crate::raw;

/// A run, as `run`, `ps` and `show` print it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RunView {
    /// How often it was claimed.
    pub attempts: u64,
    /// The first round, if it is one of several.
    pub chain: Option<String>,
    /// The code that explains its failure.
    pub code: Option<&'static str>,
    /// The run that it continues as.
    pub continued_as: Option<String>,
    pub created_at: String,
    /// The number of entries in its journal.
    pub entries: u64,
    #[schema(value_type = Anything)]
    pub failure: Option<Failure>,
    pub hints: Vec<String>,
    pub id: String,
    /// What it was started with, where its journal was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Anything, required = false)]
    pub input: Option<Json>,
    pub key: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// The digest of its module.
    pub module: String,
    /// Commands that one is likely to want next.
    pub next: Vec<String>,
    #[schema(value_type = Anything)]
    pub output: Option<Json>,
    pub parent: Option<String>,
    /// The latest phase that the program named.
    pub phase: Option<String>,
    pub project: Option<String>,
    /// The latest value of each published key, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = BTreeMap<String, Anything>, required = false)]
    pub published: Option<BTreeMap<String, Json>>,
    pub root: String,
    #[schema(example = "wfhost/run/1")]
    pub schema: &'static str,
    pub spent: SpentView,
    pub state: &'static str,
    /// Where its journal was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub steps: Option<Vec<StepView>>,
    pub updated_at: String,
    pub waiting_for: Vec<WaitView>,
    /// What it waits for, or why it failed, on one line.
    pub waits: String,
    /// The process that advances it, if one does.
    pub worker: Option<HolderView>,
    pub workflow: String,
}

/// The process that advances a run.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HolderView {
    /// The name of its machine.
    pub host: String,
    /// Its number there.
    pub pid: u32,
}

/// What the calls of a run itself consumed.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct SpentView {
    /// Millionths of a US dollar.
    pub cost_micros: u64,
    pub tokens: u64,
}

/// Something that a run waits for.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WaitView {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub at: Option<String>,
    /// `time`, `signal`, `people`, or `host` if no process advances it.
    pub kind: &'static str,
    /// Of a signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub name: Option<String>,
}

/// A page of runs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RunsView {
    /// Goes on behind the last one; null if there are no more.
    pub next: Option<String>,
    pub runs: Vec<RunView>,
    #[schema(example = "wfhost/runs/1")]
    pub schema: &'static str,
}

impl RunsView {
    pub fn new(runs: &[RunInfo], next: Option<String>) -> Self {
        Self { schema: "wfhost/runs/1", runs: runs.iter().map(RunView::of).collect(), next }
    }
}

/// A step of a run.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StepView {
    pub attempts: u32,
    pub failed_attempts: Vec<FailedAttemptView>,
    #[schema(value_type = Anything)]
    pub failure: Option<Failure>,
    pub finished_at: Option<String>,
    /// What it asked for.
    #[schema(value_type = Anything)]
    pub input: Box<RawValue>,
    pub kind: &'static str,
    pub label: String,
    #[schema(value_type = Anything)]
    pub output: Option<Json>,
    /// The component that answered, if the provider is a plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub plugin: Option<AnsweringPluginView>,
    pub provider: Option<String>,
    pub started_at: String,
    /// `open`, `cancelled`, `completed` or `failed`.
    pub state: &'static str,
    pub step: u64,
    pub waits_for: Option<String>,
    pub waits_until: Option<String>,
}

/// A plugin that answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AnsweringPluginView {
    /// Of its component.
    #[schema(example = "blake3:51be02..")]
    pub digest: String,
    /// Who signed it, if somebody who is known did.
    pub signer: Option<String>,
}

impl AnsweringPluginView {
    /// What the answer of an agent's step says. That of other steps may have members of the same names.
    pub fn of(info: &StepInfo) -> Option<Self> {
        let (Op::Agent(_), Some((_, Some(Ok(answer))))) = (&info.op, &info.ended) else { return None };
        let answer = answer.value();
        let text = |name: &str| answer.get(name)?.as_str().map(str::to_owned);
        Some(Self { digest: text("plugin")?, signer: text("signer") })
    }
}

impl std::fmt::Display for AnsweringPluginView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.digest)?;
        match &self.signer {
            Some(signer) => write!(f, ", signed by {signer}"),
            None => Ok(()),
        }
    }
}

/// An attempt at an agent call that failed, as far as the journal has it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FailedAttemptView {
    pub again_at: Option<String>,
    pub attempt: u32,
    #[schema(value_type = Anything)]
    pub failure: Failure,
    pub provider: String,
    #[schema(value_type = Anything)]
    pub usage: Option<Usage>,
}

impl RunView {
    /// What is known of a run without its journal.
    pub fn of(info: &RunInfo) -> Self {
        let (output, failure) = parts(info.outcome.as_ref());
        let advice = failure.and_then(|failure| advice(&info.id, failure));
        let text = ToString::to_string;
        Self {
            attempts: info.epoch.0,
            chain: info.links.chain.as_ref().map(text),
            code: advice.as_ref().map(|advice| advice.code),
            continued_as: info.links.next.as_ref().map(text),
            created_at: rfc3339(info.created_at),
            entries: info.entries.0,
            failure: failure.cloned(),
            hints: advice.map(|advice| advice.hints).unwrap_or_default(),
            id: info.id.to_string(),
            input: None,
            key: info.key.clone(),
            labels: info.labels.iter().cloned().collect(),
            module: info.module.to_string(),
            next: next(info),
            output: output.cloned(),
            parent: info.parent.as_ref().map(text),
            phase: info.phase.clone(),
            project: info.project.clone(),
            published: None,
            root: info.links.root.to_string(),
            schema: "wfhost/run/1",
            spent: SpentView { tokens: info.spent.tokens, cost_micros: info.spent.micros },
            state: info.state.as_str(),
            steps: None,
            updated_at: rfc3339(info.updated_at),
            waiting_for: waiting_for(info),
            waits: waits(info),
            worker: info
                .lease
                .as_ref()
                .filter(|_| is_held(info))
                .map(|session| HolderView { host: session.owner.host.clone(), pid: session.owner.pid }),
            workflow: info.workflow.clone(),
        }
    }

    /// The same with the steps.
    #[must_use]
    pub fn with_steps(mut self, steps: &[StepInfo]) -> Self {
        self.steps = Some(steps.iter().map(StepView::of).collect());
        self
    }

    /// Without what it works on.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        hide(&mut self.input);
        hide(&mut self.output);
        for value in self.published.iter_mut().flat_map(BTreeMap::values_mut) {
            *value = size(value.as_str());
        }
        if self.failure.is_some() {
            HIDDEN.clone_into(&mut self.waits);
            // They may quote the message.
            self.hints.clear();
        }
        hide_failure(&mut self.failure);
        self.steps = self.steps.map(|steps| steps.into_iter().map(StepView::hidden).collect());
        self
    }
}

fn hide_failure(failure: &mut Option<Failure>) {
    if let Some(failure) = failure {
        *failure = Failure { message: HIDDEN.to_owned(), details: None, ..failure.clone() };
    }
}

/// How a step is.
fn state(info: &StepInfo) -> &'static str {
    match &info.ended {
        None => "open",
        Some((_, None)) => "cancelled",
        Some((_, Some(Ok(_)))) => "completed",
        Some((_, Some(Err(_)))) => "failed",
    }
}

/// What a step is called where there are many: without what was asked and answered, and without reading it.
#[derive(Clone, Debug)]
pub struct StepOutline {
    pub kind: &'static str,
    pub label: String,
    pub state: &'static str,
}

impl StepOutline {
    /// `may` tells whether what runs work on may be seen.
    pub fn of(info: &StepInfo, may: bool) -> Self {
        let label = if may { info.op.label() } else { HIDDEN.to_owned() };
        Self { kind: info.op.kind(), label, state: state(info) }
    }
}

impl StepView {
    pub fn of(info: &StepInfo) -> Self {
        let state = state(info);
        let (output, failure) = parts(info.ended.as_ref().and_then(|(_, outcome)| outcome.as_ref()));
        let provider = output.and_then(|output| output.value().get("provider").cloned());
        let failed = info.failed.iter().map(|failed| FailedAttemptView {
            again_at: failed.again_at.map(rfc3339),
            attempt: failed.attempt,
            failure: failed.failure.clone(),
            provider: failed.provider.clone(),
            usage: failed.usage,
        });
        Self {
            attempts: info.attempts,
            failed_attempts: failed.collect(),
            failure: failure.cloned(),
            finished_at: info.ended.as_ref().map(|(at, _)| rfc3339(*at)),
            input: raw(&info.op),
            kind: info.op.kind(),
            label: info.op.label(),
            output: output.cloned(),
            plugin: AnsweringPluginView::of(info),
            provider: provider.and_then(|provider| provider.as_str().map(str::to_owned)),
            started_at: rfc3339(info.started_at),
            state,
            step: info.step.0,
            waits_for: info.waits.as_ref().map(|(_, reason)| reason.clone()),
            waits_until: info.waits.as_ref().map(|(at, _)| rfc3339(*at)),
        }
    }

    /// Without what was asked and answered.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.input = raw(&size(self.input.get()));
        hide(&mut self.output);
        hide_failure(&mut self.failure);
        HIDDEN.clone_into(&mut self.label);
        self.waits_for = self.waits_for.map(|_| HIDDEN.to_owned());
        for failed in &mut self.failed_attempts {
            failed.failure = Failure { message: HIDDEN.to_owned(), details: None, ..failed.failure.clone() };
        }
        self
    }
}

/// What came out, and why nothing did.
pub fn parts(outcome: Option<&Outcome>) -> (Option<&Json>, Option<&Failure>) {
    (outcome.and_then(|outcome| outcome.as_ref().ok()), outcome.and_then(|outcome| outcome.as_ref().err()))
}

/// What a run waits for, as far as that is known without its journal.
fn waiting_for(info: &RunInfo) -> Vec<WaitView> {
    let mut waits = Vec::new();
    let wait = |kind| WaitView { at: None, kind, name: None };
    if let Some(waiting) = &info.waiting {
        waits.extend(waiting.until.map(|at| WaitView { at: Some(rfc3339(at)), ..wait("time") }));
        let signals = waiting.signals.iter();
        waits.extend(signals.map(|name| WaitView { name: Some(name.clone()), ..wait("signal") }));
        waits.extend(waiting.people.then(|| wait("people")));
    } else if info.state == RunState::Running && !is_held(info) {
        waits.push(wait("host"));
    }
    waits
}

/// The commands that one is likely to want next.
fn next(info: &RunInfo) -> Vec<String> {
    let id = &info.id;
    let signals = info.waiting.iter().flat_map(|waiting| &waiting.signals);
    let mut next: Vec<_> =
        signals.map(|name| command("signal", id).arg(name).option("-i", "JSON").to_string()).collect();
    if !info.state.is_final() && !is_held(info) {
        next.push(command("resume", id).to_string());
    }
    next
}

/// The runs that this one belongs to, and what they are to it.
pub fn relatives(info: &RunInfo) -> Vec<(&'static str, String)> {
    let links = &info.links;
    let step = links.step.map(|step| format!(", step {step}")).unwrap_or_default();
    let parent = info.parent.as_ref().map(|parent| ("parent", format!("{parent}{step}")));
    let root = (info.parent.is_some() && info.parent.as_ref() != Some(&links.root))
        .then(|| ("root", links.root.to_string()));
    let first = links.chain.as_ref().filter(|first| **first != info.id);
    let first = first.map(|first| ("chain", format!("begins with {first}")));
    let next = links.next.as_ref().map(|next| ("goes on", format!("as {next}")));
    [parent, root, first, next].into_iter().flatten().collect()
}

/// Bytes of a failure's message where it is told why a run does not go on.
const WAITS_BYTES: usize = 1 << 10;

/// What a run waits for in a few words.
pub fn waits(info: &RunInfo) -> String {
    match (&info.waiting, &info.outcome) {
        (Some(waiting), _) => {
            let signals = waiting.signals.iter().map(|name| format!("signal {name}"));
            let until = waiting.until.map(|at| format!("until {}", rfc3339(at)));
            signals.chain(until).collect::<Vec<_>>().join(", ")
        }
        (None, Some(Err(failure))) => {
            let first = failure.message.lines().next().unwrap_or_default();
            shortened(first, WAITS_BYTES).into_owned()
        }
        (None, _) if info.state == RunState::Running && !is_held(info) => "no process advances it".to_owned(),
        // What it did last is no reason to wait any more.
        (None, _) if info.state.is_final() => String::new(),
        (None, _) => info.phase.clone().unwrap_or_default(),
    }
}

/// How long ago, in a few characters.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    wfhost_core::spell_seconds(now.since(at))
}

/// A step's end in a few words.
pub fn ended(info: &StepInfo) -> (&'static str, String) {
    match &info.ended {
        None => ("▸", "open".to_owned()),
        Some((_, None)) => ("–", "cancelled".to_owned()),
        Some((at, Some(Ok(_)))) => ("✓", wfhost_core::spell_millis(at.since(info.started_at))),
        Some((_, Some(Err(failure)))) => ("✗", failure.to_string()),
    }
}

/// An outcome on one line.
pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Ok(json) => json.as_str().to_owned(),
        Err(failure) => failure.to_string(),
    }
}
