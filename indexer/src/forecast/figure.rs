use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::Serialize;

/// A number that is expected, and between which two it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// What is expected.
    pub expected: u64,
    /// At least.
    pub low: u64,
    /// At most.
    pub high: u64,
}

impl Figure {
    /// A number that is known.
    pub fn exactly(value: u64) -> Self {
        Self::between(value as f64, value as f64, value as f64)
    }

    /// A number that may be off by a part of itself.
    pub(super) fn about(expected: f64, margin: f64) -> Self {
        Self::between(
            expected,
            expected * (1.0 - margin).max(0.0),
            expected * (1.0 + margin),
        )
    }

    pub(super) fn between(expected: f64, low: f64, high: f64) -> Self {
        let whole = |x: f64| x.max(0.0).round() as u64;
        Self {
            expected: whole(expected),
            low: whole(low),
            high: whole(high),
        }
    }

    pub(super) fn times(self, factor: f64) -> Self {
        let [expected, low, high] = [self.expected, self.low, self.high].map(|n| n as f64 * factor);
        Self::between(expected, low, high)
    }

    /// The same, with a margin of at least a part of itself.
    pub(super) fn or_about(self, margin: f64) -> Self {
        let about = Self::about(self.expected as f64, margin);
        Self {
            expected: self.expected,
            low: self.low.min(about.low),
            high: self.high.max(about.high),
        }
    }

    /// The larger distance to an end, as a part of what is expected.
    pub fn margin(self) -> f64 {
        let away = (self.expected - self.low.min(self.expected))
            .max(self.high.saturating_sub(self.expected));
        away as f64 / self.expected.max(1) as f64
    }
}

/// Errors may all lie on one side.
impl Add for Figure {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            expected: self.expected + other.expected,
            low: self.low + other.low,
            high: self.high + other.high,
        }
    }
}

impl AddAssign for Figure {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Figure {
    fn sum<I: Iterator<Item = Self>>(figures: I) -> Self {
        figures.fold(Self::default(), Add::add)
    }
}
