#!/usr/bin/env python3
"""Write the small random-weight checkpoints of the test suite and their golden files.

    python make_tiny.py --models ../../fixtures/models --golden .

Every checkpoint has two layers of width 32 with two heads and is saved by transformers or
sentence-transformers, so that its files are laid out as users' files are. Weights, biases and
LayerNorms are drawn wide enough that leaving out any one of them moves the output far beyond
the tolerance. The tokenizers are trained here on a few sentences. All is drawn from fixed
seeds: a second run writes the same bytes.
"""

import argparse
import json
import math
import os
import shutil
import string
import tempfile
from collections import Counter
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np
import tokenizers
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    DistilBertTokenizer,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    RobertaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Model,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizer,
)

from make import (
    PASSAGES,
    SCRIPTS,
    TOLERANCE,
    WORDS,
    boundary_texts,
    count_tokens,
    made_by,
    read_tokenizer,
    write_bi_encoder,
    write_golden,
)

SCRIPT = "make_tiny.py"
VOCABULARY = 576
MAX_TOKENS = 64
LONG_TOKENS = 160  # for T5, whose relative positions have one bucket for all distances from 128 on
POSITIONS = 128  # more than MAX_TOKENS, so that the limit comes from the sentence-transformers configuration
OPENMATCH_TOKENS = {"query": 32, "passage": 128}
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
DISTIL_SHAPE = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}

# Every ASCII character at the start of a word and inside one, so that no plain English text has unknown words.
ALPHABET = [" ".join(string.printable), f"a{string.ascii_lowercase} 0{string.digits}"]
TRAINING_TEXTS = PASSAGES + [text for _, text in SCRIPTS] + [" ".join(WORDS), "café ¿qué? ☕"] + ALPHABET


# Tokenizers


def frequent_pieces(words, n_pieces, continuation=""):
    """Returns {piece: count}: every character of the words, then the substrings that cover most text.

    Pieces inside a word carry the prefix `continuation`. Counted here because the trainers of the
    tokenizers library break ties by hash order, which changes from run to run.
    """
    counts = Counter()
    for word in words:
        for start in range(len(word)):
            for end in range(start + 1, min(start + 8, len(word)) + 1):
                counts[(continuation if start else "") + word[start:end]] += 1
    n_characters = lambda piece: len(piece.removeprefix(continuation))
    ranked = sorted(counts, key=lambda piece: (n_characters(piece) > 1, -counts[piece] * n_characters(piece), piece))
    assert n_characters(ranked[n_pieces - 1]) > 1, "the vocabulary has room for every character"
    return {piece: counts[piece] for piece in ranked[:n_pieces]}


def word_pieces(special):
    """Returns a WordPiece vocabulary of the texts above."""
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = [word for text in TRAINING_TEXTS for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
    pieces = special + list(frequent_pieces(words, VOCABULARY - len(special), "##"))
    return {piece: index for index, piece in enumerate(pieces)}


def bert_tokenizer(tokenizer_class=BertTokenizer):
    return tokenizer_class(vocab=word_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))


def mpnet_tokenizer():
    return MPNetTokenizer(vocab=word_pieces(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]))


def roberta_tokenizer():
    """Returns a byte-level BPE tokenizer."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXTS, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    return RobertaTokenizer(vocab=trained["vocab"], merges=[tuple(merge) for merge in trained["merges"]])


def xlm_roberta_tokenizer():
    """Returns a Unigram tokenizer with word-start marks; a piece scores the logarithm of its share."""
    words = ["▁" + word for text in TRAINING_TEXTS for word in text.split()]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    counts = frequent_pieces(words, VOCABULARY - len(special) - 1)
    total = sum(counts.values())
    pieces = [(piece, round(math.log(count / total), 4)) for piece, count in counts.items()]
    return XLMRobertaTokenizer(vocab=[(piece, 0.0) for piece in special] + pieces + [("<mask>", 0.0)])


def fast_tokenizer(tokenizer, template, names, **special):
    """Wraps a tokenizer that puts the special tokens of `template` around a text, or a pair where it names $B."""
    ids = [(name, tokenizer.token_to_id(name)) for name in special.values()]
    single, _, pair = template.partition(" $B")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=template if pair else f"{single} $B:1 {single.split()[-1]}:1", special_tokens=ids
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, **special)


def t5_tokenizer():
    """Returns the Unigram pieces of XLM-R's tokenizer with T5's special tokens."""
    vocabulary = json.loads(xlm_roberta_tokenizer().backend_tokenizer.to_str())["model"]["vocab"]
    pieces = [(piece, score) for piece, score in vocabulary if piece not in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(special + pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return fast_tokenizer(
        tokenizer, "$A </s>", ["input_ids", "attention_mask"], pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def modernbert_tokenizer():
    """Returns word pieces with BERT's special tokens and no token types."""
    tokenizer = bert_tokenizer().backend_tokenizer
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def qwen_tokenizer():
    """Returns RoBERTa's byte-level BPE, with one token after the text as the embedding models of Qwen3 have it."""
    tokenizer = roberta_tokenizer().backend_tokenizer
    return fast_tokenizer(tokenizer, "$A </s>", ["input_ids", "attention_mask"], pad_token="<pad>", eos_token="</s>")


