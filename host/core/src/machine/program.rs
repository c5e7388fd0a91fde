//! What the program calls.

use super::*;

/// What is kept of the memory for encoding operations.
const SCRATCH_BYTES: usize = 64 << 10;

impl Machine {
    /// The program asks for an operation. Gives the step, which may be done already.
    pub fn schedule(&mut self, op: &Op, clock: Timestamp) -> Result<Step, Stop> {
        self.check()?;
        let mut bytes = std::mem::take(&mut self.scratch);
        encode_op_to(op, &mut bytes);
        let scheduled = self.schedule_bytes(op, &bytes, clock);
        if bytes.capacity() <= SCRATCH_BYTES {
            bytes.clear();
            self.scratch = bytes;
        }
        scheduled
    }

    fn schedule_bytes(&mut self, op: &Op, bytes: &[u8], clock: Timestamp) -> Result<Step, Stop> {
        let Some(front) = self.script.front() else {
            return self.schedule_live(op, bytes, clock);
        };
        let step = match &front.event {
            ScriptedEvent::Scheduled { step }
                if self.steps.op(*step).is_some_and(|recorded| {
                    recorded == bytes || mismatch::same_op(recorded, op, front.position)
                }) =>
            {
                *step
            }
            event if event.stops() => return Err(self.fail(Stop::Ended)),
            _ => return Err(self.refuse(mismatch::Asked::Op(op))),
        };
        self.match_front();
        self.steps.claim(step);
        Ok(step)
    }

    fn schedule_live(&mut self, op: &Op, bytes: &[u8], clock: Timestamp) -> Result<Step, Stop> {
        if let Err(error) = op.check_size() {
            return Err(self.fail(error.into()));
        }
        if self.steps.held() >= limits::OPEN_STEPS {
            return Err(self.fail(Stop::TooManySteps));
        }
        let step = self.steps.next_step();
        let known = self.reuse.answer(bytes);
        let position = self.append(clock, Event::Scheduled { step, op: bytes.to_vec().into() });
        self.observe(position, self.last_at);
        self.steps.claim(step);
        let sense = op.check_sense(self.last_at).and_then(|()| self.check_family(op));
        if let Err(reason) = sense {
            self.complete(step, Err(Failure::new(FailureKind::Rejected, reason)), clock);
        } else if let Some(known) = known {
            self.complete(step, Ok(known), clock);
        } else {
            // A deadline that has passed is met at once.
            self.fire_timers(self.last_clock);
        }
        Ok(step)
    }

    /// Says what is wrong if a run may not have the child that it asks for.
    pub(super) fn check_family(&self, op: &Op) -> Result<(), String> {
        if !matches!(op, Op::Child { .. }) {
            return Ok(());
        }
        if self.steps.children() > limits::CHILDREN {
            return Err(format!("the run has {} children, as many as are allowed", limits::CHILDREN));
        }
        if self.child().map_or(0, |child| child.depth) >= limits::CHILD_DEPTH {
            let depth = limits::CHILD_DEPTH;
            return Err(format!("the run is of generation {depth}, and may have no children"));
        }
        Ok(())
    }

    /// What the step ended with, if it has. `None`: the program has to wait.
    pub fn poll_step(&mut self, step: Step) -> Result<Option<Outcome>, Stop> {
        self.check()?;
        match self.steps.done(step) {
            Err(()) => Err(self.fail(Stop::NoSuchStep(step))),
            Ok(Some(done)) => {
                let (position, at) = (done.position, done.at);
                let outcome = done.outcome();
                self.observe_done(position, at)?;
                self.steps.read(step);
                Ok(Some(outcome))
            }
            Ok(None) => self.must_wait(),
        }
    }

    /// The index of the step that was done first, if one is.
    pub fn poll_any(&mut self, steps: &[Step]) -> Result<Option<usize>, Stop> {
        self.check()?;
        if steps.is_empty() {
            return Err(self.fail(Stop::Deadlock));
        }
        let mut first: Option<(Position, Timestamp, usize)> = None;
        for (index, &step) in steps.iter().enumerate() {
            match self.steps.done(step) {
                Err(()) => return Err(self.fail(Stop::NoSuchStep(step))),
                Ok(Some(done)) if first.is_none_or(|(position, ..)| done.position < position) => {
                    first = Some((done.position, done.at, index));
                }
                Ok(_) => {}
            }
        }
        match first {
            Some((position, at, index)) => {
                self.observe_done(position, at)?;
                Ok(Some(index))
            }
            None => self.must_wait(),
        }
    }

