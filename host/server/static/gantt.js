// @ts-check
// The steps of a run on a time axis. Only the rows in view are in the document, and the axis shows the
// time of these; idle time is folded.

/** @typedef {{from: number, to: number | null, state: string}} Attempt */
/** @typedef {{step: number, asked: number, answered: number | null, kind: string, label: string, state: string, from: number, to: number | null, attempts: Attempt[], until: number | null, provider: string | null, cost: number}} Bar */
/** @typedef {{load: () => Promise<void>, paint: () => void, move: (by: number) => void, count: () => number, follows: (run: string) => boolean}} Chart */
/** @typedef {{t0: number, t1: number, x0: number, x1: number, folded: boolean}} Part */

const ROW = 26, LEAST = 2, FOLD = 30;
/** Kinds that do nothing but wait. */
const WAITS = new Set(["sleep", "signal", "ask"]);

/** A length of time in a few characters. @param {number} ms */
export function spell(ms) {
    const units = /** @type {[number, string][]} */ ([[86400000, "d"], [3600000, "h"], [60000, "m"], [1000, "s"]]);
    if (ms < 1000) return Math.round(ms) + "ms";
    if (ms < 60000) return +(ms / 1000).toFixed(ms < 10000 ? 2 : 1) + "s";
    const at = units.findIndex(([size]) => ms >= size);
    const [size, name] = units[at], [small, less] = units[at + 1];
    const rest = Math.floor((ms % size) / small);
    return Math.floor(ms / size) + name + (rest ? " " + rest + less : "");
}

/** Where times are on an axis: parts, some of them folded.
 * @param {Bar[]} bars @param {number} now @param {number} width @param {boolean} fold @returns {Part[]} */
export function axis(bars, now, width, fold) {
    /** @type {[number, number][]} */
    const busy = [];
    for (const bar of bars) {
        const end = bar.to ?? now;
        if (WAITS.has(bar.kind)) busy.push([bar.from, bar.from], [end, end]);
        else if (bar.attempts.length > 0) for (const one of bar.attempts) busy.push([one.from, one.to ?? now]);
        else busy.push([bar.from, end]);
    }
    if (busy.length === 0) return [];
    busy.sort((a, b) => a[0] - b[0]);
    let total = 0, reach = busy[0][0];
    for (const [from, to] of busy) { total += Math.max(0, to - Math.max(from, reach)); reach = Math.max(reach, to); }
    const long = fold ? Math.max(1000, total / 10) : Infinity;
    /** @type {Part[]} */
    const parts = [{ t0: busy[0][0], t1: busy[0][1], x0: 0, x1: 0, folded: false }];
    for (const [from, to] of busy) {
        const last = parts[parts.length - 1];
        if (from - last.t1 > long) {
            parts.push({ t0: last.t1, t1: from, x0: 0, x1: 0, folded: true }, { t0: from, t1: to, x0: 0, x1: 0, folded: false });
        } else last.t1 = Math.max(last.t1, to);
    }
    const folds = (parts.length - 1) / 2, shown = folds + 1;
    const each = Math.min(FOLD, width / 2 / Math.max(1, folds));
    const least = Math.min(16, (width - folds * each) / shown / 2);
    const room = width - folds * each - shown * least;
    const time = parts.reduce((sum, part) => sum + (part.folded ? 0 : part.t1 - part.t0), 0);
    let x = 0;
    for (const part of parts) {
        part.x0 = x;
        x += part.folded ? each : least + room * (time > 0 ? (part.t1 - part.t0) / time : 1 / shown);
        part.x1 = x;
    }
    return parts;
}

/** @param {Part[]} parts @param {number} time */
export function place(parts, time) {
    let low = 0, high = parts.length - 1;
    while (low < high) {
        const middle = (low + high) >> 1;
        if (parts[middle].t1 < time) low = middle + 1; else high = middle;
    }
    const part = parts[low];
    if (!part) return 0;
    const share = part.t1 > part.t0 ? (time - part.t0) / (part.t1 - part.t0) : 0;
    return part.x0 + (part.x1 - part.x0) * Math.max(0, Math.min(1, share));
}

/** @param {string} tag @param {string} [name] @param {string} [text] */
function make(tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
}

/** Shows characters that would not be seen. @param {string} text */
function plain(text) {
    return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
        (c) => "⟨U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩");
}

