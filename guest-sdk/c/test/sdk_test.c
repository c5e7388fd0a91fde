/* Tests of what needs no host: JSON, and the patterns over a host of their own. Built and run by
 * `cc -I.. sdk_test.c ../json.c ../patterns.c -lm && ./a.out`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../internal.h"

static int failures;

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      failures++;                                                     \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                 \
  } while (0)

static bool same(const char *got, const char *want) {
  bool equal = got == want || (got && want && strcmp(got, want) == 0);
  if (!equal) fprintf(stderr, "got %s, want %s\n", got ? got : "NULL", want ? want : "NULL");
  return equal;
}

/* A host: each step ends at a time, as what it was begun with says. */

typedef struct {
  uint64_t at;
  wf_result result;
  bool dropped;
} step;

static step steps[100];
static int count;
static uint64_t now_ms, slept_ms;
static const char *story;
static bool stop;

static void reset(void) {
  memset(steps, 0, sizeof steps);
  count = 0;
  now_ms = slept_ms = 0;
  story = "";
  stop = false;
}

static wf_step begin(uint64_t at, wf_result result) {
  steps[++count] = (step){now_ms + at, result, false};
  return (wf_step){count};
}

wf_result wf_get(wf_step one) {
  if (steps[one.handle].at > now_ms) now_ms = steps[one.handle].at;
  return steps[one.handle].result;
}

void wf_drop(wf_step one) {
  if (steps[one.handle].dropped) abort();
  steps[one.handle].dropped = true;
  if (steps[one.handle].at > now_ms) story = wf_format("%scancel %d;", story, one.handle);
}

size_t wf_wait_any(const wf_step *all, size_t length) {
  size_t first = 0;
  for (size_t i = 1; i < length; i++) {
    if (steps[all[i].handle].at < steps[all[first].handle].at) first = i;
  }
  wf_get(all[first]);
  return first;
}

static struct {
  wf_step step;
  uint64_t tag;
} members[100];
static size_t member_count;

wf_set wf_set_new(void) { return (wf_set){1}; }
void wf_set_drop(wf_set set) { (void)set; member_count = 0; }

void wf_set_add(wf_set set, wf_step one, uint64_t tag) {
  (void)set;
  members[member_count].step = one;
  members[member_count++].tag = tag;
}

void wf_set_remove(wf_set set, uint64_t tag) {
  (void)set;
  for (size_t i = 0; i < member_count; i++) {
    if (members[i].tag != tag) continue;
    members[i] = members[--member_count];
    return;
  }
  abort();
}

uint64_t wf_set_next(wf_set set) {
  size_t first = 0;
  for (size_t i = 1; i < member_count; i++) {
    uint64_t at = steps[members[i].step.handle].at, best = steps[members[first].step.handle].at;
    if (at < best || (at == best && members[i].tag < members[first].tag)) first = i;
  }
  uint64_t tag = members[first].tag;
  wf_get(members[first].step);
  wf_set_remove(set, tag);
  return tag;
}

wf_step wf_sleep_start(uint64_t length_ms) { return begin(length_ms, wf_ok("null")); }

wf_result wf_sleep(uint64_t length_ms) {
  slept_ms += length_ms;
  return wf_ok("null");
}

uint64_t wf_random(void) { return (uint64_t)1 << 63; }
bool wf_cancelled(void) { return stop; }
uint64_t wf_steps_begun(void) { return (uint64_t)count; }
void wf_log(wf_level level, const char *format, ...) {
  (void)level;
  story = wf_format("%slog %s;", story, format);
}
_Noreturn void wf_panic(const char *format, ...) {
  fprintf(stderr, "panic: %s\n", format);
  exit(1);
}
_Noreturn void wf_continue_as_new(const char *input) {
  CHECK(same(input, "3"));
  printf(failures ? "failed\n" : "ok\n");
  exit(failures ? 1 : 0);
}

/* The tests. */

