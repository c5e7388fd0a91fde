//! The store's contract as tests, run over every implementation: [`conformance!`](crate::conformance!)
//! makes a test of each, over the stores that it is given.
#![allow(clippy::unwrap_used)]

mod claims;
mod clocks;
mod deletion;
mod extras;
mod families;
mod journals;
mod limits;
mod mail;
mod outbox;
mod pauses;
mod views;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::policy::rate::Rate;
use wfhost_core::{
    ChildOf, Digest, Epoch, Event, Failure, FailureKind, Json, Machine, OnParentClose, Origin, Position, Row,
    RunConfig, RunId, Started, Step, Timestamp,
};

use super::*;

pub use self::claims::*;
pub use self::clocks::*;
pub use self::deletion::*;
pub use self::extras::*;
pub use self::families::*;
pub use self::journals::*;
pub use self::limits::*;
pub use self::mail::*;
pub use self::outbox::*;
pub use self::pauses::*;
pub use self::views::*;

/// How long sessions last, in milliseconds.
pub const LEASE: u64 = 1_000;

/// Tests of all that stores have to do. `$stores` is an asynchronous function without parameters that
/// gives fresh, empty stores, as [`Shop`]s.
#[macro_export]
macro_rules! conformance {
    ($stores:path) => {
        $crate::conformance! { $stores:
            modules_are_kept_by_digest,
            a_journal_comes_back_as_it_was_appended,
            parking_looks_for_what_came_in,
            a_request_to_stop_always_wakes,
            a_signal_with_an_id_is_delivered_once_for_the_life_of_the_run,
            runs_are_listed_newest_first_by_filters_and_pages,
            pages_go_on_where_they_were_when_the_run_before_them_is_deleted,
            questions_are_listed_oldest_first_and_answered_once,
            messages_for_outsiders_are_read_behind_a_place,
            changes_of_all_runs_come_in_one_order_without_gaps,
            what_is_kept_besides_the_journal_can_be_replaced,
            what_came_in_the_meantime_outlives_what_is_made_anew,
            transcripts_are_kept_in_order_and_go_with_their_run,
            the_latest_answer_to_a_question_is_kept,
            children_are_cancelled_with_their_parent_unless_they_are_abandoned,
            a_child_that_is_deleted_is_a_failure_of_its_parent,
            a_run_continues_as_another_with_what_is_in_its_inbox,
            a_key_gives_the_same_run_of_its_workflow_and_an_id_is_taken_once,
            a_stale_session_epoch_position_or_head_appends_nothing,
            a_session_is_renewed_for_all_its_runs_and_fenced_as_a_whole,
            whoever_comes_for_a_run_of_a_session_that_is_over_gets_it,
            a_run_is_seized_from_a_session_that_lives,
            a_claim_opens_the_run_in_one_go,
            a_run_that_was_parked_by_a_clock_that_was_ahead_is_due_when_it_is_right,
            a_run_that_was_begun_by_a_clock_that_was_ahead_is_due_at_once,
            what_is_due_is_claimed_together_in_the_order_of_its_time,
            new_runs_come_behind_those_that_have_begun_and_have_a_share,
            a_host_takes_only_the_runs_that_it_wants,
            a_run_belongs_to_the_project_of_its_journal_unless_it_is_said_otherwise,
            a_run_with_trouble_rests_longer_each_time_until_it_comes_forward,
            starts_are_counted_until_the_run_comes_forward,
            only_a_claim_that_reopens_takes_a_run_that_failed,
            a_run_that_was_handed_over_can_be_given_back_as_it_was,
            nothing_that_was_sent_vanishes_with_an_end,
            an_answer_after_the_deadline_is_refused,
            a_pause_holds_up_no_request_to_stop,
            a_paused_run_is_nobodys_until_somebody_asks,
            a_run_is_not_paused_once_somebody_wants_it_to_go_on,
            a_pause_outlives_those_who_only_look_at_the_run,
            an_inbox_is_read_in_parts_with_requests_first,
            what_a_program_gives_out_is_numbered_by_the_store,
            a_deleted_run_leaves_nothing_but_its_id,
            earlier_rounds_stay_as_long_as_the_chain_goes_on,
            a_child_begins_and_ends_with_an_entry_of_its_parent,
            times_beyond_all_measure_are_never,
            runs_are_found_by_what_they_are_labelled_with_and_wait_for,
            a_journal_is_read_by_parts_from_any_entry,
            tokens_acts_and_addresses_are_kept_and_work_once,
            a_cursor_is_one_readers_and_moves_with_what_follows_from_the_commits,
            a_delivery_is_tried_by_one_at_a_time_until_it_is_settled,
            slots_are_shared_and_those_of_a_session_that_was_ended_are_free,
            slots_are_given_out_by_one_rule,
            a_turn_belongs_to_its_step_whichever_host_asks_for_it,
            a_turn_is_given_back_by_who_has_the_run_only,
            turns_are_those_of_one_queue,
            what_runs_need_besides_their_modules_is_kept_by_digest,
            a_run_whose_epoch_cannot_grow_holds_up_no_others,
            usage_beyond_all_measure_is_the_greatest_that_can_be_stored,
            an_import_knows_which_signals_came_and_which_questions_are_answered,
            a_schedule_that_is_replaced_goes_on_from_its_last_run,
            a_schedule_cancels_the_latest_round_of_its_last_run,
            behind_all_positions_there_is_nothing,
            the_last_round_that_is_left_of_a_chain_is_not_passed_on_to_itself,
            schedules_that_are_due_come_in_parts,
            only_what_is_still_as_it_was_chosen_is_deleted,
            whatever_was_put_off_by_a_clock_that_was_ahead_is_put_right,
            changes_come_in_parts_of_some_bytes,
            a_journal_is_read_by_parts_of_some_bytes,
            a_text_is_found_as_it_is_written_and_within_one_word,
            a_module_that_is_put_again_is_about_to_be_needed,
        }
    };
    ($stores:path: $($name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::conformance::$name($stores().await).await;
            }
        )*
    };
}

