//! Reading the commits behind a cursor that one host has at a time.

use std::time::Duration;

use tokio::time::Instant;
use wfhost::store::{Advance, NewDelivery, Result, SharedStore};

/// A cursor is this host's for so long, in milliseconds. Whoever finds it free then goes on.
const HOLD_MS: u64 = 10_000;
/// And is held anew so often.
const RENEW: Duration = Duration::from_secs(3);
/// One that somebody else has is asked for so often.
const ASK: Duration = Duration::from_secs(1);

/// A name for this process that no other one has.
pub(crate) fn holder() -> String {
    let random = wfhost::world::fresh_seed().unwrap_or_default();
    let hex: String = random[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{hex}", std::process::id())
}

/// A cursor, as far as this host has it.
#[derive(Debug)]
pub(crate) struct Reader {
    pub name: String,
    holder: String,
    /// How far it was read; none while somebody else has it.
    pub place: Option<u64>,
    /// When it was held the last time, or asked for.
    asked: Option<Instant>,
}

impl Reader {
    pub fn new(name: String, holder: &str) -> Self {
        Self { name, holder: holder.to_owned(), place: None, asked: None }
    }

    /// Asks for the cursor, if it is not this host's and was not asked for just before.
    pub async fn hold(&mut self, store: &SharedStore) -> Result<()> {
        if self.place.is_some() || self.asked.is_some_and(|at| at.elapsed() < ASK) {
            return Ok(());
        }
        self.asked = Some(Instant::now());
        self.place = store.hold_cursor(&self.name, &self.holder, HOLD_MS).await?;
        Ok(())
    }

    /// It was read up to `place`, and this follows from it. Written down at once if anything does, else now
    /// and then: whoever reads that again finds again that nothing follows. False if somebody else has it.
    pub async fn read_to(
        &mut self,
        store: &SharedStore,
        place: u64,
        deliveries: Vec<NewDelivery>,
    ) -> Result<bool> {
        let due = self.asked.is_none_or(|at| at.elapsed() >= RENEW);
        if deliveries.is_empty() && !due {
            self.place = Some(place);
            return Ok(true);
        }
        self.write(store, place, HOLD_MS, deliveries).await
    }

    /// The same, written down in any case.
    pub async fn keep(&mut self, store: &SharedStore, place: u64) -> Result<bool> {
        self.write(store, place, HOLD_MS, Vec::new()).await
    }

    async fn write(
        &mut self,
        store: &SharedStore,
        place: u64,
        hold_ms: u64,
        deliveries: Vec<NewDelivery>,
    ) -> Result<bool> {
        let (name, holder) = (self.name.clone(), self.holder.clone());
        let kept = store.advance_cursor(Advance { name, holder, place, hold_ms, deliveries }).await?;
        self.asked = Some(Instant::now());
        self.place = kept.then_some(place);
        Ok(kept)
    }

    /// Lets it go: another host may go on at once.
    pub async fn leave(&mut self, store: &SharedStore) {
        if let Some(place) = self.place.take() {
            // Else it is free when its time is over.
            let _ = self.write(store, place, 0, Vec::new()).await;
            self.place = None;
        }
    }
}
