//! Word pieces learned from texts, as BERT has them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::json;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer,
};

/// Special tokens, in the order of their ids.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Tokens of a text that the tokenizer's configuration names as the most.
const MAX_TOKENS: usize = 512;

/// Characters of a word; a longer one is unknown.
const MOST_CHARACTERS: usize = 100;
/// What a piece within a word begins with.
const PREFIX: &str = "##";

/// How word pieces are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordPieceConfig {
    /// Entries of the vocabulary, the special tokens among them; there are fewer where the texts have no more.
    pub n_pieces: usize,
    /// Whether letters become small and lose their accents first.
    pub lower_case: bool,
    /// How often a pair of pieces has to occur to become one.
    pub least_count: u64,
}

/// A tokenizer whose pieces were learned: of BERT's kind, which every method here takes.
pub struct LearnedWordPieces {
    tokenizer: Tokenizer,
    lower_case: bool,
}

/// Words of some texts, and how often each occurs.
#[derive(Default)]
pub struct WordCounts(HashMap<String, u64>);

impl WordCounts {
    /// Counts the words of a text, as BERT splits it, but for those of more than 100 characters.
    ///
    /// # Errors
    /// What the tokenizers crate says.
    pub fn add(&mut self, text: &str, lower_case: bool) -> Result<(), String> {
        let mut split = PreTokenizedString::from(text);
        let normalizer = normalizer(lower_case);
        let normalized = split.normalize(|part| normalizer.normalize(part));
        let done = normalized.and_then(|()| BertPreTokenizer.pre_tokenize(&mut split));
        done.map_err(|error| error.to_string())?;
        for (word, ..) in split.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            if word.chars().nth(MOST_CHARACTERS).is_some() {
                continue; // it would be unknown
            }
            match self.0.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(self.0.insert(word.to_owned(), 1)),
            }
        }
        Ok(())
    }

    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds other counts.
    pub fn merge(&mut self, others: Self) {
        for (word, n) in others.0 {
            *self.0.entry(word).or_default() += n;
        }
    }
}

fn normalizer(lower_case: bool) -> BertNormalizer {
    BertNormalizer::new(true, true, None, lower_case)
}

impl LearnedWordPieces {
    /// Learns from the words of texts.
    ///
    /// Pieces are joined by how often they stand beside each other, as in byte-pair encoding (Sennrich et al. 2016, arXiv
    /// 1508.07909, algorithm 1); among equal counts the pair of the older pieces is joined first. So do the tokenizers crate and
    /// others; the trainer of BERT's own pieces, which looks at likelihoods, was not published. Words are cut by the longest piece that
    /// fits, as in BERT. The crate's trainer is not taken: its pieces differ from run to run.
    ///
    /// # Errors
    /// What the tokenizers crate says.
    pub fn learn(config: &WordPieceConfig, words: &WordCounts) -> Result<Self, String> {
        let n_own = config.n_pieces.saturating_sub(SPECIAL.len());
        let own = Pieces::of(words, n_own).join(n_own, config.least_count);
        let special = SPECIAL.map(str::to_owned);
        let vocabulary: BTreeMap<String, u32> = special.into_iter().chain(own).zip(0..).collect();
        let added = SPECIAL.map(|token| {
            json!({
                "id": vocabulary[token], "content": token, "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            })
        });
        let normalizer = json!({
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": config.lower_case,
        });
        let described = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "post_processor": {
                "type": "BertProcessing",
                "sep": ["[SEP]", vocabulary["[SEP]"]],
                "cls": ["[CLS]", vocabulary["[CLS]"]],
            },
            "decoder": { "type": "WordPiece", "prefix": PREFIX, "cleanup": true },
            "model": {
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": PREFIX,
                "max_input_chars_per_word": MOST_CHARACTERS, "vocab": vocabulary,
            },
        });
        let tokenizer: Tokenizer = described
            .to_string()
            .parse()
            .map_err(|error: tokenizers::Error| error.to_string())?;
        Ok(Self {
            tokenizer,
            lower_case: config.lower_case,
        })
    }

