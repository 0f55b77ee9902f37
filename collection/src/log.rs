//! `live/`: the write log of a collection. What its records mean is for others to know.
//!
//! ```text
//! live/00000000000000000001.log   a segment, named after the position of its first record
//! live/writer.lock                locked by the one writer of the log
//! ```
//!
//! # Why no acknowledged record is lost, and no damage is taken for a crash
//!
//! Records that wait at the same time are one *frame*: one write, one fsync, and only then are they acknowledged. So all but
//! the last frame of a log are on disk, and a frame that a crash interrupted is the last one. [`Collection::log_writer`] cuts
//! it off when the file ends before the frame does, or where all that it has of some page is zero, which is what file systems
//! leave of a write that was not finished. Anything else that does not match its checksum is damage, and an error that names
//! file and byte.
//!
//! Readers need no lock, so they may have read a whole frame before it is on disk. One that does not get there is not
//! acknowledged, and not taken back either: what came in its place would have its positions, and whoever read it would never
//! see that. The log takes no more records then, and has the frame when it is opened again.
//!
//! With [`Durability::Os`] frames are acknowledged when the kernel has them: a killed process loses nothing, a machine that
//! stops loses what the kernel had not yet written. What a manifest or an alias is to know of the log is made durable before.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::durable::sync_folder;
use crate::lock::{Lock, acquire};
use crate::{Collection, CollectionError, Writer};

// A segment, all numbers little-endian:
//
//   header   magic (8), version (4), 0 (4), position of the first record (8), salt (8), checksum of these (8)
//   frames   bytes of the body (4), number of records (4), position of the first record (8), checksum of the body (8),
//            checksum of these (8), then the body: per record its kind (1), its length (4) and its bytes; a last byte that
//            is not zero
//
// Checksums are xxh3 seeded with the salt, which is drawn for each segment: bytes that a user sends are never taken for a frame.

const MAGIC: &[u8; 8] = b"TRAWLWAL";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 40;
const FRAME_BYTES: usize = 32;
const RECORD_BYTES: usize = 5;
/// Closes a body, so that no page of a frame is zero for what it says.
const END: u8 = 0xa5;
/// What file systems write or leave out as a whole.
const PAGE_BYTES: usize = 4096;

/// Bytes of the records that are written at once, at most.
pub const MAX_FRAME_BYTES: usize = 256 << 20;

/// When a record counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// When it is on disk: it survives a machine that stops.
    #[default]
    Fsync,
    /// When the operating system has it: it survives a process that is killed, not a machine that stops.
    Os,
}

/// How a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// When a record counts as written.
    pub durability: Durability,
    /// Bytes after which a segment is followed by the next.
    pub segment_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Fsync,
            segment_bytes: 64 << 20,
        }
    }
}

/// A record that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// What it is, for whoever reads it.
    pub kind: u8,
    /// What it says.
    pub payload: Vec<u8>,
}

/// A record of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its position: 1 for the first that a collection ever had, and so on without gaps.
    pub position: u64,
    /// As in [`NewRecord`].
    pub kind: u8,
    /// As in [`NewRecord`].
    pub payload: &'a [u8],
}

/// The one writer of a collection's log, until it is dropped or its process ends.
#[derive(Debug)]
pub struct LogWriter {
    collection: Collection,
    config: LogConfig,
    segment: OpenSegment,
    /// How a frame becomes as durable as was asked for.
    sync: fn(&File) -> io::Result<()>,
    /// A write failed and could not be taken back so far.
    broken: bool,
    buffer: Vec<u8>,
    _lock: Lock,
}

#[derive(Debug)]
struct OpenSegment {
    path: PathBuf,
    file: File,
    salt: u64,
    n_bytes: u64,
    next_position: u64,
}

