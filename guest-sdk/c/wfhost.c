/* The functions of wfhost.h over the generated bindings. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/workflow.h"

/* The interface is added to the module by `wfhost build`, not by an object file. */
void __component_type_object_force_link_workflow(void) {}

/* Texts. */

static workflow_string_t string(const char *text) {
  if (!text) text = "";
  workflow_string_t string = {(uint8_t *)text, strlen(text)};
  return string;
}

static const char *text(workflow_string_t string) { return wf_copy(string.ptr, string.len); }

static const char *optional_text(workflow_option_string_t from) { return from.is_some ? text(from.val) : NULL; }

/* Of texts that end with NULL. */
static workflow_list_string_t list(const char *const *from) {
  size_t count = 0;
  while (from && from[count]) count++;
  workflow_list_string_t to = {wf_allocate(count * sizeof(workflow_string_t)), count};
  for (size_t i = 0; i < count; i++) to.ptr[i] = string(from[i]);
  return to;
}

/* Of names and values in turn, that end with NULL. */
static workflow_list_tuple2_string_string_t pairs(const char *const *from) {
  size_t count = 0;
  while (from && from[2 * count]) count++;
  workflow_list_tuple2_string_string_t to = {wf_allocate(count * sizeof(workflow_tuple2_string_string_t)), count};
  for (size_t i = 0; i < count; i++) {
    to.ptr[i].f0 = string(from[2 * i]);
    to.ptr[i].f1 = string(from[2 * i + 1]);
  }
  return to;
}

/* Results. */

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

/* What an export gives is freed after it, so it is not the program's own, which may be a literal. */
static workflow_string_t given(const char *text) {
  if (!text) text = "";
  return string(wf_copy(text, strlen(text)));
}

bool exports_workflow_run(workflow_json_t *input, workflow_json_t *ret, workflow_failure_t *err) {
  wf_result result = workflow(text(*input));
  if (result.json) {
    *ret = given(result.json);
    return true;
  }
  err->kind = (uint8_t)result.kind;
  err->message = given(result.message);
  err->details.is_some = result.details != NULL;
  err->details.val = given(result.details);
  err->attempts = result.attempts;
  return false;
}

/* Agents. */

static uint64_t begun;

static wf_step started(int32_t handle) {
  begun++;
  wf_step step = {handle};
  return step;
}

uint64_t wf_steps_begun(void) { return begun; }

static void option(workflow_option_string_t *to, const char *text) {
  to->is_some = text != NULL;
  to->val = string(text);
}

static void option_json(wfhost_workflow_agent_option_json_t *to, const char *json) {
  to->is_some = json != NULL;
  to->val = string(json);
}

static void option_millis(wfhost_workflow_agent_option_millis_t *to, uint64_t length_ms) {
  to->is_some = length_ms != 0;
  to->val = length_ms;
}

static wfhost_workflow_agent_request_t agent_request(wf_request from) {
  /* A call that names this kind among the fatal ones is made at most once. */
  static const char *const unknown_outcome[] = {"unknown-outcome", NULL};
  const char *const single[] = {from.provider, NULL};
  wfhost_workflow_agent_request_t to;
  memset(&to, 0, sizeof to);
  to.prompt = string(from.prompt);
  option_json(&to.input, from.input);
  to.providers = list(from.providers ? from.providers : single);
  option(&to.model, from.model);
  option_json(&to.schema, from.schema);
  option(&to.session, from.fork ? from.fork : from.session);
  option(&to.workspace, from.workspace);
  option(&to.label, from.label);
  option(&to.group, from.group);
  option_json(&to.options, from.options);
  if (from.fork) {
    const char *members = from.options ? from.options + strspn(from.options, " \t\r\n") : "{}";
    bool is_empty = members[0] == '{' && members[1 + strspn(members + 1, " \t\r\n")] == '}';
    option_json(&to.options, wf_format("{\"fork\":true%s%s", is_empty ? "" : ",", members + 1));
  }
  option_millis(&to.limits.val.attempt, from.attempt_ms);
  option_millis(&to.limits.val.total, from.total_ms);
  option_millis(&to.limits.val.heartbeat, from.heartbeat_ms);
  to.limits.is_some = from.attempt_ms || from.total_ms || from.heartbeat_ms;
  if (from.once || from.retry) {
    wf_retry retry = from.once ? (wf_retry){.max_attempts = 1, .fatal = unknown_outcome} : *from.retry;
    retry = wf_whole_retry(retry);
    to.retry.is_some = true;
    to.retry.val.max_attempts = retry.max_attempts;
    to.retry.val.initial = retry.initial_ms;
    to.retry.val.factor = retry.factor;
    to.retry.val.max = retry.max_ms;
    to.retry.val.jitter = retry.jitter;
    to.retry.val.fatal = list(retry.fatal);
  }
  to.cache.is_some = from.cache_version != NULL;
  to.cache.val.version = string(from.cache_version);
  option_millis(&to.cache.val.ttl, from.cache_ttl_ms);
  return to;
}

