//! What runs may spend, what they have spent, and what things cost.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use serde::Serialize;

use crate::{Failure, FailureKind, Json, Usage};

/// What a run and its children may spend together. None means no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct Budget {
    /// Input and output tokens.
    #[n(0)]
    pub tokens: Option<u64>,
    /// Millionths of a US dollar.
    #[n(1)]
    pub micros: Option<u64>,
    /// Milliseconds since the run began.
    #[n(2)]
    pub time_ms: Option<u64>,
}

/// What was spent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct Spent {
    #[n(0)]
    pub tokens: u64,
    #[n(1)]
    pub micros: u64,
    /// Milliseconds since the run began; not added up.
    #[n(2)]
    pub time_ms: u64,
}

impl Spent {
    /// What one attempt consumed. Cached tokens are among the input tokens.
    pub fn of(usage: &Usage) -> Self {
        Self {
            tokens: usage.input_tokens.saturating_add(usage.output_tokens),
            micros: usage.cost_micros,
            time_ms: 0,
        }
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            micros: self.micros.saturating_add(other.micros),
            time_ms: self.time_ms.max(other.time_ms),
        }
    }
}

impl Budget {
    /// Whether another call may be made after `spent`. What a call will cost is
    /// not known before, so a call is made as long as anything is left; the
    /// last one may go beyond.
    pub fn can_afford(&self, spent: Spent) -> Result<(), Short> {
        let short = |what, total: Option<u64>, spent| match total {
            Some(total) if spent >= total => Err(Short { what, total, spent }),
            _ => Ok(()),
        };
        short(Unit::Tokens, self.tokens, spent.tokens)?;
        short(Unit::Micros, self.micros, spent.micros)?;
        short(Unit::Time, self.time_ms, spent.time_ms)
    }

    /// What is left of it after `spent`.
    #[must_use]
    pub fn less(self, spent: Spent) -> Self {
        let left = |total: Option<u64>, spent| total.map(|total| total.saturating_sub(spent));
        Self {
            tokens: left(self.tokens, spent.tokens),
            micros: left(self.micros, spent.micros),
            time_ms: left(self.time_ms, spent.time_ms),
        }
    }

    /// This budget where it says something, `other` for the rest.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.or(other.tokens),
            micros: self.micros.or(other.micros),
            time_ms: self.time_ms.or(other.time_ms),
        }
    }
}

/// What a budget counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Tokens,
    Micros,
    Time,
}

/// A call that cannot be afforded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the budget of {} is used up ({} are spent)", spell(*what, *total), spell(*what, *spent))]
pub struct Short {
    pub what: Unit,
    pub total: u64,
    pub spent: u64,
}

impl From<Short> for Failure {
    fn from(short: Short) -> Self {
        let unit = match short.what {
            Unit::Tokens => "tokens",
            Unit::Micros => "cost_micros",
            Unit::Time => "time_ms",
        };
        let details = serde_json::json!({ "unit": unit, "total": short.total, "spent": short.spent });
        Self {
            details: Some(Json::from(details)),
            ..Self::new(FailureKind::BudgetExceeded, short.to_string())
        }
    }
}

fn spell(unit: Unit, amount: u64) -> String {
    match unit {
        Unit::Tokens => format!("{amount} tokens"),
        Unit::Micros => format!("{}.{:06} dollars", amount / 1_000_000, amount % 1_000_000),
        Unit::Time => crate::spell_millis(amount),
    }
}

/// What a model costs, in millionths of a US dollar for a million tokens, so
/// that 1 is a dollar for a million millions and 1,000,000 a dollar for a million.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Price {
    pub input: u64,
    pub output: u64,
    /// Input that the provider had in its cache; that of `input` if none.
    pub cached: Option<u64>,
}

