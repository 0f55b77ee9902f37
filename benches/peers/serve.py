"""`trawl serve` beside other servers of embeddings, reranking and search, under the same load on the same machine.

    python benches/peers/serve.py --trawl target/release/trawl --model models/all-MiniLM-L6-v2 --reranker models/trawl-reranker-small
    python benches/peers/serve.py ... --infinity other/bin/infinity_emb --rows queries,rerank --clients 1,32 --seconds 2 --rounds 1

Rows (`--rows`), asked by `trawl bench serve --clients`: each client asks anew once it has its answer.

- queries: one query of squad's `dev` part a request; passages: one of its passages a request (200 words or so).
- rerank: a query with 16 passages a request, all 16 scores back.
- search: a query against squad's 3,648 passages: encoded, searched exactly, the best 50 reranked, ten passages back.

Peers: infinity with torch (as it comes, and with weights in bfloat16: infinity-bf16), sentence-transformers behind FastAPI
(serve_sentence_transformers.py), txtai's API with a cross-encoder of the same model and depth; a peer is asked what it has.
Servers start once, warm up, and take turns of `--seconds`; medians over the rounds. trawl's cache of query vectors is off. It runs as it
comes and, since one peer has weights in bfloat16, with `precision` bf16 and int8 (trawl-bf16, trawl-int8). What every server
answers is compared with trawl's answer in 32-bit floats before anything is timed. Ratios above 1 are in trawl's favour, beside the best
peer of the cell. infinity needs older libraries than the others: `--infinity` names its program in an environment of its own. A peer that
is missing or fails is named and left out.
"""

import argparse
import gzip
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
N_RERANKED = 50
N_DOCUMENTS = 16  # of a request to rerank
PRECISIONS = {"trawl-f32": "f32", "trawl": "auto", "trawl-bf16": "bf16", "trawl-int8": "int8"}  # the first for comparison only
ROWS = ["queries", "passages", "rerank", "search"]


class PeerFailed(Exception):
    pass


def post(url, body, timeout=60):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return json.loads(response.read())


