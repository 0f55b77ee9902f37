//! The two inner loops: many rows against many queries in `f32`, and one row against one query in `f64`.

use std::array;

use compute::{Level, Simd, simd_function};

use crate::Metric;

simd_function! {
    /// `Σ xᵢqᵢ` in `f64`, in the order that [`score`](crate::score) defines.
    pub(crate) fn inner_product_f64(row: &[f32], query: &[f32]) -> f64 {
        sum_f64(row, query, |x, q| x * q)
    }

    /// `Σ (xᵢ − qᵢ)²` in `f64`, in the order that [`score`](crate::score) defines.
    pub(crate) fn squared_distance_f64(row: &[f32], query: &[f32]) -> f64 {
        sum_f64(row, query, |x, q| (x - q) * (x - q))
    }
}

/// Eight running sums of every eighth term, then added pairwise. Nothing is fused, so every machine rounds alike.
#[inline(always)]
fn sum_f64(row: &[f32], query: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0_f64; LANES];
    let (rows, row_rest) = row.as_chunks::<LANES>();
    let (queries, query_rest) = query.as_chunks::<LANES>();
    for (x, q) in rows.iter().zip(queries) {
        for lane in 0..LANES {
            sums[lane] += term(x[lane].into(), q[lane].into());
        }
    }
    for (sum, (&x, &q)) in sums.iter_mut().zip(row_rest.iter().zip(query_rest)) {
        *sum += term(x.into(), q.into());
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Scores every row for every query in `f32`: `scores[q · rows.len() + r]` is row `r` for query `q`.
///
/// `queries` holds rows of one width, row-major, the width of each of `rows`. Every element of a sum goes through at
/// most `width/4 + 4` roundings (one for its product, the others for additions, fused or not: there are four running sums or
/// more), never more than `width`, and L2 through two more; `scan` and `sketch` bound the error with that.
///
/// # Panics
/// When a row is not as wide as the first one, or `queries` or `scores` has another length.
pub(crate) fn first_pass(
    simd: Simd,
    metric: Metric,
    rows: &[&[f32]],
    queries: &[f32],
    scores: &mut [f32],
) {
    let Some(width) = rows.first().map(|row| row.len()) else {
        return;
    };
    assert!(
        rows.iter().all(|row| row.len() == width),
        "rows have one width"
    );
    assert_eq!(
        queries.len() * rows.len(),
        scores.len() * width,
        "there is a score for each row and query"
    );
    let pass = Pass {
        rows,
        queries,
        width,
        scores,
    };
    match (simd.level(), metric) {
        // SAFETY: a `Simd` of this level exists only where the machine has these instructions.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, Metric::InnerProduct | Metric::Cosine) => unsafe {
            pass.avx512::<Product>()
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, Metric::L2) => unsafe { pass.avx512::<SquaredDifference>() },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, Metric::InnerProduct | Metric::Cosine) => unsafe { pass.avx2::<Product>() },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, Metric::L2) => unsafe { pass.avx2::<SquaredDifference>() },
        (_, Metric::InnerProduct | Metric::Cosine) => pass.run::<[f32; 4], Product, 2>(),
        (_, Metric::L2) => pass.run::<[f32; 4], SquaredDifference, 2>(),
    }
}

/// Rows in a tile.
const TILE_ROWS: usize = 4;

/// What [`first_pass`] was given, checked.
struct Pass<'a> {
    rows: &'a [&'a [f32]],
    queries: &'a [f32],
    width: usize,
    scores: &'a mut [f32],
}

