//! Programs that do the worst they can, and what their neighbours in the same process notice of it:
//! nothing. And programs that are handed in to keep the host busy before they run.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wfhost_tests::{Place, component, eventually, eventually_within, module};

/// A program by hand: `count` pages of memory, what it imports and what it does.
fn by_hand(pages: u32, imports: &str, body: &str) -> String {
    format!(
        r#"(module {imports}
          (memory (export "memory") {pages})
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
          (func (export "run") (param i32 i32) (result i32) (local $step i32) {body}
            (i32.store (i32.const 20) (i32.const 64)) (i32.store (i32.const 24) (i32.const 4)) (i32.const 16))
          (data (i32.const 64) "null") (data (i32.const 80) "big"))"#
    )
}

/// Reads an answer again and again.
fn reader() -> String {
    let imports = r#"
      (import "wfhost:workflow/signal@0.1.0" "start" (func $start (param i32 i32 i32 i64) (result i32)))
      (import "wfhost:workflow/types@0.1.0" "[method]step.get" (func $get (param i32 i32)))"#;
    let body = "(local.set $step (call $start (i32.const 80) (i32.const 3) (i32.const 0) (i64.const 0)))
        (loop $again (call $get (local.get $step) (i32.const 512)) (br $again))";
    by_hand(40, imports, body)
}

/// Fills its memory again and again.
fn filler() -> String {
    by_hand(
        4_000,
        "",
        "(loop $again (memory.fill (i32.const 4096) (i32.const 1) (i32.const 260000000)) (br $again))",
    )
}

/// Writes lines with as many fields as fit, and panics, as it were.
fn talker() -> String {
    let imports = r#"
      (import "wfhost:workflow/log@0.1.0" "write" (func $write (param i32 i32 i32 i32 i32)))
      (import "wfhost:workflow/log@0.1.0" "panicked" (func $panicked (param i32 i32 i32 i32 i32)))"#;
    let body = "(loop $again
        (call $write (i32.const 2) (i32.const 4096) (i32.const 1000000) (i32.const 2000000) (i32.const 50000))
        (call $panicked (i32.const 4096) (i32.const 6000000) (i32.const 0) (i32.const 0) (i32.const 0))
        (br $again))";
    by_hand(100, imports, body)
}

/// Passes through one place of changed code after the other, each with a name of its own.
fn patcher() -> String {
    let imports = r#"
      (import "wfhost:workflow/context@0.1.0" "patched" (func $patched (param i32 i32) (result i32)))"#;
    let body = "(loop $again
        (i32.store (i32.const 4096) (i32.add (i32.load (i32.const 4096)) (i32.const 1)))
        (local.set $step (i32.const 0))
        (loop $digit
            (i32.store8 (i32.add (i32.const 8192) (local.get $step))
                (i32.add (i32.const 97)
                    (i32.and (i32.shr_u (i32.load (i32.const 4096)) (i32.mul (local.get $step) (i32.const 4)))
                        (i32.const 15))))
            (local.set $step (i32.add (local.get $step) (i32.const 1)))
            (br_if $digit (i32.lt_u (local.get $step) (i32.const 8))))
        (drop (call $patched (i32.const 8192) (i32.const 8)))
        (br $again))";
    by_hand(1, imports, body)
}

/// How late the timers of a run were, in milliseconds: the median and the 99th of a hundred.
fn lateness(place: &Place, run: &str) -> (i64, i64) {
    let at = |entry: &Value| {
        let text = entry["at"].as_str().unwrap();
        let (_, time) = text.split_once('T').unwrap();
        let mut parts = time.trim_end_matches('Z').split([':', '.']);
        let mut next = || parts.next().unwrap_or("0").parse::<i64>().unwrap();
        let (hours, minutes, seconds) = (next(), next(), next());
        let millis = parts.next().map_or(0, |part| format!("{part:0<3}")[..3].parse().unwrap());
        ((hours * 60 + minutes) * 60 + seconds) * 1_000 + millis
    };
    let mut begun = std::collections::HashMap::new();
    let mut late = Vec::new();
    for entry in place.journal(run) {
        let step = entry["step"].as_u64();
        match entry["kind"].as_str() {
            Some("scheduled") => drop(begun.insert(step, at(&entry))),
            // Over midnight a day is missing.
            Some("completed") => late.push((at(&entry) - begun[&step]).rem_euclid(86_400_000)),
            _ => {}
        }
    }
    late.sort_unstable();
    assert!(late.len() > 100, "{}", late.len());
    (late[late.len() / 2], late[late.len() * 99 / 100])
}

