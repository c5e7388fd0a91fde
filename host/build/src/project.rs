//! Which workflows a directory has: what `cargo metadata` says about it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use wfhost_core::{Description, Wants};
use wfhost_registry::metadata;

use super::BuildError;
use super::described::{self, About};

/// A cargo project, as far as it matters here.
#[derive(Deserialize, Debug)]
pub(super) struct Project {
    packages: Vec<Package>,
    /// Where cargo puts what it builds.
    pub target_directory: PathBuf,
    pub workspace_root: PathBuf,
}

#[derive(Deserialize, Debug)]
pub(super) struct Package {
    pub name: String,
    pub manifest_path: PathBuf,
    targets: Vec<CrateTarget>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    authors: Vec<String>,
    #[serde(default)]
    license: Option<String>,
    #[serde(default)]
    repository: Option<String>,
    #[serde(default)]
    homepage: Option<String>,
}

/// `[package.metadata]`, of which other tools have other parts.
#[derive(Deserialize, Debug)]
struct Metadata {
    wfhost: Option<OfPackage>,
}

#[derive(Deserialize, Debug)]
struct OfPackage {
    plugin: Option<serde_json::Value>,
}

/// What a package builds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Workflow,
    Plugin,
}

#[derive(Deserialize, Debug)]
struct CrateTarget {
    crate_types: Vec<String>,
}

impl Package {
    fn is_workflow(&self) -> bool {
        self.targets.iter().flat_map(|target| &target.crate_types).any(|kind| kind == "cdylib")
    }

    /// What a plugin asks for: `[package.metadata.wfhost.plugin]`.
    fn wants(&self) -> Result<Wants, BuildError> {
        let own = self.metadata.as_ref().and_then(|metadata| metadata.wfhost.as_ref());
        let Some(declared) = own.and_then(|own| own.plugin.clone()) else { return Ok(Wants::default()) };
        serde_json::from_value(declared).map_err(|error| BuildError::Wants {
            manifest: self.manifest_path.clone(),
            reason: error.to_string(),
        })
    }

    /// What it says of itself, also what it has of its workspace.
    pub fn about(&self, derived: Option<Description>) -> Result<About, BuildError> {
        let dir = self.manifest_path.parent().unwrap_or(&self.manifest_path);
        let authors = self.authors.join(", ");
        let facts = [
            ("version", self.version.as_deref()),
            ("description", self.description.as_deref()),
            ("authors", Some(authors.as_str())),
            ("licenses", self.license.as_deref()),
            ("source", self.repository.as_deref()),
            ("url", self.homepage.as_deref()),
        ];
        let metadata = metadata::of_facts(facts, dir);
        Ok(About { metadata, description: described::declared(dir, derived)?, wants: self.wants()? })
    }

    /// One with `[package.metadata.wfhost.plugin]` builds a plugin.
    pub fn kind(&self) -> Kind {
        let own = self.metadata.as_ref().and_then(|metadata| metadata.wfhost.as_ref());
        if own.is_some_and(|own| own.plugin.is_some()) { Kind::Plugin } else { Kind::Workflow }
    }
}

impl Project {
    /// Asks cargo, which says itself what is wrong with a manifest.
    pub fn read(dir: &Path, cargo: &mut Command) -> Result<Self, BuildError> {
        cargo.current_dir(dir).args(["metadata", "--no-deps", "--format-version", "1"]);
        let output = cargo
            .stderr(Stdio::inherit())
            .output()
            .map_err(|source| BuildError::NoTool { command: "cargo metadata".to_owned(), source })?;
        if !output.status.success() {
            return Err(BuildError::Cargo(dir.to_owned()));
        }
        serde_json::from_slice(&output.stdout).map_err(|_| BuildError::Cargo(dir.to_owned()))
    }

    /// The workflows that are meant by a directory: the named one, else the
    /// crate's own, else all of the workspace whose root it is.
    pub fn workflows(&self, dir: &Path, package: Option<&str>) -> Result<Vec<&Package>, BuildError> {
        let all: Vec<_> = self.packages.iter().filter(|package| package.is_workflow()).collect();
        if let Some(name) = package {
            if let Some(package) = all.iter().find(|package| package.name == name) {
                return Ok(vec![package]);
            }
            if self.packages.iter().any(|package| package.name == name) {
                return Err(BuildError::NoWorkflow(dir.join(name)));
            }
            let known = all.iter().map(|package| package.name.clone()).collect();
            return Err(BuildError::NoPackage { dir: dir.to_owned(), package: name.to_owned(), known });
        }
        let here = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let own = all.iter().find(|package| package.manifest_path.parent() == Some(&here));
        match own {
            Some(package) => Ok(vec![package]),
            None if here == self.workspace_root && !all.is_empty() => Ok(all),
            None => Err(BuildError::NoWorkflow(dir.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn project() -> Project {
        let package = |name: &str, dir: &str, kind: &str| {
            json!({
                "name": name, "manifest_path": format!("{dir}/Cargo.toml"), "version": "0.1.0",
                "targets": [{ "name": name, "crate_types": [kind] }, { "name": "t", "crate_types": ["bin"] }],
            })
        };
        serde_json::from_value(json!({
            "packages": [
                package("one", "/w/one", "cdylib"),
                package("two", "/w/two", "cdylib"),
                package("library", "/w/library", "lib"),
            ],
            "target_directory": "/w/target", "workspace_root": "/w", "version": 1,
        }))
        .unwrap()
    }

    fn names(dir: &str, package: Option<&str>) -> Result<Vec<String>, &'static str> {
        let project = project();
        let found = project.workflows(Path::new(dir), package).map_err(|error| error.code())?;
        Ok(found.into_iter().map(|package| package.name.clone()).collect())
    }

    #[test]
    fn the_root_means_all_workflows_and_a_member_means_itself() {
        assert_eq!(names("/w", None), Ok(vec!["one".to_owned(), "two".to_owned()]));
        assert_eq!(names("/w/two", None), Ok(vec!["two".to_owned()]));
        assert_eq!(names("/w/library", None), Err("WF0604"));
    }

    #[test]
    fn a_named_package_is_found_from_anywhere_in_the_workspace() {
        assert_eq!(names("/w/one", Some("two")), Ok(vec!["two".to_owned()]));
        assert_eq!(names("/w", Some("library")), Err("WF0604"));
        assert_eq!(names("/w", Some("three")), Err("WF0611"));
    }
}
