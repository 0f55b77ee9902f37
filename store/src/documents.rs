use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use corpus::parse_passage_id;
use memmap2::Mmap;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::error::write_error;
use crate::header::{self, HEADER_BYTES, Header, Kind, u32_at};
use crate::ids::Ids;
use crate::{StoreError, WriteError};

// The file, all numbers little-endian:
//
//   header   n_documents, n_passages, xxh3 of each of the two sections, 0
//   ranges   per passage: the first character of its document's text and the one after its last (4 each)
//   firsts   per document, ascending: ordinal of its first passage (4)
//
// The rest is in `ids`: passages of a document are neighbors, and their ids are those of `corpus::passage_id`.

const KIND: Kind = Kind {
    name: "documents",
    magic: *b"TRAWLDOC",
    version: 1,
};
const RANGE_BYTES: usize = 8;
const FIRST_BYTES: usize = 4;

/// Where a passage lies in the document that it was split from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentPart<'a> {
    /// Id of the document.
    pub document: &'a str,
    /// Its place among the passages of the document, from 0.
    pub number: u32,
    /// Characters (Unicode scalar values) of the document's text.
    pub characters: Range<u32>,
}

/// Writes `documents`; keeps 4 bytes for each document in memory.
pub(crate) struct DocumentsWriter {
    path: PathBuf,
    file: BufWriter<File>,
    ranges_checksum: Xxh3Default,
    firsts: Vec<u32>,
    n_passages: u32,
}

impl DocumentsWriter {
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        let mut file = BufWriter::new(File::create(path).map_err(write_error(path))?);
        file.write_all(&[0; HEADER_BYTES])
            .map_err(write_error(path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            ranges_checksum: Xxh3Default::new(),
            firsts: Vec::new(),
            n_passages: 0,
        })
    }

    /// Adds the next passage; number 0 begins a document.
    pub fn push(&mut self, number: u32, characters: &Range<u32>) -> Result<(), WriteError> {
        if number == 0 {
            self.firsts.push(self.n_passages);
        }
        let mut bytes = [0; RANGE_BYTES];
        bytes[..4].copy_from_slice(&characters.start.to_le_bytes());
        bytes[4..].copy_from_slice(&characters.end.to_le_bytes());
        self.ranges_checksum.update(&bytes);
        self.n_passages += 1;
        self.file.write_all(&bytes).map_err(write_error(&self.path))
    }

    pub fn finish(mut self) -> Result<(), WriteError> {
        let firsts: Vec<u8> = self
            .firsts
            .iter()
            .flat_map(|first| first.to_le_bytes())
            .collect();
        self.file
            .write_all(&firsts)
            .map_err(write_error(&self.path))?;
        let numbers = [
            self.firsts.len() as u64,
            u64::from(self.n_passages),
            self.ranges_checksum.digest(),
            xxh3_64(&firsts),
            0,
        ];
        Header { numbers }
            .complete(self.file, &KIND)
            .map_err(write_error(&self.path))
    }
}

/// Reads `documents`, memory-mapped.
pub(crate) struct Documents {
    path: PathBuf,
    map: Mmap,
    n_documents: u32,
    n_passages: u32,
    checksums: [u64; 2],
}

impl Documents {
    /// Checks header and length; not the sections. None when the file is not there: nothing was split.
    pub fn open(path: &Path) -> Result<Option<Self>, StoreError> {
        if !path.exists() {
            return Ok(None);
        }
        let (map, Header { numbers }) = header::open(path, &KIND)?;
        let [n_documents, n_passages, ranges, firsts, _] = numbers;
        let expected = n_passages
            .saturating_mul(RANGE_BYTES as u64)
            .saturating_add(n_documents.saturating_mul(FIRST_BYTES as u64))
            .saturating_add(HEADER_BYTES as u64);
        if expected != map.len() as u64 {
            return Err(StoreError::Length {
                path: path.to_owned(),
                expected,
                found: map.len() as u64,
            });
        }
        let (Ok(n_documents), Ok(n_passages)) =
            (u32::try_from(n_documents), u32::try_from(n_passages))
        else {
            return Err(malformed(path, "header"));
        };
        Ok(Some(Self {
            path: path.to_owned(),
            map,
            n_documents,
            n_passages,
            checksums: [ranges, firsts],
        }))
    }

    /// Passages of all documents.
    pub fn n_passages(&self) -> u32 {
        self.n_passages
    }

    pub fn len(&self) -> u32 {
        self.n_documents
    }

    /// Position of the document that a passage belongs to.
    pub fn document_of(&self, ordinal: u32) -> Result<u32, StoreError> {
        if ordinal >= self.n_passages {
            return Err(StoreError::Ordinal {
                ordinal,
                n_passages: self.n_passages,
            });
        }
        let (mut low, mut high) = (0, self.n_documents); // the first document behind the passage is in low..=high
        while low < high {
            let middle = low + (high - low) / 2;
            if self.first(middle) <= ordinal {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
            .ok_or_else(|| malformed(&self.path, "document of ordinal 0"))
    }

    /// Ordinals of the passages of the document at a position.
    pub fn passages(&self, position: u32) -> Range<u32> {
        let end = match position + 1 < self.n_documents {
            true => self.first(position + 1),
            false => self.n_passages,
        };
        self.first(position)..end.min(self.n_passages)
    }

    pub fn part<'a>(&self, ordinal: u32, ids: &'a Ids) -> Result<DocumentPart<'a>, StoreError> {
        let first = self.first(self.document_of(ordinal)?);
        let named = parse_passage_id(ids.id(ordinal)?);
        let (document, number) = named
            .filter(|(_, number)| *number == ordinal - first)
            .ok_or_else(|| malformed(&self.path, &format!("document of ordinal {ordinal}")))?;
        let at = HEADER_BYTES + ordinal as usize * RANGE_BYTES;
        Ok(DocumentPart {
            document,
            number,
            characters: u32_at(&self.map, at)..u32_at(&self.map, at + 4),
        })
    }

    fn first(&self, position: u32) -> u32 {
        let firsts = HEADER_BYTES + self.n_passages as usize * RANGE_BYTES;
        u32_at(&self.map, firsts + position as usize * FIRST_BYTES)
    }

    /// Reads the whole file against its checksums, and compares it with the ids.
    pub fn verify(&self, ids: &Ids) -> Result<(), StoreError> {
        let firsts = HEADER_BYTES + self.n_passages as usize * RANGE_BYTES;
        let sections = [&self.map[HEADER_BYTES..firsts], &self.map[firsts..]];
        for ((section, checksum), part) in sections
            .into_iter()
            .zip(self.checksums)
            .zip(["ranges", "firsts"])
        {
            if xxh3_64(section) != checksum {
                return Err(StoreError::Checksum {
                    path: self.path.clone(),
                    part: part.into(),
                });
            }
        }
        let mut previous = None;
        for ordinal in 0..self.n_passages {
            let DocumentPart {
                document, number, ..
            } = self.part(ordinal, ids)?;
            if number > 0 && previous != Some(document) {
                return Err(malformed(
                    &self.path,
                    &format!("document of ordinal {ordinal}"),
                ));
            }
            previous = Some(document);
        }
        Ok(())
    }
}

fn malformed(path: &Path, part: &str) -> StoreError {
    StoreError::Malformed {
        path: path.to_owned(),
        part: part.to_owned(),
    }
}
