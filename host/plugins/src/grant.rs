//! What a plugin may do, and what it may not: decided on the address that is really sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::{HeaderName, Method};
use reqwest::Url;
use wfhost_agents::SecretSource;
use wfhost_core::WantedHttp;

use crate::address::is_public;

/// Addresses on the network that a plugin may send requests to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpGrant {
    pub url: UrlPattern,
    /// None given: none allowed.
    pub methods: Vec<Method>,
    /// Headers that are set by the host.
    pub inject: BTreeMap<String, Injected>,
    /// Headers that the plugin does not set either.
    pub reserved: BTreeSet<String>,
    /// Parameters of the query that are set by the host.
    pub inject_query: BTreeMap<String, Injected>,
    /// Requests of one attempt.
    pub max_requests: u32,
    /// Bytes of the body of one response.
    pub max_response: u64,
    /// Also at addresses that are not of the public network.
    pub private: bool,
    /// Who certifies the host, instead of those that the machine knows: a file with certificates in PEM.
    pub ca: Option<PathBuf>,
}

impl HttpGrant {
    /// Requests of one attempt, if nothing else is said.
    pub const MAX_REQUESTS: u32 = 100;
    /// Bytes of a response, if nothing else is said.
    pub const MAX_RESPONSE: u64 = 16 << 20;

    pub fn new(url: UrlPattern, methods: impl IntoIterator<Item = Method>) -> Self {
        Self {
            url,
            methods: methods.into_iter().collect(),
            inject: BTreeMap::new(),
            reserved: BTreeSet::new(),
            inject_query: BTreeMap::new(),
            max_requests: Self::MAX_REQUESTS,
            max_response: Self::MAX_RESPONSE,
            private: false,
            ca: None,
        }
    }

    /// Whether everything that is asked for is granted by one of `grants`.
    pub fn covers(grants: &[Self], wanted: &WantedHttp) -> bool {
        let pattern = wanted.url.parse::<UrlPattern>().ok();
        let granted = |method: &Method| match &pattern {
            Some(pattern) if pattern.is_one_host() => judge(grants, false, method, &wanted.url).is_ok(),
            Some(pattern) => {
                grants.iter().any(|grant| grant.url == *pattern && grant.methods.contains(method))
            }
            None => false,
        };
        wanted
            .methods
            .iter()
            .all(|method| Method::from_bytes(method.as_bytes()).is_ok_and(|method| granted(&method)))
    }

    pub fn secrets(&self) -> impl Iterator<Item = &SecretSource> {
        self.inject.values().chain(self.inject_query.values()).map(|injected| &injected.source)
    }
}

/// A secret that the host puts into requests. The plugin never has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Injected {
    pub source: SecretSource,
    /// What stands before it, like `Bearer `.
    pub prefix: String,
}

/// A directory that a plugin sees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryGrant {
    pub path: PathBuf,
    pub write: bool,
}

/// Addresses: a scheme, a host or all below it (`*.example.com`), a port and the beginning of a path.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlPattern {
    text: String,
    scheme: String,
    host: HostPattern,
    port: u16,
    path: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum HostPattern {
    Any,
    /// All names that end with this, which begins with a dot.
    Below(String),
    /// As a URL has it: in lower case, IPv6 in brackets.
    Exactly(String),
}

/// Why text is no pattern of addresses.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadPattern(String);

impl FromStr for UrlPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let bad = |reason: &str| BadPattern(reason.to_owned());
        let url = Url::parse(text).map_err(|error| {
            BadPattern(format!("it is not a URL ({error}), like https://api.example.com/v1/"))
        })?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(bad("it has to start with https:// or http://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("remove the user and the password from it; secrets belong in `inject`"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad(
                "it must not have a query or a fragment: it grants a path and everything below it",
            ));
        }
        if let Some(reason) = ambiguous(url.path()) {
            return Err(BadPattern(format!("its path has {reason}, which servers interpret differently")));
        }
        let host = url.host_str().ok_or_else(|| bad("it has no host"))?;
        let host = match host.strip_prefix('*') {
            Some("") => HostPattern::Any,
            Some(rest) if rest.starts_with('.') && rest.len() > 1 && !rest.contains('*') => {
                HostPattern::Below(rest.to_owned())
            }
            None if !host.contains('*') => HostPattern::Exactly(host.to_owned()),
            _ => return Err(bad("a `*` can only be the first part of a host: *.example.com")),
        };
        let port = url.port_or_known_default().ok_or_else(|| bad("it has no port"))?;
        let (scheme, path) = (url.scheme().to_owned(), url.path().to_owned());
        Ok(Self { text: url.to_string(), scheme, host, port, path })
    }
}

