//! BERT's word pieces without the alignments, strings and copies that the tokenizers crate makes for each token.
//!
//! Cleaning, accents, lower-casing and splitting are the crate's own: what a character becomes is asked of its
//! `BertNormalizer` and `BertPreTokenizer` once and kept in a table, where special tokens stand is asked of its post-processor.
//! That is the same text in the end because all of them work on one character at a time, but for the canonical order of combining
//! marks; a text with a mark whose order could matter is left to the crate, and so is one that spells a special token.

use std::sync::OnceLock;

use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Encoding, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PostProcessorWrapper, PreTokenizedString, PreTokenizer, PreTokenizerWrapper, Token, Tokenizer,
};

/// Longest words, in characters, for which a buffer is kept; BERT has 100.
const MAX_WORD_CHARS: usize = 1 << 12;

/// Characters in a block of [`WordPieces::blocks`].
const BLOCK: usize = 128;

/// The fast twin of a tokenizer that is BERT's: same ids.
pub(super) struct WordPieces {
    normalizer: NormalizerWrapper,
    /// What an ASCII character becomes within a word; 0 for those that are no letter, digit or the like.
    letters: [u8; 256],
    kinds: [Kind; 256],
    /// The token of each ASCII character that is a word of its own.
    punctuation: [u32; BLOCK],
    /// What the characters become, filled when a text has the first of a block; a text of all Unicode fills 12 MB.
    blocks: Box<[OnceLock<Box<Block>>]>,
    pieces: Pieces,
    unknown: u32,
    /// Longer words are unknown.
    max_word_chars: usize,
    /// Texts of the added tokens.
    added: Vec<String>,
    single: Vec<Slot>,
    pair: Vec<Slot>,
}

/// How a byte is read outside of a word's plain letters.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Space,
    Punctuation,
    /// Punctuation with which an added token begins.
    Added,
    /// Everything that goes through [`WordPieces::blocks`].
    Other,
}

/// A place in the model's input.
#[derive(Clone, Copy)]
pub(super) enum Slot {
    Special { id: u32, type_id: u32 },
    First { type_id: u32 },
    Second { type_id: u32 },
}

impl WordPieces {
    /// Returns the fast twin when every part of `tokenizer` is known to be covered, else none.
    pub(super) fn new(tokenizer: &Tokenizer) -> Option<Self> {
        let normalizer = tokenizer.get_normalizer()?;
        let bert = bert_normalizer(normalizer)?;
        let Some(PreTokenizerWrapper::BertPreTokenizer(_)) = tokenizer.get_pre_tokenizer() else {
            return None;
        };
        let ModelWrapper::WordPiece(model) = tokenizer.get_model() else {
            return None;
        };
        match tokenizer.get_post_processor() {
            None
            | Some(
                PostProcessorWrapper::Bert(_)
                | PostProcessorWrapper::Roberta(_)
                | PostProcessorWrapper::Template(_),
            ) => {}
            Some(_) => return None,
        }
        if model.max_input_chars_per_word > MAX_WORD_CHARS || tokenizer.get_encode_special_tokens()
        {
            return None;
        }
        // A normalized one is looked for in the normalized text. The other flags say what happens where one was found.
        let added = tokenizer.get_added_tokens_decoder();
        if added.values().any(|token| token.normalized) {
            return None;
        }
        let vocabulary = tokenizer.get_vocab(false);
        let pieces = Pieces::new(&vocabulary, &model.continuing_subword_prefix)?;
        let mut tables = Self {
            letters: [0; 256],
            kinds: [Kind::Other; 256],
            punctuation: [0; BLOCK],
            blocks: (0..=char::MAX as usize / BLOCK)
                .map(|_| OnceLock::new())
                .collect(),
            pieces,
            unknown: *vocabulary.get(&model.unk_token)?,
            max_word_chars: model.max_input_chars_per_word,
            added: added.into_values().map(|token| token.content).collect(),
            single: slots(tokenizer, false)?,
            pair: slots(tokenizer, true)?,
            normalizer: normalizer.clone(),
        };
        tables.fill_ascii(bert);
        for token in &tables.added {
            let first = *token.as_bytes().first()? as usize;
            if !matches!(tables.kinds[first], Kind::Punctuation | Kind::Added) {
                return None;
            }
            tables.kinds[first] = Kind::Added;
        }
        Some(tables)
    }

