//! The second pass: corpus to chunks.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use corpus::{CorpusReader, Passage};
use encoder::{BiEncoder, Role, Text, Tokens};

use crate::chunk::{self, Chunk, Place};
use crate::progress::Watch;
use crate::{BuildConfig, BuildError, Phase};

/// The division of a corpus into chunks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub n_passages: u32,
    pub chunk_passages: u32,
    pub width: usize,
}

impl Plan {
    pub fn n_chunks(&self) -> usize {
        self.n_passages.div_ceil(self.chunk_passages) as usize
    }

    pub fn place(&self, number: usize) -> Place {
        let first_ordinal = number as u32 * self.chunk_passages;
        let n_rows = self.chunk_passages.min(self.n_passages - first_ordinal);
        Place {
            first_ordinal,
            n_rows,
            width: self.width,
        }
    }

    /// Returns how many chunks, from the first one on, are finished and intact.
    pub fn n_finished(&self, work: &Path) -> usize {
        let intact =
            |number: &usize| Chunk::read(&chunk::path(work, *number), self.place(*number)).is_ok();
        (0..self.n_chunks()).take_while(intact).count()
    }
}

/// A chunk whose texts are tokens and not yet vectors.
struct Prepared {
    passages: Vec<Passage>,
    tokens: Vec<Tokens>,
    n_missing: u64,
}

/// Encodes the chunks from `first_chunk` on into files in `work`. Reading and tokenising run one chunk ahead, on their own thread.
pub(crate) fn encode_chunks(
    config: &BuildConfig,
    encoder: &BiEncoder,
    plan: Plan,
    work: &Path,
    first_chunk: usize,
    watch: Watch<'_>,
) -> Result<(), BuildError> {
    if first_chunk == plan.n_chunks() {
        return Ok(());
    }
    let (sender, receiver) = sync_channel(1);
    thread::scope(|scope| {
        let reader =
            scope.spawn(move || prepare_chunks(config, encoder, plan, first_chunk, &sender));
        let encoded = encode_prepared(encoder, plan, work, first_chunk, receiver, watch);
        // The reader's error comes first: it is why chunks are missing.
        reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        encoded
    })
}

/// Takes the receiver, so that the reader stops when this function does.
fn encode_prepared(
    encoder: &BiEncoder,
    plan: Plan,
    work: &Path,
    first_chunk: usize,
    receiver: Receiver<Prepared>,
    watch: Watch<'_>,
) -> Result<(), BuildError> {
    let n_total = u64::from(plan.n_passages);
    for number in first_chunk..plan.n_chunks() {
        let Place {
            first_ordinal,
            n_rows,
            width,
        } = plan.place(number);
        watch.update(Phase::Encode, u64::from(first_ordinal), n_total)?;
        let Ok(Prepared {
            passages,
            tokens,
            n_missing,
        }) = receiver.recv()
        else {
            return Ok(());
        };
        let embeddings = encoder
            .encode(&tokens)
            .map_err(|source| BuildError::Encode {
                first_ordinal,
                last_ordinal: first_ordinal + n_rows - 1,
                source,
            })?;
        let chunk = Chunk {
            first_ordinal,
            width,
            passages,
            n_missing,
            n_tokens: embeddings.n_tokens as u64,
            n_truncated: embeddings.n_truncated as u64,
            rows: embeddings.values,
        };
        chunk.write(&chunk::path(work, number))?;
    }
    watch.update(Phase::Encode, n_total, n_total)
}

fn prepare_chunks(
    config: &BuildConfig,
    encoder: &BiEncoder,
    plan: Plan,
    first_chunk: usize,
    sender: &SyncSender<Prepared>,
) -> Result<(), BuildError> {
    let mut reader = CorpusReader::open(&config.corpus)?;
    let n_finished = first_chunk as u64 * u64::from(plan.chunk_passages);
    for _ in 0..n_finished {
        reader.next().ok_or(BuildError::CorpusChanged)??;
    }
    for number in first_chunk..plan.n_chunks() {
        let Place {
            first_ordinal,
            n_rows,
            ..
        } = plan.place(number);
        let passages = reader
            .by_ref()
            .take(n_rows as usize)
            .collect::<Result<Vec<_>, _>>()?;
        if passages.len() != n_rows as usize {
            return Err(BuildError::CorpusChanged);
        }
        let (tokens, n_missing) =
            tokenize(config, encoder, &passages).map_err(|source| BuildError::Encode {
                first_ordinal,
                last_ordinal: first_ordinal + n_rows - 1,
                source,
            })?;
        if sender
            .send(Prepared {
                passages,
                tokens,
                n_missing,
            })
            .is_err()
        {
            return Ok(()); // Nobody encodes any more; the receiver's side knows why.
        }
    }
    match reader.next() {
        None => Ok(()),
        Some(_) => Err(BuildError::CorpusChanged),
    }
}

fn tokenize(
    config: &BuildConfig,
    encoder: &BiEncoder,
    passages: &[Passage],
) -> Result<(Vec<Tokens>, u64), encoder::EncodeError> {
    let rendered: Vec<_> = passages
        .iter()
        .map(|passage| config.passage_template.render(passage))
        .collect();
    let texts: Vec<_> = passages
        .iter()
        .zip(&rendered)
        .map(|(passage, rendered)| match config.passage_pair {
            true => Text::Pair(&passage.title, &rendered.text),
            false => Text::Single(&rendered.text),
        })
        .collect();
    let n_missing = rendered
        .iter()
        .map(|rendered| rendered.n_missing as u64)
        .sum();
    Ok((encoder.tokenize(Role::Passage, &texts)?, n_missing))
}
