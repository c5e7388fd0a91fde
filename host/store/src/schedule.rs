//! Runs that begin at times: what a schedule says, and what is to be done
//! when one is due. Which host begins the run is decided by the store.

use std::fmt;
use std::str::FromStr;

use wfhost_core::{Digest, Json, Machine, Row, RunConfig, RunId, Started, Timestamp, limits, spell_millis};
use wfhost_world::{NoRandom, fresh_id, fresh_seed};

use crate::NewRun;
use crate::cron::{Cron, NoCron};

/// A firing that is later than this was missed.
const LATE_MS: u64 = 60_000;
/// The shortest time between two firings.
pub const SHORTEST_MS: u64 = 1_000;

/// When runs begin, and of what.
#[derive(Clone, PartialEq, Debug)]
pub struct Schedule {
    pub name: String,
    pub when: When,
    pub overlap: Overlap,
    pub catch_up: CatchUp,
    pub workflow: String,
    pub module: Digest,
    pub input: Json,
    pub labels: Vec<(String, String)>,
    pub config: RunConfig,
    pub created_at: Timestamp,
    /// The time that it fires at next; none while it is paused.
    pub next_at: Option<Timestamp>,
    /// How many runs it has begun, and the last of them.
    pub fired: u64,
    pub last: Option<RunId>,
}

/// The times of a schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum When {
    /// Five fields of cron and a time zone: `0 9 * * 1-5 Europe/Berlin`.
    Cron(String),
    /// Again and again after so many milliseconds, counted from `from`.
    Every { millis: u64, from: Timestamp },
}

/// What happens if the last run of a schedule goes on when the next is to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Overlap {
    /// Skip this time
    #[default]
    Skip,
    /// It begins when the last one has ended
    Queue,
    /// The last one is cancelled
    Cancel,
    /// Both go on
    Allow,
}

/// What becomes of times that no host was there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CatchUp {
    /// They pass without a run
    None,
    /// One run begins, for the last of them
    #[default]
    Last,
    /// A run begins for each of them
    All,
}

macro_rules! words {
    ($type:ty: $($variant:ident = $word:literal),*) => {
        impl $type {
            /// The word that is stored and shown.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            pub fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words!(Overlap: Skip = "skip", Queue = "queue", Cancel = "cancel", Allow = "allow");
words!(CatchUp: None = "none", Last = "last", All = "all");

/// Invalid times.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadTimes {
    #[error("invalid cron expression `{text}`: {reason}")]
    Cron { text: String, reason: String },
    #[error("unknown time zone `{0}`")]
    Zone(String),
    #[error("the shortest interval is {}", spell_millis(SHORTEST_MS))]
    Short,
    #[error("the longest interval is {}", spell_millis(limits::SLEEP_MS))]
    Long,
    #[error("`{0}` never matches")]
    Never(String),
}

impl When {
    /// Times of a cron expression in a time zone.
    pub fn cron(expression: &str, zone: &str) -> Result<Self, BadTimes> {
        let text = format!("{} {zone}", expression.trim());
        match Cron::parse(&text) {
            // A time that ever comes does so before the calendar begins anew.
            Ok(cron) => match cron.next_after(jiff::Timestamp::UNIX_EPOCH) {
                Some(_) => Ok(Self::Cron(text)),
                None => Err(BadTimes::Never(expression.to_owned())),
            },
            Err(NoCron::Zone) => Err(BadTimes::Zone(zone.to_owned())),
            Err(NoCron::Syntax(reason)) => Err(BadTimes::Cron { text: expression.to_owned(), reason }),
        }
    }

    /// A time every so many milliseconds.
    pub fn every(millis: u64, from: Timestamp) -> Result<Self, BadTimes> {
        match millis {
            ..SHORTEST_MS => Err(BadTimes::Short),
            millis if millis > limits::SLEEP_MS => Err(BadTimes::Long),
            millis => Ok(Self::Every { millis, from }),
        }
    }

    /// The first time after `time`.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron(text) => {
                let time = jiff::Timestamp::from_millisecond(i64::try_from(time.0).ok()?).ok()?;
                let next = Cron::parse(text).ok()?.next_after(time)?;
                u64::try_from(next.as_millisecond()).ok().map(Timestamp)
            }
            Self::Every { from, .. } if time < *from => Some(*from),
            Self::Every { millis, from } => {
                let periods = time.since(*from) / millis + 1;
                Some(Timestamp(from.0.checked_add(periods.checked_mul(*millis)?)?))
            }
        }
    }

    /// The last time up to `now`, if `first` is one that is not later.
    fn last_until(&self, first: Timestamp, now: Timestamp) -> Timestamp {
        if let Self::Every { millis, .. } = self {
            return Timestamp(now.0 - now.since(first) % millis);
        }
        // From further and further back, so that months of minutes are not gone through.
        const MINUTE: u64 = 60_000;
        let steps = [5 * MINUTE, 90 * MINUTE, 25 * 60 * MINUTE, 32 * 24 * 60 * MINUTE, u64::MAX];
        for back in steps {
            let start = Timestamp(now.0.saturating_sub(back)).max(Timestamp(first.0.saturating_sub(1)));
            let mut last = None;
            let mut time = start;
            while let Some(next) = self.next_after(time).filter(|next| *next <= now) {
                (last, time) = (Some(next), next);
            }
            if let Some(last) = last {
                return last;
            }
        }
        first
    }
}

