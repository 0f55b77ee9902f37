//! What a miner keeps, checked again from the scores.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use corpus::{Qrels, Run, RunFormat, Scored};
use proptest::prelude::*;
use trainer::data::{
    CorpusSource, DataError, Dataset, JudgedSource, Judgments, NegativeSource, QuerySource, Scores,
};
use trainer::{MiningConfig, MiningCounts, Selection, mine};

const N_PASSAGES: usize = 40;
const N_QUERIES: usize = 6;

/// A corpus, queries with one to three positives, and a run whose scores fall and cross zero.
struct World {
    _folder: tempfile::TempDir,
    run: Run,
    qrels: Qrels,
    dataset: Dataset,
    teacher: Scores,
}

fn score(query: usize, passage: usize) -> f64 {
    ((query * 17 + passage * 29) % 83) as f64 / 10.0 - 3.0
}

fn teacher_score(query: usize, passage: usize) -> f64 {
    ((query * 7 + passage * 11) % 31) as f64 - 15.0
}

fn write(folder: &Path, name: &str, lines: impl Iterator<Item = String>) {
    fs::write(
        folder.join(name),
        lines.map(|line| line + "\n").collect::<String>(),
    )
    .unwrap();
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        // Passages 10 and 11 have one text, and 20 has that of the first positive of query 1.
        let text = |passage: usize| match passage {
            11 => "text 10".to_owned(),
            20 => "text 1".to_owned(),
            _ => format!("text {passage}"),
        };
        write(
            path,
            "corpus.jsonl",
            (0..N_PASSAGES).map(|p| format!("{{\"_id\": \"{p}\", \"text\": \"{}\"}}", text(p))),
        );
        write(
            path,
            "queries.jsonl",
            (0..N_QUERIES).map(|q| format!("{{\"_id\": \"q{q}\", \"text\": \"query {q}\"}}")),
        );
        let positives = |query: usize| (0..=query % 3).map(move |i| query + i * 13);
        write(
            path,
            "qrels",
            (0..N_QUERIES).flat_map(|q| positives(q).map(move |p| format!("q{q} 0 {p} 1"))),
        );
        // The last query has no result, and one is searched that nobody judged.
        let mut run = Run::new("test");
        for query in (0..N_QUERIES - 1).chain([99]) {
            let results = (0..N_PASSAGES).filter(|passage| passage % 9 != query % 9);
            let scored = results.map(|passage| Scored {
                id: passage.to_string(),
                score: score(query, passage),
            });
            run.insert(format!("q{query}"), scored.collect());
        }
        run.write(&path.join("run")).unwrap();
        let all = (0..N_QUERIES).flat_map(|q| (0..N_PASSAGES).map(move |p| (q, p)));
        write(
            path,
            "teacher",
            all.filter(|(q, p)| (q + p) % 5 > 0 || positives(*q).any(|one| one == *p))
                .map(|(q, p)| format!("q{q} {p} {}", teacher_score(q, p))),
        );
        let source = JudgedSource {
            negatives: Some(NegativeSource::Run {
                path: path.join("run"),
                format: RunFormat::Auto,
                depth: None,
            }),
            all_passages: true,
            ..JudgedSource::new(
                CorpusSource::file(&path.join("corpus.jsonl")),
                QuerySource::File(path.join("queries.jsonl")),
                Judgments::qrels(&path.join("qrels")),
            )
        };
        Self {
            run: Run::read(&path.join("run"), RunFormat::Auto).unwrap(),
            qrels: Qrels::read(&path.join("qrels"), Default::default()).unwrap(),
            dataset: source.read(&mut |_, _| {}).unwrap(),
            teacher: Scores::read(&[path.join("teacher")]).unwrap(),
            _folder: folder,
        }
    }

    fn mine(&self, config: &MiningConfig) -> (BTreeMap<String, Vec<String>>, MiningCounts) {
        let teacher = config.teacher_margin.map(|_| &self.teacher);
        let (mined, counts) = mine(&self.dataset, &self.run, None, teacher, config).unwrap();
        let ids = |example: trainer::data::Example| {
            let negatives = example.negatives.into_iter().map(|one| one.id).collect();
            (example.query_id, negatives)
        };
        (mined.examples().map(ids).collect(), counts)
    }

    /// Results of a query without its positives, best first, as the file has them.
    fn results(&self, query: &str) -> Vec<(String, f64)> {
        let results = self.run.get(query).unwrap_or_default();
        let kept = results
            .iter()
            .filter(|one| self.qrels.grade(query, &one.id).is_none());
        kept.map(|one| (one.id.clone(), one.score)).collect()
    }

    /// Lowest score of the query's positives in the run.
    fn anchor(&self, query: &str) -> f64 {
        let results = self.run.get(query).unwrap();
        let positives = results
            .iter()
            .filter(|one| self.qrels.grade(query, &one.id).is_some());
        positives.map(|one| one.score).fold(f64::INFINITY, f64::min)
    }

    fn score(&self, query: &str, id: &str) -> f64 {
        let results = self.run.get(query).unwrap();
        results.iter().find(|one| one.id == id).unwrap().score
    }
}

