// Comes before everything else in a bundle: what is made at the top level of a module is a promise of
// the workflow's as well.

import { WorkflowPromise, enqueue } from "./promise.js";

globalThis.Promise = WorkflowPromise;
globalThis.queueMicrotask = enqueue;

// The engine's own would wait for promises of its own.
Array.fromAsync = async function fromAsync(items, map = (item) => item, self = undefined) {
  const made = [];
  const isIterable = items[Symbol.asyncIterator] !== undefined || items[Symbol.iterator] !== undefined;
  for await (const item of isIterable ? items : Array.from(items)) {
    made.push(await map.call(self, item, made.length));
  }
  return made;
};
