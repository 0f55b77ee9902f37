// An answer, or why there is none, as elements.

import { element } from "./element.js";

/** Where the time of a search goes, in its order; the server's `total` has the rest. */
const STAGES = ["queue", "tokenize", "encode", "filter", "search", "rerank", "fetch"];
const SCORES = ["dense", "bm25", "fused", "rerank"];

const milliseconds = (time) => `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;

const count = ({ value, relation }) => `${relation === "gte" ? "at least " : ""}${value.toLocaleString("en")}`;

/**
 * One column: the passages of an answer and how they were found.
 *
 * `other` is the answer beside it, if there is one, and `longest` the time of the slower of the two.
 */
export function column(name, answer, { other, longest, more }) {
  const ranks = other && new Map(other.results.map((hit) => [hit.id, hit.rank]));
  const notes = [...answer.degraded.map((part) => part.replaceAll("_", " ")), ...answer.warnings];
  const { total } = answer;
  return element(
    "section",
    { class: "column", "aria-label": name },
    element("h2", {}, name),
    element(
      "p",
      { class: "summary" },
      `${count(total)} ${total.value === 1 ? "passage" : "passages"} · ${milliseconds(answer.timing_ms.total)}`,
      answer.plan && ` · ${answer.plan.replaceAll("_", " ")}${answer.exact ? ", exact" : ""}`,
      element("code", { title: "Generation" }, answer.generation),
    ),
    timing(answer.timing_ms, longest),
    notes.length > 0 && element("ul", { class: "notes" }, notes.map((note) => element("li", {}, note))),
    answer.results.length > 0
      ? element("ol", { class: "hits" }, answer.results.map((hit) => shown(hit, ranks)))
      : element("p", { class: "empty" }, "No passage was found. Fewer filters or another mode may find more."),
    answer.results.length < total.value && element("button", { type: "button", class: "more", onclick: more }, "More"),
  );
}

function timing(times, longest) {
  const spent = STAGES.filter((stage) => times[stage] > 0);
  const text = spent.map((stage) => `${stage} ${milliseconds(times[stage])}`).join(", ");
  const part = (stage) => {
    const bar = element("span", { class: `stage ${stage}`, title: `${stage} ${milliseconds(times[stage])}` });
    bar.style.width = `${(100 * times[stage]) / Math.max(longest, times.total, Number.EPSILON)}%`;
    return bar;
  };
  const named = (stage) =>
    element("li", {}, element("span", { class: `dot ${stage}` }), stage, element("b", {}, milliseconds(times[stage])));
  return element(
    "div",
    { class: "timing" },
    element("div", { class: "bar", role: "img", "aria-label": `Time: ${text}` }, spent.map(part)),
    element("ul", { class: "legend", "aria-hidden": "true" }, spent.map(named)),
  );
}

let nShown = 0;

function shown(hit, ranks) {
  nShown += 1;
  const body = element("div", { class: "body", id: `hit-${nShown}` });
  const fragment = (field, text) => pieces(hit.highlights?.find((one) => one.field === field), text);
  const short = fragment("text", hit.text);
  body.append(element("p", { class: "text" }, short));
  let whole = false;
  const open = (event) => {
    whole = !whole;
    event.currentTarget.setAttribute("aria-expanded", String(whole));
    body.replaceChildren(element("p", { class: "text" }, whole ? hit.text : short), whole ? metadata(hit) : "");
  };
  const title = element(
    "button",
    { type: "button", class: "title", "aria-expanded": "false", "aria-controls": body.id, onclick: open },
    hit.title ? fragment("title", hit.title) : hit.id,
  );
  return element(
    "li",
    { class: "hit" },
    element("span", { class: "rank" }, String(hit.rank)),
    element("div", { class: "passage" }, element("h3", {}, title), body, facts(hit, ranks)),
  );
}

/** The scores of every stage, and where the passage stands in the other column. */
function facts(hit, ranks) {
  const scores = SCORES.filter((stage) => hit.scores[stage] !== undefined);
  return element(
    "p",
    { class: "facts" },
    element("code", {}, hit.id),
    scores.map((stage) => element("span", {}, `${stage} `, element("b", {}, hit.scores[stage].toFixed(3)))),
    ranks && place(hit.rank, ranks.get(hit.id)),
  );
}

function place(rank, other) {
  if (other === undefined) return element("span", { class: "only" }, "only here");
  if (other === rank) return element("span", { class: "place" }, "same place");
  return element("span", { class: "place" }, `${rank < other ? "▲" : "▼"} ${Math.abs(rank - other)}, there ${other}`);
}

function pieces(highlight, text) {
  if (!highlight) return [text ?? ""];
  return highlight.pieces.map((piece) => (piece.match ? element("mark", {}, piece.text) : piece.text));
}

function metadata(hit) {
  const entries = Object.entries(hit.metadata ?? {});
  if (hit.document) entries.unshift(["document", `${hit.document.id}, passage ${hit.document.passage + 1}`]);
  const written = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  return element(
    "dl",
    {},
    entries.map(([name, value]) => [element("dt", {}, name), element("dd", {}, written(value))]).flat(),
  );
}

/** A column of a search that failed. */
export function failure(name, problem) {
  return element(
    "section",
    { class: "column", "aria-label": name },
    element("h2", {}, name),
    element(
      "div",
      { class: "problem", role: "alert" },
      element("h3", {}, problem.title),
      problem.errors?.length
        ? element(
            "ul",
            {},
            problem.errors.map(({ pointer, message }) => element("li", {}, element("code", {}, pointer || "body"), ` ${message}`)),
          )
        : element("p", {}, problem.detail),
      problem.requestId && element("p", { class: "id" }, "Request ", element("code", {}, problem.requestId)),
    ),
  );
}

/** What stands where no search has been made. */
export const welcome = () =>
  element("p", { class: "empty" }, "Type a question and press Enter. Filters and comparisons are kept in the address.");
