//! One step of a run: what was asked, how it was answered, and another answer to go on from.

use askama::Template;
use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use wfhost::ForkOptions;
use wfhost::store::{TranscriptFilter, TranscriptKind};
use wfhost_core::{ForkPlan, Position, Step, Timestamp};
use wfhost_view::{StepView, TranscriptView, UserError};

use super::gantt::{Bar, chart, length};
use super::inbox::Asked;
use super::run::{curl, path};
use super::subject::Subject;
use super::text::{Time, pretty};
use super::{Error, Fault, Form, Shell, Visitor, is_of_form, need, page, shown, then};
use crate::api::run_id;
use crate::app::App;
use crate::auth::{Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> Router<App> {
    Router::new().route("/ui/runs/{run}/steps/{step}", get(show)).route("/ui/runs/{run}/fork", post(fork))
}

/// Lines of a transcript on the page.
const LINES: usize = 500;

/// An attempt at a call.
struct Tried {
    number: u32,
    state: &'static str,
    from: Time,
    length: String,
    failure: String,
    /// The delay before it.
    after: String,
    /// How long it waited until the provider was asked.
    waited: String,
    /// How long after that the provider was heard of first.
    first: String,
}

/// What an agent said or changed, a part of the same kind at a time.
struct Said {
    kind: &'static str,
    attempt: u32,
    text: String,
}

#[derive(Template)]
#[template(path = "step.html")]
struct StepPage {
    shell: Shell,
    run: String,
    path: String,
    bar: Bar,
    from: Time,
    length: String,
    request: String,
    answer: Option<String>,
    plugin: Option<String>,
    failure: Option<String>,
    waits: Option<(String, Time)>,
    tried: Vec<Tried>,
    said: Vec<Said>,
    question: Option<Asked>,
    may_answer: bool,
    may_fork: bool,
    /// Another answer that was not taken, and why.
    edited: Option<String>,
    error: Option<Error>,
    previous: Option<u64>,
    next: Option<u64>,
    cli: String,
    curl: String,
    back: &'static str,
}

/// Puts lines of the same kind together.
fn gathered(lines: &[TranscriptView]) -> Vec<Said> {
    let mut said: Vec<Said> = Vec::new();
    for line in lines {
        match said.last_mut().filter(|last| last.kind == line.kind && last.attempt == line.attempt) {
            Some(last) => last.text.push_str(&line.text),
            None => said.push(Said { kind: line.kind, attempt: line.attempt, text: line.text.clone() }),
        }
    }
    said
}

/// The time between two points, if both are known and differ.
fn span(from: Option<u64>, to: Option<u64>) -> String {
    let between = from.zip(to).map(|(from, to)| to.saturating_sub(from)).filter(|between| *between > 0);
    between.map(wfhost_core::spell_millis).unwrap_or_default()
}

/// What an attempt failed of: that is said of it, or it is how the step failed.
fn failure_of(attempt: &super::gantt::Attempt, is_last: bool, view: &StepView) -> Option<String> {
    if attempt.state != "failed" {
        return None;
    }
    let known = view.failed_attempts.iter().find(|failed| failed.attempt == attempt.number);
    let failure = known.map(|failed| &failed.failure).or(view.failure.as_ref().filter(|_| is_last));
    failure.map(ToString::to_string)
}

fn tried(bar: &Bar, view: &StepView, now: Timestamp) -> Vec<Tried> {
    let mut before = None;
    let count = bar.attempts.len();
    let attempt = |(index, attempt): (usize, &super::gantt::Attempt)| {
        let end = |to: u64| wfhost_core::spell_millis(to.saturating_sub(attempt.from));
        let delay = before.map(|to: u64| attempt.from.saturating_sub(to)).filter(|delay| *delay > 0);
        before = attempt.to;
        Tried {
            number: attempt.number,
            state: attempt.state,
            from: Time::of(Timestamp(attempt.from), now),
            length: attempt.to.map(end).unwrap_or_default(),
            failure: failure_of(attempt, index + 1 == count, view).unwrap_or_default(),
            after: delay.map(wfhost_core::spell_millis).unwrap_or_default(),
            waited: span(Some(attempt.from), attempt.sent),
            first: span(attempt.sent.or(Some(attempt.from)), attempt.first),
        }
    };
    bar.attempts.iter().enumerate().map(attempt).collect()
}

async fn show(subject: Subject, Path((_, step)): Path<(String, u64)>) -> Result<Response, Fault> {
    page(&step_page(subject, step).await?)
}

async fn step_page(subject: Subject, step: u64) -> Result<StepPage, Fault> {
    let may = subject.may;
    let mut chart = subject.journal(move |journal| chart(&journal, may)).await?;
    if !subject.info.state.is_final() {
        let known = subject.turns(vec![Step(step)]).await?;
        chart.take(&known);
    }
    let (may_fork, may_answer) = (subject.can_fork(), subject.can(Scope::PeopleAnswer));
    let Subject { app, who, info, run, path, .. } = subject;
    let count = chart.bars.len() as u64;
    let index = (step as usize).wrapping_sub(1);
    let missing = || UserError::usage("WF0705", format!("{run} has no step {step}"));
    let bar = chart.bars.get(index).cloned().ok_or_else(missing)?;
    let view = StepView::of(&chart.infos[index]);
    let view = if may { view } else { view.hidden() };
    let mut said = Vec::new();
    let mut question = None;
    if may {
        let id = info.id.clone();
        let filter = TranscriptFilter { after: 0, step: Some(Step(step)), kinds: Vec::new() };
        let lines = app.read(async move |store| store.transcript(&id, filter, LINES).await).await?;
        // Their times are those of the attempts above.
        let lines = lines.iter().filter(|line| line.line.kind != TranscriptKind::Queue);
        said = gathered(&lines.map(TranscriptView::of).collect::<Vec<_>>());
        question = super::inbox::asked(&app, Some(info.id.clone()))
            .await?
            .into_iter()
            .find(|asked| asked.step == step);
    }
    let shell = Shell::new(&app, &who, format!("Step {step} of {run}"), "runs").await?;
    let now = app.store().now();
    let open = bar.to.is_none() && !info.state.is_final();
    Ok(StepPage {
        shell: if open { shell.live(run.clone()) } else { shell },
        path,
        from: Time::parse(&view.started_at, now),
        length: length(&bar),
        request: pretty(view.input.get()),
        answer: view.output.as_ref().map(|json| pretty(json.as_str())),
        plugin: view.plugin.as_ref().map(ToString::to_string),
        failure: view.failure.as_ref().map(ToString::to_string),
        waits: view.waits_for.clone().zip(view.waits_until.as_deref().map(|at| Time::parse(at, now))),
        tried: tried(&bar, &view, now),
        said,
        question,
        may_answer,
        may_fork,
        edited: None,
        error: None,
        previous: step.checked_sub(1).filter(|previous| *previous > 0),
        next: (step < count).then_some(step + 1),
        cli: format!("wfhost show {run} --io"),
        curl: curl(&app, &format!("/api/v1/runs/{run}/steps/{step}")),
        back: "run",
        bar,
        run,
    })
}

#[derive(Clone, Deserialize)]
struct ForkAsked {
    /// The step of whose page the form is.
    #[serde(default)]
    step: Option<u64>,
    /// The first entry that is left out.
    #[serde(default)]
    at: Option<u64>,
    /// The entry whose answer is another one.
    #[serde(default)]
    entry: Option<u64>,
    #[serde(default)]
    answer: String,
    /// Only look.
    #[serde(default)]
    preview: Option<String>,
}

#[derive(Template)]
#[template(path = "fork.html")]
struct ForkPage {
    shell: Shell,
    run: String,
    path: String,
    entries: u64,
    at: Option<u64>,
    entry: Option<u64>,
    step: Option<u64>,
    answer: String,
    open: Vec<StepView>,
}

async fn fork(
    State(app): State<App>,
    Visitor(who): Visitor,
    Path(run): Path<String>,
    Form(asked): Form<ForkAsked>,
) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::RunsControl, Scope::RunsStart, Scope::PayloadsRead])?;
    match forked(&app, &who, &run, asked.clone()).await {
        Err(Fault(problem)) if is_of_form(&problem) && asked.entry.is_some() => {
            again(&app, who, run, asked, problem).await
        }
        forked => forked,
    }
}

