use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use corpus::Passage;
use memmap2::Mmap;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::write_error;
use crate::header::{self, HEADER_BYTES, Header, Kind, u32_at, u64_at};
use crate::{StoreError, WriteError};

// The file, all numbers little-endian:
//
//   header      n_passages, n_blocks, offset of the directory, xxh3 of the directory, 0
//   blocks      one zstd frame each: records of consecutive ordinals
//   directory   per block: offset (8), xxh3 of the frame (8), first ordinal (4), bytes when decompressed (4)
//
// A record is the lengths of title, text and metadata (4 bytes each) and then those, the metadata as a JSON object.

const KIND: Kind = Kind {
    name: "passages",
    magic: *b"TRAWLPSG",
    version: 1,
};
const ENTRY_BYTES: usize = 24;
const LENGTHS_BYTES: usize = 12;
/// A block is closed by the record that fills it, so it may be longer than asked for, and must fit 32 bits.
const MAX_RECORD_BYTES: usize = 1 << 31;
const ZSTD_LEVEL: i32 = 3;

/// Writes `passages`; keeps one block and 24 bytes for each finished block in memory.
pub(crate) struct PassagesWriter {
    path: PathBuf,
    file: BufWriter<File>,
    block_bytes: usize,
    block: Vec<u8>,
    block_first_ordinal: u32,
    n_passages: u32,
    offset: u64,
    directory: Vec<u8>,
}

impl PassagesWriter {
    pub fn create(path: &Path, block_bytes: usize) -> Result<Self, WriteError> {
        let mut writer = Self {
            path: path.to_owned(),
            file: BufWriter::new(File::create(path).map_err(write_error(path))?),
            block_bytes: block_bytes.min(MAX_RECORD_BYTES),
            block: Vec::new(),
            block_first_ordinal: 0,
            n_passages: 0,
            offset: HEADER_BYTES as u64,
            directory: Vec::new(),
        };
        writer.write(&[0; HEADER_BYTES])?;
        Ok(writer)
    }

    pub fn push(&mut self, passage: &Passage) -> Result<(), WriteError> {
        let metadata = serde_json::to_vec(&passage.metadata).expect("a JSON object serializes");
        let parts = [passage.title.as_bytes(), passage.text.as_bytes(), &metadata];
        let n_bytes = LENGTHS_BYTES + parts.iter().map(|part| part.len()).sum::<usize>();
        if n_bytes > MAX_RECORD_BYTES {
            let (id, max_bytes) = (passage.id.clone(), MAX_RECORD_BYTES);
            return Err(WriteError::TooLarge {
                id,
                n_bytes,
                max_bytes,
            });
        }
        for part in parts {
            self.block.extend((part.len() as u32).to_le_bytes());
        }
        for part in parts {
            self.block.extend(part);
        }
        self.n_passages = self.n_passages.checked_add(1).ok_or(WriteError::TooMany)?;
        if self.block.len() >= self.block_bytes {
            self.finish_block()
        } else {
            Ok(())
        }
    }

    pub fn finish(mut self) -> Result<(), WriteError> {
        if !self.block.is_empty() {
            self.finish_block()?;
        }
        let directory = std::mem::take(&mut self.directory);
        self.write(&directory)?;
        let n_blocks = (directory.len() / ENTRY_BYTES) as u64;
        let numbers = [
            u64::from(self.n_passages),
            n_blocks,
            self.offset,
            xxh3_64(&directory),
            0,
        ];
        Header { numbers }
            .complete(self.file, &KIND)
            .map_err(write_error(&self.path))
    }

