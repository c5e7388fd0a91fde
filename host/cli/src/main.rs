//! The program `wfhost`: one file for each verb.

mod build;
mod call;
mod cancel;
mod check;
mod completions;
mod config;
mod copy;
mod database;
mod db;
mod delete;
mod demo;
mod dev;
mod diagnostic;
mod diff;
mod doctor;
mod events;
mod explain;
mod follow;
mod fork;
mod inspect;
mod journal;
mod key;
mod log;
mod login;
mod logs;
mod mcp;
mod messages;
mod module_arg;
mod modules;
mod new;
mod notify;
mod pause;
mod people;
mod place;
mod plugin;
mod plugin_add;
mod printer;
mod ps;
mod pull;
mod push;
mod rebuild;
mod registry;
mod replay;
mod resume;
mod retry;
mod run;
mod save;
mod schedule;
mod serve;
mod show;
mod sign;
mod signal;
mod sinks;
mod state;
mod tail;
mod tell;
mod terminate;
mod test;
mod token;
mod trace;
mod transcript;
mod trust;
mod update;
mod upgrade;
mod verify;
mod why;

use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use wfhost::world::environment;

use self::database::Database;
use self::diagnostic::{Exit, UserError};

/// Runs are many small pieces of memory that come and go on all threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs workflows that cannot be lost.
#[derive(Parser)]
#[command(
    name = "wfhost",
    version,
    max_term_width = 100,
    after_help = "Examples:
  wfhost run hello.wasm -i '{\"name\":\"Ada\"}' --agent echo
  wfhost ps
  wfhost resume @last"
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

/// What all verbs understand.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Common {
    /// The database: a file, or postgres://... [default: wfhost/wfhost.db in the user's data directory]
    #[arg(
        long,
        global = true,
        env = environment::DB,
        hide_env_values = true,
        value_name = "FILE|URL",
        value_parser = OsStringValueParser::new().try_map(Database::named)
    )]
    db: Option<Database>,
    /// The configuration file [default: wfhost.toml here or above, then the user's]
    #[arg(long, global = true, env = environment::CONFIG, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// Trust the project's wfhost.toml for this command; a file that another user can write is
    /// still refused [env: WFHOST_TRUST]
    #[arg(long, global = true)]
    trust: bool,
    /// What a commit survives: `full` a power failure, `normal` (several times faster)
    /// only the death of the process
    #[arg(
        long,
        global = true,
        env = environment::SYNCHRONOUS,
        value_enum,
        default_value = "full",
        value_name = "MODE"
    )]
    synchronous: Synchronous,
    /// The output format of stdout
    #[arg(short, long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    output: Format,
    /// Print no progress
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Print more: the program's log, the causes of errors
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Synchronous {
    Full,
    Normal,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON document
    Json,
    /// One JSON document per line
    Jsonl,
}

