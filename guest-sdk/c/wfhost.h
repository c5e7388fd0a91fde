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

/* When and how often a failed attempt is repeated. Zeros mean the defaults. */
typedef struct {
  uint32_t max_attempts;    /* in all, the first one included; 3 */
  uint64_t initial_ms;      /* the delay before the second attempt; 1000 */
  float factor;             /* each further delay is so many times the one before; 2 */
  uint64_t max_ms;          /* no delay is longer; 60000 */
  float jitter;             /* each delay is varied by up to this fraction; 0.1, a negative one is none */
  const char *const *fatal; /* kinds or reasons that are not tried again; ends with NULL */
} wf_retry;

/* What an agent is asked. All but the prompt may be NULL or 0. */
typedef struct {
  const char *prompt;
  const char *input;            /* structured data: JSON */
  const char *provider;         /* the run's default if NULL */
  const char *const *providers; /* attempt n goes to the n-th; ends with NULL; before `provider` */
  const char *model;            /* the provider's default if NULL */
  const char *schema;           /* a JSON Schema that the answer has to fit */
  const char *label;            /* what people see; the prompt's beginning if NULL */
  const char *group;            /* calls of one group share a limit of concurrency */
  const char *workspace;        /* the name of a workspace of the host */
  const char *session;          /* goes on with an earlier conversation: that of a reply */
  const char *fork;             /* the same, but that conversation stays as it is */
  const char *options;          /* a JSON object for the provider */
  const wf_retry *retry;        /* the host's policy if NULL */
  uint64_t attempt_ms;          /* the time that one attempt may take */
  uint64_t total_ms;            /* the time that all may take */
  uint64_t heartbeat_ms;        /* the longest time without a sign of life */
  const char *cache_version;    /* the answer may be one of an earlier run that asked the same under it */
  uint64_t cache_ttl_ms;        /* the greatest age of such an answer */
  bool once;                    /* one call is made, whatever happens; see docs/agents.md */
} wf_request;

/* An answer with all that is known about it. */
typedef struct {
  wf_result output;    /* JSON: a string if the agent sent plain text */
  const char *session; /* to go on with this conversation, or NULL */
  const char *model;   /* or NULL */
  const char *provider;
  bool has_usage; /* whether the provider told what it consumed */
  uint64_t input_tokens, output_tokens, cached_tokens;
  uint64_t cost_micros; /* millionths of a US dollar */
} wf_reply;

/* Asks and waits. Gives the answer: a JSON string if the agent sent plain text. */
wf_result wf_agent(wf_request request);
/* The same with all that is known about the answer. */
wf_reply wf_agent_reply(wf_request request);

/* An operation that was started. 0 is none. */
typedef struct {
  int32_t handle;
} wf_step;

/* Asks. The step gives an object with `output`, `provider`, `session`, ... */
wf_step wf_agent_start(wf_request request);
/* The output of a step that `wf_agent_start` gave; waits for it. */
wf_result wf_agent_get(wf_step step);
/* The reply of such a step; waits for it. */
wf_reply wf_agent_reply_get(wf_step step);

/* Waits until a step is done; gives the same each time. */
wf_result wf_get(wf_step step);
/* The index of the one of `count` steps that was done first; waits for one. */
size_t wf_wait_any(const wf_step *steps, size_t count);
/* The number of a step within the run. */
uint64_t wf_step_id(wf_step step);
/* Gives a step up: one that is not done is cancelled. */
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

/* Begins the step of an item. */
typedef wf_step (*wf_starter)(void *context, size_t index);
/* Begins `count` steps, at most `limit` at the same time, and gives their results in `results`, in their
 * order. The first failure is returned; what is under way is dropped then, and no more begun. */
wf_result wf_map(size_t count, size_t limit, wf_starter start, void *context, wf_result *results);

