//! Those who send something to runs, pause them, go on with them, or offer them other code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use wfhost::engine::Module;
use wfhost::store::{MessageBody, Posted, RunInfo, RunState, SharedStore, StoreError};
use wfhost::{Host, HostError, ResumeOptions, Upgraded};
use wfhost_core::{Json, RunId, Step};

use super::programs::{self, RETURNS, SAME, TRAPS};
use super::universe::Universe;

/// What somebody wanted of a run.
#[derive(Clone, PartialEq, Debug)]
pub enum Wish {
    Signal { text: String },
    Answer { step: Step, text: String, prompt: String },
    Cancel,
    Pause,
    Resume,
    Upgrade { version: u8 },
    Terminate { text: String },
}

/// What he was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// Nothing, or that something failed: it may have been done.
    Unknown,
    Yes,
    No,
    /// That others had it, which is no answer to somebody who wants it ended whoever has it.
    Beaten,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Sent {
    /// Of all rounds the first.
    pub chain: RunId,
    /// The run that it came to, if that is known.
    pub run: RunId,
    pub wish: Wish,
    pub told: Told,
}

#[derive(Debug)]
pub struct Outside {
    universe: Arc<Universe>,
    store: SharedStore,
    /// Versions of the program.
    modules: BTreeMap<u8, Module>,
    /// Runs that somebody pauses or goes on with at this moment.
    held: Arc<Mutex<BTreeSet<RunId>>>,
    number: u64,
}

/// A run that nobody else pauses or goes on with meanwhile.
struct Hold(Arc<Mutex<BTreeSet<RunId>>>, RunId);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.lock().unwrap().remove(&self.1);
    }
}

impl Outside {
    pub fn new(universe: &Arc<Universe>, store: &SharedStore, modules: BTreeMap<u8, Module>) -> Self {
        let (universe, store) = (Arc::clone(universe), Arc::clone(store));
        Self { universe, store, modules, held: Arc::default(), number: 0 }
    }

    /// The latest round of a run.
    pub async fn latest(&self, chain: &RunId) -> RunInfo {
        let mut run = chain.clone();
        loop {
            let info = self.store.run(&run).await.expect("the observer's store works");
            let info = info.expect("it has begun");
            match info.links.next.clone() {
                Some(next) => run = next,
                None => return info,
            }
        }
    }

    /// Somebody does something by way of a host.
    pub async fn act(&mut self, host: &Host, chain: &RunId) {
        let (reads, may_be_ended) = (programs::is_reader(chain), programs::may_be_terminated(chain));
        self.number += 1;
        let text = format!("no. {}.", self.number);
        match self.universe.roll(12) {
            0..4 if reads => {
                let id = (self.universe.roll(2) == 0).then(|| text.clone());
                let payload = Json::from(Value::from(text.as_str()));
                let body = MessageBody::Signal { name: "note".to_owned(), payload, id };
                self.post(host, chain.clone(), chain, Wish::Signal { text }, body);
            }
            4..6 if reads => {
                let run = self.latest(chain).await.id;
                let open =
                    self.store.questions(Some(&run), None, 10).await.expect("the observer's store works");
                if let Some(question) = open.first() {
                    let (step, prompt) = (question.step, question.question.prompt.clone());
                    let outcome = Ok(Json::from(Value::from(text.as_str())));
                    let body = MessageBody::Answer { step, outcome, by: None, note: None };
                    self.post(host, run, chain, Wish::Answer { step, text, prompt }, body);
                }
            }
            6 if reads && self.universe.roll(3) == 0 => {
                self.post(host, chain.clone(), chain, Wish::Cancel, MessageBody::Cancel { reason: None });
            }
            0..4 if may_be_ended => {
                let (universe, host, chain) = (Arc::clone(&self.universe), host.clone(), chain.clone());
                let note = note(&self.universe, &chain, &chain, Wish::Terminate { text: text.clone() });
                tokio::spawn(async move {
                    let told = match host.terminate(&chain, Some(&text)).await {
                        Ok(_) => Told::Yes,
                        Err(HostError::Ended { .. }) => Told::No,
                        Err(HostError::Store(StoreError::Fenced { .. })) => Told::Beaten,
                        Err(_) => Told::Unknown,
                    };
                    universe.tell(note, told);
                });
            }
            6..8 => {
                if let Some(hold) = self.hold(chain) {
                    let (body, universe, host) =
                        (MessageBody::Pause, Arc::clone(&self.universe), host.clone());
                    let chain = chain.clone();
                    let note = note(&self.universe, &chain, &chain, Wish::Pause);
                    tokio::spawn(async move {
                        let told = host.post(&chain, body).await;
                        universe.tell(note, told_of_post(told));
                        drop(hold);
                    });
                }
            }
            8..10 => {
                let info = self.latest(chain).await;
                let by_store = self.universe.roll(2) == 0;
                if let Some(hold) = self.hold(chain) {
                    let (universe, host) = (Arc::clone(&self.universe), host.clone());
                    let note = note(&self.universe, chain, &info.id, Wish::Resume);
                    tokio::spawn(async move {
                        let told = match by_store {
                            true => host.store().unpause(&info.id).await.map(|_| ()).is_ok(),
                            false => host.resume(&info.id, ResumeOptions::default()).await.is_ok(),
                        };
                        universe.tell(note, if told { Told::Yes } else { Told::Unknown });
                        drop(hold);
                    });
                }
            }
            _ => self.offer(host, chain).await,
        }
    }

