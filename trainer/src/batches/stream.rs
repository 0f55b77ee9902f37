use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use corpus::Lines;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::Batches;
use crate::data::random::{Purpose, random};
use crate::data::{DataError, Example, Group, LineSource, Sampling, SeveralTexts, parse_line};

/// Ids of passages, and of queries, that are compared with what stands under them later: some 50 MB.
const MOST_IDS: usize = 1 << 20;

/// How groups are read from files that do not fit into memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// The files. Bad lines are refused.
    pub source: LineSource,
    /// How a group is drawn.
    pub sampling: Sampling,
    /// Groups of a batch.
    pub batch_size: usize,
    /// Seed of the order.
    #[serde(default)]
    pub seed: u64,
    /// Lines that wait to be drawn; 1 keeps the order of the files.
    #[serde(default = "default_buffer")]
    pub buffer: usize,
    /// Leaves out the last batch of an epoch when it is short.
    #[serde(default)]
    pub drop_last: bool,
    /// Refuses examples with a passage that has no teacher's score.
    #[serde(default)]
    pub scored: bool,
    /// Refuses token ids that a vocabulary of so many does not have.
    #[serde(default)]
    pub n_vocabulary: Option<usize>,
    /// Which share of the examples, and of how many; no example is in two shares.
    #[serde(default = "whole")]
    pub share: (u64, u64),
}

fn default_buffer() -> usize {
    10_000
}

fn whole() -> (u64, u64) {
    (0, 1)
}

/// Batches of groups from files of examples that are read once an epoch, through a shuffle buffer.
///
/// A last batch of one group that is a passage alone, whose loss could only be 0, is left out.
///
/// Batches are meant to be asked for in order; any other costs reading the epoch up to it, as resuming does.
pub struct StreamBatches {
    config: StreamConfig,
    n_examples: u64,
    /// Of all lines.
    digest: u64,
    ids_of_several_texts: [Option<(usize, String)>; 2],
    cursor: Mutex<Option<Cursor>>,
}

/// Where in an epoch the files stand.
struct Cursor {
    epoch: u64,
    next_batch: usize,
    examples: ShuffleBuffer<RawExamples>,
    /// Number, in the shuffled order, of the example that comes next.
    next_example: u64,
}

impl StreamBatches {
    /// Reads the files once, to count the examples and to check each.
    ///
    /// # Errors
    /// The first line that cannot be used, settings that cannot be, a table among the files.
    pub fn open(config: StreamConfig) -> Result<Self, DataError> {
        config.sampling.check()?;
        if let Some(path) = config.source.table() {
            return Err(DataError::Setting {
                name: "source",
                value: path.display().to_string(),
                expected: "lines are streamed, tables are not",
            });
        }
        let (share, n_shares) = config.share;
        for (name, is_good, value) in [
            (
                "batch_size",
                config.batch_size > 0,
                config.batch_size.to_string(),
            ),
            (
                "batch_size",
                config.batch_size > 1 || config.sampling.n_passages > 1,
                config.batch_size.to_string(),
            ),
            ("buffer", config.buffer > 0, config.buffer.to_string()),
            ("share", share < n_shares, format!("{share} of {n_shares}")),
        ] {
            if !is_good {
                let expected = match name {
                    "batch_size" if config.batch_size > 0 => {
                        "with groups of one passage it is at least 2"
                    }
                    "share" => "it is below the number of shares",
                    _ => "it is at least 1",
                };
                return Err(DataError::Setting {
                    name,
                    value,
                    expected,
                });
            }
        }
        let (mut n_examples, mut hash) = (0, Xxh3::new());
        let [mut passages, mut queries] = [(); 2].map(|()| SeveralTexts::new(MOST_IDS));
        for raw in RawExamples::new(&config.source) {
            let raw = raw?;
            let example = raw.example(&config)?;
            queries.add(&example.query_id, &example.query);
            for passage in example.positives.iter().chain(&example.negatives) {
                passages.add(&passage.id, &passage.content);
            }
            raw.group(example, &config, 0)?;
            hash.update(raw.text.as_bytes());
            hash.update(b"\n");
            n_examples += 1;
        }
        if n_examples == 0 {
            let path = config.source.paths.first().cloned();
            return Err(DataError::Empty {
                path: path.unwrap_or_default(),
            });
        }
        Ok(Self {
            config,
            n_examples,
            digest: hash.digest(),
            ids_of_several_texts: [passages.found(), queries.found()],
            cursor: Mutex::new(None),
        })
    }

    /// Examples of the files.
    pub fn n_examples(&self) -> u64 {
        self.n_examples
    }

    /// Counts the ids of passages, and those of queries, that stand for several texts, each with the first: of the first
    /// million of each.
    pub fn ids_of_several_texts(&self) -> [Option<(usize, String)>; 2] {
        self.ids_of_several_texts.clone()
    }

    /// Examples of an epoch in this share.
    fn n_in_share(&self) -> u64 {
        let (share, n_shares) = self.config.share;
        (self.n_examples + n_shares - 1 - share) / n_shares
    }
}

impl Batches for StreamBatches {
    type Batch = Vec<Group>;

    fn len(&self, _epoch: u64) -> usize {
        let (n, size) = (self.n_in_share() as usize, self.config.batch_size);
        let is_alone = n % size == 1 && self.config.sampling.n_passages == 1;
        match self.config.drop_last || is_alone {
            true => n / size,
            false => n.div_ceil(size),
        }
    }

