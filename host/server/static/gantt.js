// @ts-check
// The steps of a run on a time axis. Only the rows in view are in the document, and the axis shows the
// time of these; idle time is folded.

/** @typedef {{from: number, to: number | null, state: string, sent: number | null, first: number | null}} Attempt */
/** @typedef {{at: number, entry: number, what: string, replays: boolean}} Mark */
/** @typedef {{step: number, asked: number, answered: number | null, kind: string, label: string, state: string, from: number, to: number | null, attempts: Attempt[], until: number | null, provider: string | null, cost: number}} Bar */
/** @typedef {{load: () => Promise<void>, paint: () => void, move: (by: number) => void, count: () => number, follows: (run: string) => boolean}} Chart */
/** @typedef {{t0: number, t1: number, x0: number, x1: number, folded: boolean}} Part */

const ROW = 26, LEAST = 2, FOLD = 30;
/** Steps from which on there is an overview of all. */
const MANY = 60, MAP = 36;
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

/** Where times are on an axis: parts, some of them folded. With a range nothing is outside of it.
 * @param {Bar[]} bars @param {number} now @param {number} width @param {boolean} fold
 * @param {[number, number] | null} [range] @returns {Part[]} */
export function axis(bars, now, width, fold, range) {
    /** @type {[number, number][]} */
    const busy = [];
    for (const bar of bars) {
        const end = bar.to ?? now;
        if (WAITS.has(bar.kind)) busy.push([bar.from, bar.from], [end, end]);
        else if (bar.attempts.length > 0) for (const one of bar.attempts) busy.push([one.from, one.to ?? now]);
        else busy.push([bar.from, end]);
    }
    if (range) {
        for (const one of busy) for (const end of [0, 1]) one[end] = Math.max(range[0], Math.min(range[1], one[end]));
        busy.push([range[0], range[0]], [range[1], range[1]]);
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

/** The time at a place of an axis. @param {Part[]} parts @param {number} x */
export function timeAt(parts, x) {
    const part = parts.find((part) => x <= part.x1) ?? parts[parts.length - 1];
    if (!part) return 0;
    const share = part.x1 > part.x0 ? (x - part.x0) / (part.x1 - part.x0) : 0;
    return part.t0 + (part.t1 - part.t0) * Math.max(0, Math.min(1, share));
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
    let all = [];
    /** @type {Bar[]} */
    let bars = [];
    /** @type {Mark[]} */
    let marks = [];
    /** @type {Part[]} */
    let shown = [];
    /** @type {[number, number] | null} the part of the time that is looked at */
    let range = null;
    let now = Date.now(), skew = 0, ended = true, here = -1, start = 0, names = 0;

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
    const whole = /** @type {HTMLButtonElement} */ (make("button", "quiet", "Reset zoom"));
    whole.type = "button";
    whole.hidden = true;
    whole.onclick = () => zoom(null);
    tools.append(told, whole);
    const legend = make("p", "legend dim");
    /** @type {Record<string, HTMLElement>} */
    const samples = {};
    for (const [name, text] of [["done", "attempt"], ["queue", "queued"], ["failed", "failed"], ["delay", "retry delay"], ["wait", "waits"], ["lost", "lost or dropped"], ["open", "in progress"], ["mark", "taken over, retried, migrated"]]) {
        const sample = make("i", "bar " + name);
        samples[name] = sample;
        legend.append(sample, " " + text + " ");
    }
    const map = /** @type {HTMLCanvasElement} */ (make("canvas", "map"));
    map.setAttribute("aria-hidden", "true");
    map.hidden = true;
    const happened = make("ul", "marks");
    happened.setAttribute("aria-label", "Events of the run");
    const head = make("div", "axis");
    head.setAttribute("aria-hidden", "true");
    const view = make("div", "rows");
    view.tabIndex = 0;
    view.setAttribute("role", "region");
    view.setAttribute("aria-label", host.dataset.name ? `Steps of ${host.dataset.name} on a time axis` : "Steps on a time axis");
    const list = make("div", "list");
    list.setAttribute("role", "list");
    view.append(list);
    host.append(tools, map, head, view, legend, happened);

    search.oninput = which.onchange = () => { here = -1; filter(); paint(); };
    // A part of the axis is drawn over to look at it alone; a click into the overview scrolls there.
    head.addEventListener("pointerdown", (event) => {
        const from = event.offsetX, box = head.getBoundingClientRect();
        head.setPointerCapture(event.pointerId);
        const brush = make("span", "brush");
        head.append(brush);
        /** @param {PointerEvent} event */
        const drawn = (event) => {
            const x = event.clientX - box.left;
            brush.style.left = Math.min(from, x) + "px";
            brush.style.width = Math.abs(x - from) + "px";
            return x;
        };
        head.onpointermove = drawn;
        head.onpointerup = head.onpointercancel = (event) => {
            const x = drawn(event);
            brush.remove();
            head.onpointermove = head.onpointerup = head.onpointercancel = null;
            if (event.type === "pointerup" && Math.abs(x - from) > 6) zoom([timeAt(shown, Math.min(from, x) - names), timeAt(shown, Math.max(from, x) - names)]);
        };
    });
    /** @param {PointerEvent} event */
    const go = (event) => {
        const share = (event.clientX - map.getBoundingClientRect().left) / Math.max(1, map.clientWidth);
        view.scrollTop = share * bars.length * ROW - view.clientHeight / 2;
        paint();
    };
    map.onpointerdown = (event) => { map.setPointerCapture(event.pointerId); map.onpointermove = go; go(event); };
    map.onpointerup = map.onpointercancel = () => { map.onpointermove = null; };
    view.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const [from, to] = range ?? [shown[0]?.t0 ?? start, shown[shown.length - 1]?.t1 ?? now];
        const span = to - from;
        switch (event.key) {
            case "ArrowLeft": if (range) zoom([from - span / 4, to - span / 4]); break;
            case "ArrowRight": if (range) zoom([from + span / 4, to + span / 4]); break;
            case "+": case "=": zoom([from + span / 4, to - span / 4]); break;
            case "-": zoom([from - span / 2, to + span / 2]); break;
            case "0": zoom(null); break;
            default: return;
        }
        event.preventDefault();
    });
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
            const seen = !range || (bar.from <= range[1] && (bar.to ?? now) >= range[0]);
            return fits && seen && (!text || (bar.kind + " " + bar.label + " " + bar.step).toLowerCase().includes(text));
        });
        told.textContent = bars.length === all.length ? "" : bars.length + " of " + all.length;
        whole.hidden = range === null;
    }

    /** Looks at a part of the time, or at all of it. @param {[number, number] | null} part */
    function zoom(part) {
        const first = all.length > 0 ? all[0].from : now;
        const last = all.reduce((latest, bar) => Math.max(latest, bar.to ?? now), first);
        const from = Math.max(first, part?.[0] ?? first), to = Math.min(last, part?.[1] ?? last);
        // There is nothing between two milliseconds, and nothing outside of the run.
        if (part && to - from < 1) return;
        range = from === first && to === last ? null : [from, to];
        filter();
        paint();
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
            const end = one.to ?? now;
            before = end;
            if (one.state === "queued") { put(one.from, end, "queue"); continue; }
            if (one.sent !== null) put(one.from, one.sent, "queue");
            put(one.sent ?? one.from, end, one.state);
            if (one.first !== null && one.first > (one.sent ?? one.from)) put(one.first, one.first, "first");
        }
        if (bar.to === null && bar.until !== null && before < now) put(before, now, "delay");
    }

    function paint() {
        const height = view.clientHeight, top = view.scrollTop;
        const from = Math.max(0, Math.floor(top / ROW)), to = Math.min(bars.length, Math.ceil((top + height) / ROW));
        list.style.height = bars.length * ROW + "px";
        view.style.height = Math.min(bars.length * ROW, 520) + "px";
        if (!ended) now = Date.now() + skew;
        names = Math.min(300, Math.max(110, view.clientWidth * 0.34));
        const width = Math.max(60, view.clientWidth - names - 104);
        const parts = axis(follow.checked ? bars.slice(from, Math.max(to, from + 1)) : bars, now, width, fold.checked, range);
        shown = parts;
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
            const state = bar.attempts.some((one) => one.state === "queued") ? "queued" : bar.state;
            link.setAttribute("aria-label", `${bar.step} ${bar.kind} ${plain(bar.label)}, ${state}, ${length}${tries}`);
            link.append(make("b", "dot " + bar.state), make("span", "number", String(bar.step)), " ", make("em", "", bar.kind), " " + plain(bar.label));
            link.title = plain(bar.label);
            const space = make("span", "space");
            space.setAttribute("aria-hidden", "true");
            space.style.width = width + "px";
            draw(bar, parts, space);
            const cost = bar.cost > 0 ? " $" + (bar.cost / 1e6).toFixed(3) : "";
            row.append(link, space, make("span", "took", (state === "queued" ? state : length) + cost));
            rows.push(row);
        }
        list.replaceChildren(...rows);
        if (focused) /** @type {HTMLElement | null} */ (list.querySelector(".here a"))?.focus({ preventScroll: true });
        paintAxis(parts);
        paintMap(from, to);
    }

    /** All steps as a strip: where what failed, took long, or goes on, and which of them are in view.
     * @param {number} from @param {number} to */
    function paintMap(from, to) {
        map.hidden = bars.length < MANY;
        if (map.hidden) return;
        const wide = map.clientWidth, scale = devicePixelRatio || 1;
        map.width = wide * scale;
        map.height = MAP * scale;
        const pen = map.getContext("2d");
        if (!pen || wide === 0) return;
        pen.scale(scale, scale);
        // The colours of the legend, in the scheme of the system.
        /** @param {string} name */
        const colour = (name) => getComputedStyle(samples[name]).backgroundColor;
        const colours = [colour("done"), getComputedStyle(samples.mark).borderLeftColor, colour("open"), colour("failed")];
        const longest = bars.reduce((most, bar) => Math.max(most, (bar.to ?? now) - bar.from), 1);
        const columns = Math.max(1, Math.floor(wide / 2));
        for (let column = 0; column < columns; column++) {
            const first = Math.floor(column * bars.length / columns), last = Math.max(first + 1, Math.floor((column + 1) * bars.length / columns));
            let rank = 0, long = 0;
            for (let index = first; index < last && index < bars.length; index++) {
                const bar = bars[index];
                const own = bar.state === "failed" ? 3 : bar.to === null ? 2 : bar.attempts.length > 1 ? 1 : 0;
                rank = Math.max(rank, own);
                long = Math.max(long, (bar.to ?? now) - bar.from);
            }
            const high = 3 + (MAP - 5) * Math.log1p(long) / Math.log1p(longest);
            pen.fillStyle = colours[rank];
            pen.fillRect(column * 2, MAP - high, 1.5, high);
        }
        pen.strokeStyle = getComputedStyle(map).color;
        pen.lineWidth = 1.5;
        pen.strokeRect(from / bars.length * wide + .75, .75, Math.max(4, (to - from) / bars.length * wide - 1.5), MAP - 1.5);
    }

    /** What happened to the run as a whole, for those who do not see lines. */
    function tellMarks() {
        const items = marks.map((mark) => {
            const item = make("li"), link = /** @type {HTMLAnchorElement} */ (make("a", "", mark.what));
            link.href = path + "/at?entry=" + mark.entry;
            item.append(link, " at +" + spell(mark.at - start) + (mark.replays ? ": the program was replayed" : ""));
            return item;
        });
        happened.replaceChildren(...items);
        happened.hidden = items.length === 0;
    }

    /** @param {Part[]} parts */
    function paintAxis(parts) {
        const drawn = [], folds = parts.filter((part) => part.folded);
        let free = -Infinity;
        for (const part of parts) {
            if (part.folded) {
                const gap = make("span", "fold", spell(part.t1 - part.t0));
                gap.title = "idle for " + spell(part.t1 - part.t0);
                gap.style.left = names + part.x0 + "px";
                gap.style.width = part.x1 - part.x0 + "px";
                gap.style.height = head.clientHeight + view.clientHeight + "px";
                drawn.push(gap);
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
                    drawn.push(mark);
                    free = x + 76;
                }
                if (span === 0) break;
            }
        }
        for (const mark of marks) {
            if (parts.length === 0 || mark.at < parts[0].t0 || mark.at > parts[parts.length - 1].t1) continue;
            const line = make("span", "line" + (mark.replays ? " replays" : ""));
            line.title = mark.what + " at +" + spell(mark.at - start);
            line.style.left = names + place(parts, mark.at) + "px";
            line.style.height = head.clientHeight + view.clientHeight + "px";
            drawn.push(line);
        }
        head.replaceChildren(...drawn);
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
        marks = told.marks;
        skew = told.now - Date.now();
        now = told.now;
        ended = told.ended;
        start = all.length > 0 ? all[0].from : now;
        filter();
        tellMarks();
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

    let asking = false;
    /** Which calls wait for their turn: no commit says that. Whether one does shows soon after it began. */
    async function askTurns() {
        const young = all.filter((bar) => {
            const one = bar.attempts[bar.attempts.length - 1];
            return bar.to === null && one && one.to === null && (one.state === "queued" || now - one.from < 5000);
        });
        if (asking || young.length === 0) return;
        asking = true;
        let differs = false;
        try {
            const answer = await fetch(path + "/turns?steps=" + young.slice(0, 50).map((bar) => bar.step).join(","));
            /** @type {{step: number, at: number, queued: boolean}[]} */
            const turns = answer.ok ? await answer.json() : [];
            for (const turn of turns) {
                const attempts = all.find((bar) => bar.step === turn.step)?.attempts ?? [];
                const one = attempts[attempts.length - 1];
                if (!one || one.to !== null || turn.at < one.from) continue;
                const state = turn.queued ? "queued" : "open";
                differs ||= one.state !== state;
                one.state = state;
                one.sent = turn.queued ? null : turn.at;
            }
        } catch { /* The page says that the connection is lost. */ }
        asking = false;
        paint();
        // What the page says of the run differs, too.
        if (differs) host.dispatchEvent(new Event("turn", { bubbles: true }));
    }

    load();
    setInterval(() => { if (!ended && !document.hidden) askTurns(); }, 1000);
    setInterval(() => { if (!ended && !document.hidden && bars.some((bar) => bar.to === null)) paint(); }, 1000);
    return { load, paint, move, count: () => bars.length, follows: (other) => other === run };
}
