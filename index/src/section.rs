//! The container of vector files: named, versioned, checksummed sections.
//!
//! ```text
//! header (64 bytes)      magic, format version, where the table is, length of the file, checksums
//! section, section, …    each begins at a multiple of 64 bytes; what lies between is zero
//! table (64 bytes each)  name, version, flags, offset, length, checksum
//! ```
//!
//! All numbers are little-endian, all checksums XXH3-64. A reader names the sections it knows; a section it does not
//! know is skipped when it is optional and refused by name when it is required. So codes, norms and graphs can join
//! the rows later, and a release without them still reads the file, or says what it lacks.
//!
//! Everything in a file is checked before it is believed: no length in it makes this module allocate or read outside it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{OpenError, WriteError};

const MAGIC: [u8; 8] = *b"trawlvec";
const FORMAT_VERSION: u32 = 1;
/// Length of the header and of a table entry, and the alignment of sections: a cache line.
const UNIT: usize = 64;
const NAME_BYTES: usize = 32;
/// Bit 0 of an entry's flags: a reader must know the section.
const REQUIRED: u32 = 1;

/// How much of a file is checked when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Everything: reads the whole file once.
    Checksums,
    /// Header, table and length: reads two pages, for files that were verified before. A changed byte in a section
    /// then goes unnoticed and shows as a wrong score; it is never unsafe.
    Header,
}

/// Whether a reader that does not know a section may read the file all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It may: the section only helps.
    Optional,
    /// It may not: without the section the others mean something else.
    Required,
}

/// A section that a reader knows: its name and the newest version it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownSection {
    /// The name in the table.
    pub name: &'static str,
    /// The newest version read.
    pub version: u32,
}

/// Where a section is, as the table says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    version: u32,
    need: Need,
    offset: u64,
    length: u64,
    checksum: u64,
}

impl Entry {
    fn to_bytes(&self) -> [u8; UNIT] {
        let mut bytes = [0; UNIT];
        bytes[..self.name.len()].copy_from_slice(self.name.as_bytes());
        bytes[32..36].copy_from_slice(&self.version.to_le_bytes());
        let flags = if self.need == Need::Required {
            REQUIRED
        } else {
            0
        };
        bytes[36..40].copy_from_slice(&flags.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.offset.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.length.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    /// The entry, or the field that cannot be.
    fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let name = bytes[..NAME_BYTES]
            .split(|&byte| byte == 0)
            .next()
            .unwrap_or_default();
        if !is_name(name) || bytes[name.len()..NAME_BYTES].iter().any(|&byte| byte != 0) {
            return Err("name");
        }
        let need = match u32_at(bytes, 36) {
            0 => Need::Optional,
            REQUIRED => Need::Required,
            _ => return Err("flag"),
        };
        Ok(Self {
            name: String::from_utf8_lossy(name).into_owned(),
            version: u32_at(bytes, 32),
            need,
            offset: u64_at(bytes, 40),
            length: u64_at(bytes, 48),
            checksum: u64_at(bytes, 56),
        })
    }

    /// One past the last byte; the entry was checked to lie in the file.
    fn end(&self) -> u64 {
        self.offset + self.length
    }
}

fn is_name(name: &[u8]) -> bool {
    (1..=NAME_BYTES).contains(&name.len())
        && name
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_')
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn padded(length: u64) -> u64 {
    length.next_multiple_of(UNIT as u64)
}

/// The first 64 bytes: 8 of magic, format version, number of sections, offset of the table, length of the file,
/// checksum of the table, 16 zero bytes, checksum of the header before it.
fn header_bytes(n_sections: u32, table_offset: u64, table: &[u8]) -> [u8; UNIT] {
    let mut bytes = [0; UNIT];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&n_sections.to_le_bytes());
    bytes[16..24].copy_from_slice(&table_offset.to_le_bytes());
    bytes[24..32].copy_from_slice(&(table_offset + table.len() as u64).to_le_bytes());
    bytes[32..40].copy_from_slice(&xxh3_64(table).to_le_bytes());
    let checksum = xxh3_64(&bytes[..56]);
    bytes[56..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Writes a file of sections, front to back, in memory independent of its size.
///
/// The file has its name only once it is complete: until [`Self::finish`] it is `<name>.tmp`, which is removed when the
/// writer is dropped before, and overwritten by the next one if the process dies.
pub struct SectionWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    position: u64,
    entries: Vec<Entry>,
    /// The checksum of the section being written.
    hasher: Xxh3,
    /// A section was begun and not ended.
    is_open: bool,
    finished: bool,
}

impl SectionWriter {
    /// Starts the file that will be at `path`.
    ///
    /// # Errors
    /// [`WriteError::Write`] when the folder does not exist or cannot be written.
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|source| WriteError::Write {
            path: temporary.clone(),
            source,
        })?;
        let mut writer = Self {
            path: path.to_owned(),
            temporary,
            file: BufWriter::with_capacity(1 << 20, file),
            position: 0,
            entries: Vec::new(),
            hasher: Xxh3::new(),
            is_open: false,
            finished: false,
        };
        writer.put(&[0; UNIT])?; // the header is known at the end
        Ok(writer)
    }

