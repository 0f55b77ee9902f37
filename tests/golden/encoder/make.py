#!/usr/bin/env python3
"""Write the golden file of a bi-encoder: texts and the vectors sentence-transformers gives them.

    python make.py --model all-MiniLM-L6-v2 --out minilm/golden.json

The format is described in README.md; `trawl model check` reads it. Each text is encoded
alone, in f32 on one thread, so that no vector depends on batch or padding.
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import safetensors
import sentence_transformers
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer

TOLERANCE = {
    "cosine": 0.99999,
    "max_abs": 1e-4,
    "reason": "f32 sums in another order differ by about 1e-6 per value; a wrong token, mask, "
    "position or pooling weight moves values by far more than 1e-4",
}

# Ordinary sentences; also the words from which texts of an exact length are cut.
PASSAGES = [
    "The lighthouse keeper wrote down the height of every wave that reached the lamp.",
    "Bread rises because yeast turns sugar into carbon dioxide, which the gluten holds in small bubbles.",
    "How long does it take for light from the Sun to reach the Earth?",
    "A hash table answers most lookups in constant time, but a bad hash function makes it crawl.",
    "In 1883 the eruption of Krakatoa was heard almost five thousand kilometres away.",
    "Patients with high blood pressure often feel nothing at all until an organ is damaged.",
    "She tuned the cello a quarter tone flat, and the whole quartet followed her without a word.",
    "The committee voted 7-2 against the proposal; its chair resigned the same evening.",
    "Glaciers flow downhill under their own weight, a few centimetres to several metres a day.",
    "what is the capital of australia",
    "Inflation fell to 2.1% in March, while wages grew by 3.4 per cent.",
    "To reset the router, hold the small button on its back for ten seconds.",
]

WORDS = (
    "river stone market engine garden letter winter copper signal harbor bridge forest candle mirror "
    "window orange doctor planet needle basket thunder village silver morning pocket ladder"
).split()

SCRIPTS = [
    ("Arabic", "كانت المكتبة القديمة تفتح أبوابها كل صباح قبل شروق الشمس."),
    ("Arabic, vowelled", "كِتَابٌ جَدِيدٌ"),
    ("Hebrew", "הספרייה הישנה נפתחת כל בוקר לפני הזריחה."),
    ("Chinese", "图书馆每天早上六点开门,读者可以免费借书。"),
    ("Chinese, traditional", "圖書館每天早上六點開門。"),
    ("Japanese", "図書館は毎朝六時に開きます。カタカナとひらがなも読みます。"),
    ("Korean", "도서관은 매일 아침 여섯 시에 문을 엽니다."),
    ("Hindi", "पुस्तकालय हर सुबह छह बजे खुलता है।"),
    ("Thai", "ห้องสมุดเปิดทุกเช้าเวลาหกโมง"),
    ("Russian", "Библиотека открывается каждое утро в шесть часов."),
    ("Greek", "Η βιβλιοθήκη ανοίγει κάθε πρωί στις έξι."),
    ("Turkish, dotted and dotless i", "İstanbul'da ılık bir sabah; IŞIK ve ışık."),
    ("German", "Die Straßenbahn fährt über die große Brücke, GROẞE STRASSE."),
    ("Vietnamese", "Thư viện mở cửa lúc sáu giờ mỗi sáng."),
    ("mixed scripts", "The word 図書館 means библиотека, or مكتبة, or पुस्तकालय 📚 in other places."),
]

ODDITIES = [
    "",
    " ",
    "\n\t \r\n",
    "tree",
    "Tree",
    "a",
    "?",
    "42",
    "🙂",
    "👩‍👩‍👧‍👦 🇳🇴 ✊🏽 emoji with joiners, flags and skin tones",
    "café naïve résumé Ångström",  # composed
    "cafe\u0301 nai\u0308ve re\u0301sume\u0301 A\u030angstro\u0308m",  # decomposed
    "ﬁne oﬃce ①②③ ½ ㎏ ＦＵＬＬＷＩＤＴＨ",
    "control\x00 char\x01act\x07ers \x1b[31mred\x7f \x80\x9f end",
    "a null\x00byte and a replacement \ufffd character",
    "tabs\tand\nnewlines\r\nand\x0bvertical\x0cform feeds",
    "zero\u200bwidth\u200cspace\u200djoiner\ufeff and soft\u00adhyphen",
    "non\u00a0breaking\u2003em\u2009thin\u3000ideographic spaces\u2028line\u2029paragraph",
    "\u200fright-to-left mark\u200e and \u202eoverride\u202c",
    "  leading and trailing spaces  ",
    "[CLS] [SEP] [MASK] [PAD] [UNK]",
    "the [MASK] sat on the mat[SEP]and <s>stayed</s> <mask> ##ing",
    "1,234.56 + 7e-10 = $99.99 (50% off!) #1 @ 3:30 p.m. 2024-02-29",
    "!!! ... --- ??? \"quoted\" 'single' “curly” ‘quotes’ — dashes – and … ellipsis",
    "https://www.example.org/path/to/page.html?query=a%20b&lang=en#section-2 mail@example.org",
    "fn main() { let x: Vec<u32> = (0..10).map(|i| i * i).collect(); println!(\"{x:?}\"); }",
    "SELECT id, title FROM passages WHERE score >= 0.75 ORDER BY score DESC;",
    "E = mc², ∫₀^∞ e^{-x²} dx = √π/2, α ≤ β ⇒ ∀x ∈ ℝ",
    "ALL CAPITALS SHOUTING ABOUT NOTHING",
    "\U0001d510\U0001d51e\U0001d531\U0001d525 astral letters \U00020000 \U0010fffd private use \ue000",
]


def long_texts():
    """Texts far over any limit, and words too long for a word-piece vocabulary."""
    return [
        "antidisestablishmentarianism" * 5,  # 140 characters: one unknown word
        "x" * 100,  # the longest word that is split
        "x" * 101,  # the shortest one that is not
        ("".join(PASSAGES) * 20)[:10_000],
        "漢字" * 400,
        "é" * 3_000,
    ]


def cut_to_pieces(tokenizer, n_pieces, last):
    """Returns a text of exactly `n_pieces` pieces, special tokens not counted, ending in the word `last`."""
    count = lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    words = []
    while count(" ".join([*words, last])) < n_pieces:
        words.append(WORDS[len(words) % len(WORDS)])
    while count(" ".join([*words, last])) > n_pieces:  # the last word overshot: end in one-piece words
        words.pop()
        while count(" ".join([*words, "a", last])) <= n_pieces:
            words.append("a")
    text = " ".join([*words, last])
    assert count(text) == n_pieces, (count(text), n_pieces)
    return text


def boundary_texts(tokenizer, lengths):
    """Pairs of texts that are equal but for their last word, for each length in pieces."""
    return [cut_to_pieces(tokenizer, n_pieces, last) for n_pieces in lengths for last in ("sun", "war")]


def standard_texts(tokenizer, max_tokens):
    """All texts of a golden file, each as (text, role)."""
    lengths = sorted({126, 127, 128, 129, 130} | {max_tokens - 2 + offset for offset in (-1, 0, 1, 2, 3)})
    texts = ODDITIES + [text for _, text in SCRIPTS] + PASSAGES + long_texts() + boundary_texts(tokenizer, lengths)
    queries = [text for text in PASSAGES if text.endswith("?") or text.islower()]
    return [(text, "passage") for text in texts] + [(text, "query") for text in queries]


def read_tokenizer(directory, max_tokens=None):
    """Returns the tokenizer of `tokenizer.json` without padding, truncating to `max_tokens` or not at all."""
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if max_tokens is not None:
        tokenizer.enable_truncation(max_tokens)
    return tokenizer


def prompt_of(model, role):
    """Returns the prompt that the model stores for a role, else the empty string.

    The names are those of `encode_query` and `encode_document`, in their order. Empty prompts are passed over:
    the library writes an empty `document` beside the `passage` that a model was given.
    """
    names = ["query"] if role == "query" else ["document", "passage", "corpus"]
    return next((model.prompts[name] for name in names if model.prompts.get(name)), "")


def encode_alone(model, texts):
    """Returns one f32 row per (text, role), each encoded by itself."""
    rows = [model.encode([text], prompt=prompt_of(model, role), batch_size=1)[0] for text, role in texts]
    return np.stack(rows).astype(np.float32)


def count_tokens(model, directory, inputs, seen):
    """Returns (tokens after truncation, whether any were cut) of a text or a (query, passage) pair.

    `seen` is the same input as preprocessed by the library: `tokenizer.json` alone must give those ids.
    """
    inputs = (inputs,) if isinstance(inputs, str) else inputs
    ids = read_tokenizer(directory, model.max_seq_length).encode(*inputs).ids
    assert seen["input_ids"][0].tolist() == ids, "tokenizer.json gives the ids that the model sees"
    return {"tokens": len(ids), "truncated": len(read_tokenizer(directory).encode(*inputs).ids) > len(ids)}


def describe(model, directory, text, role):
    """Returns the entry of one text."""
    prompt = prompt_of(model, role)
    seen = model.preprocess([text], prompt=prompt)
    return {"text": text, "role": role, **count_tokens(model, directory, prompt + text, seen)}


def made_by(script):
    """Returns the script's name and the versions that shape its output."""
    return {
        "script": script,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "sentence-transformers": sentence_transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "safetensors": safetensors.__version__,
            "numpy": np.__version__,
        },
    }


