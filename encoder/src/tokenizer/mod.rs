#[cfg(test)]
mod identity;
mod learning;
mod word_piece;

pub use learning::{LearnedWordPieces, WordCounts, WordPieceConfig};

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use tokenizers::normalizers::{Lowercase, NormalizerWrapper, Sequence};
use tokenizers::utils::truncation::{TruncationDirection, TruncationParams, truncate_encodings};
use tokenizers::{Encoding, PostProcessor, Tokenizer};

use crate::directory::{catch_damage, read_bytes, read_json};
use crate::error::LoadError;
use crate::tokenizer::word_piece::{Slot, WordPieces};

/// What the model is asked to read: one text, or two that it sees as first and second segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// One text.
    Single(&'a str),
    /// First and second segment, such as title and text.
    Pair(&'a str, &'a str),
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self::Single(text)
    }
}

/// A tokenised text, special tokens included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segment of each token: 0, or 1 in the second text of a pair where the model distinguishes them.
    pub type_ids: Vec<u32>,
    /// Leading tokens that the pooling leaves out: those of the prompt in the few models that ask for it, else 0.
    pub n_unpooled: usize,
    /// Whether tokens were cut off.
    pub truncated: bool,
}

impl Tokens {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Which text of a pair loses tokens when both are too long together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The longer one, down to the length of the other, then both: what [`crate::CrossEncoder`] does.
    #[default]
    LongestFirst,
    /// The second, then what is left of the first.
    OnlySecond,
}

/// The end at which a text that is too long loses tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Its beginning.
    Left,
    /// Its end.
    Right,
}

/// A token and where it stands in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its id.
    pub id: u32,
    /// The token as the vocabulary has it.
    pub token: String,
    /// Whether it is a special token.
    pub special: bool,
    /// Bytes of the text that it stands for; empty for one that was added.
    pub bytes: Range<usize>,
}

/// The tokenizer of a model directory, without the truncation and padding that its file may carry.
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// The fast path, where the tokenizer is one that it covers.
    word_pieces: Option<WordPieces>,
    truncation: TruncationDirection,
    /// Whether the model distinguishes segments.
    has_types: bool,
    /// `model_max_length` of tokenizer_config.json.
    pub(crate) max_tokens: Option<usize>,
    /// sha256 of tokenizer.json as used: canonical JSON, without truncation and padding.
    pub(crate) digest: String,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    model_max_length: Option<f64>, // "no limit" is stored as 1e30
    #[serde(default)]
    truncation_side: Option<String>,
    #[serde(default)]
    model_input_names: Option<Vec<String>>,
    #[serde(default)]
    tokenizer_class: Option<String>,
    // What BERT's tokenizer needs beside a vocabulary.
    #[serde(default)]
    do_lower_case: Option<bool>,
    /// Null is a setting too: accents go where letters are lower-cased.
    #[serde(default, deserialize_with = "stated")]
    strip_accents: Option<Option<bool>>,
    #[serde(default)]
    tokenize_chinese_chars: Option<bool>,
    /// Whether byte pieces read a text as if a space stood before it.
    #[serde(default)]
    add_prefix_space: Option<bool>,
}

/// Tells a key that is null from one that is not there.
fn stated<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<bool>>, D::Error> {
    Deserialize::deserialize(value).map(Some)
}

/// Classes of transformers that take a `tokenizer.json` as it is.
const AS_STORED: [&str; 2] = ["PreTrainedTokenizerFast", "TokenizersBackend"];

impl TokenizerConfig {
    /// Gives BERT's normalizer of a `tokenizer.json` the settings of this file, which stand above it in transformers, and
    /// says whether that changes it.
    fn set_normalizer(&self, stored: &mut Value) -> bool {
        let class = self.tokenizer_class.as_deref();
        let normalizer = stored.get_mut("normalizer").and_then(Value::as_object_mut);
        let Some(normalizer) = normalizer else {
            return false;
        };
        if class.is_some_and(|class| AS_STORED.contains(&class))
            || normalizer.get("type").and_then(Value::as_str) != Some("BertNormalizer")
        {
            return false;
        }
        let mut is_changed = false;
        for (name, value) in [
            ("lowercase", self.do_lower_case.map(Value::from)),
            ("strip_accents", self.strip_accents.map(Value::from)),
            (
                "handle_chinese_chars",
                self.tokenize_chinese_chars.map(Value::from),
            ),
        ] {
            let Some(value) = value else { continue };
            if *normalizer.get(name).unwrap_or(&Value::Null) != value {
                normalizer.insert(name.to_owned(), value);
                is_changed = true;
            }
        }
        is_changed
    }

