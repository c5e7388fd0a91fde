//! The sandbox: what programs observe is the same in every execution, they
//! reach nothing that they were not given, and no program can harm its host or
//! its neighbours. By the real binary and real modules.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, component, eventually, finish, module};

/// The arguments that run a program of the probe, built with the whole
/// standard library.
fn args(program: &Value, more: &[&str]) -> Vec<String> {
    let input = json!({ "do": program }).to_string();
    let mut args = vec!["run".to_owned(), module("probe-wasi"), "-i".to_owned(), input];
    args.extend(["--agent", "echo", "--id", "r"].map(str::to_owned));
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    args
}

fn run(place: &Place, program: &Value, more: &[&str]) -> Ran {
    place.run(args(program, more))
}

/// The message of the failure that a program ends with.
#[track_caller]
fn failure(place: &Place, program: &Value, more: &[&str]) -> String {
    let ran = run(place, program, more);
    assert_eq!(ran.code(), Some(1), "{}{}", ran.stdout(), ran.stderr());
    place.show("r")["failure"]["message"].as_str().expect("a message").to_owned()
}

/// All that could differ between two executions.
fn observations() -> Value {
    json!([
        "observe", "hash_order", "nan_bits", "addresses", "random", "std_time", "now", "environment",
        { "hash_map": 500 }, { "floats": 500 }, { "measured_sleep": 3 },
        { "file": { "mkdir": "/a/b" } }, { "file": { "write": ["/a/z", "last"] } },
        { "file": { "write": ["/a/y", "first"] } }, { "file": { "list": "/a" } },
        { "file": { "stat": "/a/z" } }, { "print": "a line" },
    ])
}

#[test]
fn whatever_the_standard_library_shows_is_the_same_in_every_execution() {
    let place = Place::new();
    // Dropped at each wait, the program is executed again from its beginning each time.
    // What differed then would differ in a prompt, and that is a mismatch.
    let asked = json!({ "agent_about": { "each": observations() } });
    let program = json!([asked, { "sleep": 2 }, asked, { "std_sleep": 2 }, { "parallel": [asked, asked] }]);
    let output = run(&place, &program, &["--evict", "always"]).ok_json();
    assert_eq!(place.run(["replay", "r"]).code(), Some(0));
    // Compiled anew by another process, without the cache.
    let mut replay = place.wfhost(["replay", "r", "-o", "json"]);
    let replay = replay.env("WFHOST_CACHE", place.path("cache")).output().unwrap();
    let replay: Value = serde_json::from_slice(&replay.stdout).unwrap();
    assert_eq!(replay["output"], output);
}

#[test]
fn a_check_runs_a_module_twice_and_compares() {
    let place = Place::new();
    // A sleep of the standard library needs WASI; the other one does not.
    for (name, sleep) in [("probe", "sleep"), ("probe-wasi", "std_sleep")] {
        let input = json!({ "do": ["observe", { sleep: 5 }, "hash_order", { "log": "x" }] }).to_string();
        let args = ["check", &module(name), "--twice", "-i", &input, "--agent", "echo", "-o", "json"];
        let report = place.run(args).ok_json();
        // Started, two steps with their ends, finished.
        assert_eq!(report["entries"], 6, "{report}");
        let class = |import: &str| {
            let imports = report["imports"].as_array().unwrap();
            let found = imports.iter().find(|found| found["name"].as_str().unwrap().starts_with(import));
            found.map(|found| found["class"].clone())
        };
        assert_eq!(class("wfhost:workflow/agent"), Some(json!("durable step")));
        assert_eq!(class("wfhost:workflow/context"), Some(json!("pure function of the journal")));
        let clock = (name == "probe-wasi").then(|| json!("pure function of the journal"));
        assert_eq!(class("wasi:clocks/wall-clock"), clock);
    }
}

/// A small generator of programs: the same seed gives the same one.
struct Generator(u64);

