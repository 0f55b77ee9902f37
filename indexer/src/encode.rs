//! The second pass: corpus to chunks.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use collection::GenerationId;
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::chunk::{self, Chunk, Place};
use crate::first_pass::CorpusStamp;
use crate::passages::Passages;
use crate::progress::Watch;
use crate::source::{Output, Source, Work};
use crate::splitter::Part;
use crate::{BuildConfig, BuildError, Phase};

/// The division of a corpus into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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

    /// Returns how many chunks, from the first one on, are finished and intact, and take rows from `base` only.
    pub fn n_finished(&self, work: &Path, base: Option<&GenerationId>) -> usize {
        let intact = |number: &usize| self.is_finished(work, *number, base);
        (0..self.n_chunks()).take_while(intact).count()
    }

    /// Returns whether a chunk is finished and intact, and takes rows from `base` only.
    pub fn is_finished(&self, work: &Path, number: usize, base: Option<&GenerationId>) -> bool {
        Chunk::read(&chunk::path(work, number), self.place(number), base).is_ok()
    }
}

/// A chunk that is read and prepared and has no rows yet.
struct Prepared<'a> {
    parts: Vec<Part>,
    to_do: Work<'a>,
}

/// What is encoded, and where the chunks go.
#[derive(Clone, Copy)]
pub(crate) struct Encoding<'a> {
    pub config: &'a BuildConfig,
    pub source: Source<'a>,
    pub base: Option<&'a Base>,
    pub plan: Plan,
    /// The corpus as the first pass read it.
    pub stamp: &'a CorpusStamp,
    /// The folder of the chunks.
    pub work: &'a Path,
}

/// Makes the chunks with these ascending numbers, which are not finished, as files. Reading and tokenising run one chunk ahead, on their own thread.
pub(crate) fn encode_chunks(
    encoding: Encoding<'_>,
    numbers: &[usize],
    watch: Watch<'_>,
) -> Result<(), BuildError> {
    if numbers.is_empty() {
        return Ok(());
    }
    for &number in numbers {
        let path = chunk::path(encoding.work, number);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(BuildError::Io { path, source });
            }
            _ => {} // It was damaged.
        }
    }
    let (sender, receiver) = sync_channel(1);
    thread::scope(|scope| {
        let reader = scope.spawn(move || prepare_chunks(encoding, numbers, &sender));
        let encoded = encode_prepared(encoding, numbers, receiver, watch);
        // The reader's error comes first: it is why chunks are missing.
        reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        encoded
    })
}

/// Takes the receiver, so that the reader stops when this function does.
fn encode_prepared(
    encoding: Encoding<'_>,
    numbers: &[usize],
    receiver: Receiver<Prepared<'_>>,
    watch: Watch<'_>,
) -> Result<(), BuildError> {
    let Encoding {
        plan, base, work, ..
    } = encoding;
    let n_total = u64::from(plan.n_passages);
    for &number in numbers {
        let Place {
            first_ordinal,
            width,
            ..
        } = plan.place(number);
        watch.update(Phase::Encode, u64::from(first_ordinal), n_total)?;
        let Ok(Prepared { parts, to_do }) = receiver.recv() else {
            return Ok(()); // The reader knows why.
        };
        let Output {
            rows,
            mut inputs,
            n_missing,
        } = to_do.encode()?;
        inputs.resize(parts.len(), <_>::default()); // Nothing is known of vectors that were brought.
        let takes_rows = inputs.iter().any(|(_, taken)| taken.is_some());
        let chunk = Chunk {
            first_ordinal,
            width,
            base: base
                .filter(|_| takes_rows)
                .map(|base| base.generation.clone()),
            inputs,
            rows,
            parts,
            n_missing,
        };
        encoding.stamp.check(encoding.config)?;
        chunk.create(&chunk::path(work, number))?;
    }
    let done = numbers.last().map_or(0, |&number| {
        let place = plan.place(number);
        place.first_ordinal + place.n_rows
    });
    watch.update(Phase::Encode, u64::from(done), n_total)
}

fn prepare_chunks<'a>(
    encoding: Encoding<'a>,
    numbers: &[usize],
    sender: &SyncSender<Prepared<'a>>,
) -> Result<(), BuildError> {
    let Encoding {
        config,
        source,
        base,
        plan,
        ..
    } = encoding;
    let mut reader = Passages::open(&config.corpus, source.splitter(config)?)?;
    let mut ordinal = 0;
    for &number in numbers {
        let Place {
            first_ordinal,
            n_rows,
            ..
        } = plan.place(number);
        for _ in ordinal..first_ordinal {
            reader.next().ok_or(BuildError::CorpusChanged)??;
        }
        ordinal = first_ordinal + n_rows;
        let parts = reader
            .by_ref()
            .take(n_rows as usize)
            .collect::<Result<Vec<_>, _>>()?;
        if parts.len() != n_rows as usize {
            return Err(BuildError::CorpusChanged);
        }
        let to_do = source.prepare(&parts, config, base)?;
        if sender.send(Prepared { parts, to_do }).is_err() {
            return Ok(()); // Nobody encodes any more; the receiver's side knows why.
        }
    }
    if ordinal == plan.n_passages && reader.next().is_some() {
        return Err(BuildError::CorpusChanged);
    }
    Ok(())
}
