//! A plugin that fetches pages: the prompt is an address, the answer what a reader would see of it.
//!
//! Where it may go is said by the host, and by nobody else:
//!
//! ```toml
//! [providers.web]
//! kind = "plugin"
//! plugin = "fetcher.wasm"
//! http = [
//!     { url = "https://docs.rs/", methods = ["GET"] },
//!     { url = "https://*.wikipedia.org/wiki/", methods = ["GET"], max_response = "4MiB" },
//! ]
//! ```

mod page;

use serde::Serialize;
use wfhost::plugin::{Call, Failure, Result, http, line};

/// Redirections that are followed. Each is a request that has to be granted.
const REDIRECTIONS: usize = 5;

#[derive(Serialize)]
struct Page {
    /// Where it was found in the end.
    url: String,
    title: Option<String>,
    text: String,
}

#[wfhost::agent]
fn fetch(call: Call) -> Result<Page> {
    let mut url = call.prompt.trim().to_owned();
    for _ in 0..=REDIRECTIONS {
        line(format!("GET {url}"));
        let response = http::get(&url).header("accept", "text/html, text/plain;q=0.9, */*;q=0.1").send()?;
        if (301..=308).contains(&response.status())
            && let Some(location) = response.header("location")
        {
            url = page::joined(&url, location);
            continue;
        }
        let is_html = response.header("content-type").is_some_and(|kind| kind.contains("html"));
        let body = response.successful()?.bytes()?;
        let body = String::from_utf8_lossy(&body);
        let (title, text) = match is_html {
            true => (page::title(&body), page::text(&body)),
            false => (None, body.into_owned()),
        };
        return Ok(Page { url, title, text });
    }
    Err(Failure::rejected(format!("more than {REDIRECTIONS} redirections")))
}
