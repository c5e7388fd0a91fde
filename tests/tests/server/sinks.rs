//! Others are told of what happens to runs: whoever dies, and however long they are away.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use wfhost_notify::{sign, signing_key};
use wfhost_tests::{Place, eventually, eventually_within, lines};

use crate::client::{Server, add_probe};
use crate::receiver::{Got, Receiver};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A place whose user has configured these sinks.
fn place(config: &str) -> Place {
    let place = Place::new();
    std::fs::create_dir_all(place.path("config/wfhost")).expect("a directory");
    place.file("config/wfhost/config.toml", config);
    add_probe(&place);
    place
}

fn sink(receiver: &Receiver, more: &str) -> String {
    format!("[sinks.ops]\nurl = \"{}/hook\"\nsecret_env = \"OPS_SECRET\"\n{more}\n", receiver.url)
}

fn serve(place: &Place) -> Server {
    Server::start_in(place, &[], &[("OPS_SECRET", SECRET)])
}

fn start(server: &Server, id: &str, operations: Value, labels: Value) {
    let run = json!({ "workflow": "probe", "id": id, "input": { "do": operations }, "labels": labels });
    server.post("/api/v1/runs", &run);
}

/// What was told, as `event run`.
fn told(got: &[Got]) -> Vec<String> {
    let told = got.iter().map(Got::json).map(|message| {
        format!(
            "{} {}",
            message["type"].as_str().expect("a type"),
            message["data"]["run"].as_str().expect("a run")
        )
    });
    told.collect()
}

#[test]
fn events_are_posted_signed_without_what_runs_work_on_to_whom_they_concern() {
    let receiver = Receiver::start();
    let other = Receiver::start();
    let more = format!(
        "[sinks.red]\nurl = \"{}\"\nsecret = false\nevents = [\"run.*\", \"question.*\"]\n\
         labels = {{ team = \"red\" }}\ncontent = true",
        other.url
    );
    let place = place(&sink(&receiver, &more));
    let server = serve(&place);
    start(&server, "good", json!([{ "agent": "the secret prompt" }]), json!({ "team": "red" }));
    start(&server, "bad", json!([{ "fail": "the secret reason" }]), json!({}));
    start(
        &server,
        "asks",
        json!([{ "ask": { "prompt": "may I?", "choices": ["yes", "no"] } }]),
        json!({ "team": "red" }),
    );
    start(&server, "stops", json!([{ "wait": { "name": "never" } }]), json!({}));
    server.post("/api/v1/runs/stops/terminate", &json!({}));
    let child = json!([{ "child": { "module": "probe", "input": { "do": [{ "agent": "x" }] } } }]);
    start(&server, "parent", child, json!({}));
    let expected = [
        "run.completed good",
        "run.failed bad",
        "question.asked asks",
        "run.cancelled stops",
        "run.completed parent",
    ];
    let expected: BTreeSet<String> = expected.map(str::to_owned).into();
    let got = eventually("all of them are told", || {
        let got = receiver.got();
        (told(&got).into_iter().collect::<BTreeSet<_>>().is_superset(&expected)).then_some(got)
    });
    assert_eq!(told(&got).into_iter().collect::<BTreeSet<_>>(), expected, "and nothing else");
    let key = signing_key(SECRET).unwrap();
    let mut ids = BTreeSet::new();
    for one in &got {
        let (id, at) = (one.header("webhook-id"), one.header("webhook-timestamp"));
        let signed = sign(std::slice::from_ref(&key), id, at.parse().unwrap(), &one.body);
        assert_eq!(one.header("webhook-signature"), signed, "{one:?}");
        assert_eq!((one.path.as_str(), one.header("content-type")), ("/hook", "application/json"));
        assert!(ids.insert(id.to_owned()), "each came once: {got:?}");
        let message = one.json();
        assert_eq!(message["data"]["workflow"], "probe", "{message}");
        assert!(message["timestamp"].is_string() && message["data"]["entry"].is_u64(), "{message}");
        for hidden in ["the secret", "may I?"] {
            assert!(!one.body.contains(hidden), "{message}");
        }
    }
    let of = |got: &[Got], what: &str| {
        let found = got.iter().map(Got::json).find(|message| message["type"] == what);
        found.unwrap_or_else(|| panic!("no {what}: {got:?}"))
    };
    assert_eq!(of(&got, "run.completed")["data"]["state"], "completed");
    assert!(of(&got, "run.failed")["data"]["failure"]["kind"].is_string());
    assert!(of(&got, "run.failed")["data"]["failure"]["message"].is_null());
    assert_eq!(of(&got, "question.asked")["data"]["step"], 1);
    // The other one is told of its runs, of beginnings and of what they work on, and nothing is signed.
    let got = eventually("the other one is told", || {
        let got = other.got();
        (got.len() >= 4).then_some(got)
    });
    let expected = ["question.asked asks", "run.completed good", "run.started asks", "run.started good"];
    assert_eq!(told(&got).into_iter().collect::<BTreeSet<_>>(), expected.map(str::to_owned).into());
    assert!(got.iter().all(|one| !one.headers.contains_key("webhook-signature")));
    assert_eq!(of(&got, "question.asked")["data"]["question"]["prompt"], "may I?");
    assert_eq!(of(&got, "run.completed")["data"]["output"][0], "the secret prompt");
    // That a message is there is written after it is.
    eventually("all are known to be there", || {
        let listed = place.run(["sinks", "ls", "-o", "json"]).ok_json();
        let ops = &listed["sinks"][0];
        ((&ops["delivered"], &ops["pending"]) == (&json!(5), &json!(0))).then_some(())
    });
    eventually("the figure", || {
        let figures = server.ask("GET", "/metrics", None).text();
        let delivered = "wfhost_sink_deliveries_total{sink=\"ops\",outcome=\"delivered\"} 5";
        figures.contains(delivered).then_some(())
    });
}

