//! Manifests and blobs, both ways.

use std::io::{Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH, LINK, LOCATION,
};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use tempfile::NamedTempFile;
use wfhost_world::text::excerpt;

use super::{Access, Ask, Client, TRIES, answer, next_of, pause, read, said};
use crate::digest::Hasher;
use crate::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, INDEX, Index, MANIFEST, MANIFEST_BYTES, Manifest,
};
use crate::store::BLOB;
use crate::{Reference, RegistryError, Sha256, whole};

/// Tags of a repository that are looked at.
const TAGS: usize = 10_000;
/// Manifests that refer to another one which are looked at.
const REFERRERS: usize = 10_000;
/// Pages of a list that are asked for.
const PAGES: usize = 100;
/// What says which digest content has.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// What says that a registry has noted what a manifest refers to.
const OCI_SUBJECT: &str = "oci-subject";
/// How often a list that others change, too, is written.
const WRITES: u32 = 8;
/// After this at least, a list that was written is read again: whoever read it before has written it by then.
const SETTLES: Duration = Duration::from_millis(400);
/// The same, at most.
const SETTLES_MOST: Duration = Duration::from_secs(10);

/// A manifest as it came, with a digest that is its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    pub bytes: Bytes,
    pub digest: Sha256,
    pub media_type: Option<String>,
    /// By which the registry tells this content of a tag from others.
    pub etag: Option<HeaderValue>,
}

/// What was pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pushed {
    /// Bytes of blobs that were sent.
    pub sent: u64,
    /// Bytes of blobs that were there.
    pub there: u64,
}

impl Client {
    /// The manifest of a reference. That of a digest has it; that of a tag has the one that is named
    /// beside it.
    pub async fn manifest(&self, reference: &Reference) -> Result<Fetched, RegistryError> {
        let what = reference.to_string();
        match self.find_manifest(reference).await? {
            Some(fetched) => Ok(fetched),
            None => Err(missing(reference, what, String::new())),
        }
    }

