//! Modules that travel: how they are named ([`Reference`]), fetched from and pushed to OCI registries
//! ([`Client`]), kept in a local store that other tools read ([`Store`]), and packed as the CNCF's
//! layout for WebAssembly wants it ([`artifact`]).
//!
//! Nothing of a registry is believed: sizes and digests are checked while bytes arrive, and what does
//! not agree is kept nowhere.

pub mod archive;
pub mod artifact;
mod client;
mod cosign;
mod digest;
mod error;
mod fetch;
pub mod keys;
mod lock;
mod logins;
pub mod manifest;
pub mod metadata;
pub mod policy;
pub mod provenance;
mod reference;
mod session;
pub mod signature;
mod store;
pub mod version;
pub mod whole;

pub use self::artifact::Artifact;
pub use self::client::{Client, ClientOptions, Pushed};
pub use self::digest::Sha256;
pub use self::error::RegistryError;
pub use self::fetch::{Pull, Resolved, Source, configuration, fetch, resolve, versions};
pub use self::keys::{PrivateKey, PublicKey};
pub use self::lock::{LOCK_FILE, LockFile, Locked, LockedKind};
pub use self::logins::{Login, Logins};
pub use self::manifest::{Descriptor, Index, Manifest};
pub use self::provenance::Provenance;
pub use self::reference::Reference;
pub use self::session::{Fetched, How, Judged, Origin, Others, Session};
pub use self::store::{Kept, Store};