class Peer:
    """A server: how it starts, and for each row what is asked of it and how its answer is read."""

    def __init__(self, name, command, port, ready="/health", requests=None, env=None):
        self.name, self.command, self.port, self.ready, self.env = name, command, port, ready, env
        self.requests = requests or {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self, log_folder, timeout=300):
        self.log = log_folder / f"{self.name}.log"
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", **(self.env or {})}
        with self.log.open("w") as log:
            try:
                self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=env)
            except OSError as error:
                raise PeerFailed(error)
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise PeerFailed(f"ended with {self.process.returncode}: {self.last_words()}")
            try:
                with urllib.request.urlopen(self.url + self.ready, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        self.stop()
        raise PeerFailed(f"not ready after {timeout} s: {self.last_words()}")

    def last_words(self):
        return " / ".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def resident_mib(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024


def openai_vector(answer):
    return answer["data"][0]["embedding"]


def scores_by_index(answer):
    return [hit["relevance_score"] for hit in sorted(answer["results"], key=lambda hit: hit["index"])]


def peers_of(args, work, documents):
    rerank = {"query": "<query>", "documents": documents}

    def openai(path, model):
        return {"path": path, "body": {"model": model, "input": ["<query>"]}, "read": openai_vector}

    def trawl(name, port, precision):
        config = work / f"{name}.toml"
        config.write_text(f"""
[server]
bind = "127.0.0.1:{port}"
query_cache = 0
default_timeout = "30s"
[queue]
max_wait = "30s"  # the peers let requests wait, too
[models.encoder]
path = "{args.model.resolve()}"
role = "encoder"
[models.reranker]
path = "{args.reranker.resolve()}"
role = "reranker"
[collections.squad]
path = "{work / 'squad'}"
encoder = "encoder"
reranker = "reranker"
""")
        return Peer(
            name,
            [args.trawl, "serve", "--config", config, "--precision", precision],
            port,
            "/readyz",
            {
                "queries": openai("/v1/embeddings", "encoder"),
                "passages": openai("/v1/embeddings", "encoder"),
                "rerank": {"path": "/v1/rerank", "body": {"model": "reranker", **rerank}, "read": scores_by_index},
                "search": {
                    "path": "/v1/collections/squad/search",
                    "body": {"query": "<query>", "top_k": 10, "rerank": {"candidates": N_RERANKED}},
                    "read": lambda answer: [f"{hit['title']} {hit['text']}".strip() for hit in answer["results"]],
                },
            },
        )

    def infinity(name, port, dtype):
        command = [args.infinity, "v2", "--host", "127.0.0.1", "--port", str(port)]
        for served, path in (("encoder", args.model), ("reranker", args.reranker)):
            command += ["--model-id", path.resolve(), "--served-model-name", served]
        command += ["--no-bettertransformer", "--no-compile", "--dtype", dtype, "--device", "cpu"]
        command = [str(part) for part in command]
        return Peer(
            name,
            command,
            port,
            requests={
                "queries": openai("/embeddings", "encoder"),
                "passages": openai("/embeddings", "encoder"),
                "rerank": {"path": "/rerank", "body": {"model": "reranker", "raw_scores": True, **rerank}, "read": scores_by_index},
            },
        )

    script = [sys.executable, HERE / "serve_sentence_transformers.py"]
    sentence_transformers = Peer(
        "sentence-transformers",
        [*script, "--port", str(args.port + 3), args.model, args.reranker],
        args.port + 3,
        requests={
            "queries": {"path": "/embed", "body": {"inputs": ["<query>"]}, "read": lambda answer: answer[0]},
            "passages": {"path": "/embed", "body": {"inputs": ["<query>"]}, "read": lambda answer: answer[0]},
            "rerank": {"path": "/rerank", "body": rerank, "read": lambda answer: answer},
        },
    )
    trawls = [trawl(name, args.port + 5 + i, precision) for i, (name, precision) in enumerate(PRECISIONS.items())]
    return [*trawls, infinity("infinity", args.port + 1, "float32"), infinity("infinity-bf16", args.port + 2, "bfloat16"), sentence_transformers, txtai(args, work)]


def txtai(args, work):
    config = work / "txtai.yml"
    config.write_text(json.dumps({  # JSON is YAML
        "path": str(work / "txtai"),
        "embeddings": {"path": str(args.model.resolve()), "content": True, "backend": "faiss", "faiss": {"components": "IDMap,Flat"}},
        "similarity": {"path": str(args.reranker.resolve()), "crossencode": True},
        "reranker": {},
    }))
    command = [sys.executable, "-m", "uvicorn", "txtai.api:app", "--host", "127.0.0.1", "--port", str(args.port + 4)]
    request = {
        "path": "/batchrerank",
        "body": {"queries": ["<query>"], "limit": 10, "factor": N_RERANKED // 10},
        "read": lambda answer: [hit["text"] for hit in answer[0]],
    }
    return Peer("txtai", command, args.port + 4, "/count", {"search": request}, {"CONFIG": str(config)})


def index_with_txtai(args, work, texts):
    if (work / "txtai").exists():
        return
    from txtai.embeddings import Embeddings

    embeddings = Embeddings(path=str(args.model.resolve()), content=True, backend="faiss", faiss={"components": "IDMap,Flat"})
    embeddings.index(enumerate(texts))
    embeddings.save(str(work / "txtai"))


def filled(template, query):
    if isinstance(template, str):
        return template.replace("<query>", query)
    if isinstance(template, list):
        return [filled(value, query) for value in template]
    if isinstance(template, dict):
        return {name: filled(value, query) for name, value in template.items()}
    return template


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def ranks(values):
    order = sorted(range(len(values)), key=values.__getitem__)
    return [order.index(number) for number in range(len(values))]


def agreement(row, ours, theirs):
    """Of one answer: cosine of vectors, rank correlation (Spearman) of scores, share of our ten passages that the peer has."""
    if row in ("queries", "passages"):
        return cosine(ours, theirs)
    if row == "rerank":
        a, b = ranks(ours), ranks(theirs)
        return 1 - 6 * sum((x - y) ** 2 for x, y in zip(a, b)) / (len(a) * (len(a) ** 2 - 1))
    return len(set(ours) & set(theirs)) / len(ours)


def compare(peers, rows, texts_of):
    """Prints how far all answers agree with those of trawl in 32-bit floats, over 20 requests a row."""
    print("\n| row | server | agreement, mean | least |\n|---|---|---|---|")
    exact = peers[0]
    for row in rows:
        sample = texts_of[row][:20]
        ask = lambda peer, text: peer.requests[row]["read"](post(peer.url + peer.requests[row]["path"], filled(peer.requests[row]["body"], text)))
        expected = [ask(exact, text) for text in sample]
        for peer in peers[1:]:
            if row in peer.requests:
                found = [agreement(row, mine, ask(peer, text)) for mine, text in zip(expected, sample)]
                print(f"| {row} | {peer.name} | {statistics.mean(found):.6f} | {min(found):.6f} |", flush=True)


def measure(args, peer, row, n_clients, queries):
    """One turn of one peer."""
    request = peer.requests[row]
    command = [args.trawl, "bench", "serve", "--url", peer.url, "--path", request["path"], "--body", json.dumps(request["body"])]
    command += ["--queries", queries, "--clients", str(n_clients), "--seconds", str(args.seconds), "--timeout-ms", "60000", "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PeerFailed(done.stderr.strip())
    report = json.loads(done.stdout)[0]
    if report["n_answered"] != report["n_requests"]:
        raise PeerFailed(f"{report['n_requests'] - report['n_answered']} of {report['n_requests']} requests failed: {report}")
    return report


def take_turns(args, peers, row, n_clients, queries):
    """Returns the reports of each peer's rounds."""
    reports = {peer.name: [] for peer in peers if row in peer.requests}
    for _ in range(args.rounds):
        for peer in peers:
            if peer.name not in reports:
                continue
            try:
                report = measure(args, peer, row, n_clients, queries)
            except PeerFailed as failure:
                print(f"left out: {peer.name}, {row}, {n_clients} clients: {failure}", file=sys.stderr)
                del reports[peer.name]
                continue
            reports[peer.name].append(report)
    return reports


def warm_up(args, peers, row, queries):
    for peer in peers:
        if row in peer.requests:
            try:
                measure(args, peer, row, 1, queries)
            except PeerFailed as failure:
                print(f"{peer.name}, {row}, while warming up: {failure}", file=sys.stderr)


def median(reports, field):
    # A server that answers nothing has no latency.
    return statistics.median(math.inf if report[field] is None else report[field] for report in reports)


def run(args, work):
    with gzip.open(args.data / "squad/corpus.jsonl.gz", "rt") as lines:
        corpus = [json.loads(line) for line in lines]
    texts = [f"{document['title']} {document['text']}".strip() for document in corpus]
    with (args.data / "squad/qrels/dev.tsv").open() as lines:
        dev = {line.split("\t")[0] for line in list(lines)[1:]}
    with (args.data / "squad/queries.jsonl").open() as lines:
        queries = [query for query in map(json.loads, lines) if query["_id"] in dev]
    texts_of = {row: [query["text"] for query in queries] for row in ROWS} | {"passages": texts}
    files = {}
    for row in args.rows:
        files[row] = work / f"{row}.jsonl"
        files[row].write_text("".join(json.dumps({"_id": str(i), "text": text}) + "\n" for i, text in enumerate(texts_of[row])))
    peers = [peer for peer in peers_of(args, work, texts[:N_DOCUMENTS]) if set(args.rows) & set(peer.requests)]
    if args.peers:
        peers = [peer for peer in peers if peer.name in (*PRECISIONS, *args.peers)]
    if not (work / "squad").exists():
        build = [args.trawl, "index", "build", "--corpus", args.data / "squad/corpus.jsonl.gz", "--model", args.model]
        subprocess.run([*build, "--collection", work / "squad", "--publish", "--quiet"], check=True)
    started = []
    try:
        for peer in peers:
            try:
                if peer.name == "txtai":
                    index_with_txtai(args, work, texts)
                peer.start(work)
                started.append(peer)
            except (PeerFailed, ImportError) as failure:
                if peer.name in PRECISIONS:
                    raise SystemExit(f"{peer.name}: {failure}")
                print(f"left out: {peer.name}: {failure}", file=sys.stderr)
        compare(started, args.rows, texts_of)
        started[0].stop()
        report(args, started[1:], files)
    finally:
        for peer in started:
            peer.stop()


def report(args, peers, files):
    results = []
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians of {args.rounds} turns of {args.seconds} s\n")
    print("| row | clients | server | requests/s | p50 ms | p99 ms | requests/s, of the best peer's | p50, of the best peer's |\n|---|---|---|---|---|---|---|---|")
    for row in args.rows:
        warm_up(args, peers, row, files[row])
        for n_clients in args.clients:
            reports = take_turns(args, peers, row, n_clients, files[row])
            results.append({"row": row, "clients": n_clients, "reports": reports})
            others = [reports[name] for name in reports if name not in PRECISIONS]
            for name, rounds in reports.items():
                rate, p50, p99 = (median(rounds, field) for field in ("answered_per_s", "p50_ms", "p99_ms"))
                ratios = ["", ""]
                if name in PRECISIONS and others:
                    ratios[0] = f"{rate / max(median(other, 'answered_per_s') for other in others):.2f}x"
                    ratios[1] = f"{min(median(other, 'p50_ms') for other in others) / p50:.2f}x"
                print(f"| {row} | {n_clients} | {name} | {rate:.1f} | {p50:.1f} | {p99:.1f} | {ratios[0]} | {ratios[1]} |", flush=True)
    alive = [peer for peer in peers if peer.process.poll() is None]
    print("\nresident memory, MiB: " + ", ".join(f"{peer.name} {peer.resident_mib():.0f}" for peer in alive))
    if args.json_out:
        args.json_out.write_text(json.dumps(results, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trawl", required=True, type=Path, help="the binary, a release build")
    parser.add_argument("--model", required=True, type=Path, help="directory of the bi-encoder")
    parser.add_argument("--reranker", required=True, type=Path, help="directory of the cross-encoder")
    parser.add_argument("--data", type=Path, default=os.environ.get("TRAWL_DATA"), help="see docs/data.md (default: $TRAWL_DATA)")
    parser.add_argument("--infinity", default="infinity_emb", help="its program")
    parser.add_argument("--rows", type=lambda text: text.split(","), default=ROWS)
    parser.add_argument("--peers", type=lambda text: text.split(","), help="only these")
    parser.add_argument("--clients", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--seconds", type=int, default=4, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=18080, help="the first of nine")
    parser.add_argument("--work-dir", type=Path, help="keeps indexes and logs here, and uses the indexes that it finds")
    parser.add_argument("--json-out", type=Path)
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data or TRAWL_DATA names the folder of the data sets")
    args.data = Path(args.data)
    if args.work_dir:
        args.work_dir.mkdir(parents=True, exist_ok=True)
        run(args, args.work_dir.resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="trawl-serve-") as work:
            run(args, Path(work))


if __name__ == "__main__":
    main()
