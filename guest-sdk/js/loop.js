// Steps as promises, the scopes that they belong to, and the loop that waits for the host.

import * as types from "wfhost:workflow/types@0.1.0";

import { Failure, call } from "./failure.js";
import { WorkflowPromise, currentScope, runJobs, takeUnhandled, within } from "./promise.js";

/** Steps that something waits for, by the tag that they have in the host's set. */
const waiting = new Map();
/** Those of them that are not in the host's set: it is asked only when there are several. */
const outside = new Set();
let set;
let lastTag = 0;
/** Compensations that go on although what they belong to has ended. */
let background = 0;
let begun = 0;

/** How many steps were begun in this execution. */
export function stepsBegun() {
  return begun;
}

/** What is cancelled together. */
export class Scope {
  #parent;
  #members = new Set();
  #reason;

  constructor(parent) {
    this.#parent = parent;
    parent?.add(this);
  }

  /** Why nothing begins here any more; undefined if it does. */
  get reason() {
    return this.#reason;
  }

  add(member) {
    this.#members.add(member);
    if (member instanceof Scope && this.#reason) member.cancel(this.#reason);
  }

  delete(member) {
    this.#members.delete(member);
  }

  cancel(reason) {
    if (this.#reason) return;
    this.#reason = reason;
    for (const member of [...this.#members]) member.cancel(reason);
    this.#parent?.delete(this);
  }

  /** It has nothing more to do. */
  close() {
    this.#parent?.delete(this);
  }
}

function cancelledByProgram() {
  return new Failure("cancelled", "the program cancelled it");
}

/** An operation that was started. */
export class Step {
  #step;
  #read;
  #scope = currentScope();
  #tag;
  #outcome;
  #waiters = [];

  /** `start` gives the host's step, or throws. */
  constructor(start, read) {
    this.#read = read;
    const reason = this.#scope?.reason;
    if (reason) {
      this.#outcome = { error: reason };
      return;
    }
    begun += 1;
    try {
      this.#step = call(start);
    } catch (error) {
      this.#outcome = { error };
      return;
    }
    // Held here: what nothing refers to would be collected, and thereby cancelled.
    this.#scope?.add(this);
  }

  get id() {
    return this.#step === undefined ? 0 : Number(this.#step.id());
  }

  get() {
    if (!this.#outcome) this.finish();
    if ("error" in this.#outcome) throw this.#outcome.error;
    return this.#outcome.value;
  }

  cancel(reason = cancelledByProgram()) {
    if (this.#outcome) return;
    this.#end({ error: reason });
  }

  then(onFulfilled, onRejected) {
    return new WorkflowPromise((resolve, reject) => {
      const waiter = (outcome) => ("error" in outcome ? reject(outcome.error) : resolve(outcome.value));
      if (this.#outcome) return waiter(this.#outcome);
      this.#waiters.push(waiter);
      this.#wait();
    }).then(onFulfilled, onRejected);
  }

  catch(onRejected) {
    return this.then(undefined, onRejected);
  }

  finally(onFinally) {
    return this.then().finally(onFinally);
  }

  #wait() {
    if (this.#tag !== undefined) return;
    lastTag += 1;
    this.#tag = lastTag;
    waiting.set(this.#tag, this);
    outside.add(this);
  }

  /** Has the host's set know it. */
  enter() {
    set.add(this.#step, this.#tag);
  }

  /** Takes its result from the host, and waits for it if it is not there. */
  finish() {
    let outcome;
    try {
      outcome = { value: this.#read(JSON.parse(call(() => this.#step.get()))) };
    } catch (error) {
      outcome = { error };
    }
    this.#end(outcome);
  }

  #end(outcome) {
    this.#outcome = outcome;
    if (this.#tag !== undefined) {
      waiting.delete(this.#tag);
      if (!outside.delete(this)) set.remove(this.#tag);
    }
    this.#scope?.delete(this);
    // One that is not done is cancelled by this.
    this.#step[Symbol.dispose]();
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter(outcome);
  }
}

/** Waits for one of the steps that something waits for. */
function advance() {
  if (waiting.size === 1 && outside.size === 1) {
    const [step] = outside;
    step.finish();
    return;
  }
  set ??= new types.WaitSet();
  for (const step of outside) step.enter();
  outside.clear();
  // Of an empty set nothing is ever done, which the host reports.
  const step = waiting.get(Number(set.next()));
  // Done ones are no members any more.
  outside.add(step);
  step.finish();
}

/** Something that runs by itself, and can be cancelled with all that it has begun. */
export class Task {
  #scope;
  #promise;
  #reject;

  constructor(body, scope = new Scope(currentScope())) {
    this.#scope = scope;
    const begin = () => {
      if (scope.reason) throw scope.reason;
      return body();
    };
    const running = within(scope, () => new WorkflowPromise((resolve) => resolve(begin())));
    this.#promise = new WorkflowPromise((resolve, reject) => {
      this.#reject = reject;
      const settle = (how) => (value) => {
        scope.close();
        how(value);
      };
      running.then(settle(resolve), settle(reject));
    });
  }

  cancel(reason = cancelledByProgram()) {
    this.#scope.cancel(reason);
    this.#reject(reason);
  }

  then(onFulfilled, onRejected) {
    return this.#promise.then(onFulfilled, onRejected);
  }

  catch(onRejected) {
    return this.then(undefined, onRejected);
  }

  finally(onFinally) {
    return this.#promise.finally(onFinally);
  }
}

/** Runs a compensation, which nothing cancels, and which the run does not end before. */
export function inBackground(body) {
  background += 1;
  const done = () => {
    background -= 1;
  };
  const task = new Task(body, new Scope());
  within(undefined, () => task.then(done, done));
  return task;
}

/** Runs a workflow to its end, and all compensations. Gives what it returned. */
export function drive(body) {
  begun = 0;
  let outcome;
  const main = new Task(body, new Scope());
  main.then(
    (value) => {
      outcome = { value };
    },
    (error) => {
      outcome = { error };
    },
  );
  for (;;) {
    runJobs();
    if (outcome && background === 0) break;
    advance();
  }
  const lost = takeUnhandled().filter((reason) => !Failure.is(reason, "cancelled"));
  if ("error" in outcome) throw outcome.error;
  if (lost.length > 0) throw lost[0];
  return outcome.value;
}