    fn fill_ascii(&mut self, bert: &BertNormalizer) {
        let block = Block::new(&self.normalizer, bert, 0);
        for byte in 0..BLOCK {
            match block.effect(byte).map(str::as_bytes) {
                Some([b' ']) => self.kinds[byte] = Kind::Space,
                Some(&[letter]) => self.letters[byte] = letter,
                Some(&[b' ', mark, b' ']) => {
                    self.kinds[byte] = Kind::Punctuation;
                    let mut word = Word::new(self.max_word_chars);
                    word.push(mark);
                    let mut ids = Vec::new();
                    self.append_word(&mut word, &mut ids);
                    self.punctuation[byte] = ids[0];
                }
                _ => {}
            }
        }
    }

    /// Where the tokens of one text, or of two, stand among the special ones.
    pub(super) fn slots(&self, is_pair: bool) -> &[Slot] {
        if is_pair { &self.pair } else { &self.single }
    }

    /// Returns the ids of a text, without special tokens, or none when only the crate knows them.
    ///
    /// Reading stops when there are more than `limit`; the first `limit` are right in any case, because nothing that
    /// follows the end of a word reaches back over it.
    pub(super) fn ids(&self, text: &str, limit: usize) -> Option<Vec<u32>> {
        let bytes = text.as_bytes();
        let mut ids = Vec::with_capacity(limit.min(bytes.len() / 4) + 8);
        let mut word = Word::new(self.max_word_chars);
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let letter = self.letters[byte as usize];
            if letter != 0 {
                word.push(letter);
                at += 1;
                continue;
            }
            let kind = self.kinds[byte as usize];
            if kind == Kind::Other {
                let c = text[at..].chars().next().expect("at is before the end");
                for byte in self.effect(c)?.bytes() {
                    match byte {
                        b' ' => self.append_word(&mut word, &mut ids),
                        byte => word.push(byte),
                    }
                }
                at += c.len_utf8();
            } else {
                let starts = |token: &String| bytes[at..].starts_with(token.as_bytes());
                if kind == Kind::Added && self.added.iter().any(starts) {
                    return None;
                }
                self.append_word(&mut word, &mut ids);
                if kind != Kind::Space {
                    ids.push(self.punctuation[byte as usize]);
                }
                at += 1;
            }
            if ids.len() > limit {
                return Some(ids);
            }
        }
        self.append_word(&mut word, &mut ids);
        Some(ids)
    }

    /// What a character becomes, or none when that depends on its neighbors.
    fn effect(&self, c: char) -> Option<&str> {
        let c = c as usize;
        self.blocks[c / BLOCK]
            .get_or_init(|| {
                let bert = bert_normalizer(&self.normalizer).expect("checked by the constructor");
                Box::new(Block::new(&self.normalizer, bert, c / BLOCK))
            })
            .effect(c % BLOCK)
    }

    /// Splits a word, greedily by the longest piece, into tokens, and empties it.
    fn append_word(&self, word: &mut Word, ids: &mut Vec<u32>) {
        let length = std::mem::take(&mut word.length);
        if length == 0 {
            return;
        }
        let n_before = ids.len();
        let is_long =
            length > self.max_word_chars && n_chars(&word.bytes[..length]) > self.max_word_chars;
        let mut start = 0;
        while start < length && !is_long {
            let rest = &word.bytes[start..];
            let longest = (length - start).min(self.pieces.longest);
            let found = (1..=longest)
                .rev()
                .find_map(|n| Some((n, self.pieces.find(rest, n, start > 0)?)));
            let Some((n, id)) = found else { break };
            ids.push(id);
            start += n;
        }
        if start < length {
            ids.truncate(n_before);
            ids.push(self.unknown);
        }
    }
}

/// BERT's normalizer, alone or after the lower-casing that sentence-transformers asks for.
fn bert_normalizer(normalizer: &NormalizerWrapper) -> Option<&BertNormalizer> {
    match normalizer {
        NormalizerWrapper::BertNormalizer(bert) => Some(bert),
        NormalizerWrapper::Sequence(steps) => match steps.as_ref() {
            [NormalizerWrapper::BertNormalizer(bert)]
            | [
                NormalizerWrapper::Lowercase(_),
                NormalizerWrapper::BertNormalizer(bert),
            ] => Some(bert),
            _ => None,
        },
        _ => None,
    }
}

/// Reads the order of special tokens and texts off what the post-processor makes of one token each.
fn slots(tokenizer: &Tokenizer, is_pair: bool) -> Option<Vec<Slot>> {
    let text = |id| Encoding::from_tokens(vec![Token::new(id, String::new(), (0, 0))], 0);
    let encoding = tokenizer
        .post_process(text(0), is_pair.then(|| text(1)), true)
        .ok()?;
    let special = encoding.get_special_tokens_mask();
    let tokens = encoding.get_ids().iter().zip(encoding.get_type_ids());
    let slot = |((&id, &type_id), &special): ((&u32, &u32), &u32)| match (special, id) {
        (0, 0) => Slot::First { type_id },
        (0, _) => Slot::Second { type_id },
        _ => Slot::Special { id, type_id },
    };
    Some(tokens.zip(special).map(slot).collect())
}

