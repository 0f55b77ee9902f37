//! The tokens of a corpus in a file, so that they are made once and need not fit in memory.

mod fingerprint;
mod record;

use std::fs::{self, File, TryLockError};
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;

use index::{KnownSection, Need, OpenError, SectionFile, SectionWriter, Verify};
use serde::{Deserialize, Serialize};

pub use fingerprint::Fingerprint;
use record::IdWidth;
pub use record::{Cached, Ids, RecordReader, RecordWriter};

use super::{DataError, TextReport};
use crate::batches::Texts;

/// Texts of a corpus as token ids, in a file that is mapped into memory.
///
/// The file is one of `index`'s sections:
///
/// ```text
/// texts    one behind the other, as [`Cached::write`] writes them; ids of two bytes where the vocabulary allows it
/// ends     where each text ends in `texts`, 8 bytes a text
/// about    JSON: what it was made of, bytes of an id, what was left out
/// ```
///
/// It has its name only once it is complete, and is read only if its checksums hold and it was made of the same files, the
/// same tokenizer and the same settings.
#[derive(Debug)]
pub struct TokenCache<T> {
    file: SectionFile,
    texts: Range<usize>,
    ends: Range<usize>,
    about: About,
    of: PhantomData<fn() -> T>,
}

/// What a cache was before it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheState {
    /// It was there, and is used again.
    Found,
    /// There was none.
    New,
    /// There was one that could not be used, and it is made anew; the reason.
    Renewed(String),
}

/// Told that another process makes caches in the folder, for whose end is waited.
pub type OnWait<'a> = dyn FnMut() + 'a;

#[derive(Debug, Serialize, Deserialize)]
struct About {
    kind: String,
    bytes_of_an_id: usize,
    made_of: Fingerprint,
    left_out: TextReport,
}

const TEXTS: &str = "texts";
const ENDS: &str = "ends";
const ABOUT: &str = "about";
const VERSION: u32 = 1;

impl<T: Cached> TokenCache<T> {
    /// Opens the cache of a folder if it is what `make` would write, which reads and tokenises the texts and gives each to its
    /// argument; else makes it. Reads the whole file once to check it. While texts are written, memory grows by 8 bytes a text.
    ///
    /// Of several processes one makes the cache, and the others wait for it.
    ///
    /// # Errors
    /// As `make`; [`DataError::Cache`], [`DataError::Write`]; [`DataError::Empty`] when there is no text.
    pub fn open_or_make(
        folder: &Path,
        fingerprint: &Fingerprint,
        n_vocabulary: usize,
        on_wait: &mut OnWait<'_>,
        make: impl FnOnce(&mut dyn FnMut(T) -> Result<(), DataError>) -> Result<TextReport, DataError>,
    ) -> Result<(Self, CacheState), DataError> {
        let write = |source| DataError::Write {
            path: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(write)?;
        let lock = File::open(folder).map_err(write)?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            on_wait();
            // A file system without locks has none to wait for.
            let _ = lock.lock();
        }
        let path = folder.join(fingerprint.file_name(T::KIND));
        let state = match path.exists() {
            true => match Self::open_if(&path, fingerprint)? {
                Ok(cache) => return Ok((cache, CacheState::Found)),
                Err(reason) => CacheState::Renewed(reason),
            },
            false => CacheState::New,
        };
        Self::write(&path, fingerprint, n_vocabulary, make)?;
        let cache = Self::open(&path, Verify::Header)?;
        Ok((cache, state))
    }

    /// Opens a file, or says why it cannot be used.
    fn open_if(path: &Path, fingerprint: &Fingerprint) -> Result<Result<Self, String>, DataError> {
        let cache = match Self::open(path, Verify::Checksums) {
            Err(DataError::Cache(error @ OpenError::Read { .. })) => return Err(error.into()),
            Err(error) => return Ok(Err(error.to_string())),
            Ok(cache) => cache,
        };
        let made_of = &cache.about.made_of;
        Ok(match fingerprint.changed(made_of) {
            Some(changed) => Err(format!("`{changed}` has changed")),
            None if made_of != fingerprint => {
                Err(format!("`{}` was made otherwise", path.display()))
            }
            None => Ok(cache),
        })
    }

