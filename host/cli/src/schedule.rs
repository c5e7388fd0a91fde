//! `wfhost schedule`

use wfhost::clock::rfc3339;
use wfhost::schedule::{self, Schedule, When};
use wfhost::store::{Schedules, Store};
use wfhost::world::text::command;
use wfhost::{Adopt, Evict, HostError, Part};
use wfhost_core::policy::budget::Budget;
use wfhost_core::{RunConfig, RunId};
use wfhost_view::{RunView, ScheduleView, SchedulesView, times};

use super::diagnostic::{Exit, UserError};
use super::place::{AgentArgs, Since, budget_arg, json_arg, label_arg, length_arg, nearest, since_arg};
use super::printer::{Column, left, right};
use super::registry::Fetch;
use super::{Common, Format, module_arg, printer};

/// The number of future times that are shown.
const SHOWN: usize = 5;

/// Start runs on a schedule
///
/// Any process that serves the database starts the runs, each exactly once.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct ScheduleVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Add a schedule
    Add(Box<Add>),
    /// List the schedules
    Ls,
    /// Show one schedule and its next times
    Show(Named),
    /// Pause a schedule: skip all times from now on
    Pause(Named),
    /// Resume a schedule from now on
    Resume(Named),
    /// Start an additional run now
    Fire(Named),
    /// Remove a schedule; its runs stay
    Rm(Named),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost schedule add report --cron '0 9 * * 1-5' --tz Europe/Berlin report.wasm
  wfhost schedule add probe --every 15m probe.wasm -i '{\"depth\":2}' --overlap queue")]
struct Add {
    /// The name: letters, digits, `_`, `-`, `.`; it begins the ids of its runs
    name: RunId,
    /// A component file, a directory, a name or a digest
    module: String,
    /// Cron fields: minute, hour, day of the month, month, day of the week
    #[arg(long, value_name = "FIELDS", required_unless_present = "every")]
    cron: Option<String>,
    /// The time zone of --cron
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    tz: String,
    /// A fixed interval like 30s, 15m, 2h
    #[arg(long, value_name = "LENGTH", value_parser = length_arg, conflicts_with_all = ["cron", "tz"])]
    every: Option<u64>,
    /// The first time of --every, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME", value_parser = since_arg, requires = "every")]
    from: Option<Since>,
    /// The input of its runs: JSON, @FILE, or - for stdin
    #[arg(short, long, default_value = "null", value_name = "JSON", allow_negative_numbers = true)]
    input: String,
    /// What to do if the previous run has not ended when the next one is due
    #[arg(long, value_enum, default_value = "skip")]
    overlap: Overlap,
    /// What to do about times at which no host was running
    #[arg(long, value_enum, default_value = "last")]
    catch_up: CatchUp,
    /// A label of its runs (may be repeated)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label_arg)]
    labels: Vec<(String, String)>,
    /// The budget of each run, like tokens=20k,usd=0.50,time=5m
    #[arg(long, value_name = "BUDGET", value_parser = budget_arg)]
    budget: Option<Budget>,
    #[command(flatten)]
    agents: AgentArgs,
    #[command(flatten)]
    fetch: Fetch,
    /// Replace an existing schedule of the same name
    #[arg(long)]
    replace: bool,
}

/// What happens if the previous run of a schedule has not ended when the next one is due.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Overlap {
    /// Skip this time
    Skip,
    /// Start the next run when the previous one has ended
    Queue,
    /// Cancel the previous run
    Cancel,
    /// Run both
    Allow,
}

impl From<Overlap> for schedule::Overlap {
    fn from(overlap: Overlap) -> Self {
        match overlap {
            Overlap::Skip => Self::Skip,
            Overlap::Queue => Self::Queue,
            Overlap::Cancel => Self::Cancel,
            Overlap::Allow => Self::Allow,
        }
    }
}

/// What happens to times at which no host was running.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum CatchUp {
    /// Start no run
    None,
    /// Start one run, for the latest missed time
    Last,
    /// Start a run for each missed time
    All,
}

