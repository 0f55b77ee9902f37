//! Measures against pytrec_eval, worked examples and the relations that hold between them.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use corpus::{Qrels, QrelsFormat, Run, RunFormat, Scored};
use evaluation::{
    Averaging, EvaluationConfig, EvaluationError, Measure, MeasureKind, Profile, Report,
    ScorePrecision, Ties, evaluate,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde::Deserialize;

fn config(measures: &str) -> EvaluationConfig {
    EvaluationConfig {
        measures: measures
            .split(' ')
            .flat_map(|list| Measure::parse_list(list).unwrap())
            .collect(),
        ..EvaluationConfig::default()
    }
}

/// Judgments from `query passage:grade …`, one query a line.
fn qrels(text: &str) -> Qrels {
    let mut qrels = Qrels::default();
    for line in text.lines() {
        let (query, judgments) = line.split_once(' ').unwrap();
        for judgment in judgments.split(' ') {
            let (passage, grade) = judgment.split_once(':').unwrap();
            qrels.insert(query, passage, grade.parse().unwrap());
        }
    }
    qrels
}

/// A run from `query passage:score …`, one query a line.
fn run(text: &str) -> Run {
    let mut run = Run::new("test");
    for line in text.lines() {
        let mut words = line.split(' ');
        let query = words.next().unwrap();
        let scored = words.map(|word| {
            let (id, score) = word.split_once(':').unwrap();
            Scored {
                id: id.into(),
                score: score.parse().unwrap(),
            }
        });
        run.insert(query, scored.collect());
    }
    run
}

#[track_caller]
fn check_close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!(
        (found - expected).abs() <= tolerance,
        "{what}: {found} is not {expected}"
    );
}

/// Checks one query against `measure value` pairs.
#[track_caller]
fn check(judgments: &str, results: &str, config: &EvaluationConfig, expected: &[f64]) {
    let report = evaluate(&qrels(judgments), &run(results), config).unwrap();
    assert_eq!(config.measures.len(), expected.len());
    for ((measure, &found), &expected) in config.measures.iter().zip(&report.mean).zip(expected) {
        check_close(
            found,
            expected,
            1e-12,
            &format!("{measure} of {results} by {judgments}"),
        );
    }
}

#[derive(Deserialize)]
struct Case {
    level: i32,
    qrels: BTreeMap<String, BTreeMap<String, i32>>,
    run: BTreeMap<String, Vec<(String, f64)>>,
    expected: BTreeMap<String, Vec<f64>>,
    mean: BTreeMap<String, Vec<f64>>,
}

/// `tests/golden/evaluation/README.md` says how the cases were made.
#[test]
fn measures_equal_those_of_pytrec_eval() {
    #[derive(Deserialize)]
    struct Header {
        measures: Vec<Measure>,
    }
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/evaluation/cases.jsonl.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap())
        .read_to_string(&mut text)
        .unwrap();
    let mut lines = text.lines();
    let Header { measures } = serde_json::from_str(lines.next().unwrap()).unwrap();
    let mut n_compared = 0;
    for (line, number) in lines.zip(1..) {
        let case: Case = serde_json::from_str(line).unwrap();
        let (mut qrels, mut run) = (Qrels::default(), Run::new("test"));
        for (query, passages) in &case.qrels {
            passages
                .iter()
                .for_each(|(passage, &grade)| _ = qrels.insert(query, passage, grade));
        }
        for (query, scored) in &case.run {
            run.insert(
                query,
                scored
                    .iter()
                    .map(|(id, score)| Scored {
                        id: id.clone(),
                        score: *score,
                    })
                    .collect(),
            );
        }
        for (averaging, name) in [
            (Averaging::Intersection, "intersection"),
            (Averaging::Complete, "complete"),
        ] {
            let (measures, relevance_level) = (measures.clone(), case.level);
            let config = EvaluationConfig {
                measures,
                averaging,
                relevance_level,
                ..EvaluationConfig::default()
            };
            let report = evaluate(&qrels, &run, &config).unwrap();
            let what =
                |query: &str, measure| format!("case {number}, {name}, query {query}, {measure}");
            assert_eq!(
                report
                    .per_query
                    .values()
                    .filter(|query| !query.is_missing)
                    .count(),
                case.expected.len()
            );
            for (query, expected) in &case.expected {
                let found = &report.per_query[query].values;
                for ((measure, &found), &expected) in
                    config.measures.iter().zip(found).zip(expected)
                {
                    check_close(found, expected, 1e-9, &what(query, measure));
                    n_compared += 1;
                }
            }
            for ((measure, &found), &expected) in config
                .measures
                .iter()
                .zip(&report.mean)
                .zip(&case.mean[name])
            {
                check_close(found, expected, 1e-9, &what("all", measure));
            }
        }
    }
    assert!(
        n_compared >= 2 * 2000 * 40,
        "only {n_compared} values were compared"
    );
}

