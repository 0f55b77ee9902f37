//! Chunks: the vectors and records of a fixed number of passages, each in one durable file until the generation is assembled.

use std::path::{Path, PathBuf};

use collection::{CollectionError, Counts, GenerationId, create_atomic};
use corpus::parse_passage_id;
use sha2::{Digest, Sha256};

use crate::BuildError;
use crate::inputs::Input;
use crate::splitter::Part;

// The file, all numbers little-endian:
//
//   header    magic (8), version (4), width (4), first ordinal (4), number of rows (4), missing fields (8),
//             length of the records (8), number of encoded rows (4), length of the base (4)
//   base      name of the generation that the other rows are taken from; none when all are encoded
//   inputs    per row: what it is made from (20), and its ordinal in the base, or 2³² − 1 when it is encoded (4)
//   rows      the encoded ones: f32, row-major
//   records   one passage, and where it was split from, as JSON a line
//   checksum  sha256 of everything before it

const MAGIC: &[u8; 8] = b"TRAWLCHK";
const VERSION: u32 = 3;
const HEADER_BYTES: usize = 48;
const INPUT_BYTES: usize = Input::BYTES + 4;
/// In place of an ordinal in the base.
const ENCODED: u32 = u32::MAX;
const CHECKSUM_BYTES: usize = 32;

/// The passages of one chunk and what became of them.
#[derive(Debug, PartialEq)]
pub(crate) struct Chunk {
    pub first_ordinal: u32,
    pub width: usize,
    /// The generation that the rows with an ordinal in [`Self::inputs`] are taken from.
    pub base: Option<GenerationId>,
    /// What each row is made from, and where it is in the base if it need not be made.
    pub inputs: Vec<(Input, Option<u32>)>,
    /// The other rows, of `width`.
    pub rows: Vec<f32>,
    pub parts: Vec<Part>,
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
    /// Creates the file at once, in full or not at all; where another process has created it, that one stays.
    pub fn create(&self, path: &Path) -> Result<(), CollectionError> {
        let mut records = Vec::new();
        for part in &self.parts {
            serde_json::to_writer(&mut records, part).expect("a passage has string keys only");
            records.push(b'\n');
        }
        let mut bytes =
            Vec::with_capacity(HEADER_BYTES + 4 * self.rows.len() + records.len() + CHECKSUM_BYTES);
        bytes.extend(MAGIC);
        let base = self.base.as_ref().map_or("", GenerationId::as_str);
        let n_encoded = self.rows.len() / self.width;
        for number in [
            VERSION,
            self.width as u32,
            self.first_ordinal,
            self.parts.len() as u32,
        ] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [self.n_missing, records.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [n_encoded as u32, base.len() as u32] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(base.bytes());
        for (input, taken) in &self.inputs {
            bytes.extend(input.to_bytes());
            bytes.extend(taken.unwrap_or(ENCODED).to_le_bytes());
        }
        bytes.extend(self.rows.iter().flat_map(|value| value.to_le_bytes()));
        bytes.append(&mut records);
        let checksum = Sha256::digest(&bytes);
        bytes.extend(checksum);
        create_atomic(path, &bytes).map(|_| ())
    }

    /// Reads a chunk and checks that it is the one that belongs at `place`, and takes rows from `base` only.
    pub fn read(
        path: &Path,
        place: Place,
        base: Option<&GenerationId>,
    ) -> Result<Self, BuildError> {
        let bytes = std::fs::read(path).map_err(|source| BuildError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::decode(&bytes, place, base).map_err(|reason| BuildError::Chunk {
            path: path.to_owned(),
            reason,
        })
    }

    fn decode(
        bytes: &[u8],
        place: Place,
        base: Option<&GenerationId>,
    ) -> Result<Self, &'static str> {
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
        let (name, body) = body
            .split_at_checked(u32_at(44) as usize)
            .ok_or("too short")?;
        if !name.is_empty() && Some(name) != base.map(|base| base.as_str().as_bytes()) {
            return Err("takes rows from another generation");
        }
        let (inputs, body) = body
            .split_at_checked(INPUT_BYTES * place.n_rows as usize)
            .ok_or("too short")?;
        let inputs: Vec<(Input, Option<u32>)> = inputs
            .as_chunks::<INPUT_BYTES>()
            .0
            .iter()
            .map(|bytes| {
                let (input, taken) = bytes.split_first_chunk().expect("there are 24 bytes");
                let taken = u32::from_le_bytes(taken.try_into().expect("four are left"));
                (
                    Input::from_bytes(input),
                    Some(taken).filter(|&taken| taken != ENCODED),
                )
            })
            .collect();
        let n_encoded = inputs.iter().filter(|(_, taken)| taken.is_none()).count();
        if n_encoded != u32_at(40) as usize || (n_encoded < inputs.len() && name.is_empty()) {
            return Err("wrong number of rows");
        }
        let (rows, records) = body
            .split_at_checked(4 * place.width * n_encoded)
            .ok_or("too short")?;
        if records.len() as u64 != u64_at(32) {
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
        Ok(Self {
            first_ordinal,
            width,
            base: base.filter(|_| !name.is_empty()).cloned(),
            inputs,
            rows,
            parts,
            n_missing: u64_at(24),
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
        for (input, _) in &self.inputs {
            counts.tokens += u64::from(input.n_tokens);
            counts.truncated += u64::from(input.truncated);
        }
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
        n_rows: 3,
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
        let input = |n_tokens, truncated, taken| {
            let digest = [n_tokens as u8; 16];
            let input = Input {
                digest,
                n_tokens,
                truncated,
            };
            (input, taken)
        };
        Chunk {
            first_ordinal: 7,
            width: 3,
            base: Some(base()),
            inputs: vec![
                input(5, false, None),
                input(7, true, Some(9)),
                input(0, false, None),
            ],
            rows: vec![1.0, -2.5, f32::MIN_POSITIVE, 0.1, f32::MAX, -0.0],
            parts: vec![
                part("a", None),
                part("b#0", Some(3..7)),
                part("b#1", Some(7..8)),
            ],
            n_missing: 2,
        }
    }

    fn base() -> GenerationId {
        GenerationId::parse("20261120T195500Z-3f9a1c").unwrap()
    }

    fn written() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), 0);
        example().create(&path).unwrap();
        assert_eq!(Chunk::read(&path, PLACE, Some(&base())).unwrap(), example());
        std::fs::read(path).unwrap()
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_an_error() {
        let bytes = written();
        for n in 0..bytes.len() {
            assert!(
                Chunk::decode(&bytes[..n], PLACE, Some(&base())).is_err(),
                "first {n} bytes"
            );
        }
        for i in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[i] ^= 1;
            assert!(
                Chunk::decode(&flipped, PLACE, Some(&base())).is_err(),
                "byte {i}"
            );
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
                Chunk::decode(&bytes, place, Some(&base())),
                Err("belongs to another part of the corpus")
            );
        }
        let other = GenerationId::parse("other").unwrap();
        for base in [None, Some(&other)] {
            assert_eq!(
                Chunk::decode(&bytes, PLACE, base),
                Err("takes rows from another generation")
            );
        }
    }
}
