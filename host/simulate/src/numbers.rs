//! Which seeds are yet to be executed, by their numbers from 0.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use wfhost::world::lock;

/// How often is looked whether all is over, while others may give something back.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Numbers that several threads share out among themselves.
pub struct Numbers {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Nobody has had these.
    fresh: Range<u64>,
    /// These were given back: the first ones, and where they end.
    back: BTreeMap<u64, u64>,
    /// Parts that somebody has.
    out: usize,
}

/// A part that one thread has. What it has not done is given back with it.
pub struct Part<'a> {
    numbers: &'a Numbers,
    left: Range<u64>,
}

impl Numbers {
    pub fn new(count: u64) -> Self {
        let state = State { fresh: 0..count, back: BTreeMap::new(), out: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Takes the smallest ones, `most` of them or fewer. While there are none it waits for others to give some back. None
    /// if all are done, or it is over for the next one.
    pub fn take(&self, most: u64, is_over: impl Fn(u64) -> bool) -> Option<Part<'_>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(left) = state.smallest(most) {
                let numbers = self;
                state.out += 1;
                drop(state);
                let part = Part { numbers, left };
                // Else it is given back.
                return (!is_over(part.first())).then_some(part);
            }
            if state.out == 0 {
                return None;
            }
            let waited = self.changed.wait_timeout(state, LOOK_EVERY);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if is_over(u64::MAX) {
                return None;
            }
        }
    }
}

impl State {
    fn smallest(&mut self, most: u64) -> Option<Range<u64>> {
        if let Some((first, end)) = self.back.pop_first() {
            let cut = end.min(first.saturating_add(most));
            if cut < end {
                self.back.insert(cut, end);
            }
            return Some(first..cut);
        }
        let cut = self.fresh.end.min(self.fresh.start.saturating_add(most));
        let part = std::mem::replace(&mut self.fresh.start, cut)..cut;
        (!part.is_empty()).then_some(part)
    }
}

impl Part<'_> {
    pub fn first(&self) -> u64 {
        self.left.start
    }

    pub fn count(&self) -> u64 {
        self.left.end - self.left.start
    }

    /// The first ones are done.
    pub fn did(&mut self, count: u64) {
        self.left.start += count;
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.numbers.state);
        state.out -= 1;
        if !self.left.is_empty() {
            state.back.insert(self.left.start, self.left.end);
        }
        drop(state);
        self.numbers.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(numbers: &Numbers, most: u64) -> Option<Part<'_>> {
        numbers.take(most, |_| false)
    }

    #[test]
    fn what_is_not_done_is_given_out_again_the_smallest_first() {
        let numbers = Numbers::new(10);
        let mut first = take(&numbers, 4).unwrap();
        let second = take(&numbers, 4).unwrap();
        assert_eq!((first.left.clone(), second.left.clone()), (0..4, 4..8));
        first.did(1);
        drop(second);
        drop(first);
        let mut taken = Vec::new();
        while let Some(mut part) = take(&numbers, 2) {
            taken.push(part.left.clone());
            part.did(part.count());
        }
        assert_eq!(taken, [1..3, 3..4, 4..6, 6..8, 8..10]);
    }

    #[test]
    fn who_finds_nothing_waits_for_what_others_give_back() {
        let numbers = Numbers::new(1);
        let part = take(&numbers, 1).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| take(&numbers, 1).map(|mut part| part.did(1)));
            drop(part);
            assert!(waits.join().unwrap().is_some());
        });
        assert!(take(&numbers, 1).is_none());
    }

    #[test]
    fn nothing_is_taken_or_waited_for_when_it_is_over() {
        let numbers = Numbers::new(3);
        assert!(numbers.take(1, |_| true).is_none());
        // What is over for those behind it need not be so for the first.
        let part = numbers.take(3, |number| number > 0).unwrap();
        assert_eq!(part.left, 0..1);
        assert!(numbers.take(1, |_| true).is_none());
    }
}
