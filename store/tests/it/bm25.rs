//! BM25: its order, and its quality beside the figures of the data sets' README.

use std::path::Path;
use std::sync::Arc;

use corpus::{CorpusConfig, CorpusReader, Dataset, Query, Run, Scored};
use evaluation::{EvaluationConfig, evaluate};
use serde_json::json;
use store::{Bitmap, LexicalHit, Store, StoreConfig, StoreWriter, View};

use crate::{open, passage, write};

/// nDCG@10 and recall@100 of BM25 (k₁ = 1.2, b = 0.75, English stop words, Snowball stemmer, title + text) there.
const REFERENCE: [(&str, &str, [f64; 2]); 5] = [
    ("cranfield", "test", [0.523, 0.749]),
    ("squad", "dev", [0.878, 0.990]),
    ("squadshifts-amazon", "dev", [0.422, 0.791]),
    ("medquad", "dev", [0.609, 0.990]),
    ("medquad", "test", [0.608, 0.989]),
];
/// Tokenizers and lists of stop words differ in details.
const TOLERANCE: f64 = 0.02;

#[test]
fn quality_equals_the_reference() {
    let Some(data) = testkit::data_folder() else {
        println!("did not run: TRAWL_DATA names no folder of data sets");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let config = EvaluationConfig {
        measures: vec!["ndcg@10".parse().unwrap(), "recall@100".parse().unwrap()],
        ..Default::default()
    };
    for (name, split, expected) in REFERENCE {
        let dataset = Dataset::open(&data.join(name)).unwrap();
        let store_folder = folder.path().join(name);
        if !store_folder.exists() {
            index(&dataset, &store_folder);
        }
        let run = search_all(&open(&store_folder), &dataset.queries_of(split).unwrap());
        let found = evaluate(&dataset.qrels(split).unwrap(), &run, &config)
            .unwrap()
            .mean;
        println!("{name} {split}: nDCG@10 and recall@100 {found:.4?}, reference {expected:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() <= TOLERANCE,
                "{name} {split}: {found} is not near {expected}"
            );
        }
    }
}

