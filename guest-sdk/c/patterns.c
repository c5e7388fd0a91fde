/* Several steps at the same time, the same again, and compensation: over the functions of wfhost.h only. */
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

size_t wf_race(const wf_step *steps, size_t count) {
  size_t first = wf_wait_any(steps, count);
  for (size_t i = 0; i < count; i++) {
    if (i != first) wf_drop(steps[i]);
  }
  return first;
}

wf_result wf_get_within(wf_step step, uint64_t limit_ms) {
  wf_step limit = wf_sleep_start(limit_ms);
  const wf_step both[] = {step, limit};
  size_t first = wf_wait_any(both, 2);
  if (first == 0) {
    wf_drop(limit);
    return wf_get(step);
  }
  wf_result slept = wf_get(limit);
  wf_drop(limit);
  return slept.json ? wf_fail(WF_TIMED_OUT, "the time limit passed") : slept;
}

wf_result wf_quorum(const wf_step *steps, size_t count, size_t needed, size_t *indices, wf_result *results) {
  if (count < needed) {
    return wf_fail(WF_REJECTED, "%zu successes are asked for, of %zu tries", needed, count);
  }
  wf_set set = wf_set_new();
  bool *over = wf_allocate(count * sizeof *over);
  const char **failures = wf_allocate(count * sizeof *failures);
  size_t succeeded = 0, failed = 0;
  for (size_t i = 0; i < count; i++) {
    over[i] = false;
    wf_set_add(set, steps[i], i);
  }
  wf_result outcome = wf_ok("null");
  while (succeeded < needed && outcome.json) {
    size_t index = (size_t)wf_set_next(set);
    wf_result result = wf_get(steps[index]);
    over[index] = true;
    if (result.json) {
      if (indices) indices[succeeded] = index;
      if (results) results[succeeded] = result;
      succeeded++;
      continue;
    }
    failures[failed++] = wf_json_object(
        "index", wf_format("%zu", index), "kind", wf_json_string(wf_kind_name(result.kind)), "message",
        wf_json_string(result.message), NULL);
    if (count - failed < needed) {
      outcome = wf_fail(
          result.kind, "%zu of %zu tries failed, %zu have to succeed: %s", failed, count, needed, result.message);
      outcome.details = wf_json_object("failures", wf_json_array(failures, failed), NULL);
    }
  }
  /* A step leaves the set before it is dropped. */
  for (size_t i = 0; i < count; i++) {
    if (over[i]) continue;
    wf_set_remove(set, i);
    wf_drop(steps[i]);
  }
  wf_set_drop(set);
  return outcome;
}

wf_result wf_first_ok(const wf_step *steps, size_t count, size_t *index) {
  wf_result first;
  wf_result outcome = wf_quorum(steps, count, 1, index, &first);
  return outcome.json ? first : outcome;
}

wf_result wf_map(size_t count, size_t limit, wf_starter start, void *context, wf_result *results) {
  size_t most = limit ? limit : 1;
  wf_set set = wf_set_new();
  wf_step *steps = wf_allocate(count * sizeof *steps);
  bool *running = wf_allocate(count * sizeof *running);
  size_t begun = 0, live = 0;
  wf_result outcome = wf_ok("null");
  while (outcome.json && (begun < count || live > 0)) {
    for (; begun < count && live < most; begun++, live++) {
      steps[begun] = start(context, begun);
      running[begun] = true;
      wf_set_add(set, steps[begun], begun);
    }
    size_t index = (size_t)wf_set_next(set);
    results[index] = wf_get(steps[index]);
    wf_drop(steps[index]);
    running[index] = false;
    live--;
    if (!results[index].json) outcome = results[index];
  }
  for (size_t i = 0; i < begun; i++) {
    if (!running[i]) continue;
    wf_set_remove(set, i);
    wf_drop(steps[i]);
  }
  wf_set_drop(set);
  return outcome;
}

wf_retry wf_whole_retry(wf_retry retry) {
  if (!retry.max_attempts) retry.max_attempts = 3;
  if (!retry.initial_ms) retry.initial_ms = 1000;
  if (!retry.factor) retry.factor = 2;
  if (!retry.max_ms) retry.max_ms = 60000;
  if (!retry.jitter) retry.jitter = 0.1f;
  if (retry.jitter < 0) retry.jitter = 0;
  return retry;
}

