//! Verbs that fetch and write, killed before each of many of their changes of files: nothing is there by halves,
//! nothing is left behind, and the same command does it afterwards.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use wfhost_registry::Sha256;
use wfhost_tests::{Place, Ran, module};

use super::fake::Fake;
use super::plugins::{answers, call, plugin};
use super::{command, ok};

/// Moments of each command.
const MOMENTS: usize = 14;

/// A library that kills a process at its Nth change of a file. None, with the reason on stdout, if there is none.
fn library(place: &Place) -> Option<PathBuf> {
    let (source, library) = (place.file("kill.c", include_str!("kill.c")), place.path("kill.so"));
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
    match built {
        Ok(built) if built.status.success() => return Some(library),
        Ok(built) => println!("nobody is killed: {}", String::from_utf8_lossy(&built.stderr)),
        Err(error) => println!("nobody is killed: cc cannot be started: {error}"),
    }
    None
}

/// Runs a command that is killed before its `at`th change; 0 for never. Gives how many changes there were, and
/// whether it was killed.
fn killed(place: &Place, library: &Path, args: &[&str], at: i64) -> (i64, bool) {
    let mut counter = [0; 16];
    counter[8..].copy_from_slice(&at.to_ne_bytes());
    let file = place.file("kill-at", counter);
    let mut command = command(place, args);
    command.env("LD_PRELOAD", library).env("KILL_AT", &file).env("KILL_DIR", place.path(""));
    let ran = Ran(command.stdout(Stdio::null()).output().unwrap());
    let done = std::fs::read(&file).unwrap()[..8].try_into().unwrap();
    std::fs::remove_file(file).unwrap();
    assert!(ran.code().is_none() || ran.code() == Some(0), "{args:?}: {}", ran.stderr());
    (i64::from_ne_bytes(done), ran.code().is_none())
}

/// All files of a place.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.symlink_metadata().unwrap().is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files
}

/// The local store has what it names, and all of it is what it is called.
fn is_whole(place: &Place, when: &str) {
    let store = place.path("data/wfhost/modules");
    let blob = |digest: &str| {
        let path = store.join("blobs").join(digest.replace(':', "/"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{when}: {digest}: {error}"))
    };
    for file in files(&store.join("blobs")) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            assert_eq!(Sha256::of(&std::fs::read(&file).unwrap()).hex(), name, "{when}");
        }
    }
    let Ok(index) = std::fs::read(store.join("index.json")) else { return };
    let index: Value = serde_json::from_slice(&index).unwrap_or_else(|error| panic!("{when}: {error}"));
    for entry in index["manifests"].as_array().unwrap() {
        let manifest: Value = serde_json::from_slice(&blob(entry["digest"].as_str().unwrap())).unwrap();
        let parts = manifest["layers"].as_array().into_iter().flatten().chain([&manifest["config"]]);
        for part in parts {
            assert_eq!(blob(part["digest"].as_str().unwrap()).len() as u64, part["size"], "{when}");
        }
    }
}

/// Kills a command at many moments, each in a place of its own that `before` makes. `after` looks at what was left,
/// and says whether all is done; else the command is given again. `finally` looks at what came of that.
fn at_many_moments(
    args: &[&str],
    before: impl Fn() -> Place + Sync,
    after: impl Fn(&Place, &str) -> bool + Sync,
    finally: impl Fn(&Place, &str) + Sync,
) {
    let place = before();
    let Some(library) = library(&place) else { return };
    let (changes, _) = killed(&place, &library, args, 0);
    assert!(changes > 4, "{args:?} changes {changes} times: the library is not loaded");
    let count = MOMENTS.min(changes as usize);
    let (next, deaths) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let one = |number: usize| {
        let at = 1 + (changes - 1) * number as i64 / (count as i64 - 1);
        let when = format!("{args:?}, killed before change {at} of {changes}");
        let place = before();
        if killed(&place, &library, args, at).1 {
            deaths.fetch_add(1, Ordering::Relaxed);
        }
        is_whole(&place, &when);
        if !after(&place, &when) {
            let again = Ran(command(&place, args).output().unwrap());
            assert_eq!(again.code(), Some(0), "{when}: {}", again.stderr());
        }
        is_whole(&place, &when);
        finally(&place, &when);
        let left = files(&place.path("")).into_iter().filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.ends_with(".new") || name.starts_with(".tmp")
        });
        assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new(), "{when}: left behind");
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    one(number);
                }
            });
        }
    });
    // How many changes there are differs a little from time to time.
    assert!(deaths.into_inner() > count / 2, "{args:?} was hardly ever killed");
}

