//! The store's contract as tests, run over every implementation: [`conformance!`](crate::conformance!)
//! makes a test of each, over the stores that it is given.
#![allow(clippy::unwrap_used)]

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

pub async fn modules_are_kept_by_digest(stores: Vec<Shop>) {
    for store in stores {
        let digest = store.put_module("a", b"one").await.unwrap();
        assert_eq!(digest, Digest::of(b"one"));
        assert_eq!(store.put_module("b", b"one").await.unwrap(), digest);
        store.put_module("a", b"two").await.unwrap();
        assert_eq!(store.module(digest).await.unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(store.module(Digest::of(b"none")).await.unwrap(), None);
        let names: Vec<_> = store.modules().await.unwrap().into_iter().map(|m| (m.name, m.bytes)).collect();
        assert_eq!(names, [("a".to_owned(), 3), ("a".to_owned(), 3)]);
    }
}

pub async fn a_journal_comes_back_as_it_was_appended(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        assert!(machine.receive("s".to_owned(), Json::null(), None, Timestamp(20)));
        store.append(store.with("r", Some(row(&mut machine)))).await.unwrap();
        let journal =
            wfhost_core::Journal::read(store.journal(&id("r"), Position(0)).await.unwrap()).unwrap();
        assert_eq!(journal.head, machine.head());
        assert!(matches!(journal.entries[1].event, Event::Received { .. }));
        let info = store.run(&id("r")).await.unwrap().unwrap();
        assert_eq!((info.entries, info.updated_at), (Position(2), Timestamp(20)));
    }
}

pub async fn parking_looks_for_what_came_in(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let waiting = Waiting { until: Some(Timestamp(99)), signals: vec!["go".to_owned()], people: false };
        let park = || Append { next: Next::Park(waiting.clone()), ..store.with("r", None) };
        assert_eq!(post(&store, "r", signal("go", None)).await, Posted::Added);
        assert!(store.append(park()).await.unwrap().due);
        assert_eq!(store.run(&id("r")).await.unwrap().unwrap().state, RunState::Running);
        let message = store.inbox(&id("r"), Part::Next).await.unwrap().messages[0].id;
        store.append(Append { consumed: vec![message], ..store.with("r", None) }).await.unwrap();
        // A signal that it does not wait for.
        assert_eq!(post(&store, "r", signal("other", None)).await, Posted::Added);
        assert!(!store.append(park()).await.unwrap().due);
        let info = store.run(&id("r")).await.unwrap().unwrap();
        assert_eq!((info.state, info.waiting, info.lease), (RunState::Waiting, Some(waiting.clone()), None));
        assert_eq!(store.bodies("r").await.len(), 1);
    }
}

pub async fn a_request_to_stop_always_wakes(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        assert_eq!(post(&store, "r", MessageBody::Cancel { reason: None }).await, Posted::Added);
        let park = Append { next: Next::Park(Waiting::default()), ..store.with("r", None) };
        assert!(store.append(park).await.unwrap().due);
    }
}

pub async fn a_signal_with_an_id_is_delivered_once_for_the_life_of_the_run(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Added);
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Duplicate);
        let message = store.inbox(&id("r"), Part::Next).await.unwrap().messages[0].id;
        store.append(Append { consumed: vec![message], ..store.with("r", None) }).await.unwrap();
        assert!(store.bodies("r").await.is_empty());
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Duplicate);
        let end = Next::End { outcome: Ok(Json::null()), spent: Spent::default() };
        store.append(Append { next: end, ..store.with("r", None) }).await.unwrap();
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Duplicate);
        assert_eq!(post(&store, "r", signal("s", Some("2"))).await, Posted::Ended);
        assert_eq!(post(&store, "x", signal("s", None)).await, Posted::NoSuchRun);
    }
}

pub async fn runs_are_listed_newest_first_by_filters_and_pages(stores: Vec<Shop>) {
    for store in stores {
        for run in ["a1", "a2", "b1"] {
            create(&store, run, None).await.1.unwrap();
        }
        let list = async |filter| {
            let runs = store.runs(filter).await.unwrap();
            runs.into_iter().map(|info| info.id.to_string()).collect::<Vec<_>>()
        };
        let all = RunFilter::default;
        assert_eq!(list(all()).await, ["b1", "a2", "a1"]);
        let a2 = Some(store.info("a2").await.number);
        assert_eq!(list(RunFilter { before: a2, ..all() }).await, ["a1"]);
        let of_a = vec![("run".to_owned(), "a1".to_owned())];
        assert_eq!(list(RunFilter { before: a2, labels: of_a, ..all() }).await, ["a1"]);
        assert_eq!(list(RunFilter { prefix: Some("a".to_owned()), limit: 1, ..all() }).await, ["a2"]);
        assert_eq!(
            list(RunFilter { labels: vec![("run".to_owned(), "a1".to_owned())], ..all() }).await,
            ["a1"]
        );
        let some = |ids: &[&str]| RunFilter { ids: Some(ids.iter().map(|run| id(run)).collect()), ..all() };
        assert_eq!(list(some(&["a1", "none", "b1"])).await, ["b1", "a1"]);
        assert!(list(some(&[])).await.is_empty());
        assert!(list(RunFilter { states: vec![RunState::Waiting], ..all() }).await.is_empty());
        assert!(list(RunFilter { workflow: Some("x".to_owned()), ..all() }).await.is_empty());
    }
}

/// Whoever reads page after page meets every run that is there all the time, whatever is deleted meanwhile.
pub async fn pages_go_on_where_they_were_when_the_run_before_them_is_deleted(stores: Vec<Shop>) {
    for store in stores {
        for run in ["a", "b", "c", "d"] {
            create(&store, run, None).await.1.unwrap();
        }
        let page = async |before| {
            let runs = store.runs(RunFilter { before, limit: 2, ..RunFilter::default() }).await.unwrap();
            let ids: Vec<_> = runs.iter().map(|info| info.id.to_string()).collect();
            (runs.last().map(|info| info.number), ids)
        };
        let (last, ids) = page(None).await;
        assert_eq!(ids, ["d", "c"]);
        for run in ["c", "d"] {
            park(&store, run, None, &[]).await;
            assert_eq!(store.delete(&id(run)).await.unwrap(), Deleted::Yes);
        }
        create(&store, "e", None).await.1.unwrap();
        assert_eq!(page(last).await.1, ["b", "a"]);
        assert_eq!(page(Some(u64::MAX)).await.1, ["e", "b"]);
        let before = RunFilter { before: last, ..RunFilter::default() };
        assert_eq!(store.count_runs(before).await.unwrap(), 2);
    }
}

/// Parks the run that process 1 advances.
pub async fn park(store: &Shop, run: &str, until: Option<u64>, signals: &[&str]) {
    let signals = signals.iter().map(|&name| name.to_owned()).collect();
    let waiting = Waiting { until: until.map(Timestamp), signals, people: false };
    let park = Append { next: Next::Park(waiting), ..store.with(run, None) };
    assert!(!store.append(park).await.unwrap().due);
}

pub fn question(step: u64) -> QuestionChange {
    let question = wfhost_core::Question {
        prompt: "Go on?".to_owned(),
        schema: None,
        choices: vec!["yes".to_owned(), "no".to_owned()],
        details: None,
    };
    QuestionChange::Asked { step: Step(step), at: Timestamp(step), deadline: None, question }
}

pub async fn questions_are_listed_oldest_first_and_answered_once(stores: Vec<Shop>) {
    for store in stores {
        for (run, step) in [("b", 7), ("a", 3)] {
            create(&store, run, None).await.1.unwrap();
            let questions = vec![question(step)];
            store.append(Append { questions, ..store.with(run, None) }).await.unwrap();
        }
        let open = async |run: Option<&str>| {
            let run = run.map(id);
            let open = store.questions(run.as_ref(), 10).await.unwrap();
            open.into_iter().map(|open| (open.run.to_string(), open.step.0)).collect::<Vec<_>>()
        };
        assert_eq!(open(None).await, [("a".to_owned(), 3), ("b".to_owned(), 7)]);
        assert_load(&store).await;
        let answer = |step| MessageBody::Answer {
            step: Step(step),
            outcome: Ok(Json::null()),
            by: Some("ann".to_owned()),
            note: None,
        };
        assert_eq!(post(&store, "a", answer(4)).await, Posted::NoQuestion);
        assert_eq!(post(&store, "a", answer(3)).await, Posted::Added);
        assert_eq!(post(&store, "a", answer(3)).await, Posted::NoQuestion);
        assert_eq!(open(None).await, [("b".to_owned(), 7)]);
        assert!(open(Some("a")).await.is_empty());
        assert_eq!(store.bodies("a").await[0], answer(3));
        let closed = vec![QuestionChange::Closed { step: Step(7) }];
        store.append(Append { questions: closed, ..store.with("b", None) }).await.unwrap();
        assert!(open(None).await.is_empty());
    }
}

pub async fn messages_for_outsiders_are_read_behind_a_place(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let message = |name: &str| Emission::Message {
            name: name.to_owned(),
            payload: Json::string(name),
            at: Timestamp(5),
        };
        let emissions = vec![message("a"), message("b"), message("c")];
        store.append(Append { emissions, ..store.with("r", None) }).await.unwrap();
        let read = async |after, limit| {
            let found = store.messages(&id("r"), after, limit).await.unwrap();
            found.into_iter().map(|message| (message.number, message.name)).collect::<Vec<_>>()
        };
        let numbered = |number: u64, name: &str| (number, name.to_owned());
        assert_eq!(read(None, 2).await, [numbered(0, "a"), numbered(1, "b")]);
        assert_eq!(read(Some(1), 9).await, [numbered(2, "c")]);
    }
}

pub async fn changes_of_all_runs_come_in_one_order_without_gaps(stores: Vec<Shop>) {
    for store in stores {
        let (mut a, _) = create(&store, "a", None).await;
        let (mut b, _) = create(&store, "b", None).await;
        for n in 0..4 {
            let (run, machine) = if n % 2 == 0 { ("a", &mut a) } else { ("b", &mut b) };
            machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
            let row = row(machine);
            store.append(store.with(run, Some(row))).await.unwrap();
        }
        let all = store.changes(0, 100).await.unwrap();
        let seen: Vec<_> = all.iter().map(|change| (change.run.to_string(), change.row.first.0)).collect();
        let expected = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)];
        assert_eq!(seen, expected.map(|(run, at)| (run.to_owned(), at)));
        assert!(all.is_sorted_by(|one, next| one.place < next.place));
        assert_eq!(store.changes(all[3].place, 1).await.unwrap(), all[4..5]);
        assert!(store.changes(all[5].place, 1).await.unwrap().is_empty());
    }
}

pub async fn what_is_kept_besides_the_journal_can_be_replaced(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let log = |message: &str| {
            let (number, at, level) = (9, Timestamp(1), LogLevel::Info);
            Emission::Log(LogLine { number, at, level, message: message.to_owned(), fields: Vec::new() })
        };
        let emissions = vec![
            log("old"),
            log("older"),
            Emission::State { key: "k".to_owned(), value: Json::null(), at: Timestamp(1) },
        ];
        store.append(Append { emissions, ..store.with("r", None) }).await.unwrap();
        let info = store.run(&id("r")).await.unwrap().unwrap();
        let info = RunInfo {
            workflow: "other".to_owned(),
            state: RunState::Waiting,
            waiting: Some(Waiting { people: true, until: Some(Timestamp(77)), ..Waiting::default() }),
            labels: Vec::new(),
            lease: None,
            due_at: Some(Timestamp(77)),
            ..info
        };
        let rebuilt = Rebuilt { info, emissions: Some(vec![log("new")]), questions: vec![question(4)] };
        assert!(!store.rebuild(rebuilt.clone()).await.unwrap(), "somebody advances it");
        park(&store, "r", None, &[]).await;
        let longer = RunInfo { entries: Position(9), ..rebuilt.info.clone() };
        assert!(!store.rebuild(Rebuilt { info: longer, ..rebuilt.clone() }).await.unwrap());
        assert!(store.rebuild(rebuilt.clone()).await.unwrap());
        let found = store.run(&id("r")).await.unwrap().unwrap();
        let expected = RunInfo { emissions: 1, head: found.head, ..rebuilt.info };
        assert_eq!(found, expected);
        let lines: Vec<_> = store.logs(&id("r"), 0, 10).await.unwrap();
        assert_eq!((lines.len(), lines[0].number, lines[0].message.as_str()), (1, 0, "new"));
        assert!(store.state(&id("r")).await.unwrap().is_empty());
        assert_eq!(store.questions(None, 9).await.unwrap()[0].step, Step(4));
    }
}

