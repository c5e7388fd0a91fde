//! Agents that are WebAssembly components: the world `wfhost:plugin/agent-plugin` (`wit/plugin`).
//!
//! ```text
//! provider    one attempt: compiled once, executed in a store of its own
//! artifact    what the file is
//! instance    the store: WASI, limits, the imports
//! grant       what may be done, decided on the address that is sent
//! address     which addresses are those of the public network
//! http        requests: secrets, responses
//! web         ... by the interface of plugins, which is one call
//! mask        secrets taken out of what servers send
//! progress    what people see of it
//! recorded    HTTP that was written down, for tests of plugins
//! ```

mod address;
mod artifact;
mod grant;
mod http;
mod instance;
mod mask;
mod progress;
mod provider;
mod recorded;
mod web;

pub use self::artifact::{PluginError, imports, wants};
pub use self::grant::{BadPattern, DirectoryGrant, HttpGrant, Injected, UrlPattern};
pub use self::provider::{Plugin, PluginConfig};
pub use self::recorded::{Exchange, RecordedRequest, RecordedResponse, Recording};

/// A method of HTTP.
pub use ::http::Method;
