//! Documents to passages: windows of whole sentences.

use std::ops::Range;

use corpus::{Passage, Template, passage_id};
use encoder::{BiEncoder, EncodeError, Role, Text};
use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;

use crate::{BuildConfig, BuildError};

/// A record of the store: a whole document, or a part of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub passage: Passage,
    /// Characters of the document's text, when documents are split.
    pub characters: Option<Range<u32>>,
}

/// Splits documents that are longer than the encoder reads.
///
/// A passage is a run of whole sentences (Unicode Standard Annex 29) that fits, with the title and whatever else the
/// template and the model add, into the tokens that the encoder reads of a passage. The next one begins with the last
/// sentences of it, as many as fit into the overlap, as long as that leaves room for a new one. A sentence too long to
/// be a passage is taken apart into its words, and a word into halves. A title leaves the text at least half of the
/// tokens; the encoder then cuts the rest and counts it, as without a splitter.
///
/// Tokens are counted sentence by sentence. Word pieces do not cross sentences, so the sum is exact; other tokenizers
/// may need one token more or less at a joint, and what is too long for that is cut and counted, too.
///
/// Each text is tokenised once: O(text) time, some 40 bytes a sentence.
#[derive(Clone, Copy)]
pub(crate) struct Splitter<'a> {
    encoder: &'a BiEncoder,
    template: &'a Template,
    pair: bool,
    /// Tokens of a passage at most.
    max_tokens: usize,
    /// Tokens that a passage may share with the one before.
    overlap: usize,
}

/// A piece of the text that is not taken apart.
struct Unit {
    bytes: Range<usize>,
    n_tokens: usize,
}

impl<'a> Splitter<'a> {
    /// None where nothing is to be split.
    pub fn new(
        config: &'a BuildConfig,
        encoder: &'a BiEncoder,
    ) -> Result<Option<Self>, BuildError> {
        let Some(stride) = config.stride else {
            return Ok(None);
        };
        let max_tokens = encoder.max_tokens(Role::Passage);
        if stride == 0 || stride > max_tokens {
            return Err(BuildError::Stride { stride, max_tokens });
        }
        let fields = config.passage_template.fields();
        if !fields.iter().any(|field| field == "text") {
            return Err(BuildError::NothingToSplit);
        }
        let template = &config.passage_template;
        Ok(Some(Self::of(
            encoder,
            template,
            config.passage_pair,
            stride,
        )))
    }

    /// The splitter of a generation, whose settings were checked when it was built.
    pub fn of(encoder: &'a BiEncoder, template: &'a Template, pair: bool, stride: usize) -> Self {
        let max_tokens = encoder.max_tokens(Role::Passage);
        Self {
            encoder,
            template,
            pair,
            max_tokens,
            overlap: max_tokens.saturating_sub(stride),
        }
    }

    /// Returns the number of passages of a document.
    pub fn n_parts(self, document: &Passage) -> Result<usize, EncodeError> {
        Ok(self.windows(document)?.len())
    }

    /// Returns the passages of a document, at least one, each with the document's title and metadata.
    pub fn split(self, document: &Passage) -> Result<Vec<Part>, EncodeError> {
        let text = document.text.as_str();
        let windows = self.windows(document)?;
        let mut place = Place {
            byte: 0,
            character: 0,
        };
        let mut parts = Vec::with_capacity(windows.len());
        for (bytes, number) in windows.into_iter().zip(0..) {
            let start = place.advance(text, bytes.start);
            let mut end = place;
            parts.push(Part {
                passage: Passage {
                    id: passage_id(&document.id, number),
                    title: document.title.clone(),
                    text: text[bytes.clone()].to_owned(),
                    metadata: document.metadata.clone(),
                },
                characters: Some(start..end.advance(text, bytes.end)),
            });
        }
        Ok(parts)
    }

    /// Bytes of each passage, without white space around them if there is more than one.
    fn windows(self, document: &Passage) -> Result<Vec<Range<usize>>, EncodeError> {
        let text = document.text.as_str();
        let room = self.room(document)?;
        let mut units = Vec::new();
        for (start, sentence) in text.split_sentence_bound_indices() {
            self.push_sentence(&mut units, room, start, sentence)?;
        }
        let n_tokens: usize = units.iter().map(|unit| unit.n_tokens).sum();
        if n_tokens <= room {
            let whole = 0..text.len();
            return Ok(Vec::from([whole]));
        }
        let trimmed = |run: Range<usize>| {
            let bytes = units[run.start].bytes.start..units[run.end - 1].bytes.end;
            let text = &text[bytes.clone()];
            let start = bytes.start + (text.len() - text.trim_start().len());
            start..start + text.trim().len()
        };
        let mut windows: Vec<_> = runs(&units, room, self.overlap)
            .into_iter()
            .map(trimmed)
            .collect();
        // A run of white space is no passage, unless it is all there is.
        windows.dedup_by(|later, _| later.start == later.end);
        if windows.len() > 1 && windows[0].is_empty() {
            windows.remove(0);
        }
        Ok(windows)
    }

    /// Tokens that title, prompt and special tokens leave to the text.
    fn room(self, document: &Passage) -> Result<usize, EncodeError> {
        let empty = Passage {
            id: document.id.clone(),
            title: document.title.clone(),
            text: String::new(),
            metadata: document.metadata.clone(),
        };
        let rendered = self.template.render(&empty).text;
        let input = match self.pair {
            true => Text::Pair(&empty.title, &rendered),
            false => Text::Single(&rendered),
        };
        let n_taken = self.encoder.tokenize(Role::Passage, &[input])?[0].len();
        let least = self.max_tokens.div_ceil(2);
        Ok((self.max_tokens - n_taken.min(self.max_tokens)).max(least))
    }

