// Durable workflows in JavaScript and TypeScript.
//
// A module exports `run = workflow((input) => ...)`. Each call here that waits is a step of the
// run's journal and is never carried out a second time once it is done. Calls block: there is
// nothing to await. What is to happen side by side is started first (`agent.start`, ...) and
// waited for afterwards (`get`, `all`, `any`).
//
// Types and descriptions are in wfhost.d.ts.

import * as agents from "wfhost:workflow/agent@0.1.0";
import * as children from "wfhost:workflow/child@0.1.0";
import * as context from "wfhost:workflow/context@0.1.0";
import * as logging from "wfhost:workflow/log@0.1.0";
import * as signals from "wfhost:workflow/signal@0.1.0";
import * as sleeps from "wfhost:workflow/sleep@0.1.0";
import * as types from "wfhost:workflow/types@0.1.0";

export class Failure extends Error {
  constructor(kind, message, { details, attempts = 0 } = {}) {
    super(message);
    this.name = "Failure";
    this.kind = kind;
    this.details = details;
    this.attempts = attempts;
  }
}

/** Calls the host; its failures are records that arrive as the payload of an error. */
function call(body) {
  try {
    return body();
  } catch (error) {
    const failure = error?.payload;
    if (typeof failure?.kind !== "string") throw error;
    const details = failure.details == null ? undefined : JSON.parse(failure.details);
    throw new Failure(failure.kind, failure.message, { details, attempts: failure.attempts });
  }
}

function json(value) {
  const text = JSON.stringify(value);
  if (text === undefined) throw new Failure("rejected", `${typeof value} is not JSON`);
  return text;
}

function optionalJson(value) {
  return value === undefined ? undefined : json(value);
}

/** The failure that an error ends a run with. */
function record(error) {
  if (error instanceof Failure) {
    const { kind, message, details, attempts } = error;
    return { kind, message, details: optionalJson(details), attempts };
  }
  const isError = error instanceof Error;
  const message = isError ? `${error.name}: ${error.message}` : String(error);
  const details = isError && error.stack ? json({ stack: error.stack }) : undefined;
  return { kind: "failed", message, details, attempts: 0 };
}

export function workflow(body) {
  return (input) => {
    // The interpreter's own seed was drawn when the module was built: it is the same in every run.
    Math.random = random;
    let failure;
    try {
      return json(body(JSON.parse(input)) ?? null);
    } catch (error) {
      failure = record(error);
    }
    throw failure;
  };
}

export class Step {
  #step;
  #read;

  constructor(step, read) {
    this.#step = step;
    this.#read = read;
  }

  get id() {
    return this.#step.id();
  }

  get() {
    return this.#read(JSON.parse(call(() => this.#step.get())));
  }

  /** For `any`. */
  static handle(step) {
    return step.#step;
  }
}

const asItIs = (value) => value;

// A call that names this kind among the fatal ones is made at most once.
const once = { maxAttempts: 1, fatal: ["unknown-outcome"] };

function request(prompt, options = {}) {
  const {
    providers = [],
    provider,
    retry,
    once: atMostOnce = false,
    limits,
    cache,
    input,
    schema,
    options: passed,
    ...rest
  } = options;
  return {
    prompt,
    providers: provider === undefined ? providers : [provider],
    input: optionalJson(input),
    schema: optionalJson(schema),
    options: optionalJson(passed),
    retry: (atMostOnce || retry || undefined) && {
      maxAttempts: 3,
      initial: 1_000,
      factor: 2,
      max: 60_000,
      jitter: 0.1,
      fatal: [],
      ...retry,
      ...(atMostOnce && once),
    },
    limits,
    cache,
    ...rest,
  };
}

export function agent(prompt, options) {
  return JSON.parse(call(() => agents.run(request(prompt, options))).output);
}

agent.reply = (prompt, options) => {
  const reply = call(() => agents.run(request(prompt, options)));
  return { ...reply, output: JSON.parse(reply.output) };
};

agent.start = (prompt, options) =>
  new Step(agents.start(request(prompt, options)), (reply) => reply.output);

export function sleep(millis) {
  call(() => sleeps.sleep(millis));
}

sleep.until = (time) => call(() => sleeps.sleepUntil(Number(time)));
sleep.start = (millis) => new Step(sleeps.startFor(millis), asItIs);

export function signal(name, { timeout } = {}) {
  return JSON.parse(call(() => signals.wait(name, timeout)));
}

signal.start = (name, { timeout } = {}) => new Step(signals.start(name, timeout), asItIs);

export function send(run, name, payload = null) {
  call(() => signals.send(run, name, json(payload)));
}

function question(prompt, { schema, choices = [], details } = {}) {
  return { prompt, schema: optionalJson(schema), choices, details: optionalJson(details) };
}

export function ask(prompt, options = {}) {
  return JSON.parse(call(() => signals.ask(question(prompt, options), options.timeout)));
}

ask.start = (prompt, options = {}) =>
  new Step(signals.startAsk(question(prompt, options), options.timeout), asItIs);

export function post(name, payload = null) {
  signals.post(name, json(payload));
}

function childOptions({ id, onClose = "cancel", labels = {} } = {}) {
  return { id, onClose, labels: Object.entries(labels) };
}

export function child(module, input = null, options) {
  return JSON.parse(call(() => children.run(module, json(input), options && childOptions(options))));
}

child.start = (module, input = null, options) =>
  new Step(children.start(module, json(input), options && childOptions(options)), asItIs);

export function all(steps) {
  return steps.map((step) => step.get());
}

export function any(steps) {
  return types.waitAny(steps.map(Step.handle));
}

export function now() {
  return new Date(Number(context.now()));
}

export function random() {
  // The greatest of the host's numbers round up to 2^64.
  return Math.min(Number(context.random()) / 2 ** 64, 1 - 2 ** -53);
}

export function info() {
  const { labels, started, ...rest } = context.info();
  return { ...rest, started: new Date(Number(started)), labels: Object.fromEntries(labels) };
}

export const budget = () => context.budget();
export const patched = (id) => context.patched(id);
export const cancelled = () => context.cancelled();
export const phase = (title) => context.phase(title);
export const publish = (key, value) => context.publish(key, json(value));
export const continueAsNew = (input) => context.continueAsNew(json(input));

function spell(value) {
  if (typeof value === "string") return value;
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  return JSON.stringify(value) ?? String(value);
}

const write = (level) => (...values) => logging.write(level, values.map(spell).join(" "), []);

export const log = {
  trace: write("trace"),
  debug: write("debug"),
  info: write("info"),
  warn: write("warn"),
  error: write("error"),
};

globalThis.console ??= { ...log, log: log.info };