impl Generator {
    fn below(&mut self, limit: u64) -> u64 {
        // splitmix64, https://prng.di.unimi.it/splitmix64.c
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn operation(&mut self, depth: u32) -> Value {
        let n = self.below(40);
        let kinds = if depth == 0 { 14 } else { 18 };
        match self.below(kinds) {
            0 => json!({ "floats": n * 10 }),
            1 => json!({ "hash_map": n * 10 }),
            2 => json!("now"),
            3 => json!("random"),
            4 => json!("std_time"),
            5 => json!({ "file": { "write": [format!("/f{}", n % 5), format!("text {n}")] } }),
            6 => json!({ "file": { "list": "/" } }),
            7 => json!({ "file": { "stat": format!("/f{}", n % 5) } }),
            8 => json!({ "measured_sleep": n % 4 }),
            9 => json!({ "sleep": n % 6 }),
            10 => json!("observe"),
            11 => json!({ "agent": format!("question {n}") }),
            12 => json!({ "allocate": n * 10_000 }),
            13 => json!({ "poll_timers": [n % 5, n % 3, 2] }),
            14 => json!({ "parallel": self.list(depth - 1) }),
            15 => json!({ "unordered": self.list(depth - 1) }),
            16 => json!({ "race": self.list(depth - 1) }),
            _ => json!({ "agent_about": { "each": self.list(depth - 1) } }),
        }
    }

    fn list(&mut self, depth: u32) -> Vec<Value> {
        (0..2 + self.below(4)).map(|_| self.operation(depth)).collect()
    }
}

#[test]
fn random_programs_agree_with_themselves_killed_evicted_and_replayed() {
    for seed in 0..8 {
        let place = Place::new();
        let mut generator = Generator(seed);
        let program: Vec<_> = (0..10).map(|_| generator.operation(2)).collect();
        let evict = ["auto", "always"][(seed % 2) as usize];
        let mut child = place.spawn(args(&json!(program), &["--evict", evict]));
        for _ in 0..2 {
            // Killed once the journal has come so far, if the run lasts so long.
            let entries = 2 + generator.below(12);
            eventually("a place to kill it at", || {
                let over = child.try_wait().unwrap().is_some();
                (over || place.journal("r").len() as u64 >= entries).then_some(())
            });
            let _ = child.kill();
            child.wait().unwrap();
            child = place.spawn(["resume", "r", "--evict", evict]);
        }
        let ran = finish(child);
        assert_eq!(ran.code(), Some(0), "seed {seed}: {}\n{}", json!(program), ran.stderr());
        let recorded = place.show("r")["output"].clone();
        let replay = place.run(["replay", "r", "-o", "json"]).ok_json();
        assert_eq!(replay["output"], recorded, "seed {seed}: {}", json!(program));
    }
}

#[test]
fn the_standard_librarys_sleep_survives_a_kill() {
    let place = Place::new();
    let program = json!(["std_time", { "std_sleep": 4_000 }, "std_time", "now", { "measured_sleep": 20 }]);
    let mut child = place.spawn(args(&program, &[]));
    eventually("the sleep", || (place.journal("r").len() == 2).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    let scheduled = place.journal("r")[1].clone();
    let output = place.run(["resume", "r"]).ok_json();
    // The deadline is the one from before, and it is the only sleep of this length.
    let journal = place.journal("r");
    assert_eq!(journal[1], scheduled);
    assert_eq!(journal.iter().filter(|entry| entry["kind"] == "scheduled").count(), 2);
    let time = |index: usize| output[index].as_u64().unwrap();
    assert!(time(2) - time(0) >= 4_000, "{output}");
    // The library's clock and the import are one.
    assert_eq!(time(2), time(3));
    assert!(time(4) >= 20);
}

#[test]
fn timers_in_one_poll_come_in_the_same_order_after_a_replay() {
    let place = Place::new();
    let lengths = [60, 10, 35, 10, 0];
    let poll = json!({ "poll_timers": lengths });
    // Executed again from the beginning at each wait: another order would be another prompt.
    let program = json!([poll, { "agent_about": poll }, { "sleep": 1 }, poll]);
    let output = run(&place, &program, &["--evict", "always"]).ok_json();
    assert_eq!(place.run(["replay", "r"]).code(), Some(0));
    for result in [&output[0], &serde_json::from_str(output[1].as_str().unwrap()).unwrap(), &output[3]] {
        let groups: Vec<Vec<usize>> = serde_json::from_value(result.clone()).unwrap();
        let mut before = 0;
        for group in &groups {
            // Several are ready at once if the process was late; never one before an earlier one.
            assert!(group.iter().all(|&timer| lengths[timer] >= before), "{result}");
            before = group.iter().map(|&timer| lengths[timer]).max().unwrap();
        }
        assert_eq!(groups.concat().len(), lengths.len());
    }
}

#[test]
fn the_hosts_files_environment_and_input_are_out_of_reach() {
    let place = Place::new();
    let secret = place.file("secret.txt", "secret");
    let read = |path: &str| json!({ "file": { "read": path } });
    let up = format!("/tmp/../../../../..{secret}");
    let program = json!([
        "environment", "input", read(&secret), read("/etc/hostname"), read(&up), read("../etc/hostname"),
        { "file": { "list": "/" } }, { "file": { "list": "/.." } },
    ]);
    let mut command = place.wfhost(args(&program, &[]));
    command.env("SECRET", "secret").stdin(std::fs::File::open(&secret).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output[0], json!({ "arguments": ["probe-wasi"], "variables": [] }));
    assert_eq!(output[1], "");
    let missing = json!({ "error": "NotFound" });
    let denied = json!({ "error": "PermissionDenied" });
    assert_eq!([&output[2], &output[3]], [&missing, &missing]);
    assert_eq!([&output[4], &output[7]], [&denied, &denied]);
    assert!(output[5]["error"].is_string(), "{output}");
    assert_eq!(output[6], json!(["tmp"]));
}

#[test]
fn a_run_keeps_the_stack_that_it_began_with() {
    let place = Place::new();
    let program = json!([{ "depth": 120_000 }, { "wait": { "name": "go" } }, { "depth": 120_000 }]);
    let message = failure(&place, &program, &[]);
    assert!(message.contains("stack"), "{message}");
    assert_eq!(place.run(["replay", "r"]).code(), Some(0));

    // Another one beside it, which is taken up by processes that know of no stack but the recorded.
    let place = Place::new();
    let waits = run(&place, &program, &["--stack", "16", "--no-wait"]);
    assert_eq!(waits.code(), Some(3), "{}", waits.stderr());
    assert_eq!(place.journal("r")[0]["config"]["stack_bytes"], 16 << 20);
    assert_eq!(place.run(["signal", "r", "go"]).code(), Some(0));
    let output = place.run(["resume", "r"]).ok_json();
    assert_eq!(output[0], output[2]);
    assert_eq!(place.run(["replay", "r"]).code(), Some(0));
    let shallow = json!([{ "depth": 20_000 }]);
    let smallest = Place::new();
    assert_eq!(run(&smallest, &shallow, &["--stack", "1"]).code(), Some(0));
    let error = run(&Place::new(), &shallow, &["--stack", "3"]).error(2, &place);
    assert!(error.contains("a stack has 1, 2, 4, 8 or 16 MiB"), "{error}");
}

/// The same under a limit of the address space.
fn limited(command: &Command) -> Command {
    let mut sh = Command::new("sh");
    sh.args(["-c", "ulimit -v 3000000 && exec \"$0\" \"$@\""]);
    sh.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => sh.env(name, value),
            None => sh.env_remove(name),
        };
    }
    sh.stdin(Stdio::null());
    sh
}

