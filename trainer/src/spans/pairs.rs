use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::SpanPairs;
use crate::data::DataError;

/// How documents become spans, and which stand beside each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpanConfig {
    /// Tokens of a span, after which it ends with its sentence; of an overlap at least, where the document has as many.
    pub max_tokens: usize,
    /// Chance of a span to end after fewer tokens, any number from 2 on.
    pub short_probability: f64,
    /// How far from a span its random partner may be, in spans.
    pub window: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SpanConfig {
    /// The published values.
    fn default() -> Self {
        Self {
            max_tokens: 128,
            short_probability: 0.15,
            window: 100,
            seed: 42,
        }
    }
}

impl SpanConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`DataError::Setting`].
    pub fn check(&self) -> Result<(), DataError> {
        let wrong = |name, value: String, expected| DataError::Setting {
            name,
            value,
            expected,
        };
        match self {
            Self {
                max_tokens: 0..2, ..
            } => Err(wrong(
                "max_tokens",
                self.max_tokens.to_string(),
                "it is at least 2",
            )),
            Self { window: 0, .. } => Err(wrong("window", "0".to_owned(), "it is at least 1")),
            _ if !(0.0..=1.0).contains(&self.short_probability) => Err(wrong(
                "short_probability",
                self.short_probability.to_string(),
                "it is from 0 to 1",
            )),
            _ => Ok(()),
        }
    }
}

/// A span: its sentences, as token ids.
type Span = Vec<Vec<u32>>;

/// Packs the sentences of a document into spans. A span ends with the sentence that brings it above its target, which is
/// drawn for each; what is left is the last span. Sentences without a token are left out.
pub fn pack(sentences: Vec<Vec<u32>>, config: &SpanConfig, random: &mut impl Rng) -> Vec<Span> {
    let mut spans = Vec::new();
    let (mut span, mut n_tokens) = (Span::new(), 0);
    let mut target = draw_target(config, random);
    for sentence in sentences.into_iter().filter(|ids| !ids.is_empty()) {
        n_tokens += sentence.len();
        span.push(sentence);
        if n_tokens > target {
            spans.push(std::mem::take(&mut span));
            n_tokens = 0;
            target = draw_target(config, random);
        }
    }
    if !span.is_empty() {
        spans.push(span);
    }
    spans
}

fn draw_target(config: &SpanConfig, random: &mut impl Rng) -> usize {
    match random.random_bool(config.short_probability) {
        true => random.random_range(2..=config.max_tokens),
        false => config.max_tokens,
    }
}

/// Puts beside each span of a document another one at random, its neighbour, and one that overlaps it. A document of fewer
/// than two spans has none.
pub fn pairs(spans: &[Span], config: &SpanConfig, random: &mut impl Rng) -> Vec<SpanPairs> {
    let count = spans.len();
    if count < 2 {
        return Vec::new();
    }
    let pairs = |i: usize| {
        let farthest = i.saturating_add(config.window).min(count - 1);
        let nearest = i.saturating_sub(config.window)..=farthest;
        let nearby = i.saturating_sub(1)..=(i + 1).min(count - 1);
        SpanPairs {
            anchor: spans[i].concat(),
            random_sampled: spans[draw_other(nearest, i, random)].concat(),
            nearby: spans[draw_other(nearby, i, random)].concat(),
            overlap: overlap(
                spans,
                i,
                draw_shared(spans[i].len(), random),
                config.max_tokens,
            ),
        }
    };
    (0..count).map(pairs).collect()
}

/// A number of the range that is not `excluded`, which is in it.
fn draw_other(
    range: std::ops::RangeInclusive<usize>,
    excluded: usize,
    random: &mut impl Rng,
) -> usize {
    let drawn = random.random_range(*range.start()..*range.end());
    drawn + usize::from(drawn >= excluded)
}

/// Sentences that a span shares with the one that overlaps it: one, or up to half of them.
fn draw_shared(n_sentences: usize, random: &mut impl Rng) -> usize {
    match n_sentences / 2 {
        ..2 => 1,
        half => random.random_range(1..=half),
    }
}

