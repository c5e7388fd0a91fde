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

/* The kind of a failure. */
typedef enum {
  WF_FAILED,          /* the other side reported that it could not do it */
  WF_TIMED_OUT,       /* a time limit expired */
  WF_CANCELLED,       /* the step or the run was cancelled */
  WF_INVALID_OUTPUT,  /* an answer does not match the schema of the request */
  WF_BUDGET_EXCEEDED, /* it would exceed the budget */
  WF_UNAVAILABLE,     /* no provider could be reached */
  WF_REJECTED,        /* the request is invalid, or it was refused */
} wf_kind;

/* The result of a step or a run. */
typedef struct {
  const char *json;    /* NULL if it failed */
  wf_kind kind;        /* of a failure */
  const char *message; /* of a failure, for people */
  const char *details; /* of a failure: JSON, or NULL */
  uint32_t attempts;   /* of a failure: the number of attempts */
} wf_result;

/* The program. `input` is JSON. */
wf_result workflow(const char *input);

/* A result. */
wf_result wf_ok(const char *json);
/* A failure, with a message formatted like `printf`. */
wf_result wf_fail(wf_kind kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The name of a kind, like `timed-out`. */
const char *wf_kind_name(wf_kind kind);

/* A timeout that never expires. */
#define WF_FOREVER UINT64_MAX

/* When and how often a failed attempt is retried. Zeros mean the defaults. */
typedef struct {
  uint32_t max_attempts;    /* in total, including the first one; 3 */
  uint64_t initial_ms;      /* the delay before the second attempt; 1000 */
  float factor;             /* each further delay is this many times longer; 2 */
  uint64_t max_ms;          /* the longest delay; 60000 */
  float jitter;             /* each delay varies by up to this fraction; 0.1; negative: none */
  const char *const *fatal; /* kinds or reasons that are not retried; ends with NULL */
} wf_retry;

/* A request to an agent. All but the prompt may be NULL or 0. */
typedef struct {
  const char *prompt;
  const char *input;            /* structured data: JSON */
  const char *provider;         /* the run's default if NULL */
  const char *const *providers; /* attempt n goes to the n-th; ends with NULL; before `provider` */
  const char *model;            /* the provider's default if NULL */
  const char *schema;           /* a JSON Schema that the answer has to match */
  const char *label;            /* a label for people; the prompt's beginning if NULL */
  const char *group;            /* calls of the same group share a concurrency limit */
  const char *workspace;        /* the name of a workspace of the host */
  const char *session;          /* continues an earlier conversation: that of a reply */
  const char *fork;             /* forks it: the original conversation is unchanged */
  const char *options;          /* a JSON object for the provider */
  const wf_retry *retry;        /* the host's policy if NULL */
  uint64_t attempt_ms;          /* the time limit of one attempt */
  uint64_t total_ms;            /* the time limit of the whole step */
  uint64_t heartbeat_ms;        /* the longest time without a sign of life */
  const char *cache_version;    /* reuses the answer to an equal request with this version */
  uint64_t cache_ttl_ms;        /* the maximum age of such an answer */
  bool once;                    /* the call is made at most once; see docs/agents.md */
} wf_request;

/* An answer with its session, usage and provider. */
typedef struct {
  wf_result output;    /* JSON: a string if the agent sent plain text */
  const char *session; /* the id of the conversation, to continue it, or NULL */
  const char *model;   /* or NULL */
  const char *provider;
  bool has_usage; /* whether the provider reported its usage */
  uint64_t input_tokens, output_tokens, cached_tokens;
  uint64_t cost_micros; /* millionths of a US dollar */
} wf_reply;

/* Calls an agent and waits. Returns the answer: a JSON string if the agent sent plain text. */
wf_result wf_agent(wf_request request);
/* Like `wf_agent`, with the session, usage and provider of the answer. */
wf_reply wf_agent_reply(wf_request request);

/* An operation that was started. 0 is none. */
typedef struct {
  int32_t handle;
} wf_step;

/* Calls an agent. The step returns an object with `output`, `provider`, `session`, ... */
wf_step wf_agent_start(wf_request request);
/* The output of a step of `wf_agent_start`; waits for it. */
wf_result wf_agent_get(wf_step step);
/* The reply of such a step; waits for it. */
wf_reply wf_agent_reply_get(wf_step step);

/* Waits until a step is done; returns the same result each time. */
wf_result wf_get(wf_step step);
/* The index of the one of `count` steps that was done first; waits for one. */
size_t wf_wait_any(const wf_step *steps, size_t count);
/* The number of a step within the run. */
uint64_t wf_step_id(wf_step step);
/* Drops a step: an open step is cancelled. */
void wf_drop(wf_step step);

/* Many steps, each under a tag, for programs that go on with each as it is done. A step leaves the set
 * before it is dropped. */
typedef struct {
  int32_t handle;
} wf_set;
wf_set wf_set_new(void);
void wf_set_add(wf_set set, wf_step step, uint64_t tag);
void wf_set_remove(wf_set set, uint64_t tag);
/* The tag of the one that was done first, which leaves the set; waits for one. */
uint64_t wf_set_next(wf_set set);
void wf_set_drop(wf_set set);

/* The index of the one that is done first; the others are dropped. Of agents see `wf_agent_get`. */
size_t wf_race(const wf_step *steps, size_t count);
/* The first of the steps that succeeds, with its index; the others are dropped. Failures count only if
 * all fail. */
wf_result wf_first_ok(const wf_step *steps, size_t count, size_t *index);
/* The first `needed` steps that succeed, in the order in which they did; the others are dropped. Fails as
 * soon as there can be no so many, with all failures in the details. `indices` and `results` have room for
 * `needed`, or are NULL. */
wf_result wf_quorum(const wf_step *steps, size_t count, size_t needed, size_t *indices, wf_result *results);
/* The result of a step if it is there in time; else WF_TIMED_OUT. The caller drops it in both cases. */
wf_result wf_get_within(wf_step step, uint64_t limit_ms);

/* Starts the step of an item. */
typedef wf_step (*wf_starter)(void *context, size_t index);
/* Starts `count` steps, at most `limit` at the same time, and stores their results in `results`, in their
 * order. The first failure is returned; steps in progress are then dropped, and no more started. */
wf_result wf_map(size_t count, size_t limit, wf_starter start, void *context, wf_result *results);

/* A block that receives the number of the attempt, from 1. */
typedef wf_result (*wf_attempt)(void *context, uint32_t attempt);
/* Retries a block until it succeeds, according to a policy; the delays are durable. WF_CANCELLED,
 * WF_REJECTED and WF_BUDGET_EXCEEDED end it immediately. For a single agent call see `retry` of its request,
 * which the host enforces. */
wf_result wf_again(wf_retry policy, wf_attempt block, void *context);
/* Whether a policy allows another attempt after one (from 1) failed so, and the delay before it. */
bool wf_allows_another(wf_retry policy, uint32_t attempt, wf_result failure);
uint64_t wf_retry_delay(wf_retry policy, uint32_t attempt, uint64_t random);

/* A round: returns the next state, JSON, or sets `done` and returns the result. */
typedef wf_result (*wf_round)(void *context, const char *state, bool *done);
/* Runs rounds until one is done. After about `steps` steps the run continues as new: a new run of the
 * same module starts with the state as its input, so that each journal stays short. */
wf_result wf_rounds(uint64_t steps, const char *state, wf_round block, void *context);

/* Completed steps with their compensations: `wf_saga saga = {0};`. */
typedef struct {
  struct wf_undone *last;
} wf_saga;
/* Compensates the step that `value` describes. */
typedef wf_result (*wf_undo_function)(const void *value);
/* Registers a compensation, after its step, or before it if it succeeds when there is nothing to compensate. */
void wf_undo(wf_saga *saga, const char *name, wf_undo_function undo, const void *value);
/* To be returned: if `result` is a failure, compensates all steps in the reverse order and adds a member `saga`
 * to its details, with the names of the steps that were `undone` and `not_undone`. */
wf_result wf_saga_end(wf_saga *saga, wf_result result);

/* Durable timers: the deadline is kept across crashes. */
wf_result wf_sleep(uint64_t length_ms);
wf_result wf_sleep_until(uint64_t at);
wf_step wf_sleep_start(uint64_t length_ms);

/* Waits for a signal and gives its payload. Early ones are kept. */
wf_result wf_signal(const char *name, uint64_t timeout_ms);
wf_step wf_signal_start(const char *name, uint64_t timeout_ms);
/* Sends a signal to another run, exactly once. */
wf_result wf_send(const char *run, const char *name, const char *payload);

/* A question to a person. All but the prompt may be NULL or 0. */
typedef struct {
  const char *prompt;
  const char *schema;         /* a JSON Schema that the answer has to match */
  const char *const *choices; /* the answer is one of them; ends with NULL */
  const char *details;        /* JSON: information for the person who answers */
  uint64_t timeout_ms;        /* 0 is none */
} wf_question;
/* Asks a person. If the person denies the question, the failure is WF_REJECTED. */
wf_result wf_ask(wf_question question);
wf_step wf_ask_start(wf_question question);
/* Appends to the messages of this run, which are read with a cursor. */
void wf_post(const char *name, const char *payload);

/* The options of a child; all may be NULL or 0. */
typedef struct {
  const char *id;            /* derived from the parent's id and the step if NULL */
  bool abandon;              /* continues when this run ends first; else it is cancelled */
  const char *const *labels; /* names and values in turn; ends with NULL */
} wf_child_options;
/* Runs another workflow as a run of its own and returns its result. */
wf_result wf_child(const char *module, const char *input, wf_child_options options);
wf_step wf_child_start(const char *module, const char *input, wf_child_options options);

/* Virtual time. */
uint64_t wf_now(void);
/* The next number of the run's random stream. */
uint64_t wf_random(void);
/* Information about the run. */
typedef struct {
  const char *run;            /* its id */
  const char *workflow;       /* its name */
  const char *digest;         /* of the module that it started with */
  const char *parent;         /* the run that started it, or NULL */
  uint64_t started;           /* when it started */
  uint32_t attempt;           /* the attempt at the whole run, from 1 */
  const char *const *labels;  /* names and values in turn; ends with NULL */
} wf_info;
wf_info wf_run_info(void);
/* The budget of the run and its children, and what has been spent of it, in tokens. */
typedef struct {
  bool limited;
  uint64_t total; /* 0 if it is not limited */
  uint64_t spent;
  uint64_t remaining; /* UINT64_MAX if it is not limited */
} wf_spending;
wf_spending wf_budget(void);
/* False for runs that passed this place before the code contained the call, true for all others. */
bool wf_patched(const char *id);
/* Whether cancellation of the run was requested. */
bool wf_cancelled(void);
/* Names the current phase of the run, for people. */
void wf_phase(const char *title);
/* Publishes state, which can be read at any time: the latest value of a key. */
void wf_publish(const char *key, const char *json);
/* Ends this run and continues as a new one with this input. */
_Noreturn void wf_continue_as_new(const char *input);

typedef enum { WF_TRACE, WF_DEBUG, WF_INFO, WF_WARN, WF_ERROR } wf_level;
/* Writes a line to the run's log, silent while replaying. */
void wf_log(wf_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same with fields, names and values in turn; ends with NULL. */
void wf_log_with(wf_level level, const char *const *fields, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Fails the run immediately, with a message formatted like `printf`. */
_Noreturn void wf_panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A text formatted like `printf`. */
const char *wf_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A text as JSON: "..." with everything escaped that has to be; null if it is NULL. */
const char *wf_json_string(const char *text);
/* The text of a JSON string; NULL if it is something else. One that holds a zero ends there. */
const char *wf_json_text(const char *json);
/* The same with its length, zeros included. */
const char *wf_json_bytes(const char *json, size_t *length);
/* A member of a JSON object, as JSON; NULL if there is none. */
const char *wf_json_get(const char *json, const char *key);
/* How many members an object or an array has; 0 if it is something else. */
size_t wf_json_count(const char *json);
/* An item of a JSON array, as JSON; NULL if there is none. All of them: `wf_json_each`. */
const char *wf_json_at(const char *json, size_t index);
/* All members of an object or an array:
 * `for (wf_json_iterator item = wf_json_each(json); wf_json_next(&item);) use(item.key, item.value);` */
typedef struct {
  const char *key;   /* NULL in an array */
  const char *value; /* JSON */
  const char *at;    /* where it goes on */
  bool is_object;
} wf_json_iterator;
wf_json_iterator wf_json_each(const char *json);
bool wf_json_next(wf_json_iterator *iterator);
/* A JSON number that is whole and not negative; `otherwise` if it is something else or NULL. */
uint64_t wf_json_whole(const char *json, uint64_t otherwise);
/* Any JSON number; `otherwise` if it is something else or NULL. */
double wf_json_number(const char *json, double otherwise);
/* true or false; `otherwise` if it is something else or NULL. */
bool wf_json_bool(const char *json, bool otherwise);
/* A number as JSON; null if it is infinite or none. */
const char *wf_json_from_number(double value);
/* A JSON array of `count` texts, each of them JSON. */
const char *wf_json_array(const char *const *items, size_t count);
/* A JSON object of keys and values, which are JSON, in turn; ends with NULL. A value that is NULL is null. */
const char *wf_json_object(const char *key, ...);

#ifdef __cplusplus
}
#endif
#endif