impl Pass<'_> {
    /// Four queries in a tile: 16 sums, 4 rows and a query fit the 32 registers.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    fn avx512<T: Term>(self) {
        self.run::<std::arch::x86_64::__m512, T, 4>();
    }

    /// Two queries in a tile: 8 sums, 4 rows and a query fit the 16 registers.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2<T: Term>(self) {
        self.run::<std::arch::x86_64::__m256, T, 2>();
    }

    /// Scores tile by tile: four rows stay in the nearest cache while every query passes.
    #[inline(always)]
    fn run<R: Register, T: Term, const QUERIES: usize>(self) {
        let Self {
            rows,
            queries,
            width,
            scores,
        } = self;
        let n_rows = rows.len();
        for first_row in (0..n_rows).step_by(TILE_ROWS) {
            // The last tile repeats its last row rather than being a case of its own.
            let tile = array::from_fn(|r| rows[(first_row + r).min(n_rows - 1)]);
            let n_tile = TILE_ROWS.min(n_rows - first_row);
            let mut put = |query: usize, sums: &[f32; TILE_ROWS]| {
                scores[query * n_rows + first_row..][..n_tile].copy_from_slice(&sums[..n_tile]);
            };
            let mut query = 0;
            let mut groups = queries.chunks_exact(QUERIES * width);
            for group in &mut groups {
                for sums in sum_tile::<R, T, QUERIES>(
                    &tile,
                    &array::from_fn(|q| &group[q * width..][..width]),
                ) {
                    put(query, &sums);
                    query += 1;
                }
            }
            for rest in groups.remainder().chunks_exact(width) {
                let [sums] = sum_tile::<R, T, 1>(&tile, &[rest]);
                put(query, &sums);
                query += 1;
            }
        }
    }
}

/// The scores of one tile, by query and then by row. All vectors have one width.
#[inline(always)]
fn sum_tile<R: Register, T: Term, const QUERIES: usize>(
    rows: &[&[f32]; TILE_ROWS],
    queries: &[&[f32]; QUERIES],
) -> [[f32; TILE_ROWS]; QUERIES] {
    let width = rows[0].len();
    let whole = width - width % R::LANES;
    debug_assert!(
        rows.iter()
            .chain(queries)
            .all(|vector| vector.len() == width)
    );
    // SAFETY: the machine has the instructions of R, since `first_pass` chose it. Every `at` is followed by as many
    // values as R has lanes, in vectors that all have the same width; the padded ends have `MAX_LANES` values.
    unsafe {
        let mut sums = [[R::zero(); TILE_ROWS]; QUERIES];
        for at in (0..whole).step_by(R::LANES) {
            let at = |vector: &[f32]| vector.as_ptr().add(at);
            add_terms::<R, T, QUERIES>(&mut sums, rows.map(at), queries.map(at));
        }
        if whole < width {
            // Padded with zeros, which add nothing.
            let rows = rows.map(|row| padded(&row[whole..]));
            let queries = queries.map(|query| padded(&query[whole..]));
            let (rows, queries) = (
                rows.each_ref().map(|row| row.as_ptr()),
                queries.each_ref().map(|query| query.as_ptr()),
            );
            add_terms::<R, T, QUERIES>(&mut sums, rows, queries);
        }
        let mut scores = [[0.0; TILE_ROWS]; QUERIES];
        for (scores, sums) in scores.iter_mut().zip(sums) {
            for (score, sum) in scores.iter_mut().zip(sums) {
                *score = T::SIGN * sum.total();
            }
        }
        scores
    }
}

/// Adds the terms of one register of dimensions, for each pair of a query and a row.
///
/// Loops rather than `map`: a closure that is not inlined is compiled without the instructions of R.
///
/// # Safety
/// The machine has the instructions of R, and each pointer is followed by as many values as R has lanes.
#[inline(always)]
unsafe fn add_terms<R: Register, T: Term, const QUERIES: usize>(
    sums: &mut [[R; TILE_ROWS]; QUERIES],
    rows: [*const f32; TILE_ROWS],
    queries: [*const f32; QUERIES],
) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut x = [R::zero(); TILE_ROWS];
        for (x, row) in x.iter_mut().zip(rows) {
            *x = R::load(row);
        }
        for (sums, query) in sums.iter_mut().zip(queries) {
            let q = R::load(query);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = T::add(*sum, x, q);
            }
        }
    }
}

/// The end of a vector, followed by zeros.
#[inline(always)]
fn padded(end: &[f32]) -> [f32; MAX_LANES] {
    let mut values = [0.0; MAX_LANES];
    values[..end.len()].copy_from_slice(end);
    values
}

/// What is summed over the dimensions.
trait Term {
    /// What the sum is multiplied by to become a score.
    const SIGN: f32;
    /// Adds the term of one dimension, in each lane.
    ///
    /// # Safety
    /// The machine has the instructions of R.
    unsafe fn add<R: Register>(sum: R, x: R, q: R) -> R;
}

