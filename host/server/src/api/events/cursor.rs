//! Cursors: how far something was told.
//!
//! The cursor of a run is `P.E.T`: the entries of its journal that were told, the number behind the last
//! of what it gave out, the number of the last line of an agent. That of all runs is `PLACE` or
//! `PLACE.N`: the place of the last commit that was told as a whole, or as far as N entries.

use std::fmt;

/// How far one run was told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct RunCursor {
    pub entries: u64,
    pub emissions: u64,
    pub transcript: u64,
}

impl fmt::Display for RunCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.entries, self.emissions, self.transcript)
    }
}

fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let numbers: Vec<u64> = text.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    let all = numbers.iter().all(|number| *number < 1 << 62);
    numbers.try_into().ok().filter(|_| all)
}

impl RunCursor {
    pub fn parse(text: &str) -> Option<Self> {
        let [entries, emissions, transcript] = numbers(text)?;
        Some(Self { entries, emissions, transcript })
    }
}

/// How far all runs were told: the commits up to `place`, and so many entries of the next one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(super) struct AllCursor {
    pub place: u64,
    pub part: u64,
}

impl fmt::Display for AllCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            0 => write!(f, "{}", self.place),
            part => write!(f, "{}.{part}", self.place),
        }
    }
}

impl AllCursor {
    pub fn parse(text: &str) -> Option<Self> {
        match numbers::<1>(text) {
            Some([place]) => Some(Self { place, part: 0 }),
            None => numbers::<2>(text).map(|[place, part]| Self { place, part }),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Cursor {
    Run(RunCursor),
    All(AllCursor),
}

impl Cursor {
    /// Whether something that `tip` has told is not told yet.
    pub fn is_behind(self, tip: Self) -> bool {
        match (self, tip) {
            (Self::Run(own), Self::Run(tip)) => {
                own.entries < tip.entries || own.emissions < tip.emissions || own.transcript < tip.transcript
            }
            (Self::All(own), Self::All(tip)) => own < tip,
            _ => false,
        }
    }

    pub fn of_run(self) -> Option<RunCursor> {
        match self {
            Self::Run(cursor) => Some(cursor),
            Self::All(_) => None,
        }
    }

    pub fn of_all(self) -> Option<AllCursor> {
        match self {
            Self::All(cursor) => Some(cursor),
            Self::Run(_) => None,
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(cursor) => cursor.fmt(f),
            Self::All(cursor) => cursor.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_back() {
        let run = RunCursor { entries: 3, emissions: 0, transcript: 77 };
        assert_eq!(RunCursor::parse(&run.to_string()), Some(run));
        for cursor in [AllCursor { place: 5, part: 0 }, AllCursor { place: 5, part: 2 }] {
            assert_eq!(AllCursor::parse(&cursor.to_string()), Some(cursor));
        }
        for text in ["", "1", "1.2", "1.2.x", "1.2.3.4", "-1.2.3", "99999999999999999999.0.0"] {
            assert_eq!(RunCursor::parse(text), None, "{text}");
        }
        assert_eq!(AllCursor::parse("1.2.3"), None);
    }

    #[test]
    fn who_lacks_something_is_behind_whatever_else_he_has() {
        let run = |entries, emissions, transcript| Cursor::Run(RunCursor { entries, emissions, transcript });
        let tip = run(5, 5, 5);
        assert!(run(4, 5, 5).is_behind(tip) && run(9, 4, 9).is_behind(tip) && run(5, 5, 4).is_behind(tip));
        assert!(!tip.is_behind(tip) && !run(9, 5, 5).is_behind(tip));
        let all = |place, part| Cursor::All(AllCursor { place, part });
        assert!(all(4, 2).is_behind(all(5, 0)) && all(4, 0).is_behind(all(4, 1)));
        assert!(!all(5, 0).is_behind(all(4, 9)));
    }
}