    /// Does the same for byte pieces, whatever the class, and their offsets.
    fn set_prefix_space(&self, stored: &mut Value) -> bool {
        let Some(value) = self.add_prefix_space.map(Value::from) else {
            return false;
        };
        let is_of_bytes = stored["pre_tokenizer"]["type"] == "ByteLevel";
        if !is_of_bytes || stored["pre_tokenizer"]["add_prefix_space"] == value {
            return false;
        }
        for part in ["pre_tokenizer", "post_processor"] {
            let part = stored.get_mut(part).and_then(Value::as_object_mut);
            if let Some(entry) = part.and_then(|part| part.get_mut("add_prefix_space")) {
                *entry = value.clone();
            }
        }
        true
    }
}

impl TextTokenizer {
    /// Reads `tokenizer.json`, else builds BERT's tokenizer from `vocab.txt`, which is all that old checkpoints have.
    ///
    /// Where `tokenizer_config.json` says otherwise than BERT's normalizer in `tokenizer.json`, or of the space before byte pieces,
    /// it is followed, as transformers does.
    /// `lower_case` puts a step before the tokenizer's own, as `sentence_bert_config.json` may ask for.
    ///
    /// # Errors
    /// [`LoadError`], naming the file.
    pub fn load(folder: &Path, lower_case: bool) -> Result<Self, LoadError> {
        let config_path = folder.join("tokenizer_config.json");
        let config: TokenizerConfig = if config_path.exists() {
            read_json(&config_path)?
        } else {
            Default::default()
        };
        let vocabulary = folder.join("vocab.txt");
        let mut path = folder.join("tokenizer.json");
        let bytes = if path.exists() || !vocabulary.exists() {
            read_bytes(&path)?
        } else {
            path = vocabulary;
            word_piece(&path, &config)?.to_string().into_bytes()
        };
        let mut stored: Value =
            serde_json::from_slice(&bytes).map_err(|source| LoadError::Json {
                path: path.clone(),
                source,
            })?;
        let is_changed = [
            config.set_normalizer(&mut stored),
            config.set_prefix_space(&mut stored),
        ];
        let bytes = match is_changed.contains(&true) {
            true => stored.to_string().into_bytes(),
            false => bytes,
        };
        let refuse = |error: tokenizers::Error| LoadError::Tokenizer {
            path: path.clone(),
            reason: error.to_string(),
        };
        let parse = || Tokenizer::from_bytes(&bytes).map_err(|error| error.to_string());
        let mut tokenizer = catch_damage(parse).map_err(|reason| LoadError::Tokenizer {
            path: path.clone(),
            reason,
        })?;
        tokenizer.with_truncation(None).map_err(refuse)?;
        tokenizer.with_padding(None);
        if lower_case {
            // sentence-transformers puts it first; lower-casing twice changes nothing.
            let mut steps = vec![NormalizerWrapper::Lowercase(Lowercase)];
            steps.extend(tokenizer.get_normalizer().cloned());
            tokenizer
                .with_normalizer(Some(Sequence::new(steps)))
                .map_err(refuse)?;
        }
        let truncation = match config.truncation_side.as_deref() {
            None | Some("right") => TruncationDirection::Right,
            Some("left") => TruncationDirection::Left,
            Some(other) => {
                let reason = format!("truncation_side is `{other}`; supported are left and right");
                return Err(LoadError::Config {
                    path: config_path,
                    reason,
                });
            }
        };
        if let Some(entries) = stored.as_object_mut() {
            entries.remove("truncation");
            entries.remove("padding");
        }
        let settings = json!({
            "tokenizer": stored,
            "lower_case": lower_case,
            "truncation_side": truncation.as_ref(),
        });
        // It asks the post-processor, which panics as the library's own reader does.
        let word_pieces = catch_damage(|| Ok(WordPieces::new(&tokenizer))).map_err(|reason| {
            LoadError::Tokenizer {
                path: path.clone(),
                reason,
            }
        })?;
        let tokenizer = Self {
            word_pieces,
            tokenizer,
            truncation,
            has_types: config
                .model_input_names
                .is_none_or(|names| names.iter().any(|name| name == "token_type_ids")),
            max_tokens: config
                .model_max_length
                .filter(|&length| length < 1e9)
                .map(|length| length as usize),
            digest: crate::fingerprint::sha256_of_json(&settings),
        };
        // A tokenizer that contradicts itself fails when it is used: better now than in the middle of a corpus.
        let probe = |text| {
            tokenizer
                .encode("", text, usize::MAX)
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        catch_damage(|| probe(Text::Single("a")).and_then(|()| probe(Text::Pair("a", "b"))))
            .map_err(|reason| LoadError::Tokenizer { path, reason })?;
        Ok(tokenizer)
    }

    /// Special tokens around one text, or around a pair.
    pub fn n_special(&self, is_pair: bool) -> usize {
        self.tokenizer
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(is_pair))
    }

