//! A standby that takes the place of its primary.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use private_postgres::{Postgres, programs};
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
        let socket = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = socket.expect("a free port").port();
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

#[test]
fn runs_go_on_with_the_standby_and_make_up_for_what_it_has_not_seen() {
    let server = Postgres::start(&[]);
    let standby = Standby::of(&server);
    let url = format!(
        "postgres://wf@127.0.0.1:{},127.0.0.1:{}/postgres?sslmode=disable",
        server.port(),
        standby.port
    );
    let place = Place::on_server(url.clone());
    let mut fleet = Fleet::new(&place, &url, 30_000);
    for _ in 0..2 {
        fleet.host();
    }
    fleet.begin_runs(10);
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