fn conserves(counts: &MiningCounts) -> bool {
    counts.n_candidates == counts.n_kept + counts.dropped.values().sum::<u64>()
        && counts.n_queries == counts.n_mined + counts.queries_left_out.values().sum::<u64>()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_kept_result_passes_every_filter(
        depth in 1usize..45, skip in 0usize..10, n_negatives in 1usize..20, top: bool,
        absolute in proptest::option::of(0.0f64..2.0), relative in proptest::option::of(0.0f64..0.9),
        teacher in proptest::option::of(-5.0f64..5.0), max in proptest::option::of(0.0f64..5.0),
        min in proptest::option::of(-3.0f64..0.0), keep_unanchored: bool, seed: u64,
    ) {
        let world = World::new();
        let config = MiningConfig {
            depth: depth.max(skip + 1), skip, n_negatives, absolute_margin: absolute, relative_margin: relative,
            teacher_margin: teacher, max_score: max, min_score: min, keep_unanchored, seed, min_negatives: 0,
            selection: if top { Selection::Top } else { Selection::Random }, ..MiningConfig::default()
        };
        let (mined, counts) = world.mine(&config);
        prop_assert!(conserves(&counts), "{counts:?}");
        prop_assert_eq!(counts.n_kept as usize, mined.values().map(Vec::len).sum::<usize>());
        for (query, negatives) in &mined {
            prop_assert!(negatives.len() <= n_negatives);
            prop_assert_eq!(negatives.iter().collect::<BTreeSet<_>>().len(), negatives.len());
            let scores: Vec<f64> = negatives.iter().map(|id| world.score(query, id)).collect();
            prop_assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
            let results = world.results(query);
            for (id, score) in negatives.iter().zip(scores) {
                prop_assert_eq!(world.qrels.grade(query, id), None, "a positive");
                let rank = results.iter().position(|(one, _)| one == id).unwrap();
                // Texts that repeat take no rank, and there are two.
                prop_assert!(rank >= skip && rank < config.depth + 2);
                prop_assert!(max.is_none_or(|max| score <= max) && min.is_none_or(|min| score >= min));
                let anchor = world.anchor(query);
                if anchor.is_finite() {
                    prop_assert!(absolute.is_none_or(|margin| score <= anchor - margin));
                    prop_assert!(relative.is_none_or(|margin| score <= anchor - margin * anchor.abs()));
                } else {
                    prop_assert!(keep_unanchored || absolute.is_none() && relative.is_none());
                }
                if let Some(margin) = teacher {
                    let positives = world.qrels.get(query).unwrap().keys();
                    let lowest = positives.map(|id| world.teacher.get(query, id).unwrap()).fold(f32::INFINITY, f32::min);
                    let score = world.teacher.get(query, id).unwrap();
                    prop_assert!(f64::from(score) <= f64::from(lowest) - margin);
                }
            }
        }
        prop_assert_eq!(world.mine(&config).0, mined, "a seed decides");
    }
}

