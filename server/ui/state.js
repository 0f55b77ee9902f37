// What is searched for and how: all of it is in the address, so that it can be kept, shared and gone back to.

export const MODES = ["dense", "lexical", "hybrid"];
export const OPERATORS = ["=", "≠", "≥", "≤"];

const PAGE = 10;
/** Passages that the cross-encoder reads: enough to see what it does, few enough to wait for. */
const RERANKED = 50;
const SIDES = ["a", "b"];

const side = (mode) => ({ mode, rerank: false, generation: "" });

export const initial = () => ({
  collection: "",
  query: "",
  n: PAGE,
  filters: [],
  compare: false,
  a: side("dense"),
  b: side("hybrid"),
});

/** Reads the state from the part of an address that follows `?`. */
export function read(search) {
  const parameters = new URLSearchParams(search);
  const state = initial();
  state.collection = parameters.get("in") ?? "";
  state.query = parameters.get("q") ?? "";
  state.n = Number.parseInt(parameters.get("n") ?? "", 10) || PAGE;
  state.compare = parameters.has("compare");
  state.filters = parameters.getAll("filter").map(readFilter).filter(Boolean);
  for (const name of SIDES) {
    const mode = parameters.get(`${name}.mode`);
    if (MODES.includes(mode)) state[name].mode = mode;
    state[name].rerank = parameters.has(`${name}.rerank`);
    state[name].generation = parameters.get(`${name}.generation`) ?? "";
  }
  return state;
}

/** The address of a state: what is as at the start is left out. */
export function write(state) {
  const parameters = new URLSearchParams();
  const usual = initial();
  const put = (name, value, common) => {
    if (value !== common) parameters.append(name, value === true ? "" : value);
  };
  put("in", state.collection, "");
  put("q", state.query, "");
  put("n", state.n, PAGE);
  for (const { field, operator, value } of state.filters) parameters.append("filter", `${field}${operator}${value}`);
  put("compare", state.compare, false);
  for (const name of state.compare ? SIDES : ["a"]) {
    for (const option of ["mode", "rerank", "generation"]) {
      put(`${name}.${option}`, state[name][option], usual[name][option]);
    }
  }
  const text = parameters.toString();
  return text ? `?${text}` : location.pathname;
}

function readFilter(text) {
  const place = [...text].findIndex((character) => OPERATORS.includes(character));
  if (place < 1) return null;
  const characters = [...text];
  return {
    field: characters.slice(0, place).join(""),
    operator: characters[place],
    value: characters.slice(place + 1).join(""),
  };
}

const same = (one, other) => one.field === other.field && one.operator === other.operator && one.value === other.value;

export const has = (state, filter) => state.filters.some((one) => same(one, filter));

/** Adds a filter, or takes it away where it is there. */
export function toggle(state, filter) {
  const rest = state.filters.filter((one) => !same(one, filter));
  return { ...state, n: PAGE, filters: rest.length < state.filters.length ? rest : [...rest, filter] };
}

/** The body of the request for one side; `schema` has the metadata fields. */
export function request(state, { mode, rerank }, schema) {
  const filters = state.filters.map((filter) => condition(filter, schema[filter.field]?.kind));
  const must = filters.filter(({ negative }) => !negative).map(({ test }) => test);
  const mustNot = filters.filter(({ negative }) => negative).map(({ test }) => test);
  return {
    query: state.query,
    top_k: state.n,
    mode,
    ...(rerank && { rerank: { candidates: RERANKED } }),
    ...(filters.length && { filter: { must, must_not: mustNot } }),
    facets: facetFields(schema),
    highlight: { fields: ["title", "text"], max_chars: 280 },
  };
}

function condition({ field: key, operator, value }, kind) {
  if (operator === "≥") return { test: { key, range: { gte: bound(value, kind) } } };
  if (operator === "≤") return { test: { key, range: { lte: bound(value, kind) } } };
  return { test: { key, match: { value: exact(value, kind) } }, negative: operator === "≠" };
}

/** A value that the server refuses is sent as it was typed: its error says what was expected. */
function exact(value, kind) {
  if (kind === "boolean" && ["true", "false"].includes(value)) return value === "true";
  return kind === "integer" ? bound(value, kind) : value;
}

function bound(value, kind) {
  const number = Number(value);
  return ["integer", "float"].includes(kind) && value.trim() && Number.isFinite(number) ? number : value;
}

const MOST_FACETS = 6;

/** Fields whose values are worth counting. */
export function facetFields(schema) {
  const counted = ([, { kind, filterable }]) => filterable !== false && ["keyword", "boolean"].includes(kind);
  return Object.entries(schema).filter(counted).slice(0, MOST_FACETS).map(([name]) => name);
}
