//! Reference pages are made of the code.

use wfhost_tests::Place;

use super::root;

/// What a constant's expression comes to.
fn value(expression: &str) -> u128 {
    let expression = expression.replace('_', "");
    let of = |text: &str| text.trim().parse::<u128>().unwrap_or_else(|_| panic!("{expression}"));
    if let Some((number, bits)) = expression.split_once("<<") {
        return of(number) << of(bits);
    }
    expression.split('*').map(of).product()
}

/// As a person writes it.
fn spelt(what: &str, value: u128) -> String {
    let bytes = what.starts_with("Bytes") || what.contains(" bytes ");
    if what.contains("milliseconds") {
        return format!("{} years", value / 31_557_600_000);
    }
    match value {
        value if bytes && value.is_multiple_of(1 << 30) => format!("{} GiB", value >> 30),
        value if bytes && value.is_multiple_of(1 << 20) => format!("{} MiB", value >> 20),
        value if bytes && value.is_multiple_of(1 << 10) => format!("{} KiB", value >> 10),
        value => {
            let digits = value.to_string();
            let groups: Vec<_> =
                digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group)).collect();
            groups.join(",")
        }
    }
}

/// Each limit with what it is and its value, as `host/core/src/limits.rs` has them.
fn limits() -> Vec<String> {
    let source = std::fs::read_to_string(root().join("host/core/src/limits.rs")).unwrap();
    let mut rows = Vec::new();
    let mut what: Vec<&str> = Vec::new();
    for line in source.lines() {
        if let Some(words) = line.strip_prefix("/// ") {
            what.push(words);
        } else if let Some(rest) = line.strip_prefix("pub const ") {
            let (name, expression) = rest.split_once(" = ").unwrap();
            let what = match std::mem::take(&mut what).join(" ") {
                // Those that share a comment with the one before.
                shared if shared.is_empty() => name.split(':').next().unwrap().to_lowercase(),
                own => own.trim_end_matches('.').replace(", in milliseconds", ""),
            };
            let unit = if rest.starts_with("SLEEP_MS") { "milliseconds" } else { what.as_str() };
            rows.push(format!("| {what} | {} |", spelt(unit, value(expression.trim_end_matches(';')))));
        } else {
            what.clear();
        }
    }
    rows
}

#[test]
fn the_page_of_limits_has_each_of_them() {
    let page = std::fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let rows = limits();
    assert!(rows.len() > 25, "{rows:?}");
    let shown: Vec<_> = page.lines().skip_while(|line| *line != "| --- | --- |").skip(1).collect();
    let shown: Vec<_> = shown.into_iter().take_while(|line| line.starts_with('|')).collect();
    assert_eq!(shown, rows, "docs/limits.md has to have\n{}", rows.join("\n"));
}

/// The verbs with what they are for are those of the long help, in its groups.
#[test]
fn the_page_of_verbs_is_the_long_help() {
    let page = std::fs::read_to_string(root().join("docs/reference.md")).unwrap();
    let help = Place::in_file().run(["--help"]).stdout();
    let mut rows = Vec::new();
    let mut groups = help.lines().skip_while(|line| *line != "Start:").take_while(|line| *line != "Options:");
    for line in groups.by_ref() {
        if let Some(group) = line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            rows.push(format!("## {group}"));
        } else if let Some((verb, about)) = line.trim().split_once("  ") {
            rows.push(format!("| `{verb}` | {} |", about.trim()));
        }
    }
    let shown: Vec<_> = page.lines().skip_while(|line| *line != "## Start").collect();
    let shown = shown.into_iter().take_while(|line| *line != "## Exit codes");
    let shown: Vec<_> = shown.filter(|line| line.starts_with("## ") || line.starts_with("| `")).collect();
    assert_eq!(shown, rows, "docs/reference.md has to have\n{}", rows.join("\n"));
}
