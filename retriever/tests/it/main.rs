//! The read path over a small real generation: the sample corpus, the two-layer test encoder.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod filters;
mod groups;
mod milvus;
mod ranking;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use collection::Collection;
use corpus::CorpusConfig;
use encoder::{BiEncoder, CrossEncoder, EncoderConfig, ModelOptions, RankPrior, Role, Text};
use futures::future::BoxFuture;
use index::{Metric, NoRows, SearchParams};
use indexer::{BuildConfig, NoProgress};
use retriever::{
    BackendRequest, Deadline, DirectEncoder, DirectReranker, FingerprintError, Fusion,
    FusionMethod, Hit, InProcess, Include, Mode, ModelError, OnTimeout, OpenConfig, QueryInput,
    RerankRequest, Reranked, Reranker, Retriever, SearchBackend, SearchError, SearchOptions,
    SearchRequest, SearchResponse, Weights, check_encoder,
};

const EVEN: Weights = Weights {
    dense: 1.0,
    bm25: 1.0,
};
const RANKS: Fusion = Fusion {
    method: FusionMethod::ReciprocalRank { k: 60 },
    weights: EVEN,
};
const SCORES: Fusion = Fusion {
    method: FusionMethod::Weighted,
    weights: EVEN,
};
const MODES: [Mode; 4] = [
    Mode::Dense,
    Mode::Lexical,
    Mode::Hybrid(RANKS),
    Mode::Hybrid(SCORES),
];

/// What every test reads: built once.
struct World {
    _folder: tempfile::TempDir,
    retriever: Retriever,
    encoder: DirectEncoder,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let encoder = Arc::new(load("models/tiny-bert"));
    let corpus = CorpusConfig {
        paths: vec![testkit::fixture("sample/corpus.jsonl")],
        ..CorpusConfig::default()
    };
    let root = folder.path().join("sample");
    let config = BuildConfig {
        n_shards: 3,
        ..BuildConfig::new(root.clone(), corpus, testkit::fixture("models/tiny-bert"))
    };
    indexer::build(&config, &encoder, &NoProgress, &AtomicBool::new(false)).unwrap();
    let generation = Collection::open(&root).unwrap().resolve("live").unwrap();
    let retriever = Retriever::open(generation, OpenConfig::default()).unwrap();
    World {
        _folder: folder,
        retriever,
        encoder: DirectEncoder(encoder),
    }
});

fn load(model: &str) -> BiEncoder {
    let path: PathBuf = testkit::fixture(model);
    BiEncoder::load(&path, &ModelOptions::default(), &EncoderConfig::default()).unwrap()
}

fn cross_encoder() -> DirectReranker {
    let path = testkit::fixture("models/tiny-cross-bert");
    DirectReranker(Arc::new(
        CrossEncoder::load(&path, None, &EncoderConfig::default()).unwrap(),
    ))
}

async fn search(
    query: QueryInput,
    options: SearchOptions,
    reranker: Option<&dyn Reranker>,
) -> Result<SearchResponse, SearchError> {
    WORLD
        .retriever
        .search(SearchRequest { query, options }, &WORLD.encoder, reranker)
        .await
}

fn text(query: &str) -> QueryInput {
    QueryInput::Text(query.to_owned())
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.id.as_str()).collect()
}

const QUERY: &str = "why does bread rise";

#[tokio::test]
async fn a_vector_finds_what_its_text_finds() {
    let by_text = search(text(QUERY), SearchOptions::default(), None)
        .await
        .unwrap();
    let encoder = &WORLD.encoder.0;
    let vector = encoder
        .encode_texts(Role::Query, &[Text::Single(QUERY)])
        .unwrap()
        .values;
    let by_vector = search(QueryInput::Vector(vector), SearchOptions::default(), None)
        .await
        .unwrap();
    assert_eq!(by_text.hits, by_vector.hits);
    assert_eq!(by_text.hits.len(), 10);
    assert!(by_text.exact && by_text.usage.query_tokens > 2);
    assert!(by_text.hits.is_sorted_by(|a, b| a.score >= b.score));
}

#[tokio::test]
async fn a_batch_answers_as_its_queries_do_alone() {
    let queries = [
        QUERY,
        "tides",
        "the moon and the sea",
        "a clock that loses time",
    ];
    for mode in MODES {
        let options = SearchOptions {
            mode,
            ..SearchOptions::default()
        };
        let inputs = queries.iter().map(|query| text(query)).collect();
        let batch = WORLD
            .retriever
            .search_batch(inputs, &options, &WORLD.encoder, None)
            .await
            .unwrap();
        for (query, answer) in queries.iter().zip(batch) {
            let alone = search(text(query), options.clone(), None).await.unwrap();
            assert_eq!(alone.hits, answer.hits, "{mode:?} {query}");
        }
    }
}

