#!/usr/bin/env python3
"""Makes the golden arrays of the pre-training objectives, by the published modelling and data code itself.

    OMP_NUM_THREADS=1 python3 pretraining_golden.py REPOSITORIES --model tests/fixtures/models/tiny-bert \\
        --corpus tests/fixtures/training/corpus.jsonl --out tests/golden/pretraining

Needs PyTorch 2.15, transformers 5.23, datasets (RetroMAE imports it) and safetensors. REPOSITORIES is a folder with these
folders of public GitHub repositories, each at the commit that `published_pretraining.py` names. None of their code is copied
into this project.

    RetroMAE/    staoxiao/RetroMAE: src/pretrain          (RetroMAE v1, DupMAE)
    ir/          caskcsg/ir: cotmae                       (CoT-MAE)
    unilm/       microsoft/unilm: simlm/src               (SimLM)
    Condenser/   luyug/Condenser                          (Condenser, coCondenser)
    SimXNS/      microsoft/SimXNS: MASTER/pretrain        (MASTER)

such as by `git -C CLONE archive COMMIT PATH | tar -x -C REPOSITORIES/NAME`. `case.json` records the blob id of each file
that ran. `mlm` is transformers' BertForMaskedLM; its masks are RetroMAE's.

The repositories were written for transformers 4. Their files are run as they are, and `published_pretraining.py` puts around
them what transformers 5 has removed or changed; what a case needed of that stands in its `made_by.patches`.

A case is one batch of texts of different lengths on the checkpoint of `--model`, with dropout 0, in f32:
- `case.json`: `inputs` (token ids with `[CLS]` and `[SEP]`, without padding, and labels, -100 where there is none), `losses`
  by term, and the `loss_weights` by which the terms add up to `total`;
- `tensors.safetensors`: `weights.NAME` of the parameters that the checkpoint lacks, drawn with a fixed seed (also SimLM's
  decoder, which the published code begins as a copy), and `gradient.NAME` of the total by every parameter. Encoder and head
  have the names of a checkpoint (`embeddings.…`, `encoder.layer.…`, `cls.predictions.…`), decoders their published ones. The
  tied token table has one gradient, of all its uses.

Gradients of key biases are rounding alone, as softmax cancels these. The script ends with an error unless, for each case,
- the terms add up to the total, and f64 gives the same losses (1e-5) and gradients (1e-4 of a tensor's norm);
- every gradient is finite, and none is zero where it may not be;
- the decoders' losses give zero gradient in the encoder's layers once the bottleneck vector is cut off (Condenser: in the
  layers above `skip_from`), and not before;
- with every parameter drawn anew as BERT's are, each cross-entropy is ln V + 0.0002 H within 3 % (V tokens, width H);
- a second run gives equal bytes.
"""

import argparse
import copy
import itertools
import json
import math
import platform
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from transformers.models.bert import modeling_bert

from published_pretraining import COMMITS, PATCHES, Published, Tokenizer, TupleLayer, put_back_what_transformers_lacks

SEED = 20220524


@dataclass
class Case:
    """One batch of a method."""

    method: str
    model: torch.nn.Module
    # Returns the total; takes the model.
    run: object
    # Terms by the order of the code's cross-entropies; None for one that no loss has.
    terms: list
    inputs: dict
    patches: list
    published: Published = None
    weights: dict = field(default_factory=dict)
    # Terms that reach the encoder's layers through the bottleneck vector alone, and layers that they reach otherwise.
    decoders: list = field(default_factory=list)
    skip_from: int = 0
    # Further arrays, by name; takes the model.
    outputs: object = None


def texts_of(corpus, tokenizer):
    """Returns the rows of a corpus and their tokens, an [UNK] in one of them."""
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    texts = [encode(row["title"]) + encode(row["text"]) for row in rows]
    texts[2][7] = tokenizer.unk_token_id
    return rows, texts


def unpad(ids, mask):
    """Returns the rows of a batch without padding."""
    return [row[: int(present.sum())].tolist() for row, present in zip(ids, mask)]


def masked_lm(folder):
    config = transformers.BertConfig.from_pretrained(
        folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager"
    )
    return load_encoder(transformers.BertForMaskedLM(config), folder)


def load_encoder(model, folder):
    checkpoint = safetensors.torch.load_file(folder / "model.safetensors")
    model.bert.load_state_dict({name: value for name, value in checkpoint.items() if not name.startswith("pooler.")})
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias
    return model


