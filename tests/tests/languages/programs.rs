//! Workflows in other languages than Rust behave the same.

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, module};

/// The agents of the report: the second review accepts it.
fn agents(place: &Place, slow: bool) -> String {
    let delay_ms = if slow { 60_000 } else { 3 };
    place.script(json!({ "rules": [
        { "match": "^outline", "reply": "an \"outline\"\nof \u{1F408}" },
        { "match": "^review round 1", "reply": "more cats" },
        { "match": "^review round 2", "reply": " OK then", "delay_ms": delay_ms },
        { "match": "section 2", "reply": "second", "delay_ms": 20 },
    ], "default": { "reply": "text of ${prompt}" } }))
}

/// What a report in some language gives, and the prompts that it asked in.
fn report(name: &str) -> (Value, Vec<String>) {
    let place = Place::new();
    let script = agents(&place, false);
    let input = json!({ "topic": "cats", "sections": 2 }).to_string();
    place.run(["run", &module(name), "-i", &input, "--agents", &script, "--id", "r", "--no-wait"]);
    let approval = json!({ "ok": true, "note": "fine" }).to_string();
    assert_eq!(place.run(["signal", "r", "approve", "-i", &approval]).code(), Some(0));
    let output = place.run(["resume", "r", "--agents", &script]).ok_json();
    assert_eq!(place.show("r")["published"]["draft"], output["sections"]);
    assert_eq!(place.run(["replay", "r"]).code(), Some(0));
    let mut prompts: Vec<_> =
        place.calls().iter().map(|call| call["prompt"].as_str().unwrap().to_owned()).collect();
    prompts.sort();
    (output, prompts)
}

