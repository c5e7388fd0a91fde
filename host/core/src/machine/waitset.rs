//! Sets of steps that a program waits for.

use std::collections::{BTreeMap, HashMap};

use crate::{Position, Step};

/// A set of one execution; its number means nothing outside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SetId(pub u32);

#[derive(Debug, Default)]
pub(super) struct WaitSets {
    created: u32,
    sets: HashMap<SetId, WaitSet>,
    /// Of all of them.
    members: usize,
}

#[derive(Debug, Default)]
struct WaitSet {
    members: HashMap<u64, Member>,
    /// The members that are done, by position and then by tag.
    ready: BTreeMap<(Position, u64), Step>,
}

#[derive(Debug)]
struct Member {
    step: Step,
    done: Option<Position>,
}

impl WaitSets {
    pub(super) fn create(&mut self) -> SetId {
        self.created += 1;
        let id = SetId(self.created);
        self.sets.insert(id, WaitSet::default());
        id
    }

    /// Deletes a set. Gives the tags and steps of its members.
    pub(super) fn delete(&mut self, set: SetId) -> impl Iterator<Item = (u64, Step)> + use<> {
        let members = self.sets.remove(&set).map(|set| set.members).unwrap_or_default();
        self.members -= members.len();
        members.into_iter().map(|(tag, member)| (tag, member.step))
    }

    /// The number of members of all sets.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    /// Adds a member, which was done at `done` if it is.
    pub(super) fn add(&mut self, set: SetId, tag: u64, step: Step, done: Option<Position>) {
        self.remove(set, tag);
        let Some(set) = self.sets.get_mut(&set) else { return };
        set.members.insert(tag, Member { step, done });
        self.members += 1;
        if let Some(position) = done {
            set.ready.insert((position, tag), step);
        }
    }

    /// Removes a member. Gives its step.
    pub(super) fn remove(&mut self, set: SetId, tag: u64) -> Option<Step> {
        let set = self.sets.get_mut(&set)?;
        let Member { step, done } = set.members.remove(&tag)?;
        self.members -= 1;
        if let Some(position) = done {
            set.ready.remove(&(position, tag));
        }
        Some(step)
    }

    /// A step was done; `watchers` are the sets and tags that it was added under.
    pub(super) fn ready(&mut self, step: Step, position: Position, watchers: &[(SetId, u64)]) {
        for &(set, tag) in watchers {
            let Some(set) = self.sets.get_mut(&set) else { continue };
            if let Some(member) = set.members.get_mut(&tag).filter(|m| m.step == step && m.done.is_none()) {
                member.done = Some(position);
                set.ready.insert((position, tag), step);
            }
        }
    }

    /// Removes the member that was done first.
    pub(super) fn pop(&mut self, set: SetId) -> Option<(u64, Position, Step)> {
        let set = self.sets.get_mut(&set)?;
        let ((position, tag), step) = set.ready.pop_first()?;
        self.members -= usize::from(set.members.remove(&tag).is_some());
        Some((tag, position, step))
    }

    pub(super) fn is_empty(&self, set: SetId) -> bool {
        self.sets.get(&set).is_none_or(|set| set.members.is_empty())
    }
}