#[test]
fn nothing_passes_the_wrong_filter() {
    let world = World::new();
    let config = MiningConfig {
        depth: 1000,
        n_negatives: 1000,
        ..MiningConfig::default()
    };
    let (mined, counts) = world.mine(&config);
    assert!(conserves(&counts));
    assert_eq!(
        counts.queries_left_out,
        BTreeMap::from([("no result in the run", 1)])
    );
    // Without a filter everything stays but positives, one text of two that are equal, and copies of positives.
    assert_eq!(
        counts.dropped.keys().copied().collect::<Vec<_>>(),
        [
            "positive",
            "text of a positive, or not in the corpus",
            "text repeats"
        ]
    );
    assert!(
        !mined["q1"].contains(&"20".to_owned()),
        "the text of a positive"
    );
    for (query, negatives) in &mined {
        assert!(!(negatives.contains(&"10".to_owned()) && negatives.contains(&"11".to_owned())));
        let n_positives = world.qrels.get(query).unwrap().len();
        assert!(negatives.len() + n_positives + 2 >= world.run.get(query).unwrap().len());
    }
    // The first negatives are the first results.
    let top = MiningConfig {
        selection: Selection::Top,
        n_negatives: 3,
        ..MiningConfig::default()
    };
    let results: Vec<String> = world
        .results("q4")
        .into_iter()
        .take(3)
        .map(|(id, _)| id)
        .collect();
    assert_eq!(world.mine(&top).0["q4"], results);
}

#[test]
fn a_negative_score_keeps_its_margin() {
    let world = World::new();
    let anchors: Vec<f64> = (0..5).map(|q| world.anchor(&format!("q{q}"))).collect();
    assert!(anchors.iter().any(|anchor| *anchor < 0.0), "{anchors:?}");
    let config = MiningConfig {
        relative_margin: Some(0.5),
        depth: 100,
        n_negatives: 100,
        min_negatives: 0,
        ..MiningConfig::default()
    };
    for (query, negatives) in world.mine(&config).0 {
        let anchor = world.anchor(&query);
        assert!(
            negatives
                .iter()
                .all(|id| world.score(&query, id) <= anchor - 0.5 * anchor.abs())
        );
    }
}

#[test]
fn a_part_of_the_queries_gets_the_same_negatives() {
    let world = World::new();
    let config = MiningConfig {
        n_negatives: 5,
        seed: 3,
        n_random: 2,
        ..MiningConfig::default()
    };
    let whole = world.mine(&config).0;
    let part = Dataset::from_examples(world.dataset.examples().skip(2)).unwrap();
    // Random passages are drawn from what the set has, so only the results are compared.
    let without = MiningConfig {
        n_random: 0,
        ..config.clone()
    };
    let (mined, _) = mine(&part, &world.run, None, None, &without).unwrap();
    for example in mined.examples() {
        let ids: Vec<String> = example.negatives.into_iter().map(|one| one.id).collect();
        assert_eq!(ids, whole[&example.query_id][..ids.len()]);
    }
    let other = MiningConfig { seed: 4, ..config };
    assert_ne!(world.mine(&other).0, whole);
}

#[test]
fn random_passages_are_neither_positives_nor_results() {
    let world = World::new();
    let config = MiningConfig {
        n_negatives: 2,
        n_random: 2,
        ..MiningConfig::default()
    };
    let (mined, counts) = world.mine(&config);
    assert!(conserves(&counts));
    assert_eq!(
        (counts.n_random, counts.n_mined),
        (12, 6),
        "the query without results has random ones only"
    );
    for (query, negatives) in &mined {
        let results: BTreeSet<String> =
            world.results(query).into_iter().map(|(id, _)| id).collect();
        for id in &negatives[negatives.len() - 2..] {
            assert!(world.qrels.grade(query, id).is_none() && !results.contains(id));
        }
    }
    let too_many = MiningConfig {
        n_random: 30,
        ..config
    };
    let error = mine(&world.dataset, &world.run, None, None, &too_many).unwrap_err();
    assert!(matches!(error, DataError::TooFewOthers { .. }), "{error}");
}