# Checkpoints


def draw_weights(module, seed):
    """Fills every parameter: wide weights, biases that count, LayerNorms away from one and zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name.lower()
            if is_norm and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            else:
                parameter.copy_(0.3 * noise)
    return module.eval()


def saved(directory, model, tokenizer):
    """Saves a transformers model with its tokenizer; returns the directory."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def write_encoder(target, model, tokenizer, seed, pooling, tail=(), max_tokens=MAX_TOKENS, **config):
    """Saves a sentence-transformers directory: transformer, pooling, then the modules of `tail`."""
    with tempfile.TemporaryDirectory() as scratch:
        transformer = Transformer(saved(scratch, draw_weights(model, seed), tokenizer), max_seq_length=max_tokens)
    modules = [transformer, Pooling(SHAPE["hidden_size"], pooling), *tail]
    SentenceTransformer(modules=modules, device="cpu", **config).save(str(target), create_model_card=False)


def write_cross_encoder(target, model, tokenizer, seed, activation):
    """Saves a CrossEncoder directory; `activation` of None stores the default of its label count."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = saved(scratch, draw_weights(model, seed), tokenizer)
        encoder = CrossEncoder(directory, device="cpu", max_length=MAX_TOKENS, activation_fn=activation)
    encoder.save(str(target), create_model_card=False)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def make_cross_encoder_older(directory):
    """Rewrites a CrossEncoder directory as sentence-transformers 4 and 5 saved it.

    The activation then stands in config.json, and nothing but model and tokenizer is there.
    """
    settings = json.loads((directory / "config_sentence_transformers.json").read_text())
    config = json.loads((directory / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": settings["activation_fn"], "version": "5.1.0"}
    write_json(directory / "config.json", config)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (directory / name).unlink()


def make_encoder_older(directory):
    """Rewrites a mean-pooling directory as sentence-transformers 2 saved it.

    The limit then stands in sentence_bert_config.json, pooling is a set of flags, modules have short type names.
    """
    tokenizer_config = json.loads((directory / "tokenizer_config.json").read_text())
    limit, tokenizer_config["model_max_length"] = tokenizer_config["model_max_length"], 512
    write_json(directory / "tokenizer_config.json", tokenizer_config)
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
    types = ["Transformer", "Pooling", "Normalize"]
    modules = json.loads((directory / "modules.json").read_text())
    assert [module["type"].rsplit(".", 1)[1] for module in modules] == types
    for module, name in zip(modules, types):
        module["type"] = f"sentence_transformers.models.{name}"
    write_json(directory / "modules.json", modules)
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    flags = {f"pooling_mode_{name}": name == "mean_tokens" for name in names}
    write_json(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": SHAPE["hidden_size"], **flags})
    (directory / "2_Normalize" / "config.json").unlink()
    (directory / "2_Normalize").rmdir()  # without files of its own, the folder was never uploaded
    versions = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
    write_json(directory / "config_sentence_transformers.json", {"__version__": versions})


def copy_without_weights(source, target):
    """Copies a checkpoint directory, all but its weights."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("model.safetensors"))


