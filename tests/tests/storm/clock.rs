//! Wall clocks of processes that are wrong for a while.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use private_postgres::Postgres;
use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, module};

const DAY_MS: i64 = 86_400_000;

/// A library that comes between a process and the clocks of the system.
#[derive(Debug)]
pub struct Library(PathBuf);

impl Library {
    /// None, with the reason on stdout, if there is no compiler or processes do not take it.
    pub fn build(place: &Place) -> Option<Self> {
        let (source, library) = (place.file("clock.c", include_str!("clock.c")), place.path("clock.so"));
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
        let library = Self(library);
        match built {
            Err(error) => println!("no clocks that jump: cc cannot be started: {error}"),
            Ok(built) if !built.status.success() => {
                println!("no clocks that jump: {}", String::from_utf8_lossy(&built.stderr));
            }
            Ok(_) if !library.misleads(place) => println!("no clocks that jump: the library is not loaded"),
            Ok(_) => return Some(library),
        }
        None
    }

    /// Whether a process believes it.
    fn misleads(&self, place: &Place) -> bool {
        let day = |ahead_ms: i64, id: &str| {
            let input = json!({ "do": [] }).to_string();
            // The time of a server is that server's.
            let elsewhere = Place::in_file();
            let mut begin = elsewhere.wfhost(["run", &module("probe"), "-d", "--id", id, "-i", &input]);
            let clock = self.clock(place, id, &mut begin);
            clock.set(ahead_ms);
            let _ = begin.output();
            let created = elsewhere.show(id)["created_at"].clone();
            created.as_str().expect("a time")[..10].to_owned()
        };
        day(0, "right") != day(2 * DAY_MS, "wrong")
    }

    /// Gives a process a clock of its own, which is right so far.
    pub fn clock(&self, place: &Place, name: &str, command: &mut Command) -> Clock {
        let path = place.path(&format!("clock-{name}"));
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path);
        let clock = Clock(file.expect("a test writes its files"));
        clock.set(0);
        command.env("LD_PRELOAD", &self.0).env("STORM_CLOCK", path);
        clock
    }
}

/// The clock of one process.
#[derive(Debug)]
pub struct Clock(File);

impl Clock {
    /// Sets it to so many milliseconds ahead of the right time.
    pub fn set(&self, ahead_ms: i64) {
        self.0.write_all_at(&ahead_ms.to_ne_bytes(), 0).expect("a test writes its files");
    }
}

/// Whoever uses a database on a server means the time of that, however wrong the clock of the own machine is.
#[test]
fn on_a_server_its_time_holds_and_not_that_of_who_asks() {
    const HOUR_MS: i64 = 3_600_000;
    let server = Postgres::start(&[]);
    let place = Place::on_server(server.url());
    let Some(library) = Library::build(&place) else { return };
    std::fs::create_dir_all(place.path("config/wfhost")).expect("a directory");
    let told = place.path("told.json");
    let sink = format!("[sinks.kept]\nargv = [\"sh\", \"-c\", \"cat > '{}'\"]\n", told.display());
    place.file("config/wfhost/config.toml", &sink);
    let program = json!({ "do": [] }).to_string();
    assert_eq!(place.run(["run", &module("probe"), "--id", "r", "-d", "-i", &program]).code(), Some(0));
    for (name, ahead_ms) in [("right", 0), ("behind", -2 * DAY_MS), ("ahead", 2 * DAY_MS)] {
        let tried = |args: &[&str]| {
            let mut command = place.wfhost(args);
            library.clock(&place, name, &mut command).set(ahead_ms);
            Ran(command.output().expect("the binary starts"))
        };
        let run = |args: &[&str]| tried(args).ok_json();
        let about = |time: &Value, then: i64| {
            let time = time.as_str().expect("a time");
            let left = format!(
                "SELECT (extract(epoch FROM '{time}'::timestamptz - clock_timestamp()) * 1000)::int8"
            );
            let off = server.sql(&left).parse::<i64>().expect("a number") - then;
            assert!(off.abs() < HOUR_MS / 2, "{name}: {off} ms off");
        };
        let seen = run(&["ps", "--since", "1h", "-o", "json"]);
        assert_eq!(seen["runs"].as_array().unwrap().len(), 1, "{name}: {seen}");
        let added = ["schedule", "add", name, "--every", "4h", &module("probe"), "-o", "json"];
        about(&run(&added)["next"][0], 0);
        assert_eq!(place.run(["schedule", "pause", name]).code(), Some(0));
        about(&run(&["schedule", "resume", name, "-o", "json"])["next"][0], 4 * HOUR_MS);
        let token = run(&["token", "new", name, "--scope", "runs:read", "--expires", "3h", "-o", "json"]);
        about(&token["token"]["created_at"], 0);
        about(&token["token"]["expires_at"], 3 * HOUR_MS);
        let tested = tried(&["sinks", "test", "kept"]);
        assert_eq!(tested.code(), Some(0), "{}", tested.stderr());
        let told = std::fs::read_to_string(&told).expect("the sink was told");
        about(&serde_json::from_str::<Value>(&told).expect("JSON")["timestamp"], 0);
    }
}
