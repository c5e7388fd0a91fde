//! Taking secrets out of what servers send, however it is divided.

use std::sync::Arc;

use wfhost_agents::{MASK, Secret};

/// The shortest secret that can be kept from a plugin, in bytes: a shorter one would be found in any text.
pub(crate) const SHORTEST: usize = 8;

/// The texts that must not be seen. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Masks {
    /// In lower case, the longest first.
    needles: Arc<[Vec<u8>]>,
}

impl std::fmt::Debug for Masks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Masks({})", self.needles.len())
    }
}

impl Masks {
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut needles: Vec<Vec<u8>> =
            secrets.into_iter().flat_map(|secret| forms(secret.expose())).collect();
        needles.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        needles.dedup();
        Self { needles: needles.into() }
    }

    pub fn is_empty(&self) -> bool {
        self.needles.is_empty()
    }

    /// `bytes` without the secrets, if there are any in them.
    pub fn masked(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut masker = Masker { masks: self.clone(), held: Vec::new(), found: false };
        let mut out = masker.push(bytes);
        out.extend(masker.finish());
        masker.found.then_some(out)
    }

    /// The needle that `bytes` begin with: its length.
    fn at(&self, bytes: &[u8]) -> Option<usize> {
        let begins = |needle: &&Vec<u8>| {
            bytes.len() >= needle.len() && bytes[..needle.len()].eq_ignore_ascii_case(needle)
        };
        self.needles.iter().find(begins).map(Vec::len)
    }

    /// Bytes of the longest.
    fn longest(&self) -> usize {
        self.needles.first().map_or(0, Vec::len)
    }
}

/// One text that comes in pieces. Its end is held back until it is known whether a secret begins there.
///
/// As much is held back whatever it is: else a plugin that has its guesses sent back would see, by what comes late,
/// how far they are right, and find a secret byte by byte.
#[derive(Debug)]
pub(crate) struct Masker {
    masks: Masks,
    held: Vec<u8>,
    found: bool,
}

impl Masker {
    pub fn new(masks: Masks) -> Self {
        Self { masks, held: Vec::new(), found: false }
    }

    /// Takes a piece; gives what can be shown.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        if self.masks.is_empty() {
            return piece.to_vec();
        }
        self.held.extend_from_slice(piece);
        self.take(false)
    }

    /// Gives what was held back.
    pub fn finish(&mut self) -> Vec<u8> {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(held.len());
        let mut at = 0;
        while at < held.len() {
            let rest = &held[at..];
            if !all && rest.len() < self.masks.longest() {
                break;
            }
            match self.masks.at(rest) {
                Some(length) => {
                    out.extend_from_slice(MASK.as_bytes());
                    self.found = true;
                    at += length;
                }
                None => {
                    out.push(rest[0]);
                    at += 1;
                }
            }
        }
        self.held = held[at..].to_vec();
        out
    }
}

/// The ways in which a server may write a secret that it was sent.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let json = serde_json::Value::from(secret).to_string();
    let json = json[1..json.len() - 1].to_owned();
    let escaped = json.replace('/', "\\/");
    let form = percent(secret, b"-._*").replace("%20", "+");
    let html = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let mut forms = vec![
        secret.to_owned(),
        json,
        escaped,
        percent(secret, b"-._~"),
        // As WHATWG URLs and forms write it.
        percent(secret, b"-._~!$&'()*+,;=:@/?"),
        form,
        html.replace('\'', "&#39;"),
        html.replace('\'', "&#x27;"),
        html,
    ];
    // JSON as Go, as .NET and as Java's writers for pages have it.
    forms.extend(["<>&", "\"&'+<>`", "\"&'<>/="].map(|signs| with_numbers(secret, signs)));
    forms.extend((0..3).map(|shift| base64(secret, shift, b"+/")));
    forms.extend((0..3).map(|shift| base64(secret, shift, b"-_")));
    forms.retain(|form| form.len() >= SHORTEST);
    forms.into_iter().map(|form| form.to_ascii_lowercase().into_bytes()).collect()
}

/// As the inside of a JSON text, with some signs as `\uXXXX`.
fn with_numbers(text: &str, signs: &str) -> String {
    let mut written = String::new();
    for c in text.chars() {
        match c {
            c if signs.contains(c) => written.push_str(&format!("\\u{:04x}", u32::from(c))),
            '"' | '\\' => written.extend(['\\', c]),
            c => written.push(c),
        }
    }
    written
}

