//! `wfhost show`

use super::diagnostic::{Exit, Trouble};
use super::place::find_run;
use super::{Common, Format, print_line, view};
use crate::clock::rfc3339;
use wfhost_core::{Event, Journal};

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
}

impl Show {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let store = common.store()?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let rows = store.journal(&info.id, wfhost_core::Position(0)).await?;
        let journal = Journal::read(rows)
            .map_err(|source| crate::HostError::Journal { run: info.id.clone(), source })?;
        let steps = crate::steps(&journal);
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
        Ok(Exit::Done)
    }
}
