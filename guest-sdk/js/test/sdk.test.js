import assert from "node:assert/strict";
import { test } from "node:test";

import { z } from "zod";

import {
  Failure,
  Semaphore,
  agent,
  ask,
  budget,
  cancelled,
  child,
  firstOk,
  info,
  log,
  parallelMap,
  post,
  quorum,
  race,
  retry,
  rounds,
  saga,
  send,
  signal,
  sleep,
  spawn,
  timeout,
  workflow,
} from "../wfhost.js";
import { delay } from "../policy.js";
import { clearTimeout, setTimeout } from "../timers.js";
import { host, reset, stop, story } from "./host.js";

function run(body, given, input = null) {
  reset(given);
  return JSON.parse(workflow(body)(JSON.stringify(input)));
}

/** The failure of a run, as the host gets it. */
function failure(body, given, options) {
  reset(given);
  try {
    workflow(body, options)("null");
  } catch (thrown) {
    return thrown;
  }
  assert.fail("it did not fail");
}

test("an async workflow gives its result, and a rejection fails it", () => {
  const output = run(async (input) => {
    const greeting = await agent(`greet ${input.name}`);
    await sleep(1000);
    return { greeting };
  }, {}, { name: "Ada" });
  assert.deepEqual(output, { greeting: "greet Ada" });
  assert.deepEqual(story, ["start agent greet Ada", "start sleep 1000"]);

  const thrown = failure(async () => {
    await sleep(1);
    throw new TypeError("not like this");
  });
  assert.equal(thrown.kind, "failed");
  assert.equal(thrown.message, "TypeError: not like this");
  assert.match(JSON.parse(thrown.details).stack, /\w/);
});

test("a workflow may be an ordinary function, and may give nothing", () => {
  assert.equal(run(() => 7), 7);
  assert.equal(run(() => agent("a")), "a");
  assert.equal(run(() => agent("a").get() + agent("b").get()), "ab");
  assert.equal(run(async () => {}), null);
  assert.equal(failure(() => ({ big: 1n })).kind, "rejected");
});

test("failures keep everything on the way from the host and back", () => {
  const given = { answers: { a: { fail: ["budget-exceeded", "spent", '{"tokens":7}'] } } };
  const thrown = failure(async () => await agent("a"), given);
  assert.deepEqual(thrown, { kind: "budget-exceeded", message: "spent", details: '{"tokens":7}', attempts: 1 });
  const caught = run(async () => {
    try {
      await agent("a");
    } catch (error) {
      return [Failure.is(error), Failure.is(error, "failed", "budget-exceeded"), Failure.is(error, "failed"), error.details];
    }
  }, given);
  assert.deepEqual(caught, [true, true, false, { tokens: 7 }]);
  const unknown = new Failure("failed", "x", { details: { reason: "unknown-outcome" } });
  assert.equal(unknown.isOutcomeUnknown, true);
});

test("a rejection that nothing handles fails the run", () => {
  const thrown = failure(async () => {
    const forget = async () => {
      await sleep(1);
      throw new Error("lost");
    };
    forget();
    await sleep(10);
    return "fine";
  });
  assert.equal(thrown.message, "Error: lost");
  const handled = run(async () => {
    const failing = (async () => {
      throw new Error("seen");
    })();
    await sleep(1);
    return failing.catch((error) => error.message);
  });
  assert.equal(handled, "seen");
});

test("steps are awaited like promises", () => {
  const given = { answers: { slow: { at: 50 }, fast: { at: 5 }, bad: { at: 2, fail: ["failed", "no"] } } };
  const output = run(async () => {
    const order = [];
    const all = await Promise.all(["slow", "fast"].map((name) => agent(name).then((text) => (order.push(text), text))));
    const settled = await Promise.allSettled([agent("bad"), agent("fast")]);
    const first = await Promise.race([sleep(60), agent("fast")]);
    const any = await Promise.any([agent("bad"), agent("slow")]);
    const caught = await agent("bad").catch((error) => error.kind);
    return { all, order, settled: settled.map(({ status }) => status), first, any, caught };
  }, given);
  assert.deepEqual(output, {
    all: ["slow", "fast"],
    order: ["fast", "slow"],
    settled: ["rejected", "fulfilled"],
    first: "fast",
    any: "slow",
    caught: "failed",
  });
});

