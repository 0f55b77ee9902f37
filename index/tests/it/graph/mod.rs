//! Search by graphs against exact search.

mod files;

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use compute::Simd;
use index::{
    Bitmap, FlatShard, GraphIndex, HnswConfig, Metric, Neighbor, Plan, RowType, SearchError,
    SearchParams, ShardedIndex, SketchPolicy, VectorIndex, Verify, WriteError, build_graph,
};

use crate::{METRICS, Random, write_shards};

const WIDTH: usize = 24;
const K: usize = 10;

/// Vectors around a few centers, off the origin, of lengths that differ.
fn clustered(random: &mut Random, n: usize) -> Vec<f32> {
    let centers: Vec<f32> = (0..20 * WIDTH).map(|_| random.uniform()).collect();
    let mut vectors = Vec::with_capacity(n * WIDTH);
    for _ in 0..n {
        let (center, scale) = (random.below(20) * WIDTH, 1.0 + random.uniform() / 10.0);
        vectors.extend(
            (0..WIDTH).map(|i| scale * (0.3 + centers[center + i] + random.uniform() / 2.0)),
        );
    }
    vectors
}

fn config(threads: usize) -> HnswConfig {
    HnswConfig {
        m: 8,
        ef_construction: 60,
        threads: NonZeroUsize::new(threads),
        ..HnswConfig::default()
    }
}

/// Builds the graphs of shards beside them and opens all.
fn open_graphs(folder: &Path, shards: &[PathBuf], config: &HnswConfig) -> GraphIndex {
    let flat = ShardedIndex::open(shards, Verify::Checksums).unwrap();
    let graphs: Vec<PathBuf> = (0..shards.len())
        .map(|i| folder.join(format!("{i}.graph.trawl")))
        .collect();
    for (path, shard) in graphs.iter().zip(flat.shards()) {
        let summary = build_graph(path, shard, config, &|_| ControlFlow::Continue(())).unwrap();
        assert_eq!(summary.n_nodes, shard.len() as u64);
    }
    GraphIndex::open(flat, &graphs, Verify::Checksums).unwrap()
}

fn index_of(
    folder: &Path,
    metric: Metric,
    width: usize,
    rows: &[f32],
    n_shards: usize,
) -> GraphIndex {
    let shards = write_shards(
        folder,
        metric,
        (SketchPolicy::Always, RowType::F32),
        width,
        rows,
        n_shards,
    );
    open_graphs(folder, &shards, &config(1))
}

fn ef(ef: usize) -> SearchParams {
    SearchParams {
        ef: Some(ef),
        threads: NonZeroUsize::new(1),
        ..SearchParams::default()
    }
}

/// The part of the exact answer that is found; what is found has its defined score and its place.
fn recall(
    index: &GraphIndex,
    plan: Plan,
    queries: &[f32],
    filter: Option<&Bitmap>,
    params: &SearchParams,
) -> f64 {
    let exact = SearchParams {
        exact: true,
        ..SearchParams::default()
    };
    let exact = index.search(queries, K, filter, &exact).unwrap();
    let found = index.search_by(plan, queries, K, filter, params).unwrap();
    assert_eq!(found.len(), exact.len());
    let (mut n_found, mut n_exact) = (0, 0);
    for (found, exact) in found.iter().zip(&exact) {
        assert!(found.is_sorted_by(|a, b| a < b), "best first, each once");
        assert!(found.len() <= exact.len());
        for neighbor in found {
            let is_allowed = filter.is_none_or(|filter| filter.contains(neighbor.ordinal));
            assert!(
                is_allowed && !index.deleted().contains(neighbor.ordinal),
                "{neighbor:?}"
            );
        }
        n_found += found
            .iter()
            .filter(|neighbor| exact.contains(neighbor))
            .count();
        n_exact += exact.len();
    }
    if n_exact == 0 {
        1.0
    } else {
        n_found as f64 / n_exact as f64
    }
}

