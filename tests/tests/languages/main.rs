//! Workflows in each language: what they do, their SDKs and packages, what they say of themselves, what they cost.

mod behaviours;
mod cost;
mod described;
mod packages;
mod programs;
mod sdk;