impl Collection {
    /// Becomes the one writer of the collection's log, beside whoever writes generations; `command` tells others what for. What
    /// a crash left unfinished is cut off.
    ///
    /// # Errors
    /// [`CollectionError::Locked`] names the writer; [`CollectionError::Log`] what is damaged.
    pub fn log_writer(
        &self,
        command: &str,
        config: LogConfig,
    ) -> Result<LogWriter, CollectionError> {
        let folder = self.log_folder();
        fs::create_dir_all(&folder).map_err(|source| CollectionError::write(&folder, source))?;
        sync_folder(self.root()).map_err(|source| CollectionError::write(&folder, source))?;
        let lock = acquire(&folder.join("writer.lock"), self.root(), command)?;
        let known = self.known_position()?;
        let mut last = None;
        self.scan(None, &mut |_| (), &mut |segment| last = Some(segment))?;
        let segment = match last {
            Some(Scanned {
                path,
                n_bytes: 0,
                first_position,
                ..
            }) => {
                fs::remove_file(&path).map_err(|source| CollectionError::write(&path, source))?;
                OpenSegment::create(&folder, first_position)?
            }
            Some(found) => found.reopen()?,
            None => OpenSegment::create(&folder, known + 1)?,
        };
        self.check_end(segment.next_position - 1, known)?;
        Ok(LogWriter {
            collection: self.clone(),
            config,
            segment,
            sync: match config.durability {
                Durability::Fsync => File::sync_data,
                Durability::Os => |_| Ok(()),
            },
            broken: false,
            buffer: Vec::new(),
            _lock: lock,
        })
    }

    /// Shows the records after a position to `see`, in order, and returns the position of the last one in the log. Needs no
    /// lock: a frame that is being written is not there yet.
    ///
    /// # Errors
    /// [`CollectionError::LogGap`] when records after the position are no longer there, [`CollectionError::Log`] where the
    /// log is damaged.
    pub fn read_log(
        &self,
        after: u64,
        see: &mut dyn FnMut(Record<'_>),
    ) -> Result<u64, CollectionError> {
        self.scan(Some(after), see, &mut |_| ())
    }

    /// Checks that the log holds every record after a position that was written to it; a collection without a log has none.
    ///
    /// # Errors
    /// [`CollectionError::LogGap`].
    pub(crate) fn check_log_after(&self, after: u64) -> Result<(), CollectionError> {
        match self.segments()?.first() {
            Some(&(first, _)) => self.check_gap(first, after),
            None => Ok(()),
        }
    }

    /// Makes durable what is in the log, whatever its writer promised: a manifest or an alias that knows a position must not
    /// outlive it. Only the last segment can have what is not.
    pub(crate) fn sync_log(&self) -> Result<(), CollectionError> {
        match self.segments()?.pop() {
            Some((_, path)) => File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(|source| CollectionError::write(&path, source)),
            None => Ok(()),
        }
    }

    /// The positions of the records in the log; from the end on when there is none.
    ///
    /// # Errors
    /// As [`Self::read_log`].
    pub fn log_positions(&self) -> Result<Range<u64>, CollectionError> {
        let (mut first, mut last) = (None, 0);
        self.scan(None, &mut |_| (), &mut |segment| {
            first.get_or_insert(segment.first_position);
            last = segment.next_position;
        })?;
        match first {
            Some(first) => Ok(first..last),
            None => {
                let next = self.known_position()? + 1;
                Ok(next..next)
            }
        }
    }

    /// As [`Self::log_positions`], of a log that has to reach every position that a generation or an alias knows.
    ///
    /// # Errors
    /// As there, and [`CollectionError::LogEnd`] when it ends before.
    pub fn check_log_positions(&self) -> Result<Range<u64>, CollectionError> {
        let known = self.known_position()?; // First: what becomes known meanwhile is in the log by then.
        let positions = self.log_positions()?;
        self.check_end(positions.end - 1, known)?;
        Ok(positions)
    }

    /// What changes whenever the log does, to be compared: the name of its last segment and its length.
    #[must_use]
    pub fn log_stamp(&self) -> Option<(PathBuf, u64)> {
        let (_, path) = self.segments().ok()?.pop()?;
        let n_bytes = fs::metadata(&path).ok()?.len();
        Some((path, n_bytes))
    }

    /// The greatest position that a generation or an alias knows.
    fn known_position(&self) -> Result<u64, CollectionError> {
        let generations = self.generations()?.into_iter();
        let manifests = generations.filter_map(|id| self.generation(&id).ok());
        let contained = manifests.map(|generation| generation.manifest.log_position);
        let dropped = self.dropped()?.into_values();
        Ok(contained.chain(dropped).max().unwrap_or(0))
    }

    fn log_folder(&self) -> PathBuf {
        self.root().join("live")
    }

    /// The first position and file of every segment, in order.
    fn segments(&self) -> Result<Vec<(u64, PathBuf)>, CollectionError> {
        let folder = self.log_folder();
        let failed = |source| CollectionError::read(&folder, source);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut segments = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
            if let Some(first) = number.and_then(|number| number.parse().ok()) {
                segments.push((first, entry.path()));
            }
        }
        segments.sort();
        Ok(segments)
    }

