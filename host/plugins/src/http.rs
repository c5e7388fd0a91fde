//! HTTP of plugins: `wasi:http/outgoing-handler` over reqwest, with exactly what is granted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use reqwest::{Client, Url};
use wasmtime_wasi_http::{Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks};
use wfhost_agents::{CallFailure, Secret, SecretSource, client_builder};
use wfhost_world::lock;

use crate::certificates;
use crate::grant::{self, Allowed, Denial, HttpGrant, Reach, judge, shown};
use crate::lookup::{Judged, Lookup, OutOfReach, System};
use crate::mask::{Masker, Masks, SHORTEST};
use crate::progress::Progress;
use crate::recorded::{Made, Recording};

/// Different denials that one attempt tells people about.
const TOLD: usize = 16;
/// A body that goes on for so long without a byte is broken off, if the plugin says nothing else.
const SILENCE: Duration = Duration::from_secs(600);

/// What a plugin may send, and the connections for that.
#[derive(Debug)]
pub(crate) struct Network {
    provider: String,
    grants: Vec<HttpGrant>,
    audit: bool,
    /// Instead of the network.
    recording: Option<Recording>,
    lookup: Arc<dyn Lookup>,
    clients: Mutex<HashMap<Kind, Client>>,
}

/// What connections have in common: which addresses, whether with TLS, and certified by whom.
type Kind = (Reach, bool, Option<PathBuf>);

impl Network {
    pub fn new(provider: String, grants: Vec<HttpGrant>, audit: bool, recording: Option<Recording>) -> Self {
        Self { provider, grants, audit, recording, lookup: Arc::new(System), clients: Mutex::default() }
    }

    pub fn grants(&self) -> &[HttpGrant] {
        &self.grants
    }

    fn client(&self, reach: Reach, url: &Url, grant: Option<usize>) -> Result<Client, Error> {
        let is_tls = url.scheme() == "https";
        let ca = grant.and_then(|grant| self.grants[grant].ca.clone()).filter(|_| is_tls);
        let kind = (reach, is_tls, ca);
        if let Some(client) = lock(&self.clients).get(&kind) {
            return Ok(client.clone());
        }
        // No redirects: the next request is one of the plugin, and judged like any other.
        let mut builder = client_builder(url.as_str())
            .no_proxy()
            .retry(reqwest::retry::never())
            .dns_resolver(Judged { lookup: Arc::clone(&self.lookup), reach });
        if let Some(ca) = &kind.2 {
            let certificates = certificates::read(ca).map_err(|_| Error::ConfigurationError)?;
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|_| Error::ConfigurationError)?;
        Ok(lock(&self.clients).entry(kind).or_insert(client).clone())
    }
}

/// A secret where it goes, read at the beginning of an attempt.
struct Filled {
    headers: Vec<(HeaderName, HeaderValue)>,
    query: Vec<(String, String)>,
}

impl Filled {
    fn is_used(&self) -> bool {
        !self.headers.is_empty() || !self.query.is_empty()
    }
}

/// The requests of one attempt.
pub(crate) struct Requests {
    network: Arc<Network>,
    progress: Progress,
    /// For each grant.
    filled: Vec<Filled>,
    counts: Vec<AtomicU32>,
    masks: Masks,
    told: Mutex<HashSet<Vec<String>>>,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("network", &self.network).finish_non_exhaustive()
    }
}

