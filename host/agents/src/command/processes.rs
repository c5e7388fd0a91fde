//! The processes of this machine: who descends from whom, and signals that
//! reach the process that is meant and no other one.

use std::collections::HashMap;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal};

/// The variable that programs inherit from their call, with a random value.
pub(super) const MARKER: &str = wfhost_world::environment::CALL;

/// A process. The same number later is another one: it began at another time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Process {
    pid: u32,
    /// Clock ticks after the start of the machine.
    began: u64,
}

/// What `/proc/PID/stat` says (proc_pid_stat(5)).
struct Stat {
    parent: u32,
    is_zombie: bool,
    began: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, parentheses included.
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let began = fields.nth(17)?.parse().ok()?;
    Some(Stat { parent, is_zombie, began })
}

fn all() -> impl Iterator<Item = (u32, Stat)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?)))
}

/// All living processes that descend from `root`, without itself.
pub(super) fn descendants(root: u32) -> Vec<Process> {
    let mut children: HashMap<u32, Vec<(u32, Stat)>> = HashMap::new();
    for (pid, stat) in all() {
        children.entry(stat.parent).or_default().push((pid, stat));
    }
    let (mut found, mut parents) = (Vec::new(), vec![root]);
    while let Some(parent) = parents.pop() {
        for (pid, stat) in children.remove(&parent).into_iter().flatten() {
            parents.push(pid);
            if !stat.is_zombie {
                found.push(Process { pid, began: stat.began });
            }
        }
    }
    found
}

/// All living processes that inherited the marker `value`, but this one.
pub(super) fn marked(value: &str) -> Vec<Process> {
    let wanted = format!("{MARKER}={value}");
    let own = std::process::id();
    let has = |pid: u32| {
        let path = PathBuf::from(format!("/proc/{pid}/environ"));
        let environment = std::fs::read(path).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    all()
        .filter(|(pid, stat)| *pid != own && !stat.is_zombie && has(*pid))
        .map(|(pid, stat)| Process { pid, began: stat.began })
        .collect()
}

impl Process {
    /// Sends a signal. Whoever is gone gets none, also if its number was given away again.
    pub fn signal(self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid.cast_signed()) else { return };
        let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
        // The handle stands for one process, whatever becomes of the number.
        if stat(self.pid).is_some_and(|stat| stat.began == self.began) {
            let _ = rustix::process::pidfd_send_signal(&handle, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_by_descent_and_by_their_marker() {
        // These tests may run twice on a machine.
        let marker = format!("marker-of-this-test-{}", std::process::id());
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 600 & wait"])
            .env(MARKER, &marker)
            .spawn()
            .unwrap();
        let both = || descendants(child.id()).len() == 1 && marked(&marker).len() == 2;
        while !both() {
            std::thread::yield_now();
        }
        for process in marked(&marker) {
            assert_ne!(process.pid, std::process::id());
            // Another process that once had the number is not touched.
            Process { began: process.began + 1, ..process }.signal(Signal::KILL);
        }
        // Between the shell's fork and its exec a process has no environment for a moment.
        let still = (0..1_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(2));
            both()
        });
        assert!(still);
        for process in marked(&marker) {
            process.signal(Signal::KILL);
        }
        assert!(!child.wait().unwrap().success());
    }
}
