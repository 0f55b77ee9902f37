#!/usr/bin/env python3
"""Swaps and rollbacks on a running trawl server under steady load: no failed request, no mixed answer.

    trawl serve data/docs &
    python3 tests/load/swaps.py --collection docs --to 20261120T195500Z-3f9a1c --pid $!

N clients search at a fixed rate each; after a while without changes, the alias `live` is swapped to the generation given and
rolled back, again and again. Prints p99 without changes and with them, the longest swap and rollback, and the server's
resident memory before and after. Exits 1 when an answer was not 200, or when one of equal queries to one generation differed from the
others: then it was not that generation's alone. Standard library only; loopback only; ends by itself.
"""

import argparse
import http.client
import json
import threading
import time
from pathlib import Path

QUERIES = ["symptoms and treatment", "how is it inherited", "what causes it", "the sea and the moon"]


def resident_mib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no process {pid}")


def call(connection, method, path, body=None):
    connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


class Load:
    def __init__(self, args):
        self.args, self.lock, self.stop = args, threading.Lock(), threading.Event()
        self.latencies, self.faults, self.answers, self.phase = {}, [], {}, "warm-up"

    def client(self, number):
        connection = http.client.HTTPConnection("127.0.0.1", self.args.port, timeout=30)
        path, turn = f"/v1/collections/{self.args.collection}/search", number
        while not self.stop.is_set():
            query, turn = QUERIES[turn % len(QUERIES)], turn + 1
            phase, start = self.phase, time.perf_counter()
            try:
                status, body = call(connection, "POST", path, {"query": query, "top_k": 10})
            except OSError as error:
                with self.lock:
                    self.faults.append(repr(error))
                connection = http.client.HTTPConnection("127.0.0.1", self.args.port, timeout=30)
                continue
            elapsed = time.perf_counter() - start
            with self.lock:
                self.latencies.setdefault(phase, []).append(elapsed)
                if status != 200:
                    self.faults.append(f"{status}: {body.get('detail')}")
                    continue
                hits = [(hit["id"], hit["score"], hit["text"]) for hit in body["results"]]
                before = self.answers.setdefault((body["generation"], query), hits)
                if before != hits:
                    self.faults.append(f"mixed answer of {body['generation']} to `{query}`")
            time.sleep(max(0.0, 1 / self.args.rate - elapsed))


def p99_ms(latencies):
    return sorted(latencies)[len(latencies) * 99 // 100] * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--collection", required=True)
    parser.add_argument("--to", required=True, help="the generation that is swapped to")
    parser.add_argument("--pid", type=int, required=True, help="of the server")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rate", type=float, default=10.0, help="searches of a client each second")
    parser.add_argument("--swaps", type=int, default=100, help="each is followed by a rollback")
    parser.add_argument("--steady", type=float, default=10.0, help="seconds without changes")
    args = parser.parse_args()

    load = Load(args)
    threads = [threading.Thread(target=load.client, args=(number,)) for number in range(args.clients)]
    for thread in threads:
        thread.start()
    alias = f"/v1/collections/{args.collection}/aliases/live"
    admin = http.client.HTTPConnection("127.0.0.1", args.port, timeout=120)
    times = {"swap": [], "rollback": []}
    try:
        time.sleep(2)
        load.phase = "steady"
        time.sleep(args.steady)
        before = resident_mib(args.pid)
        load.phase = "changing"
        for _ in range(args.swaps):
            for kind, request in (
                ("swap", ("PUT", alias, {"generation": args.to, "gate": False})),
                ("rollback", ("POST", alias + "/rollback")),
            ):
                start = time.perf_counter()
                status, body = call(admin, *request)
                times[kind].append(time.perf_counter() - start)
                if status != 200 or not body["served"]:
                    load.faults.append(f"{kind}: {status}: {body}")
                time.sleep(0.05)
        load.phase = "after"
        time.sleep(2)
    finally:
        load.stop.set()
        for thread in threads:
            thread.join()
    steady, changing = p99_ms(load.latencies["steady"]), p99_ms(load.latencies["changing"])
    n_answers = sum(len(latencies) for latencies in load.latencies.values())
    print(f"{args.swaps} swaps and rollbacks, {n_answers} searches, {len(load.faults)} faults")
    print(f"p99 {steady:.1f} ms steady, {changing:.1f} ms while changing ({changing / steady:.2f}x)")
    for kind, seconds in times.items():
        print(f"{kind}: median {sorted(seconds)[len(seconds) // 2] * 1e3:.0f} ms, longest {max(seconds) * 1e3:.0f} ms")
    print(f"resident memory {before:.0f} MiB before, {resident_mib(args.pid):.0f} MiB after")
    for fault in load.faults[:10]:
        print("fault:", fault)
    raise SystemExit(1 if load.faults else 0)


if __name__ == "__main__":
    main()
