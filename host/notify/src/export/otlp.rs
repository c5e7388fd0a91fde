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

/// Characters of what a collector says that are told.
const SAID: usize = 300;

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
    /// It failed: because of what they are, or by itself.
    Failed {
        said: String,
        after_ms: Option<u64>,
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

    /// How long a request may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
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
            Sent::Rejected { said, .. } | Sent::Refused { said } | Sent::Failed { said, .. } => Err(said),
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
        // An answer is in the form of the request, unless it says otherwise.
        let form = match posted.kind.as_deref() {
            Some("application/json") => Form::Json,
            Some("application/x-protobuf") => Form::Protobuf,
            _ => self.form,
        };
        let said = || {
            let said = match form {
                Form::Json => None,
                Form::Protobuf => protobuf::status_message(&posted.body),
            };
            match said.as_deref().unwrap_or(&posted.said) {
                "" => format!("it answered {}", posted.status),
                said => format!("it answered {}: {}", posted.status, hide_credentials(said)),
            }
        };
        match posted.status {
            200..=299 => rejected(form, &posted.body).unwrap_or(Sent::Taken),
            // It will say the same of them each time. Anything else may be mended: a key, an address.
            400 | 413 | 422 => Sent::Refused { said: said() },
            500 => Sent::Failed { said: said(), after_ms: posted.retry_after_ms },
            _ => Sent::Away { why: said(), after_ms: posted.retry_after_ms },
        }
    }
}

/// What a collector did not take of what it took, as it says in its answer.
fn rejected(form: Form, answer: &[u8]) -> Option<Sent> {
    let (count, said) = match form {
        Form::Json => {
            let answer: Value = serde_json::from_slice(answer).ok()?;
            let partial = &answer["partialSuccess"];
            let count = &partial["rejectedSpans"];
            let count = count.as_u64().or_else(|| count.as_str()?.parse().ok())?;
            (count, partial["errorMessage"].as_str().unwrap_or_default().to_owned())
        }
        Form::Protobuf => protobuf::partial_success(answer)?,
    };
    // It may be of any length. Half a secret would not be known as one.
    let line = hide_credentials(&said).split_whitespace().collect::<Vec<_>>().join(" ");
    (count > 0).then(|| Sent::Rejected { count, said: line.chars().take(SAID).collect() })
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
        for nothing in ["", "{}", "{\"partialSuccess\":{}}"] {
            assert!(rejected(Form::Json, nothing.as_bytes()).is_none(), "{nothing}");
        }
        let said = r#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}"#;
        let found = rejected(Form::Json, said.as_bytes());
        assert!(matches!(found, Some(Sent::Rejected { count: 2, said }) if said == "too old"));
        let long = format!(
            r#"{{"partialSuccess":{{"rejectedSpans":1,"errorMessage":"a\n{}"}}}}"#,
            "b".repeat(9_000)
        );
        let found = rejected(Form::Json, long.as_bytes());
        assert!(
            matches!(found, Some(Sent::Rejected { said, .. }) if said.len() == SAID && said.starts_with("a b"))
        );
        // A warning rejects nothing.
        for nothing in [&b""[..], b"\x0a\x00", b"\x0a\x06\x12\x04slow", b"\x0a\x09\x08\x02"] {
            assert!(rejected(Form::Protobuf, nothing).is_none(), "{nothing:?}");
        }
    }

    /// A collector that answers one request, and how that was understood.
    async fn told(form: Form, status: &str, kind: &str, answer: &[u8]) -> Sent {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let head = format!(
            "HTTP/1.1 {status}\r\n{kind}Content-Length: {}\r\nConnection: close\r\n\r\n",
            answer.len()
        );
        let answer = [head.as_bytes(), answer].concat();
        let collector = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut buffer) = (Vec::new(), [0; 4_096]);
            loop {
                let read = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
                let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                let head = request.windows(4).position(|window| window == b"\r\n\r\n");
                if let (Some(head), Some(length)) = (head, length)
                    && request.len() >= head + 4 + length.parse::<usize>().unwrap()
                {
                    break;
                }
            }
            stream.write_all(&answer).unwrap();
        });
        let to = Otlp { url, headers: vec![], resource: vec![], form, timeout: Duration::from_secs(60) };
        let sent = to.send(&Poster::default(), &[]).await;
        collector.join().unwrap();
        sent
    }

    #[tokio::test]
    async fn a_collector_that_speaks_protocol_buffers_is_understood() {
        // More rejected than one byte holds, so that the answer is no UTF-8; and a field of a later version.
        let partial = b"\x08\xac\x02\x12\x07too old";
        let answer = [&[0x0a, partial.len() as u8][..], partial, &[0x1d, 1, 2, 3, 4]].concat();
        for kind in ["Content-Type: application/x-protobuf\r\n", ""] {
            let sent = told(Form::Protobuf, "200 OK", kind, &answer).await;
            assert!(
                matches!(&sent, Sent::Rejected { count: 300, said } if said == "too old"),
                "{kind} {sent:?}"
            );
        }
        let taken = told(Form::Protobuf, "200 OK", "Content-Type: application/x-protobuf\r\n", b"").await;
        assert!(matches!(taken, Sent::Taken), "{taken:?}");
        // Whatever it was sent, one may answer in JSON.
        let json = br#"{"partialSuccess":{"rejectedSpans":1,"errorMessage":"no"}}"#;
        let kind = "Content-Type: application/json; charset=utf-8\r\n";
        let sent = told(Form::Protobuf, "200 OK", kind, json).await;
        assert!(matches!(&sent, Sent::Rejected { count: 1, said } if said == "no"), "{sent:?}");
        // A refusal is a `google.rpc.Status`.
        let status = b"\x08\x03\x12\x08bad span";
        let sent = told(Form::Protobuf, "400 Bad Request", "", status).await;
        assert!(matches!(&sent, Sent::Refused { said } if said == "it answered 400: bad span"), "{sent:?}");
    }
}
