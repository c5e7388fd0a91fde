//! What happens at unlucky moments: while a run is taken up, while a commit is under way, while somebody else is about
//! to do something with the run. By the library.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use wfhost::agents::{
    Call, CallFailure, CallObserver, CallOutput, Policy, Provider, ProviderPolicy, Scripted, SeenCall,
};
use wfhost::engine::{DriveError, Module};
use wfhost::schedule::{CatchUp, Overlap, Schedule, When};
use wfhost::store::{
    Append, ClaimHow, Claimed, Deleted, MessageBody, Next, RunInfo, RunState, SharedStore, SqliteOptions,
    SqliteStore, StoreError,
};
use wfhost::world::{Owner, System, World};
use wfhost::{
    Adopt, Ending, Evict, Host, HostError, HostOptions, Notice, Observer, ResumeOptions, RunHandle,
    StartOptions,
};
use wfhost_core::policy::budget::Budget;
use wfhost_core::policy::rate::Rate;
use wfhost_core::{Json, Reply, RunConfig, RunId, Timestamp, Usage};
use wfhost_tests::{Place, module};

/// An agent that answers when it may.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) name: &'static str,
    begun: AtomicUsize,
    ended: AtomicUsize,
    /// What it says to have consumed as soon as it is asked.
    tokens: AtomicU64,
    pub(super) may: Semaphore,
}

impl Held {
    pub(super) fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            begun: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            tokens: AtomicU64::new(0),
            may: Semaphore::new(0),
        })
    }

    /// One that says at once that each call consumed so many tokens.
    pub(super) fn costly(name: &'static str, tokens: u64) -> Arc<Self> {
        let agent = Self::new(name);
        agent.tokens.store(tokens, Ordering::SeqCst);
        agent
    }

    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub(super) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Provider for Held {
    fn name(&self) -> &str {
        self.name
    }

    fn call(&self, _: Call, out: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        Box::pin(async move {
            let input_tokens = self.tokens.load(Ordering::SeqCst);
            out.usage((input_tokens > 0).then(|| Usage { input_tokens, ..Usage::default() }));
            self.begun.fetch_add(1, Ordering::SeqCst);
            self.may.acquire().await.expect("it is never closed").forget();
            self.ended.fetch_add(1, Ordering::SeqCst);
            Ok(Reply::new(self.name, Json::null()))
        })
    }
}

pub(super) fn open(place: &Place) -> SharedStore {
    Arc::new(SqliteStore::open(&place.db(), &SqliteOptions::default()).expect("a database"))
}

/// A host over the database of the place, which no other one shares anything else with.
pub(super) fn host(place: &Place, agents: &[&Arc<Held>], options: impl FnOnce(&mut HostOptions)) -> Host {
    let mut all = HostOptions::new(open(place));
    for agent in agents {
        all.providers.add(Arc::clone(agent) as _);
    }
    options(&mut all);
    Host::new(all).expect("a host")
}

pub(super) async fn probe(host: &Host) -> Module {
    let bytes = std::fs::read(module("probe")).expect("examples/build made it");
    host.add_module("probe", &bytes).await.expect("a workflow")
}

pub(super) fn starting(id: &str, program: Value) -> StartOptions {
    let input = Json::from(json!({ "do": program }));
    StartOptions { input, id: Some(id.parse().expect("an id")), ..StartOptions::default() }
}

pub(super) fn calling(agent: &str) -> Value {
    json!({ "agent_with": { "prompt": "p", "providers": [agent] } })
}

pub(super) fn waiting(signal: &str) -> Value {
    json!({ "wait": { "name": signal } })
}

pub(super) fn signal(name: &str) -> MessageBody {
    MessageBody::Signal { name: name.to_owned(), payload: Json::null(), id: None }
}

pub(super) async fn info(store: &SharedStore, run: &RunId) -> RunInfo {
    store.run(run).await.expect("a store").expect("a run")
}

pub(super) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    waited.unwrap_or_else(|_| panic!("{what} did not happen"));
}

