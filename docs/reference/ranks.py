"""What ranks cost: a training step of one process with two threads, of two ranks over TCP, and of two over MPI, in turns.

    unshare --net python docs/reference/ranks.py TRAWL MODEL DATASET alone tcp mpi

Medians over the steps of all rounds; processor seconds are those of both ranks, with all that comes before the first step taken
off; bytes are those of the loopback interface, which has no other traffic in a network of its own. MPI needs a build with `--features mpi`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = """
[model]
path = "{model}"

[data]
batch_size = {batch}
group_size = 1

[[data.train]]
dataset = "{dataset}"
split = "test"

[objective]
name = "bi_encoder"

[schedule]
max_steps = {steps}

[run]
evaluate_every = "never"
save_every = "never"

[engine]
threads = {threads}
"""
BATCH, ROUNDS, STEPS, SKIPPED = 32, 3, 7, 1


def loopback_bytes():
    [line] = [line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")]
    return int(line.split()[1])


def run(trawl, folder, kind, steps, **options):
    """Seconds of each step, processor seconds, bytes."""
    config, out = folder / "train.toml", folder / f"run-{time.monotonic_ns()}"
    config.write_text(CONFIG.format(steps=steps, threads=2 if kind == "alone" else 1, **options))
    command = [trawl, "--quiet", "train", str(config), "--out", str(out)]
    variables = [{}]
    if kind == "tcp":
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"}
        variables = [shared | {"RANK": str(rank)} for rank in range(2)]
    if kind == "mpi":
        command = ["mpirun", "--allow-run-as-root", "-np", "2", "--bind-to", "core", *command, "--mpi"]
    n_bytes, before = loopback_bytes(), os.times()
    processes = [subprocess.Popen(command, env=os.environ | own, stdout=subprocess.DEVNULL) for own in variables]
    assert not any([process.wait() for process in processes]), kind
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    log = [line for line in lines if line["kind"] == "train"]
    tokens = [later["n_tokens"] - line["n_tokens"] for line, later in zip(log, log[1:], strict=False)]
    seconds = [n / line["tokens_per_s"] for n, line in zip(tokens, log[1:], strict=True)]
    return seconds[SKIPPED:], spent, loopback_bytes() - n_bytes


def main():
    trawl, model, dataset, *kinds = sys.argv[1:]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    with tempfile.TemporaryDirectory() as folder:
        options = {"model": model, "dataset": dataset, "batch": BATCH}
        found = {kind: ([], [], []) for kind in kinds}
        for _ in range(ROUNDS):
            for kind in kinds:
                _, spent, n_bytes = run(trawl, Path(folder), kind, 1, **options)
                seconds, all_spent, all_bytes = run(trawl, Path(folder), kind, STEPS, **options)
                found[kind][0].extend(seconds)
                found[kind][1].append((all_spent - spent) / (STEPS - 1))
                found[kind][2].append((all_bytes - n_bytes) / (STEPS - 1))
        for kind, (seconds, spent, n_bytes) in found.items():
            print(f"{kind}: {1 / statistics.median(seconds):.2f} steps/s, "
                  f"{statistics.median(spent):.2f} processor seconds and {statistics.median(n_bytes) / 1e6:.1f} MB a step", flush=True)


if __name__ == "__main__":
    main()
