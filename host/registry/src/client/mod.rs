//! A client of registries: the OCI distribution specification 1.1, as much of it as modules need.
//!
//! It sends a login only where the registry asks for one and only over TLS or to this machine, follows
//! redirections of what is read only and without the login, tries again what may pass (busy, broken
//! off), and reads nothing that is longer than it may be.

mod challenge;
mod transfer;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use wfhost_world::text::causes_of_request;
use wfhost_world::{lock, private};

use self::challenge::Challenge;
pub use self::transfer::Pushed;
use crate::reference::is_this_machine;
use crate::{Login, Logins, Reference, RegistryError};

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// How long nothing may come.
const SILENT_WITHIN: Duration = Duration::from_secs(60);
/// Bytes per second that an upload has at least: nothing comes back before it is done.
const UPLOADED_PER_SECOND: u64 = 64 << 10;
/// How often something is tried that may pass.
const TRIES: u32 = 4;
/// The longest wish to be left alone that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Redirections of one request that are followed.
const REDIRECTS: u32 = 5;
/// Bytes of a refusal's body that are looked at.
const REFUSAL_BYTES: u64 = 64 << 10;
/// Characters of it that are shown.
const SAID_CHARS: usize = 300;
/// Bytes of a token's answer.
const TOKEN_BYTES: u64 = 1 << 20;
/// How long a token holds that does not say so, by the specification.
const TOKEN_SECONDS: u64 = 60;

/// How a client is set up.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    pub logins: Logins,
    /// Registries that are spoken to without TLS, by host and port; those on this machine are, too.
    pub plain: BTreeSet<String>,
    /// Registries on this machine that have TLS all the same.
    pub tls: BTreeSet<String>,
    /// Who certifies a registry, instead of those that the machine knows: files with certificates in PEM.
    pub certified: BTreeMap<String, PathBuf>,
}

/// A client of any number of registries.
#[derive(Debug, Default)]
pub struct Client {
    options: ClientOptions,
    http: OnceLock<reqwest::Client>,
    /// For registries without TLS: it needs no certificates, which take a while to find.
    plain: OnceLock<reqwest::Client>,
    /// For those that are certified by somebody else.
    certified: Mutex<HashMap<String, reqwest::Client>>,
    /// What each registry said about how it wants to be asked.
    challenges: Mutex<HashMap<String, Challenge>>,
    /// By registry and scope.
    tokens: Mutex<HashMap<(String, String), Token>>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    until: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("until", &self.until).finish_non_exhaustive()
    }
}

/// What is done with a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Pull,
    Push,
}

impl Access {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }
}

