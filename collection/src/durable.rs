//! Writes that survive a crash: old content or new, never a mix.

use std::ffi::OsString;
use std::fs::{self, File};
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
