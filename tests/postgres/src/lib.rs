//! A PostgreSQL server for tests. It listens on a socket in a directory of its own, and ends with the process that
//! began it, however that ends.

mod ports;
mod proxy;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

pub use ports::free_port;
pub use proxy::Proxy;

/// Names the URL of a server that is there already; it is told apart by schemas.
pub const VARIABLE: &str = "WFHOST_TEST_POSTGRES";

/// Names the directory with the programs of another server than the newest one that is installed.
pub const PROGRAMS: &str = "WFHOST_TEST_POSTGRES_PROGRAMS";

/// A server that is this one's.
#[derive(Debug)]
pub struct Postgres {
    dir: PathBuf,
    port: u16,
    pipes: Mutex<Pipes>,
    supervisor: Child,
}

#[derive(Debug)]
struct Pipes {
    /// The server ends when this is closed.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// Where the programs of the newest server are, or of that which was chosen.
pub fn programs() -> PathBuf {
    if let Some(chosen) = std::env::var_os(PROGRAMS).filter(|chosen| !chosen.is_empty()) {
        return PathBuf::from(chosen);
    }
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).find(|dir| dir.join("initdb").is_file())
    };
    versions
        .pop()
        .map(|(_, bin)| bin)
        .or_else(on_path)
        .expect("there is no PostgreSQL: `tests/setup` installs it (Debian's package `postgresql`)")
}

impl Postgres {
    /// Begins a server with these settings besides those of all.
    pub fn start(settings: &[&str]) -> Self {
        // In memory if there is room: most tests are not about the disk.
        let place = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        builder.prefix("wfhost-postgres-");
        let dir = match place.is_dir() && !settings.contains(&"fsync=on") {
            true => builder.tempdir_in(place),
            false => builder.tempdir(),
        };
        // The supervisor removes it.
        let dir = dir.expect("a directory for the server").keep();
        let port = free_port();
        let is_root =
            std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
        let mut command = Command::new("sh");
        command
            .args(["-c", include_str!("supervise"), "supervise"])
            .arg(&dir)
            .arg(programs())
            .arg(if is_root { "postgres" } else { "-" });
        let all = [
            format!("unix_socket_directories={}", dir.display()),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            "max_connections=400".to_owned(),
            "shared_buffers=64MB".to_owned(),
            "log_min_messages=warning".to_owned(),
        ];
        let chosen = settings.iter().map(|setting| (*setting).to_owned());
        for setting in all.into_iter().chain(chosen) {
            command.args(["-c", &setting]);
        }
        let mut supervisor =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell for the server");
        let stdin = supervisor.stdin.take().expect("it has a pipe");
        let stdout = BufReader::new(supervisor.stdout.take().expect("it has a pipe"));
        let server = Self { dir, port, pipes: Mutex::new(Pipes { stdin: Some(stdin), stdout }), supervisor };
        server.hear("begun");
        server.wait();
        server
    }

    /// Waits for an answer of the supervisor.
    fn hear(&self, expected: &str) {
        let mut pipes = self.pipes.lock().expect("nobody panicked with it");
        let mut line = String::new();
        let mut said = String::new();
        while pipes.stdout.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            if line.trim() == expected {
                return;
            }
            said.push_str(&line);
            line.clear();
        }
        panic!("the server of the tests did not begin: {said}");
    }

    /// Waits until the server takes connections.
    pub fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        // The first line is its number, the last what it does.
        let is_ready = || {
            let text = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
            let (pid, state) =
                (text.lines().next().unwrap_or_default(), text.lines().last().unwrap_or_default());
            // It may be that of one that was killed.
            let lives = !pid.is_empty() && Path::new("/proc").join(pid.trim()).exists();
            lives && ["ready", "standby"].contains(&state.trim())
        };
        while !is_ready() {
            assert!(Instant::now() < end, "the server of the tests is not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the server has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
        text.lines().next().and_then(|line| line.trim().parse().ok()).expect("the server runs")
    }

    /// Kills it like a loss of power of its process.
    pub fn kill(&self) {
        self.say("kill");
        self.hear("killed");
    }

    /// Begins it anew, after it was killed.
    pub fn begin(&self) {
        self.say("begin");
        self.hear("begun");
        self.wait();
    }

    /// What its processes have had of processors since it began; of those that ended, in hundredths of a second.
    pub fn cpu(&self) -> Duration {
        let postmaster = self.pid();
        let stat = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // Behind the name, which is in parentheses: the parent, and ticks from the twelfth on.
            let fields = stat.rsplit_once(") ")?.1.split(' ').map(|field| field.parse::<u64>().unwrap_or(0));
            Some(fields.collect::<Vec<_>>())
        };
        let nanos = |pid: u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
        };
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let own = pids.filter(|pid| stat(*pid).is_some_and(|fields| fields[1] == u64::from(postmaster)));
        let living: u64 = own.chain([postmaster]).map(nanos).sum();
        let ended = stat(postmaster).map_or(0, |fields| fields[13] + fields[14]);
        Duration::from_nanos(living) + Duration::from_millis(10 * ended)
    }

    fn say(&self, word: &str) {
        let mut pipes = self.pipes.lock().expect("nobody panicked with it");
        let stdin = pipes.stdin.as_mut().expect("it is open until the end");
        writeln!(stdin, "{word}").expect("the supervisor listens");
    }

    /// By the socket.
    pub fn url(&self) -> String {
        let dir = self.dir.display().to_string().replace('/', "%2F");
        format!("postgres://wf@{dir}:{}/postgres", self.port)
    }

    /// By TCP.
    pub fn tcp_url(&self) -> String {
        format!("postgres://wf@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its data and its log are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs SQL with `psql`, and gives what that prints.
    pub fn sql(&self, sql: &str) -> String {
        let run = Command::new(programs().join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "wf", "-d", "postgres", "-h"])
            .arg(&self.dir)
            .args(["-p", &self.port.to_string(), "-c", sql])
            .output()
            .expect("psql runs");
        assert!(run.status.success(), "{sql}: {}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8_lossy(&run.stdout).trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Ok(pipes) = self.pipes.get_mut() {
            pipes.stdin = None;
        }
        let _ = self.supervisor.wait();
    }
}