/// The certificates of a file.
fn certificates(host: &str, path: &Path) -> Result<Vec<reqwest::Certificate>, RegistryError> {
    let failed =
        |reason: String| RegistryError::Certificates { host: host.to_owned(), path: path.to_owned(), reason };
    let text = private::read_any(path).map_err(|error| failed(error.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(text.as_bytes());
    let found = found.map_err(|error| failed(causes_of_request(&error)))?;
    match found.is_empty() {
        true => Err(failed("it has no certificate in PEM".to_owned())),
        false => Ok(found),
    }
}

/// A request to a registry, to be made as often as it takes.
struct Ask<'a> {
    host: &'a str,
    /// Of which repository; none to ask only who one is.
    repository: Option<&'a str>,
    access: Access,
    /// What it is about, for people.
    what: &'a str,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Bytes>,
}

impl Client {
    pub fn new(options: ClientOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Fails unless the registry accepts the login that there is for it. False if it asks for none.
    pub async fn check_login(&self, host: &str) -> Result<bool, RegistryError> {
        let url = self.url(host, "")?;
        let what = "what it has";
        let response = self.send(&Ask::get(host, what, url)).await?;
        match response.status() {
            status if status.is_success() => Ok(lock(&self.challenges).contains_key(host)),
            status => Err(answer(host, format!("{status} at /v2/"))),
        }
    }

    /// Whether a registry is spoken to without TLS.
    fn is_plain(&self, host: &str) -> bool {
        self.options.plain.contains(host) || (is_this_machine(host) && !self.options.tls.contains(host))
    }

    /// An address of the registry's interface.
    fn url(&self, host: &str, path: &str) -> Result<Url, RegistryError> {
        let scheme = if self.is_plain(host) { "http" } else { "https" };
        // Docker's registry answers elsewhere than it is called.
        let at = if host == "docker.io" { "registry-1.docker.io" } else { host };
        Url::parse(&format!("{scheme}://{at}/v2/{path}"))
            .map_err(|error| answer(host, format!("it has no address: {error}")))
    }

    fn http(&self, url: &Url) -> Result<reqwest::Client, RegistryError> {
        let is_plain = url.scheme() == "http";
        let host = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let by = self.options.certified.get(&host).filter(|_| !is_plain);
        let cell = if is_plain { &self.plain } else { &self.http };
        let there = match by {
            Some(_) => lock(&self.certified).get(&host).cloned(),
            None => cell.get().cloned(),
        };
        if let Some(client) = there {
            return Ok(client);
        }
        // One provider of cryptography for the whole process; the first user has installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("wfhost/", env!("CARGO_PKG_VERSION")));
        // What is not encrypted is not handed to a proxy.
        if is_plain {
            builder = builder.tls_certs_only([]).no_proxy();
        }
        if let Some(path) = by {
            builder = builder.tls_certs_only(certificates(&host, path)?);
        }
        let client = builder.build().map_err(|error| RegistryError::Unreachable {
            host: url.host_str().unwrap_or_default().to_owned(),
            reason: causes_of_request(&error),
        })?;
        Ok(match by {
            Some(_) => lock(&self.certified).entry(host).or_insert(client).clone(),
            None => cell.get_or_init(|| client).clone(),
        })
    }

    /// Makes a request until it is answered. What is returned is a success, 404, or something that its
    /// kind of request has to judge; all that is the same for all of them is an error already.
    async fn send(&self, ask: &Ask<'_>) -> Result<Response, RegistryError> {
        let host = ask.host;
        let own = ask.url.origin();
        let (mut tries, mut redirects, mut challenged) = (0, 0, false);
        let mut url = ask.url.clone();
        loop {
            let is_own = url.origin() == own;
            let mut request =
                self.http(&url)?.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
            if let Some(body) = &ask.body {
                request = request.body(body.clone());
            }
            // A login, and what it bought, is for the registry only.
            let authorization = if is_own { self.authorization(ask).await? } else { None };
            let known = authorization.is_some();
            if let Some(header) = authorization {
                request = request.header(AUTHORIZATION, header);
            }
            let bytes = ask.body.as_ref().map_or(0, |body| body.len() as u64);
            let response = match answered(request, patience(bytes)).await {
                Ok(response) => response,
                Err(lost) => {
                    tries += 1;
                    if tries < TRIES && lost.may_pass() {
                        tokio::time::sleep(pause(tries)).await;
                        continue;
                    }
                    let reason = lost.to_string();
                    return Err(RegistryError::Unreachable { host: host.to_owned(), reason });
                }
            };
            let status = response.status();
            match status.as_u16() {
                401 if is_own && !challenged => {
                    challenged = true;
                    self.take_challenge(ask, &response)?;
                }
                401 => {
                    let said = said(response).await;
                    return Err(RegistryError::Login {
                        host: host.to_owned(),
                        what: ask.what.to_owned(),
                        known,
                        said,
                    });
                }
                403 => {
                    let said = said(response).await;
                    return Err(RegistryError::Forbidden {
                        host: host.to_owned(),
                        what: ask.what.to_owned(),
                        said,
                    });
                }
                429 | 500 | 502 | 503 | 504 => {
                    tries += 1;
                    let wait = retry_after(response.headers());
                    let pause = wait.unwrap_or(pause(tries));
                    if tries < TRIES && pause <= PATIENCE {
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                    if status == StatusCode::TOO_MANY_REQUESTS {
                        let wait_s = wait.map(|wait| wait.as_secs());
                        return Err(RegistryError::Busy { host: host.to_owned(), wait_s });
                    }
                    let said = said(response).await;
                    let said = if said.is_empty() { said } else { format!(": \"{said}\"") };
                    return Err(RegistryError::Unreachable {
                        host: host.to_owned(),
                        reason: format!("it answers {status}{said}"),
                    });
                }
                301 | 302 | 303 | 307 | 308 => {
                    url = self.redirected(ask, &url, &response)?;
                    redirects += 1;
                    if redirects > REDIRECTS {
                        return Err(answer(
                            host,
                            format!("more than {REDIRECTS} redirects for {}", ask.what),
                        ));
                    }
                }
                _ => return Ok(response),
            }
        }
    }

    /// Where a request for something to read is led. Nothing is followed out of TLS.
    fn redirected(&self, ask: &Ask<'_>, from: &Url, response: &Response) -> Result<Url, RegistryError> {
        let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
        let refused = || RegistryError::Redirect {
            host: ask.host.to_owned(),
            what: ask.what.to_owned(),
            to: to.to_owned(),
        };
        let next = from.join(to).map_err(|_| refused())?;
        let is_read = [Method::GET, Method::HEAD].contains(&ask.method);
        let downgrades = from.scheme() == "https" && next.scheme() != "https";
        if !is_read || downgrades || !["http", "https"].contains(&next.scheme()) {
            return Err(refused());
        }
        Ok(next)
    }

    /// Keeps how the registry wants to be asked. A token that was not accepted is of no use any more.
    fn take_challenge(&self, ask: &Ask<'_>, response: &Response) -> Result<(), RegistryError> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = Challenge::parse(headers.iter().filter_map(|value| value.to_str().ok()));
        let Some(challenge) = challenge else {
            return Err(answer(ask.host, "it requires an unsupported kind of login".to_owned()));
        };
        lock(&self.tokens).remove(&(ask.host.to_owned(), scope_of(ask, &challenge)));
        lock(&self.challenges).insert(ask.host.to_owned(), challenge);
        Ok(())
    }

    /// What is sent to show who asks: nothing until the registry wants something.
    async fn authorization(&self, ask: &Ask<'_>) -> Result<Option<HeaderValue>, RegistryError> {
        let Some(challenge) = lock(&self.challenges).get(ask.host).cloned() else { return Ok(None) };
        match &challenge {
            Challenge::Basic => Ok(match self.options.logins.of(ask.host)? {
                Some(Login::Password { user, password }) => Some(basic(&user, &password)),
                Some(Login::Identity(_)) => {
                    return Err(RegistryError::Credential {
                        host: ask.host.to_owned(),
                        reason: "it is an identity token, but the registry requires a password".to_owned(),
                    });
                }
                None => None,
            }),
            Challenge::Bearer { realm, service, .. } => {
                let scope = scope_of(ask, &challenge);
                let key = (ask.host.to_owned(), scope.clone());
                let kept = lock(&self.tokens).get(&key).filter(|token| token.until > Instant::now()).cloned();
                if let Some(token) = kept {
                    return Ok(Some(token.header));
                }
                let token = self.token(ask, realm, service.as_deref(), &scope).await?;
                lock(&self.tokens).insert(key, token.clone());
                Ok(Some(token.header))
            }
        }
    }

    /// Buys a token.
    async fn token(
        &self,
        ask: &Ask<'_>,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<Token, RegistryError> {
        let host = ask.host;
        let unusable = |what: &str| answer(host, format!("{what}, where tokens are given out ({realm})"));
        let url = Url::parse(realm).map_err(|_| unusable("no address"))?;
        let is_safe = match url.scheme() {
            "https" => true,
            // Whoever can read the way to the registry can read this one.
            "http" => {
                let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
                let at = url.host_str().unwrap_or_default();
                self.is_plain(host) && (at == name || (is_this_machine(host) && is_this_machine(at)))
            }
            _ => false,
        };
        if !is_safe || !url.username().is_empty() || url.password().is_some() {
            return Err(RegistryError::Redirect {
                host: host.to_owned(),
                what: "logins".to_owned(),
                to: realm.to_owned(),
            });
        }
        let login = self.options.logins.of(host)?;
        let mut tries = 0;
        loop {
            let client = self.http(&url)?;
            let request = token_request(&client, &url, service, scope, login.as_ref());
            let response = match answered(request, patience(0)).await {
                Ok(response) => response,
                Err(lost) => {
                    tries += 1;
                    if tries < TRIES && lost.may_pass() {
                        tokio::time::sleep(pause(tries)).await;
                        continue;
                    }
                    let reason = format!("where it gives tokens out ({realm}): {lost}");
                    return Err(RegistryError::Unreachable { host: host.to_owned(), reason });
                }
            };
            let status = response.status();
            match status.as_u16() {
                200..=299 => {
                    let what = format!("the token of {host}");
                    let body = read(host, &what, response, TOKEN_BYTES).await?;
                    return Token::parse(&body).ok_or_else(|| unusable("no token"));
                }
                401 | 403 => {
                    let known = login.is_some();
                    let said = said(response).await;
                    return Err(RegistryError::Login {
                        host: host.to_owned(),
                        what: ask.what.to_owned(),
                        known,
                        said,
                    });
                }
                429 | 500..=599 => {
                    tries += 1;
                    let wait = retry_after(response.headers());
                    let pause = wait.unwrap_or(pause(tries));
                    if tries >= TRIES || pause > PATIENCE {
                        let wait_s = wait.map(|wait| wait.as_secs());
                        return Err(match status {
                            StatusCode::TOO_MANY_REQUESTS => {
                                RegistryError::Busy { host: host.to_owned(), wait_s }
                            }
                            _ => unusable(&format!("it answers {status}")),
                        });
                    }
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(unusable(&format!("it answers {status}"))),
            }
        }
    }
}

impl<'a> Ask<'a> {
    fn get(host: &'a str, what: &'a str, url: Url) -> Self {
        Self {
            host,
            repository: None,
            access: Access::Pull,
            what,
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: None,
        }
    }

    /// A request about the repository of a reference.
    fn of(reference: &'a Reference, access: Access, what: &'a str, method: Method, url: Url) -> Self {
        let repository = Some(reference.repository());
        Self { repository, access, method, ..Self::get(reference.registry(), what, url) }
    }
}

/// For what a token is bought: what is about to be done, or what the registry says.
fn scope_of(ask: &Ask<'_>, challenge: &Challenge) -> String {
    match (ask.repository, challenge) {
        (Some(repository), _) => format!("repository:{repository}:{}", ask.access.as_str()),
        (None, Challenge::Bearer { scope, .. }) => scope.clone().unwrap_or_default(),
        (None, Challenge::Basic) => String::new(),
    }
}

fn token_request(
    client: &reqwest::Client,
    url: &Url,
    service: Option<&str>,
    scope: &str,
    login: Option<&Login>,
) -> RequestBuilder {
    let mut fields: Vec<(&str, &str)> = Vec::new();
    fields.extend(service.map(|service| ("service", service)));
    if !scope.is_empty() {
        fields.push(("scope", scope));
    }
    let mut url = url.clone();
    match login {
        // By OAuth 2, as Docker's specification of tokens has it.
        Some(Login::Identity(token)) => {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "wfhost"),
                ("refresh_token", token),
            ]);
            let mut form = Url::parse("x:").unwrap_or_else(|_| url.clone());
            form.query_pairs_mut().extend_pairs(&fields);
            let body = form.query().unwrap_or_default().to_owned();
            client
                .post(url)
                .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body)
        }
        login => {
            url.query_pairs_mut().extend_pairs(&fields);
            let request = client.get(url);
            match login {
                Some(Login::Password { user, password }) => {
                    request.header(AUTHORIZATION, basic(user, password))
                }
                _ => request,
            }
        }
    }
}

