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
 * What is asked of the world is a *step*. It begins when the function is called, its result is recorded, and
 * a run that was killed goes on behind the last recorded one. Steps are awaited like promises, and
 * `Promise.all`, `race`, `allSettled` and `async` functions work as usual: which step was first is recorded
 * as well. Lengths of time are milliseconds.
 *
 * @packageDocumentation
 */

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export type FailureKind =
  /** The other side answered that it could not do it. */
  | "failed"
  /** A time limit passed. */
  | "timed-out"
  /** The step or the run was cancelled. */
  | "cancelled"
  /** An answer does not fit what was asked for. */
  | "invalid-output"
  /** The budget does not allow it. */
  | "budget-exceeded"
  /** Nobody could be reached who would do it. */
  | "unavailable"
  /** The request itself is wrong, or somebody refused it. */
  | "rejected";

/** Why a step did not end well. Thrown by a workflow, it is how its run fails; any other error fails it as `failed`. */
export class Failure extends Error {
  constructor(kind: FailureKind, message: string, more?: { details?: unknown; attempts?: number });
  readonly kind: FailureKind;
  /** For programs: JSON. */
  readonly details: any;
  /** How often it was tried; 0 if it never was. */
  readonly attempts: number;
  /** Whether nobody knows if the call was carried out: the host died during one that may be made `once`. */
  readonly isOutcomeUnknown: boolean;
  /** Whether an error is a failure, of one of these kinds if there are any. */
  static is(error: unknown, ...kinds: FailureKind[]): error is Failure;
}

/**
 * A schema of a library that follows [Standard Schema](https://standardschema.dev) and tells its JSON
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
 * Makes the `run` that a workflow exports. What `body` returns, as JSON, is the run's result; what it throws,
 * or rejects with, fails the run. A rejection that nothing handled fails it as well.
 *
 * With a schema, input that does not fit fails the run as `rejected` before `body` is called.
 */
export function workflow<Input, Output>(
  body: (input: Input) => Output | PromiseLike<Output>,
  options: { input: Schema<Input> },
): (input: string) => string;
export function workflow<Input = any, Output = unknown>(
  body: (input: Input) => Output | PromiseLike<Output>,
): (input: string) => string;

/**
 * An operation that was started, to be awaited. It goes on until it is done, is cancelled, or the run ends.
 */
export class Step<T = any> implements PromiseLike<T> {
  private constructor();
  /** Its number within the run. */
  readonly id: number;
  then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: any) => B | PromiseLike<B>) | null,
  ): Promise<A | B>;
  catch<B = never>(onRejected?: ((reason: any) => B | PromiseLike<B>) | null): Promise<T | B>;
  finally(onFinally?: (() => void) | null): Promise<T>;
  /** Gives it up. If it is not done, whoever does it is told to stop, and it fails as `cancelled`. */
  cancel(): void;
  /** Waits without letting anything else go on, for code that cannot be `async`. May be called again. */
  get(): T;
}

/** Several steps that run by themselves, to be awaited: see {@link spawn}. */
export class Task<T = any> implements PromiseLike<T> {
  private constructor();
  then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: any) => B | PromiseLike<B>) | null,
  ): Promise<A | B>;
  catch<B = never>(onRejected?: ((reason: any) => B | PromiseLike<B>) | null): Promise<T | B>;
  finally(onFinally?: (() => void) | null): Promise<T>;
  /** Cancels all steps that it has begun, in functions that it called as well. It begins no more. */
  cancel(): void;
}

/** When and how often a failed attempt is repeated. */
export interface Retry {
  /** Attempts in all, the first one included. 3 if not said. */
  maxAttempts?: number;
  /** The delay before the second attempt. 1,000 if not said. */
  initial?: number;
  /** Each further delay is this many times the one before. 2 if not said. */
  factor?: number;
  /** No delay is longer. 60,000 if not said. */
  max?: number;
  /** Each delay is varied by up to this fraction, 0 to 1. 0.1 if not said. */
  jitter?: number;
  /** Kinds of failure, or reasons in their details, that are not worth another attempt. */
  fatal?: (FailureKind | (string & {}))[];
}

