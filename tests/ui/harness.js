// A server over a small collection, and a browser.

import { spawn, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

import { chromium } from "playwright-core";

const ROOT = resolve(import.meta.dirname, "../..");
const CORPUS = join(ROOT, "tests/fixtures/sample/corpus.jsonl");
const MODEL = process.env.TRAWL_UI_MODEL ?? join(ROOT, "tests/fixtures/models/tiny-bert");

export const SCREENSHOTS = join(ROOT, "target/ui");
export const KEY = "a key that only these tests know";

/** Serves the sample corpus as `sample`, in two generations of which the first is live, to whoever has the key. */
export async function serve() {
  const folder = mkdtempSync(join(tmpdir(), "trawl-ui-"));
  const collection = join(folder, "sample");
  const half = join(folder, "half.jsonl");
  const lines = readFileSync(CORPUS, "utf8").trimEnd().split("\n");
  writeFileSync(half, lines.filter((_, place) => place % 2 === 0).join("\n"));
  for (const corpus of [CORPUS, half]) {
    const build = ["index", "build", "--corpus", corpus, "--collection", collection, "--model", MODEL, "--quiet"];
    execFileSync(process.env.TRAWL, build, { stdio: "inherit" });
  }
  const config = join(folder, "server.toml");
  const digest = createHash("sha256").update(KEY).digest("hex");
  writeFileSync(config, `[server]\ndefault_timeout = "10m"\nmax_timeout = "10m"\n[queue]\nmax_wait = "10m"\n[auth]\nkeys = [{ name = "page", sha256 = "${digest}", scopes = ["search"] }]\n`);
  const serving = ["serve", collection, "--config", config, "--bind", "127.0.0.1:0"];
  const server = spawn(process.env.TRAWL, serving, { stdio: ["ignore", "inherit", "pipe"] });
  const ended = new Promise((done) => server.once("exit", done));
  let url;
  const said = createInterface({ input: server.stderr });
  for await (const line of said) {
    url = line.match(/serving on (http:\S+?),/)?.[1];
    if (url) break;
  }
  if (!url) throw new Error("the server did not start");
  server.stderr.resume();
  for (let ready = false; !ready; ready = (await fetch(`${url}/readyz`)).ok) {
    await new Promise((done) => setTimeout(done, 50));
  }
  const stop = async () => {
    server.kill("SIGTERM");
    await ended;
    rmSync(folder, { recursive: true });
  };
  return { url, stop };
}

export const browser = () =>
  chromium.launch({
    executablePath: process.env.CHROMIUM,
    timeout: 180_000,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
  });