/// What no entry says is decided by the store: whoever makes something anew has read that some time ago.
pub async fn what_came_in_the_meantime_outlives_what_is_made_anew(stores: Vec<Shop>) {
    for store in stores {
        let waiting = || Some(Waiting { signals: vec!["go".to_owned()], ..Waiting::default() });
        let read = async |run: &str| RunInfo { waiting: waiting(), ..store.info(run).await };
        // Gives the state of the run then, and when it is due.
        let rebuild = async |info: RunInfo| {
            let run = info.id.clone();
            let rebuilt = Rebuilt { info, emissions: None, questions: Vec::new() };
            assert!(store.rebuild(rebuilt).await.unwrap());
            let found = store.run(&run).await.unwrap().unwrap();
            let waits = (found.state == RunState::Waiting).then(waiting).flatten();
            assert_eq!(found.waiting, waits, "{run}");
            (found.state, found.due_at)
        };
        let cancel = || MessageBody::Cancel { reason: None };
        let due = Some(Timestamp(0));
        for run in ["signal", "other", "pause", "cancel", "resume", "refused", "resting"] {
            create(&store, run, None).await.1.unwrap();
            if !["refused", "resting"].contains(&run) {
                park(&store, run, None, &["go"]).await;
            }
        }

        let info = read("signal").await;
        assert_eq!(post(&store, "signal", signal("go", None)).await, Posted::Added);
        assert_eq!(rebuild(info).await, (RunState::Waiting, due));
        let info = read("other").await;
        assert_eq!(post(&store, "other", signal("other", None)).await, Posted::Added);
        assert_eq!(rebuild(info).await, (RunState::Waiting, None));

        let info = read("pause").await;
        assert_eq!(post(&store, "pause", MessageBody::Pause).await, Posted::Added);
        assert_eq!(rebuild(info).await, (RunState::Paused, None));

        assert_eq!(post(&store, "cancel", MessageBody::Pause).await, Posted::Added);
        assert_eq!(post(&store, "cancel", cancel()).await, Posted::Added);
        assert_eq!(rebuild(read("cancel").await).await, (RunState::Paused, due));

        assert_eq!(post(&store, "resume", MessageBody::Pause).await, Posted::Added);
        let info = read("resume").await;
        assert_eq!(info.state, RunState::Paused);
        let opened = store.opened(store.mine, "resume").await;
        let next = Next::Park(waiting().unwrap());
        store.append(Append { epoch: opened.epoch, next, ..store.with("resume", None) }).await.unwrap();
        assert_eq!(rebuild(info).await, (RunState::Waiting, None));

        // Why it was refused stays, and that it was asked to stop.
        let refuse = Next::Refuse { reason: "it departs".to_owned() };
        store.append(Append { next: refuse, ..store.with("refused", None) }).await.unwrap();
        let refused = store.info("refused").await;
        let info = RunInfo { state: RunState::Running, outcome: None, ..read("refused").await };
        assert_eq!(rebuild(info).await, (RunState::Refused, None));
        assert_eq!(store.info("refused").await.outcome, refused.outcome);
        assert_eq!(post(&store, "refused", cancel()).await, Posted::Added);
        let info = read("refused").await;
        assert_eq!(rebuild(info.clone()).await, (RunState::Refused, due));
        assert_eq!(store.unpause(&id("refused")).await, Ok(true));
        assert_eq!(rebuild(info).await, (RunState::Running, due));
        assert_eq!(store.info("refused").await.outcome, None);

        // One that rests after a trouble goes on resting.
        store.at(50_000);
        let trouble = Some("no provider".to_owned());
        let next = Next::Release { waiting: waiting(), trouble };
        store.append(Append { next, ..store.with("resting", None) }).await.unwrap();
        let rests = store.info("resting").await.due_at;
        assert!(rests > Some(Timestamp(50_000)), "{rests:?}");
        assert_eq!(rebuild(read("resting").await).await, (RunState::Waiting, rests));

        // What the journal says is so.
        let info =
            RunInfo { state: RunState::Completed, outcome: Some(Ok(Json::null())), ..read("other").await };
        assert_eq!(rebuild(info.clone()).await, (RunState::Completed, None));
        let info = RunInfo { state: RunState::Running, outcome: None, ..info };
        assert_eq!(rebuild(info).await, (RunState::Running, due));
    }
}

pub async fn transcripts_are_kept_in_order_and_go_with_their_run(stores: Vec<Shop>) {
    for store in stores {
        let (_, created) = create(&store, "r", None).await;
        created.unwrap();
        create(&store, "other", None).await.1.unwrap();
        let line = |step, kind, text: &str| NewTranscript {
            step: Step(step),
            attempt: 1,
            at: Timestamp(20),
            kind,
            text: text.to_owned(),
        };
        let run = id("r");
        let lines = vec![
            line(1, TranscriptKind::Answer, "a"),
            line(2, TranscriptKind::Event, "{}"),
            line(1, TranscriptKind::Progress, "b"),
        ];
        store.transcribe(&run, lines.clone()).await.unwrap();
        store.transcribe(&id("nobody"), lines.clone()).await.unwrap();
        store.transcribe(&id("other"), vec![lines[0].clone()]).await.unwrap();
        let read = async |filter| {
            let lines = store.transcript(&run, filter, 100).await.unwrap();
            lines.into_iter().map(|line| line.line.text).collect::<Vec<_>>()
        };
        assert_eq!(read(TranscriptFilter::default()).await, ["a", "{}", "b"]);
        let step = TranscriptFilter { step: Some(Step(1)), ..TranscriptFilter::default() };
        assert_eq!(read(step).await, ["a", "b"]);
        let kinds = vec![TranscriptKind::Progress, TranscriptKind::Event];
        assert_eq!(read(TranscriptFilter { kinds, ..TranscriptFilter::default() }).await, ["{}", "b"]);
        let first = store.transcript(&run, TranscriptFilter::default(), 1).await.unwrap();
        assert_eq!(first.len(), 1);
        let rest = TranscriptFilter { after: first[0].number, ..TranscriptFilter::default() };
        assert_eq!(read(rest).await, ["{}", "b"]);
        let whole = store.transcript(&run, TranscriptFilter::default(), 9).await.unwrap();
        assert_eq!(store.transcript_end(&run).await, Ok(whole[2].number));
        assert_eq!(store.transcript_end(&id("nobody")).await, Ok(0));
        assert_eq!(store.last_heartbeat(&run, Step(1)).await.unwrap(), None);
        let beats = ["5", "6"].map(|beat| line(1, TranscriptKind::Heartbeat, beat)).to_vec();
        store.transcribe(&run, beats).await.unwrap();
        assert_eq!(store.last_heartbeat(&run, Step(1)).await.unwrap().as_deref(), Some("6"));
        park(&store, "r", None, &[]).await;
        assert_eq!(store.delete(&run).await.unwrap(), Deleted::Yes);
        assert_eq!(read(TranscriptFilter::default()).await, [""; 0]);
        assert_eq!(store.transcript_end(&run).await, Ok(0));
    }
}

pub async fn the_latest_answer_to_a_question_is_kept(stores: Vec<Shop>) {
    for store in stores {
        let key = Digest::of(b"question");
        assert_eq!(store.kept_answer(key).await.unwrap(), None);
        for at in [30, 40] {
            let reply = Json::from(serde_json::json!({ "at": at }));
            store.keep_answer(key, Timestamp(at), reply.clone()).await.unwrap();
            assert_eq!(store.kept_answer(key).await.unwrap(), Some((Timestamp(at), reply)));
        }
        assert_eq!(store.kept_answer(Digest::of(b"other")).await.unwrap(), None);
    }
}

/// A child of `parent` at a step, as a driver makes it.
pub fn child(parent: &mut Machine, step: u64, name: Option<&str>, on_close: OnParentClose) -> NewRun {
    let step = Step(step);
    let run = name.map_or_else(|| parent.run().child(step), id);
    let depth = parent.child().map_or(0, |child| child.depth) + 1;
    let child = ChildOf { step, root: parent.root().clone(), depth, on_close };
    started(Started {
        run,
        parent: Some(parent.run().clone()),
        child: Some(child),
        ..parent.started().clone()
    })
}

/// The next round of a run, as a driver makes it.
pub fn next_round(old: &Machine, name: &str) -> NewRun {
    started(round_after(old, name))
}

pub fn round_after(old: &Machine, name: &str) -> Started {
    let (first, round) = old.round();
    let (first, from) = (first.clone(), old.run().clone());
    let origin = Origin::Continued { first, from, round: round + 1, spent: Spent::default() };
    Started { run: id(name), origin: Some(origin), ..old.started().clone() }
}

fn started(started: Started) -> NewRun {
    let mut machine = Machine::start(started, Timestamp(15));
    let rows = machine.take_unsaved().map(Row::from).into_iter().collect();
    NewRun::new(&machine, rows)
}

pub async fn state_of(store: &Shop, run: &str) -> RunState {
    store.run(&id(run)).await.unwrap().unwrap().state
}

pub fn end(session: SessionId, run: &str, epoch: u64) -> Append {
    let spent = Spent { tokens: 5, micros: 7, time_ms: 1 };
    let next = Next::End { outcome: Ok(Json::null()), spent };
    Append::new(id(run), session, Epoch(epoch), Timestamp(40), next)
}

pub async fn children_are_cancelled_with_their_parent_unless_they_are_abandoned(stores: Vec<Shop>) {
    for store in stores {
        let (mut parent, _) = create(&store, "p", None).await;
        let children = vec![
            child(&mut parent, 1, None, OnParentClose::Cancel),
            child(&mut parent, 2, Some("left"), OnParentClose::Abandon),
            child(&mut parent, 3, None, OnParentClose::Cancel),
        ];
        store.append(Append { children, ..store.with("p", None) }).await.unwrap();
        let is_cancelled = async |run: &str| {
            matches!(&store.bodies(run).await[..], [MessageBody::Cancel { reason: Some(reason) }]
                if reason.contains("parent"))
        };
        store.append(Append { dropped: vec![Step(1), Step(2)], ..store.with("p", None) }).await.unwrap();
        assert!(is_cancelled("p.1").await && !is_cancelled("p.3").await);
        store.append(end(store.mine, "p", 1)).await.unwrap();
        assert!(is_cancelled("p.3").await);
        assert!(store.bodies("left").await.is_empty());
    }
}

pub async fn a_child_that_is_deleted_is_a_failure_of_its_parent(stores: Vec<Shop>) {
    for store in stores {
        let (mut parent, _) = create(&store, "p", None).await;
        let children = vec![child(&mut parent, 1, None, OnParentClose::Cancel)];
        store.append(Append { children, ..store.with("p", None) }).await.unwrap();
        assert_eq!(store.delete(&id("p.1")).await.unwrap(), Deleted::Yes);
        assert!(matches!(
            &store.bodies("p").await[..],
            [MessageBody::Child { outcome: Err(failure), .. }] if failure.message == "p.1 was deleted"
        ));
    }
}

pub async fn a_run_continues_as_another_with_what_is_in_its_inbox(stores: Vec<Shop>) {
    for store in stores {
        let (mut first, _) = create(&store, "r", None).await;
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Added);
        let next =
            |machine: &Machine, name: &str| Next::Continue { run: Box::new(next_round(machine, name)) };
        // An id that is somebody else's changes nothing.
        create(&store, "taken", None).await.1.unwrap();
        let taken = Append { next: next(&first, "taken"), ..store.with("r", None) };
        assert_eq!(store.append(taken).await, Err(StoreError::IdTaken { id: id("taken") }));
        let goes_on = next(&first, "r-2");
        first.continue_as(id("r-2"), Timestamp(50));
        let row = Some(row(&mut first));
        store.append(Append { next: goes_on, ..store.with("r", row) }).await.unwrap();
        let old = store.run(&id("r")).await.unwrap().unwrap();
        assert_eq!((old.state, old.links.next.clone()), (RunState::Continued, Some(id("r-2"))));
        assert_eq!(old.links, Links::of(&first));
        let new = store.run(&id("r-2")).await.unwrap().unwrap();
        assert_eq!((new.state, new.links.root, new.links.chain), (RunState::Queued, id("r"), Some(id("r"))));
        assert_eq!(store.bodies("r-2").await, [signal("s", Some("1"))]);
        assert!(store.bodies("r").await.is_empty());
        // What is sent to the first goes to the latest, and is still delivered once.
        assert_eq!(post(&store, "r", signal("s", Some("2"))).await, Posted::Continued(id("r-2")));
        assert_eq!(post(&store, "r-2", signal("s", Some("1"))).await, Posted::Duplicate);
        assert_eq!(post(&store, "r-2", signal("s", Some("2"))).await, Posted::Added);
        let rounds = RunFilter { chain: Some(id("r")), ..RunFilter::default() };
        assert_eq!(store.runs(rounds).await.unwrap().len(), 2);
    }
}

pub async fn a_key_gives_the_same_run_of_its_workflow_and_an_id_is_taken_once(stores: Vec<Shop>) {
    for store in stores {
        assert_eq!(create(&store, "a", Some("k")).await.1.unwrap(), Created::New);
        assert_eq!(create(&store, "b", Some("k")).await.1.unwrap(), Created::Known(id("a")));
        assert_eq!(create(&store, "a", None).await.1, Err(StoreError::IdTaken { id: id("a") }));
        assert_eq!(store.runs(RunFilter::default()).await.unwrap().len(), 1);
        // With something else it is another question.
        let with = async |name: &str, workflow: &str, module: Digest, input: Json| {
            let other =
                Started { workflow: workflow.to_owned(), input, ..machine(name, module).started().clone() };
            let mut machine = Machine::start(other, Timestamp(10));
            let rows = vec![row(&mut machine)];
            store.create(NewRun { key: Some("k".to_owned()), ..NewRun::new(&machine, rows) }).await
        };
        let module = Digest::of(b"module");
        let other = store.put_module("w", b"other").await.unwrap();
        let used = |differs| Err(StoreError::KeyUsed { key: "k".to_owned(), run: id("a"), differs });
        assert_eq!(with("c", "w", module, Json::string("x")).await, used("input"));
        assert_eq!(with("c", "w", other, Json::null()).await, used("module"));
        assert_eq!(with("c", "v", other, Json::string("x")).await, Ok(Created::New));
    }
}

pub async fn a_stale_session_epoch_position_or_head_appends_nothing(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        let first = received(&mut machine);
        let fenced = Err(StoreError::Fenced { run: id("r") });
        let good = store.with("r", Some(first.clone()));
        for stale in [
            Append { epoch: Epoch(2), ..good.clone() },
            Append { session: store.other, ..good.clone() },
            Append { before: Digest([9; 32]), ..good.clone() },
            Append { row: Some(Row { first: Position(5), ..first.clone() }), ..good.clone() },
        ] {
            assert_eq!(store.append(stale).await, fenced);
        }
        let place = store.append(good.clone()).await.unwrap().place;
        // The same once more: the position has passed.
        for after in [None, place] {
            let again = Append { after, ..good.clone() };
            assert_eq!(store.append(again.clone()).await, fenced);
            assert_eq!(store.append(Append { epoch: Epoch(2), row: None, ..again }).await, fenced);
        }
        // A place that is another run's, or nobody's, is looked up.
        create(&store, "other", None).await.1.unwrap();
        let other = store.append(store.with("other", None)).await.unwrap().place;
        for after in [other, Some(1_000)] {
            let row = received(&mut machine);
            let next = Append { after, ..store.with("r", Some(row)) };
            assert!(store.append(next).await.unwrap().place > place);
        }
        assert_eq!(store.journal(&id("r"), Position(0)).await.unwrap().len(), 4);
        let release = Next::Release { waiting: None, trouble: None };
        store.append(Append { next: release, ..store.with("r", None) }).await.unwrap();
        assert_eq!(store.append(store.with("r", None)).await, fenced);
    }
}

