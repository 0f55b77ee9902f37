//! Text that a language model writes: T5 about a passage, GPT-2 as its continuation.
//!
//! Prompts are computed side by side on one thread, and with the engine's products a token depends on its own prompt and
//! draws alone: the text is the same for any batch.

mod gpt2;
mod sampling;
mod stack;
mod t5;

use std::path::Path;

use compute::Simd;
use serde_json::Value;

pub use self::sampling::Sampling;

use self::gpt2::Gpt2;
use self::stack::{Buffers, Group, Sequence, Stack};
use self::t5::T5;
use crate::architecture::Entries;
use crate::checkpoint::Checkpoint;
use crate::directory::read_json;
use crate::error::{EncodeError, LoadError};
use crate::network::PackedLinear;
use crate::t5::T5Architecture;
use crate::tokenizer::{Text, TextTokenizer};
use crate::weights::Linear;

/// How a language model takes a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// An encoder reads it, a decoder writes about it: T5.
    About,
    /// One stack reads it and goes on: GPT-2.
    On,
}

/// A language model with its tokenizer, in f32.
pub struct LanguageModel {
    family: Family,
    tokenizer: TextTokenizer,
    /// Tokens that end a text.
    ends: Vec<u32>,
    n_vocabulary: usize,
    digest: String,
}

enum Family {
    T5(T5),
    Gpt2(Gpt2),
}

impl LanguageModel {
    /// Reads `config.json`, the weights and the tokenizer of a T5 or a GPT-2.
    ///
    /// # Errors
    /// [`LoadError`], naming the file; [`LoadError::Config`] for another family.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        let path = folder.join("config.json");
        let map = read_json(&path)?;
        let config = Entries {
            path: &path,
            map: &map,
        };
        let tokenizer = TextTokenizer::load(folder, false)?;
        let mut checkpoint = Checkpoint::open(folder)?;
        let simd = Simd::detect();
        let (family, default_end) = match config.text("model_type")? {
            _ if T5Architecture::is_t5(&config)? => {
                (Family::T5(T5::load(&config, &checkpoint, simd)?), 1)
            }
            Some("gpt2") => {
                let model = Gpt2::load(&config, &mut checkpoint, simd)?;
                (Family::Gpt2(model), 50256)
            }
            other => {
                let other = other.unwrap_or("not there");
                return Err(config.refuse(format!(
                    "model_type is `{other}`; text is written by t5, mt5 and gpt2"
                )));
            }
        };
        let n_vocabulary = config.size("vocab_size")?;
        if tokenizer.n_ids() > n_vocabulary {
            return Err(config.refuse(format!(
                "vocab_size is {n_vocabulary}, and the tokenizer has {} tokens",
                tokenizer.n_ids()
            )));
        }
        Ok(Self {
            family,
            tokenizer,
            ends: ends(&config)?.unwrap_or(vec![default_end]),
            n_vocabulary,
            digest: checkpoint.digest(),
        })
    }

    /// How it takes a text.
    pub fn writing(&self) -> Writing {
        match self.family {
            Family::T5(_) => Writing::About,
            Family::Gpt2(_) => Writing::On,
        }
    }

    /// The sha256 of its weights.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The sha256 of its tokenizer.
    pub fn tokenizer_digest(&self) -> &str {
        self.tokenizer.digest()
    }

    /// Tokens that a prompt may have, when so many are written.
    pub fn most_prompt_tokens(&self, n_written: usize) -> usize {
        match &self.family {
            Family::T5(_) => t5::MOST_TOKENS,
            // The last token that is written is not read.
            Family::Gpt2(model) => (model.n_positions() + 1).saturating_sub(n_written),
        }
    }

    /// The token ids of a text, with what stands before it. Of a longer text a T5 reads the beginning and a GPT-2, which
    /// goes on from there, the end; what stands before it stays. A GPT-2 may be left without a token.
    ///
    /// # Errors
    /// What the tokenizers crate says.
    pub fn prompt(&self, before: &str, text: &str, max_tokens: usize) -> Result<Vec<u32>, String> {
        let ids = match self.writing() {
            Writing::About => {
                let text = Text::Single(text);
                self.tokenizer
                    .encode(before, text, max_tokens)
                    .map(|tokens| tokens.ids)
            }
            Writing::On => self.prompt_to_go_on(before, text, max_tokens),
        };
        ids.map_err(|error| error.to_string())
    }

    fn prompt_to_go_on(
        &self,
        before: &str,
        text: &str,
        max_tokens: usize,
    ) -> Result<Vec<u32>, tokenizers::Error> {
        let whole = self.tokenizer.ids(&format!("{before}{text}"))?;
        if whole.len() <= max_tokens {
            return Ok(whole);
        }
        let mut ids = self.tokenizer.ids(before)?;
        ids.truncate(max_tokens);
        let text = self.tokenizer.ids(text)?;
        let n_cut = text.len().saturating_sub(max_tokens - ids.len());
        ids.extend_from_slice(&text[n_cut..]);
        Ok(ids)
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// What the tokenizers crate says.
    pub fn text(&self, ids: &[u32]) -> Result<String, String> {
        self.tokenizer.text(ids).map_err(|error| error.to_string())
    }

    /// Writes as many texts for each prompt as there are sources of draws from 0 to 1 for it: token ids, without the one
    /// that ends them. Computes on this thread.
    ///
    /// # Errors
    /// [`EncodeError::Empty`], [`EncodeError::TooLong`] and [`EncodeError::UnknownId`] for prompts that cannot be read,
    /// [`EncodeError::NotFinite`] when the model gives no scores for a token; all with the prompt's place.
    pub fn write<D: FnMut() -> f64>(
        &self,
        prompts: &[Vec<u32>],
        mut draws: Vec<Vec<D>>,
        sampling: &Sampling,
    ) -> Result<Vec<Vec<Vec<u32>>>, EncodeError> {
        let counts: Vec<usize> = draws.iter().map(Vec::len).collect();
        let mut texts: Vec<_> = counts.iter().map(|&n| vec![Vec::new(); n]).collect();
        if sampling.max_tokens == 0 {
            return Ok(texts);
        }
        let buffers = &mut Buffers::default();
        let mut groups = self.start(prompts, &counts, sampling.max_tokens, buffers)?;
        while !groups.is_empty() {
            let scores = self.step(&mut groups, buffers);
            let mut scores = scores.chunks_exact(self.n_vocabulary);
            for group in &mut groups {
                let row = group.text;
                let mut failure = None;
                group.sequences.retain_mut(|sequence| {
                    let scores = scores.next().expect("a row for each sequence");
                    let draw = &mut draws[row][sequence.number];
                    let token = match sampling.draw(scores, draw) {
                        Ok(token) => token,
                        Err(value) => {
                            failure = Some(EncodeError::NotFinite { row, value });
                            return false;
                        }
                    };
                    if self.ends.contains(&token) {
                        return false;
                    }
                    let text: &mut Vec<u32> = &mut texts[row][sequence.number];
                    text.push(token);
                    sequence.next = token;
                    text.len() < sampling.max_tokens
                });
                if let Some(failure) = failure {
                    return Err(failure);
                }
            }
            groups.retain(|group| !group.sequences.is_empty());
        }
        Ok(texts)
    }

    /// Reads the prompts, up to the token with which writing begins.
    fn start(
        &self,
        prompts: &[Vec<u32>],
        counts: &[usize],
        max_tokens: usize,
        buffers: &mut Buffers,
    ) -> Result<Vec<Group>, EncodeError> {
        assert_eq!(prompts.len(), counts.len(), "draws for each prompt");
        let most = self.most_prompt_tokens(max_tokens);
        for (row, prompt) in prompts.iter().enumerate() {
            let n_tokens = prompt.len();
            if n_tokens == 0 {
                return Err(EncodeError::Empty { row });
            }
            if n_tokens > most {
                return Err(EncodeError::TooLong {
                    row,
                    n_tokens,
                    most,
                });
            }
            let n_known = self.n_vocabulary;
            if let Some(&id) = prompt.iter().find(|&&id| id as usize >= n_known) {
                return Err(EncodeError::UnknownId {
                    row,
                    what: "token id",
                    id,
                    n_known,
                });
            }
        }
        let mut groups = match &self.family {
            Family::T5(model) => model.start(prompts, buffers),
            Family::Gpt2(model) => model.start(prompts, buffers),
        };
        for (group, &count) in groups.iter_mut().zip(counts) {
            let first = group.sequences.pop().expect("one sequence each");
            let numbered = |number| Sequence {
                number,
                ..first.clone()
            };
            group.sequences = (0..count).map(numbered).collect();
        }
        groups.retain(|group| !group.sequences.is_empty());
        Ok(groups)
    }

    /// Reads the next token of each sequence; returns the scores of the token behind it, (sequences, vocabulary).
    fn step(&self, groups: &mut [Group], buffers: &mut Buffers) -> Vec<f32> {
        match &self.family {
            Family::T5(model) => model.step(groups, buffers),
            Family::Gpt2(model) => model.step(groups, buffers),
        }
    }
}

