//! Coding agents whose command lines are known.

use serde_json::Value;
use wfhost_core::AgentRequest;

use super::PromptBy;
use super::events::{self, Said};
use crate::CallOutput;

/// The arguments for a session, a model, what was configured, and a request.
pub(super) type Arguments = fn(Option<&str>, Option<&str>, &[String], &AgentRequest) -> Vec<String>;

/// How the program of a coding agent is asked, and what it writes.
pub struct Preset {
    pub name: &'static str,
    /// What is looked for on PATH.
    pub program: &'static str,
    /// Variables of the host that it gets besides the usual ones.
    pub env: &'static [&'static str],
    pub prompt: PromptBy,
    pub(super) args: Arguments,
    pub(super) take: fn(&mut Said, &Value, &CallOutput),
}

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

/// All that are known; the first one on PATH is the default of a host
/// that was configured with nothing.
pub static PRESETS: [Preset; 6] = [
    Preset {
        name: "claude",
        program: "claude",
        env: &["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_OAUTH_TOKEN"],
        prompt: PromptBy::Stdin,
        args: |session, model, more, request| {
            let mut args = words(&["-p", "--output-format", "stream-json", "--verbose"]);
            option(&mut args, "--model", model);
            option(&mut args, "--resume", session);
            if session.is_some() && wants_fork(request) {
                args.push("--fork-session".to_owned());
            }
            args.extend_from_slice(more);
            args
        },
        take: events::claude,
    },
    Preset {
        name: "codex",
        program: "codex",
        env: &["OPENAI_API_KEY", "CODEX_API_KEY", "CODEX_HOME"],
        prompt: PromptBy::Stdin,
        args: |session, model, more, _| {
            let mut args = words(&["exec", "--json", "--skip-git-repo-check"]);
            option(&mut args, "--model", model);
            args.extend_from_slice(more);
            if let Some(session) = session {
                args.extend(words(&["resume", session]));
            }
            // The prompt comes by stdin.
            args.push("-".to_owned());
            args
        },
        take: events::codex,
    },
    Preset {
        name: "gemini",
        program: "gemini",
        env: &["GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_CLOUD_PROJECT", "GOOGLE_GENAI_USE_VERTEXAI"],
        prompt: PromptBy::Stdin,
        args: |session, model, more, _| {
            let mut args = words(&["--output-format", "stream-json"]);
            option(&mut args, "--model", model);
            option(&mut args, "--resume", session);
            args.extend_from_slice(more);
            args
        },
        take: events::gemini,
    },
    Preset {
        name: "opencode",
        program: "opencode",
        env: &["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENCODE_CONFIG"],
        prompt: PromptBy::Argument,
        args: |session, model, more, request| {
            let mut args = words(&["run", "--format", "json"]);
            option(&mut args, "--model", model);
            option(&mut args, "--session", session);
            if session.is_some() && wants_fork(request) {
                args.push("--fork".to_owned());
            }
            args.extend_from_slice(more);
            // A prompt may begin with a dash.
            args.push("--".to_owned());
            args
        },
        take: events::opencode,
    },
    Preset {
        name: "cursor-agent",
        program: "cursor-agent",
        env: &["CURSOR_API_KEY"],
        prompt: PromptBy::Argument,
        args: |session, model, more, _| {
            let mut args = words(&["-p", "--output-format", "stream-json"]);
            option(&mut args, "--model", model);
            option(&mut args, "--resume", session);
            args.extend_from_slice(more);
            args.push("--".to_owned());
            args
        },
        take: events::claude,
    },
    Preset {
        name: "amp",
        program: "amp",
        env: &["AMP_API_KEY", "AMP_URL"],
        prompt: PromptBy::Stdin,
        args: |session, _, more, _| {
            let mut args = match session {
                Some(session) => words(&["threads", "continue", session]),
                None => Vec::new(),
            };
            args.extend(words(&["--execute", "--stream-json"]));
            args.extend_from_slice(more);
            args
        },
        take: events::claude,
    },
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn option(args: &mut Vec<String>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        args.extend(words(&[name, value]));
    }
}

/// The option `fork` of a call: the session stays as it is, and a new one
/// goes on from there.
fn wants_fork(request: &AgentRequest) -> bool {
    request.options.as_ref().is_some_and(|options| options.value()["fork"] == true)
}
