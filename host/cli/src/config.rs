//! `wfhost config`

use serde_json::json;
use wfhost_config::{Origin, Setting};

use super::diagnostic::{Exit, Trouble};
use super::{Common, Format, print_line};

/// Show the configuration
#[derive(clap::Args)]
pub(crate) struct ConfigVerb {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Every value that holds, and where it comes from
    Show,
}

impl ConfigVerb {
    pub fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let What::Show = self.what;
        let config = common.config()?;
        // What cannot be used is not shown as if it held.
        config.providers()?;
        let mut settings: Vec<_> =
            config.settings().into_iter().filter(|setting| setting.key != "store.url").collect();
        settings.push(store(common, config.store().is_some().then(|| config.settings()))?);
        let agent = std::env::var("WFHOST_AGENT").ok().filter(|name| !name.is_empty());
        if let Some(agent) = agent {
            settings.retain(|setting| setting.key != "agents.default");
            settings.push(Setting {
                key: "agents.default".to_owned(),
                value: format!("{agent:?}"),
                origin: Origin::Environment("WFHOST_AGENT".to_owned()),
            });
        }
        settings.sort_by(|a, b| a.key.cmp(&b.key));
        if common.output != Format::Text {
            let settings = settings.iter().map(|Setting { key, value, origin }| {
                json!({ "key": key, "value": value, "origin": origin.to_string() })
            });
            let settings: Vec<_> = settings.collect();
            print_line(&json!({ "schema": "wfhost/config/1", "settings": settings }).to_string());
            return Ok(Exit::Done);
        }
        for Setting { key, value, origin } in &settings {
            print_line(&format!("{key} = {value}   # {origin}"));
        }
        Ok(Exit::Done)
    }
}

/// Where the database is, and who says so.
fn store(common: &Common, configured: Option<Vec<Setting>>) -> Result<Setting, Trouble> {
    let by_environment = std::env::var_os("WFHOST_DB");
    let origin = match (&common.db, configured) {
        (Some(db), _) if by_environment.is_some_and(|set| set == db.as_os_str()) => {
            Origin::Environment("WFHOST_DB".to_owned())
        }
        (Some(_), _) => Origin::Flag("--db".to_owned()),
        (None, Some(settings)) => settings
            .into_iter()
            .find(|setting| setting.key == "store.url")
            .map_or(Origin::Default, |setting| setting.origin),
        (None, None) => Origin::Default,
    };
    let value = format!("{:?}", common.place()?.display().to_string());
    Ok(Setting { key: "store.url".to_owned(), value, origin })
}
