#!/usr/bin/env python3
"""Makes the golden files of pre-training data, from the published procedures and without trawl.

    python3 pretraining_data_golden.py --tokenizer tests/fixtures/models/tiny-bert/tokenizer.json \\
        --sample tests/fixtures/sample --corpus tests/fixtures/training/corpus.jsonl --out tests/golden/pretraining

Written are
- `masks.json`: whole-word masks, keyword masks by counts and by tf-idf, and RetroMAE's visibility of small lists of tokens, each
  with its exact chance: all orders of the words are walked through. The keyword masks are also drawn 200,000 times by MASTER's rounds of
  ten draws with replacement, and the script ends with an error if these differ from the exact chances;
- `spans.json`: documents given by the lengths of their sentences, the spans they are packed into with CoT-MAE's
  `short_sentence_prob` 0, and for each span every pair that may be drawn, as first and last token;
- `master.jsonl`: lines of the shape that MASTER's loader reads, token ids of the sample corpus;
- `frequency.json` and `frequency-texts.json`: the word counts of `master.jsonl`, and of a corpus as
  `<title> <text>`.

Needs Python 3.9 and, for `master.jsonl`, the tokenizers library (0.23).
"""

import argparse
import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def group(tokens, skipped):
    """Returns the words of a list of tokens, each a list of positions."""
    words = []
    for position, token in enumerate(tokens):
        if token in skipped:
            continue
        if token.startswith("##") and words:
            words[-1].append(position)
        else:
            words.append([position])
    return words


def budget(n_tokens, ratio):
    return min(512, max(1, int(round(n_tokens * ratio))))


def bits(n_tokens, hidden):
    return "".join("1" if position in hidden else "0" for position in range(n_tokens))


def whole_words(tokens, skipped, ratio):
    """Returns each mask and its chance, over all orders of the words."""
    words, most, chances = group(tokens, skipped), budget(len(tokens), ratio), Counter()
    orders = list(itertools.permutations(words))
    for order in orders:
        hidden = set()
        for word in order:
            if len(hidden) >= most:
                break
            if len(hidden) + len(word) > most:
                continue
            hidden.update(word)
        chances[bits(len(tokens), hidden)] += 1 / len(orders)
    return words, most, dict(sorted(chances.items()))


def spelled(tokens):
    return ["".join(tokens[position] for position in word) for word in group(tokens, SPECIAL)]


def inverse_counts(tokens, counts):
    return [1 / counts.get(word, 1) for word in spelled(tokens)]


def tf_idf(tokens, texts):
    """Returns the weight of each word as scikit-learn's TfidfVectorizer(norm=None) has it."""
    own, of_texts = spelled(tokens), [set(spelled(text.split())) for text in texts]

    def idf(word):
        return math.log((1 + len(texts)) / (1 + sum(word in words for words in of_texts))) + 1

    return [own.count(word) * idf(word) for word in own]


def keywords(tokens, weights, ratio):
    """Returns each keyword mask and its chance: words are drawn without replacement, by their weights."""
    words = group(tokens, SPECIAL)
    least = budget(sum(map(len, words)), ratio)
    chances = Counter()

    def draw(left, hidden, chance):
        if len(hidden) >= least or not left:
            chances[bits(len(tokens), hidden)] += chance
            return
        total = sum(weights[word] for word in left)
        for word in left:
            rest = [other for other in left if other != word]
            draw(rest, hidden | set(words[word]), chance * weights[word] / total)

    draw(list(range(len(words))), set(), 1.0)
    return least, dict(sorted(chances.items()))


def keywords_by_rounds(tokens, weights, ratio, n_draws):
    """Returns how often each mask comes of rounds of ten draws with replacement, as MASTER draws them."""
    words = group(tokens, SPECIAL)
    least, generator, found = budget(sum(map(len, words)), ratio), random.Random(1), Counter()
    for _ in range(n_draws):
        left, hidden = list(range(len(words))), set()
        while left and len(hidden) < least:
            for word in generator.choices(left, [weights[word] for word in left], k=10):
                if len(hidden) >= least:
                    break
                hidden.update(words[word])
            left = [word for word in left if words[word][0] not in hidden]
        found[bits(len(tokens), hidden)] += 1
    return found


