use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use corpus::{CorpusConfig, Lines, Template};
use encoder::TextTokenizer;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Skipped, Vocabulary, Words};
use crate::data::{
    DataError, LineChunk, LineChunks, OnBytes, TextChunk, TextChunks, from_json, is_plain_text,
};
use crate::parallel::map_in_order;

/// How often each whole word occurs in a corpus, or in how many of its texts, from which MASTER's keyword masks are drawn.
///
/// A word is the texts of its pieces one behind the other, with their `##`: `cat##fish`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrequencyDictionary {
    counts: HashMap<String, NonZeroU64>,
    /// Texts of the corpus, where a count is of those that have the word; such counts are not written.
    n_texts: Option<u64>,
}

/// What a word weighs in the draw of keywords ([`FrequencyDictionary::weights`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeywordWeights {
    /// One divided by how often it occurs in the corpus: the published code.
    #[default]
    InverseCount,
    /// How often it stands in the text, times the logarithm of how few texts have it.
    TfIdf,
}

/// What is counted, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct DictionaryConfig {
    /// Where the words are.
    pub source: WordSource,
    /// Counts bad lines instead of ending at the first.
    pub skip_bad_lines: bool,
    /// Threads that count; the counts are the same for any number.
    pub n_threads: usize,
}

/// Where words are counted.
#[derive(Clone, Debug, PartialEq)]
pub enum WordSource {
    /// MASTER's lines: `{"text": [token ids], …}`, of which the rest is not looked at.
    Ids(Vec<PathBuf>),
    /// A corpus, of which the tokenizer reads what the template says.
    Texts(CorpusConfig, Template),
}

/// What a corpus had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DictionaryReport {
    /// Lines or passages that were counted, empty ones among them.
    pub n_texts: u64,
    /// Those without a word.
    pub n_empty: u64,
    /// Words that were counted.
    pub n_words: u64,
    /// Bad lines, all skipped.
    pub n_bad: u64,
    /// The first bad line.
    pub first_bad: Option<String>,
}

impl FromIterator<(String, u64)> for FrequencyDictionary {
    /// Adds up the counts of each word.
    fn from_iter<I: IntoIterator<Item = (String, u64)>>(words: I) -> Self {
        let mut counts = HashMap::new();
        for (word, n) in words {
            let Some(n) = NonZeroU64::new(n) else {
                continue;
            };
            let sum = |count: &mut NonZeroU64| *count = count.saturating_add(n.get());
            counts.entry(word).and_modify(sum).or_insert(n);
        }
        Self {
            counts,
            n_texts: None,
        }
    }
}

impl FrequencyDictionary {
    /// Counts the whole words of a corpus, special tokens left out. Memory grows with the number of different words, not
    /// with the corpus. `SimXNS:MASTER/pretrain`, whose dictionaries have the same counts.
    ///
    /// Deviation: the published code ends with an error at a line that begins with a `##` piece; here it begins a word,
    /// as it does where masks are drawn.
    ///
    /// # Errors
    /// A line that is not what the source says, with file and line; ids that the tokenizer does not have.
    pub fn count(
        config: &DictionaryConfig,
        tokenizer: &TextTokenizer,
        on_bytes: &mut OnBytes<'_>,
    ) -> Result<(Self, DictionaryReport), DataError> {
        let vocabulary = Vocabulary::of(tokenizer)?;
        let mut total = Counted::new(&vocabulary);
        let each = |total: &mut Counted, chunk: Result<Counted, DataError>| {
            total.add(chunk?);
            Ok(())
        };
        match &config.source {
            WordSource::Ids(paths) => {
                let mut lines = LineChunks::open(paths)?;
                map_in_order(
                    config.n_threads,
                    || lines.next_chunk(on_bytes),
                    |chunk: LineChunk| chunk.count(&vocabulary, config.skip_bad_lines),
                    |chunk| each(&mut total, chunk),
                )?;
            }
            WordSource::Texts(corpus, template) => {
                let corpus = CorpusConfig {
                    skip_bad_lines: config.skip_bad_lines,
                    ..corpus.clone()
                };
                let mut texts = TextChunks::open(&corpus, template)?;
                map_in_order(
                    config.n_threads,
                    || texts.next_chunk(on_bytes),
                    |texts| count_texts(&texts, tokenizer, &vocabulary),
                    |chunk| each(&mut total, chunk),
                )?;
                (total.report.n_bad, total.report.first_bad) = texts.n_bad();
            }
        }
        if total.report.n_words == 0 {
            let path = match &config.source {
                WordSource::Ids(paths) => paths.first(),
                WordSource::Texts(corpus, _) => corpus.paths.first(),
            };
            let path = path.cloned().unwrap_or_default();
            return Err(DataError::Empty { path });
        }
        let report = total.report.clone();
        Ok((total.into_dictionary(&vocabulary), report))
    }

    /// Counts the whole words of texts that were read before.
    ///
    /// # Errors
    /// The first of the texts'.
    pub fn of_texts<T: AsRef<[u32]>, E>(
        texts: impl IntoIterator<Item = Result<T, E>>,
        vocabulary: &Vocabulary,
    ) -> Result<Self, E> {
        let mut counted = Counted::new(vocabulary);
        for ids in texts {
            counted.count(vocabulary, ids?.as_ref());
        }
        Ok(counted.into_dictionary(vocabulary))
    }

