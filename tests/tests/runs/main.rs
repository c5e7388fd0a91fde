//! Runs: what survives what, who advances them, and what can be done with them. By the real binary and a real
//! database; [`embedding`], [`leaving`], [`moments`] and [`outages`] by the library, and [`retrying`] by both.

mod changing_code;
mod durability;
mod embedding;
mod families;
mod faults;
mod leaving;
mod moments;
mod operations;
mod outages;
mod ownership;
mod patterns;
mod people;
mod retrying;
mod versions;
mod virtual_time;