    /// Ends the section before and begins the next.
    ///
    /// # Panics
    /// When the name is not 1 to 32 of `a-z`, `0-9` and `_`, or is in the file already.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn begin(&mut self, name: &str, version: u32, need: Need) -> Result<(), WriteError> {
        assert!(is_name(name.as_bytes()), "`{name}` is no section name");
        assert!(
            self.entries.iter().all(|entry| entry.name != name),
            "section `{name}` is in the file already"
        );
        self.end_section()?;
        let (name, offset) = (name.to_owned(), self.position);
        self.entries.push(Entry {
            name,
            version,
            need,
            offset,
            length: 0,
            checksum: 0,
        });
        self.is_open = true;
        Ok(())
    }

    /// Appends to the section begun last.
    ///
    /// # Panics
    /// When no section was begun.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        assert!(self.is_open, "a section is begun before it is written");
        self.hasher.update(bytes);
        self.put(bytes)
    }

    /// Ends the section begun last and maps it, so that what comes next can be computed from it.
    ///
    /// # Panics
    /// When no section was begun.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub(crate) fn map_section(&mut self) -> Result<MappedSection, WriteError> {
        self.end_section()?;
        let entry = self.entries.last().expect("a section was begun");
        let range = entry.offset as usize..entry.end() as usize;
        let map = self.file.flush().and_then(|()| {
            let file = File::open(&self.temporary)?;
            // SAFETY: what has been written of a section is not written again.
            unsafe { Mmap::map(&file) }
        });
        let map = map.map_err(|source| WriteError::Write {
            path: self.temporary.clone(),
            source,
        })?;
        Ok(MappedSection { map, range })
    }

    /// Completes the file, makes it durable and gives it its name; returns its length.
    ///
    /// # Errors
    /// [`WriteError::Write`]; a file that was at the path before is then still there.
    pub fn finish(mut self) -> Result<u64, WriteError> {
        self.end_section()?;
        let table: Vec<u8> = self.entries.iter().flat_map(Entry::to_bytes).collect();
        let header = header_bytes(self.entries.len() as u32, self.position, &table);
        self.put(&table)?;
        let n_bytes = self.position;
        self.publish(&header).map_err(|source| WriteError::Write {
            path: self.path.clone(),
            source,
        })?;
        self.finished = true;
        Ok(n_bytes)
    }

    fn publish(&mut self, header: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(header)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        // The name is durable once its folder is.
        let folder = self
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Completes the entry of the section begun last, and pads the file to where the next may begin.
    fn end_section(&mut self) -> Result<(), WriteError> {
        if let Some(entry) = self.entries.last_mut().filter(|_| self.is_open) {
            entry.length = self.position - entry.offset;
            entry.checksum = self.hasher.digest();
            self.hasher.reset();
        }
        self.is_open = false;
        let n_padding = padded(self.position) - self.position;
        self.put(&[0; UNIT][..n_padding as usize])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.position += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .map_err(|source| WriteError::Write {
                path: self.temporary.clone(),
                source,
            })
    }
}

/// A section that was written, of a file that is not complete.
pub(crate) struct MappedSection {
    map: Mmap,
    range: Range<usize>,
}

impl MappedSection {
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

impl Drop for SectionWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.temporary); // nobody reads it; the next writer would overwrite it
        }
    }
}

/// A file of sections, mapped into memory.
///
/// The file must not change while it is open; cutting it short under a reader ends the process (SIGBUS). Finished
/// files never change: a new one replaces the name, and readers of the old one keep it.
#[derive(Debug)]
pub struct SectionFile {
    path: PathBuf,
    map: Mmap,
    entries: Vec<Entry>,
}

