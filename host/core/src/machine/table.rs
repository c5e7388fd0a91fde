//! A table by numbers of steps.

use std::collections::VecDeque;

use crate::Step;

/// What is known of steps. They come in the order of their numbers and go about in the same, so
/// those between the oldest and the newest are kept in a row: 8 bytes for each, and for those
/// that are there what is known of them.
#[derive(Debug)]
pub(super) struct Table<T> {
    /// The number of the first in the row.
    first: u64,
    row: VecDeque<Option<Box<T>>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { first: 0, row: VecDeque::new() }
    }
}

impl<T> Table<T> {
    fn index(&self, step: Step) -> Option<usize> {
        usize::try_from(step.0.checked_sub(self.first)?).ok()
    }

    pub fn get(&self, step: &Step) -> Option<&T> {
        self.row.get(self.index(*step)?)?.as_deref()
    }

    pub fn get_mut(&mut self, step: &Step) -> Option<&mut T> {
        let index = self.index(*step)?;
        self.row.get_mut(index)?.as_deref_mut()
    }

    /// All that are there, by their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Step, &T)> {
        let numbered = (self.first..).zip(&self.row);
        numbered.filter_map(|(number, value)| Some((Step(number), value.as_deref()?)))
    }

    /// Adds a step, whose number is greater than those of all before.
    pub fn insert(&mut self, step: Step, value: T) {
        if self.row.is_empty() {
            self.first = step.0;
        }
        while self.first + (self.row.len() as u64) < step.0 {
            self.row.push_back(None);
        }
        self.row.push_back(Some(Box::new(value)));
    }

    pub fn remove(&mut self, step: &Step) -> Option<T> {
        let index = self.index(*step)?;
        let removed = self.row.get_mut(index)?.take();
        while let Some(None) = self.row.front() {
            self.row.pop_front();
            self.first += 1;
        }
        removed.map(|value| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_begins_with_the_oldest_step_that_is_there() {
        let mut table = Table::default();
        for number in [3, 4, 7, 8] {
            table.insert(Step(number), number);
        }
        assert_eq!((table.get(&Step(2)), table.get(&Step(5)), table.get(&Step(7))), (None, None, Some(&7)));
        assert_eq!((table.remove(&Step(4)), table.remove(&Step(4)), table.row.len()), (Some(4), None, 6));
        assert_eq!((table.remove(&Step(3)), table.first, table.row.len()), (Some(3), 7, 2));
        *table.get_mut(&Step(8)).unwrap() = 80;
        assert_eq!((table.remove(&Step(8)), table.remove(&Step(7)), table.row.len()), (Some(80), Some(7), 0));
        table.insert(Step(100), 100);
        assert_eq!((table.first, table.get(&Step(100)), table.get(&Step(101))), (100, Some(&100), None));
    }
}
