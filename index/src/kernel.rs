//! The two inner loops: many rows against many queries in `f32`, and one row against one query in `f64`.
//!
//! Each is written once, over arrays as long as a vector register, and compiled once per instruction set.

use std::array;

use crate::Metric;

/// Which instructions to use. Only [`Arithmetic::detect`] and [`Arithmetic::available`] make one, so holding one
/// means that the machine has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arithmetic(InstructionSet);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InstructionSet {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Arithmetic {
    /// The best the machine has.
    #[cfg(target_arch = "x86_64")]
    pub fn detect() -> Self {
        if is_x86_feature_detected!("avx512f") {
            Self(InstructionSet::Avx512)
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Self(InstructionSet::Avx2)
        } else {
            Self(InstructionSet::Portable)
        }
    }

    /// The best the machine has.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn detect() -> Self {
        Self(InstructionSet::Portable)
    }

    /// Everything the machine has, for tests that compare them.
    #[cfg(test)]
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self(InstructionSet::Portable)];
        #[cfg(target_arch = "x86_64")]
        match Self::detect().0 {
            InstructionSet::Portable => {}
            InstructionSet::Avx2 => all.push(Self(InstructionSet::Avx2)),
            InstructionSet::Avx512 => {
                all.extend([Self(InstructionSet::Avx2), Self(InstructionSet::Avx512)])
            }
        }
        all
    }
}

