//! What docs/postgres.md says can be typed.

use std::path::Path;
use std::process::Command;

use wfhost_tests::{Place, module, target};

/// The commands of all blocks for a shell, in their order.
fn commands() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/postgres.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn each_command_of_the_guide_does_what_it_says() {
    let place = Place::in_file();
    std::fs::copy(module("hello"), place.path("hello.wasm")).expect("the example");
    let begun =
        place.run(["run", &module("hello"), "-i", r#"{"name":"Eve"}"#, "--agent", "echo", "--id", "before"]);
    assert_eq!(begun.code(), Some(0), "{}", begun.stderr());

    let commands = commands();
    assert!(commands.len() >= 11, "{commands:?}");
    let (mut script, mut served) = ("set -e\n".to_owned(), 0);
    for command in &commands {
        let command = command.replace(
            "postgres://wfhost@db.example.com/workflows?sslmode=verify-full",
            &private_postgres_url(),
        );
        script.push_str(&format!("echo '+ {}'\n", command.replace('\'', "")));
        // On each of two machines, which begin before the run, and end with it.
        if command == "wfhost serve" {
            served += 1;
            script.push_str("wfhost serve -q & ONE=$!\nwfhost serve -q & OTHER=$!\n");
            script.push_str("trap 'kill $ONE $OTHER 2>/dev/null || true' EXIT\n");
        } else {
            script.push_str(&command);
            script.push('\n');
        }
        // It is advanced by one of them.
        if command.starts_with("wfhost run") {
            script.push_str(
                "for n in $(seq 600); do wfhost show hello | grep -q completed && break; sleep 0.1; done\n",
            );
            script.push_str("kill $ONE $OTHER; wait $ONE $OTHER || true\n");
        }
    }
    assert_eq!(served, 1);
    let mut shell = Command::new("bash");
    let wfhost = place.wfhost(["ps"]);
    for (name, value) in wfhost.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let path = std::env::var("PATH").unwrap_or_default();
    shell
        .args(["-c", &script])
        .current_dir(place.path(""))
        .env("WFHOST_SYNCHRONOUS", "normal")
        .env("PATH", format!("{}:{path}", target().join("debug").display()));
    let ran = shell.output().expect("bash starts");
    let (said, told) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}\n{told}");
    // What was in the file is there, and what was begun on the server has ended.
    assert!(said.contains("before") && told.contains("all journals match"), "{said}\n{told}");
    assert!(said.contains("completed") && !said.contains("no process has picked it up"), "{said}");
    let back = place.path("copy.db");
    let there = place.run(["--db", &back.display().to_string(), "show", "before", "-o", "json"]).ok_json();
    assert_eq!(there["state"], "completed");
}

/// The same for the whole process.
fn private_postgres_url() -> String {
    static URL: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    URL.get_or_init(private_postgres::fresh_url).clone()
}
