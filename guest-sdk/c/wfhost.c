/* The functions of wfhost.h over the generated bindings. */
#include "wfhost.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/workflow.h"

/* The interface is added to the module by `wfhost build`, not by an object file. */
void __component_type_object_force_link_workflow(void) {}

/* Texts. */

static void *allocate(size_t size) {
  void *memory = malloc(size ? size : 1);
  if (!memory) wf_panic("out of memory: %zu bytes", size);
  return memory;
}

static workflow_string_t string(const char *text) {
  if (!text) text = "";
  workflow_string_t string = {(uint8_t *)text, strlen(text)};
  return string;
}

/* A copy with a zero byte at its end. */
static const char *text(workflow_string_t string) {
  char *text = allocate(string.len + 1);
  memcpy(text, string.ptr, string.len);
  text[string.len] = 0;
  return text;
}

static const char *format_list(const char *format, va_list list) {
  va_list again;
  va_copy(again, list);
  int length = vsnprintf(NULL, 0, format, list);
  char *text = allocate(length < 0 ? 1 : (size_t)length + 1);
  text[0] = 0;
  if (length >= 0) vsnprintf(text, (size_t)length + 1, format, again);
  va_end(again);
  return text;
}

const char *wf_format(const char *format, ...) {
  va_list list;
  va_start(list, format);
  const char *text = format_list(format, list);
  va_end(list);
  return text;
}

/* Results. */

wf_result wf_ok(const char *json) {
  wf_result result = {.json = json ? json : "null"};
  return result;
}

wf_result wf_fail(wf_kind kind, const char *format, ...) {
  va_list list;
  va_start(list, format);
  wf_result result = {.kind = kind, .message = format_list(format, list)};
  va_end(list);
  return result;
}

const char *wf_kind_name(wf_kind kind) {
  static const char *const names[] = {"failed",          "timed-out",   "cancelled", "invalid-output",
                                      "budget-exceeded", "unavailable", "rejected"};
  return kind <= WF_REJECTED ? names[kind] : "failed";
}

static wf_result failed(wfhost_workflow_types_failure_t failure) {
  wf_result result = {
      .kind = (wf_kind)failure.kind,
      .message = text(failure.message),
      .details = failure.details.is_some ? text(failure.details.val) : NULL,
      .attempts = failure.attempts,
  };
  return result;
}

static wf_result result(bool ok, workflow_string_t json, wfhost_workflow_types_failure_t failure) {
  return ok ? wf_ok(text(json)) : failed(failure);
}

bool exports_workflow_run(workflow_json_t *input, workflow_json_t *ret, workflow_failure_t *err) {
  wf_result result = workflow(text(*input));
  if (result.json) {
    *ret = string(result.json);
    return true;
  }
  err->kind = (uint8_t)result.kind;
  err->message = string(result.message);
  err->details.is_some = result.details != NULL;
  err->details.val = string(result.details);
  err->attempts = result.attempts;
  return false;
}

/* Agents. */

static void option(workflow_option_string_t *to, const char *text) {
  to->is_some = text != NULL;
  to->val = string(text);
}

/* `provider` is where the list of one provider may stand. */
static wfhost_workflow_agent_request_t agent_request(wf_request from, workflow_string_t *provider) {
  /* A call that names this kind among the fatal ones is made at most once. */
  static workflow_string_t unknown_outcome;
  wfhost_workflow_agent_request_t to;
  memset(&to, 0, sizeof to);
  to.prompt = string(from.prompt);
  to.input.is_some = from.input != NULL;
  to.input.val = string(from.input);
  if (from.provider) {
    *provider = string(from.provider);
    to.providers.ptr = provider;
    to.providers.len = 1;
  }
  option(&to.model, from.model);
  to.schema.is_some = from.schema != NULL;
  to.schema.val = string(from.schema);
  option(&to.session, from.session);
  option(&to.workspace, from.workspace);
  option(&to.label, from.label);
  option(&to.group, from.group);
  to.options.is_some = from.options != NULL;
  to.options.val = string(from.options);
  to.limits.is_some = from.attempt_ms || from.total_ms;
  to.limits.val.attempt.is_some = from.attempt_ms != 0;
  to.limits.val.attempt.val = from.attempt_ms;
  to.limits.val.total.is_some = from.total_ms != 0;
  to.limits.val.total.val = from.total_ms;
  if (from.once) {
    unknown_outcome = string("unknown-outcome");
    to.retry.is_some = true;
    to.retry.val.max_attempts = 1;
    to.retry.val.fatal.ptr = &unknown_outcome;
    to.retry.val.fatal.len = 1;
  }
  return to;
}

