//! JSON that does not fit a schema, with the places of the faults underlined.

use std::ops::Range;

use unicode_width::UnicodeWidthStr;
use wfhost::schema::Fault;
use wfhost::world::text::{command, one_line};
use wfhost::{Part, Unfit};
use wfhost_core::locate;

use crate::UserError;

/// Bytes of a line that are shown before a place, and from it on.
const BEFORE: usize = 40;
const FROM: usize = 50;
/// Bytes of what a schema says of a fault.
const MESSAGE: usize = 240;

/// A line of a text, and below it what is wrong at a place in it. The text is made safe to show.
pub(crate) fn marked(text: &str, place: Range<usize>, message: &str) -> [String; 2] {
    let begin = text[..place.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[place.start..].find('\n').map_or(text.len(), |at| place.start + at);
    let number = text[..begin].matches('\n').count() + 1;
    let from = text.floor_char_boundary(place.start.saturating_sub(BEFORE).max(begin));
    let to = text.ceil_char_boundary((place.start + FROM).min(end));
    let shown = |range: Range<usize>| {
        // A tab is as wide as the terminal likes.
        let part = text.get(range).unwrap_or_default().trim_end_matches('\r');
        one_line(&part.replace('\t', " ")).into_owned()
    };
    let cut = |is_cut: bool| if is_cut { "…" } else { "" };
    let indent = cut(from > begin).width() + shown(from..place.start).width();
    let length = shown(place.start..place.end.min(to)).width().max(1);
    [
        format!("{number:>4} | {}{}{}", cut(from > begin), shown(from..to), cut(to < end)),
        format!("     | {}{} {message}", " ".repeat(indent), "^".repeat(length)),
    ]
}

/// The lines that show faults in a document, two for each.
pub(crate) fn details(document: &str, faults: &[Fault]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for Fault { path, member, message } in faults {
        let named = member.as_deref().and_then(|member| locate(document, path, Some(member)));
        let place = named.or_else(|| {
            // Of an object or a list as a whole only where it begins.
            let whole = locate(document, path, None)?;
            let is_long = document[whole.clone()].starts_with(['{', '[']);
            Some(if is_long { whole.start..whole.start + 1 } else { whole })
        });
        let short = match message.len() > MESSAGE {
            true => format!(
                "{} … {}",
                &message[..message.floor_char_boundary(MESSAGE / 2)],
                &message[message.ceil_char_boundary(message.len() - MESSAGE / 2)..]
            ),
            false => message.clone(),
        };
        match place {
            Some(place) => {
                let [line, below] = marked(document, place, &one_line(&short));
                // Several faults of one line stand below it once.
                let is_new = lines.iter().rev().find(|line| !line.starts_with("     |")) != Some(&line);
                lines.extend(is_new.then_some(line));
                lines.push(below);
            }
            None => lines.push(format!("{path}: {short}")),
        }
    }
    lines
}

impl From<Box<Unfit>> for UserError {
    fn from(unfit: Box<Unfit>) -> Self {
        let details = details(unfit.given.as_str(), &unfit.faults);
        let (code, nothing) = match unfit.part {
            Part::Input => ("WF0521", "nothing was started"),
            Part::Signal(_) => ("WF0522", "nothing was sent"),
        };
        let mut trouble = Self { details, ..Self::usage(code, unfit.to_string()) };
        if let Some(example) = unfit.example.as_ref().filter(|example| example.as_str().len() <= 500) {
            let quoted = wfhost::world::text::quoted(example.as_str());
            trouble = trouble.hint(format!("a valid input: -i {quoted}"));
        }
        let inspect = command("inspect", &unfit.workflow);
        trouble.hint(format!("{nothing}; show the schema: `{inspect}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(path: &str, member: Option<&str>, message: &str) -> Fault {
        Fault { path: path.to_owned(), member: member.map(str::to_owned), message: message.to_owned() }
    }

    #[test]
    fn places_are_underlined_where_they_are() {
        let document = "{\n\t\"näme\": \"ü\u{1F408}\", \"n\": 12,\n  \"list\": [1,\n 2]}";
        let faults = [
            fault("/näme", None, "too long"),
            fault("/n", None, "no string"),
            fault("", Some("n"), "too much"),
            fault("/list/1", None, "odd"),
            fault("/list", None, "short"),
            fault("/nowhere", None, "lost"),
        ];
        let expected = [
            "   2 |  \"näme\": \"ü\u{1F408}\", \"n\": 12,",
            "     |          ^^^^^ too long",
            "     |                      ^^ no string",
            "     |                 ^^^ too much",
            "   4 |  2]}",
            "     |  ^ odd",
            "   3 |   \"list\": [1,",
            "     |           ^ short",
            "/nowhere: lost",
        ];
        assert_eq!(details(document, &faults), expected);
    }

    #[test]
    fn long_lines_are_shown_around_the_place_and_nothing_steers_the_terminal() {
        let document =
            format!(r#"{{"a":"{}","b":"{}","c":"{}"}}"#, "x".repeat(300), "\u{202e}z", "y".repeat(300));
        let lines = details(&document, &[fault("/b", None, &format!("\u{1b}[2J{}", "m".repeat(1_000)))]);
        assert!(lines[0].starts_with("   1 | …xxx") && lines[0].ends_with("yyy…"), "{lines:?}");
        assert!(lines[0].contains("\\u{202e}z") && lines[1].contains("^^^^^^^^^^^ \\u{1b}[2J"), "{lines:?}");
        assert!(lines.iter().all(|line| line.len() < 500));
        let whole = details("7", &[fault("", None, "no object")]);
        assert_eq!(whole, ["   1 | 7", "     | ^ no object"]);
    }
}
