//! `src/bindings.rs` is generated from `wit/` and kept in the repository, so that a workflow's
//! first build takes seconds. This test keeps the two equal.
//!
//! After a change of the WIT: `UPDATE_BINDINGS=1 cargo test -p wfhost-sdk --test bindings`.

use std::path::{Path, PathBuf};

use wit_bindgen_core::{Files, WorldGenerator, wit_parser::Resolve};
use wit_bindgen_rust::Opts;

const COMMAND: &str = "UPDATE_BINDINGS=1 cargo test -p wfhost-sdk --test bindings";

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn generate(wit: &Path) -> String {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit).expect("the WIT package parses");
    let world =
        resolve.select_world(&[package], Some("workflow")).expect("the package has a world `workflow`");
    let options = Opts {
        format: true,
        pub_export_macro: true,
        export_macro_name: Some("export_workflow".to_owned()),
        default_bindings_module: Some("::wfhost::__private::bindings".to_owned()),
        ..Opts::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files).expect("bindings can be generated");
    let (_, code) = files.iter().next().expect("one file is generated");
    format!(
        "// From wit/workflow.wit, rewritten by\n// {COMMAND}\n{}",
        std::str::from_utf8(code).expect("generated code is text")
    )
}

#[test]
fn bindings_are_those_of_the_wit_package() {
    let kept = here().join("src/bindings.rs");
    let generated = generate(&here().join("../wit"));
    if std::env::var_os("UPDATE_BINDINGS").is_some() {
        std::fs::write(&kept, &generated).expect("src/bindings.rs can be written");
    }
    let kept = std::fs::read_to_string(&kept).unwrap_or_default();
    assert!(
        kept == generated,
        "guest-sdk/src/bindings.rs is not what wit/ says; rewrite it by\n    {COMMAND}"
    );
}