pub async fn a_session_is_renewed_for_all_its_runs_and_fenced_as_a_whole(stores: Vec<Shop>) {
    for store in stores {
        let mut machines = Vec::new();
        for run in ["a", "b"] {
            machines.push(create(&store, run, None).await.0);
        }
        let sessions = store.sessions().await.unwrap();
        let mine = sessions.iter().find(|session| session.id == store.mine).unwrap();
        assert_eq!((&mine.owner, mine.left_ms), (&owner(1), LEASE));
        let held = Claimed::Held { session: store.mine, owner: owner(1), left_ms: LEASE };
        assert_eq!(store.claim_as(store.other, "a", ClaimHow::Asked).await, held);
        // The time of day may jump as it likes.
        store.at(1_000_000);
        assert_eq!(store.claim_as(store.other, "a", ClaimHow::Asked).await, held);
        assert_eq!(store.fence(store.mine, Fence::IfOver).await.unwrap(), 0);
        store.ticks(LEASE - 1);
        assert!(matches!(store.keep(store.mine).await.unwrap(), Kept::Until { .. }));
        store.ticks(2 * LEASE - 2);
        let held = store.claim_as(store.other, "a", ClaimHow::Asked).await;
        assert!(matches!(held, Claimed::Held { left_ms: 1, .. }), "{held:?}");
        // It is over, and yet its owner's, until somebody wants it.
        store.ticks(3 * LEASE);
        store.append(store.with("a", None)).await.unwrap();
        assert!(matches!(store.keep(store.mine).await.unwrap(), Kept::Until { .. }));
        store.ticks(5 * LEASE);
        assert_eq!(store.fence(store.mine, Fence::IfOver).await.unwrap(), 2);
        assert_eq!(store.keep(store.mine).await.unwrap(), Kept::Fenced);
        let row = received(&mut machines[0]);
        let late = store.append(store.with("a", Some(row))).await;
        assert_eq!(late, Err(StoreError::Fenced { run: id("a") }));
        assert_eq!(store.claim(store.mine, &id("a"), ClaimHow::Asked).await, Err(StoreError::SessionOver));
        store.keep(store.other).await.unwrap();
        let (mut due, _, _) = store.due(9, Wanted::default()).await;
        due.sort();
        assert_eq!(due, ["a", "b"]);
        // Of a claim that nobody knows of it can be rid.
        assert_eq!(store.shed(store.other, vec![id("a")]).await.unwrap(), 1);
        assert_eq!(store.due(9, Wanted::default()).await.0, ["b"]);
        // A session that ends in order leaves its runs at once, and without a stain.
        assert_eq!(store.end_session(store.other).await.unwrap(), 2);
        let third = store.begin_session(&owner(3), LEASE).await.unwrap();
        assert_eq!(store.opened(third, "a").await.starts, 1);
    }
}

pub async fn whoever_comes_for_a_run_of_a_session_that_is_over_gets_it(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        store.ticks(LEASE);
        let opened = store.opened(store.other, "r").await;
        assert_eq!((opened.epoch, opened.starts, opened.was), (Epoch(2), 1, RunState::Running));
        assert_eq!(store.append(store.with("r", None)).await, Err(StoreError::Fenced { run: id("r") }));
        // Whoever has it gets it once more.
        assert_eq!(store.opened(store.other, "r").await.epoch, Epoch(3));
        let none = store.claim(store.other, &id("x"), ClaimHow::Asked).await.unwrap();
        assert_eq!(none, Claimed::NoSuchRun);
    }
}

pub async fn a_run_is_seized_from_a_session_that_lives(stores: Vec<Shop>) {
    for store in stores {
        for run in ["r", "s"] {
            create(&store, run, None).await.1.unwrap();
        }
        let mut held = store.held(store.mine).await.unwrap();
        held.sort();
        assert_eq!(held, [(id("r"), Epoch(1)), (id("s"), Epoch(1))]);
        let Claimed::Yes(opened) = store.claim_as(store.other, "r", ClaimHow::Seize).await else {
            panic!("it is had")
        };
        assert_eq!((opened.epoch, opened.was), (Epoch(2), RunState::Running));
        // Only that run is lost, and nothing is appended to it any more by whoever had it.
        assert_eq!(store.append(store.with("r", None)).await, Err(StoreError::Fenced { run: id("r") }));
        store.append(store.with("s", None)).await.unwrap();
        assert_eq!(store.held(store.mine).await.unwrap(), [(id("s"), Epoch(1))]);
        assert_eq!(store.held(store.other).await.unwrap(), [(id("r"), Epoch(2))]);
        let none = store.claim_as(store.other, "x", ClaimHow::Seize).await;
        assert_eq!(none, Claimed::NoSuchRun);
    }
}

pub async fn a_claim_opens_the_run_in_one_go(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        let row = received(&mut machine);
        let head = row.head;
        let given = Some(Given::Counted(3));
        store.append(Append { given, ..store.with("r", Some(row)) }).await.unwrap();
        park(&store, "r", Some(500), &["go"]).await;
        post(&store, "r", signal("go", None)).await;
        let opened = store.opened(store.other, "r").await;
        assert_eq!((opened.rows.len(), opened.rows[1].head), (2, head));
        assert_eq!((opened.given, opened.module), (Given::Counted(3), Digest::of(b"module")));
        assert_eq!(opened.was, RunState::Waiting);
        assert_eq!(opened.waited.as_ref().unwrap().signals, ["go"]);
        assert_eq!(opened.inbox.messages.len(), 1);
        // The place is that of the last commit.
        let row = received(&mut machine);
        let (session, epoch) = (store.other, Epoch(2));
        let next = Append { session, epoch, after: opened.place, ..store.with("r", Some(row)) };
        store.append(next).await.unwrap();
    }
}

pub async fn a_run_that_was_parked_by_a_clock_that_was_ahead_is_due_when_it_is_right(stores: Vec<Shop>) {
    for store in stores {
        for (run, until) in [("ahead", 3_700_000), ("right", 200_000)] {
            create(&store, run, None).await.1.unwrap();
            store.at(if run == "ahead" { 3_600_000 } else { 100_000 });
            park(&store, run, Some(until), &[]).await;
        }
        assert_eq!(store.due(9, Wanted::default()).await.0, Vec::<String>::new());
        assert_eq!(store.put_right().await.unwrap(), 1);
        assert_eq!(store.due(9, Wanted::default()).await.0, ["ahead"]);
        assert_eq!(store.put_right().await.unwrap(), 0);
    }
}

pub async fn a_run_that_was_begun_by_a_clock_that_was_ahead_is_due_at_once(stores: Vec<Shop>) {
    for store in stores {
        let module = store.put_module("w", b"module").await.unwrap();
        let mut machine = machine("r", module);
        let rows = vec![row(&mut machine)];
        let new = NewRun { created_at: Timestamp(u64::MAX >> 2), ..NewRun::new(&machine, rows) };
        store.create(new).await.unwrap();
        assert_eq!(store.due(9, Wanted::default()).await.0, ["r"]);
    }
}

pub async fn what_is_due_is_claimed_together_in_the_order_of_its_time(stores: Vec<Shop>) {
    for store in stores {
        for (run, until) in [("late", Some(300)), ("soon", Some(200)), ("never", None), ("held", None)] {
            create(&store, run, None).await.1.unwrap();
            if run != "held" {
                park(&store, run, until, &["go"]).await;
            }
        }
        store.at(100);
        assert_eq!(store.due(9, Wanted::default()).await, (vec![], false, Some(100)));
        store.at(250);
        assert_eq!(store.due(0, Wanted::default()).await, (vec![], true, Some(50)));
        let before = store.commits();
        assert_eq!(store.due(9, Wanted::default()).await.0, ["soon"]);
        assert_eq!(store.commits(), before + 1);
        post(&store, "never", signal("other", None)).await;
        store.at(300);
        post(&store, "never", signal("go", None)).await;
        assert_eq!(store.due(1, Wanted::default()).await, (vec!["never".to_owned()], true, None));
        assert_eq!(store.due(9, Wanted::default()).await.0, ["late"]);
        assert!(store.due(9, Wanted::default()).await.0.is_empty());
        // What nobody advances any more is due like everything else.
        store.fence(store.mine, Fence::Dead).await.unwrap();
        assert_eq!(store.due(9, Wanted::default()).await.0, ["held"]);
    }
}

pub async fn new_runs_come_behind_those_that_have_begun_and_have_a_share(stores: Vec<Shop>) {
    for store in stores {
        for n in 0..8 {
            enqueue(&store, &format!("new{n}"), None).await;
            create(&store, &format!("begun{n}"), None).await.1.unwrap();
            park(&store, &format!("begun{n}"), Some(10), &[]).await;
        }
        store.at(50);
        let new = |runs: &[String]| runs.iter().filter(|run| run.starts_with("new")).count();
        let (four, _, _) = store.due(4, Wanted::default()).await;
        assert_eq!((four.len(), new(&four)), (4, 1), "{four:?}");
        // One after the other they do not starve either.
        let mut singles = Vec::new();
        for _ in 0..4 {
            singles.extend(store.due(1, Wanted::default()).await.0);
        }
        assert_eq!((singles.len(), new(&singles)), (4, 1), "{singles:?}");
        assert_eq!(store.due(20, Wanted::default()).await.0.len(), 8);
    }
}

pub async fn a_host_takes_only_the_runs_that_it_wants(stores: Vec<Shop>) {
    for store in stores {
        for (run, project) in [("a", Some("/a")), ("b", Some("/b")), ("none", None), ("left", Some("/a"))] {
            enqueue(&store, run, project).await;
        }
        store.at(50);
        let only = |projects: &[Option<&str>]| Wanted {
            projects: Projects::Only(projects.iter().map(|project| project.map(str::to_owned)).collect()),
            except: vec![id("left")],
            ..Wanted::default()
        };
        assert!(store.due(9, only(&[Some("/c")])).await.0.is_empty());
        assert_eq!(store.due(9, only(&[Some("/a")])).await.0, ["a"]);
        assert_eq!(store.due(9, only(&[Some("/a"), None])).await.0, ["none"]);
        let family = |root: &str| Wanted { families: Some(vec![id(root)]), ..Wanted::default() };
        assert!(store.busy_relatives(&id("b")).await.unwrap());
        assert!(store.due(9, family("a")).await.0.is_empty());
        assert_eq!(store.due(9, family("b")).await.0, ["b"]);
        assert!(store.busy_relatives(&id("b")).await.unwrap(), "it is advanced");
        assert_eq!(store.info("b").await.project.as_deref(), Some("/b"));
        let of = RunFilter { project: Some("/a".to_owned()), ..RunFilter::default() };
        assert_eq!(store.runs(of).await.unwrap().len(), 2);
    }
}

pub async fn a_run_belongs_to_the_project_of_its_journal_unless_it_is_said_otherwise(stores: Vec<Shop>) {
    for store in stores {
        let module = store.put_module("w", b"module").await.unwrap();
        let begun = |run: &str| {
            let config = RunConfig { project: Some("/a".to_owned()), ..RunConfig::default() };
            let mut machine = configured(run, module, config);
            let rows = vec![row(&mut machine)];
            (machine, rows)
        };
        let (machine, rows) = begun("here");
        store.create(NewRun::new(&machine, rows)).await.unwrap();
        assert_eq!(store.info("here").await.project.as_deref(), Some("/a"));
        let info = RunInfo { project: None, ..store.info("here").await };
        let rebuilt = Rebuilt { info, emissions: None, questions: Vec::new() };
        assert!(store.rebuild(rebuilt).await.unwrap());
        assert_eq!(store.opened(store.mine, "here").await.project.as_deref(), Some("/a"));
        // A run that comes from another machine, and what it begins here.
        let (machine, rows) = begun("elsewhere");
        let imported = ImportedRun {
            info: RunInfo { project: None, ..RunInfo::of(&machine) },
            rows,
            emissions: 0,
            given: Given::Nothing,
            logs: Vec::new(),
            messages: Vec::new(),
            state: Vec::new(),
            inbox: Vec::new(),
            questions: Vec::new(),
        };
        store.import(imported).await.unwrap();
        assert_eq!(store.info("elsewhere").await.project, None);
        let (machine, rows) = begun("elsewhere.1");
        store.create(NewRun { project: None, ..NewRun::new(&machine, rows) }).await.unwrap();
        assert_eq!(store.opened(store.mine, "elsewhere.1").await.project, None);
    }
}

pub async fn a_run_with_trouble_rests_longer_each_time_until_it_comes_forward(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        let waiting = Waiting { signals: vec!["go".to_owned()], ..Waiting::default() };
        let release = |epoch, waiting: Option<Waiting>| {
            let next = Next::Release { waiting, trouble: Some("no provider".to_owned()) };
            Append { epoch: Epoch(epoch), next, ..store.with("r", None) }
        };
        let mut epoch = 1;
        for rest in [30_000, 60_000, 120_000, 240_000, 480_000, 960_000, 960_000] {
            store.append(release(epoch, Some(waiting.clone()))).await.unwrap();
            let info = store.info("r").await;
            assert_eq!((info.due_at, info.trouble.as_deref()), (Some(Timestamp(rest)), Some("no provider")));
            // Somebody who asks does not wait.
            store.opened(store.mine, "r").await;
            epoch += 1;
        }
        let row = received(&mut machine);
        let go = Append { epoch: Epoch(epoch), ..store.with("r", Some(row)) };
        store.append(go).await.unwrap();
        let until = Waiting { until: Some(Timestamp(7_000)), ..waiting.clone() };
        store.append(release(epoch, Some(until))).await.unwrap();
        assert_eq!(store.info("r").await.due_at, Some(Timestamp(7_000)), "a deadline is sooner");
        assert!(store.due(9, Wanted::default()).await.0.is_empty());
        post(&store, "r", signal("other", None)).await;
        assert!(store.due(9, Wanted::default()).await.0.is_empty());
        post(&store, "r", signal("go", None)).await;
        assert_eq!(store.due(9, Wanted::default()).await.0, ["r"]);
        // Without trouble it is due at once.
        let next = Next::Release { waiting: None, trouble: None };
        let append = Append::new(id("r"), store.other, Epoch(epoch + 1), Timestamp(0), next);
        store.append(append).await.unwrap();
        assert_eq!(store.due(9, Wanted::default()).await.0, ["r"]);
    }
}

