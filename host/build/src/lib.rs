//! `wfhost build`: from a project to a component, with whatever toolchain the
//! machine has.
//!
//! ```text
//! project     which workflows the directory has
//! toolchain   which compiler builds for WebAssembly here
//! sysroot     ... made of Debian's, if there is no other
//! cargo       compiles them
//! remap       ... without the names of this machine's directories
//! c           compiles workflows in C
//! go          compiles workflows and plugins in Go
//! js          bundles workflows in JavaScript and TypeScript
//! python      puts workflows in Python beside their interpreter
//! inputs      ... unless nothing has changed since
//! layout      where the parts of those are
//! componentize wraps the core modules
//! described   what modules say of themselves
//! derive      ... by the types of a workflow in Rust
//! ```

mod c;
mod cargo;
mod componentize;
mod derive;
mod described;
mod error;
mod go;
mod inputs;
mod js;
mod layout;
mod project;
mod python;
mod remap;
mod sysroot;
mod toolchain;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use self::componentize::componentize;
pub use self::error::BuildError;
use self::layout::write_whole;
use self::project::{Kind, Project};
use self::toolchain::Toolchain;

/// A kind of WebAssembly that Rust compiles to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Target {
    /// Nothing but the imports of the workflow: the one to take.
    #[default]
    Unknown,
    /// With the standard library's clock, output and random numbers.
    Wasip2,
    /// The same through an adapter.
    Wasip1,
}

impl Target {
    /// Its name for the compiler.
    pub fn triple(self) -> &'static str {
        match self {
            Self::Unknown => "wasm32-unknown-unknown",
            Self::Wasip2 => "wasm32-wasip2",
            Self::Wasip1 => "wasm32-wasip1",
        }
    }

    /// Whether its standard library stands on a C library.
    pub(self) fn has_libc(self) -> bool {
        self != Self::Unknown
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::Unknown, Self::Wasip2, Self::Wasip1];
        all.into_iter()
            .find(|target| target.triple() == name)
            .ok_or_else(|| format!("it is one of {}", all.map(Self::triple).join(", ")))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.triple())
    }
}

/// What is built, and where it goes.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// The file of the only workflow if it ends in `.wasm`, else the directory
    /// of all. `wfhost/` in cargo's target directory if none.
    pub out: Option<PathBuf>,
    /// The one package to build. If none, the crate in the directory, or all
    /// workflows of the workspace whose root it is.
    pub package: Option<String>,
    /// If none, the first of `wasm32-unknown-unknown` and `wasm32-wasip2` that
    /// the machine can build for.
    pub target: Option<Target>,
    /// Cargo's target directory, instead of the project's own.
    pub target_dir: Option<PathBuf>,
    /// Cargo shall not use the network.
    pub offline: bool,
}

