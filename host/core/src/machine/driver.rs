//! What the driver asks.

use super::*;
use crate::glance;

impl Machine {
    /// What has to be done now. Empty while the program is replaying, for what
    /// it will ask for is not known yet.
    pub fn take_work(&mut self, clock: Timestamp) -> Vec<Work> {
        if !self.is_live() || self.stop.is_some() || self.has_ended() {
            // Nothing begins any more, or not yet; what had begun may have to be stopped.
            return self.steps.take_aborts().map(|step| Work::Abort { step }).collect();
        }
        let mut work = Vec::new();
        if !self.resumed {
            self.resumed = true;
            for Interrupted { step, attempt, scheduled, op, anew } in self.steps.take_interrupted() {
                match decode_op(&op, scheduled) {
                    // Whether it was carried out is not known, and it must not be so twice.
                    Ok(Op::Agent(request)) if !anew && policy::is_once(&request) => {
                        self.steps.leave_unstarted(step);
                        work.push(Work::Fail { step, failure: policy::unknown_outcome(attempt - 1) });
                    }
                    _ => {
                        self.append(clock, Event::Attempted { step, attempt, after: None });
                    }
                }
            }
        }
        work.extend(self.steps.take_aborts().map(|step| Work::Abort { step }));
        for (step, attempt, position) in self.steps.take_starts() {
            // The bytes are our own encoding, checked by the chain; a journal that was
            // forged on purpose shows up as a step that fails.
            match decode_op(self.steps.op(step).unwrap_or_default(), position) {
                Ok(op) => work.push(Work::Execute { step, attempt, op }),
                Err(error) => {
                    let failure = Failure::new(FailureKind::Rejected, error.to_string());
                    work.push(Work::Fail { step, failure });
                }
            }
        }
        work
    }

    /// Takes what has been appended since the last time, if anything was.
    pub fn take_unsaved(&mut self) -> Option<Unsaved> {
        if self.unsaved.count == 0 {
            return None;
        }
        let empty = Unsaved { first: self.next, count: 0, bytes: Vec::new(), head: self.head };
        self.taken_head = self.head;
        Some(std::mem::replace(&mut self.unsaved, empty))
    }

    /// The children that the program asked for since the last time and still
    /// wants. They have to exist when their steps are committed.
    pub fn take_children(&mut self) -> Vec<NewChild> {
        self.steps.take_children()
    }

    /// The steps of children that nothing waits for any more, since the last time.
    pub fn take_dropped_children(&mut self) -> Vec<Step> {
        self.steps.take_dropped_children()
    }

    /// The steps that wait for children, in their order.
    pub fn open_children(&self) -> Vec<Step> {
        self.steps.open_children()
    }

    /// Signals that came in and that the program has not read, be they given to a wait that it
    /// began or not; of each name in the order in which it would read them.
    pub fn unread_signals(&self) -> Vec<(String, Json)> {
        self.steps.unread_signals()
    }

    /// The agent calls whose next attempt is due at `clock`.
    pub fn due_calls(&self, clock: Timestamp) -> Vec<(Step, AgentRequest)> {
        let due = self.steps.due_calls(clock).into_iter();
        due.filter_map(|(step, position, op)| match decode_op(&op, position) {
            Ok(Op::Agent(request)) => Some((step, *request)),
            _ => None,
        })
        .collect()
    }

    /// The next attempt at a call cannot be made by this host. One that was to begin is as if it had
    /// not been meant to; the next host begins it. The call counts as one that waits.
    pub fn withhold(&mut self, step: Step, reason: &str, clock: Timestamp) {
        if self.steps.is_begun(step) {
            self.postpone(step, clock.max(self.last_at), reason.to_owned(), clock);
        }
        self.steps.withhold(step);
    }

    /// The run is left before calls that were to begin have: it is as if they had not been meant to, and the next host
    /// begins them. What is no call is the next host's in any case.
    pub fn put_off_starts(&mut self, reason: &str, clock: Timestamp) {
        for step in self.steps.take_unstarted_calls() {
            self.postpone(step, clock.max(self.last_at), reason.to_owned(), clock);
            self.steps.withhold(step);
        }
    }

    /// The run is not left after all: the calls that were withheld begin when they are due.
    pub fn let_go(&mut self) {
        self.steps.let_go();
    }

    /// The steps that are to be stopped, since the last time.
    pub fn take_aborts(&mut self) -> Vec<Step> {
        self.steps.take_aborts().collect()
    }

    /// Whether calls are withheld.
    pub fn withholds(&self) -> bool {
        self.steps.withholds()
    }