static void json(void) {
  CHECK(same(wf_json_string("a\"b\\\n\x01é"), "\"a\\\"b\\\\\\n\\u0001é\""));
  CHECK(same(wf_json_string(NULL), "null"));
  CHECK(same(wf_json_text("\"a\\u00e9\\ud83d\\udc08\\n\\\"\""), "aé🐈\n\""));
  CHECK(same(wf_json_text("\"\\ud83d\""), "\xef\xbf\xbd"));
  CHECK(same(wf_json_text("7"), NULL));
  size_t length;
  const char *zero = wf_json_bytes("\"a\\u0000b\"", &length);
  CHECK(length == 3 && memcmp(zero, "a\0b", 4) == 0);
  const char *list = " [ 1 , {\"a\":[2,\"]\"]} , \"x,y\" ] ";
  CHECK(wf_json_count(list) == 3 && wf_json_count("[]") == 0 && wf_json_count("7") == 0);
  CHECK(same(wf_json_at(list, 1), "{\"a\":[2,\"]\"]}"));
  CHECK(same(wf_json_at(list, 2), "\"x,y\""));
  CHECK(same(wf_json_at(list, 3), NULL) && same(wf_json_at("{\"a\":1}", 0), NULL));
  CHECK(same(wf_json_get(wf_json_at(list, 1), "a"), "[2,\"]\"]"));
  CHECK(same(wf_json_get("{\"a\\u0062\":1,\"c\":{}}", "ab"), "1"));
  CHECK(same(wf_json_get("[1]", "a"), NULL) && same(wf_json_get(NULL, "a"), NULL));
  const char *keys = "";
  for (wf_json_iterator member = wf_json_each("{\"a\":1,\"b\":[2]}"); wf_json_next(&member);) {
    keys = wf_format("%s%s=%s;", keys, member.key, member.value);
  }
  CHECK(same(keys, "a=1;b=[2];"));
  for (const char *const *broken = (const char *const[]){"[1", "{\"a\"", "{\"a\":", "[\"a", "[,", "", NULL}; *broken;
       broken++) {
    for (wf_json_iterator item = wf_json_each(*broken); wf_json_next(&item);) CHECK(item.value != NULL);
  }
  CHECK(wf_json_whole("18446744073709551615", 7) == UINT64_MAX && wf_json_whole("18446744073709551616", 7) == 7);
  CHECK(wf_json_whole("-1", 7) == 7 && wf_json_whole("1.5", 7) == 7 && wf_json_whole(NULL, 7) == 7);
  CHECK(wf_json_number("-1.5e2", 0) == -150 && wf_json_number("\"x\"", 3) == 3 && wf_json_number("null", 3) == 3);
  CHECK(wf_json_bool("true", false) && !wf_json_bool("false", true) && wf_json_bool("1", true));
  CHECK(same(wf_json_from_number(0.1), "0.1") && same(wf_json_from_number(1.0 / 0.0), "null"));
  CHECK(same(wf_json_object("a", "1", "b\"", NULL, NULL), "{\"a\":1,\"b\\\"\":null}"));
  CHECK(same(wf_json_object(NULL), "{}"));
}

static wf_step begin_item(void *context, size_t index) {
  const uint64_t *times = context;
  return begin(times[index], times[index] == 7 ? wf_fail(WF_FAILED, "no") : wf_ok(wf_format("%zu", index)));
}

static void several(void) {
  reset();
  wf_step three[] = {begin(50, wf_ok("1")), begin(5, wf_ok("2")), begin(60, wf_ok("3"))};
  CHECK(wf_race(three, 3) == 1 && same(story, "cancel 1;cancel 3;"));

  reset();
  wf_step slow = begin(50, wf_ok("1"));
  CHECK(wf_get_within(slow, 5).kind == WF_TIMED_OUT);
  CHECK(same(wf_get_within(begin(5, wf_ok("1")), 500).json, "1") && same(story, "cancel 4;"));

  reset();
  wf_step tries[] = {begin(1, wf_fail(WF_FAILED, "x")), begin(3, wf_ok("b")), begin(2, wf_ok("c")), begin(9, wf_ok("d"))};
  size_t indices[2];
  wf_result results[2];
  CHECK(wf_quorum(tries, 4, 2, indices, results).json != NULL);
  CHECK(indices[0] == 2 && indices[1] == 1 && same(results[1].json, "b") && same(story, "cancel 4;"));
  wf_step lost[] = {begin(1, wf_fail(WF_FAILED, "x")), begin(2, wf_fail(WF_UNAVAILABLE, "y")), begin(9, wf_ok("d"))};
  wf_result outcome = wf_quorum(lost, 3, 2, NULL, NULL);
  CHECK(outcome.kind == WF_UNAVAILABLE && same(outcome.message, "2 of 3 tries failed, 2 have to succeed: y"));
  CHECK(same(wf_json_get(wf_json_at(wf_json_get(outcome.details, "failures"), 0), "kind"), "\"failed\""));
  CHECK(wf_first_ok(NULL, 0, NULL).kind == WF_REJECTED);

  reset();
  uint64_t times[] = {30, 1, 1, 1, 1};
  wf_result mapped[5];
  CHECK(wf_map(5, 2, begin_item, times, mapped).json && same(mapped[4].json, "4") && now_ms == 30);
  reset();
  times[1] = 7;
  CHECK(wf_map(5, 2, begin_item, times, mapped).kind == WF_FAILED && count == 2 && same(story, "cancel 1;"));
}