fn check_recall(
    index: &GraphIndex,
    plan: Plan,
    queries: &[f32],
    filter: Option<&Bitmap>,
    params: &SearchParams,
    least: f64,
) {
    let found = recall(index, plan, queries, filter, params);
    assert!(
        found >= least,
        "{:?}, {plan:?}, {params:?}: recall {found}",
        index.metric()
    );
}

#[test]
fn recall_rises_with_ef_under_every_metric() {
    let folder = tempfile::tempdir().unwrap();
    for metric in METRICS {
        let mut random = Random(1);
        let rows = clustered(&mut random, 3000);
        let queries = clustered(&mut random, 50);
        let queries = [&queries, &rows[..50 * WIDTH]].concat();
        // The queries lie outside of the clusters, where inner products are highest for rows far apart.
        let least = if metric == Metric::InnerProduct {
            0.75
        } else {
            0.85
        };
        for n_shards in [1, 3] {
            let index = index_of(folder.path(), metric, WIDTH, &rows, n_shards);
            assert!(!index.capabilities().exact && index.capabilities().filter);
            check_recall(
                &index,
                Plan::Graph,
                &queries,
                None,
                &SearchParams::default(),
                least,
            );
            check_recall(&index, Plan::Graph, &queries, None, &ef(300), 0.99);
        }
    }
}

#[test]
fn every_instruction_set_walks_alike() {
    let folder = tempfile::tempdir().unwrap();
    for metric in METRICS {
        let mut random = Random(2);
        let rows = clustered(&mut random, 1000);
        let index = index_of(folder.path(), metric, WIDTH, &rows, 1);
        let queries = clustered(&mut random, 20);
        let search = |simd| {
            let params = SearchParams { simd, ..ef(30) };
            index
                .search_by(Plan::Graph, &queries, K, None, &params)
                .unwrap()
        };
        let widest = search(None);
        for simd in Simd::available() {
            assert_eq!(search(Some(simd)), widest, "{metric:?}, {simd:?}");
        }
    }
}

#[test]
fn every_duplicate_is_found() {
    let folder = tempfile::tempdir().unwrap();
    for metric in METRICS {
        for n in [40, 700] {
            let mut rows = [0.5, -1.0, 2.0].repeat(n);
            rows.extend([1.0, 1.0, 1.0]);
            let index = index_of(folder.path(), metric, 3, &rows, 1);
            let found = index
                .search_by(Plan::Graph, &[0.5, -1.0, 2.0], n + 1, None, &ef(n + 1))
                .unwrap();
            let ordinals: Vec<u32> = found[0].iter().map(|neighbor| neighbor.ordinal).collect();
            assert_eq!(
                ordinals,
                (0..=n as u32).collect::<Vec<_>>(),
                "{metric:?}, {n}"
            );
        }
    }
}

#[test]
fn few_rows_or_none() {
    let folder = tempfile::tempdir().unwrap();
    for metric in METRICS {
        for n in 0..4 {
            let rows: Vec<f32> = (0..n * 2).map(|i| i as f32 - 1.5).collect();
            let index = index_of(folder.path(), metric, 2, &rows, 1);
            for plan in [Plan::Scan, Plan::Graph] {
                let found = index
                    .search_by(plan, &[1.0, 2.0], 9, None, &SearchParams::default())
                    .unwrap();
                assert_eq!(found[0].len(), n, "{metric:?}, {plan:?}");
            }
            let found = index.search(&[1.0, 2.0], 0, None, &ef(3)).unwrap();
            assert_eq!(found, [Vec::<Neighbor>::new()]);
            let filter = Bitmap::from_iter([7]);
            let found = index.search_by(Plan::FilteredGraph, &[1.0, 2.0], 2, Some(&filter), &ef(3));
            assert!(found.unwrap()[0].is_empty());
        }
    }
}

