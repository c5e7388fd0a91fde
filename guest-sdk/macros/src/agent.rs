//! Checks the function's signature and writes the export beside it.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Error, FnArg, ItemFn, Result, ReturnType, Safety, spanned::Spanned};

/// What the attribute stands for. In an error the function is kept as it is.
pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> TokenStream {
    match checked(&attribute, &item) {
        Ok(export) => quote!(#item #export),
        Err(error) => {
            let error = error.into_compile_error();
            quote!(#error #item)
        }
    }
}

fn checked(attribute: &TokenStream, item: &TokenStream) -> Result<TokenStream> {
    if !attribute.is_empty() {
        return Err(Error::new_spanned(attribute, "`#[wfhost::agent]` takes no arguments"));
    }
    let function: ItemFn = syn::parse2(item.clone()).map_err(|error| {
        Error::new(error.span(), format!("`#[wfhost::agent]` belongs on a `fn`: {error}"))
    })?;
    check(&function)?;
    Ok(export(&function))
}

fn check(function: &ItemFn) -> Result<()> {
    let signature = &function.sig;
    if let Some(word) = &signature.asyncness {
        return Err(Error::new_spanned(word, "an agent is an ordinary `fn`: what it calls waits itself"));
    }
    if !signature.generics.params.is_empty() || signature.generics.where_clause.is_some() {
        return Err(Error::new_spanned(&signature.generics, "an agent cannot be generic"));
    }
    if let Safety::Unsafe(word) = &signature.safety {
        return Err(Error::new_spanned(word, "an agent cannot be `unsafe`"));
    }
    if let Some(abi) = &signature.abi {
        return Err(Error::new_spanned(
            abi,
            "an agent is an ordinary function: the export is written for it",
        ));
    }
    match (signature.inputs.first(), signature.inputs.iter().nth(1)) {
        (Some(FnArg::Typed(_)), None) => {}
        (Some(FnArg::Receiver(receiver)), _) => {
            return Err(Error::new_spanned(receiver, "an agent is a free function, without `self`"));
        }
        _ => {
            return Err(Error::new_spanned(
                &signature.inputs,
                "an agent takes one argument: `call: wfhost::plugin::Call`",
            ));
        }
    }
    if let ReturnType::Default = signature.output {
        return Err(Error::new(
            signature.paren_token.span.close(),
            "an agent answers: add `-> wfhost::plugin::Result<Reply>`",
        ));
    }
    Ok(())
}

fn export(function: &ItemFn) -> TokenStream {
    let name = &function.sig.ident;
    // What the type checker finds wrong is shown at the type that is wrong.
    let span = match &function.sig.output {
        ReturnType::Type(_, output) => output.span(),
        ReturnType::Default => name.span(),
    };
    let call = quote_spanned!(span=> ::wfhost::__private::run_agent(__wfhost_call, #name));
    // The program's own names are visible within it, so it has none that a program would have.
    quote! {
        const _: () = {
            struct __WfhostAgent;

            impl ::wfhost::__private::plugin_bindings::exports::wfhost::plugin::agent::Guest for __WfhostAgent {
                fn run(
                    __wfhost_call: ::wfhost::__private::plugin_bindings::wfhost::plugin::types::Call,
                ) -> ::core::result::Result<
                    ::wfhost::__private::plugin_bindings::wfhost::plugin::types::Reply,
                    ::wfhost::__private::plugin_bindings::wfhost::plugin::types::Failure,
                > {
                    #call
                }
            }

            // Elsewhere the code is only checked: there is nobody who would call it.
            #[cfg(target_arch = "wasm32")]
            ::wfhost::__private::plugin_bindings::export_agent!(
                __WfhostAgent with_types_in ::wfhost::__private::plugin_bindings
            );
            #[cfg(not(target_arch = "wasm32"))]
            #[allow(dead_code)]
            fn __wfhost_checked() -> impl ::wfhost::__private::plugin_bindings::exports::wfhost::plugin::agent::Guest {
                __WfhostAgent
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_signature_has_an_answer() {
        let cases = [
            ("async fn f(c: Call) -> Result<Reply> {}", "ordinary `fn`"),
            ("fn f(c: Call) {}", "an agent answers"),
            ("fn f() -> Result<Reply> {}", "one argument"),
            ("fn f(a: u8, b: u8) -> Result<Reply> {}", "one argument"),
            ("fn f(&self) -> Result<Reply> {}", "without `self`"),
            ("fn f<T>(a: T) -> Result<Reply> {}", "generic"),
            ("unsafe fn f(c: Call) -> Result<Reply> {}", "`unsafe`"),
            ("struct F;", "belongs on a `fn`"),
        ];
        for (item, expected) in cases {
            let message = checked(&TokenStream::new(), &item.parse().unwrap()).unwrap_err().to_string();
            assert!(message.contains(expected), "{item}: {message}");
        }
        let attribute = "x".parse().unwrap();
        let item = "fn f(c: Call) -> Result<Reply> {}".parse().unwrap();
        assert!(checked(&attribute, &item).unwrap_err().to_string().contains("no arguments"));
        assert!(checked(&TokenStream::new(), &item).is_ok());
    }

    #[test]
    fn no_name_of_a_program_is_hidden_by_one_of_its_own() {
        for name in ["call", "checked", "Agent"] {
            let item: TokenStream = format!("fn {name}(c: Call) -> Result<Reply> {{}}").parse().unwrap();
            let written = checked(&TokenStream::new(), &item).unwrap().to_string();
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let count = written.split(|c| !is_part(c)).filter(|word| *word == name).count();
            assert_eq!(count, 1, "{written}");
        }
    }
}
