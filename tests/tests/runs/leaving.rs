//! Runs that are to be left: paused, or left by a host that stops, in time or at once. Nothing new is begun, no answer
//! is lost, and what cannot go on can be stopped. By the library.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use wfhost::agents::{CallObserver, Policy, ProviderPolicy, SeenCall};
use wfhost::store::{ClaimHow, Claimed, Fence, MessageBody, RunState, SharedStore};
use wfhost::{Ending, Evict, Host, HostOptions, Notice, Observer, ResumeOptions, RunHandle};
use wfhost_core::{Entry, Event, RunId};
use wfhost_tests::Place;

use super::moments::{Held, calling, ending, host, info, open, probe, signal, starting, until, waiting};

/// Has an agent answer one call at a time.
fn one_at_a_time(agent: &Held) -> impl FnOnce(&mut HostOptions) {
    let one = ProviderPolicy { max_parallel: Some(1), ..ProviderPolicy::default() };
    let policy = Policy { providers: [(agent.name.to_owned(), one)].into(), ..Policy::default() };
    |options| options.providers.set_policy(policy)
}

/// A call that may be made at most once.
fn calling_once(agent: &str) -> Value {
    let retry = json!({ "max_attempts": 1, "fatal": ["unknown-outcome"] });
    json!({ "agent_with": { "prompt": "p", "providers": [agent], "retry": retry } })
}

/// How many calls of a run were recorded as not made.
async fn not_made(host: &Host, run: &RunId) -> usize {
    let journal = host.journal(run).await.expect("a journal");
    journal.entries.iter().filter(|entry| matches!(entry.event, Event::Postponed { .. })).count()
}