impl Requests {
    /// Reads the secrets.
    ///
    /// # Errors
    ///
    /// A secret is not available, or is invalid.
    pub fn new(network: Arc<Network>, progress: Progress) -> Result<Self, CallFailure> {
        let mut secrets: Vec<Secret> = Vec::new();
        let mut read = |source: &SecretSource| -> Result<String, CallFailure> {
            let secret = source.read().map_err(|error| CallFailure::auth(error.to_string()))?;
            let value = secret.expose().to_owned();
            if value.len() < SHORTEST {
                return Err(CallFailure::auth(format!(
                    "{source} has less than {SHORTEST} bytes, which is too short to be redacted"
                )));
            }
            secrets.push(secret);
            Ok(value)
        };
        let mut filled = Vec::new();
        for grant in network.grants() {
            if let Some(ca) = &grant.ca {
                certificates::read(ca).map_err(|error| crate::provider::unusable(&error))?;
            }
            let mut one = Filled { headers: Vec::new(), query: Vec::new() };
            for (name, injected) in &grant.inject {
                let value = format!("{}{}", injected.prefix, read(&injected.source)?);
                let bad = |_| CallFailure::auth(format!("{} cannot be part of a header", injected.source));
                let mut value = HeaderValue::from_str(&value).map_err(bad)?;
                value.set_sensitive(true);
                let bad = |_| CallFailure::auth(format!("{name:?} is not the name of a header"));
                one.headers.push((HeaderName::from_bytes(name.as_bytes()).map_err(bad)?, value));
            }
            for (name, injected) in &grant.inject_query {
                let value = format!("{}{}", injected.prefix, read(&injected.source)?);
                one.query.push((name.clone(), value));
            }
            filled.push(one);
        }
        let counts = network.grants().iter().map(|_| AtomicU32::new(0)).collect();
        let masks = Masks::new(&secrets);
        Ok(Self { network, progress, filled, counts, masks, told: Mutex::default() })
    }

    /// Decides about a request, and tells people what was decided if it was not granted.
    fn judge(&self, method: &Method, asked: &str) -> Result<Allowed, Error> {
        let Network { provider, grants, audit, .. } = &*self.network;
        let judged = judge(grants, *audit, method, asked).and_then(|allowed| {
            let Some(grant) = allowed.grant else { return Ok(allowed) };
            let before = self.counts[grant].fetch_add(1, Ordering::Relaxed);
            match before >= grants[grant].max_requests {
                true => Err(Denial::TooMany { grant }),
                false => Ok(allowed),
            }
        });
        match judged {
            Ok(allowed) => {
                if allowed.grant.is_none() {
                    let url = shown(&allowed.url);
                    let mut lines = vec![format!("audit: {method} {url} was sent without a grant:")];
                    lines.extend(grant::grant_lines(provider, method, &allowed.url));
                    self.tell(lines);
                }
                Ok(allowed)
            }
            Err(denial) => {
                self.deny(&denial);
                Err(match denial {
                    Denial::Private { .. } => Error::DestinationIpProhibited,
                    Denial::Ambiguous { .. } => Error::HttpRequestUriInvalid,
                    Denial::TooMany { .. } => Error::ConnectionLimitReached,
                    _ => Error::HttpRequestDenied,
                })
            }
        }
    }

    fn deny(&self, denial: &Denial) {
        self.tell(denial.lines(&self.network.provider, &self.network.grants));
    }

    /// The same is said once.
    fn tell(&self, lines: Vec<String>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD && told.insert(lines.clone()) {
            lines.into_iter().for_each(|line| self.progress.note(line));
        }
    }