    /// The records after a position are all there when the log begins with the next one, or before it.
    fn check_gap(&self, first: u64, after: u64) -> Result<(), CollectionError> {
        match after.saturating_add(1) < first {
            false => Ok(()),
            true => Err(CollectionError::LogGap {
                path: self.log_folder(),
                first,
                after,
            }),
        }
    }

    /// A log that ends before what is known of it has lost records.
    fn check_end(&self, end: u64, known: u64) -> Result<(), CollectionError> {
        match end < known {
            false => Ok(()),
            true => Err(CollectionError::LogEnd {
                path: self.log_folder(),
                end,
                known,
            }),
        }
    }

    /// Reads the segments that hold records after a position, and the last one in any case. Without a position it reads all
    /// that is there, wherever the log begins, and shows it.
    fn scan(
        &self,
        after: Option<u64>,
        see: &mut dyn FnMut(Record<'_>),
        on_segment: &mut dyn FnMut(Scanned),
    ) -> Result<u64, CollectionError> {
        let mut segments = self.segments()?;
        let Some(&(first, _)) = segments.first() else {
            return self.known_position();
        };
        if let Some(after) = after {
            self.check_gap(first, after)?;
            let needed = segments.partition_point(|(first, _)| *first <= after.saturating_add(1));
            segments.drain(..needed.saturating_sub(1));
        }
        let n_segments = segments.len();
        let mut next = segments[0].0;
        for (i, (first_position, path)) in segments.into_iter().enumerate() {
            if first_position != next {
                return Err(damaged(
                    &path,
                    0,
                    "does not begin where the segment before it ends",
                ));
            }
            let bytes = fs::read(&path).map_err(|source| CollectionError::read(&path, source))?;
            let scanned = Segment {
                path: &path,
                first_position,
                is_last: i + 1 == n_segments,
            }
            .scan(&bytes, &mut |record| {
                if after.is_none_or(|after| record.position > after) {
                    see(record);
                }
            })?;
            next = scanned.next_position;
            on_segment(scanned);
        }
        Ok(next - 1)
    }
}

/// What was found in a segment.
struct Scanned {
    path: PathBuf,
    first_position: u64,
    salt: u64,
    /// Length of the intact part; 0 where not even the header is.
    n_bytes: u64,
    next_position: u64,
}

impl Scanned {
    /// Opens the segment for appending, behind its intact part.
    fn reopen(self) -> Result<OpenSegment, CollectionError> {
        let Self {
            path,
            salt,
            n_bytes,
            next_position,
            ..
        } = self;
        let failed = |source| CollectionError::write(&path, source);
        let mut file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() != n_bytes {
            file.set_len(n_bytes).map_err(failed)?;
        }
        // Frames that only the operating system had must not be followed by ones that are on disk.
        file.sync_all().map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(OpenSegment {
            path,
            file,
            salt,
            n_bytes,
            next_position,
        })
    }
}

/// A segment to be read.
struct Segment<'a> {
    path: &'a Path,
    first_position: u64,
    is_last: bool,
}

