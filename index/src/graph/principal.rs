//! The directions that codes are taken along.

use nalgebra::DMatrix;

use super::codes::{HEADER, LINE};
pub(super) use crate::components::MAX_WIDTH;
use crate::components::{components, mean, random_rotation, sample};
use crate::rows::Rows;

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

impl Directions {
    /// Learns from some of the rows; there is at least one. The same rows give the same directions.
    ///
    /// There are as many as fill the cache lines of a record. `None` when the components cannot be found.
    pub fn learn(rows: Rows<'_>) -> Option<Self> {
        let sample = sample(rows);
        let center = mean(&sample, rows.width);
        // One row a column, scaled so that no product overflows.
        let values = sample.iter().flat_map(|row| &**row);
        let largest = values.fold(f32::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
        let columns = DMatrix::from_fn(rows.width, sample.len(), |i, j| {
            (f64::from(sample[j][i]) - center[i]) / f64::from(largest)
        });
        let (components, mut variances) = components(&columns)?;
        variances
            .iter_mut()
            .for_each(|variance| *variance = variance.max(0.0));

        let n_directions = choose(&variances);
        let components = components.columns(0, n_directions);
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
