//! The provider of a host that was configured with none.

use super::PRESETS;
use super::command::find_program;

/// A provider that would do, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suggested {
    pub provider: &'static str,
    pub why: String,
}

/// What the environment suggests: a key of a model's service, else a coding
/// agent on PATH.
pub fn suggested() -> Option<Suggested> {
    let keys = [("anthropic", "ANTHROPIC_API_KEY"), ("openai", "OPENAI_API_KEY")];
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let key = keys.into_iter().find(|(_, name)| is_set(name));
    let by_key = key.map(|(provider, name)| Suggested { provider, why: format!("{name} is set") });
    by_key.or_else(|| {
        let preset = PRESETS.iter().find(|preset| find_program(preset.program).is_some())?;
        let why = format!("`{}` is on PATH", preset.program);
        Some(Suggested { provider: preset.name, why })
    })
}