    /// Counts, for each whole word, the texts that have it, among texts that were read before.
    ///
    /// # Errors
    /// The first of the texts'.
    pub fn document_frequencies<T: AsRef<[u32]>, E>(
        texts: impl IntoIterator<Item = Result<T, E>>,
        vocabulary: &Vocabulary,
    ) -> Result<Self, E> {
        let (mut counted, mut n_texts) = (Counted::new(vocabulary), 0);
        for text in texts {
            let text = text?;
            let ids = text.as_ref();
            let words = Words::group(vocabulary, ids, Skipped::Special);
            let mut own = BTreeSet::<Vec<u32>>::new();
            for word in 0..words.len() {
                let pieces = words.word(word).iter();
                own.insert(pieces.map(|&position| ids[position]).collect());
            }
            own.iter().for_each(|word| counted.count_word(word));
            n_texts += 1;
        }
        Ok(Self {
            n_texts: Some(n_texts),
            ..counted.into_dictionary(vocabulary)
        })
    }

    /// A number that another dictionary would not have.
    pub fn digest(&self) -> u64 {
        let digest =
            |(word, count): (&String, &NonZeroU64)| xxh3_64_with_seed(word.as_bytes(), count.get());
        let digests = self.counts.iter().map(digest);
        digests.fold(self.n_texts.unwrap_or(0), u64::wrapping_add)
    }

    /// Reads a JSON object of words and counts, gzip and zstd unpacked.
    ///
    /// # Errors
    /// A file that cannot be read, or holds something else, or no word; a count of 0.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let refuse = |reason: String| DataError::Folder {
            path: path.to_owned(),
            reason: format!("not a frequency dictionary: {reason}"),
        };
        let counts = serde_json::from_reader(Lines::open(path)?.into_reader());
        let counts: HashMap<_, _> = counts.map_err(|error| refuse(error.to_string()))?;
        match counts.is_empty() {
            true => Err(refuse("it has no word".to_owned())),
            false => Ok(Self {
                counts,
                n_texts: None,
            }),
        }
    }

    /// Writes the words in alphabetical order, as one JSON object with a word a line.
    ///
    /// # Errors
    /// As the writer.
    pub fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        let sorted: BTreeMap<_, _> = self.counts.iter().collect();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"");
        let mut serializer = serde_json::Serializer::with_formatter(&mut *writer, formatter);
        sorted.serialize(&mut serializer)?;
        writer.write_all(b"\n")
    }

    /// Number of different words.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How often a word occurs, or in how many texts.
    pub fn frequency(&self, word: &str) -> u64 {
        self.counts.get(word).map_or(0, |count| count.get())
    }

    /// Returns the weight of each word in a draw of keywords. A word that is not in the dictionary may be the end of one that a
    /// window cut.
    ///
    /// With counts of occurrences it is one divided by the count, and 1 for a word that is not in the dictionary: the published
    /// code, which knows neither texts nor logarithms.
    ///
    /// With counts of texts it is tf-idf: `tf · (ln((1 + N) / (1 + df)) + 1)` for a word that stands tf times among these and in df of
    /// N texts, as scikit-learn has it without a norm. Which form of tf-idf MASTER's paper has is not known.
    pub fn weights(&self, vocabulary: &Vocabulary, ids: &[u32], words: &Words) -> Vec<f64> {
        let text = |word| {
            let pieces = words.word(word).iter();
            pieces
                .map(|&position| vocabulary.piece(ids[position]))
                .collect::<String>()
        };
        let texts: Vec<String> = (0..words.len()).map(text).collect();
        let Some(n_texts) = self.n_texts else {
            let weight = |text: &String| 1.0 / self.frequency(text).max(1) as f64;
            return texts.iter().map(weight).collect();
        };
        let mut own = HashMap::<&str, f64>::new(); // tf
        for text in &texts {
            *own.entry(text).or_default() += 1.0;
        }
        let idf = |text: &str| {
            let (all, with) = (1.0 + n_texts as f64, 1.0 + self.frequency(text) as f64);
            (all / with).ln() + 1.0
        };
        let weight = |text: &String| own[text.as_str()] * idf(text);
        texts.iter().map(weight).collect()
    }
}

/// Counts of a part of the corpus, by token ids.
struct Counted {
    /// Words of one piece.
    single: Vec<u64>,
    /// Words of several.
    joined: HashMap<Box<[u32]>, u64>,
    report: DictionaryReport,
}

impl Counted {
    fn new(vocabulary: &Vocabulary) -> Self {
        Self {
            single: vec![0; vocabulary.len()],
            joined: HashMap::new(),
            report: DictionaryReport::default(),
        }
    }

