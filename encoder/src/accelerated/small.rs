//! Groups of few tokens, such as a server's queries: their work is recorded once for a shape, and then queued at once.

use std::collections::HashMap;

use compute::accelerator::{AcceleratorError, Buffer, MatrixType, Recording, SharedAccelerator};

use super::workspace::Workspace;
use crate::architecture::Architecture;
use crate::options::Pooling;

/// Tokens of such a group at most, with those that are added.
const MOST_TOKENS: usize = 512;
/// What numbers of tokens are rounded up to.
const TOKEN_UNIT: usize = 16;
/// Recordings that are kept. A server sees few shapes; whoever sees more begins again.
const MOST_RECORDINGS: usize = 64;

/// How large a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct GroupSizes {
    pub n_tokens: usize,
    pub n_texts: usize,
    /// Tiles for all queries.
    pub n_tiles: usize,
}

impl GroupSizes {
    /// The next sizes of which there are few: tokens in steps, texts and tiles in powers of two. Every text that is added has a token.
    /// None where those are not few tokens.
    pub fn rounded_up(self) -> Option<Self> {
        let n_texts = self.n_texts.next_power_of_two();
        let n_tokens = (self.n_tokens + n_texts - self.n_texts).next_multiple_of(TOKEN_UNIT);
        (n_tokens <= MOST_TOKENS).then_some(Self {
            n_tokens,
            n_texts,
            n_tiles: self.n_tiles.next_power_of_two(),
        })
    }
}

/// What decides which work is queued for a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub sizes: GroupSizes,
    /// Of which there are none where all rows are wanted, or logits.
    pub poolings: Vec<Pooling>,
    pub wants_logits: bool,
    pub first_only: bool,
}

/// What is known of a shape.
enum Recorded {
    /// Its work was queued once.
    Queued,
    /// Its work.
    Whole(Box<dyn Recording>),
    /// The device does not record it.
    Refused,
}

/// Memory for few tokens that stays where it is, and recordings that name it.
pub(super) struct Small {
    // Dropped before the memory that they name.
    recordings: HashMap<Shape, Recorded>,
    pub workspace: Workspace,
    /// None while a group has it.
    results: Option<Buffer>,
    results_at: u64,
}

impl Small {
    /// Takes memory for as many tokens as there may be.
    ///
    /// # Errors
    /// [`AcceleratorError::OutOfMemory`].
    pub fn new(
        device: &SharedAccelerator,
        architecture: &Architecture,
        of: MatrixType,
        n_words: impl Fn(GroupSizes) -> usize,
    ) -> Result<Self, AcceleratorError> {
        let mut workspace = Workspace::new(device)?;
        // No text has less than a token, and no tile less than a query.
        let most = GroupSizes {
            n_tokens: MOST_TOKENS,
            n_texts: MOST_TOKENS,
            n_tiles: MOST_TOKENS,
        };
        let results = workspace.reserve(
            device,
            architecture,
            of,
            (MOST_TOKENS, n_words(most), MOST_TOKENS * architecture.width),
        )?;
        Ok(Self {
            recordings: HashMap::new(),
            workspace,
            results_at: results.address(),
            results: Some(results),
        })
    }

    /// Takes the room for results, where it is there and enough.
    pub fn take_results(&mut self, n_bytes: usize) -> Option<Buffer> {
        self.results.take_if(|results| results.n_bytes() >= n_bytes)
    }

    /// Takes back the room for results, or returns what is something else.
    pub fn give_back(&mut self, results: Buffer) -> Option<Buffer> {
        if self.results.is_none() && results.address() == self.results_at {
            self.results = Some(results);
            return None;
        }
        Some(results)
    }

    /// Queues the work of a shape, which `queue` does with this workspace: as it is for the first time, so that kernels are loaded and
    /// products know their way; then recorded. What a device refuses to record is queued every time.
    ///
    /// # Safety
    /// `queue` may be called, and what it names is there: for a shape always the same.
    ///
    /// # Errors
    /// Those of `queue` and of the device.
    pub unsafe fn run(
        &mut self,
        device: &SharedAccelerator,
        shape: Shape,
        mut queue: impl FnMut(&mut Workspace) -> Result<(), AcceleratorError>,
    ) -> Result<(), AcceleratorError> {
        let Some(recording) = self.recordings.get_mut(&shape) else {
            queue(&mut self.workspace)?;
            if self.recordings.len() >= MOST_RECORDINGS {
                self.recordings.clear();
            }
            self.recordings.insert(shape, Recorded::Queued);
            return Ok(());
        };
        if let Recorded::Queued = recording {
            *recording = match device.record(&mut || queue(&mut self.workspace)) {
                Ok(whole) => Recorded::Whole(whole),
                Err(_) => Recorded::Refused,
            };
        }
        match recording {
            // SAFETY: the caller's; the workspace and the results stay where they are while there are recordings.
            Recorded::Whole(whole) => unsafe { whole.replay() },
            _ => queue(&mut self.workspace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sizes: [usize; 3], expected: Option<[usize; 3]>) {
        let of = |[n_tokens, n_texts, n_tiles]: [usize; 3]| GroupSizes {
            n_tokens,
            n_texts,
            n_tiles,
        };
        assert_eq!(of(sizes).rounded_up(), expected.map(of));
    }

    #[test]
    fn texts_that_are_added_have_a_token_each() {
        check([1, 1, 1], Some([16, 1, 1]));
        check([16, 1, 1], Some([16, 1, 1]));
        check([16, 2, 3], Some([16, 2, 4]));
        check([15, 3, 3], Some([16, 4, 4]));
        check([16, 3, 3], Some([32, 4, 4]));
        check([20, 17, 17], Some([48, 32, 32]));
        check([512, 8, 9], Some([512, 8, 16]));
        check([512, 512, 512], Some([512, 512, 512]));
        check([512, 7, 9], None);
        check([513, 8, 9], None);
    }
}