impl UrlPattern {
    /// Whether it names one host. Only then a secret may go there.
    pub fn is_one_host(&self) -> bool {
        matches!(self.host, HostPattern::Exactly(_))
    }

    fn matches(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let host = match &self.host {
            HostPattern::Any => true,
            HostPattern::Below(end) => host.len() > end.len() && host.ends_with(end.as_str()),
            HostPattern::Exactly(name) => host == name,
        };
        let path = url.path();
        let below = match path.strip_prefix(self.path.as_str()) {
            Some(rest) => rest.is_empty() || self.path.ends_with('/') || rest.starts_with('/'),
            None => false,
        };
        host && below && self.scheme == url.scheme() && Some(self.port) == url.port_or_known_default()
    }
}

impl fmt::Display for UrlPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for UrlPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// What a path has that one server takes for the end of a part of it and another one does not.
fn ambiguous(path: &str) -> Option<&'static str> {
    let lower = path.to_ascii_lowercase();
    let signs = [
        ("%2f", "`%2f`"),
        ("%5c", "`%5c`"),
        ("\\", "`\\`"),
        (";", "`;`"),
        ("%3b", "`%3b`"),
        ("%00", "`%00`"),
        // Encoded twice.
        ("%252e", "`%252e`"),
        ("%252f", "`%252f`"),
        ("%255c", "`%255c`"),
        ("%2525", "`%2525`"),
    ];
    signs.into_iter().find(|(sign, _)| lower.contains(sign)).map(|(_, name)| name)
}

/// Which addresses a name may have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Reach {
    /// Those of the public network.
    Public,
    /// Those of this machine: `localhost`, if it is granted by this name.
    Loopback,
    Any,
}

/// A request that may be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Allowed {
    /// The address that is sent.
    pub url: Url,
    /// None: nothing grants it, and that is only listed.
    pub grant: Option<usize>,
    pub reach: Reach,
}

/// A request that may not be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Denial {
    /// The address can be read in more than one way.
    Ambiguous { reason: String },
    /// Nothing grants the address.
    Url { method: Method, url: Url },
    /// Something grants the address, but with other methods.
    Method { method: Method, url: Url, grant: usize },
    /// The address is not of the public network.
    Private { url: Url, grant: Option<usize> },
    /// There were too many.
    TooMany { grant: usize },
    /// The plugin set itself what the host sets.
    Parameter { name: String },
}

