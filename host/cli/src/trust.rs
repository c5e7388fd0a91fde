//! `wfhost trust`, `wfhost untrust`

use std::path::{Path, PathBuf};

use wfhost_config::{Agreed, Config, Origin, Project};

use super::diagnostic::{Exit, UserError};
use super::{Common, printer};

/// Trust the wfhost.toml of a project
///
/// A project file that names programs, addresses or secrets is refused until you trust
/// it. Trust applies to its current content: a changed file is refused again.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost trust
  wfhost trust ~/src/reviews")]
pub(crate) struct Trust {
    /// The project's directory, or one below it
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// Stop trusting a project
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost untrust
  wfhost untrust ~/src/reviews")]
pub(crate) struct Untrust {
    /// The project's directory, or one below it
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// The project of a directory.
fn project(common: &Common, dir: &Path) -> Result<(Config, Project), UserError> {
    let dir = dir
        .canonicalize()
        .map_err(|error| UserError::usage("WF0004", format!("{} cannot be read: {error}", dir.display())))?;
    let config = common.config_of(&dir)?;
    let Some(project) = config.project().cloned() else {
        return Err(UserError::usage("WF0709", format!("{} does not belong to a project", dir.display()))
            .hint("a project is a directory with a wfhost.toml, and everything below it"));
    };
    Ok((config, project))
}

impl Trust {
    pub fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let (config, project) = project(common, &self.dir)?;
        // What could not be used is nothing to agree to.
        config.check()?;
        let path = project.path.display();
        if project.keys.is_empty() {
            printer::say(common, "Harmless", &format!("{path} contains nothing that needs trust"));
            return Ok(Exit::Done);
        }
        let own = Origin::Project(project.path.clone());
        for setting in config.settings().into_iter().filter(|setting| setting.origin == own) {
            let shown = project.keys.iter().any(|key| {
                setting.key == *key
                    || setting.key.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('.'))
            });
            if shown {
                printer::say(common, "sets", &format!("{} = {}", setting.key, setting.value));
            }
        }
        common.consent().agree(&project.path, &project.text).map_err(|error| {
            UserError::host("WF0708", format!("the trust in {path} cannot be recorded: {error}"))
                .hint("set HOME or XDG_STATE_HOME to a directory that you can write to, or use WFHOST_TRUST")
        })?;
        printer::say(common, "Trusted", &format!("{path}, with its current content"));
        Ok(Exit::Done)
    }
}

impl Untrust {
    pub fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let (_, project) = project(common, &self.dir)?;
        let path = project.path.display();
        let withdrawn = common.consent().withdraw(&project.path).map_err(|error| {
            UserError::host("WF0708", format!("the trust in {path} cannot be removed: {error}"))
        })?;
        let text = match (withdrawn, project.agreed) {
            (true, _) => format!("{path} is no longer trusted"),
            (false, Agreed::Yes) => format!("{path} is trusted only by --config, --trust or WFHOST_TRUST"),
            (false, _) => format!("{path} was not trusted"),
        };
        printer::say(common, "Untrust", &text);
        Ok(Exit::Done)
    }
}
