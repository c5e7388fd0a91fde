//! The pages, as a browser without JavaScript has them.

use std::collections::BTreeSet;

use serde_json::json;
use wfhost_tests::{Place, eventually};

use crate::client::{Answer, Server, add_probe, program, token};

/// A browser: it has a cookie, and sends forms.
pub struct Browser<'a> {
    server: &'a Server,
    cookie: String,
}

impl<'a> Browser<'a> {
    pub fn new(server: &'a Server, token: &str) -> Self {
        Self { server, cookie: server.log_in(token) }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        let headers = [("Cookie", self.cookie.as_str()), ("Sec-Fetch-Site", "same-origin")];
        self.server.try_ask("GET", path, &headers, b"").expect("an answer")
    }

    /// The text of a page.
    #[track_caller]
    pub fn page(&self, path: &str) -> String {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{path}");
        answer.text()
    }

    #[track_caller]
    pub fn send(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let headers = [
            ("Cookie", self.cookie.as_str()),
            ("Sec-Fetch-Site", "same-origin"),
            ("Content-Type", "application/x-www-form-urlencoded"),
        ];
        let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        self.server.try_ask("POST", path, &headers, body.join("&").as_bytes()).expect("an answer")
    }

    /// Sends a form that leads to a page, and gives its address.
    #[track_caller]
    pub fn act(&self, path: &str, fields: &[(&str, &str)]) -> String {
        let answer = self.send(path, fields);
        assert_eq!(answer.status, 303, "{path}: {}", answer.text());
        answer.header("location").expect("a place").to_owned()
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The addresses within a page that lead to others of this server.
fn links(html: &str) -> BTreeSet<String> {
    let parts = ["href=\"", "src=\"", "action=\""].iter().flat_map(|start| html.split(start).skip(1));
    let links = parts.filter_map(|rest| rest.split('"').next());
    links.map(|link| link.replace("&amp;", "&")).filter(|link| link.starts_with('/')).collect()
}

const HOSTILE: &str = "<script>alert(1)</script>\" onload='x' \u{202e}gpj\u{1b}[2J\u{200b}";

/// Nothing of it is markup, and what would be unseen is shown.
#[track_caller]
fn check_harmless(path: &str, html: &str) {
    assert!(!html.contains("<script>alert"), "{path}");
    assert!(!html.contains("\" onload='"), "{path}");
    for unseen in ['\u{202e}', '\u{1b}', '\u{200b}'] {
        assert!(!html.contains(unseen), "{path} has {unseen:?}");
    }
    // The policy for pages forbids what stands within them.
    assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains("javascript:"), "{path}");
    for script in html.split("<script").skip(1) {
        assert!(script.starts_with(" src=\"/ui/static/"), "{path}: {}", &script[..script.len().min(80)]);
    }
}

#[test]
fn each_page_is_whole_and_says_what_others_wrote_as_text() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let browser = Browser::new(&server, &server.token);
    let mut asked = program(&json!([
        { "agent": HOSTILE },
        { "log": HOSTILE },
        { "publish": { "key": HOSTILE, "value": HOSTILE } },
        { "ask": { "prompt": HOSTILE } }
    ]));
    asked["id"] = "hostile".into();
    asked["labels"] = json!({ "team": HOSTILE });
    asked["key"] = HOSTILE.into();
    server.post("/api/v1/runs", &asked);
    let mut other = program(&json!([{ "wait": { "name": "go" } }]));
    other["id"] = "waits".into();
    server.post("/api/v1/runs", &other);
    eventually("both wait", || {
        let runs = server.get("/api/v1/runs?state=waiting");
        (runs["runs"].as_array().map(Vec::len) == Some(2)).then_some(())
    });
    let list = browser.page("/ui");
    assert!(list.contains("&lt;script&gt;alert(1)") && list.contains("⟨U+202E⟩gpj"), "{list}");
    assert!(list.contains("signal go") || list.contains("`go`"), "why it waits is in the list: {list}");
    // Everything that links lead to, from the first page on.
    let mut left = vec!["/ui".to_owned(), format!("/ui?text={}", encoded(HOSTILE))];
    let mut seen: BTreeSet<String> = left.iter().cloned().collect();
    while let Some(path) = left.pop() {
        let answer = browser.get(&path);
        if path == "/ui/batch" {
            assert_eq!(answer.status, 400, "its form says what is to be done");
            continue;
        }
        let is_form = path.ends_with("/act") || path.ends_with("/answer") || path.ends_with("/deny");
        let is_form =
            is_form || path.ends_with("/fork") || path.ends_with("/verify") || path.ends_with("/signal");
        let is_form = is_form || path.ends_with("/remove") || path == "/ui/logout";
        let is_form = is_form || path.ends_with("/redeliver");
        if is_form {
            assert_eq!(answer.status, 405, "a link to {path} does nothing");
            continue;
        }
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        if !answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
            continue;
        }
        let html = answer.text();
        check_harmless(&path, &html);
        assert!(html.contains("<title>") && html.contains("</html>") && html.contains("<h1"), "{path}");
        left.extend(links(&html).into_iter().filter(|link| seen.insert(link.clone())));
    }
    for page in [
        "/ui/inbox",
        "/ui/start",
        "/ui/modules",
        "/ui/schedules",
        "/ui/workers",
        "/ui/tokens",
        "/ui/compare",
        "/ui/settings",
        "/ui/plugins",
        "/ui/sinks",
    ] {
        assert!(seen.contains(page), "{page} can be reached");
    }
    for page in ["/ui/runs/hostile/steps/1", "/ui/runs/hostile/at?entry=1", "/ui/runs/hostile/logs"] {
        assert!(seen.contains(page), "{page} can be reached: {seen:?}");
    }
}

