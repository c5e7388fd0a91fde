//! What a module says that it was built from, and whether that is so.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use wfhost_registry::Sha256;
use wfhost_registry::manifest::MANIFEST;
use wfhost_tests::{Place, module};

use super::fake::Fake;
use super::signatures::{configure, key};
use super::{kept, ok, run};

fn git(dir: &Path, args: &[&str]) -> String {
    let config = ["-c", "user.name=a", "-c", "user.email=a@a.org", "-c", "init.defaultBranch=main"];
    let ran = Command::new("git").arg("-C").arg(dir).args(config).args(args).output().unwrap();
    assert!(ran.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).trim().to_owned()
}

/// A repository with a workflow in C, which is built in a second.
fn project(place: &Place) -> (String, String) {
    let dir = place.path("repository");
    std::fs::create_dir(&dir).unwrap();
    let flow = dir.join("flows/hello");
    std::fs::create_dir(dir.join("flows")).unwrap();
    assert_eq!(run(place, &["new", &flow.display().to_string(), "-t", "c"]).code(), Some(0));
    git(&dir, &["init", "-q"]);
    git(&dir, &["remote", "add", "origin", "https://localhost:1/hello.git"]);
    git(&dir, &["add", "."]);
    git(&dir, &["commit", "-q", "-m", "first"]);
    (flow.display().to_string(), git(&dir, &["rev-parse", "HEAD"]))
}

#[test]
fn a_module_says_what_it_was_built_from_and_is_built_again() {
    let (fake, place) = (Fake::new(), Place::new());
    let reference = format!("{}/me/hello:1.0.0", fake.host);
    let keys = format!("[signatures.keys]\n{}", key(&place, "acme"));
    configure(&place, &keys);
    let (flow, revision) = project(&place);
    let push = ["push", &reference, &flow, "--sign", "acme", "--provenance"];
    // Who signs nothing says nothing.
    let error = run(&place, &push[..3].iter().copied().chain(["--provenance"]).collect::<Vec<_>>());
    assert!(error.code() == Some(2) && error.stderr().contains("--sign"), "{}", error.stderr());
    // What is not committed cannot be fetched by others.
    let stray = Path::new(&flow).join("stray.h");
    std::fs::write(&stray, "").unwrap();
    let error = run(&place, &push).error(2, &place);
    assert!(
        error.contains("error[WF0950]") && error.contains("uncommitted files, for example stray.h"),
        "{error}"
    );
    std::fs::remove_file(stray).unwrap();
    let pushed = run(&place, &push);
    assert_eq!(pushed.code(), Some(0), "{}", pushed.stderr());
    assert!(pushed.stderr().contains(&format!("built from https://localhost:1/hello.git at {revision}")));
    // A second push says nothing new.
    let again = run(&place, &push);
    assert!(again.stderr().contains("Exists  built from"), "{}", again.stderr());
    let said = format!(
        "built from https://localhost:1/hello.git at {revision}, directory flows/hello, according to acme"
    );
    let inspected = ok(&place, &["inspect", &reference]).stdout();
    assert!(inspected.contains(&format!("source   {said}")), "{inspected}");
    let verified = ok(&place, &["verify", &reference]).stdout();
    assert!(verified.contains("signed by acme\n") && verified.contains(&said), "{verified}");
    let json: Value =
        serde_json::from_str(&ok(&place, &["verify", &reference, "-o", "json"]).stdout()).unwrap();
    assert_eq!(json["provenance"][0]["revision"], revision.as_str(), "{json}");
    // A rule can want that it is said; then what is signed and no more is refused, before it is fetched.
    let (other, silent) = (Place::new(), format!("{}/me/silent:1.0.0", fake.host));
    ok(&place, &["push", &silent, &module("hello"), "--sign", "acme"]);
    let rule =
        "[[signatures.rules]]\nmatch = \"localhost:*/me/*\"\nsigners = [\"acme\"]\nprovenance = true\n";
    configure(&other, &format!("{keys}{rule}"));
    let error = run(&other, &["pull", &silent]).error(5, &other);
    assert!(error.contains("error[WF0952]") && error.contains("--provenance"), "{error}");
    assert_eq!(kept(&other), Vec::<Value>::new());
    ok(&other, &["pull", &reference]);
    ok(&other, &["pull", &reference, "--offline"]);
    // Nothing of it is run unasked; what is said to be the source is asked for over the network only.
    let rebuild = ["verify", &reference, "--rebuild"];
    let error = run(&place, &rebuild).error(2, &place);
    assert!(error.contains("error[WF0509]") && error.contains("--yes"), "{error}");
    let error = run(&place, &[&rebuild[..], &["--yes"]].concat()).error(4, &place);
    assert!(error.contains("error[WF0950]") && error.contains("--source"), "{error}");
    let repository = place.path("repository").display().to_string();
    let from = [&rebuild[..], &["--yes", "--source", &repository]].concat();
    let same = run(&place, &from);
    assert_eq!(same.code(), Some(0), "{}", same.stderr());
    assert!(same.stderr().contains("the rebuilt module is identical: sha256:"), "{}", same.stderr());
    // Another clone does not have the commit.
    git(&place.path("repository"), &["commit", "-q", "--amend", "-m", "second", "--allow-empty"]);
    git(&place.path("repository"), &["reflog", "expire", "--expire=now", "--all"]);
    git(&place.path("repository"), &["gc", "-q", "--prune=now"]);
    let error = run(&place, &from).error(4, &place);
    assert!(error.contains("error[WF0950]"), "{error}");
}

#[test]
fn a_module_that_is_not_what_its_source_gives_is_found_out() {
    let (fake, place) = (Fake::new(), Place::new());
    let reference = format!("{}/me/hello:1", fake.host);
    configure(&place, &format!("[signatures.keys]\n{}", key(&place, "acme")));
    let (flow, _) = project(&place);
    // A change that git was told not to look at.
    let main = Path::new(&flow).join("workflow.c");
    git(Path::new(&flow), &["update-index", "--assume-unchanged", "workflow.c"]);
    let text = std::fs::read_to_string(&main).unwrap();
    std::fs::write(&main, text.replace("\"world\"", "\"nobody at all\"")).unwrap();
    let pushed = run(&place, &["push", &reference, &flow, "--sign", "acme", "--provenance"]);
    assert_eq!(pushed.code(), Some(0), "{}", pushed.stderr());
    let repository = place.path("repository").display().to_string();
    let ran = run(&place, &["verify", &reference, "--rebuild", "--yes", "--source", &repository]);
    let error = ran.error(5, &place);
    assert!(error.contains("error[WF0951]") && error.contains("bytes, and "), "{error}");
    assert!(error.contains("built with "), "{error}");
    // What is said of other bytes is not taken for something about these.
    let manifest = fake.manifest("me/hello", "1").unwrap();
    let mut other = manifest.clone();
    other["annotations"]["x"] = "y".into();
    let bytes = other.to_string();
    fake.put_manifest("me/hello", "2", MANIFEST, bytes.as_bytes());
    fake.put_manifest("me/hello", &Sha256::of(bytes.as_bytes()).to_string(), MANIFEST, bytes.as_bytes());
    let second = reference.replace(":1", ":2");
    ok(&place, &["sign", &second, "--key", "acme"]);
    let verified = ok(&place, &["verify", &second]).stdout();
    assert!(!verified.contains("built from"), "{verified}");
    let error = run(&place, &["verify", &second, "--rebuild", "--yes"]).error(2, &place);
    assert!(error.contains("error[WF0950]") && error.contains("has no provenance"), "{error}");
}
