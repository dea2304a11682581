// The graph of links around one record: a drawing to walk through by mouse or arrow keys, and the same as a list.

import { call } from "./api.js";
import { announce, button, counted, el, fill, loading, problem, shortened, svg } from "./dom.js";
import { settle } from "./layout.js";
import { newcomer } from "./imports.js";

export const title = "Graph";
export const heading = "What hangs together";

const NARROW = 560; // pixels, below which names are shorter
const LETTER = 6.4; // pixels of a letter of a name, about

export function render(box, { id = null }, app) {
  if (!app.about.num_episodes) {
    box.append(newcomer(app));
    return;
  }
  const field = el("input", { type: "search", id: "begin", placeholder: "Words of a memory to begin at", autocomplete: "off", maxlength: "2000" });
  const found = el("div");
  const place = el("div");
  const look = async (event) => {
    event.preventDefault();
    if (!field.value.trim()) return;
    fill(found, loading(1));
    try {
      const hits = await call("/v1/recall", { body: { query: field.value.trim(), k: 6 }, query: app.asked() });
      announce(counted(hits.length, "memory", "memories"));
      fill(found, el("ul", { class: "lines picks" }, hits.map((hit) => el("li", {}, button(shortened(hit.text, 100), () => app.go("graph", { id: hit.id }), { class: "link" })))));
    } catch (error) {
      fill(found, problem(error));
    }
  };
  box.append(el("form", { class: "ask", on: { submit: look } }, el("label", { class: "unseen", for: "begin" }, "Begin at"), field, el("button", {}, "Find")), found, place);
  draw(place, id, app);
}

async function draw(place, id, app) {
  fill(place, loading());
  try {
    const path = id ? `/v1/records/${encodeURIComponent(id)}/neighbourhood` : "/v1/neighbourhood";
    const around = await call(path, { query: { limit: 40 } });
    show(place, around, app);
  } catch (error) {
    fill(place, problem(error, () => draw(place, id, app)));
  }
}

function show(place, { records, links }, app) {
  const [middle] = records;
  announce(`${shortened(middle.text, 80)}: ${counted(links.length, "link")}`);
  const list = listed(records, links, app);
  const stage = el("div", { class: "stage" });
  fill(place,
    el("p", { class: "muted" }, links.length ? `${counted(records.length, "record")}, ${counted(links.length, "link")}. Choose one to put it in the middle; arrow keys go from one to the next.` : ""),
    el("div", { class: "graph-row" }, stage, list));
  if (links.length) drawing(stage, records, links, app);
  else stage.replaceWith(el("div", { class: "empty" }, el("h2", {}, "No links here"), el("p", {}, "Methods such as A-MEM and HippoRAG 2 write notes and link them."), button("Derive notes", () => app.go("tidy"), { class: "primary" })));
}

const kindOf = (record) => record.kind ?? "episode";

function name(record) {
  return record.speaker ? `${record.speaker}: ${record.text}` : record.text;
}

