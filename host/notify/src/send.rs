//! Tries deliveries until they are there, or given up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use wfhost::agents::{Poster, hide_credentials};
use wfhost::store::{Delivery, Result, Settled, SharedStore, StoreError};
use wfhost::world::environment;
use wfhost_config::{Sink, SinkTo};
use wfhost_core::Timestamp;

use crate::program::run_program;
use crate::signature::{sign, signing_key};
use crate::{LOOK_EVERY, Report, Told};

/// Tries of one sink that are under way at the same time.
const PARALLEL: usize = 4;
/// Whoever has not said what became of a try so long after its time was over has died, in milliseconds.
const GRACE_MS: u64 = 15_000;
/// How long is waited after each try that failed, in milliseconds; the last holds for all further ones.
const DELAYS_MS: [u64; 8] = [5_000, 30_000, 120_000, 600_000, 1_800_000, 3_600_000, 10_800_000, 21_600_000];
/// A message that waited long for a host is tried so often all the same before it is given up: the receiver may have been
/// away for just a moment.
const FEWEST_TRIES: u32 = 6;
/// How long is waited when the store does not answer.
const REST: Duration = Duration::from_secs(2);
/// What is kept of why a try failed, in bytes.
const SAID_BYTES: usize = 500;

/// How a try ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tried {
    Delivered,
    /// It is to be tried again, not before that time.
    Failed {
        said: String,
        not_before_ms: Option<u64>,
    },
    /// The receiver wants nothing any more.
    Gone {
        said: String,
    },
}

/// Sends one message. `now`: for the signature.
pub async fn try_sink(
    poster: &Poster,
    sink: &Sink,
    message: &str,
    event: &str,
    run: &str,
    body: &str,
    now: Timestamp,
) -> Tried {
    let failed = |said: String| Tried::Failed { said, not_before_ms: None };
    let within = Duration::from_millis(sink.timeout_ms);
    match &sink.to {
        SinkTo::Url { url, secrets } => {
            let mut keys = Vec::new();
            for (number, secret) in secrets.iter().enumerate() {
                match secret.read().map_err(|error| error.to_string()).and_then(|s| signing_key(s.expose())) {
                    Ok(key) => keys.push(key),
                    // The one before may be gone already.
                    Err(_) if number > 0 => {}
                    Err(why) => return failed(format!("the secret is not available: {why}")),
                }
            }
            let at = now.0 / 1_000;
            let mut headers = vec![
                ("webhook-id".to_owned(), message.to_owned()),
                ("webhook-timestamp".to_owned(), at.to_string()),
            ];
            if !keys.is_empty() {
                headers.push(("webhook-signature".to_owned(), sign(&keys, message, at, body)));
            }
            match poster.post(url, &headers, body.as_bytes().to_vec(), within).await {
                Err(why) => failed(hide_credentials(&why)),
                Ok(posted) => match posted.status {
                    200..=299 => Tried::Delivered,
                    status => {
                        let said = match posted.said.as_str() {
                            "" => format!("it answered {status}"),
                            said => format!("it answered {status}: {}", hide_credentials(said)),
                        };
                        match status {
                            410 => Tried::Gone { said },
                            _ => Tried::Failed { said, not_before_ms: posted.retry_after_ms },
                        }
                    }
                },
            }
        }
        SinkTo::Program { argv, directory, env } => {
            let told =
                [(environment::MESSAGE, message), (environment::EVENT, event), (environment::RUN, run)];
            match run_program(argv, directory, env, &told, body, within).await {
                Ok(()) => Tried::Delivered,
                Err(why) => failed(hide_credentials(&why)),
            }
        }
    }
}

/// How long is waited after so many tries. A little less or more for each message, so that those that failed
/// together do not come together again.
fn delay_ms(tries: u32, message: &str) -> u64 {
    let usual = DELAYS_MS[(tries.max(1) as usize - 1).min(DELAYS_MS.len() - 1)];
    let chance = u64::from(blake3::hash(format!("{message} {tries}").as_bytes()).as_bytes()[0]);
    usual - usual / 10 + usual / 5 * chance / 255
}

/// Whether a message is given up that is so old, after so many tries, if the next one would be in so long.
fn is_over(give_up_ms: u64, age_ms: u64, tries: u32, in_ms: u64) -> bool {
    // As many as it would have had from the beginning.
    let usual = DELAYS_MS.iter().scan(0, |elapsed: &mut u64, delay| {
        *elapsed += delay;
        Some(*elapsed)
    });
    let fewest = 1 + usual.take_while(|elapsed| *elapsed <= give_up_ms).count() as u32;
    let had_its_chance = age_ms <= give_up_ms || tries >= fewest.min(FEWEST_TRIES);
    age_ms.saturating_add(in_ms) > give_up_ms && had_its_chance
}

/// Tries the deliveries of one sink.
pub(crate) struct Sender {
    store: SharedStore,
    sink: Arc<Sink>,
    report: Arc<dyn Report>,
    poster: Arc<Poster>,
}

impl Sender {
    pub fn new(store: &SharedStore, sink: &Sink, report: &Arc<dyn Report>) -> Self {
        Self {
            store: Arc::clone(store),
            sink: Arc::new(sink.clone()),
            report: Arc::clone(report),
            poster: Arc::default(),
        }
    }

    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut tries = JoinSet::new();
        loop {
            let mut wait = LOOK_EVERY;
            if tries.len() < PARALLEL {
                match self.begin(&mut tries).await {
                    // What is due behind them is looked for when one of them has ended.
                    Ok(_) => {}
                    Err(_) => wait = REST,
                }
            }
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break,
                Some(_) = tries.join_next() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        while tries.join_next().await.is_some() {}
    }

