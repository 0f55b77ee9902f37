"""Pre-training with `trawl train` beside the published PyTorch code of each method, in rounds that take turns.

    python benches/peers/pretrain.py REPOSITORIES --start start --corpus corpus.jsonl.gz --trawl target/release/trawl

REPOSITORIES is what `docs/reference/pretraining_golden.py` reads: the published repositories at the commits that
`published_pretraining.py` names; what transformers 5 lacks is put around them as there. `--start` is a folder of config.json
and tokenizer.json of a BERT. Both sides begin at random weights and read the first `--texts` texts of `--corpus`, at most 128
tokens of each, with trawl's default ratios of masks: RetroMAE, DupMAE and SimLM the beginning of a text, the others a window.

- `mlm` is transformers' BertForMaskedLM, its masks those of `published_pretraining.py`. Everything else, collators included,
  is the published code.
- `cot_mae` reads span pairs of `trawl data span-pairs`: a batch is of documents, which give two spans each.
- `master` reads MASTER's lines, here with made-up teacher text: five queries of eight tokens from the text, and the next text
  as its continuation.
- `sim_lm` has a frozen ELECTRA of two layers of width 128 as its generator, with random weights.

PyTorch runs in bf16 autocast with SDPA where transformers has the attention, dropout 0.1, fused AdamW with weight decay, a
linear schedule and clipping, trawl with the same in bf16. Texts are tokenized before the clock (SimLM's collator tokenizes its
own), masks are drawn inside it, ahead on a thread in trawl, in a worker process of a DataLoader in PyTorch. Some published
collators pad to 128 tokens always; trawl packs. Neither saves or evaluates in between.

Printed are medians over the rounds: tokens a second that the encoder reads, without padding, from the end of the third step on
(MASTER's encoder reads each text two and a half times), and the most memory that the process had resident, without the
DataLoader's worker.
"""

import argparse
import gzip
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from train import WARM_UP, compare, measured, optimizer_of, run

MAX_TOKENS = 128
LEARNING_RATE = 1e-4

CONFIG = """
[model]
path = {start}

[data]
batch_size = {batch}
corpus = {{ files = [{data}], format = "{format}" }}

[objective]
name = "{kind}"
dropout = 0.1
masks = {{ max_tokens = {max_tokens} }}
{more}

[optimizer]
learning_rate = {learning_rate}
weight_decay = 0.01

[schedule]
max_steps = {steps}

[run]
log_every = 1
save_every = "never"
evaluate_every = "never"
evaluate_first = false

[engine]
precision = "bf16"
threads = {threads}

[dev]
texts = 0
"""


def trawl(args, kind, folder):
    """Returns (tokens a second, most resident bytes) of one run of `trawl train`."""
    name, format = {"cot_mae": ("spans", "spans"), "master": ("master", "master")}.get(kind, ("corpus", "texts"))
    more = {"sim_lm": ("generator", "generator"), "master": ("dictionary", "frequency.json")}.get(kind)
    path = lambda name: json.dumps(str((args.work / name).resolve()))
    config = folder / "train.toml"
    config.write_text(CONFIG.format(
        start=json.dumps(str(args.start.resolve())), batch=args.batch, data=path(f"{name}.jsonl"), format=format,
        kind=kind, max_tokens=MAX_TOKENS, more=f"{more[0]} = {path(more[1])}" if more else "",
        learning_rate=LEARNING_RATE, steps=args.steps, threads=args.threads,
    ))
    return measured(args.trawl, config, folder / "run")