/// The page of the step once more, with the answer that was filled in and what is wrong with it; the problem itself if
/// there is no such page.
async fn again(
    app: &App,
    who: Identity,
    run: String,
    asked: ForkAsked,
    problem: Problem,
) -> Result<Response, Fault> {
    let Some(step) = asked.step else { return Err(problem.into()) };
    let page = match Subject::find(app, who, run).await {
        Ok(subject) => step_page(subject, step).await,
        Err(fault) => Err(fault),
    };
    let (edited, error) = (Some(asked.answer), Some(Error::of(&problem)));
    match page {
        Ok(page) => {
            let shell = page.shell.answering();
            shown(problem.status(), &StepPage { shell, edited, error, ..page })
        }
        Err(_) => Err(problem.into()),
    }
}

/// Makes the fork, or shows what it would be.
async fn forked(app: &App, who: &Identity, run: &str, asked: ForkAsked) -> Result<Response, Fault> {
    let id = run_id(run)?;
    let edits = match asked.entry {
        Some(entry) => vec![(Position(entry), super::json_of("the answer", &asked.answer)?)],
        None => Vec::new(),
    };
    // Behind another answer nothing of what was is kept.
    let at = asked.at.or(asked.entry.map(|entry| entry.saturating_add(1))).map(Position);
    let options =
        ForkOptions { plan: ForkPlan { at, edits, input: None }, reuse: false, module: None, id: None };
    if asked.preview.is_some() {
        let preview = app.host().preview_fork(&id, options).await?;
        return page(&ForkPage {
            shell: Shell::new(app, who, format!("Fork of {run}"), "runs").await?,
            path: path(run),
            run: run.to_owned(),
            entries: preview.entries,
            at: at.map(|at| at.0),
            entry: asked.entry,
            step: asked.step,
            answer: asked.answer,
            open: preview.open.iter().map(StepView::of).collect(),
        });
    }
    let made = app.host().fork(&id, options).await?;
    app.record(who, "runs.fork", run, made.as_str()).await?;
    Ok(then(&path(made.as_str()), "started"))
}