    /// Takes over a call that an earlier execution of this process began and that is still under
    /// way: it is not begun again. False if nothing waits for that attempt.
    pub fn adopt(&mut self, step: Step, attempt: u32) -> bool {
        self.is_live() && !self.resumed && self.steps.adopt(step, attempt)
    }

    /// What there is to commit if the run ends now, without that it has: until the commit is made
    /// something may come in that has to stand before.
    pub fn with_end(&self, end: End<'_>, clock: Timestamp) -> (Unsaved, Timestamp) {
        let Unsaved { first, count, mut bytes, .. } = self.unsaved.clone();
        let event = match end {
            End::Finished { outcome, stopped } => {
                Event::Finished { outcome: outcome.clone().into(), stopped }
            }
            End::Continued(run) => Event::ContinuedAsNew { run: run.clone() },
        };
        let start = bytes.len();
        let entry = Entry::behind(self.last_at, clock, event);
        entry.encode_to(&mut bytes);
        let head = extend_chain(&self.head, &bytes[start..]);
        (Unsaved { first, count: count + 1, bytes, head }, entry.at)
    }

    /// What that takes, in bytes.
    pub fn unsaved_bytes(&self) -> usize {
        self.unsaved.bytes.len()
    }

    /// Whether something was appended that was not taken yet.
    pub fn has_unsaved(&self) -> bool {
        self.unsaved.count > 0
    }

    /// Bytes of answers, signals and results that the program has and has not dropped.
    pub fn held_bytes(&self) -> u64 {
        self.steps.outcome_bytes()
    }

    /// Whether the program has come to the end of what it did the last time.
    pub fn is_live(&self) -> bool {
        self.script.is_empty()
    }

    /// Whether the replay has come to where the program was ended while it computed.
    pub fn is_at_stop(&self) -> bool {
        self.script.front().is_some_and(|front| front.event.stops())
    }

