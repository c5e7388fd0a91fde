//! Where a module says that it was built from: SLSA's provenance 1 (<https://slsa.dev/spec/v1.0/provenance>), signed
//! and attached like a signature.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde_json::{Value, json};
use wasmparser::{KnownCustom, Parser, Payload};

use crate::manifest::Descriptor;
use crate::policy::Signer;
use crate::signature::{self, PROVENANCE};
use crate::{Client, PrivateKey, Pull, RegistryError, Resolved, Sha256, Store, metadata};

/// What kind of build it is.
const BUILD: &str = "https://wfhost.dev/build/v1";
/// Who builds.
const BUILDER: &str = "https://wfhost.dev/cli";
/// Files that say which dependencies there are.
const LOCKS: [&str; 6] =
    ["Cargo.lock", "package-lock.json", "pnpm-lock.yaml", "go.sum", "uv.lock", "requirements.txt"];
/// Bytes of a name, an address, a version.
const TEXT_BYTES: usize = 2 << 10;

/// What a module was built from, and with what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Provenance {
    /// Of the repository.
    pub source: String,
    /// The commit, in hexadecimal digits.
    pub revision: String,
    /// Of the project within the repository; empty for its root.
    pub path: String,
    /// The component.
    pub layer: Sha256,
    pub wfhost: String,
    /// What the component says that it was made with, with versions.
    pub tools: BTreeMap<String, String>,
    /// Lock files, by their names.
    pub locks: BTreeMap<String, Sha256>,
}

impl Provenance {
    /// That of a component that was built just now of the project in a directory. Why there is none, if there is
    /// none.
    pub fn of_project(dir: &Path, component: &[u8], wfhost: &str) -> Result<Self, String> {
        let git = |args: &[&str]| metadata::git(dir, &[], args);
        let revision = git(&["rev-parse", "--verify", "HEAD"]).filter(|revision| is_revision(revision));
        let revision = revision.ok_or("it is not in a git repository with a commit")?;
        if !metadata::is_clean(dir) {
            return Err("it has uncommitted changes".to_owned());
        }
        match git(&["ls-files", "--others", "--exclude-standard", "--", "."]) {
            Some(others) if others.is_empty() => {}
            Some(others) => {
                let first = others.lines().next().unwrap_or_default();
                return Err(format!("it has uncommitted files, for example {first}"));
            }
            None => return Err("git does not list its files".to_owned()),
        }
        let source = metadata::of_project(dir).remove("source").filter(|source| source.len() <= TEXT_BYTES);
        let source =
            source.ok_or("neither `repository` in its manifest nor the remote `origin` names its source")?;
        let path = git(&["rev-parse", "--show-prefix"]).unwrap_or_default();
        let path = path.trim_end_matches('/').to_owned();
        // A lock file is that of the project or of the repository around it.
        let root = git(&["rev-parse", "--show-toplevel"]);
        let dirs = [Some(dir), root.as_deref().map(Path::new)];
        let locks = LOCKS.iter().filter_map(|name| {
            let bytes = dirs.into_iter().flatten().find_map(|dir| std::fs::read(dir.join(name)).ok())?;
            Some(((*name).to_owned(), Sha256::of(&bytes)))
        });
        Ok(Self {
            source,
            revision,
            path,
            layer: Sha256::of(component),
            wfhost: wfhost.to_owned(),
            tools: tools(component),
            locks: locks.collect(),
        })
    }

    /// The address as SLSA has it.
    fn uri(&self) -> String {
        if self.source.starts_with("git+") { self.source.clone() } else { format!("git+{}", self.source) }
    }

