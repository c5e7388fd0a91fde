// @ts-check
// What makes pages follow what happens. Without it they are the same, and stand still.

import { chart } from "./gantt.js";

/** The database that the page is of, if the server has several: what its addresses begin with. */
const base = /^\/ns\/[^/]+/.exec(location.pathname)?.[0] ?? "";
const main = /** @type {HTMLElement} */ (document.getElementById("main"));
const link = /** @type {HTMLElement} */ (document.getElementById("link"));
document.documentElement.classList.add("js");

/** @type {import("./gantt.js").Chart[]} */
let charts = [];
for (const place of main.querySelectorAll("[data-chart]")) {
    charts.push(chart(/** @type {HTMLElement} */ (place), openDrawer));
}

// --- Live ------------------------------------------------------------------------------------------

const CONNECTING = "Connecting", LOST = "Connection lost", LOGGED_OUT = "You are logged out.", OLD = "Not up to date";
/** What is wrong with the stream of events, and with the last load of the page; nothing if empty. */
let broken = CONNECTING, stale = "";

/** Says whether the page shows what is. */
function show() {
    const fault = stale === LOGGED_OUT ? stale : broken || stale;
    say(fault || "Live", fault !== "" && fault !== CONNECTING);
}

/** Milliseconds between two loads of a page, at least. */
const PAUSE = 700;
/** Milliseconds until a page that could not be made is asked for again. */
const AGAIN = 3_000;
let loading = false, wanted = false, last = 0, timer = 0;

/** Loads what the page shows now, and changes only what differs. */
async function refresh() {
    // The answer to a form has no address: what was filled in would be lost.
    if ("answers" in main.dataset) return;
    if (loading || document.hidden) { wanted = true; return; }
    const early = PAUSE - (performance.now() - last);
    loading = true;
    wanted = false;
    if (early > 0) await new Promise((go) => setTimeout(go, early));
    const began = performance.now();
    try {
        stale = await load();
    } catch {
        stale = LOST;
    } finally {
        // A page that is slow to make is asked for less often.
        last = performance.now() + 2 * (performance.now() - began);
        loading = false;
    }
    show();
    // Nobody says when the server can make it again.
    clearTimeout(timer);
    if (stale === OLD) timer = setTimeout(refresh, AGAIN);
    if (wanted) refresh();
}

/** Loads all that is shown, and says what is wrong with it: nothing if it is as it should be. */
async function load() {
    const answer = await fetch(location.pathname + location.search, { headers: { accept: "text/html" } });
    if (answer.redirected || answer.status === 401) return LOGGED_OUT;
    if (!answer.ok) return OLD;
    await take(await answer.text());
    await Promise.all([...charts.map((chart) => chart.load()), renewDrawer()]);
    return "";
}

/**
 * Changes what differs, and only that. What somebody fills in stays as it is.
 * @param {HTMLElement} place @param {string} html
 */
async function morph(place, html) {
    for (const form of place.querySelectorAll("form")) {
        if (form.dataset.dirty || form.contains(document.activeElement)) form.dataset.own = "";
    }
    // What somebody opened stays open.
    for (const one of /** @type {NodeListOf<HTMLDetailsElement>} */ (place.querySelectorAll("details[data-toggled]"))) {
        if (one.open) one.dataset.own = ""; else delete one.dataset.own;
    }
    // @ts-ignore: htmx is a global of its own file.
    await window.htmx.swap({ sourceElement: place, target: place, swap: "innerMorph", text: html, transition: false });
    for (const form of place.querySelectorAll("form[data-own]")) {
        if (!/** @type {HTMLFormElement} */ (form).dataset.dirty && !form.matches(".filter, .answer")) form.removeAttribute("data-own");
    }
}

/** Marks what somebody changes in a part of the page. @param {HTMLElement} place */
function watch(place) {
    place.addEventListener("input", (event) => {
        const form = /** @type {HTMLElement} */ (event.target).closest("form");
        if (form) form.dataset.dirty = "1";
    });
    place.addEventListener("click", (event) => {
        const summary = /** @type {HTMLElement} */ (event.target).closest("summary");
        if (summary?.parentElement) summary.parentElement.dataset.toggled = "1";
    });
}

