//! The memory that a group of texts needs while it is computed.

use compute::accelerator::{AcceleratorError, Buffer, MatrixType, SharedAccelerator};

use crate::architecture::Architecture;

/// Buffers of a device, reused from group to group. For T tokens of width H and operands of s bytes:
pub(super) struct Workspace {
    /// What [`super::network::Network`] lays out: 12 bytes for a token, up to 48 more for a text.
    pub inputs: Buffer,
    /// The residual, (T, H) in f32.
    pub hidden: Buffer,
    /// A layer's product, then the next residual, (T, H) in f32.
    pub summed: Buffer,
    /// The residual as an operand, (T, H); none where that is f32.
    pub operand: Buffer,
    /// Queries, keys, values and context, (T, 4 H), or what is between the feed-forward layers, (T, I), as operands.
    pub scratch: Buffer,
    /// For rows of texts, in f32, which groups take with them until they were copied.
    results: Vec<Buffer>,
}

/// Groups whose results are on their way to the host while the next is queued.
const MOST_RESULTS: usize = 2;

impl Workspace {
    pub fn new(device: &SharedAccelerator) -> Result<Self, AcceleratorError> {
        let none = || Buffer::new(device, 0);
        Ok(Self {
            inputs: none()?,
            hidden: none()?,
            summed: none()?,
            operand: none()?,
            scratch: none()?,
            results: Vec::new(),
        })
    }

    /// Makes room for so many tokens and words of input, and returns some for so many results. What it held is lost.
    ///
    /// # Errors
    /// [`AcceleratorError::OutOfMemory`].
    pub fn reserve(
        &mut self,
        device: &SharedAccelerator,
        architecture: &Architecture,
        of: MatrixType,
        (n_tokens, n_words, n_results): (usize, usize, usize),
    ) -> Result<Buffer, AcceleratorError> {
        let Sizes {
            residual,
            operand,
            scratch,
        } = Sizes::of_token(architecture, of);
        let grown = [
            (&mut self.inputs, n_words * size_of::<u32>()),
            (&mut self.hidden, n_tokens * residual),
            (&mut self.summed, n_tokens * residual),
            (&mut self.operand, n_tokens * operand),
            (&mut self.scratch, n_tokens * scratch),
        ];
        for (buffer, n_bytes) in grown {
            if buffer.n_bytes() < n_bytes {
                *buffer = Buffer::new(device, 0)?;
                *buffer = Buffer::new(device, n_bytes)?;
            }
        }
        let n_bytes = n_results * size_of::<f32>();
        match self.results.pop() {
            Some(results) if results.n_bytes() >= n_bytes => Ok(results),
            smaller => {
                drop(smaller);
                Buffer::new(device, n_bytes)
            }
        }
    }

    /// Takes back room for results.
    pub fn give_back(&mut self, results: Buffer) {
        if self.results.len() < MOST_RESULTS {
            self.results.push(results);
        }
    }

    /// Where the residual is as an operand.
    pub fn operand(&self, of: MatrixType) -> u64 {
        match of {
            MatrixType::F32 => self.hidden.address(),
            MatrixType::F16 | MatrixType::Bf16 => self.operand.address(),
        }
    }
}

/// Bytes of a token in the buffers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub residual: usize,
    pub operand: usize,
    pub scratch: usize,
}

impl Sizes {
    pub fn of_token(architecture: &Architecture, of: MatrixType) -> Self {
        let width = architecture.width;
        Self {
            residual: width * size_of::<f32>(),
            operand: match of {
                MatrixType::F32 => 0,
                MatrixType::F16 | MatrixType::Bf16 => width * of.bytes(),
            },
            scratch: (4 * width).max(architecture.n_intermediate) * of.bytes(),
        }
    }
}
