#!/usr/bin/env python3
"""What a trawl server does with more than it can: three times its capacity, clients that go away, a flood of bulk work.

    python3 tests/load/overload.py --trawl target/release/trawl --model models/all-MiniLM-L6-v2 --queries passages.jsonl

Starts a server on loopback with one encoder and no query cache, and asks `/v1/embeddings` for one text of `--queries` a request, as
interactive work.

1. capacity: 32 clients that ask anew once they have their answer.
2. overload: three times that rate for `--seconds`. Answers a second are to be 90 % of the capacity, what is not answered is to be
   429 with `Retry-After`, resident memory is to stay, and two seconds after the load p50 at a tenth of the capacity is to be as before.
3. clients that go away: half of the requests, bulk ones, which wait as long as they may, are closed 5 ms after they were sent; the tokens that the model read are
   to fall with them.
4. bulk: interactive p99 at a twentieth of the capacity, alone and beside 8 clients with bulk requests of 64 texts; it may grow by two
   batches' time.

Prints one line a figure; exits 1 when one is not as it is to be. Standard library only; ends by itself.
"""

import argparse
import asyncio
import json
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from common import Check, Server, bench

PATH = "/v1/embeddings"


def encoder(args):
    """The configuration of the server."""
    return f'[models.encoder]\npath = "{args.model.resolve()}"\nrole = "encoder"\n'


def ask(args, server, *more):
    body = json.dumps({"model": "encoder", "input": "<query>"})
    return bench(args.trawl, server, args.queries, "--path", PATH, "--body", body, "--header", "x-priority: interactive", *more)


def overload(args, server, capacity, check):
    rate = capacity / 10
    before = ask(args, server, "--rate", rate, "--seconds", 10)
    memory, most, over = server.resident_mib(), [0.0], threading.Event()

    def watch():
        while not over.wait(0.2):
            most[0] = max(most[0], server.resident_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    report = ask(args, server, "--rate", 3 * capacity, "--seconds", args.seconds, "--timeout-ms", 60_000, "--max-open", 4096)
    time.sleep(2)
    after = ask(args, server, "--rate", rate, "--seconds", 10)
    over.set()
    watcher.join()
    n, answered, refused = (report[name] for name in ("n_requests", "n_answered", "n_refused"))
    goodput = answered / args.seconds
    check("answers a second at three times the capacity", f"{goodput:.1f}", goodput >= 0.9 * capacity, f"{0.9 * capacity:.1f}")
    print(f"     {n} requests, {answered} answered, {refused} refused; of those answered p50 {report['p50_ms']:.0f} ms, p99 {report['p99_ms']:.0f} ms")
    check("neither answered nor refused", n - answered - refused, n == answered + refused, "0")
    without = report["n_refused_without_retry_after"]
    check("refused without Retry-After", without, without == 0, "0")
    check("resident memory, MiB", f"{memory:.0f}, at most {most[0]:.0f}", most[0] < 1.5 * memory + 64, "no more than half as much again")
    p50 = after["p50_ms"]
    check("p50 two seconds later, ms", f"{p50:.1f}", p50 < 1.5 * before["p50_ms"] + 1, f"{before['p50_ms']:.1f} as before")


async def leave(port, body, times, share):
    """Sends requests at the times given and closes those whose turn it is after 5 ms; returns how many were answered."""

    async def one(number, at, start):
        await asyncio.sleep(max(0.0, start + at - time.monotonic()))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            text = body(number)
            writer.write(f"POST {PATH} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\nx-priority: bulk\r\ncontent-length: {len(text)}\r\n\r\n".encode() + text)
            await writer.drain()
            if int((number + 1) * share) > int(number * share):
                await asyncio.sleep(0.005)
                return False
            return (await reader.read()).startswith(b"HTTP/1.1 200")
        finally:
            writer.close()

    start = time.monotonic()
    return sum(await asyncio.gather(*(one(number, at, start) for number, at in enumerate(times))))


def depart(args, server, capacity, texts, check):
    def tokens(share):
        before = server.figure("trawl_batch_tokens_sum")
        body = lambda number: json.dumps({"model": "encoder", "input": texts[number % len(texts)]}).encode()
        # All at once: a queue has to form, else nothing is left to be dropped.
        answered = asyncio.run(leave(server.port, body, [0.001 * number for number in range(int(4 * capacity))], share))
        time.sleep(0.5)
        return server.figure("trawl_batch_tokens_sum") - before, answered

    (all_tokens, all_answered), (half_tokens, half_answered) = tokens(0.0), tokens(0.5)
    ratio = half_tokens / all_tokens
    check("tokens read when half of the clients go away, of those otherwise", f"{ratio:.2f}", ratio < 0.65, "less than 0.65")
    print(f"     {all_answered} answered, {half_answered} when half went away")


def flood(args, server, capacity, texts, check):
    rate = max(1.0, capacity / 20)
    alone = ask(args, server, "--rate", rate, "--seconds", 20)
    over = threading.Event()
    n_bulk = [0]

    def bulk():
        body = json.dumps({"model": "encoder", "input": texts[:64]}).encode()
        headers = {"content-type": "application/json", "x-priority": "bulk"}
        while not over.is_set():
            try:
                urllib.request.urlopen(urllib.request.Request(server.url + PATH, body, headers), timeout=60).read()
                n_bulk[0] += 1
            except OSError:
                time.sleep(0.1)

    threads = [threading.Thread(target=bulk) for _ in range(8)]
    batches, seconds = server.figure("trawl_batch_seconds_count"), server.figure("trawl_batch_seconds_sum")
    for thread in threads:
        thread.start()
    time.sleep(2)
    beside = ask(args, server, "--rate", rate, "--seconds", 20)
    over.set()
    for thread in threads:
        thread.join()
    batch_ms = 1e3 * (server.figure("trawl_batch_seconds_sum") - seconds) / (server.figure("trawl_batch_seconds_count") - batches)
    grown = beside["p99_ms"] - alone["p99_ms"]
    check("growth of interactive p99 beside bulk, ms", f"{grown:.1f}", grown <= 2 * batch_ms, f"at most {2 * batch_ms:.1f}, two batches")
    print(f"     p99 {alone['p99_ms']:.1f} ms alone, {beside['p99_ms']:.1f} ms beside {n_bulk[0]} bulk requests answered; a batch took {batch_ms:.1f} ms on average")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trawl", required=True, type=Path, help="the binary, a release build")
    parser.add_argument("--model", required=True, type=Path, help="directory of the encoder")
    parser.add_argument("--queries", required=True, type=Path, help="JSONL with the texts to encode, 2,000 or more that differ")
    parser.add_argument("--seconds", type=int, default=60, help="of overload")
    parser.add_argument("--port", type=int, default=18090)
    args = parser.parse_args()
    texts = [json.loads(line)["text"] for line in args.queries.read_text().splitlines()]
    check = Check()
    with tempfile.TemporaryDirectory(prefix="trawl-load-") as work, Server(args.trawl, args.port, encoder(args), work) as server:
        ask(args, server, "--clients", 32, "--seconds", 3)
        capacity = ask(args, server, "--clients", 32, "--seconds", 10)["answered_per_s"]
        print(f"capacity: {capacity:.1f} requests a second from 32 clients")
        overload(args, server, capacity, check)
        depart(args, server, capacity, texts, check)
        flood(args, server, capacity, texts, check)
    raise SystemExit(1 if check.failed else 0)


if __name__ == "__main__":
    main()
