use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::error::write_error;
use crate::header::{self, HEADER_BYTES, Header, Kind, u32_at, u64_at};
use crate::{StoreError, WriteError};

// The file, all numbers little-endian:
//
//   header   n_passages, bytes of all ids, xxh3 of each of the three sections
//   ids      the bytes of the ids, one after the other, in ordinal order
//   ends     per ordinal: where its id ends in the section before (8)
//   lookup   per passage, ascending: xxh3 of the id (8), ordinal (4)

const KIND: Kind = Kind {
    name: "ids",
    magic: *b"TRAWLIDS",
    version: 1,
};
const END_BYTES: usize = 8;
const LOOKUP_BYTES: usize = 12;

type Hash = fn(&[u8]) -> u64;

/// Writes `ids`; keeps 16 bytes for each passage in memory.
pub(crate) struct IdsWriter {
    path: PathBuf,
    file: BufWriter<File>,
    hash: Hash,
    ids_checksum: Xxh3Default,
    entries: Vec<Entry>,
}

struct Entry {
    hash: u64,
    ordinal: u32,
    n_bytes: u32,
}

impl IdsWriter {
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        Self::create_with(path, xxh3_64)
    }

    fn create_with(path: &Path, hash: Hash) -> Result<Self, WriteError> {
        let mut file = BufWriter::new(File::create(path).map_err(write_error(path))?);
        file.write_all(&[0; HEADER_BYTES])
            .map_err(write_error(path))?;
        let (ids_checksum, entries) = (Xxh3Default::new(), Vec::new());
        Ok(Self {
            path: path.to_owned(),
            file,
            hash,
            ids_checksum,
            entries,
        })
    }

    pub fn push(&mut self, id: &str) -> Result<(), WriteError> {
        let ordinal = u32::try_from(self.entries.len()).map_err(|_| WriteError::TooMany)?;
        let n_bytes = u32::try_from(id.len()).map_err(|_| WriteError::TooLarge {
            id: id.to_owned(),
            n_bytes: id.len(),
            max_bytes: u32::MAX as usize,
        })?;
        self.file
            .write_all(id.as_bytes())
            .map_err(write_error(&self.path))?;
        self.ids_checksum.update(id.as_bytes());
        self.entries.push(Entry {
            hash: (self.hash)(id.as_bytes()),
            ordinal,
            n_bytes,
        });
        Ok(())
    }

    pub fn finish(mut self) -> Result<(), WriteError> {
        let mut end = 0;
        let ends = self.entries.iter().map(|entry| {
            end += u64::from(entry.n_bytes);
            end.to_le_bytes()
        });
        let ends_checksum = write_section(&mut self.file, ends).map_err(write_error(&self.path))?;

        self.entries
            .sort_unstable_by_key(|entry| (entry.hash, entry.ordinal));
        let lookup = self.entries.iter().map(|entry| {
            let mut bytes = [0; LOOKUP_BYTES];
            bytes[..8].copy_from_slice(&entry.hash.to_le_bytes());
            bytes[8..].copy_from_slice(&entry.ordinal.to_le_bytes());
            bytes
        });
        let lookup_checksum =
            write_section(&mut self.file, lookup).map_err(write_error(&self.path))?;

        let ids_checksum = self.ids_checksum.digest();
        let numbers = [
            self.entries.len() as u64,
            end,
            ids_checksum,
            ends_checksum,
            lookup_checksum,
        ];
        Header { numbers }
            .complete(self.file, &KIND)
            .map_err(write_error(&self.path))
    }
}

/// Writes the items one after the other and returns the checksum of them all.
fn write_section<const N: usize>(
    file: &mut impl Write,
    items: impl Iterator<Item = [u8; N]>,
) -> std::io::Result<u64> {
    let mut checksum = Xxh3Default::new();
    for item in items {
        checksum.update(&item);
        file.write_all(&item)?;
    }
    Ok(checksum.digest())
}

/// Reads `ids`, memory-mapped.
pub(crate) struct Ids {
    path: PathBuf,
    map: Mmap,
    hash: Hash,
    n_passages: u32,
    ends_offset: usize,
    lookup_offset: usize,
    checksums: [u64; 3],
}

