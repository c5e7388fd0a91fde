//! What is sent, and what that costs, whoever dies and however the collector answers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wfhost::store::{Append, MemStore, NewRun, Next, Owner, SessionId};
use wfhost_core::{Epoch, Json, Machine, Op, Timestamp};

use super::ready::SPANS;
use super::*;
use crate::event::tests::machine;

#[test]
fn only_a_beginning_that_was_made_behind_the_cursor_is_none() {
    let cursor = |name: &str, place| Cursor {
        name: name.to_owned(),
        place,
        at: Timestamp(0),
        is_held: false,
        holder: None,
    };
    assert!(!is_late(&[]) && !is_late(&[cursor(BEGINNING, 7)]) && !is_late(&[cursor(OTLP_CURSOR, 7)]));
    for (beginning, told, late) in [(7, 7, false), (7, 9, false), (9, 7, true)] {
        let cursors = [cursor(BEGINNING, beginning), cursor(OTLP_CURSOR, told)];
        assert_eq!(is_late(&cursors), late, "{beginning} {told}");
    }
}

/// What was told of spans that were not taken.
#[derive(Debug, Default)]
struct Rejected(Mutex<Vec<(u64, String)>>);

impl Report for Rejected {
    fn told(&self, told: Told<'_>) {
        if let Told::Rejected { count, said } = told {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((count, said.to_owned()));
        }
    }
}

/// A clock that stands still but for what is told it.
#[derive(Debug, Default)]
struct Hand(AtomicU64);

impl wfhost::store::Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn ticks_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn source(&self) -> &'static str {
        "a hand"
    }
}

/// The body of the next request of a connection. None if it is closed.
async fn request(stream: &mut TcpStream) -> Option<Value> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if bytes.len() >= end + 4 + length.parse::<usize>().unwrap() {
                return Some(serde_json::from_slice(&bytes[end + 4..]).unwrap());
            }
        }
        match stream.read(&mut buffer).await {
            Ok(read @ 1..) => bytes.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
    }
}

/// The spans of a request.
fn spans(body: &Value) -> &Vec<Value> {
    body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap()
}

/// The spans that a collector took, by id, with how often it did so.
type Took = Arc<Mutex<BTreeMap<String, (Value, usize)>>>;

/// A store, and a collector that answers each request with what it is told to, or not at all.
struct Scene {
    clock: Arc<Hand>,
    store: SharedStore,
    session: SessionId,
    url: String,
    took: Took,
    /// How many requests came.
    requests: Arc<AtomicU64>,
    rejected: Arc<Rejected>,
}

