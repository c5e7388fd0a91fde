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
    /// last one may go beyond. Of several at the same time see [`Budget::set_aside`].
    pub fn can_afford(&self, spent: Spent) -> Result<(), Short> {
        let short = |what, total: Option<u64>, spent| match total {
            Some(total) if spent >= total => Err(Short { what, total, spent }),
            _ => Ok(()),
        };
        short(Unit::Tokens, self.tokens, spent.tokens)?;
        short(Unit::Micros, self.micros, spent.micros)?;
        short(Unit::Time, self.time_ms, spent.time_ms)
    }

    /// What is to be set aside for a call that begins after `spent`, while
    /// `reserved` is set aside for `under_way` others. None if it has to wait until
    /// one of them is settled: what is left may not be enough for all. A call
    /// that is alone is made with whatever is left. One of which nothing is
    /// known is made alone.
    ///
    /// # Errors
    ///
    /// If nothing is left.
    pub fn set_aside(
        &self,
        spent: Spent,
        reserved: Spent,
        under_way: usize,
        expected: Expected,
    ) -> Result<Option<Spent>, Short> {
        self.can_afford(spent)?;
        let left = self.less(spent);
        let free = left.less(reserved);
        let all = |total: Option<u64>| total.unwrap_or(0);
        let part = |expected: Option<u64>, left| expected.map_or(all(left), |amount| amount.max(1));
        let wanted = Spent {
            tokens: part(expected.tokens, left.tokens),
            micros: part(expected.micros, left.micros),
            time_ms: 0,
        };
        let fits = |wanted: u64, free: Option<u64>| free.is_none_or(|free| wanted <= free);
        let fits = fits(wanted.tokens, free.tokens) && fits(wanted.micros, free.micros);
        Ok((under_way == 0 || fits).then_some(wanted))
    }

    /// Whether it limits what calls consume.
    pub fn counts(&self) -> bool {
        self.tokens.is_some() || self.micros.is_some()
    }

    /// Whether it can be kept with calls to a provider that tells so much.
    /// `priced`: whether the model that is asked has a price.
    pub fn can_be_kept(&self, tells: Tells, priced: bool) -> Keeping {
        if self.micros.is_some() && tells.cost == Told::Never && !priced {
            match tells.tokens {
                // A price would do.
                Told::Always => return Keeping::NoPrice,
                Told::Maybe | Told::Never => return Keeping::Blind(Unit::Micros),
            }
        }
        match self.tokens.is_some() && tells.tokens == Told::Never {
            true => Keeping::Blind(Unit::Tokens),
            false => Keeping::Kept,
        }
    }

    /// Whether it counted a call by what came with its answer. `priced`: whether the model that
    /// answered has a price.
    pub fn counted(&self, usage: Option<&Usage>, priced: bool) -> Keeping {
        let tokens = usage.is_some_and(|usage| Spent::of(usage).tokens > 0);
        let cost = usage.is_some_and(|usage| usage.cost_micros > 0);
        match (self.micros.is_some() && !cost, tokens) {
            (true, false) => Keeping::Blind(Unit::Micros),
            (true, true) if !priced => Keeping::NoPrice,
            _ if self.tokens.is_some() && !tokens => Keeping::Blind(Unit::Tokens),
            _ => Keeping::Kept,
        }
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

    /// The first where it says something, the other for the rest: what a run is given, and what is configured.
    pub fn merged(first: Option<Self>, rest: Option<Self>) -> Option<Self> {
        match (first, rest) {
            (Some(first), Some(rest)) => Some(first.or(rest)),
            (first, rest) => first.or(rest),
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

/// What a call is expected to consume; none if that is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Expected {
    pub tokens: Option<u64>,
    pub micros: Option<u64>,
}

impl Expected {
    /// Of a call that is the first of its kind here. An answer is bounded by
    /// `most_tokens`, if anything; `text_bytes` are what is asked.
    pub fn first(most_tokens: Option<u64>, text_bytes: usize, tells: Tells, price: Option<Price>) -> Self {
        // What is never told is never counted.
        let nothing = (tells.tokens == Told::Never).then_some(0);
        let output = most_tokens.map(|most| Usage {
            // A token has three bytes or more in nearly all texts.
            input_tokens: text_bytes as u64 / 3 + 1,
            output_tokens: most,
            ..Usage::default()
        });
        let micros = output.zip(price).map(|(usage, price)| price.cost_micros(&usage));
        Self {
            tokens: output.map(|usage| Spent::of(&usage).tokens).or(nothing),
            micros: micros.or(nothing.filter(|_| tells.cost == Told::Never)),
        }
    }
}

/// How many tokens an answer may have, by the options of a call.
pub fn most_tokens(options: &serde_json::Value) -> Option<u64> {
    let names = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    names.iter().find_map(|name| options.get(name)?.as_u64())
}

/// The most that calls consumed lately: the largest, forgotten little by little.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usual(Spent);

impl Usual {
    pub fn new(spent: Spent) -> Self {
        Self(Spent { time_ms: 0, ..spent })
    }

    /// Another call consumed that.
    #[must_use]
    pub fn and(self, spent: Spent) -> Self {
        let next = |usual: u64, new: u64| new.max(usual - usual.saturating_sub(new) / 8);
        let Self(usual) = self;
        let (tokens, micros) = (next(usual.tokens, spent.tokens), next(usual.micros, spent.micros));
        Self(Spent { tokens, micros, time_ms: 0 })
    }

    pub fn expected(self) -> Expected {
        Expected { tokens: Some(self.0.tokens), micros: Some(self.0.micros) }
    }
}

/// Whether something is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Told {
    Always,
    /// It depends on the other side.
    #[default]
    Maybe,
    Never,
}

/// What a provider tells of what a call consumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tells {
    pub tokens: Told,
    /// What it cost, without a table of prices.
    pub cost: Told,
}

