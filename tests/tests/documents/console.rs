//! Documents are executed: each `$ command` of a block `console`, in order, in a directory and with a database of
//! their own. What stands below a command is part of what it prints, in that order; `…` stands for anything.
//!
//! Comments of Markdown, which no reader sees, say what is done besides:
//!
//! * `<!-- file: NAME -->`: the block below is that file.
//! * `<!-- same as: NAME -->`: the block below is what that file has.
//! * `<!-- replace: NAME: OLD -> NEW -->`: as the text around it says.

use std::path::{Path, PathBuf};
use std::process::Command;

use wfhost_tests::{Place, target};

use super::root;

#[derive(Debug)]
enum Piece {
    File { name: String, text: String },
    Same { name: String, text: String },
    Replace { name: String, old: String, new: String },
    Command { line: String, code: i32, shows: Vec<String> },
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut lines = text.lines().peekable();
    let comment = |line: &str, key: &str| {
        let inner = line.strip_prefix("<!-- ")?.strip_suffix(" -->")?;
        inner.strip_prefix(key)?.strip_prefix(": ").map(str::to_owned)
    };
    while let Some(line) = lines.next() {
        let mut block = || {
            let body = lines.by_ref().skip(1).take_while(|line| *line != "```");
            body.fold(String::new(), |text, line| text + line + "\n")
        };
        if let Some(name) = comment(line, "file") {
            pieces.push(Piece::File { name, text: block() });
        } else if let Some(name) = comment(line, "same as") {
            pieces.push(Piece::Same { name, text: block() });
        } else if let Some(rest) = comment(line, "replace") {
            let (name, change) = rest.split_once(": ").unwrap();
            let (old, new) = change.split_once(" -> ").unwrap();
            let [name, old, new] = [name, old, new].map(str::to_owned);
            pieces.push(Piece::Replace { name, old, new });
        } else if line == "```console" {
            for line in lines.by_ref().take_while(|line| *line != "```") {
                if let Some(command) = line.strip_prefix("$ ") {
                    let (command, code) = command.split_once("# exit code ").unwrap_or((command, "0"));
                    let (line, code) = (command.trim().to_owned(), code.trim().parse().unwrap());
                    pieces.push(Piece::Command { line, code, shows: Vec::new() });
                } else if let Some(Piece::Command { shows, .. }) = pieces.last_mut() {
                    shows.push(line.to_owned());
                } else {
                    panic!("{line} belongs to no command");
                }
            }
        }
    }
    pieces
}

/// Whether what was printed has these lines, in their order.
fn has(printed: &str, shows: &[String]) -> bool {
    let mut rest = printed.lines();
    shows.iter().all(|shown| {
        let parts: Vec<&str> = shown.split('…').collect();
        rest.any(|line| match parts.as_slice() {
            [whole] => line == *whole,
            parts => {
                let mut at = 0;
                line.starts_with(parts[0])
                    && line.ends_with(parts[parts.len() - 1])
                    && parts.iter().all(|part| {
                        let found = line[at..].find(part).map(|found| at + found + part.len());
                        found.inspect(|end| at = *end).is_some()
                    })
            }
        })
    })
}

/// What setting up tools stands for, which are there already.
fn provide(dir: &Path, line: &str) -> bool {
    match line {
        "npm install" => {
            std::os::unix::fs::symlink(root().join("guest-sdk/js/node_modules"), dir.join("node_modules"))
                .unwrap();
            true
        }
        _ => line == "python3 -m venv .venv" || line.starts_with(".venv/bin/pip install"),
    }
}

