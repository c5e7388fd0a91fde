//! Coding agents whose command lines are known.
//!
//! Versions that these were tried with: Claude Code 2.1, codex 0.169, gemini
//! 0.61, opencode 1.18 (`tests/agents-real/run`). What guests say stands in
//! arguments of the form `--option=VALUE` or behind `--`, and prompts come by
//! stdin wherever the program reads it.

use serde_json::Value;

use super::PromptBy;
use super::events::{self, Said};
use crate::CallOutput;

/// What the arguments of a coding agent are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arguments<'a> {
    /// The conversation to continue.
    pub session: Option<&'a str>,
    pub model: Option<&'a str>,
    /// What was configured.
    pub more: &'a [String],
    /// Leave the conversation as it is, and begin a new one from there.
    pub fork: bool,
}

/// How the program of a coding agent is asked, and what it writes.
pub struct Preset {
    pub name: &'static str,
    /// What is looked for on PATH.
    pub program: &'static str,
    /// Variables of the host that it gets besides the usual ones and [`NETWORK`].
    pub env: &'static [&'static str],
    pub prompt: PromptBy,
    /// Exit codes that mean: the user is not logged in.
    pub(super) no_login: &'static [i32],
    pub(super) args: fn(&Arguments<'_>) -> Vec<String>,
    pub(super) take: fn(&mut Said, &Value, &CallOutput),
    /// Whether a line of stderr says that the user is not logged in. For programs that say it nowhere else.
    pub(super) wants_login: fn(&str) -> bool,
}

/// How a coding agent reaches its service, and whether it reports on its user:
/// variables that all of them get.
pub(super) const NETWORK: [&str; 17] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "DISABLE_TELEMETRY",
    "DISABLE_ERROR_REPORTING",
    "DISABLE_AUTOUPDATER",
    "DO_NOT_TRACK",
    "CI",
    "NO_COLOR",
];

impl std::fmt::Debug for Preset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Preset({})", self.name)
    }
}

impl Preset {
    /// The preset of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }
}

fn never(_: &str) -> bool {
    false
}

/// All that are known; the first one on PATH is the default of a host
/// that was configured with nothing.
pub static PRESETS: [Preset; 6] = [
    Preset {
        name: "claude",
        program: "claude",
        env: &[
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_AUTH_TOKEN",
            "ANTHROPIC_BASE_URL",
            "ANTHROPIC_MODEL",
            "ANTHROPIC_CUSTOM_HEADERS",
            "CLAUDE_CONFIG_DIR",
            "CLAUDE_CODE_OAUTH_TOKEN",
            "CLAUDE_CODE_USE_BEDROCK",
            "CLAUDE_CODE_USE_VERTEX",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
        ],
        prompt: PromptBy::Stdin,
        no_login: &[],
        args: |asked| {
            let mut args = words(&["-p", "--output-format", "stream-json", "--verbose"]);
            option(&mut args, "--model", asked.model);
            option(&mut args, "--resume", asked.session);
            if asked.session.is_some() && asked.fork {
                args.push("--fork-session".to_owned());
            }
            args.extend_from_slice(asked.more);
            args
        },
        take: events::claude,
        wants_login: never,
    },
    Preset {
        name: "codex",
        program: "codex",
        env: &[
            "OPENAI_API_KEY",
            "CODEX_API_KEY",
            "CODEX_HOME",
            "OPENAI_BASE_URL",
            "OPENAI_ORGANIZATION",
            "OPENAI_PROJECT",
        ],
        prompt: PromptBy::Stdin,
        no_login: &[],
        args: |asked| {
            let mut args = words(&["exec", "--json", "--skip-git-repo-check"]);
            option(&mut args, "--model", asked.model);
            args.extend_from_slice(asked.more);
            if let Some(session) = asked.session {
                args.extend(words(&[if asked.fork { "fork" } else { "resume" }, "--", session]));
            }
            // The prompt comes by stdin.
            args.push("-".to_owned());
            args
        },
        take: events::codex,
        wants_login: events::codex_wants_login,
    },
    Preset {
        name: "gemini",
        program: "gemini",
        env: &[
            "GEMINI_API_KEY",
            "GEMINI_MODEL",
            "GEMINI_TELEMETRY_ENABLED",
            "GOOGLE_API_KEY",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_CLOUD_PROJECT",
            "GOOGLE_CLOUD_LOCATION",
            "GOOGLE_GEMINI_BASE_URL",
            "GOOGLE_GENAI_USE_GCA",
            "GOOGLE_GENAI_USE_VERTEXAI",
            "GOOGLE_VERTEX_BASE_URL",
        ],
        prompt: PromptBy::Stdin,
        // Its FatalAuthenticationError.
        no_login: &[41],
        args: |asked| {
            // It works in directories that are new to it.
            let mut args = words(&["--skip-trust", "--output-format", "stream-json"]);
            option(&mut args, "--model", asked.model);
            option(&mut args, "--resume", asked.session);
            args.extend_from_slice(asked.more);
            args
        },
        take: events::gemini,
        wants_login: never,
    },
    Preset {
        name: "opencode",
        program: "opencode",
        env: &[
            "ANTHROPIC_API_KEY",
            "OPENAI_API_KEY",
            "OPENROUTER_API_KEY",
            "GEMINI_API_KEY",
            "OPENCODE_CONFIG",
            "OPENCODE_CONFIG_CONTENT",
            "OPENCODE_CONFIG_DIR",
            "OPENCODE_PERMISSION",
            "OPENCODE_DISABLE_AUTOUPDATE",
        ],
        prompt: PromptBy::Stdin,
        no_login: &[],
        args: |asked| {
            let mut args = words(&["run", "--format", "json"]);
            option(&mut args, "--model", asked.model);
            option(&mut args, "--session", asked.session);
            if asked.session.is_some() && asked.fork {
                args.push("--fork".to_owned());
            }
            args.extend_from_slice(asked.more);
            args
        },
        take: events::opencode,
        wants_login: never,
    },
    Preset {
        name: "cursor-agent",
        program: "cursor-agent",
        env: &["CURSOR_API_KEY"],
        prompt: PromptBy::Argument,
        no_login: &[],
        args: |asked| {
            let mut args = words(&["-p", "--output-format", "stream-json"]);
            option(&mut args, "--model", asked.model);
            option(&mut args, "--resume", asked.session);
            args.extend_from_slice(asked.more);
            // A prompt may begin with a dash.
            args.push("--".to_owned());
            args
        },
        take: events::claude,
        wants_login: never,
    },
    Preset {
        name: "amp",
        program: "amp",
        env: &["AMP_API_KEY", "AMP_URL", "AMP_SETTINGS_FILE"],
        prompt: PromptBy::Stdin,
        no_login: &[],
        args: |asked| {
            // Its session is an argument of its own: one that begins with a dash was refused before.
            let mut args = match asked.session {
                Some(session) => words(&["threads", "continue", session]),
                None => Vec::new(),
            };
            args.extend(words(&["--execute", "--stream-json"]));
            args.extend_from_slice(asked.more);
            args
        },
        take: events::claude,
        wants_login: never,
    },
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// `--name=value`: whatever the value is, it is no option.
fn option(args: &mut Vec<String>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        args.push(format!("{name}={value}"));
    }
}