/** @param {string} html */
async function take(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    const next = fresh.getElementById("main");
    if (!next) return;
    // Said once is enough.
    next.querySelector(".said")?.remove();
    main.querySelector(":scope > .said")?.remove();
    const row = main.querySelector("tr.here");
    await morph(main, next.innerHTML);
    if (row?.id) document.getElementById(row.id)?.classList.add("here");
    document.title = fresh.title;
    const count = document.querySelector("header nav"), counted = fresh.querySelector("header nav");
    if (count && counted && count.innerHTML !== counted.innerHTML) count.innerHTML = counted.innerHTML;
    if (!next.dataset.live) delete main.dataset.live;
    spell();
}

watch(main);

/** @param {string} text @param {boolean} [bad] */
function say(text, bad) {
    if (link.textContent !== text) link.textContent = text;
    link.className = bad ? "bad" : "";
}

/** Something happened to this run. @param {string} run */
function changed(run) {
    const live = main.dataset.live;
    if (live === "all" || live === run || charts.some((chart) => chart.follows(run))) refresh();
}

// A call waits for its turn, or got it. That is no commit.
main.addEventListener("turn", () => refresh());

// A browser has few connections to a server: one tab has the stream, and tells the others. When it is
// closed the next one takes over.
const channel = new BroadcastChannel("wfhost" + base);
let heard = performance.now();
let mine = false;

/** @param {{kind: string, run?: string}} news */
function hear(news) {
    heard = performance.now();
    // What happened before the stream was there is on no stream.
    const fresh = news.kind === "open" || broken === LOST || stale !== "";
    broken = news.kind === "lost" ? LOST : "";
    show();
    if (broken) return;
    if (fresh) refresh();
    if (news.kind === "commit" && news.run) changed(news.run);
}

/** @param {{kind: string, run?: string}} news */
function tell(news) { hear(news); channel.postMessage(news); }

function listen() {
    return new Promise(() => {
        mine = true;
        const stream = new EventSource(base + "/api/v1/events?kinds=commit");
        stream.onopen = () => tell({ kind: "open" });
        stream.addEventListener("commit", (event) => tell({ kind: "commit", run: JSON.parse(event.data).run }));
        stream.addEventListener("ping", () => tell({ kind: "ping" }));
        stream.onerror = () => {
            tell({ kind: "lost" });
            // A refused stream is not opened again by the browser. The page says whether it is one of nobody.
            if (stream.readyState !== EventSource.CLOSED) return;
            if (stale !== LOGGED_OUT) refresh();
            setTimeout(() => again(), 2000);
        };
        const again = () => { if (stream.readyState === EventSource.CLOSED) { stream.close(); listen(); } };
    });
}
if (!("answers" in main.dataset) && (main.dataset.live || charts.length > 0)) {
    show();
    channel.onmessage = (event) => hear(event.data);
    if (navigator.locks) navigator.locks.request("wfhost-events" + base, listen);
    else listen();
    // Whoever has the stream may be gone without a word.
    setInterval(() => { if (performance.now() - heard > 25_000) { broken = LOST; show(); } }, 5_000);
    // Another tab has the stream already, and it is quiet.
    setTimeout(() => { if (!mine && broken === CONNECTING) { broken = ""; show(); refresh(); } }, 1_500);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden && wanted) refresh(); });

// --- Times -----------------------------------------------------------------------------------------

const UNITS = /** @type {[number, string][]} */ ([[86_400, "d"], [3_600, "h"], [60, "m"], [1, "s"]]);

/** A length of time as the server spells it. @param {number} seconds whole ones */
function length(seconds) {
    const first = UNITS.findIndex(([unit]) => seconds >= unit);
    if (first < 0) return "0s";
    const words = UNITS.slice(first, first + 2).map(([unit, name], index) =>
        [Math.floor((index ? seconds % UNITS[first][0] : seconds) / unit), name]);
    return words.filter(([number], index) => index === 0 || number).map((word) => word.join("")).join(" ");
}

