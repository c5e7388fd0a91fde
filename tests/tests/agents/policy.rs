//! What holds for all providers: attempts, time limits, structured answers, budgets, limits, kept answers, transcripts.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, finish};

use crate::server::Server;
use crate::{ask, calls, entries, gave, program, quick, run, run_args, shell, step, wfhost};

#[test]
fn a_failed_attempt_is_repeated_and_the_run_knows_nothing_of_it() {
    let place = Place::new();
    let script = place.script(json!({
        "rules": [{"match": "hi", "reply": "hello", "fail": {"times": 1, "kind": "unavailable", "message": "busy"}}]
    }));
    let input = ask(json!({"prompt": "hi", "retry": quick(2)}));
    let reply = gave(&run(&place, &input, &["--agents", &script]));
    assert_eq!(reply["output"], "hello");
    assert_eq!(place.calls().len(), 2);
    assert_eq!(place.calls()[0]["key"], place.calls()[1]["key"]);
    let step = step(&place);
    assert_eq!((step["attempts"].as_u64(), step["state"].as_str()), (Some(2), Some("completed")));
    assert_eq!(step["failed_attempts"][0]["failure"]["message"], "busy");
    assert_eq!(entries(&place, "completed").len(), 1);
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
}

#[test]
fn after_the_last_attempt_the_step_fails_with_their_number() {
    let place = Place::new();
    let script = place.script(json!({
        "rules": [{"match": "hi", "reply": "", "fail": {"times": 9, "kind": "unavailable", "message": "busy"}}]
    }));
    let failure =
        gave(&run(&place, &ask(json!({"prompt": "hi", "retry": quick(3)})), &["--agents", &script]));
    assert_eq!(failure, json!({"failure": "unavailable", "message": "busy", "attempts": 3}));
    assert_eq!(place.calls().len(), 3);
}

#[test]
fn fatal_kinds_are_not_retried() {
    for (kind, fatal) in [("rejected", json!([])), ("timed-out", json!(["timed-out"]))] {
        let place = Place::new();
        let script = place.script(json!({
            "rules": [{"match": "hi", "reply": "", "fail": {"times": 9, "kind": kind, "message": "no"}}]
        }));
        let mut retry = quick(5);
        retry["fatal"] = fatal;
        let failure =
            gave(&run(&place, &ask(json!({"prompt": "hi", "retry": retry})), &["--agents", &script]));
        assert_eq!(failure["failure"], kind);
        assert_eq!(place.calls().len(), 1, "{kind}");
    }
}

/// A failure can be named by the reason in its details as well, whatever kind it has.
#[test]
fn fatal_reasons_are_not_retried() {
    for (fatal, attempts) in [("no-such-user", 1), ("other", 3)] {
        let place = Place::new();
        let text = r#"{"error":"no","kind":"failed","details":{"reason":"no-such-user"}}"#;
        let agent = program(&place, "agent.sh", &format!("#!/bin/sh\necho '{text}'\n"));
        let config = format!("[providers.a]\nkind = \"command\"\nargv = [{agent:?}]\nformat = \"jsonl\"\n");
        place.file("wfhost.toml", config);
        let mut retry = quick(3);
        retry["fatal"] = json!([fatal]);
        let failure =
            gave(&run(&place, &ask(json!({"prompt": "hi", "providers": ["a"], "retry": retry})), &[]));
        assert_eq!(
            (&failure["failure"], &failure["attempts"]),
            (&json!("failed"), &json!(attempts)),
            "{failure}"
        );
    }
}