def write_variants(tiny_bert):
    """Saves the weights of `tiny-bert` in the other layouts in which users hold such a model."""
    weights = AutoModel.from_pretrained(tiny_bert)

    sharded = tiny_bert.with_name("tiny-bert-sharded")
    copy_without_weights(tiny_bert, sharded)
    weights.save_pretrained(sharded, max_shard_size="64KB")

    pickled = tiny_bert.with_name("tiny-bert-bin")
    copy_without_weights(tiny_bert, pickled)
    state = dict(weights.state_dict())
    state["embeddings.position_ids"] = torch.arange(POSITIONS).unsqueeze(0)  # stored by transformers before 4.31
    torch.save(state, pickled / "pytorch_model.bin")
    make_encoder_older(pickled)

    plain = tiny_bert.with_name("tiny-bert-plain")
    weights.save_pretrained(plain)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_bert / name, plain / name)


def bert_config(**changes):
    return BertConfig(vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, **SHAPE, **changes)


def roberta_config(config_class=RobertaConfig, **changes):
    positions = POSITIONS + 2  # the first two rows belong to padding
    return config_class(
        vocab_size=VOCABULARY, max_position_embeddings=positions, type_vocab_size=1,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, **SHAPE, **changes,
    )  # fmt: skip


def distilbert_config(**changes):
    return DistilBertConfig(vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, **DISTIL_SHAPE, **changes)


def mpnet_config():
    return MPNetConfig(vocab_size=VOCABULARY, max_position_embeddings=POSITIONS + 2, pad_token_id=1, **SHAPE)


def t5_config(**changes):
    shape = {"d_kv": 16, "num_layers": 2, "feed_forward_proj": "gated-gelu"} | changes
    return T5Config(vocab_size=VOCABULARY, d_model=32, d_ff=64, num_heads=2, **shape)


def modernbert_config(**changes):
    """Three layers, of which the second and third see 4 tokens to each side."""
    shape = SHAPE | {"num_hidden_layers": 3}
    return ModernBertConfig(
        vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, local_attention=8, pad_token_id=0, bos_token_id=2,
        eos_token_id=3, cls_token_id=2, sep_token_id=3, **shape, **changes,
    )  # fmt: skip


def qwen3_config():
    return Qwen3Config(
        vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, num_key_value_heads=1, head_dim=16, **SHAPE,
    )  # fmt: skip


def write_encoders(root):
    """Saves the bi-encoders under `root`; returns their names."""
    write_encoder(root / "tiny-bert", BertModel(bert_config()), bert_tokenizer(), 1, "mean", [Normalize()])
    dense = draw_weights(Dense(32, 16, activation_function=torch.nn.Tanh()), 102)
    write_encoder(
        root / "tiny-bert-cls-dense", BertModel(bert_config(hidden_act="gelu_new")), bert_tokenizer(), 2,
        "cls", [dense, Normalize()],
        prompts={"query": "query: ", "passage": "passage: "}, similarity_fn_name="dot",
    )  # fmt: skip
    write_encoder(
        root / "tiny-bert-weighted", BertModel(bert_config(hidden_act="relu")), bert_tokenizer(), 3, "weightedmean"
    )
    write_encoder(
        root / "tiny-bert-last", BertModel(bert_config(hidden_act="gelu_pytorch_tanh")), bert_tokenizer(), 4, "lasttoken"
    )
    write_encoder(root / "tiny-roberta", RobertaModel(roberta_config()), roberta_tokenizer(), 5, "mean")
    write_encoder(
        root / "tiny-xlm-roberta", XLMRobertaModel(roberta_config(XLMRobertaConfig)), xlm_roberta_tokenizer(), 6, "max"
    )
    write_encoder(
        root / "tiny-distilbert", DistilBertModel(distilbert_config()), bert_tokenizer(DistilBertTokenizer), 7, "mean"
    )
    write_encoder(root / "tiny-mpnet", MPNetModel(mpnet_config()), mpnet_tokenizer(), 8, "mean", [Normalize()])
    dense = draw_weights(Dense(32, 24, bias=False, activation_function=torch.nn.Identity()), 109)
    write_encoder(
        root / "tiny-t5", T5EncoderModel(t5_config()), t5_tokenizer(), 9, "mean", [dense, Normalize()], LONG_TOKENS
    )
    write_encoder(root / "tiny-modernbert", ModernBertModel(modernbert_config()), modernbert_tokenizer(), 10, "mean")
    write_encoder(
        root / "tiny-qwen3", Qwen3Model(qwen3_config()), qwen_tokenizer(), 11, "lasttoken", [Normalize()],
        prompts={"query": "Query:"},
    )  # fmt: skip
    return [
        "tiny-bert", "tiny-bert-cls-dense", "tiny-bert-weighted", "tiny-bert-last",
        "tiny-roberta", "tiny-xlm-roberta", "tiny-distilbert", "tiny-mpnet",
        "tiny-t5", "tiny-modernbert", "tiny-qwen3",
    ]  # fmt: skip


