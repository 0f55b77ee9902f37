"""Training runs of `trawl train` beside the same training in PyTorch, in rounds that take turns.

    python benches/peers/train.py --model models/all-MiniLM-L6-v2 --trawl target/release/trawl --data train.jsonl

`--data` is a file of trawl's lines with negatives, as `trawl mine` writes it. Both read the same lines, tokenize each
batch, pad it to its longest text (trawl packs), and take every step with dropout 0.1, AdamW with weight decay, a linear
schedule and clipping, in bf16 (autocast in PyTorch, operands of matrix products in trawl). Neither saves or evaluates in
between. With `--device cuda:0` both compute on a GPU, trawl with a build that has CUDA. Printed are medians over the rounds:
tokens a second without padding, from the end of the third step on, and the most memory that the process had resident.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM_UP = 3  # steps

CONFIG = """
[model]
path = {model}

[data]
batch_size = {batch}
group_size = {group}
sampling = "first"

[[data.train]]
files = [{data}]

[objective]
{objective}
dropout = 0.1

[optimizer]
learning_rate = 2e-5
weight_decay = 0.01

[schedule]
max_steps = {steps}

[run]
log_every = 1
save_every = "never"
evaluate_every = "never"

[engine]
precision = "bf16"
threads = {threads}
"""

OBJECTIVES = {
    "bi_encoder": 'name = "bi_encoder"\nquery_tokens = 32\npassage_tokens = 128\npooling = "mean"\nnormalize = true',
    "cross_encoder": 'name = "cross_encoder"\nmax_tokens = 192',
}


def run(command, **options):
    """Returns (seconds, most resident bytes, standard output) of a process that must succeed."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, **options)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"`{' '.join(map(str, command))}` ended with {process.returncode}")
        out.seek(0)
        return time.perf_counter() - start, usage.ru_maxrss * 1024, out.read().decode()


def trawl(args, kind, folder):
    """Returns (tokens a second, most resident bytes) of one run of `trawl train`."""
    config = folder / "train.toml"
    config.write_text(CONFIG.format(
        model=json.dumps(str(args.model.resolve())), data=json.dumps(str(args.data.resolve())), batch=args.batch,
        group=args.group, objective=OBJECTIVES[kind], steps=args.steps, threads=args.threads,
    ))
    return measured(args.trawl, config, folder / "run", "--device", args.device)


def measured(binary, config, out, *options):
    """Returns (tokens a second, most resident bytes) of `trawl train` with a configuration, behind the first steps."""
    _, resident, _ = run([binary, "--quiet", "train", config, "--out", out, *options])
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [step for step in steps if step["kind"] == "train"]
    before = [0] + [step["n_tokens"] for step in steps]
    tokens = [step["n_tokens"] - total for step, total in zip(steps, before)][WARM_UP:]
    seconds = sum(n / step["tokens_per_s"] for n, step in zip(tokens, steps[WARM_UP:]))
    return sum(tokens) / seconds, resident


def torch(args, kind):
    """Returns (tokens a second, most resident bytes) of one run of this file as a worker."""
    command = [sys.executable, __file__, "--worker", kind]
    for name in ("model", "data", "batch", "group", "steps", "threads", "device"):
        command += [f"--{name}", str(getattr(args, name))]
    _, resident, out = run(command, env={**os.environ, "OMP_NUM_THREADS": str(args.threads)})
    return float(out.split()[-1]), resident


