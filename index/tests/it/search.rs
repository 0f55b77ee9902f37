use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use index::{
    Bitmap, FlatShard, Metric, Neighbor, RowType, SearchError, SearchParams, ShardedIndex,
    SketchPolicy, VectorIndex, Verify, normalize, score,
};
use proptest::prelude::*;
use testkit::simd_levels;

use crate::{METRICS, Random, write_shards};

/// How the vectors of a test are made: each kind aims at one thing that can go wrong.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Nothing in particular.
    Random,
    /// Four distinct vectors, so that nearly everything ties.
    Duplicates,
    /// One vector, each copy changed by single bits: `f32` sums order them wrongly.
    NearDuplicates,
    /// Lengths from denormal to the largest: sums overflow, vanish and cancel.
    AllScales,
    /// So long that every sum overflows in `f32`.
    Huge,
    /// So short that every product vanishes in `f32`.
    Tiny,
    /// Few directions of very different lengths, zeros among them.
    Sparse,
    /// Near a plane of four dimensions, with one dimension far out, as encoders have them.
    Flat,
}

impl Kind {
    pub fn vectors(
        self,
        random: &mut Random,
        n: usize,
        width: usize,
        allow_zero: bool,
    ) -> Vec<f32> {
        let base: Vec<f32> = (0..4 * width).map(|_| random.uniform()).collect();
        let mut vectors = Vec::with_capacity(n * width);
        let plane: [[f32; 4]; 2] =
            std::array::from_fn(|_| std::array::from_fn(|_| random.uniform()));
        for _ in 0..n {
            let weights: [f32; 4] = std::array::from_fn(|_| random.uniform());
            let copied = random.below(4) * width;
            let row_scale = 10.0_f32.powi(random.below(76) as i32 - 38);
            for i in 0..width {
                let value = random.uniform();
                vectors.push(match self {
                    Self::Random => value,
                    Self::Duplicates => base[copied + i],
                    Self::NearDuplicates => {
                        f32::from_bits(base[i].to_bits() ^ random.below(2) as u32)
                    }
                    Self::AllScales => value * row_scale,
                    Self::Huge => value.signum() * f32::MAX * (1.0 - value.abs() / 4.0),
                    Self::Tiny => f32::from_bits(random.below(1000) as u32) * value.signum(),
                    Self::Flat if i == 0 => 20.0 + value,
                    Self::Flat => {
                        let on_plane: f32 = (0..4)
                            .map(|j| weights[j] * (plane[0][j] * i as f32 + plane[1][j]).sin())
                            .sum();
                        on_plane + value / 50.0
                    }
                    Self::Sparse if random.below(3) > 0 => 0.0,
                    Self::Sparse => value.signum() * 10.0_f32.powi(random.below(20) as i32 - 10),
                });
            }
            let row = vectors.len() - width;
            if !allow_zero && vectors[row..].iter().all(|&value| value == 0.0) {
                vectors[row] = 1.0;
            }
        }
        vectors
    }
}

pub fn kinds() -> impl Strategy<Value = Kind> {
    use Kind::{AllScales, Duplicates, Flat, Huge, NearDuplicates, Random, Sparse, Tiny};
    prop::sample::select(vec![
        Random,
        Duplicates,
        NearDuplicates,
        AllScales,
        Huge,
        Tiny,
        Sparse,
        Flat,
    ])
}

/// A row as an index stores it.
fn stored(metric: Metric, row_type: RowType, row: &[f32]) -> Vec<f32> {
    let mut row = row.to_vec();
    if metric == Metric::Cosine {
        normalize(&mut row);
    }
    let step = row.iter().fold(0.0_f32, |largest, x| largest.max(x.abs())) / 127.0;
    for value in &mut row {
        *value = match row_type {
            RowType::Int8 if step > 0.0 => (*value / step).round().clamp(-128.0, 127.0) * step,
            RowType::Int8 => 0.0,
            RowType::F16 => half::f16::from_f32(*value).to_f32(),
            RowType::Bf16 => half::bf16::from_f32(*value).to_f32(),
            _ => *value,
        };
    }
    row
}

