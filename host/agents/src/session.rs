//! Conversations: whose they are, and what was said in them.
//!
//! The journal has every question and every answer, with the id that the
//! answer's provider gave its conversation. So what was said before is found by
//! going from an answer to the one that it went on from, and so on. For agents
//! that keep no conversations themselves the id is just the step of the
//! answer, `RUN/STEP`. Nothing changes what such an id stands for: to continue
//! one twice is to fork.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use wfhost_core::{Event, FailureKind, Json, Op, Outcome, Position, Reply, RunId, Step, decode_op};

use super::call::opening;
use super::{CallFailure, Records};

/// Turns of one conversation; what came before is left out.
const TURNS: usize = 200;
/// Bytes of them together.
const HISTORY_BYTES: usize = 4 << 20;
/// Bytes of conversations that are kept in memory.
const KEPT_BYTES: usize = 32 << 20;
/// What a call takes besides its texts, about, and its conversation as well.
const TURN_BYTES: usize = 200;

/// The id of the conversation that ends with the answer to a step.
pub(super) fn id(run: &RunId, step: Step) -> String {
    format!("{run}/{step}")
}

/// Who asks to continue a conversation.
pub(super) struct Asks<'a> {
    pub run: &'a RunId,
    pub provider: &'a str,
    /// Whether the provider keeps conversations itself.
    pub keeps: bool,
    /// Whether it is the one that is asked first.
    pub is_first: bool,
}

/// How a provider continues a conversation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GoesOn {
    /// By its own id.
    pub session: Option<String>,
    /// By what was asked and answered, oldest first.
    pub history: Vec<(Arc<str>, Arc<str>)>,
}

/// The conversations of runs, read from their journals and kept as long as
/// there is room. One for each host.
#[derive(Debug, Default)]
pub(crate) struct Known {
    kept: Mutex<Kept>,
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Kept {
    runs: HashMap<RunId, Arc<Spoken>>,
    /// The one used last is at the end.
    used: VecDeque<RunId>,
    bytes: usize,
}

/// What was said in the calls of one run.
#[derive(Clone, Debug, Default)]
struct Spoken {
    /// Where the journal has not been read.
    end: Position,
    steps: HashMap<Step, Arc<Said>>,
    /// The steps whose answers bore that id. Some agents keep it from turn to turn.
    sessions: HashMap<String, BTreeSet<Step>>,
    bytes: usize,
}

#[derive(Debug)]
struct Said {
    asked: Arc<str>,
    /// The conversation that it went on with.
    after: Option<String>,
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Answer {
    text: Arc<str>,
    provider: String,
}

impl Known {
    /// How a provider continues the conversation `id`. The id of one
    /// provider means nothing to another one, which is told what was said.
    ///
    /// # Errors
    ///
    /// `Rejected` if there is no such conversation in the run's family, and the
    /// provider could not have it itself.
    pub(super) async fn resume(
        &self,
        records: &dyn Records,
        asks: Asks<'_>,
        id: &str,
    ) -> Result<GoesOn, CallFailure> {
        let found = self.find(records, asks.run, id).await?;
        let Some((spoken, step)) = found else {
            // The user may have begun it elsewhere.
            let foreign = asks.keeps && asks.is_first && own_id(id).is_none();
            return match foreign {
                true => Ok(GoesOn { session: Some(id.to_owned()), history: Vec::new() }),
                false => Err(CallFailure::new(
                    FailureKind::Rejected,
                    format!("this run and its family have no conversation `{id}` to continue"),
                )),
            };
        };
        let by = spoken.steps.get(&step).and_then(|said| Some(said.answer.as_ref()?.provider.as_str()));
        if asks.keeps && by == Some(asks.provider) && own_id(id).is_none() {
            return Ok(GoesOn { session: Some(id.to_owned()), history: Vec::new() });
        }
        Ok(GoesOn { session: None, history: self.history(records, asks.run, spoken, step).await? })
    }

    /// What was said up to the answer to a step. What is not there any more is left out.
    async fn history(
        &self,
        records: &dyn Records,
        run: &RunId,
        spoken: Arc<Spoken>,
        step: Step,
    ) -> Result<Vec<(Arc<str>, Arc<str>)>, CallFailure> {
        let mut said = Vec::new();
        let mut bytes = 0_usize;
        let mut next = Some((spoken, step));
        while let Some((spoken, step)) = next.take() {
            let Some(turn) = spoken.steps.get(&step) else { break };
            let Some(answer) = &turn.answer else { break };
            bytes += turn.asked.len() + answer.text.len();
            // The last turn is always there.
            if !said.is_empty() && (bytes > HISTORY_BYTES || said.len() >= TURNS) {
                break;
            }
            said.push((Arc::clone(&turn.asked), Arc::clone(&answer.text)));
            next = match &turn.after {
                Some(after) => match spoken.last(after, Some(step)) {
                    Some(step) => Some((Arc::clone(&spoken), step)),
                    // The first turn of it.
                    None if spoken.sessions.contains_key(after) => None,
                    None => self.find(records, run, after).await?,
                },
                None => None,
            };
        }
        said.reverse();
        Ok(said)
    }

