//! What a module says of itself when it is pushed: annotations of its manifest, from sections of the
//! component (as `wasm-metadata` and `wkg` have them) and from the project that it was built of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use wasmparser::{Parser, Payload};

/// What annotations of OCI are called.
const PREFIX: &str = "org.opencontainers.image.";
/// Sections of components, and annotations, of these names.
const NAMES: [&str; 7] = ["version", "description", "authors", "licenses", "source", "url", "revision"];
/// The annotation that says what a module is: `workflow` or `plugin`.
pub const KIND: &str = "dev.wfhost.kind";
/// The annotation that says what a plugin asks for, in JSON. What counts is the section of the component.
pub const WANTS: &str = "dev.wfhost.wants";
/// Bytes of that.
pub const WANTS_BYTES: usize = 32 << 10;
/// Bytes of one.
const VALUE_BYTES: usize = 4 << 10;
/// Repositories that are looked at for changes: that of a project, and its submodules.
const REPOSITORIES: usize = 100;

/// Annotations by their short names.
pub type Metadata = BTreeMap<&'static str, String>;

/// The annotations under their whole names.
pub fn annotations(metadata: Metadata) -> BTreeMap<String, String> {
    metadata.into_iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)).collect()
}

/// What the annotations of a manifest say, by the short names.
pub fn of_annotations(annotations: &BTreeMap<String, String>) -> Metadata {
    let names = NAMES.iter().chain(&["title", "created"]);
    names.filter_map(|name| Some((*name, annotations.get(&format!("{PREFIX}{name}"))?.clone()))).collect()
}

fn add(metadata: &mut Metadata, name: &'static str, value: Option<&str>) {
    let value = value.map(str::trim).filter(|value| !value.is_empty() && value.len() <= VALUE_BYTES);
    if let Some(value) = value {
        metadata.entry(name).or_insert_with(|| value.to_owned());
    }
}

/// What sections of a component say.
pub fn of_component(bytes: &[u8]) -> Metadata {
    let (mut metadata, mut depth) = (Metadata::new(), 0usize);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload {
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::CustomSection(section)) if depth == 0 => {
                let name = if section.name() == "homepage" { "url" } else { section.name() };
                if let Some(name) = NAMES.iter().find(|known| **known == name) {
                    add(&mut metadata, name, std::str::from_utf8(section.data()).ok());
                }
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    metadata
}

/// What is known of a project, by the short names, and what its repository says.
pub fn of_facts<'a>(
    facts: impl IntoIterator<Item = (&'static str, Option<&'a str>)>,
    dir: &Path,
) -> Metadata {
    let mut metadata = Metadata::new();
    for (name, value) in facts {
        add(&mut metadata, name, value);
    }
    of_repository(&mut metadata, dir);
    metadata
}

/// What the files of a project and its repository say.
pub fn of_project(dir: &Path) -> Metadata {
    let mut metadata = Metadata::new();
    let read = |name: &str| wfhost_world::private::read_any(&dir.join(name)).ok();
    let table =
        |text: String| text.parse::<toml::Table>().ok().and_then(|table| serde_json::to_value(table).ok());
    let package = (read("Cargo.toml").and_then(table).map(|file| file["package"].clone()))
        .or_else(|| read("package.json").and_then(|text| serde_json::from_str(&text).ok()))
        .or_else(|| read("pyproject.toml").and_then(table).map(|file| file["project"].clone()))
        .unwrap_or_default();
    let text = |name: &str| package[name].as_str();
    add(&mut metadata, "version", text("version"));
    add(&mut metadata, "description", text("description"));
    add(&mut metadata, "licenses", text("license").or(package["license"]["text"].as_str()));
    add(&mut metadata, "url", text("homepage").or(package["urls"]["homepage"].as_str()));
    let source = text("repository")
        .or(package["repository"]["url"].as_str())
        .or(package["urls"]["repository"].as_str());
    add(&mut metadata, "source", source.map(|url| url.trim_start_matches("git+")));
    let person = |person: &Value| match person {
        Value::String(person) => Some(person.clone()),
        person => {
            let (name, email) = (person["name"].as_str(), person["email"].as_str());
            match (name, email) {
                (Some(name), Some(email)) => Some(format!("{name} <{email}>")),
                (one, other) => one.or(other).map(str::to_owned),
            }
        }
    };
    let authors = package["authors"].as_array().into_iter().flatten().filter_map(person);
    let authors: Vec<_> = authors.chain(person(&package["author"])).collect();
    add(&mut metadata, "authors", Some(&authors.join(", ")));
    if let Some(module) = read("go.mod") {
        // The path of a module in Go is where its source is, if it begins with the name of a host.
        let path = module.lines().find_map(|line| line.trim().strip_prefix("module "));
        let path = path.map(|path| path.split("//").next().unwrap_or(path).trim().trim_matches('"'));
        let path = path.filter(|path| path.split_once('/').is_some_and(|(host, _)| host.contains('.')));
        add(&mut metadata, "source", path.map(|path| format!("https://{path}")).as_deref());
    }
    of_repository(&mut metadata, dir);
    metadata
}