def retromae_batch(published, tokenizer, texts, duplex):
    published.load("src/pretrain/utils.py", "pretrain.utils")
    data = published.load("src/pretrain/data.py", "pretrain.data")
    collator = (data.DupMAECollator if duplex else data.RetroMAECollator)(tokenizer=tokenizer)
    collator.max_seq_length, collator.encoder_mlm_probability, collator.decoder_mlm_probability = 24, 0.3, 0.5
    return collator([{"token_ids": list(text)} for text in texts])


def mlm(context):
    batch = retromae_batch(context.published("staoxiao/RetroMAE"), context.tokenizer, context.few, False)
    ids, mask, labels = (batch[f"encoder_{name}"] for name in ("input_ids", "attention_mask", "labels"))
    return Case(
        method="mlm",
        model=masked_lm(context.folder),
        run=lambda model: model(ids, mask, labels=labels).loss,
        terms=["encoder"],
        inputs={"encoder_ids": unpad(ids, mask), "encoder_labels": unpad(labels, mask)},
        patches=[],
    )


def retromae(context, duplex=False):
    published = context.published("staoxiao/RetroMAE")
    published.load("src/pretrain/enhancedDecoder.py", "pretrain.enhancedDecoder")
    name = "modeling_duplex" if duplex else "modeling"
    modeling = published.load(f"src/pretrain/{name}.py", f"pretrain.{name}")
    batch = retromae_batch(published, context.tokenizer, context.few, duplex)
    mask, visibility = batch["encoder_attention_mask"], batch["decoder_attention_mask"]
    inputs = {
        "encoder_ids": unpad(batch["encoder_input_ids"], mask),
        "encoder_labels": unpad(batch["encoder_labels"], mask),
        "decoder_ids": unpad(batch["decoder_input_ids"], mask),
        "decoder_labels": unpad(batch["decoder_labels"], mask),
        "visibility": [[row[:n].tolist() for row in rows[:n]] for rows, n in zip(visibility, mask.sum(1))],
    }
    settings, weights = SimpleNamespace(), {}
    if duplex:
        settings.bow_loss_weight = weights["bag_of_words"] = 0.1
        bags = batch["bag_word_weight"]
        inputs["bag_of_words"] = [[[i, row[i].item()] for i in row.nonzero()[:, 0].tolist()] for row in bags]
    method = modeling.DupMAEForPretraining if duplex else modeling.RetroMAEForPretraining

    def run(model):
        return model(**{key: of_type(value, model.lm.dtype) for key, value in batch.items()})[0]

    return Case(
        method="dupmae" if duplex else "retromae",
        model=method(masked_lm(context.folder), settings),
        run=run,
        terms=["encoder", "decoder"] + ["bag_of_words"] * duplex,
        weights=weights,
        decoders=["decoder"],
        inputs=inputs,
        patches=["mask", "moved", "collator", "tokenizer", "settings"],
        published=published,
    )


def of_type(value, dtype):
    return value.to(dtype) if torch.is_floating_point(value) else value


def dupmae(context):
    return retromae(context, duplex=True)


def cotmae(context):
    published = context.published("caskcsg/ir")
    modeling = published.load("cotmae/modeling.py", "cotmae.modeling")
    data = published.load("cotmae/data.py", "cotmae.data")
    collator = data.CotMAECollator(
        tokenizer=context.tokenizer, max_seq_length=24, encoder_mask_ratio=0.3, decoder_mask_ratio=0.45, data_type="nearby"
    )
    collator.rng = random.Random(SEED)
    spans = context.few
    batch = collator([{"anchor": spans[0], "nearby": spans[1]}, {"anchor": spans[2], "nearby": spans[3]}])
    config = masked_lm(context.folder).config
    model = load_encoder(modeling.BertForCotMAE(config, n_head_layers=2, head_mlm_coef=1.0), context.folder)
    return Case(
        method="cotmae",
        model=model,
        run=lambda model: model(**batch).loss,
        terms=["encoder", "decoder"],
        decoders=["decoder"],
        inputs={
            "encoder_ids": unpad(batch["input_ids"], batch["attention_mask"]),
            "encoder_labels": unpad(batch["labels"], batch["attention_mask"]),
            "decoder_ids": unpad(batch["decoder_input_ids"], batch["decoder_attention_mask"]),
            "decoder_labels": unpad(batch["decoder_labels"], batch["decoder_attention_mask"]),
        },
        patches=["mask", "layer", "collator", "tokenizer"],
        published=published,
    )


