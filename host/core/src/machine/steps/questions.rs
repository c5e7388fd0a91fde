//! What people are asked.

use super::kind::Kind;
use super::{Done, SetId, Steps};
use crate::entry::decode_op;
use crate::{Op, Question, Step, Timestamp};

/// What changes in the list of open questions.
#[derive(Clone, PartialEq, Debug)]
pub enum QuestionChange {
    /// The program asks; nobody may answer before that is committed.
    Asked { step: Step, at: Timestamp, deadline: Option<Timestamp>, question: Question },
    /// It was answered, timed out, or is not asked any more.
    Closed { step: Step },
}

impl Steps {
    /// A person is to answer the call.
    pub(in crate::machine) fn delegate(
        &mut self,
        step: Step,
        provider: String,
        question: Question,
        deadline: Option<Timestamp>,
        at: Timestamp,
    ) -> Result<(), String> {
        let state = self.open_call(step)?;
        if state.delay.is_some() {
            return Err(format!("step {step} was to begin no attempt"));
        }
        let limit = deadline.map(|deadline| (deadline, deadline.since(state.call.since)));
        state.begun = false;
        state.kind =
            Kind::Question { deadline: limit, delegated: Some(Box::new((provider, question.clone()))) };
        self.working.remove(&step);
        self.timers.extend(deadline.map(|deadline| (deadline, step)));
        self.questions.insert(step);
        self.question_changes.push(QuestionChange::Asked { step, at, deadline, question });
        Ok(())
    }

    /// Whose name the reply of a call bears that a person answers.
    pub(in crate::machine) fn delegated_to(&self, step: Step) -> Option<&str> {
        match &self.states.get(&step)?.kind {
            Kind::Question { delegated: Some(delegated), .. } => Some(&delegated.0),
            _ => None,
        }
    }

    /// A person ended it.
    pub(in crate::machine) fn answer(&mut self, step: Step, done: Done) -> Result<Vec<(SetId, u64)>, String> {
        if !self.is_question(step) {
            return Err(format!("it answers step {step}, which is no open question"));
        }
        Ok(self.close(step, Some(done)))
    }

    pub(in crate::machine) fn asks_people(&self) -> bool {
        !self.questions.is_empty()
    }

    pub(in crate::machine) fn is_question(&self, step: Step) -> bool {
        self.questions.contains(&step)
    }

    pub(in crate::machine) fn take_questions(&mut self) -> Vec<QuestionChange> {
        std::mem::take(&mut self.question_changes)
    }

    pub(in crate::machine) fn open_questions(&self) -> Vec<QuestionChange> {
        let open = self.questions.iter().filter_map(|&step| {
            let state = self.states.get(&step)?;
            let Kind::Question { deadline, delegated } = &state.kind else { return None };
            let question = match delegated {
                Some(delegated) => delegated.1.clone(),
                None => match decode_op(&state.op, state.scheduled) {
                    Ok(Op::Ask { question, .. }) => question,
                    _ => return None,
                },
            };
            let (deadline, at) = (deadline.map(|(deadline, _)| deadline), state.at);
            Some(QuestionChange::Asked { step, at, deadline, question })
        });
        open.collect()
    }
}
