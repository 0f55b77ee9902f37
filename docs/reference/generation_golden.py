#!/usr/bin/env python3
"""Makes the tiny checkpoints that write text, and their golden files.

    python3 generation_golden.py --models tests/fixtures/models --out tests/golden/generation

`tiny-doc2query` is a T5 of version 1.1 with a head of its own, `tiny-gpt2` a GPT-2; both have weights drawn from a fixed
seed, wide enough that leaving out any one of them moves the scores far beyond the tolerance. The golden files are of these
and of `tiny-t5-relu` (version 1.0, whose head is the table of tokens). For each prompt: the tokens that transformers'
`generate` takes greedily, and the scores of all tokens behind some of a sequence of random ones, which was forced.
"""

import argparse
import json
import platform
import sys
from pathlib import Path

import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/golden/encoder"))
from make_tiny import TRAINING_TEXTS, draw_weights, t5_config, t5_tokenizer  # noqa: E402

N_WRITTEN = 40
STEPS = [0, 7, 20, 39]  # T5's buckets are wider than one token from a distance of 16 on
TOLERANCE = {"max_abs": 1e-4, "reason": "f32 sums in another order; a wrong position or weight moves scores by 1e-2"}


def gpt2_tokenizer():
    """Returns a byte-level BPE tokenizer without special tokens around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_TEXTS, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def write_doc2query(target):
    """Saves a T5 whose head is not its table of tokens, as version 1.1 has it."""
    tokenizer = t5_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.Metaspace()
    config = t5_config(d_kv=12, num_layers=2, num_decoder_layers=2, tie_word_embeddings=False, decoder_start_token_id=0)
    model = transformers.T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    draw_weights(model, 51)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("Attention.q.weight"):
                parameter *= 0.2  # so wide, one key would take all, and f32 tell it from another by chance
        model.lm_head.weight[1] *= 3  # some texts end before they must
    tensors = {name: value for name, value in model.state_dict().items() if "embed_tokens" not in name}
    target.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, target / "model.safetensors")
    # As checkpoints of version 1.1 say it; newer files of transformers say `scale_decoder_outputs`.
    described = config.to_diff_dict() | {"tie_word_embeddings": False, "architectures": ["T5ForConditionalGeneration"]}
    described.pop("scale_decoder_outputs", None)
    (target / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(target)
    return model


def write_gpt2(target):
    tokenizer = gpt2_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = draw_weights(transformers.GPT2LMHeadModel(config), 52)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".ln_" in name or "ln_f" in name:  # `draw_weights` tells normalizations by "norm"
                parameter.add_(1.0 if name.endswith("weight") else 0.0)
        model.transformer.wte.weight[0] *= 1.3  # some texts end before they must
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return model


def golden(model, out):
    """Writes what a model takes greedily and what it gives for forced tokens."""
    model = model.eval()
    model.config._attn_implementation = "eager"
    generator = torch.Generator().manual_seed(61)
    is_t5 = model.config.is_encoder_decoder
    n_vocabulary, cases = model.config.vocab_size, []
    for length in (1, 5, 17, 80):
        draw = lambda n: torch.randint(3, n_vocabulary, (n,), generator=generator).tolist()
        prompt, forced = draw(length), draw(N_WRITTEN)
        ids = torch.tensor([prompt])
        options = {"do_sample": False, "max_new_tokens": N_WRITTEN, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            greedy = model.generate(ids, pad_token_id=0, **options)[0].tolist()
            if is_t5:
                start = model.generation_config.decoder_start_token_id or 0
                written = model(input_ids=ids, decoder_input_ids=torch.tensor([[start, *forced[:-1]]])).logits[0]
                greedy = greedy[1:]
            else:
                written = model(torch.tensor([prompt + forced[:-1]])).logits[0, length - 1 :]
                greedy = greedy[length:]
        end = model.config.eos_token_id
        ended = end in greedy
        greedy = greedy[: greedy.index(end)] if ended else greedy
        scores = [[round(x, 6) for x in written[step].tolist()] for step in STEPS] if length in (5, 80) else []
        cases.append({"prompt": prompt, "greedy": greedy, "ended": ended, "forced": forced, "scores": scores})
        print(f"{out.parent.name}: {length} tokens, {len(greedy)} written, ended: {ended}")
    made_by = {
        "script": Path(__file__).name,
        "versions": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0],
                     "transformers": transformers.__version__},
    }  # fmt: skip
    head = {"format": 1, "made_by": made_by, "tolerance": TOLERANCE, "steps": STEPS}
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case) for case in cases)
    out.write_text(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    relu = transformers.T5ForConditionalGeneration.from_pretrained(args.models / "tiny-t5-relu")
    relu.generation_config.decoder_start_token_id = 0  # padding; its config.json does not say so
    written = {
        "tiny-doc2query": write_doc2query(args.models / "tiny-doc2query"),
        "tiny-gpt2": write_gpt2(args.models / "tiny-gpt2"),
        "tiny-t5-relu": relu,
    }
    for name in ("tiny-doc2query", "tiny-gpt2"):
        (args.models / name / "model.safetensors").chmod(0o644)
    for name, model in written.items():
        golden(model, args.out / name / "golden.json")


if __name__ == "__main__":
    main()
