//! `postgres://user:password@host:port,host:port/database?parameter=value`

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{LoadBalanceHosts, SslMode, TargetSessionAttrs};
use wfhost_store::StoreError;

/// How the connection is made safe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tls {
    /// It is not.
    Disable,
    /// Encrypted if the server can; nobody looks who that is.
    Prefer,
    /// Encrypted, and the certificate has to be the server's.
    Require,
}

/// What a URL says. Its password is never shown.
#[derive(Clone)]
pub(crate) struct Url {
    pub config: Config,
    pub tls: Tls,
    /// Certificates of authorities besides those of the system.
    pub root_certificate: Option<PathBuf>,
    pub schema: String,
    /// Whether other hosts are listened to; else they are asked.
    pub listen: bool,
    /// For people, without a password.
    pub place: String,
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({})", self.place)
    }
}

/// Whether a text is a URL of PostgreSQL.
pub fn is_url(text: &str) -> bool {
    ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme))
}

/// The URL without its password: for people, and for where it may be read by others.
pub fn without_password(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) => url.place,
        Err(_) => shown(text),
    }
}

/// One that cannot be read, without what may be a password in it.
fn shown(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or(("postgres", text));
    // A password that was not encoded may have any of the characters that end it: then nothing is shown.
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = before.split_once('/').unwrap_or((before, ""));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{}@", user.split(':').next().unwrap_or_default()), hosts),
        None if query.contains('@') => return format!("{scheme}://…"),
        None => (String::new(), authority),
    };
    if path.contains('@') {
        return format!("{scheme}://…");
    }
    format!("{scheme}://{user}{hosts}/{path}")
}

const PARAMETERS: &str =
    "sslmode, sslrootcert, schema, listen, connect_timeout, host, port, user, password, dbname";