#[tokio::test]
async fn pages_join_to_the_whole_list() {
    for mode in MODES {
        let page = |offset, top_k| {
            let options = SearchOptions {
                mode,
                offset,
                top_k,
                ..SearchOptions::default()
            };
            search(text(QUERY), options, None)
        };
        let whole = page(0, 9).await.unwrap().hits;
        let mut joined = Vec::new();
        for offset in [0, 3, 6] {
            joined.extend(page(offset, 3).await.unwrap().hits);
        }
        assert_eq!(whole, joined, "{mode:?}");
        assert_eq!(
            whole.iter().map(|hit| hit.rank).collect::<Vec<_>>(),
            (1..=9).collect::<Vec<_>>()
        );
    }
    let options = SearchOptions {
        top_k: 10_000,
        ..SearchOptions::default()
    };
    let all = search(text(QUERY), options, None).await.unwrap().hits;
    let distinct: HashSet<u32> = all.iter().map(|hit| hit.ordinal).collect();
    assert_eq!(
        distinct.len() as u64,
        WORLD.retriever.manifest().counts.passages
    );
}

#[tokio::test]
async fn fused_scores_are_those_of_the_ranks_in_both_lists() {
    let depth = SearchOptions {
        top_k: 100,
        ..SearchOptions::default()
    };
    let list = |mode| {
        search(
            text(QUERY),
            SearchOptions {
                mode,
                ..depth.clone()
            },
            None,
        )
    };
    let dense = list(Mode::Dense).await.unwrap().hits;
    let lexical = list(Mode::Lexical).await.unwrap().hits;
    let fused = list(Mode::Hybrid(RANKS)).await.unwrap().hits;
    let rank = |list: &[Hit], id: &str| {
        list.iter()
            .position(|hit| hit.id == id)
            .map(|rank| rank + 1)
    };
    for hit in &fused {
        let ranks = [rank(&dense, &hit.id), rank(&lexical, &hit.id)];
        let expected: f64 = ranks
            .iter()
            .flatten()
            .map(|&rank| 1.0 / (60.0 + rank as f64))
            .sum();
        assert_eq!(hit.score, expected as f32, "{}", hit.id);
        assert_eq!(
            [hit.scores.dense.is_some(), hit.scores.bm25.is_some()],
            ranks.map(|rank| rank.is_some())
        );
    }
    assert!(fused.is_sorted_by(|a, b| a.score >= b.score));
}

#[tokio::test]
async fn reranking_reorders_the_head_and_keeps_the_tail() {
    let reranker = cross_encoder();
    let rerank = RerankRequest {
        candidates: 6,
        timeout: None,
        on_timeout: OnTimeout::Fail,
    };
    let plain = search(text(QUERY), SearchOptions::default(), None)
        .await
        .unwrap()
        .hits;
    let options = SearchOptions {
        rerank: Some(rerank),
        ..SearchOptions::default()
    };
    let answer = search(text(QUERY), options, Some(&reranker)).await.unwrap();
    let (head, tail) = answer.hits.split_at(6);
    assert_eq!(ids(tail), ids(&plain[6..]));
    let set = |hits: &[Hit]| hits.iter().map(|hit| hit.ordinal).collect::<HashSet<_>>();
    assert_eq!(set(head), set(&plain[..6]));
    assert!(head.is_sorted_by(|a, b| a.scores.rerank >= b.scores.rerank));
    assert!(
        head.iter()
            .all(|hit| hit.scores.rerank == Some(hit.score) && hit.scores.dense.is_some())
    );
    assert!(tail.iter().all(|hit| hit.scores.rerank.is_none()));
    assert!(answer.usage.rerank_tokens > 0 && answer.degraded.is_empty());
}

/// Scores all passages alike but one, and leaves the rest to the order of the first stage.
struct Even;

impl Reranker for Even {
    fn rank_prior(&self) -> RankPrior {
        RankPrior {
            weight: 3.0,
            offset: 2.0,
        }
    }

    fn rerank(
        &self,
        _: String,
        passages: Vec<String>,
        _: Deadline,
    ) -> BoxFuture<'_, Result<Reranked, ModelError>> {
        let mut scores = vec![0.5; passages.len()];
        scores[2] = 1.0;
        Box::pin(async move {
            Ok(Reranked {
                scores,
                n_tokens: 1,
                n_truncated: 0,
            })
        })
    }
}

#[tokio::test]
async fn a_rank_prior_stands_in_the_score_and_not_in_the_rerankers() {
    let plain = search(text(QUERY), SearchOptions::default(), None);
    let plain = plain.await.unwrap().hits;
    let rerank = RerankRequest {
        candidates: 4,
        timeout: None,
        on_timeout: OnTimeout::Fail,
    };
    let options = SearchOptions {
        rerank: Some(rerank),
        ..SearchOptions::default()
    };
    let hits = search(text(QUERY), options, Some(&Even))
        .await
        .unwrap()
        .hits;
    // 3 / (2 + rank): 1, 0.75, 0.6, 0.5; the third passage is 0.5 better than the others.
    let expected = [(2, 1.6, 1.0), (0, 1.5, 0.5), (1, 1.25, 0.5), (3, 1.0, 0.5)];
    for (hit, (place, score, rerank)) in hits.iter().zip(expected) {
        assert_eq!(hit.id, plain[place].id);
        assert!((hit.score - score).abs() < 1e-6, "{}", hit.score);
        assert_eq!(hit.scores.rerank, Some(rerank));
    }
}