pub async fn starts_are_counted_until_the_run_comes_forward(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        let mut session = store.mine;
        for starts in 1..4 {
            store.fence(session, Fence::Dead).await.unwrap();
            session = store.begin_session(&owner(9), LEASE).await.unwrap();
            assert_eq!(store.opened(session, "r").await.starts, starts);
        }
        // Whoever compiles does not count.
        store.set_starts(session, &id("r"), Epoch(4), 2).await.unwrap();
        store.fence(session, Fence::Dead).await.unwrap();
        let opened = store.opened(store.other, "r").await;
        assert_eq!(opened.starts, 3);
        // Whoever has it and begins again, because the store failed, has not been brought down by it.
        let opened = store.opened(store.other, "r").await;
        assert_eq!(opened.starts, 3);
        let row = received(&mut machine);
        let append = Append { session: store.other, epoch: opened.epoch, ..store.with("r", Some(row)) };
        store.append(append).await.unwrap();
        store.fence(store.other, Fence::Dead).await.unwrap();
        let third = store.begin_session(&owner(3), LEASE).await.unwrap();
        assert_eq!(store.opened(third, "r").await.starts, 1);
    }
}

pub async fn only_a_claim_that_reopens_takes_a_run_that_failed(stores: Vec<Shop>) {
    for store in stores {
        for (run, outcome, opens) in [
            ("failed", Err(Failure::new(FailureKind::Failed, "m")), true),
            ("stopped", Err(Failure::new(FailureKind::Cancelled, "m")), true),
            ("done", Ok(Json::null()), false),
        ] {
            create(&store, run, None).await.1.unwrap();
            let end = Next::End { outcome: outcome.clone(), spent: Spent::default() };
            store.append(Append { next: end, ..store.with(run, None) }).await.unwrap();
            let info = store.info(run).await;
            assert_eq!((info.state, info.outcome), (RunState::of(Some(&outcome)), Some(outcome.clone())));
            assert_eq!(store.claim_as(store.other, run, ClaimHow::Asked).await, Claimed::Ended);
            match store.claim_as(store.other, run, ClaimHow::Reopen).await {
                Claimed::Yes(opened) => {
                    assert!(opens);
                    // It can be given back as it was.
                    let Opened { epoch, session, .. } = *opened;
                    let back = Append::new(id(run), session, epoch, Timestamp(0), opened.as_it_was());
                    store.append(back).await.unwrap();
                    assert_eq!(store.info(run).await.outcome, Some(outcome));
                }
                other => assert!(!opens && other == Claimed::Ended, "{run}: {other:?}"),
            }
        }
    }
}

pub async fn a_run_that_was_handed_over_can_be_given_back_as_it_was(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let (waiting, trouble) = (Some(Waiting::default()), Some("no such provider".to_owned()));
        let next = Next::Release { waiting, trouble };
        store.append(Append { next: next.clone(), ..store.with("r", None) }).await.unwrap();
        let opened = store.opened(store.other, "r").await;
        assert_eq!(opened.as_it_was(), next);
        let Opened { epoch, session, .. } = opened;
        store.append(Append::new(id("r"), session, epoch, Timestamp(0), next)).await.unwrap();
        let info = store.info("r").await;
        assert!(info.due_at.is_some(), "nothing that it waits for would ever wake it");
        assert_eq!(info.trouble.as_deref(), Some("no such provider"));
    }
}

pub async fn nothing_that_was_sent_vanishes_with_an_end(stores: Vec<Shop>) {
    for store in stores {
        let answer = MessageBody::Answer { step: Step(3), outcome: Ok(Json::null()), by: None, note: None };
        for (run, body) in
            [("s", signal("go", None)), ("a", answer.clone()), ("c", MessageBody::Cancel { reason: None })]
        {
            let (mut machine, _) = create(&store, run, None).await;
            store.append(Append { questions: vec![question(3)], ..store.with(run, None) }).await.unwrap();
            assert_eq!(post(&store, run, body).await, Posted::Added);
            let row = received(&mut machine);
            let next = Next::End { outcome: Ok(Json::null()), spent: Spent::default() };
            let end = Append { next, ..store.with(run, Some(row)) };
            let raced = Err(StoreError::Raced { run: id(run) });
            assert_eq!(store.append(end.clone()).await, raced, "{run}");
            assert_eq!(store.info(run).await.entries, Position(1), "nothing was changed");
            // Also a question may not be closed over an answer.
            if run == "a" {
                let closed = vec![QuestionChange::Closed { step: Step(3) }];
                let close = Append { questions: closed, ..store.with(run, None) };
                assert_eq!(store.append(close).await, raced);
            }
            let inbox = store.inbox(&id(run), Part::Next).await.unwrap();
            let consumed = inbox.messages.iter().map(|message| message.id).collect();
            store.append(Append { consumed, ..end }).await.unwrap();
            assert_eq!(post(&store, run, signal("go", None)).await, Posted::Ended);
        }
    }
}

pub async fn an_answer_after_the_deadline_is_refused(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let QuestionChange::Asked { step, at, question, .. } = question(3) else { unreachable!() };
        let asked = QuestionChange::Asked { step, at, deadline: Some(Timestamp(500)), question };
        store.append(Append { questions: vec![asked], ..store.with("r", None) }).await.unwrap();
        assert_eq!(store.question(&id("r"), Step(3)).await.unwrap().unwrap().deadline, Some(Timestamp(500)));
        let answer = MessageBody::Answer { step, outcome: Ok(Json::null()), by: None, note: None };
        store.at(500);
        assert_eq!(post(&store, "r", answer.clone()).await, Posted::NoQuestion);
        store.at(499);
        assert_eq!(post(&store, "r", answer).await, Posted::Added);
        assert_eq!(store.question(&id("r"), Step(3)).await.unwrap(), None);
    }
}

pub async fn a_pause_holds_up_no_request_to_stop(stores: Vec<Shop>) {
    for store in stores {
        let cancel = || MessageBody::Cancel { reason: None };
        for (run, next) in
            [("p", Next::Pause { if_asked: true }), ("f", Next::Refuse { reason: "other".to_owned() })]
        {
            create(&store, run, None).await.1.unwrap();
            assert_eq!(post(&store, run, MessageBody::Pause).await, Posted::Added);
            assert_eq!(post(&store, run, cancel()).await, Posted::Added);
            // It came in after the driver had looked.
            store.append(Append { next, ..store.with(run, None) }).await.unwrap();
            assert_eq!(store.due(9, Wanted::default()).await.0, [run]);
        }
        // What is to stop is not paused any more, whoever advances it.
        for run in ["held", "free"] {
            create(&store, run, None).await.1.unwrap();
            if run == "free" {
                park(&store, run, None, &[]).await;
            }
            assert_eq!(post(&store, run, cancel()).await, Posted::Added);
            assert_eq!(post(&store, run, MessageBody::Pause).await, Posted::Stopping);
        }
        assert_eq!(store.due(9, Wanted::default()).await.0, ["free"]);
        // Also when the request was recorded.
        let inbox = store.inbox(&id("held"), Part::Next).await.unwrap();
        let consumed = inbox.messages.iter().map(|message| message.id).collect();
        store.append(Append { consumed, ..store.with("held", None) }).await.unwrap();
        assert_eq!(post(&store, "held", MessageBody::Pause).await, Posted::Stopping);
    }
}

pub async fn a_paused_run_is_nobodys_until_somebody_asks(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "held", None).await.1.unwrap();
        create(&store, "free", None).await.1.unwrap();
        park(&store, "free", Some(50), &["go"]).await;
        // The one that is advanced is told; the other is paused on the spot.
        for run in ["held", "free"] {
            assert_eq!(post(&store, run, MessageBody::Pause).await, Posted::Added);
        }
        assert_eq!(store.bodies("held").await, [MessageBody::Pause]);
        assert!(store.bodies("free").await.is_empty());
        store
            .append(Append { next: Next::Pause { if_asked: true }, ..store.with("held", None) })
            .await
            .unwrap();
        for run in ["held", "free"] {
            post(&store, run, signal("go", None)).await;
            assert_eq!(store.info(run).await.state, RunState::Paused);
        }
        store.at(9_000);
        assert!(store.due(9, Wanted::default()).await.0.is_empty());
        assert!(store.unpause(&id("free")).await.unwrap());
        assert!(!store.unpause(&id("free")).await.unwrap());
        assert_eq!(store.due(9, Wanted::default()).await.0, ["free"]);
    }
}

pub async fn a_run_is_not_paused_once_somebody_wants_it_to_go_on(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let pause = |if_asked| Append { next: Next::Pause { if_asked }, ..store.with("r", None) };
        assert_eq!(post(&store, "r", MessageBody::Pause).await, Posted::Added);
        // Its host has read that, and has a call to wait for.
        assert!(store.unpause(&id("r")).await.unwrap());
        assert!(store.bodies("r").await.is_empty());
        assert!(!store.unpause(&id("r")).await.unwrap());
        assert!(store.append(pause(true)).await.unwrap().due);
        assert_eq!(store.info("r").await.state, RunState::Running);
        // It is still the host's, and can be asked again.
        assert_eq!(post(&store, "r", MessageBody::Pause).await, Posted::Added);
        assert!(!store.append(pause(true)).await.unwrap().due);
        assert_eq!(store.info("r").await.state, RunState::Paused);
    }
}

pub async fn a_pause_outlives_those_who_only_look_at_the_run(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        // However often it is asked for.
        for _ in 0..3 {
            assert_eq!(post(&store, "r", MessageBody::Pause).await, Posted::Added);
        }
        assert_eq!(store.bodies("r").await, [MessageBody::Pause]);
        store.append(Append { next: Next::Pause { if_asked: true }, ..store.with("r", None) }).await.unwrap();
        assert!(store.bodies("r").await.is_empty());
        // Whoever has it next, if the one that looks dies, or wants to terminate it, is to pause it.
        for how in [ClaimHow::AsItIs, ClaimHow::Seize] {
            let session = store.begin_session(&owner(4), LEASE).await.unwrap();
            let claimed = store.claim_as(session, "r", how).await;
            let Claimed::Yes(opened) = claimed else { panic!("{claimed:?}") };
            assert_eq!(opened.inbox.messages.len(), 1);
            store.fence(session, Fence::Dead).await.unwrap();
            assert_eq!(store.bodies("r").await, [MessageBody::Pause]);
            let opened = store.opened(store.other, "r").await;
            let consumed = opened.inbox.messages.iter().map(|message| message.id).collect();
            let next = Next::Pause { if_asked: false };
            let again = Append::new(id("r"), store.other, opened.epoch, Timestamp(0), next);
            store.append(Append { consumed, ..again }).await.unwrap();
            assert!(store.bodies("r").await.is_empty());
        }
        // Whoever wants it to go on has it without that.
        let third = store.begin_session(&owner(3), LEASE).await.unwrap();
        let claimed = store.claim_as(third, "r", ClaimHow::Asked).await;
        let Claimed::Yes(opened) = claimed else { panic!("{claimed:?}") };
        assert!(opened.inbox.messages.is_empty());
    }
}

pub async fn an_inbox_is_read_in_parts_with_requests_first(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        for n in 0..70 {
            post(&store, "r", signal(&n.to_string(), None)).await;
        }
        post(&store, "r", MessageBody::Pause).await;
        post(&store, "r", MessageBody::Cancel { reason: None }).await;
        let run = id("r");
        let first = store.inbox(&run, Part::Next).await.unwrap();
        assert_eq!((first.messages.len(), first.more), (INBOX_MESSAGES, true));
        assert_eq!(first.messages[0].body, MessageBody::Pause);
        assert!(matches!(first.messages[1].body, MessageBody::Cancel { .. }));
        assert_eq!(first.messages[2].body, signal("0", None));
        // All of it by age.
        let (mut all, mut behind) = (Vec::new(), None);
        loop {
            let part = store.inbox(&run, Part::Behind(behind)).await.unwrap();
            behind = part.messages.last().map(|message| message.id);
            all.extend(part.messages.into_iter().map(|message| message.body));
            if !part.more {
                break;
            }
        }
        assert_eq!((all.len(), &all[70]), (72, &MessageBody::Pause));
        let consumed = first.messages.iter().map(|message| message.id).collect();
        store.append(Append { consumed, ..store.with("r", None) }).await.unwrap();
        let rest = store.inbox(&run, Part::Next).await.unwrap();
        assert_eq!((rest.messages.len(), rest.more), (8, false));
        // Large ones come in smaller parts.
        create(&store, "big", None).await.1.unwrap();
        for _ in 0..3 {
            let payload = Json::string(&"x".repeat(INBOX_BYTES / 2));
            post(&store, "big", MessageBody::Signal { name: "s".to_owned(), payload, id: None }).await;
        }
        let part = store.inbox(&id("big"), Part::Next).await.unwrap();
        assert_eq!((part.messages.len(), part.more), (1, true));
    }
}

