//! `wfhost new`

use std::path::{Path, PathBuf};

use wfhost::world::text::quoted;
use wfhost_build::Sdk;

use super::diagnostic::{Exit, UserError};
use super::{Common, printer};

/// Create a new workflow or plugin project
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost new hello && cd hello && wfhost run --agent echo
  wfhost new hello -t js
  wfhost new helper -t plugin
  wfhost new helper -t plugin-go")]
pub(crate) struct New {
    /// The directory to create; its last part names the project
    dir: PathBuf,
    /// The language; the plugin templates create an agent that is a component
    #[arg(short, long, value_enum, default_value = "rust", value_name = "LANGUAGE")]
    template: Template,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Template {
    Rust,
    /// TypeScript
    Js,
    Python,
    Go,
    C,
    /// An agent in Rust
    Plugin,
    /// An agent in TypeScript
    PluginJs,
    /// An agent in Python
    PluginPython,
    /// An agent in Go
    PluginGo,
}

impl Template {
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Rust => RUST,
            Self::Js => JS,
            Self::Python => PYTHON,
            Self::Go => GO,
            Self::C => C,
            Self::Plugin => PLUGIN,
            Self::PluginJs => PLUGIN_JS,
            Self::PluginPython => PLUGIN_PYTHON,
            Self::PluginGo => PLUGIN_GO,
        }
    }

    /// What installs the tools of the project.
    fn tools(self) -> &'static str {
        match self {
            Self::Js | Self::PluginJs => "npm install && ",
            Self::Python | Self::PluginPython => {
                "python3 -m venv .venv && .venv/bin/pip install componentize-py==0.25.1 && "
            }
            Self::Rust | Self::Go | Self::C | Self::Plugin | Self::PluginGo => "",
        }
    }

    /// The SDK that comes with wfhost. That of Rust is copied, so that the project builds anywhere.
    fn sdk(self) -> Option<Sdk> {
        match self {
            Self::Rust | Self::Plugin => None,
            Self::Js | Self::PluginJs => Some(Sdk::Js),
            Self::Python | Self::PluginPython => Some(Sdk::Python),
            Self::Go | Self::PluginGo => Some(Sdk::Go),
            Self::C => Some(Sdk::C),
        }
    }

    fn is_plugin(self) -> bool {
        matches!(self, Self::Plugin | Self::PluginJs | Self::PluginPython | Self::PluginGo)
    }
}

/// The files of a project, `{{name}}` standing for its name.
const RUST: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../templates/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("../templates/rust/src/lib.rs")),
    ("README.md", include_str!("../templates/rust/README.md")),
    ("agents.json", include_str!("../templates/rust/agents.json")),
    (".gitignore", "/target\n"),
];

/// The same in TypeScript, whose SDK `wfhost build` brings along.
const JS: &[(&str, &str)] = &[
    ("workflow.ts", include_str!("../templates/js/workflow.ts")),
    ("package.json", include_str!("../templates/js/package.json")),
    ("tsconfig.json", include_str!("../templates/js/tsconfig.json")),
    ("README.md", include_str!("../templates/js/README.md")),
    ("agents.json", include_str!("../templates/rust/agents.json")),
    (".gitignore", "/node_modules\n/target\n"),
];

/// The same in Python.
const PYTHON: &[(&str, &str)] = &[
    ("workflow.py", include_str!("../templates/python/workflow.py")),
    ("pyproject.toml", include_str!("../templates/python/pyproject.toml.txt")),
    ("README.md", include_str!("../templates/python/README.md")),
    ("agents.json", include_str!("../templates/rust/agents.json")),
    (".gitignore", "/.venv\n/target\n__pycache__\n"),
];

/// The same in Go, whose SDK `wfhost build` brings along.
const GO: &[(&str, &str)] = &[
    ("workflow.go", include_str!("../templates/go/workflow.go")),
    ("go.mod", include_str!("../templates/go/go.mod.txt")),
    ("go.work", include_str!("../templates/go/go.work.txt")),
    ("README.md", include_str!("../templates/go/README.md")),
    ("agents.json", include_str!("../templates/rust/agents.json")),
    (".gitignore", "/target\n"),
];

/// The same in C, whose SDK `wfhost build` brings along.
const C: &[(&str, &str)] = &[
    ("workflow.c", include_str!("../templates/c/workflow.c")),
    ("compile_flags.txt", include_str!("../templates/c/compile_flags.txt")),
    ("README.md", include_str!("../templates/c/README.md")),
    ("agents.json", include_str!("../templates/rust/agents.json")),
    (".gitignore", "/target\n"),
];

/// An agent as a component.
const PLUGIN: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../templates/plugin/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("../templates/plugin/src/lib.rs")),
    ("README.md", include_str!("../templates/plugin/README.md")),
    ("test.json", include_str!("../templates/plugin/test.json")),
    ("wfhost.toml", include_str!("../templates/plugin/wfhost.toml.txt")),
    (".gitignore", "/target\n"),
];

/// The same in TypeScript.
const PLUGIN_JS: &[(&str, &str)] = &[
    ("plugin.ts", include_str!("../templates/plugin-js/plugin.ts")),
    ("package.json", include_str!("../templates/js/package.json")),
    ("tsconfig.json", include_str!("../templates/plugin-js/tsconfig.json")),
    ("README.md", include_str!("../templates/plugin-js/README.md")),
    ("plugin.toml", include_str!("../templates/plugin/plugin.toml.txt")),
    ("test.json", include_str!("../templates/plugin/test.json")),
    ("wfhost.toml", include_str!("../templates/plugin/wfhost.toml.txt")),
    (".gitignore", "/node_modules\n/target\n"),
];