impl Segment<'_> {
    fn scan(
        &self,
        bytes: &[u8],
        see: &mut dyn FnMut(Record<'_>),
    ) -> Result<Scanned, CollectionError> {
        let mut scanned = Scanned {
            path: self.path.to_path_buf(),
            first_position: self.first_position,
            salt: 0,
            n_bytes: 0,
            next_position: self.first_position,
        };
        let Some(header) = bytes.get(..HEADER_BYTES).filter(|_| !is_zero(bytes)) else {
            return self.torn(0, "has no header").map(|()| scanned);
        };
        if header[..8] != MAGIC[..] {
            return Err(damaged(self.path, 0, "is no write log"));
        }
        if u32_at(header, 8) != VERSION {
            return Err(damaged(self.path, 8, "is of another version"));
        }
        let salt = u64_at(header, 24);
        if xxh3_64_with_seed(&header[..32], salt) != u64_at(header, 32)
            || u64_at(header, 16) != self.first_position
        {
            return Err(damaged(self.path, 0, "has a header that was changed"));
        }
        scanned.salt = salt;
        let mut at = HEADER_BYTES;
        while at < bytes.len() {
            match read_frame(bytes, at, salt, scanned.next_position, see) {
                Ok((n_bytes, n_records)) => {
                    at += n_bytes;
                    scanned.next_position += n_records;
                }
                Err(Fault::Unfinished(reason)) => {
                    self.torn(at, reason)?;
                    break;
                }
                Err(Fault::Damaged(reason)) => return Err(damaged(self.path, at, reason)),
            }
        }
        scanned.n_bytes = at as u64;
        Ok(scanned)
    }

    /// Only the last frame of the last segment may be unfinished.
    fn torn(&self, at: usize, reason: &'static str) -> Result<(), CollectionError> {
        match self.is_last {
            true => Ok(()),
            false => Err(damaged(self.path, at, reason)),
        }
    }
}

