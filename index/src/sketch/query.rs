//! The other side of the bound: what of a query meets the sketches.

use compute::Simd;

use super::projection::ROUNDING;
use super::{Bounds, Sketches};
use crate::Metric;

/// Where `g` is beyond this the bound rules nothing out, and the sum of integers could overflow.
const MAX_GAP: f64 = 1e9;

/// A query as the sketches of one shard meet it; see [`super`] for the names.
#[derive(Clone, Debug)]
pub(crate) struct QuerySketch {
    /// `ĉ`, padded with zeros to groups of four.
    pub codes: Vec<i8>,
    /// What the sum of products with `c + 128` starts from: `g − 128 Σĉ`, wrapping.
    pub start: i32,
    /// `b`
    pub rest: f32,
    /// `1/σ`, rounded down: what `|x|²/2` is multiplied by.
    pub inverse: f32,
    /// `σ`
    scale: f64,
    /// `|q|²`, lowered; 0 unless the metric is L2.
    squared_norm: f64,
    metric: Metric,
}

impl QuerySketch {
    pub fn new(simd: Simd, sketches: &Sketches, metric: Metric, query: &[f32]) -> Self {
        let Sketches {
            projection,
            bounds,
            layout,
            ..
        } = sketches;
        let Bounds {
            code_norm,
            code_error,
        } = *bounds;
        let (mut centered, mut p) = (Vec::new(), Vec::new());
        let squared_norm = projection.project(simd, query, &mut centered, &mut p);
        let norm = squared_norm.sqrt();
        let largest = p.iter().fold(0.0_f64, |largest, p| largest.max(p.abs()));
        let scale = if largest > f64::MIN_POSITIVE * 1e9 {
            largest / 127.0
        } else {
            1.0
        };
        let mut codes: Vec<i8> = p.iter().map(|p| (p / scale).round() as i8).collect();
        let error: f64 = p
            .iter()
            .zip(&codes)
            .map(|(p, &c)| (p - f64::from(c) * scale).powi(2))
            .sum();
        let length: f64 = codes.iter().map(|&c| f64::from(c).powi(2)).sum();
        let kept: f64 = p.iter().map(|p| p * p).sum();
        codes.resize(layout.n_groups() * 4, 0);

        let lost = projection.slack * norm;
        let roundings = 4.0 * f64::from(f32::EPSILON) / 2.0;
        let gap =
            (code_norm * error.sqrt() + code_error * kept.sqrt() + lost * (code_norm + code_error))
                / scale;
        let gap = (gap + roundings * (code_norm * length.sqrt() + gap)) * (1.0 + ROUNDING) + 1.0;
        let rest = (projection.rest(squared_norm, &p) + lost) / scale * (1.0 + roundings);
        let (gap, rest) = if gap < MAX_GAP {
            (gap.ceil() as i32, up(rest))
        } else {
            (0, f32::INFINITY)
        };
        let sum: i32 = codes.iter().map(|&c| i32::from(c)).sum();
        Self {
            codes,
            start: gap.wrapping_sub(128 * sum),
            rest,
            inverse: down(1.0 / scale),
            scale,
            squared_norm: if metric == Metric::L2 {
                squared_norm * LOWERED
            } else {
                0.0
            },
            metric,
        }
    }

    /// The bound that a row must reach to have this score.
    pub fn limit(&self, score: Option<f32>) -> f32 {
        let Some(score) = score else {
            return f32::NEG_INFINITY;
        };
        let score = f64::from(score.min(f32::MAX));
        let score = score - score.abs() * f64::from(f32::EPSILON) - 1e-44;
        let product = match self.metric {
            Metric::InnerProduct | Metric::Cosine => score,
            Metric::L2 => (score + self.squared_norm) / 2.0,
        };
        let limit = product / self.scale;
        down(limit - 1e-44 - limit.abs() * ROUNDING).min(f32::MAX)
    }

    /// The score that a bound stands for: no row with the bound has a higher one.
    pub fn score(&self, bound: f32) -> f32 {
        let product = f64::from(bound) * self.scale;
        let score = match self.metric {
            Metric::InnerProduct | Metric::Cosine => product,
            Metric::L2 => 2.0 * product - self.squared_norm,
        };
        if score.is_nan() {
            return f32::INFINITY; // nothing is proven
        }
        up(score * (1.0 - ROUNDING.copysign(score)) + 1e-44)
    }
}

/// What `|x|²` is multiplied by before it is stored or subtracted: see L2 in [`super`].
pub(super) const LOWERED: f64 = 1.0 - 1.0 / (1 << 20) as f64;

/// The `f32` not below a number; NaN and infinity stay.
pub(super) fn up(value: f64) -> f32 {
    (value as f32).next_up()
}

/// The `f32` not above a number.
pub(super) fn down(value: f64) -> f32 {
    (value as f32).next_down()
}
