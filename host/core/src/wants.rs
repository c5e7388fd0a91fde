//! What a plugin asks for: a section of its component, which says nothing of what it is granted.

use serde::{Deserialize, Serialize};

/// The name of the section. It holds JSON.
pub const WANTS_SECTION: &str = "wfhost:wants";

/// What a plugin asks for. It works with less, or says what is missing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wants {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<WantedHttp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directories: Vec<WantedDirectory>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<WantedVariable>,
}

/// Addresses, in the form of a grant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedHttp {
    pub url: String,
    pub methods: Vec<String>,
    /// Headers that the service wants a key in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inject: Vec<String>,
    /// For people.
    pub reason: String,
}

/// A directory, by its path for the plugin.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedDirectory {
    pub path: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub write: bool,
    pub reason: String,
}

/// A variable of the environment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedVariable {
    pub name: String,
    pub reason: String,
}

impl Wants {
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}
