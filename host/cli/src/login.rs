//! `wfhost login`, `wfhost logout`

use std::io::IsTerminal;

use serde_json::json;
use wfhost::world::private;
use wfhost_registry::{Login as Proof, Reference};

use super::diagnostic::{Exit, UserError};
use super::{Common, Format, printer, registry};

/// Bytes of a password; tokens are long.
const PASSWORD_BYTES: u64 = 64 << 10;

/// Log in to a registry of modules
///
/// The login is tried, then stored for wfhost. Logins of Docker and podman, also those
/// in their credential helpers, are used without this.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost login ghcr.io -u ada --password-stdin <token.txt
  wfhost login localhost:5000 -u ada --password-stdin <password.txt")]
pub(crate) struct Login {
    /// Host and port of the registry
    registry: String,
    /// The user name
    #[arg(short, long, value_name = "NAME")]
    user: String,
    /// Read the password or token from stdin
    #[arg(long, required = true)]
    password_stdin: bool,
}

/// Log out of a registry
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost logout ghcr.io")]
pub(crate) struct Logout {
    /// Host and port of the registry
    registry: String,
}

/// Host and port, as references have them.
fn host(text: &str) -> Result<String, UserError> {
    Reference::canonical_registry(text).ok_or_else(|| {
        UserError::usage("WF0920", format!("`{text}` is not a registry"))
            .hint("name its host, and its port if there is one: ghcr.io, localhost:5000")
    })
}

impl Login {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let host = host(&self.registry)?;
        if std::io::stdin().is_terminal() {
            return Err(UserError::usage(
                "WF0930",
                "a password is not read from a terminal, because it would be visible",
            )
            .hint(format!("`wfhost login {host} -u {} --password-stdin <FILE`, or by a pipe", self.user)));
        }
        let password = private::read_at_most(PASSWORD_BYTES, std::io::stdin())
            .map_err(|error| UserError::usage("WF0930", format!("the password cannot be read: {error}")))?;
        let password = password.trim_end_matches(['\r', '\n']);
        if password.is_empty() || self.user.is_empty() || self.user.contains(':') {
            return Err(UserError::usage("WF0930", "a login needs a user name without `:`, and a password")
                .hint("pass the password on stdin, from a file or a pipe"));
        }
        let proof = Proof::Password { user: self.user.clone(), password: password.to_owned() };
        let client = registry::client_as(&common.config()?, &host, proof)?;
        let asked = client.check_login(&host).await?;
        let path = registry::logins().keep(&host, &self.user, password)?;
        if !asked {
            printer::say(
                common,
                "Note",
                &format!("{host} did not require a login, so this one was not tried"),
            );
        }
        printer::say(common, "Login", &format!("{} at {host}, stored in {}", self.user, path.display()));
        if common.output != Format::Text {
            printer::json(
                &json!({ "schema": "wfhost/login/1", "registry": host, "user": self.user, "tried": asked }),
            );
        }
        Ok(Exit::Done)
    }
}

impl Logout {
    pub fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let host = host(&self.registry)?;
        let forgotten = registry::logins().forget(&host)?;
        let text = match (forgotten, registry::logins().of(&host)) {
            (_, Ok(Some(_))) => format!("the login of Docker or podman for {host} still exists"),
            (true, _) => format!("the login for {host} was removed"),
            (false, _) => format!("there was no login for {host}"),
        };
        printer::say(common, "Logout", &text);
        if common.output != Format::Text {
            printer::json(&json!({ "schema": "wfhost/login/1", "registry": host, "forgotten": forgotten }));
        }
        Ok(Exit::Done)
    }
}
