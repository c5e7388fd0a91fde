//! The library: what programs that embed it rely on, beyond what the command line shows.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use wfhost::agents::{Providers, Scripted};
use wfhost::engine::{Engine, Module};
use wfhost::store::{
    Clock, MemStore, MessageBody, RunState, SharedStore, SqliteOptions, SqliteStore, SystemClock,
};
use wfhost::verify::verify;
use wfhost::{Ending, Evict, Host, HostError, HostOptions, ResumeOptions, StartOptions};
use wfhost_core::{Json, RunConfig, RunId, Timestamp};
use wfhost_tests::{Place, module};

use super::moments::{Held, calling, until};

/// A host over the database of the place, with the module that the tests use.
async fn host(place: &Place, options: impl FnOnce(&mut HostOptions)) -> (Host, Module) {
    let store = SqliteStore::open(&place.db(), &SqliteOptions::default()).expect("a database");
    let mut all = HostOptions::new(Arc::new(store));
    options(&mut all);
    let host = Host::new(all).expect("a host");
    let bytes = std::fs::read(module("probe")).expect("examples/build made it");
    let module = host.add_module("probe", &bytes).await.expect("a workflow");
    (host, module)
}

fn starting(id: &str, program: Value) -> StartOptions {
    let input = Json::from(json!({ "do": program }));
    StartOptions { input, id: Some(id.parse().expect("an id")), ..StartOptions::default() }
}

/// A clock that is an hour ahead.
#[derive(Debug)]
struct Ahead;

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0 + 3_600_000)
    }

    fn ticks_ms(&self) -> u64 {
        SystemClock.ticks_ms()
    }

    fn source(&self) -> &str {
        SystemClock.source()
    }
}

/// More programs at the same time than the pool has places: the others are executed as usual.
#[tokio::test]
async fn programs_of_a_pooled_engine_do_what_all_programs_do() {
    let store: SharedStore = Arc::new(MemStore::default());
    let engine = Arc::new(Engine::new(None).expect("an engine").pooled());
    let mut options =
        HostOptions { engine: Some(Arc::clone(&engine)), ..HostOptions::new(Arc::clone(&store)) };
    let agent = Held::new("held");
    options.providers.add(Arc::clone(&agent) as _);
    let host = Host::new(options).expect("a host");
    let bytes = std::fs::read(module("probe")).expect("examples/build made it");
    let module = host.add_module("probe", &bytes).await.expect("a workflow");
    let program = json!([{ "agent_series": { "count": 2, "bytes": 20_000 } }, calling("held"), "info"]);
    let (host, module, program) = (&host, &module, &program);
    for round in 1..=2 {
        let runs = (0..100).map(|n| async move {
            let id = format!("r{round}-{n}");
            let config = RunConfig { agent: Some("echo".to_owned()), ..RunConfig::default() };
            let options = StartOptions { config, ..starting(&id, program.clone()) };
            let mut handle = host.start(module, options, None).await.expect("a run");
            let ending = loop {
                match handle.ended().await.expect("a store") {
                    Some(ending) => break ending,
                    None => handle.changed().await,
                }
            };
            let Ending::Finished(Ok(result)) = ending else { panic!("{id}: {ending:?}") };
            assert_eq!((&result.value()[0], &result.value()[2]), (&json!(2), &json!(id)));
        });
        let all_call = async {
            until("all are alive", async || agent.begun() == 100 * round).await;
            agent.may.add_permits(100);
        };
        tokio::join!(join_all(runs), all_call);
    }
    let pooled = engine.executed_in_pool();
    assert!((64..200).contains(&pooled), "{pooled} of 200");
}

/// Hosts on several machines share the time of their store: deadlines are judged by it, and their own
/// clocks do not count.
#[tokio::test]
async fn the_time_of_a_run_is_that_of_its_store() {
    let store: SharedStore = Arc::new(MemStore::with_clock(Arc::new(Ahead)));
    let host = Host::new(HostOptions::new(Arc::clone(&store))).expect("a host");
    let bytes = std::fs::read(module("probe")).expect("examples/build made it");
    let module = host.add_module("probe", &bytes).await.expect("a workflow");
    let before = Ahead.now();
    let program = json!([{ "sleep": 20 }, { "sleep": 20 }]);
    let mut handle = host.start(&module, starting("r", program), None).await.expect("a run");
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match handle.ended().await.expect("a store") {
                Some(ending) => break ending,
                None => handle.changed().await,
            }
        }
    });
    assert!(matches!(ended.await.expect("nothing is waited for an hour"), Ending::Finished(Ok(_))));
    let info = store.run(&handle.id).await.unwrap().unwrap();
    assert!(info.created_at >= before && info.updated_at <= Ahead.now(), "{info:?}");
}

