/** Agents as components: a plugin answers the agent calls of workflows. */

export interface Usage {
  inputTokens?: number;
  outputTokens?: number;
  cachedTokens?: number;
  /** US dollars, in millionths. */
  costMicros?: number;
}

/** One attempt at a call: see `wit/plugin/plugin.wit`. */
export interface Call {
  /** Everything that an agent which reads text has to know. */
  message: string;
  prompt: string;
  input?: any;
  schema?: any;
  options?: any;
  model?: string;
  session?: string;
  history: { said: string; answered: string }[];
  key: string;
  run: string;
  step: bigint;
  attempt: number;
  heartbeat?: any;
}

export type FailureKind = "failed" | "timed-out" | "cancelled" | "invalid-output" | "unavailable" | "rejected";

/** An attempt that did not end well. Its kind decides whether there is another one. */
export class Failure extends Error {
  constructor(
    kind: FailureKind,
    message: string,
    more?: { details?: any; auth?: boolean; retryAfter?: number; usage?: Usage },
  );
  readonly kind: FailureKind;
}

/** An answer with what belongs to it. */
export class Reply {
  constructor(output: unknown, more?: { session?: string; model?: string; usage?: Usage });
}

/** The interface that a plugin exports: `export const agent = plugin((call) => answer)`. */
export function plugin(body: (call: Call) => unknown): { run(call: unknown): unknown };

/** Shows a piece of the answer, as it comes. */
export function chunk(text: string): void;
/** Shows a line about the work. */
export function line(text: string): void;
/** Adds an event to the transcript of the call. */
export function transcript(event: unknown): void;
/** Says how far the work is. The next attempt finds the last one in `call.heartbeat`. */
export function heartbeat(at: unknown): void;
/** Whether the call was cancelled. */
export function cancelled(): boolean;

/**
 * Sends a request and waits for its answer. What is not granted is denied. Redirects are not followed.
 * A `body` that is no text is sent as JSON; `timeout` is in milliseconds.
 */
export function http(
  method: string,
  url: string,
  options?: { headers?: Record<string, string>; body?: unknown; timeout?: number; onPiece?: (piece: Uint8Array) => void },
): { status: number; headers: Record<string, string>; body: string };

/** The bytes of a text. */
export function utf8(text: string): Uint8Array;
/** The text of bytes. */
export function text(bytes: ArrayLike<number>): string;
