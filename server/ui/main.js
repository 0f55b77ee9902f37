import * as api from "./api.js";
import { column, failure, welcome } from "./answer.js";
import * as controls from "./controls.js";
import { element } from "./element.js";
import * as states from "./state.js";

const at = (id) => document.getElementById(id);
const columns = at("columns");

let state;
/** The collection that is open: its schema, models and generations. */
let open = { schema: {}, hasReranker: false, generations: [] };
let searching = new AbortController();
/** How often the page was begun with: answers to an earlier time, which may come last, change nothing. */
let nStarts = 0;

/** Takes over the state from the address, with its query in place of what stands there. */
function readAddress() {
  state = states.read(location.search);
  at("query").value = state.query;
}

/** Takes over what was changed, with the query as it stands there now, and searches anew. */
function change(changes) {
  state = { ...state, query: at("query").value, ...changes };
  history.pushState(null, "", states.write(state));
  show();
  return search();
}

/** Brings the controls in line with the state, but for the query: it may be being typed. */
function show() {
  at("compare").checked = state.compare;
  at("collection").value = state.collection;
  at("side-b").hidden = !state.compare;
  document.title = state.query ? `${state.query} · trawl` : "trawl";
  for (const name of ["a", "b"]) {
    controls.side(at(`side-${name}`), name, state[name], {
      ...open,
      changed: (changes) => change({ [name]: { ...state[name], ...changes } }),
    });
  }
  controls.filters(at("filters"), state, toggle);
  at("n-filters").textContent = state.filters.length ? `(${state.filters.length})` : "";
}

const toggle = (filter) => change(states.toggle(state, filter));

function nameOf({ mode, rerank, generation }) {
  return [mode, rerank && open.hasReranker && "reranked", generation].filter(Boolean).join(" · ");
}

async function search() {
  searching.abort();
  searching = new AbortController();
  const { signal } = searching;
  if (!state.query.trim() || !state.collection) {
    columns.setAttribute("aria-busy", "false");
    columns.replaceChildren(welcome());
    return;
  }
  columns.setAttribute("aria-busy", "true");
  const sides = (state.compare ? ["a", "b"] : ["a"]).map((name) => state[name]);
  const asked = sides.map((side) => {
    const options = { ...side, rerank: side.rerank && open.hasReranker };
    const body = states.request(state, options, open.schema);
    return api.search(state.collection, side.generation, body, signal);
  });
  const outcomes = await Promise.allSettled(asked);
  if (signal.aborted) return;
  columns.setAttribute("aria-busy", "false");
  const answers = outcomes.map(({ value }) => value);
  const longest = Math.max(...answers.map((answer) => answer?.timing_ms.total ?? 0));
  const made = outcomes.map(({ value: answer, reason }, place) => {
    const name = nameOf(sides[place]);
    if (!answer) return failure(name, reason);
    const other = answers.length > 1 ? answers[1 - place] : undefined;
    return column(name, answer, { other, longest, more });
  });
  columns.classList.toggle("two", made.length > 1);
  columns.replaceChildren(...made);
  controls.facets(at("facets"), answers.find(Boolean)?.facets, state, toggle);
  const refused = outcomes.some(({ reason }) => reason?.status === 401);
  if (refused) askForKey();
}

async function more() {
  const shown = columns.querySelectorAll(".column:first-child .hit").length;
  await change({ n: state.n + states.initial().n });
  titles()[0]?.[shown]?.focus();
}

/** Reads what is known of the collection, and takes it over unless another one was chosen meanwhile. */
async function openCollection(isLast) {
  const { collection } = state;
  const detail = await api.collection(collection);
  const generations = await api.generations(collection).catch(() => ({ generations: [] }));
  if (!isLast()) return;
  const schema = detail.schema?.fields ?? {};
  open = { schema, hasReranker: Boolean(detail.reranker), generations: generations.generations };
  at("facts").textContent = `${detail.passages.toLocaleString("en")} passages · ${detail.encoder ?? "no encoder"}`;
  controls.filterForm(at("add-filter"), schema);
  controls.facets(at("facets"), {}, state, toggle);
}

