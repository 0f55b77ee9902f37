#!/usr/bin/env python3
"""Makes the golden files of the trainer: what PyTorch computes for small inputs, losses and gradients.

    python3 trainer_golden.py --models tests/fixtures/models --out tests/golden/trainer

`steps.json` holds one step of tiny bi- and cross-encoders by transformers, without dropout, in f64: token ids, the loss
and, of the gradient of each parameter, its length and its inner product with cos(0.7 i + 0.3), i its row-major places.

The losses alone are computed in f64 from inputs that f32 holds exactly. `losses.json` lists cases: name, settings, inputs,
the loss, and its gradients by input. Each loss is written here with PyTorch's own functions (cross_entropy, kl_div,
mse_loss, binary_cross_entropy_with_logits, margin_ranking_loss, soft_margin_loss) wherever there is one. GISTEmbedLoss,
LambdaLoss and ListNetLoss are those of sentence-transformers, given vectors and scores in place of texts. The last two
compute in f32, so their gradients are taken from a repetition in f64 that has to agree with them.
"""

import argparse
import json
import math
import platform
from pathlib import Path
from types import SimpleNamespace

import sentence_transformers
import torch
import torch.nn.functional as F
import transformers
from sentence_transformers.cross_encoder.losses import LambdaLoss, ListNetLoss
from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss

B, N, H = 3, 4, 6
INFINITY = float("inf")


def info_nce(queries, passages, temperature, masked=None):
    scores = queries @ passages.T
    if masked is not None:
        scores = scores.masked_fill(masked, -INFINITY)
    return F.cross_entropy(scores / temperature, torch.arange(len(queries)) * N)


def full_contrastive(queries, passages, temperature, masked=None):
    positives = passages[::N]
    diagonal = torch.eye(len(queries), dtype=torch.bool)
    known = torch.zeros_like(diagonal) if masked is None else masked[:, ::N]
    pool = torch.zeros(len(queries), len(passages), dtype=torch.bool) if masked is None else masked
    blocks = [
        (queries @ passages.T).masked_fill(pool, -INFINITY),
        (positives @ queries.T).masked_fill(diagonal | known.T, -INFINITY),
        (queries @ queries.T).masked_fill(diagonal | known | known.T, -INFINITY),
        (positives @ positives.T).masked_fill(diagonal | known, -INFINITY),
    ]
    return F.cross_entropy(torch.cat(blocks, 1) / temperature, torch.arange(len(queries)) * N)


def in_group(queries, passages, temperature):
    scores = torch.einsum("bh,bnh->bn", queries, passages.reshape(len(queries), N, H))
    return F.cross_entropy(scores / temperature, torch.zeros(len(queries), dtype=torch.long))


def matryoshka(queries, passages, temperature, widths):
    return sum(
        weight * info_nce(F.normalize(queries[:, :width], dim=1), F.normalize(passages[:, :width], dim=1), temperature)
        for width, weight in widths
    )


def kl(student, teacher, temperature, reduction):
    divergence = F.kl_div((student / temperature).log_softmax(1), teacher.softmax(1), reduction="sum")
    return divergence / (len(student) if reduction == "batch_mean" else student.numel())


def soft_cross_entropy(student, teacher, temperature):
    return F.cross_entropy(student / temperature, teacher.softmax(1))


def margin_mse(student, teacher):
    return F.mse_loss(student[:, :1] - student[:, 1:], teacher[:, :1] - teacher[:, 1:])


def in_batch_distillation(queries, passages, teacher, temperature):
    scores = queries @ passages.T / temperature
    weights = teacher.softmax(1)
    total = 0.0
    for j in range(N):
        hidden = scores.clone()
        for i in range(len(queries)):
            hidden[i, i * N : i * N + j] = -INFINITY
        losses = F.cross_entropy(hidden, torch.arange(len(queries)) * N + j, reduction="none")
        total = total + (weights[:, j] * losses).mean()
    return total


def pairs(scores):
    return scores[:, :1].expand(-1, N - 1), scores[:, 1:]