impl Price {
    /// The cost of `usage` in millionths of a dollar, rounded up.
    pub fn cost_micros(&self, usage: &Usage) -> u64 {
        let cached = usage.cached_tokens.min(usage.input_tokens);
        let fresh = usage.input_tokens - cached;
        let part = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let sum = part(fresh, self.input)
            .saturating_add(part(cached, self.cached.unwrap_or(self.input)))
            .saturating_add(part(usage.output_tokens, self.output));
        u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

/// What the models of the providers cost.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Prices(BTreeMap<String, Price>);

impl Prices {
    /// `pattern` is `model` or `provider/model`; a `*` at its end stands for
    /// anything that follows.
    pub fn set(&mut self, pattern: impl Into<String>, price: Price) {
        self.0.insert(pattern.into(), price);
    }

    /// The price of a model: that of the longest pattern that fits, those with
    /// a provider before those without.
    pub fn of(&self, provider: &str, model: &str) -> Option<Price> {
        let fits = |name: &str, pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        let exactness = |pattern: &str| (!pattern.ends_with('*'), pattern.len());
        let own = self.0.iter().filter_map(|(pattern, price)| {
            let rest = pattern.strip_prefix(provider)?.strip_prefix('/')?;
            fits(model, rest).then_some((exactness(pattern), price))
        });
        let general = self
            .0
            .iter()
            .filter_map(|(pattern, price)| fits(model, pattern).then_some((exactness(pattern), price)));
        own.max_by_key(|(rank, _)| *rank)
            .or_else(|| general.max_by_key(|(rank, _)| *rank))
            .map(|(_, price)| *price)
    }

    /// `usage` with its cost: what the provider said, else what the table says.
    pub fn priced(&self, provider: &str, model: Option<&str>, usage: Usage) -> Usage {
        if usage.cost_micros > 0 {
            return usage;
        }
        let price = self.of(provider, model.unwrap_or_default());
        Usage { cost_micros: price.map_or(0, |price| price.cost_micros(&usage)), ..usage }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usage(input: u64, output: u64, cached: u64) -> Usage {
        Usage { input_tokens: input, output_tokens: output, cached_tokens: cached, cost_micros: 0 }
    }

    #[test]
    fn a_call_is_made_while_anything_is_left() {
        let budget = Budget { tokens: Some(100), micros: None, time_ms: None };
        assert!(budget.can_afford(Spent { tokens: 99, micros: 1 << 40, time_ms: 0 }).is_ok());
        let short = budget.can_afford(Spent { tokens: 100, micros: 0, time_ms: 0 }).unwrap_err();
        assert_eq!(short.to_string(), "the budget of 100 tokens is used up (100 tokens are spent)");
        assert_eq!(Failure::from(short).kind, FailureKind::BudgetExceeded);
        let money = Budget { tokens: None, micros: Some(500_000), time_ms: None };
        let short = money.can_afford(Spent { tokens: 0, micros: 512_345, time_ms: 0 }).unwrap_err();
        assert_eq!(
            short.to_string(),
            "the budget of 0.500000 dollars is used up (0.512345 dollars are spent)"
        );
        assert!(
            Budget::default().can_afford(Spent { tokens: u64::MAX, micros: u64::MAX, time_ms: 0 }).is_ok()
        );
    }

    #[test]
    fn raising_the_budget_lets_calls_go_on() {
        let spent = Spent { tokens: 100, micros: 0, time_ms: 0 };
        assert!(Budget { tokens: Some(50), micros: None, time_ms: None }.can_afford(spent).is_err());
        assert!(Budget { tokens: Some(101), micros: None, time_ms: None }.can_afford(spent).is_ok());
    }

    #[test]
    fn time_is_a_budget_too() {
        let budget = Budget { time_ms: Some(60_000), ..Budget::default() };
        assert!(budget.can_afford(Spent { time_ms: 59_999, ..Spent::default() }).is_ok());
        let short = budget.can_afford(Spent { time_ms: 61_000, ..Spent::default() }).unwrap_err();
        assert_eq!(short.to_string(), "the budget of 1m is used up (1m 1s are spent)");
        let raised = Budget { tokens: Some(1), ..Budget::default() }.or(budget);
        assert_eq!(raised, Budget { tokens: Some(1), micros: None, time_ms: Some(60_000) });
    }

    #[test]
    fn the_most_exact_price_holds() {
        let price = |input| Price { input, output: 0, cached: None };
        let mut prices = Prices::default();
        prices.set("*", price(1));
        prices.set("gpt-5*", price(2));
        prices.set("gpt-5-mini", price(3));
        prices.set("azure/gpt-5*", price(4));
        let of = |provider, model| prices.of(provider, model).map(|price| price.input);
        assert_eq!(of("openai", "gpt-5-mini"), Some(3));
        assert_eq!(of("openai", "gpt-5-nano"), Some(2));
        assert_eq!(of("azure", "gpt-5-mini"), Some(4));
        assert_eq!(of("openai", "o9"), Some(1));
        assert_eq!(Prices::default().of("openai", "o9"), None);
    }

    #[test]
    fn costs_are_rounded_up_and_cached_input_is_cheaper() {
        // 3 dollars in, 15 out, 30 cents from the cache.
        let price = Price { input: 3_000_000, output: 15_000_000, cached: Some(300_000) };
        assert_eq!(price.cost_micros(&usage(1_000, 100, 0)), 4_500);
        assert_eq!(price.cost_micros(&usage(1_000, 100, 1_000)), 1_800);
        assert_eq!(Price { input: 1, ..Price::default() }.cost_micros(&usage(1, 0, 0)), 1);
        let mut prices = Prices::default();
        prices.set("m", price);
        assert_eq!(prices.priced("p", Some("m"), usage(1_000, 0, 0)).cost_micros, 3_000);
        let told = Usage { cost_micros: 7, ..usage(1_000, 0, 0) };
        assert_eq!(prices.priced("p", Some("m"), told).cost_micros, 7);
    }

    proptest! {
        #[test]
        fn no_arithmetic_overflows(
            input: u64, output: u64, cached: u64, a: u64, b: u64, c: Option<u64>,
        ) {
            let usage = usage(input, output, cached);
            let _ = Price { input: a, output: b, cached: c }.cost_micros(&usage);
            let spent = Spent::of(&usage).plus(Spent::of(&usage));
            prop_assert!(spent.tokens >= input.max(output));
        }
    }
}
