//! What a reader sees of a page, roughly.

/// The address that a link on a page at `base` leads to.
pub fn joined(base: &str, link: &str) -> String {
    if link.contains("://") {
        return link.to_owned();
    }
    let (scheme, rest) = base.split_once("://").unwrap_or(("https", base));
    if let Some(rest) = link.strip_prefix("//") {
        return format!("{scheme}://{rest}");
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    if link.starts_with('/') {
        return format!("{scheme}://{host}{link}");
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let dir = path.rfind('/').map_or("/", |slash| &path[..=slash]);
    format!("{scheme}://{host}{dir}{link}")
}

/// What stands between the tags of the title.
pub fn title(html: &str) -> Option<String> {
    let start = find(html, "<title", 0)?;
    let start = start + html[start..].find('>')? + 1;
    let end = find(html, "</title", start)?;
    Some(squeezed(&unescaped(&html[start..end]))).filter(|title| !title.is_empty())
}

/// The text without tags, scripts and styles.
pub fn text(html: &str) -> String {
    let mut text = String::new();
    let mut at = 0;
    while let Some(open) = html[at..].find('<').map(|open| at + open) {
        text.push_str(&html[at..open]);
        let hidden = ["script", "style", "head", "noscript", "svg"]
            .into_iter()
            .find(|name| is_tag(&html[open..], name));
        let end = match hidden {
            Some(name) => find(html, &format!("</{name}"), open).unwrap_or(html.len()),
            None if html[open..].starts_with("<!--") => {
                html[open..].find("-->").map_or(html.len(), |end| open + end)
            }
            None => open,
        };
        let breaks =
            ["p", "br", "div", "li", "tr", "h1", "h2", "h3", "h4", "/p", "/div", "/li", "/tr", "/h1", "/h2"];
        text.push(if breaks.iter().any(|name| is_tag(&html[open..], name)) { '\n' } else { ' ' });
        at = html[end..].find('>').map_or(html.len(), |close| end + close + 1);
    }
    text.push_str(&html[at..]);
    let text = unescaped(&text);
    let lines: Vec<_> = text.lines().map(squeezed).filter(|line| !line.is_empty()).collect();
    lines.join("\n")
}

fn is_tag(html: &str, name: &str) -> bool {
    let bytes = html.as_bytes();
    let end = 1 + name.len();
    bytes.len() > end
        && bytes[1..end].eq_ignore_ascii_case(name.as_bytes())
        && !bytes[end].is_ascii_alphanumeric()
}

/// Where `needle`, which is in lower case, begins from `from` on.
fn find(html: &str, needle: &str, from: usize) -> Option<usize> {
    let (bytes, needle) = (html.as_bytes(), needle.as_bytes());
    (from..bytes.len().saturating_sub(needle.len() - 1))
        .find(|&at| bytes[at..at + needle.len()].eq_ignore_ascii_case(needle))
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unescaped(text: &str) -> String {
    let named =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&nbsp;", " "), ("&amp;", "&")];
    named.into_iter().fold(text.to_owned(), |text, (name, sign)| text.replace(name, sign))
}