/// Makes `$name(arithmetic, …)`, which runs `$portable`, `$avx2` or `$avx512` compiled for that instruction set.
/// All three are always inlined, so that the whole loop takes the instruction set of the function around it.
macro_rules! per_instruction_set {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) $(-> $output:ty)?;
     portable: $portable:expr, avx2: $avx2:expr, avx512: $avx512:expr) => {
        $(#[$doc])*
        pub(crate) fn $name(arithmetic: Arithmetic, $($arg: $type),*) $(-> $output)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $type),*) $(-> $output)? {
                $avx2($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            fn avx512($($arg: $type),*) $(-> $output)? {
                $avx512($($arg),*)
            }
            match arithmetic.0 {
                InstructionSet::Portable => $portable($($arg),*),
                // SAFETY: an `Arithmetic` holds this only where AVX2 and FMA were detected.
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: an `Arithmetic` holds this only where AVX-512F was detected, which comes with AVX2 and FMA.
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}

/// Scores every row for every query in `f32`: `scores[q · rows.len() + r]` is row `r` for query `q`.
///
/// `queries` holds rows of one width, row-major, the width of each of `rows`. Every element of the sum goes through at
/// most `width` roundings (one for its product, fewer than `width` for the additions, fused or not), and L2 through
/// two more; `scan` bounds the error with that.
pub(crate) fn first_pass(
    arithmetic: Arithmetic,
    metric: Metric,
    rows: &[&[f32]],
    queries: &[f32],
    scores: &mut [f32],
) {
    match metric {
        Metric::InnerProduct | Metric::Cosine => {
            first_pass_products(arithmetic, rows, queries, scores)
        }
        Metric::L2 => first_pass_distances(arithmetic, rows, queries, scores),
    }
}

// Queries in a tile, lanes in a sum: a tile of four rows must fit the registers, which are 32 of 16 lanes with
// AVX-512, 16 of 8 with AVX2 and 16 of 4 in any x86-64.
per_instruction_set! {
    fn first_pass_products(rows: &[&[f32]], queries: &[f32], scores: &mut [f32]);
    portable: score_tiles::<Product, 2, 4, false>,
    avx2: score_tiles::<Product, 2, 8, true>,
    avx512: score_tiles::<Product, 4, 16, true>
}
per_instruction_set! {
    fn first_pass_distances(rows: &[&[f32]], queries: &[f32], scores: &mut [f32]);
    portable: score_tiles::<SquaredDifference, 2, 4, false>,
    avx2: score_tiles::<SquaredDifference, 2, 8, true>,
    avx512: score_tiles::<SquaredDifference, 4, 16, true>
}
per_instruction_set! {
    /// `Σ xᵢqᵢ` in `f64`, in the order that [`score`](crate::score) defines.
    fn inner_product_f64(row: &[f32], query: &[f32]) -> f64;
    portable: sum_f64::<Product>, avx2: sum_f64::<Product>, avx512: sum_f64::<Product>
}
per_instruction_set! {
    /// `Σ (xᵢ − qᵢ)²` in `f64`, in the order that [`score`](crate::score) defines.
    fn squared_distance_f64(row: &[f32], query: &[f32]) -> f64;
    portable: sum_f64::<SquaredDifference>, avx2: sum_f64::<SquaredDifference>, avx512: sum_f64::<SquaredDifference>
}

/// What is summed over the dimensions.
trait Term {
    /// What a sum is multiplied by to become a score.
    const SIGN: f32;
    /// Adds the term of one dimension in `f32`, in one rounding where the machine can.
    fn add_f32<const FUSED: bool>(sum: f32, x: f32, q: f32) -> f32;
    /// The term in `f64`; not fused, so that it is the same everywhere.
    fn term_f64(x: f64, q: f64) -> f64;
}

struct Product;

impl Term for Product {
    const SIGN: f32 = 1.0;

    #[inline(always)]
    fn add_f32<const FUSED: bool>(sum: f32, x: f32, q: f32) -> f32 {
        if FUSED {
            x.mul_add(q, sum)
        } else {
            sum + x * q
        }
    }

    #[inline(always)]
    fn term_f64(x: f64, q: f64) -> f64 {
        x * q
    }
}

struct SquaredDifference;

impl Term for SquaredDifference {
    const SIGN: f32 = -1.0;

    #[inline(always)]
    fn add_f32<const FUSED: bool>(sum: f32, x: f32, q: f32) -> f32 {
        Product::add_f32::<FUSED>(sum, x - q, x - q)
    }

    #[inline(always)]
    fn term_f64(x: f64, q: f64) -> f64 {
        (x - q) * (x - q)
    }
}

/// Rows in a tile.
const TILE_ROWS: usize = 4;

/// Scores all rows for all queries, tile by tile: a tile of rows stays in the nearest cache while every query passes.
#[inline(always)]
fn score_tiles<T: Term, const QUERIES: usize, const LANES: usize, const FUSED: bool>(
    rows: &[&[f32]],
    queries: &[f32],
    scores: &mut [f32],
) {
    let Some(width) = rows.first().map(|row| row.len()) else {
        return;
    };
    let n_rows = rows.len();
    for first_row in (0..n_rows).step_by(TILE_ROWS) {
        // The last tile repeats its last row rather than being a case of its own.
        let tile: [&[f32]; TILE_ROWS] = array::from_fn(|r| rows[(first_row + r).min(n_rows - 1)]);
        let n_tile = TILE_ROWS.min(n_rows - first_row);
        let mut groups = queries.chunks_exact(QUERIES * width);
        let mut n_scored = 0;
        for group in &mut groups {
            let sums = sum_tile::<T, QUERIES, LANES, FUSED>(
                &tile,
                array::from_fn(|q| &group[q * width..][..width]),
            );
            for (q, sums) in sums.iter().enumerate() {
                scores[(n_scored + q) * n_rows + first_row..][..n_tile]
                    .copy_from_slice(&sums[..n_tile]);
            }
            n_scored += QUERIES;
        }
        for query in groups.remainder().chunks_exact(width) {
            let [sums] = sum_tile::<T, 1, LANES, FUSED>(&tile, [query]);
            scores[n_scored * n_rows + first_row..][..n_tile].copy_from_slice(&sums[..n_tile]);
            n_scored += 1;
        }
    }
}

/// The scores of one tile, by query and then by row.
#[inline(always)]
fn sum_tile<T: Term, const QUERIES: usize, const LANES: usize, const FUSED: bool>(
    rows: &[&[f32]; TILE_ROWS],
    queries: [&[f32]; QUERIES],
) -> [[f32; TILE_ROWS]; QUERIES] {
    let width = queries[0].len();
    let whole = width - width % LANES;
    let mut sums = [[[0.0_f32; LANES]; TILE_ROWS]; QUERIES];
    for at in (0..whole).step_by(LANES) {
        let x: [&[f32]; TILE_ROWS] = rows.map(|row| &row[at..at + LANES]);
        for q in 0..QUERIES {
            let query = &queries[q][at..at + LANES];
            for r in 0..TILE_ROWS {
                for lane in 0..LANES {
                    sums[q][r][lane] =
                        T::add_f32::<FUSED>(sums[q][r][lane], x[r][lane], query[lane]);
                }
            }
        }
    }
    array::from_fn(|q| {
        array::from_fn(|r| {
            let mut sums = sums[q][r];
            for (lane, i) in (whole..width).enumerate() {
                sums[lane] = T::add_f32::<FUSED>(sums[lane], rows[r][i], queries[q][i]);
            }
            T::SIGN * add_pairwise(&mut sums)
        })
    })
}

/// One sum in `f64`: running sums of every eighth term, then added pairwise.
#[inline(always)]
fn sum_f64<T: Term>(row: &[f32], query: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0_f64; LANES];
    let (rows, row_rest) = row.as_chunks::<LANES>();
    let (queries, query_rest) = query.as_chunks::<LANES>();
    for (x, q) in rows.iter().zip(queries) {
        for lane in 0..LANES {
            sums[lane] += T::term_f64(x[lane].into(), q[lane].into());
        }
    }
    for (sum, (&x, &q)) in sums.iter_mut().zip(row_rest.iter().zip(query_rest)) {
        *sum += T::term_f64(x.into(), q.into());
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Adds the upper half of the lanes to the lower until one is left.
#[inline(always)]
fn add_pairwise<const LANES: usize>(sums: &mut [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_score() {
        for width in [1, 8, 31, 384] {
            let row: Vec<f32> = (0..width).map(|i| (i as f32 * 0.7).sin() * 1e3).collect();
            let query: Vec<f32> = (0..width).map(|i| (i as f32 * 1.3).cos()).collect();
            let scores = |arithmetic| {
                [
                    inner_product_f64(arithmetic, &row, &query),
                    squared_distance_f64(arithmetic, &row, &query),
                ]
                .map(f64::to_bits)
            };
            for arithmetic in Arithmetic::available() {
                assert_eq!(
                    scores(arithmetic),
                    scores(Arithmetic(InstructionSet::Portable)),
                    "{arithmetic:?}, width {width}"
                );
            }
        }
    }

    #[test]
    fn first_pass_scores_every_row_for_every_query() {
        // Small integers, so that the first pass is exact and each score names its row and its query.
        for (n_rows, n_queries, width) in [(1, 1, 1), (4, 4, 16), (5, 3, 17), (7, 9, 40), (3, 6, 5)]
        {
            let value = |vector: usize, i: usize| ((vector * 7 + i * 3) % 11) as f32 - 5.0;
            let rows: Vec<Vec<f32>> = (0..n_rows)
                .map(|r| (0..width).map(|i| value(r, i)).collect())
                .collect();
            let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            let queries: Vec<f32> = (0..n_queries * width)
                .map(|i| value(i / width + 50, i % width))
                .collect();
            for metric in [Metric::InnerProduct, Metric::L2] {
                let expected: Vec<f32> = queries
                    .chunks(width)
                    .flat_map(|query| rows.iter().map(move |row| crate::score(metric, row, query)))
                    .collect();
                for arithmetic in Arithmetic::available() {
                    let mut scores = vec![f32::NAN; n_rows * n_queries];
                    first_pass(arithmetic, metric, &rows, &queries, &mut scores);
                    assert_eq!(
                        scores, expected,
                        "{arithmetic:?}, {metric:?}, {n_rows} x {n_queries} x {width}"
                    );
                }
            }
        }
    }
}