    /// The same; none if the registry has none.
    pub async fn find_manifest(&self, reference: &Reference) -> Result<Option<Fetched>, RegistryError> {
        let what = reference.to_string();
        let host = reference.registry();
        let path = format!("{}/manifests/{}", reference.repository(), reference.version());
        let url = self.url(host, &path)?;
        let mut ask = Ask::of(reference, Access::Pull, &what, Method::GET, url);
        ask.headers = accept(&[MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST]);
        let response = self.send(&ask).await?;
        match response.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::OK => {}
            status => return Err(refused(host, &what, status, response).await),
        }
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let media_type =
            text(CONTENT_TYPE.as_str()).map(|text| text.split(';').next().unwrap_or(text).trim().to_owned());
        // Other kinds of digests cannot be compared.
        let named = text(CONTENT_DIGEST).and_then(|text| text.parse::<Sha256>().ok());
        let etag = response.headers().get(ETAG).cloned();
        let bytes = read(host, &format!("the manifest of {what}"), response, MANIFEST_BYTES).await?;
        let digest = Sha256::of(&bytes);
        for expected in [reference.digest(), named].into_iter().flatten() {
            if expected != digest {
                return Err(RegistryError::Digest {
                    what: format!("the manifest of {what}"),
                    expected: expected.to_string(),
                    found: digest.to_string(),
                });
            }
        }
        Ok(Some(Fetched { bytes, digest, media_type, etag }))
    }

    /// A blob that is small enough to be held, checked against its descriptor.
    pub async fn blob(
        &self,
        reference: &Reference,
        what: &str,
        of: &Descriptor,
        most: u64,
    ) -> Result<Bytes, RegistryError> {
        if of.size > most {
            return Err(RegistryError::TooLarge { what: what.to_owned(), bytes: of.size, most });
        }
        let mut tries = 0;
        loop {
            let mut bytes = Vec::with_capacity(usize::try_from(of.size.min(1 << 20)).unwrap_or(0));
            let done = self
                .stream(reference, what, of, |chunk| {
                    bytes.extend_from_slice(chunk);
                    Ok(())
                })
                .await;
            tries += 1;
            match done {
                Ok(()) => return Ok(bytes.into()),
                Err(Broken::Off(_)) if tries < TRIES => tokio::time::sleep(pause(tries)).await,
                Err(broken) => return Err(broken.into()),
            }
        }
    }

    /// A blob into a file of a directory, checked against its descriptor.
    pub async fn download(
        &self,
        reference: &Reference,
        what: &str,
        of: &Descriptor,
        dir: &Path,
    ) -> Result<NamedTempFile, RegistryError> {
        let failed = |source| RegistryError::Store { path: dir.to_owned(), source };
        let mut tries = 0;
        loop {
            let mut file = whole::begin(dir, BLOB).map_err(failed)?;
            let done = self.stream(reference, what, of, |chunk| file.write_all(chunk).map_err(failed)).await;
            tries += 1;
            match done {
                Ok(()) => {
                    file.as_file_mut().sync_all().and_then(|()| file.rewind()).map_err(failed)?;
                    return Ok(file);
                }
                Err(Broken::Off(_)) if tries < TRIES => tokio::time::sleep(pause(tries)).await,
                Err(broken) => return Err(broken.into()),
            }
        }
    }

    /// Hands a blob over, piece by piece. It had the size and the digest if this succeeds.
    async fn stream(
        &self,
        reference: &Reference,
        what: &str,
        of: &Descriptor,
        mut take: impl FnMut(&[u8]) -> Result<(), RegistryError>,
    ) -> Result<(), Broken> {
        let host = reference.registry();
        let length =
            |found: String| RegistryError::Length { what: what.to_owned(), expected: of.size, found };
        let url = self.url(host, &format!("{}/blobs/{}", reference.repository(), of.digest))?;
        let response = self.send(&Ask::of(reference, Access::Pull, what, Method::GET, url)).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(missing(reference, what.to_owned(), said(response).await).into());
            }
            status => return Err(refused(host, what, status, response).await.into()),
        }
        if let Some(said) = response.content_length().filter(|said| *said != of.size) {
            return Err(length(said.to_string()).into());
        }
        let (mut hasher, mut count) = (Hasher::default(), 0u64);
        let mut stream = response.bytes_stream();
        while let Some(chunk) = next_of(&mut stream).await.map_err(|lost| {
            let reason =
                format!("the transfer of {what} was interrupted after {count} of {} bytes: {lost}", of.size);
            Broken::Off(RegistryError::Unreachable { host: host.to_owned(), reason })
        })? {
            count += chunk.len() as u64;
            if count > of.size {
                return Err(length(format!("{count} or more")).into());
            }
            hasher.update(&chunk);
            take(&chunk)?;
        }
        if count != of.size {
            return Err(length(count.to_string()).into());
        }
        let found = hasher.finish();
        if found != of.digest {
            let (expected, found) = (of.digest.to_string(), found.to_string());
            return Err(RegistryError::Digest { what: what.to_owned(), expected, found }.into());
        }
        Ok(())
    }

    /// Sends a blob unless it is there.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        what: &str,
        bytes: &Bytes,
        pushed: &mut Pushed,
    ) -> Result<Sha256, RegistryError> {
        let host = reference.registry();
        let digest = Sha256::of(bytes);
        let url = self.url(host, &format!("{}/blobs/{digest}", reference.repository()))?;
        let there = self.send(&Ask::of(reference, Access::Push, what, Method::HEAD, url)).await?;
        if there.status().is_success() {
            pushed.there += bytes.len() as u64;
            return Ok(digest);
        }
        let url = self.url(host, &format!("{}/blobs/uploads/", reference.repository()))?;
        let begun = self.send(&Ask::of(reference, Access::Push, what, Method::POST, url.clone())).await?;
        if begun.status() != StatusCode::ACCEPTED {
            let status = begun.status();
            return Err(refused(host, what, status, begun).await);
        }
        let mut to = located(host, what, &url, &begun)?;
        to.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut ask = Ask::of(reference, Access::Push, what, Method::PUT, url.clone());
        // Elsewhere it gets no login: `send` compares.
        ask.url = to;
        if ask.url.origin() != url.origin() {
            return Err(RegistryError::Redirect {
                host: host.to_owned(),
                what: what.to_owned(),
                to: ask.url.origin().ascii_serialization(),
            });
        }
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        ask.body = Some(bytes.clone());
        let done = self.send(&ask).await?;
        match done.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => {
                pushed.sent += bytes.len() as u64;
                Ok(digest)
            }
            status => Err(refused(host, what, status, done).await),
        }
    }

    /// Sends a manifest under the tag or the digest of a reference. True if the registry has noted its
    /// subject.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &'static str,
        bytes: &Bytes,
    ) -> Result<bool, RegistryError> {
        match self.put_manifest(reference, media_type, bytes, &Expected::Anything).await? {
            Put::Done { noted } => Ok(noted),
            Put::Unexpected => Err(answer(reference.registry(), format!("412 for {reference}"))),
        }
    }

    /// The same, if that is under the tag which is expected to be. Many registries do not look.
    async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &'static str,
        bytes: &Bytes,
        expected: &Expected,
    ) -> Result<Put, RegistryError> {
        let host = reference.registry();
        let what = reference.to_string();
        let path = format!("{}/manifests/{}", reference.repository(), reference.version());
        let mut ask = Ask::of(reference, Access::Push, &what, Method::PUT, self.url(host, &path)?);
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        match expected {
            Expected::Anything => None,
            Expected::Nothing => ask.headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*")),
            Expected::Etag(etag) => ask.headers.insert(IF_MATCH, etag.clone()),
        };
        ask.body = Some(bytes.clone());
        let done = self.send(&ask).await?;
        if done.status() == StatusCode::PRECONDITION_FAILED && *expected != Expected::Anything {
            return Ok(Put::Unexpected);
        }
        if done.status() != StatusCode::CREATED && done.status() != StatusCode::OK {
            let status = done.status();
            return Err(refused(host, &what, status, done).await);
        }
        let said = done.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok());
        let digest = Sha256::of(bytes);
        if let Some(said) = said.and_then(|text| text.parse::<Sha256>().ok())
            && said != digest
        {
            let what = format!("what the registry keeps as {what}");
            return Err(RegistryError::Digest {
                what,
                expected: digest.to_string(),
                found: said.to_string(),
            });
        }
        Ok(Put::Done { noted: done.headers().contains_key(OCI_SUBJECT) })
    }

    /// The tags of a repository.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct List {
            tags: Option<Vec<String>>,
        }
        let host = reference.registry();
        let what = format!("the tags of {}", reference.place());
        let first = self.url(host, &format!("{}/tags/list", reference.repository()))?;
        let mut url = first.clone();
        let mut tags = Vec::new();
        for _ in 0..PAGES {
            let response =
                self.send(&Ask::of(reference, Access::Pull, &what, Method::GET, url.clone())).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Err(missing(reference, what, said(response).await)),
                status => return Err(refused(host, &what, status, response).await),
            }
            let next = next_page(&url, response.headers()).filter(|next| next.origin() == first.origin());
            let body = read(host, &what, response, MANIFEST_BYTES).await?;
            let list: List = serde_json::from_slice(&body).map_err(|error| {
                answer(host, format!("invalid list of tags: {}", excerpt(&error.to_string())))
            })?;
            tags.extend(list.tags.unwrap_or_default());
            match next {
                Some(next) if tags.len() < TAGS => url = next,
                _ => break,
            }
        }
        tags.truncate(TAGS);
        Ok(tags)
    }

    /// What refers to a manifest, by the registry's list or by the tag that stands for it.
    pub async fn referrers(
        &self,
        reference: &Reference,
        to: Sha256,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let host = reference.registry();
        let what = format!("what refers to {}", reference.at(to));
        let first = self.url(host, &format!("{}/referrers/{to}", reference.repository()))?;
        let (mut url, mut found) = (first.clone(), Vec::new());
        for page in 0..PAGES {
            let mut ask = Ask::of(reference, Access::Pull, &what, Method::GET, url.clone());
            ask.headers = accept(&[INDEX]);
            let response = self.send(&ask).await?;
            match response.status() {
                StatusCode::OK => {}
                // 405 and 400: what registries say of an address that they do not know.
                status if page == 0 && [400, 404, 405].contains(&status.as_u16()) => {
                    return Ok(match reference.tagged(&fallback(to)) {
                        Some(tag) => self.index(&tag).await?.0.manifests,
                        None => Vec::new(),
                    });
                }
                status => return Err(refused(host, &what, status, response).await),
            }
            let next = next_page(&url, response.headers());
            let body = read(host, &what, response, MANIFEST_BYTES).await?;
            let index = Index::parse(&what, &body).map_err(|error| answer(host, error))?;
            found.extend(index.manifests);
            match next {
                None => return Ok(found),
                Some(next) if next.origin() != first.origin() => {
                    let reason = format!(
                        "the list of {what} goes on at another address, {}",
                        next.origin().ascii_serialization()
                    );
                    return Err(answer(host, reason));
                }
                Some(_) if found.len() >= REFERRERS => break,
                Some(next) => url = next,
            }
        }
        // Not a part of it: a signature that is required might be in the rest.
        Err(answer(host, format!("more than {REFERRERS} entries or {PAGES} pages of {what}")))
    }

    /// The index at a tag, and what a write that changes this one and no other has to expect.
    async fn index(&self, tag: &Reference) -> Result<(Index, Expected), RegistryError> {
        let Some(fetched) = self.find_manifest(tag).await? else {
            return Ok((Index::default(), Expected::Nothing));
        };
        let index = Index::parse(&tag.to_string(), &fetched.bytes);
        let index = index.map_err(|error| answer(tag.registry(), error))?;
        // A weak one meets no condition (RFC 9110, 8.8.3.2).
        let etag = fetched.etag.filter(|etag| !etag.as_bytes().starts_with(b"W/"));
        Ok((index, etag.map_or(Expected::Anything, Expected::Etag)))
    }

    /// Pushes a manifest that refers to another one, where it is found by that one's digest.
    pub async fn attach(&self, reference: &Reference, manifest: &Manifest) -> Result<(), RegistryError> {
        let bytes = Bytes::from(manifest.to_bytes());
        let own = reference.at(Sha256::of(&bytes));
        let noted = self.push_manifest(&own, MANIFEST, &bytes).await?;
        let Some(subject) = manifest.subject.as_ref().filter(|_| !noted) else { return Ok(()) };
        let Some(tag) = reference.tagged(&fallback(subject.digest)) else { return Ok(()) };
        let mut descriptor = Descriptor::of(MANIFEST, &bytes);
        descriptor.artifact_type = manifest.artifact_type.clone();
        descriptor.annotations = manifest.annotations.clone();
        self.add_to_index(&tag, descriptor).await
    }

    /// Adds something to the index at a tag, which others may change at the same time. Where a registry heeds no
    /// conditions, whoever writes last takes away what others wrote meanwhile: each reads again what became of it.
    async fn add_to_index(&self, tag: &Reference, descriptor: Descriptor) -> Result<(), RegistryError> {
        let (mut unmet, mut writes) = (None, 0);
        loop {
            let begun = Instant::now();
            let (mut index, mut expected) = self.index(tag).await?;
            if index.manifests.iter().any(|there| there.digest == descriptor.digest) {
                return Ok(());
            }
            if writes == WRITES {
                return Err(RegistryError::Contended { what: tag.to_string() });
            }
            if unmet.as_ref() == Some(&expected) {
                // Nobody changed it: it is a condition that this registry never takes for met.
                expected = Expected::Anything;
            }
            index.manifests.push(descriptor.clone());
            let settles = match self.put_manifest(tag, INDEX, &index.to_bytes().into(), &expected).await? {
                Put::Done { .. } => (2 * begun.elapsed()).clamp(SETTLES, SETTLES_MOST),
                Put::Unexpected => {
                    unmet = Some(expected);
                    Duration::ZERO
                }
            };
            // Those who write at the same time do so the next time one after the other.
            let turn = Duration::from_millis(u64::from(descriptor.digest.0[0]));
            tokio::time::sleep(settles + turn * writes).await;
            writes += 1;
        }
    }
}

