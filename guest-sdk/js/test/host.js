// A host for tests of the SDK: steps end at times of a clock that goes on when the program waits.

/** What the program did, in words. */
export let story = [];

let clock = 0;
let steps = [];
let answers = {};
let randoms = [];
let stopAsked = false;

/** Begins anew. `given.answers` are those of agents by their prompts: `{ at, reply }` or `{ at, fail }`. */
export function reset(given = {}) {
  story = [];
  clock = 0;
  steps = [];
  answers = given.answers ?? {};
  randoms = given.randoms ?? [];
  stopAsked = false;
}

/** Asks the run to stop. */
export function stop() {
  stopAsked = true;
}

function failure(kind, message, details) {
  return Object.assign(new Error(message), { payload: { kind, message, details, attempts: 1 } });
}

class HostStep {
  constructor(name, at, outcome) {
    Object.assign(this, { number: steps.length + 1, name, at: clock + at, outcome, dropped: false });
    steps.push(this);
    story.push(`start ${name}`);
  }

  id() {
    return this.number;
  }

  get() {
    if (this.dropped) throw new Error(`${this.name} was dropped`);
    clock = Math.max(clock, this.at);
    if (this.outcome.fail) throw failure(...this.outcome.fail);
    return JSON.stringify(this.outcome.reply ?? null);
  }

  [Symbol.dispose]() {
    if (this.dropped) throw new Error(`${this.name} was dropped twice`);
    this.dropped = true;
    if (this.at > clock) story.push(`cancel ${this.name}`);
  }
}

class WaitSet {
  #members = new Map();

  add(step, tag) {
    this.#members.set(tag, step);
  }

  remove(tag) {
    this.#members.delete(tag);
  }

  next() {
    if (this.#members.size === 0) throw new Error("deadlock");
    const [[tag, first]] = [...this.#members].sort(([, a], [, b]) => a.at - b.at || a.number - b.number);
    clock = Math.max(clock, first.at);
    this.#members.delete(tag);
    return BigInt(tag);
  }
}

export const host = {
  types: { WaitSet },
  agent: {
    start(request) {
      const { at = 1, reply = request.prompt, fail, whole } = answers[request.prompt] ?? {};
      host.lastRequest = request;
      const answer = whole ?? { output: reply, provider: "test", session: null, model: null, usage: null };
      return new HostStep(`agent ${request.prompt}`, at, fail ? { fail } : { reply: answer });
    },
  },
  sleep: {
    start: (at) => new HostStep(`sleep until ${at}`, at - clock, {}),
    startFor(length) {
      if (length > 100 * 366 * 24 * 3600 * 1000) throw failure("rejected", "too long");
      return new HostStep(`sleep ${length}`, length, {});
    },
  },
  signal: {
    start(name, timeout) {
      const given = answers[`signal ${name}`];
      if (given) return new HostStep(`signal ${name}`, given.at ?? 1, given);
      return new HostStep(`signal ${name}`, timeout ?? Infinity, { fail: ["timed-out", "no signal"] });
    },
    startAsk: (question) => new HostStep(`ask ${question.prompt}`, 1, answers[question.prompt] ?? {}),
    send(run, name, payload) {
      if (run === "gone") throw failure("rejected", "there is no such run");
      story.push(`send ${run} ${name} ${payload}`);
    },
    post: (name, payload) => story.push(`post ${name} ${payload}`),
  },
  child: {
    start(module, input, options) {
      host.lastChild = options;
      return new HostStep(`child ${module} ${input}`, 1, answers[module] ?? {});
    },
  },
  context: {
    now: () => BigInt(clock),
    random: () => BigInt(randoms.shift() ?? 2n ** 63n),
    info: () => ({ run: "r", workflow: "w", digest: "d", started: 7n, attempt: 1, labels: [["a", "b"]] }),
    budget: () => ({ total: 10n, spent: 3n }),
    patched: () => true,
    cancelled: () => stopAsked,
    phase: (title) => story.push(`phase ${title}`),
    publish: (key, value) => story.push(`publish ${key} ${value}`),
    continueAsNew(input) {
      story.push(`again ${input}`);
      throw new Error("the run has ended");
    },
  },
  // Of plugins.
  progress: {},
  http: {},
  log: { write: (level, message, fields) => story.push(`${level} ${message} ${JSON.stringify(fields)}`) },
};
