//! Objects below one prefix, for code that waits.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig, UpdateVersion, WriteMultipart,
};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::connection::Connection;
use crate::location::Kind;
use crate::{Location, ObjectsError, Settings};

/// Bytes that are sent or asked for at once.
const PIECE: usize = 8 << 20;
/// So many pieces are on their way at once.
const PIECES: usize = 4;
/// The most pieces that S3 puts together.
const MAX_PIECES: u64 = 10_000;
/// How often a change of an object that others change, too, is tried.
pub(crate) const MAX_TRIES: usize = 20;

/// The objects below one prefix of a bucket, or the files below a folder. A clone is the same.
///
/// Calls wait for the storage on threads of its own; they are not for asynchronous code.
#[derive(Clone, Debug)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    location: Location,
    threads: Arc<Threads>,
}

/// An object that was read.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What it is compared by when it is to be replaced.
    pub version: Version,
}

/// Which of an object's contents was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub(crate) Option<String>);

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key below the prefix.
    pub key: String,
    /// Its length.
    pub n_bytes: u64,
    /// When it was written, by the clock of the storage.
    pub modified: SystemTime,
}

/// What a transfer tells and obeys.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Is told how many bytes of how many are done.
    pub on_bytes: &'a (dyn Fn(u64, u64) + Sync),
    /// Ends the transfer when it becomes true.
    pub cancelled: &'a AtomicBool,
}

/// The bytes of several files, counted together.
pub(crate) struct Count<'a> {
    watch: Watch<'a>,
    done: u64,
    total: u64,
}

impl<'a> Count<'a> {
    pub fn new(watch: Watch<'a>, total: u64) -> Self {
        Self {
            watch,
            done: 0,
            total,
        }
    }

    pub fn add(&mut self, n_bytes: u64) -> Result<(), ObjectsError> {
        self.done += n_bytes;
        (self.watch.on_bytes)(self.done, self.total);
        if self.watch.cancelled.load(Ordering::Relaxed) {
            return Err(ObjectsError::Interrupted {
                done: self.done,
                total: self.total,
            });
        }
        Ok(())
    }
}

