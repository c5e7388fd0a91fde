//! The argument that names a module.
//!
//! It is, in this order: a path; a digest of the database or the local store; a name of `[modules]` in
//! the configuration, also with what its version has to fit (`hello@^1.2`); a name in the database; a
//! reference to a registry; a name in the local store.
//! Nothing but a registry that is spelt out leads to one.

use std::path::{Path, PathBuf};

use wfhost::store::Store;
use wfhost::world::private;
use wfhost_core::Digest;
use wfhost_registry::artifact::MODULE_BYTES;
use wfhost_registry::{Reference, Sha256};

use super::Common;
use super::diagnostic::UserError;
use super::place::nearest;
use super::registry::{self, Fetch, Fetched, Origin};

/// A module that was found.
pub(crate) struct Found {
    pub name: String,
    pub bytes: Vec<u8>,
    /// The directory that its file is in, where those of its children are
    /// looked for; none for a module of the store.
    pub directory: Option<String>,
    /// Where it came from, if that is a registry.
    pub origin: Option<Origin>,
}

impl From<Fetched> for Found {
    fn from(Fetched { name, bytes, origin }: Fetched) -> Self {
        Self { name, bytes, directory: None, origin: Some(origin) }
    }
}

/// The name and the bytes of what [`find`] finds.
pub(crate) async fn load(
    common: &Common,
    store: Option<&dyn Store>,
    arg: &str,
    fetch: Fetch,
) -> Result<(String, Vec<u8>), UserError> {
    find(common, store, arg, fetch).await.map(|found| (found.name, found.bytes))
}

/// Finds a module. Without a database none is looked for in one.
pub(crate) async fn find(
    common: &Common,
    store: Option<&dyn Store>,
    arg: &str,
    fetch: Fetch,
) -> Result<Found, UserError> {
    let path = Path::new(arg);
    if path.exists() {
        return file(path);
    }
    if is_path(arg) {
        return Err(no_module(arg, &[]));
    }
    let modules = match store {
        Some(store) => store.modules().await?,
        None => Vec::new(),
    };
    let in_database = async |matches: &dyn Fn(&str, Digest) -> bool| -> Result<Option<Found>, UserError> {
        let found = modules.iter().find(|module| matches(&module.name, module.digest));
        let (Some(module), Some(store)) = (found, store) else { return Ok(None) };
        let bytes = store.module(module.digest).await?;
        Ok(bytes.map(|bytes| Found { name: module.name.clone(), bytes, directory: None, origin: None }))
    };
    let wanted = Digest::parse(arg);
    let short = arg.strip_prefix("blake3:").filter(|hex| hex.len() >= 6);
    if wanted.is_some() || short.is_some() {
        let is_meant = |_: &str, digest: Digest| {
            Some(digest) == wanted || short.is_some_and(|hex| digest.hex().starts_with(hex))
        };
        return in_database(&is_meant).await?.ok_or_else(|| no_module(arg, &[]));
    }
    if let Ok(digest) = arg.parse::<Sha256>() {
        return by_digest(common, digest, fetch).await;
    }
    if registry::with_requirement(arg).is_some() {
        let reference = registry::meant(common, arg)?;
        let name = arg.split('@').next().unwrap_or(arg).to_owned();
        return Ok(Found { name, ..registry::fetch(common, &reference, fetch).await?.into() });
    }
    let config = common.config()?;
    if let Some(module) = config.modules()?.get(arg) {
        return match module.parse::<Reference>() {
            Ok(reference) => {
                let fetched = registry::fetch(common, &reference, fetch).await?;
                Ok(Found { name: arg.to_owned(), ..fetched.into() })
            }
            Err(_) => Ok(Found { name: arg.to_owned(), ..file(Path::new(module))? }),
        };
    }
    if let Some(found) = in_database(&|name, _| name == arg).await? {
        return Ok(found);
    }
    if Reference::is_meant(arg) {
        return Ok(registry::fetch(common, &arg.parse()?, fetch).await?.into());
    }
    let kept = registry::store()?.modules()?;
    let mut named: Vec<_> = kept.iter().filter(|kept| kept.reference.name() == arg).collect();
    // Several tags of one thing are no question, if they are of one place.
    named.dedup_by(|a, b| {
        a.descriptor.digest == b.descriptor.digest && a.reference.place() == b.reference.place()
    });
    match named.as_slice() {
        [] => {
            let names = modules.iter().map(|module| module.name.as_str());
            let names: Vec<&str> = names.chain(kept.iter().map(|kept| kept.reference.name())).collect();
            Err(no_module(arg, &names))
        }
        [kept] => {
            let fetch = Fetch { offline: true, ..fetch };
            Ok(registry::fetch(common, &kept.reference, fetch).await?.into())
        }
        several => {
            let details = several.iter().map(|kept| kept.reference.to_string()).collect();
            Err(UserError {
                details,
                ..UserError::usage(
                    "WF0934",
                    format!("the local store contains {} modules named `{arg}`", several.len()),
                )
            }
            .hint("use the full reference, or define the name in [modules] of wfhost.toml"))
        }
    }
}

/// Whether an argument is a path by its looks.
fn is_path(arg: &str) -> bool {
    arg.starts_with(['.', '/']) || (arg.ends_with(".wasm") && !arg.starts_with("oci://"))
}

/// Reads a component that was named: as large as a registry can have it.
pub(super) fn read_component(path: &Path) -> std::io::Result<Vec<u8>> {
    private::read_named_at_most(MODULE_BYTES, path)
}

/// A file, or what is built of a directory.
fn file(path: &Path) -> Result<Found, UserError> {
    let shown = path.display();
    let built: Option<PathBuf> = if path.is_dir() { Some(super::build::only(path)?) } else { None };
    let path = built.as_deref().unwrap_or(path);
    let bytes = read_component(path)
        .map_err(|error| UserError::usage("WF0110", format!("{shown} cannot be read: {error}")))?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let directory = path.canonicalize().ok().and_then(|path| Some(path.parent()?.to_owned()));
    Ok(Found {
        name: stem.unwrap_or_else(|| shown.to_string()),
        bytes,
        directory: directory.map(|directory| directory.to_string_lossy().into_owned()),
        origin: None,
    })
}

/// A module of the local store by the digest of its manifest.
async fn by_digest(common: &Common, digest: Sha256, fetch: Fetch) -> Result<Found, UserError> {
    let kept = registry::store()?.modules()?;
    let Some(kept) = kept.iter().find(|kept| kept.descriptor.digest == digest) else {
        return Err(UserError::usage("WF0110", format!("the module {digest} is not in the local store"))
            .hint("`wfhost modules` lists its content; for another module name its registry: REGISTRY/NAME@sha256:.."));
    };
    Ok(registry::fetch(common, &kept.reference.at(digest), fetch).await?.into())
}

fn no_module(arg: &str, names: &[&str]) -> UserError {
    let trouble = UserError::usage("WF0110", format!("no file and no module is named `{arg}`"));
    let trouble = match nearest(arg, names.iter().copied()) {
        Some(near) => trouble.hint(format!("did you mean `{near}`?")),
        None => trouble,
    };
    trouble
        .hint("name a component file, a module in the database (by name or blake3:DIGEST), or one in a registry: REGISTRY/NAME:TAG")
}
