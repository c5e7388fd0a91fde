// Agents as components: a plugin answers the agent calls of workflows.
//
// import { http, line, plugin } from "wfhost/plugin";
// export const agent = plugin((call) => ...);

import * as progress from "wfhost:plugin/progress@0.1.0";
import * as web from "wfhost:plugin/http@0.1.0";

/** An attempt that did not end well. Its kind decides whether there is another one. */
export class Failure extends Error {
  constructor(kind, message, { details, auth = false, retryAfter, usage } = {}) {
    super(message);
    Object.assign(this, { name: "Failure", kind, details, auth, retryAfter, usage });
  }
}

const parsed = (json) => (json == null ? undefined : JSON.parse(json));

/** The interface that a plugin exports: `export const agent = plugin((call) => answer)`. */
export function plugin(body) {
  return {
    run(given) {
      let failure;
      try {
        const call = { ...given };
        for (const name of ["input", "schema", "options", "heartbeat"]) call[name] = parsed(given[name]);
        const answer = body(call);
        const reply = answer instanceof Reply ? answer : new Reply(answer);
        const output = JSON.stringify(reply.output ?? null);
        return { output, session: reply.session, model: reply.model, usage: usage(reply.usage) };
      } catch (error) {
        failure = record(error);
      }
      throw failure;
    },
  };
}

/** An answer with what belongs to it. */
export class Reply {
  constructor(output, { session, model, usage } = {}) {
    Object.assign(this, { output, session, model, usage });
  }
}

/** A number as the host takes it. What services report may be none, which is no reason to lose their answer. */
function whole(given, rounded) {
  if (typeof given === "bigint") return given < 0n ? 0n : given;
  return BigInt(Math.min(Math.max(rounded(Number(given)) || 0, 0), Number.MAX_SAFE_INTEGER));
}

function usage(given) {
  if (given == null) return undefined;
  const count = (name) => whole(given[name], Math.round);
  return {
    inputTokens: count("inputTokens"),
    outputTokens: count("outputTokens"),
    cachedTokens: count("cachedTokens"),
    costMicros: count("costMicros"),
  };
}

function record(error) {
  const own = error instanceof Failure;
  return {
    kind: own ? error.kind : "failed",
    message: own ? error.message : error instanceof Error ? `${error.name}: ${error.message}` : String(error),
    details: own && error.details !== undefined ? JSON.stringify(error.details) : undefined,
    auth: own && error.auth,
    retryAfter: own && error.retryAfter != null ? whole(error.retryAfter, Math.ceil) : undefined,
    usage: own ? usage(error.usage) : undefined,
  };
}

/** Shows a piece of the answer, as it comes. */
export const chunk = (text) => progress.chunk(String(text));
/** Shows a line about the work. */
export const line = (text) => progress.line(String(text));
/** Adds an event to the transcript of the call. */
export const transcript = (event) => progress.transcript(JSON.stringify(event));
/** Says how far the work is. The next attempt finds the last one in `call.heartbeat`. */
export const heartbeat = (at) => progress.heartbeat(JSON.stringify(at));
/** Whether the call was cancelled. */
export const cancelled = () => progress.cancelled();

/** What the host throws, as a failure. */
function refused(error) {
  const { tag, val } = error?.payload ?? {};
  switch (tag) {
    case "denied":
      return new Failure("rejected", `the host denies the request: ${val}`);
    case "invalid":
      return new Failure("rejected", `the request cannot be sent: ${val}`);
    case "broken":
      return new Failure("unavailable", `the service gives no answer: ${val}`);
    default:
      return error;
  }
}

/**
 * Sends a request and waits for its answer: `{status, headers, body}`. What is not granted is denied. Redirections
 * are not followed.
 */
export function http(method, url, { headers = {}, body, timeout, onPiece } = {}) {
  const encoded = body === undefined ? undefined : utf8(typeof body === "string" ? body : JSON.stringify(body));
  const given = Object.entries(headers).map(([name, value]) => [name, utf8(String(value))]);
  const within = timeout === undefined ? undefined : whole(timeout, Math.ceil);
  try {
    const response = web.send({ method, url, headers: given, body: encoded, timeout: within });
    const answer = { status: response.status(), headers: {}, body: "" };
    for (const [name, value] of response.headers()) answer.headers[name.toLowerCase()] = text(value);
    const bytes = [];
    for (let piece = response.read(); piece != null; piece = response.read()) {
      for (const byte of piece) bytes.push(byte);
      if (onPiece) onPiece(piece);
    }
    answer.body = text(bytes);
    return answer;
  } catch (error) {
    throw refused(error);
  }
}

/** The bytes of a text. */
export function utf8(string) {
  const escaped = encodeURIComponent(string);
  const bytes = [];
  for (let at = 0; at < escaped.length; at++) {
    if (escaped[at] === "%") {
      bytes.push(parseInt(escaped.slice(at + 1, at + 3), 16));
      at += 2;
    } else {
      bytes.push(escaped.charCodeAt(at));
    }
  }
  return Uint8Array.from(bytes);
}

/** The text of bytes. What is no UTF-8 is taken byte by byte. */
export function text(bytes) {
  const codes = Array.from(bytes, (byte) => `%${byte.toString(16).padStart(2, "0")}`).join("");
  try {
    return decodeURIComponent(codes);
  } catch {
    return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  }
}