#[test]
fn a_receiver_that_is_away_gets_all_later_with_the_same_ids_also_when_hosts_are_killed() {
    let receiver = Receiver::start();
    let place = place(&sink(&receiver, ""));
    receiver.always(Some((503, "Retry-After: 1\r\n")));
    let server = serve(&place);
    for n in 0..3 {
        start(&server, &format!("r{n}"), json!([{ "agent": "x" }]), json!({}));
    }
    // One may be tried again before the last one is.
    let ids =
        || receiver.got().iter().map(|one| one.header("webhook-id").to_owned()).collect::<BTreeSet<_>>();
    eventually("each is tried", || (ids().len() == 3).then_some(()));
    server.kill();
    let failed = place.run(["sinks", "log", "-o", "json"]).ok_json();
    assert_eq!(failed["deliveries"].as_array().map(Vec::len), Some(3), "{failed}");
    let before = ids();
    // A second host, killed in the middle, and a third one. Whatever was under way is tried again.
    let server = serve(&place);
    start(&server, "r3", json!([{ "agent": "x" }]), json!({}));
    server.kill();
    receiver.always(None);
    let _server = serve(&place);
    let all = || {
        let listed = place.run(["sinks", "ls", "-o", "json"]).ok_json();
        listed["sinks"][0]["delivered"] == 4
    };
    // What failed twice on a slow machine is tried again after half a minute.
    eventually_within(Duration::from_secs(120), "all are there", || all().then_some(()));
    let got = receiver.got();
    let after: BTreeSet<_> = got.iter().map(|one| one.header("webhook-id").to_owned()).collect();
    assert_eq!((after.len(), after.is_superset(&before)), (4, true), "{got:?}");
    // What comes again is the same to the byte.
    let bodies: BTreeSet<_> =
        got.iter().map(|one| (one.header("webhook-id").to_owned(), one.body.clone())).collect();
    assert_eq!(bodies.len(), 4);
}

#[test]
fn of_several_hosts_one_delivers_each_message() {
    let receiver = Receiver::start();
    let place = place(&sink(&receiver, "events = [\"run.completed\"]"));
    let servers = [serve(&place), serve(&place), serve(&place)];
    for n in 0..30 {
        start(&servers[n % 3], &format!("r{n}"), json!([{ "agent": "x" }]), json!({}));
    }
    eventually("all are there", || {
        let listed = place.run(["sinks", "ls", "-o", "json"]).ok_json();
        (listed["sinks"][0]["delivered"] == 30).then_some(())
    });
    assert_eq!(receiver.got().len(), 30, "each once");
    // The one who reads ends, and another one goes on.
    let [one, two, three] = servers;
    assert_eq!(one.stop().code(), Some(143));
    assert_eq!(two.stop().code(), Some(143));
    start(&three, "last", json!([{ "agent": "x" }]), json!({}));
    eventually("it is told, too", || (receiver.got().len() == 31).then_some(()));
}