#[test]
fn filters_of_every_selectivity() {
    let folder = tempfile::tempdir().unwrap();
    for metric in METRICS {
        let mut random = Random(3);
        let rows = clustered(&mut random, 4000);
        let queries = clustered(&mut random, 30);
        let index = index_of(folder.path(), metric, WIDTH, &rows, 2);
        for one_in in [1, 2, 10, 100, 4000] {
            let filter: Bitmap = (0..5000).filter(|_| random.below(one_in) == 0).collect();
            for plan in [Plan::FilteredScan, Plan::FilteredGraph] {
                let least = if plan == Plan::FilteredScan {
                    1.0
                } else {
                    0.97
                };
                check_recall(
                    &index,
                    plan,
                    &queries,
                    Some(&filter),
                    &SearchParams::default(),
                    least,
                );
            }
        }
        let nothing = Bitmap::from_iter(4000..4100);
        for plan in [Plan::FilteredScan, Plan::FilteredGraph] {
            let found = index
                .search_by(plan, &queries, K, Some(&nothing), &ef(20))
                .unwrap();
            assert!(found.iter().all(Vec::is_empty), "{plan:?}");
        }
    }
}

#[test]
fn what_may_be_found_is_found_where_it_is_far_from_the_query() {
    let folder = tempfile::tempdir().unwrap();
    for metric in METRICS {
        let mut random = Random(9);
        // Even rows are on one side, as the queries, odd ones on the other.
        let mut beside = |side: f32, n: usize| -> Vec<f32> {
            let mut vectors: Vec<f32> = (0..n * WIDTH).map(|_| random.uniform() / 2.0).collect();
            vectors.iter_mut().step_by(WIDTH).for_each(|x| *x += side);
            vectors
        };
        let rows: Vec<f32> = (0..2000)
            .flat_map(|i| beside(if i % 2 == 0 { 5.0 } else { -5.0 }, 1))
            .collect();
        let queries = beside(5.0, 20);
        for n_shards in [1, 2] {
            let mut index = index_of(folder.path(), metric, WIDTH, &rows, n_shards);
            let odd: Bitmap = (1..2000).step_by(2).collect();
            let check = |index: &GraphIndex, plan: Plan, filter: Option<&Bitmap>| {
                let found = index.search_by(plan, &queries, K, filter, &ef(K)).unwrap();
                for found in found {
                    assert_eq!(found.len(), K, "{metric:?}, {n_shards}, {plan:?}");
                    assert!(found.iter().all(|neighbor| odd.contains(neighbor.ordinal)));
                }
            };
            check(&index, Plan::FilteredGraph, Some(&odd));
            for ordinal in (0..2000).step_by(2) {
                index.delete(ordinal);
            }
            check(&index, Plan::Graph, None);
        }
    }
}

#[test]
fn the_cheaper_plan_is_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(4);
    let rows: Vec<f32> = (0..20_000 * 32).map(|_| random.uniform()).collect();
    let index = open_graphs(
        folder.path(),
        &write_shards(
            folder.path(),
            Metric::L2,
            (SketchPolicy::Never, RowType::F32),
            32,
            &rows,
            1,
        ),
        &HnswConfig {
            m: 4,
            ef_construction: 10,
            ..config(1)
        },
    );
    let plan = |one_in: Option<u32>, params: &SearchParams| {
        let filter = one_in.map(|one_in| Bitmap::from_iter((0..20_000).step_by(one_in as usize)));
        index.plan(K, filter.as_ref(), params)
    };
    let auto = SearchParams::default();
    let exact = SearchParams {
        exact: true,
        ..auto.clone()
    };
    assert_eq!(plan(None, &auto), Plan::Graph);
    assert_eq!(plan(None, &exact), Plan::Scan);
    assert_eq!(
        plan(None, &ef(20_000)),
        Plan::Scan,
        "a walk through everything costs more"
    );
    assert_eq!(plan(Some(1), &ef(K)), Plan::FilteredGraph);
    assert_eq!(plan(Some(1), &exact), Plan::FilteredScan);
    assert_eq!(plan(Some(100), &auto), Plan::FilteredScan);
    assert_eq!(plan(Some(20_000), &auto), Plan::FilteredScan);
    let names = [
        Plan::Scan,
        Plan::FilteredScan,
        Plan::Graph,
        Plan::FilteredGraph,
    ]
    .map(Plan::as_str);
    assert_eq!(names, ["scan", "filtered_scan", "graph", "filtered_graph"]);
}