fn index(dataset: &Dataset, folder: &Path) {
    let config = CorpusConfig {
        paths: dataset.corpus.clone(),
        ..Default::default()
    };
    let mut writer = StoreWriter::create(folder, &StoreConfig::default()).unwrap();
    for passage in CorpusReader::open(&config).unwrap() {
        writer.push(&passage.unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

fn search_all(store: &Store, queries: &[Query]) -> Run {
    let mut run = Run::new("bm25");
    for query in queries {
        let hits = store.search_lexical(&query.text, 100, None).unwrap();
        let scored = |hit: &LexicalHit| Scored {
            id: store.id(hit.ordinal).unwrap().to_owned(),
            score: f64::from(hit.score),
        };
        run.insert(&query.id, hits.iter().map(scored).collect());
    }
    run
}

#[test]
fn equal_scores_are_ordered_by_ordinal_also_at_the_cut() {
    let folder = tempfile::tempdir().unwrap();
    let texts = [
        "red apple",
        "green pear",
        "red apple",
        "red",
        "red apple",
        "blue",
    ];
    let passages: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| passage(&i.to_string(), "", text, &json!({})))
        .collect();
    write(folder.path(), &StoreConfig::default(), &passages);
    let store = open(folder.path());
    let check = |query: &str, k, filter: Option<&Bitmap>, expected: &[u32]| {
        let hits = store.search_lexical(query, k, filter).unwrap();
        assert_eq!(
            hits.iter().map(|hit| hit.ordinal).collect::<Vec<_>>(),
            expected,
            "{query:?}"
        );
        assert!(hits.is_sorted());
    };
    check("red apples", 10, None, &[0, 2, 4, 3]);
    check("red apples", 2, None, &[0, 2]);
    check("red apples", 0, None, &[]);
    check("red apples", usize::MAX, None, &[0, 2, 4, 3]);
    check(
        "red apples",
        2,
        Some(&[3, 4, 5].into_iter().collect()),
        &[4, 3],
    );
    check("red apples", 2, Some(&Bitmap::new()), &[]);
    // Query text is no syntax.
    check("text:blue AND (-\"pear \\ OR *:* [a TO", 10, None, &[5, 1]);
    check("the and of", 10, None, &[]);
    check("", 10, None, &[]);
}

/// The formula over words in f64, best first, for texts without stop words and inflection.
fn slow_scores(texts: &[String], query: &str) -> Vec<f64> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let documents: Vec<_> = texts.iter().map(|text| words(text)).collect();
    let n = documents.len() as f64;
    let mean_length = documents
        .iter()
        .map(|words| words.len() as f64)
        .sum::<f64>()
        / n;
    let matches = |word: &String| {
        documents
            .iter()
            .filter(|document| document.contains(word))
            .count() as f64
    };
    let query: Vec<_> = words(query)
        .into_iter()
        .map(|word| (matches(&word), word))
        .collect();
    let mut scores = Vec::new();
    for document in &documents {
        let mut score = 0.0;
        for (n_matches, word) in &query {
            let frequency = document.iter().filter(|other| *other == word).count() as f64;
            let idf = (1.0 + (n - n_matches + 0.5) / (n_matches + 0.5)).ln();
            let length_factor = 1.2 * (1.0 - 0.75 + 0.75 * document.len() as f64 / mean_length);
            score += idf * frequency * 2.2 / (frequency + length_factor);
        }
        if score > 0.0 {
            scores.push(score);
        }
    }
    scores.sort_by(|a, b| b.total_cmp(a));
    scores
}

#[test]
fn scores_equal_the_formula_over_title_and_text() {
    // More passages than are scored at a time; lengths below 40 are exact in tantivy's norms.
    let words = ["apple", "pear", "plum", "fig", "lime", "kiwi", "mango"];
    let mut seed = 1_u64;
    let mut draw = |n: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let mut texts = Vec::new();
    let mut passages = Vec::new();
    for i in 0..5000 {
        let mut some = |n: u64| -> Vec<&str> {
            (0..n)
                .map(|_| words[(draw(7) * draw(7) / 6) as usize])
                .collect()
        };
        let (title, text) = (some(1 + i % 3).join(" "), some(1 + i % 11).join(" "));
        passages.push(passage(&i.to_string(), &title, &text, &json!({})));
        texts.push(format!("{title} {text}"));
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &StoreConfig::default(), &passages);
    let store = open(folder.path());
    for query in [
        "mango",
        "kiwi fig",
        "plum plum lime apple",
        "pear mango apple fig",
    ] {
        let hits = store.search_lexical(query, 5000, None).unwrap();
        let expected = slow_scores(&texts, query);
        assert_eq!(hits.len(), expected.len());
        for (hit, score) in hits.iter().zip(&expected) {
            assert!(
                (f64::from(hit.score) - score).abs() < 1e-4,
                "{query}: {hit:?} {score}"
            );
        }
        let top = store.search_lexical(query, 17, None).unwrap();
        assert_eq!(
            top,
            hits[..17],
            "{query}: the best 17 are the first 17 of all"
        );
        let odd: Bitmap = (0..5000).filter(|ordinal| ordinal % 2 == 1).collect();
        let filtered = store.search_lexical(query, 17, Some(&odd)).unwrap();
        let expected: Vec<_> = hits
            .iter()
            .filter(|hit| hit.ordinal % 2 == 1)
            .take(17)
            .copied()
            .collect();
        assert_eq!(filtered, expected, "{query}: a filter changes no score");
    }
}

#[test]
fn the_words_of_a_deleted_passage_count_as_memory() {
    let folder = tempfile::tempdir().unwrap();
    let text = "salt and brine ".repeat(100);
    let passages = ["a", "b"].map(|id| passage(id, "", &text, &json!({})));
    let config = StoreConfig::default();
    write(folder.path(), &config, &passages);
    let mut view = View::new(Arc::new(open(folder.path())), Arc::new(config.schema));
    assert_eq!(view.n_bytes(), 0);
    assert_eq!(view.delete("a").unwrap(), 1);
    assert!(view.n_bytes() >= text.len() as u64, "{}", view.n_bytes());
    let before = view.n_bytes();
    assert_eq!(view.delete("a").unwrap(), 0);
    assert_eq!(view.n_bytes(), before);
}
