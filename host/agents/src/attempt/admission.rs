//! Waiting until an attempt may be made: for slots, for the budget, for a turn at the provider, for the lease.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use wfhost_core::{Failure, FailureKind, TURN_AWAITED, TURN_TAKEN, TranscriptKind};
use wfhost_schema::Schema;

use super::{Attempt, AttemptEnd};
use crate::CallFailure;
use crate::gate::{Permit, Place, Slot};
use crate::ledger::{InQueue, Reservation, SetAside};
use crate::observer::CallPhase;
use crate::recorder::Recorder;

/// Whoever waits longer for a turn says so in the transcript.
const SEEN_WAITING: Duration = Duration::from_millis(200);

/// A longer wait for a quota is recorded, so that the run need not be kept in memory.
const POSTPONE_FROM_MS: u64 = 5_000;

/// Whether an attempt is made, which is decided once: by itself, when nothing keeps it from the provider any more, or
/// before that by whoever takes it back.
#[derive(Clone, Debug, Default)]
pub struct Admission(Arc<AtomicU8>);

impl Admission {
    const OPEN: u8 = 0;
    const ADMITTED: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// That of what waits for nothing.
    pub fn granted() -> Self {
        Self(Arc::new(AtomicU8::new(Self::ADMITTED)))
    }

    /// Whether nothing was decided yet.
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::OPEN
    }

    /// The attempt is made; false if it was taken back.
    pub fn admit(&self) -> bool {
        self.decide(Self::ADMITTED) != Self::WITHDRAWN
    }

    /// The attempt is taken back; false if it is made, or was.
    pub fn withdraw(&self) -> bool {
        self.decide(Self::WITHDRAWN) != Self::ADMITTED
    }

    /// What was decided before.
    fn decide(&self, what: u8) -> u8 {
        let decided = self.0.compare_exchange(Self::OPEN, what, Ordering::AcqRel, Ordering::Acquire);
        decided.unwrap_or_else(|before| before)
    }
}

impl Attempt {
    /// Waits until the call may be made, and takes up what it begins with. It has to be made at once then: the run is
    /// ours at this moment. Gives what its answer is compared with, too.
    pub(super) async fn admission(
        &mut self,
        set_aside: &mut Option<Arc<Reservation>>,
    ) -> Result<(Permit, Option<Arc<Schema>>), AttemptEnd> {
        let slots: Arc<[(Slot, u32)]> = std::mem::take(&mut self.slots).into();
        let recorder = self.recorder.clone();
        loop {
            let waits = self.in_phase(CallPhase::Waiting);
            let (permit, reservation) = seen_waiting(&recorder, self.wait_for_turn(&slots)).await?;
            *set_aside = reservation.map(Arc::new);
            drop(waits);
            if let Some(Err(failure)) = set_aside.as_ref().map(|aside| self.keeps_to(aside)) {
                return Err(self.failed(failure));
            }
            let validator = match self.wants_more_than_its_request() {
                true => self.take_up().boxed().await.map_err(|failure| self.failed(failure))?,
                false => None,
            };
            if self.lease.is_held() {
                if !self.admission.admit() {
                    // Whoever took it back says so, and ends this.
                    std::future::pending::<()>().await;
                }
                self.used.lock().aside.clone_from(set_aside);
                return Ok((permit, validator));
            }
            // Whoever ends the session gives its slots to others.
            drop((permit, set_aside.take()));
            self.lay_down();
            self.time.wait(self.lease.held()).await.map_err(|late| self.failed(late))?;
        }
    }

