#!/usr/bin/env python3
"""A trawl server at 70 % of its capacity for an hour: memory, descriptors and latency at the end as at the start.

    python3 tests/load/soak.py --trawl target/release/trawl --collection data/squad --model models/all-MiniLM-L6-v2 \\
        --reranker models/trawl-reranker-small --queries queries.jsonl

Starts a server on loopback without a query cache, measures what it answers to 32 clients, and then sends at constant rates, minute by
minute: searches at half of their capacity, and searches with 10 passages reranked at a fifth of theirs. Prints a line a minute. Then:

- every request was answered;
- resident memory, by a straight line through all minutes after the first ten, grows by less than 2 % an hour;
- no more descriptors are open than after the first minute, but for those of one more connection;
- the median over the last ten minutes of p99 is at most 1.25 times that of minutes two to eleven.

Exits 1 when one is not so. Standard library only; ends by itself.
"""

import argparse
import statistics
import tempfile
import threading
from pathlib import Path

from common import Check, Server, bench


def sections(args):
    return f"""
[models.encoder]
path = "{args.model.resolve()}"
role = "encoder"
[models.reranker]
path = "{args.reranker.resolve()}"
role = "reranker"
[collections.soak]
path = "{args.collection.resolve()}"
encoder = "encoder"
reranker = "reranker"
"""


def slope(values):
    """Least squares, a step."""
    n = len(values)
    mean_x, mean_y = (n - 1) / 2, statistics.fmean(values)
    return sum((x - mean_x) * (y - mean_y) for x, y in enumerate(values)) / sum((x - mean_x) ** 2 for x in range(n))


def minute(args, server, loads):
    """The reports of all loads at once."""
    reports = [None] * len(loads)

    def run(i, more):
        reports[i] = bench(args.trawl, server, args.queries, "--collection", "soak", "--seconds", args.seconds, *more)

    threads = [threading.Thread(target=run, args=(i, more)) for i, more in enumerate(loads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return reports


def soak(args, server, check):
    search, rerank = (), ("--rerank", 10)
    capacities = []
    for more in (search, rerank):
        bench(args.trawl, server, args.queries, "--collection", "soak", "--clients", 32, "--seconds", 3, *more)
        capacities.append(bench(args.trawl, server, args.queries, "--collection", "soak", "--clients", 32, "--seconds", 10, *more)["answered_per_s"])
    print(f"capacity: {capacities[0]:.0f} searches a second, or {capacities[1]:.1f} with 10 passages reranked; at once for the soak {0.5 * capacities[0]:.0f} and {0.2 * capacities[1]:.1f}")
    loads = [(*search, "--rate", 0.5 * capacities[0]), (*rerank, "--rate", 0.2 * capacities[1])]
    print("minute  searches: answered  p50 ms  p99 ms  reranked: answered  p50 ms  p99 ms  resident MiB  descriptors", flush=True)
    memory, descriptors, p99, unanswered = [], [], ([], []), 0
    for number in range(1, args.minutes + 1):
        reports = minute(args, server, loads)
        memory.append(server.resident_mib())
        descriptors.append(server.descriptors())
        cells = []
        for report, all_p99 in zip(reports, p99):
            all_p99.append(report["p99_ms"])
            unanswered += report["n_requests"] - report["n_answered"]
            cells.append(f"{report['n_answered']:>8} {report['p50_ms']:>7.1f} {report['p99_ms']:>7.1f}")
        print(f"{number:>6} {cells[0]} {cells[1]} {memory[-1]:>8.1f} {descriptors[-1]:>5}", flush=True)
    check("requests that were not answered", unanswered, unanswered == 0, "0")
    settled = memory[min(10, len(memory) // 2) :]
    growth = slope(settled) * 3600 / args.seconds
    check("resident memory, MiB an hour", f"{growth:+.2f} at {settled[-1]:.0f}", growth < 0.02 * settled[-1], f"less than {0.02 * settled[-1]:.1f}")
    check("descriptors", f"{descriptors[0]}, then {max(descriptors)} at most", max(descriptors) <= descriptors[0] + 1, "as after the first minute")
    for name, values in zip(("searches", "reranked"), p99):
        first, last = statistics.median(values[1:11]), statistics.median(values[-10:])
        check(f"p99 of {name}, ms", f"{first:.1f}, then {last:.1f}", last <= 1.25 * first, "no more than a quarter more")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trawl", required=True, type=Path, help="the binary, a release build")
    parser.add_argument("--collection", required=True, type=Path, help="directory of the collection")
    parser.add_argument("--model", required=True, type=Path, help="directory of its encoder")
    parser.add_argument("--reranker", required=True, type=Path, help="directory of the cross-encoder")
    parser.add_argument("--queries", required=True, type=Path, help="JSONL, 2,000 or more that differ")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--seconds", type=int, default=60, help="of a minute, for a trial")
    parser.add_argument("--threads", type=int, help="of the server (default: its own)")
    parser.add_argument("--port", type=int, default=18091)
    args = parser.parse_args()
    check = Check()
    flags = [] if args.threads is None else ["--threads", str(args.threads)]
    with tempfile.TemporaryDirectory(prefix="trawl-soak-") as work, Server(args.trawl, args.port, sections(args), work, flags) as server:
        soak(args, server, check)
    raise SystemExit(1 if check.failed else 0)


if __name__ == "__main__":
    main()