    /// Largest token id plus one.
    pub fn n_ids(&self) -> usize {
        self.tokenizer
            .get_vocab(true)
            .values()
            .max()
            .map_or(0, |&id| id as usize + 1)
    }

    /// SHA-256 of tokenizer.json as it is used: canonical JSON, without truncation and padding.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The text of each token id, and none where no token has the id.
    pub fn pieces(&self) -> Vec<String> {
        let mut pieces = vec![String::new(); self.n_ids()];
        for (piece, id) in self.tokenizer.get_vocab(true) {
            pieces[id as usize] = piece;
        }
        pieces
    }

    /// Tokenises, cuts to `max_tokens` as transformers does (the longer text of a pair first), adds special tokens.
    ///
    /// The prompt stands right before the first text.
    ///
    /// # Errors
    /// What the tokenizers crate says, and a `max_tokens` below the number of special tokens.
    pub fn encode(
        &self,
        prompt: &str,
        text: Text<'_>,
        max_tokens: usize,
    ) -> Result<Tokens, tokenizers::Error> {
        self.encode_from(prompt, text, max_tokens, None)
    }

    /// [`Self::encode`], losing tokens at `side` where it is given.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_from(
        &self,
        prompt: &str,
        text: Text<'_>,
        max_tokens: usize,
        side: Option<Side>,
    ) -> Result<Tokens, tokenizers::Error> {
        let room = self.room(matches!(text, Text::Pair(..)), max_tokens)?;
        let direction = match side {
            Some(Side::Left) => TruncationDirection::Left,
            Some(Side::Right) => TruncationDirection::Right,
            None => self.truncation,
        };
        match self.encode_word_pieces(prompt, text, room, direction) {
            Some(tokens) => Ok(tokens),
            None => self.encode_plain(prompt, text, room, direction),
        }
    }

    /// Tokenises a pair of whose second text only the first `max_second` tokens are read.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_second_cut(
        &self,
        first: &str,
        second: &str,
        max_second: usize,
        max_tokens: usize,
    ) -> Result<Tokens, tokenizers::Error> {
        let (first, second) = (self.ids(first)?, self.ids(second)?);
        let kept = &second[..second.len().min(max_second)];
        let tokens = self.assemble(&first, Some(kept), max_tokens, Truncation::LongestFirst)?;
        Ok(Tokens {
            truncated: tokens.truncated || kept.len() < second.len(),
            ..tokens
        })
    }

    /// The tokens of a text and where they stand in it, uncut.
    ///
    /// # Errors
    /// What the tokenizers crate says.
    pub fn pieces_of(
        &self,
        text: &str,
        add_special: bool,
    ) -> Result<Vec<Piece>, tokenizers::Error> {
        let encoding = self.tokenizer.encode(text, add_special)?;
        let fields = encoding
            .get_ids()
            .iter()
            .zip(encoding.get_tokens())
            .zip(encoding.get_special_tokens_mask())
            .zip(encoding.get_offsets());
        let piece =
            |(((&id, token), &special), &(start, end)): (((&u32, &String), &u32), _)| Piece {
                id,
                token: token.clone(),
                special: special == 1,
                bytes: start..end,
            };
        Ok(fields.map(piece).collect())
    }

    /// Token ids of a text without special tokens.
    ///
    /// # Errors
    /// What the tokenizers crate says.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, tokenizers::Error> {
        if let Some(ids) = self
            .word_pieces
            .as_ref()
            .and_then(|word_pieces| word_pieces.ids(text, usize::MAX))
        {
            return Ok(ids);
        }
        Ok(self.tokenizer.encode_fast(text, false)?.get_ids().to_vec())
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// What the tokenizers crate says.
    pub fn text(&self, ids: &[u32]) -> Result<String, tokenizers::Error> {
        self.tokenizer.decode(ids, true)
    }

    /// The text of token ids, special tokens included.
    ///
    /// # Errors
    /// What the tokenizers crate says.
    pub fn text_with_special(&self, ids: &[u32]) -> Result<String, tokenizers::Error> {
        self.tokenizer.decode(ids, false)
    }

    /// Cuts ids without special tokens, of one text or of a pair, to `max_tokens` and puts special tokens around them.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn assemble(
        &self,
        first: &[u32],
        second: Option<&[u32]>,
        max_tokens: usize,
        truncation: Truncation,
    ) -> Result<Tokens, tokenizers::Error> {
        let room = self.room(second.is_some(), max_tokens)?;
        let n_second = second.map_or(0, <[u32]>::len);
        let (n_first, n_second) = match truncation {
            Truncation::LongestFirst => longest_first(first.len(), n_second, room),
            Truncation::OnlySecond => {
                let n_first = first.len().min(room);
                (n_first, n_second.min(room - n_first))
            }
        };
        let encoding = |ids: &[u32], n_kept: usize, type_id: u32| {
            let ids = &ids[kept_range(self.truncation, ids.len(), n_kept)];
            Encoding::new(
                ids.to_vec(),
                vec![type_id; ids.len()],
                vec![String::new(); ids.len()],
                vec![None; ids.len()],
                vec![(0, 0); ids.len()],
                vec![0; ids.len()],
                vec![1; ids.len()],
                Vec::new(),
                Default::default(),
            )
        };
        let cut = encoding(first, n_first, 0);
        let cut_second = second.map(|second| encoding(second, n_second, 1));
        let n_ids = first.len() + second.map_or(0, <[u32]>::len);
        let encoding = self.tokenizer.post_process(cut, cut_second, true)?;
        Ok(self.tokens(&encoding, n_ids > room))
    }

    /// Tokens that special ones leave of `max_tokens`.
    fn room(&self, is_pair: bool, max_tokens: usize) -> Result<usize, tokenizers::Error> {
        let n_special = self.n_special(is_pair);
        let room = max_tokens.checked_sub(n_special);
        room.ok_or_else(|| {
            format!("at most {max_tokens} tokens leave no room for {n_special} special ones").into()
        })
    }

    fn tokens(&self, encoding: &Encoding, truncated: bool) -> Tokens {
        let ids = encoding.get_ids().to_vec();
        let type_ids = if self.has_types {
            encoding.get_type_ids().to_vec()
        } else {
            vec![0; ids.len()]
        };
        Tokens {
            ids,
            type_ids,
            n_unpooled: 0,
            truncated,
        }
    }

    /// [`Self::encode_plain`] by the fast path, or none where that does not know the answer.
    fn encode_word_pieces(
        &self,
        prompt: &str,
        text: Text<'_>,
        room: usize,
        direction: TruncationDirection,
    ) -> Option<Tokens> {
        let word_pieces = self.word_pieces.as_ref()?;
        let (first, second) = match text {
            Text::Single(text) => (text, None),
            Text::Pair(first, second) => (first, Some(second)),
        };
        // A cut at the end of a single text, or of the second, makes the rest of it needless: one token too many says
        // that there is a cut, and as many as the first text has say which is the longer.
        let stop = |limit: usize| match direction {
            TruncationDirection::Right => limit,
            TruncationDirection::Left => usize::MAX,
        };
        let limit = if second.is_some() {
            usize::MAX
        } else {
            stop(room)
        };
        let first = if prompt.is_empty() {
            word_pieces.ids(first, limit)?
        } else {
            word_pieces.ids(&format!("{prompt}{first}"), limit)?
        };
        let second = match second {
            Some(second) => Some(word_pieces.ids(second, stop(room.max(first.len())))?),
            None => None,
        };
        let slots = word_pieces.slots(second.is_some());
        let second = second.unwrap_or_default();
        let (n_first, n_second) = longest_first(first.len(), second.len(), room);
        let n_tokens = n_first + n_second + slots.len();
        let mut tokens = Tokens {
            ids: Vec::with_capacity(n_tokens),
            type_ids: Vec::with_capacity(n_tokens),
            n_unpooled: 0,
            truncated: first.len() + second.len() > room,
        };
        for &slot in slots {
            let type_id = match slot {
                Slot::Special { id, type_id } => {
                    tokens.ids.push(id);
                    type_id
                }
                Slot::First { type_id } => {
                    tokens
                        .ids
                        .extend(&first[kept_range(direction, first.len(), n_first)]);
                    type_id
                }
                Slot::Second { type_id } => {
                    tokens
                        .ids
                        .extend(&second[kept_range(direction, second.len(), n_second)]);
                    type_id
                }
            };
            let type_id = if self.has_types { type_id } else { 0 };
            tokens.type_ids.resize(tokens.ids.len(), type_id);
        }
        Some(tokens)
    }

    /// [`Self::encode`] with room for so many tokens by the tokenizers crate, which knows every tokenizer.
    fn encode_plain(
        &self,
        prompt: &str,
        text: Text<'_>,
        room: usize,
        direction: TruncationDirection,
    ) -> Result<Tokens, tokenizers::Error> {
        let pieces = |text: &str| self.tokenizer.encode_fast(text, false);
        let prompted = |text: &str| {
            if prompt.is_empty() {
                pieces(text)
            } else {
                pieces(&format!("{prompt}{text}"))
            }
        };
        let (first, second) = match text {
            Text::Single(text) => (prompted(text)?, None),
            Text::Pair(first, second) => (prompted(first)?, Some(pieces(second)?)),
        };
        let n_pieces = first.len() + second.as_ref().map_or(0, |second| second.len());
        let truncation = TruncationParams {
            max_length: room,
            direction,
            ..Default::default()
        };
        let (first, second) = truncate_encodings(first, second, &truncation)?;
        let encoding = self.tokenizer.post_process(first, second, true)?;
        Ok(self.tokens(&encoding, n_pieces > room))
    }

    /// Number of tokens before the text when a prompt stands there: the opening special token and the prompt's own.
    pub(crate) fn n_prompt_tokens(
        &self,
        prompt: &str,
        max_tokens: usize,
    ) -> Result<usize, tokenizers::Error> {
        if prompt.is_empty() {
            return Ok(0);
        }
        let tokens = self.encode(prompt, Text::Single(""), max_tokens)?;
        let closes = |id: &u32| {
            self.tokenizer
                .get_added_tokens_decoder()
                .get(id)
                .is_some_and(|token| token.special)
        };
        Ok(tokens.len() - usize::from(tokens.ids.last().is_some_and(closes)))
    }
}

