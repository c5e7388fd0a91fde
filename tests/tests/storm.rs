//! Many processes on one database, killed at random and started again: no run is lost, and no call
//! is made more often than kills can explain.
//!
//! The short form runs with all tests. The long one, whose figures are in docs/operations.md:
//! `WFHOST_STORM=500,8,60,12 cargo test -p wfhost-tests --release --test storm -- --nocapture`
//! (runs, processes, seconds of kills at most, how slow agents are).

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use wfhost_tests::{Place, module};

/// Numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// The time of a call, in milliseconds since 1970.
fn called_at(call: &Value) -> u64 {
    let text = call["at"].as_str().unwrap();
    // 2026-11-21T08:52:51.762Z, all within one test: days are enough.
    let number = |range: std::ops::Range<usize>| text[range].parse::<u64>().unwrap();
    let day = millis() / 86_400_000;
    let today = |day: u64| {
        day * 86_400_000
            + number(11..13) * 3_600_000
            + number(14..16) * 60_000
            + number(17..19) * 1_000
            + number(20..23)
    };
    // A call of yesterday evening looks like one of tonight.
    if today(day) > millis() + 60_000 { today(day - 1) } else { today(day) }
}

#[test]
fn a_storm_of_kills_loses_nothing_and_repeats_nothing_else() {
    let form = std::env::var("WFHOST_STORM").unwrap_or_else(|_| "60,4,8,1".to_owned());
    let form: Vec<u64> =
        form.split(',').map(|number| number.parse().expect("RUNS,PROCESSES,SECONDS,SLOWNESS")).collect();
    let (runs, processes, seconds, slow) = (form[0], form[1], form[2], form[3]);
    let seed = millis();
    let mut dice = Dice(seed);
    println!("seed {seed}");

    let place = Place::new();
    let script = place.script(json!({ "rules": [
        { "match": "^outline (\\w+)", "reply": "about $1", "delay_ms": 120 * slow },
        { "match": "^write section (\\d+) of (\\w+)", "reply": "Section $1 about $2.", "delay_ms": 250 * slow },
        { "match": "^review", "reply": "ok", "delay_ms": 180 * slow },
    ] }));
    for n in 0..runs {
        let input =
            json!({ "topic": format!("topic{n}"), "sections": 3, "approval_timeout_s": 2 }).to_string();
        let id = format!("r{n}");
        let ran =
            place.run(["run", &module("research"), "-d", "--id", &id, "-i", &input, "--agents", &script]);
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
        if n % 5 == 0 {
            place.run(["signal", &id, "approve", "-i", r#"{"ok":true}"#, "--id", "once"]);
        }
    }

    // Each process has its share and no more, so that kills hit work under way all the time.
    let share = (runs / processes / 4).max(2).to_string();
    let serve = || -> Child {
        let mut command = place.wfhost(["serve", "--agents", &script, "--max-live", &share]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let begin = Instant::now();
    let mut servers: Vec<_> = (0..processes).map(|_| serve()).collect();
    // When each process was killed: between these two times.
    let mut kills: Vec<(u64, u64)> = Vec::new();
    let ended = || {
        let database = rusqlite::Connection::open(place.db()).unwrap();
        let count = "SELECT count(*) FROM runs WHERE state IN ('completed', 'failed', 'cancelled')";
        database.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap() as u64
    };
    while ended() < runs && begin.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(50 + dice.roll(350)));
        let victim = dice.roll(processes) as usize;
        let before = millis();
        servers[victim].kill().unwrap();
        servers[victim].wait().unwrap();
        kills.push((before, millis()));
        servers[victim] = serve();
    }
    let patience = Instant::now();
    while ended() < runs {
        assert!(patience.elapsed() < Duration::from_secs(120), "{} of {runs} runs ended", ended());
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = begin.elapsed();
    for mut server in servers {
        server.kill().unwrap();
        server.wait().unwrap();
    }

    for n in 0..runs {
        let show = place.show(&format!("r{n}"));
        let topic = format!("topic{n}");
        let sections: Vec<_> = (1..=3).map(|section| format!("Section {section} about {topic}.")).collect();
        let approval = if n % 5 == 0 { json!({ "ok": true, "note": null }) } else { Value::Null };
        let expected = json!({
            "topic": topic, "outline": format!("about {topic}"), "sections": sections, "rounds": 1,
            "approval": approval,
        });
        assert_eq!((&show["state"], &show["output"]), (&json!("completed"), &expected), "r{n}");
    }
    assert_eq!(place.run(["db", "check"]).code(), Some(0));

    let mut calls: BTreeMap<(String, u64), Vec<(u64, u64)>> = BTreeMap::new();
    for call in place.calls() {
        let step = (call["run"].as_str().unwrap().to_owned(), call["step"].as_u64().unwrap());
        calls.entry(step).or_default().push((call["attempt"].as_u64().unwrap(), called_at(&call)));
    }
    assert_eq!(calls.len() as u64, runs * 5);
    let mut repeated = 0;
    for (step, attempts) in &mut calls {
        attempts.sort_unstable();
        for pair in attempts.windows(2) {
            let ((one, first), (other, second)) = (pair[0], pair[1]);
            assert!(one < other, "attempt {one} of {step:?} was made twice: {attempts:?}");
            let explained = kills.iter().any(|&(begin, end)| end >= first && begin <= second);
            assert!(explained, "nothing was killed between the attempts {pair:?} of {step:?}");
            repeated += 1;
        }
    }
    println!(
        "{runs} runs by {processes} processes, {} kills: all ended after {:.1} s, {} calls, {repeated} of them made \
         again after a kill",
        kills.len(),
        took.as_secs_f64(),
        runs * 5 + repeated,
    );
}
