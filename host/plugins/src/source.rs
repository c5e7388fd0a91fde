//! Where the component of a plugin comes from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use wfhost_core::Digest;

use crate::PluginError;

/// Where a plugin's component comes from.
#[derive(Clone, Debug)]
pub enum PluginSource {
    /// A file, which is read again when it has changed.
    File {
        path: PathBuf,
        /// What it has to be.
        digest: Option<Digest>,
    },
    /// Whatever gives it.
    Supply(Arc<dyn Supply>),
}

/// As people are told of it.
impl fmt::Display for PluginSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "{}", path.display()),
            Self::Supply(supply) => f.write_str(&supply.reference()),
        }
    }
}

/// What gives a component: from elsewhere, once it is known to be trusted.
pub trait Supply: fmt::Debug + Send + Sync {
    /// How people call it.
    fn reference(&self) -> String;

    /// Which component it gives now, exactly, in text that is another one for another component. Nobody is asked
    /// for that.
    ///
    /// # Errors
    ///
    /// It is not known, or not to be used.
    fn pinned(&self) -> Result<String, PluginError>;

    /// The component, if it is on this machine. Nobody is asked for it.
    ///
    /// # Errors
    ///
    /// It is not to be used.
    fn kept(&self) -> Result<Option<Vec<u8>>, PluginError>;

    /// The component, and who signed it.
    fn supply(&self) -> BoxFuture<'_, Result<Supplied, PluginError>>;
}

/// A component that was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Supplied {
    pub bytes: Vec<u8>,
    /// Who signed it, if that is known.
    pub signer: Option<String>,
    /// What is wrong with its signatures, if it may be used all the same.
    pub warning: Option<String>,
}