    fn open(path: &Path, verify: Verify) -> Result<Self, DataError> {
        let known = [TEXTS, ENDS, ABOUT].map(|name| KnownSection {
            name,
            version: VERSION,
        });
        let file = SectionFile::open(path, &known, verify)?;
        let [texts, ends, about] = known.map(|known| file.section(known.name));
        let (texts, ends) = (texts?, ends?);
        let damaged = |what: &str| DataError::Folder {
            path: path.to_owned(),
            reason: format!("section `{what}` is not what it should be"),
        };
        let about: About =
            serde_json::from_slice(&file.bytes()[about?]).map_err(|_| damaged(ABOUT))?;
        if about.kind != T::KIND || ![2, 4].contains(&about.bytes_of_an_id) {
            return Err(damaged(ABOUT));
        }
        let n_texts = ends.len() / 8;
        if !ends.len().is_multiple_of(8) || n_texts == 0 || u32::try_from(n_texts).is_err() {
            return Err(damaged(ENDS));
        }
        Ok(Self {
            file,
            texts,
            ends,
            about,
            of: PhantomData,
        })
    }

    fn write(
        path: &Path,
        fingerprint: &Fingerprint,
        n_vocabulary: usize,
        make: impl FnOnce(&mut dyn FnMut(T) -> Result<(), DataError>) -> Result<TextReport, DataError>,
    ) -> Result<(), DataError> {
        let mut file = SectionWriter::create(path)?;
        file.begin(TEXTS, VERSION, Need::Required)?;
        let mut record = RecordWriter {
            bytes: Vec::new(),
            width: IdWidth::of(n_vocabulary),
        };
        let (mut end, mut ends) = (0, Vec::new());
        let left_out = make(&mut |text: T| {
            record.bytes.clear();
            text.write(&mut record);
            end += record.bytes.len() as u64;
            ends.push(end);
            match u32::try_from(ends.len()) {
                Ok(_) => Ok(file.write(&record.bytes)?),
                Err(_) => Err(DataError::TooManyPassages),
            }
        })?;
        if ends.is_empty() {
            return Err(fingerprint.is_empty());
        }
        file.begin(ENDS, VERSION, Need::Required)?;
        for ends in ends.chunks(1 << 12) {
            let bytes: Vec<u8> = ends.iter().flat_map(|end| end.to_le_bytes()).collect();
            file.write(&bytes)?;
        }
        file.begin(ABOUT, VERSION, Need::Required)?;
        let about = About {
            kind: T::KIND.to_owned(),
            bytes_of_an_id: record.width.n_bytes(),
            made_of: fingerprint.clone(),
            left_out,
        };
        file.write(&serde_json::to_vec(&about).expect("our records are JSON"))?;
        file.finish()?;
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What was left out.
    pub fn left_out(&self) -> &TextReport {
        &self.about.left_out
    }

    /// All texts in the order of the files.
    pub fn iter(&self) -> impl Iterator<Item = Result<T, DataError>> {
        (0..self.len() as u32).map(|place| self.text(place))
    }

    /// Where a text ends in its section.
    fn end(&self, place: usize) -> u64 {
        let at = self.ends.start + 8 * place;
        let bytes = self.file.bytes()[at..at + 8].try_into();
        u64::from_le_bytes(bytes.expect("eight bytes"))
    }

    /// The text at a place, unless its bytes are damaged.
    fn read(&self, place: usize) -> Option<T> {
        let start = match place {
            0 => 0,
            _ => self.end(place - 1),
        };
        let (start, end) = (
            usize::try_from(start).ok()?,
            usize::try_from(self.end(place)).ok()?,
        );
        let mut record = RecordReader {
            bytes: self.file.bytes()[self.texts.clone()].get(start..end)?,
            width: match self.about.bytes_of_an_id {
                2 => IdWidth::Two,
                _ => IdWidth::Four,
            },
        };
        T::read(&mut record).filter(|_| record.bytes.is_empty())
    }
}

impl<T: Cached> Texts for TokenCache<T> {
    type Text = T;

    fn len(&self) -> usize {
        self.ends.len() / 8
    }

    fn text(&self, place: u32) -> Result<T, DataError> {
        self.read(place as usize).ok_or_else(|| DataError::Folder {
            path: self.path().to_owned(),
            reason: format!("text {place} is damaged"),
        })
    }

    fn digest(&self) -> u64 {
        self.about.made_of.digest(T::KIND)
    }
}
