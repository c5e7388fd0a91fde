//! How much a program computes: fuel.
//!
//! Wasm instructions cost about one unit each, and calls of the host what they
//! make the host do. A slice is what the program may use between two steps,
//! the total what it may use in its whole life.

use wfhost_core::{Failure, FailureKind, RunConfig, Sandbox};

use crate::imports::Misuse;

/// Between pre-emptions a program uses about so many units.
pub(super) const YIELD_INTERVAL: u64 = 100_000;

#[derive(Debug)]
pub(super) struct Meter {
    slice: u64,
    total: u64,
    /// What is left of the total, as of the last settlement.
    left: u64,
    /// What wasmtime was given at the last settlement.
    granted: u64,
    /// What calls of the host cost since then.
    charged: u64,
    /// A step was asked for: the next slice is due.
    refuel: bool,
    since_yield: u64,
}

impl Meter {
    pub fn new(config: &RunConfig, sandbox: &Sandbox) -> Self {
        let total = sandbox.total_fuel;
        Self {
            slice: config.fuel,
            total,
            left: total,
            granted: config.fuel.min(total),
            charged: 0,
            refuel: false,
            since_yield: 0,
        }
    }

    /// What wasmtime is given at the beginning.
    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// A call costs so many units. True if it is time to let others run.
    pub fn charge(&mut self, units: u64) -> bool {
        self.charged = self.charged.saturating_add(units);
        self.since_yield = self.since_yield.saturating_add(units);
        let due = self.since_yield >= YIELD_INTERVAL;
        if due {
            self.since_yield = 0;
        }
        due
    }

    /// The next slice is due when the host returns to the program.
    pub fn refuel(&mut self) {
        self.refuel = true;
    }

    pub fn is_due(&self) -> bool {
        self.refuel || self.charged > 0
    }

    /// Whether the total, not the slice, is what the program runs out of next.
    pub fn ends_with_total(&self) -> bool {
        self.granted >= self.left && self.left < self.slice
    }

    /// Settles what was used, given what wasmtime has left. Gives what it is
    /// given anew; that starts its interval of pre-emptions again, so what it
    /// used of that is counted here.
    pub fn settle(&mut self, remaining: u64) -> wasmtime::Result<u64> {
        let executed = self.granted.saturating_sub(remaining);
        self.since_yield = self.since_yield.saturating_add(executed);
        let charged = std::mem::take(&mut self.charged);
        self.left = self.left.saturating_sub(executed.saturating_add(charged));
        if self.left == 0 {
            return Err(Misuse(self.exhausted()).into());
        }
        self.granted = match std::mem::take(&mut self.refuel) {
            true => self.slice.min(self.left),
            false => remaining.saturating_sub(charged).min(self.left),
        };
        Ok(self.granted)
    }

    /// The failure of a program that used up its total.
    pub fn exhausted(&self) -> Failure {
        let message = format!(
            "the program used up the {} units of fuel that a run has in all; \
             end it in time with `continue-as-new`, or raise the limit (`--total-fuel`)",
            self.total
        );
        Failure::new(FailureKind::Failed, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(slice: u64, total: u64) -> Meter {
        let config = RunConfig { fuel: slice, ..RunConfig::default() };
        Meter::new(&config, &Sandbox { total_fuel: total, ..Sandbox::default() })
    }

    #[test]
    fn a_step_brings_a_new_slice_and_calls_are_paid_for() {
        let mut meter = meter(1_000, 10_000);
        meter.charge(100);
        assert_eq!(meter.settle(900).unwrap(), 800);
        meter.refuel();
        assert_eq!(meter.settle(700).unwrap(), 1_000);
        // More than there is: the next instruction is one too many.
        meter.charge(5_000);
        assert_eq!(meter.settle(1_000).unwrap(), 0);
    }

    #[test]
    fn the_total_ends_a_program_that_goes_on_asking_for_steps() {
        let mut meter = meter(1_000, 2_500);
        for _ in 0..2 {
            meter.refuel();
            assert!(!meter.ends_with_total());
            meter.settle(0).unwrap();
        }
        assert!(meter.ends_with_total());
        assert_eq!(meter.granted(), 500);
        meter.refuel();
        assert!(meter.settle(0).unwrap_err().to_string().contains("2500 units of fuel"));
    }

    #[test]
    fn others_are_let_run_however_the_work_is_divided() {
        let mut meter = meter(10_000_000, 10_000_000);
        let mut yields = 0;
        let mut remaining = meter.granted();
        for _ in 0..100 {
            // Just short of wasmtime's own interval each time.
            yields += u32::from(meter.charge(200));
            remaining = meter.settle(remaining - 60_000).unwrap();
        }
        assert!((30..=60).contains(&yields), "{yields}");
    }
}
