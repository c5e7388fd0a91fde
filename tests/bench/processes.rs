//! Whole processes: the program `wfhost` as users start it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use wfhost::store::Synchronous;
use wfhost_tests::lines;

use crate::place::{Place, program, steps};
use crate::report::{Reading, Target, median};

/// Milliseconds from the start of a process to its end.
fn time(command: &mut Command) -> f64 {
    let begin = Instant::now();
    let status = command.status().expect("the program starts");
    assert!(status.success(), "{command:?}: {status}");
    begin.elapsed().as_secs_f64() * 1e3
}

pub fn processes(place: &Place) -> Vec<Reading> {
    let mut readings = start(place);
    readings.extend([1_000, 5_000, 10_000].into_iter().flat_map(|count| kill(place, place.many(count))));
    let binary = place.wfhost(Path::new(""), []).get_program().to_owned();
    let stripped = place.fresh("wfhost");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(binary).status();
    if strip.is_ok_and(|status| status.success()) {
        let size = std::fs::metadata(&stripped).map_or(0, |data| data.len());
        readings
            .push(Reading::new("the binary, stripped", "MB", size as f64 / 1e6).target(Target::Under(40.0)));
    }
    readings
}

/// `wfhost run` of a workflow with one step.
fn start(place: &Place) -> Vec<Reading> {
    let times = if place.is_tiny() { 2 } else { 20 };
    let (db, other) = (place.fresh("wfhost.db"), place.fresh("wfhost.db"));
    let module = wfhost_tests::module("counter");
    let run = |db: &Path| place.wfhost(db, ["run", &module, "-i", "{\"steps\":1}", "--agent", "echo"]);
    let cold = time(run(&db).env("WFHOST_CACHE", other.with_file_name("cache")));
    time(&mut run(&db));
    let (mut warm, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..times {
        bare.push(time(&mut place.wfhost(&db, ["--version"])));
        warm.push(time(&mut run(&db)));
    }
    place.discard(&db);
    place.discard(&other);
    let version = median(bare);
    vec![
        Reading::new("`wfhost run` of one step, nothing there yet", "ms", cold)
            .beside("`wfhost --version`", version),
        Reading::new("`wfhost run` of one step, warm", "ms", median(warm))
            .beside("`wfhost --version`", version)
            .target(Target::Under(30.0)),
    ]
}

/// Ends a process that is killed if nobody waits for it.
struct Killed(Child);

impl Killed {
    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

fn wait_for_calls(calls: &Path, count: usize) {
    while lines(calls) < count {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A run is killed while a call is under way; the next process makes it again.
fn kill(place: &Place, count: u64) -> Vec<Reading> {
    let db = place.fresh("wfhost.db");
    let (script, calls) = (db.with_file_name("agents.json"), db.with_file_name("calls.jsonl"));
    let slow = json!({ "default": { "reply": null, "delay_ms": 600_000 }, "calls": "calls.jsonl" });
    std::fs::write(&script, slow.to_string()).expect("a script");
    let (module, script) = (wfhost_tests::module("probe"), script.display().to_string());
    let mut operations = steps(count, 8);
    if let Some(list) = operations.as_array_mut() {
        list.push(json!({ "agent_of": { "provider": "scripted", "prompt": "last" } }));
    }
    let input = json!({ "do": operations }).to_string();
    let run = ["run", &module, "-i", &input, "--id", "r", "-q", "--agent", "echo", "--agents", &script];
    let spawn = |args: &[&str]| {
        let mut command = place.wfhost(&db, args.iter().copied());
        Killed(command.stderr(Stdio::inherit()).spawn().expect("the program starts"))
    };
    let mut first = spawn(&run);
    wait_for_calls(&calls, 1);
    first.kill();
    let begin = Instant::now();
    let mut second = spawn(&["resume", "r", "-q", "--agent", "echo", "--agents", &script]);
    wait_for_calls(&calls, 2);
    let length = begin.elapsed().as_secs_f64() * 1e3;
    second.kill();
    let bare = time(&mut place.wfhost(&db, ["--version"]));
    place.discard(&db);
    let reading = Reading::new(
        format!("from a new process to the first new step after {} entries", 2 * count + 2),
        "ms",
        length,
    );
    let reading = reading.beside("`wfhost --version`", bare);
    vec![if count <= 5_000 { reading.target(Target::Under(100.0)) } else { reading }]
}

/// Processor time that a process has used, in seconds.
fn processor_time(process: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("Linux");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    let ticks =
        |n: usize| fields.split(' ').nth(n).and_then(|field| field.parse::<f64>().ok()).expect("ticks");
    // utime and stime, in the hundredths of a second that Linux shows.
    (ticks(11) + ticks(12)) / 100.0
}

/// What a process with runs in memory takes while another one commits as fast as it can: it must not
/// grow with the number of its runs.
pub fn beside(place: &Place) -> Vec<Reading> {
    [200, 2_000].into_iter().map(|count| live_beside_commits(place, place.many(count))).collect()
}

fn live_beside_commits(place: &Place, count: u64) -> Reading {
    let db = place.fresh("wfhost.db");
    let (script, calls) = (db.with_file_name("agents.json"), db.with_file_name("calls.jsonl"));
    let slow = json!({ "default": { "reply": null, "delay_ms": 600_000 }, "calls": "calls.jsonl" });
    std::fs::write(&script, slow.to_string()).expect("a script");
    let waits = json!([{ "agent_of": { "provider": "scripted", "prompt": "x" } }]);
    place.runtime.block_on(async {
        let bench = place.bench(&db, Synchronous::Normal).await;
        for _ in 0..count {
            bench.host.enqueue(&bench.probe, program(&waits)).await.expect("a run");
        }
    });
    let script = script.display().to_string();
    let serve = ["serve", "-q", "--agents", &script, "--max-live", "4000"];
    let serve = Killed(place.wfhost(&db, serve).spawn().expect("the program starts"));
    wait_for_calls(&calls, count as usize);
    let module = wfhost_tests::module("counter");
    let input = json!({ "steps": place.many(30_000) }).to_string();
    let (before, begin) = (processor_time(&serve.0), Instant::now());
    let run = ["run", &module, "-i", &input, "-q", "--agent", "echo", "--synchronous", "normal"];
    time(&mut place.wfhost(&db, run));
    let (used, length) = (processor_time(&serve.0) - before, begin.elapsed().as_secs_f64());
    drop(serve);
    place.discard(&db);
    Reading::new(
        format!("processor time of a process with {count} live runs beside one that commits"),
        "% of a core",
        used / length * 100.0,
    )
}
