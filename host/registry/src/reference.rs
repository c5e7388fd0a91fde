//! What a module in a registry is called: `ghcr.io/acme/reviewer:1.4.2`, or `..@sha256:DIGEST`; or `..@^1.4`, the
//! newest version that fits.
//!
//! The grammar is that of the OCI distribution specification, but nothing is filled in: neither a
//! registry nor a tag. Elsewhere `hello` means a repository of a public registry, where anybody can
//! put something of a name that somebody else uses at home.

use std::fmt;
use std::str::FromStr;

use semver::VersionReq;

use crate::{RegistryError, Sha256, version};

/// What may stand in front of a reference, so that it is taken for nothing else.
pub(crate) const SCHEME: &str = "oci://";
/// The port of a registry that names none.
pub(crate) const TLS_PORT: u16 = 443;
/// Bytes of a repository's name.
const REPOSITORY_BYTES: usize = 255;
/// Bytes of a tag.
const TAG_BYTES: usize = 128;

/// A registry, a repository in it, and which version: a tag, a digest, or both; or what the version has to fit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Sha256>,
    /// As it is written anew; neither tag nor digest stand beside it.
    requirement: Option<String>,
}

impl Reference {
    /// Whether text is meant as a reference: it says so, or what stands before the first slash can only
    /// be the name of a host.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME) || text.split_once('/').is_some_and(|(host, _)| is_host(host))
    }

    /// Host and port of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's name within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest.
    pub fn digest(&self) -> Option<Sha256> {
        self.digest
    }

    /// What the version has to fit, if no certain one is meant.
    pub fn requirement(&self) -> Option<VersionReq> {
        self.requirement.as_deref().and_then(version::requirement)
    }

    /// The same repository at the newest version that fits.
    #[must_use]
    pub fn fitting(&self, requirement: &VersionReq) -> Self {
        Self { tag: None, digest: None, requirement: Some(requirement.to_string()), ..self.clone() }
    }

    /// Registry and repository.
    pub fn place(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The last part of the repository's name, by which people call the module.
    pub fn name(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or(&self.repository)
    }

    /// The same repository at a manifest.
    #[must_use]
    pub fn at(&self, digest: Sha256) -> Self {
        Self { tag: None, digest: Some(digest), requirement: None, ..self.clone() }
    }

    /// The same repository at a tag, if it can be one.
    #[must_use]
    pub fn tagged(&self, tag: &str) -> Option<Self> {
        is_tag(tag).then(|| Self {
            tag: Some(tag.to_owned()),
            digest: None,
            requirement: None,
            ..self.clone()
        })
    }

    /// What a registry is asked for: the digest if there is one, else the tag.
    pub fn version(&self) -> String {
        match (self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            // One that has a requirement is found out first.
            (None, None) => String::new(),
        }
    }

    /// The one way in which a registry's name is written: in lower case, its port without leading zeros, and without
    /// the port that it has anyhow. None if it is no name of a registry. On this machine registries have no TLS, so
    /// that 443 is no usual port there.
    pub fn canonical_registry(text: &str) -> Option<String> {
        if !Self::is_registry(text) {
            return None;
        }
        let (host, port) = host_and_port(text);
        let host = match ipv6(host) {
            Some(address) => format!("[{address}]"),
            None => host.to_ascii_lowercase(),
        };
        Some(match port.and_then(|port| port.parse::<u16>().ok()) {
            Some(TLS_PORT) if !is_this_machine(&host) => host,
            Some(port) => format!("{host}:{port}"),
            None => host,
        })
    }

    /// Whether a registry's name is one: with letters, digits, dots and dashes, and perhaps a port.
    pub fn is_registry(text: &str) -> bool {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("ipv6", port),
                _ => return false,
            },
            None => text.find(':').map_or((text, ""), |at| text.split_at(at)),
        };
        let is_label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let port_fits = match port.strip_prefix(':') {
            Some(number) => !number.starts_with('+') && number.parse::<u16>().is_ok_and(|port| port > 0),
            None => port.is_empty(),
        };
        port_fits && host.len() <= 253 && host.split('.').all(is_label)
    }
}

