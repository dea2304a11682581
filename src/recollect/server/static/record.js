// One record: its words, where it comes from, what was made of it, what it is linked to.

import { call } from "./api.js";
import { announce, button, day, el, fill, loading, minute, problem, shortened, timed } from "./dom.js";

/** Show a record in a dialog. */
export async function render(dialog, id, app) {
  const close = button("Close", () => dialog.close(), { class: "quiet" });
  const body = el("div", {}, loading());
  fill(dialog, el("header", { class: "row between" }, el("h2", { id: "record-title" }, "Memory"), close), body);
  if (!dialog.open) dialog.showModal();
  try {
    const history = await call(`/v1/records/${encodeURIComponent(id)}/history`);
    const { record } = history;
    const isNote = "kind" in record;
    dialog.querySelector("h2").textContent = isNote ? "Note" : (record.speaker ?? "Memory");
    fill(body, ...(isNote ? note(record) : episode(record)), ...around(history, id, app), actions(record, isNote, app));
    announce(`Opened: ${shortened(record.text, 120)}`);
  } catch (error) {
    fill(body, problem(error, () => render(dialog, id, app)));
  }
}

function episode(record) {
  return [
    el("p", { class: "text whole" }, record.text),
    facts([
      ["Said", timed(record.at)],
      ["Stored", timed(record.recorded_at)],
      ["Conversation", record.session],
      ["Agent", record.agent],
      ["Id where it came from", record.source_id],
    ]),
    extra(record.meta),
  ];
}

function note(record) {
  return [
    el("p", { class: "text whole" }, record.text),
    facts([
      ["Kind", el("span", { class: "badge" }, record.kind)],
      ["Written by", `${record.method} ${record.method_version}`],
      ["Known since", record.at && timed(record.at)],
      ["Holds from", record.valid_from && timed(record.valid_from, day)],
      ["Held until", record.valid_to && timed(record.valid_to, day)],
      ["Found by", record.key],
      ["State", record.replaced_by ? "another note took its place" : record.meta.stale ? "to be derived again" : null],
    ]),
    extra(record.meta),
  ];
}

function facts(rows) {
  return el("dl", { class: "facts" }, rows.filter(([, value]) => value).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function extra(meta) {
  if (!Object.keys(meta).length) return null;
  return el("details", {}, el("summary", {}, "More that is kept with it"), el("pre", { tabindex: "0" }, JSON.stringify(meta, null, 2)));
}

function around({ before, after, notes, sources, links }, id, app) {
  return [
    part("Rests on", sources.map((source) => line(source, app))),
    part("Derived from it", notes.map((made) => line(made, app))),
    part("Before it", before.map((turn) => line(turn, app))),
    part("After it", after.map((turn) => line(turn, app))),
    part("Links", links.slice(0, 30).map((link) => {
      const other = link.source === id ? link.target : link.source;
      return el("li", {}, el("span", { class: "badge" }, link.relation), " ", button(link.source === id ? "to" : "from", () => app.open(other), { class: "link" }), ` ${other}`);
    })),
  ];
}

function part(title, items) {
  return items.length > 0 && el("section", {}, el("h3", {}, title), el("ul", { class: "lines" }, items));
}

function line(record, app) {
  const who = record.speaker ?? record.kind ?? "Memory";
  return el("li", {}, button(`${who}, ${record.at ? minute(record.at) : ""}`, () => app.open(record.id), { class: "link" }), el("p", {}, shortened(record.text, 240)));
}

function actions(record, isNote, app) {
  return el("div", { class: "row end" },
    button("See its links", () => app.go("graph", { id: record.id })),
    !isNote && record.session && button("Open its conversation", () => app.go("conversations", { session: record.session, agent: record.agent, called: record.meta.title ?? null })),
    app.may("write") && button("Forget it", () => app.go("forget", { ids: [record.id], what: shortened(record.text, 160) }), { class: "danger" }));
}
