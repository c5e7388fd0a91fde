//! Who one is at which registry. Logins of wfhost's own are in a file in the format of podman and
//! Docker; those that Docker and podman have are read after it, also by way of their helpers.

use std::fmt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde_json::{Map, Value, json};
use wfhost_world::private;

use crate::{RegistryError, whole};

/// What proves who one is.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    Password {
        user: String,
        password: String,
    },
    /// A token that only buys other tokens.
    Identity(String),
}

/// Secrets are not printed.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
            Self::Identity(_) => f.write_str("Identity"),
        }
    }
}

/// Where logins are kept.
#[derive(Clone, Debug, Default)]
pub struct Logins {
    own: Option<PathBuf>,
    given: Option<(String, Login)>,
}

impl Logins {
    /// `own`: the file that [`Logins::keep`] writes.
    pub fn new(own: Option<PathBuf>) -> Self {
        Self { own, given: None }
    }

    /// One that was given, and no other for this registry.
    pub fn given(host: &str, login: Login) -> Self {
        Self { own: None, given: Some((host.to_owned(), login)) }
    }

    /// The login for a registry, if there is one.
    pub fn of(&self, host: &str) -> Result<Option<Login>, RegistryError> {
        if let Some((_, login)) = self.given.as_ref().filter(|(given, _)| given == host) {
            return Ok(Some(login.clone()));
        }
        // As Docker writes it.
        let server = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
        if let Some(path) = self.own.as_ref().filter(|path| path.exists()) {
            let text = private::read(path)
                .map_err(|error| RegistryError::Logins { path: path.clone(), reason: error.to_string() })?;
            let found = docker_credential::get_credential_from_reader(text.as_bytes(), server);
            if let Some(login) = login(host, found)? {
                return Ok(Some(login));
            }
        }
        for found in
            [docker_credential::get_podman_credential(server), docker_credential::get_credential(server)]
        {
            if let Some(login) = login(host, found)? {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    /// Keeps a login, readable by its owner only.
    pub fn keep(&self, host: &str, user: &str, password: &str) -> Result<PathBuf, RegistryError> {
        let auth = STANDARD.encode(format!("{user}:{password}"));
        let path = self.change(|auths| {
            auths.insert(host.to_owned(), json!({ "auth": auth }));
            true
        })?;
        Ok(path.0)
    }

    /// Removes one. False if there was none of wfhost's own.
    pub fn forget(&self, host: &str) -> Result<bool, RegistryError> {
        Ok(self.change(|auths| auths.remove(host).is_some())?.1)
    }

    /// Changes the file if `change` says that it did something. Written beside and renamed.
    fn change(
        &self,
        change: impl FnOnce(&mut Map<String, Value>) -> bool,
    ) -> Result<(PathBuf, bool), RegistryError> {
        let path = self.own.clone().ok_or_else(|| RegistryError::Logins {
            path: PathBuf::from("auth.json"),
            reason: "HOME is not set".to_owned(),
        })?;
        let failed = |reason: String| RegistryError::Logins { path: path.clone(), reason };
        let _lock = lock_beside(&path).map_err(|error| failed(error.to_string()))?;
        let text = match path.exists() {
            true => private::read(&path).map_err(|error| failed(error.to_string()))?,
            false => "{}".to_owned(),
        };
        let mut file: Value =
            serde_json::from_str(&text).map_err(|error| failed(format!("it is not JSON: {error}")))?;
        let object = file.as_object_mut().ok_or_else(|| failed("it is not a JSON object".to_owned()))?;
        let auths = object.entry("auths").or_insert_with(|| json!({}));
        let auths = auths.as_object_mut().ok_or_else(|| failed("`auths` is not a JSON object".to_owned()))?;
        let changed = change(auths);
        if changed {
            write_private(&path, file.to_string().as_bytes()).map_err(|error| failed(error.to_string()))?;
        }
        Ok((path, changed))
    }
}

/// Has whoever changes a file wait for others who do. Beside it, as the file is another one after each change; the
/// lock ends with what is returned.
pub(crate) fn lock_beside(path: &Path) -> std::io::Result<std::fs::File> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(path.with_extension("lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    whole::replace(path, bytes, 0o600)
}

fn login(
    host: &str,
    found: Result<DockerCredential, CredentialRetrievalError>,
) -> Result<Option<Login>, RegistryError> {
    use CredentialRetrievalError as Error;
    match found {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(Some(Login::Password { user, password }))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Login::Identity(token))),
        // A missing file cannot be told from one that cannot be read.
        Err(Error::NoCredentialConfigured | Error::ConfigNotFound | Error::ConfigReadError) => Ok(None),
        Err(Error::HelperFailure { stdout, stderr, .. })
            if [&stdout, &stderr].iter().any(|said| said.contains("not found")) =>
        {
            Ok(None)
        }
        // What it printed may be a secret.
        Err(Error::HelperFailure { helper, .. }) => Err(RegistryError::Credential {
            host: host.to_owned(),
            reason: format!("the credential helper `{helper}` failed"),
        }),
        Err(other) => Err(RegistryError::Credential { host: host.to_owned(), reason: other.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn logins_are_kept_for_their_owner_only_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wfhost/auth.json");
        let logins = Logins::new(Some(path.clone()));
        logins.keep("localhost:1", "ada", "p:w").unwrap();
        logins.keep("localhost:2", "bob", "other").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let login = logins.of("localhost:1").unwrap().unwrap();
        assert_eq!(login, Login::Password { user: "ada".into(), password: "p:w".into() });
        assert!(!format!("{login:?}").contains("p:w"));
        assert!(logins.forget("localhost:1").unwrap());
        assert!(!logins.forget("localhost:1").unwrap());
        assert!(logins.of("localhost:2").unwrap().is_some());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(logins.of("localhost:2"), Err(RegistryError::Logins { .. })));
    }
}