test("pipelines go on beside each other", () => {
  run(
    async () => {
      const pipeline = async (name) => {
        await agent(`${name}1`);
        await agent(`${name}2`);
      };
      await Promise.all([pipeline("a"), pipeline("b")]);
    },
    { answers: { a1: { at: 10 }, b1: { at: 1 } } },
  );
  const started = ["a1", "b1", "b2", "a2"].map((name) => `start agent ${name}`);
  assert.deepEqual(story, started);
});

test("async generators and for await work", () => {
  const output = run(async () => {
    async function* numbers() {
      for (let number = 0; number < 3; number += 1) {
        await sleep(1);
        yield number;
      }
    }
    const seen = [];
    for await (const number of numbers()) seen.push(number);
    return [seen, await Array.fromAsync(numbers(), (number) => number * 2), await Array.fromAsync([agent("a"), "b"])];
  });
  assert.deepEqual(output, [[0, 1, 2], [0, 2, 4], ["a", "b"]]);
});

test("a step that is cancelled fails, and its host is told", () => {
  const kind = run(async () => {
    const step = sleep(1000);
    const waited = step.catch((error) => error.kind);
    step.cancel();
    step.cancel();
    return waited;
  });
  assert.equal(kind, "cancelled");
  assert.deepEqual(story, ["start sleep 1000", "cancel sleep 1000"]);
});

test("the first to end wins the race, and the others are cancelled with all that they began", () => {
  const output = run(async () => {
    let cleaned = false;
    const won = await race([
      async () => {
        try {
          await sleep(100);
          await agent("never asked");
        } finally {
          cleaned = true;
        }
      },
      () => agent("fast"),
      signal("never"),
    ]);
    await sleep(1);
    return { won, cleaned };
  });
  assert.deepEqual(output, { won: { index: 1, value: "fast" }, cleaned: true });
  assert.deepEqual(story.slice(3, 5).sort(), ["cancel sleep 100", "cancel signal never"].sort());
  assert.ok(!story.includes("start agent never asked"));
});

test("a race whose first one fails fails", () => {
  const given = { answers: { bad: { at: 1, fail: ["unavailable", "out"] } } };
  assert.equal(failure(() => race([agent("bad"), sleep(50)]), given).kind, "unavailable");
});

test("failures do not count while there is hope", () => {
  const given = {
    answers: { a: { at: 1, fail: ["failed", "x"] }, b: { at: 3 }, c: { at: 2 }, d: { at: 9, fail: ["failed", "y"] } },
  };
  const ask = (names) => [...names].map((name) => () => agent(name));
  assert.equal(run(() => firstOk(ask("abcd")), given), "c");
  assert.deepEqual(run(() => quorum(2, ask("abcd")), given), [
    { index: 2, value: "c" },
    { index: 1, value: "b" },
  ]);
  const thrown = failure(() => quorum(2, ask("abd")), given);
  assert.equal(thrown.message, "2 of 3 tries failed, 2 have to succeed: y");
  assert.deepEqual(JSON.parse(thrown.details).failures[0], { index: 0, kind: "failed", message: "x" });
  assert.equal(failure(() => firstOk([])).kind, "rejected");
});

test("what has begun for a quorum that is none is cancelled", () => {
  const begun = async (count) => {
    const steps = [agent("a"), agent("b")];
    return quorum(count, steps);
  };
  assert.equal(failure(() => begun(3)).kind, "rejected");
  assert.deepEqual(story.slice(2), ["cancel agent a", "cancel agent b"]);
  assert.deepEqual(run(() => begun(0)), []);
  assert.deepEqual(story.slice(2), ["cancel agent a", "cancel agent b"]);
});

