// Tidying: let a method read what was said, see what it would change in its notes, do it, and take it back.

import { call, work } from "./api.js";
import { announce, button, count, counted, day, el, fill, labelled, loading, minute, problem, select, shortened } from "./dom.js";

export const title = "Tidy";
export const heading = "Tidy up the notes";

const SHOWN = 40; // changes of a diff that are drawn at a time
const MOST_WORDS = 400; // of two notes that are compared word by word

export function render(box, _, app) {
  const place = el("div");
  const methods = app.about.methods.map(({ key, name, derives }) => [key, derives ? name : `${name} (writes no notes)`]);
  const choose = (key) => {
    app.method = key === app.about.method ? null : key;
    draw(place, app);
  };
  box.append(
    el("p", { class: "lead" }, "A method may merge notes that say the same, revise them, and close those that ceased to hold. Nothing that was said changes, you see it first, and it can be undone."),
    labelled("Method", select(methods, app.method ?? app.about.method, choose)), place);
  draw(place, app);
}

async function draw(place, app) {
  fill(place, loading());
  try {
    const method = app.about.methods.find(({ key }) => key === (app.method ?? app.about.method));
    const [figures, runs] = await Promise.all([call("/v1/stats", { query: app.asked() }), call("/v1/consolidations")]);
    const diff = el("div");
    const again = () => draw(place, app);
    fill(place,
      method?.derives ? readings(figures, app, again) : el("div", { class: "empty" }, el("h2", {}, "Nothing to tidy"), el("p", {}, `${method?.name ?? "This method"} keeps what was said as it was and writes no notes. Choose another method above.`)),
      method?.derives ? el("section", {},
        el("h2", {}, "What would change"),
        el("div", { class: "row" }, button("Show what would change", () => preview(diff, app, again), { class: "primary" })), diff) : "",
      done(runs, app, again));
  } catch (error) {
    fill(place, problem(error, () => draw(place, app)));
  }
}

function readings(figures, app, again) {
  const written = figures.notes[figures.method] ?? 0;
  const place = el("div", { class: "row" });
  const said = el("p", {}, `It wrote ${counted(written, "note")}.`, figures.num_underived ? ` ${counted(figures.num_underived, "memory", "memories")} are still to be read.` : " It has read everything.");
  if (figures.num_underived && app.may("write")) place.append(button("Read them now", () => derive(place, figures.num_underived, app, again), { class: "primary" }));
  return el("section", {}, el("h2", {}, "What it has read"), said, place);
}

async function derive(place, total, app, again) {
  const bar = el("progress", { max: total, value: 0, "aria-label": "Memories read" });
  const told = el("span", {}, `0 of ${count(total)}`);
  fill(place, bar, told);
  try {
    const report = await work("/v1/derive", {
      query: app.asked(),
      progress: (number) => {
        bar.value = number;
        told.textContent = `${count(number)} of ${count(total)}`;
      },
    });
    announce(`${counted(report.notes, "note")} written`);
    again();
  } catch (error) {
    fill(place, problem(error, () => derive(place, total, app, again)));
  }
}

async function preview(place, app, again) {
  fill(place, loading());
  try {
    const diff = await work("/v1/consolidate", { body: { dry_run: true }, query: app.asked() });
    const said = summary(diff);
    announce(said);
    const apply = button("Do it", () => carryOut(place, app, again), { class: "primary" });
    fill(place,
      el("div", { class: "row between" }, el("p", {}, said), (diff.changes.length > 0 || diff.links.length > 0) && app.may("write") && apply),
      changes(diff.changes),
      links(diff.links));
  } catch (error) {
    fill(place, problem(error, () => preview(place, app, again)));
  }
}

function summary({ changes: made, links: joined }) {
  if (!made.length && !joined.length) return "Nothing: the notes are in order.";
  const total = (key) => made.reduce((sum, change) => sum + change[key].length, 0);
  return `${counted(made.length, "new note")}, ${count(total("replaces"))} replaced, ${count(total("closes"))} closed, ${counted(joined.length, "new link")}`;
}

