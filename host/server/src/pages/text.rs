//! Text of others within pages.

use std::fmt::{self, Write};

use askama::filters::Escaper;
use serde::de::IgnoredAny;
use wfhost::clock;
use wfhost_core::Timestamp;
use wfhost_view::ago;

/// Escapes what HTML means something by, and shows what would not be seen or would change how the rest
/// is seen: control characters, and those that hide or turn text around.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain;

/// Characters that are not themselves on a page.
fn is_unseen(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{9f}')
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl Escaper for Plain {
    fn write_escaped_str<W: Write>(&self, mut dest: W, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => dest.write_str("&amp;")?,
                '<' => dest.write_str("&lt;")?,
                '>' => dest.write_str("&gt;")?,
                '"' => dest.write_str("&quot;")?,
                '\'' => dest.write_str("&#39;")?,
                // A browser makes a line end of it; alone it would hide what stands before.
                '\r' => {}
                c if is_unseen(c) => write!(dest, "\u{27e8}U+{:04X}\u{27e9}", u32::from(c))?,
                c => dest.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// JSON on several lines, each of its parts as it was written; what is none stays as it is.
pub(super) fn pretty(json: &str) -> String {
    if serde_json::from_str::<IgnoredAny>(json).is_err() {
        return json.to_owned();
    }
    let mut out = String::with_capacity(json.len() + json.len() / 4);
    let (mut depth, mut within, mut escaped, mut opened) = (0_usize, false, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    for c in json.chars() {
        if within {
            out.push(c);
            (within, escaped) = (escaped || c != '"', !escaped && c == '\\');
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(c, '}' | ']');
        if closes {
            depth = depth.saturating_sub(1);
        }
        if opened != closes && (opened || closes) {
            line(&mut out, depth);
        }
        opened = matches!(c, '{' | '[');
        out.push(c);
        match c {
            '{' | '[' => depth += 1,
            ',' => line(&mut out, depth),
            ':' => out.push(' '),
            '"' => within = true,
            _ => {}
        }
    }
    out
}

/// A time, for people and programs.
#[derive(Clone, Debug)]
pub(super) struct Time {
    /// RFC 3339.
    pub at: String,
    /// How long ago.
    pub ago: String,
}

impl Time {
    /// `now` is the time of the store, as everything is that it is compared with.
    pub fn of(at: Timestamp, now: Timestamp) -> Self {
        let ago = match now.since(at) {
            0 if at > now => format!("in {}", ago(now, at)),
            0..1_000 => "just now".to_owned(),
            _ => format!("{} ago", ago(at, now)),
        };
        Self { at: clock::rfc3339(at), ago }
    }

    /// Of a text that a view has.
    pub fn parse(text: &str, now: Timestamp) -> Self {
        let read = text.parse::<jiff::Timestamp>().ok();
        let at = read.and_then(|at| u64::try_from(at.as_millisecond()).ok());
        at.map_or_else(
            || Self { at: text.to_owned(), ago: text.to_owned() },
            |at| Self::of(Timestamp(at), now),
        )
    }
}

/// Millionths of a dollar.
pub(super) fn dollars(micros: u64) -> String {
    match micros {
        0 => String::new(),
        _ => format!("${}.{:04}", micros / 1_000_000, micros % 1_000_000 / 100),
    }
}

/// Text as a part of an address.
pub(super) fn part(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// An address with these pairs; those without a value are left out.
pub(super) fn address(path: &str, pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().filter(|(_, value)| !value.is_empty());
    let query: Vec<_> = pairs.map(|(name, value)| format!("{name}={}", part(value))).collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_text_and_is_seen() {
        let mut out = String::new();
        let hostile = "<script>\"'&\u{202e}gpj.exe\u{200b}\u{1b}[2J\0\tend\n";
        Plain.write_escaped_str(&mut out, hostile).unwrap();
        assert_eq!(out, "&lt;script&gt;&quot;&#39;&amp;⟨U+202E⟩gpj.exe⟨U+200B⟩⟨U+001B⟩[2J⟨U+0000⟩\tend\n");
    }

    #[test]
    fn json_is_laid_out_and_nothing_else_changes() {
        let text = r#"{"b":[1.50,{}, []],"a" : "x, \"{y}\\", "n":12345678901234567890123456789}"#;
        let laid = pretty(text);
        let expected = r#"{
  "b": [
    1.50,
    {},
    []
  ],
  "a": "x, \"{y}\\",
  "n": 12345678901234567890123456789
}"#;
        assert_eq!(laid, expected);
        assert_eq!(pretty(&laid), laid);
        assert_eq!(pretty("no"), "no");
    }

    #[test]
    fn addresses_hold_any_text() {
        assert_eq!(address("/ui", &[("text", "a b&c"), ("state", "")]), "/ui?text=a%20b%26c");
        assert_eq!(address("/ui", &[]), "/ui");
        assert_eq!(dollars(1_234_500), "$1.2345");
    }
}
