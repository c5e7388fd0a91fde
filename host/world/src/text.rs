//! Untrusted text (of programs, agents, files, names), made safe to show on a
//! terminal and to hand to a shell.

use std::borrow::Cow;
use std::fmt;

/// Whether a terminal does something else with a character than to show it: the C0 and C1 control
/// characters and DEL; what separates lines; what changes the direction of the text around it (UAX #9:
/// marks, embeddings, overrides, isolates); and what is not seen at all, so that two texts look the same
/// or one hides in another (soft hyphens, spaces without width, annotations, tags). The two joiners are
/// text: many scripts and emoji need them.
pub fn is_control(c: char) -> bool {
    is_invisible(c) && !matches!(c, '\u{200c}' | '\u{200d}')
}

/// The same with the joiners: what a name that other programs compare may not have.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// One line of text for a terminal. Tabs stay, line ends become spaces, every other control
/// character is written out like `\u{1b}`.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| c != '\t' && is_control(c)) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for part in text.trim_end_matches(['\r', '\n']).split_inclusive('\n') {
        match part.strip_suffix('\n') {
            None => write_out(&mut line, part),
            Some(part) => {
                write_out(&mut line, part.strip_suffix('\r').unwrap_or(part));
                line.push(' ');
            }
        }
    }
    Cow::Owned(line)
}

/// Text of at most about so many bytes: of a longer one its middle is left out. What stands at its end often says more
/// than the middle, like the place in a message of a parser.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let head = text.floor_char_boundary(most * 2 / 3);
    let tail = text.ceil_char_boundary(text.len() - most / 3);
    Cow::Owned(format!("{} … {}", &text[..head], &text[tail..]))
}

/// Bytes of what errors quote of strangers.
const EXCERPT: usize = 300;

/// What an error quotes of what a stranger wrote, or of what a parser says of that, which often quotes it, too: short,
/// and on one line.
pub fn excerpt(text: &str) -> String {
    one_line(&shortened(text, EXCERPT)).into_owned()
}

/// The same for text of several lines, of which all but the first are indented by so many spaces.
pub fn lines(text: &str, indent: usize) -> Cow<'_, str> {
    if !text.contains(|c| c != '\t' && is_control(c)) {
        return Cow::Borrowed(text);
    }
    let mut block = String::with_capacity(text.len() + 16);
    for (number, line) in text.lines().enumerate() {
        if number > 0 {
            block.push('\n');
            block.extend(std::iter::repeat_n(' ', indent));
        }
        write_out(&mut block, line);
    }
    Cow::Owned(block)
}

fn write_out(to: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\t' => to.push(c),
            c if is_control(c) => to.extend(c.escape_unicode()),
            c => to.push(c),
        }
    }
}

/// JSON text with the same value, and without a character that a terminal obeys, line ends and
/// tabs between values aside. `json` has to be valid: then the others can stand within strings only,
/// but for a carriage return, which can only stand between values.
pub fn json(json: &str) -> Cow<'_, str> {
    let passes = |c: char| matches!(c, '\t' | '\n') || !is_control(c);
    if json.chars().all(passes) {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            '\r' => text.push(' '),
            c if passes(c) => text.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    Cow::Owned(text)
}

/// A word as a POSIX shell reads it back. One with control characters is written in the form
/// `$'...'` (POSIX.1-2024; bash, zsh and ksh have long had it). A shell that does not know it (dash) reads
/// a `$` and a word in quotes: so no quote and no backslash stands in it, and nothing gets out of it.
pub fn quoted(word: &str) -> Cow<'_, str> {
    if word.contains(is_control) {
        let mut text = "$'".to_owned();
        for c in word.chars() {
            match c {
                c if matches!(c, '\\' | '\'') || is_control(c) => {
                    c.encode_utf8(&mut [0; 4])
                        .bytes()
                        .for_each(|byte| text.push_str(&format!("\\{byte:03o}")));
                }
                c => text.push(c),
            }
        }
        text.push('\'');
        return Cow::Owned(text);
    }
    // It fails at a zero byte only, which is a control character.
    shlex::try_quote(word).unwrap_or(Cow::Borrowed("''"))
}

/// A command of this program that people or tools are told to run, with everything quoted.
#[derive(Clone, Debug)]
pub struct Command {
    verb: String,
    operands: Vec<String>,
    options: Vec<String>,
}

impl Command {
    /// `wfhost VERB`, which may be several words.
    pub fn new(verb: &str) -> Self {
        Self { verb: verb.to_owned(), operands: Vec::new(), options: Vec::new() }
    }

    /// An argument that is no option, whatever it begins with.
    #[must_use]
    pub fn arg(mut self, operand: impl fmt::Display) -> Self {
        self.operands.push(operand.to_string());
        self
    }

    /// An option with its value, whatever that begins with.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl fmt::Display) -> Self {
        let value = value.to_string();
        self.options.push(match value.starts_with('-') {
            true => format!("{name}={}", quoted(&value)),
            false => format!("{name} {}", quoted(&value)),
        });
        self
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wfhost {}", self.verb)?;
        let dashed = self.operands.iter().any(|operand| operand.starts_with('-'));
        let operands = self.operands.iter().map(|operand| quoted(operand).into_owned());
        let options = self.options.iter().cloned();
        let words: Vec<_> = match dashed {
            true => options.chain(["--".to_owned()]).chain(operands).collect(),
            false => operands.chain(options).collect(),
        };
        words.iter().try_for_each(|word| write!(f, " {word}"))
    }
}