impl From<CatchUp> for schedule::CatchUp {
    fn from(catch_up: CatchUp) -> Self {
        match catch_up {
            CatchUp::None => Self::None,
            CatchUp::Last => Self::Last,
            CatchUp::All => Self::All,
        }
    }
}

#[derive(clap::Args)]
struct Named {
    name: String,
}

impl ScheduleVerb {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = match &self.verb {
            Verb::Add(add) => return add.execute(common).await,
            _ => common.reader().await?,
        };
        match &self.verb {
            Verb::Add(_) => {}
            Verb::Ls => {
                let Schedules { known, unreadable } = store.schedules().await?;
                list(common, &known);
                for (name, why) in unreadable {
                    let remedy = command("schedule", "rm").arg(&name);
                    printer::say(common, "Damaged", &format!("{name} cannot be read: {why}; `{remedy}`"));
                }
            }
            Verb::Show(named) => show(common, &named.find(store.as_ref()).await?),
            Verb::Pause(named) => {
                let schedule = named.find(store.as_ref()).await?;
                store.set_schedule(&schedule.name, None).await?;
                printer::say(common, "Paused", &format!("{}; its runs continue", schedule.name));
            }
            Verb::Resume(named) => {
                let schedule = named.find(store.as_ref()).await?;
                let next = schedule.when.next_after(store.now());
                store.set_schedule(&schedule.name, next).await?;
                show(common, &Schedule { next_at: next, ..schedule });
            }
            Verb::Fire(named) => {
                let schedule = named.find(store.as_ref()).await?;
                let run = schedule.run_now(store.now()).map_err(HostError::from)?;
                let id = run.id.clone();
                store.create(run).await?;
                printer::say(common, "Queued", &format!("{id}; `wfhost serve` advances it"));
                match common.output {
                    Format::Text => printer::line(id.as_str()),
                    Format::Json | Format::Jsonl => {
                        let info = store.run(&id).await?.ok_or_else(|| HostError::NoSuchRun(id.clone()))?;
                        printer::json(&RunView::of(&info));
                    }
                }
            }
            Verb::Rm(named) => {
                // Also one that cannot be read.
                if !store.delete_schedule(&named.name).await? {
                    named.find(store.as_ref()).await?;
                }
                printer::say(common, "Removed", &format!("{}; its runs stay", named.name));
            }
        }
        Ok(Exit::Done)
    }
}

impl Named {
    async fn find(&self, store: &dyn Store) -> Result<Schedule, UserError> {
        let Schedules { mut known, unreadable } = store.schedules().await?;
        if let Some((name, why)) = unreadable.iter().find(|(name, _)| *name == self.name) {
            return Err(UserError::host("WF0315", format!("the schedule `{name}` cannot be read: {why}"))
                .hint(format!("`{}` removes it", command("schedule", "rm").arg(name))));
        }
        if let Some(index) = known.iter().position(|schedule| schedule.name == self.name) {
            return Ok(known.swap_remove(index));
        }
        let nearest = nearest(&self.name, known.iter().map(|schedule| schedule.name.as_str()));
        let trouble = UserError::usage("WF0513", format!("unknown schedule `{}`", self.name));
        Err(match nearest {
            Some(nearest) => {
                trouble.hint(format!("did you mean `{nearest}`? `wfhost schedule ls` lists all schedules"))
            }
            None if known.is_empty() => trouble.hint("there are no schedules yet: `wfhost schedule add -h`"),
            None => trouble.hint("`wfhost schedule ls` lists all schedules"),
        })
    }
}