#[test]
fn a_run_is_started_signalled_answered_forked_and_compared_by_forms() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let browser = Browser::new(&server, &server.token);
    assert!(browser.page("/ui").contains("Nothing has run here yet"));
    let bad =
        browser.send("/ui/start", &[("workflow", "probe"), ("input", "{\"do\": ["), ("labels", "team=red")]);
    assert_eq!(bad.status, 422);
    assert!(
        bad.text().contains("role=\"alert\"") && bad.text().contains("{&quot;do&quot;: ["),
        "{}",
        bad.text()
    );
    let input = json!({ "do": [
        { "agent": "first" },
        { "wait": { "name": "go" } },
        { "ask": { "prompt": "ship it?", "choices": ["yes", "no"] } }
    ] });
    let fields =
        [("workflow", "probe"), ("input", &*input.to_string()), ("labels", "team=red"), ("key", "k")];
    let first = browser.act("/ui/start", &fields);
    let path = first.split('?').next().unwrap().to_owned();
    let again = browser.act("/ui/start", &fields);
    assert!(
        again.starts_with(&path) && again.ends_with("said=known"),
        "the same key is the same run: {again}"
    );
    let run = path.strip_prefix("/ui/runs/").unwrap().to_owned();
    eventually("it waits for the signal", || browser.page(&path).contains("it waits for go").then_some(()));
    let refused = browser.send(&format!("{path}/signal"), &[("name", "gone"), ("payload", "{\"a\":")]);
    let text = refused.text();
    assert_eq!(refused.status, 422, "{text}");
    assert!(text.contains(">{&quot;a&quot;:</textarea>") && text.contains("value=\"gone\""), "{text}");
    assert!(text.contains("role=\"alert\"") && text.contains("the payload"), "{text}");
    browser.act(&format!("{path}/signal"), &[("name", "go"), ("payload", "{\"a\":1}")]);
    eventually("it asks", || browser.page("/ui/inbox").contains("ship it?").then_some(()));
    let question = server.get("/api/v1/questions")["questions"][0]["step"].as_u64().unwrap();
    let answer = format!("{path}/steps/{question}/answer");
    let wrong = browser.send(&answer, &[("f.", "\"maybe\""), ("note", "hm")]);
    assert_eq!(wrong.status, 422, "{}", wrong.text());
    assert!(
        wrong.text().contains("ship it?") && wrong.text().contains("value=\"hm\""),
        "the form comes again"
    );
    assert_eq!(browser.act(&answer, &[("f.", "\"yes\""), ("back", "inbox")]), "/ui/inbox?said=answered");
    eventually("it ends", || browser.page(&path).contains("state completed").then_some(()));
    assert!(!browser.page("/ui/inbox").contains("ship it?"));
    // Another answer at the first step, first as a preview, which makes nothing.
    let step = browser.page(&format!("{path}/steps/1"));
    let entry = step.split("name=\"entry\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let known = server.get(&format!("/api/v1/runs/{run}/steps/1"))["output"].to_string();
    let edited = known.replacen("first", "second", 1);
    let fork = format!("{path}/fork");
    let preview = browser.send(&fork, &[("entry", entry), ("answer", &edited), ("preview", "1")]);
    assert_eq!(preview.status, 200, "{}", preview.text());
    assert_eq!(server.get("/api/v1/runs")["runs"].as_array().unwrap().len(), 1);
    // One that is no JSON is there again, above the page of the step.
    let refused = browser.send(&fork, &[("step", "1"), ("entry", entry), ("answer", "\"seco")]);
    let text = refused.text();
    assert_eq!(refused.status, 422, "{text}");
    assert!(text.contains(">&quot;seco</textarea>") && text.contains("role=\"alert\""), "{text}");
    // Nor is there an entry of such a number.
    for beyond in ["100", "9223372036854775808", "18446744073709551615"] {
        for fields in [&[("entry", beyond), ("answer", "1")][..], &[("at", beyond)]] {
            for more in [&[][..], &[("preview", "1")], &[("step", "1")]] {
                let refused = browser.send(&fork, &[fields, more].concat());
                assert_eq!(refused.status, 422, "{fields:?} {more:?}: {}", refused.text());
            }
        }
        assert_eq!(browser.get(&format!("{path}/steps/{beyond}")).status, 404);
        for at in ["journal?from=", "logs?from=", "at?entry=", "?after="] {
            let there = format!("{path}/{at}{beyond}").replace("/?", "?");
            assert_eq!(browser.get(&there).status, 200, "{there}");
        }
    }
    let made = browser.act(&fork, &[("entry", entry), ("answer", &edited)]);
    let made = made.split('?').next().unwrap().strip_prefix("/ui/runs/").unwrap().to_owned();
    let compared = browser.page(&format!("/ui/compare?a={run}&b={made}"));
    assert!(compared.contains("first") && compared.contains("second"), "{compared}");
    // As it was before the signal came.
    let then = browser.page(&format!("{path}/at?entry=2"));
    assert!(then.contains("State at entry 2"), "{then}");
    let verified = browser.send(&format!("{path}/verify"), &[]);
    assert!(verified.text().contains("complete and unaltered"), "{}", verified.text());
    for (act, said) in [("pause", "paused"), ("resume", "resumed"), ("cancel", "asked")] {
        let to = browser.act(&format!("/ui/runs/{made}/act"), &[("act", act), ("reason", "enough")]);
        assert!(to.ends_with(said) || act == "pause", "{act}: {to}");
    }
    eventually("the fork is cancelled", || {
        (server.get(&format!("/api/v1/runs/{made}"))["state"] == "cancelled").then_some(())
    });
}