#[test]
fn a_provider_that_refuses_who_asks_is_out_for_the_run() {
    let place = Place::new();
    let refusing = program(
        &place,
        "refusing.sh",
        &format!(
            "#!/bin/sh\necho x >> {}\necho '{{\"error\":\"bad key\",\"auth\":true}}'\n",
            place.path("asked").display()
        ),
    );
    let other = program(&place, "other.sh", "#!/bin/sh\necho fine\n");
    place.file(
        "wfhost.toml",
        format!(
            "[providers.a]\nkind = \"command\"\nargv = [{refusing:?}]\nformat = \"jsonl\"\n\
             [providers.b]\nkind = \"command\"\nargv = [{other:?}]\n"
        ),
    );
    let once = json!({"agent_with": {"prompt": "p", "providers": ["a", "b"], "retry": quick(1)}});
    let alone = json!({"agent_with": {"prompt": "p", "providers": ["a"]}});
    let results = run(&place, &json!({"do": [once, once, alone]}), &[]).ok_json();
    for reply in [&results[0], &results[1]] {
        assert_eq!((reply["output"].as_str(), reply["provider"].as_str()), (Some("fine"), Some("b")));
    }
    assert_eq!(results[2]["failure"], "rejected");
    assert!(results[2]["message"].as_str().unwrap().contains("no provider is left"), "{}", results[2]);
    let asked = std::fs::read_to_string(place.path("asked")).unwrap();
    assert_eq!(asked.lines().count(), 1, "it is asked once");
}

#[test]
fn attempt_n_goes_to_the_nth_of_the_list() {
    let place = Place::new();
    let failing = program(&place, "failing.sh", "#!/bin/sh\nexit 3\n");
    let other = program(&place, "other.sh", "#!/bin/sh\necho fine\n");
    place.file(
        "wfhost.toml",
        format!(
            "[providers.a]\nkind = \"command\"\nargv = [{failing:?}]\n\
             [providers.b]\nkind = \"command\"\nargv = [{other:?}]\n"
        ),
    );
    let input = ask(json!({"prompt": "p", "providers": ["a", "b"], "retry": quick(2)}));
    assert_eq!(gave(&run(&place, &input, &[]))["provider"], "b");
    assert_eq!(step(&place)["failed_attempts"][0]["provider"], "a");
}

/// Whether a process is there.
fn lives(pid: &str) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A process that ended and was not waited for yet is none.
    !state.is_empty() && !state.contains(") Z ")
}

#[test]
fn an_attempt_that_takes_too_long_is_stopped_with_its_children() {
    let place = Place::new();
    let pids = place.path("pids");
    shell(&place, "text", &format!("sleep 600 & echo $! >> {0}; echo $$ >> {0}; wait", pids.display()));
    let request = json!({
        "prompt": "p", "providers": ["agent"], "retry": quick(2), "limits": {"attempt": 2_500},
    });
    let failure = gave(&run(&place, &ask(request), &[]));
    assert_eq!((failure["failure"].as_str(), failure["attempts"].as_u64()), (Some("timed-out"), Some(2)));
    assert_eq!(failure["message"], "no answer within 2.5s");
    assert_eq!(calls(&place).len(), 2);
    let pids = std::fs::read_to_string(pids).unwrap();
    assert_eq!(pids.lines().count(), 4);
    eventually("the end of all programs", || (!pids.lines().any(lives)).then_some(()));
}

#[test]
fn the_time_limit_of_the_step_ends_all_attempts() {
    let place = Place::new();
    shell(&place, "text", "sleep 600");
    let request = json!({
        "prompt": "p", "providers": ["agent"], "retry": quick(50), "limits": {"attempt": 400, "total": 1000},
    });
    let failure = gave(&run(&place, &ask(request), &[]));
    assert_eq!(failure["failure"], "timed-out");
    assert!(calls(&place).len() <= 3, "{:?}", calls(&place));
}

#[test]
fn silence_ends_an_attempt_and_output_is_a_sign_of_life() {
    let place = Place::new();
    // Longer than the limit in all, never longer without a word.
    shell(&place, "text", "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.4; done");
    let limited = |limit: u64| {
        let limits = json!({"heartbeat": limit});
        ask(json!({"prompt": "p", "providers": ["agent"], "limits": limits, "retry": quick(1)}))
    };
    assert_eq!(gave(&run(&place, &limited(2_500), &[]))["output"], "1\n2\n3\n4\n5\n6\n7\n8");
    shell(&place, "text", "echo 1; sleep 600");
    let failure = gave(&run(&place, &limited(1_500), &["--id", "silent"]));
    assert_eq!(failure["message"], "no sign of life for 1.5s");
}

