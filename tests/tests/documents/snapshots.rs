//! What help and errors look like, as a whole: whoever changes a word sees it in the difference.
//!
//! `UPDATE_SNAPSHOTS=1` writes `tests/snapshots/` anew.

use wfhost_tests::{Place, Ran, module};

use super::root;

/// Compares with what is kept.
#[track_caller]
fn is_as_kept(name: &str, text: &str) {
    let file = root().join("tests/snapshots").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = kept.lines().zip(text.lines()).position(|(kept, new)| kept != new);
    let line = differs.unwrap_or(kept.lines().count().min(text.lines().count()));
    let at = |text: &str| text.lines().nth(line).unwrap_or("(its end)").to_owned();
    assert!(
        kept == text,
        "tests/snapshots/{name} differs in line {}\n  kept  {}\n  now   {}\nif that is meant: UPDATE_SNAPSHOTS=1 cargo nextest run --workspace --test documents snapshots",
        line + 1,
        at(&kept),
        at(text)
    );
}

#[test]
fn help_is_as_kept() {
    let place = Place::in_file();
    let long = place.run(["--help"]).stdout();
    let groups = long.lines().skip_while(|line| *line != "Start:").take_while(|line| *line != "Options:");
    let verbs: Vec<_> = groups
        .filter(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(verbs.len() > 50, "{verbs:?}");
    let mut text = format!("$ wfhost -h\n{}", place.run(["-h"]).stdout());
    for verb in verbs {
        text.push_str(&format!("\n$ wfhost {verb} -h\n{}", place.run([verb, "-h"]).stdout()));
    }
    // The options that all have are shown once.
    is_as_kept("help.txt", &text);
}

/// What people get to see when they mistype something or something is not there.
#[test]
fn errors_are_as_kept() {
    let place = Place::in_file();
    let hello = module("hello");
    let text = place.file("notes.txt", "no module");
    let core = place.file("core.wasm", b"\0asm\x01\0\0\0");
    let scenario = place.file("scenario.toml", "[[agents]]\nfails = 7\n");
    let agents = place.file("agents.json", "{ \"rules\": [ { \"match\": \"(\" } ] }");
    assert_eq!(place.run(["run", &hello, "--id", "done", "-q", "--agent", "echo"]).code(), Some(0));
    let cases: &[&[&str]] = &[
        &["rnu"],
        &["run", &hello, "--budgt", "1"],
        &["run", &text],
        &["run", &core],
        &["run", "./no-such.wasm"],
        &["run", "helo"],
        &["run", &hello, "-i", "{\"name\":}"],
        &["run", &hello, "-i", "@no-such.json"],
        &["run", &hello, "--agent", "ekho"],
        &["run", &hello, "--agents", &agents],
        &["run", &hello, "--budget", "tokens=many"],
        &["run", &hello, "--virtual-time", "-d"],
        &["run", &hello, "--id", "done"],
        &["show", "run_nobody"],
        &["resume", "run_nobody"],
        &["signal", "done", "go"],
        &["retry", "done"],
        &["answer", "done", "-i", "1"],
        &["fork", "done", "--at", "900"],
        &["test", &hello, "--scenario", &scenario],
        &["schedule", "add", "x", "--cron", "99 * * * *", &hello],
        &["explain", "WF9999"],
        &["build", "/"],
        &["db", "import", &text],
        &["config", "show", "--config", &text],
    ];
    let shown = |argument: &str| {
        let shown =
            argument.replace(&place.path("").display().to_string(), "DIR/").replace(&hello, "hello.wasm");
        if shown.contains(['{', ' ', '*']) { format!("'{shown}'") } else { shown }
    };
    let mut all = String::new();
    for args in cases {
        let Ran(output) = place.run(*args);
        assert!(!output.status.success(), "{args:?} is a mistake");
        let command: Vec<_> = args.iter().map(|argument| shown(argument)).collect();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = said.replace(&place.path("").display().to_string(), "DIR/").replace(&hello, "hello.wasm");
        all.push_str(&format!(
            "$ wfhost {}    # exit code {}\n{said}\n",
            command.join(" "),
            output.status.code().unwrap_or(-1)
        ));
    }
    is_as_kept("errors.txt", &all);
}