#[test]
fn a_run_is_the_same_where_the_address_space_is_limited() {
    let place = Place::new();
    // The memory grows beyond what is reserved for it then.
    let program =
        json!([{ "allocate": 40_000_000 }, { "wait": { "name": "go" } }, { "allocate": 80_000_000 }]);
    let begun = limited(&place.wfhost(args(&program, &["--no-wait"]))).output().unwrap();
    assert_eq!(begun.status.code(), Some(3), "{}", String::from_utf8_lossy(&begun.stderr));
    assert_eq!(place.run(["signal", "r", "go"]).code(), Some(0));
    assert_eq!(place.run(["resume", "r"]).code(), Some(0));
    for mut replay in [place.wfhost(["replay", "r"]), limited(&place.wfhost(["replay", "r"]))] {
        let replayed = replay.output().unwrap();
        assert_eq!(replayed.status.code(), Some(0), "{}", String::from_utf8_lossy(&replayed.stderr));
    }
}

#[test]
fn what_a_runtime_imports_without_need_can_be_trapped() {
    let place = Place::new();
    let mut text = String::from("(component (import \"wasi:sockets/instance-network@0.2.3\" (instance");
    text.push_str(" (export \"network\" (type (sub resource)))");
    text.push_str(" (export \"instance-network\" (func)))))");
    let file = place.file("module.wasm", wat::parse_str(text).unwrap());
    let error = place.run(["run", &file]).error(2, &place);
    assert!(error.starts_with("error[WF0104]") && error.contains("--trap-denied"), "{error}");
    // Accepted as far as the sockets go.
    let error = place.run(["run", &file, "--trap-denied"]).error(2, &place);
    assert!(error.starts_with("error[WF0105]: the component does not export `run`"), "{error}");
    // The same for a run that is moved.
    let waits = run(&place, &json!([{ "wait": { "name": "go" } }]), &["--no-wait"]);
    assert_eq!(waits.code(), Some(3), "{}", waits.stderr());
    let error = place.run(["resume", "r", "--module", &file]).error(2, &place);
    assert!(error.starts_with("error[WF0104]"), "{error}");
    let error = place.run(["resume", "r", "--module", &file, "--trap-denied"]).error(2, &place);
    assert!(error.starts_with("error[WF0105]"), "{error}");
}