    /// The answer that ended the conversation `id`: of the run, one of its
    /// family that the id names, its parents or its earlier rounds.
    async fn find(
        &self,
        records: &dyn Records,
        run: &RunId,
        id: &str,
    ) -> Result<Option<(Arc<Spoken>, Step)>, CallFailure> {
        let spoken = self.read(records, run).await?;
        if let Some(step) = spoken.last(id, None) {
            return Ok(Some((spoken, step)));
        }
        if let Some((of, step)) = own_id(id) {
            // What other families say to their agents is none of this one's business.
            let root = records.root_of(&of).await?;
            if root.is_none() || root != records.root_of(run).await? {
                return Ok(None);
            }
            let spoken = self.read(records, &of).await?;
            return Ok(spoken.steps.contains_key(&step).then_some((spoken, step)));
        }
        for relative in records.relatives(run).await? {
            let spoken = self.read(records, &relative).await?;
            if let Some(step) = spoken.last(id, None) {
                return Ok(Some((spoken, step)));
            }
        }
        Ok(None)
    }

    /// What was said in a run up to now. What was read before is not read again.
    async fn read(&self, records: &dyn Records, run: &RunId) -> Result<Arc<Spoken>, CallFailure> {
        // One at a time: what is being read is read once.
        let _reading = self.reading.lock().await;
        let mut spoken = self.lock().take(run).unwrap_or_default();
        let rows = records.journal(run, spoken.end).await?;
        if !rows.is_empty() {
            let new = Arc::make_mut(&mut spoken);
            for row in rows {
                new.take(row);
            }
        }
        self.keep(run, Arc::clone(&spoken));
        Ok(spoken)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, run: &RunId, spoken: Arc<Spoken>) {
        let mut kept = self.lock();
        kept.bytes += spoken.bytes;
        kept.runs.insert(run.clone(), spoken);
        kept.used.push_back(run.clone());
        while kept.bytes > KEPT_BYTES
            && let Some(oldest) = kept.used.front().cloned()
        {
            kept.take(&oldest);
        }
    }
}

impl Kept {
    fn take(&mut self, run: &RunId) -> Option<Arc<Spoken>> {
        let spoken = self.runs.remove(run)?;
        self.used.retain(|other| other != run);
        self.bytes -= spoken.bytes;
        Some(spoken)
    }
}

impl Spoken {
    /// The last step whose answer bore that id, before another one.
    fn last(&self, id: &str, before: Option<Step>) -> Option<Step> {
        let steps = self.sessions.get(id)?;
        match before {
            Some(step) => steps.range(..step).next_back().copied(),
            None => steps.last().copied(),
        }
    }

    fn take(&mut self, row: wfhost_core::Row) {
        for entry in row.entries() {
            // A journal that cannot be read says nothing more.
            let Ok((position, entry)) = entry else { break };
            match &entry.event {
                Event::Scheduled { step, op } => {
                    if let Ok(Op::Agent(request)) = decode_op(op, position) {
                        let asked = opening(&request).into();
                        let said = Said { asked, after: request.session, answer: None };
                        self.bytes +=
                            TURN_BYTES + said.asked.len() + said.after.as_ref().map_or(0, String::len);
                        self.steps.insert(*step, Arc::new(said));
                    }
                }
                Event::Completed { step, outcome, .. } | Event::Answered { step, outcome, .. } => {
                    if let Some(said) = self.steps.get_mut(step)
                        && let Ok(json) = Outcome::from(outcome.clone())
                        && let Ok(reply) = serde_json::from_str::<Reply>(json.as_str())
                    {
                        let answer = Answer { text: text(&reply.output).into(), provider: reply.provider };
                        self.bytes += answer.text.len() + answer.provider.len();
                        let Said { asked, after, .. } = &**said;
                        let (asked, after) = (asked.clone(), after.clone());
                        *said = Arc::new(Said { asked, after, answer: Some(answer) });
                        if let Some(session) = reply.session {
                            self.bytes += TURN_BYTES;
                            if !self.sessions.contains_key(&session) {
                                self.bytes += session.len();
                            }
                            self.sessions.entry(session).or_default().insert(*step);
                        }
                    }
                }
                _ => {}
            }
        }
        self.end = row.end();
    }
}

/// What an id stands for that the host gave.
fn own_id(id: &str) -> Option<(RunId, Step)> {
    let (run, step) = id.rsplit_once('/')?;
    Some((run.parse().ok()?, Step(step.parse().ok()?)))
}

fn text(output: &Json) -> String {
    match output.value() {
        serde_json::Value::String(text) => text,
        _ => output.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use wfhost_core::{AgentRequest, Entry, Row, Timestamp, encode_op};

    use super::*;

    #[test]
    fn ids_and_the_number_of_calls_count_as_what_is_kept() {
        let mut spoken = Spoken::default();
        let calls = 1_000;
        let mut bytes = Vec::new();
        let mut add = |event: Event| Entry::behind(Timestamp(1), Timestamp(1), event).encode_to(&mut bytes);
        for step in (1..=calls).map(Step) {
            let request = AgentRequest { session: Some("s".repeat(200)), ..AgentRequest::default() };
            add(Event::Scheduled { step, op: encode_op(&Op::Agent(Box::new(request))).into() });
            let reply = Reply { session: Some(format!("{step:0>10000}")), ..Reply::new("p", Json::null()) };
            add(Event::Completed {
                step,
                outcome: Outcome::Ok(Json::of(&reply).unwrap()).into(),
                timing: None,
            });
        }
        spoken.take(Row {
            first: Position(0),
            count: 2 * calls as u32,
            bytes,
            head: wfhost_core::Digest::of(b""),
        });
        assert_eq!(spoken.sessions.len(), calls as usize);
        assert!(spoken.bytes > calls as usize * 10_400, "{}", spoken.bytes);
    }
}