impl Token {
    /// Reads the answer of where tokens are given out.
    fn parse(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Given {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let given: Given = serde_json::from_slice(body).ok()?;
        let token = given.token.or(given.access_token).filter(|token| !token.is_empty())?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        header.set_sensitive(true);
        let seconds = given.expires_in.unwrap_or(TOKEN_SECONDS).min(86_400);
        // The way there takes a while, and clocks differ.
        let until = Instant::now() + Duration::from_secs(seconds.saturating_sub(5));
        Some(Self { header, until })
    }
}

fn basic(user: &str, password: &str) -> HeaderValue {
    let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    // Base64 has no character that a header may not have.
    let mut header = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    header.set_sensitive(true);
    header
}

fn answer(host: &str, what: String) -> RegistryError {
    RegistryError::Answer { host: host.to_owned(), what }
}

/// Reads a body that may have so many bytes.
async fn read(host: &str, what: &str, response: Response, most: u64) -> Result<Bytes, RegistryError> {
    let too_large = |bytes| RegistryError::TooLarge { what: what.to_owned(), bytes, most };
    if let Some(length) = response.content_length().filter(|length| *length > most) {
        return Err(too_large(length));
    }
    let mut body = BytesMut::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = next_of(&mut stream).await.map_err(|lost| RegistryError::Unreachable {
        host: host.to_owned(),
        reason: format!("the transfer of {what} was interrupted: {lost}"),
    })? {
        if (body.len() + chunk.len()) as u64 > most {
            return Err(too_large((body.len() + chunk.len()) as u64));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// What a refusal says, by the specification's form or as text.
async fn said(response: Response) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        code: Option<String>,
        message: Option<String>,
    }
    let Ok(body) = read("", "", response, REFUSAL_BYTES).await else { return String::new() };
    let text = match serde_json::from_slice::<Refusal>(&body) {
        Ok(Refusal { errors }) => {
            let parts = errors
                .into_iter()
                .filter_map(|Entry { code, message }| message.filter(|message| !message.is_empty()).or(code));
            parts.collect::<Vec<_>>().join("; ")
        }
        // A page says nothing that fits into a line.
        Err(_) if body.first() == Some(&b'<') => String::new(),
        Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
    };
    text.chars().take(SAID_CHARS).collect()
}

/// How long the registry wants to be left alone.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let time = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let now = wfhost_world::clock::now();
    let then = u64::try_from(time.as_millisecond()).ok()?;
    Some(Duration::from_millis(then.saturating_sub(now.0)))
}

/// The pause before another try.
fn pause(tries: u32) -> Duration {
    Duration::from_millis(200) * 3u32.saturating_pow(tries.saturating_sub(1))
}

/// Why a request has no answer, or an answer no end.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{}", causes_of_request(.0))]
    Request(reqwest::Error),
    #[error("nothing came for {} s", .0.as_secs())]
    Silent(Duration),
}

