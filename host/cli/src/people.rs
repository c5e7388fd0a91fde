//! `wfhost inbox`, `answer`, `approve`, `deny`

use wfhost::clock::rfc3339;
use wfhost::store::{MessageBody, OpenQuestion, RunInfo, Store};
use wfhost::world::environment;
use wfhost_core::{Failure, FailureKind, Outcome, RunId, Step, Timestamp};
use wfhost_view::{InboxView, QuestionView, ago, answer_commands};

use super::diagnostic::{Exit, UserError};
use super::place::{count_arg, find_run, json_arg};
use super::signal::say_next;
use super::{Common, Format, printer};

/// List open questions of runs to people, oldest first
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost inbox
  wfhost inbox run_01k9 -o json")]
pub(crate) struct Inbox {
    /// Only questions of this run
    run: Option<String>,
    /// The maximum number of questions
    #[arg(short = 'n', long, default_value_t = 100, value_parser = count_arg)]
    limit: usize,
}

impl Inbox {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let run = match &self.run {
            Some(run) => Some(find_run(store.as_ref(), run).await?.id),
            None => None,
        };
        let questions = store.questions(run.as_ref(), Some(store.now()), self.limit).await?;
        match common.output {
            Format::Json => {
                printer::json(&InboxView::of(&questions));
            }
            Format::Jsonl => questions.iter().for_each(|question| printer::json(&QuestionView::of(question))),
            Format::Text if questions.is_empty() => printer::say(common, "Inbox", "no open questions"),
            Format::Text => questions.iter().for_each(|open| print(open, store.now())),
        }
        Ok(Exit::Done)
    }
}

fn print(open: &OpenQuestion, now: Timestamp) {
    let ago = ago(open.asked_at, now);
    let until = open.deadline.map(|at| format!(", until {}", rfc3339(at))).unwrap_or_default();
    printer::line(format!("{}  step {}  {}  asked {ago} ago{until}", open.run, open.step, open.workflow));
    for line in open.question.prompt.lines() {
        printer::line(format!("    {line}"));
    }
    if !open.question.choices.is_empty() {
        printer::line(format!("    choices  {}", open.question.choices.join(", ")));
    }
    for (name, json) in [("details", &open.question.details), ("schema", &open.question.schema)] {
        if let Some(json) = json {
            printer::line(format!("    {name:<8} {json}"));
        }
    }
    if let Some(command) = answer_commands(open).first() {
        printer::line(format!("    do       {command}"));
    }
}

/// Which question, and who answers.
#[derive(clap::Args)]
struct Which {
    /// An id, the beginning of one, @last, @last:2
    run: String,
    /// The number of the step that asks [default: the oldest open question]
    step: Option<u64>,
    /// Who answers, for the journal [default: the user of this process]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// A note for the journal
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

impl Which {
    /// The run and the step that asks.
    async fn question(&self, store: &dyn Store) -> Result<(RunInfo, Step), UserError> {
        let info = find_run(store, &self.run).await?;
        if info.state.is_final() {
            return Err(wfhost::HostError::Ended { run: info.id }.into());
        }
        let step = match self.step {
            Some(step) => Step(step),
            None => {
                let oldest = store.questions(Some(&info.id), Some(store.now()), 1).await?.pop();
                let missing = || wfhost::HostError::NoQuestion { run: info.id.clone(), step: None };
                oldest.ok_or_else(missing)?.step
            }
        };
        Ok((info, step))
    }

    async fn answer(
        &self,
        common: &Common,
        outcome: impl FnOnce(&str) -> Outcome,
    ) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let (info, step) = self.question(store.as_ref()).await?;
        let by = self.by.clone().or_else(|| environment::text(environment::USER)).filter(|by| !by.is_empty());
        let outcome = outcome(by.as_deref().unwrap_or("somebody"));
        let word = if outcome.is_ok() { "Answered" } else { "Denied" };
        for text in [&by, &self.note].into_iter().flatten() {
            wfhost_core::limits::check("a name or a note", text.len(), 64 << 10)
                .map_err(wfhost::HostError::from)?;
        }
        let body = MessageBody::Answer { step, outcome, by, note: self.note.clone() };
        let run: &RunId = &info.id;
        wfhost::post(&store, run, body).await?;
        printer::say(common, word, &format!("step {step} of {run}"));
        say_next(common, &info);
        Ok(Exit::Done)
    }
}

/// Answer a question of a run
///
/// The answer has to be one of the choices and match the schema, if the question
/// has them; otherwise the question stays open.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost answer @last -i '\"green\"'
  wfhost answer run_01k9 4 -i @answer.json --by ada --note 'as discussed'")]
pub(crate) struct Answer {
    #[command(flatten)]
    which: Which,
    /// The answer: JSON, @FILE, or - for stdin
    #[arg(short, long, value_name = "JSON", allow_negative_numbers = true)]
    input: String,
}

impl Answer {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let answer = json_arg("the answer", &self.input)?;
        self.which.answer(common, |_| Ok(answer)).await
    }
}

/// Answer a question with true, or with the value of --input
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost approve @last --by ada
  wfhost approve run_01k9 4 -i '{\"ok\":true}'")]
pub(crate) struct Approve {
    #[command(flatten)]
    which: Which,
    /// The answer: JSON, @FILE, or - for stdin
    #[arg(short, long, default_value = "true", value_name = "JSON", allow_negative_numbers = true)]
    input: String,
}

impl Approve {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let answer = json_arg("the answer", &self.input)?;
        self.which.answer(common, |_| Ok(answer)).await
    }
}

/// Reject a question: the program gets the failure `rejected`
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost deny @last --by ada --note 'too expensive'")]
pub(crate) struct Deny {
    #[command(flatten)]
    which: Which,
}

impl Deny {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let note = self.which.note.clone();
        let denied = |by: &str| {
            let why = note.map(|note| format!(": {note}")).unwrap_or_default();
            Err(Failure::new(FailureKind::Rejected, format!("{by} denied it{why}")))
        };
        self.which.answer(common, denied).await
    }
}
