//! Masks, dictionaries and spans against an independent version of the published procedures
//! (`docs/reference/pretraining_data_golden.py`), and what is wrong with damaged files.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};

use corpus::{CorpusConfig, Template};
use encoder::TextTokenizer;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use trainer::data::DataError;
use trainer::masking::{
    DictionaryConfig, DictionaryReport, FrequencyDictionary, MasterMasks, MasterText, Skipped,
    Visibility, Vocabulary, WordSource, Words, budget, example_random, mask_keywords,
};
use trainer::spans::{
    CutError, DocumentSource, SpanConfig, SpanDocument, SpanReport, pack, pairs, write_span_pairs,
};

fn golden(name: &str) -> PathBuf {
    testkit::golden("pretraining").join(name)
}

fn read_golden<T: DeserializeOwned>(name: &str) -> T {
    let text = fs::read_to_string(golden(name)).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn tokenizer() -> TextTokenizer {
    TextTokenizer::load(&testkit::fixture("models/tiny-bert"), false).unwrap()
}

/// Chances of masks, written as 0s and 1s.
type Chances = BTreeMap<String, f64>;

/// Checks the chance of each mask over 10,000 draws, within four standard deviations.
fn check_chances(case: &str, expected: &Chances, draw: impl Fn(u64) -> Vec<bool>) {
    const N: f64 = 10_000.0;
    let mut counts = Chances::new();
    for example in 0..N as u64 {
        let bit = |hidden: bool| if hidden { '1' } else { '0' };
        let mask = draw(example).into_iter().map(bit).collect();
        *counts.entry(mask).or_default() += 1.0;
    }
    for (mask, p) in expected {
        let n = counts.remove(mask).unwrap_or_default();
        let bound = 4.0 * (N * p * (1.0 - p).max(0.0)).sqrt() + 1e-6;
        assert!((n - N * p).abs() <= bound, "{case} {mask}: {n}, p = {p}");
    }
    assert!(counts.is_empty(), "{case}: {counts:?}");
}

/// A vocabulary of the tokens of a case, and the case as ids.
fn read_tokens(text: &str) -> (Vocabulary, Vec<u32>) {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let mut pieces: Vec<String> = special.map(str::to_owned).to_vec();
    let mut ids = Vec::new();
    for token in text.split(' ') {
        let known = pieces.iter().position(|piece| piece == token);
        ids.push(known.unwrap_or(pieces.len()) as u32);
        if known.is_none() {
            pieces.push(token.to_owned());
        }
    }
    (Vocabulary::new(pieces).unwrap(), ids)
}

#[derive(Deserialize)]
struct Masks {
    whole_words: Vec<WholeWordCase>,
    keywords: Vec<KeywordCase>,
    keywords_by_tf_idf: Vec<TfIdfCase>,
    visibility: Vec<VisibilityCase>,
}

#[derive(Deserialize)]
struct WholeWordCase {
    tokens: String,
    skipped: String,
    ratio: f64,
    words: Vec<Vec<usize>>,
    budget: usize,
    chances: Chances,
}

#[derive(Deserialize)]
struct KeywordCase {
    tokens: String,
    counts: BTreeMap<String, u64>,
    ratio: f64,
    budget: usize,
    weights: Vec<f64>,
    chances: Chances,
}

#[derive(Deserialize)]
struct TfIdfCase {
    tokens: String,
    texts: Vec<String>,
    ratio: f64,
    budget: usize,
    weights: Vec<f64>,
    chances: Chances,
}

#[derive(Deserialize)]
struct VisibilityCase {
    tokens: String,
    ratio: f64,
    rows: Vec<Chances>,
}

#[test]
fn whole_word_masks_have_the_published_chances() {
    for case in read_golden::<Masks>("masks.json").whole_words {
        let (vocabulary, ids) = read_tokens(&case.tokens);
        let skipped = match case.skipped.as_str() {
            "special" => Skipped::Special,
            _ => Skipped::Bounds,
        };
        let words = Words::group(&vocabulary, &ids, skipped);
        let found: Vec<_> = (0..words.len()).map(|word| words.word(word)).collect();
        assert_eq!(found, case.words, "{}", case.tokens);
        assert_eq!(budget(ids.len(), case.ratio), case.budget);
        check_chances(&case.tokens, &case.chances, |example| {
            words.mask(case.ratio, &mut example_random(11, 0, example))
        });
    }
}

#[test]
fn keyword_masks_have_the_published_chances() {
    for case in read_golden::<Masks>("masks.json").keywords {
        let (vocabulary, ids) = read_tokens(&case.tokens);
        let words = Words::group(&vocabulary, &ids, Skipped::Special);
        let dictionary: FrequencyDictionary = case.counts.into_iter().collect();
        let weights = dictionary.weights(&vocabulary, &ids, &words);
        assert_eq!(weights, case.weights, "{}", case.tokens);
        assert_eq!(budget(words.n_pieces(), case.ratio), case.budget);
        check_chances(&case.tokens, &case.chances, |example| {
            let mut random = example_random(12, 0, example);
            mask_keywords(&words, &weights, case.ratio, &mut random)
        });
    }
}

#[test]
fn keyword_masks_by_tf_idf_have_their_chances() {
    for case in read_golden::<Masks>("masks.json").keywords_by_tf_idf {
        let all = [std::slice::from_ref(&case.tokens), &case.texts].concat();
        let (vocabulary, all_ids) = read_tokens(&all.join(" "));
        let (mut rest, mut lists) = (all_ids.as_slice(), Vec::new());
        for text in &all {
            let (own, behind) = rest.split_at(text.split(' ').count());
            lists.push(own);
            rest = behind;
        }
        let (ids, texts) = (lists[0], lists[1..].iter().map(Ok::<_, Infallible>));
        let Ok(dictionary) = FrequencyDictionary::document_frequencies(texts, &vocabulary);
        let words = Words::group(&vocabulary, ids, Skipped::Special);
        let weights = dictionary.weights(&vocabulary, ids, &words);
        assert_eq!(weights.len(), case.weights.len(), "{}", case.tokens);
        for (found, expected) in weights.iter().zip(&case.weights) {
            assert!((found - expected).abs() < 1e-12, "{weights:?}");
        }
        assert_eq!(budget(words.n_pieces(), case.ratio), case.budget);
        check_chances(&case.tokens, &case.chances, |example| {
            let mut random = example_random(14, 0, example);
            mask_keywords(&words, &weights, case.ratio, &mut random)
        });
    }
}

#[test]
fn rows_of_the_visibility_matrix_have_the_published_chances() {
    for case in read_golden::<Masks>("masks.json").visibility {
        let (vocabulary, ids) = read_tokens(&case.tokens);
        let words = Words::group(&vocabulary, &ids, Skipped::Bounds);
        for (row, chances) in case.rows.iter().enumerate() {
            check_chances(&case.tokens, chances, |example| {
                let mut random = example_random(13, 0, example);
                let seen = Visibility::draw(&words, case.ratio, 256, &mut random);
                (0..ids.len())
                    .map(|column| !seen.sees(row, column))
                    .collect()
            });
        }
    }
}

fn count(
    source: WordSource,
    n_threads: usize,
) -> Result<(FrequencyDictionary, DictionaryReport), DataError> {
    let config = DictionaryConfig {
        source,
        skip_bad_lines: false,
        n_threads,
    };
    FrequencyDictionary::count(&config, &tokenizer(), &mut |_, _| {})
}

fn texts(path: &Path) -> WordSource {
    let corpus = CorpusConfig {
        paths: vec![path.to_owned()],
        ..CorpusConfig::default()
    };
    WordSource::Texts(corpus, Template::default())
}

#[test]
fn words_are_counted_as_published() {
    let ids = || WordSource::Ids(vec![golden("master.jsonl"), golden("master.jsonl")]);
    let expected: BTreeMap<String, u64> = read_golden("frequency.json");
    let twice: FrequencyDictionary = expected
        .iter()
        .map(|(word, n)| (word.clone(), 2 * n))
        .collect();
    for n_threads in [1, 2, 5] {
        let (dictionary, report) = count(ids(), n_threads).unwrap();
        assert!(dictionary == twice, "{n_threads} threads");
        assert_eq!((report.n_texts, report.n_empty, report.n_bad), (28, 2, 0));
        assert_eq!(report.n_words, 2 * expected.values().sum::<u64>());
    }
    let expected: BTreeMap<String, u64> = read_golden("frequency-texts.json");
    let corpus = testkit::fixture("training/corpus.jsonl");
    let (dictionary, _) = count(texts(&corpus), 2).unwrap();
    assert!(dictionary == expected.into_iter().collect());
}

#[test]
fn dictionaries_come_back_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frequency.json");
    let words = [("cat##fish", 2), ("日本", 1), ("\"", 3), ("none", 0)];
    let dictionary: FrequencyDictionary = words
        .into_iter()
        .map(|(word, n)| (word.to_owned(), n))
        .collect();
    let mut bytes = Vec::new();
    dictionary.write(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text, "{\n\"\\\"\": 3,\n\"cat##fish\": 2,\n\"日本\": 1\n}\n");
    fs::write(&path, text).unwrap();
    let read = FrequencyDictionary::read(&path).unwrap();
    assert_eq!(read, dictionary);
    assert_eq!(
        (read.frequency("cat##fish"), read.frequency("none")),
        (2, 0)
    );
    for bad in ["{\"a\": 0}", "[1]", "{\"a\": 1.5}", "{\"a\": 1", "{}"] {
        fs::write(&path, bad).unwrap();
        let error = FrequencyDictionary::read(&path).unwrap_err();
        assert!(error.to_string().contains("frequency.json"), "{error}");
        assert!(error.is_bad_input(), "{bad}");
    }
}

