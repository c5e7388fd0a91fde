/* A durable workflow: whatever happens to the machine, no completed step is executed twice. */
#include <wfhost.h>

wf_result workflow(const char *input) {
  const char *name = wf_json_text(wf_json_get(input, "name"));
  if (!name) name = "world";

  wf_result greeting = wf_agent((wf_request){.prompt = wf_format("greet %s", name)});
  if (!greeting.json) return greeting;

  /* The deadline survives crashes. */
  wf_result slept = wf_sleep(1000);
  if (!slept.json) return slept;

  wf_log(WF_INFO, "greeted %s", name);
  return wf_ok(wf_format("{\"greeting\":%s}", greeting.json));
}
