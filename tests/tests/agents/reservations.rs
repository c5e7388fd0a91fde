//! Quota, rate, slots and budgets are set aside before a call and settled
//! after it; what may happen once happens once; conversations and kept answers
//! belong to those who had them.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, eventually, finish};

use crate::server::Server;
use crate::{ask, calls, entries, gave, program, quick, run, shell, step, wfhost};

/// The provider of [`shell`] with more lines.
fn configured(place: &Place, more: &str) {
    let config = std::fs::read_to_string(place.path("wfhost.toml")).unwrap();
    place.file("wfhost.toml", format!("{config}{more}"));
}

fn parallel(count: usize, request: Value) -> Value {
    json!({"do": [{"parallel": vec![json!({"agent_with": request}); count]}]})
}

fn count(place: &Place, kind: &str) -> usize {
    entries(place, kind).len()
}

/// Each of the calls is put off once, to its own turn, and a killed host changes nothing of that.
#[test]
fn a_thousand_calls_that_wait_for_a_rate_write_a_thousand_entries_through_kills() {
    const CALLS: usize = 1_000;
    let place = Place::new();
    shell(&place, "text", "echo hello");
    configured(&place, "rate = { per_minute = 6 }\n");
    let input = parallel(CALLS, json!({"prompt": "p", "providers": ["agent"]}));
    assert_eq!(run(&place, &input, &["--detach"]).code(), Some(0));
    let serve = || {
        let config = place.path("wfhost.toml").display().to_string();
        place.spawn(["serve", "--config", &config])
    };
    let kill = |mut child: std::process::Child| {
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let host = serve();
    eventually("all calls but the first to wait", || (count(&place, "postponed") == CALLS - 1).then_some(()));
    eventually("the first call", || (count(&place, "completed") >= 1).then_some(()));
    kill(host);
    let until = |entry: &Value| entry["until"].as_str().map(str::to_owned);
    let untils: Vec<_> = entries(&place, "postponed").iter().map(until).collect();
    assert!(untils.windows(2).all(|pair| pair[0] < pair[1]), "each has its own turn, in the order of asking");
    for _ in 0..3 {
        let done = count(&place, "completed");
        let host = serve();
        eventually("the next turn", || (count(&place, "completed") > done).then_some(()));
        kill(host);
    }
    // Only one whose turn passed while nobody was there is put off again.
    let again = count(&place, "postponed") - (CALLS - 1);
    assert!(again < 20, "{again} were put off again");
    let all = place.journal("r").len();
    assert!(all < CALLS * 2 + 100, "{all} entries");
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
}

/// What has not been sent when a service asks to be left alone is not sent.
#[test]
fn a_wish_to_be_left_alone_holds_back_all_that_have_not_been_sent() {
    let place = Place::new();
    let server = Server::start(|request, answer| match request.number {
        0 => answer.with("429 Too Many Requests", "retry-after: 2\r\n", "{}"),
        _ => answer.json(json!("fine")),
    });
    place.file(
        "wfhost.toml",
        format!("[providers.service]\nkind = \"http\"\nurl = {:?}\nmax_parallel = 1\n", server.url),
    );
    let input = parallel(12, json!({"prompt": "p", "providers": ["service"], "retry": quick(2)}));
    let replies = run(&place, &input, &[]).ok_json();
    assert!(replies[0].as_array().unwrap().iter().all(|reply| reply["output"] == "fine"), "{replies}");
    let requests = server.requests();
    assert_eq!(requests.len(), 13);
    let pause = requests[1].at.duration_since(requests[0].at);
    assert!(pause.as_millis() >= 1_900, "{pause:?}: one that stood behind it went on");
}

/// A wish that cannot be meant blocks nobody for ever.
#[test]
fn a_point_in_time_in_the_place_of_a_length_blocks_nobody() {
    for garbage in ["18446744073709551615", "1800000000000"] {
        let place = Place::new();
        shell(
            &place,
            "jsonl",
            &format!(
                "[ \"$WFHOST_ATTEMPT\" = 1 ] && echo '{{\"error\":\"busy\",\"retry_after_ms\":{garbage}}}' || echo '{{\"output\":\"fine\"}}'"
            ),
        );
        let request = json!({"prompt": "p", "providers": ["agent"], "retry": quick(2)});
        assert_eq!(gave(&run(&place, &ask(request), &[]))["output"], "fine");
    }
}

/// No deadline is beyond the end of time.
#[test]
fn a_limit_without_end_is_a_long_one() {
    let place = Place::new();
    let limits = json!({"total": u64::MAX, "attempt": u64::MAX});
    let request = json!({"prompt": "ship it?", "providers": ["human"], "limits": limits});
    assert_eq!(run(&place, &ask(request), &["--no-wait"]).code(), Some(3));
    let due = place.show("r");
    assert!(due["state"] == "waiting", "{due}");
    // It is not due at once, again and again.
    let entries = place.journal("r").len();
    assert_eq!(wfhost(&place, &["serve", "--idle", "300ms"]).code(), Some(0));
    assert_eq!(place.journal("r").len(), entries);
    assert_eq!(place.run(["answer", "r", "1", "-i", "true"]).code(), Some(0));
}

/// Calls at the same time overspend by what one of them costs, at most.
#[test]
fn parallel_calls_do_not_overspend_a_budget() {
    let place = Place::new();
    let script = place.script(json!({
        "default": {"reply": "x", "delay_ms": 30, "usage": {"input_tokens": 50, "output_tokens": 10}}
    }));
    let input = parallel(200, json!({"prompt": "p"}));
    let ran = run(&place, &input, &["--agents", &script, "--budget", "tokens=1000"]);
    let replies = ran.ok_json();
    let made = place.calls().len();
    assert_eq!(made, 17, "1,020 tokens");
    let refused = replies[0].as_array().unwrap().iter().filter(|reply| reply["failure"] == "budget-exceeded");
    assert_eq!(refused.count(), 200 - 17);
    let spent = place.show("r")["spent"]["tokens"].clone();
    assert_eq!(spent, 1_020, "{}", place.show("r")["spent"]);
}

/// The first one that waits for the budget waits for a slot as well, which another run has by then.
#[test]
fn a_call_that_waits_for_a_slot_holds_up_no_call_of_its_family_that_waits_for_the_budget() {
    let place = Place::new();
    let dir = place.path("").display().to_string();
    // Calls are held as long as there is a file of their name.
    shell(
        &place,
        "jsonl",
        &format!(
            "read prompt\necho \"$prompt\" >> {dir}/prompts\nwhile [ -e {dir}/hold-\"$prompt\" ]; do sleep 0.02; done\n\
             [ \"$prompt\" = usual ] && tokens=400 || tokens=10\n\
             echo '{{\"output\":1,\"usage\":{{\"input_tokens\":'$tokens',\"output_tokens\":0}}}}'"
        ),
    );
    configured(&place, "[agents.concurrency]\ngroups = { g = 1 }\n");
    for held in ["hold-first", "hold-other"] {
        place.file(held, "");
    }
    let call = |prompt: &str, group: Option<&str>| json!({"agent_with": {"prompt": prompt, "providers": ["agent"], "group": group}});
    let asked = |prompt: &str| {
        let prompts = std::fs::read_to_string(place.path("prompts")).unwrap_or_default();
        prompts.lines().any(|line| line == prompt).then_some(())
    };
    let begin = |id: &str, program: Value, more: &[&str]| {
        let args: Vec<_> = ["--detach", "--id", id].iter().chain(more).copied().collect();
        assert_eq!(run(&place, &json!({"do": program}), &args).code(), Some(0));
    };
    let at_once = [call("first", None), call("second", Some("g")), call("third", None)];
    begin("r", json!([call("usual", None), {"parallel": at_once}]), &["--budget", "tokens=1000"]);
    let config = place.path("wfhost.toml").display().to_string();
    let mut serve = place.spawn(["serve", "--config", &config]);
    // The others are expected to need more than is left beside the first one.
    eventually("the first call", || asked("first"));
    begin("other", json!([call("other", Some("g"))]), &[]);
    eventually("the call of another run", || asked("other"));
    std::fs::remove_file(place.path("hold-first")).unwrap();
    eventually("the third call", || asked("third"));
    assert_eq!(asked("second"), None);
    std::fs::remove_file(place.path("hold-other")).unwrap();
    eventually("the end", || (place.show("r")["state"] == "completed").then_some(()));
    serve.kill().unwrap();
    serve.wait().unwrap();
}

/// What a call consumed before it took too long stays paid.
#[test]
fn what_a_timed_out_attempt_consumed_is_recorded() {
    let place = Place::new();
    let first = r#"{"output":"no idea","usage":{"input_tokens":70,"output_tokens":7}}"#;
    shell(
        &place,
        "jsonl",
        &format!("[ \"$(grep -c . {})\" = 1 ] && echo '{first}' || sleep 600", place.path("calls").display()),
    );
    let request = json!({
        "prompt": "p", "providers": ["agent"], "schema": {"type": "object"}, "retry": quick(1),
        "limits": {"attempt": 5_000},
    });
    let failure = gave(&run(&place, &ask(request), &[]));
    assert_eq!(failure["failure"], "timed-out", "{failure}");
    let usage = &step(&place)["failed_attempts"][0]["usage"];
    assert_eq!((usage["input_tokens"].as_u64(), usage["output_tokens"].as_u64()), (Some(70), Some(7)));
}

/// Money that nobody can count is not spent.
#[test]
fn a_budget_of_money_without_a_price_is_refused_before_the_first_call() {
    let place = Place::new();
    let server = Server::start(|_, answer| {
        answer.json(json!({
            "model": "m-1-2026-01-01", "usage": {"prompt_tokens": 1000, "completion_tokens": 100},
            "choices": [{"finish_reason": "stop", "message": {"content": "hello"}}],
        }));
    });
    let config = |prices: &str| {
        let provider =
            "[providers.gpt]\nkind = \"openai\"\napi_key = false\nmodel = \"m-1\"\nstream = false\n";
        place.file("wfhost.toml", format!("{provider}base_url = {:?}\n{prices}", server.url));
    };
    config("");
    let input = json!({"do": [{"agent_or_fail": {"prompt": "p", "providers": ["gpt"]}}]});
    let ran = run(&place, &input, &["--budget", "usd=1"]);
    assert_eq!(ran.code(), Some(7), "{}", ran.stderr());
    assert!(ran.stderr().contains("WF0408") && ran.stderr().contains("[prices.\"m-1\"]"), "{}", ran.stderr());
    assert_eq!(server.requests().len(), 0);
    assert_eq!(place.run(["explain", "WF0408"]).code(), Some(0));
    // The price of what was asked for holds for the longer name that answers.
    config("[prices.\"m-1\"]\ninput = 2\noutput = 10\n");
    let ran = run(&place, &input, &["--budget", "usd=1", "--id", "priced"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert_eq!(place.show("priced")["steps"][0]["output"]["usage"]["cost_micros"], 3_000);
}

/// Calls that no budget can count are warned of.
#[test]
fn a_budget_that_does_not_count_a_provider_says_so_once() {
    let place = Place::new();
    shell(&place, "text", "echo hello");
    let input = parallel(3, json!({"prompt": "p", "providers": ["agent"]}));
    let ran = run(&place, &input, &["--budget", "tokens=100"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let transcript: String =
        ["1", "2", "3"].map(|step| place.run(["transcript", "r", step]).stdout()).concat();
    assert_eq!(transcript.matches("WF0409").count(), 1, "{transcript}");
}

/// What a provider could have told is judged by what it does tell.
#[test]
fn a_budget_of_money_ends_the_calls_that_it_cannot_count() {
    let call = json!({"agent_or_fail": {"prompt": "p", "providers": ["agent"]}});
    let input = json!({"do": vec![call; 3]});
    let tokens = r#"{"output": 1, "usage": {"input_tokens": 400, "output_tokens": 4}}"#;
    let price = "[prices.\"agent/*\"]\ninput = 0\noutput = 0\n";
    for (id, line, more, made) in
        [("nothing", r#"{"output": 1}"#, "", 1), ("tokens", tokens, "", 1), ("priced", tokens, price, 3)]
    {
        let place = Place::new();
        shell(&place, "jsonl", &format!("echo '{line}'"));
        let config = std::fs::read_to_string(place.path("wfhost.toml")).unwrap();
        place.file("wfhost.toml", config + more);
        let ran = run(&place, &input, &["--budget", "usd=0.01"]);
        assert_eq!(calls(&place).len(), made, "{id}: {}", ran.stderr());
        let stopped = made == 1;
        assert_eq!(ran.code(), Some(if stopped { 7 } else { 0 }), "{id}: {}", ran.stderr());
        // It is said where people look: while it runs, and afterwards.
        let said = |text: &str| usize::from(text.contains("did not count this call of agent"));
        assert_eq!(said(&ran.stderr()), usize::from(stopped), "{id}: {}", ran.stderr());
        assert_eq!(ran.stderr().contains("error") || ran.stderr().contains("WF0408"), stopped, "{id}");
        assert_eq!(said(&place.run(["transcript", "r", "1"]).stdout()), usize::from(stopped), "{id}");
        let why = place.run(["why", "r"]).stdout();
        assert_eq!(
            why.contains("its budget of dollars counted nothing for 1 call of agent"),
            stopped,
            "{why}"
        );
    }
}

#[test]
fn a_budget_of_tokens_says_once_that_it_counts_nothing() {
    let place = Place::new();
    shell(&place, "jsonl", "echo '{\"output\": 1}'");
    let input = parallel(3, json!({"prompt": "p", "providers": ["agent"]}));
    let ran = run(&place, &input, &["--budget", "tokens=100"]);
    assert_eq!((ran.code(), calls(&place).len()), (Some(0), 3), "{}", ran.stderr());
    assert_eq!(ran.stderr().matches("WF0409").count(), 1, "{}", ran.stderr());
    let why = place.run(["why", "r"]).stdout();
    assert!(why.contains("its budget of tokens counted nothing for 3 calls of agent (WF0409)"), "{why}");
}

#[test]
fn a_service_that_leaves_its_usage_out_is_noticed() {
    let place = Place::new();
    let server = Server::start(|_, answer| {
        let message = json!({"content": "hello"});
        answer.json(json!({"model": "m-1", "choices": [{"finish_reason": "stop", "message": message}]}));
    });
    let provider = "[providers.gpt]\nkind = \"openai\"\napi_key = false\nmodel = \"m-1\"\nstream = false\n";
    let price = "[prices.\"m-1\"]\ninput = 2\noutput = 10\n";
    place.file("wfhost.toml", format!("{provider}base_url = {:?}\n{price}", server.url));
    let call = json!({"agent_or_fail": {"prompt": "p", "providers": ["gpt"]}});
    let ran = run(&place, &json!({"do": vec![call; 3]}), &["--budget", "usd=1,tokens=50k"]);
    assert_eq!((ran.code(), server.requests().len()), (Some(7), 1), "{}", ran.stderr());
    assert!(ran.stderr().contains("WF0409") && ran.stderr().contains("WF0408"), "{}", ran.stderr());
}

/// Once is once, whatever comes of it.
#[test]
fn a_call_that_may_be_made_once_is_made_once() {
    let schema = json!({"type": "object"});
    let once = json!({"max_attempts": 3, "initial": 5, "fatal": ["unknown-outcome"]});
    let cases = [
        ("echo charged", json!({"schema": schema}), "invalid-output"),
        ("sleep 600", json!({"limits": {"attempt": 3_000}}), "timed-out"),
        ("exit 3", json!({}), "failed"),
    ];
    for (script, more, kind) in cases {
        let place = Place::new();
        shell(&place, "text", script);
        let mut request =
            json!({"prompt": "charge order 17", "providers": ["agent", "agent"], "retry": once});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let failure = gave(&run(&place, &ask(request), &[]));
        assert_eq!((failure["failure"].as_str(), failure["attempts"].as_u64()), (Some(kind), Some(1)));
        assert_eq!(calls(&place).len(), 1, "{script}");
    }
}

/// The id of one provider's conversation means nothing to another one, which is told what was said.
#[test]
fn a_fallback_goes_on_with_what_was_said_and_not_with_a_foreign_id() {
    let place = Place::new();
    let dir = place.path("");
    let first = program(
        &place,
        "first.sh",
        &format!(
            "#!/bin/sh\necho \"$1\" >> {0}/sessions\n[ $(wc -l < {0}/sessions) = 1 ] || exit 3\n\
             echo '{{\"output\":\"four\",\"session\":\"native-1\"}}'\n",
            dir.display()
        ),
    );
    let second = program(
        &place,
        "second.sh",
        &format!("#!/bin/sh\necho \"[$1]\" >> {0}/others\ncat > {0}/prompt\necho nine\n", dir.display()),
    );
    place.file(
        "wfhost.toml",
        format!(
            "[providers.a]\nkind = \"command\"\nargv = [{first:?}, \"${{session}}\"]\nformat = \"jsonl\"\n\
             [providers.b]\nkind = \"command\"\nargv = [{second:?}, \"${{session}}\"]\n"
        ),
    );
    let call = |prompt: &str, session: Option<&str>| {
        json!({"agent_with": {
            "prompt": prompt, "providers": ["a", "b"], "session": session, "retry": quick(2),
        }})
    };
    let input = json!({"do": [call("two and two?", None), call("and five?", Some("native-1"))]});
    let replies = run(&place, &input, &[]).ok_json();
    assert_eq!((replies[1]["provider"].as_str(), replies[1]["output"].as_str()), (Some("b"), Some("nine")));
    let read = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    assert_eq!(read("sessions"), "\nnative-1\n", "its own goes on with it");
    assert_eq!(read("others"), "[]\n");
    let prompt = read("prompt");
    assert!(prompt.contains("two and two?") && prompt.contains("four"), "{prompt}");
    assert!(prompt.trim_end().ends_with("and five?"), "{prompt}");
}

/// An answer that is kept is that of a configuration, and nothing else comes with it.
#[test]
fn a_kept_answer_is_not_taken_for_that_of_another_configuration() {
    let place = Place::new();
    let config = |more: &str| {
        shell(&place, "jsonl", "echo '{\"output\":\"fine\",\"session\":\"s-1\"}'");
        configured(&place, more);
    };
    config("model = \"one\"\n");
    let input = ask(json!({"prompt": "p", "providers": ["agent"], "cache": {"version": "1"}}));
    assert_eq!(gave(&run(&place, &input, &["--id", "a"]))["session"], "s-1");
    run(&place, &input, &["--id", "b"]).ok_json();
    assert_eq!(calls(&place).len(), 1);
    let hit = place.show("b")["steps"][0]["output"].clone();
    assert_eq!(
        (&hit["cached"], &hit["session"], &hit["changes"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    config("model = \"two\"\n");
    run(&place, &input, &["--id", "c"]).ok_json();
    assert_eq!(calls(&place).len(), 2);
}

/// A heartbeat takes the place of the one before.
#[test]
fn heartbeats_do_not_fill_a_transcript() {
    let place = Place::new();
    let beat = "printf '{\"heartbeat\": \"'; head -c 1000000 /dev/zero | tr '\\0' x; echo '\"}'";
    shell(
        &place,
        "jsonl",
        &format!(
            "i=0; while [ $i -lt 36 ]; do {beat}; i=$((i+1)); done; echo '{{\"line\":\"the end\"}}'; echo '{{\"output\":1}}'"
        ),
    );
    assert_eq!(gave(&run(&place, &ask(json!({"prompt": "p", "providers": ["agent"]})), &[]))["output"], 1);
    let transcript = place.run(["transcript", "r", "1"]).stdout();
    assert!(transcript.contains("the end") && !transcript.contains("left out"), "{transcript}");
}

/// A run whose calls wait is cancelled: those of others do not wait for their turns.
#[test]
fn the_turns_of_a_cancelled_run_are_free() {
    let place = Place::new();
    shell(&place, "text", "echo hello");
    configured(&place, "rate = { per_minute = 6 }\n");
    let input = parallel(50, json!({"prompt": "p", "providers": ["agent"]}));
    assert_eq!(run(&place, &input, &["--detach"]).code(), Some(0));
    let config = place.path("wfhost.toml").display().to_string();
    let mut host = place.spawn(["serve", "--config", &config]);
    eventually("the calls to wait", || (count(&place, "postponed") == 49).then_some(()));
    assert_eq!(place.run(["cancel", "r"]).code(), Some(0));
    eventually("the end of the run", || (place.show("r")["state"] != "waiting").then_some(()));
    // Behind the others its turn would be in eight minutes.
    let one = ask(json!({"prompt": "p", "providers": ["agent"]}));
    assert_eq!(run(&place, &one, &["--id", "s", "--detach"]).code(), Some(0));
    eventually("the call of the other run", || (place.show("s")["state"] == "completed").then_some(()));
    host.kill().unwrap();
    host.wait().unwrap();
}

/// A program that tells what it consumed and then works on without end; the second attempt answers.
fn busy(place: &Place) {
    let usage = r#"{"usage":{"input_tokens":70,"output_tokens":5}}"#;
    shell(
        place,
        "jsonl",
        &format!(
            "echo '{usage}'\n[ \"$WFHOST_ATTEMPT\" = 1 ] && exec sleep 600\n\
             echo '{{\"output\":1,\"usage\":{{\"input_tokens\":10,\"output_tokens\":0}}}}'"
        ),
    );
}

/// Begins the run in the background, and waits until its call has told what it consumed.
fn begun(place: &Place, input: &Value) -> std::process::Child {
    let child = place.spawn(crate::run_args(place, input, &[]));
    eventually("the usage to be heard", || {
        let heard = place.run(["transcript", "r", "1", "--raw"]).stdout();
        heard.contains("input_tokens").then_some(())
    });
    child
}

fn spent(place: &Place) -> Value {
    place.show("r")["spent"]["tokens"].clone()
}

/// Whoever drops call after call pays for each of them.
#[test]
fn what_a_dropped_call_consumed_counts() {
    let place = Place::new();
    busy(&place);
    let call = json!({"agent_with": {"prompt": "p", "providers": ["agent"]}});
    let input = json!({"do": [{"race": [call, {"wait": {"name": "go"}}]}, {"wait": {"name": "on"}}]});
    let child = begun(&place, &input);
    assert_eq!(place.run(["signal", "r", "go"]).code(), Some(0));
    eventually("what it consumed to be recorded", || (spent(&place) == 75).then_some(()));
    let kinds: Vec<_> = place.journal("r").iter().map(|entry| entry["kind"].clone()).collect();
    let at = |kind: &str| kinds.iter().position(|found| found == kind);
    assert!(at("cancelled") < at("attempt-failed"), "{kinds:?}");
    assert_eq!(place.run(["signal", "r", "on"]).code(), Some(0));
    assert_eq!(finish(child).code(), Some(0));
    assert_eq!(spent(&place), 75, "once");
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
}

#[test]
fn what_calls_consumed_that_are_under_way_at_the_end_counts() {
    for end in ["signal", "cancel"] {
        let place = Place::new();
        busy(&place);
        let call = json!({"agent_with": {"prompt": "p", "providers": ["agent"]}});
        let child = begun(&place, &json!({"do": [{"race": [call, {"wait": {"name": "go"}}]}]}));
        let args: &[&str] = if end == "signal" { &["signal", "r", "go"] } else { &["cancel", "r"] };
        assert_eq!(place.run(args).code(), Some(0));
        finish(child);
        assert_eq!(spent(&place), 75, "{end}");
        assert_eq!(place.run(["verify", "r"]).code(), Some(0));
    }
}

/// The next host makes the call again, as the next attempt.
#[test]
fn what_a_call_consumed_counts_that_a_host_leaves() {
    let place = Place::new();
    busy(&place);
    let child = begun(&place, &ask(json!({"prompt": "p", "providers": ["agent"]})));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    finish(child);
    assert_eq!(spent(&place), 75);
    let ran = wfhost(&place, &["resume", "r"]);
    assert_eq!(gave(&ran)["output"], 1);
    assert_eq!((spent(&place), calls(&place).len()), (json!(85), 2));
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
}

#[test]
fn what_a_program_consumed_counts_that_takes_too_long() {
    let place = Place::new();
    busy(&place);
    let limits = json!({"heartbeat": 5_000});
    let request = json!({"prompt": "p", "providers": ["agent"], "limits": limits, "retry": quick(2)});
    assert_eq!(gave(&run(&place, &ask(request), &[]))["output"], 1);
    assert_eq!(spent(&place), 85);
}

/// A work tree takes its time; others use the slot meanwhile.
#[test]
fn a_call_whose_workspace_is_being_made_has_no_slot_and_keeps_to_its_time() {
    let place = Place::new();
    let dir = place.path("bin").display().to_string();
    std::fs::create_dir(&dir).unwrap();
    shell(&place, "text", "echo fine");
    program(
        &place,
        "bin/git",
        &format!(
            "#!/bin/sh\ncase \"$*\" in *rev-parse*) echo {dir}; exit;; *\"worktree add\"*) exec sleep 600;; esac\nexit 1\n"
        ),
    );
    let config = format!(
        "max_parallel = 1\n[workspaces.w]\nkind = \"worktree\"\nrepository = {:?}\n",
        place.path("").display().to_string()
    );
    configured(&place, &config);
    let within =
        json!({"prompt": "p", "providers": ["agent"], "workspace": "w", "limits": {"total": 10_000}});
    let other = json!({"prompt": "p", "providers": ["agent"]});
    let input = json!({"do": [{"parallel": [
        {"agent_with": within},
        {"each": [{"sleep": 200}, {"agent_with": other}]},
    ]}]});
    let ran = Ran(with_git(&place, &input).output().unwrap());
    let results = ran.ok_json();
    assert_eq!(results[0][0]["failure"], "timed-out", "{results}");
    let ended = |step: u64| {
        let entries = entries(&place, "completed");
        entries.iter().position(|entry| entry["step"] == step)
    };
    // Steps: the call that waits, the sleep, the other call.
    assert!(ended(3).is_some() && ended(3) < ended(1), "{:?}", entries(&place, "completed"));
}

/// Runs the program with the `git` that is in `bin`.
fn with_git(place: &Place, input: &Value) -> Command {
    let mut command = place.wfhost(crate::run_args(place, input, &[]));
    let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A work tree `w` of a repository with the file `a`, and a `git` that does `script` before it is git.
fn worktree(place: &Place, script: &str) {
    let path = std::env::var("PATH").unwrap();
    std::fs::create_dir(place.path("bin")).unwrap();
    program(place, "bin/git", &format!("#!/bin/sh\n{script}\nPATH={path:?} exec git \"$@\"\n"));
    let repository = place.path("repository");
    std::fs::create_dir(&repository).unwrap();
    place.file("repository/a", "one");
    for args in [&["init", "-q"][..], &["add", "."], &["commit", "-qm", "first"]] {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(args);
        assert!(git.current_dir(&repository).output().unwrap().status.success(), "{args:?}");
    }
    let repository = repository.display().to_string();
    configured(place, &format!("[workspaces.w]\nkind = \"worktree\"\nrepository = {repository:?}\n"));
}

/// What its first attempt left of it is not taken for all.
#[test]
fn a_work_tree_that_is_being_made_when_its_host_leaves_is_made_anew() {
    let place = Place::new();
    shell(&place, "text", "cat a");
    let mark = place.path("resetting").display().to_string();
    worktree(
        &place,
        &format!(
            "case \"$*\" in *\"reset --hard\"*) [ -e {mark} ] || {{ touch {mark}; exec sleep 600; }};; esac"
        ),
    );
    let request = json!({"prompt": "p", "providers": ["agent"], "workspace": "w"});
    let child = with_git(&place, &ask(request)).spawn().unwrap();
    eventually("the work tree to be made", || place.path("resetting").exists().then_some(()));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    finish(child);
    assert_eq!(gave(&wfhost(&place, &["resume", "r"]))["output"], "one");
    assert_eq!(count(&place, "attempt-failed"), 0, "nobody was asked before");
}

/// Its parts have one limit together.
#[test]
fn an_attempt_that_has_used_its_time_before_it_asks_has_no_more() {
    let place = Place::new();
    shell(&place, "text", "sleep 2; echo fine");
    worktree(&place, "case \"$*\" in *\"add --all\"*) sleep 2;; esac");
    let limits = json!({"attempt": 3_000});
    let request = json!({
        "prompt": "p", "providers": ["agent"], "workspace": "w", "retry": quick(1), "limits": limits,
    });
    let failure = gave(&Ran(with_git(&place, &ask(request)).output().unwrap()));
    assert_eq!(failure["failure"], "timed-out", "{failure}");
    assert_eq!(calls(&place).len(), 1, "it was asked with what was left");
}