impl Scene {
    /// `answer`: the status of the answer to a request, by its number and its spans; none if it never comes. What is
    /// answered with 200, and what is not answered, was taken.
    async fn new(mut answer: impl FnMut(u64, &[Value]) -> Option<u16> + Send + 'static) -> Self {
        let clock = Arc::new(Hand::default());
        let store: SharedStore = Arc::new(MemStore::with_clock(Arc::clone(&clock) as _));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (took, requests) = (Took::default(), Arc::new(AtomicU64::new(0)));
        let (taken, came) = (Arc::clone(&took), Arc::clone(&requests));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let Some(body) = request(&mut stream).await else { continue };
                let number = came.load(Ordering::SeqCst);
                let status = answer(number, spans(&body));
                if matches!(status, None | Some(200)) {
                    let mut taken = taken.lock().unwrap();
                    for span in spans(&body) {
                        let id = span["spanId"].as_str().unwrap().to_owned();
                        let (known, times) = taken.entry(id).or_insert_with(|| (span.clone(), 0));
                        assert_eq!(known, span, "what comes again is the same");
                        *times += 1;
                    }
                }
                came.store(number + 1, Ordering::SeqCst);
                match status {
                    Some(status) => {
                        let answer = format!(
                            "HTTP/1.1 {status} X\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
                        );
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                    // Whoever asked is gone before that.
                    None => _ = tokio::spawn(async move { stream.read(&mut [0]).await }),
                }
            }
        });
        store.put_module("w", b"w").await.unwrap();
        let owner = Owner { host: "here".to_owned(), realm: "m".to_owned(), pid: 1, started: 1 };
        let session = store.begin_session(&owner, 1_000_000_000).await.unwrap();
        Self { clock, store, session, url, took, requests, rejected: Arc::default() }
    }

    fn exporter(&self) -> Exporter {
        let options = ExportOptions {
            to: Otlp::from_environment(Some(&self.url)).unwrap(),
            content: false,
            every: Duration::from_secs(5),
        };
        let report: Arc<dyn Report> = Arc::clone(&self.rejected) as _;
        Exporter::new(&self.store, options, &report)
    }

    async fn create(&self, machine: &mut Machine) {
        let rows = vec![machine.take_unsaved().unwrap().into()];
        let new = NewRun { session: Some(self.session), ..NewRun::new(machine, rows) };
        self.store.create(new).await.unwrap();
    }

    async fn append(&self, machine: &mut Machine, before: wfhost_core::Digest) {
        let row = machine.take_unsaved().map(Row::from);
        let (run, epoch) = (machine.run().clone(), Epoch(1));
        let next = match machine.outcome() {
            Some(outcome) => Next::End { outcome: outcome.clone(), spent: Default::default() },
            None => Next::Go,
        };
        let append = Append { row, before, ..Append::new(run, self.session, epoch, Timestamp(1), next) };
        self.store.append(append).await.unwrap();
    }

    /// A commit for each of so many steps that are done at once.
    async fn work(&self, machine: &mut Machine, steps: usize) {
        for _ in 0..steps {
            let before = machine.head();
            let step = machine.schedule(&Op::Sleep { length_ms: 1 }, Timestamp(1_000)).unwrap();
            machine.complete(step, Ok(Json::null()), Timestamp(1_000));
            self.append(machine, before).await;
        }
    }

    /// The time of whoever held the cursor is over.
    fn much_later(&self) {
        self.clock.0.fetch_add(3_600_000, Ordering::SeqCst);
    }

    /// How often each span of a run came that it has by now.
    async fn came(&self, run: &RunId) -> Vec<usize> {
        let journal =
            wfhost_core::Journal::read(self.store.journal(run, Position(0)).await.unwrap()).unwrap();
        let info = self.store.run(run).await.unwrap().unwrap();
        let took = self.took.lock().unwrap();
        let spans = wfhost_view::Trace::of(&info, &journal, false).spans;
        let ended = spans.iter().filter(|span| !span.is_open);
        ended.map(|span| took.get(&span.id).map_or(0, |(_, times)| *times)).collect()
    }
}

async fn look(exporter: &mut Exporter) -> bool {
    match exporter.look().await {
        Ok(more) => more,
        Err(Halt::Store(error)) => panic!("{error}"),
        Err(Halt::Away { why, .. }) => panic!("{why}"),
    }
}

async fn is_away(exporter: &mut Exporter) -> bool {
    matches!(exporter.look().await, Err(Halt::Away { .. }))
}

/// However many requests a page takes, and however long each of them.
#[tokio::test]
async fn nobody_else_goes_on_while_a_slow_collector_is_sent_a_page() {
    // Nine seconds for each request, and then another host asks for the cursor.
    let asks = Arc::new(Mutex::new(None::<(Arc<Hand>, SharedStore)>));
    let others = Arc::new(AtomicU64::new(0));
    let (asked, found) = (Arc::clone(&asks), Arc::clone(&others));
    let scene = Scene::new(move |_, _| {
        let (clock, store) = asked.lock().unwrap().clone().unwrap();
        clock.0.fetch_add(9_000, Ordering::SeqCst);
        let asks = store.hold_cursor(OTLP_CURSOR, "another", 10_000);
        let place = at_once(asks);
        found.fetch_add(u64::from(place.is_some()), Ordering::SeqCst);
        Some(200)
    })
    .await;
    *asks.lock().unwrap() = Some((Arc::clone(&scene.clock), Arc::clone(&scene.store)));
    let mut exporter = scene.exporter();
    // The cursor is made; what comes is told from there on.
    while look(&mut exporter).await {}
    for number in 0..2 * SPANS + 1 {
        scene.create(&mut machine(&format!("r{number}"))).await;
    }
    while look(&mut exporter).await {}
    assert!(scene.requests.load(Ordering::SeqCst) >= 3);
    assert_eq!(others.load(Ordering::SeqCst), 0, "another host had the cursor in between");
    let last = scene.store.last_place().await.unwrap();
    assert_eq!(exporter.reader.place, Some(last));
}

