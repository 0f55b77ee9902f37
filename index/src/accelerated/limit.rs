//! What a scan may rule out, as the kernels are told.

use crate::Metric;
use crate::scan::gamma;

/// How a score to reach becomes the limit of what a scan computes: `search.cu` evaluates it in `f64` and rounds down.
///
/// What a scan computes for a row is `(s + shift) · factor`, but for an error; `s` is the row's score. A row may be skipped when that is
/// below `(T − relative·|T| − absolute + shift) · factor`, less `slack` of itself, for a score `T` to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct LimitRule {
    pub relative: f64,
    pub absolute: f64,
    pub shift: f64,
    pub factor: f64,
    pub slack: f64,
}

/// For the roundings of the rule itself, some in `f64`.
const SLACK: f64 = 1.0 / (1_u64 << 48) as f64;

/// What brings the square of a bound that is 2⁻²⁰ too high to below the true one.
const LOWERED: f64 = 1.0 - 1.0 / (1 << 18) as f64;

impl LimitRule {
    /// For scores summed in `f32`: `depth` is how many roundings a term goes through, and `norms` a bound on `|x||q|`. The proof is that
    /// of `scan::rows`, for another order of the sum.
    pub fn of_sums(metric: Metric, width: usize, depth: usize, norms: f64) -> Self {
        let underflow = (width as f64 + 2.0) * f64::from(f32::from_bits(1));
        let depth = depth as f64;
        let (relative, absolute) = match metric {
            Metric::InnerProduct | Metric::Cosine => (0.0, gamma(depth + 4.0) * norms),
            Metric::L2 => (gamma(depth + 6.0), 0.0),
        };
        Self {
            relative,
            absolute: absolute + underflow,
            shift: 0.0,
            factor: 1.0,
            slack: SLACK,
        }
    }

    /// For products by matrix units of rows with a query that was multiplied by `scale`, a power of two, and rounded.
    ///
    /// With `q̂` the rounded query, `|⟨x, q̂⟩ − scale·⟨x, q⟩| ≤ |x||q̂ − scale·q|`, and `lost` bounds the last factor. Matrix units sum in
    /// an order and with a rounding of their own: Fasi et al. 2021 (PeerJ Computer Science 7:e330) find truncation to no less than the
    /// 24 bits of `f32`, of sums of a few products at once; twice that for every term is `γ` of four times the width. Under L2 the
    /// scan subtracts `scale·|x|²/2`, which is rounded to `f32`, as is the difference.
    pub fn of_products(metric: Metric, width: usize, query: &RoundedQuery, row_norm: f64) -> Self {
        let RoundedQuery { scale, norm, lost } = *query;
        let sums = gamma(4.0 * width as f64 + 8.0) * row_norm * (scale * norm + lost);
        let products = row_norm * lost + sums + width as f64 * f64::from(f32::MIN_POSITIVE);
        // The score is rounded to f32, where it is tiny by so much.
        let relative = 2.0 * f64::from(f32::EPSILON);
        let underflow = f64::from(f32::from_bits(1));
        match metric {
            Metric::InnerProduct | Metric::Cosine => Self {
                relative,
                absolute: products / scale + underflow,
                shift: 0.0,
                factor: scale,
                slack: SLACK,
            },
            Metric::L2 => {
                let sizes = row_norm * row_norm + row_norm * norm;
                let squares = scale * (2.0 * f64::from(f32::EPSILON) * sizes + underflow);
                Self {
                    relative,
                    absolute: 2.0 * (products + squares) / scale + underflow,
                    shift: norm * norm * LOWERED,
                    factor: 0.5 * scale,
                    slack: SLACK,
                }
            }
        }
    }
}

/// A query as matrix units take it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RoundedQuery {
    /// What it was multiplied by.
    pub scale: f64,
    /// A bound on its length before that, at most 2⁻²⁰ above it.
    pub norm: f64,
    /// A bound on the length of what rounding changed, after the multiplication.
    pub lost: f64,
}
