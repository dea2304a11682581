// Search: what was asked, as of when, what was found and why; without a question, what was said last.

import { call } from "./api.js";
import { announce, arrows, button, count, counted, day, el, fill, labelled, loading, paged, problem, select, shortened, timed } from "./dom.js";
import { newcomer } from "./imports.js";
import { legend, measureOf, reasons } from "./reasons.js";
import { scrubber } from "./scrubber.js";

export const title = "Search";
export const heading = "Search your memory";

const COMMON = new Set("the and for was were did does has have had are you your who what when where which how why with from that this they about".split(" "));
const LONG = 600; // characters of a hit that are shown at first
const kept = { query: "", at: null, speaker: "", k: "10" }; // while the page is open

export function render(box, _, app) {
  if (!app.about.num_episodes) {
    box.append(newcomer(app));
    return;
  }
  let under = null; // the request under way
  const field = el("input", { id: "query", type: "search", placeholder: "What do you want to remember?", autocomplete: "off", maxlength: "2000", value: kept.query });
  const speaker = el("input", { type: "text", autocomplete: "off", value: kept.speaker });
  const results = el("section", { "aria-label": "What was found", class: "results" });
  const methods = app.about.methods.map(({ key, name }) => [key, key === app.about.method ? `${name} (of this memory)` : name]);

  const form = el("form", { role: "search", class: "ask", on: { submit: (event) => (event.preventDefault(), run()) } },
    el("label", { class: "unseen", for: "query" }, "Search"), field, el("button", { class: "primary" }, "Search"));
  field.addEventListener("input", () => field.value || run());
  const filters = el("details", { class: "filters" }, el("summary", {}, "Narrow it down"), el("div", { class: "row" },
    labelled("Said by", speaker),
    labelled("How many", select([["5", "5"], ["10", "10"], ["25", "25"], ["50", "50"]], kept.k, (value) => ((kept.k = value), run()))),
    labelled("Method", select(methods, app.method ?? app.about.method, (key) => ((app.method = key === app.about.method ? null : key), run())))));
  speaker.addEventListener("change", () => run());
  const time = scrubber(kept.at, (at) => ((kept.at = at), run()));
  box.append(form, time, filters, results);
  arrows(results, ".open");
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") results.querySelector(".open")?.focus();
    if (event.key === "Escape" && field.value) (field.value = ""), run();
  });

  async function run() {
    under?.abort();
    under = new AbortController();
    const { signal } = under;
    [kept.query, kept.speaker] = [field.value.trim(), speaker.value.trim()];
    if (!kept.query) {
      fill(results, el("h2", {}, kept.at ? `Last said by ${day(kept.at)}` : "Last said"), last(app, signal));
      return;
    }
    results.setAttribute("aria-busy", "true");
    if (!results.querySelector(".hit")) fill(results, loading(4));
    const start = performance.now();
    const body = { query: kept.query, k: Number(kept.k), at: moment(kept.at), speaker: kept.speaker || null };
    try {
      const hits = await call("/v1/recall", { body, query: app.asked(), signal });
      show(hits, performance.now() - start);
    } catch (error) {
      if (error.name !== "AbortError") fill(results, problem(error, run));
    }
    if (!signal.aborted) results.removeAttribute("aria-busy");
  }

  function show(hits, ms) {
    const as = kept.at ? ` as known on ${day(kept.at)}` : "";
    const said = `${counted(hits.length, "memory", "memories")}${as}, in ${count(Math.round(ms))} ms`;
    announce(said);
    const measure = measureOf(hits);
    const answer = el("div", { class: "answer-place" }, button("Answer from these", () => tell(answer)));
    fill(results,
      el("h2", { class: "unseen" }, "Found"),
      el("div", { class: "row between" }, el("p", { class: "muted" }, said), hits.length > 0 && answer),
      hits.length ? legend() : el("p", { class: "empty" }, "Nothing fits. Try other words, a later day, or another method."),
      el("ol", { class: "list" }, hits.map((item) => el("li", {}, hit(item, kept.query, measure, app)))));
  }

  async function tell(place) {
    fill(place, loading(1));
    try {
      const answer = await call("/v1/answer", { body: { question: kept.query, at: moment(kept.at) }, query: app.asked() });
      announce(answer.text);
      place.replaceWith(el("figure", { class: "answer" },
        el("blockquote", {}, answer.text),
        el("figcaption", {}, answer.abstained ? "No good evidence." : "",
          answer.quotes.map((quote) => el("span", { class: "quote" },
            button(`${quote.speaker ?? "Somebody"}, ${day(quote.at)}`, () => app.open(quote.episode_id), { class: "link" }))))));
    } catch (error) {
      fill(place, problem(error, () => tell(place)));
    }
  }

  run();
}

const moment = (at) => at && at.toISOString();

function last(app, signal) {
  const read = async (after) => {
    const { episodes, next } = await call("/v1/latest", { query: { at: moment(kept.at), after_id: after, limit: 20 }, signal });
    return { items: episodes, next };
  };
  return paged(read, (episode) => el("article", { class: "hit plain" }, ...said(episode, [shortened(episode.text, LONG)], app)), () => el("p", { class: "empty" }, "Nothing had been said by then."));
}

function said(record, text, app) {
  const called = typeof record.meta.title === "string" ? record.meta.title : null;
  return [
    el("header", {},
      button(record.speaker ?? (record.kind && record.kind !== "episode" ? "Note" : "Memory"), () => app.open(record.id), { class: "open" }),
      record.kind && record.kind !== "episode" && el("span", { class: "badge" }, record.kind),
      timed(record.at),
      record.session && button(shortened(called ?? record.session, 40), () => app.go("conversations", { session: record.session, agent: record.agent ?? null, called }), { class: "link", title: "Open this conversation" })),
    el("p", { class: "text" }, ...text),
  ];
}

function hit(item, query, measure, app) {
  const letters = Array.from(item.text);
  const words = [...new Set(query.toLowerCase().match(/[\p{L}\p{N}]{3,}/gu) ?? [])].filter((word) => !COMMON.has(word)).map((word) => word.slice(0, Math.max(3, word.length - 2)));
  const from = letters.length > LONG && item.excerpt ? Math.max(0, item.excerpt[0] - 60) : 0;
  const part = letters.slice(from, from + LONG).join("");
  const whole = letters.length <= LONG;
  const place = [from > 0 && "\u2026", ...marked(part, words), !whole && "\u2026"].filter(Boolean);
  const card = el("article", { class: "hit" }, el("div", {}, ...said(item, place, app)), reasons(item.why, measure));
  if (!whole) {
    const more = button("Show all of it", () => {
      fill(card.querySelector(".text"), ...marked(item.text, words));
      more.remove();
    }, { class: "link" });
    card.firstChild.append(more);
  }
  return card;
}

/** A text as nodes, the words that begin like one of these marked. */
function marked(text, words) {
  if (!words.length) return [text];
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}])(?:${words.join("|")})[\\p{L}\\p{N}]*`, "giu");
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(pattern)) {
    nodes.push(text.slice(end, found.index), el("mark", {}, found[0]));
    end = found.index + found[0].length;
  }
  return [...nodes, text.slice(end)];
}
