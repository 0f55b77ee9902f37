//! The directions in which rows differ most.

use nalgebra::DMatrix;

use compute::Simd;

use crate::Metric;
use crate::components::{MAX_WIDTH, components, mean, random_rotation, sample};
use crate::kernel::{first_pass, inner_product_f64};
use crate::metric::norm;
use crate::rows::Rows;

/// Rows of the sample that play the query when the number of directions is chosen.
const SAMPLE_QUERIES: usize = 64;
/// Directions are added in such steps.
const DIRECTIONS_STEP: usize = 32;
/// What a row costs whose head does not rule it out, in coordinates of a head. In a large batch it is three times as much, for a single
/// query a fifth: heads are then as near as the processor or as far as the memory.
const ROW_COST: f64 = 4096.0;

/// A map of vectors to their coordinates in an orthonormal basis, about a center.
///
/// The first directions, the *head*, span the leading principal components, the others, the *tail*, what those leave.
/// Within either span they are turned at random, so that each coordinate takes an equal share of a vector's length and 8
/// bits go as far as they can.
#[derive(Debug, PartialEq)]
pub(crate) struct Projection {
    /// What is subtracted first: the mean under L2, which does not change distances; zero for inner products.
    pub center: Vec<f32>,
    /// The directions, row-major, each as wide as a row, and as many.
    pub directions: Vec<f32>,
    pub n_head: usize,
    /// No more than so much of `|x||q|` is lost by the directions not being quite orthonormal, and by rounding.
    pub slack: f64,
}

/// A vector in the basis of a [`Projection`].
#[derive(Clone, Copy)]
pub(crate) struct Projected<'a> {
    pub head: &'a [f32],
    pub tail: &'a [f32],
    /// The square of the vector's length.
    pub squared_norm: f64,
}

impl Projected<'_> {
    /// Whether the coordinates are as near to the true ones as [`Projection::slack`] says: nothing overflowed, and nothing
    /// vanished that counts.
    pub fn is_sound(self) -> bool {
        let is_finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        let has_length = self.squared_norm == 0.0 || self.squared_norm > 1e-56;
        has_length && self.squared_norm.is_finite() && is_finite(self.head) && is_finite(self.tail)
    }
}

/// Vectors in the basis of a [`Projection`]; kept to save allocations.
#[derive(Default)]
pub(crate) struct Coordinates {
    centered: Vec<f32>,
    values: Vec<f32>,
}

impl Projection {
    /// Learns from some of the rows. The same rows give the same projection.
    ///
    /// `None` when the width is beyond [`MAX_WIDTH`] or the components cannot be found.
    pub fn learn(rows: Rows<'_>, metric: Metric) -> Option<Self> {
        let width = rows.width;
        if width > MAX_WIDTH {
            return None;
        }
        let sample = sample(rows);
        let center: Vec<f32> = match metric {
            Metric::L2 => mean(&sample, width).iter().map(|&x| x as f32).collect(),
            Metric::InnerProduct | Metric::Cosine => vec![0.0; width],
        };
        // One row a column. The length of a row must not decide where the directions of all lie.
        let mut columns = DMatrix::<f64>::zeros(width, sample.len());
        for (mut column, row) in columns.column_iter_mut().zip(&sample) {
            for (to, (&x, &c)) in column.iter_mut().zip(row.iter().zip(&center)) {
                *to = f64::from(x) - f64::from(c);
            }
            let norm = column.norm();
            if norm > 0.0 {
                column /= norm;
            }
        }
        let (components, _) = components(&columns)?;

        let n_head = choose(&(components.transpose() * &columns), rows.len());
        let mut basis = DMatrix::zeros(width, width); // a direction a column
        for (from, n) in [(0, n_head), (n_head, width - n_head)] {
            if n == 0 {
                continue;
            }
            let turned = components.columns(from, n) * random_rotation(n);
            basis.columns_mut(from, n).copy_from(&turned);
        }
        let basis = basis.map(|value| value as f32);
        let exact = basis.map(f64::from);
        let defect = (exact.transpose() * &exact - DMatrix::identity(width, width)).norm();
        let slack = slack(width, defect);
        slack.is_finite().then(|| Self {
            center,
            directions: basis.as_slice().to_vec(), // nalgebra stores columns
            n_head,
            slack,
        })
    }

    /// The coordinates of vectors, row-major.
    pub fn project<'a>(
        &'a self,
        simd: Simd,
        vectors: &[f32],
        coordinates: &'a mut Coordinates,
    ) -> impl ExactSizeIterator<Item = Projected<'a>> {
        let width = self.center.len();
        let Coordinates { centered, values } = coordinates;
        centered.clear();
        let center = self.center.iter().cycle();
        centered.extend(vectors.iter().zip(center).map(|(x, c)| x - c));
        let directions: Vec<&[f32]> = self.directions.chunks_exact(width).collect();
        values.resize(vectors.len(), 0.0);
        first_pass(simd, Metric::InnerProduct, &directions, centered, values);
        let vectors = values.chunks_exact(width).zip(centered.chunks_exact(width));
        vectors.map(move |(values, centered)| {
            let (head, tail) = values.split_at(self.n_head);
            let squared_norm = inner_product_f64(simd, centered, centered);
            Projected {
                head,
                tail,
                squared_norm,
            }
        })
    }

    /// A bound on the length of what the head leaves of a vector.
    pub fn rest(&self, vector: Projected<'_>) -> f64 {
        let squared_norm = vector.squared_norm;
        let kept = norm(vector.head);
        let kept = (kept - self.slack * squared_norm.sqrt()).max(0.0);
        let rest = squared_norm - kept * kept + squared_norm * ROUNDING;
        rest.max(0.0).sqrt() * (1.0 + ROUNDING)
    }
}

/// Far above the relative error of any sum here in `f64`, of at most [`MAX_WIDTH`] terms.
pub(crate) const ROUNDING: f64 = 1.0 / (1_u64 << 36) as f64;

/// The bound for directions `H` with `‖HHᵀ − I‖ ≤ defect`: the nearest orthonormal `U` has `‖H − U‖ ≤ defect`, so
/// `|⟨Hx, Hq⟩ − ⟨Ux, Uq⟩| ≤ (2 defect + defect²)|x||q|`. Each coordinate goes through at most `width/4 + 4` roundings to
/// `f32` ([`first_pass`]), which moves a vector of them by at most `√width (width/4 + 4) u` of its length, and
/// `x − center` is rounded as well.
fn slack(width: usize, defect: f64) -> f64 {
    let u = f64::from(f32::EPSILON) / 2.0;
    let width = width as f64;
    let rounding = width.sqrt() * (width / 4.0 + 5.0) * u;
    let one = (defect + rounding) * (1.0 + ROUNDING) + u;
    (2.0 + one) * one + ROUNDING
}

/// The number of leading components for which the heads and the rows they do not rule out cost least.
///
/// `coordinates` has a unit vector in each column. Some are taken as queries; how many of the others have to be read
/// is counted for the score that the hundredth best of all `n_rows` may have: that of the best in the sample, or of one
/// further down where the sample is nearly everything.
///
/// On unit vectors every metric asks for the inner product; L2 of rows of other lengths is not looked at.
fn choose(coordinates: &DMatrix<f64>, n_rows: usize) -> usize {
    let (width, n_sample) = coordinates.shape();
    let n_queries = SAMPLE_QUERIES.min(n_sample / 2);
    let rank = (100 * n_sample / n_rows).clamp(1, n_sample - n_queries) - 1;
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