#[test]
fn the_environment_is_what_the_run_was_given() {
    let place = Place::new();
    let output = run(&place, &json!(["environment"]), &["--env", "A=1", "--env", "PATH=x=y"]).ok_json();
    assert_eq!(output[0]["variables"], json!(["A=1", "PATH=x=y"]));
    let error = place.run(["run", &module("probe-wasi"), "--env", "A"]).error(2, &place);
    assert!(error.contains("NAME=VALUE"), "{error}");
    let long = format!("A={}", "x".repeat(60_000));
    let error = place.run(["run", &module("probe-wasi"), "--env", &long, "--env", &long]).error(2, &place);
    assert!(error.contains("the environment has") && error.contains("65536"), "{error}");
}

/// A directory with some files, and the argument that grants it as `/data`.
fn granted(place: &Place) -> String {
    let dir = place.path("data");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("b"), "beta").unwrap();
    std::fs::write(dir.join("sub/a"), "alpha").unwrap();
    std::os::unix::fs::symlink("sub/a", dir.join("inside")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", dir.join("outside")).unwrap();
    std::os::unix::fs::symlink("../wfhost.db", dir.join("above")).unwrap();
    format!("{}::/data", dir.display())
}

#[test]
fn a_granted_directory_can_be_read_and_not_left_or_changed() {
    let place = Place::new();
    let grant = granted(&place);
    let file = |operation: Value| json!({ "file": operation });
    let program = json!([
        file(json!({ "list": "/data" })),
        file(json!({ "read": "/data/sub/a" })),
        file(json!({ "read": "/data/inside" })),
        file(json!({ "read": "/data/outside" })),
        file(json!({ "read": "/data/above" })),
        file(json!({ "read": "/data/../wfhost.db" })),
        file(json!({ "write": ["/data/new", "x"] })),
        file(json!({ "append": ["/data/b", "x"] })),
        file(json!({ "remove": "/data/b" })),
        file(json!({ "rename": ["/data/b", "/data/c"] })),
        file(json!({ "mkdir": "/data/d" })),
        file(json!({ "hard_link": ["/data/b", "/b"] })),
        file(json!({ "remove_all": "/data/sub" })),
    ]);
    let output = run(&place, &program, &["--dir", &grant]).ok_json();
    assert_eq!(output[0], json!(["above", "b", "inside", "outside", "sub"]));
    assert_eq!([&output[1], &output[2]], [&json!("alpha"), &json!("alpha")]);
    for result in &output.as_array().unwrap()[3..] {
        assert!(result["error"].is_string(), "{output}");
    }
    assert_eq!(std::fs::read_dir(place.path("data")).unwrap().count(), 5);
    assert_eq!(std::fs::read_to_string(place.path("data/b")).unwrap(), "beta");
    for (bad, reason) in
        [("data::data", "start with a slash"), ("data::/", "the program's own"), ("x::/x", "cannot be read")]
    {
        let bad = format!("{}/{bad}", place.path("").display());
        let error = place.run(["run", &module("probe-wasi"), "--dir", &bad]).error(2, &place);
        assert!(error.starts_with("error[WF0406]") && error.contains(reason), "{error}");
    }
}