pub async fn what_a_program_gives_out_is_numbered_by_the_store(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let log = |message: &str| {
            let (at, level) = (Timestamp(1), LogLevel::Info);
            let fields = vec![("k".to_owned(), "v".to_owned())];
            Emission::Log(LogLine { number: 99, at, level, message: message.to_owned(), fields })
        };
        let state = |value: &str| Emission::State {
            key: "k".to_owned(),
            value: Json::string(value),
            at: Timestamp(1),
        };
        let phase = Emission::Phase { title: "p".to_owned(), at: Timestamp(1) };
        for emissions in [vec![log("a"), state("one"), phase], vec![log("b"), state("two")]] {
            store.append(Append { emissions, ..store.with("r", None) }).await.unwrap();
        }
        let lines = store.logs(&id("r"), 0, 10).await.unwrap();
        let lines: Vec<_> = lines.into_iter().map(|line| (line.number, line.message)).collect();
        assert_eq!(lines, [(0, "a".to_owned()), (2, "phase: p".to_owned()), (3, "b".to_owned())]);
        assert_eq!(store.state(&id("r")).await.unwrap(), [("k".to_owned(), Json::string("two"))]);
        let published = async |key, after, limit| {
            let found = store.published(&id("r"), key, after, limit).await.unwrap();
            found.into_iter().map(|value| (value.number, value.value)).collect::<Vec<_>>()
        };
        let (one, two) = ((1, Json::string("one")), (4, Json::string("two")));
        assert_eq!(published(Some("k"), None, 9).await, [one.clone(), two.clone()]);
        assert_eq!(published(None, None, 1).await, [one]);
        assert_eq!(published(None, Some(1), 9).await, [two]);
        assert_eq!(published(Some("other"), None, 9).await, []);
        let other = Emission::State { key: "b".to_owned(), value: Json::string("of b"), at: Timestamp(2) };
        store.append(Append { emissions: vec![other], ..store.with("r", None) }).await.unwrap();
        let latest = async |key, after, limit| {
            let found = store.latest(&id("r"), key, after, limit).await.unwrap();
            found
                .into_iter()
                .map(|value| (value.key, value.number, value.at, value.value))
                .collect::<Vec<_>>()
        };
        let of_b = ("b".to_owned(), 5, Timestamp(2), Json::string("of b"));
        let of_k = ("k".to_owned(), 4, Timestamp(1), Json::string("two"));
        assert_eq!(latest(None, None, 9).await, [of_b.clone(), of_k.clone()], "by key");
        assert_eq!(latest(None, None, 1).await, std::slice::from_ref(&of_b));
        assert_eq!(latest(Some("k"), None, 9).await, std::slice::from_ref(&of_k));
        assert_eq!(latest(None, Some(3), 9).await, [of_b.clone(), of_k]);
        assert_eq!(latest(None, Some(4), 9).await, [of_b]);
        assert_eq!(latest(Some("k"), Some(4), 9).await, []);
        assert_eq!(latest(Some("other"), None, 9).await, []);
        let info = store.info("r").await;
        assert_eq!((info.phase.as_deref(), info.emissions), (Some("p"), 6));
    }
}

pub async fn a_deleted_run_leaves_nothing_but_its_id(stores: Vec<Shop>) {
    for store in stores {
        let (_, created) = create(&store, "r", Some("k")).await;
        created.unwrap();
        let run = id("r");
        let held = Deleted::Held { session: store.mine, owner: owner(1), left_ms: LEASE };
        assert_eq!(store.delete(&run).await.unwrap(), held);
        store.append(Append { questions: vec![question(1)], ..store.with("r", None) }).await.unwrap();
        park(&store, "r", None, &[]).await;
        post(&store, "r", signal("s", Some("1"))).await;
        let rate = Rate { per_minute: 60, burst: 1 };
        let waits = |run, step| pass("provider:p", rate, run, step);
        let turns = store.take_turns(vec![waits("r", 1), waits("r", 2), waits("s", 1)]).await.unwrap();
        let place = store.changes(0, 10).await.unwrap().last().unwrap().place;
        assert_eq!(store.delete(&run).await.unwrap(), Deleted::Yes);
        // Turns of its steps are others'.
        assert!(turns[1].is_some() && turns[1] < turns[2], "{turns:?}");
        assert_eq!(store.take_turns(vec![waits("s", 2)]).await.unwrap(), [turns[1]]);
        assert_eq!(store.delete(&run).await.unwrap(), Deleted::NoSuchRun);
        assert_eq!(store.run(&run).await.unwrap(), None);
        assert!(store.questions(None, 10).await.unwrap().is_empty());
        assert_eq!(create(&store, "r", None).await.1, Err(StoreError::IdUsed { id: run }));
        // Its key is free, and places of commits are not given out twice.
        assert_eq!(create(&store, "s", Some("k")).await.1.unwrap(), Created::New);
        let changes = store.changes(0, 10).await.unwrap();
        assert!(changes.iter().all(|change| change.place > place && change.run == id("s")), "{changes:?}");
        let module = Digest::of(b"module");
        assert_eq!(store.delete_unused_modules(Timestamp(u64::MAX)).await.unwrap(), 0);
        park(&store, "s", None, &[]).await;
        store.delete(&id("s")).await.unwrap();
        assert_eq!(store.delete_unused_modules(Timestamp(u64::MAX)).await.unwrap(), 1);
        assert_eq!(store.module(module).await.unwrap(), None);
    }
}

pub async fn earlier_rounds_stay_as_long_as_the_chain_goes_on(stores: Vec<Shop>) {
    for store in stores {
        let (first, _) = create(&store, "r", None).await;
        let next = Next::Continue { run: Box::new(next_round(&first, "r-2")) };
        store.append(Append { next, ..store.with("r", None) }).await.unwrap();
        assert_eq!(store.delete(&id("r")).await.unwrap(), Deleted::Needed);
        assert_eq!(post(&store, "r", signal("s", Some("1"))).await, Posted::Continued(id("r-2")));
        let opened = store.opened(store.mine, "r-2").await;
        store.append(end(store.mine, "r-2", opened.epoch.0)).await.unwrap();
        assert_eq!(store.delete(&id("r")).await.unwrap(), Deleted::Yes);
    }
}

pub async fn a_child_begins_and_ends_with_an_entry_of_its_parent(stores: Vec<Shop>) {
    for store in stores {
        let (mut parent, _) = create(&store, "p", None).await;
        create(&store, "other", None).await.1.unwrap();
        let cancel = OnParentClose::Cancel;
        let children =
            vec![child(&mut parent, 1, None, cancel), child(&mut parent, 2, Some("other"), cancel)];
        // The child is not there before the entry is, and the id of the second is taken.
        let begun = Append { children: children.clone(), ..store.with("p", None) };
        let stale = Append { epoch: Epoch(9), ..begun.clone() };
        assert!(matches!(store.append(stale).await, Err(StoreError::Fenced { .. })));
        assert_eq!(store.run(&id("p.1")).await.unwrap(), None);
        let appended = store.append(begun.clone()).await.unwrap();
        assert!(appended.due && appended.wake == [Wake::Due], "{appended:?}");
        assert_eq!(state_of(&store, "p.1").await, RunState::Queued);
        assert!(matches!(
            &store.bodies("p").await[..],
            [MessageBody::Child { step: Step(2), outcome: Err(failure), .. }]
                if failure.message.contains("the run other already exists")
        ));
        // Once more is the same.
        let again = Append { children: children[..1].to_vec(), ..store.with("p", None) };
        assert!(!store.append(again).await.unwrap().due);
        let info = store.info("p.1").await;
        assert_eq!((info.parent, info.links.step, info.links.root), (Some(id("p")), Some(Step(1)), id("p")));
        let known = RunFilter { parent: Some(id("p")), ..RunFilter::default() };
        assert_eq!(store.runs(known).await.unwrap().len(), 1);

        let inbox = store.inbox(&id("p"), Part::Next).await.unwrap();
        let consumed = inbox.messages.iter().map(|message| message.id).collect();
        let next = Next::Park(Waiting::default());
        assert!(!store.append(Append { consumed, next, ..store.with("p", None) }).await.unwrap().due);
        // The child is taken up and ends: the parent is due with its result.
        store.at(50);
        assert_eq!(store.due(9, Wanted::default()).await.0, ["p.1"]);
        let spent = Spent { tokens: 3, micros: 4, time_ms: 0 };
        let go = Append::new(id("p.1"), store.other, Epoch(2), Timestamp(35), Next::Go);
        store.append(Append { ledger: Some((spent, Budget::default())), ..go }).await.unwrap();
        let ended = store.append(end(store.other, "p.1", 2)).await.unwrap();
        assert_eq!(ended.wake, [Wake::Run(id("p"))]);
        assert_eq!(store.due(9, Wanted::default()).await.0, ["p"]);
        let spent = Spent { tokens: 5, micros: 7, time_ms: 1 };
        let told = MessageBody::Child { step: Step(1), run: id("p.1"), outcome: Ok(Json::null()), spent };
        assert_eq!(store.bodies("p").await, [told]);
        let ended = store.ended_children(&id("p"), &[Step(1), Step(2)]).await.unwrap();
        assert_eq!(ended.iter().map(|info| info.id.clone()).collect::<Vec<_>>(), [id("p.1")]);
        assert!(store.ended_children(&id("p"), &[Step(2)]).await.unwrap().is_empty());
        // What it spent stays with the family when it is gone.
        store.delete(&id("p.1")).await.unwrap();
        assert_eq!(store.family(&id("p")).await.unwrap().spent.tokens, 3);
    }
}

pub async fn times_beyond_all_measure_are_never(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        park(&store, "r", Some(u64::MAX), &[]).await;
        store.at(1 << 50);
        assert!(store.due(9, Wanted::default()).await.0.is_empty());
    }
}

pub async fn runs_are_found_by_what_they_are_labelled_with_and_wait_for(stores: Vec<Shop>) {
    for store in stores {
        for n in 0..6 {
            create(&store, &format!("r{n}"), Some(&format!("k{n}"))).await.1.unwrap();
        }
        for (n, signals) in [(0, &["go"][..]), (1, &["go", "stop"]), (2, &[])] {
            park(&store, &format!("r{n}"), (n == 2).then_some(900), signals).await;
        }
        let found = async |filter: RunFilter| -> Vec<String> {
            let filter = RunFilter { patience_ms: Some(60_000), ..filter };
            let runs = store.runs(filter.clone()).await.unwrap();
            assert_eq!(store.count_runs(filter).await.unwrap(), runs.len() as u64);
            runs.iter().map(|info| info.id.to_string()).collect()
        };
        let usual = RunFilter::default;
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(found(RunFilter { labels: vec![label("run", "r3")], ..usual() }).await, ["r3"]);
        let both = vec![label("run", "r3"), label("run", "r4")];
        assert_eq!(found(RunFilter { labels: both, ..usual() }).await, [""; 0]);
        assert_eq!(found(RunFilter { labels: vec![label("run", "none")], ..usual() }).await, [""; 0]);
        let waits = |waits| RunFilter { waits: Some(waits), ..usual() };
        assert_eq!(found(waits(WaitsFor::Signal(Some("stop".to_owned())))).await, ["r1"]);
        assert_eq!(found(waits(WaitsFor::Signal(None))).await, ["r1", "r0"]);
        assert_eq!(found(waits(WaitsFor::Time)).await, ["r2"]);
        assert_eq!(found(waits(WaitsFor::People)).await, [""; 0]);
        let key = Some("k5".to_owned());
        assert_eq!(found(RunFilter { key, ..usual() }).await, ["r5"]);
        let text = |text: &str| RunFilter { text: Some(text.to_owned()), ..usual() };
        assert_eq!(found(text("R4")).await, ["r4"]);
        assert_eq!(found(text("K1")).await, ["r1"]);
        assert_eq!(found(text("nothing of that")).await, [""; 0]);
        let states = vec![RunState::Waiting];
        let before = Some(store.info("r2").await.number);
        assert_eq!(found(RunFilter { states, before, limit: 1, ..usual() }).await, ["r1"]);
        let counts: BTreeMap<_, _> =
            store.counts().await.unwrap().into_iter().map(|(state, count)| (state.as_str(), count)).collect();
        assert_eq!((counts.get("waiting"), counts.get("running")), (Some(&3), Some(&3)));
        assert_load(&store).await;
        // A deleted run is not found by its label, and its label can be another run's.
        store.fence(store.mine, Fence::Dead).await.unwrap();
        assert_eq!(store.delete(&id("r3")).await.unwrap(), Deleted::Yes);
        assert_eq!(found(RunFilter { labels: vec![label("run", "r3")], ..usual() }).await, [""; 0]);
    }
}

/// What the load says is what the runs and questions say.
async fn assert_load(store: &Shop) {
    let load = store.load().await.unwrap();
    let now = store.now();
    let runs = store.runs(RunFilter { limit: 1_000, ..RunFilter::default() }).await.unwrap();
    let due: Vec<_> = runs.iter().filter_map(|run| run.due_at).filter(|due| *due <= now).collect();
    let oldest = due.iter().filter(|due| due.0 > 0).min();
    let asked: Vec<_> = store.questions(None, 1_000).await.unwrap();
    let first = asked.iter().map(|question| question.asked_at).min();
    assert_eq!(load.due, due.len() as u64);
    assert_eq!(load.questions, asked.len() as u64);
    // The clock may go on between the looks.
    for (ms, at) in [(load.lag_ms, oldest.copied()), (load.question_ms, first)] {
        assert_eq!(ms.is_some(), at.is_some());
        assert!(at.is_none_or(|at| now.since(at).abs_diff(ms.unwrap()) < 5_000), "{ms:?} {at:?} {now:?}");
    }
}

pub async fn a_journal_is_read_by_parts_from_any_entry(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        // Rows of one, two and three entries.
        for n in 0..9_u64 {
            for _ in 0..=n % 3 {
                machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
            }
            let row = row(&mut machine);
            store.append(store.with("r", Some(row))).await.unwrap();
        }
        let whole = store.journal(&id("r"), Position(0)).await.unwrap();
        for from in 0..=machine.entries() + 1 {
            for limit in [1, 2, 100] {
                let part = store.journal_part(&id("r"), Position(from), limit).await.unwrap();
                let wanted = whole.iter().filter(|row| row.end().0 > from).take(limit).cloned();
                assert_eq!(part, wanted.collect::<Vec<_>>(), "from {from}, {limit} rows");
            }
        }
        assert_eq!(
            store.last_place().await.unwrap(),
            store.changes(0, 99).await.unwrap().last().unwrap().place
        );
        assert!(store.journal_part(&id("none"), Position(0), 9).await.unwrap().is_empty());
    }
}