async function start() {
  nStarts += 1;
  const place = nStarts;
  const isLast = () => place === nStarts;
  // What is shown is of another state, and so would be the answer that is waited for.
  searching.abort();
  columns.setAttribute("aria-busy", "true");
  show();
  try {
    const { collections } = await api.collections();
    if (!isLast()) return;
    const names = collections.map(({ name }) => name);
    at("collection").replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    if (!names.includes(state.collection)) state.collection = names[0] ?? "";
    at("collection").value = state.collection;
    if (!state.collection) {
      throw new api.Problem({ title: "No collection", detail: "This server has none that may be searched." });
    }
    await openCollection(isLast);
    if (!isLast()) return;
    show();
  } catch (problem) {
    if (!isLast()) return;
    searching.abort();
    columns.setAttribute("aria-busy", "false");
    columns.replaceChildren(failure("collections", problem));
    if (problem.status === 401) askForKey();
    return;
  }
  await search();
}

function askForKey() {
  at("key").value = api.key.get();
  if (!at("key-dialog").open) at("key-dialog").showModal();
}

/** The titles of each column, through which the arrows go. */
const titles = () =>
  [...columns.querySelectorAll(".column")].map((column) => [...column.querySelectorAll(".title")]);

function move(event) {
  const steps = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] };
  const [across, along] = steps[event.key];
  const lists = titles();
  const from = lists.findIndex((list) => list.includes(document.activeElement));
  if (from < 0) {
    if (along === 1) lists[0]?.[0]?.focus();
    return along === 1 && lists[0]?.length > 0;
  }
  const place = lists[from].indexOf(document.activeElement) + along;
  const list = lists[from + across] ?? lists[from];
  if (place < 0) at("query").focus();
  else list[Math.min(place, list.length - 1)]?.focus();
  return true;
}

function onKey(event) {
  if (at("key-dialog").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const { target } = event;
  const typing = target.matches("input:not([type=radio], [type=checkbox]), select");
  const chosen = target.matches("input[type=radio], select");
  if (event.key === "/" && !typing) {
    at("query").focus();
    at("query").select();
    event.preventDefault();
  } else if (event.key === "Escape" && columns.contains(target)) {
    const isOpen = target.getAttribute("aria-expanded") === "true";
    if (isOpen) target.click();
    else at("query").focus();
    event.preventDefault();
  } else if (event.key.startsWith("Arrow") && !chosen && (!typing || (target === at("query") && event.key === "ArrowDown"))) {
    if (move(event)) event.preventDefault();
  }
}

at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  change({ n: states.initial().n });
});
at("compare").addEventListener("change", (event) => change({ compare: event.target.checked }));
at("collection").addEventListener("change", async (event) => {
  const usual = states.initial();
  const { compare, a, b } = state;
  const plain = (side) => ({ ...side, generation: "" });
  state = { ...usual, query: at("query").value, compare, a: plain(a), b: plain(b), collection: event.target.value };
  history.pushState(null, "", states.write(state));
  await start();
});
at("add-filter").addEventListener("submit", (event) => {
  event.preventDefault();
  const [field, operator, value] = ["field", "operator", "value"].map((name) => at(`filter-${name}`).value);
  at("filter-value").value = "";
  const filter = { field, operator, value };
  if (!states.has(state, filter)) toggle(filter);
});
at("show-key").addEventListener("click", askForKey);
at("key-form").addEventListener("submit", (event) => {
  const chosen = event.submitter?.value ?? "keep";
  if (chosen === "cancel") return;
  api.key.set(chosen === "keep" ? at("key").value.trim() : "");
  start();
});
addEventListener("keydown", onKey);
addEventListener("popstate", () => {
  readAddress();
  start();
});

readAddress();
if (!state.query) at("query").focus();
// Room for the passages: on a phone the filters are closed until they are asked for.
if (matchMedia("(max-width: 48rem)").matches) at("narrow").open = false;
start();
