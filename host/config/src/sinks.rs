//! Who is told of what happens to runs: `[sinks.NAME]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Value;
use wfhost_agents::SecretSource;

use super::ConfigError;
use super::file::beside;
use crate::units;

/// What a sink can be told of.
pub const EVENTS: [&str; 7] = [
    "run.started",
    "run.completed",
    "run.failed",
    "run.cancelled",
    "run.refused",
    "question.asked",
    "budget.low",
];
/// What one is told of that names nothing: all but the beginnings.
const USUAL: [&str; 6] =
    ["run.completed", "run.failed", "run.cancelled", "run.refused", "question.asked", "budget.low"];

/// Names of cursors that are no sink's: how far traces are exported, and from where.
pub const RESERVED: [&str; 2] = ["otlp", "otlp-beginning"];

/// How long an address has for an answer, and a program to end, in milliseconds.
const TIMEOUT_MS: u64 = 15_000;
/// How long something that cannot be delivered is tried again, in milliseconds: three days.
const GIVE_UP_MS: u64 = 259_200_000;
/// The part of a budget of which it is said that it is nearly spent.
const NEARLY: f64 = 0.8;

/// Who is told of what happens to runs.
#[derive(Clone, PartialEq, Debug)]
pub struct Sink {
    /// As the file names it.
    pub name: String,
    /// By which the database tells it from others of that name: of a project's file, with its path.
    pub id: String,
    pub to: SinkTo,
    /// Of [`EVENTS`].
    pub events: Vec<String>,
    /// Only of runs of this project.
    pub project: Option<String>,
    /// Only of workflows with such a name: `*` at the end stands for anything. All, if there is none.
    pub workflows: Vec<String>,
    /// Only of runs with all of these.
    pub labels: Vec<(String, String)>,
    /// Also of how children begin and end; of their questions anyhow.
    pub children: bool,
    /// What runs work on is told, too.
    pub content: bool,
    /// The part of a budget of which it is said that it is nearly spent.
    pub budget: f64,
    pub timeout_ms: u64,
    /// How long it is tried again.
    pub give_up_ms: u64,
}

/// Where to.
#[derive(Clone, PartialEq, Debug)]
pub enum SinkTo {
    Url {
        url: String,
        /// What messages are signed with; each signs while one takes the place of the other. Nothing is
        /// signed if there is none.
        secrets: Vec<SecretSource>,
    },
    Program {
        argv: Vec<String>,
        directory: PathBuf,
        /// Names of variables that it gets besides the usual ones.
        env: Vec<String>,
    },
}

impl Sink {
    /// Whether it wants to be told of that kind of event.
    pub fn wants(&self, event: &str) -> bool {
        self.events.iter().any(|wanted| wanted == event)
    }

