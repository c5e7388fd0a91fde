// Compensation: what was done is undone when a later part fails.

import * as context from "wfhost:workflow/context@0.1.0";
import * as logging from "wfhost:workflow/log@0.1.0";

import { Failure, describeError, failureOf } from "./failure.js";
import { inBackground } from "./loop.js";

export async function saga(body) {
  const done = [];
  const undo = (name, compensate) => {
    done.push({ name, compensate });
  };
  const step = async (name, action, compensate) => {
    if (context.cancelled()) throw new Failure("cancelled", "the run was asked to stop");
    const value = await (typeof action === "function" ? action() : action);
    undo(name, () => compensate(value));
    return value;
  };
  try {
    return await body({ step, undo });
  } catch (error) {
    if (done.length === 0) throw error;
    // Whatever becomes of the block, a lost race for example, this goes on to its end.
    throw explain(error, await inBackground(() => undoAll(done)));
  }
}

async function undoAll(done) {
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
  return { undone, notUndone };
}

/** The error, with what was undone in its details. */
export function explain(error, { undone, notUndone }) {
  if (undone.length === 0 && notUndone.length === 0) return error;
  const { kind, message, details, attempts } = failureOf(error);
  const isObject = details !== null && typeof details === "object" && !Array.isArray(details);
  const members = isObject ? details : details === undefined ? {} : { details };
  // A saga within this one has undone its part before.
  const inner = members.saga ?? {};
  const all = {
    undone: [...(inner.undone ?? []), ...undone],
    not_undone: [...(inner.not_undone ?? []), ...notUndone],
  };
  return new Failure(kind, message, { details: { ...members, saga: all }, attempts });
}
