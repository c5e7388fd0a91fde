// The path of a stranger, in a real browser, against a real server. Each check that fails is told, and
// the suite ends with 1.

import { AxeBuilder } from "@axe-core/playwright";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const { CHROMIUM, WFHOST, PROBE, SHOTS } = process.env;
const home = mkdtempSync(join(tmpdir(), "wfhost-browser-"));
const env = { ...process.env, HOME: home, XDG_STATE_HOME: join(home, "state"), XDG_DATA_HOME: join(home, "data"), WFHOST_DB: join(home, "wfhost.db") };
const cli = (...args) => execFileSync(WFHOST, args, { env, cwd: home, encoding: "utf8" }).trim();

let faults = 0;
function check(what, holds, more = "") {
    console.log(`${holds ? "ok  " : "FAIL"} ${what}${holds ? "" : " " + more}`);
    if (!holds) faults++;
}
async function eventually(what, look) {
    for (let i = 0; i < 200; i++) {
        const found = await look().catch(() => false);
        if (found) return found;
        await new Promise((go) => setTimeout(go, 100));
    }
    throw new Error(`never: ${what}`);
}

// One call of `slow` at a time, so that the others wait for their turn; `flaky` fails at first.
const config = join(home, "config.toml");
writeFileSync(config, `
[agents]
limits = { attempt = "7m" }
[agents.concurrency]
host = 1
[providers.slow]
kind = "command"
argv = ["sh", "-c", "echo at work >&2; sleep 0.5; echo done"]
[providers.flaky]
kind = "command"
argv = ["sh", "-c", "test -e ${join(home, "tried")} || { touch ${join(home, "tried")}; exit 1; }; echo done"]
[providers.gated]
kind = "command"
argv = ["sh", "-c", "while [ ! -e ${join(home, "go")} ]; do sleep 0.05; done; echo done"]
[sinks.nobody]
url = "http://127.0.0.1:1/hook"
secret = false
events = ["run.completed"]
give_up = "0s"
[providers.reviewer]
kind = "plugin"
plugin = "reviewer.wasm"
http = [{ url = "https://api.example.org/*", methods = ["GET"], inject = { authorization = { env = "KEY" } } }]
[webhooks.pushes]
verify = "github"
secret_env = "GITHUB_SECRET"
workflow = "probe"
`);

async function serve(listen) {
    const args = ["serve", "--listen", listen, "--agent", "echo", "--config", config, "--namespace", `team=${join(home, "team.db")}`];
    const child = spawn(WFHOST, args, { env, cwd: home, stdio: "ignore" });
    const told = join(home, "state/wfhost/servers", `${child.pid}.json`);
    const { url, token, namespaces } = await eventually("the server tells where it is", async () => JSON.parse(readFileSync(told, "utf8")));
    await eventually("the server answers", async () => (await fetch(url + "/readyz")).ok);
    return { child, url, token, team: namespaces.team.token, listen: url.split("//")[1] };
}