#[test]
fn a_granted_directory_that_changed_keeps_the_run_from_going_on() {
    let place = Place::new();
    let grant = granted(&place);
    let program = json!([{ "file": { "read": "/data/b" } }, { "wait": { "name": "go" } }, { "file": { "read": "/data/sub/a" } }]);
    assert_eq!(run(&place, &program, &["--dir", &grant, "--no-wait"]).code(), Some(3));
    place.run(["signal", "r", "go"]);
    let before = place.journal("r");
    std::fs::write(place.path("data/b"), "changed").unwrap();
    let error = place.run(["resume", "r"]).error(4, &place);
    assert!(
        error.contains("error[WF0405]") && error.contains("has changed since the run started"),
        "{error}"
    );
    assert_eq!(place.journal("r"), before);
    assert_eq!(place.run(["replay", "r"]).code(), Some(4));
    std::fs::write(place.path("data/b"), "beta").unwrap();
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!(["beta", null, "alpha"]));
}

#[test]
fn files_are_private_and_behave_like_files() {
    let place = Place::new();
    let file = |operation: Value| json!({ "file": operation });
    let program = json!([
        file(json!({ "mkdir": "/w/x" })), file(json!({ "write": ["/w/f", "one"] })),
        file(json!({ "append": ["/w/f", " two"] })), file(json!({ "write_at": ["/w/f", 1, "NE"] })),
        file(json!({ "read": "/w/f" })), file(json!({ "write": ["/w/g", "other"] })),
        file(json!({ "rename": ["/w/f", "/w/x/h"] })), file(json!({ "set_size": ["/w/x/h", 3] })),
        file(json!({ "read": "/w/f" })), file(json!({ "list": "/w" })), { "sleep": 5 },
        file(json!({ "remove": "/w/g" })), file(json!({ "read": "/w/x/h" })),
        file(json!({ "remove_all": "/w" })), file(json!({ "list": "/" })), file(json!({ "read": "/w/f" })),
    ]);
    let expected = json!([
        null, null, null, null, "oNE two", null, null, null, { "error": "NotFound" }, ["g", "x"], null, null, "oNE", null, ["tmp"],
        { "error": "NotFound" },
    ]);
    assert_eq!(run(&place, &program, &["--evict", "always"]).ok_json(), expected);
}

