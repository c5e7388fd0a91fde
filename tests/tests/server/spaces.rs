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

/// The values of the attributes of a page that are addresses of this server, each with the name of the attribute.
fn addresses(html: &str) -> Vec<(String, String)> {
    let found = html.match_indices("=\"/").map(|(at, _)| {
        let name =
            html[..at].rsplit(|c: char| !c.is_ascii_alphabetic() && c != '-').next().unwrap_or_default();
        let value = html[at + 2..].split('"').next().unwrap_or_default();
        (name.to_owned(), value.replace("&#38;", "&").replace("&amp;", "&"))
    });
    // What is filled into a form is put below the namespace when it leads somewhere.
    found.filter(|(name, _)| name != "value").collect()
}

#[test]
fn no_page_of_a_namespace_leads_out_of_it_nor_acts_outside() {
    let (main, red) = (Place::in_file(), Place::in_file());
    add_probe(&main);
    add_probe(&red);
    let red_arg = format!("red={}", red.path("wfhost.db").display());
    let server = Server::start(&main, &["--namespace", &red_arg]);
    let red_token = own_token(&main, &server, "red");
    let by_hand = token(&red, "person", "admin");
    for (base, token) in [("", &server.token), ("/ns/red", &red_token)] {
        let mut asked = program(&json!([{ "agent": "x" }, { "ask": { "prompt": "May I?" } }]));
        asked["id"] = "same".into();
        asked["labels"] = json!({ "team": "red" });
        server.ask_as(token, "POST", &format!("{base}/api/v1/runs"), Some(&asked)).ok();
    }
    let questions = |base: &str, token: &str| {
        server.ask_as(token, "GET", &format!("{base}/api/v1/questions"), None).ok()["questions"].clone()
    };
    for (base, token) in [("", &server.token), ("/ns/red", &red_token)] {
        eventually("both ask", || questions(base, token).get(0).cloned());
    }
    let cookie = server.log_in_below("/ns/red", &by_hand);
    let headers = [("Cookie", cookie.as_str()), ("Sec-Fetch-Site", "same-origin")];
    let (mut seen, mut next) = (std::collections::BTreeSet::new(), vec!["/ns/red/ui".to_owned()]);
    let mut rejects = None;
    while let Some(path) = next.pop() {
        let path = path.split('#').next().unwrap().to_owned();
        if seen.len() > 300 || !seen.insert(path.clone()) {
            continue;
        }
        let answer = server.try_ask("GET", &path, &headers, b"").unwrap();
        assert!(answer.status < 400, "{path}: {}", answer.text());
        if let Some(place) = answer.header("location") {
            assert!(place.starts_with("/ns/red/"), "{path} leads to {place}");
        }
        if !answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
            continue;
        }
        for (name, to) in addresses(&answer.text()) {
            assert!(to == "/ns/red" || to.starts_with("/ns/red/"), "{path}: {name} is {to}");
            match name.as_str() {
                "href" => next.push(to),
                "formaction" => rejects = Some(to),
                _ => {}
            }
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
    // Somebody says no, there and nowhere else.
    let form = [headers[0], headers[1], ("Content-Type", "application/x-www-form-urlencoded")];
    let rejects = rejects.expect("a button to reject");
    let denied = server.try_ask("POST", &rejects, &form, b"back=inbox&note=").unwrap();
    assert_eq!(denied.status, 303, "{}", denied.text());
    assert_eq!(denied.header("location").map(|to| to.starts_with("/ns/red/ui/inbox")), Some(true));
    eventually("it is denied there", || (questions("/ns/red", &red_token) == json!([])).then_some(()));
    assert_eq!(questions("", &server.token).as_array().map(Vec::len), Some(1));
}

#[test]
fn each_namespace_has_its_own_figures() {
    let (main, red) = (Place::in_file(), Place::in_file());
    for place in [&main, &red] {
        add_probe(place);
    }
    let port = wfhost_tests::free_port();
    let address = format!("127.0.0.1:{port}");
    let red_arg = format!("red={}", red.path("wfhost.db").display());
    let server = Server::start(&main, &["--namespace", &red_arg, "--metrics", &address]);
    let red_token = own_token(&main, &server, "red");
    let mut named = std::fs::read(wfhost_tests::module("probe")).unwrap();
    // A module of its own: an empty section is added.
    named.extend([0, 2, 1, b'x']);
    let bearer = format!("Bearer {red_token}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/octet-stream")];
    let path = "/ns/red/api/v1/modules?name=secret-project";
    assert_eq!(server.try_ask("POST", path, &headers, &named).unwrap().status, 201);
    let run = json!({ "workflow": "secret-project", "input": { "do": [{ "agent": "x" }] } });
    for _ in 0..3 {
        server.ask_as(&red_token, "POST", "/ns/red/api/v1/runs?wait=30s", Some(&run)).ok();
    }
    server.ask("POST", "/api/v1/runs?wait=30s", Some(&program(&json!([])))).ok();
    let has = |text: &str, line: &str| text.lines().any(|known| known == line);
    let expected = [
        ("wfhost_runs_started_total{workflow=\"secret-project\"} 3", true, false),
        ("wfhost_runs_started_total{workflow=\"probe\"} 1", false, true),
        ("wfhost_runs{state=\"completed\"} 3", true, false),
        ("wfhost_runs{state=\"completed\"} 1", false, true),
        ("wfhost_http_requests_total{route=\"/api/v1/runs\",status=\"201\"} 3", true, false),
        ("wfhost_http_requests_total{route=\"/api/v1/runs\",status=\"201\"} 1", false, true),
    ];
    // Figures are written after the commit that they are about.
    let (mut of_red, mut of_main) = (String::new(), String::new());
    eventually("all figures", || {
        of_red = server.ask_as(&red_token, "GET", "/ns/red/metrics", None).text();
        of_main = server.ask("GET", "/metrics", None).text();
        let is_there = |(line, in_red, in_main): &(&str, bool, bool)| {
            (!in_red || has(&of_red, line)) && (!in_main || has(&of_main, line))
        };
        expected.iter().all(is_there).then_some(())
    });
    for (line, in_red, in_main) in expected {
        assert_eq!(
            (has(&of_red, line), has(&of_main, line)),
            (in_red, in_main),
            "{line}\n{of_red}\n{of_main}"
        );
    }
    assert!(!of_main.contains("secret-project") && !of_main.contains("/ns/"), "{of_main}");
    // At the address of their own they are apart, too.
    let read = |path: &str| {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        crate::client::Answer::read(stream).unwrap()
    };
    assert!(read("/ns/red/metrics").text().contains("secret-project"));
    assert!(!read("/metrics").text().contains("secret-project"));
    assert_eq!(read("/ns/blue/metrics").status, 404);
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
