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
  #closed = false;

  constructor(parent) {
    this.#parent = parent;
    parent?.add(this);
  }

  /** Why nothing begins here any more; undefined if it does. */
  get reason() {
    return this.#reason;
  }

  /** The outermost scope around it. */
  get root() {
    return this.#parent ? this.#parent.root : this;
  }

  /** The innermost saga around it. */
  get saga() {
    return this.#parent?.saga;
  }

  add(member) {
    this.#members.add(member);
    if (this.#reason) member.cancel(this.#reason);
    // What still runs of a part that has ended may begin something.
    else if (this.#closed) this.#parent?.add(this);
  }

  delete(member) {
    this.#members.delete(member);
    if (this.#closed) this.close();
  }

  cancel(reason) {
    if (this.#reason) return;
    this.#reason = reason;
    for (const member of [...this.#members]) member.cancel(reason);
    this.#parent?.delete(this);
  }

  /** Its function has ended. What that has left open is still cancelled with what is around it. */
  close() {
    this.#closed = true;
    if (this.#members.size === 0) this.#parent?.delete(this);
  }
}

/** Sagas whose body goes on, and those of them that are cancelled. */
const openSagas = new Set();
const cancelledSagas = new Set();

/**
 * Where the body of a saga runs. What begins there belongs to the scope around it, which cancels it in the order in
 * which it began.
 */
export class SagaScope {
  #outer = currentScope();
  #members = new Set();
  #reason;
  #giveUp;
  /** How many sagas within it have not ended, with their compensations. */
  #inner = 0;

  /** `giveUp` ends the saga although its body goes on. */
  constructor(giveUp) {
    this.#giveUp = giveUp;
    openSagas.add(this);
    if (this.#around) this.#around.#inner += 1;
    this.#outer?.add(this);
  }

  get #around() {
    return this.#outer?.saga;
  }

  get reason() {
    return this.#reason ?? this.#outer?.reason;
  }

  get root() {
    return this.#outer?.root;
  }

  get saga() {
    return this;
  }

  /** Whether it has to end: its body may still do so by itself. */
  get isCancelled() {
    return this.#reason !== undefined;
  }

  add(member) {
    this.#members.add(member);
    if (this.#reason) member.cancel(this.#reason);
    this.#outer?.add(member);
  }

  delete(member) {
    this.#members.delete(member);
    this.#outer?.delete(member);
  }

  /** The scope around it is cancelled, and with that what began here. */
  cancel(reason) {
    if (this.#reason || !openSagas.has(this)) return;
    this.#reason = reason;
    cancelledSagas.add(this);
  }

  /** Cancels it alone. */
  end(reason) {
    this.cancel(reason);
    for (const member of [...this.#members]) member.cancel(reason);
  }

  /** Ends it if its body waits for something that is not cancelled. Gives whether it did. */
  giveUp() {
    // What an inner saga did came later, so it is undone before.
    if (this.#inner > 0) return false;
    this.#giveUp(this.#reason);
    return true;
  }

  /** Its body has ended. */
  close() {
    openSagas.delete(this);
    cancelledSagas.delete(this);
    this.#outer?.delete(this);
  }

  /** What it did is undone as well. */
  finish() {
    if (this.#around) this.#around.#inner -= 1;
  }
}

/** When all wait: ends cancelled sagas whose body does not see that they are. Gives whether there were any. */
function giveUpSagas() {
  return [...cancelledSagas].filter((saga) => saga.giveUp()).length > 0;
}

/** When the workflow has ended: cancels sagas that go on. Gives whether there were any. */
function endSagas(main) {
  // Those that belong to a compensation may go on as long as it does.
  const isOver = (saga) => !saga.isCancelled && (background === 0 || saga.root === main);
  const left = [...openSagas].filter(isOver);
  for (const saga of left) saga.end(new Failure("cancelled", "the workflow ended"));
  return left.length > 0;
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
  const scope = new Scope();
  const main = new Task(body, scope);
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
    if (giveUpSagas() || (outcome && endSagas(scope))) continue;
    if (outcome && background === 0) break;
    advance();
  }
  const lost = takeUnhandled().filter((reason) => !Failure.is(reason, "cancelled"));
  if ("error" in outcome) throw outcome.error;
  if (lost.length > 0) throw lost[0];
  return outcome.value;
}
