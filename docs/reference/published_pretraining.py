"""The published code of pre-training methods, run as it is under transformers 5; read by `pretraining_golden.py`.

The repositories were written for transformers 4. What is gone or changed since stands here, in our own words, and is put
around their files when these are loaded.
"""

import hashlib
import logging
import random
import sys
import types
from dataclasses import dataclass

import torch
import transformers
from transformers.models.bert import modeling_bert

COMMITS = {
    "staoxiao/RetroMAE": "ee375876a5e571617e37dd43450decc7865e2a07",
    "caskcsg/ir": "94ed5dc68dec8737a3f8d4427d7bee054699fa36",
    "microsoft/unilm": "768a3c873f598bb9b4d4dfb9267b099e35f8fe56",
    "luyug/Condenser": "74880ab8d230c5bb4a4b363d50856b9bd711d38d",
    "microsoft/SimXNS": "0163380c69533be0112142ee6ba25f43bc9246bc",
}
PATCHES = {
    "mask": "get_extended_attention_mask, gone from transformers 5, is the driver's: the least finite number where hidden",
    "layer": "BertLayer gives its states in a tuple, as in transformers 4",
    "moved": "apply_chunking_to_forward and the pruning helpers, moved or gone, stand in transformers.modeling_utils again",
    "collator": "the base class DataCollatorForWholeWordMask is the driver's, with the masks of transformers 4",
    "tokenizer": "encode_plus, build_inputs_with_special_tokens and _pad_token, gone from tokenizers, are the driver's",
    "settings": "the modules of command-line settings, logging and trainer are empty; settings are plain objects",
    "sampling": "Categorical(logits).sample() gives fixed ids",
    "sep": "the literal 102 behind each query is the tokenizer's [SEP]",
}
IGNORED = -100


def extended_attention_mask(model, mask, _shape=None, _device=None):
    mask = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None, :, :]
    return (1.0 - mask.to(model.dtype)) * torch.finfo(model.dtype).min


class TupleLayer(modeling_bert.BertLayer):
    def forward(self, *args, **settings):
        return (super().forward(*args, **settings),)


class Tokenizer(transformers.BertTokenizer):
    @property
    def _pad_token(self):
        return self.pad_token

    def build_inputs_with_special_tokens(self, ids):
        return [self.cls_token_id, *ids, self.sep_token_id]

    def encode_plus(self, ids, max_length, **_):
        ids = self.build_inputs_with_special_tokens(ids)
        padding = [0] * (max_length - len(ids))
        return {"input_ids": ids + [self.pad_token_id] * len(padding), "attention_mask": [1] * len(ids) + padding}


@dataclass
class WholeWordCollator:
    """Whole-word masks with 80/10/10 corruption."""

    tokenizer: object = None
    mlm_probability: float = 0.15

    def __post_init__(self):
        pass

    def _whole_word_mask(self, tokens):
        words = []
        for position, token in enumerate(tokens):
            if token in ("[CLS]", "[SEP]"):
                continue
            if token.startswith("##") and words:
                words[-1].append(position)
            else:
                words.append([position])
        random.shuffle(words)
        most, hidden = max(1, round(len(tokens) * self.mlm_probability)), set()
        for word in words:
            if len(hidden) + len(word) <= most:
                hidden.update(word)
        return [int(position in hidden) for position in range(len(tokens))]

    def torch_mask_tokens(self, ids, mask):
        special = torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids))
        hidden = mask.bool() & ~special
        labels = ids.masked_fill(~hidden, IGNORED)
        draw = torch.rand(ids.shape)
        others = torch.randint(len(self.tokenizer), ids.shape)
        ids = ids.masked_fill(hidden & (draw < 0.8), self.tokenizer.mask_token_id)
        return torch.where(hidden & (draw >= 0.9), others, ids), labels

    mask_tokens = torch_mask_tokens


def put_back_what_transformers_lacks():
    transformers.BertForMaskedLM.get_extended_attention_mask = extended_attention_mask
    for name in "apply_chunking_to_forward", "prune_linear_layer":
        setattr(transformers.modeling_utils, name, getattr(transformers.pytorch_utils, name))
    transformers.modeling_utils.find_pruneable_heads_and_indices = None
    sys.modules["transformers"].DataCollatorForWholeWordMask = WholeWordCollator
    settings = {
        "pretrain.arguments": ["ModelArguments"],
        "arguments": ["DataTrainingArguments", "ModelArguments", "CoCondenserPreTrainingArguments"],
        "config": ["Arguments"],
        "logger_config": [],
        "trainers.rlm_trainer": ["ReplaceLMTrainer"],
    }
    for name, members in settings.items():
        module = types.ModuleType(name)
        module.logger = logging.getLogger(name)
        for member in members:
            setattr(module, member, object)
        sys.modules[name] = module
        if "." in name:
            sys.modules.setdefault(name.split(".")[0], types.ModuleType(name.split(".")[0]))


class Published:
    """The exported files of a repository."""

    def __init__(self, repositories, repository):
        self.repository, self.files = repository, {}
        self.folder = repositories / repository.split("/")[1]

    def load(self, path, name, replaced=()):
        """Runs a file as module `name`, with (old, new) pieces of text replaced."""
        data = (self.folder / path).read_bytes()
        self.files[path] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        text = data.decode()
        for old, new in replaced:
            assert text.count(old) == 1, f"{path}: `{old}` stands there {text.count(old)} times"
            text = text.replace(old, new)
        module = types.ModuleType(name)
        module.__package__ = name.rpartition(".")[0]
        sys.modules[name] = module
        if module.__package__:
            sys.modules.setdefault(module.__package__, types.ModuleType(module.__package__))
        # Only the published code gets the layer that gives a tuple.
        layer, modeling_bert.BertLayer = modeling_bert.BertLayer, TupleLayer
        try:
            exec(compile(text, path, "exec"), module.__dict__)
        finally:
            modeling_bert.BertLayer = layer
        return module