/// What a store in memory does is done at once.
fn at_once<T>(future: impl Future<Output = wfhost::store::Result<T>>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(done) => done.unwrap(),
        std::task::Poll::Pending => panic!("it waits"),
    }
}

#[tokio::test]
async fn a_look_reads_what_is_new_of_a_run_however_long_it_is() {
    const LONG: usize = 20_000;
    let scene = Scene::new(|_, _| Some(200)).await;
    let mut exporter = scene.exporter();
    while look(&mut exporter).await {}
    let mut machine = machine("long");
    scene.create(&mut machine).await;
    // It begins here, and ends after all that follows.
    let before = machine.head();
    let wait = machine.schedule(&Op::Signal { name: "go".to_owned(), timeout_ms: None }, Timestamp(2_000));
    let wait = wait.unwrap();
    scene.append(&mut machine, before).await;
    scene.work(&mut machine, LONG).await;
    while look(&mut exporter).await {}
    assert_eq!(exporter.read_again, 0, "all of it was new");
    for _ in 0..5 {
        scene.work(&mut machine, 1).await;
        look(&mut exporter).await;
    }
    assert_eq!(exporter.read_again, 0, "and so is what came since");
    // Another host knows nothing of it: it reads once what stands before, in parts.
    drop(exporter);
    scene.much_later();
    let mut exporter = scene.exporter();
    scene.work(&mut machine, 1).await;
    while look(&mut exporter).await {}
    let once = exporter.read_again;
    assert!(once >= LONG as u64 && once < LONG as u64 + 2_000, "{once}");
    for _ in 0..5 {
        scene.work(&mut machine, 1).await;
        look(&mut exporter).await;
    }
    assert_eq!(exporter.read_again, once);
    // A span that begins and ends in the hands of different hosts is whole.
    let before = machine.head();
    machine.receive("go".to_owned(), Json::null(), None, Timestamp(9_000));
    scene.append(&mut machine, before).await;
    look(&mut exporter).await;
    let came = scene.came(machine.run()).await;
    assert_eq!(came, vec![1; LONG + 11 + 2], "each came once");
    let id = wfhost_core::trace::span_id(machine.run(), "step", &[wait.0]);
    let span = scene.took.lock().unwrap()[&id].0.clone();
    let times = [&span["startTimeUnixNano"], &span["endTimeUnixNano"]].map(|nanos| nanos.as_str().unwrap());
    assert_eq!(times, ["2000000000", "9000000000"]);
}

