//! Where driving a run stands, and what the driver does next.
//!
//! A driver lets the program run, commits what happened, begins what the
//! program asked for and takes in what the world says. What of that it may do
//! depends on the phase, and is decided here, on plain data:
//!
//! * [`Phase::Replaying`]: the program repeats its journal. Nothing is appended, nothing is taken
//!   in, no deadline is met, no grace runs. It comes through, or the run is left as it is.
//! * [`Phase::Live`]: all of it.
//! * [`Phase::Resting`]: the run is to be left. The program stands still, nothing begins; calls that wait for
//!   their turn are taken back, those under way are waited for, if there is time, and what they answer is
//!   committed. One that is to be left alone may go on after all, as long as it is not left.
//! * [`Phase::Ending`]: the program has ended, and only that is left to be committed.

/// How far a driver is with a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Replaying,
    Live,
    Resting(Rest),
    Ending,
}

/// Why a run is left; of several the last counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rest {
    /// Somebody asked for it to be left alone.
    Paused,
    /// The host leaves it to others, when the calls in flight have ended.
    Leaving,
    /// At once.
    Now,
}

/// What a driver sees when it decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight {
    /// The program has come to the end of its journal.
    pub live: bool,
    /// It waits for something that has not happened.
    pub waits: bool,
    /// Calls in flight.
    pub calls: usize,
    /// All that is open is waited for: time, signals, people, children, another host.
    pub only_waits: bool,
    /// Calls cannot be made here.
    pub withholds: bool,
    /// What happened is to be committed though the program does not wait.
    pub commit_due: bool,
    /// The time that a program has after it was asked to stop is over.
    pub grace_over: bool,
    /// It has only waited for as long as programs that do are kept in memory.
    pub idle_over: bool,
}

/// What a driver does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Do {
    /// The program has come through: the calls of an earlier execution are taken over.
    ComeThrough,
    /// Takes in what was sent to the run.
    ReadMail,
    /// Looks whether children ended unheard.
    MeetChildren,
    /// Commits what happened, and begins what the program asked for; or, if the run rests, takes back what it has
    /// asked for and is not under way.
    Commit,
    /// Tells the store that the program came through: whatever brought a host down before was not it.
    Arrive,
    /// Ends the run where it stands.
    Terminate,
    /// Gives the run up for as long as it only waits.
    Park,
    /// Gives it up for a host that can make its calls.
    HandOver,
    /// Gives it up.
    Leave(Rest),
    /// Lets the program run on, if it may, and waits for something to happen.
    Wait,
}

/// The course of one execution.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    phase: Phase,
    /// Something may have been sent to the run.
    mail: bool,
    children: bool,
    arrived: bool,
    /// Something happened since the last commit.
    unsettled: bool,
    /// Something happened that the program has not had the chance to see.
    unseen: bool,
    /// It was left before it came through.
    untouched: bool,
}

