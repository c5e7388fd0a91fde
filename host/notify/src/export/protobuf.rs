//! Spans as Protocol Buffers: `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`, version
//! [1.7.0](https://github.com/open-telemetry/opentelemetry-proto/blob/v1.7.0/opentelemetry/proto/trace/v1/trace.proto).

use serde_json::Value;
use wfhost_core::Timestamp;
use wfhost_view::{Span, Trace};

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.number(field << 3);
        self.number(value);
    }

    fn fixed(&mut self, field: u64, value: u64) {
        self.number(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.number(field << 3 | 2);
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// A `KeyValue`.
    fn attribute(&mut self, field: u64, name: &str, value: &Value) {
        self.message(field, |pair| {
            pair.bytes(1, name.as_bytes());
            pair.message(2, |any| match value {
                Value::Bool(flag) => any.varint(2, u64::from(*flag)),
                Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                    (Some(number), _) => any.varint(3, number as u64),
                    // Beyond what the type holds.
                    (None, Some(number)) => any.varint(3, number.min(i64::MAX as u64)),
                    _ => any.fixed(4, number.as_f64().unwrap_or_default().to_bits()),
                },
                Value::String(text) => any.bytes(1, text.as_bytes()),
                other => any.bytes(1, other.to_string().as_bytes()),
            });
        });
    }
}

/// What a field holds, as far as answers are read.
enum Held<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// The fields of a message, in order; none if it is none.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Held<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = read_number(&mut bytes)?;
        let held = match key & 7 {
            0 => Held::Number(read_number(&mut bytes)?),
            1 => take(&mut bytes, 8).map(|_| Held::Other)?,
            2 => {
                let length = read_number(&mut bytes)?;
                Held::Bytes(take(&mut bytes, length)?)
            }
            5 => take(&mut bytes, 4).map(|_| Held::Other)?,
            _ => return None,
        };
        fields.push((key >> 3, held));
    }
    Some(fields)
}

/// The last text of that field.
fn text(fields: &[(u64, Held<'_>)], wanted: u64) -> Option<String> {
    fields.iter().rev().find_map(|(field, held)| match held {
        Held::Bytes(bytes) if *field == wanted => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    })
}

/// How many spans were not taken, and why, of an `ExportTraceServiceResponse`; none if it says nothing of that.
pub(super) fn partial_success(answer: &[u8]) -> Option<(u64, String)> {
    let answer = fields(answer)?;
    let partial = answer.iter().rev().find_map(|(field, held)| match held {
        Held::Bytes(bytes) if *field == 1 => Some(*bytes),
        _ => None,
    });
    let partial = fields(partial?)?;
    let count = partial.iter().rev().find_map(|(field, held)| match held {
        Held::Number(number) if *field == 1 => Some(*number),
        _ => None,
    });
    // Negative numbers mean nothing.
    let count = count.filter(|count| i64::try_from(*count).is_ok())?;
    Some((count, text(&partial, 2).unwrap_or_default()))
}

/// The message of a `google.rpc.Status`, on one line.
pub(super) fn status_message(answer: &[u8]) -> Option<String> {
    let message = text(&fields(answer)?, 2)?;
    let line: String = message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
    (!line.is_empty()).then_some(line)
}

/// The bytes of an id in hexadecimal.
fn id(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn nanos(at: Timestamp) -> u64 {
    at.0.saturating_mul(1_000_000)
}

fn span(message: &mut Message, trace: &str, span: &Span) {
    message.bytes(1, &id(trace));
    message.bytes(2, &id(&span.id));
    if let Some(parent) = &span.parent {
        message.bytes(4, &id(parent));
    }
    message.bytes(5, span.name.as_bytes());
    message.varint(6, if span.is_call { 3 } else { 1 });
    message.fixed(7, nanos(span.from));
    message.fixed(8, nanos(span.to));
    for (name, value) in &span.attributes {
        message.attribute(9, name, value);
    }
    if let Some((kind, _)) = &span.failed {
        message.attribute(9, "error.type", &Value::String(kind.clone()));
    }
    for link in &span.links {
        message.message(13, |message| {
            message.bytes(1, &id(&link.trace));
            message.bytes(2, &id(&link.span));
            message.attribute(4, "wfhost.link", &Value::String(link.what.to_owned()));
        });
    }
    if let Some((_, said)) = &span.failed {
        message.message(15, |status| {
            status.bytes(2, said.as_bytes());
            status.varint(3, 2);
        });
    }
}

/// A request with these traces. `resource`: what sends them.
pub(super) fn export(traces: &[Trace], resource: &[(String, String)]) -> Vec<u8> {
    let mut request = Message::default();
    request.message(1, |of_resource| {
        of_resource.message(1, |message| {
            for (name, value) in resource {
                message.attribute(1, name, &Value::String(value.clone()));
            }
        });
        of_resource.message(2, |scoped| {
            scoped.message(1, |scope| {
                scope.bytes(1, b"wfhost");
                scope.bytes(2, env!("CARGO_PKG_VERSION").as_bytes());
            });
            for trace in traces {
                for one in &trace.spans {
                    scoped.message(2, |message| span(message, &trace.id, one));
                }
            }
        });
    });
    request.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_protocol_buffers_have_them() {
        let mut message = Message::default();
        message.varint(1, 150);
        message.bytes(2, b"testing");
        message.fixed(3, 1);
        // The examples of the format's own description.
        let expected =
            [&[0x08, 0x96, 0x01, 0x12, 0x07][..], b"testing", &[0x19, 1, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(message.0, expected);
        assert_eq!(id("00ff10"), [0, 255, 16]);
    }
}
