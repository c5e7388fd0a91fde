// Compiles, or the types are wrong: `npx tsc -p test`.

import { z } from "zod";

import {
  Failure,
  agent,
  ask,
  budget,
  child,
  firstOk,
  log,
  parallelMap,
  race,
  retry,
  rounds,
  saga,
  signal,
  sleep,
  spawn,
  timeout,
  workflow,
} from "wfhost";
import type { Reply, Step } from "wfhost";

const Review = z.object({ accepted: z.boolean(), notes: z.array(z.string()) });

function is<T>(_: T): void {}

export const run = workflow(
  async ({ topic }) => {
    is<string>(topic);
    const text = await agent(`write about ${topic}`, { once: true, retry: { fatal: ["rejected", "closed"] } });
    is<string>(text);
    const review = await agent("review it", { schema: Review });
    is<boolean>(review.accepted);
    // @ts-expect-error: it has no such member
    review.refused;
    is<Reply<{ accepted: boolean }>>(await agent.reply("again", { schema: Review }));
    is<number>((await agent.json<{ n: number }>("count")).n);
    const [a, b] = await Promise.all([agent("a"), sleep(1)]);
    is<[string, void]>([a, b]);
    is<{ index: number; value: string | void }>(await race<string | void>([agent("a"), () => sleep(1)]));
    is<string>(await timeout(1000, async () => agent("b")));
    is<string>(await firstOk(["x", "y"].map((provider) => agent("c", { provider }))));
    is<string[]>(await parallelMap(["x"], 2, (item) => agent(item)));
    is<string>(await retry({ maxAttempts: 2 }, async (attempt) => agent(`try ${attempt}`)));
    is<number>(await rounds(10, { n: 1 }, async ({ n }) => (n > 3 ? { done: n } : { next: { n: n + 1 } })));
    is<string>(await saga(async (trip) => trip.step("a", agent("a"), (booking) => agent(`undo ${booking}`))));
    is<{ ok: boolean }>(await signal("approve", { schema: z.object({ ok: z.boolean() }), timeout: 5 }));
    is<string>(await ask<string>("which?", { choices: ["a"] }));
    is<number[]>(await child("crawl", { topic }, { onClose: "abandon", schema: z.array(z.number()) }));
    const step: Step<string> = agent("later");
    step.cancel();
    spawn(() => step).cancel();
    // @ts-expect-error: fields are an object
    log.info("x", 7);
    log.info("left", { tokens: budget().remaining });
    // @ts-expect-error: there is no such kind
    throw new Failure("broken", "x");
  },
  { input: z.object({ topic: z.string() }) },
);
