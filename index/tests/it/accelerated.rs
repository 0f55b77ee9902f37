//! Search by an emulated device against brute force, bit for bit.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compute::accelerator::{AcceleratorError, SharedAccelerator};
use emulated_gpu::EmulatedGpu;
use index::{
    AcceleratedConfig, AcceleratedIndex, Bitmap, Device, LoadError, Metric, RowType, SearchError,
    SearchParams, ShardedIndex, SketchPolicy, VectorIndex, Verify,
};
use proptest::prelude::*;

use crate::search::{Kind, bits, expected, kinds};
use crate::{METRICS, Random, write_shards};

/// So little that every limit of it is met: searches in turns, many steps, many tiles.
const SMALL: AcceleratedConfig = AcceleratedConfig {
    max_queries: 20,
    first_rows: 64,
    candidate_bytes: 8 * 20 * 300,
    tile_rows: 128,
};

fn gpu(n_bytes: u64) -> Arc<EmulatedGpu> {
    EmulatedGpu::new("gpu:0", n_bytes)
}

fn shared(gpu: &Arc<EmulatedGpu>) -> [SharedAccelerator; 1] {
    [gpu.clone()]
}

fn open(
    folder: &Path,
    metric: Metric,
    kind: (SketchPolicy, RowType),
    width: usize,
    rows: &[f32],
    n_shards: usize,
) -> ShardedIndex {
    let paths = write_shards(folder, metric, kind, width, rows, n_shards);
    ShardedIndex::open(&paths, Verify::Checksums).unwrap()
}

/// How rows are stored, and on how many shards and devices.
type Layout = (usize, usize, SketchPolicy, RowType);

const LAYOUTS: [Layout; 8] = {
    use RowType::{Bf16, F16, F32, Int8};
    use SketchPolicy::{Always, Never};
    [
        (1, 1, Never, F32),
        (3, 2, Never, F16),
        (1, 1, Never, Bf16),
        (2, 1, Never, Int8),
        (1, 1, Always, F32),
        (2, 3, Always, F16),
        (1, 1, Always, Bf16),
        (1, 1, Always, Int8),
    ]
};

