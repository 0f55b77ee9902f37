// Requests to the server, with the key of this tab.

const KEY = "trawl-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** An answer that is no success, as RFC 9457 describes it. */
export class Problem extends Error {
  constructor({ title, detail, status, code, errors = [], request_id }) {
    super(detail);
    Object.assign(this, { title, detail, status, code, errors, requestId: request_id });
  }
}

/** Paths are below what the page itself is below, which behind a proxy need not be the root. */
async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(new URL(`../${path}`, import.meta.url), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "Server cannot be reached", detail: error.message });
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body) return body;
  const { status } = response;
  throw new Problem(body?.title ? body : { title: `Status ${status}`, detail: "The answer cannot be read", status });
}

export const collections = () => ask("v1/collections");

export const collection = (name) => ask(`v1/collections/${encodeURIComponent(name)}`);

export const generations = (name) => ask(`v1/collections/${encodeURIComponent(name)}/generations`);

/** Searches a collection, or the generation of it that is named. */
export function search(name, generation, body, signal) {
  const place = encodeURIComponent(generation ? `${name}@${generation}` : name);
  return ask(`v1/collections/${place}/search`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
}