function drawing(stage, records, links, app) {
  const width = Math.max(280, Math.round(stage.clientWidth));
  const height = width < NARROW ? Math.round(width * 1.15) : Math.min(600, Math.round(width * 0.8));
  const number = new Map(records.map((record, row) => [record.id, row]));
  const ends = links.map((link) => [number.get(link.source), number.get(link.target)]);
  const places = settle(records.length, ends, width, height);
  const degree = records.map((_, row) => ends.filter((pair) => pair.includes(row)).length);
  const long = width < NARROW ? 18 : 26;
  const names = records.map((record) => shortened(name(record), long));
  const named = apart(places, names, degree);

  const edges = ends.map(([one, other], row) => svg("line", { class: links[row].relation === "derived from" ? "edge rests" : "edge", x1: places[one].x, y1: places[one].y, x2: places[other].x, y2: places[other].y }));
  const nodes = records.map((record, row) => {
    const { x, y } = places[row];
    const radius = row === 0 ? 11 : Math.min(9, 4.5 + Math.sqrt(degree[row]));
    const half = (names[row].length * LETTER) / 2;
    const shift = Math.max(half - x + 4, 0) - Math.max(half + x - width + 4, 0);
    const text = svg("text", { x: shift, y: radius + 14, "text-anchor": "middle", class: named.has(row) ? "" : "late" }, names[row]);
    return svg("g", { class: `node ${kindOf(record) === "episode" ? "episode" : "derived"}${row === 0 ? " middle" : ""}`, transform: `translate(${x} ${y})`, tabindex: row === 0 ? "0" : "-1", role: "button", "aria-label": `${kindOf(record)}: ${shortened(name(record), 120)}; ${counted(degree[row], "link")}` },
      svg("circle", { class: "halo", r: radius + 9 }), svg("circle", { class: "dot", r: radius }), text);
  });
  const choose = (row) => (row === 0 ? app.open(records[0].id) : app.go("graph", { id: records[row].id }));
  const light = (row) => edges.forEach((edge, at) => edge.classList.toggle("lit", ends[at].includes(row)));
  nodes.forEach((node, row) => {
    node.addEventListener("click", () => choose(row));
    node.addEventListener("pointerenter", () => light(row));
    node.addEventListener("focus", () => {
      nodes.forEach((other) => other.setAttribute("tabindex", other === node ? "0" : "-1"));
      light(row);
    });
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(row);
        return;
      }
      const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      const next = way && towards(places, row, way);
      if (!way) return;
      event.preventDefault();
      if (next !== null) nodes[next].focus();
    });
  });
  stage.append(
    svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "Graph of links" }, edges, nodes.slice().reverse()),
    el("p", { class: "legend" }, el("span", { class: "key episode" }), " said ", el("span", { class: "key derived" }), " note; dotted: rests on"));
}

/** The rows whose names can stand without covering one another: the middle first, then those with the most links. */
function apart(places, names, degree) {
  const order = names.map((_, row) => row).sort((a, b) => (b === 0) - (a === 0) || degree[b] - degree[a]);
  const taken = [];
  for (const row of order) {
    const half = (names[row].length * LETTER) / 2;
    const { x, y } = places[row];
    const free = taken.every(([other, reach]) => Math.abs(places[other].y - y) > 17 || Math.abs(places[other].x - x) > half + reach);
    if (free) taken.push([row, half]);
  }
  return new Set(taken.map(([row]) => row));
}

/** The nearest of the others that lie in a direction; null when there is none. */
function towards(places, from, [dx, dy]) {
  let best = null;
  let least = Infinity;
  places.forEach(({ x, y }, row) => {
    const [ahead, aside] = [(x - places[from].x) * dx + (y - places[from].y) * dy, Math.abs((x - places[from].x) * dy) + Math.abs((y - places[from].y) * dx)];
    if (row === from || ahead <= 1) return;
    const cost = ahead + 2 * aside;
    if (cost < least) [best, least] = [row, cost];
  });
  return best;
}

function listed(records, links, app) {
  const [middle] = records;
  const byId = new Map(records.map((record) => [record.id, record]));
  const near = links.filter((link) => link.source === middle.id || link.target === middle.id);
  const groups = grouped(near);
  return el("section", { class: "beside", "aria-label": "Links as a list" },
    el("h2", {}, shortened(name(middle), 200)),
    el("div", { class: "row" }, el("span", { class: "badge" }, kindOf(middle)), button("Open it", () => app.open(middle.id), { class: "link" })),
    [...groups].map(([relation, rows]) => [
      el("h3", {}, relation),
      el("ul", { class: "lines" }, rows.map((link) => {
        const other = byId.get(link.source === middle.id ? link.target : link.source);
        const way = link.source === middle.id ? "to" : "from";
        return el("li", {}, el("span", { class: "muted" }, `${way} `), button(shortened(name(other), 100), () => app.go("graph", { id: other.id }), { class: "link" }));
      })),
    ]));
}

function grouped(links) {
  const groups = new Map();
  for (const link of links) groups.set(link.relation, [...(groups.get(link.relation) ?? []), link]);
  return groups;
}