/// Host and port of a registry. An address of IPv6 keeps its brackets.
fn host_and_port(text: &str) -> (&str, Option<&str>) {
    let at = text.rfind(']').map_or(0, |at| at + 1);
    match text[at..].find(':') {
        Some(colon) => (&text[..at + colon], Some(&text[at + colon + 1..])),
        None => (text, None),
    }
}

/// An address of IPv6 in brackets.
fn ipv6(host: &str) -> Option<std::net::Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// Whether a host, perhaps with a port, is this machine by its name.
pub(crate) fn is_this_machine(host: &str) -> bool {
    let (name, _) = host_and_port(host);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a registry, as references have it, is spoken to at [`TLS_PORT`].
pub(crate) fn has_usual_port(registry: &str) -> bool {
    host_and_port(registry).1.is_none() && !is_this_machine(registry)
}

/// Whether the first part of a reference names a host by its looks.
fn is_host(text: &str) -> bool {
    text == "localhost" || (text.contains(['.', ':']) && !text.starts_with('.'))
}

/// Letters and digits in lower case, with `.`, `_`, `__` or dashes between them.
pub(crate) fn is_repository(text: &str) -> bool {
    let is_part = |part: &str| {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let ends_plain = |text: &str| text.ends_with(is_plain);
        let mut separators = part.split(is_plain).filter(|separator| !separator.is_empty());
        part.starts_with(is_plain)
            && ends_plain(part)
            && separators.all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|c| c == b'-'))
    };
    text.len() <= REPOSITORY_BYTES && text.split('/').all(is_part)
}

fn is_tag(text: &str) -> bool {
    let is_word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    text.len() <= TAG_BYTES
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|c| is_word(c) || matches!(c, b'.' | b'-'))
}