/// As it is stored and shown: `cron 0 9 * * * UTC`, `every 60000 from 0`.
impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cron(text) => write!(f, "cron {text}"),
            Self::Every { millis, from } => write!(f, "every {millis} from {}", from.0),
        }
    }
}

impl FromStr for When {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(' ').ok_or(())? {
            ("cron", rest) => Ok(Self::Cron(rest.to_owned())),
            ("every", rest) => {
                let (millis, from) = rest.split_once(" from ").ok_or(())?;
                let number = |text: &str| text.parse::<u64>().map_err(drop);
                // Without a length there is no next time.
                let millis =
                    number(millis).and_then(|millis| if millis > 0 { Ok(millis) } else { Err(()) })?;
                Ok(Self::Every { millis, from: Timestamp(number(from)?) })
            }
            _ => Err(()),
        }
    }
}

/// The last run that a schedule began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastRun {
    /// There is no such schedule, or it was removed.
    None,
    GoesOn,
    Ended(Timestamp),
}

/// What is to be done for a schedule that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Firing {
    /// Its last run has to end first.
    Wait,
    /// No run this time.
    Skip { next: Option<Timestamp> },
    /// A run for that time; the last one is cancelled before if `cancel` says so.
    Run { at: Timestamp, next: Option<Timestamp>, cancel: bool },
}

impl Schedule {
    /// What is to be done now that `due` has come.
    pub fn firing(&self, due: Timestamp, now: Timestamp, last: LastRun) -> Firing {
        // It is due by the store's clock: a host whose clock is behind that would find a time that was fired already,
        // and this one again behind it.
        let now = now.max(due);
        let busy = last == LastRun::GoesOn;
        let queues = self.overlap == Overlap::Queue;
        if queues && busy {
            return Firing::Wait;
        }
        // A time that had to wait for the last run was not missed before that ended.
        let held_until = match last {
            LastRun::Ended(at) if queues => at.max(due),
            _ => due,
        };
        let at = match self.catch_up {
            CatchUp::All => due,
            CatchUp::Last => self.when.last_until(due, now),
            CatchUp::None if now.since(held_until) > LATE_MS => {
                return Firing::Skip { next: self.when.next_after(now) };
            }
            CatchUp::None => self.when.last_until(due, held_until),
        };
        let next = self.when.next_after(at);
        match self.overlap {
            Overlap::Skip if busy => Firing::Skip { next },
            overlap => Firing::Run { at, next, cancel: busy && overlap == Overlap::Cancel },
        }
    }