/// Who looks at a run takes nothing from those who have it advanced by providers of their own.
#[tokio::test]
async fn of_several_handles_of_a_run_each_sees_its_end() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "from the script" } }));
    let mut providers = Providers::builtin();
    providers.set_default(Arc::new(Scripted::read(Path::new(&script)).expect("a script")));
    // Dropped at each wait: providers are looked up again when it goes on.
    let (host, module) = host(&place, |options| options.evict = Evict::Always).await;
    let program = json!([{ "wait": { "name": "go" } }, { "agent": "x" }]);
    let id = host.enqueue(&module, starting("r", program)).await.expect("a run");
    let options = ResumeOptions { providers: Some(providers), ..ResumeOptions::default() };
    let mut first = host.resume(&id, options).await.expect("it can be resumed");
    let mut second = host.watch(&id);
    let mut third = host.watch(&id);
    while host.store().run(&id).await.unwrap().unwrap().state != RunState::Waiting {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let go = MessageBody::Signal { name: "go".to_owned(), payload: Json::null(), id: None };
    host.post(&id, go).await.expect("it is taken");
    for handle in [&mut first, &mut second, &mut third] {
        let Ending::Finished(Ok(output)) = handle.ending().await.expect("an end") else {
            panic!("it ends well")
        };
        assert_eq!(output.as_str(), r#"[null,"from the script"]"#);
    }
}

/// Between the look at a run and that at its journal it may have gone on, or have been removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_verified_as_it_is_and_not_as_it_was_when_it_was_listed() {
    let place = Place::in_file();
    let (host, module) = host(&place, |options| options.evict = Evict::Always).await;
    let (store, run) = (host.store().clone(), "r".parse::<RunId>().unwrap());
    let waits = |name: &str| json!({ "wait": { "name": name } });
    let program = json!([waits("a"), { "log": "x" }, waits("b"), { "sleep": 3_600_000 }]);
    let _handle = host.start(&module, starting("r", program), None).await.expect("a run");
    let parked = async |signals: &[&str]| loop {
        let info = store.run(&run).await.unwrap().unwrap();
        let waits = info.waiting.as_ref().is_some_and(|waiting| waiting.signals == signals);
        if waits && info.lease.is_none() {
            break info;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let listed = parked(&["a"]).await;
    for (name, then) in [("a", &["b"][..]), ("b", &[])] {
        let go = MessageBody::Signal { name: name.to_owned(), payload: Json::null(), id: None };
        host.post(&run, go).await.expect("it is taken");
        parked(then).await;
        let report = verify(store.as_ref(), &listed).await.unwrap();
        assert_eq!((report.faults, report.is_cut), (Vec::new(), false));
    }
    // One that has lost something is still found to have.
    let now = store.run(&run).await.unwrap().unwrap();
    let other = wfhost::store::RunInfo { head: listed.head, ..now.clone() };
    assert_eq!(verify(store.as_ref(), &other).await.unwrap().faults, Vec::<String>::new());
    place.change("UPDATE runs SET labels = '[[\"a\",\"b\"]]'", "");
    let report = verify(store.as_ref(), &listed).await.unwrap();
    assert!(report.faults.len() == 1 && report.faults[0].contains("labels"), "{report:?}");
    host.terminate(&run, None).await.unwrap();
    assert_eq!(store.delete(&run).await, Ok(wfhost::store::Deleted::Yes));
    assert_eq!(verify(store.as_ref(), &listed).await.unwrap().faults, Vec::<String>::new());
}

/// Also if all are begun at the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_runs_are_in_memory_than_are_allowed() {
    let place = Place::new();
    let (host, module) = host(&place, |options| options.max_live = 3).await;
    let sleeps = json!([{ "sleep": 3_600_000 }]);
    let (first, second): (Vec<_>, Vec<_>) = (0..30).map(|n| format!("r{n}")).partition(|id| id.len() < 3);
    for id in &first {
        host.enqueue(&module, starting(id, sleeps.clone())).await.expect("a run");
    }
    let all_wait = async || {
        for id in first.iter().chain(&second) {
            let id: RunId = id.parse().unwrap();
            let info = host.store().run(&id).await.unwrap();
            if info.is_none_or(|info| info.state != RunState::Waiting) {
                return false;
            }
        }
        true
    };
    let begun = async {
        let resumed = first.iter().map(|id| {
            let (host, id): (_, RunId) = (host.clone(), id.parse().unwrap());
            async move { host.resume(&id, ResumeOptions::default()).await.expect("it can be resumed") }
        });
        let started = second.iter().map(|id| {
            let (host, module, options) = (host.clone(), module.clone(), starting(id, sleeps.clone()));
            async move { host.start(&module, options, None).await.expect("it can be started") }
        });
        let handles = futures::join!(join_all(resumed), join_all(started));
        while !all_wait().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        handles
    };
    let mut most = 0;
    let mut begun = std::pin::pin!(begun);
    let _handles = loop {
        most = most.max(host.live());
        tokio::select! {
            handles = &mut begun => break handles,
            () = tokio::time::sleep(Duration::from_micros(200)) => {}
        }
    };
    assert!((1..=3).contains(&most), "{most} at once");
}

/// Whoever terminates a run of this host may come while the host takes it up: the run is ended all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_is_ended_while_its_own_host_takes_it_up() {
    let place = Place::in_file();
    let (host, module) = host(&place, |_| {}).await;
    host.serve();
    let tasks = (0..4).map(|task| {
        let (host, module) = (host.clone(), module.clone());
        tokio::spawn(async move {
            for n in 0..50 {
                let id = format!("r{task}-{n}");
                let options = starting(&id, json!([{ "wait": { "name": "never" } }]));
                let run = host.enqueue(&module, options).await.expect("a run");
                // At another moment each time.
                tokio::time::sleep(Duration::from_micros(n * 100)).await;
                host.terminate(&run, None).await.unwrap_or_else(|error| panic!("{id}: {error}"));
                let info = host.store().run(&run).await.expect("a store").expect("the run");
                assert_eq!(info.state, RunState::Cancelled, "{id}");
            }
        })
    });
    for task in join_all(tasks).await {
        task.expect("no panic");
    }
}

