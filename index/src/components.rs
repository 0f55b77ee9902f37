//! Principal components of a shard's rows, and random rotations.

use std::borrow::Cow;

use nalgebra::{DMatrix, SymmetricEigen};

use crate::rows::Rows;

/// Widest row whose components are looked for: those of a wider one take too long to find.
pub(crate) const MAX_WIDTH: usize = 2048;

/// Rows that components are learned from.
const SAMPLE_ROWS: usize = 8192;

/// Some of the rows, spread evenly over all.
pub(crate) fn sample(rows: Rows<'_>) -> Vec<Cow<'_, [f32]>> {
    let n_rows = rows.len();
    let n_sample = n_rows.min(SAMPLE_ROWS);
    (0..n_sample)
        .map(|i| rows.row(i * n_rows / n_sample))
        .collect()
}

/// The mean of rows of one width.
pub(crate) fn mean(rows: &[Cow<'_, [f32]>], width: usize) -> Vec<f64> {
    let mut sums = vec![0.0; width];
    for row in rows {
        for (sum, &x) in sums.iter_mut().zip(&**row) {
            *sum += f64::from(x) / rows.len() as f64;
        }
    }
    sums
}

/// The eigenvectors of `XXᵀ`, a column each, with the largest eigenvalues first, and the eigenvalues; X has a row in each
/// column. `None` when they cannot be found.
pub(crate) fn components(columns: &DMatrix<f64>) -> Option<(DMatrix<f64>, Vec<f64>)> {
    let eigen = SymmetricEigen::try_new(columns * columns.transpose(), f64::EPSILON, 0)?;
    let mut order: Vec<usize> = (0..columns.nrows()).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let values = order.iter().map(|&i| eigen.eigenvalues[i]).collect();
    Some((eigen.eigenvectors.select_columns(&order), values))
}

/// A random rotation: the orthogonal factor of a matrix of normal numbers, from a fixed seed.
pub(crate) fn random_rotation(n: usize) -> DMatrix<f64> {
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