impl FromStr for Reference {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let wrong = |reason| RegistryError::Reference { text: text.to_owned(), reason };
        let bare = text.strip_prefix(SCHEME);
        let Some((registry, rest)) = bare.unwrap_or(text).split_once('/') else {
            return Err(wrong("it has no registry, and there is no default registry"));
        };
        if bare.is_none() && !is_host(registry) {
            return Err(wrong("it does not start with a registry, and there is no default registry"));
        }
        let Some(registry) = Self::canonical_registry(registry) else {
            return Err(wrong("the registry's name is invalid"));
        };
        const BEHIND: &str =
            "after @, sha256: and 64 hexadecimal digits, or a version requirement like ^1.2, are expected";
        let (rest, digest, requirement) = match rest.split_once('@') {
            Some((rest, text)) => match text.parse() {
                Ok(digest) => (rest, Some(digest), None),
                Err(_) => (rest, None, Some(version::requirement(text).ok_or_else(|| wrong(BEHIND))?)),
            },
            None => (rest, None, None),
        };
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if !is_repository(repository) {
            return Err(wrong(
                "a repository's name consists of lower-case letters, digits, and . _ - between them",
            ));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("a tag consists of letters, digits, and . _ -, at most 128 characters"));
        }
        if tag.is_some() && requirement.is_some() {
            return Err(wrong("it has both a version and a version requirement"));
        }
        if tag.is_none() && digest.is_none() && requirement.is_none() {
            return Err(wrong("it has no version, and there is no default version"));
        }
        Ok(Self {
            registry,
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
            requirement: requirement.map(|requirement| requirement.to_string()),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What would be taken for a directory says what it is.
        if !is_host(&self.registry) {
            f.write_str(SCHEME)?;
        }
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        if let Some(requirement) = &self.requirement {
            write!(f, "@{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_they_are_written() {
        let digest = Sha256::of(b"x");
        let with_digest = format!("ghcr.io/acme/reviewer:1.4@{digest}");
        for text in [
            "ghcr.io/acme/reviewer:1.4.2_b1",
            "localhost:5701/me/hello:1",
            "[::1]:5701/a__b/c-d.e:Latest",
            &with_digest,
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), text);
            assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
        }
        for (text, written) in [
            ("ghcr.io/acme/reviewer@^1.2", "ghcr.io/acme/reviewer@^1.2"),
            ("ghcr.io/acme/reviewer@1.2", "ghcr.io/acme/reviewer@^1.2"),
            ("ghcr.io/acme/reviewer@>=1.2,<2", "ghcr.io/acme/reviewer@>=1.2, <2"),
            ("localhost:5000/a@*", "localhost:5000/a@*"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(
                (reference.to_string().as_str(), reference.tag(), reference.digest()),
                (written, None, None)
            );
            assert_eq!(written.parse::<Reference>().unwrap(), reference);
            assert_eq!(reference.at(digest).requirement(), None);
        }
        let reference: Reference = with_digest.parse().unwrap();
        assert_eq!((reference.version(), reference.name()), (digest.to_string(), "reviewer"));
        let alone: Reference = "oci://registry/hello:1".parse().unwrap();
        assert_eq!(alone.registry(), "registry");
        assert_eq!(alone.to_string(), "oci://registry/hello:1");
        assert_eq!("GHCR.io/a:1".parse::<Reference>().unwrap().to_string(), "ghcr.io/a:1");
    }

    #[test]
    fn a_registry_has_one_name() {
        for (text, name) in [
            ("ghcr.io:443/a:1", "ghcr.io"),
            ("GHCR.io:0443/a:1", "ghcr.io"),
            ("ghcr.io:8443/a:1", "ghcr.io:8443"),
            ("localhost:05000/a:1", "localhost:5000"),
            ("[0:0:0:0:0:0:0:1]:5000/a:1", "[::1]:5000"),
            ("[2001:DB8::1]:443/a:1", "[2001:db8::1]"),
            // Those of this machine are spoken to without TLS.
            ("localhost:443/a:1", "localhost:443"),
            ("oci://registry:443/a:1", "registry"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.registry(), name, "{text}");
            assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn no_registry_and_no_version_is_ever_meant_without_being_named() {
        for text in [
            "hello",
            "hello:1",
            "acme/hello:1",
            "library/hello:latest",
            "ghcr.io/acme/hello",
            "ghcr.io/acme/Hello:1",
            "ghcr.io//hello:1",
            "ghcr.io/a/../b:1",
            "ghcr.io/a/./b:1",
            "ghcr.io/a___b:1",
            "ghcr.io/a..b:1",
            "ghcr.io/a:1:2",
            "ghcr.io/a:-1",
            "ghcr.io/a@sha256:12",
            "ghcr.io/a@md5:12",
            "ghcr.io/a@",
            "ghcr.io/a@latest",
            "ghcr.io/a:1@^1",
            "ghcr.io/a@^1@^2",
            "user@ghcr.io/a:1",
            "ghcr.io:0/a:1",
            "ghcr.io:+80/a:1",
            "ghcr.io:70000/a:1",
            "gh_cr.io/a:1",
            "http://ghcr.io/a:1",
            "ghcr.io./a:1",
            "-x.io/a:1",
            "../a:1",
            "ghcr.io/a:1?x=y",
            "ghcr.io/a:1#x",
            "[::1/a:1",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_meant_as_a_reference_is_told_by_its_first_part() {
        for (text, meant) in [
            ("ghcr.io/a", true),
            ("localhost/a", true),
            ("localhost:5000/a", true),
            ("oci://a/b", true),
            ("a/b", false),
            ("./a/b", false),
            ("../a/b", false),
            (".hidden/b", false),
            ("hello", false),
            ("hello.wasm", false),
        ] {
            assert_eq!(Reference::is_meant(text), meant, "{text}");
        }
    }
}
