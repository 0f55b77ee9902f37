//! The directions in which rows differ most.

use nalgebra::{DMatrix, SymmetricEigen};

use compute::Simd;

use crate::Metric;
use crate::kernel::inner_product_f64;

/// Widest row that is projected: the eigenvectors of a wider one take too long to find.
pub(crate) const MAX_PROJECTED_WIDTH: usize = 2048;

/// Rows that the directions are learned from, spread evenly over all.
const SAMPLE_ROWS: usize = 8192;
/// Rows of the sample that play the query when the number of directions is chosen.
const SAMPLE_QUERIES: usize = 64;
/// Directions are added in such steps.
const DIRECTIONS_STEP: usize = 32;
/// What reading a row costs that a sketch did not rule out, in bytes of a sketch: a row is far away in memory.
const ROW_COST: f64 = 2048.0;

/// A map of vectors to their coordinates along a few orthonormal directions, about a center.
///
/// The directions span the leading principal components, turned at random within their span, so that each
/// coordinate takes an equal share of a vector's length and 8 bits go as far as they can.
#[derive(Debug, PartialEq)]
pub(crate) struct Projection {
    /// What is subtracted first: the mean under L2, which does not change distances; zero for inner products.
    pub center: Vec<f32>,
    /// The directions, row-major, each as wide as a row.
    pub directions: Vec<f32>,
    /// No more than so much of `|x||q|` is lost by the directions not being quite orthonormal, and by rounding.
    pub slack: f64,
}

impl Projection {
    /// Learns from rows of one width, `row(0)` to `row(n_rows - 1)`. The same rows give the same projection.
    ///
    /// `None` when the width is beyond [`MAX_PROJECTED_WIDTH`] or the components cannot be found.
    pub fn learn<'a>(
        row: impl Fn(usize) -> &'a [f32],
        n_rows: usize,
        metric: Metric,
    ) -> Option<Self> {
        let width = row(0).len();
        if width > MAX_PROJECTED_WIDTH {
            return None;
        }
        let n_sample = n_rows.min(SAMPLE_ROWS);
        let sample = |i: usize| row(i * n_rows / n_sample);
        let center = match metric {
            Metric::L2 => mean((0..n_sample).map(sample), width),
            Metric::InnerProduct | Metric::Cosine => vec![0.0; width],
        };
        // One row a column. The length of a row must not decide where the directions of all lie.
        let mut columns = DMatrix::<f64>::zeros(width, n_sample);
        for (i, mut column) in columns.column_iter_mut().enumerate() {
            for (to, (&x, &c)) in column.iter_mut().zip(sample(i).iter().zip(&center)) {
                *to = f64::from(x) - f64::from(c);
            }
            let norm = column.norm();
            if norm > 0.0 {
                column /= norm;
            }
        }
        let moments = &columns * columns.transpose();
        let eigen = SymmetricEigen::try_new(moments, f64::EPSILON, 0)?;
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        let components = eigen.eigenvectors.select_columns(&order);

        let n_directions = choose(&(components.transpose() * &columns), n_rows, metric);
        let turn = random_rotation(n_directions);
        let directions = turn * components.columns(0, n_directions).transpose();
        let directions = directions.map(|value| value as f32);
        let exact = directions.map(f64::from);
        let defect =
            (&exact * exact.transpose() - DMatrix::identity(n_directions, n_directions)).norm();
        Some(Self {
            center,
            directions: directions.transpose().as_slice().to_vec(), // nalgebra stores columns
            slack: slack(defect),
        })
    }

    /// Number of directions.
    pub fn n_directions(&self) -> usize {
        self.directions.len() / self.center.len()
    }

    /// Writes a vector less the center, and its coordinates; returns the square of its length, less the center.
    pub fn project(
        &self,
        simd: Simd,
        vector: &[f32],
        centered: &mut Vec<f32>,
        coordinates: &mut Vec<f64>,
    ) -> f64 {
        centered.clear();
        centered.extend(vector.iter().zip(&self.center).map(|(x, c)| x - c));
        let directions = self.directions.chunks_exact(vector.len());
        coordinates.clear();
        coordinates
            .extend(directions.map(|direction| inner_product_f64(simd, direction, centered)));
        inner_product_f64(simd, centered, centered)
    }

    /// A bound on the length of what the coordinates leave of a vector of this squared length.
    pub fn rest(&self, squared_norm: f64, coordinates: &[f64]) -> f64 {
        let kept: f64 = coordinates.iter().map(|y| y * y).sum::<f64>().sqrt();
        let kept = (kept - self.slack * squared_norm.sqrt()).max(0.0);
        let rest = squared_norm - kept * kept + squared_norm * ROUNDING;
        rest.max(0.0).sqrt() * (1.0 + ROUNDING)
    }
}

