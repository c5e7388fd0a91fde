/* Durable workflows in C.
 *
 * A program implements `workflow` and reaches the world by the functions here:
 * each call that waits is a step of the run's journal, and is never carried out
 * a second time once it is done, whatever happens to the machine.
 *
 * Texts are UTF-8 and end in a zero byte; JSON is text (RFC 8259). Lengths of
 * time are milliseconds, points in time milliseconds since 1970-01-01 UTC.
 * What a function gives lives until the run ends and need not be freed; what it
 * is handed is only read during the call.
 *
 * The clock, random numbers, files below `/` and stdout of the C library are
 * virtual: the same in every execution. `wfhost build` provides this header.
 */
#ifndef WFHOST_H
#define WFHOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Why something did not end well. */
typedef enum {
  WF_FAILED,          /* the other side answered that it could not do it */
  WF_TIMED_OUT,       /* a time limit passed */
  WF_CANCELLED,       /* the step or the run was cancelled */
  WF_INVALID_OUTPUT,  /* an answer does not fit what was asked for */
  WF_BUDGET_EXCEEDED, /* the budget does not allow it */
  WF_UNAVAILABLE,     /* nobody could be reached who would do it */
  WF_REJECTED,        /* the request itself is wrong, or somebody refused it */
} wf_kind;

/* What a step or a run gives. */
typedef struct {
  const char *json;    /* NULL if it failed */
  wf_kind kind;        /* of a failure */
  const char *message; /* of a failure, for people */
  const char *details; /* of a failure: JSON, or NULL */
  uint32_t attempts;   /* of a failure: how often it was tried */
} wf_result;

/* The program. `input` is JSON. */
wf_result workflow(const char *input);

/* A result. */
wf_result wf_ok(const char *json);
/* A failure with a message as of `printf`. */
wf_result wf_fail(wf_kind kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The name of a kind, like `timed-out`. */
const char *wf_kind_name(wf_kind kind);

/* For timeouts: none. */
#define WF_FOREVER UINT64_MAX

/* What an agent is asked. All but the prompt may be NULL or 0. */
typedef struct {
  const char *prompt;
  const char *input;     /* structured data: JSON */
  const char *provider;  /* the run's default if NULL */
  const char *model;     /* the provider's default if NULL */
  const char *schema;    /* a JSON Schema that the answer has to fit */
  const char *label;     /* what people see; the prompt's beginning if NULL */
  const char *group;     /* calls of one group share a limit of concurrency */
  const char *workspace; /* the name of a workspace of the host */
  const char *session;   /* goes on with an earlier conversation */
  const char *options;   /* a JSON object for the provider */
  uint64_t attempt_ms;   /* the time that one attempt may take */
  uint64_t total_ms;     /* the time that all may take */
  bool once;             /* one call is made, whatever happens; see docs/agents.md */
} wf_request;

/* Asks and waits. Gives the answer: a JSON string if the agent sent plain text. */
wf_result wf_agent(wf_request request);

/* An operation that was started. 0 is none. */
typedef struct {
  int32_t handle;
} wf_step;

/* Asks. The step gives an object with `output`, `provider`, `session`, ... */
wf_step wf_agent_start(wf_request request);
/* The output of a step that `wf_agent_start` gave; waits for it. */
wf_result wf_agent_get(wf_step step);

/* Waits until a step is done; gives the same each time. */
wf_result wf_get(wf_step step);
/* The index of the one of `count` steps that was done first; waits for one. */
size_t wf_wait_any(const wf_step *steps, size_t count);
/* The number of a step within the run. */
uint64_t wf_step_id(wf_step step);
/* Gives a step up: one that is not done is cancelled. */
void wf_drop(wf_step step);

/* Durable timers: the deadline is kept across crashes. */
wf_result wf_sleep(uint64_t length_ms);
wf_result wf_sleep_until(uint64_t at);
wf_step wf_sleep_start(uint64_t length_ms);

/* Waits for a signal and gives its payload. Early ones are kept. */
wf_result wf_signal(const char *name, uint64_t timeout_ms);
wf_step wf_signal_start(const char *name, uint64_t timeout_ms);
/* Sends a signal to another run, exactly once. */
wf_result wf_send(const char *run, const char *name, const char *payload);
/* Asks a person; `schema` may be NULL. A refusal is the failure WF_REJECTED. */
wf_result wf_ask(const char *prompt, const char *schema, uint64_t timeout_ms);
/* Leaves a message for whoever reads them outside. */
void wf_post(const char *name, const char *payload);

/* Runs another workflow and gives its result. */
wf_result wf_child(const char *module, const char *input);
wf_step wf_child_start(const char *module, const char *input);

/* Virtual time. */
uint64_t wf_now(void);
/* The next number of the run's random stream. */
uint64_t wf_random(void);
/* The id of the run. */
const char *wf_run_id(void);
/* Whether this run reaches the place for the first time under code that has it. */
bool wf_patched(const char *id);
/* Whether the run was asked to stop. */
bool wf_cancelled(void);
/* Names what is being done, for people who watch. */
void wf_phase(const char *title);
/* State that outsiders can read: the latest value of a key. */
void wf_publish(const char *key, const char *json);
/* Ends this run and goes on as a fresh one with this input. */
_Noreturn void wf_continue_as_new(const char *input);

typedef enum { WF_TRACE, WF_DEBUG, WF_INFO, WF_WARN, WF_ERROR } wf_level;
/* Writes a line to the run's log, silent while replaying. */
void wf_log(wf_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Fails the run at once, with a message as of `printf`. */
_Noreturn void wf_panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A text as of `printf`. */
const char *wf_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A text as JSON: "..." with everything escaped that has to be. */
const char *wf_json_string(const char *text);
/* The text of a JSON string; NULL if it is something else. */
const char *wf_json_text(const char *json);
/* A member of a JSON object, as JSON; NULL if there is none. */
const char *wf_json_get(const char *json, const char *key);
/* A JSON number that is whole and not negative; `otherwise` if it is something else or NULL. */
uint64_t wf_json_whole(const char *json, uint64_t otherwise);
/* A JSON array of `count` texts, each of them JSON. */
const char *wf_json_array(const char *const *items, size_t count);

#ifdef __cplusplus
}
#endif
#endif
