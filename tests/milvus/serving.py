"""Two generations of medquad on a Milvus cluster: published, switched under load, a query node killed, and compared with exact search."""

import gzip
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

from cluster import Cluster

TRAWL = sys.argv.pop(1)
DATA = Path(os.environ["TRAWL_DATA"]) / "medquad"
KEPT = Path("target/milvus/medquad")
MODEL = "all-MiniLM-L6-v2"
LEFT_OUT = 1000
K = 10
EXACT = {"search": {"exact": True}}


def trawl(*arguments, code=0, **environment):
    command = [TRAWL, "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | environment)
    if code is None:
        assert done.returncode, f"{command}: 0, expected a refusal: {done.stdout}"
        return done.stderr
    assert done.returncode == code, f"{command}: {done.returncode}, expected {code}: {done.stderr}"
    return json.loads(done.stdout)


def built():
    """A collection with two generations, the second with fewer passages; encoded once."""
    if not KEPT.exists():
        new = KEPT.with_name("medquad.new")
        with tempfile.TemporaryDirectory() as folder:
            lines = gzip.open(DATA / "corpus.jsonl.gz", "rt").readlines()
            for name, part in (("all", lines), ("fewer", lines[:-LEFT_OUT])):
                corpus = Path(folder) / f"{name}.jsonl"
                corpus.write_text("".join(part))
                trawl("index", "build", "--corpus", corpus, "--model", MODEL, "--collection", new, "--kind", "hnsw")
        new.rename(KEPT)
    return KEPT


class Load:
    """Queries from several clients, without pause until the end of the block; every answer is kept."""

    def __init__(self, ask, queries, n_clients=4):
        self.ask, self.queries, self.answers, self.running = ask, queries, [], True
        self.threads = [threading.Thread(target=self.run, args=[i]) for i in range(n_clients)]

    def run(self, i):
        while self.running:
            query = self.queries[i % len(self.queries)]
            start = time.perf_counter()
            status, answer = self.ask(query)
            self.answers.append((query, status, answer, time.perf_counter() - start))
            i += 7

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.running = False
        for thread in self.threads:
            thread.join()


def ask(url, body=None):
    """GET without a body, POST with one."""
    data = body and json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")
    except OSError as error:
        return 0, str(error)


def percentile(times, part):
    return sorted(times)[min(int(len(times) * part), len(times) - 1)] * 1e3


def ids(answer):
    return [hit["id"] for hit in answer["results"]]


class Serving(unittest.TestCase):
    maxDiff = 2000

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.docs = Path(cls.folder.name) / "docs"
        subprocess.run(["cp", "-r", built(), cls.docs], check=True)
        listed = trawl("index", "list", cls.docs)
        cls.generations = [generation["generation"] for generation in listed]
        cls.cluster = Cluster()
        cls.addClassCleanup(cls.cluster.stop)
        cls.milvus = f"milvus://{','.join(cls.cluster.proxies)}"

    def publish(self, collection, name, *arguments):
        to = ["--to", f"{self.milvus}/{name}?bucket=s3://milvus/imports", "--replicas", "2"]
        done = trawl("index", "publish", collection, *arguments, "--no-gate", *to, **self.cluster.variables())
        print(f"published {done['milvus']}")
        return done["milvus"]

    def config(self, name, collections):
        config = Path(self.folder.name) / f"{name}.toml"
        config.write_text('[server]\nbind = "127.0.0.1:0"\n' + collections)
        return config

    def serve(self, name, collections):
        """Starts a server; returns how a collection of it is searched."""
        config = self.config(name, collections)
        log = open(config.with_suffix(".log"), "w+")
        self.addCleanup(log.close)
        server = subprocess.Popen([TRAWL, "serve", "--config", str(config)], stdout=log, stderr=log)
        self.addCleanup(server.wait, 60)
        self.addCleanup(server.terminate)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            text = config.with_suffix(".log").read_text()
            found = re.search(r"serving on (http://127\.0\.0\.1:\d+)", text)
            if found and ask(f"{found[1]}/readyz")[0] == 200:
                return lambda of, body: ask(f"{found[1]}/v1/collections/{of}/search", {"top_k": K} | body)
            time.sleep(0.1)
        self.fail(text)

    def test_filters(self):
        docs, rows = Path(self.folder.name) / "rows", 3000
        shuffled = random.Random(1)
        vectors = [[shuffled.gauss(0, 1) for _ in range(16)] for _ in range(rows)]
        Path(f"{docs}.fvecs").write_bytes(b"".join(struct.pack("<i16f", 16, *vector) for vector in vectors))
        Path(f"{docs}.txt").write_text("".join(f"p{i}\n" for i in range(rows)))
        with open(f"{docs}.jsonl", "w") as corpus:
            for i in range(rows):
                metadata = {"tag": "abc"[i % 3], "n": i, "on": f"{2000 + i % 30}-01-02T00:00:00Z"}
                corpus.write(json.dumps({"_id": f"p{i}", "text": f"passage {i}", "metadata": metadata}) + "\n")
        files = ["--corpus", f"{docs}.jsonl", "--vectors", f"{docs}.fvecs", "--ids", f"{docs}.txt", "--metric", "cosine"]
        trawl("index", "build", *files, "--collection", docs)
        published = self.publish(docs, "rows")
        search = self.serve("rows", f'[collections.rows]\npath = "{docs}"\nsearch = "{self.milvus}/rows"\n')
        tag = {"key": "tag", "match": {"value": "a"}}
        is_a, below = 'json_contains(metadata["tag"], "a")', 'metadata["n<"] < 1000'
        for conditions, expression, passes in (
            ({}, "ordinal >= 0", lambda i: True),
            ({"must_not": [tag]}, f"not ({is_a})", lambda i: i % 3 != 0),
            (
                {"must": [{"key": "tag", "match": {"any": ["a", "b"]}}]},
                'json_contains_any(metadata["tag"], ["a","b"])',
                lambda i: i % 3 < 2,
            ),
            (
                {"must": [{"key": "n", "range": {"gte": 700, "lt": 2600}}]},
                '(metadata["n>"] >= 700 and metadata["n<"] < 2600)',
                lambda i: 700 <= i < 2600,
            ),
            (
                {"must": [{"key": "on", "range": {"gte": "2010-01-02T00:00:00Z"}}]},
                'metadata["on>"] >= 1262390400000000',
                lambda i: i % 30 >= 10,
            ),
            ({"should": [tag, {"key": "n", "range": {"lt": 1000}}]}, f"({is_a} or {below})", lambda i: i % 3 == 0 or i < 1000),
        ):
            self.assertEqual(self.ordinals(published["collection"], expression), {i for i in range(rows) if passes(i)})
            found = 0
            for vector in vectors[:50]:
                body = {"vector": vector, "filter": conditions} if conditions else {"vector": vector}
                (status, answer), (_, exact) = search("rows", body), search("rows", body | EXACT)
                self.assertEqual(status, 200, answer)
                self.assertEqual(answer["plan"], "filtered_graph" if conditions else "graph")
                self.assertEqual(len(answer["results"]), K)
                self.assertTrue(all(passes(int(id[1:])) for id in ids(answer)), conditions)
                found += len(set(ids(answer)) & set(ids(exact)))
            print(f"recall@{K} {found / K / 50:.4f} where {conditions}")
            self.assertGreaterEqual(found / K / 50, 0.98, conditions)

    def ordinals(self, collection, expression):
        """The rows for which Milvus says that an expression holds."""
        body = {"collectionName": collection, "filter": expression, "outputFields": ["ordinal"], "limit": 16000}
        status, answer = ask(f"http://{self.cluster.proxies[0]}/v1/vector/query", body)
        self.assertEqual((status, answer["code"]), (200, 200), answer)
        return {int(row["ordinal"]) for row in answer["data"]}

    def test_others_are_refused(self):
        section = f'[collections.docs]\npath = "{self.docs}"\nsearch = "{self.milvus}/other"\n'
        config = self.config("other", section)
        self.assertIn("Milvus has no collection `other_", trawl("serve", "--config", config, code=None))
        generation = self.generations[0]
        manifest = json.loads((self.docs / "generations" / generation / "manifest.json").read_text())
        said = {"trawl": 1} | {key: manifest[key] for key in ("generation", "content_digest", "metric", "fingerprint")}
        said["fingerprint"]["space"]["weights"] = "0" * 64
        name = "other_" + re.sub("[^0-9A-Za-z]", "_", generation)
        new = {"collectionName": name, "dimension": manifest["width"], "description": json.dumps(said)}
        new |= {"metricType": "IP", "primaryField": "ordinal", "vectorField": "vector"}
        status, made = ask(f"http://{self.cluster.proxies[0]}/v1/vector/collections/create", new)
        self.assertEqual((status, made["code"]), (200, 200), made)
        refused = trawl("serve", "--config", config, code=None)
        print(refused)
        self.assertIn("differs in `fingerprint.space.weights`", refused)
        # What is no whole generation is not added to.
        self.assertFalse(self.publish(self.docs, "other", generation)["was_there"])

    def test_serving(self):
        first, second = self.generations
        self.assertGreaterEqual(self.publish(self.docs, "docs", first)["recall"], 0.98)
        with open(DATA / "queries.jsonl") as lines:
            texts = [json.loads(next(lines))["text"] for _ in range(200)]
        here = f'[collections.here]\npath = "{self.docs}"\nalias = "{first}"\n'
        # Clients, server and cluster share the cores with imports and the building of graphs.
        there = f'[collections.docs]\npath = "{self.docs}"\nsearch = "{self.milvus}/docs"\nsearch_timeout = "900ms"\n'
        search = self.serve("docs", here + there)

        def found(text, of="docs", **more):
            return search(of, {"query": text} | more)

        def results(text, *of, **more):
            status, answer = found(text, *of, **more)
            self.assertEqual(status, 200, answer)
            return answer["results"]

        exact = {text: results(text, "here", **EXACT) for text in texts}
        for of, name in (("here", "in process"), ("docs", "Milvus")):
            times, n_found = [], 0
            for text in texts:
                scores = {hit["id"]: hit["score"] for hit in exact[text]}
                status, answer = found(text, of)
                self.assertEqual(status, 200, answer)
                times.append(answer["timing_ms"]["search"] / 1e3)
                true = [hit for hit in answer["results"] if hit["id"] in scores]
                self.assertEqual([hit["score"] for hit in true], [scores[hit["id"]] for hit in true])
                n_found += len(true)
            recall = n_found / (K * len(texts))
            print(f"{name}, {answer['plan']}: recall@{K} {recall:.4f}, p50 {percentile(times, 0.5):.1f} ms, p99 {percentile(times, 0.99):.1f} ms")
            self.assertGreaterEqual(recall, 0.98)

        with Load(found, texts) as load:
            time.sleep(3)
            self.publish(self.docs, "docs", second)
            self.until_answered_by(second, load)
            trawl("index", "rollback", self.docs, "--to", f"{self.milvus}/docs")
            self.until_answered_by(first, load)
            self.assertTrue(self.publish(self.docs, "docs", second)["was_there"])
            self.until_answered_by(second, load)
            time.sleep(3)
        self.check_load("alias switched three times", load, {first, second})

        before = {text: results(text) for text in texts}
        with Load(found, texts) as load:
            time.sleep(3)
            self.cluster.kill("proxy-1")
            time.sleep(10)
        self.check_load("proxy killed", load, {second})

        with Load(found, texts) as load:
            time.sleep(3)
            self.cluster.kill("querynode-0")
            time.sleep(40)
        self.check_load("query node killed", load, {second})
        wrong = [text for text, _, answer, _ in load.answers if answer["results"] != before[text]]
        print(f"{len(wrong)} wrong")
        self.assertEqual(wrong, [])

        self.cluster.kill("querynode-1")
        for text in texts[:20]:
            status, answer = found(text)
            self.assertEqual((status, answer.get("code")), (503, "search_unavailable"), answer)
            self.assertEqual(len(results(text, **EXACT)), K)
        start = time.monotonic()
        for i in range(2):
            self.cluster.start_query_node(i)
        while found(texts[0])[0] != 200:
            self.assertLess(time.monotonic() - start, 180)
            time.sleep(0.5)
        print(f"new query nodes answer after {time.monotonic() - start:.0f} s")
        self.assertEqual({text: results(text) for text in texts}, before)

    def until_answered_by(self, generation, load):
        end = time.monotonic() + 60
        while load.answers[-1][1] != 200 or load.answers[-1][2]["generation"] != generation:
            self.assertLess(time.monotonic(), end, load.answers[-1])
            time.sleep(0.1)

    def check_load(self, what, load, generations):
        failed = [(status, answer) for _, status, answer, _ in load.answers if status != 200]
        times = [time for *_, time in load.answers]
        print(f"{what}: {len(times)} queries, {len(failed)} failed, p50 {percentile(times, 0.5):.1f} ms, longest {max(times) * 1e3:.0f} ms")
        self.assertEqual(failed, [])
        self.assertEqual({answer["generation"] for _, _, answer, _ in load.answers}, generations)
        self.assertEqual({len(answer["results"]) for _, _, answer, _ in load.answers}, {K})


if __name__ == "__main__":
    unittest.main(verbosity=2)