    /// Counts the words of a text, grouped as [`Words::group`] does without special tokens.
    fn count(&mut self, vocabulary: &Vocabulary, ids: &[u32]) {
        let n_before = self.report.n_words;
        let mut word = Vec::new();
        for &id in ids.iter().filter(|&&id| !vocabulary.is_special(id)) {
            if !vocabulary.continues_word(id) {
                self.count_word(&word);
                word.clear();
            }
            word.push(id);
        }
        self.count_word(&word);
        self.report.n_texts += 1;
        self.report.n_empty += u64::from(self.report.n_words == n_before);
    }

    fn count_word(&mut self, word: &[u32]) {
        match *word {
            [] => return,
            [id] => self.single[id as usize] += 1,
            _ => match self.joined.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(self.joined.insert(word.into(), 1)),
            },
        }
        self.report.n_words += 1;
    }

    fn add(&mut self, other: Self) {
        for (count, n) in self.single.iter_mut().zip(other.single) {
            *count += n;
        }
        for (word, n) in other.joined {
            *self.joined.entry(word).or_default() += n;
        }
        let (report, other) = (&mut self.report, other.report);
        report.n_texts += other.n_texts;
        report.n_empty += other.n_empty;
        report.n_words += other.n_words;
        report.n_bad += other.n_bad;
        report.first_bad = report.first_bad.take().or(other.first_bad);
    }

    fn into_dictionary(self, vocabulary: &Vocabulary) -> FrequencyDictionary {
        let single = (0..).zip(self.single);
        let single = single.map(|(id, n)| (vocabulary.piece(id).to_owned(), n));
        let text = |word: &[u32]| word.iter().map(|&id| vocabulary.piece(id)).collect();
        let joined = self.joined.iter().map(|(word, n)| (text(word), *n));
        single.chain(joined).collect()
    }
}

impl LineChunk {
    fn count(self, vocabulary: &Vocabulary, skip_bad_lines: bool) -> Result<Counted, DataError> {
        let mut counted = Counted::new(vocabulary);
        let parse = |line: &str| ids_of(line, vocabulary);
        let bad = self.parse(skip_bad_lines, parse, |ids| counted.count(vocabulary, &ids))?;
        (counted.report.n_bad, counted.report.first_bad) = bad;
        Ok(counted)
    }
}

fn ids_of(line: &str, vocabulary: &Vocabulary) -> Result<Vec<u32>, String> {
    #[derive(Deserialize)]
    struct Line {
        text: Vec<u32>,
    }
    let Line { text } = from_json(line).map_err(|error| match is_plain_text(line) {
        true => "`text` is words, not ids of tokens; `--texts` counts plain texts".to_owned(),
        false => error,
    })?;
    vocabulary.check(&text)?;
    Ok(text)
}

fn count_texts(
    texts: &TextChunk,
    tokenizer: &TextTokenizer,
    vocabulary: &Vocabulary,
) -> Result<Counted, DataError> {
    let mut counted = Counted::new(vocabulary);
    for (number, text) in texts.texts() {
        counted.count(vocabulary, &texts.ids(tokenizer, number, text)?);
    }
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::super::test_data::{ids, vocabulary};
    use super::*;

    fn count(vocabulary: &Vocabulary, texts: &[Vec<u32>]) -> BTreeMap<String, u64> {
        let texts = texts.iter().map(Ok::<_, Infallible>);
        let Ok(dictionary) = FrequencyDictionary::of_texts(texts, vocabulary);
        let counts = dictionary.counts.into_iter();
        counts.map(|(word, n)| (word, n.get())).collect()
    }

    /// As the specification says it: texts of pieces without the special ones, joined at `##`, counted one by one.
    fn count_plainly(vocabulary: &Vocabulary, texts: &[Vec<u32>]) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for text in texts {
            let mut words: Vec<String> = Vec::new();
            for &id in text.iter().filter(|id| !vocabulary.is_special(**id)) {
                let piece = vocabulary.piece(id);
                match words.last_mut() {
                    Some(word) if piece.starts_with("##") => *word += piece,
                    _ => words.push(piece.to_owned()),
                }
            }
            for word in words {
                *counts.entry(word).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn special_tokens_are_no_words_and_part_none() {
        let vocabulary = vocabulary("the cat ##fish");
        let check = |text: &str, expected: &[(&str, u64)]| {
            let found = count(&vocabulary, &[ids(&vocabulary, text)]);
            let expected = expected.iter().map(|(word, n)| ((*word).to_owned(), *n));
            assert_eq!(found, expected.collect(), "{text}");
        };
        let words = [("the", 2), ("cat##fish", 1), ("cat", 1)];
        check("the cat ##fish [SEP] the cat", &words);
        check("cat [UNK] ##fish", &[("cat##fish", 1)]);
        check("##fish ##fish the", &[("##fish##fish", 1), ("the", 1)]);
        check("[CLS] [SEP]", &[]);
    }

    proptest! {
        #[test]
        fn counts_are_those_of_words_joined_one_by_one(
            texts in prop::collection::vec(prop::collection::vec(0u32..11, 0..30), 0..20),
        ) {
            let vocabulary = vocabulary("a b c ##d ##e ##f");
            prop_assert_eq!(count(&vocabulary, &texts), count_plainly(&vocabulary, &texts));
        }
    }
}
