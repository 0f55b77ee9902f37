//! The other side of the bound: what of a query meets the sketches.

use compute::{Simd, simd_function};

use super::projection::{Projected, ROUNDING};
use super::{Bounds, Sketches};
use crate::Metric;
use crate::accelerated::LimitRule;
use crate::metric::norm;

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
    /// The same for the tail.
    pub tail: QueryTail,
    /// `σ`
    scale: f64,
    /// `|q|²`, lowered; 0 unless the metric is L2.
    squared_norm: f64,
    metric: Metric,
}

/// A query as the tails meet it.
#[derive(Clone, Debug)]
pub(crate) struct QueryTail {
    pub codes: Vec<i8>,
    /// `−128 Σĉ`
    pub start: i32,
    /// `σ′/σ`
    ratio: f64,
    /// `g′`, infinite where it says nothing.
    gap: f64,
}

impl QuerySketch {
    pub fn new(simd: Simd, sketches: &Sketches, metric: Metric, query: Projected<'_>) -> Self {
        let Sketches {
            projection,
            head,
            tail,
            layout,
            ..
        } = sketches;
        let squared_norm = query.squared_norm;
        let lost = projection.slack * squared_norm.sqrt();
        let gap = |bounds: &Bounds, codes: &Codes, p: &[f32]| {
            let gap = bounds.code_norm * codes.error
                + bounds.code_error * norm(p)
                + lost * (bounds.code_norm + bounds.code_error);
            gap / codes.scale * (1.0 + ROUNDING)
        };
        let roundings = 4.0 * f64::from(f32::EPSILON) / 2.0;
        let p = Codes::of(simd, query.head, layout.n_groups() * 4);
        let t = Codes::of(simd, query.tail, query.tail.len());
        let head_gap = gap(head, &p, query.head);
        let head_gap = head_gap + roundings * (head.code_norm * p.norm + head_gap) + 1.0;
        let rest = (projection.rest(query) + lost) / p.scale * (1.0 + roundings);
        let proves = query.is_sound() && head_gap < MAX_GAP;
        let (start, rest) = if proves {
            (head_gap.ceil() as i32, up(rest))
        } else {
            (0, f32::INFINITY)
        };
        Self {
            start: start.wrapping_sub(128 * p.sum()),
            rest,
            inverse: down(1.0 / p.scale),
            tail: QueryTail {
                start: -128 * t.sum(),
                ratio: t.scale / p.scale,
                gap: if proves {
                    gap(tail, &t, query.tail)
                } else {
                    f64::INFINITY
                },
                codes: t.values,
            },
            codes: p.values,
            scale: p.scale,
            squared_norm: if metric == Metric::L2 {
                squared_norm * LOWERED
            } else {
                0.0
            },
            metric,
        }
    }

    /// For tests of kernels: a head of its own, and 1 for all other numbers.
    #[cfg(test)]
    pub fn of_codes(codes: Vec<i8>, start: i32) -> Self {
        Self {
            codes,
            start,
            rest: 1.0,
            inverse: 1.0,
            tail: QueryTail {
                codes: Vec::new(),
                start: 0,
                ratio: 1.0,
                gap: 0.0,
            },
            scale: 1.0,
            squared_norm: 0.0,
            metric: Metric::InnerProduct,
        }
    }

    /// The bound of a row once its tail was read: `product` is what its head says, without the rest, and `sum` starts from
    /// [`QueryTail::start`].
    pub fn refine(&self, product: f32, step: f32, sum: i32) -> f32 {
        let QueryTail { ratio, gap, .. } = self.tail;
        let tail = f64::from(step) * ratio * (f64::from(sum) + gap);
        let bound = f64::from(product) + tail;
        if bound.is_nan() {
            f32::INFINITY
        } else {
            up(bound + ROUNDING * tail.abs())
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

    /// [`Self::limit`] for a device; what is not a score is for the device to treat likewise.
    pub fn limit_rule(&self) -> LimitRule {
        let (shift, factor) = match self.metric {
            Metric::InnerProduct | Metric::Cosine => (0.0, 1.0),
            Metric::L2 => (self.squared_norm, 0.5),
        };
        LimitRule {
            relative: f64::from(f32::EPSILON),
            absolute: 1e-44,
            shift,
            factor: factor / self.scale,
            slack: 2.0 * ROUNDING, // the factor is rounded, too
        }
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
        up(score * (1.0 + ROUNDING.copysign(score)) + 1e-44)
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

/// Coordinates of a query in 8 bits.
struct Codes {
    values: Vec<i8>,
    /// `σ`
    scale: f64,
    /// `|p − p̂|`
    error: f64,
    /// `|ĉ|`
    norm: f64,
}

impl Codes {
    /// The codes are padded with zeros to a length.
    fn of(simd: Simd, coordinates: &[f32], n_padded: usize) -> Self {
        let mut values = vec![0; n_padded];
        let (scale, error, norm) = encode(simd, coordinates, &mut values);
        Self {
            values,
            scale,
            error,
            norm,
        }
    }

    fn sum(&self) -> i32 {
        self.values.iter().map(|&code| i32::from(code)).sum()
    }
}

simd_function! {
    /// Writes the codes of coordinates; returns the scale, the length of what the codes lose, and that of the codes.
    fn encode(coordinates: &[f32], codes: &mut [i8]) -> (f64, f64, f64) {
        let largest = coordinates.iter().fold(0.0_f32, |largest, p| largest.max(p.abs()));
        let scale = if largest > 0.0 { f64::from(largest) / 127.0 } else { 1.0 };
        let (mut error, mut norm) = (0.0, 0.0);
        for (to, &p) in codes.iter_mut().zip(coordinates) {
            let code = (f64::from(p) / scale).round_ties_even();
            *to = code as i8;
            error += (f64::from(p) - code * scale).powi(2);
            norm += code * code;
        }
        (scale, error.sqrt(), norm.sqrt())
    }
}
