//! What claims are in every store.

use wfhost_core::{Digest, Epoch, Position, Row};

use crate::{CLAIM_BYTES, GREATEST, RunState};

/// Of how many claims one is kept for runs that have not begun.
const NEW_SHARE: usize = 4;

/// How many of `limit` claims are kept for runs that have not begun. `turn` counts the looks, so that small ones share
/// fairly, too.
pub fn share_of_new(limit: usize, turn: usize) -> usize {
    (limit + turn % NEW_SHARE) / NEW_SHARE
}

/// Those of the runs that are due which are claimed: of those that have `begun`, and of `new` ones behind them. No more
/// are when those before take [`CLAIM_BYTES`], but for the first new one if these have a share. `size` gives the bytes
/// that are read of a run.
pub fn that_fit<T, E>(
    begun: impl IntoIterator<Item = T>,
    new: impl IntoIterator<Item = T>,
    share: usize,
    mut size: impl FnMut(&T) -> Result<u64, E>,
) -> Result<Fitting<T>, E> {
    let (mut runs, mut more, mut bytes) = (Vec::new(), false, 0_u64);
    let mut fit = |run: T, always: bool| {
        if bytes >= CLAIM_BYTES as u64 && !always {
            more = true;
            return Ok(false);
        }
        bytes = bytes.saturating_add(size(&run)?);
        runs.push(run);
        Ok(true)
    };
    for run in begun {
        if !fit(run, false)? {
            break;
        }
    }
    for (n, run) in new.into_iter().enumerate() {
        if !fit(run, n == 0 && share > 0)? {
            break;
        }
    }
    Ok(Fitting { runs, more })
}

/// What [`that_fit`] gives.
#[derive(Debug)]
pub struct Fitting<T> {
    pub runs: Vec<T>,
    /// Some did not fit.
    pub more: bool,
}

/// Looks whether the rows of a journal are those that a run was left with: one behind the other, up to the head of the
/// chain when it was given up the last time, if that is known. Else says what is wrong.
pub fn check_rows(rows: &[Row], was: RunState, head: Option<Digest>) -> Result<(), String> {
    let mut end = Position(0);
    for row in rows {
        if row.first != end || row.count == 0 {
            return Err(format!("a row begins at entry {} where {end} is due", row.first));
        }
        end = row.end();
    }
    let Some(last) = rows.last() else { return Err("it is empty".to_owned()) };
    let Some(head) = head else { return Ok(()) };
    // Whoever died went on behind the place where the run was given up last.
    let is_there = match was {
        RunState::Running => rows.iter().any(|row| row.head == head),
        _ => last.head == head,
    };
    match is_there {
        true => Ok(()),
        false => Err(format!("its last entries are missing, up to the head {head}")),
    }
}

/// The epoch of a run whose epoch was this one, and which is claimed.
pub fn next_epoch(epoch: Epoch) -> Epoch {
    Epoch(epoch.0.saturating_add(1).min(GREATEST))
}

/// Looks whether a run that was claimed can be advanced under its epoch: behind the greatest one there is none, so
/// whoever has it could not be told from who had it before. Else says what is wrong.
pub fn check_epoch(epoch: Epoch) -> Result<(), String> {
    match epoch.0 < GREATEST {
        true => Ok(()),
        false => Err("its epoch is the greatest one, which an import may have brought along".to_owned()),
    }
}
