//! The same source gives the same module in every directory and for every user.
//!
//! The compiler writes the paths of source files into panics and line tables. Those below the project, cargo's
//! home and the target directory are given names that are the same everywhere. This is said to cargo as a setting
//! of the target, which is joined with what a project sets for the target itself.

use std::path::{Path, PathBuf};

use toml::{Table, Value};
use wfhost_world::environment;

use super::project::Project;
use super::{BuildOptions, Target};

/// The argument of `cargo --config` that renames directories.
pub(super) fn setting(dir: &Path, project: &Project, target: Target, options: &BuildOptions) -> String {
    let home = cargo_home();
    let mut flags = flags_of_build(dir, home.as_deref(), target, |name| std::env::var(name).ok());
    let target_dir = options.target_dir.as_deref().unwrap_or(&project.target_directory);
    for (from, to) in renamed(&project.workspace_root, target_dir, home.as_deref()) {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    let flags: Vec<_> = flags.into_iter().map(|flag| Value::from(flag).to_string()).collect();
    format!("target.{}.rustflags=[{}]", target.triple(), flags.join(", "))
}

/// Directories and their new names. Of several that fit, the compiler takes the last one.
fn renamed(workspace: &Path, target_dir: &Path, home: Option<&Path>) -> Vec<(PathBuf, &'static str)> {
    let mut renamed = Vec::new();
    if let Some(home) = home {
        renamed.push((home.to_owned(), "cargo"));
        renamed.extend(sources(home).into_iter().map(|source| (source, "registry")));
    }
    // Dependencies by path may be anywhere in the repository.
    let repository = workspace.ancestors().find(|dir| dir.join(".git").exists());
    renamed.extend(repository.map(|dir| (dir.to_owned(), "repository")));
    renamed.push((workspace.to_owned(), "."));
    renamed.push((target_dir.to_owned(), "target"));
    renamed.retain(|(from, _)| from.is_absolute() && from.parent().is_some());
    renamed
}

/// Where cargo keeps what comes from registries. The names of the directories tell from which mirror that is.
fn sources(home: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
    let mut sources: Vec<_> = entries.map(|source| source.path()).collect();
    sources.sort();
    sources
}

/// Whether it is not known yet where cargo will keep what it downloads: the first build of a user would have other
/// flags than the second, and other paths in its module.
pub(super) fn is_new_here() -> bool {
    cargo_home().is_some_and(|home| sources(&home).is_empty())
}

fn cargo_home() -> Option<PathBuf> {
    let named = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    named.or_else(|| environment::home().map(|home| home.join(".cargo")))
}

/// What the user's settings have of `build.rustflags`, which cargo does not look at where there are flags of the
/// target. Like each of cargo's settings they may be in a variable of the environment as well, which is joined behind
/// those of files.
fn flags_of_build(
    dir: &Path,
    home: Option<&Path>,
    target: Target,
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let of_target = format!("CARGO_TARGET_{}_RUSTFLAGS", target.triple().to_uppercase().replace('-', "_"));
    if variable(&of_target).is_some() {
        return Vec::new();
    }
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mut places: Vec<PathBuf> = dir.ancestors().map(|dir| dir.join(".cargo")).collect();
    places.extend(home.map(Path::to_owned));
    let mut flags = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    // The farthest first: those of nearer files are joined behind them.
    for place in places.into_iter().rev() {
        // The older name goes before the newer one.
        let files = ["config", "config.toml"].map(|name| place.join(name));
        let Some(file) = files.into_iter().find(|file| file.is_file()) else { continue };
        if seen.contains(&file) {
            continue;
        }
        let table = std::fs::read_to_string(&file).ok().and_then(|text| text.parse::<Table>().ok());
        seen.push(file);
        let Some(table) = table else { continue };
        if has_flags_of(&table, target) {
            return Vec::new();
        }
        match table.get("build").and_then(|build| build.get("rustflags")) {
            Some(Value::String(text)) => flags.extend(text.split_whitespace().map(str::to_owned)),
            Some(Value::Array(list)) => {
                flags.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
            }
            _ => {}
        }
    }
    let of_build = variable("CARGO_BUILD_RUSTFLAGS").unwrap_or_default();
    flags.extend(of_build.split_whitespace().map(str::to_owned));
    flags
}

/// Whether settings have flags of a target, by its name or by a condition that has to be taken for one that holds.
fn has_flags_of(table: &Table, target: Target) -> bool {
    let targets = table.get("target").and_then(Value::as_table).into_iter().flatten();
    targets
        .filter(|(_, of)| of.get("rustflags").is_some())
        .any(|(name, _)| name == target.triple() || (name.starts_with("cfg(") && name.contains("wasm")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_of_a_machine_have_names_that_are_the_same_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let (home, root) = (dir.path().join("home/.cargo"), dir.path().join("it"));
        assert!(sources(&home).is_empty(), "nothing was downloaded yet");
        for made in [home.join("registry/src/mirror-1"), root.join(".git"), root.join("flows")] {
            std::fs::create_dir_all(made).unwrap();
        }
        let found = renamed(&root.join("flows"), &root.join("flows/target"), Some(&home));
        let expected = [
            (home.clone(), "cargo"),
            (home.join("registry/src/mirror-1"), "registry"),
            (root.clone(), "repository"),
            (root.join("flows"), "."),
            (root.join("flows/target"), "target"),
        ];
        assert_eq!(found, expected);
        assert!(renamed(Path::new("/"), Path::new("target"), None).is_empty());
    }

    #[test]
    fn flags_that_a_project_sets_for_all_builds_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (home, project) = (dir.path().join("home"), dir.path().join("a/b"));
        for made in [&home, &project.join(".cargo"), &dir.path().join("a/.cargo")] {
            std::fs::create_dir_all(made).unwrap();
        }
        let with = |variable: Option<(&'static str, &'static str)>| {
            flags_of_build(&project, Some(&home), Target::Unknown, move |name| {
                variable.filter(|(known, _)| *known == name).map(|(_, flags)| flags.to_owned())
            })
        };
        let flags = || with(None);
        assert_eq!(flags(), Vec::<String>::new());
        std::fs::write(home.join("config.toml"), "build.rustflags = \"-C  one\"").unwrap();
        std::fs::write(project.join(".cargo/config.toml"), "[build]\nrustflags = [\"-Ctwo\", \"a b\"]")
            .unwrap();
        std::fs::write(dir.path().join("a/.cargo/config"), "not TOML").unwrap();
        assert_eq!(flags(), ["-C", "one", "-Ctwo", "a b"]);
        let flagged = with(Some(("CARGO_BUILD_RUSTFLAGS", "-Cthree  four")));
        assert_eq!(flagged, ["-C", "one", "-Ctwo", "a b", "-Cthree", "four"]);
        let of_target = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS";
        assert_eq!(with(Some((of_target, "-Cfive"))), Vec::<String>::new(), "cargo joins it itself");
        // Where there are some of the target, cargo does not look at them.
        for text in ["wasm32-unknown-unknown", "'cfg(target_family = \"wasm\")'"] {
            let text = format!("[target.{text}]\nrustflags = [\"x\"]");
            std::fs::write(dir.path().join("a/.cargo/config"), text).unwrap();
            assert_eq!(flags(), Vec::<String>::new());
        }
        std::fs::write(dir.path().join("a/.cargo/config"), "target.wasm32-wasip2.rustflags = \"x\"").unwrap();
        assert_eq!(flags().len(), 4);
    }
}