#[test]
fn deleted_rows_are_walked_through_and_then_around() {
    let folder = tempfile::tempdir().unwrap();
    for metric in METRICS {
        let mut random = Random(5);
        let rows = clustered(&mut random, 2000);
        let queries = clustered(&mut random, 50);
        let mut index = index_of(folder.path(), metric, WIDTH, &rows, 2);
        let before = index
            .search_by(Plan::Graph, &queries, 1, None, &ef(50))
            .unwrap();
        let nearest = before.iter().map(|found| found[0].ordinal);
        let gone: Bitmap = (0..2000)
            .filter(|_| random.below(3) == 0)
            .chain(nearest)
            .collect();
        for ordinal in &gone {
            assert!(index.delete(ordinal) && !index.delete(ordinal));
        }
        assert!(!index.delete(2000), "there is no such row");
        assert_eq!(index.len() as u64, 2000 - gone.len());
        let filter: Bitmap = (0..2000).step_by(2).collect();
        let check = |index: &GraphIndex| {
            for plan in [Plan::Scan, Plan::Graph] {
                check_recall(index, plan, &queries, None, &ef(80), 0.97);
                check_recall(index, plan, &queries, Some(&filter), &ef(80), 0.97);
            }
        };
        check(&index);
        index.repair().unwrap();
        check(&index);

        let graphs: Vec<PathBuf> = (0..2)
            .map(|i| folder.path().join(format!("{i}.graph.trawl")))
            .collect();
        let shards: Vec<PathBuf> = index
            .flat()
            .shards()
            .iter()
            .map(|shard| shard.path().to_owned())
            .collect();
        let open = || {
            let flat = ShardedIndex::open(&shards, Verify::Checksums).unwrap();
            GraphIndex::open(flat, &graphs, Verify::Checksums).unwrap()
        };
        index = open();
        assert_eq!(index.deleted(), &gone, "what is repaired is on disk");
        check(&index);

        for ordinal in 0..2000 {
            index.delete(ordinal);
        }
        for _ in 0..2 {
            for plan in [Plan::Scan, Plan::Graph] {
                let found = index.search_by(plan, &queries, K, None, &ef(80)).unwrap();
                assert!(found.iter().all(Vec::is_empty) && index.is_empty());
            }
            index.repair().unwrap();
            index = open();
        }
    }
}

#[test]
fn one_thread_builds_the_same_graph_again() {
    let folder = tempfile::tempdir().unwrap();
    let rows = clustered(&mut Random(6), 1500);
    let shards = write_shards(
        folder.path(),
        Metric::L2,
        (SketchPolicy::Never, RowType::F32),
        WIDTH,
        &rows,
        1,
    );
    let shard = FlatShard::open(&shards[0], Verify::Checksums).unwrap();
    let build = |name: &str, config: &HnswConfig| {
        let path = folder.path().join(name);
        build_graph(&path, &shard, config, &|_| ControlFlow::Continue(())).unwrap();
        std::fs::read(path).unwrap()
    };
    let first = build("first", &config(1));
    assert!(first == build("second", &config(1)));
    assert!(
        first
            != build(
                "third",
                &HnswConfig {
                    seed: 1,
                    ..config(1)
                }
            )
    );
}

#[test]
fn a_build_that_is_asked_to_stop_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let rows = clustered(&mut Random(6), 3000);
    let sketches = (SketchPolicy::Never, RowType::F32);
    let shards = write_shards(folder.path(), Metric::L2, sketches, WIDTH, &rows, 1);
    let shard = FlatShard::open(&shards[0], Verify::Checksums).unwrap();
    let path = folder.path().join("graph");
    for threads in [1, 2] {
        let stopped = build_graph(&path, &shard, &config(threads), &|_| ControlFlow::Break(()));
        match stopped {
            Err(WriteError::Interrupted { n_linked, n: 3000 }) => {
                // Another thread goes on until it sees that the first was told to stop.
                let most = if threads == 1 { 1100 } else { 3000 };
                assert!((1024..=most).contains(&n_linked), "{n_linked}");
            }
            other => panic!("{other:?}"),
        }
        assert!(!path.exists());
    }
}

