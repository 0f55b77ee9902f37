#!/usr/bin/env python3
"""Encoding and training speed of trawl beside its peers, in rounds that take turns (A B C A B C).

Rows: passages, queries, pairs, texts (end to end), train-cross, train-bi.
Peers: torch-f32, torch-bf16, torch-compile-bf16, onnxruntime-f32, onnxruntime-int8, openvino-bf16,
       sentence-transformers-8, sentence-transformers (batches of 8 and of its default size), trawl.
README.md in this folder says what each of them measures.

    export TRAWL_DATA=DIR
    python3 encode.py --model models/all-MiniLM-L6-v2 --trawl target/release/trawl
    python3 encode.py --model MODEL --trawl TRAWL --only passages,queries --work-dir exports --json-out figures.json
    python3 encode.py --model MODEL --only pairs,torch-compile-bf16,onnxruntime-f32      # peers alone, without trawl
    python3 encode.py --model MODEL --trawl TRAWL --max-texts 32 --rounds 1              # does everything run?
"""

import argparse
import contextlib
import gzip
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from worker import PEERS

HERE = Path(__file__).resolve().parent
# The kind of the row decides which peers run (worker.PEERS).
ROWS = {
    "passages": "encode", "queries": "encode", "pairs": "encode",
    "texts": "texts", "train-cross": "train", "train-bi": "train",
}
PASSAGE_TOKENS, PAIR_TOKENS = 256, 180
QUERY_TOKENS = range(6, 21)
# Batches of 8 are the fastest for passages with every peer, or tied; 16 is for pairs.
BATCHES = {"passages": 8, "queries": 1, "pairs": 16}
TRAINING_STEPS = 3  # of a round
# An idle pool of threads spins for a moment after its last work, so the next one in turn waits until that is over.
PAUSE_S = 0.3
# Ratios of wall time and of user CPU that differ by more than this share are marked.
DISAGREEMENT = 0.15
FIELDS = {"wall_s": "wall", "p50_ms": "p50", "cpu_s": "user CPU"}


