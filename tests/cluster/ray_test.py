"""A rebuild on a Ray cluster of two nodes on this machine, one of which is killed in its middle."""

import json
import random
import socket
import subprocess
import sys
import time
import unittest
from pathlib import Path

from storage import BUCKET, CONTENT, ROOT, ClusterTest

ClusterTest.trawl = sys.argv.pop(1)
N_PARTS = 6
HEAD, OTHER = "127.0.0.2", "127.0.0.3"  # Ray takes 127.0.0.1 for any address of the machine.


def free_port():
    """A port that no connection is given by chance before it is used, as those from 32768 on are."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as taken:
            try:
                taken.bind((HEAD, port))
                return port
            except OSError:
                pass


class Rebuild(ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.environment |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
        cls.head = f"{HEAD}:{free_port()}"
        port = cls.head.split(":")[1]
        cls.start_node("node-a", HEAD, "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={cls.folder}/ray")

    @classmethod
    def start_node(cls, node, address, *flags):
        ray = Path(sys.executable).with_name("ray")
        common = ["--block", "--num-cpus=1", f"--node-ip-address={address}", "--object-store-memory=80000000"]
        log = cls.folder / f"{node}.log"
        for _ in range(3):  # Ray gives a node 15 s to start its helpers, which a busy machine may not.
            process = cls.start(node, ray, "start", *common, *flags)
            while process.poll() is None:
                if "Ray runtime started" in log.read_text():
                    return
                time.sleep(0.1)
            cls.kill(node)
        raise AssertionError(log.read_text())

    def rebuild(self, url, *content, trawl=None, parts=N_PARTS):
        options = ["--parts", str(parts), "--address", self.head, "--trawl", str(trawl or self.trawl), "--publish"]
        command = [sys.executable, ROOT / "deploy/ray/rebuild.py", url, *options, "--", *content]
        return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment)

    def counting(self, name, first=""):
        """The program, and a file with a line for each of its attempts; the first attempt does something else."""
        attempts, script = self.folder / f"{name}.attempts", self.folder / name
        script.write_text(f'#!/bin/sh\n{first}\necho "$@" >> {attempts}\nexec {self.trawl} "$@"\n')
        script.chmod(0o755)
        return script, attempts

    def test_a_lost_node_costs_its_parts_and_nothing_else(self):
        url = f"s3://{BUCKET}/lost"
        self.start_node("node-b", OTHER, f"--address={self.head}")
        self.records.created.clear()
        self.records.hold("node-b")
        driver = self.rebuild(url, *CONTENT)
        self.until(self.records.held.is_set)
        encoding = [pid for pid, command in self.of_node("node-b") if command.startswith(self.trawl)]
        self.assertEqual(len(encoding), 1)
        killed = time.monotonic()
        self.kill("node-b", spare=self.trawl)  # All of Ray, which would kill it if it still could.
        self.until(lambda: not list(self.of_node("node-b")))
        print(f"all processes of the node ended within {time.monotonic() - killed:.1f} s", flush=True)
        n_requests = self.records.n_requests["node-b"]
        out, errors = driver.communicate(timeout=600)
        print(*(line for line in out.splitlines() if line.startswith("part ")), sep="\n")
        print(f"complete {time.monotonic() - killed:.1f} s after the kill", flush=True)
        self.assertEqual(driver.returncode, 0, errors)
        self.assertEqual(self.records.n_requests["node-b"], n_requests, "an orphan went on")
        self.assertEqual(json.loads(out.splitlines()[-1])["content_digest"], self.alone["content_digest"])
        self.assert_built_as_by_one_process(url, N_PARTS)

    def test_bad_input_is_not_tried_again(self):
        bad = self.folder / "bad.jsonl"
        bad.write_text("not json\n")
        trawl, attempts = self.counting("bad")
        driver = self.rebuild(f"s3://{BUCKET}/bad", "--corpus", bad, *CONTENT[2:], trawl=trawl, parts=1)
        out, errors = driver.communicate(timeout=600)
        self.assertEqual(driver.returncode, 1)
        self.assertIn("exit code 65", errors)
        self.assertEqual(len(attempts.read_text().splitlines()), 1)

    def test_other_failures_are_tried_again_and_what_is_done_is_found(self):
        url = f"s3://{BUCKET}/again"
        once = self.folder / "once"
        trawl, attempts = self.counting("failing", f"mkdir {once} 2>/dev/null && exit 7")
        for _ in range(2):
            driver = self.rebuild(url, *CONTENT, trawl=trawl, parts=2)
            out, errors = driver.communicate(timeout=600)
            self.assertEqual(driver.returncode, 0, errors)
            self.assertEqual(json.loads(out.splitlines()[-1])["content_digest"], self.alone["content_digest"])
        commands = [line.split()[3] for line in attempts.read_text().splitlines()]
        self.assertEqual(commands, ["encode", "encode", "commit", "publish"] * 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