wf_result wf_agent(wf_request request) {
  workflow_string_t provider;
  wfhost_workflow_agent_request_t asked = agent_request(request, &provider);
  wfhost_workflow_agent_reply_t reply;
  wfhost_workflow_agent_failure_t failure;
  if (!wfhost_workflow_agent_run(&asked, &reply, &failure)) return failed(failure);
  return wf_ok(text(reply.output));
}

wf_step wf_agent_start(wf_request request) {
  workflow_string_t provider;
  wfhost_workflow_agent_request_t asked = agent_request(request, &provider);
  wf_step step = {wfhost_workflow_agent_start(&asked).__handle};
  return step;
}

wf_result wf_agent_get(wf_step step) {
  wf_result result = wf_get(step);
  if (result.json) result.json = wf_json_get(result.json, "output");
  return result;
}

/* Steps. */

static wfhost_workflow_types_borrow_step_t borrow(wf_step step) {
  wfhost_workflow_types_borrow_step_t borrowed = {step.handle};
  return borrowed;
}

wf_result wf_get(wf_step step) {
  workflow_string_t json;
  wfhost_workflow_types_failure_t failure;
  bool ok = wfhost_workflow_types_method_step_get(borrow(step), &json, &failure);
  return result(ok, json, failure);
}

size_t wf_wait_any(const wf_step *steps, size_t count) {
  /* Both are one handle. */
  _Static_assert(sizeof(wf_step) == sizeof(wfhost_workflow_types_borrow_step_t), "a step is its handle");
  wfhost_workflow_types_list_borrow_step_t list = {(wfhost_workflow_types_borrow_step_t *)steps, count};
  return wfhost_workflow_types_wait_any(&list);
}

uint64_t wf_step_id(wf_step step) { return wfhost_workflow_types_method_step_id(borrow(step)); }

void wf_drop(wf_step step) {
  wfhost_workflow_types_own_step_t own = {step.handle};
  wfhost_workflow_types_step_drop_own(own);
}

/* Time. */

static wf_result done(bool ok, wfhost_workflow_types_failure_t failure) {
  return ok ? wf_ok("null") : failed(failure);
}

wf_result wf_sleep(uint64_t length_ms) {
  wfhost_workflow_sleep_failure_t failure;
  bool ok = wfhost_workflow_sleep_sleep(length_ms, &failure);
  return done(ok, failure);
}

wf_result wf_sleep_until(uint64_t at) {
  wfhost_workflow_sleep_failure_t failure;
  bool ok = wfhost_workflow_sleep_sleep_until(at, &failure);
  return done(ok, failure);
}

wf_step wf_sleep_start(uint64_t length_ms) {
  wf_step step = {wfhost_workflow_sleep_start_for(length_ms).__handle};
  return step;
}

/* Signals and people. */

wf_result wf_signal(const char *name, uint64_t timeout_ms) {
  workflow_string_t named = string(name), json;
  wfhost_workflow_signal_failure_t failure;
  uint64_t *timeout = timeout_ms == WF_FOREVER ? NULL : &timeout_ms;
  bool ok = wfhost_workflow_signal_wait(&named, timeout, &json, &failure);
  return result(ok, json, failure);
}

wf_step wf_signal_start(const char *name, uint64_t timeout_ms) {
  workflow_string_t named = string(name);
  uint64_t *timeout = timeout_ms == WF_FOREVER ? NULL : &timeout_ms;
  wf_step step = {wfhost_workflow_signal_start(&named, timeout).__handle};
  return step;
}

wf_result wf_send(const char *run, const char *name, const char *payload) {
  workflow_string_t target = string(run), named = string(name), json = string(payload);
  wfhost_workflow_signal_failure_t failure;
  bool ok = wfhost_workflow_signal_send(&target, &named, &json, &failure);
  return done(ok, failure);
}

