//! Behind a pooler that gives each transaction another connection.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use private_postgres::{Postgres, free_port};
use wfhost_tests::{Place, eventually};

use super::work::Fleet;

struct Pooler {
    child: Child,
    port: u16,
}

impl Pooler {
    fn program() -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        dirs.map(|dir| dir.join("pgbouncer")).find(|program| program.is_file())
    }

    fn start(program: &Path, server: &Postgres) -> Self {
        let port = free_port();
        // It reads its files as the user of the server, who may not read those of the test.
        let dir = server.dir().join("data/pooler");
        std::fs::create_dir(&dir).expect("a directory of the server");
        let config = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = 6\nmax_client_conn = 200\n",
            server.dir().display(),
            server.port(),
            dir.join("users").display(),
        );
        std::fs::write(dir.join("config"), config).expect("a file of the server");
        std::fs::write(dir.join("users"), "\"wf\" \"\"\n").expect("a file of the server");
        let owner = std::fs::metadata(server.dir().join("data")).expect("its data");
        let (user, group) =
            (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
        for path in [dir.clone(), dir.join("config"), dir.join("users")] {
            std::os::unix::fs::chown(path, Some(user), Some(group)).expect("it is the server's");
        }
        let mut command = Command::new(program);
        command.arg("-q").arg(dir.join("config"));
        std::os::unix::process::CommandExt::uid(&mut command, user);
        std::os::unix::process::CommandExt::gid(&mut command, group);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the pooler starts");
        eventually("the pooler", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, port }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn hosts_work_behind_a_pooler() {
    let Some(program) = Pooler::program() else {
        eprintln!("left out: there is no pgbouncer, `tests/setup` installs it");
        return;
    };
    let server = Postgres::start(&[]);
    let pooler = Pooler::start(&program, &server);
    let url = format!("postgres://wf@127.0.0.1:{}/postgres?sslmode=disable", pooler.port);
    let place = Place::on_server(url.clone());
    let doctor = place.run(["doctor"]).stdout();
    assert!(doctor.contains("hosts poll every 100 ms"), "{doctor}");
    let fleet = Fleet::of(&place, &url, 30_000, 2, 8);
    fleet.signal_runs();
    fleet.wait(Duration::from_secs(60));
    let (calls, again) = fleet.judge();
    assert_eq!(again, 0, "of {calls}");
}
