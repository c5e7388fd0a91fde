//! Checks the function's signature and writes the export beside it.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Error, FnArg, ItemFn, Result, ReturnType, Safety, spanned::Spanned};

use crate::says::Says;

/// What the attribute stands for. In an error the function is kept as it is, so that the one
/// mistake does not show up as many.
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
    let says: Says = syn::parse2(attribute.clone())?;
    let function: ItemFn = syn::parse2(item.clone()).map_err(|error| {
        Error::new(error.span(), format!("`#[wfhost::workflow]` belongs on an `async fn`: {error}"))
    })?;
    check(&function)?;
    let (export, described) = (export(&function), says.described(&function));
    Ok(quote!(#export #described))
}

fn check(function: &ItemFn) -> Result<()> {
    let signature = &function.sig;
    if signature.asyncness.is_none() {
        return Err(Error::new_spanned(
            signature.fn_token,
            "a workflow waits for things, so it has to be `async fn`",
        ));
    }
    if !signature.generics.params.is_empty() || signature.generics.where_clause.is_some() {
        return Err(Error::new_spanned(
            &signature.generics,
            "a workflow cannot be generic: its input is one type",
        ));
    }
    if let Safety::Unsafe(word) = &signature.safety {
        return Err(Error::new_spanned(word, "a workflow cannot be `unsafe`"));
    }
    if let Some(abi) = &signature.abi {
        return Err(Error::new_spanned(
            abi,
            "a workflow is an ordinary function: the export is written for it",
        ));
    }
    if let Some(argument) = signature.inputs.iter().nth(1) {
        return Err(Error::new_spanned(
            argument,
            "a workflow takes one input: put all of it into one struct that derives \
             `serde::Deserialize`",
        ));
    }
    if let Some(FnArg::Receiver(receiver)) = signature.inputs.first() {
        return Err(Error::new_spanned(receiver, "a workflow is a free function, without `self`"));
    }
    if let ReturnType::Default = signature.output {
        return Err(Error::new(
            signature.paren_token.span.close(),
            "a workflow can fail: add `-> wfhost::Result<R>`, `wfhost::Result<()>` if there is \
             nothing to say",
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
    let call = match function.sig.inputs.first() {
        Some(FnArg::Typed(argument)) => {
            let input = &argument.ty;
            let read = quote_spanned!(input.span()=> |__wfhost_value: #input| #name(__wfhost_value));
            quote_spanned!(span=> ::wfhost::__private::run(&__wfhost_input, #read))
        }
        _ => quote_spanned!(span=> ::wfhost::__private::run_without_input(#name)),
    };
    // The program's own names are visible within it, so it has none that a program would have.
    quote! {
        const _: () = {
            struct __WfhostWorkflow;

            impl ::wfhost::__private::bindings::Guest for __WfhostWorkflow {
                fn run(
                    __wfhost_input: ::std::string::String,
                ) -> ::core::result::Result<
                    ::std::string::String,
                    ::wfhost::__private::bindings::Failure,
                > {
                    let _ = &__wfhost_input;
                    #call
                }
            }

            // Elsewhere the code is only checked: there is nobody who would call it.
            #[cfg(target_arch = "wasm32")]
            ::wfhost::__private::bindings::export_workflow!(
                __WfhostWorkflow with_types_in ::wfhost::__private::bindings
            );
            #[cfg(not(target_arch = "wasm32"))]
            #[allow(dead_code)]
            fn __wfhost_checked() -> impl ::wfhost::__private::bindings::Guest {
                __WfhostWorkflow
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(attribute: &str, item: &str) -> String {
        let attribute = attribute.parse().unwrap();
        let item = item.parse().unwrap();
        checked(&attribute, &item).unwrap_err().to_string()
    }

    #[test]
    fn every_wrong_signature_has_an_answer() {
        let cases = [
            ("fn f() -> Result<()> {}", "`async fn`"),
            ("async fn f() {}", "add `-> wfhost::Result<R>`"),
            ("async fn f(a: u8, b: u8) -> Result<()> {}", "one input"),
            ("async fn f(&self) -> Result<()> {}", "without `self`"),
            ("async fn f<T>(a: T) -> Result<()> {}", "generic"),
            ("async unsafe fn f() -> Result<()> {}", "`unsafe`"),
            ("async extern \"C\" fn f() -> Result<()> {}", "the export"),
            ("struct F;", "belongs on an `async fn`"),
        ];
        for (item, expected) in cases {
            let message = refused("", item);
            assert!(message.contains(expected), "{item}: {message}");
        }
        for (attribute, expected) in [
            ("name = \"x\"", "it says `describe`, `signal("),
            ("signal", "expected parentheses"),
            ("signal(a)", "string literal"),
            ("signal(\"a\")", "a signal has a type"),
            ("example(\"{}\": u8)", "unexpected token"),
        ] {
            let message = refused(attribute, "async fn f() -> Result<()> {}");
            assert!(message.contains(expected), "{attribute}: {message}");
        }
    }

    #[test]
    fn the_function_itself_is_kept_as_it_is() {
        for item in ["async fn f(i: u8) -> Result<u8> { Ok(i) }", "fn f() {}"] {
            let item: TokenStream = item.parse().unwrap();
            let expanded = expand(TokenStream::new(), item.clone()).to_string();
            assert!(expanded.contains(&item.to_string()), "{expanded}");
        }
    }

    #[test]
    fn no_name_of_a_program_is_hidden_by_one_of_its_own() {
        for name in ["input", "checked", "Workflow"] {
            let item: TokenStream =
                format!("async fn {name}(i: u8) -> Result<u8> {{ Ok(i) }}").parse().unwrap();
            let written = checked(&TokenStream::new(), &item).unwrap().to_string();
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let count = written.split(|c| !is_part(c)).filter(|word| *word == name).count();
            assert_eq!(count, 1, "{written}");
        }
    }
}