    /// Waits for slots, for the budget and for a turn at the provider. Who has
    /// to wait for one of them gives back the others, so that nothing lies idle, and
    /// holds up nobody who waits for these. A long wait for a turn ends the attempt;
    /// the turn is kept.
    async fn wait_for_turn(
        &self,
        slots: &Arc<[(Slot, u32)]>,
    ) -> Result<(Permit, Option<Reservation>), AttemptEnd> {
        let name = self.provider.name();
        let rate = self.policy.rate(name);
        // Others are told it only where they share a limit.
        let who: Arc<str> = match slots.iter().any(|(slot, _)| matches!(slot, Slot::Fleet(_))) {
            true => format!("{}#{}", self.call.run, self.call.step).into(),
            false => Arc::default(),
        };
        let mut in_queue = self.gate.ledger.queue();
        let mut place: Option<Place> = None;
        let too_late = |late: CallFailure| self.failed(late);
        loop {
            let permit = self.enter(slots, &who, &mut in_queue).await.map_err(too_late)?;
            // What the calls before it consumed is known only now.
            let reservation = match in_queue.set_aside(&self.purse, || self.expected()).await {
                Ok(SetAside::Free) => None,
                Ok(SetAside::For(reservation)) => Some(reservation),
                Ok(SetAside::Wait(settled)) => {
                    drop(permit);
                    self.time.wait(settled.notified()).await.map_err(too_late)?;
                    continue;
                }
                Err(short) => return Err(self.failed(Failure::from(short).into())),
            };
            if place.is_none() && self.gate.has_turns(name, rate) {
                let step = (&self.call.run, self.call.step, self.epoch);
                place = Some(self.gate.place(name, rate, step, &self.lease));
            }
            if place.as_ref().is_some_and(Place::may_be_of_another) {
                // The turn is taken from nobody: whoever has the run passes with it.
                drop((permit, reservation));
                self.time.wait(self.lease.held()).await.map_err(too_late)?;
                continue;
            }
            let now = self.world.now();
            let passed = match &mut place {
                Some(place) => self.time.wait(place.pass(now)).await.map_err(too_late)?,
                None => Ok(()),
            };
            let Err(until) = passed else { return Ok((permit, reservation)) };
            drop((permit, reservation));
            if self.time.deadline().is_some_and(|deadline| until >= deadline) {
                return Err(self.failed(CallFailure::new(
                    FailureKind::TimedOut,
                    format!("the rate limit of {name} allows no attempt within the time limit of the step"),
                )));
            }
            let wait = until.since(now);
            if wait > POSTPONE_FROM_MS {
                if let Some(place) = place {
                    place.keep();
                }
                let whose = if rate.of_fleet { " (fleet)" } else { "" };
                let reason = format!("waiting for quota of {name}{whose}");
                return Err(AttemptEnd::Postponed { until, reason });
            }
            tokio::time::sleep(Duration::from_millis(wait.max(1))).await;
        }
    }

    /// Waits for slots; if that takes time, those behind it that wait for the budget go on meanwhile.
    async fn enter(
        &self,
        slots: &Arc<[(Slot, u32)]>,
        who: &Arc<str>,
        in_queue: &mut InQueue,
    ) -> Result<Permit, CallFailure> {
        let mut entering = pin!(self.gate.enter(slots, who));
        if let Some(permit) = entering.as_mut().now_or_never() {
            return Ok(permit);
        }
        in_queue.step_aside();
        self.time.wait(entering).await
    }
}

/// Waits for a turn. A wait that is not over at once is recorded while it lasts, so that whoever looks at the run
/// can tell it from work.
async fn seen_waiting<T, E>(recorder: &Recorder, turn: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let mut turn = pin!(turn);
    // Most get it at once, and need no timer.
    if let Poll::Ready(turn) = poll_fn(|context| Poll::Ready(turn.as_mut().poll(context))).await {
        return turn;
    }
    if let Either::Left((turn, _)) = select(turn.as_mut(), pin!(tokio::time::sleep(SEEN_WAITING))).await {
        return turn;
    }
    recorder.note(TranscriptKind::Queue, TURN_AWAITED.to_owned());
    let turn = turn.await;
    if turn.is_ok() {
        recorder.note(TranscriptKind::Queue, TURN_TAKEN.to_owned());
    }
    turn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_made_or_taken_back() {
        let made = Admission::default();
        assert!(made.is_open() && made.admit() && !made.is_open() && !made.withdraw() && made.admit());
        let taken_back = Admission::default();
        assert!(
            taken_back.withdraw() && !taken_back.is_open() && !taken_back.admit() && taken_back.withdraw()
        );
        assert!(!Admission::granted().withdraw());
    }
}
