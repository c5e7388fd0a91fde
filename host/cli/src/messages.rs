//! `wfhost messages`

use wfhost::clock::rfc3339;
use wfhost_view::{MessageView, MessagesView};

use super::diagnostic::{Exit, UserError};
use super::place::{count_arg, find_run};
use super::{Common, Format, printer};

/// Show the messages that a run posted, in order
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost messages @last
  wfhost messages run_01k9 --after 7 --limit 20 -o jsonl")]
pub(crate) struct Messages {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
    /// Only messages after this one
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// The maximum number of messages
    #[arg(short = 'n', long, default_value_t = 100, value_parser = count_arg)]
    limit: usize,
}

impl Messages {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let run = find_run(store.as_ref(), &self.run).await?.id;
        let messages = store.messages(&run, self.after, self.limit).await?;
        match common.output {
            Format::Json => {
                printer::json(&MessagesView::new(&run, self.after, &messages));
            }
            Format::Jsonl => messages.iter().for_each(|message| printer::json(&MessageView::of(message))),
            Format::Text => messages.iter().for_each(|message| {
                let at = rfc3339(message.at);
                printer::line(format!("{:>5}  {at}  {}  {}", message.number, message.name, message.payload));
            }),
        }
        Ok(Exit::Done)
    }
}
