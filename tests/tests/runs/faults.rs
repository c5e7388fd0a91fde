//! Disks that are full, files that cannot be written or were damaged: by the real binary.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use serde_json::json;
use wfhost_tests::{Place, Ran, module};

#[test]
fn a_full_disk_stops_a_run_which_goes_on_when_there_is_room() {
    let place = Place::in_file();
    let script = place.script(json!({ "default": { "reply": "${prompt} ".repeat(2_000) } }));
    let program: Vec<_> = (0..60).map(|n| json!({ "agent": format!("step{n}") })).collect();
    let (module, input) = (module("probe"), json!({ "do": program }).to_string());
    // Room for the module and some of the answers.
    let pages = (std::fs::metadata(&module).unwrap().len() / 4096 + 100).to_string();
    let full = |args: &[&str]| {
        Ran(place.wfhost(args).env("WFHOST_MAX_PAGES", &pages).output().expect("the binary starts"))
    };
    let ran = full(&["run", &module, "-i", &input, "--id", "r", "--agents", &script]);
    assert_eq!(ran.code(), Some(4), "{}", ran.stderr());
    assert!(ran.stderr().contains("error[WF0312]"), "{}", ran.stderr());
    let made = place.calls().len();
    assert!(made > 0 && made < 60, "{made}");
    // It can be looked at, and nothing of it is lost.
    assert_eq!(full(&["show", "r"]).code(), Some(0));
    assert_eq!(full(&["verify", "r"]).code(), Some(0));
    let ran = place.run(["resume", "r", "--agents", &script]);
    assert_eq!(ran.ok_json().as_array().unwrap().len(), 60);
    // Only the call whose answer found no room was made again.
    let calls = place.calls();
    assert!((60..=61).contains(&calls.len()), "{}", calls.len());
    assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0));
}

#[test]
fn a_run_calls_nobody_any_more_when_its_database_is_gone() {
    let place = Place::in_file();
    let script = place.script(json!({ "default": { "reply": "x", "delay_ms": 700 } }));
    let program: Vec<_> = (0..12).map(|n| json!({ "agent": format!("step{n}") })).collect();
    let (module, input) = (module("probe"), json!({ "do": program }).to_string());
    let child = place.spawn(["run", &module, "-i", &input, "--id", "r", "--agents", &script]);
    wfhost_tests::eventually("the first calls", || (place.calls().len() >= 2).then_some(()));
    std::fs::rename(place.db(), place.path("elsewhere.db")).unwrap();
    let ran = wfhost_tests::finish(child);
    assert_eq!(ran.code(), Some(4), "{}", ran.stderr());
    assert!(ran.stderr().contains("error[WF0320]"), "{}", ran.stderr());
    assert!(place.calls().len() < 8, "{} calls were made", place.calls().len());
}

#[test]
fn a_database_that_cannot_be_written_is_named() {
    let place = Place::in_file();
    place.run(["run", &module("probe"), "-i", r#"{"do":[]}"#, "--id", "r"]).ok_json();
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let database = rusqlite::Connection::open(place.db()).unwrap();
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(database);
    mode(&place.db(), 0o444);
    mode(&place.path(""), 0o555);
    let mut command = place.wfhost(["signal", "r", "go"]);
    if rustix::process::getuid().is_root() {
        // Root may write everything.
        command.uid(65_534).gid(65_534);
    }
    let ran = Ran(command.output().expect("the binary can be executed by everybody"));
    mode(&place.path(""), 0o755);
    assert_eq!(ran.code(), Some(4), "{}", ran.stderr());
    let error = ran.error(4, &place);
    assert!(error.starts_with("error[WF0311]") || error.starts_with("error[WF0310]"), "{error}");
    assert!(error.contains("DIR/wfhost.db") && error.contains("hint: "), "{error}");
}

#[test]
fn damage_anywhere_in_the_file_is_found_and_crashes_nothing() {
    let place = Place::in_file();
    let program = json!([{ "agent": "x".repeat(20_000) }, { "log": "line" }, { "wait": { "name": "go" } }]);
    let input = json!({ "do": program }).to_string();
    let args = ["run", &module("probe"), "-i", &input, "--id", "r", "--agent", "echo", "--no-wait"];
    assert_eq!(place.run(args).code(), Some(3));
    let database = rusqlite::Connection::open(place.db()).unwrap();
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(database);
    let good = std::fs::read(place.db()).unwrap();
    let pages = good.len() / 4096;
    assert!(pages > 50);
    // The first pages, where the tables begin, and a sample of the others.
    for page in (0..30).chain((30..pages).step_by(29)) {
        let mut bad = good.clone();
        // The first 100 bytes of the file say what it is.
        bad[(page * 4096).max(100)..(page + 1) * 4096].fill(0xa5);
        std::fs::write(place.db(), &bad).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(place.path(&format!("wfhost.db{suffix}")));
        }
        for args in
            [&["ps"][..], &["show", "r"], &["journal", "r"], &["why", "r"], &["resume", "r", "--no-wait"]]
        {
            let ran = place.run(args);
            assert!(
                matches!(ran.code(), Some(0 | 2..=5)),
                "page {page}, {args:?}: {:?} {}",
                ran.code(),
                ran.stderr()
            );
            assert!(!ran.stderr().contains("panicked"), "page {page}, {args:?}: {}", ran.stderr());
        }
        let ran = place.run(["db", "check"]);
        assert_eq!(ran.code(), Some(4), "page {page}: {}", ran.stdout());
    }
}