pub async fn tokens_acts_and_addresses_are_kept_and_work_once(stores: Vec<Shop>) {
    for store in stores {
        let secret = store.secret().await.unwrap();
        assert!(secret != [0; 32] && store.secret().await.unwrap() == secret);
        let token = |id: &str, at| Token {
            id: id.to_owned(),
            name: "ci".to_owned(),
            kind: TokenKind::Bearer,
            hash: Digest::of(id.as_bytes()),
            scopes: vec!["runs:read".to_owned()],
            created_at: Timestamp(at),
            expires_at: Some(Timestamp(99)),
            used_at: None,
        };
        store.put_token(token("b", 2)).await.unwrap();
        store.put_token(token("a", 3)).await.unwrap();
        store.set_token_used("b", Timestamp(7)).await.unwrap();
        let used = Token { used_at: Some(Timestamp(7)), ..token("b", 2) };
        assert_eq!(store.tokens().await.unwrap(), [used.clone(), token("a", 3)]);
        assert_eq!((store.token("b").await.unwrap(), store.token("c").await.unwrap()), (Some(used), None));
        // Of several who take it, one has it.
        assert!(store.delete_token("a").await.unwrap());
        assert!(!store.delete_token("a").await.unwrap());
        for n in 0..3 {
            let act = Act {
                number: 0,
                at: Timestamp(n),
                who: "ada".to_owned(),
                act: "runs.cancel".to_owned(),
                target: format!("r{n}"),
                result: "asked".to_owned(),
            };
            store.record_act(act).await.unwrap();
        }
        let acts = store.acts(None, 2).await.unwrap();
        assert_eq!(acts.iter().map(|act| act.target.as_str()).collect::<Vec<_>>(), ["r2", "r1"]);
        assert_eq!(store.acts(Some(acts[1].number), 9).await.unwrap()[0].target, "r0");
        let (address, body, other) = (Digest([1; 32]), Digest([2; 32]), Digest([3; 32]));
        let uses = [body, body, other, body].map(|body| store.use_once(address, body));
        let mut found = Vec::new();
        for used in uses {
            found.push(used.await.unwrap());
        }
        assert_eq!(found, [Used::First, Used::Again, Used::Otherwise, Used::Again]);
        store.release_use(address, other).await.unwrap();
        assert_eq!(store.use_once(address, other).await.unwrap(), Used::Otherwise);
        store.release_use(address, body).await.unwrap();
        assert_eq!(store.use_once(address, other).await.unwrap(), Used::First);
    }
}

fn delivery(sink: &str, message: &str) -> NewDelivery {
    NewDelivery {
        sink: sink.to_owned(),
        message: message.to_owned(),
        event: "run.failed".to_owned(),
        run: id("r"),
        body: format!("{{\"id\":\"{message}\"}}\0"),
    }
}

fn advance(holder: &str, place: u64, deliveries: &[NewDelivery]) -> Advance {
    Advance {
        name: "s".to_owned(),
        holder: holder.to_owned(),
        place,
        hold_ms: 100,
        deliveries: deliveries.to_vec(),
    }
}

pub async fn a_cursor_is_one_readers_and_moves_with_what_follows_from_the_commits(stores: Vec<Shop>) {
    for store in stores {
        store.at(1_000);
        create(&store, "r", None).await.1.unwrap();
        let last = store.last_place().await.unwrap();
        assert!(last > 0);
        assert_eq!(store.cursors().await.unwrap(), []);
        // What was there before is nobody's business.
        assert_eq!(store.hold_cursor("s", "a", 100).await.unwrap(), Some(last));
        assert_eq!(store.hold_cursor("s", "b", 100).await.unwrap(), None);
        assert_eq!(store.hold_cursor("s", "a", 100).await.unwrap(), Some(last));
        assert!(!store.advance_cursor(advance("b", last + 9, &[delivery("s", "m0")])).await.unwrap());
        let both = [delivery("s", "m1"), delivery("t", "m1"), delivery("s", "m1")];
        assert!(store.advance_cursor(advance("a", last + 5, &both)).await.unwrap());
        // It does not go back, and what is known is not kept again.
        assert!(store.advance_cursor(advance("a", last + 2, &[delivery("s", "m1")])).await.unwrap());
        let kept = store.deliveries(DeliveryFilter::default(), 9).await.unwrap();
        let kept: Vec<_> =
            kept.iter().map(|one| (one.what.sink.as_str(), one.what.message.as_str())).collect();
        assert_eq!(kept, [("t", "m1"), ("s", "m1")]);
        let cursor = |at, is_held| Cursor {
            name: "s".to_owned(),
            place: last + 5,
            at: Timestamp(at),
            is_held,
            holder: Some("a".to_owned()),
        };
        assert_eq!(store.cursors().await.unwrap(), [cursor(1_000, true)]);
        // Whoever had it is gone, and another one goes on.
        store.at(1_100);
        assert_eq!(store.cursors().await.unwrap(), [cursor(1_000, false)]);
        assert_eq!(store.hold_cursor("s", "b", 100).await.unwrap(), Some(last + 5));
        assert!(!store.advance_cursor(advance("a", last + 6, &[])).await.unwrap());
        // One that is let go is the next one's at once.
        let go = Advance { hold_ms: 0, ..advance("b", last + 5, &[]) };
        assert!(store.advance_cursor(go).await.unwrap());
        assert_eq!(store.cursors().await.unwrap()[0].holder, None);
        assert_eq!(store.hold_cursor("s", "a", 100).await.unwrap(), Some(last + 5));
        assert!(store.drop_cursor("s").await.unwrap());
        assert!(!store.drop_cursor("s").await.unwrap());
        assert_eq!(store.cursors().await.unwrap(), []);
        assert_eq!(store.deliveries(DeliveryFilter::default(), 9).await.unwrap().len(), 1);
    }
}

pub async fn a_delivery_is_tried_by_one_at_a_time_until_it_is_settled(stores: Vec<Shop>) {
    for store in stores {
        store.at(1_000);
        create(&store, "r", None).await.1.unwrap();
        let all = ["m1", "m2", "m3"].map(|message| delivery("s", message));
        assert_eq!(store.put_deliveries(all.to_vec()).await.unwrap(), 3);
        assert_eq!(store.put_deliveries(vec![delivery("s", "m2"), delivery("t", "m2")]).await.unwrap(), 1);
        let names =
            |claimed: &[Delivery]| claimed.iter().map(|one| one.what.message.clone()).collect::<Vec<_>>();
        let claimed = store.claim_deliveries("s", 50, 2).await.unwrap();
        assert_eq!(names(&claimed), ["m1", "m2"]);
        assert_eq!(claimed[0].what, all[0]);
        assert_eq!((claimed[0].tries, claimed[0].next_at), (1, Some(Timestamp(1_050))));
        assert_eq!(names(&store.claim_deliveries("s", 50, 9).await.unwrap()), ["m3"]);
        assert_eq!(store.claim_deliveries("s", 50, 9).await.unwrap(), []);
        let [one, two] = [&claimed[0], &claimed[1]];
        let later = Settled::Again { in_ms: 500, said: "503".to_owned() };
        assert!(store.settle_delivery(one.number, 1, later.clone()).await.unwrap());
        // Whoever has the second one is late, and another one tries it.
        store.at(1_060);
        let again = store.claim_deliveries("s", 50, 9).await.unwrap();
        assert_eq!((names(&again), again[0].tries), (vec!["m2".to_owned(), "m3".to_owned()], 2));
        assert!(!store.settle_delivery(two.number, 1, later).await.unwrap());
        assert!(
            !store.settle_delivery(two.number, 1, Settled::GivenUp { said: "x".to_owned() }).await.unwrap()
        );
        // That it is there counts, whoever brought it.
        assert!(store.settle_delivery(two.number, 1, Settled::Delivered).await.unwrap());
        assert!(!store.settle_delivery(two.number, 2, Settled::Delivered).await.unwrap());
        let given_up = Settled::GivenUp { said: "404".to_owned() };
        assert!(store.settle_delivery(again[1].number, 2, given_up).await.unwrap());
        let load =
            SinkLoad { sink: "s".to_owned(), pending: 1, delivered: 1, given_up: 1, oldest_ms: Some(60) };
        let other =
            SinkLoad { sink: "t".to_owned(), pending: 1, delivered: 0, given_up: 0, oldest_ms: Some(60) };
        assert_eq!(store.sink_loads().await.unwrap(), [load, other]);
        let of = |state| DeliveryFilter {
            sink: Some("s".to_owned()),
            state: Some(state),
            ..DeliveryFilter::default()
        };
        let pending = store.deliveries(of(DeliveryState::Pending), 9).await.unwrap();
        assert_eq!((pending[0].said.as_deref(), pending[0].next_at), (Some("503"), Some(Timestamp(1_500))));
        let lost = store.deliveries(of(DeliveryState::GivenUp), 9).await.unwrap();
        assert_eq!((lost[0].said.as_deref(), lost[0].ended_at), (Some("404"), Some(Timestamp(1_060))));
        assert_eq!(store.redeliver(vec![lost[0].number, 999]).await.unwrap(), 1);
        let again = store.claim_deliveries("s", 50, 9).await.unwrap();
        assert_eq!((names(&again), again[0].tries, &again[0].said), (vec!["m3".to_owned()], 1, &None));
        assert_eq!(store.delete_old_deliveries(Timestamp(1_060)).await.unwrap(), 0);
        assert_eq!(store.delete_old_deliveries(Timestamp(1_061)).await.unwrap(), 1);
        let of_run = DeliveryFilter { run: Some(id("r")), before: Some(9_999), ..DeliveryFilter::default() };
        assert_eq!(store.deliveries(of_run.clone(), 9).await.unwrap().len(), 3);
        // A run that is deleted leaves none.
        let end = Next::End { outcome: Ok(Json::null()), spent: Spent::default() };
        store.append(Append { next: end, ..store.with("r", None) }).await.unwrap();
        assert_eq!(store.delete(&id("r")).await.unwrap(), Deleted::Yes);
        assert_eq!(store.deliveries(of_run, 9).await.unwrap(), []);
    }
}

fn slot_ask(limits: &[(&str, u32)], used: u32, wants: u32, waited_ms: u64) -> SlotAsk {
    SlotAsk {
        limits: limits.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect(),
        used,
        wants,
        waited_ms,
        calls: (0..used).map(|n| format!("r#{n}")).collect(),
        waiting: (used..wants).map(|n| format!("r#{n}")).collect(),
    }
}

pub async fn slots_are_shared_and_those_of_a_session_that_was_ended_are_free(stores: Vec<Shop>) {
    const P: [(&str, u32); 1] = [("provider:p", 3)];
    for store in stores {
        store.at(1_000);
        let (mine, other) = (store.mine, store.other);
        assert_eq!(store.slots().await.unwrap(), []);
        assert_eq!(store.share_slots(mine, vec![slot_ask(&P, 0, 2, 0)]).await.unwrap(), [2]);
        assert_eq!(store.share_slots(other, vec![slot_ask(&P, 0, 2, 5)]).await.unwrap(), [1]);
        // Asking again for the same gives the same.
        assert_eq!(store.share_slots(mine, vec![slot_ask(&P, 2, 2, 0)]).await.unwrap(), [2]);
        assert_eq!(store.share_slots(other, vec![slot_ask(&P, 1, 2, 5)]).await.unwrap(), [1]);
        let known = store.slots().await.unwrap();
        let of = |session| known.iter().find(|share| share.session == session).unwrap();
        assert_eq!((of(mine).need.has, of(mine).used, of(mine).owner.clone()), (2, 2, owner(1)));
        assert_eq!((of(other).need.has, of(other).need.wants, of(other).need.since), (1, 2, Timestamp(995)));
        assert_eq!(
            (&of(other).calls[..], &of(other).waiting[..]),
            (&["r#0".to_owned()][..], &["r#1".to_owned()][..])
        );
        // What one gives back is the other's, without its asking. Limits of other names are other limits.
        let elsewhere = slot_ask(&[("provider:q", 1)], 0, 1, 0);
        assert_eq!(store.share_slots(mine, vec![slot_ask(&P, 1, 1, 0), elsewhere]).await.unwrap(), [1, 1]);
        let known = store.slots().await.unwrap();
        assert_eq!(known.iter().map(|share| share.need.has).sum::<u32>(), 4, "{known:?}");
        assert_eq!(store.share_slots(other, vec![slot_ask(&P, 2, 2, 0)]).await.unwrap(), [2]);
        // A limit that is smaller now lets nobody in; calls under way are not stopped.
        assert_eq!(
            store.share_slots(other, vec![slot_ask(&[("provider:p", 1)], 2, 3, 0)]).await.unwrap(),
            [2]
        );
        // Whoever dies leaves his slots to others.
        store.fence(other, Fence::Dead).await.unwrap();
        assert_eq!(store.slots().await.unwrap().len(), 2);
        assert_eq!(store.share_slots(mine, vec![slot_ask(&P, 1, 9, 0)]).await.unwrap(), [3]);
        let late = store.share_slots(other, vec![slot_ask(&P, 2, 2, 0)]).await;
        assert_eq!(late, Err(StoreError::SessionOver));
        assert_eq!(store.share_slots(mine, Vec::new()).await.unwrap(), [0; 0]);
        assert_eq!(store.slots().await.unwrap(), []);
        store.share_slots(mine, vec![slot_ask(&P, 0, 9, 0)]).await.unwrap();
        store.end_session(mine).await.unwrap();
        assert_eq!(store.slots().await.unwrap(), []);
    }
}

/// Numbers that look random, the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % sides
    }
}

