//! Where the parts of a build are, in the languages whose SDK comes with wfhost.
//!
//! The SDK is written below the project's target directory and becomes part of the program, so its
//! interface is always the one that this wfhost has. A project may come from anywhere, with links where this
//! writes: no link is written through, and none is followed out of the target directory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use wfhost_core::Digest;

use super::described::About;
use super::inputs::Inputs;
use super::{BuildError, BuildOptions, Built, Out, file, read};

/// The places of one build.
pub(super) struct Layout {
    /// The project, as an absolute path.
    pub dir: PathBuf,
    /// Of the project, and so of the workflow.
    pub name: String,
    /// Where the SDK is.
    pub sdk: PathBuf,
    /// Where the component goes.
    out: PathBuf,
    /// Where everything else goes that is made.
    pub target: PathBuf,
}

impl Layout {
    /// Finds the places, and writes the files of the SDK: their paths within it, and their texts.
    pub fn prepare(
        dir: &Path,
        sdk_name: &str,
        sdk_files: &[(&str, &str)],
        options: &BuildOptions,
    ) -> Result<Self, BuildError> {
        let dir = dir.canonicalize().map_err(file(dir))?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let target = options.target_dir.clone().unwrap_or_else(|| dir.join("target"));
        let sdk = provide(&target, sdk_name, sdk_files)?;
        let out = Out::new(options.out.as_deref(), &target, 1).path(&name);
        Ok(Self { dir, name, sdk, out, target })
    }

    /// Something that is made on the way. What is there is no link, through which a tool would write.
    pub fn intermediate(&self, extension: &str) -> PathBuf {
        let path = self.target.join(format!("wfhost/{}.{extension}", self.name));
        if path.is_symlink() {
            let _ = std::fs::remove_file(&path);
        }
        path
    }

    /// The same with a tool that need not be called if it has made a component of this input before. Without an input
    /// it is called.
    pub fn write_once(
        self,
        inputs: Option<&Inputs>,
        make: impl FnOnce(&Self, &Path) -> Result<(), BuildError>,
    ) -> Result<Built, BuildError> {
        let (made, mark) = (self.intermediate("made.wasm"), self.intermediate("made"));
        let inputs = inputs.map(Inputs::digest);
        let says = |component: &[u8]| inputs.map(|inputs| format!("{inputs} {}\n", Digest::of(component)));
        self.write(|layout, partial| {
            let known = std::fs::read(&made).ok().filter(|known| {
                says(known).is_some_and(|says| std::fs::read_to_string(&mark).is_ok_and(|mark| mark == says))
            });
            if let Some(known) = known {
                return std::fs::write(partial, known).map_err(file(partial));
            }
            make(layout, partial)?;
            let component = read(partial)?;
            // Without it the tool is called the next time, too.
            if let Some(says) = says(&component) {
                let _ = write_bytes(&made, &component).and_then(|()| write_bytes(&mark, says.as_bytes()));
            }
            Ok(())
        })
    }

    /// Has the component made at the path that `make` is given, and puts it where it belongs.
    pub fn write(
        self,
        make: impl FnOnce(&Self, &Path) -> Result<(), BuildError>,
    ) -> Result<Built, BuildError> {
        // What is declared is checked before the tool takes its time.
        let about = About::project(&self.dir)?;
        let bytes = write_whole(&self.out, |partial| {
            make(&self, partial)?;
            let mut component = read(partial)?;
            about.write_into(&mut component, &self.name)?;
            std::fs::write(partial, &component).map_err(file(partial))
        })?;
        Ok(Built { name: self.name, path: self.out, bytes })
    }

    /// Runs a tool to its end. What it reports of its progress is not shown, its errors are.
    pub fn run(&self, tool: &mut Command, name: &'static str) -> Result<(), BuildError> {
        tool.stdin(Stdio::null()).stdout(Stdio::null());
        let status =
            tool.status().map_err(|source| BuildError::NoTool { command: name.to_owned(), source })?;
        match status.success() {
            true => Ok(()),
            false => Err(BuildError::Compiler { what: name, dir: self.dir.clone() }),
        }
    }
}

/// Writes an SDK below a target directory. Gives its place.
pub(super) fn provide(
    target: &Path,
    sdk_name: &str,
    sdk_files: &[(&str, &str)],
) -> Result<PathBuf, BuildError> {
    let sdk = target.join("wfhost").join(sdk_name);
    for (name, text) in sdk_files {
        let path = sdk.join(name);
        create_within(target, path.parent().unwrap_or(&sdk))?;
        write_changed(&path, text)?;
    }
    Ok(sdk)
}

/// Creates a directory below a target directory, without following a link out of that.
fn create_within(target: &Path, dir: &Path) -> Result<(), BuildError> {
    std::fs::create_dir_all(target).map_err(file(target))?;
    let root = target.canonicalize().map_err(file(target))?;
    let mut path = target.to_owned();
    for part in dir.strip_prefix(target).unwrap_or(Path::new("")) {
        path.push(part);
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(file(&path)(error)),
            _ => {}
        }
        let leads = path.canonicalize().map_err(file(&path))?;
        if !leads.starts_with(&root) {
            return Err(BuildError::Outside { path, leads });
        }
    }
    Ok(())
}

/// Writes a file unless it has this text: another build may be reading it.
pub(super) fn write_changed(path: &Path, text: &str) -> Result<(), BuildError> {
    let is_same = !path.is_symlink() && std::fs::read(path).is_ok_and(|there| there == text.as_bytes());
    if is_same { Ok(()) } else { write_bytes(path, text.as_bytes()) }
}

/// Writes a file whole or not at all, in the place of a link if there is one.
fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    write_whole(path, |partial| std::fs::write(partial, bytes).map_err(file(partial))).map(drop)
}