#[test]
fn the_last_heartbeat_is_handed_to_the_next_attempt() {
    let place = Place::new();
    shell(
        &place,
        "jsonl",
        r#"if [ "$WFHOST_ATTEMPT" = 1 ]; then
  echo '{"heartbeat": {"done": 3}}'
  echo '{"heartbeat": {"done": 7}}'
  printf '{"heartbeat": "'; head -c 1100000 /dev/zero | tr '\0' x; echo '"}'
  exit 1
fi
printf '{"output": %s}\n' "$(cat "$WFHOST_HEARTBEAT_FILE")""#,
    );
    let input = ask(json!({"prompt": "p", "providers": ["agent"], "retry": quick(2)}));
    assert_eq!(gave(&run(&place, &input, &[]))["output"], json!({"done": 7}));
    assert_eq!(entries(&place, "attempt-failed")[0]["heartbeat"], json!({"done": 7}));
    let transcript = place.run(["transcript", "r", "1"]);
    assert!(transcript.stdout().contains("was refused: the limit is 1048576"), "{}", transcript.stdout());
}

/// Answers in turn with the parts that `---` separates.
fn answers(place: &Place, parts: &[&str]) {
    for (i, part) in parts.iter().enumerate() {
        place.file(&format!("answer{}", i + 1), part);
    }
    let dir = place.path("");
    let dir = dir.display();
    shell(
        place,
        "text",
        &format!(
            "cat > {dir}/prompt; n=$(grep -c . {dir}/calls); cp {dir}/prompt {dir}/prompt$n; cat {dir}/answer$n"
        ),
    );
}

fn verdict() -> Value {
    json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]})
}

#[test]
fn an_answer_is_found_as_it_is_in_a_fence_and_in_prose() {
    let cases = [
        "{\"ok\": true}",
        "Sure:\n```json\n{\"ok\": true}\n```\nAnything else?",
        "First I thought {\"ok\": 1}, but then {\"ok\": true} it was.",
    ];
    for answer in cases {
        let place = Place::new();
        answers(&place, &[answer]);
        let input = ask(json!({"prompt": "p", "providers": ["agent"], "schema": verdict()}));
        assert_eq!(gave(&run(&place, &input, &[]))["output"], json!({"ok": true}), "{answer}");
        assert_eq!(calls(&place).len(), 1);
        let prompt = std::fs::read_to_string(place.path("prompt1")).unwrap();
        assert!(prompt.contains("JSON Schema") && prompt.contains("\"required\":[\"ok\"]"), "{prompt}");
    }
}

#[test]
fn what_does_not_fit_is_corrected_in_turns_that_are_no_attempts() {
    let place = Place::new();
    answers(&place, &["no idea", "{\"ok\": \"yes\"}", "{\"ok\": true}"]);
    let input = ask(json!({"prompt": "p", "providers": ["agent"], "schema": verdict(), "retry": quick(1)}));
    assert_eq!(gave(&run(&place, &input, &[]))["output"], json!({"ok": true}));
    assert_eq!(step(&place)["attempts"], 1);
    let prompt = |n: u32| std::fs::read_to_string(place.path(&format!("prompt{n}"))).unwrap();
    assert!(prompt(2).contains("no idea") && prompt(2).contains("contains no JSON"), "{}", prompt(2));
    assert!(prompt(3).contains("at /ok: \"yes\" is not of type \"boolean\""), "{}", prompt(3));
}

#[test]
fn after_three_corrections_the_output_is_invalid() {
    let place = Place::new();
    answers(&place, &["1", "2", "3", "4", "{\"ok\": true}"]);
    let input = ask(json!({"prompt": "p", "providers": ["agent"], "schema": verdict(), "retry": quick(4)}));
    let failure = gave(&run(&place, &input, &[]));
    assert_eq!(
        (failure["failure"].as_str(), failure["attempts"].as_u64()),
        (Some("invalid-output"), Some(1))
    );
    assert_eq!(failure["details"]["answer"], "4");
    assert_eq!(calls(&place).len(), 4);
}

