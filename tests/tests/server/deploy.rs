//! How wfhost is set up as a service: the unit file and the container, as far as they can be tried here.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use wfhost_tests::{Place, eventually, target};

use crate::client::Server;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn wfhost() -> PathBuf {
    target().join("debug/wfhost")
}

/// The values of a key of the unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let prefix = format!("{key}=");
    unit.lines().filter_map(|line| line.strip_prefix(&*prefix)).collect()
}

#[test]
fn the_unit_is_one_that_systemd_takes_and_its_command_can_be_given() {
    let unit = read("host/packaging/deploy/wfhost.service");
    let command = values(&unit, "ExecStart");
    let [command] = command[..] else { panic!("{command:?}") };
    let mut words = command.split(' ');
    assert_eq!(words.next(), Some("/usr/local/bin/wfhost"));
    let place = Place::new();
    let help = place.run(["serve", "--help"]).stdout();
    assert_eq!(words.next(), Some("serve"));
    for word in words.filter(|word| word.starts_with("--")) {
        assert!(help.contains(word), "{word}");
    }
    // Time enough for what is under way.
    let grace = command.split("--grace ").nth(1).and_then(|rest| rest.split('s').next()).unwrap();
    let stop: u64 = values(&unit, "TimeoutStopSec")[0].parse().unwrap();
    assert!(stop > grace.parse::<u64>().unwrap() + 10, "{stop} {grace}");
    if Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("left out: there is no systemd-analyze here");
        return;
    }
    // It looks whether the program is there.
    let unit = unit.replace("/usr/local/bin/wfhost", &wfhost().display().to_string());
    // And whether the user is, by name.
    let file = place.file("wfhost.service", unit);
    let ran = Command::new("systemd-analyze").args(["verify", "--man=no", &file]).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    let about_it: Vec<_> = said.lines().filter(|line| line.contains("wfhost.service")).collect();
    assert!(about_it.is_empty() && ran.status.success(), "{said}");
}

#[test]
fn a_service_manager_is_told_when_it_answers_and_when_it_ends() {
    let place = Place::new();
    let path = place.path("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let told = || {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).expect("something is told");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let variable = path.display().to_string();
    let server = Server::start_in(&place, &[], &[("NOTIFY_SOCKET", &variable)]);
    assert!(told().starts_with("READY=1\n"));
    assert_eq!(server.try_ask("GET", "/readyz", &[], b"").unwrap().status, 200, "it answers then");
    assert_eq!(server.stop().code(), Some(143));
    assert!(told().starts_with("STOPPING=1\n"));
    // A place that is none changes nothing.
    for nowhere in ["/nowhere/notify.sock", "@", "relative"] {
        let server = Server::start_in(&place, &[], &[("NOTIFY_SOCKET", nowhere)]);
        assert_eq!(server.stop().code(), Some(143));
    }
}

/// The instructions of the Dockerfile, each on one line.
fn instructions() -> Vec<(String, String)> {
    let text = read("host/packaging/deploy/Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let split = lines.map(|line| line.split_once(' ').expect("an instruction and its arguments"));
    split.map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect()
}

#[test]
fn the_container_is_built_of_what_is_here_and_of_the_registries() {
    let all = instructions();
    let known =
        ["FROM", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "ENV", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"];
    for (name, rest) in &all {
        assert!(known.contains(&name.as_str()) || name == "ENTRYPOINT" || name == "CMD", "{name} {rest}");
    }
    let of = |wanted: &str| {
        all.iter().filter(|(name, _)| name == wanted).map(|(_, rest)| rest.as_str()).collect::<Vec<_>>()
    };
    let mut copied = Vec::new();
    for copy in of("COPY").into_iter().filter(|copy| !copy.starts_with("--from")) {
        let words: Vec<_> = copy.split_whitespace().collect();
        for source in &words[..words.len() - 1] {
            assert!(root().join(source).exists(), "COPY {source}");
            copied.push((*source).to_owned());
        }
    }
    // All that the workspace needs is there: what is a member, and what is read while it is built.
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
    for member in members.split('"').skip(1).step_by(2) {
        let top = member.split('/').next().unwrap();
        assert!(copied.iter().any(|known| known == top), "{member} is not copied");
    }
    let runs = of("RUN").join("\n");
    // The tools are the version that the workspace names.
    let version = manifest.split("rust-version = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert!(of("FROM")[0].contains(&format!("rust:{version}-")), "{:?}", of("FROM"));
    assert!(runs.contains("cargo fetch --locked"), "{runs}");
    let build = runs.lines().find(|line| line.contains("cargo build")).expect("it is built");
    assert!(build.contains("--network=none") && build.contains("--frozen"), "{build}");
    assert!(manifest.contains("[profile.dist]") && build.contains("--profile dist --bin wfhost"), "{build}");
    let user = of("USER");
    assert!(user.last().is_some_and(|user| *user != "root"), "{user:?}");
}

#[test]
fn what_the_container_does_works_in_an_empty_directory() {
    let all = instructions();
    let one = |wanted: &str| {
        all.iter().rev().find(|(name, _)| name == wanted).map(|(_, rest)| rest.clone()).unwrap()
    };
    let place = Place::in_file();
    let data = place.path("data");
    std::fs::create_dir(&data).unwrap();
    let data = data.display().to_string();
    let port = wfhost_tests::free_port().to_string();
    // Nothing of this machine but what the container has; in the place of its directory and port, ours.
    let here = |text: &str| text.replace("/data", &data).replace("7777", &port);
    let variables = here(&one("ENV"));
    let command = |args: &[String]| {
        let mut command = Command::new(wfhost());
        command.args(args).current_dir(&data).env_clear().env("PATH", "/usr/bin:/bin");
        command.envs(variables.split(' ').filter_map(|pair| pair.split_once('=')));
        command
    };
    assert_eq!(one("ENTRYPOINT"), "[\"wfhost\"]");
    let args: Vec<String> = serde_json::from_str(&one("CMD")).unwrap();
    // Others reach it: without a token it does not begin.
    let ran = command(&args).output().unwrap();
    assert_eq!(ran.status.code(), Some(2), "{}", String::from_utf8_lossy(&ran.stderr));
    let token: Vec<_> = ["token", "new", "admin", "--scope", "admin"].map(str::to_owned).to_vec();
    let ran = command(&token).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let mut server = command(&args).stderr(Stdio::null()).spawn().unwrap();
    let health = one("HEALTHCHECK");
    let (_, health) = health.split_once("CMD ").unwrap();
    let health: Vec<String> = serde_json::from_str(&here(health)).unwrap();
    let is_healthy = || {
        let ran =
            Command::new(&health[0]).args(&health[1..]).env_clear().env("PATH", "/usr/bin:/bin").output();
        ran.unwrap().status.success()
    };
    eventually("it is healthy", || is_healthy().then_some(()));
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(143));
    assert!(!is_healthy());
    assert!(Path::new(&data).join("wfhost.db").is_file());
}