impl Ids {
    /// Checks header and length; not the sections.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, xxh3_64)
    }

    fn open_with(path: &Path, hash: Hash) -> Result<Self, StoreError> {
        let (map, Header { numbers }) = header::open(path, &KIND)?;
        let [n_passages, id_bytes, checksums @ ..] = numbers;
        let expected = n_passages
            .saturating_mul((END_BYTES + LOOKUP_BYTES) as u64)
            .saturating_add(id_bytes)
            .saturating_add(HEADER_BYTES as u64);
        if expected != map.len() as u64 {
            return Err(StoreError::Length {
                path: path.to_owned(),
                expected,
                found: map.len() as u64,
            });
        }
        let n_passages = u32::try_from(n_passages).map_err(|_| StoreError::Malformed {
            path: path.to_owned(),
            part: "header".into(),
        })?;
        let ends_offset = HEADER_BYTES + id_bytes as usize; // fits: it is at most the length of the map
        let lookup_offset = ends_offset + n_passages as usize * END_BYTES;
        Ok(Self {
            path: path.to_owned(),
            map,
            hash,
            n_passages,
            ends_offset,
            lookup_offset,
            checksums,
        })
    }

    pub fn len(&self) -> u32 {
        self.n_passages
    }

    pub fn id(&self, ordinal: u32) -> Result<&str, StoreError> {
        if ordinal >= self.n_passages {
            return Err(StoreError::Ordinal {
                ordinal,
                n_passages: self.n_passages,
            });
        }
        let ids = &self.map[HEADER_BYTES..self.ends_offset];
        let end = |ordinal: u32| {
            u64_at(&self.map, self.ends_offset + ordinal as usize * END_BYTES) as usize
        };
        let start = if ordinal == 0 { 0 } else { end(ordinal - 1) };
        let id = ids
            .get(start..end(ordinal))
            .and_then(|id| std::str::from_utf8(id).ok());
        let part = || format!("id of ordinal {ordinal}");
        id.ok_or_else(|| StoreError::Malformed {
            path: self.path.clone(),
            part: part(),
        })
    }

    /// Returns the ordinal of an id; the smallest one if the id was pushed twice.
    pub fn ordinal_of(&self, id: &str) -> Result<Option<u32>, StoreError> {
        let hash = (self.hash)(id.as_bytes());
        let at = |i: u32| self.lookup_offset + i as usize * LOOKUP_BYTES;
        let (mut low, mut high) = (0, self.n_passages); // the first entry with the hash is in low..=high
        while low < high {
            let middle = low + (high - low) / 2;
            if u64_at(&self.map, at(middle)) < hash {
                low = middle + 1
            } else {
                high = middle
            }
        }
        // Different ids may share a hash, so the id itself decides.
        for i in low..self.n_passages {
            if u64_at(&self.map, at(i)) != hash {
                break;
            }
            let ordinal = u32_at(&self.map, at(i) + 8);
            if self.id(ordinal)? == id {
                return Ok(Some(ordinal));
            }
        }
        Ok(None)
    }

    /// Reads the whole file against its checksums.
    pub fn verify(&self) -> Result<(), StoreError> {
        let bounds = [
            HEADER_BYTES,
            self.ends_offset,
            self.lookup_offset,
            self.map.len(),
        ];
        for (i, part) in ["ids", "ends", "lookup"].into_iter().enumerate() {
            if xxh3_64(&self.map[bounds[i]..bounds[i + 1]]) != self.checksums[i] {
                return Err(StoreError::Checksum {
                    path: self.path.clone(),
                    part: part.into(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, hash: Hash, ids: &[&str]) {
        let mut writer = IdsWriter::create_with(path, hash).unwrap();
        ids.iter().for_each(|id| writer.push(id).unwrap());
        writer.finish().unwrap();
    }

    #[test]
    fn ids_that_share_a_hash_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids");
        let hash: Hash = |id| u64::from(id[0]);
        write(&path, hash, &["b2", "a1", "b1", "a2", "é"]);
        let ids = Ids::open_with(&path, hash).unwrap();
        for (ordinal, id) in (0..).zip(["b2", "a1", "b1", "a2", "é"]) {
            assert_eq!(ids.id(ordinal).unwrap(), id);
            assert_eq!(ids.ordinal_of(id).unwrap(), Some(ordinal));
        }
        for absent in ["a", "a3", "b", "c", "0"] {
            assert_eq!(ids.ordinal_of(absent).unwrap(), None);
        }
    }
}