#[derive(Subcommand)]
enum Verb {
    /// Watch a run being killed and resumed, without a compiler
    Demo(demo::Demo),
    /// Run a workflow
    Run(run::Run),
    /// Resume a run
    Resume(resume::Resume),
    /// List runs
    Ps(ps::Ps),
    /// Show one run and its steps
    Show(show::Show),
    /// Show a run as a trace, or send it to a collector
    Trace(trace::TraceVerb),
    /// Show the journal of a run
    Journal(journal::Journal),
    /// Show what a run logged
    Logs(logs::Logs),
    /// Show what an agent said while it worked
    Transcript(transcript::Transcript),
    /// Send a signal to a run
    Signal(signal::Signal),
    /// Send a request to a run and print its reply
    Call(call::Call),
    /// Cancel a run
    Cancel(cancel::Cancel),
    /// End a run immediately, without cleanup
    Terminate(terminate::Terminate),
    /// Pause a run until it is resumed
    Pause(pause::Pause),
    /// Retry a failed run
    Retry(retry::Retry),
    /// Explain what blocks a run and how to unblock it
    Why(why::Why),
    /// List open questions of runs to people
    Inbox(people::Inbox),
    /// Answer a question of a run
    Answer(people::Answer),
    /// Answer a question with true
    Approve(people::Approve),
    /// Reject a question
    Deny(people::Deny),
    /// Show the messages that a run posted
    Messages(messages::Messages),
    /// Show events as they are committed
    Events(events::Events),
    /// Start runs on a schedule
    Schedule(schedule::ScheduleVerb),
    /// Advance all due runs, and serve the API and the web pages
    Serve(serve::Serve),
    /// Let coding agents start, follow and inspect runs (MCP)
    Mcp(mcp::Mcp),
    /// Manage the tokens of the server
    Token(token::TokenVerb),
    /// Send run events to URLs and programs
    Sinks(sinks::SinksVerb),
    /// Start a new run from the history of another one
    Fork(fork::Fork),
    /// Migrate the runs of a workflow to new code
    Upgrade(upgrade::Upgrade),
    /// Show where two runs differ
    Diff(diff::Diff),
    /// Show what a run published
    State(state::State),
    /// Replay a run without effects, to inspect it
    Replay(replay::Replay),
    /// Verify the journal of a run, or the signatures of a module
    Verify(verify::Verify),
    /// Delete a run
    Delete(delete::Delete),
    /// Check, copy, clean up the database; export and import runs
    Db(db::Db),
    /// Show the configuration
    Config(config::ConfigVerb),
    /// Trust the wfhost.toml of a project
    Trust(trust::Trust),
    /// Stop trusting a project
    Untrust(trust::Untrust),
    /// Add, list, call and test plugins (agents that are components)
    Plugin(plugin::PluginVerb),
    /// Check the installation: database, providers, keys, programs
    Doctor(doctor::Doctor),
    /// Add a module to the database
    Add(modules::Add),
    /// List the modules in the database and in the local store
    Modules(modules::Modules),
    /// Push a module to a registry
    Push(push::Push),
    /// Fetch a module from a registry
    Pull(pull::Pull),
    /// Create keys for signing modules
    Key(key::KeyVerb),
    /// Sign a module in a registry
    Sign(sign::Sign),
    /// Update wfhost.lock to the current versions of modules
    Update(update::Update),
    /// Save modules of the local store to a file
    Save(save::Save),
    /// Load modules from a file into the local store
    Load(save::Load),
    /// Log in to a registry
    Login(login::Login),
    /// Log out of a registry
    Logout(login::Logout),
    /// Show what a module imports and exports
    Inspect(inspect::Inspect),
    /// Check that a module can be run as a workflow
    Check(check::Check),
    /// Test a workflow by simulation
    Test(test::Test),
    /// Build a workflow into a component
    Build(build::Build),
    /// Rebuild a workflow on every change, and migrate its runs
    Dev(dev::Dev),
    /// Create a new project
    New(new::New),
    /// Explain an error code
    Explain(explain::Explain),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// Verbs grouped by purpose, as `wfhost -h` lists them.
const GROUPS: &[(&str, &[&str])] = &[
    ("Start", &["demo", "new", "dev", "build", "test", "check", "inspect", "run"]),
    (
        "See",
        &[
            "ps",
            "show",
            "why",
            "logs",
            "state",
            "messages",
            "events",
            "transcript",
            "trace",
            "journal",
            "diff",
        ],
    ),
    (
        "Act",
        &[
            "signal",
            "call",
            "inbox",
            "answer",
            "approve",
            "deny",
            "resume",
            "pause",
            "cancel",
            "terminate",
            "retry",
            "fork",
        ],
    ),
    ("Change", &["add", "modules", "upgrade", "replay", "verify", "delete"]),
    ("Share", &["push", "pull", "login", "logout", "key", "sign", "update", "save", "load"]),
    (
        "Operate",
        &[
            "serve", "mcp", "token", "sinks", "schedule", "db", "config", "trust", "untrust", "plugin",
            "doctor",
        ],
    ),
    ("Help", &["explain", "completions"]),
];

/// The command line, with its verbs in groups: their names in the short help, a line each in the long one.
fn command() -> clap::Command {
    let command = Cli::command();
    let about = |verb: &str| {
        let about = command.find_subcommand(verb).and_then(clap::Command::get_about);
        about.map(ToString::to_string).unwrap_or_default()
    };
    let names = GROUPS.iter().map(|(group, verbs)| format!("  {group:<8} {}\n", verbs.join(", ")));
    let short = format!(
        "{}\n`wfhost VERB -h` explains a verb, `wfhost --help` has a line for each.",
        names.collect::<String>()
    );
    let mut long = String::new();
    for (group, verbs) in GROUPS {
        long.push_str(&format!("{group}:\n"));
        verbs.iter().for_each(|verb| long.push_str(&format!("  {verb:<12} {}\n", about(verb))));
        long.push('\n');
    }
    command
        .before_help(short)
        .before_long_help(long.trim_end().to_owned())
        .help_template("{about}\n\n{usage-heading} {usage}\n\n{before-help}Options:\n{options}{after-help}")
}

/// The program: reads the arguments, does what they say, and gives the exit code.
fn main() -> ExitCode {
    wfhost::agents::supervise_if_asked();
    wfhost::engine::compile_in_processes();
    wfhost_simulate::execute_in_processes();
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            if error.use_stderr() && wants_json(std::env::args_os()) {
                let text = error.render().to_string();
                let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                let message = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
                let trouble = UserError {
                    details: lines.map(str::to_owned).collect(),
                    ..UserError::usage("WF0007", message)
                };
                diagnostic::print(&trouble, true, false);
                return code.into();
            }
            match error.use_stderr() {
                true => printer::misuse(&error),
                // Nothing can be done about a closed terminal.
                false => drop(error.print()),
            }
            return code.into();
        }
    };
    let (json, verbose) = (cli.common.output != Format::Text, cli.common.verbose);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(execute(&cli));
            // Servers whose calls were stopped are told so.
            runtime.block_on(wfhost::agents::settle(std::time::Duration::from_secs(2)));
            // Reads of blocking threads must not hold the exit up.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(UserError::host("WF0001", format!("threads cannot be started: {error}"))),
    };
    let exit = result.unwrap_or_else(|trouble| {
        diagnostic::print(&trouble, json, verbose);
        trouble.exit
    });
    match printer::failure() {
        Some(trouble) => {
            diagnostic::print(&trouble, json, verbose);
            if exit == Exit::Done { trouble.exit.into() } else { exit.into() }
        }
        None => exit.into(),
    }
}