/// Per-query values are pytrec_eval's, means by hand.
#[test]
fn binary_judgments_and_a_missing_query() {
    let qrels = qrels("q1 d2:1 d5:1 d9:1\nq2 d1:1\nq3 d7:1");
    let run = run("q1 d1:9 d2:8 d3:7 d4:6 d5:5\nq2 d4:3 d1:2 d3:1");
    let log = |x: f64| x.log2().recip();
    let (third, ideal) = (1.0 / 3.0, 1.0 + log(3.0) + 0.5);
    let rows = [
        ("mrr", [0.5, 0.5], [0.5, third]),
        ("P@3", [third, third], [third, 2.0 / 9.0]),
        ("recall@3", [third, 1.0], [2.0 / 3.0, 4.0 / 9.0]),
        ("recall@10", [2.0 / 3.0, 1.0], [5.0 / 6.0, 5.0 / 9.0]),
        ("map", [0.3, 0.5], [0.4, 0.8 / 3.0]),
        ("map@3", [0.5 / 3.0, 0.5], [third, 2.0 / 9.0]),
        (
            "ndcg@3",
            [0.296_081_910_966, log(3.0)],
            [0.463_505_832_269, 0.309_003_888_179],
        ),
        (
            "ndcg@10",
            [(log(3.0) + log(6.0)) / ideal, 0.630_929_753_571],
            [0.554_276_728_537, 0.369_517_819_025],
        ),
        ("success@1", [0.0, 0.0], [0.0, 0.0]),
        ("success@5", [1.0, 1.0], [1.0, 2.0 / 3.0]),
        // Over all three queries, as BEIR averages it, the mean is 1/3.
        ("hole@3", [third, 2.0 / 3.0], [0.5, third]),
        ("unj@3", [2.0 / 3.0, 2.0 / 3.0], [2.0 / 3.0, 4.0 / 9.0]),
        ("judged@3", [third, third], [third, 2.0 / 9.0]),
        // What a run does not find is still there to be found.
        ("num_rel", [3.0, 1.0], [4.0, 5.0]),
        ("num_rel_ret", [2.0, 1.0], [3.0, 3.0]),
    ];
    for (measure, per_query, [intersection, complete]) in rows {
        for (averaging, mean) in [
            (Averaging::Intersection, intersection),
            (Averaging::Complete, complete),
        ] {
            let report = evaluate(
                &qrels,
                &run,
                &EvaluationConfig {
                    averaging,
                    ..config(measure)
                },
            )
            .unwrap();
            assert_eq!((report.n_queries, report.n_missing), (3, 1));
            check_close(
                report.per_query["q1"].values[0],
                per_query[0],
                1e-12,
                measure,
            );
            check_close(
                report.per_query["q2"].values[0],
                per_query[1],
                1e-12,
                measure,
            );
            check_close(report.mean[0], mean, 1e-12, measure);
        }
    }
    let mixed = EvaluationConfig {
        averaging: Averaging::Mixed,
        ..config("mrr@10 ndcg@10 hole@3 success@5")
    };
    let mean = evaluate(&qrels, &run, &mixed).unwrap().mean;
    for (found, expected) in mean
        .iter()
        .zip([third, 0.554_276_728_537, third, 2.0 / 3.0])
    {
        check_close(*found, expected, 1e-12, "mixed");
    }
}

