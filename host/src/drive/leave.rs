//! Leaving a run: nothing begins any more, and what calls under way answer is committed.

use std::time::Duration;

use tokio::time::Instant;
use wfhost_core::course::{Phase, Rest, Sight};
use wfhost_store::{Next, StoreError};

use super::{Done, DriveError, Driven, Driver};

/// How long a program that repeats its journal is waited for by a host that leaves its run at once, if calls have
/// something to record.
const COME_THROUGH_WITHIN: Duration = Duration::from_secs(2);

impl Driver<'_> {
    /// Whether the calls of an earlier drive have something to record, and the program may come through in time.
    pub(super) fn is_worth_waiting_for(&mut self) -> bool {
        let now = Instant::now();
        self.calls.has_news() && now < *self.leave_by.get_or_insert(now + COME_THROUGH_WITHIN)
    }

    /// Commits what happened to a run that is to be left. What it has asked for and is not under way is not begun, and
    /// is recorded as not made: so it counts as no attempt, and may be made even if it may be made only once.
    pub(super) async fn commit_at_rest(&mut self) -> Result<(), DriveError> {
        let phase = self.course.phase();
        let is_paused = phase == Phase::Resting(Rest::Paused);
        let why = match is_paused {
            true => "the run was paused before the call was made",
            false => "the host left the run before the call was made",
        };
        if self.calls.has_waiting() {
            // The next host goes on at once, and finds their turns.
            if !is_paused {
                self.calls.lease.leave();
            }
            self.calls.withdraw(|| Done::NotMade(why));
            self.count_dropped().await;
            self.calls.lease.set(self.drive.control.lease.clone());
        }
        // Whoever leaves at once takes them when those that are made are stopped.
        if phase != Phase::Resting(Rest::Now) {
            self.take_ended_calls()?;
        }
        let now = self.now();
        let dropped = {
            let machine = &mut self.shared.lock().machine;
            machine.put_off_starts(why, now);
            machine.take_aborts()
        };
        self.append(Next::Go, Vec::new()).await?;
        dropped.iter().for_each(|step| self.calls.abort(*step));
        self.give_back_turns_of(dropped).await;
        Ok(())
    }

    /// Leaves the run as it is.
    pub(super) async fn leave(&mut self, rest: Rest, sight: &Sight) -> Result<Driven, DriveError> {
        // What has been answered is paid for, and is committed with this.
        self.calls.halt();
        self.take_last_answers(sight).await?;
        if sight.live {
            self.count_dropped().await;
        }
        self.calls.gone().await;
        let release = Next::Release { waiting: None, trouble: None };
        if !sight.live {
            // Nothing of this execution counts.
            self.append_bare(release).await?;
        } else if rest == Rest::Paused {
            if !self.append_always(Next::Pause { if_asked: true }, Vec::new()).await?.due {
                return Ok(Driven::Paused);
            }
            // Somebody wants it to go on, which begins with what is committed.
            return Err(StoreError::Raced { run: self.drive.run.clone() }.into());
        } else if !self.course.may_park(sight)
            // Else the next host does not even have to look at it.
            || self.append_always(Next::Park(self.waiting()), Vec::new()).await?.due
        {
            self.append_always(release, Vec::new()).await?;
        }
        Ok(Driven::Left)
    }

    /// Takes the answers that came and were not looked at, and commits them but for the last ones.
    async fn take_last_answers(&mut self, sight: &Sight) -> Result<(), DriveError> {
        // What came while the program repeated its journal is for the next host, if that asks for it.
        if !sight.live || self.course.untouched() {
            return Ok(());
        }
        loop {
            while self.has_room_for_answers()
                && let Some((attempt, done)) = self.calls.take()
            {
                match done {
                    // The next host does it again.
                    Done::Unknown(_) => {}
                    done => self.done(attempt, done)?,
                }
            }
            if self.calls.len() == 0 {
                return Ok(());
            }
            self.append(Next::Go, Vec::new()).await?;
        }
    }
}