    /// Entries of the vocabulary.
    pub fn n_pieces(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `vocab.txt`, which transformers and trawl read.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        let config = json!({
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lower_case,
            "tokenize_chinese_chars": true,
            "strip_accents": null,
            "model_max_length": MAX_TOKENS,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        });
        let mut pieces: Vec<(String, u32)> = self.tokenizer.get_vocab(true).into_iter().collect();
        pieces.sort_by_key(|&(_, id)| id);
        let mut vocabulary = String::new();
        for (piece, _) in &pieces {
            writeln!(vocabulary, "{piece}").expect("a string grows");
        }
        let tokenizer = self.tokenizer.to_string(true).map_err(io::Error::other)?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("vocab.txt"), vocabulary)?;
        fs::write(
            folder.join("tokenizer_config.json"),
            format!("{config:#}\n"),
        )?;
        fs::write(folder.join("tokenizer.json"), tokenizer)
    }
}

/// Words as pieces, which are joined step by step.
struct Pieces {
    /// By number, in the order in which they were made.
    texts: Vec<String>,
    numbers: HashMap<String, u32>,
    /// The pieces of each word, and how often it occurs.
    words: Vec<(Vec<u32>, u64)>,
    /// How often two pieces stand beside each other, and the words in which they did at some time.
    pairs: HashMap<(u32, u32), (u64, Vec<u32>)>,
}

impl Pieces {
    /// Single characters, the most frequent ones where there are more than `most`. Words with others are left out.
    fn of(words: &WordCounts, most: usize) -> Self {
        let words: BTreeMap<&str, u64> = words
            .0
            .iter()
            .map(|(word, &n)| (word.as_str(), n))
            .collect();
        let mut counts = BTreeMap::<String, u64>::new();
        for (word, n) in &words {
            for piece in characters(word) {
                *counts.entry(piece).or_default() += n;
            }
        }
        let mut kept: Vec<(String, u64)> = counts.into_iter().collect();
        kept.sort_by_key(|&(_, n)| Reverse(n)); // stable
        kept.truncate(most);
        let mut texts: Vec<String> = kept.into_iter().map(|(piece, _)| piece).collect();
        texts.sort();
        let numbers: HashMap<String, u32> = texts.iter().cloned().zip(0..).collect();
        let numbered = words.into_iter().filter_map(|(word, n)| {
            let numbers = characters(word).map(|piece| numbers.get(&piece).copied());
            Some((numbers.collect::<Option<Vec<u32>>>()?, n))
        });
        let mut pieces = Self {
            words: numbered.collect(),
            pairs: HashMap::new(),
            texts,
            numbers,
        };
        for word in 0..pieces.words.len() {
            pieces.count(word);
        }
        pieces
    }

    /// Counts the pairs of a word.
    fn count(&mut self, word: usize) {
        let (pieces, n) = &self.words[word];
        for pair in pieces.windows(2) {
            let (count, words) = self.pairs.entry((pair[0], pair[1])).or_default();
            *count += n;
            if words.last() != Some(&(word as u32)) {
                words.push(word as u32);
            }
        }
    }

    /// Joins the most frequent pairs until there are `most` pieces, or none occurs `least_count` times.
    fn join(mut self, most: usize, least_count: u64) -> Vec<String> {
        let entry = |(&pair, &(n, _)): (&(u32, u32), &(u64, _))| (n, Reverse(pair));
        let mut queue: BinaryHeap<(u64, Reverse<(u32, u32)>)> =
            self.pairs.iter().map(entry).collect();
        while self.texts.len() < most
            && let Some((n, Reverse(pair))) = queue.pop()
        {
            let now = self.pairs.get(&pair).map_or(0, |&(now, _)| now);
            if now != n {
                queue.push((now, Reverse(pair))); // it has become rarer
                continue;
            }
            if n < least_count.max(1) {
                break;
            }
            for changed in self.join_pair(pair) {
                queue.push((self.pairs[&changed].0, Reverse(changed)));
            }
        }
        self.texts
    }