/// A clock that a test sets.
#[derive(Debug, Default)]
pub struct Hands {
    now: AtomicU64,
    ticks: AtomicU64,
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::Relaxed))
    }

    fn ticks_ms(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    fn source(&self) -> &str {
        "hands"
    }
}

/// A store, and two hosts that use it.
#[allow(missing_debug_implementations)]
pub struct Shop {
    pub store: SharedStore,
    pub clock: Arc<Hands>,
    pub mine: SessionId,
    pub other: SessionId,
    /// What lives as long as the store.
    pub kept: Box<dyn std::any::Any + Send + Sync>,
}

impl std::ops::Deref for Shop {
    type Target = SharedStore;

    fn deref(&self) -> &SharedStore {
        &self.store
    }
}

impl Shop {
    /// `clock`: by which the store judges.
    pub async fn open(store: SharedStore, clock: Arc<Hands>) -> Self {
        let mine = store.begin_session(&owner(1), LEASE).await.unwrap();
        let other = store.begin_session(&owner(2), LEASE).await.unwrap();
        Self { store, clock, mine, other, kept: Box::new(()) }
    }

    /// Time goes on.
    pub fn at(&self, now: u64) {
        self.clock.now.store(now, Ordering::Relaxed);
    }

    pub fn ticks(&self, ticks: u64) {
        self.clock.ticks.store(ticks, Ordering::Relaxed);
    }

    /// An append of the first host.
    pub fn with(&self, run: &str, row: Option<Row>) -> Append {
        // Without a row it says no more than that the journal is known.
        let before = row.as_ref().map_or(Digest([1; 32]), |row| before(run, row));
        Append { before, row, ..Append::new(id(run), self.mine, Epoch(1), Timestamp(20), Next::Go) }
    }

    pub async fn claim_as(&self, session: SessionId, run: &str, how: ClaimHow) -> Claimed {
        self.claim(session, &id(run), how).await.unwrap()
    }

    pub async fn opened(&self, session: SessionId, run: &str) -> Opened {
        match self.claim_as(session, run, ClaimHow::Asked).await {
            Claimed::Yes(opened) => *opened,
            other => panic!("{run}: {other:?}"),
        }
    }