/// The URL of a server for all tests of this process, or of several; each test takes a schema.
pub fn shared_url() -> String {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    match std::env::var(VARIABLE) {
        Ok(url) if !url.is_empty() => url,
        _ => SERVER.get_or_init(|| Postgres::start(&["fsync=off", "full_page_writes=off"])).url(),
    }
}

/// Runs SQL in the schema that a URL names, and gives what `psql` prints: a line for each row. It waits for a server
/// that is away.
pub fn query(url: &str, sql: &str) -> String {
    let (url, schema) = url.rsplit_once("schema=").unwrap_or((url, "wfhost"));
    let begin = Instant::now();
    let run = loop {
        let run = Command::new(programs().join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(url.trim_end_matches(['?', '&']))
            .env("PGOPTIONS", format!("-csearch_path={schema}"))
            .output()
            .expect("psql runs");
        // No connection: a test may have killed the server.
        if run.status.code() != Some(2) || begin.elapsed() > Duration::from_secs(20) {
            break run;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(run.status.success(), "{sql}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8_lossy(&run.stdout).trim().to_owned()
}

/// A transaction that has done something in the schema that a URL names, until this is dropped: then it is rolled back.
#[derive(Debug)]
pub struct Transaction(Child);

impl Transaction {
    pub fn begin(url: &str, sql: &str) -> Self {
        let (url, schema) = url.rsplit_once("schema=").unwrap_or((url, "wfhost"));
        let mut psql = Command::new(programs().join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
            .arg(url.trim_end_matches(['?', '&']))
            .env("PGOPTIONS", format!("-csearch_path={schema}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql runs");
        // It stays open: at its end psql ends, and its connection with it.
        writeln!(psql.stdin.as_mut().expect("a pipe"), "BEGIN; {sql};\n\\echo done").expect("psql reads");
        let said = BufReader::new(psql.stdout.as_mut().expect("a pipe")).lines();
        let done = said.map_while(Result::ok).any(|line| line == "done");
        assert!(done, "{sql}");
        Self(psql)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Removes the schema that a URL of [`fresh_url`] names, if nobody holds it.
pub fn drop_schema(url: &str) {
    let Some((url, schema)) = url.rsplit_once("schema=") else { return };
    let run = Command::new(programs().join("psql"))
        .args(["-X", "-q", "-c", "SET lock_timeout = '1s'; SET client_min_messages = error"])
        .args(["-c", &format!("DROP SCHEMA IF EXISTS \"{schema}\" CASCADE")])
        .arg(url.trim_end_matches(['?', '&']))
        .output();
    // It ends with the server at the latest.
    drop(run);
}

/// The URL of an empty schema.
pub fn fresh_url() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Numbers of processes are given out again.
    static BEGAN: OnceLock<u128> = OnceLock::new();
    let began = BEGAN.get_or_init(|| {
        std::time::UNIX_EPOCH.elapsed().expect("it is later than 1970").as_micros() % 1_000_000_000
    });
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let url = shared_url();
    let sep = if url.contains('?') { '&' } else { '?' };
    format!("{url}{sep}schema=t_{}_{began}_{number}", std::process::id())
}
