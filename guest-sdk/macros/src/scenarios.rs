//! A test for each scenario of a project.

use std::path::{Path, PathBuf};

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Error, Ident};

/// The scenario of a project, and the directory of further ones.
const SCENARIO: &str = "wfhost-test.toml";
const SCENARIOS: &str = "scenarios";

pub(crate) fn expand(arguments: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        return Error::new_spanned(arguments, "`scenarios!` takes no arguments").into_compile_error();
    }
    match std::env::var("CARGO_MANIFEST_DIR") {
        Ok(project) => tests(&project, &find(Path::new(&project))),
        Err(_) => Error::new(Span::call_site(), "`scenarios!` is for projects of cargo").into_compile_error(),
    }
}

/// The files that `wfhost test` takes if none is named, in its order.
fn find(project: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(project.join(SCENARIOS))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    found.sort();
    let first = Some(project.join(SCENARIO)).filter(|path| path.is_file());
    first.into_iter().chain(found).collect()
}

fn tests(project: &str, scenarios: &[PathBuf]) -> TokenStream {
    if scenarios.is_empty() {
        return quote! {
            #[test]
            fn usual() {
                ::wfhost::testing::scenario(#project, None);
            }
        };
    }
    let tests = scenarios.iter().map(|path| {
        let name = name_of(path);
        let path = path.to_string_lossy();
        quote! {
            #[test]
            fn #name() {
                // Compiled anew when it changes.
                const _: &[u8] = include_bytes!(#path);
                ::wfhost::testing::scenario(#project, Some(#path));
            }
        }
    });
    tests.collect()
}

/// `nobody-answers.toml` is the test `nobody_answers`.
fn name_of(path: &Path) -> Ident {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    // A name may begin with a digit, or be a word of the language.
    syn::parse_str(&name).unwrap_or_else(|_| Ident::new(&format!("scenario_{name}"), Span::call_site()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_names_of_tests() {
        for (file, name) in [
            ("wfhost-test.toml", "wfhost_test"),
            ("1st.toml", "scenario_1st"),
            ("loop.toml", "scenario_loop"),
        ] {
            assert_eq!(name_of(Path::new(file)).to_string(), name);
        }
    }
}
