#!/usr/bin/env python3
"""Closed-loop load on a running trawl server: N clients, each sending its next search when the last is answered.

    trawl serve trawl-quickstart/sample &
    python3 tests/load/clients.py --clients 64 --seconds 30 --pid $!

Prints answers by status, requests per second, latency percentiles, and the server's resident memory at the start, in
the middle and at the end. Exits 1 when an answer was neither 200 nor 429, or a 429 came without Retry-After.
Standard library only; loopback only; ends by itself.
"""

import argparse
import http.client
import json
import threading
import time
from collections import Counter
from pathlib import Path


def resident_mib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no process {pid}")


def client(number, args, queries, end, statuses, latencies, faults):
    connection = http.client.HTTPConnection("127.0.0.1", args.port, timeout=30)
    path = f"/v1/collections/{args.collection}/search"
    turn = number
    while time.monotonic() < end:
        body = {"query": queries[turn % len(queries)], "top_k": args.top_k}
        if args.rerank:
            body["rerank"] = {"candidates": args.rerank}
        turn += args.clients
        start = time.perf_counter()
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except OSError as error:
            faults.append(repr(error))
            connection.close()
            continue
        statuses[response.status] += 1
        if response.status == 200:
            latencies.append(time.perf_counter() - start)
        elif response.status == 429:
            wait = response.getheader("retry-after")
            if wait is None:
                faults.append("429 without Retry-After")
            time.sleep(0.05)
        else:
            faults.append(f"{response.status} {answer[:200]!r}")
    connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--collection", default="sample")
    parser.add_argument("--queries", default="tests/fixtures/sample/queries.jsonl")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--rerank", type=int, default=0, metavar="CANDIDATES")
    parser.add_argument("--pid", type=int, help="the server's process id, to watch its memory")
    args = parser.parse_args()

    lines = Path(args.queries).read_text(encoding="utf-8").splitlines()
    queries = [json.loads(line)["text"] for line in lines if line.strip()]
    statuses, latencies, faults = Counter(), [], []
    memory = [resident_mib(args.pid)] if args.pid else []
    start = time.monotonic()
    end = start + args.seconds
    threads = [
        threading.Thread(target=client, args=(n, args, queries, end, statuses, latencies, faults))
        for n in range(args.clients)
    ]
    for thread in threads:
        thread.start()
    time.sleep(args.seconds / 2)
    if args.pid:
        memory.append(resident_mib(args.pid))
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    if args.pid:
        memory.append(resident_mib(args.pid))

    latencies.sort()
    at = lambda share: 1e3 * latencies[min(len(latencies) - 1, int(share * len(latencies)))] if latencies else None
    print(json.dumps({
        "clients": args.clients,
        "seconds": round(seconds, 1),
        "statuses": dict(statuses),
        "answers_per_s": round(len(latencies) / seconds, 1),
        "p50_ms": at(0.5) and round(at(0.5), 2),
        "p99_ms": at(0.99) and round(at(0.99), 2),
        "rss_mib": [round(value, 1) for value in memory],
        "faults": faults[:5],
        "n_faults": len(faults),
    }, indent=2))
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