#[test]
fn bad_lines_are_named_or_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines.jsonl");
    let good = "{\"text\": [30, 31], \"next\": []}\n";
    for (bad, reason) in [
        ("{\"queries\": [[1]]}", "missing field `text`"),
        (
            "{\"text\": [4000000]}",
            "token 4000000 is not one of the tokenizer's",
        ),
        ("{\"text\": [-1]}", "invalid value"),
        ("{\"text\": \"words\"}", "`text` is words"),
        ("{\"text\": [1, 2", "EOF"),
    ] {
        // Far enough behind the beginning that several threads have work.
        let n_good = 80_000;
        fs::write(
            &path,
            format!("{}{bad}\n{bad}\n{good}", good.repeat(n_good)),
        )
        .unwrap();
        let source = WordSource::Ids(vec![path.clone()]);
        let error = count(source.clone(), 3).unwrap_err().to_string();
        let place = format!("lines.jsonl:{}: ", n_good + 1);
        assert!(error.contains(&place) && error.contains(reason), "{error}");
        let config = DictionaryConfig {
            source,
            skip_bad_lines: true,
            n_threads: 3,
        };
        let counted = FrequencyDictionary::count(&config, &tokenizer(), &mut |_, _| {});
        let (_, report) = counted.unwrap();
        assert_eq!((report.n_texts, report.n_bad), (n_good as u64 + 1, 2));
        assert_eq!(report.first_bad, Some(error));
    }
    fs::write(&path, "{\"text\": []}\n").unwrap();
    let error = count(WordSource::Ids(vec![path]), 1).unwrap_err();
    assert!(matches!(error, DataError::Empty { .. }), "{error}");
}

