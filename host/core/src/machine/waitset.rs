//! Sets of steps that a program waits for.

use std::collections::{BTreeMap, HashMap};

use crate::{Position, Step};

/// A set of one execution; its number means nothing outside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SetId(pub u32);

#[derive(Debug, Default)]
pub(super) struct WaitSets {
    created: u32,
    sets: HashMap<SetId, WaitSet>,
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

    pub(super) fn delete(&mut self, set: SetId) {
        self.sets.remove(&set);
    }

    /// Adds a member, which was done at `done` if it is.
    pub(super) fn add(&mut self, set: SetId, tag: u64, step: Step, done: Option<Position>) {
        self.remove(set, tag);
        let Some(set) = self.sets.get_mut(&set) else { return };
        set.members.insert(tag, Member { step, done });
        if let Some(position) = done {
            set.ready.insert((position, tag), step);
        }
    }

    pub(super) fn remove(&mut self, set: SetId, tag: u64) {
        let Some(set) = self.sets.get_mut(&set) else { return };
        if let Some(Member { done: Some(position), .. }) = set.members.remove(&tag) {
            set.ready.remove(&(position, tag));
        }
    }

    /// The step is gone. The tag stays if it stands for another one by now.
    pub(super) fn remove_step(&mut self, set: SetId, tag: u64, step: Step) {
        let member = self.sets.get(&set).and_then(|set| set.members.get(&tag));
        if member.is_some_and(|member| member.step == step) {
            self.remove(set, tag);
        }
    }

    /// A step was done; `watchers` are the sets and tags that it was added under.
    pub(super) fn ready(&mut self, step: Step, position: Position, watchers: &[(SetId, u64)]) {
        for &(set, tag) in watchers {
            let Some(set) = self.sets.get_mut(&set) else { continue };
            // The tag may stand for another step by now.
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
        set.members.remove(&tag);
        Some((tag, position, step))
    }

    pub(super) fn is_empty(&self, set: SetId) -> bool {
        self.sets.get(&set).is_none_or(|set| set.members.is_empty())
    }
}
