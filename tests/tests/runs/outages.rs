//! Calls that outlive a trouble of the database, the session of their host, or its driver, and what is said of those
//! that wait: by the library.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use wfhost::agents::{CallObserver, Policy, ProviderPolicy, Providers, SeenCall};
use wfhost::store::{
    Append, ClaimHow, Claimed, Fence, MessageBody, NewTranscript, Next, RunState, SessionId, SharedStore,
    SqliteOptions, SqliteStore, StoreError, TranscriptKind,
};
use wfhost::why::Parallel;
use wfhost::{Host, HostOptions, Notice, Observer, ResumeOptions, StartOptions, steps};
use wfhost_core::policy::rate::Rate;
use wfhost_core::{Event, Json, RunId, Step, TURN_AWAITED, TURN_TAKEN, Timestamp};
use wfhost_tests::{Place, module};
use wfhost_view::WhyView;

use super::moments::{Held, info, signal};

/// How long the session of the host lasts without being renewed.
const LEASE_MS: u64 = 900;

/// Sees what the store refuses, and whether that was for a run; and how often one was lost to another process.
#[derive(Debug, Default)]
struct Failures(Mutex<Vec<(bool, StoreError)>>, AtomicUsize);

impl CallObserver for Failures {
    fn see_call(&self, _: SeenCall<'_>) {}
}

/// Panics the first time that a run is opened.
#[derive(Debug, Default)]
struct Panics(AtomicUsize);

impl CallObserver for Panics {
    fn see_call(&self, _: SeenCall<'_>) {}
}

impl Observer for Panics {
    fn see(&self, notice: Notice<'_>) {
        if let Notice::Opened { .. } = notice {
            assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "the first time is a fault");
        }
    }
}

impl Observer for Failures {
    fn see(&self, notice: Notice<'_>) {
        match notice {
            Notice::Failed { run, error } => {
                self.0.lock().unwrap().push((run.is_some(), error.clone()));
            }
            Notice::Left { how: "lost", .. } => drop(self.1.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
    }
}

impl Failures {
    fn any(&self, of_run: bool) -> bool {
        let seen = self.0.lock().unwrap();
        seen.iter().any(|(run, error)| *run == of_run && error.to_string().contains("an outage"))
    }
}

/// Does something to a database behind the back of wfhost.
pub(super) fn execute(place: &Place, sql: &str) {
    let database = rusqlite::Connection::open(place.db()).expect("the database");
    database.busy_timeout(Duration::from_secs(10)).expect("a length of time");
    database.execute_batch(sql).expect("valid SQL");
}

/// A host over a file, and another process that looks at it.
struct Scene {
    place: Place,
    host: Host,
    run: RunId,
    failures: Arc<Failures>,
    other: SharedStore,
}

impl Scene {
    /// A run that calls these agents at once, each with what holds for it. `sql` is done to the database before.
    async fn begin(calls: &[(&Arc<Held>, ProviderPolicy)], sql: &str) -> Self {
        Self::of(calls, |calls| json!([{ "parallel": calls }]), sql).await
    }

    /// The same of a run with a program around the calls.
    async fn of(
        calls: &[(&Arc<Held>, ProviderPolicy)],
        program: impl FnOnce(Vec<Value>) -> Value,
        sql: &str,
    ) -> Self {
        let place = Place::in_file();
        let failures = Arc::new(Failures::default());
        let host = Self::host(&place, calls, &failures);
        let module = host.add_module("probe", &Self::probe()).await.expect("a workflow");
        let call = |name: &str| json!({ "agent_with": { "prompt": "p", "providers": [name] } });
        let calls: Vec<Value> = calls.iter().map(|(agent, _)| call(agent.name)).collect();
        let input = Json::from(json!({ "do": program(calls) }));
        execute(&place, sql);
        let run =
            host.enqueue(&module, StartOptions { input, ..StartOptions::default() }).await.expect("a run");
        host.serve();
        let other = Self::store(&place);
        Self { place, host, run, failures, other }
    }

    fn probe() -> Vec<u8> {
        std::fs::read(module("probe")).expect("examples/build made it")
    }

    fn store(place: &Place) -> SharedStore {
        Arc::new(SqliteStore::open(&place.db(), &SqliteOptions::default()).expect("a database"))
    }

    fn host(place: &Place, calls: &[(&Arc<Held>, ProviderPolicy)], failures: &Arc<Failures>) -> Host {
        let mut providers = Providers::builtin();
        let mut policies = BTreeMap::new();
        for (agent, policy) in calls {
            providers.add(Arc::clone(agent) as _);
            policies.insert(agent.name.to_owned(), *policy);
        }
        providers.set_policy(Policy { providers: policies, ..Policy::default() });
        let observer: Arc<dyn Observer> = failures.clone();
        let options = HostOptions {
            providers,
            lease_ms: LEASE_MS,
            observer: Some(observer),
            ..HostOptions::new(Self::store(place))
        };
        Host::new(options).expect("a host")
    }

    fn sql(&self, sql: &str) {
        execute(&self.place, sql);
    }

    async fn session(&self) -> Option<SessionId> {
        self.other.sessions().await.expect("a store").first().map(|session| session.id)
    }

    /// The database takes no commit of a run any more, and another process ends the session of this one. Both are
    /// over when a new session has begun, which this gives.
    async fn outage(&self) -> SessionId {
        self.sql(
            "CREATE TRIGGER outage BEFORE INSERT ON commits BEGIN SELECT RAISE(ABORT, 'an outage'); END",
        );
        let signal = MessageBody::Signal { name: "s".to_owned(), payload: Json::null(), id: None };
        self.host.post(&self.run, signal).await.expect("it is taken");
        until("a commit that fails", async || self.failures.any(true)).await;
        let before = self.session().await.expect("the host has one");
        self.sql(
            "CREATE TRIGGER later BEFORE INSERT ON sessions BEGIN SELECT RAISE(ABORT, 'an outage'); END",
        );
        self.other.fence(before, Fence::Dead).await.expect("a store");
        // The host notices when it renews its session, and has done what it does then before another one begins.
        tokio::time::sleep(2 * Duration::from_millis(LEASE_MS)).await;
        self.sql("DROP TRIGGER later");
        until("the next session", async || self.session().await.is_some_and(|now| now != before)).await;
        self.sql("DROP TRIGGER outage");
        self.session().await.expect("it is there")
    }

    async fn completes(&self) {
        until("the end of the run", async || {
            let info = self.other.run(&self.run).await.expect("a store").expect("a run");
            info.state == RunState::Completed
        })
        .await;
    }
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_a_slot_is_made_under_the_next_session_and_made_once() {
    let agent = Held::new("held");
    let one = ProviderPolicy { max_parallel: Some(1), ..ProviderPolicy::default() };
    let scene = Scene::begin(&[(&agent, one), (&agent, one)], "").await;
    until("the first call", async || agent.begun() == 1).await;
    scene.outage().await;
    agent.may.add_permits(2);
    scene.completes().await;
    assert_eq!(agent.begun(), 2);
}

/// As by `terminate` in a process that dies before it has ended the run, or that cannot end it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_outlives_that_another_process_had_its_run_for_a_moment() {
    for dies in [true, false] {
        let agent = Held::new("held");
        let scene = Scene::begin(&[(&agent, ProviderPolicy::default())], "").await;
        until("the call", async || agent.begun() == 1).await;
        let owner = wfhost::owner::this_process();
        let session = scene.other.begin_session(&owner, 60_000).await.expect("a store");
        let claimed = scene.other.claim(session, &scene.run, ClaimHow::Seize).await.expect("a store");
        let Claimed::Yes(seized) = claimed else { panic!("{claimed:?}") };
        if dies {
            scene.other.fence(session, Fence::Dead).await.expect("a store");
        } else {
            let next = Next::Release { waiting: None, trouble: None };
            let append = Append::new(scene.run.clone(), session, seized.epoch, Timestamp(0), next);
            scene.other.append(append).await.expect("the run is its own");
        }
        until("the host to drive it under its latest claim", async || {
            scene.failures.1.load(Ordering::SeqCst) == 1
        })
        .await;
        // The first is answered; another one would be, too.
        agent.may.add_permits(2);
        scene.completes().await;
        assert_eq!(agent.begun(), 1);
    }
}

/// The answer was in its driver's memory only.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_committed_is_committed_later() {
    let agent = Held::new("held");
    let scene = Scene::begin(&[(&agent, ProviderPolicy::default())], "").await;
    until("the call", async || agent.begun() == 1).await;
    scene.sql("CREATE TRIGGER outage BEFORE INSERT ON commits BEGIN SELECT RAISE(ABORT, 'an outage'); END");
    // Another call would be answered, too.
    agent.may.add_permits(2);
    until("a commit that fails", async || scene.failures.any(true)).await;
    scene.sql("DROP TRIGGER outage");
    scene.completes().await;
    assert_eq!(agent.begun(), 1);
}

/// The calls are dropped when the signal comes, which is the first commit; that of the drop is the second, if the program
/// goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dropped_call_consumed_counts_though_it_cannot_be_committed_at_once() {
    let on = json!({ "wait": { "name": "on" } });
    for (goes_on, committed) in [(true, 1), (true, 2), (false, 1)] {
        let agent = Held::costly("costly", 75);
        let program = |mut calls: Vec<Value>| {
            calls.push(json!({ "wait": { "name": "go" } }));
            json!(if goes_on {
                vec![json!({ "race": calls }), on.clone()]
            } else {
                vec![json!({ "race": calls })]
            })
        };
        let scene = Scene::of(&[(&agent, ProviderPolicy::default())], program, "").await;
        until("the call", async || agent.begun() == 1).await;
        scene.sql(&format!(
            "CREATE TABLE made (n);
             CREATE TRIGGER outage BEFORE INSERT ON commits WHEN (SELECT count(*) FROM made) = {committed}
                 BEGIN SELECT RAISE(ABORT, 'an outage'); END;
             CREATE TRIGGER counts AFTER INSERT ON commits BEGIN INSERT INTO made VALUES (1); END"
        ));
        scene.host.post(&scene.run, signal("go")).await.expect("it is taken");
        until("a commit that fails", async || scene.failures.any(true)).await;
        scene.sql("DROP TRIGGER outage; DROP TRIGGER counts; DROP TABLE made");
        let spent = async || info(&scene.other, &scene.run).await.spent.tokens;
        if goes_on {
            until("what it consumed to be recorded", async || spent().await > 0).await;
            scene.host.post(&scene.run, signal("on")).await.expect("it is taken");
        }
        scene.completes().await;
        assert_eq!((spent().await, agent.begun()), (75, 1), "{goes_on} {committed}");
    }
}

/// The host loses the run, and with it the call, before it has it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_consumed_counts_that_was_stopped_because_another_process_had_the_run() {
    let agent = Held::costly("costly", 75);
    let scene = Scene::begin(&[(&agent, ProviderPolicy::default())], "").await;
    until("the call", async || agent.begun() == 1).await;
    let owner = wfhost::owner::this_process();
    let session = scene.other.begin_session(&owner, 60_000).await.expect("a store");
    let claimed = scene.other.claim(session, &scene.run, ClaimHow::Seize).await.expect("a store");
    let Claimed::Yes(seized) = claimed else { panic!("{claimed:?}") };
    scene.host.post(&scene.run, signal("s")).await.expect("it is taken");
    until("the host to lose it", async || scene.failures.1.load(Ordering::SeqCst) == 1).await;
    let next = Next::Release { waiting: None, trouble: None };
    let append = Append::new(scene.run.clone(), session, seized.epoch, Timestamp(0), next);
    scene.other.append(append).await.expect("the run is its own");
    // It is made again, and what that consumes is not known to be all.
    until("the call to be made again", async || agent.begun() == 2).await;
    let spent = async || info(&scene.other, &scene.run).await.spent.tokens;
    until("what it consumed to be recorded", async || spent().await == 75).await;
    agent.may.add_permits(1);
    scene.completes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_refused_because_another_process_has_the_run_is_kept_for_when_it_has_not() {
    let agent = Held::new("held");
    let scene = Scene::begin(&[(&agent, ProviderPolicy::default())], "").await;
    until("the call", async || agent.begun() == 1).await;
    let owner = wfhost::owner::this_process();
    let session = scene.other.begin_session(&owner, 60_000).await.expect("a store");
    let claimed = scene.other.claim(session, &scene.run, ClaimHow::Seize).await.expect("a store");
    let Claimed::Yes(seized) = claimed else { panic!("{claimed:?}") };
    agent.may.add_permits(2);
    until("the host to lose it", async || scene.failures.1.load(Ordering::SeqCst) == 1).await;
    let next = Next::Release { waiting: None, trouble: None };
    let append = Append::new(scene.run.clone(), session, seized.epoch, Timestamp(0), next);
    scene.other.append(append).await.expect("the run is its own");
    scene.completes().await;
    assert_eq!(agent.begun(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_of_calls_that_outlive_a_session_belong_to_the_next_one() {
    let agent = Held::new("held");
    let of_fleet = ProviderPolicy { max_parallel: Some(2), of_fleet: true, ..ProviderPolicy::default() };
    let scene = Scene::begin(&[(&agent, of_fleet)], "").await;
    until("the call", async || agent.begun() == 1).await;
    let session = scene.outage().await;
    until("its slot", async || {
        let slots = scene.other.slots().await.expect("a store");
        matches!(&slots[..], [slot] if slot.session == session && (slot.used, slot.need.has) == (1, 1))
    })
    .await;
    agent.may.add_permits(1);
    scene.completes().await;
    assert_eq!(agent.begun(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_given_out_though_turns_cannot_and_that_is_told() {
    let (paced, many) = (Held::new("paced"), Held::new("many"));
    let rate = Some(Rate { per_minute: 600, burst: 1 });
    let paced_by = ProviderPolicy { rate, of_fleet: true, ..ProviderPolicy::default() };
    let many_by = ProviderPolicy { max_parallel: Some(2), of_fleet: true, ..ProviderPolicy::default() };
    let fails = "CREATE TRIGGER outage BEFORE INSERT ON rates BEGIN SELECT RAISE(ABORT, 'an outage'); END";
    let scene = Scene::begin(&[(&paced, paced_by), (&many, many_by)], fails).await;
    until("the call that needs a slot only", async || many.begun() == 1).await;
    until("the trouble to be told", async || scene.failures.any(false)).await;
    assert_eq!((paced.begun(), scene.failures.any(true)), (0, false));
    scene.sql("DROP TRIGGER outage");
    paced.may.add_permits(1);
    many.may.add_permits(1);
    scene.completes().await;
}

/// Calls whose turns at `paced` are some seconds apart: the second one sleeps until its own.
fn some_seconds_apart() -> ProviderPolicy {
    let rate = Some(Rate { per_minute: 15, burst: 1 });
    ProviderPolicy { rate, of_fleet: true, ..ProviderPolicy::default() }
}

impl Scene {
    async fn turns_waited_for(&self) -> u64 {
        let turns = self.other.turns().await.expect("a store");
        turns.iter().map(|turns| turns.waiting).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_closed_leaves_the_turn_of_a_call_that_sleeps_until_then() {
    let paced = Held::new("paced");
    let scene = Scene::begin(&[(&paced, some_seconds_apart()), (&paced, some_seconds_apart())], "").await;
    until("one call, and one that sleeps", async || {
        paced.begun() == 1 && scene.turns_waited_for().await == 1
    })
    .await;
    scene.host.close(None).await;
    // What a host tells the store it tells at once.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(scene.turns_waited_for().await, 1, "the next host finds it");
}

/// Calls whose turns at `paced` are a minute apart: the second one is put off until its own.
fn a_minute_apart(of_fleet: bool) -> ProviderPolicy {
    ProviderPolicy { rate: Some(Rate { per_minute: 1, burst: 1 }), of_fleet, ..ProviderPolicy::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_while_it_is_put_off_gives_its_turn_back() {
    for of_fleet in [false, true] {
        let paced = Held::new("paced");
        let calls = [(&paced, a_minute_apart(of_fleet)), (&paced, a_minute_apart(of_fleet))];
        let again = json!({ "agent_with": { "prompt": "p", "providers": ["paced"] } });
        let program = |mut calls: Vec<Value>| {
            calls.push(json!({ "wait": { "name": "go" } }));
            json!([{ "race": calls }, again])
        };
        let scene = Scene::of(&calls, program, "").await;
        let postponed = async |scene: &Scene| {
            let journal = scene.host.journal(&scene.run).await.expect("a journal");
            let until = journal.entries.iter().filter_map(|entry| match &entry.event {
                Event::Postponed { until, .. } => Some(*until),
                _ => None,
            });
            until.collect::<Vec<_>>()
        };
        until("a call that is put off", async || postponed(&scene).await.len() == 1).await;
        let signal = MessageBody::Signal { name: "go".to_owned(), payload: Json::null(), id: None };
        scene.host.post(&scene.run, signal).await.expect("it is taken");
        until("the next call to be put off", async || postponed(&scene).await.len() == 2).await;
        // It has the turn of the one that was dropped.
        let put_off = postponed(&scene).await;
        let apart = put_off[1].since(put_off[0]);
        assert!(apart < 30_000, "{apart} ms, of the fleet: {of_fleet}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_as_soon_as_it_is_executed_leaves_no_turn_behind() {
    let paced = Held::new("paced");
    let calls = [(&paced, a_minute_apart(true)), (&paced, a_minute_apart(true))];
    let program = |mut calls: Vec<Value>| {
        calls.push(json!({ "ask": { "prompt": "enough?" } }));
        json!([{ "race": calls }])
    };
    let scene = Scene::of(&calls, program, "").await;
    until("one call, and one that is put off", async || {
        paced.begun() == 1 && scene.turns_waited_for().await == 1
    })
    .await;
    scene.host.close(None).await;
    // What was answered stands in the journal before the program is executed.
    let answer = MessageBody::Answer { step: Step(3), outcome: Ok(Json::null()), by: None, note: None };
    wfhost::post(&scene.other, &scene.run, answer).await.expect("it is asked");
    let host = Scene::host(&scene.place, &calls, &scene.failures);
    // It takes longer to compile than anything that is waited for here.
    host.add_module("probe", &Scene::probe()).await.expect("a workflow");
    host.serve();
    scene.completes().await;
    until("the turn to be given back", async || scene.turns_waited_for().await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_drive_panics_is_given_up_and_can_be_driven_again() {
    let place = Place::in_file();
    let store: SharedStore =
        Arc::new(SqliteStore::open(&place.db(), &SqliteOptions::default()).expect("a database"));
    let panics = Arc::new(Panics::default());
    let observer: Arc<dyn Observer> = panics.clone();
    let options = HostOptions { observer: Some(observer), ..HostOptions::new(Arc::clone(&store)) };
    let host = Host::new(options).expect("a host");
    let bytes = std::fs::read(module("probe")).expect("examples/build made it");
    let module = host.add_module("probe", &bytes).await.expect("a workflow");
    let input = Json::from(json!({ "do": [] }));
    let run = host.enqueue(&module, StartOptions { input, ..StartOptions::default() }).await.expect("a run");
    host.serve();
    let info = async || store.run(&run).await.expect("a store").expect("a run");
    until("the run to be given up", async || info().await.trouble.is_some()).await;
    let given_up = info().await;
    let trouble = given_up.trouble.unwrap_or_default();
    assert!(given_up.lease.is_none() && trouble.contains("the host panicked"), "{trouble}");
    // Some time later anybody takes it up; on demand that is now.
    let _handle = host.resume(&run, ResumeOptions::default()).await.expect("nobody has it");
    until("the end of the run", async || info().await.state == RunState::Completed).await;
    assert_eq!(panics.0.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_made_is_not_said_to_wait_because_an_attempt_before_did() {
    let agent = Held::new("held");
    let scene = Scene::begin(&[(&agent, ProviderPolicy::default())], "").await;
    until("the call", async || agent.begun() == 1).await;
    let line = |at, text: &str| NewTranscript {
        step: Step(1),
        attempt: 1,
        at,
        kind: TranscriptKind::Queue,
        text: text.to_owned(),
    };
    let waits = async || {
        let info = scene.other.run(&scene.run).await.expect("a store").expect("a run");
        let steps = steps(&scene.host.journal(&scene.run).await.expect("a journal"));
        let why = WhyView::of(scene.other.as_ref(), &info, &steps, Parallel::default()).await;
        why.expect("a store").blockers.iter().any(|blocker| blocker.what.contains("waits for its turn"))
    };
    // Of an attempt whose host is gone.
    scene.other.transcribe(&scene.run, vec![line(Timestamp(1), TURN_AWAITED)]).await.expect("a store");
    assert!(!waits().await);
    let now = scene.other.now();
    scene.other.transcribe(&scene.run, vec![line(now, TURN_AWAITED); 1_000]).await.expect("a store");
    assert!(waits().await);
    // However often it waited, the last word counts.
    scene.other.transcribe(&scene.run, vec![line(now, TURN_TAKEN)]).await.expect("a store");
    assert!(!waits().await);
    agent.may.add_permits(1);
    scene.completes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_signal_that_cannot_be_stored_when_its_virtual_time_has_come_is_sent_later() {
    let place = Place::in_file();
    let store: SharedStore =
        Arc::new(SqliteStore::open(&place.db(), &SqliteOptions::default()).expect("a database"));
    let options = HostOptions { virtual_time: true, ..HostOptions::new(Arc::clone(&store)) };
    let host = Host::new(options).expect("a host");
    let bytes = std::fs::read(module("probe")).expect("examples/build made it");
    let module = host.add_module("probe", &bytes).await.expect("a workflow");
    let input = Json::from(json!({ "do": [{ "wait": { "name": "go" } }] }));
    execute(
        &place,
        "CREATE TRIGGER outage BEFORE INSERT ON inbox BEGIN SELECT RAISE(ABORT, 'an outage'); END",
    );
    let options = StartOptions { input, ..StartOptions::default() };
    let handle = host.start(&module, options, None).await.expect("a run");
    host.plan_signal(&handle.id, Duration::from_secs(86_400), "go", Json::null()).expect("a signal");
    // Time to try it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    execute(&place, "DROP TRIGGER outage");
    let info = async || store.run(&handle.id).await.expect("a store").expect("a run");
    until("the end of the run", async || info().await.state == RunState::Completed).await;
}