#[test]
fn what_a_program_wants_without_measure_is_refused_with_the_limit() {
    let cases: [(Value, &[&str], &str); 8] = [
        (json!(["spin"]), &["--fuel", "3000000"], "used up its 3000000 units of fuel between two steps"),
        (
            json!([{ "repeat": { "times": 1_000_000, "operation": { "agent": "x" } } }]),
            &["--total-fuel", "30000000"],
            "the 30000000 units of fuel that a run has in all",
        ),
        (
            json!([{ "repeat": { "times": 1_000_000, "operation": { "agent": "x" } } }]),
            &["--max-entries", "60"],
            "the run has 60 entries in its journal, as many as are allowed",
        ),
        (json!([{ "allocate": 400_000_000 }]), &["--memory", "64"], "more than the 67108864 bytes of memory"),
        (json!(["recurse"]), &[], "stack"),
        (
            json!([{ "random_bytes": 2_000_000 }]),
            &[],
            "asks for 2000000 random bytes at once, 1048576 are allowed",
        ),
        (json!([{ "log_bytes": 100_000_000 }]), &[], "hands over more than 67108864 bytes in one call"),
        (json!([{ "start_many": 200_000 }]), &[], "100000"),
    ];
    for (program, more, expected) in cases {
        let place = Place::new();
        let message = failure(&place, &program, more);
        assert!(message.contains(expected), "{program}: {message}");
        // It is the same end whenever it is repeated.
        assert_eq!(place.run(["replay", "r"]).code(), Some(0), "{program}");
    }
}

#[test]
fn files_and_output_are_limited_and_the_program_may_go_on() {
    let place = Place::new();
    let fill = |path: &str, bytes: u64| json!({ "file": { "fill": { "path": path, "bytes": bytes } } });
    let program = json!([fill("/a", 60 << 20), fill("/b", 10 << 20), { "file": { "remove": "/a" } }, fill("/c", 10 << 20)]);
    let output = run(&place, &program, &[]).ok_json();
    assert_eq!(output[0], Value::Null);
    // Not every standard library for WASI has a name for it.
    assert!(["StorageFull", "Uncategorized"].map(Value::from).contains(&output[1]["error"]), "{output}");
    assert_eq!([&output[2], &output[3]], [&Value::Null, &Value::Null]);
    let place = Place::new();
    let line = json!({ "log_bytes": 60_000 });
    let output = run(&place, &json!([{ "repeat": { "times": 1_200, "operation": line } }, "now"]), &[]);
    assert!(output.ok_json()[1].is_u64());
    let logs = place.run(["logs", "r"]).stdout();
    assert!(logs.lines().count() < 1_200);
    assert!(logs.lines().last().unwrap().contains("the run has written as much as it may"), "the last line");
}

/// A byte far behind the end of a file is one byte for the program and millions of zeros for the host.
#[test]
fn zeros_that_the_host_writes_cost_fuel() {
    let far = 60_000_000;
    let set_size = |size: u64| json!({ "file": { "set_size": ["/a", size] } });
    let write_far = |at: u64| json!({ "file": { "write_at": ["/a", at, "x"] } });
    for grow in [set_size as fn(u64) -> Value, write_far] {
        let program = |at: u64| {
            let round = json!({ "each": [grow(at), set_size(0)] });
            json!([{ "file": { "write": ["/a", "x"] } }, { "repeat": { "times": 40, "operation": round } }])
        };
        let message = failure(&Place::new(), &program(far), &["--fuel", "1000000000"]);
        assert!(message.contains("used up its 1000000000 units of fuel"), "{message}");
        let near = run(&Place::new(), &program(10), &["--fuel", "1000000000"]);
        assert_eq!(near.code(), Some(0), "{}", near.stderr());
    }
}

/// A program by hand: what it does, and what it returns.
fn by_hand(imports: &str, body: &str) -> String {
    format!(
        r#"(module {imports}
          (memory (export "memory") 2)
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
          (func (export "run") (param i32 i32) (result i32) {body}
            (i32.store (i32.const 20) (i32.const 64)) (i32.store (i32.const 24) (i32.const 4)) (i32.const 16))
          (table (export "table") 1 funcref)
          (data (i32.const 64) "null"))"#
    )
}

