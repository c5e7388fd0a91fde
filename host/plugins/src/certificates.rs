//! Who certifies the servers of a grant, if the configuration says it.

use std::path::Path;

use reqwest::Certificate;
use wfhost_world::private;

use crate::PluginError;

/// The certificates of a file in PEM, at least one.
pub(crate) fn read(path: &Path) -> Result<Vec<Certificate>, PluginError> {
    let failed = |reason: String| PluginError::Certificates { path: path.to_owned(), reason };
    let text = private::read_any(path).map_err(|error| failed(error.to_string()))?;
    let found = Certificate::from_pem_bundle(text.as_bytes()).map_err(|error| failed(error.to_string()))?;
    match found.is_empty() {
        true => Err(failed("it has no certificate in PEM".to_owned())),
        false => Ok(found),
    }
}
