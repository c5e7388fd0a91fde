//! Chance that can be taken back: each decision has a name, and is drawn from the seed and that name
//! alone. So a decision can be undone without changing any other, by which a failure is shrunk.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Mutex;

use wfhost::world::lock;

#[derive(Debug, Default)]
pub struct Chance {
    seed: u64,
    /// Decisions that are not made: nothing unusual happens there.
    undone: BTreeSet<String>,
    /// Those that made something unusual happen.
    made: Mutex<BTreeSet<String>>,
}

/// By what part of a range lengths differ that are as short or as long as there can be.
const NEAR: f64 = 64.0;

impl Chance {
    pub fn new(seed: u64, undone: BTreeSet<String>) -> Self {
        Self { seed, undone, made: Mutex::default() }
    }

    /// Something between 0 and 1, the same for the same seed and name.
    fn draw(&self, name: &str) -> f64 {
        // At once: a hasher for parts is two kilobytes, and there are hundreds of decisions.
        let text = [self.seed.to_le_bytes().as_slice(), name.as_bytes()].concat();
        let bytes = blake3::hash(&text).as_bytes().first_chunk().copied().unwrap_or_default();
        (u64::from_le_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn note(&self, name: String) {
        lock(&self.made).insert(name);
    }

    /// Whether something unusual happens, which it does this often.
    pub fn happens(&self, name: String, often: f64) -> bool {
        let happens = often > 0.0 && !self.undone.contains(&name) && self.draw(&name) < often;
        if happens {
            self.note(name);
        }
        happens
    }

    /// A length of time. Undone it is the shortest.
    pub fn length(&self, name: String, range: &RangeInclusive<u64>) -> u64 {
        let (least, most) = (*range.start(), *range.end());
        if least >= most || self.undone.contains(&name) {
            return least;
        }
        // Many short ones and few long ones, as it is in the world: each order of magnitude alike.
        let (low, high) = ((least as f64 + 1.0).ln(), (most as f64 + 1.0).ln());
        let length = ((low + (high - low) * self.draw(&name)).exp() - 1.0).round() as u64;
        let length = length.clamp(least, most);
        if length > least {
            self.note(name);
        }
        length
    }

    /// A length of time that somebody takes for the `number`th thing that is done. In half of the executions
    /// everybody is as quick or slow as it comes. In the others each has a priority: whoever has a high one takes
    /// as little time as there can be, whoever has a low one as much, until at one moment that is turned round. So
    /// somebody can be the last for long, which independent lengths give seldom (as in "A Randomized Scheduler with
    /// Probabilistic Guarantees of Finding Bugs", Burckhardt et al., 2010).
    pub fn pace(&self, name: String, who: &str, number: u64, range: &RangeInclusive<u64>) -> u64 {
        /// Calls among which the moment is.
        const FIRST: f64 = 16.0;
        let (least, most) = (*range.start(), *range.end());
        if least >= most || self.draw("priorities") < 0.5 {
            return self.length(name, range);
        }
        // Not exactly the same for all: what happens at one and the same moment is no order.
        let near = ((most - least) as f64 / NEAR * self.draw(&name)).round() as u64;
        let turned = number as f64 >= self.draw("priorities change") * FIRST;
        let slow = (self.draw(&format!("the priority of {who}")) < 0.5) != turned;
        if slow && !self.undone.contains(&name) {
            self.note(name);
            return most - near;
        }
        least + near
    }

    /// One of several, the first if it is undone.
    pub fn one<'a, T>(&self, name: String, all: &'a [T]) -> Option<&'a T> {
        if all.len() < 2 || self.undone.contains(&name) {
            return all.first();
        }
        let index = (self.draw(&name) * all.len() as f64) as usize;
        if index > 0 {
            self.note(name);
        }
        all.get(index)
    }

    /// For the random numbers of the program.
    pub fn seed_of_run(&self) -> [u8; 32] {
        *blake3::hash(&self.seed.to_le_bytes()).as_bytes()
    }

    /// The names of the decisions that made something unusual happen.
    pub fn made(&self) -> BTreeSet<String> {
        lock(&self.made).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_depends_on_its_name_alone_and_can_be_undone() {
        let chance = Chance::new(7, BTreeSet::new());
        let delay = chance.length("delay".to_owned(), &(0..=100_000));
        assert_eq!(delay, Chance::new(7, BTreeSet::new()).length("delay".to_owned(), &(0..=100_000)));
        let often = (0..1_000).filter(|n| chance.happens(format!("{n}"), 0.25)).count();
        assert!((180..320).contains(&often), "{often}");
        let undone = Chance::new(7, chance.made());
        assert_eq!(undone.length("delay".to_owned(), &(0..=100_000)), 0);
        assert!((0..1_000).all(|n| !undone.happens(format!("{n}"), 0.25)));
        assert!(undone.made().is_empty());
    }

    #[test]
    fn in_half_of_the_executions_somebody_is_slow_until_that_is_turned_round() {
        let mut kinds = [0; 2];
        for seed in 0..400 {
            let chance = Chance::new(seed, BTreeSet::new());
            let lengths: Vec<_> =
                (0..20).map(|n| chance.pace(format!("{n}"), "the writer", n, &(1..=1_000_000))).collect();
            let is_slow = |length: &u64| *length > 500_000;
            let near = 1_000_000 / NEAR as u64 + 1;
            let extreme = lengths.iter().all(|length| *length <= near || *length >= 1_000_000 - near);
            kinds[usize::from(extreme)] += 1;
            if extreme {
                let turns = lengths.windows(2).filter(|pair| is_slow(&pair[0]) != is_slow(&pair[1])).count();
                assert!(turns <= 1, "{lengths:?}");
                let undone = Chance::new(seed, chance.made());
                assert!(
                    (0..20).all(|n| undone.pace(format!("{n}"), "the writer", n, &(1..=1_000_000)) <= near)
                );
            }
        }
        assert!(kinds.iter().all(|count| *count > 150), "{kinds:?}");
    }

    #[test]
    fn lengths_stay_within_their_range() {
        let chance = Chance::new(1, BTreeSet::new());
        for n in 0..1_000 {
            let length = chance.length(format!("{n}"), &(10..=20));
            assert!((10..=20).contains(&length), "{length}");
        }
    }
}