/// Adds what git knows.
fn of_repository(metadata: &mut Metadata, dir: &Path) {
    if let Some(revision) = git(dir, &[], &["rev-parse", "HEAD"]) {
        // What was not committed has no revision.
        let dirty = if is_clean(dir) { "" } else { "-dirty" };
        add(metadata, "revision", Some(&format!("{revision}{dirty}")));
        let origin = git(dir, &[], &["config", "--get", "remote.origin.url"]);
        add(metadata, "source", origin.as_deref().and_then(without_login));
    }
}

/// Whether all files of a repository that are committed are as they were committed, also those of its submodules.
pub(crate) fn is_clean(dir: &Path) -> bool {
    is_clean_with(dir, &mut { REPOSITORIES })
}

/// `left`: repositories that may still be looked at. What is not looked at may be anything.
fn is_clean_with(dir: &Path, left: &mut usize) -> bool {
    let Some(others) = left.checked_sub(1) else { return false };
    *left = others;
    let off = without_filters(dir);
    // By itself git looks into submodules, and runs the programs that those name for the content of files.
    let changed = git(dir, &off, &["diff-index", "--name-only", "--ignore-submodules=dirty", "HEAD"]);
    let root = git(dir, &[], &["rev-parse", "--show-toplevel"]);
    let (Some(""), Some(root)) = (changed.as_deref(), root) else { return false };
    let Some(listed) = git(Path::new(&root), &[], &["ls-files", "--stage", "-z"]) else { return false };
    let submodules = listed.split('\0').filter_map(|entry| entry.strip_prefix("160000 ")?.split_once('\t'));
    let mut there = submodules
        .map(|(_, path)| Path::new(&root).join(path))
        .filter(|path| path.join(".git").symlink_metadata().is_ok());
    there.all(|submodule| {
        let new = git(&submodule, &[], &["ls-files", "--others", "--exclude-standard"]);
        new.is_some_and(|new| new.is_empty()) && is_clean_with(&submodule, left)
    })
}

/// An address without who one is there; none if there is no telling.
fn without_login(url: &str) -> Option<&str> {
    let login = url
        .split_once("://")
        .is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|at| at.contains('@')));
    (!login && !url.starts_with(['/', '.'])).then_some(url)
}

/// Settings that switch off the programs that a repository names for the content of its files.
fn without_filters(dir: &Path) -> Vec<(String, &'static str)> {
    let listed = git(dir, &[], &["config", "--null", "--name-only", "--list"]).unwrap_or_default();
    let keys = listed.split('\0').filter(|key| key.starts_with("filter."));
    let names: BTreeSet<&str> = keys.filter_map(|key| Some(key.rsplit_once('.')?.0)).collect();
    let off = [("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")];
    names.iter().flat_map(|name| off.map(|(variable, value)| (format!("{name}.{variable}"), value))).collect()
}

