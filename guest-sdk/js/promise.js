// Promises whose reactions run when the workflow's loop says so.
//
// A component's export is an ordinary call: it has to return its result, and the engine's own queue of
// reactions is not looked at before that. So promises are made here, and `wfhost build` has esbuild turn
// `async` and `await` into generators over them. The loop in `loop.js` runs the queue, and waits for the
// host when it is empty.
//
// A reaction runs in the scope in which it was registered, so an `async` function stays in the scope
// that it was called in, however often it waits. Scopes are what `race`, `timeout` and `spawn` cancel.

const PENDING = 0;
const FULFILLED = 1;
const REJECTED = 2;

let queue = [];
let scope;

/** The scope of what runs now; none outside of a workflow. */
export function currentScope() {
  return scope;
}

/** Calls a function within a scope. */
export function within(inner, body) {
  const outer = scope;
  scope = inner;
  try {
    return body();
  } finally {
    scope = outer;
  }
}

/** Has a function called later, in the scope of now. */
export function enqueue(job) {
  queue.push({ job, scope });
}

/** Runs what is queued, and what that queues, to the end. */
export function runJobs() {
  while (queue.length > 0) {
    const jobs = queue;
    queue = [];
    for (const { job, scope: inner } of jobs) within(inner, job);
  }
}

/** Promises that were rejected while nothing handled it, in the order in which they were. */
const unhandled = new Set();

/** The reasons of rejections that nothing has handled since this was asked. */
export function takeUnhandled() {
  const reasons = [...unhandled].map((promise) => WorkflowPromise.reason(promise));
  unhandled.clear();
  return reasons;
}

function isThenable(value) {
  return value !== null && (typeof value === "object" || typeof value === "function") && "then" in value;
}

/** As ECMAScript has it. */
export class WorkflowPromise {
  #state = PENDING;
  #value;
  #reactions = [];
  #handled = false;

  constructor(executor) {
    if (typeof executor !== "function") throw new TypeError("a promise needs a function");
    let called = false;
    const once = (settle) => (value) => {
      if (called) return;
      called = true;
      settle(value);
    };
    const reject = once((reason) => this.#settle(REJECTED, reason));
    try {
      executor(
        once((value) => this.#resolve(value)),
        reject,
      );
    } catch (error) {
      reject(error);
    }
  }

  static reason(promise) {
    return promise.#value;
  }

  #resolve(value) {
    if (value === this) return this.#settle(REJECTED, new TypeError("a promise cannot wait for itself"));
    let then;
    try {
      then = isThenable(value) ? value.then : undefined;
    } catch (error) {
      return this.#settle(REJECTED, error);
    }
    if (typeof then !== "function") return this.#settle(FULFILLED, value);
    enqueue(() => {
      let called = false;
      const once = (settle) => (result) => {
        if (called) return;
        called = true;
        settle(result);
      };
      const reject = once((reason) => this.#settle(REJECTED, reason));
      try {
        then.call(
          value,
          once((result) => this.#resolve(result)),
          reject,
        );
      } catch (error) {
        reject(error);
      }
    });
  }

  #settle(state, value) {
    this.#state = state;
    this.#value = value;
    if (state === REJECTED && !this.#handled) unhandled.add(this);
    const reactions = this.#reactions;
    this.#reactions = undefined;
    for (const reaction of reactions) within(reaction.scope, () => enqueue(() => reaction.run(state, value)));
  }

  then(onFulfilled, onRejected) {
    this.#handled = true;
    unhandled.delete(this);
    const Species = this.constructor?.[Symbol.species] ?? WorkflowPromise;
    return new Species((resolve, reject) => {
      const run = (state, value) => {
        const handler = state === FULFILLED ? onFulfilled : onRejected;
        if (typeof handler !== "function") return state === FULFILLED ? resolve(value) : reject(value);
        let result;
        try {
          result = handler(value);
        } catch (error) {
          return reject(error);
        }
        resolve(result);
      };
      if (this.#state === PENDING) this.#reactions.push({ run, scope });
      else enqueue(() => run(this.#state, this.#value));
    });
  }

  catch(onRejected) {
    return this.then(undefined, onRejected);
  }

  finally(onFinally) {
    if (typeof onFinally !== "function") return this.then(onFinally, onFinally);
    const after = (result) => this.constructor.resolve(onFinally()).then(result);
    return this.then(
      (value) => after(() => value),
      (reason) =>
        after(() => {
          throw reason;
        }),
    );
  }

  static get [Symbol.species]() {
    return this;
  }

  get [Symbol.toStringTag]() {
    return "Promise";
  }

  static resolve(value) {
    if (value instanceof WorkflowPromise && value.constructor === this) return value;
    return new this((resolve) => resolve(value));
  }

  static reject(reason) {
    return new this((_, reject) => reject(reason));
  }

  static try(body, ...values) {
    return new this((resolve) => resolve(body(...values)));
  }

  static withResolvers() {
    const made = {};
    made.promise = new this((resolve, reject) => Object.assign(made, { resolve, reject }));
    return made;
  }

  static all(values) {
    return WorkflowPromise.#collect(this, values, (promise, index, { settle, reject }) =>
      promise.then((value) => settle(index, value), reject),
    );
  }

  static allSettled(values) {
    return WorkflowPromise.#collect(this, values, (promise, index, { settle }) =>
      promise.then(
        (value) => settle(index, { status: "fulfilled", value }),
        (reason) => settle(index, { status: "rejected", reason }),
      ),
    );
  }

  static any(values) {
    return new this((resolve, reject) => {
      const failures = WorkflowPromise.#collect(this, values, (promise, index, { settle }) =>
        promise.then(resolve, (reason) => settle(index, reason)),
      );
      failures.then((errors) => reject(new AggregateError(errors, "all promises were rejected")), reject);
    });
  }

  static race(values) {
    return new this((resolve, reject) => {
      for (const value of values) this.resolve(value).then(resolve, reject);
    });
  }

  /** A list that is complete when each of its places was settled. */
  static #collect(Species, values, watch) {
    return new Species((resolve, reject) => {
      const results = [];
      // One more, so that it does not end while it is being filled.
      let left = 1;
      const settle = (index, value) => {
        results[index] = value;
        left -= 1;
        if (left === 0) resolve(results);
      };
      let count = 0;
      for (const value of values) {
        const index = count;
        count += 1;
        left += 1;
        results.push(undefined);
        watch(Species.resolve(value), index, { settle, reject });
      }
      left -= 1;
      if (left === 0) resolve(results);
    });
  }
}