/// What is being done, for people who wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress<'a> {
    /// The standard library is compiled, which takes a minute and is done once.
    Preparing(Target),
    /// A core module is wrapped.
    Wrapping(&'a str),
    /// A program is packed with its interpreter, which takes some seconds, and so does the first start.
    Packing(&'a str),
}

/// A workflow that was built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Built {
    /// The name of its package.
    pub name: String,
    /// The component.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// Builds the workflows of the crate or workspace in a directory, or the
/// workflow in another language that is there.
pub fn build(
    dir: &Path,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Built>, BuildError> {
    if !dir.join("Cargo.toml").is_file() {
        if let Some(entry) = js::entry(dir) {
            return Ok(vec![js::build(dir, &entry, options, progress)?]);
        }
        if let Some(sources) = python::sources(dir) {
            return Ok(vec![python::build(dir, &sources, options, progress)?]);
        }
        if go::module(dir).is_some() {
            return Ok(vec![go::build(dir, options, progress)?]);
        }
        let sources = c::sources(dir);
        if !sources.is_empty() {
            return Ok(vec![c::build(dir, &sources, options, progress)?]);
        }
        return Err(BuildError::NoCrate(dir.to_owned()));
    }
    let project = Project::read(dir, &mut cargo::cargo())?;
    let packages = project.workflows(dir, options.package.as_deref())?;
    let out = Out::new(options.out.as_deref(), &project.target_directory, packages.len());
    let mut compiled = Vec::new();
    for kind in [Kind::Workflow, Kind::Plugin] {
        let packages: Vec<_> = packages.iter().copied().filter(|package| package.kind() == kind).collect();
        if !packages.is_empty() {
            let toolchain = Toolchain::find(dir, options.target, kind, progress)?;
            let cores = cargo::compile(dir, &project, &packages, &toolchain, options)?;
            compiled.extend(
                packages.into_iter().zip(cores).map(|(package, core)| (package, core, toolchain.clone())),
            );
        }
    }
    compiled
        .into_iter()
        .map(|(package, core, toolchain)| {
            progress(Progress::Wrapping(&package.name));
            let path = out.path(&package.name);
            let bytes = read(&core)?;
            if !componentize::exports_run(&bytes) {
                return Err(BuildError::NoExport { package: package.name.clone() });
            }
            let derived = match derive::asks(&bytes) {
                true => {
                    let target = options.target_dir.as_deref().unwrap_or(&project.target_directory);
                    Some(derive::derive(dir, package, &toolchain, options, target)?)
                }
                false => None,
            };
            let about = package.about(derived)?;
            let bytes = write_component(&core, &bytes, &path, |component| {
                about.write_into(component, &package.name)
            })?;
            Ok(Built { name: package.name.clone(), path, bytes })
        })
        .collect()
}

/// A language whose SDK comes with wfhost and is written below the target directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sdk {
    /// JavaScript and TypeScript.
    Js,
    /// Python.
    Python,
    /// Go.
    Go,
    /// C.
    C,
}

/// Writes the SDK of a language where editors and type checkers of a project look for it. Each build does
/// so as well.
pub fn provide_sdk(dir: &Path, sdk: Sdk) -> Result<PathBuf, BuildError> {
    let (name, files) = match sdk {
        Sdk::Js => ("js-sdk", js::SDK),
        Sdk::Python => ("python-sdk", python::SDK),
        Sdk::Go => ("go-sdk", go::SDK),
        Sdk::C => ("c-sdk", c::SDK),
    };
    layout::provide(&dir.join("target"), name, files)
}

/// Wraps the core module in a file into a component in another. Gives its size.
pub fn wrap(core: &Path, path: &Path) -> Result<u64, BuildError> {
    write_component(core, &read(core)?, path, |_| Ok(()))
}

/// Where components go.
enum Out {
    File(PathBuf),
    Dir(PathBuf),
}

impl Out {
    fn new(asked: Option<&Path>, target_directory: &Path, count: usize) -> Self {
        match asked {
            None => Self::Dir(target_directory.join("wfhost")),
            Some(path) if count == 1 && path.extension().is_some_and(|ext| ext == "wasm") => {
                Self::File(path.to_owned())
            }
            Some(path) => Self::Dir(path.to_owned()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Dir(dir) => dir.join(format!("{name}.wasm")),
        }
    }
}

/// Makes an error of one about a file.
fn file(path: &Path) -> impl FnOnce(std::io::Error) -> BuildError + use<> {
    let path = path.to_owned();
    move |source| BuildError::File { path, source }
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(path).map_err(file(path))
}

fn write_component(
    core: &Path,
    bytes: &[u8],
    path: &Path,
    about: impl FnOnce(&mut Vec<u8>) -> Result<(), BuildError>,
) -> Result<u64, BuildError> {
    write_whole(path, |partial| {
        let mut component = componentize(bytes)
            .map_err(|reason| BuildError::Componentize { path: core.to_owned(), reason })?;
        about(&mut component)?;
        std::fs::write(partial, &component).map_err(file(partial))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_crate_is_refused() {
        let error = build(Path::new("/"), &BuildOptions::default(), &mut |_| ()).unwrap_err();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (
                "WF0601",
                "/ does not contain a project: no Cargo.toml, no workflow.ts, .js or .py, no go.mod, no C files"
            )
        );
    }

    #[test]
    fn targets_have_the_names_that_the_compiler_gives_them() {
        assert_eq!("wasm32-wasip2".parse(), Ok(Target::Wasip2));
        assert!("wasm64".parse::<Target>().unwrap_err().contains("wasm32-unknown-unknown, wasm32-wasip2"));
    }

    #[test]
    fn components_go_where_they_were_asked_for() {
        let path = |asked: Option<&str>, count| {
            Out::new(asked.map(Path::new), Path::new("/p/target"), count).path("hello")
        };
        assert_eq!(path(None, 1), Path::new("/p/target/wfhost/hello.wasm"));
        assert_eq!(path(Some("x.wasm"), 1), Path::new("x.wasm"));
        assert_eq!(path(Some("x"), 1), Path::new("x/hello.wasm"));
        assert_eq!(path(Some("x"), 2), Path::new("x/hello.wasm"));
    }

    #[test]
    fn a_component_is_written_whole_into_a_new_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (core, path) = (dir.path().join("core.wasm"), dir.path().join("a/b.wasm"));
        std::fs::write(&core, b"\0asm\x0d\0\x01\0").unwrap();
        assert_eq!(wrap(&core, &path).unwrap(), 8);
        let names: Vec<_> = std::fs::read_dir(dir.path().join("a")).unwrap().collect();
        assert_eq!(names.len(), 1);
    }
}
