//! Server-sent events (the WHATWG HTML standard, 9.2), as far as model APIs
//! use them: `data`. What kind of event it is stands in there, too.

use wfhost_core::FailureKind;

use crate::CallFailure;

/// Bytes of one line.
const LINE_BYTES: usize = 16 << 20;

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SseEvent {
    pub data: String,
}

/// Takes a stream in pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    data: Option<String>,
}

impl SseParser {
    /// Takes the next bytes and gives the events that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, CallFailure> {
        let mut events = Vec::new();
        for &byte in bytes {
            match byte {
                // The second half of a line end.
                b'\n' if self.after_cr => self.after_cr = false,
                b'\r' | b'\n' => {
                    self.after_cr = byte == b'\r';
                    events.extend(self.end_line()?);
                }
                _ => {
                    self.after_cr = false;
                    if self.line.len() >= LINE_BYTES {
                        return Err(invalid(format!("a line of more than {} MiB", LINE_BYTES >> 20)));
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(events)
    }

    /// Whether nothing was begun and not ended.
    pub fn is_complete(&self) -> bool {
        self.line.is_empty() && self.data.is_none()
    }

    fn end_line(&mut self) -> Result<Option<SseEvent>, CallFailure> {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8(bytes).map_err(|_| invalid("bytes that are not UTF-8".to_owned()))?;
        let line = match std::mem::replace(&mut self.begun, true) {
            true => line.as_str(),
            false => line.strip_prefix('\u{feff}').unwrap_or(&line),
        };
        if line.is_empty() {
            return Ok(self.data.take().map(|data| SseEvent { data }));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        // Comments keep the connection alive; names, ids and delays matter to browsers.
        if field == "data" {
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
        Ok(None)
    }
}

fn invalid(what: String) -> CallFailure {
    CallFailure::new(FailureKind::InvalidOutput, format!("the stream of events has {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str =
        "\u{feff}: hello\r\nevent: delta\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\ndata:ä\n\nid: 7\rdata\r\r";

    fn event(data: &str) -> SseEvent {
        SseEvent { data: data.to_owned() }
    }

    proptest! {
        /// A stream says the same in whatever pieces it comes, and no bytes are too much.
        #[test]
        fn any_bytes_in_any_pieces(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..300),
                "(data|event|:|\\r|\\n| |x|\u{feff}){0,80}".prop_map(String::into_bytes),
            ],
            at in any::<proptest::sample::Index>(),
        ) {
            let mut whole = SseParser::default();
            let expected = whole.push(&bytes);
            let (one, two) = bytes.split_at(at.index(bytes.len() + 1));
            let mut pieces = SseParser::default();
            let found = pieces.push(one).and_then(|mut events| {
                events.extend(pieces.push(two)?);
                Ok(events)
            });
            prop_assert_eq!(found.is_err(), expected.is_err());
            if let (Ok(found), Ok(expected)) = (found, expected) {
                prop_assert_eq!(found, expected);
                prop_assert_eq!(whole.is_complete(), pieces.is_complete());
            }
        }
    }

    #[test]
    fn pieces_of_any_size_give_the_same_events() {
        let wanted = [event("{\"a\":\n1}"), event("ä"), event("")];
        for size in 1..STREAM.len() {
            let mut parser = SseParser::default();
            let mut events = Vec::new();
            for piece in STREAM.as_bytes().chunks(size) {
                events.extend(parser.push(piece).unwrap());
            }
            assert_eq!(events, wanted, "pieces of {size}");
            assert!(parser.is_complete());
        }
    }

    #[test]
    fn half_an_event_is_none() {
        let mut parser = SseParser::default();
        assert_eq!(parser.push(b"data: half\n").unwrap(), []);
        assert!(!parser.is_complete());
    }

    #[test]
    fn other_encodings_are_refused() {
        let mut parser = SseParser::default();
        assert!(parser.push(b"data: \xff\xfe\n\n").is_err());
    }
}
