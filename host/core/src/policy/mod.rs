//! The decisions about agent calls: when to try again and who answers, what
//! may be spent, what an answer has to look like, when the next call may
//! begin. Pure functions on plain data; the host carries them out.

pub mod budget;
pub mod cache;
pub mod limits;
pub mod providers;
pub mod rate;
pub mod retry;
pub mod share;
pub mod structured;