test("a time limit cancels what exceeds it", () => {
  assert.equal(failure(() => timeout(5, () => agent("slow")), { answers: { slow: { at: 50 } } }).kind, "timed-out");
  assert.deepEqual(story, ["start agent slow", "start sleep 5", "cancel agent slow"]);
  assert.equal(run(() => timeout(50, agent("fast"))), "fast");
  assert.ok(story.includes("cancel sleep 50"));
});

test("no more run than allowed, and results are in the order of the items", () => {
  const given = { answers: { 0: { at: 30 }, 1: { at: 1 }, 2: { at: 1 }, 3: { at: 1 } } };
  const output = run(() => parallelMap([0, 1, 2, 3], 2, async (item) => Number(await agent(String(item))) * 2), given);
  assert.deepEqual(output, [0, 2, 4, 6]);
  assert.deepEqual(run(() => parallelMap([], 2, () => 1)), []);
  given.answers[1] = { at: 1, fail: ["failed", "no"] };
  assert.equal(failure(() => parallelMap([0, 1, 2, 3], 2, (item) => agent(String(item))), given).message, "no");
  assert.deepEqual(story, ["start agent 0", "start agent 1", "cancel agent 0"]);
});

test("a semaphore gives turns in the order of asking", () => {
  run(async () => {
    const semaphore = new Semaphore(1);
    await Promise.all(["a", "b", "c"].map((name) => semaphore.run(() => agent(name))));
  });
  assert.deepEqual(story, ["start agent a", "start agent b", "start agent c"]);
});

test("a task is cancelled with all that it began, and begins no more", () => {
  const kind = run(async () => {
    const task = spawn(async () => {
      await Promise.all([sleep(10), (async () => sleep(20))()]);
    });
    await sleep(1);
    task.cancel();
    return task.then(undefined, (error) => error.kind);
  });
  assert.equal(kind, "cancelled");
  assert.deepEqual(story.slice(3), ["cancel sleep 10", "cancel sleep 20"]);
});

test("a block is tried again with delays, unless the failure would come again", () => {
  const given = { answers: { flaky: { fail: ["failed", "no"] } }, randoms: [2n ** 63n, 2n ** 63n] };
  const thrown = failure(() => retry({ maxAttempts: 3 }, () => agent("flaky")), given);
  assert.equal(thrown.message, "no");
  assert.deepEqual(
    story.filter((line) => line.startsWith("start sleep")),
    ["start sleep 1000", "start sleep 2000"],
  );
  const rejected = { answers: { bad: { fail: ["rejected", "no"] } } };
  failure(() => retry({}, () => agent("bad")), rejected);
  assert.deepEqual(story, ["start agent bad"]);
});

test("delays are those of the host", () => {
  const policy = { initial: 1000, factor: 3, max: 60_000, jitter: 0 };
  assert.deepEqual([1, 2, 3, 4, 5, 2000].map((attempt) => delay(policy, attempt, 0.5)), [1000, 3000, 9000, 27_000, 60_000, 60_000]);
  assert.equal(delay({ ...policy, jitter: 0.5 }, 1, 0), 500);
  assert.equal(delay({ ...policy, jitter: 0.5 }, 5, 1), 60_000);
  assert.equal(delay({ ...policy, initial: 0, factor: Infinity }, 3, 0.5), 0);
});

test("rounds continue as new after so many steps", () => {
  const body = (state) => rounds(2, state, async (round) => {
    await sleep(1);
    return round === 5 ? { done: round } : { next: round + 1 };
  });
  failure(body.bind(null, 1));
  assert.equal(story.at(-1), "again 3");
  assert.equal(run(body.bind(null, 5)), 5);
});

