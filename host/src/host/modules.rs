//! The modules that runs are executed with: into the store, and out of it.

use wfhost_core::Digest;
use wfhost_runtime::{self as engine, Denied, Module};
use wfhost_store::{ModuleInfo, RunInfo, StoreError};

use super::{Host, HostError};

impl Host {
    /// Checks and compiles a module, and keeps its bytes in the store.
    pub async fn add_module(&self, name: &str, bytes: &[u8]) -> Result<Module, HostError> {
        self.add_module_with(name, bytes, Denied::Refuse).await
    }

    /// The same, with a choice of what becomes of imports that are denied.
    pub async fn add_module_with(
        &self,
        name: &str,
        bytes: &[u8],
        denied: Denied,
    ) -> Result<Module, HostError> {
        let digest = Digest::of(bytes);
        // It may be known by another who accepts more.
        engine::inspect(bytes, denied)?;
        let owned = async { Ok::<_, HostError>(bytes.to_vec()) };
        let module = self.inner.engine.load(name, digest, denied, owned).await?;
        self.inner.store.put_module(name, bytes).await?;
        let _ = self.inner.descriptions.learn(digest, bytes);
        Ok(module)
    }

    /// A module of the store, ready to be executed.
    pub async fn stored_module(&self, info: &ModuleInfo) -> Result<Module, HostError> {
        let bytes = async {
            let bytes = self.store().module(info.digest).await?;
            Ok::<_, HostError>(bytes.ok_or(StoreError::NoSuchModule(info.digest))?)
        };
        // It was accepted when it was put there.
        self.inner.engine.load(&info.name, info.digest, Denied::Trap, bytes).await
    }

    /// The module that a run is executed with.
    pub async fn module_of(&self, info: &RunInfo) -> Result<Module, HostError> {
        self.inner.module(&info.id, info.module, &info.workflow).await
    }
}
