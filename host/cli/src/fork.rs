//! `wfhost fork`

use wfhost::{Adopt, Evict, ForkOptions, HostError, ResumeOptions};
use wfhost_core::{ForkPlan, Json, Position, RunId, counted};
use wfhost_view::RunView;

use super::diagnostic::{Exit, UserError};
use super::place::{AgentArgs, find_run, json_arg};
use super::registry::Fetch;
use super::{Common, Format, follow, module_arg, printer};

/// Start a new run from the history of another one
///
/// The fork starts with the entries of the run before --at: their steps are not
/// executed or paid for again. The original run is unchanged. With --reuse the fork
/// starts from the beginning instead, with any code, and each step whose request
/// equals one of the original run takes its answer.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost fork @last --at 12
  wfhost fork @last --edit 7='{\"verdict\":\"no\"}'    another answer at entry 7
  wfhost fork run_01k9 --at 17 --module new.wasm
  wfhost fork run_01k9 --reuse --module rewritten.wasm")]
pub(crate) struct Fork {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
    /// The first journal entry that is not copied [default: the end of the journal]
    #[arg(long, value_name = "N")]
    at: Option<u64>,
    /// Replace the answer at an entry: N=JSON (may be repeated)
    #[arg(long = "edit", value_name = "N=JSON", value_parser = edit_arg, conflicts_with = "reuse")]
    edits: Vec<(u64, Json)>,
    /// A different input: JSON, @FILE, or - for stdin
    #[arg(short, long, value_name = "JSON", allow_negative_numbers = true)]
    input: Option<String>,
    /// Continue on this module: a file, a directory, a name or a digest
    #[arg(long, value_name = "MODULE")]
    module: Option<String>,
    /// Reuse answers instead of copying entries
    #[arg(long, conflicts_with = "at")]
    reuse: bool,
    /// The id of the fork [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<RunId>,
    #[command(flatten)]
    agents: AgentArgs,
    /// Stop when the fork only waits, with exit code 3
    #[arg(long, conflicts_with = "detach")]
    no_wait: bool,
    /// Let `wfhost serve` advance the fork
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    fetch: Fetch,
}

fn edit_arg(text: &str) -> Result<(u64, Json), String> {
    let (entry, json) = text.split_once('=').ok_or("an edit has the form N=JSON")?;
    let entry = entry.trim().parse().map_err(|_| "expected the number of an entry before the `=`")?;
    let json = Json::parse(json.to_owned()).map_err(|error| format!("the answer is not JSON: {error}"))?;
    Ok((entry, json))
}

impl Fork {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let config = common.config_for(&info)?;
        let providers = self.agents.other_providers(&config)?;
        let evict = if self.no_wait || self.detach { Evict::Always } else { self.agents.evict.into() };
        let host = common.host(store, self.agents.providers(&config)?, evict, Adopt::Own)?;
        let module = match &self.module {
            Some(module) => {
                let (name, bytes) =
                    module_arg::load(common, Some(host.store().as_ref()), module, self.fetch).await?;
                Some(host.add_module(&name, &bytes).await?)
            }
            None => None,
        };
        let input = self.input.as_deref().map(|input| json_arg("the input", input)).transpose()?;
        let edits = self.edits.iter().map(|(entry, json)| (Position(*entry), json.clone())).collect();
        let options = ForkOptions {
            plan: ForkPlan { at: self.at.map(Position), edits, input },
            reuse: self.reuse,
            module,
            id: self.id.clone(),
        };
        let fork = host.fork(&info.id, options).await?;
        let made = host.store().run(&fork).await?.ok_or_else(|| HostError::NoSuchRun(fork.clone()))?;
        let taken = match self.reuse {
            true => "with its answers".to_owned(),
            false => format!("with {}", counted(made.entries, "entry")),
        };
        printer::say(common, "Forked", &format!("{fork} from {}, {taken}", info.id));
        if self.detach {
            printer::say(common, "Queued", &format!("{fork}; `wfhost serve` advances it"));
            match common.output {
                Format::Text => printer::line(fork.as_str()),
                Format::Json | Format::Jsonl => printer::json(&RunView::of(&made)),
            }
            return Ok(Exit::Done);
        }
        let signals = follow::Signals::new()?;
        let options = ResumeOptions { providers, ..ResumeOptions::default() };
        let beginning = follow::Beginning::Resumed(follow::Before::of(host.store().as_ref(), &made).await?);
        let handle = host.resume(&fork, options).await?;
        follow::follow(common, &host, signals, handle, beginning, self.no_wait).await
    }
}