/// `wfhost VERB RUN`, to which options can be added.
pub fn command(verb: &str, run: impl fmt::Display) -> Command {
    Command::new(verb).arg(run)
}

/// Why a request failed: the causes of an error without what it says itself, as that names the URL, which
/// may hold a secret.
pub fn causes_of_request(error: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        source = cause.source();
    }
    if parts.is_empty() {
        parts.push("the request failed".to_owned());
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_short_and_steers_no_terminal() {
        assert_eq!(excerpt("unknown variant `x`"), "unknown variant `x`");
        let hostile = format!("unknown variant `\u{1b}[2J\n{}`, at line 1 column 7", "ü".repeat(100_000));
        let quoted = excerpt(&hostile);
        assert!(quoted.len() < 400 && quoted.starts_with("unknown variant `\\u{1b}[2J ü"), "{quoted}");
        assert!(quoted.ends_with("`, at line 1 column 7") && quoted.contains(" … "), "{quoted}");
        assert!(excerpt(&"\u{1b}".repeat(100_000)).len() < 3_000);
        assert_eq!(shortened("abc", 3), "abc");
    }

    /// What terminals obey: OSC 52, a CSI, BEL, BS, DEL, a C1 CSI, a lone CR, an override.
    const HOSTILE: &str = "a\x1b]52;c;ZXZpbA==\x07b\x1b[2Kc\x08d\x7fe\u{9b}31mf\rg\u{202e}h\0i";
    /// What is not seen: a soft hyphen, spaces without width, a byte order mark, a tag.
    const UNSEEN: &str = "a\u{ad}b\u{200b}c\u{2060}d\u{feff}e\u{e0041}f";

    #[test]
    fn nothing_that_a_terminal_obeys_passes() {
        let shown = one_line(HOSTILE);
        assert!(!shown.contains(is_control), "{shown:?}");
        assert!(shown.starts_with("a\\u{1b}]52;c;ZXZpbA==\\u{7}b"), "{shown}");
        assert_eq!(one_line("one\r\ntwo\nthree\n"), "one two three");
        assert_eq!(lines("one\r\ntwo\rthree\n", 4), "one\n    two\\u{d}three");
        assert_eq!(one_line("Grüße\t👩‍🚀"), "Grüße\t👩‍🚀");
        assert_eq!(one_line(UNSEEN), "a\\u{ad}b\\u{200b}c\\u{2060}d\\u{feff}e\\u{e0041}f");
        // What only separates lines for some programs.
        assert_eq!(one_line("a\u{2028}b"), "a\\u{2028}b");
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, UNSEEN, "\u{7f}\u{85}\u{2066}"] });
        let shown = json(&value.to_string()).into_owned();
        assert!(!shown.contains(is_control), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        assert_eq!(json("{\r\n\t\"a\":\r1}"), "{ \n\t\"a\": 1}");
        assert!(matches!(json("[1,2]"), Cow::Borrowed(_)));
    }

    /// What a shell makes of a command.
    fn words(command: &str) -> Vec<Vec<u8>> {
        // `sh` is dash in places, which does not know `$'...'` yet.
        let script = format!("wfhost() {{ printf '%s\\0' \"$@\"; }}; {command}");
        let ran = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
        assert!(ran.stderr.is_empty(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
        let mut words: Vec<_> = ran.stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        assert_eq!(words.pop(), Some(Vec::new()));
        words
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for name in [
            "go",
            "",
            "go; touch /tmp/pwned #",
            "$(touch /tmp/pwned)",
            "two words",
            "it's",
            "`id`",
            "!!",
            "a\nb",
            "~",
            "*",
            "a\x1b[31mb'\\",
            "\u{202e}x",
            "{a,b}",
            "^a",
            "x=1",
            "&",
            "|",
        ] {
            let command = Command::new("signal").arg("r").arg(name).option("-i", "JSON");
            let expected: Vec<Vec<u8>> =
                ["signal", "r", name, "-i", "JSON"].iter().map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!(words(&command.to_string()), expected, "{command}");
            assert!(!command.to_string().contains(is_control));
        }
    }

    /// A shell that does not know `$'...'` must not execute what is in it.
    #[test]
    fn no_shell_executes_what_was_quoted() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["\x1b'; touch pwned; '", "\x1b\\'; touch pwned; '", "\x1b\\\\'\n touch pwned\n'"] {
            for shell in ["sh", "bash"] {
                let script = format!("wfhost() {{ :; }}; {}", Command::new("signal").arg(name));
                let mut ran = std::process::Command::new(shell);
                let ran = ran.args(["-c", &script]).current_dir(dir.path()).output().unwrap();
                assert!(ran.status.success(), "{shell} {script}: {}", String::from_utf8_lossy(&ran.stderr));
                assert!(!dir.path().join("pwned").exists(), "{shell} {script}");
            }
        }
    }

    #[test]
    fn what_begins_with_a_dash_is_no_option() {
        let command = Command::new("signal").arg("r").arg("--db=x").option("-i", "-5");
        assert_eq!(command.to_string(), "wfhost signal -i=-5 -- r '--db=x'");
    }
}