/// Linear gains are pytrec_eval's, exponential ones by hand.
#[test]
fn graded_judgments() {
    let (judgments, results) = ("q a:3 b:2 c:1 d:0 e:3", "q b:5 x:4 a:3 d:2 c:1");
    check(
        judgments,
        results,
        &config("dcg@3 ndcg@3 ndcg_exp@3 dcg@5 ndcg@5,10 ndcg_exp@5,10"),
        &[
            3.5,
            0.593_946_235_840,
            0.503_231_977_374,
            3.886_852_807_235,
            0.614_671_276_578,
            0.614_671_276_578,
            0.515_977_930_430,
            0.515_977_930_430,
        ],
    );
    let measures = "mrr map map@3 recall@10 ndcg@10 recall(rel=2)@10 num_rel num_rel_ret num_ret";
    let (third, ndcg) = (1.0 / 3.0, 0.614_671_276_578);
    check(
        judgments,
        results,
        &config(measures),
        &[
            1.0,
            1.7 / 3.0,
            1.25 / 3.0,
            0.75,
            ndcg,
            2.0 * third,
            4.0,
            3.0,
            5.0,
        ],
    );
    check(
        judgments,
        results,
        &EvaluationConfig {
            relevance_level: 2,
            ..config(measures)
        },
        &[
            1.0,
            5.0 / 9.0,
            5.0 / 9.0,
            2.0 * third,
            ndcg,
            2.0 * third,
            3.0,
            2.0,
            5.0,
        ],
    );
    // R = 4 over 2: nDCG_bin has ones at ranks 1, 3, 5 of an ideal four; R_cap@3 has two of three; MAP over min(R, 3).
    let log = |x: f64| x.log2().recip();
    let binary = (1.0 + 0.5 + log(6.0)) / (1.0 + log(3.0) + 0.5 + log(5.0));
    check(
        judgments,
        results,
        &config("ndcg_bin@10 recall_cap@3 map_cap@3 Rprec"),
        &[binary, 2.0 * third, (1.0 + 2.0 * third) / 3.0, 0.5],
    );
}

#[test]
fn exponential_gains_of_high_grades_stay_numbers() {
    let second = 0.630_929_753_571;
    let measures = config("ndcg_exp ndcg_exp@10");
    // 2^2000 beside 2^1999: the second is half the first, and the ones that are taken away are nothing beside them.
    let swapped = (0.5 + second) / (1.0 + second / 2.0);
    for (high, low) in [(1024, 1023), (2000, 1999), (i32::MAX, i32::MAX - 1)] {
        let judgments = format!("q a:{high} b:{low}");
        check(&judgments, "q a:2 b:1", &measures, &[1.0; 2]);
        check(&judgments, "q b:2 a:1", &measures, &[swapped; 2]);
    }
    check("q a:2000 b:1", "q b:2 a:1", &measures, &[second; 2]);
}

