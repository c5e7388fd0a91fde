/**
 * Durable workflows in JavaScript and TypeScript.
 *
 * ```ts
 * import { agent, sleep, workflow } from "wfhost";
 *
 * export const run = workflow(async ({ name }: { name: string }) => {
 *   const greeting = await agent(`greet ${name}`);
 *   await sleep(60_000);
 *   return { greeting };
 * });
 * ```
 *
 * Every request to the outside world is a *step*. It starts when the function is called, its result is
 * recorded, and a run that was killed continues after the last recorded step. Steps are awaited like promises,
 * and `Promise.all`, `race`, `allSettled` and `async` functions work as usual: which step was first is
 * recorded as well. Durations are milliseconds.
 *
 * @packageDocumentation
 */

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export type FailureKind =
  /** The other side reported that it could not do it. */
  | "failed"
  /** A time limit expired. */
  | "timed-out"
  /** The step or the run was cancelled. */
  | "cancelled"
  /** An answer does not match the schema of the request. */
  | "invalid-output"
  /** It would exceed the budget. */
  | "budget-exceeded"
  /** No provider could be reached. */
  | "unavailable"
  /** The request is invalid, or it was refused. */
  | "rejected";

/** The failure of a step. If a workflow throws it, the run fails with it; any other error fails the run as `failed`. */
export class Failure extends Error {
  constructor(kind: FailureKind, message: string, more?: { details?: unknown; attempts?: number });
  readonly kind: FailureKind;
  /** For programs: JSON. */
  readonly details: any;
  /** The number of attempts; 0 if none was made. */
  readonly attempts: number;
  /** Whether it is unknown if the call was carried out: the host died during a call that may be made only `once`. */
  readonly isOutcomeUnknown: boolean;
  /** Whether an error is a failure, of one of these kinds if there are any. */
  static is(error: unknown, ...kinds: FailureKind[]): error is Failure;
}

/**
 * A schema of a library that follows [Standard Schema](https://standardschema.dev) and provides its JSON
 * Schema: zod 4.2 or later, arktype, valibot with its converter.
 */
export interface Schema<T> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown, ...rest: any[]) => any;
    readonly types?: { readonly input: unknown; readonly output: T } | undefined;
  };
}

/** A JSON Schema. */
export type JsonSchema = boolean | { readonly [keyword: string]: unknown };

/**
 * Creates the `run` that a workflow exports. The value that `body` returns, as JSON, is the run's result; an
 * error that it throws, or rejects with, fails the run. An unhandled rejection fails it as well.
 *
 * With a schema, input that does not match fails the run as `rejected` before `body` is called.
 */
export function workflow<Input, Output>(
  body: (input: Input) => Output | PromiseLike<Output>,
  options: { input: Schema<Input> },
): (input: string) => string;
export function workflow<Input = any, Output = unknown>(
  body: (input: Input) => Output | PromiseLike<Output>,
): (input: string) => string;

/**
 * An operation that was started, to be awaited. It runs until it is done, is cancelled, or the run ends.
 */
export class Step<T = any> implements PromiseLike<T> {
  private constructor();
  /** The number of the step within the run. */
  readonly id: number;
  then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: any) => B | PromiseLike<B>) | null,
  ): Promise<A | B>;
  catch<B = never>(onRejected?: ((reason: any) => B | PromiseLike<B>) | null): Promise<T | B>;
  finally(onFinally?: (() => void) | null): Promise<T>;
  /** Cancels the step, unless it is done: its provider is told to stop, and it fails as `cancelled`. */
  cancel(): void;
  /** Waits synchronously, which blocks everything else, for code that cannot be `async`. Can be called again. */
  get(): T;
}

/** A function that runs concurrently, to be awaited: see {@link spawn}. */
export class Task<T = any> implements PromiseLike<T> {
  private constructor();
  then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: any) => B | PromiseLike<B>) | null,
  ): Promise<A | B>;
  catch<B = never>(onRejected?: ((reason: any) => B | PromiseLike<B>) | null): Promise<T | B>;
  finally(onFinally?: (() => void) | null): Promise<T>;
  /** Cancels all steps that it has started, also in functions that it called. It starts no more. */
  cancel(): void;
}

/** When and how often a failed attempt is retried. */
export interface Retry {
  /** The total number of attempts, including the first one. Default: 3. */
  maxAttempts?: number;
  /** The delay before the second attempt. Default: 1,000. */
  initial?: number;
  /** Each further delay is this many times longer. Default: 2. */
  factor?: number;
  /** The longest delay. Default: 60,000. */
  max?: number;
  /** Each delay varies by up to this fraction, from 0 to 1. Default: 0.1. */
  jitter?: number;
  /** Kinds of failure, or reasons in their details, that are not retried. */
  fatal?: (FailureKind | (string & {}))[];
}

