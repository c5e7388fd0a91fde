//! `wfhost.toml`, `config show` and `doctor`.

use serde_json::Value;
use wfhost_tests::Place;

use crate::{program, wfhost};

#[track_caller]
fn refused(text: &str, code: &str, said: &[&str]) {
    let place = Place::new();
    place.file("wfhost.toml", text);
    let ran = wfhost(&place, &["config", "show"]);
    assert_eq!(ran.code(), Some(2), "{}", ran.stdout());
    for said in said.iter().chain([&format!("error[{code}]").as_str()]) {
        assert!(ran.stderr().contains(said), "{said}: {}", ran.stderr());
    }
    assert_eq!(place.run(["explain", code]).code(), Some(0));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_name() {
    refused("[agnets]\n", "WF0702", &["unknown key `agnets`", "did you mean `agents`?"]);
    refused("[agents]\ndefualt = \"x\"\n", "WF0702", &["`defualt` in [agents]", "did you mean `default`?"]);
    refused(
        "[agents.retry]\nmax_atempts = 1\n",
        "WF0702",
        &["in [agents.retry]", "did you mean `max_attempts`?"],
    );
    let provider = "[providers.gpt]\nkind = \"openai\"\nmodell = \"m\"\n";
    refused(provider, "WF0702", &["`modell` in [providers.gpt]", "did you mean `model`?"]);
    refused("[workspaces.w]\nkind = \"dir\"\npth = \".\"\n", "WF0702", &["did you mean `path`?"]);
    refused("[prices.m]\ninput = 1\noutput = 1\ncache = 1\n", "WF0702", &["did you mean `cached`?"]);
}

#[test]
fn secrets_have_no_place_in_a_file() {
    refused(
        "[providers.g]\nkind = \"openai\"\napi_key = \"sk-123\"\n",
        "WF0703",
        &["api_key_env = \"NAME\""],
    );
    refused(
        "[providers.g]\nkind = \"openai\"\napi_key_env = \"sk-123-456\"\n",
        "WF0703",
        &["providers.g.api_key_env"],
    );
    let header = "[providers.g]\nkind = \"http\"\nurl = \"https://example.com\"\nheaders = { Authorization = \"x\" }\n";
    refused(header, "WF0703", &["headers.Authorization"]);
    let url = "[providers.g]\nkind = \"http\"\nurl = \"https://me:pw@example.com/\"\n";
    refused(url, "WF0703", &["remove the user and the password from the URL"]);
    let set = "[providers.g]\nkind = \"command\"\nargv = [\"x\"]\nset = { GH_TOKEN = \"x\" }\n";
    refused(set, "WF0703", &["secrets = { GH_TOKEN = { env = \"NAME\" } }"]);
}

#[test]
fn values_that_cannot_be_used_are_named() {
    refused("[agents\n", "WF0701", &["1 | [agents"]);
    refused(
        "[agents.limits]\nattempt = \"soon\"\n",
        "WF0704",
        &["agents.limits", "a number with ms, s, m, h or d"],
    );
    refused("[providers.g]\nkind = \"telepathy\"\n", "WF0704", &["known kinds: command, openai, anthropic"]);
    refused("[providers.g]\nmodel = \"m\"\n", "WF0704", &["providers.g.kind", "it is missing"]);
    refused("[providers.g]\nkind = \"command\"\n", "WF0704", &["needs `argv` or `preset`"]);
    refused(
        "[providers.g]\nkind = \"command\"\npreset = \"clod\"\n",
        "WF0704",
        &["known presets: claude, codex"],
    );
    refused("[workspaces.w]\nkind = \"worktree\"\n", "WF0704", &["needs a `repository`"]);
    refused("[providers.g]\nkind = \"openai\"\nmax_parallel = 0\n", "WF0704", &["a number of at least 1"]);
}

#[test]
fn each_value_is_shown_with_its_origin() {
    let place = Place::in_file();
    place.file(
        "wfhost.toml",
        "[agents]\ndefault = \"gpt\"\nretry = { max_attempts = 7 }\n[providers.gpt]\nkind = \"openai\"\n",
    );
    std::fs::create_dir_all(place.path("config/wfhost")).unwrap();
    place.file(
        "config/wfhost/config.toml",
        "[agents]\ndefault = \"mine\"\nretry = { initial = \"3s\" }\n[providers.gpt]\nkind = \"human\"\n",
    );
    let shown = wfhost(&place, &["config", "show"]).stdout();
    let project = place.path("wfhost.toml").display().to_string();
    let user = place.path("config/wfhost/config.toml").display().to_string();
    let db = place.db().display().to_string();
    for line in [
        format!("agents.default = \"gpt\"   # project, {project}"),
        format!("agents.retry.max_attempts = 7   # project, {project}"),
        format!("agents.retry.initial = \"3s\"   # user, {user}"),
        "agents.retry.max = \"60s\"   # default".to_owned(),
        format!("providers.gpt.kind = \"openai\"   # project, {project}"),
        format!("store.url = \"{db}\"   # environment, WFHOST_DB"),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    let json: Value =
        serde_json::from_str(&wfhost(&place, &["config", "show", "-o", "json"]).stdout()).unwrap();
    assert_eq!(json["schema"], "wfhost/config/1");
    // The environment goes before the files.
    let mut command = place.wfhost(["config", "show", "--config", &project]);
    let output = command.env("WFHOST_AGENT", "echo").output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("agents.default = \"echo\"   # environment, WFHOST_AGENT"), "{shown}");
}

#[test]
fn the_project_s_file_is_found_upward() {
    let place = Place::new();
    place.file("wfhost.toml", "[agents]\ndefault = \"human\"\n");
    let below = place.path("a/b");
    std::fs::create_dir_all(&below).unwrap();
    let output = place.wfhost(["config", "show"]).current_dir(below).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("agents.default = \"human\"   # project, "), "{shown}");
}

