// The page: which view is shown, keys, colours, files dropped anywhere.

import { call, hasKey, onKeyNeeded, setKey } from "./api.js";
import { announce, button, count, counted, el, empty, fill, labelled, loading, problem } from "./dom.js";
import * as conversations from "./conversations.js";
import * as figures from "./figures.js";
import * as forget from "./forget.js";
import * as graph from "./graph.js";
import * as imports from "./imports.js";
import * as notes from "./notes.js";
import * as search from "./search.js";
import * as tidy from "./tidy.js";

const VIEWS = { search, conversations, notes, graph, tidy, forget, import: imports, figures };
const main = document.getElementById("main");
const record = document.getElementById("record");

/** What the views share: who is here, the method that is asked, and the ways from one view to another. */
const app = {
  about: null,
  method: null, // null: the one that the database remembers
  go,
  refresh,
  open: (id) => openRecord(id),
  confirm,
  /** The query part that names the method, where it is not the database's own. */
  asked: () => ({ method: app.method }),
  may: (scope) => app.about.scopes.includes(scope),
};

function place() {
  const view = location.hash.slice(1);
  return history.state?.view ? history.state : { view: view in VIEWS ? view : "search" };
}

/** Show a view, as a step that the browser's back button takes back. */
function go(view, params = {}) {
  history.pushState({ view, ...params }, "", `#${view}`);
  show(true);
}

function show(moved) {
  if (!app.about) return; // still on its way: `start` shows what was chosen meanwhile
  const { view, ...params } = place();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${VIEWS[view].title} - recollect`;
  const heading = el("h1", { tabindex: "-1" }, VIEWS[view].heading ?? VIEWS[view].title);
  const box = el("div", { class: `view ${view}` }, heading);
  fill(main, box);
  VIEWS[view].render(box, params, app);
  if (moved) {
    window.scrollTo(0, 0);
    heading.focus({ preventScroll: true });
  }
}

/** Read again who is here and how much there is. */
async function refresh() {
  app.about = await call("/v1/about");
  const { user, num_episodes } = app.about;
  fill(document.getElementById("who"), el("strong", {}, counted(num_episodes, "memory", "memories")), ` of ${user}`);
  document.getElementById("key").hidden = !hasKey();
}

async function openRecord(id) {
  const { render } = await import("./record.js");
  await render(record, id, app);
}

/** Ask whether something may be done. `word`: what has to be typed first, for what cannot be mended. */
function confirm({ title, text, action, word = null }) {
  const dialog = document.getElementById("ask");
  return new Promise((resolve) => {
    const yes = button(action, () => dialog.close("yes"), { class: "danger", disabled: word !== null });
    const typed = el("input", { type: "text", autocomplete: "off", on: { input: () => (yes.disabled = typed.value.trim() !== word) } });
    fill(dialog,
      el("h2", { id: "ask-title" }, title),
      el("p", {}, text),
      word && labelled(`Type \u201c${word}\u201d to go on`, typed),
      el("div", { class: "row end" }, button("Cancel", () => dialog.close(""), { autofocus: true }), yes),
    );
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}

/** Ask for a key; null when none is given. */
function askKey(reason) {
  const dialog = document.getElementById("key-entry");
  return new Promise((resolve) => {
    const field = el("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true, placeholder: "rk_..." });
    const give = (event) => {
      event.preventDefault();
      if (field.value.trim()) dialog.close(field.value.trim());
    };
    fill(dialog,
      el("form", { on: { submit: give } },
        el("h2", { id: "key-title" }, "Your key"),
        reason && el("p", { class: "problem", role: "alert" }, reason),
        el("p", {}, "This server opens a memory to those who have its key. Whoever runs it makes one with ",
          el("code", {}, "recollect keys create"), "."),
        labelled("Key", field, "Kept in this tab only, until it is closed."),
        el("div", { class: "row end" }, button("Cancel", () => dialog.close("")), el("button", { class: "primary" }, "Open"))),
    );
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue || null), { once: true });
    dialog.showModal();
    field.focus();
  });
}

function drawTheme() {
  const toggle = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const draw = () => {
    toggle.textContent = isDark() ? "\u2600" : "\u263e";
    toggle.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
  };
  toggle.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("recollect-theme", theme);
    } catch {
      // storage is closed to this page: the choice lasts until it is left
    }
    draw();
  });
  system.addEventListener("change", draw);
  draw();
}

function takeDrops() {
  const over = document.getElementById("drop");
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0;
  const end = () => {
    depth = 0;
    over.hidden = true;
  };
  addEventListener("dragenter", (event) => {
    if (!carries(event)) return;
    depth += 1;
    over.hidden = false;
  });
  addEventListener("dragleave", () => {
    depth -= 1;
    if (depth <= 0) end();
  });
  addEventListener("dragover", (event) => carries(event) && event.preventDefault());
  addEventListener("drop", async (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    end();
    const files = await imports.filesOf(event.dataTransfer);
    if (!app.about) return;
    imports.take(files, app);
    go("import");
  });
}

function takeKeys() {
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input:not([type=range]), textarea, select, dialog")) return;
    event.preventDefault();
    if (place().view !== "search") go("search");
    document.getElementById("query")?.focus();
  });
}

async function start() {
  drawTheme();
  onKeyNeeded(askKey);
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  document.getElementById("key").addEventListener("click", async () => {
    const key = await askKey(null);
    if (!key) return;
    setKey(key);
    location.reload();
  });
  document.getElementById("nav").append(...Object.entries(VIEWS).map(([view, { title }]) => {
    const click = (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      go(view);
    };
    return el("li", {}, el("a", { href: `#${view}`, "data-view": view, on: { click } }, title));
  }));
  record.addEventListener("click", (event) => event.target === record && record.close());
  takeDrops();
  takeKeys();
  fill(main, loading());
  try {
    await refresh();
  } catch (error) {
    const closed = error.status === 401;
    fill(main, closed
      ? empty("This memory needs a key", el("p", {}, "Whoever runs this server can make one for you."), button("Enter a key", () => location.reload(), { class: "primary" }))
      : problem(error, () => location.reload()));
    return;
  }
  addEventListener("popstate", () => show(true));
  show(false);
  announce(`${count(app.about.num_episodes)} memories`);
}

start();
