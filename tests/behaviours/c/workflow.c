/* The scenarios of tests/guests/behaviours in C. */
#include <string.h>
#include <wfhost.h>

#define REVIEW                                                                                                        \
  "{\"type\":\"object\",\"required\":[\"accepted\",\"notes\"],\"properties\":{\"accepted\":{\"type\":\"boolean\"}," \
  "\"notes\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}}}"

static const char *kind(wf_result result) {
  return wf_json_string(result.json ? "none" : wf_kind_name(result.kind));
}

static wf_step ask_agent(const char *prompt) { return wf_agent_start((wf_request){.prompt = prompt}); }

static wf_result conversation(const char *input) {
  (void)input;
  wf_reply first = wf_agent_reply((wf_request){.prompt = "first", .session = "s1"});
  if (!first.output.json) return first.output;
  wf_reply second = wf_agent_reply((wf_request){.prompt = "second", .session = first.session});
  if (!second.output.json) return second.output;
  const char *outputs[] = {first.output.json, second.output.json};
  const char *usage = wf_format("[%llu,%llu,%llu,%llu]", (unsigned long long)first.input_tokens,
                                (unsigned long long)first.output_tokens, (unsigned long long)first.cached_tokens,
                                (unsigned long long)first.cost_micros);
  return wf_ok(wf_json_object("outputs", wf_json_array(outputs, 2), "session", wf_json_string(second.session), "usage",
                              usage, "provider", wf_json_string(first.provider), NULL));
}

/* What a reviewer says, as the program has it. */
typedef struct {
  bool accepted;
  const char *notes[8];
  size_t count;
} review;

static review read_review(const char *json) {
  review read = {.accepted = wf_json_bool(wf_json_get(json, "accepted"), false)};
  for (wf_json_iterator note = wf_json_each(wf_json_get(json, "notes")); read.count < 8 && wf_json_next(&note);) {
    read.notes[read.count++] = wf_json_text(note.value);
  }
  return read;
}

static wf_result typed(const char *input) {
  (void)input;
  wf_result good = wf_agent((wf_request){.prompt = "review", .schema = REVIEW});
  if (!good.json) return good;
  review read = read_review(good.json);
  const char *notes[8];
  for (size_t i = 0; i < read.count; i++) notes[i] = wf_json_string(read.notes[i]);
  const char *written = wf_json_object("accepted", read.accepted ? "true" : "false", "notes",
                                       wf_json_array(notes, read.count), NULL);
  wf_result bad = wf_agent((wf_request){.prompt = "words", .schema = REVIEW, .once = true});
  return wf_ok(wf_json_object("review", written, "bad", kind(bad), NULL));
}

static wf_result once(const char *input) {
  (void)input;
  return wf_ok(wf_json_object("kind", kind(wf_agent((wf_request){.prompt = "pay", .once = true})), NULL));
}

static wf_result request(const char *input) {
  (void)input;
  static const char *const fatal[] = {"unavailable", NULL};
  static const wf_retry retry = {.max_attempts = 5, .fatal = fatal};
  return wf_agent((wf_request){.prompt = "p",
                               .input = "{\"a\":1}",
                               .label = "l",
                               .group = "g",
                               .retry = &retry,
                               .attempt_ms = 60000,
                               .total_ms = 90000,
                               .heartbeat_ms = 30000,
                               .options = "{\"t\":0}"});
}

static wf_result cache(const char *input) {
  (void)input;
  return wf_agent((wf_request){.prompt = "costly", .cache_version = "v1", .cache_ttl_ms = 3600000});
}

/* Two pipelines of two agents each: without functions that wait, a program of this kind is a loop over a
 * set that looks what is to follow. */
static wf_result together(const char *input) {
  (void)input;
  static const char names[] = "ab";
  wf_set set = wf_set_new();
  wf_step steps[2];
  const char *results[2];
  bool second[2] = {false, false};
  for (size_t i = 0; i < 2; i++) {
    steps[i] = ask_agent(wf_format("%c1", names[i]));
    wf_set_add(set, steps[i], i);
  }
  for (size_t done = 0; done < 2;) {
    size_t i = (size_t)wf_set_next(set);
    wf_result result = wf_agent_get(steps[i]);
    wf_drop(steps[i]);
    if (!result.json) return result;
    if (second[i]) {
      results[i] = result.json;
      done++;
      continue;
    }
    second[i] = true;
    steps[i] = ask_agent(wf_format("%c2 %s", names[i], wf_json_text(result.json)));
    wf_set_add(set, steps[i], i);
  }
  wf_set_drop(set);
  return wf_ok(wf_json_array(results, 2));
}

