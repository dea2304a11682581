// Import: files dropped anywhere or chosen, one after the other, each with its progress and its report.

import { upload } from "./api.js";
import { announce, button, bytes, count, counted, el, fill, labelled, select } from "./dom.js";

export const title = "Import";
export const heading = "Bring in conversations";

const ENDINGS = /\.(zip|json|jsonl|ndjson|csv|tsv|md|markdown|txt)$/i;
const OPTIONS = {
  me: ["Your name in it", "Ana"],
  columns: ["Columns", "text=body,speaker=author,at=date"],
  time_format: ["How times are written", "%d/%m/%Y %H:%M"],
  date_order: ["Order of dates", "dmy"],
  time_zone: ["Time zone", "Europe/Lisbon"],
  sample: ["Only this conversation", "conv-26"],
  question: ["The history of this question", ""],
};
const jobs = []; // of this page: {file, state, row}
const chosen = { format: "" };
let running = false;
let current = null; // the app

/** What a memory that holds nothing shows. */
export function newcomer(app) {
  const line = `curl ${location.origin}/v1/episodes -H 'Content-Type: application/json' -d '{"text": "I moved to Lisbon in May.", "speaker": "Ana"}'`;
  return el("div", { class: "empty" },
    el("h2", {}, "Nothing is remembered yet"),
    app.may("write") ? zone(app) : el("p", {}, "This key only reads; one with the scope write can import."),
    el("p", {}, "Or let a program remember something:"),
    el("pre", { tabindex: "0" }, line));
}

export function render(box, _, app) {
  current = app;
  if (!app.may("write")) {
    box.append(el("div", { class: "empty" }, el("h2", {}, "This key only reads"), el("p", {}, "To import, use a key with the scope write.")));
    return;
  }
  const formats = app.about.formats;
  const fields = el("div", { class: "row" });
  const drawFields = () => {
    const names = formats.find(({ name }) => name === chosen.format)?.options ?? [];
    fill(fields, ...names.filter((name) => name in OPTIONS).map((name) => labelled(OPTIONS[name][0], el("input", { type: "text", autocomplete: "off", placeholder: OPTIONS[name][1], value: chosen[name] ?? "", on: { input: (event) => (chosen[name] = event.target.value) } }))));
  };
  drawFields();
  box.append(
    zone(app),
    el("details", { class: "filters" }, el("summary", {}, "Format and options"),
      labelled("Format", select([["", "Found out by itself"], ["recollect", "recollect's own export"], ...formats.map(({ name, what }) => [name, what])], chosen.format, (value) => ((chosen.format = value), drawFields()))),
      fields),
    el("section", { "aria-label": "Files" }, el("ol", { class: "list jobs" }, jobs.map((job) => el("li", {}, job.row)))),
    el("section", {}, el("h2", {}, "What can be read"),
      el("ul", { class: "formats" }, el("li", {}, "recollect's own export"), formats.map(({ what }) => el("li", {}, what))),
      el("p", { class: "muted" }, "Importing again adds only what is new. A folder can be dropped too; its files are read one after the other.")));
}

function zone(app) {
  const input = el("input", { type: "file", multiple: true, class: "unseen", id: "file", on: { change: () => taken(input.files, app) } });
  return el("div", { class: "zone" },
    el("p", { class: "zone-title" }, "Drop a file here"),
    el("p", { class: "muted" }, "A ChatGPT or Claude export, a WhatsApp chat, a diary, a table"),
    input, el("label", { for: "file", class: "button primary" }, "Choose files"));
}

function taken(files, app) {
  take([...files], app);
  app.go("import");
}

/** The files of a drop, those in folders too. */
export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const found = [];
  const walk = async (entry, inside) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      if (!inside || ENDINGS.test(file.name)) found.push(file);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!part.length) return;
      for (const child of part) await walk(child, true);
    }
  };
  for (const entry of entries) await walk(entry, false);
  return found;
}

/** Put files in the queue and go through it. */
export function take(files, app) {
  current = app;
  const names = current?.about.formats.find(({ name }) => name === chosen.format)?.options ?? [];
  const options = Object.fromEntries(names.filter((name) => chosen[name]).map((name) => [name, chosen[name]]));
  for (const file of files) {
    const row = el("article", { class: "card job" }, el("header", {}, el("strong", {}, file.name), el("span", { class: "muted" }, bytes(file.size))), el("p", {}, "Waits"));
    jobs.unshift({ file, row, query: { name: file.name, format: chosen.format, ...options } });
  }
  run();
}

async function run() {
  if (running) return;
  running = true;
  for (let job; (job = jobs.findLast(({ done }) => !done)); ) {
    await one(job);
    job.done = true;
    job.file = null;
    await current?.refresh().catch(() => {});
  }
  running = false;
}

async function one(job) {
  const { file, row, query } = job;
  const bar = el("progress", { max: 1, value: 0, "aria-label": `Import of ${file.name}` });
  const told = el("p", {}, "Sends");
  fill(row, row.firstChild, bar, told);
  announce(`Importing ${file.name}`);
  try {
    const report = await upload(file, query, {
      sent: (share) => {
        bar.value = share;
        told.textContent = share < 1 ? `Sent ${Math.round(share * 100)} %` : "Reads";
      },
      progress: (number) => {
        bar.removeAttribute("value");
        told.textContent = number ? `${counted(number, "memory", "memories")} so far` : "Reads";
      },
    });
    const added = report.added ?? report.episodes;
    const details = [
      `${counted(added, "memory", "memories")} added`,
      report.existing ? `${count(report.existing)} already there` : null,
      report.notes ? counted(report.notes, "note") : null,
      report.skipped ? `${count(report.skipped)} with nothing to remember` : null,
      report.damaged ? `${count(report.damaged)} could not be read` : null,
    ].filter(Boolean).join(", ");
    announce(`${file.name}: ${details}`);
    fill(row, row.firstChild,
      el("p", { class: "good" }, details, report.format ? ` (${report.format})` : ""),
      report.problems?.length > 0 && el("details", {}, el("summary", {}, counted(report.problems.length, "problem")), el("ul", { class: "lines" }, report.problems.map((text) => el("li", {}, text)))),
      el("div", { class: "row" }, button("Search", () => current?.go("search"), { class: "primary" }), button("Conversations", () => current?.go("conversations"))));
  } catch (error) {
    announce(`${file.name}: ${error.message}`);
    fill(row, row.firstChild, el("p", { class: "problem", role: "alert" }, error.message));
  }
}
