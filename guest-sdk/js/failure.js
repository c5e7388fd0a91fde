// Failures, as the host and programs have them.

export class Failure extends Error {
  constructor(kind, message, { details, attempts = 0 } = {}) {
    super(message);
    this.name = "Failure";
    this.kind = kind;
    this.details = details;
    this.attempts = attempts;
  }

  get isOutcomeUnknown() {
    return this.details?.reason === "unknown-outcome";
  }

  static is(error, ...kinds) {
    return error instanceof Failure && (kinds.length === 0 || kinds.includes(error.kind));
  }
}

/** Calls the host; its failures are records that arrive as the payload of an error. */
export function call(body) {
  try {
    return body();
  } catch (error) {
    const failure = error?.payload;
    if (typeof failure?.kind !== "string") throw error;
    const details = failure.details == null ? undefined : JSON.parse(failure.details);
    throw new Failure(failure.kind, failure.message, { details, attempts: failure.attempts });
  }
}

/** A value as JSON for the host. */
export function json(value, what = "value") {
  let text;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    throw new Failure("rejected", `the ${what} cannot be written as JSON: ${error.message}`);
  }
  if (text === undefined) throw new Failure("rejected", `the ${what} cannot be written as JSON: it is ${typeof value}`);
  return text;
}

export function optionalJson(value, what) {
  return value === undefined ? undefined : json(value, what);
}

/** Any error as a failure. */
export function failureOf(error) {
  if (error instanceof Failure) return error;
  const isError = error instanceof Error;
  const message = isError ? `${error.name}: ${error.message}` : String(error);
  const details = isError && error.stack ? { stack: error.stack } : undefined;
  return new Failure("failed", message, { details });
}

/** What an error is in a few words. */
export function describeError(error) {
  return error instanceof Failure ? error.message || error.kind : failureOf(error).message;
}

/** The record that the host takes. */
export function record(error) {
  const { kind, message, details, attempts } = failureOf(error);
  return { kind, message, details: optionalJson(details, "details"), attempts };
}