#[test]
fn millions_of_handles_and_endless_tables_are_refused() {
    let place = Place::new();
    let sets = r#"(import "wfhost:workflow/types@0.1.0" "[constructor]wait-set" (func $set (result i32)))"#;
    let file = component(&place, &by_hand(sets, "(loop $again (drop (call $set)) (br $again))"));
    assert_eq!(place.run(["run", &file, "--id", "handles"]).code(), Some(1));
    let message = place.show("handles")["failure"]["message"].clone();
    assert_eq!(message, "the program holds 131072 handles, as many as are allowed");
    // A table that cannot grow says so to the program.
    let grow =
        "(if (i32.ne (table.grow 0 (ref.null func) (i32.const 2000000)) (i32.const -1)) (then unreachable))";
    let file = component(&place, &by_hand("", grow));
    assert_eq!(place.run(["run", &file, "--id", "tables"]).ok_json(), Value::Null);
}

#[test]
fn spinning_programs_do_not_hold_up_their_neighbours() {
    let place = Place::new();
    let spin = json!({ "do": ["spin"] }).to_string();
    for n in 0..4 {
        let id = format!("spin{n}");
        let ran = place.run([
            "run",
            &module("probe"),
            "-i",
            &spin,
            "--fuel",
            "1000000000000000",
            "--total-fuel",
            "1000000000000000",
            "-d",
            "--id",
            &id,
        ]);
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    }
    let mut serve = place.spawn(["serve"]);
    eventually("all spinning", || {
        let state = |n| place.show(&format!("spin{n}"))["state"] == "running";
        (0..4).all(state).then_some(())
    });
    // A neighbour in the same process, with steps, timers and computation, comes to its end meanwhile.
    let steps = json!({ "each": [{ "agent": "x" }, { "sleep": 1 }, { "floats": 1_000 }] });
    let input = json!({ "do": [{ "repeat": { "times": 50, "operation": steps } }] }).to_string();
    place.run(["run", &module("probe"), "-i", &input, "--agent", "echo", "-d", "--id", "neighbour"]);
    eventually("the neighbour's end", || (place.show("neighbour")["state"] == "completed").then_some(()));
    for n in 0..4 {
        assert_eq!(place.show(&format!("spin{n}"))["state"], "running");
    }
    serve.kill().unwrap();
    serve.wait().unwrap();
}

#[test]
fn leaving_in_any_way_fails_the_run_and_says_how() {
    let cases = [
        // WASI 0.2 tells success and failure apart, no more.
        (json!([{ "exit": 3 }]), "the program called exit(1) instead of returning from `run`"),
        (json!([{ "panic": "out of luck" }]), "out of luck"),
        (json!(["trap"]), "the program trapped at "),
    ];
    for (program, expected) in cases {
        let place = Place::new();
        let message = failure(&place, &program, &[]);
        assert!(message.contains(expected), "{program}: {message}");
    }
}

#[test]
fn sizes_that_go_in_are_limited() {
    let place = Place::new();
    let file = place.file("input.json", format!("\"{}\"", "x".repeat(11 << 20)));
    let error = place.run(["run", &module("probe"), "-i", &format!("@{file}")]).error(2, &place);
    assert!(error.contains("the input has") && error.contains("10485760"), "{error}");
    let value = "x".repeat(2 << 20);
    let program = json!([{ "publish": { "key": "k", "value": value } }, { "agent": "x".repeat(64) }]);
    let input = place.file("publish.json", json!({ "do": program }).to_string());
    let input = format!("@{input}");
    let ran = place.run(["run", &module("probe"), "-i", &input, "--agent", "echo", "--id", "p"]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stdout());
    let message = place.show("p")["failure"]["message"].clone();
    assert!(message.as_str().unwrap().contains("a published value has"), "{message}");
    let limits = place.run(["inspect", &module("probe"), "-o", "json"]).ok_json()["limits"].clone();
    for name in ["memory_bytes", "stack_bytes", "fuel", "total_fuel", "handles", "entries", "file_bytes"] {
        assert!(limits[name].as_u64().is_some_and(|limit| limit > 0), "{name}: {limits}");
    }
}

