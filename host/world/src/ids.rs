//! What is drawn for a new run: its id and its seed.

use wfhost_core::RunId;

use crate::clock;

/// The system gives no random numbers.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("random numbers are not available: {0}")]
pub struct NoRandom(pub String);

/// What everything random of a run is made of.
pub fn fresh_seed() -> Result<[u8; 32], NoRandom> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| NoRandom(error.to_string()))?;
    Ok(seed)
}

/// `run_` and a ULID in lower case.
pub fn fresh_id() -> Result<RunId, NoRandom> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| NoRandom(error.to_string()))?;
    let ulid = ulid::Ulid::from_parts(clock::now().0, u128::from_le_bytes(random));
    let text = format!("run_{}", ulid.to_string().to_lowercase());
    text.parse().map_err(|error: wfhost_core::BadRunId| NoRandom(error.to_string()))
}
