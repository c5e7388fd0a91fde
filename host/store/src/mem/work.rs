//! Claims, and what wakes those who wait.

use super::*;
use crate::claims::{Fitting, share_of_new, that_fit};

impl Work for MemStore {
    fn claim<'a>(
        &'a self,
        session: SessionId,
        run: &'a RunId,
        how: ClaimHow,
    ) -> BoxFuture<'a, Result<Claimed>> {
        self.change(|data| {
            data.check_session(session)?;
            let Some(found) = data.run(run) else { return Ok(Claimed::NoSuchRun) };
            let info = &found.info;
            let reopens =
                how == ClaimHow::Reopen && matches!(info.state, RunState::Failed | RunState::Cancelled);
            if info.state.is_final() && !reopens {
                return Ok(Claimed::Ended);
            }
            match found.session {
                Some(holder) if holder == session || how == ClaimHow::Seize => {}
                Some(holder) => match data.session(holder, self.clock.as_ref()) {
                    Some(Session { id: session, owner, left_ms }) if left_ms > 0 => {
                        return Ok(Claimed::Held { session, owner, left_ms });
                    }
                    _ => drop(data.fence(holder)),
                },
                None if how == ClaimHow::Due && info.due_at.is_none_or(|due| due > self.clock.now()) => {
                    return Ok(Claimed::NotDue);
                }
                None => {}
            }
            let id = MessageId(data.inbox + 1);
            if let Some(found) = data.run_mut(run) {
                match how {
                    ClaimHow::Asked | ClaimHow::Reopen => _ = found.drop_pauses(),
                    ClaimHow::AsItIs | ClaimHow::Seize if found.info.state == RunState::Paused => {
                        found.take(id, self.clock.now(), MessageBody::Pause);
                        data.inbox = id.0;
                    }
                    ClaimHow::AsItIs | ClaimHow::Due | ClaimHow::Seize => {}
                }
            }
            Ok(match data.take(run, session) {
                Some(Ok(opened)) => Claimed::Yes(Box::new(opened)),
                Some(Err(unreadable)) => Claimed::Unreadable(Box::new(unreadable)),
                None => Claimed::NoSuchRun,
            })
        })
    }

    fn claim_due(&self, session: SessionId, limit: usize, wanted: Wanted) -> BoxFuture<'_, Result<Due>> {
        let now = self.clock.now();
        let is_wanted = |info: &RunInfo| {
            wanted.projects.contain(info.project.as_ref())
                && wanted.families.as_ref().is_none_or(|roots| roots.contains(&info.links.root))
                && !wanted.except.contains(&info.id)
        };
        let look = |data: &Data| {
            let infos = data.runs.iter().map(|run| &run.info).filter(|info| is_wanted(info));
            let dues = infos.filter_map(|info| Some((info.due_at?, info.state, info.id.clone())));
            let (mut due, later): (Vec<_>, Vec<_>) = dues.partition(|(at, ..)| *at <= now);
            due.sort_by_key(|(at, ..)| *at);
            (due, later.iter().map(|(at, ..)| at.since(now)).min())
        };
        // A look that finds nothing changes nothing.
        let (due, next_in_ms) = look(&self.data.lock().unwrap_or_else(PoisonError::into_inner));
        if due.is_empty() || limit == 0 {
            let any = !due.is_empty();
            let due = Due { runs: Vec::new(), any, more: any, next_in_ms };
            return std::future::ready(Ok(due)).boxed();
        }
        self.change(|data| {
            data.check_session(session)?;
            data.looks += 1;
            let (due, next_in_ms) = look(data);
            let (new, begun): (Vec<_>, Vec<_>) =
                due.into_iter().partition(|(_, state, _)| *state == RunState::Queued);
            let share = share_of_new(limit, data.looks - 1).min(new.len());
            let begun: Vec<_> = begun.into_iter().take(limit - share).collect();
            let room = limit - begun.len();
            let names = |(_, _, run)| run;
            let begun = begun.into_iter().map(names);
            let new = new.into_iter().take(room).map(names);
            let size = |run: &RunId| Ok::<_, StoreError>(data.run(run).map_or(0, Run::bytes_to_read));
            let Fitting { runs, more } = that_fit(begun, new, share, size)?;
            let runs: Vec<_> = runs.iter().filter_map(|run| data.take(run, session)).collect();
            Ok(Due { any: true, more: more || runs.len() == limit, runs, next_in_ms })
        })
    }

    fn put_right(&self) -> BoxFuture<'_, Result<u64>> {
        let now = self.clock.now();
        self.change(|data| {
            let is_late = |at: Option<Timestamp>, by: u64| at.is_some_and(|at| at.since(now) > by);
            let mut count = 0;
            for run in data.runs.iter_mut().filter(|run| run.session.is_none()) {
                let info = &mut run.info;
                let waits = matches!(info.state, RunState::Waiting | RunState::Running);
                if waits && is_late(info.due_at, 0) && is_late(run.parked_at, 1_000) {
                    info.due_at = Some(Timestamp(0));
                    count += 1;
                }
            }
            for delivery in &mut data.deliveries {
                let made_ahead = is_late(Some(delivery.created_at), 1_000);
                if is_late(delivery.next_at, if made_ahead { 0 } else { LONGEST_REST_MS }) {
                    delivery.next_at = Some(now);
                    delivery.created_at = delivery.created_at.min(now);
                }
            }
            for reading in data.cursors.values_mut() {
                if is_late(Some(reading.at), 1_000) || is_late(Some(reading.until), LONGEST_HOLD_MS) {
                    reading.until = reading.until.min(now);
                    reading.at = reading.at.min(now);
                }
            }
            Ok(count)
        })
    }

    fn set_starts<'a>(
        &'a self,
        session: SessionId,
        run: &'a RunId,
        epoch: Epoch,
        starts: u32,
    ) -> BoxFuture<'a, Result<()>> {
        self.change(|data| {
            let run = data.run_mut(run);
            if let Some(run) = run.filter(|run| run.session == Some(session) && run.info.epoch == epoch) {
                run.starts = starts;
            }
            Ok(())
        })
    }

    fn unpause<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        self.change(|data| {
            Ok(data.run_mut(run).is_some_and(|run| {
                let held = matches!(run.info.state, RunState::Paused | RunState::Refused);
                if held {
                    run.info.state = RunState::Running;
                    run.info.outcome = None;
                    run.info.due_at = Some(Timestamp(0));
                }
                run.drop_pauses() || held
            }))
        })
    }

    fn wakes<'a>(&'a self, seen: &'a mut Seen) -> BoxFuture<'a, Result<Vec<Wake>>> {
        async move {
            let Some(version) = seen.version else {
                let last = self.data.lock().unwrap_or_else(PoisonError::into_inner).inbox;
                *seen = Seen { version: Some(self.commits()), message: last, soon: 0 };
                return Ok(vec![Wake::Gap]);
            };
            let now = loop {
                let changed = self.changed.notified();
                let now = self.commits();
                if now != version {
                    break now;
                }
                changed.await;
            };
            let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
            let told =
                data.runs.iter().filter(|run| run.inbox.iter().any(|message| message.id.0 > seen.message));
            let mut wakes: Vec<_> = told.map(|run| Wake::Run(run.info.id.clone())).collect();
            // As long as every run is somebody's or waits for no time, nobody has to look.
            if !data.schedules.is_empty() || data.runs.iter().any(|run| run.info.due_at.is_some()) {
                wakes.push(Wake::Due);
            }
            if data.slots.iter().any(|share| share.need.wants > share.used) {
                wakes.push(Wake::Limits);
            }
            *seen = Seen { version: Some(now), message: data.inbox, soon: 0 };
            Ok(wakes)
        }
        .boxed()
    }
}
