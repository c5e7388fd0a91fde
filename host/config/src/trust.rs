//! What a project's file may decide without being asked about, and what the user has agreed to.
//!
//! A file that came with a repository can name programs to run, addresses that keys are sent to and
//! files that hold them. It is obeyed in that only when the user has said so once, for its present
//! content: `wfhost trust`. As direnv and mise do it, what was agreed to is a file in the user's state
//! directory, named after the path; a changed file has to be agreed to again.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use wfhost_core::Digest;
use wfhost_registry::{Reference, whole};
use wfhost_world::private;

use crate::file::is_url;
use crate::part;

/// What the user has agreed to.
#[derive(Clone, Debug, Default)]
pub struct Consent {
    /// Where it is kept; nowhere if none.
    pub records: Option<PathBuf>,
    /// To every file that only the user, or root, can have written.
    pub all: bool,
    /// To every file below these directories, regardless of its owner.
    pub below: Vec<PathBuf>,
}

/// Whether the user has agreed to a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Agreed {
    Yes,
    No,
    /// To what was in it before.
    Before,
}

#[derive(Serialize, Deserialize)]
struct Record {
    path: PathBuf,
    digest: String,
    /// Of the text that is being replaced by that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<String>,
}

impl Consent {
    /// Whether a file, by its canonical path, is trusted for where it stands.
    pub fn names(&self, path: &Path) -> bool {
        self.below.iter().any(|dir| dir.is_absolute() && path.starts_with(dir))
    }

    /// Whether the user has agreed to a file with this text.
    pub fn agreed(&self, path: &Path, text: &str) -> Agreed {
        if self.all || self.names(path) {
            return Agreed::Yes;
        }
        let Some(record) = self.record(path) else { return Agreed::No };
        // A record that another user could have written does not count.
        let record = private::read(&record).ok().and_then(|json| serde_json::from_str::<Record>(&json).ok());
        match record {
            Some(record) if record.path != path => Agreed::No,
            Some(record) if record.digest == digest(text) || record.before == Some(digest(text)) => {
                Agreed::Yes
            }
            Some(_) => Agreed::Before,
            None => Agreed::No,
        }
    }

    /// Keeps that the user agrees to a file with this text.
    pub fn agree(&self, path: &Path, text: &str) -> io::Result<()> {
        self.keep(Record { path: path.to_owned(), digest: digest(text), before: None })
    }

    /// Keeps that the user agrees to a file with this text, which is about to be written, and to what is in it until
    /// then, so that whoever is killed in between leaves no file that has to be agreed to again.
    pub fn agree_to_change(&self, path: &Path, before: &str, text: &str) -> io::Result<()> {
        self.keep(Record { path: path.to_owned(), digest: digest(text), before: Some(digest(before)) })
    }

    fn keep(&self, record: Record) -> io::Result<()> {
        let Some(file) = self.record(&record.path) else { return Err(io::Error::other("HOME is not set")) };
        if let Some(dir) = file.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        whole::replace(&file, serde_json::to_string(&record)?.as_bytes(), 0o600)
    }

    /// Takes it back. False if there was nothing.
    pub fn withdraw(&self, path: &Path) -> io::Result<bool> {
        let Some(file) = self.record(path) else { return Ok(false) };
        if let (Some(dir), Some(name)) = (file.parent(), file.file_name()) {
            whole::sweep(dir, &name.to_string_lossy());
        }
        match std::fs::remove_file(file) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The files that the user has agreed to by name, in some version of theirs, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        let records = self.records.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
        // One that is being written has no name of a digest.
        let own = records.filter_map(|record| {
            let Record { path, .. } = serde_json::from_slice(&std::fs::read(record.path()).ok()?).ok()?;
            (self.record(&path)? == record.path()).then_some(path)
        });
        let mut files: Vec<_> = own.collect();
        files.sort();
        files
    }

    fn record(&self, path: &Path) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStrExt;
        let name = Digest::of(path.as_os_str().as_bytes()).hex();
        self.records.as_ref().map(|dir| dir.join(name))
    }
}

fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

/// Settings of a provider that name no program, no address, no secret and nothing of the environment.
const HARMLESS: [&str; 13] = [
    "kind",
    "preset",
    "model",
    "max_parallel",
    "rate",
    "scope",
    "system",
    "max_tokens",
    "stream",
    "native_schema",
    "api",
    "prompt",
    "format",
];