/** Writes the local time over each time, and how long ago it was. */
function spell() {
    for (const time of /** @type {NodeListOf<HTMLTimeElement>} */ (document.querySelectorAll("time[datetime]"))) {
        const at = new Date(time.dateTime).getTime();
        if (isNaN(at)) continue;
        time.title = new Date(at).toLocaleString();
        if (!("ago" in time.dataset)) continue;
        // The clocks of a browser and a server differ.
        const seconds = Math.floor((Date.now() + ahead - at) / 1000);
        const text = time.dataset.ago === "age" ? length(Math.max(seconds, 0))
            : seconds < 0 ? `in ${length(-seconds)}` : seconds < 1 ? "just now" : `${length(seconds)} ago`;
        if (time.textContent !== text) time.textContent = text;
    }
}
/** Milliseconds by which the server's clock is ahead of this one. */
const ahead = new Date(main.dataset.now ?? Date.now()).getTime() - Date.now();
setInterval(() => { if (!document.hidden) spell(); }, 1_000);
spell();

// --- Drawer ----------------------------------------------------------------------------------------

const drawer = document.createElement("aside");
drawer.id = "drawer";
drawer.hidden = true;
drawer.tabIndex = -1;
drawer.setAttribute("aria-label", "Step");
document.body.append(drawer);
watch(drawer);
/** @type {Element | null} */
let opener = null;
/** The page of the step in it. */
let drawn = "";

/** The part of a page that shows a step; none if there is no such page. @param {string} href */
async function stepOf(href) {
    const answer = await fetch(href, { headers: { accept: "text/html" } }).catch(() => null);
    const fresh = answer?.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
    const step = fresh?.getElementById("step");
    // Within a page the heading is one of the second rank.
    const title = step?.querySelector("h1");
    if (title) {
        const lower = document.createElement("h2");
        lower.id = title.id;
        lower.append(...title.childNodes);
        title.replaceWith(lower);
    }
    return step;
}

/** Shows the step in the drawer as it is now. */
async function renewDrawer() {
    if (drawer.hidden) return;
    const href = drawn;
    const step = await stepOf(href), known = /** @type {HTMLElement | null} */ (drawer.querySelector("#step"));
    // Meanwhile it may have been closed, or show another one.
    if (!step || !known || drawer.hidden || drawn !== href) return;
    await morph(known, step.innerHTML);
    ready(drawer);
    spell();
}

/** Shows the page of a step beside the run. @param {string} href */
async function openDrawer(href) {
    opener ??= document.activeElement;
    const step = await stepOf(href);
    if (!step) { location.href = href; return; }
    drawn = href;
    const close = document.createElement("button");
    close.type = "button";
    close.className = "close quiet";
    close.textContent = "Close";
    close.onclick = closeDrawer;
    const whole = document.createElement("a");
    whole.href = href;
    whole.textContent = "Open as a page";
    const bar = document.createElement("p");
    bar.className = "acts";
    bar.append(whole, " ", close);
    drawer.replaceChildren(bar, document.adoptNode(step));
    drawer.hidden = false;
    document.body.classList.add("drawn");
    history.replaceState(null, "", "#step-" + href.split("/").pop());
    ready(drawer);
    spell();
    drawer.focus({ preventScroll: true });
    for (const chart of charts) chart.paint();
}

function closeDrawer() {
    drawer.hidden = true;
    document.body.classList.remove("drawn");
    history.replaceState(null, "", location.pathname + location.search);
    for (const chart of charts) chart.paint();
    // A row of a chart is made anew when it is painted.
    if (opener instanceof HTMLElement && opener.isConnected) opener.focus({ preventScroll: true });
    else charts[0]?.move(0);
    opener = null;
}

const deep = /^#step-(\d+)$/.exec(location.hash);
const first = /** @type {HTMLElement | null} */ (main.querySelector("[data-chart]"));
if (deep && first) openDrawer(first.dataset.chart + "/steps/" + deep[1]);

// --- Copy, JSON, slider ----------------------------------------------------------------------------

