// Figures: how much is remembered, what it weighs, how quick it is.

import { call, latency } from "./api.js";
import { bytes, count, day, el, fill, loading, problem } from "./dom.js";

export const title = "Figures";

export async function render(box, _, app) {
  const place = el("div", {}, loading());
  box.append(place);
  try {
    const [mine, file] = await Promise.all([call("/v1/stats", { query: app.asked() }), app.may("admin") ? call("/v1/file") : null]);
    fill(place, tiles(mine, file), speakers(mine), written(mine), about(app, mine, file));
  } catch (error) {
    fill(place, problem(error, () => (place.remove(), render(box, _, app))));
  }
}

function tile(value, name, more = null) {
  return el("div", { class: "tile" }, el("dt", {}, name), el("dd", {}, el("strong", {}, value), more && el("small", {}, more)));
}

const milliseconds = (number) => `${number < 10 ? number.toFixed(1) : Math.round(number)} ms`;

function tiles(mine, file) {
  const quick = latency();
  return el("dl", { class: "tiles" },
    tile(count(mine.num_episodes), "memories", mine.first_at && `${day(mine.first_at)} to ${day(mine.last_at)}`),
    tile(count(mine.num_sessions), "conversations"),
    tile(count(mine.num_notes), "notes"),
    tile(count(mine.num_links), "links"),
    file && tile(bytes(file.database_bytes + file.index_bytes), "on the disk", `${bytes(file.bytes_per_episode)} a memory, all users`),
    quick ? tile(milliseconds(quick.median), "a search", `middle of ${count(quick.count)} in this tab; 95 % within ${milliseconds(quick.most)}`)
      : tile("\u2013", "a search", "search once to measure it"));
}

function speakers(mine) {
  const pairs = Object.entries(mine.speakers).slice(0, 12);
  return pairs.length > 0 && ranked("Who said how much", pairs);
}

function written(mine) {
  const pairs = Object.entries(mine.notes);
  return pairs.length > 0 && ranked("Who wrote how many notes", pairs);
}

function ranked(heading, pairs) {
  const most = Math.max(...pairs.map(([, number]) => number));
  return el("section", {}, el("h2", {}, heading), el("ul", { class: "bars wide" }, pairs.map(([name, number]) => {
    const bar = el("span", { class: "bar for" });
    bar.style.width = `${Math.max(1, (number / most) * 100)}%`;
    return el("li", {}, el("span", { class: "name" }, name), el("span", { class: "track", "aria-hidden": "true" }, bar), el("span", { class: "share" }, count(number)));
  })));
}

function about(app, mine, file) {
  const rows = [
    ["Method", mine.method],
    ["Still to be read by it", count(mine.num_underived)],
    ["Embedder", file?.embedder],
    ["Database", file && bytes(file.database_bytes)],
    ["Index", file && bytes(file.index_bytes)],
    ["Without vectors", file && count(file.num_missing_vectors)],
    ["Advice", file?.index_note],
    ["Version", app.about.version],
  ];
  return el("section", {}, el("h2", {}, "How it is kept"), el("dl", { class: "facts" }, rows.filter(([, value]) => value).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))));
}