/// As pytrec_eval has them.
#[test]
fn ties_and_special_grades() {
    let three = config("mrr ndcg@10 map");
    let second = 0.630_929_753_571;
    check("q 9:1 10:0", "q 9:1 10:1", &three, &[1.0, 1.0, 1.0]);
    check("q 9:0 10:1", "q 9:1 10:1", &three, &[0.5, second, 0.5]);
    check(
        "q a:1",
        "q a:1 b:1 c:1",
        &three,
        &[1.0 / 3.0, 0.5, 1.0 / 3.0],
    );
    check("q a:1", "q a:1 B:1", &three, &[1.0, 1.0, 1.0]);
    check("q a:1", "q a:1.000000001 b:1", &config("mrr"), &[0.5]);
    check("q a:1", "q a:1.000001 b:1", &config("mrr"), &[1.0]);
    let double = EvaluationConfig {
        score_precision: ScorePrecision::F64,
        ..config("mrr")
    };
    check("q a:1", "q a:1.000000001 b:1", &double, &[1.0]);
    check("q a:1", "q a:0 b:-0", &config("mrr"), &[0.5]);
    check("q a:1", "q a:-0 b:0", &config("mrr"), &[0.5]);
    check("q a:1", "q b:-inf a:inf", &config("mrr"), &[1.0]);
    check("q a:-1 b:1", "q a:2 b:1", &three, &[0.5, second, 0.5]);
    check("q a:0", "q a:2 b:1", &three, &[0.0, 0.0, 0.0]);
    check("q a:1", "q", &three, &[0.0, 0.0, 0.0]);
    check(
        "q a:-1",
        "q a:1",
        &config("mrr ndcg map recall@5 Rprec bpref judged@5 unj@5 hole@5"),
        &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2, 0.0],
    );
    let asc = EvaluationConfig {
        ties: Ties::DocidAsc,
        ..config("mrr")
    };
    check("q a:1", "q c:1 b:1 a:1", &asc, &[1.0]);
    let file = EvaluationConfig {
        ties: Ties::File,
        ..config("mrr")
    };
    check("q a:1", "q c:1 a:1 b:1", &file, &[0.5]);
    check("q a:1", "q a:1 c:1 b:1", &file, &[1.0]);
}

#[test]
fn identical_ids_and_unjudged_passages_can_be_left_out() {
    let (judgments, results) = ("q a:1 q:0 c:0 d:-1", "q q:9 x:8 d:7 c:6 a:5");
    check(judgments, results, &config("mrr num_ret"), &[0.2, 5.0]);
    check(
        judgments,
        results,
        &EvaluationConfig {
            ignore_identical_ids: true,
            ..config("mrr num_ret")
        },
        &[0.25, 4.0],
    );
    check(
        judgments,
        results,
        &EvaluationConfig {
            judged_only: true,
            ..config("mrr num_ret")
        },
        &[1.0 / 3.0, 3.0],
    );
}

#[test]
fn rankings_that_are_none_are_refused() {
    let qrels = qrels("q a:1");
    let error = |results: &str, measures: &str| {
        evaluate(&qrels, &run(results), &config(measures)).unwrap_err()
    };
    assert!(matches!(
        error("q a:NaN", "mrr"),
        EvaluationError::NotANumber { .. }
    ));
    assert!(matches!(
        error("q a:1 b:2 a:3", "mrr"),
        EvaluationError::RepeatedPassage { .. }
    ));
    assert_eq!(
        error("q a:1", "answer@5").to_string(),
        "measure `answer@5` is not computed from judgments"
    );
    let nothing = evaluate(&Qrels::default(), &run("q a:1"), &config("mrr num_ret")).unwrap();
    assert_eq!((nothing.mean, nothing.n_ignored), (vec![0.0, 0.0], 1));
}

