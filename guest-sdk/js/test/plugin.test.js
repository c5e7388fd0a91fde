import assert from "node:assert/strict";
import { test } from "node:test";

import { Failure, Reply, plugin } from "../plugin.js";

const run = (body) => plugin(body).run({ prompt: "p" });

/** The failure of an attempt, as the host gets it. */
function failure(body) {
  try {
    run(body);
  } catch (thrown) {
    return thrown;
  }
  assert.fail("it did not fail");
}

test("an answer is not lost over a number that is none of the host's", () => {
  const usage = { inputTokens: 185.1, outputTokens: "12", cachedTokens: NaN, costMicros: -3 };
  const expected = { inputTokens: 185n, outputTokens: 12n, cachedTokens: 0n, costMicros: 0n };
  assert.deepEqual(run(() => new Reply("fine", { usage })).usage, expected);
  assert.deepEqual(run(() => new Reply("fine", { usage: { costMicros: Infinity } })).usage.costMicros, 2n ** 53n - 1n);
  assert.deepEqual(run(() => new Reply("fine", { usage: { costMicros: 2n ** 60n } })).usage.costMicros, 2n ** 60n);
  const thrown = failure(() => {
    throw new Failure("unavailable", "later", { retryAfter: 1500.2, usage });
  });
  assert.deepEqual([thrown.kind, thrown.retryAfter, thrown.usage], ["unavailable", 1501n, expected]);
});

test("an answer has its output, and any error is a failure", () => {
  assert.equal(run(() => ({ a: 1 })).output, '{"a":1}');
  assert.equal(run(() => undefined).output, "null");
  assert.deepEqual([failure(() => null.x).kind, failure(() => null.x).retryAfter], ["failed", undefined]);
});