impl Tells {
    pub const NOTHING: Self = Self { tokens: Told::Never, cost: Told::Never };
    pub const TOKENS: Self = Self { tokens: Told::Always, cost: Told::Never };
}

/// Whether a budget can be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeping {
    /// As far as the provider tells what it could.
    Kept,
    /// Tokens are told, and nobody knows what they cost.
    NoPrice,
    /// What the provider's calls consume is not told, so it is not counted.
    Blind(Unit),
}

/// What a budget counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Tokens,
    Micros,
    Time,
}

/// As people call it.
impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tokens => "tokens",
            Self::Micros => "dollars",
            Self::Time => "time",
        })
    }
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

    /// `usage` with its cost: what the provider said, else what the table says
    /// of the first of the models that it knows. Models are those that answered
    /// and that were asked for: services answer with longer names.
    pub fn priced<'a>(
        &self,
        provider: &str,
        models: impl IntoIterator<Item = &'a str>,
        usage: Usage,
    ) -> Usage {
        if usage.cost_micros > 0 {
            return usage;
        }
        let price = self.of_any(provider, models);
        Usage { cost_micros: price.map_or(0, |price| price.cost_micros(&usage)), ..usage }
    }

    /// The price of the first of the models that has one.
    pub fn of_any<'a>(&self, provider: &str, models: impl IntoIterator<Item = &'a str>) -> Option<Price> {
        if self.0.is_empty() {
            return None;
        }
        // Without a model, a price that holds for all of them.
        models.into_iter().find_map(|model| self.of(provider, model)).or_else(|| self.of(provider, ""))
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

    fn expected(tokens: u64) -> Expected {
        Expected { tokens: Some(tokens), micros: Some(0) }
    }

    #[test]
    fn calls_wait_when_what_is_left_is_not_enough_for_all() {
        let budget = Budget { tokens: Some(100), ..Budget::default() };
        let spent = |tokens| Spent { tokens, ..Spent::default() };
        let aside = |used, reserved, under_way, expected| {
            budget
                .set_aside(spent(used), spent(reserved), under_way, expected)
                .map(|aside| aside.map(|s| s.tokens))
        };
        assert_eq!(aside(0, 60, 1, expected(40)), Ok(Some(40)));
        assert_eq!(aside(0, 60, 1, expected(41)), Ok(None));
        assert_eq!(aside(90, 0, 0, expected(41)), Ok(Some(41)), "the last one may go beyond");
        assert!(aside(100, 0, 0, expected(1)).is_err());
        // Something is set aside for each; one that nothing is known of goes alone.
        assert_eq!(aside(0, 99, 1, expected(0)), Ok(Some(1)));
        assert_eq!(aside(0, 1, 1, Expected::default()), Ok(None));
        assert_eq!(aside(30, 0, 0, Expected::default()), Ok(Some(70)));
        assert_eq!(aside(30, 70, 1, expected(1)), Ok(None));
    }

    #[test]
    fn what_a_call_consumes_is_expected_of_the_next() {
        let spent = |tokens| Spent { tokens, ..Spent::default() };
        let usual = Usual::new(spent(80)).and(spent(800));
        assert_eq!(usual.expected().tokens, Some(800));
        assert_eq!(usual.and(spent(0)).expected().tokens, Some(700));
        let price = Price { input: 1_000_000, output: 2_000_000, cached: None };
        let first = Expected::first(Some(500), 30, Tells::TOKENS, Some(price));
        assert_eq!(first, Expected { tokens: Some(511), micros: Some(1_011) });
        assert_eq!(Expected::first(None, 30, Tells::TOKENS, None), Expected::default());
        let nothing = Expected { tokens: Some(0), micros: Some(0) };
        assert_eq!(Expected::first(None, 30, Tells::NOTHING, None), nothing);
    }

    #[test]
    fn a_budget_that_cannot_be_kept_is_told_apart() {
        let money = Budget { micros: Some(1), ..Budget::default() };
        let tokens = Budget { tokens: Some(1), ..Budget::default() };
        assert_eq!(money.can_be_kept(Tells::TOKENS, false), Keeping::NoPrice);
        assert_eq!(money.can_be_kept(Tells::TOKENS, true), Keeping::Kept);
        assert_eq!(money.can_be_kept(Tells::NOTHING, false), Keeping::Blind(Unit::Micros));
        assert_eq!(money.can_be_kept(Tells::default(), false), Keeping::Kept);
        assert_eq!(tokens.can_be_kept(Tells::NOTHING, true), Keeping::Blind(Unit::Tokens));
        assert_eq!(tokens.can_be_kept(Tells::TOKENS, false), Keeping::Kept);
        assert_eq!(Budget::default().can_be_kept(Tells::NOTHING, false), Keeping::Kept);
    }

    #[test]
    fn whether_a_call_was_counted_is_told_by_its_answer() {
        let tokens = Budget { tokens: Some(1), ..Budget::default() };
        let money = Budget { micros: Some(1), ..Budget::default() };
        let told = usage(10, 1, 0);
        let paid = Usage { cost_micros: 5, ..Usage::default() };
        assert_eq!(tokens.counted(None, true), Keeping::Blind(Unit::Tokens));
        assert_eq!(tokens.counted(Some(&paid), true), Keeping::Blind(Unit::Tokens));
        assert_eq!(tokens.counted(Some(&told), false), Keeping::Kept);
        assert_eq!(money.counted(None, true), Keeping::Blind(Unit::Micros));
        assert_eq!(money.counted(Some(&Usage::default()), true), Keeping::Blind(Unit::Micros));
        assert_eq!(money.counted(Some(&told), false), Keeping::NoPrice);
        // The price may be nothing.
        assert_eq!(money.counted(Some(&told), true), Keeping::Kept);
        assert_eq!(money.counted(Some(&paid), false), Keeping::Kept);
        assert_eq!(Budget::default().counted(None, false), Keeping::Kept);
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
        assert_eq!(prices.priced("p", ["m-2026", "m"], usage(1_000, 0, 0)).cost_micros, 3_000);
        let told = Usage { cost_micros: 7, ..usage(1_000, 0, 0) };
        assert_eq!(prices.priced("p", ["m"], told).cost_micros, 7);
    }

    proptest! {
        /// Calls of which each consumes at most what was consumed before, and at most `many` at once.
        #[test]
        fn parallel_calls_overspend_by_one_at_most(
            total in 1_u64..5_000, costs in prop::collection::vec(1_u64..300, 1..60), many in 1_usize..40,
        ) {
            let budget = Budget { tokens: Some(total), ..Budget::default() };
            let largest = costs.iter().copied().max().unwrap_or(0);
            let spend = |tokens| Spent { tokens, ..Spent::default() };
            let mut usual = None::<Usual>;
            let (mut spent, mut reserved) = (Spent::default(), Spent::default());
            let mut under_way = std::collections::VecDeque::new();
            // The dearest first: none costs more than is expected of it.
            let mut costs = costs;
            costs.sort_unstable_by(|a, b| b.cmp(a));
            let mut waiting = costs.into_iter().peekable();
            loop {
                let expected = usual.map(Usual::expected).unwrap_or_default();
                let aside = budget.set_aside(spent, reserved, under_way.len(), expected);
                if under_way.len() < many && let Ok(Some(aside)) = aside && let Some(cost) = waiting.next() {
                    reserved = reserved.plus(aside);
                    under_way.push_back((cost, aside));
                } else if let Some((cost, aside)) = under_way.pop_front() {
                    spent = spent.plus(spend(cost));
                    reserved = spend(reserved.tokens - aside.tokens);
                    usual = Some(usual.map_or(Usual::new(spend(cost)), |usual| usual.and(spend(cost))));
                } else {
                    // Nothing goes on: all are made, or nothing is left.
                    prop_assert!(waiting.peek().is_none() || spent.tokens >= total);
                    break;
                }
            }
            prop_assert!(spent.tokens < total + largest);
        }

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
