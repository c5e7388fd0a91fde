//! Who advances a run: this process, and whether another one still lives.

use std::sync::OnceLock;

/// The process that advances a run.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Owner {
    /// The machine, and which boot of it.
    pub host: String,
    pub pid: u32,
    /// When the process began, in the units of the operating system: tells it
    /// from a later one with the same pid.
    pub started: u64,
}

/// This process.
pub fn this_process() -> Owner {
    let pid = std::process::id();
    Owner { host: host().to_owned(), pid, started: start_of(pid).unwrap_or(0) }
}

/// Whether the owner is a process of this machine that is no more. Processes
/// of other machines are never known to be dead; their leases have to run out.
pub fn is_dead(owner: &Owner) -> bool {
    if owner.host != host() {
        // The same machine before it was booted again.
        let machine = |host: &str| host.split_once('/').map(|(machine, _)| machine.to_owned());
        return machine(&owner.host).is_some() && machine(&owner.host) == machine(host());
    }
    start_of(owner.pid) != Some(owner.started)
}

/// The name of this machine and the id of its present boot: `name/boot`.
fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        format!("{name}/{}", boot.trim())
    })
}

/// When a process of this machine began, in clock ticks since boot; none if
/// there is no such process.
#[cfg(target_os = "linux")]
fn start_of(pid: u32) -> Option<u64> {
    /// The place of `starttime` behind the command's closing parenthesis (proc(5)).
    const START: usize = 19;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    // A zombie will do nothing any more.
    if fields.clone().next() == Some("Z") {
        return None;
    }
    fields.nth(START)?.parse().ok()
}

/// Elsewhere only whether it exists can be told.
#[cfg(not(target_os = "linux"))]
fn start_of(pid: u32) -> Option<u64> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    rustix::process::test_kill_process(pid).ok().map(|()| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_a_finished_one_does_not() {
        let me = this_process();
        assert!(!is_dead(&me));
        assert!(is_dead(&Owner { started: me.started + 1, ..me.clone() }));
        assert!(!is_dead(&Owner { host: "elsewhere/1".to_owned(), ..me }));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(is_dead(&Owner { pid, ..this_process() }));
    }
}