/// Whether arguments that could not be read ask for JSON.
fn wants_json(args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    let args: Vec<_> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let formats = ["json", "jsonl"];
    let given = |arg: &String| {
        let value = arg.strip_prefix("--output=").or_else(|| arg.strip_prefix("-o"));
        value.is_some_and(|value| formats.contains(&value.trim_start_matches('=')))
    };
    let apart = |pair: &[String]| {
        matches!(pair[0].as_str(), "-o" | "--output") && formats.contains(&pair[1].as_str())
    };
    args.iter().any(given) || args.windows(2).any(apart)
}

/// At least two, so that one can commit while the other goes on.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().max(2))
}

async fn execute(cli: &Cli) -> Result<Exit, UserError> {
    let common = &cli.common;
    match &cli.verb {
        Verb::Demo(verb) => verb.execute(common).await,
        Verb::Run(verb) => verb.execute(common).await,
        Verb::Resume(verb) => verb.execute(common).await,
        Verb::Ps(verb) => verb.execute(common).await,
        Verb::Show(verb) => verb.execute(common).await,
        Verb::Trace(verb) => verb.execute(common).await,
        Verb::Journal(verb) => verb.execute(common).await,
        Verb::Logs(verb) => verb.execute(common).await,
        Verb::Transcript(verb) => verb.execute(common).await,
        Verb::Config(verb) => verb.execute(common),
        Verb::Trust(verb) => verb.execute(common),
        Verb::Untrust(verb) => verb.execute(common),
        Verb::Plugin(verb) => verb.execute(common).await,
        Verb::Doctor(verb) => verb.execute(common).await,
        Verb::Signal(verb) => verb.execute(common).await,
        Verb::Call(verb) => verb.execute(common).await,
        Verb::Cancel(verb) => verb.execute(common).await,
        Verb::Terminate(verb) => verb.execute(common).await,
        Verb::Pause(verb) => verb.execute(common).await,
        Verb::Retry(verb) => verb.execute(common).await,
        Verb::Why(verb) => verb.execute(common).await,
        Verb::Inbox(verb) => verb.execute(common).await,
        Verb::Answer(verb) => verb.execute(common).await,
        Verb::Approve(verb) => verb.execute(common).await,
        Verb::Deny(verb) => verb.execute(common).await,
        Verb::Messages(verb) => verb.execute(common).await,
        Verb::Events(verb) => verb.execute(common).await,
        Verb::Schedule(verb) => verb.execute(common).await,
        Verb::Serve(verb) => verb.execute(common).await,
        Verb::Test(verb) => verb.execute(common).await,
        Verb::Mcp(verb) => verb.execute(common).await,
        Verb::Token(verb) => verb.execute(common).await,
        Verb::Sinks(verb) => verb.execute(common).await,
        Verb::Fork(verb) => verb.execute(common).await,
        Verb::Upgrade(verb) => verb.execute(common).await,
        Verb::Diff(verb) => verb.execute(common).await,
        Verb::State(verb) => verb.execute(common).await,
        Verb::Replay(verb) => verb.execute(common).await,
        Verb::Verify(verb) => verb.execute(common).await,
        Verb::Delete(verb) => verb.execute(common).await,
        Verb::Db(verb) => verb.execute(common).await,
        Verb::Add(verb) => verb.execute(common).await,
        Verb::Push(verb) => verb.execute(common).await,
        Verb::Pull(verb) => verb.execute(common).await,
        Verb::Login(verb) => verb.execute(common).await,
        Verb::Logout(verb) => verb.execute(common),
        Verb::Key(verb) => verb.execute(common),
        Verb::Sign(verb) => verb.execute(common).await,
        Verb::Update(verb) => verb.execute(common).await,
        Verb::Save(verb) => verb.execute(common),
        Verb::Load(verb) => verb.execute(common),
        Verb::Modules(verb) => verb.execute(common).await,
        Verb::Inspect(verb) => verb.execute(common).await,
        Verb::Check(verb) => verb.execute(common).await,
        Verb::Build(verb) => verb.execute(common),
        Verb::Dev(verb) => verb.execute(common).await,
        Verb::New(verb) => verb.execute(common),
        Verb::Explain(verb) => verb.execute(),
        Verb::Completions(verb) => verb.execute(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_in_one_group() {
        let mut grouped: Vec<_> = GROUPS.iter().flat_map(|(_, verbs)| verbs.iter().copied()).collect();
        let command = Cli::command();
        let mut verbs: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        grouped.sort_unstable();
        verbs.sort_unstable();
        assert_eq!(grouped, verbs);
    }

    #[test]
    fn json_is_asked_for_in_every_form() {
        let asks = |args: &[&str]| wants_json(args.iter().map(std::ffi::OsString::from));
        for args in [&["ps", "-o", "json", "--x"][..], &["-ojsonl"], &["--output=json"], &["-o=json"]] {
            assert!(asks(args), "{args:?}");
        }
        assert!(!asks(&["ps", "-o", "text", "json"]));
    }
}
