/** What a test runner calls to make a test: `test` of node:test, vitest, and others like them. */
export type MakeTest = (name: string, options: { timeout: number }, run: () => Promise<void>) => unknown;

/**
 * Makes a test of each scenario of a project: `wfhost-test.toml` and `scenarios/*.toml`; without any, one of what
 * every workflow has to keep. Each runs `wfhost test`, and fails with the story of what went wrong.
 *
 * The binary is the `wfhost` on the `PATH`, or the one that `WFHOST_BIN` names. The project is built once.
 *
 * @example
 * import test from "node:test"; // or: import { test } from "vitest";
 * import { scenarios } from "wfhost/testing";
 *
 * scenarios(test);
 *
 * @param test Makes a test.
 * @param project The directory of the workflow; the current one if it is not said.
 */
export function scenarios(test: MakeTest, project?: string): void;