    /// Sends a request, if it may be sent.
    pub async fn send(
        self: Arc<Self>,
        method: Method,
        asked: String,
        headers: HeaderMap,
        body: WasiBody,
        options: Option<RequestOptions>,
    ) -> Result<http::Response<WasiBody>, Error> {
        let Allowed { mut url, grant, reach } = self.judge(&method, &asked)?;
        let options = options.unwrap_or_default();
        let filled = grant.map(|grant| &self.filled[grant]);
        let headers = self.headers(headers, filled);
        for (name, value) in filled.iter().flat_map(|filled| &filled.query) {
            url.query_pairs_mut().append_pair(name, value);
        }
        if let Some(recording) = &self.network.recording {
            let body = body.collect().await.map_err(|_| Error::ConnectionTerminated)?.to_bytes();
            let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let made = Made {
                method: method.to_string(),
                url: url.to_string(),
                headers: headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
                body: String::from_utf8_lossy(&body).into_owned(),
            };
            let answer = recording.answer(&made).ok_or(Error::ConnectionRefused)?;
            let mut headers = HeaderMap::new();
            for (name, value) in &answer.headers {
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Error::HttpProtocolError)?;
                headers.append(name, HeaderValue::from_str(value).map_err(|_| Error::HttpProtocolError)?);
            }
            let status = StatusCode::from_u16(answer.status).map_err(|_| Error::HttpProtocolError)?;
            let pieces = answer.body().into_iter().map(Bytes::from).collect();
            return self.response((status, headers), Body::Pieces(pieces), grant, None);
        }
        let client = self.network.client(reach, &url, grant)?;
        let mut sending = client.request(method, url.clone()).headers(headers);
        if !http_body::Body::is_end_stream(&body) {
            // Trailers are left out.
            let data = BodyStream::new(body).try_filter_map(|frame| async { Ok(frame.into_data().ok()) });
            sending = sending.body(reqwest::Body::wrap_stream(data));
        }
        let first_byte = [options.connect_timeout, options.first_byte_timeout];
        let within = first_byte.into_iter().flatten().reduce(|a, b| a.saturating_add(b));
        let sent = match within {
            None => sending.send().await,
            Some(within) => match tokio::time::timeout(within, sending.send()).await {
                Ok(sent) => sent,
                Err(_) => return Err(Error::ConnectionTimeout),
            },
        };
        let response = sent.map_err(|error| self.failed(&url, grant, &error))?;
        self.progress.alive();
        let head = (response.status(), response.headers().clone());
        self.response(head, Body::Net(response), grant, options.between_bytes_timeout)
    }

    /// The headers that are sent.
    fn headers(&self, mut headers: HeaderMap, filled: Option<&Filled>) -> HeaderMap {
        let forbidden: Vec<_> = headers.keys().filter(|name| self.is_forbidden(name)).cloned().collect();
        for name in forbidden {
            headers.remove(name);
        }
        // A secret in a body that is packed would not be found in it.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let Some(filled) = filled else { return headers };
        if filled.is_used() {
            // Nor one of which each answer has a part.
            headers.remove(RANGE);
            headers.remove(IF_RANGE);
        }
        for (name, value) in &filled.headers {
            headers.insert(name.clone(), value.clone());
        }
        headers
    }

    /// Whether a plugin may not set a header.
    pub fn is_forbidden(&self, name: &HeaderName) -> bool {
        let injected = |grant: &HttpGrant| {
            grant.inject.keys().chain(&grant.reserved).any(|key| key.eq_ignore_ascii_case(name.as_str()))
        };
        grant::is_forbidden(name) || self.network.grants.iter().any(injected)
    }

    /// What the plugin is told of a request that failed, and what people are.
    fn failed(&self, url: &Url, grant: Option<usize>, error: &reqwest::Error) -> Error {
        let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        if causes.clone().any(|cause| cause.is::<OutOfReach>()) {
            self.deny(&Denial::Private { url: url.clone(), grant });
            return Error::DestinationIpProhibited;
        }
        // Those of the body are the plugin's own; the address may have a secret in it.
        let cause = causes.by_ref().last().map(ToString::to_string).unwrap_or_default();
        let mut lines = vec![format!("no answer of {}: {cause}", shown(url))];
        if cause.contains("certificate") {
            lines.push("for a private certificate authority set beside `url`: ca = \"FILE\"".to_owned());
        }
        self.tell(lines);
        match error {
            error if error.is_timeout() => Error::ConnectionTimeout,
            error if error.is_connect() => Error::ConnectionRefused,
            error if error.is_body() => Error::ConnectionTerminated,
            _ => Error::HttpProtocolError,
        }
    }

    /// What the plugin sees of a response.
    fn response(
        self: Arc<Self>,
        (status, received): (StatusCode, HeaderMap),
        body: Body,
        grant: Option<usize>,
        between_bytes: Option<Duration>,
    ) -> Result<http::Response<WasiBody>, Error> {
        let packed = received.get(CONTENT_ENCODING).filter(|coding| *coding != "identity");
        if let Some(coding) = packed
            && grant.is_some_and(|grant| self.filled[grant].is_used())
        {
            let coding = String::from_utf8_lossy(coding.as_bytes()).into_owned();
            return Err(Error::HttpResponseContentCoding(Some(self.masked_text(coding))));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &received {
            // The length may change, and tells how long a secret is.
            if name == CONTENT_LENGTH || self.masks.masked(name.as_str().as_bytes()).is_some() {
                continue;
            }
            let masked = self.masks.masked(value.as_bytes()).map(|value| HeaderValue::from_bytes(&value));
            let Ok(value) = masked.unwrap_or_else(|| Ok(value.clone())) else { continue };
            headers.append(name.clone(), value);
        }
        let most = grant.map_or(HttpGrant::MAX_RESPONSE, |grant| self.network.grants[grant].max_response);
        let masker = Some(Masker::new(self.masks.clone()));
        let within = between_bytes.unwrap_or(SILENCE);
        let reading = Reading { requests: self, body, masker, read: 0, most, within };
        let frames = futures_util::stream::try_unfold(reading, Reading::next).map_ok(http_body::Frame::data);
        let mut answer = http::Response::new(StreamBody::new(frames.boxed()).boxed_unsync());
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }

    fn masked_text(&self, text: String) -> String {
        match self.masks.masked(text.as_bytes()) {
            Some(masked) => String::from_utf8_lossy(&masked).into_owned(),
            None => text,
        }
    }
}

