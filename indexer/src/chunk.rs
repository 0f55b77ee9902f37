//! Chunks: the vectors and records of a fixed number of passages, each in one durable file until the generation is assembled.

use std::path::{Path, PathBuf};

use collection::{CollectionError, Counts, write_atomic};
use corpus::parse_passage_id;
use sha2::{Digest, Sha256};

use crate::BuildError;
use crate::splitter::Part;

// The file, all numbers little-endian:
//
//   header    magic (8), version (4), width (4), first ordinal (4), number of rows (4),
//             tokens (8), truncated (8), missing fields (8), length of the records (8)
//   rows      f32, row-major
//   records   one passage, and where it was split from, as JSON a line
//   checksum  sha256 of everything before it

const MAGIC: &[u8; 8] = b"TRAWLCHK";
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 56;
const CHECKSUM_BYTES: usize = 32;

/// The passages of one chunk and what became of them.
#[derive(Debug, PartialEq)]
pub(crate) struct Chunk {
    pub first_ordinal: u32,
    pub width: usize,
    /// `parts.len()` rows of `width`.
    pub rows: Vec<f32>,
    pub parts: Vec<Part>,
    pub n_tokens: u64,
    pub n_truncated: u64,
    pub n_missing: u64,
}

/// Where a chunk must lie in the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub first_ordinal: u32,
    pub n_rows: u32,
    pub width: usize,
}

/// The file of the chunk with this number.
pub(crate) fn path(work: &Path, number: usize) -> PathBuf {
    work.join(format!("{number:06}.chunk"))
}

impl Chunk {
    /// Writes the file at once: it is there in full or not at all.
    pub fn write(&self, path: &Path) -> Result<(), CollectionError> {
        let mut records = Vec::new();
        for part in &self.parts {
            serde_json::to_writer(&mut records, part).expect("a passage has string keys only");
            records.push(b'\n');
        }
        let mut bytes =
            Vec::with_capacity(HEADER_BYTES + 4 * self.rows.len() + records.len() + CHECKSUM_BYTES);
        bytes.extend(MAGIC);
        for number in [
            VERSION,
            self.width as u32,
            self.first_ordinal,
            self.parts.len() as u32,
        ] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [
            self.n_tokens,
            self.n_truncated,
            self.n_missing,
            records.len() as u64,
        ] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.rows.iter().flat_map(|value| value.to_le_bytes()));
        bytes.append(&mut records);
        let checksum = Sha256::digest(&bytes);
        bytes.extend(checksum);
        write_atomic(path, &bytes)
    }

    /// Reads a chunk and checks that it is the one that belongs at `place`.
    pub fn read(path: &Path, place: Place) -> Result<Self, BuildError> {
        let bytes = std::fs::read(path).map_err(|source| BuildError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::decode(&bytes, place).map_err(|reason| BuildError::Chunk {
            path: path.to_owned(),
            reason,
        })
    }

    fn decode(bytes: &[u8], place: Place) -> Result<Self, &'static str> {
        let (bytes, checksum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or("too short")?;
        let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or("too short")?;
        if Sha256::digest(bytes)[..] != checksum[..] {
            return Err("checksum mismatch");
        }
        let u32_at = |i: usize| u32::from_le_bytes(header[i..i + 4].try_into().expect("4 bytes"));
        let u64_at = |i: usize| u64::from_le_bytes(header[i..i + 8].try_into().expect("8 bytes"));
        if header[..8] != MAGIC[..] || u32_at(8) != VERSION {
            return Err("not a chunk of this version");
        }
        let found = Place {
            width: u32_at(12) as usize,
            first_ordinal: u32_at(16),
            n_rows: u32_at(20),
        };
        if found != place {
            return Err("belongs to another part of the corpus");
        }
        let n_row_bytes = 4 * place.width * place.n_rows as usize;
        let (rows, records) = body.split_at_checked(n_row_bytes).ok_or("too short")?;
        if records.len() as u64 != u64_at(48) {
            return Err("wrong length");
        }
        let parts = serde_json::Deserializer::from_slice(records)
            .into_iter()
            .collect::<Result<Vec<_>, _>>();
        let parts: Vec<Part> = parts.map_err(|_| "malformed record")?;
        if parts.len() != place.n_rows as usize {
            return Err("wrong number of records");
        }
        let rows = rows
            .as_chunks()
            .0
            .iter()
            .map(|&value| f32::from_le_bytes(value))
            .collect();
        let Place {
            first_ordinal,
            width,
            ..
        } = place;
        let [n_tokens, n_truncated, n_missing] = [24, 32, 40].map(u64_at);
        Ok(Self {
            first_ordinal,
            width,
            rows,
            parts,
            n_tokens,
            n_truncated,
            n_missing,
        })
    }

    /// Documents that begin in this chunk; none when nothing was split.
    fn n_documents(&self) -> u64 {
        let begins = |part: &&Part| {
            part.characters.is_some()
                && parse_passage_id(&part.passage.id).is_some_and(|(_, number)| number == 0)
        };
        self.parts.iter().filter(begins).count() as u64
    }

    /// Adds what happened in this chunk to the totals.
    pub fn add_to(&self, counts: &mut Counts) {
        counts.passages += self.parts.len() as u64;
        counts.documents += self.n_documents();
        counts.tokens += self.n_tokens;
        counts.truncated += self.n_truncated;
        counts.missing_fields += self.n_missing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corpus::Passage;
    use serde_json::json;

    const PLACE: Place = Place {
        first_ordinal: 7,
        n_rows: 2,
        width: 3,
    };

    fn example() -> Chunk {
        let part = |id: &str, characters| Part {
            passage: Passage {
                id: id.to_owned(),
                title: "é \"quoted\"\n".to_owned(),
                text: "text".to_owned(),
                metadata: json!({"year": 1973, "ratio": 0.1, "tags": ["a", null]})
                    .as_object()
                    .cloned()
                    .unwrap_or_default(),
            },
            characters,
        };
        Chunk {
            first_ordinal: 7,
            width: 3,
            rows: vec![1.0, -2.5, f32::MIN_POSITIVE, 0.1, f32::MAX, -0.0],
            parts: vec![part("a", None), part("b#0", Some(3..7))],
            n_tokens: 12,
            n_truncated: 1,
            n_missing: 2,
        }
    }

    fn written() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), 0);
        example().write(&path).unwrap();
        assert_eq!(Chunk::read(&path, PLACE).unwrap(), example());
        std::fs::read(path).unwrap()
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_an_error() {
        let bytes = written();
        for n in 0..bytes.len() {
            assert!(
                Chunk::decode(&bytes[..n], PLACE).is_err(),
                "first {n} bytes"
            );
        }
        for i in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[i] ^= 1;
            assert!(Chunk::decode(&flipped, PLACE).is_err(), "byte {i}");
        }
    }

    #[test]
    fn a_chunk_of_another_place_is_refused() {
        let bytes = written();
        for place in [
            Place {
                first_ordinal: 0,
                ..PLACE
            },
            Place { n_rows: 1, ..PLACE },
            Place { width: 2, ..PLACE },
        ] {
            assert_eq!(
                Chunk::decode(&bytes, place),
                Err("belongs to another part of the corpus")
            );
        }
    }
}
