//! Runs that a fleet has to do, and what has to have come of them.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, module};

/// Calls of each run before it waits for its signal, and after.
const CALLS: u64 = 12;

/// Hosts over one database, with what they were asked.
pub struct Fleet<'a> {
    pub place: &'a Place,
    /// The URL of each host; the commands of the test use that of the place.
    url: String,
    hosts: Vec<Child>,
    begun: usize,
    runs: Vec<String>,
    pub lease_ms: u64,
}

/// How long things fail, in seconds, and how many runs there are, if others are wanted than usually.
pub fn form() -> Option<(u64, usize)> {
    let form = std::env::var("WFHOST_FLEET").ok()?;
    let (seconds, runs) = form.split_once(',').expect("SECONDS,RUNS");
    Some((seconds.parse().expect("seconds"), runs.parse().expect("a number")))
}

fn log(place: &Place) -> File {
    let file = OpenOptions::new().create(true).append(true).open(place.path("log"));
    file.expect("a test writes its files")
}

impl<'a> Fleet<'a> {
    pub fn new(place: &'a Place, url: &str, lease_ms: u64) -> Self {
        Self { place, url: url.to_owned(), hosts: Vec::new(), begun: 0, runs: Vec::new(), lease_ms }
    }

    /// So many hosts with so many runs, or with as many as [`form`] says.
    pub fn of(place: &'a Place, url: &str, lease_ms: u64, hosts: u32, runs: usize) -> Self {
        let mut fleet = Self::new(place, url, lease_ms);
        for _ in 0..hosts {
            fleet.host();
        }
        fleet.begin_runs(form().map_or(runs, |(_, runs)| runs));
        fleet
    }

    /// Begins a host, which records its calls for itself. Gives its number.
    pub fn host(&mut self) -> usize {
        let number = self.begun;
        self.begun += 1;
        let script = json!({
            "default": { "reply": "${prompt}", "delay_ms": 30 }, "calls": format!("calls-{number}.jsonl"),
        });
        let script = self.place.file(&format!("agents-{number}.json"), script.to_string());
        let mut command = self.place.wfhost(["serve", "-q", "--agents", &script]);
        command.env("WFHOST_DB", &self.url).env("WFHOST_LEASE_MS", self.lease_ms.to_string());
        let child = command.stdout(Stdio::null()).stderr(log(self.place)).spawn().expect("the binary starts");
        self.hosts.push(child);
        self.hosts.len() - 1
    }

    /// Kills a host, and puts another one in its place.
    pub fn replace(&mut self, host: usize) {
        self.hosts[host].kill().expect("it is not waited for yet");
        self.hosts[host].wait().expect("it was killed");
        let new = self.host();
        let last = self.hosts.swap_remove(new);
        drop(std::mem::replace(&mut self.hosts[host], last));
    }

