//! The argument that names a module.

use std::path::Path;

use wfhost::store::Store;
use wfhost_core::Digest;

use super::diagnostic::Trouble;

/// A module that was found.
pub(crate) struct Found {
    pub name: String,
    pub bytes: Vec<u8>,
    /// The directory that its file is in, where those of its children are
    /// looked for; none for a module of the store.
    pub directory: Option<String>,
}

/// The name and the bytes of what [`find`] finds.
pub(crate) async fn load(store: Option<&dyn Store>, arg: &str) -> Result<(String, Vec<u8>), Trouble> {
    find(store, arg).await.map(|found| (found.name, found.bytes))
}

/// Finds a module: a file, a directory (which is built), or a digest or a
/// name in the store.
pub(crate) async fn find(store: Option<&dyn Store>, arg: &str) -> Result<Found, Trouble> {
    let built = if Path::new(arg).is_dir() { Some(super::build::only(Path::new(arg))?) } else { None };
    let path = built.as_deref().unwrap_or(Path::new(arg));
    if path.is_file() {
        let bytes = std::fs::read(path)
            .map_err(|error| Trouble::usage("WF0110", format!("{arg} cannot be read: {error}")))?;
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let directory = path.canonicalize().ok().and_then(|path| Some(path.parent()?.to_owned()));
        return Ok(Found {
            name: stem.unwrap_or_else(|| arg.to_owned()),
            bytes,
            directory: directory.map(|directory| directory.to_string_lossy().into_owned()),
        });
    }
    if let Some(store) = store {
        let modules = store.modules().await?;
        let wanted = Digest::parse(arg);
        let short = arg.strip_prefix("blake3:").filter(|hex| hex.len() >= 6);
        let found = modules.iter().find(|module| {
            Some(module.digest) == wanted
                || module.name == arg
                || short.is_some_and(|hex| module.digest.hex().starts_with(hex))
        });
        if let Some(module) = found
            && let Some(bytes) = store.module(module.digest).await?
        {
            return Ok(Found { name: module.name.clone(), bytes, directory: None });
        }
    }
    Err(Trouble::usage("WF0110", format!("there is no file and no known module `{arg}`"))
        .hint("name a component's file, or a module that was run before (by name or blake3:DIGEST)"))
}