/* A block that is told which attempt it is, from 1. */
typedef wf_result (*wf_attempt)(void *context, uint32_t attempt);
/* Runs a block until it succeeds, as often and with such delays as the policy says; the delays are durable.
 * WF_CANCELLED, WF_REJECTED and WF_BUDGET_EXCEEDED end it at once. For one call of an agent see `retry` of
 * its request, which the host keeps. */
wf_result wf_again(wf_retry policy, wf_attempt block, void *context);
/* Whether a policy allows another attempt after one (from 1) failed so, and the delay before it. */
bool wf_allows_another(wf_retry policy, uint32_t attempt, wf_result failure);
uint64_t wf_retry_delay(wf_retry policy, uint32_t attempt, uint64_t random);

/* A round: gives the next state, JSON, or sets `done` and gives the result. */
typedef wf_result (*wf_round)(void *context, const char *state, bool *done);
/* Runs rounds until one is done. After about `steps` steps the run continues as new: a fresh run of the
 * same module begins with the state as its input, so that each journal stays short. */
wf_result wf_rounds(uint64_t steps, const char *state, wf_round block, void *context);

/* What was done and how it is undone: `wf_saga saga = {0};`. */
typedef struct {
  struct wf_undone *last;
} wf_saga;
/* Undoes something, told by `value`. */
typedef wf_result (*wf_undo_function)(const void *value);
/* Registers an undoing, after what it undoes, or before it if it copes with there being nothing to undo. */
void wf_undo(wf_saga *saga, const char *name, wf_undo_function undo, const void *value);
/* To be returned: if `result` is a failure, undoes everything in the reverse order and adds a member `saga`
 * to its details, with the names of what was `undone` and `not_undone`. */
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

/* What a person is asked. All but the prompt may be NULL or 0. */
typedef struct {
  const char *prompt;
  const char *schema;         /* a JSON Schema that the answer has to fit */
  const char *const *choices; /* the answer is one of them; ends with NULL */
  const char *details;        /* JSON: what one has to know to answer */
  uint64_t timeout_ms;        /* 0 is none */
} wf_question;
/* Asks a person. A refusal is the failure WF_REJECTED. */
wf_result wf_ask(wf_question question);
wf_step wf_ask_start(wf_question question);
/* Leaves a message for whoever reads them outside. */
void wf_post(const char *name, const char *payload);

/* What is said of a child besides its input; all may be NULL or 0. */
typedef struct {
  const char *id;            /* made from the parent's and the step if NULL */
  bool abandon;              /* goes on when this run ends first; else it is cancelled */
  const char *const *labels; /* names and values in turn; ends with NULL */
} wf_child_options;
/* Runs another workflow as a run of its own and gives its result. */
wf_result wf_child(const char *module, const char *input, wf_child_options options);
wf_step wf_child_start(const char *module, const char *input, wf_child_options options);

/* Virtual time. */
uint64_t wf_now(void);
/* The next number of the run's random stream. */
uint64_t wf_random(void);
/* What is known about the run. */
typedef struct {
  const char *run;            /* its id */
  const char *workflow;       /* its name */
  const char *digest;         /* of the module that it began with */
  const char *parent;         /* the run that started it, or NULL */
  uint64_t started;           /* when it began */
  uint32_t attempt;           /* how often it was begun again; 1 is the first time */
  const char *const *labels;  /* names and values in turn; ends with NULL */
} wf_info;
wf_info wf_run_info(void);
/* What the run and its children may use and have used, in tokens. */
typedef struct {
  bool limited;
  uint64_t total; /* 0 if it is not limited */
  uint64_t spent;
  uint64_t remaining; /* UINT64_MAX if it is not limited */
} wf_spending;
wf_spending wf_budget(void);
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
/* The same with fields, names and values in turn; ends with NULL. */
void wf_log_with(wf_level level, const char *const *fields, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Fails the run at once, with a message as of `printf`. */
_Noreturn void wf_panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A text as of `printf`. */
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