/// Does all that a document says.
fn follow(document: &str) {
    let place = Place::in_file();
    let mut dir = place.path("home");
    std::fs::create_dir(&dir).unwrap();
    let text = std::fs::read_to_string(root().join("docs").join(document)).unwrap();
    let path = format!("{}:{}", target().join("debug").display(), std::env::var("PATH").unwrap());
    let mut commands = 0;
    for piece in pieces(&text) {
        match piece {
            Piece::File { name, text } => std::fs::write(dir.join(name), text).unwrap(),
            Piece::Same { name, text } => {
                assert_eq!(std::fs::read_to_string(dir.join(&name)).unwrap(), text, "{document}: {name}");
            }
            Piece::Replace { name, old, new } => {
                let before = std::fs::read_to_string(dir.join(&name)).unwrap();
                assert!(before.contains(&old), "{document}: {name} has no {old}");
                std::fs::write(dir.join(&name), before.replace(&old, &new)).unwrap();
            }
            Piece::Command { line, code, shows } => {
                commands += 1;
                if let Some(to) = line.strip_prefix("cd ") {
                    dir = dir
                        .join(to)
                        .canonicalize()
                        .unwrap_or_else(|error| panic!("{document}: {to}: {error}"));
                    continue;
                }
                if provide(&dir, &line) {
                    continue;
                }
                let mut shell = Command::new("sh");
                // The environment of the place: its database, and nothing of the user's.
                let wfhost = place.wfhost([""; 0]);
                shell.envs(wfhost.get_envs().filter_map(|(name, value)| Some((name, value?))));
                shell.env("PATH", &path).arg("-c").arg(&line).current_dir(&dir);
                shell
                    .env_remove("ANTHROPIC_API_KEY")
                    .env_remove("OPENAI_API_KEY")
                    .env_remove("CARGO_TARGET_DIR");
                let output = shell.output().unwrap();
                let [out, err] =
                    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
                let printed = format!("{out}{err}");
                assert_eq!(output.status.code(), Some(code), "{document}: {line}\n{printed}");
                assert!(
                    has(&printed, &shows),
                    "{document}: {line}\nshows\n{}\nand prints\n{printed}",
                    shows.join("\n")
                );
            }
        }
    }
    assert!(commands > 3, "{document} has commands");
}

#[test]
fn the_tutorial_can_be_followed() {
    follow("tutorial.md");
}

#[test]
fn the_first_workflow_in_rust_can_be_followed() {
    follow("first/rust.md");
}

#[test]
fn the_first_workflow_in_typescript_can_be_followed() {
    follow("first/typescript.md");
}

#[test]
fn the_first_workflow_in_python_can_be_followed() {
    follow("first/python.md");
}

#[test]
fn the_first_workflow_in_go_can_be_followed() {
    follow("first/go.md");
}

#[test]
fn the_first_workflow_in_c_can_be_followed() {
    follow("first/c.md");
}

/// What README shows first is a program.
#[test]
fn the_program_of_the_readme_is_built_and_does_what_is_said() {
    let place = Place::in_file();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let shown = readme.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let before = "from dataclasses import dataclass\nfrom datetime import timedelta\n\n\
                  from wfhost import agent, ask, parallel_map\n\n\
                  @dataclass\nclass Choice:\n    index: int\n    reason: str\n\n";
    std::fs::create_dir(place.path("project")).unwrap();
    place.file("project/workflow.py", format!("{before}{shown}"));
    let agents = place.script(serde_json::json!({ "rules": [
        { "match": "^Write a (\\w+)", "reply": "the $1 one" },
        { "match": "^Which", "reply": { "index": 1, "reason": "It is longer." } },
        { "match": "^Publish", "reply": "done" },
    ] }));
    let project = place.path("project").display().to_string();
    let begun = place.run(["run", &project, "-i", "\"bees\"", "--id", "r", "--agents", &agents, "--no-wait"]);
    assert_eq!(begun.code(), Some(3), "{}", begun.stderr());
    assert_eq!(place.run(["approve", "r"]).code(), Some(0));
    assert_eq!(place.run(["resume", "r"]).ok_json(), "the long one");
    assert_eq!(place.calls().len(), 4);
}

/// The guide shows a program that is compiled and does what it says.
#[path = "../../../host/examples/embed.rs"]
#[allow(dead_code, reason = "here its `main` is the test")]
mod embed;

#[tokio::test]
async fn the_program_of_the_embedding_guide_runs_a_workflow() {
    let program = include_str!("../../../host/examples/embed.rs");
    let guide = std::fs::read_to_string(root().join("docs/embedding.md")).unwrap();
    let shown = guide.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(shown, program, "docs/embedding.md shows host/examples/embed.rs");
    let place = Place::in_file();
    let hello = PathBuf::from(wfhost_tests::module("hello"));
    for _ in 0..2 {
        // The second time the run is there already.
        let result = embed::run(&hello, &place.db(), r#"{"name":"Ada"}"#).await.unwrap();
        assert!(result.contains("ADA"), "{result}");
    }
    assert_eq!(place.run(["ps", "-o", "json"]).ok_json()["runs"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_shown_is_found_in_its_order() {
    let shows = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert!(has("a\nrun_17 completed now\nb", &shows(&["a", "…completed…"])));
    assert!(!has("run_17 completed now\na", &shows(&["a", "…completed…"])));
    assert!(!has("ab", &shows(&["a"])));
}
