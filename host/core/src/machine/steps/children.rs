//! Runs that the program wants to be started, and that it waits for.

use super::{Done, SetId, Steps};
use crate::entry::decode_op;
use crate::{ChildOptions, Json, Op, Step};

/// A run that the program wants to be started.
#[derive(Clone, PartialEq, Debug)]
pub struct NewChild {
    pub step: Step,
    /// As the program names it.
    pub module: String,
    pub input: Json,
    pub options: Option<ChildOptions>,
}

impl Steps {
    /// The run that it waited for ended.
    pub(in crate::machine) fn end_child(
        &mut self,
        step: Step,
        done: Done,
    ) -> Result<Vec<(SetId, u64)>, String> {
        if !self.children.remove(&step) {
            return Err(format!("it ends the child of step {step}, which waits for none"));
        }
        Ok(self.close(step, Some(done)))
    }

    pub(in crate::machine) fn is_child(&self, step: Step) -> bool {
        self.children.contains(&step)
    }

    /// The number of children that the run ever had.
    pub(in crate::machine) fn children(&self) -> usize {
        self.children_ever
    }

    pub(in crate::machine) fn open_children(&self) -> Vec<Step> {
        self.children.iter().copied().collect()
    }

    pub(in crate::machine) fn take_children(&mut self) -> Vec<NewChild> {
        let steps = std::mem::take(&mut self.new_children);
        let wanted = |step: Step| {
            let state = self.states.get(&step).filter(|state| state.is_open())?;
            match decode_op(&state.op, state.scheduled) {
                Ok(Op::Child { module, input, options }) => Some(NewChild { step, module, input, options }),
                _ => None,
            }
        };
        steps.into_iter().filter_map(wanted).collect()
    }

    /// All open children have to be started, though they were before.
    pub(in crate::machine) fn start_children_again(&mut self) {
        self.new_children = self.children.iter().copied().collect();
    }

    pub(in crate::machine) fn take_dropped_children(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.dropped_children)
    }
}
