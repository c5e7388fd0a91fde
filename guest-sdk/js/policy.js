// How often something is tried again, and lengths of time.

import { Failure } from "./failure.js";

/** What a policy says where it says nothing. */
export const RETRY = { maxAttempts: 3, initial: 1_000, factor: 2, max: 60_000, jitter: 0.1, fatal: [] };

/** A call that names this kind among the fatal ones is made at most once. */
export const ONCE = { maxAttempts: 1, fatal: ["unknown-outcome"] };

// What would come again.
const FINAL = ["cancelled", "rejected", "budget-exceeded"];

/** Whether a policy allows another attempt after one (from 1) failed so: the rules of the host. */
export function allowsAnother(policy, attempt, failure) {
  const names = [failure.kind, failure.details?.reason].filter((name) => typeof name === "string");
  const isFatal = (fatal) => names.some((name) => name.toLowerCase() === fatal.toLowerCase());
  return attempt < policy.maxAttempts && !FINAL.includes(failure.kind) && !policy.fatal.some(isFatal);
}

/** The delay after an attempt (from 1) in milliseconds, varied by a number from 0 to 1. */
export function delay({ initial, factor, max, jitter }, attempt, random) {
  const grown = initial * Math.max(factor, 0) ** (attempt - 1);
  // Nothing times infinity is no number, and means no delay.
  const capped = Number.isNaN(grown) ? 0 : Math.min(grown, max);
  const varied = capped * (1 + Math.min(Math.max(jitter, 0), 1) * (2 * random - 1));
  return Math.ceil(Math.min(varied, max));
}

/** A length of time as the host takes it. Rounded up: nothing happens too early. */
export function length(millis, what = "length of time") {
  if (millis === undefined) return undefined;
  const whole = Math.ceil(Number(millis));
  if (!(whole >= 0)) throw new Failure("rejected", `a ${what} is a number of milliseconds, not ${millis}`);
  return Math.min(whole, Number.MAX_SAFE_INTEGER);
}
