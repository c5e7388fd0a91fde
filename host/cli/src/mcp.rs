//! `wfhost mcp`

use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use wfhost::store::Projects;
use wfhost::world::environment;
use wfhost::{Adopt, HostOptions};
use wfhost_registry::whole;
use wfhost_server::{Address, Defaults, Local, McpOptions, Metrics, ServeError};

use super::delete::confirm;
use super::diagnostic::{Exit, UserError};
use super::place::AgentArgs;
use super::{Common, Format, printer, tell};

/// Let coding agents start, follow and inspect runs (MCP)
///
/// Speaks the Model Context Protocol over stdin and stdout, and advances due runs
/// meanwhile, as `wfhost serve` does; both can run at the same time. Runs continue
/// after it exits if another process serves the database. A server offers the same
/// at /mcp. https://github.com/wfhost/wfhost/blob/main/docs/mcp.md
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  wfhost mcp install
  wfhost mcp install --write claude-code
  wfhost mcp --read-only")]
pub(crate) struct Mcp {
    #[command(subcommand)]
    act: Option<Act>,
    #[command(flatten)]
    agents: AgentArgs,
    /// Offer only tools that change nothing
    #[arg(long)]
    read_only: bool,
    /// Also offer each module as a tool of its own
    #[arg(long)]
    workflows: bool,
    /// Let the client answer questions to people; an agent could approve its own requests
    #[arg(long, conflicts_with = "read_only")]
    allow_answers: bool,
}

#[derive(clap::Subcommand)]
enum Act {
    /// Print the configuration for MCP clients, or write it
    Install(Install),
}

/// Print the configuration for MCP clients, or write it
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost mcp install
  wfhost mcp install --write claude-code
  wfhost mcp install --write codex --yes")]
pub(crate) struct Install {
    /// Write it into this client's configuration, after confirmation
    #[arg(long, value_enum, value_name = "CLIENT")]
    write: Option<Client>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

/// A client whose configuration is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Client {
    ClaudeCode,
    Codex,
    GeminiCli,
    Opencode,
}

impl Mcp {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        if let Some(Act::Install(install)) = &self.act {
            return install.execute(common);
        }
        let store = common.store().await?;
        let config = common.config()?;
        let mut providers = self.agents.providers(&config)?;
        let agent = self.agents.new_run_provider(common, &config, &providers)?;
        if let Some(provider) = agent.as_ref().and_then(|name| providers.get(name)) {
            providers.set_fallback(provider);
        }
        let project = config.project_name();
        let defaults =
            Defaults { agent, budget: config.budget(), project: project.clone(), config: config.clone() };
        let metrics = Arc::<Metrics>::default();
        let host = common.host_options(store, providers, self.agents.evict.into(), Adopt::Due)?;
        let host = wfhost::Host::new(HostOptions { projects: Projects::Only(vec![None, project]), ..host })?;
        let mut teller = None;
        if !self.read_only {
            host.serve();
            let report = tell::Reports { common: common.clone(), metrics: None, log: None };
            let (sinks, export) = (tell::sinks([&config])?, tell::export(None, false)?);
            teller = Some(tell::start(host.store(), sinks, export, report, None));
        }
        let options = wfhost_server::Options {
            // Nothing listens.
            listen: Address::Unix(PathBuf::new()),
            tls: None,
            public_url: None,
            hosts: Vec::new(),
            read_only: self.read_only,
            defaults,
            mcp_workflows: self.workflows,
            settings: Vec::new(),
            webhooks: Vec::new(),
            sinks: Vec::new(),
            metrics,
        };
        let local = Local::new(host.clone(), options).await.map_err(|error| match error {
            ServeError::Host(error) => UserError::from(error),
            error => UserError::host("WF0810", error.to_string()),
        })?;
        let options = McpOptions { answers: self.allow_answers, workflows: self.workflows };
        talk(Arc::new(local.mcp(self.read_only, options))).await;
        // Calls in flight come to their ends, if that is soon; else they are made again.
        host.close(Some(Duration::from_secs(2))).await;
        if let Some(teller) = teller {
            teller.stop(Duration::from_secs(1)).await;
        }
        Ok(Exit::Done)
    }
}

/// The longest message: an input, and what stands around it.
const MESSAGE_BYTES: u64 = 11 << 20;