#[test]
fn only_word_pieces_can_be_masked() {
    let tokenizer = TextTokenizer::load(&testkit::fixture("models/tiny-roberta"), false).unwrap();
    let error = Vocabulary::of(&tokenizer).unwrap_err();
    assert!(matches!(error, DataError::NotWordPieces { .. }), "{error}");
}

/// First and last token of a run.
type Run = (u32, u32);

#[derive(Deserialize)]
struct SpanCase {
    lengths: Vec<usize>,
    max_tokens: usize,
    window: usize,
    spans: Vec<Vec<usize>>,
    pairs: Vec<PairCase>,
}

#[derive(Deserialize)]
struct PairCase {
    anchor: Run,
    random_sampled: BTreeSet<Run>,
    nearby: BTreeSet<Run>,
    overlap: BTreeSet<Run>,
}

fn run(ids: &[u32]) -> Run {
    let (first, last) = (ids[0], ids[ids.len() - 1]);
    assert!(ids.iter().copied().eq(first..=last), "{ids:?} is no run");
    (first, last)
}

#[test]
fn spans_and_their_pairs_are_the_published_ones() {
    for case in read_golden::<Vec<SpanCase>>("spans.json") {
        let config = SpanConfig {
            max_tokens: case.max_tokens,
            short_probability: 0.0,
            window: case.window,
            seed: 0,
        };
        let mut tokens = 0..;
        let lengths = case.lengths.iter();
        let sentences = lengths
            .map(|&n| tokens.by_ref().take(n).collect())
            .collect();
        let spans = pack(sentences, &config, &mut example_random(0, 0, 0));
        let lengths = |span: &Vec<Vec<u32>>| span.iter().map(Vec::len).collect();
        assert_eq!(
            spans.iter().map(lengths).collect::<Vec<Vec<usize>>>(),
            case.spans
        );
        // Each that may be drawn is drawn at last, and no other.
        let mut seen = vec![[(); 3].map(|()| BTreeSet::new()); case.pairs.len()];
        for draw in 0..1000 {
            let drawn = pairs(&spans, &config, &mut example_random(0, 0, draw));
            assert_eq!(drawn.len(), case.pairs.len());
            for ((pair, case), seen) in drawn.iter().zip(&case.pairs).zip(&mut seen) {
                assert_eq!(run(&pair.anchor), case.anchor);
                let [random, nearby, overlap] = seen;
                random.insert(run(&pair.random_sampled));
                nearby.insert(run(&pair.nearby));
                overlap.insert(run(&pair.overlap));
            }
        }
        for (seen, case) in seen.iter().zip(&case.pairs) {
            assert_eq!(seen[0], case.random_sampled);
            assert_eq!(seen[1], case.nearby);
            assert_eq!(seen[2], case.overlap);
        }
    }
}

