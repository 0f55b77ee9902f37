//! What each method reads of a text.

use encoder::longest_first;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{RetroMaeText, SimLmText, SpanPair};
use crate::batches::{Counts, Draw};
use crate::data::DataError;
use crate::masking::{
    Corrupted, Corruption, FrequencyDictionary, MasterMasks, MasterStreams, MasterText, Skipped,
    Visibility, Vocabulary, Words, crop, extra_ratio, union, wrap, wrap_mask,
};
use crate::spans::{PairKinds, SpanDocument};

/// What masked language modelling and Condenser hide: whole words of a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextMasks {
    /// Tokens of a window at most, `[CLS]` and `[SEP]` among them.
    pub max_tokens: usize,
    /// Share of tokens that are hidden.
    pub ratio: f64,
    /// Whether the mask is that of another window than the tokens, as published; words are then hidden in part where a text is
    /// longer than a window.
    #[serde(skip_serializing_if = "std::ops::Not::not")] // runs of before had no such switch
    pub double_crop: bool,
}

impl Default for TextMasks {
    /// Condenser's. Deviation: mask and tokens are of one window.
    fn default() -> Self {
        Self {
            max_tokens: 128,
            ratio: 0.15,
            double_crop: false,
        }
    }
}

/// What RetroMAE and DupMAE hide of the first tokens of a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetroMaeMasks {
    /// Tokens at most, `[CLS]` and `[SEP]` among them; what is behind is not read.
    pub max_tokens: usize,
    /// Share of tokens that are hidden from the encoder.
    pub encoder_ratio: f64,
    /// Share of tokens that are hidden from each position of the decoder.
    pub decoder_ratio: f64,
    /// Masks among which the positions of the decoder draw theirs; FlagEmbedding has 128.
    pub max_masks: usize,
}

impl Default for RetroMaeMasks {
    /// The code's. Deviation: its length is 512, that of its run on passages of MS MARCO 150.
    fn default() -> Self {
        Self {
            max_tokens: 150,
            encoder_ratio: 0.3,
            decoder_ratio: 0.5,
            max_masks: 256,
        }
    }
}

/// What CoT-MAE hides of windows of two spans.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CotMaeMasks {
    /// Tokens of a window at most, `[CLS]` and `[SEP]` among them.
    pub max_tokens: usize,
    /// Share of tokens that are hidden from the encoder.
    pub encoder_ratio: f64,
    /// Share of tokens that are hidden from the decoder.
    pub decoder_ratio: f64,
    /// Which span stands beside the anchor.
    pub pairs: PairKinds,
    /// As [`TextMasks::double_crop`], of encoder and decoder.
    #[serde(skip_serializing_if = "std::ops::Not::not")] // runs of before had no such switch
    pub double_crop: bool,
}

impl Default for CotMaeMasks {
    /// Those of the README. Deviations: both ratios are 0.15 in the code; mask and tokens are of one window.
    fn default() -> Self {
        Self {
            max_tokens: 128,
            encoder_ratio: 0.3,
            decoder_ratio: 0.45,
            pairs: PairKinds::default(),
            double_crop: false,
        }
    }
}

/// What SimLM hides of the first tokens of a text. Of a title and a text that are too long together the longer one loses its end
/// first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimLmMasks {
    /// Tokens at most, `[CLS]` and `[SEP]` among them; what is behind is not read.
    pub max_tokens: usize,
    /// Share of tokens that are hidden from the encoder.
    pub encoder_ratio: f64,
    /// Share of tokens that are hidden from the decoder, all that are hidden from the encoder among them.
    pub decoder_ratio: f64,
    /// What the generator reads in the place of hidden tokens.
    pub corruption: Corruption,
}

impl Default for SimLmMasks {
    /// The published script's. Deviation: where the script says nothing, the code corrupts as BERT does, `mixed`.
    fn default() -> Self {
        Self {
            max_tokens: 144,
            encoder_ratio: 0.3,
            decoder_ratio: 0.5,
            corruption: Corruption::Mask,
        }
    }
}

/// What MASTER hides, with the counts behind its keywords.
#[derive(Clone, Debug)]
pub struct MasterDraw {
    /// How much is hidden.
    pub masks: MasterMasks,
    /// How often words occur.
    pub dictionary: FrequencyDictionary,
}

