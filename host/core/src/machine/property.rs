//! Random programs in a random world: whatever happens, another execution
//! over the same journal, or over any beginning of it, observes the same.

mod model;
mod program;
mod world;

use proptest::prelude::*;

use self::model::Model;
use self::program::{Act, Execution, Seen, program};
use self::world::World;
use super::*;
use crate::journal::extend_chain;
use crate::{Row, RunConfig};

const DAWN: Timestamp = Timestamp(1_000_000);

fn start() -> Machine {
    let started = Started {
        run: "property".parse().unwrap(),
        workflow: "property".to_owned(),
        module: Digest::of(b""),
        input: Json::null(),
        seed: [3; 32],
        config: RunConfig::default(),
        labels: vec![],
        parent: None,
        child: None,
        origin: None,
    };
    Machine::start(started, DAWN)
}

/// One execution after the other over the same rows.
#[derive(Clone, Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn save(&mut self, machine: &mut Machine) {
        if let Some(Unsaved { first, count, bytes, head }) = machine.take_unsaved() {
            self.0.push(Row { first, count, bytes, head });
        }
    }

    fn read(&self) -> Journal {
        Journal::read(self.0.clone()).unwrap()
    }

    /// The rows of the first `length` entries, one commit for each.
    fn cut(&self, length: usize) -> Self {
        let mut head = GENESIS;
        let entries = self.read().entries.into_iter().zip(0..).take(length);
        let row = |(entry, position): (Entry, u64)| {
            let mut bytes = Vec::new();
            entry.encode_to(&mut bytes);
            head = extend_chain(&head, &bytes);
            Row { first: Position(position), count: 1, bytes, head }
        };
        Self(entries.map(row).collect())
    }
}

/// Executes the program from the journal to its end, and gives what it observed.
fn execute(acts: &[Act], with_patches: bool, rows: &mut Rows, choices: &[u8]) -> Vec<Seen> {
    let machine = match rows.0.is_empty() {
        true => start(),
        false => Machine::open(rows.read(), Given::default()).unwrap(),
    };
    let mut execution = Execution::new(machine, World::new(choices), with_patches);
    execution.run(acts).unwrap();
    rows.save(&mut execution.machine);
    assert!(execution.machine.outcome().is_some() && execution.machine.is_live());
    execution.seen
}

/// Executes the program from a whole journal, in a world that stands still.
fn replay(acts: &[Act], with_patches: bool, rows: &Rows) -> Vec<Seen> {
    let machine = Machine::open(rows.read(), Given::default()).unwrap();
    let mut execution = Execution::new(machine, World::still(), with_patches);
    execution.run(acts).unwrap();
    assert!(!execution.machine.has_unsaved(), "nothing is appended");
    assert_eq!(execution.machine.take_work(Timestamp(u64::MAX)), []);
    assert_eq!(
        (execution.machine.take_children(), execution.machine.take_dropped_children()),
        (vec![], vec![])
    );
    assert_eq!(execution.machine.head(), rows.read().head);
    execution.seen
}

/// The same over the model.
fn model(acts: &[Act], with_patches: bool, rows: &Rows) -> Vec<Seen> {
    let mut execution = Execution::new(Model::of(rows.read()), World::still(), with_patches);
    execution.run(acts).unwrap();
    execution.seen
}

/// What is told of the steps of a journal is what the machine makes of it.
fn assert_told(rows: &Rows) {
    let journal = rows.read();
    let void = Void::of(&journal.entries);
    let standing = (0..).zip(&journal.entries).filter(|(position, _)| !void.has(Position(*position)));
    let returned: Vec<_> = standing
        .filter_map(|(_, entry)| match entry.event {
            Event::Returned { step } => Some(step),
            _ => None,
        })
        .collect();
    let machine = Machine::open(journal.clone(), Given::default()).unwrap();
    let told = crate::steps(&journal);
    assert_eq!(told.len() as u64, machine.steps.next_step().0 - 1, "each step is told");
    for info in told {
        let what = format!("step {} of {:#?}", info.step, journal.entries);
        match machine.steps.fate(info.step) {
            None => assert!(info.ended.is_some(), "a void step has ended: {what}"),
            Some((true, _)) => assert_eq!(info.ended, None, "it is open: {what}"),
            Some((false, done)) => {
                // A request to stop ends steps without an outcome of their own, as a program does that drops them.
                let is_own = |outcome: &Outcome| !matches!(outcome, Err(failure) if failure.kind == FailureKind::Cancelled);
                let outcome = done.filter(|outcome| is_own(outcome) && !returned.contains(&info.step));
                assert_eq!(info.ended.map(|(_, outcome)| outcome), Some(outcome), "{what}");
            }
        }
    }
}