pub(super) async fn ending(handle: &mut RunHandle) -> Result<Ending, HostError> {
    let ended = tokio::time::timeout(Duration::from_secs(60), handle.ending()).await;
    ended.expect("it ends some time")
}

/// The host has claimed the run, and compiles its module: nothing drives the run yet that could be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_sent_while_a_host_takes_a_run_up_is_seen_at_once() {
    let place = Place::in_file();
    let other = host(&place, &[], |_| {});
    let module = probe(&other).await;
    let agent = Held::new("held");
    let run = other.enqueue(&module, starting("r", json!([calling("held")]))).await.expect("a run");
    // It has compiled nothing yet, takes up nothing by itself, and has looked at everything before.
    let host = host(&place, &[&agent], |options| options.adopt = Adopt::Own);
    host.serve();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let resumed = tokio::spawn({
        let (host, run) = (host.clone(), run.clone());
        async move { host.resume(&run, ResumeOptions::default()).await }
    });
    until("the claim", async || info(other.store(), &run).await.lease.is_some()).await;
    host.post(&run, MessageBody::Cancel { reason: None }).await.expect("it is taken");
    let mut handle = resumed.await.expect("no panic").expect("it can be resumed");
    let ended = ending(&mut handle).await;
    let Ok(Ending::Finished(Ok(result))) = ended else { panic!("{ended:?}") };
    assert_eq!(result.value()[0]["failure"], "cancelled");
}

/// A machine whose clock is ten minutes behind.
#[derive(Debug)]
struct Behind;

impl World for Behind {
    fn now(&self) -> Timestamp {
        Timestamp(System.now().0 - 600_000)
    }

    fn owner(&self) -> Owner {
        System.owner()
    }

    fn is_dead(&self, owner: &Owner) -> bool {
        System.is_dead(owner)
    }
}

/// The times of turns that all hosts share are those of the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_clock_is_behind_that_of_the_store_meets_its_turns() {
    let place = Place::in_file();
    let agent = Held::new("held");
    agent.may.add_permits(3);
    let rate = Some(Rate { per_minute: 30, burst: 1 });
    let policy = ProviderPolicy { rate, of_fleet: true, ..ProviderPolicy::default() };
    let policies = [("held".to_owned(), policy)].into();
    let host = host(&place, &[&agent], |options| {
        options.world = Arc::new(Behind);
        options.providers.set_policy(Policy { providers: policies, ..Policy::default() });
    });
    let module = probe(&host).await;
    let program = json!([{ "parallel": [calling("held"), calling("held"), calling("held")] }]);
    let mut handle = host.start(&module, starting("r", program), None).await.expect("a run");
    assert!(matches!(ending(&mut handle).await, Ok(Ending::Finished(Ok(_)))));
}

/// Another process has taken the run for another attempt, and has not recorded that yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_terminated_while_it_is_about_to_be_retried_stays_as_it_ended() {
    let place = Place::in_file();
    let host = host(&place, &[], |_| {});
    let module = probe(&host).await;
    let program = json!([{ "fail_with": { "kind": "failed", "message": "on purpose" } }]);
    let mut handle = host.start(&module, starting("r", program), None).await.expect("a run");
    let Ok(Ending::Finished(Err(failure))) = ending(&mut handle).await else { panic!("it fails") };
    let run = handle.id.clone();
    let before = host.journal(&run).await.expect("a journal").head;
    let other = open(&place);
    let session = other.begin_session(&wfhost::owner::this_process(), 60_000).await.expect("a store");
    let claimed = other.claim(session, &run, ClaimHow::Reopen).await.expect("a store");
    let Claimed::Yes(opened) = claimed else { panic!("{claimed:?}") };
    // That is lost with the attempt.
    host.post(&run, signal("s")).await.expect("it goes on");
    let terminated = host.terminate(&run, None).await;
    assert!(matches!(terminated, Err(HostError::Ended { .. })), "{terminated:?}");
    assert_eq!(host.journal(&run).await.expect("a journal").head, before, "nothing follows an end");
    let ended = info(&other, &run).await;
    assert_eq!((ended.state, ended.outcome), (RunState::Failed, Some(Err(failure))));
    let go = Append::new(run.clone(), session, opened.epoch, Timestamp(0), Next::Go);
    assert_eq!(other.append(go).await, Err(StoreError::Fenced { run }));
}