/// The keys of a project's file that the user has to agree to. `own`: the providers that the user has
/// configured.
pub(super) fn keys_to_agree(path: &Path, table: &Table, own: &[String]) -> Vec<String> {
    let mut keys = Vec::new();
    let section = |name: &str| table.get(name).and_then(Value::as_table).into_iter().flatten();
    for (name, provider) in section("providers") {
        let Some(provider) = provider.as_table() else { continue };
        let key = format!("providers.{}", part(name));
        // The user may have chosen it with care, like a program that is careful.
        if own.contains(name) {
            keys.push(key);
            continue;
        }
        // People are asked by nobody but wfhost.
        if provider.get("kind").and_then(Value::as_str) == Some("human") {
            continue;
        }
        let harmful = provider.keys().filter(|setting| !HARMLESS.contains(&setting.as_str()));
        keys.extend(harmful.map(|setting| format!("{key}.{}", part(setting))));
    }
    let addresses = section("modules").filter(|(_, module)| module.as_str().is_some_and(Reference::is_meant));
    keys.extend(addresses.map(|(name, _)| format!("modules.{}", part(name))));
    // What it requires may leave out what the user does.
    if table.contains_key("signatures") {
        keys.push("signatures".to_owned());
    }
    // Who learns what happens, and programs.
    keys.extend(section("sinks").map(|(name, _)| format!("sinks.{}", part(name))));
    // Where logins may be read on their way.
    keys.extend(section("registries").map(|(host, _)| format!("registries.{}", part(host))));
    // Who may start what, and with which secret.
    keys.extend(section("webhooks").map(|(name, _)| format!("webhooks.{}", part(name))));
    let dir = path.parent().unwrap_or(Path::new("/"));
    let leaves =
        |value: Option<&Value>| value.and_then(Value::as_str).is_some_and(|to| leaves(dir, Path::new(to)));
    let database = table.get("store").and_then(|store| store.get("url"));
    if leaves(database) || database.and_then(Value::as_str).is_some_and(is_url) {
        keys.push("store.url".to_owned());
    }
    for (name, module) in section("modules") {
        if !module.as_str().is_some_and(Reference::is_meant) && leaves(Some(module)) {
            keys.push(format!("modules.{}", part(name)));
        }
    }
    for (name, workspace) in section("workspaces") {
        let places = ["path", "repository"].into_iter().filter(|key| leaves(workspace.get(key)));
        keys.extend(places.map(|key| format!("workspaces.{}.{key}", part(name))));
    }
    keys
}