def worker(args, task):
    """Returns (most resident bytes, standard output) of this file as a worker."""
    command = [sys.executable, __file__, args.repositories, "--worker", task]
    for name in ("start", "corpus", "work", "texts", "batch", "steps", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    _, resident, out = run(command, env={**os.environ, "OMP_NUM_THREADS": str(args.threads)})
    return resident, out


def torch(args, kind):
    """Returns (tokens a second, most resident bytes) of one run in PyTorch."""
    resident, out = worker(args, kind)
    return float(out.split()[-1]), resident


# What both read


def prepare(args):
    """Writes the texts, their tokens, MASTER's lines and SimLM's generator."""
    import transformers

    lines, texts = gzip.open if args.corpus.suffix == ".gz" else open, []
    with lines(args.corpus, "rt") as file:
        for _, line in zip(range(args.texts), file):
            row = json.loads(line)
            texts.append(f"{row.get('title', '')} {row['text']}".strip())
    write(args.work / "corpus.jsonl", [{"_id": str(i), "text": text} for i, text in enumerate(texts)])

    tokenizer = tokenizer_of(args)
    tokens = tokenizer(texts, add_special_tokens=False)["input_ids"]
    write(args.work / "tokens.jsonl", tokens)
    draw, rows = random.Random(0), []
    for text, following in zip(tokens, tokens[1:] + tokens[:1]):
        starts = [draw.randrange(max(1, len(text) - 7)) for _ in range(5)]
        rows.append({"text": text, "queries": [text[i : i + 8] for i in starts], "next": [following]})
    write(args.work / "master.jsonl", rows)

    config = transformers.ElectraConfig(
        vocab_size=len(tokenizer), embedding_size=128, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=512,
    )
    transformers.ElectraForMaskedLM(config).save_pretrained(args.work / "generator")
    shutil.copy(args.start / "tokenizer.json", args.work / "generator")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def tokenizer_of(args):
    from published_pretraining import Tokenizer

    return Tokenizer.from_pretrained(args.start)


# The published code


def masked_lm(args):
    import transformers

    config = transformers.BertConfig.from_pretrained(
        args.start, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, attn_implementation="sdpa"
    )
    return transformers.BertForMaskedLM(config)


def texts_of(args):
    return read(args.work / "tokens.jsonl")


def mlm(args, published):
    import torch
    from published_pretraining import WholeWordCollator

    tokenizer = tokenizer_of(args)
    collator = WholeWordCollator(tokenizer, 0.15)
    model, draw = masked_lm(args), random.Random(0)
    pad = lambda rows, value: torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=value
    )

    def collate(texts):
        rows = []
        for text in texts:
            start = draw.randint(0, max(0, len(text) - (MAX_TOKENS - 2)))
            rows.append(tokenizer.build_inputs_with_special_tokens(text[start : start + MAX_TOKENS - 2]))
        hidden = [collator._whole_word_mask(tokenizer.convert_ids_to_tokens(row)) for row in rows]
        ids, labels = collator.torch_mask_tokens(pad(rows, tokenizer.pad_token_id), pad(hidden, 0))
        return {"input_ids": ids, "attention_mask": pad([[1] * len(row) for row in rows], 0), "labels": labels}

    return model, texts_of(args), collate, lambda batch: model(**batch).loss, ["attention_mask"]


def condenser(args, published):
    repository = published("luyug/Condenser")
    modeling = repository.load("modeling.py", "condenser.modeling")
    data = repository.load("data.py", "condenser.data")
    collator = data.CondenserCollator(tokenizer=tokenizer_of(args), mlm_probability=0.15, max_seq_length=MAX_TOKENS)
    settings = SimpleNamespace(n_head_layers=2, skip_from=2, late_mlm=False)
    model = modeling.CondenserForPretraining(masked_lm(args), settings, None, None)

    def loss(batch):
        labels = batch.pop("labels")
        return model(batch, labels)

    return model, [{"text": text} for text in texts_of(args)], collator, loss, ["attention_mask"]


def retro_mae(args, published, duplex=False):
    repository = published("staoxiao/RetroMAE")
    repository.load("src/pretrain/enhancedDecoder.py", "pretrain.enhancedDecoder")
    repository.load("src/pretrain/utils.py", "pretrain.utils")
    data = repository.load("src/pretrain/data.py", "pretrain.data")
    name = "modeling_duplex" if duplex else "modeling"
    modeling = repository.load(f"src/pretrain/{name}.py", f"pretrain.{name}")
    collator = (data.DupMAECollator if duplex else data.RetroMAECollator)(tokenizer=tokenizer_of(args))
    collator.max_seq_length, collator.encoder_mlm_probability, collator.decoder_mlm_probability = MAX_TOKENS, 0.3, 0.5
    method = modeling.DupMAEForPretraining if duplex else modeling.RetroMAEForPretraining
    model = method(masked_lm(args), SimpleNamespace(bow_loss_weight=0.1))
    examples = [{"token_ids": text} for text in texts_of(args)]
    return model, examples, collator, lambda batch: model(**batch)[0], ["encoder_attention_mask"]


def dup_mae(args, published):
    return retro_mae(args, published, duplex=True)


def cot_mae(args, published):
    repository = published("caskcsg/ir")
    modeling = repository.load("cotmae/modeling.py", "cotmae.modeling")
    data = repository.load("cotmae/data.py", "cotmae.data")
    collator = data.CotMAECollator(
        tokenizer=tokenizer_of(args), max_seq_length=MAX_TOKENS, encoder_mask_ratio=0.3, decoder_mask_ratio=0.45,
        data_type="mixed",
    )
    model = modeling.BertForCotMAE(masked_lm(args).config, n_head_layers=2, head_mlm_coef=1.0)
    spans = data.CotMAEDataset(read(args.work / "spans.jsonl"), None)
    return model, spans, collator, lambda batch: model(**batch).loss, ["attention_mask"]


