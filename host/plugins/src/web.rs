//! HTTP by the interface `http` of plugins: the same as by `wasi:http`, in one call.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt, Empty, Full};
use wasmtime::component::Resource;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use crate::instance::{PluginCtx, wit_http as wit};

/// An answer that a plugin holds.
pub struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: WasiBody,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

/// An error in words.
fn told(error: &Error) -> wit::Error {
    let text = error.to_string();
    match error {
        Error::HttpRequestDenied
        | Error::HttpRequestUriInvalid
        | Error::DestinationIpProhibited
        | Error::ConnectionLimitReached
        | Error::HttpResponseBodySize(_)
        | Error::HttpResponseContentCoding(_) => wit::Error::Denied(text),
        Error::ConfigurationError | Error::HttpRequestMethodInvalid => wit::Error::Invalid(text),
        _ => wit::Error::Broken(text),
    }
}

impl PluginCtx {
    async fn sent(&mut self, request: wit::Request) -> Result<Response, wit::Error> {
        let requests = Arc::clone(&self.hooks.0);
        let wit::Request { method, url, headers: given, body, timeout } = request;
        let invalid = |what: String| wit::Error::Invalid(what);
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| invalid("the method".to_owned()))?;
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            let bad = || invalid(format!("the header {name:?}"));
            let known = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let value = HeaderValue::from_bytes(&value).map_err(|_| bad())?;
            if requests.is_forbidden(&known) || known == CONTENT_LENGTH {
                return Err(wit::Error::Denied(format!("the header `{known}` is set by the host")));
            }
            headers.append(known, value);
        }
        let body = match body {
            Some(body) => {
                headers.insert(CONTENT_LENGTH, body.len().into());
                Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync()
            }
            None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
        };
        let timeout = timeout.map(Duration::from_millis);
        let options = RequestOptions {
            connect_timeout: None,
            first_byte_timeout: timeout,
            between_bytes_timeout: timeout,
        };
        let response = requests.send(method, url, headers, body, Some(options)).await;
        let (parts, body) = response.map_err(|error| told(&error))?.into_parts();
        let headers = parts.headers.iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        Ok(Response { status: parts.status.as_u16(), headers, body })
    }
}

impl wit::Host for PluginCtx {
    async fn send(
        &mut self,
        request: wit::Request,
    ) -> wasmtime::Result<Result<Resource<Response>, wit::Error>> {
        match self.sent(request).await {
            Ok(response) => Ok(Ok(self.table.push(response)?)),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl wit::HostResponse for PluginCtx {
    fn status(&mut self, response: Resource<Response>) -> wasmtime::Result<u16> {
        Ok(self.table.get(&response)?.status)
    }

    fn headers(&mut self, response: Resource<Response>) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        Ok(self.table.get(&response)?.headers.clone())
    }

    async fn read(
        &mut self,
        response: Resource<Response>,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, wit::Error>> {
        let body = &mut self.table.get_mut(&response)?.body;
        loop {
            match body.frame().await {
                None => return Ok(Ok(None)),
                Some(Err(error)) => return Ok(Err(told(&error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Ok(Some(data.to_vec())));
                    }
                }
            }
        }
    }

    fn drop(&mut self, response: Resource<Response>) -> wasmtime::Result<()> {
        self.table.delete(response)?;
        Ok(())
    }
}
