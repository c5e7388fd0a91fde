//! A server that is a program: one JSON-RPC message on each line.

use std::time::Duration;

use serde_json::Value;
use wfhost_core::FailureKind;

use super::{BEGIN, CALL, Heard, cancelled, hear, initialize, initialized, request, revision};
use crate::command::{Command, Running, Spawn};
use crate::{Call, CallFailure, CallOutput, CommandConfig, farewell};

/// How long a server may take to end after its stdin was closed. Then it is
/// ended as programs are, by SIGTERM first.
const END_WITHIN: Duration = Duration::from_secs(2);

/// Starts the server, calls the tool, and ends the server.
pub(super) async fn call(
    config: &CommandConfig,
    call: &Call,
    tool: Value,
    out: &CallOutput,
) -> Result<Value, CallFailure> {
    let environment = Command::environment_of(config, call)?;
    let directory = call.directory.as_deref().or(config.directory.as_deref());
    let spawn = Spawn { argv: config.argv.clone(), environment, directory, input: None };
    let mut server = Server { program: Some(spawn.start(out.clone()).await?), is_asked: false };
    server.send(&initialize()).await?;
    revision(&server.receive(BEGIN, out).await?)?;
    server.send(&initialized()).await?;
    server.is_asked = true;
    server.send(&request(CALL, "tools/call", tool)).await?;
    let result = server.receive(CALL, out).await;
    server.is_asked = false;
    if let Some(program) = server.program.take() {
        end(program).await;
    }
    result
}

/// A server that runs. Dropping it cancels the call in flight, and lets the
/// server end.
struct Server {
    program: Option<Running>,
    is_asked: bool,
}

impl Server {
    fn program(&mut self) -> Result<&mut Running, CallFailure> {
        let gone = || CallFailure::new(FailureKind::Unavailable, "the server has ended");
        self.program.as_mut().ok_or_else(gone)
    }

    async fn send(&mut self, message: &Value) -> Result<(), CallFailure> {
        let program = self.program()?;
        let sent = program.write(&format!("{message}\n")).await;
        // How it ended says more than that it does not listen.
        if sent.is_err() && tokio::time::timeout(END_WITHIN, program.wait()).await.is_ok() {
            return Ok(());
        }
        sent
    }

    /// Reads until the answer to request `id` comes. What the server asks meanwhile is answered at once.
    async fn receive(&mut self, id: u32, out: &CallOutput) -> Result<Value, CallFailure> {
        loop {
            let program = self.program()?;
            let Some(line) = program.line().await? else {
                self.is_asked = false;
                let ended = self.program()?.wait().await?;
                let how = ended.problem().unwrap_or_else(|| "ended".to_owned());
                let message = format!("the server {how} before it answered");
                return Err(CallFailure::new(FailureKind::Unavailable, message));
            };
            if line.text.trim().is_empty() {
                continue;
            }
            out.transcript(&line.text);
            out.alive();
            // A server may write nothing else to its stdout; many do at their start.
            let Ok(message) = serde_json::from_str::<Value>(&line.text) else { continue };
            match hear(&message, id, out)? {
                Heard::Result(result) => return Ok(result),
                Heard::Asked(answer) => self.send(&answer).await?,
                Heard::Nothing => {}
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut program) = self.program.take() else { return };
        let is_asked = self.is_asked;
        farewell(async move {
            if is_asked {
                // A server that takes nothing any more is ended all the same.
                let message = format!("{}\n", cancelled());
                let _ = tokio::time::timeout(END_WITHIN, program.write(&message)).await;
            }
            end(program).await;
        });
    }
}

/// Lets a server end by closing its stdin.
async fn end(mut program: Running) {
    let _ = tokio::time::timeout(END_WITHIN, program.wait()).await;
}
