//! `tests/setup` on machines that lack something. Programs of the machine are used by name, so the test chooses which
//! there are.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use wfhost_tests::{Place, Ran};

/// Runs it with some tools of this machine, and programs that are shell scripts.
fn setup(place: &Place, programs: &[(&str, &str)]) -> Ran {
    let bin = place.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let tools = ["bash", "cut", "dirname", "env", "head", "sed", "sort", "timeout"];
    let dirs: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect();
    for tool in tools {
        let path = dirs.iter().map(|dir| dir.join(tool)).find(|path| path.is_file()).expect(tool);
        symlink(path, bin.join(tool)).unwrap();
    }
    for (name, script) in programs {
        let path = bin.join(name);
        std::fs::write(&path, format!("#!{}/bash\n{script}\n", bin.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("setup");
    let mut command = Command::new(bin.join("bash"));
    command.arg(script).arg("--demo").env_clear().env("PATH", &bin).env("HOME", place.path(""));
    Ran(command.output().unwrap())
}

#[test]
fn a_compiler_that_is_too_old_is_replaced() {
    for (version, is_new) in [("1.94.1", false), ("1.95.0", true), ("1.100.0-nightly", true)] {
        let place = Place::new();
        // It has the library for WebAssembly.
        let sysroot = place.path("sysroot");
        std::fs::create_dir_all(sysroot.join("lib/rustlib/wasm32-unknown-unknown/lib")).unwrap();
        let called = place.path("called");
        let rustc = format!(
            "case $1 in --version) echo 'rustc {version} (0 2026-01-01)';; *) echo {};; esac",
            sysroot.display()
        );
        let rustup = format!("echo \"$@\" >>{}", called.display());
        let programs = [
            ("cc", ""),
            ("cargo", ""),
            ("rustc", rustc.as_str()),
            ("rustup", rustup.as_str()),
            ("id", "echo 0"),
        ];
        let ran = setup(&place, &programs);
        assert_eq!(ran.code(), Some(0), "{version}: {}", ran.stderr());
        let called = std::fs::read_to_string(called).unwrap_or_default();
        let expected =
            if is_new { "" } else { "toolchain install stable --profile minimal\ndefault stable\n" };
        assert_eq!(called, expected, "{version}");
    }
}

#[test]
fn who_cannot_install_is_told_what_root_has_to() {
    for programs in [&[("id", "echo 1000"), ("apt-get", "exit 1")][..], &[("id", "echo 0")]] {
        let place = Place::new();
        let ran = setup(&place, programs);
        assert_eq!(ran.code(), Some(1));
        assert!(ran.stderr().contains("as root: apt-get install gcc libc6-dev\n"), "{}", ran.stderr());
    }
}
