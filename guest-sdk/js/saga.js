// Compensation: what was done is undone when a later part fails.

import * as context from "wfhost:workflow/context@0.1.0";
import * as logging from "wfhost:workflow/log@0.1.0";

import { Failure, describeError, failureOf } from "./failure.js";
import { SagaScope, Step, Task, inBackground } from "./loop.js";
import { within } from "./promise.js";

/** An operation that may have begun outside of the saga. */
const isBegun = (action) => action instanceof Step || action instanceof Task;

// Written with promises: the body's end is that of the saga, without a moment in between in which others go on.
export function saga(body) {
  return new Promise((resolve, reject) => {
    const done = [];
    const given = new Set();
    let isGivenUp = false;
    let isUndone = false;
    const scope = new SagaScope((reason) => {
      isGivenUp = true;
      fail(reason);
      for (const action of [...given]) action.cancel(reason);
    });

    const undo = (name, compensate) => {
      const part = { name, compensate };
      // It was under way when the rest was undone.
      if (isUndone) inBackground(() => undoAll([part]));
      else done.push(part);
    };
    const refuse = (action, reason) => {
      if (isBegun(action)) action.cancel(reason);
      throw reason;
    };
    const step = async (name, action, compensate) => {
      if (context.cancelled()) refuse(action, new Failure("cancelled", "the run was asked to stop"));
      if (isGivenUp) refuse(action, scope.reason);
      if (isBegun(action)) given.add(action);
      let value;
      try {
        value = await (typeof action === "function" ? action() : action);
      } finally {
        given.delete(action);
      }
      undo(name, () => compensate(value));
      return value;
    };

    const settle = (how) => (value) => {
      scope.finish();
      how(value);
    };
    const succeed = (value) => {
      if (isGivenUp) return;
      scope.close();
      settle(resolve)(value);
    };
    let failed = false;
    const fail = (error) => {
      if (failed) return;
      failed = true;
      scope.close();
      if (done.length === 0) {
        isUndone = true;
        settle(reject)(error);
        return;
      }
      const undoing = inBackground(() => undoAll(done, () => (isUndone = true)));
      // Whatever becomes of the block, a lost race for example, this goes on to its end.
      Promise.resolve(undoing).then(
        settle((report) => reject(explain(error, report))),
        settle(reject),
      );
    };

    let ending;
    try {
      ending = within(scope, () => body({ step, undo }));
    } catch (error) {
      fail(error);
      return;
    }
    Promise.resolve(ending).then(succeed, fail);
  });
}

async function undoAll(done, whenUndone = () => {}) {
  const undone = [];
  const notUndone = [];
  while (done.length > 0) {
    const { name, compensate } = done.pop();
    const stopping = context.cancelled();
    try {
      try {
        await compensate();
      } catch (error) {
        const stopped = !stopping && context.cancelled() && Failure.is(error, "cancelled");
        if (!stopped) throw error;
        // It was the request to stop that ended it, and there is but one.
        await compensate();
      }
      undone.push(name);
    } catch (error) {
      logging.write("error", `\`${name}\` could not be undone: ${describeError(error)}`, []);
      const { kind, message } = failureOf(error);
      notUndone.push({ step: name, kind, message });
    }
  }
  whenUndone();
  return { undone, notUndone };
}

/** The error, with what was undone in its details. */
export function explain(error, { undone, notUndone }) {
  if (undone.length === 0 && notUndone.length === 0) return error;
  const { kind, message, details, attempts } = failureOf(error);
  const isObject = details !== null && typeof details === "object" && !Array.isArray(details);
  const members = isObject ? details : details === undefined ? {} : { details };
  // A saga within this one has undone its part before.
  const before = (name) => (Array.isArray(members.saga?.[name]) ? members.saga[name] : []);
  const all = {
    undone: [...before("undone"), ...undone],
    not_undone: [...before("not_undone"), ...notUndone],
  };
  return new Failure(kind, message, { details: { ...members, saga: all }, attempts });
}