static wf_result race(const char *input) {
  (void)input;
  wf_step steps[] = {wf_sleep_start(60000), ask_agent("b"), wf_signal_start("never", WF_FOREVER)};
  size_t first = wf_race(steps, 3);
  wf_result result = first == 1 ? wf_agent_get(steps[1]) : wf_get(steps[first]);
  return result.json ? wf_ok(wf_format("[%zu,%s]", first, result.json)) : result;
}

static wf_result quorum(const char *input) {
  (void)input;
  wf_step steps[] = {ask_agent("bad"), ask_agent("slow"), ask_agent("fast")};
  size_t indices[2];
  wf_result results[2];
  wf_result outcome = wf_quorum(steps, 3, 2, indices, results);
  if (!outcome.json) return outcome;
  const char *votes[2];
  for (size_t i = 0; i < 2; i++) votes[i] = wf_format("[%zu,%s]", indices[i], wf_json_get(results[i].json, "output"));
  wf_step others[] = {ask_agent("bad"), ask_agent("bad too"), ask_agent("fast")};
  wf_result lost = wf_quorum(others, 3, 2, NULL, NULL);
  return wf_ok(wf_json_object("votes", wf_json_array(votes, 2), "message", wf_json_string(lost.message), "details",
                              lost.details, NULL));
}

/* Two stages for each item, two items at a time. */
static wf_result map(const char *input) {
  (void)input;
  enum { COUNT = 5, LIMIT = 2 };
  wf_set set = wf_set_new();
  wf_step steps[COUNT];
  const char *results[COUNT];
  bool polishing[COUNT] = {false};
  size_t begun = 0, done = 0;
  while (done < COUNT) {
    for (; begun < COUNT && begun - done < LIMIT; begun++) {
      steps[begun] = ask_agent(wf_format("draft %zu", begun));
      wf_set_add(set, steps[begun], begun);
    }
    size_t i = (size_t)wf_set_next(set);
    wf_result result = wf_agent_get(steps[i]);
    wf_drop(steps[i]);
    if (!result.json) return result;
    if (polishing[i]) {
      results[i] = result.json;
      done++;
      continue;
    }
    polishing[i] = true;
    steps[i] = ask_agent(wf_format("polish %s", wf_json_text(result.json)));
    wf_set_add(set, steps[i], i);
  }
  wf_set_drop(set);
  return wf_ok(wf_json_array(results, COUNT));
}

static wf_result timeout(const char *input) {
  (void)input;
  wf_step step = wf_signal_start("never", WF_FOREVER);
  wf_result result = wf_get_within(step, 5);
  wf_drop(step);
  return wf_ok(wf_json_object("kind", kind(result), NULL));
}

static wf_result cancel(const char *input) {
  (void)input;
  wf_step step = wf_sleep_start(60000);
  wf_result answer = wf_agent((wf_request){.prompt = "meanwhile"});
  wf_drop(step);
  return answer;
}

static wf_result attempt(void *context, uint32_t number) {
  (void)context;
  static const wf_retry never = {.max_attempts = 1};
  return wf_agent((wf_request){.prompt = wf_format("try %u", number), .retry = &never});
}

static wf_result retry(const char *input) {
  (void)input;
  return wf_again((wf_retry){.max_attempts = 3, .initial_ms = 1, .jitter = -1}, attempt, NULL);
}

static wf_result round_of(void *context, const char *state, bool *done) {
  (void)context;
  uint64_t n = wf_json_whole(wf_json_get(state, "n"), 0);
  wf_result answer = wf_agent((wf_request){.prompt = wf_format("round %u", (unsigned)n)});
  if (!answer.json) return answer;
  *done = n == 4;
  if (*done) return wf_ok(wf_format("{\"rounds\":%u}", (unsigned)n));
  return wf_ok(wf_format("{\"scenario\":\"rounds\",\"n\":%u}", (unsigned)n + 1));
}

static wf_result rounds(const char *input) { return wf_rounds(2, input, round_of, NULL); }

static wf_result undo(const void *booking) {
  return wf_agent((wf_request){.prompt = wf_format("undo %s", (const char *)booking)});
}

static wf_result no_car(const void *nothing) {
  (void)nothing;
  return wf_fail(WF_FAILED, "there is no car");
}

/* Books something, and has it undone if a later part fails. */
static wf_result book(wf_saga *trip, const char *what) {
  wf_result booked = wf_agent((wf_request){.prompt = wf_format("book %s", what)});
  if (booked.json) wf_undo(trip, what, undo, wf_json_text(booked.json));
  return booked;
}

static wf_result travel(wf_saga *trip) {
  wf_result booked = book(trip, "flight");
  if (!booked.json) return booked;
  booked = book(trip, "hotel");
  if (!booked.json) return booked;
  wf_undo(trip, "car", no_car, NULL);
  wf_result failure = wf_fail(WF_REJECTED, "no");
  failure.details = "{\"own\":1}";
  return failure;
}

static wf_result saga(const char *input) {
  (void)input;
  wf_saga trip = {0};
  return wf_saga_end(&trip, travel(&trip));
}