/// The tag of what refers to a manifest, where a registry has no list of it.
fn fallback(to: Sha256) -> String {
    format!("sha256-{}", to.hex())
}

/// What a tag has to mean when it is written.
#[derive(PartialEq, Eq, Debug)]
enum Expected {
    Anything,
    Nothing,
    Etag(HeaderValue),
}

/// What became of a manifest that was to be written.
enum Put {
    /// `noted`: the registry lists it with its subject.
    Done { noted: bool },
    /// Nothing was written: something else was there than was expected.
    Unexpected,
}

/// How the transfer of a blob failed.
enum Broken {
    /// Perhaps not the next time.
    Off(RegistryError),
    Error(RegistryError),
}

impl From<RegistryError> for Broken {
    fn from(error: RegistryError) -> Self {
        Self::Error(error)
    }
}

impl From<Broken> for RegistryError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Off(error) | Broken::Error(error) => error,
        }
    }
}

fn accept(types: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&types.join(", ")) {
        headers.insert(ACCEPT, value);
    }
    headers
}

fn missing(reference: &Reference, what: String, said: String) -> RegistryError {
    RegistryError::Missing { host: reference.registry().to_owned(), what, said }
}

/// A status that nothing can be made of.
async fn refused(host: &str, what: &str, status: StatusCode, response: Response) -> RegistryError {
    let said = said(response).await;
    if status == StatusCode::NOT_FOUND {
        return RegistryError::Missing { host: host.to_owned(), what: what.to_owned(), said };
    }
    let said = if said.is_empty() { said } else { format!(": \"{said}\"") };
    answer(host, format!("{status} for {what}{said}"))
}