#[test]
fn queries_whose_positives_were_not_found_may_leave() {
    let world = World::new();
    let config = MiningConfig {
        found_only: true,
        ..MiningConfig::default()
    };
    let (mined, counts) = world.mine(&config);
    assert!(conserves(&counts));
    // The run lacks the first positive of every query; q0 and q3 have no other.
    assert_eq!(mined.keys().collect::<Vec<_>>(), ["q1", "q2", "q4"]);
    assert_eq!(counts.queries_left_out["no positive in the run"], 2);
}

#[test]
fn shuffling_changes_the_order_alone() {
    let world = World::new();
    let config = MiningConfig {
        n_negatives: 9,
        n_random: 2,
        seed: 5,
        ..MiningConfig::default()
    };
    let shuffled = MiningConfig {
        shuffle: true,
        ..config.clone()
    };
    let (ordered, shuffled) = (world.mine(&config).0, world.mine(&shuffled).0);
    assert_ne!(ordered, shuffled);
    let sorted = |mined: BTreeMap<String, Vec<String>>| {
        let sets = mined.into_iter().map(|(query, negatives)| {
            let negatives: BTreeSet<String> = negatives.into_iter().collect();
            (query, negatives)
        });
        sets.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(sorted(ordered), sorted(shuffled));
}

#[test]
fn a_teacher_scores_what_is_mined() {
    let world = World::new();
    let config = MiningConfig {
        teacher_margin: Some(-100.0),
        ..MiningConfig::default()
    };
    let (mined, counts) = mine(
        &world.dataset,
        &world.run,
        None,
        Some(&world.teacher),
        &config,
    )
    .unwrap();
    assert!(counts.dropped["no teacher score"] > 0);
    for example in mined.examples() {
        for one in example.positives.iter().chain(&example.negatives) {
            assert_eq!(one.score, world.teacher.get(&example.query_id, &one.id));
        }
    }
    // A query whose positives the teacher did not score is left out; of several, those scored stay.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scores");
    fs::write(&path, "q1 14 2.5\nq1 3 1.5\nq0 3 0.5\n").unwrap();
    let few = Scores::read(&[path]).unwrap();
    let (mined, counts) = mine(&world.dataset, &world.run, None, Some(&few), &config).unwrap();
    assert!(conserves(&counts));
    assert_eq!(
        (
            mined.len(),
            counts.queries_left_out["no teacher score of a positive"]
        ),
        (1, 4)
    );
    let group = mined.group(0, 0, &trainer::data::Sampling::new(2)).unwrap();
    let ids: Vec<&str> = group.passages.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["14", "3"]);
    let known: BTreeSet<&str> = group.positives.iter().map(String::as_str).collect();
    assert_eq!(known, BTreeSet::from(["1", "14"]));
}

#[test]
fn scores_of_positives_may_come_from_elsewhere() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scores");
    fs::write(&path, "q0 0 -2.5\nq1 1 -2.5\nq1 14 -2.9\n").unwrap();
    let scores = Scores::read(&[path]).unwrap();
    let config = MiningConfig {
        absolute_margin: Some(0.0),
        min_negatives: 0,
        ..MiningConfig::default()
    };
    let (mined, counts) = mine(&world.dataset, &world.run, Some(&scores), None, &config).unwrap();
    assert!(conserves(&counts));
    for example in mined.examples().filter(|example| example.query_id == "q1") {
        assert!(
            example
                .negatives
                .iter()
                .all(|one| world.score("q1", &one.id) <= f64::from(-2.9f32))
        );
    }
}

