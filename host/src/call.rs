//! Calls into running workflows: a signal that the program answers.
//!
//! A call of the name `n` is a signal `call:n` with the payload `{"id": ID, "input": INPUT}`. The program
//! answers by posting a message `reply:ID` with `{"ok": OUTPUT}` or `{"error": TEXT}`. Both are recorded
//! like all signals and messages, so nothing is lost or answered twice, whichever process dies.

use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use wfhost_core::{Event, Json, Position, RunId, limits};
use wfhost_store::{Inbox, MessageBody, Part, Posted, RunFilter, RunState};

use crate::host::{Host, HostError};

/// Bytes of an id.
pub const ID_BYTES: usize = 200;
/// What the name of the signal begins with.
const PREFIX: &str = "call:";
/// Messages that are read at once.
const PAGE: usize = 500;
/// Rounds that are looked through at once.
const ROUNDS: usize = 100;

/// A call.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    /// Calls with the same id are one, so they have the same name.
    pub id: String,
    pub input: Json,
}

/// What became of a call.
#[derive(Clone, PartialEq, Debug)]
pub enum Called {
    /// By that round of the run.
    Answered { run: RunId, output: Json },
    /// The program does not want to.
    Refused { run: RunId, message: String },
    /// It has not answered in time. It may still.
    Open { run: RunId },
}

/// A reply, as programs write it.
fn read(payload: &Json) -> Result<Json, String> {
    let mut members = match serde_json::from_str::<std::collections::BTreeMap<String, Json>>(payload.as_str())
    {
        Ok(members) => members,
        Err(error) => return Err(format!("its reply cannot be read: {error}")),
    };
    match (members.remove("ok"), members.remove("error")) {
        (Some(output), _) => Ok(output),
        (None, Some(error)) => Err(error.value().as_str().map_or_else(|| error.to_string(), str::to_owned)),
        (None, None) => Err("its reply has neither `ok` nor `error`".to_owned()),
    }
}

impl Call {
    /// Makes the call, or finds that it was made, and waits for the answer. `changes` tells that
    /// something was committed; `ending`, once it is true, that nothing waits any more.
    pub async fn make(
        &self,
        host: &Host,
        run: &RunId,
        mut changes: watch::Receiver<u64>,
        mut ending: watch::Receiver<bool>,
        patience: Duration,
    ) -> Result<Called, HostError> {
        limits::check("the name of a call", self.name.len(), limits::NAME_BYTES - PREFIX.len())?;
        limits::check("the id of a call", self.id.len(), ID_BYTES)?;
        let until = Instant::now() + patience;
        let before = host.store().run(run).await?.ok_or_else(|| HostError::NoSuchRun(run.clone()))?;
        // Both parts are JSON as they were given.
        let payload = format!("{{\"id\":{},\"input\":{}}}", json!(self.id), self.input);
        let payload = Json::parse(payload).map_err(|_| limits::TooLarge {
            what: "the input of a call",
            size: self.input.as_str().len(),
            limit: limits::SIGNAL_BYTES,
        })?;
        let body = MessageBody::Signal {
            name: format!("{PREFIX}{}", self.name),
            payload,
            id: Some(self.signal_id()),
        };
        let (posted, mut run) = host.post(run, body).await?;
        if posted == Posted::Duplicate
            && let Some((taken_by, name)) = self.made_before(host, &run).await?
        {
            if name != self.name {
                return Err(HostError::OtherCall { run: taken_by, id: self.id.clone(), name });
            }
            // The reply may be that round's.
            run = taken_by;
        }
        // What was asked anew is answered behind what there was.
        let mut after = match posted == Posted::Added && run == before.id {
            true => before.emissions.checked_sub(1),
            false => None,
        };
        let wanted = format!("reply:{}", self.id);
        loop {
            changes.borrow_and_update();
            // Looked at before the messages are read, so that none is missed at the end.
            let info = host.store().run(&run).await?.ok_or_else(|| HostError::NoSuchRun(run.clone()))?;
            loop {
                let messages = host.store().messages(&run, after, PAGE).await?;
                if let Some(reply) = messages.iter().find(|message| message.name == wanted) {
                    return Ok(match read(&reply.payload) {
                        Ok(output) => Called::Answered { run, output },
                        Err(message) => Called::Refused { run, message },
                    });
                }
                after = messages.last().map(|message| message.number).or(after);
                if messages.len() < PAGE {
                    break;
                }
            }
            match info.links.next {
                Some(next) if info.state == RunState::Continued => {
                    (run, after) = (next, None);
                    continue;
                }
                _ if info.state.is_final() => return Err(HostError::Ended { run }),
                _ => {}
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => return Ok(Called::Open { run }),
                _ = ending.wait_for(|ending| *ending) => return Ok(Called::Open { run }),
                _ = changes.changed() => {}
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Call {
    /// By which stores know that the call was made. Without the name, for the reply has only the id.
    fn signal_id(&self) -> String {
        format!("{PREFIX}{}", self.id)
    }

    /// The round of a run that was called with this id, and the name of that call. None if nobody knows it any more.
    async fn made_before(&self, host: &Host, run: &RunId) -> Result<Option<(RunId, String)>, HostError> {
        let store = host.store();
        let wanted = self.signal_id();
        let name_of = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
        let mut behind = None;
        loop {
            let Inbox { messages, more } = store.inbox(run, Part::Behind(behind)).await?;
            for message in &messages {
                if let MessageBody::Signal { name, id: Some(id), .. } = &message.body
                    && *id == wanted
                {
                    return Ok(Some((run.clone(), name_of(name))));
                }
            }
            behind = messages.last().map(|message| message.id);
            if !more {
                break;
            }
        }
        let Some(info) = store.run(run).await? else { return Ok(None) };
        let chain = info.links.chain.clone();
        let (mut rounds, mut before) = (vec![info], None);
        loop {
            for round in &rounds {
                for row in store.journal(&round.id, Position(0)).await? {
                    // What cannot be read says nothing of it.
                    for (_, entry) in row.entries().map_while(Result::ok) {
                        if let Event::Received { name, id: Some(id), .. } = &entry.event
                            && *id == wanted
                        {
                            return Ok(Some((round.id.clone(), name_of(name))));
                        }
                    }
                }
                before = Some(round.number);
            }
            let Some(chain) = &chain else { return Ok(None) };
            let earlier =
                RunFilter { chain: Some(chain.clone()), before, limit: ROUNDS, ..RunFilter::default() };
            rounds = store.runs(earlier).await?;
            if rounds.is_empty() {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_an_output_or_an_error() {
        let read = |text: &str| super::read(&Json::parse(text.to_owned()).unwrap());
        assert_eq!(
            read(r#"{"ok":{"n":12345678901234567890123}}"#).unwrap().as_str(),
            r#"{"n":12345678901234567890123}"#
        );
        assert_eq!(read(r#"{"error":"no"}"#), Err("no".to_owned()));
        assert!(read("{}").is_err() && read("7").is_err());
    }
}
