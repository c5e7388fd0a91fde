/* The example `research` in C: a report by several agents. An outline, its
 * sections written side by side, a review of at most three rounds, and the
 * approval of a person. */
#include <string.h>
#include <strings.h>
#include <wfhost.h>

#define ROUNDS 3
#define SECTIONS 100

/* Texts of the sections, as JSON; of a failure if `failure.json` is NULL. */
typedef struct {
  const char *sections[SECTIONS];
  wf_result failure;
} written;

/* Has all sections written side by side, following an outline or a review. */
static written write_sections(const char *topic, const char *guidance, size_t count) {
  written all = {.failure = wf_ok(NULL)};
  wf_step steps[SECTIONS];
  for (size_t i = 0; i < count; i++) {
    steps[i] = wf_agent_start((wf_request){
        .prompt = wf_format("write section %zu of %s:\n%s", i + 1, topic, guidance),
        .label = wf_format("section %zu", i + 1),
    });
  }
  for (size_t i = 0; i < count; i++) {
    wf_result section = wf_agent_get(steps[i]);
    wf_drop(steps[i]);
    all.sections[i] = section.json;
    if (!section.json && all.failure.json) all.failure = section;
  }
  return all;
}

static const char *draft_of(const written *all, size_t count) {
  const char *draft = "";
  for (size_t i = 0; i < count; i++) {
    draft = wf_format("%s%s%s", draft, i ? "\n\n" : "", wf_json_text(all->sections[i]));
  }
  return draft;
}

wf_result workflow(const char *input) {
  const char *topic = wf_json_text(wf_json_get(input, "topic"));
  if (!topic) return wf_fail(WF_REJECTED, "the input needs a `topic`");
  size_t count = wf_json_whole(wf_json_get(input, "sections"), 3);
  if (count > SECTIONS) return wf_fail(WF_REJECTED, "at most %d sections", SECTIONS);
  uint64_t timeout_s = wf_json_whole(wf_json_get(input, "approval_timeout_s"), 7 * 24 * 3600);

  wf_phase("outline");
  wf_result answer = wf_agent((wf_request){
      .prompt = wf_format("outline %s in %zu sections", topic, count),
      .label = "outline",
  });
  const char *outline = wf_json_text(answer.json);
  if (!outline) return answer;

  wf_phase("sections");
  written all = write_sections(topic, outline, count);
  if (!all.failure.json) return all.failure;

  unsigned rounds = 0;
  while (rounds < ROUNDS) {
    rounds++;
    wf_phase(wf_format("review %u", rounds));
    answer = wf_agent((wf_request){
        .prompt = wf_format("review round %u of %s:\n%s", rounds, topic, draft_of(&all, count)),
        .label = wf_format("review %u", rounds),
    });
    const char *review = wf_json_text(answer.json);
    if (!review) return answer;
    const char *verdict = review + strspn(review, " \t\r\n");
    if (strncasecmp(verdict, "ok", 2) == 0 || strncasecmp(verdict, "approved", 8) == 0) {
      wf_log(WF_INFO, "accepted in round %u", rounds);
      break;
    }
    if (rounds < ROUNDS) {
      all = write_sections(topic, review, count);
      if (!all.failure.json) return all.failure;
    }
  }
  const char *sections = wf_json_array(all.sections, count);
  wf_publish("draft", sections);

  wf_phase("approval");
  wf_result approval = wf_signal("approve", timeout_s * 1000);
  if (!approval.json && approval.kind != WF_TIMED_OUT) return approval;
  /* `ok` and, if there is one, `note`: null if nobody answered in time. */
  const char *ok = wf_json_get(approval.json, "ok"), *note = wf_json_get(approval.json, "note");
  const char *approved =
      approval.json ? wf_format("{\"ok\":%s,\"note\":%s}", ok ? ok : "false", note ? note : "null") : "null";
  return wf_ok(wf_format("{\"topic\":%s,\"outline\":%s,\"sections\":%s,\"rounds\":%u,\"approval\":%s}",
                         wf_json_string(topic), wf_json_string(outline), sections, rounds, approved));
}
