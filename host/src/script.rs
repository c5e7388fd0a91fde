//! Scripts that runs are started with: kept in the store, so that every host of a fleet has them.

use std::path::Path;

use wfhost_agents::{Providers, ScriptError, Scripted};
use wfhost_core::RunConfig;
use wfhost_store::{Store, StoreError};

/// Why a script cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum CannotKeep {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Script(#[from] ScriptError),
}

/// Keeps the script that a configuration names in the store, by its digest. From then on it is what its file was at
/// this moment, wherever the run is advanced.
///
/// # Errors
///
/// If the file cannot be read, or the store takes nothing.
pub async fn keep_script(store: &dyn Store, config: &mut RunConfig) -> Result<(), CannotKeep> {
    if let Some(path) = config.script.as_ref().filter(|_| config.script_digest.is_none()) {
        let text = Scripted::text(Path::new(path))?;
        config.script_digest = Some(store.put_blob(text.as_bytes()).await?);
    }
    Ok(())
}

/// The providers of a run, with the script that it was started with.
pub(crate) async fn with_script(
    store: &dyn Store,
    providers: &Providers,
    config: &RunConfig,
) -> Result<Providers, StoreError> {
    let kept = match config.script_digest {
        Some(digest) if providers.lacks_script(config) => store.blob(digest).await?,
        _ => None,
    };
    let kept = kept.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(providers.for_run(config, kept.as_deref()))
}
