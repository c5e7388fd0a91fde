//! The crates below `host/` are layers: each knows only those below it. Cargo refuses circles; this
//! is the rest.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each crate, and those of this repository that it may know.
const LAYERS: [(&str, &str, &[&str]); 17] = [
    ("core", "wfhost-core", &[]),
    ("schema", "wfhost-schema", &["wfhost-core"]),
    ("world", "wfhost-world", &["wfhost-core"]),
    ("store", "wfhost-store", &["wfhost-core", "wfhost-world"]),
    ("postgres", "wfhost-postgres", &["wfhost-core", "wfhost-store"]),
    ("agents", "wfhost-agents", &["wfhost-core", "wfhost-schema", "wfhost-world"]),
    ("registry", "wfhost-registry", &["wfhost-core", "wfhost-world"]),
    ("runtime", "wfhost-runtime", &["wfhost-core", "wfhost-schema", "wfhost-world"]),
    ("plugins", "wfhost-plugins", &["wfhost-agents", "wfhost-core", "wfhost-runtime", "wfhost-world"]),
    (
        ".",
        "wfhost",
        &["wfhost-agents", "wfhost-core", "wfhost-runtime", "wfhost-schema", "wfhost-store", "wfhost-world"],
    ),
    (
        "config",
        "wfhost-config",
        &["wfhost-agents", "wfhost-core", "wfhost-plugins", "wfhost-registry", "wfhost-world"],
    ),
    (
        "build",
        "wfhost-build",
        &["wfhost-core", "wfhost-registry", "wfhost-runtime", "wfhost-schema", "wfhost-world"],
    ),
    ("simulate", "wfhost-simulate", &["wfhost", "wfhost-config", "wfhost-core"]),
    ("view", "wfhost-view", &["wfhost", "wfhost-config", "wfhost-core", "wfhost-registry"]),
    ("notify", "wfhost-notify", &["wfhost", "wfhost-config", "wfhost-core", "wfhost-view"]),
    ("server", "wfhost-server", &["wfhost", "wfhost-config", "wfhost-core", "wfhost-view"]),
    (
        "cli",
        "wfhost-cli",
        &[
            "wfhost",
            "wfhost-build",
            "wfhost-config",
            "wfhost-core",
            "wfhost-notify",
            "wfhost-plugins",
            "wfhost-postgres",
            "wfhost-registry",
            "wfhost-server",
            "wfhost-simulate",
            "wfhost-view",
        ],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the project").to_owned()
}

/// The packages of this repository that a manifest names, also those that only its tests know.
fn known(manifest: &str) -> BTreeSet<&str> {
    let dependencies = manifest.split_once("dependencies]").map_or("", |(_, rest)| rest);
    let names = dependencies.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| name.starts_with("wfhost")).collect()
}

#[test]
fn each_layer_knows_only_those_below_it() {
    let mut crates = BTreeSet::new();
    for (directory, name, below) in LAYERS {
        let path = root().join("host").join(directory).join("Cargo.toml");
        let manifest = std::fs::read_to_string(&path).expect("each layer has a manifest");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{}", path.display());
        assert_eq!(known(&manifest), below.iter().copied().collect(), "what {name} knows");
        crates.insert(path.canonicalize().expect("it is there"));
    }
    let directories = std::fs::read_dir(root().join("host")).expect("host/ is there");
    for entry in directories {
        let path = entry.expect("host/ can be read").path().join("Cargo.toml");
        if let Ok(path) = path.canonicalize() {
            assert!(crates.contains(&path), "{} is no layer", path.display());
        }
    }
}

/// Whoever embeds the host compiles neither the command line nor the builders of components.
#[test]
fn the_crate_to_embed_needs_no_command_line() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is there");
    let packages: Vec<(&str, BTreeSet<&str>)> = lock
        .split("[[package]]")
        .skip(1)
        .map(|package| {
            let name = package.split('"').nth(1).expect("a package has a name");
            let needs = package.split_once("dependencies = [").map_or("", |(_, needs)| needs);
            let needs = needs.split('"').skip(1).step_by(2);
            (name, needs.filter_map(|need| need.split(' ').next()).collect())
        })
        .collect();
    let mut needed = BTreeSet::new();
    let mut open = vec!["wfhost"];
    while let Some(name) = open.pop() {
        if needed.insert(name) {
            open.extend(packages.iter().filter(|(package, _)| *package == name).flat_map(|(_, needs)| needs));
        }
    }
    assert!(needed.contains("wasmtime") && needed.contains("rusqlite"));
    // `wit-component` itself is among what the macros of wasmtime need.
    let adapter = "wasi-preview1-component-adapter-provider";
    for heavy in ["clap", adapter, "wfhost-build", "wfhost-cli", "wfhost-config"] {
        assert!(!needed.contains(heavy), "{heavy} is needed to embed wfhost");
    }
}