fn check(
    metric: Metric,
    width: usize,
    rows: &[f32],
    queries: &[f32],
    k: usize,
    filter: Option<&Bitmap>,
    layouts: &[Layout],
) {
    let folder = tempfile::tempdir().unwrap();
    for &(n_shards, n_devices, sketches, row_type) in layouts {
        let Some(expected) = expected((metric, row_type), width, rows, queries, k, filter) else {
            continue;
        };
        let gpu = gpu(1 << 30);
        for device in shared(&gpu).into_iter().chain(testkit::gpu()) {
            let kind = (sketches, row_type);
            let flat = open(folder.path(), metric, kind, width, rows, n_shards);
            let name = device.info().model.clone();
            let index = AcceleratedIndex::load(flat, &vec![device; n_devices], &SMALL).unwrap();
            let search = |queries: &[f32]| {
                let params = SearchParams::default();
                let found = index.search(queries, k, filter, &params).unwrap();
                found.iter().map(|found| bits(found)).collect::<Vec<_>>()
            };
            let case = format!(
                "{metric:?}, {sketches:?}, {row_type:?}, {n_shards} shards, {n_devices} times {name}"
            );
            assert_eq!(search(queries), expected, "{case}");
            for (query, expected) in queries.chunks_exact(width).zip(&expected).take(2) {
                assert_eq!(&search(query)[0], expected, "{case}, one query alone");
            }
        }
        assert_eq!(gpu.allocated_bytes(), 0, "what was allocated was freed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn search_on_a_device_is_brute_force(
        seed: u64, row_kind in kinds(), query_kind in kinds(), metric in prop::sample::select(METRICS.to_vec()),
        n_rows in prop_oneof![0usize..20, 200usize..700], width in 1usize..70,
        n_queries in prop_oneof![0usize..6, 16usize..24], k in prop_oneof![0usize..12, 100usize..900], filtered: bool,
        layout in prop::sample::select(LAYOUTS.to_vec()),
    ) {
        let mut random = Random(seed);
        let allow_zero = metric != Metric::Cosine;
        let rows = row_kind.vectors(&mut random, n_rows, width, allow_zero);
        let queries = query_kind.vectors(&mut random, n_queries, width, allow_zero);
        let filter: Option<Bitmap> = filtered.then(|| (0..n_rows as u32 + 50).filter(|_| random.below(4) == 0).collect());
        check(metric, width, &rows, &queries, k, filter.as_ref(), &[layout]);
    }
}

#[test]
fn real_width_in_every_layout() {
    for metric in METRICS {
        let mut random = Random(11);
        let rows = Kind::Flat.vectors(&mut random, 700, 384, false);
        let queries = Kind::Flat.vectors(&mut random, 21, 384, false);
        check(metric, 384, &rows, &queries, 10, None, &LAYOUTS);
    }
}

#[test]
fn hard_rows_in_every_layout() {
    for (kind, width) in [
        (Kind::NearDuplicates, 300),
        (Kind::AllScales, 40),
        (Kind::Huge, 40),
        (Kind::Tiny, 40),
    ] {
        for metric in METRICS {
            let mut random = Random(3);
            let rows = kind.vectors(&mut random, 400, width, false);
            let queries = [kind, Kind::Random]
                .map(|kind| kind.vectors(&mut random, 2, width, false))
                .concat();
            check(metric, width, &rows, &queries, 5, None, &LAYOUTS);
        }
    }
}

#[test]
fn scores_that_f32_sums_confuse() {
    // Their scores differ by about as much as the sums are wrong by.
    let (width, mut random) = (300, Random(8));
    let base: Vec<f32> = (0..width).map(|_| random.uniform()).collect();
    let rows: Vec<f32> = base
        .repeat(400)
        .iter()
        .map(|x| x + 2e-6 * random.uniform())
        .collect();
    let queries = Kind::Random.vectors(&mut random, 3, width, false);
    for metric in METRICS {
        check(metric, width, &rows, &queries, 100, None, &LAYOUTS);
    }
}

#[test]
fn sums_that_overflow_downwards_prove_nothing() {
    let mut rows = [1.0].repeat(16 * 300);
    rows.extend([-2e19, 1.5e19, 1.5e19, 1.5e19]);
    rows.extend([0.0; 12]);
    check(
        Metric::InnerProduct,
        16,
        &rows,
        &[2e19; 16],
        1,
        None,
        &LAYOUTS,
    );
    check(
        Metric::InnerProduct,
        16,
        &rows,
        &[2e19; 16 * 17],
        1,
        None,
        &LAYOUTS,
    );
}

#[test]
fn squares_too_small_for_f32_rule_nothing_out() {
    // Half of the square of a row is a subnormal number, or less than the least.
    let mut random = Random(21);
    for (width, k) in [(1, 40), (3, 60), (8, 5)] {
        let mut tiny = |n| {
            let mut vectors = Kind::Random.vectors(&mut random, n, width, false);
            vectors.iter_mut().for_each(|value| *value *= 1e-22);
            vectors
        };
        let (rows, queries) = (tiny(600), tiny(20));
        check(Metric::L2, width, &rows, &queries, k, None, &LAYOUTS[..1]);
    }
}

#[test]
fn ties_beyond_all_room_for_candidates() {
    let rows = [1.0, 2.0, 3.0].repeat(1100);
    for metric in METRICS {
        check(
            metric,
            3,
            &rows,
            &[3.0, 2.0, 1.0, -1.0, 0.0, 0.5],
            5,
            None,
            &LAYOUTS,
        );
        check(
            metric,
            3,
            &rows,
            &[3.0, 2.0, 1.0].repeat(17),
            1024,
            None,
            &LAYOUTS[..2],
        );
    }
}

#[test]
fn few_candidates_of_many_rows_are_rescored() {
    // The limit of the first rows leaves few of the later ones: a scan that rules nothing out would be caught here.
    use RowType::{F16, F32, Int8};
    use SketchPolicy::{Always, Never};
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(5);
    let rows = Kind::Random.vectors(&mut random, 12_000, 16, false);
    let query = Kind::Random.vectors(&mut random, 17, 16, false);
    let config = AcceleratedConfig {
        candidate_bytes: 8 << 20,
        ..AcceleratedConfig::default()
    };
    for (metric, sketches, row_type) in [
        (Metric::Cosine, Never, F16),
        (Metric::Cosine, Always, F16),
        (Metric::L2, Never, F32),
        (Metric::L2, Never, Int8),
        (Metric::L2, Always, Int8),
    ] {
        let flat = open(folder.path(), metric, (sketches, row_type), 16, &rows, 1);
        let gpu = gpu(1 << 30);
        let index = AcceleratedIndex::load(flat, &shared(&gpu), &config).unwrap();
        for n_queries in [1, 17] {
            let queries = &query[..16 * n_queries];
            let (found, candidates) = index
                .search_counted(queries, 10, None, &SearchParams::default())
                .unwrap();
            let expected = index.flat();
            let expected = expected.search(queries, 10, None, &SearchParams::default());
            assert_eq!(found, expected.unwrap());
            let a_query = candidates / n_queries as u64;
            assert!(
                a_query < 5_000,
                "{a_query} candidates of {n_queries} queries, {metric:?}, {sketches:?}, {row_type:?}"
            );
        }
    }
}

#[test]
fn what_has_no_room_is_refused_before_anything_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let rows = Kind::Random.vectors(&mut Random(1), 1000, 8, false);
    let kind = (SketchPolicy::Always, RowType::F16);
    let flat = || open(folder.path(), Metric::L2, kind, 8, &rows, 2);
    let plan = AcceleratedIndex::memory_plan(&flat(), 1, &SMALL).unwrap()[0];
    let small = gpu(plan.total() - 1);
    let Err(LoadError::Device(AcceleratorError::OutOfMemory {
        device,
        needed,
        free,
        ..
    })) = AcceleratedIndex::load(flat(), &shared(&small), &SMALL)
    else {
        panic!("there is no room");
    };
    assert_eq!(
        (device.as_str(), needed, free),
        ("gpu:0", plan.total(), plan.total() - 1)
    );
    assert_eq!(small.allocated_bytes(), 0);

    // The plan is what is allocated, so a second generation beside the first either fits or is refused.
    let enough = gpu(2 * plan.total());
    let first = AcceleratedIndex::load(flat(), &shared(&enough), &SMALL).unwrap();
    assert_eq!(enough.allocated_bytes(), plan.total());
    let second = AcceleratedIndex::load(flat(), &shared(&enough), &SMALL).unwrap();
    assert!(AcceleratedIndex::load(flat(), &shared(&enough), &SMALL).is_err());
    drop(first);
    assert!(AcceleratedIndex::load(flat(), &shared(&enough), &SMALL).is_ok());
    drop(second);
    assert_eq!(enough.allocated_bytes(), 0);
}