async fn finishes(handle: &mut RunHandle) -> Value {
    match ending(handle).await {
        Ok(Ending::Finished(Ok(result))) => result.value(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_paused_makes_no_call_that_waited_for_its_turn() {
    let place = Place::in_file();
    let agent = Held::new("held");
    let host = host(&place, &[&agent], one_at_a_time(&agent));
    let module = probe(&host).await;
    let program = json!([{ "parallel": [calling("held"), calling("held"), calling_once("held")] }]);
    let mut handle = host.start(&module, starting("r", program), None).await.expect("a run");
    until("the first call", async || agent.begun() == 1).await;
    host.post(&handle.id, MessageBody::Pause).await.expect("it is taken");
    until("the others to be put off", async || not_made(&host, &handle.id).await == 2).await;
    // What comes in meanwhile has none of them begin.
    host.post(&handle.id, signal("s")).await.expect("it is taken");
    agent.may.add_permits(3);
    assert!(matches!(ending(&mut handle).await, Ok(Ending::Paused)));
    assert_eq!((agent.begun(), not_made(&host, &handle.id).await), (1, 2));
    let mut handle = host.resume(&handle.id, ResumeOptions::default()).await.expect("nobody has it");
    let result = finishes(&mut handle).await;
    assert!(
        result[0].as_array().is_some_and(|all| all.iter().all(|one| one["failure"].is_null())),
        "{result}"
    );
    assert_eq!(agent.begun(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_in_time_makes_no_call_that_waited_for_its_turn() {
    let place = Place::in_file();
    let agent = Held::new("held");
    let first = host(&place, &[&agent], one_at_a_time(&agent));
    let module = probe(&first).await;
    let program = json!([{ "parallel": [calling("held"), calling("held"), calling_once("held")] }]);
    let handle = first.start(&module, starting("r", program), None).await.expect("a run");
    let run = handle.id.clone();
    until("the first call", async || agent.begun() == 1).await;
    let closing = tokio::spawn({
        let first = first.clone();
        async move { first.close(Some(Duration::from_secs(60))).await }
    });
    until("the others to be put off", async || not_made(&first, &run).await == 2).await;
    agent.may.add_permits(3);
    assert_eq!(closing.await.expect("no panic"), 0, "nothing is cut");
    assert_eq!(agent.begun(), 1);
    drop((handle, first));
    let second = host(&place, &[&agent], one_at_a_time(&agent));
    let mut handle = second.resume(&run, ResumeOptions::default()).await.expect("nobody has it");
    finishes(&mut handle).await;
    assert_eq!(agent.begun(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_made_at_most_once_and_only_waited_for_its_turn_is_made_by_the_next_host() {
    let place = Place::in_file();
    let agent = Held::new("held");
    let first = host(&place, &[&agent], one_at_a_time(&agent));
    let module = probe(&first).await;
    let program = json!([{ "parallel": [calling_once("held"), calling_once("held")] }]);
    let handle = first.start(&module, starting("r", program), None).await.expect("a run");
    let run = handle.id.clone();
    until("the first call", async || agent.begun() == 1).await;
    first.close(None).await;
    drop((handle, first));
    agent.may.add_permits(1);
    let second = host(&place, &[&agent], one_at_a_time(&agent));
    let mut handle = second.resume(&run, ResumeOptions::default()).await.expect("nobody has it");
    let result = finishes(&mut handle).await;
    let failed = result[0].as_array().expect("two results").iter().filter(|one| !one["failure"].is_null());
    assert_eq!((failed.count(), agent.begun()), (1, 2), "{result}");
}

/// The answers come in while the program is not executed: the first line bears a time of before the pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_paused_with_several_calls_shows_all_lines_when_it_is_resumed() {
    let place = Place::in_file();
    // The command has an agent of the second name, too.
    let (first, second) = (Held::new("first"), Held::new("echo"));
    let host = host(&place, &[&first, &second], one_at_a_time(&second));
    let module = probe(&host).await;
    let of = |agent: &str| json!({ "each": [calling(agent), { "log": format!("{agent} is done") }] });
    let program = json!([{ "log": "begun" }, { "parallel": [of("first"), of("echo"), of("echo")] }]);
    let mut handle = host.start(&module, starting("r", program), None).await.expect("a run");
    until("the calls", async || (first.begun(), second.begun()) == (1, 1)).await;
    host.post(&handle.id, MessageBody::Pause).await.expect("it is taken");
    until("the third to be put off", async || not_made(&host, &handle.id).await == 1).await;
    first.may.add_permits(1);
    until("the first answer", async || first.ended() == 1).await;
    // The answers are to be recorded at different times.
    tokio::time::sleep(Duration::from_millis(20)).await;
    second.may.add_permits(1);
    assert!(matches!(ending(&mut handle).await, Ok(Ending::Paused)));
    host.close(None).await;
    let resumed = place.run(["resume", "r"]);
    let said = resumed.stderr();
    assert_eq!(resumed.code(), Some(0), "{said}");
    assert_eq!(
        ["begun", "first is done", "echo is done"].map(|line| said.matches(line).count()),
        [0, 1, 2],
        "{said}"
    );
}

fn sql(place: &Place, sql: &str) {
    let database = rusqlite::Connection::open(place.db()).expect("the database");
    database.busy_timeout(Duration::from_secs(60)).expect("a length of time");
    database.execute_batch(sql).expect("valid SQL");
}

/// Work for the database.
fn long(rounds: u64) -> String {
    format!(
        "SELECT count(*) FROM (WITH RECURSIVE n(i) AS (
             SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rounds}) SELECT i FROM n)"
    )
}

/// What has the call dropped is in the first part of a long inbox, and the request to pause comes while the parts behind
/// it are taken in.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_does_not_wait_for_a_call_that_the_program_has_dropped() {
    let place = Place::in_file();
    let agent = Held::new("held");
    let host = host(&place, &[&agent], |_| {});
    let module = probe(&host).await;
    let program = json!([{ "race": [calling("held"), waiting("go")] }, waiting("never")]);
    let mut handle = host.start(&module, starting("r", program), None).await.expect("a run");
    until("the call", async || agent.begun() == 1).await;
    // What is sent during a commit comes in together.
    sql(&place, &format!("CREATE TRIGGER slow BEFORE INSERT ON commits BEGIN {}; END", long(1_000_000)));
    host.post(&handle.id, signal("s")).await.expect("it is taken");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let others = std::iter::repeat_with(|| signal("other")).take(400);
    let all = std::iter::once(signal("go")).chain(others);
    let posted = join_all(all.map(|body| host.post(&handle.id, body))).await;
    assert!(posted.iter().all(Result::is_ok), "{posted:?}");
    until("the first part", async || {
        let journal = host.journal(&handle.id).await.expect("a journal");
        journal
            .entries
            .iter()
            .any(|entry| matches!(&entry.event, Event::Received { name, .. } if name == "go"))
    })
    .await;
    host.post(&handle.id, MessageBody::Pause).await.expect("it is taken");
    sql(&place, "DROP TRIGGER slow");
    assert!(matches!(ending(&mut handle).await, Ok(Ending::Paused)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_resumed_by_its_own_host_before_it_is_paused_goes_on() {
    let place = Place::in_file();
    let agent = Held::new("held");
    let host = host(&place, &[&agent], |_| {});
    let module = probe(&host).await;
    let handle = host.start(&module, starting("r", json!([calling("held")])), None).await.expect("a run");
    until("the call", async || agent.begun() == 1).await;
    host.post(&handle.id, MessageBody::Pause).await.expect("it is taken");
    // Time to read the request, as far as that goes: it has to hold in either order.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut handle = host.resume(&handle.id, ResumeOptions::default()).await.expect("it is driven here");
    agent.may.add_permits(1);
    finishes(&mut handle).await;
    assert_eq!(agent.begun(), 1);
}

/// By the host that drives it, and by another process.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_not_to_be_paused_after_all_goes_on_at_once_beside_its_calls() {
    for by_other in [false, true] {
        let place = Place::in_file();
        let (slow, paced, next) = (Held::new("slow"), Held::new("paced"), Held::new("next"));
        let host = host(&place, &[&slow, &paced, &next], one_at_a_time(&paced));
        let module = probe(&host).await;
        let program = json!([{ "parallel": [
            calling("slow"), calling("paced"), calling_once("paced"), { "each": [waiting("go"), calling("next")] }
        ] }]);
        let mut handle = host.start(&module, starting("r", program), None).await.expect("a run");
        let run = handle.id.clone();
        until("the calls", async || (slow.begun(), paced.begun()) == (1, 1)).await;
        let store = open(&place);
        let unpause = async || match by_other {
            true => assert!(store.unpause(&run).await.expect("a store"), "it was to be paused"),
            false => drop(host.resume(&run, ResumeOptions::default()).await.expect("it is driven here")),
        };
        for paused in 1..=2 {
            host.post(&run, MessageBody::Pause).await.expect("it is taken");
            // The call that waits for its turn is taken back, each time.
            until("the pause", async || not_made(&host, &run).await == paused).await;
            if paused == 2 {
                paced.may.add_permits(1);
                until("the answer", async || paced.ended() == 1).await;
                host.post(&run, signal("go")).await.expect("it is taken");
            }
            unpause().await;
            if paused == 1 {
                // It takes its place in the queue again.
                until("that it waits", async || {
                    let journal = host.journal(&run).await.expect("a journal");
                    let again = |entry: &&Entry| matches!(entry.event, Event::Attempted { .. });
                    journal.entries.iter().filter(again).count() == 1
                })
                .await;
            }
        }
        until("what was withheld", async || (paced.begun(), next.begun()) == (2, 1)).await;
        assert_eq!((slow.begun(), slow.ended()), (1, 0), "it was under way all the time");
        let ended = [(&slow, 1), (&paced, 1), (&next, 1)];
        ended.iter().for_each(|(agent, permits)| agent.may.add_permits(*permits));
        let result = finishes(&mut handle).await;
        let all = result[0].as_array().expect("results");
        assert!(all.iter().all(|one| one["failure"].is_null()), "{result}");
        assert_eq!([slow.begun(), paced.begun(), next.begun()], [1, 2, 1]);
        let report = wfhost::verify::verify(store.as_ref(), &info(&store, &run).await).await;
        assert_eq!(report.expect("a store").faults, Vec::<String>::new());
    }
}

/// The answer comes during a commit, and the next commit, which is that of leaving the run, fails.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_committed_when_the_run_is_left_at_once_is_committed_later() {
    let place = Place::in_file();
    let (slow, quick) = (Held::new("slow"), Held::new("quick"));
    let host = host(&place, &[&slow, &quick], |_| {});
    let module = probe(&host).await;
    let program = json!([{ "parallel": [calling("slow"), calling("quick")] }]);
    let mut handle = host.start(&module, starting("r", program), None).await.expect("a run");
    until("the calls", async || (slow.begun(), quick.begun()) == (1, 1)).await;
    sql(
        &place,
        &format!(
            "CREATE TABLE slowed (n);
             CREATE TRIGGER outage BEFORE INSERT ON commits WHEN EXISTS (SELECT 1 FROM slowed)
                 BEGIN SELECT RAISE(ABORT, 'an outage'); END;
             CREATE TRIGGER slow AFTER INSERT ON commits BEGIN INSERT INTO slowed VALUES (1); {}; END",
            long(4_000_000)
        ),
    );
    host.post(&handle.id, signal("s")).await.expect("it is taken");
    tokio::time::sleep(Duration::from_millis(300)).await;
    quick.may.add_permits(1);
    until("the answer", async || quick.ended() == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    handle.stop();
    let left = ending(&mut handle).await;
    assert!(left.is_err(), "{left:?}");
    sql(&place, "DROP TRIGGER outage; DROP TRIGGER slow; DROP TABLE slowed");
    slow.may.add_permits(2);
    quick.may.add_permits(1);
    let mut handle = host.resume(&handle.id, ResumeOptions::default()).await.expect("nobody has it");
    finishes(&mut handle).await;
    assert_eq!(quick.begun(), 1, "it is not paid for again");
}

/// Another process had the run for a moment, so that the program repeats its journal while its call is under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_that_comes_while_the_program_replays_is_kept_by_a_host_that_leaves_at_once() {
    let place = Place::in_file();
    let agent = Held::new("held");
    let opened = Arc::new(Opened::default());
    let first = host(&place, &[&agent], |options| options.observer = Some(Arc::clone(&opened) as _));
    let module = probe(&first).await;
    let program = json!([{ "floats": FLOATS }, calling("held")]);
    let handle = first.start(&module, starting("r", program), None).await.expect("a run");
    let run = handle.id.clone();
    until("the call", async || agent.begun() == 1).await;
    had_for_a_moment(&open(&place), &run).await;
    until("the host to drive it again", async || opened.0.load(Ordering::SeqCst) == 2).await;
    agent.may.add_permits(1);
    until("the answer", async || agent.ended() == 1).await;
    first.close(None).await;
    drop((handle, first));
    agent.may.add_permits(1);
    let second = host(&place, &[&agent], |_| {});
    let mut handle = second.resume(&run, ResumeOptions::default()).await.expect("nobody has it");
    finishes(&mut handle).await;
    assert_eq!(agent.begun(), 1, "it is not paid for again");
}

/// It has not come to the end of its journal, so that what its call consumed cannot be recorded at that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_call_consumed_counts_that_is_left_at_once_while_the_program_replays() {
    let place = Place::in_file();
    let agent = Held::costly("costly", 75);
    let opened = Arc::new(Opened::default());
    let first = host(&place, &[&agent], |options| options.observer = Some(Arc::clone(&opened) as _));
    let module = probe(&first).await;
    let program = json!([{ "floats": FLOATS }, calling("costly")]);
    let handle = first.start(&module, starting("r", program), None).await.expect("a run");
    until("the call", async || agent.begun() == 1).await;
    had_for_a_moment(&open(&place), &handle.id).await;
    until("the host to drive it again", async || opened.0.load(Ordering::SeqCst) == 2).await;
    first.close(None).await;
    assert_eq!(info(&open(&place), &handle.id).await.spent.tokens, 75);
}

/// How often a run was opened.
#[derive(Debug, Default)]
struct Opened(AtomicUsize);

impl CallObserver for Opened {
    fn see_call(&self, _: SeenCall<'_>) {}
}

impl Observer for Opened {
    fn see(&self, notice: Notice<'_>) {
        if let Notice::Opened { .. } = notice {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Some tenths of a second of computing.
const FLOATS: u64 = 500_000;

/// As by a process that dies as soon as it has taken the run.
async fn had_for_a_moment(other: &SharedStore, run: &RunId) {
    let session = other.begin_session(&wfhost::owner::this_process(), 60_000).await.expect("a store");
    let claimed = other.claim(session, run, ClaimHow::Seize).await.expect("a store");
    assert!(matches!(claimed, Claimed::Yes(_)), "{claimed:?}");
    other.fence(session, Fence::Dead).await.expect("a store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_module_is_gone_can_be_cancelled() {
    let place = Place::in_file();
    let first = host(&place, &[], |options| options.evict = Evict::Always);
    let module = probe(&first).await;
    let handle = first.start(&module, starting("r", json!([waiting("go")])), None).await.expect("a run");
    let run = handle.id.clone();
    until("the run to wait", async || info(first.store(), &run).await.state == RunState::Waiting).await;
    first.close(None).await;
    drop((handle, first));
    sql(&place, "PRAGMA foreign_keys = OFF; DELETE FROM modules");
    let second = host(&place, &[], |_| {});
    second.serve();
    second.post(&run, signal("go")).await.expect("it is taken");
    until("the trouble", async || info(second.store(), &run).await.trouble.is_some()).await;
    second.post(&run, MessageBody::Cancel { reason: None }).await.expect("it is taken");
    until("the end", async || info(second.store(), &run).await.state == RunState::Cancelled).await;
}