wf_result wf_agent(wf_request request) { return wf_agent_reply(request).output; }

wf_reply wf_agent_reply(wf_request request) {
  wf_step step = wf_agent_start(request);
  wf_reply reply = wf_agent_reply_get(step);
  wf_drop(step);
  return reply;
}

wf_step wf_agent_start(wf_request request) {
  wfhost_workflow_agent_request_t asked = agent_request(request);
  return started(wfhost_workflow_agent_start(&asked).__handle);
}

wf_reply wf_agent_reply_get(wf_step step) {
  wf_reply reply;
  memset(&reply, 0, sizeof reply);
  reply.output = wf_get(step);
  const char *json = reply.output.json;
  if (!json) return reply;
  reply.output.json = wf_json_get(json, "output");
  reply.session = wf_json_text(wf_json_get(json, "session"));
  reply.model = wf_json_text(wf_json_get(json, "model"));
  reply.provider = wf_json_text(wf_json_get(json, "provider"));
  const char *usage = wf_json_get(json, "usage");
  reply.has_usage = usage && *usage == '{';
  reply.input_tokens = wf_json_whole(wf_json_get(usage, "input_tokens"), 0);
  reply.output_tokens = wf_json_whole(wf_json_get(usage, "output_tokens"), 0);
  reply.cached_tokens = wf_json_whole(wf_json_get(usage, "cached_tokens"), 0);
  reply.cost_micros = wf_json_whole(wf_json_get(usage, "cost_micros"), 0);
  return reply;
}

wf_result wf_agent_get(wf_step step) { return wf_agent_reply_get(step).output; }

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

wf_set wf_set_new(void) {
  wf_set set = {wfhost_workflow_types_constructor_wait_set().__handle};
  return set;
}

static wfhost_workflow_types_borrow_wait_set_t borrow_set(wf_set set) {
  wfhost_workflow_types_borrow_wait_set_t borrowed = {set.handle};
  return borrowed;
}

void wf_set_add(wf_set set, wf_step step, uint64_t tag) {
  wfhost_workflow_types_method_wait_set_add(borrow_set(set), borrow(step), tag);
}

void wf_set_remove(wf_set set, uint64_t tag) { wfhost_workflow_types_method_wait_set_remove(borrow_set(set), tag); }

uint64_t wf_set_next(wf_set set) { return wfhost_workflow_types_method_wait_set_next(borrow_set(set)); }

void wf_set_drop(wf_set set) {
  wfhost_workflow_types_own_wait_set_t own = {set.handle};
  wfhost_workflow_types_wait_set_drop_own(own);
}

/* Time. */

/* Waits for a step that nothing else refers to. */
static wf_result get_and_drop(wf_step step) {
  wf_result result = wf_get(step);
  wf_drop(step);
  return result;
}

wf_result wf_sleep(uint64_t length_ms) { return get_and_drop(wf_sleep_start(length_ms)); }

wf_result wf_sleep_until(uint64_t at) {
  return get_and_drop(started(wfhost_workflow_sleep_start(at).__handle));
}

wf_step wf_sleep_start(uint64_t length_ms) { return started(wfhost_workflow_sleep_start_for(length_ms).__handle); }

/* Signals and people. */

wf_result wf_signal(const char *name, uint64_t timeout_ms) {
  return get_and_drop(wf_signal_start(name, timeout_ms));
}

