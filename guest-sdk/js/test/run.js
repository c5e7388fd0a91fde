// Bundles the tests as `wfhost build` bundles workflows, over a host of their own, and runs them: `npm test`.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = mkdtempSync(join(tmpdir(), "wfhost-js-"));
const tests = readdirSync(here).filter((name) => name.endsWith(".test.js"));

const host = {
  name: "host",
  setup(build) {
    build.onResolve({ filter: /^wfhost:(workflow|plugin)\// }, ({ path }) => {
      const [, name] = /\/(\w+)@/.exec(path);
      return { path: name, namespace: "host" };
    });
    build.onLoad({ filter: /.*/, namespace: "host" }, ({ path }) => ({
      contents: `import { host } from ${JSON.stringify(join(here, "host.js"))};
        module.exports = host.${path};`,
      resolveDir: here,
    }));
  },
};

await build({
  entryPoints: tests.map((name) => join(here, name)),
  bundle: true,
  format: "esm",
  platform: "node",
  outdir: out,
  outExtension: { ".js": ".mjs" },
  inject: [join(here, "../install.js")],
  supported: { "async-await": false, "async-generator": false, "for-await": false },
  plugins: [host],
  logLevel: "warning",
});
const files = tests.map((name) => join(out, name.replace(/js$/, "mjs")));
const { status } = spawnSync(process.execPath, ["--test", ...files], { stdio: "inherit" });
rmSync(out, { recursive: true });
process.exit(status ?? 1);