    /// Makes one piece of two, wherever they stand beside each other, and returns the pairs that have become more frequent.
    fn join_pair(&mut self, (first, second): (u32, u32)) -> Vec<(u32, u32)> {
        let text = format!(
            "{}{}",
            self.texts[first as usize],
            self.texts[second as usize].trim_start_matches(PREFIX)
        );
        let joined = match self.numbers.get(&text) {
            Some(&number) => number, // another pair has made it, too
            None => {
                let number = self.texts.len() as u32;
                self.numbers.insert(text.clone(), number);
                self.texts.push(text);
                number
            }
        };
        let (_, words) = self.pairs.remove(&(first, second)).expect("it was counted");
        let mut changed = HashSet::new();
        for word in words {
            let (pieces, n) = &mut self.words[word as usize];
            if !pieces.windows(2).any(|pair| pair == [first, second]) {
                continue;
            }
            for pair in pieces.windows(2) {
                if let Some((count, _)) = self.pairs.get_mut(&(pair[0], pair[1])) {
                    *count -= *n;
                }
            }
            let mut kept = 0;
            let mut at = 0;
            while at < pieces.len() {
                let is_pair = pieces[at..].starts_with(&[first, second]);
                pieces[kept] = if is_pair { joined } else { pieces[at] };
                at += if is_pair { 2 } else { 1 };
                kept += 1;
            }
            pieces.truncate(kept);
            let pairs = pieces.windows(2).map(|pair| (pair[0], pair[1]));
            changed.extend(pairs.filter(|pair| pair.0 == joined || pair.1 == joined));
            self.count(word as usize);
        }
        let mut changed: Vec<_> = changed.into_iter().collect();
        changed.sort_unstable();
        changed
    }
}

/// The characters of a word as pieces.
fn characters(word: &str) -> impl Iterator<Item = String> {
    let prefixes = std::iter::once("").chain(std::iter::repeat(PREFIX));
    word.chars()
        .zip(prefixes)
        .map(|(character, prefix)| format!("{prefix}{character}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(words: &[(&str, u64)], most: usize, least_count: u64) -> Vec<String> {
        let counts = words.iter().map(|&(word, n)| (word.to_owned(), n));
        Pieces::of(&WordCounts(counts.collect()), most).join(most, least_count)
    }

    /// The slow way: counts all pairs anew for every piece.
    fn slowly(words: &[(&str, u64)], most: usize) -> Vec<String> {
        let mut words: Vec<(Vec<String>, u64)> = words
            .iter()
            .map(|&(word, n)| (characters(word).collect(), n))
            .collect();
        let mut pieces: Vec<String> = words.iter().flat_map(|(word, _)| word.clone()).collect();
        pieces.sort();
        pieces.dedup();
        while pieces.len() < most {
            let mut counts = HashMap::<(usize, usize), u64>::new();
            for (word, n) in &words {
                for pair in word.windows(2) {
                    let number = |piece| pieces.iter().position(|known| known == piece).unwrap();
                    *counts
                        .entry((number(&pair[0]), number(&pair[1])))
                        .or_default() += n;
                }
            }
            let Some((&(a, b), _)) = counts.iter().max_by_key(|&(&pair, &n)| (n, Reverse(pair)))
            else {
                break;
            };
            let (a, b) = (pieces[a].clone(), pieces[b].clone());
            let joined = format!("{a}{}", b.trim_start_matches(PREFIX));
            for (word, _) in &mut words {
                while let Some(at) = word
                    .windows(2)
                    .position(|pair| pair == [a.clone(), b.clone()])
                {
                    word.splice(at..at + 2, [joined.clone()]);
                }
            }
            if !pieces.contains(&joined) {
                pieces.push(joined);
            }
        }
        pieces
    }

    const WORDS: [(&str, u64); 9] = [
        ("low", 5),
        ("lower", 2),
        ("newest", 6),
        ("widest", 3),
        ("banana", 4),
        ("aaaa", 7),
        ("aaaaa", 2),
        ("newer", 5),
        ("x", 1),
    ];

    #[test]
    fn pieces_are_those_of_the_algorithm() {
        for most in [20, 24, 27, 31, 200] {
            assert_eq!(learned(&WORDS, most, 1), slowly(&WORDS, most), "{most}");
        }
        let [all, few] = [1, 6].map(|least_count| learned(&WORDS, 200, least_count));
        assert!(
            few.contains(&"newest".to_owned()) && !few.contains(&"widest".to_owned()),
            "{few:?}"
        );
        assert!(all.contains(&"widest".to_owned()), "{all:?}");
    }

    #[test]
    fn rare_characters_give_way_where_there_is_no_room() {
        let words = [("ab", 9), ("ac", 5), ("zb", 1)];
        assert_eq!(learned(&words, 3, 1), ["##b", "##c", "a"]);
        assert_eq!(learned(&words, 4, 1), ["##b", "##c", "a", "z"]);
        assert_eq!(learned(&words, 5, 1), ["##b", "##c", "a", "z", "ab"]);
    }
}