impl Course {
    /// `arrived`: nothing is known against the program.
    pub fn new(arrived: bool) -> Self {
        Self {
            phase: Phase::Replaying,
            mail: true,
            children: true,
            arrived,
            unsettled: true,
            unseen: true,
            untouched: true,
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the program may run on.
    pub fn runs(&self) -> bool {
        matches!(self.phase, Phase::Replaying | Phase::Live)
    }

    /// Whether deadlines are met, and the grace of a program that is asked to stop runs.
    pub fn has_time(&self) -> bool {
        self.phase == Phase::Live
    }

    /// The program ran until it waits, was pre-empted or ended. `said`: there is something to commit.
    pub fn ran(&mut self, said: bool) {
        self.unseen = false;
        self.unsettled |= said;
    }

    /// Something happened that belongs into the journal.
    pub fn happened(&mut self) {
        self.unseen = true;
        self.unsettled = true;
    }

    /// Something may have been sent to the run.
    pub fn mail(&mut self) {
        self.mail = true;
    }

    /// The run is to be left.
    pub fn rest(&mut self, rest: Rest) {
        let phase = match self.phase {
            Phase::Ending => Phase::Ending,
            Phase::Resting(before) => Phase::Resting(before.max(rest)),
            Phase::Replaying | Phase::Live => Phase::Resting(rest),
        };
        // What is not under way is taken back, and that is committed.
        self.unsettled |= phase != self.phase;
        self.phase = phase;
    }

    /// It is to be left alone no more: it was asked to stop, or whoever asked for that has thought better of it. The
    /// program runs on, and what it has asked for meanwhile may begin.
    pub fn unpause(&mut self) {
        if self.is_pausing() {
            self.phase = Phase::Live;
            // What was not begun is begun by a commit, though nothing has happened.
            self.unsettled = true;
        }
    }

    /// Whether the run is to be left alone, and waits for its calls until then.
    pub fn is_pausing(&self) -> bool {
        self.phase == Phase::Resting(Rest::Paused)
    }

    /// The program ended.
    pub fn end(&mut self) {
        self.phase = Phase::Ending;
    }

    /// Whether it was left before the program came through.
    pub fn untouched(&self) -> bool {
        self.untouched
    }

    /// Whether the run, when it is left, needs nobody until something happens: its program waits
    /// and has seen all that did.
    pub fn may_park(&self, sight: &Sight) -> bool {
        !self.untouched && sight.waits && sight.only_waits && !sight.withholds && !self.unseen
    }

    /// What comes next. What is given is taken as done, but for what ends the execution.
    pub fn next(&mut self, sight: &Sight) -> Do {
        match self.phase {
            Phase::Replaying if sight.live => {
                self.phase = Phase::Live;
                self.untouched = false;
                Do::ComeThrough
            }
            Phase::Replaying | Phase::Ending => Do::Wait,
            Phase::Live if std::mem::take(&mut self.mail) => Do::ReadMail,
            Phase::Live if std::mem::take(&mut self.children) => Do::MeetChildren,
            Phase::Live if sight.grace_over => Do::Terminate,
            Phase::Live if self.unsettled && (sight.waits || sight.commit_due) => {
                self.unsettled = false;
                Do::Commit
            }
            Phase::Live if sight.waits && !std::mem::replace(&mut self.arrived, true) => Do::Arrive,
            Phase::Live if !sight.waits || !sight.only_waits => Do::Wait,
            Phase::Live if sight.withholds => Do::HandOver,
            Phase::Live if sight.idle_over => Do::Park,
            Phase::Live => Do::Wait,
            Phase::Resting(rest) if self.untouched => Do::Leave(rest),
            Phase::Resting(_) if std::mem::take(&mut self.unsettled) => Do::Commit,
            // A request to stop goes before one to be left alone, and that may have been withdrawn; and calls of a run
            // that is to stop are not waited for.
            Phase::Resting(Rest::Paused | Rest::Leaving) if std::mem::take(&mut self.mail) => Do::ReadMail,
            Phase::Resting(Rest::Now) => Do::Leave(Rest::Now),
            Phase::Resting(rest) if sight.calls == 0 => Do::Leave(rest),
            Phase::Resting(_) => Do::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program waits, and so does everything.
    const WAITS: Sight = Sight {
        live: true,
        waits: true,
        calls: 0,
        only_waits: true,
        withholds: false,
        commit_due: false,
        grace_over: false,
        idle_over: false,
    };
    const CALLS: Sight = Sight { calls: 1, only_waits: false, ..WAITS };

    /// One that has come through and is settled.
    fn live() -> Course {
        let mut course = Course::new(true);
        course.ran(true);
        let all = [Do::ComeThrough, Do::ReadMail, Do::MeetChildren, Do::Commit, Do::Wait];
        assert_eq!(all.map(|_| course.next(&WAITS)), all);
        course
    }

    #[test]
    fn nothing_is_done_before_the_program_has_come_through() {
        let mut course = Course::new(false);
        let replaying = Sight { live: false, waits: false, commit_due: true, grace_over: true, ..WAITS };
        for _ in 0..3 {
            course.ran(true);
            assert_eq!(course.next(&replaying), Do::Wait);
            assert!(course.runs() && !course.has_time());
        }
        course.ran(true);
        assert_eq!(course.next(&WAITS), Do::ComeThrough);
        assert_eq!(course.next(&WAITS), Do::ReadMail);
        assert!(course.has_time());
    }

    #[test]
    fn a_run_that_is_left_while_it_replays_stays_as_it_is() {
        for rest in [Rest::Leaving, Rest::Now] {
            let mut course = Course::new(true);
            course.rest(rest);
            let sight = Sight { live: false, waits: false, ..WAITS };
            assert!(!course.runs());
            assert_eq!(course.next(&sight), Do::Leave(rest));
            assert!(!course.may_park(&WAITS), "nobody knows yet what it waits for");
        }
    }

    #[test]
    fn a_program_that_came_through_after_failed_starts_says_so_once() {
        let mut course = Course::new(false);
        course.ran(true);
        let all = [Do::ComeThrough, Do::ReadMail, Do::MeetChildren, Do::Commit, Do::Arrive, Do::Wait];
        assert_eq!(all.map(|_| course.next(&CALLS)), all);
    }

    #[test]
    fn what_happens_is_committed_when_the_program_waits_again_or_it_is_time() {
        let mut course = live();
        course.happened();
        let computes = Sight { waits: false, ..CALLS };
        assert_eq!(course.next(&computes), Do::Wait);
        assert_eq!(course.next(&Sight { commit_due: true, ..computes }), Do::Commit);
        course.ran(true);
        assert_eq!((course.next(&CALLS), course.next(&CALLS)), (Do::Commit, Do::Wait));
        course.ran(false);
        assert_eq!(course.next(&CALLS), Do::Wait, "a program that was looked at and still waits");
    }

    #[test]
    fn a_run_that_only_waits_is_parked_after_a_while() {
        let mut course = live();
        let over = Sight { idle_over: true, ..WAITS };
        assert_eq!(course.next(&Sight { idle_over: true, ..CALLS }), Do::Wait);
        assert_eq!(course.next(&over), Do::Park);
        course.mail();
        assert_eq!((course.next(&over), course.next(&over)), (Do::ReadMail, Do::Park));
    }

    #[test]
    fn calls_that_cannot_be_made_here_are_handed_over_when_the_others_have_ended() {
        let mut course = live();
        assert_eq!(course.next(&Sight { withholds: true, ..CALLS }), Do::Wait);
        assert_eq!(course.next(&Sight { withholds: true, ..WAITS }), Do::HandOver);
    }

    #[test]
    fn a_run_that_is_left_gently_waits_for_its_calls_and_commits_what_they_say() {
        let mut course = live();
        course.rest(Rest::Leaving);
        assert!(!course.runs() && !course.has_time());
        assert_eq!((course.next(&CALLS), course.next(&CALLS)), (Do::Commit, Do::Wait));
        course.happened();
        assert_eq!((course.next(&WAITS), course.next(&WAITS)), (Do::Commit, Do::Leave(Rest::Leaving)));
        assert!(!course.may_park(&WAITS), "the program has not seen the answer");
    }

    #[test]
    fn a_run_that_is_left_may_be_parked_only_if_its_program_has_seen_everything() {
        let mut course = live();
        course.rest(Rest::Leaving);
        assert!(course.may_park(&WAITS) && !course.may_park(&CALLS));
        assert!(!course.may_park(&Sight { waits: false, ..WAITS }), "it computes");
        assert!(!course.may_park(&Sight { withholds: true, ..WAITS }), "another host can do something");
        let mut course = live();
        course.happened();
        course.rest(Rest::Leaving);
        assert!(!course.may_park(&WAITS));
    }

    #[test]
    fn a_run_that_is_left_at_once_waits_for_nothing() {
        let mut course = live();
        course.rest(Rest::Leaving);
        assert_eq!((course.next(&CALLS), course.next(&CALLS)), (Do::Commit, Do::Wait));
        course.rest(Rest::Now);
        assert_eq!((course.next(&CALLS), course.next(&CALLS)), (Do::Commit, Do::Leave(Rest::Now)));
        course.rest(Rest::Paused);
        assert_eq!(course.phase(), Phase::Resting(Rest::Now), "nothing weaker counts");
    }

    #[test]
    fn a_request_to_stop_goes_before_one_to_be_left_alone() {
        let mut course = live();
        course.rest(Rest::Paused);
        assert_eq!((course.next(&CALLS), course.next(&CALLS)), (Do::Commit, Do::Wait));
        course.rest(Rest::Paused);
        assert_eq!(course.next(&CALLS), Do::Wait, "it rests already");
        course.mail();
        assert_eq!(course.next(&CALLS), Do::ReadMail);
        course.unpause();
        assert_eq!(course.phase(), Phase::Live);
        course.rest(Rest::Leaving);
        course.unpause();
        assert_eq!(course.phase(), Phase::Resting(Rest::Leaving), "a host that leaves does so");
    }

    #[test]
    fn a_run_that_is_not_to_be_left_alone_after_all_goes_on_beside_its_calls() {
        let mut course = live();
        course.unpause();
        assert_eq!(course.next(&CALLS), Do::Wait, "nobody asked for it");
        course.rest(Rest::Paused);
        assert_eq!((course.next(&CALLS), course.next(&CALLS)), (Do::Commit, Do::Wait));
        assert!(course.is_pausing() && !course.runs() && !course.has_time());
        course.mail();
        assert_eq!(course.next(&CALLS), Do::ReadMail);
        course.unpause();
        assert!(!course.is_pausing() && course.runs() && course.has_time());
        course.ran(false);
        let all = [Do::Commit, Do::Wait];
        assert_eq!(
            all.map(|_| course.next(&CALLS)),
            all,
            "what had not begun begins, though nothing has happened"
        );
        // It may change its mind as often as it likes.
        course.rest(Rest::Paused);
        assert_eq!((course.next(&WAITS), course.next(&WAITS)), (Do::Commit, Do::Leave(Rest::Paused)));
    }

    #[test]
    fn who_leaves_a_run_and_waits_for_its_calls_looks_whether_it_is_to_stop() {
        let mut course = live();
        course.mail();
        course.rest(Rest::Leaving);
        let all = [Do::Commit, Do::ReadMail, Do::Wait];
        assert_eq!(all.map(|_| course.next(&CALLS)), all);
        course.mail();
        assert_eq!(course.next(&CALLS), Do::ReadMail);
        course.rest(Rest::Now);
        assert_eq!([course.next(&CALLS), course.next(&CALLS)], [Do::Commit, Do::Leave(Rest::Now)]);
    }

    #[test]
    fn the_grace_of_a_program_ends_only_while_it_is_live() {
        let over = Sight { grace_over: true, ..CALLS };
        assert_eq!(live().next(&over), Do::Terminate);
        let mut course = live();
        course.rest(Rest::Leaving);
        let all = [Do::Commit, Do::Wait];
        assert_eq!(all.map(|_| course.next(&over)), all, "it is the next host that ends it");
    }

    #[test]
    fn nothing_follows_an_end() {
        let mut course = live();
        course.end();
        course.rest(Rest::Now);
        course.mail();
        assert_eq!((course.phase(), course.next(&CALLS)), (Phase::Ending, Do::Wait));
        assert!(!course.runs());
    }
}