impl TextMasks {
    fn hide(&self, ids: &[u32], vocabulary: &Vocabulary, random: &mut ChaCha8Rng) -> Corrupted {
        let windows = windows(ids, self.max_tokens, self.double_crop, random);
        hide(windows, self.ratio, Skipped::Special, vocabulary, random)
    }
}

/// The first tokens of a text between `[CLS]` and `[SEP]`.
fn head(text: &[u32], max_tokens: usize, vocabulary: &Vocabulary) -> Vec<u32> {
    wrap(vocabulary, &text[..text.len().min(max_tokens - 2)])
}

/// The windows of a text that have the words of a mask, and the tokens that are read; one and the same unless it is cropped
/// twice.
fn windows<'a>(
    ids: &'a [u32],
    max_tokens: usize,
    double_crop: bool,
    random: &mut ChaCha8Rng,
) -> [&'a [u32]; 2] {
    let first = crop(ids, max_tokens - 2, random);
    match double_crop {
        true => [first, crop(ids, max_tokens - 2, random)],
        false => [first; 2],
    }
}

/// Hides whole words, whose budget is that of the window without `[CLS]` and `[SEP]`.
fn hide(
    [words, window]: [&[u32]; 2],
    ratio: f64,
    skipped: Skipped,
    vocabulary: &Vocabulary,
    random: &mut ChaCha8Rng,
) -> Corrupted {
    let mask = Words::group(vocabulary, words, skipped).mask(ratio, random);
    let (ids, mask) = (wrap(vocabulary, window), wrap_mask(&mask));
    Corruption::Mixed.apply(vocabulary, &ids, &mask, random)
}

