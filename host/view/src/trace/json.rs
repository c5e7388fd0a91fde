//! Traces in the JSON of OTLP.

use serde_json::{Value, json};
use wfhost_core::Timestamp;

use super::Trace;

/// An attribute as OTLP has it.
fn attribute(name: &str, value: &Value) -> Value {
    let value = match value {
        Value::Bool(flag) => json!({ "boolValue": flag }),
        Value::Number(number) if number.is_u64() || number.is_i64() => {
            json!({ "intValue": number.to_string() })
        }
        Value::Number(number) => json!({ "doubleValue": number }),
        Value::String(text) => json!({ "stringValue": text }),
        other => json!({ "stringValue": other.to_string() }),
    };
    json!({ "key": name, "value": value })
}

/// Traces in the JSON of OTLP, as collectors take them at `/v1/traces`. `resource`: what sends them.
pub fn otlp(traces: &[Trace], resource: &[(String, String)]) -> Value {
    let nanos = |at: Timestamp| (u128::from(at.0) * 1_000_000).to_string();
    let spans = traces.iter().flat_map(|trace| {
        trace.spans.iter().map(move |span| {
            let links = span.links.iter().map(|link| {
                json!({
                    "traceId": link.trace, "spanId": link.span,
                    "attributes": [attribute("wfhost.link", &json!(link.what))],
                })
            });
            let mut attributes: Vec<_> =
                span.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
            let mut status = json!({});
            if let Some((kind, message)) = &span.failed {
                attributes.push(attribute("error.type", &json!(kind)));
                status = json!({ "code": 2, "message": message });
            }
            let mut told = json!({
                "traceId": trace.id,
                "spanId": span.id,
                "name": span.name,
                "kind": if span.is_call { 3 } else { 1 },
                "startTimeUnixNano": nanos(span.from),
                "endTimeUnixNano": nanos(span.to),
                "attributes": attributes,
                "links": links.collect::<Vec<_>>(),
                "status": status,
            });
            if let Some(parent) = &span.parent {
                told["parentSpanId"] = json!(parent);
            }
            told
        })
    });
    let resource: Vec<_> = resource.iter().map(|(name, value)| attribute(name, &json!(value))).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{
            "scope": { "name": "wfhost", "version": env!("CARGO_PKG_VERSION") },
            "spans": spans.collect::<Vec<_>>(),
        }],
    }] })
}