pub async fn slots_are_given_out_by_one_rule(stores: Vec<Shop>) {
    use wfhost_core::policy::share::{Need, share};
    const SETS: [&[(&str, u32)]; 4] = [
        &[("all", 6)],
        &[("all", 6), ("provider:p", 3)],
        &[("group:g", 2), ("provider:p", 3)],
        &[("provider:q", 1)],
    ];
    for store in stores {
        let mut dice = Dice(7);
        let third = store.begin_session(&owner(3), LEASE).await.unwrap();
        let sessions = [store.mine, store.other, third];
        let mut model: BTreeMap<(SessionId, String), Need> = BTreeMap::new();
        for round in 0..120 {
            let now = Timestamp(1_000 + round * 10);
            store.at(now.0);
            let session = sessions[dice.roll(3) as usize];
            let mut asks = Vec::new();
            for limits in SETS {
                let key = serde_json::to_string(limits).unwrap();
                let had = model.remove(&(session, key.clone())).map_or(0, |need| need.has);
                let used = had.saturating_sub(dice.roll(3) as u32);
                let ask = slot_ask(limits, used, used + dice.roll(4) as u32, dice.roll(200));
                if ask.wants > 0 {
                    let since = Timestamp(now.0 - ask.waited_ms);
                    let need = Need { limits: ask.limits.clone(), has: used, wants: ask.wants, since };
                    model.insert((session, key), need);
                    asks.push(ask);
                }
            }
            let mut needs: Vec<Need> = model.values().cloned().collect();
            share(&mut needs, now);
            model.values_mut().zip(&needs).for_each(|(known, need)| known.clone_from(need));
            let has = store.share_slots(session, asks.clone()).await.unwrap();
            let known: Vec<Need> = store.slots().await.unwrap().into_iter().map(|share| share.need).collect();
            assert_eq!(known, needs, "{store:?}, round {round}", store = store.store);
            let expected = asks.iter().map(|ask| {
                let own = model.iter().find(|((of, _), need)| *of == session && need.limits == ask.limits);
                own.unwrap().1.has
            });
            assert_eq!(has, expected.collect::<Vec<_>>());
        }
    }
}

/// A call would like to begin.
pub fn pass(name: &str, rate: Rate, run: &str, step: u64) -> TurnWord {
    TurnWord::Pass { name: name.to_owned(), rate, run: id(run), step: Step(step) }
}

/// A call does not wait any more.
pub fn release(name: &str, run: &str, step: u64, epoch: Epoch) -> TurnWord {
    TurnWord::Release { name: name.to_owned(), run: id(run), step: Step(step), epoch }
}

pub async fn a_turn_is_given_back_by_who_has_the_run_only(stores: Vec<Shop>) {
    let rate = Rate { per_minute: 60, burst: 1 };
    for store in stores {
        store.at(100_000);
        create(&store, "r", None).await.1.unwrap();
        let words = (1..=3).map(|step| pass("provider:p", rate, "r", step)).collect();
        let turns = store.take_turns(words).await.unwrap();
        // Another host has the run when the word of the first one is heard.
        store.fence(store.mine, Fence::Dead).await.unwrap();
        let opened = store.opened(store.other, "r").await;
        let late = vec![release("provider:p", "r", 2, Epoch(1)), pass("provider:p", rate, "s", 1)];
        assert_eq!(store.take_turns(late).await.unwrap(), [None, Some(Timestamp(103_000))]);
        // Its own word counts.
        let own = vec![release("provider:p", "r", 2, opened.epoch), pass("provider:p", rate, "s", 2)];
        assert_eq!(store.take_turns(own).await.unwrap(), [None, turns[1]]);
    }
}

pub async fn a_turn_belongs_to_its_step_whichever_host_asks_for_it(stores: Vec<Shop>) {
    let rate = Rate { per_minute: 60, burst: 2 };
    for store in stores {
        store.at(100_000);
        let words = (1..=5).map(|step| pass("provider:p", rate, "r", step)).collect();
        let at = |millis| Some(Timestamp(millis));
        let turns = store.take_turns(words).await.unwrap();
        assert_eq!(turns, [None, None, at(101_000), at(102_000), at(103_000)]);
        let info = |waiting, next| TurnsInfo { name: "provider:p".to_owned(), waiting, next };
        assert_eq!(store.turns().await.unwrap(), [info(3, at(101_000))]);
        // Asked again, it is the same turn; another call goes behind them.
        let words = vec![pass("provider:p", rate, "r", 4), pass("provider:p", rate, "s", 1)];
        assert_eq!(store.take_turns(words).await.unwrap(), [at(102_000), at(104_000)]);
        // What is given back is the next one's.
        let release = release("provider:p", "r", 4, Epoch(1));
        let turns = store.take_turns(vec![release, pass("provider:p", rate, "s", 2)]).await.unwrap();
        assert_eq!(turns, [None, at(102_000)]);
        store.at(101_000);
        assert_eq!(store.take_turns(vec![pass("provider:p", rate, "r", 3)]).await.unwrap(), [None]);
        // The provider asks to be left alone: all turns are later by that.
        let block = TurnWord::Block { name: "provider:p".to_owned(), rate, millis: 10_000 };
        let turns = store.take_turns(vec![block, pass("provider:p", rate, "r", 5)]).await.unwrap();
        assert_eq!(turns, [None, at(113_000)]);
        // A run that ends gives back all that it has.
        store.take_turns(vec![TurnWord::ReleaseRun { run: id("s") }]).await.unwrap();
        assert_eq!(store.turns().await.unwrap(), [info(1, at(113_000))]);
    }
}

pub async fn turns_are_those_of_one_queue(stores: Vec<Shop>) {
    use wfhost_core::policy::rate::Queue;
    let rates = [Rate { per_minute: 120, burst: 1 }, Rate { per_minute: 6, burst: 3 }];
    for store in stores {
        let mut dice = Dice(11);
        let mut model: [Queue<(RunId, Step)>; 2] = Default::default();
        let mut now = 1_000_000;
        for round in 0..150 {
            // Calls that come in time, late, or much too late, and a clock that is set back.
            now = match dice.roll(20) {
                0 => now + 70_000,
                1 => now - 30_000,
                _ => now + dice.roll(1_500),
            };
            store.at(now);
            let at = Timestamp(now);
            let (mut words, mut expected) = (Vec::new(), Vec::new());
            for _ in 0..=dice.roll(4) {
                let (which, run, step) =
                    (dice.roll(2) as usize, ["a", "b", "c"][dice.roll(3) as usize], dice.roll(6));
                let (name, rate) = (["provider:p", "provider:q"][which].to_owned(), rates[which]);
                let queue = &mut model[which];
                let call = (id(run), Step(step));
                let (word, answer) = match dice.roll(12) {
                    0 | 1 => {
                        queue.release(&call);
                        (TurnWord::Release { name, run: call.0, step: call.1, epoch: Epoch(1) }, None)
                    }
                    2 => {
                        let millis = dice.roll(3_000);
                        queue.block(Some(rate), at, at.after(millis));
                        (TurnWord::Block { name, rate, millis }, None)
                    }
                    3 => {
                        let first = (id(run), Step(0));
                        model
                            .iter_mut()
                            .for_each(|queue| queue.release_from(&first, |(of, _)| *of == first.0));
                        (TurnWord::ReleaseRun { run: first.0 }, None)
                    }
                    _ => (pass(&name, rate, run, step), queue.pass(&call, Some(rate), at).err()),
                };
                words.push(word);
                expected.push(answer);
            }
            let turns = store.take_turns(words.clone()).await.unwrap();
            assert_eq!(turns, expected, "{:?}, round {round}: {words:?}", store.store);
        }
        let waiting = |queue: &Queue<(RunId, Step)>| (queue.waiting().0 as u64, queue.waiting().1);
        let known = store.turns().await.unwrap();
        let known: Vec<_> = known.into_iter().map(|info| (info.waiting, info.next)).collect();
        assert_eq!(known, model.iter().map(waiting).collect::<Vec<_>>());
    }
}

