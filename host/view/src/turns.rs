//! Which calls wait for their turn, as the processes that make them have said.

use wfhost::StepInfo;
use wfhost::store::{Store, StoreError, TranscriptFilter, TranscriptKind, TranscriptLine};
use wfhost_core::{Op, RunId, Step, TURN_TAKEN, Timestamp};

/// What was said last of the turn of a call. It is about the current attempt if it is not older than that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    pub step: Step,
    pub at: Timestamp,
    /// Whether it waits: for a slot, the budget, a rate. Else it got its turn then.
    pub is_queued: bool,
}

/// Calls that are looked at, the first ones: the others wait behind them.
const MOST: usize = 50;
/// Lines that are read at once, of one step: it has two for each attempt that had to wait.
const LINES: usize = 1_000;

/// What is known of the turns of these steps. Of a call that got its turn at once nothing is.
pub async fn turns(store: &dyn Store, run: &RunId, steps: &[Step]) -> Result<Vec<Turn>, StoreError> {
    let mut turns = Vec::new();
    for step in steps.iter().take(MOST) {
        let mut last: Option<TranscriptLine> = None;
        loop {
            let after = last.as_ref().map_or(0, |last| last.number);
            let filter = TranscriptFilter { after, step: Some(*step), kinds: vec![TranscriptKind::Queue] };
            let mut lines = store.transcript(run, filter, LINES).await?;
            let is_all = lines.len() < LINES;
            last = lines.pop().or(last);
            if is_all {
                break;
            }
        }
        turns.extend(last.map(|last| Turn {
            step: *step,
            at: last.line.at,
            is_queued: last.line.text != TURN_TAKEN,
        }));
    }
    Ok(turns)
}

/// The calls that are under way or wait for their turn.
pub fn open_calls(steps: &[StepInfo]) -> Vec<Step> {
    let is_open = |info: &&StepInfo| {
        let is_call = matches!(info.op, Op::Agent(_));
        is_call && info.ended.is_none() && info.delegated.is_none() && info.waits.is_none()
    };
    steps.iter().filter(is_open).map(|info| info.step).collect()
}
