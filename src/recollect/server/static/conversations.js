// Conversations: all of them, and one as it went.

import { call } from "./api.js";
import { arrows, button, clock, counted, day, el, paged, shortened, timed } from "./dom.js";
import { newcomer } from "./imports.js";

export const title = "Conversations";

export function render(box, { session = null, agent = null, called = null }, app) {
  if (session === null) all(box, app);
  else one(box, session, agent, called, app);
}

function all(box, app) {
  const read = async (after) => {
    const { sessions, next } = await call("/v1/sessions", { query: { after, limit: 40 } });
    return { items: sessions, next };
  };
  const none = () => app.about.num_episodes
    ? el("div", { class: "empty" }, el("h2", {}, "No conversations"), el("p", {}, "What is remembered here was said outside of any. It is found by searching."))
    : newcomer(app);
  box.append(paged(read, (item) => row(item, app), none));
  arrows(box, ".open");
}

function row(item, app) {
  const first = day(item.first_at);
  const last = day(item.last_at);
  return el("article", { class: "talk" },
    el("header", {},
      button(shortened(item.title ?? item.name, 80), () => app.go("conversations", { session: item.name, agent: item.agent, called: item.title }), { class: "open" }),
      item.agent && el("span", { class: "badge" }, item.agent),
      el("span", { class: "muted" }, counted(item.num_episodes, "turn"))),
    el("p", { class: "muted" }, first === last ? first : `${first} to ${last}`),
    el("p", { class: "opening" }, shortened(item.opening, 160)));
}

function one(box, session, agent, called, app) {
  box.querySelector("h1").textContent = shortened(called ?? session, 80);
  box.append(el("div", { class: "row between" },
    button("All conversations", () => app.go("conversations"), { class: "link" }),
    app.may("write") && button("Forget this conversation", () => app.go("forget", { session, what: called }), { class: "danger" })));
  const sides = new Map(); // speaker -> number, in the order in which they speak
  let shown = null; // the day that was named last
  const read = async (after) => {
    const { episodes, next } = await call("/v1/episodes", { query: { session, agent, after_id: after, limit: 60 } });
    return { items: episodes, next };
  };
  const show = (turn) => {
    const speaker = turn.speaker ?? "";
    if (!sides.has(speaker)) sides.set(speaker, sides.size);
    const today = day(turn.at);
    const fresh = today !== shown;
    shown = today;
    return [
      fresh && el("p", { class: "day" }, timed(turn.at, day)),
      el("article", { class: `turn side-${sides.get(speaker) % 2} voice-${sides.get(speaker) % 6}` },
        el("header", {}, button(turn.speaker ?? "Memory", () => app.open(turn.id), { class: "open" }), timed(turn.at, clock)),
        el("p", { class: "text" }, turn.text)),
    ];
  };
  box.append(paged(read, show, () => el("p", { class: "empty" }, "Nothing of this conversation is left."), { class: "list turns" }));
  arrows(box, ".open");
}