wf_step wf_signal_start(const char *name, uint64_t timeout_ms) {
  workflow_string_t named = string(name);
  uint64_t *timeout = timeout_ms == WF_FOREVER ? NULL : &timeout_ms;
  return started(wfhost_workflow_signal_start(&named, timeout).__handle);
}

wf_result wf_send(const char *run, const char *name, const char *payload) {
  workflow_string_t target = string(run), named = string(name), json = string(payload);
  wfhost_workflow_signal_failure_t failure;
  bool ok = wfhost_workflow_signal_send(&target, &named, &json, &failure);
  return ok ? wf_ok("null") : failed(failure);
}

wf_step wf_ask_start(wf_question asked) {
  wfhost_workflow_signal_question_t question;
  memset(&question, 0, sizeof question);
  question.prompt = string(asked.prompt);
  question.schema.is_some = asked.schema != NULL;
  question.schema.val = string(asked.schema);
  question.choices = list(asked.choices);
  question.details.is_some = asked.details != NULL;
  question.details.val = string(asked.details);
  uint64_t *timeout = asked.timeout_ms ? &asked.timeout_ms : NULL;
  return started(wfhost_workflow_signal_start_ask(&question, timeout).__handle);
}

wf_result wf_ask(wf_question asked) { return get_and_drop(wf_ask_start(asked)); }

void wf_post(const char *name, const char *payload) {
  workflow_string_t named = string(name), json = string(payload);
  wfhost_workflow_signal_post(&named, &json);
}

/* Children. */

wf_result wf_child(const char *module, const char *input, wf_child_options options) {
  return get_and_drop(wf_child_start(module, input, options));
}

wf_step wf_child_start(const char *module, const char *input, wf_child_options options) {
  workflow_string_t named = string(module), given = string(input ? input : "null");
  wfhost_workflow_child_options_t asked;
  memset(&asked, 0, sizeof asked);
  option(&asked.id, options.id);
  asked.on_close =
      options.abandon ? WFHOST_WORKFLOW_CHILD_ON_PARENT_CLOSE_ABANDON : WFHOST_WORKFLOW_CHILD_ON_PARENT_CLOSE_CANCEL;
  asked.labels = pairs(options.labels);
  return started(wfhost_workflow_child_start(&named, &given, &asked).__handle);
}

/* The run. */

uint64_t wf_now(void) { return wfhost_workflow_context_now(); }

uint64_t wf_random(void) { return wfhost_workflow_context_random(); }

wf_info wf_run_info(void) {
  wfhost_workflow_context_run_info_t from;
  wfhost_workflow_context_info(&from);
  const char **labels = wf_allocate((2 * from.labels.len + 1) * sizeof *labels);
  for (size_t i = 0; i < from.labels.len; i++) {
    labels[2 * i] = text(from.labels.ptr[i].f0);
    labels[2 * i + 1] = text(from.labels.ptr[i].f1);
  }
  labels[2 * from.labels.len] = NULL;
  wf_info info = {
      .run = text(from.run),
      .workflow = text(from.workflow),
      .digest = text(from.digest),
      .parent = optional_text(from.parent),
      .started = from.started,
      .attempt = from.attempt,
      .labels = labels,
  };
  return info;
}

wf_spending wf_budget(void) {
  wfhost_workflow_context_spending_t from;
  wfhost_workflow_context_budget(&from);
  uint64_t left = from.total.is_some && from.total.val > from.spent ? from.total.val - from.spent : 0;
  wf_spending spending = {
      .limited = from.total.is_some,
      .total = from.total.is_some ? from.total.val : 0,
      .spent = from.spent,
      .remaining = from.total.is_some ? left : UINT64_MAX,
  };
  return spending;
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

static void write_line(wf_level level, const char *const *fields, const char *format, va_list list) {
  workflow_string_t message = string(wf_format_list(format, list));
  workflow_list_tuple2_string_string_t all = pairs(fields);
  wfhost_workflow_log_write((uint8_t)level, &message, &all);
}

void wf_log(wf_level level, const char *format, ...) {
  va_list list;
  va_start(list, format);
  write_line(level, NULL, format, list);
  va_end(list);
}

void wf_log_with(wf_level level, const char *const *fields, const char *format, ...) {
  va_list list;
  va_start(list, format);
  write_line(level, fields, format, list);
  va_end(list);
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