/// Every row scored by definition, sorted, cut.
fn brute_force(
    metric: Metric,
    rows: &[Vec<f32>],
    query: &[f32],
    k: usize,
    filter: Option<&Bitmap>,
) -> Vec<(u32, u32)> {
    let query = stored(metric, RowType::F32, query);
    let mut all: Vec<(f32, u32)> = (0..)
        .zip(rows)
        .filter(|(ordinal, _)| filter.is_none_or(|filter| filter.contains(*ordinal)))
        .map(|(ordinal, row)| (score(metric, row, &query), ordinal))
        .collect();
    all.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap().then(a.1.cmp(&b.1)));
    all.truncate(k);
    all.into_iter()
        .map(|(score, ordinal)| (ordinal, score.to_bits()))
        .collect()
}

/// What each query should find; none where the writer refuses a row.
pub fn expected(
    (metric, row_type): (Metric, RowType),
    width: usize,
    rows: &[f32],
    queries: &[f32],
    k: usize,
    filter: Option<&Bitmap>,
) -> Option<Vec<Vec<(u32, u32)>>> {
    let rows = rows.chunks_exact(width);
    let stored: Vec<_> = rows.map(|row| stored(metric, row_type, row)).collect();
    if !stored.iter().flatten().all(|value| value.is_finite()) {
        return None;
    }
    let queries = queries.chunks_exact(width);
    let found = queries.map(|query| brute_force(metric, &stored, query, k, filter));
    Some(found.collect())
}

pub fn bits(neighbors: &[Neighbor]) -> Vec<(u32, u32)> {
    neighbors
        .iter()
        .map(|neighbor| (neighbor.ordinal, neighbor.score.to_bits()))
        .collect()
}

fn threads(n: usize) -> SearchParams {
    SearchParams {
        threads: NonZeroUsize::new(n),
        ..SearchParams::default()
    }
}

