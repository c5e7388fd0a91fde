//! Programs that are told of events: the message on standard input.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// Variables that every program gets, if they are set.
const USUAL: [&str; 10] =
    ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SHELL", "SYSTEMROOT"];
/// What is read of what a program says, in bytes; the rest is thrown away.
const SAID_BYTES: usize = 4_096;

/// Ends a program with all that it started, when it is dropped.
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Runs a program with `body` on its standard input. An error says why it did not take it: it could not be
/// started, ended with another code than 0, or took too long.
pub(crate) async fn run_program(
    argv: &[String],
    directory: &Path,
    env: &[String],
    told: &[(&str, &str)],
    body: &str,
    within: Duration,
) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else { return Err("there is no program".to_owned()) };
    let passed = USUAL.into_iter().chain(env.iter().map(String::as_str));
    let passed: Vec<(&str, OsString)> =
        passed.filter_map(|name| Some((name, std::env::var_os(name)?))).collect();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(passed).envs(told.iter().copied());
    if !directory.as_os_str().is_empty() {
        command.current_dir(directory);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // Of a group of its own, so that what it starts ends with it.
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    let mut group = Group(pid);
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let give = async {
        if let Some(mut stdin) = stdin {
            // Whoever reads nothing says what he thinks of it by his exit code.
            let _ = stdin.write_all(body.as_bytes()).await;
        }
    };
    let listen = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            let mut begin = stderr.take(SAID_BYTES as u64);
            let _ = begin.read_to_end(&mut said).await;
            let _ = tokio::io::copy(&mut begin.into_inner(), &mut tokio::io::sink()).await;
        }
        said
    };
    let ended = async {
        let work = async {
            let ((), said) = tokio::join!(give, listen);
            said
        };
        tokio::pin!(work);
        // What it leaves behind may keep the pipes open.
        tokio::select! {
            said = &mut work => (child.wait().await, said),
            status = child.wait() => {
                let said = tokio::time::timeout(Duration::from_millis(200), work).await;
                (status, said.unwrap_or_default())
            }
        }
    };
    let Ok((status, said)) = tokio::time::timeout(within, ended).await else {
        return Err(format!("{program} took longer than {} s", within.as_secs_f64()));
    };
    let status = status.map_err(|error| format!("{program}: {error}"))?;
    if status.success() {
        // What it started in the background may go on.
        group.0 = None;
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(match said.as_str() {
        "" => format!("{program} ended with {status}"),
        said => format!("{program} ended with {status}: {said}"),
    })
}