const spawned = performance.now();
let server = await serve("127.0.0.1:0");
const answered = performance.now() - spawned;
const browser = await chromium.launch({
    executablePath: CHROMIUM,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const strays = [], errors = [];
async function context(options = {}) {
    const made = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
    made.on("request", (request) => {
        if (!request.url().startsWith(server.url) && !request.url().startsWith("data:")) strays.push(request.url());
    });
    made.on("console", (message) => {
        // A lost connection is told there, too.
        if (message.type() === "error" && !/ERR_(CONNECTION|INCOMPLETE|EMPTY)|status of (4|503)/.test(message.text())) errors.push(message.text());
    });
    made.on("weberror", (error) => errors.push(error.error().message));
    return made;
}
async function login(page, base = "", token = server.token) {
    await page.goto(server.url + base + "/ui");
    await page.fill("#code", token);
    await page.click("button");
    await page.waitForURL(/\/ui$/);
}
/** Presses Tab until this has the focus: what one cannot reach so, one cannot use without a mouse. */
async function tabTo(page, selector) {
    for (let i = 0; i < 80; i++) {
        await page.keyboard.press("Tab");
        if (await page.evaluate((selector) => document.activeElement?.matches(selector), selector)) return;
    }
    throw new Error(`Tab does not lead to ${selector}`);
}
async function axe(page, what) {
    const { violations } = await new AxeBuilder({ page }).analyze();
    check(`axe: ${what}`, violations.length === 0, JSON.stringify(violations.map((v) => [v.id, v.nodes.slice(0, 3).map((n) => n.html)]), null, 1));
}
let shots = 0;
const shot = (page, name) => page.screenshot({ path: join(SHOTS, `${String(++shots).padStart(2, "0")}-${name}.png`) });
const api = async (method, path, body) => {
    const answer = await fetch(server.url + "/api/v1" + path, { method, headers: { authorization: `Bearer ${server.token}`, "content-type": "application/json" }, body: body && JSON.stringify(body) });
    return answer.json();
};

try {
    const desk = await context();
    const page = await desk.newPage();
    const began = performance.now();
    await login(page);
    const first = answered + performance.now() - began;
    console.log(`     the first page, login included, is there after ${first.toFixed(0)} ms, of which the server took ${answered.toFixed(0)}`);
    check("a new user is told what to do", (await page.textContent("main")).includes("Nothing has run here yet"));
    await shot(page, "first");
    await axe(page, "first page");

    cli("add", PROBE);
    await page.goto(server.url + "/ui/start");
    await page.fill("textarea[name=input]", "{");
    check("JSON that is none is told at once", (await page.textContent(".json-fault")) !== "");
    const program = { do: [
        { agent: "write a plan" },
        { log: "planned" },
        { wait: { name: "go" } },
        { ask: { prompt: "Ship it?", schema: { type: "object", required: ["ok"], properties: { ok: { type: "boolean", title: "Ship" }, why: { type: "string", title: "Why" } } } } },
        { sleep: 200 },
        { agent: "done" },
    ] };
    await page.fill("textarea[name=input]", JSON.stringify(program, null, 2));
    await page.fill("input[name=labels]", "team=red");
    await shot(page, "start");
    await axe(page, "start");
    await page.click("main form.answer button");
    await page.waitForURL(/\/ui\/runs\//);
    const path = new URL(page.url()).pathname, run = path.split("/").pop();
    await page.waitForSelector(".gantt.ready");
    await eventually("the page says why it waits, by itself", async () => (await page.textContent("main")).includes("waiting for the signal"));
    check("the page is live", (await eventually("live", async () => (await page.textContent("#link")) === "Live")));
    await shot(page, "waits");
    await axe(page, "run that waits");

    const list = await desk.newPage();
    await list.goto(server.url + "/ui");
    check("the list says why it waits", /go/.test(await list.textContent("td.why")));
    await shot(list, "list");
    await axe(list, "list");
    await list.keyboard.press("j");
    await list.keyboard.press("Enter");
    await list.waitForURL(/\/ui\/runs\//);
    check("a run is opened by keys", list.url().includes(run));
    await list.goBack();
    await list.keyboard.press("/");
    check("/ goes to the search", await list.evaluate(() => document.activeElement?.id === "search"));
    await list.fill("#search", "nothing like that");
    await list.keyboard.press("Enter");
    await list.waitForURL(/text=/);
    check("filters find nothing where there is nothing", (await list.textContent("main")).includes("No matching runs."));
    await list.goto(server.url + "/ui");

    // From signal to page: without a load, without losing what is typed.
    await page.locator("details.card form textarea").fill('{"by": "me"}');
    await page.click("details.card form button");
    await page.waitForURL(/said=sent/);
    await eventually("the question shows", async () => (await page.textContent("main")).includes("Ship it?"));
    await eventually("the other tab follows", async () => (await list.textContent("td.why")).includes("Ship it?") || (await list.textContent("header")).includes("1"));

    const phone = await context({ viewport: { width: 380, height: 780 }, colorScheme: "dark", hasTouch: true });
    const small = await phone.newPage();
    await login(small);
    await shot(small, "phone-list");
    await axe(small, "list on a phone, dark");
    await small.goto(server.url + "/ui/inbox");
    check("the page is not wider than a phone", await small.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
    await small.fill("article input[type=text]", "looks good");
    await shot(small, "phone-inbox");
    await axe(small, "inbox on a phone, dark");
    await small.check("article input[type=checkbox]");
    await small.click("article button.main");
    await small.waitForURL(/said=answered/);
    await eventually("the run ends, and the page of it says so", async () => (await page.textContent("h1")).includes("completed"));
    await small.goto(server.url + path);
    await small.waitForSelector(".gantt.ready");
    await shot(small, "phone-run");
    check("the run is not wider than a phone", await small.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
    await axe(small, "run on a phone, dark");

    await page.goto(server.url + path);
    await page.waitForSelector(".gantt.ready");
    await shot(page, "completed");
    await page.keyboard.press("j");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#drawer:not([hidden])");
    check("a step has an address", page.url().endsWith("#step-1"));
    await shot(page, "drawer");
    await axe(page, "drawer");
    const answer = await page.inputValue("#drawer textarea[name=answer]");
    check("the answer can be edited", answer.includes("write a plan"), answer);
    await page.fill("#drawer textarea[name=answer]", answer.replace("write a plan", "another plan"));
    await page.click("#drawer form.answer[action$='/fork'] button[name=preview]");
    await page.waitForSelector("h1:has-text('Fork preview')");
    await axe(page, "preview of a fork");
    await shot(page, "preview");
    await page.click("button.main");
    await page.waitForURL(/said=started/);
    const fork = new URL(page.url()).pathname.split("/").pop();
    check("the fork is another run", fork !== run);
    await page.goto(`${server.url}/ui/compare?a=${run}&b=${fork}`);
    await page.waitForSelector(".gantt.ready");
    check("the comparison shows both answers", /another plan/.test(await page.textContent("main")));
    await shot(page, "compare");
    await axe(page, "comparison");

    for (const [name, at] of [["at", `${path}/at?entry=3`], ["journal", `${path}/journal`], ["logs", `${path}/logs`], ["modules", "/ui/modules"], ["schedules", "/ui/schedules"], ["workers", "/ui/workers"], ["tokens", "/ui/tokens"], ["settings", "/ui/settings"], ["plugins", "/ui/plugins"], ["sinks", "/ui/sinks"], ["sink", "/ui/sinks/nobody"], ["inbox", "/ui/inbox"], ["step", `${path}/steps/1`]]) {
        await page.goto(server.url + at);
        await shot(page, name);
        await axe(page, name);
    }

    // A sink that takes nothing: what was given up is seen, and delivered again by a button.
    await eventually("it is given up", async () => (await api("GET", "/sinks")).sinks[0].given_up > 0);
    await page.goto(server.url + "/ui/sinks");
    check("what was given up is told", (await page.textContent("tbody tr")).includes("given up"));
    await page.click("tbody td.num a");
    await page.waitForURL(/state=given-up/);
    await page.click("tbody summary");
    await shot(page, "sink-given-up");
    await axe(page, "messages of a sink");
    await page.click("tbody button");
    await page.waitForURL(/said=due/);
    check("a message is due again", (await page.textContent(".said")).includes("due again"));
    await small.goto(server.url + "/ui/sinks/nobody");
    await shot(small, "phone-sink");
    check("the messages of a sink are not wider than a phone", await small.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
    await axe(small, "messages of a sink on a phone, dark");

    // Acts on many runs: a look, then the act.
    for (let i = 0; i < 3; i++) await api("POST", "/runs", { workflow: "probe", id: `many-${i}`, labels: { batch: "one" }, input: { do: [{ wait: { name: "go" } }] } });
    await page.goto(server.url + "/ui?label=batch%3Done");
    await page.click("details.many summary");
    await page.selectOption("details.many select", "terminate");
    await shot(page, "many-chosen");
    await axe(page, "list with acts on many");
    await page.click("details.many button");
    await page.waitForSelector("h1:has-text('Terminate 3 runs?')");
    await shot(page, "many-preview");
    await axe(page, "preview of an act on many");
    await small.goto(page.url());
    await shot(small, "phone-many-preview");
    check("the preview is not wider than a phone", await small.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
    await axe(small, "preview of an act on many on a phone, dark");
    await page.fill("input[name=reason]", "tidying up");
    await page.click("form.answer button.danger");
    await page.waitForSelector("h1:has-text('Terminate: 3 runs done')");
    await shot(page, "many-done");
    await eventually("they have ended", async () => (await api("GET", "/runs?label=batch=one&state=cancelled")).runs.length === 3);
    check("many runs are ended at once", true);

    // More than one part: the page goes on by itself, and stops when it is told to.
    const crowd = 600;
    for (let i = 0; i < crowd; i += 20) await Promise.all([...Array(20)].map((_, n) => api("POST", "/runs", { workflow: "probe", id: `crowd-${i + n}`, labels: { batch: "crowd" }, input: { do: [{ wait: { name: "go" } }] } })));
    await eventually("they wait", async () => (await api("POST", "/runs/batch", { filter: { label: "batch=crowd", state: "waiting" }, act: "pause" })).count === crowd);
    const pauses = server.url + "/ui/batch?act=pause&label=batch%3Dcrowd";
    await page.goto(pauses);
    await page.click("form.answer button");
    await page.waitForSelector("progress");
    await page.click("[data-stop]");
    await shot(page, "parts-stopped");
    await axe(page, "an act on many that was stopped");
    await page.waitForTimeout(1_000);
    const paused = async () => (await api("POST", "/runs/batch", { filter: { label: "batch=crowd", state: "paused" }, act: "pause" })).count;
    const stopped = await paused();
    check("an act on many that is stopped leaves the rest", stopped > 0 && stopped < crowd && (await page.textContent("h1")).includes(`${crowd - stopped} left`), `${stopped}`);
    await page.click("form[data-continue] button.main");
    await page.waitForSelector(`h1:has-text('Pause: ${crowd} runs done')`);
    check("it goes on part after part by itself", await paused() === crowd);
    await shot(page, "parts-done");

    // A call that waits for a slot is seen to do so while it waits.
    await api("POST", "/runs", { workflow: "probe", id: "queued", input: { do: [{ parallel: [{ agent_of: { provider: "gated", prompt: "a" } }, { agent_of: { provider: "gated", prompt: "b" } }] }] } });
    await page.goto(server.url + "/ui/runs/queued");
    await page.waitForSelector(".gantt.ready .row");
    await eventually("the chart shows that a call waits for its turn", async () => await page.locator(".rows .bar.queue").count() === 1 && await page.locator(".rows .bar.open").count() === 1);
    await eventually("the page says it, too", async () => (await page.textContent("main")).includes("waits for its turn"));
    check("who waits is told from who works", true);
    await shot(page, "queued");
    await axe(page, "a call that waits for its turn");
    writeFileSync(join(home, "go"), "");
    await eventually("both end", async () => (await api("GET", "/runs/queued")).state === "completed");

    // The chart tells apart what a call did: waiting for its turn, a retry, a host that was killed.
    const call = (provider) => ({ agent_of: { provider, prompt: provider } });
    await api("POST", "/runs?wait=30s", { workflow: "probe", id: "told-apart", input: { do: [
        { parallel: [call("slow"), call("slow"), call("slow")] },
        { agent_with: { prompt: "again", providers: ["flaky"], retry: { max_attempts: 3, initial: 400, factor: 1, max: 400, jitter: 0 } } },
    ] } });
    await api("POST", "/runs", { workflow: "probe", id: "taken-over", input: { do: [{ agent: "before" }, call("slow"), { agent: "behind" }] } });
    await eventually("a call is at work", async () => (await api("GET", "/runs/taken-over/transcript")).lines?.length > 0);
    server.child.kill("SIGKILL");
    server = await serve(server.listen);
    await eventually("another host ends the run", async () => (await api("GET", "/runs/taken-over")).state === "completed");
    await page.goto(server.url + "/ui/runs/told-apart");
    await page.waitForSelector(".gantt.ready .row");
    check("waiting for a turn is told apart", await page.locator(".rows .bar.queue").count() >= 2);
    await shot(page, "told-apart");
    await axe(page, "chart with waits for turns and a retry");
    await page.goto(server.url + "/ui/runs/taken-over");
    await page.waitForSelector(".gantt.ready .row");
    check("a takeover is told", (await page.textContent(".marks")).includes("taken over") && await page.locator(".axis .line.replays").count() === 1);
    await shot(page, "taken-over");
    await axe(page, "chart with a takeover");
    await page.click(".marks a");
    await page.waitForSelector("h1:has-text('State at entry')");

    // The slider, by keys and without scripts.
    await page.goto(server.url + path + "?at=5");
    await page.waitForURL(/at\?entry=5/);
    check("an entry has an address", (await page.textContent("h1")).includes("entry 5"));
    await page.focus("[data-slide]");
    await page.keyboard.press("ArrowLeft");
    await page.waitForURL(/entry=4/);
    check("the slider moves by keys", (await page.textContent("h1")).includes("entry 4"));
    await shot(page, "slider");
    await small.goto(page.url());
    await shot(small, "phone-slider");
    check("the slider is not wider than a phone", await small.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
    await axe(small, "slider on a phone, dark");
    await small.goto(server.url + "/ui/settings");
    await shot(small, "phone-settings");
    check("settings are not wider than a phone", await small.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
    await axe(small, "settings on a phone, dark");
    await small.goto(server.url + "/ui/plugins");
    check("plugins are not wider than a phone", await small.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
    await axe(small, "plugins on a phone, dark");

    // By keys only: start, signal, look at a step, go back.
    await page.goto(server.url + "/ui");
    await page.keyboard.press("g");
    await page.keyboard.press("s");
    await page.waitForURL(/\/ui\/start/);
    await tabTo(page, "textarea[name=input]");
    await page.keyboard.press("ControlOrMeta+a");
    await page.keyboard.type(JSON.stringify({ do: [{ agent: "by keys" }, { wait: { name: "key" } }] }));
    await tabTo(page, "main form.answer button");
    await page.keyboard.press("Enter");
    await page.waitForURL(/\/ui\/runs\/run_/);
    const keyed = page.url().split("/").pop().split("?")[0];
    await eventually("it waits", async () => (await page.textContent("main")).includes("it waits for key"));
    await tabTo(page, "form[action$='/signal'] button");
    await page.keyboard.press("Enter");
    await page.waitForURL(/said=sent/);
    await eventually("it ended", async () => (await api("GET", `/runs/${keyed}`)).state === "completed");
    await page.waitForSelector(".gantt.ready .row");
    await page.keyboard.press("j");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#drawer:not([hidden])");
    await page.keyboard.press("Escape");
    await page.waitForSelector("#drawer", { state: "hidden" });
    check("a run is started, signalled and looked into by keys only", true);

    // Another database at the same address.
    const team = await (await context()).newPage();
    await login(team, "/ns/team", server.team);
    check("a namespace has its own runs", (await team.textContent("main")).includes("Nothing has run here yet"));
    execFileSync(WFHOST, ["add", PROBE, "--db", join(home, "team.db")], { env, cwd: home });
    await team.goto(server.url + "/ns/team/ui");
    await eventually("it is live", async () => (await team.textContent("#link")) === "Live");
    await fetch(server.url + "/ns/team/api/v1/runs", { method: "POST", headers: { authorization: `Bearer ${server.team}`, "content-type": "application/json" }, body: JSON.stringify({ workflow: "probe", id: "of-the-team", input: { do: [{ wait: { name: "go" } }] } }) });
    await eventually("the list of the namespace follows", async () => (await team.textContent("main")).includes("of-the-team"));
    await team.click("td.id a");
    await team.waitForSelector(".gantt.ready .row");
    check("its pages stay within it", team.url().includes("/ns/team/ui/runs/of-the-team"));
    await shot(team, "namespace");
    await axe(team, "run of a namespace");

    // Without scripts everything can be read.
    const bare = await context({ javaScriptEnabled: false });
    const plain = await bare.newPage();
    await login(plain);
    await plain.goto(server.url + path);
    check("steps are a table without scripts", await plain.locator("table.steps tr[data-row]").first().isVisible());
    await shot(plain, "no-script");
    await plain.goto(`${server.url}${path}/at?entry=3`);
    await plain.click("a[rel=prev]");
    check("the slider works without scripts", (await plain.textContent("h1")).includes("entry 2"));
    await plain.goto(server.url + "/ui?state=completed");
    await plain.click("details.many summary");
    await plain.selectOption("details.many select", "pause");
    await plain.click("details.many button");
    check("acts on many can be looked at without scripts", (await plain.textContent("h1")).startsWith("Pause "));

    // Twelve tabs are live at once, though a browser has six connections to a server.
    const tabs = [];
    for (let i = 0; i < 12; i++) {
        const tab = await desk.newPage();
        await tab.goto(server.url + "/ui");
        tabs.push(tab);
    }
    await api("POST", "/runs", { workflow: "probe", id: "for-tabs", input: { do: [{ wait: { name: "x" } }] } });
    // A page in the background is brought up to date when it is looked at.
    for (const [index, tab] of tabs.entries()) {
        await tab.bringToFront();
        await eventually(`tab ${index} shows the run`, async () => (await tab.textContent("main")).includes("for-tabs"));
    }
    check("12 tabs are live", true);
    for (const tab of tabs) await tab.close();

    // From a commit to the page. What a browser does for a tab that nobody sees takes a second.
    await page.bringToFront();
    await page.goto(server.url + "/ui");
    await eventually("live", async () => (await page.textContent("#link")) === "Live");
    const late = [];
    for (let i = 0; i < 9; i++) {
        await page.waitForTimeout(1_500);
        const shown = page.waitForSelector(`#run-seen-${i}`, { state: "attached" });
        const sent = performance.now();
        await api("POST", "/runs", { workflow: "probe", id: `seen-${i}`, input: { do: [{ wait: { name: "x" } }] } });
        await shown;
        late.push(performance.now() - sent);
    }
    console.log(`     a run that is started by a request is in the list after ${late.sort((a, b) => a - b)[4].toFixed(0)} ms (median)`);

    // 10,000 steps.
    await api("POST", "/runs?wait=60s", { workflow: "probe", id: "many", input: { do: [{ agent_many: { count: 10000, bytes: 10 } }] } });
    const before = Date.now();
    await page.goto(server.url + "/ui/runs/many");
    await page.waitForSelector(".gantt.ready .row");
    const loaded = Date.now() - before;
    const frame = await page.evaluate(async () => {
        const view = document.querySelector(".rows"), times = [];
        for (let i = 0; i < 100; i++) {
            const at = performance.now();
            view.scrollTop = i * 2000;
            await new Promise((go) => requestAnimationFrame(go));
            times.push(performance.now() - at);
        }
        return times.sort((a, b) => a - b)[50];
    });
    console.log(`     10,000 steps: drawn after ${loaded} ms, p50 of a frame while scrolling ${frame.toFixed(1)} ms, ${await page.locator(".row").count()} rows in the document`);
    check("only rows in view are in the document", (await page.locator(".row").count()) < 60);
    check("a long run has an overview", await page.locator("canvas.map").isVisible());
    await page.evaluate(() => { document.querySelector(".rows").scrollTop = 0; });
    const map = await page.locator("canvas.map").boundingBox();
    await page.mouse.click(map.x + map.width / 2, map.y + 10);
    await eventually("a click into the overview goes there", async () => Math.abs(await page.evaluate(() => { const view = document.querySelector(".rows"); return view.scrollTop / view.scrollHeight - .5; })) < .05);
    const axis = await page.locator(".axis").boundingBox();
    await page.mouse.move(axis.x + axis.width * .5, axis.y + 8);
    await page.mouse.down();
    await page.mouse.move(axis.x + axis.width * .6, axis.y + 8, { steps: 4 });
    await page.mouse.up();
    check("drawing over the axis looks at a part of the time", await page.locator("button:has-text('Reset zoom')").isVisible());
    await shot(page, "many-zoomed");
    await page.focus(".rows");
    await page.keyboard.press("0");
    check("0 shows all of it again", !await page.locator("button:has-text('Reset zoom')").isVisible());
    await shot(page, "many");
    await axe(page, "a run of 10,000 steps");

    // A step that is looked at beside the run ends: the drawer says so, and what is filled in there stays.
    const asks = (prompt) => ({ ask: { prompt, choices: ["yes", "no"] } });
    await api("POST", "/runs", { workflow: "probe", id: "drawn", input: { do: [asks("Drawn?"), { wait: { name: "go" } }] } });
    await eventually("it asks", async () => (await api("GET", "/runs/drawn")).state === "waiting");
    await page.goto(server.url + "/ui/runs/drawn#step-1");
    await page.waitForSelector("#drawer:not([hidden]) article.question");
    await eventually("live", async () => (await page.textContent("#link")) === "Live");
    await api("POST", "/runs/drawn/steps/1/answer", { answer: "yes" });
    await eventually("the drawer shows the answer", async () => (await page.textContent("#drawer")).includes("completed") && await page.locator("#drawer article.question").count() === 0);
    check("the drawer follows its step", (await page.textContent("#drawer h2")).includes("Step 1") && await page.locator("#drawer h1").count() === 0);
    await page.fill("#drawer textarea[name=answer]", '"no"');
    await api("POST", "/runs/drawn/signals/go", 1);
    await eventually("the run ends", async () => (await page.textContent("h1")).includes("completed"));
    check("what is filled in beside the run stays", await page.inputValue("#drawer textarea[name=answer]") === '"no"');
    await axe(page, "a step beside its run that ended meanwhile");

    // Somebody else answers a question whose form is filled in: the next question has its own form.
    for (const name of ["one", "two"]) await api("POST", "/runs", { workflow: "probe", id: `asks-${name}`, input: { do: [asks(`The question of ${name}?`)] } });
    await page.goto(server.url + "/ui/inbox");
    await eventually("both ask", async () => await page.locator("article.question").count() === 2);
    await eventually("live", async () => (await page.textContent("#link")) === "Live");
    await page.fill("article:has-text('of one') input[name=note]", "meant for one");
    await api("POST", "/runs/asks-one/steps/1/answer", { answer: "yes" });
    await eventually("the first one is gone", async () => !(await page.textContent("main")).includes("The question of one?"));
    const forms = await page.locator("article.question").evaluateAll((all) => all.map((one) => [one.querySelector("h3").textContent, one.querySelector("form").getAttribute("action"), one.querySelector("input[name=note]").value]));
    check("a question stands above its own form", JSON.stringify(forms) === JSON.stringify([["The question of two?", "/ui/runs/asks-two/steps/1/answer", ""]]), JSON.stringify(forms));
    await api("POST", "/runs/asks-two/steps/1/answer", { answer: "yes" });

    // A page that the server could not make is old, and says so until it is there.
    await api("POST", "/runs", { workflow: "probe", id: "stale", input: { do: [{ wait: { name: "go" } }] } });
    await eventually("it waits", async () => (await api("GET", "/runs/stale")).state === "waiting");
    await page.goto(server.url + "/ui/runs/stale");
    await eventually("live", async () => (await page.textContent("#link")) === "Live");
    // What was refused is the answer to a form: it stays filled in, whatever happens meanwhile.
    const refused = await desk.newPage();
    await refused.goto(server.url + "/ui/runs/stale");
    await refused.evaluate(() => { document.querySelector("details.card form").noValidate = true; });
    await refused.fill("details.card form textarea", '{"half":');
    await refused.click("details.card form button");
    await refused.waitForSelector("details.card [role=alert]");
    await axe(refused, "a signal that was refused");
    await shot(refused, "refused");
    await page.bringToFront();
    await page.route("**/ui/runs/stale", (route) => route.fulfill({ status: 503, body: "busy" }));
    await api("POST", "/runs/stale/signals/go", 1);
    await eventually("the page says that it is old", async () => (await page.textContent("#link")) === "Not up to date");
    await eventually("the run has ended", async () => (await api("GET", "/runs/stale")).state === "completed");
    // Events go on meanwhile, and make it no newer.
    await api("POST", "/runs", { workflow: "probe", id: "beside", input: { do: [] } });
    await page.waitForTimeout(1_000);
    check("a page that is old is not said to be live", (await page.textContent("#link")) === "Not up to date" && !(await page.textContent("h1")).includes("completed"));
    await page.unroute("**/ui/runs/stale");
    await eventually("it is made again by itself", async () => (await page.textContent("h1")).includes("completed"));
    check("a page that is made again is live", (await page.textContent("#link")) === "Live");
    await refused.bringToFront();
    await refused.waitForTimeout(1_500);
    check("what was refused stays filled in", await refused.inputValue("details.card form textarea") === '{"half":' && (await refused.textContent("#link")) === "");
    await refused.close();
    await page.bringToFront();

    // Logged out in another tab: the page says so, and goes on saying so.
    const leaver = await context();
    const stays = await leaver.newPage(), leaves = await leaver.newPage();
    await login(stays);
    await eventually("live", async () => (await stays.textContent("#link")) === "Live");
    await leaves.goto(server.url + "/ui/modules");
    await leaves.click("form.out button");
    await leaves.waitForURL(/\/ui\/login/);
    await stays.bringToFront();
    await api("POST", "/runs", { workflow: "probe", id: "unseen", input: { do: [] } });
    await eventually("who is logged out is told so", async () => (await stays.textContent("#link")) === "You are logged out.");
    await stays.waitForTimeout(12_000);
    check("who is logged out is not told that the page is live", (await stays.textContent("#link")) === "You are logged out." && !(await stays.textContent("main")).includes("unseen"), await stays.textContent("#link"));
    await login(leaves);
    await stays.bringToFront();
    await eventually("who logs in again sees what is new", async () => (await stays.textContent("main")).includes("unseen"));
    check("a page of who logs in again is live", (await stays.textContent("#link")) === "Live");
    await leaver.close();
    await page.bringToFront();

    // The server goes away and comes back.
    await page.goto(server.url + "/ui");
    await eventually("live", async () => (await page.textContent("#link")) === "Live");
    server.child.kill("SIGKILL");
    await eventually("the page says that the connection is lost", async () => (await page.textContent("#link")) === "Connection lost");
    await shot(page, "lost");
    const { url } = server;
    server = await serve(server.listen);
    check("the same address", server.url === url);
    await eventually("the page is live again", async () => (await page.textContent("#link")) === "Live");
    await api("POST", "/runs", { workflow: "probe", id: "after", input: { do: [] } });
    await eventually("and shows what is new", async () => (await page.textContent("main")).includes("after"));
    check("it comes back by itself", true);

    check("no request left the machine", strays.length === 0, strays.join(" "));
    check("no error in the console", errors.length === 0, errors.join("\n"));
} catch (error) {
    check("the suite goes through", false, error.stack);
    for (const open of browser.contexts().flatMap((one) => one.pages())) await shot(open, "fault").catch(() => {});
} finally {
    await browser.close();
    server.child.kill("SIGKILL");
}
console.log(`${readdirSync(SHOTS).length} screenshots in ${SHOTS}`);
process.exit(faults === 0 ? 0 : 1);