/// The tokens that `eos_token_id` names, one or a list.
fn ends(config: &Entries<'_>) -> Result<Option<Vec<u32>>, LoadError> {
    let Some(value) = config.get("eos_token_id") else {
        return Ok(None);
    };
    let listed = match value {
        Value::Array(listed) => listed.iter().collect(),
        one => vec![one],
    };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = listed.into_iter().map(id).collect::<Option<Vec<_>>>();
    match ids {
        Some(ids) => Ok(Some(ids)),
        None => Err(config.refuse(format!("eos_token_id is {value}, not a token"))),
    }
}

/// Reads a linear layer that is stored as (out, in), with the rows of several tensors one below the other.
fn linear(
    checkpoint: &Checkpoint,
    simd: Simd,
    names: &[String],
    (n_out, n_in): (usize, usize),
) -> Result<PackedLinear, LoadError> {
    let mut weight = Vec::new();
    for name in names {
        weight.extend(checkpoint.tensor(&format!("{name}.weight"), &[n_out, n_in])?);
    }
    let linear = Linear {
        weight,
        bias: None,
        n_in,
        n_out: names.len() * n_out,
    };
    Ok(stack::pack(simd, &linear))
}

/// Rows of a table, one for each id.
fn rows_of(table: &[f32], width: usize, ids: impl IntoIterator<Item = u32>) -> Vec<f32> {
    let row = |id: u32| table[id as usize * width..][..width].iter().copied();
    ids.into_iter().flat_map(row).collect()
}

/// Normalizes the rows of a stream and multiplies them with the head.
fn scores(
    stack: &Stack,
    head: &PackedLinear,
    mut stream: Vec<f32>,
    scale: f32,
    buffers: &mut Buffers,
) -> Vec<f32> {
    stack.norm.apply(stack.simd, &mut stream);
    if scale != 1.0 {
        crate::kernel::scale(stack.simd, &mut stream, scale);
    }
    buffers.product(stack.simd, head, &stream)
}

#[cfg(test)]
mod tests;
