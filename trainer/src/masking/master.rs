use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{
    Corrupted, Corruption, FrequencyDictionary, Skipped, Vocabulary, Words, complement, crop,
    mask_keywords, wrap, wrap_mask,
};
use crate::data::{from_json, is_plain_text};

/// Share of tokens that the encoder hides where the decoder hides all others. Not a setting of the published code either.
const COMPLEMENTARY_RATIO: f64 = 0.5;

/// A line of MASTER's corpus: token ids without `[CLS]` and without the last `[SEP]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MasterText {
    /// The text; a `[SEP]` may part title and body.
    pub text: Vec<u32>,
    /// Queries that a model asked of it.
    #[serde(default)]
    pub queries: Vec<Vec<u32>>,
    /// Texts that a model continued it with, of which the first is read.
    #[serde(default)]
    pub next: Vec<Vec<u32>>,
}

/// How much of MASTER's streams is hidden.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MasterMasks {
    /// Tokens of a stream at most, `[CLS]` and `[SEP]` among them.
    pub max_tokens: usize,
    /// Share of tokens that the encoder's masks hide.
    pub encoder_ratio: f64,
    /// Share of tokens that the decoders' masks hide.
    pub decoder_ratio: f64,
}

impl Default for MasterMasks {
    /// The published values.
    fn default() -> Self {
        Self {
            max_tokens: 128,
            encoder_ratio: 0.3,
            decoder_ratio: 0.5,
        }
    }
}

/// What MASTER's encoder and its five decoders read of one text: the encoder `text`, `first_half` and `seen`, the
/// decoders what stands below each of these.
///
/// All streams stand between `[CLS]` and `[SEP]` and have 80/10/10 corruption. `text`, `keywords`, `seen` and `unseen` are
/// one window of the text, of which the halves are parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterStreams {
    /// The window, whole words hidden.
    pub text: Corrupted,
    /// The window, keywords hidden.
    pub keywords: Corrupted,
    /// The queries one behind the other, each with a `[SEP]`; without labels when there are none.
    pub queries: Corrupted,
    /// The first continuation; the window when that is missing or empty.
    pub continuation: Corrupted,
    /// The first half of the window, rounded down, whole words hidden.
    pub first_half: Corrupted,
    /// The second half, keywords hidden.
    pub second_half: Corrupted,
    /// The window, half of its words hidden.
    pub seen: Corrupted,
    /// The window, all others hidden.
    pub unseen: Corrupted,
}

impl MasterText {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it: another shape, an id that the vocabulary does not have, no token.
    pub fn parse(line: &str, vocabulary: &Vocabulary) -> Result<Self, String> {
        let parsed: Self = from_json(line).map_err(|error| match is_plain_text(line) {
            true => "`text` is words, not ids of tokens; `format = \"texts\"` reads plain texts"
                .to_owned(),
            false => error,
        })?;
        let lists = [&parsed.text].into_iter();
        for ids in lists.chain(&parsed.queries).chain(&parsed.next) {
            vocabulary.check(ids)?;
        }
        match parsed.text.is_empty() {
            true => Err("`text` has no token".to_owned()),
            false => Ok(parsed),
        }
    }

    /// The queries one behind the other, each with a separator.
    pub(crate) fn joined_queries(&self, separator: u32) -> Vec<u32> {
        let queries = self.queries.iter();
        queries
            .flat_map(|query| query.iter().copied().chain([separator]))
            .collect()
    }

    /// Whether a query has a token.
    pub fn has_queries(&self) -> bool {
        self.queries.iter().any(|query| !query.is_empty())
    }

    /// The first continuation, unless it is empty.
    pub fn continuation(&self) -> Option<&[u32]> {
        let first = self.next.first().map(Vec::as_slice);
        first.filter(|ids| !ids.is_empty())
    }
}

