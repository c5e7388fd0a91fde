//! The example of docs/journal-format.md is right.

use wfhost_core::{
    AgentRequest, Digest, Entry, Event, Journal, Json, Op, Row, RunConfig, Started, Step, Timestamp,
    encode_op,
};

use crate::rows;

const DOCUMENT: &str = include_str!("../../../../docs/journal-format.md");

/// The blocks of this language, without what stands behind a `#`.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = DOCUMENT.split(&fence).skip(1);
    let code = |block: &str| {
        let lines = block.split("```").next().unwrap().lines();
        lines.map(|line| line.split('#').next().unwrap()).collect::<String>()
    };
    blocks.map(code).map(|code| code.replace(' ', "")).collect()
}

fn example() -> Vec<Entry> {
    let started = Started {
        run: "run-1".parse().unwrap(),
        workflow: "hello".to_owned(),
        module: Digest([0x11; 32]),
        input: Json::null(),
        seed: [0x22; 32],
        config: RunConfig {
            agent: Some("echo".to_owned()),
            memory_bytes: 512 << 20,
            fuel: 20_000_000_000,
            stack_bytes: 1 << 20,
            sandbox: None,
            ..RunConfig::default()
        },
        labels: vec![],
        parent: None,
        child: None,
        origin: None,
    };
    let op = Op::Agent(Box::new(AgentRequest { prompt: "hi".to_owned(), ..Default::default() }));
    let answer = Json::parse(r#"{"output":"hi","provider":"echo"}"#.to_owned()).unwrap();
    let at = |millis: u64| Timestamp(1_750_000_000_000 + millis);
    vec![
        Entry { at: at(0), event: Event::Started(Box::new(started)), behind_ms: None },
        Entry {
            at: at(1),
            event: Event::Scheduled { step: Step(1), op: encode_op(&op).into() },
            behind_ms: None,
        },
        Entry {
            at: at(9),
            event: Event::Completed { step: Step(1), outcome: Ok(answer).into(), timing: None },
            behind_ms: None,
        },
    ]
}

#[test]
fn the_example_is_what_the_code_writes_and_reads() {
    let entries = example();
    let row = rows::rows(&entries, &[3]).remove(0);
    let documented: Vec<_> = blocks("hex").iter().map(|digits| rows::unhex(digits)).collect();
    assert_eq!(rows::hex(&documented.concat()), rows::hex(&row.bytes));
    assert_eq!(documented.len(), entries.len(), "a block for each entry");
    let heads = blocks("head");
    assert_eq!(heads, [row.head.hex()]);
    let read = Row { bytes: documented.concat(), head: Digest::parse(&heads[0]).unwrap(), ..row };
    assert_eq!(Journal::read([read]).unwrap().entries, entries);
}