    fn push_sentence(
        self,
        units: &mut Vec<Unit>,
        room: usize,
        start: usize,
        sentence: &str,
    ) -> Result<(), EncodeError> {
        let n_tokens = self.encoder.count_tokens(sentence)?;
        if n_tokens <= room {
            units.push(Unit {
                bytes: start..start + sentence.len(),
                n_tokens,
            });
            return Ok(());
        }
        // White space goes with the word behind it, as the tokenizers that keep it have it.
        let mut begin = 0;
        for (at, word) in sentence.split_word_bound_indices() {
            if !word.trim().is_empty() {
                let end = at + word.len();
                self.push_word(units, room, start + begin, &sentence[begin..end])?;
                begin = end;
            }
        }
        self.push_word(units, room, start + begin, &sentence[begin..])
    }

    fn push_word(
        self,
        units: &mut Vec<Unit>,
        room: usize,
        start: usize,
        word: &str,
    ) -> Result<(), EncodeError> {
        let n_tokens = self.encoder.count_tokens(word)?;
        let middle = word.ceil_char_boundary(word.len().div_ceil(2));
        if n_tokens <= room || middle == word.len() {
            let bytes = start..start + word.len();
            units.extend((!word.is_empty()).then_some(Unit { bytes, n_tokens }));
            return Ok(());
        }
        self.push_word(units, room, start, &word[..middle])?;
        self.push_word(units, room, start + middle, &word[middle..])
    }
}

/// Runs of units of at most `room` tokens, or of one unit, that share at most `overlap` tokens with the run before and
/// each hold at least one unit more.
fn runs(units: &[Unit], room: usize, overlap: usize) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut end, mut n_tokens) = (0, 0, 0);
    while end < units.len() {
        while end < units.len() && (start == end || n_tokens + units[end].n_tokens <= room) {
            n_tokens += units[end].n_tokens;
            end += 1;
        }
        runs.push(start..end);
        let Some(next) = units.get(end) else { break };
        // The run from `start` to `end` loses units until it is short enough to be shared and leaves room for the next.
        while start < end && (n_tokens > overlap || n_tokens + next.n_tokens > room) {
            n_tokens -= units[start].n_tokens;
            start += 1;
        }
    }
    runs
}

/// A place in a text, which moves forward only.
#[derive(Clone, Copy)]
struct Place {
    byte: usize,
    character: u32,
}

impl Place {
    /// Moves to a byte and returns how many characters are before it.
    fn advance(&mut self, text: &str, byte: usize) -> u32 {
        self.character += text[self.byte..byte].chars().count() as u32;
        self.byte = byte;
        self.character
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_runs(n_tokens: &[usize], room: usize, overlap: usize, expected: &[Range<usize>]) {
        let unit = |&n_tokens: &usize| Unit {
            bytes: 0..0,
            n_tokens,
        };
        let units: Vec<_> = n_tokens.iter().map(unit).collect();
        let found = runs(&units, room, overlap);
        assert_eq!(found, expected, "{n_tokens:?} in {room}, sharing {overlap}");
    }

    #[test]
    fn runs_are_as_long_as_there_is_room_and_share_what_they_may() {
        check_runs(&[3, 3, 3, 3], 6, 0, &[0..2, 2..4]);
        check_runs(&[3, 3, 3, 3], 6, 3, &[0..2, 1..3, 2..4]);
        check_runs(&[3, 3, 3, 3], 6, 2, &[0..2, 2..4]);
        check_runs(&[2, 2, 2, 5, 1], 6, 4, &[0..3, 3..5]); // 4 shared would leave no room for 5
        check_runs(&[2, 2, 2, 3, 1], 6, 4, &[0..3, 2..5]);
        check_runs(&[9, 1, 9], 6, 3, &[0..1, 1..2, 2..3]); // units that fit nowhere stand alone
        check_runs(&[1; 7], 3, 2, &[0..3, 1..4, 2..5, 3..6, 4..7]);
        check_runs(&[0, 6, 0, 0, 6, 0], 6, 5, &[0..4, 2..6]);
        check_runs(&[], 6, 3, &[]);
    }

    #[test]
    fn every_unit_is_in_a_run_and_every_run_moves_on() {
        let mut state = 1_u64;
        let mut draw = |n: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..2_000 {
            let units: Vec<_> = (0..draw(30))
                .map(|_| Unit {
                    bytes: 0..0,
                    n_tokens: draw(9) as usize,
                })
                .collect();
            let (room, overlap) = (1 + draw(12) as usize, draw(13) as usize);
            let found = runs(&units, room, overlap);
            let n_of = |run: &Range<usize>| -> usize {
                units[run.clone()].iter().map(|unit| unit.n_tokens).sum()
            };
            assert_eq!(found.first().map_or(0, |run| run.start), 0);
            assert_eq!(found.last().map_or(0, |run| run.end), units.len());
            for run in &found {
                assert!(run.len() == 1 || n_of(run) <= room);
            }
            for pair in found.windows(2) {
                assert!(pair[0].start < pair[1].start && pair[0].end < pair[1].end);
                assert!(pair[1].start <= pair[0].end);
                assert!(n_of(&(pair[1].start..pair[0].end)) <= overlap);
            }
        }
    }
}
