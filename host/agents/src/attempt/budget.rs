//! Whether the budget of a run can be kept with an attempt.

use wfhost_core::policy::budget::{self, Budget, Expected, Keeping, Unit};
use wfhost_core::{Failure, FailureKind, Json, Reply, TranscriptKind};

use super::Attempt;
use crate::CallFailure;
use crate::ledger::Reservation;

/// The codes of budgets that cannot be kept.
const NO_PRICE: &str = "WF0408";
const NOT_COUNTED: &str = "WF0409";

impl Attempt {
    /// What the call is expected to consume.
    pub(super) fn expected(&self) -> Expected {
        let name = self.provider.name();
        if let Some(usual) = self.gate.ledger.usual(name) {
            return usual;
        }
        let request = &self.call.request;
        let text = |json: &Option<Json>| json.as_ref().map_or(0, |json| json.as_str().len());
        let bytes = request.prompt.len() + text(&request.input) + text(&request.schema);
        let options = request.options.as_ref().map(Json::value).unwrap_or_default();
        let most = budget::most_tokens(&options).or(self.provider.most_tokens());
        // What a conversation adds is not known.
        let most = most.filter(|_| request.session.is_none());
        let price = self.policy.prices.of_any(name, self.models());
        Expected::first(most, bytes, self.provider.tells(), price)
    }

    /// Whether the budget can be kept with calls to this provider. If they are
    /// not counted, that is said once.
    pub(super) fn keeps_to(&self, aside: &Reservation) -> Result<(), CallFailure> {
        let name = self.provider.name();
        let price = || self.policy.prices.of_any(name, self.models());
        let budget = aside.budget();
        let priced = budget.micros.is_some() && price().is_some();
        let found = budget.micros.and_then(|_| self.gate.ledger.uncounted(aside.root(), name));
        match found {
            Some(Keeping::NoPrice) if !priced => return Err(no_price(name, self.models().next(), budget)),
            Some(Keeping::Blind(_)) => return Err(not_told(name, budget)),
            _ => {}
        }
        match budget.can_be_kept(self.provider.tells(), priced) {
            Keeping::Kept => Ok(()),
            Keeping::NoPrice => Err(no_price(name, self.models().next(), budget)),
            Keeping::Blind(unit) => {
                if self.gate.ledger.warns(aside.root(), name) {
                    let text = format!(
                        "warning: the budget of {unit} does not count the calls of {name}, which does not report \
                         usage ({NOT_COUNTED})"
                    );
                    self.recorder.note(TranscriptKind::Progress, text);
                }
                Ok(())
            }
        }
    }

    /// Looks whether the budget counted a call that was answered. If not, that is said once, and a
    /// budget in dollars allows no other call of the provider.
    pub(super) fn judge(&self, aside: &Reservation, reply: &Reply) {
        let (name, budget) = (self.provider.name(), aside.budget());
        let priced = |models: &mut dyn Iterator<Item = &str>| {
            budget.micros.is_some() && self.policy.prices.of_any(name, models).is_some()
        };
        let known = budget.can_be_kept(self.provider.tells(), priced(&mut self.models()));
        let mut models = reply.model.as_deref().into_iter().chain(self.models());
        let found = budget.counted(reply.usage.as_ref(), priced(&mut models));
        // What is known of a provider before was said before its first call.
        if matches!(known, Keeping::Blind(_)) || found == Keeping::Kept {
            return;
        }
        let (unit, what, more) = match found {
            Keeping::Blind(Unit::Tokens) => (Unit::Tokens, "its usage", String::new()),
            Keeping::Blind(_) => {
                (Unit::Micros, "its usage", format!("; no further call is made ({NO_PRICE})"))
            }
            _ => (
                Unit::Micros,
                "its cost, and whose model has no price",
                format!("; no further call is made ({NO_PRICE})"),
            ),
        };
        if unit == Unit::Micros {
            self.gate.ledger.cannot_count(aside.root(), name, found);
        }
        if self.gate.ledger.warns(aside.root(), name) {
            let text = format!(
                "warning: the budget of {unit} did not count this call of {name}, which did not report {what} \
                 ({NOT_COUNTED}){more}"
            );
            self.recorder.note(TranscriptKind::Progress, text);
        }
    }
}

/// A budget of money that nobody can keep: no call is made.
fn no_price(provider: &str, model: Option<&str>, budget: Budget) -> CallFailure {
    let pattern = model.map_or(format!("{provider}/*"), str::to_owned);
    let message = format!(
        "the budget in dollars cannot be enforced: {provider} does not report costs, and {} has no price; \
         add [prices.{pattern:?}] to wfhost.toml, or give the run a budget of tokens ({NO_PRICE})",
        model.map_or("its model".to_owned(), |model| format!("`{model}`")),
    );
    let details = serde_json::json!({
        "code": NO_PRICE, "unit": "cost_micros", "total": budget.micros, "provider": provider, "model": model,
    });
    let failure =
        Failure { details: Some(Json::from(details)), ..Failure::new(FailureKind::BudgetExceeded, message) };
    failure.into()
}

/// The same after a call that did not tell what it consumed: a price would not help.
fn not_told(provider: &str, budget: Budget) -> CallFailure {
    let message = format!(
        "the budget in dollars cannot be enforced: a call of {provider} reported no usage; make it report usage, \
         or start a run without a budget in dollars ({NO_PRICE})"
    );
    let details = serde_json::json!({
        "code": NO_PRICE, "unit": "cost_micros", "total": budget.micros, "provider": provider,
    });
    let failure =
        Failure { details: Some(Json::from(details)), ..Failure::new(FailureKind::BudgetExceeded, message) };
    failure.into()
}