/** Options that are not set are taken from the host's configuration. */
export interface AgentOptions {
  /** Structured data in addition to the prompt. */
  input?: unknown;
  /** The provider that answers. */
  provider?: string;
  /** The providers that answer: attempt n goes to the n-th, the last one gets the rest. */
  providers?: string[];
  model?: string;
  /** Continues an earlier conversation: `session` of a reply. */
  session?: string;
  /** Forks an earlier conversation: starts a new one from that point, and leaves the original unchanged. */
  fork?: string;
  /** The workspace of the agent, by its name in the host's configuration. */
  workspace?: string;
  /** A label for people. Default: the beginning of the prompt. */
  label?: string;
  /** Calls of the same group share a concurrency limit. */
  group?: string;
  retry?: Retry;
  /**
   * Makes the call at most once: no second attempt and no correction of an answer that does not match the
   * schema. If the host dies during the call, it fails with `isOutcomeUnknown`.
   */
  once?: boolean;
  /** Time limits for one attempt, for the whole step, and for the time without a sign of life. */
  limits?: { attempt?: number; total?: number; heartbeat?: number };
  /** Reuses the answer to an equal request of an earlier run with the same version. */
  cache?: { version: string; ttl?: number };
  /** An object that is passed to the provider unchanged. */
  options?: unknown;
}

/** The usage of an answer. */
export interface Usage {
  inputTokens: number;
  outputTokens: number;
  cachedTokens: number;
  /** Millionths of a US dollar. */
  costMicros: number;
}

/** An answer with its session, usage and provider. */
export interface Reply<T = any> {
  output: T;
  /** The id of the conversation, to continue it. */
  session?: string;
  model?: string;
  usage?: Usage;
  /** The provider that answered. */
  provider: string;
}

/** Calls an agent. With a schema, the answer is data that matches it; the host enforces this. */
export function agent<T>(prompt: string, options: AgentOptions & { schema: Schema<T> }): Step<T>;
export function agent<T = any>(prompt: string, options: AgentOptions & { schema: JsonSchema }): Step<T>;
/** Calls an agent. The answer is text. */
export function agent(prompt: string, options?: AgentOptions): Step<string>;
export namespace agent {
  /** Calls an agent. The answer is data: if the agent answers with text, the text is parsed as JSON. */
  function json<T>(prompt: string, options: AgentOptions & { schema: Schema<T> }): Step<T>;
  function json<T = any>(prompt: string, options?: AgentOptions & { schema?: JsonSchema }): Step<T>;
  /** Calls an agent. The answer comes with its session, usage and provider. */
  function reply<T>(prompt: string, options: AgentOptions & { schema: Schema<T> }): Step<Reply<T>>;
  function reply<T = any>(prompt: string, options?: AgentOptions & { schema?: JsonSchema }): Step<Reply<T>>;
}

/** Sleeps, at most for 100 years. The deadline is fixed when it is called, and survives crashes. */
export function sleep(millis: number): Step<void>;
export namespace sleep {
  /** Sleeps until a point in time. */
  function until(time: Date | number): Step<void>;
}

/** Waits for a signal, `timeout` milliseconds at most. Early signals are kept; each signal is consumed by one wait. */
export function signal<T>(name: string, options: { timeout?: number; schema: Schema<T> }): Step<T>;
export function signal<T = any>(name: string, options?: { timeout?: number }): Step<T>;
/** Sends a signal to another run, exactly once. Throws `rejected` if the run does not exist or has ended. */
export function send(run: string, name: string, payload?: unknown): void;

export interface Question {
  /** If not empty, the answer has to be one of these. */
  choices?: string[];
  /** Information for the person who answers. */
  details?: unknown;
  /** In milliseconds; the question is then withdrawn. */
  timeout?: number;
}
/** Asks a person. If the person denies the question, the failure is `rejected`. */
export function ask<T>(prompt: string, question: Question & { schema: Schema<T> }): Step<T>;
export function ask<T = any>(prompt: string, question?: Question & { schema?: JsonSchema }): Step<T>;
/** Appends to the messages of this run, which are read in order with a cursor. */
export function post(name: string, payload?: unknown): void;

export interface ChildOptions {
  /** The child's id. By default derived from the parent's id and the step. */
  id?: string;
  /** What happens to the child when this run ends first. Default: `cancel`. */
  onClose?: "cancel" | "abandon";
  labels?: Record<string, string>;
}
/** Runs another workflow as a durable run of its own and returns its result. */
export function child<T>(module: string, input: unknown, options: ChildOptions & { schema: Schema<T> }): Step<T>;
export function child<T = any>(module: string, input?: unknown, options?: ChildOptions): Step<T>;