struct Product;

impl Term for Product {
    const SIGN: f32 = 1.0;

    #[inline(always)]
    unsafe fn add<R: Register>(sum: R, x: R, q: R) -> R {
        // SAFETY: as the caller promises.
        unsafe { x.mul_add(q, sum) }
    }
}

struct SquaredDifference;

impl Term for SquaredDifference {
    const SIGN: f32 = -1.0;

    #[inline(always)]
    unsafe fn add<R: Register>(sum: R, x: R, q: R) -> R {
        // SAFETY: as the caller promises.
        unsafe {
            let difference = x.sub(q);
            difference.mul_add(difference, sum)
        }
    }
}

/// Lanes of the widest register.
const MAX_LANES: usize = 16;

/// One vector register of `f32`. All of its functions need a machine that has its instructions.
trait Register: Copy {
    const LANES: usize;
    unsafe fn zero() -> Self;
    /// Reads as many values as there are lanes.
    unsafe fn load(from: *const f32) -> Self;
    /// `self − b`
    unsafe fn sub(self, b: Self) -> Self;
    /// `self · b + c`
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// The sum of the lanes.
    unsafe fn total(self) -> f32;
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::*;

    use super::Register;

    macro_rules! register {
        ($register:ty, $lanes:literal, $zero:ident, $load:ident, $sub:ident, $mul_add:ident, $total:expr) => {
            impl Register for $register {
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn zero() -> Self {
                    // SAFETY: the caller runs on a machine with this instruction; so below.
                    unsafe { $zero() }
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: the caller has as many values there; the load needs no alignment.
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn sub(self, b: Self) -> Self {
                    // SAFETY: as in `zero`.
                    unsafe { $sub(self, b) }
                }

                #[inline(always)]
                unsafe fn mul_add(self, b: Self, c: Self) -> Self {
                    // SAFETY: as in `zero`.
                    unsafe { $mul_add(self, b, c) }
                }

                #[inline(always)]
                unsafe fn total(self) -> f32 {
                    // SAFETY: as in `zero`.
                    unsafe { $total(self) }
                }
            }
        };
    }

    register!(
        __m512,
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_sub_ps,
        _mm512_fmadd_ps,
        _mm512_reduce_add_ps
    );
    register!(
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_sub_ps,
        _mm256_fmadd_ps,
        total_256
    );

    #[target_feature(enable = "avx2")]
    fn total_256(lanes: __m256) -> f32 {
        let four = _mm_add_ps(
            _mm256_castps256_ps128(lanes),
            _mm256_extractf128_ps::<1>(lanes),
        );
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// Any processor: the compiler makes of four floats what it has.
impl Register for [f32; 4] {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has four values there, and an array is aligned as its values are.
        unsafe { from.cast::<Self>().read() }
    }

    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        array::from_fn(|i| self[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        array::from_fn(|i| {
            compute::mul_add::<{ cfg!(target_arch = "aarch64") }>(self[i], b[i], c[i])
        })
    }

    #[inline(always)]
    unsafe fn total(self) -> f32 {
        (self[0] + self[2]) + (self[1] + self[3])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_score() {
        for width in [1, 8, 31, 384] {
            let row: Vec<f32> = (0..width).map(|i| (i as f32 * 0.7).sin() * 1e3).collect();
            let query: Vec<f32> = (0..width).map(|i| (i as f32 * 1.3).cos()).collect();
            let scores = |simd| {
                [
                    inner_product_f64(simd, &row, &query),
                    squared_distance_f64(simd, &row, &query),
                ]
                .map(f64::to_bits)
            };
            for simd in Simd::available() {
                assert_eq!(
                    scores(simd),
                    scores(Simd::available()[0]),
                    "{simd:?}, width {width}"
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
                for simd in Simd::available() {
                    let mut scores = vec![f32::NAN; n_rows * n_queries];
                    first_pass(simd, metric, &rows, &queries, &mut scores);
                    assert_eq!(
                        scores, expected,
                        "{simd:?}, {metric:?}, {n_rows} x {n_queries} x {width}"
                    );
                }
            }
        }
    }
}