#[test]
fn bad_queries_are_refused_as_on_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let rows = Kind::Random.vectors(&mut Random(1), 10, 4, false);
    let flat = open(
        folder.path(),
        Metric::Cosine,
        (SketchPolicy::Never, RowType::F32),
        4,
        &rows,
        1,
    );
    let index = AcceleratedIndex::load(flat, &shared(&gpu(1 << 30)), &SMALL).unwrap();
    assert_eq!(index.capabilities().device, Device::Cuda);
    for (query, expected) in [
        (&[0.0; 4][..], SearchError::ZeroQuery { query: 0 }),
        (
            &[f32::NAN, 0.0, 0.0, 1.0],
            SearchError::NotFinite {
                query: 0,
                dimension: 0,
            },
        ),
        (
            &[1.0, f32::INFINITY, 0.0, 1.0],
            SearchError::NotFinite {
                query: 0,
                dimension: 1,
            },
        ),
        (
            &[1.0; 5],
            SearchError::Width {
                n_values: 5,
                width: 4,
            },
        ),
    ] {
        let found = index.search(query, 3, None, &SearchParams::default());
        assert_eq!(found.unwrap_err(), expected);
    }
    // Longer lists than a device keeps come from the host.
    let all = index
        .search(&rows[..4], 5000, None, &SearchParams::default())
        .unwrap();
    assert_eq!(all[0].len(), 10);
}

#[test]
fn a_search_ends_where_its_deadline_passed() {
    let folder = tempfile::tempdir().unwrap();
    let rows = Kind::Random.vectors(&mut Random(1), 10, 4, false);
    let kind = (SketchPolicy::Never, RowType::F32);
    for n_devices in [1, 2] {
        let flat = open(folder.path(), Metric::L2, kind, 4, &rows, 1);
        let devices = vec![gpu(1 << 30) as SharedAccelerator; n_devices];
        let index = AcceleratedIndex::load(flat, &devices, &SMALL).unwrap();
        let find = |deadline| {
            let params = SearchParams {
                deadline,
                ..SearchParams::default()
            };
            index.search(&rows[..8], 1, None, &params)
        };
        let now = Instant::now();
        assert_eq!(find(Some(now)), Err(SearchError::DeadlineExceeded));
        let later = now.checked_add(Duration::from_secs(3600));
        assert_eq!(find(later).unwrap(), find(None).unwrap());
    }
}

#[test]
fn a_search_waits_once_for_its_queries() {
    let (width, n_rows) = (24, 600);
    let mut random = Random(5);
    let mut vectors = |n: usize| -> Vec<f32> { (0..n * width).map(|_| random.uniform()).collect() };
    let (rows, queries) = (vectors(n_rows), vectors(45));
    let filter: Bitmap = (0..n_rows as u32).step_by(2).collect();
    for &(n_shards, n_devices, sketches, row_type) in &LAYOUTS {
        let folder = tempfile::tempdir().unwrap();
        let kind = (sketches, row_type);
        let flat = open(folder.path(), Metric::L2, kind, width, &rows, n_shards);
        let gpu = gpu(1 << 30);
        let devices = vec![gpu.clone() as SharedAccelerator; n_devices];
        let index = AcceleratedIndex::load(flat, &devices, &SMALL).unwrap();
        assert_eq!(gpu.n_waits(), 0, "loading waits for nothing");
        for (queries, n_batches) in [(&queries[..width], 1), (&queries[..], 3)] {
            let before = gpu.n_waits();
            index
                .search(queries, 10, Some(&filter), &SearchParams::default())
                .unwrap();
            assert_eq!(gpu.n_waits() - before, n_batches * n_devices);
        }
    }
}