wf_result wf_ask(const char *prompt, const char *schema, uint64_t timeout_ms) {
  wfhost_workflow_signal_question_t question;
  memset(&question, 0, sizeof question);
  question.prompt = string(prompt);
  question.schema.is_some = schema != NULL;
  question.schema.val = string(schema);
  workflow_string_t json;
  wfhost_workflow_signal_failure_t failure;
  uint64_t *timeout = timeout_ms == WF_FOREVER ? NULL : &timeout_ms;
  bool ok = wfhost_workflow_signal_ask(&question, timeout, &json, &failure);
  return result(ok, json, failure);
}

void wf_post(const char *name, const char *payload) {
  workflow_string_t named = string(name), json = string(payload);
  wfhost_workflow_signal_post(&named, &json);
}

/* Children. */

wf_result wf_child(const char *module, const char *input) {
  workflow_string_t named = string(module), given = string(input), json;
  wfhost_workflow_child_failure_t failure;
  bool ok = wfhost_workflow_child_run(&named, &given, NULL, &json, &failure);
  return result(ok, json, failure);
}

wf_step wf_child_start(const char *module, const char *input) {
  workflow_string_t named = string(module), given = string(input);
  wf_step step = {wfhost_workflow_child_start(&named, &given, NULL).__handle};
  return step;
}

/* The run. */

uint64_t wf_now(void) { return wfhost_workflow_context_now(); }

uint64_t wf_random(void) { return wfhost_workflow_context_random(); }

const char *wf_run_id(void) {
  wfhost_workflow_context_run_info_t info;
  wfhost_workflow_context_info(&info);
  return text(info.run);
}

bool wf_patched(const char *id) {
  workflow_string_t named = string(id);
  return wfhost_workflow_context_patched(&named);
}

bool wf_cancelled(void) { return wfhost_workflow_context_cancelled(); }

void wf_phase(const char *title) {
  workflow_string_t named = string(title);
  wfhost_workflow_context_phase(&named);
}

void wf_publish(const char *key, const char *json) {
  workflow_string_t named = string(key), value = string(json);
  wfhost_workflow_context_publish(&named, &value);
}

_Noreturn void wf_continue_as_new(const char *input) {
  workflow_string_t json = string(input);
  wfhost_workflow_context_continue_as_new(&json);
  __builtin_trap();
}

void wf_log(wf_level level, const char *format, ...) {
  va_list list;
  va_start(list, format);
  workflow_string_t message = string(format_list(format, list));
  va_end(list);
  workflow_list_tuple2_string_string_t fields = {NULL, 0};
  wfhost_workflow_log_write((uint8_t)level, &message, &fields);
}

_Noreturn void wf_panic(const char *format, ...) {
  /* Not on the heap: it may be what there is no more of. */
  char buffer[1024];
  va_list list;
  va_start(list, format);
  vsnprintf(buffer, sizeof buffer, format, list);
  va_end(list);
  workflow_string_t message = string(buffer);
  wfhost_workflow_log_panicked(&message, NULL);
  __builtin_trap();
}

/* JSON. */

const char *wf_json_string(const char *from) {
  char *json = allocate(strlen(from) * 6 + 3), *to = json;
  *to++ = '"';
  for (; *from; from++) {
    unsigned char c = (unsigned char)*from;
    if (c == '"' || c == '\\') {
      *to++ = '\\';
      *to++ = (char)c;
    } else if (c == '\n') {
      *to++ = '\\';
      *to++ = 'n';
    } else if (c < 0x20) {
      to += snprintf(to, 7, "\\u%04x", c);
    } else {
      *to++ = (char)c;
    }
  }
  *to++ = '"';
  *to = 0;
  return json;
}

