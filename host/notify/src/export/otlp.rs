//! A collector: where it is, what it is told of who speaks, and what it answers. The variables are those of
//! [OpenTelemetry](https://opentelemetry.io/docs/specs/otel/protocol/exporter/).

use std::time::Duration;

use serde_json::Value;
use wfhost::agents::{Poster, hide_credentials};
use wfhost::world::environment;
use wfhost_view::{Trace, otlp};

use super::protobuf;

/// Where spans go if nothing else is said: a collector on this machine.
const USUAL: &str = "http://localhost:4318";
/// How long a collector may take, in milliseconds, if nothing is said.
const TIMEOUT_MS: u64 = 10_000;
/// What ended is sent so often, in milliseconds, if nothing is said.
const EVERY_MS: u64 = 5_000;

/// How messages are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Json,
    Protobuf,
}

/// A collector that takes OTLP over HTTP.
#[derive(Clone, Debug)]
pub struct Otlp {
    url: String,
    headers: Vec<(String, String)>,
    resource: Vec<(String, String)>,
    form: Form,
    timeout: Duration,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Sent {
    Taken,
    /// It took them but for so many, which it will not want later either.
    Rejected {
        count: u64,
        said: String,
    },
    /// It wants none of them as they came: one may be bad, or they are too many.
    Refused {
        said: String,
    },
    /// They are to be sent again.
    Away {
        why: String,
        after_ms: Option<u64>,
    },
}

/// A variable of traces, else the one of all signals.
fn either(traces: &str, all: &str) -> Option<String> {
    environment::text(traces).or_else(|| environment::text(all))
}

/// `name=value` pairs of a variable, with `%20` and the like.
fn pairs(text: Option<String>) -> Vec<(String, String)> {
    let plain = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.trim().as_bytes();
        while let [first, more @ ..] = rest {
            let digits = more.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte) if *first == b'%' => {
                    bytes.push(byte);
                    rest = &more[2..];
                }
                _ => {
                    bytes.push(*first);
                    rest = more;
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let text = text.unwrap_or_default();
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (plain(name), plain(value))).collect()
}

fn resource() -> Vec<(String, String)> {
    let mut all = pairs(environment::text(environment::OTEL_RESOURCE_ATTRIBUTES));
    if let Some(name) = environment::text(environment::OTEL_SERVICE_NAME) {
        all.retain(|(known, _)| known != "service.name");
        all.push(("service.name".to_owned(), name));
    }
    if !all.iter().any(|(name, _)| name == "service.name") {
        all.push(("service.name".to_owned(), "wfhost".to_owned()));
    }
    if !all.iter().any(|(name, _)| name == "service.version") {
        all.push(("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    }
    all
}

/// Where traces are sent to.
fn address(given: Option<&str>) -> String {
    let traces = environment::text(environment::OTEL_EXPORTER_OTLP_TRACES_ENDPOINT);
    if let Some(whole) = traces.filter(|_| given.is_none()) {
        return whole;
    }
    let base =
        given.map(str::to_owned).or_else(|| environment::text(environment::OTEL_EXPORTER_OTLP_ENDPOINT));
    let base = base.unwrap_or_else(|| USUAL.to_owned());
    match base.ends_with("/v1/traces") {
        true => base,
        false => format!("{}/v1/traces", base.trim_end_matches('/')),
    }
}

fn millis(name: &'static str, text: Option<String>, usual: u64) -> Result<Duration, String> {
    let Some(text) = text else { return Ok(Duration::from_millis(usual)) };
    match text.trim().parse::<u64>() {
        Ok(millis @ 1..=3_600_000) => Ok(Duration::from_millis(millis)),
        _ => Err(format!("{name} is `{text}`, which is not a number of milliseconds from 1 to 3600000")),
    }
}

impl Otlp {
    /// The collector that is `given`, else the one of the variables, else the usual one. An error says what
    /// is wrong with a variable.
    pub fn from_environment(given: Option<&str>) -> Result<Self, String> {
        use environment::{
            OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_EXPORTER_OTLP_TIMEOUT,
            OTEL_EXPORTER_OTLP_TRACES_HEADERS, OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
            OTEL_EXPORTER_OTLP_TRACES_TIMEOUT,
        };
        let protocol = either(OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL);
        let form = match protocol.as_deref().map(str::trim) {
            None | Some("http/json") => Form::Json,
            Some("http/protobuf") => Form::Protobuf,
            Some(other) => {
                return Err(format!(
                    "{OTEL_EXPORTER_OTLP_PROTOCOL} is `{other}`: spans are sent as http/json or http/protobuf"
                ));
            }
        };
        let url = address(given);
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(format!("`{}` is not the URL of a collector", hide_credentials(&url)));
        }
        let timeout = either(OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT);
        Ok(Self {
            url,
            headers: pairs(either(OTEL_EXPORTER_OTLP_TRACES_HEADERS, OTEL_EXPORTER_OTLP_HEADERS)),
            resource: resource(),
            form,
            timeout: millis(OTEL_EXPORTER_OTLP_TIMEOUT, timeout, TIMEOUT_MS)?,
        })
    }

    /// Whether the variables name a collector, and do not say that nothing is to be sent.
    pub fn is_in_environment() -> bool {
        let is = |name: &str, value: &str| {
            environment::text(name).is_some_and(|text| text.trim().eq_ignore_ascii_case(value))
        };
        let named =
            either(environment::OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, environment::OTEL_EXPORTER_OTLP_ENDPOINT);
        named.is_some()
            && !is(environment::OTEL_SDK_DISABLED, "true")
            && !is(environment::OTEL_TRACES_EXPORTER, "none")
    }

    /// How often what ended is sent.
    pub fn every() -> Result<Duration, String> {
        let name = environment::OTEL_BSP_SCHEDULE_DELAY;
        millis(name, environment::text(name), EVERY_MS)
    }

    /// Where it is, to be shown.
    pub fn place(&self) -> String {
        hide_credentials(&self.url)
    }

    /// Who speaks.
    pub fn resource(&self) -> &[(String, String)] {
        &self.resource
    }

    /// Sends traces, once. An error says why they were not taken.
    pub async fn send_once(&self, traces: &[Trace]) -> Result<(), String> {
        match self.send(&Poster::default(), traces).await {
            Sent::Taken => Ok(()),
            Sent::Rejected { said, .. } | Sent::Refused { said } => Err(said),
            Sent::Away { why, .. } => Err(why),
        }
    }

    pub(super) async fn send(&self, poster: &Poster, traces: &[Trace]) -> Sent {
        let (kind, body) = match self.form {
            Form::Json => ("application/json", otlp(traces, &self.resource).to_string().into_bytes()),
            Form::Protobuf => ("application/x-protobuf", protobuf::export(traces, &self.resource)),
        };
        let posted = match poster.post_and_hear(&self.url, kind, &self.headers, body, self.timeout).await {
            Ok(posted) => posted,
            Err(why) => return Sent::Away { why: hide_credentials(&why), after_ms: None },
        };
        let said = || match posted.said.as_str() {
            "" => format!("it answered {}", posted.status),
            said => format!("it answered {}: {}", posted.status, hide_credentials(said)),
        };
        match posted.status {
            200..=299 => rejected(&posted.said).unwrap_or(Sent::Taken),
            // It will say the same of them each time. Anything else may be mended: a key, an address.
            400 | 413 | 422 => Sent::Refused { said: said() },
            _ => Sent::Away { why: said(), after_ms: posted.retry_after_ms },
        }
    }
}

/// What a collector did not take of what it took, as it says in JSON.
fn rejected(said: &str) -> Option<Sent> {
    let answer: Value = serde_json::from_str(said).ok()?;
    let partial = &answer["partialSuccess"];
    let count = &partial["rejectedSpans"];
    let count = count.as_u64().or_else(|| count.as_str()?.parse().ok())?;
    let said = partial["errorMessage"].as_str().unwrap_or_default().to_owned();
    (count > 0).then_some(Sent::Rejected { count, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_pairs_are_read() {
        let found = pairs(Some("a=1, Authorization=Bearer%20x%3D ,bad,%zz=2".to_owned()));
        let expected = [("a", "1"), ("Authorization", "Bearer x="), ("%zz", "2")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(address(Some("http://c:4318/")), "http://c:4318/v1/traces");
        assert_eq!(address(Some("http://c/v1/traces")), "http://c/v1/traces");
        assert!(millis("X", Some("0".to_owned()), 5).is_err());
        assert_eq!(millis("X", None, 5), Ok(Duration::from_millis(5)));
    }

    #[test]
    fn what_was_not_taken_is_found_in_the_answer() {
        assert!(
            rejected("").is_none()
                && rejected("{}").is_none()
                && rejected("{\"partialSuccess\":{}}").is_none()
        );
        let said = r#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}"#;
        assert!(matches!(rejected(said), Some(Sent::Rejected { count: 2, said }) if said == "too old"));
    }
}