impl Url {
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let place = shown(text);
        let bad = |reason: String| StoreError::BadUrl { place: place.clone(), reason };
        let Some((scheme @ ("postgres" | "postgresql"), rest)) = text.split_once("://") else {
            return Err(bad("it has to start with postgres://".to_owned()));
        };
        let decoded = |part: &str| match percent_decode_str(part).decode_utf8() {
            Ok(text) if !text.contains('\0') => Ok(text.into_owned()),
            _ => Err(bad("its percent-encoded part is not text".to_owned())),
        };
        let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
        if rest.contains('#') || query.contains('#') {
            return Err(bad("`#` has to be written as %23".to_owned()));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let (mut user, mut password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            Some((user, password)) => (decoded(user)?, decoded(password)?),
            None => (String::new(), String::new()),
        };
        let mut database = decoded(path)?;
        let mut places = Vec::new();
        for host in hosts.split(',').filter(|host| !host.is_empty()) {
            let (name, port) = match host.strip_prefix('[') {
                Some(six) => {
                    let (name, port) =
                        six.split_once(']').ok_or_else(|| bad("`[` is not closed".to_owned()))?;
                    (name.to_owned(), port.strip_prefix(':'))
                }
                None => match host.rsplit_once(':') {
                    Some((name, port)) => (decoded(name)?, Some(port)),
                    None => (decoded(host)?, None),
                },
            };
            places.push((name, port.map(|port| port.to_owned())));
        }
        let (mut tls, mut root_certificate, mut schema, mut listen) = (None, None, "wfhost".to_owned(), true);
        let mut connect_timeout = Duration::from_secs(3);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) =
                parameter.split_once('=').ok_or_else(|| bad("a parameter has no value".to_owned()))?;
            let value = decoded(value)?;
            match key {
                "sslmode" => {
                    tls = Some(match value.as_str() {
                        "disable" => Tls::Disable,
                        "prefer" => Tls::Prefer,
                        // There is no half of it: who encrypts and must, knows with whom.
                        "require" | "verify-ca" | "verify-full" => Tls::Require,
                        other => {
                            return Err(bad(format!(
                                "sslmode has to be disable, prefer, require or verify-full, not `{other}`"
                            )));
                        }
                    });
                }
                "sslrootcert" => root_certificate = Some(PathBuf::from(value)),
                "schema" => schema = value,
                "listen" => {
                    listen = match value.as_str() {
                        "on" => true,
                        "off" => false,
                        other => return Err(bad(format!("listen has to be on or off, not `{other}`"))),
                    }
                }
                "connect_timeout" => {
                    connect_timeout = value
                        .parse()
                        .ok()
                        .filter(|seconds| (1..=600).contains(seconds))
                        .map(Duration::from_secs)
                        .ok_or_else(|| bad("connect_timeout has to be from 1 to 600 seconds".to_owned()))?;
                }
                "host" => places = value.split(',').map(|host| (host.to_owned(), None)).collect(),
                "port" => {
                    if places.is_empty() {
                        places.push((String::new(), None));
                    }
                    places.iter_mut().for_each(|place| place.1 = Some(value.clone()));
                }
                "user" => user = value,
                "password" => password = value,
                "dbname" => database = value,
                // What looks like one may be a part of a password that was not encoded.
                _ if query.contains('@') => {
                    return Err(bad(format!(
                        "`?` in a password has to be written as %3F; known parameters: {PARAMETERS}"
                    )));
                }
                other => {
                    return Err(bad(format!("unknown parameter `{other}`; known parameters: {PARAMETERS}")));
                }
            }
        }
        let is_word = |name: &str| {
            let mut letters = name.chars();
            letters.next().is_some_and(|first| first.is_ascii_lowercase() || first == '_')
                && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                && name.len() <= 60
        };
        if !is_word(&schema) || schema.starts_with("pg_") || schema == "information_schema" {
            return Err(bad("the name of a schema consists of lower-case letters, digits and _".to_owned()));
        }
        if places.is_empty() {
            places.push(("localhost".to_owned(), None));
        }
        let mut config = Config::new();
        let mut shown_hosts = Vec::new();
        let mut is_local = true;
        for (name, port) in &places {
            let name = if name.is_empty() { "localhost" } else { name };
            let number = match port.as_deref() {
                None | Some("") => 5432,
                Some(port) => port.parse::<u16>().map_err(|_| bad("the port is invalid".to_owned()))?,
            };
            config.host(name).port(number);
            is_local &= name.starts_with('/');
            let name = if name.contains(':') { format!("[{name}]") } else { name.replace('/', "%2F") };
            shown_hosts.push(if number == 5432 { name } else { format!("{name}:{number}") });
        }
        if user.is_empty() {
            user =
                std::env::var("USER").ok().filter(|user| !user.is_empty()).unwrap_or("postgres".to_owned());
        }
        if database.is_empty() {
            database.clone_from(&user);
        }
        config.user(&user).dbname(&database).connect_timeout(connect_timeout);
        if !password.is_empty() {
            config.password(&password);
        }
        config
            // A network that swallows everything is noticed by the system within this time, whoever waits.
            .keepalives_idle(Duration::from_secs(3))
            .keepalives_interval(Duration::from_secs(1))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(6))
            .application_name(concat!("wfhost/", env!("CARGO_PKG_VERSION")));
        if places.len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
            // The first one may be an old primary that came back: the next try begins elsewhere.
            config.load_balance_hosts(LoadBalanceHosts::Random);
        }
        let tls = if is_local { Tls::Disable } else { tls.unwrap_or(Tls::Prefer) };
        config.ssl_mode(match tls {
            Tls::Disable => SslMode::Disable,
            Tls::Prefer => SslMode::Prefer,
            Tls::Require => SslMode::Require,
        });
        let of_schema = if schema == "wfhost" { String::new() } else { format!("?schema={schema}") };
        let place = format!("{scheme}://{user}@{}/{database}{of_schema}", shown_hosts.join(","));
        Ok(Self { config, tls, root_certificate, schema, listen, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> String {
        match Url::parse(text) {
            Err(StoreError::BadUrl { reason, place }) => {
                assert!(!place.contains("secret"), "{place}");
                reason
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_url_says_where_who_and_how() {
        let url = Url::parse("postgres://ann:s%40cret@db.example:6432/work?sslmode=verify-full&schema=a_1")
            .unwrap();
        assert_eq!(url.place, "postgres://ann@db.example:6432/work?schema=a_1");
        assert_eq!(url.config.get_password(), Some(&b"s@cret"[..]));
        assert_eq!((url.tls, url.schema.as_str()), (Tls::Require, "a_1"));
        let url = Url::parse("postgresql://ann@one,two:5433,[::1]:5434/").unwrap();
        assert_eq!(url.place, "postgresql://ann@one,two:5433,[::1]:5434/ann");
        assert_eq!(url.config.get_ports(), [5432, 5433, 5434]);
        assert_eq!(url.tls, Tls::Prefer);
        let url = Url::parse("postgres://ann@%2Frun%2Fpg/work?listen=off").unwrap();
        assert_eq!((url.place.as_str(), url.listen), ("postgres://ann@%2Frun%2Fpg/work", false));
        assert_eq!(url.config.get_hosts(), [tokio_postgres::config::Host::Unix("/run/pg".into())]);
        let url = Url::parse("postgres:///work?host=/run/pg&user=ann&port=7").unwrap();
        assert_eq!(url.place, "postgres://ann@%2Frun%2Fpg:7/work");
    }

    #[test]
    fn a_password_is_never_shown() {
        for text in [
            "postgres://ann:secret@host/db",
            "postgres://ann:secret@host/db?nothing=1",
            "postgres://ann:se/secret@host/db",
            "postgres://ann:se?secret@host/db",
            "postgres://ann:se@secret@host/db",
            "postgres://host/db?user=ann&password=secret",
            "postgres://ann:%ffsecret@host",
        ] {
            assert!(!without_password(text).contains("secret"), "{text}: {}", without_password(text));
            assert!(!format!("{:?}", Url::parse(text)).contains("secret"), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        assert!(reason("mysql://ann:secret@host/db").contains("postgres://"));
        assert!(reason("postgres://host:x1/db").contains("the port is invalid"));
        assert!(reason("postgres://host/db?ssl=on").contains("`ssl`; known parameters: sslmode"));
        assert!(reason("postgres://host/db?sslmode=maybe").contains("not `maybe`"));
        assert!(reason("postgres://host/db?listen").contains("no value"));
        assert!(reason("postgres://host/db?schema=A-b").contains("lower-case letters"));
        assert!(reason("postgres://host/%ff").contains("not text"));
    }
}