def write_decoders(root):
    """Saves encoder-decoders of T5 as OpenMatch does; returns their names. Heads are narrower than the model."""
    relu = t5_config(d_kv=12, num_decoder_layers=1, feed_forward_proj="relu")
    write_decoder(root / "tiny-t5-relu", T5Model(relu), 12, normalize=False)
    gated = t5_config(d_kv=12, num_layers=1, num_decoder_layers=2)
    write_decoder(root / "tiny-t5-gated", T5Model(gated), 13, normalize=True)
    return ["tiny-t5-relu", "tiny-t5-gated"]


def write_decoder(target, model, seed, normalize):
    """Saves an encoder-decoder with what OpenMatch puts beside it."""
    saved(target, draw_weights(model, seed), t5_tokenizer())
    backbone = {"type": type(model).__name__, "feature": "last_hidden_state"}
    config = {"tied": True, "plm_backbone": backbone, "pooling": "first", "linear_head": False, "normalize": normalize}
    write_json(target / "openmatch_config.json", config)


def write_cross_encoders(root):
    """Saves the cross-encoders under `root`; returns their names."""
    write_cross_encoder(
        root / "tiny-cross-bert", BertForSequenceClassification(bert_config(num_labels=1)), bert_tokenizer(), 21,
        torch.nn.Sigmoid(),
    )  # fmt: skip
    write_cross_encoder(
        root / "tiny-cross-bert-3",
        BertForSequenceClassification(bert_config(num_labels=3, hidden_act="gelu_new")), bert_tokenizer(), 22,
        None,
    )  # fmt: skip
    write_cross_encoder(
        root / "tiny-cross-roberta", RobertaForSequenceClassification(roberta_config(num_labels=1)),
        roberta_tokenizer(), 23, torch.nn.Identity(),
    )  # fmt: skip
    write_cross_encoder(
        root / "tiny-cross-distilbert", DistilBertForSequenceClassification(distilbert_config(num_labels=1)),
        bert_tokenizer(DistilBertTokenizer), 24, torch.nn.Identity(),
    )  # fmt: skip
    make_cross_encoder_older(root / "tiny-cross-distilbert")
    write_cross_encoder(
        root / "tiny-cross-modernbert",
        ModernBertForSequenceClassification(modernbert_config(num_labels=1, classifier_pooling="mean")),
        modernbert_tokenizer(), 25, torch.nn.Sigmoid(),
    )  # fmt: skip
    return [
        "tiny-cross-bert", "tiny-cross-bert-3", "tiny-cross-roberta", "tiny-cross-distilbert", "tiny-cross-modernbert",
    ]  # fmt: skip


# Golden files


def tiny_texts(tokenizer):
    """Returns (text, role) pairs for a checkpoint with the limit `MAX_TOKENS`."""
    texts = [
        "",
        "  ",
        "tree",
        "  spaces  around  ",
        "tabs\tand\nnewlines",
        "🙂 ☕",
        "cafe\u0301 and café",
        "zero\u200bwidth \u200fmark\x00 \x07",
        "[CLS] [SEP] <s> </s> <mask> [MASK]",
        "x" * 120,
        " ".join(PASSAGES),
        "漢字" * 60,
        *(text for name, text in SCRIPTS if name in ("Arabic", "Chinese", "Hindi", "mixed scripts")),
        *PASSAGES[:3],
        *boundary_texts(tokenizer, [MAX_TOKENS - 2, MAX_TOKENS - 1]),
    ]
    return [(text, "passage") for text in texts] + [(PASSAGES[2], "query"), ("", "query")]