fn innocent(place: &Place, id: &str) -> (i64, i64) {
    let input = json!({ "do": [{ "repeat": { "times": 200, "operation": { "sleep": 1 } } }] }).to_string();
    let ran = place.run(["run", &module("probe"), "-i", &input, "-d", "--id", id]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let begin = Instant::now();
    while place.show(id)["state"] != "completed" {
        assert!(begin.elapsed() < Duration::from_secs(120), "the neighbours take all of the time");
        std::thread::sleep(Duration::from_millis(100));
    }
    lateness(place, id)
}

#[test]
fn whoever_does_the_worst_he_can_does_not_slow_his_neighbours() {
    let place = Place::new();
    let mut serve = place.spawn(["serve"]);
    // Once for the cache.
    innocent(&place, "first");
    let alone = innocent(&place, "alone");
    let limits = ["--fuel", "1000000000000000", "--total-fuel", "1000000000000000"];
    let worst = |id: &str, file: &str, input: &str| {
        let ran = place.run(["run", file, "-i", input, "-d", "--id", id].iter().chain(&limits));
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    };
    worst("spinner", &module("probe"), &json!({ "do": ["spin"] }).to_string());
    for (id, core) in [("reader", reader()), ("filler", filler()), ("talker", talker())] {
        let file = component(&place, &core);
        worst(id, &file, "null");
    }
    let payload = place.file("big.json", json!("x".repeat(1_000_000)).to_string());
    let sent = place.run(["signal", "reader", "big", "-i", &format!("@{payload}")]);
    assert_eq!(sent.code(), Some(0), "{}", sent.stderr());
    eventually("all at work", || {
        let works = |id| place.show(id)["state"] == "running";
        ["spinner", "reader", "filler", "talker"].into_iter().all(works).then_some(())
    });
    let beside = innocent(&place, "beside");
    eprintln!(
        "timers of 1 ms were over after, median and p99: alone {alone:?} ms, beside them {beside:?} ms"
    );
    // Four who compute and two workers share the processors, which may have other things to do as well.
    // The p99 of a machine that does is its own: only the median says something of the neighbours.
    assert!(beside.0 <= 20 * alone.0.max(10), "alone {alone:?}, beside {beside:?}");
    for id in ["spinner", "reader", "filler", "talker"] {
        assert_eq!(place.show(id)["state"], "running", "{id}");
    }
    // And who is to stop does.
    let begin = Instant::now();
    rustix::process::kill_process(rustix::process::Pid::from_child(&serve), rustix::process::Signal::TERM)
        .unwrap();
    serve.wait().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
}

/// Types that double: it is told before anything is compiled.
#[test]
fn a_component_that_would_take_too_much_to_compile_is_refused_with_a_code() {
    let place = Place::new();
    let types = (1..30).map(|level| format!("(type (tuple {0} {0}))", level - 1)).collect::<String>();
    let text = format!(
        r#"(component (type (tuple u8 u8)) {types} (core module $m (func (export "run")))
           (core instance $i (instantiate $m)) (func (export "run") (canon lift (core func $i "run"))))"#
    );
    let file = place.file("bomb.wasm", wat::parse_str(text).unwrap());
    let error = place.run(["check", &file]).error(2, &place);
    assert!(
        error.starts_with("error[WF0111]: the component is too expensive to compile")
            && error.contains("types in one type"),
        "{error}"
    );
}

