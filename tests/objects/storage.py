"""Collections in an S3 server (moto) on this machine: what is damaged, killed or raced for is never seen in part."""

import itertools
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

TRAWL = sys.argv.pop(1)
FIXTURES = Path(__file__).parent.parent / "fixtures"
MODEL = str(FIXTURES / "models/tiny-bert")
CORPUS = FIXTURES / "sample/corpus.jsonl"
BUCKET = "trawl"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
CONTENT = ["--corpus", str(CORPUS), "--model", MODEL, "--chunk-passages", "16"]
SEED = 20261122


class Gate:
    """Stands before the server, and kills a process at its n-th request. Each process has a session token of its own."""

    def __init__(self, app):
        self.app, self.lock, self.doomed, self.n_running = app, threading.Condition(), {}, {}

    def __call__(self, environ, start_response):
        token = environ.get("HTTP_X_AMZ_SECURITY_TOKEN")
        with self.lock:
            process, n_left = self.doomed.get(token, (None, 0))
            if process:
                self.doomed[token] = (process, n_left - 1)
                if n_left == 1:
                    process.send_signal(signal.SIGKILL)
                elif n_left < 1:  # It sent this before it was killed.
                    start_response("503 Slow Down", [])
                    return []
            self.n_running[token] = self.n_running.get(token, 0) + 1
        try:
            return self.app(environ, start_response)
        finally:
            with self.lock:
                self.n_running[token] -= 1
                self.lock.notify_all()

    def kill(self, n, *arguments):
        """Runs trawl up to its n-th request; returns whether it ended before."""
        token = f"token-{time.monotonic_ns()}"
        with self.lock:  # No request passes until its process is known.
            process = start(*arguments, AWS_SESSION_TOKEN=token)
            self.doomed[token] = (process, n)
        out, errors = process.communicate(timeout=600)
        assert process.returncode in (0, -signal.SIGKILL), errors
        with self.lock:  # What it asked for last is done before anybody looks.
            self.lock.wait_for(lambda: not self.n_running.get(token))
        return process.returncode == 0