impl Lost {
    /// Whether another try makes sense: a name that is not known stays so for a while.
    fn may_pass(&self) -> bool {
        let Self::Request(error) = self else { return true };
        let text = self.to_string();
        !error.is_builder()
            && !error.is_redirect()
            && !text.contains("certificate")
            && !text.contains("dns error")
    }
}

/// How long the answer to a request is waited for that sends so many bytes.
fn patience(bytes: u64) -> Duration {
    SILENT_WITHIN + Duration::from_secs(bytes / UPLOADED_PER_SECOND)
}

/// Makes a request, and waits so long for the head of its answer.
async fn answered(request: RequestBuilder, within: Duration) -> Result<Response, Lost> {
    match tokio::time::timeout(within, request.send()).await {
        Ok(answer) => answer.map_err(Lost::Request),
        Err(_) => Err(Lost::Silent(within)),
    }
}

/// The next piece of an answer; none at its end.
async fn next_of(
    stream: &mut (impl Stream<Item = reqwest::Result<Bytes>> + Unpin),
) -> Result<Option<Bytes>, Lost> {
    match tokio::time::timeout(SILENT_WITHIN, stream.next()).await {
        Ok(piece) => piece.transpose().map_err(Lost::Request),
        Err(_) => Err(Lost::Silent(SILENT_WITHIN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_without_tls() {
        for (host, is) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost.example.com", false),
            ("10.0.0.1:5000", false),
            ("ghcr.io", false),
            ("[2001:db8::1]", false),
        ] {
            assert_eq!(is_this_machine(host), is, "{host}");
        }
    }

    #[test]
    fn wishes_to_be_left_alone_are_read() {
        let header = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers)
        };
        assert_eq!(header("7"), Some(Duration::from_secs(7)));
        assert_eq!(header("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert_eq!(header("soon"), None);
        assert_eq!(header("-1"), None);
    }

    #[test]
    fn tokens_are_read_and_not_printed() {
        let token = Token::parse(br#"{"access_token":"secret","expires_in":300}"#).unwrap();
        assert!(token.until > Instant::now() + Duration::from_secs(200));
        assert!(!format!("{token:?}").contains("secret"));
        for none in ["{}", "[]", "", r#"{"token":""}"#, "{\"token\":\"a\\nb\"}"] {
            assert!(Token::parse(none.as_bytes()).is_none(), "{none}");
        }
    }
}
