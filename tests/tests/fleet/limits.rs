//! Limits of agent calls that hold for all hosts together, whether they share a server or a file.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, eventually, eventually_within, module};

/// A place for each kind of database, whose provider `agent` is a program that says when it begins and ends.
fn places(limits: &str, work: &str) -> [Place; 2] {
    [Place::in_file(), Place::on_server(private_postgres::fresh_url())].map(|place| {
        let log = place.path("calls.log");
        let log = log.display();
        let text = format!(
            "#!/bin/sh\nread prompt\necho \"begin $$ $(date +%s%N)\" >> {log}\n{work}\necho \"end $$\" >> {log}\n\
             echo done\n"
        );
        let agent = place.file("agent.sh", text);
        std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).expect("a test's own file");
        place.file(
            "wfhost.toml",
            format!("[providers.agent]\nkind = \"command\"\nargv = [{agent:?}]\nformat = \"text\"\n{limits}"),
        );
        place
    })
}

fn config(place: &Place) -> String {
    place.path("wfhost.toml").display().to_string()
}

fn run(place: &Place, args: &[&str]) -> Ran {
    let config = config(place);
    place.run(args.iter().copied().chain(["--config", &config]))
}

fn serve(place: &Place, args: &[&str]) -> Child {
    let config = config(place);
    let mut command =
        place.wfhost(["serve", "-q", "--config", &config].into_iter().chain(args.iter().copied()));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts")
}

/// Begins a run with so many calls at the same time.
fn begin(place: &Place, id: &str, calls: usize) {
    let call = json!({ "agent_with": { "prompt": "p", "providers": ["agent"] } });
    let input = json!({ "do": [{ "parallel": vec![call; calls] }] }).to_string();
    let begun = run(place, &["run", &module("probe"), "-q", "-d", "--id", id, "-i", &input]);
    assert_eq!(begun.code(), Some(0), "{}", begun.stderr());
}

fn log(place: &Place) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(place.path("calls.log")).unwrap_or_default();
    text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// How many calls were under way at the same time at most, and how many there were.
fn most(place: &Place) -> (usize, usize) {
    let (mut now, mut most, mut all) = (0, 0, 0);
    for line in log(place) {
        if line[0] == "begin" {
            now += 1;
            all += 1;
            most = most.max(now);
        } else {
            now -= 1;
        }
    }
    (most, all)
}

fn state(place: &Place, id: &str) -> Value {
    place.show(id)["state"].clone()
}

fn end(mut host: Child) {
    let pid = rustix::process::Pid::from_child(&host);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
    host.wait().expect("it ends");
}

#[test]
fn calls_of_two_hosts_together_keep_to_the_limit_of_a_provider_and_of_a_group() {
    let limits = "max_parallel = 3\nscope = \"fleet\"\n[agents.concurrency]\nfleet = 9\n";
    for place in places(limits, "sleep 0.05") {
        let hosts = [serve(&place, &["--max-live", "2"]), serve(&place, &["--max-live", "2"])];
        for n in 0..4 {
            begin(&place, &format!("r{n}"), 6);
        }
        eventually_within(Duration::from_secs(120), "all runs to end", || {
            (0..4).all(|n| state(&place, &format!("r{n}")) == "completed").then_some(())
        });
        let (most, all) = most(&place);
        assert_eq!(all, 24);
        assert!((2..=3).contains(&most), "{most} calls at the same time");
        hosts.into_iter().for_each(end);
        // Nothing is left of it.
        let left = place.query("SELECT count(*) FROM slots", "SELECT count(*) FROM slots WHERE limits <> ''");
        assert_eq!(left.trim(), "0");
    }
}

#[test]
fn a_host_that_is_killed_gives_its_slot_to_a_call_that_says_what_it_waits_for() {
    let limits = "max_parallel = 1\nscope = \"fleet\"\n";
    for place in places(limits, "while [ -e \"$(dirname \"$0\")/hold\" ]; do sleep 0.02; done") {
        place.file("hold", "");
        let mut first = serve(&place, &["--max-live", "1"]);
        begin(&place, "has", 1);
        eventually("the call that has the slot", || (log(&place).len() == 1).then_some(()));
        let second = serve(&place, &[]);
        begin(&place, "waits", 1);
        let host = this_machine();
        let why = eventually("the other one to wait", || {
            let why = run(&place, &["why", "waits"]).stdout();
            why.contains("a slot of the provider agent (fleet)").then_some(why)
        });
        let holder = format!("1 call at a time: 1 call on {host} (process {})", first.id());
        assert!(why.starts_with("step 1 waits for ") && why.contains(&holder), "{why}");
        let ps = run(&place, &["ps"]).stdout();
        assert!(ps.contains("a slot of the provider agent (fleet)"), "{ps}");
        let doctor = run(&place, &["doctor"]).stdout();
        assert!(doctor.contains("limit of the provider agent (fleet): 1 at a time"), "{doctor}");
        assert!(doctor.contains(&format!("1 call on {host}")), "{doctor}");
        let shown = run(&place, &["config", "show"]).stdout();
        assert!(shown.contains("providers.agent.scope") && shown.contains("fleet"), "{shown}");
        assert_eq!(log(&place).len(), 1, "nobody else has called");

        first.kill().expect("it is not waited for yet");
        first.wait().expect("it was killed");
        // Its slot is free with its session; its program was killed with it.
        eventually("the next call", || {
            (log(&place).iter().filter(|line| line[0] == "begin").count() == 2).then_some(())
        });
        std::fs::remove_file(place.path("hold")).expect("it is there");
        for id in ["has", "waits"] {
            eventually("both runs to end", || (state(&place, id) == "completed").then_some(()));
        }
        end(second);
    }
}

