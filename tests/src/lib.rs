//! What the tests of the built product share: a place of their own for each,
//! and the real binary.

#[cfg(test)]
mod layers;
#[cfg(test)]
mod licences;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub use private_postgres::free_port;
use serde_json::Value;
use tempfile::TempDir;

/// The directory that cargo builds into.
pub fn target() -> PathBuf {
    // target/debug/deps/TEST
    let test = std::env::current_exe().expect("a test knows its own file");
    test.ancestors().nth(3).expect("cargo's layout").to_owned()
}

/// A component that `examples/build` made.
pub fn module(name: &str) -> String {
    let guest =
        matches!(name, "behaviours" | "puppet") || name.starts_with("probe") || name.starts_with("letter");
    let dir = if guest { "guests" } else { "examples" };
    let path = target().join(dir).join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run examples/build", path.display());
    path.display().to_string()
}

/// The probe as version `version` of a program (0 to 9): a module of its own, which differs in the
/// operations `by_version` only.
pub fn version(place: &Place, version: u8) -> String {
    place.file(&format!("probe-{version}.wasm"), bytes_of_version(version))
}

/// The same as the bytes of the module.
pub fn bytes_of_version(version: u8) -> Vec<u8> {
    let mut bytes = std::fs::read(module("probe")).expect("the probe");
    let mark = b"the version of the probe";
    let at = bytes.windows(mark.len()).position(|window| window == mark).expect("its mark");
    bytes[at + mark.len()] = b'0' + version;
    bytes
}

/// A component out of a core module in text form, as `wfhost build` makes it.
pub fn component(place: &Place, core: &str) -> String {
    let file = place.file("core.wasm", wat::parse_str(core).expect("valid text"));
    let made = place.run(["build", &file, "--out", &place.path("made.wasm").display().to_string()]);
    assert_eq!(made.code(), Some(0), "{}", made.stderr());
    place.path("made.wasm").display().to_string()
}

/// Chooses the databases of the tests: `postgres` for schemas on a server, else files.
pub const DATABASE: &str = "WFHOST_TEST_DB";

/// Whether the tests use databases on a server.
pub fn on_a_server() -> bool {
    match std::env::var(DATABASE).as_deref() {
        Err(_) | Ok("" | "sqlite") => false,
        Ok("postgres") => true,
        Ok(other) => panic!("{DATABASE} is sqlite or postgres, not {other}"),
    }
}

/// Whether a test is to be left out because it is about databases in files; `why` says what of them.
pub fn only_for_files(why: &str) -> bool {
    if on_a_server() {
        eprintln!("left out, as it is about files: {why}");
    }
    on_a_server()
}

/// A database and a script of its own for one test.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
    /// Of a schema on a server, instead of the file.
    url: Option<String>,
}

impl Default for Place {
    fn default() -> Self {
        match on_a_server() {
            true => Self::on_server(private_postgres::fresh_url()),
            false => Self::in_file(),
        }
    }
}

impl Place {
    pub fn new() -> Self {
        Self::default()
    }

    /// With a file for a database, whatever others use.
    pub fn in_file() -> Self {
        Self { dir: TempDir::new().expect("a temporary directory"), url: None }
    }

    /// With the database of this URL, which gets its tables.
    pub fn on_server(url: String) -> Self {
        let place = Self::at(&url);
        let made = place.run(["db", "init"]);
        assert_eq!(made.code(), Some(0), "{}", made.stderr());
        place
    }

    /// With the database of this URL, which has its tables.
    pub fn at(url: &str) -> Self {
        Self { url: Some(url.to_owned()), ..Self::in_file() }
    }

    /// Whether its database is on a server.
    pub fn on_a_server(&self) -> bool {
        self.url.is_some()
    }

    /// As `--db` names it.
    pub fn database(&self) -> String {
        self.url.clone().unwrap_or_else(|| self.db().display().to_string())
    }

