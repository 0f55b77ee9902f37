// What people do on the search page, done in Chromium.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { KEY, SCREENSHOTS, browser, serve } from "./harness.js";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const WIDE = { width: 1280, height: 900 };
const PHONE = { width: 375, height: 720 };

let server;
let chromium;

before(async () => {
  mkdirSync(SCREENSHOTS, { recursive: true });
  server = await serve();
  chromium = await browser();
});

after(async () => {
  await chromium?.close();
  await server?.stop();
});

/** Runs `use` on a page of its own, after the script `before`: with the key, and with nothing asked of others, logged as an error or against the policy. */
async function onPage(address, options, use) {
  const context = await chromium.newContext({ viewport: WIDE, ...options.context });
  context.setDefaultTimeout(60_000);
  if (options.key !== null) {
    await context.addInitScript((key) => sessionStorage.setItem("trawl-key", key), options.key ?? KEY);
  }
  if (options.before) await context.addInitScript(options.before);
  const page = await context.newPage();
  const wrong = [];
  page.on("request", (request) => request.url().startsWith(server.url) || wrong.push(`asked ${request.url()}`));
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("console", (message) => {
    const isExpected = options.fails && message.text().startsWith("Failed to load resource");
    if (["error", "warning"].includes(message.type()) && !isExpected) wrong.push(message.text());
  });
  await page.goto(server.url + address);
  await use(page);
  assert.deepEqual(wrong, []);
  await context.close();
}

