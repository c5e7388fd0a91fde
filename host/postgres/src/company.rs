//! Whom a lane waits for before it sends.
//!
//! The runs of a batch are all answered at the same moment, and those that only compute on append again soon: one after
//! the other, as processors get to them. The first of them, sent alone, would take the server nearly as long as all of
//! them together, and the others would wait for it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use wfhost_core::RunId;

/// Nobody is waited for longer than this.
const LONGEST: Duration = Duration::from_millis(3);
/// Runs that are remembered, at most.
const REMEMBERED: usize = 20_000;

/// Runs that were answered, and how soon they come back.
#[derive(Debug)]
pub(crate) struct Company {
    /// Those that are waited for: they were answered last, and the last time they came in time.
    expected: HashSet<RunId>,
    until: Instant,
    /// Those that were answered and did not come yet, and until when they would come in time.
    away: HashMap<RunId, Instant>,
    /// Those that came in time.
    soon: HashSet<RunId>,
}

impl Company {
    pub fn new(now: Instant) -> Self {
        let (expected, away, soon) = (HashSet::new(), HashMap::new(), HashSet::new());
        Self { expected, until: now, away, soon }
    }

    /// A call that took so long has answered these, and they go on. Whoever is in the next one waits no longer for
    /// others than that.
    pub fn answered(&mut self, now: Instant, took: Duration, runs: impl IntoIterator<Item = RunId>) {
        self.until = now + took.min(LONGEST);
        self.expected.clear();
        if self.away.len().max(self.soon.len()) > REMEMBERED {
            // Those that work now are soon known again.
            self.away.clear();
            self.soon.clear();
        }
        for run in runs {
            if self.soon.contains(&run) {
                self.expected.insert(run.clone());
            }
            self.away.insert(run, self.until);
        }
    }

    /// A run came, at that time.
    pub fn came(&mut self, run: &RunId, at: Instant) {
        self.expected.remove(run);
        match self.away.remove(run) {
            Some(until) if at <= until => drop(self.soon.insert(run.clone())),
            _ => drop(self.soon.remove(run)),
        }
    }

    /// A run goes on here no more.
    pub fn left(&mut self, run: &RunId) {
        self.soon.remove(run);
    }

    /// Until when those who are there wait for others; none if there are none to be waited for.
    pub fn wait_until(&self, now: Instant) -> Option<Instant> {
        (!self.expected.is_empty() && now < self.until).then_some(self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(1);
    const SHORT: Duration = Duration::from_micros(200);

    fn run(number: usize) -> RunId {
        format!("r{number}").parse().expect("an id")
    }

    /// All are answered, and come back after `gap`.
    fn round(company: &mut Company, now: &mut Instant, runs: usize, gap: Duration) {
        company.answered(*now, TOOK, (0..runs).map(run));
        *now += gap;
        for number in 0..runs {
            company.came(&run(number), *now);
        }
    }

    #[test]
    fn a_run_that_works_alone_is_never_waited_for_and_waits_for_nobody() {
        let mut now = Instant::now();
        let mut company = Company::new(now);
        assert_eq!(company.wait_until(now), None);
        for _ in 0..5 {
            round(&mut company, &mut now, 1, SHORT);
            assert_eq!(company.wait_until(now), None);
        }
        // Others were there, and have gone.
        round(&mut company, &mut now, 3, SHORT);
        for number in [1, 2] {
            company.left(&run(number));
        }
        for _ in 0..5 {
            round(&mut company, &mut now, 1, SHORT);
            assert_eq!(company.wait_until(now), None);
        }
    }

    #[test]
    fn those_who_come_back_soon_are_waited_for_until_the_last_of_them() {
        let mut now = Instant::now();
        let mut company = Company::new(now);
        round(&mut company, &mut now, 4, SHORT);
        company.answered(now, TOOK, (0..4).map(run));
        let until = now + TOOK;
        for number in 0..4 {
            assert_eq!(company.wait_until(now), Some(until), "{number} is still expected");
            now += Duration::from_micros(100);
            company.came(&run(number), now);
        }
        assert_eq!(company.wait_until(now), None);
    }

    #[test]
    fn nobody_is_waited_for_longer_than_the_call_took_or_than_three_milliseconds() {
        for (took, longest) in [(SHORT, SHORT), (Duration::from_secs(1), LONGEST)] {
            let mut now = Instant::now();
            let mut company = Company::new(now);
            round(&mut company, &mut now, 2, SHORT);
            company.answered(now, took, (0..2).map(run));
            company.came(&run(0), now);
            assert_eq!(company.wait_until(now), Some(now + longest));
            assert_eq!(company.wait_until(now + longest), None);
        }
    }

    #[test]
    fn a_run_that_stayed_away_long_is_not_expected_until_it_came_soon_again() {
        let mut now = Instant::now();
        let mut company = Company::new(now);
        // The first time nobody knows of anybody.
        company.answered(now, TOOK, (0..2).map(run));
        assert_eq!(company.wait_until(now), None);
        round(&mut company, &mut now, 2, TOOK * 2);
        company.answered(now, TOOK, (0..2).map(run));
        assert_eq!(company.wait_until(now), None, "both wait for something else than the store");
        company.came(&run(0), now + SHORT);
        company.came(&run(1), now + TOOK * 2);
        company.answered(now, TOOK, (0..2).map(run));
        assert!(company.wait_until(now).is_some());
        company.came(&run(0), now + SHORT);
        assert_eq!(company.wait_until(now), None, "the other one is not expected");
    }
}
