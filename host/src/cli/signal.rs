//! `wfhost signal`

use super::diagnostic::{Exit, Trouble};
use super::place::{find_run, json_arg};
use super::{Common, follow};
use crate::clock;
use crate::store::{MessageBody, NewMessage, Posted};
use crate::{HostError, is_held};

/// Send a signal to a run
///
/// It is kept until the run waits for one of this name.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost signal @last approve -i '{\"ok\":true}'
  wfhost signal run_01k9 payment -i @payment.json --id payment-17")]
pub(crate) struct Signal {
    /// An id, the beginning of one, @last, @last:2
    run: String,
    /// The name of the signal
    name: String,
    /// The payload: JSON, @FILE, or - for stdin
    #[arg(short, long, default_value = "null", value_name = "JSON")]
    input: String,
    /// Signals with the same id are delivered once
    #[arg(long)]
    id: Option<String>,
}

impl Signal {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        use wfhost_core::limits;
        let payload = json_arg("the payload", &self.input)?;
        limits::check("the name of a signal", self.name.len(), limits::NAME_BYTES)
            .map_err(HostError::from)?;
        limits::check("a signal's payload", payload.as_str().len(), limits::SIGNAL_BYTES)
            .map_err(HostError::from)?;
        let id = self.id.as_ref();
        limits::check("the id of a signal", id.map_or(0, String::len), limits::KEY_BYTES)
            .map_err(HostError::from)?;
        if self.name.is_empty() {
            return Err(Trouble::usage("WF0505", "the name of a signal is empty"));
        }
        let store = common.store()?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let body = MessageBody::Signal { name: self.name.clone(), payload, id: self.id.clone() };
        let run = info.id.clone();
        match store.post(NewMessage { run: run.clone(), at: clock::now(), body }).await? {
            Posted::Added => {
                follow::say(common, "Sent", &format!("{} to {run}", self.name));
                if !is_held(&info) {
                    follow::say(common, "next", &format!("wfhost resume {run}"));
                }
            }
            Posted::Duplicate => {
                follow::say(common, "Known", &format!("{run} has a signal with this id already"));
            }
            Posted::Ended => return Err(HostError::Ended { run }.into()),
            Posted::NoSuchRun => return Err(HostError::NoSuchRun(run).into()),
        }
        Ok(Exit::Done)
    }
}