#[test]
fn pages_need_a_log_in_and_the_scopes_of_the_api() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([{ "agent": "the secret" }, { "wait": { "name": "go" } }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    eventually("it waits", || (server.get("/api/v1/runs/r")["state"] == "waiting").then_some(()));
    let pages = [
        "/ui",
        "/ui/runs/r",
        "/ui/runs/r/steps/1",
        "/ui/runs/r/chart",
        "/ui/inbox",
        "/ui/start",
        "/ui/tokens",
    ];
    for page in pages {
        let answer = server.try_ask("GET", page, &[], b"").unwrap();
        assert_eq!(answer.status, 303, "{page}");
        assert!(answer.header("location").unwrap().starts_with("/ui/login"), "{page}");
        // From another site the cookie does not come: the page leads to itself, and tells nothing.
        let crossing = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")];
        let answer = server.try_ask("GET", page, &crossing, b"").unwrap();
        assert!(
            answer.text().contains("http-equiv=\"refresh\"") && !answer.text().contains("secret"),
            "{page}"
        );
    }
    let nobody = server.try_ask("POST", "/ui/runs/r/act", &[], b"act=cancel").unwrap();
    assert!(nobody.status == 401 || nobody.status == 415, "{}", nobody.status);
    let reader = Browser::new(&server, &token(&place, "reader", "runs:read"));
    for page in ["/ui", "/ui/runs/r", "/ui/runs/r/steps/1", "/ui/runs/r/journal", "/ui/runs/r/chart"] {
        let answer = reader.get(page);
        assert_eq!(answer.status, 200, "{page}");
        assert!(!answer.text().contains("the secret"), "{page} tells payloads");
    }
    for page in [
        "/ui/inbox",
        "/ui/start",
        "/ui/tokens",
        "/ui/settings",
        "/ui/plugins",
        "/ui/sinks",
        "/ui/sinks/ops",
        "/ui/runs/r/at",
        "/ui/runs/r/logs",
        "/ui/compare",
        "/ui/batch?act=cancel&state=waiting",
    ] {
        assert_eq!(reader.get(page).status, 403, "{page}");
    }
    for (path, fields) in [
        ("/ui/runs/r/act", [("act", "cancel")].as_slice()),
        ("/ui/runs/r/signal", &[("name", "go")]),
        ("/ui/runs/r/fork", &[("at", "1")]),
        ("/ui/runs/r/steps/1/answer", &[("f.", "1")]),
        ("/ui/start", &[("workflow", "probe")]),
        ("/ui/batch", &[("act", "cancel"), ("state", "waiting"), ("expected", "1")]),
        ("/ui/tokens", &[("name", "x"), ("scope", "admin")]),
        ("/ui/sinks/ops/redeliver", &[]),
    ] {
        assert_eq!(reader.send(path, fields).status, 403, "{path}");
    }
    // A page of another site sends the same.
    let forged = [
        ("Cookie", reader.cookie.as_str()),
        ("Sec-Fetch-Site", "cross-site"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    assert_eq!(server.try_ask("POST", "/ui/runs/r/act", &forged, b"act=cancel").unwrap().status, 403);
    assert_eq!(server.get("/api/v1/runs/r")["state"], "waiting");
}

#[test]
fn many_runs_are_acted_on_after_a_look() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let browser = Browser::new(&server, &server.token);
    let start = |id: &str, team: &str| {
        let mut asked = program(&json!([{ "wait": { "name": "go" } }]));
        asked["id"] = id.into();
        asked["labels"] = json!({ "team": team });
        server.post("/api/v1/runs", &asked);
        eventually("it waits", || {
            (server.get(&format!("/api/v1/runs/{id}"))["state"] == "waiting").then_some(())
        });
    };
    for number in 0..3 {
        start(&format!("red-{number}"), "red");
    }
    start("blue", "blue");
    let state = |id: &str| server.get(&format!("/api/v1/runs/{id}"))["state"].as_str().unwrap().to_owned();
    // Without a filter it would be all: nothing is offered.
    assert!(!browser.page("/ui").contains("/ui/batch"));
    let list = browser.page("/ui?label=team%3Dred");
    assert!(list.contains("action=\"/ui/batch\"") && list.contains("value=\"team=red\""), "{list}");
    let preview = browser.page("/ui/batch?label=team%3Dred&act=terminate");
    assert!(
        preview.contains("Terminate 3 runs") && preview.contains("red-2") && !preview.contains("blue"),
        "{preview}"
    );
    assert!(preview.contains("cannot be undone"), "{preview}");
    assert_eq!(state("red-0"), "waiting", "looking does nothing");
    let filled = |expected: &'static str| {
        [("act", "terminate"), ("label", "team=red"), ("expected", expected), ("reason", "enough")]
    };
    // Another one came meanwhile.
    start("red-3", "red");
    let answer = browser.send("/ui/batch", &filled("3"));
    let text = answer.text();
    assert!(answer.status == 409 && text.contains("there are now 4"), "{text}");
    // The preview comes again as it is now, with what was filled in.
    assert!(text.contains("name=\"expected\" value=\"4\"") && text.contains("value=\"enough\""), "{text}");
    assert_eq!(state("red-0"), "waiting");
    // As many, and others.
    let fingerprint = |page: &str| {
        let rest = page.split_once("name=\"fingerprint\" value=\"").expect("a fingerprint").1;
        rest.split('"').next().expect("a value").to_owned()
    };
    let known = fingerprint(&browser.page("/ui/batch?label=team%3Dred&since=1h&act=terminate"));
    assert_eq!(known, fingerprint(&text), "they are the same runs");
    server.post("/api/v1/runs/red-3/terminate", &json!({}));
    assert_eq!(server.ask("DELETE", "/api/v1/runs/red-3", None).status, 200);
    start("red-4", "red");
    let with = |known: &'static str, fingerprint: &str| {
        let known: Vec<_> =
            filled(known).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let fields = known.into_iter().chain([("fingerprint".to_owned(), fingerprint.to_owned())]);
        fields.collect::<Vec<_>>()
    };
    let fields = with("4", &known);
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let answer = browser.send("/ui/batch", &fields);
    assert!(answer.status == 409 && answer.text().contains("other runs match now"), "{}", answer.text());
    assert_eq!(state("red-0"), "waiting");
    // A length of time before now is the time that it led to when the preview was made.
    let dated = browser.page("/ui/batch?label=team%3Dred&since=1h&act=terminate");
    let since = dated.split_once("name=\"since\" value=\"").expect("a time").1;
    assert!(since.split('"').next().is_some_and(|since| since.ends_with('Z')), "{dated}");
    let answer = browser.send("/ui/batch", &filled("4"));
    assert!(answer.status == 200 && answer.text().contains("Terminate: 4 runs done"), "{}", answer.text());
    eventually("they have ended", || {
        [0, 1, 2, 4].iter().all(|n| state(&format!("red-{n}")) == "cancelled").then_some(())
    });
    assert_eq!(state("blue"), "waiting");
    // What cannot be done with one is told of that one.
    let answer = browser.send("/ui/batch", &[("act", "pause"), ("label", "team=red"), ("expected", "4")]);
    assert!(answer.status == 200 && answer.text().contains("4 failed."), "{}", answer.text());
    let signal =
        [("act", "signal"), ("workflow", "probe"), ("state", "waiting"), ("expected", "1"), ("name", "go")];
    let bad: Vec<_> = signal.iter().copied().chain([("payload", "{")]).collect();
    let refused = browser.send("/ui/batch", &bad);
    let text = refused.text();
    assert_eq!(refused.status, 422, "{text}");
    assert!(text.contains(">{</textarea>") && text.contains("name=\"name\" value=\"go\""), "{text}");
    assert_eq!(browser.send("/ui/batch", &signal).status, 200);
    eventually("the signal came", || (state("blue") == "completed").then_some(()));
    for (fields, status) in [
        ([("act", "cancel"), ("expected", "5")].as_slice(), 422),
        (&[("act", "dance"), ("state", "waiting")], 400),
        (&[("act", "cancel"), ("state", "waiting")], 409),
        (&[("act", "cancel"), ("state", "dead"), ("expected", "0")], 422),
    ] {
        assert_eq!(browser.send("/ui/batch", fields).status, status, "{fields:?}");
    }
    let audit = server.ask("GET", "/api/v1/audit", None).text();
    assert!(audit.contains("red-4") && audit.contains("runs.terminate"), "{audit}");
}

