//! Modules, and what becomes of runs under other ones.

use serde::Serialize;
use utoipa::ToSchema;
use wfhost::clock::rfc3339;
use wfhost::store::ModuleInfo;
use wfhost::{Checked, Upgraded};
use wfhost_core::RunId;

use crate::run::outcome;

/// A module in the database.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModuleView {
    pub added_at: String,
    /// Its size.
    pub bytes: u64,
    pub digest: String,
    pub name: String,
    #[schema(example = "wfhost/module/1")]
    pub schema: &'static str,
}

impl ModuleView {
    pub fn of(module: &ModuleInfo) -> Self {
        Self {
            added_at: rfc3339(module.added_at),
            bytes: module.bytes,
            digest: module.digest.to_string(),
            name: module.name.clone(),
            schema: "wfhost/module/1",
        }
    }
}

/// What became of a run that is moved to other code, or what would.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UpgradeView {
    /// `migrated`, `same`, `diverges`, `left`; of a check `compatible` or `diverges`.
    pub result: &'static str,
    pub run: String,
    #[schema(example = "wfhost/upgrade/1")]
    pub schema: &'static str,
    pub why: Option<String>,
}

impl UpgradeView {
    pub fn new(run: &RunId, result: &'static str, why: Option<String>) -> Self {
        Self { result, run: run.to_string(), schema: "wfhost/upgrade/1", why }
    }

    pub fn upgraded(run: &RunId, upgraded: &Upgraded) -> Self {
        match upgraded {
            Upgraded::Moved => Self::new(run, "migrated", None),
            Upgraded::Same => Self::new(run, "same", None),
            Upgraded::Departs(mismatch) => Self::new(run, "diverges", Some(mismatch.to_string())),
            Upgraded::Left(error) => Self::new(run, "left", Some(error.to_string())),
        }
    }

    pub fn checked(run: &RunId, checked: &Checked) -> Self {
        let why = match (&checked.departs, &checked.ends) {
            (Some(mismatch), _) => Some(mismatch.to_string()),
            (None, Some((recorded, found))) => {
                Some(format!("it ended with {}, now with {}", outcome(recorded), outcome(found)))
            }
            (None, None) => None,
        };
        Self::new(run, if why.is_some() { "diverges" } else { "compatible" }, why)
    }
}