def optimizer_of(model, learning_rate, n_steps):
    """Returns AdamW over what is trained, and its schedule."""
    import torch
    import transformers

    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    decays = lambda name: not (name.endswith(".bias") or "LayerNorm" in name)
    optimizer = torch.optim.AdamW([
        {"params": [value for name, value in named if decays(name)], "weight_decay": 0.01},
        {"params": [value for name, value in named if not decays(name)], "weight_decay": 0.0},
    ], lr=learning_rate, fused=True)
    return optimizer, transformers.get_linear_schedule_with_warmup(optimizer, n_steps // 10, n_steps)


def work(args, kind):
    """Trains in PyTorch and prints tokens a second."""
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    is_pair = kind == "cross_encoder"
    if is_pair:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=1)
    else:
        model = transformers.AutoModel.from_pretrained(args.model, add_pooling_layer=False)
    model.to(args.device).train()
    optimizer, schedule = optimizer_of(model, 2e-5, args.steps)

    examples = [json.loads(line) for line in args.data.read_text().splitlines()]
    examples = [example for example in examples if len(example["negatives"]) >= args.group - 1]
    random.Random(0).shuffle(examples)

    def embed(texts, length):
        batch = tokenizer(texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
        n_tokens = int(batch["attention_mask"].sum())  # nobody waits for a device
        batch = batch.to(args.device)
        mask = batch["attention_mask"]
        hidden = model(**batch).last_hidden_state.float()
        mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=-1), n_tokens

    n_tokens, start = 0, None
    for step in range(args.steps):
        if step == WARM_UP:
            if args.device != "cpu":
                torch.cuda.synchronize()
            n_tokens, start = 0, time.perf_counter()
        batch = [examples[(step * args.batch + row) % len(examples)] for row in range(args.batch)]
        queries = [example["query"] for example in batch]
        groups = [example["positives"][:1] + example["negatives"][:args.group - 1] for example in batch]
        passages = [passage["text"] for group in groups for passage in group]
        with torch.autocast(args.device.split(":")[0], dtype=torch.bfloat16):
            if is_pair:
                repeated = [query for query in queries for _ in range(args.group)]
                inputs = tokenizer(repeated, passages, truncation=True, max_length=192, padding=True, return_tensors="pt")
                n_tokens += int(inputs["attention_mask"].sum())
                inputs = inputs.to(args.device)
                scores = model(**inputs).logits.float().view(args.batch, args.group)
                targets = torch.zeros(args.batch, dtype=torch.long, device=args.device)
            else:
                (q, n_query), (p, n_passage) = embed(queries, 32), embed(passages, 128)
                n_tokens += n_query + n_passage
                scores = q @ p.T / 0.05
                targets = torch.arange(args.batch, device=args.device) * args.group
            loss = torch.nn.functional.cross_entropy(scores, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    loss.item()  # waits for a device
    print(n_tokens / (time.perf_counter() - start))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trawl", type=Path, default=Path("target/release/trawl"))
    parser.add_argument("--kinds", default="bi_encoder,cross_encoder")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:0")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args, args.worker)
    print(f"load at the start: {os.getloadavg()[0]:.2f}; {args.batch} x {args.group}, {args.steps} steps, "
          f"{args.threads} threads, {args.rounds} rounds\n")
    compare(args.kinds.split(","), args.rounds, lambda kind, folder: trawl(args, kind, folder), lambda kind: torch(args, kind))


def compare(kinds, n_rounds, trawl, torch):
    """Prints a line for each kind: medians over rounds of `trawl(kind, folder)` and `torch(kind)`, which take turns."""
    print("| objective | trawl, tokens/s | PyTorch, tokens/s | ratio | trawl, MiB | PyTorch, MiB |\n|---|---|---|---|---|---|")
    for kind in kinds:
        rounds = {"trawl": [], "torch": []}
        for _ in range(n_rounds):
            with tempfile.TemporaryDirectory() as folder:
                rounds["trawl"].append(trawl(kind, Path(folder)))
            rounds["torch"].append(torch(kind))
        speed = {name: statistics.median(one[0] for one in found) for name, found in rounds.items()}
        memory = {name: statistics.median(one[1] for one in found) / 2**20 for name, found in rounds.items()}
        print(f"| {kind} | {speed['trawl']:,.0f} | {speed['torch']:,.0f} | {speed['trawl'] / speed['torch']:.2f} "
              f"| {memory['trawl']:,.0f} | {memory['torch']:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
