//! Several databases behind one address.

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually};

use crate::client::{Server, add_probe, program, token};

/// The token of the server itself for a namespace.
fn own_token(place: &Place, server: &Server, name: &str) -> String {
    let told = place.path(&format!("state/wfhost/servers/{}.json", server.pid()));
    let told: Value = serde_json::from_str(&std::fs::read_to_string(told).unwrap()).unwrap();
    told["namespaces"][name]["token"].as_str().expect("a token").to_owned()
}

#[test]
fn each_namespace_has_its_own_runs_tokens_and_pages() {
    let (main, red, blue) = (Place::in_file(), Place::in_file(), Place::in_file());
    for place in [&main, &red, &blue] {
        add_probe(place);
    }
    let arg = |name: &str, place: &Place| format!("{name}={}", place.path("wfhost.db").display());
    let (red_arg, blue_arg) = (arg("red", &red), arg("blue", &blue));
    let server = Server::start(&main, &["--namespace", &red_arg, "--namespace", &blue_arg]);
    let (red_token, blue_token) = (own_token(&main, &server, "red"), own_token(&main, &server, "blue"));
    for (base, token) in [("", &server.token), ("/ns/red", &red_token), ("/ns/blue", &blue_token)] {
        let mut asked = program(&json!([{ "agent": base }, { "wait": { "name": "go" } }]));
        asked["id"] = "same".into();
        let made = server.ask_as(token, "POST", &format!("{base}/api/v1/runs"), Some(&asked));
        assert_eq!(made.status, 201, "{}", made.text());
        assert_eq!(made.header("location"), Some(&*format!("{base}/api/v1/runs/same")));
        eventually("it is advanced by the one server", || {
            let run = server.ask_as(token, "GET", &format!("{base}/api/v1/runs/same"), None).ok();
            (run["state"] == "waiting").then_some(())
        });
        let document = server.try_ask("GET", &format!("{base}/openapi.json"), &[], b"").unwrap().ok();
        assert_eq!(document["servers"][0]["url"], format!("{base}/"));
    }
    // A token of one is none of the others, also one that was made for it by hand.
    let by_hand = token(&red, "ci", "admin");
    assert_eq!(server.ask_as(&by_hand, "GET", "/ns/red/api/v1/runs", None).status, 200);
    for token in [&by_hand, &red_token] {
        for base in ["", "/ns/blue"] {
            let answer = server.ask_as(token, "GET", &format!("{base}/api/v1/runs"), None);
            assert_eq!(answer.error(401), "WF0902", "{base}");
        }
    }
    // Signals go where they are sent.
    let signal = server.ask_as(&red_token, "POST", "/ns/red/api/v1/runs/same/signals/go", Some(&json!(1)));
    assert_eq!(signal.status, 202, "{}", signal.text());
    eventually("the one run ends", || {
        let run = server.ask_as(&red_token, "GET", "/ns/red/api/v1/runs/same", None).ok();
        (run["state"] == "completed").then_some(())
    });
    assert_eq!(server.get("/api/v1/runs/same")["state"], "waiting");
    // Pages stay within, by a cookie of their own.
    let cookie = server.log_in_below("/ns/red", &by_hand);
    let page = |path: &str| server.try_ask("GET", path, &[("Cookie", &cookie)], b"").unwrap();
    for path in
        ["/ns/red/ui", "/ns/red/ui/runs/same", "/ns/red/ui/runs/same/at?entry=1", "/ns/red/ui/settings"]
    {
        let answer = page(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let html = answer.text();
        assert!(html.contains(" href=\"/ns/red/ui/") && html.contains(" src=\"/ns/red/ui/static/"), "{path}");
        for outside in [" href=\"/ui", " src=\"/ui", " action=\"/ui", " data-chart=\"/ui"] {
            assert!(!html.contains(outside), "{path} leads out of the namespace: {outside}");
        }
    }
    assert_eq!(page("/ns/red/ui/static/wfhost.js").status, 200);
    let away = page("/ns/blue/ui");
    assert_eq!((away.status, away.header("location")), (303, Some("/ns/blue/ui/login")));
    let away = page("/ui/runs/same");
    assert!(away.status == 303 && away.header("location").unwrap().starts_with("/ui/login"));
    assert_eq!(server.ask("GET", "/ns/green/api/v1/runs", None).error(404), "WF0813");
    // A stream of one tells nothing of the others.
    let mut stream = server.stream(&blue_token, "/ns/blue/api/v1/events?kinds=commit", None);
    let mut asked = program(&json!([]));
    asked["id"] = "only-red".into();
    server.ask_as(&red_token, "POST", "/ns/red/api/v1/runs?wait=30s", Some(&asked)).ok();
    asked["id"] = "only-blue".into();
    server.ask_as(&blue_token, "POST", "/ns/blue/api/v1/runs?wait=30s", Some(&asked)).ok();
    let told = stream.by_ref().find(|event| event.event == "commit" && event.data["run"] != "same").unwrap();
    assert_eq!(told.data["run"], "only-blue");
    let ended = server.stop();
    assert_eq!(ended.code(), Some(143), "{}", ended.stderr());
    assert!(ended.stderr().contains("nothing is lost"), "{}", ended.stderr());
}

#[test]
fn namespaces_that_cannot_be_are_refused() {
    let (main, red) = (Place::in_file(), Place::in_file());
    let red = red.path("wfhost.db").display().to_string();
    let own = main.path("wfhost.db").display().to_string();
    for (args, why) in [
        (vec![format!("Red={red}")], "small letters"),
        (vec![format!("a/b={red}")], "small letters"),
        (vec![format!("red={red}"), format!("red={red}2")], "named twice"),
        (vec![format!("red={own}")], "served already"),
        (vec![format!("red={red}"), format!("blue={red}")], "served already"),
        (vec!["red".to_owned()], "a name and a database"),
        (vec!["=x".to_owned()], "a name and a database"),
    ] {
        let given = args.iter().flat_map(|arg| ["--namespace", arg.as_str()]);
        let args: Vec<_> =
            ["serve", "--listen", "127.0.0.1:0", "--idle", "0s"].into_iter().chain(given).collect();
        let ran = main.run(&args);
        assert!(ran.code() == Some(2) && ran.stderr().contains(why), "{args:?}: {}", ran.stderr());
    }
}
