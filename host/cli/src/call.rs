//! `wfhost call`

use std::time::Duration;

use tokio::sync::watch;
use wfhost::agents::Providers;
use wfhost::call::{Call as Made, Called};
use wfhost::{Adopt, Evict, HostError};

use super::diagnostic::{Exit, UserError};
use super::place::{find_run, json_arg, length_arg};
use super::{Common, Format, follow, printer};

/// Send a request to a run and print its reply
///
/// The program receives calls by name and replies to each. Another process, such as
/// `wfhost serve`, has to advance the run meanwhile. Nothing is lost if this command
/// ends first: repeat it with the same --id to get the reply.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost call @last status
  wfhost call run_01k9 add -i 5 --id add-17")]
pub(crate) struct Call {
    /// An id, the beginning of one, @last, @last:2
    run: String,
    /// The name of the call
    name: String,
    /// The payload: JSON, @FILE, or - for stdin
    #[arg(short, long, default_value = "null", value_name = "JSON", allow_negative_numbers = true)]
    input: String,
    /// Calls with the same id are the same call
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    id: Option<String>,
    /// How long to wait for the reply
    #[arg(long, value_name = "LENGTH", default_value = "30s", value_parser = length_arg)]
    timeout: u64,
}

/// The interval between two looks for the reply.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Call {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let input = json_arg("the input", &self.input)?;
        if self.name.is_empty() {
            return Err(UserError::usage("WF0505", "the name of a call is empty"));
        }
        let store = common.reader().await?;
        let run = find_run(store.as_ref(), &self.run).await?.id;
        let id = match &self.id {
            Some(id) => id.clone(),
            None => wfhost::world::fresh_id().map_err(HostError::from)?.to_string(),
        };
        let host = common.host(store, Providers::builtin(), Evict::default(), Adopt::Own)?;
        let (looks, changes) = watch::channel(0);
        let (ends, ending) = watch::channel(false);
        let mut signals = follow::Signals::new()?;
        let call = Made { name: self.name.clone(), id, input };
        let making = call.make(&host, &run, changes, ending, Duration::from_millis(self.timeout));
        tokio::pin!(making);
        let mut signalled = None;
        let called = loop {
            tokio::select! {
                called = &mut making => break called?,
                number = signals.next() => {
                    signalled = Some(number);
                    ends.send_replace(true);
                }
                () = tokio::time::sleep(LOOK_EVERY) => looks.send_modify(|count| *count += 1),
            }
        };
        match called {
            Called::Answered { run, output } => {
                match common.output {
                    Format::Text => printer::value(&output),
                    _ => printer::json(&wfhost_view::document! {
                        "schema": "wfhost/reply/1", "run": run, "output": output,
                    }),
                }
                Ok(Exit::Done)
            }
            Called::Refused { run, message } => Err(UserError {
                exit: Exit::RunFailed,
                ..UserError::usage("WF0518", format!("{run} refused the call: {message}"))
            }),
            Called::Open { run } => {
                let again =
                    wfhost::world::text::command("call", &run).arg(&self.name).option("--id", &call.id);
                printer::say(common, "Open", &format!("{run} has not replied yet"));
                printer::say(common, "next", &again.option("-i", call.input.as_str()).to_string());
                Ok(signalled.map_or(Exit::Waits, Exit::Signalled))
            }
        }
    }
}