#[test]
fn many_threads_build_a_graph_as_good() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(7);
    let rows = clustered(&mut random, 3000);
    let queries = clustered(&mut random, 100);
    let shards = write_shards(
        folder.path(),
        Metric::Cosine,
        (SketchPolicy::Never, RowType::F32),
        WIDTH,
        &rows,
        1,
    );
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(4)
        .build()
        .unwrap();
    let index = pool.install(|| open_graphs(folder.path(), &shards, &config(4)));
    // One thread comes to .99. Where one of several is held up, the row that it inserts may not be found, and each row is a third
    // of a neighbor of 1000 on average: more than a hundred would have to be lost.
    check_recall(&index, Plan::Graph, &queries, None, &ef(300), 0.95);
    let together = index
        .search_by(Plan::Graph, &queries, K, None, &ef(20))
        .unwrap();
    let params = SearchParams {
        threads: NonZeroUsize::new(3),
        ..ef(20)
    };
    let parallel = pool.install(|| {
        index
            .search_by(Plan::Graph, &queries, K, None, &params)
            .unwrap()
    });
    assert_eq!(parallel, together);
}

#[test]
fn a_walk_ends_where_its_deadline_passed() {
    let folder = tempfile::tempdir().unwrap();
    let rows = clustered(&mut Random(6), 60);
    let index = index_of(folder.path(), Metric::L2, WIDTH, &rows, 2);
    for n_threads in [1, 3] {
        let find = |n_queries: usize, deadline| {
            let params = SearchParams {
                deadline,
                threads: NonZeroUsize::new(n_threads),
                ..ef(60)
            };
            let queries = &rows[..n_queries * WIDTH];
            index.search_by(Plan::Graph, queries, K, None, &params)
        };
        for n_queries in [1, 5] {
            let now = Instant::now();
            let late = find(n_queries, Some(now));
            assert_eq!(late, Err(SearchError::DeadlineExceeded));
            let later = now.checked_add(Duration::from_secs(3600));
            let found = find(n_queries, later).unwrap();
            assert_eq!(found, find(n_queries, None).unwrap());
        }
    }
}

#[test]
fn queries_that_cannot_be_compared_are_refused_as_by_exact_search() {
    let folder = tempfile::tempdir().unwrap();
    let index = index_of(folder.path(), Metric::Cosine, 2, &[1.0, 0.0, 0.0, 1.0], 1);
    for query in [&[1.0, f32::NAN][..], &[0.0, 0.0], &[1.0]] {
        let refused = |plan| index.search_by(plan, query, 1, None, &ef(1)).unwrap_err();
        assert_eq!(refused(Plan::Graph), refused(Plan::Scan));
    }
}

#[cfg(feature = "hnsw-rs")]
#[test]
fn the_baseline_answers_as_exact_search_does() {
    let folder = tempfile::tempdir().unwrap();
    for metric in METRICS {
        let mut random = Random(8);
        let rows = clustered(&mut random, 1000);
        let queries = clustered(&mut random, 20);
        let policy = (SketchPolicy::Never, RowType::F32);
        let shards = write_shards(folder.path(), metric, policy, WIDTH, &rows, 1);
        let shard = FlatShard::open(&shards[0], Verify::Checksums).unwrap();
        let index = index::HnswRsIndex::build(shard, &config(1));
        let filter: Bitmap = (0..1000).step_by(3).collect();
        for filter in [None, Some(&filter)] {
            let exact = SearchParams {
                exact: true,
                ..ef(1)
            };
            let exact = index.search(&queries, K, filter, &exact).unwrap();
            let found = index.search(&queries, K, filter, &ef(400)).unwrap();
            let hits = found.iter().flatten().zip(exact.iter().flatten());
            let same = hits.filter(|(found, exact)| found == exact).count();
            assert!(
                same > 190,
                "{metric:?}, filtered: {}, {same}",
                filter.is_some()
            );
        }
    }
}