test("what was done is undone in the reverse order, and the failure says so", () => {
  const thrown = failure(() =>
    saga(async (trip) => {
      await trip.step("flight", () => agent("book flight"), (booking) => agent(`cancel ${booking}`));
      trip.undo("hotel", () => {
        throw new Error("no");
      });
      throw new Failure("failed", "no car", { details: { own: 1 } });
    }),
  );
  assert.equal(thrown.message, "no car");
  assert.deepEqual(JSON.parse(thrown.details), {
    own: 1,
    saga: { undone: ["flight"], not_undone: [{ step: "hotel", kind: "failed", message: "Error: no" }] },
  });
  assert.ok(story.includes("start agent cancel book flight"));
});

test("what lost a race is undone to its end, beside the rest", () => {
  const output = run(async () => {
    const { index } = await race([
      () =>
        saga(async (trip) => {
          await trip.step("a", agent("do"), async () => {
            await sleep(50);
            await agent("undo");
          });
          await sleep(1000);
        }),
      () => sleep(10),
    ]);
    return index;
  });
  assert.equal(output, 1);
  assert.equal(story.at(-1), "start agent undo");
});

/** A trip whose hotel is booked, and which then goes on with something. */
const trip = (goOn) =>
  saga(async (trip) => {
    await trip.step("hotel", () => agent("book hotel"), () => agent("cancel hotel"));
    return goOn(trip);
  });

const count = (line) => story.filter((other) => other === line).length;

test("a saga that still waits when the workflow ends is cancelled and undone", () => {
  const given = { answers: { broken: { at: 10, fail: ["failed", "no"] } } };
  const thrown = failure(() => Promise.all([trip(() => signal("never")), agent("broken")]), given);
  assert.equal(thrown.message, "no");
  assert.deepEqual(story.slice(-3), ["start signal never", "cancel signal never", "start agent cancel hotel"]);
  // Where nothing fails it is the same.
  const spawned = async () => {
    spawn(() => trip(() => signal("never")));
    await sleep(10);
    return "done";
  };
  assert.equal(run(spawned), "done");
  assert.equal(count("start agent cancel hotel"), 1);
  // What is begun in a part that has ended is a part of the whole.
  const nested = async () => {
    await spawn(async () => void trip(() => new Promise(() => {})));
    await sleep(10);
    return "done";
  };
  assert.equal(run(nested), "done");
  assert.equal(count("start agent cancel hotel"), 1);
});

test("the end of a workflow undoes the inner sagas first, each to its end", () => {
  const never = () => new Promise(() => {});
  const body = async () => {
    saga(async (outer) => {
      outer.undo("outer", () => agent("undo outer"));
      await saga(async (inner) => {
        inner.undo("inner", async () => {
          await sleep(50);
          await saga(async (within) => {
            within.undo("within", () => agent("undo within"));
            await sleep(5);
            throw new Error("of the compensation");
          }).catch(() => {});
          await agent("undo inner");
        });
        await never();
      });
    });
    await sleep(1);
  };
  run(body);
  assert.deepEqual(story, [
    "start sleep 1",
    "start sleep 50",
    "start sleep 5",
    "start agent undo within",
    "start agent undo inner",
    "start agent undo outer",
  ]);
});

test("the end of a workflow leaves the parts alone that have no saga", () => {
  // This one would never end if its steps failed at once.
  const poll = async () => {
    for (;;) await sleep(20).catch(() => {});
  };
  run(async () => {
    poll();
    trip(() => signal("never"));
    await sleep(10);
  });
  assert.equal(count("cancel sleep 20"), 0);
  assert.equal(count("start agent cancel hotel"), 1);
  // Nor is anything cancelled where no saga waits.
  run(() => Promise.race([sleep(50), agent("fast")]));
  assert.deepEqual(story, ["start sleep 50", "start agent fast"]);
});