/** What is not said is left to the host's configuration. */
export interface AgentOptions {
  /** Structured data beside the prompt. */
  input?: unknown;
  /** Who answers. */
  provider?: string;
  /** Who answers: attempt n goes to the n-th, the last one gets the rest. */
  providers?: string[];
  model?: string;
  /** Goes on with an earlier conversation: `session` of a reply. */
  session?: string;
  /** The same, but that conversation stays as it is: what is said from here on belongs to a new one. */
  fork?: string;
  /** Where the agent works: the name of a workspace that the host was configured with. */
  workspace?: string;
  /** What people see; the beginning of the prompt if there is none. */
  label?: string;
  /** Calls of one group share a limit of concurrency. */
  group?: string;
  retry?: Retry;
  /**
   * Makes one call, whatever happens: no second attempt and no correction of an answer that does not fit
   * the schema. If the host dies during it, the call fails and `isOutcomeUnknown`.
   */
  once?: boolean;
  /** How long one attempt, the whole step, and the time without a sign of life may be. */
  limits?: { attempt?: number; total?: number; heartbeat?: number };
  /** The answer may be taken from an earlier run that asked the same under the same version. */
  cache?: { version: string; ttl?: number };
  /** An object that is passed to the provider as it is. */
  options?: unknown;
}

/** What an answer consumed. */
export interface Usage {
  inputTokens: number;
  outputTokens: number;
  cachedTokens: number;
  /** Millionths of a US dollar. */
  costMicros: number;
}

/** An answer with all that is known about it. */
export interface Reply<T = any> {
  output: T;
  /** To go on with this conversation. */
  session?: string;
  model?: string;
  usage?: Usage;
  /** Who answered. */
  provider: string;
}

/** Asks an agent. With a schema the answer is data that fits it; the host sees to that. */
export function agent<T>(prompt: string, options: AgentOptions & { schema: Schema<T> }): Step<T>;
export function agent<T = any>(prompt: string, options: AgentOptions & { schema: JsonSchema }): Step<T>;
/** Asks an agent. The answer is text. */
export function agent(prompt: string, options?: AgentOptions): Step<string>;
export namespace agent {
  /** Asks. The answer is data: if the agent answers with text, the text is read as JSON. */
  function json<T>(prompt: string, options: AgentOptions & { schema: Schema<T> }): Step<T>;
  function json<T = any>(prompt: string, options?: AgentOptions & { schema?: JsonSchema }): Step<T>;
  /** Asks. The answer comes with its session, its usage, and who answered. */
  function reply<T>(prompt: string, options: AgentOptions & { schema: Schema<T> }): Step<Reply<T>>;
  function reply<T = any>(prompt: string, options?: AgentOptions & { schema?: JsonSchema }): Step<Reply<T>>;
}

/** Sleeps, at most for 100 years. The deadline is fixed when it is called, and survives crashes. */
export function sleep(millis: number): Step<void>;
export namespace sleep {
  /** Sleeps until a point in time. */
  function until(time: Date | number): Step<void>;
}

/** Waits for a signal, `timeout` milliseconds at most. Signals that come early are kept; each is taken by one wait. */
export function signal<T>(name: string, options: { timeout?: number; schema: Schema<T> }): Step<T>;
export function signal<T = any>(name: string, options?: { timeout?: number }): Step<T>;
/** Sends a signal to another run, exactly once. Throws `rejected` if there is no such run or if it has ended. */
export function send(run: string, name: string, payload?: unknown): void;

export interface Question {
  /** If there are any, the answer is one of them. */
  choices?: string[];
  /** What one has to know to answer. */
  details?: unknown;
  /** In milliseconds; the question is withdrawn then. */
  timeout?: number;
}
/** Asks a person. A refusal is the failure `rejected`. */
export function ask<T>(prompt: string, question: Question & { schema: Schema<T> }): Step<T>;
export function ask<T = any>(prompt: string, question?: Question & { schema?: JsonSchema }): Step<T>;
/** Appends to the messages of this run, which outsiders read in order. */
export function post(name: string, payload?: unknown): void;

export interface ChildOptions {
  /** The child's id; made from the parent's and the step if there is none. */
  id?: string;
  /** What becomes of it when this run ends first: `cancel` if not said. */
  onClose?: "cancel" | "abandon";
  labels?: Record<string, string>;
}
/** Runs another workflow as a durable run of its own and gives its result. */
export function child<T>(module: string, input: unknown, options: ChildOptions & { schema: Schema<T> }): Step<T>;
export function child<T = any>(module: string, input?: unknown, options?: ChildOptions): Step<T>;

type Awaitable<T> = PromiseLike<T> | (() => T | PromiseLike<T>);

/** Begins a function that runs by itself, and can be cancelled as a whole. */
export function spawn<T>(body: () => T | PromiseLike<T>): Task<T>;

