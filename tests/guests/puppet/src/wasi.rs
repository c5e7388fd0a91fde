//! HTTP by `wasi:http`, as plugins have it that are made without an SDK.

use std::time::Duration;

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields, HeaderError, IncomingBody, Method, OutgoingBody, OutgoingRequest, RequestOptions,
    Scheme, http_error_code,
};
use wasip2::io::streams::{InputStream, StreamError};
use wfhost::plugin::Failure;

/// Bytes that are read at once.
const PIECE: u64 = 64 << 10;
/// Bytes that are written at once.
const WRITTEN: usize = 4096;

/// An answer, whose body is read as it comes.
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    // Dropped before what it is a part of.
    stream: InputStream,
    _body: IncomingBody,
}

fn denied(text: String) -> Failure {
    Failure::rejected(format!("the host denies the request: {text}"))
}

fn invalid(text: String) -> Failure {
    Failure::rejected(format!("the request cannot be sent: {text}"))
}

fn broken(text: String) -> Failure {
    Failure::unavailable(format!("the service gives no answer: {text}"))
}

pub fn send(
    name: &str,
    url: &str,
    headers: &[(String, String)],
    body: Option<&[u8]>,
    timeout: Option<Duration>,
) -> Result<Response, Failure> {
    let fields = Fields::new();
    let length = body.map(|body| ("content-length".to_owned(), body.len().to_string()));
    for (name, value) in headers.iter().chain(&length) {
        fields.append(name, value.as_bytes()).map_err(|error| match error {
            HeaderError::Forbidden => denied(format!("the header `{name}` is set by the host")),
            _ => invalid(format!("the header `{name}`")),
        })?;
    }
    let request = OutgoingRequest::new(fields);
    let (scheme, authority, path) = split(url)?;
    let bad = |what: &str| invalid(format!("{what} of {name} {url}"));
    request.set_method(&method(name)).map_err(|()| bad("the method"))?;
    request.set_scheme(Some(&scheme)).map_err(|()| bad("the scheme"))?;
    request.set_authority(Some(authority)).map_err(|()| bad("the host"))?;
    request.set_path_with_query(Some(path)).map_err(|()| bad("the path"))?;
    let options = RequestOptions::new();
    if let Some(timeout) = timeout {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let set = options
            .set_connect_timeout(Some(nanos))
            .and_then(|()| options.set_first_byte_timeout(Some(nanos)))
            .and_then(|()| options.set_between_bytes_timeout(Some(nanos)));
        set.map_err(|()| bad("the time limit"))?;
    }
    let outgoing = match body {
        Some(_) => Some(request.body().map_err(|()| bad("the body"))?),
        None => None,
    };
    let coming = handle(request, Some(options)).map_err(code)?;
    if let (Some(outgoing), Some(body)) = (outgoing, body) {
        // If the other side does not take it all, its answer says why.
        if write(&outgoing, body).is_ok() {
            OutgoingBody::finish(outgoing, None).map_err(code)?;
        }
    }
    let response = loop {
        match coming.get() {
            Some(response) => break response,
            None => coming.subscribe().block(),
        }
    };
    let gone = |()| broken("it was taken twice".to_owned());
    let response = response.map_err(gone)?.map_err(code)?;
    let (status, headers) = (response.status(), response.headers().entries());
    let body = response.consume().map_err(gone)?;
    Ok(Response { status, headers, stream: body.stream().map_err(gone)?, _body: body })
}

impl Response {
    /// The next piece; none at the end.
    pub fn chunk(&self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            match self.stream.blocking_read(PIECE) {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Ok(Some(piece)),
                Err(StreamError::Closed) => return Ok(None),
                Err(StreamError::LastOperationFailed(error)) => {
                    let known = http_error_code(&error).map(code);
                    // Some hosts tell it in words only.
                    let said = error.to_debug_string();
                    return Err(known.unwrap_or_else(|| match said.contains("size exceeds limit") {
                        true => denied(said),
                        false => broken(said),
                    }));
                }
            }
        }
    }
}

fn write(outgoing: &OutgoingBody, body: &[u8]) -> Result<(), StreamError> {
    let Ok(stream) = outgoing.write() else { return Err(StreamError::Closed) };
    for piece in body.chunks(WRITTEN) {
        stream.blocking_write_and_flush(piece)?;
    }
    Ok(())
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

/// The parts of a URL: nothing in them is changed.
fn split(url: &str) -> Result<(Scheme, &str, &str), Failure> {
    let none = || invalid(format!("`{url}` is no URL: it is like https://example.com/path"));
    let (scheme, rest) = url.split_once("://").ok_or_else(none)?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        other => Scheme::Other(other.to_owned()),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.is_empty() {
        true => Err(none()),
        false => Ok((scheme, authority, if path.is_empty() { "/" } else { path })),
    }
}

fn code(code: ErrorCode) -> Failure {
    let text = format!("{code:?}").trim_start_matches("ErrorCode::").to_owned();
    match code {
        ErrorCode::HttpRequestDenied
        | ErrorCode::HttpRequestUriInvalid
        | ErrorCode::DestinationIpProhibited
        | ErrorCode::ConnectionLimitReached
        | ErrorCode::HttpResponseBodySize(_) => denied(text),
        ErrorCode::ConfigurationError
        | ErrorCode::HttpProtocolError
        | ErrorCode::HttpRequestMethodInvalid
        | ErrorCode::HttpRequestBodySize(_) => invalid(text),
        _ => broken(text),
    }
}