#[test]
fn printed_lines_are_whole_and_written_once() {
    let place = Place::new();
    let program = json!([
        { "print": "one\ntwo" }, { "print_error": "three" }, { "sleep": 2 }, { "print": "four" }, { "sleep": 2 },
        { "print": "x".repeat(70_000) },
    ]);
    run(&place, &program, &["--evict", "always"]).ok_json();
    let text = place.run(["logs", "r", "-o", "jsonl"]).stdout();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(messages[..4], ["one", "two", "three", "four"]);
    assert_eq!(messages[4].len() + messages[5].len(), 70_000);
    assert_eq!((&lines[0]["level"], &lines[2]["level"]), (&json!("info"), &json!("warn")));
    assert_eq!(lines[2]["fields"]["stream"], "stderr");
    // The same lines from the journal alone, at any later time.
    let again = place.run(["replay", "r", "-o", "json"]).ok_json();
    assert_eq!(again["log"], Value::Array(lines));
}

#[test]
fn a_replay_shows_where_each_step_is_asked_for() {
    let place = Place::new();
    let program = json!([{ "agent": "one" }, { "std_sleep": 3 }, { "agent": "two" }]);
    run(&place, &program, &[]).ok_json();
    let whole = place.run(["replay", "r", "--backtrace", "-o", "json"]).ok_json();
    let steps = whole["steps"].as_array().unwrap();
    assert_eq!(
        steps.iter().map(|step| step["kind"].as_str().unwrap()).collect::<Vec<_>>(),
        ["agent", "sleep", "agent"]
    );
    for step in steps {
        let frames = step["frames"].as_array().unwrap();
        let own = frames.iter().find(|frame| frame["file"].as_str().unwrap().ends_with("probe/src/lib.rs"));
        assert!(own.is_some_and(|frame| frame["line"].as_u64() > Some(0)), "{step}");
    }
    // Cut behind the end of the first step: the second is the one it was at.
    let part = place.run(["replay", "r", "--to", "2", "--backtrace"]);
    assert_eq!(part.code(), Some(0), "{}", part.stderr());
    assert!(part.stdout().contains("probe/src/lib.rs:"), "{}", part.stdout());
    assert_eq!(place.run(["replay", "r", "--to", "2", "-o", "json"]).ok_json()["ended"], false);
    // Other code is told apart, without any effect.
    let other = place.run(["replay", "r", "--module", &module("hello")]);
    assert_eq!(other.code(), Some(5), "{}", other.stderr());
}

/// Every byte of a module counts, and none may bring the host down.
#[test]
fn damaged_modules_are_refused_or_run_and_never_crash_the_host() {
    let place = Place::new();
    let whole = std::fs::read(module("hello")).unwrap();
    let mut generator = Generator(7);
    for round in 0..60 {
        let mut bytes = whole.clone();
        match round % 3 {
            0 => bytes.truncate(generator.below(whole.len() as u64) as usize),
            1 => {
                let at = generator.below(whole.len() as u64) as usize;
                bytes[at] ^= 1 << generator.below(8);
            }
            _ => {
                // In the sections that say what it is, all at the beginning.
                let at = generator.below(4_096.min(whole.len() as u64)) as usize;
                bytes[at] = generator.below(256) as u8;
            }
        }
        let file = place.file("damaged.wasm", &bytes);
        let ran = place.run(["check", &file]);
        assert!(matches!(ran.code(), Some(0 | 2)), "round {round}: {:?} {}", ran.code(), ran.stderr());
        assert!(ran.code() == Some(0) || ran.stderr().contains("error[WF01"), "{}", ran.stderr());
    }
}

#[test]
fn every_import_is_documented() {
    let text = std::fs::read_to_string(root().join("docs/sandbox.md")).unwrap();
    let wit = std::fs::read_to_string(root().join("host/runtime/wit/sandbox.wit")).unwrap();
    for line in wit.lines().filter_map(|line| line.trim().strip_prefix("import ")) {
        let name = line.split('@').next().unwrap();
        assert!(text.contains(&format!("`{name}`")), "{name} is not in docs/sandbox.md");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the project")
}