/// Killed in the middle, it goes on where it was and asks nothing twice that was answered.
fn survives_a_kill(name: &str) {
    let place = Place::new();
    let script = agents(&place, true);
    let input = json!({ "topic": "cats", "sections": 2, "approval_timeout_s": 0 }).to_string();
    let mut child = place.spawn(["run", &module(name), "-i", &input, "--agents", &script, "--id", "r"]);
    let slow = |place: &Place| {
        let calls = place.calls();
        calls.iter().filter(|call| call["prompt"].as_str().unwrap().starts_with("review round 2")).count()
    };
    eventually("the second review", || (slow(&place) == 1).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    let before = place.calls().len();
    // A run keeps the rules that it was begun with, and these are slow.
    let script = agents(&place, false);
    let output = place.run(["resume", "r", "--agents", &script]).ok_json();
    assert_eq!((&output["rounds"], &output["approval"]), (&json!(2), &Value::Null));
    // Only the call that was under way was made again.
    assert_eq!((place.calls().len(), slow(&place)), (before + 1, 2));
}

#[test]
fn a_report_in_c_is_the_same_as_in_rust() {
    assert_eq!(report("research-c"), report("research"));
    survives_a_kill("research-c");
}

#[test]
fn a_report_in_typescript_is_the_same_as_in_rust() {
    assert_eq!(report("research-js"), report("research"));
    survives_a_kill("research-js");
}

#[test]
fn a_report_in_python_is_the_same_as_in_rust() {
    assert_eq!(report("research-python"), report("research"));
    survives_a_kill("research-python");
}

#[test]
fn a_report_in_go_is_the_same_as_in_rust() {
    assert_eq!(report("research-go"), report("research"));
    survives_a_kill("research-go");
}

#[test]
fn what_python_shows_of_the_machine_is_virtual() {
    let place = Place::new();
    assert_eq!(
        place.run(["new", &place.path("program").display().to_string(), "-t", "python"]).code(),
        Some(0)
    );
    place.file(
        "program/workflow.py",
        r#"
import os, random, socket, time, uuid
from wfhost import Failure, agent, info, now, race, sleep

async def run(input):
    if input == "raise":
        raise KeyError("not like this")
    if input == "fail":
        raise Failure("rejected", "no", {"why": [1]})
    if input == "socket":
        socket.create_connection(("127.0.0.1", 80))
    def seen():
        return [time.time(), now().timestamp(), random.random(), str(uuid.uuid4()), list({"b", "a", "c"}), os.environ.get("HOME"), info().run]
    first, _ = await race(sleep(60), agent(repr(seen())), sleep(60))
    before = time.monotonic()
    time.sleep(0.02)
    slept = time.monotonic() - before
    with open("/note", "w") as file:
        file.write("kept")
    told = await agent(repr(seen()) + open("/note").read())
    print("printed")
    try:
        await sleep(1e15)
    except Failure as failure:
        refused = failure.kind
    return {"first": first, "slept": slept >= 0.02, "told": told, "refused": refused, "clocks": abs(time.time() - now().timestamp()) < 1e-5}
"#,
    );
    let built = place.run(["build", &place.path("program").display().to_string()]);
    assert_eq!(built.code(), Some(0), "{}", built.stderr());
    let module = built.stdout().trim().to_owned();
    // Dropped at each wait: what the agent is told must not differ.
    let run =
        |id: &str| place.run(["run", &module, "--agent", "echo", "--evict", "always", "--id", id]).ok_json();
    let output = run("one");
    let expected = json!([1, true, "rejected", true]);
    assert_eq!(json!([output["first"], output["slept"], output["refused"], output["clocks"]]), expected);
    let told = output["told"].as_str().unwrap();
    assert!(told.ends_with("None, 'one']kept"), "{told}");
    assert_eq!(place.run(["replay", "one"]).code(), Some(0));
    assert!(place.run(["logs", "one"]).stdout().contains("printed stream=stdout"));
    // Random numbers are of the run, not of the module.
    let random = |told: &str| told.split(", ").nth(2).unwrap().to_owned();
    assert_ne!(random(told), random(run("two")["told"].as_str().unwrap()));
    let failure = |input: &str| {
        assert_eq!(place.run(["run", &module, "-i", &format!("\"{input}\""), "--id", input]).code(), Some(1));
        place.show(input)["failure"].clone()
    };
    assert_eq!(failure("raise")["message"], "KeyError: 'not like this'");
    let failed = failure("fail");
    assert_eq!((&failed["kind"], &failed["details"]), (&json!("rejected"), &json!({ "why": [1] })));
    // Its runtime imports sockets; whoever uses them is told.
    let refused = failure("socket")["message"].as_str().unwrap().to_owned();
    assert!(refused.contains("`wasi:sockets/") && refused.contains("ask an agent instead"), "{refused}");
}

/// `check --twice` of the report: two processes that share nothing agree.
fn is_checked_twice(name: &str) {
    let place = Place::new();
    let input = json!({ "topic": "cats", "approval_timeout_s": 1 }).to_string();
    let args = ["check", &module(name), "--twice", "-i", &input, "--agent", "echo", "-o", "json"];
    let report = place.run(args).ok_json();
    assert!(report["entries"].as_u64() > Some(10), "{name}: {report}");
}

#[test]
fn programs_in_other_languages_are_checked_twice() {
    for name in ["research-c", "research-go", "research-js"] {
        is_checked_twice(name);
    }
}

#[test]
fn a_program_in_python_is_checked_twice() {
    is_checked_twice("research-python");
}

/// A program of its own, built beside the tools of the example.
fn javascript(place: &Place, text: &str) -> String {
    let dir = place.path("program");
    std::fs::create_dir(&dir).unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::os::unix::fs::symlink(root.join("examples/research-js/node_modules"), dir.join("node_modules"))
        .unwrap();
    place.file("program/workflow.js", text);
    let built = place.run(["build", &dir.display().to_string()]);
    assert_eq!(built.code(), Some(0), "{}", built.stderr());
    built.stdout().trim().to_owned()
}

#[test]
fn what_javascript_shows_of_the_machine_is_virtual() {
    let place = Place::new();
    let module = javascript(
        &place,
        r#"
        import { agent, info, now, race, sleep, workflow, Failure } from "wfhost";
        export const run = workflow(async (input) => {
          await sleep(1);
          if (input === "throw") throw new TypeError("not like this");
          if (input === "fail") throw new Failure("rejected", "no", { details: { why: [1] } });
          if (input === "forgotten") {
            (async () => {
              await sleep(1);
              throw new RangeError("nobody looked");
            })();
            await sleep(5);
            return "fine";
          }
          const seen = () => [Date.now(), +now(), Math.random(), Object.keys({ b: 1, a: 2 }), 0 / 0, info().run];
          console.log("seen", seen());
          const { index: first } = await race([sleep(60_000), agent(JSON.stringify(seen())), sleep(60_000)]);
          const timed = await new Promise((resolve) => setTimeout(resolve, 2, "timed"));
          const told = await agent(JSON.stringify(seen()));
          let refused;
          try {
            await sleep(1e18);
          } catch (error) {
            refused = [error instanceof Failure, error.kind];
          }
          return { first, timed, told: JSON.parse(told), refused, clocks: Date.now() === +now() };
        });
        "#,
    );
    // Dropped at each wait: what the agent is told must not differ.
    let run =
        |id: &str| place.run(["run", &module, "--agent", "echo", "--evict", "always", "--id", id]).ok_json();
    let output = run("one");
    assert_eq!((&output["first"], &output["refused"]), (&json!(1), &json!([true, "rejected"])));
    assert_eq!((&output["clocks"], &output["told"][5]), (&json!(true), &json!("one")));
    assert_eq!(output["timed"], "timed");
    assert_eq!(place.run(["replay", "one"]).code(), Some(0));
    assert!(place.run(["logs", "one"]).stdout().contains("seen ["));
    // Random numbers are of the run, not of the module.
    assert_ne!(output["told"][2], run("two")["told"][2]);
    assert_eq!(place.run(["run", &module, "-i", "\"throw\"", "--id", "throw"]).code(), Some(1));
    assert_eq!(place.show("throw")["failure"]["message"], "TypeError: not like this");
    assert_eq!(place.run(["run", &module, "-i", "\"fail\"", "--id", "fail"]).code(), Some(1));
    let failure = place.show("fail")["failure"].clone();
    assert_eq!((&failure["kind"], &failure["details"]), (&json!("rejected"), &json!({ "why": [1] })));
    assert_eq!(place.run(["run", &module, "-i", "\"forgotten\"", "--id", "forgotten"]).code(), Some(1));
    assert_eq!(place.show("forgotten")["failure"]["message"], "RangeError: nobody looked");
}

/// What the C library shows of the machine.
const LIBRARY: &str = r#"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wfhost.h>

wf_result workflow(const char *input) {
  FILE *file = fopen("/note", "w+");
  if (!file) return wf_fail(WF_FAILED, "no file: %s", strerror(errno));
  fprintf(file, "%s", input);
  rewind(file);
  char text[100] = "";
  size_t length = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  struct timespec before, after;
  clock_gettime(CLOCK_REALTIME, &before);
  struct timespec nap = {.tv_sec = 0, .tv_nsec = 30000000};
  nanosleep(&nap, NULL);
  clock_gettime(CLOCK_REALTIME, &after);
  long slept = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
  unsigned char random[8];
  getentropy(random, sizeof random);
  const char *digits = "";
  for (int i = 0; i < 8; i++) digits = wf_format("%s%02x", digits, random[i]);
  printf("printed\n");
  fprintf(stderr, "to stderr\n");
  wf_result told = wf_agent((wf_request){.prompt = wf_format("%s %ld %s", digits, slept, getenv("HOME") ? "home" : "none")});
  if (!told.json) return told;
  const char *words = wf_json_text("\"a\\u00e9\\ud83d\\udc08\\n\\\"\"");
  return wf_ok(wf_format("{\"note\":%s,\"length\":%zu,\"slept\":%s,\"told\":%s,\"words\":%s}", wf_json_string(text),
                         length, slept >= 30 ? "true" : "false", told.json, wf_json_string(words)));
}
"#;

#[test]
fn the_c_library_is_virtual() {
    let place = Place::new();
    std::fs::create_dir(place.path("library")).unwrap();
    place.file("library/library.c", LIBRARY);
    let dir = place.path("library").display().to_string();
    let built = place.run(["build", &dir]);
    assert_eq!(built.code(), Some(0), "{}", built.stderr());
    let module = built.stdout().trim().to_owned();
    // Dropped at each wait: what the agent is told must not differ.
    let args = ["run", &module, "-i", "\"in\"", "--agent", "echo", "--evict", "always", "--id", "r"];
    let output = place.run(args).ok_json();
    assert_eq!((&output["note"], &output["length"]), (&json!("\"in\""), &json!(4)));
    assert_eq!((&output["slept"], &output["words"]), (&json!(true), &json!("a\u{e9}\u{1F408}\n\"")));
    assert!(output["told"].as_str().unwrap().ends_with(" none"), "{output}");
    let logs = place.run(["logs", "r"]).stdout();
    assert!(logs.contains("printed stream=stdout") && logs.contains("to stderr stream=stderr"), "{logs}");
    let trace = place.run(["replay", "r", "--backtrace"]).stdout();
    assert!(trace.contains("library.c:"), "{trace}");
}

#[test]
fn a_new_project_in_typescript_builds_and_runs() {
    let place = Place::new();
    let dir = place.path("hello").display().to_string();
    assert_eq!(place.run(["new", &dir, "-t", "js"]).code(), Some(0));
    let error = place.run(["build", &dir]).error(2, &place);
    assert!(error.starts_with("error[WF0616]") && error.contains("npm install"), "{error}");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let tools = root.join("examples/research-js/node_modules");
    std::os::unix::fs::symlink(tools, place.path("hello/node_modules")).unwrap();
    let agents = place.path("hello/agents.json").display().to_string();
    let output = place.run(["run", &dir, "-i", "{\"name\":\"Ada\"}", "--agents", &agents]).ok_json();
    assert_eq!(output, json!({ "greeting": "Hello, Ada!" }));
}

#[test]
fn what_go_shows_of_the_machine_is_virtual() {
    let place = Place::new();
    let dir = place.path("program").display().to_string();
    assert_eq!(place.run(["new", &dir, "-t", "go"]).code(), Some(0));
    place.file(
        "program/workflow.go",
        r#"
package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	wfhost "github.com/wfhost/wfhost/guest-sdk/go"
)

func init() { wfhost.Workflow(run) }
func main() {}

func seen() string {
	names := ""
	for name := range map[string]int{"a": 1, "b": 2, "c": 3, "d": 4} {
		names += name
	}
	return fmt.Sprint(time.Now().UnixMilli(), rand.Uint64(), names, os.Getenv("HOME"), wfhost.Info().Run)
}

func run(ctx context.Context, input string) (map[string]any, error) {
	switch input {
	case "fail":
		return nil, fmt.Errorf("wrapped: %w", &wfhost.Failure{Kind: wfhost.Rejected, Message: "no", Details: []byte(`{"why":[1]}`)})
	case "other":
		return nil, errors.New("of its own")
	case "panic":
		panic("not like this")
	}
	// Steps side by side, some of them cancelled, and enough garbage for many collections.
	slow := wfhost.StartSleep(time.Minute)
	first, err := wfhost.Any(ctx, slow, wfhost.Agent{Prompt: seen()}.Start())
	if err != nil {
		return nil, err
	}
	slow.Cancel()
	_, cancelled := slow.Get(ctx)
	total := 0
	for round := range 60 {
		garbage := make([][]byte, 0)
		for range 100 {
			garbage = append(garbage, make([]byte, 10_000))
		}
		total += len(garbage)
		answer, err := wfhost.Agent{Prompt: fmt.Sprint(round), Input: garbage[0]}.Text(ctx)
		if err != nil || answer != fmt.Sprint(round) {
			return nil, fmt.Errorf("%q, %w", answer, err)
		}
	}
	before := time.Now()
	time.Sleep(20 * time.Millisecond)
	slept := time.Since(before)
	done := make(chan string)
	go func() { done <- seen() }()
	told, err := wfhost.Agent{Prompt: <-done}.Text(ctx)
	if err != nil {
		return nil, err
	}
	fmt.Println("printed")
	_, refused := wfhost.Agent{Prompt: "x", Input: make(chan int)}.Text(ctx)
	_, late := wfhost.Signal[int](ctx, "never", 5*time.Millisecond)
	return map[string]any{
		"first": first, "cancelled": wfhost.Cancelled.Is(cancelled), "total": total, "slept": slept >= 20*time.Millisecond,
		"told": told, "refused": wfhost.Rejected.Is(refused), "late": wfhost.TimedOut.Is(late),
	}, nil
}
"#,
    );
    let built = place.run(["build", &dir]);
    assert_eq!(built.code(), Some(0), "{}", built.stderr());
    let module = built.stdout().trim().to_owned();
    // Dropped at each wait: what the agent is told must not differ.
    let run = |id: &str| {
        let args = ["run", &module, "-i", "\"\"", "--agent", "echo", "--evict", "always", "--id", id];
        place.run(args).ok_json()
    };
    let output = run("one");
    for member in ["cancelled", "slept", "refused", "late"] {
        assert_eq!(output[member], true, "{member}");
    }
    assert_eq!((&output["first"], &output["total"]), (&json!(1), &json!(6_000)));
    assert_eq!(place.run(["replay", "one"]).code(), Some(0));
    assert!(place.run(["logs", "one"]).stdout().contains("printed stream=stdout"));
    assert_ne!(output["told"], run("two")["told"]);
    let failure = |input: &str| {
        assert_eq!(place.run(["run", &module, "-i", &format!("\"{input}\""), "--id", input]).code(), Some(1));
        place.show(input)["failure"].clone()
    };
    let failed = failure("fail");
    assert_eq!((&failed["kind"], &failed["message"]), (&json!("rejected"), &json!("wrapped: no")));
    assert_eq!(failed["details"], json!({ "why": [1] }));
    assert_eq!(failure("other")["message"], "of its own");
    assert_eq!(failure("panic")["message"], "the program panicked: not like this");
    let error = place.run(["run", &module, "-i", "{}", "--id", "unfit"]).error(1, &place);
    assert!(error.contains("the input does not fit: json: cannot unmarshal object"), "{error}");
}