/// The last `n_shared` sentences of span i and those behind them, until there are `max_tokens`; for the last span its
/// first sentences and those before them. The sentences stay in the order of the document.
fn overlap(spans: &[Span], i: usize, n_shared: usize, max_tokens: usize) -> Vec<u32> {
    let span = &spans[i];
    let is_last = i + 1 == spans.len();
    let (shared, others): (_, Box<dyn Iterator<Item = &Vec<u32>>>) = match is_last {
        true => (
            &span[..n_shared],
            Box::new(spans[..i].iter().flatten().rev()),
        ),
        false => {
            let shared = &span[span.len() - n_shared..];
            (shared, Box::new(spans[i + 1..].iter().flatten()))
        }
    };
    let mut n_tokens: usize = shared.iter().map(Vec::len).sum();
    let is_needed = |sentence: &&Vec<u32>| {
        let is_needed = n_tokens < max_tokens;
        n_tokens += sentence.len();
        is_needed
    };
    let mut others: Vec<&[u32]> = others.take_while(is_needed).map(Vec::as_slice).collect();
    if is_last {
        others.reverse();
        [others.concat(), shared.concat()].concat()
    } else {
        [shared.concat(), others.concat()].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::test_data::sentences;
    use super::*;
    use crate::data::random::{Purpose, random};

    fn lengths(spans: &[Span]) -> Vec<Vec<usize>> {
        let lengths = |span: &Span| span.iter().map(Vec::len).collect();
        spans.iter().map(lengths).collect()
    }

    const PLAIN: SpanConfig = SpanConfig {
        max_tokens: 128,
        short_probability: 0.0,
        window: 100,
        seed: 0,
    };

    #[test]
    fn spans_end_with_the_sentence_that_makes_them_too_long() {
        let mut random = random(1, 0, 0, Purpose::Spans);
        let spans = pack(sentences(&[60, 50, 30, 0, 10, 90, 50]), &PLAIN, &mut random);
        assert_eq!(lengths(&spans), [[60, 50, 30], [10, 90, 50]]);
        let pairs = pairs(&spans, &PLAIN, &mut random);
        assert_eq!(pairs[0].anchor, (0..140).collect::<Vec<u32>>());
        assert_eq!(pairs[0].nearby, pairs[1].anchor);
        assert_eq!(pairs[1].random_sampled, pairs[0].anchor);
        assert_eq!(pairs[0].overlap, (110..240).collect::<Vec<u32>>()); // 30 + 10 + 90
        assert_eq!(pairs[1].overlap, (0..150).collect::<Vec<u32>>()); // 60 + 50 + 30 + 10

        // As many tokens as the target do not end a span.
        let spans = pack(sentences(&[128, 1, 128]), &PLAIN, &mut random);
        assert_eq!(lengths(&spans), [vec![128, 1], vec![128]]);
        assert!(super::pairs(&spans[..1], &PLAIN, &mut random).is_empty());
    }

    #[test]
    fn a_window_may_be_larger_than_any_document() {
        let spans = [1, 2, 3].map(|n| sentences(&[n]));
        let config = SpanConfig {
            window: usize::MAX,
            ..PLAIN
        };
        let pairs = pairs(&spans, &config, &mut random(1, 0, 0, Purpose::Spans));
        for pair in &pairs {
            assert_ne!(pair.random_sampled.len(), pair.anchor.len());
        }
        assert_eq!(pairs.len(), 3);
    }

    #[test]
    fn half_of_a_long_span_may_be_shared() {
        let spans = [sentences(&[40; 6]), sentences(&[1; 3]), sentences(&[1; 3])];
        let mut counts = [0; 3];
        for document in 0..10_000 {
            let mut random = random(2, 0, document, Purpose::Spans);
            let overlap = &pairs(&spans, &PLAIN, &mut random)[0].overlap;
            // Two spans of 3 tokens end the document before 128 tokens are there.
            counts[overlap.len() / 40 - 1] += 1;
        }
        let bound = 4.0 * (10_000.0f64 * 2.0 / 9.0).sqrt();
        for count in counts {
            assert!(
                (f64::from(count) - 10_000.0 / 3.0).abs() < bound,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn short_targets_are_as_frequent_as_they_should_be() {
        let config = SpanConfig {
            max_tokens: 10,
            short_probability: 0.3,
            ..PLAIN
        };
        let mut random = random(3, 0, 0, Purpose::Spans);
        let spans = pack(sentences(&[1; 100_000]), &config, &mut random);
        // A span of single tokens has one more than its target: 10 by chance, or any of 2 to 10.
        let n = spans.len() as f64;
        for (target, p) in
            (2..=10).map(|target| (target, 0.3 / 9.0 + if target == 10 { 0.7 } else { 0.0 }))
        {
            let count = spans.iter().filter(|span| span.len() == target + 1).count() as f64;
            let bound = 4.0 * (n * p * (1.0 - p)).sqrt() + 1.0; // the last span may be shorter
            assert!((count - n * p).abs() < bound, "{target}: {count} of {n}");
        }
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let check = |config: SpanConfig, name: &str| {
            let error = config.check().expect_err("it cannot be").to_string();
            assert!(error.starts_with(name), "{error}");
        };
        SpanConfig::default().check().expect("the published values");
        check(
            SpanConfig {
                max_tokens: 1,
                ..PLAIN
            },
            "max_tokens is 1",
        );
        check(SpanConfig { window: 0, ..PLAIN }, "window is 0");
        check(
            SpanConfig {
                short_probability: f64::NAN,
                ..PLAIN
            },
            "short_probability is NaN",
        );
        check(
            SpanConfig {
                short_probability: 1.5,
                ..PLAIN
            },
            "short_probability is 1.5",
        );
    }

    proptest! {
        #[test]
        fn pairs_are_spans_of_the_document(
            sentence_lengths in prop::collection::vec(0usize..12, 0..60),
            max_tokens in 2usize..20,
            short_probability in 0.0..1.0,
            window in 1usize..4,
            seed: u64,
        ) {
            let config = SpanConfig { max_tokens, short_probability, window, seed };
            let mut random = random(seed, 0, 0, Purpose::Spans);
            let all = sentences(&sentence_lengths);
            let spans = pack(all.clone(), &config, &mut random);
            prop_assert_eq!(spans.concat().concat(), all.concat());
            let anchors: Vec<Vec<u32>> = spans.iter().map(|span| span.concat()).collect();
            for (number, span) in spans.iter().enumerate() {
                // All but the last are longer than their target, of 2 at least, and not before their last sentence.
                let without_last: usize = span[..span.len() - 1].iter().map(Vec::len).sum();
                prop_assert!(without_last <= max_tokens);
                prop_assert!(anchors[number].len() > 2 || number + 1 == spans.len());
            }
            let pairs = pairs(&spans, &config, &mut random);
            prop_assert_eq!(pairs.len(), if spans.len() < 2 { 0 } else { spans.len() });
            let place = |ids: &Vec<u32>| anchors.iter().position(|anchor| anchor == ids);
            let ends: BTreeSet<usize> = sentence_lengths
                .iter()
                .scan(0, |end, n| { *end += n; Some(*end) })
                .chain([0])
                .collect();
            let n_tokens = anchors.concat().len();
            for (number, pair) in pairs.iter().enumerate() {
                prop_assert_eq!(place(&pair.anchor), Some(number));
                prop_assert_eq!(place(&pair.nearby).map(|other| other.abs_diff(number)), Some(1));
                let distance = place(&pair.random_sampled).map(|other| other.abs_diff(number));
                prop_assert!(distance.is_some_and(|distance| (1..=window).contains(&distance)));
                // An overlap is a run of whole sentences that begins in the span, or ends in the last one.
                let (first, last) = (pair.overlap[0] as usize, pair.overlap[pair.overlap.len() - 1] as usize);
                prop_assert!(pair.overlap.iter().copied().eq(first as u32..=last as u32));
                prop_assert!(ends.contains(&first) && ends.contains(&(last + 1)));
                let inside = |token: usize| pair.anchor.contains(&(token as u32));
                let (is_inside, is_exhausted) = match number + 1 == pairs.len() {
                    true => (inside(last), first == 0),
                    false => (inside(first) && first as u32 != pair.anchor[0], last + 1 == n_tokens),
                };
                let is_single = spans[number].len() == 1;
                prop_assert!(is_inside || is_single);
                prop_assert!(pair.overlap.len() >= max_tokens || is_exhausted);
            }
        }
    }
}