/**
 * Gives the one that ends first, with its index. The others are cancelled: steps, tasks, and functions with
 * all that they have begun. (`Promise.race` leaves them running.) Rejects if the first one failed.
 */
export function race<T>(contestants: Iterable<Awaitable<T>>): Promise<{ index: number; value: T }>;
/** Gives the one that succeeds first; the others are cancelled. Failures count only if all fail. */
export function firstOk<T>(contestants: Iterable<Awaitable<T>>): Promise<T>;
/**
 * Gives the first `count` that succeed, in the order in which they did; the others are cancelled. Rejects as
 * soon as there can be no `count` successes any more, with all failures in its details.
 */
export function quorum<T>(count: number, contestants: Iterable<Awaitable<T>>): Promise<{ index: number; value: T }[]>;
/** Gives something a time limit. When it passes, it is cancelled, and the failure is `timed-out`. */
export function timeout<T>(millis: number, contestant: Awaitable<T>): Promise<T>;
/**
 * Calls a function for each item, at most `limit` at the same time, and gives the results in the order of the
 * items. The first failure cancels what is under way and begins no more.
 */
export function parallelMap<T, R>(
  items: Iterable<T>,
  limit: number,
  body: (item: T, index: number) => R | PromiseLike<R>,
): Promise<R[]>;
/** Lets so many run at the same time, in the order in which they came. */
export class Semaphore {
  constructor(limit: number);
  run<T>(body: () => T | PromiseLike<T>): Promise<T>;
}
/**
 * Runs a block again until it succeeds, as often and with such delays as the policy says. The delays are
 * durable. `cancelled`, `rejected` and `budget-exceeded` end it at once. For a single call of an agent see
 * {@link AgentOptions.retry}, which the host keeps.
 */
export function retry<T>(policy: Retry, body: (attempt: number) => T | PromiseLike<T>): Promise<T>;
/**
 * Runs a block again and again until it gives `{ done: result }`; with `{ next: state }` the next round gets
 * that state. After about `steps` steps the run continues as new: a fresh run of the same module begins with
 * the state as its input, so that each journal stays short.
 */
export function rounds<S, R extends { next: S } | { done: unknown }>(
  steps: number,
  first: S,
  body: (state: S) => R | PromiseLike<R>,
): Promise<R extends { done: infer T } ? T : never>;

/** What was done in a block of {@link saga}, and how it is undone. */
export interface Saga {
  /** Does something; `undo` is called with its result if the block fails later. */
  step<T>(name: string, action: Awaitable<T>, undo: (value: T) => unknown): Promise<T>;
  /** Registers an undoing by itself, for what is about to be done. It has to cope with there being nothing to undo. */
  undo(name: string, undo: () => unknown): void;
}
/**
 * Runs a block, and undoes what it did, in the reverse order, if it fails, is cancelled, or loses a race. The
 * failure then has a member `saga` in its details, with the names of what was `undone` and `not_undone`.
 * The run does not end before the undoing is through.
 */
export function saga<T>(body: (saga: Saga) => T | PromiseLike<T>): Promise<T>;

/** Virtual time: when the latest thing happened that the program has seen. `Date` shows the same. */
export function now(): Date;
/** From 0 to below 1, from the run's stream. `Math.random` is the same. */
export function random(): number;
/** What is known about this run. */
export function info(): {
  run: string;
  workflow: string;
  digest: string;
  parent?: string;
  started: Date;
  attempt: number;
  labels: Record<string, string>;
};
/** What this run and its children may use and have used, in tokens. */
export function budget(): {
  /** Undefined if there is no limit. */
  total?: number;
  spent: number;
  /** `Infinity` if there is no limit. */
  remaining: number;
};
/** Whether the run reaches this place for the first time under code that has it. */
export function patched(id: string): boolean;
/** Whether the run was asked to stop. There is some time to clean up. */
export function cancelled(): boolean;
/** Names what is being done, for people who watch. */
export function phase(title: string): void;
/** State that outsiders can read: the latest value of a key. */
export function publish(key: string, value: unknown): void;
/** Ends this run and goes on as a fresh one with this input. Does not return. */
export function continueAsNew(input: unknown): never;

type Write = (message: unknown, fields?: Record<string, unknown>) => void;
/** The log of the run, silent while replaying. `console` writes there as well. */
export const log: { trace: Write; debug: Write; info: Write; warn: Write; error: Write };