    /// Whether runs of that workflow are among those that it is told of.
    pub fn is_about(&self, workflow: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => workflow.starts_with(prefix),
            None => workflow == pattern,
        };
        self.workflows.is_empty() || self.workflows.iter().any(fits)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SinkFile {
    url: Option<String>,
    secret_env: Option<String>,
    secret_file: Option<PathBuf>,
    old_secret_env: Option<String>,
    old_secret_file: Option<PathBuf>,
    /// Only `false`: nothing is signed. Never a value.
    secret: Option<Value>,
    argv: Option<Vec<String>>,
    #[serde(default)]
    env: Vec<String>,
    directory: Option<PathBuf>,
    events: Option<Vec<String>>,
    #[serde(default)]
    workflows: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    children: bool,
    #[serde(default)]
    content: bool,
    budget: Option<f64>,
    timeout: Option<String>,
    give_up: Option<String>,
}

fn wrong(path: &Path, key: String, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value { path: path.to_owned(), key, reason: reason.into() }
}

/// The events that a pattern stands for: `run.*`, `*`, or one.
fn events_of(pattern: &str) -> Vec<String> {
    let fits = |event: &&str| match pattern.strip_suffix('*') {
        Some(prefix) => event.starts_with(prefix),
        None => *event == pattern,
    };
    EVENTS.into_iter().filter(fits).map(str::to_owned).collect()
}

/// A sink as a file has it. `project`: that of the file, if only its runs are told of.
pub(super) fn sink(
    path: &Path,
    name: &str,
    file: &SinkFile,
    project: Option<&str>,
) -> Result<Sink, ConfigError> {
    let key = |key: &str| format!("sinks.{name}.{key}");
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_name) {
        let reason = "a name has 1 to 64 letters, digits, `_` and `-`";
        return Err(wrong(path, format!("sinks.{name:?}"), reason));
    }
    if RESERVED.contains(&name) {
        let reason = "the database has the name for the export of traces: choose another one";
        return Err(wrong(path, format!("sinks.{name}"), reason));
    }
    let secret = |env: &Option<String>, file: &Option<PathBuf>| {
        let env = env.clone().map(SecretSource::Env);
        env.or_else(|| file.as_ref().map(|file| SecretSource::File(beside(path, file))))
    };
    let secrets =
        [secret(&file.secret_env, &file.secret_file), secret(&file.old_secret_env, &file.old_secret_file)];
    let unsigned = match &file.secret {
        None => false,
        Some(Value::Boolean(false)) => true,
        Some(_) => {
            return Err(ConfigError::Secret {
                path: path.to_owned(),
                key: key("secret"),
                instead: "name where it is: `secret_env = \"NAME\"`, or `secret_file = \"FILE\"`".to_owned(),
            });
        }
    };
    let to = match (&file.url, &file.argv) {
        (Some(_), Some(_)) => return Err(wrong(path, key("argv"), "there is an `url`, too")),
        (None, None) => return Err(wrong(path, key("url"), "there is neither `url` nor `argv`")),
        (Some(url), None) => {
            let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            let is_url = host.is_some_and(|host| {
                !host.starts_with(['/', '?', '#']) && !host.is_empty() && !url.contains(char::is_whitespace)
            });
            if !is_url {
                return Err(wrong(path, key("url"), "it begins with https:// or http://"));
            }
            let secrets: Vec<_> = secrets.into_iter().flatten().collect();
            if secrets.is_empty() != unsigned {
                let reason = match unsigned {
                    true => "`secret = false` stands beside a secret",
                    false => {
                        "it is missing; without one receivers cannot know who speaks: then `secret = false`"
                    }
                };
                return Err(wrong(path, key("secret_env"), reason));
            }
            SinkTo::Url { url: url.clone(), secrets }
        }
        (None, Some(argv)) => {
            let [program, arguments @ ..] = argv.as_slice() else {
                return Err(wrong(path, key("argv"), "it is empty"));
            };
            // A path is relative to the file; a name is looked for in PATH.
            let program = match program.contains('/') {
                true => beside(path, Path::new(program)).to_string_lossy().into_owned(),
                false => program.clone(),
            };
            let argv = std::iter::once(program).chain(arguments.iter().cloned()).collect();
            let directory = beside(path, file.directory.as_deref().unwrap_or(Path::new("")));
            SinkTo::Program { argv, directory, env: file.env.clone() }
        }
    };
    let mut events = Vec::new();
    match &file.events {
        None => events.extend(USUAL.map(str::to_owned)),
        Some(patterns) => {
            for pattern in patterns {
                let found = events_of(pattern);
                if found.is_empty() {
                    let reason = format!("unknown event `{pattern}`; known events: {}", EVENTS.join(", "));
                    return Err(wrong(path, key("events"), reason));
                }
                events.extend(found);
            }
        }
    }
    let length = |name: &str, text: &Option<String>, usual: u64, range: std::ops::RangeInclusive<u64>| {
        let Some(text) = text else { return Ok(usual) };
        let millis = units::millis(text).map_err(|reason| wrong(path, key(name), reason))?;
        match range.contains(&millis) {
            true => Ok(millis),
            false => Err(wrong(path, key(name), "that is too short, or too long")),
        }
    };
    let budget = file.budget.unwrap_or(NEARLY);
    if !(budget > 0.0 && budget <= 1.0) {
        return Err(wrong(path, key("budget"), "it is a part of a budget: more than 0, up to 1"));
    }
    Ok(Sink {
        name: name.to_owned(),
        id: match project {
            Some(project) => format!("{name}@{project}"),
            None => name.to_owned(),
        },
        to,
        events,
        project: project.map(str::to_owned),
        workflows: file.workflows.clone(),
        labels: file.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        children: file.children,
        content: file.content,
        budget,
        timeout_ms: length("timeout", &file.timeout, TIMEOUT_MS, 100..=600_000)?,
        give_up_ms: length("give_up", &file.give_up, GIVE_UP_MS, 0..=31_536_000_000)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Sink, String> {
        let file: SinkFile = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        sink(Path::new("/p/wfhost.toml"), "ops", &file, Some("/p/wfhost.toml"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_sink_is_read_with_all_that_it_says() {
        let sink = read(
            "url = \"https://x/y\"\nsecret_env = \"S\"\nold_secret_file = \"old\"\nevents = [\"run.*\"]\n\
             workflows = [\"review*\"]\nlabels = { team = \"red\" }\ncontent = true\ntimeout = \"2s\"",
        )
        .unwrap();
        assert_eq!(
            (sink.id.as_str(), sink.timeout_ms, sink.give_up_ms),
            ("ops@/p/wfhost.toml", 2_000, GIVE_UP_MS)
        );
        assert!(sink.wants("run.started") && !sink.wants("question.asked"));
        assert!(sink.is_about("reviewer") && !sink.is_about("report"));
        let secrets = vec![SecretSource::Env("S".to_owned()), SecretSource::File("/p/old".into())];
        assert_eq!(sink.to, SinkTo::Url { url: "https://x/y".to_owned(), secrets });
        let sink = read("argv = [\"./page\", \"./now\"]").unwrap();
        assert!(!sink.wants("run.started") && sink.wants("budget.low"));
        let SinkTo::Program { argv, directory, .. } = sink.to else { panic!() };
        assert_eq!(
            (argv, directory),
            (vec!["/p/./page".to_owned(), "./now".to_owned()], PathBuf::from("/p/"))
        );
    }

    /// It would go on where the exporter is, and the exporter where it is.
    #[test]
    fn a_sink_has_a_cursor_of_its_own() {
        let file: SinkFile = toml::from_str("argv = [\"x\"]").unwrap();
        for name in RESERVED {
            let refused = sink(Path::new("/p/wfhost.toml"), name, &file, None).unwrap_err();
            assert_eq!(refused.code(), "WF0704");
            assert!(refused.to_string().contains(&format!("`sinks.{name}`: the database has the name")));
        }
        assert!(sink(Path::new("/p/wfhost.toml"), "otlp2", &file, None).is_ok());
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        for (text, said) in [
            ("secret_env = \"S\"", "neither"),
            ("url = \"https://x\"\nargv = [\"y\"]", "too"),
            ("url = \"ftp://x\"\nsecret_env = \"S\"", "https://"),
            ("url = \"https://\"\nsecret_env = \"S\"", "https://"),
            ("url = \"https://x\"", "secret = false"),
            ("url = \"https://x\"\nsecret = \"whsec_abc\"", "contains a secret"),
            ("url = \"https://x\"\nsecret = false\nsecret_env = \"S\"", "beside"),
            ("argv = []", "empty"),
            ("argv = [\"x\"]\nevents = [\"run.ended\"]", "unknown event `run.ended`"),
            ("argv = [\"x\"]\nbudget = 80.0", "part of a budget"),
            ("argv = [\"x\"]\ntimeout = \"1ms\"", "too short"),
            ("argv = [\"x\"]\nurls = \"x\"", "unknown field"),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }
}
