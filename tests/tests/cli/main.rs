//! The command line: what people and other programs see of it.

mod results;
mod setup;
mod terminal;
mod testing;
mod trust;
