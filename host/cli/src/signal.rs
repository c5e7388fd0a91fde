//! `wfhost signal`

use wfhost::store::{MessageBody, Posted, RunInfo};
use wfhost::world::text::command;
use wfhost::{Said, is_held};

use super::diagnostic::{Exit, UserError};
use super::place::{find_run, json_arg, nearest};
use super::{Common, printer};

/// Send a signal to a run
///
/// The signal is kept until the run waits for one of this name.
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
    #[arg(short, long, default_value = "null", value_name = "JSON", allow_negative_numbers = true)]
    input: String,
    /// Signals with the same id are delivered once
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    id: Option<String>,
    /// Do not check the payload against the module's schema
    #[arg(long)]
    no_check: bool,
}

impl Signal {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let payload = json_arg("the payload", &self.input)?;
        if self.name.is_empty() {
            return Err(UserError::usage("WF0505", "the name of a signal is empty"));
        }
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        if !self.no_check {
            let said = wfhost::check_signal(&store, &info.id, &self.name, &payload).await?;
            self.note_unknown(common, &said);
        }
        let body = MessageBody::Signal { name: self.name.clone(), payload, id: self.id.clone() };
        match wfhost::post(&store, &info.id, body).await? {
            (Posted::Duplicate, run) => {
                printer::say(common, "Duplicate", &format!("{run} already has a signal with this id"));
            }
            (_, run) => {
                printer::say(common, "Sent", &format!("{} to {run}", self.name));
                // A later round may have it.
                let taker = store.run(&run).await?.unwrap_or(info);
                say_next(common, &taker);
            }
        }
        Ok(Exit::Done)
    }
}

impl Signal {
    /// Says that the module names other signals and not this one.
    fn note_unknown(&self, common: &Common, said: &Said) {
        let Ok(Some(said)) = said else { return };
        let known = &said.description.signals;
        // Calls are signals of such names.
        if known.is_empty() || known.contains_key(&self.name) || self.name.starts_with("call:") {
            return;
        }
        let near = nearest(&self.name, known.keys().map(String::as_str));
        let names = near.map_or_else(
            || known.keys().map(|name| format!("`{name}`")).take(10).collect::<Vec<_>>().join(", "),
            |near| format!("`{near}`"),
        );
        printer::say(
            common,
            "Note",
            &format!("the module does not declare the signal `{}`, but {names}", self.name),
        );
    }
}

/// How a run continues after a message, if no process advances it.
pub(super) fn say_next(common: &Common, info: &RunInfo) {
    if !is_held(info) {
        let resume = command("resume", &info.id);
        printer::say(common, "next", &format!("{resume}, unless `wfhost serve` is running"));
    }
}
