// Notes: what methods derived, with the words that they rest on.

import { call } from "./api.js";
import { arrows, button, day, el, fill, labelled, paged, select, shortened, timed } from "./dom.js";

export const title = "Notes";

let of = ""; // the method whose notes are shown

export function render(box, _, app) {
  const place = el("div");
  const methods = app.about.methods.filter((method) => method.derives).map(({ key, name }) => [key, name]);
  const draw = () => fill(place, paged(read, (note) => card(note, app), none));
  const read = async (after) => {
    const { notes, next } = await call("/v1/notes", { query: { of, after_id: after, limit: 30 } });
    return { items: notes, next };
  };
  const none = () => el("div", { class: "empty" },
    el("h2", {}, "No notes yet"),
    el("p", {}, "A method reads what was said and writes notes: facts, thoughts, phrases and how they hang together. The words themselves stay."),
    button("Derive notes", () => app.go("tidy"), { class: "primary" }));
  box.append(
    labelled("Written by", select([["", "everyone"], ["user", "programs and people"], ...methods], of, (value) => ((of = value), draw()))),
    place);
  draw();
  arrows(place, ".open");
}

function card(note, app) {
  const sources = el("ul", { class: "lines" });
  const more = el("details", { on: { toggle: () => more.open && !sources.childElementCount && rests(note, sources, app) } },
    el("summary", {}, `Rests on ${note.sources.length === 1 ? "one memory" : `${note.sources.length} memories`}`), sources);
  return el("article", { class: "note" },
    el("header", {},
      el("span", { class: "badge" }, note.kind),
      el("span", { class: "muted" }, note.method),
      note.at && timed(note.at, day),
      note.valid_to && el("span", { class: "badge ended" }, `held until ${day(note.valid_to)}`)),
    button(shortened(note.text, 400), () => app.open(note.id), { class: "open text" }),
    el("div", { class: "foot" }, note.sources.length > 0 && more, button("See its links", () => app.go("graph", { id: note.id }), { class: "link" })));
}

async function rests(note, list, app) {
  for (const id of note.sources.slice(0, 10)) {
    const item = el("li", {});
    list.append(item);
    try {
      const source = await call(`/v1/records/${encodeURIComponent(id)}`);
      item.append(button(`${source.speaker ?? "Memory"}, ${day(source.at)}`, () => app.open(id), { class: "link" }), el("p", {}, shortened(source.text, 300)));
    } catch (error) {
      item.append(error.message);
    }
  }
  if (note.sources.length > 10) list.append(el("li", {}, `and ${note.sources.length - 10} more, in the note itself`));
}