/// Compares every way to search with brute force, bit for bit.
fn check_search(
    metric: Metric,
    width: usize,
    rows: &[f32],
    queries: &[f32],
    k: usize,
    filter: Option<&Bitmap>,
) {
    let folder = tempfile::tempdir().unwrap();
    use RowType::{Bf16, F16, F32, Int8};
    use SketchPolicy::{Always, Never};
    for (n_shards, sketches, row_type) in [
        (1, Never, F32),
        (2, Never, F32),
        (7, Never, F32),
        (1, Always, F32),
        (7, Always, F32),
        (1, Never, F16),
        (2, Always, F16),
        (1, Always, Bf16),
        (1, Always, Int8),
    ] {
        let Some(expected) = expected((metric, row_type), width, rows, queries, k, filter) else {
            continue;
        };
        let paths = write_shards(
            folder.path(),
            metric,
            (sketches, row_type),
            width,
            rows,
            n_shards,
        );
        let index = ShardedIndex::open(&paths, Verify::Checksums).unwrap();
        let params = simd_levels().into_iter().map(|simd| SearchParams {
            simd: Some(simd),
            ..threads(1)
        });
        for params in params.chain([threads(3)]) {
            let found = index.search(queries, k, filter, &params).unwrap();
            let found: Vec<_> = found.iter().map(|neighbors| bits(neighbors)).collect();
            assert_eq!(
                found, expected,
                "{metric:?}, {sketches:?}, {row_type:?}, {n_shards} shards, {params:?}"
            );
        }
        for (query, expected) in queries.chunks_exact(width).zip(&expected) {
            let found = index
                .search(query, k, filter, &SearchParams::default())
                .unwrap();
            assert_eq!(
                &bits(&found[0]),
                expected,
                "{metric:?}, {sketches:?}, {row_type:?}, {n_shards} shards, one query alone"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn search_is_brute_force(
        seed: u64, row_kind in kinds(), query_kind in kinds(), metric in prop::sample::select(METRICS.to_vec()),
        n_rows in prop_oneof![0usize..20, 200usize..700], width in 1usize..70, n_queries in prop_oneof![0usize..7, 7usize..40],
        k in prop_oneof![0usize..12, 100usize..900], filtered: bool,
    ) {
        let mut random = Random(seed);
        let allow_zero = metric != Metric::Cosine;
        let rows = row_kind.vectors(&mut random, n_rows, width, allow_zero);
        let queries = query_kind.vectors(&mut random, n_queries, width, allow_zero);
        let filter: Option<Bitmap> = filtered.then(|| (0..n_rows as u32 + 50).filter(|_| random.below(4) == 0).collect());
        check_search(metric, width, &rows, &queries, k, filter.as_ref());
    }
}

#[test]
fn sums_that_overflow_downwards_prove_nothing() {
    // Products far below the smallest `f32`, and rests that lift them again.
    let mut random = Random(9436120421012143803);
    let rows = Kind::AllScales.vectors(&mut random, 443, 49, true);
    let query = Kind::Duplicates.vectors(&mut random, 1, 49, true);
    check_search(Metric::InnerProduct, 49, &rows, &query, 5, None);
}

#[test]
fn many_queries_of_real_width() {
    for metric in METRICS {
        let mut random = Random(7);
        let rows = Kind::NearDuplicates.vectors(&mut random, 1000, 384, false);
        let queries = [Kind::Random, Kind::NearDuplicates]
            .map(|kind| kind.vectors(&mut random, 70, 384, false))
            .concat();
        check_search(metric, 384, &rows, &queries, 10, None);
    }
}

#[test]
fn equal_rows_come_in_ordinal_order() {
    for metric in METRICS {
        check_search(
            metric,
            3,
            &[1.0, 2.0, 3.0].repeat(3000),
            &[3.0, 2.0, 1.0, -1.0, 0.0, 0.5],
            5,
            None,
        );
    }
}

#[test]
fn zero_rows_and_zero_queries_have_scores_without_cosine() {
    let mut rows = vec![0.0; 2 * 600];
    rows[2 * 400] = -1.0;
    for metric in [Metric::InnerProduct, Metric::L2] {
        check_search(metric, 2, &rows, &[0.0, 0.0, 1.0, 0.0], 500, None);
    }
}

fn open_one(folder: &Path, metric: Metric, width: usize, rows: &[f32]) -> FlatShard {
    FlatShard::open(
        &write_shards(
            folder,
            metric,
            (SketchPolicy::Never, RowType::F32),
            width,
            rows,
            1,
        )[0],
        Verify::Checksums,
    )
    .unwrap()
}

#[test]
fn one_outlier_does_not_hide_its_neighbors() {
    // A row 1e30 times as long as the others makes the bound of its block useless; the answer stays exact.
    let mut random = Random(3);
    let mut rows = Kind::Random.vectors(&mut random, 2000, 16, true);
    rows[16 * 700..16 * 701]
        .iter_mut()
        .for_each(|value| *value *= 1e30);
    let queries = Kind::Random.vectors(&mut random, 5, 16, true);
    check_search(Metric::InnerProduct, 16, &rows, &queries, 20, None);
}

#[test]
fn small_cases() {
    let folder = tempfile::tempdir().unwrap();
    for metric in METRICS {
        let rows = [3.0, 4.0, 1.0, 2.0];
        check_search(metric, 2, &rows, &[3.0, 4.0], usize::MAX, None);

        let empty = open_one(folder.path(), metric, 2, &[]);
        assert!(empty.is_empty());
        assert_eq!(
            empty.search(&[1.0, 2.0], 3, None, &SearchParams::default()),
            Ok(vec![vec![]])
        );

        let one = open_one(folder.path(), metric, 2, &[3.0, 4.0]);
        let found = one
            .search(
                &[3.0, 4.0, -3.0, -4.0],
                usize::MAX,
                None,
                &SearchParams::default(),
            )
            .unwrap();
        assert_eq!(
            found.iter().map(Vec::len).collect::<Vec<_>>(),
            [1, 1],
            "{metric:?}"
        );
        assert_eq!(
            one.search(&[3.0, 4.0], 0, None, &SearchParams::default()),
            Ok(vec![vec![]])
        );
        assert_eq!(
            one.search(&[], 3, None, &SearchParams::default()),
            Ok(vec![])
        );
        assert_eq!(
            one.search(
                &[3.0, 4.0],
                3,
                Some(&Bitmap::new()),
                &SearchParams::default()
            ),
            Ok(vec![vec![]])
        );
        assert_eq!(
            one.search(
                &[3.0, 4.0],
                3,
                Some(&Bitmap::from([5])),
                &SearchParams::default()
            ),
            Ok(vec![vec![]])
        );
    }
}

#[test]
fn cosine_ignores_lengths() {
    let folder = tempfile::tempdir().unwrap();
    let shard = open_one(folder.path(), Metric::Cosine, 2, &[1e-30, 1e-30, 5.0, 0.0]);
    let found = shard
        .search(&[1e30, 1e30], 1, None, &SearchParams::default())
        .unwrap();
    assert_eq!(found[0][0].ordinal, 0);
    assert!((found[0][0].score - 1.0).abs() < 1e-6);
}

#[test]
fn a_scan_ends_where_its_deadline_passed() {
    let folder = tempfile::tempdir().unwrap();
    let shard = open_one(folder.path(), Metric::L2, 2, &[1.0, 2.0, 3.0, 4.0]);
    let index = ShardedIndex::from_shards(vec![shard]).unwrap();
    for n in [1, 3] {
        let within = |deadline| SearchParams {
            deadline,
            ..threads(n)
        };
        let find = |params: SearchParams| index.search(&[1.0, 1.0], 1, None, &params);
        let now = Instant::now();
        let error = find(within(Some(now))).unwrap_err();
        assert_eq!(error, SearchError::DeadlineExceeded);
        let later = now.checked_add(Duration::from_secs(3600));
        assert_eq!(find(within(later)).unwrap(), find(within(None)).unwrap());
    }
}

#[test]
fn queries_are_refused_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let check = |metric: Metric, queries: &[f32], expected: SearchError| {
        let shard = open_one(folder.path(), metric, 2, &[1.0, 2.0]);
        for k in [0, 1] {
            assert_eq!(
                shard.search(queries, k, None, &SearchParams::default()),
                Err(expected.clone()),
                "{metric:?}"
            );
        }
    };
    for metric in METRICS {
        check(
            metric,
            &[1.0, 2.0, 3.0],
            SearchError::Width {
                n_values: 3,
                width: 2,
            },
        );
        check(
            metric,
            &[1.0, 2.0, 3.0, f32::NAN],
            SearchError::NotFinite {
                query: 1,
                dimension: 1,
            },
        );
        check(
            metric,
            &[1.0, 2.0, f32::NEG_INFINITY, 3.0],
            SearchError::NotFinite {
                query: 1,
                dimension: 0,
            },
        );
    }
    check(
        Metric::Cosine,
        &[1.0, 2.0, 0.0, 0.0],
        SearchError::ZeroQuery { query: 1 },
    );
}

#[test]
fn score_is_the_f64_sum_rounded_once() {
    let mut random = Random(11);
    for width in [1, 7, 8, 9, 384] {
        let vectors = Kind::Random.vectors(&mut random, 2, width, true);
        let (row, query) = vectors.split_at(width);
        let check = |metric, expected: f64| {
            let found = f64::from(score(metric, row, query));
            assert!(
                (found - expected).abs() <= expected.abs() * 6e-8,
                "{metric:?}: {found} instead of {expected}"
            );
        };
        let pairs = || {
            row.iter()
                .zip(query)
                .map(|(&x, &q)| (f64::from(x), f64::from(q)))
        };
        check(Metric::InnerProduct, pairs().map(|(x, q)| x * q).sum());
        check(
            Metric::L2,
            -pairs().map(|(x, q)| (x - q).powi(2)).sum::<f64>(),
        );
    }
}