def binary_cross_entropy(scores):
    positives, negatives = pairs(scores)
    return F.binary_cross_entropy_with_logits(positives, torch.ones_like(positives)) + F.binary_cross_entropy_with_logits(
        negatives, torch.zeros_like(negatives)
    )


def margin_ranking(scores, margin):
    positives, negatives = pairs(scores)
    return F.margin_ranking_loss(positives, negatives, torch.ones_like(positives), margin=margin)


def soft_margin_ranking(scores, margin):
    positives, negatives = pairs(scores)
    return F.soft_margin_loss(positives - negatives - margin, torch.ones_like(positives))


def listwise_softmax(scores):
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))


def r_drop(first, second):
    first, second = first.log_softmax(1), second.log_softmax(1)
    return 0.5 * (
        F.kl_div(first, second, reduction="batchmean", log_target=True)
        + F.kl_div(second, first, reduction="batchmean", log_target=True)
    )


def gist(queries, passages, guide_queries, guide_passages, temperature, margin, kind):
    """GISTEmbedLoss of groups of a positive and one negative."""
    loss = GISTEmbedLoss.__new__(GISTEmbedLoss)
    torch.nn.Module.__init__(loss)
    loss.model = loss.guide = lambda features: {"sentence_embedding": features["vectors"].pop()}
    loss.similarity_fct = torch.nn.CosineSimilarity(dim=-1)
    loss.cross_entropy_loss = torch.nn.CrossEntropyLoss()
    loss.must_retokenize = loss.gather_across_devices = False
    loss.contrast_anchors = loss.contrast_positives = True
    loss.temperature, loss.margin, loss.margin_strategy = temperature, margin, kind
    pairs = [(queries, guide_queries), (passages[::2], guide_passages[::2]), (passages[1::2], guide_passages[1::2])]
    # The model takes the first of each list of vectors, the guide the second.
    return loss([{"vectors": [guide, own]} for own, guide in pairs], None)


class Scorer:
    """A cross-encoder whose inputs are its scores."""

    num_labels, device = 1, "cpu"

    def preprocess(self, pairs, **_):
        return {"scores": torch.stack([passage for _, passage in pairs])}

    def __call__(self, features):
        return features


def check_against(loss, scores, labels, found):
    inputs = [["query"] * len(scores), list(scores)]
    expected = loss(inputs, list(labels))
    assert math.isclose(expected.item(), found.item(), rel_tol=2e-6), (expected, found)
    return found


