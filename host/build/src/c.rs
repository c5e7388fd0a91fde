//! Workflows in C: which compiler there is, and calling it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use wfhost_world::environment;

use super::layout::Layout;
use super::{BuildError, BuildOptions, Built, Progress, componentize, file, read};

macro_rules! sdk {
    ($($file:literal),* $(,)?) => {
        /// The SDK: its headers and what is compiled.
        pub(super) const SDK: &[(&str, &str)] =
            &[$(($file, include_str!(concat!("../../../guest-sdk/c/", $file)))),*];
    };
}

sdk![
    "bindings/workflow.c",
    "bindings/workflow.h",
    "internal.h",
    "json.c",
    "patterns.c",
    "wfhost.c",
    "wfhost.h",
];

/// Where Debian has the C library for WASI.
const DEBIAN_LIBC: &str = "/usr/lib/wasm32-wasi/libc.a";

/// Versions of clang that Debian installs under a name of their own, the newest first.
const VERSIONS: std::ops::RangeInclusive<u32> = 14..=30;

/// The C files of a directory and of its `src`, in the order of their names.
pub(super) fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut sources = Vec::new();
    for dir in [dir.to_owned(), dir.join("src")] {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        sources.extend(paths.filter(|path| path.extension() == Some(OsStr::new("c"))));
    }
    sources.sort();
    sources
}

/// Builds the workflow whose sources are given.
pub(super) fn build(
    dir: &Path,
    sources: &[PathBuf],
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Built, BuildError> {
    let layout = Layout::prepare(dir, "c-sdk", SDK, options)?;
    let sdk = &layout.sdk;
    let core = layout.intermediate("core.wasm");
    let mut clang = find().ok_or(BuildError::NoClang)?;
    // Line numbers show in failures and in `wfhost replay --backtrace`.
    clang.args(["--target=wasm32-wasi", "-Wno-deprecated", "-mexec-model=reactor", "-std=gnu17"]);
    clang.args(["-O2", "-g", "-Wall"]).arg("-I").arg(sdk);
    // The same source gives the same bytes wherever it is.
    clang.arg(prefix_map(sdk, "c-sdk")).arg(prefix_map(&layout.dir, ".")).arg("-fdebug-compilation-dir=.");
    let own = SDK.iter().filter(|(name, _)| name.ends_with(".c")).map(|(name, _)| sdk.join(name));
    clang.args(own);
    for source in sources {
        clang.arg(source.canonicalize().map_err(file(source))?);
    }
    clang.arg("-o").arg(&core);
    layout.run(&mut clang, "clang")?;
    progress(Progress::Wrapping(&layout.name));
    let component = componentize(&read(&core)?)
        .map_err(|reason| BuildError::Componentize { path: core.clone(), reason })?;
    layout.write(|_, partial| std::fs::write(partial, &component).map_err(file(partial)))
}

/// Has a directory called otherwise in what is compiled.
fn prefix_map(dir: &Path, name: &str) -> OsString {
    let mut map = OsString::from("-ffile-prefix-map=");
    map.push(dir);
    map.push("=");
    map.push(name);
    map
}

/// The compiler of the WASI SDK if it is named, else Debian's.
fn find() -> Option<Command> {
    if let Some(sdk) = environment::get(environment::WASI_SDK_PATH) {
        let clang = Path::new(&sdk).join("bin/clang");
        return clang.is_file().then(|| Command::new(clang));
    }
    if !Path::new(DEBIAN_LIBC).is_file() {
        return None;
    }
    let names = VERSIONS.rev().map(|version| format!("clang-{version}")).chain(["clang".to_owned()]);
    let found = names.filter(|name| on_path(name)).find(|name| links_wasm(name))?;
    let mut clang = Command::new(found);
    clang.arg("--sysroot=/usr");
    Some(clang)
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Whether it has what it needs for WebAssembly besides the C library: the
/// linker and the library of the compiler itself.
fn links_wasm(clang: &str) -> bool {
    let asked = |what: &str| {
        let mut command = Command::new(clang);
        let output = command.args(["--target=wasm32-wasi", what]).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Path::new(&text).is_file().then_some(())
    };
    asked("--print-libgcc-file-name").is_some() && asked("--print-prog-name=wasm-ld").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_those_of_the_directory_and_of_src() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("src")).unwrap();
        std::fs::create_dir_all(dir.path().join("target")).unwrap();
        for name in ["b.c", "a.c", "a.h", "src/z.c", "target/no.c"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = sources(dir.path());
        let names: Vec<_> = found.iter().map(|path| path.strip_prefix(dir.path()).unwrap()).collect();
        assert_eq!(names, ["a.c", "b.c", "src/z.c"].map(Path::new));
    }

    #[test]
    fn the_whole_sdk_is_carried() {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk/c");
        for dir in [sdk.clone(), sdk.join("bindings")] {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&sdk).unwrap().to_string_lossy().into_owned();
                let code = name.ends_with(".c") || name.ends_with(".h");
                assert!(!code || SDK.iter().any(|(known, _)| *known == name), "{name}");
            }
        }
    }
}