/// Threads that end without being waited for, so that they may be dropped anywhere.
#[derive(Debug)]
struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Objects {
    /// Opens a place; nothing is asked of it yet.
    ///
    /// # Errors
    /// [`ObjectsError::Setting`] when a variable cannot be used, [`ObjectsError::Io`] when a local folder cannot be made.
    pub fn open(location: &Location, settings: &Settings) -> Result<Self, ObjectsError> {
        let store: Arc<dyn ObjectStore> = match &location.kind {
            Kind::Folder(path) => {
                std::fs::create_dir_all(path).map_err(|source| ObjectsError::Io {
                    path: path.clone(),
                    source,
                })?;
                let store = LocalFileSystem::new_with_prefix(path);
                Arc::new(store.map_err(ObjectsError::Setting)?.with_fsync(true))
            }
            Kind::S3 { bucket } => Arc::new(s3(bucket, settings)?),
        };
        Self::new(store, location.clone())
    }

    /// Objects in memory, for tests.
    ///
    /// # Errors
    /// [`ObjectsError::Threads`].
    pub fn in_memory() -> Result<Self, ObjectsError> {
        let store = Arc::new(object_store::memory::InMemory::new());
        Self::new(store, Location::parse("s3://memory/collection")?)
    }

    fn new(store: Arc<dyn ObjectStore>, location: Location) -> Result<Self, ObjectsError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("objects")
            .enable_all()
            .build()
            .map_err(ObjectsError::Threads)?;
        Ok(Self {
            store,
            location,
            threads: Arc::new(Threads(Some(runtime))),
        })
    }

    /// The place, as it was named.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// How an object is named to people.
    pub fn url(&self, key: &str) -> String {
        match key {
            "" => self.location.to_string(),
            key => format!("{}/{key}", self.location),
        }
    }

    /// Reads an object of at most so many bytes; none when there is none.
    ///
    /// # Errors
    /// [`ObjectsError::Access`], [`ObjectsError::TooLarge`].
    pub fn read(&self, key: &str, max_bytes: u64) -> Result<Option<Found>, ObjectsError> {
        self.wait(async {
            let got = match self.store.get(&self.key(key)).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                got => got.map_err(|source| self.failed(key, source))?,
            };
            if got.meta.size > max_bytes {
                return Err(ObjectsError::TooLarge {
                    url: self.url(key),
                    n_bytes: got.meta.size,
                    max_bytes,
                });
            }
            let version = Version(got.meta.e_tag.clone());
            let bytes = got.bytes().await;
            let bytes = bytes.map_err(|source| self.failed(key, source))?.to_vec();
            Ok(Some(Found { bytes, version }))
        })
    }

    /// Creates an object. Of any number that try at once, one succeeds; the others get what it wrote. Who finds its own bytes has
    /// succeeded, whoever wrote them: an answer may be lost and its request repeated.
    ///
    /// # Errors
    /// [`ObjectsError::Access`].
    pub fn create(&self, key: &str, bytes: &[u8]) -> Result<Option<Found>, ObjectsError> {
        for _ in 0..MAX_TRIES {
            let put = self.put(key, bytes, PutMode::Create);
            match put {
                Err(object_store::Error::AlreadyExists { .. }) => {}
                put => {
                    return put
                        .map(|()| None)
                        .map_err(|source| self.failed(key, source));
                }
            }
            // It may be gone again, or not be there yet.
            if let Some(found) = self.read(key, u64::MAX)? {
                return Ok(Some(found).filter(|found| found.bytes != bytes));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(self.contended(key))
    }

    /// Replaces an object if it is still the one that was read, and returns whether it was.
    ///
    /// # Errors
    /// [`ObjectsError::Access`].
    pub fn replace(
        &self,
        key: &str,
        bytes: &[u8],
        version: &Version,
    ) -> Result<bool, ObjectsError> {
        let _lock; // Files cannot be compared and replaced at once.
        let mode = match &self.location.kind {
            Kind::Folder(folder) => {
                _lock = lock(folder)?;
                if self
                    .read(key, u64::MAX)?
                    .map(|found| found.version)
                    .as_ref()
                    != Some(version)
                {
                    return Ok(false);
                }
                PutMode::Overwrite
            }
            Kind::S3 { .. } => PutMode::Update(UpdateVersion {
                e_tag: version.0.clone(),
                version: None,
            }),
        };
        match self.put(key, bytes, mode) {
            Err(object_store::Error::Precondition { .. }) => {
                let found = self.read(key, u64::MAX)?;
                Ok(found.is_some_and(|found| found.bytes == bytes))
            }
            put => put
                .map(|()| true)
                .map_err(|source| self.failed(key, source)),
        }
    }

    /// Removes an object, if it is there.
    ///
    /// # Errors
    /// [`ObjectsError::Access`].
    pub fn remove(&self, key: &str) -> Result<(), ObjectsError> {
        match self.wait(self.store.delete(&self.key(key))) {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            removed => removed.map_err(|source| self.failed(key, source)),
        }
    }

    /// Removes everything below a folder.
    ///
    /// # Errors
    /// [`ObjectsError::Access`].
    pub fn remove_folder(&self, folder: &str) -> Result<(), ObjectsError> {
        for entry in self.list(folder)? {
            self.remove(&entry.key)?;
        }
        Ok(())
    }

    /// The length of an object, if it is there.
    ///
    /// # Errors
    /// [`ObjectsError::Access`].
    pub fn length(&self, key: &str) -> Result<Option<u64>, ObjectsError> {
        match self.wait(self.store.head(&self.key(key))) {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            found => Ok(Some(found.map_err(|source| self.failed(key, source))?.size)),
        }
    }

    /// All objects below a folder, sorted by key.
    ///
    /// # Errors
    /// [`ObjectsError::Access`].
    pub fn list(&self, folder: &str) -> Result<Vec<Entry>, ObjectsError> {
        let listed = self.store.list(Some(&self.key(folder)));
        let found: Vec<_> = self
            .wait(listed.try_collect())
            .map_err(|source| self.failed(folder, source))?;
        let mut entries: Vec<Entry> = found
            .into_iter()
            .filter_map(|meta| {
                Some(Entry {
                    key: self.relative(&meta.location)?,
                    n_bytes: meta.size,
                    modified: meta.last_modified.into(),
                })
            })
            .collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    /// The names of the folders in a folder, sorted.
    ///
    /// # Errors
    /// [`ObjectsError::Access`].
    pub fn folders(&self, folder: &str) -> Result<Vec<String>, ObjectsError> {
        let key = self.key(folder);
        let listed = self.wait(self.store.list_with_delimiter(Some(&key)));
        let listed = listed.map_err(|source| self.failed(folder, source))?;
        let names = listed.common_prefixes.iter();
        let mut names: Vec<_> = names
            .filter_map(|path| path.filename().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Sends a file, in pieces when it is long. The object is there as a whole or not at all.
    ///
    /// # Errors
    /// [`ObjectsError::Record`] when the file does not have this sha256, in hexadecimal digits; nothing is there then.
    pub(crate) fn send(
        &self,
        key: &str,
        path: &Path,
        sha256: &str,
        count: &mut Count<'_>,
    ) -> Result<(), ObjectsError> {
        let failed = |source| ObjectsError::Io {
            path: path.to_owned(),
            source,
        };
        let other = || ObjectsError::Record {
            url: path.display().to_string(),
            reason: "is not what its checksum says",
        };
        let mut file = File::open(path).map_err(failed)?;
        let n_bytes = file.metadata().map_err(failed)?.len();
        if n_bytes <= PIECE as u64 {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(failed)?;
            if collection::sha256_hex(&bytes) != sha256 {
                return Err(other());
            }
            let put = self.put(key, &bytes, PutMode::Overwrite);
            put.map_err(|source| self.failed(key, source))?;
            return count.add(n_bytes);
        }
        let piece = PIECE.max(n_bytes.div_ceil(MAX_PIECES) as usize);
        self.wait(async {
            let begun = self.store.put_multipart(&self.key(key)).await;
            let begun = begun.map_err(|source| self.failed(key, source))?;
            let mut upload = WriteMultipart::new_with_chunk_size(begun, piece);
            let (mut buffer, mut hasher) = (vec![0; 1 << 20], Sha256::new());
            let sent = async {
                loop {
                    let n = file.read(&mut buffer).map_err(failed)?;
                    if n == 0 {
                        break;
                    }
                    let ready = upload.wait_for_capacity(PIECES).await;
                    ready.map_err(|source| self.failed(key, source))?;
                    hasher.update(&buffer[..n]);
                    upload.write(&buffer[..n]);
                    count.add(n as u64)?;
                }
                match hex(&hasher.finalize()) == sha256 {
                    true => Ok(()),
                    false => Err(other()),
                }
            };
            if let Err(error) = sent.await {
                let _ = upload.abort().await; // The storage removes what stays behind, if it is told to.
                return Err(error);
            }
            let finished = upload.finish().await;
            finished
                .map(|_| ())
                .map_err(|source| self.failed(key, source))
        })
    }

    /// Copies an object of `n_bytes` into a file, which may hold its beginning already. Nothing is compared but lengths.
    ///
    /// # Errors
    /// [`ObjectsError::Missing`], [`ObjectsError::Access`].
    pub(crate) fn fetch(
        &self,
        key: &str,
        path: &Path,
        n_bytes: u64,
        count: &mut Count<'_>,
    ) -> Result<(), ObjectsError> {
        let failed = |source| ObjectsError::Io {
            path: path.to_owned(),
            source,
        };
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(failed)?;
        let mut there = file.metadata().map_err(failed)?.len();
        if there > n_bytes {
            file.set_len(0).map_err(failed)?;
            there = 0;
        }
        file.seek(SeekFrom::Start(there)).map_err(failed)?;
        count.add(there)?;
        let (store, at) = (&self.store, &self.key(key));
        let ranges = (there..n_bytes)
            .step_by(PIECE)
            .map(|start| start..n_bytes.min(start + PIECE as u64));
        self.wait(async {
            let mut pieces = stream::iter(ranges)
                .map(|range| async move {
                    let length = range.end - range.start;
                    Ok::<_, object_store::Error>((length, store.get_range(at, range).await?))
                })
                .buffered(PIECES);
            while let Some(piece) = pieces.next().await {
                let (length, bytes) = piece.map_err(|source| match source {
                    object_store::Error::NotFound { .. } => {
                        ObjectsError::Missing { url: self.url(key) }
                    }
                    source => self.failed(key, source),
                })?;
                if bytes.len() as u64 != length {
                    return Err(ObjectsError::Record {
                        url: self.url(key),
                        reason: "is too short",
                    });
                }
                file.write_all(&bytes).map_err(failed)?;
                count.add(length)?;
            }
            Ok(())
        })
    }

    fn put(&self, key: &str, bytes: &[u8], mode: PutMode) -> object_store::Result<()> {
        let (key, options) = (self.key(key), PutOptions::from(mode));
        let put = self.store.put_opts(&key, bytes.to_vec().into(), options);
        self.wait(put).map(|_| ())
    }

    fn wait<F: Future>(&self, future: F) -> F::Output {
        let threads = self.threads.0.as_ref();
        threads
            .expect("the threads run until this is dropped")
            .block_on(future)
    }

    fn key(&self, key: &str) -> Key {
        let parts = self
            .location
            .prefix
            .parts()
            .map(|part| part.as_ref().to_owned());
        Key::from_iter(
            parts
                .chain(key.split('/').map(str::to_owned))
                .filter(|part| !part.is_empty()),
        )
    }

    fn relative(&self, key: &Key) -> Option<String> {
        let rest: Vec<_> = key.prefix_match(&self.location.prefix)?.collect();
        let rest: Vec<_> = rest.iter().map(|part| part.as_ref()).collect();
        Some(rest.join("/"))
    }

    fn failed(&self, key: &str, source: object_store::Error) -> ObjectsError {
        ObjectsError::Access {
            url: self.url(key),
            source,
        }
    }

    pub(crate) fn contended(&self, key: &str) -> ObjectsError {
        ObjectsError::Contended {
            url: self.url(key),
            n_tries: MAX_TRIES,
        }
    }
}

fn s3(bucket: &str, settings: &Settings) -> Result<object_store::aws::AmazonS3, ObjectsError> {
    let mut builder = AmazonS3Builder::new()
        .with_http_connector(Connection::new(settings.authorities.as_deref())?)
        .with_retry(RetryConfig {
            max_retries: 8,
            retry_timeout: Duration::from_secs(90),
            ..RetryConfig::default()
        });
    for (name, value) in &settings.variables {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
        // An endpoint without TLS is one that was asked for.
        if name.starts_with("AWS_ENDPOINT_URL") && value.starts_with("http://") {
            builder = builder.with_allow_http(true);
        }
    }
    let built = builder.with_bucket_name(bucket).build();
    built.map_err(ObjectsError::Setting)
}

/// Waits for the right to replace objects that are files, until the result is dropped.
fn lock(folder: &Path) -> Result<File, ObjectsError> {
    let path: PathBuf = folder.join(".replace.lock");
    let mut options = File::options();
    let opened = options.write(true).create(true).truncate(false).open(&path);
    let locked = opened.and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| ObjectsError::Io { path, source })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