/// One of them does; the other one is told that it has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_hosts_that_terminate_a_run_one_does() {
    let place = Place::in_file();
    let (first, module) = host(&place, |_| {}).await;
    let (second, _) = host(&place, |_| {}).await;
    first.serve();
    second.serve();
    for n in 0..50 {
        let options = starting(&format!("r{n}"), json!([{ "wait": { "name": "never" } }]));
        let run = first.enqueue(&module, options).await.expect("a run");
        tokio::time::sleep(Duration::from_micros(n * 200)).await;
        let ended = tokio::join!(first.terminate(&run, Some("one")), second.terminate(&run, Some("two")));
        let info = first.store().run(&run).await.expect("a store").expect("the run");
        let Some(Err(failure)) = &info.outcome else { panic!("{info:?}") };
        let (done, refused) = match ended {
            (Ok(_), Err(refused)) => ("one", refused),
            (Err(refused), Ok(_)) => ("two", refused),
            both => panic!("{run}: {both:?}"),
        };
        assert!(matches!(refused, HostError::Ended { .. }), "{run}: {refused}");
        assert!(failure.message.ends_with(done), "{run}: {done} of {failure:?}");
    }
}

/// Who asks for it may go away meanwhile, as clients of a server do: the run is ended, or goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_to_terminate_that_is_dropped_leaves_no_run_to_nobody() {
    let place = Place::in_file();
    let (host, module) = host(&place, |_| {}).await;
    host.serve();
    for n in 0..100 {
        let options = starting(&format!("r{n}"), json!([{ "wait": { "name": "go" } }]));
        let run = host.enqueue(&module, options).await.expect("a run");
        let asked = tokio::spawn({
            let (host, run) = (host.clone(), run.clone());
            async move { host.terminate(&run, None).await }
        });
        tokio::time::sleep(Duration::from_micros(n * 50)).await;
        asked.abort();
        let _ = asked.await;
        let body = MessageBody::Signal { name: "go".to_owned(), payload: Json::null(), id: None };
        match host.post(&run, body).await {
            Ok(_) | Err(HostError::Ended { .. }) => {}
            Err(error) => panic!("{run}: {error}"),
        }
        let mut handle = host.watch(&run);
        let ended = tokio::time::timeout(Duration::from_secs(60), handle.ending()).await;
        assert!(matches!(ended, Ok(Ok(Ending::Finished(_)))), "{run}: {ended:?}");
    }
}
