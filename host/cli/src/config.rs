//! `wfhost config`

use serde_json::json;
use wfhost::world::environment;
use wfhost_config::{Config, ConfigError, Origin, Setting};

use super::diagnostic::{Exit, UserError};
use super::{Common, Format, printer};

/// Show the configuration
#[derive(clap::Args)]
pub(crate) struct ConfigVerb {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Show every value and its origin
    Show,
}

impl ConfigVerb {
    pub fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let What::Show = self.what;
        let config = common.config()?;
        // What cannot be used is not shown as if it held, but what is to be agreed to has to be looked at.
        match config.providers() {
            Err(error @ ConfigError::Untrusted { .. }) => printer::say(common, "Note", &error.to_string()),
            providers => drop(providers?),
        }
        let settings = in_force(common, &config)?;
        if common.output != Format::Text {
            let settings = settings.iter().map(|Setting { key, value, origin }| {
                json!({ "key": key, "value": value, "origin": origin.to_string() })
            });
            let settings: Vec<_> = settings.collect();
            printer::json(&json!({ "schema": "wfhost/config/1", "settings": settings }));
            return Ok(Exit::Done);
        }
        for Setting { key, value, origin } in &settings {
            printer::line(format!("{key} = {value}   # {origin}"));
        }
        Ok(Exit::Done)
    }
}

/// Every value that applies, with its origin: files, the environment, flags.
pub(super) fn in_force(common: &Common, config: &Config) -> Result<Vec<Setting>, UserError> {
    let mut settings: Vec<_> =
        config.settings().into_iter().filter(|setting| setting.key != "store.url").collect();
    settings.push(store(common, config.store()?.is_some().then(|| config.settings()))?);
    let agent = environment::text(environment::AGENT);
    if let Some(agent) = agent {
        settings.retain(|setting| setting.key != "agents.default");
        settings.push(Setting {
            key: "agents.default".to_owned(),
            value: format!("{agent:?}"),
            origin: Origin::Environment(environment::AGENT.to_owned()),
        });
    }
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(settings)
}

/// The location of the database, and its origin.
fn store(common: &Common, configured: Option<Vec<Setting>>) -> Result<Setting, UserError> {
    let by_environment = environment::get(environment::DB);
    let origin = match (&common.db, configured) {
        (Some(db), _) if by_environment.is_some_and(|set| set == db.as_named()) => {
            Origin::Environment(environment::DB.to_owned())
        }
        (Some(_), _) => Origin::Flag("--db".to_owned()),
        (None, Some(settings)) => settings
            .into_iter()
            .find(|setting| setting.key == "store.url")
            .map_or(Origin::Default, |setting| setting.origin),
        (None, None) => Origin::Default,
    };
    let value = format!("{:?}", common.place()?.to_string());
    Ok(Setting { key: "store.url".to_owned(), value, origin })
}