/// The commit is that of a signal, so that nothing else has the answer taken.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_during_a_commit_is_kept_by_a_host_that_leaves_at_once() {
    let place = Place::in_file();
    let (slow, quick) = (Held::new("slow"), Held::new("quick"));
    let first = host(&place, &[&slow, &quick], |_| {});
    let module = probe(&first).await;
    let program = json!([{ "parallel": [calling("slow"), calling("quick"), waiting("never")] }]);
    let handle = first.start(&module, starting("r", program), None).await.expect("a run");
    let run = handle.id.clone();
    until("the calls", async || (slow.begun(), quick.begun()) == (1, 1)).await;
    let sql = |sql: &str| {
        let database = rusqlite::Connection::open(place.db()).expect("the database");
        database.busy_timeout(Duration::from_secs(60)).expect("a length of time");
        database.execute_batch(sql).expect("valid SQL");
    };
    // A commit takes seconds from now on.
    sql("CREATE TRIGGER slow BEFORE INSERT ON commits BEGIN SELECT count(*) FROM (
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000000) SELECT i FROM n); END");
    first.post(&run, signal("s")).await.expect("it is taken");
    tokio::time::sleep(Duration::from_millis(300)).await;
    quick.may.add_permits(1);
    until("the answer", async || quick.ended() == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.close(None).await;
    sql("DROP TRIGGER slow");
    drop((handle, first));
    let second = host(&place, &[&slow, &quick], |_| {});
    let mut handle = second.resume(&run, ResumeOptions::default()).await.expect("nobody has it");
    until("the call that was left", async || slow.begun() == 2).await;
    assert_eq!(quick.begun(), 1, "it is not paid for again");
    second.post(&run, MessageBody::Cancel { reason: None }).await.expect("it is taken");
    ending(&mut handle).await.expect("a store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_continues_as_new_though_the_id_of_the_next_round_was_of_a_deleted_run() {
    let place = Place::in_file();
    let host = host(&place, &[], |_| {});
    let module = probe(&host).await;
    let mut handle = host.start(&module, starting("r-2", json!([])), None).await.expect("a run");
    assert!(matches!(ending(&mut handle).await, Ok(Ending::Finished(Ok(_)))));
    let deleted = host.store().delete(&handle.id).await.expect("a store");
    assert!(matches!(deleted, Deleted::Yes), "{deleted:?}");
    let next = json!({ "do": [] });
    let program = json!([{ "continue_as_new": next }]);
    let mut handle = host.start(&module, starting("r", program), None).await.expect("a run");
    let Ok(Ending::Continued(next)) = ending(&mut handle).await else { panic!("it continues") };
    assert_ne!(next.as_str(), "r-2");
    let mut handle = handle.follow_on(next);
    assert!(matches!(ending(&mut handle).await, Ok(Ending::Finished(Ok(_)))));
}

fn tokens(tokens: u64) -> Budget {
    Budget { tokens: Some(tokens), ..Budget::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_budget_for_a_run_that_the_host_drives_is_refused() {
    let place = Place::in_file();
    let agent = Held::new("held");
    let host = host(&place, &[&agent], |_| {});
    let module = probe(&host).await;
    // It waits for the signal by the time that it is paused, and does not end before.
    let program = json!([calling("held"), waiting("go")]);
    let handle = host.start(&module, starting("r", program), None).await.expect("a run");
    until("the call", async || agent.begun() == 1).await;
    let options = || ResumeOptions { budget: Some(tokens(5)), ..ResumeOptions::default() };
    let refused = host.resume(&handle.id, options()).await;
    assert!(matches!(refused, Err(HostError::Driven { .. })), "{refused:?}");
    agent.may.add_permits(1);
    until("the call's end", async || agent.ended() == 1).await;
    host.post(&handle.id, MessageBody::Pause).await.expect("it is taken");
    until("the pause", async || info(host.store(), &handle.id).await.state == RunState::Paused).await;
    let mut handle = host.resume(&handle.id, options()).await.expect("nobody drives it");
    host.post(&handle.id, signal("go")).await.expect("it is taken");
    assert!(matches!(ending(&mut handle).await, Ok(Ending::Finished(_))));
}

/// Keeps the drivers of a host between their last commit and their end.
#[derive(Debug, Default)]
struct Lingering {
    stays: AtomicUsize,
    may_go: AtomicBool,
}

impl CallObserver for Lingering {
    fn see_call(&self, _: SeenCall<'_>) {}
}

impl Observer for Lingering {
    fn see(&self, notice: Notice<'_>) {
        if let Notice::Left { .. } = notice {
            self.stays.fetch_add(1, Ordering::SeqCst);
            while !self.may_go.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Lingering {
    /// What it comes to if the driver leaves a moment after it was asked for.
    async fn goes_during<T>(&self, asked: impl Future<Output = T>) -> T {
        until("the driver to leave", async || self.stays.load(Ordering::SeqCst) == 1).await;
        let goes = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.may_go.store(true, Ordering::SeqCst);
        };
        tokio::join!(asked, goes).0
    }
}

/// Who has read in the store that nobody has the run is not told that this host drives it.
///
/// The observer keeps one thread from everything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_driver_that_has_committed_that_it_leaves_refuses_nobody() {
    let place = Place::in_file();
    let (paused, failed) = (Arc::<Lingering>::default(), Arc::<Lingering>::default());
    let agent = Held::new("held");

    let lingers = host(&place, &[&agent], |options| options.observer = Some(Arc::clone(&paused) as _));
    let module = probe(&lingers).await;
    let program = json!([calling("held"), waiting("go")]);
    let handle = lingers.start(&module, starting("paused", program), None).await.expect("a run");
    agent.may.add_permits(1);
    until("the call", async || agent.ended() == 1).await;
    lingers.post(&handle.id, MessageBody::Pause).await.expect("it is taken");
    let options = ResumeOptions { budget: Some(tokens(5)), ..ResumeOptions::default() };
    let mut handle = paused.goes_during(lingers.resume(&handle.id, options)).await.expect("nobody has it");
    lingers.post(&handle.id, signal("go")).await.expect("it is taken");
    assert!(matches!(ending(&mut handle).await, Ok(Ending::Finished(Ok(_)))));

    let script = json!({ "default": { "fail": { "kind": "rejected", "times": u64::MAX } } }).to_string();
    let script = Scripted::parse(Path::new("agents.json"), &script).expect("a script");
    let lingers = host(&place, &[], |options| {
        options.observer = Some(Arc::clone(&failed) as _);
        options.providers.add(Arc::new(script));
    });
    let module = probe(&lingers).await;
    let program = json!([{ "agent_or_fail": { "prompt": "p", "providers": ["scripted"] } }]);
    let handle = lingers.start(&module, starting("failed", program), None).await.expect("a run");
    let again = lingers.retry(&handle.id, None, ResumeOptions::default());
    let mut handle = failed.goes_during(again).await.expect("it has ended");
    assert!(matches!(ending(&mut handle).await, Ok(Ending::Finished(_))));
}

/// Children spend from what is stored, so it has to be stored before they can.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_budget_counts_from_the_first_commit() {
    let place = Place::in_file();
    let host = host(&place, &[], |options| options.evict = Evict::Always);
    let module = probe(&host).await;
    let config = RunConfig { budget: Some(tokens(1)), ..RunConfig::default() };
    let options = StartOptions { config, ..starting("r", json!([waiting("never")])) };
    let handle = host.start(&module, options, None).await.expect("a run");
    let waits = async || info(host.store(), &handle.id).await.state == RunState::Waiting;
    until("the run to wait", waits).await;
    let options = ResumeOptions { budget: Some(tokens(7)), ..ResumeOptions::default() };
    let _handle = host.resume(&handle.id, options).await.expect("nobody drives it");
    until("the run to wait again", async || {
        info(host.store(), &handle.id).await.entries.0 > 2 && waits().await
    })
    .await;
    let family = host.store().family(&handle.id).await.expect("a store");
    assert_eq!(family.budget, tokens(7));
}

/// What only its driver knows of an end is told to each who follows the run.
#[tokio::test(flavor = "multi_thread")]
async fn each_who_follows_a_run_is_told_why_it_is_not_driven_any_more() {
    let place = Place::in_file();
    let host = host(&place, &[], |_| {});
    let module = probe(&host).await;
    let program = json!([waiting("go"), calling("nobody")]);
    let mut first = host.start(&module, starting("r", program), None).await.expect("a run");
    let mut second = host.watch(&first.id);
    host.post(&first.id, signal("go")).await.expect("it is taken");
    for handle in [&mut second, &mut first] {
        let ended = ending(handle).await;
        assert!(matches!(ended, Err(HostError::Drive(DriveError::NoProvider { .. }))), "{ended:?}");
    }
}

/// Also of commits, and whether others follow it still.
#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_run_goes_on_doing_so_when_another_one_comes_and_goes() {
    let place = Place::in_file();
    let agent = Held::new("held");
    let host = host(&place, &[&agent], |options| {
        options.adopt = Adopt::Own;
        options.evict = Evict::Always;
    });
    let module = probe(&host).await;
    let program = json!([waiting("go"), calling("held"), waiting("go")]);
    let mut first = host.start(&module, starting("r", program), None).await.expect("a run");
    let run = first.id.clone();
    drop(host.watch(&run));
    until("the run to wait", async || info(host.store(), &run).await.state == RunState::Waiting).await;
    host.post(&run, signal("go")).await.expect("it is taken");
    // Only who follows it has it driven here.
    until("the call", async || agent.begun() == 1).await;
    let second = host.watch(&run);
    agent.may.add_permits(1);
    until("the run to wait", async || info(host.store(), &run).await.state == RunState::Waiting).await;
    drop(second);
    host.post(&run, signal("go")).await.expect("it is taken");
    assert!(matches!(ending(&mut first).await, Ok(Ending::Finished(Ok(_)))));
}

/// However many there are.
#[tokio::test(flavor = "multi_thread")]
async fn schedules_that_wait_keep_no_other_from_firing() {
    let place = Place::in_file();
    let host = host(&place, &[], |_| {});
    let module = probe(&host).await;
    let last = host.enqueue(&module, starting("last", json!([waiting("never")]))).await.expect("a run");
    let now = host.store().now();
    let schedule = |name: String, ago: u64, last: Option<RunId>| Schedule {
        name,
        when: When::every(3_600_000, Timestamp(now.0 - ago)).expect("a time"),
        overlap: Overlap::Queue,
        catch_up: CatchUp::Last,
        workflow: "probe".to_owned(),
        module: module.digest,
        input: Json::from(json!({ "do": [] })),
        labels: Vec::new(),
        config: RunConfig::default(),
        created_at: now,
        next_at: Some(Timestamp(now.0 - ago)),
        fired: 0,
        last,
    };
    for n in 0..200 {
        let waits = schedule(format!("waits-{n}"), 2_000, Some(last.clone()));
        host.store().put_schedule(waits, false).await.expect("a store");
    }
    host.store().put_schedule(schedule("free".to_owned(), 1_000, None), false).await.expect("a store");
    host.serve();
    let fired = async |name: &str| {
        let all = host.store().schedules().await.expect("a store").known;
        all.iter().find(|schedule| schedule.name == name).expect("the schedule").fired
    };
    until("the firing", async || fired("free").await == 1).await;
    // Those that waited are found again.
    host.post(&last, MessageBody::Cancel { reason: None }).await.expect("it is taken");
    until("the others", async || fired("waits-0").await == 1 && fired("waits-199").await == 1).await;
}