    /// Tries all that is due now, and gives of how many messages it did so and how many of them are there.
    pub async fn once(&self) -> Result<(u64, u64), StoreError> {
        // Messages that were tried, and whether they are there.
        let mut tried: BTreeMap<u64, bool> = BTreeMap::new();
        let mut tries = JoinSet::new();
        let mut goes_on = true;
        loop {
            if goes_on {
                let begun = self.begin(&mut tries).await?;
                // What was due first comes first: behind one that failed and is due again comes nothing else.
                goes_on = !begun.is_empty() && begun.iter().all(|number| !tried.contains_key(number));
                tried.extend(begun.into_iter().map(|number| (number, false)));
            }
            match tries.join_next().await {
                // One of which nothing is known is not there.
                Some(Err(_)) => {}
                Some(Ok((number, is_there))) => _ = tried.insert(number, is_there),
                None => {
                    let there = tried.values().filter(|is_there| **is_there).count();
                    return Ok((tried.len() as u64, there as u64));
                }
            }
        }
    }

    /// Begins to try what is due, as much as there is room for, and gives the numbers.
    async fn begin(&self, tries: &mut JoinSet<(u64, bool)>) -> Result<Vec<u64>, StoreError> {
        let room = PARALLEL.saturating_sub(tries.len());
        if room == 0 {
            return Ok(Vec::new());
        }
        let hold = self.sink.timeout_ms.saturating_add(GRACE_MS);
        let due = self.store.claim_deliveries(&self.sink.id, hold, room).await?;
        let numbers = due.iter().map(|delivery| delivery.number).collect();
        for delivery in due {
            let (store, sink, report) =
                (Arc::clone(&self.store), Arc::clone(&self.sink), Arc::clone(&self.report));
            let poster = Arc::clone(&self.poster);
            tries.spawn(async move {
                (delivery.number, attempt(&store, &sink, &report, &poster, delivery).await)
            });
        }
        Ok(numbers)
    }
}

/// One try, and what becomes of it. True if the message is there.
async fn attempt(
    store: &SharedStore,
    sink: &Sink,
    report: &Arc<dyn Report>,
    poster: &Poster,
    delivery: Delivery,
) -> bool {
    let Delivery { number, what, created_at, tries, .. } = delivery;
    let now = store.now();
    let tried = try_sink(poster, sink, &what.message, &what.event, what.run.as_str(), &what.body, now).await;
    let cut = |said: String| said[..said.floor_char_boundary(SAID_BYTES)].to_owned();
    let (outcome, settled) = match tried {
        Tried::Delivered => ("delivered", Settled::Delivered),
        Tried::Gone { said } => ("given-up", Settled::GivenUp { said: cut(said) }),
        Tried::Failed { said, not_before_ms } => {
            let in_ms = delay_ms(tries, &what.message).max(not_before_ms.unwrap_or(0));
            let age = store.now().since(created_at);
            match is_over(sink.give_up_ms, age, tries, in_ms) {
                true => ("given-up", Settled::GivenUp { said: cut(said) }),
                false => ("again", Settled::Again { in_ms, said: cut(said) }),
            }
        }
    };
    let said = match &settled {
        Settled::Delivered => None,
        Settled::Again { said, .. } | Settled::GivenUp { said } => Some(said.as_str()),
    };
    report.told(Told::Delivery {
        sink: &sink.name,
        event: &what.event,
        run: &what.run,
        message: &what.message,
        tries,
        outcome,
        said,
    });
    // If the store does not take it, it is tried again when its time is over.
    if let Err(error) = store.settle_delivery(number, tries, settled).await {
        report.told(Told::Failed { what: "sinks", why: &error.to_string() });
    }
    outcome == "delivered"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody delivered anything for a week, or the clock was ahead for a moment.
    #[test]
    fn a_message_that_waited_long_for_a_host_is_tried_more_than_once() {
        const DAY: u64 = 86_400_000;
        let over = |give_up, age, tries| is_over(give_up, age, tries, delay_ms(tries, "m"));
        for tries in 1..FEWEST_TRIES {
            assert!(!over(3 * DAY, 7 * DAY, tries), "{tries}");
        }
        assert!(over(3 * DAY, 7 * DAY, FEWEST_TRIES));
        // What is to be given up soon is, as if it had not waited: tried at once, after 5 and 30 s.
        assert!(!over(60_000, DAY, 1) && !over(60_000, DAY, 2) && over(60_000, DAY, 3));
        assert!(over(1_000, 0, 1) && over(1_000, DAY, 1));
        // What did not wait is given up in time, whatever the receiver wishes.
        assert!(is_over(60_000, 50_000, 1, DAY) && !is_over(3 * DAY, DAY, 9, DAY));
    }

    #[test]
    fn delays_grow_and_differ_a_little() {
        let mut before = 0;
        for tries in 1..=8 {
            let delay = delay_ms(tries, "m");
            assert!(delay > before, "{tries}: {delay}");
            before = delay;
        }
        assert!(delay_ms(100, "m").abs_diff(21_600_000) <= 2_160_000);
        let some: std::collections::BTreeSet<_> = (0..50).map(|n| delay_ms(1, &n.to_string())).collect();
        assert!(some.len() > 20 && some.iter().all(|ms| (4_500..=5_500).contains(ms)), "{some:?}");
    }
}