    fn batch(&self, epoch: u64, index: usize) -> Result<Vec<Group>, DataError> {
        let mut kept = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cursor = match kept.take() {
            Some(cursor) if cursor.epoch == epoch && cursor.next_batch <= index => cursor,
            _ => Cursor::new(epoch, &self.config),
        };
        while cursor.next_batch < index {
            cursor.next_batch(&self.config)?;
        }
        let lines = cursor.next_batch(&self.config)?;
        *kept = Some(cursor);
        drop(kept);
        lines
            .into_iter()
            .map(|line| line.group(line.example(&self.config)?, &self.config, epoch))
            .collect()
    }

    fn digest(&self) -> u64 {
        self.digest
    }
}

impl Cursor {
    fn new(epoch: u64, config: &StreamConfig) -> Self {
        let lines = RawExamples::new(&config.source);
        Self {
            epoch,
            next_batch: 0,
            examples: ShuffleBuffer::new(lines, config.buffer, config.seed, epoch),
            next_example: 0,
        }
    }

    /// The lines of the next batch; passing over one costs no parsing.
    fn next_batch(&mut self, config: &StreamConfig) -> Result<Vec<RawExample>, DataError> {
        let (share, n_shares) = config.share;
        let mut lines = Vec::new();
        while lines.len() < config.batch_size {
            let Some(line) = self.examples.next() else {
                break;
            };
            let line = line?;
            if self.next_example % n_shares == share {
                lines.push(line);
            }
            self.next_example += 1;
        }
        self.next_batch += 1;
        Ok(lines)
    }
}

/// A line of an example, not parsed.
struct RawExample {
    /// Its number among the examples of all files.
    number: u64,
    path: PathBuf,
    line: u64,
    text: String,
}

impl RawExample {
    fn refuse(&self, reason: String) -> DataError {
        DataError::Line {
            path: self.path.clone(),
            line: self.line,
            reason,
        }
    }

    fn example(&self, config: &StreamConfig) -> Result<Example, DataError> {
        let LineSource {
            format, passage, ..
        } = &config.source;
        parse_line(*format, &self.text, passage).map_err(|reason| self.refuse(reason))
    }

    /// Draws the group of this line's example.
    fn group(
        &self,
        mut example: Example,
        config: &StreamConfig,
        epoch: u64,
    ) -> Result<Group, DataError> {
        let refuse = |reason| self.refuse(reason);
        example.drop_false_negatives();
        let Example {
            positives,
            negatives,
            ..
        } = &example;
        let passages = || positives.iter().chain(negatives);
        let contents = [&example.query]
            .into_iter()
            .chain(passages().map(|one| &one.content));
        let n_vocabulary = config.n_vocabulary.unwrap_or(usize::MAX);
        let mut unknown = contents.filter_map(|content| content.unknown_token(n_vocabulary));
        if let Some(token) = unknown.next() {
            return Err(refuse(format!(
                "a text holds token {token}, and the model has {n_vocabulary} of them"
            )));
        }
        let sampling = &config.sampling;
        let draw = sampling.draw(positives.len(), negatives.len(), epoch, self.number);
        // Random passages would have to come from a corpus in memory.
        if draw.negatives.len() < sampling.n_negatives() {
            let (needed, found) = (sampling.n_negatives(), draw.negatives.len());
            return Err(refuse(format!(
                "a group takes {needed} negatives, and there are {found}"
            )));
        }
        let unscored = passages().find(|one| one.score.is_none());
        if let (true, Some(passage)) = (config.scored, unscored) {
            return Err(refuse(format!(
                "passage `{}` has no teacher score",
                passage.id
            )));
        }
        Ok(example.group(&draw))
    }
}

/// The lines of the files, one file after another.
struct RawExamples {
    paths: std::vec::IntoIter<PathBuf>,
    file: Option<Lines>,
    n_read: u64,
}

impl RawExamples {
    fn new(source: &LineSource) -> Self {
        Self {
            paths: source.paths.clone().into_iter(),
            file: None,
            n_read: 0,
        }
    }

    fn read(&mut self) -> Result<Option<RawExample>, DataError> {
        loop {
            if let Some(file) = &mut self.file {
                let path = file.path().to_owned();
                if let Some((line, text)) = file.next_line()? {
                    self.n_read += 1;
                    return Ok(Some(RawExample {
                        number: self.n_read - 1,
                        path,
                        line,
                        text: text.to_owned(),
                    }));
                }
            }
            match self.paths.next() {
                Some(path) => self.file = Some(Lines::open(&path)?),
                None => return Ok(None),
            }
        }
    }
}

impl Iterator for RawExamples {
    type Item = Result<RawExample, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Yields what another iterator yields in an order that is random within a window: each item is drawn from a buffer that
/// the next one fills again.
pub struct ShuffleBuffer<I: Iterator> {
    items: I,
    buffer: Vec<I::Item>,
    capacity: usize,
    numbers: ChaCha8Rng,
}

impl<I: Iterator> ShuffleBuffer<I> {
    /// Shuffles the items of an epoch through a buffer of `capacity`; up to 1 keeps their order.
    pub fn new(items: I, capacity: usize, seed: u64, epoch: u64) -> Self {
        Self {
            items,
            buffer: Vec::new(),
            capacity: capacity.max(1),
            numbers: random(seed, epoch, 0, Purpose::Buffer),
        }
    }
}

impl<I: Iterator> Iterator for ShuffleBuffer<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        while self.buffer.len() < self.capacity {
            match self.items.next() {
                Some(item) => self.buffer.push(item),
                None => break,
            }
        }
        if self.buffer.is_empty() {
            return None;
        }
        let drawn = self.numbers.random_range(0..self.buffer.len());
        Some(self.buffer.swap_remove(drawn))
    }
}
