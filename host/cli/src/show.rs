//! `wfhost show`

use wfhost::clock::rfc3339;
use wfhost::store::{RunFilter, RunInfo, Store};
use wfhost_view::{AnsweringPluginView, RunView, ended, outcome as spell, relatives, waits};

use super::diagnostic::{Exit, UserError};
use super::place::{find_run, read_journal, started};
use super::run::VIRTUAL_TIME;
use super::{Common, Format, printer, ps};

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
    /// Also show the request and the answer of each step
    #[arg(long)]
    io: bool,
    /// Show all rounds of a run that continues as new, oldest first
    #[arg(long)]
    chain: bool,
}

/// Cells of a terminal that a label takes at most; `-o json` has all of it.
const LABEL: usize = 120;

impl Show {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        if self.chain {
            return show_chain(common, store.as_ref(), &info).await;
        }
        let journal = read_journal(store.as_ref(), &info.id).await?;
        let steps = wfhost::steps(&journal);
        let input = started(&journal).map_or_else(wfhost_core::Json::null, |started| started.input.clone());
        if common.output != Format::Text {
            let published = Some(store.state(&info.id).await?.into_iter().collect());
            let view = RunView::of(&info).with_steps(&steps);
            printer::json(&RunView { input: Some(input), published, ..view });
            return Ok(Exit::Done);
        }
        printer::line(format!("run       {}", info.id));
        printer::line(format!("workflow  {}  {}", info.workflow, info.module));
        printer::line(format!("state     {}", info.state.as_str()));
        let waits = waits(&info);
        if !info.state.is_final() && !waits.is_empty() {
            printer::line(format!("waits     {waits}"));
        }
        for (what, run) in relatives(&info) {
            printer::line(format!("{what:<9} {run}"));
        }
        if let Some(project) = &info.project {
            printer::line(format!("project   {project}"));
        }
        printer::line(format!("created   {}", rfc3339(info.created_at)));
        printer::line(format!("updated   {}", rfc3339(info.updated_at)));
        printer::line(format!("entries   {}", info.entries));
        if info.labels.iter().any(|(key, value)| (key.as_str(), value.as_str()) == VIRTUAL_TIME) {
            printer::line("time      virtual: where only time was waited for, it was skipped");
        }
        for (key, value) in &info.labels {
            printer::line(format!("label     {}", printer::shortened(&format!("{key}={value}"), LABEL)));
        }
        printer::line(format!("input     {input}"));
        if let Some(outcome) = &info.outcome {
            printer::line(format!("result    {}", spell(outcome)));
        }
        for (key, value) in store.state(&info.id).await? {
            printer::line(format!("published {key} = {value}"));
        }
        for step in &steps {
            let (mark, end) = ended(step);
            let attempts =
                if step.attempts > 1 { format!("  attempt {}", step.attempts) } else { String::new() };
            printer::line(format!(
                "  {mark} {:>3}  {:<7} {} {end}{attempts}",
                step.step.0,
                step.op.kind(),
                printer::cell(&printer::shortened(&step.op.label(), LABEL), 44)
            ));
            if let Some(plugin) = AnsweringPluginView::of(step) {
                printer::line(format!("         plugin    {plugin}"));
            }
            if self.io {
                let asked = serde_json::to_string(&step.op).unwrap_or_default();
                printer::line(format!("         asked     {asked}"));
                if let Some((_, Some(outcome))) = &step.ended {
                    printer::line(format!("         answered  {}", spell(outcome)));
                }
            }
        }
        ps::print_descendants(store.as_ref(), &info).await?;
        Ok(Exit::Done)
    }
}

async fn show_chain(common: &Common, store: &dyn Store, info: &RunInfo) -> Result<Exit, UserError> {
    let chain = info.links.chain.clone();
    let filter = RunFilter { chain: chain.clone(), limit: usize::MAX >> 1, ..RunFilter::default() };
    let mut rounds = match chain {
        Some(_) => store.runs(filter).await?,
        None => vec![info.clone()],
    };
    rounds.reverse();
    ps::print_runs(common, &rounds, &[], None, store.now());
    Ok(Exit::Done)
}
