//! Answers by document and by field, against grouping the whole ranking.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use collection::Collection;
use corpus::{CorpusConfig, FieldKind};
use encoder::{BiEncoder, EncoderConfig, ModelOptions};
use indexer::{BuildConfig, NoProgress};
use retriever::{
    DirectEncoder, Fusion, FusionMethod, Group, GroupBy, GroupScore, Grouping, Hit, Mode,
    OnTimeout, OpenConfig, RerankRequest, Reranker, Retriever, SearchError, SearchOptions,
    SearchRequest, SearchResponse, Sort, SortOrder,
};

use crate::{MODES, QUERY, WORLD, cross_encoder, search, text};

/// The sample corpus, split into passages.
struct Split {
    _folder: tempfile::TempDir,
    retriever: Retriever,
    encoder: DirectEncoder,
}

static SPLIT: LazyLock<Split> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let options = ModelOptions {
        passage_tokens: Some(64),
        ..ModelOptions::default()
    };
    let model = testkit::fixture("models/tiny-bert");
    let encoder = BiEncoder::load(&model, &options, &EncoderConfig::default()).unwrap();
    let corpus = CorpusConfig {
        paths: vec![testkit::fixture("sample/corpus.jsonl")],
        ..CorpusConfig::default()
    };
    let root = folder.path().join("split");
    let config = BuildConfig {
        stride: Some(48),
        ..BuildConfig::new(root.clone(), corpus, model)
    };
    indexer::build(&config, &encoder, &NoProgress, &AtomicBool::new(false)).unwrap();
    let generation = Collection::open(&root).unwrap().resolve("live").unwrap();
    let retriever = Retriever::open(generation, OpenConfig::default()).unwrap();
    Split {
        _folder: folder,
        retriever,
        encoder: DirectEncoder(encoder.into()),
    }
});

async fn search_split(
    options: SearchOptions,
    reranker: Option<&dyn Reranker>,
) -> Result<SearchResponse, SearchError> {
    let query = text(QUERY);
    let request = SearchRequest { query, options };
    SPLIT
        .retriever
        .search(request, &SPLIT.encoder, reranker)
        .await
}

fn grouped(mode: Mode, group: Grouping, top_k: usize) -> SearchOptions {
    SearchOptions {
        mode,
        group: Some(group),
        top_k,
        ..SearchOptions::default()
    }
}

/// Id, score and passages of each group.
fn shown(groups: &[Group]) -> Vec<(String, f32, Vec<String>)> {
    let hits = |group: &Group| group.hits.iter().map(|hit| hit.id.clone()).collect();
    groups
        .iter()
        .map(|group| (group.id.clone(), group.score, hits(group)))
        .collect()
}

/// Groups a whole ranking the obvious way.
fn expected(
    ranking: &[Hit],
    score: fn(&[f32]) -> f32,
    size: usize,
) -> Vec<(String, f32, Vec<String>)> {
    let mut documents: BTreeMap<&str, Vec<&Hit>> = BTreeMap::new();
    for hit in ranking {
        let id = hit
            .document
            .as_ref()
            .map_or(hit.id.as_str(), |part| &part.id);
        documents.entry(id).or_default().push(hit);
    }
    let mut groups: Vec<_> = documents
        .into_iter()
        .map(|(id, hits)| {
            let scores: Vec<f32> = hits.iter().map(|hit| hit.score).collect();
            let first = hits[0].rank;
            let shown = hits.iter().take(size).map(|hit| hit.id.clone()).collect();
            (first, (id.to_owned(), score(&scores), shown))
        })
        .collect();
    groups.sort_by(|(first_a, a), (first_b, b)| b.1.total_cmp(&a.1).then(first_a.cmp(first_b)));
    groups.into_iter().map(|(_, group)| group).collect()
}

async fn whole(mode: Mode) -> Vec<Hit> {
    let options = SearchOptions {
        mode,
        top_k: 10_000,
        ..SearchOptions::default()
    };
    search_split(options, None).await.unwrap().hits
}

#[tokio::test]
async fn hits_name_their_documents() {
    let n_documents = SPLIT.retriever.store().n_documents().unwrap() as usize;
    assert_eq!(n_documents, WORLD.retriever.store().len() as usize);
    let hits = whole(Mode::Dense).await;
    assert!(hits.len() > n_documents);
    for hit in hits {
        let part = hit.document.unwrap();
        assert_eq!(hit.id, format!("{}#{}", part.id, part.passage));
        let text = hit.text.unwrap();
        assert_eq!((part.end - part.start) as usize, text.chars().count());
    }
    let plain = search(text(QUERY), SearchOptions::default(), None).await;
    assert!(plain.unwrap().hits.iter().all(|hit| hit.document.is_none()));
}