/// Decides about a request. `audit`: what is not granted is allowed, as far as it does no harm beside the plugin.
pub(crate) fn judge(
    grants: &[HttpGrant],
    audit: bool,
    method: &Method,
    asked: &str,
) -> Result<Allowed, Denial> {
    let ambiguous_because = |reason: String| Denial::Ambiguous { reason };
    let url = Url::parse(asked)
        .map_err(|error| ambiguous_because(format!("its address is not a URL ({error})")))?;
    if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none_or(str::is_empty) {
        return Err(ambiguous_because(format!("its address starts with {}:", url.scheme())));
    }
    // Also an empty one: what stands before the sign could be taken for the host.
    let authority = asked.split_once("://").map_or(asked, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    if authority.contains('@') || !url.username().is_empty() || url.password().is_some() {
        return Err(ambiguous_because("its address contains a user".to_owned()));
    }
    if let Some(reason) = ambiguous(url.path()) {
        return Err(ambiguous_because(format!("its path has {reason}, which servers interpret differently")));
    }
    let fits = |(_, grant): &(usize, &HttpGrant)| grant.url.matches(&url);
    let mut granting = grants.iter().enumerate().filter(fits);
    let first = granting.clone().next();
    let grant = granting.find(|(_, grant)| grant.methods.contains(method));
    if grant.is_none() && !audit {
        return Err(match first {
            Some((grant, _)) => Denial::Method { method: method.clone(), url, grant },
            None => Denial::Url { method: method.clone(), url },
        });
    }
    let private = grant.is_some_and(|(_, grant)| grant.private);
    // A host that is an address, or this machine, and that the grant names as it is.
    let named = grant.is_some_and(|(_, grant)| grant.url.is_one_host());
    let literal = match url.host_str() {
        Some(host) if host.starts_with('[') => host.trim_matches(['[', ']']).parse().ok(),
        Some(host) => host.parse().ok(),
        None => None,
    };
    let reach = match literal {
        Some(address) if !private && !named && !is_public(address) => {
            return Err(Denial::Private { url, grant: grant.map(|(at, _)| at) });
        }
        // Nothing is looked up.
        Some(_) => Reach::Any,
        None if private => Reach::Any,
        None if named && url.host_str() == Some("localhost") => Reach::Loopback,
        None => Reach::Public,
    };
    for (name, _) in url.query_pairs() {
        if grants.iter().any(|grant| grant.inject_query.contains_key(name.as_ref())) {
            return Err(Denial::Parameter { name: name.into_owned() });
        }
    }
    Ok(Allowed { url, grant: grant.map(|(at, _)| at), reach })
}

impl Denial {
    /// What people are told: what was denied, and the lines of configuration that would allow it.
    pub fn lines(&self, provider: &str, grants: &[HttpGrant]) -> Vec<String> {
        let at = |grant: usize| {
            let url = grants.get(grant).map(|grant| grant.url.to_string()).unwrap_or_default();
            format!("{} with url = {url:?}", section(provider))
        };
        match self {
            Self::Ambiguous { reason } => vec![format!("denied: a request was not sent: {reason}")],
            Self::Url { method, url } => {
                let mut lines =
                    vec![format!("denied: {method} {}, which is not granted. To allow it:", shown(url))];
                lines.extend(grant_lines(provider, method, url));
                lines
            }
            Self::Method { method, url, grant } => {
                let granted = grants.get(*grant).map(|grant| grant.methods.as_slice()).unwrap_or_default();
                let methods: Vec<_> =
                    granted.iter().chain([method]).map(|method| format!("\"{method}\"")).collect();
                vec![
                    format!("denied: {method} {}. To allow it, in {}:", shown(url), at(*grant)),
                    format!("methods = [{}]", methods.join(", ")),
                ]
            }
            Self::Private { url, grant: Some(grant) } => vec![
                format!(
                    "denied: {} is not on the public network. To allow it, in {}:",
                    shown(url),
                    at(*grant)
                ),
                "private = true".to_owned(),
            ],
            Self::Private { url, grant: None } => {
                let mut lines = vec![format!(
                    "denied: {} is not on the public network, where requests need an explicit grant:",
                    shown(url)
                )];
                lines.extend(grant_lines(provider, &Method::GET, url));
                lines.push("private = true".to_owned());
                lines
            }
            Self::TooMany { grant } => {
                let most = grants.get(*grant).map_or(0, |grant| grant.max_requests);
                vec![
                    format!(
                        "denied: the attempt has made {most} requests. To allow more, in {}:",
                        at(*grant)
                    ),
                    format!("max_requests = {}", most.saturating_mul(2).max(1)),
                ]
            }
            Self::Parameter { name } => {
                vec![format!(
                    "denied: a request was not sent: it has the parameter {name:?}, which the host sets"
                )]
            }
        }
    }
}

/// The lines that grant a request.
pub(crate) fn grant_lines(provider: &str, method: &Method, url: &Url) -> [String; 3] {
    [section(provider), format!("url = {:?}", shown(url)), format!("methods = [\"{method}\"]")]
}

/// What is wanted, and the grant of it, in one line.
pub(crate) fn wanted_lines(provider: &str, wanted: &WantedHttp) -> String {
    let inject: Vec<_> = wanted.inject.iter().map(|name| format!("{name} = {{ env = \"..\" }}")).collect();
    let inject =
        if inject.is_empty() { String::new() } else { format!(", inject = {{ {} }}", inject.join(", ")) };
    format!(
        "it requests {} {} ({}): [providers.{provider}] http = [{{ url = {:?}, methods = {:?}{inject} }}]",
        wanted.methods.join(","),
        wanted.url,
        wanted.reason,
        wanted.url,
        wanted.methods
    )
}

fn section(provider: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    match !provider.is_empty() && provider.chars().all(bare) {
        true => format!("[[providers.{provider}.http]]"),
        false => format!("[[providers.{provider:?}.http]]"),
    }
}

/// An address without its query, which may hold anything.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// Headers that plugins must not set: they are about the connection, identify the client in the host's name, or stand
/// for another method or path than that of the request.
pub(crate) fn is_forbidden(name: &HeaderName) -> bool {
    wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS.contains(name)
        || matches!(
            name.as_str(),
            "te" | "trailer" | "expect" | "forwarded" | "via"
                // Some servers take the method or the path from these, and not from the request that was granted.
                | "x-http-method" | "x-http-method-override" | "x-method-override"
                | "x-original-method" | "x-original-uri" | "x-original-url" | "x-rewrite-url"
        )
        || name.as_str().starts_with("x-forwarded-")
        || name.as_str().starts_with("proxy-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(url: &str, methods: &[Method]) -> HttpGrant {
        HttpGrant::new(url.parse().unwrap(), methods.iter().cloned())
    }

    fn allowed(url: &str, asked: &str) -> bool {
        judge(&[grant(url, &[Method::GET])], false, &Method::GET, asked).is_ok()
    }

    #[test]
    fn scheme_host_port_and_path_have_to_fit() {
        let url = "https://api.example.com/v1/";
        for asked in [
            "https://api.example.com/v1/",
            "https://api.example.com/v1/a/b?c=d",
            "https://API.example.com:443/v1/x",
            "https://api.example.com/v1/%20",
            "https://api.example.com/v2/../v1/x",
            "https://api.example.com/v2/%2e%2e/v1/x",
        ] {
            assert!(allowed(url, asked), "{asked}");
        }
        for asked in [
            "http://api.example.com/v1/",
            "https://api.example.com:8443/v1/",
            "https://example.com/v1/",
            "https://evil.com/v1/",
            "https://api.example.com.evil.com/v1/",
            "https://api.example.com./v1/",
            "https://xapi.example.com/v1/",
            "https://api.example.com/",
            "https://api.example.com/v1",
            "https://api.example.com/v10/",
            "https://api.example.com/V1/",
            "ftp://api.example.com/v1/",
            "file:///v1/",
            "https:///v1/",
            "nonsense",
            "",
        ] {
            assert!(!allowed(url, asked), "{asked}");
        }
    }

    #[test]
    fn the_address_is_judged_as_it_is_sent() {
        let url = "https://api.example.com/v1/";
        for asked in [
            "https://api.example.com/v1/../admin",
            "https://api.example.com/v1/%2e%2e/admin",
            "https://api.example.com/v1/.%2E/admin",
            "https://api.example.com/v1/..\\admin",
            "https://api.example.com/v1/%2f..%2fadmin",
            "https://api.example.com/v1/..%2Fadmin",
            "https://api.example.com/v1/..%5cadmin",
            "https://api.example.com/v1/..;/admin",
            "https://api.example.com/v1/..%3b/admin",
            "https://api.example.com/v1/%252e%252e%252fadmin",
            "https://api.example.com/v1/%25252e",
            "https://api.example.com@evil.com/v1/",
            "https://api.example.com:pw@evil.com/v1/",
            "https://evil.com@api.example.com/v1/",
            "https://@api.example.com/v1/",
            "https://:@api.example.com/v1/",
            "https://evil.com\\@api.example.com/v1/",
            "https://evil.com#@api.example.com/v1/",
            "https://evil.com?@api.example.com/v1/",
        ] {
            assert!(!allowed(url, asked), "{asked}");
        }
        // A part of a path that only looks so.
        assert!(allowed(url, "https://api.example.com/v1/..a/b"));
        assert!(allowed(url, "https://api.example.com/v1/a?path=%2f..%2f;x"));
    }

    #[test]
    fn a_path_without_a_slash_at_its_end_grants_itself_and_what_is_below() {
        let url = "https://example.com/v1/messages";
        assert!(allowed(url, "https://example.com/v1/messages"));
        assert!(allowed(url, "https://example.com/v1/messages/batches"));
        assert!(!allowed(url, "https://example.com/v1/messages2"));
    }

    #[test]
    fn a_star_stands_for_names_below() {
        let url = "https://*.example.com/";
        assert!(allowed(url, "https://a.example.com/") && allowed(url, "https://a.b.example.com/x"));
        assert!(!allowed(url, "https://example.com/") && !allowed(url, "https://.example.com/"));
        assert!(!allowed(url, "https://aexample.com/"));
        assert!(!url.parse::<UrlPattern>().unwrap().is_one_host());
        assert!(allowed("https://*/", "https://anything.org/"));
        for bad in ["https://a*.example.com/", "https://*example.com/", "https://*.*.com/", "https://*./"] {
            assert!(bad.parse::<UrlPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_says_what_it_is_not() {
        for (text, reason) in [
            ("api.example.com", "not a URL"),
            ("ftp://x.org/", "https://"),
            ("https://ada:pw@x.org/", "inject"),
            ("https://x.org/?a=b", "not have a query"),
            ("https://x.org/a;b", "interpret differently"),
            ("https:///", "not a URL"),
        ] {
            let error = text.parse::<UrlPattern>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_that_are_not_public_have_to_be_named() {
        let any = "http://*/";
        for asked in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://169.254.169.254/latest/meta-data/",
            "http://127.0.0.1./",
            "http://１２７.0.0.1/",
        ] {
            let judged = judge(&[grant(any, &[Method::GET])], false, &Method::GET, asked);
            assert!(matches!(judged, Err(Denial::Private { .. })), "{asked}: {judged:?}");
            let mut private = grant(any, &[Method::GET]);
            private.private = true;
            assert!(judge(&[private], false, &Method::GET, asked).is_ok(), "{asked}");
            // Also while only listening.
            assert!(judge(&[], true, &Method::GET, asked).is_err(), "{asked}");
        }
        assert!(allowed("http://127.0.0.1/", "http://127.1/"));
        assert!(allowed("http://[::1]/", "http://[0:0::1]/"));
        assert!(allowed(any, "http://1.1.1.1/"));
    }

    #[test]
    fn a_name_is_looked_up_as_far_as_it_may_lead() {
        let reach = |url: &str, private: bool, asked: &str| {
            let mut grant = grant(url, &[Method::GET]);
            grant.private = private;
            judge(&[grant], false, &Method::GET, asked).unwrap().reach
        };
        assert_eq!(reach("http://*/", false, "http://localhost/"), Reach::Public);
        assert_eq!(reach("http://localhost/", false, "http://localhost/"), Reach::Loopback);
        assert_eq!(reach("http://x.localhost/", false, "http://x.localhost/"), Reach::Public);
        assert_eq!(reach("http://*/", true, "http://localhost/"), Reach::Any);
    }

    #[test]
    fn a_denial_says_which_line_would_allow_it() {
        let grants = [grant("https://x.org/v1/", &[Method::GET])];
        let denial = |method: Method, asked: &str| {
            judge(&grants, false, &method, asked).unwrap_err().lines("web", &grants).join("\n")
        };
        assert_eq!(
            denial(Method::POST, "https://x.org/v2?key=1"),
            "denied: POST https://x.org/v2, which is not granted. To allow it:\n[[providers.web.http]]\n\
             url = \"https://x.org/v2\"\nmethods = [\"POST\"]"
        );
        assert_eq!(
            denial(Method::POST, "https://x.org/v1/a"),
            "denied: POST https://x.org/v1/a. To allow it, in [[providers.web.http]] with url = \
             \"https://x.org/v1/\":\nmethods = [\"GET\", \"POST\"]"
        );
        // What is said would allow it.
        let url = Url::parse("https://x.org/v2").unwrap();
        let [section, line, _] = grant_lines("my agent", &Method::POST, &url);
        assert_eq!(section, "[[providers.\"my agent\".http]]");
        let pattern = line.strip_prefix("url = ").unwrap().trim_matches('"').parse().unwrap();
        let granted = HttpGrant::new(pattern, [Method::POST]);
        assert!(judge(&[granted], false, &Method::POST, url.as_str()).is_ok());
    }

    #[test]
    fn the_first_grant_with_the_method_counts() {
        let grants = [grant("https://x.org/", &[Method::GET]), grant("https://x.org/", &[Method::POST])];
        let of = |method| judge(&grants, false, &method, "https://x.org/").map(|allowed| allowed.grant);
        assert_eq!((of(Method::GET).unwrap(), of(Method::POST).unwrap()), (Some(0), Some(1)));
        assert!(matches!(of(Method::PUT), Err(Denial::Method { grant: 0, .. })));
        assert_eq!(judge(&grants, true, &Method::PUT, "https://x.org/").unwrap().grant, None);
    }
}