/// What was observed and depends on the first `length` entries only.
fn within(seen: &[Seen], length: usize) -> &[Seen] {
    let end = seen.partition_point(|seen| seen.observed.0 < length as u64);
    &seen[..end]
}

fn choices() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_whole_journal_replays_to_the_same_and_nothing_new(acts in program(), choices in choices()) {
        let mut rows = Rows::default();
        let seen = execute(&acts, true, &mut rows, &choices);
        prop_assert_eq!(&replay(&acts, true, &rows), &seen);
        prop_assert_eq!(model(&acts, true, &rows), seen, "the model observes the same");
    }

    #[test]
    fn a_fork_observes_in_its_shared_part_what_the_run_did_and_then_what_the_model_does(
        acts in program(),
        choices in choices(),
        others in choices(),
    ) {
        let mut rows = Rows::default();
        let seen = execute(&acts, true, &mut rows, &choices);
        for length in (1..rows.read().entries.len()).step_by(3) {
            let mut forked = rows.cut(length);
            let mut machine = Machine::open(forked.read(), Given::Nothing).unwrap();
            machine.fork("fork".parse().unwrap(), [9; 32], Timestamp(DAWN.0 * 2));
            // The children that it waits for are started with it.
            machine.take_children();
            forked.save(&mut machine);
            let again = execute(&acts, true, &mut forked, &others);
            prop_assert_eq!(within(&seen, length), within(&again, length), "forked at {}", length);
            prop_assert_eq!(&replay(&acts, true, &forked), &again);
            prop_assert_eq!(model(&acts, true, &forked), again, "forked at {}", length);
        }
    }

    #[test]
    fn a_run_that_was_ended_and_tried_again_observes_what_the_model_does(
        acts in program(),
        choices in choices(),
        others in choices(),
        at_a_step in any::<bool>(),
    ) {
        let mut rows = Rows::default();
        execute(&acts, true, &mut rows, &choices);
        for length in (1..rows.read().entries.len()).step_by(3) {
            let mut tried = rows.cut(length);
            let mut machine = Machine::open(tried.read(), Given::default()).unwrap();
            machine.terminate(Failure::new(FailureKind::Failed, "it trapped"), machine.last_at());
            tried.save(&mut machine);
            let mut journal = tried.read();
            let failed = journal.entries.iter().rev().find_map(|entry| match entry.event.ended_step() {
                Some((step, Recorded::Err(_))) => Some(step),
                _ => None,
            });
            let planned = match failed.filter(|_| at_a_step) {
                Some(step) => plan_retry(&journal, Some(step), false),
                None => plan_retry(&journal, None, true),
            };
            let plan = planned.unwrap();
            let row = plan.append(&mut journal, 0, Timestamp(DAWN.0 * 2));
            tried.0.push(row);
            let mut machine = Machine::open(tried.read(), Given::default()).unwrap();
            machine.take_up(Timestamp(DAWN.0 * 2));
            prop_assert!(!machine.has_unsaved(), "what makes sense goes on");
            let again = execute(&acts, true, &mut tried, &others);
            prop_assert_eq!(&replay(&acts, true, &tried), &again);
            prop_assert_eq!(model(&acts, true, &tried), again, "ended after {} entries", length);
        }
    }

    #[test]
    fn what_is_told_of_steps_is_what_the_machine_makes_of_them_also_after_retries(
        acts in program(),
        choices in choices(),
        others in choices(),
        ends in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..3), 1..4),
    ) {
        let mut rows = Rows::default();
        execute(&acts, true, &mut rows, &choices);
        assert_told(&rows);
        for (length, how) in ends {
            // It ends somewhere behind the last retry, in one of the ways that it can.
            let entries = rows.read().entries;
            let kept = entries.iter().rposition(|entry| matches!(entry.event, Event::Retried { .. }));
            let kept = kept.map_or(1, |last| last + 1);
            let mut tried = rows.cut(kept + length.index(entries.len() - kept + 1));
            let mut machine = Machine::open(tried.read(), Given::default()).unwrap();
            let clock = machine.last_at();
            if how == 2 {
                machine.request_cancel(None, clock);
                machine.receive("signal-0".to_owned(), Json::null(), None, clock);
            }
            let kind = if how == 2 { FailureKind::Cancelled } else { FailureKind::Failed };
            machine.terminate(Failure::new(kind, "it ended"), clock);
            tried.save(&mut machine);
            assert_told(&tried);
            let mut journal = tried.read();
            let failed = crate::steps(&journal).into_iter().rev();
            let failed = failed.filter(|_| how == 1).find(|info| matches!(&info.ended, Some((_, Some(Err(_))))));
            let planned = failed.and_then(|info| plan_retry(&journal, Some(info.step), false).ok());
            let Some(plan) = planned.or_else(|| plan_retry(&journal, None, how < 2).ok()) else { break };
            let row = plan.append(&mut journal, 0, clock);
            tried.0.push(row);
            assert_told(&tried);
            rows = tried;
            execute(&acts, true, &mut rows, &others);
            assert_told(&rows);
        }
    }

    #[test]
    fn every_line_is_given_out_once_however_often_the_host_dies(
        acts in program(),
        choices in choices(),
        others in choices(),
    ) {
        let mut rows = Rows::default();
        let mut whole = Execution::new(start(), World::new(&choices), true);
        whole.run(&acts).unwrap();
        rows.save(&mut whole.machine);
        for length in 1..rows.read().entries.len() {
            let mut cut = rows.cut(length);
            // It goes on from there to its next wait; what it gave out is stored with the entries.
            let machine = Machine::open(cut.read(), Given::Nothing).unwrap();
            let mut first = Execution::new(machine, World::still(), true);
            let stored = first.run_until_live(&acts);
            let given = first.machine.given().unwrap_or_default();
            cut.save(&mut first.machine);
            // The host dies, and another one goes on to the end.
            let machine = Machine::open(cut.read(), given).unwrap();
            let mut second = Execution::new(machine, World::new(&others), true);
            if second.machine.outcome().is_none() {
                second.run(&acts).unwrap();
                cut.save(&mut second.machine);
            }
            let mut all = Execution::new(Machine::open(cut.read(), Given::Nothing).unwrap(), World::still(), true);
            all.run(&acts).unwrap();
            prop_assert_eq!(stored.len() + second.given.len(), all.given.len(), "cut to {} entries", length);
        }
    }

    #[test]
    fn every_beginning_of_a_journal_recovers(
        acts in program(),
        choices in choices(),
        others in choices(),
    ) {
        let mut rows = Rows::default();
        let seen = execute(&acts, true, &mut rows, &choices);
        for length in 1..=rows.read().entries.len() {
            let mut cut = rows.cut(length);
            let again = execute(&acts, true, &mut cut, &others);
            let (before, after) = (within(&seen, length), within(&again, length));
            prop_assert_eq!(before, after, "cut to {} entries", length);
            prop_assert_eq!(replay(&acts, true, &cut), again, "recovered from {} entries", length);
        }
    }

    #[test]
    fn code_with_patched_places_takes_over_at_any_point(
        acts in program(),
        choices in choices(),
        others in choices(),
    ) {
        let mut rows = Rows::default();
        execute(&acts, false, &mut rows, &choices);
        let length = rows.read().entries.len();
        for length in 1..length {
            let mut cut = rows.cut(length);
            let moved = execute(&acts, true, &mut cut, &others);
            prop_assert_eq!(replay(&acts, true, &cut), moved, "moved after {} entries", length);
        }
    }

    #[test]
    fn another_program_is_refused_or_agrees_but_never_writes_into_the_past(
        acts in program(),
        other in program(),
        choices in choices(),
    ) {
        let mut rows = Rows::default();
        execute(&acts, true, &mut rows, &choices);
        let machine = Machine::open(rows.read(), Given::default()).unwrap();
        let mut execution = Execution::new(machine, World::still(), true);
        let refused = matches!(execution.run(&other), Err(Stop::Mismatch(_)));
        prop_assert!(refused || execution.machine.is_live());
        prop_assert!(!execution.machine.has_unsaved());
    }
}
