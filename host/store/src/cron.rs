//! The times of a cron expression in a time zone, also where its clocks change.
//!
//! An expression that names hours stands for times of the day, and each of them
//! counts once: one that the clocks leave out as much later as they are put
//! forward, one that they repeat the first time. An expression for all hours
//! (`*`) goes on through a change as the time does: nothing is left out or
//! waits for an hour.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp as Instant, ToSpan};

/// Clocks are hardly changed by more than a day.
const CHANGE: i64 = 25;
/// Changes that are looked through for a time: those of some decades.
const CHANGES: usize = 200;

/// An expression and its zone.
pub(crate) struct Cron {
    /// As if its zone had no changes.
    times: cronexpr::Crontab,
    zone: TimeZone,
    all_hours: bool,
}

/// Why an expression is invalid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NoCron {
    Zone,
    Syntax(String),
}

impl Cron {
    /// Reads five fields and the name of a zone.
    pub fn parse(text: &str) -> Result<Self, NoCron> {
        let (expression, zone) = text.trim().rsplit_once(char::is_whitespace).unwrap_or((text, ""));
        let zone = TimeZone::get(zone).map_err(|_| NoCron::Zone)?;
        let times = cronexpr::parse_crontab(&format!("{expression} UTC")).map_err(|error| {
            let reason = error.to_string();
            NoCron::Syntax(reason.lines().last().unwrap_or_default().trim().to_owned())
        })?;
        let hours = expression.split_whitespace().nth(1);
        Ok(Self { times, zone, all_hours: matches!(hours, Some("*" | "*/1")) })
    }

    /// The first time after `time`.
    pub fn next_after(&self, time: Instant) -> Option<Instant> {
        if self.all_hours { self.next_of_all_hours(time) } else { self.next_of_day(time) }
    }

    /// The first civil time of the expression after that.
    fn next_civil(&self, after: DateTime) -> Option<DateTime> {
        let after = TimeZone::UTC.to_timestamp(after).ok()?;
        // Four years are looked through at once, and eight pass without a leap year about 2100.
        [0, 4, 8].into_iter().find_map(|years: i64| {
            let after = after.checked_add((years * 365 * 24).hours()).ok()?;
            let next = self.times.find_next(cronexpr::MakeTimestamp(after)).ok()?;
            Some(next.datetime())
        })
    }

    /// Between two changes, clocks and time go together.
    fn next_of_all_hours(&self, time: Instant) -> Option<Instant> {
        let mut offset = self.zone.to_offset(time);
        let mut after = offset.to_datetime(time);
        let mut changes = self.zone.following(time).map(|change| change.timestamp());
        for _ in 0..CHANGES {
            let next = offset.to_timestamp(self.next_civil(after)?).ok()?;
            match changes.next() {
                Some(change) if next >= change => {
                    // What the clocks show from then on; the first of it counts, too.
                    offset = self.zone.to_offset(change);
                    after = offset.to_datetime(change).checked_sub(1.nanosecond()).ok()?;
                }
                _ => return Some(next),
            }
        }
        None
    }

    /// The instant of a time of the day.
    fn instant(&self, civil: DateTime) -> Option<Instant> {
        // The first of two; as much later as the clocks are put forward.
        self.zone.to_ambiguous_timestamp(civil).compatible().ok()
    }

