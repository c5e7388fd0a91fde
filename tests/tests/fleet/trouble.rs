//! Hosts, servers and connections that fail while runs are advanced.
//!
//! The short form runs with all tests. A longer one, with more runs:
//! `WFHOST_FLEET=60,40 cargo test -p wfhost-tests --test fleet trouble:: -- --nocapture` (seconds, runs).

use std::time::{Duration, Instant};

use private_postgres::{Postgres, Proxy};
use rustix::process::Signal;
use wfhost_tests::Place;

use super::work::{Fleet, form};

const PATIENCE: Duration = Duration::from_secs(90);
/// Of a host whose death is found out by others, who are on the same machine.
const LEASE_MS: u64 = 30_000;

/// Does something again and again, for so long.
fn for_some_time(length: Duration, every: Duration, mut act: impl FnMut(u32)) {
    until_enough(length, every, |turn| {
        act(turn);
        true
    });
}

/// The same, and longer until it says that it was enough; that takes a minute at most.
fn until_enough(length: Duration, every: Duration, mut act: impl FnMut(u32) -> bool) {
    let begin = Instant::now();
    let length = form().map_or(length, |(seconds, _)| Duration::from_secs(seconds));
    let patience = length.max(Duration::from_secs(60));
    let mut enough = false;
    for turn in 0.. {
        let took = begin.elapsed();
        if took > patience || took > length && enough {
            return;
        }
        std::thread::sleep(every);
        enough = act(turn);
    }
}

fn by_tcp(port: u16) -> String {
    format!("postgres://wf@127.0.0.1:{port}/postgres?sslmode=disable")
}

#[test]
fn hosts_that_are_killed_lose_nothing() {
    let server = Postgres::start(&[]);
    let place = Place::on_server(server.url());
    let mut fleet = Fleet::of(&place, &server.url(), LEASE_MS, 3, 12);
    let mut victims = 0;
    for_some_time(Duration::from_secs(4), Duration::from_millis(300), |turn| {
        fleet.replace(turn as usize % 3);
        victims += 1;
        if turn == 5 {
            fleet.signal_runs();
        }
    });
    fleet.signal_runs();
    fleet.wait(PATIENCE);
    let (calls, again) = fleet.judge();
    eprintln!("{victims} hosts were killed: {calls} calls, {again} of them again");
    // What was under way when one was killed, and nothing else.
    assert!(again <= victims * 12 * 2, "{again} calls were made again");
}

#[test]
fn a_server_that_dies_and_comes_back_costs_no_call() {
    let server = Postgres::start(&[]);
    let place = Place::on_server(server.url());
    let fleet = Fleet::of(&place, &server.url(), LEASE_MS, 2, 12);
    for_some_time(Duration::from_secs(3), Duration::from_millis(700), |turn| {
        server.kill();
        server.begin();
        if turn == 1 {
            fleet.signal_runs();
        }
    });
    fleet.signal_runs();
    fleet.wait(PATIENCE);
    // All hosts lived, within their leases: whatever they were not told of they have found out.
    let (calls, again) = fleet.judge();
    assert_eq!(again, 0, "of {calls}");
}

#[test]
fn backends_that_are_terminated_cost_no_call() {
    let server = Postgres::start(&[]);
    let place = Place::on_server(server.url());
    let fleet = Fleet::of(&place, &server.url(), LEASE_MS, 2, 12);
    let mut terminated = 0;
    until_enough(Duration::from_secs(4), Duration::from_millis(60), |turn| {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
            WHERE application_name LIKE 'wfhost/%' ORDER BY random() LIMIT 3) x";
        terminated += server.sql(sql).parse::<u32>().expect("a number");
        if turn == 30 {
            fleet.signal_runs();
        }
        terminated > 20
    });
    fleet.signal_runs();
    fleet.wait(PATIENCE);
    let (calls, again) = fleet.judge();
    eprintln!("{terminated} backends were terminated: {calls} calls");
    assert!(terminated > 20, "{terminated}");
    assert_eq!(again, 0, "of {calls}");
}

#[test]
fn connections_that_are_cut_before_their_answers_cost_no_call() {
    let server = Postgres::start(&[]);
    let place = Place::on_server(server.url());
    let proxy = Proxy::to(server.port());
    let fleet = Fleet::of(&place, &by_tcp(proxy.port()), LEASE_MS, 2, 12);
    until_enough(Duration::from_secs(4), Duration::from_millis(40), |turn| {
        match turn % 8 {
            7 => proxy.cut_all(),
            _ => proxy.cut_before_answers(1),
        }
        if turn == 40 {
            fleet.signal_runs();
        }
        proxy.cut() > 20
    });
    proxy.cut_before_answers(0);
    fleet.signal_runs();
    fleet.wait(PATIENCE);
    let cut = proxy.cut();
    let (calls, again) = fleet.judge();
    eprintln!("{cut} answers were thrown away: {calls} calls");
    assert!(cut > 20, "{cut}");
    assert_eq!(again, 0, "of {calls}");
}

#[test]
fn connections_that_swallow_everything_are_given_up() {
    let server = Postgres::start(&[]);
    let place = Place::on_server(server.url());
    let proxy = Proxy::to(server.port());
    // Longer than an answer is waited for, and shorter than a network takes to tell.
    let fleet = Fleet::of(&place, &by_tcp(proxy.port()), 10_000, 2, 6);
    std::thread::sleep(Duration::from_millis(600));
    // Nobody is told that they are dead.
    proxy.swallow_all();
    fleet.signal_runs();
    fleet.wait(PATIENCE);
    let (calls, again) = fleet.judge();
    assert_eq!(again, 0, "of {calls}");
}

#[test]
fn a_host_that_is_stopped_past_its_lease_harms_nobody() {
    let server = Postgres::start(&[]);
    let place = Place::on_server(server.url());
    let fleet = Fleet::of(&place, &server.url(), 1_000, 2, 10);
    for round in 0..3 {
        std::thread::sleep(Duration::from_millis(400));
        fleet.send(round % 2, Signal::STOP);
        std::thread::sleep(Duration::from_millis(1_800));
        fleet.send(round % 2, Signal::CONT);
        if round == 1 {
            fleet.signal_runs();
        }
    }
    fleet.signal_runs();
    fleet.wait(PATIENCE);
    // Some calls were under way in the one that was stopped.
    fleet.judge();
}
