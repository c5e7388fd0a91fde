//! What a module says that it was built from, and whether that is so.

use std::path::{Path, PathBuf};
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

/// A workflow in Rust that is built in seconds: with a part of its own, a crate of a registry, places of panics and lines
/// of the source.
fn rust_project(place: &Place) -> PathBuf {
    let flow = place.path("repository/flows/tiny");
    std::fs::create_dir_all(flow.join("src")).unwrap();
    std::fs::create_dir_all(flow.join("part/src")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(flow.join(name), text).unwrap();
    write(".gitignore", "/target\n");
    write(
        "Cargo.toml",
        "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n\
         [dependencies]\nmemchr = \"2\"\npart = { path = \"part\" }\n[workspace]\nexclude = [\"part\"]\n\
         [profile.release]\npanic = \"abort\"\ndebug = \"line-tables-only\"\n",
    );
    write("part/Cargo.toml", "[package]\nname = \"part\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    write(
        "part/src/lib.rs",
        "#[inline(never)]\npub fn digit(text: &[u8], at: usize) -> u8 {\n    text[at]\n}\n",
    );
    write(
        "src/lib.rs",
        r#"
use std::alloc::{Layout, alloc};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cabi_realloc(_: *mut u8, _: usize, align: usize, size: usize) -> *mut u8 {
    unsafe { alloc(Layout::from_size_align(size, align).expect("the host asks for what there is")) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn run(at: *const u8, length: usize) -> *const u32 {
    let input = unsafe { std::slice::from_raw_parts(at, length) };
    let place = memchr::memchr(b'x', input).expect("an x");
    let output = vec![part::digit(input, place + 1)].leak();
    Box::leak(Box::new([0, output.as_ptr() as u32, 1, 0, 0, 0, 0, 0])).as_ptr()
}
"#,
    );
    flow
}

#[test]
fn a_workflow_in_rust_is_the_same_wherever_it_is_built() {
    let (fake, place) = (Fake::new(), Place::new());
    let reference = format!("{}/me/tiny:1", fake.host);
    configure(&place, &format!("[signatures.keys]\n{}", key(&place, "acme")));
    let flow = rust_project(&place);
    let path = flow.display().to_string();
    // Before there is a commit, which is a part of what is built.
    let built = ok(&place, &["build", &path]).stdout().trim().to_owned();
    assert_eq!(ok(&place, &["run", &built, "-i", "\"ax7\""]).stdout().trim(), "7");
    let repository = place.path("repository");
    git(&repository, &["init", "-q"]);
    git(&repository, &["remote", "add", "origin", "https://localhost:1/tiny.git"]);
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "-q", "-m", "first"]);
    ok(&place, &["push", &reference, &path, "--sign", "acme", "--provenance"]);
    let repository = repository.display().to_string();
    let same = ok(&place, &["verify", &reference, "--rebuild", "--yes", "--source", &repository]);
    assert!(same.stderr().contains("the rebuilt module is identical: sha256:"), "{}", same.stderr());
    // No directory of this machine is in it.
    let text = String::from_utf8_lossy(&std::fs::read(&built).unwrap()).into_owned();
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME")).unwrap();
    for dir in [place.path("").display().to_string(), format!("{home}/")] {
        assert!(!text.contains(&dir), "{dir} is in it");
    }
    assert!(
        text.contains("part/src/lib.rs") && text.contains("registry/memchr-"),
        "what names the lines is there"
    );
}