def simlm(context, frozen=True):
    published = context.published("microsoft/unilm")
    published.load("simlm/src/utils.py", "utils")
    modeling = published.load("simlm/src/models/rlm.py", "models.rlm")
    published.load("simlm/src/collators/collator_utils.py", "collators.collator_utils")
    data = published.load("simlm/src/collators/rlm_collator.py", "collators.rlm_collator")
    settings = SimpleNamespace(
        rlm_decoder_layers=2,
        rlm_freeze_generator=frozen,
        rlm_generator_mlm_weight=0.2,
        rlm_encoder_mask_prob=0.3,
        rlm_decoder_mask_prob=0.5,
        rlm_max_length=26,
        all_use_mask_token=True,
    )
    n_words = [99, 3, 5, 1]
    rows = [context.rows[i] for i in (0, 1, 2, 4)]
    pairs = [{"title": row["title"], "contents": " ".join(row["text"].split()[:n])} for row, n in zip(rows, n_words)]
    batch = data.DataCollatorForReplaceLM(tokenizer=context.tokenizer, args=settings)(pairs)
    config = transformers.ElectraConfig(
        vocab_size=len(context.tokenizer),
        embedding_size=16,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        transformers.ElectraForMaskedLM(config).save_pretrained(folder)
        settings.rlm_generator_model_name = folder
        model = modeling.ReplaceLM(settings, masked_lm(context.folder))
    for own, layer in zip(model.decoder, model.encoder.bert.encoder.layer, strict=True):
        assert all(torch.equal(*both) for both in zip(own.parameters(), layer.parameters(), strict=True))
        own.__class__ = TupleLayer

    # Every third sample is the original token.
    clean, mask = batch["labels"], batch["enc_attention_mask"]
    sampled = [torch.randint(5, len(context.tokenizer), clean.shape) for _ in range(2)]
    sampled = [torch.where((torch.arange(ids.shape[1]) % 3 == 0) & (clean >= 0), clean, ids) for ids in sampled]
    drawn = itertools.cycle(sampled)
    modeling.Categorical = lambda logits: SimpleNamespace(sample=lambda: next(drawn))
    hidden = [batch["enc_labels"] >= 0, batch["dec_labels"] >= 0]
    replaced = [torch.where(hidden[i], sampled[i], batch[f"{side}_input_ids"]) for i, side in enumerate(("enc", "dec"))]
    inputs = {
        "encoder_ids": unpad(replaced[0], mask),
        "encoder_labels": unpad(clean, mask),
        "encoder_types": unpad(batch["enc_token_type_ids"], mask),
        "decoder_ids": unpad(replaced[1], mask),
        "decoder_labels": unpad(clean, mask),
    }
    if not frozen:
        inputs |= {
            "generator_ids": unpad(batch["enc_input_ids"], mask),
            "generator_labels": unpad(batch["enc_labels"], mask),
            "generator_decoder_ids": unpad(batch["dec_input_ids"], mask),
            "generator_config": {
                key: getattr(config, key)
                for key in (
                    "model_type vocab_size embedding_size hidden_size num_hidden_layers num_attention_heads "
                    "intermediate_size max_position_embeddings type_vocab_size hidden_act layer_norm_eps pad_token_id"
                ).split()
            },
        }

    @torch.no_grad()
    def logits(model):
        found = model.generator(batch["enc_input_ids"], mask, token_type_ids=batch["enc_token_type_ids"]).logits
        return {"logits.generator": found[mask.bool()]}

    return Case(
        method="simlm" if frozen else "simlm-generator",
        model=model,
        run=lambda model: model(batch).loss,
        # The generator's loss on what the decoder is to read belongs to no total.
        terms=[None if frozen else "generator", None, "encoder", "decoder"],
        weights={} if frozen else {"generator": 0.2},
        decoders=["decoder"],
        inputs=inputs,
        outputs=None if frozen else logits,
        patches=["mask", "layer", "tokenizer", "settings", "sampling"],
        published=published,
    )


def simlm_generator(context):
    return simlm(context, frozen=False)


def condenser(context, contrastive=False):
    published = context.published("luyug/Condenser")
    modeling = published.load("modeling.py", "condenser.modeling")
    data = published.load("data.py", "condenser.data")
    model_settings = SimpleNamespace(n_head_layers=2, skip_from=1, late_mlm=True)
    train_settings = SimpleNamespace(per_device_train_batch_size=2, local_rank=-1)
    if contrastive:
        method, collator = modeling.CoCondenserForPretraining, data.CoCondenserCollator
        examples = [context.few[:2], context.few[2:]]
    else:
        method, collator = modeling.CondenserForPretraining, data.CondenserCollator
        examples = [{"text": text} for text in context.few]
    batch = collator(tokenizer=context.tokenizer, mlm_probability=0.3, max_seq_length=24)(examples)
    labels, mask = batch.pop("labels"), batch["attention_mask"]
    model = method(masked_lm(context.folder), model_settings, None, train_settings)
    inputs = {"encoder_ids": unpad(batch["input_ids"], mask), "encoder_labels": unpad(labels, mask), "skip_from": 1}
    if contrastive:
        inputs["partners"] = model.co_target.tolist()
    return Case(
        method="cocondenser" if contrastive else "condenser",
        model=model,
        run=lambda model: model(batch, labels),
        terms=["encoder", "decoder"] + ["contrastive"] * contrastive,
        decoders=["decoder"],
        skip_from=1,
        inputs=inputs,
        patches=["mask", "layer", "collator", "tokenizer", "settings"],
        published=published,
    )


def cocondenser(context):
    return condenser(context, contrastive=True)


# MASTER's streams: the encoder's pass or the decoder stack that reads one, and what the published batch puts before its keys.
MASTER_ENCODER = {"text": "", "first_half": "next_encoder_", "seen": "overlap_encoder_"}
MASTER_DECODERS = {
    "c_head": "decoder_",
    "query_head": "query_",
    "gpt_head": "gpt_",
    "next_head": "next_decoder_",
    "overlap_head": "overlap_decoder_",
}
# The encoder's pass whose vector each stack reads.
MASTER_VECTORS = {
    "c_head": "text",
    "query_head": "text",
    "gpt_head": "text",
    "next_head": "first_half",
    "overlap_head": "seen",
}


def master(context):
    published = context.published("microsoft/SimXNS")
    modeling = published.load("MASTER/pretrain/modeling.py", "master.modeling")
    data = published.load("MASTER/pretrain/data.py", "master.data", [("[102]", "[self.tokenizer.sep_token_id]")])
    texts, end = context.texts, context.tokenizer.sep_token_id
    # The first text is longer than the window; one has no queries, one no continuation.
    lines = [
        {"text": texts[0][:4] + [end] + texts[0][4:], "queries": [texts[1][4:8], texts[0][5:8]], "next": [texts[1][4:]]},
        {"text": texts[1][4:13], "queries": [], "next": [texts[2][:7]]},
        {"text": texts[2][:18], "queries": [texts[3][6:9], texts[3][9:14], texts[2][:6]], "next": [[], texts[0]]},
        {"text": texts[4][:6], "queries": [texts[5][4:9]], "next": [texts[5][4:15]]},
    ]
    collator = data.CondenserCollator(
        tokenizer=context.tokenizer,
        mlm_probability=0.3,
        max_seq_length=24,
        decoder_mlm_probability=0.5,
        frequency_dict=json.loads((context.out / "frequency.json").read_text()),
    )
    batch = collator(lines)

    def rows_of(streams, kind):
        masks = {prefix: batch.get(f"{prefix}attention_mask", batch["attention_mask"]) for prefix in streams.values()}
        return {name: unpad(batch[prefix + kind], masks[prefix]) for name, prefix in streams.items()}

    model = modeling.CondenserForPretraining(masked_lm(context.folder), SimpleNamespace(n_head_layers=2), None, None)
    return Case(
        method="master",
        model=model,
        run=lambda model: model(batch, batch["labels"]),
        terms=["text", "c_head", "query_head", "gpt_head", "first_half", "next_head", "seen", "overlap_head"],
        decoders=list(MASTER_DECODERS),
        inputs={
            "encoder_ids": rows_of(MASTER_ENCODER, "input_ids"),
            "encoder_labels": rows_of(MASTER_ENCODER, "labels"),
            "decoder_ids": rows_of(MASTER_DECODERS, "input_ids"),
            "decoder_labels": rows_of(MASTER_DECODERS, "labels"),
            "vector_of": MASTER_VECTORS,
        },
        patches=["mask", "layer", "collator", "tokenizer", "settings", "sep"],
        published=published,
    )


METHODS = [mlm, retromae, dupmae, cotmae, simlm, simlm_generator, condenser, cocondenser, master]


# Running a case


def published_name(name):
    for prefix in "lm.bert.", "encoder.bert.", "bert.":
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    for prefix in "lm.cls.", "encoder.cls.":
        if name.startswith(prefix):
            return "cls." + name.removeprefix(prefix)
    return name


def parameters_of(model):
    """Returns the trained parameters by published name, in sorted order."""
    named = {published_name(name): value for name, value in model.named_parameters() if value.requires_grad}
    return dict(sorted(named.items()))


def encoder_of(model):
    """Returns the BertModel."""
    return next(module for module in model.modules() if isinstance(module, modeling_bert.BertModel))


@torch.no_grad()
def draw(parameters, matrices, vectors, shift, generator):
    for name, value in parameters.items():
        noise = torch.randn(value.shape, generator=generator)
        value.copy_(noise * (matrices if value.dim() > 1 else vectors))
        if name.endswith("LayerNorm.weight") or name.endswith("layer_norm.weight"):
            value.add_(shift)


def cut(_module, _inputs, output):
    """Detaches the states that decoders take their vector from; the encoder's own head reads another field."""
    output.hidden_states = (*output.hidden_states[:-1], output.hidden_states[-1].detach())
    return output


def terms_of(case, model, bottleneck=True):
    """Returns total and terms."""
    found, cross_entropy = [], F.cross_entropy

    def recorded(*args, **settings):
        loss = cross_entropy(*args, **settings)
        found.append(loss)
        # The published code adds to its first loss in place.
        return loss.clone()

    if hasattr(model, "decoder_ot_loss"):
        bag_of_words = type(model).decoder_ot_loss

        def recorded_bag(*args, **settings):
            found.append(bag_of_words(model, *args, **settings))
            return found[-1].clone()

        model.decoder_ot_loss = recorded_bag
    hook = None if bottleneck else encoder_of(model).register_forward_hook(cut)
    F.cross_entropy = recorded
    try:
        total = case.run(model)
    finally:
        F.cross_entropy = cross_entropy
        if hook:
            hook.remove()
    assert len(found) == len(case.terms), (case.method, len(found))
    return total, {name: loss for name, loss in zip(case.terms, found) if name}


def gradients(loss, parameters):
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    found = [torch.zeros_like(value) if grad is None else grad for value, grad in zip(parameters.values(), found)]
    return dict(zip(parameters, found))


def check_double(case, total, terms, found):
    model = copy.deepcopy(case.model).double()
    exact_total, exact_terms = terms_of(case, model)
    for name, loss in {"total": total, **terms}.items():
        exact = {"total": exact_total, **exact_terms}[name]
        assert math.isclose(loss.item(), exact.item(), rel_tol=1e-5), (case.method, name, loss, exact)
    for name, exact in gradients(exact_total, parameters_of(model)).items():
        assert found[name].isfinite().all(), (case.method, name)
        if name.endswith("key.bias"):
            continue
        assert exact.norm() > 0, f"{case.method}: {name} has no gradient"
        difference = (found[name] - exact).norm() / exact.norm()
        assert difference < 1e-4, (case.method, name, difference)


def check_bottleneck(case):
    if not case.decoders:
        return
    for bottleneck in True, False:
        _, terms = terms_of(case, case.model, bottleneck)
        found = gradients(sum(terms[name] for name in case.decoders), parameters_of(case.model))
        for name, gradient in found.items():
            if not name.startswith("encoder.layer.") or name.endswith("key.bias"):
                continue
            reached = bottleneck or int(name.split(".")[2]) < case.skip_from
            assert (gradient.norm() > 0) == reached, (case.method, name, bottleneck, gradient.norm())


def check_initial(case):
    """Checks the losses of a model with BERT's random weights."""
    model = copy.deepcopy(case.model)
    generator = torch.Generator().manual_seed(SEED)
    draw(parameters_of(model), 0.02, 0.0, 1.0, generator)
    config = encoder_of(model).config
    expected = math.log(config.vocab_size) + config.hidden_size * 0.02**2 / 2
    _, terms = terms_of(case, model)
    for name, loss in terms.items():
        if name == "bag_of_words":
            shares = [sum(weight for _, weight in bag) for bag in case.inputs["bag_of_words"]]
            assert math.isclose(loss.item(), expected * sum(shares) / len(shares), rel_tol=0.05), (name, loss)
        elif name == "contrastive":
            n_others = len(case.inputs["encoder_ids"]) - 1
            assert math.isclose(loss.item(), math.log(n_others), rel_tol=0.1), (name, loss)
        else:
            assert math.isclose(loss.item(), expected, rel_tol=0.03), (case.method, name, loss, expected)


def make(case, checkpoint):
    """Returns case.json's text and the tensors."""
    parameters = parameters_of(case.model)
    new = {name: value for name, value in parameters.items() if name not in checkpoint}
    draw(new, 0.2, 0.1, 1.0, torch.Generator().manual_seed(SEED))
    for name, value in checkpoint.items():
        assert name.startswith("pooler.") or torch.equal(parameters[name], value), name
    total, terms = terms_of(case, case.model)
    found = gradients(total, parameters)
    weights = {name: case.weights.get(name, 1.0) for name in terms}
    assert math.isclose(total.item(), sum(weights[name] * loss.item() for name, loss in terms.items()), rel_tol=1e-6)
    check_double(case, total, terms, found)
    check_bottleneck(case)
    check_initial(case)

    tensors = {f"weights.{name}": value for name, value in new.items()}
    tensors |= {f"gradient.{name}": value for name, value in found.items()}
    if case.outputs:
        tensors |= case.outputs(case.model)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    made_by = {"script": "docs/reference/pretraining_golden.py", **versions}
    if case.published:
        repository = case.published.repository
        made_by |= {"repository": repository, "commit": COMMITS[repository], "files": case.published.files}
    else:
        made_by |= {"repository": "huggingface/transformers", "commit": f"v{transformers.__version__}"}
    made_by["patches"] = [PATCHES[name] for name in case.patches]
    losses = {"total": total.item(), **{name: loss.item() for name, loss in terms.items()}}
    record = {"method": case.method, "made_by": made_by, "inputs": case.inputs, "losses": losses, "loss_weights": weights}
    return render(record), {name: tensors[name].detach().contiguous().clone() for name in sorted(tensors)}


def render(value, depth=0):
    """Returns JSON with one line for each list of numbers, and for each member of anything else."""
    inside, end = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    if isinstance(value, dict) and value:
        members = (f"{inside}{json.dumps(key)}: {render(item, depth + 1)}" for key, item in value.items())
        return "{" + ",".join(members) + end + "}"
    if isinstance(value, list) and any(isinstance(item, (list, str)) for item in value):
        return "[" + ",".join(inside + render(item, depth + 1) for item in value) + end + "]"
    return json.dumps(value)


def context_of(args):
    tokenizer = Tokenizer.from_pretrained(args.model)
    rows, texts = texts_of(args.corpus, tokenizer)
    return SimpleNamespace(
        folder=args.model,
        out=args.out,
        tokenizer=tokenizer,
        rows=rows,
        texts=texts,
        # None is longer than the windows: Condenser and CoT-MAE would cut ids and masks by different ones.
        few=[texts[0][:22], texts[1][4:13], texts[2][:18], texts[4][:6]],
        published=lambda repository: Published(args.repositories, repository),
    )


def seeded(method, context):
    """Returns what `method` makes, the same at each call."""
    random.seed(SEED)
    torch.manual_seed(SEED)
    return make(method(context), safetensors.torch.load_file(context.folder / "model.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repositories", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="the name of one case")
    args = parser.parse_args()
    torch.set_num_threads(1)
    put_back_what_transformers_lacks()
    context = context_of(args)
    for method in METHODS:
        if args.only and method.__name__ != args.only:
            continue
        text, tensors = seeded(method, context)
        data = safetensors.torch.save(tensors)
        again, tensors = seeded(method, context)
        assert (again, safetensors.torch.save(tensors)) == (text, data), f"{method.__name__}: two runs differ"
        folder = args.out / json.loads(text)["method"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "case.json").write_text(text + "\n")
        (folder / "tensors.safetensors").write_bytes(data)
        print(folder.name, json.loads(text)["losses"], f"{len(data) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
