use std::ops::ControlFlow;

use corpus::{BadLine, CorpusConfig, CorpusReader, Template};
use encoder::{LanguageModel, Sampling};
use rand::RngExt;
use serde_json::{Value, json};
use xxhash_rust::xxh3::Xxh3;

use super::{TeacherError, TeacherLine, TeacherText, Unfinished};
use crate::data::random::{Purpose, random};
use crate::data::{DataError, OnBytes};
use crate::parallel::map_in_order;

/// Texts about a passage at most.
const MOST_TEXTS: usize = 1000;
/// Passages that are computed side by side at most.
const MOST_PASSAGES: usize = 10_000;

/// Which passages a model writes about, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct TeacherConfig {
    /// Where the passages are.
    pub corpus: CorpusConfig,
    /// What the model reads of a passage.
    pub template: Template,
    /// What stands before it, such as `text2query: `.
    pub before: String,
    /// Tokens of it at most, special tokens included.
    pub max_passage_tokens: usize,
    /// What the texts are called.
    pub kind: TeacherText,
    /// Texts about a passage.
    pub n_texts: usize,
    /// How they are drawn.
    pub sampling: Sampling,
    /// Seed of the draws, of which each text has its own.
    pub seed: u64,
    /// Passages that are computed side by side; the texts are the same for any number.
    pub batch_size: usize,
    /// Threads, each with its own batch; the texts are the same for any number.
    pub n_threads: usize,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TeacherReport {
    /// Passages that were read.
    pub n_passages: u64,
    /// Passages without a token, about which nothing was written.
    pub n_empty: u64,
    /// Texts that were written, those of an earlier run included.
    pub n_texts: u64,
    /// Passages that an earlier run had done.
    pub n_before: u64,
    /// Bad lines, all skipped.
    pub n_bad: u64,
    /// The first bad line.
    pub first_bad: Option<String>,
}

/// A passage to write about, with its number in the corpus.
struct Item {
    number: u64,
    id: String,
    text: String,
}

impl TeacherConfig {
    /// Reads the corpus once, seconds beside the hours of writing, and returns how many passages there are and a number that
    /// others, or other texts of theirs, would not give.
    ///
    /// # Errors
    /// Bad lines, unless the corpus is read without them.
    pub fn survey(&self, on_bytes: &mut OnBytes<'_>) -> Result<(u64, u64), DataError> {
        let mut reader = CorpusReader::open(&self.corpus)?;
        let (mut n_passages, mut hash) = (0, Xxh3::new());
        while let Some(passage) = reader.next().transpose()? {
            let text = self.template.render(&passage).text;
            for part in [&passage.id, &text] {
                hash.update(part.as_bytes());
                hash.update(&[255]); // which no text holds
            }
            n_passages += 1;
            if n_passages % 1024 == 0 {
                on_bytes(reader.n_bytes_read(), reader.n_bytes_total());
            }
        }
        Ok((n_passages, hash.digest()))
    }

    /// What the texts depend on, for an [`Unfinished`] file: the settings, the model and the passages' digest.
    pub fn settings(&self, model: &LanguageModel, passages: u64) -> Value {
        json!({
            "corpus": self.corpus.paths,
            "digest_of_passages": format!("{passages:016x}"),
            "columns": self.corpus.columns,
            "template": self.template.as_str(),
            "before": self.before,
            "max_passage_tokens": self.max_passage_tokens,
            "texts": self.kind,
            "texts_per_passage": self.n_texts,
            "sampling": self.sampling,
            "seed": self.seed,
            "model": model.digest(),
            "tokenizer": model.tokenizer_digest(),
        })
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`DataError::Setting`].
    pub fn check(&self, model: &LanguageModel) -> Result<(), DataError> {
        let wrong = |name, value: &dyn ToString, expected| {
            let value = value.to_string();
            Err(DataError::Setting {
                name,
                value,
                expected,
            })
        };
        let Sampling {
            max_tokens,
            temperature,
            ..
        } = self.sampling;
        let most = model.most_prompt_tokens(max_tokens);
        match self {
            // All texts of a batch are written side by side.
            Self { n_texts, .. } if !(1..=MOST_TEXTS).contains(n_texts) => {
                let expected = "it is at least 1 and at most 1000";
                wrong("texts per passage", n_texts, expected)
            }
            Self { batch_size, .. } if !(1..=MOST_PASSAGES).contains(batch_size) => {
                let expected = "it is at least 1 and at most 10000";
                wrong("batch size", batch_size, expected)
            }
            _ if max_tokens == 0 => wrong("tokens of a text", &0, "it is at least 1"),
            _ if !(temperature > 0.0 && temperature.is_finite()) => {
                wrong("temperature", &temperature, "it is above 0")
            }
            _ if !(2..=most).contains(&self.max_passage_tokens) => wrong(
                "tokens of a passage",
                &self.max_passage_tokens,
                "it is at least 2, and the model has positions for it and the text",
            ),
            _ => Ok(()),
        }
    }
}

