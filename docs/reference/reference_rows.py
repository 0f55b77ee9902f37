#!/usr/bin/env python3
"""Measure retrieval quality with the Python reference stack.

For each data set the corpus and the queries of one split are encoded with
sentence-transformers in f32, searched exactly by inner product, and scored by
pytrec_eval. `docs/measurements.md` sets the figures beside those of trawl.

A passage is `title + " " + text`, stripped; a query is its text as it stands.
Equal scores are ordered by corpus position, so the kept top is well defined;
pytrec_eval then reorders equal scores by id, as trec_eval does.

    python reference_rows.py --data DATA --model MODEL --out rows.json --artifacts ref/

`--data` holds one folder per data set in the BEIR layout. `--artifacts` is
optional: it receives the vectors, ids and TREC runs, for a later comparison
row by row, and a set whose row is already in `--out` is not computed again.
"""

import argparse
import gzip
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import pytrec_eval
import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer

SETS = ["squadshifts-amazon:dev", "cranfield:test", "squad:dev", "medquad:test"]


def read_jsonl(path):
    """Yields one object per line of a plain or gzip JSONL file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_corpus(folder):
    """Returns the ids and the texts of a corpus, in file order."""
    ids, texts = [], []
    for record in read_jsonl(folder / "corpus.jsonl.gz"):
        ids.append(record["_id"])
        texts.append((record.get("title", "") + " " + record.get("text", "")).strip())
    return ids, texts


def read_qrels(path):
    """Returns {query id: {passage id: grade}} from a BEIR TSV file with a header line."""
    qrels = {}
    with open(path, encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            query_id, passage_id, grade = line.rstrip("\n").split("\t")
            qrels.setdefault(query_id, {})[passage_id] = int(grade)
    return qrels


def encode(model, texts, batch_size):
    """Returns normalized f32 vectors, one row per text."""
    vectors = model.encode(
        texts, batch_size=batch_size, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
    )
    assert vectors.dtype == np.float32
    return vectors


def count_tokens(model, texts):
    """Returns (tokens encoded, texts truncated), special tokens included."""
    limit = model.max_seq_length
    model.tokenizer.backend_tokenizer.no_truncation()
    model.tokenizer.backend_tokenizer.no_padding()
    lengths = [len(encoding.ids) for encoding in model.tokenizer.backend_tokenizer.encode_batch(texts)]
    return sum(min(length, limit) for length in lengths), sum(length > limit for length in lengths)


def search(query_vectors, passage_vectors, depth, block=256):
    """Returns (positions, scores) of the `depth` best passages per query; ties go to the earlier passage."""
    depth = min(depth, len(passage_vectors))
    positions, scores = [], []
    for start in range(0, len(query_vectors), block):
        block_scores = query_vectors[start : start + block] @ passage_vectors.T  # (block, passages)
        order = np.argsort(-block_scores, axis=1, kind="stable")[:, :depth]
        positions.append(order)
        scores.append(np.take_along_axis(block_scores, order, axis=1))
    return np.concatenate(positions), np.concatenate(scores)


def mean_reciprocal_rank(run, qrels, cutoff):
    """Mean over the qrels' queries of 1 / rank of the first relevant passage in the top `cutoff`."""
    total = 0.0
    for query_id, grades in qrels.items():
        ranked = sorted(run[query_id].items(), key=lambda hit: (hit[1], hit[0].encode()), reverse=True)[:cutoff]
        ranks = [rank for rank, (passage_id, _) in enumerate(ranked, 1) if grades.get(passage_id, 0) >= 1]
        total += 1.0 / ranks[0] if ranks else 0.0
    return total / len(qrels)


def measure(model, data, name, split, args):
    """Returns the figures of one split and writes its artifacts."""
    folder = data / name
    passage_ids, passage_texts = read_corpus(folder)
    qrels = read_qrels(folder / "qrels" / f"{split}.tsv")
    queries = {record["_id"]: record["text"] for record in read_jsonl(folder / "queries.jsonl")}
    query_ids = list(qrels)
    query_texts = [queries[query_id] for query_id in query_ids]

    started = time.monotonic()
    passage_vectors = encode(model, passage_texts, args.batch_size)
    print(f"{name}: {len(passage_texts)} passages encoded in {time.monotonic() - started:.0f} s", flush=True)
    query_vectors = encode(model, query_texts, args.batch_size)
    n_tokens, n_truncated = count_tokens(model, passage_texts)
    positions, scores = search(query_vectors, passage_vectors, args.depth)

    run = {
        query_id: {passage_ids[position]: float(score) for position, score in zip(row, row_scores)}
        for query_id, row, row_scores in zip(query_ids, positions, scores)
    }
    per_query = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100"}).evaluate(run)
    assert len(per_query) == len(qrels), "every judged query is scored"

    if args.artifacts:
        stem = f"{name}.{split}"
        np.save(args.artifacts / f"{stem}.passages.npy", passage_vectors)
        np.save(args.artifacts / f"{stem}.queries.npy", query_vectors)
        (args.artifacts / f"{stem}.passages.ids").write_text("\n".join(passage_ids) + "\n", encoding="utf-8")
        (args.artifacts / f"{stem}.queries.ids").write_text("\n".join(query_ids) + "\n", encoding="utf-8")
        (args.artifacts / f"{stem}.per-query.json").write_text(json.dumps(per_query, sort_keys=True))
        write_run(args.artifacts / f"{stem}.run.trec", run)

    return {
        "set": name,
        "split": split,
        "n_passages": len(passage_ids),
        "n_queries": len(query_ids),
        "n_passage_tokens": n_tokens,
        "n_passages_truncated": n_truncated,
        "ndcg_cut_10": float(np.mean([figures["ndcg_cut_10"] for figures in per_query.values()])),
        "recall_100": float(np.mean([figures["recall_100"] for figures in per_query.values()])),
        "mrr_10": mean_reciprocal_rank(run, qrels, 10),
    }


def write_run(path, run):
    """Writes a TREC run: score descending, then id descending, scores exact to f32."""
    with open(path, "w", encoding="utf-8") as out:
        for query_id, hits in run.items():
            ranked = sorted(hits.items(), key=lambda hit: (hit[1], hit[0].encode()), reverse=True)
            for rank, (passage_id, score) in enumerate(ranked, 1):
                out.write(f"{query_id} Q0 {passage_id} {rank} {score:.9g} reference\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets in BEIR layout")
    parser.add_argument("--model", type=Path, required=True, help="sentence-transformers model directory")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the rows")
    parser.add_argument("--artifacts", type=Path, help="folder for vectors, ids and runs")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="SET:SPLIT")
    parser.add_argument("--max-seq-length", type=int, default=256)
    parser.add_argument("--depth", type=int, default=1000, help="passages kept per query")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    if args.artifacts:
        args.artifacts.mkdir(parents=True, exist_ok=True)
    report = json.loads(args.out.read_text()) if args.out.exists() else {"rows": []}
    report["reference"] = {
        "model": args.model.name,
        "max_seq_length": args.max_seq_length,
        "dtype": "float32",
        "depth": args.depth,
        "threads": args.threads,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "sentence-transformers": sentence_transformers.__version__,
        },
    }
    done = {(row["set"], row["split"]) for row in report["rows"]}
    model = SentenceTransformer(str(args.model), device="cpu", model_kwargs={"dtype": torch.float32})
    model.max_seq_length = args.max_seq_length

    for entry in args.sets:
        name, split = entry.split(":")
        if (name, split) in done:
            continue
        row = measure(model, args.data, name, split, args)
        report["rows"].append(row)
        args.out.write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
