// Why a memory was found: its signals as bars, the largest first.

import { count, el } from "./dom.js";

const SHOWN = 3;

const percent = (share) => `${Math.round(share * 100)} %`;

const strength = (signal) => Math.abs(signal.weight * signal.value);

/** The name of a signal in words that need no textbook. */
const plain = (name) => name.replace(/^tokens\b/, "close wording").replace(/^cosine$/, "likeness of meaning").replace(/^bm25$/i, "rare words in common");

/** What is measured on the bars of some hits: shares of the score, or, where there is but one reason, how strong it is. */
export function measureOf(hits) {
  const alone = hits.every((hit) => hit.why.length < 2);
  const size = alone ? strength : (signal) => signal.share;
  const widest = Math.max(1e-9, ...hits.flatMap((hit) => hit.why.map(size)));
  return {
    width: (signal) => size(signal) / widest,
    number: (signal) => percent(alone ? size(signal) / widest : signal.share),
    of: alone ? "of the strongest" : "of the score",
  };
}

/** The explanation of a hit. */
export function reasons(why, measure) {
  if (!why.length) return null;
  return el("div", { class: "why" },
    el("p", { class: "label" }, "Why it was found"),
    bars(why.slice(0, SHOWN), measure),
    why.length > SHOWN && el("details", {},
      el("summary", {}, `All ${count(why.length)} reasons`),
      table(why)));
}

/** What the two kinds of bars mean. */
export function legend() {
  return el("p", { class: "legend" },
    el("span", { class: "key for", "aria-hidden": "true" }), " speaks for it ",
    el("span", { class: "key against", "aria-hidden": "true" }), " speaks against it; the longer, the more it counts");
}

const speaks = (signal) => (signal.weight * signal.value >= 0 ? "for" : "against");

function bars(signals, measure) {
  return el("ul", { class: "bars" }, signals.map((signal) => {
    const side = speaks(signal);
    const bar = el("span", { class: `bar ${side}` });
    bar.style.width = `${Math.max(2, measure.width(signal) * 100)}%`;
    return el("li", {},
      el("span", { class: "name" }, plain(signal.name)),
      el("span", { class: "track", "aria-hidden": "true" }, bar),
      el("span", { class: "share" }, measure.number(signal), el("span", { class: "unseen" }, ` ${measure.of}, speaks ${side} it`)));
  }));
}

function table(signals) {
  const head = ["Reason", "Measured", "Weight", "Share"].map((text) => el("th", { scope: "col" }, text));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "All reasons" }, el("table", {},
    el("caption", {}, "Measured: in standard deviations from the mean of what was looked at. Share: of the whole score."),
    el("thead", {}, el("tr", {}, head)),
    el("tbody", {}, signals.map((signal) => el("tr", { class: speaks(signal) },
      el("th", { scope: "row" }, plain(signal.name)),
      el("td", {}, signal.value.toFixed(2)),
      el("td", {}, signal.weight.toFixed(2)),
      el("td", {}, percent(signal.share)))))));
}