type Awaitable<T> = PromiseLike<T> | (() => T | PromiseLike<T>);

/** Starts a function that runs concurrently and can be cancelled as a whole. */
export function spawn<T>(body: () => T | PromiseLike<T>): Task<T>;

/**
 * Returns the value of the contestant that ends first, with its index. The others are cancelled: steps,
 * tasks, and functions with everything that they have started. (`Promise.race` leaves them running.) Rejects if the first one failed.
 */
export function race<T>(contestants: Iterable<Awaitable<T>>): Promise<{ index: number; value: T }>;
/** Returns the value of the first contestant that succeeds; the others are cancelled. Fails only if all fail. */
export function firstOk<T>(contestants: Iterable<Awaitable<T>>): Promise<T>;
/**
 * Returns the first `count` that succeed, in the order in which they did; the others are cancelled. Rejects as
 * soon as `count` successes are no longer possible, with all failures in its details.
 */
export function quorum<T>(count: number, contestants: Iterable<Awaitable<T>>): Promise<{ index: number; value: T }[]>;
/** Sets a time limit. When it expires, the contestant is cancelled, and the failure is `timed-out`. */
export function timeout<T>(millis: number, contestant: Awaitable<T>): Promise<T>;
/**
 * Calls a function for each item, for at most `limit` items at the same time, and returns the results in the
 * order of the items. The first failure cancels the items in progress and starts no more.
 */
export function parallelMap<T, R>(
  items: Iterable<T>,
  limit: number,
  body: (item: T, index: number) => R | PromiseLike<R>,
): Promise<R[]>;
/** Limits how many run at the same time, in first-in, first-out order. */
export class Semaphore {
  constructor(limit: number);
  run<T>(body: () => T | PromiseLike<T>): Promise<T>;
}
/**
 * Retries a block until it succeeds, according to a policy. The delays are durable. `cancelled`, `rejected`
 * and `budget-exceeded` end it immediately. For a single agent call see {@link AgentOptions.retry}, which the
 * host enforces.
 */
export function retry<T>(policy: Retry, body: (attempt: number) => T | PromiseLike<T>): Promise<T>;
/**
 * Repeats a block until it returns `{ done: result }`; with `{ next: state }` the next round gets that state.
 * After about `steps` steps the run continues as new: a new run of the same module starts with the state as
 * its input, so that each journal stays short.
 */
export function rounds<S, R extends { next: S } | { done: unknown }>(
  steps: number,
  first: S,
  body: (state: S) => R | PromiseLike<R>,
): Promise<R extends { done: infer T } ? T : never>;

/** The completed steps of a block of {@link saga}, with their compensations. */
export interface Saga {
  /** Executes a step; `undo` is called with its result if the block fails later, or has failed meanwhile. */
  step<T>(name: string, action: Awaitable<T>, undo: (value: T) => unknown): Promise<T>;
  /** Registers a compensation before its step. It has to succeed also when there is nothing to compensate. */
  undo(name: string, undo: () => unknown): void;
}
/**
 * Runs a block, and compensates its completed steps, in the reverse order, if it fails, is cancelled, or loses
 * a race. The failure then has a member `saga` in its details, with the names of the steps that were `undone`
 * and `not_undone`. The run does not end before compensation is complete; a saga that still waits when the
 * workflow returns or fails is cancelled then.
 */
export function saga<T>(body: (saga: Saga) => T | PromiseLike<T>): Promise<T>;

/** Virtual time: the time of the latest event that the program has observed. `Date` returns the same. */
export function now(): Date;
/** A random number from 0 to below 1, from the run's stream. `Math.random` is the same. */
export function random(): number;
/** Information about this run. */
export function info(): {
  run: string;
  workflow: string;
  digest: string;
  parent?: string;
  started: Date;
  attempt: number;
  labels: Record<string, string>;
};
/** The budget of this run and its children, and what has been spent of it, in tokens. */
export function budget(): {
  /** Undefined if there is no limit. */
  total?: number;
  spent: number;
  /** `Infinity` if there is no limit. */
  remaining: number;
};
/** False for runs that passed this place before the code contained the call, true for all others. */
export function patched(id: string): boolean;
/** Whether cancellation of the run was requested. It has some time to clean up. */
export function cancelled(): boolean;
/** Names the current phase of the run, for people. */
export function phase(title: string): void;
/** Publishes state, which can be read at any time: the latest value of a key. */
export function publish(key: string, value: unknown): void;
/** Ends this run and continues as a new one with this input. Does not return. */
export function continueAsNew(input: unknown): never;

type Write = (message: unknown, fields?: Record<string, unknown>) => void;
/** The log of the run, silent while replaying. `console` writes there as well. */
export const log: { trace: Write; debug: Write; info: Write; warn: Write; error: Write };