    fn next_of_day(&self, time: Instant) -> Option<Instant> {
        let around: Span = CHANGE.hours();
        let here = self.zone.to_datetime(time);
        let next = self.next_civil(here)?;
        let at = self.instant(next)?;
        let from = time.checked_sub(around).ok()?;
        let quiet = |change: jiff::tz::TimeZoneTransition<'_>| {
            at.checked_add(around).is_ok_and(|until| change.timestamp() > until)
        };
        if at > time && self.zone.following(from).next().is_none_or(quiet) {
            return Some(at);
        }
        // Near a change the order of civil times is not that of time.
        let mut best = Some(at).filter(|at| *at > time);
        let mut civil = here.checked_sub(around).ok()?;
        while let Some(next) = self.next_civil(civil) {
            civil = next;
            let at = self.instant(next)?;
            if let Some(best) = best
                && self.zone.to_datetime(best).checked_add(around).ok()? < next
            {
                break;
            }
            if at > time && best.is_none_or(|best| at < best) {
                best = Some(at);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Instant {
        text.parse().unwrap()
    }

    /// The times of an expression in a span, in UTC.
    fn times(expression: &str, zone: &str, from: &str, to: &str) -> Vec<Instant> {
        let cron = Cron::parse(&format!("{expression} {zone}")).unwrap();
        let first = cron.next_after(at(from));
        std::iter::successors(first, |time| cron.next_after(*time))
            .take_while(|time| *time < at(to))
            .collect()
    }

    fn clocks(expression: &str, zone: &str, day: &str) -> Vec<String> {
        let tz = TimeZone::get(zone).unwrap();
        let day: jiff::civil::Date = day.parse().unwrap();
        let begin = tz.to_timestamp(day.at(0, 0, 0, 0)).unwrap();
        let end = tz.to_timestamp(day.tomorrow().unwrap().at(0, 0, 0, 0)).unwrap();
        let before = begin.checked_sub(1.second()).unwrap();
        let times = times(expression, zone, &before.to_string(), &end.to_string());
        times.into_iter().map(|time| time.to_zoned(tz.clone()).strftime("%H:%M%:z").to_string()).collect()
    }

    const BERLIN: (&str, [&str; 2]) = ("Europe/Berlin", ["2026-03-29", "2026-10-25"]);
    const NEW_YORK: (&str, [&str; 2]) = ("America/New_York", ["2026-03-08", "2026-11-01"]);
    // By half an hour, in the other half of the year.
    const LORD_HOWE: (&str, [&str; 2]) = ("Australia/Lord_Howe", ["2026-10-04", "2026-04-05"]);

    #[test]
    fn a_time_of_the_day_counts_once_when_it_is_left_out_or_repeated() {
        let (berlin, [spring, autumn]) = BERLIN;
        assert_eq!(clocks("30 2 * * *", berlin, spring), ["03:30+02:00"]);
        assert_eq!(clocks("30 2 * * *", berlin, autumn), ["02:30+02:00"]);
        assert_eq!(clocks("0 2 * * *", berlin, spring), ["03:00+02:00"]);
        assert_eq!(clocks("0 2 * * *", berlin, autumn), ["02:00+02:00"]);
        assert_eq!(clocks("0 3 * * *", berlin, autumn), ["03:00+01:00"]);
        assert_eq!(clocks("15,45 2 * * *", berlin, spring), ["03:15+02:00", "03:45+02:00"]);
        assert_eq!(clocks("*/20 2 * * *", berlin, spring), ["03:00+02:00", "03:20+02:00", "03:40+02:00"]);
        assert_eq!(clocks("*/20 2 * * *", berlin, autumn), ["02:00+02:00", "02:20+02:00", "02:40+02:00"]);
        let (new_york, [spring, autumn]) = NEW_YORK;
        assert_eq!(clocks("30 2 * * *", new_york, spring), ["03:30-04:00"]);
        assert_eq!(clocks("30 1 * * *", new_york, autumn), ["01:30-04:00"]);
        assert_eq!(clocks("59 23 * * 0", new_york, autumn), ["23:59-05:00"]);
        let (lord_howe, [spring, autumn]) = LORD_HOWE;
        assert_eq!(clocks("15 2 * * *", lord_howe, spring), ["02:45+11:00"]);
        assert_eq!(clocks("45 1 * * *", lord_howe, autumn), ["01:45+11:00"]);
        assert_eq!(clocks("0 2 * * *", lord_howe, autumn), ["02:00+10:30"]);
    }

    #[test]
    fn each_of_several_hours_counts_once() {
        let (berlin, [spring, autumn]) = BERLIN;
        let hours = ["01:30+01:00", "03:30+02:00", "04:30+02:00"];
        assert_eq!(clocks("30 1,2,4 * * *", berlin, spring), hours);
        let hours = ["01:30+02:00", "02:30+02:00", "03:30+01:00"];
        assert_eq!(clocks("30 1-3 * * *", berlin, autumn), hours);
        assert_eq!(clocks("0 */2 * * *", berlin, autumn).len(), 12);
        assert_eq!(clocks("0 */2 * * *", berlin, spring).len(), 12);
    }

    #[test]
    fn what_goes_on_through_all_hours_goes_on_through_a_change() {
        for (zone, days) in [BERLIN, NEW_YORK] {
            for (day, hours) in days.into_iter().zip([23, 25]) {
                assert_eq!(clocks("0 * * * *", zone, day).len(), hours, "{zone} {day}");
                assert_eq!(clocks("*/15 * * * *", zone, day).len(), hours * 4, "{zone} {day}");
                assert_eq!(clocks("* * * * *", zone, day).len(), hours * 60, "{zone} {day}");
            }
        }
        let (lord_howe, days) = LORD_HOWE;
        for (day, halves) in days.into_iter().zip([47, 49]) {
            assert_eq!(clocks("*/30 * * * *", lord_howe, day).len(), halves, "{day}");
        }
        // The time at which the clocks go on is one of its times, too.
        assert!(clocks("0 * * * *", "Europe/Berlin", "2026-03-29").contains(&"03:00+02:00".to_owned()));
        let ends = clocks("0 * * * *", "Europe/Berlin", "2026-10-25");
        assert_eq!(ends[2..4], ["02:00+02:00", "02:00+01:00"]);
    }

    #[test]
    fn times_only_go_forward_and_each_day_has_its_own() {
        let expressions = [
            "30 2 * * *",
            "0 0 * * *",
            "15,45 1-3 * * *",
            "0 */6 * * *",
            "5 4 1 * *",
            "30 1 * * 0",
            "7 * * * *",
        ];
        let zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "UTC"];
        for zone in zones {
            for expression in expressions {
                let times = times(expression, zone, "2025-12-31T12:00:00Z", "2027-01-01T12:00:00Z");
                assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{expression} {zone}");
                if expression == "30 2 * * *" {
                    assert_eq!(times.len(), 366, "{zone}");
                }
                // Whatever time one asks after, the next one is the same.
                let cron = Cron::parse(&format!("{expression} {zone}")).unwrap();
                for pair in times.windows(2).step_by(17) {
                    let between = pair[1].checked_sub(1.second()).unwrap();
                    assert_eq!(cron.next_after(between), Some(pair[1]), "{expression} {zone}");
                }
            }
        }
    }

    #[test]
    fn what_is_none_is_told() {
        assert!(matches!(Cron::parse("61 * * * * UTC"), Err(NoCron::Syntax(_))));
        assert!(matches!(Cron::parse("* * * * * Mars/Base"), Err(NoCron::Zone)));
        let never = Cron::parse("0 0 31 2 * UTC").unwrap();
        assert_eq!(never.next_after(at("2026-01-01T00:00:00Z")), None);
    }
}