#[tokio::test]
async fn the_best_passage_makes_the_order_of_documents() {
    for mode in MODES {
        // What the sources of a fused ranking bring depends on how deep they are asked; here, all of it.
        let top_k = if matches!(mode, Mode::Hybrid(_)) {
            2_000
        } else {
            12
        };
        for size in [1, 3] {
            let group = Grouping {
                size,
                ..Grouping::default()
            };
            let answer = search_split(grouped(mode, group, top_k), None)
                .await
                .unwrap();
            assert!(answer.hits.is_empty() && answer.degraded.is_empty());
            let ranking = whole(mode).await;
            let best = |scores: &[f32]| scores[0];
            let mut all = expected(&ranking, best, size);
            all.truncate(top_k);
            let found = shown(&answer.groups);
            let heads = |groups: &[(String, f32, Vec<String>)]| -> Vec<(String, f32, String)> {
                let head = |(id, score, hits): &(String, f32, Vec<String>)| {
                    (id.clone(), *score, hits[0].clone())
                };
                groups.iter().map(head).collect()
            };
            assert_eq!(heads(&found), heads(&all), "{mode:?}");
            assert!(found.iter().all(|(_, _, hits)| hits.len() <= size));
            for (group, rank) in answer.groups.iter().zip(1..) {
                assert_eq!(group.rank, rank);
                assert!(group.hits.is_sorted_by(|a, b| a.rank < b.rank));
            }
        }
    }
}

#[tokio::test]
async fn sums_and_means_count_the_top_passages() {
    type Score = fn(&[f32]) -> f32;
    let sum: Score = |scores| {
        let counted = scores.iter().take(2).map(|&score| f64::from(score));
        counted.sum::<f64>() as f32
    };
    let mean: Score = |scores| {
        let counted = scores.iter().take(2).map(|&score| f64::from(score));
        (counted.sum::<f64>() / scores.len().min(2) as f64) as f32
    };
    for (score, plain) in [(GroupScore::Sum, sum), (GroupScore::Mean, mean)] {
        let group = Grouping {
            score,
            passages: 2,
            size: 2,
            ..Grouping::default()
        };
        // As many groups as there are: every passage is ranked, and nothing is left to count.
        let options = grouped(Mode::Dense, group.clone(), 2_000);
        let answer = search_split(options, None).await.unwrap();
        assert!(answer.degraded.is_empty(), "{:?}", answer.degraded);
        let all = expected(&whole(Mode::Dense).await, plain, 2);
        assert_eq!(shown(&answer.groups), all);
        let few = search_split(grouped(Mode::Dense, group, 3), None)
            .await
            .unwrap();
        assert_eq!(few.degraded, ["group_scores_partial"]);
        assert_eq!(few.groups.len(), 3);
    }
}

#[tokio::test]
async fn documents_in_the_order_of_a_field_have_and_show_their_best_passages() {
    type Score = fn(&[f32]) -> f32;
    let best: Score = |scores| scores[0];
    let sum: Score = |scores| {
        let counted = scores.iter().take(2).map(|&score| f64::from(score));
        counted.sum::<f64>() as f32
    };
    let ranking = whole(Mode::Dense).await;
    for (score, plain) in [(GroupScore::Max, best), (GroupScore::Sum, sum)] {
        let group = Grouping {
            score,
            passages: 2,
            ..Grouping::default()
        };
        let options = SearchOptions {
            sort: Some(Sort {
                field: "year".to_owned(),
                order: SortOrder::Asc,
            }),
            rank_window: 10_000,
            ..grouped(Mode::Dense, group, 2_000)
        };
        let answer = search_split(options, None).await.unwrap();
        let mut all = expected(&ranking, plain, 1);
        let mut found = shown(&answer.groups);
        assert_ne!(found, all, "they are not in the order of scores");
        all.sort_by(|a, b| a.0.cmp(&b.0));
        found.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(found, all);
        let number = |group: &Group| group.hits[0].document.as_ref().unwrap().passage;
        assert!(answer.groups.iter().any(|group| number(group) > 0));
        assert!(answer.degraded.is_empty());
    }
}

#[tokio::test]
async fn pages_of_groups_follow_each_other() {
    let group = Grouping {
        size: 2,
        ..Grouping::default()
    };
    let first = search_split(grouped(Mode::Dense, group.clone(), 8), None)
        .await
        .unwrap();
    let page = SearchOptions {
        offset: 5,
        ..grouped(Mode::Dense, group, 3)
    };
    let page = search_split(page, None).await.unwrap();
    assert_eq!(page.groups, first.groups[5..]);
    assert!(page.groups[0].hits[0].text.is_some());
    assert_eq!(page.groups[0].rank, 6);
}

