//! `wfhost state`

use wfhost::clock::rfc3339;
use wfhost_view::PublishedView;

use super::diagnostic::{Exit, UserError};
use super::place::find_run;
use super::{Common, Format, printer};

/// Show what a run published
///
/// Programs publish values under keys. They can be read at any time, also while the
/// run waits and after it has ended.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost state @last
  wfhost state run_01k9 progress
  wfhost state run_01k9 progress --history -o jsonl")]
pub(crate) struct State {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
    /// Only the value of this key, as JSON
    key: Option<String>,
    /// Also show previous values, oldest first
    #[arg(long)]
    history: bool,
}

impl State {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let run = find_run(store.as_ref(), &self.run).await?.id;
        let (key, all) = (self.key.as_deref(), usize::MAX >> 1);
        let published = match self.history {
            true => store.published(&run, key, None, all).await?,
            false => store.latest(&run, key, None, all).await?,
        };
        if let (Some(key), true) = (&self.key, published.is_empty()) {
            let known: Vec<_> = store.state(&run).await?.into_iter().map(|(key, _)| key).collect();
            let trouble = UserError::usage("WF0512", format!("{run} has published nothing as `{key}`"));
            return Err(match known.as_slice() {
                [] => trouble.hint("it has published nothing at all"),
                known => trouble.hint(format!("it has published {}", known.join(", "))),
            });
        }
        for published in published {
            match (common.output, &self.key, self.history) {
                (Format::Json | Format::Jsonl, ..) => printer::json(&PublishedView::of(&run, &published)),
                (Format::Text, Some(_), false) => printer::value(&published.value),
                (Format::Text, _, false) => {
                    printer::line(format!("{} = {}", published.key, published.value));
                }
                (Format::Text, _, true) => {
                    let at = rfc3339(published.at);
                    printer::line(format!("{at}  {} = {}", published.key, published.value));
                }
            }
        }
        Ok(Exit::Done)
    }
}