    fn finish_block(&mut self) -> Result<(), WriteError> {
        let frame =
            zstd::bulk::compress(&self.block, ZSTD_LEVEL).map_err(write_error(&self.path))?;
        self.directory.extend(self.offset.to_le_bytes());
        self.directory.extend(xxh3_64(&frame).to_le_bytes());
        self.directory
            .extend(self.block_first_ordinal.to_le_bytes());
        self.directory
            .extend((self.block.len() as u32).to_le_bytes());
        self.write(&frame)?;
        self.offset += frame.len() as u64;
        self.block.clear();
        self.block_first_ordinal = self.n_passages;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.file.write_all(bytes).map_err(write_error(&self.path))
    }
}

/// Title, text and metadata of one passage.
pub(crate) struct Record {
    pub title: String,
    pub text: String,
    pub metadata: Map<String, Value>,
}

impl Record {
    pub fn into_passage(self, id: String) -> Passage {
        let Self {
            title,
            text,
            metadata,
        } = self;
        Passage {
            id,
            title,
            text,
            metadata,
        }
    }
}

/// Reads `passages`, memory-mapped. Every block is checked against its checksum whenever it is read.
pub(crate) struct Passages {
    path: PathBuf,
    map: Mmap,
    n_passages: u32,
    n_blocks: usize,
    directory_offset: usize,
}

/// Where a block lies and what it holds.
struct Entry {
    frame: std::ops::Range<usize>,
    checksum: u64,
    ordinals: std::ops::Range<u32>,
    n_bytes: usize,
}

