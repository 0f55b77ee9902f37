"""What the tests of schedulers share: a bucket that knows who created which record of a part, and the processes of a node."""

import json
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "tests/fixtures/models/tiny-bert")
CORPUS = ROOT / "tests/fixtures/sample/corpus.jsonl"
CONTENT = ["--corpus", str(CORPUS), "--model", MODEL, "--chunk-passages", "16"]
BUCKET = "trawl"


class Records:
    """Stands before the S3 server; each node has a session token of its own."""

    def __init__(self, app):
        self.app, self.lock = app, threading.Lock()
        self.created, self.n_requests = [], {}
        self.unwanted, self.held = "nobody", threading.Event()

    def hold(self, node):
        """No record that this node sends from now on arrives; `held` tells when there is one."""
        self.held.clear()
        self.unwanted = node

    def __call__(self, environ, start_response):
        node, key = environ.get("HTTP_X_AMZ_SECURITY_TOKEN"), environ["PATH_INFO"]
        is_record = environ["REQUEST_METHOD"] == "PUT" and "/parts/" in key
        with self.lock:
            self.n_requests[node] = self.n_requests.get(node, 0) + 1
            if is_record and node == self.unwanted:
                self.held.set()
        if is_record and node == self.unwanted:
            threading.Event().wait()  # Threads of the server end with the tests.

        def answer(status, *head):
            if is_record and status.startswith("200"):
                self.created.append((key.rsplit("/", 1)[1], node))
            return start_response(status, *head)

        return self.app(environ, answer)


class ClusterTest(unittest.TestCase):
    """A bucket, and what one process makes of the corpus."""

    trawl = None  # The program.

    @classmethod
    def setUpClass(cls):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        cls.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        cls.server.start()
        cls.addClassCleanup(cls.server.stop)
        cls.records = cls.server._server.app = Records(cls.server._server.app)
        endpoint = "http://%s:%s" % cls.server.get_host_and_port()
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        cls.environment = os.environ | keys | {"AWS_ENDPOINT_URL": endpoint}
        cls.s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1",
                              aws_access_key_id="key", aws_secret_access_key="secret")
        cls.s3.create_bucket(Bucket=BUCKET)
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="trawl-")))
        cls.addClassCleanup(cls.kill_all)
        cls.processes = []
        cls.alone = cls.run_trawl("index", "build", *CONTENT, "--collection", cls.folder / "alone")

    @classmethod
    def run_trawl(cls, *arguments):
        command = [cls.trawl, "--json", "--quiet", *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True, env=cls.environment, timeout=600)
        assert ended.returncode == 0, f"{command}: {ended.stderr}"
        return json.loads(ended.stdout)

    @classmethod
    def start(cls, node, *command):
        """Starts a process of a node; what it starts is of that node, too."""
        log = open(cls.folder / f"{node}.log", "a")
        variables = cls.environment | {"AWS_SESSION_TOKEN": node, "TRAWL_TEST_NODE": f"{cls.folder}/{node}"}
        process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log, env=variables)
        log.close()
        cls.processes.append(process)
        return process

    @classmethod
    def of_node(cls, node=""):
        """Process ids and command lines of a node, or of all."""
        mark = f"TRAWL_TEST_NODE={cls.folder}/{node}".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                variables, command = ((entry / name).read_bytes().split(b"\0") for name in ("environ", "cmdline"))
            except OSError:
                continue
            if any(variable == mark or not node and variable.startswith(mark) for variable in variables):
                yield int(entry.name), b" ".join(command).decode()

    @classmethod
    def kill(cls, node, spare=None):
        """Kills what a node runs, but for one program."""
        for pid, command in cls.of_node(node):
            if command.split(" ")[0] != spare:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    @classmethod
    def kill_all(cls):
        while list(cls.of_node()):
            cls.kill("")
            for process in cls.processes:
                process.poll()
            time.sleep(0.1)

    def until(self, what, seconds=300):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := what():
                return found
            time.sleep(0.1)
        self.fail(f"not within {seconds} s: {self.logs()}")

    def logs(self):
        return "".join(path.read_text() for path in self.folder.glob("*.log"))

    def assert_built_as_by_one_process(self, url, n_parts):
        """One generation with the digest of one process, each part's record created once."""
        [listed] = self.run_trawl("index", "list", url)
        pulled = self.run_trawl("index", "pull", url, self.folder / "pulled")
        self.assertEqual(pulled["content_digest"], self.alone["content_digest"])
        self.assertEqual(listed["content_digest"], self.alone["content_digest"])
        names = sorted(name for name, _ in self.records.created)
        self.assertEqual(names, [f"{i:05}-of-{n_parts:05}.json" for i in range(n_parts)])