/// What gets past the limits ends the process that compiles it and nothing else.
#[test]
fn many_runs_of_a_new_module_compile_it_once_while_others_go_on() {
    let place = Place::new();
    let cache = place.path("cache").display().to_string();
    let mut serve = place.wfhost(["serve"]);
    let mut serve = serve.env("WFHOST_CACHE", &cache).spawn().unwrap();
    for n in 0..6 {
        let args = ["run", &module("research-js"), "-d", "--agent", "echo", "--id", &format!("js{n}")];
        let ran = wfhost_tests::Ran(
            place
                .wfhost(args)
                .args(["-i", r#"{"topic":"bees","sections":1}"#])
                .env("WFHOST_CACHE", &cache)
                .output()
                .unwrap(),
        );
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    }
    // The module is a large one.
    eventually_within(Duration::from_secs(150), "they begin", || {
        let begun =
            |n| place.show(&format!("js{n}"))["steps"].as_array().is_some_and(|steps| !steps.is_empty());
        (0..6).all(begun).then_some(())
    });
    serve.kill().unwrap();
    serve.wait().unwrap();
    let kept = std::fs::read_dir(place.path("cache/components"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".bin"));
    assert_eq!(kept.count(), 1);
}

/// The program is not told, the run is not ended.
#[test]
fn memory_that_the_system_refuses_leaves_the_run_as_it_is() {
    let place = Place::new();
    let grow = by_hand(1, "", "(drop (memory.grow (i32.const 60000)))");
    let file = component(&place, &grow);
    // Compiled where there is room.
    assert_eq!(place.run(["run", &file, "--memory", "4096", "--id", "fits"]).code(), Some(0));
    let binary = wfhost_tests::target().join("debug/wfhost").display().to_string();
    let limited = |args: &str| {
        let mut shell = place.wfhost(std::iter::empty::<&str>());
        let mut command = std::process::Command::new("sh");
        for (name, value) in shell.get_envs() {
            match value {
                Some(value) => drop(command.env(name, value)),
                None => drop(command.env_remove(name)),
            }
        }
        shell.stdin(std::process::Stdio::null());
        // Enough to compile and to begin, and less than the program grows by.
        command.args(["-c", &format!("ulimit -v 3000000; exec '{binary}' {args}")]);
        wfhost_tests::Ran(command.output().unwrap())
    };
    let ran = limited(&format!("run '{file}' --memory 4096 --id refused"));
    assert_eq!(ran.code(), Some(4), "{}", ran.stderr());
    assert!(
        ran.stderr().contains("error[WF0410]") && ran.stderr().contains("memory refused by the system"),
        "{}",
        ran.stderr()
    );
    assert_eq!(place.journal("refused").len(), 1, "only that it began");
    // What cannot go on here can be stopped here.
    assert_eq!(limited(&format!("run '{file}' --memory 4096 --id cancelled")).code(), Some(4));
    let cancelled = limited("cancel cancelled");
    assert_eq!(cancelled.code(), Some(0), "{}", cancelled.stderr());
    assert_eq!(place.show("cancelled")["state"], "cancelled");
    let resumed = place.run(["resume", "refused"]);
    assert_eq!(resumed.code(), Some(0), "{}", resumed.stderr());
}

/// Each new name is an entry, and nothing is committed while a program computes.
#[test]
fn places_of_changed_code_count_as_entries() {
    let place = Place::new();
    let file = component(&place, &patcher());
    assert_eq!(place.run(["run", &file, "--id", "r", "--max-entries", "5000"]).code(), Some(1));
    let message = place.show("r")["failure"]["message"].clone();
    assert!(message.as_str().unwrap().contains("the run has 5000 entries in its journal"), "{message}");
    assert_eq!(place.run(["replay", "r"]).code(), Some(0));
}

#[test]
fn results_failures_and_panics_are_bounded() {
    let place = Place::new();
    let big = by_hand(
        400,
        "",
        r#"(memory.fill (i32.const 5000) (i32.const 120) (i32.const 12000000))
           (i32.store8 (i32.const 4999) (i32.const 34)) (i32.store8 (i32.const 12005000) (i32.const 34))
           (i32.store (i32.const 20) (i32.const 4999)) (i32.store (i32.const 24) (i32.const 12000002))
           (return (i32.const 16))"#,
    );
    let file = component(&place, &big);
    assert_eq!(place.run(["run", &file, "--id", "result"]).code(), Some(1));
    let message = place.show("result")["failure"]["message"].clone();
    assert_eq!(message, "a result has 12000002 bytes, more than the 10485760 that are allowed");
    for operation in ["panic", "fail"] {
        let input = json!({ "do": [{ operation: "x".repeat(1_000_000) }] }).to_string();
        let input = place.file("input.json", input);
        let ran = place.run(["run", &module("probe"), "-i", &format!("@{input}"), "--id", operation]);
        assert_eq!(ran.code(), Some(1));
        let message = place.show(operation)["failure"]["message"].as_str().unwrap().to_owned();
        assert!((65_000..70_000).contains(&message.len()) && message.ends_with('…'), "{}", message.len());
    }
}

/// 2.4 kB that kept the host busy for minutes.
#[test]
fn a_schema_that_doubles_at_each_level_fails_its_call_at_once() {
    let place = Place::new();
    let next = |level: u32| json!({ "$ref": format!("#/$defs/a{}", level + 1) });
    let mut defs: serde_json::Map<_, _> =
        (0..34).map(|level| (format!("a{level}"), json!({ "allOf": [next(level), next(level)] }))).collect();
    defs.insert("a34".to_owned(), json!({}));
    let schema = json!({ "$defs": defs, "$ref": "#/$defs/a0" });
    let input = json!({ "do": [
        { "agent_or_fail": { "prompt": "x", "schema": schema } },
    ] });
    let ran = place.run(["run", &module("probe"), "-i", &input.to_string(), "--agent", "echo", "--id", "r"]);
    assert!(
        ran.stdout().contains("more than 100000 schemas")
            || ran.stderr().contains("more than 100000 schemas"),
        "{} {}",
        ran.stdout(),
        ran.stderr()
    );
}
