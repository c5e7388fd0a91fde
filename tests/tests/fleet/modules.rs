//! What a run names by its path on the machine where it was begun.

use serde_json::json;
use wfhost_tests::{Place, module};

#[test]
fn a_child_whose_module_is_on_another_machine_is_no_failure_of_its_parent() {
    let place = Place::at(&private_postgres::fresh_url());
    assert_eq!(place.run(["--synchronous", "normal", "db", "init"]).code(), Some(0));
    let there = place.path("there");
    std::fs::create_dir(&there).expect("a directory");
    for name in ["probe", "counter"] {
        std::fs::copy(module(name), there.join(format!("{name}.wasm"))).expect("a module");
    }
    let program = json!([{ "agent": "a" }, { "child": { "module": "counter", "input": { "steps": 1 } } }]);
    let input = json!({ "do": program }).to_string();
    let run = there.join("probe.wasm").display().to_string();
    let begun = place.run(["run", &run, "-q", "-d", "--id", "r", "-i", &input, "--agent", "echo"]);
    assert_eq!(begun.code(), Some(0), "{}", begun.stderr());
    // For the host that comes now it is another machine's.
    let elsewhere = place.path("elsewhere");
    std::fs::rename(&there, &elsewhere).expect("it can be renamed");
    let served = place.run(["serve", "-q", "--idle", "500ms", "--agent", "echo"]);
    assert_eq!(served.code(), Some(0), "{}", served.stderr());
    let why = place.run(["why", "r"]).stdout();
    assert!(why.contains("counter") && why.contains(&there.display().to_string()), "{why}");
    let error = place.run(["resume", "r", "-q", "--agent", "echo"]).error(4, &place);
    assert!(error.starts_with("error[WF0415]") && error.contains("wfhost add"), "{error}");
    // The program has not been told of a failure.
    assert!(place.journal("r").iter().all(|entry| entry["kind"] != "ended"), "{:?}", place.journal("r"));
    let added = place.run(["add", &elsewhere.join("counter.wasm").display().to_string()]);
    assert_eq!(added.code(), Some(0), "{}", added.stderr());
    let resumed = place.run(["resume", "r", "-q", "--agent", "echo"]);
    assert_eq!(resumed.code(), Some(0), "{}", resumed.stderr());
    assert_eq!(place.show("r.2")["state"], "completed");
}