/// Whether a path leads out of a directory, also by way of a link.
fn leaves(dir: &Path, to: &Path) -> bool {
    let below = dir.join(to);
    if to.components().any(|part| part == Component::ParentDir) || !below.starts_with(dir) {
        return true;
    }
    // What is not there yet is made in the nearest directory that is.
    let there = below.ancestors().find(|path| path.symlink_metadata().is_ok());
    let real = there.and_then(|path| path.canonicalize().ok());
    let dir = dir.canonicalize().ok();
    !matches!((real, dir), (Some(real), Some(dir)) if real.starts_with(&dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", dir.path().join("link")).unwrap();
        keys_to_agree(&dir.path().join("wfhost.toml"), &text.parse().unwrap(), &["mine".to_owned()])
    }

    #[test]
    fn programs_addresses_and_secrets_are_asked_about_and_limits_are_not() {
        let asked = [
            (
                "[providers.a]\nkind = \"command\"\nargv = [\"x\"]\nenv = [\"KEY\"]",
                "providers.a.argv providers.a.env",
            ),
            ("[providers.openai]\nkind = \"openai\"\nbase_url = \"https://x\"", "providers.openai.base_url"),
            ("[providers.a]\nkind = \"openai\"\napi_key_env = \"K\"", "providers.a.api_key_env"),
            (
                "[providers.a]\nkind = \"command\"\npreset = \"claude\"\nargs = [\"--yolo\"]",
                "providers.a.args",
            ),
            ("[store]\nurl = \"/tmp/evil.db\"", "store.url"),
            ("[store]\nurl = \"../evil.db\"", "store.url"),
            ("[store]\nurl = \"link/evil.db\"", "store.url"),
            ("[store]\nurl = \"postgres://evil.example/runs\"", "store.url"),
            ("[workspaces.w]\nkind = \"dir\"\npath = \"/home\"", "workspaces.w.path"),
            ("[providers.mine]\nkind = \"command\"\npreset = \"claude\"", "providers.mine"),
            ("[providers.mine]\nkind = \"human\"", "providers.mine"),
            ("[modules]\na = \"ghcr.io/a/b:1\"", "modules.a"),
            ("[modules]\na = \"../a.wasm\"", "modules.a"),
            ("[signatures]\ndefault = \"off\"", "signatures"),
            ("[registries.\"a:1\"]\nplain_http = true", "registries.\"a:1\""),
            ("[sinks.w]\nurl = \"https://x\"\nsecret = false", "sinks.w"),
        ];
        for (text, expected) in asked {
            assert_eq!(keys(text).join(" "), expected, "{text}");
        }
        let harmless = "[agents]\ndefault = \"claude\"\n[providers.claude]\nkind = \"command\"\npreset = \"claude\"\n\
                        max_parallel = 2\n[providers.boss]\nkind = \"human\"\n[store]\nurl = \"runs/wfhost.db\"\n\
                        [workspaces.w]\nkind = \"worktree\"\nrepository = \".\"\n[modules]\na = \"a.wasm\"";
        assert_eq!(keys(harmless), Vec::<String>::new());
    }

    /// Whoever is asked is shown the values by these keys.
    #[test]
    fn keys_are_written_as_those_of_settings_are() {
        let text = "[providers.\"my agent\"]\nkind = \"command\"\nargv = [\"x\"]\nset.\"a.b\" = \"c\"\n\
                    [providers.\"\"]\nkind = \"openai\"\nbase_url = \"https://x\"\n\
                    [sinks.\"to.you\"]\nargv = [\"x\"]\n[webhooks.\"a.b\"]\nsecret_env = \"S\"\n\
                    [registries.localhost]\nplain_http = true\n[registries.\"a:1\"]\nplain_http = true\n\
                    [workspaces.\"w w\"]\nkind = \"dir\"\npath = \"/home\"\n[modules]\n\"é\" = \"../a.wasm\"";
        let (keys, mut settings) = (keys(text), Vec::new());
        crate::walk("", &text.parse().unwrap(), &mut |key, _| settings.push(key));
        assert_eq!(keys.len(), 9, "{keys:?}");
        for key in keys {
            let is_shown = |setting: &String| {
                setting.strip_prefix(&key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            assert!(settings.iter().any(is_shown), "{key} is not among {settings:?}");
        }
    }

    #[test]
    fn consent_is_to_a_file_with_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let consent = Consent { records: Some(dir.path().join("trusted")), ..Consent::default() };
        let (file, other) = (Path::new("/p/wfhost.toml"), Path::new("/q/wfhost.toml"));
        assert_eq!(consent.agreed(file, "a"), Agreed::No);
        consent.agree(file, "a").unwrap();
        assert_eq!(consent.agreed(file, "a"), Agreed::Yes);
        assert_eq!(consent.agreed(file, "b"), Agreed::Before);
        assert_eq!(consent.agreed(other, "a"), Agreed::No);
        consent.agree(file, "b").unwrap();
        assert_eq!(consent.agreed(file, "b"), Agreed::Yes);
        // While one is replaced by the other, both are agreed to.
        consent.agree_to_change(file, "b", "c").unwrap();
        let agreed = |text| consent.agreed(file, text);
        assert_eq!((agreed("a"), agreed("b"), agreed("c")), (Agreed::Before, Agreed::Yes, Agreed::Yes));
        consent.agree(file, "c").unwrap();
        assert_eq!((agreed("b"), agreed("c")), (Agreed::Before, Agreed::Yes));
        consent.agree(file, "b").unwrap();
        // Of a process that was killed while it kept a record.
        let name = consent.record(file).unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let left = dir.path().join(format!("trusted/.{name}.0123456789abcdEF.new"));
        std::fs::write(&left, "half").unwrap();
        consent.agree(other, "a").unwrap();
        assert_eq!(consent.files(), [file, other]);
        assert!(consent.withdraw(file).unwrap());
        assert!(!left.exists());
        assert!(!consent.withdraw(file).unwrap());
        assert_eq!(consent.agreed(file, "b"), Agreed::No);
        assert_eq!((consent.files(), Consent::default().files()), (vec![other.to_owned()], Vec::new()));
        let below = Consent { below: vec!["/p".into()], ..Consent::default() };
        assert_eq!((below.agreed(file, "x"), below.agreed(other, "x")), (Agreed::Yes, Agreed::No));
    }
}