static wf_result stopped(const char *input) {
  (void)input;
  wf_saga trip = {0};
  wf_result booked = book(&trip, "flight");
  return wf_saga_end(&trip, booked.json ? wf_signal("go", WF_FOREVER) : booked);
}

static wf_result child(const char *input) {
  (void)input;
  static const char *const labels[] = {"k", "v", NULL};
  wf_child_options options = {.id = "kid", .labels = labels};
  wf_result value = wf_child("behaviours", "{\"scenario\":\"echo\",\"n\":7}", options);
  if (!value.json) return value;
  wf_result missing = wf_child("no-such", NULL, (wf_child_options){0});
  return wf_ok(wf_json_object("value", value.json, "missing", kind(missing), NULL));
}

static wf_result echo(const char *input) {
  return wf_ok(wf_json_object("n", wf_json_get(input, "n"), NULL));
}

static const char *spending(wf_spending budget) {
  return wf_format("[%llu,%llu]", (unsigned long long)budget.spent, (unsigned long long)budget.remaining);
}

static wf_result budget(const char *input) {
  (void)input;
  const char *before = spending(wf_budget());
  wf_result answer = wf_agent((wf_request){.prompt = "first"});
  if (!answer.json) return answer;
  return wf_ok(wf_json_object("before", before, "after", spending(wf_budget()), NULL));
}

static wf_result facts(const char *input) {
  (void)input;
  wf_info info = wf_run_info();
  wf_phase("looking");
  wf_publish("progress", "{\"done\":3}");
  wf_post("chapter", "{\"title\":\"one\"}");
  static const char *const fields[] = {"who", "Ada", "step", "3", NULL};
  wf_log_with(WF_WARN, fields, "careful");
  const char *labels = "{";
  for (const char *const *label = info.labels; *label; label += 2) {
    labels = wf_format("%s%s%s:%s", labels, labels[1] ? "," : "", wf_json_string(label[0]), wf_json_string(label[1]));
  }
  return wf_ok(wf_json_object(
      "run", wf_json_string(info.run), "workflow", wf_json_string(info.workflow), "labels", wf_format("%s}", labels),
      "attempt", wf_format("%u", info.attempt), "parent", wf_json_string(info.parent), "patched",
      wf_patched("x") ? "true" : "false", "cancelled", wf_cancelled() ? "true" : "false", "clock",
      wf_now() >= info.started ? "true" : "false", "gone", kind(wf_send("no-such-run", "go", "1")), NULL));
}

static wf_result ask(const char *input) {
  (void)input;
  static const char *const choices[] = {"red", "green", NULL};
  wf_result colour =
      wf_ask((wf_question){.prompt = "which colour?", .choices = choices, .details = "{\"why\":1}"});
  if (!colour.json) return colour;
  wf_result refused = wf_ask((wf_question){.prompt = "really?"});
  wf_result late = wf_ask((wf_question){.prompt = "anybody?", .timeout_ms = 1});
  return wf_ok(wf_json_object("colour", colour.json, "refused", kind(refused), "late", kind(late), NULL));
}

static wf_result sleeps(const char *input) {
  (void)input;
  wf_result slept = wf_sleep(2);
  if (slept.json) slept = wf_sleep_until(1);
  if (!slept.json) return slept;
  return wf_ok(wf_json_object("long", kind(wf_sleep((uint64_t)1 << 50)), NULL));
}

static wf_result fail(const char *input) {
  (void)input;
  wf_result failure = wf_fail(WF_UNAVAILABLE, "nobody is there");
  failure.details = "{\"why\":[1]}";
  return failure;
}

static wf_result broken(const char *input) {
  (void)input;
  wf_agent((wf_request){.prompt = "first"});
  wf_panic("not like this");
}

static const struct {
  const char *name;
  wf_result (*run)(const char *input);
} scenarios[] = {
    {"conversation", conversation}, {"typed", typed},   {"once", once},       {"request", request},
    {"cache", cache},               {"together", together}, {"race", race},   {"quorum", quorum},
    {"map", map},                   {"timeout", timeout},   {"cancel", cancel}, {"retry", retry},
    {"rounds", rounds},             {"saga", saga},         {"stopped", stopped}, {"child", child},
    {"echo", echo},                 {"budget", budget},     {"facts", facts}, {"ask", ask},
    {"sleep", sleeps},              {"fail", fail},         {"broken", broken},
};

wf_result workflow(const char *input) {
  const char *name = wf_json_text(wf_json_get(input, "scenario"));
  for (size_t i = 0; name && i < sizeof scenarios / sizeof *scenarios; i++) {
    if (strcmp(scenarios[i].name, name) == 0) return scenarios[i].run(input);
  }
  return wf_fail(WF_REJECTED, "there is no scenario %s", name ? name : "");
}
