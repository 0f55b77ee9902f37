use std::str::FromStr;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::data::{DataError, from_json, is_plain_text};
use crate::masking::Vocabulary;

/// A document as its line says it: its spans, at least two, each with others beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SpanDocument {
    /// The spans, in the order of the document.
    pub spans: Vec<SpanPairs>,
}

/// Token ids of a span and of others of its document, without special tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SpanPairs {
    /// The span.
    pub anchor: Vec<u32>,
    /// Another span, not far away.
    pub random_sampled: Vec<u32>,
    /// The span before or behind it.
    pub nearby: Vec<u32>,
    /// An end of the span and what follows it in the document.
    pub overlap: Vec<u32>,
}

/// Which spans stand beside the anchor: `mixed`, or names joined by `+`, one of which is drawn with equal chance.
///
/// CoT-MAE's `--data_type`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PairKinds(Vec<PairKind>);

/// A key of [`SpanPairs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PairKind {
    RandomSampled,
    Nearby,
    Overlap,
}

impl PairKind {
    const ALL: [Self; 3] = [Self::RandomSampled, Self::Nearby, Self::Overlap];

    fn name(self) -> &'static str {
        match self {
            Self::RandomSampled => "random_sampled",
            Self::Nearby => "nearby",
            Self::Overlap => "overlap",
        }
    }
}

impl Default for PairKinds {
    /// `mixed`
    fn default() -> Self {
        Self(PairKind::ALL.to_vec())
    }
}

impl FromStr for PairKinds {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        if text == "mixed" {
            return Ok(Self::default());
        }
        let kind = |name: &str| PairKind::ALL.into_iter().find(|kind| kind.name() == name);
        let kinds: Option<Vec<PairKind>> = text.split('+').map(kind).collect();
        let kinds = kinds.unwrap_or_default();
        let is_repeated = (1..kinds.len()).any(|place| kinds[..place].contains(&kinds[place]));
        match kinds.is_empty() || is_repeated {
            false => Ok(Self(kinds)),
            true => Err(DataError::Setting {
                name: "pairs",
                value: format!("`{text}`"),
                expected: "it is `mixed`, or some of `random_sampled`, `nearby` and `overlap` joined by `+`",
            }),
        }
    }
}

impl TryFrom<String> for PairKinds {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self, DataError> {
        text.parse()
    }
}

impl From<PairKinds> for String {
    fn from(PairKinds(kinds): PairKinds) -> Self {
        match kinds == PairKind::ALL {
            true => "mixed".to_owned(),
            false => kinds
                .iter()
                .map(|kind| kind.name())
                .collect::<Vec<_>>()
                .join("+"),
        }
    }
}

impl SpanDocument {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it: another shape, an id that the vocabulary does not have, fewer than two spans, a span without a
    /// token.
    pub fn parse(line: &str, vocabulary: &Vocabulary) -> Result<Self, String> {
        let parsed: Self = from_json(line).map_err(|error| match is_plain_text(line) {
            true => {
                "`text` is words, not spans, which `trawl data span-pairs` makes of it".to_owned()
            }
            false => error,
        })?;
        for span in &parsed.spans {
            let lists = [
                ("anchor", &span.anchor),
                ("random_sampled", &span.random_sampled),
                ("nearby", &span.nearby),
                ("overlap", &span.overlap),
            ];
            for (name, ids) in lists {
                vocabulary.check(ids)?;
                if ids.is_empty() {
                    return Err(format!("`{name}` has no token"));
                }
            }
        }
        match parsed.spans.len() {
            2.. => Ok(parsed),
            n => Err(format!("a document has at least two spans, not {n}")),
        }
    }

    /// Draws two spans of the document with equal chance: what coCondenser's epoch sees of it.
    ///
    /// # Panics
    /// When the document has fewer than two spans.
    pub fn draw_two(&self, random: &mut impl Rng) -> [&[u32]; 2] {
        let first = random.random_range(0..self.spans.len());
        let second = random.random_range(0..self.spans.len() - 1);
        let second = second + usize::from(second >= first);
        [first, second].map(|span| self.spans[span].anchor.as_slice())
    }

    /// Draws a span with equal chance, and one of those beside it: what one epoch sees of the document.
    ///
    /// # Panics
    /// When the document has no span.
    pub fn draw(&self, kinds: &PairKinds, random: &mut impl Rng) -> (&[u32], &[u32]) {
        let span = &self.spans[random.random_range(0..self.spans.len())];
        let PairKinds(kinds) = kinds;
        let other = match kinds[random.random_range(0..kinds.len())] {
            PairKind::RandomSampled => &span.random_sampled,
            PairKind::Nearby => &span.nearby,
            PairKind::Overlap => &span.overlap,
        };
        (&span.anchor, other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::{Purpose, random};

    fn check_chances(kinds: &str, expected: [f64; 3]) {
        const N: f64 = 10_000.0;
        let span = |anchor| SpanPairs {
            anchor: vec![anchor],
            random_sampled: vec![0],
            nearby: vec![1],
            overlap: vec![2],
        };
        let document = SpanDocument {
            spans: vec![span(0), span(1)],
        };
        let kinds: PairKinds = kinds.parse().expect("they have such names");
        let mut counts = [[0.0; 3]; 2];
        for example in 0..N as u64 {
            let mut random = random(8, 0, example, Purpose::Masking);
            let (anchor, other) = document.draw(&kinds, &mut random);
            counts[anchor[0] as usize][other[0] as usize] += 1.0;
        }
        for (count, p) in counts.iter().flat_map(|counts| counts.iter().zip(expected)) {
            let bound = 4.0 * (N * p / 2.0 * (1.0 - p / 2.0)).sqrt();
            assert!(
                (count - N * p / 2.0).abs() <= bound,
                "{kinds:?}: {counts:?}"
            );
        }
    }

    #[test]
    fn spans_and_kinds_are_drawn_with_equal_chance() {
        check_chances("mixed", [1.0 / 3.0; 3]);
        check_chances("overlap", [0.0, 0.0, 1.0]);
        check_chances("nearby+overlap", [0.0, 0.5, 0.5]);
    }

    #[test]
    fn a_corpus_of_texts_is_told_from_bad_lines() {
        let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
        let vocabulary = Vocabulary::new(special.map(str::to_owned).to_vec());
        let vocabulary = vocabulary.expect("the special tokens are there");
        let error = SpanDocument::parse("{\"text\": \"a line of words\"}", &vocabulary);
        let error = error.expect_err("no spans");
        assert!(error.contains("`trawl data span-pairs` makes"), "{error}");
        let error = SpanDocument::parse("{\"text\": [5]}", &vocabulary).expect_err("no spans");
        assert!(error.contains("missing field `spans`"), "{error}");
    }

    #[test]
    fn kinds_have_names() {
        for text in ["mixed", "nearby", "overlap+random_sampled"] {
            let kinds: PairKinds = text.parse().expect("they have such names");
            assert_eq!(String::from(kinds), text);
        }
        for text in [
            "",
            "near",
            "nearby+",
            "nearby+nearby",
            "nearby+overlap+nearby",
            "mixed+nearby",
        ] {
            let error = text.parse::<PairKinds>().expect_err("no such kinds");
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }
}
