// The scenarios of tests/guests/behaviours in TypeScript.

import {
  Failure,
  agent,
  ask,
  budget,
  cancelled,
  child,
  info,
  log,
  now,
  parallelMap,
  patched,
  phase,
  post,
  publish,
  quorum,
  race,
  retry,
  rounds,
  saga,
  send,
  signal,
  sleep,
  timeout,
  workflow,
} from "wfhost";
import { z } from "zod";

const Review = z.object({ accepted: z.boolean(), notes: z.array(z.string()) });
const Input = z.object({ scenario: z.string(), n: z.number().default(0) });
type Input = z.infer<typeof Input>;

async function kind(body: PromiseLike<unknown> | (() => unknown)): Promise<string> {
  try {
    await (typeof body === "function" ? body() : body);
    return "none";
  } catch (error) {
    if (Failure.is(error)) return error.kind;
    throw error;
  }
}

async function pipeline(name: string): Promise<string> {
  const draft = await agent(`${name}1`);
  return await agent(`${name}2 ${draft}`);
}

const undo = (booking: string) => agent(`undo ${booking}`);

const scenarios: Record<string, (input: Input) => Promise<unknown>> = {
  async conversation() {
    const first = await agent.reply<string>("first", { session: "s1" });
    const second = await agent.reply<string>("second", { session: first.session });
    const { inputTokens = 0, outputTokens = 0, cachedTokens = 0, costMicros = 0 } = first.usage ?? {};
    return {
      outputs: [first.output, second.output],
      session: second.session,
      usage: [inputTokens, outputTokens, cachedTokens, costMicros],
      provider: first.provider,
    };
  },
  async typed() {
    const review = await agent("review", { schema: Review });
    return { review, bad: await kind(agent("words", { schema: Review, once: true })) };
  },
  async once() {
    return { kind: await kind(agent("pay", { once: true })) };
  },
  async request() {
    return await agent("p", {
      input: { a: 1 },
      label: "l",
      group: "g",
      retry: { maxAttempts: 5, fatal: ["unavailable"] },
      limits: { attempt: 60_000, total: 90_000, heartbeat: 30_000 },
      options: { t: 0 },
    });
  },
  async cache() {
    return await agent("costly", { cache: { version: "v1", ttl: 3_600_000 } });
  },
  together: () => Promise.all([pipeline("a"), pipeline("b")]),
  async race() {
    const { index, value } = await race<unknown>([() => sleep(60_000), () => agent("b"), () => signal("never")]);
    return [index, value];
  },
  async quorum() {
    const votes = await quorum(2, ["bad", "slow", "fast"].map((name) => agent(name)));
    try {
      await quorum(2, ["bad", "bad too", "fast"].map((name) => agent(name)));
    } catch (error) {
      if (!Failure.is(error)) throw error;
      return { votes: votes.map(({ index, value }) => [index, value]), message: error.message, details: error.details };
    }
  },
  map: () =>
    parallelMap([0, 1, 2, 3, 4], 2, async (item) => {
      const draft = await agent(`draft ${item}`);
      return await agent(`polish ${draft}`);
    }),
  async timeout() {
    return { kind: await kind(timeout(5, () => signal("never"))) };
  },
  async cancel() {
    const step = sleep(60_000);
    const answer = await agent("meanwhile");
    step.cancel();
    return answer;
  },
  retry: () =>
    retry({ maxAttempts: 3, initial: 1, jitter: 0 }, (attempt) => agent(`try ${attempt}`, { retry: { maxAttempts: 1 } })),
  rounds: (input) =>
    rounds(2, input, async ({ scenario, n }) => {
      await agent(`round ${n}`);
      return n === 4 ? { done: { rounds: n } } : { next: { scenario, n: n + 1 } };
    }),
  saga: () =>
    saga(async (trip) => {
      await trip.step("flight", () => agent("book flight"), undo);
      await trip.step("hotel", () => agent("book hotel"), undo);
      trip.undo("car", () => {
        throw new Failure("failed", "there is no car");
      });
      throw new Failure("rejected", "no", { details: { own: 1 } });
    }),
  stopped: () =>
    saga(async (trip) => {
      await trip.step("flight", () => agent("book flight"), undo);
      return await signal("go");
    }),
  async child() {
    const value = await child("behaviours", { scenario: "echo", n: 7 }, { id: "kid", labels: { k: "v" } });
    return { value, missing: await kind(child("no-such")) };
  },
  echo: async ({ n }) => ({ n }),
  async budget() {
    const before = budget();
    await agent("first");
    const after = budget();
    return { before: [before.spent, before.remaining], after: [after.spent, after.remaining] };
  },
  async facts() {
    const { run, workflow, labels, attempt, parent = null, started } = info();
    phase("looking");
    publish("progress", { done: 3 });
    post("chapter", { title: "one" });
    log.warn("careful", { who: "Ada", step: 3 });
    return {
      run,
      workflow,
      labels,
      attempt,
      parent,
      patched: patched("x"),
      cancelled: cancelled(),
      clock: now() >= started,
      gone: await kind(() => send("no-such-run", "go", 1)),
    };
  },
  async ask() {
    const colour = await ask("which colour?", { choices: ["red", "green"], details: { why: 1 } });
    const refused = await kind(ask("really?"));
    return { colour, refused, late: await kind(ask("anybody?", { timeout: 1 })) };
  },
  async sleep() {
    await sleep(2);
    await sleep.until(1);
    return { long: await kind(sleep(2 ** 40 * 1000)) };
  },
  async fail() {
    throw new Failure("unavailable", "nobody is there", { details: { why: [1] } });
  },
  async broken() {
    await agent("first");
    throw new TypeError("not like this");
  },
};

export const run = workflow(
  (input) => {
    const scenario = scenarios[input.scenario];
    if (!scenario) throw new Failure("rejected", `there is no scenario ${input.scenario}`);
    return scenario(input);
  },
  { input: Input },
);
