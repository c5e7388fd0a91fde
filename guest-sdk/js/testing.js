// Scenarios of `wfhost test` as tests of node's runner, vitest, and others like them. This runs in node, not in
// a workflow.

import { execFile } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";

// A component in JavaScript takes seconds to be compiled when it is new.
const TIMEOUT_MS = 600_000;
const MAX_OUTPUT_BYTES = 64 << 20;

/** Runs wfhost. Gives its stdout, or throws all that it said. */
function wfhost(args, cwd) {
  const binary = process.env.WFHOST_BIN || "wfhost";
  return new Promise((done, failed) => {
    execFile(binary, args, { cwd, maxBuffer: MAX_OUTPUT_BYTES }, (error, stdout, stderr) => {
      if (!error) return done(stdout);
      if (typeof error.code === "number") return failed(new Error(stdout + stderr));
      failed(new Error(`${binary} cannot be run: ${error.message}\ninstall wfhost, or name the binary by WFHOST_BIN`));
    });
  });
}

/** The files that `wfhost test` takes if none is named, in its order. */
function find(project) {
  const further = join(project, "scenarios");
  const found = existsSync(further) ? readdirSync(further).filter((name) => name.endsWith(".toml")).sort() : [];
  const first = join(project, "wfhost-test.toml");
  return [...(existsSync(first) ? [first] : []), ...found.map((name) => join(further, name))];
}

export function scenarios(test, project = ".") {
  project = resolve(project);
  let building;
  const run = async (args) => {
    building ??= wfhost(["build", project], project);
    await wfhost(["test", (await building).trim(), ...args], project);
  };
  const found = find(project);
  for (const path of found) {
    test(basename(path, ".toml"), { timeout: TIMEOUT_MS }, () => run(["--scenario", path]));
  }
  if (found.length === 0) test("usual", { timeout: TIMEOUT_MS }, () => run([]));
}