#[test]
fn a_bad_schema_is_the_program_s_error_and_nobody_is_asked() {
    let place = Place::new();
    answers(&place, &["{}"]);
    let failure =
        gave(&run(&place, &ask(json!({"prompt": "p", "providers": ["agent"], "schema": {"type": 7}})), &[]));
    assert_eq!(failure["failure"], "rejected");
    assert!(failure["message"].as_str().unwrap().starts_with("the schema of the call is invalid"));
    assert_eq!(calls(&place).len(), 0);
}

#[test]
fn a_call_that_cannot_be_afforded_is_not_made_until_the_budget_is_raised() {
    let place = Place::new();
    let script = place.script(json!({
        "default": {"reply": "x", "usage": {"input_tokens": 50, "output_tokens": 10}}
    }));
    let call = json!({"agent_or_fail": {"prompt": "p"}});
    let input = json!({"do": [call, "budget", call, call, "budget"]});
    let ran = run(&place, &input, &["--agents", &script, "--budget", "tokens=100"]);
    assert_eq!(ran.code(), Some(7), "{}", ran.stderr());
    assert!(
        ran.stderr().contains("the budget of 100 tokens is used up (120 tokens are spent)"),
        "{}",
        ran.stderr()
    );
    assert_eq!(place.calls().len(), 2);
    // Too little, then enough.
    assert_eq!(place.run(["resume", "r", "--budget", "tokens=110"]).code(), Some(7));
    assert_eq!(place.calls().len(), 2);
    let results = place.run(["resume", "r", "--budget", "tokens=1k"]).ok_json();
    assert_eq!(place.calls().len(), 3);
    assert_eq!(results[1], json!({"total": 100, "spent": 60}));
    assert_eq!(results[4], json!({"total": 1000, "spent": 180}));
    let steps = place.show("r")["steps"].clone();
    assert_eq!(steps[0]["output"]["usage"]["input_tokens"], 50);
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
}

#[test]
fn raising_the_budget_goes_on_with_all_calls_that_were_too_dear() {
    let place = Place::new();
    let script = place.script(json!({
        "default": {"reply": "x", "usage": {"input_tokens": 100}}
    }));
    let call = json!({"agent_with": {"prompt": "p"}});
    let must = json!({"agent_or_fail": {"prompt": "q"}});
    let input = json!({"do": [call, {"parallel": [call, call, call]}, must]});
    let ran = run(&place, &input, &["--agents", &script, "--budget", "tokens=100"]);
    assert_eq!(ran.code(), Some(7), "{}", ran.stderr());
    assert_eq!(place.calls().len(), 1);
    let results = place.run(["resume", "r", "--budget", "tokens=5k"]).ok_json();
    let three = results[1].as_array().unwrap();
    assert!(three.iter().all(|reply| reply["output"] == "x"), "{results}");
    assert_eq!(place.calls().len(), 5);
}

#[test]
fn money_is_counted_by_the_price_table_and_per_attempt() {
    let place = Place::new();
    let server = Server::start(|request, answer| {
        let usage = json!({"prompt_tokens": 1000, "completion_tokens": 100});
        let reason = if request.number == 0 { "length" } else { "stop" };
        answer.json(json!({
            "model": "m-1", "usage": usage,
            "choices": [{"finish_reason": reason, "message": {"content": "hello"}}],
        }));
    });
    place.file(
        "wfhost.toml",
        format!(
            "[providers.gpt]\nkind = \"openai\"\nbase_url = {:?}\napi_key = false\nmodel = \"m-1\"\n\
             [prices.\"gpt/m-*\"]\ninput = 2\noutput = 10.0\n",
            server.url
        ),
    );
    let call = json!({"agent_or_fail": {"prompt": "p", "providers": ["gpt"], "retry": quick(2)}});
    let ran = run(&place, &json!({"do": [call, call]}), &["--budget", "usd=0.004"]);
    assert_eq!(ran.code(), Some(7), "{}", ran.stderr());
    assert!(ran.stderr().contains("0.006000 dollars are spent"), "{}", ran.stderr());
    let first = &place.show("r")["steps"][0];
    assert_eq!(first["output"]["usage"]["cost_micros"], 3_000);
    assert_eq!(first["failed_attempts"][0]["usage"]["cost_micros"], 3_000, "what fails is paid for, too");
    assert_eq!(server.requests().len(), 2);
}