static wf_result fails(void *context, uint32_t attempt) {
  return attempt == 3 ? wf_ok("3") : *(wf_result *)context;
}

static void again(void) {
  reset();
  wf_result failure = wf_fail(WF_FAILED, "no");
  CHECK(same(wf_again((wf_retry){0}, fails, &failure).json, "3") && slept_ms == 3000);
  failure.kind = WF_REJECTED;
  CHECK(wf_again((wf_retry){0}, fails, &failure).kind == WF_REJECTED && slept_ms == 3000);
  failure = wf_fail(WF_FAILED, "no");
  failure.details = "{\"reason\":\"closed\"}";
  wf_retry policy = {.fatal = (const char *const[]){"Closed", NULL}};
  CHECK(wf_again(policy, fails, &failure).kind == WF_FAILED);
  policy = wf_whole_retry((wf_retry){.factor = 3, .jitter = -1});
  CHECK(policy.max_attempts == 3 && policy.initial_ms == 1000 && policy.max_ms == 60000);
  uint64_t delays[] = {1000, 3000, 9000, 27000, 60000};
  for (uint32_t i = 0; i < 5; i++) CHECK(wf_retry_delay(policy, i + 1, 7) == delays[i]);
  CHECK(wf_retry_delay(policy, 2000, 7) == 60000);
  policy.jitter = 0.5f;
  CHECK(wf_retry_delay(policy, 1, 0) == 500 && wf_retry_delay(policy, 5, UINT64_MAX) == 60000);
}

static wf_result undo(const void *value) {
  story = wf_format("%sundo %s;", story, (const char *)value);
  return strcmp(value, "b") == 0 ? wf_fail(WF_UNAVAILABLE, "gone") : wf_ok("null");
}

static void compensation(void) {
  reset();
  wf_saga saga = {0};
  wf_undo(&saga, "one", undo, "a");
  wf_undo(&saga, "two", undo, "b");
  wf_result failure = wf_fail(WF_FAILED, "x");
  failure.details = "{\"own\":1,\"saga\":{\"undone\":[\"inner\"],\"not_undone\":[]}}";
  failure = wf_saga_end(&saga, failure);
  CHECK(same(failure.details,
             "{\"own\":1,\"saga\":{\"undone\":[\"inner\",\"one\"],\"not_undone\":[{\"step\":\"two\",\"kind\":\"unavailable\","
             "\"message\":\"gone\"}]}}"));
  CHECK(strncmp(story, "undo b;log", 10) == 0);
  CHECK(same(wf_saga_end(&(wf_saga){0}, wf_ok("1")).json, "1"));
  wf_undo(&saga, "one", undo, "a");
  CHECK(wf_saga_end(&saga, wf_ok("1")).json && strstr(story, "undo a;") != NULL);
  wf_saga other = {0};
  wf_undo(&other, "one", undo, "a");
  failure = wf_fail(WF_FAILED, "x");
  failure.details = "[7]";
  CHECK(same(wf_json_get(wf_saga_end(&other, failure).details, "details"), "[7]"));
}

static wf_result one_round(void *context, const char *state, bool *done) {
  (void)context;
  begin(1, wf_ok("null"));
  *done = strcmp(state, "9") == 0;
  return wf_ok(wf_format("%d", atoi(state) + 1));
}

int main(void) {
  json();
  several();
  again();
  compensation();
  reset();
  CHECK(same(wf_rounds(2, "9", one_round, NULL).json, "10"));
  reset();
  /* It ends in `wf_continue_as_new`. */
  wf_rounds(2, "1", one_round, NULL);
  return 1;
}
