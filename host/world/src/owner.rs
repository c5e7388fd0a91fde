//! Who advances a run: this process, and whether another one still lives.

use std::sync::OnceLock;

/// The process that advances a run.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Owner {
    /// The name of the machine, for people.
    pub host: String,
    /// What tells whether a pid means the same here and there: the machine, its
    /// boot and the PID namespace. Owners of different realms know nothing of
    /// each other's death.
    pub realm: String,
    pub pid: u32,
    /// When the process began, in the units of the operating system: tells it
    /// from a later one with the same pid.
    pub started: u64,
}

/// This process.
pub fn this_process() -> Owner {
    static ME: OnceLock<Owner> = OnceLock::new();
    ME.get_or_init(|| {
        let pid = std::process::id();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Owner { host, realm: Realm::here().to_string(), pid, started: start_of(pid).unwrap_or(0) }
    })
    .clone()
}

/// Whether the owner is a process that is known to be no more. Of processes of other machines and
/// other PID namespaces nothing is known; their sessions have to run out.
pub fn is_dead(owner: &Owner) -> bool {
    let me = this_process();
    let (Some(mine), Some(other)) = (Realm::parse(&me.realm), Realm::parse(&owner.realm)) else {
        return false;
    };
    if mine.boot != other.boot {
        // The same machine before it was booted again.
        return !mine.machine.is_empty() && mine.machine == other.machine && me.host == owner.host;
    }
    if mine.space != other.space {
        return false;
    }
    match start_of(owner.pid) {
        Some(started) => started != owner.started,
        // Its files may be hidden from this user (hidepid); that it exists is not.
        None => !exists(owner.pid),
    }
}

/// Where a pid means something: `MACHINE BOOT SPACE`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Realm {
    /// The id of the machine; empty if it has none.
    machine: String,
    /// The id of its present boot.
    boot: String,
    /// The PID namespace.
    space: String,
}

impl std::fmt::Display for Realm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.machine, self.boot, self.space)
    }
}

impl Realm {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ').map(str::to_owned);
        let realm = Self { machine: parts.next()?, boot: parts.next()?, space: parts.next()? };
        (parts.next().is_none() && !realm.boot.is_empty() && !realm.space.is_empty()).then_some(realm)
    }

    fn here() -> Self {
        let word = |path: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().next().unwrap_or_default().to_owned()
        };
        Self {
            machine: word("/etc/machine-id"),
            boot: word("/proc/sys/kernel/random/boot_id"),
            space: space().unwrap_or_default(),
        }
    }
}

/// The PID namespace; none if /proc shows another one than that of this process.
#[cfg(target_os = "linux")]
fn space() -> Option<String> {
    let me = std::fs::read_link("/proc/self").ok()?;
    if me.to_str()?.parse() != Ok(std::process::id()) {
        return None;
    }
    let space = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(space.to_str()?.to_owned())
}

/// Elsewhere there is one.
#[cfg(not(target_os = "linux"))]
fn space() -> Option<String> {
    Some("all".to_owned())
}

/// Whether a process with that pid exists, also if it belongs to another user.
fn exists(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    // A process that may not be signalled is one.
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH)) && !is_zombie(pid)
}

/// Whether it has ended and nobody has asked how.
fn is_zombie(pid: rustix::process::Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// When a process of this machine began, in clock ticks since boot; none if
/// there is no such process or it may not be looked at.
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
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(is_dead(&Owner { pid, ..this_process() }));
    }

    #[test]
    fn nothing_is_known_of_processes_of_another_realm() {
        let me = this_process();
        let here = Realm::parse(&me.realm).unwrap();
        // A pid that nobody has.
        let gone = |realm: Realm| Owner { realm: realm.to_string(), pid: 4_194_303, ..me.clone() };
        assert!(is_dead(&gone(here.clone())));
        assert!(!is_dead(&gone(Realm { space: "pid:[1]".to_owned(), ..here.clone() })));
        let machine = "m".to_owned();
        assert!(!is_dead(&gone(Realm { boot: "another".to_owned(), machine, ..here.clone() })));
        // Booted again, if the machine can be told.
        let booted = gone(Realm { boot: "another".to_owned(), ..here.clone() });
        assert_eq!(is_dead(&booted), !here.machine.is_empty());
        assert!(!is_dead(&Owner { host: "another".to_owned(), ..booted }));
        assert!(!is_dead(&Owner { realm: "what older versions wrote".to_owned(), ..me.clone() }));
        assert!(!is_dead(&Owner { realm: String::new(), ..me }));
    }
}