    /// What a query gives: rows as lines, values separated by `|`. It is said for files and for servers.
    pub fn query(&self, in_file: &str, on_server: &str) -> String {
        let Some(url) = &self.url else {
            let database = rusqlite::Connection::open(self.db()).expect("the database");
            let mut query = database.prepare(in_file).expect("valid SQL");
            let columns = query.column_count();
            let rows = query.query_map([], |row| {
                let values = (0..columns).map(|column| {
                    Ok(match row.get_ref(column)? {
                        rusqlite::types::ValueRef::Null => String::new(),
                        rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                        rusqlite::types::ValueRef::Real(number) => number.to_string(),
                        rusqlite::types::ValueRef::Text(bytes) | rusqlite::types::ValueRef::Blob(bytes) => {
                            String::from_utf8_lossy(bytes).into_owned()
                        }
                    })
                });
                Ok(values.collect::<rusqlite::Result<Vec<_>>>()?.join("|"))
            });
            let rows = rows.and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>);
            return rows.expect("an answer").join("\n");
        };
        private_postgres::query(url, on_server)
    }

    /// Changes rows behind the back of wfhost, at least one.
    #[track_caller]
    pub fn change(&self, in_file: &str, on_server: &str) {
        let changed = match &self.url {
            None => {
                let database = rusqlite::Connection::open(self.db()).expect("the database");
                database.execute(in_file, []).expect("valid SQL").to_string()
            }
            Some(url) => {
                let sql = format!("WITH changed AS ({on_server} RETURNING 1) SELECT count(*) FROM changed");
                private_postgres::query(url, &sql)
            }
        };
        assert_ne!(changed, "0", "{in_file}");
    }

    /// Keeps the database from being written to until the guard is dropped; on a server its runs, from being claimed.
    pub fn hold(&self) -> Held {
        match &self.url {
            None => {
                let database = rusqlite::Connection::open(self.db()).expect("the database");
                database.execute_batch("BEGIN IMMEDIATE").expect("nobody else writes for long");
                Held::File(database)
            }
            Some(url) => {
                let locked = "SELECT count(*) FROM (SELECT 1 FROM hot FOR UPDATE) h";
                Held::OnServer(private_postgres::Transaction::begin(url, locked))
            }
        }
    }

    /// Whether anything of the database is there yet.
    pub fn has_begun(&self) -> bool {
        self.url.is_some() || self.db().exists()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn db(&self) -> PathBuf {
        self.path("wfhost.db")
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).expect("a test writes its files");
        path.display().to_string()
    }

    /// Writes a script that records its calls.
    pub fn script(&self, mut script: Value) -> String {
        script["calls"] = "calls.jsonl".into();
        self.file("agents.json", script.to_string())
    }

    /// Configures the provider `held`, whose calls go on until [`Place::let_go`], and are counted by
    /// [`Place::held_calls`]. What it answers is the prompt.
    pub fn held(&self) -> String {
        let (calls, go) = (self.path("held.calls"), self.path("held.go"));
        let script = format!(
            "echo \"$WFHOST_STEP\" >> {}; while [ ! -e {} ]; do sleep 0.05; done; cat",
            calls.display(),
            go.display()
        );
        let argv = ["sh", "-c", &script];
        self.file("held.toml", format!("[providers.held]\nkind = \"command\"\nargv = {argv:?}\n"))
    }

    pub fn held_calls(&self) -> usize {
        lines(&self.path("held.calls"))
    }

    /// Has the calls of [`Place::held`] answered.
    pub fn let_go(&self) {
        self.file("held.go", "");
    }

    /// The calls that the script recorded.
    pub fn calls(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("calls.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a recorded call")).collect()
    }

    /// `wfhost ARGS`, with this place's database and a compilation cache that all tests share.
    pub fn wfhost<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(target().join("debug/wfhost"));
        command.args(args).env("WFHOST_DB", self.database()).env("NO_COLOR", "1").stdin(Stdio::null());
        command.env("WFHOST_CACHE", target().join("test-cache"));
        if self.url.as_ref().is_some_and(|url| url.contains("schema=t_")) {
            // The server that tests share forgets everything when it ends.
            command.env("WFHOST_SYNCHRONOUS", "normal");
        }
        // What the user of the machine has configured is none of the tests' business.
        command.env("XDG_CONFIG_HOME", self.path("config")).env("XDG_DATA_HOME", self.path("data"));
        command.env("XDG_STATE_HOME", self.path("state"));
        // The tests of the server say where it answers.
        command.env("WFHOST_LISTEN", "off");
        for name in [
            "ANTHROPIC_API_KEY",
            "OPENAI_API_KEY",
            "WFHOST_AGENT",
            "WFHOST_CONFIG",
            "WFHOST_TRUST",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "TRACEPARENT",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// Runs it to its end.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran(self.wfhost(args).output().expect("the binary starts"))
    }

    /// Runs it in the background.
    pub fn spawn<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Child {
        let mut command = self.wfhost(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
    }

    /// `show RUN -o json`
    pub fn show(&self, run: &str) -> Value {
        self.run(["show", run, "-o", "json"]).ok_json()
    }

    /// The journal as JSON lines.
    pub fn journal(&self, run: &str) -> Vec<Value> {
        let ran = self.run(["journal", run, "-o", "jsonl"]);
        ran.stdout().lines().map(|line| serde_json::from_str(line).expect("an entry")).collect()
    }
}

/// What keeps a database.
#[derive(Debug)]
pub enum Held {
    File(rusqlite::Connection),
    OnServer(private_postgres::Transaction),
}

/// A finished process.
pub struct Ran(pub Output);

impl Ran {
    pub fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// The result, which has to be there.
    #[track_caller]
    pub fn ok_json(&self) -> Value {
        assert_eq!(self.code(), Some(0), "{}", self.stderr());
        serde_json::from_str(&self.stdout()).expect("stdout is JSON")
    }

    /// The error, which has to have this exit code. Ids of runs and paths are replaced.
    #[track_caller]
    pub fn error(&self, code: i32, place: &Place) -> String {
        assert_eq!(self.code(), Some(code), "{}{}", self.stdout(), self.stderr());
        self.stderr().replace(&place.path("").display().to_string(), "DIR/")
    }
}

/// Waits until `condition` gives something; a minute at most, for a busy machine may have to compile first.
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually_within(Duration::from_secs(60), what, condition)
}

/// The same, with a patience of its own.
#[track_caller]
pub fn eventually_within<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begin.elapsed() < patience, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a process ends.
pub fn finish(child: Child) -> Ran {
    Ran(child.wait_with_output().expect("a child can be waited for"))
}

/// The time from one to the other, as JSON has them: `2026-01-02T03:04:05.678Z`.
#[track_caller]
pub fn time_between(from: &Value, to: &Value) -> Duration {
    let at =
        |time: &Value| time.as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok()).expect("a time");
    at(to).duration_since(at(from)).try_into().expect("the later one is later")
}

/// The number of lines of a file.
pub fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}
