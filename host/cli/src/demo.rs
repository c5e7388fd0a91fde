//! `wfhost demo`

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use wfhost::world::environment;
use wfhost::world::text::command;
use wfhost::{Adopt, HostError, ResumeOptions};
use wfhost_core::RunId;

use super::diagnostic::{Exit, UserError};
use super::place::{AgentArgs, EvictArg};
use super::{Common, follow, printer};

/// Watch a run being killed and resumed, without a compiler
///
/// A second process runs an embedded workflow and is killed with SIGKILL in the
/// middle; this process then continues the run.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost demo")]
pub(crate) struct Demo {}

/// So many entries of the journal are waited for before the kill: the first
/// call and the first sleep are done, the second call is.
const KILL_AT: u64 = 7;
/// The worker has begun by then, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Demo {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let broken = |error: String| UserError::host("WF0404", format!("the demo cannot be set up: {error}"));
        let component = component().map_err(broken)?;
        let store = common.store().await?;
        let agents = AgentArgs { agent: Some("echo".to_owned()), agents: None, evict: EvictArg::Auto };
        let host =
            common.host(store, agents.providers(&common.config()?)?, agents.evict.into(), Adopt::Own)?;
        let module = host.add_module("demo", &component).await?;
        // The module is in the store now, so that the worker finds it by its digest.
        let id = wfhost::world::fresh_id().map_err(HostError::from)?;
        printer::say(common, "Worker", "a second process runs the workflow `demo`");
        let mut worker =
            Worker(self.worker(common, &id, &module.digest.to_string()).map_err(|e| broken(e.to_string()))?);
        let begin = Instant::now();
        loop {
            let entries = host.store().run(&id).await?.map_or(0, |info| info.entries.0);
            if entries >= KILL_AT {
                break;
            }
            let ended = worker.0.try_wait().map_err(|error| broken(error.to_string()))?;
            if let Some(status) = ended {
                return Err(broken(format!("the worker ended early, {status}")));
            }
            if begin.elapsed() > PATIENCE {
                return Err(broken("the worker makes no progress".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let pid = worker.0.id();
        let killed = worker.0.kill().and_then(|()| worker.0.wait());
        killed.map_err(|error| broken(error.to_string()))?;
        printer::say(common, "Killed", &format!("process {pid} with SIGKILL, in the middle of {id}"));
        let info = host.store().run(&id).await?.ok_or_else(|| HostError::NoSuchRun(id.clone()))?;
        let signals = follow::Signals::new()?;
        let beginning = follow::Beginning::Resumed(follow::Before::of(host.store().as_ref(), &info).await?);
        let handle = host.resume(&id, ResumeOptions::default()).await?;
        let exit = follow::follow(common, &host, signals, handle, beginning, false).await?;
        printer::say(common, "next", &command("journal", &id).to_string());
        printer::say(common, "next", "wfhost new hello");
        Ok(exit)
    }

    /// Begins the run in a process of its own.
    fn worker(&self, common: &Common, id: &RunId, module: &str) -> std::io::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["run", module, "--agent", "echo", "--id", id.as_str()]);
        if let Some(db) = &common.db {
            command.env(environment::DB, db.as_named());
        }
        if let Some(config) = &common.config {
            command.arg("--config").arg(config);
        }
        if common.trust {
            command.arg("--trust");
        }
        let progress = if common.quiet { Stdio::null() } else { Stdio::inherit() };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(progress).spawn()
    }
}

/// The second process. It does not outlive the demo, however that ends.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be gone by itself.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// The embedded workflow as a component.
fn component() -> Result<Vec<u8>, String> {
    let core = wat::parse_str(include_str!("demo.wat")).map_err(|error| error.to_string())?;
    wfhost_build::componentize(&core)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_worker_ends_with_the_demo() {
        let worker = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let place = std::path::PathBuf::from(format!("/proc/{}", worker.id()));
        assert!(place.exists());
        drop(super::Worker(worker));
        assert!(!place.exists());
    }

    #[test]
    fn the_embedded_workflow_is_one() {
        let component = super::component().unwrap();
        wfhost::engine::inspect(&component, wfhost::engine::Denied::Refuse).unwrap();
    }
}
