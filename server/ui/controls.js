// What a search is set up with: modes, generations, filters, facets.

import { element } from "./element.js";
import { MODES, OPERATORS, has } from "./state.js";

/** Fills the options of one side; `changed` gets the new ones. */
export function side(fieldset, name, options, { hasReranker, generations, changed }) {
  const mode = (value) =>
    element(
      "label",
      { class: "mode" },
      element("input", {
        type: "radio",
        name: `mode-${name}`,
        value,
        checked: options.mode === value,
        onchange: () => changed({ mode: value }),
      }),
      element("span", {}, value),
    );
  const rerank = element("input", {
    type: "checkbox",
    checked: options.rerank && hasReranker,
    disabled: !hasReranker,
    onchange: (event) => changed({ rerank: event.target.checked }),
  });
  fieldset.replaceChildren(
    element("legend", { class: "hidden" }, name === "a" ? "Search" : "Compared with"),
    element("span", { class: "modes" }, MODES.map(mode)),
    element("label", { class: "check", title: hasReranker ? null : "The collection has no reranker" }, rerank, " Rerank"),
    generations.length > 1 ? choice(options.generation, generations, changed) : "",
  );
}

function choice(chosen, generations, changed) {
  const option = ({ generation, aliases, served }) =>
    element(
      "option",
      { value: served ? "" : generation, selected: chosen === (served ? "" : generation) },
      [generation, ...aliases].join(" · "),
    );
  const known = generations.some(({ generation, served }) => chosen === (served ? "" : generation));
  return element(
    "label",
    {},
    element("span", { class: "hidden" }, "Generation"),
    element(
      "select",
      { class: "generation", onchange: (event) => changed({ generation: event.target.value }) },
      [...generations].reverse().map(option),
      !known && element("option", { value: chosen, selected: true }, chosen),
    ),
  );
}

/** Fills the form that adds a filter with the fields that can be filtered by. */
export function filterForm(form, schema) {
  const fields = Object.entries(schema).filter(([, { filterable }]) => filterable !== false);
  form.hidden = fields.length === 0;
  const option = (value) => element("option", { value }, value);
  form.elements["filter-field"].replaceChildren(...fields.map(([name]) => option(name)));
  form.elements["filter-operator"].replaceChildren(...OPERATORS.map(option));
}

/** Lists the filters in force, each with a way out. */
export function filters(list, state, remove) {
  const written = ({ field, operator, value }) => `${field} ${operator} ${value}`;
  const button = (filter) =>
    element(
      "button",
      { type: "button", "aria-label": `Remove ${written(filter)}`, onclick: () => remove(filter) },
      written(filter),
      element("span", { "aria-hidden": "true" }, " ×"),
    );
  list.replaceChildren(...state.filters.map((filter) => element("li", {}, button(filter))));
  list.hidden = state.filters.length === 0;
}

const MOST_VALUES = 8;

/** Lists the values of each field with their counts; a click filters by one. */
export function facets(place, counted, state, toggle) {
  const value = (field, [text, n]) => {
    const filter = { field, operator: "=", value: text };
    return element(
      "li",
      {},
      element(
        "button",
        { type: "button", "aria-pressed": String(has(state, filter)), onclick: () => toggle(filter) },
        element("span", { class: "value" }, text),
        element("span", { class: "n" }, n.toLocaleString("en")),
      ),
    );
  };
  const group = ([field, counts]) => {
    const values = Object.entries(counts).sort(([, a], [, b]) => b - a);
    if (values.length === 0) return null;
    const list = element("ul", {}, values.slice(0, MOST_VALUES).map((one) => value(field, one)));
    const rest = values.slice(MOST_VALUES);
    const showRest = (event) => {
      event.currentTarget.remove();
      list.append(...rest.map((one) => value(field, one)));
      list.children[MOST_VALUES].firstChild.focus();
    };
    return element(
      "section",
      { class: "facet" },
      element("h2", {}, field),
      list,
      rest.length > 0 && element("button", { type: "button", class: "rest", onclick: showRest }, `${rest.length} more`),
    );
  };
  place.replaceChildren(...Object.entries(counted ?? {}).map(group).filter(Boolean));
}
