//! Every command of the guide "Changing the code of a running workflow".

use wfhost_tests::{Place, eventually, module, target};

const GUIDE: &str = include_str!("../../../docs/changing-code.md");

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
        ("letter-1", include_str!("../../guests/letter-1/src/lib.rs")),
        ("letter-2", include_str!("../../guests/letter-2/src/lib.rs")),
        ("letter-3", include_str!("../../guests/letter-3/src/lib.rs")),
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

#[test]
fn a_run_that_failed_goes_on_with_mended_code_and_asks_nothing_again() {
    let place = Place::new();
    let script = place.script(serde_json::json!({ "default": { "reply": "${prompt}!" } }));
    let begun = place.run(["run", &module("letter-0"), "-i", "\"Ada\"", "--id", "r", "--agents", &script]);
    assert_eq!(begun.code(), Some(1), "{}", begun.stderr());
    assert!(begun.stderr().contains("the letter is too short"), "{}", begun.stderr());
    let journal = place.journal("r");
    // Other code than that is refused, and changes nothing.
    let error = place.run(["resume", "r", "--module", &module("letter-3")]).error(5, &place);
    assert!(error.contains("error[WF0201]") && error.contains("Outline a letter to Ada"), "{error}");
    assert!(error.contains("`wfhost fork r --at 1 --module MODULE`"), "{error}");
    assert_eq!(place.journal("r"), journal);
    let mended = place.run(["resume", "r", "--module", &module("letter-1"), "--no-wait"]);
    assert_eq!(mended.code(), Some(3), "{}", mended.stderr());
    place.run(["signal", "r", "send"]);
    assert_eq!(place.run(["resume", "r"]).ok_json(), "Send it: Write to Ada!!");
    let prompts: Vec<_> = place.calls().iter().map(|call| call["prompt"].clone()).collect();
    assert_eq!(prompts, ["Write to Ada", "Send it: Write to Ada!"]);
}

/// A workflow in C that calls an agent, waits for a signal, and tells what it is.
fn write_workflow(place: &Place, prompt: &str, result: &str) {
    let source = format!(
        "#include <wfhost.h>\n\
         wf_result workflow(const char *input) {{\n\
         \x20 wf_result answer = wf_agent((wf_request){{.prompt = \"{prompt}\"}});\n\
         \x20 if (!answer.json) return answer;\n\
         \x20 wf_result signal = wf_signal(\"go\", WF_FOREVER);\n\
         \x20 if (!signal.json) return signal;\n\
         \x20 return wf_ok(\"\\\"{result}\\\"\");\n\
         }}\n"
    );
    // As editors do: the file is never half there.
    place.file("wf/workflow.c.new", source);
    std::fs::rename(place.path("wf/workflow.c.new"), place.path("wf/workflow.c")).unwrap();
}

#[test]
fn what_waits_goes_on_with_each_build_that_agrees() {
    let place = Place::new();
    let made = place.wfhost(["new", "wf", "-t", "c"]).current_dir(place.path("")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    write_workflow(&place, "one", "first");
    let said = std::fs::File::create(place.path("said")).unwrap();
    let mut child = place
        .wfhost(["dev", "wf", "-i", "null", "--agent", "echo"])
        .current_dir(place.path(""))
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .spawn()
        .unwrap();
    let text = || std::fs::read_to_string(place.path("said")).unwrap();
    let says = |what: &str| {
        eventually(what, || text().contains(what).then_some(()));
    };
    let runs = || place.run(["ps", "-o", "json"]).ok_json()["runs"].as_array().unwrap().clone();
    let waiting = |count: usize| {
        eventually("they wait", || {
            let runs: Vec<_> = runs().into_iter().filter(|run| run["state"] == "waiting").collect();
            (runs.len() == count).then(|| runs[0]["id"].as_str().unwrap().to_owned())
        })
    };
    let first = waiting(1);
    // What another project does in the same database is not shown here, nor is its output.
    std::fs::create_dir(place.path("other")).unwrap();
    place.file("other/wfhost.toml", "");
    let mut strange = place.wfhost(["run", &module("probe"), "-i", r#"{"do":["info"]}"#, "--id", "strange"]);
    let strange = strange.current_dir(place.path("other")).output().unwrap();
    assert!(strange.status.success(), "{}", String::from_utf8_lossy(&strange.stderr));
    // A program that cannot be built ends nothing.
    place.file("wf/workflow.c", "#include <wfhost.h>\nthis is no C");
    says("for the next change; runs continue on the previous build");
    write_workflow(&place, "one", "second");
    says(&format!("{first} to this build"));
    assert_eq!(place.run(["signal", &first, "go"]).code(), Some(0));
    says("\"second\"");
    assert_eq!(place.show(&first)["output"], "second");
    // With the next build another one begins, and one that it does not fit stays as it is.
    write_workflow(&place, "one", "third");
    let second = waiting(1);
    assert_ne!(first, second);
    write_workflow(&place, "two", "third");
    says(&format!("{second} stays on its build"));
    waiting(2);
    assert_eq!(place.run(["signal", &second, "go"]).code(), Some(0));
    says("\"third\"");
    // What is written without a change is no change.
    let builds = text().matches("Built").count();
    write_workflow(&place, "two", "third");
    says("the same as before");
    assert_eq!(text().matches("Built").count(), builds + 1);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(text().trim_end().ends_with("nothing is lost") && !text().contains("strange"), "{}", text());
    assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0));
}

#[test]
fn what_is_no_project_cannot_be_watched() {
    let place = Place::new();
    let error = place.run(["dev", "nowhere"]).error(2, &place);
    assert!(error.starts_with("error[WF0004]: nowhere is not a directory"), "{error}");
    let error = place.run(["dev", "-i", "{"]).error(2, &place);
    assert!(error.starts_with("error[WF0002]"), "{error}");
}