#[test]
fn passages_of_too_low_a_grade_are_neither_mined_nor_measured_by() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lines = |name: &str, lines: &[&str]| {
        write(path, name, lines.iter().map(|line| (*line).to_owned()));
    };
    let passage = |id: &str| format!("{{\"_id\": \"{id}\", \"text\": \"text {id}\"}}");
    write(
        path,
        "corpus.jsonl",
        ["best", "near", "far", "good"].into_iter().map(passage),
    );
    let query = |id: &str| format!("{{\"_id\": \"{id}\", \"text\": \"query {id}\"}}");
    write(path, "queries.jsonl", ["q1", "q2"].into_iter().map(query));
    let qrels = ["q1 0 best 2", "q1 0 good 1", "q2 0 best 2", "q2 0 good 1"];
    lines("qrels", &qrels);
    let results = ["best 9", "near 7", "far 5", "good 3"].map(|one| format!("q1 {one}"));
    let others = ["near 7", "far 5", "good 3"].map(|one| format!("q2 {one}"));
    write(path, "run", results.into_iter().chain(others));
    lines("scores", &["q2 best 6", "q2 good 1"]);
    let source = JudgedSource {
        negatives: Some(NegativeSource::Run {
            path: path.join("run"),
            format: RunFormat::Score3,
            depth: None,
        }),
        ..JudgedSource::new(
            CorpusSource::file(&path.join("corpus.jsonl")),
            QuerySource::File(path.join("queries.jsonl")),
            Judgments::Qrels {
                path: path.join("qrels"),
                min_grade: 2,
            },
        )
    };
    let dataset = source.read(&mut |_, _| {}).unwrap();
    let run = Run::read(&path.join("run"), RunFormat::Score3).unwrap();
    let scores = Scores::read(&[path.join("scores")]).unwrap();
    let mined = |config: &MiningConfig| {
        let (mined, counts) = mine(&dataset, &run, Some(&scores), None, config).unwrap();
        assert!(conserves(&counts));
        let ids = |example: trainer::data::Example| -> Vec<String> {
            example.negatives.into_iter().map(|one| one.id).collect()
        };
        mined.examples().map(ids).collect::<Vec<_>>()
    };
    let margin = MiningConfig {
        absolute_margin: Some(0.0),
        ..MiningConfig::default()
    };
    assert_eq!(mined(&margin), [vec!["near", "far"], vec!["far"]]);
    let found = MiningConfig {
        found_only: true,
        ..MiningConfig::default()
    };
    assert_eq!(
        mined(&found),
        [["near", "far"]],
        "q2 has its good one alone"
    );
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let world = World::new();
    let refuse = |config: MiningConfig| {
        let error = mine(&world.dataset, &world.run, None, None, &config).unwrap_err();
        assert!(matches!(error, DataError::Setting { .. }), "{error}");
    };
    let config = MiningConfig::default;
    refuse(MiningConfig {
        skip: 200,
        ..config()
    });
    refuse(MiningConfig {
        n_negatives: 0,
        ..config()
    });
    refuse(MiningConfig {
        relative_margin: Some(-0.1),
        ..config()
    });
    refuse(MiningConfig {
        absolute_margin: Some(f64::NAN),
        ..config()
    });
    refuse(MiningConfig {
        teacher_margin: Some(3.0),
        ..config()
    });
    // No score is above or below what is no number, so that it would drop nothing.
    for wrong in [
        MiningConfig {
            max_score: Some(f64::NAN),
            ..config()
        },
        MiningConfig {
            min_score: Some(f64::NAN),
            ..config()
        },
        MiningConfig {
            teacher_margin: Some(f64::NAN),
            ..config()
        },
    ] {
        let teacher = wrong.teacher_margin.map(|_| &world.teacher);
        let error = mine(&world.dataset, &world.run, None, teacher, &wrong).unwrap_err();
        assert!(
            error.to_string().ends_with("is NaN; it is a number"),
            "{error}"
        );
    }
}

#[test]
fn more_random_passages_than_can_be_counted_are_refused() {
    let world = World::new();
    let config = MiningConfig {
        n_negatives: 1,
        n_random: usize::MAX,
        ..MiningConfig::default()
    };
    let error = mine(&world.dataset, &world.run, None, None, &config).unwrap_err();
    assert!(matches!(error, DataError::TooFewOthers { .. }), "{error}");
}