def start(*arguments, **environment):
    variables = os.environ | KEYS | {"AWS_ENDPOINT_URL": Storage.endpoint} | environment
    command = [TRAWL, "--json", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


def finish(process, code=0):
    out, errors = process.communicate(timeout=600)
    assert process.returncode == code, f"{process.args}: {process.returncode}, expected {code}: {errors}"
    return json.loads(out) if code == 0 else errors


def trawl(*arguments, code=0, **environment):
    return finish(start(*arguments, **environment), code)


class Storage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        cls.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        cls.server.start()
        Storage.gate = cls.server._server.app = Gate(cls.server._server.app)
        Storage.endpoint = "http://%s:%s" % cls.server.get_host_and_port()
        cls.s3 = boto3.client("s3", endpoint_url=cls.endpoint, region_name="us-east-1",
                              aws_access_key_id="key", aws_secret_access_key="secret")
        cls.s3.create_bucket(Bucket=BUCKET)
        cls.folder = tempfile.TemporaryDirectory()
        cls.docs = cls.path("docs")
        cls.built = trawl("index", "build", *CONTENT, "--collection", cls.docs)
        changed = CORPUS.read_text().splitlines()[:200]
        cls.path("changed.jsonl").write_text("\n".join(changed))
        cls.second = trawl("index", "build", "--corpus", cls.path("changed.jsonl"), "--model", MODEL, "--collection", cls.docs)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.folder.cleanup()

    @classmethod
    def path(cls, name):
        return Path(cls.folder.name) / name

    def place(self):
        """A URL that no other test uses, and its prefix."""
        prefix = self.id().rsplit(".", 1)[1]
        return f"s3://{BUCKET}/{prefix}", prefix

    def keys(self, prefix):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix + "/")
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def read(self, key):
        return self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def write(self, key, body):
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)

    def generations(self, place):
        return [row["generation"] for row in trawl("index", "list", place)]

    def test_what_is_pushed_is_pulled_and_answers_as_before(self):
        url, _ = self.place()
        first = trawl("index", "push", self.docs, url)
        self.assertEqual((first["named"], first["files"] > 5), (True, True))
        self.assertEqual(trawl("index", "push", self.docs, url)["files"], 0)
        copy = self.path("copy")
        pulled = trawl("index", "pull", url, copy)
        self.assertEqual(pulled["content_digest"], self.built["content_digest"])
        self.assertTrue(pulled["live"])
        query = ["search", "why is bread sour", "-k", "3", "--model", MODEL]
        answers = [trawl(query[0], where, *query[1:]) for where in (self.docs, copy)]
        hits = [[(hit["id"], hit["score"]) for hit in answer["results"]] for answer in answers]
        self.assertEqual(*hits)
        second = trawl("index", "push", self.docs, url, "--generation", self.second["generation"])
        self.assertFalse(second["named"])
        second = trawl("index", "push", self.docs, url, "--generation", self.second["generation"], "--publish")
        self.assertTrue(second["named"])
        self.assertFalse(trawl("index", "pull", url, copy)["live"])
        self.assertEqual(trawl("index", "rollback", url)["generation"], self.built["generation"])
        self.assertEqual(trawl("index", "publish", url, "--no-gate")["generation"], self.second["generation"])

    def test_the_gate_is_asked_before_an_alias_is_changed(self):
        url, prefix = self.place()
        for built in (self.built, self.second):
            trawl("index", "push", self.docs, url, "--generation", built["generation"])
        first, second = self.built["generation"], self.second["generation"]
        work = self.path("gate-work")
        publish = ["index", "publish", url, "--model", MODEL, "--work", work]
        # It has 200 of 336 passages.
        self.assertIn("more than 20 % below live", trawl(*publish, code=3))
        self.assertEqual(json.loads(self.read(f"{prefix}/aliases.json"))["aliases"], {"live": first})
        self.assertFalse([key for key in self.keys(prefix) if "/gate/" in key])
        limits = self.path("gate.toml")
        limits.write_text('[require]\npassages = { max_drop = "50%" }\noverlap = {}\nndcg = {}\nmrr = {}\n')
        published = trawl(*publish, "--gate", limits)
        self.assertEqual((published["generation"], published["gate"]["passed"]), (second, True))
        self.assertEqual(json.loads(self.read(f"{prefix}/gate/{second}.json"))["report"]["candidate"], second)
        # What is damaged there is not published, and what is live stays so.
        [key] = [key for key in self.keys(prefix) if f"{first}/ids" in key]
        self.write(key, self.read(key)[:-1])
        trawl("index", "publish", url, first, "--model", MODEL, code=5)
        self.assertEqual(json.loads(self.read(f"{prefix}/aliases.json"))["aliases"], {"live": second})

    def test_what_nobody_needs_is_removed(self):
        url, prefix = self.place()
        names = []
        for i in range(4):
            changed = self.path(f"gc-{i}.jsonl")
            changed.write_text("\n".join(CORPUS.read_text().splitlines()[: 10 + i]))
            built = trawl("index", "build", "--corpus", changed, "--model", MODEL, "--collection", self.path("gc"))
            names.append(built["generation"])
        for name in names[:3]:
            trawl("index", "push", self.path("gc"), url, "--generation", name, "--publish")
        self.assertFalse(self.gate.kill(4, "index", "push", self.path("gc"), url, "--generation", names[3]))
        trawl(*self.encode(url, "0/2"))
        gc = ["index", "gc", url, "--keep", "1"]
        before = self.keys(prefix)
        # All of it may be work that goes on.
        self.assertEqual(trawl(*gc)["bytes"], 0)
        found = trawl(*gc, "--grace", "0", "--dry-run")
        self.assertEqual(self.keys(prefix), before)
        self.assertEqual(trawl(*gc, "--grace", "0", "--keep-unfinished")["unfinished"], [])
        self.assertEqual(trawl("index", "status", url)[0]["missing"], [1])
        removed = trawl(*gc, "--grace", "0")
        # `live` names the third, and named the second before.
        self.assertEqual(found["generations"], names[:1])
        self.assertEqual(removed["unfinished"], found["unfinished"])
        self.assertEqual(len(found["unfinished"]), 1)
        self.assertEqual(found["leftovers"], [f"{url}/generations/{names[3]}"])
        self.assertEqual(self.generations(url), names[1:3])
        self.assertFalse([key for key in self.keys(prefix) if "/building/" in key or names[0] in key or names[3] in key])
        self.assertEqual(trawl("index", "rollback", url)["generation"], names[1])
        trawl("index", "pull", url, self.path("gc-copy"))
        # What was removed can be sent again.
        self.assertTrue(trawl("index", "push", self.path("gc"), url, "--generation", names[3], "--publish")["named"])

    def test_long_files_go_in_pieces(self):
        url, prefix = self.place()
        n, width = 4000, 768
        rows = random.Random(SEED).randbytes(n * width * 2)
        head = "{'descr': '<f2', 'fortran_order': False, 'shape': (%d, %d), }" % (n, width)
        head = head.ljust(117) + "\n"
        # Every exponent of a half below infinity.
        rows = bytes(byte & 0xBB if i % 2 else byte for i, byte in enumerate(rows))
        self.path("v.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + rows)
        self.path("ids.txt").write_text("".join(f"p{i}\n" for i in range(n)))
        self.path("v.jsonl").write_text("".join('{"_id": "p%d", "text": "t"}\n' % i for i in range(n)))
        vectors = ["--vectors", self.path("v.npy"), "--ids", self.path("ids.txt"), "--metric", "inner_product", "--rows", "f32"]
        built = trawl("index", "build", "--corpus", self.path("v.jsonl"), *vectors, "--collection", self.path("long"))
        trawl("index", "push", self.path("long"), url)
        [key] = [key for key in self.keys(prefix) if key.endswith("vectors.trawl")]
        pieces = self.s3.head_object(Bucket=BUCKET, Key=key)["ETag"].strip('"').split("-")
        self.assertEqual(len(pieces), 2, "the file was sent at once")
        pulled = trawl("index", "pull", url, self.path("long-copy"))
        self.assertEqual(pulled["content_digest"], built["content_digest"])

    def test_what_is_damaged_is_named_and_not_seen(self):
        url, prefix = self.place()
        trawl("index", "push", self.docs, url)
        for i, key in enumerate(self.keys(prefix)):
            intact = self.read(key)
            flipped = bytearray(intact)
            flipped[len(flipped) // 2] ^= 1
            for damaged in (bytes(flipped), intact[: len(intact) // 2]):
                copy = self.path(f"damaged-{i}-{len(damaged)}")  # What was copied before is not copied again.
                self.write(key, damaged)
                errors = trawl("index", "pull", url, copy, code=5)
                name = key.removeprefix(prefix).split("/", 3)[-1]
                self.assertIn(name, errors)
                self.assertFalse(list(copy.glob("generations/*")), key)
            self.write(key, intact)
        self.assertTrue(trawl("index", "pull", url, copy)["live"])

    def test_a_push_or_pull_killed_at_any_request_is_not_seen_and_goes_on(self):
        url, prefix = self.place()
        push, pull = ("index", "push", self.docs, url), ("index", "pull", url)
        for n in range(1, 100):
            self.s3.delete_object(Bucket=BUCKET, Key=f"{prefix}/aliases.json")
            for key in self.keys(prefix):
                self.s3.delete_object(Bucket=BUCKET, Key=key)
            if self.gate.kill(n, *push):
                break
            if self.generations(url):
                self.assertEqual(trawl("index", "list", url)[0]["content_digest"], self.built["content_digest"])
            else:
                self.assertIn("no alias or generation", trawl(*pull, self.path("nothing"), code=1))
            trawl(*push)
            whole = trawl(*pull, self.path(f"pushed-{n}"))
            self.assertEqual(whole["content_digest"], self.built["content_digest"])
        self.assertGreater(n, len(self.keys(prefix)))
        for n in range(1, 100):
            copy = self.path(f"pulled-{n}")
            if self.gate.kill(n, *pull, copy):
                break
            self.assertFalse(list(copy.glob("generations/*")))
            self.assertEqual(trawl(*pull, copy)["content_digest"], self.built["content_digest"])
        self.assertGreater(n, len(self.keys(prefix)) - 1)

    def test_of_those_who_publish_at_once_none_undoes_another(self):
        url, prefix = self.place()
        for built in (self.built, self.second):
            trawl("index", "push", self.docs, url, "--generation", built["generation"])
        names = [self.built["generation"], self.second["generation"]]

        def publish(i):
            return trawl("index", "publish", url, names[i % 2], "--no-gate", "--alias", f"a{i}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(publish, range(8)))
        aliases = json.loads(self.read(f"{prefix}/aliases.json"))["aliases"]
        self.assertEqual(aliases, {"live": names[0]} | {f"a{i}": names[i % 2] for i in range(8)})

    def encode(self, url, part):
        return "index", "encode", "--part", part, *CONTENT, "--threads", "1", "--to", url

    def test_parts_with_killed_attempts_are_one_build(self):
        url, prefix = self.place()
        moments = random.Random(SEED)
        ends = []

        def until_done(part):
            for n in [moments.randint(1, 6), moments.randint(1, 6), 1000]:
                ends.append(self.gate.kill(n, *self.encode(url, f"{part}/8")))

        self.assertEqual(trawl("index", "status", url), [])
        until_done(0)
        [status] = trawl("index", "status", url)
        self.assertEqual((status["parts"], status["missing"]), (8, list(range(1, 8))))
        self.assertEqual(status["total_passages"], self.built["counts"]["passages"])
        self.assertIn("7 of 8 parts are missing: 1", trawl("index", "commit", url, code=1))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(until_done, range(1, 8)))
        self.assertGreater(ends.count(False), 8, "hardly an attempt was killed")
        built = trawl("index", "commit", url)
        self.assertEqual(built["content_digest"], self.built["content_digest"])
        self.assertTrue(built["live"])
        [status] = trawl("index", "status", url)
        self.assertEqual(status["generation"], built["generation"])
        # Whoever comes late finds it done.
        report = trawl(*self.encode(url, "3/8"))["report"]
        self.assertEqual(report["generation"], built["generation"])
        self.assertFalse([key for key in self.keys(prefix) if "/blobs/" in key or "/parts/" in key])
        pulled = trawl("index", "pull", url, self.path("parts"))
        self.assertEqual(pulled["content_digest"], self.built["content_digest"])

    def test_of_attempts_at_once_one_wins(self):
        url, prefix = self.place()
        for part in ("0/2", "1/2"):
            attempts = [start(*self.encode(url, part)) for _ in range(4)]
            builds = {finish(attempt)["report"]["build"] for attempt in attempts}
            self.assertEqual(len(builds), 1)
        records = [key for key in self.keys(prefix) if "/parts/" in key]
        self.assertEqual(len(records), 2)
        commits = [start("index", "commit", url, "--build", *builds) for _ in range(4)]
        generations = {finish(commit)["generation"] for commit in commits}
        self.assertEqual(self.generations(url), list(generations))
        files = {key.split("/")[2] for key in self.keys(prefix) if "/generations/" in key}
        self.assertEqual(files, generations, "the files of a generation that lost are there")

    def test_a_damaged_part_is_named_and_made_again(self):
        url, prefix = self.place()
        for part in ("0/2", "1/2"):
            trawl(*self.encode(url, part))
        kinds = {
            "blobs": lambda bytes: bytes[:-9] + b"!" + bytes[-8:],
            "parts": lambda bytes: bytes[:-9],
        }
        for kind, damage in kinds.items():
            key = [key for key in self.keys(prefix) if f"/{kind}/" in key][-1]
            self.write(key, damage(self.read(key)))
            self.assertIn(key.removeprefix(prefix), trawl("index", "commit", url, code=5))
            self.assertEqual(self.generations(url), [])
            for part in ("0/2", "1/2"):
                trawl(*self.encode(url, part))
        key = next(key for key in self.keys(prefix) if "/blobs/" in key)
        self.s3.delete_object(Bucket=BUCKET, Key=key)
        self.assertIn("is missing", trawl("index", "commit", url, code=5))
        for part in ("0/2", "1/2"):
            trawl(*self.encode(url, part))
        self.assertEqual(trawl("index", "commit", url)["content_digest"], self.built["content_digest"])

    def test_a_commit_killed_at_any_request_goes_on(self):
        url, prefix = self.place()
        [build] = {trawl(*self.encode(url, part))["report"]["build"] for part in ("0/2", "1/2")}
        commit = ("index", "commit", url, "--build", build)
        for n in itertools.count(3, 4):
            if self.gate.kill(n, *commit):
                break
            for generation in self.generations(url):
                copy = self.path(f"committed-{generation}")
                pulled = trawl("index", "pull", url, copy, "--generation", generation)
                self.assertEqual(pulled["content_digest"], self.built["content_digest"])
        self.assertGreater(n, 20)
        built = trawl("index", "commit", url, "--build", build)
        self.assertEqual(built["content_digest"], self.built["content_digest"])
        self.assertEqual(self.generations(url), [built["generation"]])

    def serve(self, url, name, cache=None, **environment):
        """A server that follows the alias, and its address."""
        config = self.path(f"{name}.toml")
        config.write_text(
            f'[server]\nbind = "127.0.0.1:0"\ndefault_timeout = "600s"\nmax_timeout = "600s"\n[queue]\nmax_wait = "600s"\n[models.tiny]\npath = "{MODEL}"\nrole = "encoder"\n'
            f'[collections.docs]\npath = "{url}"\ncache = "{self.path(cache or name)}"\npoll = "100ms"\nkeep = 1\nencoder = "tiny"\n'
        )
        variables = os.environ | KEYS | {"AWS_ENDPOINT_URL": Storage.endpoint} | environment
        log = open(self.path(f"{name}.log"), "w+")
        process = subprocess.Popen([TRAWL, "serve", "--config", str(config)], stdout=log, stderr=log, env=variables)
        self.addCleanup(log.close)
        self.addCleanup(process.wait, 300)
        self.addCleanup(process.terminate)

        def serving():
            found = re.search(r"serving on (http://127\.0\.0\.1:\d+)", self.path(f"{name}.log").read_text())
            return found and found[1]

        address = self.until(serving)
        self.until(lambda: self.get(address + "/readyz")[0] == 200)
        return address

    def until(self, what, seconds=300):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := what():
                return found
            time.sleep(0.05)
        logs = "".join(path.read_text() for path in Path(self.folder.name).glob("*.log"))
        self.fail(f"not within {seconds} s: {logs}")

    def get(self, url, body=None, method=None):
        head = {"content-type": "application/json"}
        request = urllib.request.Request(url, body and json.dumps(body).encode(), head, method=method)
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")
        except OSError:
            return 0, None

    def generation_of(self, address):
        status, answer = self.get(address + "/v1/collections/docs/search", {"query": "bread", "top_k": 1})
        self.assertEqual(status, 200, answer)
        return answer["generation"]

    def test_servers_follow_an_alias_one_at_a_time(self):
        url, prefix = self.place()
        trawl("index", "push", self.docs, url)
        first, second = self.built["generation"], self.second["generation"]
        servers = [self.serve(url, f"server-{i}") for i in range(2)]
        self.assertEqual({self.generation_of(server) for server in servers}, {first})
        put = self.get(servers[0] + "/v1/collections/docs/aliases/live", {"generation": first}, "PUT")
        self.assertEqual((put[0], put[1]["code"]), (409, "locked"))
        delete = self.get(servers[0] + "/v1/collections/docs/documents/delete", {"ids": ["a"]})
        self.assertEqual((delete[0], delete[1]["code"]), (409, "locked"))

        # While somebody else has the turn, it is copied, and no server changes.
        turn = f"{prefix}/turns/live.json"
        n_written = itertools.count(1)

        def hold():
            self.write(turn, json.dumps({"holder": "somebody", "n_written": next(n_written)}))

        hold()
        trawl("index", "push", self.docs, url, "--generation", second, "--publish")
        copies = [self.path(f"server-{i}/generations/{second}") for i in range(2)]
        # A turn that is not renewed is over after a minute, and a copy may take longer.
        self.until(lambda: hold() or all(copy.is_dir() for copy in copies))
        for _ in range(20):
            hold()
            self.assertEqual({self.generation_of(server) for server in servers}, {first})
            time.sleep(0.05)
        self.s3.delete_object(Bucket=BUCKET, Key=turn)
        self.until(lambda: {self.generation_of(server) for server in servers} == {second})
        self.until(lambda: json.loads(self.read(turn))["holder"] is None)
        trawl("index", "rollback", url)
        self.until(lambda: {self.generation_of(server) for server in servers} == {first})

        # A damaged generation changes nothing.
        third = trawl("index", "build", *CONTENT, "--collection", self.docs, "--full", "--restart", "--shards", "2")["generation"]
        trawl("index", "push", self.docs, url, "--generation", third)
        key = f"{prefix}/generations/{third}/passages"
        intact = self.read(key)
        self.write(key, intact[:-1] + bytes([intact[-1] ^ 1]))
        trawl("index", "publish", url, third, "--no-gate")
        self.until(lambda: "is not served" in self.path("server-0.log").read_text())
        self.assertEqual({self.generation_of(server) for server in servers}, {first})
        self.assertFalse(self.path(f"server-0/generations/{third}").exists())

        # What was copied is served when the storage does not answer.
        lonely = self.serve(url, "lonely", "server-0", AWS_ENDPOINT_URL="http://127.0.0.1:9")
        self.assertEqual(self.generation_of(lonely), first)

    def test_bad_input_is_not_to_be_tried_again(self):
        url, prefix = self.place()
        self.path("bad.jsonl").write_text("not json\n")
        bad = ["--corpus", self.path("bad.jsonl"), "--model", MODEL]
        trawl("index", "encode", "--part", "0/2", *bad, "--to", url, code=65)
        self.assertEqual(self.keys(prefix), [])

    def test_what_cannot_be_reached_is_named(self):
        url, _ = self.place()
        errors = trawl("index", "list", url, code=1, AWS_ENDPOINT_URL="http://127.0.0.1:9")
        self.assertIn("Connection refused", errors)
        errors = trawl("index", "push", self.docs, "s3://no-such-bucket/docs", code=1)
        self.assertIn("NoSuchBucket", errors)
        trawl("index", "list", "gs://bucket/docs", code=2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
