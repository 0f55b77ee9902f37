"""A trawl server under load, its figures, and checks of them."""

import json
import math
import re
import subprocess
import time
import urllib.request
from pathlib import Path


class Server:
    """`trawl serve` on loopback with the configuration `sections` after `[server]`, ready."""

    def __init__(self, trawl, port, sections, work, flags=()):
        self.url, self.port = f"http://127.0.0.1:{port}", port
        config = Path(work) / "server.toml"
        config.write_text(f'[server]\nbind = "127.0.0.1:{port}"\nquery_cache = 0\n{sections}')
        self.log = (Path(work) / "serve.log").open("w")
        self.process = subprocess.Popen([trawl, "serve", "--config", config, *flags], stdout=self.log, stderr=self.log)
        for _ in range(600):
            try:
                self.get("/readyz")
                return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit(Path(self.log.name).read_text())
                time.sleep(0.1)
        raise SystemExit("the server is not ready after a minute")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            return response.read().decode()

    def figure(self, name):
        """The sum over all labels."""
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        return sum(map(float, found))

    def resident_mib(self):
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]) / 1024

    def descriptors(self):
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


class Check:
    def __init__(self):
        self.failed = False

    def __call__(self, name, found, is_good, expected):
        self.failed |= not is_good
        print(f"{'ok  ' if is_good else 'FAIL'} {name}: {found} (expected {expected})", flush=True)


def bench(trawl, server, queries, *more):
    """The report of `trawl bench serve`; latencies are infinite where nothing was answered."""
    command = [trawl, "bench", "serve", "--url", server.url, "--queries", queries, *map(str, more), "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    report = json.loads(done.stdout)[0]
    return {name: math.inf if value is None else value for name, value in report.items()}