impl Add {
    async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let input = json_arg("the input", &self.input)?;
        let configured = common.config()?;
        let providers = self.agents.providers(&configured)?;
        let agent = self.agents.new_run_provider(common, &configured, &providers)?;
        let store = common.store().await?;
        // Hosts fire it by the clock of the store.
        let now = store.now();
        let when = match (&self.cron, self.every) {
            (Some(cron), _) => When::cron(cron, &self.tz)?,
            (None, every) => {
                let from = self.from.map_or(now, |from| from.time(now));
                When::every(every.unwrap_or_default(), from)?
            }
        };
        let first = match &when {
            When::Every { from, .. } if *from >= now => Some(*from),
            when => when.next_after(now),
        };
        let found = module_arg::find(common, Some(store.as_ref()), &self.module, self.fetch).await?;
        let host = common.host(store, providers, Evict::default(), Adopt::Own)?;
        let module = host.add_module(&found.name, &found.bytes).await?;
        host.check(&module, Part::Input, &input).await?;
        let mut config = RunConfig {
            agent,
            script: self.agents.script(),
            budget: Budget::merged(self.budget, configured.budget()),
            project: configured.project_name(),
            modules: found.directory,
            ..RunConfig::default()
        };
        wfhost::keep_script(host.store().as_ref(), &mut config).await.map_err(HostError::from)?;
        let schedule = Schedule {
            name: self.name.to_string(),
            when,
            overlap: self.overlap.into(),
            catch_up: self.catch_up.into(),
            workflow: found.name,
            module: module.digest,
            input,
            labels: self.labels.clone(),
            config,
            created_at: now,
            next_at: first,
            fired: 0,
            last: None,
        };
        if !host.store().put_schedule(schedule.clone(), self.replace).await? {
            return Err(UserError::usage("WF0514", format!("the schedule `{}` already exists", self.name))
                .hint("choose another name, or replace it with --replace"));
        }
        // It goes on from the runs of one that it replaces.
        let kept = host.store().schedules().await?.named(&schedule.name);
        show(common, kept.as_ref().unwrap_or(&schedule));
        printer::say(common, "Added", &format!("{}; `wfhost serve` starts its runs", self.name));
        Ok(Exit::Done)
    }
}

fn list(common: &Common, schedules: &[Schedule]) {
    match common.output {
        Format::Json => {
            printer::json(&SchedulesView::of(schedules));
        }
        Format::Jsonl => schedules.iter().for_each(|schedule| printer::json(&ScheduleView::of(schedule))),
        Format::Text if schedules.is_empty() => {
            printer::note("no schedules; add one with `wfhost schedule add`");
        }
        Format::Text => {
            const COLUMNS: [Column; 6] = [
                left("SCHEDULE"),
                left("WORKFLOW"),
                left("WHEN"),
                left("NEXT"),
                right("FIRED"),
                left("LAST"),
            ];
            let rows = schedules.iter().map(|schedule| {
                vec![
                    schedule.name.clone(),
                    schedule.workflow.clone(),
                    times(&schedule.when),
                    schedule.next_at.map_or("paused".to_owned(), rfc3339),
                    schedule.fired.to_string(),
                    schedule.last.as_ref().map(ToString::to_string).unwrap_or_default(),
                ]
            });
            printer::table(&COLUMNS.each_ref(), rows);
        }
    }
}

fn show(common: &Common, schedule: &Schedule) {
    if common.output != Format::Text {
        printer::json(&ScheduleView::of(schedule));
        return;
    }
    printer::line(format!("schedule  {}", schedule.name));
    printer::line(format!("workflow  {}  {}", schedule.workflow, schedule.module));
    printer::line(format!("when      {}", times(&schedule.when)));
    printer::line(format!("overlap   {}", schedule.overlap.as_str()));
    printer::line(format!("catch up  {}", schedule.catch_up.as_str()));
    printer::line(format!("input     {}", schedule.input));
    for (key, value) in &schedule.labels {
        printer::line(format!("label     {key}={value}"));
    }
    if schedule.next_at.is_none() {
        printer::line("next      never: it is paused");
    }
    for time in schedule.next_times(SHOWN) {
        printer::line(format!("next      {}", rfc3339(time)));
    }
    if let Some(last) = &schedule.last {
        printer::line(format!("last      {last}, the {}. run", schedule.fired));
    }
}
