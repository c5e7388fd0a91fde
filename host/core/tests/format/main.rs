//! Journal format 1, from outside: what is written, what can be read, what is refused.

mod damage;
mod document;
mod golden;
mod rows;
