//! `inputs`: which text each row was made from, so that a later build knows which texts it need not encode again.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use encoder::{Text, Tokens};
use sha2::{Digest, Sha256};

use crate::BuildError;

// The file, all numbers little-endian: magic (8), version (4), number of rows (4), then the records in ordinal order.
// The manifest has its checksum.

/// Name of the file in a generation.
pub(crate) const INPUTS: &str = "inputs";
const MAGIC: &[u8; 8] = b"TRAWLINP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
/// The highest bit of the number of tokens.
const TRUNCATED: u32 = 1 << 31;

/// What the encoder was given for a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Input {
    /// The first half of the text's sha256: under one fingerprint, equal digests have equal vectors.
    pub digest: [u8; 16],
    pub n_tokens: u32,
    pub truncated: bool,
}

impl Input {
    pub const BYTES: usize = 20;

    /// The digest of a text.
    pub fn digest(text: Text<'_>) -> [u8; 16] {
        let mut hasher = Sha256::new();
        match text {
            Text::Single(text) => hasher.update(text),
            Text::Pair(first, second) => {
                hasher.update((first.len() as u64).to_le_bytes());
                hasher.update(first);
                hasher.update(second);
            }
        }
        let hash: [u8; 32] = hasher.finalize().into();
        *hash.first_chunk().expect("32 bytes begin with 16")
    }

    pub fn new(digest: [u8; 16], tokens: &Tokens) -> Self {
        Self {
            digest,
            n_tokens: tokens.len() as u32,
            truncated: tokens.truncated,
        }
    }

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.digest);
        let n_tokens = self.n_tokens | if self.truncated { TRUNCATED } else { 0 };
        bytes[16..].copy_from_slice(&n_tokens.to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let (digest, n_tokens) = bytes.split_first_chunk().expect("there are 20 bytes");
        let n_tokens = u32::from_le_bytes(n_tokens.try_into().expect("four are left"));
        Self {
            digest: *digest,
            n_tokens: n_tokens & !TRUNCATED,
            truncated: n_tokens & TRUNCATED != 0,
        }
    }
}

/// Writes the file of a generation.
pub(crate) struct InputsWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl InputsWriter {
    pub fn create(folder: &Path, n_rows: u32) -> Result<Self, BuildError> {
        let path = folder.join(INPUTS);
        let create = || {
            let mut file = BufWriter::new(File::create(&path)?);
            file.write_all(MAGIC)?;
            file.write_all(&VERSION.to_le_bytes())?;
            file.write_all(&n_rows.to_le_bytes())?;
            Ok(file)
        };
        match create() {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(BuildError::Io { path, source }),
        }
    }

    pub fn push(&mut self, input: Input) -> Result<(), BuildError> {
        let written = self.file.write_all(&input.to_bytes());
        written.map_err(|source| self.failed(source))
    }

    pub fn finish(mut self) -> Result<(), BuildError> {
        let flushed = self.file.flush();
        flushed.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> BuildError {
        let path = self.path.clone();
        BuildError::Io { path, source }
    }
}

/// The records of a file, in ordinal order; `None` where it is not one of `n_rows` rows.
pub(crate) fn decode(bytes: &[u8], n_rows: usize) -> Option<Vec<Input>> {
    let (header, records) = bytes.split_at_checked(HEADER_BYTES)?;
    let expected = [
        &MAGIC[..],
        &VERSION.to_le_bytes(),
        &(n_rows as u32).to_le_bytes(),
    ]
    .concat();
    let (records, rest) = records.as_chunks();
    let whole = header == expected && rest.is_empty() && records.len() == n_rows;
    whole.then(|| records.iter().map(Input::from_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let input = |text, n_tokens, truncated| Input {
            digest: Input::digest(text),
            n_tokens,
            truncated,
        };
        let inputs = [
            input(Text::Single("salt"), 3, false),
            input(Text::Pair("sa", "lt"), 256, true),
            input(Text::Pair("s", "alt"), 0, false),
        ];
        let mut writer = InputsWriter::create(folder.path(), 3).unwrap();
        for input in inputs {
            writer.push(input).unwrap();
        }
        writer.finish().unwrap();
        let bytes = std::fs::read(folder.path().join(INPUTS)).unwrap();
        assert_eq!(decode(&bytes, 3).unwrap(), inputs);
        assert_ne!(inputs[1].digest, inputs[2].digest);
        assert_eq!(decode(&bytes, 2), None);
        for n in 0..bytes.len() {
            assert_eq!(decode(&bytes[..n], 3), None);
        }
    }
}
