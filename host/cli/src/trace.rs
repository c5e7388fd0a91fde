//! `wfhost trace`

use std::time::Duration;

use wfhost::world::environment;
use wfhost_core::spell_millis;
use wfhost_view::{Span, Trace, otlp};

use super::diagnostic::{Exit, Trouble};
use super::place::{find_run, read_journal};
use super::{Common, Format, printer};

/// Show a run as a trace, or send it to a collector
///
/// Spans are derived from the journal, so their ids are always the same, also for runs that took days and hosts
/// that died. Without --content they contain no data of the run.
/// https://github.com/wfhost/wfhost/blob/main/docs/observability.md
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost trace @last
  wfhost trace @last -o json
  wfhost trace run_01k9 --otlp http://127.0.0.1:4318
  OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 wfhost trace run_01k9 --otlp")]
pub(crate) struct TraceVerb {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
    /// Send it with OTLP over HTTP [default URL: OTEL_EXPORTER_OTLP_ENDPOINT]
    #[arg(long, value_name = "URL", num_args = 0..=1)]
    otlp: Option<Option<String>>,
    /// Include prompts, answers and failure messages
    #[arg(long)]
    content: bool,
}

/// Where traces go if nothing else is said: a collector on this machine.
const USUAL: &str = "http://localhost:4318";
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Who sends the traces.
fn resource() -> Vec<(String, String)> {
    let mut all = pairs(environment::text(environment::OTEL_RESOURCE_ATTRIBUTES));
    if let Some(name) = environment::text(environment::OTEL_SERVICE_NAME) {
        all.retain(|(known, _)| known != "service.name");
        all.push(("service.name".to_owned(), name));
    }
    if !all.iter().any(|(name, _)| name == "service.name") {
        all.push(("service.name".to_owned(), "wfhost".to_owned()));
    }
    all.push(("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
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

impl TraceVerb {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let journal = read_journal(store.as_ref(), &info.id).await?;
        let trace = Trace::of(&info, &journal, self.content);
        let (id, count) = (trace.id.clone(), trace.spans.len());
        if let Some(given) = &self.otlp {
            let url = address(given.as_deref());
            let text = otlp(&[trace], &resource()).to_string();
            let headers = environment::text(environment::OTEL_EXPORTER_OTLP_HEADERS);
            wfhost::agents::post_json(&url, &pairs(headers), text, PATIENCE).await.map_err(|why| {
                Trouble::host("WF0824", format!("{url} did not accept the trace: {why}"))
                    .hint("name a collector that accepts OTLP over HTTP, usually http://HOST:4318")
            })?;
            printer::say(common, "Sent", &format!("{count} spans of {} as trace {id} to {url}", info.id));
        } else if common.output == Format::Text {
            printer::line(format!("trace {id}"));
            trace.spans.iter().for_each(|span| show(&trace, span));
        } else {
            printer::json(&otlp(&[trace], &resource()));
        }
        Ok(Exit::Done)
    }
}

/// A line for a span, below its parent.
fn show(trace: &Trace, span: &Span) {
    let mut depth = 0;
    let mut above = span.parent.as_ref();
    while let Some(parent) = above {
        depth += 1;
        above = trace.spans.iter().find(|span| span.id == *parent).and_then(|span| span.parent.as_ref());
    }
    let begin = trace.spans.first().map_or(span.from, |root| root.from);
    let failed = span.failed.as_ref().map(|(kind, _)| format!("  {kind}")).unwrap_or_default();
    printer::line(format!(
        "{}  {:>9}  {:>9}  {}{}{failed}",
        span.id,
        format!("+{}", spell_millis(span.from.since(begin))),
        spell_millis(span.to.since(span.from)),
        "  ".repeat(depth),
        span.name,
    ));
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
    }
}
