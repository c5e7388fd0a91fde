//! The attributes `#[wfhost::workflow]` and `#[wfhost::agent]`, documented where `wfhost-sdk` exports them.

mod agent;
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