/// A service that counts how many calls it has at the same time. The first ones wait for each other until it has `most`.
fn counting(most: usize) -> (Server, Arc<(AtomicUsize, AtomicUsize)>) {
    let counts = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let seen = Arc::clone(&counts);
    let server = Server::start(move |request, answer| {
        let now = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
        counts.1.fetch_max(now, Ordering::SeqCst);
        let patience = Instant::now() + Duration::from_secs(5);
        while counts.1.load(Ordering::SeqCst) < most && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(15));
        counts.0.fetch_sub(1, Ordering::SeqCst);
        answer.json(json!(request.body["prompt"]));
    });
    (server, seen)
}

fn two_hundred(group: Option<&str>) -> Value {
    let call =
        |i: u32| json!({"agent_with": {"prompt": format!("{i}"), "providers": ["service"], "group": group}});
    json!({"do": [{"parallel": (0..200).map(call).collect::<Vec<_>>()}]})
}

#[test]
fn two_hundred_calls_with_a_limit_of_eight() {
    let limits: [(&str, &str, &[&str]); 4] = [
        ("run", "", &["--max-parallel", "8"]),
        ("group", "[agents.concurrency]\ngroups = { g = 8 }\n", &[]),
        ("provider", "", &[]),
        ("host", "[agents.concurrency]\nhost = 8\n", &[]),
    ];
    for (what, config, args) in limits {
        let place = Place::new();
        let (server, seen) = counting(8);
        let of_provider = if what == "provider" { "max_parallel = 8\n" } else { "" };
        let config =
            format!("[providers.service]\nkind = \"http\"\nurl = {:?}\n{of_provider}{config}", server.url);
        place.file("wfhost.toml", config);
        let group = (what == "group").then_some("g");
        let results = gave(&run(&place, &two_hundred(group), args));
        let results = results.as_array().unwrap();
        assert_eq!(results.len(), 200, "{what}");
        for (i, reply) in results.iter().enumerate() {
            assert_eq!(reply["output"], json!(i.to_string()), "{what}");
        }
        assert_eq!(seen.1.load(Ordering::SeqCst), 8, "{what}: never more, and as many as there may be");
        assert_eq!(server.requests().len(), 200, "{what}");
    }
}

#[test]
fn one_means_one_after_the_other() {
    let place = Place::new();
    let (server, seen) = counting(1);
    place.file("wfhost.toml", format!("[providers.service]\nkind = \"http\"\nurl = {:?}\n", server.url));
    let call = json!({"agent_with": {"prompt": "p", "providers": ["service"]}});
    let input = json!({"do": [{"parallel": vec![call; 12]}]});
    run(&place, &input, &["--max-parallel", "1"]).ok_json();
    assert_eq!((seen.1.load(Ordering::SeqCst), server.requests().len()), (1, 12));
}

