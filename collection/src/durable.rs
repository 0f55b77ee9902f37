//! Writes that survive a crash: old content or new, never a mix.

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::CollectionError;

/// Replaces the file `path` by `bytes`: temporary name, fsync, rename, fsync of the folder. The caller holds the writer lock.
///
/// # Errors
/// [`CollectionError::DiskFull`], [`CollectionError::NotWritable`] or [`CollectionError::Io`]; the file then has its old content.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), CollectionError> {
    let temporary = temporary_name(path);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(path.parent().unwrap_or(Path::new("/")))
    });
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary); // Best effort: the next write replaces what stays behind.
        CollectionError::write(path, error)
    })
}

/// Creates the file `path` with `bytes`, whole and durable, unless there is one; returns whether it did. Any number of processes
/// may try at once, on one machine or on several that share the folder: one of them succeeds.
///
/// # Errors
/// As [`write_atomic`].
pub fn create_atomic(path: &Path, bytes: &[u8]) -> Result<bool, CollectionError> {
    let mut name = OsString::from(path);
    let own = RandomState::new().hash_one(std::process::id());
    name.push(format!(".{own:016x}.tmp"));
    let temporary = PathBuf::from(name);
    let written = File::create_new(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            linked => linked.map(|()| true),
        }
    });
    let _ = fs::remove_file(&temporary); // What stays behind is removed with its folder.
    let created = written.map_err(|error| CollectionError::write(path, error))?;
    let synced = sync_folder(path.parent().unwrap_or(Path::new("/")));
    synced.map_err(|error| CollectionError::write(path, error))?;
    Ok(created)
}

/// Makes the entries of a folder durable: files created in it, renamed into it, removed from it.
///
/// # Errors
/// Whatever the file system says.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)?.sync_all()
}

/// The name under which the next content of `path` is written.
fn temporary_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".tmp");
    name.into()
}