def lambda_loss(scores, labels, mu, k):
    inverse = lambda rank: 1 / torch.log2(1 + rank.double())
    total, n_pairs = 0.0, 0
    for row, label in zip(scores, labels):
        order = row.argsort(descending=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(1, len(row) + 1)
        best = label.sort(descending=True).values
        gain = (2**label - 1) / ((2**best - 1) * inverse(torch.arange(1, len(row) + 1)))[:k].sum()
        for a in range(len(row)):
            for b in range(len(row)):
                if label[a] > label[b] and (k is None or min(rank[a], rank[b]) <= k):
                    distance = (rank[a] - rank[b]).abs()
                    weight = mu * (inverse(distance) - inverse(distance + 1)) + (inverse(rank[a]) - inverse(rank[b])).abs()
                    total = total - weight * (gain[a] - gain[b]) * F.logsigmoid(row[a] - row[b]) / math.log(2)
                    n_pairs += 1
    return check_against(LambdaLoss(Scorer(), k=k), scores, labels, total / n_pairs)


def list_net(scores, labels):
    return check_against(ListNetLoss(Scorer()), scores, labels, F.cross_entropy(scores, labels.softmax(1)))


# Query 2 repeats query 0; the second negative of query 1 is a positive of query 0; the third negative of query 0 is the
# text of query 1's positive under another id.
GROUPS = [
    {"query_id": "q0", "query": "a", "positives": ["p0", "p9"], "passages": [["p0", "A"], ["p1", "B"], ["p2", "C"], ["p3", "D"]]},
    {"query_id": "q1", "query": "b", "positives": ["p4"], "passages": [["p4", "D"], ["p5", "E"], ["p9", "F"], ["p6", "G"]]},
    {"query_id": "q2", "query": "a", "positives": ["p7"], "passages": [["p7", "H"], ["p8", "I"], ["p1", "B"], ["p5", "E"]]},
]


def known_to_be_relevant():
    """Returns the mask of GROUPS, rule by rule."""
    columns = [passage for group in GROUPS for passage in group["passages"]]
    rows = []
    for i, group in enumerate(GROUPS):
        same = [other for other in GROUPS if other["query_id"] == group["query_id"] or other["query"] == group["query"]]
        ids = {id for other in same for id in other["positives"]} | {other["passages"][0][0] for other in same}
        texts = {other["passages"][0][1] for other in same}
        rows.append([j != i * N and (id in ids or text in texts) for j, (id, text) in enumerate(columns)])
    return torch.tensor(rows)


def make_groups(vocabulary):
    """Returns queries (3) and passages (3·N) as ids without special tokens, and teacher scores, of several lengths."""
    generator = torch.Generator().manual_seed(7)

    def text(length):
        return torch.randint(5, vocabulary, (length,), generator=generator).tolist()

    queries = [text(n) for n in (2, 5, 3)]
    passages = [text(n) for n in (9, 4, 12, 1, 7, 20, 3, 8, 15, 6, 11, 2)]
    return queries, passages, torch.randn(B, N, generator=generator, dtype=torch.float64) * 2


def pad(texts, config):
    """Returns model inputs for (ids, type ids) of texts."""
    length = max(len(ids) for ids, _ in texts)
    fill = lambda row, value: row + [value] * (length - len(row))
    inputs = {
        "input_ids": torch.tensor([fill(ids, config.pad_token_id) for ids, _ in texts]),
        "attention_mask": torch.tensor([fill([1] * len(ids), 0) for ids, _ in texts]),
    }
    if getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.tensor([fill(types, 0) for _, types in texts])
    return inputs


def gradients(model):
    """Returns length and one inner product of each gradient."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            flat = parameter.grad.flatten()
            direction = torch.cos(0.7 * torch.arange(len(flat), dtype=torch.float64) + 0.3)
            found[name] = [flat.norm().item(), (flat @ direction).item()]
    return found


def bi_encoder_step(folder):
    """SimLM's stage 4 on a mean-pooled, normalized model: KL + 0.2 of the full contrastive loss, temperature 0.05."""
    model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager")
    model = model.double().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    queries, passages, teacher = make_groups(model.config.vocab_size)

    def embed(texts):
        wrapped = [[tokenizer.cls_token_id, *text, tokenizer.sep_token_id] for text in texts]
        inputs = pad([(ids, [0] * len(ids)) for ids in wrapped], model.config)
        mask = inputs["attention_mask"].double()[:, :, None]
        hidden = model(**inputs).last_hidden_state
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)

    query_vectors, passage_vectors = embed(queries), embed(passages)
    student = torch.einsum("bh,bnh->bn", query_vectors, passage_vectors.reshape(B, N, -1))
    loss = kl(student, teacher, 0.05, "batch_mean") + 0.2 * full_contrastive(query_vectors, passage_vectors, 0.05)
    loss.backward()
    return {"queries": queries, "passages": passages, "teacher": teacher.tolist(), "loss": loss.item(), "gradients": gradients(model)}