#[test]
fn profiles_have_the_columns_of_their_evaluators() {
    let (binary, graded) = (qrels("q a:1"), qrels("q a:3"));
    for (name, expected) in [
        (
            "trec",
            "num_ret num_rel num_rel_ret map Rprec bpref mrr ndcg P@5",
        ),
        (
            "trec-dl",
            "ndcg@10 ndcg@100 map mrr P@10 recall@100 recall@1000 judged@10",
        ),
        (
            "msmarco",
            "mrr@10 mrr@100 recall@10 recall@50 recall@100 recall@500 recall@1000",
        ),
        (
            "beir",
            "ndcg@1 ndcg@3 ndcg@5 ndcg@10 ndcg@100 ndcg@1000 map@1",
        ),
        ("simlm", "mrr@10 ndcg@10 ndcg@50"),
        ("openmatch", "mrr@10 ndcg@10 recall@100"),
        ("st", "success@1 success@3 success@5 success@10 P@1"),
    ] {
        let config = name.parse::<Profile>().unwrap().config(&binary);
        let measures: Vec<String> = config.measures.iter().map(Measure::to_string).collect();
        assert!(
            measures.join(" ").starts_with(expected),
            "{name}: {measures:?}"
        );
    }
    assert_eq!(Profile::TrecDl.config(&graded).relevance_level, 2);
    assert_eq!(
        Profile::Simlm.config(&graded).measures[0].to_string(),
        "mrr(rel=2)@10"
    );
    // A passage of grade 1 is found by SimLM's recall on graded judgments, and not by its MRR.
    let qrels = qrels("q a:1 b:3");
    let report = evaluate(&qrels, &run("q a:2 b:1"), &Profile::Simlm.config(&qrels)).unwrap();
    assert_eq!(report.mean_of("mrr(rel=2)@10".parse().unwrap()), Some(0.5));
    assert_eq!(report.mean_of("recall@10".parse().unwrap()), Some(1.0));
    assert!("bier".parse::<Profile>().is_err());
}

#[test]
fn reports_are_written_as_json_and_as_text() {
    let report = evaluate(
        &qrels("q1 a:1\nq2 a:1"),
        &run("q1 b:2 a:1\nq9 a:1"),
        &config("mrr@10 num_ret"),
    )
    .unwrap();
    let expected = serde_json::json!({
        "num_q": 2, "num_q_missing": 1, "num_q_ignored": 1, "relevance_level": 1, "tie": "score_desc_docid_desc",
        "score_precision": "f32", "averaging": "complete", "ignore_identical_ids": false, "judged_only": false,
        "metrics": {"mrr@10": 0.25, "num_ret": 2.0},
        "per_query": {"q1": {"mrr@10": 0.5, "num_ret": 2.0}, "q2": {"mrr@10": 0.0, "num_ret": 0.0}},
    });
    assert_eq!(report.to_json(true), expected);
    assert!(report.to_json(false).get("per_query").is_none());
    let text = "num_q                 \tall\t2\nnum_q_missing         \tall\t1\nmrr@10                \tall\t0.2500\n\
                num_ret               \tall\t2\n";
    assert_eq!(report.to_text(false), text);
    assert!(
        report
            .to_text(true)
            .starts_with("mrr@10                \tq1\t0.5000\n")
    );
    let stored = serde_json::to_string(&report.config).unwrap();
    assert_eq!(
        serde_json::from_str::<EvaluationConfig>(&stored).unwrap(),
        report.config
    );
}