#[test]
fn what_is_given_up_is_seen_and_delivered_when_it_is_asked_for() {
    let receiver = Receiver::start();
    let place = place(&sink(&receiver, "give_up = \"0s\"\nevents = [\"run.completed\"]"));
    receiver.answer([(500, "")]);
    let server = serve(&place);
    start(&server, "r", json!([{ "agent": "x" }]), json!({}));
    let given_up = eventually("it is given up", || {
        let listed = place.run(["sinks", "log", "--state", "given-up", "-o", "json"]).ok_json();
        listed["deliveries"].as_array().filter(|all| !all.is_empty()).cloned()
    });
    let message = given_up[0]["message"].as_str().expect("an id").to_owned();
    assert!(given_up[0]["last_failure"].as_str().is_some_and(|said| said.contains("500")), "{given_up:?}");
    let text = place.run(["sinks", "ls"]).stdout();
    assert!(text.contains("ops") && text.contains("500") && !text.contains("/hook"), "{text}");
    assert!(server.stop().stderr().contains("Given up"));
    assert_eq!(place.run(["sinks", "retry", "nothing"]).code(), Some(2));
    assert_eq!(place.run(["sinks", "retry", &message]).code(), Some(0));
    // Also without a server.
    let mut deliver = place.wfhost(["sinks", "deliver"]);
    let delivered = deliver.env("OPS_SECRET", SECRET).output().expect("the binary starts");
    assert!(delivered.status.success(), "{}", String::from_utf8_lossy(&delivered.stderr));
    let got = receiver.got();
    assert_eq!(got.len(), 2);
    assert_eq!((got[0].header("webhook-id"), &got[0].body), (got[1].header("webhook-id"), &got[1].body));
    // Who is gone for good is not asked again.
    receiver.answer([(410, "")]);
    let mut test = place.wfhost(["sinks", "test", "ops"]);
    let refused = test.env("OPS_SECRET", SECRET).output().expect("the binary starts");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(4) && said.contains("WF0851") && said.contains("410"), "{said}");
    // Without the secret nothing is sent.
    let refused = place.run(["sinks", "test", "ops"]);
    assert!(refused.stderr().contains("OPS_SECRET"), "{}", refused.stderr());
    assert_eq!(receiver.got().len(), 3);
    assert!(place.run(["sinks", "test", "opps"]).stderr().contains("did you mean `ops`"));
    assert_eq!(place.run(["sinks", "forget", "ops", "--yes"]).code(), Some(0));
    let listed = place.run(["sinks", "ls", "-o", "json"]).ok_json();
    assert_eq!(listed["sinks"][0]["delivered"], 0);
}

#[test]
fn a_program_reads_messages_and_one_that_fails_or_hangs_is_run_again() {
    let place = place("");
    let out = place.path("told.jsonl").display().to_string();
    let count = place.path("count").display().to_string();
    // It fails the first time, and hangs the second one with a child that holds its pipes.
    let script = format!(
        "echo x >> {count}; n=$(wc -l < {count}); if [ $n = 1 ]; then echo out of paper >&2; exit 3; fi; \
         if [ $n = 2 ]; then sleep 600 & sleep 600; fi; cat >> {out}; \
         echo \" $WFHOST_EVENT $WFHOST_RUN ${{SECRET_OF_HOST:-none}}\" >> {out}"
    );
    let config = format!(
        "[sinks.printer]\nargv = [\"sh\", \"-c\", {script:?}]\nevents = [\"run.completed\"]\ntimeout = \"3s\"\n"
    );
    place.file("config/wfhost/config.toml", config);
    let server = Server::start_in(&place, &[], &[("SECRET_OF_HOST", "shown")]);
    start(&server, "r", json!([{ "agent": "x" }]), json!({}));
    let said = |text: &str| {
        let log = place.run(["sinks", "log", "-o", "json"]).stdout();
        log.contains(text).then_some(())
    };
    eventually("it failed", || said("out of paper"));
    let again = |wanted: usize| {
        // The next try is some time away.
        let log = place.run(["sinks", "log", "-o", "json"]).ok_json();
        let message = log["deliveries"][0]["message"].as_str().expect("a message").to_owned();
        assert_eq!(place.run(["sinks", "retry", &message]).code(), Some(0));
        eventually("it is run again", || (lines(&place.path("count")) >= wanted).then_some(()));
    };
    again(2);
    eventually("it took too long", || said("took longer"));
    again(3);
    let text = eventually("it reads the message", || {
        std::fs::read_to_string(place.path("told.jsonl")).ok().filter(|text| text.ends_with('\n'))
    });
    let (message, rest) = text.split_once("} ").expect("both");
    let message: Value = serde_json::from_str(&format!("{message}}}")).expect("JSON");
    assert_eq!((&message["type"], rest), (&json!("run.completed"), "run.completed r none\n"));
}

