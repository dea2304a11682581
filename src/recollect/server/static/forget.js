// Forgetting: what would go, then, when it is meant, what went.

import { call } from "./api.js";
import { announce, button, bytes, count, counted, day, el, fill, labelled, loading, minute, problem, shortened } from "./dom.js";

export const title = "Forget";
export const heading = "Forget for good";

const SAMPLE = 8; // of what would go

export function render(box, { ids = null, what = null, session = null }, app) {
  if (!app.may("write")) {
    box.append(el("div", { class: "empty" }, el("h2", {}, "This key only reads"), el("p", {}, "To forget, use a key with the scope write.")));
    return;
  }
  const place = el("div", { "aria-live": "polite" });
  const ways = {
    ...(ids && { ids: [`Only this: \u201c${what}\u201d`, null] }),
    query: ["Everything that holds these words", el("input", { type: "text", autocomplete: "off", maxlength: "2000" })],
    session: ["A conversation", el("input", { type: "text", autocomplete: "off", placeholder: "Its name; or open it and forget it there", value: session ?? "" })],
    before: ["Everything said before a day", el("input", { type: "date" })],
    user: [`Everything of the user ${app.about.user}`, null],
  };
  let chosen = ids ? "ids" : session ? "session" : "query";
  const rows = Object.entries(ways).map(([way, [text, field]]) => {
    const radio = el("input", { type: "radio", name: "way", value: way, checked: way === chosen, on: { change: () => ((chosen = way), fill(place)) } });
    field?.addEventListener("focus", () => {
      radio.checked = true;
      chosen = way;
    });
    field?.addEventListener("input", () => fill(place));
    field?.setAttribute("aria-label", text);
    return el("div", { class: "way" }, el("label", {}, radio, el("span", {}, text)), field);
  });
  const given = () => ({ [chosen]: chosen === "ids" ? ids : chosen === "user" ? app.about.user : ways[chosen][1].value });
  const look = (event) => {
    event.preventDefault();
    preview(place, given(), app);
  };
  box.append(
    el("p", { class: "lead" }, "What is forgotten is gone everywhere: the words, the notes that rest on nothing else, the index, the vectors, the bytes in the file. It cannot be undone; you see first what would go."),
    el("form", { class: "ways", on: { submit: look } }, el("fieldset", {}, el("legend", {}, "What is to be forgotten?"), rows), el("button", { class: "primary" }, "Show what would go")),
    place);
  if (ids || session) preview(place, given(), app);
}

async function preview(place, what, app) {
  fill(place, loading());
  try {
    const would = await call("/v1/forget", { body: { ...what, dry_run: true } });
    const total = would.episodes.length + would.notes.length;
    if (!total) {
      fill(place, el("p", { class: "empty" }, "Nothing fits, so nothing would go."));
      return;
    }
    const said = `${counted(would.episodes.length, "memory", "memories")}${would.notes.length ? ` and ${counted(would.notes.length, "note")}` : ""} would go.`;
    const shown = [...would.episodes, ...would.notes].slice(0, SAMPLE);
    const records = await Promise.all(shown.map((id) => call(`/v1/records/${encodeURIComponent(id)}`).catch(() => null)));
    announce(said);
    fill(place, el("section", { class: "card" },
      el("h2", {}, said),
      el("ul", { class: "lines" }, records.filter(Boolean).map((record) => el("li", {}, el("span", { class: "muted" }, `${record.speaker ?? record.kind ?? "Memory"}, ${day(record.at ?? record.recorded_at)}`), el("p", {}, shortened(record.text, 200))))),
      total > shown.length && el("p", { class: "muted" }, `and ${count(total - shown.length)} more`),
      el("p", { class: "muted" }, "Notes that rest on these alone go with them."),
      el("div", { class: "row end" }, button("Forget for good", () => carryOut(place, what, said, app), { class: "danger" }))));
  } catch (error) {
    fill(place, problem(error, () => preview(place, what, app)));
  }
}

async function carryOut(place, what, said, app) {
  const yes = await app.confirm({ title: "Forget for good?", text: `${said} This cannot be undone.`, action: "Forget", word: "user" in what ? "forget" : null });
  if (!yes) return;
  fill(place, loading());
  try {
    const receipt = await call("/v1/forget", { body: what });
    announce(`Forgotten: ${counted(receipt.episodes.length, "memory", "memories")}`);
    fill(place, shownReceipt(receipt));
    place.firstChild.querySelector("h2").focus();
    await app.refresh();
  } catch (error) {
    fill(place, problem(error, () => carryOut(place, what, said, app)));
  }
}

function shownReceipt(receipt) {
  const rows = [
    ["Memories", count(receipt.episodes.length)],
    ["Notes that rested on them alone", count(receipt.notes.length)],
    ["Notes to be derived again", count(receipt.flagged_notes.length)],
    ["Links", count(receipt.num_links)],
    ["Vectors", count(receipt.num_vectors)],
    ["Entries of the full-text index", count(receipt.num_index_entries)],
    ["Files whose rows were overwritten", count(receipt.index_files.length)],
    ["Gone from the files", receipt.complete ? "yes, searched for and not found" : "not yet: a reader keeps the log busy; they go when the memory is next closed"],
    ["When", minute(receipt.at)],
  ];
  const text = JSON.stringify(receipt, null, 2);
  const save = () => {
    const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    el("a", { href: url, download: "receipt.json" }).click();
    URL.revokeObjectURL(url);
  };
  return el("section", { class: "card receipt" },
    el("h2", { tabindex: "-1" }, "Receipt"),
    el("dl", { class: "facts" }, rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    el("details", {}, el("summary", {}, `The ids of what went (${bytes(text.length)})`), el("pre", { tabindex: "0" }, shortened(text, 20000))),
    el("div", { class: "row end" }, button("Save the receipt", save)));
}
