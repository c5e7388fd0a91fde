//! A server that is a program: one JSON-RPC message on each line.

use serde_json::Value;
use wfhost_core::FailureKind;

use super::{Heard, hear, initialize, notification, request};
use crate::command::{Command, Running, Spawn};
use crate::{Call, CallFailure, CallOutput, CommandConfig};

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
    let mut server = spawn.start(out.clone())?;
    send(&mut server, &request(1, "initialize", initialize())).await?;
    server = receive(server, 1, out).await?.0;
    send(&mut server, &notification("notifications/initialized")).await?;
    send(&mut server, &request(2, "tools/call", tool)).await?;
    let (_, result) = receive(server, 2, out).await?;
    Ok(result)
}

async fn send(server: &mut Running, message: &Value) -> Result<(), CallFailure> {
    server.write(&format!("{message}\n")).await
}

/// Reads until the answer to request `id` comes.
async fn receive(mut server: Running, id: u32, out: &CallOutput) -> Result<(Running, Value), CallFailure> {
    loop {
        let Some(line) = server.line().await? else {
            let ended = server.wait().await?;
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
            Heard::Result(result) => return Ok((server, result)),
            Heard::Asked(answer) => send(&mut server, &answer).await?,
            Heard::Nothing => {}
        }
    }
}