function changes(made) {
  const list = el("ol", { class: "list diff" });
  let shown = 0;
  const more = button("Show more", () => add(), { class: "more" });
  const add = () => {
    list.append(...made.slice(shown, shown + SHOWN).map((change) => el("li", {}, card(change))));
    shown += SHOWN;
    more.hidden = shown >= made.length;
  };
  add();
  return [list, more];
}

function card({ note, replaces, closes }) {
  const [old] = replaces;
  const compared = replaces.length === 1 && words(old.text).length + words(note.text).length <= MOST_WORDS;
  const row = (sign, what, record, ...content) => el("div", { class: `change ${what}` }, el("span", { class: "sign", "aria-hidden": "true" }, sign),
    el("div", {}, el("p", { class: "label" }, what, " ", el("span", { class: "badge" }, record.kind)), el("p", { class: "text" }, ...content)));
  return el("article", { class: "card" },
    compared ? row("~", "revised", note, ...difference(old.text, note.text)) : [
      replaces.map((record) => row("\u2212", "replaced", record, shortened(record.text, 500))),
      row("+", "added", note, shortened(note.text, 500)),
    ],
    closes.map((record) => row("\u00d7", "closed", record, shortened(record.text, 500), note.valid_from ? ` (held until ${day(note.valid_from)})` : "")));
}

function links(joined) {
  if (!joined.length) return null;
  return el("details", {}, el("summary", {}, counted(joined.length, "new link")),
    el("ul", { class: "lines" }, joined.slice(0, 100).map((link) => el("li", {}, `${link.source} `, el("span", { class: "badge" }, link.relation), ` ${link.target}`))));
}

async function carryOut(place, app, again) {
  fill(place, loading());
  try {
    const diff = await work("/v1/consolidate", { query: app.asked() });
    announce(`Done: ${summary(diff)}`);
    again();
  } catch (error) {
    fill(place, problem(error, () => carryOut(place, app, again)));
  }
}

function done(runs, app, again) {
  const place = el("div");
  return el("section", {},
    el("h2", {}, "What was done"),
    runs.length ? el("ul", { class: "list" }, runs.slice(0, 50).map((run) => el("li", {}, el("article", { class: "card row between" },
      el("div", {}, el("strong", {}, `${run.method}, ${minute(run.at)}`), el("p", { class: "muted" }, `${counted(run.num_added, "note")} added, ${count(run.num_replaced)} replaced, ${count(run.num_closed)} closed`)),
      app.may("write") && button("Undo", () => undo(run, place, app, again)))))) : el("p", { class: "muted" }, "Nothing yet."),
    place);
}

async function undo(run, place, app, again) {
  const yes = await app.confirm({ title: "Undo this?", text: `What ${run.method} did on ${minute(run.at)}, and whatever it did after that, is taken back. The notes stand again as they were.`, action: "Undo" });
  if (!yes) return;
  try {
    const undone = await call("/v1/consolidations/undo", { body: { run: run.run } });
    announce(`${counted(undone.length, "consolidation")} undone`);
    again();
  } catch (error) {
    fill(place, problem(error, again));
  }
}

const words = (text) => text.split(/(\s+)/).filter(Boolean);

/** Two texts as one, with what went and what came marked: the longest common run of words stays. */
function difference(old, fresh) {
  const [a, b] = [words(old), words(fresh)];
  const longest = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      longest[i][j] = a[i] === b[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const parts = []; // [tag, text]
  const put = (tag, text) => (parts.at(-1)?.[0] === tag ? (parts.at(-1)[1] += text) : parts.push([tag, text]));
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) [put(null, a[i]), (i += 1), (j += 1)];
    else if (j >= b.length || (i < a.length && longest[i + 1][j] >= longest[i][j + 1])) [put("del", a[i]), (i += 1)];
    else [put("ins", b[j]), (j += 1)];
  }
  return parts.map(([tag, text]) => (tag ? el(tag, {}, text) : text));
}
