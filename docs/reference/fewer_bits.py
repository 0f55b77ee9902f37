#!/usr/bin/env python3
"""What 8-bit operands cost a vector: cosine to 32-bit floats when the linear layers of a BERT encoder round what they multiply.

    python docs/reference/fewer_bits.py models/all-MiniLM-L6-v2 passages.jsonl

Operands are rounded as the engine's `int8` does, symmetrically with a scale for each row (or column) and slab of k, and multiplied in
f32, so that only the rounding shows. The columns of k with the greatest activations can be left out of it: the texts measured here choose them,
which is the best case. Needs torch and transformers.
"""

import argparse
import json
import math

import torch
from transformers import AutoModel, AutoTokenizer


def rounded(x, depth):
    """Multiples of a scale of each slab of at most `depth` of the last dimension, between -127 and 127."""
    k = x.shape[-1]
    each = math.ceil(k / math.ceil(k / depth) / 16) * 16
    slabs = []
    for slab in x.split(each, dim=-1):
        scale = slab.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
        slabs.append((slab / scale).round() * scale)
    return torch.cat(slabs, -1)


def spared(x, depth, columns):
    """`rounded`, but for some columns, which keep their values."""
    rest = x.clone()
    rest[..., columns] = 0
    rest = rounded(rest, depth)
    rest[..., columns] = x[..., columns]
    return rest


class Encoder:
    def __init__(self, model, texts):
        tokenizer = AutoTokenizer.from_pretrained(model)
        self.inputs = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        self.model = AutoModel.from_pretrained(model).eval()
        self.linear = {name: layer for name, layer in self.model.named_modules() if isinstance(layer, torch.nn.Linear) and "pooler" not in name}
        self.weights = {name: layer.weight.data.clone() for name, layer in self.linear.items()}
        self.greatest = {}

        def note(name):
            return lambda layer, inputs, output: self.greatest.update({name: inputs[0].flatten(0, -2).abs().amax(0)})

        self.exact = self.vectors({name: layer.register_forward_hook(note(name)) for name, layer in self.linear.items()})

    @torch.no_grad()
    def vectors(self, hooks):
        mask = self.inputs["attention_mask"].unsqueeze(-1)
        vectors = (self.model(**self.inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
        for hook in hooks.values():
            hook.remove()
        return torch.nn.functional.normalize(vectors, dim=1)

    def measure(self, title, activations=None, weights=None, share=0.0, which=""):
        """Prints the cosines where layers with `which` in their name round activations and weights in slabs of these depths."""
        hooks = {}
        for name, layer in self.linear.items():
            layer.weight.data = self.weights[name]
            if which not in name:
                continue
            columns = self.greatest[name].topk(int(share * self.greatest[name].numel())).indices
            if weights:
                layer.weight.data = spared(self.weights[name], weights, columns)
            if activations:
                hook = lambda _, inputs, columns=columns: (spared(inputs[0], activations, columns),)
                hooks[name] = layer.register_forward_pre_hook(hook)
        cosines = (self.vectors(hooks) * self.exact).sum(1)
        print(f"| {title} | {cosines.mean():.6f} | {cosines.min():.6f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="directory of a BERT encoder with mean pooling")
    parser.add_argument("texts", help="JSON lines with `text`; every 150th is read")
    parser.add_argument("--n-texts", type=int, default=24)
    args = parser.parse_args()
    with open(args.texts) as lines:
        texts = [json.loads(line)["text"] for line in list(lines)[::150][: args.n_texts]]
    encoder = Encoder(args.model, texts)
    print("| 8 bits of | cosine, mean | least |\n|---|---|---|")
    encoder.measure("both, slabs of 160", 160, 160)
    for depth in (160, 64, 32):
        encoder.measure(f"weights, slabs of {depth}", None, depth)
    encoder.measure("activations, slabs of 160", 160)
    for share in (1 / 12, 1 / 6, 1 / 4):
        encoder.measure(f"both, but for {share:.3f} of the columns", 160, 160, share)
    for which in ("attention.self", "attention.output", "intermediate", "output.dense"):
        encoder.measure(f"both, but for 1/6 of the columns, in `{which}` alone", 160, 160, 1 / 6, which)


if __name__ == "__main__":
    main()
