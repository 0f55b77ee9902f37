#!/usr/bin/env python3
"""Rebuilds a collection on a Ray cluster: its parts are encoded by tasks, then put together.

    deploy/ray/rebuild.py s3://bucket/docs --parts 64 --cpus 8 -- --corpus /data/corpus.jsonl --model all-MiniLM-L6-v2

What follows `--` is given to `trawl index encode`. The last line of the output is the report of `trawl index commit`.
"""

import argparse
import json
import subprocess
import sys
import time

import ray

REFUSED = (2, 65)  # Wrong flags, bad input: the next attempt would end in the same way.


class Refused(Exception):
    """A failure that is not tried again."""


class Failed(Exception):
    """A failure that Ray tries again, as it does the loss of a worker or a node."""


@ray.remote
def trawl(*command):
    # The kernel ends the process when its worker ends, however that comes about: it would go on beside its next attempt.
    process = subprocess.run(["setpriv", "--pdeathsig", "KILL", *command], capture_output=True, text=True)
    if process.returncode == 0:
        return json.loads(process.stdout)
    failure = Refused if process.returncode in REFUSED else Failed
    raise failure(f"exit code {process.returncode} of {' '.join(command)}\n{process.stderr.strip()}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", help="s3://bucket/prefix, or a folder that all nodes share")
    parser.add_argument("--parts", type=int, required=True, help="how many; the same when the rebuild is started again")
    parser.add_argument("--cpus", type=int, default=1, help="processors and threads of a part (default: %(default)s)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs that are reserved for a part (default: %(default)s)")
    parser.add_argument("--retries", type=int, default=5, help="further attempts of a part (default: %(default)s)")
    parser.add_argument("--address", help="of the cluster (default: $RAY_ADDRESS, else the one on this machine)")
    parser.add_argument("--trawl", default="trawl", help="the program, as nodes find it (default: %(default)s)")
    parser.add_argument("--publish", action="store_true", help="let `live` name the new generation, ungated")
    parser.add_argument("content", nargs="+", help="corpus, model and further flags of `trawl index encode`")
    return parser.parse_args()


def encode(args, start):
    """Encodes all parts; returns the digest that names their build."""
    where = "--to" if "://" in args.collection else "--collection"
    flags = [where, args.collection, "--threads", str(args.cpus), *args.content]
    parts = [start("encode", "--part", f"{i}/{args.parts}", *flags) for i in range(args.parts)]
    builds, n_done, n_found, began = set(), 0, 0, time.monotonic()
    while parts:
        [part], parts = ray.wait(parts)
        result = ray.get(part)
        report, n_done = result["report"], n_done + 1
        builds.add(report["build"])
        n_found += report["passages"] > 0 and report["encoded_chunks"] == 0
        left = (time.monotonic() - began) / max(n_done - n_found, 1) * len(parts)
        print(f"part {result['part']}: {report['passages']} passages in {result['seconds']:.0f} s; "
              f"{n_done} of {args.parts} parts, {n_found} of them found done, about {left:.0f} s left", flush=True)
    if len(builds) > 1:
        sys.exit(f"the parts belong to {len(builds)} builds: corpus, model, trawl or processors (`--precision`) differ between nodes")
    return builds.pop()


def main():
    args = parse()
    ray.init(address=args.address or "auto", log_to_driver=False)
    remote = trawl.options(num_cpus=args.cpus, num_gpus=args.gpus, max_retries=args.retries, retry_exceptions=[Failed])

    def start(command, *flags):
        return remote.remote(args.trawl, "--quiet", "--json", "index", command, *flags)

    try:
        build = encode(args, start)
        committed = ray.get(start("commit", args.collection, "--build", build))
        if args.publish:
            ray.get(start("publish", args.collection, committed["generation"], "--no-gate"))
    except ray.exceptions.RayError as error:
        sys.exit(f"error: {getattr(error, 'cause', error)}")
    ray.shutdown()  # Until then Ray may print, too.
    print(json.dumps(committed))


if __name__ == "__main__":
    main()