/// A host dies at each of its requests, before it hears the answer.
#[tokio::test]
async fn a_host_that_dies_at_any_request_loses_nothing() {
    for dies_at in 0..4 {
        let scene = Scene::new(move |number, _| (number != dies_at).then_some(200)).await;
        let mut exporter = scene.exporter();
        while look(&mut exporter).await {}
        let mut machines: Vec<_> = (0..3).map(|number| machine(&format!("r{number}"))).collect();
        for machine in &mut machines {
            scene.create(machine).await;
            scene.work(machine, SPANS - 100).await;
        }
        let (requests, reached) = (Arc::clone(&scene.requests), dies_at + 1);
        {
            let looks = async { while look(&mut exporter).await {} };
            let dies = async {
                while requests.load(Ordering::SeqCst) < reached {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                () = looks => {}
                () = dies => {}
            }
        }
        drop(exporter);
        scene.much_later();
        let mut next = scene.exporter();
        while look(&mut next).await {}
        for machine in &machines {
            let came = scene.came(machine.run()).await;
            assert!(came.iter().all(|times| (1..=2).contains(times)), "{dies_at}: {came:?}");
        }
    }
}

/// What was made ready and not sent is told by whoever has the cursor next, also if it is the same one again.
#[tokio::test]
async fn a_cursor_that_is_lost_while_the_collector_is_away_takes_nothing_along() {
    let away = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_away_now = Arc::clone(&away);
    let scene =
        Scene::new(move |_, _| Some(if is_away_now.load(Ordering::SeqCst) { 503 } else { 200 })).await;
    let (mut one, mut other) = (scene.exporter(), scene.exporter());
    while look(&mut one).await {}
    let mut machine = machine("r");
    scene.create(&mut machine).await;
    scene.work(&mut machine, 10).await;
    while look(&mut one).await {}
    away.store(true, Ordering::SeqCst);
    scene.work(&mut machine, 10).await;
    assert!(is_away(&mut one).await && is_away(&mut one).await);
    // The other one has it for a while, and the collector takes nothing either.
    scene.much_later();
    assert!(is_away(&mut other).await);
    // The first one learns of it, and the other one lets go.
    one.reader.place = None;
    other.reader.leave(&scene.store).await;
    scene.much_later();
    away.store(false, Ordering::SeqCst);
    scene.work(&mut machine, 10).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    while look(&mut one).await {}
    assert_eq!(scene.came(machine.run()).await, vec![1; 31]);
    assert_eq!(one.read_again, 0, "what was known where the cursor is, is known");
}

/// While it is away, what it took is not sent again, and nothing is read again.
#[tokio::test]
async fn a_collector_that_goes_away_in_the_middle_is_sent_the_rest() {
    let scene = Scene::new(|number, _| Some(if (1..4).contains(&number) { 503 } else { 200 })).await;
    let mut exporter = scene.exporter();
    while look(&mut exporter).await {}
    let mut machine = machine("r");
    scene.create(&mut machine).await;
    scene.work(&mut machine, 3 * SPANS).await;
    for _ in 0..3 {
        assert!(is_away(&mut exporter).await);
    }
    while look(&mut exporter).await {}
    assert_eq!(scene.came(machine.run()).await, vec![1; 3 * SPANS + 1]);
    assert_eq!(exporter.read_again, 0);
}

/// What a collector never takes is told and left out, whatever it calls that.
#[tokio::test]
async fn spans_that_a_collector_never_takes_hold_up_nothing() {
    for status in [400, 413, 500] {
        let poisoned = |spans: &[Value]| spans.iter().any(|span| span["startTimeUnixNano"] == "66000000000");
        let scene = Scene::new(move |_, spans| Some(if poisoned(spans) { status } else { 200 })).await;
        let mut exporter = scene.exporter();
        while look(&mut exporter).await {}
        let mut machine = machine("r");
        scene.create(&mut machine).await;
        scene.work(&mut machine, 100).await;
        let before = machine.head();
        let bad = machine.schedule(&Op::Sleep { length_ms: 1 }, Timestamp(66_000)).unwrap();
        machine.complete(bad, Ok(Json::null()), Timestamp(66_000));
        scene.append(&mut machine, before).await;
        let before = machine.head();
        let good = machine.schedule(&Op::Sleep { length_ms: 1 }, Timestamp(67_000)).unwrap();
        machine.complete(good, Ok(Json::null()), Timestamp(67_000));
        scene.append(&mut machine, before).await;
        // One that says 500 may only be in trouble: it is given some time.
        let mut looks = 0;
        while exporter.look().await.is_err() {
            looks += 1;
            assert!(looks < 10, "{status}: it is stuck");
        }
        let mut came = scene.came(machine.run()).await;
        came.sort_unstable();
        assert_eq!(came[..2], [0, 1], "{status}: all but one");
        let rejected = scene.rejected.0.lock().unwrap().clone();
        assert!(matches!(&rejected[..], [(1, said)] if said.contains(&status.to_string())), "{rejected:?}");
        let last = scene.store.last_place().await.unwrap();
        assert_eq!(exporter.reader.place, Some(last), "{status}");
    }
}

/// One that takes nothing at all is in trouble, and is sent all of it later.
#[tokio::test]
async fn nothing_is_left_out_for_a_collector_that_fails_for_a_while() {
    let scene = Scene::new(|number, _| Some(if number < 30 { 500 } else { 200 })).await;
    let mut exporter = scene.exporter();
    while look(&mut exporter).await {}
    let mut machine = machine("r");
    scene.create(&mut machine).await;
    scene.work(&mut machine, 20).await;
    while exporter.look().await.is_err() {}
    assert_eq!(scene.came(machine.run()).await, vec![1; 21]);
    assert!(scene.rejected.0.lock().unwrap().is_empty());
}
