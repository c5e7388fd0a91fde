//! The attribute `#[wfhost::workflow]`, documented where `wfhost-sdk` exports it.

mod workflow;

use proc_macro::TokenStream;

/// Makes an `async fn` the workflow of this crate. See `wfhost::workflow`.
#[proc_macro_attribute]
pub fn workflow(attribute: TokenStream, item: TokenStream) -> TokenStream {
    workflow::expand(attribute.into(), item.into()).into()
}
