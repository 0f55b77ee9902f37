"""trawl behind the interface of ann-benchmarks' algorithms.

In a checkout of ann-benchmarks this file is `ann_benchmarks/algorithms/trawl/module.py`, and beside it stands `config.yml`:

    float:
      any:
      - base_args: ['@metric']
        constructor: Trawl
        disabled: false
        docker_tag: ann-benchmarks-trawl
        module: ann_benchmarks.algorithms.trawl
        name: trawl
        run_groups:
          flat:
            arg_groups: [{kind: flat}]
          hnsw:
            arg_groups: [{kind: hnsw, m: [8, 16, 32], ef-construction: 200}]
            query_args: [[16, 32, 64, 128, 256, 512]]

TRAWL names the binary where it is not `trawl`. The vectors go to `trawl bench search --requests` in a file, a query through a pipe,
which costs some ten microseconds a call; with `--batch` all queries go in one file, and the pipe costs nothing.
"""

import base64
import json
import os
import subprocess
import tempfile

import numpy as np

try:
    from ann_benchmarks.algorithms.base.module import BaseANN
except ImportError:  # Outside of a checkout.
    BaseANN = object

METRICS = {"angular": "cosine", "euclidean": "l2"}


class Trawl(BaseANN):
    def __init__(self, metric, parameters=None, threads=1):
        if metric not in METRICS:
            raise NotImplementedError(f"trawl compares vectors by {', '.join(METRICS)}, not by {metric}")
        self.metric, self.parameters, self.threads = METRICS[metric], parameters or {"kind": "flat"}, threads
        self.settings, self.process = {}, None
        self.folder = tempfile.TemporaryDirectory()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def fit(self, X):
        np.save(self.path("base.npy"), np.asarray(X, np.float32))
        command = [os.environ.get("TRAWL", "trawl"), "--quiet", "bench", "search", "--requests", "--base", self.path("base.npy"),
                   "--metric", self.metric, "--threads", str(self.threads)]
        for name, value in self.parameters.items():
            command += [f"--{name}", str(value)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.query(X[0], 1)  # Answered when the index is built.

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request | self.settings) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("trawl ended")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        self.rss_bytes = answer["rss_bytes"]
        return answer

    def set_query_arguments(self, ef):
        self.settings = {"ef": int(ef)}

    def query(self, v, n):
        values = base64.b64encode(np.ascontiguousarray(v, np.float32).tobytes()).decode()
        return self.ask(vectors=values, k=n)["ids"][0]

    def batch_query(self, X, n):
        np.save(self.path("queries.npy"), np.asarray(X, np.float32))
        self.ask(queries=self.path("queries.npy"), k=n, batch=len(X), ids_out=self.path("ids.npy"))

    def get_batch_results(self):
        return [row[row >= 0] for row in np.load(self.path("ids.npy"))]

    def get_memory_usage(self):
        """In kilobytes, as ann-benchmarks counts."""
        return self.rss_bytes / 1024 if self.process else 0

    def done(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()
        self.folder.cleanup()

    def __str__(self):
        settings = (self.parameters | self.settings).items()
        return f"trawl({', '.join(f'{name}={value}' for name, value in settings)})"
