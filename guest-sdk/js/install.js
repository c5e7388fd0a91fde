// Comes before everything else in a bundle: what is made at the top level of a module is a promise of
// the workflow's as well.

import { WorkflowPromise, enqueue } from "./promise.js";

globalThis.Promise = WorkflowPromise;
globalThis.queueMicrotask = enqueue;