/// The name of this machine, as hosts have it.
fn this_machine() -> String {
    wfhost::owner::this_process().host
}

#[test]
fn calls_of_two_hosts_together_keep_to_a_rate_and_those_of_a_host_that_is_killed_keep_their_turns() {
    const CALLS: usize = 4;
    let limits = "rate = { per_minute = 120 }\nscope = \"fleet\"\n";
    for place in places(limits, "true") {
        let first = serve(&place, &["--max-live", "1"]);
        let second = serve(&place, &["--max-live", "1"]);
        begin(&place, "a", CALLS);
        begin(&place, "b", CALLS);
        eventually("some calls", || (log(&place).len() >= 4).then_some(()));
        // Whoever has its run by then finds the turns that it has left.
        let mut first = first;
        first.kill().expect("it is not waited for yet");
        first.wait().expect("it was killed");
        for id in ["a", "b"] {
            eventually_within(Duration::from_secs(60), "both runs to end", || {
                (state(&place, id) == "completed").then_some(())
            });
        }
        end(second);
        let begun = log(&place);
        let begun = begun.iter().filter(|line| line[0] == "begin");
        let mut begun: Vec<u64> = begun.map(|line| line[2].parse().expect("a time")).collect();
        begun.sort_unstable();
        assert!(begun.len() >= 2 * CALLS, "{}", begun.len());
        // Programs take different times to begin, the first ones perhaps long: without a rate all of them would within
        // much less.
        let took = (begun[begun.len() - 1] - begun[0]) / 1_000_000;
        let least = 500 * (begun.len() as u64 - 1);
        assert!(2 * took >= least, "{} calls within {took} ms, which take {least}", begun.len());
    }
}

#[test]
fn turns_of_runs_that_are_cancelled_ended_or_deleted_are_given_back_whoever_put_them_off() {
    const CALLS: usize = 3;
    for place in places("rate = { per_minute = 1 }\nscope = \"fleet\"\n", "true") {
        let turns =
            || place.query("SELECT count(*) FROM turns", "SELECT count(*) FROM turns").trim().to_owned();
        let first = serve(&place, &[]);
        for id in ["cancelled", "terminated", "deleted"] {
            begin(&place, id, CALLS);
        }
        eventually("all calls but the first to be put off", || {
            let waits = |id| place.journal(id).iter().filter(|entry| entry["kind"] == "postponed").count();
            let waiting: usize = ["cancelled", "terminated", "deleted"].into_iter().map(waits).sum();
            (waiting == 3 * CALLS - 1).then_some(())
        });
        let doctor = run(&place, &["doctor"]).stdout();
        assert!(doctor.contains("8 calls wait for their turns, the next one until "), "{doctor}");
        end(first);
        assert_eq!(turns(), (3 * CALLS - 1).to_string());
        assert_eq!(place.run(["delete", "deleted", "--yes"]).code(), Some(0));
        assert_eq!(place.run(["terminate", "terminated"]).code(), Some(0));
        let left = place.query(
            "SELECT count(*) FROM turns WHERE run <> '' AND run <> 'cancelled'",
            "SELECT count(*) FROM turns WHERE run <> '' AND run <> 'cancelled'",
        );
        assert_eq!(left.trim(), "0");
        let second = serve(&place, &[]);
        assert_eq!(run(&place, &["cancel", "cancelled"]).code(), Some(0));
        // Its program takes the failures of its calls for results.
        eventually("its end", || (state(&place, "cancelled") == "completed").then_some(()));
        // The rate is as if none of them had asked.
        eventually("the turns to be given back", || (turns() == "0").then_some(()));
        end(second);
    }
}

#[test]
fn a_scope_without_a_limit_and_an_unknown_one_are_refused() {
    let place = Place::in_file();
    let refused = |text: &str, says: &str| {
        place.file("wfhost.toml", text);
        let error = run(&place, &["config", "show"]).error(2, &place);
        assert!(error.starts_with("error[WF0704]") && error.contains(says), "{error}");
    };
    let provider = "[providers.g]\nkind = \"openai\"\n";
    refused(&format!("{provider}scope = \"fleet\"\n"), "providers.g.scope");
    refused(&format!("{provider}max_parallel = 2\nscope = \"world\"\n"), "it has to be `host` or `fleet`");
    refused(
        "[agents.concurrency]\ngroups = { a = \"many\" }\n",
        "it has to be a number, or like { limit = 1",
    );
}
