use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_64;

use crate::StoreError;

/// Bytes of a [`Header`] in the file.
pub(crate) const HEADER_BYTES: usize = 64;

/// First 64 bytes of `ids` and `passages`, little-endian:
/// magic (8), version (4), zero (4), five numbers (40), xxh3 of the 56 bytes before (8).
///
/// It is written last, over zeros, so that an unfinished file is none.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub numbers: [u64; 5],
}

/// Name, magic bytes and version of a file format.
pub(crate) struct Kind {
    pub name: &'static str,
    pub magic: [u8; 8],
    pub version: u32,
}

impl Header {
    /// Puts the header over the zeros at the start of a file, once everything else is on disk.
    pub fn complete(&self, file: BufWriter<File>, kind: &Kind) -> io::Result<()> {
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&self.encode(kind))?;
        file.sync_all()
    }

    fn encode(&self, kind: &Kind) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&kind.magic);
        bytes[8..12].copy_from_slice(&kind.version.to_le_bytes());
        for (slot, number) in bytes[16..56].chunks_exact_mut(8).zip(self.numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        let checksum = xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], kind: &Kind, path: &Path) -> Result<Self, StoreError> {
        if bytes.len() < HEADER_BYTES {
            let (expected, found) = (HEADER_BYTES as u64, bytes.len() as u64);
            return Err(StoreError::Length {
                path: path.to_owned(),
                expected,
                found,
            });
        }
        if bytes[..8] != kind.magic {
            return Err(StoreError::Kind {
                path: path.to_owned(),
                kind: kind.name,
            });
        }
        if xxh3_64(&bytes[..56]) != u64_at(bytes, 56) {
            return Err(StoreError::Checksum {
                path: path.to_owned(),
                part: "header".into(),
            });
        }
        let found = u32_at(bytes, 8);
        if found != kind.version {
            let supported = kind.version;
            return Err(StoreError::Version {
                path: path.to_owned(),
                found,
                supported,
            });
        }
        Ok(Self {
            numbers: std::array::from_fn(|i| u64_at(bytes, 16 + 8 * i)),
        })
    }
}

/// Maps a file of the given kind and reads its header.
pub(crate) fn open(path: &Path, kind: &Kind) -> Result<(Mmap, Header), StoreError> {
    let map = File::open(path).and_then(|file| map(&file));
    let map = map.map_err(|source| StoreError::Read {
        path: path.to_owned(),
        source,
    })?;
    let header = Header::decode(&map, kind, path)?;
    Ok((map, header))
}

/// Maps a finished file of a store.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the bytes must not change while they are mapped. Files of a store never change after they were
    // finished; the writer makes new ones and takes the old names away.
    unsafe { Mmap::map(file) }
}

/// Little-endian number at a byte offset that the caller has checked.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(
        bytes[offset..offset + 8]
            .try_into()
            .expect("a slice of eight bytes"),
    )
}

/// Little-endian number at a byte offset that the caller has checked.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(
        bytes[offset..offset + 4]
            .try_into()
            .expect("a slice of four bytes"),
    )
}