/// The same in Python.
const PLUGIN_PYTHON: &[(&str, &str)] = &[
    ("plugin.py", include_str!("../templates/plugin-python/plugin.py")),
    ("pyproject.toml", include_str!("../templates/plugin-python/pyproject.toml.txt")),
    ("README.md", include_str!("../templates/plugin-python/README.md")),
    ("plugin.toml", include_str!("../templates/plugin/plugin.toml.txt")),
    ("test.json", include_str!("../templates/plugin/test.json")),
    ("wfhost.toml", include_str!("../templates/plugin/wfhost.toml.txt")),
    (".gitignore", "/.venv\n/target\n__pycache__\n"),
];

/// The same in Go.
const PLUGIN_GO: &[(&str, &str)] = &[
    ("plugin.go", include_str!("../templates/plugin-go/plugin.go")),
    ("go.mod", include_str!("../templates/go/go.mod.txt")),
    ("go.work", include_str!("../templates/go/go.work.txt")),
    ("README.md", include_str!("../templates/plugin-go/README.md")),
    ("plugin.toml", include_str!("../templates/plugin/plugin.toml.txt")),
    ("test.json", include_str!("../templates/plugin/test.json")),
    ("wfhost.toml", include_str!("../templates/plugin/wfhost.toml.txt")),
    (".gitignore", "/target\n"),
];

macro_rules! sdk {
    ($($file:literal),* $(,)?) => {
        /// The SDK, which is copied into the project, so that it builds anywhere.
        const SDK: &[(&str, &str)] =
            &[$(($file, include_str!(concat!("../../../guest-sdk/", $file)))),*];
    };
}

sdk![
    "Cargo.toml",
    "README.md",
    "macros/Cargo.toml",
    "macros/src/agent.rs",
    "macros/src/lib.rs",
    "macros/src/scenarios.rs",
    "macros/src/says.rs",
    "macros/src/workflow.rs",
    "src/agent.rs",
    "src/ask.rs",
    "src/call.rs",
    "src/bindings.rs",
    "src/child.rs",
    "src/choice.rs",
    "src/context.rs",
    "src/describe.rs",
    "src/entry.rs",
    "src/error.rs",
    "src/executor.rs",
    "src/failure.rs",
    "src/lib.rs",
    "src/logging.rs",
    "src/panics.rs",
    "src/parallel.rs",
    "src/plugin/bindings.rs",
    "src/plugin/call.rs",
    "src/plugin/entry.rs",
    "src/plugin/failure.rs",
    "src/plugin/http.rs",
    "src/plugin/mod.rs",
    "src/policy.rs",
    "src/repeat.rs",
    "src/reply.rs",
    "src/saga.rs",
    "src/signal.rs",
    "src/sleep.rs",
    "src/step.rs",
    "src/testing.rs",
    "src/time.rs",
];

impl New {
    pub fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let legal = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if !legal || name == "wfhost" || name == "wfhost-sdk" {
            return Err(UserError::usage("WF0610", format!("invalid project name `{name}`"))
                .hint("a name starts with a letter and consists of letters, digits, `-` and `_`"));
        }
        let used = std::fs::read_dir(&self.dir).is_ok_and(|mut entries| entries.next().is_some());
        if used || self.dir.is_file() {
            return Err(UserError::usage("WF0610", format!("{} already exists", self.dir.display()))
                .hint("choose another name, or an empty directory"));
        }
        let is_new = !self.dir.exists();
        self.write_all(&name).inspect_err(|_| {
            // A part of it would be in the way of the next try.
            if is_new {
                let _ = std::fs::remove_dir_all(&self.dir);
            }
        })?;
        printer::say(common, "Created", &name);
        let dir = self.dir.to_string_lossy();
        let next = match self.template.is_plugin() {
            true => format!("wfhost build && wfhost plugin test target/wfhost/{name}.wasm --cases test.json"),
            false => "wfhost run --agents agents.json".to_owned(),
        };
        printer::say(common, "next", &format!("cd {} && {}{next}", quoted(&dir), self.template.tools()));
        printer::line(self.dir.display().to_string());
        Ok(Exit::Done)
    }
}

impl New {
    fn write_all(&self, name: &str) -> Result<(), UserError> {
        for (file, text) in self.template.files() {
            write(&self.dir.join(file), &text.replace("{{name}}", name))?;
        }
        for (file, text) in SDK.iter().filter(|_| self.template.sdk().is_none()) {
            write(&self.dir.join("wfhost-sdk").join(file), text)?;
        }
        match self.template.sdk() {
            // For editors, before the first build.
            Some(sdk) => wfhost_build::provide_sdk(&self.dir, sdk).map(drop).map_err(super::build::failed),
            None => Ok(()),
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), UserError> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, text))
        .map_err(|error| UserError::host("WF0608", format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_sdk_is_copied() {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk");
        let mut files = Vec::new();
        for dir in ["src", "src/plugin", "macros/src"] {
            let entries = std::fs::read_dir(sdk.join(dir)).unwrap().map(Result::unwrap);
            let entries = entries.filter(|entry| entry.path().is_file());
            files.extend(entries.map(|entry| format!("{dir}/{}", entry.file_name().to_string_lossy())));
        }
        files.extend(["Cargo.toml", "README.md", "macros/Cargo.toml"].map(str::to_owned));
        files.sort();
        let mut copied: Vec<_> = SDK.iter().map(|(file, _)| (*file).to_owned()).collect();
        copied.sort();
        assert_eq!(copied, files);
    }
}
