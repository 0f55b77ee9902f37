//! BM25: its order, and its quality beside the figures of the data sets' README.

use std::path::{Path, PathBuf};

use corpus::{CorpusConfig, CorpusReader, Dataset};
use serde_json::json;
use store::{Bitmap, LexicalHit, Store, StoreConfig, StoreWriter};

use crate::{open, passage, write};

/// nDCG@10 of BM25 (k₁ = 1.2, b = 0.75, English stop words, Snowball stemmer, title + text) in the README.
const REFERENCE: [(&str, &[(&str, f64)]); 4] = [
    ("cranfield", &[("test", 0.523)]),
    ("squad", &[("dev", 0.878)]),
    ("squadshifts-amazon", &[("dev", 0.422)]),
    ("medquad", &[("dev", 0.609), ("test", 0.608)]),
];
/// Tokenizers and stop word lists differ in details.
const TOLERANCE: f64 = 0.02;

#[test]
fn quality_equals_the_reference() {
    let Some(data) = data_folder() else {
        println!("did not run: TRAWL_DATA names no folder of data sets");
        return;
    };
    for (name, splits) in REFERENCE {
        let dataset = Dataset::open(&data.join(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = index(&dataset, folder.path());
        for &(split, expected) in splits {
            let found = ndcg_at_10(&store, &dataset, split);
            println!("{name} {split}: nDCG@10 {found:.4}, reference {expected}");
            assert!(
                (found - expected).abs() <= TOLERANCE,
                "{name} {split}: {found} is not near {expected}"
            );
        }
    }
}

fn data_folder() -> Option<PathBuf> {
    std::env::var_os("TRAWL_DATA").map(PathBuf::from)
}

fn index(dataset: &Dataset, folder: &Path) -> Store {
    let config = CorpusConfig {
        paths: dataset.corpus.clone(),
        ..Default::default()
    };
    let mut writer = StoreWriter::create(folder, &StoreConfig::default()).unwrap();
    for passage in CorpusReader::open(&config).unwrap() {
        writer.push(&passage.unwrap()).unwrap();
    }
    writer.finish().unwrap();
    open(folder)
}

fn ndcg_at_10(store: &Store, dataset: &Dataset, split: &str) -> f64 {
    let (qrels, queries) = (
        dataset.qrels(split).unwrap(),
        dataset.queries_of(split).unwrap(),
    );
    let dcg = |grades: &[i32]| -> f64 {
        grades
            .iter()
            .zip(2..11 + 1)
            .map(|(&grade, rank)| f64::from(grade.max(0)) / f64::from(rank).log2())
            .sum()
    };
    let mut total = 0.0;
    for query in &queries {
        let hits = store.search_lexical(&query.text, 10, None).unwrap();
        let grade = |hit: &LexicalHit| {
            qrels
                .grade(&query.id, store.id(hit.ordinal).unwrap())
                .unwrap_or(0)
        };
        let found: Vec<i32> = hits.iter().map(grade).collect();
        let mut ideal: Vec<i32> = qrels.get(&query.id).unwrap().values().copied().collect();
        ideal.sort_unstable_by(|a, b| b.cmp(a));
        total += dcg(&found) / dcg(&ideal);
    }
    total / queries.len() as f64
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
