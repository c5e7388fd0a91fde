//! Reading the commits behind a cursor that one host has at a time.

use std::time::Duration;

use tokio::time::Instant;
use wfhost::owner::{Owner, is_dead, this_process};
use wfhost::store::{Advance, NewDelivery, Result, SharedStore};

/// A cursor is this host's for so long, in milliseconds, and for what it may do before it holds it anew. Whoever finds
/// it free then goes on.
const HOLD_MS: u64 = 10_000;
/// And is held anew so often.
const RENEW: Duration = Duration::from_secs(3);
/// One that somebody else has is asked for so often.
const ASK: Duration = Duration::from_secs(1);

/// A name that no other reader has, also in this process. It says which process it is, so that another one can
/// tell that it is dead.
pub(crate) fn holder() -> String {
    let random = wfhost::world::fresh_seed().unwrap_or_default();
    let hex: String = random[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let Owner { host, realm, pid, started } = this_process();
    format!("{hex} {pid} {started} {host} {realm}")
}

/// The process of a holder's name; none if it is not of this form.
fn process_of(holder: &str) -> Option<Owner> {
    let mut parts = holder.splitn(5, ' ').skip(1);
    let (pid, started) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(Owner { pid, started, host: parts.next()?.to_owned(), realm: parts.next()?.to_owned() })
}

/// A cursor, as far as this host has it.
#[derive(Debug)]
pub(crate) struct Reader {
    pub name: String,
    holder: String,
    hold_ms: u64,
    /// How far it was read; none while somebody else has it.
    pub place: Option<u64>,
    /// When it was held the last time, or asked for.
    asked: Option<Instant>,
}

impl Reader {
    pub fn new(name: String, holder: &str) -> Self {
        Self { name, holder: holder.to_owned(), hold_ms: HOLD_MS, place: None, asked: None }
    }

    /// The same for one who may be busy for so long between two times that it holds the cursor anew.
    pub fn busy_for(self, busy: Duration) -> Self {
        let busy_ms = u64::try_from(busy.as_millis()).unwrap_or(u64::MAX);
        Self { hold_ms: HOLD_MS.saturating_add(busy_ms), ..self }
    }

    /// Who this host is for the store.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Asks for the cursor, if it is not this host's and was not asked for just before.
    pub async fn hold(&mut self, store: &SharedStore) -> Result<()> {
        if self.place.is_some() || self.asked.is_some_and(|at| at.elapsed() < ASK) {
            return Ok(());
        }
        self.asked = Some(Instant::now());
        self.place = store.hold_cursor(&self.name, &self.holder, self.hold_ms).await?;
        if self.place.is_none() && self.free_of_the_dead(store).await? {
            self.place = store.hold_cursor(&self.name, &self.holder, self.hold_ms).await?;
        }
        Ok(())
    }

    /// Lets the cursor go for a process that died with it: its time need not pass. Nothing is known of processes of
    /// other machines. False if there is no such process.
    async fn free_of_the_dead(&self, store: &SharedStore) -> Result<bool> {
        let cursors = store.cursors().await?;
        let cursor = cursors.into_iter().find(|cursor| cursor.name == self.name);
        let holder = cursor.and_then(|cursor| cursor.holder);
        let Some(holder) = holder.filter(|holder| process_of(holder).is_some_and(|owner| is_dead(&owner)))
        else {
            return Ok(false);
        };
        // The place stays where it is.
        let let_go =
            Advance { name: self.name.clone(), holder, place: 0, hold_ms: 0, deliveries: Vec::new() };
        store.advance_cursor(let_go).await
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
        self.write(store, place, self.hold_ms, deliveries).await
    }

    /// The same, written down in any case.
    pub async fn keep(&mut self, store: &SharedStore, place: u64) -> Result<bool> {
        self.write(store, place, self.hold_ms, Vec::new()).await
    }

    /// Holds it on where it is. False if somebody else has it.
    pub async fn renew(&mut self, store: &SharedStore) -> Result<bool> {
        match self.place {
            Some(place) => self.keep(store, place).await,
            None => Ok(false),
        }
    }

    /// The same, if it was not held anew just before.
    pub async fn renew_if_due(&mut self, store: &SharedStore) -> Result<bool> {
        if self.place.is_some() && self.asked.is_some_and(|at| at.elapsed() < RENEW) {
            return Ok(true);
        }
        self.renew(store).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_holder_tells_its_process() {
        assert_ne!(holder(), holder());
        assert_eq!(process_of(&holder()), Some(this_process()));
        assert_eq!(process_of("1234-0011"), None);
    }

    #[tokio::test]
    async fn a_cursor_of_a_process_that_died_is_taken_at_once() {
        let store: SharedStore = std::sync::Arc::new(wfhost::store::MemStore::default());
        let mut child = std::process::Command::new("true").spawn().expect("a process");
        child.wait().expect("it ends");
        let Owner { host, realm, started, .. } = this_process();
        let dead = format!("0011 {} {started} {host} {realm}", child.id());
        assert!(is_dead(&process_of(&dead).expect("a process")));
        // It would be free in an hour.
        store.hold_cursor("s", &dead, 3_600_000).await.unwrap();
        let mut reader = Reader::new("s".to_owned(), &holder());
        reader.hold(&store).await.unwrap();
        assert_eq!(reader.place, Some(0));
        // One that lives, and one of a machine of which nothing is known, keep theirs.
        for name in [holder(), format!("0011 1 1 elsewhere {}", realm.replace(' ', "-"))] {
            store.hold_cursor("t", &name, 3_600_000).await.unwrap();
            let mut reader = Reader::new("t".to_owned(), "other");
            reader.hold(&store).await.unwrap();
            assert_eq!(reader.place, None, "{name}");
            store.drop_cursor("t").await.unwrap();
        }
    }
}