enum Fault {
    /// As a crash leaves it.
    Unfinished(&'static str),
    /// As no crash leaves it.
    Damaged(&'static str),
}

/// Shows the records of the frame at `at`; returns its length and their number.
fn read_frame(
    bytes: &[u8],
    at: usize,
    salt: u64,
    position: u64,
    see: &mut dyn FnMut(Record<'_>),
) -> Result<(usize, u64), Fault> {
    let frame = &bytes[at..];
    let Some(header) = frame.get(..FRAME_BYTES) else {
        return Err(Fault::Unfinished("ends within the head of a frame"));
    };
    if !is_head(header, salt) {
        let lost = lacks_page(header, at) && !has_head(&frame[1..], salt);
        return Err(match lost {
            true => Fault::Unfinished("has a frame that was not written"),
            false => Fault::Damaged("the head of a frame does not match its checksum"),
        });
    }
    let (n_body, n_records) = (u32_at(header, 0) as usize, u64::from(u32_at(header, 4)));
    if u64_at(header, 8) != position {
        return Err(Fault::Damaged("a frame is not the next one"));
    }
    let end = FRAME_BYTES + n_body;
    let Some(body) = frame.get(FRAME_BYTES..end) else {
        return Err(Fault::Unfinished("ends within a frame"));
    };
    if xxh3_64_with_seed(body, salt) != u64_at(header, 16) {
        return Err(
            match frame.len() == end && lacks_page(body, at + FRAME_BYTES) {
                true => Fault::Unfinished("has a frame that was written in part"),
                false => Fault::Damaged("a frame does not match its checksum"),
            },
        );
    }
    let mut rest = body;
    for position in position..position + n_records {
        let record = rest
            .split_at_checked(RECORD_BYTES)
            .and_then(|(head, tail)| {
                let (payload, tail) = tail.split_at_checked(u32_at(head, 1) as usize)?;
                rest = tail;
                Some(Record {
                    position,
                    kind: head[0],
                    payload,
                })
            });
        see(record.ok_or(Fault::Damaged("a frame is shorter than its records"))?);
    }
    Ok((FRAME_BYTES + n_body, n_records))
}

impl OpenSegment {
    fn create(folder: &Path, first_position: u64) -> Result<Self, CollectionError> {
        let path = folder.join(format!("{first_position:020}.log"));
        let salt = RandomState::new().build_hasher().finish();
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend([0; 4]);
        header.extend(first_position.to_le_bytes());
        header.extend(salt.to_le_bytes());
        header.extend(xxh3_64_with_seed(&header, salt).to_le_bytes());
        let created = File::create_new(&path).and_then(|mut file| {
            file.write_all(&header)?;
            file.sync_all()?;
            sync_folder(folder)?;
            Ok(file)
        });
        let file = created.map_err(|source| {
            let _ = fs::remove_file(&path); // Best effort: a segment without records is dropped when the log is opened.
            CollectionError::write(&path, source)
        })?;
        Ok(Self {
            path,
            file,
            salt,
            n_bytes: HEADER_BYTES as u64,
            next_position: first_position,
        })
    }

    /// Cuts off what is behind the last frame.
    fn take_back(&mut self) -> io::Result<()> {
        self.file.set_len(self.n_bytes)?;
        self.file.seek(SeekFrom::Start(self.n_bytes))?;
        self.file.sync_all()
    }
}

impl LogWriter {
    /// The collection whose log it is.
    #[must_use]
    pub fn collection(&self) -> &Collection {
        &self.collection
    }

    /// How the log is written.
    #[must_use]
    pub fn config(&self) -> LogConfig {
        self.config
    }

    /// Position of the last record; 0 when there never was one.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.segment.next_position - 1
    }

    /// Whether a write failed that could not be undone: the log takes no records until it can be, or is opened again.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Writes records, all or none of them, and returns their positions when they are as durable as was asked for.
    ///
    /// # Errors
    /// Whatever the file system says, and [`CollectionError::LogFrame`] for more than [`MAX_FRAME_BYTES`]: nothing was written,
    /// unless the frame was whole and only its sync failed. [`CollectionError::LogBroken`] after a failure that could not be
    /// undone, for as long as it cannot. Where a whole frame is left of it, others may have read that: the log has to be opened
    /// again.
    pub fn append(&mut self, records: &[NewRecord]) -> Result<Range<u64>, CollectionError> {
        let first = self.segment.next_position;
        if records.is_empty() {
            return Ok(first..first);
        }
        if self.broken {
            self.mend()?;
        }
        let n_body: usize = records
            .iter()
            .map(|record| RECORD_BYTES + record.payload.len())
            .sum::<usize>()
            + 1;
        if n_body > MAX_FRAME_BYTES {
            return Err(CollectionError::LogFrame {
                n_bytes: n_body,
                max_bytes: MAX_FRAME_BYTES,
            });
        }
        if self.segment.n_bytes >= self.config.segment_bytes {
            self.rotate()?;
        }
        self.encode(records, n_body);
        let segment = &mut self.segment;
        if let Err(source) = segment.file.write_all(&self.buffer) {
            self.broken = segment.take_back().is_err();
            return Err(CollectionError::write(&segment.path, source));
        }
        if let Err(source) = (self.sync)(&segment.file) {
            self.broken = true;
            // A sync that failed may have given up the pages: the one of whoever opens the log again is to write them.
            let _ = segment.file.write_all_at(&self.buffer, segment.n_bytes);
            return Err(CollectionError::write(&segment.path, source));
        }
        segment.n_bytes += self.buffer.len() as u64;
        segment.next_position += records.len() as u64;
        Ok(first..segment.next_position)
    }

    /// Takes a write that failed back after all; the buffer still has its frame.
    fn mend(&mut self) -> Result<(), CollectionError> {
        let segment = &mut self.segment;
        let whole = segment.n_bytes + self.buffer.len() as u64;
        let is_part = segment.file.metadata().is_ok_and(|of| of.len() < whole);
        if !is_part || segment.take_back().is_err() {
            let path = segment.path.clone();
            return Err(CollectionError::LogBroken { path });
        }
        self.broken = false;
        Ok(())
    }

    fn encode(&mut self, records: &[NewRecord], n_body: usize) {
        let OpenSegment {
            salt,
            next_position,
            ..
        } = self.segment;
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.resize(FRAME_BYTES, 0);
        for record in records {
            buffer.push(record.kind);
            buffer.extend((record.payload.len() as u32).to_le_bytes());
            buffer.extend(&record.payload);
        }
        buffer.push(END);
        let body = xxh3_64_with_seed(&buffer[FRAME_BYTES..], salt);
        buffer[..4].copy_from_slice(&(n_body as u32).to_le_bytes());
        buffer[4..8].copy_from_slice(&(records.len() as u32).to_le_bytes());
        buffer[8..16].copy_from_slice(&next_position.to_le_bytes());
        buffer[16..24].copy_from_slice(&body.to_le_bytes());
        let head = xxh3_64_with_seed(&buffer[..24], salt);
        buffer[24..32].copy_from_slice(&head.to_le_bytes());
    }

    /// Begins the next segment.
    fn rotate(&mut self) -> Result<(), CollectionError> {
        let before = &self.segment;
        let failed = |source| CollectionError::write(&before.path, source);
        before.file.sync_all().map_err(failed)?; // before any record behind it is
        let next = OpenSegment::create(&self.collection.log_folder(), before.next_position)?;
        self.segment = next;
        Ok(())
    }

    /// Removes the segments whose records every generation contains, and returns the number of bytes. Of `writer` it needs
    /// that no generation comes meanwhile.
    ///
    /// # Errors
    /// When generations cannot be read, or files not removed; what is still needed is never removed.
    /// [`CollectionError::LogBroken`] as of [`Self::append`]: a generation may have what is left of a write that failed.
    pub fn truncate(&mut self, writer: &Writer) -> Result<u64, CollectionError> {
        if self.broken {
            self.mend()?;
        }
        let collection = writer.collection();
        let mut contained = self.position();
        for id in collection.generations()? {
            match collection.generation(&id) {
                Ok(generation) => {
                    contained = contained.min(collection.replayed_after(&generation)?)
                }
                Err(error) if error.is_corrupt() => {}
                Err(error) => return Err(error),
            }
        }
        if contained == self.position() && self.segment.n_bytes > HEADER_BYTES as u64 {
            self.rotate()?;
        }
        let segments = collection.segments()?;
        let mut n_bytes = 0;
        for pair in segments.windows(2) {
            let (path, next) = (&pair[0].1, pair[1].0);
            if next > contained + 1 {
                break;
            }
            let removed = fs::metadata(path).and_then(|metadata| {
                fs::remove_file(path)?;
                Ok(metadata.len())
            });
            n_bytes += removed.map_err(|source| CollectionError::write(path, source))?;
        }
        let folder = collection.log_folder();
        sync_folder(&folder).map_err(|source| CollectionError::write(&folder, source))?;
        Ok(n_bytes)
    }
}

fn damaged(path: &Path, at: usize, reason: &'static str) -> CollectionError {
    CollectionError::Log {
        path: path.to_path_buf(),
        offset: at as u64,
        reason,
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0)
}

fn is_head(header: &[u8], salt: u64) -> bool {
    xxh3_64_with_seed(&header[..24], salt) == u64_at(header, 24)
}

/// Whether a frame begins anywhere in the bytes.
fn has_head(bytes: &[u8], salt: u64) -> bool {
    bytes
        .windows(FRAME_BYTES)
        .any(|header| is_head(header, salt))
}

/// Whether the bytes, which are at `at` of their file, are all zero in some page.
fn lacks_page(bytes: &[u8], at: usize) -> bool {
    let n_first = (PAGE_BYTES - at % PAGE_BYTES).min(bytes.len());
    let (first, rest) = bytes.split_at(n_first);
    is_zero(first) || rest.chunks(PAGE_BYTES).any(is_zero)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests;
