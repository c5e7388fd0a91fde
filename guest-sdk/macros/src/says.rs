//! What a workflow says of itself, as the attribute has it: `describe, signal("name": Type, "about"), ..`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{
    Error, Expr, ExprLit, FnArg, Ident, ItemFn, Lit, LitStr, Meta, Result, ReturnType, Token, Type,
    parenthesized,
    parse::{Parse, ParseStream},
    spanned::Spanned,
};

/// What the attribute says; nothing if it has no arguments.
#[derive(Default)]
pub(crate) struct Says {
    describes: bool,
    /// The calls that say it, each of which takes what was said before.
    calls: Vec<TokenStream>,
    /// What types have to be for that.
    needed: Vec<TokenStream>,
}

const KNOWN: &str = "it says `describe`, `signal(\"name\": Type, \"about\")`, `state(\"key\": Type, \"about\")`, \
     `example(\"JSON\")`, `provider(\"name\")`, `workspace(\"name\")`";

impl Parse for Says {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut says = Self::default();
        while !input.is_empty() {
            let word: Ident = input.parse()?;
            says.describes = true;
            match word.to_string().as_str() {
                "describe" => {}
                "signal" => says.value(input, "signals")?,
                "state" => says.value(input, "state")?,
                "example" => {
                    let text = text(input)?;
                    says.calls.push(quote!(.example(#text)));
                }
                "provider" => says.name(input, "providers")?,
                "workspace" => says.name(input, "workspaces")?,
                _ => return Err(Error::new_spanned(word, KNOWN)),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(says)
    }
}

/// A text in parentheses.
fn text(input: ParseStream<'_>) -> Result<LitStr> {
    let content;
    parenthesized!(content in input);
    let text = content.parse()?;
    match content.is_empty() {
        true => Ok(text),
        false => Err(content.error("unexpected token: one text is enough")),
    }
}

impl Says {
    fn name(&mut self, input: ParseStream<'_>, list: &str) -> Result<()> {
        let name = text(input)?;
        self.calls.push(quote!(.name(#list, #name)));
        Ok(())
    }

    fn value(&mut self, input: ParseStream<'_>, list: &str) -> Result<()> {
        let content;
        parenthesized!(content in input);
        let name: LitStr = content.parse()?;
        if content.parse::<Token![:]>().is_err() {
            return Err(Error::new_spanned(
                name,
                "a signal has a type, and so has a published value: `\"name\": Type`",
            ));
        }
        let kind: Type = content.parse()?;
        let mut about = LitStr::new("", name.span());
        if content.parse::<Option<Token![,]>>()?.is_some() && !content.is_empty() {
            about = content.parse()?;
            content.parse::<Option<Token![,]>>()?;
        }
        if !content.is_empty() {
            return Err(content.error("unexpected token"));
        }
        // What comes in is read, what is published is written.
        let schema = match list {
            "signals" => quote_spanned!(kind.span()=> schema_of_input::<#kind>),
            _ => quote_spanned!(kind.span()=> schema_of_output::<#kind>),
        };
        self.calls.push(quote!(.value(#list, #name, ::wfhost::__private::describe::#schema(), #about)));
        self.needed.push(schema);
        Ok(())
    }

    /// What is written beside the workflow.
    pub fn described(mut self, function: &ItemFn) -> TokenStream {
        if !self.describes {
            return TokenStream::new();
        }
        let docs = function.attrs.iter().filter(|attribute| attribute.path().is_ident("doc"));
        let docs = docs.filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) => match &pair.value {
                Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text),
                _ => None,
            },
            _ => None,
        });
        let docs: Vec<_> = docs.collect();
        if let Some(FnArg::Typed(argument)) = function.sig.inputs.first() {
            let kind = &argument.ty;
            let schema = quote_spanned!(kind.span()=> schema_of_input::<#kind>);
            self.calls.push(quote!(.with("input", ::wfhost::__private::describe::#schema())));
            self.needed.push(schema);
        }
        if let ReturnType::Type(_, kind) = &function.sig.output {
            let schema = quote_spanned!(kind.span()=> schema_of_outcome::<#kind>);
            self.calls.push(quote!(.with("output", ::wfhost::__private::describe::#schema())));
            self.needed.push(schema);
        }
        let (calls, needed) = (&self.calls, &self.needed);
        quote! {
            ::wfhost::__private::described! {
                // A type without a schema is found by every check, not only by `wfhost build`.
                const _: fn() = || { #(let _ = ::wfhost::__private::describe::#needed;)* };

                // By this section `wfhost build` knows that there is more to be asked for, which it compiles apart.
                #[cfg(target_arch = "wasm32")]
                const _: () = {
                    #[used]
                    #[unsafe(link_section = "wfhost:derive")]
                    static __WFHOST_ASKS: [u8; 1] = [1];
                };
                #[allow(unexpected_cfgs)]
                const _: () = {
                    #[cfg(wfhost_describe)]
                    #[unsafe(export_name = "wfhost_describe")]
                    extern "C" fn __wfhost_describe() -> u64 {
                        ::wfhost::__private::describe::Says::default() .about(&[#(#docs),*]) #(#calls)* .place()
                    }
                };
            }
        }
    }
}