/// Where an upload goes on.
fn located(host: &str, what: &str, from: &Url, response: &Response) -> Result<Url, RegistryError> {
    let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
    let to = to.and_then(|to| from.join(to).ok());
    to.ok_or_else(|| answer(host, format!("no address to send {what} to")))
}

/// The next page of a list (RFC 8288).
fn next_page(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let links = headers.get_all(LINK).iter().filter_map(|links| links.to_str().ok());
    links.flat_map(links_of).find_map(|(target, parameters)| {
        let is_next = parameters.split(';').any(|parameter| {
            let Some((name, relation)) = parameter.split_once('=') else { return false };
            let mut relations = relation.trim().trim_matches('"').split_ascii_whitespace();
            name.trim().eq_ignore_ascii_case("rel") && relations.any(|is| is.eq_ignore_ascii_case("next"))
        });
        is_next.then(|| from.join(target).ok()).flatten()
    })
}

/// The targets of a list of links, and the parameters of each.
fn links_of(mut rest: &str) -> Vec<(&str, &str)> {
    let mut links = Vec::new();
    while let Some((target, behind)) = rest.split_once('<').and_then(|(_, behind)| behind.split_once('>')) {
        let mut quoted = false;
        let end = behind.find(|c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        let (parameters, others) = behind.split_at(end.unwrap_or(behind.len()));
        links.push((target, parameters));
        rest = others;
    }
    links
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// The method of a request, and how many bytes follow.
    async fn asked(stream: &mut BufReader<TcpStream>) -> std::io::Result<(String, usize)> {
        let (mut first, mut length) = (String::new(), 0);
        stream.read_line(&mut first).await?;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let line = line.trim_end().to_ascii_lowercase();
            match line.strip_prefix("content-length: ") {
                Some(bytes) => length = bytes.parse().unwrap(),
                None if line.is_empty() => break,
                None => {}
            }
        }
        Ok((first.split(' ').next().unwrap_or_default().to_owned(), length))
    }

    /// Reads what it is sent only after two minutes, as over a slow line.
    async fn slow(listener: TcpListener) -> std::io::Result<()> {
        loop {
            let mut stream = BufReader::new(listener.accept().await?.0);
            let (method, length) = asked(&mut stream).await?;
            let said = match method.as_str() {
                "HEAD" => "404 Not Found",
                "POST" => "202 Accepted\r\nLocation: /v2/a/b/blobs/uploads/1",
                _ => {
                    tokio::time::sleep(Duration::from_secs(120)).await;
                    let mut body = vec![0; length];
                    stream.read_exact(&mut body).await?;
                    "201 Created"
                }
            };
            let said = format!("HTTP/1.1 {said}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(said.as_bytes()).await?;
        }
    }

    /// Says nothing to the first request, and breaks off in the middle of its answer to all others.
    async fn silent(listener: TcpListener) -> std::io::Result<()> {
        let mut open = Vec::new();
        loop {
            let mut stream = BufReader::new(listener.accept().await?.0);
            asked(&mut stream).await?;
            if !open.is_empty() {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await?;
            }
            open.push(stream);
        }
    }

    /// Has the paused time go on by a second in turn with all else that the runtime has to do. Left to itself it leaps to
    /// the next deadline as soon as nothing is to be done, though bytes may be on their way; not so while something
    /// blocks.
    async fn time_goes_on() {
        loop {
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5))).await.unwrap();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    async fn listening() -> (TcpListener, Reference) {
        tokio::spawn(time_goes_on());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reference = format!("{}/a/b:1", listener.local_addr().unwrap()).parse().unwrap();
        (listener, reference)
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_takes_as_long_as_the_line_needs() {
        let (listener, reference) = listening().await;
        tokio::spawn(slow(listener));
        let (client, bytes, mut pushed) = (Client::default(), vec![7; 10 << 20].into(), Pushed::default());
        let sent = client.push_blob(&reference, "it", &bytes, &mut pushed).await;
        assert_eq!(sent.map_err(|error| error.to_string()), Ok(Sha256::of(&bytes)));
        assert_eq!(pushed, Pushed { sent: 10 << 20, there: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_falls_silent_is_not_waited_for() {
        let (listener, reference) = listening().await;
        tokio::spawn(silent(listener));
        let error = Client::default().manifest(&reference).await.unwrap_err();
        assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
        assert!(error.to_string().ends_with("was interrupted: nothing came for 60 s"), "{error}");
    }
}