impl MasterMasks {
    /// Draws the streams of a text. `SimXNS:MASTER/pretrain/data.py`.
    pub fn draw(
        &self,
        line: &MasterText,
        vocabulary: &Vocabulary,
        dictionary: &FrequencyDictionary,
        random: &mut impl Rng,
    ) -> MasterStreams {
        let max_tokens = self.max_tokens.saturating_sub(2);
        let (encoder, decoder) = (self.encoder_ratio, self.decoder_ratio);
        let corrupt = |ids: &[u32], mask: &[bool], random: &mut _| {
            Corruption::Mixed.apply(vocabulary, &wrap(vocabulary, ids), &wrap_mask(mask), random)
        };
        let group = |ids: &[u32]| Words::group(vocabulary, ids, Skipped::Special);
        let whole_words = |ids: &[u32], ratio, random: &mut _| {
            let mask = group(ids).mask(ratio, random);
            corrupt(ids, &mask, random)
        };
        let keywords = |ids: &[u32], random: &mut _| {
            let words = group(ids);
            let weights = dictionary.weights(vocabulary, ids, &words);
            corrupt(
                ids,
                &mask_keywords(&words, &weights, decoder, random),
                random,
            )
        };

        let window = crop(&line.text, max_tokens, random);
        let queries = line.joined_queries(vocabulary.special().sep);
        let queries = crop(&queries, max_tokens, random);
        let continuation = match line.continuation() {
            Some(next) => crop(next, max_tokens, random),
            None => window,
        };
        let (first, second) = window.split_at(window.len() / 2);
        let hidden = group(window).mask(COMPLEMENTARY_RATIO, random);
        MasterStreams {
            text: whole_words(window, encoder, random),
            keywords: keywords(window, random),
            queries: whole_words(queries, decoder, random),
            continuation: whole_words(continuation, decoder, random),
            first_half: whole_words(first, encoder, random),
            second_half: keywords(second, random),
            seen: corrupt(window, &hidden, random),
            unseen: corrupt(window, &complement(&hidden), random),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::vocabulary;
    use super::super::{budget, example_random};
    use super::*;

    fn masks(max_tokens: usize) -> MasterMasks {
        MasterMasks {
            max_tokens,
            ..MasterMasks::default()
        }
    }

    fn draw(masks: &MasterMasks, line: &MasterText, example: u64) -> MasterStreams {
        let vocabulary = vocabulary("a b c d ##e ##f");
        let dictionary = [("a".to_owned(), 1000)].into_iter().collect();
        masks.draw(
            line,
            &vocabulary,
            &dictionary,
            &mut example_random(21, 0, example),
        )
    }

    /// What stood there before it was corrupted, without `[CLS]` and the last `[SEP]`.
    fn original(stream: &Corrupted) -> Vec<u32> {
        let ids = stream.ids.iter().zip(&stream.labels);
        let ids: Vec<u32> = ids.map(|(id, label)| label.unwrap_or(*id)).collect();
        let [2, middle @ .., 3] = ids.as_slice() else {
            panic!("{ids:?} is not wrapped");
        };
        middle.to_vec()
    }

    fn hidden(stream: &Corrupted) -> Vec<usize> {
        stream.targets().map(|(position, _)| position).collect()
    }

    /// `c d ##e` and `[SEP]` repeated.
    fn line(n: usize) -> MasterText {
        MasterText {
            text: [7, 8, 9, 3].into_iter().cycle().take(n).collect(),
            queries: vec![vec![5, 6], vec![6]],
            next: vec![vec![8; 4], vec![5]],
        }
    }

    #[test]
    fn streams_are_parts_of_one_window() {
        for (n, max_tokens) in [(41, 128), (41, 43), (41, 20), (1, 128), (200, 128)] {
            let line = line(n);
            for example in 0..20 {
                let streams = draw(&masks(max_tokens), &line, example);
                let window = original(&streams.text);
                assert_eq!(window.len(), n.min(max_tokens - 2));
                assert!(line.text.windows(window.len()).any(|part| part == window));
                for stream in [&streams.keywords, &streams.seen, &streams.unseen] {
                    assert_eq!(original(stream), window);
                }
                let (first, second) = (
                    original(&streams.first_half),
                    original(&streams.second_half),
                );
                assert_eq!(first.len(), window.len() / 2);
                assert_eq!([first, second].concat(), window);
                // Half is hidden, and the other half is hidden from the other.
                let (seen, unseen) = (hidden(&streams.seen), hidden(&streams.unseen));
                assert!(seen.len() <= budget(window.len(), 0.5));
                let mut all = [seen, unseen].concat();
                all.sort_unstable();
                let is_ordinary = |&position: &usize| window[position - 1] != 3;
                let ordinary: Vec<usize> = (1..=window.len()).filter(is_ordinary).collect();
                assert_eq!(all, ordinary);
                let (text, keywords) = (hidden(&streams.text), hidden(&streams.keywords));
                assert!(text.len() <= budget(window.len(), 0.3));
                assert!(keywords.len() >= budget(ordinary.len(), 0.5));
            }
        }
    }

    #[test]
    fn other_texts_are_joined_or_stood_in_for() {
        let streams = draw(&masks(128), &line(9), 0);
        assert_eq!(original(&streams.queries), [5, 6, 3, 6, 3]);
        assert_eq!(original(&streams.continuation), [8; 4]);
        assert_eq!(hidden(&streams.continuation).len(), 2);
        let without = MasterText {
            queries: Vec::new(),
            next: vec![Vec::new(), vec![5]],
            ..line(9)
        };
        let streams = draw(&masks(128), &without, 0);
        assert_eq!(streams.queries.ids, [2, 3]);
        assert_eq!(streams.queries.targets().count(), 0);
        assert_eq!(original(&streams.continuation), without.text);
        // Half of one token is none.
        let streams = draw(&masks(128), &line(1), 0);
        assert_eq!(streams.first_half.ids, [2, 3]);
        assert_eq!(hidden(&streams.second_half), [1]);
    }

    #[test]
    fn streams_depend_on_the_example_alone() {
        let line = line(60);
        let masks = masks(128);
        assert_eq!(draw(&masks, &line, 5), draw(&masks, &line, 5));
        assert_ne!(draw(&masks, &line, 5), draw(&masks, &line, 6));
    }

    #[test]
    fn lines_have_ids_of_the_vocabulary() {
        let vocabulary = vocabulary("a");
        let parse = |line: &str| MasterText::parse(line, &vocabulary);
        let text = MasterText {
            text: vec![5, 3, 5],
            ..MasterText::default()
        };
        assert_eq!(parse("{\"text\":[5,3,5]}"), Ok(text.clone()));
        assert_eq!(
            parse("{\"text\":[5,3,5],\"queries\":[],\"next\":[]}"),
            Ok(text)
        );
        for bad in [
            "{\"text\":[5,6]}",
            "{\"text\":[5],\"queries\":[[5],[6]]}",
            "{\"text\":[5],\"next\":[[6]]}",
            "{\"text\":[]}",
            "{\"queries\":[[5]]}",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let error = parse("{\"text\":\"a line of words\"}").unwrap_err();
        assert!(error.contains("`format = \"texts\"`"), "{error}");
    }
}
