//! What is kept of runs that go on, so that their journals need not be read again.

use std::collections::HashMap;

use wfhost_core::RunId;
use wfhost_view::Tracer;

/// Bytes that are kept, about.
const BYTES: usize = 64 << 20;

/// Tracers of runs. Of more than there is room for, those go that cost least to be made again for the room that they take,
/// and of these those that were used longest ago (GreedyDual-Size, Cao and Irani 1997).
#[derive(Debug)]
pub(super) struct Kept {
    tracers: HashMap<RunId, One>,
    bytes: usize,
    most: usize,
    /// The worth of the one that went last.
    floor: f64,
}

#[derive(Debug)]
struct One {
    tracer: Tracer,
    bytes: usize,
    worth: f64,
}

impl Default for Kept {
    fn default() -> Self {
        Self::of_bytes(BYTES)
    }
}

impl Kept {
    fn of_bytes(most: usize) -> Self {
        Self { tracers: HashMap::new(), bytes: 0, most, floor: 0.0 }
    }

    pub fn get(&self, run: &RunId) -> Option<&Tracer> {
        self.tracers.get(run).map(|one| &one.tracer)
    }

    pub fn take(&mut self, run: &RunId) -> Option<Tracer> {
        let one = self.tracers.remove(run)?;
        self.bytes -= one.bytes;
        Some(one.tracer)
    }

    pub fn put(&mut self, run: RunId, tracer: Tracer) {
        self.take(&run);
        let bytes = tracer.bytes() + run.as_str().len();
        self.bytes += bytes;
        let worth = self.floor + tracer.next().0 as f64 / bytes as f64;
        self.tracers.insert(run, One { tracer, bytes, worth });
    }

    /// Lets go of what there is no room for.
    pub fn shrink(&mut self) {
        if self.bytes <= self.most {
            return;
        }
        let mut all: Vec<_> = self.tracers.iter().map(|(run, one)| (one.worth, run.clone())).collect();
        all.sort_by(|one, other| one.0.total_cmp(&other.0));
        // A little more than has to be, so that it is not done each time. One stays, however large it is.
        all.pop();
        for (worth, run) in all {
            if self.bytes <= self.most / 4 * 3 {
                break;
            }
            self.take(&run);
            self.floor = worth;
        }
    }
}

#[cfg(test)]
mod tests {
    use wfhost::store::RunInfo;

    use super::*;
    use crate::event::tests::machine;

    #[test]
    fn what_costs_least_to_be_made_again_goes_first() {
        let tracer = |run: &str, entries: u64| {
            let machine = machine(run);
            let mut tracer = Tracer::new(&RunInfo::of(&machine), false);
            let entry = wfhost_core::Entry {
                at: wfhost_core::Timestamp(1),
                event: wfhost_core::Event::ClockSet,
                behind_ms: None,
            };
            (0..entries).for_each(|_| tracer.take(&entry, None, None).unwrap());
            (machine.run().clone(), tracer)
        };
        let one = tracer("long", 0).1.bytes();
        let mut kept = Kept::of_bytes(40 * one);
        let (long, long_tracer) = tracer("long", 100_000);
        kept.put(long.clone(), long_tracer);
        for number in 0..1_000 {
            let (run, tracer) = tracer(&format!("short-{number}"), 10);
            kept.put(run, tracer);
            kept.shrink();
            assert!(kept.bytes <= 40 * one);
        }
        assert!(kept.get(&long).is_some(), "it would cost a hundred thousand entries");
        assert!(kept.get(&"short-999".parse().unwrap()).is_some(), "it was used last");
        assert!(kept.get(&"short-0".parse().unwrap()).is_none());
        assert_eq!(kept.bytes, kept.tracers.values().map(|one| one.bytes).sum::<usize>());
        assert!(kept.take(&long).is_some() && kept.get(&long).is_none());
    }
}
