//! What is told to others: how far the commits were read for them, and what was not delivered yet.

use super::*;

/// The event of deliveries that tell that a run is refused.
pub const REFUSED_EVENT: &str = "run.refused";

/// How far the commits were read by somebody who tells others of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// Who reads.
    pub name: String,
    /// The place of the last commit that was read.
    pub place: u64,
    /// When that was written down last.
    pub at: Timestamp,
    /// Whether a host reads behind it now.
    pub is_held: bool,
    /// Who took it last, and has not let it go.
    pub holder: Option<String>,
}

/// How far a cursor goes on.
#[derive(Clone, PartialEq, Debug)]
pub struct Advance {
    pub name: String,
    /// Who has it.
    pub holder: String,
    /// It never goes back.
    pub place: u64,
    /// It stays the holder's for so long; 0 lets it go.
    pub hold_ms: u64,
    /// What is to be delivered because of what was read.
    pub deliveries: Vec<NewDelivery>,
}

/// Something that is to be delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewDelivery {
    /// Where to.
    pub sink: String,
    /// By which the receiver knows that it came before. A sink has each once.
    pub message: String,
    /// What happened, as a word.
    pub event: String,
    pub run: RunId,
    pub body: String,
}

/// What became of a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeliveryState {
    /// It is to be tried, again if it was tried before.
    Pending,
    Delivered,
    /// It is not tried any more.
    GivenUp,
}

impl DeliveryState {
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::GivenUp];

    /// The word that is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::GivenUp => "given-up",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The number that is stored.
    pub fn number(self) -> i64 {
        self as i64
    }

    pub fn of_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == number)
    }
}

/// A delivery, and how it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Greater for later ones; given by the store.
    pub number: u64,
    pub what: NewDelivery,
    pub created_at: Timestamp,
    pub state: DeliveryState,
    /// How often it was tried; the try that is under way included.
    pub tries: u32,
    /// When it is tried next, if it is pending. While somebody tries it: when he has lost it.
    pub next_at: Option<Timestamp>,
    /// When it became what it is, if it is not pending.
    pub ended_at: Option<Timestamp>,
    /// Why the last try failed.
    pub said: Option<String>,
}

/// What became of a try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settled {
    Delivered,
    Again { in_ms: u64, said: String },
    GivenUp { said: String },
}

/// Which deliveries to list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeliveryFilter {
    pub sink: Option<String>,
    pub state: Option<DeliveryState>,
    pub run: Option<RunId>,
    /// Only those with this id of the message.
    pub message: Option<String>,
    /// Only those with a smaller number.
    pub before: Option<u64>,
}

/// How a sink is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SinkLoad {
    pub sink: String,
    pub pending: u64,
    pub delivered: u64,
    pub given_up: u64,
    /// How long the oldest that is pending has been so, in milliseconds.
    pub oldest_ms: Option<u64>,
}

/// A delivery is tried again after so long at the latest, in milliseconds: receivers may ask for a day. What rests for
/// longer was put off by a clock that was ahead.
pub const LONGEST_REST_MS: u64 = 90_000_000;
/// And a cursor is held for so long at most.
pub const LONGEST_HOLD_MS: u64 = 3_600_000;

/// Telling others of what was committed. A cursor and what follows from the commits before it change
/// together: whoever goes on tells nothing twice that was told, and leaves nothing out. Costs those that
/// commit nothing.
pub trait Outbox: Send + Sync {
    /// Makes `holder` the one who reads behind a cursor, for so long, and gives its place. None if
    /// somebody else has it. One that is not there yet is made, at the last commit there is.
    fn hold_cursor<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        hold_ms: u64,
    ) -> BoxFuture<'a, Result<Option<u64>>>;

    /// Moves a cursor, and keeps what is to be delivered, if its sink does not have that already. False,
    /// and nothing is changed, if somebody else has the cursor.
    fn advance_cursor(&self, advance: Advance) -> BoxFuture<'_, Result<bool>>;

    /// All cursors, by name.
    fn cursors(&self) -> BoxFuture<'_, Result<Vec<Cursor>>>;

    /// Removes a cursor and all deliveries to the sink of its name. False if there was neither.
    fn drop_cursor<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>>;

    /// Keeps what is to be delivered, if its sink does not have that already. Gives how many were new.
    fn put_deliveries(&self, deliveries: Vec<NewDelivery>) -> BoxFuture<'_, Result<u64>>;

    /// Takes up to `limit` deliveries to a sink that are to be tried now, those that were due first. Whoever
    /// has not settled one after `hold_ms` has lost it: it is due again.
    fn claim_deliveries<'a>(
        &'a self,
        sink: &'a str,
        hold_ms: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Delivery>>>;

    /// Records what became of the try of that number. A failure is not recorded if somebody else tries it by
    /// now. False if nothing was changed.
    fn settle_delivery(&self, number: u64, tries: u32, settled: Settled) -> BoxFuture<'_, Result<bool>>;

    /// Deliveries, the latest first.
    fn deliveries(&self, filter: DeliveryFilter, limit: usize) -> BoxFuture<'_, Result<Vec<Delivery>>>;

    /// Makes deliveries due that are pending, or were delivered or given up, as if they had not been tried.
    /// Gives how many.
    fn redeliver(&self, numbers: Vec<u64>) -> BoxFuture<'_, Result<u64>>;

    /// How all sinks are doing that have deliveries, by name.
    fn sink_loads(&self) -> BoxFuture<'_, Result<Vec<SinkLoad>>>;

    /// Removes deliveries that ended before that time. Gives how many. Those that tell that a run is refused stay as
    /// long as it is: it is told because of its state, so nothing else says that it was told.
    fn delete_old_deliveries(&self, before: Timestamp) -> BoxFuture<'_, Result<u64>>;
}