    pub fn send(&self, host: usize, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.hosts[host]);
        rustix::process::kill_process(pid, signal).expect("it is there");
    }

    /// Begins so many runs. Each calls an agent some times, waits for a signal, begins a child and calls again.
    pub fn begin_runs(&mut self, count: usize) {
        let call = |what: &str| json!({ "agent": what });
        let child = json!({ "child": { "module": "probe", "input": { "do": [call("in the child"), { "sleep": 50 }] } } });
        let calls = json!({ "repeat": { "times": CALLS, "operation": call("x") } });
        let program = json!([
            calls, { "parallel": [call("p"), { "sleep": 200 }, call("q")] }, { "wait": { "name": "go" } }, child, calls,
        ]);
        for _ in 0..count {
            let id = format!("r{}", self.runs.len());
            let input = json!({ "do": program }).to_string();
            self.persist(&["run", &module("probe"), "-q", "-d", "--id", &id, "-i", &input], &[2]);
            self.runs.push(id);
        }
    }

    /// Sends each run its signal, until it is known that it has it.
    pub fn signal_runs(&self) {
        for run in &self.runs {
            self.persist(&["signal", run, "go", "-q", "-i", "7", "--id", "once"], &[]);
        }
    }

    /// Tries again while the server is away. `known`: codes that say that it was done before.
    fn persist(&self, args: &[&str], known: &[i32]) {
        let begin = Instant::now();
        loop {
            let ran = self.command(args);
            match ran.code() {
                Some(0) => return,
                Some(code) if known.contains(&code) && ran.stderr().contains("WF0302") => return,
                Some(4) if begin.elapsed() < Duration::from_secs(60) => {}
                code => panic!("{args:?}: {code:?}: {}", ran.stderr()),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn command(&self, args: &[&str]) -> Ran {
        let mut command = self.place.wfhost(args);
        Ran(command.env("WFHOST_DB", &self.url).output().expect("the binary starts"))
    }

    /// How many of the runs have ended.
    pub fn ended(&self) -> usize {
        let states =
            self.command(&["ps", "-o", "json", "-n", "1000", "--state", "completed,failed,cancelled"]);
        if states.code() != Some(0) {
            return 0;
        }
        let view: Value = serde_json::from_str(&states.stdout()).expect("JSON");
        let ended = view["runs"].as_array().expect("runs").iter();
        ended.filter(|run| run["parent"].is_null()).count()
    }

    /// Waits until all runs have ended.
    #[track_caller]
    pub fn wait(&self, patience: Duration) {
        let begin = Instant::now();
        while self.ended() < self.runs.len() {
            if begin.elapsed() > patience {
                let why = self.command(&["ps", "-n", "100"]).stdout();
                let log = std::fs::read_to_string(self.place.path("log")).unwrap_or_default();
                panic!("{} of {} runs have ended\n{why}\n{log}", self.ended(), self.runs.len());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The calls that were made, by run, step, and key.
    pub fn calls(&self) -> BTreeMap<(String, u64), Vec<Value>> {
        let mut calls: BTreeMap<(String, u64), Vec<Value>> = BTreeMap::new();
        for number in 0..self.begun {
            let path: PathBuf = self.place.path(&format!("calls-{number}.jsonl"));
            for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
                let call: Value = serde_json::from_str(line).expect("a recorded call");
                let run = call["run"].as_str().expect("an id").to_owned();
                calls.entry((run, call["step"].as_u64().expect("a step"))).or_default().push(call);
            }
        }
        calls
    }

    /// Ends the hosts, which have to leave in order, and looks whether everything is as it has to be. Gives how many
    /// calls were made, and how many of them again.
    pub fn judge(mut self) -> (usize, usize) {
        for host in &self.hosts {
            let pid = rustix::process::Pid::from_child(host);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
        }
        for host in &mut self.hosts {
            let status = host.wait().expect("it ends");
            assert_eq!(status.code(), Some(128 + 15), "a host has left by itself");
        }
        let calls = self.calls();
        for run in &self.runs {
            let show = self.place.show(run);
            assert_eq!(show["state"], "completed", "{run}: {show}");
            let output = &show["output"];
            assert_eq!(output[2], 7, "{run}: {output}");
            let own = calls.iter().filter(|((of, _), _)| of == run).count() as u64;
            assert_eq!(own, 2 * CALLS + 2, "{run} has called");
            let entries = self.place.journal(run);
            let received = entries.iter().filter(|entry| entry["kind"] == "received").count();
            assert_eq!(received, 1, "{run} has taken its signal");
            let mut ended: BTreeMap<u64, u32> = BTreeMap::new();
            for entry in entries.iter().filter(|entry| entry["kind"] == "completed") {
                *ended.entry(entry["step"].as_u64().expect("a step")).or_default() += 1;
            }
            assert!(ended.values().all(|&times| times == 1), "{run}: {ended:?}");
        }
        let check = self.place.run(["db", "check", "--deep"]);
        assert_eq!(check.code(), Some(0), "{}{}", check.stdout(), check.stderr());
        let log = std::fs::read_to_string(self.place.path("log")).unwrap_or_default();
        assert!(!log.contains("panicked at"), "{log}");
        let all = calls.values().map(Vec::len).sum();
        (all, all - calls.len())
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            let _ = host.kill();
            let _ = host.wait();
        }
    }
}