    /// Claims what is due for the second host.
    pub async fn due(&self, limit: usize, wanted: Wanted) -> (Vec<String>, bool, Option<u64>) {
        let due = self.claim_due(self.other, limit, wanted).await.unwrap();
        // Nobody else claims any.
        assert_eq!(due.any, due.more || !due.runs.is_empty(), "{due:?}");
        let runs = due.runs.iter().map(|run| run.as_ref().unwrap().run.to_string()).collect();
        (runs, due.more, due.next_in_ms)
    }

    pub async fn bodies(&self, run: &str) -> Vec<MessageBody> {
        let inbox = self.inbox(&id(run), Part::Next).await.unwrap();
        inbox.messages.into_iter().map(|message| message.body).collect()
    }

    pub async fn info(&self, run: &str) -> RunInfo {
        self.run(&id(run)).await.unwrap().unwrap()
    }
}

pub fn id(text: &str) -> RunId {
    text.parse().unwrap()
}

pub fn owner(pid: u32) -> Owner {
    Owner { host: "here".to_owned(), realm: "m b s".to_owned(), pid, started: 1 }
}

pub fn machine(run: &str, module: Digest) -> Machine {
    configured(run, module, RunConfig::default())
}

pub fn configured(run: &str, module: Digest, config: RunConfig) -> Machine {
    let started = Started {
        run: id(run),
        workflow: "w".to_owned(),
        module,
        input: Json::null(),
        seed: [7; 32],
        config,
        labels: Vec::new(),
        parent: None,
        child: None,
        origin: None,
    };
    Machine::start(started, Timestamp(10))
}

/// The heads of the rows that a test made, by the run and the end.
static HEADS: Mutex<BTreeMap<(RunId, Position), Digest>> = Mutex::new(BTreeMap::new());

pub fn row(machine: &mut Machine) -> Row {
    let row = Row::from(machine.take_unsaved().unwrap());
    HEADS.lock().unwrap().insert((machine.run().clone(), row.end()), row.head);
    row
}

/// The head before a row.
pub fn before(run: &str, row: &Row) -> Digest {
    HEADS.lock().unwrap().get(&(id(run), row.first)).copied().unwrap_or(Digest([0; 32]))
}

pub async fn create(store: &Shop, run: &str, key: Option<&str>) -> (Machine, Result<Created>) {
    let module = store.put_module("w", b"module").await.unwrap();
    let mut machine = machine(run, module);
    let rows = vec![row(&mut machine)];
    let new = NewRun {
        key: key.map(str::to_owned),
        labels: vec![("run".to_owned(), run.to_owned())],
        session: Some(store.mine),
        ..NewRun::new(&machine, rows)
    };
    (machine, store.create(new).await)
}

/// A run that nobody has advanced yet.
pub async fn enqueue(store: &Shop, run: &str, project: Option<&str>) -> Machine {
    let module = store.put_module("w", b"module").await.unwrap();
    let mut machine = machine(run, module);
    let rows = vec![row(&mut machine)];
    let project = project.map(str::to_owned);
    store.create(NewRun { project, ..NewRun::new(&machine, rows) }).await.unwrap();
    machine
}

pub fn received(machine: &mut Machine) -> Row {
    machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
    row(machine)
}

pub fn signal(name: &str, id: Option<&str>) -> MessageBody {
    MessageBody::Signal { name: name.to_owned(), payload: Json::null(), id: id.map(str::to_owned) }
}

pub async fn post(store: &Shop, run: &str, body: MessageBody) -> Posted {
    store.post(NewMessage { run: id(run), body }).await.unwrap()
}

/// Parks the run that process 1 advances.
pub async fn park(store: &Shop, run: &str, until: Option<u64>, signals: &[&str]) {
    let signals = signals.iter().map(|&name| name.to_owned()).collect();
    let waiting = Waiting { until: until.map(Timestamp), signals, people: false };
    let park = Append { next: Next::Park(waiting), ..store.with(run, None) };
    assert!(!store.append(park).await.unwrap().due);
}

pub async fn state_of(store: &Shop, run: &str) -> RunState {
    store.run(&id(run)).await.unwrap().unwrap().state
}

pub fn end(session: SessionId, run: &str, epoch: u64) -> Append {
    let spent = Spent { tokens: 5, micros: 7, time_ms: 1 };
    let next = Next::End { outcome: Ok(Json::null()), spent };
    Append::new(id(run), session, Epoch(epoch), Timestamp(40), next)
}