impl SectionFile {
    /// Opens a file and checks it.
    ///
    /// # Errors
    /// [`OpenError`]: the file cannot be read, is damaged (see [`Verify`] for what is noticed), or has a required
    /// section that is not in `known` or is newer than there.
    pub fn open(path: &Path, known: &[KnownSection], verify: Verify) -> Result<Self, OpenError> {
        let read_error = |source| OpenError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read_error)?;
        // SAFETY: finished files are never written to (see the type's documentation), so the bytes do not change.
        let map = unsafe { Mmap::map(&file) }.map_err(read_error)?;
        let mut entries = read_table(path, &map)?;
        if verify == Verify::Checksums {
            verify_sections(path, &map, &entries)?;
        }
        let is_known = |entry: &Entry| {
            known
                .iter()
                .any(|known| known.name == entry.name && known.version >= entry.version)
        };
        if let Some(entry) = entries
            .iter()
            .find(|entry| entry.need == Need::Required && !is_known(entry))
        {
            let (section, version) = (entry.name.clone(), entry.version);
            return Err(OpenError::UnknownSection {
                path: path.to_owned(),
                section,
                version,
            });
        }
        entries.retain(is_known);
        Ok(Self {
            path: path.to_owned(),
            map,
            entries,
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes of the file. Their address is a multiple of the page size.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The checksum of the header, which covers the table and so the checksums of all sections.
    pub(crate) fn checksum(&self) -> u64 {
        u64_at(&self.map, 56)
    }

    /// Whether the file has a section of this name.
    pub(crate) fn has_section(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }

    /// Where the known section is in [`Self::bytes`], which is at a multiple of 64.
    ///
    /// # Errors
    /// [`OpenError::MissingSection`]; a reader that can do without turns it into `None`.
    pub fn section(&self, name: &str) -> Result<Range<usize>, OpenError> {
        match self.entries.iter().find(|entry| entry.name == name) {
            Some(entry) => Ok(entry.offset as usize..entry.end() as usize),
            None => Err(OpenError::MissingSection {
                path: self.path.clone(),
                section: name.to_owned(),
            }),
        }
    }
}

/// Reads header and table. Afterwards the entries lie in order, aligned, apart from each other and inside the file.
fn read_table(path: &Path, file: &[u8]) -> Result<Vec<Entry>, OpenError> {
    let path = || path.to_owned();
    let n_bytes = file.len() as u64;
    if file.len() < MAGIC.len() || file[..8] != MAGIC {
        return Err(OpenError::Magic { path: path() });
    }
    let Some(header) = file.get(..UNIT) else {
        return Err(OpenError::Length {
            path: path(),
            expected: UNIT as u64,
            found: n_bytes,
        });
    };
    let version = u32_at(header, 8);
    if version != FORMAT_VERSION {
        return Err(OpenError::FormatVersion {
            path: path(),
            found: version,
            supported: FORMAT_VERSION,
        });
    }
    if u64_at(header, 56) != xxh3_64(&header[..56]) {
        return Err(OpenError::HeaderChecksum { path: path() });
    }
    let length = u64_at(header, 24);
    if length != n_bytes {
        return Err(OpenError::Length {
            path: path(),
            expected: length,
            found: n_bytes,
        });
    }
    let (n_sections, table_offset) = (u32_at(header, 12), u64_at(header, 16));
    let table_bytes = u64::from(n_sections) * UNIT as u64;
    if table_offset < UNIT as u64 || table_offset.checked_add(table_bytes) != Some(n_bytes) {
        return Err(OpenError::Table {
            path: path(),
            n_sections,
            offset: table_offset,
        });
    }
    let table = &file[table_offset as usize..];
    if u64_at(header, 32) != xxh3_64(table) {
        return Err(OpenError::TableChecksum { path: path() });
    }

    let mut entries: Vec<Entry> = Vec::new();
    let mut end = UNIT as u64;
    for (i, bytes) in table.chunks_exact(UNIT).enumerate() {
        let bad = |field| OpenError::TableEntry {
            path: path(),
            entry: i,
            field,
        };
        let entry = Entry::from_bytes(bytes).map_err(bad)?;
        if entry.offset < end
            || entry.offset > table_offset
            || !entry.offset.is_multiple_of(UNIT as u64)
        {
            return Err(bad("offset"));
        }
        if entry.length > table_offset - entry.offset {
            return Err(bad("length"));
        }
        if entries.iter().any(|other| other.name == entry.name) {
            return Err(bad("name, which another entry has"));
        }
        end = entry.end();
        entries.push(entry);
    }
    Ok(entries)
}

/// Checks every byte that header and table do not cover: the sections by their checksums, the rest to be zero.
fn verify_sections(path: &Path, file: &[u8], entries: &[Entry]) -> Result<(), OpenError> {
    let mut end = UNIT;
    for entry in entries {
        verify_padding(path, file, end, entry.offset as usize)?;
        end = entry.end() as usize;
        if xxh3_64(&file[entry.offset as usize..end]) != entry.checksum {
            return Err(OpenError::SectionChecksum {
                path: path.to_owned(),
                section: entry.name.clone(),
            });
        }
    }
    verify_padding(path, file, end, file.len() - entries.len() * UNIT)
}

fn verify_padding(path: &Path, file: &[u8], start: usize, end: usize) -> Result<(), OpenError> {
    match file[start..end].iter().position(|&byte| byte != 0) {
        None => Ok(()),
        Some(at) => Err(OpenError::Padding {
            path: path.to_owned(),
            offset: (start + at) as u64,
        }),
    }
}