static const char *skip_space(const char *at) {
  while (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r') at++;
  return at;
}

/* Behind a string that begins at `at`. */
static const char *skip_string(const char *at) {
  for (at++; *at && *at != '"'; at++) {
    if (*at == '\\' && at[1]) at++;
  }
  return *at ? at + 1 : at;
}

/* Behind a value. The host hands over valid JSON only. */
static const char *skip_value(const char *at) {
  if (*at == '"') return skip_string(at);
  if (*at == '{' || *at == '[') {
    int depth = 0;
    while (*at) {
      if (*at == '"') {
        at = skip_string(at);
        continue;
      }
      if (*at == '{' || *at == '[') depth++;
      if (*at == '}' || *at == ']') depth--;
      at++;
      if (depth == 0) break;
    }
    return at;
  }
  while (*at && !strchr(",}] \t\n\r", *at)) at++;
  return at;
}

static unsigned hexadecimal(const char *at) {
  unsigned value = 0;
  for (int i = 0; i < 4; i++) {
    char c = at[i];
    unsigned digit = c >= '0' && c <= '9' ? (unsigned)(c - '0') : ((unsigned)(c | 0x20) - 'a' + 10) & 15;
    if (!c) return 0xfffd;
    value = value << 4 | digit;
  }
  return value;
}

static char *put_utf8(char *to, unsigned c) {
  if (c < 0x80) {
    *to++ = (char)c;
  } else if (c < 0x800) {
    *to++ = (char)(0xc0 | c >> 6);
    *to++ = (char)(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    *to++ = (char)(0xe0 | c >> 12);
    *to++ = (char)(0x80 | (c >> 6 & 0x3f));
    *to++ = (char)(0x80 | (c & 0x3f));
  } else {
    *to++ = (char)(0xf0 | c >> 18);
    *to++ = (char)(0x80 | (c >> 12 & 0x3f));
    *to++ = (char)(0x80 | (c >> 6 & 0x3f));
    *to++ = (char)(0x80 | (c & 0x3f));
  }
  return to;
}

const char *wf_json_text(const char *json) {
  if (!json) return NULL;
  json = skip_space(json);
  if (*json != '"') return NULL;
  const char *end = skip_string(json);
  char *text = allocate((size_t)(end - json) + 1), *to = text;
  for (const char *at = json + 1; at < end && *at != '"'; at++) {
    if (*at != '\\') {
      *to++ = *at;
      continue;
    }
    switch (*++at) {
      case 'n': *to++ = '\n'; break;
      case 't': *to++ = '\t'; break;
      case 'r': *to++ = '\r'; break;
      case 'b': *to++ = '\b'; break;
      case 'f': *to++ = '\f'; break;
      case 'u': {
        if (end - at < 5) break;
        unsigned c = hexadecimal(at + 1);
        at += 4;
        /* Two halves make one character; a half alone is none. */
        if (c >= 0xd800 && c < 0xdc00 && end - at >= 7 && at[1] == '\\' && at[2] == 'u') {
          unsigned low = hexadecimal(at + 3);
          if (low >= 0xdc00 && low < 0xe000) {
            c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            at += 6;
          }
        }
        to = put_utf8(to, c >= 0xd800 && c < 0xe000 ? 0xfffd : c);
        break;
      }
      default: *to++ = *at;
    }
  }
  *to = 0;
  return text;
}

const char *wf_json_get(const char *json, const char *key) {
  if (!json) return NULL;
  const char *at = skip_space(json);
  if (*at != '{') return NULL;
  at = skip_space(at + 1);
  while (*at == '"') {
    const char *name = wf_json_text(at);
    at = skip_space(skip_string(at));
    if (*at != ':') return NULL;
    at = skip_space(at + 1);
    const char *end = skip_value(at);
    if (strcmp(name, key) == 0) {
      workflow_string_t value = {(uint8_t *)at, (size_t)(end - at)};
      return text(value);
    }
    at = skip_space(end);
    if (*at == ',') at = skip_space(at + 1);
  }
  return NULL;
}

uint64_t wf_json_whole(const char *json, uint64_t otherwise) {
  if (!json) return otherwise;
  json = skip_space(json);
  uint64_t value = 0;
  const char *at = json;
  for (; *at >= '0' && *at <= '9'; at++) {
    uint64_t digit = (uint64_t)(*at - '0');
    if (value > (UINT64_MAX - digit) / 10) return otherwise;
    value = value * 10 + digit;
  }
  return at == json || *skip_space(at) ? otherwise : value;
}

const char *wf_json_array(const char *const *items, size_t count) {
  size_t length = 3;
  for (size_t i = 0; i < count; i++) length += strlen(items[i]) + 1;
  char *json = allocate(length), *to = json;
  *to++ = '[';
  for (size_t i = 0; i < count; i++) {
    if (i) *to++ = ',';
    size_t bytes = strlen(items[i]);
    memcpy(to, items[i], bytes);
    to += bytes;
  }
  *to++ = ']';
  *to = 0;
  return json;
}
