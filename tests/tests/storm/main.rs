//! Many processes on one database that are killed, stopped, told to end, and whose clocks are set,
//! while runs are sent signals and answers, paused and stopped, at the worst moments.
//!
//! The short form runs with all tests. The long one, whose figures are in docs/operations.md:
//! `WFHOST_STORM=660,5,24 cargo test -p wfhost-tests --test storm -- --nocapture`
//! (seconds, processes, runs at a time).

mod clock;
mod fleet;
mod judge;
mod outside;
mod programs;
mod server;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use private_postgres::Postgres;
use wfhost_tests::Place;

use clock::Library;
use fleet::{Fleet, Lives};
use outside::{Outside, Told, Wish};

/// The write-ahead log is never larger.
const LOG_BOUND: u64 = 64 << 20;
/// Runs that nobody disturbs any more have ended after so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Numbers that look random, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// By how much a clock is wrong, ahead or behind, in milliseconds.
    fn wrong(&mut self) -> i64 {
        const HOUR_MS: i64 = 3_600_000;
        if self.roll(2) == 0 { HOUR_MS } else { -HOUR_MS }
    }
}

#[test]
fn a_storm_loses_nothing_and_repeats_only_what_it_hit() {
    let form = std::env::var("WFHOST_STORM").unwrap_or_else(|_| "6,4,16".to_owned());
    let form: Vec<u64> =
        form.split(',').map(|number| number.parse().expect("SECONDS,PROCESSES,RUNS")).collect();
    let (length, processes, runs) = (Duration::from_secs(form[0]), form[1], form[2]);
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    println!("seed {seed}");

    // A server of its own, as that is among what the storm hits.
    let server = wfhost_tests::on_a_server().then(|| Postgres::start(&[]));
    let place = match &server {
        Some(server) => Place::on_server(server.url()),
        None => Place::in_file(),
    };
    assert_eq!(place.run(["db", "init"]).code(), Some(0), "a new database");
    let lives = Lives::new(&place);
    let library = Library::build(&place);
    let outside = Outside::new(&place, &lives, library.as_ref());
    let mut fleet = Fleet::new(&lives, library.as_ref(), Dice(seed), processes, runs);
    let begin = Instant::now();
    let (mut largest_log, mut calm_after) = (0, None);
    std::thread::scope(|scope| {
        let outside = &outside;
        let disturbers = (1..=6).map(|n| scope.spawn(move || outside.disturb(Dice(seed + n))));
        let mut people: Vec<_> = disturbers.collect();
        people.push(scope.spawn(|| outside.begin_runs(runs, Dice(seed + 7))));
        if let Some(server) = &server {
            let lives = &lives;
            people.push(scope.spawn(move || server::disturb(server, lives, length, Dice(seed + 8))));
        }
        let mut counted = Instant::now();
        loop {
            let storm = begin.elapsed() < length;
            fleet.tick(storm);
            let log = std::fs::metadata(place.path("wfhost.db-wal")).map_or(0, |file| file.len());
            largest_log = largest_log.max(log);
            std::thread::sleep(Duration::from_millis(20));
            if storm || counted.elapsed() < Duration::from_millis(500) {
                continue;
            }
            counted = Instant::now();
            outside.calm_down();
            if !people.iter().all(|somebody| somebody.is_finished()) {
                continue;
            }
            outside.resume_all();
            if outside.open() == 0 {
                calm_after = Some(begin.elapsed().saturating_sub(length));
                break;
            }
            if begin.elapsed() > length + PATIENCE {
                break;
            }
        }
    });
    fleet.end();

    let mut faults = std::mem::take(&mut fleet.faults);
    faults.append(&mut outside.faults.lock().unwrap());
    if largest_log > LOG_BOUND {
        faults.push(format!("the write-ahead log has had {largest_log} bytes"));
    }
    if calm_after.is_none() {
        faults.push(format!("{} runs have not ended", outside.open()));
        let open = place.run(["ps", "--state", "waiting", "-o", "json"]).ok_json();
        for run in open["runs"].as_array().into_iter().flatten() {
            let id = run["id"].as_str().expect("an id");
            faults.push(place.run(["why", id]).stdout());
            let journal = place.journal(id);
            faults.extend(journal.iter().rev().take(8).rev().map(ToString::to_string));
        }
    }
    let log = std::fs::read_to_string(place.path("log")).expect("the log of the processes");
    faults.extend(log.lines().filter(|line| line.contains("panicked at")).map(str::to_owned));
    let check = place.run(["db", "check"]);
    if check.code() != Some(0) {
        faults.push(format!("db check: {}{}", check.stdout(), check.stderr()));
    }
    let sent = outside.sent.into_inner().unwrap();
    let judged = judge::judge(&place, &lives, &outside.begun.into_inner().unwrap(), &sent);
    faults.extend(judged.faults);

    let told = |told: Told| {
        let messages = sent.iter().filter(|sent| matches!(sent.wish, Wish::Signal | Wish::Answer { .. }));
        messages.filter(|sent| sent.told == told).count()
    };
    let wishes = |wish: Wish| sent.iter().filter(|sent| sent.wish == wish && sent.told == Told::Yes).count();
    println!(
        "{} runs, {:?}\nsignals and answers: {} accepted, {} refused, {} unknown; {} pauses, {} resumed, {} stopped\n\
         {} calls, {} of them made again; the log had {} KiB at most; all runs ended {:.1?} after the storm",
        judged.runs,
        fleet.figures,
        told(Told::Yes),
        told(Told::No),
        told(Told::Unknown),
        wishes(Wish::Pause),
        wishes(Wish::Resume),
        wishes(Wish::Cancel),
        judged.calls,
        judged.again,
        largest_log >> 10,
        calm_after.unwrap_or_default(),
    );
    if !faults.is_empty() {
        println!("everything is kept in {}", place.path("").display());
        std::mem::forget(place);
        panic!("{} faults:\n{}", faults.len(), faults.join("\n"));
    }
}