#[test]
fn a_token_that_cannot_be_made_leaves_its_form_filled_in() {
    let place = Place::new();
    let server = Server::start(&place, &[]);
    let browser = Browser::new(&server, &server.token);
    let fields =
        [("name", "my <agent>"), ("scope", "runs:start"), ("scope", "runs:read"), ("expires", "soon")];
    let refused = browser.send("/ui/tokens", &fields);
    let text = refused.text();
    assert_eq!(refused.status, 422, "{text}");
    assert!(text.contains("role=\"alert\"") && text.contains("has to be a duration"), "{text}");
    assert!(text.contains("value=\"my &lt;agent&gt;\"") && text.contains("value=\"soon\""), "{text}");
    for (scope, is_chosen) in [("runs:start", true), ("runs:read", true), ("admin", false)] {
        assert_eq!(text.contains(&format!("value=\"{scope}\" checked")), is_chosen, "{scope}: {text}");
    }
    let made = browser.send("/ui/tokens", &[fields[0], fields[1], fields[2], ("expires", "1d")]);
    assert!(made.status == 201 && made.text().contains("shown only once"), "{}", made.text());
}

#[test]
fn settings_are_shown_with_who_says_so_and_without_secrets() {
    let place = Place::new();
    let config =
        "[agents]\ndefault = 'echo'\n[providers.mine]\nkind = 'http'\nurl = 'https://u:hunter2@h.example/'\n";
    // An address with a password is refused before anything is served.
    let file = place.file("bad.toml", config);
    let ran = place.run(["serve", "--listen", "off", "--idle", "0s", "--config", &file]);
    assert_eq!(ran.code(), Some(2), "{}", ran.stderr());
    let config = "[agents]\nlimits = { attempt = '7m' }\n[providers.tool]\nkind = 'command'\nargv = ['true', '--token', 'hunter2']\n\
                  [providers.plug]\nkind = 'plugin'\nplugin = 'missing.wasm'\naudit = true\n\
                  http = [{ url = 'https://api.example/*', methods = ['GET'], inject = { authorization = { env = 'KEY' } } }]\n";
    let file = place.file("wfhost.toml", config);
    let server = Server::start(&place, &["--config", &file]);
    let browser = Browser::new(&server, &server.token);
    let page = browser.page("/ui/settings");
    for text in [
        "agents.limits.attempt",
        "7m",
        "store.url",
        "agents.retry.max_attempts",
        "default",
        "server.listen",
        "flag, --listen",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let json = server.ask("GET", "/api/v1/settings", None);
    let settings = json.ok();
    assert_eq!(settings["schema"], "wfhost/config/1");
    for text in [page, json.text()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    let plugins = server.get("/api/v1/plugins");
    let plugin = &plugins["plugins"][0];
    assert_eq!(
        (&plugin["name"], &plugin["audit"], &plugin["digest"]),
        (&json!("plug"), &json!(true), &json!(null))
    );
    assert_eq!(plugin["http"][0]["inject"], json!(["authorization"]));
    let page = browser.page("/ui/plugins");
    assert!(page.contains("https://api.example/") && page.contains("not readable"), "{page}");
}

#[test]
fn a_call_that_waits_for_a_slot_is_seen_to_do_so_while_it_waits() {
    let place = Place::new();
    add_probe(&place);
    // One call at a time, and each takes until it is told to end.
    let go = place.path("go").display().to_string();
    let script = format!("while [ ! -e {go} ]; do sleep 0.02; done; echo done");
    let config = format!(
        "[agents.concurrency]\nhost = 1\n[providers.slow]\nkind = 'command'\nargv = ['sh', '-c', '{script}']\n"
    );
    let file = place.file("wfhost.toml", config);
    let server = Server::start(&place, &["--config", &file]);
    let browser = Browser::new(&server, &server.token);
    let call = json!({ "agent_of": { "provider": "slow", "prompt": "x" } });
    let mut asked = program(&json!([{ "parallel": [call, call] }]));
    asked["id"] = "two".into();
    server.post("/api/v1/runs", &asked);
    let states = || {
        let chart = browser.get("/ui/runs/two/chart").ok();
        let steps = chart["steps"].as_array().unwrap().iter();
        let mut states: Vec<_> =
            steps.map(|step| step["attempts"][0]["state"].as_str().unwrap().to_owned()).collect();
        states.sort();
        states
    };
    eventually("one works and one waits", || (states() == ["open", "queued"]).then_some(()));
    let turns = browser.get("/ui/runs/two/turns?steps=1,2").ok();
    assert_eq!((turns.as_array().map(Vec::len), &turns[0]["queued"]), (Some(1), &json!(true)), "{turns}");
    let step = turns[0]["step"].as_u64().unwrap();
    let page = browser.page(&format!("/ui/runs/two/steps/{step}"));
    assert!(page.contains("<td>queued</td>"), "{page}");
    let why = server.ask("GET", "/api/v1/runs/two/why", None).text();
    assert!(why.contains(&format!("step {step} waits for its turn")), "{why}");
    let why = place.run(["why", "two"]).stdout();
    assert!(why.contains(&format!("step {step} waits for its turn")), "{why}");
    std::fs::write(&go, "").unwrap();
    eventually("both are done", || (states() == ["done", "done"]).then_some(()));
    let chart = browser.get("/ui/runs/two/chart").ok();
    let attempt = &chart["steps"][step as usize - 1]["attempts"][0];
    assert!(attempt["sent"].as_u64() > attempt["from"].as_u64(), "{chart}");
    // Who got its turn at once has said nothing of it.
    let said = server.get("/api/v1/runs/two/transcript?kind=queue");
    let said: Vec<_> = said["lines"].as_array().unwrap().iter().map(|line| line["text"].clone()).collect();
    assert_eq!(said, ["waits for its turn", "got its turn"]);
}

#[test]
fn the_chart_tells_waiting_for_a_turn_from_working_and_who_took_over() {
    let place = Place::new();
    add_probe(&place);
    // One call at a time, each of them slow: the second one waits for the first.
    let config = "[agents.concurrency]\nhost = 1\n[providers.slow]\nkind = 'command'\nargv = ['sh', '-c', 'echo at work >&2; sleep 0.4; echo done']\n";
    // And one whose call takes until it is told to end.
    let go = place.path("go").display().to_string();
    let script = format!("echo at work >&2; while [ ! -e {go} ]; do sleep 0.02; done; echo done");
    let held = format!("[providers.held]\nkind = 'command'\nargv = ['sh', '-c', '{script}']\n");
    let file = place.file("wfhost.toml", config.to_owned() + &held);
    let server = Server::start(&place, &["--config", &file]);
    let browser = Browser::new(&server, &server.token);
    let call = json!({ "agent_of": { "provider": "slow", "prompt": "x" } });
    let mut asked = program(&json!([{ "parallel": [call, call] }]));
    asked["id"] = "two".into();
    server.ask("POST", "/api/v1/runs?wait=60s", Some(&asked)).ok();
    let chart = browser.get("/ui/runs/two/chart").ok();
    // When each was sent, and when it ended.
    let times: Vec<_> = chart["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            let attempt = &step["attempts"][0];
            let from = attempt["from"].as_u64().unwrap();
            (attempt["sent"].as_u64().unwrap_or(from), attempt["to"].as_u64().unwrap())
        })
        .collect();
    let later = times.iter().enumerate().max_by_key(|(_, (sent, _))| *sent).unwrap().0;
    let ((first_sent, _), (sent, _)) = (times[1 - later], times[later]);
    assert_eq!(times.len(), 2, "{chart}");
    // So long the first one was at work. When its end was written down is another matter.
    assert!(sent - first_sent >= 300, "one waited for the other: {chart}");
    let later = later + 1;
    let step = browser.page(&format!("/ui/runs/two/steps/{later}"));
    assert!(step.contains("First output after"), "{step}");
    // A host that is killed: the next one makes the call again, and the chart says so.
    let mut asked =
        program(&json!([{ "agent": "before" }, { "agent_of": { "provider": "held", "prompt": "y" } }]));
    asked["id"] = "lost".into();
    server.post("/api/v1/runs", &asked);
    eventually("it is at work", || {
        server.ask("GET", "/api/v1/runs/lost/transcript", None).text().contains("at work").then_some(())
    });
    server.kill();
    let server = Server::start(&place, &["--config", &file]);
    std::fs::write(&go, "").unwrap();
    eventually("another host ends it", || {
        (server.get("/api/v1/runs/lost")["state"] == "completed").then_some(())
    });
    let browser = Browser::new(&server, &server.token);
    let chart = browser.get("/ui/runs/lost/chart").ok();
    assert_eq!(chart["steps"][1]["attempts"][0]["state"], "lost", "{chart}");
    let marks = chart["marks"].as_array().unwrap();
    assert!(marks.len() == 1 && marks[0]["what"] == "taken over" && marks[0]["replays"] == true, "{chart}");
    // What happened is a link to the run as it was then, also by the run's own address.
    let entry = marks[0]["entry"].as_u64().unwrap();
    let moved = browser.get(&format!("/ui/runs/lost?at={entry}"));
    assert_eq!(moved.header("location"), Some(&*format!("/ui/runs/lost/at?entry={entry}")));
    let then = browser.page(&format!("/ui/runs/lost/at?at={entry}"));
    assert!(then.contains("attempted") && then.contains("type=\"range\""), "{then}");
    let last = browser.page("/ui/runs/lost/at?entry=99999");
    assert!(last.contains("finished"), "{last}");
}
