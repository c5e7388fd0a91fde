//! What a module says of itself when it is pushed: annotations of its manifest, from sections of the
//! component (as `wasm-metadata` and `wkg` have them) and from the project that it was built of.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use wasmparser::{Parser, Payload};

/// What annotations of OCI are called.
const PREFIX: &str = "org.opencontainers.image.";
/// Sections of components, and annotations, of these names.
const NAMES: [&str; 7] = ["version", "description", "authors", "licenses", "source", "url", "revision"];
/// Bytes of one.
const VALUE_BYTES: usize = 4 << 10;

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
    if let Some(revision) = git(dir, &["rev-parse", "HEAD"]) {
        // What was not committed has no revision.
        let clean =
            git(dir, &["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| text.is_empty());
        let dirty = if clean { "" } else { "-dirty" };
        add(&mut metadata, "revision", Some(&format!("{revision}{dirty}")));
        let origin = git(dir, &["config", "--get", "remote.origin.url"]);
        add(&mut metadata, "source", origin.as_deref().and_then(without_login));
    }
    metadata
}

/// An address without who one is there; none if there is no telling.
fn without_login(url: &str) -> Option<&str> {
    let login = url
        .split_once("://")
        .is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|at| at.contains('@')));
    (!login && !url.starts_with(['/', '.'])).then_some(url)
}

/// What git says, if it is there and there is a repository.
fn git(dir: &Path, args: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // Nothing that the repository configures is run.
    command.args([
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.hooksPath=/dev/null",
        "--no-optional-locks",
        "-C",
    ]);
    let said = command.arg(dir).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
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
        for (name, text) in
            [("Cargo.toml", "[package]\nversion.workspace = true"), ("package.json", "{"), ("other", "")]
        {
            assert_eq!(project(name, text), Metadata::new());
        }
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
