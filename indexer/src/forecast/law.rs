//! How numbers grow from a sample to the whole.

use super::Figure;

/// How much of a corpus something was measured on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    pub passages: f64,
    /// Bytes of the records.
    pub bytes: f64,
}

impl Scale {
    pub fn times(self, factor: f64) -> Self {
        Self {
            passages: self.passages * factor,
            bytes: self.bytes * factor,
        }
    }
}

/// How a number grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Law {
    /// With the passages.
    Rows,
    /// A constant and a part for each passage, from both trials.
    Passages,
    /// The same of each shard: files of sections.
    Shards,
    /// With the bytes of the records: records, and most work on them.
    Bytes,
    /// As a power of the bytes, from both trials, as the vocabulary does (Heaps 1978): dictionaries and lists of postings. A
    /// lexical index of more than one segment has a dictionary in each, so that growth from there on is linear.
    Vocabulary,
    /// Between n and n log n with the n passages of a shard: a graph is built by a walk for each, which finds its way in O(log n) and then
    /// looks at as many neighbors as it keeps. From 4,096 to 131,072 rows the first was measured; caches do not last.
    Graph,
}

/// Records of a sample compress as others do, more or less.
const SAMPLED: f64 = 0.05;

impl Law {
    /// Whether it is about one shard and not about all.
    pub fn is_of_shards(self) -> bool {
        matches!(self, Self::Shards | Self::Graph)
    }

    /// Carries the value of a trial on to the whole; without the value of half of it, nothing is known of constants and powers.
    pub fn carry(
        self,
        half: Option<(Scale, f64)>,
        (at, value): (Scale, f64),
        whole: Scale,
    ) -> Figure {
        if whole == at {
            return Figure::between(value, value, value);
        }
        let by_passages = value * whole.passages / at.passages;
        let by_bytes = value * whole.bytes / at.bytes;
        match (self, half) {
            (Self::Passages | Self::Shards, Some((before, smaller)))
                if before.passages < at.passages =>
            {
                let slope = (value - smaller) / (at.passages - before.passages);
                // Neither the constant nor the slope is below zero.
                let slope = slope.clamp(0.0, value / at.passages);
                let expected = value + slope * (whole.passages - at.passages);
                Figure::about(expected, SAMPLED)
            }
            (Self::Rows, _) => Figure::between(by_passages, by_passages, by_passages),
            (Self::Passages | Self::Shards, _) => Figure::about(by_passages, SAMPLED),
            (Self::Vocabulary, Some((before, smaller))) if smaller > 0.0 => {
                let power = (value / smaller).ln() / (at.bytes / before.bytes).ln();
                let power = power.clamp(0.0, 1.0);
                let segment = (store::SEGMENT_BYTES as f64).max(at.bytes).min(whole.bytes);
                let of_segment = value * (segment / at.bytes).powf(power);
                let expected = of_segment * whole.bytes / segment;
                let merged = value * (whole.bytes / at.bytes).powf(power);
                Figure::between(
                    expected,
                    merged.min(expected * (1.0 - SAMPLED)),
                    by_bytes.max(expected * (1.0 + SAMPLED)),
                )
            }
            (Self::Bytes | Self::Vocabulary, _) => Figure::about(by_bytes, SAMPLED),
            (Self::Graph, _) => {
                let logarithm = whole.passages.max(2.0).ln() / at.passages.max(2.0).ln();
                let high = by_passages * logarithm.max(1.0);
                Figure::between((by_passages * high).sqrt(), by_passages, high)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(n: f64) -> Scale {
        Scale {
            passages: n,
            bytes: 100.0 * n,
        }
    }

    fn check(law: Law, values: [f64; 2], expected: u64) {
        let half = Some((scale(1000.0), values[0]));
        let figure = law.carry(half, (scale(2000.0), values[1]), scale(16_000.0));
        assert_eq!(figure.expected, expected, "{law:?}");
        assert!(figure.low <= expected && expected <= figure.high);
    }

    #[test]
    fn numbers_grow_by_their_laws() {
        check(Law::Passages, [1500.0, 2500.0], 16_500);
        check(Law::Rows, [1.0, 2500.0], 20_000);
        check(Law::Bytes, [1.0, 2500.0], 20_000);
        check(Law::Vocabulary, [1000.0, 2000.0], 16_000);
        check(Law::Vocabulary, [1000.0, 1414.2], 4000); // the square root
        check(Law::Vocabulary, [1000.0, 1000.0], 1000);
        check(Law::Graph, [1.0, 2000.0], 18_056); // 16,000 · (ln 16,000 / ln 2,000)^½
    }

    #[test]
    fn the_whole_is_what_was_measured() {
        for law in [
            Law::Rows,
            Law::Passages,
            Law::Bytes,
            Law::Vocabulary,
            Law::Graph,
        ] {
            let figure = law.carry(None, (scale(7.0), 123.0), scale(7.0));
            assert_eq!(figure.expected, 123, "{law:?}");
        }
    }

    #[test]
    fn no_slope_leads_below_zero() {
        check(Law::Passages, [4000.0, 3000.0], 3000);
    }
}
