//! What the configuration says of modules and where they come from.

use std::path::Path;

use wfhost_registry::Reference;

use super::ConfigError;
use super::file::beside;

/// What a name in `[modules]` stands for: a reference, or a path, which is relative to the file.
pub(super) fn module(file: &Path, name: &str, module: &str) -> Result<String, ConfigError> {
    let wrong =
        |reason: String| ConfigError::Value { path: file.to_owned(), key: format!("modules.{name}"), reason };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(wrong("a module's name has letters, digits, - and _".to_owned()));
    }
    if !Reference::is_meant(module) {
        return Ok(beside(file, Path::new(module)).to_string_lossy().into_owned());
    }
    let reference: Reference = module.parse().map_err(|error| wrong(format!("{error}")))?;
    Ok(reference.to_string())
}