async function look(page, name) {
  await checkAccessibility(page);
  await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`) });
}

/** In a world of its own, so that the policy of the page stays in force for the page. */
async function checkAccessibility(page) {
  const session = await page.context().newCDPSession(page);
  const { frameTree } = await session.send("Page.getFrameTree");
  const frameId = frameTree.frame.id;
  const { executionContextId: contextId } = await session.send("Page.createIsolatedWorld", { frameId });
  const run = async (expression) =>
    session.send("Runtime.evaluate", { expression, contextId, awaitPromise: true, returnByValue: true });
  await run(readFileSync(AXE, "utf8"));
  const { result } = await run("axe.run().then(({violations}) => violations.map(({id, nodes}) => [id, nodes.map(({html}) => html)]))");
  assert.deepEqual(result.value, []);
  await session.detach();
}

const ids = (page, place = 0) => page.locator(".column").nth(place).locator(".facts code").allTextContents();

/** The page after its last search. */
async function settled(page) {
  await page.locator("#columns[aria-busy=false] .column").first().waitFor();
}

/** The page that knows its collections and has nothing to search for: its controls are not made anew any more. */
async function begun(page) {
  await page.locator("#columns[aria-busy=false] .empty").waitFor();
}

test("a search shows passages with their words marked, scores and times, and is in the address", async () => {
  await onPage("/ui", {}, async (page) => {
    await begun(page);
    await look(page, "empty");
    await page.keyboard.type("why do onions make you weep");
    await page.locator("#side-a .mode", { hasText: "hybrid" }).click();
    await page.keyboard.press("/");
    await page.keyboard.press("Enter");
    await page.locator(".hit").nth(9).waitFor();
    await settled(page);
    assert.equal(await page.locator(".hit").count(), 10);
    assert.ok((await ids(page)).includes("kitchen-01"));
    const onions = page.locator(".hit", { hasText: "kitchen-01" });
    assert.ok((await onions.locator("mark").allTextContents()).includes("onions"));
    assert.match(await onions.locator(".facts").textContent(), /dense .*bm25 .*fused/);
    assert.match(await page.locator(".bar").getAttribute("aria-label"), /search .* ms.*fetch/);
    assert.match(await page.locator(".summary").textContent(), /336 passages/);
    assert.match(page.url(), /q=why\+do\+onions.*a\.mode=hybrid/);
    await look(page, "results-light");

    const found = await ids(page);
    await page.reload();
    await settled(page);
    assert.deepEqual(await ids(page), found);
    await page.getByRole("button", { name: "More", exact: true }).click();
    await page.locator(".hit").nth(19).waitFor();
    assert.deepEqual((await ids(page)).slice(0, 10), found);
  });
});

test("passages are shown where the page came over plain HTTP from another machine", async () => {
  // Chromium trusts 127.0.0.1; elsewhere it leaves this out without TLS.
  await onPage("/ui?q=bread", { before: () => delete Crypto.prototype.randomUUID }, async (page) => {
    await settled(page);
    assert.equal(await page.locator(".hit").count(), 10);
    const [first, second] = await page.locator(".title").all();
    assert.notEqual(await first.getAttribute("aria-controls"), await second.getAttribute("aria-controls"));
  });
});

test("a query that is taken back while its search goes on leaves nothing to wait for", async () => {
  await onPage("/ui", {}, async (page) => {
    await page.route("**/search", () => {});
    const asked = page.waitForRequest("**/search");
    await page.getByLabel("Query").fill("bread");
    await page.keyboard.press("Enter");
    await asked;
    await page.getByLabel("Query").fill("");
    await page.keyboard.press("Enter");
    await page.locator("#columns[aria-busy=false] .empty").waitFor();
  });
});

test("what is typed while the page reads about its collections stays there", async () => {
  await onPage("/ui", {}, async (page) => {
    let release;
    const held = new Promise((done) => (release = done));
    await page.route("**/v1/collections", async (route) => {
      await held;
      await route.continue();
    });
    const asked = page.waitForRequest("**/v1/collections");
    await page.reload();
    await asked;
    await page.getByLabel("Query").fill("bread");
    release();
    await page.locator("#facts", { hasText: "passages" }).waitFor();
    await page.locator("#columns[aria-busy=false] .empty").waitFor();
    assert.equal(await page.getByLabel("Query").inputValue(), "bread");
  });
});

test("who goes back sees nothing more of the search that was left", async () => {
  await onPage("/ui?q=bread", {}, async (page) => {
    await settled(page);
    let begin, answer;
    const beginning = new Promise((done) => (begin = done));
    const answered = new Promise((done) => (answer = done));
    let isLeft = true;
    await page.route("**/v1/collections", async (route) => {
      await beginning;
      await route.continue();
    });
    await page.route("**/search", async (route) => {
      if (isLeft) await answered;
      await route.continue().catch(() => {}); // Its request is gone.
    });
    const searched = page.waitForRequest("**/search");
    await page.getByLabel("Query").fill("water");
    await page.keyboard.press("Enter");
    await searched;
    const asked = page.waitForRequest("**/v1/collections");
    await page.goBack();
    await asked;
    isLeft = false;
    answer();
    await page.evaluate(() => fetch("ui/icon.svg").then((icon) => icon.text()));
    assert.equal(await page.locator("#columns").getAttribute("aria-busy"), "true");
    begin();
    await settled(page);
    assert.equal(await page.getByLabel("Query").inputValue(), "bread");
  });
});

test("of two quick changes of the collection the last one counts, whichever is answered last", async () => {
  await onPage("/ui?q=bread", {}, async (page) => {
    let release;
    const held = new Promise((done) => (release = done));
    const slow = { name: "slow", passages: 1, encoder: "none", schema: { fields: { color: { kind: "keyword" } } } };
    await page.route("**/v1/collections", (route) => route.fulfill({ json: { collections: [{ name: "sample" }, slow] } }));
    await page.route("**/v1/collections/slow", async (route) => {
      await held;
      await route.fulfill({ json: slow });
    });
    await page.route("**/v1/collections/slow/generations", (route) => route.fulfill({ json: { generations: [] } }));
    await page.reload();
    await settled(page);
    const facts = await page.locator("#facts").textContent();
    const asked = page.waitForRequest("**/v1/collections/slow");
    await page.getByLabel("Collection").selectOption("slow");
    await asked;
    assert.equal(await page.getByLabel("Collection").inputValue(), "slow");
    const searched = page.waitForRequest("**/v1/collections/sample/search");
    await page.getByLabel("Collection").selectOption("sample");
    await searched;
    await settled(page);
    const answered = page.waitForResponse("**/v1/collections/slow/generations");
    release();
    await answered;
    await page.evaluate(() => new Promise((done) => setTimeout(done)));
    assert.equal(await page.locator("#facts").textContent(), facts);
    assert.equal(await page.locator("#filter-field option", { hasText: "color" }).count(), 0);
  });
});

test("filters and facets narrow what is found", async () => {
  await onPage("/ui?q=water&a.mode=lexical", {}, async (page) => {
    await settled(page);
    const whole = await page.locator(".summary").textContent();
    const value = page.locator(".facet", { hasText: "subject" }).getByRole("button", { name: /^kitchen/ });
    await page.getByRole("button", { name: /^\d+ more$/ }).click();
    await value.click();
    await page.getByRole("button", { name: "Remove subject = kitchen" }).waitFor();
    await settled(page);
    assert.ok((await ids(page)).every((id) => id.startsWith("kitchen-")));
    assert.notEqual(await page.locator(".summary").textContent(), whole);
    assert.equal(await value.getAttribute("aria-pressed"), "true");

    await page.getByLabel("Field").selectOption("year");
    await page.getByLabel("Operator").selectOption("≥");
    await page.getByLabel("Value").fill("1900");
    await page.getByRole("button", { name: "Add" }).click();
    await page.getByRole("button", { name: "Remove year ≥ 1900" }).waitFor();
    await settled(page);
    await page.locator(".title").first().click();
    const year = page.locator("dt", { hasText: "year" }).locator("xpath=following-sibling::dd[1]");
    assert.ok(Number(await year.textContent()) >= 1900);
    await look(page, "filters");

    await page.goBack();
    await page.getByRole("button", { name: "Remove year ≥ 1900" }).waitFor({ state: "detached" });
    await settled(page);
    await page.getByRole("button", { name: "Remove subject = kitchen" }).click();
    await page.getByRole("button", { name: "Remove subject = kitchen" }).waitFor({ state: "detached" });
    await settled(page);
    assert.equal((await page.locator(".summary").textContent()).split("·")[0], whole.split("·")[0]);
  });
});

test("the reranker is switched on and its scores and time are shown", async () => {
  await onPage("/ui?q=how+do+bees+find+their+way", {}, async (page) => {
    await settled(page);
    assert.equal(await page.locator(".facts", { hasText: "rerank" }).count(), 0);
    await page.getByLabel("Rerank").first().check();
    await page.locator(".facts", { hasText: "rerank" }).first().waitFor();
    await settled(page);
    assert.match(await page.locator(".bar").getAttribute("aria-label"), /rerank/);
    assert.match(page.url(), /a\.rerank=/);
  });
});

test("two modes, and two generations, are compared side by side", async () => {
  await onPage("/ui?q=bread+rises&a.mode=lexical", {}, async (page) => {
    await settled(page);
    await page.getByLabel("Compare").check();
    await page.locator(".column").nth(1).waitFor();
    await settled(page);
    assert.deepEqual(await page.locator(".column > h2").allTextContents(), ["lexical", "hybrid"]);
    assert.ok((await page.locator(".place, .only").count()) > 10);
    await look(page, "compare");

    const older = page.locator("#side-b .generation");
    await older.selectOption({ index: 0 });
    await page.locator("#side-b .mode", { hasText: "lexical" }).click();
    await page.locator(".column > h2", { hasText: /lexical · 2/ }).waitFor();
    await settled(page);
    const [live, half] = [await ids(page, 0), await ids(page, 1)];
    assert.ok(half.length > 0 && half.length < live.length);
    const generations = await page.locator(".summary code").allTextContents();
    assert.notEqual(generations[0], generations[1]);
    await look(page, "generations");
  });
});

test("everything is reached from the keyboard", async () => {
  await onPage("/ui?q=bread&compare&a.mode=lexical", {}, async (page) => {
    await settled(page);
    const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.textContent);
    const titles = await page.locator(".column").first().locator(".title").allTextContents();
    await page.locator("h1").click();
    await page.keyboard.press("/");
    assert.equal(await focused(), "query");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    assert.equal(await focused(), titles[1]);
    await page.keyboard.press("Enter");
    assert.equal(await page.locator("[aria-expanded=true]").textContent(), titles[1]);
    await page.keyboard.press("Escape");
    assert.equal(await page.locator(".title[aria-expanded=true]").count(), 0);
    await page.keyboard.press("ArrowRight");
    const second = await page.locator(".column").nth(1).locator(".title").nth(1).textContent();
    assert.equal(await focused(), second);
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Escape");
    assert.equal(await focused(), "query");
  });
});

test("an error says what is wrong and where", async () => {
  await onPage("/ui?q=water&filter=year%E2%89%A5soon", { fails: true }, async (page) => {
    const problem = page.getByRole("alert");
    await problem.waitFor();
    const text = await problem.textContent();
    assert.match(text, /Request is not valid.*\/filter\/must\/0/s);
    await look(page, "error");
    await page.getByRole("button", { name: "Remove year ≥ soon" }).click();
    await page.locator(".hit").first().waitFor();
  });
});

test("the page loads without a key, asks for one, and keeps it for the tab", async () => {
  await onPage("/ui?q=bread", { key: null, fails: true }, async (page) => {
    const dialog = page.getByRole("dialog");
    await dialog.waitFor();
    await look(page, "key");
    await page.keyboard.type("no such key");
    await page.keyboard.press("Enter");
    await page.getByText("the key is not known").waitFor();
    await dialog.getByLabel("API key").fill(KEY);
    await dialog.getByRole("button", { name: "Use" }).click();
    await page.locator(".hit").first().waitFor();
    await page.reload();
    await page.locator(".hit").first().waitFor();
    await page.getByRole("button", { name: "API key" }).click();
    await dialog.getByRole("button", { name: "Forget" }).click();
    await dialog.waitFor();
    await page.getByText("this server asks for a key").waitFor();
  });
});

test("it is readable in the dark and on a phone", async () => {
  const address = "/ui?q=how+do+bees+find+their+way&a.mode=hybrid&a.rerank=";
  await onPage(address, { context: { colorScheme: "dark" } }, async (page) => {
    await settled(page);
    await page.locator(".title").first().click();
    await look(page, "results-dark");
  });
  for (const [name, query] of [["phone", address], ["phone-compare", `${address}&compare`]]) {
    await onPage(query, { context: { viewport: PHONE, hasTouch: true } }, async (page) => {
      await settled(page);
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(width <= PHONE.width, `${width}`);
      await look(page, name);
    });
  }
});

test("words of a passage are text, whatever they look like", async () => {
  await onPage("/ui?q=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E", {}, async (page) => {
    await settled(page);
    assert.equal(await page.locator("#columns img").count(), 0);
    assert.equal(await page.getByLabel("Query").inputValue(), "<img src=x onerror=alert(1)>");
  });
});