/// With all bytes but letters, digits and `plain` as `%XX`.
fn percent(text: &str, plain: &[u8]) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// What stands in the base64 of any text that has `secret` in it, `shift` bytes after a multiple of three: the
/// digits that depend on nothing else.
fn base64(secret: &str, shift: usize, last: &[u8; 2]) -> String {
    let mut bytes = vec![0; shift];
    bytes.extend(secret.bytes());
    let digit = |value: u8| match value {
        0..=25 => char::from(b'A' + value),
        26..=51 => char::from(b'a' + value - 26),
        52..=61 => char::from(b'0' + value - 52),
        other => char::from(last[usize::from(other == 63)]),
    };
    let bit = |at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    let digits =
        (0..bytes.len() * 8 / 6).map(|digit| (0..6).fold(0, |value, n| value << 1 | bit(digit * 6 + n)));
    digits.map(digit).skip((shift * 8).div_ceil(6)).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use wfhost_agents::SecretSource;

    use super::*;

    const KEY: &str = "s3cr\"et/+0123 456789";

    fn masks(secrets: &[&str]) -> Masks {
        let secrets: Vec<Secret> = secrets
            .iter()
            .map(|secret| {
                let mut file = tempfile::NamedTempFile::new().unwrap();
                file.write_all(secret.as_bytes()).unwrap();
                SecretSource::File(file.path().to_owned()).read().unwrap()
            })
            .collect();
        Masks::new(&secrets)
    }

    fn masked(text: &str) -> String {
        let masked = masks(&[KEY]).masked(text.as_bytes());
        String::from_utf8(masked.unwrap_or_else(|| text.as_bytes().to_vec())).unwrap()
    }

    #[test]
    fn a_secret_is_found_however_it_is_written() {
        assert_eq!(masked(&format!("<{KEY}>")), "<[redacted]>");
        assert_eq!(masked(&KEY.to_uppercase()), "[redacted]");
        assert_eq!(masked(r#"{"a":"s3cr\"et/+0123 456789"}"#), r#"{"a":"[redacted]"}"#);
        assert_eq!(masked(r#"{"a":"s3cr\"et\/+0123 456789"}"#), r#"{"a":"[redacted]"}"#);
        assert_eq!(masked(r#"{"a":"s3cr\u0022et/\u002B0123 456789"}"#), r#"{"a":"[redacted]"}"#);
        assert_eq!(masked("?k=s3cr%22et%2f%2b0123%20456789"), "?k=[redacted]");
        assert_eq!(masked("?k=s3cr%22et/+0123%20456789"), "?k=[redacted]");
        assert_eq!(masked("k=s3cr%22et%2F%2B0123+456789&"), "k=[redacted]&");
        assert_eq!(masked("<b>s3cr&quot;et/+0123 456789</b>"), "<b>[redacted]</b>");
        assert_eq!(masked("nothing"), "nothing");
    }

    /// Of "Bearer KEY", "xBearer KEY", "xxBearer KEY".
    #[test]
    fn a_secret_within_base64_is_found() {
        let key = "0123456789abcdef";
        for encoded in [
            "QmVhcmVyIDAxMjM0NTY3ODlhYmNkZWY=",
            "eEJlYXJlciAwMTIzNDU2Nzg5YWJjZGVm",
            "eHhCZWFyZXIgMDEyMzQ1Njc4OWFiY2RlZg==",
        ] {
            let masked = masks(&[key]).masked(encoded.as_bytes()).expect("it is found");
            let masked = String::from_utf8(masked).unwrap();
            assert!(masked.contains(MASK) && masked.len() < encoded.len(), "{masked}");
        }
    }

    #[test]
    fn a_secret_is_found_wherever_it_is_divided() {
        let text = format!("one {KEY} two {KEY}");
        for first in 0..text.len() {
            for second in first..text.len() {
                let mut masker = Masker::new(masks(&[KEY]));
                let mut out = masker.push(&text.as_bytes()[..first]);
                out.extend(masker.push(&text.as_bytes()[first..second]));
                out.extend(masker.push(&text.as_bytes()[second..]));
                out.extend(masker.finish());
                assert_eq!(String::from_utf8(out).unwrap(), "one [redacted] two [redacted]");
            }
        }
    }

    /// What comes when tells nothing of how much of a guess is right.
    #[test]
    fn as_much_is_held_back_of_a_good_guess_as_of_a_bad_one() {
        let key = "sk-0123456789";
        let lengths = |guess: &str| {
            let mut masker = Masker::new(masks(&[key]));
            let text = format!("{}{guess}", ".".repeat(60));
            let mut lengths: Vec<_> =
                text.as_bytes().chunks(7).map(|piece| masker.push(piece).len()).collect();
            lengths.push(masker.finish().len());
            lengths
        };
        for right in 1..key.len() {
            assert_eq!(lengths(&key[..right]), lengths(&"x".repeat(right)), "{right}");
        }
        assert_ne!(lengths(key), lengths(&"x".repeat(key.len())), "but of the whole it is seen");
    }

    #[test]
    fn of_two_secrets_the_longer_goes_first_also_when_it_comes_later() {
        let mut masker = Masker::new(masks(&["abcdefgh", "abcdefgh-ijkl"]));
        let mut out = masker.push(b"abcdefgh");
        out.extend(masker.push(b"-ijkl abcdefgh-"));
        out.extend(masker.push(b"x"));
        out.extend(masker.finish());
        assert_eq!(String::from_utf8(out).unwrap(), "[redacted] [redacted]-x");
    }
}
