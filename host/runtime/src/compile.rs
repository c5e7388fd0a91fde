//! Compiling a component in a process of its own.
//!
//! What a component takes to be compiled is known only when it is. So another process of this very
//! program does it, with limits of memory and of time, and of a lower priority: a component that takes
//! too much ends that process and nothing else. A program that embeds wfhost has to allow it
//! ([`compile_in_processes`]); else components are compiled within it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, Signal, nice, setrlimit};
use wasmtime::Engine as Wasmtime;
use wfhost_core::limits;

use super::{ModuleError, address_space_is_limited, wasmtime};

/// What the process is called with.
const VERB: &str = "\u{1}compile";
/// Address space of the process. A component of Python takes a third of it.
const MEMORY_BYTES: u64 = 6 << 30;
/// Seconds that its threads may compute, together.
const SECONDS: u64 = 180;
/// How much later it is killed if it does not end by itself, so that what kills it before that is the system.
const SECONDS_TO_END: u64 = 10;
/// How much later it has its turn than others.
const NICE: i32 = 10;

static ALLOWED: AtomicBool = AtomicBool::new(false);

/// From here on components are compiled in processes of their own. A program calls this first thing
/// in its `main`: such a process is the same program, and does not come back from here.
pub fn compile_in_processes() {
    let mut args = std::env::args_os().skip(1);
    if args.next().as_deref() == Some(OsStr::new(VERB)) {
        let limited = args.next().as_deref() == Some(OsStr::new("limited"));
        let done = serve(limited).is_ok();
        std::process::exit(i32::from(!done));
    }
    ALLOWED.store(true, Ordering::Relaxed);
}

/// Compiles what stdin has. Stdout gets a zero and the artifact, or a one and what is wrong.
fn serve(limited: bool) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let most = |value| Rlimit { current: Some(value), maximum: Some(value) };
    let _ = setrlimit(Resource::Core, most(0));
    let time = Rlimit { current: Some(SECONDS), maximum: Some(SECONDS + SECONDS_TO_END) };
    let _ = setrlimit(Resource::Cpu, time);
    if !limited {
        let _ = setrlimit(Resource::As, most(MEMORY_BYTES));
    }
    let _ = nice(NICE);
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    let compiled =
        wasmtime(limits::STACK_BYTES, limited).and_then(|engine| engine.precompile_component(&bytes));
    let (kind, answer) = match compiled {
        Ok(artifact) => (0, artifact),
        Err(error) => (1, format!("{error:#}").into_bytes()),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(&[kind])?;
    out.write_all(&answer)?;
    out.flush()
}

/// The artifact of a component, in a process of its own if that may be. Takes as long as it takes.
pub(crate) fn compile(engine: &Wasmtime, bytes: &[u8]) -> Result<Vec<u8>, ModuleError> {
    if ALLOWED.load(Ordering::Relaxed)
        && let Some(compiled) = aside(bytes)
    {
        return compiled;
    }
    engine.precompile_component(bytes).map_err(|error| ModuleError::Invalid(format!("{error:#}")))
}

/// This very program, also if the file has been replaced by another.
fn program() -> Option<PathBuf> {
    match cfg!(target_os = "linux") {
        true => Some("/proc/self/exe".into()),
        false => std::env::current_exe().ok(),
    }
}

/// None if no process can be had.
fn aside(bytes: &[u8]) -> Option<Result<Vec<u8>, ModuleError>> {
    let mut command = Command::new(program()?);
    command.arg(VERB).arg(if address_space_is_limited() { "limited" } else { "" });
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let (mut stdin, mut stdout) = (child.stdin.take()?, child.stdout.take()?);
    let mut answer = Vec::new();
    std::thread::scope(|scope| {
        // It may end before it has read everything.
        scope.spawn(move || drop(stdin.write_all(bytes)));
        let _ = stdout.read_to_end(&mut answer);
    });
    let status = child.wait().ok()?;
    Some(match (status.code(), answer.first()) {
        (Some(0), Some(0)) => {
            answer.remove(0);
            Ok(answer)
        }
        (Some(0), Some(_)) => Err(ModuleError::Invalid(String::from_utf8_lossy(&answer[1..]).into_owned())),
        _ => Err(why_ended(status)),
    })
}

/// Why the process did not come to an answer.
fn why_ended(status: ExitStatus) -> ModuleError {
    let signal = status.signal().and_then(Signal::from_named_raw);
    match signal {
        Some(Signal::XCPU) => ModuleError::TooExpensive(format!("{SECONDS} s of computing")),
        // What cannot have memory aborts.
        Some(Signal::ABORT | Signal::SEGV) => {
            ModuleError::TooExpensive(format!("{} GiB of memory", MEMORY_BYTES >> 30))
        }
        Some(Signal::KILL) => {
            ModuleError::Stopped("the system killed the compiler, probably for want of memory".to_owned())
        }
        _ => ModuleError::Stopped(format!("the compiler ended with {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a process that ended as this script did.
    fn said(script: &str) -> ModuleError {
        why_ended(Command::new("sh").args(["-c", script]).status().unwrap())
    }

    #[test]
    fn a_compiler_that_the_system_kills_is_not_said_to_have_taken_too_long() {
        let killed = said("kill -KILL $$");
        assert_eq!((killed.code(), killed.to_string().contains("memory")), ("WF0113", true), "{killed}");
        assert!(killed.hint().contains("more memory"), "{}", killed.hint());
        let late = said("kill -XCPU $$");
        assert_eq!((late.code(), late.to_string().contains("180 s")), ("WF0111", true), "{late}");
        let large = said("kill -ABRT $$");
        assert_eq!((large.code(), large.to_string().contains("6 GiB")), ("WF0111", true), "{large}");
        assert_eq!(said("exit 1").code(), "WF0113");
    }
}
