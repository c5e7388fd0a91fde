// The language's timers, as durable sleeps.

import * as sleeps from "wfhost:workflow/sleep@0.1.0";

import { Step } from "./loop.js";
import { length } from "./policy.js";

const open = new Map();
let last = 0;

export function setTimeout(callback, millis = 0, ...values) {
  last += 1;
  const timer = last;
  const step = new Step(
    () => sleeps.startFor(length(Math.max(millis, 0))),
    () => undefined,
  );
  open.set(timer, step);
  // An error of the callback is one that nothing handles; a timer that was cleared has none.
  step.then(
    () => {
      open.delete(timer);
      callback(...values);
    },
    (failure) => {
      if (open.delete(timer)) throw failure;
    },
  );
  return timer;
}

export function clearTimeout(timer) {
  const step = open.get(timer);
  open.delete(timer);
  step?.cancel();
}