/// Where a body comes from.
enum Body {
    Net(reqwest::Response),
    Pieces(VecDeque<Bytes>),
}

impl Body {
    async fn next(&mut self) -> Result<Option<Bytes>, reqwest::Error> {
        match self {
            Self::Net(response) => response.chunk().await,
            Self::Pieces(pieces) => Ok(pieces.pop_front()),
        }
    }
}

/// A response whose body is read.
struct Reading {
    requests: Arc<Requests>,
    body: Body,
    /// None: it is over.
    masker: Option<Masker>,
    read: u64,
    most: u64,
    within: Duration,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        loop {
            let Some(masker) = &mut self.masker else { return Ok(None) };
            let piece = tokio::time::timeout(self.within, self.body.next()).await;
            let piece = piece.map_err(|_| Error::ConnectionReadTimeout)?;
            let shown = match piece.map_err(|_| Error::HttpResponseIncomplete)? {
                Some(piece) => {
                    self.requests.progress.alive();
                    self.read += piece.len() as u64;
                    if self.read > self.most {
                        let text = format!(
                            "denied: a response exceeds the limit of {} bytes (max_response)",
                            self.most
                        );
                        self.requests.tell(vec![text]);
                        return Err(Error::HttpResponseBodySize(Some(self.most)));
                    }
                    match self.requests.masks.is_empty() {
                        true => piece,
                        false => masker.push(&piece).into(),
                    }
                }
                None => {
                    let rest = masker.finish();
                    self.masker = None;
                    rest.into()
                }
            };
            if !shown.is_empty() {
                return Ok(Some((shown, self)));
            }
        }
    }
}

/// What `wasi:http` asks of a plugin's sandbox.
#[derive(Debug)]
pub(crate) struct Hooks(pub Arc<Requests>);

