// Durable workflows in JavaScript and TypeScript.
//
// A module exports `run = workflow(async (input) => ...)`. What is asked of the world is a step of the
// run's journal, and never carried out a second time once it is done. Steps begin when they are made
// and are awaited like promises.
//
// Types and descriptions are in wfhost.d.ts.

import "./install.js";

import * as agents from "wfhost:workflow/agent@0.1.0";
import * as children from "wfhost:workflow/child@0.1.0";
import * as context from "wfhost:workflow/context@0.1.0";
import * as logging from "wfhost:workflow/log@0.1.0";
import * as signals from "wfhost:workflow/signal@0.1.0";
import * as sleeps from "wfhost:workflow/sleep@0.1.0";

import { Failure, call, describeError, json, optionalJson, record } from "./failure.js";
import { Step, Task, drive, stepsBegun } from "./loop.js";
import { ONCE, RETRY, length } from "./policy.js";
import { data, fitting, jsonSchema, text } from "./schema.js";
import { clearTimeout, setTimeout } from "./timers.js";

export { Failure, Step, Task };
export { Semaphore, firstOk, parallelMap, quorum, race, retry, spawn, timeout } from "./patterns.js";
export { saga } from "./saga.js";

export function workflow(body, { input: schema } = {}) {
  return (given) => {
    // The interpreter's own seed was drawn when the module was built: it is the same in every run.
    Math.random = random;
    let failure;
    try {
      const input = inputOf(JSON.parse(given), schema);
      return json(drive(() => body(input)) ?? null, "result");
    } catch (error) {
      failure = record(error);
    }
    throw failure;
  };
}

function inputOf(given, schema) {
  try {
    return fitting(schema, given, "input");
  } catch (error) {
    throw new Failure("rejected", describeError(error));
  }
}

function request(prompt, options = {}) {
  const {
    providers = [],
    provider,
    retry,
    once = false,
    limits,
    cache,
    input,
    schema,
    options: passed,
    session,
    fork,
    model,
    workspace,
    label,
    group,
  } = options;
  const forwarded = fork === undefined ? passed : { ...passed, fork: true };
  return {
    prompt,
    providers: provider === undefined ? providers : [provider],
    input: optionalJson(input, "input"),
    schema: optionalJson(jsonSchema(schema), "schema"),
    options: optionalJson(forwarded, "options"),
    retry: once || retry ? { ...RETRY, ...retry, ...(once && ONCE) } : undefined,
    limits: limits && {
      attempt: length(limits.attempt, "limit"),
      total: length(limits.total, "limit"),
      heartbeat: length(limits.heartbeat, "limit"),
    },
    cache: cache && { version: cache.version, ttl: length(cache.ttl, "age") },
    session: fork ?? session,
    model,
    workspace,
    label,
    group,
  };
}

function begin(prompt, options, read) {
  return new Step(() => agents.start(request(prompt, options)), read);
}

export function agent(prompt, options) {
  const schema = options?.schema;
  const read = schema === undefined ? text : (output) => data(output, schema);
  return begin(prompt, options, (reply) => read(reply.output));
}

agent.json = (prompt, options) => begin(prompt, options, (reply) => data(reply.output, options?.schema));

function replyOf(reply, options) {
  const { session, model, provider, usage } = reply;
  const schema = options?.schema;
  return {
    output: schema === undefined ? reply.output : data(reply.output, schema),
    session: session ?? undefined,
    model: model ?? undefined,
    provider: provider ?? "",
    usage: usage
      ? {
          inputTokens: usage.input_tokens ?? 0,
          outputTokens: usage.output_tokens ?? 0,
          cachedTokens: usage.cached_tokens ?? 0,
          costMicros: usage.cost_micros ?? 0,
        }
      : undefined,
  };
}

agent.reply = (prompt, options) => begin(prompt, options, (reply) => replyOf(reply, options));

const nothing = () => undefined;

export function sleep(millis) {
  return new Step(() => sleeps.startFor(length(millis)), nothing);
}

sleep.until = (time) => new Step(() => sleeps.start(length(Math.max(Number(time), 0), "time")), nothing);

export function signal(name, { timeout, schema } = {}) {
  return new Step(
    () => signals.start(name, length(timeout, "timeout")),
    (payload) => fitting(schema, payload, `signal ${name}`),
  );
}

export function send(run, name, payload = null) {
  call(() => signals.send(run, name, json(payload, "payload")));
}

export function ask(prompt, { schema, choices = [], details, timeout } = {}) {
  return new Step(
    () => {
      const question = {
        prompt,
        schema: optionalJson(jsonSchema(schema), "schema"),
        choices,
        details: optionalJson(details, "details"),
      };
      return signals.startAsk(question, length(timeout, "timeout"));
    },
    (answer) => fitting(schema, answer, "answer"),
  );
}

export function post(name, payload = null) {
  signals.post(name, json(payload, "payload"));
}

export function child(module, input = null, { id, onClose = "cancel", labels = {}, schema } = {}) {
  return new Step(
    () => children.start(module, json(input, "input"), { id, onClose, labels: Object.entries(labels) }),
    (result) => fitting(schema, result, "result"),
  );
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

export function budget() {
  const { total, spent } = context.budget();
  if (total == null) return { total: undefined, spent: Number(spent), remaining: Infinity };
  return { total: Number(total), spent: Number(spent), remaining: Math.max(Number(total) - Number(spent), 0) };
}

export const patched = (id) => context.patched(id);
export const cancelled = () => context.cancelled();
export const phase = (title) => context.phase(title);
export const publish = (key, value) => context.publish(key, json(value));
export const continueAsNew = (input) => context.continueAsNew(json(input, "input"));

export async function rounds(steps, first, body) {
  let state = first;
  for (;;) {
    const round = await body(state);
    if (round === null || typeof round !== "object" || !("done" in round || "next" in round)) {
      throw new Failure("failed", "a round gives { next: state } or { done: result }");
    }
    if ("done" in round) return round.done;
    if (stepsBegun() >= steps) continueAsNew(round.next);
    state = round.next;
  }
}

function spell(value) {
  if (typeof value === "string") return value;
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return plain(value);
  }
}

/** What is no JSON, in as few words as the language has for it; some objects have none. */
function plain(value) {
  try {
    return String(value);
  } catch {
    return typeof value;
  }
}

function write(level) {
  return (message, fields = {}) => {
    const pairs = Object.entries(fields).map(([name, value]) => [name, spell(value)]);
    logging.write(level, spell(message), pairs);
  };
}

export const log = {
  trace: write("trace"),
  debug: write("debug"),
  info: write("info"),
  warn: write("warn"),
  error: write("error"),
};

const print = (level) => (...values) => logging.write(level, values.map(spell).join(" "), []);

globalThis.console ??= {
  trace: print("trace"),
  debug: print("debug"),
  log: print("info"),
  info: print("info"),
  warn: print("warn"),
  error: print("error"),
};

globalThis.setTimeout ??= setTimeout;
globalThis.clearTimeout ??= clearTimeout;