/// Has a file made under another name and gives it its own when it is there: whole or not at all, as
/// somebody may be about to run the old one. Gives its size in bytes.
pub(super) fn write_whole(
    path: &Path,
    make: impl FnOnce(&Path) -> Result<(), BuildError>,
) -> Result<u64, BuildError> {
    create_parent(path)?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial.{}", std::process::id()));
    // Some tools change their directory.
    let partial = std::path::absolute(&partial).map_err(file(path))?;
    // Of a process that was killed, or a link.
    let _ = std::fs::remove_file(&partial);
    let made = make(&partial);
    if made.is_err() {
        // The tool may have begun to write.
        let _ = std::fs::remove_file(&partial);
    }
    made?;
    std::fs::rename(&partial, path).map_err(file(path))?;
    Ok(std::fs::metadata(path).map_err(file(path))?.len())
}

fn create_parent(path: &Path) -> Result<(), BuildError> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => std::fs::create_dir_all(parent).map_err(file(parent)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_called_once_for_the_same_input() {
        let dir = tempfile::tempdir().unwrap();
        let mut calls = 0_u8;
        let mut build = |input: Option<&str>| {
            let inputs = input.map(|input| {
                let mut inputs = Inputs::default();
                inputs.bytes("program", input.as_bytes());
                inputs
            });
            let layout = Layout::prepare(dir.path(), "sdk", &[], &BuildOptions::default()).unwrap();
            let built = layout.write_once(inputs.as_ref(), |_, partial| {
                calls += 1;
                // An empty component, and what is different each time.
                let component = [b"\0asm\x0d\0\x01\0".as_slice(), &[0, 3, 1, b'n', calls]].concat();
                std::fs::write(partial, component).map_err(file(partial))
            });
            (std::fs::read(built.unwrap().path).unwrap(), calls)
        };
        let (first, second, third) = (build(Some("a")), build(Some("a")), build(Some("b")));
        assert_eq!(first, second);
        assert_eq!((third.1, build(Some("b")).1), (2, 2));
        // One that is not known is new each time.
        assert_eq!((build(None).1, build(None).1), (3, 4));
        // What was changed since is made again.
        std::fs::write(dir.path().join("target/wfhost").join(made_of(&dir)), "x").unwrap();
        assert_eq!(build(Some("b")).1, 5);
    }

    /// A project that was cloned from somewhere may have links where a build writes.
    #[test]
    fn nothing_is_written_through_links() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let (mine, project) = (dir.path().join("mine"), dir.path().join("project"));
        let places = project.join("target/wfhost");
        std::fs::create_dir_all(places.join("sdk")).unwrap();
        std::fs::write(&mine, "mine").unwrap();
        for name in ["sdk/wfhost.h", "project.made", "project.made.wasm", "project.core.wasm", "project.wasm"]
        {
            symlink(&mine, places.join(name)).unwrap();
        }
        let prepare = |sdk: &[(&str, &str)]| Layout::prepare(&project, "sdk", sdk, &BuildOptions::default());
        let layout = prepare(&[("wfhost.h", "header")]).unwrap();
        assert_eq!(std::fs::read(places.join("sdk/wfhost.h")).unwrap(), b"header");
        let core = layout.intermediate("core.wasm");
        std::fs::write(core, "core").unwrap();
        let mut inputs = Inputs::default();
        inputs.bytes("program", b"a");
        let component = b"\0asm\x0d\0\x01\0";
        let made = layout.write_once(Some(&inputs), |_, partial| {
            std::fs::write(partial, component).map_err(file(partial))
        });
        made.unwrap();
        assert_eq!(std::fs::read(places.join("project.made.wasm")).unwrap(), component);
        assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
        // Nor in a directory elsewhere.
        let home = dir.path().join("home");
        std::fs::create_dir(&home).unwrap();
        symlink(&home, places.join("sdk/internal")).unwrap();
        let refused = prepare(&[("internal/new/file", "text")]).err().unwrap();
        assert_eq!(refused.code(), "WF0623");
        assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0);
        // Within the target directory, and that itself, may be wherever they are wanted.
        std::fs::remove_dir_all(project.join("target")).unwrap();
        std::fs::create_dir(home.join("elsewhere")).unwrap();
        symlink(&home, project.join("target")).unwrap();
        symlink("elsewhere", home.join("wfhost")).unwrap();
        prepare(&[("internal/file", "text")]).unwrap();
        assert_eq!(std::fs::read(home.join("elsewhere/sdk/internal/file")).unwrap(), b"text");
    }

    #[test]
    fn a_file_that_another_build_may_be_reading_stays_as_it_is() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| {
            let sdk = provide(dir.path(), "sdk", &[("a.h", text)]).unwrap();
            std::fs::metadata(sdk.join("a.h")).unwrap().ino()
        };
        let first = write("one");
        let reading = std::fs::File::open(dir.path().join("wfhost/sdk/a.h")).unwrap();
        assert_eq!(write("one"), first);
        assert_ne!(write("two"), first);
        assert_eq!(std::io::read_to_string(reading).unwrap(), "one");
    }

    fn made_of(dir: &tempfile::TempDir) -> String {
        let dir = dir.path().canonicalize().unwrap();
        format!("{}.made.wasm", dir.file_name().unwrap().to_string_lossy())
    }

    #[test]
    fn a_component_that_could_not_be_made_leaves_the_old_one_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.wasm");
        write_whole(&path, |partial| std::fs::write(partial, "old").map_err(file(partial))).unwrap();
        let failed = write_whole(&path, |partial| {
            std::fs::write(partial, "half").unwrap();
            Err(BuildError::NoClang)
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }
}
