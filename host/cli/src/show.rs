//! `wfhost show`

use wfhost::clock::rfc3339;
use wfhost::store::{RunFilter, RunInfo, Store};
use wfhost_core::Event;

use super::diagnostic::{Exit, Trouble};
use super::place::{find_run, read_journal};
use super::{Common, Format, print_line, ps, view};

/// Show one run and its steps
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost show @last
  wfhost show run_01k9 --io
  wfhost show @last -o json")]
pub(crate) struct Show {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
    /// What each step asked for and was answered
    #[arg(long)]
    io: bool,
    /// All rounds of a run that continues as new, oldest first
    #[arg(long)]
    chain: bool,
}

impl Show {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let store = common.store()?;
        let info = find_run(store.as_ref(), &self.run).await?;
        if self.chain {
            return show_chain(common, store.as_ref(), &info).await;
        }
        let journal = read_journal(store.as_ref(), &info.id).await?;
        let steps = wfhost::steps(&journal);
        let input = match journal.entries.first().map(|entry| &entry.event) {
            Some(Event::Started(started)) => started.input.clone(),
            _ => wfhost_core::Json::null(),
        };
        if common.output != Format::Text {
            let mut view = view::run(&info, Some(&steps));
            view["input"] = input.value();
            view["published"] = store
                .state(&info.id)
                .await?
                .into_iter()
                .map(|(key, value)| (key, value.value()))
                .collect::<serde_json::Map<_, _>>()
                .into();
            print_line(&view.to_string());
            return Ok(Exit::Done);
        }
        print_line(&format!("run       {}", info.id));
        print_line(&format!("workflow  {}  {}", info.workflow, info.module));
        print_line(&format!("state     {}", info.state.as_str()));
        let waits = view::waits(&info);
        if !info.state.is_final() && !waits.is_empty() {
            print_line(&format!("waits     {waits}"));
        }
        for (what, run) in view::relatives(&info) {
            print_line(&format!("{what:<9} {run}"));
        }
        print_line(&format!("created   {}", rfc3339(info.created_at)));
        print_line(&format!("updated   {}", rfc3339(info.updated_at)));
        print_line(&format!("entries   {}", info.entries));
        for (key, value) in &info.labels {
            print_line(&format!("label     {key}={value}"));
        }
        print_line(&format!("input     {input}"));
        if let Some(outcome) = &info.outcome {
            print_line(&format!("result    {}", view::outcome(outcome)));
        }
        for (key, value) in store.state(&info.id).await? {
            print_line(&format!("published {key} = {value}"));
        }
        for step in &steps {
            let (mark, end) = view::ended(step);
            let attempts =
                if step.attempts > 1 { format!("  attempt {}", step.attempts) } else { String::new() };
            print_line(&format!(
                "  {mark} {:>3}  {:<7} {:<44} {end}{attempts}",
                step.step.0,
                step.op.kind(),
                step.op.label()
            ));
            if self.io {
                let asked = serde_json::to_string(&step.op).unwrap_or_default();
                print_line(&format!("         asked     {asked}"));
                if let Some((_, Some(outcome))) = &step.ended {
                    print_line(&format!("         answered  {}", view::outcome(outcome)));
                }
            }
        }
        ps::print_descendants(store.as_ref(), &info).await?;
        Ok(Exit::Done)
    }
}

async fn show_chain(common: &Common, store: &dyn Store, info: &RunInfo) -> Result<Exit, Trouble> {
    let chain = info.links.chain.clone();
    let filter = RunFilter { chain: chain.clone(), limit: usize::MAX >> 1, ..RunFilter::default() };
    let mut rounds = match chain {
        Some(_) => store.runs(filter).await?,
        None => vec![info.clone()],
    };
    rounds.reverse();
    ps::print_runs(common, &rounds, None);
    Ok(Exit::Done)
}
