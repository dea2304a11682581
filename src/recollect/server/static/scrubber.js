// The time that is asked about: when things were said as small columns, and a slider through it.

import { call } from "./api.js";
import { button, counted, day, el, minute, svg } from "./dom.js";

const PARTS = 72;
const PAUSE_MS = 140; // after the last move of the slider
const DAY_MS = 86400000;

/** change(at): a Date as of which things are to be known, null for now. */
export function scrubber(at, change) {
  const box = el("section", { class: "scrubber", "aria-label": "As known when" });
  call("/v1/timeline", { query: { parts: PARTS } }).then((line) => line.first_at && draw(box, line, at, change), () => box.remove());
  return box;
}

function draw(box, line, at, change) {
  const first = new Date(line.first_at);
  const last = new Date(line.last_at);
  const start = new Date(first.getFullYear(), first.getMonth(), first.getDate());
  const byDay = last - first > 3 * DAY_MS;
  const steps = byDay ? Math.ceil((last - start) / DAY_MS) : 200;
  const moment = (step) => byDay
    ? new Date(start.getFullYear(), start.getMonth(), start.getDate() + step, 23, 59, 59)
    : new Date(first.getTime() + ((last - first) * step) / steps);
  const form = byDay ? day : minute;
  const words = (step) => (step >= steps ? "As known now" : `As known on ${form(moment(step))}`);
  const stepOf = (time) => Math.max(0, byDay ? Math.round((time - moment(0)) / DAY_MS) : Math.round(((time - first) / (last - first || 1)) * steps));

  const most = Math.max(...line.counts);
  const columns = line.counts.map((count, part) => {
    const height = count ? Math.max(4, Math.sqrt(count / most) * 44) : 0;
    return svg("rect", { x: part * 10 + 1, y: 48 - height, width: 8, height, rx: 1.5 });
  });
  const chart = svg("svg", { viewBox: `0 0 ${PARTS * 10} 48`, preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" }, columns);
  const slider = el("input", { type: "range", min: "0", max: String(steps), step: "1", "aria-label": "As known on", id: "as-of" });
  const label = el("output", { for: "as-of", class: "as-of" });
  const now = button("Back to now", () => {
    slider.value = String(steps);
    tell();
    slider.focus();
  }, { class: "link" });
  let timer = 0;
  const paint = () => {
    const step = Number(slider.value);
    const edge = step >= steps ? Infinity : moment(step).getTime();
    columns.forEach((column, part) => column.setAttribute("class", first.getTime() + ((last - first) * part) / PARTS <= edge ? "known" : "later"));
    label.textContent = words(step);
    slider.setAttribute("aria-valuetext", words(step));
    now.hidden = step >= steps;
  };
  const tell = () => {
    paint();
    clearTimeout(timer);
    const step = Number(slider.value);
    timer = setTimeout(() => change(step >= steps ? null : moment(step)), PAUSE_MS);
  };
  slider.value = String(at ? Math.min(steps, stepOf(at)) : steps);
  slider.addEventListener("input", tell);
  box.append(
    el("div", { class: "row between" }, label, now),
    el("div", { class: "strip" }, chart, slider),
    el("div", { class: "row between ends" }, el("span", {}, day(line.first_at)), el("span", {}, counted(line.counts.reduce((sum, n) => sum + n, 0), "memory", "memories")), el("span", {}, day(line.last_at))));
  paint();
}