/// Lines of standard input, read on a thread of their own, as nothing else can wait for them.
fn lines() -> tokio::sync::mpsc::Receiver<String> {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            // A client that sends more than a message may have is beyond help.
            let read = (&mut input).take(MESSAGE_BYTES).read_until(b'\n', &mut line);
            let is_whole = line.last() == Some(&b'\n') || (line.len() as u64) < MESSAGE_BYTES;
            if !matches!(read, Ok(1..)) || !is_whole {
                return;
            }
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            if !line.is_empty() && sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// What has to be known of a message here. The rest may be long, and is read by whoever answers.
#[derive(Default, Deserialize)]
struct Head<'a> {
    id: Option<Value>,
    method: Option<String>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// Answers until the client closes its end. Requests are answered concurrently: some wait.
async fn talk(mcp: Arc<wfhost_server::Mcp>) {
    let mut lines = lines();
    let running: Arc<Mutex<HashMap<String, tokio::task::AbortHandle>>> = Arc::default();
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(line) = lines.recv().await {
        let head: Head = serde_json::from_str(&line).unwrap_or_default();
        let known = |running: &Mutex<HashMap<String, _>>, id: &Value| {
            running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id.to_string())
        };
        if head.method.as_deref() == Some("notifications/cancelled") {
            let params: Value =
                head.params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
            let task: Option<tokio::task::AbortHandle> = known(&running, &params["requestId"]);
            task.inspect(tokio::task::AbortHandle::abort);
            continue;
        }
        let id = head.id;
        let (mcp, done, of) = (Arc::clone(&mcp), Arc::clone(&running), id.clone());
        let answering = async move {
            let answer = mcp.take(&line).await;
            if let Some(id) = &of {
                done.lock().unwrap_or_else(PoisonError::into_inner).remove(&id.to_string());
            }
            if let Some(answer) = answer {
                printer::message(&answer);
            }
        };
        // Before it can have ended.
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        let task = tasks.spawn(answering);
        if let Some(id) = id {
            running.insert(id.to_string(), task);
        }
        drop(running);
        while tasks.try_join_next().is_some() {}
        if printer::is_broken() {
            return;
        }
    }
    // What was asked before the end is answered, what waits is not waited for.
    let _ =
        tokio::time::timeout(Duration::from_secs(1), async { while tasks.join_next().await.is_some() {} })
            .await;
}

impl Client {
    const ALL: [Self; 4] = [Self::ClaudeCode, Self::Codex, Self::GeminiCli, Self::Opencode];

    fn title(self) -> &'static str {
        match self {
            Self::ClaudeCode => "Claude Code",
            Self::Codex => "Codex",
            Self::GeminiCli => "Gemini CLI",
            Self::Opencode => "opencode",
        }
    }

    /// Its configuration: of the project here, but for those that have none.
    fn file(self) -> Option<PathBuf> {
        match self {
            Self::ClaudeCode => Some(".mcp.json".into()),
            Self::Codex => {
                let named = environment::get(environment::CODEX_HOME).map(PathBuf::from);
                let dir = named.or_else(|| Some(environment::home()?.join(".codex")))?;
                Some(dir.join("config.toml"))
            }
            Self::GeminiCli => Some(".gemini/settings.json".into()),
            Self::Opencode => Some("opencode.json".into()),
        }
    }

    /// What stands in it: where, and what.
    fn entry(self) -> (&'static str, Value) {
        match self {
            Self::ClaudeCode | Self::GeminiCli | Self::Codex => {
                ("mcpServers", json!({ "command": "wfhost", "args": ["mcp"] }))
            }
            Self::Opencode => {
                ("mcp", json!({ "type": "local", "command": ["wfhost", "mcp"], "enabled": true }))
            }
        }
    }

    fn shown(self) -> String {
        match self {
            Self::Codex => CODEX.to_owned(),
            _ => {
                let (section, entry) = self.entry();
                serde_json::to_string_pretty(&json!({ (section): { "wfhost": entry } })).unwrap_or_default()
            }
        }
    }

    /// The file with wfhost in it; none if it is there.
    fn merged(self, before: &str) -> Result<Option<String>, String> {
        if self == Self::Codex {
            let whole: toml::Table =
                before.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
            let servers = whole.get("mcp_servers");
            if servers.and_then(|servers| servers.get("wfhost")).is_some() {
                return Ok(None);
            }
            if servers.is_some_and(|servers| !servers.is_table()) {
                return Err("`mcp_servers` is not a table".to_owned());
            }
            let gap = if before.trim().is_empty() { "" } else { "\n" };
            let end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
            let after = format!("{before}{end}{gap}{CODEX}\n");
            // A table within braces cannot be added to from outside.
            return match after.parse::<toml::Table>() {
                Ok(_) => Ok(Some(after)),
                Err(_) => Err("`mcp_servers` is written within braces".to_owned()),
            };
        }
        let mut whole: Value = match before.trim() {
            "" => json!({}),
            text => serde_json::from_str(text).map_err(|error| error.to_string())?,
        };
        let (section, entry) = self.entry();
        let whole_object = whole.as_object_mut().ok_or("it is not a JSON object")?;
        let servers = whole_object.entry(section).or_insert_with(|| json!({}));
        let servers = servers.as_object_mut().ok_or_else(|| format!("`{section}` is not an object"))?;
        if servers.contains_key("wfhost") {
            return Ok(None);
        }
        servers.insert("wfhost".to_owned(), entry);
        Ok(Some(serde_json::to_string_pretty(&whole).unwrap_or_default() + "\n"))
    }
}