/// What 128 characters become, by the crate's normalizer and pre-tokenizer. A space ends a word.
struct Block {
    effects: String,
    /// End of each effect, and whether it stands whatever the neighbors are.
    ends: [(u16, bool); BLOCK],
}

impl Block {
    fn new(normalizer: &NormalizerWrapper, bert: &BertNormalizer, index: usize) -> Self {
        let decomposes = bert.strip_accents.unwrap_or(bert.lowercase);
        let mut effects = String::new();
        let ends = std::array::from_fn(|i| {
            let c = char::from_u32((index * BLOCK + i) as u32);
            let effect = c.and_then(|c| effect_of(normalizer, decomposes, c));
            effects.push_str(effect.as_deref().unwrap_or_default());
            // An effect is four characters and two spaces at most.
            (effects.len() as u16, effect.is_some())
        });
        Self { effects, ends }
    }

    fn effect(&self, i: usize) -> Option<&str> {
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before].0);
        let (end, is_known) = self.ends[i];
        is_known.then(|| &self.effects[start as usize..end as usize])
    }
}

fn effect_of(normalizer: &NormalizerWrapper, decomposes: bool, c: char) -> Option<String> {
    let mut normalized = NormalizedString::from(c.to_string());
    normalizer.normalize(&mut normalized).ok()?;
    let normalized = normalized.get();
    if decomposes && normalized.chars().any(is_reordered) {
        return None;
    }
    let mut split = PreTokenizedString::from(format!("a{normalized}a"));
    BertPreTokenizer.pre_tokenize(&mut split).ok()?;
    let words: Vec<&str> = split
        .get_splits(OffsetReferential::Normalized, OffsetType::None)
        .into_iter()
        .map(|(word, _, _)| word)
        .collect();
    Some(
        words
            .join(" ")
            .strip_prefix('a')?
            .strip_suffix('a')?
            .to_owned(),
    )
}

/// Whether canonical ordering moves a character: it then trades places with a mark of the lowest class (1, U+0334) after it
/// or of the highest (240, U+0345) before it.
fn is_reordered(c: char) -> bool {
    let moves = |text: String| {
        let mut ordered = NormalizedString::from(text.as_str());
        ordered.nfd();
        ordered.get() != text
    };
    !c.is_ascii() && (moves(format!("{c}\u{334}")) || moves(format!("\u{345}{c}")))
}

fn n_chars(utf8: &[u8]) -> usize {
    utf8.iter().filter(|&&byte| byte & 0xC0 != 0x80).count()
}

/// The word being read. What is beyond one more than the bytes of the longest known word is dropped.
struct Word {
    /// Followed by at least eight bytes that a key may read.
    bytes: Vec<u8>,
    length: usize,
    max_length: usize,
}

impl Word {
    fn new(max_chars: usize) -> Self {
        let max_length = 4 * max_chars + 1;
        Self {
            bytes: vec![0; max_length + 8],
            length: 0,
            max_length,
        }
    }

    fn push(&mut self, byte: u8) {
        if self.length < self.max_length {
            self.bytes[self.length] = byte;
            self.length += 1;
        }
    }
}

/// The vocabulary: an open-addressing table with short pieces in the table itself.
struct Pieces {
    entries: Vec<Entry>,
    /// The table has 2^(64 − shift) entries.
    shift: u32,
    /// Pieces longer than eight bytes, each after the byte that says which of the two kinds it is.
    text: Vec<u8>,
    /// Bytes of the longest piece.
    longest: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    /// The bytes of a piece of eight or less, else the hash.
    key: u64,
    id: u32,
    /// The tag of a short piece, the place in the text of a long one.
    place: u32,
}

/// Marks an entry as empty.
const NO_ID: u32 = u32::MAX;

/// Before a piece in [`Pieces::text`]; not bytes of UTF-8.
const MARKS: [u8; 2] = [0xFE, 0xFF];

