//! The attributes `#[wfhost::workflow]` and `#[wfhost::agent]`, and `scenarios!`, documented where `wfhost-sdk` exports them.

mod agent;
mod says;
mod scenarios;
mod workflow;

use proc_macro::TokenStream;

/// Makes an `async fn` the workflow of this crate. See `wfhost::workflow`.
#[proc_macro_attribute]
pub fn workflow(attribute: TokenStream, item: TokenStream) -> TokenStream {
    workflow::expand(attribute.into(), item.into()).into()
}

/// Makes a function the agent of this crate. See `wfhost::agent`.
#[proc_macro_attribute]
pub fn agent(attribute: TokenStream, item: TokenStream) -> TokenStream {
    agent::expand(attribute.into(), item.into()).into()
}

/// Makes a test of each scenario of this project. See `wfhost::scenarios`.
#[proc_macro]
pub fn scenarios(arguments: TokenStream) -> TokenStream {
    scenarios::expand(arguments.into()).into()
}
