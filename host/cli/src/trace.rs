//! `wfhost trace`

use wfhost_core::{counted, spell_millis};
use wfhost_notify::Otlp;
use wfhost_view::{Span, Trace, otlp};

use super::diagnostic::{Exit, UserError};
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

impl TraceVerb {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let journal = read_journal(store.as_ref(), &info.id).await?;
        let trace = Trace::of(&info, &journal, self.content);
        let (id, count) = (trace.id.clone(), trace.spans.len());
        if let Some(given) = &self.otlp {
            let to = Otlp::from_environment(given.as_deref()).map_err(bad_collector)?;
            let url = to.place();
            to.send_once(&[trace]).await.map_err(|why| {
                UserError::host("WF0824", format!("{url} did not accept the trace: {why}"))
                    .hint("name a collector that accepts OTLP over HTTP, usually http://HOST:4318")
            })?;
            printer::say(
                common,
                "Sent",
                &format!("{} of {} as trace {id} to {url}", counted(count, "span"), info.id),
            );
        } else if common.output == Format::Text {
            printer::line(format!("trace {id}"));
            trace.spans.iter().for_each(|span| show(&trace, span));
        } else {
            let who = Otlp::from_environment(None).map_err(bad_collector)?;
            printer::json(&otlp(&[trace], who.resource()));
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

/// A collector that cannot be used.
pub(super) fn bad_collector(why: String) -> UserError {
    UserError::usage("WF0008", why)
        .hint("docs/environment.md has all variables; `http://HOST:4318` is the usual address")
}
