//! `src/bindings.rs`, `c/bindings`, `go/internal/bindings` and `go/internal/plugin` are generated from `wit/` and kept in the repository, so that
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

fn plugin_world() -> (Resolve, WorldId) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(here().join("../wit/plugin")).expect("the WIT package parses");
    let world = resolve.select_world(&[package], Some("agent-plugin"));
    (resolve, world.expect("the package has a world `agent-plugin`"))
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

#[test]
fn bindings_of_plugins_are_those_of_the_wit_package() {
    let (mut resolve, world) = plugin_world();
    let options = Opts {
        format: true,
        pub_export_macro: true,
        export_macro_name: Some("export_agent".to_owned()),
        default_bindings_module: Some("::wfhost::__private::plugin_bindings".to_owned()),
        ..Opts::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files).expect("bindings can be generated");
    let (_, code) = files.iter().next().expect("one file is generated");
    let code = std::str::from_utf8(code).expect("generated code is text");
    let code = format!("// From wit/plugin/plugin.wit, rewritten by\n// {COMMAND}\n{code}");
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
    let (resolve, world) = world(&here().join("../wit"));
    go_bindings(resolve, world, "bindings");
    let (resolve, world) = plugin_world();
    go_bindings(resolve, world, "plugin");
}

/// Compares the packages of Go below `internal/NAME` with what is generated of a world.
fn go_bindings(mut resolve: Resolve, world: WorldId, name: &str) {
    let mut files = Files::default();
    let options = wit_bindgen_go::Opts {
        // Not what the machine's own gofmt makes of it.
        format: wit_bindgen_go::Format::False,
        pkg_name: Some(format!("{GO_MODULE}/internal/{name}")),
        ..wit_bindgen_go::Opts::default()
    };
    options.build().generate(&mut resolve, world, &mut files).expect("bindings can be generated");
    for (file, generated) in files.iter() {
        // The runtime of the bindings is a part of the SDK, so that a build needs no network.
        let generated = std::str::from_utf8(generated).expect("generated code is text");
        let generated =
            generated.replace("go.bytecodealliance.org/pkg/wit", &format!("{GO_MODULE}/internal/wit"));
        same(&format!("go/internal/{name}"), file, generated.as_bytes());
    }
}

/// Compares a file of the SDK with what was generated, or writes it.
fn same(dir: &str, name: &str, generated: &[u8]) {
    let kept = here().join(dir).join(name);
    if std::env::var_os("UPDATE_BINDINGS").is_some() {
        let dir = kept.parent().expect("it is in a directory");
        std::fs::create_dir_all(dir).expect("the directory can be made");
        std::fs::write(&kept, generated).expect("the bindings can be written");
    }
    assert!(
        std::fs::read(&kept).unwrap_or_default() == generated,
        "guest-sdk/{dir}/{name} is not what wit/ says; rewrite it by\n    {COMMAND}"
    );
}