    /// The run of that firing. `again`: its usual id is somebody else's.
    pub fn run(&self, at: Timestamp, now: Timestamp, again: bool) -> Result<NewRun, NoRandom> {
        let stamp = wfhost_world::clock::rfc3339(at).replace(['-', ':'], "").replace(".000Z", "Z");
        let id = format!("{}-{stamp}", self.name).parse().ok().filter(|_| !again);
        let mut labels = self.labels.clone();
        labels.push(("schedule".to_owned(), self.name.clone()));
        let started = Started {
            run: match id {
                Some(id) => id,
                None => fresh_id()?,
            },
            workflow: self.workflow.clone(),
            module: self.module,
            input: self.input.clone(),
            seed: fresh_seed()?,
            config: self.config.clone(),
            labels,
            parent: None,
            child: None,
            origin: None,
        };
        let mut machine = Machine::start(started, now);
        let rows = machine.take_unsaved().map(Row::from).into_iter().collect();
        Ok(NewRun::new(&machine, rows))
    }

    /// A run that somebody asks for, besides those of its times.
    pub fn run_now(&self, now: Timestamp) -> Result<NewRun, NoRandom> {
        self.run(now, now, false)
    }

    /// The next times, at most so many.
    pub fn next_times(&self, count: usize) -> Vec<Timestamp> {
        std::iter::successors(self.next_at, |time| self.when.next_after(*time)).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64)
    }

    fn schedule(when: When, overlap: Overlap, catch_up: CatchUp) -> Schedule {
        Schedule {
            name: "s".to_owned(),
            when,
            overlap,
            catch_up,
            workflow: "w".to_owned(),
            module: Digest([0; 32]),
            input: Json::null(),
            labels: Vec::new(),
            config: RunConfig::default(),
            created_at: Timestamp(0),
            next_at: None,
            fired: 0,
            last: None,
        }
    }

    #[test]
    fn times_follow_the_zone_through_a_change_of_clocks() {
        let when = When::cron("30 2 * * *", "Europe/Berlin").unwrap();
        // 2026-03-29 has no half past two in Berlin; 2026-10-25 has two of them.
        let next = |from: &str| when.next_after(time(from)).unwrap();
        assert_eq!(next("2026-03-27T12:00:00Z"), time("2026-03-28T01:30:00Z"));
        assert_eq!(next("2026-03-28T12:00:00Z"), time("2026-03-29T01:30:00Z"), "half past three");
        assert_eq!(next("2026-03-29T01:30:00Z"), time("2026-03-30T00:30:00Z"));
        assert_eq!(next("2026-10-24T12:00:00Z"), time("2026-10-25T00:30:00Z"), "the first of the two");
        assert_eq!(next("2026-10-25T00:30:00Z"), time("2026-10-26T01:30:00Z"));
        assert_eq!(when.to_string().parse(), Ok(when));
    }

    #[test]
    fn what_was_stored_and_is_no_times_cannot_be_read() {
        // There would be no time behind any.
        assert_eq!("every 0 from 0".parse::<When>(), Err(()));
        assert_eq!("every 1 from 0".parse(), Ok(When::Every { millis: 1, from: Timestamp(0) }));
        assert_eq!("every 1000".parse::<When>(), Err(()));
    }

    #[test]
    fn times_that_are_none_are_refused() {
        assert!(matches!(When::cron("61 * * * *", "UTC"), Err(BadTimes::Cron { .. })));
        assert_eq!(When::cron("* * * * *", "Mars/Base"), Err(BadTimes::Zone("Mars/Base".to_owned())));
        assert_eq!(When::every(10, Timestamp(0)), Err(BadTimes::Short));
        assert_eq!(When::every(999_999_999_999 * 3_600_000, Timestamp(0)), Err(BadTimes::Long));
        assert_eq!(When::cron("0 0 31 2 *", "UTC"), Err(BadTimes::Never("0 0 31 2 *".to_owned())));
        assert!(When::cron("0 0 29 2 *", "Europe/Berlin").is_ok());
    }

    #[test]
    fn a_period_counts_from_its_beginning() {
        let when = When::every(1_000, Timestamp(500)).unwrap();
        let next = |at| when.next_after(Timestamp(at)).map(|time| time.0);
        assert_eq!(
            [next(0), next(500), next(1_499), next(1_500)].map(Option::unwrap),
            [500, 1_500, 1_500, 2_500]
        );
        assert_eq!(When::Every { millis: u64::MAX, from: Timestamp(9) }.next_after(Timestamp(9)), None);
        assert_eq!(when.to_string().parse(), Ok(when));
    }

    #[test]
    fn missed_times_pass_or_are_made_up_for() {
        let minute = When::cron("* * * * *", "UTC").unwrap();
        let (due, now) = (time("2026-01-01T00:00:00Z"), time("2026-03-01T00:00:30Z"));
        let next = Some(time("2026-03-01T00:01:00Z"));
        let firing =
            |catch_up| schedule(minute.clone(), Overlap::Skip, catch_up).firing(due, now, LastRun::None);
        assert_eq!(firing(CatchUp::None), Firing::Skip { next });
        let last = time("2026-03-01T00:00:00Z");
        assert_eq!(firing(CatchUp::Last), Firing::Run { at: last, next, cancel: false });
        let second = Some(time("2026-01-01T00:01:00Z"));
        assert_eq!(firing(CatchUp::All), Firing::Run { at: due, next: second, cancel: false });
        let every = When::every(7_000, due).unwrap();
        let firing = schedule(every, Overlap::Skip, CatchUp::Last).firing(
            due,
            Timestamp(due.0 + 20_000),
            LastRun::None,
        );
        let at = Timestamp(due.0 + 14_000);
        assert_eq!(firing, Firing::Run { at, next: Some(Timestamp(due.0 + 21_000)), cancel: false });
    }

    #[test]
    fn times_that_waited_for_a_run_are_made_up_for_as_those_that_were_missed() {
        let due = time("2026-01-01T00:00:00Z");
        let minutes = |minutes: u64| Timestamp(due.0 + minutes * 60_000);
        let firing = |catch_up, now, last| {
            let when = When::every(60_000, due).unwrap();
            schedule(when, Overlap::Queue, catch_up).firing(due, now, last)
        };
        let run = |at, next| Firing::Run { at, next: Some(next), cancel: false };
        for catch_up in [CatchUp::None, CatchUp::Last, CatchUp::All] {
            assert_eq!(firing(catch_up, minutes(5), LastRun::GoesOn), Firing::Wait);
        }
        let ended = LastRun::Ended(minutes(5));
        assert_eq!(firing(CatchUp::All, minutes(5), ended), run(due, minutes(1)));
        assert_eq!(firing(CatchUp::Last, minutes(5), ended), run(minutes(5), minutes(6)));
        assert_eq!(firing(CatchUp::None, minutes(5), ended), run(minutes(5), minutes(6)));
        // Nobody was there for hours after it had ended.
        assert_eq!(firing(CatchUp::None, minutes(500), ended), Firing::Skip { next: Some(minutes(501)) });
        assert_eq!(firing(CatchUp::Last, minutes(500), ended), run(minutes(500), minutes(501)));
    }

    #[test]
    fn a_time_is_fired_once_also_by_a_host_whose_clock_is_behind() {
        let due = time("2026-01-01T00:00:00Z");
        for when in [When::every(60_000, due).unwrap(), When::cron("* * * * *", "UTC").unwrap()] {
            for catch_up in [CatchUp::None, CatchUp::Last, CatchUp::All] {
                let second = Timestamp(due.0 + 60_000);
                let behind = Timestamp(second.0 - 5);
                let schedule = schedule(when.clone(), Overlap::Allow, catch_up);
                let next = Some(Timestamp(second.0 + 60_000));
                let run = Firing::Run { at: second, next, cancel: false };
                assert_eq!(schedule.firing(second, behind, LastRun::None), run, "{when} {catch_up:?}");
            }
        }
    }

    #[test]
    fn a_run_that_goes_on_is_left_waited_for_cancelled_or_overtaken() {
        let due = time("2026-01-01T00:00:00Z");
        let next = Some(Timestamp(due.0 + 60_000));
        let firing = |overlap| {
            let when = When::every(60_000, due).unwrap();
            schedule(when, overlap, CatchUp::Last).firing(due, due, LastRun::GoesOn)
        };
        assert_eq!(firing(Overlap::Skip), Firing::Skip { next });
        assert_eq!(firing(Overlap::Queue), Firing::Wait);
        assert_eq!(firing(Overlap::Cancel), Firing::Run { at: due, next, cancel: true });
        assert_eq!(firing(Overlap::Allow), Firing::Run { at: due, next, cancel: false });
    }
}