pub async fn what_runs_need_besides_their_modules_is_kept_by_digest(stores: Vec<Shop>) {
    const HOUR: u64 = BLOB_RENEWED_MS;
    for store in stores {
        store.at(10 * HOUR);
        let one = store.put_blob(b"one").await.unwrap();
        assert_eq!(one, Digest::of(b"one"));
        let two = store.put_blob(b"two").await.unwrap();
        assert_eq!(store.blob(one).await.unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(store.blob(Digest::of(b"three")).await.unwrap(), None);
        // What is put again is there as if it had been put then.
        store.at(13 * HOUR);
        store.put_blob(b"two").await.unwrap();
        assert!(store.has_blobs(Timestamp(12 * HOUR)).await.unwrap());
        assert!(!store.has_blobs(Timestamp(10 * HOUR)).await.unwrap());
        assert_eq!(store.delete_blobs(Timestamp(12 * HOUR), vec![one]).await.unwrap(), 0);
        assert_eq!(store.delete_blobs(Timestamp(12 * HOUR), Vec::new()).await.unwrap(), 1);
        assert_eq!((store.blob(one).await.unwrap(), store.blob(two).await.unwrap().is_some()), (None, true));
    }
}

/// A run as another store had it.
pub fn imported(machine: &mut Machine) -> ImportedRun {
    let rows = vec![row(machine)];
    ImportedRun {
        info: RunInfo { imported: true, ..RunInfo::of(machine) },
        rows,
        emissions: 0,
        given: Given::Counted(0),
        logs: Vec::new(),
        messages: Vec::new(),
        state: Vec::new(),
        inbox: Vec::new(),
        questions: Vec::new(),
    }
}

pub async fn a_run_whose_epoch_cannot_grow_holds_up_no_others(stores: Vec<Shop>) {
    for store in stores {
        let module = store.put_module("w", b"module").await.unwrap();
        let odd = [("before", GREATEST - 1), ("last", GREATEST), ("beyond", u64::MAX)];
        for (run, epoch) in odd {
            let mut run = imported(&mut machine(run, module));
            run.info.epoch = Epoch(epoch);
            let name = run.info.id.clone();
            store.import(run).await.unwrap();
            assert!(store.unpause(&name).await.unwrap());
        }
        enqueue(&store, "r", None).await;
        let due = store.claim_due(store.other, 9, Wanted::default()).await.unwrap();
        let mut found = Vec::new();
        for claimed in due.runs {
            match claimed {
                Ok(opened) => assert_eq!(opened.run, id("r")),
                Err(Unreadable { run, epoch, error }) => {
                    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
                    let trouble = Next::Release { waiting: None, trouble: Some(error.to_string()) };
                    let release = Append::new(run.clone(), store.other, epoch, Timestamp(0), trouble);
                    store.append(release).await.unwrap();
                    found.push(run.to_string());
                }
            }
        }
        found.sort();
        assert_eq!(found, ["before", "beyond", "last"]);
        let held = store.held(store.other).await.unwrap();
        assert!(matches!(&held[..], [(run, _)] if *run == id("r")), "{held:?}");
        for (run, _) in odd {
            let info = store.info(run).await;
            assert!(info.trouble.is_some_and(|trouble| trouble.contains("epoch")), "it is told");
            let claimed = store.claim_as(store.mine, run, ClaimHow::Asked).await;
            assert!(matches!(claimed, Claimed::Unreadable(_)), "{claimed:?}");
        }
    }
}

pub async fn usage_beyond_all_measure_is_the_greatest_that_can_be_stored(stores: Vec<Shop>) {
    for store in stores {
        let spent = |tokens, micros| Spent { tokens, micros, time_ms: 0 };
        for root in ["p", "q"] {
            let (mut parent, _) = create(&store, root, None).await;
            let children =
                (1..=2).map(|step| child(&mut parent, step, None, OnParentClose::Cancel)).collect();
            store.append(Append { children, ..store.with(root, None) }).await.unwrap();
            for step in 1..=2 {
                store.opened(store.mine, &format!("{root}.{step}")).await;
            }
        }
        let spend = async |run: &str, total: Spent| {
            let go = Append::new(id(run), store.mine, Epoch(2), Timestamp(30), Next::Go);
            let ledger = Some((total, Budget::default()));
            store.append(Append { ledger, ..go }).await.unwrap();
            store.info(run).await.spent
        };
        let family = async |root: &str| store.family(&id(root)).await.unwrap().spent;
        assert_eq!(spend("p.1", spent(100, 1 << 63)).await, spent(100, GREATEST));
        assert_eq!(family("p").await, spent(100, GREATEST));
        for _ in 0..2 {
            assert_eq!(spend("p.1", spent(u64::MAX, u64::MAX)).await, spent(GREATEST, GREATEST));
            assert_eq!(family("p").await, spent(GREATEST, GREATEST));
        }
        assert_eq!(spend("p.2", spent(7, 7)).await, spent(7, 7));
        assert_eq!(family("p").await, spent(GREATEST, GREATEST));
        // Each of these can be stored, their sum cannot.
        assert_eq!(spend("q.1", spent(1 << 62, 3)).await, spent(1 << 62, 3));
        assert_eq!(spend("q.2", spent(1 << 62, 4)).await, spent(1 << 62, 4));
        assert_eq!(family("q").await, spent(GREATEST, 7));
        assert_eq!(spend("q.2", spent((1 << 62) + 1, 5)).await, spent((1 << 62) + 1, 5));
        assert_eq!(family("q").await, spent(GREATEST, 8));
        // Also what comes from elsewhere, and what is put right.
        let mut run = imported(&mut machine("i", Digest::of(b"module")));
        run.info.spent = spent(u64::MAX, 5);
        store.import(run).await.unwrap();
        assert_eq!(
            (store.info("i").await.spent, family("i").await),
            (spent(GREATEST, 5), spent(GREATEST, 5))
        );
        let info = RunInfo { spent: spent(3, 1 << 63), ..store.info("i").await };
        let rebuilt = Rebuilt { info, emissions: None, questions: Vec::new() };
        assert!(store.rebuild(rebuilt).await.unwrap());
        assert_eq!(store.info("i").await.spent, spent(3, GREATEST));
        assert_eq!(family("i").await.micros, GREATEST);
    }
}

pub async fn an_import_knows_which_signals_came_and_which_questions_are_answered(stores: Vec<Shop>) {
    for store in stores {
        let module = store.put_module("w", b"module").await.unwrap();
        let answer =
            |step| MessageBody::Answer { step: Step(step), outcome: Ok(Json::null()), by: None, note: None };
        // One is a round of a chain, the other is alone.
        for (name, chain) in [("r", None), ("r-2", Some(id("first")))] {
            let mut machine = machine(name, module);
            machine.receive("s".to_owned(), Json::null(), Some("taken".to_owned()), Timestamp(20));
            let mut run = imported(&mut machine);
            run.info.links.chain = chain;
            run.inbox = [signal("s", Some("untaken")), answer(3)].map(|body| (Timestamp(5), body)).to_vec();
            run.questions = vec![question(3), question(4)];
            store.import(run).await.unwrap();
            for known in ["taken", "untaken"] {
                assert_eq!(post(&store, name, signal("s", Some(known))).await, Posted::Duplicate, "{known}");
            }
            assert_eq!(post(&store, name, signal("s", Some("new"))).await, Posted::Added);
            let open = async || {
                let open = store.questions(Some(&id(name)), 9).await.unwrap();
                open.into_iter().map(|open| open.step.0).collect::<Vec<_>>()
            };
            assert_eq!(open().await, [4]);
            assert_eq!(post(&store, name, answer(3)).await, Posted::NoQuestion);
            assert_eq!(post(&store, name, answer(4)).await, Posted::Added);
            // Nor are they asked again when what is kept of the run is made anew.
            let questions = vec![question(3), question(4), question(5)];
            let rebuilt = Rebuilt { info: store.info(name).await, emissions: None, questions };
            assert!(store.rebuild(rebuilt).await.unwrap());
            assert_eq!(open().await, [5]);
            assert_eq!(post(&store, name, answer(4)).await, Posted::NoQuestion);
        }
    }
}

pub fn every_second(name: &str, module: Digest) -> crate::schedule::Schedule {
    use crate::schedule::{CatchUp, Overlap, Schedule, When};
    Schedule {
        name: name.to_owned(),
        when: When::Every { millis: 1_000, from: Timestamp(5_000) },
        overlap: Overlap::Skip,
        catch_up: CatchUp::Last,
        workflow: "w".to_owned(),
        module,
        input: Json::null(),
        labels: Vec::new(),
        config: RunConfig::default(),
        created_at: Timestamp(1),
        next_at: Some(Timestamp(5_000)),
        fired: 0,
        last: None,
    }
}

pub async fn a_schedule_cancels_the_latest_round_of_its_last_run(stores: Vec<Shop>) {
    for store in stores {
        let (mut machine, _) = create(&store, "r", None).await;
        let next = Next::Continue { run: Box::new(next_round(&machine, "r-2")) };
        store.append(Append { next, ..store.with("r", None) }).await.unwrap();
        machine.continue_as(id("r-2"), Timestamp(50));
        assert_eq!(store.put_schedule(every_second("s", machine.module()), true).await, Ok(true));
        let fire = |due: u64, cancel: &str| Fire {
            schedule: "s".to_owned(),
            due: Timestamp(due),
            next: Some(Timestamp(due + 1_000)),
            run: None,
            cancel: Some(id(cancel)),
        };
        let asked = [MessageBody::Cancel { reason: Some(OVERTAKEN.to_owned()) }];
        // The round that was the latest one when the schedule was looked at has continued since.
        assert_eq!(store.fire(fire(5_000, "r")).await, Ok(true));
        assert_eq!(store.bodies("r-2").await, asked);
        // One that has ended is not asked, nor is one that was never there.
        let opened = store.opened(store.mine, "r-2").await;
        let consumed = opened.inbox.messages.iter().map(|message| message.id).collect();
        store.append(Append { consumed, ..end(store.mine, "r-2", opened.epoch.0) }).await.unwrap();
        assert_eq!(store.fire(fire(6_000, "r")).await, Ok(true));
        assert_eq!(store.fire(fire(7_000, "nobody")).await, Ok(true));
        assert!(store.bodies("r-2").await.is_empty());
        create(&store, "alone", None).await.1.unwrap();
        assert_eq!(store.fire(fire(8_000, "alone")).await, Ok(true));
        assert_eq!(store.bodies("alone").await, asked);
    }
}

pub async fn a_schedule_that_is_replaced_goes_on_from_its_last_run(stores: Vec<Shop>) {
    use crate::schedule::{Overlap, Schedule};
    for store in stores {
        let module = store.put_module("w", b"module").await.unwrap();
        let schedule = every_second("s", module);
        assert_eq!(store.put_schedule(schedule.clone(), true).await, Ok(true));
        let mut machine = machine("s-1", module);
        let rows = vec![row(&mut machine)];
        let run = NewRun::new(&machine, rows);
        let fire = Fire {
            schedule: "s".to_owned(),
            due: Timestamp(5_000),
            next: Some(Timestamp(6_000)),
            run: Some(run),
            cancel: None,
        };
        assert_eq!(store.fire(fire).await, Ok(true));
        let new = Schedule {
            overlap: Overlap::Queue,
            created_at: Timestamp(9),
            next_at: Some(Timestamp(7_000)),
            ..schedule
        };
        assert_eq!(store.put_schedule(new.clone(), false).await, Ok(false));
        assert_eq!(store.put_schedule(new.clone(), true).await, Ok(true));
        let known = store.schedules().await.unwrap().known;
        assert_eq!(known, [Schedule { fired: 1, last: Some(id("s-1")), ..new.clone() }]);
        // One that was removed is another one.
        assert_eq!(store.delete_schedule("s").await, Ok(true));
        assert_eq!(store.put_schedule(new.clone(), true).await, Ok(true));
        assert_eq!(store.schedules().await.unwrap().known, [new]);
    }
}

pub async fn behind_all_positions_there_is_nothing(stores: Vec<Shop>) {
    for store in stores {
        create(&store, "r", None).await.1.unwrap();
        let run = id("r");
        let at = Timestamp(1);
        let log =
            LogLine { number: 0, at, level: LogLevel::Info, message: "m".to_owned(), fields: Vec::new() };
        let emissions = vec![
            Emission::Log(log),
            Emission::State { key: "k".to_owned(), value: Json::null(), at },
            Emission::Message { name: "n".to_owned(), payload: Json::null(), at },
        ];
        let questions = vec![question(3)];
        store.append(Append { emissions, questions, ..store.with("r", None) }).await.unwrap();
        let line = |kind| NewTranscript { step: Step(1), attempt: 1, at, kind, text: "t".to_owned() };
        let lines = vec![line(TranscriptKind::Answer), line(TranscriptKind::Heartbeat)];
        store.transcribe(&run, lines).await.unwrap();
        let act = Act {
            number: 0,
            at,
            who: "ada".to_owned(),
            act: "runs.cancel".to_owned(),
            target: "r".to_owned(),
            result: "asked".to_owned(),
        };
        store.record_act(act).await.unwrap();
        let delivery = NewDelivery {
            sink: "s".to_owned(),
            message: "m".to_owned(),
            event: "e".to_owned(),
            run: run.clone(),
            body: "{}".to_owned(),
        };
        assert_eq!(store.put_deliveries(vec![delivery]).await, Ok(1));
        store.hold_cursor("c", "me", 50).await.unwrap();
        for beyond in [GREATEST, GREATEST + 1, u64::MAX] {
            let position = Position(beyond);
            assert_eq!(store.journal(&run, position).await, Ok(Vec::new()));
            assert_eq!(store.journal_part(&run, position, 9).await, Ok(Vec::new()));
            assert_eq!(store.changes(beyond, 9).await, Ok(Vec::new()));
            assert_eq!(store.logs(&run, beyond, 9).await, Ok(Vec::new()));
            assert_eq!(store.messages(&run, Some(beyond), 9).await, Ok(Vec::new()));
            assert_eq!(store.published(&run, None, Some(beyond), 9).await, Ok(Vec::new()));
            assert_eq!(store.latest(&run, None, Some(beyond), 9).await, Ok(Vec::new()));
            let filter = TranscriptFilter { after: beyond, ..TranscriptFilter::default() };
            assert_eq!(store.transcript(&run, filter, 9).await, Ok(Vec::new()));
            let step = Step(beyond);
            let filter = TranscriptFilter { step: Some(step), ..TranscriptFilter::default() };
            assert_eq!(store.transcript(&run, filter, 9).await, Ok(Vec::new()));
            assert_eq!(store.last_heartbeat(&run, step).await, Ok(None));
            assert_eq!(store.question(&run, step).await, Ok(None));
            assert_eq!(store.ended_children(&run, &[step]).await, Ok(Vec::new()));
            let answer = MessageBody::Answer { step, outcome: Ok(Json::null()), by: None, note: None };
            assert_eq!(post(&store, "r", answer).await, Posted::NoQuestion);
            // Before them is everything.
            assert_eq!(store.acts(Some(beyond), 9).await.unwrap().len(), 1);
            let filter = DeliveryFilter { before: Some(beyond), ..DeliveryFilter::default() };
            assert_eq!(store.deliveries(filter, 9).await.unwrap().len(), 1);
            assert_eq!(store.redeliver(vec![beyond]).await, Ok(0));
            assert_eq!(store.settle_delivery(beyond, 0, Settled::Delivered).await, Ok(false));
            store.set_starts(store.mine, &run, Epoch(beyond), 9).await.unwrap();
            let advance = Advance {
                name: "c".to_owned(),
                holder: "me".to_owned(),
                place: beyond,
                hold_ms: beyond,
                deliveries: Vec::new(),
            };
            assert_eq!(store.advance_cursor(advance).await, Ok(true));
            assert_eq!(store.hold_cursor("c", "me", beyond).await, Ok(Some(GREATEST)));
            assert_eq!(store.hold_cursor("c", "you", 50).await, Ok(None), "it is held for so long");
            let claimed = store.claim_deliveries("s", beyond, 9).await.unwrap();
            assert_eq!(store.claim_deliveries("s", beyond, 9).await, Ok(Vec::new()));
            for one in claimed {
                let again = Settled::Again { in_ms: 0, said: "503".to_owned() };
                assert_eq!(store.settle_delivery(one.number, one.tries, again).await, Ok(true));
            }
        }
        assert_eq!(store.opened(store.mine, "r").await.starts, 0);
    }
}

pub async fn the_last_round_that_is_left_of_a_chain_is_not_passed_on_to_itself(stores: Vec<Shop>) {
    for store in stores {
        let (first, _) = create(&store, "r", None).await;
        let next = Next::Continue { run: Box::new(next_round(&first, "r-2")) };
        store.append(Append { next, ..store.with("r", None) }).await.unwrap();
        let opened = store.opened(store.mine, "r-2").await;
        store.append(end(store.mine, "r-2", opened.epoch.0)).await.unwrap();
        assert_eq!(store.delete(&id("r-2")).await.unwrap(), Deleted::Yes);
        for body in [signal("s", None), MessageBody::Cancel { reason: None }, MessageBody::Pause] {
            assert_eq!(post(&store, "r", body).await, Posted::Ended);
        }
    }
}

/// For rows that a test has changed by hand: the run `whole` is claimed, those that cannot be read are told one by one,
/// and what has no name stays behind.
pub async fn what_can_be_read_is_claimed(store: &Shop, odd: &[&str]) {
    let due = store.claim_due(store.other, 9, Wanted::default()).await.unwrap();
    let (whole, unreadable): (Vec<_>, Vec<_>) = due.runs.into_iter().partition(Result::is_ok);
    assert_eq!(whole.into_iter().map(|run| run.unwrap().run).collect::<Vec<_>>(), [id("whole")]);
    let mut told = Vec::new();
    for Unreadable { run, epoch, error } in unreadable.into_iter().filter_map(Result::err) {
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        let trouble = Next::Release { waiting: None, trouble: Some(error.to_string()) };
        store.append(Append::new(run.clone(), store.other, epoch, Timestamp(0), trouble)).await.unwrap();
        told.push(run.to_string());
    }
    told.sort();
    assert_eq!(told, odd);
    let held = store.held(store.other).await.unwrap();
    assert!(matches!(&held[..], [(run, _)] if *run == id("whole")), "{held:?}");
    // None of them is in the way of what comes then, however little is claimed.
    enqueue(store, "next", None).await;
    assert_eq!(store.due(1, Wanted::default()).await.0, ["next"]);
    let claimed = store.claim_as(store.mine, odd[0], ClaimHow::Asked).await;
    assert!(matches!(claimed, Claimed::Unreadable(_)), "{claimed:?}");
}

pub async fn schedules_that_are_due_come_in_parts(stores: Vec<Shop>) {
    for store in stores {
        let module = store.put_module("w", b"bytes").await.unwrap();
        // Some at the same time, and one that is due later.
        let names = ["c", "a", "b", "e", "d"];
        for (name, at) in names.iter().zip([10, 10, 10, 11, 12]).chain([(&"later", 1_000)]) {
            let schedule = crate::schedule::Schedule {
                name: (*name).to_owned(),
                when: crate::schedule::When::Every { millis: 1_000, from: Timestamp(0) },
                overlap: Default::default(),
                catch_up: Default::default(),
                workflow: "w".to_owned(),
                module,
                input: Json::null(),
                labels: Vec::new(),
                config: RunConfig::default(),
                created_at: Timestamp(1),
                next_at: Some(Timestamp(at)),
                fired: 0,
                last: None,
            };
            assert!(store.put_schedule(schedule, false).await.unwrap());
        }
        store.at(100);
        let (mut behind, mut parts) = (None, Vec::new());
        loop {
            let part = store.due_schedules(behind, 2).await.unwrap();
            assert_eq!(part.next_in_ms, Some(900));
            parts.push(part.due.into_iter().map(|schedule| schedule.name).collect::<Vec<_>>().join(" "));
            behind = part.more;
            if behind.is_none() {
                break;
            }
        }
        assert_eq!(parts, ["a b", "c e", "d"]);
        let all = store.due_schedules(None, 5).await.unwrap();
        // Whether there are more is known behind the last one only.
        assert_eq!((all.due.len(), all.more), (5, Some((Timestamp(12), "d".to_owned()))));
        assert!(store.due_schedules(Some((Timestamp(12), "d".to_owned())), 5).await.unwrap().due.is_empty());
    }
}