/** @param {HTMLElement} place */
function ready(place) {
    for (const code of place.querySelectorAll("code.copy")) {
        if (code.nextElementSibling?.matches(".copier")) continue;
        const button = document.createElement("button");
        button.type = "button";
        button.className = "quiet copier";
        button.textContent = "Copy";
        button.dataset.own = "";
        code.after(button);
    }
    for (const area of place.querySelectorAll("textarea[data-json]")) {
        // The same one again counts once.
        area.addEventListener("input", checkInput);
    }
}
/** @param {Event} event */
function checkInput(event) { checkJson(/** @type {HTMLTextAreaElement} */ (event.currentTarget)); }
document.addEventListener("click", async (event) => {
    const button = /** @type {HTMLElement} */ (event.target).closest?.(".copier");
    if (!button) return;
    const text = button.previousElementSibling?.textContent ?? "";
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } catch { getSelection()?.selectAllChildren(/** @type {Element} */ (button.previousElementSibling)); }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
});
ready(main);

/** Says at once what is wrong; the server checks it again. @param {HTMLTextAreaElement} area */
function checkJson(area) {
    const text = area.value.trim();
    let fault = "";
    try { if (text) JSON.parse(text); } catch (error) { fault = error instanceof Error ? error.message : "This is not valid JSON."; }
    area.setCustomValidity(fault);
    area.setAttribute("aria-invalid", String(fault !== ""));
    let said = /** @type {HTMLElement | null} */ (area.parentElement?.querySelector(".json-fault") ?? null);
    if (!said) {
        said = document.createElement("small");
        said.className = "json-fault";
        said.setAttribute("role", "status");
        area.after(said);
    }
    said.textContent = fault;
}

const slide = /** @type {HTMLInputElement | null} */ (main.querySelector("[data-slide]"));
if (slide) {
    const output = slide.form?.querySelector("output");
    slide.addEventListener("input", () => { if (output) output.textContent = slide.value; });
    slide.addEventListener("change", () => slide.form?.submit());
}

// --- Acts on many runs: part after part ------------------------------------------------------------

const goesOn = /** @type {HTMLFormElement | null} */ (main.querySelector("form[data-continue]"));
if (goesOn) {
    const timer = setTimeout(() => goesOn.requestSubmit(), 300);
    const stop = /** @type {HTMLButtonElement | null} */ (goesOn.querySelector("[data-stop]"));
    stop?.addEventListener("click", () => {
        clearTimeout(timer);
        stop.remove();
        const said = main.querySelector("[data-told]");
        if (said) said.textContent = "Stopped. The remaining runs are unchanged.";
    });
}

// --- Keys ------------------------------------------------------------------------------------------

const sheet = /** @type {HTMLDialogElement} */ (document.getElementById("sheet"));
document.getElementById("keys")?.addEventListener("click", () => sheet.showModal());
let went = 0;

/** @param {number} by */
function move(by) {
    if (charts.length === 1 && charts[0].count() > 0 && !main.querySelector("table.runs")) return charts[0].move(by);
    const rows = [...main.querySelectorAll("tr[data-row]")].filter((row) => row.getClientRects().length > 0);
    if (rows.length === 0) return;
    const at = rows.findIndex((row) => row.classList.contains("here"));
    const next = rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + by))];
    for (const row of rows) row.classList.toggle("here", row === next);
    next.scrollIntoView({ block: "nearest" });
    /** @type {HTMLElement | null} */ (next.querySelector("a"))?.focus({ preventScroll: true });
}

document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const on = /** @type {HTMLElement} */ (event.target);
    const types = on.matches("input:not([type=radio]):not([type=checkbox]), textarea, select");
    if (event.key === "Escape") {
        if (types) on.blur(); else if (!drawer.hidden) closeDrawer();
        return;
    }
    if (types || sheet.open) return;
    if (performance.now() - went < 1000) {
        const to = { r: "/ui", i: "/ui/inbox", s: "/ui/start", m: "/ui/modules" }[event.key];
        went = 0;
        if (to) { location.href = base + to; return; }
    }
    switch (event.key) {
        case "j": move(1); break;
        case "k": move(-1); break;
        case "g": went = performance.now(); break;
        case "?": sheet.showModal(); break;
        case "/": {
            const field = /** @type {HTMLElement | null} */ (main.querySelector("#search, .gantt input[type=search]"));
            if (field) { event.preventDefault(); field.focus(); }
            break;
        }
    }
});