impl Passages {
    /// Checks header, length and directory; not the blocks.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (map, Header { numbers }) = header::open(path, &KIND)?;
        let [n_passages, n_blocks, directory_offset, checksum, _] = numbers;
        let expected = n_blocks
            .saturating_mul(ENTRY_BYTES as u64)
            .saturating_add(directory_offset);
        if expected != map.len() as u64 {
            return Err(StoreError::Length {
                path: path.to_owned(),
                expected,
                found: map.len() as u64,
            });
        }
        // Both fit: they are at most the length of the map.
        let (n_blocks, directory_offset) = (n_blocks as usize, directory_offset as usize);
        if xxh3_64(&map[directory_offset..]) != checksum {
            return Err(StoreError::Checksum {
                path: path.to_owned(),
                part: "directory".into(),
            });
        }
        let malformed = || StoreError::Malformed {
            path: path.to_owned(),
            part: "directory".into(),
        };
        let n_passages = u32::try_from(n_passages).map_err(|_| malformed())?;
        let passages = Self {
            path: path.to_owned(),
            map,
            n_passages,
            n_blocks,
            directory_offset,
        };
        let (mut offset, mut ordinal) = (HEADER_BYTES, 0);
        for block in 0..n_blocks {
            let Entry {
                frame, ordinals, ..
            } = passages.entry(block);
            if frame.start != offset
                || ordinals.start != ordinal
                || frame.is_empty()
                || ordinals.is_empty()
            {
                return Err(malformed());
            }
            (offset, ordinal) = (frame.end, ordinals.end);
        }
        if offset != directory_offset || ordinal != n_passages {
            return Err(malformed());
        }
        Ok(passages)
    }

    pub fn len(&self) -> u32 {
        self.n_passages
    }

    /// Returns the records of the ordinals, in their order. Each block is read once.
    pub fn records(&self, ordinals: &[u32]) -> Result<Vec<Record>, StoreError> {
        let mut by_ordinal: Vec<usize> = (0..ordinals.len()).collect();
        by_ordinal.sort_unstable_by_key(|&i| ordinals[i]);
        let mut records: Vec<Option<Record>> = ordinals.iter().map(|_| None).collect();
        let mut block: Option<Block> = None;
        for i in by_ordinal {
            let ordinal = ordinals[i];
            let open = match block.take() {
                Some(open) if open.ordinals.contains(&ordinal) => open,
                _ => self.block(self.block_of(ordinal)?)?,
            };
            records[i] = Some(self.record(&open, ordinal)?);
            block = Some(open);
        }
        Ok(records
            .into_iter()
            .map(|record| record.expect("every position was visited"))
            .collect())
    }

    /// Reads every block.
    pub fn verify(&self) -> Result<(), StoreError> {
        (0..self.n_blocks).try_for_each(|index| self.block(index).map(drop))
    }

    /// Directory entry of a block; what it says is checked by [`Self::open`].
    fn entry(&self, block: usize) -> Entry {
        let directory = &self.map[self.directory_offset..];
        let at = block * ENTRY_BYTES;
        let next = (block + 1 < self.n_blocks).then_some(at + ENTRY_BYTES);
        let frame_end = next.map_or(self.directory_offset as u64, |next| u64_at(directory, next));
        let ordinal_end = next.map_or(self.n_passages, |next| u32_at(directory, next + 16));
        Entry {
            frame: u64_at(directory, at) as usize..frame_end as usize,
            checksum: u64_at(directory, at + 8),
            ordinals: u32_at(directory, at + 16)..ordinal_end,
            n_bytes: u32_at(directory, at + 20) as usize,
        }
    }

    fn block_of(&self, ordinal: u32) -> Result<usize, StoreError> {
        if ordinal >= self.n_passages {
            return Err(StoreError::Ordinal {
                ordinal,
                n_passages: self.n_passages,
            });
        }
        let (mut low, mut high) = (0, self.n_blocks); // the block is in low..high
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.entry(middle).ordinals.start <= ordinal {
                low = middle
            } else {
                high = middle
            }
        }
        Ok(low)
    }

    fn block(&self, index: usize) -> Result<Block, StoreError> {
        let part = || format!("block {index}");
        let malformed = || StoreError::Malformed {
            path: self.path.clone(),
            part: part(),
        };
        let Entry {
            frame,
            checksum,
            ordinals,
            n_bytes,
        } = self.entry(index);
        let frame = &self.map[frame];
        if xxh3_64(frame) != checksum {
            return Err(StoreError::Checksum {
                path: self.path.clone(),
                part: part(),
            });
        }
        // The stream grows with what is really there, so a false length costs nothing.
        let mut bytes = Vec::new();
        let decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(|_| malformed())?;
        decoder
            .take(n_bytes as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|_| malformed())?;
        if bytes.len() != n_bytes {
            return Err(malformed());
        }
        let mut starts = Vec::new();
        let mut start = 0;
        for _ in ordinals.clone() {
            starts.push(start);
            let lengths = bytes
                .get(start..start + LENGTHS_BYTES)
                .ok_or_else(malformed)?;
            start += LENGTHS_BYTES
                + (0..3)
                    .map(|i| u32_at(lengths, 4 * i) as usize)
                    .sum::<usize>();
        }
        if start != n_bytes {
            return Err(malformed());
        }
        Ok(Block {
            index,
            ordinals,
            bytes,
            starts,
        })
    }

    fn record(&self, block: &Block, ordinal: u32) -> Result<Record, StoreError> {
        let start = block.starts[(ordinal - block.ordinals.start) as usize];
        let (lengths, mut rest) = block.bytes[start..].split_at(LENGTHS_BYTES);
        let [title, text, metadata] = std::array::from_fn(|i| {
            let (part, after) = rest.split_at(u32_at(lengths, 4 * i) as usize);
            rest = after;
            part
        });
        let malformed = || StoreError::Malformed {
            path: self.path.clone(),
            part: format!("block {}", block.index),
        };
        let utf8 = |part: &[u8]| {
            std::str::from_utf8(part)
                .map(str::to_owned)
                .map_err(|_| malformed())
        };
        let metadata = serde_json::from_slice(metadata).map_err(|_| malformed())?;
        Ok(Record {
            title: utf8(title)?,
            text: utf8(text)?,
            metadata,
        })
    }
}

/// A decompressed block whose records are known to lie within it.
struct Block {
    index: usize,
    ordinals: std::ops::Range<u32>,
    bytes: Vec<u8>,
    starts: Vec<usize>,
}
