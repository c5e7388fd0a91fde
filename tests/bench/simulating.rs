//! `wfhost test`: whole executions of a workflow in simulated worlds, as users start it.

use std::process::Stdio;

use serde_json::Value;

use crate::place::Place;
use crate::report::{Reading, Target};

/// Executions of the example `research` in one second: nine to thirty agent calls, an approval that takes days, agents
/// that fail, a host that dies, programs that are dropped from memory; and a replay of each journal.
pub fn simulating(place: &Place) -> Vec<Reading> {
    let db = place.fresh("unused.db");
    let research = wfhost_tests::module("research");
    let keep = db.with_file_name("failures").display().to_string();
    let count = place.many(10_000).to_string();
    let rate = |jobs: &str| {
        let args = ["test", &research, "-i", r#"{"topic":"bees"}"#, "--executions", &count, "-o", "json"];
        let mut command = place.wfhost(&db, args.into_iter().chain(["--keep", &keep, "--jobs", jobs]));
        let output = command.stdout(Stdio::piped()).output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let report = &report["reports"][0];
        let number = |name: &str| report[name].as_f64().expect("a number");
        number("executions") / number("seconds")
    };
    let readings = vec![
        Reading::new("executions of `research` by `wfhost test`, two at once", "/s", rate("2"))
            .beside("one at once", rate("1"))
            .target(Target::AtLeast(2_000.0)),
    ];
    place.discard(&db);
    readings
}
