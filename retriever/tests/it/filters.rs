//! Filters, facets, thresholds and totals.

use retriever::{
    Fusion, Hit, Mode, OnTimeout, Relation, RerankRequest, Reranker, SearchError, SearchOptions,
    Total, Weights,
};
use serde_json::{Value, json};
use store::{Bounds, Condition, Filter, Test};

use crate::{Late, MODES, QUERY, RANKS, SCORES, WORLD, cross_encoder, ids, search, text};

fn must(key: &str, test: Test) -> Filter {
    let key = key.to_owned();
    Filter {
        must: vec![Condition::Field { key, test }],
        ..Filter::default()
    }
}

fn of_subjects(subjects: &[&str]) -> Filter {
    let subjects = subjects.iter().map(|&subject| json!(subject)).collect();
    must("subject", Test::Any(subjects))
}

fn subject(hit: &Hit) -> &Value {
    &hit.metadata.as_ref().unwrap()["subject"]
}

fn all(mode: Mode) -> SearchOptions {
    SearchOptions {
        mode,
        top_k: 1000,
        ..SearchOptions::default()
    }
}

fn exactly(value: usize) -> Total {
    Total {
        value: value as u64,
        relation: Relation::Eq,
    }
}

fn at_least(value: usize) -> Total {
    Total {
        relation: Relation::Gte,
        ..exactly(value)
    }
}

#[tokio::test]
async fn each_source_searches_only_what_passes_the_filter() {
    for mode in [Mode::Dense, Mode::Lexical] {
        let whole = search(text(QUERY), all(mode), None).await.unwrap().hits;
        let options = SearchOptions {
            filter: Some(of_subjects(&["tides", "oceans"])),
            ..all(mode)
        };
        let answer = search(text(QUERY), options, None).await.unwrap();
        let passing: Vec<&Hit> = whole
            .iter()
            .filter(|hit| *subject(hit) == "tides" || *subject(hit) == "oceans")
            .collect();
        assert!(!passing.is_empty() && passing.len() < whole.len());
        let found: Vec<(&str, f32)> = answer
            .hits
            .iter()
            .map(|h| (h.id.as_str(), h.score))
            .collect();
        let expected: Vec<(&str, f32)> = passing.iter().map(|h| (h.id.as_str(), h.score)).collect();
        assert_eq!(found, expected, "{mode:?}");
        assert_eq!(answer.total, exactly(expected.len()));
    }
}

#[tokio::test]
async fn a_fused_answer_is_made_of_filtered_sources() {
    let filter = of_subjects(&["tides"]);
    for fusion in [RANKS, SCORES] {
        let options = |mode| SearchOptions {
            filter: Some(filter.clone()),
            ..all(mode)
        };
        let mut lists = Vec::new();
        for mode in [Mode::Dense, Mode::Lexical] {
            let hits = search(text(QUERY), options(mode), None).await.unwrap().hits;
            lists.push(
                hits.iter()
                    .map(|hit| (hit.ordinal, hit.score))
                    .collect::<Vec<_>>(),
            );
        }
        let answer = search(text(QUERY), options(Mode::Hybrid(fusion)), None)
            .await
            .unwrap();
        let found: Vec<(u32, f32)> = answer.hits.iter().map(|h| (h.ordinal, h.score)).collect();
        let fused = fusion.fuse(&lists[0], &lists[1]);
        let expected: Vec<(u32, f32)> = fused.iter().map(|f| (f.ordinal, f.score)).collect();
        assert_eq!(found, expected);
        assert_eq!(answer.total, exactly(lists[0].len()));
    }
}

#[tokio::test]
async fn a_filter_that_matches_nothing_gives_an_empty_answer() {
    let reranker = cross_encoder();
    for mode in MODES {
        for rerank in [None, Some(rerank(5, OnTimeout::Fail))] {
            let options = SearchOptions {
                filter: Some(must("subject", Test::Match(json!("nothing")))),
                facets: vec!["year".to_owned()],
                rerank,
                ..all(mode)
            };
            let answer = search(text(QUERY), options, Some(&reranker)).await.unwrap();
            assert_eq!(answer.hits, []);
            assert_eq!(answer.total, exactly(0));
            assert_eq!(answer.facets[0].counts, []);
        }
        let everything = SearchOptions {
            filter: Some(Filter::default()),
            ..all(mode)
        };
        let plain = search(text(QUERY), all(mode), None).await.unwrap();
        let answer = search(text(QUERY), everything, None).await.unwrap();
        assert_eq!((answer.hits, answer.total), (plain.hits, plain.total));
    }
}