#[test]
fn a_rate_limit_makes_later_calls_wait() {
    let place = Place::new();
    let (server, _) = counting(1);
    place.file(
        "wfhost.toml",
        format!(
            "[providers.service]\nkind = \"http\"\nurl = {:?}\nrate = {{ per_minute = 60, burst = 2 }}\n",
            server.url
        ),
    );
    let call = json!({"agent_with": {"prompt": "p", "providers": ["service"]}});
    run(&place, &json!({"do": [{"parallel": vec![call; 5]}]}), &[]).ok_json();
    let requests = server.requests();
    // Two at once, then one each second: the fifth is sent 3 seconds after the first, which may have come late.
    let took = requests[4].at - requests[0].at;
    assert!(took >= Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_long_wait_for_quota_is_recorded_and_the_run_is_parked() {
    let place = Place::new();
    let (server, _) = counting(1);
    place.file(
        "wfhost.toml",
        format!(
            "[providers.service]\nkind = \"http\"\nurl = {:?}\nrate = {{ per_minute = 1 }}\n",
            server.url
        ),
    );
    let call = json!({"agent_with": {"prompt": "p", "providers": ["service"]}});
    let ran = run(&place, &json!({"do": [{"parallel": [call, call]}]}), &["--no-wait"]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    assert_eq!(server.requests().len(), 1);
    assert_eq!(place.show("r")["state"], "waiting");
    let why = place.run(["why", "r"]).stdout();
    assert!(why.contains("waiting for quota of service"), "{why}");
    let postponed = entries(&place, "postponed");
    assert_eq!(postponed.len(), 1);
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
}

#[test]
fn the_same_request_hits_across_runs_until_its_version_changes() {
    let place = Place::new();
    let script = place.script(json!({
        "rules": [
            {"match": "bad", "reply": "at last", "fail": {"times": 1, "kind": "failed", "message": "no"}},
            {"match": "", "replies": ["one", "two", "three"], "usage": {"input_tokens": 5}},
        ]
    }));
    let of = |id: &str, prompt: &str, cache: Value| {
        let input = ask(json!({"prompt": prompt, "cache": cache, "retry": quick(1)}));
        gave(&run(&place, &input, &["--agents", &script, "--id", id]))
    };
    let first = of("a", "p", json!({"version": "1"}));
    assert_eq!((first["output"].as_str(), first["usage"]["input_tokens"].as_u64()), (Some("one"), Some(5)));
    let hit = of("b", "p", json!({"version": "1"}));
    assert_eq!(
        (hit["output"].as_str(), hit.get("usage")),
        (Some("one"), Some(&Value::Null)),
        "a hit costs nothing"
    );
    assert_eq!(place.calls().len(), 1);
    assert_eq!(place.show("b")["steps"][0]["output"]["cached"], true);
    // The script is read anew by each process, so its replies begin anew.
    assert_eq!(of("c", "p", json!({"version": "2"}))["output"], "one");
    assert_eq!(place.calls().len(), 2);
    assert_eq!(of("d", "p", json!({"version": "1", "ttl": 0}))["output"], "one");
    assert_eq!(place.calls().len(), 3, "too old");
    assert_eq!(of("e", "bad", json!({"version": "1"}))["failure"], "failed");
    assert_eq!(of("f", "bad", json!({"version": "1"}))["failure"], "failed", "failures are not kept");
    assert_eq!(place.calls().len(), 5);
}

#[test]
fn cancelling_stops_calls_at_once_and_keeps_what_they_said() {
    let place = Place::new();
    let pid = place.path("pid");
    shell(&place, "text", &format!("echo working; echo $$ > {}; sleep 600", pid.display()));
    let input = json!({"do": [{"agent_or_fail": {"prompt": "p", "providers": ["agent"]}}]});
    let child = place.spawn(run_args(&place, &input, &[]));
    let said = || place.run(["transcript", "r", "1"]).stdout();
    eventually("output", || said().contains("working").then_some(()));
    assert_eq!(place.run(["cancel", "r"]).code(), Some(0));
    let ran = finish(child);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    assert_eq!(place.show("r")["state"], "cancelled");
    let pid = std::fs::read_to_string(pid).unwrap();
    eventually("the program's end", || (!lives(pid.trim())).then_some(()));
    assert!(said().contains("working"));
}

#[test]
fn the_answer_is_stored_without_its_transcript_which_has_its_own_place() {
    let place = Place::new();
    let usage = r#""usage":{"input_tokens":12,"output_tokens":3}"#;
    shell(
        &place,
        "jsonl",
        &format!(
            "echo '{{\"progress\":\"thinking hard\"}}'\n\
             echo '{{\"output\":\"42\",\"session\":\"s-1\",\"model\":\"m-9\",{usage}}}'"
        ),
    );
    gave(&run(&place, &ask(json!({"prompt": "p", "providers": ["agent"]})), &[]));
    let stored = step(&place)["output"].clone();
    let usage = json!({"input_tokens": 12, "output_tokens": 3, "cached_tokens": 0, "cost_micros": 0});
    assert_eq!(
        stored,
        json!({"output": "42", "session": "s-1", "model": "m-9", "usage": usage, "provider": "agent"})
    );
    let journal: String = place.journal("r").iter().map(Value::to_string).collect();
    assert!(!journal.contains("thinking hard"));
    let raw = place.run(["transcript", "r", "1", "--raw"]).stdout();
    assert!(raw.contains("{\"progress\":\"thinking hard\"}"), "{raw}");
}

#[test]
fn the_transcript_of_what_fails_is_there_before_the_run_ends() {
    let place = Place::new();
    shell(&place, "jsonl", "echo '{\"line\":\"so far so good\"}'; exit 1");
    let call = json!({"agent_with": {"prompt": "p", "providers": ["agent"], "retry": quick(1)}});
    // The run goes on after the call.
    let input = json!({"do": [call, {"wait": {"name": "go"}}]});
    let ran = run(&place, &input, &["--no-wait"]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    let raw = place.run(["transcript", "r", "1", "--raw"]).stdout();
    assert!(raw.contains("so far so good"), "{raw}");
}

#[test]
fn a_call_longer_than_the_lease_is_not_taken_over() {
    let place = Place::new();
    let go = place.path("go");
    shell(&place, "text", &format!("while [ ! -e {} ]; do sleep 0.05; done; echo done", go.display()));
    let lease = Duration::from_secs(2);
    let begin = |mut command: Command| {
        command.env("WFHOST_LEASE_MS", lease.as_millis().to_string());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let args = run_args(&place, &ask(json!({"prompt": "p", "providers": ["agent"]})), &[]);
    let child = begin(place.wfhost(args));
    eventually("the call", || (calls(&place).len() == 1).then_some(()));
    // Another host looks for work all the while.
    let mut other = begin(place.wfhost(["serve".to_owned()].into_iter().chain(crate::config_args(&place))));
    let refused = crate::wfhost(&place, &["resume", "r"]);
    assert_eq!(refused.code(), Some(6), "{}", refused.stderr());
    std::thread::sleep(lease + Duration::from_millis(500));
    std::fs::write(go, "").unwrap();
    let ran = finish(child);
    assert_eq!(gave(&ran)["output"], "done");
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(calls(&place).len(), 1);
    assert_eq!(place.show("r")["attempts"], 1, "one epoch");
}

#[test]
fn what_agents_write_shows_while_they_work_and_not_on_replay() {
    let place = Place::new();
    let go = place.path("go");
    shell(
        &place,
        "text",
        &format!("echo line one; while [ ! -e {} ]; do sleep 0.05; done; echo line two", go.display()),
    );
    let call = json!({"agent_with": {"prompt": "p", "providers": ["agent"]}});
    let child = place.spawn(run_args(&place, &json!({"do": [{"log": "it begins"}, call]}), &[]));
    eventually("the run", || {
        place.has_begun().then(|| place.run(["show", "r"])).filter(|ran| ran.code() == Some(0))
    });
    // Somebody else follows, too.
    let mut logs = place.spawn(["logs", "r", "-f"]);
    let mut events = place.spawn(["events", "r", "-f", "-o", "jsonl"]);
    eventually("the first line", || {
        place.run(["transcript", "r", "1"]).stdout().contains("line one").then_some(())
    });
    // What is live is told only to who follows by then, which shows by what they tell of before.
    let [mut logs, mut events] = [&mut logs, &mut events].map(|process| {
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut lines = lines.peekable();
        assert!(lines.peek().is_some());
        lines
    });
    std::fs::write(go, "").unwrap();
    let ran = finish(child);
    let shown = ran.stderr();
    let (one, two) = (shown.find("line one"), shown.find("line two"));
    assert!(one.is_some() && one < two, "{shown}");
    assert!(logs.any(|line| line.contains("line two")));
    assert!(events.any(|line| line.contains("\"kind\":\"live\"") && line.contains("line two")));
    let again = place.run(["resume", "r", "-v"]);
    assert!(!again.stderr().contains("line one"), "{}", again.stderr());
    assert_eq!(ran.ok_json()[1]["output"], "line one\nline two", "and the program sees the answer only");
}

#[test]
fn a_person_answers_a_call() {
    let place = Place::new();
    let request = json!({"prompt": "ship it?", "providers": ["human"], "schema": verdict()});
    let ran = run(&place, &ask(request), &["--no-wait"]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    let inbox = place.run(["inbox", "-o", "json"]).stdout();
    assert!(inbox.contains("ship it?"), "{inbox}");
    let bad = place.run(["answer", "r", "1", "-i", "{\"ok\":1}"]);
    assert_eq!(bad.code(), Some(2), "{}", bad.stderr());
    assert_eq!(place.run(["answer", "r", "1", "-i", "{\"ok\":true}"]).code(), Some(0));
    let reply = gave(&place.run(["resume", "r"]));
    assert_eq!((&reply["output"], reply["provider"].as_str()), (&json!({"ok": true}), Some("human")));
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));

    let ran = run(
        &place,
        &ask(json!({"prompt": "and this?", "providers": ["human"]})),
        &["--no-wait", "--id", "s"],
    );
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    assert_eq!(place.run(["deny", "s"]).code(), Some(0));
    assert_eq!(gave(&place.run(["resume", "s"]))["failure"], "rejected");
}

#[test]
fn what_an_agent_changed_in_its_workspace_is_recorded() {
    let place = Place::new();
    shell(&place, "text", "pwd; echo hello > new.txt");
    let config = std::fs::read_to_string(place.path("wfhost.toml")).unwrap();
    place.file("wfhost.toml", format!("{config}[workspaces.s]\nkind = \"scratch\"\n"));
    let call = json!({"agent_with": {"prompt": "p", "providers": ["agent"], "workspace": "s"}});
    let nowhere = json!({"agent_with": {"prompt": "p", "providers": ["agent"], "workspace": "x"}});
    let results = run(&place, &json!({"do": [call, nowhere]}), &[]).ok_json();
    let directory = results[0]["output"].as_str().unwrap();
    assert!(directory.contains("/workspaces/@") && directory.ends_with("/r/s"), "{results}");
    assert_eq!(results[1]["message"], "unknown workspace `x`; configured are: s");
    let changes = &place.show("r")["steps"][0]["output"]["changes"];
    assert_eq!(*changes, json!({"files": ["A new.txt"], "changed": 1, "added": 1, "removed": 0}));
    let diff = wfhost(&place, &["transcript", "r", "1", "--diff"]).stdout();
    assert!(diff.contains("+hello"), "{diff}");
}

#[test]
fn two_runs_of_one_host_share_the_limit_of_a_provider() {
    let place = Place::new();
    let (server, seen) = counting(3);
    place.file(
        "wfhost.toml",
        format!("[providers.service]\nkind = \"http\"\nurl = {:?}\nmax_parallel = 3\n", server.url),
    );
    let call = json!({"agent_with": {"prompt": "p", "providers": ["service"]}});
    let input = json!({"do": [{"parallel": vec![call; 20]}]});
    for id in ["a", "b", "c"] {
        assert_eq!(run(&place, &input, &["--id", id, "--detach"]).code(), Some(0));
    }
    assert_eq!(wfhost(&place, &["serve", "--idle", "300ms"]).code(), Some(0));
    assert_eq!((seen.1.load(Ordering::SeqCst), server.requests().len()), (3, 60));
}

/// So that a host that shuts down leaves no program behind.
#[test]
fn a_host_that_is_told_to_stop_stops_its_programs() {
    let place = Place::new();
    let pid = place.path("pid");
    shell(&place, "text", &format!("echo $$ > {}; sleep 600", pid.display()));
    let child = place.spawn(run_args(&place, &ask(json!({"prompt": "p", "providers": ["agent"]})), &[]));
    let pid =
        eventually("the program", || std::fs::read_to_string(&pid).ok().filter(|pid| pid.ends_with('\n')));
    let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(told.success());
    assert_eq!(finish(child).code(), Some(143));
    eventually("the program's end", || (!lives(pid.trim())).then_some(()));
}