/// What git says, if it is there and there is a repository, whose hooks and monitors are not run.
pub(crate) fn git(dir: &Path, settings: &[(String, &str)], args: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C"]).arg(dir).args(args);
    // Settings of a repository around this process mean another one.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GIT_")) {
        command.env_remove(name);
    }
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_OPTIONAL_LOCKS", "0");
    // Nothing is fetched: a remote can name a program.
    command.env("GIT_ALLOW_PROTOCOL", "").env("GIT_NO_LAZY_FETCH", "1");
    // As variables: `-c` ends the name of a setting at the first `=`.
    command.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (number, (key, value)) in settings.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{number}"), key).env(format!("GIT_CONFIG_VALUE_{number}"), value);
    }
    let said = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(name: &str, text: &str) -> Metadata {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
        of_project(dir.path())
    }

    #[test]
    fn projects_of_three_languages_say_the_same() {
        let cargo = "[package]\nname = \"a\"\nversion = \"1.2.3\"\ndescription = \"Reviews\"\nlicense = \"MIT\"\nauthors = [\"Ada <ada@a.org>\"]\nrepository = \"https://a.org/a\"\n";
        let npm = r#"{"name":"a","version":"1.2.3","description":"Reviews","license":"MIT","author":{"name":"Ada","email":"ada@a.org"},"repository":{"url":"git+https://a.org/a"}}"#;
        let python = "[project]\nname = \"a\"\nversion = \"1.2.3\"\ndescription = \"Reviews\"\nlicense = {text = \"MIT\"}\nauthors = [{name = \"Ada\", email = \"ada@a.org\"}]\n[project.urls]\nrepository = \"https://a.org/a\"\n";
        let expected = project("Cargo.toml", cargo);
        assert_eq!(expected["version"], "1.2.3");
        assert_eq!(expected["authors"], "Ada <ada@a.org>");
        assert_eq!(expected.len(), 5);
        assert_eq!(project("package.json", npm), expected);
        assert_eq!(project("pyproject.toml", python), expected);
        assert_eq!(project("go.mod", "module a.org/a // here\n\ngo 1.25\n")["source"], "https://a.org/a");
        assert_eq!(project("go.mod", "module hello\n"), Metadata::new());
        for (name, text) in
            [("Cargo.toml", "[package]\nversion.workspace = true"), ("package.json", "{"), ("other", "")]
        {
            assert_eq!(project(name, text), Metadata::new());
        }
    }

    #[test]
    fn a_repository_says_its_revision_and_has_nothing_run() {
        let dir = tempfile::tempdir().unwrap();
        let run = |args: &[&str]| {
            let config = ["-c", "user.name=a", "-c", "user.email=a@a.org"];
            let said =
                Command::new("git").arg("-C").arg(dir.path()).args(config).args(args).output().unwrap();
            assert!(said.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said.stderr));
            String::from_utf8_lossy(&said.stdout).trim().to_owned()
        };
        assert_eq!(of_project(dir.path()), Metadata::new());
        run(&["init", "-q"]);
        std::fs::write(dir.path().join("file"), "text").unwrap();
        std::fs::write(dir.path().join(".gitattributes"), "* filter=f\n").unwrap();
        run(&["add", "."]);
        run(&["commit", "-q", "-m", "first"]);
        run(&["remote", "add", "origin", "https://a.org/a.git"]);
        let pwned = dir.path().join("pwned");
        for key in ["filter.f.clean", "core.fsmonitor"] {
            run(&["config", key, &format!("touch {}; cat", pwned.display())]);
        }
        let revision = run(&["rev-parse", "HEAD"]);
        let metadata = of_project(dir.path());
        assert_eq!(
            (metadata["revision"].as_str(), metadata["source"].as_str()),
            (&*revision, "https://a.org/a.git")
        );
        std::fs::write(dir.path().join("file"), "other text").unwrap();
        let _ = std::fs::remove_file(&pwned);
        assert_eq!(of_project(dir.path())["revision"], format!("{revision}-dirty"));
        assert!(!pwned.exists(), "the repository had something run");
    }

    #[test]
    fn a_submodule_has_nothing_run_either() {
        let dir = tempfile::tempdir().unwrap();
        let (outer, inner) = (dir.path().to_owned(), dir.path().join("inner"));
        let run = |dir: &Path, args: &[&str]| {
            let config = ["-c", "user.name=a", "-c", "user.email=a@a.org"];
            let said = Command::new("git").arg("-C").arg(dir).args(config).args(args).output().unwrap();
            assert!(said.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said.stderr));
        };
        std::fs::create_dir(&inner).unwrap();
        for dir in [&outer, &inner] {
            run(dir, &["init", "-q"]);
        }
        std::fs::write(inner.join("file"), "text").unwrap();
        std::fs::write(inner.join(".gitattributes"), "* filter=f\n").unwrap();
        for dir in [&inner, &outer] {
            run(dir, &["add", "."]);
            run(dir, &["commit", "-q", "-m", "first"]);
        }
        assert!(is_clean(&outer));
        std::fs::write(inner.join("new"), "text").unwrap();
        assert!(!is_clean(&outer));
        std::fs::remove_file(inner.join("new")).unwrap();
        assert!(is_clean(&outer));
        let pwned = outer.join(".git/pwned");
        run(&inner, &["config", "filter.f.clean", &format!("touch {}; cat", pwned.display())]);
        // To know whether it is another one it has to be read.
        let file = std::fs::File::options().write(true).open(inner.join("file")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        is_clean(&outer);
        assert!(!pwned.exists(), "the repository had something run");
        std::fs::write(inner.join("file"), "other text").unwrap();
        assert!(!is_clean(&outer) && !pwned.exists());
        // One that is not checked out is as it was committed.
        std::fs::remove_dir_all(&inner).unwrap();
        std::fs::create_dir(&inner).unwrap();
        assert!(is_clean(&outer));
    }

    #[test]
    fn logins_in_addresses_are_not_published() {
        assert_eq!(without_login("https://ada:secret@a.org/a"), None);
        assert_eq!(without_login("https://a.org/a"), Some("https://a.org/a"));
        assert_eq!(without_login("git@a.org:a/b.git"), Some("git@a.org:a/b.git"));
        assert_eq!(without_login("/home/ada/a"), None);
    }

    #[test]
    fn sections_of_components_are_read_and_annotations_read_back() {
        let section = |name: &str, data: &str| {
            let body = [&[name.len() as u8], name.as_bytes(), data.as_bytes()].concat();
            [&[0, body.len() as u8][..], &body].concat()
        };
        let component = [
            b"\0asm\x0d\0\x01\0".to_vec(),
            section("version", "1.0.0"),
            section("homepage", "https://a.org"),
            section("x", "y"),
        ]
        .concat();
        let metadata = of_component(&component);
        assert_eq!(
            (metadata["version"].as_str(), metadata["url"].as_str(), metadata.len()),
            ("1.0.0", "https://a.org", 2)
        );
        assert_eq!(of_annotations(&annotations(metadata.clone())), metadata);
    }
}