def sim_lm(args, published):
    from published_pretraining import TupleLayer

    repository = published("microsoft/unilm")
    repository.load("simlm/src/utils.py", "utils")
    modeling = repository.load("simlm/src/models/rlm.py", "models.rlm")
    repository.load("simlm/src/collators/collator_utils.py", "collators.collator_utils")
    data = repository.load("simlm/src/collators/rlm_collator.py", "collators.rlm_collator")
    settings = SimpleNamespace(
        rlm_decoder_layers=2, rlm_freeze_generator=True, rlm_generator_mlm_weight=0.2, rlm_encoder_mask_prob=0.3,
        rlm_decoder_mask_prob=0.5, rlm_max_length=MAX_TOKENS, all_use_mask_token=True,
        rlm_generator_model_name=args.work / "generator",
    )
    model = modeling.ReplaceLM(settings, masked_lm(args))
    for layer in model.decoder:
        layer.__class__ = TupleLayer
    collator = data.DataCollatorForReplaceLM(tokenizer=tokenizer_of(args), args=settings)
    examples = [{"contents": row["text"]} for row in read(args.work / "corpus.jsonl")]
    return model, examples, collator, lambda batch: model(batch).loss, ["enc_attention_mask"]


def master(args, published):
    repository = published("microsoft/SimXNS")
    modeling = repository.load("MASTER/pretrain/modeling.py", "master.modeling")
    end = ("[102]", "[self.tokenizer.sep_token_id]")
    data = repository.load("MASTER/pretrain/data.py", "master.data", [end])
    collator = data.CondenserCollator(
        tokenizer=tokenizer_of(args), mlm_probability=0.3, max_seq_length=MAX_TOKENS, decoder_mlm_probability=0.5,
        frequency_dict=json.loads((args.work / "frequency.json").read_text()),
    )
    model = modeling.CondenserForPretraining(masked_lm(args), SimpleNamespace(n_head_layers=2), None, None)
    passes = ["attention_mask", "next_encoder_attention_mask", "attention_mask"]
    return model, read(args.work / "master.jsonl"), collator, lambda batch: model(batch, batch["labels"]), passes


METHODS = [mlm, condenser, cot_mae, retro_mae, dup_mae, sim_lm, master]


def work(args, kind):
    """Trains in PyTorch and prints tokens a second."""
    import torch
    from published_pretraining import Published, put_back_what_transformers_lacks

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    put_back_what_transformers_lacks()
    method = next(method for method in METHODS if method.__name__ == kind)
    model, examples, collator, loss_of, passes = method(args, lambda name: Published(args.repositories, name))
    model.train()
    optimizer, schedule = optimizer_of(model, LEARNING_RATE, args.steps)
    order = [i for seed in range(args.steps * args.batch // len(examples) + 1)
             for i in random.Random(seed).sample(range(len(examples)), len(examples))]
    # Forked, for no other process can load the published modules by name.
    loader = torch.utils.data.DataLoader(
        examples, args.batch, sampler=order[: args.steps * args.batch], collate_fn=collator, num_workers=1,
        multiprocessing_context="fork",
    )
    n_tokens, start = 0, None
    for step, batch in enumerate(loader):
        n_tokens += sum(int(batch[mask].sum()) for mask in passes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(batch)
        assert loss.isfinite(), f"step {step}: the loss is {loss.item()}"
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step + 1 == WARM_UP:
            n_tokens, start = 0, time.perf_counter()
    print(n_tokens / (time.perf_counter() - start))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repositories", type=Path)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--trawl", type=Path, default=Path("target/release/trawl"))
    parser.add_argument("--kinds", default=",".join(method.__name__ for method in METHODS))
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "reference"))
        return prepare(args) if args.worker == "prepare" else work(args, args.worker)
    with tempfile.TemporaryDirectory() as folder:
        args.work = Path(folder)
        worker(args, "prepare")
        data = [args.trawl, "--quiet", "data"]
        tokenizer, of = ["--tokenizer", args.start], lambda name: ["--out", args.work / name]
        run([*data, "span-pairs", args.work / "corpus.jsonl", *tokenizer, *of("spans.jsonl")])
        run([*data, "frequency-dictionary", args.work / "master.jsonl", *tokenizer, *of("frequency.json")])
        print(f"load at the start: {os.getloadavg()[0]:.2f}; {args.batch} texts, {args.steps} steps, "
              f"{args.threads} threads, {args.rounds} rounds\n")
        compare(args.kinds.split(","), args.rounds, lambda kind, folder: trawl(args, kind, folder), lambda kind: torch(args, kind))


if __name__ == "__main__":
    main()
