//! Text that comes from programs, guests and agents, before it goes somewhere
//! where it could mean more than text.

use wfhost_core::FailureKind;
use wfhost_world::text::is_invisible;

use super::CallFailure;

/// Bytes of a word: a model, a session, the name of a tool.
const WORD_BYTES: usize = 1_024;

/// Refuses what a guest or an agent may not put among the arguments of a
/// program, into a header, a URL or the name of a file: what is empty or long,
/// what a program would take for an option, and what has characters that are
/// invisible or end a line.
///
/// `what` names it: `the model`.
pub(crate) fn check_word(what: &str, text: &str) -> Result<(), CallFailure> {
    let refused = |why: &str| {
        Err(CallFailure::new(FailureKind::Rejected, format!("{what} of the call is invalid: {why}")))
    };
    if text.is_empty() {
        return refused("it is empty");
    }
    if text.len() > WORD_BYTES {
        return refused(&format!("it is longer than {WORD_BYTES} bytes"));
    }
    if text.chars().any(is_invisible) {
        return refused("it has control characters");
    }
    // Programs trim their arguments, and know dashes of other kinds from what people paste.
    if text
        .trim_start()
        .starts_with(['-', '\u{2010}', '\u{2011}', '\u{2012}', '\u{2013}', '\u{2014}', '\u{2212}'])
    {
        return refused("it starts with a dash, so a program could take it for an option");
    }
    Ok(())
}

/// Refuses free text of a guest as an argument of its own where a program could
/// take it for an option. `what` names it: `the prompt`. `after_dashes`: whether `--` stands before it.
pub(crate) fn check_argument(what: &str, text: &str, after_dashes: bool) -> Result<(), CallFailure> {
    let refused = |why: &str| Err(CallFailure::new(FailureKind::Rejected, format!("{what} {why}")));
    if text.contains('\0') {
        return refused(
            "has a zero byte, which arguments cannot contain; pass it on stdin: prompt = \"stdin\"",
        );
    }
    if text.starts_with('-') && !after_dashes {
        return refused(
            "starts with a dash, so the program could take it for an option; \
             put \"--\" at the end of `argv`, or pass it on stdin: prompt = \"stdin\"",
        );
    }
    Ok(())
}

/// Text of a program without escape sequences of terminals (ECMA-48) and other
/// control characters but tabs and line ends.
pub(crate) fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                // Parameters and intermediates, then a final character.
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // Strings, up to BEL or ESC \.
                Some(']' | 'P' | 'X' | '^' | '_') => string(&mut chars),
                // Intermediates, then a final character.
                Some(' '..='/') => while chars.next().is_some_and(|c| (' '..='/').contains(&c)) {},
                _ => {}
            },
            '\u{9b}' => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => string(&mut chars),
            '\t' | '\n' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

fn string(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    while let Some(c) = chars.next() {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' if chars.peek() == Some(&'\\') => {
                chars.next();
                return;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_words() {
        for word in ["sonnet", "opus[1m]", "anthropic/claude-x", "gpt 5", "s-1", "0198-abc", "ünïcode"] {
            assert!(check_word("the model", word).is_ok(), "{word}");
        }
        for word in [
            "",
            "-",
            "--yolo",
            " --yolo",
            "\u{2014}yolo",
            "a\nb",
            "a\0b",
            "a\u{1b}[31m",
            "a\u{202e}b",
            "a\u{2028}b",
        ] {
            assert!(check_word("the model", word).is_err(), "{word:?}");
        }
        assert!(check_word("the model", &"x".repeat(1_025)).is_err());
    }

    #[test]
    fn a_prompt_is_no_option() {
        assert!(check_argument("the prompt", "- a list", false).is_err());
        assert!(check_argument("the prompt", "- a list", true).is_ok());
        assert!(check_argument("the prompt", "a\0b", true).is_err());
        assert!(check_argument("the prompt", "plain --text", false).is_ok());
    }

    #[test]
    fn escape_sequences_go_and_text_stays() {
        let cases = [
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}(Bplain\u{9b}2Jmore", "plainmore"),
            ("a\tb\u{8}c\u{7f}", "a\tbc"),
            ("half \u{1b}[3", "half "),
        ];
        for (text, plain) in cases {
            assert_eq!(without_escapes(text), plain, "{text:?}");
        }
    }
}