    fn hold(&self, chain: &RunId) -> Option<Hold> {
        let new = self.held.lock().unwrap().insert(chain.clone());
        new.then(|| Hold(Arc::clone(&self.held), chain.clone()))
    }

    fn post(&self, host: &Host, to: RunId, chain: &RunId, wish: Wish, body: MessageBody) {
        let (universe, host) = (Arc::clone(&self.universe), host.clone());
        let note = note(&self.universe, chain, &to, wish);
        tokio::spawn(async move {
            let told = host.post(&to, body).await;
            if let Ok((_, run)) = &told {
                universe.sent.lock().unwrap()[note].run = run.clone();
            }
            universe.tell(note, told_of_post(told));
        });
    }

    /// Offers other code to a run.
    async fn offer(&self, host: &Host, chain: &RunId) {
        let info = self.latest(chain).await;
        let version = match self.universe.roll(3) {
            0 => TRAPS,
            // A run that has done nothing yet could as well be one of this program.
            1 if info.state == RunState::Waiting => RETURNS,
            1 => return,
            _ => SAME,
        };
        if info.state.is_final() {
            return;
        }
        let (universe, host, module) =
            (Arc::clone(&self.universe), host.clone(), self.modules[&version].clone());
        let note = note(&self.universe, chain, &info.id, Wish::Upgrade { version });
        tokio::spawn(async move {
            let told = match host.upgrade(&info, &module).await {
                Ok(Upgraded::Moved) => Told::Yes,
                Ok(Upgraded::Same | Upgraded::Departs(_) | Upgraded::Left(_)) => Told::No,
                Err(_) => Told::Unknown,
            };
            universe.tell(note, told);
        });
    }
}

fn note(universe: &Universe, chain: &RunId, run: &RunId, wish: Wish) -> usize {
    let mut sent = universe.sent.lock().unwrap();
    sent.push(Sent { chain: chain.clone(), run: run.clone(), wish, told: Told::Unknown });
    sent.len() - 1
}

fn told_of_post(told: Result<(Posted, RunId), HostError>) -> Told {
    match told {
        Ok((Posted::Added | Posted::Duplicate, _)) => Told::Yes,
        Ok(_) | Err(HostError::Ended { .. } | HostError::NoQuestion { .. }) => Told::No,
        Err(_) => Told::Unknown,
    }
}