    /// How the run ended, if it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.status {
            Status::Ended(outcome) => Some(outcome),
            Status::New | Status::Running | Status::Continued(_) => None,
        }
    }

    /// The run that this one continues as, if it does.
    pub fn continued_as(&self) -> Option<&RunId> {
        match &self.status {
            Status::Continued(run) => Some(run),
            _ => None,
        }
    }

    /// Whether nothing can happen to the run any more.
    pub fn has_ended(&self) -> bool {
        matches!(self.status, Status::Ended(_) | Status::Continued(_))
    }

    /// The id of the run.
    pub fn run(&self) -> &RunId {
        self.forks.last().map_or(&self.started.run, |fork| &fork.run)
    }

    /// What it is to its parent, if it has one. A fork has none.
    pub fn child(&self) -> Option<&ChildOf> {
        self.started.child.as_ref().filter(|_| self.forks.is_empty())
    }

    /// Its parent, if it has one.
    pub fn parent(&self) -> Option<&RunId> {
        self.started.parent.as_ref().filter(|_| self.forks.is_empty())
    }

    /// The first run of the chain that it belongs to, and its place there, counted from 1.
    pub fn round(&self) -> (&RunId, u64) {
        match &self.started.origin {
            Some(Origin::Continued { first, round, .. }) if self.forks.is_empty() => (first, *round),
            _ => (self.run(), 1),
        }
    }

    /// An id for the run that this one continues as, which tells what it is; and
    /// another one, in case that is somebody else's.
    pub fn ids_of_next_round(&self) -> [RunId; 2] {
        let (first, round) = self.round();
        [first.round(round + 1), RunId::of_seed(&self.seed_for(Step(0)))]
    }

    /// The run at the top of its family: nobody started it, and if it is one of
    /// a chain it is the first.
    pub fn root(&self) -> &RunId {
        self.child().map_or(self.round().0, |child| &child.root)
    }

    /// The seed of a run that this one starts, by `step`: nothing that is
    /// random in the two is the same.
    pub fn seed_for(&self, step: Step) -> [u8; 32] {
        let what = [b"run".as_slice(), &step.0.to_be_bytes()].concat();
        *blake3::keyed_hash(self.seed(), &what).as_bytes()
    }

    pub(super) fn seed(&self) -> &[u8; 32] {
        self.forks.last().map_or(&self.started.seed, |fork| &fork.seed)
    }

    /// The module that the run was moved to since the last time, if it was.
    pub fn take_moved(&mut self) -> Option<Digest> {
        std::mem::take(&mut self.moved).then_some(self.module)
    }

    /// Whether a question is open.
    pub fn asks_people(&self) -> bool {
        self.steps.asks_people()
    }

    /// The module that the run is executed with.
    pub fn module(&self) -> Digest {
        self.module
    }

    /// Questions that were asked, and those that are not open any more, since
    /// the last time, in order.
    pub fn take_questions(&mut self) -> Vec<QuestionChange> {
        self.steps.take_questions()
    }

    /// The questions that are open, as if they had just been asked.
    pub fn open_questions(&self) -> Vec<QuestionChange> {
        self.steps.open_questions()
    }

    /// The steps that are not done, in their order.
    pub fn open_steps(&self) -> impl Iterator<Item = OpenStep<'_>> {
        self.steps.open()
    }

    /// The kinds of the steps that are not done, and when they were asked for.
    pub fn open_kinds(&self) -> Vec<(Step, &'static str, Timestamp)> {
        let kinds = self.steps.open().map(|open| open.step);
        kinds
            .filter_map(|step| {
                let kind = glance::op_kind(self.steps.op(step)?).unwrap_or("other");
                Some((step, kind, self.steps.scheduled_at(step)?))
            })
            .collect()
    }

    /// Whether a step is neither done nor dropped.
    pub fn is_open(&self, step: Step) -> bool {
        self.steps.is_open(step)
    }

    /// The names that the program waits for signals of.
    pub fn wanted_signals(&self) -> Vec<String> {
        self.steps.wanted_signals()
    }

    /// The earliest deadline of a timer or a time limit.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.steps.next_deadline()
    }

    /// Whether all that is open waits for time or signals, so that the program
    /// need not be kept in memory.
    pub fn only_waits(&self) -> bool {
        self.is_live() && self.steps.only_waits()
    }

    /// Whether cancellation of the run was requested, whether the program has observed it or not.
    pub fn cancel_requested(&self) -> bool {
        self.cancel_requested.is_some()
    }

    /// What the run may spend now.
    pub fn budget(&self) -> Budget {
        self.spending.budget(Position(u64::MAX))
    }

    /// What all attempts of the run have consumed, those that are void
    /// included; and the time since it began.
    pub fn spent(&self, clock: Timestamp) -> Spent {
        self.spent_until(clock, Position(u64::MAX))
    }

    /// What its own calls have consumed, without children and earlier rounds.
    pub fn spent_itself(&self) -> Spent {
        self.spending.own()
    }

    pub(super) fn spent_until(&self, now: Timestamp, position: Position) -> Spent {
        let before = match &self.started.origin {
            Some(Origin::Continued { spent, .. }) => spent.time_ms,
            _ => 0,
        };
        let time_ms = now.since(self.started_after(position)).saturating_add(before);
        Spent { time_ms, ..self.spending.spent(position) }
    }

    /// Whether the run ever had a child.
    pub fn has_children(&self) -> bool {
        self.steps.children() > 0
    }

    /// Whether others may spend what this run may.
    pub fn shares_budget(&self) -> bool {
        self.child().is_some() || self.has_children() || self.round().1 > 1
    }

    /// What decides about the next attempt at an agent call.
    pub fn call_state(&self, step: Step) -> Option<&CallState> {
        self.steps.call(step)
    }

    /// Providers that did not accept who was asking, so that the run asks them no more.
    pub fn providers_out(&self) -> &BTreeSet<String> {
        &self.providers_out
    }

    /// What shaped the run when it began.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// When the run began; for a fork, when it became one.
    pub fn started_at(&self) -> Timestamp {
        self.started_after(Position(u64::MAX))
    }

    /// The same, as it is after the entry at `position`.
    pub(super) fn started_after(&self, position: Position) -> Timestamp {
        self.fork_after(position).map_or(self.started_at, |fork| fork.at)
    }

    /// The last fork up to the entry at `position`.
    pub(super) fn fork_after(&self, position: Position) -> Option<&Fork> {
        self.forks.iter().rev().find(|fork| fork.position <= position)
    }

    /// The time of the last entry.
    pub fn last_at(&self) -> Timestamp {
        self.last_at
    }

    /// The number of entries.
    pub fn entries(&self) -> u64 {
        self.next.0
    }

    /// Whether the program was ever begun again in its middle.
    pub fn was_retried(&self) -> bool {
        self.retried
    }

    /// The head of the chain before what was not taken for a commit yet.
    pub fn taken_head(&self) -> Digest {
        self.taken_head
    }

    /// The head of the chain after the last entry.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// The key by which a provider recognises a step that it was asked for
    /// before: the same for each attempt, different for every step of every run.
    pub fn idempotency_key(&self, step: Step) -> String {
        let hash = blake3::keyed_hash(self.seed(), &step.0.to_be_bytes());
        format!("wf-{}", &hash.to_hex()[..32])
    }

    /// A number that varies the delay after an attempt.
    pub fn jitter(&self, step: Step, attempt: u32) -> u64 {
        let what = [b"delay".as_slice(), &step.0.to_be_bytes(), &attempt.to_be_bytes()].concat();
        let hash = blake3::keyed_hash(self.seed(), &what);
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default())
    }
}
