//! `wfhost update`, and `wfhost modules --outdated`

use serde_json::json;
use wfhost::agents::Providers;
use wfhost::engine::Denied;
use wfhost::{Adopt, Evict};
use wfhost_registry::{Locked, Pull, Reference};

use super::diagnostic::{Exit, Trouble};
use super::printer::{Column, left};
use super::push::is_version;
use super::registry::{Others, Session};
use super::{Common, Format, printer};

/// Update wfhost.lock to the current versions of modules
///
/// Shows the changes in wfhost.lock: versions, manifests, signers. A different signer
/// has to be accepted explicitly.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost update
  wfhost update reviewer
  wfhost update reviewer --accept")]
pub(crate) struct Update {
    /// Names or references [default: all locked modules]
    modules: Vec<String>,
    /// Accept signers that differ from the previous ones
    #[arg(long)]
    accept: bool,
}

impl Update {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let mut session = Session::open(common)?;
        let locked: Vec<Locked> = session.lock.modules().to_vec();
        let is_meant =
            |locked: &Locked, module: &String| *module == locked.name || *module == locked.reference;
        for module in &self.modules {
            if !locked.iter().any(|locked| is_meant(locked, module)) {
                let path = session.lock.path.display().to_string();
                return Err(Trouble::usage("WF0946", format!("`{module}` is not in {path}")).hint(format!(
                    "lock a module: `wfhost add REFERENCE`; {} has: {}",
                    path,
                    names(&locked)
                )));
            }
        }
        let chosen = |locked: &&Locked| {
            self.modules.is_empty() || self.modules.iter().any(|module| is_meant(locked, module))
        };
        let others = if self.accept { Others::Accept } else { Others::Refuse };
        let mut changed = 0;
        for old in locked.iter().filter(chosen) {
            let reference: Reference = old.reference.parse()?;
            let found = session.resolve(&reference, Pull::Always, others).await?;
            if let Some(warning) = &found.1.warning {
                printer::warn(common, warning);
            }
            let signer = found.1.signers.first().map(|signer| signer.name.clone());
            if signer != old.signer && old.signer.is_some() && !self.accept {
                return Err(wfhost_registry::RegistryError::SignerChanged {
                    reference: old.reference.clone(),
                    before: old.signer.clone().unwrap_or_default(),
                    now: signer.into_iter().collect(),
                }
                .into());
            }
            let fetched = session.take(&reference, found, Pull::Always).await?;
            let new = fetched.origin.locked(&old.name, &fetched.bytes);
            if new == *old {
                printer::say(common, "Same", &format!("{}  {}", old.name, old.reference));
                continue;
            }
            let host =
                common.host(common.store().await?, Providers::builtin(), Evict::default(), Adopt::Own)?;
            host.add_module_with(&old.name, &fetched.bytes, Denied::Refuse).await?;
            show(common, old, &new);
            session.lock.set(new)?;
            changed += 1;
        }
        if common.output == Format::Text && locked.is_empty() {
            printer::note("nothing is locked; `wfhost add REFERENCE` locks a module");
        } else if changed > 0 {
            printer::say(common, "Locked", &format!("{changed} in {}", session.lock.path.display()));
        }
        Ok(Exit::Done)
    }
}

fn names(locked: &[Locked]) -> String {
    let names: Vec<_> = locked.iter().map(|locked| locked.name.as_str()).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// What changes of a module.
fn show(common: &Common, old: &Locked, new: &Locked) {
    if common.output != Format::Text {
        return printer::json(
            &json!({ "schema": "wfhost/updated/1", "name": new.name, "old": old, "new": new }),
        );
    }
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    printer::line(format!("{}  {}", new.name, new.reference));
    let parts = [
        ("version", or_none(&old.release), or_none(&new.release)),
        ("manifest", old.manifest.to_string(), new.manifest.to_string()),
        ("digest", format!("blake3:{}", old.blake3), format!("blake3:{}", new.blake3)),
        ("signer", or_none(&old.signer), or_none(&new.signer)),
    ];
    for (what, before, now) in parts.into_iter().filter(|(_, before, now)| before != now) {
        printer::line(format!("  {what:<9} {before} -> {now}"));
    }
}

/// Shows for what is locked whether its tag means something else now, and whether there is a newer version.
pub(crate) async fn outdated(common: &Common) -> Result<Exit, Trouble> {
    let session = Session::open(common)?;
    let mut rows = Vec::new();
    for locked in session.lock.modules() {
        let reference: Reference = locked.reference.parse()?;
        let now = session.client.manifest(&reference).await?.digest;
        let tags = session.client.tags(&reference).await?;
        let own = locked.release.as_deref().or(reference.tag()).and_then(version);
        let newest = tags.iter().filter(|tag| is_version(tag)).filter_map(|tag| Some((version(tag)?, tag)));
        let newest = newest.filter(|(version, _)| own.as_ref().is_some_and(|own| version > own)).max();
        let newest = newest.map(|(_, tag)| tag.clone());
        let moved = now != locked.manifest;
        if common.output != Format::Text {
            printer::json(&json!({
                "schema": "wfhost/outdated/1", "name": locked.name, "reference": locked.reference,
                "locked": locked.manifest, "now": now, "moved": moved, "newest": newest,
            }));
        } else if moved || newest.is_some() {
            let what = if moved { format!("is now {now}") } else { String::new() };
            let newer = newest.map(|tag| format!("{tag} is available")).unwrap_or_default();
            rows.push(vec![locked.name.clone(), locked.reference.clone(), newer, what]);
        }
    }
    if common.output == Format::Text {
        if rows.is_empty() {
            printer::note("all locked modules are up to date");
        }
        const COLUMNS: [Column; 4] = [left(""), left(""), left(""), left("")];
        printer::table(&COLUMNS.each_ref(), rows);
    }
    Ok(Exit::Done)
}

/// The numbers of a released version, to be compared. One that comes before a release has none.
fn version(text: &str) -> Option<[u64; 3]> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let core = text.split(['_', '+']).next().unwrap_or(text);
    let mut parts = core.split('.').map(|part| part.parse::<u64>().ok());
    let numbers = [parts.next()??, parts.next().unwrap_or(Some(0))?, parts.next().unwrap_or(Some(0))?];
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(version("1.10.0") > version("1.9.9"));
        assert!(version("v2.0.0_b1") > version("1.9"));
        assert_eq!(version("1.0.0-rc.1"), None);
        assert_eq!(version("latest"), None);
        assert_eq!(version("1.2.3.4"), None);
    }
}