def keyword_case(text, weights, ratio):
    tokens, n_draws = text.split(), 200_000
    least, chances = keywords(tokens, weights, ratio)
    rounds = keywords_by_rounds(tokens, weights, ratio, n_draws)
    for mask in set(chances) | set(rounds):
        chance = chances.get(mask, 0)
        bound = 5 * (n_draws * chance * (1 - chance)) ** 0.5
        assert abs(rounds[mask] - n_draws * chance) <= bound, (text, mask, rounds[mask] / n_draws, chance)
    return {"ratio": ratio, "budget": least, "weights": weights, "chances": chances}


def make_masks():
    cases = {"whole_words": [], "keywords": [], "keywords_by_tf_idf": [], "visibility": []}
    for text, skipped, ratio in [
        ("a b c d", "special", 0.5),
        ("a ##b x", "special", 0.5),  # 1.5 rounds to 2
        ("a ##b ##c x y", "special", 0.5),  # 2.5 rounds to 2: the long word never fits
        ("##b a [UNK] ##c x [SEP] y", "special", 0.4),
        ("##b a [UNK] ##c x [SEP] y", "bounds", 0.4),
        ("[CLS] a ##b x [SEP]", "bounds", 0.5),
        ("[CLS] [UNK] ##b x [MASK] y ##b ##c [SEP]", "bounds", 0.3),
        ("[SEP] [UNK]", "special", 0.3),
    ]:
        tokens = text.split()
        left_out = SPECIAL if skipped == "special" else ["[CLS]", "[SEP]"]
        words, most, chances = whole_words(tokens, left_out, ratio)
        case = {"tokens": text, "skipped": skipped, "ratio": ratio, "words": words, "budget": most}
        cases["whole_words"].append({**case, "chances": chances})
    for text, counts, ratio in [
        ("the cat ##fish the zzz", {"the": 100, "cat##fish": 2}, 0.5),
        ("the [SEP] cat [UNK] ##fish the", {"the": 7, "cat##fish": 3, "cat": 1000}, 0.5),
        ("a b c d e", {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, 0.6),
        ("a a a a", {"a": 9}, 0.3),
        ("##fish the", {"##fish": 4, "the": 4}, 0.3),
    ]:
        case = keyword_case(text, inverse_counts(text.split(), counts), ratio)
        cases["keywords"].append({"tokens": text, "counts": counts, **case})
    texts = ["the cat ##fish sat", "the the dog dog", "[CLS] the zzz [SEP] cat", "a dog [UNK] ##fish the"]
    for text, ratio in [("the cat ##fish the dog [SEP] new", 0.5), ("##fish dog dog the", 0.3)]:
        case = keyword_case(text, tf_idf(text.split(), texts), ratio)
        cases["keywords_by_tf_idf"].append({"tokens": text, "texts": texts, **case})
    for text, ratio in [("[CLS] a ##b x [SEP]", 0.5), ("[CLS] a [UNK] ##b x y [SEP]", 0.3)]:
        tokens = text.split()
        _, _, chances = whole_words(tokens, ["[CLS]", "[SEP]"], ratio)
        rows = []
        for row in range(len(tokens)):
            hidden = Counter()
            for mask, chance in chances.items():
                hidden[mask[:row] + "1" + mask[row + 1 :]] += chance
            rows.append(dict(sorted(hidden.items())))
        cases["visibility"].append({"tokens": text, "ratio": ratio, "rows": rows})
    return cases


def pack(lengths, max_tokens):
    """Returns spans as lists of sentences, a sentence being its first token and the one behind its last."""
    ends = list(itertools.accumulate(lengths))
    sentences = [(end - length, end) for end, length in zip(ends, lengths) if length]
    spans, span, n_tokens = [], [], 0
    for sentence in sentences:
        span.append(sentence)
        n_tokens += sentence[1] - sentence[0]
        if n_tokens > max_tokens:
            spans.append(span)
            span, n_tokens = [], 0
    return spans + [span] if span else spans


def overlaps(spans, i, max_tokens):
    """Returns the overlaps of span i, one for each number of sentences that may be shared."""
    half = len(spans[i]) // 2
    found = []
    for n_shared in [1] if half < 2 else range(1, half + 1):
        if i + 1 < len(spans):
            taken = spans[i][-n_shared:]
            for sentence in itertools.chain(*spans[i + 1 :]):
                if taken[-1][1] - taken[0][0] >= max_tokens:
                    break
                taken = taken + [sentence]
        else:
            taken = spans[i][:n_shared]
            for sentence in reversed(list(itertools.chain(*spans[:i]))):
                if taken[-1][1] - taken[0][0] >= max_tokens:
                    break
                taken = [sentence] + taken
        found.append([taken[0][0], taken[-1][1] - 1])
    return found


def make_spans():
    generator = random.Random(7)
    documents = [
        ([60, 50, 30, 10, 90, 50], 128, 100),
        ([128, 1, 128], 128, 100),
        ([200, 300, 5], 128, 100),
        ([20, 20], 128, 100),
        ([], 128, 100),
    ]
    for n_sentences in (5, 12, 30, 80):
        documents.append(([generator.randint(0, 40) for _ in range(n_sentences)], 64, 100))
        documents.append(([generator.randint(1, 6) for _ in range(n_sentences)], 16, 2))
    cases = []
    for lengths, max_tokens, window in documents:
        spans = pack(lengths, max_tokens)
        anchors = [[span[0][0], span[-1][1] - 1] for span in spans]
        pairs = []
        for i in range(len(spans) if len(spans) > 1 else 0):
            others = [j for j in range(len(spans)) if j != i]
            pairs.append(
                {
                    "anchor": anchors[i],
                    "random_sampled": [anchors[j] for j in others if abs(i - j) <= window],
                    "nearby": [anchors[j] for j in others if abs(i - j) == 1],
                    "overlap": overlaps(spans, i, max_tokens),
                }
            )
        cases.append(
            {
                "lengths": lengths,
                "max_tokens": max_tokens,
                "window": window,
                "spans": [[end - start for start, end in span] for span in spans],
                "pairs": pairs,
            }
        )
    return cases


def count_words(texts, tokenizer):
    counts = Counter()
    for ids in texts:
        words = []
        for token in map(tokenizer.id_to_token, ids):
            if token in SPECIAL:
                continue
            if token.startswith("##") and words:
                words[-1] += token
            else:
                words.append(token)
        counts.update(words)
    return dict(sorted(counts.items()))


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make_master(sample, tokenizer):
    """Returns the lines of MASTER's loader."""

    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    corpus, queries = read_lines(sample / "corpus.jsonl"), read_lines(sample / "queries.jsonl")
    separator = tokenizer.token_to_id("[SEP]")
    lines = []
    for number, passage in enumerate(corpus[:12]):
        asked = [queries[(number + turn) % len(queries)]["text"] for turn in range(number % 4)]
        lines.append(
            {
                "text": ids(passage["title"]) + [separator] + ids(passage["text"]),
                "queries": [ids(query) for query in asked],
                "next": [ids(corpus[number + 1]["text"])[:60]],
            }
        )
    # A continuation that is empty, a line that begins within a word, and one without a word.
    inside = next(id for id in lines[0]["text"] if tokenizer.id_to_token(id).startswith("##"))
    lines.append({"text": [inside, *lines[3]["text"][:9]], "queries": [], "next": [[]]})
    lines.append({"text": [separator], "queries": [], "next": []})
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--sample", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    lines = make_master(args.sample, tokenizer)
    passages = [f"{passage.get('title', '')} {passage['text']}" for passage in read_lines(args.corpus)]
    texts = [tokenizer.encode(passage, add_special_tokens=False).ids for passage in passages]
    with (args.out / "master.jsonl").open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    for name, value in [
        ("masks.json", make_masks()),
        ("spans.json", make_spans()),
        ("frequency.json", count_words([line["text"] for line in lines], tokenizer)),
        ("frequency-texts.json", count_words(texts, tokenizer)),
    ]:
        text = json.dumps(value, ensure_ascii=False, indent=None if name == "spans.json" else 1)
        (args.out / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