/// Far above the relative error of any sum here in `f64`, of at most [`MAX_PROJECTED_WIDTH`] terms.
pub(crate) const ROUNDING: f64 = 1.0 / (1_u64 << 36) as f64;

/// The bound for directions `H` with `‖HHᵀ − I‖ ≤ defect`: the nearest orthonormal `U` has `‖H − U‖ ≤ defect`, so
/// `|⟨Hx, Hq⟩ − ⟨Ux, Uq⟩| ≤ (2 defect + defect²)|x||q|`. To that come the roundings of `x − center` to `f32`.
fn slack(defect: f64) -> f64 {
    let u = f64::from(f32::EPSILON) / 2.0;
    (2.0 + defect) * defect + 4.0 * u + ROUNDING
}

fn mean<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, width: usize) -> Vec<f32> {
    let n = rows.len() as f64;
    let mut sums = vec![0.0; width];
    for row in rows {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += f64::from(x) / n;
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// The number of leading components for which reading the sketches and the rows they do not rule out costs least.
///
/// `coordinates` has a unit vector in each column. Some are taken as queries; how many of the others have to be read
/// is counted for the score that the tenth best of all `n_rows` may have: that of the best in the sample, or of one
/// further down where the sample is nearly everything.
fn choose(coordinates: &DMatrix<f64>, n_rows: usize, metric: Metric) -> usize {
    let (width, n_sample) = coordinates.shape();
    let n_queries = SAMPLE_QUERIES.min(n_sample / 2);
    let rank = (10 * n_sample / n_rows).clamp(1, n_sample - n_queries) - 1;
    let steps: Vec<usize> = (1..)
        .map(|step| step * DIRECTIONS_STEP)
        .take_while(|&directions| directions < width)
        .chain([width])
        .collect();
    let rest = |i: usize, directions: usize| coordinates.column(i).rows_range(directions..).norm();
    let rests: Vec<Vec<f64>> = steps
        .iter()
        .map(|&directions| (0..n_sample).map(|i| rest(i, directions)).collect())
        .collect();
    // On unit vectors every metric asks for the inner product; L2 of rows of other lengths is not looked at.
    let _ = metric;
    let mut n_read = vec![0_usize; steps.len()];
    let mut partial = vec![0.0; steps.len()];
    let mut bounds = vec![Vec::new(); steps.len()];
    for query in 0..n_queries {
        let q = coordinates.column(query);
        let mut scores = Vec::with_capacity(n_sample);
        bounds.iter_mut().for_each(Vec::clear);
        for i in n_queries..n_sample {
            let x = coordinates.column(i);
            let mut sum = 0.0;
            let mut from = 0;
            for (step, &to) in steps.iter().enumerate() {
                sum += q.rows_range(from..to).dot(&x.rows_range(from..to));
                partial[step] = sum;
                from = to;
            }
            scores.push(sum);
            for step in 0..steps.len() {
                bounds[step].push(partial[step] + rests[step][query] * rests[step][i]);
            }
        }
        scores.sort_by(|a, b| b.total_cmp(a));
        let threshold = scores[rank] - QUANTIZATION;
        for (n, bounds) in n_read.iter_mut().zip(&bounds) {
            *n += bounds.iter().filter(|&&bound| bound >= threshold).count();
        }
    }
    let n_pairs = (n_queries * (n_sample - n_queries)) as f64;
    let cost = |step: usize| steps[step] as f64 + ROW_COST * n_read[step] as f64 / n_pairs;
    let best = (0..steps.len()).min_by(|&a, &b| cost(a).total_cmp(&cost(b)));
    steps[best.expect("there is a step")]
}

/// What 8 bits a coordinate add to the bound, of unit vectors; measured on rows and queries of encoders.
const QUANTIZATION: f64 = 0.016;

/// A random rotation: the orthogonal factor of a matrix of normal numbers, from a fixed seed.
fn random_rotation(n: usize) -> DMatrix<f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let normal = || {
        // Box and Muller
        let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * uniform()).cos()
    };
    let mut normal = normal;
    DMatrix::from_fn(n, n, |_, _| normal()).qr().q()
}
