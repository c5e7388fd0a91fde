//! Every command of the guide "Changing the code of a running workflow".

use wfhost_tests::{Place, module, target};

const GUIDE: &str = include_str!("../../docs/changing-code.md");

/// The fenced blocks whose first line begins so, without their fences.
fn blocks(fence: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut parts = GUIDE.split("```").skip(1).step_by(2);
    let fence = fence.to_owned();
    std::iter::from_fn(move || parts.find(|part| part.starts_with(&fence))).map(|block| {
        let (info, body) = block.split_once('\n').unwrap();
        (info, body)
    })
}

#[test]
fn the_code_of_the_guide_is_that_of_the_modules() {
    let sources = [
        ("letter-1", include_str!("../guests/letter-1/src/lib.rs")),
        ("letter-2", include_str!("../guests/letter-2/src/lib.rs")),
        ("letter-3", include_str!("../guests/letter-3/src/lib.rs")),
    ];
    let shown: Vec<_> =
        blocks("rust").map(|(info, body)| (info.strip_prefix("rust ").unwrap(), body)).collect();
    assert_eq!(shown, sources);
}

#[test]
fn every_command_of_the_guide_does_what_it_says() {
    let place = Place::new();
    for version in ["1", "2", "3"] {
        let dir = place.path(&format!("v{version}"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::copy(module(&format!("letter-{version}")), dir.join("letter.wasm")).unwrap();
    }
    let path = format!("{}:{}", target().join("debug").display(), std::env::var("PATH").unwrap());
    let mut commands = 0;
    for (_, block) in blocks("console") {
        let mut steps: Vec<(&str, i32, String)> = Vec::new();
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => {
                    let (command, exit) = command.split_once("      # exit ").unwrap_or((command, "0"));
                    steps.push((command, exit.parse().unwrap(), String::new()));
                }
                None => steps.last_mut().unwrap().2.push_str(&format!("{line}\n")),
            }
        }
        for (command, exit, output) in steps {
            let mut shell = place.wfhost([""; 0]);
            let environment: Vec<_> =
                shell.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
            shell = std::process::Command::new("sh");
            shell.args(["-c", command]).current_dir(place.path("")).env("PATH", &path);
            for (name, value) in environment {
                match value {
                    Some(value) => shell.env(name, value),
                    None => shell.env_remove(name),
                };
            }
            let ran = shell.output().unwrap();
            let error = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(ran.status.code(), Some(exit), "{command}: {error}");
            if !output.is_empty() {
                assert_eq!(String::from_utf8_lossy(&ran.stdout), output, "{command}: {error}");
            }
            commands += 1;
        }
    }
    assert!(commands > 20, "{commands}");
}