/* The rules of the host. */
bool wf_allows_another(wf_retry policy, uint32_t attempt, wf_result failure) {
  const char *reason = wf_json_text(wf_json_get(failure.details, "reason"));
  for (const char *const *fatal = policy.fatal; fatal && *fatal; fatal++) {
    if (strcasecmp(*fatal, wf_kind_name(failure.kind)) == 0) return false;
    if (reason && strcasecmp(*fatal, reason) == 0) return false;
  }
  /* What would come again. */
  bool final = failure.kind == WF_CANCELLED || failure.kind == WF_REJECTED || failure.kind == WF_BUDGET_EXCEEDED;
  return attempt < policy.max_attempts && !final;
}

uint64_t wf_retry_delay(wf_retry policy, uint32_t attempt, uint64_t random) {
  double longest = (double)policy.max_ms;
  double grown = (double)policy.initial_ms * pow(fmax(policy.factor, 0), (double)attempt - 1);
  /* Nothing times infinity is no number, and means no delay. */
  double capped = isnan(grown) ? 0 : fmin(grown, longest);
  /* 53 bits, as many as a double holds, make a number from -1 to 1. */
  double unit = 2 * ((double)(random >> 11) / 9007199254740992.0) - 1;
  double varied = capped * (1 + fmin(fmax(policy.jitter, 0), 1) * unit);
  return (uint64_t)ceil(fmin(varied, longest));
}

wf_result wf_again(wf_retry policy, wf_attempt block, void *context) {
  policy = wf_whole_retry(policy);
  for (uint32_t attempt = 1;; attempt++) {
    wf_result result = block(context, attempt);
    if (result.json || !wf_allows_another(policy, attempt, result)) return result;
    wf_log(WF_INFO, "attempt %u failed: %s", attempt, result.message);
    wf_result slept = wf_sleep(wf_retry_delay(policy, attempt, wf_random()));
    if (!slept.json) return slept;
  }
}

wf_result wf_rounds(uint64_t steps, const char *state, wf_round block, void *context) {
  for (;;) {
    bool done = false;
    wf_result round = block(context, state, &done);
    if (done || !round.json) return round;
    if (wf_steps_begun() >= steps) wf_continue_as_new(round.json);
    state = round.json;
  }
}

/* What is undone, the last one first. */
struct wf_undone {
  const char *name;
  wf_undo_function undo;
  const void *value;
  struct wf_undone *before;
};

void wf_undo(wf_saga *saga, const char *name, wf_undo_function undo, const void *value) {
  struct wf_undone *last = wf_allocate(sizeof *last);
  *last = (struct wf_undone){.name = name, .undo = undo, .value = value, .before = saga->last};
  saga->last = last;
}

static const char *append(const char *array, const char *item) {
  size_t length = strlen(array);
  bool is_empty = wf_json_count(array) == 0;
  return wf_format("%.*s%s%s]", (int)length - 1, array, is_empty ? "" : ",", item);
}

wf_result wf_saga_end(wf_saga *saga, wf_result result) {
  if (result.json || !saga->last) return result;
  /* A saga within this one has undone its part before. */
  const char *inner = wf_json_get(result.details, "saga");
  const char *undone = wf_json_get(inner, "undone"), *not_undone = wf_json_get(inner, "not_undone");
  if (!undone) undone = "[]";
  if (!not_undone) not_undone = "[]";
  for (struct wf_undone *one = saga->last; one; one = one->before) {
    saga->last = one->before;
    bool stopping = wf_cancelled();
    wf_result outcome = one->undo(one->value);
    if (!outcome.json && outcome.kind == WF_CANCELLED && !stopping && wf_cancelled()) {
      /* It was the request to stop that ended it, and there is but one. */
      outcome = one->undo(one->value);
    }
    if (outcome.json) {
      undone = append(undone, wf_json_string(one->name));
      continue;
    }
    wf_log(WF_ERROR, "`%s` could not be undone: %s", one->name, outcome.message);
    not_undone = append(not_undone, wf_json_object("step", wf_json_string(one->name), "kind",
                                                   wf_json_string(wf_kind_name(outcome.kind)), "message",
                                                   wf_json_string(outcome.message), NULL));
  }
  const char *details = "{";
  if (result.details && *result.details == '{') {
    for (wf_json_iterator member = wf_json_each(result.details); wf_json_next(&member);) {
      if (strcmp(member.key, "saga") == 0) continue;
      details = wf_format("%s%s:%s,", details, wf_json_string(member.key), member.value);
    }
  } else if (result.details) {
    details = wf_format("{\"details\":%s,", result.details);
  }
  result.details =
      wf_format("%s\"saga\":%s}", details, wf_json_object("undone", undone, "not_undone", not_undone, NULL));
  return result;
}