def cross_encoder_step(folder):
    """Listwise softmax over groups."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    model = model.double().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    queries, passages, teacher = make_groups(model.config.vocab_size)
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    between = [end, end] if model.config.model_type == "roberta" else [end]

    def pair(query, passage):
        first = [start, *query, *between]
        types = [0] * len(first) + [0 if len(between) == 2 else 1] * (len(passage) + 1)
        return [*first, *passage, end], types

    inputs = pad([pair(queries[i // N], passage) for i, passage in enumerate(passages)], model.config)
    loss = listwise_softmax(model(**inputs).logits.reshape(B, N))
    loss.backward()
    return {"queries": queries, "passages": passages, "teacher": teacher.tolist(), "loss": loss.item(), "gradients": gradients(model)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(1)

    def draw(*shape, scale=1.0):
        values = torch.randn(*shape, generator=generator, dtype=torch.float32) * scale
        return values.to(torch.float64)

    cases = []

    def add(name, function, inputs, constants=None, **settings):
        leaves = {key: value.clone().requires_grad_() for key, value in inputs.items()}
        constants = constants or {}
        loss = function(**leaves, **constants, **settings)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        case = {"name": name, "settings": settings, "loss": loss.item()}
        case["inputs"] = {key: value.tolist() for key, value in (inputs | constants).items()}
        case["gradients"] = {key: gradient.tolist() for key, gradient in zip(leaves, gradients)}
        cases.append(case)

    vectors = {"queries": draw(B, H), "passages": draw(B * N, H)}
    masked = {"masked": known_to_be_relevant()}
    add("info_nce", info_nce, vectors, temperature=0.7)
    add("info_nce, masked", info_nce, vectors, masked, temperature=0.7)
    add("full_contrastive", full_contrastive, vectors, temperature=0.5)
    add("full_contrastive, masked", full_contrastive, vectors, masked, temperature=0.5)
    add("in_group", in_group, vectors, temperature=0.5)
    add("matryoshka", matryoshka, vectors, temperature=0.1, widths=[[6, 1.0], [3, 0.5], [1, 0.25]])
    student, teacher = {"student": draw(B, N)}, {"teacher": draw(B, N, scale=3.0)}
    add("kl, batch mean", kl, student, teacher, temperature=0.5, reduction="batch_mean")
    add("kl, mean", kl, student, teacher, temperature=0.5, reduction="mean")
    add("soft_cross_entropy", soft_cross_entropy, student, teacher, temperature=0.5)
    add("margin_mse", margin_mse, student, teacher)
    add("in_batch_distillation", in_batch_distillation, vectors, teacher, temperature=0.5)
    scores = {"scores": draw(B, N, scale=2.0)}
    add("binary_cross_entropy", binary_cross_entropy, scores)
    add("margin_ranking", margin_ranking, scores, margin=1.0)
    add("soft_margin_ranking", soft_margin_ranking, scores, margin=1.0)
    add("rank_net", soft_margin_ranking, scores, margin=0.0)
    add("listwise_softmax", listwise_softmax, scores)
    add("r_drop", r_drop, {"first": scores["scores"], "second": draw(B, N, scale=2.0)})
    vectors = {"queries": draw(B, H), "passages": draw(B * 2, H)}
    guides = {"guide_queries": draw(B, H), "guide_passages": draw(B * 2, H)}
    for kind, margin in ("absolute", 0.0), ("absolute", 0.2), ("relative", 0.3):
        add("gist", gist, vectors, guides, temperature=0.1, margin=margin, kind=kind)
    labels = {"labels": torch.tensor([[2, 0, 1, 0], [1, 0, 0, 0], [0, 3, 0, 1]], dtype=torch.float64)}
    for k in None, 2:
        add("lambda", lambda_loss, scores, labels, mu=10.0, k=k)
    add("list_net", list_net, scores, labels)

    args.out.mkdir(parents=True, exist_ok=True)
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "python": platform.python_version(),
    }
    record = {"made_by": {"script": "trainer_golden.py", **versions}, "groups": GROUPS, "cases": cases}
    (args.out / "losses.json").write_text(json.dumps(record) + "\n")
    for case in cases:
        print(f"{case['name']}: {case['loss']}")
    steps = {name: bi_encoder_step(args.models / name) for name in ("tiny-bert", "tiny-mpnet")}
    for name in ("tiny-cross-bert", "tiny-cross-roberta", "tiny-cross-distilbert"):
        steps[name] = cross_encoder_step(args.models / name)
    record = {"made_by": {"script": "trainer_golden.py", **versions}, "steps": steps}
    (args.out / "steps.json").write_text(json.dumps(record) + "\n")
    for name, step in steps.items():
        print(f"{name}: {step['loss']}")


if __name__ == "__main__":
    main()