#[test]
fn a_budget_that_is_nearly_spent_is_told_once() {
    let receiver = Receiver::start();
    let place = place(&sink(&receiver, "events = [\"budget.low\"]"));
    let usage = json!({ "input_tokens": 30, "output_tokens": 10 });
    let script = place.script(json!({ "default": { "reply": "x", "usage": usage } }));
    let server = Server::start_in(&place, &["--agents", &script], &[("OPS_SECRET", SECRET)]);
    let run = json!({
        "workflow": "probe", "id": "spends", "agent": "scripted", "budget": { "tokens": 100 },
        "input": { "do": [{ "agent": "1" }, { "agent": "2" }, { "wait": { "name": "go" } }] },
    });
    server.post("/api/v1/runs", &run);
    let got = eventually("it is told", || Some(receiver.got()).filter(|got| !got.is_empty()));
    let data = &got[0].json()["data"];
    assert_eq!(told(&got), ["budget.low spends"]);
    assert_eq!((&data["part"], &data["spent"]["tokens"]), (&json!(0.8), &json!(80)), "{data}");
}

#[test]
fn a_run_whose_module_departs_from_its_journal_is_told_once() {
    let receiver = Receiver::start();
    let place = place(&sink(&receiver, "events = [\"run.refused\"]\ncontent = true"));
    let ran = place.run(["add", &wfhost_tests::module("counter")]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let parks = ["--evict", "always"];
    let server = Server::start_in(&place, &parks, &[("OPS_SECRET", SECRET)]);
    start(&server, "r", json!([{ "agent": "x" }, { "wait": { "name": "go" } }]), json!({}));
    eventually("it waits", || (server.get("/api/v1/runs/r")["state"] == "waiting").then_some(()));
    server.kill();
    // Nobody gets there by what wfhost offers: other code has to agree before a run has it.
    let database = rusqlite::Connection::open(place.db()).expect("the database");
    let changed = database.execute(
        "UPDATE runs SET module = (SELECT digest FROM modules WHERE name = 'counter') WHERE name = 'r'",
        [],
    );
    assert_eq!(changed, Ok(1));
    drop(database);
    let server = serve(&place);
    server.post("/api/v1/runs/r/signals/go", &json!(1));
    eventually("it is refused", || (server.get("/api/v1/runs/r")["state"] == "refused").then_some(()));
    let got = eventually("it is told", || Some(receiver.got()).filter(|got| !got.is_empty()));
    assert_eq!(told(&got), ["run.refused r"]);
    let data = &got[0].json()["data"];
    assert_eq!(data["state"], "refused", "{data}");
    // Another host looks at it, too, and knows that it was told.
    server.kill();
    let server = serve(&place);
    start(&server, "other", json!([{ "agent": "x" }]), json!({}));
    server.get("/api/v1/runs/other?wait=30s");
    let listed = || place.run(["sinks", "log", "-o", "json"]).ok_json();
    assert_eq!(listed()["deliveries"].as_array().map(Vec::len), Some(1), "{}", listed());
    assert_eq!(receiver.got().len(), 1);
}

/// That a run is refused is found by a look, and kept in the database: one that fails loses nothing.
#[test]
fn a_run_that_is_refused_is_told_when_the_database_takes_it_again() {
    if wfhost_tests::only_for_files("a trigger has a write fail") {
        return;
    }
    let receiver = Receiver::start();
    let place = place(&sink(&receiver, "events = [\"run.refused\"]"));
    let ran = place.run(["add", &wfhost_tests::module("counter")]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let server = Server::start_in(&place, &["--evict", "always"], &[("OPS_SECRET", SECRET)]);
    start(&server, "r", json!([{ "agent": "x" }, { "wait": { "name": "go" } }]), json!({}));
    eventually("it waits", || (server.get("/api/v1/runs/r")["state"] == "waiting").then_some(()));
    server.kill();
    let database = rusqlite::Connection::open(place.db()).expect("the database");
    let other =
        "UPDATE runs SET module = (SELECT digest FROM modules WHERE name = 'counter') WHERE name = 'r'";
    assert_eq!(database.execute(other, []), Ok(1));
    let broken = "CREATE TRIGGER broken BEFORE INSERT ON deliveries BEGIN SELECT RAISE(ABORT, 'broken'); END";
    database.execute_batch(broken).expect("a trigger");
    let server = serve(&place);
    server.post("/api/v1/runs/r/signals/go", &json!(1));
    eventually("it is refused", || (server.get("/api/v1/runs/r")["state"] == "refused").then_some(()));
    // Refused runs are looked for every five seconds.
    eventually("it fails", || server.said().contains("to export events (sinks)").then_some(()));
    assert!(receiver.got().is_empty());
    database.execute_batch("DROP TRIGGER broken").expect("there is one");
    let got = eventually("it is told", || Some(receiver.got()).filter(|got| !got.is_empty()));
    assert_eq!(told(&got), ["run.refused r"]);
}

#[test]
fn the_api_and_the_pages_show_sinks_and_deliver_again_for_administrators_only() {
    let receiver = Receiver::start();
    let place = place(&sink(&receiver, "give_up = \"0s\"\nevents = [\"run.completed\"]"));
    receiver.answer([(500, "")]);
    let server = serve(&place);
    start(&server, "r", json!([{ "agent": "x" }]), json!({}));
    let sink = eventually("it is given up", || {
        let listed = server.get("/api/v1/sinks");
        (listed["sinks"][0]["given_up"] == 1).then(|| listed["sinks"][0].clone())
    });
    assert_eq!((&sink["name"], &sink["state"]), (&json!("ops"), &json!("given-up")), "{sink}");
    assert!(sink["last_failure"].as_str().is_some_and(|said| said.contains("500")), "{sink}");
    assert!(sink["read"]["held"] == true && sink["read"]["place"].is_u64(), "{sink}");
    assert!(!sink.to_string().contains("/hook"), "{sink}");
    // The command line says the same.
    let listed = place.run(["sinks", "ls", "-o", "json"]).ok_json();
    assert_eq!(listed["sinks"][0]["last_failure"], sink["last_failure"]);
    let found = server.get("/api/v1/sinks/ops/deliveries?state=given-up");
    let message = found["deliveries"][0]["message"].as_str().expect("an id").to_owned();
    assert_eq!(found["deliveries"][0]["body"]["data"]["run"], "r", "{found}");
    assert_eq!(server.get("/api/v1/sinks/ops/deliveries?state=delivered")["deliveries"], json!([]));
    assert_eq!(server.ask("GET", "/api/v1/sinks/ops/deliveries?state=lost", None).error(422), "WF0812");
    assert_eq!(server.ask("GET", "/api/v1/sinks/opps/deliveries", None).error(404), "WF0850");
    let bad = json!({ "messages": ["msg_none"] });
    assert_eq!(server.ask("POST", "/api/v1/sinks/ops/redeliver", Some(&bad)).error(404), "WF0852");
    // The page, with a button for it.
    let browser = crate::pages::Browser::new(&server, &server.token);
    let list = browser.page("/ui/sinks");
    assert!(list.contains("given up") && list.contains("500") && !list.contains("/hook"), "{list}");
    let page = browser.page("/ui/sinks/ops?state=given-up");
    assert!(page.contains(&message) && page.contains("run.completed"), "{page}");
    let back = browser.act("/ui/sinks/ops/redeliver", &[("message", &message)]);
    assert_eq!(back, "/ui/sinks/ops?said=due");
    eventually("it is there", || (server.get("/api/v1/sinks")["sinks"][0]["delivered"] == 1).then_some(()));
    let again = server.post("/api/v1/sinks/ops/redeliver", &json!({ "messages": [message] }));
    assert_eq!(again["count"], 1);
    eventually("it is there twice", || (receiver.got().len() == 3).then_some(()));
    let audit = server.ask("GET", "/api/v1/audit", None).text();
    assert!(audit.contains("sinks.redeliver"), "{audit}");
    // A page of many.
    for n in 0..3 {
        start(&server, &format!("more-{n}"), json!([{ "agent": "x" }]), json!({}));
    }
    eventually("they are there", || {
        (server.get("/api/v1/sinks")["sinks"][0]["delivered"] == 4).then_some(())
    });
    let first = server.get("/api/v1/sinks/ops/deliveries?limit=3");
    let next = first["next"].as_str().expect("a cursor");
    let rest = server.get(&format!("/api/v1/sinks/ops/deliveries?limit=3&cursor={next}"));
    assert_eq!((rest["deliveries"].as_array().map(Vec::len), &rest["next"]), (Some(1), &json!(null)));
    // Others see nothing of it.
    let all = "runs:read,payloads:read,runs:start,runs:signal,people:answer,runs:control,modules:write,schedules:write,metrics:read";
    let other = crate::client::token(&place, "other", all);
    for (method, path) in
        [("GET", "/sinks"), ("GET", "/sinks/ops/deliveries"), ("POST", "/sinks/ops/redeliver")]
    {
        let body = (method == "POST").then(|| json!({}));
        let answer = server.ask_as(&other, method, &format!("/api/v1{path}"), body.as_ref());
        assert_eq!(answer.error(403), "WF0903", "{path}");
    }
}

/// What a fork asks is its own: another answer, to another run.
#[test]
fn a_question_that_a_fork_has_open_is_told() {
    let receiver = Receiver::start();
    let place = place(&sink(&receiver, "events = [\"question.asked\"]"));
    let server = serve(&place);
    let ask = |prompt: &str| json!({ "ask": { "prompt": prompt } });
    start(&server, "r", json!([ask("first"), { "parallel": [ask("second"), ask("third")] }]), json!({}));
    eventually("the first one", || (receiver.got().len() == 1).then_some(()));
    assert_eq!(place.run(["approve", "r", "1"]).code(), Some(0));
    eventually("the others", || (receiver.got().len() == 3).then_some(()));
    let forked = place.run(["fork", "r", "-d", "--id", "f"]);
    assert_eq!(forked.code(), Some(0), "{}", forked.stderr());
    let got = eventually("those of the fork", || Some(receiver.got()).filter(|got| got.len() == 5));
    let of_fork = |got: &Got| {
        let data = &got.json()["data"];
        (data["run"] == "f").then(|| data["step"].as_u64().expect("a step"))
    };
    let steps: BTreeSet<_> = got.iter().filter_map(of_fork).collect();
    assert_eq!(steps, BTreeSet::from([2, 3]), "{got:?}");
}

/// Those that fail are due again before the last one was tried.
#[test]
fn a_delivery_without_a_server_tries_each_message_once() {
    let place = place("");
    let count = place.path("count").display().to_string();
    let script = format!("echo $WFHOST_RUN >> {count}; test $WFHOST_RUN = slow && sleep 7; exit 1");
    let config =
        format!("[sinks.printer]\nargv = [\"sh\", \"-c\", {script:?}]\nevents = [\"run.completed\"]\n");
    place.file("config/wfhost/config.toml", config);
    // The first look is where the sink begins.
    assert_eq!(place.run(["sinks", "deliver"]).code(), Some(0));
    let (module, input) = (wfhost_tests::module("probe"), json!({ "do": [] }).to_string());
    for id in ["fast", "slow"] {
        assert_eq!(place.run(["run", &module, "-i", &input, "--id", id]).code(), Some(0));
    }
    let error = place.run(["sinks", "deliver"]).error(4, &place);
    assert!(error.contains("2 of 2 messages could not be delivered"), "{error}");
    // One that was due again when the last one ended may have been taken up with it.
    assert!(lines(&place.path("count")) <= 3, "{}", lines(&place.path("count")));
}

/// Wherever it is started, and whenever a project's first run begins.
#[test]
fn a_server_of_all_projects_tells_the_sinks_of_each() {
    let receiver = Receiver::start();
    let place = Place::new();
    let dir = place.path("project");
    std::fs::create_dir(&dir).expect("a directory");
    let config = format!("[sinks.team]\nurl = \"{}/team\"\nsecret = false\n", receiver.url);
    std::fs::write(dir.join("wfhost.toml"), &config).expect("a file");
    let within = |args: &[&str]| {
        let ran =
            wfhost_tests::Ran(place.wfhost(args).current_dir(&dir).output().expect("the binary starts"));
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    };
    within(&["trust"]);
    let server = Server::start(&place, &["--all"]);
    let (module, input) = (wfhost_tests::module("probe"), json!({ "do": [] }).to_string());
    within(&["run", &module, "-i", &input, "--id", "own", "-d"]);
    // And nobody else is.
    let other = place.run(["run", &module, "-i", &input, "--id", "other", "-d"]);
    assert_eq!(other.code(), Some(0), "{}", other.stderr());
    eventually("both have ended", || {
        let ended = |run: &str| server.get(&format!("/api/v1/runs/{run}"))["state"] == "completed";
        (ended("own") && ended("other")).then_some(())
    });
    let got = eventually("its sink is told", || Some(receiver.got()).filter(|got| !got.is_empty()));
    assert_eq!((told(&got), got[0].path.as_str()), (vec!["run.completed own".to_owned()], "/team"));
}
