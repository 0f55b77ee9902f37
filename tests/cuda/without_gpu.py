#!/usr/bin/env python3
"""What trawl says and does where it was built for CUDA and there is none: `without_gpu.py TRAWL`."""

import ctypes
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

PROBLEM = "CUDA is not available: NVIDIA's driver (libcuda) is not found"


def run(*arguments: str, expected: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([TRAWL, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == expected, (arguments, done.returncode, done.stdout, done.stderr)
    return done


TRAWL = sys.argv[1]
if any(os.path.exists(f"/dev/{name}") for name in ("nvidia0", "nvidiactl")):
    print("there is a GPU: nothing to try")
    sys.exit()
for name in ("libcuda.so", "libcuda.so.1"):
    try:
        ctypes.CDLL(name)
    except OSError:
        continue
    print(f"there is no GPU, but its driver ({name}): nothing to try")
    sys.exit()

found = json.loads(run("doctor", "--json").stdout)["cuda"]
assert found == {"problem": PROBLEM}, found
assert PROBLEM in run("doctor").stdout

with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    vectors, ids = folder / "vectors.fvecs", folder / "ids.txt"
    corpus, collection = folder / "corpus.jsonl", folder / "docs"
    with vectors.open("wb") as file:
        for i in range(3):
            file.write((2).to_bytes(4, "little"))
            file.write(struct.pack("<2f", 1.0, i))
    ids.write_text("a\nb\nc\n")
    corpus.write_text("".join(json.dumps({"_id": id, "text": f"text {id}"}) + "\n" for id in "abc"))
    built = ["--metric", "cosine", "--corpus", str(corpus), "--vectors", str(vectors), "--ids", str(ids), "--collection", str(collection)]
    run("index", "build", *built)
    search = ["search", str(collection), "--vectors", str(vectors), "--ids", str(ids), "--run-out"]
    answers = {}
    for device in ("cpu", "auto"):
        answers[device] = folder / f"{device}.trec"
        done = run(*search, str(answers[device]), "--device", device)
        assert (f"{PROBLEM}; the CPU computes" in done.stderr) == (device == "auto"), done.stderr
    assert answers["cpu"].read_text() == answers["auto"].read_text() != ""

    done = run(*search, str(folder / "cuda.trec"), "--device", "cuda:0", expected=1)
    assert PROBLEM in done.stderr and "--device cpu" in done.stderr, done.stderr
    assert not (folder / "cuda.trec").exists()
    done = run(*search, str(folder / "gpu.trec"), "--device", "gpu", expected=2)
    assert "`gpu` is none of" in done.stderr, done.stderr
    done = run("serve", str(collection), "--device", "cuda:0", expected=1)
    assert PROBLEM in done.stderr, done.stderr
    config = folder / "train.toml"
    config.write_text('[model]\npath = "tests/fixtures/models/tiny-bert"\n[data]\n[objective]\nname = "bi_encoder"\n')
    done = run("train", str(config), "--device", "cuda:0", expected=1)
    assert PROBLEM in done.stderr and "--device cpu" in done.stderr, done.stderr
    # A server takes what is there unless it is told otherwise.
    server = subprocess.Popen(
        [TRAWL, "serve", str(collection), "--bind", "127.0.0.1:0", "--rerank", "none"], stderr=subprocess.PIPE, text=True
    )
    lines = []
    for line in server.stderr:
        lines.append(line)
        if "127.0.0.1:" in line:
            break
    server.terminate()
    assert server.wait(timeout=300) == 0, lines
    assert any(f"{PROBLEM}; the CPU computes" in line for line in lines), lines
print("without a GPU: ok")