test("a saga that is cancelled is undone although it waits for something that is not its own", () => {
  const limited = (goOn) => async () => {
    const semaphore = new Semaphore(1);
    semaphore.run(() => sleep(500)).then(() => post("free"));
    const begun = agent("of others");
    const what = { semaphore, begun };
    const kind = await timeout(10, () => trip((trip) => goOn(what, trip))).catch((error) => error.kind);
    await sleep(1000);
    return kind;
  };
  const given = { answers: { "of others": { at: 100 } } };
  const waits = limited(({ semaphore }) => semaphore.run(() => agent("never asked")));
  assert.equal(run(waits, given), "timed-out");
  assert.equal(count("start agent cancel hotel"), 1);
  assert.equal(count("start agent never asked"), 0);
  assert.ok(story.indexOf("start agent cancel hotel") < story.indexOf("post free null"));
  // What it was given is cancelled as well.
  assert.equal(run(limited(({ begun }, trip) => trip.step("x", begun, () => {})), given), "timed-out");
  assert.equal(count("start agent cancel hotel"), 1);
  assert.equal(count("cancel agent of others"), 1);
  // Nothing is begun afterwards, and what was under way is undone when it is there.
  const late = limited(async ({ begun }, trip) => {
    await trip.step("car", async () => void (await begun), () => agent("cancel car"));
    await trip.step("boat", () => 1, () => agent("cancel boat"));
  });
  assert.equal(run(late, given), "timed-out");
  assert.equal(count("start agent cancel hotel"), 1);
  assert.equal(count("start agent cancel car"), 1);
  assert.equal(count("start agent cancel boat"), 0);
});

test("a step that is done after its saga has failed is undone as well", () => {
  const given = { answers: { slow: { at: 100 }, broken: { at: 10, fail: ["failed", "no"] } } };
  run(async () => {
    const trip = saga((trip) =>
      Promise.all([
        trip.step("car", agent("slow"), () => agent("cancel car")),
        trip.step("hotel", agent("hotel"), () => agent("cancel hotel")),
        agent("broken"),
      ]),
    );
    await trip.catch(() => {});
    await sleep(1000);
  }, given);
  assert.deepEqual(story.slice(3), ["start agent cancel hotel", "start sleep 1000", "start agent cancel car"]);
});

test("a saga that ends by itself when it is cancelled does so before it is undone", () => {
  run(async () => {
    const body = () =>
      saga(async (trip) => {
        trip.undo("a", () => agent("undo"));
        const other = agent("other");
        try {
          await sleep(1000);
        } finally {
          post("cleaned");
          await other;
        }
      });
    await race([body, () => sleep(10)]);
  }, { answers: { other: { at: 500 } } });
  const expected = ["cancel agent other", "cancel sleep 1000", "post cleaned null", "start agent undo"];
  assert.deepEqual(story.slice(-4).sort(), expected.sort());
  assert.equal(story.at(-1), "start agent undo");
});

test("a step that is refused is cancelled if it has begun", () => {
  const thrown = failure(() =>
    saga(async (trip) => {
      stop();
      await trip.step("a", agent("a"), () => agent("undo"));
    }),
  );
  assert.equal(thrown.kind, "cancelled");
  assert.deepEqual(story, ["start agent a", "cancel agent a"]);
  const task = () =>
    saga(async (trip) => {
      stop();
      await trip.step("a", spawn(() => agent("b")), () => {});
    });
  assert.equal(failure(task).kind, "cancelled");
  assert.deepEqual(story, ["start agent b", "cancel agent b"]);
});

test("details of any shape are no obstacle to a compensation", () => {
  for (const details of [null, [1], { saga: null }, { saga: "own" }, { saga: { undone: 7 } }]) {
    const thrown = failure(() =>
      saga(async (trip) => {
        trip.undo("a", () => {});
        throw new Failure("failed", "no", { details });
      }),
    );
    assert.deepEqual([thrown.message, JSON.parse(thrown.details).saga.undone], ["no", ["a"]]);
  }
});

