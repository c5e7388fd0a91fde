// A durable workflow: whatever happens to the machine, no completed step is executed twice.

import { agent, log, sleep, workflow } from "wfhost";

export const run = workflow(async ({ name = "world" }: { name?: string }) => {
  const greeting = await agent(`greet ${name}`);
  // The deadline survives crashes.
  await sleep(1000);
  log.info("greeted", { name });
  return { greeting };
});
