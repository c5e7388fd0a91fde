//! `wfhost update`, and `wfhost modules --outdated`

use serde_json::json;
use wfhost::agents::Providers;
use wfhost::engine::Denied;
use wfhost::{Adopt, Evict};
use wfhost_registry::policy::Verdict;
use wfhost_registry::version::{self, VersionReq};
use wfhost_registry::{Locked, LockedKind, Pull, Reference, RegistryError};

use super::diagnostic::{Exit, UserError};
use super::printer::{Column, left};
use super::registry::{Others, Session};
use super::{Common, Format, plugin_add, printer, registry};

/// Update wfhost.lock to the current versions of modules
///
/// Shows the changes in wfhost.lock: versions, manifests, signers, and what plugins ask
/// for. A different signer, and a plugin that asks for more, have to be accepted explicitly.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost update
  wfhost update reviewer
  wfhost update reviewer --accept")]
pub(crate) struct Update {
    /// Names or references [default: all locked modules]
    modules: Vec<String>,
    /// Accept signers that differ from the previous ones, and plugins that request more grants
    #[arg(long)]
    accept: bool,
}

impl Update {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let mut session = registry::open(common)?;
        let locked: Vec<Locked> = session.lock.modules().to_vec();
        let is_meant = |locked: &Locked, module: &String| {
            let named = registry::with_requirement(module).zip(locked.reference.parse::<Reference>().ok());
            let fits = |((name, requirement), reference): (_, Reference)| {
                name == locked.name && reference.requirement() == Some(requirement)
            };
            *module == locked.name || *module == locked.reference || named.is_some_and(fits)
        };
        for module in &self.modules {
            if !locked.iter().any(|locked| is_meant(locked, module)) {
                let path = session.lock.path.display().to_string();
                return Err(UserError::usage("WF0946", format!("`{module}` is not in {path}")).hint(
                    format!("lock a module: `wfhost add REFERENCE`; {} has: {}", path, names(&locked)),
                ));
            }
        }
        let chosen = |locked: &&Locked| {
            self.modules.is_empty() || self.modules.iter().any(|module| is_meant(locked, module))
        };
        let others = if self.accept { Others::Accept } else { Others::Refuse };
        let mut changed = 0;
        for old in locked.iter().filter(chosen) {
            let reference: Reference = old.reference.parse()?;
            let (resolved, verdict) = session.resolve(&reference, Pull::Always, others).await?;
            registry::warn(common, &verdict, resolved.digest != old.manifest);
            let signer = self.signer(&session, old, &verdict)?;
            let fetched = session.take(&reference, &resolved, verdict, Pull::Always).await?;
            let new = match old.kind {
                None => fetched.origin.locked(&old.name, &fetched.bytes),
                Some(LockedKind::Plugin) => {
                    let wants = plugin_add::wants_of(&fetched.bytes)?;
                    fetched.origin.locked_plugin(&old.name, &fetched.bytes, wants)
                }
            };
            let new = Locked { signer, ..new };
            if new == *old {
                printer::say(common, "Same", &format!("{}  {}", old.name, old.reference));
                continue;
            }
            match old.kind {
                None => {
                    let store = common.store().await?;
                    let host = common.host(store, Providers::builtin(), Evict::default(), Adopt::Own)?;
                    host.add_module_with(&old.name, &fetched.bytes, Denied::Refuse).await?;
                }
                Some(LockedKind::Plugin) => plugin_add::accept_wider(common, old, &new, self.accept)?,
            }
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

    /// Who is named as the signer from now on: the same as before, if they signed this version too.
    fn signer(
        &self,
        session: &Session,
        old: &Locked,
        verdict: &Verdict,
    ) -> Result<Option<String>, RegistryError> {
        let names: Vec<_> = verdict.signers.iter().map(|signer| signer.name.clone()).collect();
        match &old.signer {
            Some(before) if names.contains(before) => Ok(Some(before.clone())),
            Some(before) if !self.accept => Err(RegistryError::LockedSigner {
                reference: old.reference.clone(),
                path: session.lock.path.clone(),
                signer: before.clone(),
                now: names,
            }),
            _ => Ok(names.into_iter().next()),
        }
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

/// Shows for what is locked whether it means something else now, and whether there is a newer version. What `update`
/// would take counts as well as what is beyond it.
pub(crate) async fn outdated(common: &Common) -> Result<Exit, UserError> {
    let session = registry::open(common)?;
    let mut rows = Vec::new();
    for locked in session.lock.modules() {
        let reference: Reference = locked.reference.parse()?;
        let resolved =
            wfhost_registry::resolve(&session.client, &session.store, &reference, Pull::Always).await?;
        let now = resolved.digest;
        let tags = session.client.tags(&reference).await?;
        let own = locked.release.as_deref().or(reference.tag()).and_then(version::beginning_of_tag);
        let newest = version::newest(&VersionReq::STAR, tags.iter().map(String::as_str));
        let newest = newest.filter(|(version, _)| own.as_ref().is_some_and(|own| version > own));
        let newest = newest.map(|(_, tag)| tag.to_owned());
        let moved = now != locked.manifest;
        // The tag that a requirement means now.
        let wanted = reference.requirement().and(resolved.reference.tag()).map(str::to_owned);
        if common.output != Format::Text {
            printer::json(&json!({
                "schema": "wfhost/outdated/1", "name": locked.name, "reference": locked.reference,
                "locked": locked.manifest, "now": now, "moved": moved, "newest": newest, "fits": wanted,
            }));
        } else if moved || newest.is_some() {
            let what = match &wanted {
                Some(tag) if moved => format!("is now {tag}, {now}"),
                None if moved => format!("is now {now}"),
                _ => String::new(),
            };
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
