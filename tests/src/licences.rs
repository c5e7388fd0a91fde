//! What is built into wfhost may be given to everybody: the licences of all that it needs are among
//! those that `deny.toml` allows, and all of it comes from the registry.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The licences between the brackets of `allow`.
fn allowed(deny: &str) -> BTreeSet<&str> {
    let (_, rest) = deny.split_once("allow = [").expect("there are licences");
    let (list, _) = rest.split_once(']').expect("the list has an end");
    list.split('"').skip(1).step_by(2).collect()
}

/// Whether one of the alternatives of an expression has allowed licences only.
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let bare = |part: &str| part.trim_matches([' ', '(', ')']).to_owned();
    let alternatives = expression.split(" OR ").flat_map(|part| part.split('/'));
    alternatives
        .into_iter()
        .any(|alternative| alternative.split(" AND ").all(|licence| allowed.contains(bare(licence).as_str())))
}

#[test]
fn all_that_is_built_in_may_be_given_to_everybody() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the project");
    let deny = std::fs::read_to_string(root.join("deny.toml")).expect("deny.toml is there");
    let allowed = allowed(&deny);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let said = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform"])
        // What other systems need is not here.
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .current_dir(root)
        .output()
        .expect("cargo starts");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let metadata: Value = serde_json::from_slice(&said.stdout).expect("cargo tells JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    assert!(packages.len() > 100);
    for package in packages {
        let name = package["name"].as_str().expect("a package has a name");
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_allowed(licence, &allowed), "{name} has the licence {licence:?}");
        let source = package["source"].as_str().unwrap_or("path");
        assert!(source == "path" || source.starts_with("registry+"), "{name} is from {source}");
    }
}