test("nothing new is done when the run was asked to stop", () => {
  const thrown = failure(() =>
    saga(async (trip) => {
      stop();
      assert.equal(cancelled(), true);
      await trip.step("a", () => agent("a"), () => {});
    }),
  );
  assert.equal(thrown.kind, "cancelled");
  assert.deepEqual(story, []);
});

test("a request has everything that was said", () => {
  run(() =>
    agent("p", {
      input: { a: 1 },
      provider: "x",
      model: "m",
      session: "s",
      label: "l",
      group: "g",
      workspace: "w",
      retry: { maxAttempts: 5 },
      limits: { total: 1.5 },
      cache: { version: "v1", ttl: 9 },
      options: { t: 0 },
      schema: { type: "string" },
    }),
  );
  const { prompt, providers, input, retry: policy, limits, cache, options, schema, session } = host.lastRequest;
  assert.deepEqual(
    [prompt, providers, input, options, schema, session],
    ["p", ["x"], '{"a":1}', '{"t":0}', '{"type":"string"}', "s"],
  );
  assert.deepEqual(policy, { maxAttempts: 5, initial: 1000, factor: 2, max: 60000, jitter: 0.1, fatal: [] });
  assert.deepEqual([limits.attempt, limits.total, cache], [undefined, 2, { version: "v1", ttl: 9 }]);
  run(() => agent("p", { once: true, retry: { maxAttempts: 5 }, fork: "s" }));
  assert.equal(host.lastRequest.retry.maxAttempts, 1);
  assert.deepEqual(host.lastRequest.retry.fatal, ["unknown-outcome"]);
  assert.deepEqual([host.lastRequest.session, host.lastRequest.options], ["s", '{"fork":true}']);
  run(() => agent("p"));
  assert.equal(host.lastRequest.retry, undefined);
});

test("a reply has its session and its usage", () => {
  const whole = {
    output: "hi", session: "s1", model: "m", provider: "p",
    usage: { input_tokens: 3, output_tokens: 4, cached_tokens: 1, cost_micros: 9 },
  };
  const reply = run(() => agent.reply("a"), { answers: { a: { whole } } });
  assert.deepEqual(reply, {
    output: "hi", session: "s1", model: "m", provider: "p",
    usage: { inputTokens: 3, outputTokens: 4, cachedTokens: 1, costMicros: 9 },
  });
});

test("answers are text, data, or what a schema of zod says", () => {
  const answers = { data: { reply: { n: 1 } }, text: { reply: ' {"n": 1}' }, words: { reply: "sorry" } };
  const schema = z.object({ n: z.number().describe("how many") });
  assert.equal(run(() => agent("data"), { answers }), '{"n":1}');
  assert.deepEqual(run(() => agent.json("text"), { answers }), { n: 1 });
  assert.deepEqual(run(() => agent("text", { schema }), { answers }), { n: 1 });
  const sent = JSON.parse(host.lastRequest.schema);
  assert.deepEqual(sent.properties, { n: { type: "number", description: "how many" } });
  assert.equal(run(() => agent("words", { schema: z.string() }), { answers }), "sorry");
  // The host has read what the schema wants as data.
  answers.number = { reply: "5" };
  for (const string of [{ type: "string" }, z.string(), z.union([z.number(), z.string()])]) {
    assert.equal(run(() => agent("number", { schema: string }), { answers }), "5");
    assert.equal(run(() => agent.json("number", { schema: string }), { answers }), "5");
    assert.equal(run(() => agent.reply("number", { schema: string }), { answers }).output, "5");
  }
  assert.equal(run(() => agent.json("number"), { answers }), 5);
  const thrown = failure(() => agent("words", { schema }), { answers });
  assert.equal(thrown.kind, "invalid-output");
  assert.match(thrown.message, /^the answer does not fit: .*; it was: sorry$/);
  assert.match(failure(() => agent.json("words"), { answers }).message, /it was: sorry$/);
});

