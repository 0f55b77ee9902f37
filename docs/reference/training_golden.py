#!/usr/bin/env python3
"""Makes the golden files of training: what PyTorch computes for a few steps of a tiny checkpoint.

    python3 training_golden.py --models tests/fixtures/models --out tests/golden/training

For each checkpoint: three steps of AdamW (weight decay 0.01 for matrices, none for biases and normalizations) on an
InfoNCE loss over normalized vectors of four queries and eight passages, in f32 and without dropout: means of token
vectors, or with T5 that of the decoder's first token. Each
step has other texts, so that rows of the token table wait while others move. Written are `steps.json`, with the losses
and the texts, and `tensors.safetensors`, with `gradient.NAME` of the first step and `after.NAME` after the third.
"""

import argparse
import json
import platform
from pathlib import Path

import safetensors.torch
import torch
import transformers

MODELS = {
    "tiny-bert": transformers.AutoModel,
    "tiny-mpnet": transformers.AutoModel,
    "tiny-t5": transformers.T5EncoderModel,
    "tiny-t5-relu": transformers.T5Model,
    "tiny-t5-gated": transformers.T5Model,
}
SETTINGS = {"learning_rate": 1e-3, "weight_decay": 0.01, "temperature": 0.05}


def make_texts(step, vocabulary, longest):
    """Returns (queries, passages) of a step as lists of ids: no padding id, lengths from 1 to `longest`."""
    generator = torch.Generator().manual_seed(100 + step)

    def text(length):
        return torch.randint(5, vocabulary, (length,), generator=generator).tolist()

    return [text(n) for n in (1, 5, 9, 3)], [text(n) for n in (longest, 7, 12, 33, 2, 21, 18, 30)]


def embed(model, texts, padding_id):
    """Returns normalized means of token vectors, or the decoder's vectors of the padding token."""
    length = max(len(text) for text in texts)
    ids = torch.tensor([text + [padding_id] * (length - len(text)) for text in texts])
    mask = torch.tensor([[1.0] * len(text) + [0.0] * (length - len(text)) for text in texts])
    if isinstance(model, transformers.T5Model):
        start = torch.zeros(len(texts), 1, dtype=torch.long)
        pooled = model(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=start).last_hidden_state[:, 0]
    else:
        hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    return pooled / pooled.square().sum(1, keepdim=True).sqrt()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, model_class in MODELS.items():
        is_t5 = model_class is not transformers.AutoModel
        options = {} if is_t5 else {"add_pooling_layer": False}
        model = model_class.from_pretrained(args.models / name, attn_implementation="eager", **options)
        model.eval()  # no dropout
        named = dict(model.named_parameters())
        decays = lambda n: not any(part in n for part in (["bias", "layer_norm"] if is_t5 else [".bias", "LayerNorm"]))
        plain = [p for n, p in named.items() if not decays(n)]
        others = [p for n, p in named.items() if decays(n)]
        optimizer = torch.optim.AdamW(
            [{"params": others}, {"params": plain, "weight_decay": 0.0}],
            lr=SETTINGS["learning_rate"],
            weight_decay=SETTINGS["weight_decay"],
        )
        steps, tensors = [], {}
        for step in range(3):
            queries, passages = make_texts(step, model.config.vocab_size, 150 if is_t5 else 40)
            padding_id = model.config.pad_token_id
            scores = embed(model, queries, padding_id) @ embed(model, passages, padding_id).T / SETTINGS["temperature"]
            loss = torch.nn.functional.cross_entropy(scores, torch.arange(len(queries)) * 2)
            optimizer.zero_grad()
            loss.backward()
            steps.append({"loss": loss.item(), "queries": queries, "passages": passages})
            if step == 0:
                tensors |= {f"gradient.{n}": p.grad.clone() for n, p in named.items() if p.grad is not None}
            optimizer.step()
        tensors |= {f"after.{n}": p.detach().clone() for n, p in named.items()}
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(tensors, folder / "tensors.safetensors")
        versions = {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}
        record = {"made_by": {"script": "training_golden.py", **versions}, "settings": SETTINGS, "steps": steps}
        (folder / "steps.json").write_text(json.dumps(record) + "\n")
        print(name, [step["loss"] for step in steps])


if __name__ == "__main__":
    main()
