//! A standby that takes the place of its primary.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use private_postgres::{Postgres, free_port, programs};
use wfhost_tests::{Place, eventually};

use super::work::Fleet;

/// A server that follows another one, asynchronously.
struct Standby {
    child: Child,
    dir: PathBuf,
    port: u16,
}

/// A program of the server, as its user.
fn program(server: &Postgres, name: &str) -> Command {
    let mut command = Command::new(programs().join(name));
    let owner = std::fs::metadata(server.dir().join("data")).expect("its data");
    let (user, group) =
        (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
    std::os::unix::process::CommandExt::uid(&mut command, user);
    std::os::unix::process::CommandExt::gid(&mut command, group);
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

impl Standby {
    fn of(server: &Postgres) -> Self {
        let port = free_port();
        let dir = server.dir().join("standby");
        let copied = program(server, "pg_basebackup")
            .args(["-R", "-c", "fast", "-U", "wf", "-p", &server.port().to_string(), "-h"])
            .arg(server.dir())
            .arg("-D")
            .arg(&dir)
            .status();
        assert!(copied.expect("it runs").success());
        let sockets = format!("unix_socket_directories={}", server.dir().display());
        let port_setting = format!("port={port}");
        let child = program(server, "postgres")
            .arg("-D")
            .arg(&dir)
            .args(["-c", &port_setting, "-c", &sockets, "-c", "listen_addresses=127.0.0.1"])
            // No less than its primary has.
            .args(["-c", "max_connections=400"])
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let standby = Self { child, dir: server.dir().to_owned(), port };
        eventually("the standby", || (standby.sql("SELECT pg_is_in_recovery()")? == "t").then_some(()));
        standby
    }

    fn sql(&self, sql: &str) -> Option<String> {
        let run = Command::new(programs().join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-U",
                "wf",
                "-d",
                "postgres",
                "-p",
                &self.port.to_string(),
                "-c",
                sql,
            ])
            .arg("-h")
            .arg::<&Path>(&self.dir)
            .output()
            .expect("psql runs");
        run.status.success().then(|| String::from_utf8_lossy(&run.stdout).trim().to_owned())
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The URL of a server and its standby.
fn url_of(server: &Postgres, standby: &Standby) -> String {
    format!("postgres://wf@127.0.0.1:{},127.0.0.1:{}/postgres?sslmode=disable", server.port(), standby.port)
}

#[test]
fn runs_go_on_with_the_standby_and_make_up_for_what_it_has_not_seen() {
    let server = Postgres::start(&[]);
    let standby = Standby::of(&server);
    let url = url_of(&server, &standby);
    let place = Place::on_server(url.clone());
    let fleet = Fleet::of(&place, &url, 30_000, 2, 10);
    // What the standby has not seen of a run that was begun is none of those who made it.
    eventually("the standby has all runs", || {
        (standby.sql("SELECT count(*) FROM wfhost.runs WHERE name LIKE 'r_'")? == "10").then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    server.kill();
    eventually("the standby is promoted", || (standby.sql("SELECT pg_promote()")? == "t").then_some(()));
    fleet.signal_runs();
    fleet.wait(Duration::from_secs(90));
    let (calls, again) = fleet.judge();
    eprintln!("{calls} calls, {again} of them again, for commits that the standby had not seen");
}

#[test]
fn with_a_synchronous_standby_nothing_is_lost_and_the_old_primary_is_not_gone_to() {
    let server = Postgres::start(&[]);
    let standby = Standby::of(&server);
    server.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
    server.sql("SELECT pg_reload_conf()");
    eventually("the standby to be waited for", || {
        (server.sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == "1")
            .then_some(())
    });
    let url = url_of(&server, &standby);
    let place = Place::on_server(url.clone());
    let fleet = Fleet::of(&place, &url, 30_000, 2, 10);
    std::thread::sleep(Duration::from_millis(500));
    server.kill();
    eventually("the standby is promoted", || (standby.sql("SELECT pg_promote()")? == "t").then_some(()));
    // Hosts have to have seen the new primary, to know the old one by: two lanes and a listener of each.
    eventually("the hosts to be there", || {
        let there = standby
            .sql("SELECT count(*) >= 6 FROM pg_stat_activity WHERE application_name LIKE 'wfhost/%'")?;
        (there == "t").then_some(())
    });
    // It comes back as if nothing had happened, and waits for no standby any more.
    server.begin();
    server.sql("ALTER SYSTEM RESET synchronous_standby_names");
    server.sql("SELECT pg_reload_conf()");
    let before = server.sql("SELECT coalesce(max(place), 0) FROM wfhost.journal");
    for _ in 0..10 {
        // Each connection is made anew, to either of the two.
        standby.sql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'wfhost/%'",
        );
        std::thread::sleep(Duration::from_millis(150));
    }
    assert_eq!(
        server.sql("SELECT coalesce(max(place), 0) FROM wfhost.journal"),
        before,
        "somebody wrote to the old one"
    );
    server.kill();
    fleet.signal_runs();
    fleet.wait(Duration::from_secs(90));
    let (calls, again) = fleet.judge();
    assert_eq!(again, 0, "of {calls}");
}
