//! What befalls a server while hosts have runs on it, and passes.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use private_postgres::{Postgres, programs};
use wfhost_tests::{Place, eventually, module};

use super::work::Fleet;

const PATIENCE: Duration = Duration::from_secs(90);
const LEASE_MS: u64 = 30_000;

/// What a command says that cannot be done now: its code, and what mends it.
#[track_caller]
fn refused(place: &Place, args: &[&str], code: &str, hint: &str) {
    let said = place.run(args.iter().copied()).error(4, place);
    assert!(said.starts_with(&format!("error[{code}]")) && said.contains("hint: "), "{args:?}: {said}");
    assert!(said.contains(hint), "{args:?}: no {hint:?} in {said}");
}

/// A disk of its own, in memory.
struct Disk(PathBuf);

impl Disk {
    /// None if this user may not have one.
    fn new(server: &Postgres, size: &str) -> Option<Self> {
        let dir = server.dir().join("small");
        std::fs::create_dir(&dir).expect("a directory of the server");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&dir)
            .output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            return None;
        }
        let disk = Self(dir);
        let owner = std::fs::metadata(server.dir().join("data")).expect("its data");
        let (user, group) =
            (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
        std::os::unix::fs::chown(&disk.0, Some(user), Some(group)).expect("it is the server's");
        Some(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_of_the_server_is_told_and_runs_go_on_when_there_is_room() {
    let server = Postgres::start(&[]);
    let Some(_disk) = Disk::new(&server, "12m") else {
        eprintln!("left out: this user may not mount a disk of its own");
        return;
    };
    let place = Place::on_server(server.url());
    let fleet = Fleet::of(&place, &server.url(), LEASE_MS, 2, 4);
    // What is written with each step is on the small disk, as is what fills it.
    let small = server.dir().join("small").display().to_string();
    server.sql(&format!("CREATE TABLESPACE small LOCATION '{small}'"));
    for table in ["journal", "runs", "inbox"] {
        let indexes = server.sql(&format!(
            "SELECT string_agg('ALTER INDEX ' || indexrelid::regclass || ' SET TABLESPACE small', '; ')
             FROM pg_index WHERE indrelid = 'wfhost.{table}'::regclass"
        ));
        server.sql(&format!("ALTER TABLE wfhost.{table} SET TABLESPACE small; {indexes}"));
    }
    server
        .sql("CREATE TABLE ballast (x text) TABLESPACE small; ALTER TABLE ballast ALTER x SET STORAGE PLAIN");
    let fill = || {
        for _ in 0..2_000 {
            let run = Command::new(programs().join("psql"))
                .args(["-X", "-q", "-U", "wf", "-d", "postgres", "-p", &server.port().to_string(), "-h"])
                .arg(server.dir())
                .args(["-c", "INSERT INTO ballast SELECT repeat('x', 4000) FROM generate_series(1, 40)"])
                .output()
                .expect("psql runs");
            if String::from_utf8_lossy(&run.stderr).contains("No space left") {
                return;
            }
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        }
        panic!("the disk is not full");
    };
    fill();
    // In pages that are there is some room still. What is not alike cannot be made smaller.
    let mut state = 1_u32;
    let mut letter = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + (state >> 24) as u8 % 26)
    };
    let big: String = (0..20_000).map(|_| letter()).collect();
    let input = format!(r#"{{"do":[{{"agent":"{big}"}}]}}"#);
    let begin = ["run", &module("probe"), "-q", "-d", "-i", &input];
    eventually("the disk to be full", || {
        let ran = place.run(begin);
        (ran.code() == Some(4)).then_some(())
    });
    refused(&place, &begin, "WF0312", "free disk space");
    // What reads still does.
    assert_eq!(place.run(["ps"]).code(), Some(0));
    std::thread::sleep(Duration::from_millis(1_500));
    server.sql("DROP TABLE ballast");
    fleet.signal_runs();
    fleet.wait(PATIENCE);
    let (calls, again) = fleet.judge();
    assert_eq!(again, 0, "of {calls}");
}

/// Connections that others hold.
struct Crowd(Vec<Child>);

impl Crowd {
    /// Takes all that there are.
    fn fill(server: &Postgres) -> Self {
        let mut crowd: Vec<Child> = Vec::new();
        loop {
            let child = Command::new(programs().join("psql"))
                .args(["-X", "-q", "-U", "many", "-d", "postgres", "-p", &server.port().to_string(), "-h"])
                .arg(server.dir())
                .args(["-c", "SELECT pg_sleep(600)"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("psql runs");
            crowd.push(child);
            std::thread::sleep(Duration::from_millis(30));
            // It may take longer until one is told that there is no room for it.
            let has_ended = |child: &mut Child| child.try_wait().expect("it can be waited for").is_some();
            if crowd.extract_if(.., has_ended).count() > 0 {
                return Self(crowd);
            }
            assert!(crowd.len() < 100, "there is always room");
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_server_without_free_connections_is_waited_for() {
    // A backend that sleeps notices only so that its client has gone.
    let server = Postgres::start(&["max_connections=40", "client_connection_check_interval=100"]);
    server.sql("CREATE ROLE many LOGIN; CREATE ROLE hosts LOGIN; GRANT CREATE ON DATABASE postgres TO hosts");
    let url = server.url().replace("wf@", "hosts@");
    let place = Place::on_server(url.clone());
    let fleet = Fleet::of(&place, &url, LEASE_MS, 2, 6);
    let crowd = Crowd::fill(&server);
    // Hosts lose theirs, and others are quicker.
    server.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'wfhost/%'");
    let rest = Crowd::fill(&server);
    refused(&place, &["ps"], "WF0334", "max_connections");
    std::thread::sleep(Duration::from_millis(1_500));
    drop((crowd, rest));
    fleet.signal_runs();
    fleet.wait(PATIENCE);
    let (calls, again) = fleet.judge();
    assert_eq!(again, 0, "of {calls}");
}

#[test]
fn a_server_that_is_not_to_be_written_to_is_waited_for() {
    let server = Postgres::start(&[]);
    let place = Place::on_server(server.url());
    let fleet = Fleet::of(&place, &server.url(), LEASE_MS, 2, 6);
    let set = |value: &str| {
        server.sql(&format!("ALTER SYSTEM SET default_transaction_read_only = {value}"));
        server.sql("SELECT pg_reload_conf()");
    };
    set("on");
    eventually("the server to be read-only", || (place.run(["ps"]).code() == Some(4)).then_some(()));
    refused(&place, &["ps"], "WF0311", "default_transaction_read_only");
    std::thread::sleep(Duration::from_millis(1_500));
    set("off");
    fleet.signal_runs();
    fleet.wait(PATIENCE);
    let (calls, again) = fleet.judge();
    assert_eq!(again, 0, "of {calls}");
}
