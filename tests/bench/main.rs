//! How fast wfhost is, each figure beside the limit that holds it.
//!
//! `tests/bench/run` builds everything and runs this; `docs/performance.md` is
//! about the method. All measures are taken in turn, `--rounds` times, and each
//! measures its limit right before or after it: what disturbs the machine
//! disturbs both. Reported are medians, and the extremes.

mod imports;
mod limits;
mod memory;
mod place;
mod plugins;
mod postgres;
mod processes;
mod replay;
mod report;
mod simulating;
mod steps;
mod waking;

use std::process::ExitCode;

use place::Place;
use report::{Reading, Report};

/// As `wfhost` has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One group of figures: takes one reading of each.
struct Measure {
    name: &'static str,
    take: fn(&Place) -> Vec<Reading>,
}

const MEASURES: [Measure; 22] = [
    Measure { name: "serial", take: steps::serial },
    Measure { name: "concurrent", take: steps::concurrent },
    Measure { name: "parallel", take: steps::parallel },
    Measure { name: "payload", take: steps::payload },
    Measure { name: "runs", take: steps::runs },
    Measure { name: "linear", take: steps::linear },
    Measure { name: "finished", take: steps::finished },
    Measure { name: "replay", take: replay::replay },
    Measure { name: "import", take: imports::import_call },
    Measure { name: "plugin", take: plugins::plugin_call },
    Measure { name: "signal", take: waking::signal },
    Measure { name: "timers", take: waking::timers },
    Measure { name: "process", take: processes::processes },
    Measure { name: "beside", take: processes::beside },
    Measure { name: "test", take: simulating::simulating },
    Measure { name: "memory", take: memory::memory },
    Measure { name: "pg-serial", take: postgres::serial },
    Measure { name: "pg-concurrent", take: postgres::concurrent },
    Measure { name: "pg-claims", take: postgres::claims },
    Measure { name: "pg-waking", take: postgres::waking },
    Measure { name: "pg-open", take: postgres::open },
    Measure { name: "pg-hosts", take: postgres::hosts },
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut rounds, mut tiny, mut wanted) = (5, false, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What `cargo bench` adds.
            "--bench" => {}
            "--tiny" => tiny = true,
            "--rounds" => match arguments.next().and_then(|text| text.parse().ok()) {
                Some(number) => rounds = number,
                None => return usage("--rounds needs a number"),
            },
            memory::CHILD => return memory::child(arguments),
            name if MEASURES.iter().any(|measure| measure.name == name) => wanted.push(name.to_owned()),
            other => return usage(&format!("there is no `{other}`")),
        }
    }
    if tiny {
        rounds = 1;
    }
    let place = Place::new(tiny);
    let mut report = Report::default();
    for round in 1..=rounds {
        for measure in &MEASURES {
            if wanted.is_empty() || wanted.iter().any(|name| name == measure.name) {
                eprintln!("round {round} of {rounds}: {}", measure.name);
                report.add((measure.take)(&place));
            }
        }
    }
    print!("{report}");
    ExitCode::SUCCESS
}

fn usage(problem: &str) -> ExitCode {
    let names: Vec<_> = MEASURES.iter().map(|measure| measure.name).collect();
    eprintln!("{problem}\nusage: tests/bench/run [--rounds N] [--tiny] [MEASURE ...]");
    eprintln!("measures: {}", names.join(" "));
    ExitCode::from(2)
}
