//! Numbers as databases have them: with a sign.

use wfhost_core::policy::budget::Spent;

/// The greatest number that can be stored.
pub const GREATEST: u64 = i64::MAX as u64;

/// A number as it is stored: beyond what can be stored it is the greatest, behind which nothing is.
pub fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What was spent, as far as it can be stored.
pub fn storable(spent: Spent) -> Spent {
    Spent { tokens: spent.tokens.min(GREATEST), micros: spent.micros.min(GREATEST), ..spent }
}

/// What a family has spent when a run of it has spent `after` in place of `before`. What cannot be counted any more is
/// not made less: nobody knows by how much it is beyond that.
pub fn family_sum(sum: u64, before: u64, after: u64) -> u64 {
    if sum.max(after) >= GREATEST {
        return GREATEST;
    }
    let sum = i128::from(sum) + i128::from(after) - i128::from(before);
    u64::try_from(sum.max(0)).unwrap_or(GREATEST).min(GREATEST)
}