#[tokio::test]
async fn facets_count_what_passes_the_filter_whatever_is_returned() {
    let year = Test::Range(Bounds {
        gte: Some(json!(1800)),
        ..Bounds::default()
    });
    let options = SearchOptions {
        filter: Some(must("year", year)),
        facets: vec!["subject".to_owned(), "year".to_owned()],
        top_k: 1,
        ..SearchOptions::default()
    };
    let answer = search(text(QUERY), options, None).await.unwrap();
    let n_passages = answer.total.value;
    assert_eq!(answer.total.relation, Relation::Eq);
    let sum = |i: usize| {
        answer.facets[i]
            .counts
            .iter()
            .map(|(_, count)| count)
            .sum::<u64>()
    };
    assert_eq!(
        (sum(0), answer.facets[0].field.as_str()),
        (n_passages, "subject")
    );
    assert!(answer.facets[1].n_values > 10);
    assert!(
        answer.facets[1]
            .counts
            .iter()
            .all(|(year, _)| year.as_i64() >= Some(1800))
    );
    let unfiltered = SearchOptions {
        facets: vec!["subject".to_owned()],
        ..SearchOptions::default()
    };
    let answer = search(text(QUERY), unfiltered, None).await.unwrap();
    let sum: u64 = answer.facets[0].counts.iter().map(|(_, count)| count).sum();
    assert_eq!(sum, WORLD.retriever.manifest().counts.passages);
}

#[tokio::test]
async fn a_threshold_keeps_what_scores_as_much_in_the_stage_that_made_the_order() {
    for mode in MODES {
        let whole = search(text(QUERY), all(mode), None).await.unwrap().hits;
        let threshold = whole[3].score;
        let n_kept = whole.iter().filter(|hit| hit.score >= threshold).count();
        let check = async |top_k, expected_total| {
            let options = SearchOptions {
                score_threshold: Some(threshold),
                top_k,
                ..all(mode)
            };
            let answer = search(text(QUERY), options, None).await.unwrap();
            assert_eq!(
                ids(&answer.hits),
                ids(&whole[..n_kept.min(top_k)]),
                "{mode:?}"
            );
            assert_eq!(answer.total, expected_total, "{mode:?}");
        };
        check(1000, exactly(n_kept)).await;
        if matches!(mode, Mode::Dense | Mode::Lexical) {
            check(n_kept + 1, exactly(n_kept)).await;
            check(2, at_least(2)).await;
        }
    }
}

fn rerank(candidates: usize, on_timeout: OnTimeout) -> RerankRequest {
    RerankRequest {
        candidates,
        timeout: None,
        on_timeout,
    }
}

#[tokio::test]
async fn a_threshold_after_reranking_is_the_cross_encoders() {
    let reranker = cross_encoder();
    let options = |score_threshold| SearchOptions {
        rerank: Some(rerank(6, OnTimeout::Skip)),
        score_threshold,
        ..all(Mode::Dense)
    };
    let with = async |threshold, reranker: &dyn Reranker| {
        search(text(QUERY), options(threshold), Some(reranker))
            .await
            .unwrap()
    };
    let whole = with(None, &reranker).await;
    let threshold = whole.hits[2].score;
    let answer = with(Some(threshold), &reranker).await;
    assert_eq!(answer.hits, whole.hits[..3]);
    assert_eq!(answer.total, at_least(3), "330 passages were not read");
    let answer = with(Some(f32::MIN), &reranker).await;
    assert_eq!(
        answer.hits,
        whole.hits[..6],
        "what was not read has no score to compare"
    );

    let skipped = with(Some(threshold), &Late).await;
    assert_eq!(skipped.hits.len(), whole.hits.len());
    assert_eq!(
        skipped.degraded,
        ["rerank_skipped", "score_threshold_skipped"]
    );
}

#[tokio::test]
async fn what_does_not_fit_the_collection_is_named() {
    let check = async |options: SearchOptions, expected: &str| {
        let error = search(text(QUERY), options, None)
            .await
            .expect_err(expected);
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let told = format!("{error}: {}", source.unwrap_or_default());
        assert!(told.contains(expected), "{told}");
    };
    let options = SearchOptions::default;
    let filter = Some(must("subjct", Test::Exists));
    check(
        SearchOptions { filter, ..options() },
        "the filter does not fit the collection: /must/0/exists/key: there is no field `subjct`, did you mean `subject`?",
    )
    .await;
    let facets = vec!["subject".to_owned(), "text".to_owned()];
    check(
        SearchOptions {
            facets,
            ..options()
        },
        "the facets do not fit the collection: /1: there is no field `text`",
    )
    .await;
    let fusion = Fusion {
        weights: Weights {
            dense: -1.0,
            bm25: 1.0,
        },
        ..Fusion::default()
    };
    let mode = Mode::Hybrid(fusion);
    let answer = search(text(QUERY), SearchOptions { mode, ..options() }, None).await;
    assert!(matches!(answer, Err(SearchError::Weights(_))));
}
