// What a workflow has besides ECMAScript, for `"types": ["wfhost/globals"]` in tsconfig.json.

type WorkflowPrint = (...values: unknown[]) => void;
/** Writes to the log of the run. */
declare const console: {
  trace: WorkflowPrint;
  debug: WorkflowPrint;
  log: WorkflowPrint;
  info: WorkflowPrint;
  warn: WorkflowPrint;
  error: WorkflowPrint;
};
/** A durable sleep, after which the function is called. */
declare function setTimeout<A extends unknown[]>(callback: (...values: A) => void, millis?: number, ...values: A): number;
declare function clearTimeout(timer: number | undefined): void;
declare function queueMicrotask(callback: () => void): void;
