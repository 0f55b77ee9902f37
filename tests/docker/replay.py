#!/usr/bin/env python3
"""What `docker/Dockerfile.cpu` does, done without Docker: the steps of its last stage in a bare Debian, up to an answered search.

    sudo tests/docker/replay.py --trawl target/release/trawl [--base target/docker-base]

Makes a minimal Debian of the image's release with debootstrap (kept in --base), runs each step of the last stage there with the
given binary in place of the one that the first stage compiles, and then, in mount and network namespaces of their own, as the image's user
and over a read-only root: builds a small collection, serves it as `docker/compose.yaml` does, waits for the image's own health check,
searches, and stops the server with SIGTERM. Needs root, debootstrap and util-linux; asks the Debian archive that apt is set up for.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker/Dockerfile.cpu"
INSIDE = "TRAWL_REPLAY_INSIDE"


def instructions(path):
    """(stage, keyword, argument) of every instruction, with continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    stage = -1
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            keyword, argument = line.split(None, 1)
            stage += keyword == "FROM"
            yield stage, keyword, argument


def last_stage(path):
    everything = list(instructions(path))
    last = everything[-1][0]
    return [(keyword, argument) for stage, keyword, argument in everything if stage == last]


class Image:
    """A folder that becomes what the image would be."""

    def __init__(self, root):
        self.root, self.environment, self.folder, self.user = root, {}, "/", "0:0"
        self.health = self.entrypoint = self.command = None
        self.volumes = []

    def apply(self, keyword, argument, trawl):
        print(f"{keyword} {argument}", flush=True)
        if keyword == "FROM":
            assert argument == "debian:bookworm-slim", argument
        elif keyword == "RUN":
            subprocess.run(["chroot", self.root, "/bin/sh", "-c", argument], check=True)
        elif keyword == "COPY":
            source, _, target = argument.partition(" ")
            assert argument.split()[:2] == ["--from=build", "/usr/local/bin/trawl"], (source, target)
            shutil.copy2(trawl, self.root + argument.split()[-1])
        elif keyword == "ENV":
            self.environment |= dict(entry.split("=", 1) for entry in shlex.split(argument))
        elif keyword == "WORKDIR":
            self.folder = argument
        elif keyword == "USER":
            self.user = argument
        elif keyword == "VOLUME":
            self.volumes = json.loads(argument)
        elif keyword == "HEALTHCHECK":
            self.health = json.loads(argument.split("CMD", 1)[1])
        elif keyword == "ENTRYPOINT":
            self.entrypoint = json.loads(argument)
        elif keyword == "CMD":
            self.command = json.loads(argument)
        else:
            assert keyword == "EXPOSE", keyword

    def start(self, command, **options):
        """Runs a command as a container would: the image's user, folder and variables, no capabilities, nothing else."""
        user, group = self.user.split(":")
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = [path, *(f"{name}={value}" for name, value in self.environment.items())]
        enter = ["chroot", self.root, "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
        enter += ["--inh-caps=-all", "--bounding-set=-all", "env", "-i", "-C", self.folder, *variables]
        return subprocess.Popen([*enter, *command], **options)

    def run(self, command):
        assert self.start(command).wait() == 0, command


def make(args):
    base = Path(args.base).resolve()
    if not (base / "etc/debian_version").exists():
        packages = ["debootstrap", "--variant=minbase", "bookworm", str(base)]
        subprocess.run([*packages, *archive()], check=True, stdout=subprocess.DEVNULL)
    root = base.with_name(base.name + "-image")
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-a", str(base), str(root)], check=True)
    return Image(str(root))


def archive():
    """Where apt gets Debian from; debootstrap's own default where that is not said."""
    said = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME) $(COMPONENT)"], capture_output=True, text=True)
    sites = [line.split()[0] for line in said.stdout.splitlines() if line.split()[1:] == ["bookworm", "main"]]
    return sites[:1]


def mount(*words):
    subprocess.run(["mount", *words], check=True)


def answer(image):
    """From a corpus to an answered search, in namespaces of our own."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    root = image.root
    shutil.copytree(ROOT / "tests/fixtures/models/tiny-bert", f"{root}/models/tiny-bert")
    shutil.copy2(ROOT / "tests/fixtures/sample/corpus.jsonl", f"{root}/corpus.jsonl")
    mount("--bind", root, root)
    mount("-t", "proc", "proc", f"{root}/proc")
    mount("--rbind", "/dev", f"{root}/dev")
    for volume in image.volumes:
        mount("--bind", root + volume, root + volume)
    mount("-o", "remount,bind,ro", root)

    trawl = image.entrypoint
    image.run([*trawl, "index", "build", "--corpus", "/corpus.jsonl", "--model", "tiny-bert", "--collection", "docs", "--quiet"])
    assert image.command == ["serve"], image.command
    server = image.start([*trawl, *image.command, "docs", "--insecure"])
    try:
        begun = time.monotonic()
        while image.start(image.health, stderr=subprocess.DEVNULL).wait() != 0:
            assert server.poll() is None and time.monotonic() < begun + 60, "the server did not become healthy"
            time.sleep(0.2)
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert re.search(r"^Uid:\s+10001\s+10001", status, re.MULTILINE), status
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), status
        body = json.dumps({"query": "why do onions make you weep", "mode": "hybrid", "rerank": {"candidates": 5}}).encode()
        address = "http://127.0.0.1:8080/v1/collections/docs/search"
        request = urllib.request.Request(address, body, {"content-type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
            found = json.load(response)
        assert found["results"][0]["id"] == "kitchen-01", found["results"][0]
        print(f"found {found['results'][0]['id']} as user 10001 over a read-only root")
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(40)
    assert code == 0, code


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trawl", required=True, help="the binary that the first stage would compile")
    parser.add_argument("--base", default=str(ROOT / "target/docker-base"), help="where the bare Debian is kept")
    args = parser.parse_args()
    if INSIDE not in os.environ:
        enter = ["unshare", "--mount", "--net", "--propagation", "private", sys.executable, *sys.argv]
        make(args)
        sys.exit(subprocess.run(enter, env={**os.environ, INSIDE: "1"}).returncode)
    image = Image(str(Path(args.base).resolve()) + "-image")
    for keyword, argument in last_stage(DOCKERFILE):
        image.apply(keyword, argument, args.trawl)
    answer(image)
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
