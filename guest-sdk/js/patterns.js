// Several things at the same time, and the same again.

import * as context from "wfhost:workflow/context@0.1.0";
import * as logging from "wfhost:workflow/log@0.1.0";
import * as sleeps from "wfhost:workflow/sleep@0.1.0";

import { Failure, describeError, failureOf } from "./failure.js";
import { Step, Task } from "./loop.js";
import { RETRY, allowsAnother, delay, length } from "./policy.js";

function pause(millis) {
  return new Step(
    () => sleeps.startFor(millis),
    () => undefined,
  );
}

export function spawn(body) {
  return new Task(body);
}

/** What a contestant is: functions are begun, everything else has begun already. */
function begin(contestant) {
  return typeof contestant === "function" ? new Task(contestant) : contestant;
}

function cancel(contestant) {
  if (contestant instanceof Task || contestant instanceof Step) contestant.cancel(lost);
}

const lost = new Failure("cancelled", "another one was first");

/** Waits for all; `decide` is told of each that ends, and may settle the whole. The others are cancelled. */
function contest(contestants, decide) {
  const running = [];
  return new Promise((resolve, reject) => {
    let over = false;
    const end = (settle) => (value) => {
      if (over) return;
      over = true;
      settle(value);
      running.forEach(cancel);
    };
    const decided = { resolve: end(resolve), reject: end(reject) };
    for (const contestant of contestants) running.push(begin(contestant));
    running.forEach((contestant, index) => {
      Promise.resolve(contestant).then(
        (value) => over || decide({ index, value }, decided),
        (error) => over || decide({ index, error }, decided),
      );
    });
  });
}

export function race(contestants) {
  return contest(contestants, (ended, { resolve, reject }) => {
    if ("error" in ended) reject(ended.error);
    else resolve(ended);
  });
}

export async function quorum(count, contestants) {
  const all = [...contestants];
  if (!(all.length >= count && count > 0)) {
    // Those that have begun already are of no use.
    all.forEach(cancel);
    if (count <= 0) return [];
    throw new Failure("rejected", `${count} successes are asked for, of ${all.length} tries`);
  }
  const successes = [];
  const failures = [];
  return contest(all, (ended, { resolve, reject }) => {
    if (!("error" in ended)) {
      successes.push(ended);
      if (successes.length >= count) resolve(successes);
      return;
    }
    const { kind, message } = failureOf(ended.error);
    failures.push({ index: ended.index, kind, message });
    if (all.length - failures.length < count) {
      const tries = `${failures.length} of ${all.length} tries failed, ${count} have to succeed: ${message}`;
      reject(new Failure(kind, tries, { details: { failures } }));
    }
  });
}

export async function firstOk(contestants) {
  const [first] = await quorum(1, contestants);
  return first.value;
}

export async function timeout(millis, contestant) {
  let most;
  try {
    most = length(millis ?? NaN, "time limit");
  } catch (error) {
    cancel(contestant);
    throw error;
  }
  const running = begin(contestant);
  const limit = pause(most);
  const { index, value } = await race([running, limit]);
  if (index === 1) throw new Failure("timed-out", "the time limit passed");
  return value;
}

/** How many may run at the same time, at least one. */
function atLeastOne(limit) {
  return Math.max(Number(limit) || 1, 1);
}

export function parallelMap(items, limit, body) {
  const most = atLeastOne(limit);
  const running = new Set();
  const results = [];
  return new Promise((resolve, reject) => {
    const iterator = items[Symbol.iterator]();
    let over = false;
    let exhausted = false;
    const fail = (error) => {
      if (over) return;
      over = true;
      reject(error);
      running.forEach(cancel);
    };
    const fill = () => {
      while (!over && !exhausted && running.size < most) {
        const { done, value: item } = iterator.next();
        if (done) {
          exhausted = true;
          break;
        }
        const index = results.length;
        results.push(undefined);
        const task = new Task(() => body(item, index));
        running.add(task);
        task
          .then((result) => {
            running.delete(task);
            results[index] = result;
            fill();
          })
          .catch((error) => {
            running.delete(task);
            fail(error);
          });
      }
      if (!over && exhausted && running.size === 0) {
        over = true;
        resolve(results);
      }
    };
    fill();
  });
}

export class Semaphore {
  #free;
  #queue = [];

  constructor(limit) {
    this.#free = atLeastOne(limit);
  }

  async run(body) {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise((resolve) => this.#queue.push(resolve));
    try {
      return await body();
    } finally {
      const next = this.#queue.shift();
      if (next) next();
      else this.#free += 1;
    }
  }
}

export async function retry(policy, body) {
  const whole = { ...RETRY, ...policy };
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await body(attempt);
    } catch (error) {
      if (!allowsAnother(whole, attempt, failureOf(error))) throw error;
      logging.write("info", `attempt ${attempt} failed: ${describeError(error)}`, []);
      await pause(delay(whole, attempt, Number(context.random()) / 2 ** 64));
    }
  }
}