type Sent = Result<(http::Response<WasiBody>, Io), Error>;
type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        let requests = Arc::clone(&self.0);
        Arc::new(move |name| requests.is_forbidden(name))
    }

    fn set_host_header(&mut self) -> bool {
        // That is for the client to do.
        false
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _errors: Io,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let requests = Arc::clone(&self.0);
        Box::new(async move {
            let (parts, body) = request.into_parts();
            let sending = requests.send(parts.method, parts.uri.to_string(), parts.headers, body, options);
            let response = sending.await?;
            let nothing: Io = Box::new(std::future::ready(Ok(())));
            Ok((response, nothing))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::BoxFuture;
    use wfhost_agents::CallOutput;

    use super::*;

    /// A name that stands for something else each time.
    #[derive(Debug)]
    struct Rebinding {
        answers: Vec<Vec<IpAddr>>,
        asked: AtomicUsize,
    }

    impl Lookup for Rebinding {
        fn lookup(&self, _: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
            let at = self.asked.fetch_add(1, Ordering::Relaxed).min(self.answers.len() - 1);
            let answer = self.answers[at].clone();
            Box::pin(async move { Ok(answer) })
        }
    }

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    /// Of the public network, where nobody answers at this port.
    const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));

    /// Sends requests one after the other. Gives their errors, how often the name was looked up, and whether anybody
    /// came to this machine.
    async fn sent(
        answers: &[&[IpAddr]],
        private: bool,
        requests: usize,
    ) -> (Vec<Option<Error>>, usize, bool) {
        let listener = std::net::TcpListener::bind((HERE, 0)).unwrap();
        let url = format!("http://rebind.example.com:{}/", listener.local_addr().unwrap().port());
        let mut grant = HttpGrant::new(url.parse().unwrap(), [Method::GET]);
        grant.private = private;
        let answers = answers.iter().map(|answer| answer.to_vec()).collect();
        let lookup = Arc::new(Rebinding { answers, asked: AtomicUsize::new(0) });
        let mut network = Network::new("p".into(), vec![grant], false, None);
        network.lookup = Arc::clone(&lookup) as Arc<dyn Lookup>;
        let requests_of = Requests::new(Arc::new(network), Progress::new(CallOutput::none())).unwrap();
        let requests_of = Arc::new(requests_of);
        let mut errors = Vec::new();
        for _ in 0..requests {
            let body: WasiBody = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
            let options = RequestOptions {
                connect_timeout: Some(Duration::from_millis(200)),
                first_byte_timeout: Some(Duration::from_millis(100)),
                between_bytes_timeout: None,
            };
            let sending = Arc::clone(&requests_of);
            let sent = sending.send(Method::GET, url.clone(), HeaderMap::new(), body, Some(options)).await;
            errors.push(sent.err());
        }
        listener.set_nonblocking(true).unwrap();
        let came = listener.accept().is_ok();
        (errors, lookup.asked.load(Ordering::Relaxed), came)
    }

    #[tokio::test]
    async fn a_name_that_stands_for_something_else_later_leads_nowhere_else() {
        // Judged once, and connected to what was judged: what it means at the second look does not matter.
        let (errors, asked, came) = sent(&[&[PUBLIC], &[HERE]], false, 1).await;
        assert!(errors[0].is_some() && asked == 1 && !came, "{errors:?} {asked}");
        // The next request is judged by what the name means then.
        let (errors, asked, came) = sent(&[&[PUBLIC], &[HERE]], false, 2).await;
        assert!(matches!(errors[1], Some(Error::DestinationIpProhibited)), "{errors:?}");
        assert!(asked == 2 && !came);
        // Of several addresses only those are tried that may be reached.
        let (errors, _, came) = sent(&[&[HERE, PUBLIC]], false, 1).await;
        assert!(
            errors[0].is_some() && !matches!(errors[0], Some(Error::DestinationIpProhibited)),
            "{errors:?}"
        );
        assert!(!came);
        for answer in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1"] {
            let (errors, _, came) = sent(&[&[answer.parse().unwrap()]], false, 1).await;
            assert!(
                matches!(errors[0], Some(Error::DestinationIpProhibited)) && !came,
                "{answer}: {errors:?}"
            );
        }
        // The test would notice: where that is granted somebody comes.
        let (_, _, came) = sent(&[&[HERE]], true, 1).await;
        assert!(came);
    }
}