    /// The program lets go of a step. One that is not done is cancelled.
    pub fn drop_step(&mut self, step: Step, clock: Timestamp) -> Result<(), Stop> {
        self.check()?;
        let Some(cancelled) = self.steps.cancelled(step) else {
            return Err(self.fail(Stop::NoSuchStep(step)));
        };
        let done = match self.steps.done(step) {
            Ok(Some(done)) if !self.is_ahead(done.position) => Some((done.position, done.at)),
            _ => None,
        };
        match self.script.front().map(|front| &front.event) {
            Some(
                ScriptedEvent::Cancelled { step: recorded } | ScriptedEvent::Returned { step: recorded },
            ) if *recorded == step => {
                self.match_front();
            }
            // It would be lost: nobody knows of it yet.
            None if self.steps.has_unread_signal(step) => {
                let position = self.append(clock, Event::Returned { step });
                self.observe(position, self.last_at);
            }
            // That there is nothing to cancel depends on this entry.
            _ if let Some((position, at)) = done => self.observe(position, at),
            None if !cancelled => {
                let position = self.append(clock, Event::Cancelled { step });
                self.observe(position, self.last_at);
            }
            Some(event) if event.stops() => return Err(self.fail(Stop::Ended)),
            _ => return Err(self.refuse(mismatch::Asked::Drop(step))),
        }
        for (set, tag) in self.steps.release(step) {
            self.sets.remove(set, tag);
        }
        Ok(())
    }

    /// A new, empty set of steps to wait for.
    pub fn set_new(&mut self) -> SetId {
        self.sets.create()
    }

    /// Adds a step to a set.
    pub fn set_add(&mut self, set: SetId, step: Step, tag: u64) -> Result<(), Stop> {
        self.check()?;
        if self.sets.members() >= limits::SET_MEMBERS {
            return Err(self.fail(Stop::TooManyMembers));
        }
        self.set_remove(set, tag);
        match self.steps.watch(step, set, tag) {
            Err(()) => Err(self.fail(Stop::NoSuchStep(step))),
            Ok(done) => {
                self.sets.add(set, tag, step, done);
                Ok(())
            }
        }
    }

    /// Removes a tag from a set.
    pub fn set_remove(&mut self, set: SetId, tag: u64) {
        if let Some(step) = self.sets.remove(set, tag) {
            self.steps.unwatch(step, set, tag);
        }
    }

    /// The program lets go of a set.
    pub fn set_drop(&mut self, set: SetId) {
        for (tag, step) in self.sets.delete(set) {
            self.steps.unwatch(step, set, tag);
        }
    }

    /// Takes the member that was done first out of a set, if one is done.
    pub fn poll_set(&mut self, set: SetId) -> Result<Option<u64>, Stop> {
        self.check()?;
        if let Some((tag, position, step)) = self.sets.pop(set) {
            self.steps.unwatch(step, set, tag);
            let at = match self.steps.done(step) {
                Ok(Some(done)) => done.at,
                _ => self.now,
            };
            self.observe_done(position, at)?;
            return Ok(Some(tag));
        }
        if self.sets.is_empty(set) {
            return Err(self.fail(Stop::Deadlock));
        }
        self.must_wait()
    }

    /// Whether the run takes the new way at the place `id`.
    pub fn patched(&mut self, id: &str, clock: Timestamp) -> Result<bool, Stop> {
        self.check()?;
        if let Some(&known) = self.patches.get(id) {
            return Ok(known);
        }
        if let Err(error) = limits::check("the id of a patch", id.len(), limits::NAME_BYTES) {
            return Err(self.fail(error.into()));
        }
        let new_way = match self.script.front().map(|front| &front.event) {
            Some(ScriptedEvent::Patched { id: recorded }) if recorded == id => {
                self.match_front();
                true
            }
            Some(_) => false,
            None => {
                let position = self.append(clock, Event::Patched { id: id.to_owned() });
                self.observe(position, self.last_at);
                true
            }
        };
        self.patches.insert(id.to_owned(), new_way);
        Ok(new_way)
    }

    /// The next bytes of the run's random stream.
    pub fn random(&mut self, bytes: &mut [u8]) {
        self.random.fill(bytes);
    }

    /// The program returned. True if that is new, false if the journal says so.
    pub fn returns(&mut self, outcome: &Outcome) -> Result<bool, Stop> {
        self.check()?;
        match self.script.front().map(|front| &front.event) {
            None => Ok(true),
            // The program was computing when it was ended.
            Some(event) if event.stops() => Err(self.fail(Stop::Ended)),
            Some(ScriptedEvent::Finished { outcome: recorded, .. })
                if mismatch::same_outcome(recorded, outcome) =>
            {
                self.match_front();
                Ok(false)
            }
            Some(_) => Err(self.refuse(mismatch::Asked::Finish(outcome))),
        }
    }

    /// The program returned, and nothing else is to come before that.
    pub fn finish(&mut self, outcome: Outcome, clock: Timestamp) -> Result<(), Stop> {
        if self.returns(&outcome)? {
            self.append(clock, Event::Finished { outcome: outcome.into(), stopped: false });
        }
        Ok(())
    }
}