def log(text):
    print(text, file=sys.stderr, flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="folder of a BERT that pools by mean")
    parser.add_argument("--cross-encoder", type=Path,
                        help="folder of a one-label cross-encoder (default: --model with a head of seeded random weights)")
    parser.add_argument("--data", type=Path, default=os.environ.get("TRAWL_DATA"),
                        help="folder of retrieval sets, for squad (default: $TRAWL_DATA)")
    parser.add_argument("--trawl", type=Path, help="the trawl binary; without it only the peers run")
    parser.add_argument("--precisions", default="fixed16,bf16,f32",
                        help="what trawl computes with, each a line of the tables (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="NAME,...", help="these rows and these peers (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="of every peer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="medians are over these (default: %(default)s)")
    parser.add_argument("--max-texts", type=int,
                        help="passages, queries and pairs at most (default: 512, 200, 100)")
    parser.add_argument("--work-dir", type=Path, help="keeps ONNX exports and logs (default: a temporary folder)")
    parser.add_argument("--json-out", type=Path, help="every round of every peer, and the versions")
    args = parser.parse_args()

    args.precisions = [name for name in args.precisions.split(",") if name]
    only = [name for name in args.only.split(",") if name]
    peers = list(dict.fromkeys(peer for kind in PEERS.values() for peer in kind)) + ["trawl"]
    for name in only:
        if name not in ROWS and name not in peers:
            known = f"rows: {', '.join(ROWS)}; peers: {', '.join(peers)}"
            parser.error(f"--only: no row and no peer is named `{name}`; {known}")
    args.rows = [name for name in ROWS if name in only] or list(ROWS)
    args.peers = [name for name in peers if name in only] or peers
    if args.trawl is None:
        if args.peers == ["trawl"]:
            parser.error("--only trawl needs --trawl")
        args.peers = [name for name in args.peers if name != "trawl"]
    elif not args.trawl.is_file():
        parser.error(f"--trawl: no file at `{args.trawl}`")
    for name, least in (("threads", 1), ("rounds", 1), ("max_texts", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}, the least is {least}")
    if any(row in BATCHES or row == "texts" for row in args.rows):
        if args.data is None:
            parser.error("name the folder of retrieval sets with --data or TRAWL_DATA")
        if not (args.data / "squad").is_dir():
            parser.error(f"no set `squad` in `{args.data}`")
    check_model(parser, args.model)
    return args


def check_model(parser, model):
    """Refuses a model whose vectors the peers would not compute: they pool by mean and normalize."""
    config, pooling = model / "config.json", model / "1_Pooling" / "config.json"
    if not config.is_file():
        parser.error(f"--model: no config.json in `{model}`")
    model_type = json.loads(config.read_text(encoding="utf-8"))["model_type"]
    if model_type != "bert":
        parser.error(f"--model is of type `{model_type}`, and the ONNX export knows only `bert`")
    if pooling.is_file() and not json.loads(pooling.read_text(encoding="utf-8")).get("pooling_mode_mean_tokens"):
        parser.error("--model does not pool by mean, as the peers do")


# Workloads


def read_jsonl(path):
    """Yields one object per line of a plain or gzip JSONL file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_texts(data):
    """Returns the passages and the queries of squad as texts, in file order."""
    corpus, queries = data / "squad" / "corpus.jsonl.gz", data / "squad" / "queries.jsonl"
    passages = [f"{record.get('title', '')} {record['text']}".strip() for record in read_jsonl(corpus)]
    return passages, [record["text"] for record in read_jsonl(queries)]


def tokenizer_of(model, max_tokens, strategy):
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, strategy=strategy)
    return tokenizer


def encoding_workload(row, args, passages, queries):
    """Returns what the peers of a row read: ids, type ids and texts; and the lines that trawl reads."""
    limit = args.max_texts or sys.maxsize
    if row == "pairs":
        # Passages that are long enough, so that nearly all pairs are cut to the same length.
        tokenizer = tokenizer_of(args.cross_encoder, PAIR_TOKENS, "only_second")
        encodings = ((pair, tokenizer.encode(*pair)) for pair in zip(queries, passages))
        chosen = [found for found in encodings if len(found[1].ids) > PAIR_TOKENS - 8][:min(limit, 100)]
        lines = [{"query": query, "text": passage} for (query, passage), _ in chosen]
    elif row == "queries":
        tokenizer = tokenizer_of(args.model, PASSAGE_TOKENS, "longest_first")
        encodings = ((query, tokenizer.encode(query)) for query in queries)
        n_queries = min(limit, 200)
        chosen = []
        while len(chosen) < n_queries and (found := next(encodings, None)):
            if len(found[1].ids) in QUERY_TOKENS:
                chosen.append(found)
        lines = [{"text": query} for query, _ in chosen]
    else:
        tokenizer = tokenizer_of(args.model, PASSAGE_TOKENS, "longest_first")
        texts = passages[:min(limit, 512)]
        chosen = list(zip(texts, tokenizer.encode_batch(texts)))
        lines = [{"text": passage} for passage in texts]
    ids = [encoding.ids for _, encoding in chosen]
    workload = {
        "ids": ids,
        "type_ids": [encoding.type_ids for _, encoding in chosen],
        "texts": [line["text"] for line in lines],
        "n_texts": len(ids),
        "n_tokens": sum(map(len, ids)),
        "batch": BATCHES.get(row),
        "max_tokens": PAIR_TOKENS if row == "pairs" else PASSAGE_TOKENS,
    }
    return workload, lines


def training_workload(row):
    shapes = [(16, PAIR_TOKENS)] if row == "train-cross" else [(16, 10), (32, 128)]
    return {
        "shapes": shapes,
        "steps": TRAINING_STEPS,
        "n_texts": sum(n_texts for n_texts, _ in shapes),
        "n_tokens": sum(n_texts * length for n_texts, length in shapes),
    }


def prepare(row, args, folder, texts):
    """Writes the workload of a row as two files, for the workers and for trawl, and returns it."""
    if ROWS[row] == "train":
        workload, lines = training_workload(row), None
    else:
        workload, lines = encoding_workload(row, args, *texts)
    pairs = row in ("pairs", "train-cross")
    model = args.cross_encoder if pairs else args.model
    workload |= {"row": row, "kind": ROWS[row], "pairs": pairs, "model": str(model)}
    (folder / f"{row}.json").write_text(json.dumps(workload), encoding="utf-8")
    if lines is not None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{row}.jsonl").write_text(text, encoding="utf-8")
    return workload


# Who takes part: start() once, then round() in turn, then close()


class PeerError(Exception):
    """A peer that cannot take part, and why."""


def last_lines(text, n_lines=8):
    return "\n".join("    " + line for line in text.strip().splitlines()[-n_lines:])


class Worker:
    """A peer in a process of its own (worker.py), which loads and warms up once."""

    def __init__(self, name, workload, args, folder):
        self.name, self.workload, self.args, self.folder = name, workload, args, folder
        self.process, self.outputs = None, None

    def start(self):
        stem = self.folder / f"{self.workload['row']}-{self.name}"
        request = {
            "peer": self.name,
            "workload": str(self.folder / f"{self.workload['row']}.json"),
            "threads": self.args.threads,
            "work_dir": str(self.folder),
        }
        request_path = stem.with_suffix(".request")
        request_path.write_text(json.dumps(request), encoding="utf-8")
        threads = str(self.args.threads)
        environment = os.environ | {
            "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads,
            "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error",
        }
        self.log = stem.with_suffix(".log")
        with open(self.log, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, HERE / "worker.py", request_path],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True,
            )
        answer = self.answer()
        if "missing" in answer:
            raise PeerError(f"`{answer['missing']}` is not installed")
        outputs = answer["ready"].get("outputs")
        if outputs is not None:
            self.outputs = np.load(outputs)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            errors = self.log.read_text(encoding="utf-8", errors="replace")
            raise PeerError(f"its worker ended with status {status}:\n{last_lines(errors)}")
        return json.loads(line)

    def round(self):
        with contextlib.suppress(BrokenPipeError):  # the missing answer says why
            self.process.stdin.write("round\n")
            self.process.stdin.flush()
        answer = self.answer()
        # The steps of a round are alike, so a training round is their mean; the calls of others are different texts.
        n_passes = self.workload.get("steps", 1)
        measured = {"wall_s": sum(answer["seconds"]) / n_passes, "cpu_s": answer["cpu_s"] / n_passes}
        if self.workload["row"] == "queries":
            milliseconds = sorted(1e3 * seconds for seconds in answer["seconds"])
            measured |= {f"p{percent}_ms": nearest_rank(milliseconds, percent) for percent in (50, 99)}
        return measured | {"n_tokens": self.workload["n_tokens"], "n_texts": self.workload["n_texts"]}

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.terminate()
            self.process.wait()


def nearest_rank(values, percent):
    """The least of the sorted values that `percent` of them do not exceed."""
    return values[max(0, -(-len(values) * percent // 100) - 1)]


class Trawl:
    """`trawl bench encode`, one process a round; it warms up before its clock starts."""

    def __init__(self, precision, workload, args, folder):
        self.name, self.workload, self.args, self.outputs = f"trawl-{precision}", workload, args, None
        row = "passages" if workload["row"] == "texts" else workload["row"]
        self.command = [
            args.trawl, "bench", "encode", "--json", "--repeats", "1", "--workload", row, "--precision", precision,
            "--model", workload["model"], "--threads", str(args.threads),
        ]
        if workload["kind"] != "train":
            self.command += [
                "--texts", folder / f"{workload['row']}.jsonl", "--max-texts", str(workload["n_texts"]),
                "--max-tokens", str(workload["max_tokens"]),
            ]
        self.vectors = folder / f"{workload['row']}-{self.name}.npy"

    def start(self):
        if self.workload["kind"] == "train":
            self.run()
        else:
            self.vectors.unlink(missing_ok=True)
            self.run("--vectors-out", self.vectors)
            self.outputs = np.load(self.vectors)

    def run(self, *more):
        done = subprocess.run([*self.command, *more], capture_output=True, text=True)
        if done.returncode != 0:
            raise PeerError(f"`trawl bench encode` ended with status {done.returncode}:\n{last_lines(done.stderr)}")
        return json.loads(done.stdout)

    def round(self):
        report = self.run()
        if self.workload["row"] == "texts":
            # The same command measures texts in and vectors out, beside tokens in.
            wall, cpu = report["n_tokens"] / report["end_to_end_tokens_per_s"], report["end_to_end_cpu_s"]
        else:
            wall, cpu = report["wall_s"], report["cpu_s"]
        measured = {"wall_s": wall, "cpu_s": cpu, "n_tokens": report["n_tokens"], "n_texts": report["n_texts"]}
        if self.workload["row"] == "queries":
            measured |= {"p50_ms": report["p50_ms"], "p99_ms": report["p99_ms"]}
        return measured | {"report": report}

    def close(self):
        pass


# Rounds and tables


def run_row(workload, args, folder):
    """Returns {peer: {"rounds": […], "outputs": array or None}} of a row; a peer that fails is left out and named."""
    row = workload["row"]
    taking_part = [Worker(name, workload, args, folder) for name in PEERS[workload["kind"]] if name in args.peers]
    if "trawl" in args.peers:
        taking_part += [Trawl(precision, workload, args, folder) for precision in args.precisions]
    found = {}

    def attempt(peer, action):
        """Whether the peer still takes part after `action`."""
        try:
            action()
            return True
        except PeerError as error:
            log(f"{row}: skipped {peer.name}: {error}")
            peer.close()
            found.pop(peer.name, None)
            return False

    def measure(peer):
        time.sleep(PAUSE_S)
        found.setdefault(peer.name, {"rounds": [], "outputs": peer.outputs})["rounds"].append(peer.round())

    try:
        ready = []
        for peer in taking_part:
            log(f"{row}: {peer.name} loads and warms up")
            if attempt(peer, peer.start):
                ready.append(peer)
        for number in range(args.rounds):
            log(f"{row}: round {number + 1} of {args.rounds}")
            ready = [peer for peer in ready if attempt(peer, lambda peer=peer: measure(peer))]
    finally:
        for peer in taking_part:
            with contextlib.suppress(Exception):
                peer.close()
    return found


def summarize(row, found):
    """Adds to every peer its medians and how far it is from torch f32, which sentence-transformers runs too."""
    exact = ("torch-f32", "sentence-transformers-8", "sentence-transformers")
    reference = next((found[name]["outputs"] for name in exact if name in found), None)
    for name, peer in found.items():
        rounds = peer["rounds"]

        def median(field):
            values = [measured.get(field) for measured in rounds]
            return None if None in values else statistics.median(values)

        peer |= {field: median(field) for field in ("wall_s", "cpu_s", "p50_ms", "p99_ms")}
        peer |= {"n_tokens": rounds[0]["n_tokens"], "n_texts": rounds[0]["n_texts"]}
        peer["tokens_per_s"] = peer["n_tokens"] / peer["wall_s"]
        peer["accuracy"] = accuracy(row, reference, peer.pop("outputs"))
    return found


def accuracy(row, reference, outputs):
    """Compares with the reference: cosines of vectors; the error of logits in their standard deviations."""
    if reference is None or outputs is None or reference.shape != outputs.shape:
        return {}
    expected, values = reference.astype(np.float64), outputs.astype(np.float64)
    if row == "pairs":
        return {"logit_rmse": float(np.sqrt(np.mean((values - expected) ** 2)) / expected.std())}
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(values, axis=1)
    cosines = (expected * values).sum(1) / norms
    return {"cosine_mean": float(cosines.mean()), "cosine_min": float(cosines.min())}


def best(peers, field):
    """Returns the name and the figure of the peer with the least `field` per token; of queries p50 is per call."""
    per = {
        name: peer[field] if field == "p50_ms" else peer[field] / peer["n_tokens"]
        for name, peer in peers.items() if peer[field] is not None
    }
    return min(per.items(), key=lambda item: item[1], default=None)


def ratios(row, found):
    """Yields (line of trawl, whom it is compared with, [(field, best peer, how many times less trawl takes)]).

    trawl's f32 is compared with the f32 peers, fixed16 and bf16x3, whose vectors are as exact, with these and with all, every
    other precision with all. A training step has one goal, whatever its precision, so there f32 is compared with all of them too.
    """
    peers = {name: peer for name, peer in found.items() if not name.startswith("trawl-")}
    f32_peers = {name: peer for name, peer in peers.items() if name.endswith("-f32")}
    for name, ours in found.items():
        if not name.startswith("trawl-"):
            continue
        groups = [("peer", peers)]
        if ROWS[row] == "encode" and name == "trawl-f32":
            groups = [("f32 peer", f32_peers)]
        elif ROWS[row] == "encode" and name in ("trawl-fixed16", "trawl-bf16x3"):
            groups.append(("f32 peer", f32_peers))
        for group, rivals in groups:
            compared = []
            for field in ("p50_ms" if row == "queries" else "wall_s", "cpu_s"):
                rival, own = best(rivals, field), best({name: ours}, field)
                if rival is not None and own is not None:
                    compared.append((field, rival[0], rival[1] / own[1]))
            yield name, group, compared


def table(header, rows):
    """Returns a Markdown table with aligned columns."""
    cells = [header] + [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def show(value, digits):
    return "" if value is None else f"{value:,.{digits}f}"


def row_table(row, found):
    header = ["engine", "wall s", "tokens/s", "CPU s"]
    if row == "queries":
        header = ["engine", "p50 ms", "p99 ms", "tokens/s", "CPU ms/query"]
    if ROWS[row] != "train":
        header.append("logit rmse / std" if row == "pairs" else "cosine mean / min")
    lines = []
    for name, peer in found.items():
        if row == "queries":
            cpu = None if peer["cpu_s"] is None else 1e3 * peer["cpu_s"] / peer["n_texts"]
            line = [name, show(peer["p50_ms"], 2), show(peer["p99_ms"], 2), show(peer["tokens_per_s"], 0), show(cpu, 2)]
        else:
            line = [name, show(peer["wall_s"], 3), show(peer["tokens_per_s"], 0), show(peer["cpu_s"], 2)]
        if row == "pairs":
            line.append(show(peer["accuracy"].get("logit_rmse"), 4))
        elif ROWS[row] != "train":
            figures = (show(peer["accuracy"].get(f"cosine_{name}"), 6) for name in ("mean", "min"))
            line.append(" / ".join(figures) if peer["accuracy"] else "")
        lines.append(line)
    return table(header, lines)


def disagreement(compared):
    """A remark where wall time and user CPU are too far apart for either to be trusted."""
    found = [ratio for _, _, ratio in compared]
    apart = max(found) / min(found) - 1 if found else 0
    return f" ({apart:.0%} apart)" if apart > DISAGREEMENT else ""


def print_row(workload, found, args):
    row = workload["row"]
    unit = "a step" if workload["kind"] == "train" else "a pass"
    print(f"\n### {row}: {workload['n_texts']} texts, {workload['n_tokens']:,} tokens {unit}, {args.threads} threads, "
          f"median of {args.rounds}\n")
    print(row_table(row, found))
    for name, peer in found.items():
        if (peer["n_texts"], peer["n_tokens"]) != (workload["n_texts"], workload["n_tokens"]):
            print(f"\n{name} took {peer['n_texts']} texts and {peer['n_tokens']:,} tokens; ratios are per token.")
    for name, group, compared in ratios(row, found):
        parts = [f"{FIELDS[field]} {ratio:.2f}x ({rival})" for field, rival, ratio in compared]
        if parts:
            print(f"\n{name} against the best {group}: {', '.join(parts)}{disagreement(compared)}")
    sys.stdout.flush()


def summary_table(figures):
    rows = []
    for row, found in figures.items():
        for name, group, compared in ratios(row, found):
            cells = {field == "cpu_s": f"{ratio:.2f}x {rival}" for field, rival, ratio in compared}
            rows.append([row, f"{name}, {group}s", cells.get(False, ""), cells.get(True, "") + disagreement(compared)])
    return table(["row", "engine", "wall (queries: p50)", "user CPU"], rows)


def describe_machine():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions():
    found = {"python": platform.python_version()}
    for line in (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines():
        package = line.partition("==")[0]
        if package and not line.startswith("#"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[package] = importlib.metadata.version(package)
    return found


def make_cross_encoder(model, folder):
    """Returns the folder of a cross-encoder made of the model and a head of one label with seeded random weights.

    The model's own weights matter: with random ones all pairs score nearly the same, and an error measured in standard
    deviations of the logits then says nothing.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = folder / "cross-encoder"
    if not (path / "tokenizer.json").is_file():
        log(f"making a cross-encoder of `{model}` and a random head")
        torch.manual_seed(1)
        cross_encoder = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
        cross_encoder.save_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.model_max_length = cross_encoder.config.max_position_embeddings
        tokenizer.save_pretrained(path)
    return path


def run(args, folder):
    if args.cross_encoder is None and {"pairs", "train-cross"} & set(args.rows):
        args.cross_encoder = make_cross_encoder(args.model, folder)
    reads = any(ROWS[row] != "train" for row in args.rows)
    texts = read_texts(args.data) if reads else ([], [])
    description = {
        "machine": describe_machine(), "cores": os.cpu_count(), "threads": args.threads, "rounds": args.rounds,
        "load_at_start": os.getloadavg()[0], "versions": versions(),
    }
    names = ", ".join(f"{name} {version}" for name, version in description["versions"].items())
    print(f"{description['machine']}, {description['cores']} cores, {args.threads} threads, "
          f"load {description['load_at_start']:.1f}; {names}")
    if description["load_at_start"] > 0.5:
        log("other work is running: it shows in wall times, and in the CPU time of threads that spin while they wait")
    figures = {}
    for row in args.rows:
        workload = prepare(row, args, folder, texts)
        if not workload["n_texts"]:
            log(f"{row}: skipped: no text of the right length")
            continue
        figures[row] = summarize(row, run_row(workload, args, folder))
        if figures[row]:
            print_row(workload, figures[row], args)
        if args.json_out is not None:
            text = json.dumps(description | {"rows": figures}, indent=1)
            args.json_out.write_text(text + "\n", encoding="utf-8")
    if any(name.startswith("trawl-") for found in figures.values() for name in found):
        print(f"\n### Ratios: the best peer's time by trawl's\n\n{summary_table(figures)}")


def main():
    args = parse_arguments()
    if args.work_dir is not None:
        args.work_dir.mkdir(parents=True, exist_ok=True)
        run(args, args.work_dir)
    else:
        with tempfile.TemporaryDirectory(prefix="trawl-peers-") as folder:
            run(args, Path(folder))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130)