/// Refuses windows without room for a token, and shares that are none.
fn check(max_tokens: usize, ratios: &[(&'static str, f64)]) -> Result<(), DataError> {
    let wrong = |name, value, expected| DataError::Setting {
        name,
        value,
        expected,
    };
    if max_tokens < 3 {
        let expected = "it is at least 3";
        return Err(wrong("masks.max_tokens", max_tokens.to_string(), expected));
    }
    match ratios
        .iter()
        .find(|(_, ratio)| !(0.0..=1.0).contains(ratio))
    {
        Some((name, ratio)) => Err(wrong(name, ratio.to_string(), "it is from 0 to 1")),
        None => Ok(()),
    }
}

/// Counts lists of tokens that have no room between `[CLS]` and `[SEP]`.
fn count_cut<'a>(
    name: &'static str,
    lists: impl IntoIterator<Item = &'a [u32]>,
    max_tokens: usize,
    counts: &mut Counts,
) {
    let n_cut = lists.into_iter().filter(|ids| ids.len() > max_tokens - 2);
    *counts.entry(name).or_default() += n_cut.count() as u64;
}

fn count_spans(spans: [&[u32]; 2], max_tokens: usize, counts: &mut Counts) {
    *counts.entry("spans").or_default() += 2;
    count_cut("cut_spans", spans, max_tokens, counts);
}

const TEXTS: &str = "cut_texts";
const ENCODER: &str = "masks.encoder_ratio";
const DECODER: &str = "masks.decoder_ratio";

impl Draw<Box<[u32]>> for TextMasks {
    type Example = Corrupted;

    fn check(&self) -> Result<(), DataError> {
        check(self.max_tokens, &[("masks.ratio", self.ratio)])
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn draw(
        &self,
        text: &Box<[u32]>,
        vocabulary: &Vocabulary,
        random: &mut ChaCha8Rng,
        batch: &mut Vec<Corrupted>,
    ) {
        batch.push(self.hide(text, vocabulary, random));
    }

    fn count(&self, text: &Box<[u32]>, _: &mut ChaCha8Rng, counts: &mut Counts) {
        count_cut(TEXTS, [&**text], self.max_tokens, counts);
    }
}

/// coCondenser: two spans of a document beside each other.
impl Draw<SpanDocument> for TextMasks {
    type Example = Corrupted;

    fn check(&self) -> Result<(), DataError> {
        check(self.max_tokens, &[("masks.ratio", self.ratio)])
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn draw(
        &self,
        text: &SpanDocument,
        vocabulary: &Vocabulary,
        random: &mut ChaCha8Rng,
        batch: &mut Vec<Corrupted>,
    ) {
        let spans = text.draw_two(random);
        batch.extend(spans.map(|span| self.hide(span, vocabulary, random)));
    }

    fn count(&self, text: &SpanDocument, random: &mut ChaCha8Rng, counts: &mut Counts) {
        count_spans(text.draw_two(random), self.max_tokens, counts);
    }
}

impl Draw<Box<[u32]>> for RetroMaeMasks {
    type Example = RetroMaeText;

    fn check(&self) -> Result<(), DataError> {
        if self.max_masks == 0 {
            return Err(DataError::Setting {
                name: "masks.max_masks",
                value: "0".to_owned(),
                expected: "it is at least 1",
            });
        }
        let ratios = [(ENCODER, self.encoder_ratio), (DECODER, self.decoder_ratio)];
        check(self.max_tokens, &ratios)
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn draw(
        &self,
        text: &Box<[u32]>,
        vocabulary: &Vocabulary,
        random: &mut ChaCha8Rng,
        batch: &mut Vec<RetroMaeText>,
    ) {
        let ids = head(text, self.max_tokens, vocabulary);
        let words = Words::group(vocabulary, &ids, Skipped::Bounds);
        let mask = words.mask(self.encoder_ratio, random);
        let encoder = Corruption::Mixed.apply(vocabulary, &ids, &mask, random);
        let visibility = Visibility::draw(&words, self.decoder_ratio, self.max_masks, random);
        batch.push(RetroMaeText {
            encoder,
            ids,
            visibility,
        });
    }

    fn count(&self, text: &Box<[u32]>, _: &mut ChaCha8Rng, counts: &mut Counts) {
        count_cut(TEXTS, [&**text], self.max_tokens, counts);
    }
}

/// A `[SEP]` within a text parts its title from the rest, which has the other token type.
impl Draw<Box<[u32]>> for SimLmMasks {
    type Example = SimLmText;

    fn check(&self) -> Result<(), DataError> {
        let ratios = [(ENCODER, self.encoder_ratio), (DECODER, self.decoder_ratio)];
        check(self.max_tokens, &ratios)
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn draw(
        &self,
        text: &Box<[u32]>,
        vocabulary: &Vocabulary,
        random: &mut ChaCha8Rng,
        batch: &mut Vec<SimLmText>,
    ) {
        let separator = vocabulary.special().sep;
        let ids = match text.iter().position(|&id| id == separator) {
            Some(end) => {
                let (title, rest) = (&text[..end], &text[end + 1..]);
                let room = self.max_tokens - 3;
                let (n_title, n_rest) = longest_first(title.len(), rest.len(), room);
                let kept = [&title[..n_title], &[separator], &rest[..n_rest]];
                wrap(vocabulary, &kept.concat())
            }
            None => head(text, self.max_tokens, vocabulary),
        };
        let words = Words::group(vocabulary, &ids, Skipped::Bounds);
        let corrupt =
            |mask: &[bool], random: &mut _| self.corruption.apply(vocabulary, &ids, mask, random);
        let mask = words.mask(self.encoder_ratio, random);
        let encoder = corrupt(&mask, random);
        let decoder = match extra_ratio(self.encoder_ratio, self.decoder_ratio) {
            Some(ratio) => corrupt(&union(&mask, &words.mask(ratio, random)), random),
            None => encoder.clone(),
        };
        let title = ids.iter().position(|&id| id == separator);
        let title = title.map_or(0, |end| end + 1);
        let labels = ids
            .iter()
            .map(|&id| (!vocabulary.is_special(id)).then_some(id));
        batch.push(SimLmText {
            types: (0..ids.len())
                .map(|place| u32::from(place >= title))
                .collect(),
            encoder,
            decoder,
            labels: labels.collect(),
        });
    }

    fn count(&self, text: &Box<[u32]>, _: &mut ChaCha8Rng, counts: &mut Counts) {
        count_cut(TEXTS, [&**text], self.max_tokens, counts);
    }
}

impl Draw<SpanDocument> for CotMaeMasks {
    type Example = SpanPair;

    fn check(&self) -> Result<(), DataError> {
        let ratios = [(ENCODER, self.encoder_ratio), (DECODER, self.decoder_ratio)];
        check(self.max_tokens, &ratios)
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn draw(
        &self,
        text: &SpanDocument,
        vocabulary: &Vocabulary,
        random: &mut ChaCha8Rng,
        batch: &mut Vec<SpanPair>,
    ) {
        let (anchor, other) = text.draw(&self.pairs, random);
        let mut hide = |span: &[u32], ratio| {
            let windows = windows(span, self.max_tokens, self.double_crop, random);
            hide(windows, ratio, Skipped::Bounds, vocabulary, random)
        };
        // Encoder and decoder have a window each, as published.
        batch.push(SpanPair {
            encoder: [anchor, other].map(|span| hide(span, self.encoder_ratio)),
            decoder: [anchor, other].map(|span| hide(span, self.decoder_ratio)),
        });
    }

    fn count(&self, text: &SpanDocument, random: &mut ChaCha8Rng, counts: &mut Counts) {
        let (anchor, other) = text.draw(&self.pairs, random);
        count_spans([anchor, other], self.max_tokens, counts);
    }
}

impl Draw<MasterText> for MasterDraw {
    type Example = MasterStreams;

    fn check(&self) -> Result<(), DataError> {
        let masks = &self.masks;
        let ratios = [
            (ENCODER, masks.encoder_ratio),
            (DECODER, masks.decoder_ratio),
        ];
        check(masks.max_tokens, &ratios)
    }

    fn max_tokens(&self) -> usize {
        self.masks.max_tokens
    }

    fn draw(
        &self,
        text: &MasterText,
        vocabulary: &Vocabulary,
        random: &mut ChaCha8Rng,
        batch: &mut Vec<MasterStreams>,
    ) {
        let dictionary = &self.dictionary;
        batch.push(self.masks.draw(text, vocabulary, dictionary, random));
    }

    fn count(&self, text: &MasterText, _: &mut ChaCha8Rng, counts: &mut Counts) {
        let max_tokens = self.masks.max_tokens;
        count_cut(TEXTS, [&*text.text], max_tokens, counts);
        count_cut(
            "cut_queries",
            [&*text.joined_queries(0)],
            max_tokens,
            counts,
        );
        count_cut("cut_continuations", text.continuation(), max_tokens, counts);
        let mut count = |name, is_so: bool| *counts.entry(name).or_default() += u64::from(is_so);
        count("without_queries", !text.has_queries());
        count("without_continuation", text.continuation().is_none());
    }

    fn digest(&self) -> u64 {
        self.dictionary.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::masking::{budget, example_random};
    use crate::spans::SpanPairs;

    /// A window of 20 tokens of a text of 40, all words of two pieces.
    fn check_words(double_crop: bool, draw: impl Fn(&Vocabulary, u64) -> Vec<Corrupted>) {
        let pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] a ##b".split(' ');
        let vocabulary = Vocabulary::new(pieces.map(str::to_owned).collect());
        let vocabulary = vocabulary.expect("the special tokens");
        let (mut n_broken, mut n) = (0, 0);
        for example in 0..200 {
            for drawn in draw(&vocabulary, example) {
                assert_eq!(drawn.ids.len(), 22);
                let hidden: Vec<usize> = drawn.targets().map(|(place, _)| place).collect();
                // Single pieces at an end fill what pairs leave.
                assert!(hidden.len() + 1 >= budget(20, 0.3) && hidden.len() <= budget(20, 0.3));
                let is_hidden = |place: usize| hidden.contains(&place);
                let is_broken = |place: usize| match drawn.labels[place] {
                    Some(6) if place > 1 => !is_hidden(place - 1),
                    Some(5) if place < 20 => !is_hidden(place + 1),
                    _ => false,
                };
                n += 1;
                n_broken += usize::from((1..21).any(is_broken));
            }
        }
        match double_crop {
            // One of two windows begins within a word, and the other does not.
            true => assert!(n_broken * 3 > n, "{n_broken} of {n}"),
            false => assert_eq!(n_broken, 0),
        }
    }

    #[test]
    fn words_are_hidden_whole_unless_texts_are_cropped_twice() {
        let text: Vec<u32> = [5, 6].into_iter().cycle().take(40).collect();
        for double_crop in [false, true] {
            let masks = TextMasks {
                max_tokens: 22,
                ratio: 0.3,
                double_crop,
            };
            check_words(double_crop, |vocabulary, example| {
                let mut batch = Vec::new();
                let mut random = example_random(4, 0, example);
                let text = text.clone().into_boxed_slice();
                masks.draw(&text, vocabulary, &mut random, &mut batch);
                batch
            });
            let span = SpanPairs {
                anchor: text.clone(),
                random_sampled: text.clone(),
                nearby: text.clone(),
                overlap: text.clone(),
            };
            let document = SpanDocument {
                spans: vec![span.clone(), span],
            };
            let masks = CotMaeMasks {
                max_tokens: 22,
                decoder_ratio: 0.3,
                double_crop,
                ..CotMaeMasks::default()
            };
            check_words(double_crop, |vocabulary, example| {
                let mut batch = Vec::new();
                let mut random = example_random(4, 1, example);
                masks.draw(&document, vocabulary, &mut random, &mut batch);
                let [SpanPair { encoder, decoder }] = &batch[..] else {
                    panic!("{} examples of one document", batch.len());
                };
                [encoder.clone(), decoder.clone()].concat()
            });
        }
    }

    #[test]
    fn of_title_and_text_the_longer_one_is_cut_first() {
        let pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] a b".split(' ');
        let vocabulary = Vocabulary::new(pieces.map(str::to_owned).collect());
        let vocabulary = vocabulary.expect("the special tokens");
        // Room for 8 tokens beside [CLS] and two [SEP].
        let masks = SimLmMasks {
            max_tokens: 11,
            ..SimLmMasks::default()
        };
        for (title, text, expected) in [
            (3, 4, (3, 4)),
            (2, 20, (2, 6)),
            (20, 2, (6, 2)),
            (20, 20, (4, 4)),
            (0, 20, (0, 8)),
        ] {
            let ids = [vec![5; title], vec![3], vec![6; text]].concat();
            let mut batch = Vec::new();
            let mut random = example_random(3, 0, 0);
            masks.draw(&ids.into(), &vocabulary, &mut random, &mut batch);
            let labels = batch[0].labels.iter().flatten();
            let n = |id| labels.clone().filter(|label| **label == id).count();
            assert_eq!((n(5), n(6)), expected);
            let n_first = batch[0].types.iter().filter(|kind| **kind == 0).count();
            assert_eq!(n_first, expected.0 + 2);
        }
    }

    #[test]
    fn simlm_says_all_ordinary_tokens_and_hides_more_from_the_decoder() {
        let pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c ##d";
        let pieces = pieces.split(' ').map(str::to_owned).collect();
        let vocabulary = Vocabulary::new(pieces).expect("the special tokens");
        let text: Box<[u32]> = [5, 6, 3, 7, 8, 1, 5, 6, 7, 8].into();
        let masks = SimLmMasks {
            max_tokens: 11,
            ..SimLmMasks::default()
        };
        for example in 0..100 {
            let mut batch = Vec::new();
            let mut random = example_random(3, 0, example);
            masks.draw(&text, &vocabulary, &mut random, &mut batch);
            let [drawn] = &batch[..] else {
                panic!("{} examples of one text", batch.len());
            };
            // The tenth token is beyond the limit; [UNK] has no label.
            assert_eq!(drawn.types, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]);
            let labels = [0, 5, 6, 0, 7, 8, 0, 5, 6, 7, 0].map(|id| (id > 0).then_some(id));
            assert_eq!(drawn.labels, labels);
            let places = |side: &Corrupted| side.targets().map(|(place, _)| place).collect();
            let (encoder, decoder): (Vec<usize>, Vec<usize>) =
                (places(&drawn.encoder), places(&drawn.decoder));
            assert!(encoder.iter().all(|place| decoder.contains(place)));
            assert!(decoder.iter().all(|&place| drawn.decoder.ids[place] == 4));
        }
    }
}
