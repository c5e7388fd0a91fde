//! A dump of the server's own program, restored on another server.

use std::process::Command;

use private_postgres::{Postgres, programs};
use serde_json::Value;
use wfhost_tests::{Place, module};

/// A program of the server, for its database.
fn program(server: &Postgres, name: &str) -> Command {
    let mut command = Command::new(programs().join(name));
    command.args(["-U", "wf", "-d", "postgres", "-p", &server.port().to_string(), "-h"]).arg(server.dir());
    command
}

fn places(place: &Place) -> Vec<u64> {
    let events = place.run(["events", "-o", "jsonl"]).stdout();
    let place = |line: &str| serde_json::from_str::<Value>(line).ok()?["event"].as_u64();
    events.lines().filter_map(place).collect()
}

#[test]
fn what_was_restored_on_another_server_goes_on_and_its_events_only_grow() {
    let (server, other) = (Postgres::start(&[]), Postgres::start(&[]));
    let place = Place::on_server(server.url());
    let run = |place: &Place, id: &str, no_wait: bool| {
        let input = r#"{"do":[{"agent":"a"},{"wait":{"name":"go"}},{"agent":"b"}]}"#;
        let module = module("probe");
        let mut args = vec!["run", &module, "-q", "-i", input, "--id", id, "--agent", "echo"];
        args.extend(no_wait.then_some("--no-wait"));
        let ran = place.run(args);
        assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    };
    // One that has seen many transactions.
    server.sql("DO $$ BEGIN FOR i IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$");
    run(&place, "old", true);
    let dump = program(&server, "pg_dump").arg("--schema=wfhost").output().expect("pg_dump runs");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let file = place.path("dump.sql");
    std::fs::write(&file, &dump.stdout).expect("a file");
    let restored =
        program(&other, "psql").args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file).output();
    let restored = restored.expect("psql runs");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));

    let there = Place::at(&other.url());
    let before = places(&place);
    assert_eq!(places(&there), before);
    run(&there, "new", true);
    for id in ["old", "new"] {
        assert_eq!(there.run(["signal", id, "go", "-q", "-i", "1"]).code(), Some(0));
        let resumed = there.run(["resume", id, "-q", "--agent", "echo"]);
        assert_eq!(resumed.code(), Some(0), "{}", resumed.stderr());
    }
    let after = places(&there);
    assert!(after.starts_with(&before) && after.len() > before.len(), "{before:?} {after:?}");
    assert!(after.is_sorted(), "{after:?}");
    let check = there.run(["db", "check", "--deep"]);
    assert_eq!(check.code(), Some(0), "{}", check.stderr());
}
