//! How long the machine takes: figures to look at, not to pass.
//!
//!     cargo test --release -p wfhost-core --test speed -- --ignored --nocapture

use std::time::{Duration, Instant};

use wfhost_core::{
    AgentRequest, Digest, Journal, Json, Machine, Op, Row, RunConfig, Started, Timestamp, Unsaved, Work,
};

const STEPS: u64 = 10_000;

fn op(i: u64) -> Op {
    let prompt = format!("step {i}: summarise what was found so far and say what is to be done next, please");
    Op::Agent(Box::new(AgentRequest { prompt, label: Some(format!("step {i}")), ..Default::default() }))
}

fn record() -> (Vec<Row>, Duration) {
    let started = Started {
        run: "speed".parse().unwrap(),
        workflow: "speed".to_owned(),
        module: Digest::of(b""),
        input: Json::null(),
        seed: [0; 32],
        config: RunConfig::default(),
        labels: vec![],
        parent: None,
        child: None,
        origin: None,
    };
    let answer = r#"{"output":"a reasonably short answer that says what there is to say","provider":"echo","usage":{"input_tokens":20,"output_tokens":12}}"#;
    let answer = Json::parse(answer.to_owned()).unwrap();
    let mut rows = Vec::new();
    let begin = Instant::now();
    let mut m = Machine::start(started, Timestamp(0));
    for i in 0..STEPS {
        let at = Timestamp(i);
        let step = m.schedule(&op(i), at).unwrap();
        let Unsaved { first, count, bytes, head } = m.take_unsaved().unwrap();
        rows.push(Row { first, count, bytes, head });
        assert!(matches!(m.take_work(at)[..], [Work::Execute { .. }]));
        assert!(m.complete(step, Ok(answer.clone()), at));
        assert!(m.poll_step(step).unwrap().is_some());
        m.drop_step(step, at).unwrap();
    }
    m.finish(Ok(Json::null()), Timestamp(STEPS)).unwrap();
    let Unsaved { first, count, bytes, head } = m.take_unsaved().unwrap();
    rows.push(Row { first, count, bytes, head });
    (rows, begin.elapsed())
}

#[test]
#[ignore = "a measurement"]
fn replaying_ten_thousand_agent_steps() {
    let (rows, recorded) = record();
    let bytes: usize = rows.iter().map(|row| row.bytes.len()).sum();
    let mut best = [Duration::MAX; 3];
    for _ in 0..10 {
        let rows = rows.clone();
        let begin = Instant::now();
        let journal = Journal::read(rows).unwrap();
        let read = begin.elapsed();
        let mut m = Machine::open(journal, wfhost_core::Given::default()).unwrap();
        let opened = begin.elapsed();
        for i in 0..STEPS {
            let step = m.schedule(&op(i), Timestamp(0)).unwrap();
            assert!(m.poll_step(step).unwrap().is_some());
            m.drop_step(step, Timestamp(0)).unwrap();
        }
        m.finish(Ok(Json::null()), Timestamp(0)).unwrap();
        let replayed = begin.elapsed();
        let laps = [read, opened - read, replayed - opened];
        best.iter_mut().zip(laps).for_each(|(best, lap)| *best = lap.min(*best));
    }
    let [read, opened, replayed] = best;
    println!(
        "{STEPS} agent steps, {} entries, {bytes} bytes: record {recorded:.1?}, \
         read {read:.1?}, open {opened:.1?}, replay {replayed:.1?}",
        2 * STEPS + 2,
    );
}