fn write_pairs(
    path: &Path,
    seed: u64,
    n_threads: usize,
) -> Result<(Vec<u8>, SpanReport), CutError> {
    let source = DocumentSource {
        corpus: CorpusConfig {
            paths: vec![path.to_owned()],
            ..CorpusConfig::default()
        },
        template: Template::default(),
        n_threads,
    };
    let config = SpanConfig {
        max_tokens: 40,
        seed,
        ..SpanConfig::default()
    };
    let mut lines = Vec::new();
    let report = write_span_pairs(&source, &config, &tokenizer(), &mut lines, &mut |_, _| {})?;
    Ok((lines, report))
}

#[test]
fn lines_of_spans_depend_on_the_seed_and_not_on_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corpus.jsonl");
    let mut corpus = fs::read_to_string(testkit::fixture("sample/corpus.jsonl")).unwrap();
    let n_passages = corpus.lines().count() as u64;
    corpus.push_str("{\"_id\": \"short\", \"text\": \"One span.\"}\n");
    // Many texts, so that there are several chunks.
    for number in 0..400 {
        let text = format!("It is {number}. It was more. ").repeat(100);
        corpus.push_str(&format!(
            "{{\"_id\": \"n{number}\", \"text\": \"{text}\"}}\n"
        ));
    }
    fs::write(&path, corpus).unwrap();
    let (lines, report) = write_pairs(&path, 1, 1).unwrap();
    assert_eq!(report.n_documents, n_passages + 401);
    assert!(report.n_short >= 1);
    let text = String::from_utf8(lines.clone()).unwrap();
    let documents: Vec<SpanDocument> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(documents.len() as u64, report.n_documents - report.n_short);
    let spans = documents.iter().map(|document| document.spans.len() as u64);
    assert_eq!(spans.sum::<u64>(), report.n_spans);
    assert!(documents.iter().all(|document| document.spans.len() > 1));
    assert_eq!(write_pairs(&path, 1, 4).unwrap(), (lines.clone(), report));
    assert_ne!(write_pairs(&path, 2, 4).unwrap().0, lines);

    fs::write(&path, "{\"_id\": \"short\", \"text\": \"One span.\"}\n").unwrap();
    let error = write_pairs(&path, 1, 1).unwrap_err();
    assert!(
        matches!(error, CutError::Data(DataError::Empty { .. })),
        "{error}"
    );
    fs::write(&path, "{\"_id\": \"a\", \"text\": \"A\"}\n{\"_id\": 1.5}\n").unwrap();
    let error = write_pairs(&path, 1, 2).unwrap_err().to_string();
    assert!(error.contains("corpus.jsonl:2: "), "{error}");
}

#[test]
fn all_streams_are_made_of_lines_as_published() {
    let vocabulary = Vocabulary::of(&tokenizer()).unwrap();
    let dictionary = FrequencyDictionary::read(&golden("frequency.json")).unwrap();
    let lines = fs::read_to_string(golden("master.jsonl")).unwrap();
    for (example, line) in (0..).zip(lines.lines()) {
        let text = MasterText::parse(line, &vocabulary).unwrap();
        let mut random = example_random(42, 0, example);
        let streams = MasterMasks::default().draw(&text, &vocabulary, &dictionary, &mut random);
        let has_word = text.text.iter().any(|&id| !vocabulary.is_special(id));
        for (name, stream, is_labelled) in [
            ("text", &streams.text, has_word),
            ("keywords", &streams.keywords, has_word),
            ("queries", &streams.queries, !text.queries.is_empty()),
            ("continuation", &streams.continuation, has_word),
            ("first half", &streams.first_half, has_word),
            ("second half", &streams.second_half, has_word),
            ("seen", &streams.seen, has_word),
            ("unseen", &streams.unseen, has_word),
        ] {
            assert!(stream.ids.len() <= 128 && stream.ids.len() == stream.labels.len());
            assert_eq!(
                stream.targets().next().is_some(),
                is_labelled,
                "{example} {name}"
            );
        }
    }
}