/// What Codex is told.
const CODEX: &str = "[mcp_servers.wfhost]\ncommand = \"wfhost\"\nargs = [\"mcp\"]";

impl Install {
    fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let Some(client) = self.write else {
            if common.output != Format::Text {
                let all = Client::ALL.into_iter().map(|client| {
                    let file = client.file().map(|file| file.display().to_string());
                    json!({ "client": client.title(), "file": file, "text": client.shown() })
                });
                let all: Vec<_> = all.collect();
                printer::json(&json!({ "schema": "wfhost/mcp-install/1", "clients": all }));
                return Ok(Exit::Done);
            }
            for client in Client::ALL {
                let file = client.file().map(|file| file.display().to_string()).unwrap_or_default();
                printer::line(format!("# {}: {file}", client.title()));
                client.shown().lines().for_each(printer::line);
                printer::line("");
            }
            printer::note(
                "`wfhost mcp install --write CLIENT` writes it; add `--read-only` or `--workflows` after `mcp`",
            );
            return Ok(Exit::Done);
        };
        let file = client.file().ok_or_else(|| {
            UserError::usage("WF0823", format!("the configuration of {} was not found", client.title()))
                .hint("HOME is not set; add the output of `wfhost mcp install` by hand")
        })?;
        let unusable = |why: String| {
            UserError::usage("WF0823", format!("{} cannot be changed: {why}", file.display()))
                .hint("add the output of `wfhost mcp install` by hand")
        };
        let read = || match std::fs::read_to_string(&file) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(unusable(error.to_string())),
        };
        let exists = || {
            printer::say(
                common,
                "Exists",
                &format!("{} already has wfhost in {}", client.title(), file.display()),
            );
            Ok(Exit::Done)
        };
        let before = read()?;
        if client.merged(&before).map_err(unusable)?.is_none() {
            return exists();
        }
        let verb = if before.is_empty() { "create" } else { "change" };
        confirm(self.yes, &format!("{verb} {} so that {} can use wfhost?", file.display(), client.title()))?;
        // The client may have written it meanwhile.
        let Some(after) = client.merged(&read()?).map_err(unusable)? else { return exists() };
        if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(|error| unusable(error.to_string()))?;
        }
        whole::write_named(&file, after.as_bytes(), None).map_err(|error| unusable(error.to_string()))?;
        printer::say(common, "Wrote", &file.display().to_string());
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays() {
        let claude = Client::ClaudeCode.merged(r#"{"other": 1, "mcpServers": {"x": {}}}"#).unwrap().unwrap();
        let json: Value = serde_json::from_str(&claude).unwrap();
        assert_eq!((&json["other"], json["mcpServers"].as_object().unwrap().len()), (&json!(1), 2));
        assert_eq!(Client::ClaudeCode.merged(&claude), Ok(None));
        assert!(Client::GeminiCli.merged("// a comment\n{}").is_err());
        assert!(Client::Opencode.merged(r#"{"mcp": 1}"#).is_err());
        let codex = Client::Codex.merged("model = \"x\"").unwrap().unwrap();
        assert!(codex.starts_with("model = \"x\"\n\n[mcp_servers.wfhost]"));
        assert_eq!(Client::Codex.merged(&codex), Ok(None));
        assert_eq!(Client::Codex.merged("[mcp_servers.\"wfhost\"]\ncommand = \"x\""), Ok(None));
        assert_eq!(Client::Codex.merged("mcp_servers.wfhost.command = \"x\""), Ok(None));
        assert!(Client::Codex.merged("# [mcp_servers.wfhost]").unwrap().is_some());
        for unusable in ["mcp_servers = {}", "mcp_servers = 1", "model = ", "[[mcp_servers]]\nx = 1"] {
            assert!(Client::Codex.merged(unusable).is_err(), "{unusable}");
        }
        for client in Client::ALL {
            assert!(client.merged("").unwrap().unwrap().contains(&client.shown()[..1]));
        }
    }
}