/** @param {HTMLElement} host @param {(href: string) => void} open @returns {Chart} */
export function chart(host, open) {
    const path = /** @type {string} */ (host.dataset.chart);
    const run = decodeURIComponent(path.split("/").pop() ?? "");
    /** @type {Bar[]} */
    let all = [], bars = [];
    let now = Date.now(), skew = 0, ended = true, here = -1, start = 0;

    const tools = make("div", "tools");
    const search = /** @type {HTMLInputElement} */ (make("input"));
    search.type = "search";
    search.placeholder = "filter steps";
    search.setAttribute("aria-label", "Filter steps");
    const which = /** @type {HTMLSelectElement} */ (make("select"));
    which.setAttribute("aria-label", "Which steps");
    for (const word of ["all", "open", "failed", "retried", "agent", "signal", "sleep", "ask", "child"]) which.append(new Option(word, word));
    /** @param {string} text */
    const box = (text) => {
        const label = make("label"), input = /** @type {HTMLInputElement} */ (make("input"));
        input.type = "checkbox";
        input.checked = true;
        label.append(input, " " + text);
        tools.append(label);
        input.onchange = paint;
        return input;
    };
    tools.append(search, which);
    const fold = box("fold idle time"), follow = box("axis follows rows");
    const told = make("span", "dim");
    told.setAttribute("role", "status");
    tools.append(told);
    const legend = make("p", "legend dim");
    for (const [name, text] of [["done", "attempt"], ["failed", "failed"], ["delay", "retry delay"], ["wait", "waits"], ["lost", "lost or dropped"], ["open", "in progress"]]) {
        const sample = make("i", "bar " + name);
        legend.append(sample, " " + text + " ");
    }
    const head = make("div", "axis");
    head.setAttribute("aria-hidden", "true");
    const view = make("div", "rows");
    view.tabIndex = 0;
    view.setAttribute("role", "region");
    view.setAttribute("aria-label", host.dataset.name ? `Steps of ${host.dataset.name} on a time axis` : "Steps on a time axis");
    const list = make("div", "list");
    list.setAttribute("role", "list");
    view.append(list);
    host.append(tools, head, view, legend);

    search.oninput = which.onchange = () => { here = -1; filter(); paint(); };
    view.addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
    new ResizeObserver(() => paint()).observe(view);
    list.addEventListener("click", (event) => {
        const link = /** @type {HTMLElement} */ (event.target).closest("a");
        const row = /** @type {HTMLElement} */ (event.target).closest("[data-index]");
        if (!row || event.ctrlKey || event.metaKey || event.shiftKey) return;
        const target = /** @type {HTMLAnchorElement} */ (link ?? row.querySelector("a"));
        event.preventDefault();
        here = Number(/** @type {HTMLElement} */ (row).dataset.index);
        target.focus({ preventScroll: true });
        paint();
        open(/** @type {string} */ (target.getAttribute("href")));
    });

    function filter() {
        const text = search.value.toLowerCase(), word = which.value;
        bars = all.filter((bar) => {
            const fits = word === "all" || bar.state === word || bar.kind === word || (word === "retried" && bar.attempts.length > 1);
            return fits && (!text || (bar.kind + " " + bar.label + " " + bar.step).toLowerCase().includes(text));
        });
        told.textContent = bars.length === all.length ? "" : bars.length + " of " + all.length;
    }

    /** @param {Bar} bar @param {Part[]} parts @param {HTMLElement} into */
    function draw(bar, parts, into) {
        /** @param {number} from @param {number} to @param {string} name */
        const put = (from, to, name) => {
            const one = make("i", "bar " + name), x = place(parts, from);
            one.style.left = x + "px";
            one.style.width = Math.max(LEAST, place(parts, to) - x) + "px";
            into.append(one);
        };
        const end = bar.to ?? now;
        if (WAITS.has(bar.kind)) return put(bar.from, end, "wait " + bar.state);
        if (bar.attempts.length === 0) return put(bar.from, end, bar.state === "completed" ? "done" : bar.state === "cancelled" ? "lost" : bar.state);
        let before = bar.from;
        for (const one of bar.attempts) {
            if (one.from > before) put(before, one.from, "delay");
            put(one.from, one.to ?? now, one.state);
            before = one.to ?? now;
        }
        if (bar.to === null && bar.until !== null && before < now) put(before, now, "delay");
    }

    function paint() {
        const height = view.clientHeight, top = view.scrollTop;
        const from = Math.max(0, Math.floor(top / ROW)), to = Math.min(bars.length, Math.ceil((top + height) / ROW));
        list.style.height = bars.length * ROW + "px";
        view.style.height = Math.min(bars.length * ROW, 520) + "px";
        if (!ended) now = Date.now() + skew;
        const names = Math.min(300, Math.max(110, view.clientWidth * 0.34));
        const width = Math.max(60, view.clientWidth - names - 104);
        const parts = axis(follow.checked ? bars.slice(from, Math.max(to, from + 1)) : bars, now, width, fold.checked);
        const focused = list.contains(document.activeElement);
        const rows = [];
        for (let index = from; index < to; index++) {
            const bar = bars[index];
            const row = make("div", "row" + (index === here ? " here" : ""));
            row.setAttribute("role", "listitem");
            row.setAttribute("aria-setsize", String(bars.length));
            row.setAttribute("aria-posinset", String(index + 1));
            row.dataset.index = String(index);
            row.style.top = index * ROW + "px";
            const link = /** @type {HTMLAnchorElement} */ (make("a", "name"));
            link.href = path + "/steps/" + bar.step;
            link.style.width = names + "px";
            const length = bar.to === null ? "open" : spell(bar.to - bar.from);
            const tries = bar.attempts.length > 1 ? ", " + bar.attempts.length + " attempts" : "";
            link.setAttribute("aria-label", `${bar.step} ${bar.kind} ${plain(bar.label)}, ${bar.state}, ${length}${tries}`);
            link.append(make("b", "dot " + bar.state), make("span", "number", String(bar.step)), " ", make("em", "", bar.kind), " " + plain(bar.label));
            link.title = plain(bar.label);
            const space = make("span", "space");
            space.setAttribute("aria-hidden", "true");
            space.style.width = width + "px";
            draw(bar, parts, space);
            const cost = bar.cost > 0 ? " $" + (bar.cost / 1e6).toFixed(3) : "";
            row.append(link, space, make("span", "took", length + cost));
            rows.push(row);
        }
        list.replaceChildren(...rows);
        if (focused) /** @type {HTMLElement | null} */ (list.querySelector(".here a"))?.focus({ preventScroll: true });
        paintAxis(parts, names);
    }

    /** @param {Part[]} parts @param {number} names */
    function paintAxis(parts, names) {
        const marks = [], folds = parts.filter((part) => part.folded);
        let free = -Infinity;
        for (const part of parts) {
            if (part.folded) {
                const gap = make("span", "fold", spell(part.t1 - part.t0));
                gap.title = "idle for " + spell(part.t1 - part.t0);
                gap.style.left = names + part.x0 + "px";
                gap.style.width = part.x1 - part.x0 + "px";
                gap.style.height = head.clientHeight + view.clientHeight + "px";
                marks.push(gap);
                continue;
            }
            const wide = part.x1 - part.x0, span = part.t1 - part.t0;
            const step = nice(span / Math.max(1, wide / 90));
            for (let time = part.t0; time <= part.t1; time = part.t0 === time ? start + Math.ceil((time - start + step / 2) / step) * step : time + step) {
                const x = place(parts, time);
                // The length of a fold stands where it is.
                if (folds.some((fold) => fold.x0 < x + 50 && x < fold.x1)) continue;
                if (x >= free && (x === part.x0 || x + 50 <= part.x1 || part === parts[parts.length - 1])) {
                    const mark = make("span", "tick", "+" + spell(time - start));
                    mark.style.left = names + x + "px";
                    marks.push(mark);
                    free = x + 76;
                }
                if (span === 0) break;
            }
        }
        head.replaceChildren(...marks);
    }

    /** @param {number} least */
    function nice(least) {
        const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 216e5, 432e5, 864e5];
        return steps.find((step) => step >= least) ?? Math.ceil(least / 864e5) * 864e5;
    }

    async function load() {
        const answer = await fetch(path + "/chart");
        if (!answer.ok) return;
        const told = await answer.json();
        const bottom = view.scrollTop + view.clientHeight >= bars.length * ROW - 4 && bars.length > 0;
        all = told.steps;
        skew = told.now - Date.now();
        now = told.now;
        ended = told.ended;
        start = all.length > 0 ? all[0].from : now;
        filter();
        host.classList.toggle("ready", all.length > 0);
        paint();
        // Whoever looks at the end goes on looking at it.
        if (bottom && !ended) { view.scrollTop = view.scrollHeight; paint(); }
    }

    /** @param {number} by */
    function move(by) {
        here = Math.max(0, Math.min(bars.length - 1, here < 0 ? 0 : here + by));
        const y = here * ROW;
        if (y < view.scrollTop) view.scrollTop = y;
        if (y + ROW > view.scrollTop + view.clientHeight) view.scrollTop = y + ROW - view.clientHeight;
        paint();
        /** @type {HTMLElement | null} */ (list.querySelector(".here a"))?.focus({ preventScroll: true });
    }

    load();
    setInterval(() => { if (!ended && !document.hidden && bars.some((bar) => bar.to === null)) paint(); }, 1000);
    return { load, paint, move, count: () => bars.length, follows: (other) => other === run };
}
