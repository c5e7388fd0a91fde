//! Agents that are WebAssembly components: the world `wfhost:plugin/agent-plugin` (`wit/plugin`).
//!
//! ```text
//! provider    one attempt: compiled once, executed in a store of its own
//! source      where the component comes from
//! artifact    what it is
//! instance    the store: WASI, limits, the imports
//! beyond      what it asks for beyond what was accepted
//! grant       what may be done, decided on the address that is sent
//! address     which addresses are those of the public network
//! lookup      from names to addresses, each judged
//! certificates who certifies servers, if that is said
//! http        requests: secrets, responses
//! web         ... by the interface of plugins, which is one call
//! mask        secrets taken out of what servers send
//! progress    what people see of it
//! recorded    HTTP that was written down, for tests of plugins
//! ```

mod address;
mod artifact;
mod beyond;
mod certificates;
mod grant;
mod http;
mod instance;
mod lookup;
mod mask;
mod progress;
mod provider;
mod recorded;
mod source;
mod web;

pub use self::artifact::{PluginError, imports, wants};
pub use self::beyond::beyond;
pub use self::grant::{BadPattern, DirectoryGrant, HttpGrant, Injected, UrlPattern};
pub use self::provider::{Plugin, PluginConfig};
pub use self::recorded::{Exchange, RecordedRequest, RecordedResponse, Recording};
pub use self::source::{PluginSource, Supplied, Supply};

/// A method of HTTP.
pub use ::http::Method;
