//! Versions of modules (<https://semver.org>): which tags are some, and which of them a requirement takes.

pub use semver::{Version, VersionReq};

/// The version that a tag is: a full one, perhaps with a `v` before it. OCI's tags have `_` for `+`.
pub fn of_tag(tag: &str) -> Option<Version> {
    Version::parse(&tag.strip_prefix('v').unwrap_or(tag).replacen('_', "+", 1)).ok()
}

/// The same of a tag that leaves numbers out: `1.4` stands for the versions from 1.4.0 on.
pub fn beginning_of_tag(tag: &str) -> Option<Version> {
    let core = tag.strip_prefix('v').unwrap_or(tag);
    of_tag(tag).or_else(|| of_tag(&format!("{core}.0"))).or_else(|| of_tag(&format!("{core}.0.0")))
}

/// Reads a requirement as Cargo writes it: `^1.2`, `~1.2.3`, `>=1.2, <1.5`, `*`. `1.2` means `^1.2`.
pub fn requirement(text: &str) -> Option<VersionReq> {
    // What is longer than any is not read.
    (text.len() <= 128).then(|| VersionReq::parse(text).ok()).flatten()
}

/// The newest of some tags that a requirement takes.
pub fn newest<'a>(
    requirement: &VersionReq,
    tags: impl IntoIterator<Item = &'a str>,
) -> Option<(Version, &'a str)> {
    let versions = tags.into_iter().filter_map(|tag| Some((of_tag(tag)?, tag)));
    // Of `1.2.3` and `v1.2.3` the shorter one, whatever the order.
    let key = |(version, tag): &(Version, &str)| (version.clone(), std::cmp::Reverse((*tag).len()));
    versions.filter(|(version, _)| requirement.matches(version)).max_by_key(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_that_fits_is_taken() {
        let tags = [
            "latest",
            "1",
            "1.2",
            "1.2.0",
            "v1.2.3",
            "1.2.3",
            "1.10.0",
            "2.0.0-rc.1",
            "2.0.0",
            "1.3.0_b1",
            "x1.9.9",
            "01.2.3",
            "1.2.3.4",
            "sha256-00",
        ];
        for (text, expected) in [
            ("^1.2", Some("1.10.0")),
            ("1.2", Some("1.10.0")),
            ("~1.2", Some("1.2.3")),
            ("=1.2.0", Some("1.2.0")),
            (">=1.2, <1.10", Some("1.3.0_b1")),
            ("*", Some("2.0.0")),
            ("^2.0.0-rc.1", Some("2.0.0")),
            ("=2.0.0-rc.1", Some("2.0.0-rc.1")),
            ("^3", None),
        ] {
            let found = newest(&requirement(text).unwrap(), tags).map(|(_, tag)| tag);
            assert_eq!(found, expected, "{text}");
        }
        for text in ["", "latest", "^", "1.2.3.4", "sha256:00", "1 2", &"1,".repeat(200)] {
            assert_eq!(requirement(text), None, "{text}");
        }
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(beginning_of_tag("1.10") > of_tag("1.9.9"));
        assert!(of_tag("2.0.0-rc.1") < of_tag("2.0.0"));
        assert_eq!(beginning_of_tag("v1"), of_tag("1.0.0"));
        assert_eq!(beginning_of_tag("latest"), None);
    }
}