#[test]
fn a_pull_that_is_killed_leaves_nothing_by_halves() {
    let fake = Fake::new();
    let reference = format!("{}/me/hello:1", fake.host);
    ok(&Place::new(), &["push", &reference, &module("hello")]);
    let bytes = std::fs::read(module("hello")).unwrap();
    let written = |place: &Place| std::fs::read(place.path("hello.wasm")).ok();
    at_many_moments(
        &["pull", &reference, "--to", "hello.wasm"],
        Place::in_file,
        |place, when| {
            assert!(written(place).is_none_or(|there| there == bytes), "{when}");
            false
        },
        |place, when| assert!(written(place).unwrap() == bytes, "{when}"),
    );
}

#[test]
fn an_add_that_is_killed_leaves_nothing_by_halves() {
    let fake = Fake::new();
    let reference = format!("{}/me/hello:1", fake.host);
    ok(&Place::new(), &["push", &reference, &module("hello")]);
    at_many_moments(
        &["add", &reference],
        Place::in_file,
        |_, _| false,
        |place, when| {
            let lock = std::fs::read_to_string(place.path("wfhost.lock")).unwrap();
            assert!(lock.contains(&reference), "{when}: {lock}");
            let modules = ok(place, &["modules"]).stdout();
            assert_eq!(modules.matches("hello  blake3:").count(), 1, "{when}: {modules}");
        },
    );
}

#[test]
fn a_plugin_add_that_is_killed_leaves_nothing_by_halves() {
    let fake = Fake::new();
    let (publisher, reference) = (Place::in_file(), format!("{}/me/puppet:1", fake.host));
    let file = plugin(&publisher, "puppet.wasm", &json!({ "env": [{ "name": "LANG", "reason": "speaks" }] }));
    ok(&publisher, &["push", &reference, &file]);
    let own = "# mine\n[providers.x]\nkind = \"command\"\nargv = [\"true\"]\n";
    let added = |place: &Place| {
        let config = std::fs::read_to_string(place.path("wfhost.toml")).unwrap();
        assert!(config.starts_with(own), "{config}");
        config.contains("[providers.puppet]")
    };
    at_many_moments(
        &["plugin", "add", &reference, "--yes"],
        || {
            let place = Place::in_file();
            place.file("wfhost.toml", own);
            ok(&place, &["trust"]);
            place
        },
        |place, when| {
            // What was trusted is still trusted, and a provider that is there is locked.
            let listed = super::run(place, &["plugin", "ls"]);
            assert_eq!(listed.code(), Some(0), "{when}: {}", listed.stderr());
            let lock = std::fs::read_to_string(place.path("wfhost.lock")).unwrap_or_default();
            assert!(!added(place) || lock.contains(&reference), "{when}: {lock}");
            assert!(!listed.stdout().contains('✗'), "{when}: {}", listed.stdout());
            added(place)
        },
        |place, when| {
            assert!(added(place), "{when}");
            // Killed after the file was written it is not given again: what is left of the record of trust then
            // goes with the next one that is written.
            ok(place, &["trust"]);
        },
    );
    // It answers, too.
    let place = Place::in_file();
    ok(&place, &["plugin", "add", &reference, "--yes"]);
    answers(&call(&place, "r", &[]));
}

#[test]
fn an_update_that_is_killed_leaves_nothing_by_halves() {
    let fake = Fake::new();
    let (publisher, reference) = (Place::in_file(), format!("{}/me/puppet:1", fake.host));
    let push = |wants: Value| {
        let file = plugin(&publisher, "puppet.wasm", &wants);
        ok(&publisher, &["push", &reference, &file]);
    };
    push(json!({}));
    let first = Place::in_file();
    ok(&first, &["plugin", "add", &reference, "--yes"]);
    let old = std::fs::read_to_string(first.path("wfhost.lock")).unwrap();
    push(json!({ "env": [{ "name": "LANG", "reason": "speaks" }] }));
    at_many_moments(
        &["update", "--accept"],
        || {
            let place = Place::in_file();
            for file in files(&first.path("")) {
                let to = place.path(&file.strip_prefix(first.path("")).unwrap().to_string_lossy());
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::copy(file, to).unwrap();
            }
            ok(&place, &["trust"]);
            place
        },
        |place, when| {
            let lock = std::fs::read_to_string(place.path("wfhost.lock")).unwrap();
            assert!(lock == old || lock.contains("LANG"), "{when}: {lock}");
            false
        },
        |place, when| {
            let lock = std::fs::read_to_string(place.path("wfhost.lock")).unwrap();
            assert!(lock.contains("LANG"), "{when}: {lock}");
        },
    );
}
