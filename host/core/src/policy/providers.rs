//! Who answers an attempt.

use std::collections::BTreeSet;

/// The provider of attempt `attempt` (counted from 1): the n-th of the list,
/// the last one for all attempts beyond its end. One that is out, because it
/// had an authentication failure, is skipped: the next one after it, else the
/// nearest one before it. None if all are out or the list is empty.
pub fn for_attempt<'a>(list: &'a [String], attempt: u32, out: &BTreeSet<String>) -> Option<&'a str> {
    let last = list.len().checked_sub(1)?;
    let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX).min(last);
    let is_in = |name: &&String| !out.contains(*name);
    let after = list[index..].iter().find(is_in);
    after.or_else(|| list[..index].iter().rev().find(is_in)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(attempt: u32, out: &[&str]) -> Option<String> {
        let list = ["a", "b", "c"].map(str::to_owned);
        let out = out.iter().map(|name| (*name).to_owned()).collect();
        for_attempt(&list, attempt, &out).map(str::to_owned)
    }

    #[test]
    fn attempt_n_goes_to_the_nth_and_the_rest_to_the_last() {
        let names: Vec<_> = (1..=5).filter_map(|n| chosen(n, &[])).collect();
        assert_eq!(names, ["a", "b", "c", "c", "c"]);
    }

    #[test]
    fn one_that_is_out_is_skipped() {
        assert_eq!(chosen(1, &["a"]).as_deref(), Some("b"));
        assert_eq!(chosen(2, &["a"]).as_deref(), Some("b"));
        assert_eq!(chosen(3, &["c"]).as_deref(), Some("b"));
        assert_eq!(chosen(9, &["b", "c"]).as_deref(), Some("a"));
        assert_eq!(chosen(1, &["a", "b", "c"]), None);
        assert_eq!(for_attempt(&[], 1, &BTreeSet::new()), None);
    }
}