#[cfg(test)]
mod tests {
    use wfhost_core::{Event, Failure, FailureKind, Outcome};

    use super::super::gantt::tests::{attempted, charted, dropped, failed};
    use super::*;

    #[test]
    fn each_attempt_has_its_own_failure_beside_it() {
        let told = |events| {
            let charted = charted(events);
            let tried = tried(&charted.bars[0], &StepView::of(&charted.infos[0]), Timestamp(0));
            tried.into_iter().map(|one| (one.number, one.state, one.failure)).collect::<Vec<_>>()
        };
        let retried = || Event::Retried { from: Position(1), step: Some(Step(1)), emissions: 0 };
        let ended = |why| {
            let failure: Outcome = Err(Failure::new(FailureKind::Unavailable, why));
            Event::Completed { step: Step(1), outcome: failure.into(), timing: None }
        };
        let unavailable = |attempt| failed(attempt, FailureKind::Unavailable, Some(99));
        let told_as = |attempts: &[(u32, &'static str, &str)]| {
            let owned = attempts.iter().map(|&(number, state, failure)| (number, state, failure.to_owned()));
            owned.collect::<Vec<_>>()
        };
        // The loser of a race did not fail, and there is a record of what it consumed.
        let lost =
            vec![dropped(1), Event::Cancelled { step: Step(1) }, retried(), attempted(2), unavailable(2)];
        assert_eq!(told(lost), told_as(&[(1, "lost", ""), (2, "failed", "unavailable: number 2")]));
        let late = vec![attempted(2), dropped(1), unavailable(2), attempted(3)];
        assert_eq!(
            told(late),
            told_as(&[(1, "lost", ""), (2, "failed", "unavailable: number 2"), (3, "open", "")])
        );
        // How a step failed at last is about its last attempt.
        let last = vec![unavailable(1), attempted(2), ended("at last")];
        assert_eq!(
            told(last),
            told_as(&[(1, "failed", "unavailable: number 1"), (2, "failed", "unavailable: at last")])
        );
        let twice = vec![ended("before"), retried(), attempted(2), ended("at last")];
        assert_eq!(told(twice), told_as(&[(1, "failed", ""), (2, "failed", "unavailable: at last")]));
    }
}