/// A cross-encoder that never has time.
struct Late;

impl Reranker for Late {
    fn rerank(
        &self,
        _: String,
        _: Vec<String>,
        _: Deadline,
    ) -> BoxFuture<'_, Result<Reranked, ModelError>> {
        Box::pin(async { Err(ModelError::DeadlineExceeded) })
    }
}

#[tokio::test]
async fn without_time_to_rerank_the_first_order_stands_and_the_answer_says_so() {
    let plain = search(text(QUERY), SearchOptions::default(), None)
        .await
        .unwrap()
        .hits;
    let rerank = |on_timeout| SearchOptions {
        rerank: Some(RerankRequest {
            candidates: 6,
            timeout: Some(Duration::from_millis(1)),
            on_timeout,
        }),
        ..SearchOptions::default()
    };
    let skipped = search(text(QUERY), rerank(OnTimeout::Skip), Some(&Late))
        .await
        .unwrap();
    assert_eq!(skipped.hits, plain);
    assert_eq!(skipped.degraded, ["rerank_skipped"]);
    let failed = search(text(QUERY), rerank(OnTimeout::Fail), Some(&Late)).await;
    assert!(matches!(
        failed,
        Err(SearchError::Rerank(ModelError::DeadlineExceeded))
    ));
}

#[tokio::test]
async fn what_cannot_be_answered_is_named() {
    let check = async |query: QueryInput, options: SearchOptions, expected: &str| {
        let error = search(query, options, None)
            .await
            .expect_err(expected)
            .to_string();
        assert!(error.contains(expected), "{error}");
    };
    let default = SearchOptions::default;
    check(
        QueryInput::Vector(vec![1.0; 3]),
        default(),
        "has 3 values, index width is 32",
    )
    .await;
    let mut vector = vec![1.0; 32];
    vector[7] = f32::NAN;
    check(
        QueryInput::Vector(vector),
        default(),
        "not finite at position 7",
    )
    .await;
    let lexical = SearchOptions {
        mode: Mode::Lexical,
        ..default()
    };
    check(
        QueryInput::Vector(vec![1.0; 32]),
        lexical,
        "lexical search needs a query text",
    )
    .await;
    let rerank = RerankRequest {
        candidates: 5,
        timeout: None,
        on_timeout: OnTimeout::Skip,
    };
    check(
        text(QUERY),
        SearchOptions {
            rerank: Some(rerank),
            ..default()
        },
        "no reranker",
    )
    .await;
    let deadline = Deadline::after(Duration::ZERO);
    check(
        text(QUERY),
        SearchOptions {
            deadline,
            ..default()
        },
        "cannot encode the query",
    )
    .await;
    let mixed = vec![text(QUERY), QueryInput::Vector(vec![1.0; 32])];
    let answer = WORLD
        .retriever
        .search_batch(mixed, &default(), &WORLD.encoder, None)
        .await;
    assert!(matches!(answer, Err(SearchError::MixedBatch)));
}

#[tokio::test]
async fn a_query_without_direction_is_named_by_its_place_and_takes_no_other_with_it() {
    let index = NoRows {
        width: 2,
        metric: Metric::Cosine,
    };
    let request = BackendRequest {
        queries: vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        k: 3,
        passages: None,
        filter: None,
        params: SearchParams::default(),
        deadline: Deadline::NONE,
    };
    let found = InProcess::new(Arc::new(index)).search(request).await;
    let texts = found.into_iter().map(|found| match found {
        Ok(found) => format!("{} found", found.len()),
        Err(error) => error.to_string(),
    });
    let texts: Vec<String> = texts.collect();
    assert_eq!(
        texts,
        ["0 found", "query 1 is zero, which has no cosine", "0 found"]
    );
}

#[tokio::test]
async fn only_what_is_asked_for_is_read() {
    let include = |text, metadata| SearchOptions {
        include: Include { text, metadata },
        ..SearchOptions::default()
    };
    let full = search(text(QUERY), include(true, true), None)
        .await
        .unwrap()
        .hits;
    let bare = search(text(QUERY), include(false, false), None)
        .await
        .unwrap()
        .hits;
    assert_eq!(ids(&full), ids(&bare));
    assert!(
        full.iter()
            .all(|hit| hit.text.is_some() && hit.title.is_some() && hit.metadata.is_some())
    );
    assert!(
        bare.iter()
            .all(|hit| hit.text.is_none() && hit.title.is_none() && hit.metadata.is_none())
    );
}

#[test]
fn another_encoder_is_named_by_the_entry_that_differs() {
    let manifest = WORLD.retriever.manifest();
    assert!(check_encoder(manifest, &WORLD.encoder.0).is_ok());
    for twin in ["models/tiny-bert-sharded", "models/tiny-bert-bin"] {
        assert!(check_encoder(manifest, &load(twin)).is_ok(), "{twin}");
    }
    let error = check_encoder(manifest, &load("models/tiny-bert-last")).unwrap_err();
    let FingerprintError::Mismatch { entry, .. } = error else {
        panic!("{error}")
    };
    assert!(entry.starts_with("space."), "{entry}");
}