#[test]
fn doctor_checks_each_provider_and_asks_nobody() {
    let place = Place::new();
    let fine = program(&place, "fine.sh", "#!/bin/sh\necho asked > \"$0.asked\"\n");
    place.file(
        "wfhost.toml",
        format!(
            "[providers.fine]\nkind = \"command\"\nargv = [{fine:?}]\n\
             [providers.gone]\nkind = \"command\"\nargv = [\"wfhost-no-such-program\"]\n\
             [providers.keyless]\nkind = \"anthropic\"\napi_key_env = \"WFHOST_NO_SUCH_KEY\"\n"
        ),
    );
    let ran = wfhost(&place, &["doctor"]);
    assert_eq!(ran.code(), Some(4), "{}", ran.stdout());
    for line in [
        "✓ provider fine",
        "✗ provider gone: `wfhost-no-such-program` not found on PATH",
        "✗ provider keyless: the environment variable WFHOST_NO_SUCH_KEY is not set",
        "✓ provider echo",
    ] {
        assert!(ran.stdout().lines().any(|shown| shown == line), "{line}\n{}", ran.stdout());
    }
    assert!(!place.path("fine.sh.asked").exists());
    place.file("wfhost.toml", "");
    assert_eq!(wfhost(&place, &["doctor"]).code(), Some(0));
}

#[test]
fn what_looks_like_a_credential_is_hidden_or_refused() {
    let place = Place::new();
    place.file(
        "wfhost.toml",
        "[providers.h]\nkind = \"http\"\nurl = \"https://x.example/v1?api_key=hunter2hunter2\"\n\
         [providers.c]\nkind = \"command\"\nargv = [\"./tool\", \"--token=hunter3hunter3\", \"ghp_0123456789abcdefghij\"]\n\
         set = { KEYBOARD = \"de\", MONKEY = \"1\" }\n",
    );
    let shown = crate::wfhost(&place, &["config", "show"]);
    assert_eq!(shown.code(), Some(0), "{}", shown.stderr());
    let shown = shown.stdout();
    assert!(
        shown.contains("https://x.example/v1?api_key=[redacted]") && shown.contains("KEYBOARD"),
        "{shown}"
    );
    for secret in ["hunter2", "hunter3", "ghp_0"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    place.file(
        "wfhost.toml",
        "[providers.c]\nkind = \"command\"\nargv = [\"./tool\"]\nset = { DATABASE_URL = \"postgres://ada:hunter4@db/x\" }\n",
    );
    let refused = crate::wfhost(&place, &["config", "show"]);
    assert!(
        refused.stderr().contains("error[WF0703]") && !refused.stderr().contains("hunter4"),
        "{}",
        refused.stderr()
    );
}

#[test]
fn a_step_without_lines_has_an_empty_transcript() {
    let place = Place::new();
    crate::run(&place, &crate::ask(serde_json::json!({"prompt": "p", "providers": ["echo"]})), &[]);
    let shown = place.run(["transcript", "r", "1", "--diff"]);
    assert_eq!((shown.code(), shown.stdout().as_str()), (Some(0), ""));
    assert!(shown.stderr().contains("step 1 of r has no such lines"), "{}", shown.stderr());
    for format in ["text", "json"] {
        assert_eq!(place.run(["transcript", "r", "7", "-o", format]).code(), Some(2));
    }
    assert!(place.run(["transcript", "r", "7"]).stderr().contains("error[WF0705]"));
    // A step without an agent is a step all the same.
    let question = serde_json::json!({"do": [{"ask": {"prompt": "Go?"}}]});
    crate::run(&place, &question, &["--id", "q", "--no-wait"]);
    for format in ["text", "json"] {
        let shown = place.run(["transcript", "q", "1", "-o", format]);
        assert_eq!((shown.code(), shown.stdout().as_str()), (Some(0), ""), "{}", shown.stderr());
    }
}

#[test]
fn doctor_says_what_only_stands_in_for_a_key_and_how_large_the_cache_is() {
    let place = Place::new();
    let told = |key: &str, format: &str| {
        let mut command = place.wfhost(["doctor", "-o", format]);
        let output = command.env("OPENAI_API_KEY", key).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = told("none", "text");
    assert!(text.contains("✓ provider openai: $OPENAI_API_KEY only stands in for a key"), "{text}");
    assert!(!told("sk-0123456789abcdef", "text").contains("stands in"));
    let cache = text.lines().find(|line| line.contains("cache ")).unwrap();
    assert!(cache.contains("compiled modules, ") && cache.ends_with("MiB of at most 2048 MiB"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&told("none", "json")).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let openai = findings.iter().find(|finding| finding["what"] == "provider openai").unwrap();
    assert!(openai["note"].is_string() && openai["problem"].is_null(), "{openai}");
}