/// The tokens that stay of so many.
fn kept_range(direction: TruncationDirection, n_tokens: usize, n_kept: usize) -> Range<usize> {
    match direction {
        TruncationDirection::Right => 0..n_kept,
        TruncationDirection::Left => n_tokens - n_kept..n_tokens,
    }
}

/// Tokens that stay of two texts when there is room for so many: the longer one loses its tokens first.
pub fn longest_first(n_first: usize, n_second: usize, room: usize) -> (usize, usize) {
    if n_first + n_second <= room {
        return (n_first, n_second);
    }
    let shorter = n_first.min(n_second).min(room / 2);
    if n_first > n_second {
        (room - shorter, shorter)
    } else {
        (shorter, room - shorter)
    }
}

/// Returns the `tokenizer.json` of BERT's word pieces with the vocabulary of `vocab.txt`, one piece a line.
fn word_piece(path: &Path, config: &TokenizerConfig) -> Result<Value, LoadError> {
    let refuse = |reason: String| LoadError::Tokenizer {
        path: path.to_path_buf(),
        reason,
    };
    let text = String::from_utf8(read_bytes(path)?).map_err(|error| refuse(error.to_string()))?;
    let vocabulary: Map<String, Value> = text
        .lines()
        .enumerate()
        .map(|(id, piece)| (piece.to_owned(), id.into()))
        .collect();
    let id = |token: &str| {
        vocabulary
            .get(token)
            .cloned()
            .ok_or_else(|| refuse(format!("it has no {token}")))
    };
    let mut added = Vec::new();
    for token in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] {
        added.push(json!({
            "id": id(token)?, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }));
    }
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": config.tokenize_chinese_chars.unwrap_or(true),
            "strip_accents": config.strip_accents.flatten(),
            "lowercase": config.do_lower_case.unwrap_or(true),
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "BertProcessing",
            "sep": ["[SEP]", id("[SEP]")?],
            "cls": ["[CLS]", id("[CLS]")?],
        },
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }))
}