test("input, signals and results of children fit their schemas, or fail", () => {
  const input = z.object({ name: z.string() });
  reset();
  assert.throws(() => workflow(() => 1, { input })("{}"), (thrown) => {
    assert.equal(thrown.kind, "rejected");
    assert.match(thrown.message, /^the input does not fit: name: /);
    return true;
  });
  const given = { answers: { "signal go": { reply: "x" }, crawl: { reply: [1] } } };
  assert.equal(failure(() => signal("go", { schema: z.number() }), given).kind, "invalid-output");
  assert.deepEqual(run(() => child("crawl", { a: 1 }, { id: "c", labels: { k: "v" }, schema: z.array(z.number()) }), given), [1]);
  assert.deepEqual(host.lastChild, { id: "c", onClose: "cancel", labels: [["k", "v"]] });
});

test("what is no length of time is refused", () => {
  for (const length of [-1, NaN, "soon"]) assert.equal(failure(() => sleep(length)).kind, "rejected");
  assert.equal(failure(() => sleep(1e18)).kind, "rejected");
  run(() => sleep(0.2));
  assert.deepEqual(story, ["start sleep 1"]);
});

test("timers of the language are durable sleeps", () => {
  const output = run(async () => {
    const seen = [];
    setTimeout((text) => seen.push(text), 10, "ten");
    clearTimeout(setTimeout(() => seen.push("never"), 5));
    await sleep(20);
    return seen;
  });
  assert.deepEqual(output, ["ten"]);
  assert.ok(story.includes("cancel sleep 5"));
});

test("what is no limit does not leave anything running or waiting", () => {
  for (const limit of [-1, NaN, undefined]) {
    assert.equal(failure(() => timeout(limit, () => agent("a"))).kind, "rejected");
    assert.deepEqual(story, []);
    assert.equal(failure(() => timeout(limit, agent("a"))).kind, "rejected");
    assert.deepEqual(story, ["start agent a", "cancel agent a"]);
  }
  for (const limit of [undefined, NaN, 0, "many"]) {
    assert.deepEqual(run(() => parallelMap([1, 2], limit, (item) => item * 2)), [2, 4]);
    assert.equal(run(() => new Semaphore(limit).run(() => 7)), 7);
  }
  assert.deepEqual(run(() => quorum(-1, [agent("a")])), []);
  assert.equal(failure(() => quorum(NaN, [agent("a")])).kind, "rejected");
  assert.equal(run(() => quorum(1.5, [agent("a"), agent("b")])).length, 2);
});

test("what cannot be written as JSON is logged all the same", () => {
  const circular = {};
  circular.self = circular;
  run(() => {
    log.info("x", { n: 10n, list: [10n], circular, bare: Object.create(null, { toJSON: { value: () => 1n } }) });
    log.info(circular);
  });
  const fields = '[["n","10"],["list","10"],["circular","[object Object]"],["bare","object"]]';
  assert.deepEqual(story, [`info x ${fields}`, "info [object Object] []"]);
});

test("log lines have fields, and what is known about the run is there", () => {
  const output = run(() => {
    log.warn("careful", { step: 3, who: "Ada" });
    send("other", "go", { a: 1 });
    return [info().labels, info().started, budget()];
  });
  assert.deepEqual(output, [{ a: "b" }, "1970-01-01T00:00:00.007Z", { total: 10, spent: 3, remaining: 7 }]);
  assert.deepEqual(story, ['warn careful [["step","3"],["who","Ada"]]', 'send other go {"a":1}']);
  assert.equal(failure(() => send("gone", "go")).kind, "rejected");
  assert.equal(run(() => ask("ok?", { choices: ["yes"] }), { answers: { "ok?": { reply: "yes" } } }), "yes");
});