impl Pieces {
    /// Every piece can start a word; those with the prefix can go on, without it.
    fn new<'a>(
        vocabulary: impl IntoIterator<Item = (&'a String, &'a u32)>,
        prefix: &str,
    ) -> Option<Self> {
        let mut pieces: Vec<(&str, bool, u32)> = Vec::new();
        for (piece, &id) in vocabulary {
            pieces.push((piece, false, id));
            pieces.extend(piece.strip_prefix(prefix).map(|rest| (rest, true, id)));
        }
        pieces.retain(|(piece, _, _)| !piece.is_empty());
        let n_entries = (2 * pieces.len()).next_power_of_two().max(2);
        let mut table = Self {
            entries: vec![
                Entry {
                    key: 0,
                    id: NO_ID,
                    place: 0
                };
                n_entries
            ],
            shift: 64 - n_entries.trailing_zeros(),
            text: vec![0; 64], // no place is also a tag
            longest: 0,
        };
        for (piece, continues, id) in pieces {
            let length = piece.len();
            let place = if length <= 8 {
                tag(length, continues)
            } else {
                table.text.push(MARKS[usize::from(continues)]);
                let place = table.text.len();
                table.text.extend_from_slice(piece.as_bytes());
                u32::try_from(place).ok()?
            };
            let mut padded = piece.as_bytes().to_vec();
            padded.resize(length + 8, 0);
            let (key, mut i) = table.key(&padded, length, continues);
            while table.entries[i].id != NO_ID {
                i = (i + 1) % n_entries;
            }
            if id == NO_ID {
                return None;
            }
            table.entries[i] = Entry { key, id, place };
            table.longest = table.longest.max(length);
        }
        table.text.push(MARKS[0]);
        Some(table)
    }

    /// Looks up the first `length` of the bytes, of which there are eight more.
    fn find(&self, padded: &[u8], length: usize, continues: bool) -> Option<u32> {
        let (key, mut i) = self.key(padded, length, continues);
        loop {
            let entry = self.entries[i];
            if entry.id == NO_ID {
                return None;
            }
            if entry.key == key {
                let is_same = if length <= 8 {
                    entry.place == tag(length, continues)
                } else {
                    let start = entry.place as usize;
                    self.text.get(start..start + length) == Some(&padded[..length])
                        && self.text[start - 1] == MARKS[usize::from(continues)]
                        && MARKS.contains(&self.text[start + length])
                };
                if is_same {
                    return Some(entry.id);
                }
            }
            i = (i + 1) & (self.entries.len() - 1);
        }
    }

    /// Key and first place of a piece.
    fn key(&self, padded: &[u8], length: usize, continues: bool) -> (u64, usize) {
        // Odd numbers from the digits of the golden ratio and of pi.
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        const MIX: u64 = 0x2432_F6A8_885A_308D;
        let eight = |at: usize| {
            u64::from_le_bytes(
                padded[at..at + 8]
                    .try_into()
                    .expect("eight bytes were taken"),
            )
        };
        let mut key = 0;
        let mut at = 0;
        while length - at > 8 {
            key = (key ^ eight(at)).wrapping_mul(MIX).rotate_left(29);
            at += 8;
        }
        key ^= eight(at) & (u64::MAX >> (64 - 8 * (length - at)));
        let spread = (key ^ u64::from(tag(length, continues)) << 57).wrapping_mul(SPREAD);
        (
            key,
            ((spread ^ spread >> 32).wrapping_mul(SPREAD) >> self.shift) as usize,
        )
    }
}

fn tag(length: usize, continues: bool) -> u32 {
    (length as u32) << 1 | u32::from(continues)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;

    /// Words of every length up to 24 over few letters, NUL among them, so that keys and places collide.
    fn words(seed: u64) -> BTreeSet<String> {
        let mut state = seed;
        let mut draw = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state >> 33 & (n - 1)
        };
        let mut word = || {
            (0..draw(32) % 25)
                .map(|_| ["a", "\0", "aaaa", "é"][draw(4) as usize])
                .collect()
        };
        (0..64).map(|_| word()).collect()
    }

    #[test]
    fn the_table_holds_what_a_map_holds() {
        for seed in 0..500 {
            let all = words(seed);
            // Every word starts or goes on or does both or neither, by its number.
            let mut pieces = HashMap::new();
            for (i, word) in (0..).zip(&all) {
                if i & 1 == 0 {
                    pieces.insert(word.clone(), i);
                }
                if i & 2 == 0 {
                    pieces.insert(format!("##{word}"), i + 1_000);
                }
            }
            let table = Pieces::new(&pieces, "##").expect("a small vocabulary");
            for word in all.iter().filter(|word| !word.is_empty()) {
                let padded = [word.as_bytes(), b"aaaaaaaa"].concat();
                let found = |continues| table.find(&padded, word.len(), continues);
                assert_eq!(found(false), pieces.get(word).copied(), "{word:?}");
                let going_on = pieces.get(&format!("##{word}"));
                assert_eq!(found(true), going_on.copied(), "##{word:?}");
            }
        }
    }
}
