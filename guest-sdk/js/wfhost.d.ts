/** Durable workflows in JavaScript and TypeScript. All calls block; there is nothing to await. */

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export type FailureKind =
  | "failed"
  | "timed-out"
  | "cancelled"
  | "invalid-output"
  | "budget-exceeded"
  | "unavailable"
  | "rejected";

/** Why a step did not end well. Thrown by a program, it is how its run fails. */
export class Failure extends Error {
  constructor(kind: FailureKind, message: string, more?: { details?: unknown; attempts?: number });
  readonly kind: FailureKind;
  readonly details: unknown;
  /** How often it was tried; 0 if it never was. */
  readonly attempts: number;
}

/** Makes the `run` that a workflow exports. What `body` returns, as JSON, is the run's result. */
export function workflow<Input = any, Output = unknown>(body: (input: Input) => Output): (input: string) => string;

/** An operation that was started. One that nothing refers to any more is cancelled if it is not done. */
export class Step<T = any> {
  /** Its number within the run. */
  readonly id: number;
  /** Waits until it is done. May be called again and gives the same. */
  get(): T;
}

/** Waits for all, in the order of the list. The first failure in that order is thrown. */
export function all<T>(steps: readonly Step<T>[]): T[];
/** Waits for one; gives the index of the one that was done first. */
export function any(steps: readonly Step[]): number;

export interface AgentOptions {
  /** Structured data beside the prompt. */
  input?: unknown;
  /** Who answers; the run's default if there is none. */
  provider?: string;
  /** Attempt n goes to the n-th. */
  providers?: string[];
  model?: string;
  /** A JSON Schema that the answer has to fit. */
  schema?: unknown;
  /** Goes on with an earlier conversation: `session` of a reply. */
  session?: string;
  workspace?: string;
  /** What people see; the beginning of the prompt if there is none. */
  label?: string;
  /** Calls of one group share a limit of concurrency. */
  group?: string;
  /** Lengths in milliseconds. */
  retry?: {
    maxAttempts?: number;
    initial?: number;
    factor?: number;
    max?: number;
    jitter?: number;
    fatal?: FailureKind[];
  };
  /**
   * Makes one call, whatever happens: no second attempt and no correction of an answer that does not fit
   * the schema. If the host dies during it, the call fails with `details.reason` = `unknown-outcome`.
   */
  once?: boolean;
  /** Lengths in milliseconds. */
  limits?: { attempt?: number; total?: number; heartbeat?: number };
  cache?: { version: string; ttl?: number };
  /** An object for the provider. */
  options?: unknown;
}

export interface Reply<T = any> {
  output: T;
  session?: string;
  model?: string;
  usage?: { inputTokens: number; outputTokens: number; cachedTokens: number; costMicros: number };
  provider: string;
}

/** Asks and gives the answer: a text, or JSON if the agent sent some. */
export function agent<T = string>(prompt: string, options?: AgentOptions): T;
export namespace agent {
  /** The same, with all that is known of the answer. */
  function reply<T = string>(prompt: string, options?: AgentOptions): Reply<T>;
  /** Asks without waiting. */
  function start<T = string>(prompt: string, options?: AgentOptions): Step<T>;
}

/** Sleeps for so many milliseconds; the deadline survives crashes. */
export function sleep(millis: number): void;
export namespace sleep {
  function until(time: Date | number): void;
  function start(millis: number): Step<null>;
}

/** Waits for a signal, `timeout` milliseconds at most. Signals that come early are kept. */
export function signal<T = any>(name: string, options?: { timeout?: number }): T;
export namespace signal {
  function start<T = any>(name: string, options?: { timeout?: number }): Step<T>;
}
/** Sends a signal to another run, exactly once. */
export function send(run: string, name: string, payload?: unknown): void;

export interface Question {
  /** A JSON Schema that the answer has to fit. */
  schema?: unknown;
  /** If there are any, the answer is one of them. */
  choices?: string[];
  /** What one has to know to answer. */
  details?: unknown;
  /** In milliseconds. */
  timeout?: number;
}
/** Asks a person. A refusal is the failure `rejected`. */
export function ask<T = any>(prompt: string, question?: Question): T;
export namespace ask {
  function start<T = any>(prompt: string, question?: Question): Step<T>;
}
/** Leaves a message for whoever reads them outside. */
export function post(name: string, payload?: unknown): void;

export interface ChildOptions {
  id?: string;
  onClose?: "cancel" | "abandon";
  labels?: Record<string, string>;
}
/** Runs another workflow and gives its result. */
export function child<T = any>(module: string, input?: unknown, options?: ChildOptions): T;
export namespace child {
  function start<T = any>(module: string, input?: unknown, options?: ChildOptions): Step<T>;
}

/** Virtual time: when the latest thing happened that the program has seen. `Date` shows the same. */
export function now(): Date;
/** From 0 to below 1, from the run's stream. `Math.random` is the same. */
export function random(): number;
export function info(): {
  run: string;
  workflow: string;
  digest: string;
  parent?: string;
  started: Date;
  attempt: number;
  labels: Record<string, string>;
};
/** In tokens. */
export function budget(): { total?: number; spent: number };
/** Whether the run reaches this place for the first time under code that has it. */
export function patched(id: string): boolean;
/** Whether the run was asked to stop. */
export function cancelled(): boolean;
/** Names what is being done, for people who watch. */
export function phase(title: string): void;
/** State that outsiders can read: the latest value of a key. */
export function publish(key: string, value: unknown): void;
/** Ends this run and goes on as a fresh one with this input. Does not return. */
export function continueAsNew(input: unknown): never;

type Write = (...values: unknown[]) => void;
/** The log of the run, silent while replaying. `console` writes there as well. */
export const log: { trace: Write; debug: Write; info: Write; warn: Write; error: Write };