def write_golden(path, head, entries_name, entries, **arrays):
    """Writes a golden file with one entry or row per line; values keep 9 significant digits, exact for f32."""
    fields = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    lines = ",\n".join(json.dumps(entry, ensure_ascii=True) for entry in entries)
    fields.append(f"{json.dumps(entries_name)}: [\n{lines}\n]")
    for key, rows in arrays.items():
        lines = ",\n".join("[" + ",".join(f"{value:.9g}" for value in row) + "]" for row in rows.tolist())
        fields.append(f"{json.dumps(key)}: [\n{lines}\n]")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{" + ",\n".join(fields) + "}\n", encoding="utf-8")
    assert all(np.array_equal(np.float32(json.loads(path.read_text())[key]), rows) for key, rows in arrays.items())


def load_bi_encoder(directory):
    """Returns the model of a directory, in f32 on the CPU."""
    return SentenceTransformer(str(directory), device="cpu", model_kwargs={"dtype": torch.float32})


def write_bi_encoder(path, script, directory, texts):
    """Encodes (text, role) pairs with the model of a directory and writes their golden file."""
    model = load_bi_encoder(directory)
    vectors = encode_alone(model, texts)
    assert np.isfinite(vectors).all()
    head = {"format": 1, "kind": "bi-encoder", "made_by": made_by(script), "tolerance": TOLERANCE}
    entries = [describe(model, directory, text, role) for text, role in texts]
    write_golden(path, head, "texts", entries, vectors=vectors)
    print(f"{path}: {len(texts)} texts, {vectors.shape[1]} dimensions")
    report_noise(model, texts, vectors)


def report_noise(model, texts, vectors):
    """Prints how far batching alone and f64 arithmetic move the reference: the floor under the tolerance."""
    passages = [index for index, (_, role) in enumerate(texts) if role == "passage"]
    prompt = prompt_of(model, "passage")
    batched = model.encode([texts[index][0] for index in passages], prompt=prompt, batch_size=32)
    exact = model.double().encode([texts[index][0] for index in passages], prompt=prompt, batch_size=32)
    model.float()
    print(f"  batch of 32 against alone: max abs {np.abs(batched - vectors[passages]).max():.1e}")
    print(f"  f64 against f32:           max abs {np.abs(exact - vectors[passages]).max():.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="sentence-transformers model directory")
    parser.add_argument("--out", type=Path, required=True, help="golden file to write")
    args = parser.parse_args()

    torch.set_num_threads(1)
    max_tokens = load_bi_encoder(args.model).max_seq_length
    write_bi_encoder(args.out, "make.py", args.model, standard_texts(read_tokenizer(args.model), max_tokens))


if __name__ == "__main__":
    main()
