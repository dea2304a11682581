// Elements, made from text and never from markup; numbers, times and sizes as people read them.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Props: `on` holds listeners, a function or true or null is handled, all else is an attribute. */
export function el(name, props = {}, ...children) {
  return filled(document.createElement(name), props, children);
}

/** An SVG element; props as of `el`. */
export function svg(name, props = {}, ...children) {
  return filled(document.createElementNS(SVG, name), props, children);
}

function filled(node, props, children) {
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    else if (key === "value") node.value = value;
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...present(children));
  return node;
}

const present = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

/** Let an element hold these children and no others. */
export function fill(node, ...children) {
  node.replaceChildren(...present(children));
}

/** A button that does something. */
export function button(text, click, props = {}) {
  return el("button", { type: "button", ...props, on: { click } }, text);
}

/** A label with its control. */
export function labelled(text, control, hint = null) {
  return el("label", { class: "field" }, el("span", { class: "label" }, text), control, hint && el("small", {}, hint));
}

/** A select of [value, text] pairs. */
export function select(pairs, value, change, props = {}) {
  const node = el("select", { ...props, on: { change: () => change(node.value) } });
  node.append(...pairs.map(([key, text]) => el("option", { value: key }, text)));
  node.value = value;
  return node;
}

export const count = (number) => new Intl.NumberFormat("en").format(number);

/** "1 memory", "2 memories". */
export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** Bytes with a unit of 1000. */
export function bytes(number) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (number >= 1000 && power < units.length - 1) [number, power] = [number / 1000, power + 1];
  return `${number >= 100 || power === 0 ? Math.round(number) : number.toFixed(1)} ${units[power]}`;
}

const DAY = { day: "numeric", month: "short", year: "numeric" };

/** "3 May 2023": the wall clock that a time was written with, or, for a Date, that of the reader. */
export function day(time) {
  return new Intl.DateTimeFormat("en-GB", { ...DAY, timeZone: typeof time === "string" ? "UTC" : undefined }).format(wall(time));
}

/** "3 May 2023, 14:05". */
export const minute = (time) => `${day(time)}, ${clock(time)}`;

/** "14:05". */
export function clock(time) {
  const zone = typeof time === "string" ? "UTC" : undefined;
  return new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: zone }).format(wall(time));
}

function wall(time) {
  return typeof time === "string" ? new Date(`${time.slice(0, 19)}Z`) : time;
}

/** A <time> element. */
export const timed = (time, form = minute) => el("time", { datetime: time }, form(time));

/** The beginning of a text, cut between words. */
export function shortened(text, length) {
  const letters = Array.from(text);
  if (letters.length <= length) return text;
  return `${letters.slice(0, length).join("").replace(/\s+\S*$/, "")}\u2026`;
}

/** Say something to those who listen to the page. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** What is shown where nothing is. */
export function empty(title, ...what) {
  return el("div", { class: "empty" }, el("h2", {}, title), ...what);
}

/** An error with its way out. */
export function problem(error, again = null) {
  return el("div", { class: "problem", role: "alert" }, el("p", {}, error.message), again && button("Try again", again));
}

/** Grey bars in the place of what is on its way. */
export function loading(rows = 3) {
  return el("div", { class: "loading", "aria-hidden": "true" }, Array.from({ length: rows }, () => el("div", { class: "bone" })));
}

/** A list that is read a page at a time, when its end comes into sight or by its button.
 *  read(after) -> {items, next}; show(item) -> element; none() -> what stands there when it is empty. */
export function paged(read, show, none, props = {}) {
  const list = el("ol", { class: "list", ...props });
  const more = button("Show more", () => next(), { class: "more", hidden: true });
  const box = el("div", {}, list, more);
  const seen = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && next(), { rootMargin: "400px" });
  let after = null;
  let busy = false;
  async function next() {
    if (busy) return;
    busy = true;
    seen.unobserve(more);
    const waiting = loading(after === null ? 4 : 1);
    box.append(waiting);
    try {
      const page = await read(after);
      list.append(...page.items.map((item) => el("li", {}, show(item))));
      after = page.next;
      if (!list.childElementCount) fill(box, none());
      more.hidden = !after;
      if (after) seen.observe(more);
    } catch (error) {
      if (error.name === "AbortError") return;
      const said = problem(error, () => (said.remove(), next()));
      box.append(said);
      more.hidden = true;
    } finally {
      waiting.remove();
      busy = false;
    }
  }
  next();
  return box;
}

/** Let the arrow keys go from one to the next of the elements that match, inside `box`. */
export function arrows(box, selector) {
  box.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.matches(selector)) return;
    const all = [...box.querySelectorAll(selector)];
    const other = all[all.indexOf(event.target) + step];
    if (!other) return;
    event.preventDefault();
    other.focus();
  });
}