    /// What is signed. `built`: RFC 3339.
    fn predicate(&self, built: &str) -> Value {
        let source = json!({ "uri": self.uri(), "digest": { "gitCommit": self.revision } });
        let locks = self
            .locks
            .iter()
            .map(|(name, digest)| json!({ "name": name, "digest": { "sha256": digest.hex() } }));
        let dependencies: Vec<_> = [source.clone()].into_iter().chain(locks).collect();
        let mut versions = self.tools.clone();
        versions.insert("wfhost".to_owned(), self.wfhost.clone());
        json!({
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": { "source": source, "path": self.path },
                "internalParameters": {},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": { "id": BUILDER, "version": versions },
                "metadata": { "finishedOn": built },
                "byproducts": [{ "name": "component", "digest": { "sha256": self.layer.hex() } }],
            },
        })
    }

    /// Reads what was signed. None if it is of another kind of build.
    fn of_predicate(predicate: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().filter(|text| text.len() <= TEXT_BYTES).map(str::to_owned);
        let build = &predicate["buildDefinition"];
        if build["buildType"] != BUILD {
            return None;
        }
        let external = &build["externalParameters"];
        let source = text(&external["source"]["uri"])?;
        let revision = text(&external["source"]["digest"]["gitCommit"]).filter(|text| is_revision(text))?;
        let path = text(&external["path"]).unwrap_or_default();
        // It is joined with a directory.
        if !Path::new(&path).components().all(|part| matches!(part, Component::Normal(_))) {
            return None;
        }
        let digest =
            |value: &Value| format!("sha256:{}", value["digest"]["sha256"].as_str()?).parse::<Sha256>().ok();
        let run = &predicate["runDetails"];
        let layer =
            run["byproducts"].as_array()?.iter().find(|one| one["name"] == "component").and_then(digest)?;
        let mut tools: BTreeMap<String, String> = (run["builder"]["version"].as_object()?.iter())
            .filter_map(|(name, version)| Some((name.clone(), text(version)?)))
            .collect();
        let locks = build["resolvedDependencies"].as_array().into_iter().flatten();
        let locks = locks.filter_map(|one| Some((text(&one["name"])?, digest(one)?)));
        Some(Self {
            source: source.strip_prefix("git+").unwrap_or(&source).to_owned(),
            revision,
            path,
            layer,
            wfhost: tools.remove("wfhost").unwrap_or_default(),
            tools,
            locks: locks.collect(),
        })
    }
}

