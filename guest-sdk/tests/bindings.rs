//! `src/bindings.rs`, `c/bindings` and `go/internal/bindings` are generated from `wit/` and kept in the repository, so that
//! a workflow's first build takes seconds and no generator. This test keeps them equal.
//!
//! After a change of the WIT: `UPDATE_BINDINGS=1 cargo test -p wfhost-sdk --test bindings`.

use std::path::{Path, PathBuf};

use wit_bindgen_core::{
    Files, WorldGenerator,
    wit_parser::{Resolve, WorldId},
};
use wit_bindgen_rust::Opts;

const COMMAND: &str = "UPDATE_BINDINGS=1 cargo test -p wfhost-sdk --test bindings";

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn world(wit: &Path) -> (Resolve, WorldId) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit).expect("the WIT package parses");
    let world =
        resolve.select_world(&[package], Some("workflow")).expect("the package has a world `workflow`");
    (resolve, world)
}

fn generate(wit: &Path) -> String {
    let (mut resolve, world) = world(wit);
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
    let code = std::str::from_utf8(code).expect("generated code is text");
    // The section that says what the world imports. It would become a part of plugins as well.
    let section = "#[cfg(target_arch = \"wasm32\")]\n#[unsafe(\n    link_section";
    assert_eq!(code.matches(section).count(), 1, "the section is found");
    let ours = section
        .replace("target_arch = \"wasm32\"", "all(target_arch = \"wasm32\", not(feature = \"plugin\"))");
    format!("// From wit/workflow.wit, rewritten by\n// {COMMAND}\n{}", code.replace(section, &ours))
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

/// The packages that `wit/plugin-sdk.wit` is made of, each after those that it needs.
const PLUGIN_SDK: [&str; 5] = [
    "../host/runtime/wit/deps/io.wit",
    "../host/runtime/wit/deps/clocks.wit",
    "wit/http.wit",
    "../wit/plugin/plugin.wit",
    "wit/plugin-sdk.wit",
];

#[test]
fn bindings_of_plugins_are_those_of_the_wit_package() {
    let mut resolve = Resolve::default();
    let packages = PLUGIN_SDK.map(|file| {
        let text = std::fs::read_to_string(here().join(file)).expect("it is there");
        resolve.push_str(file, &text).expect("the WIT package parses")
    });
    let world = resolve.select_world(&packages[4..], Some("sdk")).expect("the package has a world `sdk`");
    let options = Opts {
        format: true,
        pub_export_macro: true,
        export_macro_name: Some("export_agent".to_owned()),
        default_bindings_module: Some("::wfhost::__private::plugin_bindings".to_owned()),
        generate_all: true,
        ..Opts::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files).expect("bindings can be generated");
    let (_, code) = files.iter().next().expect("one file is generated");
    let code = std::str::from_utf8(code).expect("generated code is text");
    let code = format!("// From wit/plugin and guest-sdk/wit, rewritten by\n// {COMMAND}\n{code}");
    same("src/plugin", "bindings.rs", code.as_bytes());
}

#[test]
fn c_bindings_are_those_of_the_wit_package() {
    let (mut resolve, world) = world(&here().join("../wit"));
    let mut files = Files::default();
    let mut generator = wit_bindgen_c::Opts::default().build();
    generator.generate(&mut resolve, world, &mut files).expect("bindings can be generated");
    for (name, generated) in files.iter().filter(|(name, _)| !name.ends_with(".o")) {
        same("c/bindings", name, generated);
    }
}

/// The module of the Go SDK.
const GO_MODULE: &str = "github.com/wfhost/wfhost/guest-sdk/go";

#[test]
fn go_bindings_are_those_of_the_wit_package() {
    let (mut resolve, world) = world(&here().join("../wit"));
    let mut files = Files::default();
    let options = wit_bindgen_go::Opts {
        // Not what the machine's own gofmt makes of it.
        format: wit_bindgen_go::Format::False,
        pkg_name: Some(format!("{GO_MODULE}/internal/bindings")),
        ..wit_bindgen_go::Opts::default()
    };
    options.build().generate(&mut resolve, world, &mut files).expect("bindings can be generated");
    for (name, generated) in files.iter() {
        // The runtime of the bindings is a part of the SDK, so that a build needs no network.
        let generated = std::str::from_utf8(generated).expect("generated code is text");
        let generated =
            generated.replace("go.bytecodealliance.org/pkg/wit", &format!("{GO_MODULE}/internal/wit"));
        same("go/internal/bindings", name, generated.as_bytes());
    }
}

/// Compares a file of the SDK with what was generated, or writes it.
fn same(dir: &str, name: &str, generated: &[u8]) {
    let kept = here().join(dir).join(name);
    if std::env::var_os("UPDATE_BINDINGS").is_some() {
        std::fs::write(&kept, generated).expect("the bindings can be written");
    }
    assert!(
        std::fs::read(&kept).unwrap_or_default() == generated,
        "guest-sdk/{dir}/{name} is not what wit/ says; rewrite it by\n    {COMMAND}"
    );
}