#[test]
fn every_layout_of_a_run_is_evaluated_alike() {
    let folder = std::env::temp_dir().join(format!("trawl-evaluation-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name);
    let scored = run("q1 d1:9 d2:8 d5:7\nq2 d4:3 d1:2");
    scored.write(&path("trec")).unwrap();
    std::fs::write(
        path("three"),
        "q1 d1 9.5\nq1 d2 8\nq1 d5 7\nq2\td4\t3\nq2\td1\t2\n",
    )
    .unwrap();
    std::fs::write(
        path("marco"),
        "q1\td1\t1\nq1\td2\t2\nq1\td5\t3\nq2\td4\t1\nq2\td1\t2\n",
    )
    .unwrap();
    std::fs::write(
        path("marco4"),
        "q1\td2\t2\t8\nq1\td1\t1\t9\nq1\td5\t3\t7\nq2\td4\t1\t3\nq2\td1\t2\t2\n",
    )
    .unwrap();
    std::fs::write(path("qrels"), "q1 0 d2 1\nq1 0 d5 2\nq2 0 d1 1\n").unwrap();
    let qrels = Qrels::read(&path("qrels"), QrelsFormat::Auto).unwrap();
    let config = config("mrr map ndcg@10 P@1,2,3");
    let expected = evaluate(&qrels, &scored, &config).unwrap();
    for name in ["trec", "three", "marco", "marco4"] {
        let run = Run::read(&path(name), RunFormat::Auto).unwrap();
        assert_eq!(evaluate(&qrels, &run, &config).unwrap(), expected, "{name}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

const ALL: &str = "ndcg ndcg@1,3,10 ndcg_exp ndcg_exp@1,3,10 ndcg_bin ndcg_bin@1,3,10 mrr mrr@1,3,10 map map@1,3,10 \
                   map_cap@1,3,10 P@1,3,10 recall@1,3,10 recall_cap@1,3,10 Rprec success@1,3,10 bpref hole@1,3,10 \
                   unj@1,3,10 judged@1,3,10";

/// Judgments of two queries and a run with ties; the passages are p0 … p14.
fn any_case() -> impl Strategy<Value = (Qrels, Run)> {
    let judgments = proptest::collection::btree_map(0..15u32, -1..4i32, 0..10);
    let results = proptest::collection::btree_map(0..15u32, 0..6i32, 0..15);
    proptest::collection::vec((judgments, results), 2).prop_map(|queries| {
        let (mut qrels, mut run) = (Qrels::default(), Run::new("test"));
        for ((judgments, results), i) in queries.into_iter().zip(0..) {
            let query = format!("q{i}");
            for (passage, grade) in judgments {
                qrels.insert(&query, format!("p{passage}"), grade);
            }
            let scored = results.into_iter().map(|(passage, score)| Scored {
                id: format!("p{passage}"),
                score: f64::from(score),
            });
            run.insert(&query, scored.collect());
        }
        (qrels, run)
    })
}

fn all_of(qrels: &Qrels, run: &Run) -> Report {
    evaluate(qrels, run, &config(ALL)).unwrap()
}

fn mapped(run: &Run, mut each: impl FnMut(&str, &mut Vec<Scored>)) -> Run {
    let mut changed = Run::new("changed");
    for (query, scored) in run.queries() {
        let mut scored = scored.to_vec();
        each(query, &mut scored);
        changed.insert(query, scored);
    }
    changed
}

/// The passages in trec_eval's order.
fn sort(scored: &mut [Scored]) {
    scored.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| b.id.cmp(&a.id)));
}

fn is_about_judging(kind: MeasureKind) -> bool {
    matches!(
        kind,
        MeasureKind::Hole | MeasureKind::Unjudged | MeasureKind::Judged
    )
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(20_261_120), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_lines_and_the_scale_of_scores_do_not_count((qrels, run) in any_case(), seed in any::<u64>()) {
        let expected = all_of(&qrels, &run);
        let mut state = seed;
        let shuffled = mapped(&run, |_, scored| {
            scored.sort_by_key(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state >> 33
            });
        });
        prop_assert_eq!(&all_of(&qrels, &shuffled), &expected);
        let scaled = mapped(&run, |_, scored| scored.iter_mut().for_each(|passage| passage.score = passage.score * 2.0 + 1.0));
        prop_assert_eq!(&all_of(&qrels, &scaled), &expected);
    }

    #[test]
    fn values_are_bounded_and_related((qrels, run) in any_case()) {
        let report = all_of(&qrels, &run);
        for (id, query) in &report.per_query {
            let value = |name: &str| query.values[config(ALL).measures.iter().position(|m| m.to_string() == name).unwrap()];
            for (measure, value) in report.config.measures.iter().zip(&query.values) {
                prop_assert!((0.0..=1.0 + 1e-12).contains(value), "{} is {}", measure, value);
            }
            let at = |name: &str, k: usize| value(&format!("{name}@{k}"));
            for name in ["recall", "success", "mrr", "map"] {
                let (one, three, ten) = (at(name, 1), at(name, 3), at(name, 10));
                prop_assert!(one <= three + 1e-12 && three <= ten + 1e-12, "{}: {} {} {}", name, one, three, ten);
            }
            for k in [1, 3, 10] {
                prop_assert!(at("map", k) <= at("recall", k) + 1e-12);
                prop_assert!(at("recall", k) <= at("recall_cap", k) + 1e-12);
                prop_assert!(at("map", k) <= at("map_cap", k) + 1e-12);
            }
            prop_assert_eq!(value("mrr@1"), value("success@1"));
            prop_assert_eq!(value("mrr@1"), value("P@1"));
            let grades = qrels.get(id).unwrap();
            if grades.values().filter(|&&grade| grade >= 1).count() == 1 {
                prop_assert_eq!(value("map"), value("mrr"));
                prop_assert_eq!(value("recall@3"), value("success@3"));
            }
            if grades.values().all(|&grade| grade <= 1) {
                for k in [1, 3, 10] {
                    prop_assert!((at("ndcg", k) - at("ndcg_exp", k)).abs() < 1e-12);
                    prop_assert!((at("ndcg", k) - at("ndcg_bin", k)).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn the_best_order_has_the_best_values((qrels, _) in any_case()) {
        let mut best = Run::new("best");
        for (query, passages) in qrels.queries() {
            best.insert(query, passages.iter().map(|(id, &grade)| Scored { id: id.clone(), score: f64::from(grade) }).collect());
        }
        let report = evaluate(&qrels, &best, &config("ndcg ndcg@3 ndcg_exp@10 ndcg_bin@3 map mrr Rprec recall_cap@3 bpref")).unwrap();
        for (id, query) in &report.per_query {
            let expected = if qrels.get(id).unwrap().values().any(|&grade| grade >= 1) { 1.0 } else { 0.0 };
            for (measure, value) in report.config.measures.iter().zip(&query.values) {
                prop_assert!((value - expected).abs() < 1e-12, "{} is {}", measure, value);
            }
        }
    }

    #[test]
    fn raising_a_better_passage_lowers_nothing((qrels, run) in any_case(), rank in 0..14usize) {
        let grade = |query: &str, passage: &Scored| qrels.grade(query, &passage.id).unwrap_or(0).max(0);
        let ranked = mapped(&run, |_, scored| {
            sort(scored);
            scored.iter_mut().zip((0..15).rev()).for_each(|(passage, score)| passage.score = f64::from(score));
        });
        let swapped = mapped(&ranked, |query, scored| {
            if rank + 1 < scored.len() && grade(query, &scored[rank]) < grade(query, &scored[rank + 1]) {
                let (upper, lower) = (scored[rank].score, scored[rank + 1].score);
                (scored[rank].score, scored[rank + 1].score) = (lower, upper);
            }
        });
        let (before, after) = (all_of(&qrels, &ranked), all_of(&qrels, &swapped));
        for (id, query) in &before.per_query {
            for ((measure, old), new) in before.config.measures.iter().zip(&query.values).zip(&after.per_query[id].values) {
                prop_assert!(is_about_judging(measure.kind) || *new >= old - 1e-12, "{}: {} to {}", measure, old, new);
            }
        }
    }

    #[test]
    fn only_the_first_ranks_count((qrels, run) in any_case()) {
        for k in [1, 3, 10] {
            let cut = mapped(&run, |_, scored| {
                sort(scored);
                scored.truncate(k);
            });
            let list = ["ndcg", "ndcg_exp", "ndcg_bin", "mrr", "map", "map_cap", "P", "recall", "recall_cap", "success", "hole", "unj", "judged"];
            let config = config(&list.map(|name| format!("{name}@{k}")).join(" "));
            prop_assert_eq!(evaluate(&qrels, &cut, &config).unwrap(), evaluate(&qrels, &run, &config).unwrap());
        }
    }

    #[test]
    fn judged_only_equals_a_run_of_judged_passages((qrels, run) in any_case()) {
        let judged = mapped(&run, |query, scored| scored.retain(|passage| qrels.grade(query, &passage.id).is_some_and(|grade| grade >= 0)));
        let only = evaluate(&qrels, &run, &EvaluationConfig { judged_only: true, ..config(ALL) }).unwrap();
        prop_assert_eq!(only.per_query, all_of(&qrels, &judged).per_query);
    }
}
