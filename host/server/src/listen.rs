//! Where requests come in: TCP with or without TLS, or a Unix socket. Bounds what a client can hold.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::{DRAIN, Ending, ServeError};

/// Connections at the same time. More get an answer that says so.
const CONNECTIONS: usize = 4_096;
/// How long a client may take to say what it wants; also between two requests.
const HEAD: Duration = Duration::from_secs(15);
/// How long a client may not take what it is sent.
const STUCK: Duration = Duration::from_secs(20);
/// How long those are waited for that came when the server had begun to end: they are told that, and no more.
const LATE: Duration = Duration::from_secs(1);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 32 << 10;

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    /// A socket that only its user can open.
    Unix(PathBuf),
}

impl Address {
    /// Whether only programs of this machine can come.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let text = text
            .strip_prefix("localhost:")
            .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| "expected an address like 127.0.0.1:7777, [::1]:7777, or unix:PATH".to_owned())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A certificate with its chain, and its key, as PEM files. They are read again for each server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A certificate or a key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be used: {reason}", path.display())]
pub struct TlsError {
    pub path: PathBuf,
    pub reason: String,
}

impl Tls {
    fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let unusable = |path: &Path, reason: String| TlsError { path: path.to_owned(), reason };
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unusable(&self.certificate, error.to_string()))?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| unusable(&self.key, error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_no_client_auth())
            .and_then(|builder| builder.with_single_cert(chain, key));
        let mut config = config.map_err(|error| unusable(&self.certificate, error.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

/// An address that is taken.
pub(crate) struct Listener {
    socket: Socket,
    tls: Option<TlsAcceptor>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({:?})", self.socket)
    }
}

impl Listener {
    pub async fn bind(address: &Address, tls: Option<&Tls>) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { address: address.to_string(), source };
        let tls = tls.map(Tls::acceptor).transpose()?;
        let socket = match address {
            Address::Tcp(wanted) => {
                let listener = TcpListener::bind(wanted).await.map_err(failed)?;
                let address = listener.local_addr().map_err(failed)?;
                Socket::Tcp(listener, address)
            }
            Address::Unix(path) => Socket::Unix(bind_unix(path).map_err(failed)?, path.clone()),
        };
        Ok(Self { socket, tls })
    }

    pub fn is_unix(&self) -> bool {
        matches!(self.socket, Socket::Unix(..))
    }

    pub fn port(&self) -> u16 {
        match &self.socket {
            Socket::Tcp(_, address) => address.port(),
            Socket::Unix(..) => 0,
        }
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        match &self.socket {
            // Wherever it listens, from here it is found so.
            Socket::Tcp(_, address) if address.ip().is_unspecified() => {
                format!("{scheme}://127.0.0.1:{}", address.port())
            }
            Socket::Tcp(_, address) => format!("{scheme}://{address}"),
            Socket::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// Answers until it is to stop, and then for as long as requests are under way, a while at most. From the beginning
    /// of the end on, each new connection has one request answered: a server that ends says so.
    pub async fn serve(self, router: Router, ending: &Ending) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let (mut draining, mut stopping) = (ending.draining(), ending.stopping());
        let (mut connections, mut late) = (JoinSet::new(), JoinSet::new());
        let (mut began, mut stopped) = (None, false);
        while !stopped || !connections.is_empty() {
            let until = began.unwrap_or_else(Instant::now) + DRAIN;
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping), if !stopped => {
                    began.get_or_insert_with(Instant::now);
                    stopped = true;
                    continue;
                }
                () = tokio::time::sleep_until(until), if stopped => break,
                _ = draining.wait_for(|draining| *draining), if began.is_none() => {
                    began = Some(Instant::now());
                    continue;
                }
                Some(_) = connections.join_next() => continue,
                Some(_) = late.join_next() => continue,
                accepted = self.accept() => accepted,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(_) => {
                    // Too many open files, most likely: others end meanwhile.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                tokio::spawn(refuse(stream));
                continue;
            };
            let (router, tls) = (router.clone(), self.tls.clone());
            let mut draining = began.is_none().then(|| draining.clone());
            let kept = if draining.is_some() { &mut connections } else { &mut late };
            kept.spawn(async move {
                let _permit = permit;
                let serving = async {
                    match tls {
                        Some(tls) => {
                            let greeted = tokio::time::timeout(HEAD, tls.accept(stream)).await;
                            if let Ok(Ok(stream)) = greeted {
                                answer(stream, router, draining.as_mut()).await;
                            }
                        }
                        None => answer(stream, router, draining.as_mut()).await,
                    }
                };
                serving.await;
            });
        }
        // Nobody comes any more.
        drop(self);
        let _ = tokio::time::timeout(LATE, async { while late.join_next().await.is_some() {} }).await;
    }

    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        match &self.socket {
            Socket::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                // Small answers are sent at once.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Socket::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// Answers the requests of one connection until the server ends; of one that came after that, one request.
async fn answer(stream: impl Connection, router: Router, draining: Option<&mut watch::Receiver<bool>>) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STUCK));
    let service = TowerToHyperService::new(
        router.map_request(|request: hyper::Request<Incoming>| request.map(axum::body::Body::new)),
    );
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES.max(8_192));
    http.keep_alive(draining.is_some());
    let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::pin!(connection);
    let Some(draining) = draining else {
        let _ = connection.await;
        return;
    };
    tokio::select! {
        // Whatever a client does wrong, it is told by the end of its connection.
        _ = connection.as_mut() => return,
        _ = draining.wait_for(|draining| *draining) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Says that there is no room.
async fn refuse(mut stream: Box<dyn Connection>) {
    let body = r#"{"code":"WF0815","details":[],"hints":["try again in some seconds"],"status":503,"title":"too many connections","type":"urn:wfhost:WF0815"}"#;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 2\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = tokio::time::timeout(Duration::from_secs(1), async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}

/// A socket that only its user can open. One that nobody listens on any more is replaced.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match path.symlink_metadata() {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process is listening there"));
            }
            std::fs::remove_file(path)?;
        }
        // It is somebody's, whatever it is.
        Ok(_) => {
            let why = "there is something that is not a socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Nobody comes between the making and the closing: it gets its place by a new name.
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, local) in [
            ("127.0.0.1:7777", true),
            ("localhost:80", true),
            ("[::1]:7777", true),
            ("unix:/run/wfhost.sock", true),
            ("0.0.0.0:7777", false),
            ("192.0.2.1:80", false),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().is_local(), local, "{text}");
        }
        for text in ["", "7777", "unix:", "example.org:80", "127.0.0.1"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