/// Writes about each passage of a corpus and appends a [`TeacherLine`] of it to a file, in the order of the corpus. Goes on
/// where the file ends.
///
/// The draws of a text depend on the seed, the number of the passage and its own alone. `on_passages` is told how many are
/// done, at first those of an earlier run, and may stop the work. Memory does not grow with the corpus.
///
/// # Errors
/// A setting that cannot be; bad lines, unless the corpus is read without them; a file of other passages;
/// [`TeacherError::Interrupted`].
pub fn write_teacher_text(
    config: &TeacherConfig,
    model: &LanguageModel,
    file: &mut Unfinished,
    on_passages: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<TeacherReport, TeacherError> {
    config.check(model)?;
    let mut reader = CorpusReader::open(&config.corpus).map_err(DataError::from)?;
    let mut report = TeacherReport::default();
    let path = file.path().to_owned();
    file.for_each(|line| {
        let passage = reader.next().transpose().map_err(DataError::from)?;
        if passage.as_ref().is_none_or(|passage| passage.id != line.id) {
            return Err(TeacherError::OtherPassage {
                path: path.clone(),
                found: line.id,
                expected: passage
                    .map_or("no other".to_owned(), |passage| format!("`{}`", passage.id)),
            });
        }
        report.n_before += 1;
        report.add(&line);
        Ok(())
    })?;
    let mut told = |n_passages| match on_passages(n_passages) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TeacherError::Interrupted {
            n_passages,
            path: path.clone(),
        }),
    };
    told(report.n_before)?;
    let mut number = report.n_before;
    let next = || -> Result<Option<Vec<Item>>, TeacherError> {
        let mut batch = Vec::new();
        while batch.len() < config.batch_size {
            let Some(passage) = reader.next().transpose().map_err(DataError::from)? else {
                break;
            };
            batch.push(Item {
                number,
                text: config.template.render(&passage).text,
                id: passage.id,
            });
            number += 1;
        }
        Ok((!batch.is_empty()).then_some(batch))
    };
    map_in_order(
        config.n_threads,
        next,
        |batch| write_batch(config, model, batch),
        |written: Result<Vec<TeacherLine>, TeacherError>| {
            let mut lines = Vec::new();
            for line in written? {
                report.add(&line);
                serde_json::to_writer(&mut lines, &line).expect("text is written to memory");
                lines.push(b'\n');
            }
            file.append(&lines)?;
            told(report.n_passages)
        },
    )?;
    report.n_bad = reader.n_bad();
    report.first_bad = reader.bad_examples().first().map(BadLine::to_string);
    if report.n_passages == 0 {
        let path = config.corpus.paths.first().cloned().unwrap_or_default();
        return Err(DataError::Empty { path }.into());
    }
    Ok(report)
}

impl TeacherReport {
    fn add(&mut self, line: &TeacherLine) {
        let n_texts = [&line.queries, &line.continuations]
            .into_iter()
            .flatten()
            .map(Vec::len);
        let n_texts = n_texts.sum::<usize>() as u64;
        self.n_passages += 1;
        self.n_empty += u64::from(n_texts == 0);
        self.n_texts += n_texts;
    }
}

fn write_batch(
    config: &TeacherConfig,
    model: &LanguageModel,
    batch: Vec<Item>,
) -> Result<Vec<TeacherLine>, TeacherError> {
    let (mut prompts, mut draws) = (Vec::new(), Vec::new());
    for item in &batch {
        let tokenize = |reason| DataError::Tokenize {
            passage: item.id.clone(),
            reason,
        };
        let prompt = match item.text.is_empty() {
            true => Vec::new(),
            false => model
                .prompt(&config.before, &item.text, config.max_passage_tokens)
                .map_err(tokenize)?,
        };
        if !prompt.is_empty() {
            let draws_of = |text: usize| {
                let mut random = random(config.seed, text as u64, item.number, Purpose::Writing);
                move || random.random::<f64>()
            };
            draws.push((0..config.n_texts).map(draws_of).collect());
        }
        prompts.push(prompt);
    }
    let read: Vec<Vec<u32>> = prompts
        .iter()
        .filter(|prompt| !prompt.is_empty())
        .cloned()
        .collect();
    let written = model.write(&read, draws, &config.sampling);
    let mut written = written
        .map_err(|source| TeacherError::Model {
            passage: batch[0].id.clone(),
            source,
        })?
        .into_iter();
    let line = |(item, prompt): (Item, Vec<u32>)| -> Result<TeacherLine, TeacherError> {
        let written = match prompt.is_empty() {
            true => Vec::new(),
            false => written.next().expect("texts for each prompt"),
        };
        let text = |ids: Vec<u32>| match model.text(&ids) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(reason) => Err(DataError::Tokenize {
                passage: item.id.clone(),
                reason,
            }),
        };
        let texts = written.into_iter().map(text).collect::<Result<_, _>>()?;
        Ok(TeacherLine::new(config.kind, item.id, texts))
    };
    batch.into_iter().zip(prompts).map(line).collect()
}
