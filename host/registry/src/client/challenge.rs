//! What a registry says in `WWW-Authenticate` about how it wants to be asked (RFC 9110, section 11).

use std::collections::BTreeMap;

/// How a registry wants to be told who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Challenge {
    Basic,
    /// With a token that is given out at `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The best of those that are understood.
    pub fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut best = None;
        for header in headers {
            for (scheme, mut parameters) in challenges(header) {
                if scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = parameters.remove("realm")
                {
                    let (service, scope) = (parameters.remove("service"), parameters.remove("scope"));
                    return Some(Self::Bearer { realm, service, scope });
                }
                if scheme.eq_ignore_ascii_case("basic") {
                    best = Some(Self::Basic);
                }
            }
        }
        best
    }
}

/// The schemes of a header with their parameters. What does not fit the grammar ends it.
fn challenges(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        if word.is_empty() {
            return found;
        }
        let behind = behind.trim_start_matches([' ', '\t']);
        let Some(value) = behind.strip_prefix('=') else {
            found.push((word.to_owned(), BTreeMap::new()));
            rest = behind;
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let text;
        (text, rest) = match value.strip_prefix('"') {
            Some(quoted) => match unquoted(quoted) {
                Some(parts) => parts,
                None => return found,
            },
            None => {
                let (text, rest) = value.split_at(value.find([' ', '\t', ',']).unwrap_or(value.len()));
                (text.to_owned(), rest)
            }
        };
        if let Some((_, parameters)) = found.last_mut() {
            parameters.insert(word.to_ascii_lowercase(), text);
        }
    }
}

/// A quoted string up to its end, and what stands behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header: &str) -> Option<Challenge> {
        Challenge::parse([header].into_iter())
    }

    #[test]
    fn challenges_of_registries_are_understood() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let (service, scope) = (service.map(str::to_owned), scope.map(str::to_owned));
            Some(Challenge::Bearer { realm: realm.to_owned(), service, scope })
        };
        assert_eq!(parse("Basic realm=\"Registry\""), Some(Challenge::Basic));
        assert_eq!(
            parse(
                r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:a/b:pull,push""#
            ),
            bearer("https://ghcr.io/token", Some("ghcr.io"), Some("repository:a/b:pull,push"))
        );
        assert_eq!(
            parse(r#"Basic realm="x", bearer REALM = https://a , service="a\"b""#),
            bearer("https://a", Some("a\"b"), None)
        );
        assert_eq!(parse("Bearer service=\"x\""), None);
        for nothing in ["", ",,,", "Negotiate", "Bearer realm=\"x", "=", "\"", "Bearer =x", "é=\"\\"] {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
    }
}
