"""Checks an exported model: trawl and the Python libraries give equal vectors, or equal scores.

    python docs/reference/check_export.py --trawl target/release/trawl runs/first/export
    python docs/reference/check_export.py --trawl target/release/trawl --cross-encoder runs/reranker/export
    python docs/reference/check_export.py --trawl target/release/trawl --masked-lm runs/retromae/export

Loads the folder with sentence-transformers and its transformer with transformers (which must find every weight), encodes
the sample corpus and its queries, each with the prompt of its side, and compares with `trawl embed` (`trawl rerank` for
a cross-encoder). An export of pre-training is opened by `AutoModel` and `AutoModelForMaskedLM`, whose hidden states of
every token are compared with those that `trawl serve` gives. Exits with 1 where a value differs by more than the
tolerance.
Run with sentence-transformers 5, transformers 4.57 and 5.23, and torch 2.15; newer ones should do.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

SAMPLE = Path(__file__).resolve().parents[2] / "tests/fixtures/sample"


def sample(n):
    read = lambda name: [json.loads(line) for line in open(SAMPLE / name, encoding="utf-8")]
    passages = [(p["_id"], f"{p['title']} {p['text']}".strip()) for p in read("corpus.jsonl")[:n]]
    return [(q["_id"], q["text"]) for q in read("queries.jsonl")], passages


def load(loader, model, may_lack=(), may_have=()):
    """transformers itself loads the folder, and finds all weights that it needs and no others."""
    loaded, report = loader.from_pretrained(model, output_loading_info=True)
    missing = [name for name in report["missing_keys"] if not name.startswith(may_lack)]
    unexpected = [name for name in report["unexpected_keys"] if not name.startswith(may_have)]
    if missing or unexpected:
        sys.exit(f"{loader.__name__}: missing {missing}, unexpected {unexpected}")
    return loaded.eval()


def embed(trawl, model, texts, *flags):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    command = [trawl, "embed", "--quiet", "--model", str(model), "--jsonl", *flags]
    ours = subprocess.run(command, input=lines, capture_output=True, text=True, check=True).stdout
    return np.array([json.loads(line) for line in ours.splitlines()])


def check_bi_encoder(trawl, model, n):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    load(AutoModel, model, may_lack=("pooler.",))  # BERT's, which nothing reads
    reference = SentenceTransformer(str(model), device="cpu")
    queries, passages = sample(n)
    worst = 0.0
    for side, texts, flags in [("query", queries, ["--query"]), ("document", passages, [])]:
        texts = [text for _, text in texts]
        ours = embed(trawl, model, texts, *flags)
        theirs = reference.encode(texts, prompt_name=side, batch_size=16)
        difference = float(np.abs(ours - theirs).max())
        print(f"{side}: {len(texts)} texts, width {ours.shape[1]}, largest difference {difference:.2e}")
        worst = max(worst, difference)
    print(f"similarity {reference.similarity_fn_name}, prompts {reference.prompts}")
    return worst


def check_cross_encoder(trawl, model, n):
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification

    load(AutoModelForSequenceClassification, model)
    queries, passages = sample(n)
    queries = queries[:8]
    with tempfile.TemporaryDirectory() as folder:
        run, out = Path(folder, "run.trec"), Path(folder, "out.trec")
        lines = [f"{q} Q0 {p} {rank} {-rank} x\n" for q, _ in queries for rank, (p, _) in enumerate(passages, 1)]
        run.write_text("".join(lines))
        command = [trawl, "rerank", "--quiet", "--model", str(model), "--run", str(run), "--run-out", str(out)]
        command += ["--queries", str(SAMPLE / "queries.jsonl"), "--corpus", str(SAMPLE / "corpus.jsonl")]
        command += ["--depth", str(len(passages))]
        subprocess.run(command, check=True, capture_output=True)
        ours = {(f[0], f[2]): float(f[4]) for f in (line.split() for line in open(out))}
    reference = CrossEncoder(str(model), device="cpu")
    pairs = [((q, p), (query, passage)) for q, query in queries for p, passage in passages]
    theirs = reference.predict([texts for _, texts in pairs], batch_size=16)
    differences = [abs(ours[ids] - float(score)) for (ids, _), score in zip(pairs, theirs)]
    print(f"{len(pairs)} pairs, scores from {theirs.min():.3f} to {theirs.max():.3f}, largest difference {max(differences):.2e}")
    return max(differences)


def ask(request):
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if json.load(error).get("code") != "not_ready":
                raise
            time.sleep(0.1)


def token_vectors(trawl, model, texts, length):
    """The last layer's vectors of the tokens of each text, as a server of a small collection gives them."""
    flags = ["--pooling", "cls", "--normalize", "false", "--similarity", "inner_product", "--precision", "f32"]
    flags += ["--query-tokens", str(length), "--passage-tokens", str(length)]
    with tempfile.TemporaryDirectory() as folder:
        collection = str(Path(folder, "collection"))
        command = [trawl, "index", "build", "--model", str(model), "--collection", collection]
        command += ["--corpus", str(SAMPLE / "corpus.jsonl"), *flags]
        subprocess.run(command, check=True, capture_output=True)
        command = [trawl, "serve", collection, "--precision", "f32", "--rerank", "none", "--bind", "127.0.0.1:0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
            try:
                found = (re.search(r"serving on (\S+),", line) for line in server.stdout)
                address = next(match[1] for match in found if match)
                for text in texts:
                    body = json.dumps({"inputs": [text], "truncate": True}).encode()
                    request = urllib.request.Request(f"{address}/embed_all", body, {"content-type": "application/json"})
                    yield np.array(ask(request)[0])
            finally:
                server.terminate()


def check_masked_lm(trawl, model, n):
    import torch
    from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

    encoder = load(AutoModel, model, may_lack=("pooler.",), may_have=("cls.",))
    with_head = load(AutoModelForMaskedLM, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [text for _, text in sum(sample(n), [])]
    length = min(128, encoder.config.max_position_embeddings)
    worst, n_tokens = {"AutoModel": 0.0, "AutoModelForMaskedLM": 0.0}, 0
    for text, ours in zip(texts, token_vectors(trawl, model, texts, length), strict=True):
        tokens = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            states = {
                "AutoModel": encoder(**tokens).last_hidden_state[0],
                "AutoModelForMaskedLM": with_head(**tokens, output_hidden_states=True).hidden_states[-1][0],
            }
        for name, theirs in states.items():
            assert ours.shape == tuple(theirs.shape), (text, ours.shape, theirs.shape)
            worst[name] = max(worst[name], float(np.abs(ours - theirs.numpy()).max()))
        n_tokens += len(ours)
    for name, difference in worst.items():
        print(f"{name}: hidden states of {n_tokens} tokens of {len(texts)} texts, largest difference {difference:.2e}")
    return max(worst.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--trawl", default="trawl")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--cross-encoder", action="store_const", const=check_cross_encoder, dest="check")
    kind.add_argument("--masked-lm", action="store_const", const=check_masked_lm, dest="check")
    parser.add_argument("--texts", type=int, default=100, help="passages")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    arguments = parser.parse_args()
    check = arguments.check or check_bi_encoder
    worst = check(arguments.trawl, arguments.model, arguments.texts)
    if not worst <= arguments.tolerance:
        sys.exit(f"differs by {worst:.2e}, more than {arguments.tolerance:.0e}")


if __name__ == "__main__":
    main()