/// A commit's name, which is no option and no name of a branch.
fn is_revision(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a component says that it was made with: the sections `producers` of its modules.
fn tools(component: &[u8]) -> BTreeMap<String, String> {
    let mut tools = BTreeMap::new();
    for payload in Parser::new(0).parse_all(component) {
        let Ok(Payload::CustomSection(section)) = payload else { continue };
        let KnownCustom::Producers(fields) = section.as_known() else { continue };
        for value in fields.into_iter().flatten().flat_map(|field| field.values.into_iter().flatten()) {
            if !value.version.is_empty() && value.name.len() + value.version.len() <= TEXT_BYTES {
                tools.insert(value.name.to_owned(), value.version.to_owned());
            }
        }
    }
    tools
}

/// Signs and attaches where a module comes from. `built`: RFC 3339. False if the key has said the same before.
pub async fn attach(
    client: &Client,
    store: &Store,
    subject: &Resolved,
    provenance: &Provenance,
    key: &PrivateKey,
    built: String,
) -> Result<bool, RegistryError> {
    let there = signature::at_registry(client, subject).await?;
    let same = |bundle: &[u8]| {
        let said = signature::predicate(bundle, key.public(), subject.digest, PROVENANCE).ok();
        said.as_ref().and_then(Provenance::of_predicate).as_ref() == Some(provenance)
    };
    if there.iter().any(|found| same(&found.bundle)) {
        return Ok(false);
    }
    let bundle = signature::sign(key, subject.digest, PROVENANCE, provenance.predicate(&built))?;
    signature::attach_bundle(client, store, subject, &bundle, PROVENANCE, built).await?;
    Ok(true)
}

/// What is said of where a module comes from, by signers who are believed.
pub async fn find(
    client: &Client,
    store: &Store,
    subject: &Resolved,
    signers: &[Signer],
    pull: Pull,
) -> Result<Vec<(String, Provenance)>, RegistryError> {
    let mut said = Vec::new();
    if signers.is_empty() {
        return Ok(said);
    }
    for found in signature::signatures(client, store, subject, pull).await? {
        for signer in signers {
            let predicate = signature::predicate(&found.bundle, &signer.key, subject.digest, PROVENANCE);
            let provenance = predicate.ok().as_ref().and_then(Provenance::of_predicate);
            // What is about other bytes is about something else.
            let Some(provenance) = provenance.filter(|said| said.layer == subject.layer.digest) else {
                continue;
            };
            found.keep(store)?;
            said.push((signer.name.clone(), provenance));
        }
    }
    Ok(said)
}

/// What differs between a component and another one, part by part. Nothing if their bytes are the same.
pub fn differences(before: &[u8], after: &[u8]) -> Vec<String> {
    if before == after {
        return Vec::new();
    }
    let (was, is) = (parts(before), parts(after));
    let names: std::collections::BTreeSet<_> = was.keys().chain(is.keys()).collect();
    let mut told = Vec::new();
    for name in names {
        match (was.get(name), is.get(name)) {
            (Some(before), Some(after)) if before.digest == after.digest && before.size == after.size => {}
            (Some(before), Some(after)) => {
                told.push(format!("{name}: {} bytes, and {} now", before.size, after.size));
            }
            (Some(before), None) => told.push(format!("{name}: {} bytes, and none now", before.size)),
            (None, Some(after)) => told.push(format!("{name}: none, and {} bytes now", after.size)),
            (None, None) => {}
        }
    }
    if told.is_empty() {
        told.push("the order of the parts".to_owned());
    }
    told
}

/// The sections of a component and of the modules in it, by name.
fn parts(bytes: &[u8]) -> BTreeMap<String, Descriptor> {
    let (mut parts, mut path, mut modules) = (BTreeMap::new(), Vec::<String>::new(), 0usize);
    for payload in Parser::new(0).parse_all(bytes) {
        let Ok(payload) = payload else { break };
        match &payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                modules += 1;
                path.push(format!("part {modules}"));
            }
            Payload::End(_) => drop(path.pop()),
            _ => {}
        }
        let name = match &payload {
            Payload::CustomSection(section) => format!("custom section `{}`", section.name()),
            Payload::CodeSectionStart { .. } => "code".to_owned(),
            Payload::DataSection(_) => "data".to_owned(),
            payload => match payload.as_section() {
                Some((id, _)) => format!("section {id}"),
                None => continue,
            },
        };
        // The range of a nested module is that of its own sections.
        if matches!(payload, Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) {
            continue;
        }
        let range = payload.as_section().map(|(_, range)| range);
        let content = range.and_then(|range| bytes.get(range)).unwrap_or_default();
        let mut key = [path.join(", "), name]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join(", ");
        while parts.contains_key(&key) {
            key.push('\'');
        }
        parts.insert(key, Descriptor::of("", content));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provenance() -> Provenance {
        Provenance {
            source: "https://a.org/a.git".into(),
            revision: "0123456789abcdef0123456789abcdef01234567".into(),
            path: "flows/hello".into(),
            layer: Sha256::of(b"component"),
            wfhost: "0.1.0".into(),
            tools: [("rustc".to_owned(), "1.96.0".to_owned())].into(),
            locks: [("Cargo.lock".to_owned(), Sha256::of(b"lock"))].into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let said = provenance();
        let predicate = said.predicate("2026-01-01T00:00:00Z");
        assert_eq!(predicate["buildDefinition"]["resolvedDependencies"][0]["uri"], "git+https://a.org/a.git");
        assert_eq!(Provenance::of_predicate(&predicate), Some(said));
    }

    #[test]
    fn what_could_lead_elsewhere_is_not_read() {
        let good = provenance().predicate("");
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut predicate = good.clone();
            change(&mut predicate);
            Provenance::of_predicate(&predicate)
        };
        type Change<'a> = &'a dyn Fn(&mut Value);
        let external = |p: &mut Value, name: &str, value: Value| {
            p["buildDefinition"]["externalParameters"][name] = value;
        };
        let cases: &[Change<'_>] = &[
            &|p| external(p, "path", "../../etc".into()),
            &|p| external(p, "path", "/etc".into()),
            &|p| {
                p["buildDefinition"]["externalParameters"]["source"]["digest"]["gitCommit"] =
                    "--upload-pack=x".into()
            },
            &|p| p["buildDefinition"]["externalParameters"]["source"]["digest"]["gitCommit"] = "main".into(),
            &|p| p["buildDefinition"]["buildType"] = "https://other".into(),
            &|p| p["runDetails"]["byproducts"] = json!([]),
            &|p| *p = json!({}),
            &|p| *p = Value::Null,
        ];
        for (at, change) in cases.iter().enumerate() {
            assert_eq!(changed(change), None, "{at}");
        }
    }

    #[test]
    fn it_is_told_which_part_differs() {
        let section = |name: &str, data: &str| {
            let body = [&[name.len() as u8], name.as_bytes(), data.as_bytes()].concat();
            [&[0, body.len() as u8][..], &body].concat()
        };
        let component = |parts: &[(&str, &str)]| {
            let sections = parts.iter().flat_map(|(name, data)| section(name, data));
            [b"\0asm\x0d\0\x01\0".to_vec(), sections.collect()].concat()
        };
        let (a, b) = (component(&[("x", "1"), ("y", "2")]), component(&[("x", "1"), ("y", "22"), ("z", "")]));
        assert_eq!(differences(&a, &a), Vec::<String>::new());
        let told = differences(&a, &b);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("custom section `y`: ") && told[1].starts_with("custom section `z`: none")
        );
        assert_eq!(differences(&a, &component(&[("y", "2"), ("x", "1")])), ["the order of the parts"]);
    }
}