def write_decoder_golden(path, directory, texts):
    """Takes the decoder's vector of its first token for (text, role) pairs, one by one, as OpenMatch does."""
    model = T5Model.from_pretrained(directory).eval()
    normalize = json.loads((directory / "openmatch_config.json").read_text())["normalize"]

    def encode(text, role):
        max_tokens = OPENMATCH_TOKENS[role]
        encoding = read_tokenizer(directory, max_tokens).encode(text)
        start = torch.zeros(1, 1, dtype=torch.long)
        with torch.no_grad():
            output = model(input_ids=torch.tensor([encoding.ids]), decoder_input_ids=start)
        vector = output.last_hidden_state[:, 0]
        vector = torch.nn.functional.normalize(vector) if normalize else vector
        truncated = len(read_tokenizer(directory).encode(text).ids) > len(encoding.ids)
        entry = {"text": text, "role": role, "tokens": len(encoding.ids), "truncated": truncated}
        return entry, vector[0].double().numpy().astype(np.float32)

    entries, vectors = zip(*(encode(text, role) for text, role in texts))
    head = {"format": 1, "kind": "bi-encoder", "made_by": made_by(SCRIPT), "tolerance": TOLERANCE}
    write_golden(path, head, "texts", list(entries), vectors=np.stack(vectors))
    print(f"{path}: {len(texts)} texts, {len(vectors[0])} dimensions")


def tiny_pairs():
    """Returns (query, passage) pairs; the long ones show from which side a pair is truncated."""
    long_text, long_query = " ".join(PASSAGES), " ".join(reversed(PASSAGES))
    return [
        ("", ""),
        ("", PASSAGES[0]),
        (PASSAGES[2], ""),
        (PASSAGES[2], PASSAGES[8]),
        (PASSAGES[8], PASSAGES[2]),
        ("tree", "tree"),
        ("what is the capital of australia", PASSAGES[4]),
        ("river", long_text),
        (long_query, "stone"),
        (long_query, long_text),
        (" ".join(PASSAGES[:2]), " ".join(PASSAGES[2:5])),
        ("図書館", SCRIPTS[3][1]),
        ("مكتبة", SCRIPTS[0][1]),
        ("🙂", "cafe\u0301 and café"),
        ("  spaces  ", "tabs\tand\nnewlines"),
        ("[SEP] </s>", "[CLS] <s> [MASK] <mask>"),
    ]


def write_cross_golden(path, directory, pairs):
    """Scores (query, passage) pairs one by one and writes their golden file."""
    model = CrossEncoder(str(directory), device="cpu", model_kwargs={"dtype": torch.float32})
    assert model.max_seq_length == MAX_TOKENS

    def rows(activation, batch_size):
        """One row of label values per pair."""
        batches = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
        return np.concatenate([model.predict(batch, activation_fn=activation).reshape(len(batch), -1) for batch in batches])

    logits, scores = rows(torch.nn.Identity(), 1), rows(None, 1)
    entries = [
        {
            "query": query,
            "passage": passage,
            **count_tokens(model, directory, (query, passage), model.preprocess([(query, passage)])),
        }
        for query, passage in pairs
    ]
    head = {"format": 1, "kind": "cross-encoder", "made_by": made_by(SCRIPT), "tolerance": TOLERANCE}
    write_golden(path, head, "pairs", entries, scores=scores, logits=logits)
    print(f"{path}: {len(pairs)} pairs, {logits.shape[1]} labels, activation {model.activation_fn}")
    batched = rows(torch.nn.Identity(), len(pairs))
    model.double()
    exact = rows(torch.nn.Identity(), len(pairs))
    print(f"  batch against alone: max abs {np.abs(batched - logits).max():.1e}")
    print(f"  f64 against f32:     max abs {np.abs(exact - logits).max():.1e}, logits within {np.abs(logits).max():.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder that receives the checkpoints")
    parser.add_argument("--golden", type=Path, required=True, help="folder that receives <name>/golden.json")
    args = parser.parse_args()

    torch.set_num_threads(1)
    args.models.mkdir(parents=True, exist_ok=True)
    for old in args.models.glob("tiny-*"):
        shutil.rmtree(old)
    encoders = write_encoders(args.models)
    decoders = write_decoders(args.models)
    cross_encoders = write_cross_encoders(args.models)
    write_variants(args.models / "tiny-bert")

    for name in encoders:
        directory = args.models / name
        write_bi_encoder(args.golden / name / "golden.json", SCRIPT, directory, tiny_texts(read_tokenizer(directory)))
    for name in decoders:
        directory = args.models / name
        write_decoder_golden(args.golden / name / "golden.json", directory, tiny_texts(read_tokenizer(directory)))
    for name in cross_encoders:
        write_cross_golden(args.golden / name / "golden.json", args.models / name, tiny_pairs())


if __name__ == "__main__":
    main()