#[test]
fn a_new_project_in_go_builds_and_runs() {
    let place = Place::new();
    let dir = place.path("hello").display().to_string();
    assert_eq!(place.run(["new", &dir, "-t", "go"]).code(), Some(0));
    let agents = place.path("hello/agents.json").display().to_string();
    let output = place.run(["run", &dir, "-i", "{\"name\":\"Ada\"}", "--agents", &agents]).ok_json();
    assert_eq!(output, json!({ "greeting": "Hello, Ada!" }));
}

#[test]
fn what_lies_above_a_project_does_not_hinder_its_build() {
    let place = Place::new();
    // A repository that is none, a workspace of others, and settings for projects of another kind.
    std::fs::create_dir(place.path(".git")).unwrap();
    place.file("go.work", "no workspace");
    place.file("tsconfig.json", r#"{ "extends": "./missing.json", "compilerOptions": { "target": "es3" } }"#);
    let go = place.path("hello-go").display().to_string();
    let js = place.path("hello-js").display().to_string();
    assert_eq!(place.run(["new", &go, "-t", "go"]).code(), Some(0));
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::create_dir(&js).unwrap();
    place.file("hello-js/workflow.js", "export function run(input) { return 'null' }");
    let tools = root.join("examples/research-js/node_modules");
    std::os::unix::fs::symlink(tools, place.path("hello-js/node_modules")).unwrap();
    for dir in [go, js] {
        let mut build = place.wfhost(["build", &dir]);
        build.env("GOFLAGS", "-mod=mod").env("GO111MODULE", "off");
        let built = wfhost_tests::Ran(build.output().unwrap());
        assert_eq!(built.code(), Some(0), "{dir}: {}", built.stderr());
    }
}

#[test]
fn a_new_project_in_c_builds_and_runs() {
    let place = Place::new();
    let dir = place.path("hello").display().to_string();
    assert_eq!(place.run(["new", &dir, "-t", "c"]).code(), Some(0));
    let agents = place.path("hello/agents.json").display().to_string();
    let output = place.run(["run", &dir, "-i", "{\"name\":\"Ada\"}", "--agents", &agents]).ok_json();
    assert_eq!(output, json!({ "greeting": "Hello, Ada!" }));
}

#[test]
fn what_does_not_compile_says_so() {
    let place = Place::new();
    std::fs::create_dir(place.path("broken")).unwrap();
    place.file("broken/broken.c", "int workflow(void) { return x; }");
    let dir = place.path("broken").display().to_string();
    let error = place.run(["build", &dir]).error(2, &place);
    assert!(error.contains("error[WF0615]: clang failed to build"), "{error}");
    assert!(error.contains("broken.c:1:"), "{error}");
}