#[tokio::test]
async fn rare_groups_are_looked_for_deeper() {
    // Few values, so that the first candidates do not have all of them.
    let group = Grouping {
        by: GroupBy::Field("subject".to_owned()),
        ..Grouping::default()
    };
    let ranking = search(
        text(QUERY),
        SearchOptions {
            top_k: 1_000,
            ..SearchOptions::default()
        },
        None,
    );
    let ranking = ranking.await.unwrap().hits;
    let subject = |hit: &Hit| {
        hit.metadata.as_ref().unwrap()["subject"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut subjects: Vec<String> = Vec::new();
    for hit in &ranking {
        if !subjects.contains(&subject(hit)) {
            subjects.push(subject(hit));
        }
    }
    let answer = search(text(QUERY), grouped(Mode::Dense, group, 50), None)
        .await
        .unwrap();
    let found: Vec<&str> = answer
        .groups
        .iter()
        .map(|group| group.id.as_str())
        .collect();
    assert_eq!(found, subjects);
    assert!(answer.degraded.is_empty());
}

#[tokio::test]
async fn groups_above_a_threshold_of_a_fusion_are_looked_for_deeper() {
    let query = || text("water");
    let by_words = SearchOptions {
        mode: Mode::Lexical,
        top_k: 1_000,
        ..SearchOptions::default()
    };
    let by_words = search(query(), by_words, None).await.unwrap().hits;
    let mut expected: Vec<String> = by_words.into_iter().map(|hit| hit.id).collect();
    expected.sort();
    // Every rank of a source counts about 10⁻⁶, so that the threshold passes what both sources bring.
    let both = Mode::Hybrid(Fusion {
        method: FusionMethod::ReciprocalRank { k: 1_000_000 },
        ..Fusion::default()
    });
    let options = SearchOptions {
        score_threshold: Some(1.5e-6),
        ..grouped(both, Grouping::default(), expected.len())
    };
    let answer = search(query(), options, None).await.unwrap();
    let mut found: Vec<String> = answer.groups.into_iter().map(|group| group.id).collect();
    found.sort();
    assert_eq!(found, expected);
    assert!(answer.degraded.is_empty());
}

#[tokio::test]
async fn reranked_passages_make_the_first_groups() {
    let reranker = cross_encoder();
    let options = SearchOptions {
        rerank: Some(RerankRequest {
            candidates: 20,
            timeout: None,
            on_timeout: OnTimeout::Fail,
        }),
        ..grouped(Mode::Dense, Grouping::default(), 40)
    };
    let answer = search_split(options, Some(&reranker)).await.unwrap();
    assert_eq!(answer.groups.len(), 40);
    let is_reranked = |group: &Group| group.hits[0].scores.rerank.is_some();
    let n_reranked = answer
        .groups
        .iter()
        .filter(|group| is_reranked(group))
        .count();
    assert!((1..=20).contains(&n_reranked));
    let (first, rest) = answer.groups.split_at(n_reranked);
    assert!(first.iter().all(is_reranked));
    for part in [first, rest] {
        assert!(part.is_sorted_by(|a, b| a.score >= b.score));
    }
}

#[tokio::test]
async fn only_keyword_fields_group() {
    let by = |name: &str| Grouping {
        by: GroupBy::from(name),
        ..Grouping::default()
    };
    for (name, expected, message) in [
        ("sbject", None, "no such field"),
        ("year", Some(FieldKind::Integer), "not a keyword field"),
    ] {
        let error = search_split(grouped(Mode::Dense, by(name), 3), None)
            .await
            .unwrap_err();
        assert!(matches!(&error, SearchError::GroupField { kind, .. } if *kind == expected));
        let message = format!("cannot group by `{name}`: {message}");
        assert_eq!(error.to_string(), message);
    }
    // Where nothing was split, every passage is its own document.
    let answer = search(text(QUERY), grouped(Mode::Dense, by("document"), 7), None)
        .await
        .unwrap();
    let plain = SearchOptions {
        top_k: 7,
        ..SearchOptions::default()
    };
    let plain = search(text(QUERY), plain, None).await.unwrap();
    let ids: Vec<_> = plain
        .hits
        .iter()
        .map(|hit| (hit.id.clone(), hit.score, vec![hit.id.clone()]))
        .collect();
    assert_eq!(shown(&answer.groups), ids);
}

#[tokio::test]
async fn a_batch_answers_as_its_queries_alone() {
    // The second query needs a deeper ranking than the first: few passages have its words.
    let group = Grouping {
        size: 3,
        ..Grouping::default()
    };
    let queries = [QUERY, "enzyme volatile gas drifts upward"].map(text);
    for mode in MODES {
        let options = grouped(mode, group.clone(), 60);
        let batch = SPLIT
            .retriever
            .search_batch(queries.to_vec(), &options, &SPLIT.encoder, None);
        for (query, answer) in queries.iter().zip(batch.await.unwrap()) {
            let request = SearchRequest {
                query: query.clone(),
                options: options.clone(),
            };
            let alone = SPLIT.retriever.search(request, &SPLIT.encoder, None).await;
            let alone = alone.unwrap();
            assert_eq!(shown(&answer.groups), shown(&alone.groups), "{mode:?}");
            assert_eq!(answer.degraded, alone.degraded);
        }
    }
}
