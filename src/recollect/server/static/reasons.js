// Why a memory was found: its signals as bars, the largest first.

import { count, el } from "./dom.js";

const SHOWN = 3;

const percent = (share) => `${Math.round(share * 100)} %`;

const strength = (signal) => Math.abs(signal.weight * signal.value);

/** The strongest reason of some hits, which all their bars are measured by. */
export function strongest(hits) {
  return Math.max(1e-9, ...hits.flatMap((hit) => hit.why.map(strength)));
}

/** The explanation of a hit. widest: the strength of a full bar. */
export function reasons(why, widest) {
  if (!why.length) return null;
  const rest = why.slice(SHOWN);
  return el("div", { class: "why" },
    el("p", { class: "label" }, "Why it was found"),
    bars(why.slice(0, SHOWN), widest),
    rest.length > 0 && el("details", {},
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

function bars(signals, widest) {
  return el("ul", { class: "bars" }, signals.map((signal) => {
    const side = speaks(signal);
    const bar = el("span", { class: `bar ${side}` });
    bar.style.width = `${Math.max(2, (strength(signal) / widest) * 100)}%`;
    return el("li", {},
      el("span", { class: "name" }, signal.name),
      el("span", { class: "track", "aria-hidden": "true" }, bar),
      el("span", { class: "share" }, percent(signal.share), el("span", { class: "unseen" }, ` of the score, speaks ${side} it`)));
  }));
}

function table(signals) {
  const head = ["Reason", "Measured", "Weight", "Share"].map((text) => el("th", { scope: "col" }, text));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "All reasons" }, el("table", {},
    el("caption", {}, "Measured: in standard deviations from the mean of what was looked at. Share: of the whole score."),
    el("thead", {}, el("tr", {}, head)),
    el("tbody", {}, signals.map((signal) => el("tr", { class: speaks(signal) },
      el("th", { scope: "row" }, signal.name),
      el("td", {}, signal.value.toFixed(2)),
      el("td", {}, signal.weight.toFixed(2)),
      el("td", {}, percent(signal.share)))))));
}
