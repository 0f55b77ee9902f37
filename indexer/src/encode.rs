//! The second pass: corpus to chunks.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use collection::GenerationId;

use crate::base::Base;
use crate::chunk::{self, Chunk, Place};
use crate::passages::Passages;
use crate::progress::Watch;
use crate::source::{Output, Source, Work};
use crate::splitter::Part;
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

    /// Returns how many chunks, from the first one on, are finished and intact, and take rows from `base` only.
    pub fn n_finished(&self, work: &Path, base: Option<&GenerationId>) -> usize {
        let intact = |number: &usize| {
            Chunk::read(&chunk::path(work, *number), self.place(*number), base).is_ok()
        };
        (0..self.n_chunks()).take_while(intact).count()
    }
}

/// A chunk that is read and prepared and has no rows yet.
struct Prepared<'a> {
    parts: Vec<Part>,
    to_do: Work<'a>,
}

/// Makes the chunks from `first_chunk` on, as files in `work`. Reading and tokenising run one chunk ahead, on their own thread.
pub(crate) fn encode_chunks(
    config: &BuildConfig,
    source: Source<'_>,
    base: Option<&Base>,
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
            scope.spawn(move || prepare_chunks(config, source, base, plan, first_chunk, &sender));
        let base = base.map(|base| &base.generation);
        let encoded = encode_prepared(base, plan, work, first_chunk, receiver, watch);
        // The reader's error comes first: it is why chunks are missing.
        reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        encoded
    })
}

/// Takes the receiver, so that the reader stops when this function does.
fn encode_prepared(
    base: Option<&GenerationId>,
    plan: Plan,
    work: &Path,
    first_chunk: usize,
    receiver: Receiver<Prepared<'_>>,
    watch: Watch<'_>,
) -> Result<(), BuildError> {
    let n_total = u64::from(plan.n_passages);
    for number in first_chunk..plan.n_chunks() {
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
            base: base.filter(|_| takes_rows).cloned(),
            inputs,
            rows,
            parts,
            n_missing,
        };
        chunk.write(&chunk::path(work, number))?;
    }
    watch.update(Phase::Encode, n_total, n_total)
}

fn prepare_chunks<'a>(
    config: &BuildConfig,
    source: Source<'a>,
    base: Option<&Base>,
    plan: Plan,
    first_chunk: usize,
    sender: &SyncSender<Prepared<'a>>,
) -> Result<(), BuildError> {
    let mut reader = Passages::open(&config.corpus, source.splitter(config)?)?;
    for _ in 0..plan.place(first_chunk).first_ordinal {
        reader.next().ok_or(BuildError::CorpusChanged)??;
    }
    for number in first_chunk..plan.n_chunks() {
        let n_rows = plan.place(number).n_rows as usize;
        let parts = reader
            .by_ref()
            .take(n_rows)
            .collect::<Result<Vec<_>, _>>()?;
        if parts.len() != n_rows {
            return Err(BuildError::CorpusChanged);
        }
        let to_do = source.prepare(&parts, config, base)?;
        if sender.send(Prepared { parts, to_do }).is_err() {
            return Ok(()); // Nobody encodes any more; the receiver's side knows why.
        }
    }
    match reader.next() {
        None => Ok(()),
        Some(_) => Err(BuildError::CorpusChanged),
    }
}
