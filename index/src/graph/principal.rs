//! The directions that codes are taken along.

use nalgebra::{DMatrix, SymmetricEigen};

use super::codes::{HEADER, LINE};
use crate::rows::Rows;
use crate::sketch::{MAX_PROJECTED_WIDTH, random_rotation};

/// Rows that the directions are learned from, spread evenly over all.
const SAMPLE_ROWS: usize = 8192;
/// The directions keep at least so much of the rows' variance. Below that, near neighbors that the rest would tell
/// apart tie; measured on embeddings of sentences and on a synthetic mixture.
const KEPT: f64 = 0.95;

/// Orthonormal directions about a center: the leading principal components, turned at random within their span, so
/// that each coordinate takes an equal share of a vector's length and 8 bits go as far as they can.
#[derive(Debug, PartialEq)]
pub(super) struct Directions {
    pub center: Vec<f32>,
    /// Row-major, each direction as wide as a row.
    pub basis: Vec<f32>,
}

/// Widest row that a graph is built over: the eigenvectors of a wider one take too long to find.
pub(super) const MAX_WIDTH: usize = MAX_PROJECTED_WIDTH;

impl Directions {
    /// Learns from some of the rows; there is at least one. The same rows give the same directions.
    ///
    /// There are as many as fill the cache lines of a record. `None` when the components cannot be found.
    pub fn learn(rows: Rows<'_>) -> Option<Self> {
        let (width, n_rows) = (rows.width, rows.len());
        let n_sample = n_rows.min(SAMPLE_ROWS);
        let sample: Vec<_> = (0..n_sample)
            .map(|i| rows.row(i * n_rows / n_sample))
            .collect();
        let mut center = vec![0.0_f64; width];
        for row in &sample {
            for (sum, &x) in center.iter_mut().zip(&**row) {
                *sum += f64::from(x) / n_sample as f64;
            }
        }
        // One row a column, scaled so that no product overflows.
        let values = sample.iter().flat_map(|row| &**row);
        let largest = values.fold(f32::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
        let columns = DMatrix::from_fn(width, n_sample, |i, j| {
            (f64::from(sample[j][i]) - center[i]) / f64::from(largest)
        });
        let eigen = SymmetricEigen::try_new(&columns * columns.transpose(), f64::EPSILON, 0)?;
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        let variances: Vec<f64> = order
            .iter()
            .map(|&i| eigen.eigenvalues[i].max(0.0))
            .collect();

        let n_directions = choose(&variances);
        let components = eigen.eigenvectors.select_columns(&order[..n_directions]);
        let basis = components * random_rotation(n_directions); // (width, n): nalgebra stores columns
        Some(Self {
            center: center.into_iter().map(|sum| sum as f32).collect(),
            basis: basis.iter().map(|&value| value as f32).collect(),
        })
    }

    /// The axes, about zero.
    pub fn axes(width: usize) -> Self {
        let mut basis = vec![0.0; width * width];
        basis
            .iter_mut()
            .step_by(width + 1)
            .for_each(|value| *value = 1.0);
        Self {
            center: vec![0.0; width],
            basis,
        }
    }

    pub fn len(&self) -> usize {
        self.basis.len() / self.center.len()
    }
}

/// As many directions as fill the fewest lines that keep enough.
fn choose(variances: &[f64]) -> usize {
    let total: f64 = variances.iter().sum();
    (1..)
        .map(|n_lines| (n_lines * LINE - HEADER).min(variances.len()))
        .find(|&n| n == variances.len() || variances[..n].iter().sum::<f64>() >= KEPT * total)
        .expect("all directions keep everything")
}

/// Lines of a record.
pub(super) fn lines_of(n_directions: usize) -> usize {
    (HEADER + n_directions).div_ceil(LINE)
}
